"""Unpooled images: what takes them gives the same bits as for the whole images that they stand for."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet.kernels import convolution, winograd
from tinynet.kernels.pooling import Unpooled, max_pool
from tinynet.shapes import Geometry, conv_output_size

KINDS = {  # (kernel, C, O, geometry without padding)
    "winograd": (3, 16, 32, Geometry()),
    "winograd, 4x4": (4, 16, 16, Geometry((2, 2))),
    "winograd, 5x5": (5, 16, 16, Geometry()),
    "winograd, dilated": (3, 32, 32, Geometry(dilation=(2, 2))),
    "direct": (3, 3, 32, Geometry()),
    "direct, strided": (3, 4, 12, Geometry((2, 1), dilation=(1, 2))),
    "outputs abreast": (3, 64, 8, Geometry()),
    "panels": (3, 8, 96, Geometry()),
    "groups": (3, 6, 10, Geometry(groups=2)),
    "depthwise": (3, 8, 8, Geometry(groups=8)),
    "1x1": (1, 5, 9, Geometry()),
    "1x1, whole vectors": (1, 16, 32, Geometry()),
}


def drawn(shape, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def unpooled(shape, dtype=np.float32):
    """As pooling leaves them, of images of this shape"""
    N, H, W, C = shape
    _, places = max_pool(drawn(shape), (2, 2), (2, 2), (0, 0), (H // 2, W // 2))
    return Unpooled(drawn((N, H // 2, W // 2, C), 1, dtype), places, (H, W))


def gradients(x, w, y, geometry):
    """Of a convolution's x and w, for y as the gradient of its result"""
    return (convolution.scatter(y, w, None, geometry, x.shape[1:3]),
            convolution.weight_gradient(x, y, geometry, w.shape[:2]))


@pytest.mark.parametrize("hw", [(6, 8), (7, 5), (2, 9)])
def test_whole_has_each_pixel_at_its_place_and_zeros(hw):
    x = unpooled((2, *hw, 3))
    whole = x.whole()
    assert whole.shape == x.shape == (2, *hw, 3)
    pooled, places = max_pool(np.where(whole == 0, -np.inf, whole), (2, 2), (2, 2), (0, 0), (hw[0] // 2, hw[1] // 2))
    np.testing.assert_array_equal(pooled, x.pixels)
    np.testing.assert_array_equal(places, x.places)
    assert np.count_nonzero(whole) == x.pixels.size


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("kind", KINDS)
@given(hw=st.tuples(*[st.integers(6, 26)] * 2), padding=st.tuples(*[st.tuples(*[st.integers(0, 2)] * 2)] * 2))
def test_the_same_bits_as_of_the_whole(kind, dtype, hw, padding):
    k, C, O, geometry = KINDS[kind]
    geometry = geometry._replace(padding=padding if k > 1 else ((0, 0), (0, 0)))
    axes = zip(hw, geometry.stride, map(sum, geometry.padding), geometry.dilation, strict=True)
    y = unpooled((2, *(conv_output_size(n, k, *axis) for n, *axis in axes), O), dtype)
    x, w = drawn((2, *hw, C), 2, dtype), drawn((k, k, C // geometry.groups, O), 3, dtype)
    for a, b in zip(*(gradients(x, w, each, geometry) for each in (y, y.whole())), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_stays_at_its_place(value):
    y = unpooled((2, 16, 16, 16))
    y.pixels[0, 1, 2, 3] = value
    x, w, how = drawn((2, 16, 16, 16), 2), drawn((3, 3, 16, 16), 3), Geometry(padding=((1, 1), (1, 1)))
    assert winograd.pays(w.shape, (16, 16), np.float32, how)
    gx, gradient = gradients(x, w, y, how)
    np.testing.assert_array_equal(gx, gradients(x, w, y.whole(), how)[0])
    assert np.isfinite(np.delete(gradient, 3, axis=3)).all() and not np.isfinite(gradient[..., 3]).all()


def test_no_images():
    y = Unpooled(np.zeros((0, 4, 4, 16), np.float32), np.zeros((0, 4, 4, 16), np.uint8), (8, 8))
    how = Geometry(padding=((1, 1), (1, 1)))
    gx, gw = gradients(np.zeros((0, 8, 8, 16), np.float32), drawn((3, 3, 16, 16)), y, how)
    assert gx.shape == (0, 8, 8, 16)
    np.testing.assert_array_equal(gw, np.zeros((3, 3, 16, 16)))
