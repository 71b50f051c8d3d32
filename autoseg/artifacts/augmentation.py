"""The random changes made to training patches, as plan.json holds them."""

from typing import Annotated, Any, Literal

import msgspec

from autoseg.artifacts.base import Record
from autoseg.artifacts.bounds import AtLeastOne, NonNegative, Positive, Share

Range = tuple[NonNegative, NonNegative]
ShareRange = tuple[Share, Share]
CountRange = tuple[AtLeastOne, AtLeastOne]
Backend = Literal["tensor", "batchgenerators"]

# Control points of a cubic B-spline that move less than 1 / 2.48 of their distance don't fold space (Choi, Lee 2000).
MOST_ELASTIC = 0.4
# A factor of zero would leave nothing.
ABOVE_ZERO = ("scaling", "low_resolution", "gamma", "local_gamma", "cutout_edges", "cutmix_edges")
# What is off unless asked for, and what the classic transforms know nothing of.
EXTRAS = (
    "strong",
    "quarter_turn_probability",
    "elastic_probability",
    "median_probability",
    "shift_probability",
    "gradient_probability",
    "local_gamma_probability",
    "sharpen_probability",
    "cutout_probability",
    "copy_paste_probability",
    "cutmix_probability",
    "mixup_probability",
)
# What the classic transforms do in one way alone.
TENSOR_ONLY = ("rotation_probability_per_axis", "scaling_probability_per_axis", "contrast_clip_share")
# What `strong` puts in the place of defaults: nnU-Net's DA5 (2.8.1), as far as it has a meaning here.
STRONG: dict[str, Any] = {
    "rotation_probability": 0.4,
    "rotation_probability_per_axis": 0.5,
    "scaling": (0.7, 1.43),
    "scaling_probability_per_axis": 1.0,
    "quarter_turn_probability": 0.375,
    "blur_probability": 0.1,
    "blur_sigma_voxels": (0.3, 1.5),
    "median_probability": 0.1,
    "shift_probability": 0.1,
    "contrast_probability": 0.2,
    "contrast_probability_per_channel": 0.5,
    "contrast": (0.5, 2.0),
    "contrast_clip_share": 0.5,
    "low_resolution_probability": 0.15,
    "low_resolution": (0.25, 1.0),
    "gamma_probability": 0.1,
    "cutout_probability": 0.4,
    "gradient_probability": 0.3,
    "local_gamma_probability": 0.3,
    "sharpen_probability": 0.2,
}


class Augmentation(Record, frozen=True, kw_only=True):
    """Probabilities and ranges of the random changes made to training patches.

    Probabilities are per sample, but for mixup's, which is per batch; those named `..._per_channel` are then drawn for
    each channel.

    Attributes
    ----------
    backend : str
        "tensor": ours, on the device that trains. "batchgenerators": the classic transforms, in the loader.
    strong : bool
        Every key of `STRONG` that stands at its default takes the value there.
    rotation_probability_per_axis, scaling_probability_per_axis : float
        Of turning about each axis of a turned sample; of a scaled one having a factor for each axis.
    quarter_turn_probability : float
        Of a turn by 90, 180 or 270 degrees in a plane whose edges are equal.
    elastic_cells : int
        The patch is divided into so many along each axis; their corners move.
    elastic_magnitude : tuple of float
        How far at most, as a share of a cell's edge.
    contrast_clip_share : float
        In this share of the samples, contrast keeps to the old range.
    cutout_boxes : tuple of int
        How many boxes of a channel are replaced by their mean.
    cutout_edges, cutmix_edges : tuple of float
        Edges of a box, as shares of the patch's.
    mixup_alpha : float
        Shares are drawn from Beta(alpha, alpha).
    previous_morphology_probability, previous_removal_probability : float
        In the second stage of a cascade: of labels of the first stage's prediction being grown, shrunk, opened or
        closed; of losing one of their connected components. `..._per_label` is then drawn for each label.
    previous_morphology_radius : tuple of int
        Of the ball, in voxels.
    previous_removal_largest : float
        Share of the patch; components that fill as much are left.
    """

    backend: Backend = "tensor"
    strong: bool = False
    rotation_probability: Share = 0.2
    rotation_probability_per_axis: Share = 1.0
    rotation_degrees: NonNegative = 30.0
    rotation_degrees_in_plane: NonNegative = 180.0
    scaling_probability: Share = 0.2
    scaling_probability_per_axis: Share = 0.0
    scaling: Range = (0.7, 1.4)
    quarter_turn_probability: Share = 0.0
    elastic_probability: Share = 0.0
    elastic_cells: AtLeastOne = 5
    elastic_magnitude: Range = (0.0, 0.3)
    noise_probability: Share = 0.1
    noise_sigma: Range = (0.0, 0.1)
    blur_probability: Share = 0.2
    blur_probability_per_channel: Share = 0.5
    blur_sigma_voxels: Range = (0.5, 1.0)
    median_probability: Share = 0.0
    median_probability_per_channel: Share = 0.5
    median_size_voxels: tuple[Annotated[int, msgspec.Meta(ge=2)], Annotated[int, msgspec.Meta(ge=2)]] = (2, 7)
    shift_probability: Share = 0.0
    shift_probability_per_channel: Share = 0.5
    shift_sigma: NonNegative = 0.5
    brightness_probability: Share = 0.15
    brightness: Range = (0.75, 1.25)
    contrast_probability: Share = 0.15
    contrast_probability_per_channel: Share = 1.0
    contrast: Range = (0.75, 1.25)
    contrast_clip_share: Share = 1.0
    low_resolution_probability: Share = 0.25
    low_resolution_probability_per_channel: Share = 0.5
    low_resolution: Range = (0.5, 1.0)
    gamma_inverted_probability: Share = 0.1
    gamma_probability: Share = 0.3
    gamma: Range = (0.7, 1.5)
    gradient_probability: Share = 0.0
    gradient_probability_per_channel: Share = 0.5
    gradient_strength: Range = (1.0, 5.0)
    local_gamma_probability: Share = 0.0
    local_gamma_probability_per_channel: Share = 0.5
    local_gamma: Range = (0.01, 4.0)
    sharpen_probability: Share = 0.0
    sharpen_probability_per_channel: Share = 0.5
    sharpen_strength: Range = (0.1, 1.0)
    cutout_probability: Share = 0.0
    cutout_probability_per_channel: Share = 0.5
    cutout_boxes: CountRange = (1, 4)
    cutout_edges: ShareRange = (0.1, 0.33)
    copy_paste_probability: Share = 0.0
    cutmix_probability: Share = 0.0
    cutmix_edges: ShareRange = (0.25, 0.75)
    mixup_probability: Share = 0.0
    mixup_alpha: Positive = 0.4
    mirror_probability: Share = 0.5
    previous_morphology_probability: Share = 0.4
    previous_morphology_probability_per_label: Share = 0.5
    previous_morphology_radius: CountRange = (1, 8)
    previous_removal_probability: Share = 0.2
    previous_removal_probability_per_label: Share = 0.5
    previous_removal_largest: Share = 0.15

    def __post_init__(self) -> None:
        """Refuse ranges written the wrong way round, and what the backend can't do.

        Raises
        ------
        ValueError
            A lower end is above its upper end, a factor's lower end is zero, deformation folds, or an extra is asked
            of the classic transforms.
        """
        for name in self.__struct_fields__:
            value = getattr(self, name)
            if isinstance(value, tuple) and value[0] > value[1]:
                message = f"{name}: the lower end {value[0]} is above the upper end {value[1]}"
                raise ValueError(message)
        for name in ABOVE_ZERO:
            if getattr(self, name)[0] == 0:
                message = f"{name}: must be above 0"
                raise ValueError(message)
        if self.elastic_magnitude[1] > MOST_ELASTIC:
            message = f"elastic_magnitude: {self.elastic_magnitude[1]} folds space, at most {MOST_ELASTIC} does not"
            raise ValueError(message)
        if self.backend == "batchgenerators":
            asked = [name for name in EXTRAS if getattr(self, name)]
            if asked:
                message = f"{', '.join(asked)}: not with backend batchgenerators, only with tensor"
                raise ValueError(message)
            plain = Augmentation()
            other = [name for name in TENSOR_ONLY if getattr(self, name) != getattr(plain, name)]
            if other:
                message = f"{', '.join(other)}: not to be changed with backend batchgenerators, only with tensor"
                raise ValueError(message)
            if self.mirror_probability not in (0.0, 0.5):
                message = f"mirror_probability: {self.mirror_probability} is not possible with backend batchgenerators,"
                raise ValueError(f"{message} 0 and 0.5 are")

    def in_force(self) -> "Augmentation":
        """What is drawn from: with `strong`, its values where nothing else was asked for."""
        if not self.strong:
            return self
        plain = Augmentation()
        changed = {name: value for name, value in STRONG.items() if getattr(self, name) == getattr(plain, name)}
        return msgspec.structs.replace(self, **changed)
