"""Datasets with one thing wrong: each gives the right cases, or one error that names the file and the way out."""

import json
import shutil
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest
from click.testing import CliRunner

from autoseg.artifacts.geometry import Geometry
from autoseg.cli import main
from autoseg.datasets.layouts import find_dataset
from autoseg.images.io import write_label

GRID = Geometry(shape=(2, 4, 5), spacing_mm=(2, 1, 1))
CASES = ("ada", "bob", "cyd", "dan")
ABOUT = {"channel_names": {"0": "T1", "1": "T2"}, "labels": {"background": 0, "a": 1, "b": 2}, "numTraining": 4}


def volume(file, values=(1, 2)):
    """A small label map, which also does as an image."""
    array = np.zeros(GRID.shape, np.int64)
    array.flat[: len(values)] = values
    file.parent.mkdir(parents=True, exist_ok=True)
    write_label(file, array, GRID)
    return file


def fractional(file, value=0.5):
    import SimpleITK

    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(np.full(GRID.shape, value, np.float32)), str(file))


def picture(file, values):
    file.parent.mkdir(parents=True, exist_ok=True)
    array = np.zeros((16, 17), np.uint8)
    array.flat[: len(values)] = values
    iio.imwrite(file, array)


def described(root, **changes):
    """nnU-Net's layout, two channels."""
    for case in CASES:
        volume(root / f"imagesTr/{case}_0000.nii.gz")
        volume(root / f"imagesTr/{case}_0001.nii.gz")
        volume(root / f"labelsTr/{case}.nii.gz")
    (root / "dataset.json").write_text(json.dumps({**ABOUT, **changes}))
    return root


def folders(root, image="{}_ct.nii.gz", label="{}_seg.nii.gz"):
    """Two plain folders."""
    for case in CASES:
        volume(root / "images" / image.format(case))
        volume(root / "labels" / label.format(case))
    return root


def listed(root, lines=(), header="case,image,label", name="list.csv"):
    """A list, and the files of two plain folders beside it."""
    folders(root)
    rows = [f"{case},images/{case}_ct.nii.gz,labels/{case}_seg.nii.gz" for case in CASES]
    (root / name).write_text("\n".join([header, *rows, *lines]), encoding="utf-8")
    return root / name


def pictures(root, values):
    for number, case in enumerate(CASES):
        picture(root / f"images/{case}.png", range(200))
        picture(root / f"labels/{case}.png", values[number % len(values)])
    return root


def bids(root):
    for case in CASES:
        volume(root / f"sub-{case}/anat/sub-{case}_T1w.nii.gz")
    return root


def per_case(root):
    for case in CASES:
        for part in ("t1", "flair", "seg"):
            volume(root / case / f"{case}_{part}.nii.gz")
    return root


# What is wrong -> arguments of `autoseg plan` behind RAW, or none.


def missing_channel(root):
    described(root)
    (root / "imagesTr/bob_0001.nii.gz").unlink()


def extra_channel(root):
    described(root)
    volume(root / "imagesTr/bob_0002.nii.gz")


def missing_label(root):
    described(root)
    (root / "labelsTr/bob.nii.gz").unlink()


def label_without_image(root):
    folders(root)
    (root / "images/bob_ct.nii.gz").unlink()


def misspelt_suffix(root):
    folders(root)
    (root / "images/bob_ct.nii.gz").rename(root / "images/bob_tc.nii.gz")


def misspelt_label_suffix(root):
    folders(root)
    (root / "labels/bob_seg.nii.gz").rename(root / "labels/bob_sge.nii.gz")


def misspelt_case(root):
    folders(root)
    (root / "labels/bob_seg.nii.gz").rename(root / "labels/bbo_seg.nii.gz")


def duplicated_case(root):
    folders(root)
    volume(root / "images/bob_ct.nii")


def numbered_and_not(root):
    described(root, channel_names={"0": "T1"})
    for case in CASES:
        (root / f"imagesTr/{case}_0001.nii.gz").unlink()
    volume(root / "imagesTr/bob.nii.gz")


def empty_folder(root):
    root.mkdir()


def empty_images(root):
    folders(root)
    shutil.rmtree(root / "images")
    (root / "images").mkdir()


def swapped_options(root):
    folders(root)
    return ["--images", root / "labels", "--labels", root / "images", "--channels", "CT"]


def swapped_contents(root):
    folders(root)
    for case in CASES:
        fractional(root / f"images/{case}_ct.nii.gz")
    (root / "images").rename(root / "other")
    (root / "labels").rename(root / "images")
    (root / "other").rename(root / "labels")
    return [root, "--channels", "CT"]


def label_among_images(root):
    folders(root)
    volume(root / "images/bob_seg.nii.gz")


def broken_json(root):
    described(root)
    (root / "dataset.json").write_text('{"labels": ')


def misspelt_key(root):
    described(root)
    text = (root / "dataset.json").read_text()
    (root / "dataset.json").write_text(text.replace("channel_names", "channel_name"))


def labels_as_list(root):
    described(root, labels=["background", "a"])


def too_many_channel_names(root):
    described(root, channel_names={"0": "T1", "1": "T2", "2": "T3"})


def too_many_channels_wished(root):
    folders(root)
    return [root, "--channels", "CT,PET"]


def label_value_without_a_name(root):
    described(root)
    volume(root / "labelsTr/bob.nii.gz", (1, 7))
    return [root, "--jobs", 1]


def more_values_than_names(root):
    pictures(root, [(7, 9), (128, 255)])
    return [root, "--label-names", "cell,nucleus"]


def negative_values(root):
    folders(root)
    fractional(root / "images/bob_ct.nii.gz", -1000)
    fractional(root / "labels/bob_seg.nii.gz", -1)
    return [root, "--channels", "CT"]


def fractional_values(root):
    folders(root)
    fractional(root / "images/bob_ct.nii.gz", -1000)
    fractional(root / "labels/bob_seg.nii.gz")
    return [root, "--channels", "CT"]


def smoothed_masks(root):
    pictures(root, [(255,), range(0, 256, 4), (255,)])
    picture(root / "labels/bob.png", [*range(0, 256, 4), 255])


def compressed_masks(root):
    pictures(root, [(255,), (1, 2, 254, 255)])


def coloured_masks(root):
    pictures(root, [(1,)])
    array = np.zeros((16, 17, 3), np.uint8)
    array[0, 0] = (255, 0, 0)
    iio.imwrite(root / "labels/bob.png", array)


def jpeg_labels(root):
    pictures(root, [(255,)])
    picture(root / "labels/bob.jpg", (255,))
    (root / "labels/bob.png").unlink()


def dangling_link(root):
    folders(root)
    (root / "images/bob_ct.nii.gz").unlink()
    (root / "images/bob_ct.nii.gz").symlink_to("annexed.nii.gz")


def too_deep(root):
    described(root / "Dataset001" / "data")


def one_folder_too_few(root):
    folders(root)
    (root / "labels").rename(root / "gt_labels_final")


def flat(root):
    for case in CASES:
        volume(root / f"{case}_ct.nii.gz")
        volume(root / f"{case}_seg.nii.gz")


def regions_without_order(root):
    described(root, labels={"background": 0, "whole": [1, 2], "b": 2})


def ignore_not_highest(root):
    described(root, labels={"background": 0, "ignore": 1, "b": 2})


def two_names_for_a_value(root):
    described(root, labels={"background": 0, "a": 1, "b": 1})


def an_image_as_raw(root):
    folders(root)
    return [root / "images/bob_ct.nii.gz"]


def a_spreadsheet_as_raw(root):
    root.mkdir()
    (root / "cases.xlsx").write_bytes(b"PK")
    return [root / "cases.xlsx"]


def misspelt_raw(root):
    folders(root)
    return [root.parent / "rwa"]


def list_with_a_missing_file(root):
    return [listed(root, ["eve,images/bob_c.nii.gz,labels/bob_seg.nii.gz"])]


def list_with_a_case_twice(root):
    return [listed(root, ["bob,images/bob_ct.nii.gz,labels/bob_seg.nii.gz"])]


def list_with_an_image_twice(root):
    return [listed(root, ["eve,images/../images/bob_ct.nii.gz,labels/ada_seg.nii.gz"])]


def list_with_a_misspelt_column(root):
    return [listed(root, header="case,image,lable")]


def list_with_a_misspelt_channel(root):
    return [listed(root, header="case,imge_CT,label")]


def list_without_labels(root):
    return [listed(root, header="case,image,truth")]


def list_with_an_empty_cell(root):
    return [listed(root, ["eve,images/bob_ct.nii.gz,"])]


def list_with_a_comma_too_many(root):
    return [listed(root, ["eve,images/a,b.nii.gz,labels/bob_seg.nii.gz"])]


def list_in_another_encoding(root):
    file = listed(root)
    file.write_bytes(file.read_bytes() + "\nJürgen,a.nii.gz,b.nii.gz".encode("latin-1"))
    return [file]


def list_with_an_unfit_file(root):
    (root / "images").mkdir(parents=True)
    (root / "images/eve.doc").touch()
    return [listed(root, ["eve,images/eve.doc,labels/bob_seg.nii.gz"])]


def list_with_nothing_in_it(root):
    root.mkdir()
    (root / "list.csv").touch()
    return [root / "list.csv"]


def json_that_lists_nothing(root):
    described(root)
    return [root / "dataset.json"]


def json_list_with_a_number_for_a_file(root):
    folders(root)
    (root / "list.json").write_text(json.dumps([{"image": 7, "label": "labels/bob_seg.nii.gz"}]))
    return [root / "list.json"]


def bids_without_derivatives(root):
    bids(root)


def bids_with_two_kinds_of_labels(root):
    bids(root)
    for case in CASES:
        volume(root / f"derivatives/manual/sub-{case}/anat/sub-{case}_dseg.nii.gz")
        volume(root / f"derivatives/lesions/sub-{case}/anat/sub-{case}_label-lesion_mask.nii.gz")


def bids_with_a_channel_missing(root):
    bids(root)
    for case in CASES:
        volume(root / f"derivatives/manual/sub-{case}/anat/sub-{case}_dseg.nii.gz")
        if case != "bob":
            volume(root / f"sub-{case}/anat/sub-{case}_FLAIR.nii.gz")


def per_case_without_a_channel(root):
    per_case(root)
    (root / "bob/bob_flair.nii.gz").unlink()


def per_case_without_a_label(root):
    per_case(root)
    (root / "bob/bob_seg.nii.gz").unlink()


def per_case_with_two_labels(root):
    per_case(root)
    volume(root / "bob/bob_mask.nii.gz")


def no_group(root):
    folders(root)
    return [root, "--channels", "CT", "--group-by", "^([ac].*)$"]


def no_expression(root):
    folders(root)
    return [root, "--channels", "CT", "--group-by", "(a"]


@pytest.mark.parametrize(
    ("spoil", "file", "fix"),
    [
        (missing_channel, "case bob in", "add bob_0001"),
        (extra_channel, "bob_0002.nii.gz", "remove bob_0002.nii.gz"),
        (missing_label, "case bob", "add the label"),
        (label_without_image, "case bob", "add the image"),
        (misspelt_suffix, "images/bob_tc.nii.gz", "rename it, perhaps to bob_ct.nii.gz"),
        (misspelt_label_suffix, "labels/bob_sge.nii.gz", "rename it, perhaps to bob_seg.nii.gz"),
        (misspelt_case, "case bob", "the closest to bob are bbo"),
        (duplicated_case, "bob_ct.nii and bob_ct.nii.gz", "remove one of the two"),
        (numbered_and_not, "bob.nii.gz, bob_0000.nii.gz", "remove bob.nii.gz"),
        (empty_folder, "raw", "image.nii.gz"),
        (empty_images, "raw/images", "files ending in .nii.gz"),
        (swapped_options, "raw/labels", "autoseg plan --images {root}/images --labels {root}/labels"),
        (swapped_contents, "labels/ada_ct.nii.gz", "--images {root}/labels --labels {root}/images"),
        (label_among_images, "images/bob_seg.nii.gz", "remove bob_seg.nii.gz from"),
        (broken_json, "raw/dataset.json", "check the path and the file"),
        (misspelt_key, "dataset.json, channel_name", "did you mean channel_names?"),
        (labels_as_list, "dataset.json, labels", '{"background": 0, "tumour": 1}'),
        (too_many_channel_names, "ada_0000.nii.gz, imagesTr/ada_0001.nii.gz", "a name for each channel"),
        (too_many_channels_wished, "images/ada_ct.nii.gz", "a name for each channel"),
        (label_value_without_a_name, "labelsTr/bob.nii.gz", "name the value under labels in dataset.json"),
        (more_values_than_names, "case bob, which holds 255", "a name for each value"),
        (negative_values, "labels/bob_seg.nii.gz", "0 to 65535"),
        (fractional_values, "labels/bob_seg.nii.gz", "nearest neighbour"),
        (smoothed_masks, "labels/bob.png", "set what is above 127 to 255"),
        (compressed_masks, "labels/bob.png", "stored as JPEG"),
        (coloured_masks, "labels/bob.png", "numpy.unique"),
        (jpeg_labels, "labels/bob.jpg", "PNG"),
        (dangling_link, "images/bob_ct.nii.gz", "remove the link"),
        (too_deep, "Dataset001/", "autoseg plan {root}/Dataset001/data"),
        (one_folder_too_few, "gt_labels_final/", "--images {root}/images --labels {root}/gt_labels_final"),
        (flat, "ada_ct.nii.gz", "autoseg plan LIST.csv"),
        (regions_without_order, "raw/dataset.json", '"regions_class_order": [1, 2]'),
        (ignore_not_highest, "dataset.json, labels.ignore", "a value above 2"),
        (two_names_for_a_value, "raw/dataset.json", "another value"),
        (an_image_as_raw, "bob_ct.nii.gz", "autoseg plan {root}/images"),
        (a_spreadsheet_as_raw, "cases.xlsx", "CSV UTF-8"),
        (misspelt_raw, "rwa", "there is {root}"),
        (list_with_a_missing_file, "list.csv, line 6", "bob_ct.nii.gz"),
        (list_with_a_case_twice, "list.csv, line 6", "also in {root}/list.csv, line 3"),
        (list_with_an_image_twice, "bob_ct.nii.gz", "take one of the two lines out"),
        (list_with_a_misspelt_column, "list.csv, line 1, lable", "did you mean label?"),
        (list_with_a_misspelt_channel, "imge_CT", "did you mean image_CT?"),
        (list_without_labels, "list.csv, line 1: label", "case,image,label"),
        (list_with_an_empty_cell, "list.csv, line 6, label", "fill it"),
        (list_with_a_comma_too_many, "list.csv, line 6", "in quotes"),
        (list_in_another_encoding, "list.csv", "save it as UTF-8"),
        (list_with_an_unfit_file, "images/eve.doc", "files ending in .nii.gz"),
        (list_with_nothing_in_it, "list.csv", "case,image,label"),
        (json_that_lists_nothing, "dataset.json", "autoseg plan {root}"),
        (json_list_with_a_number_for_a_file, "list.json, 0, image", '"label": "a_seg.nii.gz"'),
        (bids_without_derivatives, "raw/derivatives", "autoseg plan {root} --labels DIR"),
        (bids_with_two_kinds_of_labels, "derivatives/lesions/label-lesion_mask (4", "--labels {root}/derivatives/"),
        (bids_with_a_channel_missing, "case sub-bob", "--channels T1w"),
        (per_case_without_a_channel, "case bob in", "add bob/flair"),
        (per_case_without_a_label, "case bob in", "add the label"),
        (per_case_with_two_labels, "bob_mask.nii.gz", "autoseg plan LIST.csv"),
        (no_group, "case bob, dan", "a regular expression that matches every case's name"),
        (no_expression, "--group-by", "a regular expression"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)  # fmt: skip
def test_one_error_names_the_file_and_the_way_out(spoil, file, fix, tmp_path):
    root = tmp_path / "raw"
    arguments = spoil(root) or [root]
    done = CliRunner().invoke(main, ["plan", *map(str, arguments), "-w", str(tmp_path / "work")])
    assert done.exit_code == 1, done.output
    assert done.output.count("Error: ") == 1
    assert "Traceback" not in done.output
    assert file in done.output
    assert fix.replace("{root}", str(root)) in done.output
    assert not (tmp_path / "work").exists()


# What looks wrong and isn't -> how the dataset is found.


def mixed_endings(root):
    folders(root)
    (root / "images/bob_ct.nii.gz").unlink()
    volume(root / "images/bob_ct.mha")
    (root / "labels/cyd_seg.nii.gz").unlink()
    volume(root / "labels/cyd_seg.nrrd")


def upper_case_endings(root):
    folders(root)
    for file in [*root.glob("images/*"), *root.glob("labels/b*")]:
        file.rename(file.with_name(file.name.replace(".nii.gz", ".NII.GZ")))


def some_without_number(root):
    folders(root, image="{}_0000.nii.gz", label="{}.nii.gz")
    (root / "images/bob_0000.nii.gz").rename(root / "images/bob.nii.gz")


def hidden_files(root):
    folders(root)
    for name in ("images/._bob_ct.nii.gz", "labels/._bob_seg.nii.gz", "images/.DS_Store", "images/Thumbs.db"):
        (root / name).write_bytes(b"?")


def other_files(root):
    folders(root)
    (root / "images/readme.txt").touch()
    (root / "labels/colours.ctbl").touch()


def spaces_and_letters(root):
    folders(root, image="{} Müller ä_ct.nii.gz", label="{} Müller ä_seg.nii.gz")


def windows_list(root):
    file = listed(root)
    text = file.read_text(encoding="utf-8").replace(",", ";").replace("\n", "\r\n")
    file.write_bytes(b"\xef\xbb\xbf" + text.encode())
    return file


def list_with_blank_lines(root):
    return listed(root, ["", ",,"])


@pytest.mark.parametrize(
    "build",
    [
        mixed_endings,
        upper_case_endings,
        some_without_number,
        hidden_files,
        other_files,
        spaces_and_letters,
        windows_list,
        list_with_blank_lines,
    ],
)
def test_what_only_looks_wrong_is_paired_rightly(build, tmp_path):
    root = tmp_path / "raw"
    dataset = find_dataset(build(root) or root, channels=["CT"])
    assert [case.name.split(" ")[0] for case in dataset.cases] == list(CASES)
    for case in dataset.cases:
        (image,) = case.images
        name = case.name.split(" ")[0]
        assert Path(image).name.startswith(name)
        assert Path(case.label).name.startswith(name)
        assert (root / image).is_file()
        assert (root / case.label).is_file()
    assert dataset.labels == {"background": 0, "label_1": 1, "label_2": 2}


def test_another_number_of_cases_than_stated_is_told(tmp_path, caplog):
    dataset = find_dataset(described(tmp_path / "raw", numTraining=9))
    assert dataset.num_training == 9
    assert "dataset.json says numTraining = 9, but there are 4 cases" in caplog.text


@pytest.mark.parametrize(
    ("values", "names", "labels", "file_values"),
    [
        ([(255,)], None, {"background": 0, "label_255": 1}, (0, 255)),
        ([(255,), (128,)], ["cell", "nucleus"], {"background": 0, "cell": 1, "nucleus": 2}, (0, 128, 255)),
        ([(3, 9)], None, {"background": 0, "label_3": 1, "label_9": 2}, (0, 3, 9)),
        ([(1, 2)], ["cell", "ignore"], {"background": 0, "cell": 1, "ignore": 2}, ()),
    ],
)
def test_gaps_between_label_values_are_closed(values, names, labels, file_values, tmp_path, caplog):
    with caplog.at_level("INFO", logger="autoseg"):
        dataset = find_dataset(pictures(tmp_path / "raw", values), label_names=names)
    assert dataset.labels == labels
    assert dataset.file_values == file_values
    assert (f"label values {', '.join(map(str, file_values))} in the files are read as 0, 1" in caplog.text) == bool(
        file_values
    )
