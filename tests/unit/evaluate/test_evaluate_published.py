"""The figures that come with the package: whole, sourced, found by name, and right where cases are at hand."""

from importlib.resources import files
from pathlib import Path
from statistics import fmean

import pytest

from autoseg.artifacts.base import decode
from autoseg.artifacts.published import Published
from autoseg.errors import ArtifactError, DatasetError, SettingError
from autoseg.evaluate.baselines import read_scores
from autoseg.evaluate.published import FILE, describe, detail_lines, find_baseline, list_lines, published, search

CASES = Path(__file__).parents[3].parent / "shared" / "baselines" / "msd_nnunet_percase.csv"
PLAIN = "msd/Task04_Hippocampus/nnunet-v2-plain"
ARCHS = {"plain": "ConvolutionalEncoder", "resenc-m": "ResidualEncoderM", "resenc-l": "ResidualEncoderL"}
TASKS = (
    "Task01_BrainTumour",
    "Task02_Heart",
    "Task03_Liver",
    "Task04_Hippocampus",
    "Task05_Prostate",
    "Task06_Lung",
    "Task07_Pancreas",
    "Task08_HepaticVessel",
    "Task09_Spleen",
    "Task10_Colon",
)


def test_every_task_of_the_decathlon_has_both_versions():
    known = published().baselines
    for task in TASKS:
        versions = [name.rpartition("/")[2] for name in known if name.startswith(f"msd/{task}/")]
        assert {"nnunet-v1-2d", "nnunet-v1-3d_fullres", "nnunet-v1-best"} <= set(versions)
        assert {f"nnunet-v2-{arch}" for arch in ARCHS} <= set(versions)
        assert f"msd-test/{task}/nnunet-v2-plain" in known


def test_the_table_of_nnunet_revisited_is_whole():
    names = [name.split("/") for name in published().baselines if name.startswith("revisited/")]
    sets, methods = {name[1] for name in names}, {name[2] for name in names}
    assert sets == {"BTCV", "ACDC", "LiTS", "BraTS21", "KiTS23", "AMOS22"}
    assert len(names) == len(sets) * len(methods) == 114
    assert find_baseline("revisited/KiTS23/resenc-xl").mean == 0.8867
    assert find_baseline("revisited/AMOS22/stu-net-b").mean == 0.8846


def test_every_baseline_says_what_it_is():
    for name, baseline in published().baselines.items():
        assert name.count("/") == 2
        source = published().sources[baseline.source]
        assert source.protocol in describe(baseline)
        assert baseline.num_cases or source.protocol == "test server"
        assert list(baseline.labels) == [str(value) for value in range(1, len(baseline.labels) + 1)]
        if baseline.labels:
            assert baseline.foreground == pytest.approx(fmean(baseline.labels.values()), abs=0.0001)


@pytest.mark.skipif(not CASES.exists(), reason="the published per-case scores are not beside the project")
@pytest.mark.parametrize("task", TASKS)
def test_means_over_the_published_cases_are_the_figures(task):
    for arch, name in ARCHS.items():
        baseline = find_baseline(f"msd/{task}/nnunet-v2-{arch}")
        scores = read_scores(CASES, task=task, arch=name)
        assert len(scores.cases) == baseline.num_cases
        for label, cases in scores.scores.items():
            mean = fmean(score for score in cases.values() if score is not None)
            assert baseline.labels[label] == pytest.approx(mean, abs=0.00006)


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("msd/Task04_Hipocampus/nnunet-v2-plane", PLAIN),
        ("msd/hippocampus/nnunet-v2-plain", PLAIN),
        ("MSD/TASK04_HIPPOCAMPUS/NNUNET-V2-PLAIN", PLAIN),
        ("revisited/kits/resenc-l", "revisited/KiTS23/resenc-l"),
    ],
)
def test_an_unknown_name_names_the_nearest(name, nearest):
    with pytest.raises(SettingError) as raised:
        find_baseline(name)
    assert nearest in raised.value.hint


def test_a_missing_file_is_not_taken_for_a_name():
    with pytest.raises(DatasetError, match="no such file"):
        find_baseline("scores.csv")


def test_words_narrow_the_list():
    found = search(("HIPPOCAMPUS", "resenc-m"))
    assert list(found) == [
        "msd/Task04_Hippocampus/nnunet-v2-resenc-m",
        "msd-test/Task04_Hippocampus/nnunet-v2-resenc-m",
    ]
    assert search(()) == published().baselines
    # A whole name is one baseline, though it may stand within longer ones.
    assert list(search(("revisited/BTCV/mednext-l-k3",))) == ["revisited/BTCV/mednext-l-k3"]
    with pytest.raises(SettingError, match="Hippocampus"):
        search(("hippopotamus",))


def test_lines_and_detail():
    plain = find_baseline(PLAIN)
    assert list_lines({PLAIN: plain}) == [f"{PLAIN}  89.04 (89.85 / 88.23)  {describe(plain)}"]
    text = "\n".join(detail_lines(PLAIN, plain))
    for part in ("BSD-3-Clause", "mean of the labels' figures", "label 2:     88.23", "random_state=12345"):
        assert part in text
    server = find_baseline("msd-test/Task02_Heart/autonnunet-hpo")
    assert "cases:         not stated" in "\n".join(detail_lines("x", server))


@pytest.mark.parametrize(
    "change", [(b'"source": "nnunet-revisited"', b'"source": "hearsay"'), (b'"mean": 0.8308, ', b"")]
)
def test_figures_without_source_and_baselines_without_figures_are_refused(change):
    data = files("autoseg.evaluate").joinpath(FILE).read_bytes()
    assert change[0] in data
    with pytest.raises(ArtifactError, match=r"no source|no figure"):
        decode(data.replace(*change), Published, where=FILE)
