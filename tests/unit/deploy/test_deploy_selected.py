"""Which folds go into an ONNX export where `select` chose, and what is said of the rest."""

from types import SimpleNamespace

import pytest

from autoseg.artifacts.base import write
from autoseg.artifacts.selection import Candidate, Rule, Selection
from autoseg.deploy import stage
from autoseg.errors import SettingError
from autoseg.networks.stored import fold_at
from autoseg.pipeline import export_bundle, export_onnx

RULES = (Rule(label="a", keep="largest"),)
LEFT_OUT = "left out of the export: "


@pytest.fixture
def exported(monkeypatch):
    """Callable: configuration and numbers of the folds that an export writes."""
    monkeypatch.setattr(stage, "run", lambda folds, out: SimpleNamespace(folds=folds))

    def export(model, **options):
        folds = export_onnx(model, model.parent / "onnx", **options).folds
        (name,) = {fold.manifest.configuration_name for fold in folds}
        return name, [fold.manifest.fold for fold in folds]

    return export


@pytest.fixture
def selected(deployed):
    """Callable: a workspace with three folds in 2D and two in 3D, of which these are selected."""
    space, _ = deployed(3, folds=(0, 1))
    deployed(2, folds=(0, 1, 2))

    def select(*configurations, folds=(0, 1), **changes):
        weights = {
            name: {str(fold): fold_at(space.fold(name, fold).root).weights_sha256 for fold in folds}
            for name in configurations
        }
        selection = Selection(
            configurations=configurations,
            folds=folds,
            num_cases=2,
            judged_on=folds,
            candidates=(Candidate(configurations=configurations, mean_dice=0.5),),
            weights_sha256=weights,
            inputs_sha256="0",
            **changes,
        )
        write(space.selection, selection)
        return space

    return select


def test_the_selected_folds_are_exported(selected, exported, caplog):
    space = selected("2d")
    assert exported(space.root) == ("2d", [0, 1])
    assert LEFT_OUT not in caplog.text
    assert exported(space.root, configuration_name="3d_fullres") == ("3d_fullres", [0, 1])
    assert exported(space.root, configuration_name="2d") == ("2d", [0, 1, 2])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"decoding": "dice"}, "decoding (dice)"),
        ({"rules": RULES}, "post-processing (rules: 1)"),
        ({"decoding": "dice", "rules": RULES}, "decoding (dice) and post-processing (rules: 1)"),
    ],
)
def test_what_is_left_out_is_said(selected, exported, caplog, changes, words):
    space = selected("2d", **changes)
    bundle = space.root / "model.zip"
    export_bundle(space, bundle)
    for source, where in ((space.root, space.selection), (bundle, bundle)):
        caplog.clear()
        assert exported(source) == ("2d", [0, 1])
        assert f"{LEFT_OUT}{words}, which {where} asks for" in caplog.text
        caplog.clear()
        assert exported(source, folds=[1])[1] == [1]
        assert LEFT_OUT not in caplog.text


def test_two_configurations_do_not_fit_into_an_export(selected, exported):
    space = selected("2d", "3d_fullres")
    with pytest.raises(SettingError, match="holds one configuration") as caught:
        exported(space.root)
    assert "--configuration" in str(caught.value)
