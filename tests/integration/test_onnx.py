"""Models as ONNX: exported by the real command, predicting what autoseg predicts on phantoms and on real cases."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from autoseg.images.io import read_label

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"
NUM_CASES = 3
SINGLE = ("--device", "cpu", "--precision", "float32")


def predict_alone(folder, *arguments):
    """Run predict.py as a user does."""
    done = subprocess.run(
        [sys.executable, folder / "predict.py", *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def share_equal(one, other):
    """Of the voxels of all label maps in two folders."""
    names = sorted(file.name for file in other.glob("*.nii.gz"))
    assert names == sorted(file.name for file in one.glob("*.nii.gz"))
    maps = [tuple(read_label(folder / name, case=name).array_zyx for folder in (one, other)) for name in names]
    assert any(len(np.unique(ours)) > 1 for ours, _ in maps)
    return sum(np.sum(ours == theirs) for ours, theirs in maps) / sum(ours.size for ours, _ in maps)


def test_a_trained_workspace_predicts_without_it(trained, phantoms, autoseg, tmp_path):
    done = autoseg("export", tmp_path / "model", "--onnx", "-w", trained, "--folds", 1)
    assert "1 folds" in done.stdout
    assert (tmp_path / "model" / "fold_1.onnx").exists()
    image = sorted((phantoms / "imagesTs").iterdir())[0]
    autoseg("predict", image, tmp_path / "ours", "-w", trained, "--folds", 1, *SINGLE)
    predict_alone(tmp_path / "model", image, tmp_path / "theirs")
    assert share_equal(tmp_path / "ours", tmp_path / "theirs") > 0.999


def test_nnunets_model_predicts_real_cases(real_data, autoseg, tmp_path):
    if not PEERS.is_dir():
        pytest.skip("nnU-Net's model is not on this machine")
    bundle, model = tmp_path / "model.zip", tmp_path / "model"
    autoseg("import-nnunet", PEERS / "nnunet_hippocampus_model", bundle)
    autoseg("export", model, "--onnx", "--model", bundle)
    assert json.loads((model / "model.json").read_text())["folds"][0]["largest_difference"] < 1e-3
    inputs = sorted((real_data / "hippocampus" / "imagesTr").glob("*.nii.gz"))[:NUM_CASES]
    autoseg("predict", *inputs, tmp_path / "ours", "--model", bundle, "--no-mirroring", *SINGLE)
    predict_alone(model, *inputs, tmp_path / "theirs", "--no-mirroring")
    assert share_equal(tmp_path / "ours", tmp_path / "theirs") > 0.999
