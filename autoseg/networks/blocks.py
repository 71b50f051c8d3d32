"""Convolution, normalization and activation: what U-Net stages are made of."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

LEAK = 0.01
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED: dict[int, Any] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


class ConvolutionBlock(nn.Module):
    """Convolution, instance norm, leaky ReLU.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride : sequence of int, length d
        The length says whether the block is 2D or 3D.
    """

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int]) -> None:
        super().__init__()
        padding = tuple((edge - 1) // 2 for edge in kernel)
        self.convolution = CONVOLUTION[len(kernel)](inputs, outputs, tuple(kernel), tuple(stride), padding)
        # One group a channel is instance norm; torch's group norm is the faster code for the same numbers on CPU.
        self.norm = nn.GroupNorm(outputs, outputs, eps=1e-5)
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, outputs, *edges / stride)."""
        y: Tensor = self.activation(self.norm(self.convolution(x)))
        return y

    def join(self, a: Tensor, b: Tensor) -> Tensor:
        """The block applied to `a` and `b` joined along the channels.

        Notes
        -----
        A convolution of joined inputs is the sum of two convolutions, each with its part of the weight. On CPUs the
        sum is several times faster: the joined tensor is never made, and oneDNN's bf16 weight gradient falls off a
        cliff where input channels outnumber output channels on large maps.
        """
        if a.device.type != "cpu":
            return self.forward(torch.cat((a, b), dim=1))
        weight, bias = self.convolution.weight, self.convolution.bias
        stride, padding = self.convolution.stride, self.convolution.padding
        convolve = functional.conv2d if a.ndim == 4 else functional.conv3d
        n = a.shape[1]
        joined = convolve(a, weight[:, :n], bias, stride, padding) + convolve(b, weight[:, n:], None, stride, padding)
        y: Tensor = self.activation(self.norm(joined))
        return y


class Stage(nn.Module):
    """`count` blocks, the first of which takes the stride."""

    def __init__(self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], count: int) -> None:
        super().__init__()
        self.first = ConvolutionBlock(inputs, outputs, kernel, stride)
        self.rest = nn.Sequential(
            *(ConvolutionBlock(outputs, outputs, kernel, (1,) * len(kernel)) for _ in range(count - 1))
        )

    def forward(self, x: Tensor, skip: Tensor | None = None) -> Tensor:
        """The stage on `x`, joined with `skip` along the channels where one is given."""
        y: Tensor = self.rest(self.first(x) if skip is None else self.first.join(x, skip))
        return y


class Head(nn.Module):
    """A 1x1 convolution to the classes, as a matrix product.

    Notes
    -----
    oneDNN's bf16 backward of a 1x1 convolution with three or so outputs takes longer than that of a 3x3x3 one with
    64; the same numbers as a matrix product take next to nothing.
    """

    def __init__(self, inputs: int, classes: int, dimensions: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(classes, inputs, *(1,) * dimensions))
        self.bias = nn.Parameter(torch.zeros(classes))
        nn.init.kaiming_normal_(self.weight, a=LEAK)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, classes, *edges)."""
        flat = torch.matmul(self.weight.flatten(1), x.flatten(2)) + self.bias[:, None]
        return flat.reshape(x.shape[0], -1, *x.shape[2:])
