"""A student of two folds, by the commands a user gives."""

import json
import shutil

import pytest

STUDENT = "3d_fullres_student"


@pytest.fixture(scope="module")
def distilled(trained, autoseg, tmp_path_factory):
    """A workspace with two folds and their student."""
    workspace = tmp_path_factory.mktemp("distilled") / "workspace"
    shutil.copytree(trained, workspace)
    done = autoseg("distill", "-w", workspace, "--epochs", 2, "--device", "cpu", "--jobs", 1)
    return workspace, done.stdout


def test_it_is_trained_on_every_case_and_says_whom_it_imitates(distilled):
    workspace, _ = distilled
    manifest = json.loads((workspace / "models" / STUDENT / "fold_0" / "manifest.json").read_text())
    teachers = [json.loads((workspace / "models/3d_fullres" / f"fold_{k}/manifest.json").read_text()) for k in (0, 1)]
    assert len(manifest["cases"]["training"]) == 5
    assert not manifest["cases"]["validation"]
    assert len(manifest["teaching"]["weights_sha256"]) == 2
    features = manifest["plan"]["configurations"][STUDENT]["features_per_stage"]
    wide = teachers[0]["plan"]["configurations"]["3d_fullres"]["features_per_stage"]
    assert [2 * count for count in features] == wide
    assert manifest["finished"]


def test_both_are_compared_on_the_same_cases(distilled):
    workspace, printed = distilled
    result = json.loads((workspace / "models" / STUDENT / "distillation.json").read_text())
    assert len(result["cases"]) == 5
    assert not result["unseen"]
    assert result["student"]["num_parameters"] < result["teacher"]["num_parameters"] / 6
    assert "both were trained on" in printed
    assert not list((workspace / "models" / STUDENT).glob(".compared*"))


def test_a_second_time_nothing_is_done_again(distilled, autoseg):
    workspace, _ = distilled
    weights = workspace / "models" / STUDENT / "fold_0" / "weights.safetensors"
    comparison = workspace / "models" / STUDENT / "distillation.json"
    before, compared = weights.stat().st_mtime_ns, comparison.stat().st_mtime_ns
    autoseg("distill", "-w", workspace, "--epochs", 2, "--device", "cpu", "--jobs", 1)
    assert weights.stat().st_mtime_ns == before
    assert comparison.stat().st_mtime_ns == compared


def test_on_other_cases_it_is_compared_anew(distilled, phantoms, autoseg, tmp_path):
    """Labels named otherwise than the training set's, beside a longer name that begins alike."""
    workspace, _ = distilled
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    for name, source in (("a_1", "phantom_000"), ("a_10", "phantom_001")):
        shutil.copy(phantoms / "imagesTr" / f"{source}_0000.nii.gz", tmp_path / "images" / f"{name}_0000.nii.gz")
        shutil.copy(phantoms / "labelsTr" / f"{source}.nii.gz", tmp_path / "labels" / f"{name}_seg.nii.gz")
    folders = ("--images", tmp_path / "images", "--labels", tmp_path / "labels")
    done = autoseg("distill", "-w", workspace, "--epochs", 2, "--device", "cpu", "--jobs", 1, *folders)
    result = json.loads((workspace / "models" / STUDENT / "distillation.json").read_text())
    assert (result["cases"], result["unseen"]) == (["a_1", "a_10"], True)
    assert "took no part in training" in done.stdout
    (tmp_path / "labels" / "a_1_seg.nii.gz").unlink()
    done = autoseg("distill", "-w", workspace, "--epochs", 2, "--device", "cpu", *folders, check=False)
    assert done.returncode == 1
    assert "have no label map" in done.stderr
    assert autoseg("distill", "-w", workspace, *folders[:2], check=False).returncode == 2


def test_other_teachers_ask_for_a_restart(distilled, autoseg):
    workspace, _ = distilled
    done = autoseg("distill", "-w", workspace, "--folds", 0, "--epochs", 2, "--device", "cpu", check=False)
    assert done.returncode == 1
    assert "teacher's folds" in done.stderr
    assert "--restart" in done.stderr


def test_it_predicts_and_is_exported_like_any_fold(distilled, phantoms, autoseg, tmp_path):
    workspace, _ = distilled
    images = phantoms / "imagesTs"
    autoseg("predict", images, tmp_path / "out", "-w", workspace, "--configuration", STUDENT, "--device", "cpu")
    assert len(list((tmp_path / "out").glob("*.nii.gz"))) == 2
    autoseg("export", tmp_path / "student.zip", "-w", workspace, "--configuration", STUDENT)
    autoseg("predict", images, tmp_path / "again", "--model", tmp_path / "student.zip", "--device", "cpu")
    for file in (tmp_path / "out").glob("*.nii.gz"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes()


def test_students_are_not_distilled(distilled, autoseg):
    workspace, _ = distilled
    done = autoseg("distill", "-w", workspace, "--configuration", STUDENT, check=False)
    assert done.returncode == 1
    assert "a student" in done.stderr
