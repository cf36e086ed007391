"""Gather, scatter and weight gradient against their definition, and against each other."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numba
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.naive import convolution as naive
from tinynet.kernels import convolution
from tinynet.shapes import Geometry, conv_output_size


class Case:
    """Random x, w and y of one convolution."""

    def __init__(self, N, hw, kernel, C, O, geometry=None, dtype=np.float64):
        self.geometry = geometry = geometry or Geometry()
        axes = zip(hw, kernel, geometry.stride, map(sum, geometry.padding), geometry.dilation, strict=True)
        self.x_hw, self.kernel, self.y_hw = hw, kernel, tuple(conv_output_size(*each) for each in axes)
        random = np.random.default_rng(0)
        if min(self.y_hw) > 0:
            self.x = random.standard_normal((N, *hw, C)).astype(dtype)
            self.w = random.standard_normal((*kernel, C // geometry.groups, O)).astype(dtype)
            self.y = random.standard_normal((N, *self.y_hw, O)).astype(dtype)
            self.bx, self.by = (random.standard_normal(n).astype(dtype) for n in (C, O))

    def run(self, module):
        return {
            "gather": module.gather(self.x, self.w, self.by, self.geometry, self.y_hw),
            "scatter": module.scatter(self.y, self.w, self.bx, self.geometry, self.x_hw),
            "weight_gradient": module.weight_gradient(self.x, self.y, self.geometry, self.kernel),
        }

    def check(self, tolerance=1e-12):
        actual, expected = self.run(convolution), self.run(naive)
        for side, values in expected.items():
            assert actual[side].dtype == self.x.dtype, side
            scale = np.abs(values).max(initial=1)
            np.testing.assert_allclose(actual[side], values, rtol=0, atol=tolerance * scale, err_msg=side)


@st.composite
def cases(draw, dtype=np.float64):
    groups = draw(st.sampled_from((1, 1, 1, 2, 3)))
    C, O = (groups * draw(st.sampled_from((1, 2, 3, 5))), groups * draw(st.sampled_from((1, 3, 4, 9, 20))))
    two = lambda low, high: (draw(st.integers(low, high)), draw(st.integers(low, high)))  # noqa: E731
    geometry = Geometry(two(1, 3), (two(0, 3), two(0, 3)), two(1, 3), groups)
    case = Case(draw(st.integers(1, 2)), two(1, 11), two(1, 4), C, O, geometry, dtype)
    assume(min(case.y_hw) > 0)
    return case


@given(cases())
def test_against_the_definition(case):
    case.check()


@given(cases(np.float32))
def test_against_the_definition_in_float32(case):
    case.check(1e-5)


@given(cases())
def test_each_is_the_adjoint_of_the_others(case):
    y = convolution.gather(case.x, case.w, None, case.geometry, case.y_hw)
    x = convolution.scatter(case.y, case.w, None, case.geometry, case.x_hw)
    w = convolution.weight_gradient(case.x, case.y, case.geometry, case.kernel)
    products = [np.sum(y * case.y), np.sum(case.x * x), np.sum(case.w * w)]
    scale = 1 + np.sqrt(np.sum(y ** 2) * np.sum(case.y ** 2))
    assert max(products) - min(products) <= 1e-12 * scale


ONE = ((1, 1), (1, 1))
CASES = {
    "3x3": dict(N=2, hw=(9, 8), kernel=(3, 3), C=5, O=33, geometry=Geometry(padding=ONE)),
    "1x1": dict(N=2, hw=(5, 7), kernel=(1, 1), C=7, O=70),
    "1x1 strided": dict(N=1, hw=(5, 8), kernel=(1, 1), C=3, O=5, geometry=Geometry((2, 3))),
    "transposed 4x4": dict(N=2, hw=(8, 10), kernel=(4, 4), C=6, O=9, geometry=Geometry((2, 2), ONE)),
    "several tasks a row": dict(N=1, hw=(4, 3), kernel=(3, 3), C=3, O=150, geometry=Geometry(padding=ONE)),
    "many outputs, strided": dict(N=2, hw=(7, 8), kernel=(3, 3), C=8, O=70, geometry=Geometry((2, 1), ONE)),
    "many outputs, in groups": dict(N=1, hw=(6, 9), kernel=(3, 3), C=16, O=80, geometry=Geometry((1, 2), groups=2)),
    "more inputs": dict(N=1, hw=(3, 4), kernel=(3, 3), C=150, O=3, geometry=Geometry(padding=ONE)),
    "more blocks than parts": dict(N=3, hw=(41, 5), kernel=(3, 1), C=2, O=6),
    "few outputs": dict(N=2, hw=(9, 12), kernel=(3, 3), C=12, O=3, geometry=Geometry((2, 1), padding=ONE)),
    "eight outputs": dict(N=2, hw=(9, 12), kernel=(3, 3), C=8, O=8, geometry=Geometry(padding=ONE)),
    "eight outputs of a pixel": dict(N=2, hw=(6, 10), kernel=(1, 1), C=8, O=8),
    "a vector of outputs": dict(N=1, hw=(7, 14), kernel=(3, 5), C=4, O=16, geometry=Geometry((2, 1), ((1, 1), (2, 2)))),
    "few outputs, strided": dict(N=2, hw=(9, 16), kernel=(7, 7), C=4, O=4, geometry=Geometry((2, 2), ((3, 3), (3, 3)))),
    "few outputs, dilated": dict(N=1, hw=(9, 16), kernel=(3, 3), C=2, O=3, geometry=Geometry((3, 2), ONE, (2, 3))),
    "one output": dict(N=1, hw=(9, 16), kernel=(2, 1), C=1, O=1, geometry=Geometry((1, 4))),
    "depthwise": dict(N=2, hw=(8, 9), kernel=(3, 3), C=8, O=8, geometry=Geometry(padding=ONE, groups=8)),
    "wider than a chunk": dict(N=1, hw=(3, 300), kernel=(2, 3), C=2, O=5),
    "no images": dict(N=0, hw=(5, 5), kernel=(3, 3), C=3, O=4),
}


@pytest.mark.parametrize("name", CASES)
def test_chosen_cases(name):
    Case(**CASES[name]).check()
    Case(**CASES[name], dtype=np.float32).check(1e-5)


SIDE_BY_SIDE = {  # two phases of four with two taps each; windows that grow by taps of zeros
    "of several phases": dict(N=2, hw=(16, 24), kernel=(8, 8), C=12, O=12, geometry=Geometry((4, 4), ((2, 2), (2, 2)))),
    "phases without a tap": dict(N=1, hw=(20, 36), kernel=(3, 3), C=4, O=12, geometry=Geometry((4, 4), padding=ONE)),
    "all of two phases": dict(N=1, hw=(6, 8), kernel=(4, 4), C=4, O=4, geometry=Geometry((2, 2), ONE)),
    "few outputs, strided": CASES["few outputs, strided"],
    "eight outputs": CASES["eight outputs"],
    "five pixels abreast": dict(N=1, hw=(5, 15), kernel=(2, 3), C=3, O=3, geometry=Geometry(padding=((0, 1), (1, 1)))),
}


@pytest.mark.parametrize("name", SIDE_BY_SIDE)
def test_pixels_side_by_side(name, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_WORK", 0)        # where there is little to do, it would not pay
    used, run = [], convolution._correlate_side_by_side
    monkeypatch.setattr(convolution, "_correlate_side_by_side", lambda n, *args: (used.append(n), run(n, *args))[1])
    case = Case(**SIDE_BY_SIDE[name])
    case.check()
    assert used or name not in ("of several phases", "few outputs, strided")     # of the others, the machine decides
    Case(**SIDE_BY_SIDE[name], dtype=np.float32).check(1e-5)


@pytest.mark.parametrize("name", ["of several phases", "few outputs, strided"])
def test_nan_and_inf_go_no_further_side_by_side(name, monkeypatch):
    monkeypatch.setattr(convolution, "LEAST_WORK", 0)
    case = Case(**SIDE_BY_SIDE[name])
    case.x[0, 4, 7, 1], case.y[0, 1, 2, 1] = np.nan, np.inf
    with np.errstate(invalid="ignore"):
        actual, expected = case.run(convolution), case.run(naive)
    for side in ("gather", "scatter"):
        np.testing.assert_array_equal(np.isfinite(actual[side]), np.isfinite(expected[side]), err_msg=side)


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


def test_pixels_that_no_window_reaches_get_the_bias():
    geometry = Geometry((3, 3))
    y, w, b = np.ones((1, 2, 2, 1)), np.ones((2, 2, 1, 1)), np.full(1, 5.0)
    x = convolution.scatter(y, w, b, geometry, (8, 8))[0, :, :, 0]
    assert set(x[2]) == set(x[:, 5]) == set(x[6]) == {5.0}
    np.testing.assert_array_equal(x[:2, :2], np.full((2, 2), 6.0))


def test_more_output_than_windows_fit():
    """The sizes are the caller's: what lies outside of the image is zero, whatever the padding says."""
    x, w = np.ones((1, 3, 3, 2)), np.ones((2, 2, 2, 3))
    np.testing.assert_array_equal(convolution.gather(x, w, None, Geometry(), (5, 5)),
                                  naive.gather(x, w, None, Geometry(), (5, 5)))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("stride", [1, 2])
def test_nan_and_inf_travel_to_where_they_belong(bad, stride):
    geometry = Geometry((stride, stride), ONE)
    case = Case(2, (9, 11), (3, 3), 5, 21, geometry)
    case.x[1, 4, 10, 4] = bad
    case.y[0, 1, 2, 20] = bad
    with np.errstate(invalid="ignore"):
        actual, expected = case.run(convolution), case.run(naive)
    for side, values in expected.items():
        np.testing.assert_array_equal(np.isfinite(actual[side]), np.isfinite(values), err_msg=side)
        assert not np.isfinite(values).all()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_are_not_lost_with_few_outputs(bad):
    case = Case(1, (5, 8), (3, 3), 12, 3, Geometry(padding=ONE))
    case.x[0, 2, 3, 7] = bad
    for side, values in case.run(naive).items():
        wrong = ~np.isfinite(case.run(convolution)[side])
        assert wrong[~np.isfinite(values)].all(), side


def test_nan_in_the_weights_travels():
    case = Case(1, (5, 6), (3, 3), 3, 20, Geometry(padding=ONE))
    case.w[2, 2, 1, 19] = np.nan
    actual, expected = case.run(convolution), case.run(naive)
    for side in ("gather", "scatter"):
        assert np.isnan(actual[side][np.isnan(expected[side])]).all()


@pytest.mark.parametrize("name", ["3x3", "few outputs", "eight outputs", "a vector of outputs", "several tasks a row"])
def test_an_image_does_not_depend_on_its_batch(name):
    case = Case(**{**CASES[name], "N": 3}, dtype=np.float32)
    for run, images, size in ((convolution.gather, case.x, case.y_hw), (convolution.scatter, case.y, case.x_hw)):
        alone = run(images[1:2], case.w, None, case.geometry, size)
        np.testing.assert_array_equal(run(images, case.w, None, case.geometry, size)[1:2], alone)


def test_two_python_threads_at_once():
    case = Case(**CASES["3x3"])
    expected = case.run(convolution)
    with ThreadPoolExecutor(2) as pool:
        for actual in pool.map(lambda _: case.run(convolution), range(20)):
            for side, values in expected.items():
                np.testing.assert_array_equal(actual[side], values)


def test_plain_python():
    code = "\n".join([
        "from tests.kernels.test_convolution import CASES, Case",
        "for name in ('1x1 strided', 'transposed 4x4', 'few outputs'):",
        "    Case(**CASES[name]).check()",
    ])
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
