"""How a step is computed, by measurement."""

import logging
from types import SimpleNamespace

import pytest
import torch
from msgspec.structs import replace

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Training
from autoseg.networks.device import channels_last, suit
from autoseg.networks.unet import build_network
from autoseg.train import step_style
from autoseg.train.step_style import as_fixed, candidates, choose_step, describe_step

MEASURED = Training()
CPU = torch.device("cpu")
BF16, FP32 = StepStyle(precision="bfloat16"), StepStyle(precision="float32")
BF16_APART = StepStyle(precision="bfloat16", sample_by_sample=True, channels_last=True)
FP32_APART = StepStyle(precision="float32", sample_by_sample=True, channels_last=True)


@pytest.fixture
def timed(monkeypatch):
    """Callable: what is chosen when each style's steps take these times, the last of them from then on."""

    def choose(times, *, samples_tied, recipe=MEASURED):
        now = 0.0
        monkeypatch.setattr(step_style, "time", SimpleNamespace(perf_counter=lambda: now))
        left = {style: list(taken) for style, taken in times.items()}

        def step(style):
            nonlocal now
            now += left[style].pop(0) if len(left[style]) > 1 else left[style][0]
            return 0.0

        return choose_step(CPU, step, samples_tied=samples_tied, num_apart=1, recipe=recipe)

    return choose


def test_the_fastest_style_is_chosen_and_all_times_are_told(timed):
    style, seconds = timed({BF16_APART: [0.4], BF16: [0.3], FP32_APART: [0.2], FP32: [0.25]}, samples_tied=False)
    assert style == FP32_APART
    assert seconds == {
        "bfloat16, sample by sample": 0.4,
        "bfloat16, whole batches": 0.3,
        "float32, sample by sample": 0.2,
        "float32, whole batches": 0.25,
    }


def test_samples_that_the_norm_ties_together_are_not_taken_apart(timed):
    style, seconds = timed({BF16: [0.3], FP32: [0.4]}, samples_tied=True)
    assert style == BF16
    assert set(seconds) == {describe_step(BF16), describe_step(FP32)}


def test_a_burst_of_another_program_does_not_decide(timed):
    style, seconds = timed({BF16: [0.35, 0.35, 0.1], FP32: [0.2]}, samples_tied=True)
    assert style == BF16
    assert seconds[describe_step(BF16)] == 0.1


def test_a_slow_first_step_does_not_decide(timed):
    assert timed({BF16: [1.0, 0.1], FP32: [0.2]}, samples_tied=True)[0] == BF16


def test_what_the_recipe_fixes_is_not_tried():
    every = candidates(CPU, samples_tied=False, num_apart=1)
    assert as_fixed(every, MEASURED) == every
    assert as_fixed(every, Training(precision="float32")) == [FP32_APART, FP32]
    assert as_fixed(every, Training(sample_by_sample=False)) == [BF16, FP32]
    assert as_fixed(every, Training(precision="bfloat16", sample_by_sample=True)) == [BF16_APART]


@pytest.mark.parametrize(
    ("threads", "num_apart", "offered"), [(1, 9, False), (3, 1, False), (3, 2, False), (3, 3, True)]
)
def test_samples_pass_side_by_side_where_there_is_one_for_each_core(threads, num_apart, offered, monkeypatch):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    every = candidates(CPU, samples_tied=False, num_apart=num_apart)
    assert any(style.side_by_side for style in every) == offered
    fixed = as_fixed(every, Training(precision="float32", sample_by_sample=True))
    assert fixed == [replace(FP32_APART, side_by_side=True), FP32_APART][not offered :]
    assert as_fixed(every, Training(sample_by_sample=False)) == [BF16, FP32]
    assert not any(style.side_by_side for style in candidates(CPU, samples_tied=True, num_apart=num_apart))


def test_a_compiled_step_is_tried_where_it_is_asked_for():
    tried = []
    style, seconds = choose_step(
        CPU, lambda style: tried.append(style) or 0.0, samples_tied=True, num_apart=1, recipe=Training(compile=True)
    )
    assert style.compiled
    assert [each.compiled for each in tried].count(True) == 4
    assert describe_step(style) in seconds
    assert describe_step(style).endswith(", whole batches, compiled")


def test_a_compiler_that_fails_costs_one_line(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("autoseg"), "propagate", True)

    def step(style):
        if style.compiled:
            message = "no C++ compiler\nsecond line"
            raise RuntimeError(message)
        return 0.0

    recipe = Training(compile=True, precision="float32")
    style, seconds = choose_step(CPU, step, samples_tied=True, num_apart=1, recipe=recipe)
    assert style == FP32
    assert set(seconds) == {"float32, whole batches"}
    assert {record.getMessage() for record in caplog.records} == {
        "torch.compile failed, training goes on without it: no C++ compiler"
    }


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")  # of torch itself
def test_a_compiled_network_gives_the_same_numbers(build_configuration):
    torch.manual_seed(0)
    network = build_network(build_configuration((8, 8), ((1, 1), (2, 2))), 1, 2)
    image = torch.randn(2, 1, 8, 8)
    expected = network.deep_logits(image, 1)[0]
    suit(network, StepStyle(precision="float32", channels_last=True, compiled=True))
    assert torch.allclose(network.deep_logits(channels_last(image), 1)[0], expected, atol=1e-5)


@pytest.mark.gpu
def test_on_a_gpu_both_memory_layouts_are_timed_and_the_better_one_compiled():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    tried = []
    choose_step(
        torch.device("cuda"),
        lambda style: tried.append(style) or 0.0,
        samples_tied=False,
        num_apart=9,
        recipe=MEASURED,
    )
    assert {(style.channels_last, style.compiled) for style in tried} > {(False, False), (True, False)}
    assert any(style.compiled for style in tried)
