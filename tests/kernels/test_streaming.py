"""Results that are written past the caches are the same ones."""

import numpy as np
import pytest

from tinynet.kernels import streaming
from tinynet.kernels.convolution import gather, scatter
from tinynet.shapes import Geometry

ONE_TO_ONE = Geometry()
PADDED = Geometry((1, 1), ((1, 1), (1, 1)))
HALF = Geometry((2, 2), ((1, 1), (1, 1)))


def numbers(*shape, dtype=np.float32):
    return np.random.default_rng(0).standard_normal(shape).astype(dtype)


def both_ways(monkeypatch, compute):
    """The result written as usual, and past the caches."""
    results = []
    for least in (1 << 40, 0):
        monkeypatch.setattr(streaming, "STREAMED", least)
        results.append(compute())
    return results


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(("w_shape", "geometry", "size"), [
    ((1, 1, 16, 32), ONE_TO_ONE, 9),                        # the tile
    ((1, 1, 5, 7), ONE_TO_ONE, 9),                          # no whole lines
    ((3, 3, 3, 16), PADDED, 9),
    ((3, 3, 16, 16), PADDED, 16),                           # Winograd's way
    ((4, 4, 16, 16), HALF, 20),
    ((3, 3, 1, 64), PADDED._replace(groups=64), 9),         # depthwise
    ((3, 3, 2, 64), PADDED._replace(groups=32), 9),
])
@pytest.mark.parametrize("relu", [False, True])
def test_same_bits(monkeypatch, w_shape, geometry, size, relu, dtype):
    KH, _, C, O = w_shape
    (top, bottom), _ = geometry.padding
    out = (size + top + bottom - KH) // geometry.stride[0] + 1
    x, y = numbers(2, size, size, C * geometry.groups, dtype=dtype), numbers(2, out, out, O, dtype=dtype)
    w, b, c = numbers(*w_shape, dtype=dtype), numbers(O, dtype=dtype), numbers(C * geometry.groups, dtype=dtype)
    usual, past = both_ways(monkeypatch, lambda: gather(x, w, b, geometry, (out, out), relu))
    np.testing.assert_array_equal(past, usual)
    assert past.any()
    usual, past = both_ways(monkeypatch, lambda: scatter(y, w, c, geometry, (size, size), relu))
    np.testing.assert_array_equal(past, usual)
    assert past.any()


@pytest.mark.parametrize("w_shape", [(3, 3, 3, 16), (3, 3, 16, 16)])
def test_same_bits_pooled(monkeypatch, w_shape):
    x, w = numbers(2, 16, 16, w_shape[2]), numbers(*w_shape)
    usual, past = both_ways(monkeypatch, lambda: gather(x, w, None, PADDED, (16, 16), True, True))
    for one, other in zip(past, usual, strict=True):
        np.testing.assert_array_equal(one, other)


def test_only_what_is_large():
    half = streaming.STREAMED // 2
    assert half >= 1 << 15
    x = np.empty(half, np.uint8)
    assert not streaming.is_streamed(x, np.empty(half - 1, np.uint8))
    assert streaming.is_streamed(x, np.empty(half, np.uint8))
