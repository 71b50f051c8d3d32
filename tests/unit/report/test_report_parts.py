"""What the parts say of records that are there, missing, or contradict each other."""

from dataclasses import replace

import msgspec
import pytest

from autoseg.artifacts.comparison import Comparison, Comparisons, Interval, PairedResult
from autoseg.artifacts.evaluation import METRICS, Evaluation, LabelScores
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.selection import Candidate, Selection
from autoseg.artifacts.splits import Fold, Splits
from autoseg.artifacts.standing import Standing, StandingRow
from autoseg.evaluate.summary import summarize
from autoseg.report.baseline_part import baseline_section
from autoseg.report.found import Found, FoundFold
from autoseg.report.html import render
from autoseg.report.origin_part import commands
from autoseg.report.page import whole_page
from autoseg.report.plan_part import read_chapters
from autoseg.report.scores import pooled, worst
from autoseg.report.stale import notes
from autoseg.report.worst_part import Picture

HOSTILE = '<img src=x onerror="alert(1)">'


def evaluation(names, labels, dice=0.5, unit="mm"):
    scores = LabelScores(**{**dict.fromkeys(METRICS), "dice": dice}, n_reference_voxels=10, n_predicted_voxels=12)
    cases = {name: dict.fromkeys(labels, scores) for name in names}
    return Evaluation(
        unit=unit,
        labels=labels,
        tolerance_mm=dict.fromkeys(labels, 1.0),
        summary=summarize(cases, labels),
        cases=cases,
        hashes={"predicted": "1", "reference": "2"},
    )


def manifest(plan, fold=0, validation=("case_0",), **changes):
    fields = {
        "inputs_sha256": "0",
        "data_sha256": "d",
        "plan": plan,
        "settings": (),
        "configuration_name": "3d_fullres",
        "fold": fold,
        "cases": Fold(training=("case_1", "case_2"), validation=tuple(validation)),
        "naming": {"image_suffixes": ("_0000.nii.gz",), "label_suffix": ".nii.gz"},
        "step": StepStyle(precision="float32"),
        "step_seconds": {},
        "num_parameters": 1000,
        "device": "cpu",
        "autoseg_version": "0",
        "torch_version": "2",
        "finished": True,
    }
    return msgspec.convert(msgspec.to_builtins({**fields, **changes}), TrainedModel)


def written(found, pictures=None):
    validations = found.validations
    cases = pooled(next(iter(validations.values()))) if validations else ()
    return whole_page(
        found, worst(cases, 3), pictures or {}, num_scored=len(cases), versions={"autoseg": "0"}, made="today"
    )


@pytest.fixture
def whole(build_plan, build_dataset, build_fingerprint):
    """A workspace with two validated folds of three."""
    labels = {"background": 0, "blob": 1}
    plan, dataset = build_plan(), build_dataset()
    folds = tuple(
        FoundFold(
            number=k,
            manifest=manifest(plan, k, [f"case_{k}"]),
            evaluation=evaluation([f"case_{k}"], {"blob": 1}, 0.5 + 0.25 * k),
            metrics=[
                {"epoch": 0, "train_loss": 1.0, "validation_loss": None, "patch_dice": 0.5, "whole_case_dice": None}
            ],
            weights_sha256=f"w{k}",
        )
        for k in range(2)
    )
    splits = Splits(
        inputs_sha256="0",
        method="by hand",
        folds=tuple(Fold(training=("case_1", "case_2"), validation=(f"case_{k}",)) for k in range(3)),
    )
    assert labels == dataset.labels
    return Found(
        name="study",
        root="/w",
        dataset=dataset,
        fingerprint=build_fingerprint(dataset),
        plan=plan,
        splits=splits,
        explanation="# Why this plan\n\nSix cases.\n\n## Patch\n\nRule: r\n\nChose:\n- 8 x 8\n- all\n\nSource: s\n",
        folds={"3d_fullres": folds},
    )


def test_the_verdict_names_mean_cases_and_folds(whole):
    page = written(whole)
    assert '<strong id="mean-dice">0.625</strong>' in page
    assert "Over 2 cases" in page
    assert "folds 0, 1 of 3" in page
    assert "8 x 8; all" in page


@pytest.mark.parametrize(
    "missing",
    [("folds",), ("plan", "splits", "folds"), ("fingerprint",), ("dataset",), ("explanation",), ("splits",)],
)
def test_what_is_missing_is_said_not_an_error(whole, missing):
    empty = {"folds": {}}
    page = written(replace(whole, **{key: empty.get(key) for key in missing}))
    if "folds" in missing:
        assert "Nothing is trained yet" in page
    if "plan" in missing:
        assert "there is no plan.json" in page
    if "fingerprint" in missing:
        assert "there is no fingerprint.json" in page
    if "explanation" in missing:
        assert "plan.md, which says why, is not there" in page


def test_a_fold_alone_and_without_scores_is_said(whole):
    fold = FoundFold(number=0, manifest=manifest(whole.plan, finished=False))
    page = written(replace(whole, folds={"3d_fullres": (fold,)}))
    assert "No fold is validated yet" in page
    assert "not finished" in page
    assert "its manifest" not in page


def test_hostile_names_are_text_everywhere(build_plan, build_dataset, build_fingerprint):
    labels = {"background": 0, HOSTILE: 1}
    dataset = msgspec.convert(
        {**msgspec.to_builtins(build_dataset(labels=labels)), "channel_names": (HOSTILE,), "root": HOSTILE},
        type(build_dataset()),
    )
    plan = build_plan(labels=labels, channels=(HOSTILE,))
    fold = FoundFold(
        number=0,
        manifest=manifest(plan, settings=(HOSTILE,), device=HOSTILE),
        evaluation=evaluation([HOSTILE, "b"], {HOSTILE: 1}),
        weights_sha256=HOSTILE,
    )
    found = Found(
        name=HOSTILE,
        root=HOSTILE,
        dataset=dataset,
        fingerprint=msgspec.structs.replace(build_fingerprint(dataset), rejected={HOSTILE: HOSTILE}),
        plan=plan,
        explanation=f"# {HOSTILE}\n\n## {HOSTILE}\n\nRule: {HOSTILE}\n\nChose:\n- {HOSTILE}\n",
        folds={"3d_fullres": (fold,), HOSTILE: (fold,)},
        notes=(HOSTILE,),
    )
    page = written(found, {(HOSTILE, 0): Picture(b"x", 1, 1, HOSTILE, {HOSTILE: "#ffffff"}), ("b", 0): HOSTILE})
    assert "<img src=x" not in page
    assert page.count("&lt;img src=x") > 20
    # The one picture is ours.
    assert page.count("<img") == 1


def test_folds_in_another_unit_are_not_averaged(whole):
    first, second = whole.folds["3d_fullres"]
    changed = evaluation(["case_1"], {"blob": 1}, 0.0, unit="pixels")
    other = FoundFold(number=1, manifest=second.manifest, evaluation=changed)
    page = written(replace(whole, folds={"3d_fullres": (first, other)}))
    assert '<strong id="mean-dice">0.500</strong>' in page
    assert "Left out: folds 1" in page


def test_nothing_is_stale_where_all_fits(whole):
    assert list(notes(whole)) == []


def test_another_plan_and_other_cases_are_said(whole, build_plan, build_configuration):
    changed = build_plan({"3d_fullres": build_configuration(batch_size=9)})
    told = list(notes(replace(whole, plan=changed)))
    assert len(told) == 2
    assert "3d_fullres, fold 0" in told[0]
    assert "batch_size was 2, is 9" in told[0]
    moved = msgspec.structs.replace(whole.splits, folds=whole.splits.folds[::-1])
    assert any("other cases than splits.json" in line for line in notes(replace(whole, splits=moved)))


def test_settings_of_a_fold_are_no_change_of_the_plan(whole, build_plan, build_configuration):
    used = build_plan({"3d_fullres": build_configuration(batch_size=9)})
    fold = FoundFold(
        number=0,
        manifest=manifest(used, settings=("configurations.3d_fullres.batch_size=9",)),
        evaluation=evaluation(["case_0"], {"blob": 1}),
    )
    assert list(notes(replace(whole, folds={"3d_fullres": (fold,)}))) == []


def test_a_selection_of_other_weights_is_said(whole):
    selection = Selection(
        configurations=("3d_fullres",),
        folds=(0, 1),
        num_cases=2,
        judged_on=(0, 1),
        candidates=(Candidate(configurations=("3d_fullres",), mean_dice=0.6),),
        weights_sha256={"3d_fullres": {"0": "w0", "1": "other"}},
        inputs_sha256="0",
    )
    told = list(notes(replace(whole, selection=selection)))
    assert told == ["selection.json: 3d_fullres, fold 1: trained anew since the choice was made"]
    assert (
        "Selected for new images: 3d_fullres, argmax; no post-processing; mean Dice before post-processing 0.600"
        in written(replace(whole, selection=selection))
    )


def test_a_comparison_is_shown_with_its_verdict():
    span = Interval(low=-0.01, high=0.03)
    result = PairedResult(
        n=20,
        n_undefined=0,
        mean_a=0.8,
        mean_b=0.81,
        mean_b_minus_a=0.01,
        interval_bootstrap=span,
        p_t=0.2,
        verdict="not decidable",
    )
    comparison = Comparison(
        a="ours",
        b="theirs",
        metric="dice",
        unit="fraction",
        better="higher",
        seed=0,
        foreground=result,
        labels={"blob": PairedResult(n=0, n_undefined=3, verdict="nothing")},
        only_a=("x",),
        only_b=(),
        warnings=("other folds",),
        notes=("a note",),
    )
    part = render(
        baseline_section(Comparisons(comparisons=(comparison, msgspec.structs.replace(comparison, b="others"))))
    )
    for text in ("ours", "theirs", "others", "not decidable", "−1.00 to +3.00", "other folds", "a note", "only in A"):
        assert text in part
    assert "No comparison was given" in render(baseline_section(None))


def test_a_published_figure_is_shown_with_what_keeps_the_two_apart():
    row = StandingRow(
        n=20, mean=0.83, interval=Interval(low=0.82, high=0.84), published=0.89, difference=-0.06, verdict="below it"
    )
    standing = Standing(
        source="ours",
        baseline="msd/Task04_Hippocampus/nnunet-v2-plain",
        described="nnU-Net v2",
        metric="dice",
        seed=0,
        num_cases=20,
        num_patients=20,
        foreground=None,
        labels={"blob": row},
        notes=("not paired",),
    )
    part = render(baseline_section(standing))
    for text in ("ours", "msd/Task04_Hippocampus/nnunet-v2-plain", "82.00 to 84.00", "89.00", "below it", "not paired"):
        assert text in part
    assert "mean over labels" not in part


def test_commands_are_those_that_trained(whole):
    first, second = whole.folds["3d_fullres"]
    given = FoundFold(number=1, manifest=manifest(whole.plan, 1, settings=("training.epochs=5", "x=a b")))
    assert commands(whole)[1] == "autoseg train 0 1 -w /w --configuration 3d_fullres"
    apart = commands(replace(whole, folds={"3d_fullres": (first, given)}))
    assert apart[2] == "autoseg train 1 -w /w --configuration 3d_fullres --set training.epochs=5 --set 'x=a b'"
    assert second.number == 1


def test_a_plan_in_words_of_another_kind_is_read_too():
    text = "loose\n# Title\n\nwords\n- one\n- two\nmore\n## Next\n"
    chapters = list(read_chapters(text))
    assert [chapter.title for chapter in chapters] == ["", "Title", "Next"]
    assert chapters[1].blocks == ("words", ("one", "two"), "more")
    assert chapters[1].outcome == ""
    assert list(read_chapters("")) == []
