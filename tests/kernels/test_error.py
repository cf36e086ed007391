"""The kernels of errors, over many chunks, against the definitions and against NumPy's way with small arrays."""

import math

import numba
import numpy as np
import pytest

from tests.naive import loss as naive
from tinynet.kernels import error
from tinynet.kernels.elementwise import LARGE

SIZE = LARGE + 3 * error.CHUNK + 5
FUNCTIONS = {error.SQUARE: naive.mse_loss, error.ABSOLUTE: naive.l1_loss, error.HUBER: naive.smooth_l1_loss}
codes = pytest.mark.parametrize("code", FUNCTIONS)
dtypes = pytest.mark.parametrize("dtype", [np.float32, np.float64])


def drawn(dtype):
    x, t = np.random.default_rng(0).normal(0, 1, (2, SIZE)).astype(dtype)
    x[9::1000] = t[9::1000]  # some errors are 0
    return x, t


@codes
@dtypes
def test_sum_is_the_definitions(code, dtype):
    x, t = drawn(dtype)
    options = {"beta": 0.5} if code == error.HUBER else {}
    losses = FUNCTIONS[code](x.astype(float), t.astype(float), reduction="none", **options)
    rtol = 1e-6 if dtype == np.float32 else 1e-13
    assert error.sum_of_values(code, x, t, 0.5) == pytest.approx(math.fsum(losses.tolist()), rel=rtol)
    np.testing.assert_allclose(error.values(code, x, t, 0.5), losses, rtol=1e-5, atol=1e-6)


@codes
@dtypes
def test_large_arrays_are_dealt_with_like_small_ones(code, dtype):
    x, t = drawn(dtype)
    x[:6], t[:6] = [np.inf, -np.inf, np.nan, 1e30, 1, 0.5], [0, 0, 0, 0, np.nan, 0]
    pieces = [slice(i, i + 1000) for i in range(0, SIZE, 1000)]
    expected = np.concatenate([error.slopes(code, x[p], t[p], 0.5, 0.3) for p in pieces])
    slopes = error.slopes(code, x, t, 0.5, 0.3)
    assert slopes.dtype == expected.dtype == dtype
    np.testing.assert_allclose(slopes, expected, rtol=1e-6)
    np.testing.assert_array_equal(slopes[9::1000], 0)
    assert math.isnan(error.sum_of_values(code, x, t, 0.5))
    x[2], t[4] = 0, 0
    assert error.sum_of_values(code, x, t, 0.5) == math.inf


def test_slopes_are_differences_of_values():
    d = np.array([-2.0, -0.4, -0.1, 0.2, 0.3, 0.7])
    for code in FUNCTIONS:
        above, below = (error.values(code, d + h, np.zeros(6), 0.5) for h in (1e-6, -1e-6))
        np.testing.assert_allclose(error.slopes(code, d, np.zeros(6), 0.5, 3.0), (above - below) * 1.5e6, rtol=1e-6)
        above, below = (error.slopes(code, d + h, np.zeros(6), 0.5, 1.0) for h in (1e-6, -1e-6))
        expected = (above - below) / 2e-6
        np.testing.assert_allclose(error.curvatures(code, d, np.zeros(6), 0.5), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="there are no threads without compiling")
@codes
def test_same_bits_for_any_number_of_threads(code):
    x, t = drawn(np.float32)
    results, threads = set(), numba.get_num_threads()
    for n in {1, threads}:
        numba.set_num_threads(n)
        results.add((error.sum_of_values(code, x, t, 0.5), error.slopes(code, x, t, 0.5, 0.3).tobytes()))
    numba.set_num_threads(threads)
    assert len(results) == 1
