"""Plans recorded from nnU-Net's own planner, and plans people published: ours are the same, or it is known why not."""

import json
from dataclasses import replace

import pytest

from autoseg.plan.configurations import plan_configurations, plan_geometry, target_grid
from autoseg.plan.normalization import masked, normalization_schemes
from autoseg.plan.presets import PRESETS

PLANNERS = {
    "ExperimentPlanner": "plain",
    "ResEncUNetPlanner": "resenc-legacy",
    "nnUNetPlannerResEncM": "resenc-m",
    "nnUNetPlannerResEncL": "resenc-l",
    "nnUNetPlannerResEncXL": "resenc-xl",
}
SCHEMES = {
    "CTNormalization": "ct",
    "ZScoreNormalization": "zscore",
    "RescaleTo01Normalization": "rescale_to_0_1",
    "RGBTo01Normalization": "rgb_to_0_1",
    "NoNormalization": "none",
}
WHOLE = (
    "patch_size",
    "batch_size",
    "strides",
    "kernel_sizes",
    "features_per_stage",
    "n_stages",
    "n_conv_per_stage_decoder",
    "batch_dice",
    "use_mask_for_norm",
)


# Until release 2.3 a 2D patch left room for a batch of 12, and no low resolution was dropped for being similar.
OLDER = replace(PRESETS["plain"], flat_batch_in_search=12, drops_similar_low_resolution=False)
UNCHANGED = "equal"
UNCHANGED_SINCE_OLDER = "equal under the rules of releases 2.0-2.2"
# What was done to the six plans that no release would give: differing fields, and what they say.
BY_HAND = {
    ("2d.batch_size", "2d.normalization_schemes", "2d.use_mask_for_norm"): "a batch of 12, one scheme for two channels",
    ("3d_fullres.batch_size",): "a batch of 1: the planner never goes below 2",
    ("2d.batch_size", "2d.patch_size"): "a square patch, and a batch of 4",
    ("3d_fullres",): "3d_fullres was removed",
    (
        *("2d.batch_size", "2d.kernel_sizes", "2d.n_conv_per_stage", "2d.n_conv_per_stage_decoder", "2d.patch_size"),
        *("2d.strides", "3d_fullres.patch_size", "3d_fullres.spacing"),
    ): "2d as in releases 2.0-2.2, and a spacing of one's own for 3D alone",
    ("2d", "3d_cascade_fullres", "3d_fullres.batch_size", "3d_lowres"): "only 3d_fullres was kept, with a batch of 8",
}


def pytest_generate_tests(metafunc):
    golden = metafunc.config.getoption("--oracle")
    for fixture, path in (("recorded", golden), ("published", golden.with_name("real.jsonl"))):
        if fixture not in metafunc.fixturenames:
            continue
        if not path.is_file():
            reason = f"{path} is not on this machine; --oracle PATH names the recorded plans"
            metafunc.parametrize(fixture, [pytest.param(None, marks=pytest.mark.skip(reason=reason))])
            continue
        records = [json.loads(line) for line in path.read_text().splitlines()]
        names = [str(each.get("category") or each["source"].partition(" ")[0]) for each in records]
        ids = [
            f"{name}-{each.get('id', number)}" for number, (name, each) in enumerate(zip(names, records, strict=True))
        ]
        metafunc.parametrize(fixture, records, ids=ids)


def close(values):
    return pytest.approx(values, rel=1e-9, abs=1e-9)


def ours(given, preset=None):
    """Grid and configurations for a recorded input; `preset` in place of the one it names."""
    grid = target_grid(
        given["spacings"],
        given["shapes_after_crop"],
        spacing=given.get("overwrite_target_spacing"),
        transpose=not given.get("suppress_transpose"),
    )
    channels = given["channel_names"]
    schemes = normalization_schemes([channels[number] for number in sorted(channels, key=int)])
    preset = preset or PRESETS[PLANNERS[given["planner"]]]
    geometry = plan_geometry(
        grid,
        num_cases=given["numTraining"],
        num_labels=len(given["labels"]),
        preset=preset,
        gpu_memory_gb=given["gpu_memory_target_in_gb"] or preset.reference_gb,
    )
    return grid, plan_configurations(
        geometry,
        num_labels=len(given["labels"]),
        preset=preset,
        schemes=schemes,
        use_mask=masked(schemes, given["median_relative_size_after_cropping"]),
        mirror=(0, 1, 2),
    )


def test_a_recorded_plan_is_reproduced(recorded):
    grid, planned = ours(recorded["input"])
    plans = recorded["plans"]
    assert list(grid.forward) == plans["transpose_forward"]
    assert list(grid.backward) == plans["transpose_backward"]
    assert list(grid.original_spacing) == close(plans["original_median_spacing_after_transp"])
    assert list(grid.original_shape) == close(plans["original_median_shape_after_transp"])
    assert set(planned) == set(plans["configurations"])
    for name, configuration in planned.items():
        expected = plans["configurations"][name]
        assert configuration.previous_stage == expected.get("previous_stage")
        assert configuration.next_stage == expected.get("next_stage")
        if "inherits_from" in expected:
            own = {"inherits_from", "previous_stage"}
            expected = plans["configurations"][expected["inherits_from"]] | {
                key: value for key, value in expected.items() if key not in own
            }
        for key in ("n_conv_per_stage", "n_blocks_per_stage"):
            assert getattr(configuration, key) == (tuple(expected[key]) if key in expected else None)
        assert expected["network_class_name"].endswith("ResidualEncoderUNet") == configuration.residual
        # JSON turns tuples into lists at every depth.
        assert {key: json.loads(json.dumps(getattr(configuration, key))) for key in WHOLE} == {
            key: expected[key] for key in WHOLE
        }
        assert list(configuration.spacing) == close(expected["spacing"])
        assert list(configuration.median_image_size_in_voxels) == close(expected["median_image_size_in_voxels"])
        assert configuration.memory_proxy == close(expected["_vram_estimate"])
        assert list(configuration.normalization_schemes) == [SCHEMES[s] for s in expected["normalization_schemes"]]
        resampling = configuration.resampling
        for kind, order, order_z in (
            ("data", resampling.data_order, resampling.data_order_z),
            ("seg", resampling.label_order, resampling.label_order_z),
            ("probabilities", resampling.probabilities_order, resampling.probabilities_order_z),
        ):
            assert expected[f"resampling_fn_{kind}_kwargs"] == {
                "is_seg": kind == "seg",
                "order": order,
                "order_z": order_z,
                "force_separate_z": resampling.force_separate_z,
            }


def test_a_published_plan_is_as_its_verdict_says(published):
    now, older = differing(published), differing(published, OLDER)
    if published["verdict"] == UNCHANGED:
        assert now == ()
    elif published["verdict"] == UNCHANGED_SINCE_OLDER:
        assert now != ()
        assert older == ()
    else:
        assert now in BY_HAND
        assert older != ()


def differing(published, preset=None):
    """What differs, as ``configuration.field``, or the configuration alone where one side lacks it."""
    given = published["dataset"] | published["fingerprint"]
    given |= {
        "planner": published["planner"].removesuffix("_torchres"),
        "gpu_memory_target_in_gb": None,
        "channel_names": given.get("channel_names") or given.get("modality"),
    }
    theirs = published["plans"]["configurations"]
    grid, planned = ours(given, preset)
    assert list(grid.forward) == published["plans"]["transpose_forward"]
    found = {name for name in {*planned, *theirs} if (name in planned) != (name in theirs)}
    for name in sorted({*planned, *theirs} - found):
        expected = {key: value for key, value in theirs[name].items() if key != "inherits_from"}
        found |= {f"{name}.{key}" for key, value in expected.items() if value_of(planned[name], key) != value}
    return tuple(sorted(found))


def value_of(configuration, key):
    """A field of ours under nnU-Net's name, as JSON has it."""
    if key == "normalization_schemes":
        names = {scheme: name for name, scheme in SCHEMES.items()}
        return [names[scheme] for scheme in configuration.normalization_schemes]
    value = getattr(configuration, key)
    if key in ("spacing", "median_image_size_in_voxels"):
        return pytest.approx(list(value), rel=1e-9)
    return json.loads(json.dumps(value))
