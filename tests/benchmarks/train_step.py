"""Training throughput, loading and augmentation included, ours and nnU-Net's in turn on the same plan and data.

usage: train_step.py --peer-python PATH --dataset PATH [--configuration NAME] [--device cpu|cuda] [--iterations N]
                     [--rounds N]

Ours is `autoseg train` for a few iterations: the samples per second of its second epoch, as metrics.jsonl
has them. nnU-Net's is its trainer's own step behind its own loaders: batch size over the mean iteration. It trains by
our plan, as `autoseg plan --write-nnunet` gives it; a dataset in another layout than nnU-Net's is laid out for it.
The last line is a JSON object; `ours` and `peer` are samples per second (medians over rounds), `ratio` is how many
times faster ours is, `waiting_share` the largest share of the time that ours waited for data. On CUDA `gpu_busy` is the
mean share of the time in which the GPU computed during that epoch, as nvidia-smi samples it ten times a second: ours,
the least over the rounds.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import threading
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))
from peer import DATASET_NAME, Peer, in_nnunet_layout

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Dataset

PROGRAM = Path(__file__).with_name("peer_train_speed.py")


def ours(workspace: Path, configuration: str, iterations: int, folds: int, device: str) -> dict[str, Any]:
    """The second epoch's record of a short training, and how busy the GPU was then."""
    settings = {
        "training.epochs": 2,
        "training.iterations_per_epoch": iterations,
        "training.validation_iterations": 0,
        "training.validation_cases": 0,
        # A fold with few validation cases: they are predicted afterwards, outside the measurement.
        "training.num_folds": folds,
        "prediction.mirroring": "false",
    }
    options = [f"--set={key}={value}" for key, value in settings.items()]
    metrics = workspace / "models" / configuration / "fold_0" / "metrics.jsonl"
    metrics.unlink(missing_ok=True)
    with GpuWatch(metrics) if device == "cuda" else nullcontext() as watch:
        run(
            "train",
            "0",
            "-w",
            str(workspace),
            "--configuration",
            configuration,
            "--device",
            device,
            "--restart",
            *options,
        )
    record: dict[str, Any] = json.loads(metrics.read_text().splitlines()[-1])
    return record if watch is None else record | {"gpu_busy": watch.busy}


class GpuWatch(threading.Thread):
    """How busy the GPU is between the first and the second line of a metrics file."""

    def __init__(self, metrics: Path) -> None:
        super().__init__(daemon=True)
        self._metrics = metrics
        command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "-lms", "100"]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._samples: list[float] = []

    def run(self) -> None:
        for line in self._process.stdout or ():
            if self._metrics.exists() and len(self._metrics.read_text().splitlines()) == 1:
                self._samples.append(float(line) / 100)

    @property
    def busy(self) -> float:
        """Mean share."""
        return round(mean(self._samples), 3) if self._samples else 0.0

    def __enter__(self) -> "GpuWatch":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self.join()


def run(*arguments: str) -> None:
    """Run one of our commands."""
    autoseg = str(Path(sys.executable).with_name("autoseg"))
    subprocess.run([autoseg, *arguments], check=True, capture_output=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer-python", type=Path, required=True)
    parser.add_argument("--dataset", type=Path, required=True)
    parser.add_argument("--configuration", default="3d_fullres")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--iterations", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=2)
    arguments = parser.parse_args()
    name = arguments.configuration
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        workspace = root / "workspace"
        plans = root / "nnUNetPlans.json"
        run("plan", str(arguments.dataset), "-w", str(workspace), "--write-nnunet", str(plans))
        run("preprocess", "-w", str(workspace), "--configuration", name)
        dataset = arguments.dataset
        if not (dataset / "imagesTr").is_dir():
            dataset = in_nnunet_layout(read(workspace / "dataset.json", Dataset), root / "laid_out")
        peer = Peer(arguments.peer_python, root / "peer", dataset)
        peer.command("nnUNetv2_extract_fingerprint", "-d", "4", "-np", "2")
        peer.command("nnUNetv2_plan_experiment", "-d", "4")
        exported = json.loads(plans.read_text()) | {"dataset_name": DATASET_NAME}
        (peer.preprocessed / "nnUNetPlans.json").write_text(json.dumps(exported))
        peer.command("nnUNetv2_preprocess", "-d", "4", "-c", name, "-np", "2")
        folds = min(40, read(workspace / "dataset.json", Dataset).num_training)
        planned = exported["configurations"][name]
        figures = []
        waiting, busy = 0.0, []
        for number in range(arguments.rounds):
            record = ours(workspace, name, arguments.iterations, folds, arguments.device)
            printed = peer.script(PROGRAM, DATASET_NAME, name, str(arguments.iterations), arguments.device)
            theirs = json.loads(printed.strip().splitlines()[-1])
            if (theirs["patch"], theirs["batch"]) != (planned["patch_size"], planned["batch_size"]):
                message = f"nnU-Net trained {theirs}, not what was planned"
                raise SystemExit(message)
            figures.append((record["samples_per_second"], theirs["samples_per_second"]))
            waiting = max(waiting, record["waiting_share"])
            busy.append(record.get("gpu_busy"))
            print(f"round {number + 1}: ours {record}, peer {theirs}", flush=True)
        versions = peer.version()
    result = {
        "benchmark": "train_step",
        "dataset": arguments.dataset.name,
        "configuration": name,
        "unit": "samples per second",
        "ours": round(median(mine for mine, _ in figures), 3),
        "peer": round(median(theirs for _, theirs in figures), 3),
        "ratio": round(median(mine / theirs for mine, theirs in figures), 2),
        "device": arguments.device,
        "waiting_share": waiting,
        "gpu_busy": min(busy) if arguments.device == "cuda" else None,
        "rounds": arguments.rounds,
        "iterations": arguments.iterations,
        "versions": {"autoseg": version("autoseg"), "torch_ours": version("torch"), **versions},
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
