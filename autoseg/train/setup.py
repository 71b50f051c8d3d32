"""What a training is made of: batches, objective, and the style of its step, from a plan and its cases."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from math import prod

import numpy as np
import torch

from autoseg.artifacts.labels import foreground, has_regions, ignored, values_of
from autoseg.artifacts.model import StepStyle
from autoseg.artifacts.plan import Configuration, Plan, Training
from autoseg.artifacts.preprocessed import PreprocessedCase
from autoseg.networks.device import suit
from autoseg.networks.unet import UNet, build_network
from autoseg.train.class_weights import resolve_class_weights
from autoseg.train.distributed import ALONE, Ranks
from autoseg.train.loading import BatchRecipe, make_batch
from autoseg.train.loop import Course, nothing, train_step
from autoseg.train.losses import Objective
from autoseg.train.optimizer import new_optimizer
from autoseg.train.sampling import RareClasses, TrainingCase, weigh_rare_classes
from autoseg.train.state import TrainState
from autoseg.train.step_style import choose_step, describe_step
from autoseg.train.task import FoldTask

log = logging.getLogger(__name__)
MOST_WORKERS = 8
MEASURED_VOXELS = 200_000
HIGH_FOR_ADAMW = 0.003
TRAINING_STREAM, VALIDATION_STREAM = 0, 1


def new_network(task: FoldTask, device: torch.device) -> UNet:
    """A fold's network on a device, its weights as its seed and fold alone say.

    Parameters
    ----------
    task : FoldTask
    device : torch.device

    Returns
    -------
    UNet
        Weights of float32.
    """
    plan, configuration = task.plan, task.plan.configurations[task.configuration_name]
    torch.manual_seed(int(np.random.default_rng((plan.training.seed, task.fold)).integers(2**31)))
    return build_network(configuration, plan.num_inputs(configuration), plan.num_classes).to(device)


def num_workers(cases: Sequence[TrainingCase], recipe: BatchRecipe, device: torch.device, jobs: int) -> int:
    """Worker processes for loading: none where cutting patches from memory is quicker than passing them over.

    Parameters
    ----------
    cases : sequence of TrainingCase
    recipe : BatchRecipe
    device : torch.device
        That trains.
    jobs : int
        Most of them.

    Returns
    -------
    int
    """
    in_memory = all(isinstance(case.image_czyx, np.ndarray) for case in cases)
    if device.type == "cpu" and in_memory and recipe.classic is None:
        return 0
    return max(1, min(jobs, MOST_WORKERS))


def class_weights_of(task: FoldTask, records: Mapping[str, PreprocessedCase]) -> tuple[float, ...]:
    """Weights of the outputs in the cross-entropy; empty where all are 1."""
    training = [records[name] for name in task.cases.training]
    return resolve_class_weights(task.plan.training.class_weights, training, task.plan.labels)


def batch_recipes(task: FoldTask, records: Mapping[str, PreprocessedCase]) -> tuple[BatchRecipe, BatchRecipe]:
    """How batches are made for training, and for validation on patches.

    Parameters
    ----------
    task : FoldTask
    records : mapping of str to PreprocessedCase
        By name; of the task's cases.

    Returns
    -------
    training, validation : BatchRecipe
    """
    configuration, recipe = task.plan.configurations[task.configuration_name], task.plan.training

    def batch_recipe(stream: int, names: Sequence[str]) -> BatchRecipe:
        return BatchRecipe(
            patch=configuration.patch_size,
            batch_size=configuration.batch_size,
            num_channels=len(task.plan.channel_names),
            foreground_share=recipe.foreground_share,
            mirror_axes=configuration.mirror_axes,
            augmentation=recipe.augmentation if stream == TRAINING_STREAM else None,
            seeds=(recipe.seed, task.fold, stream),
            rare=_rare_classes(task.plan, [records[name] for name in names]),
            num_previous=task.plan.num_previous(configuration),
        )

    training, validation = task.cases.training, task.cases.validation
    return batch_recipe(TRAINING_STREAM, training), batch_recipe(VALIDATION_STREAM, validation)


def _rare_classes(plan: Plan, records: Sequence[PreprocessedCase]) -> RareClasses | None:
    """What is preferred among these cases; None where the recipe prefers nothing."""
    strength, names = plan.training.rare_class_sampling, list(foreground(plan.labels))
    if strength == 0 or not names or not records:
        return None
    presence = np.array([[record.foreground_voxels[name] > 0 for name in names] for record in records])
    return weigh_rare_classes(presence, strength)


def objective_of(plan: Plan, configuration: Configuration, class_weights: tuple[float, ...]) -> Objective:
    """What the outputs of a plan's networks are held against.

    Parameters
    ----------
    plan : Plan
    configuration : Configuration
    class_weights : tuple of float
        One an output; empty where all are 1.

    Returns
    -------
    Objective
    """
    named = foreground(plan.labels)
    regions = tuple(values_of(value) for value in named.values()) if has_regions(plan.labels) else ()
    return Objective(configuration.batch_dice, regions, ignored(plan.labels), plan.training, class_weights)


def measure_step_style(
    task: FoldTask,
    cases: Sequence[TrainingCase],
    recipe: BatchRecipe,
    class_weights: tuple[float, ...],
    device: torch.device,
    ranks: Ranks = ALONE,
) -> tuple[StepStyle, dict[str, float]]:
    """Time steps of a small batch in each style, on weights that are thrown away.

    Parameters
    ----------
    task : FoldTask
    cases : sequence of TrainingCase
        That batches are made of.
    recipe : BatchRecipe
    class_weights : tuple of float
    device : torch.device
    ranks : Ranks
        Processes that train the fold together pass no samples side by side.

    Returns
    -------
    StepStyle
        The fastest.
    dict of str to float
        Seconds a step of each; empty where nothing had to be measured.
    """
    plan = task.plan
    configuration = plan.configurations[task.configuration_name]
    batch = make_batch(cases, replace(recipe, batch_size=_measured_batch(configuration)), 0)
    objective = objective_of(plan, configuration, class_weights)
    scaler = torch.amp.GradScaler(device.type, enabled=False)

    @cache
    def network_in(layout: tuple[bool, bool]) -> UNet:
        network = build_network(configuration, plan.num_inputs(configuration), plan.num_classes).to(device)
        suit(network, StepStyle(precision="float32", channels_last=layout[0], compiled=layout[1]))
        return network

    def step(style: StepStyle) -> float:
        network = network_in((style.channels_last, style.compiled))
        state = TrainState(network, new_optimizer(network, plan.training), scaler)
        course = Course(configuration, objective, plan.training, device, style, nothing, nothing, nothing)
        return train_step(state, batch, course)

    style, seconds = choose_step(
        device,
        step,
        samples_tied=configuration.ties_samples,
        num_apart=objective.num_apart(configuration.batch_size) if ranks.size == 1 else 1,
        recipe=plan.training,
    )
    measured = "; ".join(f"{way} {taken:.3g} s" for way, taken in seconds.items())
    log.info("training in %s%s", describe_step(style), f" (a step in {measured})" if measured else "")
    return style, seconds


def _measured_batch(configuration: Configuration) -> int:
    """As many samples as make a step whose parts weigh as in training, and no more.

    At least 2, more of small ones, and one for each core where there are as many in a batch.
    """
    cores, batch_size = torch.get_num_threads(), configuration.batch_size
    least = cores if cores <= batch_size else 1
    return min(batch_size, max(2, least, round(MEASURED_VOXELS / prod(configuration.patch_size))))


def look_at_rate(recipe: Training) -> None:
    """Warn of a rate that was left as it is for another optimizer."""
    if recipe.optimizer == "adamw" and (recipe.initial_learning_rate or 0) > HIGH_FOR_ADAMW:
        log.warning(
            "training.initial_learning_rate is %g: high for adamw, which is mostly used with 0.0001 to 0.001",
            recipe.initial_learning_rate,
        )
