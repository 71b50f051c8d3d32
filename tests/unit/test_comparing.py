"""What is given to `autoseg compare`, read as results."""

import json

import msgspec
import pytest
from click.testing import CliRunner

from autoseg.artifacts.base import read, write
from autoseg.artifacts.comparison import Comparisons
from autoseg.artifacts.evaluation import Evaluation, LabelScores, Metrics, Summary
from autoseg.artifacts.standing import Standing
from autoseg.cli import main
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


def test_a_workspace_beside_a_published_figure(workspace, tmp_path):
    out = tmp_path / "standing.json"
    name = "msd/Task02_Heart/nnunet-v2-plain"
    done = CliRunner().invoke(main, ["compare", str(workspace.root), "--baseline", name, "--json", str(out)])
    assert done.exit_code == 0, done.output
    standing = read(out, Standing)
    assert (standing.baseline, standing.foreground.mean, standing.foreground.published) == (name, 0.5, 0.9339)
    assert standing.num_patients < standing.num_cases
    assert "43.39 points below the published figure" in done.output


def test_a_file_as_baseline_goes_first_and_is_paired(workspace, tmp_path):
    [[scores]] = read_results([workspace.root])
    file = tmp_path / "theirs.csv"
    rows = [f"x,{case},1,{0.6 + 0.01 * index}" for index, case in enumerate(sorted(scores.cases))]
    file.write_text("\n".join(["arch,case,label,dice", *rows]))
    out = tmp_path / "result.json"
    done = CliRunner().invoke(main, ["compare", str(workspace.root), "--baseline", str(file), "--json", str(out)])
    assert done.exit_code == 0, done.output
    [result] = read(out, Comparisons).comparisons
    assert (result.a, result.paired_by) == (f"{file} (x)", "patient")
    assert result.foreground.mean_b_minus_a < 0
