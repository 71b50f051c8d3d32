"""Folders -> Dataset: every layout is recognised, every malformed one is one error that names the case."""

import json
from pathlib import Path

import imageio.v3 as iio
import numpy as np
import pytest

from autoseg.artifacts.dataset import Naming
from autoseg.artifacts.geometry import Geometry
from autoseg.datasets.layouts import find_dataset, group_inputs
from autoseg.errors import DatasetError
from autoseg.images.io import write_label

REAL = Path(__file__).parents[4] / "shared" / "data"
GRID = Geometry(shape=(2, 3, 4), spacing_mm=(1, 1, 1))
NNUNET = {"channel_names": {"0": "CT"}, "labels": {"background": 0, "liver": 1}, "numTraining": 2}


def touch(root, *names):
    """Small label maps, which also do as images, or for pictures RGB images."""
    for name in names:
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        array = np.zeros(GRID.shape, int)
        array[0, 0, 1:3] = (1, 2)
        if file.suffix in (".png", ".bmp"):
            iio.imwrite(file, np.zeros((3, 4, 3), np.uint8) if "images" in name else array[0].astype(np.uint8))
        else:
            write_label(file, array, GRID)
    return root


def describe(root, description):
    root.mkdir(exist_ok=True)
    (root / "dataset.json").write_text(json.dumps(description))
    return root


def names_of(dataset):
    return [case.name for case in dataset.cases]


def refusal(call, *args, **options):
    with pytest.raises(DatasetError) as caught:
        call(*args, **options)
    return str(caught.value)


def test_nnunet_layout(tmp_path):
    touch(tmp_path, *(f"imagesTr/{c}_000{i}.nii.gz" for c in "ba" for i in (1, 0)), "labelsTr/a.nii.gz")
    touch(tmp_path, "labelsTr/b.nii.gz", "labelsTr/._b.nii.gz", "imagesTs/c_0000.nii.gz")
    describe(tmp_path, NNUNET | {"channel_names": {"0": "CT", "1": "PET"}, "numTraining": 7, "licence": "?"})
    dataset = find_dataset(tmp_path)
    assert names_of(dataset) == ["a", "b"]
    assert dataset.cases[1].images == ("imagesTr/b_0000.nii.gz", "imagesTr/b_0001.nii.gz")
    assert dataset.cases[1].label == "labelsTr/b.nii.gz"
    assert dataset.channel_names == ("CT", "PET")
    assert dataset.labels == {"background": 0, "liver": 1}
    assert dataset.num_training == 7
    assert dataset.naming == Naming(image_suffixes=("_0000.nii.gz", "_0001.nii.gz"), label_suffix=".nii.gz")


def test_older_nnunet_keys_and_names_without_channel_number(tmp_path):
    touch(tmp_path, "imagesTr/a_0001.nii.gz", "imagesTr/a_0002.nii.gz")
    touch(tmp_path, "labelsTr/a_0001.nii.gz", "labelsTr/a_0002.nii.gz")
    describe(tmp_path, {"modality": {"0": "MRI"}, "labels": {"0": "bg", "1": "x", "2": "y"}})
    dataset = find_dataset(tmp_path)
    assert names_of(dataset) == ["a_0001", "a_0002"]
    assert dataset.channel_names == ("MRI",)
    assert dataset.labels == {"background": 0, "x": 1, "y": 2}
    assert dataset.num_training == 2


def test_nnunet_pictures_hold_all_channels_in_one_file(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.png", "labelsTr/a.png")
    describe(tmp_path, NNUNET | {"channel_names": {"0": "R", "1": "G", "2": "B"}, "file_ending": ".png"})
    assert find_dataset(tmp_path).naming.image_suffixes == ("_0000.png",)


def test_decathlon_layout(tmp_path):
    touch(tmp_path, *(f"{kind}Tr/la_{n}.nii.gz" for kind in ("images", "labels") for n in (10, 3)))
    touch(tmp_path, "imagesTr/._la_3.nii.gz")
    listed = [
        {"image": f"./imagesTr/{n}.nii.gz", "label": f"./labelsTr/{n}.nii.gz"} for n in ("la_3", "la_10", "._la_3")
    ]
    describe(
        tmp_path,
        {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "x"}, "numTraining": 2, "training": listed},
    )
    dataset = find_dataset(tmp_path)
    assert names_of(dataset) == ["la_10", "la_3"]
    assert dataset.cases[1].images == ("imagesTr/la_3.nii.gz",)
    assert dataset.naming == Naming(image_suffixes=(".nii.gz",), label_suffix=".nii.gz")
    (tmp_path / "labelsTr/la_10.nii.gz").unlink()
    assert "case la_10" in refusal(find_dataset, tmp_path)


@pytest.mark.parametrize(
    ("images", "labels", "cases", "suffixes"),
    [
        (["pt_1_ct.nii.gz", "pt_11_ct.nii.gz"], ["pt_1_oar.nii.gz", "pt_11_oar.nii.gz"],
         ["pt_1", "pt_11"], ("_ct.nii.gz", "_oar.nii.gz")),
        (["STS_002_PET_image.nii", "STS_003_PET_image.nii"], ["STS_002_PET_mask.nii", "STS_003_PET_mask.nii"],
         ["STS_002_PET", "STS_003_PET"], ("_image.nii", "_mask.nii")),
        (["scan7.mha"], ["scan7_seg.nii.gz"], ["scan7"], (".mha", "_seg.nii.gz")),
        (["img_01.nii.gz", "img_02.nii.gz"], ["seg_01.nii.gz", "seg_02.nii.gz"],
         ["img_01", "img_02"], (".nii.gz", ".nii.gz")),
        (["a_0000.nii.gz", "b_0000.nii.gz"], ["a.nii.gz", "b.nii.gz"], ["a", "b"], ("_0000.nii.gz", ".nii.gz")),
        (["s_0000.nii.gz", "s_0001.nii.gz"], ["s_0000.nii.gz", "s_0001.nii.gz"],
         ["s_0000", "s_0001"], (".nii.gz", ".nii.gz")),
    ],
)  # fmt: skip
def test_plain_folders_are_matched_by_name(tmp_path, images, labels, cases, suffixes):
    touch(tmp_path / "images", *images)
    touch(tmp_path / "masks", *labels)
    dataset = find_dataset(tmp_path, channels=["CT"], label_names=["liver", "tumour"])
    assert names_of(dataset) == cases
    assert (*dataset.naming.image_suffixes, dataset.naming.label_suffix) == suffixes
    assert [case.images[0] for case in dataset.cases] == [f"images/{name}" for name in images]
    assert [case.label for case in dataset.cases] == [f"masks/{name}" for name in labels]
    assert dataset.labels == {"background": 0, "liver": 1, "tumour": 2}


def test_plain_folders_with_channel_numbers(tmp_path):
    touch(tmp_path / "x", "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz", "b_0001.nii.gz")
    touch(tmp_path / "y", "a_seg.nii.gz", "b_seg.nii.gz")
    dataset = find_dataset(None, images=tmp_path / "x", labels=tmp_path / "y", channels=["CT", "PET"])
    assert names_of(dataset) == ["a", "b"]
    assert dataset.naming == Naming(image_suffixes=("_0000.nii.gz", "_0001.nii.gz"), label_suffix="_seg.nii.gz")
    assert dataset.labels == {"background": 0, "label_1": 1, "label_2": 2}
    (tmp_path / "x/b_0001.nii.gz").unlink()
    message = refusal(find_dataset, None, images=tmp_path / "x", labels=tmp_path / "y", channels=["CT", "PET"])
    assert "case b" in message
    assert "b_0001" in message


def test_names_of_pictures_are_derived(tmp_path):
    touch(tmp_path, "images/1.bmp", "images/2.bmp", "labels/1.png", "labels/2.png")
    dataset = find_dataset(tmp_path)
    assert dataset.channel_names == ("R", "G", "B")
    assert dataset.labels == {"background": 0, "label_1": 1, "label_2": 2}
    assert dataset.naming == Naming(image_suffixes=(".bmp",), label_suffix=".png")


def test_a_volume_without_channel_names_asks_for_them(tmp_path):
    touch(tmp_path, "images/1.nii.gz", "labels/1.nii.gz")
    message = refusal(find_dataset, tmp_path)
    assert f"autoseg plan {tmp_path} --channels MRI" in message


@pytest.mark.parametrize(
    ("removed", "expected"),
    [
        ("imagesTr/b_0001.nii.gz", ["misses a channel", "case b", "b_0001"]),
        ("labelsTr/b.nii.gz", ["image has no label", "case b"]),
        ("imagesTr/b_000*.nii.gz", ["label has no image", "case b"]),
        ("imagesTr/*", ["no images", "imagesTr"]),
    ],
)
def test_incomplete_cases_are_named(tmp_path, removed, expected):
    touch(tmp_path, *(f"imagesTr/{c}_000{i}.nii.gz" for c in "abc" for i in (0, 1)))
    touch(tmp_path, *(f"labelsTr/{c}.nii.gz" for c in "abc"))
    describe(tmp_path, NNUNET | {"channel_names": {"0": "CT", "1": "PET"}})
    for file in tmp_path.glob(removed):
        file.unlink()
    message = refusal(find_dataset, tmp_path)
    assert all(part in message for part in expected), message


@pytest.mark.parametrize(
    ("removed", "expected"),
    [("images/p2_ct.nii.gz", ["label has no image", "case p2"]), ("labels/p2_seg.nii.gz", ["no label", "case p2"])],
)
def test_incomplete_pairs_are_named(tmp_path, removed, expected):
    touch(tmp_path, *(f"images/p{n}_ct.nii.gz" for n in (1, 2, 3)), *(f"labels/p{n}_seg.nii.gz" for n in (1, 2, 3)))
    (tmp_path / removed).unlink()
    message = refusal(find_dataset, tmp_path, channels=["CT"])
    assert all(part in message for part in expected), message


def test_missing_and_empty_folders(tmp_path):
    assert "does not exist" in refusal(find_dataset, tmp_path / "nowhere")
    assert "empty" in refusal(find_dataset, tmp_path)
    assert "no dataset is given" in refusal(find_dataset, None)
    assert "belong together" in refusal(find_dataset, None, images=tmp_path)
    (tmp_path / "stuff").mkdir()
    assert "--images DIR --labels DIR" in refusal(find_dataset, tmp_path)
    assert "--labels alone is for BIDS" in refusal(find_dataset, tmp_path, labels=tmp_path / "stuff")
    (tmp_path / "images").mkdir()
    (tmp_path / "labels").mkdir()
    assert "empty folder" in refusal(find_dataset, tmp_path)


def test_unknown_folders_are_proposed_by_what_they_hold(tmp_path):
    touch(tmp_path, "a/x/images/1.nii.gz", "a/x/labels/1.nii.gz")
    assert f"autoseg plan {tmp_path}/a/x" in refusal(find_dataset, tmp_path)
    touch(tmp_path, "b/ct/1.nii.gz", "b/gt/1.nii.gz")
    assert f"autoseg plan --images {tmp_path}/b/ct --labels {tmp_path}/b/gt" in refusal(find_dataset, tmp_path / "b")
    touch(tmp_path, "c/all/1.nii.gz")
    (tmp_path / "c/cases.csv").touch()
    assert f"autoseg plan {tmp_path}/c/cases.csv" in refusal(find_dataset, tmp_path / "c")


def test_groups_are_kept(tmp_path):
    touch(tmp_path, *(f"{kind}/{name}.nii.gz" for kind in ("images", "labels") for name in ("p1_a", "p1_b", "p2_a")))
    dataset = find_dataset(tmp_path, channels=["CT"], group_by="^p.")
    assert [case.group for case in dataset.cases] == ["p1", "p1", "p2"]


def test_nothing_matches_prints_the_closest_names(tmp_path):
    touch(
        tmp_path, *(f"images/{c}.nii.gz" for c in ("one", "two", "six", "ten")), "labels/x1.nii.gz", "labels/y7.nii.gz"
    )
    message = refusal(find_dataset, tmp_path, channels=["CT"])
    assert "no image belongs to a label" in message
    assert message.count(".nii.gz") == 4
    raw = describe(tmp_path / "raw", NNUNET)
    touch(raw, "imagesTr/liver-1_0000.nii.gz", "labelsTr/liver_1.nii.gz")
    message = refusal(find_dataset, raw)
    assert "liver-1_0000.nii.gz" in message
    assert "liver_1_0000.nii.gz" in message


def test_a_case_that_is_there_twice(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/a.mha", "labels/a.nii.gz")
    assert "case a" in refusal(find_dataset, tmp_path, channels=["CT"])


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"labels": {"background": 0, "whole": [1, 2]}}, '"regions_class_order": [1]'),
        ({"labels": {"background": 0, "w": [1, 2], "x": 2}, "regions_class_order": [1, 3]}, "no label's"),
        ({"labels": {"background": 0, "a": 1}, "regions_class_order": "1"}, "no list of label values"),
        ({"labels": {"background": 0, "a": 2, "ignore": 1}}, "labels.ignore"),
        ({"labels": {"background": 0, "a": 70000}}, "to 65535"),
        ({"labels": {"background": 3, "a": 1}}, "background must be 0"),
        ({"labels": {"background": 0, "a": 1.5}}, "no whole number"),
        ({"labels": {"background": 0, "a": 1, "b": 1}}, "two names to one value"),
        ({"labels": {"background": 0}}, "no label but the background"),
        ({"channel_names": {"1": "CT"}}, "not numbered"),
        ({"channel_names": {"0": "CT", "1": "PET"}}, "2 names (CT, PET) and 1 channels"),
    ],
)
def test_descriptions_that_cant_be_used(tmp_path, change, expected):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    assert expected in refusal(find_dataset, describe(tmp_path, NNUNET | change))


def test_a_description_that_is_no_json(tmp_path):
    (tmp_path / "dataset.json").write_text("{")
    assert "dataset.json" in refusal(find_dataset, tmp_path)


def test_images_and_labels_in_one_folder(tmp_path):
    touch(tmp_path, "a_ct.nii.gz", "a_seg.nii.gz")
    assert "lie in one folder" in refusal(find_dataset, None, images=tmp_path, labels=tmp_path)


def test_a_link_that_leads_nowhere_is_named(tmp_path):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    for link in (".#a_0000.nii.gz", "README", "b_0000.nii.gz"):
        (tmp_path / "imagesTr" / link).symlink_to("annexed")
    assert "b_0000.nii.gz" in refusal(find_dataset, describe(tmp_path, NNUNET))


def test_labels_of_background_alone(tmp_path):
    touch(tmp_path, "images/1.bmp", "labels/1.png")
    iio.imwrite(tmp_path / "labels/1.png", np.array([[0, 0]], np.uint8))
    assert "nothing but background" in refusal(find_dataset, tmp_path)


def test_stated_values_with_gaps_are_closed_and_told(tmp_path, caplog):
    touch(tmp_path, "imagesTr/a_0000.nii.gz", "labelsTr/a.nii.gz")
    labels = {"background": 0, "ignore": 255, "whole": [50, 20], "core": 50}
    with caplog.at_level("INFO", logger="autoseg"):
        dataset = find_dataset(describe(tmp_path, NNUNET | {"labels": labels, "regions_class_order": [20, 50]}))
    assert dataset.labels == {"background": 0, "ignore": 3, "whole": (2, 1), "core": 2}
    assert dataset.regions_class_order == (1, 2)
    assert dataset.file_values == (0, 20, 50, 255)
    assert "label values 0, 20, 50, 255 in the files are read as 0, 1, 2, 3" in caplog.text


def test_names_are_settled_by_the_first_files_that_hold_all_values(tmp_path):
    touch(tmp_path, "images/a.nii.gz", "images/b.nii.gz", "labels/a.nii.gz", "labels/b.nii.gz")
    (tmp_path / "labels/b.nii.gz").write_bytes(b"is not opened")
    dataset = find_dataset(tmp_path, channels=["CT"], label_names=["x", "y"])
    assert (dataset.labels, dataset.file_values) == ({"background": 0, "x": 1, "y": 2}, ())
    assert "b.nii.gz" in refusal(find_dataset, tmp_path, channels=["CT"])


@pytest.mark.parametrize("names", [["ignore"], ["ignore", "a"], ["a", "a"], ["a", "background"]])
def test_label_names_that_cant_be_used(tmp_path, names):
    touch(tmp_path, "images/a.nii.gz", "labels/a.nii.gz")
    assert "--label-names" in refusal(find_dataset, tmp_path, channels=["CT"], label_names=names)


TWO = Naming(image_suffixes=("_0000.nii.gz", "_0001.nii.gz"), label_suffix=".nii.gz")
ONE = Naming(image_suffixes=("_ct.nii.gz",), label_suffix="_oar.nii.gz")
BARE = Naming(image_suffixes=(".nii.gz",), label_suffix=".nii.gz")


def test_inputs_are_grouped_as_the_training_files_were(tmp_path):
    touch(tmp_path, *(f"{c}_000{i}.nii.gz" for c in "ba" for i in (0, 1)))
    cases = group_inputs([tmp_path], TWO, 2)
    assert [case.name for case in cases] == ["a", "b"]
    assert cases[0].images == tuple(str(tmp_path / f"a_000{i}.nii.gz") for i in (0, 1))
    assert cases[0].label is None
    assert group_inputs([tmp_path / "b_0001.nii.gz", tmp_path / "b_0000.nii.gz"], TWO, 2) == cases[1:]


@pytest.mark.parametrize(
    ("file", "naming", "case"),
    [
        ("p_ct.nii.gz", ONE, "p"),
        ("p_ct.mha", ONE, "p"),
        ("p.nrrd", BARE, "p"),
        ("p.nii.gz", Naming(image_suffixes=("_0000.nii.gz",), label_suffix=".nii.gz"), "p"),
    ],
)
def test_inputs_may_have_another_ending(tmp_path, file, naming, case):
    touch(tmp_path, file)
    assert [found.name for found in group_inputs([tmp_path], naming, 1)] == [case]


def test_a_file_given_by_itself_may_have_any_name(tmp_path):
    touch(tmp_path, "scan.nii.gz")
    assert [case.name for case in group_inputs([tmp_path / "scan.nii.gz"], ONE, 1)] == ["scan"]
    message = refusal(group_inputs, [tmp_path], ONE, 1)
    assert "scan.nii.gz" in message
    assert "CASE_ct.nii.gz" in message


def test_an_input_that_misses_a_channel_is_named(tmp_path):
    touch(tmp_path, "a_0000.nii.gz", "a_0001.nii.gz", "b_0000.nii.gz")
    message = refusal(group_inputs, [tmp_path], TWO, 2)
    assert f"case b in {tmp_path}" in message
    assert "add b_0001.nii.gz" in message


def test_inputs_that_are_none(tmp_path):
    assert "does not exist" in refusal(group_inputs, [tmp_path / "a.nii.gz"], BARE, 1)
    assert "empty folder" in refusal(group_inputs, [tmp_path], BARE, 1)
    (tmp_path / "a.doc").touch()
    assert "unknown kind" in refusal(group_inputs, [tmp_path / "a.doc"], BARE, 1)
    touch(tmp_path, "a.nii.gz", "x/a.nii.gz")
    assert "case a" in refusal(group_inputs, [tmp_path, tmp_path / "x"], BARE, 1)


def test_inputs_of_another_name_are_mentioned(tmp_path, caplog):
    touch(tmp_path, "a_ct.nii.gz", "a_oar.nii.gz")
    assert len(group_inputs([tmp_path], ONE, 1)) == 1
    assert "a_oar.nii.gz" in caplog.text


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real datasets are not at {REAL}")
@pytest.mark.parametrize(
    ("name", "channels", "cases", "first", "labels"),
    [
        ("hippocampus", None, 200, "hippocampus_004", 2),
        ("sts_multi", None, 16, "STS_001", 1),
        ("openkbp_ct", ["CT"], 40, "pt_100", 5),
        ("sts_pet", ["PET"], 24, "STS_002_PET", 1),
        ("axon_sem", None, 10, "sub-rat1_sample-data1_SEM", 2),
        ("wbc1", None, 60, "004", 2),
    ],
)
def test_real_datasets_are_recognised(name, channels, cases, first, labels):
    dataset = find_dataset(REAL / name, channels=channels)
    assert len(dataset.cases) == dataset.num_training == cases
    assert dataset.cases[0].name == first
    assert len(dataset.foreground) == labels
    folder = (REAL / name / dataset.cases[0].images[0]).parent
    grouped = group_inputs([folder], dataset.naming, len(dataset.channel_names))
    assert [case.name for case in grouped] == names_of(dataset)


@pytest.mark.skipif(not REAL.is_dir(), reason=f"the real datasets are not at {REAL}")
def test_a_real_ct_without_channel_names_is_told_as_one():
    assert refusal(find_dataset, REAL / "openkbp_ct").endswith("--channels CT")
