"""A stamp changes with everything that is read for a case."""

import os

import pytest

from autoseg.artifacts.dataset import Case
from autoseg.artifacts.stamp import case_stamp, data_file, files_of, split_series


def test_a_slice_that_changes_changes_the_stamp_of_its_case(tmp_path):
    slices = [tmp_path / "p1" / name for name in ("1.dcm", "study/2.dcm", "study/series/3.dcm")]
    for file in slices:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(b"slice")
    for image in ("p1", "p1#1.2.3"):
        case = Case(name="p1", images=(image,))
        for file in slices:
            before = case_stamp(tmp_path, case)
            assert before == case_stamp(tmp_path, case)
            os.utime(file, ns=(0, file.stat().st_mtime_ns + 10**9))
            assert before != case_stamp(tmp_path, case)
    before = case_stamp(tmp_path, case)
    (tmp_path / "p1" / "4.dcm").write_bytes(b"")
    assert before != case_stamp(tmp_path, case)


def test_a_series_is_told_from_a_name_with_its_mark(tmp_path):
    (tmp_path / "a#1").mkdir()
    (tmp_path / "a#1" / "b").write_bytes(b"")
    assert split_series(tmp_path / "a#1") == (tmp_path / "a#1", None)
    assert split_series(tmp_path / "a#1#2.3") == (tmp_path / "a#1", "2.3")
    assert split_series(tmp_path / "none#2") == (tmp_path / "none#2", None)
    assert files_of(tmp_path / "a#1#2.3") == [tmp_path / "a#1" / "b"]
    assert files_of(tmp_path / "none") == []


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("a.mhd", "NDims = 3\nDimSize = 2 2 2\nElementType = MET_UCHAR\nElementDataFile = other.bin\n"),
        ("a.nrrd", "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 2 2 2\nencoding: raw\ndata file: other.bin\n\n"),
    ],
)
def test_voxels_that_lie_in_another_file_are_stamped(tmp_path, name, header):
    (tmp_path / name).write_text(header)
    (tmp_path / "other.bin").write_bytes(bytes(8))
    case = Case(name="a", images=(name,))
    before = case_stamp(tmp_path, case)
    assert before == case_stamp(tmp_path, case)
    os.utime(tmp_path / "other.bin", ns=(0, 1))
    assert before != case_stamp(tmp_path, case)
    assert data_file(tmp_path / name) == "other.bin"
