"""The whole way, shortened, on real cases of every kind: plan, preprocess, train, validate, predict, evaluate."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.images.io import read_geometry, read_label

LABELS = {
    "openkbp_ct": ("brainstem", "spinal cord", "right parotid", "left parotid", "mandible"),
    "sts_multi": ("tumour",),
    "sts_pet": ("sarcoma",),
    "axon_sem": ("myelin", "axon"),
    "wbc1": ("cytoplasm", "nucleus"),
}
SETS = {
    "openkbp_ct": {"options": ["--channels", "CT"], "images": "images", "ending": ".nii.gz", "scheme": ["ct"]},
    "sts_multi": {"options": [], "images": "imagesTr", "ending": ".nii.gz", "scheme": ["ct", "zscore", "zscore"]},
    "sts_pet": {"options": ["--channels", "PET"], "images": "images", "ending": ".nii.gz", "scheme": ["zscore"]},
    "axon_sem": {"options": [], "images": "images", "ending": ".png", "scheme": ["zscore"]},
    "wbc1": {"options": [], "images": "images", "ending": ".png", "scheme": ["zscore"] * 3},
}
SHORT = (
    "training.num_folds=4",
    "training.epochs=1",
    "training.iterations_per_epoch=2",
    "training.validation_iterations=1",
    "prediction.mirroring=false",
    "prediction.step=1",
)


@pytest.mark.parametrize("name", SETS)
def test_whole_way(name, real_data, subset, autoseg, tmp_path):
    about = SETS[name]
    raw, workspace, out = tmp_path / "raw", tmp_path / "workspace", tmp_path / "out"
    subset(real_data / name, raw, 4)
    names = [] if (raw / "dataset.json").exists() else ["--label-names", ",".join(LABELS[name])]
    autoseg("plan", raw, "-w", workspace, "--gpu-memory", 0.5, *about["options"], *names)
    plan = json.loads((workspace / "plan.json").read_text())
    main = plan["configurations"].get("3d_fullres") or plan["configurations"]["2d"]
    assert main["normalization_schemes"] == about["scheme"]
    assert ("3d_fullres" in plan["configurations"]) == (name not in ("axon_sem", "wbc1"))

    settings = [f"--set={setting}" for setting in SHORT]
    if name != "wbc1":
        # Timing the ways to compute a step takes longer here than everything else.
        settings += ["--set=training.precision=bfloat16", "--set=training.sample_by_sample=true"]
    if "3d_fullres" not in plan["configurations"]:
        settings.append("--set=configurations.2d.batch_size=2")
    autoseg("train", 0, "-w", workspace, "--device", "cpu", *settings)
    folder = workspace / "models" / ("3d_fullres" if "3d_fullres" in plan["configurations"] else "2d") / "fold_0"
    evaluation = json.loads((folder / "validation" / "evaluation.json").read_text())
    assert set(evaluation["summary"]["labels"]) == set(LABELS[name])
    assert evaluation["unit"] == ("pixels" if about["ending"] == ".png" else "mm")

    inputs = sorted((raw / about["images"]).iterdir())
    first = inputs[: 3 if name == "sts_multi" else 1]
    autoseg("predict", *first, out, "-w", workspace, "--device", "cpu", "--no-mirroring", "--step", 1)
    (predicted,) = [file for file in out.iterdir() if file.name.endswith(about["ending"])]
    assert read_geometry([predicted], case="out").shape == read_geometry(first[:1], case="in").shape
    if about["ending"] == ".nii.gz":
        same_place(predicted, first[0])
    values = set(np.unique(read_label(predicted, case="out").array_zyx))
    assert values <= set(range(len(LABELS[name]) + 1))


def same_place(a: Path, b: Path) -> None:
    """Both files have the same grid in space."""
    one, other = read_geometry([a], case="a"), read_geometry([b], case="b")
    np.testing.assert_allclose(one.spacing_mm, other.spacing_mm, rtol=1e-6)
    np.testing.assert_allclose(one.origin_mm, other.origin_mm, rtol=1e-6, atol=1e-4)
    np.testing.assert_allclose(one.direction, other.direction, atol=1e-6)


def test_left_right_axis_is_not_mirrored(real_data, subset, autoseg, tmp_path):
    raw, workspace = tmp_path / "raw", tmp_path / "workspace"
    subset(real_data / "openkbp_ct", raw, 4)
    told = autoseg(
        "plan", raw, "-w", workspace, "--channels", "CT", "--label-names", ",".join(LABELS["openkbp_ct"])
    ).stdout
    plan = json.loads((workspace / "plan.json").read_text())
    # The scans lie straight: left-right is X, which stays the last axis.
    assert plan["configurations"]["3d_fullres"]["mirror_axes"] == [0, 1]
    assert plan["configurations"]["2d"]["mirror_axes"] == [0]
    assert "left from right" in told


def test_hippocampus_plan(real_data, autoseg, tmp_path):
    autoseg("plan", real_data / "hippocampus", "-w", tmp_path / "workspace")
    plan = json.loads((tmp_path / "workspace" / "plan.json").read_text())
    full, flat = plan["configurations"]["3d_fullres"], plan["configurations"]["2d"]
    assert full["spacing"] == [1.0, 1.0, 1.0]
    assert (full["patch_size"], full["batch_size"], full["n_stages"]) == ([40, 56, 40], 7, 4)
    assert full["strides"] == [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
    assert full["normalization_schemes"] == ["zscore"]
    assert (flat["patch_size"], flat["batch_size"]) == ([56, 40], 277)
