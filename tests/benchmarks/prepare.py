"""Wall time and peak memory of fingerprint + plan + preprocess (3d_fullres), ours and nnU-Net's in turn.

usage: prepare.py --peer-python PATH (--dataset PATH | --generated-ct N) [--rounds N] [--processes N] [--ours-only]

Each round makes everything anew: our `plan` and `preprocess` commands, then nnU-Net's three commands, with the same
number of processes and start-up included. --generated-ct makes N volumes of 512x512x(80-200) voxels first. The last
line is a JSON object; the figures are medians over the rounds: `ours` and `peer` in seconds, `ratio` how many times
faster ours is, `peak_gib` the most memory that all processes of a command held together, and `memory_ratio` how many
times less ours held.
"""

import argparse
import json
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parent))
from generated import write_ct
from measured import Ran, run
from peer import Peer

GIB = 2**30


def ours(dataset: Path, workspace: Path, processes: int) -> dict[str, Ran]:
    """Each of our commands."""
    autoseg = str(Path(sys.executable).with_name("autoseg"))
    jobs = ["-w", str(workspace), "--jobs", str(processes)]
    return {
        "plan": run([autoseg, "plan", str(dataset), *jobs]),
        "preprocess": run([autoseg, "preprocess", "--configuration", "3d_fullres", *jobs]),
    }


def theirs(peer: Peer, processes: int) -> dict[str, Ran]:
    """Each of nnU-Net's commands."""
    return {
        "fingerprint": peer.command("nnUNetv2_extract_fingerprint", "-d", "4", "-np", str(processes)),
        "plan": peer.command("nnUNetv2_plan_experiment", "-d", "4"),
        "preprocess": peer.command("nnUNetv2_preprocess", "-d", "4", "-c", "3d_fullres", "-np", str(processes)),
    }


def total_s(commands: dict[str, Ran]) -> float:
    """Seconds of them all."""
    return sum(ran.seconds for ran in commands.values())


def peak_gib(commands: dict[str, Ran]) -> float:
    """Most memory of any of them."""
    return max(ran.peak_bytes for ran in commands.values()) / GIB


def words(commands: dict[str, Ran]) -> str:
    """Seconds and memory of each, for people."""
    return ", ".join(f"{name} {ran.seconds:.2f} s {ran.peak_bytes / GIB:.2f} GiB" for name, ran in commands.items())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--dataset", type=Path)
    which.add_argument("--generated-ct", type=int, metavar="N")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--ours-only", action="store_true", help="for work on our side; nothing is compared")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        dataset = arguments.dataset
        if dataset is None:
            dataset = Path(folder) / "generated"
            write_ct(dataset, arguments.generated_ct)
        measure(dataset, arguments)


def measure(dataset: Path, arguments: argparse.Namespace) -> None:
    """Run the rounds and print what they took."""
    mine, other = [], []
    versions: dict[str, str] = {}
    for number in range(arguments.rounds):
        with tempfile.TemporaryDirectory() as folder:
            root = Path(folder)
            mine.append(ours(dataset, root / "workspace", arguments.processes))
            print(f"round {number + 1}: ours {words(mine[-1])}", flush=True)
            if not arguments.ours_only:
                peer = Peer(arguments.peer_python, root / "peer", dataset)
                other.append(theirs(peer, arguments.processes))
                versions = peer.version()
                print(f"round {number + 1}: peer {words(other[-1])}", flush=True)
    result = {
        "benchmark": "prepare",
        "dataset": dataset.name if arguments.dataset else f"generated CT, {arguments.generated_ct} volumes",
        "unit": "seconds",
        "ours": round(median(map(total_s, mine)), 2),
        "peak_gib": {"ours": round(median(map(peak_gib, mine)), 3)},
        "rounds": arguments.rounds,
        "processes": arguments.processes,
        "versions": {"autoseg": version("autoseg"), **versions},
    }
    if other:
        result["peer"] = round(median(map(total_s, other)), 2)
        result["ratio"] = round(median(total_s(b) / total_s(a) for a, b in zip(mine, other, strict=True)), 2)
        result["peak_gib"]["peer"] = round(median(map(peak_gib, other)), 3)
        result["memory_ratio"] = round(median(peak_gib(b) / peak_gib(a) for a, b in zip(mine, other, strict=True)), 2)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
