"""What integration tests share: the real command in a real process, and small data sets to run it on."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import sync_playwright

from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Plan
from autoseg.demo.phantom import write_phantoms
from autoseg.images.io import write_label

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"

# A small plan and a few steps: the way is the real one, the model is not meant to be good.
SHORT = (
    "training.epochs=2",
    "training.iterations_per_epoch=3",
    "training.validation_iterations=1",
    "training.checkpoint_minutes=0",
    "prediction.mirroring=false",
    "prediction.step=1",
)


@pytest.fixture(scope="session")
def autoseg() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Run a command; checked unless `check=False`."""

    def run(*arguments: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "autoseg", *map(str, arguments)], capture_output=True, text=True, check=False
        )
        assert not check or done.returncode == 0, done.stderr
        return done

    return run


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium; contexts of it can't reach the network unless a test lets them."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        pytest.skip("no Chromium is installed here")
    with sync_playwright() as playwright:
        # As root, in a container, there is no sandbox; WebGL is computed by the CPU.
        flags = ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
        chromium = playwright.chromium.launch(executable_path=found[0], args=flags)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The folder of real cases."""
    if not DATA.is_dir():
        pytest.skip("the real cases are not on this machine")
    return DATA


@pytest.fixture(scope="session")
def phantoms(tmp_path_factory) -> Path:
    """A small generated dataset in nnU-Net's layout."""
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    write_phantoms(folder, num_training=5, num_test=2, seed=7)
    return folder


@pytest.fixture(scope="session")
def trained(tmp_path_factory, phantoms, autoseg) -> Path:
    """A workspace with folds 0 and 1 trained for a few steps."""
    workspace = tmp_path_factory.mktemp("trained") / "workspace"
    autoseg("plan", phantoms, "-w", workspace, "--gpu-memory", 0.1, "--jobs", 1)
    autoseg("train", 0, 1, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={s}" for s in SHORT))
    return workspace


@pytest.fixture(scope="session")
def subset() -> Callable[[Path, Path, int], None]:
    """Copy the first cases of a dataset, whatever its layout."""

    def copy(source: Path, target: Path, count: int) -> None:
        for folder in sorted(path for path in source.iterdir() if path.is_dir()):
            files = sorted(folder.iterdir())
            names = sorted({stem(file) for file in files})[:count]
            (target / folder.name).mkdir(parents=True)
            for file in files:
                if stem(file) in names:
                    shutil.copy(file, target / folder.name)
        if (source / "dataset.json").exists():
            shutil.copy(source / "dataset.json", target)

    def stem(file: Path) -> str:
        return file.name.split(".")[0].rsplit("_000", 1)[0]

    return copy


@pytest.fixture(scope="session")
def slow_cases(tmp_path_factory, phantom, build_plan, build_configuration) -> tuple[Dataset, Plan]:
    """Ten cases that take a while each to prepare, and a plan for them."""
    raw = tmp_path_factory.mktemp("slow")
    cases = []
    for number in range(10):
        image, label = phantom((20 + number, 120, 110), seed=number)
        geometry = Geometry(shape=label.shape, spacing_mm=(3.0, 0.9, 0.9))
        name = f"case_{number:02}"
        write_label(raw / f"{name}_0000.nii.gz", (image[0] * 100 + 300).astype(np.uint16), geometry)
        write_label(raw / f"{name}.nii.gz", label, geometry)
        cases.append(Case(name=name, images=(f"{name}_0000.nii.gz",), label=f"{name}.nii.gz"))
    naming = Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz")
    labels = {"background": 0, "blob": 1}
    dataset = Dataset(
        root=str(raw), channel_names=("MR",), labels=labels, naming=naming, cases=tuple(cases), num_training=10
    )
    return dataset, build_plan({"3d_fullres": build_configuration((32, 96, 96), spacing=(1.5, 0.7, 0.7))})
