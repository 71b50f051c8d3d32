"""One file that predicts anywhere: what goes in comes out, and nothing else is opened."""

import hashlib
import json
import pickle
import zipfile
from pathlib import Path

import msgspec
import numpy as np
import pytest
import SimpleITK
import torch
from click.testing import CliRunner

from autoseg.artifacts.base import read
from autoseg.artifacts.bundle import RECORD, Bundle, read_bundle, read_weights, write_bundle
from autoseg.artifacts.model import TrainedModel
from autoseg.artifacts.prediction import PredictionSet
from autoseg.cli import main
from autoseg.errors import ArtifactError, SettingError
from autoseg.images.io import read_label
from autoseg.networks.stored import fold_at, folds_in_bundle
from autoseg.predict.models import Ensemble, LoadedModel, check_agreement, load_bundle, load_models, loaded, models_of

CPU = torch.device("cpu")


@pytest.fixture
def folders(train_fold):
    return [train_fold(0), train_fold(3)]


@pytest.fixture
def bundle(folders, tmp_path):
    models = [(read(folder.manifest, TrainedModel), folder.weights.read_bytes()) for folder in folders]
    write_bundle(tmp_path / "model.zip", models, source="here")
    return tmp_path / "model.zip"


@pytest.fixture
def rewrite(bundle):
    """Callable: the archive with some of its entries changed (None: left out) and others added."""

    def make(changes, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(bundle) as archive:
            entries = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(bundle, "w", compression) as archive:
            for name, content in {**entries, **changes}.items():
                if content is not None:
                    archive.writestr(name, content)
        return bundle

    return make


def test_a_bundle_predicts_with_the_folds_that_were_put_there(folders, bundle):
    before, after = load_models(folders, CPU), load_bundle(bundle, None, CPU)
    assert [model.manifest for model in after] == [model.manifest for model in before]
    assert [model.weights_sha256 for model in after] == [model.weights_sha256 for model in before]
    for one, other in zip(before, after, strict=True):
        assert not other.network.training
        for name, tensor in one.network.state_dict().items():
            assert torch.equal(other.network.state_dict()[name], tensor)


def test_some_of_its_folds_may_be_chosen(bundle):
    assert [model.manifest.fold for model in load_bundle(bundle, [3], CPU)] == [3]
    with pytest.raises(SettingError, match="no such fold") as caught:
        load_bundle(bundle, [1], CPU)
    assert "0, 3" in str(caught.value)


def test_another_process_finds_its_folds_again(bundle):
    models = load_bundle(bundle, None, CPU)
    with loaded(models, "cpu") as ensemble:
        pass
    again = models_of(ensemble)
    assert again is not models
    assert [model.weights_sha256 for model in again] == [model.weights_sha256 for model in models]
    other = Ensemble(ensemble.folders, ("0" * 64, "1" * 64), "cpu")
    with pytest.raises(SettingError, match="not those"):
        models_of(other)


def test_two_exports_of_the_same_folds_are_the_same_file(folders, bundle, tmp_path):
    models = [(read(folder.manifest, TrainedModel), folder.weights.read_bytes()) for folder in folders]
    write_bundle(tmp_path / "again.zip", models, source="here")
    assert (tmp_path / "again.zip").read_bytes() == bundle.read_bytes()


@pytest.mark.parametrize("name", ["../outside.txt", "/outside.txt", "a/../../b", "..\\outside.txt", "C:/outside.txt"])
def test_names_that_lead_out_of_it_are_refused(rewrite, name):
    with pytest.raises(ArtifactError, match="outside") as caught:
        read_bundle(rewrite({name: b"x"}))
    assert name.replace("\\", "/").rpartition("/")[2] in str(caught.value)


def test_a_bomb_is_refused_before_it_is_unpacked(rewrite):
    with pytest.raises(ArtifactError, match="compressed") as caught:
        read_bundle(rewrite({"weights": bytes(10**7)}, zipfile.ZIP_DEFLATED))
    assert "do not open" in str(caught.value)


def test_entries_that_share_their_bytes_are_refused(bundle):
    # As in a bomb without compression: the directory names the same place many times.
    with zipfile.ZipFile(bundle, "a") as archive:
        for number in range(3):
            again = zipfile.ZipInfo(f"copy_{number}")
            first = archive.infolist()[1]
            again.header_offset, again.file_size, again.compress_size = first.header_offset, 10**6, 10**6
            again.CRC = first.CRC
            archive.filelist.append(again)
        archive._didModify = True
    with pytest.raises(ArtifactError, match="more than its size allows"):
        read_bundle(bundle)


def test_a_pickle_is_not_opened(rewrite):
    class Trap:
        def __reduce__(self):
            return (Path("trapped").touch, ())

    with pytest.raises(ArtifactError, match="does not hold what its record names") as caught:
        read_bundle(rewrite({"data.pkl": pickle.dumps(Trap())}))
    assert "data.pkl" in str(caught.value)


def test_weights_that_are_a_pickle_are_not_opened(rewrite, bundle):
    fold = read_bundle(bundle).folds[0]
    trap = pickle.dumps({"weights": 1})
    record = json.loads(zipfile.ZipFile(bundle).read(RECORD))
    record["folds"][0]["weights_sha256"] = hashlib.sha256(trap).hexdigest()
    rewrite({fold.file: trap, RECORD: json.dumps(record)})
    with pytest.raises(ArtifactError, match="weights can't be read"):
        load_bundle(bundle, None, CPU)


def test_weights_with_another_hash_are_refused(rewrite, bundle):
    fold = read_bundle(bundle).folds[0]
    content = bytearray(read_weights(bundle, fold.file))
    content[-1] ^= 1
    with pytest.raises(ArtifactError, match="not those that stand on record") as caught:
        load_bundle(rewrite({fold.file: bytes(content)}), None, CPU)
    assert fold.weights_sha256 in str(caught.value)


def test_a_missing_file_is_named(rewrite, bundle):
    file = read_bundle(bundle).folds[1].file
    with pytest.raises(ArtifactError, match="does not hold") as caught:
        read_bundle(rewrite({file: None}))
    assert file in str(caught.value)


def test_other_archives_and_files_are_refused(rewrite, bundle, tmp_path):
    with pytest.raises(ArtifactError, match="no bundle"):
        read_bundle(rewrite({RECORD: None}))
    bundle.write_bytes(b"no archive")
    with pytest.raises(ArtifactError, match="can't be read"):
        read_bundle(bundle)
    with pytest.raises(ArtifactError, match="can't be read"):
        read_bundle(tmp_path / "missing.zip")


def test_a_damaged_bundle_is_refused(bundle):
    content = bytearray(bundle.read_bytes())
    content[len(content) // 2] ^= 255
    bundle.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"damaged|not those"):
        load_bundle(bundle, None, CPU)


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda folds: folds[1]["manifest"].update(fold=0), "there twice: 3d_fullres, folds 0, 0"),
        (lambda folds: folds[1]["manifest"].update(configuration_name="2d"), "several configurations"),
        (lambda folds: [fold["manifest"].update(configuration_name="../2d") for fold in folds], "not in its plan"),
        (lambda folds: folds[0]["manifest"].update(finished=False), "not finished"),
    ],
)
def test_a_record_that_contradicts_itself_is_refused(rewrite, bundle, change, found):
    record = json.loads(zipfile.ZipFile(bundle).read(RECORD))
    change(record["folds"])
    with pytest.raises(ArtifactError, match="contradicts itself") as caught:
        read_bundle(rewrite({RECORD: json.dumps(record)}))
    assert found in str(caught.value)


@pytest.fixture
def staged(train_fold, build_plan, build_configuration):
    """Callable: manifest and weights of a fold in a chain of stages; `cuts`: where the chain is cut."""
    names = ("2d", "3d_lowres", "3d_fullres")  # each the stage before the next

    def make(name, fold=0, cuts=()):
        befores = dict(zip(names, (None, *names), strict=False))
        configurations = {
            each: build_configuration((4, 8, 8), previous_stage=None if each in cuts else before)
            for each, before in befores.items()
        }
        folder = train_fold(fold)
        manifest = msgspec.structs.replace(
            read(folder.manifest, TrainedModel), plan=build_plan(configurations), configuration_name=name
        )
        return manifest, folder.weights.read_bytes()

    return make


@pytest.mark.parametrize(
    ("stages", "found"),
    [
        (lambda make: ([make("3d_fullres", 0), make("3d_fullres", 1, ["3d_fullres"])], []), "3d_lowres, none"),
        (
            lambda make: (
                [make("3d_fullres", 0), make("3d_fullres", 1, ["3d_fullres"])],
                [make("3d_lowres", 0, ["3d_lowres"])],
            ),
            "folds with different previous stages: 3d_lowres, none",
        ),
        (lambda make: ([make("3d_fullres")], []), "previous stage: none"),
        (lambda make: ([make("3d_fullres")], [make("2d")]), "previous stage: 2d"),
        (lambda make: ([make("3d_fullres", 0, ["3d_fullres"])], [make("2d")]), "previous stage: 2d"),
        (lambda make: ([make("3d_fullres")], [make("3d_lowres")]), "previous stage of the previous stage: 2d"),
    ],
)
def test_stages_that_no_export_puts_together_are_refused(staged, tmp_path, stages, found):
    folds, previous = stages(staged)
    write_bundle(tmp_path / "model.zip", folds, source="here", previous=previous)
    with pytest.raises(ArtifactError, match="contradicts itself") as caught:
        read_bundle(tmp_path / "model.zip")
    assert caught.value.found.endswith(found)


def test_both_stages_of_a_cascade_fit_into_a_bundle(staged, tmp_path):
    cut = ["3d_lowres"]
    written = write_bundle(
        tmp_path / "model.zip",
        [staged("3d_fullres", 0, cut), staged("3d_fullres", 1, cut)],
        source="here",
        previous=[staged("3d_lowres", 0, cut)],
    )
    assert read_bundle(tmp_path / "model.zip") == written


def test_a_record_nested_without_end_is_refused(rewrite):
    with pytest.raises(ArtifactError, match="not valid JSON"):
        read_bundle(rewrite({RECORD: "[" * 200_000}))


@pytest.mark.parametrize("offset", [6, 8])
def test_a_directory_made_to_break_its_reader_is_refused(bundle, offset):
    content = bytearray(bundle.read_bytes())
    entry = content.index(b"PK\x01\x02")
    if offset == 6:  # the version of zip that is needed to read it
        content[entry + 6] = 99
    else:  # names in UTF-8, and one that is none
        content[entry + 9] |= 8
        content[entry + 46] = 0xFF
    bundle.write_bytes(content)
    with pytest.raises(ArtifactError, match="can't be read"):
        read_bundle(bundle)


def test_a_bundle_replaced_while_it_is_used_is_noticed(folders, bundle):
    fold = fold_at(folds_in_bundle(bundle)[0])
    manifest = read(folders[0].manifest, TrainedModel)
    write_bundle(bundle, [(manifest, folders[1].weights.read_bytes())], source="here")
    with pytest.raises(ArtifactError, match="not those that stand on record"):
        fold.weights()


@pytest.fixture
def scan(tmp_path):
    image = np.random.default_rng(0).normal(size=(6, 10, 11)).astype(np.float32)
    path = tmp_path / "scan_0000.nii.gz"
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(image), path)
    return path


def autoseg(*arguments):
    return CliRunner().invoke(main, [str(each) for each in arguments])


def test_what_export_writes_predicts_as_the_workspace_does(folders, scan, tmp_path):
    w, bundle = tmp_path / "w", tmp_path / "exported.zip"
    assert autoseg("export", bundle, "-w", w).output == f"2 folds -> {bundle}\n"
    (w / "models").rename(tmp_path / "elsewhere")
    autoseg("predict", scan, tmp_path / "by_bundle", "--model", bundle, "--device", "cpu")
    (tmp_path / "elsewhere").rename(w / "models")
    autoseg("predict", scan, tmp_path / "by_workspace", "-w", w, "--device", "cpu")
    ours, expected = (read_label(tmp_path / f"by_{way}" / "scan.nii.gz", case="") for way in ("bundle", "workspace"))
    assert np.array_equal(ours.array_zyx, expected.array_zyx)
    assert len(np.unique(expected.array_zyx)) > 1
    one = autoseg("predict", scan, tmp_path / "fold_3", "--model", bundle, "--folds", "3", "--device", "cpu")
    assert one.exit_code == 0
    assert read(tmp_path / "fold_3" / "prediction.json", PredictionSet).models == (f"{bundle}/3d_fullres/fold_3",)


def test_some_folds_are_exported_and_a_workspaces_place_is_not_told(folders, tmp_path):
    bundle = tmp_path / "exported.zip"
    autoseg("export", bundle, "-w", tmp_path / "w", "--folds", "3")
    assert [fold.manifest.fold for fold in read_bundle(bundle).folds] == [3]
    assert read_bundle(bundle).source == "w"


def test_options_that_mean_nothing_for_a_bundle_are_refused(bundle, scan, tmp_path):
    done = autoseg("predict", scan, tmp_path / "out", "--model", bundle, "--configuration", "2d")
    assert done.exit_code == 2
    assert autoseg("export", tmp_path, "-w", tmp_path / "w").exit_code == 2


def test_an_empty_bundle_is_refused(tmp_path):
    assert write_bundle(tmp_path / "empty.zip", [], source="") == Bundle(folds=(), source="")
    with pytest.raises(ArtifactError, match="no folds"):
        read_bundle(tmp_path / "empty.zip")


def test_folds_of_which_some_have_a_stage_before_them_are_not_averaged(staged):
    manifests = [staged("3d_fullres", fold, cuts)[0] for fold, cuts in ((0, ()), (1, ()), (2, ["3d_fullres"]))]
    models = [LoadedModel(manifest, None, Path(), "") for manifest in manifests]
    check_agreement(models[:2])
    with pytest.raises(SettingError, match="different plans"):
        check_agreement(models)
