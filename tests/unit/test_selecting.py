"""Which configurations and folds are compared, and what predict makes of selection.json."""

import msgspec
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from autoseg.artifacts.base import write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.selection import Candidate, Rule, Selection
from autoseg.artifacts.splits import Fold
from autoseg.console import selection_lines
from autoseg.errors import SettingError
from autoseg.layout import Workspace
from autoseg.networks.stored import fold_at
from autoseg.networks.unet import build_network
from autoseg.pipeline import export_bundle
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
        network = build_network(manifest.configuration, 1, manifest.plan.num_classes)
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
        "3d_fullres, fold 3: not trained in every configuration",
        "2d, fold 0: not trained in every configuration",
    )


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
    assert "not judged by select with fold 2" in caplog.text


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


def test_configurations_of_other_labels_are_not_averaged(selected, train, plan):
    train("2d", 0, plan=msgspec.structs.replace(plan, labels={"background": 0, "a": 1, "other": 2}))
    train("2d", 1, plan=msgspec.structs.replace(plan, labels={"background": 0, "a": 1, "other": 2}))
    with pytest.raises(SettingError, match="differ"):
        selected(configurations=("3d_fullres", "2d"), weights_sha256={})


def test_a_bundle_does_what_the_workspace_does(space, selected, tmp_path):
    rules = (Rule(label="a", keep="largest"),)
    here = selected(configurations=("2d",), folds=(1,), decoding="dice", rules=rules)
    written = export_bundle(space, tmp_path / "model.zip")
    assert (written.decoding, written.rules, len(written.folds)) == ("dice", rules, 1)
    there = Predictor(tmp_path / "model.zip", device_name="cpu", options=here.options)
    np.testing.assert_array_equal(*(each.predict(IMAGE, (1.0, 1.0, 1.0)) for each in (here, there)))
    assert Predictor(tmp_path / "model.zip", folds=[1], device_name="cpu").finish is None
    assert len(export_bundle(space, tmp_path / "model.zip", configuration_name="2d").folds) == 2


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
