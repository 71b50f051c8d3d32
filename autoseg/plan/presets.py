"""The presets: which network is planned, and under which limits."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from autoseg.artifacts.plan import PresetName

PLAIN_CONVOLUTIONS = 2
RESIDUAL_BLOCKS = (1, 3, 4, 6)


@dataclass(frozen=True, slots=True)
class Preset:
    """A family of networks and the limits it is planned under.

    Attributes
    ----------
    residual : bool
        Encoder of residual blocks, rather than of plain convolutions.
    reference_proxy_2d, reference_proxy_3d : float
        What the memory proxy may reach when the memory target is `reference_gb`.
    reference_gb : float
        Also the memory target where the user names none.
    dataset_share : float
        Share of the dataset's voxels that a batch may hold.
    flat_batch_in_search : int
        Batch size that the search for a 2D patch leaves room for.
    drops_similar_low_resolution : bool
        Whether a low resolution with more than half the voxels of the full one is dropped.

    Notes
    -----
    Source: nnU-Net v2 (2.8.1); Isensee et al., nnU-Net Revisited, MICCAI 2024, for the residual presets M, L and XL.
    """

    residual: bool
    reference_proxy_2d: float
    reference_proxy_3d: float
    reference_gb: float
    dataset_share: float
    flat_batch_in_search: int
    drops_similar_low_resolution: bool = True

    def encoder_blocks(self, num_stages: int) -> tuple[int, ...]:
        """Convolutions (plain) or residual blocks of each encoder stage."""
        if not self.residual:
            return (PLAIN_CONVOLUTIONS,) * num_stages
        return tuple(RESIDUAL_BLOCKS[min(stage, len(RESIDUAL_BLOCKS) - 1)] for stage in range(num_stages))

    def decoder_convolutions(self, num_stages: int) -> tuple[int, ...]:
        """Convolutions of each decoder stage; there is one stage fewer than in the encoder."""
        return (1 if self.residual else PLAIN_CONVOLUTIONS,) * (num_stages - 1)


def _residual(flat: float, volume: float, gigabytes: float, share: float) -> Preset:
    return Preset(
        residual=True,
        reference_proxy_2d=flat,
        reference_proxy_3d=volume,
        reference_gb=gigabytes,
        dataset_share=share,
        flat_batch_in_search=12,
    )


PRESETS: Mapping[PresetName, Preset] = MappingProxyType(
    {
        "plain": Preset(
            residual=False,
            reference_proxy_2d=85e6,
            reference_proxy_3d=560e6,
            reference_gb=8.0,
            dataset_share=0.05,
            flat_batch_in_search=2,
        ),
        "resenc-legacy": _residual(135e6, 680e6, 8.0, 0.05),
        "resenc-m": _residual(135e6, 680e6, 8.0, 1.0),
        "resenc-l": _residual(380e6, 2100e6, 24.0, 1.0),
        "resenc-xl": _residual(560e6, 3600e6, 40.0, 1.0),
    }
)
