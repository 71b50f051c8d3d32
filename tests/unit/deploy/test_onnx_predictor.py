"""The predictor that needs no autoseg: the same labels as autoseg's, by itself, and errors that explain themselves."""

import ast
import json
import subprocess
import sys
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
import SimpleITK

from autoseg import pipeline
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.plan import Prediction, Resampling
from autoseg.deploy import onnx_predictor
from autoseg.deploy.onnx_predictor import OnnxPredictor, PredictionError, main
from autoseg.images.io import read_label
from autoseg.predict.stage import Options

PROGRAM = Path(onnx_predictor.__file__)
ROTATED = (0.0, -1.0, 0.0, 1.0, 0.0, 0.0, 0.0, 0.0, 1.0)


def save(path, array, spacing_mm, direction=ROTATED):
    image = SimpleITK.GetImageFromArray(array, isVector=array.ndim == 4)
    image.SetSpacing(spacing_mm[::-1])
    if image.GetDimension() == 3:
        image.SetOrigin((-3.0, 11.5, 7.25))
        image.SetDirection(direction)
    path.parent.mkdir(exist_ok=True)
    SimpleITK.WriteImage(image, str(path), useCompression=True)


def volume(seed, shape, *, border=2):
    """Smooth noise of two channels, in a frame of zeros and with a hole."""
    rng = np.random.default_rng(seed)
    coarse = rng.standard_normal((2, *shape))
    array = 40 * sum(np.roll(coarse, shift, axis) for axis in (1, 2, 3) for shift in (0, 1)) + 50
    for axis, n in enumerate(shape, start=1):
        array = np.swapaxes(array, 1, axis)
        if n > 4 * border:
            array[:, :border] = array[:, n - border :] = 0
        array = np.swapaxes(array, 1, axis)
    array[:, shape[0] // 2, shape[1] // 2 : shape[1] // 2 + 2, shape[2] // 2] = 0
    return array.astype(np.float32)


def write_channels(folder, name, array, spacing_mm, ending=".nii.gz"):
    for number, channel in enumerate(array):
        save(folder / f"{name}_{number:04d}{ending}", channel, spacing_mm)


def assert_alike(workspace, folder, inputs, tmp_path):
    """Predict files with autoseg and with the predictor, and hold their label maps against each other.

    Returns
    -------
    dict of str to LabelMap
        The predictor's.
    """
    single = Options(precision="float32")
    files = pipeline.predict(workspace.root, inputs, tmp_path / "ours", device_name="cpu", options=single)
    assert main([*map(str, inputs), str(tmp_path / "theirs"), "--threads", "1"], folder) == 0
    assert sorted(file.name for file in files.values()) == sorted(one.name for one in (tmp_path / "theirs").iterdir())
    found = {}
    for case, file in files.items():
        ours, theirs = (read_label(one / file.name, case=case) for one in (tmp_path / "ours", tmp_path / "theirs"))
        assert theirs.geometry == ours.geometry
        assert np.mean(ours.array_zyx == theirs.array_zyx) > 0.999
        assert case == "tiny" or len(np.unique(ours.array_zyx)) > 1
        found[case] = theirs
    return found


WAYS = {
    "as it is": ({}, {}),
    "anisotropic, transposed": (
        {"spacing": (3.0, 1.0, 0.9)},
        {"transpose_forward": (1, 2, 0), "transpose_backward": (2, 0, 1)},
    ),
    "ct, and zscore inside the mask": (
        {
            "spacing": (1.3, 0.8, 1.1),
            "normalization_schemes": ("ct", "zscore"),
            "use_mask_for_norm": (False, True),
            "resampling": Resampling(force_separate_z=False),
        },
        {},
    ),
    "across slices too": (
        {
            "spacing": (2.0, 1.0, 1.0),
            "resampling": Resampling(force_separate_z=True, data_order_z=2, probabilities_order_z=1),
            "mirror_axes": (1,),
        },
        {"prediction": Prediction(step=1.0)},
    ),
    "regions": (
        {"normalization_schemes": ("rescale_to_0_1", "none")},
        {
            "labels": {"background": 0, "whole": (1, 2, 3), "core": (2, 3), "tip": (3,)},
            "regions_class_order": (1, 2, 3),
            "prediction": Prediction(mirroring=False),
        },
    ),
}


@pytest.mark.parametrize(("configuration", "plan"), WAYS.values(), ids=WAYS)
def test_labels_are_those_of_autoseg(configuration, plan, deployed, tmp_path, one_thread):
    workspace, folder = deployed(plan=plan, **configuration)
    write_channels(tmp_path / "in", "one", volume(1, (13, 17, 16)), (1.0, 1.0, 1.0))
    write_channels(tmp_path / "in", "thick", volume(2, (9, 16, 21)), (3.5, 0.9, 0.8))
    write_channels(tmp_path / "in", "tiny", volume(3, (3, 5, 6), border=0), (1.0, 1.2, 1.0))
    assert len(assert_alike(workspace, folder, [tmp_path / "in"], tmp_path)) == 3


def test_folds_are_averaged_and_values_are_those_of_the_files(deployed, tmp_path, one_thread):
    workspace, folder = deployed(folds=(0, 1), file_values=(0, 7, 300))
    write_channels(tmp_path / "in", "one", volume(1, (9, 12, 14)), (1.0, 1.0, 1.0), ".mha")
    (label,) = assert_alike(workspace, folder, [tmp_path / "in"], tmp_path).values()
    assert set(np.unique(label.array_zyx)) <= {0, 7, 300}
    assert label.array_zyx.dtype == np.uint16


def test_slices_of_a_2d_network(deployed, tmp_path, one_thread):
    transposed = {"transpose_forward": (2, 0, 1), "transpose_backward": (1, 2, 0)}
    workspace, folder = deployed(2, spacing=(1.2, 0.9), plan=transposed)
    write_channels(tmp_path / "in", "one", volume(1, (12, 16, 5)), (1.0, 1.0, 4.0), ".nrrd")
    assert_alike(workspace, folder, [tmp_path / "in"], tmp_path)


@pytest.mark.parametrize("dimensions", [2, 3])
def test_one_file_that_holds_all_channels(dimensions, deployed, tmp_path, one_thread):
    workspace, folder = deployed(dimensions, naming=Naming(image_suffixes=("_0000.mha",), label_suffix=".mha"))
    array = volume(1, (6, 16, 15), border=1)
    if dimensions == 2:
        (tmp_path / "in").mkdir()
        image = SimpleITK.GetImageFromArray(np.moveaxis(array[:, 3], 0, -1), isVector=True)
        SimpleITK.WriteImage(image, str(tmp_path / "in" / "flat.mha"))
    else:
        save(tmp_path / "in" / "deep.mha", np.moveaxis(array, 0, -1), (1.0, 1.0, 1.0))
    assert_alike(workspace, folder, [tmp_path / "in"], tmp_path)


def test_a_fourth_axis_is_the_channels(deployed, tmp_path, one_thread):
    workspace, folder = deployed(naming=Naming(image_suffixes=(".nii.gz",), label_suffix=".nii.gz"))
    image = SimpleITK.GetImageFromArray(volume(1, (6, 12, 11), border=1), isVector=False)
    SimpleITK.WriteImage(image, str(tmp_path / "four.nii.gz"))
    assert_alike(workspace, folder, [tmp_path / "four.nii.gz"], tmp_path)


def test_mirroring_can_be_left_out(deployed, tmp_path):
    _, folder = deployed()
    predictor, array = OnnxPredictor(folder, threads=1), volume(1, (8, 12, 12), border=0)
    before = array.copy()
    label, plain = (predictor.predict(array, (1, 1, 1), mirroring=mirroring) for mirroring in (True, False))
    assert label.shape == array.shape[1:]
    assert label.dtype == np.uint8
    assert np.any(label != plain)
    assert np.array_equal(array, before)


def test_a_volume_of_zeros(deployed):
    _, folder = deployed(use_mask_for_norm=(True, True))
    label = OnnxPredictor(folder, threads=1).predict(np.zeros((2, 5, 9, 9), np.int16), (2.0, 1.0, 1.0))
    assert label.shape == (5, 9, 9)


ALONE = """
import importlib.abc, runpy, sys
class Wall(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.split(".")[0] in ("torch", "autoseg", "scipy", "msgspec", "click", "onnx", "safetensors"):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Wall())
program, sys.argv = sys.argv[1], sys.argv[1:]
runpy.run_path(program, run_name="__main__")
"""


def test_it_runs_where_torch_and_autoseg_are_not(deployed, tmp_path):
    _, folder = deployed()
    (folder / "predict.py").write_bytes(PROGRAM.read_bytes())
    write_channels(tmp_path / "in", "one", volume(1, (8, 12, 12)), (1.0, 1.0, 1.0))
    done = subprocess.run(
        [sys.executable, "-c", ALONE, folder / "predict.py", tmp_path / "in", tmp_path / "out"],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "one -> " in done.stdout
    expected = OnnxPredictor(folder).predict(*as_read(tmp_path / "in", "one"))
    assert np.array_equal(read_label(tmp_path / "out" / "one.nii.gz", case="one").array_zyx, expected)


def as_read(folder, name):
    """A case's array and spacing."""
    images = [SimpleITK.ReadImage(str(folder / f"{name}_{number:04d}.nii.gz")) for number in range(2)]
    return np.stack([SimpleITK.GetArrayFromImage(image) for image in images]), images[0].GetSpacing()[::-1]


def test_it_imports_three_packages_and_is_written_for_old_pythons():
    tree = ast.parse(PROGRAM.read_text(), feature_version=(3, 9))
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in imports if isinstance(node, ast.ImportFrom)}
    assert {name.split(".")[0] for name in names} - set(sys.stdlib_module_names) == {
        "numpy",
        "onnxruntime",
        "SimpleITK",
    }


@pytest.mark.long
def test_in_an_environment_of_its_own(deployed, tmp_path):
    _, folder = deployed()
    (folder / "predict.py").write_bytes(PROGRAM.read_bytes())
    write_channels(tmp_path / "in", "one", volume(1, (8, 12, 12)), (1.0, 1.0, 1.0))
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python = tmp_path / "venv" / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    needed = ["numpy", "SimpleITK", "onnxruntime"]
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *needed]
    installed = subprocess.run(install, capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"packages can't be installed here: {installed.stderr.strip().splitlines()[-1]}")
    assert subprocess.run([python, "-c", "import torch"], capture_output=True, check=False).returncode
    arguments = [folder / "predict.py", tmp_path / "in", tmp_path / "out"]
    done = subprocess.run([python, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    expected = OnnxPredictor(folder).predict(*as_read(tmp_path / "in", "one"))
    found = read_label(tmp_path / "out" / "one.nii.gz", case="one").array_zyx
    assert np.mean(found == expected) > 0.999


def edit(folder, **changes):
    file = folder / "model.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def forge(folder):
    (folder / "fold_0.onnx").write_bytes(b"no graph")
    edit(folder, folds=[{"file": "fold_0.onnx", "sha256": sha256(b"no graph").hexdigest()}])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: (folder / "model.json").unlink(), "model.json can't be read"),
        (lambda folder: (folder / "model.json").write_text("{"), "no record of a model"),
        (lambda folder: (folder / "model.json").write_text("[]"), "no record of a model"),
        (lambda folder: edit(folder, schema_version=2), "schema_version 2"),
        (lambda folder: edit(folder, labels=None), "no record of a model"),
        (lambda folder: edit(folder, folds=[]), "names no network"),
        (lambda folder: edit(folder, folds=[{"file": "fold_0.onnx"}]), "no record of a model: KeyError 'sha256'"),
        (forge, "can't run"),
        (lambda folder: (folder / "fold_0.onnx").unlink(), "fold_0.onnx can't be read"),
        (lambda folder: (folder / "fold_0.onnx").write_bytes(b"x"), "is damaged"),
        (lambda folder: edit(folder, num_classes=4), "not what model.json says"),
        (lambda folder: edit(folder, patch_size=[8, 8]), "not what model.json says"),
    ],
)
def test_a_folder_that_is_not_as_it_was_made(spoil, message, deployed):
    _, folder = deployed()
    spoil(folder)
    with pytest.raises(PredictionError, match=message):
        OnnxPredictor(folder)


@pytest.mark.parametrize(
    ("array", "spacing", "message"),
    [
        (np.ones((1, 4, 8, 8)), (1, 1, 1), r"\(1, 4, 8, 8\)"),
        (np.ones((2, 8, 8)), (1, 1, 1), "shape"),
        (np.ones((2, 4, 8, 8)), (1, 1), "spacing"),
        (np.ones((2, 4, 8, 8)), (1, 0, 1), "spacing"),
        (np.full((2, 4, 8, 8), np.nan), (1, 1, 1), "NaN"),
        (np.full((2, 4, 8, 8), 1e300), (1, 1, 1), "infinite"),
        (np.ones((2, 4, 8, 8), complex), (1, 1, 1), "complex"),
    ],
)
def test_an_array_that_is_no_volume(array, spacing, message, deployed):
    _, folder = deployed()
    with pytest.raises(PredictionError, match=message):
        OnnxPredictor(folder).predict(array, spacing)


def test_a_case_that_cannot_be_read_does_not_keep_others_waiting(deployed, tmp_path, capsys):
    _, folder = deployed()
    write_channels(tmp_path / "in", "good", volume(1, (6, 9, 9)), (1.0, 1.0, 1.0))
    write_channels(tmp_path / "in", "bad", volume(1, (6, 9, 9)), (1.0, 1.0, 1.0))
    (tmp_path / "in" / "bad_0001.nii.gz").write_bytes(b"no image")
    write_channels(tmp_path / "in", "apart", volume(1, (6, 9, 9)), (1.0, 1.0, 1.0))
    save(tmp_path / "in" / "apart_0001.nii.gz", np.ones((6, 9, 8), np.float32), (1.0, 1.0, 1.0))
    assert main([str(tmp_path / "in"), str(tmp_path / "out")], folder) == 1
    assert [file.name for file in (tmp_path / "out").iterdir()] == ["good.nii.gz"]
    said = capsys.readouterr().err
    assert "bad_0001.nii.gz can't be read" in said
    assert "apart_0001.nii.gz lies on another grid" in said
    assert "2 of 3 cases are not predicted: apart, bad" in said


@pytest.mark.parametrize(
    ("names", "inputs", "message"),
    [
        (["a_0000.nii.gz"], ["in"], "misses a channel; its files should be a_0000.nii.gz, a_0001.nii.gz"),
        (["a.nii.gz"], ["in"], "named as the training images were"),
        (["a_0000.nii.gz", "a_0000.nrrd"], ["in"], "case a is there twice"),
        ([], ["in"], "does not exist"),
        (["a.png"], ["in/a.png"], "none of the files that are read here"),
    ],
)
def test_inputs_that_make_no_case(names, inputs, message, deployed, tmp_path, capsys):
    _, folder = deployed()
    for name in names:
        (tmp_path / "in").mkdir(exist_ok=True)
        (tmp_path / "in" / name).touch()
    assert main([*(str(tmp_path / one) for one in inputs), str(tmp_path / "out")], folder) == 1
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_no_file_is_replaced_unasked(deployed, tmp_path, capsys):
    _, folder = deployed(naming=Naming(image_suffixes=(".mhd",), label_suffix=".mha"))
    save(tmp_path / "in" / "a.mhd", np.moveaxis(volume(1, (6, 9, 9)), 0, -1), (1.0, 1.0, 1.0))
    arguments = [str(tmp_path / "in" / "a.mhd"), str(tmp_path / "out")]
    assert main(arguments, folder) == 0
    before = (tmp_path / "out" / "a.mha").read_bytes()
    assert main(arguments, folder) == 1
    assert "give --overwrite" in capsys.readouterr().err
    assert main([*arguments, "--overwrite"], folder) == 0
    assert (tmp_path / "out" / "a.mha").read_bytes() == before
    (tmp_path / "in" / "a.mhd").unlink()
    (tmp_path / "out" / "a.mha").rename(tmp_path / "in" / "a.mha")
    assert main([str(tmp_path / "in"), str(tmp_path / "in"), "--overwrite"], folder) == 1
    assert "which is an image" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["one"], ["a", "b", "--threads", "0"], ["a", "b", "--nonsense"]])
def test_wrong_usage_ends_with_2(arguments):
    with pytest.raises(SystemExit) as caught:
        main(arguments)
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("names", "suffixes", "cases"),
    [
        (["a_0000.nii.gz", "a_0001.nii.gz"], ("_0000", "_0001"), {"a": ["a_0000.nii.gz", "a_0001.nii.gz"]}),
        (["a_CT.nii", "a.nii"], ("", "_CT"), {"a": ["a.nii", "a_CT.nii"]}),
        (["a.nii", "b.mha"], ("_0000",), {"a": ["a.nii"], "b": ["b.mha"]}),
        (["a_0000.nii", "b.mha"], ("_0000",), {"a": ["a_0000.nii"]}),
    ],
)
def test_files_are_grouped_as_the_training_files_were(names, suffixes, cases):
    grouped = onnx_predictor.group({Path(name): False for name in names}, suffixes)
    assert {case: [file.name for file in files] for case, files in grouped.items()} == cases


def test_a_file_by_itself_may_have_any_name():
    grouped = onnx_predictor.group({Path("scan.nii.gz"): True, Path("b_T1.nii"): True}, ("_T1",))
    assert {case: [file.name for file in files] for case, files in grouped.items()} == {
        "b": ["b_T1.nii"],
        "scan": ["scan.nii.gz"],
    }
