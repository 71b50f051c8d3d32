"""One folder a case: which of its files is the label, and what its images are called."""

import pytest

from autoseg.artifacts.dataset import Case
from autoseg.datasets.per_case import find_per_case
from autoseg.errors import DatasetError


def folders(root, *names, cases=("c1", "c2")):
    for case in cases:
        for name in names:
            file = root / case / name.replace("CASE", case)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    return root


@pytest.mark.parametrize(
    ("names", "images", "label", "channels", "suffixes"),
    [
        (["image.nii.gz", "label.nii.gz"], ["image.nii.gz"], "label.nii.gz", None, (".nii.gz", ".nii.gz")),
        (["img.nii.gz", "segmentation.nii.gz"], ["img.nii.gz"], "segmentation.nii.gz", None, (".nii.gz", ".nii.gz")),
        (["CASE.nii.gz", "CASE_mask.nii.gz"], ["c1.nii.gz"], "c1_mask.nii.gz", None, (".nii.gz", "_mask.nii.gz")),
        (["CASE_0000.nii.gz", "CASE_0001.nii.gz", "CASE.nii.gz"], ["c1_0000.nii.gz", "c1_0001.nii.gz"], "c1.nii.gz",
         None, ("_0000.nii.gz", "_0001.nii.gz", ".nii.gz")),
        (["image_0000.nii", "image_0001.nii", "gt.nii"], ["image_0000.nii", "image_0001.nii"], "gt.nii",
         None, ("_0000.nii", "_0001.nii", ".nii")),
        (["CASE_t1.nii", "CASE_t1ce.nii", "CASE_flair.nii", "CASE_seg.nii"],
         ["c1_flair.nii", "c1_t1.nii", "c1_t1ce.nii"], "c1_seg.nii", ("flair", "t1", "t1ce"),
         ("_flair.nii", "_t1.nii", "_t1ce.nii", "_seg.nii")),
        (["ct.nii", "pet.nii", "tumour_mask.nii"], ["ct.nii", "pet.nii"], "tumour_mask.nii", ("ct", "pet"),
         ("_ct.nii", "_pet.nii", ".nii")),
        (["scan-7.mha", "scan-7-seg.mha"], ["scan-7.mha"], "scan-7-seg.mha", None, (".mha", ".mha")),
        (["raw.nii", "seg.nii"], ["raw.nii"], "seg.nii", None, (".nii", ".nii")),
    ],
)  # fmt: skip
def test_images_and_label_are_told_apart(tmp_path, names, images, label, channels, suffixes):
    found = find_per_case(folders(tmp_path, *names), None)
    assert found.cases[0] == Case(name="c1", images=tuple(f"c1/{name}" for name in images), label=f"c1/{label}")
    assert [case.name for case in found.cases] == ["c1", "c2"]
    assert found.stated.channel_names == channels
    assert (*found.naming.image_suffixes, found.naming.label_suffix) == suffixes


def test_wished_channels_are_chosen(tmp_path):
    folders(tmp_path, "CASE_t1.nii", "CASE_t2.nii", "CASE_seg.nii")
    (tmp_path / "c2/c2_t2.nii").unlink()
    assert find_per_case(tmp_path, ["T1"]).cases[1].images == ("c2/c2_t1.nii",)
    with pytest.raises(DatasetError, match=r"misses a channel\n *where: *case c2"):
        find_per_case(tmp_path, ["t2", "t1"])


def test_other_folders_do_no_harm(tmp_path):
    folders(tmp_path, "image.nii", "label.nii")
    folders(tmp_path, "readme.txt", cases=("docs", ".hidden"))
    assert len(find_per_case(tmp_path, None).cases) == 2
    assert find_per_case(folders(tmp_path / "other", "a.nii", "b.nii"), None) is None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["image.nii"], "case c3"),
        (["label.nii"], "case c3"),
        (["image.nii", "seg.nii", "mask.nii"], "mask.nii, seg.nii"),
        (["image.nii", "image.mha", "label.nii"], "image.mha and image.nii"),
        (["image.nii", "t1.nii", "label.nii"], "remove t1.nii"),
    ],
)
def test_a_folder_unlike_the_others_is_named(tmp_path, names, expected):
    folders(tmp_path, "image.nii", "label.nii")
    folders(tmp_path, *names, cases=("c3",))
    with pytest.raises(DatasetError) as caught:
        find_per_case(tmp_path, None)
    assert expected in str(caught.value)
    assert "c3" in str(caught.value)
