"""Two configurations, three folds: select decides, predict follows, and an edited selection gives other label maps."""

import json
from pathlib import Path

import numpy as np
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.selection import Selection
from autoseg.demo.phantom import write_phantoms
from autoseg.images.io import read_label
from autoseg.images.probabilities import read_levels
from autoseg.layout import Workspace

NAMES = ("3d_fullres", "2d")
SHORT = (
    "training.epochs=2",
    "training.iterations_per_epoch=20",
    "training.optimizer=adamw",
    "training.initial_learning_rate=0.01",
    "training.foreground_share=1",
    "training.validation_iterations=1",
    "training.precision=float32",
    "training.sample_by_sample=false",
    "prediction.mirroring=false",
    "prediction.step=1",
)


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("selection") / "raw"
    write_phantoms(folder, num_training=7, num_test=1, seed=3)
    return folder


@pytest.fixture(scope="module")
def space(raw, autoseg):
    """A workspace in which two configurations were trained for a few steps, and one was chosen."""
    space = Workspace(raw.parent / "workspace")
    autoseg("plan", raw, "-w", space.root, "--gpu-memory", 0.1, "--jobs", 1, "--num-folds", 3)
    for name in NAMES:
        small = (f"configurations.{name}.batch_size=2", f"configurations.{name}.features_per_stage=[4,8,16,32]")
        settings = [f"--set={setting}" for setting in (*SHORT, *small)]
        autoseg("train", "all", "-w", space.root, "--configuration", name, "--device", "cpu", "--jobs", 1, *settings)
    autoseg("select", "-w", space.root, "--device", "cpu", "--jobs", 2)
    return space


def edit(space, **changes):
    """Change selection.json as a person with an editor would."""
    tree = json.loads(space.selection.read_text())
    space.selection.write_text(json.dumps({**tree, **changes}))


@pytest.fixture
def label_of(space, raw, autoseg, tmp_path):
    """Callable: the label map that `predict` makes of an unseen case, always in the same folder."""
    before = space.selection.read_bytes()

    def predict(*arguments):
        autoseg("predict", raw / "imagesTs", tmp_path / "out", "-w", space.root, "--device", "cpu", *arguments)
        return read_label(tmp_path / "out" / "phantom_test_000.nii.gz", case="phantom_test_000").array_zyx

    yield predict
    space.selection.write_bytes(before)


def test_the_selection_says_what_it_rests_on(space):
    selection = read(space.selection, Selection)
    assert selection.judged_on == selection.folds == (0, 1, 2)
    assert selection.num_cases == 7
    assert [candidate.words for candidate in selection.candidates] == [
        "3d_fullres, argmax",
        "2d, argmax",
        "3d_fullres, dice",
        "2d, dice",
        "3d_fullres + 2d, argmax",
        "3d_fullres + 2d, dice",
    ]
    assert [trial.label for trial in selection.rule_trials] == [None, "organ_a", "organ_b", "lesion"]
    for name, candidate in zip(NAMES, selection.candidates, strict=False):
        evaluations = [json.loads(space.fold(name, fold).evaluation.read_text()) for fold in range(3)]
        dice = [
            np.mean([label["dice"] for label in case.values()])
            for evaluation in evaluations
            for case in evaluation["cases"].values()
        ]
        assert candidate.mean_dice == pytest.approx(np.mean(dice))


def test_probabilities_agree_with_the_label_maps(space):
    folder = space.fold("3d_fullres", 0)
    files = sorted((folder.validation / "probabilities").iterdir())
    assert len(files) == 3
    for file in files:
        levels = read_levels(file)[:]
        label = read_label(folder.validation / f"{file.stem}.nii.gz", case=file.stem).array_zyx
        assert levels.dtype == np.uint8
        assert levels.shape == (4, *label.shape)
        first, second = np.sort(levels, axis=0)[[-1, -2]]
        clear = first.astype(int) - second > 1
        np.testing.assert_array_equal(levels.argmax(axis=0)[clear], label[clear])


def test_nothing_is_done_twice_and_stale_probabilities_are_redone(space, autoseg):
    levels = [file for name in NAMES for file in space.models(name).glob("fold_*/validation/probabilities/*")]
    assert len(levels) == 14
    before = {file: file.stat().st_mtime_ns for file in (*levels, space.selection)}
    told = autoseg("select", "-w", space.root, "--device", "cpu", "--jobs", 1)
    assert "up to date" in told.stderr
    assert {file: file.stat().st_mtime_ns for file in before} == before
    levels[0].write_bytes(levels[0].read_bytes()[:-10])
    kept = space.selection.rename(space.root / "kept.json")
    autoseg("select", "-w", space.root, "--device", "cpu", "--jobs", 1)
    again = {file: file.stat().st_mtime_ns for file in before}
    assert [file for file in levels if again[file] != before[file]] == levels[:1]
    assert json.loads(kept.read_text()) == json.loads(space.selection.read_text())


def test_a_changed_selection_changes_the_result(space, label_of):
    edit(space, configurations=["3d_fullres"], decoding="argmax", rules=[])
    first = label_of()
    np.testing.assert_array_equal(label_of("--configuration", "3d_fullres"), first)
    different = []
    for changes in (
        {"decoding": "dice"},
        {"configurations": ["2d", "3d_fullres"]},
        {"folds": [1]},
        {"rules": [{"label": None, "keep": "largest"}]},
        {"rules": [{"label": None, "keep": "min_volume_mm3", "threshold": 1e9}]},
    ):
        edit(
            space,
            **{"configurations": ["3d_fullres"], "decoding": "argmax", "rules": [], "folds": [0, 1, 2], **changes},
        )
        different.append(label_of())
    assert not different[-1].any()
    assert [int((label != first).sum()) > 0 for label in different[:3]] == [True] * 3
    # Once more as at first: what another selection left is not taken for this one's work.
    edit(space, configurations=["3d_fullres"], decoding="argmax", rules=[], folds=[0, 1, 2])
    np.testing.assert_array_equal(label_of(), first)


def test_named_folds_go_before_the_selection(space, label_of, autoseg, tmp_path):
    edit(space, rules=[{"label": None, "keep": "min_volume_mm3", "threshold": 1e9}])
    assert not label_of().any()
    assert label_of("--folds", "0,1,2").any()


def test_a_damaged_selection_is_explained(space, raw, autoseg, label_of, tmp_path):
    edit(space, decoding="softmax")
    told = autoseg("predict", raw / "imagesTs", tmp_path / "o", "-w", space.root, "--device", "cpu", check=False)
    assert told.returncode == 1
    assert "selection.json" in told.stderr
    assert "softmax" in told.stderr
    assert not Path(tmp_path / "o").exists()
