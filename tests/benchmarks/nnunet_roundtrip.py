"""nnU-Net trains from the plans file that we write for it.

usage: nnunet_roundtrip.py --peer-python PATH --dataset PATH [--configuration NAME] [--preset NAME]

`autoseg plan DATASET --write-nnunet` plans the dataset; nnU-Net measures and plans it too, preprocesses it by our file
and trains an iteration from it, behind its own loaders. The last line is a JSON object: `ours` and `peer` are seconds
that measuring and planning took, `ratio` how many times faster ours is, `differences` the keys in which the two plans
disagree, and `trained` the patch and batch of the iteration that nnU-Net did.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from peer import DATASET_NAME, Peer

PROGRAM = Path(__file__).with_name("peer_train_speed.py")
PLANNERS = {
    "plain": "ExperimentPlanner",
    "resenc-m": "nnUNetPlannerResEncM",
    "resenc-l": "nnUNetPlannerResEncL",
    "resenc-xl": "nnUNetPlannerResEncXL",
}
# Our statistics are exact where nnU-Net draws voxels; both files name the data after themselves.
EXPECTED_TO_DIFFER = ("foreground_intensity_properties_per_channel", "plans_name", "data_identifier")


def differences(ours: Any, theirs: Any, path: str = "") -> list[str]:
    """Dotted keys in which two JSON trees disagree."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        keys = [key for key in {**ours, **theirs} if key not in EXPECTED_TO_DIFFER]
        return [
            each for key in keys for each in differences(ours.get(key), theirs.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if ours == theirs else [path]


def timed(do: Any, *arguments: str) -> float:
    """Seconds that a call takes."""
    start = time.perf_counter()
    do(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--preset", choices=list(PLANNERS), default="plain")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        peer = Peer(arguments.peer_python, root / "peer", arguments.dataset)
        planner = PLANNERS[arguments.preset]
        theirs_s = timed(peer.command, "nnUNetv2_extract_fingerprint", "-d", "4", "-np", "2")
        theirs_s += timed(peer.command, "nnUNetv2_plan_experiment", "-d", "4", "-pl", planner)
        their_file = next(path for path in peer.preprocessed.glob("*Plans.json"))
        their_plans = json.loads(their_file.read_text())
        # From here on nnU-Net has no plans but ours.
        their_file.unlink()
        our_file = peer.preprocessed / "nnUNetPlans.json"
        autoseg = str(Path(sys.executable).with_name("autoseg"))
        command = [autoseg, "plan", str(arguments.dataset), "--jobs", "2", "--preset", arguments.preset]
        command += ["-w", str(root / "workspace"), "--write-nnunet", str(our_file)]
        ours_s = timed(lambda: subprocess.run(command, check=True, capture_output=True))
        our_plans = json.loads(our_file.read_text())
        peer.command("nnUNetv2_preprocess", "-d", "4", "-c", arguments.configuration, "-np", "2")
        trained = json.loads(peer.script(PROGRAM, DATASET_NAME, arguments.configuration, "1", "cpu").splitlines()[-1])
        versions = peer.version()
    planned = our_plans["configurations"][arguments.configuration]
    if (trained["patch"], trained["batch"]) != (planned["patch_size"], planned["batch_size"]):
        message = f"nnU-Net trained {trained}, not what was planned"
        raise SystemExit(message)
    result = {
        "benchmark": "nnunet_roundtrip",
        "dataset": arguments.dataset.name,
        "unit": "seconds to measure and plan",
        "ours": round(ours_s, 2),
        "peer": round(theirs_s, 2),
        "ratio": round(theirs_s / ours_s, 2),
        "preset": arguments.preset,
        "configuration": arguments.configuration,
        "differences": differences(our_plans, their_plans),
        "trained": {key: trained[key] for key in ("patch", "batch", "seconds_per_iteration")},
        "versions": {"autoseg": version("autoseg"), **versions},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
