"""Ensembles, resuming and restarting, on generated scans."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from autoseg import pipeline
from autoseg.datasets.layouts import group_inputs
from autoseg.images.io import read_geometry, read_label
from autoseg.layout import Workspace
from autoseg.predict.case import mean_logits
from autoseg.predict.models import load_models
from autoseg.predict.stage import Options
from autoseg.predictor import RawVolume
from autoseg.train.state import save_weights
from autoseg.transforms.chain import restore_labels


def begin(trained, workspace):
    """A workspace with the plan and the prepared cases of another."""
    workspace.mkdir()
    for name in ("dataset.json", "fingerprint.json", "plan.json"):
        (workspace / name).write_bytes((trained / name).read_bytes())
    (workspace / "preprocessed").symlink_to(trained / "preprocessed")
    return workspace


def test_two_folds_predict_the_mean_of_their_logits(trained, phantoms, autoseg, tmp_path):
    inputs = sorted((phantoms / "imagesTs").iterdir())
    autoseg("predict", *inputs, tmp_path / "out", "-w", trained, "--device", "cpu", "--save-probabilities")
    space, device = Workspace(trained), torch.device("cpu")
    folders = [space.fold("3d_fullres", fold) for fold in (0, 1)]
    models = load_models(folders, device)
    options = {"device": device, "mirror_axes": (), "step": 1.0}
    for case in group_inputs(inputs, models[0].manifest.naming, 1):
        volume = RawVolume(case).read(models[0])
        single = [mean_logits([model], volume.image_czyx, **options) for model in models]
        both = mean_logits(models, volume.image_czyx, **options)
        np.testing.assert_allclose(both, (single[0] + single[1]) / 2, atol=1e-4)
        expected = restore_labels(
            (single[0] + single[1]) / 2, volume.placement, models[0].plan, models[0].configuration
        )
        file = tmp_path / "out" / f"{case.name}.nii.gz"
        predicted = read_label(file, case=case.name)
        np.testing.assert_array_equal(predicted.array_zyx, expected)
        assert predicted.geometry == read_geometry([Path(case.images[0])], case=case.name)
        probabilities = np.load(file.with_name(f"{case.name}.npz"))["probabilities"]
        assert probabilities.dtype == np.float16
        assert probabilities.shape == (4, *expected.shape)


def test_evaluate_and_compare(trained, phantoms, autoseg, tmp_path):
    autoseg("predict", phantoms / "imagesTs", tmp_path / "out", "-w", trained, "--folds", "0", "--device", "cpu")
    autoseg("evaluate", tmp_path / "out", phantoms / "labelsTs", "--json", tmp_path / "a.json")
    autoseg("evaluate", phantoms / "labelsTs", phantoms / "labelsTs", "--json", tmp_path / "b.json")
    perfect = json.loads((tmp_path / "b.json").read_text())["summary"]["mean"]
    assert (perfect["dice"], perfect["nsd"], perfect["hd95_mm"]) == (1.0, 1.0, 0.0)
    told = autoseg("compare", tmp_path / "a.json", tmp_path / "b.json", "--json", tmp_path / "c.json").stdout
    assert "label_1" in told
    assert json.loads((tmp_path / "c.json").read_text())


def test_a_finished_fold_is_not_trained_again(trained, autoseg):
    weights = trained / "models" / "3d_fullres" / "fold_0" / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    manifest = json.loads(weights.with_name("manifest.json").read_text())
    autoseg("train", 0, "-w", trained, "--device", "cpu", *(f"--set={s}" for s in manifest["settings"]))
    assert weights.stat().st_mtime_ns == before
    other = autoseg("train", 0, "-w", trained, "--device", "cpu", check=False)
    assert other.returncode == 1
    assert "--restart" in other.stderr


@pytest.mark.long
def test_killed_training_goes_on_from_its_checkpoint(trained, autoseg, tmp_path):
    workspace = begin(trained, tmp_path / "workspace")
    settings = {
        "training.epochs": 4,
        "training.iterations_per_epoch": 4,
        "training.validation_iterations": 0,
        "training.checkpoint_minutes": 0,
        "prediction.mirroring": "false",
    }
    command = ["train", "0", "-w", str(workspace), "--device", "cpu", *(f"--set={k}={v}" for k, v in settings.items())]
    folder = workspace / "models" / "3d_fullres" / "fold_0"
    process = subprocess.Popen([sys.executable, "-m", "autoseg", *command], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not (folder / "checkpoint.pt").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    saved = torch.load(folder / "checkpoint.pt", weights_only=True)["iteration"]
    assert 0 < saved < 16
    assert not (folder / "weights.safetensors").exists()

    told = autoseg(*command).stderr
    assert "goes on after iteration" in told
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["finished"], manifest["iterations"], manifest["epochs"]) == (True, 16, 4)
    assert manifest["final_learning_rate"] == 0
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in metrics] == [0, 1, 2, 3]
    assert all(torch.isfinite(tensor).all() for tensor in load_file(folder / "weights.safetensors").values())


def test_sigterm_saves_and_ends_with_143(trained, tmp_path):
    workspace = begin(trained, tmp_path / "workspace")
    command = [
        "train",
        "0",
        "-w",
        str(workspace),
        "--device",
        "cpu",
        "--epochs",
        "9",
        "--set=training.precision=float32",
    ]
    process = subprocess.Popen([sys.executable, "-m", "autoseg", *command], stderr=subprocess.PIPE, text=True)
    folder = workspace / "models" / "3d_fullres" / "fold_0"
    with process:
        # The bar's or the board's first file: from here on signals are caught.
        while not (folder / "tensorboard").exists():
            time.sleep(0.02)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        told = process.communicate(timeout=120)[1]
    assert process.returncode == 143, told
    assert "goes on from here" in told
    assert torch.load(folder / "checkpoint.pt", weights_only=True)["iteration"] > 0


@pytest.mark.long
def test_the_dice_of_whole_cases_is_what_predict_and_evaluate_find(trained, tmp_path, monkeypatch):
    space = Workspace(begin(trained, tmp_path / "workspace"))
    seen, measure = [], pipeline._case_dice

    def spy(*arguments):
        *_, network, _, name = arguments
        save_weights(tmp_path / "then.safetensors", network)
        seen.append((name, measure(*arguments)))
        return seen[-1][1]

    monkeypatch.setattr(pipeline, "_case_dice", spy)
    settings = [f"training.{s}" for s in (
        "epochs=2", "iterations_per_epoch=12", "validation_iterations=1", "validation_every=1", "precision=float32",
        "initial_learning_rate=0.05", "momentum=0.9",
    )]  # fmt: skip
    settings += ["prediction.mirroring=false", "prediction.step=1"]
    pipeline.train(space, pipeline.TrainingWish(folds=[2], settings=settings, jobs=1), device_name="cpu")
    folder = space.fold("3d_fullres", 2)
    first, last = (json.loads(line) for line in folder.metrics.read_text().splitlines())
    assert first["whole_case_dice_per_case"] == dict(seen)
    assert last["whole_case_dice"] is None
    ((name, value),) = seen
    assert 0.05 < value < 1

    # The weights of that moment, in place of the final ones.
    folder.weights.write_bytes((tmp_path / "then.safetensors").read_bytes())
    dataset, _ = pipeline.open_workspace(space)
    case = next(case for case in dataset.cases if case.name == name)
    files = pipeline.predict(
        space.root, [Path(dataset.root) / image for image in case.images], tmp_path / "out", folds=[2],
        device_name="cpu", options=Options(mirroring=False),
    )  # fmt: skip
    found = pipeline.evaluate(
        files, {name: Path(dataset.root) / case.label}, dataset.labels_in_files, tmp_path / "evaluation.json", jobs=1
    )
    assert found.summary.mean.dice == first["whole_case_dice"] == value


@pytest.mark.long
def test_time_budget_ends_at_rate_zero(trained, autoseg, tmp_path):
    workspace = begin(trained, tmp_path / "workspace")
    hours = 5 / 3600
    autoseg(
        "train", 2, "-w", workspace, "--device", "cpu", "--max-hours", hours,
        "--set=prediction.mirroring=false", "--set=training.validation_iterations=0",
    )  # fmt: skip
    manifest = json.loads((workspace / "models" / "3d_fullres" / "fold_2" / "manifest.json").read_text())
    assert manifest["final_learning_rate"] == 0
    assert manifest["iterations"] > 1
    assert manifest["training_seconds"] < 3 * 5
