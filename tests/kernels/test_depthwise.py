"""Convolutions of small groups against their definition, and how they are cut into runs of pixels."""

import os
import subprocess
import sys

import numba
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.kernels.test_convolution import ONE, Case
from tests.naive import convolution as naive
from tinynet.kernels import convolution, depthwise
from tinynet.shapes import Geometry


@st.composite
def cases(draw, dtype=np.float64):
    groups = draw(st.sampled_from((2, 3, 5, 16, 17)))
    inputs, outputs = draw(st.sampled_from(((1, 1), (1, 1), (1, 2), (2, 1), (2, 2), (3, 3), (4, 4), (8, 5))))
    two = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    geometry = Geometry(two(1, 3), (two(0, 3), two(0, 3)), two(1, 3), groups)
    case = Case(draw(st.integers(1, 2)), two(1, 9), two(1, 4), groups * inputs, groups * outputs, geometry, dtype)
    assume(min(case.y_hw) > 0)
    return case


@given(cases())
def test_against_the_definition(case):
    case.check()


@given(cases(np.float32))
def test_against_the_definition_in_float32(case):
    case.check(1e-5)


def grouped(groups, stride=1, **sizes):
    return dict(geometry=Geometry((stride, stride), ONE, groups=groups), **sizes)


CASES = {
    "one channel each": grouped(8, N=2, hw=(8, 9), kernel=(3, 3), C=8, O=8),
    "more channels than a tile": grouped(83, N=1, hw=(5, 6), kernel=(3, 3), C=83, O=83),
    "more pixels than a tile": grouped(16, N=1, hw=(3, 45), kernel=(3, 3), C=16, O=16),
    "more taps than a tile": grouped(4, N=1, hw=(9, 11), kernel=(5, 7), C=4, O=4),
    "every other pixel": grouped(64, 2, N=2, hw=(9, 8), kernel=(3, 3), C=64, O=64),
    "two channels each": grouped(9, N=1, hw=(6, 5), kernel=(3, 3), C=18, O=18),
    "four channels each": grouped(5, N=1, hw=(6, 5), kernel=(3, 3), C=20, O=20),
    "eight channels each": grouped(8, N=1, hw=(6, 5), kernel=(3, 3), C=64, O=64),
    "three to five": grouped(4, N=1, hw=(6, 5), kernel=(3, 3), C=12, O=20),
    "no images": grouped(3, N=0, hw=(5, 5), kernel=(3, 3), C=3, O=3),
}


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_chosen_cases(name, dtype):
    case = Case(**CASES[name], dtype=dtype)
    case.check(1e-5 if dtype == np.float32 else 1e-12)


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
@pytest.mark.parametrize("name", CASES)
def test_same_bits_with_one_and_two_threads(name):
    case = Case(**CASES[name], dtype=np.float32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append(case.run(convolution))
    for side, values in results[0].items():
        np.testing.assert_array_equal(values, results[1][side], err_msg=side)


def test_an_image_does_not_depend_on_its_batch():
    case = Case(**grouped(16, N=3, hw=(20, 21), kernel=(3, 3), C=16, O=16), dtype=np.float32)
    for run, x, channels in ((convolution.gather, case.x, case.y_hw), (convolution.scatter, case.y, case.x_hw)):
        alone = run(x[1:2], case.w, None, case.geometry, channels)
        np.testing.assert_array_equal(run(x, case.w, None, case.geometry, channels)[1:2], alone)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("channels", [1, 2, 3])
def test_nan_and_inf_travel_to_where_they_belong(bad, channels):
    geometry = Geometry((1, 1), ONE, groups=5)
    case = Case(2, (9, 11), (3, 3), 5 * channels, 5 * channels, geometry)
    case.x[1, 4, 10, 4] = case.y[0, 1, 2, 3] = bad
    with np.errstate(invalid="ignore"):
        actual, expected = case.run(convolution), case.run(naive)
    for side, values in expected.items():
        np.testing.assert_array_equal(np.isfinite(actual[side]), np.isfinite(values), err_msg=side)
        assert not np.isfinite(values).all()


def test_runs_are_pixels_with_the_same_taps_inside():
    runs = depthwise._runs(((3, 0, 1, -1, 1, 1),), 7, 7)         # 3 taps, padding 1
    begins, pixels, taps, first_taps = runs[:, 0], runs[:, 2], runs[:, 4], runs[:, 5]
    assert list(begins) == [0, 1, 6] and list(pixels) == [1, 5, 1]
    assert list(taps) == [2, 3, 2] and list(first_taps) == [1, 0, 0]


def test_plain_python():
    code = "\n".join([
        "from tests.kernels.test_depthwise import CASES, Case",
        "for name in ('one channel each', 'two channels each', 'three to five'):",
        "    Case(**CASES[name]).check()",
    ])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
