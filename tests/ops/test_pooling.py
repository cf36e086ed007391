"""max_pool2d and avg_pool2d: their twins, gradients of every order, NaN, ties, padding."""

import numba
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_close, check_op, distinct, draw
from tests.naive import pooling as naive
from tinynet.kernels import pooling as kernels
from tinynet.kernels.tasks import none_taken
from tinynet.ops.pooling import avg_pool2d, max_pool2d


@st.composite
def cases(draw_from):
    """(x's shape, kernel, stride, padding) that fit."""
    kernel = draw_from(st.tuples(st.integers(1, 3), st.integers(1, 4)))
    stride = draw_from(st.tuples(st.integers(1, 4), st.integers(1, 3)))
    sides = [st.tuples(st.integers(0, k // 2), st.integers(0, k // 2)) for k in kernel]
    padding = draw_from(st.tuples(*sides))
    size = [draw_from(st.integers(max(1, k - sum(p)), 4)) for k, p in zip(kernel, padding, strict=True)]
    return (1, *size, draw_from(st.integers(1, 2))), kernel, stride, padding


few = settings(max_examples=10)


@few
@given(cases())
def test_max_pool_is_its_twin_with_right_gradients(case):
    shape, *window = case
    check_op(lambda x: max_pool2d(x, *window), lambda x: naive.max_pool2d(x, *window), [distinct(shape)])


@few
@given(cases())
def test_avg_pool_is_its_twin_with_right_gradients(case):
    shape, *window = case
    check_op(lambda x: avg_pool2d(x, *window), lambda x: naive.avg_pool2d(x, *window), [draw(shape)])


@given(cases(), st.integers(0, 99))
@example(((2, 8, 8, 3), (2, 2), (2, 2), ((0, 0), (0, 0))), 0)
def test_max_pool_with_ties_nan_and_infinities(case, seed):
    """Few different values, so that ties abound: the first maximum takes the whole gradient."""
    shape, *window = case
    x = np.random.default_rng(seed).choice(
        [-np.inf, -1.0, 1.0, 2.0, np.nan], shape, p=[0.3, 0.2, 0.2, 0.2, 0.1]
    )
    t = tn.Tensor(x, requires_grad=True)
    y = max_pool2d(t, *window)
    np.testing.assert_array_equal(y.numpy(), naive.max_pool2d(x, *window))
    gy = draw(y.shape)
    y.backward(gy)
    check_close(t.grad.numpy(), naive.max_pool2d_gradient(gy, x, *window), 1e-14)


@given(cases())
@example(((2, 4, 4, 2), (2, 2), (2, 2), ((1, 0), (0, 0))))  # as many windows as tiles, but shifted
@example(((2, 4, 4, 2), (2, 2), (2, 2), ((0, 0), (1, 0))))
@example(((2, 4, 6, 2), (2, 3), (2, 3), ((0, 0), (0, 0))))
def test_scatter_writes_every_pixel(case):
    """The kernel gets memory that nobody has cleared."""
    shape, kernel, stride, padding = case
    x, start = distinct(shape), (padding[0][0], padding[1][0])
    gy = draw(naive.max_pool2d(x, kernel, stride, padding).shape)
    _, place = kernels.max_pool(x, kernel, stride, start, gy.shape[1:3])
    gx = np.full(shape, np.nan)
    kernels.scatter(gy, place, *kernel, *stride, *start, gx)
    check_close(gx, naive.max_pool2d_gradient(gy, x, kernel, stride, padding), 1e-14)


@pytest.mark.parametrize("channels", [1, 16, 17, 67])
def test_two_by_two_windows_side_by_side(channels):
    """They have kernels of their own, for channels that fill vectors and that don't, in memory that nobody cleared."""
    shape, window = (2, 4, 6, channels), ((2, 2), (2, 2), ((0, 0), (0, 0)))
    x = np.random.default_rng(0).choice([-np.inf, -1.0, 1.0, np.nan], shape, p=[0.4, 0.3, 0.2, 0.1])
    y, place = np.full((2, 2, 3, channels), 5.0), np.full((2, 2, 3, channels), 5, np.uint8)
    kernels.pool_fours(x, y, place, 1, none_taken())
    np.testing.assert_array_equal(y, naive.max_pool2d(x, *window))
    gy, gx = draw(y.shape), np.full(shape, np.nan)
    kernels.scatter_fours(gy, place, gx, 1, none_taken())
    check_close(gx, naive.max_pool2d_gradient(gy, x, *window), 1e-14)
    np.testing.assert_array_equal(gx, kernels.max_pool_scatter(gy, place, shape, (2, 2), (2, 2), (0, 0)))


def test_only_minus_infinity_sends_the_gradient_to_the_first_pixel_of_the_image():
    t = tn.Tensor(np.full((1, 2, 2, 1), -np.inf), requires_grad=True)
    y = max_pool2d(t, 2, padding=1)
    assert (y.numpy() == -np.inf).all()
    y.sum().backward()
    assert t.grad.numpy().ravel().tolist() == [1, 1, 1, 1]


@given(cases(), st.sampled_from([max_pool2d, avg_pool2d]))
def test_the_gradient_is_the_adjoint(case, pool):
    """<y, v> = <x, gx> for both: max-pooling is linear as long as the places stay."""
    shape, *window = case
    x = distinct(shape)
    t = tn.Tensor(x, requires_grad=True)
    y = pool(t, *window)
    v = draw(y.shape, seed=1)
    y.backward(v)
    np.testing.assert_allclose((y.numpy() * v).sum(), (x * t.grad.numpy()).sum(), rtol=1e-11, atol=1e-11)


def test_third_derivatives_of_max_pool():
    """x^3 pooled: each derivative stays at the places of the maxima."""
    t = tn.Tensor(np.abs(distinct((1, 4, 4, 2))) + 1, requires_grad=True)
    g = max_pool2d(t * t * t, 3, 1, 1).sum()
    for _ in range(3):
        (g,) = tn.grad(g.sum(), t, create_graph=True)
    plain = tn.Tensor(t.numpy(), requires_grad=True)
    max_pool2d(plain, 3, 1, 1).sum().backward()
    np.testing.assert_allclose(g.numpy(), 6 * plain.grad.numpy(), rtol=1e-12)


def test_windows_of_more_than_256_pixels():
    x = distinct((1, 20, 20, 2))
    x[0, 19, 19] = 1e3
    t = tn.Tensor(x, requires_grad=True)
    y = max_pool2d(t, 20)
    assert (y.numpy() == 1e3).all()
    y.sum().backward()
    assert t.grad.numpy()[0, 19, 19].tolist() == [1, 1] and t.grad.numpy().sum() == 2


@pytest.mark.parametrize("pool", [max_pool2d, avg_pool2d])
def test_the_stride_is_the_kernel_by_default_and_same_keeps_the_size(pool):
    x = draw((2, 6, 7, 3))
    np.testing.assert_array_equal(pool(x, (2, 3)).numpy(), pool(x, (2, 3), (2, 3)).numpy())
    assert pool(x, 2).shape == (2, 3, 3, 3)
    assert pool(x, (2, 3), 1, "same").shape == x.shape
    np.testing.assert_array_equal(pool(x, 3, 1, "same").numpy(), pool(x, 3, 1, 1).numpy())
    assert pool(x[:0], 2).shape == (0, 3, 3, 3)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_average_of_ones_is_one(dtype):
    y = avg_pool2d(np.ones((1, 12, 12, 2), dtype), 12).numpy()
    np.testing.assert_allclose(y, 1, rtol=4 * np.finfo(dtype).eps)


def test_a_view_that_is_not_contiguous():
    x = distinct((2, 3, 6, 6))
    images = tn.Tensor(x).transpose(0, 2, 3, 1)
    expected = naive.max_pool2d(x.transpose(0, 2, 3, 1), (2, 2), (2, 2), ((0, 0), (0, 0)))
    np.testing.assert_array_equal(max_pool2d(images, 2).numpy(), expected)


@pytest.mark.parametrize("pool", [max_pool2d, avg_pool2d])
def test_same_bits_for_any_number_of_threads(pool):
    x, threads, found = draw((3, 17, 13, 5)).astype(np.float32), numba.get_num_threads(), []
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            t = tn.Tensor(x, requires_grad=True)
            y = pool(t, 3, 2, 1)
            (y * y).sum().backward()
            found.append((y.numpy().tobytes(), t.grad.numpy().tobytes()))
    finally:
        numba.set_num_threads(threads)
    assert len(set(found)) == 1


@pytest.mark.parametrize("pool, name", [(max_pool2d, "max_pool2d"), (avg_pool2d, "avg_pool2d")])
def test_sentences(pool, name):
    x = draw((1, 4, 4, 2))
    with pytest.raises(
        ValueError, match=rf"{name}: padding is .*at most half the kernel \(3, 3\), here 1"
    ):
        pool(x, 3, padding=2)
    with pytest.raises(
        ValueError, match=rf"{name}: the window reaches over 7 pixels of width .* has 4 plus 2"
    ):
        pool(x, (2, 7), padding=1)
    with pytest.raises(ValueError, match=rf"{name}: kernel_size is 0, but must be at least 1"):
        pool(x, 0)
    with pytest.raises(TypeError, match=rf"{name}: stride is 1.5"):
        pool(x, 2, 1.5)
    with pytest.raises(ValueError, match=rf"{name}: x has the shape \(4, 4, 2\).*x\[None\]"):
        pool(x[0], 2)
    with pytest.raises(ValueError, match=rf'{name}: padding is "same", which needs a stride of 1'):
        pool(x, 2, padding="same")
