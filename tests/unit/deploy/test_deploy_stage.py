"""The folder of a deployed model: what is in it, what it may replace, and that it is whole or not there."""

import errno
import hashlib
from pathlib import Path

import msgspec
import pytest

from autoseg.artifacts.base import read
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.onnx_model import OnnxModel
from autoseg.artifacts.plan import Prediction
from autoseg.deploy import stage
from autoseg.deploy.onnx_predictor import OnnxPredictor, read_model
from autoseg.errors import ArtifactError, SettingError


@pytest.fixture
def quick(monkeypatch, graph_of):
    """Folds are not exported anew for each test."""
    monkeypatch.setattr(stage, "to_onnx", lambda network: graph_of(len(network.strides[0]), 0))


def contents(folder):
    return {file.name: file.read_bytes() for file in folder.iterdir()}


def test_what_a_folder_holds(tmp_path, trained_of, one_thread):
    out = tmp_path / "deep" / "model"
    made = stage.run([trained_of(fold=3)], out)
    assert sorted(contents(out)) == ["fold_3.onnx", "model.json", "predict.py"]
    assert [entry.name for entry in out.parent.iterdir()] == ["model"]
    assert read(out / "model.json", OnnxModel) == made
    (fold,) = made.folds
    assert hashlib.sha256((out / fold.file).read_bytes()).hexdigest() == fold.sha256
    assert fold.largest_difference < 1e-3
    assert OnnxPredictor(out).model.num_classes == 3


def test_the_record_says_what_the_plan_says(tmp_path, trained_of, quick):
    plan = {"prediction": Prediction(mirroring=False, step=0.7)}
    naming = Naming(image_suffixes=("_CT.nii.gz", "_PET.ome.tiff"), label_suffix=".nii.gz")
    made = stage.run([trained_of(plan=plan, naming=naming, file_values=(0, 5, 9))], tmp_path / "model")
    assert made.mirror_axes == ()
    assert made.step == 0.7
    assert made.image_suffixes == ("_CT", "_PET")
    assert read_model(tmp_path / "model").written_values == (0, 5, 9)


def test_an_earlier_export_is_replaced_and_nothing_else(tmp_path, trained_of, quick):
    out = tmp_path / "model"
    out.mkdir()
    stage.run([trained_of()], out)
    (out / "__pycache__").mkdir()
    stage.run([numbered(trained_of(), 1)], out)
    assert sorted(contents(out)) == ["fold_1.onnx", "model.json", "predict.py"]
    (out / "notes.txt").write_text("mine")
    before = contents(out)
    with pytest.raises(SettingError, match="something else") as caught:
        stage.run([trained_of()], out)
    assert caught.value.found == "notes.txt"
    assert contents(out) == before
    with pytest.raises(SettingError, match="this is a file"):
        stage.run([trained_of()], out / "notes.txt")


def numbered(fold, number):
    """The fold under another number."""
    return type(fold)(msgspec.structs.replace(fold.manifest, fold=number), fold.network)


def test_nothing_is_left_where_it_fails(tmp_path, trained_of, quick, monkeypatch):
    monkeypatch.setattr(stage, "largest_difference", lambda *_: float("nan"))
    with pytest.raises(ArtifactError, match="something else than torch"):
        stage.run([trained_of()], tmp_path / "model")
    assert list(tmp_path.iterdir()) == []


def failing_rename(monkeypatch, *fails):
    """Let `Path.rename` fail for folders of these names."""
    rename = Path.rename

    def attempt(self, target):
        if self.name in fails:
            raise OSError(errno.EACCES, "not allowed")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", attempt)


def test_an_earlier_export_comes_back_where_the_new_one_can_not_take_its_place(
    tmp_path, trained_of, quick, monkeypatch
):
    out = tmp_path / "model"
    stage.run([trained_of()], out)
    before = contents(out)
    failing_rename(monkeypatch, "new")
    with pytest.raises(ArtifactError, match="can't be written") as caught:
        stage.run([numbered(trained_of(), 1)], out)
    assert (caught.value.found, caught.value.hint) == ("not allowed", None)
    assert contents(out) == before
    assert list(tmp_path.iterdir()) == [out]


def test_an_earlier_export_that_can_not_come_back_is_kept_and_named(tmp_path, trained_of, quick, monkeypatch):
    out = tmp_path / "model"
    stage.run([trained_of()], out)
    before = contents(out)
    failing_rename(monkeypatch, "new", "earlier")
    with pytest.raises(ArtifactError, match="can't be written") as caught:
        stage.run([numbered(trained_of(), 1)], out)
    (folder,) = tmp_path.iterdir()
    assert str(folder / "earlier") in caught.value.hint
    assert contents(folder / "earlier") == before


def test_what_came_into_the_folder_meanwhile_is_not_lost(tmp_path, trained_of, quick, monkeypatch):
    out = tmp_path / "model"
    stage.run([trained_of()], out)
    compare = stage.largest_difference

    def slow(*arguments):
        (out / "notes.txt").write_text("mine")
        return compare(*arguments)

    monkeypatch.setattr(stage, "largest_difference", slow)
    with pytest.raises(SettingError, match="something else"):
        stage.run([numbered(trained_of(), 1)], out)
    assert sorted(contents(out)) == ["fold_0.onnx", "model.json", "notes.txt", "predict.py"]
    assert list(tmp_path.iterdir()) == [out]


def test_the_second_stage_of_a_cascade_is_refused(tmp_path, trained_of, build_plan, build_configuration):
    low = build_configuration(channels=2)
    fold = trained_of(previous_stage="3d_fullres", plan={})
    plan = msgspec.structs.replace(
        fold.manifest.plan, configurations={"3d_lowres": low, "3d_fullres": fold.manifest.configuration}
    )
    cascade = type(fold)(msgspec.structs.replace(fold.manifest, plan=plan), fold.network)
    with pytest.raises(SettingError, match="cascade"):
        stage.run([cascade], tmp_path / "model")


def test_what_the_program_cannot_read_is_said(tmp_path, trained_of, quick, caplog):
    stage.run([trained_of(naming=Naming(image_suffixes=("_0000.png",), label_suffix=".png"))], tmp_path / "model")
    assert "not .png" in caplog.text
    caplog.clear()
    stage.run([trained_of()], tmp_path / "model")
    assert "not ." not in caplog.text
