"""The sliding window as a whole: what goes in comes out, wherever windows and mirrorings fall."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from autoseg.predict import sliding
from autoseg.predict.sliding import ImageWithMap, pad_to_patch, sliding_logits

SIZES = st.tuples(*[st.integers(1, 13)] * 3)
STEPS = st.sampled_from([0.3, 0.5, 1.0])
AXES_3D = st.sampled_from([(), (0,), (1, 2), (0, 1, 2)])
AXES_2D = st.sampled_from([(), (1,), (0, 1)])


class Constant(nn.Module):
    """The same logits everywhere."""

    def __init__(self, *values):
        super().__init__()
        self.values = values

    def forward(self, x):
        logits = torch.tensor(self.values).reshape(-1, *(1,) * (x.ndim - 2))
        return logits.expand(len(x), len(self.values), *x.shape[2:])


class Recorded(nn.Module):
    """Gives back its input, and remembers the shapes it saw."""

    def __init__(self):
        super().__init__()
        self.shapes = []

    def forward(self, x):
        self.shapes.append(tuple(x.shape))
        return x


class Corner(nn.Module):
    """Marks the first voxel of each patch, to tell which way it lay."""

    def forward(self, x):
        y = torch.zeros_like(x)
        y[(..., *(0,) * (x.ndim - 2))] = 1
        return y


def predict(networks, image, classes, patch, axes=(), step=0.5, kind=np.float32, exclusive=False):
    logits = np.full((classes, *image.shape[1:]), np.nan, kind)
    networks = networks if isinstance(networks, list) else [networks]
    where = torch.device("cpu")
    sliding_logits(networks, image, patch, device=where, mirror_axes=axes, step=step, keep=logits, exclusive=exclusive)
    return logits


@settings(deadline=None, max_examples=30)
@given(SIZES, AXES_3D, STEPS)
def test_constant_logits_stay_constant_in_3d(shape, axes, step):
    logits = predict(Constant(0.25, -3.0, 40.0), np.zeros((1, *shape), np.float32), 3, (4, 6, 5), axes, step)
    assert logits.shape == (3, *shape)
    np.testing.assert_allclose(
        logits, np.broadcast_to(np.array([0.25, -3, 40])[:, None, None, None], logits.shape), rtol=1e-5
    )


@settings(deadline=None, max_examples=30)
@given(SIZES, AXES_2D, STEPS)
def test_constant_logits_stay_constant_in_2d(shape, axes, step):
    logits = predict(Constant(2.0, -1.0), np.zeros((1, *shape), np.float32), 2, (6, 5), axes, step)
    assert logits.shape == (2, *shape)
    np.testing.assert_allclose(logits, np.broadcast_to(np.array([2, -1])[:, None, None, None], logits.shape), rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(SIZES, AXES_3D, STEPS, st.integers(0, 100))
def test_a_network_that_gives_back_its_input_gives_back_the_volume_in_3d(shape, axes, step, seed):
    image = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    # Hundreds of windows and mirrorings add up in single precision.
    np.testing.assert_allclose(predict(nn.Identity(), image, 2, (4, 6, 5), axes, step), image, rtol=2e-5, atol=1e-5)


@settings(deadline=None, max_examples=30)
@given(SIZES, AXES_2D, STEPS, st.integers(0, 100))
def test_a_network_that_gives_back_its_input_gives_back_the_volume_in_2d(shape, axes, step, seed):
    image = np.random.default_rng(seed).standard_normal((2, *shape), dtype=np.float32)
    np.testing.assert_allclose(predict(nn.Identity(), image, 2, (6, 5), axes, step), image, atol=1e-5)


@pytest.mark.parametrize(
    ("axes", "corners"),
    [((), [(0, 0, 0)]), ((0,), [(0, 0, 0), (3, 0, 0)]), ((0, 2), [(0, 0, 0), (3, 0, 0), (0, 0, 3), (3, 0, 3)])],
)
def test_each_mirroring_is_turned_back_and_counts_the_same(axes, corners):
    logits = predict(Corner(), np.zeros((1, 4, 4, 4), np.float32), 1, (4, 4, 4), axes)[0]
    found = {tuple(int(i) for i in place): float(logits[tuple(place)]) for place in np.argwhere(logits)}
    assert found == pytest.approx(dict.fromkeys(corners, 1 / len(corners)))


def test_in_2d_axes_are_those_of_the_slice():
    logits = predict(Corner(), np.zeros((2, 1, 4, 4), np.float32)[:1], 1, (4, 4), (1,))[0, 0]
    assert np.argwhere(logits).tolist() == [[0, 0], [0, 3]]


def test_the_network_only_sees_whole_patches():
    network = Recorded()
    predict(network, np.zeros((1, 3, 9, 20), np.float32), 1, (4, 6, 5), (0,))
    assert {shape[1:] for shape in network.shapes} == {(1, 4, 6, 5)}
    # 1 x 2 x 7 windows, each twice.
    assert sum(shape[0] for shape in network.shapes) == 28


@pytest.mark.parametrize(
    ("shape", "patch", "padded", "inside"),
    [
        ((5, 6, 7), (4, 4, 4), (5, 6, 7), (slice(0, 5), slice(0, 6), slice(0, 7))),
        ((1, 6, 3), (4, 4, 6), (4, 6, 6), (slice(1, 2), slice(0, 6), slice(1, 4))),
        ((1, 3, 9), (4, 6), (1, 4, 9), (slice(0, 1), slice(0, 3), slice(0, 9))),
    ],
)
def test_what_is_smaller_than_the_patch_is_padded_around(shape, patch, padded, inside):
    image = torch.ones(2, *shape)
    larger, place = pad_to_patch(image, patch)
    assert larger.shape == (2, *padded)
    assert place == inside
    assert torch.equal(larger[(slice(None), *place)], image)
    assert larger.sum() == image.sum()


def test_what_is_as_large_as_the_patch_is_not_copied():
    image = torch.ones(2, 4, 6, 5)
    padded, _ = pad_to_patch(image, (4, 6, 5))
    assert padded.data_ptr() == image.data_ptr()


class Kept(nn.Module):
    """Gives back its input, and keeps it."""

    def __init__(self):
        super().__init__()
        self.inputs = []

    def forward(self, x):
        self.inputs.append(x.clone())
        return x


def seen(shown, classes, patch, axes):
    """The windows that a network is shown, and the logits."""
    network = Kept()
    logits = predict(network, shown, classes, patch, axes)
    return torch.cat(network.inputs), logits


@pytest.mark.parametrize("kind", [np.uint8, np.uint16, np.int16])
@pytest.mark.parametrize(
    ("shape", "patch", "axes"),
    [
        ((5, 9, 8), (4, 6, 5), (0, 2)),
        ((2, 9, 3), (4, 6, 5), (0, 1, 2)),
        ((3, 5, 8), (6, 5), (0, 1)),
        ((1, 3, 4), (6, 5), ()),
    ],
)
def test_windows_see_the_channels_of_a_map_as_if_the_whole_volume_had_them(shape, patch, axes, kind):
    rng = np.random.default_rng(0)
    image = rng.standard_normal((2, *shape), dtype=np.float32)
    map_zyx = rng.integers(0, 5, shape).astype(kind)  # 4 has no channel
    expanded = np.concatenate([image, [map_zyx == value for value in (1, 2, 3)]]).astype(np.float32)
    shown = ImageWithMap(image, map_zyx, 3)
    assert shown.shape == expanded.shape
    windows, logits = seen(shown, 5, patch, axes)
    expected, expected_logits = seen(expanded, 5, patch, axes)
    assert windows.dtype == torch.float32
    assert torch.equal(windows, expected)
    np.testing.assert_array_equal(logits, expected_logits)


def test_values_of_a_map_that_need_16_bits_have_their_channels():
    map_zyx = np.array([0, 1, 255, 256, 300, 65535], np.uint16).reshape(1, 1, 6)
    windows, _ = seen(ImageWithMap(np.zeros((1, 1, 1, 6), np.float32), map_zyx, 300), 301, (1, 1, 6), ())
    assert [(int(channel), int(x)) for _, channel, _, _, x in torch.argwhere(windows)] == [
        (1, 1),
        (255, 2),
        (256, 3),
        (300, 4),
    ]


def test_the_mean_over_networks_counts_each_the_same():
    networks = [Constant(1.0, 3.0), Constant(2.0, -3.0), Constant(6.0, 3.0)]
    logits = predict(networks, np.zeros((1, 6, 9, 8), np.float32), 2, (4, 6, 5), (0, 1))
    np.testing.assert_allclose(logits[0], 3, rtol=1e-5)
    np.testing.assert_allclose(logits[1], 1, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(SIZES, st.integers(0, 100), st.sampled_from([(4, 6, 5), (6, 5)]))
def test_in_half_precision_the_same_class_is_largest(shape, seed, patch):
    """Two classes nearly tied around 20, where half precision knows steps of 1/64."""
    image = np.random.default_rng(seed).standard_normal((3, *shape), dtype=np.float32)
    image[:2] = 20 + 1e-3 * image[:2]
    single = predict(nn.Identity(), image, 3, patch)
    half = predict(nn.Identity(), image, 3, patch, kind=np.float16, exclusive=True)
    assert half.dtype == np.float16
    clear = np.abs(single[0] - single[1]) > 1e-5
    np.testing.assert_array_equal(half.argmax(0)[clear], single.argmax(0)[clear])
    np.testing.assert_allclose(half, single - single.max(0), rtol=1e-3, atol=1e-5)


def test_logits_of_regions_keep_their_sign_in_half_precision():
    image = np.array([-3.0, 1e-4, 5.0], np.float32).reshape(1, 1, 1, 3)
    np.testing.assert_allclose(predict(nn.Identity(), image, 1, (1, 3), kind=np.float16), image, rtol=1e-3)


def test_only_slices_that_windows_still_reach_are_held(monkeypatch):
    held = []

    class Sums(sliding._Sums):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            held.append(self.total.shape)

    monkeypatch.setattr(sliding, "_Sums", Sums)
    image = np.random.default_rng(0).standard_normal((2, 40, 6, 5), dtype=np.float32)
    np.testing.assert_allclose(predict(nn.Identity(), image, 2, (4, 6, 5)), image, rtol=2e-5, atol=1e-5)
    assert held == [(2, 4, 6, 5)]
