"""manifest.json: what a fold was trained from, how, and how far."""

from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, Count, NonNegative, Positive, Share
from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.labels import Value
from autoseg.artifacts.plan import Configuration, Plan
from autoseg.artifacts.splits import Fold

Precision = Literal["float32", "bfloat16", "float16"]


class StepStyle(Record, frozen=True, kw_only=True):
    """How a training step is computed; the numbers are the same but for rounding.

    Attributes
    ----------
    precision : str
        Arithmetic of the network's layers; weights are always float32.
    sample_by_sample : bool
        Samples pass through the network one after the other. Where the loss is a mean over samples the gradients of
        each are taken at once, else when all have passed.
    side_by_side : bool
        As many of them at a time as there are threads, each on a core of its own; only with `sample_by_sample`.
    channels_last : bool
        Order of the feature maps in memory.
    compiled : bool
        By torch.compile.
    """

    precision: Precision
    sample_by_sample: bool = False
    side_by_side: bool = False
    channels_last: bool = False
    compiled: bool = False


class StepPeak(Record, frozen=True, kw_only=True):
    """Memory of a training step on the device that trains, weights, momentum and batch included.

    Attributes
    ----------
    predicted_bytes : int
        All tensors at the worst moment, from the plan alone.
    measured_bytes : int
        On CPUs what of this process lay in main memory, above what was there without network and step; on CUDA
        tensors.
    """

    predicted_bytes: Count
    measured_bytes: Count


class EarlierEnd(Record, frozen=True, kw_only=True):
    """Where a training ended before it was extended.

    Attributes
    ----------
    inputs_sha256 : str
        As the manifest's then.
    iterations, epochs, training_seconds
        Done then.
    """

    inputs_sha256: str
    iterations: int
    epochs: int
    training_seconds: NonNegative


class CarriedOver(Record, frozen=True, kw_only=True):
    """How many of a part's numbers were taken from a pretrained network, adapted, and left fresh."""

    loaded: Count = 0
    adapted: Count = 0
    fresh: Count = 0


class Teaching(Record, frozen=True, kw_only=True):
    """The trained folds that a student imitates.

    Attributes
    ----------
    paths : tuple of str
        Their folders; where they were then.
    weights_sha256 : tuple of str
        Of their weights.
    share : float
        Of the loss that is for them, not for the labels.
    temperature : float
        By which logits are divided before the two are compared: above 1, what is unlikely counts more.
    """

    paths: tuple[str, ...]
    weights_sha256: tuple[str, ...]
    share: Share
    temperature: Positive

    @property
    def identity(self) -> tuple[str, ...]:
        """What a student's weights depend on, wherever the folders are now."""
        return (*self.weights_sha256, f"{self.share:g} {self.temperature:g}")


class Pretrained(Record, frozen=True, kw_only=True):
    """The weights that a training began with, where it did not begin from scratch.

    Attributes
    ----------
    path : str
        Folder of the fold they are of; where it was then.
    weights_sha256 : str
        Of the file with the weights.
    channels : tuple of str or None
        For each of the network's channels, the one there that it was taken from; None: the mean of all.
    outputs : tuple of str or None
        Likewise for each output; None: fresh.
    parts : dict of str to CarriedOver
    """

    path: str
    weights_sha256: str
    channels: tuple[str | None, ...]
    outputs: tuple[str | None, ...]
    parts: dict[str, CarriedOver]


class TrainedModel(Artifact, frozen=True, kw_only=True):
    """One fold's model; with weights.safetensors beside it, everything needed to predict.

    Attributes
    ----------
    inputs_sha256 : str
        Of every setting that shapes the weights and the names of the fold's cases.
    data_sha256 : str
        Of the arrays of the fold's preprocessed cases.
    plan : Plan
        As used, with every `--set` applied.
    settings : tuple of str
        The `--set` options given.
    configuration_name : str
    fold : int
    cases : Fold or None
        What it trained on and what it is validated on; None where another program trained it and does not tell.
    naming : Naming
        How the dataset's files make a case, for grouping new inputs.
    file_values : tuple of int
        What is written for each of 0, 1, 2, ..., as in the dataset's label files; empty where it is the same.
    pretrained : Pretrained or None
        None: trained from scratch.
    teaching : Teaching or None
        Of a student; None: it learned from the labels alone.
    step : StepStyle
    step_seconds : dict of str to float
        What was measured to choose it, seconds a step of a small batch.
    class_weights : tuple of float
        Of the cross-entropy, one an output; empty where all are 1.
    step_peak : StepPeak or None
        Of the first steps of the last run, known when it is finished; None where the device can't tell.
    iterations, epochs, training_seconds
        Of the whole training, all runs together; known when it is finished.
    final_learning_rate : float
        Rate at the end of the last iteration done; 0 when the schedule was finished.
    num_threads : int or None
        Of the process; None in older files. On CPUs the order of sums, and so the weights' last digits, depend on it.
    extended : tuple of EarlierEnd
        Where it ended before it was extended, each time.
    finished : bool
    """

    inputs_sha256: str
    data_sha256: str
    plan: Plan
    settings: tuple[str, ...]
    configuration_name: str
    fold: Annotated[int, msgspec.Meta(ge=0)]
    cases: Fold | None
    naming: Naming
    file_values: tuple[Value, ...] = ()
    pretrained: Pretrained | None = None
    teaching: Teaching | None = None
    step: StepStyle
    step_seconds: dict[str, float]
    class_weights: tuple[float, ...] = ()
    num_parameters: int
    device: str
    num_threads: AtLeastOne | None = None
    autoseg_version: str
    torch_version: str
    step_peak: StepPeak | None = None
    iterations: int = 0
    epochs: int = 0
    training_seconds: NonNegative = 0.0
    final_learning_rate: NonNegative | None = None
    extended: tuple[EarlierEnd, ...] = ()
    finished: bool = False

    @property
    def configuration(self) -> Configuration:
        """The configuration it was trained in."""
        return self.plan.configurations[self.configuration_name]
