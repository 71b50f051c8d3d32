"""Plans go to nnU-Net's file and come back the same; what autoseg has not is one clear error."""

import json
from contextlib import suppress
from copy import deepcopy
from importlib import import_module
from pathlib import Path

import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import encode
from autoseg.artifacts.plan import Plan, Resampling
from autoseg.errors import ArtifactError, SettingError
from autoseg.plan.decide import Wishes, make_plan
from autoseg.plan.nnunet import dataset_name, from_nnunet, to_nnunet


@pytest.fixture
def fingerprint(build_dataset, build_fingerprint):
    """Thick slices with a cascade."""
    return build_fingerprint(build_dataset(num_cases=100), shapes=((60, 512, 512),), spacing_mm=(5.0, 0.8, 0.8))


def exported(plan, **changes):
    options = {"dataset_name": "Dataset001_X", "plans_name": "nnUNetPlans", "file_ending": ".nii.gz"} | changes
    return json.loads(json.dumps(to_nnunet(plan, **options)))


def comparable(plan):
    return replace(plan, inputs_sha256="")


@pytest.mark.parametrize("preset", ["plain", "resenc-legacy", "resenc-m", "resenc-l", "resenc-xl"])
def test_a_plan_comes_back_the_same(fingerprint, preset):
    plan = make_plan(fingerprint, Wishes(preset=preset))
    content = exported(plan)
    assert comparable(from_nnunet(content, fingerprint, "f")) == comparable(plan)
    if "3d_cascade_fullres" in plan.configurations:
        assert content["configurations"]["3d_cascade_fullres"] == {
            "inherits_from": "3d_fullres",
            "previous_stage": "3d_lowres",
        }


def test_a_cascade_of_its_own_is_written_in_full(fingerprint):
    plan = make_plan(fingerprint)
    cascade = replace(plan.configurations["3d_cascade_fullres"], batch_size=5)
    plan = replace(plan, configurations=plan.configurations | {"3d_cascade_fullres": cascade})
    content = exported(plan)
    assert content["configurations"]["3d_cascade_fullres"]["batch_size"] == 5
    assert comparable(from_nnunet(content, fingerprint, "f")) == comparable(plan)


def test_edited_values_survive(fingerprint):
    plan = make_plan(fingerprint)
    full = replace(
        plan.configurations["3d_fullres"],
        batch_size=3,
        resampling=Resampling(data_order=1, force_separate_z=True),
        normalization_schemes=("rgb_to_0_1",),
        use_mask_for_norm=(True,),
        norm="batch",
    )
    plan = replace(plan, configurations={"3d_fullres": full})
    assert comparable(from_nnunet(exported(plan), fingerprint, "f")) == comparable(plan)


@pytest.mark.parametrize(
    ("key", "value", "allowed"),
    [("norm", "group", "instance, batch"), ("norm", "layer", "instance, batch"), ("attention", "se", "none")],
)
def test_a_network_that_nnunet_has_not_is_one_error(fingerprint, key, value, allowed):
    plan = make_plan(fingerprint)
    full = replace(plan.configurations["3d_fullres"], **{key: value})
    with pytest.raises(SettingError, match=f"configurations.3d_fullres.{key}") as caught:
        exported(replace(plan, configurations={"3d_fullres": full}))
    assert allowed in str(caught.value)


def test_names_of_norms_are_found_by_torch(fingerprint):
    plan = make_plan(fingerprint)
    for norm, name in (("instance", "InstanceNorm"), ("batch", "BatchNorm")):
        made = {key: replace(each, norm=norm, batch_size=2) for key, each in plan.configurations.items()}
        content = exported(replace(plan, configurations=made))
        for key, d in (("2d", 2), ("3d_fullres", 3)):
            stated = content["configurations"][key]["architecture"]["arch_kwargs"]["norm_op"]
            module, _, found = stated.rpartition(".")
            assert found == f"{name}{d}d"
            assert hasattr(import_module(module), found)


def test_what_nnunet_needs_beside_the_configurations(fingerprint):
    content = exported(make_plan(fingerprint), plans_name="mine")
    assert content["dataset_name"] == "Dataset001_X"
    assert content["plans_name"] == "mine"
    assert content["configurations"]["2d"]["data_identifier"] == "mine_2d"
    assert content["experiment_planner_used"] == "ExperimentPlanner"
    assert content["original_median_shape_after_transp"] == [60, 512, 512]
    assert set(content["foreground_intensity_properties_per_channel"]) == {"0"}


@pytest.mark.parametrize(
    ("ending", "shape", "reader"),
    [
        (".nii.gz", (60, 512, 512), "SimpleITKIO"),
        (".png", (1, 512, 512), "NaturalImage2DIO"),
        (".tif", (1, 512, 512), "NaturalImage2DIO"),
        (".tif", (60, 512, 512), "Tiff3DIO"),
    ],
)
def test_the_reader_follows_the_kind_of_file(ending, shape, reader, build_dataset, build_fingerprint):
    plan = make_plan(build_fingerprint(build_dataset(), shapes=(shape,)))
    assert exported(plan, file_ending=ending)["image_reader_writer"] == reader


def test_the_datasets_name():
    assert dataset_name(Path("/p/Dataset004_Hippocampus/nnUNetPlans.json"), Path("/raw/x")) == "Dataset004_Hippocampus"
    assert dataset_name(Path("/p/nnUNetPlans.json"), Path("/raw/Dataset007_Y")) == "Dataset007_Y"
    assert dataset_name(Path("/p/nnUNetPlans.json"), Path("/raw/x")) == "x"
    assert dataset_name(Path("/p/nnUNetPlans.json"), None) == "p"


def test_plans_of_older_releases(fingerprint):
    plan = make_plan(fingerprint)
    content = exported(replace(plan, configurations={"3d_fullres": plan.configurations["3d_fullres"]}))
    full = content["configurations"]["3d_fullres"]
    network = full.pop("architecture")["arch_kwargs"]
    full |= {
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": 32,
        "unet_max_num_features": 320,
        "n_conv_per_stage_encoder": network["n_conv_per_stage"],
        "n_conv_per_stage_decoder": network["n_conv_per_stage_decoder"],
        "num_pool_per_axis": [2, 6, 6],
        "pool_op_kernel_sizes": network["strides"],
        "conv_kernel_sizes": network["kernel_sizes"],
    }
    content["foreground_intensity_properties_by_modality"] = content.pop("foreground_intensity_properties_per_channel")
    imported = from_nnunet(content, fingerprint, "f")
    assert imported.configurations["3d_fullres"] == plan.configurations["3d_fullres"]
    assert imported.intensities == plan.intensities


def change(content, path, value):
    node = content
    for key in path[:-1]:
        node = node[key]
    node[path[-1]] = value


FULL = ("configurations", "3d_fullres")


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ((*FULL, "architecture", "network_class_name"), "a.b.PrimusNet", "PlainConvUNet or ResidualEncoderUNet"),
        ((*FULL, "architecture", "arch_kwargs", "dropout_op"), "torch.nn.Dropout3d", "dropout_op"),
        ((*FULL, "architecture", "arch_kwargs", "norm_op"), "torch.nn.BatchNorm2d", "norm_op"),
        ((*FULL, "architecture", "arch_kwargs", "norm_op"), "torch.nn.GroupNorm", "norm_op"),
        ((*FULL, "normalization_schemes"), ["HistogramNormalization"], "HistogramNormalization"),
        ((*FULL, "resampling_fn_data"), "resample_torch_fornnunet", "resampling_fn_data"),
        ((*FULL, "batch_size"), 0, "batch_size"),
        ((*FULL, "patch_size"), [28, 256, 250], "does not divide"),
        ((*FULL, "architecture", "arch_kwargs", "squeeze_excitation"), True, "squeeze_excitation"),
        ((*FULL, "preprocessor_name"), "MyPreprocessor", "DefaultPreprocessor"),
        (("label_manager",), "MyManager", "LabelManager"),
        ((*FULL, "resampling_fn_seg_kwargs", "force_separate_z"), True, "force_separate_z of the data"),
        (("configurations",), {"3d_fullres": {"spacing": [1, 1, 1]}}, "no plan of nnU-Net v2"),
        (("configurations",), [], "configurations"),
        (("transpose_forward",), [0, 1], "transpose_forward"),
        (("foreground_intensity_properties_per_channel", "1"), {}, "another number of channels"),
    ],
)
def test_what_autoseg_has_not_is_one_error(fingerprint, path, value, message):
    content = deepcopy(exported(make_plan(fingerprint)))
    change(content, path, value)
    with pytest.raises(ArtifactError, match=message):
        from_nnunet(content, fingerprint, "plans.json")


def test_the_imported_plan_is_a_valid_record(fingerprint):
    assert isinstance(from_nnunet(exported(make_plan(fingerprint)), fingerprint, "f"), Plan)
    assert encode(from_nnunet(exported(make_plan(fingerprint)), fingerprint, "f"))


def places(node, path=()):
    """Every key or index of a JSON tree, as a path."""
    pairs = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for key, value in pairs:
        yield (*path, key)
        yield from places(value, (*path, key))


def test_no_wrong_value_is_more_than_an_error(fingerprint):
    content = exported(make_plan(fingerprint))
    wrong = (None, "x", -1, 0, 1.5, [], {}, [[]], True, 10**30)
    for path in places(content):
        for value in wrong:
            changed = deepcopy(content)
            change(changed, path, value)
            # Some are allowed: what is not read, and numbers that happen to be fine.
            with suppress(ArtifactError):
                from_nnunet(changed, fingerprint, "f")
