"""Convolution, normalization and activation: what U-Net stages are made of."""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from math import prod
from types import MappingProxyType
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from autoseg.artifacts.plan import Attention, Norm
from autoseg.networks.convolution import Convolution3d, by_torchs_layers, convolve
from autoseg.networks.cost import SQUEEZE, merging_pays
from autoseg.networks.merged import add_at_border, biases_by_place, convolve_enlarged

LEAK = 0.01
EPSILON = 1e-5
CONVOLUTION: dict[int, Any] = {2: nn.Conv2d, 3: Convolution3d}
TRANSPOSED: dict[int, Any] = {2: functional.conv_transpose2d, 3: functional.conv_transpose3d}
POOL: dict[int, Any] = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
BATCH_NORM: dict[int, Any] = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
MOST_GROUPS = 8
SMALL_MAP = 1024


class InstanceNorm(nn.Module):
    """Each channel of each sample to mean 0 and variance 1, then scaled and shifted.

    Notes
    -----
    The same numbers as torch's instance norm, by whichever of its kernels is fastest: on CPUs that is group norm with
    one group a channel, but its backward is 25 times slower than batch norm's where channels come last in memory; for
    a single sample the two are the same thing. Of maps below 1,024 voxels (torch 2.13) group norm takes one value after
    the other from all over the memory where channels come last: a copy with channels first is 10 times faster.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, channels, *edges), kept."""
        # An exported graph does not branch by size, and its runtime knows no error for a single voxel.
        if x[0, 0].numel() == 1 and not torch.compiler.is_exporting():
            # A single voxel is its own mean.
            return x * 0 + self.bias.view(1, -1, *(1,) * (x.ndim - 2))
        if by_torchs_layers(x):
            return functional.instance_norm(x, weight=self.weight, bias=self.bias, eps=EPSILON)
        if x.shape[0] == 1:
            return functional.batch_norm(x, None, None, self.weight, self.bias, training=True, eps=EPSILON)
        small = x[0, 0].numel() < SMALL_MAP
        y = functional.group_norm(x.contiguous() if small else x, x.shape[1], self.weight, self.bias, EPSILON)
        return torch.empty_like(x).copy_(y) if small else y


class GroupNorm(nn.Module):
    """Each group of channels of each sample to mean 0 and variance 1, then scaled and shifted channel by channel.

    Notes
    -----
    Wu and He 2018; with a single group it is layer norm (Ba et al. 2016) over channels and space.
    """

    def __init__(self, groups: int, channels: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, channels, *edges), kept."""
        if x[0].numel() == self.groups and not torch.compiler.is_exporting():
            # A single value is its own mean.
            return x * 0 + self.bias.view(1, -1, *(1,) * (x.ndim - 2))
        if x.device.type == "cpu" or x.dtype == self.weight.dtype:
            return functional.group_norm(x, self.groups, self.weight, self.bias, EPSILON)
        # Autocast would make float32 maps of it, twice as large; sums are float32 inside the kernel all the same.
        with torch.autocast(x.device.type, enabled=False):
            return functional.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), EPSILON)


def he_normal(weight: Tensor) -> None:
    """Draw weights as He et al. 2015, for leaky ReLUs."""
    # torch takes a second to load what it needs to draw, and discard, numbers of a tensor without memory.
    if not weight.is_meta:
        nn.init.kaiming_normal_(weight, a=LEAK)


def exactly(x: Tensor, *, wanted: bool) -> AbstractContextManager[object]:
    """Single precision on the device of a tensor, whatever autocast says, if wanted."""
    return torch.autocast(x.device.type, enabled=False) if wanted else nullcontext()


def num_groups(channels: int) -> int:
    """The most groups, up to 8, that divide the channels."""
    return max(groups for groups in range(1, MOST_GROUPS + 1) if channels % groups == 0)


NORMS: Mapping[Norm, Callable[[int, int], nn.Module]] = MappingProxyType(
    {
        "instance": lambda channels, _: InstanceNorm(channels),
        "batch": lambda channels, dimensions: BATCH_NORM[dimensions](channels, eps=EPSILON),
        "layer": lambda channels, _: GroupNorm(1, channels),
        "group": lambda channels, _: GroupNorm(num_groups(channels), channels),
    }
)


class SqueezeExcitation(nn.Module):
    """Each channel times a gate between 0 and 1, which depends on the means of all channels.

    Notes
    -----
    Hu et al. 2018, with half the channels in the squeezed layer, which Roy et al. 2018 found best for segmentation.
    Leaky where theirs is a ReLU: means of a norm's outputs differ little, so that a unit that is off stays off.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        squeezed = max(1, channels // SQUEEZE)
        self.squeeze = nn.Linear(channels, squeezed)
        self.excite = nn.Linear(squeezed, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, channels, *edges), kept."""
        means = x.flatten(2).mean(2)
        gate: Tensor = self.excite(functional.leaky_relu(self.squeeze(means), LEAK)).sigmoid()
        return x * gate.to(x.dtype).view(*gate.shape, *(1,) * (x.ndim - 2))


class SpatialChannelExcitation(nn.Module):
    """The sum of the map gated channel by channel and the map gated voxel by voxel.

    Notes
    -----
    scSE of Roy et al. 2018, in its first form, which adds the two.
    """

    def __init__(self, channels: int, dimensions: int) -> None:
        super().__init__()
        self.channel = SqueezeExcitation(channels)
        self.voxel = Head(channels, 1, dimensions)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, channels, *edges), kept."""
        by_channel, by_voxel = self.channel(x), x * self.voxel(x).sigmoid().to(x.dtype)
        y: Tensor = by_channel + by_voxel
        return y


ATTENTIONS: Mapping[Attention, Callable[[int, int], nn.Module]] = MappingProxyType(
    {
        "none": lambda _, __: nn.Identity(),
        "se": lambda channels, _: SqueezeExcitation(channels),
        "scse": SpatialChannelExcitation,
    }
)


class ConvolutionBlock(nn.Module):
    """Convolution, norm, leaky ReLU.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride : sequence of int, length d
        The length says whether the block is 2D or 3D.
    norm : str
    """

    def __init__(
        self, inputs: int, outputs: int, kernel: Sequence[int], stride: Sequence[int], *, norm: Norm = "instance"
    ) -> None:
        super().__init__()
        padding = tuple((edge - 1) // 2 for edge in kernel)
        self.convolution = CONVOLUTION[len(kernel)](inputs, outputs, tuple(kernel), tuple(stride), padding)
        self.norm = NORMS[norm](outputs, len(kernel))
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, outputs, *edges / stride)."""
        y: Tensor = self.activation(self.norm(self.convolution(x)))
        return y

    def join(self, x: Tensor, up: "Upsample", skip: Tensor) -> Tensor:
        """The block applied to `x`, enlarged by `up`, and `skip`, joined along the channels.

        Notes
        -----
        A convolution of joined inputs is the sum of two convolutions, each with its part of the weight. On CPUs the
        sum is several times faster: the joined tensor is never made, and oneDNN's bf16 weight gradient falls off a
        cliff where input channels outnumber output channels on large maps. The first of the two may then be one with
        the upsampling.
        """
        if by_torchs_layers(x):
            return self.forward(torch.cat((up(x), skip), dim=1))
        bias, padding = self.convolution.bias, self.convolution.padding
        n = len(up.bias)
        enlarged, skipped = self.convolution.weight[:, :n], self.convolution.weight[:, n:]
        # torch.compile does not follow what is added at the border.
        merges = not torch.compiler.is_compiling() and merging_pays(
            x.shape[2:], len(x), up.weight.shape, enlarged.shape
        )
        if merges:
            biases = biases_by_place(up.bias, enlarged, bias)
            middle = biases.flatten(1)[:, biases[0].numel() // 2]
            joined = convolve(skip, skipped, middle, padding=padding) + convolve_enlarged(x, up.weight, enlarged)
            joined = add_at_border(joined, biases)
        else:
            joined = convolve(up(x), enlarged, bias, padding=padding) + convolve(skip, skipped, padding=padding)
        y: Tensor = self.activation(self.norm(joined))
        return y


class Stage(nn.Module):
    """`count` blocks, the first of which takes the stride, then attention."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        count: int,
        *,
        norm: Norm = "instance",
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        still = (1,) * len(kernel)
        self.first = ConvolutionBlock(inputs, outputs, kernel, stride, norm=norm)
        self.rest = nn.Sequential(
            *(ConvolutionBlock(outputs, outputs, kernel, still, norm=norm) for _ in range(count - 1))
        )
        self.attention = ATTENTIONS[attention](outputs, len(kernel))

    def forward(
        self,
        x: Tensor,
        up: "Upsample | None" = None,
        skip: Tensor | None = None,
        *,
        exact: Literal["first", "rest"] | None = None,
    ) -> Tensor:
        """The stage on `x`; where both are given on `x`, enlarged by `up`, joined with `skip` along the channels.

        The first block, or all after it, computes in single precision, whatever autocast says, if `exact` says so.
        """
        with exactly(x, wanted=exact == "first"):
            first = self.first(x) if up is None or skip is None else self.first.join(x, up, skip)
        y: Tensor
        with exactly(x, wanted=exact == "rest"):
            y = self.attention(self.rest(first.float() if exact == "rest" else first))
        return y


class ResidualBlock(nn.Module):
    """Two convolutions with norms, around which the input is added.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    kernel, stride : sequence of int, length d
        The first convolution takes the stride.
    norm, attention : str
        Attention comes last before the sum.

    Notes
    -----
    He et al. 2016; where the resolution falls the input is averaged over the stride, where the channels change it goes
    through a 1x1 convolution without bias and a norm (ResNet-D, He et al. 2019).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        *,
        norm: Norm = "instance",
        attention: Attention = "none",
    ) -> None:
        super().__init__()
        d = len(kernel)
        self.first = ConvolutionBlock(inputs, outputs, kernel, stride, norm=norm)
        padding = tuple((edge - 1) // 2 for edge in kernel)
        self.convolution = CONVOLUTION[d](outputs, outputs, tuple(kernel), 1, padding)
        self.norm = NORMS[norm](outputs, d)
        self.attention = ATTENTIONS[attention](outputs, d)
        self.pool = POOL[d](tuple(stride), tuple(stride)) if max(stride) > 1 else nn.Identity()
        self.shortcut = (
            nn.Sequential(CONVOLUTION[d](inputs, outputs, 1, bias=False), NORMS[norm](outputs, d))
            if inputs != outputs
            else nn.Identity()
        )
        self.activation = nn.LeakyReLU(LEAK, inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, outputs, *edges / stride)."""
        # On CPUs autocast pools volumes in float32, which must not spread along the additions of a whole stage.
        around = self.shortcut(self.pool(x).to(x.dtype))
        y: Tensor = self.activation(self.attention(self.norm(self.convolution(self.first(x)))) + around)
        return y


class ResidualStage(nn.Sequential):
    """`count` residual blocks, the first of which takes the stride."""

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: Sequence[int],
        stride: Sequence[int],
        count: int,
        *,
        norm: Norm = "instance",
        attention: Attention = "none",
    ) -> None:
        first = ResidualBlock(inputs, outputs, kernel, stride, norm=norm, attention=attention)
        still = (1,) * len(kernel)
        rest = (
            ResidualBlock(outputs, outputs, kernel, still, norm=norm, attention=attention) for _ in range(count - 1)
        )
        super().__init__(first, *rest)


class Upsample(nn.Module):
    """A transposed convolution whose stride is its kernel: each voxel becomes a box of voxels.

    Parameters
    ----------
    inputs, outputs : int
        Channels.
    stride : sequence of int, length d

    Notes
    -----
    No two boxes overlap, so it is one matrix product and a reordering. On CPUs that takes half the time of oneDNN's
    transposed convolution, most of it saved in the backward pass.
    """

    def __init__(self, inputs: int, outputs: int, stride: Sequence[int]) -> None:
        super().__init__()
        self.stride = tuple(stride)
        self.weight = nn.Parameter(torch.empty(inputs, outputs, *self.stride))
        self.bias = nn.Parameter(torch.zeros(outputs))
        he_normal(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, outputs, *edges * stride)."""
        d = len(self.stride)
        if by_torchs_layers(x):
            y: Tensor = TRANSPOSED[d](x, self.weight, self.bias, self.stride)
            return y
        b, edges, outputs = x.shape[0], x.shape[2:], len(self.bias)
        larger = [edge * step for edge, step in zip(edges, self.stride, strict=True)]
        if x.movedim(1, -1).is_contiguous():
            # (inputs, box x outputs)
            weight = self.weight.movedim(1, -1).flatten(1)
            boxes = functional.linear(x.movedim(1, -1), weight.T, self.bias.repeat(prod(self.stride)))
            apart = boxes.view(b, *edges, *self.stride, outputs)
            order = (0, *(axis for k in range(1, d + 1) for axis in (k, k + d)), 2 * d + 1)
            return apart.permute(order).reshape(b, *larger, outputs).movedim(-1, 1)
        weight = self.weight.flatten(1).T
        apart = torch.bmm(weight.expand(b, -1, -1), x.flatten(2)).view(b, outputs, *self.stride, *edges)
        order = (0, 1, *(axis for k in range(2, d + 2) for axis in (k + d, k)))
        return apart.permute(order).reshape(b, outputs, *larger) + self.bias.view(-1, *(1,) * d)


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
        he_normal(self.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Shape (B, inputs, *edges) -> (B, classes, *edges)."""
        if torch.compiler.is_exporting():
            return (functional.conv2d if x.ndim == 4 else functional.conv3d)(x, self.weight, self.bias)
        if x.movedim(1, -1).is_contiguous():
            return functional.linear(x.movedim(1, -1), self.weight.flatten(1), self.bias).movedim(-1, 1)
        # One product a sample: a broadcast matmul would copy the whole input.
        flat = torch.bmm(self.weight.flatten(1).expand(x.shape[0], -1, -1), x.flatten(2)) + self.bias[:, None]
        return flat.reshape(x.shape[0], -1, *x.shape[2:])
