"""Every command and every piece of Python in the tutorials is run, in order, in an empty folder.

A block of a page runs if it is marked ``bash`` or ``python``; one without a mark is what was printed. Each bash block
is a script of its own that ends with the first command that fails; Python blocks of a page go on from those before.

Real trainings take minutes to hours. So in the short runs the pieces of text listed with each page are replaced; a
piece that is no longer in the page is an error, lest a page outgrow its test.
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared"
TUTORIALS = ROOT / "docs" / "tutorial"
# Timing the ways to compute a step would take longer than the training.
SHORT = "--max-hours 0.001 --set training.precision=bfloat16 --set training.sample_by_sample=true"
BLOCK = re.compile(r"^```(bash|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def shell(tmp_path):
    """Environment and folder of a user who has just installed this autoseg."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name, arguments in (("autoseg", "-m autoseg"), ("python", "")):
        program = programs / name
        program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {arguments} "$@"\n')
        program.chmod(0o755)
    folder = tmp_path / "home"
    folder.mkdir()
    # This checkout, should another one be installed.
    return folder, os.environ | {"PATH": f"{programs}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def walk(text: str, shell, replaced: dict[str, str]) -> str:
    """Run a page's blocks; what they printed."""
    folder, environment = shell
    for old, new in replaced.items():
        assert old in text, f"{old} is not in the page any more"
        text = text.replace(old, new)
    printed, python = "", ""
    for language, code in BLOCK.findall(text):
        if language == "python":
            python += code
            command = [sys.executable, "-c", python]
        else:
            command = ["bash", "-euo", "pipefail", "-c", code]
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{code}\n{done.stdout}\n{done.stderr}"
        printed += done.stdout
    return printed


def tutorial(name: str) -> str:
    """A page's text."""
    return (TUTORIALS / f"{name}.md").read_text(encoding="utf-8")


def test_every_tutorial_has_a_test():
    assert {page.stem for page in TUTORIALS.glob("*.md")} == {"first-model", "hippocampus"}


def test_first_model_in_seconds(shell):
    printed = walk(tutorial("first-model"), shell, {"--budget-hours 0.02": "--budget-hours 0.002"})
    folder = shell[0]
    assert "16 cases, 0 with a problem" in printed
    assert len(json.loads((folder / "segmented" / "evaluation.json").read_text())["cases"]) == 6
    for case in (folder / "segmented").glob("*.nii.gz"):
        assert case.read_bytes() == (folder / "elsewhere" / case.name).read_bytes()


@pytest.mark.long
def test_first_model_as_it_stands(shell):
    walk(tutorial("first-model"), shell, {})
    folder = shell[0]
    steps = json.loads((folder / "first/models/3d_fullres/fold_0/manifest.json").read_text())["iterations"]
    mean = json.loads((folder / "segmented" / "evaluation.json").read_text())["summary"]["mean"]
    # A machine with much else to do gets less far in the time.
    assert mean["dice"] > 0.8 or steps < 150


@pytest.fixture
def hippocampus(shell):
    """What a user of these commands has downloaded: the archive, labels of the scans to predict, a published table."""
    if not SHARED.is_dir():
        pytest.skip("the real cases are not on this machine")
    write_decathlon(SHARED / "data" / "hippocampus", shell[0], num_training=10, num_test=2)
    shutil.copy(SHARED / "baselines" / "msd_nnunet_percase.csv", shell[0] / "published.csv")


@pytest.mark.long
@pytest.mark.usefixtures("hippocampus")
def test_hippocampus_in_minutes(shell):
    # Fold 0 validates other cases of ten than of 260.
    replaced = {"--max-hours 0.75": SHORT, "hippocampus_017": "hippocampus_004"}
    printed = walk(tutorial("hippocampus"), shell, replaced)
    assert "10 cases -> hippo/plan.json" in printed
    assert "foreground mean  10" in printed
    assert len(list((shell[0] / "segmented").glob("*.nii.gz"))) == 2


@pytest.mark.long
@pytest.mark.usefixtures("hippocampus")
def test_readme_in_minutes(shell):
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    use = readme[readme.index("\n## Use\n") : readme.index("\n## The workspace\n")]
    # The viewer serves until it is interrupted.
    replaced = {
        "autoseg view -w hippo": "true",
        "--max-hours 1": SHORT,
        "--budget-hours 1": "--budget-hours 0.001",
        "0,1": "cpu,cpu",
    }
    printed = walk(use, shell, replaced)
    assert "# Why this plan" in printed
    assert "foreground mean  10" in printed
    assert (shell[0] / "hippo_onnx" / "fold_4.onnx").exists()


def write_decathlon(source: Path, home: Path, *, num_training: int, num_test: int) -> None:
    """A few cases in the archive that the Decathlon offers, and labels of the test cases in references."""
    cases = sorted(path.name for path in (source / "labelsTr").iterdir())[: num_training + num_test]
    raw, references = home / "Task04_Hippocampus", home / "references"
    for folder in (raw / "imagesTr", raw / "labelsTr", raw / "imagesTs", references):
        folder.mkdir(parents=True)
    for number, case in enumerate(cases):
        training = number < num_training
        image = source / "imagesTr" / case.replace(".nii.gz", "_0000.nii.gz")
        shutil.copy(image, raw / ("imagesTr" if training else "imagesTs") / case)
        shutil.copy(source / "labelsTr" / case, raw / "labelsTr" if training else references)
    description = {
        "name": "Hippocampus",
        "tensorImageSize": "3D",
        "modality": {"0": "MRI"},
        "labels": {"0": "background", "1": "Anterior", "2": "Posterior"},
        "numTraining": num_training,
        "numTest": num_test,
        "training": [{"image": f"./imagesTr/{c}", "label": f"./labelsTr/{c}"} for c in cases[:num_training]],
        "test": [f"./imagesTs/{c}" for c in cases[num_training:]],
    }
    (raw / "dataset.json").write_text(json.dumps(description))
    with tarfile.open(home / "Task04_Hippocampus.tar", "w") as archive:
        archive.add(raw, raw.name)
    shutil.rmtree(raw)
