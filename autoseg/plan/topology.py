"""How often and along which axes the network halves a patch, and how large its kernels are."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

SMALLEST_EDGE_VOXELS = 4


@dataclass(frozen=True, slots=True)
class Topology:
    """Stages of an encoder.

    Attributes
    ----------
    strides, kernels : tuple of tuple of int
        One entry a stage; the first stride is all ones.
    divisors : tuple of int
        Product of the strides along each axis.
    patch : tuple of int
        The patch, each edge rounded up to a multiple of its divisor.
    """

    strides: tuple[tuple[int, ...], ...]
    kernels: tuple[tuple[int, ...], ...]
    divisors: tuple[int, ...]
    patch: tuple[int, ...]


def topology(patch: Sequence[float], spacing: Sequence[float]) -> Topology:
    """Halve axes while they are long enough and about as finely spaced as the finest.

    Parameters
    ----------
    patch : sequence of float, length d
        Edges in voxels; fractions occur at the start of the search, where the median image is the limit.
    spacing : sequence of float, length d
        In mm.

    Returns
    -------
    Topology

    Notes
    -----
    An axis is halved when it has at least 8 voxels and its (grown) spacing is less than twice the finest among
    such axes; its kernel turns from 1 to 3 once its spacing is less than twice the finest of all axes. A lone
    axis below 12 voxels is not halved. The last stage always has kernel 3. Source: nnU-Net v2 (2.8.1), see
    docs/explanation/topology.md.
    """
    d = len(patch)
    sizes = [float(edge) for edge in patch]
    spacings = [float(s) for s in spacing]
    pools = [0] * d
    kernel = [1] * d
    strides = [(1,) * d]
    kernels = []
    while True:
        long_enough = [axis for axis in range(d) if sizes[axis] >= 2 * SMALLEST_EDGE_VOXELS]
        if not long_enough:
            break
        finest = min(spacings[axis] for axis in long_enough)
        halved = [axis for axis in long_enough if spacings[axis] / finest < 2]
        if len(halved) == 1 and sizes[halved[0]] < 3 * SMALLEST_EDGE_VOXELS:
            break
        finest_of_all = min(spacings)
        kernel = [3 if kernel[axis] == 3 or spacings[axis] / finest_of_all < 2 else 1 for axis in range(d)]
        kernels.append(tuple(kernel))
        strides.append(tuple(2 if axis in halved else 1 for axis in range(d)))
        for axis in halved:
            pools[axis] += 1
            spacings[axis] *= 2
            sizes[axis] = ceil(sizes[axis] / 2)
    kernels.append((3,) * d)
    divisors = tuple(2**count for count in pools)
    padded = tuple(ceil(edge / divisor) * divisor for edge, divisor in zip(patch, divisors, strict=True))
    return Topology(strides=tuple(strides), kernels=tuple(kernels), divisors=divisors, patch=padded)
