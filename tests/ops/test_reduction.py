"""Reductions as functions; logsumexp against its definition, and where the definition overflows."""

import numpy as np
import pytest

import tinynet as tn
from tests.checks import check_op, distinct, draw


@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min"])
def test_functions_are_the_methods(name):
    check_op(lambda x: getattr(tn, name)(x, axis=1), lambda x: getattr(x, name)(axis=1), [distinct((2, 3))])


@pytest.mark.parametrize("axis, keepdims", [(None, False), (0, True), (-1, False), ((0, 2), False)])
def test_logsumexp(axis, keepdims):
    check_op(lambda x: tn.logsumexp(x, axis, keepdims), lambda x: np.log(np.exp(x).sum(axis=axis, keepdims=keepdims)),
             [draw((2, 3, 2))])


def test_logsumexp_does_not_overflow():
    assert tn.logsumexp(tn.Tensor([1000.0, 1000.0])).item() == pytest.approx(1000 + np.log(2))
    assert tn.logsumexp(tn.Tensor([-np.inf, -np.inf])).item() == -np.inf
    assert tn.logsumexp(tn.Tensor([np.inf, 0.0])).item() == np.inf


def test_float32_sums_are_accurate():
    x = np.full((100_000, 2), 0.1, np.float32)  # added up one by one in float32 this is off by 1e-4
    np.testing.assert_allclose(tn.sum(x, axis=0).numpy(), 100_000 * np.float64(np.float32(0.1)), rtol=1e-6)
