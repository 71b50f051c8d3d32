"""What is given to `autoseg compare`, read as results."""

import json

import msgspec
import pytest

from autoseg.artifacts.base import write
from autoseg.artifacts.evaluation import Evaluation, LabelScores, Metrics, Summary
from autoseg.comparing import read_results
from autoseg.errors import DatasetError, SettingError
from autoseg.layout import Workspace

NOTHING = dict.fromkeys(Metrics.__struct_fields__)


def evaluation(cases):
    """Of one label, Dice alone."""
    scores = {
        case: {"1": LabelScores(**{**NOTHING, "dice": dice}, n_reference_voxels=1, n_predicted_voxels=1)}
        for case, dice in cases.items()
    }
    return Evaluation(
        unit="mm",
        labels={"1": 1},
        tolerance_mm={},
        summary=Summary(mean=Metrics(**NOTHING), labels={}),
        cases=scores,
        hashes={},
    )


@pytest.fixture
def workspace(tmp_path, build_dataset):
    space = Workspace(tmp_path / "w")
    write(space.dataset, build_dataset(tmp_path / "raw"))
    tree = json.loads(space.dataset.read_bytes())
    names = [case["name"] for case in tree["cases"]]
    for index, case in enumerate(tree["cases"]):
        case["group"] = f"patient {index // 2}"
    space.dataset.write_text(json.dumps(tree))
    for fold in (0, 1):
        write(space.fold("3d_fullres", fold).evaluation, evaluation(dict.fromkeys(names[fold::2], 0.5)))
    return space


@pytest.fixture
def table(tmp_path):
    file = tmp_path / "scores.csv"
    rows = [f"{arch},{fold},c{fold},1,0.5" for arch in ("S", "L") for fold in (0, 1)]
    file.write_text("\n".join(["arch,fold,case,label,dice", *rows]))
    return file


def test_a_workspace_knows_folds_and_patients(workspace):
    [[scores]] = read_results([workspace.root])
    assert scores.source == str(workspace.models("3d_fullres"))
    names = sorted(scores.cases)
    assert scores.folds == {name: index % 2 for index, name in enumerate(names)}
    assert scores.groups == {name: f"patient {index // 2}" for index, name in enumerate(names)}
    [[alone]] = read_results([workspace.fold("3d_fullres", 1).evaluation])
    assert set(alone.groups) == set(names)
    [[named]] = read_results([workspace.root], group_by=r"^(.)")
    assert set(named.groups.values()) == {name[0] for name in names}


def test_metrics_are_read_once_each(workspace):
    [tables] = read_results([workspace.models("3d_fullres")], metrics=("dice", "iou", "dice"))
    assert [one.metric for one in tables] == ["dice", "iou"]


def test_one_table_stands_for_as_many_results_as_networks(table, workspace):
    found = read_results([table], archs=("S", "L"))
    assert [one.source for [one] in found] == [f"{table} (S)", f"{table} (L)"]
    assert found[0][0].folds == {"c0": 0, "c1": 1}
    found = read_results([table, workspace.root, table], archs=("L", "S"))
    assert [one.source.rpartition(" ")[2] for [one] in found][::2] == ["(L)", "(S)"]
    assert [one.source.rpartition(" ")[2] for [one] in read_results([table, table], archs=("L",))] == ["(L)", "(L)"]


def test_what_cannot_be_read(table, workspace):
    with pytest.raises(SettingError, match="as many names as tables"):
        read_results([table, workspace.root], archs=("S", "L"))
    with pytest.raises(SettingError, match="exactly one such arch"):
        read_results([table])
    with pytest.raises(DatasetError, match="gives no patient"):
        read_results([table], archs=("S",), group_by="^patient")
    for fold in (0, 1):
        workspace.fold("3d_fullres", fold).evaluation.unlink()
    with pytest.raises(SettingError, match="no fold is scored"):
        read_results([workspace.root])


def test_the_selected_configuration_goes_before_the_usual_one(workspace):
    write(workspace.fold("2d", 0).evaluation, evaluation({"x": 0.5}))
    [[usual]] = read_results([workspace.root])
    assert usual.source.endswith("3d_fullres")
    selection = {
        "configurations": ["2d"],
        "folds": [0],
        "num_cases": 1,
        "judged_on": [0],
        "candidates": [],
        "weights_sha256": {},
        "inputs_sha256": "",
    }
    workspace.selection.write_bytes(msgspec.json.encode(selection))
    [[selected]] = read_results([workspace.root])
    assert selected.source.endswith("2d")
