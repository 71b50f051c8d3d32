"""What labels measure adds up, whatever the volume."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from autoseg.artifacts.geometry import Geometry
from autoseg.predict.measure import measure_labels

VOLUMES = arrays(np.uint8, st.tuples(*[st.integers(1, 5)] * 3), elements=st.integers(0, 3))
LABELS = {"a": 1, "b": 2, "c": 3, "all": (1, 2, 3)}


@given(VOLUMES)
def test_labels_make_up_what_is_not_background(label):
    found = measure_labels(label, Geometry(shape=label.shape, spacing_mm=(2.0, 0.5, 1.5)), LABELS)
    parts, whole = [found[name] for name in "abc"], found["all"]
    assert whole.voxels == sum(part.voxels for part in parts) == np.count_nonzero(label)
    assert whole.volume_ml == pytest.approx(sum(part.volume_ml for part in parts))
    assert whole.components <= sum(part.components for part in parts)
    there = [part for part in parts if part.voxels]
    if there:
        assert whole.first_slice == min(part.first_slice for part in there)
        assert whole.last_slice == max(part.last_slice for part in there)
        weights = [part.voxels for part in there]
        for field in ("centroid_zyx", "centroid_mm"):
            mean = np.average([getattr(part, field) for part in there], axis=0, weights=weights)
            assert getattr(whole, field) == pytest.approx(mean)


@given(VOLUMES, st.integers(0, 2))
def test_a_mirrored_volume_measures_the_same_in_another_place(label, axis):
    geometry = Geometry(shape=label.shape, spacing_mm=(2.0, 0.5, 1.5))
    one, other = (measure_labels(array, geometry, LABELS) for array in (label, np.flip(label, axis)))
    for name in LABELS:
        assert (one[name].voxels, one[name].components) == (other[name].voxels, other[name].components)
        if one[name].centroid_zyx is not None:
            ends = one[name].centroid_zyx[axis] + other[name].centroid_zyx[axis]
            assert ends == pytest.approx(label.shape[axis] - 1)
