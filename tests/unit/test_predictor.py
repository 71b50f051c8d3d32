"""The predictor that other programs hold: arrays and files, from several threads."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK
import torch
from safetensors.torch import save_file

from autoseg.artifacts.base import write
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.splits import Fold
from autoseg.errors import DatasetError, SettingError
from autoseg.images.io import read_label
from autoseg.layout import Workspace
from autoseg.networks.unet import build_network
from autoseg.pipeline import export_bundle
from autoseg.predict.stage import Options
from autoseg.predictor import Predictor

SHAPE = (6, 10, 9)
SPACING_MM = (3.0, 1.0, 1.5)


@pytest.fixture
def workspace(tmp_path, build_plan, build_configuration):
    """Two folds as training leaves them."""
    space = Workspace(tmp_path / "w")
    plan = build_plan({"3d_fullres": build_configuration((4, 8, 8))}, labels={"background": 0, "a": 1, "b": 2})
    for fold in (0, 1):
        folder = space.fold("3d_fullres", fold)
        manifest = TrainedModel(
            inputs_sha256=f"fold {fold}",
            data_sha256="0",
            plan=plan,
            settings=(),
            configuration_name="3d_fullres",
            fold=fold,
            cases=Fold(training=("x",), validation=("y",)),
            naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
            step=StepStyle(precision="float32"),
            step_seconds={},
            num_parameters=1,
            device="cpu",
            autoseg_version="0",
            torch_version="0",
            iterations=10,
            finished=True,
        )
        torch.manual_seed(fold)
        write(folder.manifest, manifest)
        save_file(build_network(manifest.configuration, 1, 3).state_dict(), folder.weights)
    return space


@pytest.fixture
def array():
    return np.random.default_rng(0).standard_normal((1, *SHAPE), dtype=np.float32)


def written(array, folder):
    """The array as a file."""
    folder.mkdir()
    image = SimpleITK.GetImageFromArray(array[0])
    image.SetSpacing(SPACING_MM[::-1])
    SimpleITK.WriteImage(image, str(folder / "one_0000.nii.gz"))
    return folder


def test_arrays_and_files_give_the_same_labels(workspace, array, tmp_path):
    predictor = Predictor(workspace.root, device_name="cpu")
    files = predictor.predict_files([written(array, tmp_path / "in")], tmp_path / "out")
    label = predictor.predict(array, SPACING_MM)
    assert label.shape == SHAPE
    assert set(np.unique(label)) <= {0, 1, 2}
    assert len(np.unique(label)) > 1
    np.testing.assert_array_equal(label, read_label(files["one"], case="one").array_zyx)
    assert predictor.labels == {"a": 1, "b": 2}


def test_probabilities_add_up_and_the_likeliest_class_is_the_label(workspace, array):
    predictor = Predictor(workspace.root, device_name="cpu")
    probabilities = predictor.probabilities(array, SPACING_MM)
    assert probabilities.shape == (3, *SHAPE)
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(0), 1, atol=2e-3)
    label = predictor.predict(array, SPACING_MM)
    chosen = np.take_along_axis(probabilities, label[None].astype(np.int64), axis=0)[0]
    np.testing.assert_array_equal(chosen, probabilities.max(axis=0))


def test_a_bundle_predicts_like_its_workspace_and_folds_can_be_chosen(workspace, array, tmp_path):
    export_bundle(workspace, tmp_path / "model.zip")
    whole, bundled = (Predictor(path, device_name="cpu") for path in (workspace.root, tmp_path / "model.zip"))
    np.testing.assert_array_equal(whole.predict(array, SPACING_MM), bundled.predict(array, SPACING_MM))
    single = Predictor(tmp_path / "model.zip", folds=[1], device_name="cpu")
    assert np.any(single.predict(array, SPACING_MM) != bundled.predict(array, SPACING_MM))
    with pytest.raises(SettingError, match="one configuration"):
        Predictor(tmp_path / "model.zip", configuration_name="2d", device_name="cpu")


def test_threads_share_a_predictor(workspace):
    arrays = [np.random.default_rng(n).standard_normal((1, *SHAPE), dtype=np.float32) for n in range(8)]
    predictor = Predictor(workspace.root, device_name="cpu")
    expected = [predictor.predict(array, SPACING_MM) for array in arrays]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda array: predictor.predict(array, SPACING_MM), arrays))
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_options_count_for_arrays_too(workspace, array):
    plain = Predictor(workspace.root, device_name="cpu", options=Options(mirroring=False))
    mirrored = Predictor(workspace.root, device_name="cpu")
    assert np.any(plain.probabilities(array, SPACING_MM) != mirrored.probabilities(array, SPACING_MM))


@pytest.mark.parametrize(
    ("change", "spacing", "message"),
    [
        (lambda array: array[0], SPACING_MM, "wrong shape"),
        (lambda array: array[:, :0], SPACING_MM, "wrong shape"),
        (lambda array: np.concatenate([array, array]), SPACING_MM, "number of channels"),
        (lambda array: array.astype(str), SPACING_MM, "no numbers"),
        (lambda array: np.where(array > 1, np.nan, array), SPACING_MM, "not finite"),
        (lambda array: array, (1.0, 0.0, 1.0), "spacing"),
        (lambda array: array, (1.0, 1.0), "spacing"),
    ],
)
def test_what_is_no_image_for_the_model_is_explained(workspace, array, change, spacing, message):
    with pytest.raises(DatasetError, match=message):
        Predictor(workspace.root, device_name="cpu").predict(change(array), spacing)
