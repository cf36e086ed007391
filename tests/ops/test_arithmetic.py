"""Functions of single elements against NumPy's, with their gradients."""

import numpy as np
import pytest

import tinynet as tn
from tests.checks import check_op, distinct, draw

UNARY = {
    "exp": (tn.exp, np.exp, draw((2, 3))),
    "log": (tn.log, np.log, draw((2, 3), low=0.2, high=3.0)),
    "sqrt": (tn.sqrt, np.sqrt, draw((2, 3), low=0.2, high=3.0)),
    "abs": (tn.abs, np.abs, distinct((2, 3))),
    "clip": (lambda x: tn.clip(x, -0.2, 0.1), lambda x: np.clip(x, -0.2, 0.1), distinct((2, 3))),
}


@pytest.mark.parametrize("fn, twin, x", UNARY.values(), ids=UNARY.keys())
def test_unary(fn, twin, x):
    check_op(fn, twin, [x])


@pytest.mark.parametrize("shape", [(2, 3), (3,), (2, 1), ()])
@pytest.mark.parametrize("fn, twin", [(tn.maximum, np.maximum), (tn.minimum, np.minimum)])
def test_maximum_and_minimum(fn, twin, shape):
    check_op(fn, twin, [distinct((2, 3), 1), distinct(shape, 2) + 0.03])


@pytest.mark.parametrize("fn", [tn.maximum, tn.minimum])
def test_of_equal_elements_the_first_takes_the_gradient(fn):
    x, y = (tn.Tensor([1.0], requires_grad=True) for _ in range(2))
    fn(x, y).backward()
    assert x.grad.item() == 1
    assert y.grad.item() == 0


@pytest.mark.parametrize("condition", [np.array([[True], [False]]), np.array([True, False, True])])
def test_where(condition):
    check_op(lambda x, y: tn.where(condition, x, y), lambda x, y: np.where(condition, x, y),
             [draw((2, 3), 1), draw((3,), 2)])


def test_where_keeps_a_nan_that_was_not_taken_out_of_value_and_gradient():
    x = tn.Tensor([np.nan, 1.0], requires_grad=True)
    y = tn.where([False, True], x, 0.0)
    y.sum().backward()
    assert y.data.tolist() == [0, 1]
    assert x.grad.data.tolist() == [0, 1]


def test_where_refuses_numbers_as_condition():
    with pytest.raises(TypeError, match="must be bool"):
        tn.where(np.array([1, 0]), 1.0, 2.0)


def test_values_at_the_edge():
    assert tn.log(tn.Tensor([0.0])).item() == -np.inf
    assert np.isnan(tn.log(tn.Tensor([-1.0])).item())
    assert np.isnan(tn.sqrt(tn.Tensor([-1.0])).item())
    assert np.isnan(tn.maximum(tn.Tensor([np.nan]), 1.0).item())
    assert np.isnan(tn.maximum(1.0, tn.Tensor([np.nan])).item())
