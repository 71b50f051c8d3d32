"""Models on disk, their mean, and runs that go on where they stopped."""

import errno
from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import save_file

from autoseg.artifacts.base import read, write
from autoseg.artifacts.geometry import Geometry
from autoseg.artifacts.model import StepStyle, TrainedModel
from autoseg.artifacts.plan import Prediction
from autoseg.artifacts.prediction import PredictionSet
from autoseg.artifacts.preprocessed import Placement
from autoseg.errors import ArtifactError, AutosegError, DatasetError, SettingError
from autoseg.images.io import read_label
from autoseg.layout import Workspace
from autoseg.machine import locked
from autoseg.networks.unet import build_network
from autoseg.predict.case import Volume, compute_case, mean_logits, probabilities_file
from autoseg.predict.models import check_agreement, load_models, loaded, models_of
from autoseg.predict.sliding import sliding_logits
from autoseg.predict.stage import Options, Part, run

CPU = torch.device("cpu")
SHAPE = (6, 10, 9)


@pytest.fixture
def image():
    return np.random.default_rng(0).standard_normal((1, *SHAPE), dtype=np.float32)


def test_a_fold_is_loaded_with_its_weights(train_fold):
    (model,) = load_models([train_fold(1)], CPU)
    torch.manual_seed(1)
    expected = build_network(model.configuration, 1, 3).state_dict()
    for name, tensor in model.network.state_dict().items():
        assert torch.equal(tensor, expected[name])
    assert not model.network.training
    assert model.plan.num_classes == 3
    assert model.manifest.fold == 1


@pytest.mark.parametrize(("knows", "precision"), [(True, "bfloat16"), (False, "float32")])
def test_arithmetic_is_what_the_cpu_knows_and_on_gpus_that_of_training_there(train_fold, monkeypatch, knows, precision):
    monkeypatch.setattr("autoseg.predict.models.multiplies_bfloat16", lambda: knows)
    (model,) = load_models([train_fold(0, step=StepStyle(precision="bfloat16"), device="cuda:1")], CPU)
    assert model.precision(CPU) == precision
    assert model.precision(torch.device("cuda")) == "bfloat16"
    (model,) = load_models([train_fold(0)], CPU)
    assert model.precision(torch.device("cuda")) == "float16"


def test_a_fold_that_is_not_trained_is_explained(tmp_path):
    with pytest.raises(SettingError, match="not trained") as caught:
        load_models([Workspace(tmp_path).fold("3d_fullres", 3)], CPU)
    assert "autoseg train 3" in str(caught.value)


def test_a_fold_that_is_not_finished_is_explained(train_fold):
    folder = train_fold(2, finished=False)
    with pytest.raises(SettingError, match="not finished") as caught:
        load_models([folder], CPU)
    assert "autoseg train 2" in str(caught.value)
    folder = train_fold(2)
    folder.weights.unlink()
    with pytest.raises(SettingError, match="not finished"):
        load_models([folder], CPU)


@pytest.mark.parametrize("damage", [lambda data: data[: len(data) // 2], lambda _: b"", lambda _: b"no weights"])
def test_damaged_weights_are_explained(train_fold, damage):
    folder = train_fold(0)
    folder.weights.write_bytes(damage(folder.weights.read_bytes()))
    with pytest.raises(ArtifactError, match="weights can't be read") as caught:
        load_models([folder], CPU)
    assert str(folder.weights) in str(caught.value)


def test_weights_of_another_network_are_explained(train_fold):
    folder = train_fold(0)
    save_file({"other": torch.zeros(1)}, folder.weights)
    with pytest.raises(ArtifactError, match="weights don't fit their plan"):
        load_models([folder], CPU)


def test_a_record_that_asks_for_a_huge_network_takes_no_memory(train_fold):
    folder = train_fold(0)
    manifest = read(folder.manifest, TrainedModel)
    configuration = manifest.configuration
    features = tuple(1_000_000 for _ in configuration.features_per_stage)  # terabytes of weights
    plan = replace(manifest.plan, configurations={"3d_fullres": replace(configuration, features_per_stage=features)})
    write(folder.manifest, replace(manifest, plan=plan))
    with pytest.raises(ArtifactError, match="weights don't fit their plan"):
        load_models([folder], CPU)


def test_folds_of_different_plans_are_not_averaged(train_fold, build_plan, build_configuration):
    plan = build_plan(
        {"3d_fullres": build_configuration((4, 8, 8), spacing=(2.0, 1.0, 1.0))},
        labels={"background": 0, "a": 1, "b": 2},
    )
    with pytest.raises(SettingError, match="different plans") as caught:
        load_models([train_fold(0), train_fold(1, plan=plan)], CPU)
    assert "fold_0" in str(caught.value)
    assert "fold_1" in str(caught.value)
    trained_longer = build_plan(
        {"3d_fullres": build_configuration((4, 8, 8))}, labels={"background": 0, "a": 1, "b": 2}, gpu_memory_gb=11.0
    )
    check_agreement(load_models([train_fold(0), train_fold(1, plan=trained_longer)], CPU))
    smaller_batch = build_plan(
        {"3d_fullres": build_configuration((4, 8, 8), batch_size=1)}, labels={"background": 0, "a": 1, "b": 2}
    )
    check_agreement(load_models([train_fold(0), train_fold(1, plan=smaller_batch)], CPU))


def test_the_mean_of_two_models_is_the_mean_of_their_logits(train_fold, image):
    models = load_models([train_fold(0), train_fold(1)], CPU)
    options = {"device": CPU, "mirror_axes": (0, 2), "step": 0.5}
    singles = [mean_logits([model], image, **options) for model in models]
    assert np.abs(singles[0] - singles[1]).max() > 0.1
    np.testing.assert_allclose(mean_logits(models, image, **options), (singles[0] + singles[1]) / 2, atol=1e-4)
    direct = np.empty((3, *SHAPE), np.float32)
    network = partial(models[0].logits, precision=models[0].precision(CPU))
    sliding_logits([network], image, (4, 8, 8), keep=direct, exclusive=True, **options)
    np.testing.assert_array_equal(singles[0], direct)


class Cases:
    """Volumes that remember how often they were asked for."""

    def __init__(self, image, names):
        grid = Geometry(shape=SHAPE, spacing_mm=(3.0, 1.0, 1.0), origin_mm=(1.0, 2.0, 3.0))
        placement = Placement(geometry=grid, crop_start=(0, 0, 0), crop_stop=SHAPE, shape=SHAPE)
        self.asked = []
        self.volume = Volume(image, placement)
        self.fail_at = None
        self.broken = []
        self.names = names
        self.files = {name: f"{name}.nii.gz" for name in names}
        self.inputs = dict.fromkeys(names, "0")

    def get(self, name):
        self.asked.append(name)
        if name == self.fail_at:
            raise KeyboardInterrupt
        if name in self.broken:
            raise DatasetError("a broken file", where=f"case {name}")
        return self.volume

    def run(self, models, out, **options):
        self.asked.clear()
        sources = {name: Source(self, name) for name in self.names}
        return run(models, sources, out, self.files, self.inputs, device_name="cpu", options=Options(**options))


@dataclass(frozen=True)
class Source:
    cases: Cases
    name: str

    def read(self, _model):
        return self.cases.get(self.name)


@pytest.fixture
def cases(image):
    return Cases(image, ["one", "two", "three"])


@pytest.fixture
def models(train_fold):
    return load_models([train_fold(0), train_fold(1)], CPU)


def test_label_maps_are_written_on_the_grid_of_the_case(models, cases, image, tmp_path):
    record = cases.run(models, tmp_path / "out")
    assert read(tmp_path / "out" / "prediction.json", PredictionSet) == record
    assert record.files == cases.files
    assert record.mirror_axes == (0, 1, 2)
    assert record.step == 0.5
    label = read_label(tmp_path / "out" / "two.nii.gz", case="two")
    assert label.geometry.shape == SHAPE
    assert label.geometry.spacing_mm == (3.0, 1.0, 1.0)
    logits = mean_logits(models, image, device=CPU, mirror_axes=(0, 1, 2), step=0.5)
    np.testing.assert_array_equal(label.array_zyx, logits.argmax(0))


def test_a_second_start_predicts_only_what_is_missing(models, cases, tmp_path):
    out = tmp_path / "out"
    cases.run(models, out)
    assert cases.asked == ["one", "two", "three"]
    cases.run(models, out)
    assert cases.asked == []
    before = (out / "one.nii.gz").stat().st_mtime_ns
    (out / "two.nii.gz").unlink()
    cases.run(models, out)
    assert cases.asked == ["two"]
    assert (out / "one.nii.gz").stat().st_mtime_ns == before


def test_a_run_that_was_interrupted_keeps_what_is_done(models, cases, tmp_path):
    cases.fail_at = "two"
    with pytest.raises(KeyboardInterrupt):
        cases.run(models, tmp_path / "out")
    cases.fail_at = None
    cases.run(models, tmp_path / "out")
    assert cases.asked == ["two", "three"]


def test_earlier_cases_of_the_same_models_stay_on_record(models, cases, tmp_path):
    cases.run(models, tmp_path / "out")
    cases.names = ["two", "four"]
    cases.files = {name: f"{name}.nii.gz" for name in cases.names}
    cases.inputs = dict.fromkeys(cases.names, "0")
    record = cases.run(models, tmp_path / "out")
    assert cases.asked == ["four"]
    assert set(record.files) == set(record.inputs) == {"one", "two", "three", "four"}


def test_files_that_are_no_predictions_are_never_replaced(models, cases, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "two.nii.gz").write_text("someone's own labels")
    with pytest.raises(SettingError, match="did not predict") as caught:
        cases.run(models, tmp_path / "out")
    assert "two.nii.gz" in str(caught.value)
    assert (tmp_path / "out" / "two.nii.gz").read_text() == "someone's own labels"
    assert cases.asked == []


def test_files_beside_a_case_that_are_no_predictions_are_never_replaced(models, cases, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "two.npz").write_text("someone's own numbers")
    with pytest.raises(SettingError, match="did not predict"):
        cases.run(models, out, save_probabilities=True)
    cases.run(models, out)
    assert (out / "two.npz").read_text() == "someone's own numbers"


def test_what_other_models_predicted_stays_ours(models, cases, tmp_path):
    cases.run(models, tmp_path / "out")
    cases.names = ["two"]
    record = cases.run(models[:1], tmp_path / "out")
    assert set(record.files) == {"one", "two", "three"}
    assert set(record.inputs) == {"two"}
    cases.names = ["one", "two", "three"]
    cases.run(models[:1], tmp_path / "out")
    assert cases.asked == ["one", "three"]


def test_a_case_that_cant_be_read_does_not_keep_the_others_waiting(models, cases, tmp_path):
    cases.broken = ["one"]
    with pytest.raises(DatasetError, match="broken") as caught:
        cases.run(models, tmp_path / "out")
    assert "one" in str(caught.value)
    assert set(read(tmp_path / "out" / "prediction.json", PredictionSet).files) == {"two", "three"}
    cases.broken = ["one", "two", "three"]
    with pytest.raises(AutosegError, match="3 of 3 cases") as caught:
        cases.run(models, tmp_path / "empty")
    assert "one, two, three" in str(caught.value)
    assert not (tmp_path / "empty").exists()
    cases.broken = []
    cases.run(models, tmp_path / "out")
    assert cases.asked == ["one"]


def test_parts_side_by_side_make_the_whole(models, cases, tmp_path):
    out = tmp_path / "out"
    cases.run(models, out, part=Part(1, 2))
    assert cases.asked == ["one", "two"]  # of one, three, two
    cases.run(models, out, part=Part(2, 2))
    assert cases.asked == ["three"]
    assert {path.name for path in out.glob("*.json")} == {"prediction.1of2.json", "prediction.2of2.json"}
    cases.run(models, out, part=Part(1, 2))
    cases.run(models, out)
    assert cases.asked == []
    cases.run(models[:1], out)
    assert cases.asked == ["one", "two", "three"]


def test_what_a_share_replaced_is_not_taken_for_the_work_of_before(models, cases, tmp_path):
    out = tmp_path / "out"
    cases.run(models, out)
    for number in (1, 2):
        cases.run(models[:1], out, part=Part(number, 2))
    cases.run(models, out)
    assert cases.asked == ["one", "two", "three"]


def test_two_records_of_a_case_do_not_make_it_be_predicted_again(models, cases, tmp_path):
    out = tmp_path / "out"
    cases.run(models, out)
    cases.inputs["one"] = "1"
    cases.run(models, out, part=Part(1, 2))
    assert cases.asked == ["one"]
    cases.run(models, out)
    assert cases.asked == []


@pytest.mark.parametrize(("held", "part"), [("", Part(1, 2)), (".1of3", Part(1, 2)), (".2of2", None)])
def test_shares_of_another_whole_are_not_predicted_side_by_side(models, cases, tmp_path, held, part):
    with locked(tmp_path / "out" / f".prediction{held}.lock", wait=False):
        with pytest.raises(SettingError, match="another process"):
            cases.run(models, tmp_path / "out", part=part)
        assert cases.asked == []
    cases.run(models, tmp_path / "out", part=part)


def test_shares_of_one_whole_are(models, cases, tmp_path):
    with locked(tmp_path / "out" / ".prediction.2of2.lock", wait=False):
        cases.run(models, tmp_path / "out", part=Part(1, 2))
    assert cases.asked == ["one", "two"]


def test_a_case_that_fails_is_named_and_those_before_it_kept(models, cases, tmp_path, monkeypatch):
    def fail(task, volume):
        if task.name == "two":
            raise RuntimeError("unforeseen")
        return compute_case(task, volume)

    monkeypatch.setattr("autoseg.predict.stage.compute_case", fail)
    with pytest.raises(AutosegError, match="a case failed") as caught:
        cases.run(models, tmp_path / "out")
    assert "case two" in str(caught.value)
    assert set(read(tmp_path / "out" / "prediction.json", PredictionSet).inputs) == {"one"}
    assert (tmp_path / "out" / "one.nii.gz").exists()


def test_a_full_disk_is_explained_before_anything_is_computed(models, cases, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("autoseg.predict.case.SINGLE_BYTES", 0)
    monkeypatch.setattr("autoseg.predict.case.MEMORY_SHARE", 0)
    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(ArtifactError, match="no room for the logits") as caught:
        cases.run(models, tmp_path / "out")
    assert "No space left" in str(caught.value)


def test_logits_of_many_voxels_lie_in_half_precision_in_memory_or_in_a_file(models, cases, tmp_path, monkeypatch):
    cases.run(models, tmp_path / "single")
    monkeypatch.setattr("autoseg.predict.case.SINGLE_BYTES", 0)
    cases.run(models, tmp_path / "half")
    monkeypatch.setattr("autoseg.predict.case.MEMORY_SHARE", 0)
    cases.run(models, tmp_path / "file")
    single, half, file = (read_label(tmp_path / way / "two.nii.gz", case="two") for way in ("single", "half", "file"))
    np.testing.assert_array_equal(half.array_zyx, file.array_zyx)
    np.testing.assert_array_equal(half.array_zyx, single.array_zyx)


def test_a_case_whose_input_changed_is_predicted_again(models, cases, tmp_path):
    cases.run(models, tmp_path / "out")
    cases.inputs["three"] = "1"
    cases.run(models, tmp_path / "out")
    assert cases.asked == ["three"]


@pytest.mark.parametrize("change", [{"step": 1.0}, {"mirroring": False}])
def test_other_options_predict_everything_again(models, cases, tmp_path, change):
    cases.run(models, tmp_path / "out")
    record = cases.run(models, tmp_path / "out", **change)
    assert cases.asked == ["one", "two", "three"]
    assert (record.step, record.mirror_axes) == ((1.0, (0, 1, 2)) if "step" in change else (0.5, ()))


def test_other_models_predict_everything_again(models, cases, tmp_path):
    cases.run(models, tmp_path / "out")
    cases.run(models[:1], tmp_path / "out")
    assert cases.asked == ["one", "two", "three"]


def test_a_fold_trained_anew_predicts_everything_again(train_fold, cases, tmp_path):
    cases.run(load_models([train_fold(0)], CPU), tmp_path / "out")
    cases.run(load_models([train_fold(0)], CPU), tmp_path / "out")
    assert cases.asked == []
    cases.run(load_models([train_fold(0, seed=7)], CPU), tmp_path / "out")
    assert cases.asked == ["one", "two", "three"]


def test_what_other_options_left_does_not_pass_for_done_after_an_interrupt(models, cases, tmp_path):
    cases.run(models, tmp_path / "out")
    cases.fail_at = "two"
    with pytest.raises(KeyboardInterrupt):
        cases.run(models, tmp_path / "out", mirroring=False)
    cases.fail_at = None
    cases.run(models, tmp_path / "out", mirroring=False)
    assert cases.asked == ["two", "three"]


def test_the_plan_says_how_where_the_command_does_not(train_fold, build_plan, build_configuration, cases, tmp_path):
    plan = build_plan(
        {"3d_fullres": build_configuration((4, 8, 8))},
        labels={"background": 0, "a": 1, "b": 2},
        prediction=Prediction(mirroring=False, step=0.75),
    )
    models = load_models([train_fold(0, plan=plan)], CPU)
    record = cases.run(models, tmp_path / "out")
    assert (record.mirror_axes, record.step) == ((), 0.75)
    record = cases.run(models, tmp_path / "out", mirroring=True, step=0.5)
    assert (record.mirror_axes, record.step) == ((0, 1, 2), 0.5)


def test_probabilities_are_saved_on_request_and_missing_ones_made(models, cases, tmp_path):
    out = tmp_path / "out"
    cases.run(models, out)
    cases.run(models, out, save_probabilities=True)
    assert cases.asked == ["one", "two", "three"]
    with np.load(out / "one.npz") as file:
        probabilities = file["probabilities"]
    assert probabilities.dtype == np.float16
    assert probabilities.shape == (3, *SHAPE)
    np.testing.assert_allclose(probabilities.astype(np.float32).sum(axis=0), 1, atol=2e-3)
    # The likeliest class is that of the label map, but for ties in half precision.
    label = read_label(out / "one.nii.gz", case="one").array_zyx
    chosen = np.take_along_axis(probabilities, label[None].astype(np.int64), axis=0)[0]
    np.testing.assert_array_equal(chosen, probabilities.max(axis=0))
    cases.run(models, out, save_probabilities=True)
    assert cases.asked == []


@pytest.mark.parametrize(("label", "npz"), [("a.nii.gz", "a.npz"), ("a.b.nrrd", "a.b.npz"), ("a.png", "a.npz")])
def test_probabilities_lie_beside_the_label_map(tmp_path, label, npz):
    assert probabilities_file(tmp_path / label) == tmp_path / npz


def test_a_file_in_the_place_of_the_output_folder_is_explained(models, cases, tmp_path):
    (tmp_path / "out").write_text("in the way")
    with pytest.raises(ArtifactError, match="can't be written"):
        cases.run(models, tmp_path / "out")


def test_leftovers_of_a_killed_prediction_are_removed(models, cases, tmp_path):
    out = tmp_path / "out"
    for name in (".two.a1b2c3.part", ".other.a1b2c3.part"):
        (out / name).mkdir(parents=True)
        (out / name / "two.nii.gz").touch()
    cases.run(models, out)
    assert sorted(path.name for path in out.iterdir()) == [
        ".other.a1b2c3.part", "one.nii.gz", "prediction.json", "three.nii.gz", "two.nii.gz"
    ]  # fmt: skip


def test_one_process_at_a_time_predicts_into_a_folder(models, cases, tmp_path):
    with locked(tmp_path / "out" / ".prediction.lock", wait=False):
        with pytest.raises(SettingError, match="another process"):
            cases.run(models, tmp_path / "out")
        assert cases.asked == []
    cases.run(models, tmp_path / "out")


def test_another_process_loads_the_same_models_once(train_fold, tmp_path):
    folder = train_fold(0)
    (model,) = load_models([folder], CPU)
    with loaded([model], "cpu") as ensemble:
        assert models_of(ensemble)[0] is model
    (again,) = models_of(ensemble)
    assert again is not model
    assert models_of(ensemble)[0] is again
    train_fold(0, seed=5)
    (new,) = load_models([folder], CPU)
    with loaded([new], "cpu") as newer:
        pass
    assert models_of(newer)[0].weights_sha256 == new.weights_sha256
    with pytest.raises(SettingError, match="weights are not those"):
        models_of(ensemble)


def test_models_stay_loaded_until_the_last_block_that_holds_them_ends(train_fold):
    (model,) = load_models([train_fold(0)], CPU)
    with loaded([model], "cpu") as ensemble:
        with loaded([model], "cpu") as again:
            assert again == ensemble
        assert models_of(ensemble)[0] is model
    assert models_of(ensemble)[0] is not model


def test_label_maps_hold_the_values_of_the_datasets_files_and_are_made_anew_when_these_change(
    train_fold, cases, tmp_path
):
    for file_values in ((), (0, 128, 255)):
        models = load_models([train_fold(0, file_values=file_values)], CPU)
        cases.run(models, tmp_path / "out")
        values = read_label(tmp_path / "out" / "two.nii.gz", case="two").values()
        assert set(values) <= set(file_values or (0, 1, 2))
        assert len(cases.asked) == 3
        cases.run(models, tmp_path / "out")
        assert cases.asked == []


def test_a_case_that_would_replace_a_record_is_refused(models, cases, tmp_path):
    cases.files["two"] = "prediction.tif"
    with pytest.raises(SettingError, match=r"name of a record(.|\n)*prediction\.json"):
        cases.run(models, tmp_path / "out")
