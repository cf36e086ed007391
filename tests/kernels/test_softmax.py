"""Softmax and its cross-entropy against their twins: values, gradients, every tail of a block, NaN, threads."""

import math

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.naive import loss as naive
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.softmax import (
    LOWEST,
    exp_float32,
    log_float32,
    softmax,
    softmax_cross_entropy,
    softmax_gradient,
)

NONE = np.empty(0)


def draw(M, K, dtype=np.float64, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(0, 3, (M, K)).astype(dtype), rng.integers(0, K, M).astype(np.int32), rng.uniform(0.5, 2, K)


@given(
    st.sampled_from([1, 2, 63, 64, 65, 257, 300]),
    st.sampled_from([1, 2, 3, 12]),
    st.sampled_from([0.0, 0.3, 1.0]),
    st.booleans(),
)
def test_against_the_definition(M, K, smoothing, some_ignored):
    x, target, weight = draw(M, K, seed=M + K)
    if some_ignored:
        target[::3] = -1
    hard, soft = (1 - smoothing) * weight, smoothing / K * weight
    expected = naive.cross_entropy(x, target, weight, -1, smoothing, "none")
    expected_gradient = naive.cross_entropy_gradient(x, target, hard, soft) * 0.7
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 3e-6)):
        loss, gradient = softmax_cross_entropy(x.astype(dtype), target, hard, soft if smoothing else NONE, 0.7, True)
        assert loss.dtype == gradient.dtype == dtype
        np.testing.assert_allclose(loss, expected, rtol=tolerance, atol=tolerance * 3)
        np.testing.assert_allclose(gradient, expected_gradient, rtol=tolerance, atol=tolerance * 2)


@pytest.mark.parametrize("logarithm", [False, True])
@pytest.mark.parametrize("M", [1, 63, 64, 65, 1100])
@pytest.mark.parametrize("K", [1, 12, 70])
def test_softmax_and_its_gradient_against_the_definition(M, K, logarithm):
    x, _, _ = draw(M, K)
    g = np.random.default_rng(1).normal(size=(M, K))
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    jacobian = np.eye(K) - p[:, None] if logarithm else p[:, :, None] * (np.eye(K) - p[:, None])    # of [m, out, in]
    expected, slope = np.log(p) if logarithm else p, np.einsum("mji,mj->mi", jacobian, g)
    for dtype, tolerance in ((np.float64, 1e-13), (np.float32, 3e-6)):
        y = softmax(x.astype(dtype), logarithm)
        gx = softmax_gradient(expected.astype(dtype), g.astype(dtype), logarithm)
        assert y.dtype == gx.dtype == dtype
        np.testing.assert_allclose(y, expected, rtol=tolerance, atol=tolerance)
        np.testing.assert_allclose(gx, slope, rtol=tolerance, atol=tolerance * 10)


@pytest.mark.parametrize("logarithm", [False, True])
def test_a_pixel_of_softmax_depends_on_no_other(logarithm):
    x, _, _ = draw(150, 7, np.float32)
    y, gx = softmax(x, logarithm), softmax_gradient(x, x, logarithm)
    np.testing.assert_array_equal(softmax(x[60:71], logarithm), y[60:71])
    np.testing.assert_array_equal(softmax_gradient(x[60:71], x[60:71], logarithm), gx[60:71])
    x[64, 3] = np.nan
    wrong = np.isnan(softmax(x, logarithm))
    assert wrong[64].all() and wrong.sum() == 7
    wrong = np.isnan(softmax_gradient(x, x, logarithm))
    assert wrong[64].all() and wrong.sum() == 7


def test_without_the_gradient_the_losses_are_the_same():
    x, target, weight = draw(100, 5, np.float32)
    with_it, _ = softmax_cross_entropy(x, target, weight, NONE, 1.0, True)
    without, gradient = softmax_cross_entropy(x, target, weight, NONE, 1.0, False)
    assert gradient is None
    np.testing.assert_array_equal(with_it, without)


def test_no_pixels():
    loss, gradient = softmax_cross_entropy(np.empty((0, 3)), np.empty(0, np.int32), np.ones(3), NONE, 1.0, True)
    assert loss.shape == (0,) and gradient.shape == (0, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_logits_of_any_size(dtype):
    x = np.array([[1e30, 0, -1e30], [-1e30, 1e30, 0], [0, 0, 0], [88, -88, 0]], dtype)
    loss, gradient = softmax_cross_entropy(x, np.array([0, 0, 1, 2], np.int32), np.ones(3), NONE, 1.0, True)
    np.testing.assert_allclose(loss, [0, 2e30, math.log(3), 88], rtol=1e-6)
    third = [1 / 3, -2 / 3, 1 / 3]
    np.testing.assert_allclose(gradient, [[0, 0, 0], [-1, 1, 0], third, [1, 0, -1]], atol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.filterwarnings("ignore:invalid value")
def test_nan_and_infinity_travel(dtype, place):
    inf = math.inf
    x = np.array([[0, 1, 2]] * 5, dtype)
    x[1, place], x[2, place], x[3, place], x[4] = math.nan, inf, -inf, -inf
    loss, gradient = softmax_cross_entropy(x, np.zeros(5, np.int32), np.ones(3), NONE, 1.0, True)
    assert np.isfinite(loss[0]) and np.isnan(loss[[1, 2, 4]]).all()
    assert np.isfinite(gradient[[0, 3]]).all() and np.isnan(gradient[[1, 2, 4]]).all()
    assert loss[3] == inf if place == 0 else np.isfinite(loss[3])
    assert gradient[3, place] == (-1 if place == 0 else 0)


@pytest.mark.filterwarnings("ignore:invalid value")
def test_an_ignored_pixel_of_nan_has_no_loss():
    x = np.full((2, 3), np.nan, np.float32)
    loss, _ = softmax_cross_entropy(x, np.array([-1, 0], np.int32), np.ones(3), np.ones(3), 1.0, True)
    assert loss[0] == 0 and np.isnan(loss[1])


@kernel
def exp(x, y):
    for i in prange(len(x)):
        y[i] = exp_float32(x[i])


def test_exp():
    x = np.linspace(0, float(LOWEST), 3001, dtype=np.float32)
    y = np.empty_like(x)
    exp(x, y)
    np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=4e-7)
    exp(np.array([-88, -np.inf, np.nan], np.float32), y)
    np.testing.assert_array_equal(y[:3], [0, 0, np.nan])


@kernel
def log(x, y):
    for i in prange(len(x)):
        y[i] = log_float32(x[i])


def test_log():
    x = np.concatenate([np.linspace(1, 3, 3001), np.logspace(0, 38, 3001), [2**0.5, 2**1.5]]).astype(np.float32)
    y = np.empty_like(x)
    log(x, y)
    expected = np.log(x.astype(np.float64))
    np.testing.assert_array_less(abs(y - expected), 2e-7 * np.maximum(1, expected))
    log(np.array([1, np.nan], np.float32), y)
    np.testing.assert_array_equal(y[:2], [0, np.nan])


def test_the_same_bits_for_any_number_of_threads():
    x, target, weight = draw(3000, 7, np.float32)
    target[::5] = -1
    threads = numba.get_num_threads()
    try:
        results = []
        for n in {1, threads}:
            numba.set_num_threads(n)
            results.append(softmax_cross_entropy(x, target, weight, weight / 7, 0.3, True))
    finally:
        numba.set_num_threads(threads)
    for loss, gradient in results:
        np.testing.assert_array_equal(loss, results[0][0])
        np.testing.assert_array_equal(gradient, results[0][1])
