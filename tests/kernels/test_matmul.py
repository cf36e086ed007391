"""Matrix products against their definition."""

import itertools

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.naive import matmul as naive
from tinynet.kernels.matmul import matmul, sum_parts

size = st.one_of(st.integers(0, 12), st.integers(13, 140))


def draw(shape, turned, dtype=np.float64):
    """A random array, contiguous or a transposed view."""
    random = np.random.default_rng(sum(shape))
    if turned:
        return random.standard_normal((*shape[:-2], shape[-1], shape[-2])).astype(dtype).swapaxes(-1, -2)
    return random.standard_normal(shape).astype(dtype)


def check(a, b, tolerance=1e-12):
    c = matmul(a, b)
    expected = naive.matmul(a.astype(np.float64), b.astype(np.float64))
    assert c.dtype == a.dtype and c.shape == expected.shape and c.flags.c_contiguous
    np.testing.assert_allclose(c, expected, rtol=0, atol=tolerance * (1 + a.shape[-1]))


@given(size, size, size, st.booleans(), st.booleans())
def test_against_the_definition(M, K, N, turn_a, turn_b):
    check(draw((M, K), turn_a), draw((K, N), turn_b))


@given(st.lists(st.integers(0, 3), max_size=2), st.integers(0, 20), st.integers(0, 20), st.integers(0, 20),
       st.booleans(), st.booleans())
def test_batches(leading, M, K, N, turn_a, turn_b):
    check(draw((*leading, M, K), turn_a), draw((*leading, K, N), turn_b))


SIZES = [(1, 3000, 5), (1, 700, 300), (2, 5, 1000), (4, 90, 70), (50, 1, 60), (1, 1, 9), (9, 2000, 1),
         (16, 2048, 100), (200, 300, 1), (130, 257, 129), (3, 1000, 300), (500, 600, 300), (70, 5000, 70), (64, 600, 8),
         (200, 4500, 130), (300, 600, 64), (40, 5000, 64), (900, 1100, 140)]


@pytest.mark.parametrize("M, K, N", SIZES)
@pytest.mark.parametrize("turn_a, turn_b", list(itertools.product((False, True), repeat=2)))
def test_skinny_and_large_in_float32(M, K, N, turn_a, turn_b):
    check(draw((M, K), turn_a, np.float32), draw((K, N), turn_b, np.float32), 1e-6)


def test_views_that_are_neither_contiguous_nor_transposed():
    a, b = draw((20, 30), False)[::2, 3:], draw((54, 40), True)[::2, ::-1]
    check(a, b)


@pytest.mark.parametrize("shape", [(0, 3, 4), (3, 0, 4), (3, 4, 0)])
def test_nothing_gives_zeros(shape):
    M, K, N = shape
    np.testing.assert_array_equal(matmul(np.ones((M, K)), np.ones((K, N))), np.zeros((M, N)))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("M, K, N", [(16, 5000, 100), (70, 600, 300), (1, 5000, 100), (900, 1, 70), (70, 1100, 70),
                                     (200, 5000, 150)])
@pytest.mark.parametrize("turn_a, turn_b", [(False, False), (False, True), (True, False)])
def test_same_bits_with_one_and_two_threads(M, K, N, turn_a, turn_b):
    a, b = draw((M, K), turn_a, np.float32), draw((K, N), turn_b, np.float32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append(matmul(a, b))
    np.testing.assert_array_equal(*results)


def test_nan_and_inf_travel():
    a, b = np.ones((20, 300)), np.ones((300, 40))
    a[7, 299] = np.nan
    b[0, 39] = np.inf
    np.testing.assert_array_equal(matmul(a, b), naive.matmul(a, b))


def test_sum_parts():
    parts = draw((5, 30, 101), False)
    np.testing.assert_allclose(sum_parts(parts), parts.sum(0), atol=1e-13)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="NumPy, which then computes tiles, sums in an order of its own")
@pytest.mark.parametrize("K, N", [(3000, 140), (3000, 1), (700, 2000), (2, 9)])
def test_a_row_does_not_depend_on_others(K, N):
    a, b = draw((300, K), False, np.float32), draw((K, N), False, np.float32)
    together = matmul(a, b)
    for M in (1, 2, 5, 64, 65, 200):
        np.testing.assert_array_equal(matmul(a[3:3 + M], b), together[3:3 + M])


@pytest.mark.parametrize("turn_b", [False, True])
def test_nan_and_inf_travel_through_products_with_a_vector(turn_b):
    a, b = draw((1, 50), False), draw((50, 40), turn_b)
    a[0, 7], b[7, 3], b[9, 4] = np.inf, 0, np.nan
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(np.isnan(matmul(a, b)), np.isnan(naive.matmul(a, b)))
