"""Runs in nnU-Net's environment: seconds that its resampling of one array takes.

usage: peer_resample.py SOURCE.npy RESULT.npy AXIS Z Y X

Whole numbers are resampled as labels, others as an image. AXIS is the one treated apart, or none. One JSON line is
printed.
"""

import json
import sys
import time

import numpy as np
from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg


def main() -> None:
    source, result, axis, *shape = sys.argv[1:]
    array = np.load(source)
    labels = array.dtype.kind in "iu"
    apart = None if axis == "none" else int(axis)
    wanted = [int(edge) for edge in shape]
    order = 1 if labels else 3
    start = time.perf_counter()
    resized = resample_data_or_seg(array[None], wanted, labels, apart, order, do_separate_z=apart is not None)
    seconds = time.perf_counter() - start
    np.save(result, resized[0])
    print(json.dumps({"seconds": seconds}))


if __name__ == "__main__":
    main()
