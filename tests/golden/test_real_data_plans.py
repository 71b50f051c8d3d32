"""Plans of datasets that people know, from figures like those of their fingerprints."""

import pytest

from autoseg.plan.decide import make_plan


@pytest.fixture(scope="module")
def hippocampus(build_dataset, build_fingerprint):
    dataset = build_dataset(num_cases=200, labels={"background": 0, "anterior": 1, "posterior": 2})
    return make_plan(build_fingerprint(dataset, shapes=((35, 48, 34), (36, 50, 35), (37, 52, 36))))


def test_hippocampus_in_3d(hippocampus):
    full = hippocampus.configurations["3d_fullres"]
    assert full.spacing == (1.0, 1.0, 1.0)
    assert full.median_image_size_in_voxels == (36.0, 50.0, 35.0)
    assert full.patch_size == (40, 56, 40)
    assert full.batch_size == 7
    assert full.strides == ((1, 1, 1), (2, 2, 2), (2, 2, 2), (2, 2, 2))
    assert full.kernel_sizes == ((3, 3, 3),) * 4
    assert full.features_per_stage == (32, 64, 128, 256)
    assert full.n_conv_per_stage == (2, 2, 2, 2)
    assert full.n_conv_per_stage_decoder == (2, 2, 2)
    assert full.batch_dice is False
    assert full.normalization_schemes == ("zscore",)
    assert full.mirror_axes == (0, 1, 2)


def test_hippocampus_in_2d(hippocampus):
    flat = hippocampus.configurations["2d"]
    assert flat.spacing == (1.0, 1.0)
    assert flat.patch_size == (56, 40)
    assert flat.strides == ((1, 1), (2, 2), (2, 2), (2, 2))
    assert flat.batch_dice is True
    assert flat.mirror_axes == (0, 1)


def test_hippocampus_as_a_whole(hippocampus):
    assert set(hippocampus.configurations) == {"2d", "3d_fullres"}
    assert hippocampus.transpose_forward == (0, 1, 2)
    assert hippocampus.original_median_shape == (36.0, 50.0, 35.0)
    assert hippocampus.num_classes == 3
    assert hippocampus.training.epochs == 1000


def test_the_planner_believes_the_stated_number_of_cases(build_dataset, build_fingerprint):
    # As nnU-Net: the cap of the batch counts numTraining even where the files disagree.
    dataset = build_dataset(num_cases=3, num_training=200)
    plan = make_plan(build_fingerprint(dataset, shapes=((36, 50, 35),)))
    assert plan.configurations["3d_fullres"].batch_size == 7
    dataset = build_dataset(num_cases=3)
    plan = make_plan(build_fingerprint(dataset, shapes=((36, 50, 35),)))
    assert plan.configurations["3d_fullres"].batch_size == 2


def test_thick_slices_come_first_and_mirror_where_the_labels_allow(build_dataset, build_fingerprint):
    # Sagittal slices: the file's third axis is the coarsest, and runs left to right.
    labels = {"background": 0, "left knee": 1, "right knee": 2}
    dataset = build_dataset(labels=labels)
    plan = make_plan(build_fingerprint(dataset, shapes=((320, 320, 30),), spacing_mm=(0.5, 0.5, 3.0)))
    assert plan.transpose_forward == (2, 0, 1)
    assert plan.transpose_backward == (1, 2, 0)
    full, flat = plan.configurations["3d_fullres"], plan.configurations["2d"]
    assert full.spacing == (3.0, 0.5, 0.5)
    assert full.strides[1] == (1, 2, 2)
    assert full.kernel_sizes[0] == (1, 3, 3)
    assert full.mirror_axes == (1, 2)
    assert flat.mirror_axes == (0, 1)
