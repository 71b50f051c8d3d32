"""What augmentation draws: the same for a seed, as often as the recipe says, within its bounds."""

from dataclasses import fields, is_dataclass, replace
from itertools import product
from math import radians

import msgspec
import numpy as np
import pytest

from autoseg.artifacts.plan import Augmentation
from autoseg.train.draws import draw, is_flat, no_draws

RECIPE = Augmentation()
SPATIAL = {"rotation_probability": 1.0, "scaling_probability": 1.0}


def always(**changes):
    return msgspec.structs.replace(RECIPE, **changes)


def draws_of(seed=0, recipe=RECIPE, batch=4, channels=2, patch=(8, 8, 8), mirror=(0, 1, 2)):
    return draw(np.random.default_rng(seed), recipe, batch, channels, patch, mirror)


def numbers(drawn):
    """Everything drawn, as nested lists."""
    if is_dataclass(drawn):
        return {field.name: numbers(getattr(drawn, field.name)) for field in fields(drawn)}
    if isinstance(drawn, dict):
        return {key: numbers(value) for key, value in drawn.items()}
    if isinstance(drawn, tuple):
        return [numbers(value) for value in drawn]
    return drawn.tolist() if isinstance(drawn, np.ndarray) else drawn


def test_the_same_seed_draws_the_same():
    assert numbers(draws_of(3)) == numbers(draws_of(3))
    assert numbers(draws_of(3)) != numbers(draws_of(4))


def test_shapes():
    draws = draws_of(batch=3, channels=2, patch=(4, 6), mirror=(0, 1), recipe=always(noise_probability=1.0))
    assert draws.matrices.shape == (3, 2, 2)
    assert draws.mirrored.shape == (3, 2)
    assert draws.blur_sigma_voxels.shape == (3, 2, 2)
    assert {name: noise.shape for name, noise in draws.noise.items()} == dict.fromkeys(range(3), (2, 4, 6))
    for name in ("brightness", "contrast", "low_resolution", "gamma", "gamma_inverted"):
        assert getattr(draws, name).shape == (3, 2)


def within_4_sigma(count, trials, probability):
    return abs(count - trials * probability) <= 4 * (trials * probability * (1 - probability)) ** 0.5


@pytest.fixture(scope="module")
def many():
    return draws_of(seed=1, batch=8000, channels=2, patch=(4, 4, 4))


def test_each_change_happens_as_often_as_the_recipe_says(many):
    n = 8000
    # Rotation or scaling: 1 - 0.8 * 0.8.
    assert within_4_sigma(int(many.moved.sum()), n, 0.36)
    assert within_4_sigma(len(many.noise), n, 0.1)
    assert within_4_sigma(int((many.brightness[:, 0] != 1).sum()), n, 0.15)
    assert within_4_sigma(int((many.contrast[:, 1] != 1).sum()), n, 0.15)
    assert within_4_sigma(int((many.gamma[:, 0] != 1).sum()), n, 0.3)
    assert within_4_sigma(int((many.gamma_inverted[:, 0] != 1).sum()), n, 0.1)
    for axis in range(3):
        assert within_4_sigma(int(many.mirrored[:, axis].sum()), n, RECIPE.mirror_probability)


def test_blur_and_low_resolution_choose_samples_then_channels(many):
    n = 8000
    for applied, probability in ((many.blur_sigma_voxels[..., 0] > 0, 0.2), (many.low_resolution < 1, 0.25)):
        for channel in range(2):
            assert within_4_sigma(int(applied[:, channel].sum()), n, probability / 2)
        # Both channels of a chosen sample: a quarter of those.
        assert within_4_sigma(int(applied.all(axis=1).sum()), n, probability / 4)


def test_factors_fall_below_and_above_one_equally_often_and_stay_in_range(many):
    for name, (low, high) in {"brightness": (0.75, 1.25), "contrast": (0.75, 1.25), "gamma": (0.7, 1.5)}.items():
        values = getattr(many, name)
        applied = values[values != 1]
        assert within_4_sigma(int((applied < 1).sum()), len(applied), 0.5), name
        assert low <= applied.min() < low + 0.02
        assert high - 0.03 < applied.max() <= high


def test_both_channels_of_a_sample_change_but_by_other_factors(many):
    changed = many.brightness != 1
    assert (changed[:, 0] == changed[:, 1]).all()
    both = many.brightness[changed[:, 0]]
    assert (both[:, 0] != both[:, 1]).all()


def test_ranges_of_the_rest(many):
    sigma = many.blur_sigma_voxels[many.blur_sigma_voxels > 0]
    assert 0.5 <= sigma.min() < 0.55
    assert 0.95 < sigma.max() <= 1
    low = many.low_resolution[many.low_resolution < 1]
    assert 0.5 <= low.min() < 0.52
    deviations = [float(noise.std()) for noise in many.noise.values()]
    assert min(deviations) >= 0
    assert 0.08 < max(deviations) < 0.13


def test_only_the_axes_allowed_are_mirrored():
    draws = draws_of(batch=200, mirror=(0, 2))
    assert draws.mirrored[:, [0, 2]].any(axis=0).all()
    assert not draws.mirrored[:, 1].any()
    assert not draws_of(batch=200, mirror=()).mirrored.any()


@pytest.mark.parametrize(
    ("patch", "flat"),
    [((4, 16, 16), True), ((5, 15, 15), False), ((5, 15, 16), True), ((16, 4, 16), False), ((4, 64), False)],
)
def test_a_patch_is_flat_when_an_edge_is_over_three_times_the_first(patch, flat):
    assert is_flat(patch) is flat


def test_a_flat_patch_moves_within_its_slices_only():
    draws = draws_of(batch=50, patch=(4, 16, 16), recipe=always(**SPATIAL))
    assert draws.moved.all()
    assert (draws.matrices[:, 0] == [1, 0, 0]).all()
    assert (draws.matrices[:, :, 0] == [1, 0, 0]).all()
    # Within the slices by any angle.
    cosines = draws.matrices[:, 1, 1] / np.sqrt(np.abs(np.linalg.det(draws.matrices)))
    assert cosines.min() < -0.8
    assert cosines.max() > 0.8


def angles(draws):
    """Angle of each sample's turn, in degrees."""
    d = draws.matrices.shape[1]
    cosine = (np.trace(draws.matrices, axis1=1, axis2=2) - (d - 2)) / 2
    return np.degrees(np.arccos(np.clip(cosine, -1, 1)))


@pytest.mark.parametrize(("patch", "limit"), [((16, 16), 180), ((16, 24), 180), ((16, 25), 15), ((25, 16), 15)])
def test_elongated_pictures_turn_little(patch, limit):
    turned = angles(
        draws_of(batch=300, patch=patch, mirror=(), recipe=always(rotation_probability=1.0, scaling_probability=0.0))
    )
    assert 0.9 * limit < turned.max() <= limit + 1e-6


def test_a_cube_turns_about_each_axis_by_30_degrees_at_most():
    draws = draws_of(batch=300, recipe=always(rotation_probability=1.0, scaling_probability=0.0))
    np.testing.assert_allclose(
        draws.matrices @ draws.matrices.transpose(0, 2, 1), np.tile(np.eye(3), (300, 1, 1)), atol=1e-12
    )
    assert 30 < angles(draws).max() < 3 * 30
    only_one = always(rotation_probability=1.0, scaling_probability=0.0, rotation_degrees=0.0)
    assert not draws_of(batch=20, recipe=only_one).moved.any()


def test_scaling_is_the_same_along_every_axis_and_in_range():
    draws = draws_of(batch=400, recipe=always(rotation_probability=0.0, scaling_probability=1.0))
    factors = draws.matrices[:, 0, 0]
    np.testing.assert_allclose(draws.matrices, factors[:, None, None] * np.eye(3), atol=1e-12)
    assert 0.7 <= factors.min() < 0.72
    assert 1.38 < factors.max() <= 1.4
    assert within_4_sigma(int((factors < 1).sum()), 400, 0.5)


@pytest.mark.parametrize(("scaling", "low", "high"), [((0.5, 0.8), 0.5, 0.8), ((1.2, 1.5), 1.2, 1.5)])
def test_a_range_on_one_side_of_one_is_kept_to(scaling, low, high):
    recipe = always(
        rotation_probability=0.0,
        scaling_probability=1.0,
        scaling=scaling,
        brightness=scaling,
        brightness_probability=1.0,
    )
    draws = draws_of(batch=100, recipe=recipe)
    for values in (draws.matrices[:, 0, 0], draws.brightness):
        assert low <= values.min()
        assert values.max() <= high


@pytest.mark.parametrize("patch", [(16, 16), (20, 12), (8, 8, 8), (9, 12, 15), (4, 16, 16)])
def test_the_source_covers_every_corner_of_the_patch_and_keeps_its_centre(patch):
    draws = draws_of(batch=60, patch=patch, mirror=(), recipe=always(**SPATIAL))
    corners = np.array(list(product(*[(-edge / 2, edge / 2) for edge in patch])))
    for sample in range(60):
        edges = np.array(draws.source_edges(sample, patch))
        reached = corners @ draws.matrices[sample].T
        assert (np.abs(reached) <= edges / 2 + 1e-9).all()
        assert ((edges - np.array(patch)) % 2 == 0).all()
        assert (edges >= patch).all()
        # And no more than it takes.
        needed = 2 * np.abs(reached).max(axis=0)
        assert (edges < np.maximum(needed, patch) + 2).all()


def test_a_sample_that_is_not_moved_needs_its_patch_alone():
    assert no_draws(1, 1, (4, 6)).source_edges(0, (4, 6)) == (4, 6)
    turned = replace(no_draws(1, 1, (4, 6)), matrices=np.array([[[0.0, -1.0], [1.0, 0.0]]]), moved=np.array([True]))
    assert turned.source_edges(0, (4, 6)) == (6, 6)


def test_no_draws_are_neutral():
    draws = no_draws(2, 3, (4, 4))
    assert (draws.matrices == np.eye(2)).all()
    assert not draws.moved.any()
    assert not draws.mirrored.any()
    assert not draws.noise
    assert not draws.blur_sigma_voxels.any()
    for name in ("brightness", "contrast", "low_resolution", "gamma", "gamma_inverted"):
        assert (getattr(draws, name) == np.ones((2, 3))).all()


def test_nothing_is_drawn_where_nothing_is_wanted():
    names = [name for name in RECIPE.__struct_fields__ if name.endswith("_probability")]
    draws = draws_of(batch=50, recipe=always(**dict.fromkeys(names, 0.0)))
    assert numbers(draws) == numbers(no_draws(50, 2, (8, 8, 8)))


def test_a_turn_by_the_limit_is_in_radians():
    recipe = always(rotation_probability=1.0, scaling_probability=0.0, rotation_degrees_in_plane=1.0)
    draws = draws_of(batch=200, patch=(16, 16), mirror=(), recipe=recipe)
    assert 0.95 * radians(1) < np.abs(draws.matrices[:, 1, 0]).max() <= radians(1)


# What each extra needs to be drawn for every sample, and the fields it then fills.
EXTRAS = {
    "quarter_turn_probability": ("axes", "mirrored"),
    "elastic_probability": ("elastic", "moved"),
    "median_probability": ("median_size_voxels",),
    "shift_probability": ("shift",),
    "gradient_probability": ("gradient",),
    "local_gamma_probability": ("local_gamma",),
    "sharpen_probability": ("sharpen",),
    "cutout_probability": ("cut_out",),
    "copy_paste_probability": ("pasted_from",),
    "cutmix_probability": ("cut_mixed",),
    "mixup_probability": ("mixed_with", "own_share"),
}


@pytest.mark.parametrize("name", EXTRAS)
@pytest.mark.parametrize("patch", [(8, 8), (8, 8, 8), (2, 8, 8)])
def test_an_extra_is_drawn_when_asked_for_and_leaves_the_rest_as_it_was(name, patch):
    usual = numbers(draws_of(4, patch=patch, mirror=(1,)))
    extra, again = (numbers(draws_of(4, always(**{name: 1.0}), patch=patch, mirror=(1,))) for _ in range(2))
    assert extra == again
    assert {key for key in usual if usual[key] != extra[key]} == set(EXTRAS[name])


def test_all_extras_happen_as_often_as_asked():
    n = 4000
    half = dict.fromkeys(EXTRAS, 0.5)
    draws = draws_of(0, always(**half, contrast_clip_share=0.25, rotation_probability=0.0, scaling_probability=0.0), n)
    for happened in (
        (draws.axes != np.arange(3)).any(axis=1).sum() * 3 // 2,  # half turns leave the axes in order
        len(draws.elastic),
        draws.moved.sum(),
        (draws.pasted_from != np.arange(n)).sum(),
        len(draws.cut_mixed),
    ):
        assert within_4_sigma(int(happened), n, 0.5)
    assert within_4_sigma(int(draws.contrast_clipped.sum()), n, 0.25)
    for changed in (
        draws.median_size_voxels > 1,
        draws.shift != 0,
        draws.sharpen != 0,
        draws.gradient.strength != 0,
        draws.local_gamma.strength != 1,
    ):
        for channel in range(2):
            assert within_4_sigma(int(changed[:, channel].sum()), n, 0.25)
    boxes = {(box.sample, box.other) for box in draws.cut_out}
    assert within_4_sigma(len([pair for pair in boxes if pair[1] == 0]), n, 0.25)


def test_extras_stay_in_their_ranges():
    patch = (20, 30, 40)
    recipe = always(**dict.fromkeys(EXTRAS, 1.0), elastic_cells=4, elastic_magnitude=(0.2, 0.3))
    draws = draws_of(0, recipe, 60, patch=patch)
    reach = np.array([np.abs(points).reshape(3, -1).max(axis=1) for points in draws.elastic.values()])
    cell = np.array(patch) / 4
    assert (reach <= 0.3 * cell).all()
    assert (reach >= 0.15 * cell).all()
    assert set(draws.median_size_voxels.ravel()) == {1, 2, 3, 4, 5, 6, 7}
    used = np.abs(draws.gradient.strength[draws.gradient.strength != 0])
    assert 1 <= used.min() < 1.3
    assert 4.7 < used.max() <= 5
    for box in draws.cut_out:
        for place, edge in zip(box.place, patch, strict=True):
            assert 0 <= place.start < place.stop <= edge
            assert round(0.1 * edge) <= place.stop - place.start <= round(0.33 * edge)
    per_channel = [sum((box.sample, box.other) == pair for box in draws.cut_out) for pair in np.ndindex(60, 2)]
    assert {0, 1, 2, 3, 4} == set(per_channel)
    for box in draws.cut_mixed:
        assert box.other != box.sample
        assert all(
            round(0.25 * n) <= p.stop - p.start <= round(0.75 * n) for p, n in zip(box.place, patch, strict=True)
        )
    assert sorted(draws.mixed_with) == list(range(60))
    assert (draws.mixed_with != np.arange(60)).all()
    shares = [draws_of(seed, recipe).own_share for seed in range(200)]
    assert 0.5 <= min(shares) < 0.6
    # Beta(0.4, 0.4) is near its ends.
    assert np.mean(np.array(shares) > 0.9) > 0.3


def test_a_batch_of_one_takes_nothing_from_itself():
    draws = draws_of(0, always(copy_paste_probability=1.0, mixup_probability=1.0), batch=1)
    assert draws.pasted_from.tolist() == [0]
    assert draws.mixed_with.tolist() == [0]


def test_a_quarter_turn_swaps_no_sides_but_mirroring_does():
    off = dict.fromkeys(SPATIAL, 0.0)
    usual = draws_of(0, always(**off), 200, mirror=(0,))
    draws = draws_of(0, always(quarter_turn_probability=1.0, **off), 200, mirror=(0,))
    for sample in range(200):
        mapping = draws.mapping(sample)
        assert np.linalg.det(mapping) == pytest.approx(-1 if usual.mirrored[sample, 0] else 1)
        # Undone the mirroring, a quarter turn has trace 1, a half one -1; standing still would be 3.
        assert np.trace(usual.mapping(sample) @ mapping) in (1, -1)


def test_quarter_turns_stay_in_planes_with_equal_edges():
    draws = draws_of(0, always(quarter_turn_probability=1.0), 100, patch=(6, 8, 8), mirror=())
    assert (draws.axes[:, 0] == 0).all()
    assert not draws.mirrored[:, 0].any()
    assert (draws.axes[:, 1] == 2).any()
    # A flat patch, equal in an edge within its slices and the one across them.
    draws = draws_of(0, always(quarter_turn_probability=1.0), 100, patch=(8, 8, 32), mirror=())
    assert (draws.axes == np.arange(3)).all()
    draws = draws_of(0, always(quarter_turn_probability=1.0), 100, patch=(6, 7, 8), mirror=())
    assert (draws.axes == np.arange(3)).all()
    assert not draws.mirrored.any()


def test_flat_patches_are_deformed_within_their_slices():
    draws = draws_of(0, always(elastic_probability=1.0), patch=(2, 8, 8))
    for points in draws.elastic.values():
        assert points.shape == (3, 1, 8, 8)
        assert not points[0].any()
        assert points[1:].any()


def test_rotation_and_scaling_can_be_drawn_for_each_axis():
    recipe = always(**SPATIAL, rotation_probability_per_axis=0.0, scaling_probability_per_axis=1.0)
    draws = draws_of(0, recipe, 50)
    factors = np.diagonal(draws.matrices, axis1=1, axis2=2)
    np.testing.assert_array_equal(draws.matrices, factors[:, None] * np.eye(3))
    assert (factors[:, 0] != factors[:, 1]).all()
    half = always(rotation_probability=1.0, scaling_probability=0.0, rotation_probability_per_axis=0.5)
    turned = draws_of(0, half, 2000).moved.sum()
    assert within_4_sigma(int(turned), 2000, 1 - 0.5**3)


def test_strong_draws_more():
    usual, strong = (draws_of(0, always(strong=on), 400) for on in (False, True))
    assert strong.moved.sum() > 1.2 * usual.moved.sum()
    assert strong.contrast.max() > 1.25
    assert strong.cut_out
    assert strong.gradient is not None
    assert not strong.contrast_clipped.all()
    assert not strong.elastic
    assert strong.own_share == 1
