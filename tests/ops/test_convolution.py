"""The convolutions as ops: values, gradients of both orders, adjoint identity, options, sentences before any work."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, draw
from tests.naive import convolution as naive
from tinynet import shapes
from tinynet.ops.activation import ReluGrad
from tinynet.ops.convolution import PixelSum, Then


@st.composite
def cases(draw_):
    """Shapes and options of a convolution that fits."""
    small = st.integers(1, 2)
    groups = draw_(small)
    kernel = draw_(st.tuples(st.integers(1, 3), st.integers(1, 3)))
    dilation = draw_(st.tuples(small, small))
    padding = draw_(st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2))
    reach = [max(d * (k - 1) + 1 - sum(p), 1) for d, k, p in zip(dilation, kernel, padding, strict=True)]
    size = [draw_(st.integers(r, r + 1)) for r in reach]
    x = (draw_(small), *size, 2 if groups == 2 else draw_(small))
    w = (*kernel, x[3] // groups, groups * draw_(small))
    return x, w, dict(stride=draw_(st.tuples(small, small)), padding=padding, dilation=dilation, groups=groups)


@settings(max_examples=25)
@given(cases())
def test_conv2d(case):
    x, w, options = case
    g, out = shapes.conv2d_shapes(x, w, None, **options)
    check_op(lambda x, w, b: tn.conv2d(x, w, b, **options), lambda x, w, b: naive.gather(x, w, b, g, out),
             [draw(x, 1), draw(w, 2), draw(w[3:], 3)])


@settings(max_examples=25)
@given(cases())
def test_conv_transpose2d(case):
    x, w, options = case
    g, out = shapes.conv2d_shapes(x, w, None, **options)
    extra = tuple(n - shapes.conv_transpose_output_size(m, k, s, sum(p), d) for n, m, k, s, p, d in zip(
        x[1:3], out, w, g.stride, g.padding, g.dilation, strict=False))
    y = (x[0], *out, w[3])
    check_op(lambda y, w, b: tn.conv_transpose2d(y, w, b, output_padding=extra, **options),
             lambda y, w, b: naive.scatter(y, w, b, g, x[1:3]), [draw(y, 1), draw(w, 2), draw((x[3],), 3)])


@given(cases())
def test_adjoint_with_the_very_same_weight(case):
    x, w, options = case
    g, out = shapes.conv2d_shapes(x, w, None, **options)
    x, y, w = draw(x, 1), draw((x[0], *out, w[3]), 2), draw(w, 3)
    extra = tuple(n - shapes.conv_transpose_output_size(m, k, s, sum(p), d) for n, m, k, s, p, d in zip(
        x.shape[1:3], out, w.shape, g.stride, g.padding, g.dilation, strict=False))
    left = (tn.conv2d(x, w, **options).numpy() * y).sum()
    right = (x * tn.conv_transpose2d(y, w, output_padding=extra, **options).numpy()).sum()
    assert left == pytest.approx(right, rel=1e-11, abs=1e-12)


def test_same_padding_and_int_options():
    x, w = draw((1, 5, 6, 2), 1), draw((3, 4, 2, 3), 2)
    y = tn.conv2d(x, w, padding="same")
    assert y.shape == (1, 5, 6, 3)
    expected = tn.conv2d(x, w, padding=((1, 1), (1, 2)))
    np.testing.assert_array_equal(y.numpy(), expected.numpy())


def test_bad_shapes_raise_before_any_work(monkeypatch):
    def never(*_):
        raise AssertionError("a kernel ran")

    for name in ("gather", "scatter", "weight_gradient"):
        monkeypatch.setattr(f"tinynet.kernels.convolution.{name}", never)
    x, w = np.ones((1, 8, 8, 4)), np.ones((3, 3, 3, 16))
    with pytest.raises(ValueError, match=r"conv2d: x has 4 channels .* give w the shape \(3, 3, 4, 16\)"):
        tn.conv2d(x, w)
    with pytest.raises(ValueError, match="conv_transpose2d: x has 4 channels"):
        tn.conv_transpose2d(x, w)
    with pytest.raises(TypeError, match="x is float64, w is float32"):
        tn.conv2d(tn.Tensor(x), tn.Tensor(np.ones((3, 3, 4, 1), np.float32)))


@pytest.mark.parametrize("then", [Then(), Then(relu=True), Then(pool=True), Then(relu=True, pool=True)])
def test_the_bias_alone_needs_a_gradient(then):
    x, w = draw((2, 5, 5, 4)), draw((3, 3, 4, 4))
    b = tn.Tensor(draw((4,), 2), requires_grad=True)
    y = tn.conv2d(x, w, b, padding=1, then=then)
    gy = draw(y.shape, 1)
    y.backward(gy)
    np.testing.assert_allclose(b.grad.numpy(), (gy * (y.numpy() > 0) if then.relu else gy).sum((0, 1, 2)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_gate_finds_the_sum_of_what_it_lets_through(dtype):
    """In place, as in a backward pass, or into a new array: the same."""
    gy, y = draw((2, 5, 9, 6)).astype(dtype), draw((2, 5, 9, 6), 1).astype(dtype)
    expected = np.where(y > 0, gy, 0)
    results = []
    for in_place in (False, True):
        gate = ReluGrad(in_place, sums=True)
        gx = gate(tn.Tensor(gy.copy()), tn.Tensor(y))
        np.testing.assert_array_equal(gx.numpy(), expected)
        results.append(PixelSum(gate.pixel_sum)(gx).numpy())
    np.testing.assert_allclose(results[0], expected.astype(np.float64).sum((0, 1, 2)), rtol=1e-6, atol=1e-6)
    np.testing.assert_array_equal(*results)


def test_a_transposed_convolution_does_not_pool():
    x, w = draw((1, 4, 4, 2)), draw((2, 2, 2, 2))
    with pytest.raises(ValueError, match="conv_transpose2d: then can't pool; call max_pool2d on the result"):
        tn.conv_transpose2d(x, w, then=Then(pool=True))
