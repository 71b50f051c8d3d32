"""How intensities are scaled before anything else sees them: one scheme for each channel."""

import numpy as np
from numpy.typing import NDArray

from autoseg.artifacts.fingerprint import IntensityStatistics
from autoseg.artifacts.plan import NormalizationScheme

PART_VOXELS = 2**20
SMALLEST_DIVISOR = 1e-8  # keeps an image of one value finite


def normalize(
    channel_zyx: NDArray[np.float32],
    scheme: NormalizationScheme,
    intensities: IntensityStatistics,
    inside_zyx: NDArray[np.bool_] | None = None,
) -> None:
    """Scale one channel in place.

    Parameters
    ----------
    channel_zyx : ndarray of float32, shape (Z, Y, X)
        Cropped; changed in place.
    scheme : str
        ``ct``: clip to the dataset's 0.5th and 99.5th foreground percentile, subtract its mean, divide by its
        standard deviation. ``zscore``: by the image's own mean and standard deviation. ``rescale_to_0_1``:
        subtract the minimum, divide by the maximum. ``rgb_to_0_1``: divide by 255. ``none``.
    intensities : IntensityStatistics
        Of this channel over the dataset; only ``ct`` looks at them.
    inside_zyx : ndarray of bool, shape (Z, Y, X), optional
        ``zscore`` measures and changes these voxels alone. The other schemes ignore it.

    Notes
    -----
    Sums are taken in double precision. Source: nnU-Net v2 (2.8.1); docs/explanation/normalization.md.
    """
    match scheme:
        case "ct":
            # Slice by slice: each comes from memory once instead of three times.
            for slice_yx in channel_zyx:
                np.clip(slice_yx, intensities.percentile_00_5, intensities.percentile_99_5, out=slice_yx)
                slice_yx -= np.float32(intensities.mean)
                slice_yx /= np.float32(max(intensities.std, SMALLEST_DIVISOR))
        case "zscore":
            if inside_zyx is None:
                _zscore(channel_zyx)
            elif inside_zyx.any():
                values = channel_zyx[inside_zyx]
                _zscore(values)
                channel_zyx[inside_zyx] = values
        case "rescale_to_0_1":
            channel_zyx -= channel_zyx.min()
            channel_zyx /= np.float32(max(float(channel_zyx.max()), SMALLEST_DIVISOR))
        case "rgb_to_0_1":
            channel_zyx /= np.float32(255)
        case "none":
            pass


def _zscore(values: NDArray[np.float32]) -> None:
    """Subtract the mean, divide by the population's standard deviation, in place."""
    values -= np.float32(values.mean(dtype=np.float64))
    # Part by part: squares in double precision of the whole at once would take twice the image's memory. What the
    # rounded mean left over is taken out of the squares.
    rest = float(values.mean(dtype=np.float64))
    line = values.reshape(-1)
    parts = (line[start : start + PART_VOXELS] for start in range(0, line.size, PART_VOXELS))
    squares = sum(float(np.square(part, dtype=np.float64).sum()) for part in parts) / line.size
    values /= np.float32(max(np.sqrt(max(squares - rest * rest, 0.0)), SMALLEST_DIVISOR))
