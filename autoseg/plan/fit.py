"""Batch and patch made smaller until a training step, really done, fits the memory: `--measure`."""

from collections.abc import Callable
from dataclasses import dataclass

from msgspec.structs import replace

from autoseg.artifacts.plan import Configuration
from autoseg.errors import SettingError
from autoseg.plan.configurations import network_fields
from autoseg.plan.patch import SMALLEST_BATCH, shrink
from autoseg.plan.presets import Preset
from autoseg.plan.topology import topology

Measure = Callable[[Configuration], tuple[int, bool]]


@dataclass(frozen=True, slots=True)
class Try:
    """A training step that was done, or foreseen to fail.

    Attributes
    ----------
    patch : tuple of int
    batch_size : int
    needed_bytes : int
    measured : bool
        False where it was known, or seen, not to fit: the bytes are then predicted.
    """

    patch: tuple[int, ...]
    batch_size: int
    needed_bytes: int
    measured: bool


@dataclass(frozen=True, slots=True)
class Fit:
    """A configuration that fits, and what was tried.

    Attributes
    ----------
    configuration : Configuration
    limit_bytes : int
    tries : tuple of Try
        In order.
    """

    configuration: Configuration
    limit_bytes: int
    tries: tuple[Try, ...]


def fit(configuration: Configuration, *, num_labels: int, preset: Preset, measure: Measure, limit_bytes: int) -> Fit:
    """Make the batch smaller, and once it is 2 the patch, until a training step fits.

    Parameters
    ----------
    configuration : Configuration
        As planned; one that fits comes back unchanged.
    num_labels : int
    preset : Preset
    measure : callable
        Bytes that a training step takes, and whether that was measured.
    limit_bytes : int

    Returns
    -------
    Fit

    Raises
    ------
    SettingError
        Not even the smallest patch fits.

    Notes
    -----
    The patch shrinks by the steps of the search that planned it. Nothing is made larger: a published plan that fits
    stays as it was published.
    """
    tries: list[Try] = []

    def fits(candidate: Configuration) -> bool:
        needed, measured = measure(candidate)
        tries.append(Try(candidate.patch_size, candidate.batch_size, needed, measured))
        return needed <= limit_bytes

    if fits(configuration):
        return Fit(configuration, limit_bytes, tuple(tries))
    above = tries[-1]
    best = replace(configuration, batch_size=min(SMALLEST_BATCH, above.batch_size))
    if above.batch_size > SMALLEST_BATCH and fits(best):
        below = tries[-1]
        guess, halves = _between(below, above, limit_bytes), False
        while above.batch_size - below.batch_size > _near(below):
            if fits(replace(configuration, batch_size=guess)):
                below = tries[-1]
            else:
                above = tries[-1]
            middle = (below.batch_size + above.batch_size) // 2
            # A first guess that fits is mostly as good as it gets, which one more step shows.
            guess = middle if halves else min(middle, below.batch_size + _near(below))
            halves = True
        return Fit(replace(configuration, batch_size=below.batch_size), limit_bytes, tuple(tries))
    spacing, median_size = best.spacing, best.median_image_size_in_voxels
    shape, seen = topology(best.patch_size, spacing), {best.patch_size}
    while True:
        smaller = shrink(shape, spacing, median_size, seen)
        if smaller is None:
            raise SettingError(
                "no patch fits the memory",
                where="--measure",
                found=f"{tries[-1].needed_bytes / 2**30:.2f} GiB for a batch of {best.batch_size} of the smallest "
                "patch",
                allowed=f"{limit_bytes / 2**30:.2f} GiB",
                hint="free memory, raise --gpu-memory, or plan without --measure",
            )
        shape = smaller
        seen.add(shape.patch)
        best = replace(best, **network_fields(shape, num_labels, preset))
        if fits(best):
            return Fit(best, limit_bytes, tuple(tries))


def _near(below: Try) -> int:
    """How close to the limit a batch need come: a step of a large one takes its time."""
    return max(1, below.batch_size // 16)


def _between(below: Try, above: Try, limit_bytes: int) -> int:
    """The batch at which memory, which grows evenly from one that fits to one that does not, reaches the limit."""
    gap = above.batch_size - below.batch_size
    share = (limit_bytes - below.needed_bytes) / max(1, above.needed_bytes - below.needed_bytes)
    return below.batch_size + min(gap - 1, max(1, int(gap * share)))
