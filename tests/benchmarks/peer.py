"""nnU-Net v2 in its own environment: where its commands are and what they need."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import imageio.v3 as imageio
from measured import Ran, run

from autoseg.artifacts.dataset import Dataset
from autoseg.images.endings import file_ending

DATASET_NAME = "Dataset004_Benchmark"


class Peer:
    """An environment with nnU-Net v2 and a folder for its files.

    Parameters
    ----------
    python : Path
        Its interpreter.
    root : Path
        A folder of ours to work in.
    dataset : Path
        A dataset in nnU-Net's layout; copied.
    """

    def __init__(self, python: Path, root: Path, dataset: Path) -> None:
        # Not resolved: the interpreter of an environment is a link out of it.
        self.python = python.absolute()
        folders = {name: root / name for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
        for folder in folders.values():
            folder.mkdir(parents=True)
        shutil.copytree(dataset, folders["nnUNet_raw"] / DATASET_NAME)
        self.preprocessed = folders["nnUNet_preprocessed"] / DATASET_NAME
        self.environment = os.environ | {name: str(folder) for name, folder in folders.items()}

    def command(self, name: str, *arguments: str) -> Ran:
        """Run one of its console commands."""
        return run([str(self.python.parent / name), *arguments], self.environment)

    def script(self, script: Path, *arguments: str) -> str:
        """Run a program with its interpreter; gives what it printed. Nobody looks at its memory meanwhile."""
        command = [str(self.python), str(script), *arguments]
        return subprocess.run(command, env=self.environment, check=True, stdout=subprocess.PIPE, text=True).stdout

    def version(self) -> dict[str, str]:
        """Versions of nnU-Net and torch there."""
        code = "from importlib.metadata import version as v; print(v('nnunetv2'), v('torch'))"
        nnunet, torch = run([str(self.python), "-c", code], self.environment).out.split()
        return {"nnunetv2": nnunet, "torch": torch}


def in_nnunet_layout(dataset: Dataset, folder: Path) -> Path:
    """Copy a dataset, whose labels are numbered as nnU-Net wants them, into nnU-Net's layout; gives the folder."""
    (folder / "imagesTr").mkdir(parents=True)
    (folder / "labelsTr").mkdir()
    root = Path(dataset.root)
    ending = file_ending(dataset.cases[0].images[0])
    for case in dataset.cases:
        for channel, image in enumerate(case.images):
            _copy(root / image, folder / "imagesTr" / f"{case.name}_{channel:04}{ending}")
        _copy(root / str(case.label), folder / "labelsTr" / f"{case.name}{ending}")
    about = {
        "channel_names": {str(number): name for number, name in enumerate(dataset.channel_names)},
        "labels": dataset.labels,
        "numTraining": len(dataset.cases),
        "file_ending": ending,
    }
    (folder / "dataset.json").write_text(json.dumps(about))
    return folder


def _copy(source: Path, target: Path) -> None:
    """Copy a file; of a grey picture with transparency, which nnU-Net can't read, the grey alone."""
    pixels = imageio.imread(source) if source.suffix == ".png" else None
    if pixels is not None and pixels.ndim == 3 and pixels.shape[2] == 2:
        imageio.imwrite(target, pixels[..., 0])
    else:
        shutil.copy(source, target)
