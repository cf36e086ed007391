"""The weight gradient down the columns: against the direct sum in float64, its adjoint, edges, NaN, threads."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.naive import convolution as naive
from tinynet.kernels import convolution, weight_strips
from tinynet.kernels.pooling import Unpooled
from tinynet.shapes import Geometry

SAME = Geometry(padding=((1, 1), (1, 1)))


def draw(N, hw, C, O, padding=((1, 1), (1, 1))):
    """x and y"""
    random = np.random.default_rng(0)
    y_hw = (n + sum(pads) - 2 for n, pads in zip(hw, padding, strict=True))
    return tuple(random.standard_normal(shape, dtype=np.float32) for shape in ((N, *hw, C), (N, *y_hw, O)))


def check(N, hw, C, O, padding=((1, 1), (1, 1))):
    x, y = draw(N, hw, C, O, padding)
    got = weight_strips.weight_gradient(x, y, (padding[0][0], padding[1][0]))
    expected = naive.weight_gradient(x.astype(np.float64), y.astype(np.float64), Geometry(padding=padding), (3, 3))
    assert got.dtype == np.float32 and got.flags.c_contiguous
    np.testing.assert_allclose(got, expected, rtol=0, atol=3e-6 * np.abs(expected).max(initial=1e-9))


small = st.integers(0, 2)


@given(N=st.integers(1, 3), H=st.integers(3, 14), W=st.integers(3, 12), C=st.sampled_from([4, 7, 16]),
       O=st.sampled_from([5, 8, 12, 16, 33]), padding=st.tuples(small, small, small, small))
def test_against_the_definition(N, H, W, C, O, padding):
    padding = padding[:2], padding[2:]
    W += sum(padding[1]) % 2 + W % 2                         # an even width of y
    check(N, (H, W), C, O, padding)


def test_rows_longer_than_the_cache_holds():
    check(1, (6, 600), 12, 20)
    check(1, (6, 800), 8, 8)


def test_the_stated_error_holds():
    """1e-5 of the largest result, for a long sum"""
    x, y = draw(8, (128, 128), 8, 16)
    exact = convolution.weight_gradient(x.astype(np.float64), y.astype(np.float64), SAME, (3, 3))
    assert np.abs(weight_strips.weight_gradient(x, y, (1, 1)) - exact).max() < 1e-5 * np.abs(exact).max()


def test_many_weights_are_few_parts(monkeypatch):
    monkeypatch.setattr(weight_strips, "MOST_SUMS", 2 * 6 * 24 * 16)
    check(4, (12, 16), 8, 16)


def test_adjoint():
    """<gather(x, w), y> = <w, weight_gradient(x, y)>"""
    x, y = draw(2, (33, 36), 12, 8)
    w = np.random.default_rng(1).standard_normal((3, 3, 12, 8), dtype=np.float32)
    assert weight_strips.pays(w.shape, y.shape, x.dtype, SAME) is False     # small, but the same sum
    one = np.vdot(convolution.gather(x, w, None, SAME, y.shape[1:3]).astype(float), y)
    two = np.vdot(w, weight_strips.weight_gradient(x, y, (1, 1)).astype(float))
    assert abs(one - two) < 1e-5 * np.linalg.norm(w) * np.linalg.norm(weight_strips.weight_gradient(x, y, (1, 1)))


def test_pooled_gradients_are_made_whole():
    x, y = draw(6, (32, 32), 16, 24)
    random = np.random.default_rng(2)
    places = random.integers(0, 4, (6, 16, 16, 24)).astype(np.uint8)
    pooled = Unpooled(np.ascontiguousarray(y[:, ::2, ::2]), places, (32, 32))
    assert weight_strips.pays((3, 3, 16, 24), pooled.shape, x.dtype, SAME)
    np.testing.assert_array_equal(convolution.weight_gradient(x, pooled, SAME, (3, 3)),
                                  convolution.weight_gradient(x, pooled.whole(), SAME, (3, 3)))


@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "y"])
def test_what_is_not_finite_takes_the_direct_way(value, where):
    x, y = draw(2, (64, 64), 8, 16)
    assert weight_strips.pays((3, 3, 8, 16), y.shape, x.dtype, SAME)
    {"x": x, "y": y}[where][0, 0, 0, 5] = value
    public = convolution.weight_gradient(x, y, SAME, (3, 3))
    with tn.exact_convolution():
        direct = convolution.weight_gradient(x, y, SAME, (3, 3))
    np.testing.assert_array_equal(public, direct)
    assert 0 < np.isfinite(public).sum() < public.size


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("O", [8, 24])
def test_same_bits_with_one_and_two_threads(O):
    x, y = draw(5, (22, 38), 12, O)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append(weight_strips.weight_gradient(x, y, (1, 1)))
    np.testing.assert_array_equal(*results)


def test_which_convolutions_go_this_way():
    def pays(C, O, images=16, hw=(32, 32), dtype=np.float32):
        return weight_strips.pays((3, 3, C, O), (images, *hw, O), dtype, SAME)

    assert pays(8, 8) and pays(16, 8) and pays(40, 24)
    assert not pays(3, 32)                                   # 9 taps are too few
    assert not pays(8, 8, images=8) and pays(16, 8, images=8)
    assert not pays(8, 20) and not pays(8, 8, dtype=np.float64)
    assert pays(120, 120) and not pays(200, 200)             # too many sums for several threads
    assert pays(72, 72, images=1) and not pays(72, 72, images=1, hw=(16, 16))    # too few strips for them


def test_plain_python():
    code = "from tests.kernels.test_weight_strips import check; check(1, (5, 8), 4, 8); check(1, (6, 7), 4, 12)"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
