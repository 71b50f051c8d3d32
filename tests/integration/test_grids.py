"""Labels beside their image's grid, by rounding and in earnest, from planning to the scores of a fold."""

import json
import shutil

import SimpleITK as sitk  # noqa: N813

SHORT = (
    "training.epochs=1",
    "training.iterations_per_epoch=1",
    "training.validation_iterations=0",
    "prediction.mirroring=false",
    "prediction.step=1",
)


def test_labels_beside_their_grid(phantoms, autoseg, tmp_path):
    raw, workspace = tmp_path / "raw", tmp_path / "w"
    shutil.copytree(phantoms, raw)
    labels = sorted((raw / "labelsTr").iterdir())
    rounded, flipped = labels[:2]
    label = sitk.ReadImage(str(rounded))
    label.SetSpacing([edge * 1.0005 for edge in label.GetSpacing()])
    sitk.WriteImage(label, str(rounded))
    sitk.WriteImage(sitk.Flip(sitk.ReadImage(str(flipped)), (True, False, False))[2:], str(flipped))
    names = [file.name.removesuffix(".nii.gz") for file in labels]
    folds = tmp_path / "folds.json"
    folds.write_text(json.dumps([{"train": names[2:], "val": names[:2]}, {"train": names[:2], "val": names[2:]}]))
    plan = ("plan", raw, "-w", workspace, "--gpu-memory", 0.1, "--jobs", 1, "--splits", folds)

    told = autoseg(*plan, check=False)
    assert told.returncode == 1
    assert names[1] in told.stderr
    assert "--repair resample-labels" in told.stderr

    told = autoseg(*plan, "--repair", "resample-labels").stdout
    assert f"1 labels differ from their image's grid by rounding alone, and are taken to lie on it: {names[0]}" in told
    assert f"1 labels lie on another grid than their image, and are resampled onto it: {names[1]}" in told
    autoseg("train", 0, "-w", workspace, "--jobs", 1, "--device", "cpu", *(f"--set={s}" for s in SHORT))
    scores = json.loads((workspace / "models/3d_fullres/fold_0/validation/evaluation.json").read_text())
    assert list(scores["cases"]) == names[:2]
    fingerprint = json.loads((workspace / "fingerprint.json").read_text())
    for case in fingerprint["cases"][:2]:
        for name, scored in scores["cases"][case["name"]].items():
            assert scored["n_reference_voxels"] == case["label_voxels"][name]

    told = autoseg("plan", raw, "-w", tmp_path / "v", "--gpu-memory", 0.1, "--jobs", 1, "--reject").stdout
    assert f"1 cases are left out, as dataset.json says: {names[1]}" in told
    assert list(json.loads((tmp_path / "v" / "dataset.json").read_text())["rejected"]) == [names[1]]
