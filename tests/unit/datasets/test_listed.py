"""CSV, TSV and JSON lists -> cases with paths, folds, groups and channels."""

import json

import pytest

from autoseg.artifacts.dataset import Case, Naming
from autoseg.datasets.layouts import find_dataset, group_inputs
from autoseg.datasets.listed import find_listed
from autoseg.errors import DatasetError


def files(root, *names):
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def write(file, text):
    file.write_text(text, encoding="utf-8")
    return file


def refusal(file):
    with pytest.raises(DatasetError) as caught:
        find_listed(file)
    return str(caught.value)


def test_a_csv_with_all_columns(tmp_path):
    files(tmp_path, "x/one.nii.gz", "x/two.nii.gz", "y/m.nii.gz", "y/n.nii.gz")
    found = find_listed(
        write(
            tmp_path / "list.csv",
            "case,image,label,fold,group,site\nb,x/one.nii.gz,./y/m.nii.gz,1,p2,Rome\na,x/two.nii.gz,y/n.nii.gz,0,p1,Bonn\n",
        )
    )
    assert found.cases == (
        Case(name="a", images=("x/two.nii.gz",), label="y/n.nii.gz", group="p1", fold=0),
        Case(name="b", images=("x/one.nii.gz",), label="y/m.nii.gz", group="p2", fold=1),
    )
    assert found.columns == {"group": {"b": "p2", "a": "p1"}, "site": {"b": "Rome", "a": "Bonn"}}
    # Nothing in the files' names is the case's.
    assert found.naming == Naming(image_suffixes=(".nii.gz",), label_suffix=".nii.gz")
    assert found.stated.channel_names is None


def test_a_column_for_each_channel(tmp_path):
    files(tmp_path, *(f"{kind}/{case}.nii.gz" for kind in ("ct", "pet", "seg") for case in ("a", "b")))
    rows = "".join(f"ct/{case}.nii.gz\tpet/{case}.nii.gz\tseg/{case}.nii.gz\n" for case in "ab")
    found = find_listed(write(tmp_path / "list.tsv", "image_CT\timage_PET\tlabel\n" + rows))
    assert found.cases[0] == Case(name="a", images=("ct/a.nii.gz", "pet/a.nii.gz"), label="seg/a.nii.gz")
    assert found.stated.channel_names == ("CT", "PET")
    # The channels' own names are the same, so new files are told apart by the list's.
    assert found.naming == Naming(image_suffixes=("_CT.nii.gz", "_PET.nii.gz"), label_suffix=".nii.gz")
    files(tmp_path, "new/c_PET.nii.gz", "new/c_CT.nii.gz")
    (case,) = group_inputs([tmp_path / "new"], found.naming, 2)
    assert case.images == tuple(str(tmp_path / f"new/c_{channel}.nii.gz") for channel in ("CT", "PET"))


@pytest.mark.parametrize(
    ("names", "cases", "suffixes"),
    [
        (["i/pt_1_ct.nii.gz l/pt_1_oar.nii.gz", "i/pt_11_ct.nii.gz l/pt_11_oar.nii.gz"], ["pt_1", "pt_11"],
         ("_ct.nii.gz", "_oar.nii.gz")),
        (["a_0000.nii.gz a.nii.gz", "b_0000.nii.gz b.nii.gz"], ["a", "b"], ("_0000.nii.gz", ".nii.gz")),
        (["img_1_0000.png seg_1.png", "img_2_0000.png seg_2.png"], ["img_1", "img_2"], ("_0000.png", ".png")),
        (["p1/image.nii.gz p1/label.nii.gz", "p2/image.nii.gz p2/label.nii.gz"], ["p1", "p2"], (".nii.gz", ".nii.gz")),
    ],
)  # fmt: skip
def test_cases_are_named_by_their_files(tmp_path, names, cases, suffixes):
    rows = [line.split() for line in names]
    files(tmp_path, *(name for row in rows for name in row))
    entries = [{"image": image, "label": label} for image, label in rows]
    found = find_listed(write(tmp_path / "list.json", json.dumps(entries)))
    assert [case.name for case in found.cases] == cases
    assert (*found.naming.image_suffixes, found.naming.label_suffix) == suffixes


def test_cases_that_cant_be_told_apart_need_names(tmp_path):
    files(tmp_path, *(f"{patient}/{day}/t.nii" for patient in "ab" for day in ("x", "seg")))
    entries = [{"image": f"{patient}/x/t.nii", "label": f"{patient}/seg/t.nii"} for patient in "ab"]
    assert "add a column `case`" in refusal(write(tmp_path / "list.json", json.dumps(entries)))


def test_monais_datalist(tmp_path):
    files(tmp_path, *(f"{case}_{part}.nii.gz" for case in "ab" for part in ("t1", "t2", "seg")))
    entries = [
        {"image": [f"{case}_t1.nii.gz", f"{case}_t2.nii.gz"], "label": f"{case}_seg.nii.gz", "fold": fold}
        for fold, case in enumerate("ab")
    ]
    about = {"modality": {"0": "T1", "1": "T2"}, "labels": {"0": "background", "1": "x"}, "numTraining": 2, "name": "?"}
    found = find_listed(
        write(tmp_path / "datalist.json", json.dumps({**about, "training": entries, "testing": ["c.nii.gz"]}))
    )
    assert [(case.name, case.fold) for case in found.cases] == [("a", 0), ("b", 1)]
    assert found.naming.image_suffixes == ("_t1.nii.gz", "_t2.nii.gz")
    assert found.stated.channel_names == ("T1", "T2")
    assert found.stated.labels == {"background": 0, "x": 1}


def test_json_with_named_channels_regions_and_ignore(tmp_path):
    files(tmp_path, "a_ct.nii.gz", "a_pet.nii.gz", "a.nii.gz")
    content = {
        "cases": [{"case": 7, "image": {"CT": "a_ct.nii.gz", "PET": "a_pet.nii.gz"}, "label": "a.nii.gz", "age": 50}],
        "labels": {"background": 0, "whole": [1, 2], "core": 2, "ignore": 255},
        "regions_class_order": [1, 2],
    }
    dataset = find_dataset(write(tmp_path / "list.json", json.dumps(content)))
    assert dataset.root == tmp_path.as_posix()
    assert dataset.cases[0].name == "7"
    assert dataset.channel_names == ("CT", "PET")
    assert dataset.labels == {"background": 0, "whole": (1, 2), "core": 2, "ignore": 3}
    assert dataset.regions_class_order == (1, 2)
    assert dataset.file_values == (0, 1, 2, 255)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,label,fold\na.nii,b.nii,-1", "fold"),
        ("image,label,fold\na.nii,b.nii,0\nb.nii,a.nii,", "line 3, fold"),
        ("image,label,label\na.nii,b.nii,b.nii", "two columns of one name"),
        ("image,image_CT,label\na.nii,a.nii,b.nii", "with and without channel names"),
        ("images,label\na.nii,b.nii", "did you mean image?"),
        ("case,image,label\n../x,a.nii,b.nii", "a name without /"),
        ("image,label\na.nii,a.nii", "both image and label"),
        ("image,label\nnowhere/a.nii,b.nii", "there is no folder"),
        ('image,label\n"a.nii,b.nii', "list.csv, line 2"),
    ],
)
def test_lists_that_cant_be_used(tmp_path, text, expected):
    files(tmp_path, "a.nii", "b.nii")
    assert expected in refusal(write(tmp_path / "list.csv", text))


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([{"image": "a.nii", "label": "b.nii"}, {"image": ["a.nii", "b.nii"], "label": "b.nii"}], "different channels"),
        ([{"image": {}, "label": "b.nii"}], "malformed"),
        ([{"image": "a.nii"}], "list.json, 0, label"),
        ([{"image": "a.nii", "labels": "b.nii"}], "did you mean label?"),
        (["a.nii"], "malformed"),
        ([{"image": "a\0.nii", "label": "b.nii"}], "malformed"),
        ([{"image": "a" * 300, "label": "b.nii"}], "listed file is missing"),
        ([{"image": "a.nii", "label": "b.nii", "fold": 10**30}], "list.json, 0, fold"),
        ([{"image": "\ud800", "label": "b.nii"}], "can't be read"),
        ({"training": {}}, "no list of cases"),
        (7, "no list of cases"),
    ],
)
def test_json_lists_that_cant_be_used(tmp_path, entries, expected):
    files(tmp_path, "a.nii", "b.nii")
    assert expected in refusal(write(tmp_path / "list.json", json.dumps(entries)))


def test_a_column_like_a_known_one_that_is_there_is_the_users_own(tmp_path):
    files(tmp_path, "a.nii", "b.nii")
    found = find_listed(write(tmp_path / "list.csv", "image,label,label2,images,age\na.nii,b.nii,x,y,3"))
    assert set(found.columns) == {"label2", "images", "age"}
