"""Which cases are shown, and in which order."""

import shutil

import pytest

from autoseg.errors import DatasetError, SettingError
from autoseg.view.cases import folder_cases, workspace_cases


def names(cases):
    return [case.name for case in cases]


def test_the_worst_comes_first(workspace):
    cases = workspace_cases(workspace, None, None)
    assert names(cases) == ["bad", "fair", "good"]
    assert [case.fold for case in cases] == [1, 1, 0]
    assert cases[2].dice == {"left": 1.0, "right": 1.0}
    assert cases[0].mean_dice < cases[1].mean_dice < 1
    assert cases[0].channel_names == ("T1", "T2")
    assert all(path.is_file() for case in cases for path in (*case.images, case.reference, case.predicted))


def test_cases_that_are_named_come_in_that_order(workspace):
    assert names(workspace_cases(workspace, None, None, ["good", "bad", "good"])) == ["good", "bad"]
    with pytest.raises(SettingError, match=r"no such case[^?]*did you mean fair\?"):
        workspace_cases(workspace, None, None, ["fiar"])


def test_folds_and_configurations(workspace):
    assert names(workspace_cases(workspace, "3d_fullres", [0])) == ["good"]
    with pytest.raises(SettingError, match=r"no scored validation cases[^.]*found: *4"):
        workspace_cases(workspace, None, [0, 4])
    with pytest.raises(SettingError, match="no validation cases to look at"):
        workspace_cases(workspace, "2d", None)


def test_plain_folders(workspace, tmp_path):
    raw, fold = tmp_path / "raw", workspace.fold("3d_fullres", 1)
    references = tmp_path / "references"
    references.mkdir()
    for name in ("fair", "bad"):
        shutil.copy(raw / f"{name}.nii.gz", references / f"{name}_gt.nii.gz")
        (raw / f"{name}.nii.gz").unlink()
    cases = folder_cases(raw, fold.validation, references)
    assert names(cases) == ["bad", "fair"]  # by the evaluation.json beside the predictions
    assert [path.name for path in cases[0].images] == ["bad_0000.nrrd", "bad_0001.nrrd"]
    assert cases[0].reference == references / "bad_gt.nii.gz"
    assert cases[0].labels == {"left": 1, "right": 2}
    fold.evaluation.unlink()
    alone = folder_cases(raw, fold.validation, None, dataset=workspace.dataset)
    assert [(case.name, case.reference, case.mean_dice) for case in alone] == [
        ("bad", None, None),
        ("fair", None, None),
    ]
    assert alone[0].labels == {"left": 1, "right": 2}


def test_a_case_without_image_is_named(workspace, tmp_path):
    validation = workspace.fold("3d_fullres", 1).validation
    (tmp_path / "empty").mkdir()
    with pytest.raises(DatasetError, match=r"a case has no image[^.]*case bad"):
        folder_cases(tmp_path / "empty", validation, None)
    with pytest.raises(DatasetError, match="a folder is missing"):
        folder_cases(tmp_path / "nowhere", validation, None)
