"""A folder of DICOM slices -> the volume that they came from, or one error that names the folder."""

import numpy as np
import pytest

from autoseg.errors import DatasetError
from autoseg.images.dicom import storage_class
from autoseg.images.io import read_geometry, read_image, read_label

C, S = np.cos(0.3), np.sin(0.3)
OBLIQUE = np.array([[C, -S, 0], [S, C, 0], [0, 0, 1]]) @ np.array([[1, 0, 0], [0, S, -C], [0, C, S]])
VOLUME = np.random.default_rng(0).integers(-1000, 3000, (6, 7, 8)).astype(np.int16)


def refusal(folder, read=read_image):
    with pytest.raises(DatasetError) as caught:
        read([folder], case="p7")
    assert "case p7" in caught.value.where
    assert str(folder) in caught.value.where
    return str(caught.value)


@pytest.mark.parametrize("name", ["{:03d}.dcm", "IM{:04d}", "{:d}.IMA"])
@pytest.mark.parametrize("direction", [np.eye(3), OBLIQUE], ids=["straight", "oblique"])
def test_slices_make_the_volume_they_came_from(tmp_path, write_dicom, direction, name):
    folder = write_dicom(tmp_path / "p7", VOLUME, direction=direction, name=name, rescale=(1, -1024))
    image = read_image([folder], case="p7")
    assert image.array_czyx.dtype == np.float32
    assert np.array_equal(image.array_czyx[0], VOLUME)
    assert image.geometry == read_geometry([folder], case="p7")
    assert image.geometry.shape == VOLUME.shape
    assert image.geometry.num_dimensions == 3
    np.testing.assert_allclose(image.geometry.spacing_mm, (2.5, 0.75, 0.5), rtol=1e-6)
    np.testing.assert_allclose(image.geometry.origin_mm, (-12.5, 30.25, 7.0), atol=1e-6)
    np.testing.assert_allclose(np.reshape(image.geometry.direction, (3, 3)), direction, atol=1e-7)


def test_slices_that_run_against_the_normal_are_turned(tmp_path, write_dicom):
    mirrored = np.diag([1.0, 1.0, -1.0])
    image = read_image([write_dicom(tmp_path / "p7", VOLUME, direction=mirrored)], case="p7")
    assert np.array_equal(image.array_czyx[0], VOLUME[::-1])
    np.testing.assert_allclose(image.geometry.origin_mm, (-12.5, 30.25, 7.0 - 5 * 2.5), atol=1e-6)
    assert image.geometry.direction == (1, 0, 0, 0, 1, 0, 0, 0, 1)


def test_each_slice_has_a_slope_of_its_own(tmp_path, write_dicom):
    values = VOLUME * 0.25
    slopes = [1, 0.25, 0.25, 0.5, 0.125, 0.0625]
    values[0] = np.rint(values[0])
    values[3] = np.rint(values[3])
    folder = write_dicom(tmp_path / "p7", values, change=lambda k: {"0028|1053": str(slopes[k]), "0028|1052": str(-k)})
    assert np.array_equal(read_image([folder], case="p7").array_czyx[0], values)


def test_positions_may_be_rounded(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p7", VOLUME, change=lambda k: {"0020|0032": f"0\\0\\{round(0.625 * k, 1)}"})
    assert read_geometry([folder], case="p7").spacing_mm[0] == pytest.approx(0.62)


def test_folders_below_and_other_files_do_not_disturb(tmp_path, write_dicom):
    folder = tmp_path / "p7"
    write_dicom(folder / "study" / "CT", VOLUME)
    (folder / "report.txt").write_text("nothing")
    (folder / "._001.dcm").write_bytes(b"\0" * 200)
    directory = b"\0" * 128 + b"DICM\x02\x00\x02\x00UI\x14\x00" + b"1.2.840.10008.1.3.10"
    (folder / "DICOMDIR").write_bytes(directory)
    assert np.array_equal(read_image([folder], case="p7").array_czyx[0], VOLUME)


def test_one_of_several_series_is_named_by_its_uid(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p7", VOLUME)
    write_dicom(folder, VOLUME[:4] + 1, uid="1.2.9", number=11, description="Lung", name="b{}")
    image = read_image([tmp_path / "p7#1.2.9"], case="p7")
    assert np.array_equal(image.array_czyx[0], VOLUME[:4] + 1)
    message = refusal(folder)
    assert "several DICOM series" in message
    assert "1.2.3 (6 files, CT, number 3, Thorax 1.0 B31f); 1.2.9 (4 files, CT, number 11, Lung)" in message
    assert f"{folder}#1.2.3" in message
    with pytest.raises(DatasetError, match=r"no such DICOM series(.|\n)*1\.2\.9 \(4 files"):
        read_image([tmp_path / "p7#7.7"], case="p7")


def test_a_missing_slice_is_found_by_its_place(tmp_path, write_dicom):
    message = refusal(write_dicom(tmp_path / "p7", VOLUME, keep=lambda k: k != 2))
    assert "5 mm between" in message
    assert "2.5 mm are usual: a slice is missing" in message
    # A missing slice at the end leaves a smaller volume, which nothing gives away.
    folder = write_dicom(tmp_path / "p8", VOLUME, keep=lambda k: k != 5)
    assert read_geometry([folder], case="p8").shape == (5, 7, 8)


def test_two_volumes_in_one_series_are_refused(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p7", VOLUME)
    write_dicom(folder, VOLUME, name="later{}")
    assert "2 slices at one position" in refusal(folder, read_geometry)


def test_copies_of_one_slice_are_refused(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p7", VOLUME[:1])
    (folder / "copy").write_bytes((folder / "000.dcm").read_bytes())
    assert "000.dcm and copy" in refusal(folder).replace("copy and 000.dcm", "000.dcm and copy")


@pytest.mark.parametrize(
    ("changed", "found"),
    [
        ({"0020|0037": "1\\0\\0\\0\\0\\-1"}, "different orientation"),
        ({"0020|0032": "9\\30\\17"}, "gantry was tilted"),
    ],
)
def test_slices_that_do_not_fit_are_named(tmp_path, write_dicom, changed, found):
    folder = write_dicom(tmp_path / "p7", VOLUME, change=lambda k: changed if k == 4 else {})
    assert found in refusal(folder)


def test_slices_of_different_shape_and_colour(tmp_path, write_dicom):
    folder = write_dicom(tmp_path / "p7", VOLUME)
    write_dicom(folder, VOLUME[:1, :5], name="small", origin_mm=(0, 0, -30))
    message = refusal(folder)
    assert "8x7 pixels of 0.5x0.75 mm" in message
    assert "small 8x5 pixels" in message
    folder = write_dicom(tmp_path / "p9", VOLUME, keep=lambda k: k != 4)
    write_dicom(folder, VOLUME, keep=lambda k: k == 4, spacing_mm=(2.5, 0.75, 0.51))
    assert "different size" in refusal(folder)
    colour = np.zeros((1, 4, 5, 3), np.uint8)
    bits = {"0028|0100": "8", "0028|0101": "8", "0028|0102": "7", "0028|0103": "0"}
    assert "colour" in refusal(write_dicom(tmp_path / "p8", colour, change=lambda k: bits))


def test_many_frames_in_one_file_are_refused(tmp_path):
    import SimpleITK

    image = SimpleITK.GetImageFromArray(VOLUME)
    image.SetMetaData("0008|0060", "MR")
    (tmp_path / "p7").mkdir()
    SimpleITK.WriteImage(image, str(tmp_path / "p7" / "all.dcm"))
    assert "many frames" in refusal(tmp_path / "p7")


@pytest.mark.parametrize(
    ("uid", "found"),
    [
        ("1.2.840.10008.5.1.4.1.1.66.4", "DICOM-SEG"),
        ("1.2.840.10008.5.1.4.1.1.481.3", "RTSTRUCT"),
        ("1.2.840.10008.5.1.4.1.1.88.22", "without a picture"),
    ],
)
def test_dicom_without_a_picture_is_called_by_its_name(tmp_path, uid, found):
    folder = tmp_path / "p7"
    folder.mkdir()
    value = uid.encode() + b"\0" * (len(uid) % 2)
    version = b"\x02\x00\x01\x00OB\x00\x00\x02\x00\x00\x00\x00\x01"
    group = version + b"\x02\x00\x02\x00UI" + len(value).to_bytes(2, "little") + value
    (folder / "1.dcm").write_bytes(b"\0" * 128 + b"DICM" + group)
    assert storage_class(folder / "1.dcm") == uid
    message = refusal(folder)
    assert "there is no DICOM image" in message
    assert found in message


def test_an_empty_folder_and_a_damaged_slice(tmp_path, write_dicom, capfd):
    (tmp_path / "p7").mkdir()
    (tmp_path / "p7" / "notes.txt").write_text("x" * 200)
    assert "no DICOM file" in refusal(tmp_path / "p7")
    file = write_dicom(tmp_path / "p8", VOLUME) / "003.dcm"
    file.write_bytes(file.read_bytes()[:-9])
    assert "003.dcm is no whole DICOM image" in refusal(tmp_path / "p8")
    assert capfd.readouterr() == ("", "")


def test_labels_and_channels_may_be_dicom_too(tmp_path, write_dicom):
    labels = np.arange(VOLUME.size).reshape(VOLUME.shape).astype(np.int16) % 3
    folder = write_dicom(tmp_path / "a", labels)
    assert np.array_equal(read_label(folder, case="p7").array_zyx, labels)
    image = read_image([write_dicom(tmp_path / "b", VOLUME), folder], case="p7")
    assert np.array_equal(image.array_czyx, [VOLUME, labels])


def test_one_file_is_a_scan_of_one_slice(tmp_path, write_dicom):
    file = write_dicom(tmp_path, VOLUME[:1], change=lambda k: {"0018|0050": "4"}) / "000.dcm"
    image = read_image([file], case="p7")
    assert np.array_equal(image.array_czyx[0], VOLUME[:1])
    (tmp_path / "bare").write_bytes(file.read_bytes())
    assert read_geometry([tmp_path / "bare"], case="p7") == image.geometry
