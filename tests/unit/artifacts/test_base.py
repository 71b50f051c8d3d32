"""Records on disk: written whole or not at all, refused where they break the rules."""

import stat
import subprocess
import sys
from typing import Annotated, ClassVar

import msgspec
import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import Artifact, Record, atomic_path, decode, digest, encode, field_names, read, write
from autoseg.artifacts.dataset import Dataset
from autoseg.artifacts.fingerprint import Fingerprint
from autoseg.artifacts.plan import Augmentation, Plan, Training
from autoseg.artifacts.splits import Fold, Splits
from autoseg.errors import ArtifactError


class Part(Record, frozen=True, kw_only=True):
    learning_rate: Annotated[float, msgspec.Meta(gt=0)] = 0.5


class Note(Artifact, frozen=True, kw_only=True):
    newest_schema: ClassVar[int] = 2
    text: str
    parts: dict[str, Part] = msgspec.field(default_factory=dict)
    factor: float = 1.0


def text_of(**content):
    return msgspec.json.encode({"text": "a", **content})


def test_an_atomic_file_appears_whole_under_its_name(tmp_path):
    path = tmp_path / "deep" / "down" / "scan.nii.gz"
    with atomic_path(path) as temporary:
        assert temporary.parent == path.parent
        assert temporary.name.endswith(".nii.gz")
        temporary.write_bytes(b"whole")
        assert not path.exists()
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


def test_an_atomic_file_may_be_read_by_others_as_any_file(tmp_path):
    usual = tmp_path / "usual"
    usual.write_text("")
    write(tmp_path / "note.json", Note(text="a"))
    assert stat.S_IMODE((tmp_path / "note.json").stat().st_mode) == stat.S_IMODE(usual.stat().st_mode)


UNDER_A_MASK = """
import os, stat, sys, threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from autoseg.artifacts.base import atomic_path
sys.setswitchinterval(1e-6)
os.umask(0o027)
def fill(number):
    with atomic_path(Path(sys.argv[1], str(number))) as temporary:
        temporary.write_bytes(b"")
with ThreadPoolExecutor(16) as threads:
    list(threads.map(fill, range(300)))
modes = {stat.S_IMODE(path.stat().st_mode) for path in Path(sys.argv[1]).iterdir()}
print(sorted(map(oct, modes)), oct(os.umask(0)))
"""


def test_threads_that_write_at_once_keep_the_mask_of_the_process(tmp_path):
    done = subprocess.run([sys.executable, "-c", UNDER_A_MASK, tmp_path], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['0o640'] 0o27"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
@pytest.mark.parametrize("old", [None, b"old"])
def test_an_exception_while_writing_leaves_what_was_there(tmp_path, error, old):
    path = tmp_path / "plan.json"
    if old is not None:
        path.write_bytes(old)

    def fail_halfway():
        with atomic_path(path) as temporary:
            temporary.write_bytes(b"half")
            raise error

    with pytest.raises(error):
        fail_halfway()
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if old is None else [old])


def test_a_file_in_the_place_of_the_folder_is_explained(tmp_path):
    (tmp_path / "w").write_text("in the way")
    with pytest.raises(ArtifactError, match="can't be written") as caught:
        write(tmp_path / "w" / "note.json", Note(text="a"))
    assert str(tmp_path / "w" / "note.json") in str(caught.value)


def test_what_is_written_is_read(tmp_path, build_plan, build_dataset, build_fingerprint):
    dataset = build_dataset()
    artifacts = [
        (dataset, Dataset),
        (build_fingerprint(dataset), Fingerprint),
        (build_plan(), Plan),
        (Splits(inputs_sha256="0", method="m", folds=(Fold(training=("a",), validation=("ß",)),)), Splits),
        (Note(text='quote " and \n', parts={"x.y": Part(learning_rate=1e-300)}, factor=0.1 + 0.2), Note),
    ]
    for artifact, kind in artifacts:
        assert decode(encode(artifact), kind, where="here") == artifact
        write(tmp_path / "a.json", artifact)
        assert read(tmp_path / "a.json", kind) == artifact


def test_an_unknown_key_names_the_nearest_and_the_file(tmp_path):
    path = tmp_path / "note.json"
    path.write_bytes(text_of(factr=2.0))
    with pytest.raises(ArtifactError, match="unknown key 'factr'") as caught:
        read(path, Note)
    assert "did you mean 'factor'?" in str(caught.value)
    assert str(path) in str(caught.value)


def test_an_unknown_key_deep_inside_is_named_with_its_path(build_plan):
    tree = msgspec.to_builtins(build_plan())
    tree["training"]["augmentation"]["gama"] = [0.7, 1.5]
    with pytest.raises(ArtifactError, match=r"unknown key 'training\.augmentation\.gama'") as caught:
        decode(msgspec.json.encode(tree), Plan, where="plan.json")
    assert "'gamma'" in str(caught.value)


def test_a_key_like_no_other_is_to_be_removed():
    with pytest.raises(ArtifactError, match="remove it"):
        decode(text_of(qqqq=1), Note, where="here")


def test_a_newer_schema_is_refused_and_the_newest_known_read():
    with pytest.raises(ArtifactError, match="newer autoseg") as caught:
        decode(text_of(schema_version=3, from_the_future=1), Note, where="here")
    assert "schema_version 3" in str(caught.value)
    assert "upgrade" in str(caught.value)
    assert decode(text_of(schema_version=2), Note, where="here") == Note(text="a", schema_version=2)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"parts": {"x": {"learning_rate": 0}}}, "> 0"),
        ({"factor": "high"}, r"\$\.factor"),
        ({"text": 1}, r"\$\.text"),
        ({"factor": None}, r"\$\.factor"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_its_place(content, told):
    with pytest.raises(ArtifactError, match=told) as caught:
        decode(text_of(**content), Note, where="here.json")
    assert "not allowed" in str(caught.value)
    assert "here.json" in str(caught.value)


def test_what_is_no_json_is_refused():
    with pytest.raises(ArtifactError, match="not valid JSON"):
        decode(b'{"text": ', Note, where="here")
    with pytest.raises(ArtifactError, match="not allowed"):
        decode(b"[]", Note, where="here")


def test_a_missing_file_is_explained(tmp_path):
    with pytest.raises(ArtifactError, match="can't be read"):
        read(tmp_path / "none.json", Note)


@pytest.mark.parametrize(
    "training", [Training(epochs=0), Training(gradient_clip=float("nan")), Training(foreground_share=1.5)]
)
def test_a_record_that_breaks_its_own_bounds_is_not_written(tmp_path, build_plan, training):
    path = tmp_path / "plan.json"
    with pytest.raises(ArtifactError, match="not allowed"):
        write(path, replace(build_plan(), training=training))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"patch_size": (8, 8, 9)}, r"patch_size\[2\] = 9 does not divide"),
        ({"n_stages": 3}, "strides has 2 entries.* 3"),
        ({"spacing": (1.0, 1.0)}, "spacing has 2 entries"),
        ({"kernel_sizes": ((3, 3, 3), (2, 3, 3))}, "odd"),
        ({"strides": ((1, 1), (2, 2))}, "need 3 numbers"),
        ({"patch_size": (8, 8), "spacing": (1.0, 1.0), "median_image_size_in_voxels": (8.0, 8.0)}, "need 2 numbers"),
        ({"mirror_axes": (3,)}, "mirror_axes"),
        ({"strides": ((2, 2, 2), (1, 1, 1))}, r"strides\[0\]"),
    ],
)
def test_fields_of_a_configuration_are_held_against_each_other(build_configuration, change, told):
    with pytest.raises(ValueError, match=told):
        build_configuration(**change)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"transpose_backward": (1, 0, 2)}, "does not undo"),
        ({"labels": {"blob": 1}}, "background"),
        ({"channel_names": ("a", "b")}, "2 channels"),
    ],
)
def test_parts_of_a_plan_are_held_against_each_other(build_plan, change, told):
    with pytest.raises(ValueError, match=told):
        build_plan(**change)


@pytest.mark.parametrize("change", [{"gamma": (1.5, 0.7)}, {"scaling": (0.0, 1.0)}])
def test_a_range_the_wrong_way_round_is_refused(change):
    with pytest.raises(ValueError, match=next(iter(change))):
        Augmentation(**change)


def test_every_key_at_any_depth_is_known():
    assert field_names(Note) == {"schema_version", "text", "parts", "factor", "learning_rate"}
    assert {"patch_size", "epochs", "gamma", "force_separate_z", "percentile_99_5"} <= field_names(Plan)


def test_a_digest_depends_on_every_part_and_its_borders():
    whole = digest("ab", "c")
    assert len(whole) == 64
    assert whole == digest("ab", b"c")
    assert len({whole, digest("a", "bc"), digest("abc"), digest("c", "ab"), digest("ab", "c", "")}) == 5
    assert digest(Part()) != digest(Part(learning_rate=0.25))
