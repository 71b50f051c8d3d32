"""The phantoms are the same every time, complete, and beyond the reach of a threshold."""

import json

import numpy as np
import pytest
import SimpleITK

from autoseg.demo.phantom import LABELS, NOISE, make_phantom, write_phantoms
from autoseg.demo.picture import overlay_picture
from autoseg.demo.threshold import best_threshold_dice


@pytest.fixture(scope="module")
def phantoms():
    return [make_phantom(np.random.default_rng((5, number))) for number in range(10)]


def test_same_generator_same_phantom(phantoms):
    image, label, _ = make_phantom(np.random.default_rng((5, 0)))
    np.testing.assert_array_equal(image, phantoms[0][0])
    np.testing.assert_array_equal(label, phantoms[0][1])


def test_cases_differ_in_size_and_content(phantoms):
    assert len({image.shape for image, _, _ in phantoms}) > 5
    assert len({float(image.sum()) for image, _, _ in phantoms}) == len(phantoms)


def test_types_and_sizes(phantoms):
    for image, label, spacing_mm in phantoms:
        assert (image.dtype, label.dtype, spacing_mm) == (np.float32, np.uint8, (4.0, 1.5, 1.5))
        assert image.shape == label.shape
        assert 15 <= image.shape[0] <= 19
        assert all(48 <= edge <= 56 for edge in image.shape[1:])
        assert 0 <= image.min() < 50
        assert 500 < image.max() < 1500


def test_every_label_is_present_and_the_lesion_is_not_tiny(phantoms):
    for _, label, _ in phantoms:
        assert np.unique(label).tolist() == [0, 1, 2, 3]
        lesion_z = (label == LABELS["lesion"]).sum(axis=(1, 2))
        assert np.count_nonzero(lesion_z) >= 3
        assert np.sqrt(lesion_z.max() / np.pi) >= 3
        assert (label == LABELS["organ_a"]).sum() > 2 * (label == LABELS["organ_b"]).sum()


def test_lesion_stands_out_from_its_organ(phantoms):
    for image, label, _ in phantoms:
        lesion, organ = image[label == LABELS["lesion"]], image[label == LABELS["organ_a"]]
        assert np.median(lesion) - np.median(organ) > 5 * NOISE


def test_no_threshold_segments_them(phantoms):
    dice = best_threshold_dice([image for image, _, _ in phantoms], [label for _, label, _ in phantoms])
    assert sorted(dice) == [1, 2, 3]
    assert np.mean(list(dice.values())) < 0.5
    assert all(0 < value < 0.6 for value in dice.values())


def test_threshold_finds_the_best_interval():
    images = [np.array([1.0, 4.0, 5.0, 9.0]), np.array([5.0, 4.0, 4.5, 0.0])]
    labels = [np.array([0, 1, 1, 2]), np.array([1, 1, 0, 0])]
    # [4, 5] scores 1 and 4/5 for class 1; class 2 is missing in the second case, where [9, 9] finds nothing.
    assert best_threshold_dice(images, labels) == pytest.approx({1: 0.9, 2: 1.0})


def test_threshold_scores_cases_equally():
    images = [np.array([2.0] * 100 + [3.0] * 100), np.array([2.0, 3.0, 3.0])]
    labels = [np.array([1] * 100 + [0] * 100), np.array([1, 1, 0])]
    # Candidates: [2, 2] scores 1 and 2/3; [2, 3] scores 2/3 and 4/5; [3, 3] scores 0 and 1/2.
    assert best_threshold_dice(images, labels) == pytest.approx({1: 5 / 6})


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("phantoms") / "raw"
    write_phantoms(folder, num_training=2, num_test=1, seed=3)
    return folder


def test_written_layout(written):
    files = sorted(path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file())
    assert files == [
        "dataset.json",
        "imagesTr/phantom_000_0000.nii.gz",
        "imagesTr/phantom_001_0000.nii.gz",
        "imagesTs/phantom_test_000_0000.nii.gz",
        "labelsTr/phantom_000.nii.gz",
        "labelsTr/phantom_001.nii.gz",
        "labelsTs/phantom_test_000.nii.gz",
    ]
    assert json.loads((written / "dataset.json").read_text()) == {
        "name": "Phantoms",
        "channel_names": {"0": "MRI"},
        "labels": {"background": 0, "organ_a": 1, "organ_b": 2, "lesion": 3},
        "numTraining": 2,
        "file_ending": ".nii.gz",
    }


def test_written_volumes(written):
    image = SimpleITK.ReadImage(str(written / "imagesTr" / "phantom_000_0000.nii.gz"))
    label = SimpleITK.ReadImage(str(written / "labelsTr" / "phantom_000.nii.gz"))
    expected_image, expected_label, _ = make_phantom(np.random.default_rng((3, 0, 0)))
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(image), expected_image.round())
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(label), expected_label)
    assert image.GetSpacing() == pytest.approx((1.5, 1.5, 4.0))
    assert image.GetOrigin() == label.GetOrigin()
    assert image.GetOrigin() != (0.0, 0.0, 0.0)


def test_larger_dataset_contains_the_smaller_one(written, tmp_path):
    write_phantoms(tmp_path, num_training=3, num_test=0, seed=3)
    for number in range(2):
        for name in (f"imagesTr/phantom_{number:03d}_0000.nii.gz", f"labelsTr/phantom_{number:03d}.nii.gz"):
            assert (written / name).read_bytes() == (tmp_path / name).read_bytes()


def test_overlay_picture(phantoms, tmp_path):
    image, label, _ = phantoms[0]
    path = tmp_path / "report" / "case.png"
    overlay_picture(path, image, label, np.roll(label, 2, axis=2), LABELS, "phantom")
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("num_slices", [1, 2, 30])
def test_overlay_picture_of_unusual_volumes(num_slices, tmp_path):
    image = np.zeros((num_slices, 10, 40), np.float32)
    nothing = np.zeros(image.shape, np.uint8)
    edge = nothing.copy()
    edge[0, 0, :] = 1
    for reference, predicted in ((nothing, nothing), (edge, nothing), (nothing, edge)):
        overlay_picture(tmp_path / "case.png", image, reference, predicted, {"background": 0, "thing": 1}, "flat")
        assert (tmp_path / "case.png").stat().st_size > 0
