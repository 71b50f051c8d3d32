"""Which configurations and folds are compared, and what predict makes of selection.json."""

import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoseg import selecting
from autoseg.artifacts.base import write
from autoseg.artifacts.bundle import write_bundle
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, Teaching, TrainedModel
from autoseg.artifacts.selection import Candidate, Rule, Selection
from autoseg.artifacts.splits import Fold, Splits
from autoseg.console import selection_lines
from autoseg.errors import SettingError
from autoseg.layout import Workspace
from autoseg.networks.stored import fold_at
from autoseg.networks.unet import build_network
from autoseg.pipeline import export_bundle
from autoseg.predict.case import Volume
from autoseg.predict.stage import Options
from autoseg.predictor import Predictor
from autoseg.selecting import find_considered, mean_score

IMAGE = np.random.default_rng(0).standard_normal((1, 6, 10, 9), dtype=np.float32)


@pytest.fixture
def plan(build_plan, build_configuration):
    return build_plan(
        {
            "2d": build_configuration((8, 8), ((1, 1), (2, 2))),
            "3d_fullres": build_configuration((4, 8, 8)),
            "3d_lowres": build_configuration((4, 8, 8), spacing=(2.0, 2.0, 2.0)),
        },
        labels={"background": 0, "a": 1, "b": 2},
    )


@pytest.fixture
def train(tmp_path, plan):
    """Callable: a fold as training leaves it."""

    def make(name, fold, *, seed=None, **changes):
        folder = Workspace(tmp_path / "w").fold(name, fold)
        manifest = TrainedModel(
            inputs_sha256="0",
            data_sha256="0",
            plan=changes.pop("plan", plan),
            settings=(),
            configuration_name=name,
            fold=fold,
            cases=Fold(training=("x",), validation=(f"case_{fold}",)),
            naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
            step=StepStyle(precision="float32"),
            step_seconds={},
            num_parameters=1,
            device="cpu",
            autoseg_version="0",
            torch_version="0",
            **{"finished": True, **changes},
        )
        torch.manual_seed(fold if seed is None else seed)
        write(folder.manifest, manifest)
        num_inputs = manifest.plan.num_inputs(manifest.configuration)
        network = build_network(manifest.configuration, num_inputs, manifest.plan.num_classes)
        save_file({key: value * 3 for key, value in network.state_dict().items()}, folder.weights)
        return folder

    return make


@pytest.fixture
def space(tmp_path):
    return Workspace(tmp_path / "w")


@pytest.fixture
def selected(space, train):
    """A workspace with two configurations of two folds, and their selection; callable to change it."""
    folders = {name: [train(name, fold) for fold in (0, 1)] for name in ("2d", "3d_fullres")}
    selection = Selection(
        configurations=("3d_fullres",),
        folds=(0, 1),
        num_cases=2,
        judged_on=(0, 1),
        candidates=(Candidate(configurations=("3d_fullres",), mean_dice=0.5),),
        weights_sha256={
            name: {str(fold): fold_at(folder.root).weights_sha256 for fold, folder in enumerate(each)}
            for name, each in folders.items()
        },
        inputs_sha256="0",
    )

    def change(**changes):
        write(space.selection, msgspec.structs.replace(selection, **changes))
        return Predictor(space.root, device_name="cpu", options=Options(mirroring=False, precision="float32"))

    return change


def test_all_that_is_trained_is_considered_preferred_first(space, plan, train):
    for name, fold in (("2d", 0), ("2d", 1), ("2d", 2), ("3d_fullres", 1), ("3d_fullres", 2), ("3d_fullres", 3)):
        train(name, fold)
    train("3d_lowres", 0, finished=False)
    considered = find_considered(space, plan, (), None)
    assert considered.configurations == ("3d_fullres", "2d")
    assert considered.folds == (1, 2)
    assert considered.left_out == (
        "3d_lowres: no fold is trained to the end",
        "3d_fullres, fold 3: not judged, for not every configuration has it",
        "2d, fold 0: not judged, for not every configuration has it",
    )


def test_all_folds_of_what_is_chosen_predict(space, plan, train):
    for name, fold in (("2d", 0), ("2d", 1), ("2d", 2), ("3d_fullres", 1), ("3d_fullres", 2), ("3d_fullres", 3)):
        train(name, fold)
    considered = find_considered(space, plan, (), None)
    assert considered.folds == (1, 2)
    assert considered.predicting_all(["3d_fullres"]) == (1, 2, 3)
    assert considered.predicting_all(["2d"]) == (0, 1, 2)
    assert considered.predicting_all(["2d", "3d_fullres"]) == (1, 2)
    # Folds that are named are those that predict.
    assert find_considered(space, plan, (), [2]).predicting_all(["3d_fullres"]) == (2,)


def test_a_trial_does_not_cut_the_evidence(space, plan, train):
    for name, number in (("3d_fullres", 4), ("3d_lowres", 2), ("2d", 1)):
        for fold in range(number):
            train(name, fold)
    considered = find_considered(space, plan, (), None)
    assert considered.configurations == ("3d_fullres", "3d_lowres")
    assert considered.folds == (0, 1)
    assert considered.left_out[0].startswith("2d: only fold 0 trained to the end, less than half")
    assert find_considered(space, plan, ("2d", "3d_fullres"), None).folds == (0,)
    # Where folds are named, all that is compared has these.
    assert find_considered(space, plan, (), [0]).configurations == ("3d_fullres", "2d", "3d_lowres")


def test_what_the_plan_does_not_have_is_told(space, plan, train):
    train("2d", 0)
    student, old = ({name: plan.configurations["2d"]} for name in ("2d_student", "old"))
    teaching = Teaching(paths=("there",), weights_sha256=("0",), share=0.5, temperature=2.0)
    train("2d_student", 0, plan=msgspec.structs.replace(plan, configurations=student), teaching=teaching)
    train("old", 0, plan=msgspec.structs.replace(plan, configurations=old))
    left_out = find_considered(space, plan, (), None).left_out
    assert "2d_student: a student is trained on every case: it has no validation cases" in left_out
    assert "old: the plan has no such configuration" in left_out
    with pytest.raises(SettingError, match="can't be judged") as caught:
        find_considered(space, plan, ("2d_student",), None)
    assert "no validation cases" in str(caught.value)
    with pytest.raises(SettingError, match="can't be judged") as caught:
        find_considered(space, plan, ("old",), None)
    assert "the plan has no such" in str(caught.value)


def test_what_is_asked_for_is_considered_alone(space, plan, train):
    for name in ("2d", "3d_fullres"):
        train(name, 0)
    train("2d", 1)
    assert find_considered(space, plan, ("2d",), None).folds == (0, 1)
    considered = find_considered(space, plan, (), [1])
    assert considered.configurations == ("2d",)
    assert considered.folds == (1,)
    assert considered.left_out[0] == "3d_fullres: fold 1 is not trained to the end"
    assert considered.left_out[-1] == "2d, fold 0: not asked for"


@pytest.mark.parametrize(
    ("names", "folds", "message", "hint"),
    [
        (("3d_fullres",), [2], "not trained", "autoseg train 2 --configuration 3d_fullres"),
        (("3d_lowres",), None, "not trained", "autoseg train 0 --configuration 3d_lowres"),
        (("3d_fulres",), None, "no such configuration", "3d_fullres"),
        ((), [7], "nothing to select from", "autoseg train all"),
        ((), None, "no fold in common", "--configuration"),
    ],
)
def test_what_can_not_be_compared_is_explained(space, plan, train, names, folds, message, hint):
    train("3d_fullres", 0)
    train("2d", 1)
    with pytest.raises(SettingError, match=message) as caught:
        find_considered(space, plan, names, folds)
    assert hint in str(caught.value)


def test_what_is_rightly_absent_counts():
    assert mean_score([None, 0.5]) == 0.75
    assert mean_score([None]) == 1.0


def test_the_selected_configuration_predicts(space, selected):
    models = selected(configurations=("2d",), folds=(1,)).models
    assert [(model.manifest.configuration_name, model.manifest.fold) for model in models] == [("2d", 1)]
    assert [model.manifest.configuration_name for model in selected().models] == ["3d_fullres"] * 2


def test_named_configurations_and_folds_go_before_the_selection(space, selected):
    selected(configurations=("2d",), rules=(Rule(keep="largest"),))
    for named in ({"configuration_name": "3d_fullres"}, {"folds": [0]}):
        predictor = Predictor(space.root, device_name="cpu", **named)
        assert predictor.finish is None
        assert {model.manifest.configuration_name for model in predictor.models} == {"3d_fullres"}


def test_a_pair_is_the_mean_of_its_probabilities(space, selected):
    pair = selected(configurations=("3d_fullres", "2d"))
    single = [
        Predictor(space.root, configuration_name=name, device_name="cpu", options=pair.options)
        for name in ("3d_fullres", "2d")
    ]
    each = [predictor.probabilities(IMAGE, (1.0, 1.0, 1.0)).astype(np.float32) for predictor in single]
    mean = pair.probabilities(IMAGE, (1.0, 1.0, 1.0))
    np.testing.assert_allclose(mean, (each[0] + each[1]) / 2, atol=2e-3)
    label = pair.predict(IMAGE, (1.0, 1.0, 1.0))
    first, second = np.sort((each[0] + each[1]) / 2, axis=0)[[-1, -2]]
    clear = first - second > 0.01
    assert clear.any()
    np.testing.assert_array_equal(label[clear], (each[0] + each[1]).argmax(axis=0)[clear])


def test_every_part_of_the_selection_changes_the_result(space, selected):
    labels = [
        selected(**changes).predict(IMAGE, (1.0, 1.0, 1.0))
        for changes in (
            {},
            {"configurations": ("2d",)},
            {"configurations": ("3d_fullres", "2d")},
            {"folds": (0,)},
            {"decoding": "dice"},
            {"rules": (Rule(label="a", keep="min_volume_mm3", threshold=1e6),)},
        )
    ]
    for number, one in enumerate(labels):
        assert all((one != other).any() for other in labels[:number])


def test_a_fold_trained_anew_is_noticed(space, selected, train):
    selected()
    train("3d_fullres", 1, seed=99)
    with pytest.raises(SettingError, match="trained anew") as caught:
        selected()
    assert "autoseg select" in str(caught.value)
    # The other configuration is as it was.
    assert selected(configurations=("2d",)).models


def test_a_fold_trained_since_is_told(selected, train, caplog):
    train("3d_fullres", 2)
    assert len(selected().models) == 2
    assert "3d_fullres: fold 2 had no part in the selection" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"configurations": ("3d_lowres",)}, "not trained"),
        ({"folds": (0, 4)}, "not trained"),
        ({"rules": (Rule(label="liver", keep="largest"),)}, "unknown label"),
    ],
)
def test_a_selection_that_can_not_be_followed_is_explained(selected, changes, message):
    with pytest.raises(SettingError, match=message) as caught:
        selected(**changes)
    assert "selection.json" in str(caught.value)


@pytest.fixture
def cascade(build_plan, build_configuration):
    """A plan of two networks, of which the second is shown what the first predicts."""
    return build_plan(
        {
            "3d_lowres": build_configuration((4, 8, 8), spacing=(2.0, 2.0, 2.0)),
            "3d_cascade_fullres": build_configuration((4, 8, 8), previous_stage="3d_lowres"),
        },
        labels={"background": 0, "a": 1, "b": 2},
    )


@pytest.fixture
def judge(space, monkeypatch):
    """Callable: folds as after validation, which is not done; and the calls of what prepares their cases."""
    prepared = []

    class Volumes:
        def volume(self, name):
            return name

    monkeypatch.setattr(
        "autoseg.datasets.splits.find_splits", lambda *_: Splits(inputs_sha256="0", method="", folds=())
    )
    monkeypatch.setattr(selecting, "prepared_cases", lambda *given: prepared.append(given) or Volumes())
    monkeypatch.setattr(selecting, "validate_fold", lambda _data, _cases, names, *_: names)

    def make(name, folds, dataset):
        return selecting._validated(space, dataset, name, folds, torch.device("cpu"), 1), prepared

    return make


def test_cases_are_prepared_once_for_the_folds_of_a_plan(plan, train, judge, build_dataset):
    for fold in (0, 1, 3):
        train("2d", fold)
    train("2d", 2, plan=msgspec.structs.replace(plan, gpu_memory_gb=4.0))
    found, prepared = judge("2d", (0, 1, 2, 3), build_dataset())
    assert [given[2].gpu_memory_gb for given in prepared] == [8.0, 4.0]
    assert {fold: each.evaluation for fold, each in found.items()} == {fold: (f"case_{fold}",) for fold in range(4)}
    assert list(found) == [0, 1, 2, 3]


def test_probabilities_know_the_rules_of_prediction_and_lie_with_the_fold(train, judge, build_dataset, monkeypatch):
    class Prepared:
        sha256 = "0"

        def read(self, _model):
            return Volume(IMAGE, None)

    folder = train("2d", 0)
    made = []

    def mean_logits(_models, _image, *, folder, **_):
        made.append(folder)

    monkeypatch.setattr("autoseg.predict.case.mean_logits", mean_logits)
    monkeypatch.setattr("autoseg.predict.case.levels_of", lambda *_, made_from: made.append(made_from))
    monkeypatch.setattr("autoseg.images.probabilities.write_levels", lambda *_: None)
    validated = replace(judge("2d", (0,), build_dataset())[0][0], volumes={"case_0": Prepared()})
    selecting._keep_probabilities("2d", 0, validated, torch.device("cpu"))
    monkeypatch.setattr("autoseg.predict.stage.RULES", "other")
    selecting._keep_probabilities("2d", 0, validated, torch.device("cpu"))
    assert made[0] == made[2] == folder.root
    assert made[1] != made[3]


def test_the_first_stage_of_a_cascade_is_recorded_and_checked(space, cascade, train, judge, build_dataset, selected):
    second = "3d_cascade_fullres"
    for name, fold in ((second, 0), ("3d_lowres", 0), ("3d_lowres", 1)):
        train(name, fold, plan=cascade)
    considered = find_considered(space, cascade, (second,), None)
    validated = {(second, 0): judge(second, (0,), build_dataset())[0][0]}
    weights = selecting._weights(space, considered, validated)
    assert {name: list(each) for name, each in weights.items()} == {second: ["0"], "3d_lowres": ["0", "1"]}
    changes = {"configurations": (second,), "folds": (0,), "weights_sha256": weights}
    assert len(selected(**changes).models[0].previous) == 2

    extra = train("3d_lowres", 2, plan=cascade)
    with pytest.raises(SettingError, match="has other folds") as caught:
        selected(**changes)
    assert "found:   0, 1, 2" in str(caught.value)
    assert "autoseg select" in str(caught.value)
    shutil.rmtree(extra.root)
    assert selected(**changes).models
    train("3d_lowres", 1, plan=cascade, seed=99)
    with pytest.raises(SettingError, match="trained anew") as caught:
        selected(**changes)
    assert "3d_lowres, fold 1" in str(caught.value)


def test_configurations_of_other_labels_are_not_averaged(selected, train, plan):
    train("2d", 0, plan=msgspec.structs.replace(plan, labels={"background": 0, "a": 1, "other": 2}))
    train("2d", 1, plan=msgspec.structs.replace(plan, labels={"background": 0, "a": 1, "other": 2}))
    with pytest.raises(SettingError, match="differ"):
        selected(configurations=("3d_fullres", "2d"), weights_sha256={})


def test_a_bundle_does_what_the_workspace_does(space, selected, tmp_path, caplog):
    caplog.set_level("INFO")
    rules = (Rule(label="a", keep="largest"),)
    here = selected(configurations=("2d",), folds=(1,), decoding="dice", rules=rules)
    written = export_bundle(space, tmp_path / "model.zip")
    assert (written.decoding, written.rules, len(written.folds)) == ("dice", rules, 1)
    there = Predictor(tmp_path / "model.zip", device_name="cpu", options=here.options)
    np.testing.assert_array_equal(*(each.predict(IMAGE, (1.0, 1.0, 1.0)) for each in (here, there)))
    caplog.clear()
    assert Predictor(tmp_path / "model.zip", folds=[1], device_name="cpu").finish is None
    assert "decoding and post-processing of" in caplog.text
    assert len(export_bundle(space, tmp_path / "model.zip", configuration_name="2d").folds) == 2


def test_a_bundle_with_a_rule_about_nothing_is_named(space, selected, tmp_path):
    selected()
    bundle = export_bundle(space, tmp_path / "model.zip")
    first, rules = bundle.folds[0].manifest, (Rule(label="liver", keep="largest"),)
    weights = space.fold("3d_fullres", 0).weights.read_bytes()
    write_bundle(tmp_path / "other.zip", [(first, weights)], source="", rules=rules)
    with pytest.raises(SettingError, match="unknown label") as caught:
        Predictor(tmp_path / "other.zip", device_name="cpu")
    assert "other.zip, rules" in str(caught.value)
    assert "selection.json" not in str(caught.value)


def test_two_configurations_do_not_fit_into_a_bundle(space, selected, tmp_path):
    selected(configurations=("2d", "3d_fullres"))
    with pytest.raises(SettingError, match="one configuration") as caught:
        export_bundle(space, tmp_path / "model.zip")
    assert "--configuration" in str(caught.value)


def test_the_table_for_people():
    selection = Selection(
        configurations=("2d",),
        folds=(0,),
        num_cases=2,
        judged_on=(0,),
        candidates=(Candidate(configurations=("2d",), mean_dice=0.5),),
        weights_sha256={},
        inputs_sha256="0",
        left_out=("3d_fullres: no fold is trained to the end",),
    )
    lines = selection_lines(selection)
    assert lines[1] == "left out: 3d_fullres: no fold is trained to the end"
    assert lines[2] == "2d, argmax: Dice 0.5000"
    assert lines[-1] == "chosen: 2d, argmax; no post-processing"
