"""Which preset suits a dataset, where the user leaves it to autoseg: from its size, its images and the memory."""

from dataclasses import dataclass, replace

from autoseg.artifacts.plan import PresetName
from autoseg.plan.configurations import Geometry, Grid, plan_geometry
from autoseg.plan.presets import PRESETS, Preset

FEWEST_CASES = 100
LARGEST_FIRST: tuple[PresetName, ...] = ("resenc-xl", "resenc-l", "resenc-m")


@dataclass(frozen=True, slots=True)
class Advice:
    """A preset, and why.

    Attributes
    ----------
    name : str
    preset : Preset
        Of that name, but its batch never holds more of the dataset than that of ``plain``.
    saw, rejected : tuple of str
        What was looked at, and what spoke against the other presets.
    """

    name: PresetName
    preset: Preset
    saw: tuple[str, ...]
    rejected: tuple[str, ...]


def advise(grid: Grid, *, num_cases: int, num_labels: int, gpu_memory_gb: float) -> Advice:
    """The largest preset that the dataset is likely to gain from.

    Parameters
    ----------
    grid : Grid
    num_cases : int
    num_labels : int
    gpu_memory_gb : float

    Returns
    -------
    Advice

    Notes
    -----
    Our own rule, from published cross-validations of the Decathlon with nnU-Net's presets: residual encoders gained on
    large CT sets (Liver with 131 cases, Pancreas with 281), made no difference that could be told from noise on sets of
    some dozen cases, and lost where the whole image fits a patch (Hippocampus). docs/explanation/presets.md has the
    figures.
    """
    plain = PRESETS["plain"]
    # As in the published comparison, whatever the memory here.
    usual = plain.reference_gb
    geometry = plan_geometry(grid, num_cases=num_cases, num_labels=num_labels, preset=plain, gpu_memory_gb=usual)
    small = fits_whole(geometry)
    affordable = [name for name in LARGEST_FIRST if PRESETS[name].reference_gb <= gpu_memory_gb]
    saw = (
        f"a patch of the plain preset at {usual:g} GB {'holds' if small else 'is smaller than'} the median image",
        f"{num_cases} training cases, where residual encoders are asked for {FEWEST_CASES} at least",
        f"memory target {gpu_memory_gb:g} GB, for which "
        f"{affordable[0] if affordable else 'no residual preset'} is the largest meant",
    )
    reasons = [
        reason
        for holds, reason in (
            (small, "images that fit a patch leave a deeper network nothing to see, and train it on the same voxels"),
            (
                num_cases < FEWEST_CASES,
                f"on fewer than {FEWEST_CASES} cases no gain of theirs could be told from noise",
            ),
            (not affordable, "they are meant for 8 GB or more"),
        )
        if holds
    ]
    if reasons:
        return Advice("plain", plain, saw, tuple(f"residual encoders: {reason}" for reason in reasons))
    name = affordable[0]
    capped = replace(PRESETS[name], dataset_share=plain.dataset_share)
    return Advice(
        name,
        capped,
        saw,
        ("plain: residual encoders were better on large CT sets, and on others of this size no worse for sure",),
    )


def fits_whole(geometry: Geometry) -> bool:
    """Whether the finest network's patch was never shrunk: it holds the median image."""
    finest = geometry.full or geometry.flat
    return len(finest.steps) == 1 and all(
        edge >= size
        for edge, size in zip(finest.topology.patch, geometry.grid.median_size[-len(finest.start) :], strict=True)
    )
