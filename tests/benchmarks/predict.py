"""Prediction beside nnU-Net v2's, with the same model: seconds, memory, and how well the two agree.

usage: predict.py --peer-python PATH --dataset PATH --model FOLDER [--cases N] [--rounds N] [--folder DIR]

FOLDER is a model that nnU-Net trained (plans.json, dataset.json, fold_*/checkpoint_final.pth); autoseg imports it. Both
label, on the CPU and with mirroring, the first N cases of the dataset in nnU-Net's layout, and then one volume of
128 x 128 x 96 voxels made of such a case; start-up counts. Each command runs in turn with the other's, and once more
for the probabilities, which is not timed. The last line is a JSON object: medians of seconds, peak memory of all
processes (proportional set size), their ratios, and the agreement of labels and probabilities. nnU-Net adds logits up
in half precision, which alone can change probabilities by several hundredths in the corners of a volume. So it predicts
a third time with sums in single precision (`peer_predict.py`), and the largest differences of probabilities are given
for all three pairs.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

import numpy as np
import SimpleITK
import torch

sys.path.insert(0, str(Path(__file__).parent))
from measured import Ran, run
from peer import Peer

from autoseg import __version__
from autoseg.machine import available_cpus

AUTOSEG = [sys.executable, "-m", "autoseg"]
LARGE = (96, 128, 128)


def large_volume(source: Path, target: Path) -> None:
    """A volume of the wanted size: a case and its mirror images side by side."""
    image = SimpleITK.ReadImage(str(source))
    array = SimpleITK.GetArrayFromImage(image)
    room = [(0, max(0, wanted - n)) for wanted, n in zip(LARGE, array.shape, strict=True)]
    larger = np.pad(array, room, mode="symmetric")[tuple(slice(n) for n in LARGE)]
    volume = SimpleITK.GetImageFromArray(np.ascontiguousarray(larger))
    volume.SetSpacing(image.GetSpacing())
    SimpleITK.WriteImage(volume, str(target))


def ours(bundle: Path, images: Path, out: Path, *more: str) -> Ran:
    """Our command, from start to end."""
    return run([*AUTOSEG, "predict", str(images), str(out), "--model", str(bundle), "--device", "cpu", *more])


def theirs(peer: Peer, model: Path, images: Path, out: Path, *more: str) -> Ran:
    """nnU-Net's command with its own defaults, from start to end."""
    return peer.command("nnUNetv2_predict_from_modelfolder", *their_arguments(model, images, out), *more)


def their_arguments(model: Path, images: Path, out: Path) -> list[str]:
    """What nnU-Net is to predict, and with which folds."""
    folds = (path.name.removeprefix("fold_") for path in sorted(model.glob("fold_*")))
    return ["-i", str(images), "-o", str(out), "-m", str(model), "-device", "cpu", "-f", *folds]


def agreement(mine: Path, other: Path) -> dict[str, float]:
    """How well the labels of two folders agree."""
    same = total = 0
    dice = []
    for file in sorted(other.glob("*.nii.gz")):
        a, b = (SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / file.name))) for folder in (mine, other))
        same, total = same + int((a == b).sum()), total + a.size
        present = set(np.unique([a, b])) - {0}
        dice += [2 * ((a == k) & (b == k)).sum() / ((a == k).sum() + (b == k).sum()) for k in present]
    return {"same_labels": same / total, "mean_dice": float(np.mean(dice)), "least_dice": float(min(dice))}


def largest_difference(mine: Path, other: Path) -> float:
    """Of any probability in two folders."""
    worst = 0.0
    for file in sorted(other.glob("*.npz")):
        p, q = (np.load(folder / file.name)["probabilities"].astype(np.float32) for folder in (mine, other))
        worst = max(worst, float(np.abs(p - q).max()))
    return worst


def side_by_side(peer: Peer, model: Path, bundle: Path, images: Path, folder: Path, rounds: int) -> dict[str, object]:
    """Both commands in turn, and their agreement."""
    runs: dict[str, list[Ran]] = {"ours": [], "peer": []}
    for number in range(rounds):
        runs["ours"].append(ours(bundle, images, folder / f"ours_{number}"))
        runs["peer"].append(theirs(peer, model, images, folder / f"peer_{number}"))
        print({name: round(some[-1].seconds, 1) for name, some in runs.items()}, file=sys.stderr, flush=True)
    ours(bundle, images, folder / "ours", "--save-probabilities")
    theirs(peer, model, images, folder / "peer", "--save_probabilities")
    arguments = [*their_arguments(model, images, folder / "exact"), "--save_probabilities", "--disable_progress_bar"]
    peer.script(Path(__file__).with_name("peer_predict.py"), *arguments)
    seconds = {name: statistics.median(one.seconds for one in some) for name, some in runs.items()}
    memory = {name: max(one.peak_bytes for one in some) for name, some in runs.items()}
    return {
        "ours": {"seconds": round(seconds["ours"], 1), "peak_gib": round(memory["ours"] / 2**30, 2)},
        "peer": {"seconds": round(seconds["peer"], 1), "peak_gib": round(memory["peer"] / 2**30, 2)},
        "ratio": round(seconds["peer"] / seconds["ours"], 2),
        "memory_ratio": round(memory["peer"] / max(memory["ours"], 1), 2),
        **agreement(folder / "ours", folder / "peer"),
        "largest_probability_difference": {
            "ours_peer": largest_difference(folder / "ours", folder / "peer"),
            "ours_peer_float32_sums": largest_difference(folder / "ours", folder / "exact"),
            "peer_peer_float32_sums": largest_difference(folder / "peer", folder / "exact"),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True, help="Of an environment with nnU-Net v2.")
    parser.add_argument("--dataset", type=Path, required=True, help="In nnU-Net's layout.")
    parser.add_argument("--model", type=Path, required=True, help="Folder of a model that nnU-Net trained.")
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=None, help="For temporary files.")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as temporary:
        root = Path(temporary)
        peer = Peer(arguments.peer_python, root / "peer", arguments.dataset)
        bundle = root / "model.zip"
        run([*AUTOSEG, "import-nnunet", str(arguments.model), str(bundle)])
        cases, large = root / "cases", root / "large"
        cases.mkdir()
        large.mkdir()
        images = sorted((arguments.dataset / "imagesTr").glob("*_0000.nii.gz"))[: arguments.cases]
        for image in images:
            (cases / image.name).symlink_to(image.resolve())
        large_volume(images[0], large / "large_0000.nii.gz")
        several = side_by_side(peer, arguments.model, bundle, cases, root / "several", arguments.rounds)
        one = side_by_side(peer, arguments.model, bundle, large, root / "one", arguments.rounds)
        result = {
            "benchmark": "predict",
            "cases": len(images),
            "large": LARGE,
            "rounds": arguments.rounds,
            "cpus": available_cpus(),
            "ours": {"cases": several["ours"], "large": one["ours"]},
            "peer": {"cases": several["peer"], "large": one["peer"]},
            "ratio": {"cases": several["ratio"], "large": one["ratio"]},
            "memory_ratio": {"cases": several["memory_ratio"], "large": one["memory_ratio"]},
            "agreement": {
                name: {key: some[key] for key in some if key not in ("ours", "peer", "ratio", "memory_ratio")}
                for name, some in (("cases", several), ("large", one))
            },
            "versions": {"autoseg": __version__, "torch": torch.__version__, "peer": peer.version()},
        }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
