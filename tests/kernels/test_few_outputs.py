"""Convolutions with few outputs: against the definition, every edge, and NaN stays where it belongs."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.naive import convolution as naive
from tinynet.kernels import convolution, few_outputs
from tinynet.shapes import Geometry

small = st.integers(0, 2)


def check(x_shape, w_shape, padding, dtype):
    """gather and the weight gradient as conv2d takes them, scatter as conv_transpose2d does"""
    rng = np.random.default_rng(0)
    x, w = (rng.standard_normal(shape).astype(dtype) for shape in (x_shape, w_shape))
    b = rng.standard_normal(w_shape[3]).astype(dtype)
    geometry = Geometry(padding=padding)
    assert few_outputs.pays(w_shape, geometry)
    out = [n + sum(pads) - k + 1 for n, pads, k in zip(x_shape[1:3], padding, w_shape, strict=False)]
    wide = [n - sum(pads) + k - 1 for n, pads, k in zip(x_shape[1:3], padding, w_shape, strict=False)]
    tolerance = 1e-12 if dtype == np.float64 else 1e-4
    x64, w64, b64 = (each.astype(np.float64) for each in (x, w, b))
    if min(out) > 0:
        y = convolution.gather(x, w, b, geometry, tuple(out))
        assert y.dtype == dtype
        np.testing.assert_allclose(y, naive.gather(x64, w64, b64, geometry, out), rtol=0, atol=tolerance)
        gw = few_outputs.weight_gradient(x, y, (padding[0][0], padding[1][0]), w_shape[:2])
        expected = naive.weight_gradient(x64, y.astype(np.float64), geometry, w_shape[:2])
        assert gw.dtype == dtype and gw.flags.c_contiguous
        np.testing.assert_allclose(gw, expected, rtol=0, atol=tolerance * max(1, np.abs(expected).max(initial=0)))
    if min(wide) > 0:
        y = convolution.scatter(x, np.ascontiguousarray(w.swapaxes(2, 3)), b, geometry, tuple(wide))
        expected = naive.scatter(x64, w64.swapaxes(2, 3), b64, geometry, wide)
        np.testing.assert_allclose(y, expected, rtol=0, atol=tolerance)


@given(st.tuples(st.integers(0, 2), st.integers(1, 20), st.integers(1, 12)), st.sampled_from([16, 21]),
       st.sampled_from([(3, 3, 3), (1, 7, 4), (5, 5, 1), (2, 3, 2), (2, 1, 4)]), st.tuples(small, small, small, small))
def test_against_the_definition(images, inputs, window, padding):
    *kernel, outputs = window
    padding = padding[:2], padding[2:]
    check((*images, inputs), (*kernel, inputs, outputs), padding, np.float64)


@pytest.mark.parametrize("size", [(16, 16), (17, 33), (40, 5)])
def test_float32(size):
    check((2, *size, 32), (3, 3, 32, 3), ((1, 1), (1, 1)), np.float32)


def test_what_it_is_for():
    assert few_outputs.pays((3, 3, 32, 3), Geometry())
    for w_shape, geometry in [((3, 3, 8, 3), Geometry()), ((3, 3, 32, 5), Geometry()), ((5, 5, 32, 3), Geometry()),
                              ((1, 1, 32, 3), Geometry()), ((3, 3, 32, 3), Geometry(stride=(2, 2))),
                              ((3, 3, 32, 3), Geometry(dilation=(1, 2)))]:
        assert not few_outputs.pays(w_shape, geometry)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_reach_their_window_and_no_further(bad):
    x, w = np.ones((1, 20, 9, 16)), np.ones((3, 3, 16, 2))
    x[0, 17, 4, 5] = bad
    y = convolution.gather(x, w, None, Geometry(padding=((1, 1), (1, 1))), (20, 9))
    wrong = ~np.isfinite(y[0])
    assert wrong[16:19, 3:6].all() and wrong.sum() == 3 * 3 * 2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_reach_their_weights_and_no_further(bad):
    """x's corner meets the taps within y alone, y's pixel all taps of its own output."""
    x, y, how = np.ones((1, 20, 9, 16)), np.ones((1, 20, 9, 2)), Geometry(padding=((1, 1), (1, 1)))
    x[0, 0, 0, 5] = bad
    wrong = ~np.isfinite(convolution.weight_gradient(x, y, how, (3, 3)))
    assert wrong[:2, :2, 5].all() and wrong.sum() == 2 * 2 * 2
    x[0, 0, 0, 5], y[0, 3, 4, 1] = 1, bad
    wrong = ~np.isfinite(convolution.weight_gradient(x, y, how, (3, 3)))
    assert wrong[..., 1].all() and not wrong[..., 0].any()


def test_no_images_have_the_gradient_zero():
    gw = few_outputs.weight_gradient(np.zeros((0, 5, 5, 16)), np.zeros((0, 3, 3, 2)), (0, 0), (3, 3))
    np.testing.assert_array_equal(gw, np.zeros((3, 3, 16, 2)))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_same_bits_with_one_and_two_threads():
    rng = np.random.default_rng(0)
    x, w = rng.random((3, 40, 30, 32), np.float32), rng.random((3, 3, 32, 3), np.float32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        y = convolution.gather(x, w, None, Geometry(), (38, 28))
        results.append((y, few_outputs.weight_gradient(x, y, (0, 0), (3, 3))))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_plain_python():
    code = ("from tests.kernels.test_few_outputs import check; "
            "check((1, 4, 3, 16), (2, 2, 16, 3), ((1, 0), (0, 1)), 'float64')")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
