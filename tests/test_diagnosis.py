"""What a wrong gradient looks like: each kind of mistake, made with a random Jacobian, and told in words."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.checks import draw
from tinynet.diagnosis import looks_like

G, J = draw((3, 4), 1), draw((3, 4, 4, 3), 2)  # of a result (3, 4) and an input (4, 3)


def gradient(g=G, jacobian=J):
    """sum over the result's axes of g J"""
    return np.einsum("ij,ijkl->kl", g, jacobian)


def told(analytic, numeric=None, g=G, jacobian=J, **others):
    numeric = gradient() if numeric is None else numeric
    return looks_like(analytic, numeric, ~np.isclose(analytic, numeric), g, jacobian, others)


WRONG = {
    "a gradient that doesn't arrive": gradient() * 0,
    "a NaN or Inf made by backward": np.where(np.eye(4, 3), np.inf, gradient()),
    "the wrong sign": -gradient(),
    "the wrong sign in some elements": gradient() * np.where(np.eye(4, 3), -1, 1),
    "a constant factor of 1.7": 1.7 * gradient(),
    "a constant factor of 0.5, as if one of two uses": gradient() / 2,
    "a constant factor of 12, the number of all elements of the result": 12 * gradient(),
    "a constant factor of 1/3, the number of the elements along axis 0 of the result": gradient() / 3,
    "a flipped array: the right values, mirrored along axis 1": gradient()[:, ::-1],
    "a flipped array: the right values, mirrored along axes 0 and 1": gradient()[::-1, ::-1],
    "values that are shifted by one along axis 0": np.roll(gradient(), 1, 0),
    "values that are shifted by one along axis 1": np.roll(gradient(), -1, 1),
    "a flipped kernel: each offset counted backwards along axis 0": gradient(G[::-1])[::-1],
    "a transposed kernel or matrix: axis 1 of the result is taken for axis 0": gradient(jacobian=J.swapaxes(1, 2)),
    "a sum over the wrong axis: taken over axis 0": gradient().sum(0, keepdims=True) + np.zeros((4, 1)),
    "a mean over the wrong axis: taken over axes 0 and 1": np.full((4, 3), gradient().mean()),
    "a missing un-broadcast: only the copy at 3 along axis 1": np.einsum("i,ikl->kl", G[:, 3], J[:, 3]),
    "a value overwritten where it should be added (= for +=): only the first": G[0, 0] * J[0, 0],
    "a value overwritten where it should be added (= for +=): only the last": G[2, 3] * J[2, 3],
    "a mistake at the border only, along axis 0": gradient() + np.array([[1], [0], [0], [0]]) * draw((4, 3), 5),
    "a mistake at the border only, along axes 0 and 1": gradient() + 1 - np.pad(np.ones((2, 1)), 1),
}


@pytest.mark.parametrize("words", WRONG)
def test_each_mistake_is_told(words):
    assert told(WRONG[words]).startswith(words)


def test_a_result_as_wide_as_high():
    g, jacobian = draw((3, 3), 1), draw((3, 3, 5), 2)
    right = np.einsum("ij,ijk->k", g, jacobian)
    words = told(np.einsum("ji,ijk->k", g, jacobian), right, g, jacobian)
    assert words.startswith("a sum over the wrong axis: axes 0 and 1 of the result's gradient")


def test_a_function_of_each_element_and_the_others():
    g, jacobian = draw((5,), 1), draw((5, 5), 2)
    assert "only the diagonal" in told(g * np.diagonal(jacobian), g @ jacobian, g, jacobian)


def test_axes_in_another_order():
    g, jacobian = draw((4,), 1), draw((4, 3, 3), 2)
    right = np.einsum("i,ikl->kl", g, jacobian)
    assert "the right values with the axes in the order (1, 0)" in told(right.T, right, g, jacobian)


def test_what_another_input_got():
    assert told(draw((4, 3), 9), x=gradient()) == "gradients handed to the wrong inputs: input x got this one"


def test_a_function_that_is_not_finite():
    assert told(gradient(), np.where(np.eye(4, 3), np.nan, gradient())).startswith("a function that isn't finite")


@given(st.integers(0, 2**32 - 1))
def test_no_guess_where_nothing_fits(seed):
    assert told(draw((4, 3), seed)) is None


@given(st.integers(0, 2**32 - 1))
def test_of_a_single_number_only_plain_factors_are_told(seed):
    words = told(draw((1,), seed), np.ones(1), np.ones(()), np.ones(1))
    assert words is None or words.startswith("a constant factor of") or words == "the wrong sign"
