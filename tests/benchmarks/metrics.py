"""Scoring label maps beside nnU-Net v2, which computes overlaps alone.

usage: metrics.py --peer-python PATH --dataset PATH [--rounds N] [--folder DIR]

The predictions are the dataset's own references, moved by one voxel, some of their border changed at random. Both
commands score them all, with two processes each. Then ours scores, by itself, one generated pair of 512 x 512 x 300
voxels with ten labels; start-up and reading count everywhere. The last line is a JSON object: seconds, peak memory of
all processes, and the largest difference of a Dice between the two.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).parent))
from measured import Ran, run
from peer import Peer

from autoseg import __version__
from autoseg.machine import available_cpus

LARGE = (300, 512, 512)
NUM_LABELS = 10
PROCESSES = "2"


def write(array_zyx: NDArray[np.uint8], file: Path, like: SimpleITK.Image | None = None) -> None:
    """A label file, where another one lies, or with voxels of 1 x 0.7 x 0.7 mm."""
    image = SimpleITK.GetImageFromArray(array_zyx)
    if like is None:
        image.SetSpacing((0.7, 0.7, 1.0))
    else:
        image.CopyInformation(like)
    SimpleITK.WriteImage(image, str(file))


def predict(references: list[Path], folder: Path) -> None:
    """Something that is near the references."""
    rng = np.random.default_rng(0)
    for file in references:
        image = SimpleITK.ReadImage(str(file))
        array = SimpleITK.GetArrayFromImage(image)
        moved = np.roll(array, 1, 2)
        write(np.where(rng.random(array.shape) < 0.5, array, moved).astype(np.uint8), folder / file.name, image)


def large_pair(reference: Path, predicted: Path) -> None:
    """Ten ellipsoids, as large as organs, and the same ones elsewhere."""
    z, y, x = (np.arange(edge, dtype=np.float32) for edge in LARGE)
    for file, shift in ((reference, 0), (predicted, 3)):
        array = np.zeros(LARGE, np.uint8)
        for label in range(1, NUM_LABELS + 1):
            middle = (60 + 20 * label, 60 + 40 * label + shift, 450 - 38 * label)
            distance = (
                ((z - middle[0]) / 50)[:, None, None] ** 2
                + ((y - middle[1]) / 45)[:, None] ** 2
                + ((x - middle[2]) / (25 + 4 * label)) ** 2
            )
            array[distance < 1] = label
        write(array, file)


def ours(predicted: Path, reference: Path, out: Path) -> Ran:
    """Our command, with every metric, lesions too."""
    more = ["--json", str(out), "--lesion-iou", "0.1", "--jobs", PROCESSES]
    return run([sys.executable, "-m", "autoseg", "evaluate", str(predicted), str(reference), *more])


def largest_difference(mine: Path, other: Path) -> float:
    """Between the two Dice of any label of any case; undefined ones must be so in both."""
    own = json.loads(mine.read_text())["cases"]
    differences = [0.0]
    for case in json.loads(other.read_text())["metric_per_case"]:
        scores = own[Path(case["prediction_file"]).name.removesuffix(".nii.gz")]
        for value, counts in case["metrics"].items():
            dice = scores[f"label_{value}"]["dice"]
            differences.append(abs((np.nan if dice is None else dice) - counts["Dice"]))
            if dice is None and np.isnan(counts["Dice"]):
                differences.pop()
    return float(max(differences))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="Of an environment with nnU-Net v2.")
    parser.add_argument("--dataset", type=Path, required=True, help="In nnU-Net's layout.")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="For temporary files.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        peer = Peer(arguments.peer_python, root / "peer", arguments.dataset)
        references, predicted = arguments.dataset / "labelsTr", root / "predicted"
        predicted.mkdir()
        files = sorted(references.glob("*.nii.gz"))
        predict(files, predicted)
        runs: dict[str, list[Ran]] = {"ours": [], "peer": []}
        for number in range(arguments.rounds):
            # A file that is there already would be taken as it is.
            mine, other = root / f"ours_{number}.json", root / f"peer_{number}.json"
            runs["ours"].append(ours(predicted, references, mine))
            about = ["-djfile", str(arguments.dataset / "dataset.json"), "-pfile", str(plans_of(peer, root))]
            runs["peer"].append(
                peer.command(
                    "nnUNetv2_evaluate_folder",
                    str(references),
                    str(predicted),
                    *about,
                    "-o",
                    str(other),
                    "-np",
                    PROCESSES,
                )
            )
        large_pair(root / "reference.nii.gz", root / "predicted.nii.gz")
        large = ours(root / "predicted.nii.gz", root / "reference.nii.gz", root / "large.json")
        seconds = {name: statistics.median(one.seconds for one in some) for name, some in runs.items()}
        result = {
            "benchmark": "metrics",
            "cases": len(files),
            "cpus": available_cpus(),
            "rounds": arguments.rounds,
            "ours": round(seconds["ours"], 2),
            "peer": round(seconds["peer"], 2),
            "ratio": round(seconds["peer"] / seconds["ours"], 2),
            "ours_metrics": "overlap, volume, surface, lesions",
            "peer_metrics": "overlap",
            "peak_gib": round(max(one.peak_bytes for one in runs["ours"]) / 2**30, 2),
            "largest_dice_difference": largest_difference(root / "ours_0.json", root / "peer_0.json"),
            "large": {
                "shape": LARGE,
                "labels": NUM_LABELS,
                "seconds": round(large.seconds, 1),
                "peak_gib": round(large.peak_bytes / 2**30, 2),
            },
            "versions": {"autoseg": __version__, "peer": peer.version()},
        }
    print(json.dumps(result))


def plans_of(peer: Peer, root: Path) -> Path:
    """A plans file, of which nnU-Net's evaluation reads one thing."""
    file = root / "plans.json"
    file.write_text(json.dumps({"label_manager": "LabelManager"}))
    return file


if __name__ == "__main__":
    main()
