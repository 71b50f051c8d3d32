"""Plans recorded from nnU-Net's own planner: ours must be the same."""

import json

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


def pytest_generate_tests(metafunc):
    if "recorded" not in metafunc.fixturenames:
        return
    path = metafunc.config.getoption("--oracle")
    if not path.is_file():
        reason = f"{path} is not on this machine; --oracle PATH names the recorded plans"
        metafunc.parametrize("recorded", [pytest.param(None, marks=pytest.mark.skip(reason=reason))])
        return
    records = [json.loads(line) for line in path.read_text().splitlines()]
    metafunc.parametrize("recorded", records, ids=[f"{record['category']}-{record['id']}" for record in records])


def close(values):
    return pytest.approx(values, rel=1e-9, abs=1e-9)


def ours(given):
    """Grid and configurations for a recorded input."""
    grid = target_grid(
        given["spacings"],
        given["shapes_after_crop"],
        spacing=given.get("overwrite_target_spacing"),
        transpose=not given.get("suppress_transpose"),
    )
    channels = given["channel_names"]
    schemes = normalization_schemes([channels[number] for number in sorted(channels, key=int)])
    preset = PRESETS[PLANNERS[given["planner"]]]
    geometry = plan_geometry(
        grid,
        num_cases=given["numTraining"],
        num_labels=len(given["labels"]),
        preset=preset,
        gpu_memory_gb=given["gpu_memory_target_in_gb"] or preset.reference_gb,
    )
    return grid, plan_configurations(
        geometry,
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
