"""What a learning-rate range test found, as JSON."""

from typing import Annotated

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Positive
from autoseg.artifacts.model import Pretrained, StepStyle


class RatePoint(Record, frozen=True, kw_only=True):
    """A step of the sweep.

    Attributes
    ----------
    learning_rate : float
        Of the step.
    loss : float
        Of the next batch, which is the first to see what the step did.
    smoothed : float
    """

    learning_rate: Positive
    loss: float
    smoothed: float


class RateTest(Artifact, frozen=True, kw_only=True):
    """A sweep of the learning rate, on weights that were thrown away.

    Attributes
    ----------
    inputs_sha256 : str
        Of what determines the weights of a training, and of the sweep's length.
    data_sha256 : str
        Of the training cases' arrays.
    settings : tuple of str
        The `--set` options given.
    pretrained : Pretrained or None
        The weights it began with; None: fresh ones.
    step : StepStyle
    iterations : int
        Asked for; there are fewer points where the sweep ended early.
    points : tuple of RatePoint
        Rates rise by the same factor from each to the next.
    exploded : bool
        The sweep ended early, because the loss rose far above where it began, or was no number any more.
    proposed_rate : float or None
        For `training.initial_learning_rate`; None where the loss did not fall by more than its noise.
    """

    inputs_sha256: str
    data_sha256: str
    configuration_name: str
    fold: Annotated[int, msgspec.Meta(ge=0)]
    settings: tuple[str, ...]
    seed: Annotated[int, msgspec.Meta(ge=0)]
    pretrained: Pretrained | None = None
    step: StepStyle
    device: str
    iterations: AtLeastOne
    points: tuple[RatePoint, ...]
    exploded: bool
    proposed_rate: Positive | None
    autoseg_version: str
    torch_version: str
