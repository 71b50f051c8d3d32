"""Whatever a dataset measures, a sound plan comes out."""

import itertools
import json
from math import ceil

import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from autoseg.artifacts.base import decode, encode
from autoseg.artifacts.fingerprint import CaseMeasure, Fingerprint, IntensityStatistics
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Plan
from autoseg.networks.cost import training_step_memory
from autoseg.networks.unet import build_network
from autoseg.plan.configurations import plan_configurations, plan_geometry, target_grid
from autoseg.plan.decide import Wishes, decide
from autoseg.plan.explain import explain
from autoseg.plan.nnunet import from_nnunet, to_nnunet
from autoseg.plan.normalization import masked, normalization_schemes
from autoseg.plan.patch import SMALLEST_BATCH, memory_proxy
from autoseg.plan.presets import PRESETS
from autoseg.plan.topology import topology
from autoseg.train.losses import level_weights

SMALL_ENOUGH_TO_RUN = 2e7  # memory proxy
STATISTICS = IntensityStatistics(
    mean=1.0, median=1.0, std=2.0, min=-3.0, max=9.0, percentile_00_5=-2.0, percentile_99_5=8.0
)


@st.composite
def measurements(draw):
    """Spacings and cropped shapes of a dataset, and the rest that the planner asks for."""
    count = draw(st.one_of(st.integers(1, 5), st.just(1000)))
    edge = st.one_of(st.just(1), st.integers(1, 40), st.integers(1, 1500))
    gap = st.one_of(st.just(1.0), st.floats(1e-3, 50, allow_nan=False))
    few = st.integers(1, 3)
    shapes = draw(st.lists(st.tuples(edge, edge, edge), min_size=1, max_size=draw(few)))
    spacings = draw(st.lists(st.tuples(gap, gap, gap), min_size=1, max_size=draw(few)))
    return {
        "count": count,
        "shapes": shapes,
        "spacings": spacings,
        "channels": draw(st.lists(st.sampled_from(["CT", "MR", "R", "noNorm"]), min_size=1, max_size=10)),
        "num_labels": draw(st.integers(2, 201)),
        "gpu_memory_gb": draw(st.floats(1, 80)),
        "preset": draw(st.sampled_from(list(PRESETS))),
        "relative_size": draw(st.floats(0.01, 1)),
    }


def planned(measured):
    """Geometry and configurations."""
    cases = range(measured["count"])
    spacings, shapes = measured["spacings"], measured["shapes"]
    grid = target_grid([spacings[i % len(spacings)] for i in cases], [shapes[i % len(shapes)] for i in cases])
    preset = PRESETS[measured["preset"]]
    geometry = plan_geometry(
        grid,
        num_cases=measured["count"],
        num_labels=measured["num_labels"],
        preset=preset,
        gpu_memory_gb=measured["gpu_memory_gb"],
    )
    schemes = normalization_schemes(measured["channels"])
    mask = masked(schemes, measured["relative_size"])
    return geometry, plan_configurations(
        geometry, num_labels=measured["num_labels"], preset=preset, schemes=schemes, use_mask=mask, mirror=(0, 1, 2)
    )


@settings(max_examples=2000, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(measurements())
@example(
    {
        "count": 1000,
        "shapes": [(353, 10, 23)],
        "spacings": [(0.015625, 1.0, 1.0)],
        "channels": ["CT"],
        "num_labels": 2,
        "gpu_memory_gb": 1.0,
        "preset": "plain",
        "relative_size": 1.0,
    }
)
def test_any_dataset_gets_a_sound_plan(measured):
    geometry, plans = planned(measured)
    assert "2d" in plans
    for configuration in plans.values():
        assert configuration.batch_size >= SMALLEST_BATCH
        sizes = zip(
            configuration.patch_size, configuration.divisors, configuration.median_image_size_in_voxels, strict=True
        )
        for edge, divisor, limit in sizes:
            assert edge % divisor == 0
            # Padded for more halvings than are left in the end, an edge keeps its length: halvings leave 4 voxels, so
            # that was by less than a quarter.
            assert edge <= ceil(limit / divisor) * divisor or edge < 1.25 * limit
        weights = level_weights(max(1, configuration.n_stages - 1))
        assert abs(sum(weights) - 1) < 1e-9
        assert min(weights) >= 0
    preset = PRESETS[measured["preset"]]
    for choice in filter(None, (geometry.flat, geometry.full, geometry.low)):
        flat = len(choice.topology.patch) == 2
        share = preset.flat_batch_in_search / 12 if flat else 1
        if choice.memory_proxy * share > choice.budget:
            assert stuck(choice, geometry, preset, measured["num_labels"])


def stuck(choice, geometry, preset, num_labels):
    """Whether every smaller patch next to this one was tried already, or there is none."""
    grid = geometry.grid
    spacing = grid.spacing[-len(choice.topology.patch) :]
    seen = {step.patch for step in choice.steps}
    for axis, divisor in enumerate(choice.topology.divisors):
        smaller = list(choice.topology.patch)
        smaller[axis] -= divisor
        if smaller[axis] < 1:
            continue
        made = topology(smaller, spacing)
        less = memory_proxy(made.patch, made.strides, num_labels, preset) < choice.memory_proxy
        if less and made.patch not in seen:
            return False
    return True


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much])
@given(measurements())
def test_the_network_of_a_plan_runs(measured):
    _, plans = planned(measured)
    for name, configuration in plans.items():
        if configuration.memory_proxy > SMALL_ENOUGH_TO_RUN or name == "3d_cascade_fullres":
            continue
        network = build_network(configuration, len(measured["channels"]), measured["num_labels"])
        with torch.inference_mode():
            x = torch.zeros(1, len(measured["channels"]), *configuration.patch_size)
            assert network(x).shape == (1, measured["num_labels"], *configuration.patch_size)


@st.composite
def fingerprints(draw):
    """A fingerprint with any channels, labels or regions, and the wishes of a user."""
    measured = draw(measurements())
    names = draw(st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=6, unique=True))
    names = [name for name in names if name not in ("background", "ignore")] or ["organ"]
    labels = {"background": 0} | {name: value for value, name in enumerate(names, start=1)}
    order = ()
    if draw(st.booleans()):
        # Nested regions: the first holds all values, the last one value.
        labels |= {name: tuple(range(value, len(names) + 1)) for name, value in labels.items() if value}
        order = tuple(range(1, len(names) + 1))
    if draw(st.booleans()):
        labels["ignore"] = len(names) + 1
    channels = measured["channels"]
    pairs = itertools.product(measured["shapes"], measured["spacings"])
    cases = tuple(
        CaseMeasure(name=str(number), geometry=Geometry(shape=shape, spacing_mm=spacing), shape_after_crop=shape)
        for number, (shape, spacing) in enumerate(pairs)
    )
    fingerprint = Fingerprint(
        inputs_sha256="0",
        channel_names=tuple(channels),
        labels=labels,
        regions_class_order=order,
        num_training=measured["count"],
        cases=cases,
        median_relative_size_after_cropping=measured["relative_size"],
        intensities=(STATISTICS,) * len(channels),
    )
    given = draw(st.one_of(st.none(), st.tuples(*(st.floats(1e-3, 50),) * 3)))
    wishes = Wishes(
        preset=draw(st.sampled_from([*PRESETS, "auto"])), gpu_memory_gb=measured["gpu_memory_gb"], spacing=given
    )
    return fingerprint, wishes


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(fingerprints())
def test_any_fingerprint_is_planned_explained_and_exchanged(drawn):
    fingerprint, wishes = drawn
    assert decode(encode(fingerprint), Fingerprint, where="") == fingerprint
    decisions = decide(fingerprint, wishes)
    plan = decisions.plan
    assert decode(encode(plan), Plan, where="") == plan
    assert explain(fingerprint, decisions).startswith("# Why this plan")
    content = json.loads(json.dumps(to_nnunet(plan, dataset_name="D", plans_name="p", file_ending=".nii.gz")))
    assert from_nnunet(content, fingerprint, "p").configurations == plan.configurations
    for configuration in plan.configurations.values():
        style = StepStyle(precision="float32")
        network = (plan.num_inputs(configuration), plan.num_classes, style)
        # On CPUs the batch decides which layers are computed as one.
        memory = training_step_memory(configuration, *network, on_cpu=False)
        wider = replace(configuration, batch_size=2 * configuration.batch_size)
        twice = training_step_memory(wider, *network, on_cpu=False)
        assert twice.parameter_bytes == memory.parameter_bytes
        assert twice.activation_bytes == 2 * memory.activation_bytes
        fixed = 3 * memory.parameter_bytes
        assert memory.peak_bytes < twice.peak_bytes <= 2 * memory.peak_bytes
        assert twice.peak_bytes > fixed
