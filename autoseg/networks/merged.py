"""An upsampling and the convolution after it as one convolution of the small map."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from autoseg.networks.convolution import convolve
from autoseg.networks.cost import neighbours


def convolve_enlarged(x: Tensor, enlarge: Tensor, weight: Tensor) -> Tensor:
    """The convolution, without biases, of what a transposed convolution makes of a map.

    Parameters
    ----------
    x : Tensor, shape (B, I, *edges)
    enlarge : Tensor, shape (I, M, *stride)
        Weight of the transposed convolution; its kernel is its stride.
    weight : Tensor, shape (O, M, *kernel)
        Of the convolution, whose kernel has odd edges and whose padding keeps the edges.

    Returns
    -------
    Tensor, shape (B, O, *edges * stride)

    Notes
    -----
    Both are linear, and so is one after the other: a transposed convolution with the same stride and a kernel of
    stride + kernel - 1. Seen from the small map, each of its voxels and its next neighbours give a whole box of new
    voxels: that is an ordinary convolution, with an output for each channel and place in the box. For a stride of 2
    and a kernel of 3 its kernel is 2, so that each new voxel costs 8 products where it was 27, of twice the channels;
    and the enlarged map, which is the largest of all, is never made.
    """
    d = x.ndim - 2
    outputs, kernel, stride = weight.shape[0], weight.shape[2:], enlarge.shape[2:]
    # (I, O, *stride + kernel - 1)
    both = convolve(enlarge, weight, padding=tuple(edge - 1 for edge in kernel))
    reach = neighbours(kernel, stride)
    room = [n * step - edge for n, step, edge in zip(reach, stride, both.shape[2:], strict=True)]
    both = functional.pad(both, [size for more in reversed(room) for size in (0, more)])
    # A new voxel's n-th tap is the n-th old voxel before it, while a convolution counts upwards.
    both = both.reshape(*both.shape[:2], *(size for n, step in zip(reach, stride, strict=True) for size in (n, step)))
    both = both.flip([2 + 2 * axis for axis in range(d)])
    order = (*(3 + 2 * axis for axis in range(d)), 1, 0, *(2 + 2 * axis for axis in range(d)))
    both = both.permute(order).reshape(-1, x.shape[1], *reach)
    boxes = convolve(x, both, padding=tuple(n - 1 for n in reach))
    # The first box begins as many voxels before the map as the convolution reaches beyond its border.
    ends = [
        (-((edge - 1) // 2), (edge - 1) // 2 - step * (n - 1))
        for edge, step, n in zip(kernel, stride, reach, strict=True)
    ]
    cut = [size for end in reversed(ends) for size in end]
    b, edges = x.shape[0], boxes.shape[2:]
    larger = [edge * step for edge, step in zip(edges, stride, strict=True)]
    if boxes.movedim(1, -1).is_contiguous():
        apart = boxes.movedim(1, -1).view(b, *edges, *stride, outputs)
        order = (0, *(axis for k in range(1, d + 1) for axis in (k, k + d)), 2 * d + 1)
        return functional.pad(apart.permute(order).reshape(b, *larger, outputs), [0, 0, *cut]).movedim(-1, 1)
    apart = boxes.view(b, *stride, outputs, *edges)
    order = (0, d + 1, *(axis for k in range(1, d + 1) for axis in (k + d + 1, k)))
    return functional.pad(apart.permute(order).reshape(b, outputs, *larger), cut)


def biases_by_place(up_bias: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """What the two biases add up to at the beginning, in the middle and at the end of each axis.

    Beyond its border the enlarged map counts as 0, and so does the first bias there.

    Returns
    -------
    Tensor, shape (O, *3 or 1)
        1 along axes across which the convolution does not reach.
    """
    kernel = weight.shape[2:]
    d = len(kernel)
    flat = up_bias.view(1, -1, *(1,) * d).expand(1, -1, *kernel)
    return convolve(flat, weight, bias, padding=tuple((edge - 1) // 2 for edge in kernel))[0]


def add_at_border(x: Tensor, values: Tensor) -> Tensor:
    """Add, in place, to each voxel at a map's border what its values differ from those in the middle.

    Parameters
    ----------
    x : Tensor, shape (B, O, *edges)
        No operation needs it as it was.
    values : Tensor, shape (O, *3 or 1)
        See `biases_by_place`.
    """
    faces: list[Tensor] = []
    axes: list[int] = []
    for axis, edge in enumerate(values.shape[1:]):
        if edge == 1:
            continue
        # What other axes' faces add is not added again: they begin where this one's values are the middle's.
        middle = values.select(1 + axis, 1)
        for end in (0, 2):
            face = values.select(1 + axis, end) - middle
            faces.append(_stretched(face, [n for other, n in enumerate(x.shape[2:]) if other != axis]))
            axes.append(axis)
        values = middle.unsqueeze(1 + axis)
    if not faces:
        return x
    made: Tensor = _AddToFaces.apply(x, tuple(axes), *faces)  # type: ignore[no-untyped-call]
    return made


def _stretched(face: Tensor, edges: Sequence[int]) -> Tensor:
    """Beginning, middle and end of each axis to its length."""
    for axis, length in enumerate(edges, start=1):
        if face.shape[axis] == 1:
            face = face.expand(*face.shape[:axis], length, *face.shape[axis + 1 :])
        else:
            places = torch.ones(length, dtype=torch.long)
            places[0], places[-1] = 0, 2
            face = face.index_select(axis, places)
    return face


class _AddToFaces(torch.autograd.Function):
    """First and last slices, in turn along each axis, plus something; autograd's own would copy the map each time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, axes: tuple[int, ...], *faces: Tensor) -> Tensor:  # noqa: ANN401 - torch's
        ctx.axes = axes
        for number, (axis, face) in enumerate(zip(axes, faces, strict=True)):
            x.select(2 + axis, -(number % 2)).add_(face)
        ctx.mark_dirty(x)
        return x

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's
        faces = (gradient.select(2 + axis, -(number % 2)).sum(0) for number, axis in enumerate(ctx.axes))
        return gradient, None, *faces
