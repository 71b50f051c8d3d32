"""How a step is computed, by measurement."""

from types import SimpleNamespace

import pytest
import torch

from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Training
from autoseg.train import step_style
from autoseg.train.step_style import as_fixed, candidates, choose_step, describe_step

MEASURED = Training()
CPU = torch.device("cpu")
BF16, FP32 = StepStyle(precision="bfloat16"), StepStyle(precision="float32")
BF16_APART = StepStyle(precision="bfloat16", sample_by_sample=True)
FP32_APART = StepStyle(precision="float32", sample_by_sample=True)


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

        return choose_step(CPU, step, samples_tied=samples_tied, recipe=recipe)

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


def test_samples_that_dice_ties_together_are_not_taken_apart(timed):
    style, seconds = timed({BF16: [0.3], FP32: [0.4]}, samples_tied=True)
    assert style == BF16
    assert set(seconds) == {describe_step(BF16), describe_step(FP32)}


def test_a_burst_of_another_program_does_not_decide(timed):
    style, seconds = timed({BF16: [0.5, 0.5, 0.1], FP32: [0.2]}, samples_tied=True)
    assert style == BF16
    assert seconds[describe_step(BF16)] == 0.1


def test_a_slow_first_step_does_not_decide(timed):
    assert timed({BF16: [1.0, 0.1], FP32: [0.2]}, samples_tied=True)[0] == BF16


def test_what_the_recipe_fixes_is_not_tried():
    every = candidates(CPU, samples_tied=False)
    assert as_fixed(every, MEASURED) == every
    assert as_fixed(every, Training(precision="float32")) == [FP32_APART, FP32]
    assert as_fixed(every, Training(sample_by_sample=False)) == [BF16, FP32]
    assert as_fixed(every, Training(precision="bfloat16", sample_by_sample=True)) == [BF16_APART]


@pytest.mark.gpu
def test_on_a_gpu_nothing_is_timed():
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    style, seconds = choose_step(torch.device("cuda"), lambda _: 0.0, samples_tied=False, recipe=MEASURED)
    assert style.precision in ("bfloat16", "float16")
    assert seconds == {}
