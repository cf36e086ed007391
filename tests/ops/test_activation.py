"""Activations against their definitions: values, gradients of both orders, extremes, kinks, NaN."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, distinct, draw
from tests.naive import activation as naive
from tinynet.ops import activation as ops

SMOOTH = ["sigmoid", "tanh", "softplus", "gelu", "silu"]
ALL = [*SMOOTH, "relu", "leaky_relu", "softmax", "log_softmax"]
shapes = st.lists(st.integers(1, 4), max_size=4).map(tuple)


@pytest.mark.parametrize("name", SMOOTH)
@given(shape=shapes)
def test_smooth(name, shape):
    check_op(getattr(ops, name), getattr(naive, name), [draw(shape, low=-4, high=4)])


@given(shape=shapes)
def test_relu(shape):
    check_op(ops.relu, naive.relu, [distinct(shape)])


@given(shape=shapes, slope=st.sampled_from([0.01, 0.0, 0.3, -0.5, 2.0]))
def test_leaky_relu(shape, slope):
    check_op(lambda x: ops.leaky_relu(x, slope), lambda x: naive.leaky_relu(x, slope), [distinct(shape)])


@pytest.mark.parametrize("name", ["softmax", "log_softmax"])
@given(shape=st.lists(st.integers(1, 4), min_size=1, max_size=4).map(tuple), data=st.data())
def test_softmax(name, shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    fn, twin = getattr(ops, name), getattr(naive, name)
    check_op(lambda x: fn(x, axis), lambda x: twin(x, axis), [draw(shape, low=-3, high=3)])


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_no_pixels(name, dtype):
    x = tn.Tensor(np.empty((0, 3), dtype), requires_grad=True)
    y = getattr(ops, name)(x)
    y.sum().backward()
    assert y.shape == x.grad.shape == (0, 3) and y.dtype == x.grad.dtype == dtype


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "name, expected, slopes",
    [
        ("relu", [0, 0, 1000], [0, 0, 1]),
        ("leaky_relu", [-10, 0, 1000], [0.01, 0.01, 1]),
        ("sigmoid", [0, 0.5, 1], [0, 0.25, 0]),
        ("tanh", [-1, 0, 1], [0, 1, 0]),
        ("softplus", [0, math.log(2), 1000], [0, 0.5, 1]),
        ("gelu", [0, 0, 1000], [0, 0.5, 1]),
        ("silu", [0, 0, 1000], [0, 0.5, 1]),
        ("softmax", [0, 0, 1], [0, 0, 0]),
        ("log_softmax", [-2000, -1000, 0], [1, 1, -2]),
    ],
)
def test_large_values_and_zero(name, expected, slopes, dtype):
    x = tn.Tensor(np.array([-1000, 0, 1000], dtype), requires_grad=True)
    y = getattr(ops, name)(x)
    y.sum().backward()
    assert y.dtype == x.grad.dtype == dtype
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-6)
    np.testing.assert_allclose(x.grad.numpy(), slopes, atol=1e-6)


@pytest.mark.parametrize("name", ALL)
def test_nan_stays_and_spreads_to_its_gradient(name):
    x = tn.Tensor(np.array([[1.0, np.nan, -1.0]] * 40, np.float32), requires_grad=True)
    y = getattr(ops, name)(x)
    assert np.isnan(y.numpy()[:, 1]).all()
    (y * y).sum().backward()
    assert np.isnan(x.grad.numpy()[:, 1]).all()


@pytest.mark.filterwarnings("error")
def test_softmax_of_infinities():
    inf = np.inf
    x = tn.Tensor([[-inf, 0.0, 0.0], [-inf, -inf, -inf], [inf, 0.0, 0.0]])
    p = ops.softmax(x).numpy()
    np.testing.assert_array_equal(p[0], [0, 0.5, 0.5])
    assert np.isnan(p[1]).all() and np.isnan(p[2, 0])
    assert ops.log_softmax(x).numpy()[0, 0] == -inf


def test_float32_is_exact_to_its_last_digits():
    x = np.linspace(-9, 9, 2001, dtype=np.float32)
    for name in SMOOTH:
        expected = getattr(naive, name)(x.astype(np.float64))
        if name == "gelu":
            expected = np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in x.astype(float)])
        np.testing.assert_allclose(getattr(ops, name)(tn.Tensor(x)).numpy(), expected, rtol=3e-6, atol=1e-37)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_relu_and_gelu_over_many_chunks(dtype):
    x = np.random.default_rng(0).normal(size=20_001).astype(dtype)
    x[::1000], x[1::1000], x[2::1000], x[3::1000] = np.nan, np.inf, -np.inf, 0
    t = tn.Tensor(x, requires_grad=True)
    y = ops.relu(t)
    y.backward(np.full(x.shape, 3), create_graph=True)
    np.testing.assert_array_equal(y.numpy(), np.maximum(x, 0))
    np.testing.assert_array_equal(t.grad.numpy(), np.where(np.isnan(x) | (x > 0), 3, 0))
    x = x[np.isfinite(x)]
    np.testing.assert_allclose(ops.gelu(tn.Tensor(x)).numpy(), naive.gelu(x), rtol=1e-5, atol=1e-6)


def test_arrays_that_are_not_contiguous():
    for shape in ((5, 4, 3), (50, 40, 5)):
        x = distinct(shape)
        t = tn.Tensor(x, requires_grad=True)
        y = ops.relu(t.transpose(2, 0, 1))
        y.sum().backward()
        np.testing.assert_array_equal(y.numpy(), np.maximum(x, 0).transpose(2, 0, 1))
        np.testing.assert_array_equal(t.grad.numpy(), x > 0)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_dropout(dtype):
    x = tn.Tensor(np.ones(20_000, dtype), requires_grad=True)
    y = ops.dropout(x, 0.2)
    y.sum().backward()
    values = y.numpy()
    assert values.dtype == x.grad.dtype == dtype
    np.testing.assert_allclose(np.unique(values), [0, 1.25], rtol=1e-6)
    assert abs((values == 0).mean() - 0.2) < 0.01
    np.testing.assert_array_equal(x.grad.numpy(), values)  # dropped there and back alike


def test_dropout_draws_anew_until_the_seed_is_set_again():
    x = tn.Tensor(np.ones(100))
    tn.manual_seed(3)
    first, second = ops.dropout(x).numpy(), ops.dropout(x).numpy()
    tn.manual_seed(3)
    assert (first != second).any()
    np.testing.assert_array_equal(ops.dropout(x).numpy(), first)


def test_dropout_gradients():
    def fn(x):
        tn.manual_seed(5)
        return ops.dropout(x, 0.4) * x

    x = tn.Tensor(distinct((3, 4)), requires_grad=True)
    assert tn.gradcheck(fn, x) and tn.gradgradcheck(fn, x)


def test_dropout_at_the_ends():
    x = tn.Tensor([1.0, -2.0])
    assert ops.dropout(x, training=False) is x and ops.dropout(x, 0) is x
    np.testing.assert_array_equal(ops.dropout(x, 1).numpy(), [0, 0])
    assert np.isnan(ops.dropout(tn.Tensor([np.nan] * 8)).numpy()).all()


def test_integers_become_float32():
    for name in ALL:
        assert getattr(ops, name)(tn.Tensor(np.array([1, 2]))).dtype == np.float32
    assert ops.dropout(tn.Tensor(np.array([1, 2]))).dtype == np.float32


def test_sentences():
    x = tn.Tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"softmax: x of shape \(2, 3\) has no axis 2"):
        ops.softmax(x, 2)
    with pytest.raises(ValueError, match=r"log_softmax: axis 1 of x of shape \(2, 0\) is empty"):
        ops.log_softmax(np.ones((2, 0)), 1)
    for p in (-0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="dropout: p is .*from 0 to 1"):
            ops.dropout(x, p)
