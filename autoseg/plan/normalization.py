"""Which normalization each channel gets, from its name."""

from collections.abc import Sequence

from autoseg.artifacts.plan import NormalizationScheme

SCHEMES: dict[str, NormalizationScheme] = {
    "ct": "ct",
    "nonorm": "none",
    "rescale_to_0_1": "rescale_to_0_1",
    "rgb_to_0_1": "rgb_to_0_1",
    "zscore": "zscore",
}
MASK_BELOW_RELATIVE_SIZE = 0.75


def normalization_schemes(channel_names: Sequence[str]) -> tuple[NormalizationScheme, ...]:
    """Scheme of each channel: the names above, whatever their case; z-score for every other."""
    return tuple(SCHEMES.get(name.casefold(), "zscore") for name in channel_names)


def masked(schemes: Sequence[NormalizationScheme], median_relative_size: float) -> tuple[bool, ...]:
    """Whether a channel's statistics are taken inside the non-zero mask alone.

    Notes
    -----
    When cropping removes more than a quarter of the typical image, the zeros left in the box are background that
    someone set (skull stripping, say) and would distort a z-score. Source: nnU-Net v2 (2.8.1).
    """
    small = median_relative_size < MASK_BELOW_RELATIVE_SIZE
    return tuple(small and scheme == "zscore" for scheme in schemes)
