"""The parallel sum over rows: right, accurate, and the same for any number of threads."""

import math

import numba
import numpy as np
import pytest

from tinynet.kernels.reduction import sum_rows

# tall, wide (several blocks of columns), narrow (rows side by side, with or without a rest), a row, a column
SHAPES = [
    (1000, 40),
    (5, 2500),
    (300, 2100),
    (1000, 3),
    (1001, 5),
    (7, 1),
    (1, 7),
    (3, 64),
    (64, 64),
    (65, 65),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_is_the_sum_of_the_rows(shape, dtype):
    x = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    expected = np.array([math.fsum(x[:, c].tolist()) for c in range(shape[1])])
    y = sum_rows(x)
    assert y.dtype == dtype and y.shape == (shape[1],)
    np.testing.assert_allclose(y, expected, rtol=np.finfo(dtype).eps, atol=1e-13)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_gate_is_shut_first(shape, dtype):
    x, gate = np.random.default_rng(0).standard_normal((2, *shape)).astype(dtype)
    gate.flat[::5], gate.flat[::7] = 0, np.nan  # 0 shuts, a NaN lets through
    expected = np.where(gate <= 0, 0, x)
    y = sum_rows(x, gate)
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, sum_rows(expected))


def test_float32_sums_are_exact_to_the_last_bit():
    x = np.full((300_000, 2), 0.1, np.float32)
    assert (sum_rows(x) == np.float32(300_000 * float(np.float32(0.1)))).all()


@pytest.mark.parametrize("shape", [(5000, 33), (300, 2100), (4999, 3)])
def test_same_bits_for_any_number_of_threads(shape):
    x = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    threads, sums = numba.get_num_threads(), []
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            sums.append(sum_rows(x))
    finally:
        numba.set_num_threads(threads)
    assert all((one == sums[0]).all() for one in sums)


def test_nothing_to_sum():
    assert (sum_rows(np.empty((0, 3), np.float32)) == 0).all()
    assert sum_rows(np.empty((3, 0))).shape == (0,)


def test_nan_and_infinity_stay_in_their_column():
    x = np.ones((200, 4), np.float32)
    x[150, 1], x[3, 2] = np.nan, np.inf
    np.testing.assert_array_equal(sum_rows(x), np.array([200, np.nan, np.inf, 200], np.float32))


def test_an_array_that_is_not_contiguous():
    x = np.random.default_rng(2).standard_normal((30, 50))
    np.testing.assert_allclose(sum_rows(x.T), x.sum(axis=1), rtol=1e-14, atol=1e-14)
