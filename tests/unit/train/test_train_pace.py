"""Timing training steps."""

import pytest
import torch

from autoseg.train.pace import Stopwatch

CPU = torch.device("cpu")


@pytest.fixture
def stopwatch():
    return Stopwatch(CPU)


@pytest.mark.parametrize(
    ("patch", "strides", "labels", "norm"),
    [
        ((8, 8, 8), ((1, 1, 1), (2, 2, 2)), {"background": 0, "blob": 1, "ignore": 2}, "instance"),
        ((16, 16), ((1, 1), (2, 2)), {"background": 0, "whole": (1, 2), "part": (2,)}, "batch"),
    ],
)
def test_steps_of_every_kind_of_network_are_timed(
    stopwatch, build_configuration, build_plan, patch, strides, labels, norm
):
    small = build_configuration(patch, strides, norm=norm)
    order = (1, 2) if "whole" in labels else ()
    plan = build_plan({"it": small}, labels=labels, regions_class_order=order)
    before = torch.get_rng_state()
    assert stopwatch.seconds(plan, small) > 0
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_fit_is_not_tried(stopwatch, build_configuration, build_plan, monkeypatch):
    small = build_configuration((16, 16, 16))
    monkeypatch.setattr("autoseg.train.pace.available_memory_bytes", lambda: 1000)
    assert stopwatch.seconds(build_plan({"it": small}), small) is None
