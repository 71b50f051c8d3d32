"""Models in one file: exported, imported from nnU-Net, and predicting without a workspace."""

from pathlib import Path

import numpy as np
import pytest

from autoseg.images.io import read_label

PEERS = Path(__file__).resolve().parents[3] / "shared" / "peers"


@pytest.fixture(scope="module")
def imported(autoseg, tmp_path_factory):
    if not PEERS.is_dir():
        pytest.skip("nnU-Net's model is not on this machine")
    bundle = tmp_path_factory.mktemp("imported") / "model.zip"
    done = autoseg("import-nnunet", PEERS / "nnunet_hippocampus_model", bundle)
    assert "1 folds" in done.stdout
    return bundle


@pytest.mark.parametrize("way", ["plain", "mirrored"])
def test_an_imported_model_predicts_what_nnunet_predicts(way, imported, real_data, autoseg, tmp_path):
    expected = sorted((PEERS / "nnunet_predictions" / way).glob("*.nii.gz"))
    inputs = [
        real_data / "hippocampus" / "imagesTr" / file.name.replace(".nii.gz", "_0000.nii.gz") for file in expected
    ]
    options = ["--no-mirroring"] if way == "plain" else ["--save-probabilities"]
    autoseg("predict", *inputs, tmp_path, "--model", imported, "--device", "cpu", *options)
    for file in expected:
        ours = read_label(tmp_path / file.name, case=file.name).array_zyx
        theirs = read_label(file, case=file.name).array_zyx
        assert np.mean(ours == theirs) > 0.999
        for label in (1, 2):
            assert (
                2 * np.sum((ours == label) & (theirs == label)) / (np.sum(ours == label) + np.sum(theirs == label))
                > 0.995
            )
        if way == "mirrored":
            name = file.name.replace(".nii.gz", ".npz")
            probabilities = [np.load(folder / name)["probabilities"] for folder in (tmp_path, file.parent)]
            assert np.abs(probabilities[0].astype(np.float32) - probabilities[1]).max() < 2e-2
