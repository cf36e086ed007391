"""Dilated convolutions taken apart: the same as the direct sums, for all sizes and paddings; parts and back again."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet.kernels import convolution, interleaved
from tinynet.kernels.pooling import Unpooled
from tinynet.shapes import Geometry

small = st.integers(0, 5)


def case(N, hw, C, O, padding, dilation):
    """x, w, y, a bias for each side, and the geometry"""
    random = np.random.default_rng(0)
    out = (n + sum(pads) - 2 * d for n, pads, d in zip(hw, padding, dilation, strict=True))
    shapes = (N, *hw, C), (3, 3, C, O), (N, *out, O), (C,), (O,)
    return *(random.standard_normal(shape, dtype=np.float32) for shape in shapes), Geometry(padding=padding,
                                                                                            dilation=dilation)


def results(x, w, y, bx, by, geometry):
    return {"gather": convolution.gather(x, w, by, geometry, y.shape[1:3], True),
            "scatter": convolution.scatter(y, w, bx, geometry, x.shape[1:3], True),
            "weight_gradient": convolution.weight_gradient(x, y, geometry, (3, 3))}


def check(*arguments):
    x, w, y, _, _, geometry = case(*arguments)
    assert interleaved.as_ordinary(w.shape, x.shape[1:3], y.shape[1:3], x.dtype, geometry)
    with tn.exact_convolution():
        assert interleaved.as_ordinary(w.shape, x.shape[1:3], y.shape[1:3], x.dtype, geometry) is None
        exact = results(*case(*arguments))
    for name, result in results(*case(*arguments)).items():
        assert result.dtype == np.float32 and result.shape == exact[name].shape
        assert 0 < np.abs(result - exact[name]).max() < 2e-5 * np.abs(exact[name]).max(), name


@given(N=st.integers(1, 2), hw=st.tuples(st.integers(20, 27), st.integers(20, 27)),
       padding=st.tuples(small, small, small, small), dilation=st.tuples(st.integers(1, 3), st.integers(2, 3)))
def test_equals_the_direct_sum(N, hw, padding, dilation):
    check(N, hw, 32, 32, (padding[:2], padding[2:]), dilation)


@pytest.mark.parametrize("dilation", [(2, 2), (4, 4), (1, 3), (3, 1)])
def test_padding_that_keeps_the_size(dilation):
    check(2, (36, 24), 32, 48, tuple((d, d) for d in dilation), dilation)


@given(hw=st.tuples(st.integers(1, 9), st.integers(1, 9)), dilation=st.tuples(st.integers(1, 3), st.integers(1, 4)),
       data=st.data())
def test_parts_put_together_are_the_image(hw, dilation, data):
    before = tuple(data.draw(st.integers(0, d - 1)) for d in dilation)
    x = np.random.default_rng(0).random((2, *hw, 3))
    sizes = tuple(-(-(n + skipped) // d) for n, skipped, d in zip(hw, before, dilation, strict=True))
    how = interleaved.Interleaved(Geometry(), dilation, before, sizes, sizes)
    parts = how.parts_of_x(x)
    np.testing.assert_array_equal(how.whole_x(parts, hw), x)
    assert parts.sum() == pytest.approx(x.sum())             # and all else is 0
    a, b = before[0] % dilation[0], before[1] % dilation[1]
    np.testing.assert_array_equal(parts[a * dilation[1] + b, 0, 0], x[0, 0, 0])


def test_pooling_and_unpooled_gradients():
    x, w, y, _, by, geometry = case(2, (20, 20), 32, 32, ((2, 2), (2, 2)), (2, 2))
    whole = convolution.gather(x, w, by, geometry, (20, 20), True)
    best, places = convolution.gather(x, w, by, geometry, (20, 20), True, True)
    np.testing.assert_array_equal(best, whole.reshape(2, 10, 2, 10, 2, 32).max((2, 4)))
    pooled = Unpooled(best, places, (20, 20))
    np.testing.assert_array_equal(convolution.weight_gradient(x, pooled, geometry, (3, 3)),
                                  convolution.weight_gradient(x, pooled.whole(), geometry, (3, 3)))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_same_bits_with_one_and_two_threads():
    arguments = case(3, (22, 25), 32, 32, ((2, 2), (2, 2)), (2, 2))
    numba.set_num_threads(1)
    one = results(*arguments)
    numba.set_num_threads(2)
    for name, result in results(*arguments).items():
        np.testing.assert_array_equal(result, one[name])


def test_which_convolutions_are_taken_apart():
    def is_taken(C=32, O=32, kernel=(3, 3), hw=(32, 32), dtype=np.float32, **geometry):
        how = Geometry(padding=((2, 2), (2, 2)), dilation=(2, 2))._replace(**geometry)
        return interleaved.as_ordinary((*kernel, C, O), hw, hw, dtype, how) is not None

    assert is_taken() and is_taken(dilation=(1, 2)) and is_taken(C=64)
    assert not is_taken(dilation=(1, 1)) and not is_taken(stride=(2, 2)) and not is_taken(groups=2)
    assert is_taken(kernel=(5, 5)) and not is_taken(kernel=(7, 7))
    assert not is_taken(C=16) and not is_taken(dtype=np.float64)
    assert not is_taken(hw=(9, 9))                           # parts of 5 x 5: tiles mostly empty
