"""plan.json: made once, kept while its inputs last, never lost."""

import json

import pytest
from msgspec.structs import replace

from autoseg.artifacts.base import read, write
from autoseg.artifacts.plan import Plan, Training
from autoseg.errors import ArtifactError
from autoseg.plan.decide import Meter, Wishes, make_plan
from autoseg.plan.nnunet import to_nnunet
from autoseg.plan.stage import adopt, run


@pytest.fixture
def dataset(build_dataset):
    return build_dataset()


@pytest.fixture
def fingerprint(dataset, build_fingerprint):
    return build_fingerprint(dataset)


@pytest.fixture
def out(tmp_path):
    return tmp_path / "w" / "plan.json"


def test_a_plan_is_written_and_copies_what_it_is_made_from(dataset, fingerprint, out):
    plan = run(fingerprint, out, out.with_suffix(".md"))
    assert read(out, Plan) == plan
    assert plan.labels == dataset.labels
    assert plan.channel_names == dataset.channel_names
    assert plan.intensities == fingerprint.intensities
    assert plan.gpu_memory_gb == 8.0


def test_a_plan_edited_by_hand_is_kept(dataset, fingerprint, out):
    plan = run(fingerprint, out, out.with_suffix(".md"))
    edited = replace(plan, training=Training(epochs=7))
    write(out, edited)
    before = out.stat().st_mtime_ns
    assert run(fingerprint, out, out.with_suffix(".md")) == edited
    assert out.stat().st_mtime_ns == before
    assert sorted(out.parent.iterdir()) == [out, out.with_suffix(".md")]


def test_changed_inputs_make_a_new_plan_and_save_the_old(dataset, fingerprint, out):
    edited = replace(run(fingerprint, out, out.with_suffix(".md")), training=Training(epochs=7))
    write(out, edited)
    new = run(replace(fingerprint, inputs_sha256="1"), out, out.with_suffix(".md"))
    assert new.training.epochs == 1000
    assert read(out, Plan) == new
    assert read(out.with_name("plan.previous.json"), Plan) == edited
    run(replace(fingerprint, inputs_sha256="2"), out, out.with_suffix(".md"))
    assert read(out.with_name("plan.previous.json"), Plan) == edited
    assert read(out.with_name("plan.previous-2.json"), Plan) == new


def test_every_input_counts(dataset, fingerprint):
    hashes = {
        make_plan(fingerprint).inputs_sha256,
        make_plan(fingerprint, Wishes(gpu_memory_gb=16)).inputs_sha256,
        make_plan(fingerprint, Wishes(preset="resenc-m")).inputs_sha256,
        make_plan(fingerprint, Wishes(spacing=(2, 2, 2))).inputs_sha256,
        make_plan(replace(fingerprint, num_training=7)).inputs_sha256,
        make_plan(replace(fingerprint, inputs_sha256="1")).inputs_sha256,
        make_plan(fingerprint, Wishes(preset="auto")).inputs_sha256,
        make_plan(fingerprint, Wishes(measure_on="cpu")).inputs_sha256,
        # What is measured is held against a target that is named, else against what is free.
        make_plan(fingerprint, Wishes(measure_on="cpu", gpu_memory_gb=8)).inputs_sha256,
    }
    assert len(hashes) == 9
    # The usual values, said or not, are the same.
    for usual in (8, 8.0):
        assert make_plan(fingerprint, Wishes(gpu_memory_gb=usual)).inputs_sha256 in hashes


@pytest.mark.parametrize(("preset", "gigabytes"), [("resenc-m", 8), ("resenc-l", 24), ("resenc-xl", 40)])
def test_a_residual_preset_is_planned_for_its_own_memory(dataset, fingerprint, preset, gigabytes):
    plan = make_plan(fingerprint, Wishes(preset=preset))
    assert (plan.preset, plan.gpu_memory_gb) == (preset, gigabytes)
    full = plan.configurations["3d_fullres"]
    assert full.n_conv_per_stage is None
    assert full.n_blocks_per_stage == (1, 3, 4, 6, 6, 6)[: full.n_stages]
    assert full.n_conv_per_stage_decoder == (1,) * (full.n_stages - 1)


def test_a_spacing_of_ones_own_counts_for_the_axis_order_too(dataset, fingerprint):
    plan = make_plan(fingerprint, Wishes(spacing=(1.0, 1.0, 3.0)))
    assert plan.transpose_forward == (2, 0, 1)
    assert plan.configurations["3d_fullres"].spacing == (3.0, 1.0, 1.0)


def test_a_damaged_plan_is_explained_and_not_overwritten(dataset, fingerprint, out):
    run(fingerprint, out, out.with_suffix(".md"))
    out.write_text('{"training": ')
    with pytest.raises(ArtifactError, match="not valid JSON"):
        run(fingerprint, out, out.with_suffix(".md"))
    assert out.read_text() == '{"training": '


def test_two_numbers_are_a_spacing_of_the_plane(build_dataset, build_fingerprint):
    pictures = build_fingerprint(build_dataset(), shapes=((1, 500, 600),), spacing_mm=(999.0, 1.0, 1.0))
    plan = make_plan(pictures, Wishes(spacing=(2.0, 3.0)))
    assert set(plan.configurations) == {"2d"}
    assert plan.configurations["2d"].spacing == (2.0, 3.0)
    assert plan.configurations["2d"].median_image_size_in_voxels == (250.0, 200.0)


def test_a_measured_plan_keeps_its_edits_even_without_its_explanation(fingerprint, out):
    explanation = out.with_suffix(".md")
    meter = Meter("a scale", 2, lambda _plan, configuration: (configuration.batch_size, True))
    wishes = Wishes(measure_on="cpu")
    plan = run(fingerprint, out, explanation, wishes, meter)
    assert {each.batch_size for each in plan.configurations.values()} == {2}
    edited = replace(plan, training=Training(epochs=7))
    write(out, edited)
    explanation.unlink()
    assert run(fingerprint, out, explanation, wishes, meter) == edited
    assert "batch 2" in explanation.read_text()
    assert not out.with_name("plan.previous.json").exists()


def test_an_import_says_what_autoseg_would_plan_otherwise(build_dataset, build_fingerprint, out):
    fingerprint = build_fingerprint(build_dataset(num_cases=100), shapes=((60, 512, 512),), spacing_mm=(5.0, 0.8, 0.8))
    content = to_nnunet(make_plan(fingerprint), dataset_name="D", plans_name="p", file_ending=".nii.gz")
    del content["configurations"]["2d"]
    content["configurations"]["3d_fullres"]["batch_size"] = 3
    adopt(fingerprint, out, out.with_suffix(".md"), json.loads(json.dumps(content)), "theirs.json")
    told = out.with_suffix(".md").read_text().splitlines()
    assert "- 2d: autoseg would plan it" in told
    assert "- 3d_fullres.batch_size would be 2, is 3" in told
    # The cascade inherits it.
    assert len([line for line in told if line.startswith("- ")]) == 3
