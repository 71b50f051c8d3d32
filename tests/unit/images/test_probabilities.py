"""Probabilities on disk: small, whole or refused, and known by what they were made from."""

import numpy as np
import pytest

from autoseg.errors import ArtifactError
from autoseg.images import probabilities
from autoseg.images.probabilities import (
    WHOLE,
    are_made_from,
    chunk_shape,
    new_levels,
    read_levels,
    to_levels,
    write_levels,
)


def test_levels_are_probabilities_to_half_a_step():
    p = np.random.default_rng(0).random((2, 3, 4, 5)).astype(np.float32)
    assert np.abs(to_levels(p).astype(float) / WHOLE - p).max() <= 0.5 / WHOLE + 1e-6


def test_written_and_read_again(tmp_path):
    levels = new_levels((3, 4, 5, 6), made_from="weights")
    block = np.random.default_rng(0).integers(0, 256, (3, 2, 5, 6)).astype(np.uint8)
    levels[:, 1:3] = block
    write_levels(tmp_path / "a" / "case.b2nd", levels)
    found = read_levels(tmp_path / "a" / "case.b2nd")[:]
    np.testing.assert_array_equal(found[:, 1:3], block)
    assert (found[0, 0] == WHOLE).all()
    assert not found[1:, 0].any()
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["case.b2nd"]


def test_turned_probabilities_are_stored_too():
    turned = np.random.default_rng(0).random((2, 3, 4, 5)).transpose(0, 3, 1, 2)
    levels = new_levels(turned.shape)
    levels[:] = to_levels(turned)
    np.testing.assert_array_equal(levels[:], np.rint(turned * WHOLE))


def test_of_regions_nothing_is_the_background():
    assert not new_levels((2, 3, 4, 5), has_background=False)[:].any()


def test_background_takes_next_to_nothing(tmp_path):
    write_levels(tmp_path / "case.b2nd", new_levels((6, 64, 64, 64)))
    assert (tmp_path / "case.b2nd").stat().st_size < 6 * 64**3 / 100


def test_they_know_what_they_were_made_from(tmp_path):
    file = tmp_path / "case.b2nd"
    assert not are_made_from(file, "these weights")
    write_levels(file, new_levels((2, 3, 4, 5), made_from="these weights"))
    assert are_made_from(file, "these weights")
    assert not are_made_from(file, "other weights")
    file.write_bytes(file.read_bytes()[:-20])
    assert not are_made_from(file, "these weights")
    file.write_bytes(b"")
    assert not are_made_from(file, "these weights")


def test_a_damaged_file_is_explained(tmp_path):
    file = tmp_path / "case.b2nd"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(ArtifactError, match="can't be read") as caught:
        read_levels(file)
    assert str(file) in str(caught.value)


def test_chunks_hold_whole_slices_while_these_are_small(monkeypatch):
    monkeypatch.setattr(probabilities, "CHUNK_BYTES", 100)
    assert chunk_shape((2, 9, 5, 5)) == (1, 4, 5, 5)
    assert chunk_shape((2, 9, 20, 30)) == (1, 1, 3, 30)
    assert chunk_shape((2, 1, 2, 200)) == (1, 1, 1, 100)
