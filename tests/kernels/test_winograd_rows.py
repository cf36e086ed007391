"""Winograd's way down the columns alone: every kind of tile against the direct sum in float64, edges, NaN, threads."""

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
from tinynet.kernels import convolution, winograd_rows
from tinynet.kernels.pooling import max_pool
from tinynet.shapes import Geometry

SAME = Geometry(padding=((1, 1), (1, 1)))


def draw(x_shape, outputs, seed=0):
    """x, w and b"""
    random = np.random.default_rng(seed)
    shapes = x_shape, (3, 3, x_shape[3], outputs), (outputs,)
    return tuple(random.standard_normal(shape, dtype=np.float32) for shape in shapes)


def out_hw(x, padding):
    return tuple(n + sum(pads) - 2 for n, pads in zip(x.shape[1:3], padding, strict=True))


def check(x_shape, outputs, padding=((1, 1), (1, 1)), pooled=False):
    """gather with all that may follow it, against the definition in float64"""
    x, w, b = draw(x_shape, outputs)
    hw = out_hw(x, padding)
    assert winograd_rows.pays(w.shape, hw, x.dtype, Geometry(padding=padding))
    got = winograd_rows.gather(x, w, b, (padding[0][0], padding[1][0]), hw, True, pooled)
    expected = naive.gather(*(each.astype(np.float64) for each in (x, w, b)), Geometry(padding=padding), hw)
    size = np.abs(expected).max(initial=1)
    if pooled:
        (got, places), (expected, there) = got, max_pool(expected, (2, 2), (2, 2), (0, 0), tuple(n // 2 for n in hw))
        is_clear = expected > 1e-4                           # the first of several zeros may be another
        np.testing.assert_array_equal(places[is_clear], there[is_clear])
    assert got.dtype == np.float32 and got.shape == expected.shape
    np.testing.assert_allclose(got, np.maximum(expected, 0), rtol=0, atol=2e-6 * size)


small = st.integers(0, 2)


@given(N=st.integers(0, 2), H=st.integers(3, 14), W=st.integers(18, 38), C=st.sampled_from([3, 4, 9, 18]),
       O=st.sampled_from([7, 8, 12, 13, 16, 24, 31, 32, 40]), padding=st.tuples(small, small, small, small),
       pooled=st.booleans())
def test_against_the_definition(N, H, W, C, O, padding, pooled):
    padding = padding[:2], padding[2:]
    x = np.empty((N, H, W, C), np.float32)
    if not winograd_rows.pays((3, 3, C, O), out_hw(x, padding), x.dtype, Geometry(padding=padding)):
        W = 36 - sum(padding[1])                             # such a width, and two strips, suit all of them
        H = 10 - sum(padding[0])
    check((N, H, W, C), O, padding, pooled)


@pytest.mark.parametrize("inputs", [3, 5])
@pytest.mark.parametrize("outputs", [8, 16, 32, 48])
@pytest.mark.parametrize("pooled", [False, True])
def test_each_kind_of_tile(inputs, outputs, pooled):
    check((2, 18, 36, inputs), outputs, pooled=pooled)


@pytest.mark.parametrize("height", range(7, 13))
@pytest.mark.parametrize("width", [32, 33, 47])
def test_strips_and_rows_that_end_early(height, width):
    check((1, height, width, 3), 32, pooled=False)
    check((1, height, width, 3), 32, pooled=True)


def test_rows_longer_than_the_first_cache_holds():
    check((1, 8, 400, 3), 16)
    check((1, 8, 150, 20), 24)


def test_past_the_caches(monkeypatch):
    monkeypatch.setattr(winograd_rows, "is_streamed", lambda x, y: True)
    for outputs, pooled in [(8, False), (16, False), (24, False), (32, False), (32, True)]:
        check((2, 13, 40, 3), outputs, pooled=pooled)
        check((2, 13, 40, 4), outputs, pooled=pooled)


@pytest.mark.parametrize("C, O", [(3, 32), (8, 16), (16, 8), (12, 64), (100, 48)])
def test_the_stated_error_holds(C, O):
    """a third of the one that winograd.py has"""
    x, w, b = draw((2, 32, 32, C), O)
    got = convolution.gather(x, w, b, SAME, (32, 32))
    exact = convolution.gather(*(each.astype(np.float64) for each in (x, w, b)), SAME, (32, 32))
    assert 0 < np.abs(got - exact).max() < 3e-6 * np.abs(exact).max()


@pytest.mark.parametrize("padding", [((1, 1), (1, 1)), ((0, 2), (1, 0))])
def test_adjoints(padding):
    """<gather(x, w), y> = <x, scatter(y, w)>, both of few channels"""
    geometry = Geometry(padding=padding)
    x, w, _ = draw((2, 33, 35, 12), 8)
    hw = out_hw(x, padding)
    y = np.random.default_rng(1).standard_normal((2, *hw, 8), dtype=np.float32)
    mirrored = 3, 3, 8, 12
    assert winograd_rows.pays(w.shape, hw, x.dtype, geometry) == (hw[1] % 2 == 0)
    assert winograd_rows.pays(mirrored, x.shape[1:3], x.dtype, geometry)
    one = np.vdot(convolution.gather(x, w, None, geometry, hw).astype(float), y)
    two = np.vdot(x, convolution.scatter(y, w, None, geometry, x.shape[1:3]).astype(float))
    assert abs(one - two) < 1e-5 * np.linalg.norm(x) * np.linalg.norm(y)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("where", ["x", "w", "b"])
@pytest.mark.parametrize("outputs, pooled", [(16, False), (32, False), (32, True)])
def test_what_is_not_finite_takes_the_direct_way(value, where, outputs, pooled):
    x, w, b = draw((2, 12, 20, 3), outputs)
    {"x": x[0, 1, 0], "w": w[0, 1, 0], "b": b}[where][1] = value
    public = convolution.gather(x, w, b, SAME, (12, 20), True, pooled)
    with tn.exact_convolution():
        direct = convolution.gather(x, w, b, SAME, (12, 20), True, pooled)
    np.testing.assert_array_equal(public, direct)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("C, O", [(3, 32), (3, 16), (6, 8), (6, 40)])
def test_same_bits_with_one_and_two_threads(C, O):
    x, w, b = draw((3, 22, 38, C), O)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append(convolution.gather(x, w, b, SAME, (22, 38)))
    np.testing.assert_array_equal(*results)


def test_an_image_does_not_depend_on_its_company():
    x, w, b = draw((5, 13, 30, 3), 32)
    together = convolution.gather(x, w, b, SAME, (13, 30))
    for n in (0, 4):
        np.testing.assert_array_equal(convolution.gather(x[n:n + 1], w, b, SAME, (13, 30))[0], together[n])


def test_which_convolutions_go_this_way():
    def pays(C, O, hw=(32, 32), dtype=np.float32, kernel=(3, 3), **geometry):
        return winograd_rows.pays((*kernel, C, O), hw, dtype, SAME._replace(**geometry))

    assert pays(3, 32) and pays(3, 16) and pays(8, 8) and pays(40, 24)
    assert not pays(3, 32, dtype=np.float64)
    assert not pays(2, 32)                                   # no faster
    assert not pays(3, 20) and not pays(3, 5)                # too much of the vectors would be empty
    assert not pays(8, 8, hw=(32, 33))                       # two pixels side by side don't divide it
    assert not pays(3, 32, hw=(32, 11))
    assert not pays(3, 32, hw=(2, 32)) and pays(3, 32, hw=(3, 32))    # a strip mostly empty
    assert not pays(3, 32, kernel=(5, 5))
    assert not pays(4, 32, groups=2) and not pays(3, 32, stride=(2, 2)) and not pays(3, 32, dilation=(1, 2))
    with tn.exact_convolution():
        assert not pays(3, 32)


def test_plain_python():
    code = ("from tests.kernels.test_winograd_rows import check; check((1, 7, 18, 3), 32, pooled=True); "
            "check((1, 5, 17, 3), 12); check((1, 6, 16, 4), 40); check((1, 4, 32, 3), 8)")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
