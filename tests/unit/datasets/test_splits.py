"""Folds: nnU-Net's own, of groups, the user's; kept while they fit, and refused where they leak."""

import csv
import json
import logging
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
from sklearn.model_selection import KFold

from autoseg.artifacts.base import digest, read, write
from autoseg.artifacts.plan import Training
from autoseg.artifacts.splits import Fold, FoldCounts, Splits
from autoseg.datasets.splits import SplitWishes, find_splits, given_splits, k_folds, keep_splits, units_of
from autoseg.errors import ArtifactError, DatasetError, SettingError
from autoseg.layout import Workspace

BASELINES = Path(__file__).parents[3].parent / "shared" / "baselines" / "msd_nnunet_percase.csv"


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "w")


@pytest.fixture
def recipe(build_plan):
    """Callable: a plan with these settings of the split."""
    return lambda **training: build_plan(training=Training(**training))


def grouped(dataset, groups):
    """The dataset with the first cases in these groups."""
    more = [*groups, *[None] * (len(dataset.cases) - len(groups))]
    cases = tuple(msgspec.structs.replace(case, group=group) for case, group in zip(dataset.cases, more, strict=True))
    return msgspec.structs.replace(dataset, cases=cases)


def listed(dataset, folds):
    cases = tuple(msgspec.structs.replace(case, fold=fold) for case, fold in zip(dataset.cases, folds, strict=True))
    return msgspec.structs.replace(dataset, cases=cases)


def given(dataset, workspace, **wishes):
    """Give folds and keep them, as `plan` does."""
    splits = given_splits(dataset, workspace, SplitWishes(**wishes))
    return keep_splits(splits, dataset, workspace)


def validation(splits):
    return [set(fold.validation) for fold in splits.folds]


@pytest.mark.parametrize("seed", [0, 7, 12345, 2**32 - 1])
def test_folds_are_those_of_shuffled_k_fold_over_sorted_names(seed):
    for count in (2, 3, 5, 13, 20, 101, 1228):
        names = [f"case_{i}" for i in range(count)]
        order = sorted(names)
        for num_folds in {2, 3, 5, 10, count} & set(range(2, count + 1)):
            folds = k_folds(reversed(names), num_folds, seed)
            expected = KFold(num_folds, shuffle=True, random_state=seed).split(order)
            for fold, (training, held_out) in zip(folds, expected, strict=True):
                assert fold.training == tuple(order[i] for i in training)
                assert fold.validation == tuple(order[i] for i in held_out)


def test_the_seed_decides():
    names = [f"{i}" for i in range(20)]
    assert k_folds(names, 5, 1) == k_folds(names, 5, 1)
    assert k_folds(names, 5, 1) != k_folds(names, 5, 2)


def test_published_cross_validations_have_the_same_folds():
    if not BASELINES.is_file():
        pytest.skip(f"{BASELINES} is not on this machine")
    published = defaultdict(lambda: defaultdict(set))
    with BASELINES.open(newline="") as file:
        for row in csv.DictReader(file):
            published[row["task"]][int(row["fold"])].add(row["case"])
    assert len(published) == 10
    for task, folds in published.items():
        ours = k_folds(sorted(set.union(*folds.values())), 5, 12345)
        assert {number: set(fold.validation) for number, fold in enumerate(ours)} == dict(folds), task


@pytest.mark.parametrize(("count", "hint"), [(4, "training.num_folds=4"), (1, "add cases")])
def test_fewer_cases_than_folds_is_explained(count, hint):
    with pytest.raises(DatasetError, match="fewer cases than folds") as caught:
        k_folds([f"{i}" for i in range(count)], 5, 12345)
    assert f"{count} cases, 5 folds" in str(caught.value)
    assert hint in str(caught.value)


def test_as_many_cases_as_folds_is_enough():
    assert [len(fold.training) for fold in k_folds("abcde", 5, 12345)] == [4] * 5


def test_cases_of_a_group_or_an_image_stay_together(build_dataset, tmp_path):
    dataset = grouped(build_dataset(tmp_path, num_cases=6), ["p", "q", None, "p", None, None])
    assert units_of(dataset) == [("case_0", "case_3"), ("case_1",), ("case_2",), ("case_4",), ("case_5",)]
    (tmp_path / "case_5_0000.nii.gz").symlink_to(tmp_path / "case_3_0000.nii.gz")
    (tmp_path / "case_2_0000.nii.gz").symlink_to(tmp_path / "case_1_0000.nii.gz")
    assert units_of(dataset) == [("case_0", "case_3", "case_5"), ("case_1", "case_2"), ("case_4",)]
    # A file that is everybody's says nothing.
    shared = tuple(msgspec.structs.replace(case, images=(*case.images, "atlas.nii.gz")) for case in dataset.cases)
    assert units_of(msgspec.structs.replace(dataset, cases=shared)) == units_of(dataset)
    # A group called like another case is still another one.
    assert len(units_of(grouped(build_dataset(num_cases=3), ["case_1", None, None]))) == 3


def test_groups_of_one_case_change_nothing(build_dataset, recipe, workspace):
    plain = build_dataset(num_cases=7)
    alone = grouped(plain, [f"p{i}" for i in range(7)])
    assert find_splits(alone, recipe(), workspace) == find_splits(plain, recipe(), workspace)


def test_groups_are_dealt_whole_and_folds_are_of_like_size(build_dataset, recipe, workspace):
    dataset = grouped(build_dataset(num_cases=20), [f"p{i // 4}" for i in range(12)])
    splits = find_splits(dataset, recipe(num_folds=4), workspace)
    assert splits.grouped
    assert "11 groups" in splits.method
    assert [len(fold.validation) for fold in splits.folds] == [5] * 4
    for patient in range(3):
        cases = {case.name for case in dataset.cases if case.group == f"p{patient}"}
        assert sum(bool(cases & fold) for fold in validation(splits)) == 1
    assert splits != find_splits(dataset, recipe(num_folds=4, split_seed=1), workspace)


def test_fewer_groups_than_folds_is_explained(build_dataset, recipe, workspace):
    dataset = grouped(build_dataset(num_cases=9), [f"p{i % 3}" for i in range(9)])
    with pytest.raises(DatasetError, match="fewer groups than folds") as caught:
        find_splits(dataset, recipe(), workspace)
    assert "3 groups of 9 cases, 5 folds" in str(caught.value)
    assert "--num-folds 3" in str(caught.value)
    with pytest.raises(DatasetError, match="fewer groups than folds"):
        given_splits(dataset, workspace, SplitWishes(num_folds=4))
    assert len(find_splits(dataset, recipe(num_folds=3), workspace).folds) == 3


def test_stratified_folds_need_counted_labels(build_dataset, build_fingerprint, recipe, workspace):
    dataset = build_dataset(num_cases=10)
    write(workspace.fingerprint, build_fingerprint(dataset))
    with pytest.raises(ArtifactError, match="nobody counted"):
        find_splits(dataset, recipe(stratify=True), workspace)


def test_stratified_folds_and_what_the_file_says_of_them(build_dataset, build_fingerprint, recipe, workspace):
    dataset = build_dataset(num_cases=20)
    fingerprint = build_fingerprint(dataset)
    # Plain folds tear these apart: the first five cases alone have the label.
    voxels = {case.name: {"blob": 10 * (i < 5)} for i, case in enumerate(dataset.cases)}
    measured = tuple(msgspec.structs.replace(c, label_voxels=voxels[c.name]) for c in fingerprint.cases)
    write(workspace.fingerprint, msgspec.structs.replace(fingerprint, cases=measured))
    plain = keep_splits(find_splits(dataset, recipe(), workspace), dataset, workspace)
    assert sorted(fold.labels["blob"] for fold in plain.counts) != [1] * 5
    splits = keep_splits(find_splits(dataset, recipe(stratify=True), workspace), dataset, workspace)
    assert splits.stratified
    assert not splits.grouped
    assert splits.seed == 12345
    assert splits.counts == (FoldCounts(cases=4, groups=4, labels={"blob": 1}),) * 5
    assert read(workspace.splits, Splits) == splits
    assert [sum(voxels[name]["blob"] > 0 for name in fold.validation) for fold in splits.folds] == [1] * 5


def test_splits_are_kept_while_their_cases_last(build_dataset, recipe, workspace, caplog):
    dataset = build_dataset(num_cases=10)
    made = find_splits(dataset, recipe(), workspace)
    assert len(made.folds) == 5
    assert not workspace.splits.exists()
    made = keep_splits(made, dataset, workspace)
    assert read(workspace.splits, Splits) == made
    # Edited by hand: kept, and cases that never validate are told.
    edited = msgspec.structs.replace(made, folds=made.folds[:1])
    write(workspace.splits, edited)
    assert find_splits(dataset, recipe(), workspace) == edited
    assert "8 of 10 cases never validate" in caplog.text
    assert keep_splits(edited, dataset, workspace) == edited
    more = build_dataset(num_cases=11)
    anew = find_splits(more, recipe(), workspace)
    assert len(anew.folds) == 5
    assert read(workspace.splits, Splits) == edited
    anew = keep_splits(anew, more, workspace)
    assert read(workspace.splits, Splits) == anew
    assert read(workspace.root / "splits.previous.json", Splits) == edited
    for other in ({"num_folds": 3}, {"split_seed": 1}):
        assert find_splits(more, recipe(**other), workspace).folds != anew.folds
    groups = grouped(more, ["p", "p"])
    assert find_splits(groups, recipe(), workspace).grouped


def test_a_file_of_an_older_version_is_used_as_it_stands(build_dataset, recipe, workspace):
    dataset = build_dataset(num_cases=10)
    names = sorted(case.name for case in dataset.cases)
    folds = [{"training": names[1:], "validation": names[:1]}, {"training": names[:5], "validation": names[5:]}]
    old = {"schema_version": 1, "inputs_sha256": digest(*names, "5", "12345"), "method": "KFold", "folds": folds}
    workspace.root.mkdir()
    workspace.splits.write_text(json.dumps(old))
    found = keep_splits(find_splits(dataset, recipe(), workspace), dataset, workspace)
    assert validation(found) == [set(names[:1]), set(names[5:])]
    assert json.loads(workspace.splits.read_text()) == old


LEAKS = {
    "unknown case": (("case_0", "case_22"), ("case_1",), "did you mean case_2"),
    "a case on both sides": (("case_0", "case_1"), ("case_1",), "found: +case_1\n"),
    "a group on both sides": (("case_3", "case_5"), ("case_2", "case_4"), "group p: case_3 trains, case_4 validates"),
    "an image on both sides": (("case_0", "case_6"), ("case_1", "case_7"), "case_6, which trains, and case_7, which"),
    "a case twice": (("case_0", "case_0"), ("case_1",), "a case twice.*training\n.*case_0\n"),
}


@pytest.mark.parametrize(("training", "held_out", "told"), LEAKS.values(), ids=LEAKS)
@pytest.mark.parametrize("by", ["hand", "file"])
def test_leaks_are_refused(build_dataset, recipe, workspace, tmp_path, training, held_out, told, by):
    (tmp_path / "case_7_0000.nii.gz").symlink_to(tmp_path / "case_6_0000.nii.gz")
    dataset = grouped(build_dataset(tmp_path, num_cases=8), [None, None, None, "p", "p"])
    made = keep_splits(find_splits(dataset, recipe(), workspace), dataset, workspace)
    folds = (made.folds[0], Fold(training=training, validation=held_out))
    with pytest.raises(SettingError, match=f"(?s)^a fold .*{told}") as caught:
        if by == "hand":
            write(workspace.splits, msgspec.structs.replace(made, folds=folds))
            find_splits(dataset, recipe(), workspace)
        else:
            file = tmp_path / "mine.json"
            file.write_bytes(msgspec.json.encode([{"train": f.training, "val": f.validation} for f in folds]))
            given_splits(dataset, workspace, SplitWishes(file=file))
    assert ", fold 1" in str(caught.value)


NAMES = [f"case_{i}" for i in range(6)]
HALVES = [{"train": NAMES[3:], "val": NAMES[:3]}, {"train": NAMES[:3], "val": NAMES[3:]}]
FILES = {
    "nnU-Net's": json.dumps(HALVES),
    "autoseg's": json.dumps(
        {"method": "m", "folds": [{"training": h["train"], "validation": h["val"]} for h in HALVES]}
    ),
    "CSV": "case,age,fold\n" + "".join(f"case_{i},50,{i // 3}\n" for i in range(6)),
    "CSV of a spreadsheet": "\ufefffold;case\r\n" + "".join(f"{1 + i // 3};case_{i}\r\n" for i in range(6)),
    "TSV": 'case\t"fold"\n' + "".join(f"case_{i}\t {i // 3}\n" for i in range(6)),
    "list": json.dumps([{"case": f"case_{i}", "fold": i // 3} for i in range(6)]),
    "object": json.dumps({f"case_{i}": i // 3 for i in range(6)}),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_a_file_of_the_users_own(build_dataset, recipe, workspace, tmp_path, content):
    file = tmp_path / "mine.txt"
    file.write_bytes(content.encode())
    dataset = build_dataset(num_cases=6)
    splits = given(dataset, workspace, file=file)
    assert validation(splits) == [set(NAMES[:3]), set(NAMES[3:])]
    assert [fold.training for fold in splits.folds] == [tuple(NAMES[3:]), tuple(NAMES[:3])]
    assert splits.source.path == str(file)
    assert len(splits.source.sha256) == 64
    # It stays without the option, and with the file again.
    assert given(dataset, workspace) == given(dataset, workspace, file=file) == splits
    assert find_splits(dataset, recipe(num_folds=2), workspace) == splits
    assert sorted(workspace.root.iterdir()) == [workspace.splits]


BAD_FILES = {
    "no text": (b"\x93\xff\x00", "can't be read"),
    "nothing": (b"", "no known kind"),
    "no JSON": (b"[{", "not valid JSON"),
    "a number": (b"[1]", "no known kind"),
    "no lists": (b'[{"train": "a", "val": ["case_0"]}]', "no known kind"),
    "a heading alone": (b"case,fold\n", "no known kind"),
    "another heading": (b"name,fold\ncase_0,0\n", "no known kind"),
    "no number": (b"case,fold\ncase_0,first\n", "no number\n.*row 1, case case_0"),
    "no fold": (b"case,fold\ncase_0\n", "no number\n.*row 1, case case_0\n.*nothing"),
    "an unknown case": (b"case,fold\ncase_00,0\n", "has not\n.*row 1, case case_00\n.*did you mean case_0"),
    "a case twice": (b"case,fold\ncase_0,0\ncase_0,1\n", "twice\n.*row 2, case case_0"),
    "a case left out": (b"case,fold\ncase_0,0\ncase_1,1\n", "leaves a case out\n.*case case_2\n.*2 of 3"),
    "a gap": (b"case,fold\ncase_0,0\ncase_1,0\ncase_2,2\n", "numbers of the folds.*\n.*\n.*0, 2"),
    "a single fold": (b"case,fold\ncase_0,0\ncase_1,0\ncase_2,0\n", "two folds or more"),
    "no training": (b'[{"train": [], "val": ["case_0"]}]', "has no cases\n.*fold 0, training"),
    "no validation": (b'{"folds": [{"training": ["case_0"], "validation": []}]}', "has no cases\n.*fold 0, validation"),
}


@pytest.mark.parametrize(("content", "told"), BAD_FILES.values(), ids=BAD_FILES)
def test_files_that_say_no_folds(build_dataset, workspace, tmp_path, content, told):
    file = tmp_path / "mine.csv"
    file.write_bytes(content)
    with pytest.raises((DatasetError, SettingError), match=told) as caught:
        given_splits(build_dataset(num_cases=3), workspace, SplitWishes(file=file))
    assert str(file) in str(caught.value)


def test_a_single_fold_of_the_users_own(build_dataset, recipe, workspace, tmp_path, caplog):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(HALVES[:1]))
    dataset = build_dataset(num_cases=6)
    splits = given(dataset, workspace, file=file)
    assert "3 of 6 cases never validate: case_3, case_4, case_5" in caplog.text
    training = SplitWishes().applied(Training(stratify=True), splits)
    assert (training.num_folds, training.stratify) == (1, False)
    assert find_splits(dataset, recipe(num_folds=1), workspace) == splits
    workspace.splits.unlink()
    with pytest.raises(SettingError, match="a single fold can't be made"):
        find_splits(dataset, recipe(num_folds=1), workspace)


def test_the_users_folds_are_never_replaced(build_dataset, recipe, workspace, tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(HALVES))
    dataset, more = build_dataset(num_cases=6), build_dataset(num_cases=7)
    splits = given(dataset, workspace, file=file)
    for asked in ({"num_folds": 5}, {"num_folds": 2, "stratify": True}):
        with pytest.raises(SettingError, match="others are asked for") as caught:
            find_splits(dataset, recipe(**asked), workspace)
        assert "--splits FILE" in str(caught.value)
        with pytest.raises(SettingError, match="others are asked for"):
            given_splits(dataset, workspace, SplitWishes(**asked))
    for attempt in (
        lambda: find_splits(more, recipe(num_folds=2), workspace),
        lambda: given_splits(more, workspace, SplitWishes()),
    ):
        with pytest.raises(SettingError, match="the cases changed") as caught:
            attempt()
        assert str(file) in str(caught.value)
    with pytest.raises(SettingError, match="a group"):
        find_splits(grouped(dataset, ["p", None, None, "p"]), recipe(num_folds=2), workspace)
    assert read(workspace.splits, Splits) == splits
    # Another file of the user's own may; the old folds are kept.
    file.write_text(json.dumps(HALVES[::-1]))
    assert given(dataset, workspace, file=file) != splits
    assert read(workspace.root / "splits.previous.json", Splits) == splits


def test_the_folds_of_a_list(build_dataset, recipe, workspace, caplog):
    caplog.set_level(logging.INFO)
    dataset = listed(build_dataset(num_cases=6), [1, 2, 3, 1, 2, 3])
    splits = given(dataset, workspace)
    assert validation(splits) == [{"case_0", "case_3"}, {"case_1", "case_4"}, {"case_2", "case_5"}]
    assert "its fold 1 is fold 0 here" in caplog.text
    assert find_splits(dataset, recipe(num_folds=3), workspace) == splits
    with pytest.raises(SettingError, match="others are asked for") as caught:
        find_splits(dataset, recipe(), workspace)
    assert "out of the list" in str(caught.value)
    # A changed list takes effect, unlike a changed file, of which a copy was made.
    other = find_splits(listed(dataset, [0, 0, 0, 1, 1, 1]), recipe(num_folds=2), workspace)
    assert validation(other) == [set(NAMES[:3]), set(NAMES[3:])]


def test_a_list_with_folds_for_some_cases(build_dataset, workspace):
    dataset = listed(build_dataset(num_cases=4), [0, 1, None, None])
    with pytest.raises(DatasetError, match="some cases") as caught:
        given_splits(dataset, workspace, SplitWishes())
    assert "case case_2" in str(caught.value)
    assert "2 of 4 cases" in str(caught.value)


def test_a_list_that_tears_a_group_apart(build_dataset, workspace):
    dataset = grouped(listed(build_dataset(num_cases=4), [0, 0, 1, 1]), [None, "p", "p", None])
    with pytest.raises(SettingError, match=r"(?s)a group.*case_2 trains, case_1 validates"):
        given_splits(dataset, workspace, SplitWishes())


def test_a_damaged_file_is_not_written_over(build_dataset, recipe, workspace, tmp_path):
    workspace.root.mkdir()
    workspace.splits.write_text('{"folds": [')
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(HALVES))
    for wishes in (SplitWishes(), SplitWishes(file=file)):
        with pytest.raises(ArtifactError, match="not valid JSON"):
            given_splits(build_dataset(num_cases=6), workspace, wishes)
    assert workspace.splits.read_text() == '{"folds": ['
