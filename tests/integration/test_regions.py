"""Overlapping regions and sparse annotation, the whole way, on real scans."""

import json

import numpy as np
import pytest
import SimpleITK as sitk  # noqa: N813

from autoseg.artifacts.labels import IGNORE
from autoseg.images.io import read_label

SHORT = (
    "training.epochs=1",
    "training.iterations_per_epoch=2",
    "training.validation_iterations=1",
    "prediction.mirroring=false",
    "prediction.step=1",
)
REGIONS = {"background": 0, "whole": [1, 2], "posterior": 2, IGNORE: 3}


@pytest.fixture
def sparse(real_data, subset, tmp_path):
    """Callable: some hippocampus cases, with the slices told for each number of slices not annotated."""

    def make(ignored_slices, count=5):
        raw = tmp_path / "raw"
        subset(real_data / "hippocampus", raw, count)
        for file in sorted((raw / "labelsTr").iterdir()):
            label = sitk.ReadImage(str(file))
            array = sitk.GetArrayFromImage(label).astype(np.uint8)
            array[ignored_slices(len(array))] = 3
            changed = sitk.GetImageFromArray(array)
            changed.CopyInformation(label)
            sitk.WriteImage(changed, str(file))
        description = json.loads((raw / "dataset.json").read_text())
        description |= {"labels": REGIONS, "regions_class_order": [1, 2], "numTraining": count}
        (raw / "dataset.json").write_text(json.dumps(description))
        return raw

    return make


LEARNING = ("training.max_hours=0.06", "training.validation_iterations=1", "prediction.mirroring=false")


@pytest.mark.long
def test_regions_are_learnt_from_three_quarters_of_the_slices(sparse, autoseg, tmp_path):
    raw, workspace = sparse(lambda n: np.arange(0, n, 4), count=40), tmp_path / "w"
    autoseg("plan", raw, "-w", workspace, "--jobs", 1)
    autoseg("train", 0, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={s}" for s in LEARNING))
    losses = metrics(workspace)
    assert losses[-1]["train_loss"] < losses[0]["train_loss"] - 0.5
    scores = json.loads((workspace / "models/3d_fullres/fold_0/validation/evaluation.json").read_text())
    # Chance would be below 0.1; a usual training reaches 0.85.
    assert scores["summary"]["labels"]["whole"]["dice"] > 0.6


def metrics(workspace):
    """What each epoch of the fold says."""
    lines = (workspace / "models/3d_fullres/fold_0/metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def walk(autoseg, raw, workspace):
    """Plan, train, predict and evaluate; gives the evaluation of the training cases."""
    autoseg("plan", raw, "-w", workspace, "--gpu-memory", 0.1, "--jobs", 1)
    autoseg("train", 0, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={s}" for s in SHORT))
    out = workspace / "predicted"
    autoseg("predict", raw / "imagesTr", out, "-w", workspace, "--device", "cpu", "--save-probabilities")
    autoseg("evaluate", out, raw / "labelsTr", "--dataset", workspace / "dataset.json", "--jobs", 1)
    return json.loads((out / "evaluation.json").read_text())


def test_a_quarter_of_the_slices_is_not_annotated(sparse, autoseg, tmp_path):
    raw, workspace = sparse(lambda n: np.arange(0, n, 4)), tmp_path / "w"
    scores = walk(autoseg, raw, workspace)
    assert list(scores["summary"]["labels"]) == ["whole", "posterior"]
    assert (scores["labels"], scores["ignore"]) == ({"whole": [1, 2], "posterior": 2}, 3)
    fingerprint = json.loads((workspace / "fingerprint.json").read_text())
    case = fingerprint["cases"][0]
    label = read_label(raw / "labelsTr" / f"{case['name']}.nii.gz", case="first").array_zyx
    assert case["label_voxels"] == {"whole": int(np.isin(label, (1, 2)).sum()), "posterior": int((label == 2).sum())}
    assert scores["cases"][case["name"]]["whole"]["n_reference_voxels"] == case["label_voxels"]["whole"]
    probabilities = np.load(workspace / "predicted" / f"{case['name']}.npz")["probabilities"]
    predicted = read_label(workspace / "predicted" / f"{case['name']}.nii.gz", case="first").array_zyx
    assert probabilities.shape == (2, *predicted.shape)
    # The second region is written last; half precision leaves open what lies at one half.
    sure = np.abs(probabilities[1] - 0.5) > 1e-3
    np.testing.assert_array_equal((predicted == 2)[sure], (probabilities[1] > 0.5)[sure])


def test_a_single_annotated_slice_is_enough(sparse, autoseg, tmp_path):
    raw = sparse(lambda n: np.arange(n) != n // 2)
    scores = walk(autoseg, raw, tmp_path / "w")
    epochs = metrics(tmp_path / "w")
    assert all(np.isfinite([epoch["train_loss"], epoch["validation_loss"]]).all() for epoch in epochs)
    for case in scores["cases"].values():
        assert case["whole"]["n_predicted_voxels"] <= 60 * 60
