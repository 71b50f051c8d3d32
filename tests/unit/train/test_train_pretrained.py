"""Beginning from another training's weights: what fits is loaded, ends are adapted by name, and little is refused."""

import shutil
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch

from autoseg.artifacts.base import read, write
from autoseg.artifacts.bundle import write_bundle
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.metrics import read_metrics
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.plan import Training
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase
from autoseg.artifacts.splits import Fold
from autoseg.errors import ArtifactError, SettingError
from autoseg.layout import Workspace
from autoseg.networks.unet import build_network
from autoseg.preprocess.case import foreground_locations
from autoseg.preprocess.store import LoadedCase
from autoseg.train import setup, stage
from autoseg.train.carry_over import (
    Ends,
    adapt_input,
    adapt_output,
    axes_that_differ,
    carry_over,
    check_enough,
    counterparts,
    ends_of,
    match,
    misfits,
    sums,
    table,
)
from autoseg.train.pretrained import begin, find_pretrained, recorded_in
from autoseg.train.sampling import TrainingCase

CPU = torch.device("cpu")
LABELS = {"background": 0, "liver": 1, "tumour": 2}


pytestmark = pytest.mark.usefixtures("one_thread")


# Names.


@pytest.mark.parametrize(
    ("wanted", "known", "places"),
    [
        (("T1", "T2"), ("T2", "T1"), (1, 0)),
        (("t1 ", "FLAIR"), ("T1",), (0, None)),
        (("MR", "MR"), ("MR",), (0, None)),
        (("MR", "MR"), ("MR", "MR"), (0, 1)),
        ((), ("MR",), ()),
    ],
)
def test_names_are_matched(wanted, known, places):
    assert match(wanted, known) == places


def test_ends_are_named_in_the_order_of_the_network(build_plan):
    plan = build_plan(labels={"tumour": 2, "background": 0, "liver": 1, "ignore": 3}, channels=("CT", "PET"))
    assert ends_of(plan, "3d_fullres") == Ends(("CT", "PET"), ("background", "liver", "tumour"), regions=False)
    regions = build_plan(labels={"background": 0, "whole": (1, 2), "core": 2}, regions_class_order=(1, 2))
    assert ends_of(regions, "3d_fullres") == Ends(("MR",), ("whole", "core"), regions=True)


# Tensors.


def test_channels_are_permuted_as_they_are():
    weight = torch.randn(4, 2, 3, 3)
    assert torch.equal(adapt_input(weight, 1, (1, 0)), weight.flip(1))


@pytest.mark.parametrize("places", [(0, None), (0, 1, None), (1,), (None,), (None, None, None)])
def test_a_filters_length_stays_and_so_does_the_spread_of_what_it_gives(places):
    torch.manual_seed(0)
    weight = torch.randn(8, 2, 3, 3)
    new = adapt_input(weight, 1, places)
    assert new.shape == (8, len(places), 3, 3)
    torch.testing.assert_close(new.flatten(1).norm(dim=1), weight.flatten(1).norm(dim=1))
    inputs = torch.randn(1, len(places), 200, 200)
    before = torch.nn.functional.conv2d(torch.randn(1, 2, 200, 200), weight).std((0, 2, 3))
    after = torch.nn.functional.conv2d(inputs, new).std((0, 2, 3))
    torch.testing.assert_close(after, before, rtol=0.1, atol=0)


def test_a_new_channel_is_the_mean_of_the_old_ones():
    weight = torch.randn(4, 2, 3, 3, 3)
    new = adapt_input(weight, 1, (1, None))
    mean = weight.mean(1)
    ratio = new[:, 1] / mean
    torch.testing.assert_close(new[:, 0], weight[:, 1] * ratio.flatten(1)[:, :1, None, None])


def test_filters_of_nothing_stay_nothing():
    assert torch.equal(adapt_input(torch.zeros(2, 1, 3, 3), 1, (0, None)), torch.zeros(2, 2, 3, 3))


def test_known_outputs_keep_their_rows():
    old, fresh = torch.arange(6.0).reshape(3, 2), -torch.ones(4, 2)
    new = adapt_output(old, fresh, 0, (0, None, 1, None))
    assert new.tolist() == [[0, 1], [-1, -1], [2, 3], [-1, -1]]


def test_levels_are_counted_from_the_finest():
    deep = ["up.0.weight", "up.1.weight", "up.2.weight", "encoder.0.bias", "norm"]
    flat = ["up.0.weight", "up.1.weight", "encoder.0.bias"]
    assert counterparts(flat, deep) == {
        "up.0.weight": "up.1.weight",
        "up.1.weight": "up.2.weight",
        "encoder.0.bias": "encoder.0.bias",
    }
    assert counterparts(deep, flat)["up.2.weight"] == "up.1.weight"


# Networks.


def network(configuration, ends, seed):
    torch.manual_seed(seed)
    return build_network(configuration, len(ends.channels), len(ends.outputs))


def shapes(built):
    return {name: tuple(tensor.shape) for name, tensor in built.state_dict().items()}


def carried(old_configuration, old_ends, configuration, ends):
    """The old state, the fresh one, what was made of them, and what became of each tensor by name."""
    old, fresh = network(old_configuration, old_ends, 1), network(configuration, ends, 2)
    channels, outputs = (
        axes_that_differ(
            shapes(fresh),
            shapes(build_network(configuration, len(ends.channels) + c, len(ends.outputs) + 1 - c)),
        )
        for c in (1, 0)
    )
    state, fates = carry_over(old.state_dict(), fresh.state_dict(), old_ends, ends, channels, outputs)
    fresh.load_state_dict(state)
    return old.state_dict(), network(configuration, ends, 2).state_dict(), state, {fate.name: fate for fate in fates}


ONE = Ends(("MR",), ("background", "liver"), regions=False)


def test_the_same_network_is_loaded_whole(build_configuration):
    old, _, state, fates = carried(build_configuration(), ONE, build_configuration(), ONE)
    assert all(torch.equal(state[name], old[name]) for name in state)
    assert {fate.outcome for fate in fates.values()} == {"loaded"}


@pytest.mark.parametrize("residual", [False, True])
def test_channels_and_labels_are_adapted_and_the_rest_is_loaded(build_configuration, residual):
    blocks = {"n_conv_per_stage": None, "n_blocks_per_stage": (1, 1)} if residual else {}
    ends = Ends(("PET", "MR"), ("background", "spleen", "liver"), regions=False)
    old, fresh, state, fates = carried(
        build_configuration(**blocks), ONE, build_configuration(channels=2, **blocks), ends
    )
    first = "stem.convolution.weight" if residual else "encoder.0.first.convolution.weight"
    assert {name for name, fate in fates.items() if fate.outcome == "adapted"} == {
        first,
        "heads.0.weight",
        "heads.0.bias",
    }
    assert (fates[first].part, fates["heads.0.bias"].part) == ("input", "output")
    assert all(torch.equal(state[n], old[n]) for n, fate in fates.items() if fate.outcome == "loaded")
    torch.testing.assert_close(state[first], torch.cat([old[first], old[first]], 1) / 2**0.5)
    head, before = state["heads.0.weight"], old["heads.0.weight"]
    assert torch.equal(head[0], before[0])
    assert torch.equal(head[2], before[1])
    assert torch.equal(head[1], fresh["heads.0.weight"][1])
    assert sums(list(fates.values()))["output"].adapted == head.numel() + 3


def test_classes_and_regions_do_not_share_heads(build_configuration):
    regions = Ends(("MR",), ("background", "liver"), regions=True)
    _, fresh, state, fates = carried(build_configuration(), ONE, build_configuration(), regions)
    assert torch.equal(state["heads.0.weight"], fresh["heads.0.weight"])
    assert "regions" in fates["heads.0.weight"].why
    assert fates["heads.0.weight"].outcome == "fresh"


def test_a_deeper_network_takes_the_finest_levels(build_configuration):
    shallow = build_configuration((8, 8, 8), features_per_stage=(4, 4))
    deep = build_configuration((8, 8, 8), ((1,) * 3, (2,) * 3, (2,) * 3), features_per_stage=(4, 4, 4))
    old, fresh, state, fates = carried(shallow, ONE, deep, ONE)
    assert torch.equal(state["decoder.1.first.convolution.weight"], old["decoder.0.first.convolution.weight"])
    assert torch.equal(state["heads.1.weight"], old["heads.0.weight"])
    assert torch.equal(state["decoder.0.first.convolution.weight"], fresh["decoder.0.first.convolution.weight"])
    assert fates["encoder.2.first.convolution.weight"].why == "not there"
    back, _, state, fates = carried(deep, ONE, shallow, ONE)
    assert torch.equal(state["up.0.weight"], back["up.1.weight"])
    assert {fate.outcome for fate in fates.values()} == {"loaded"}


def test_other_kernels_are_left_fresh_and_told(build_configuration):
    flat = build_configuration(kernel_sizes=((1, 3, 3), (3, 3, 3)))
    _, fresh, state, fates = carried(build_configuration(), ONE, flat, ONE)
    name = "encoder.0.rest.0.convolution.weight"
    assert torch.equal(state[name], fresh[name])
    assert fates[name].why == "4x4x3x3x3 there, 4x4x1x3x3 here"
    assert fates["encoder.0.rest.0.convolution.bias"].outcome == "loaded"
    assert misfits(list(fates.values()))[0].startswith("encoder.0.first.convolution: ")
    check_enough(list(fates.values()), "there")


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"features_per_stage": (5, 9)}, id="features"),
        # The decoder would fit, but what it is shown would not.
        pytest.param({"n_conv_per_stage": None, "n_blocks_per_stage": (1, 1)}, id="another kind of encoder"),
    ],
)
def test_nearly_nothing_is_refused(build_configuration, change):
    *_, fates = carried(build_configuration(), ONE, build_configuration(**change), ONE)
    with pytest.raises(SettingError, match="hardly fit") as caught:
        check_enough(list(fates.values()), "there")
    assert "% of its numbers fit" in str(caught.value)
    assert "encoder.0" in str(caught.value)


# Folds.


def record_of(case, channels):
    shape = case.label_zyx.shape
    grid = Geometry(shape=shape, spacing_mm=(1.0, 1.0, 1.0))
    return PreprocessedCase(
        name=case.name,
        inputs_sha256=case.name,
        arrays_sha256=case.name,
        placement=Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=shape, shape=shape),
        num_channels=channels,
        foreground_voxels={},
    )


@pytest.fixture
def task_of(build_plan, build_configuration, phantom):
    """Callable: a task, and how to run it into a folder."""

    def make(*, channels=("MR",), labels=None, pretrained=None, first="case", recipe=None, **changes):
        labels = labels or {"background": 0, "blob": 1}
        recipe = recipe or {"epochs": 1, "iterations_per_epoch": 1}
        training = Training(validation_iterations=0, initial_learning_rate=0.02, momentum=0.9, **recipe)
        plan = build_plan(
            {"3d_fullres": build_configuration(channels=len(channels), **changes)},
            channels=channels,
            labels=labels,
            training=training,
        )
        names = tuple(f"{first}_{i}" for i in range(3))
        return stage.FoldTask(
            plan=plan,
            settings=(),
            configuration_name="3d_fullres",
            fold=0,
            cases=Fold(training=names[:2], validation=names[2:]),
            naming=Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"),
            pretrained=pretrained,
        )

    return make


@pytest.fixture
def run(phantom):
    """Callable: train a task into a folder; a step is computed in one way, so that nothing is timed."""

    def go(task, folder, **options):
        channels = len(task.plan.channel_names)
        blob = max(value for name, value in task.plan.labels.items() if "blob" in name)
        names = (*task.cases.training, *task.cases.validation)
        cases = {}
        for seed, name in enumerate(names):
            image, label = phantom((12, 12, 12), seed)
            label = (label * blob).astype(np.int16)
            image = np.concatenate([image] * channels)
            cases[name] = TrainingCase(
                name, LoadedCase(image, label, foreground_locations(label, name, {"blob": blob}))
            )
        records = {name: record_of(case, channels) for name, case in cases.items()}
        return stage.run(
            task, records, lambda wanted: [cases[name] for name in wanted], folder, device=CPU, jobs=1, **options
        )

    return go


@pytest.fixture(autouse=True)
def one_style(monkeypatch):
    monkeypatch.setattr(setup, "choose_step", lambda *_, **__: (StepStyle(precision="float32"), {}))


@pytest.fixture
def folder(tmp_path):
    """Callable: the folder of a workspace's fold."""
    return lambda name="w", fold=0: Workspace(tmp_path / name).fold("3d_fullres", fold)


def find(path, task, fold=0):
    return find_pretrained(path, fold, task.plan, task.configuration_name)


def test_a_fold_is_found_by_every_path_to_it(task_of, run, folder, tmp_path):
    task = task_of()
    run(task, folder())
    root = folder().root
    for path in (root, root / "weights.safetensors", root.parent, tmp_path / "w"):
        source = find(path, task)
        assert source.path == root
        assert source.manifest == read(folder().manifest, TrainedModel)
    copied = tmp_path / "anywhere"
    shutil.copytree(root, copied / "fold_3")
    assert find(copied, task, fold=3).weights_sha256 == source.weights_sha256
    assert find(copied / "fold_3", task).path == copied / "fold_3"


def test_a_fold_in_a_bundle_is_one_to_begin_with(task_of, run, folder, tmp_path):
    task = task_of()
    model = run(task, folder("old"))
    weights = folder("old").weights.read_bytes()
    third = msgspec.structs.replace(model, fold=3)
    bundles = {"one.zip": [(third, weights)], "two.zip": [(model, weights), (third, weights)]}
    for name, models in bundles.items():
        write_bundle(tmp_path / name, models, source="")
    assert find(tmp_path / "one.zip", task).manifest == third
    assert [find(tmp_path / "two.zip", task, fold=fold).manifest.fold for fold in (0, 3)] == [0, 3]
    with pytest.raises(SettingError, match="no fold 1 in the bundle") as caught:
        find(tmp_path / "two.zip", task, fold=1)
    assert "0, 3" in str(caught.value)
    source = find(tmp_path / "one.zip", task)
    assert source.weights_sha256 == find(folder("old").root, task).weights_sha256
    tuned = run(replace(task, pretrained=source), folder("tuned"))
    assert tuned.pretrained.weights_sha256 == source.weights_sha256
    assert tuned.pretrained.path.startswith(str(tmp_path / "one.zip"))
    folder("tuned").checkpoint.unlink()
    folder("tuned").previous_checkpoint.unlink(missing_ok=True)
    write(folder("tuned").manifest, msgspec.structs.replace(tuned, finished=False))
    assert run(replace(task, pretrained=recorded_in(folder("tuned"))), folder("tuned")).pretrained == tuned.pretrained


def test_what_is_no_fold_is_refused(task_of, run, folder, tmp_path):
    task = task_of()
    model = run(task, folder())
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pth").write_bytes(b"")
    with pytest.raises(SettingError, match="no fold is trained"):
        find(tmp_path / "empty", task)
    with pytest.raises(SettingError, match="no pretrained weights") as caught:
        find(tmp_path / "weights.pth", task)
    assert "weights.safetensors" in str(caught.value)
    with pytest.raises(SettingError, match="no trained fold 4") as caught:
        find(tmp_path / "w", task, fold=4)
    assert str(folder().root) in caught.value.hint
    other = replace(task, configuration_name="2d")
    with pytest.raises(SettingError, match="no trained fold 0 of 2d") as caught:
        find(tmp_path / "w", other)
    assert str(folder().root) in caught.value.found
    write(folder().manifest, msgspec.structs.replace(model, finished=False))
    with pytest.raises(SettingError, match="not finished"):
        find(tmp_path / "w", task)


def test_weights_that_are_damaged_are_explained(task_of, run, folder):
    task = task_of()
    run(task, folder())
    folder().weights.write_bytes(b"no weights")
    with pytest.raises(ArtifactError, match="weights can't be read"):
        find(folder().root, task)


def test_2d_weights_are_refused_for_volumes(task_of, run, folder):
    flat = task_of(patch_size=(8, 8), strides=((1, 1), (2, 2)))
    run(flat, folder())
    with pytest.raises(SettingError, match="the pretrained network is 2D, the one to be trained is 3D"):
        find(folder().root, task_of())


def test_fine_tuning_begins_better_than_from_scratch(task_of, run, folder, caplog, monkeypatch):
    run(task_of(recipe={"epochs": 3, "iterations_per_epoch": 8}), folder("old"))
    new = {"channels": ("T2", "MR"), "labels": {"background": 0, "other": 1, "blob": 2}, "first": "new"}
    scratch = task_of(**new)
    source = find(folder("old").root, scratch)
    run(scratch, folder("scratch"))
    # Once the command line has run in this process, messages would not reach the root.
    monkeypatch.setattr(stage.logging.getLogger("autoseg"), "propagate", True)
    with caplog.at_level("INFO"):
        tuned = run(replace(scratch, pretrained=source), folder("tuned"))
    first = {name: read_metrics(folder(name).metrics)[0]["train_loss"] for name in ("scratch", "tuned")}
    assert first["tuned"] < first["scratch"] - 0.2
    assert tuned.pretrained.path == str(folder("old").root)
    assert tuned.pretrained.weights_sha256 == source.weights_sha256
    assert tuned.pretrained.channels == (None, "MR")
    assert tuned.pretrained.outputs == ("background", None, "blob")
    parts = tuned.pretrained.parts
    assert list(parts) == ["input", "encoder", "up", "decoder", "output"]
    assert (parts["input"].loaded, parts["input"].adapted, parts["input"].fresh) == (0, 4 * 2 * 27, 0)
    assert (parts["output"].adapted, parts["encoder"].adapted, parts["encoder"].fresh) == (3 * 4 + 3, 0, 0)
    assert sum(part.loaded + part.adapted + part.fresh for part in parts.values()) == tuned.num_parameters
    assert read(folder("tuned").manifest, TrainedModel) == tuned
    told = table(tuned.pretrained, ends_of(tuned.plan, "3d_fullres"))
    assert told[0].split() == ["part", "loaded", "adapted", "left", "fresh"]
    assert told[1].split() == ["input", "0", "216", "0", "T2", "from", "the", "mean,", "MR", "from", "MR"]
    assert told[-1].endswith("background from background, other fresh, blob from blob")
    assert set(told) <= set(caplog.messages)


def test_what_differs_is_told(task_of, run, folder, caplog, monkeypatch):
    monkeypatch.setattr(stage.logging.getLogger("autoseg"), "propagate", True)
    old = task_of()
    run(old, folder("old"))
    new = task_of(spacing=(2.0, 1.0, 1.0), normalization_schemes=("ct",))
    with caplog.at_level("INFO"):
        run(replace(new, pretrained=find(folder("old").root, new)), folder("new"))
    unlike = dict.fromkeys(message for message in caplog.messages if message.startswith("unlike"))
    assert [message.split(": ")[1].split(" was")[0] for message in unlike] == ["spacing", "normalization.MR"]


def test_a_run_goes_on_with_the_weights_it_began_with(task_of, run, folder, tmp_path):
    old = task_of()
    run(old, folder("old"))
    run(task_of(recipe={"epochs": 1, "iterations_per_epoch": 2}), folder("other"))
    model = run(replace(old, pretrained=find(folder("old").root, old)), folder())
    again = replace(old, pretrained=recorded_in(folder()))
    assert run(again, folder()) == model
    # Even when they have gone elsewhere: there is a checkpoint.
    write(folder().manifest, msgspec.structs.replace(model, finished=False))
    weights = folder().weights.read_bytes()
    folder("old").root.rename(tmp_path / "elsewhere")
    assert run(again, folder()).pretrained == model.pretrained
    assert folder().weights.read_bytes() == weights
    moved = replace(old, pretrained=find(tmp_path / "elsewhere", old))
    assert run(moved, folder()).pretrained == model.pretrained
    with pytest.raises(SettingError, match="other settings") as caught:
        run(replace(old, pretrained=find(folder("other").root, old)), folder())
    assert f"it began with the weights of {folder('old').root}, not" in caught.value.found


def test_a_training_from_scratch_takes_no_weights_up(task_of, run, folder):
    task = task_of()
    run(task, folder("old"))
    assert recorded_in(folder()) is None
    run(task, folder())
    assert recorded_in(folder()) is None
    with pytest.raises(SettingError, match="other settings") as caught:
        run(replace(task, pretrained=find(folder("old").root, task)), folder())
    assert "it began from scratch" in caught.value.found


def test_a_run_that_was_killed_before_its_first_checkpoint_loads_them_again(task_of, run, folder):
    old = task_of()
    run(old, folder("old"))
    model = run(replace(old, pretrained=find(folder("old").root, old)), folder())
    again = replace(old, pretrained=recorded_in(folder()))
    first = folder().weights.read_bytes()

    def forget():
        folder().weights.unlink()
        folder().checkpoint.unlink()
        write(folder().manifest, msgspec.structs.replace(model, finished=False))

    forget()
    assert run(again, folder()).pretrained == model.pretrained
    assert folder().weights.read_bytes() == first
    forget()
    folder("old").weights.write_bytes(first)
    with pytest.raises(SettingError, match="are gone") as caught:
        run(again, folder())
    assert "--pretrained" in caught.value.hint


def test_seeing_what_fits_leaves_fresh_weights_as_they_would_be(task_of, run, folder):
    old = task_of()
    run(old, folder("old"))
    source = find(folder("old").root, old)
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    find(folder("old").root, old)
    assert torch.equal(torch.rand(1), expected)
    with torch.random.fork_rng(devices=[]):
        built = build_network(old.plan.configurations["3d_fullres"], 1, 2)
    assert begin(built, old.plan, "3d_fullres", None) is None
    told = begin(built, old.plan, "3d_fullres", source)
    assert {part.loaded for part in told.parts.values()} == {
        part.loaded + part.adapted + part.fresh for part in told.parts.values()
    }
