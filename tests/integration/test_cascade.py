"""A cascade of two networks by the commands, on volumes of which a full-resolution patch sees a small part."""

import json
import logging
import shutil
import subprocess
import sys
import time
from multiprocessing.reduction import ForkingPickler

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from msgspec.structs import replace

from autoseg.artifacts.base import read, write
from autoseg.artifacts.bundle import read_bundle, write_bundle
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.plan import Plan
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.preprocessed import PreprocessedCase, PreviousMap
from autoseg.artifacts.selection import Selection
from autoseg.cli import main
from autoseg.errors import ArtifactError
from autoseg.images.io import read_image, read_label, write_label
from autoseg.layout import Workspace
from autoseg.predict.case import mean_logits
from autoseg.predict.models import load_model, load_models, loaded, models_of
from autoseg.predict.sliding import ImageWithMap
from autoseg.predict.stage import Options
from autoseg.predictor import Predictor
from autoseg.preprocess.store import StoredMap, load_case, open_case
from autoseg.transforms.chain import forward, next_stage_map

EDGE, CASES, FOLDS = 64, 4, 2
FIRST, SECOND = "3d_lowres", "3d_cascade_fullres"
CPU = torch.device("cpu")
SHORT = (
    "--device=cpu",
    "--jobs=1",
    "--set=training.epochs=1",
    "--set=training.iterations_per_epoch=6",
    "--set=training.validation_iterations=1",
    "--set=training.precision=float32",
    "--set=training.sample_by_sample=false",
    "--set=training.foreground_share=1",
    "--set=training.initial_learning_rate=0.02",
    "--set=training.momentum=0.9",
    "--set=prediction.mirroring=false",
    "--set=prediction.step=1",
)


@pytest.fixture(scope="module", autouse=True)
def quiet_afterwards():
    """The command line configures logging for the whole process: put it back."""
    logger = logging.getLogger("autoseg")
    before = logger.handlers[:], logger.level, logger.propagate
    yield
    logger.handlers[:], logger.level, logger.propagate = before


def call(*arguments, fails=False):
    """Run a command; checked unless `fails`."""
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert (done.exit_code != 0) == fails, done.output
    return done.output


def large_volume(seed):
    """Noise with two equal balls, of which the one in the brighter half is labelled, and a core in it."""
    rng = np.random.default_rng(seed)
    zyx = np.indices((EDGE,) * 3) / EDGE - 0.5
    image = rng.standard_normal((EDGE,) * 3) * 20 + np.where(zyx[0] > 0, 120, 100)
    label = np.zeros((EDGE,) * 3, np.uint8)
    for half in (-1, 1):
        centre = np.array([0.25 * half, *rng.uniform(-0.15, 0.15, 2)])
        distance = np.sqrt(((zyx - centre[:, None, None, None]) ** 2).sum(axis=0))
        image[distance < 0.2] += 100
        image[distance < 0.08] += 100
        if half > 0:
            label[distance < 0.2], label[distance < 0.08] = 1, 2
    return np.clip(image, 0, None).astype(np.uint16), label


@pytest.fixture(scope="module")
def raw(tmp_path_factory):
    folder = tmp_path_factory.mktemp("large")
    grid = Geometry(shape=(EDGE,) * 3, spacing_mm=(1.0, 1.0, 1.0))
    for number in range(CASES):
        image, label = large_volume(number)
        write_label(folder / "imagesTr" / f"case_{number}_0000.nii.gz", image, grid)
        write_label(folder / "labelsTr" / f"case_{number}.nii.gz", label, grid)
    description = {"channel_names": {"0": "MR"}, "labels": {"background": 0, "ball": 1, "core": 2}}
    description |= {"numTraining": CASES, "file_ending": ".nii.gz"}
    (folder / "dataset.json").write_text(json.dumps(description))
    return folder


@pytest.fixture(scope="module")
def planned(raw, tmp_path_factory):
    """A workspace as planned for a GPU so small that there is a low resolution, with few features."""
    space = Workspace(tmp_path_factory.mktemp("workspace"))
    call("plan", raw, "-w", space.root, "--gpu-memory", 0.1, "--num-folds", FOLDS, "--jobs", 1)
    plan = read(space.plan, Plan)
    assert plan.configurations[SECOND] == replace(plan.configurations["3d_fullres"], previous_stage=FIRST)
    assert plan.configurations[FIRST].next_stage == SECOND
    narrow = {
        name: replace(each, features_per_stage=tuple(4 * 2**stage for stage in range(each.n_stages)))
        for name, each in plan.configurations.items()
    }
    write(space.plan, replace(plan, configurations=narrow))
    return space


@pytest.fixture(scope="module")
def trained(planned):
    """The workspace with the second stage's first fold trained by one command, and what that said."""
    return planned, call("train", 0, "-w", planned.root, "--configuration", SECOND, *SHORT)


def first_stage_map(space, fold, name):
    """What a fold of the first stage predicts of a case, on the second one's grid."""
    model = load_model(space.fold(FIRST, fold), CPU)
    image = np.asarray(open_case(space.case(FIRST, name)).image[:])
    logits = mean_logits([model], image, device=CPU, mirror_axes=(), step=1.0)
    placement = read(space.case(SECOND, name).record, PreprocessedCase).placement
    return next_stage_map(logits, model.plan, model.configuration, model.plan.configurations[SECOND], placement)


def stored_maps(space):
    return {f"case_{number}": space.previous_map(SECOND, f"case_{number}") for number in range(CASES)}


def test_each_case_is_predicted_by_the_fold_that_was_not_trained_on_it(trained):
    space, said = trained
    assert f"{SECOND} needs {FIRST}: folds 0, 1 are trained first" in said
    folds = [read(space.fold(FIRST, fold).manifest, TrainedModel).cases for fold in range(FOLDS)]
    seen = {}
    for name, files in stored_maps(space).items():
        record = read(files.record, PreviousMap)
        assert name in folds[record.fold].validation
        assert name not in folds[record.fold].training
        seen.setdefault(record.fold, name)
    assert sorted(seen) == list(range(FOLDS))
    for fold, name in seen.items():
        stored = load_map(space, name)
        assert stored.any()
        np.testing.assert_array_equal(stored, first_stage_map(space, fold, name))
        assert (stored != first_stage_map(space, (fold + 1) % FOLDS, name)).any()


def load_map(space, name):
    files = space.previous_map(SECOND, name)
    return StoredMap(files.map, read(files.record, PreviousMap).map_sha256, (EDGE,) * 3)[:]


def test_the_second_stage_sees_what_the_first_predicted(trained):
    space, _ = trained
    folder = space.fold(SECOND, 0)
    model = load_model(folder, CPU)
    name = model.manifest.cases.validation[0]
    case = load_case(space.case(SECOND, name))
    shown = np.concatenate([case.image, [load_map(space, name) == value for value in (1, 2)]]).astype(np.float32)
    logits = mean_logits([model], shown, device=CPU, mirror_axes=(), step=1.0)
    written = read_label(folder.validation / f"{name}.nii.gz", case=name).array_zyx
    np.testing.assert_array_equal(written, logits.argmax(axis=0))
    blind = mean_logits([model], ImageWithMap(case.image, case.label * 0, 2), device=CPU, mirror_axes=(), step=1.0)
    assert (blind != logits).any()


def test_new_volumes_are_predicted_by_both_stages(trained, raw, tmp_path):
    space, _ = trained
    way = ("--device=cpu", "--step", 1, "--no-mirroring")
    scan = raw / "imagesTr" / "case_1_0000.nii.gz"
    call("predict", scan, tmp_path / "out", "-w", space.root, "--configuration", SECOND, *way)
    written = read_label(tmp_path / "out" / "case_1.nii.gz", case="").array_zyx

    first = load_models([space.fold(FIRST, fold) for fold in range(FOLDS)], CPU)
    second = load_model(space.fold(SECOND, 0), CPU)
    image = read_image([scan], case="")
    low = forward(image, None, first[0].plan, first[0].configuration)
    full = forward(image, None, second.plan, second.configuration)
    logits = mean_logits(first, low.image_czyx, device=CPU, mirror_axes=(), step=1.0)
    predicted = next_stage_map(logits, second.plan, first[0].configuration, second.configuration, full.placement)
    logits = mean_logits([second], ImageWithMap(full.image_czyx, predicted, 2), device=CPU, mirror_axes=(), step=1.0)
    np.testing.assert_array_equal(written, logits.argmax(axis=0))

    record = read(tmp_path / "out" / "prediction.json", PredictionSet)
    assert record.models == (str(space.fold(SECOND, 0).root),)
    assert record.previous_models == tuple(str(space.fold(FIRST, fold).root) for fold in range(FOLDS))
    said = call("predict", scan, tmp_path / "out", "-w", space.root, "--configuration", SECOND, *way)
    assert "1 of 1 cases are predicted already" in said

    bundle = tmp_path / "cascade.zip"
    call("export", bundle, "-w", space.root, "--configuration", SECOND)
    call("predict", scan, tmp_path / "again", "--model", bundle, *way)
    assert (tmp_path / "again" / "case_1.nii.gz").read_bytes() == (tmp_path / "out" / "case_1.nii.gz").read_bytes()
    predictor = Predictor(bundle, device_name="cpu", options=Options(mirroring=False, step=1.0))
    np.testing.assert_array_equal(predictor.predict(image.array_czyx, image.geometry.spacing_mm), written)
    # Another process is told where both stages are, and loads them itself.
    with loaded(predictor.models, "cpu") as ensemble:
        told = ForkingPickler.dumps(ensemble)
    (there,) = models_of(ForkingPickler.loads(told))
    assert [model.weights_sha256 for model in there.previous] == [model.weights_sha256 for model in first]
    half = [(second.manifest, space.fold(SECOND, 0).weights.read_bytes())]
    write_bundle(tmp_path / "half.zip", half, source="here")
    with pytest.raises(ArtifactError, match="contradicts itself"):
        read_bundle(tmp_path / "half.zip")


def test_other_weights_of_the_first_stage_predict_anew(trained, raw, tmp_path):
    space, _ = trained
    copy = Workspace(tmp_path / "copy")
    for name in (FIRST, SECOND):
        shutil.copytree(space.models(name), copy.models(name))
    scan, way = raw / "imagesTr" / "case_1_0000.nii.gz", ("--device=cpu", "--step", 1, "--no-mirroring")
    command = ("predict", scan, tmp_path / "out", "-w", copy.root, "--configuration", SECOND, *way)
    call(*command)
    before = read(tmp_path / "out" / "prediction.json", PredictionSet)
    shutil.copy(copy.fold(FIRST, 1).weights, copy.fold(FIRST, 0).weights)
    assert "predicted already" not in call(*command)
    assert read(tmp_path / "out" / "prediction.json", PredictionSet).inputs_sha256 != before.inputs_sha256
    shutil.rmtree(copy.models(FIRST))
    assert f"found:   {FIRST}" in call(*command, fails=True)


def test_nothing_is_done_twice(trained):
    space, _ = trained
    files = [path for path in space.root.rglob("*") if path.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    said = call("train", 0, "-w", space.root, "--configuration", SECOND, *SHORT)
    assert "trained first" not in said
    assert {path: path.stat().st_mtime_ns for path in space.root.rglob("*") if path.is_file()} == before


def test_a_damaged_or_stale_map_is_made_again(trained):
    space, _ = trained
    damaged, stale = (space.previous_map(SECOND, f"case_{number}") for number in (0, 1))
    whole, record = damaged.map.read_bytes(), read(stale.record, PreviousMap)
    other = space.previous_map(SECOND, "case_2").record.stat().st_mtime_ns
    damaged.map.write_bytes(whole[: len(whole) // 2])
    write(stale.record, replace(record, inputs_sha256="other weights"))
    call("train", 0, "-w", space.root, "--configuration", SECOND, *SHORT)
    assert damaged.map.read_bytes() == whole
    assert read(stale.record, PreviousMap) == record
    assert space.previous_map(SECOND, "case_2").record.stat().st_mtime_ns == other


def test_a_selection_knows_both_stages(trained, raw, tmp_path):
    space = Workspace(shutil.copytree(trained[0].root, tmp_path / "copy"))
    call("select", "-w", space.root, "--device=cpu", "--jobs=1")
    selection = read(space.selection, Selection)
    assert selection.judged_on == (0,)
    assert f"{FIRST}, fold 1: not judged, for not every configuration has it" in selection.left_out
    assert selection.folds == ((0, 1) if selection.configurations == (FIRST,) else (0,))
    call("select", "-w", space.root, "--configuration", SECOND, "--device=cpu", "--jobs=1")
    selection = read(space.selection, Selection)
    assert {name: sorted(each) for name, each in selection.weights_sha256.items()} == {SECOND: ["0"], FIRST: ["0", "1"]}
    scan = raw / "imagesTr" / "case_1_0000.nii.gz"
    command = ("predict", scan, tmp_path / "out", "-w", space.root, "--device=cpu", "--step", 1, "--no-mirroring")
    call(*command)
    shutil.copytree(space.fold(FIRST, 0).root, space.fold(FIRST, 2).root)
    assert "has other folds" in call(*command, fails=True)


@pytest.mark.long
def test_killed_at_any_stage_it_ends_with_the_weights_of_an_undisturbed_run(trained, tmp_path):
    undisturbed, _ = trained
    space = Workspace(tmp_path / "killed")
    space.root.mkdir()
    for file in (undisturbed.dataset, undisturbed.fingerprint, undisturbed.plan, undisturbed.splits):
        shutil.copy(file, space.root)
    command = [sys.executable, "-m", "autoseg", "train", "0", "-w", str(space.root), "--configuration", SECOND, *SHORT]
    command.append("--set=training.checkpoint_minutes=0")
    appearing = (
        space.fold(FIRST, 1).checkpoint,
        space.previous_map(SECOND, "case_1").record,
        space.fold(SECOND, 0).checkpoint,
    )
    for file in appearing:
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
            while not file.exists() and process.poll() is None:
                time.sleep(0.01)
            process.kill()
    assert not space.fold(SECOND, 0).weights.exists()
    subprocess.run(command, check=True, capture_output=True)
    for name, fold in ((FIRST, 0), (FIRST, 1), (SECOND, 0)):
        assert space.fold(name, fold).weights.read_bytes() == undisturbed.fold(name, fold).weights.read_bytes()
    for name, files in stored_maps(space).items():
        assert files.map.read_bytes() == stored_maps(undisturbed)[name].map.read_bytes()
    assert not [path for path in space.root.rglob(".*") if path.name.endswith((".part", ".lock"))]
