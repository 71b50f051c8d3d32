"""Convolutions as torch's, but for maps of fewer slices than the kernel has."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

CONVOLVE: dict[int, Any] = {2: functional.conv2d, 3: functional.conv3d}


def by_torchs_layers(x: Tensor) -> bool:
    """Whether layers are to be torch's own: off CPUs, and in an exported graph, whose runtime has its own fast ways."""
    return x.device.type != "cpu" or torch.compiler.is_exporting()


def convolve(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Sequence[int] | None = None,
    padding: Sequence[int] | None = None,
) -> Tensor:
    """Convolution of a map of 2 or 3 axes.

    Parameters
    ----------
    x : Tensor, shape (B, I, *edges)
    weight : Tensor, shape (O, I, *kernel)
    bias : Tensor, shape (O,), optional
    stride, padding : sequence of int, length d, optional
        None: 1 and 0 along each axis.

    Returns
    -------
    Tensor, shape (B, O, *edges after it)

    Notes
    -----
    Where a volume has fewer slices than the kernel, and more than one comes out, oneDNN's weight gradient in bfloat16
    reads slices from beyond the volume (v3.12, on CPUs with AVX-512): whatever lies in memory there becomes part of
    it. Zeros that lie there in fact are the same as a padding, and there are then as many slices as it expects.
    """
    d = weight.ndim - 2
    strides, margins = tuple(stride or (1,) * d), tuple(padding or (0,) * d)
    before, kernel = x.shape[2], weight.shape[2]
    several = before + 2 * margins[0] >= kernel + strides[0]
    if d == 3 and before < kernel and several and not by_torchs_layers(x) and _is_low(x):
        x = functional.pad(x, (0, 0, 0, 0, margins[0], margins[0]))
        margins = (0, *margins[1:])
    y: Tensor = CONVOLVE[d](x, weight, bias, strides, margins)
    return y


def _is_low(x: Tensor) -> bool:
    """Whether a layer of it computes in less than single precision on a CPU."""
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")


class Convolution3d(nn.Conv3d):
    """torch's, by `convolve`."""

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - torch's name
        """Shape (B, I, *edges) -> (B, O, *edges after it)."""
        return convolve(input, self.weight, self.bias, self.stride, tuple(map(int, self.padding)))
