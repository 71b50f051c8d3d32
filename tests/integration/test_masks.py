"""Masks of 0 and 255, as people draw them, the whole way: what is predicted compares with what was drawn."""

import json

import imageio.v3 as iio
import numpy as np

SHORT = (
    "training.epochs=1",
    "training.iterations_per_epoch=2",
    "training.validation_iterations=1",
    "prediction.mirroring=false",
)


def draw(raw, count=6, edge=40):
    """Grey pictures with a bright square, and the square as a mask of 0 and 255."""
    rng = np.random.default_rng(0)
    for folder in ("images", "masks"):
        (raw / folder).mkdir(parents=True)
    for number in range(count):
        mask = np.zeros((edge, edge), np.uint8)
        y, x = rng.integers(2, edge - 14, 2)
        mask[y : y + 12, x : x + 12] = 255
        picture = rng.integers(0, 60, mask.shape) + mask // 2
        iio.imwrite(raw / "images" / f"p{number}.png", picture.astype(np.uint8))
        iio.imwrite(raw / "masks" / f"p{number}.png", mask)


def test_masks_of_0_and_255(tmp_path, autoseg):
    raw, workspace, out = tmp_path / "raw", tmp_path / "w", tmp_path / "out"
    draw(raw)
    told = autoseg("plan", raw, "-w", workspace, "--gpu-memory", 0.1, "--jobs", 1)
    assert "0, 255 in the files are read as 0, 1" in told.stderr
    autoseg("train", 0, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={s}" for s in SHORT))
    validation = json.loads((workspace / "models/2d/fold_0/validation/evaluation.json").read_text())
    assert validation["labels"] == {"label_255": 255}
    autoseg("predict", raw / "images", out, "-w", workspace, "--device", "cpu")
    values = set().union(*(np.unique(iio.imread(file)).tolist() for file in out.glob("*.png")))
    assert 255 in values
    assert values <= {0, 255}
    # The names in dataset.json belong to the values in the files.
    autoseg("evaluate", out, raw / "masks", "--dataset", workspace / "dataset.json", "--jobs", 1)
    named = json.loads((out / "evaluation.json").read_text())
    autoseg("evaluate", out, raw / "masks", "--json", tmp_path / "unnamed.json", "--jobs", 1)
    unnamed = json.loads((tmp_path / "unnamed.json").read_text())
    assert named["summary"] == unnamed["summary"]
    assert named["summary"]["labels"]["label_255"]["dice"] > 0
