"""Preprocessed arrays of ours and of nnU-Net's, case by case: each side measures, plans and preprocesses by itself.

usage: agree.py --peer-python PATH --data FOLDER [--only NAME ...] [--cases N] [--peer-statistics]

FOLDER holds hippocampus and sts_multi in nnU-Net's layout and openkbp_ct as two plain folders, which are laid out for
nnU-Net; a set of anisotropic slices is generated. --cases takes the first N of each. With --peer-statistics our plan
takes over the intensities that nnU-Net drew, so that only the arithmetic is compared. Images agree where they differ
by at most 1e-3 (arrays are normalized, so by a thousandth of a standard deviation). The last line is a JSON object:
`ours` is the smallest share of voxels that agree, images or labels, over all cases of all sets; `peer` is what is
asked for, 0.9999; `ratio` is how many times fewer voxels disagree than may.
"""

import argparse
import json
import shutil
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import blosc2
import numpy as np
from numpy.typing import NDArray

from autoseg.layout import Workspace
from autoseg.preprocess.store import load_case

sys.path.insert(0, str(Path(__file__).parent))
from generated import write_slices
from measured import run
from peer import Peer

SETS = ("hippocampus", "openkbp_ct", "sts_multi", "slices")
KBP_LABELS = ("brainstem", "spinal_cord", "parotid_right", "parotid_left", "mandible")
CONFIGURATION = "3d_fullres"
TOLERANCE = 1e-3
WANTED = 0.9999
STATISTICS = ("mean", "std", "percentile_00_5", "percentile_99_5")


def nnunet_copy(source: Path, target: Path, cases: int) -> list[str]:
    """The first cases of a dataset in nnU-Net's layout; our arguments that name it."""
    description = json.loads((source / "dataset.json").read_text())
    ending = description["file_ending"]
    names = sorted(file.name.removesuffix(ending) for file in (source / "labelsTr").glob(f"*{ending}"))[:cases]
    for name in names:
        copy(source / "labelsTr" / f"{name}{ending}", target / "labelsTr")
        for file in (source / "imagesTr").glob(f"{name}_????{ending}"):
            copy(file, target / "imagesTr")
    (target / "dataset.json").write_text(json.dumps(description | {"numTraining": len(names)}))
    return [str(target)]


def kbp_copy(source: Path, target: Path, cases: int) -> list[str]:
    """The first cases of openkbp_ct as they are, named by our arguments, and laid out for nnU-Net at `target`."""
    plain = target.with_name("plain")
    names = sorted(file.name.removesuffix("_ct.nii.gz") for file in (source / "images").iterdir())[:cases]
    for name in names:
        image, label = source / "images" / f"{name}_ct.nii.gz", source / "labels" / f"{name}_oar.nii.gz"
        copy(image, plain / "images")
        copy(label, plain / "labels")
        copy(image, target / "imagesTr", f"{name}_0000.nii.gz")
        copy(label, target / "labelsTr", f"{name}.nii.gz")
    description = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: value for value, name in enumerate(KBP_LABELS, start=1)},
        "numTraining": len(names),
        "file_ending": ".nii.gz",
    }
    (target / "dataset.json").write_text(json.dumps(description))
    folders = ["--images", str(plain / "images"), "--labels", str(plain / "labels")]
    return [*folders, "--channels", "CT", "--label-names", ",".join(KBP_LABELS)]


def copy(file: Path, folder: Path, name: str | None = None) -> None:
    """Copy a file into a folder that may not be there yet."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copy(file, folder / (name or file.name))


def differences(plan: dict[str, Any], plans: dict[str, Any]) -> dict[str, Any]:
    """What decides about arrays and differs between the two plans: ours, theirs."""
    mine, other = plan["configurations"][CONFIGURATION], plans["configurations"][CONFIGURATION]
    pairs = {
        "transpose_forward": (plan["transpose_forward"], plans["transpose_forward"]),
        "spacing": (mine["spacing"], other["spacing"]),
        "use_mask_for_norm": (mine["use_mask_for_norm"], other["use_mask_for_norm"]),
    }
    found = {key: pair for key, pair in pairs.items() if not np.allclose(*pair, rtol=1e-6, atol=0)}
    drawn = plans["foreground_intensity_properties_per_channel"].values()
    for channel, scheme, ours, theirs in zip(
        plan["channel_names"], mine["normalization_schemes"], plan["intensities"], drawn, strict=True
    ):
        if scheme == "ct":
            found |= {f"{channel}.{key}": (ours[key], theirs[key]) for key in STATISTICS if ours[key] != theirs[key]}
    return found


def ours(source: list[str], root: Path) -> Workspace:
    """Plan."""
    run([autoseg(), "plan", *source, "-w", str(root), "--jobs", "2"])
    return Workspace(root)


def autoseg() -> str:
    """Our command."""
    return str(Path(sys.executable).with_name("autoseg"))


def take_over(workspace: Workspace, plans: dict[str, Any]) -> None:
    """Put nnU-Net's intensities into our plan."""
    plan = json.loads(workspace.plan.read_text())
    drawn = plans["foreground_intensity_properties_per_channel"].values()
    plan["intensities"] = [{key: statistics[key] for key in plan["intensities"][0]} for statistics in drawn]
    workspace.plan.write_text(json.dumps(plan))


def compare(workspace: Workspace, folder: Path, name: str) -> dict[str, Any]:
    """One case: shares of voxels that agree, and the largest difference."""
    case = load_case(workspace.case(CONFIGURATION, name))
    image = read(folder / f"{name}.b2nd")
    label = read(folder / f"{name}_seg.b2nd")[0]
    if case.image.shape != image.shape:
        return {"case": name, "image": 0.0, "label": 0.0, "shapes": (case.image.shape, image.shape)}
    difference = np.abs(case.image - image)
    return {
        "case": name,
        "image": min(float(np.mean(channel <= TOLERANCE)) for channel in difference),
        "label": float(np.mean(case.label == label)),
        "largest": float(difference.max()),
        "by_channel": [float(channel.max()) for channel in difference],
    }


def read(file: Path) -> NDArray[Any]:
    """A whole array."""
    return np.asarray(blosc2.open(str(file), mode="r")[:])


def agreement(name: str, arguments: argparse.Namespace, root: Path) -> dict[str, Any]:
    """Both ways of one set."""
    dataset = root / name
    dataset.mkdir(parents=True)
    if name == "slices":
        write_slices(dataset, min(arguments.cases, 6))
        source = [str(dataset)]
    elif name == "openkbp_ct":
        source = kbp_copy(arguments.data / name, dataset, arguments.cases)
    else:
        source = nnunet_copy(arguments.data / name, dataset, arguments.cases)
    peer = Peer(arguments.peer_python, root / "peer", dataset)
    peer.command("nnUNetv2_extract_fingerprint", "-d", "4", "-np", "2")
    peer.command("nnUNetv2_plan_experiment", "-d", "4")
    peer.command("nnUNetv2_preprocess", "-d", "4", "-c", CONFIGURATION, "-np", "2")
    plans = json.loads((peer.preprocessed / "nnUNetPlans.json").read_text())
    workspace = ours(source, root / "workspace")
    unlike = differences(json.loads(workspace.plan.read_text()), plans)
    if arguments.peer_statistics:
        take_over(workspace, plans)
    run([autoseg(), "preprocess", "-w", str(workspace.root), "--configuration", CONFIGURATION, "--jobs", "2"])
    folder = peer.preprocessed / f"nnUNetPlans_{CONFIGURATION}"
    names = sorted(file.name.removesuffix("_seg.b2nd") for file in folder.glob("*_seg.b2nd"))
    cases = [compare(workspace, folder, each) for each in names]
    result = {
        "set": name,
        "cases": len(cases),
        "image": min(case["image"] for case in cases),
        "label": min(case["label"] for case in cases),
        "largest": max(case.get("largest", float("inf")) for case in cases),
        "plan_differences": unlike,
        "worst": sorted(cases, key=lambda case: min(case["image"], case["label"]))[:3],
    }
    print(json.dumps(result), flush=True)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--cases", type=int, default=10**6)
    parser.add_argument("--peer-statistics", action="store_true")
    arguments = parser.parse_args()
    results = []
    for name in arguments.only:
        with tempfile.TemporaryDirectory() as folder:
            results.append(agreement(name, arguments, Path(folder)))
    least = min(min(result["image"], result["label"]) for result in results)
    print(
        json.dumps(
            {
                "benchmark": "agree",
                "unit": "share of voxels that agree, in the worst case",
                "ours": least,
                "peer": WANTED,
                "ratio": round((1 - WANTED) / max(1 - least, 1e-9), 2),
                "peer_statistics": arguments.peer_statistics,
                "sets": results,
                "versions": {"autoseg": version("autoseg")},
            }
        )
    )


if __name__ == "__main__":
    main()
