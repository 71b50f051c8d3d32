"""Makes the plans of this folder anew, from the fingerprints here; with --challenges those that are generated too.

usage: python plans/generate.py [--challenges]

The fingerprints of real sets were measured once; those of challenges are drawn here, with a seed of their own, from
what their organizers say of them.
"""

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from autoseg.artifacts.base import read, write
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint, IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.plan.decide import decide
from autoseg.plan.explain import explain

HERE = Path(__file__).parent
Triple = tuple[float, float, float]
Draw = Callable[[np.random.Generator], tuple[Triple, tuple[int, int, int]]]


@dataclass(frozen=True, slots=True)
class Challenge:
    """What is known of a dataset.

    Attributes
    ----------
    channels : sequence of str
    labels : dict of str to int or tuple of int
        With the background.
    num_cases : int
        Of the training set; at most `MOST_DRAWN` are drawn.
    draw : callable
        Spacing and cropped shape of a case, along (Z, Y, X).
    kept : float
        Share of the median case that cropping keeps.
    """

    channels: Sequence[str]
    labels: dict[str, int | tuple[int, ...]]
    num_cases: int
    draw: Draw
    kept: float = 1.0
    regions_class_order: tuple[int, ...] = ()
    flat: bool = False


MOST_DRAWN = 40


def numbered(*names: str) -> dict[str, int | tuple[int, ...]]:
    """Labels with values 0, 1, 2, ..."""
    return {"background": 0} | {name: value for value, name in enumerate(names, start=1)}


def abdominal_ct(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As AMOS 2022: slices of 1.25 to 5 mm, 512 to 768 pixels."""
    z = float(rng.choice([1.25, 2.0, 5.0, 5.0, 5.0]))
    pixel = round(float(rng.uniform(0.6, 0.95)), 4)
    edge = int(rng.choice([512, 512, 512, 768]))
    return (z, pixel, pixel), (int(rng.uniform(350, 500) / z), edge, edge)


def brain_mr(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As BraTS 2021: 1 mm, skull-stripped, cropped to the brain."""
    return (1.0, 1.0, 1.0), tuple(int(edge) for edge in rng.normal((140, 172, 137), (4, 6, 5)))  # type: ignore[return-value]


def cardiac_cine(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As ACDC: short-axis slices of mostly 10 mm."""
    pixel = round(float(rng.uniform(1.37, 1.68)), 4)
    z = float(rng.choice([5.0, 10.0, 10.0, 10.0]))
    return (z, pixel, pixel), (int(rng.integers(7, 12)), int(rng.integers(208, 257)), int(rng.integers(174, 233)))


def whole_body_ct(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As TotalSegmentator: resampled to 1.5 mm, fields of view of every size."""
    return (1.5, 1.5, 1.5), (int(rng.integers(70, 560)), int(rng.integers(170, 340)), int(rng.integers(170, 340)))


def fundus(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As REFUGE: two cameras."""
    return (999.0, 1.0, 1.0), (1, *((2056, 2124) if rng.random() < 0.5 else (1634, 1634)))


def electron_microscopy(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As CREMI: sections of 40 nm with pixels of 4 nm, the unit being the nanometre."""
    return (40.0, 4.0, 4.0), (125, 1250, 1250)


def liver_ct(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As LiTS: slices of 0.7 to 5 mm."""
    z = float(rng.choice([0.7, 0.8, 1.0, 1.0, 1.25, 2.5, 5.0]))
    pixel = round(float(rng.uniform(0.56, 1.0)), 4)
    return (z, pixel, pixel), (int(rng.uniform(300, 560) / z), 512, 512)


def prostate_mr(rng: np.random.Generator) -> tuple[Triple, tuple[int, int, int]]:
    """As the Decathlon's Prostate: thick slices, two channels."""
    pixel = round(float(rng.choice([0.6, 0.625, 0.75])), 4)
    return (round(float(rng.uniform(3.0, 4.0)), 2), pixel, pixel), (int(rng.integers(15, 25)), 320, 320)


ORGANS = (
    *("spleen", "right kidney", "left kidney", "gallbladder", "oesophagus", "liver", "stomach", "aorta", "vena cava"),
    *("pancreas", "right adrenal gland", "left adrenal gland", "duodenum", "bladder", "prostate or uterus"),
)
TUMOUR_REGIONS: dict[str, int | tuple[int, ...]] = {
    "background": 0,
    "whole tumour": (1, 2, 3),
    "tumour core": (2, 3),
    "enhancing tumour": (3,),
}
CHALLENGES = {
    "abdominal_ct_15_organs": Challenge(["CT"], numbered(*ORGANS), 200, abdominal_ct),
    "brain_mr_regions": Challenge(
        ["T1", "T1Gd", "T2", "FLAIR"], TUMOUR_REGIONS, 1251, brain_mr, kept=0.37, regions_class_order=(1, 2, 3)
    ),
    "cardiac_cine_mr": Challenge(
        ["cineMRI"], numbered("right ventricle", "myocardium", "left ventricle"), 200, cardiac_cine
    ),
    "whole_body_ct_105_classes": Challenge(
        ["CT"], numbered(*(f"structure {number}" for number in range(1, 105))), 1204, whole_body_ct
    ),
    "fundus_rgb": Challenge(["R", "G", "B"], numbered("optic disc", "optic cup"), 400, fundus, flat=True),
    "electron_microscopy": Challenge(["EM"], numbered("synaptic cleft"), 3, electron_microscopy),
    "liver_ct": Challenge(["CT"], numbered("liver", "tumour"), 131, liver_ct),
    "prostate_mr": Challenge(["T2", "ADC"], numbered("peripheral zone", "transition zone"), 32, prostate_mr),
}
# Only CT looks at these, and none of them at the geometry.
TYPICAL_CT = IntensityStatistics(
    mean=80.0, median=90.0, std=120.0, min=-1024.0, max=1500.0, percentile_00_5=-900.0, percentile_99_5=400.0
)
TYPICAL = IntensityStatistics(
    mean=400.0, median=380.0, std=150.0, min=0.0, max=2000.0, percentile_00_5=60.0, percentile_99_5=900.0
)


def generated(name: str, challenge: Challenge) -> Fingerprint:
    """A fingerprint drawn for a challenge."""
    rng = np.random.default_rng(sorted(CHALLENGES).index(name))
    cases = []
    for number in range(min(challenge.num_cases, MOST_DRAWN)):
        spacing, shape = challenge.draw(rng)
        grid = Geometry(
            shape=shape,
            spacing_mm=spacing,
            num_dimensions=2 if challenge.flat else 3,
            has_spacing=not challenge.flat,
        )
        cases.append(CaseMeasure(name=f"case_{number:03d}", geometry=grid, shape_after_crop=shape))
    return Fingerprint(
        inputs_sha256=f"generated: {name}",
        channel_names=tuple(challenge.channels),
        labels=challenge.labels,
        regions_class_order=challenge.regions_class_order,
        num_training=challenge.num_cases,
        cases=tuple(cases),
        median_relative_size_after_cropping=challenge.kept,
        intensities=tuple(TYPICAL_CT if channel == "CT" else TYPICAL for channel in challenge.channels),
    )


def main() -> None:
    """Write the files."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--challenges", action="store_true", help="draw their fingerprints too")
    if parser.parse_args().challenges:
        for name, challenge in CHALLENGES.items():
            write(HERE / name / "fingerprint.json", generated(name, challenge))
    for file in sorted(HERE.glob("*/fingerprint.json")):
        fingerprint = read(file, Fingerprint)
        # Read and written, it has every key that there is by now.
        write(file, fingerprint)
        decisions = decide(fingerprint)
        write(file.with_name("plan.json"), decisions.plan)
        file.with_name("plan.md").write_text(explain(fingerprint, decisions), encoding="utf-8")


if __name__ == "__main__":
    main()
