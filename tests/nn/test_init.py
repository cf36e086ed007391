"""First values: fans of every layout, variances, the bilinear kernel; and that signals keep their size."""

import math

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn
from tinynet.nn import init


@pytest.mark.parametrize("shape, options, fan_in, fan_out", [
    ((7, 5), {}, 7, 5),
    ((3, 5, 16, 32), {}, 240, 480),
    ((3, 3, 4, 32), {"groups": 8}, 36, 36),                 # 32 to 32 channels in 8 groups
    ((3, 3, 1, 6), {"groups": 6}, 9, 9),                    # depthwise
    ((4, 4, 8, 16), {"stride": 2}, 128, 64),
    ((1, 1, 8, 16), {"stride": 2}, 8, 16),                  # a stride beyond the kernel
    ((4, 4, 8, 16), {"transposed": True}, 256, 128),        # 16 to 8 channels
    ((4, 4, 8, 16), {"stride": (2, 4), "transposed": True}, 32, 128),
    ((4, 4, 2, 16), {"groups": 4, "transposed": True}, 64, 32),     # 16 to 8 channels in 4 groups
])
def test_fans(shape, options, fan_in, fan_out):
    assert init.fans(shape, **options) == (fan_in, fan_out)


@pytest.mark.parametrize("groups, stride, kernel", [(1, 1, 3), (2, 1, 3), (1, 2, 4), (3, 3, 3), (6, 2, 2)])
def test_fan_in_of_a_transposed_convolution_is_the_number_of_products_that_meet(groups, stride, kernel):
    layer = nn.ConvTranspose2d(6, 6, kernel, stride=stride, groups=groups, bias=False)
    layer.weight.data[...] = 1
    y = layer(tn.Tensor(np.ones((1, 12, 12, 6), np.float32))).data
    inner = y[0, 6:-6, 6:-6]    # full periods of the stride, away from the border
    assert inner.mean() == init.fans(layer.weight.shape, groups, stride, transposed=True)[0]


@pytest.mark.parametrize("draw, deviation, bound", [
    (lambda shape: init.he_normal(shape, 50), math.sqrt(2 / 50), None),
    (lambda shape: init.he_uniform(shape, 50), math.sqrt(2 / 50), math.sqrt(6 / 50)),
    (lambda shape: init.he_normal(shape, 50, gain=1), math.sqrt(1 / 50), None),
    (lambda shape: init.glorot_normal(shape, 50, 30), math.sqrt(2 / 80), None),
    (lambda shape: init.glorot_uniform(shape, 50, 30), math.sqrt(2 / 80), math.sqrt(6 / 80)),
])
def test_distributions(draw, deviation, bound):
    w = draw((200, 250))
    assert w.dtype == np.float32
    assert w.std() == pytest.approx(deviation, rel=0.02)
    assert abs(w.mean()) < 0.02 * deviation
    if bound is None:
        assert np.abs(w).max() > 3 * deviation
    else:
        assert 0.99 * bound < np.abs(w).max() <= bound * (1 + 1e-6)


def test_a_numpy_gain_stays_float32():
    assert init.he_normal((3, 3), 3, gain=np.float64(1)).dtype == np.float32
    assert init.glorot_uniform((3, 3), 3, 3, gain=np.float64(1)).dtype == np.float32


def test_the_seed_decides():
    tn.manual_seed(3)
    first = nn.Conv2d(3, 4, 3).weight.data
    second = nn.Conv2d(3, 4, 3).weight.data
    tn.manual_seed(3)
    np.testing.assert_array_equal(first, nn.Conv2d(3, 4, 3).weight.data)
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("layer, x_shape", [
    (nn.Dense(256, 256), (64, 256)),
    (nn.Conv2d(32, 48, 3), (2, 12, 12, 32)),
    (nn.Conv2d(32, 48, 3, groups=4), (2, 12, 12, 32)),
    (nn.ConvTranspose2d(48, 32, 4, stride=2, padding=1), (2, 8, 8, 48)),
    (nn.ConvTranspose2d(48, 32, 4, stride=2, padding=1, groups=2), (2, 8, 8, 48)),
], ids=["dense", "conv", "grouped", "transposed", "transposed-grouped"])
def test_layers_keep_the_size_of_a_rectified_signal(layer, x_shape):
    """E y^2 = 2 E x^2 for any x: behind a ReLU, which halves it, the size stays."""
    x = tn.Tensor(np.random.default_rng(0).standard_normal(x_shape, dtype=np.float32))
    y = layer(x).data
    y = y[:, 2:-2, 2:-2] if y.ndim == 4 else y
    assert np.mean(y**2) == pytest.approx(2, rel=0.25)
    assert not layer.bias.data.any()


@pytest.mark.parametrize("groups, scale", [(1, 2), (3, 2), (3, 3)])
def test_bilinear_interpolates_a_plane_exactly(groups, scale):
    kernel = 2 * scale - scale % 2
    padding = (scale - scale % 2) // 2
    layer = nn.ConvTranspose2d(3, 3, kernel, stride=scale, padding=padding, groups=groups, bias=False)
    layer.weight.data[...] = init.bilinear(layer.weight.shape)
    rows, columns = np.mgrid[0:6, 0:6]
    plane = (rows * 2 + columns)[None, ..., None] * np.array([1, 10, -3])
    y = layer(tn.Tensor(plane.astype(np.float32))).data[0, scale : -scale, scale : -scale]
    for axis, slope in ((0, 2), (1, 1)):
        expected = np.broadcast_to(slope / scale * np.array([1, 10, -3]), np.diff(y, axis=axis).shape)
        np.testing.assert_allclose(np.diff(y, axis=axis), expected, rtol=1e-5)


def test_errors():
    with pytest.raises(ValueError, match=r"fans: shape \(3,\) belongs to no layer"):
        init.fans((3,))
    with pytest.raises(ValueError, match="he_normal: a fan of 0"):
        init.he_normal((0, 3), 0)
    with pytest.raises(ValueError, match="bilinear: .* 2 outputs a group, but 3 channels"):
        init.bilinear((4, 4, 2, 3))
