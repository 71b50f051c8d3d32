"""The stage on files: what is stored, what is done again and what is not."""

import os
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from autoseg import machine
from autoseg.artifacts.dataset import Case, Dataset, Naming
from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.plan import Configuration, Plan, Resampling, Training
from autoseg.datasets.layouts import find_dataset
from autoseg.errors import ArtifactError, AutosegError, SettingError
from autoseg.images.io import read_label, write_label
from autoseg.layout import Workspace
from autoseg.preprocess import stage
from autoseg.preprocess.case import foreground_locations, foreground_voxels
from autoseg.preprocess.store import load_case
from autoseg.transforms.chain import restore_labels

REAL = Path(__file__).parents[3].parent / "shared" / "data"
STATISTICS = IntensityStatistics(
    mean=30, median=30, std=60, min=-1000, max=3000, percentile_00_5=-200, percentile_99_5=800
)


def make_configuration(channels, spacing, patch):
    d = len(spacing)
    return Configuration(
        spacing=spacing,
        median_image_size_in_voxels=(4.0,) * d,
        patch_size=patch,
        batch_size=2,
        strides=((1,) * d, (2,) * d),
        kernel_sizes=((3,) * d,) * 2,
        features_per_stage=(32, 64),
        n_stages=2,
        n_conv_per_stage=(2, 2),
        n_conv_per_stage_decoder=(2,),
        batch_dice=False,
        normalization_schemes=tuple("ct" if name == "CT" else "zscore" for name in channels),
        use_mask_for_norm=(False,) * len(channels),
        mirror_axes=(),
        resampling=Resampling(),
        memory_proxy=0.0,
    )


def make_plan(dataset, transpose, spacing, patch):
    return Plan(
        inputs_sha256="",
        gpu_memory_gb=8,
        channel_names=dataset.channel_names,
        labels=dataset.labels,
        transpose_forward=transpose,
        transpose_backward=tuple(transpose.index(axis) for axis in range(3)),
        original_median_spacing=(1.0, 1.0, 1.0),
        original_median_shape=(4.0, 4.0, 4.0),
        intensities=(STATISTICS,) * len(dataset.channel_names),
        configurations={"3d_fullres": make_configuration(dataset.channel_names, spacing, patch)},
    )


@pytest.fixture
def dataset(tmp_path):
    cases = []
    for index, name in enumerate("abc"):
        geometry = Geometry(shape=(5, 6, 7 + index), spacing_mm=(2.0, 1.0, 1.0))
        rng = np.random.default_rng(index)
        write_label(tmp_path / "raw" / f"{name}_i.nii.gz", rng.integers(1, 200, geometry.shape), geometry)
        label = np.zeros(geometry.shape, np.uint8)
        label[1:4, 2:5] = index
        write_label(tmp_path / "raw" / f"{name}_l.nii.gz", label, geometry)
        cases.append(Case(name=name, images=(f"{name}_i.nii.gz",), label=f"{name}_l.nii.gz"))
    return Dataset(
        root=str(tmp_path / "raw"),
        channel_names=("MR",),
        labels={"background": 0, "one": 1, "two": 2},
        naming=Naming(image_suffixes=("_i.nii.gz",), label_suffix="_l.nii.gz"),
        cases=tuple(cases),
        num_training=3,
    )


@pytest.fixture
def plan(dataset):
    return make_plan(dataset, (0, 1, 2), (1.0, 1.0, 0.5), (4, 4, 4))


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


@pytest.fixture
def counted(monkeypatch):
    """Names of the cases that were preprocessed."""
    names = []
    original = stage.preprocess_case

    def count(task):
        names.append(task.case.name)
        return original(task)

    monkeypatch.setattr(stage, "preprocess_case", count)
    return names


@pytest.mark.parametrize("jobs", [1, 2])
def test_what_is_stored(dataset, plan, workspace, jobs):
    records = stage.run(dataset, plan, "3d_fullres", workspace, jobs=jobs)
    assert [record.name for record in records] == ["a", "b", "c"]
    assert records[1].placement.shape == (10, 6, 16)
    for record in records:
        case = load_case(workspace.case("3d_fullres", record.name))
        assert case.image.shape == (1, *record.placement.shape)
        assert case.label.shape == record.placement.shape
        counts = {name: int((case.label == value).sum()) for name, value in dataset.foreground.items()}
        assert record.foreground_voxels == counts
        label, *zyx = case.locations.T
        assert (case.label[tuple(zyx)] == label).all()
        assert len(label) == sum(counts.values())
    assert not list(workspace.root.rglob("*.part*"))


def test_only_what_is_missing_is_done(dataset, plan, workspace, counted):
    first = stage.run(dataset, plan, "3d_fullres", workspace, jobs=1)
    assert stage.run(dataset, plan, "3d_fullres", workspace, jobs=1) == first
    assert counted == ["a", "b", "c"]
    workspace.case("3d_fullres", "b").label.unlink()
    workspace.case("3d_fullres", "c").record.unlink()
    assert stage.run(dataset, plan, "3d_fullres", workspace, jobs=1) == first
    assert counted == ["a", "b", "c", "b", "c"]
    os.utime(Path(dataset.root) / "a_i.nii.gz", ns=(1, 1))
    second = stage.run(dataset, plan, "3d_fullres", workspace, jobs=1)
    assert counted[5:] == ["a"]
    assert second[1:] == first[1:]


def test_who_does_not_prepare_finds_what_was_prepared_or_says_so(dataset, plan, workspace, counted, monkeypatch):
    monkeypatch.setattr(machine, "SEEN_WITHIN_SECONDS", 0.3)
    with pytest.raises(ArtifactError, match="not to be seen here"):
        stage.find(dataset, plan, "3d_fullres", workspace)
    assert not workspace.preprocessed("3d_fullres").exists()
    made = stage.run(dataset, plan, "3d_fullres", workspace, jobs=1)
    counted.clear()
    assert stage.find(dataset, plan, "3d_fullres", workspace) == made
    os.utime(Path(dataset.root) / "a_i.nii.gz", ns=(1, 1))
    with pytest.raises(ArtifactError, match="not to be seen here"):
        stage.find(dataset, plan, "3d_fullres", workspace)
    assert not counted


@pytest.mark.parametrize("kind", ["image", "label", "locations"])
def test_a_case_with_a_damaged_or_foreign_array_is_made_again(dataset, plan, workspace, counted, kind):
    first = stage.run(dataset, plan, "3d_fullres", workspace, jobs=1)
    one, other = (getattr(workspace.case("3d_fullres", name), kind) for name in "ab")
    good, foreign = one.read_bytes(), other.read_bytes()
    for bad in (b"", good[:200], good[: len(good) // 2], good[:-1], b"\0" * len(good), foreign):
        counted.clear()
        one.write_bytes(bad)
        assert stage.run(dataset, plan, "3d_fullres", workspace, jobs=1) == first
        assert counted == ["a"]
        assert one.read_bytes() == good


def test_only_what_shapes_the_arrays_counts(dataset, plan, workspace, counted):
    stage.run(dataset, plan, "3d_fullres", workspace, jobs=1)
    configuration = plan.configurations["3d_fullres"]
    longer = replace(
        plan,
        training=Training(epochs=5),
        configurations={"3d_fullres": replace(configuration, batch_size=7, patch_size=(2, 2, 2))},
        intensities=(replace(STATISTICS, mean=0.0),),
    )
    stage.run(dataset, longer, "3d_fullres", workspace, jobs=1)
    assert len(counted) == 3
    for change in (
        {"spacing": (1.0, 1.0, 1.0)},
        {"normalization_schemes": ("ct",)},
        {"use_mask_for_norm": (True,)},
        {"resampling": Resampling(data_order=1)},
    ):
        counted.clear()
        changed = replace(plan, configurations={"3d_fullres": replace(configuration, **change)})
        stage.run(dataset, changed, "3d_fullres", workspace, jobs=1)
        assert counted == ["a", "b", "c"]


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_bad_case_is_named_and_the_others_are_kept(dataset, plan, workspace, jobs):
    image = Path(dataset.root) / "c_i.nii.gz"
    good = image.read_bytes()
    image.write_bytes(good[: len(good) // 2])
    with pytest.raises(AutosegError, match="case c"):
        stage.run(dataset, plan, "3d_fullres", workspace, jobs=jobs)
    records = [workspace.case("3d_fullres", name).record for name in "abc"]
    assert [record.is_file() for record in records] == [True, True, False]
    before = [record.stat().st_mtime_ns for record in records[:2]]
    image.write_bytes(good)
    assert len(stage.run(dataset, plan, "3d_fullres", workspace, jobs=jobs)) == 3
    assert [record.stat().st_mtime_ns for record in records[:2]] == before


def test_an_unwritable_workspace_is_one_error(dataset, plan, tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError, match="the folder can't be written"):
        stage.run(dataset, plan, "3d_fullres", Workspace(tmp_path / "file"), jobs=2)


def test_an_unknown_configuration_names_the_nearest(dataset, plan, workspace):
    with pytest.raises(SettingError, match="did you mean 3d_fullres"):
        stage.run(dataset, plan, "3d_fulres", workspace, jobs=1)


def test_locations_are_a_sample_that_stays_the_same():
    label = np.zeros((20, 300, 300), np.int16)
    label[:, :280] = 1
    label[5, 290, :10] = 7
    label[6, 295] = -1
    labels = {"background": 0, "seven": 7, "one": 1}
    found = foreground_locations(label, "case", labels)
    assert found.dtype == np.int32
    classes, counts = np.unique(found[:, 0], return_counts=True)
    assert classes.tolist() == [1, 2]
    assert counts.tolist() == [16_800, 10]  # 1 % of 1,680,000, and all
    assert len(np.unique(found, axis=0)) == len(found)
    assert (label[tuple(found[:, 1:].T)] == np.array([0, 1, 7])[found[:, 0]]).all()
    np.testing.assert_array_equal(found, foreground_locations(label, "case", labels))
    assert (found != foreground_locations(label, "other", labels)).any()
    assert len(foreground_locations(label[:, :100] * 1, "case", labels)) == 10_000
    assert foreground_voxels(label, {"two": 7, "background": 0, "one": 1, "none": 9}) == {
        "one": 1_680_000,
        "two": 10,
        "none": 0,
    }


def test_locations_of_regions_overlap_and_those_of_annotated_voxels_come_first():
    label = np.zeros((4, 10, 10), np.int16)
    label[1], label[2], label[3], label[0, 0] = 1, 2, 3, -1
    labels = {"background": 0, "whole": (1, 2), "inner": 2, "ignore": 3}
    found = foreground_locations(label, "case", labels)
    assert np.unique(found[:, 0], return_counts=True)[1].tolist() == [300, 200, 100]
    assert (np.diff(found[:, 0]) >= 0).all()
    values = label[tuple(found[:, 1:].T)]
    assert set(values[found[:, 0] == 0]) == {-1, 0, 1, 2}
    assert set(values[found[:, 0] == 1]) == {1, 2}
    assert set(values[found[:, 0] == 2]) == {2}
    assert foreground_voxels(label, labels) == {"whole": 200, "inner": 100}
    assert len(foreground_locations(np.full((2, 2, 2), 3, np.int16), "case", labels)) == 0


def dice(one, other):
    return 2 * (one & other).sum() / (one.sum() + other.sum())


REAL_CASES = {
    "openkbp_ct": (3, ["CT"], ["stem", "cord", "right", "left", "jaw"], (2, 0, 1), (2.4, 3.2, 2.6)),
    "sts_multi": (2, None, None, (0, 1, 2), None),
}


@pytest.mark.parametrize("name", REAL_CASES)
def test_real_cases_come_back(name, workspace):
    if not (REAL / name).is_dir():
        pytest.skip(f"{REAL / name} is not on this machine")
    count, channels, names, transpose, spacing = REAL_CASES[name]
    full = find_dataset(REAL / name, channels=channels, label_names=names)
    dataset = replace(full, cases=full.cases[:count])
    first = read_label(Path(dataset.root) / dataset.cases[0].label, case="first").geometry
    spacing = spacing or tuple(0.8 * edge for edge in first.spacing_mm)
    plan = make_plan(dataset, transpose, spacing, (32, 32, 32))
    records = stage.run(dataset, plan, "3d_fullres", workspace, jobs=2)
    for case, record in zip(dataset.cases, records, strict=True):
        stored = load_case(workspace.case("3d_fullres", case.name))
        assert np.isfinite(stored.image).all()
        logits = np.stack([stored.label == value for value in sorted(dataset.labels.values())]).astype(np.float16)
        restored = restore_labels(logits, record.placement, plan, plan.configurations["3d_fullres"])
        original = read_label(Path(dataset.root) / case.label, case=case.name)
        assert restored.shape == original.array_zyx.shape
        for value in dataset.foreground.values():
            if (original.array_zyx == value).sum() > 100:
                assert dice(restored == value, original.array_zyx == value) > 0.85
