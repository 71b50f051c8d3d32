"""What a plan that was made for a time gave up for it; part of plan.json."""

from autoseg.artifacts.base import Record
from autoseg.artifacts.bounds import AtLeastOne, NonNegative, Positive
from autoseg.artifacts.labels import Name


class TimedNetwork(Record, frozen=True, kw_only=True):
    """A network that was looked at.

    Attributes
    ----------
    patch_size, batch_size
    features_per_stage : tuple of int
    seconds_per_step : float
    measured : bool
        False: derived from a step that was measured.
    steps : float
        How many fit the time.
    loss_by_time, loss_by_size : float
        Dice that it is expected to lose by so short a training, and by being smaller than planned.
    """

    patch_size: tuple[AtLeastOne, ...]
    batch_size: AtLeastOne
    features_per_stage: tuple[AtLeastOne, ...]
    seconds_per_step: Positive
    measured: bool
    steps: NonNegative
    loss_by_time: NonNegative
    loss_by_size: NonNegative

    @property
    def loss(self) -> float:
        """Both together."""
        return self.loss_by_time + self.loss_by_size


class BudgetChoice(Record, frozen=True, kw_only=True):
    """What became of one configuration.

    Attributes
    ----------
    planned : TimedNetwork or None
        As it was planned; None where that does not fit the device's memory.
    chosen : TimedNetwork
    usual_schedule_fits : bool
        Whether the usual number of steps of the network as planned fits the time.
    tried : tuple of TimedNetwork
        All that were measured.
    """

    planned: TimedNetwork | None
    chosen: TimedNetwork
    usual_schedule_fits: bool
    tried: tuple[TimedNetwork, ...]


class Budget(Record, frozen=True, kw_only=True):
    """What was measured and chosen for a time.

    Attributes
    ----------
    hours : float
        For the training of one fold.
    device : str
        On which steps were timed.
    configurations : dict of str to BudgetChoice
        Those not named stayed as they were.
    """

    hours: Positive
    device: str
    configurations: dict[Name, BudgetChoice]
