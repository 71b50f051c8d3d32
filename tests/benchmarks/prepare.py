"""Wall time of fingerprint + plan + preprocess (3d_fullres), ours and nnU-Net's in turn, as users run them.

usage: prepare.py --peer-python PATH --dataset PATH [--rounds N] [--processes N]

Each round makes everything anew: our `plan` and `preprocess` commands, then nnU-Net's three commands, with the same
number of processes and start-up included. The last line is a JSON object; the figures are medians over the rounds in
seconds, and `ratio` is how many times faster ours is.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from peer import Peer


def ours(dataset: Path, workspace: Path, processes: int) -> dict[str, float]:
    """Seconds of each of our commands."""
    autoseg = str(Path(sys.executable).with_name("autoseg"))
    jobs = ["-w", str(workspace), "--jobs", str(processes)]
    return {
        "plan": timed([autoseg, "plan", str(dataset), *jobs]),
        "preprocess": timed([autoseg, "preprocess", "--configuration", "3d_fullres", *jobs]),
    }


def timed(command: list[str]) -> float:
    """Seconds that a command takes."""
    start = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True)
    return time.perf_counter() - start


def theirs(peer: Peer, processes: int) -> dict[str, float]:
    """Seconds of each of nnU-Net's commands."""
    seconds = {}
    for name, command in {
        "fingerprint": ("nnUNetv2_extract_fingerprint", "-d", "4", "-np", str(processes)),
        "plan": ("nnUNetv2_plan_experiment", "-d", "4"),
        "preprocess": ("nnUNetv2_preprocess", "-d", "4", "-c", "3d_fullres", "-np", str(processes)),
    }.items():
        start = time.perf_counter()
        peer.command(*command)
        seconds[name] = time.perf_counter() - start
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    arguments = parser.parse_args()
    rounds = []
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            peer = Peer(arguments.peer_python, root / "peer", arguments.dataset)
            mine = ours(arguments.dataset, root / "workspace", arguments.processes)
            other = theirs(peer, arguments.processes)
            versions = peer.version()
        rounds.append((mine, other))
        print(f"round {number + 1}: ours {mine}, peer {other}", flush=True)
    mine_s = median(sum(mine.values()) for mine, _ in rounds)
    other_s = median(sum(other.values()) for _, other in rounds)
    result = {
        "benchmark": "prepare",
        "dataset": arguments.dataset.name,
        "unit": "seconds",
        "ours": round(mine_s, 2),
        "peer": round(other_s, 2),
        "ratio": round(median(sum(other.values()) / sum(mine.values()) for mine, other in rounds), 2),
        "rounds": arguments.rounds,
        "processes": arguments.processes,
        "versions": {"autoseg": version("autoseg"), **versions},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
