"""Arrays on disk: written whole, read back whole or in part."""

from math import prod
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import read
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.preprocessed import Placement, PreprocessedCase, PreviousMap
from autoseg.errors import ArtifactError
from autoseg.layout import Workspace
from autoseg.machine import locked
from autoseg.preprocess.store import (
    StoredMap,
    chunk_shapes,
    is_whole,
    load_case,
    open_case,
    remove_leftovers,
    write_case,
    write_map,
)

SHAPE = (9, 70, 65)


@pytest.fixture
def arrays():
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *SHAPE)).astype(np.float32)
    label = rng.integers(-1, 3, SHAPE).astype(np.int16)
    return image, label, np.array([[1, 2, 3, 4], [2, 0, 0, 0]], np.int32)


@pytest.fixture
def record():
    geometry = Geometry(shape=SHAPE, spacing_mm=(1.0, 1.0, 1.0))
    placement = Placement(geometry=geometry, crop_start=(0, 0, 0), crop_stop=SHAPE, shape=SHAPE)
    return PreprocessedCase(
        name="a",
        inputs_sha256="x",
        arrays_sha256="y",
        placement=placement,
        num_channels=2,
        foreground_voxels={"one": 1},
    )


@pytest.mark.parametrize("patch", [(4, 32, 32), (48, 48)])
def test_what_is_written_is_read(arrays, record, tmp_path, patch):
    files = Workspace(tmp_path).case("c", "a.b")
    write_case(files, *arrays, record, patch)
    assert read(files.record, PreprocessedCase) == record
    assert sorted(file.name for file in files.image.parent.iterdir()) == sorted(
        Path(getattr(files, kind)).name for kind in ("image", "label", "locations", "record")
    )
    stored, loaded = open_case(files), load_case(files)
    box = (slice(2, 7), slice(1, 33), slice(40, 65))
    for case in (stored, loaded):
        assert case.label.shape == SHAPE
        image, label = case.image[(slice(None), *box)], case.label[box]
        assert image.dtype == np.float32
        assert label.dtype == np.int16
        np.testing.assert_array_equal(image, arrays[0][(slice(None), *box)])
        np.testing.assert_array_equal(label, arrays[1][box])
        np.testing.assert_array_equal(case.locations, arrays[2])
    # Loaders send open cases to their workers.
    np.testing.assert_array_equal(ForkingPickler.loads(ForkingPickler.dumps(stored)).label[:], arrays[1])
    np.testing.assert_array_equal(loaded.image, arrays[0])
    np.testing.assert_array_equal(loaded.label, arrays[1])


def test_a_case_without_foreground(arrays, record, tmp_path):
    files = Workspace(tmp_path).case("c", "a")
    write_case(files, arrays[0], arrays[1], np.empty((0, 4), np.int32), record, (4, 4, 4))
    assert open_case(files).locations.shape == (0, 4)


def test_a_damaged_file_is_explained(arrays, record, tmp_path):
    files = Workspace(tmp_path).case("c", "a")
    write_case(files, *arrays, record, (4, 4, 4))
    files.image.write_bytes(files.image.read_bytes()[:200])
    files.label.unlink()
    for kind in ("image", "label"):
        with pytest.raises(ArtifactError, match="can't be read"):
            getattr(open_case(files), kind)
    with pytest.raises(ArtifactError, match="can't be read"):
        load_case(files)


def test_a_half_exchanged_case_is_never_read(arrays, record, tmp_path):
    files, others = Workspace(tmp_path).case("c", "a"), Workspace(tmp_path).case("c", "b")
    write_case(files, *arrays, record, (4, 4, 4))
    write_case(others, arrays[0] + 1, arrays[1], arrays[2], replace(record, arrays_sha256="z"), (4, 4, 4))
    stored = open_case(files, "y")
    before = stored.image[:]
    others.label.replace(files.label)
    with pytest.raises(ArtifactError, match="exchanged"):
        load_case(files)
    np.testing.assert_array_equal(stored.image[:], before)
    with pytest.raises(ArtifactError, match="exchanged") as caught:
        _ = stored.label
    assert caught.value.where == str(files.label)
    others.image.replace(files.image)
    others.locations.replace(files.locations)
    np.testing.assert_array_equal(load_case(files, "z").image, arrays[0] + 1)
    with pytest.raises(ArtifactError, match="exchanged"):
        load_case(files, "y")
    with pytest.raises(ArtifactError, match="exchanged"):
        _ = ForkingPickler.loads(ForkingPickler.dumps(stored)).image


def test_leftovers_are_removed_unless_their_process_lives(arrays, record, tmp_path):
    one, other = (Workspace(tmp_path).case("c", name) for name in ("a.b", "a"))
    write_case(one, *arrays, record, (4, 4, 4))
    kept = sorted(path.name for path in one.image.parent.iterdir())
    for files in (one, other):
        for name in (".{}.image.b2nd.0123abcd.part", ".{}.json.x_y1z2ab.part.json", ".{}.label.b2nd.77.part"):
            (one.image.parent / name.format(files.record.stem)).touch()
        files.lock.touch()
    foreign = one.image.parent / ".c.image.b2nd.0123abcd.part"
    foreign.touch()
    with locked(other.lock, wait=False):
        remove_leftovers([one, other])
        left = {path.name for path in one.image.parent.iterdir()} - set(kept)
        assert len(left) == 5
        assert all(name.startswith((".a.image", ".a.json", ".a.label", ".c.")) for name in left)
    remove_leftovers([one, other])
    assert sorted(path.name for path in one.image.parent.iterdir()) == [foreign.name, *kept]


def test_an_unwritable_folder_is_explained(arrays, record, tmp_path):
    (tmp_path / "preprocessed").write_text("in the way")
    with pytest.raises(ArtifactError, match="can't be"):
        write_case(Workspace(tmp_path).case("c", "a"), *arrays, record, (4, 4, 4))


@pytest.mark.parametrize(
    ("shape", "patch"), [((200, 300, 300), (128, 128, 128)), ((5, 6, 7), (40, 56, 40)), ((80, 500, 500), (512, 512))]
)
def test_chunks_fit_patch_and_cache(shape, patch):
    chunk, block = chunk_shapes(shape, patch)
    edges = (shape[0], *patch) if len(patch) == 2 else tuple(max(edge, 64) for edge in patch)
    assert all(1 <= b <= c <= min(n, p) for b, c, n, p in zip(block, chunk, shape, edges, strict=True))
    assert len(patch) == 3 or block[0] == 1
    assert prod(chunk) <= 2**18
    assert prod(block) <= 2**13


def test_a_map_of_the_first_stage_is_read_in_part_and_refused_when_it_was_exchanged(tmp_path):
    predicted = np.random.default_rng(0).integers(0, 3, SHAPE).astype(np.uint8)
    files = Workspace(tmp_path).previous_map("c", "a.b")
    record = PreviousMap(
        name="a.b", inputs_sha256="x", map_sha256="y", configuration_name="low", fold=2, weights_sha256="z"
    )
    write_map(files, predicted, record, (4, 32, 32))
    assert read(files.record, PreviousMap) == record
    stored = ForkingPickler.loads(ForkingPickler.dumps(StoredMap(files.map, "y", SHAPE)))
    box = (slice(2, 7), slice(1, 33), slice(40, 65))
    assert stored[box].dtype == np.int16
    np.testing.assert_array_equal(stored[box], predicted[box])
    assert is_whole(files, "y")
    with pytest.raises(ArtifactError, match="exchanged"):
        StoredMap(files.map, "another", SHAPE)[box]
    files.map.write_bytes(files.map.read_bytes()[:-100])
    assert not is_whole(files, "y")
    leftover = files.map.with_name(f".{files.map.name}.abcd.part")
    leftover.touch()
    remove_leftovers([files])
    assert not leftover.exists()
