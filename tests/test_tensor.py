"""Tensor: what it is made of, and the operators and methods that NumPy has too."""

import copy

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, distinct, draw

shapes = st.sampled_from([
    ((2, 3), (2, 3)), ((2, 3), (3,)), ((2, 1), (1, 4)), ((), (2,)), ((3, 1, 2), (2, 1)), ((0, 2), (2,)),
])


@given(shapes)
@pytest.mark.parametrize("symbol", ["+", "-", "*", "/"])
def test_arithmetic_broadcasts_and_unbroadcasts(symbol, pair):
    fn = {"+": lambda x, y: x + y, "-": lambda x, y: x - y, "*": lambda x, y: x * y, "/": lambda x, y: x / y}[symbol]
    check_op(fn, fn, [draw(pair[0], 1), distinct(pair[1], 2)])


@pytest.mark.parametrize("p", [2, 3, -1, 0.5, 1, 0])
def test_power(p):
    check_op(lambda x: x**p, lambda x: x**p, [draw((2, 3), low=0.5, high=2.0)])


def test_numbers_and_arrays_take_on_the_tensors_dtype():
    x = tn.Tensor(np.ones(2, np.float32))
    for y in (x * 2, 2 - x, x / np.float64(3), np.ones(2) * x, np.float64(2) * x, x + np.arange(2)):
        assert isinstance(y, tn.Tensor)
        assert y.dtype == np.float32


matrices = st.sampled_from([
    ((2, 3), (3, 4)), ((3,), (3, 2)), ((2, 3), (3,)), ((3,), (3,)), ((2, 2, 3), (3, 2)), ((2, 1, 2, 3), (3, 3, 1)),
    ((1, 4), (4, 1)), ((2, 0), (0, 3)), ((5, 2, 3), (5, 3, 4)), ((3,), (2, 3, 4)), ((2, 4, 3), (3,)),
])


@given(matrices)
def test_matmul(pair):
    fn = lambda a, b: a @ b  # noqa: E731
    check_op(fn, fn, [draw(pair[0], 1), draw(pair[1], 2)])


def test_matmul_sentences():
    a = tn.Tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"shapes \(2, 3\) and \(4, 2\)"):
        a @ np.ones((4, 2))
    with pytest.raises(ValueError, match="stacks don't broadcast"):
        tn.Tensor(np.ones((2, 2, 3))) @ np.ones((3, 3, 2))


INDEXES = [0, -1, slice(1, None), (slice(None), 1), (0, 2), [0, 0, 1], ([0, 1, 1], [2, 2, 0]), (..., None),
           (slice(None, None, -1), slice(0, 2)), np.array([[0, 1], [1, 1]]), np.array([True, False]),
           (slice(None), np.array([2, 2]))]


@pytest.mark.parametrize("index", INDEXES, ids=str)
def test_indexing(index):
    check_op(lambda x: x[index], lambda x: x[index], [draw((2, 3))])


axes = st.sampled_from([None, 0, 1, -1, (0, 1), (0, 2), (1, 2), (0, 1, 2)])


@given(axes, st.booleans())
@pytest.mark.parametrize("name", ["sum", "mean", "var", "max", "min"])
def test_reductions(name, axis, keepdims):
    def fn(x):
        return getattr(x, name)(axis=axis, keepdims=keepdims)

    check_op(fn, fn, [distinct((2, 3, 4))])


def test_the_first_maximum_takes_the_whole_gradient():
    x = tn.Tensor([[2.0, 5.0, 5.0], [1.0, 1.0, 0.0]], requires_grad=True)
    x.max(1).sum().backward()
    assert x.grad.data.tolist() == [[0, 1, 0], [1, 0, 0]]


@pytest.mark.parametrize("low, high", [(-0.3, 0.4), (None, 0.2), (-0.2, None)])
def test_clip(low, high):
    check_op(lambda x: x.clip(low, high), lambda x: np.clip(x, low, high), [distinct((3, 4))])
    assert tn.Tensor([np.inf, -np.inf]).clip(low, high).data.tolist() == np.clip([np.inf, -np.inf], low, high).astype(
        np.float32).tolist()


LAYOUTS = {
    "reshape": lambda x: x.reshape(4, -1),
    "transpose": lambda x: x.transpose(2, 0, 1),
    "reversed": lambda x: x.T,
    "flatten": lambda x: x.reshape(2, -1),
}


@pytest.mark.parametrize("fn", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_layout_methods(fn):
    check_op(fn, fn, [draw((2, 3, 4))])


def test_flatten_and_broadcast():
    x = draw((2, 1, 3))
    check_op(lambda x: x.flatten(1), lambda x: x.reshape(2, 3), [x])
    check_op(lambda x: x.broadcast_to((2, 2, 4, 3)), lambda x: np.broadcast_to(x, (2, 2, 4, 3)), [x])


def test_layout_sentences():
    x = tn.Tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match=r"6 elements of shape \(2, 3\) don't fit into \(4, -1\)"):
        x.reshape(4, -1)
    with pytest.raises(ValueError, match="no order of the 2 axes"):
        x.transpose(0, 0)
    with pytest.raises(ValueError, match=r"can't be repeated to \(3, 3\)"):
        x.broadcast_to((3, 3))
    with pytest.raises(ValueError, match="axis 2"):
        x.sum(2)
    with pytest.raises(ValueError, match="no elements along axis 0"):
        tn.Tensor(np.ones((0, 3))).max(0)


def test_cast_converts_value_and_gradient():
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    y = x.astype(np.float64)
    assert y.dtype == np.float64
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    assert x.grad.data.tolist() == [2, 4]


def test_dtypes_of_new_tensors():
    assert tn.Tensor([1, 2]).dtype == np.float32
    assert tn.Tensor(1.5).dtype == np.float32
    assert tn.Tensor(np.ones(2)).dtype == np.float64
    assert tn.Tensor(np.ones(2, np.float16)).dtype == np.float32
    assert tn.Tensor(np.ones(2, np.uint8)).dtype == np.uint8
    assert tn.Tensor([1, 2], dtype=np.float64).dtype == np.float64
    with pytest.raises(TypeError, match="can't need a gradient"):
        tn.Tensor(np.ones(2, np.int64), requires_grad=True)
    with pytest.raises(TypeError, match="aren't real numbers"):
        tn.Tensor(np.array(["a"]))


def test_memory_is_shared_with_the_given_array():
    a = np.zeros(2, np.float32)
    x = tn.Tensor(a)
    a[0] = 5
    assert x.data[0] == 5


def test_a_copy_is_a_leaf_of_its_own():
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    x.data[0] = 5
    y = copy.deepcopy(x)
    y.data[1] = 7
    assert (x.data.tolist(), y.array.tolist(), y.requires_grad) == ([5, 2], [5, 7], True)


def test_comparisons_are_plain_arrays():
    x = tn.Tensor([1.0, 2.0, 3.0])
    assert (x > 1.5).tolist() == [False, True, True]
    assert (x == tn.Tensor([1.0, 0.0, 3.0])).tolist() == [True, False, True]
    assert (x <= 1).tolist() == [True, False, False]


def test_comparisons_at_equality():
    x = tn.Tensor([1.0, 2.0, 3.0])
    assert (x < 2).tolist() == [True, False, False]
    assert (x <= 2).tolist() == [True, True, False]
    assert (x > 2).tolist() == [False, False, True]
    assert (x >= 2).tolist() == [False, True, True]
    assert (x != 2).tolist() == [True, False, True]


def test_numbers_and_arrays_on_the_left():
    x, a = draw((2, 3), low=0.5, high=2.0), draw((2, 2), 1)
    check_op(lambda x: 2 - x, lambda x: 2 - x, [x])
    check_op(lambda x: 2 / x, lambda x: 2 / x, [x])
    check_op(lambda x: a @ x, lambda x: a @ x, [x])
    check_op(lambda x: a[:, :1] - x, lambda x: a[:, :1] - x, [x])


def test_powers_of_numpy_numbers_and_of_zero():
    x = tn.Tensor(np.zeros(2, np.float32), requires_grad=True)
    assert (x ** np.float64(2)).dtype == np.float32
    for p, slope in ((0, 0), (1, 1), (2, 0)):
        (g,) = tn.grad((x**p).sum(), x)
        assert g.data.tolist() == [slope, slope]


def test_variance_of_a_sample():
    x = draw((4, 3))
    check_op(lambda x: x.var(0, ddof=1), lambda x: x.var(0, ddof=1), [x])
    with pytest.raises(ValueError, match="4 elements along axis 0 are too few for ddof=4"):
        tn.Tensor(x).var(0, ddof=4)


def test_shapes_that_reshape_refuses_and_takes():
    x = tn.Tensor(np.ones((2, 3)))
    for shape in ((-1, -1), (-2, -3), (0, -1), (7,)):
        with pytest.raises(ValueError, match="don't fit into"):
            x.reshape(shape)
    assert (x.flatten().shape, x.reshape(-1).shape, x.transpose(-1, 0).shape) == ((6,), (6,), (3, 2))
    assert tn.Tensor(np.ones((0, 3))).reshape(3, 0).shape == (3, 0)


def test_matmul_names_the_axis():
    a = tn.Tensor(np.ones((2, 3)))
    with pytest.raises(ValueError, match="as long as the only axis of the second"):
        a @ np.ones(2)
    with pytest.raises(ValueError, match="as long as the last but one axis of the second"):
        a @ np.ones((2, 2))
    for pair in ((a, tn.Tensor(1.0)), (tn.Tensor(1.0), a)):
        with pytest.raises(ValueError, match="matmul: shapes"):
            pair[0] @ pair[1]


def test_small_things():
    x = tn.Tensor([[1.0, 2.0]], requires_grad=True)
    assert (len(x), x.shape, x.ndim, x.size, x.T.shape) == (1, (1, 2), 2, 2, (2, 1))
    assert [row.shape for row in x] == [(2,)]
    assert np.asarray(x).tolist() == [[1, 2]]
    assert "requires_grad=True" in repr(x)
    assert "op=Mul" in repr(x * 2)
    assert float(tn.Tensor(2.0)) == 2 and bool(tn.Tensor(1.0))
    with pytest.raises(TypeError, match="exponent is a Tensor"):
        x**x
    with pytest.raises(TypeError, match="no length"):
        len(tn.Tensor(1.0))
