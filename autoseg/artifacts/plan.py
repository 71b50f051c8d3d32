"""plan.json: every choice the later stages follow. nnU-Net's words where the thing is the same."""

from math import prod
from typing import Annotated, Literal

import msgspec

from autoseg.artifacts.augmentation import Augmentation
from autoseg.artifacts.base import Artifact, Record
from autoseg.artifacts.bounds import AtLeastOne, NonNegative, Positive, Share
from autoseg.artifacts.budget import Budget
from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.labels import Labels, Name, Value, count_foreground, count_outputs, fault, has_regions

Axis = Annotated[int, msgspec.Meta(ge=0, le=2)]
Order = Annotated[int, msgspec.Meta(ge=0, le=3)]
NormalizationScheme = Literal["ct", "zscore", "rescale_to_0_1", "rgb_to_0_1", "none"]
Norm = Literal["instance", "batch", "layer", "group"]
Attention = Literal["none", "se", "scse"]
PresetName = Literal["plain", "resenc-legacy", "resenc-m", "resenc-l", "resenc-xl"]
WishedPreset = PresetName | Literal["auto"]
WishedPrecision = Literal["measured", "float32", "bfloat16"]
LossName = Literal["dice_ce", "ce", "dice", "dice_focal", "dice_topk", "tversky"]
OptimizerName = Literal["sgd", "adamw"]
ScheduleName = Literal["poly", "cosine"]
ClassWeights = Literal["automatic"] | Annotated[tuple[Positive, ...], msgspec.Meta(min_length=1)] | None
BelowOne = Annotated[float, msgspec.Meta(ge=0, lt=1)]
LOSSES_WITHOUT_ENTROPY = ("dice", "tversky")


def _require(holds: bool, what: str) -> None:
    """Refuse a record; msgspec adds where it stands."""
    if not holds:
        raise ValueError(what)


class Resampling(Record, frozen=True, kw_only=True):
    """Spline orders, in the plane and across it where the slice axis is treated apart.

    Attributes
    ----------
    force_separate_z : bool or None
        None: decided case by case from the spacings.
    """

    data_order: Order = 3
    data_order_z: Order = 0
    label_order: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1
    label_order_z: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    probabilities_order: Annotated[int, msgspec.Meta(ge=0, le=1)] = 1
    probabilities_order_z: Annotated[int, msgspec.Meta(ge=0, le=1)] = 0
    force_separate_z: bool | None = None


PREFERRED = ("3d_fullres", "2d")  # where nothing says which configuration


class Configuration(Record, frozen=True, kw_only=True):
    """One network and the grid it works on.

    Attributes
    ----------
    spacing : tuple of float, length 3 (2 for 2d)
        Target spacing in mm along the transposed axes; in 2d of the plane, slices stay as they are.
    median_image_size_in_voxels : tuple of float
        Median over the cases after resampling; halves can occur.
    patch_size, batch_size
        Patch edges divide by the product of the strides of their axis.
    strides, kernel_sizes : tuple of tuple of int
        One entry a stage; the first stride is all ones.
    features_per_stage : tuple of int, length n_stages
    n_conv_per_stage, n_blocks_per_stage : tuple of int, length n_stages, or None
        Convolutions of a plain encoder, or blocks of a residual one; the other of the two is None.
    n_conv_per_stage_decoder : tuple of int, length n_stages - 1
    norm : str
        What follows each convolution.
    attention : str
        Squeeze-and-excitation (``se``), or that and a gate for each voxel (``scse``), in the encoder.
    deep_supervision : bool
        Whether the loss looks at coarser decoder stages too.
    batch_dice : bool
        Dice of the loss over the batch as one volume, rather than sample by sample.
    normalization_schemes, use_mask_for_norm : tuple
        One entry a channel.
    mirror_axes : tuple of int
        Axes of the patch along which training and prediction may mirror.
    memory_proxy : float
        The planner's estimate, in voxels x features, that was held against the memory target.
    previous_stage : str or None
        Configuration whose prediction is this network's further input, one channel for each foreground label.
    next_stage : str or None
        Configuration that takes this one's prediction.
    """

    spacing: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2, max_length=3)]
    median_image_size_in_voxels: Annotated[tuple[Positive, ...], msgspec.Meta(min_length=2, max_length=3)]
    patch_size: Annotated[tuple[AtLeastOne, ...], msgspec.Meta(min_length=2, max_length=3)]
    batch_size: AtLeastOne
    strides: Annotated[tuple[tuple[AtLeastOne, ...], ...], msgspec.Meta(min_length=1)]
    kernel_sizes: Annotated[tuple[tuple[AtLeastOne, ...], ...], msgspec.Meta(min_length=1)]
    features_per_stage: tuple[AtLeastOne, ...]
    n_stages: AtLeastOne
    n_conv_per_stage: tuple[AtLeastOne, ...] | None = None
    n_blocks_per_stage: tuple[AtLeastOne, ...] | None = None
    n_conv_per_stage_decoder: tuple[AtLeastOne, ...]
    norm: Norm = "instance"
    attention: Attention = "none"
    deep_supervision: bool = True
    batch_dice: bool
    normalization_schemes: tuple[NormalizationScheme, ...]
    use_mask_for_norm: tuple[bool, ...]
    mirror_axes: tuple[Axis, ...]
    resampling: Resampling
    memory_proxy: NonNegative
    previous_stage: Name | None = None
    next_stage: Name | None = None

    def __post_init__(self) -> None:
        """Hold the fields against each other.

        Raises
        ------
        ValueError
            Lengths disagree, the patch can't be halved as often as the strides ask, or batch norm has no batch.
        """
        d = len(self.patch_size)
        n = self.n_stages
        lengths = {
            "spacing": d,
            "median_image_size_in_voxels": d,
            "strides": n,
            "kernel_sizes": n,
            "features_per_stage": n,
            "n_conv_per_stage_decoder": n - 1,
        }
        encoders = [name for name in ("n_conv_per_stage", "n_blocks_per_stage") if getattr(self, name) is not None]
        _require(len(encoders) == 1, "one of n_conv_per_stage and n_blocks_per_stage is needed, and not both")
        lengths |= dict.fromkeys(encoders, n)
        for name, length in lengths.items():
            found = len(getattr(self, name))
            _require(found == length, f"{name} has {found} entries, patch_size and n_stages ask for {length}")
        per_stage = (*self.strides, *self.kernel_sizes)
        _require(all(len(entry) == d for entry in per_stage), f"strides and kernel_sizes need {d} numbers a stage")
        _require(set(self.strides[0]) == {1}, f"strides[0] is {self.strides[0]}: the first stage keeps the resolution")
        _require(all(k % 2 for entry in self.kernel_sizes for k in entry), "kernel_sizes must be odd")
        for axis, (edge, divisor) in enumerate(zip(self.patch_size, self.divisors, strict=True)):
            what = f"patch_size[{axis}] = {edge} does not divide by the product of its strides, {divisor}"
            _require(edge % divisor == 0, what)
        _require(
            all(axis < d for axis in self.mirror_axes),
            f"mirror_axes {self.mirror_axes} are not axes of a {d}-dimensional patch",
        )
        _require(self.norm != "batch" or self.batch_size > 1, "norm batch needs a batch_size of 2 or more, found 1")

    @property
    def residual(self) -> bool:
        """Whether the encoder is made of residual blocks."""
        return self.n_blocks_per_stage is not None

    @property
    def ties_samples(self) -> bool:
        """Whether what the network makes of a sample depends on the others of its batch, in training."""
        return self.norm == "batch"

    @property
    def encoder_blocks(self) -> tuple[int, ...]:
        """Convolutions, or residual blocks, of each encoder stage."""
        return self.n_blocks_per_stage or self.n_conv_per_stage or ()

    @property
    def divisors(self) -> tuple[int, ...]:
        """By how much the whole encoder shrinks each axis."""
        return tuple(prod(stage[axis] for stage in self.strides) for axis in range(len(self.patch_size)))


class Training(Record, frozen=True, kw_only=True):
    """The training recipe.

    Attributes
    ----------
    num_folds : int
        2 or more where folds are made; where they are the user's own, how many there are.
    stratify : bool
        Balance labels and their sizes over the folds.
    epochs, iterations_per_epoch, validation_iterations : int
        Length of a run where no `max_hours` is set.
    max_hours : float or None
        Time for the training itself on this machine; the schedule is fitted to it.
    patience : int or None
        Epochs without a better smoothed patch Dice after which the rest of the schedule is run through in a short
        stretch; None: never.
    validation_cases : int
        How many of the validation cases are predicted whole now and then.
    validation_every : int
        Every how many epochs.
    precision : str
        Of the network's layers; ``measured``: whichever is fastest on the device.
    sample_by_sample : bool or None
        Whether the samples of a batch pass one after the other; None: whichever is faster.
    compile : bool or None
        Whether torch.compile is used; None: on CUDA where it is faster.
    loss : str
    class_weights : "automatic", tuple of float, or None
        Of the cross-entropy, one an output; a region's is that of the voxels inside it.
    focal_gamma : float
        For ``dice_focal``.
    topk_share : float
        For ``dice_topk``: share of the voxels, those with the largest cross-entropy, that count in it.
    tversky_alpha, tversky_beta : float
        For ``tversky``: weights of what is found wrongly and of what is missed; 0.5 each is Dice.
    initial_learning_rate : float or None
        None: the optimizer's usual one, and for ``sgd`` a higher one in a short training.
    momentum : float
        For ``sgd``.
    adamw_betas : tuple of float
        For ``adamw``: decay of the means of the gradient and of its square.
    poly_exponent : float
        For ``poly``.
    warmup_share : float
        Share of the training over which the learning rate rises to `initial_learning_rate`.
    foreground_share : float
        Share of each batch whose patch is centred on foreground.
    rare_class_sampling : float
        For those patches, how strongly classes that few cases have are preferred: 0 not at all, 1 until each is about
        as frequent as the others.
    memory_share : float
        Training cases are held in memory when they fit this share of what is free; else read patch by patch.
    checkpoint_minutes : float
        At most this much work is lost when the run is killed.
    """

    num_folds: AtLeastOne = 5
    split_seed: Annotated[int, msgspec.Meta(ge=0, lt=2**32)] = 12345
    stratify: bool = False
    seed: Annotated[int, msgspec.Meta(ge=0)] = 0
    epochs: AtLeastOne = 1000
    iterations_per_epoch: AtLeastOne = 250
    validation_iterations: Annotated[int, msgspec.Meta(ge=0)] = 50
    max_hours: Positive | None = None
    patience: AtLeastOne | None = None
    validation_cases: Annotated[int, msgspec.Meta(ge=0)] = 2
    validation_every: AtLeastOne = 20
    precision: WishedPrecision = "measured"
    sample_by_sample: bool | None = None
    compile: bool | None = None
    loss: LossName = "dice_ce"
    class_weights: ClassWeights = None
    focal_gamma: NonNegative = 2.0
    topk_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.1
    tversky_alpha: NonNegative = 0.3
    tversky_beta: NonNegative = 0.7
    optimizer: OptimizerName = "sgd"
    initial_learning_rate: Positive | None = None
    momentum: BelowOne = 0.99
    adamw_betas: tuple[BelowOne, BelowOne] = (0.9, 0.999)
    weight_decay: NonNegative = 3e-5
    schedule: ScheduleName = "poly"
    poly_exponent: NonNegative = 0.9
    warmup_share: BelowOne = 0.0
    gradient_clip: Positive = 12.0
    foreground_share: Share = 0.33
    rare_class_sampling: Share = 0.0
    memory_share: Share = 0.5
    checkpoint_minutes: NonNegative = 2.0
    augmentation: Augmentation = Augmentation()

    def __post_init__(self) -> None:
        """Hold the fields against each other.

        Raises
        ------
        ValueError
            Class weights are asked of a loss without cross-entropy, both of Tversky's weights are 0, or patience waits
            for a validation that there is none of.
        """
        _require(
            self.class_weights is None or self.loss not in LOSSES_WITHOUT_ENTROPY,
            f"class_weights are of the cross-entropy, which loss {self.loss} does not have: use null, or another loss",
        )
        _require(self.tversky_alpha + self.tversky_beta > 0, "tversky_alpha and tversky_beta are both 0")
        _require(
            self.patience is None or self.validation_iterations > 0,
            f"patience is {self.patience}, which needs validation_iterations of 1 or more",
        )


class Prediction(Record, frozen=True, kw_only=True):
    """How volumes are predicted where the command does not say otherwise; validation cases too.

    Attributes
    ----------
    mirroring : bool
        Average over every subset of the configuration's `mirror_axes`.
    step : float
        Greatest distance of neighbouring windows, in patch edges.
    """

    mirroring: bool = True
    step: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.5


class Plan(Artifact, frozen=True, kw_only=True):
    """The whole plan.

    Attributes
    ----------
    inputs_sha256 : str
        Of the fingerprint, the dataset and the planner's options.
    preset : str
    preset_was_chosen : bool
        By ``--preset auto``, which keeps the cap of 5 % of the dataset's voxels in a batch.
    gpu_memory_gb : float
        Memory target, in nnU-Net's unit.
    labels : dict of str to int or tuple of int
        A tuple is a region; ``ignore`` is the value that is not annotated.
    regions_class_order : tuple of int
        Where there are regions: the value written for each of them, later ones over earlier ones.
    transpose_forward, transpose_backward : tuple of int, length 3
        Axis order of the network's world and back.
    original_median_spacing, original_median_shape : tuple of float, length 3
        Of the raw fingerprint, after transposition; for information.
    intensities : tuple of IntensityStatistics
        For CT normalization, one a channel.
    budget : Budget or None
        What was given up for a time to train in, where the plan was made for one; for information.
    """

    inputs_sha256: str
    preset: PresetName = "plain"
    preset_was_chosen: bool = False
    gpu_memory_gb: Positive
    channel_names: Annotated[tuple[Name, ...], msgspec.Meta(min_length=1)]
    labels: Labels
    regions_class_order: tuple[Value, ...] = ()
    transpose_forward: tuple[Axis, Axis, Axis]
    transpose_backward: tuple[Axis, Axis, Axis]
    original_median_spacing: tuple[Positive, Positive, Positive]
    original_median_shape: tuple[Positive, Positive, Positive]
    intensities: tuple[IntensityStatistics, ...]
    configurations: Annotated[dict[Name, Configuration], msgspec.Meta(min_length=1)]
    training: Training = Training()
    prediction: Prediction = Prediction()
    budget: Budget | None = None

    def __post_init__(self) -> None:
        """Hold the channels, the axes and the configurations against each other.

        Raises
        ------
        ValueError
            A channel lacks its intensities or normalization, a cascade its previous stage, the transpositions are not
            inverse, the labels contradict each other, or samples that a norm ties together are to pass one by one.
        """
        channels = len(self.channel_names)
        if len(self.intensities) != channels:
            message = f"intensities has {len(self.intensities)} entries, there are {channels} channels"
            raise ValueError(message)
        for name, configuration in self.configurations.items():
            before = configuration.previous_stage
            if before is not None and before not in self.configurations:
                message = f"configurations.{name}.previous_stage is {before}, which is not planned"
                raise ValueError(message)
            for field in ("normalization_schemes", "use_mask_for_norm"):
                if len(getattr(configuration, field)) != channels:
                    message = f"configurations.{name}.{field} needs an entry for each of the {channels} channels"
                    raise ValueError(message)
            if configuration.ties_samples and self.training.sample_by_sample:
                message = (
                    f"training.sample_by_sample is true, and configurations.{name}.norm is batch, which ties the "
                    "samples of a batch together: use false or null, or another norm"
                )
                raise ValueError(message)
        if any(self.transpose_backward[axis] != position for position, axis in enumerate(self.transpose_forward)):
            message = "transpose_backward does not undo transpose_forward"
            raise ValueError(message)
        wrong = fault(self.labels, self.regions_class_order)
        if wrong is not None:
            raise ValueError(wrong)
        weights, outputs = self.training.class_weights, self.num_classes
        if isinstance(weights, tuple) and len(weights) != outputs:
            kind = "region" if has_regions(self.labels) else "class, the background first"
            message = f"training.class_weights has {len(weights)} numbers, needs {outputs}: one for each {kind}"
            raise ValueError(message)

    @property
    def num_classes(self) -> int:
        """Outputs of the network, background included where there are no regions."""
        return count_outputs(self.labels)

    def num_inputs(self, configuration: Configuration) -> int:
        """Input channels of a network: the images', and in a cascade one for each foreground value."""
        return len(self.channel_names) + self.num_previous(configuration)

    def num_previous(self, configuration: Configuration) -> int:
        """Values that the previous stage of a cascade may predict, counted from 1; 0 without such a stage."""
        return count_foreground(self.labels) if configuration.previous_stage else 0
