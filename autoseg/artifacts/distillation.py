"""distillation.json: a student held against the folds it learned from."""

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Count, NonNegative
from autoseg.artifacts.labels import Name
from autoseg.artifacts.model import Teaching


class Measured(Record, frozen=True, kw_only=True):
    """How one side predicted the cases.

    Attributes
    ----------
    seconds : float
        Of all cases, from their files to label maps, with mirroring, once the models were loaded.
    num_parameters : int
        Of all its networks together.
    dice : float or None
        Mean over cases of each one's mean over foreground labels.
    dice_per_label : dict of str to float or None
    """

    seconds: NonNegative
    num_parameters: Count
    dice: float | None
    dice_per_label: dict[Name, float | None]


class Distillation(Artifact, frozen=True, kw_only=True):
    """What a student is worth.

    Attributes
    ----------
    inputs_sha256 : str
        Of the weights of both and of the cases.
    configuration_name : str
        Of the student.
    teaching : Teaching
    cases : tuple of str
    unseen : bool
        Whether the cases took no part in any training; else both were trained on them, and Dice is too good.
    device : str
    num_threads : int
    teacher, student : Measured
    """

    inputs_sha256: str
    configuration_name: Name
    teaching: Teaching
    cases: tuple[Name, ...]
    unseen: bool
    device: str
    num_threads: AtLeastOne
    teacher: Measured
    student: Measured

    @property
    def speed_ratio(self) -> float:
        """How many times as long the teacher takes."""
        return self.teacher.seconds / self.student.seconds
