"""Steps like those of a training, on weights that are thrown away."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from autoseg.artifacts.model import Pretrained, StepStyle
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.networks.device import keep_freed_memory, suit, use_fast_kernels
from autoseg.train.loading import Batches
from autoseg.train.loop import Course, nothing
from autoseg.train.optimizer import new_optimizer
from autoseg.train.pretrained import begin
from autoseg.train.sampling import TrainingCase
from autoseg.train.setup import (
    batch_recipes,
    class_weights_of,
    measure_step_style,
    new_network,
    num_workers,
    objective_of,
)
from autoseg.train.state import TrainState
from autoseg.train.task import FoldTask


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Everything for steps like those of a training, on weights that are thrown away.

    Attributes
    ----------
    pretrained : Pretrained or None
        What the weights began with; None: fresh ones.
    """

    state: TrainState
    course: Course
    batches: Batches
    pretrained: Pretrained | None


def rehearse(
    task: FoldTask,
    records: Mapping[str, PreprocessedCase],
    cases: Sequence[TrainingCase],
    style: StepStyle | None,
    on_step: Callable[[float, float], None],
    *,
    device: torch.device,
    jobs: int,
) -> Rehearsal:
    """A fold's training as it is when it begins: the same weights, batches and steps; nothing is written.

    Parameters
    ----------
    task : FoldTask
    records : mapping of str to PreprocessedCase
        Of the preprocessed cases, by name.
    cases : sequence of TrainingCase
        To train on.
    style : StepStyle or None
        None: the fastest is measured.
    on_step : callable
        Called after each step with the share done and the loss.
    device : torch.device
    jobs : int
        Most worker processes for loading.
    """
    if device.type == "cpu":
        keep_freed_memory()
    use_fast_kernels()
    plan, recipe = task.plan, task.plan.training
    configuration = plan.configurations[task.configuration_name]
    network = new_network(task, device)
    pretrained = begin(network, plan, task.configuration_name, task.pretrained)
    weights = class_weights_of(task, records)
    batches = batch_recipes(task, records)[0]
    if style is None:
        style, _ = measure_step_style(task, cases, batches, weights, device)
    suit(network, style)
    return Rehearsal(
        state=TrainState(
            network=network,
            optimizer=new_optimizer(network, recipe),
            scaler=torch.amp.GradScaler(device.type, enabled=style.precision == "float16"),
        ),
        course=Course(
            configuration=configuration,
            objective=objective_of(plan, configuration, weights),
            recipe=recipe,
            device=device,
            step=style,
            on_step=on_step,
            on_epoch=nothing,
            save=nothing,
        ),
        batches=Batches(cases, batches, first=0, num_workers=num_workers(cases, batches, device, jobs)),
        pretrained=pretrained,
    )
