"""What every op must hold: its twin's values, right gradients of both orders, its dtype, and NaN for NaN."""

import numpy as np

import tinynet as tn


def draw(shape, seed=0, low=-1.0, high=1.0):
    """Float64 values drawn evenly from [low, high]: for ops without kinks there."""
    return np.random.default_rng(seed).uniform(low, high, shape)


def distinct(shape, seed=0):
    """Float64 values all at least 0.1 apart and 0.04 away from zero: for ops with kinks (relu, max)."""
    n = int(np.prod(shape))
    values = (np.arange(n) - n // 2 + 0.4) * 0.1
    return np.random.default_rng(seed).permutation(values).reshape(shape)


def check_op(fn, twin, inputs, *, rtol=1e-10, rtol32=1e-4, fast=False, linear=()):
    """Hold `fn` (of Tensors) to `twin` (of ndarrays) at `inputs` (float64 ndarrays), and to all the rest.

    fast: as in tn.gradcheck; linear: the numbers of the inputs that fn is linear in (but for a constant).
    """
    inputs = [np.asarray(x, np.float64) for x in inputs]
    expected = np.asarray(twin(*inputs))
    tensors = [tn.Tensor(x, requires_grad=True) for x in inputs]
    y = fn(*tensors)
    assert y.dtype == np.float64
    assert y.shape == expected.shape, f"shape {y.shape}, but the twin's is {expected.shape}"
    check_close(y.numpy(), expected, rtol)
    assert tn.gradcheck(fn, tensors, fast=fast)
    assert tn.gradgradcheck(fn, tensors, fast=fast)
    for number in linear:
        check_adjoint(fn, inputs, number)
    check_float32(fn, expected, inputs, rtol32)
    check_nan(fn, twin, inputs)


def check_adjoint(fn, inputs, number):
    """Where fn is linear in an input, its gradient is the adjoint: <f(x) - f(0), y> = <x, gx(y)>, up to rounding."""
    tensors = [tn.Tensor(x) for x in inputs]
    at_zero = fn(*tensors[:number], tn.Tensor(np.zeros_like(inputs[number])), *tensors[number + 1 :]).numpy()
    x = tn.Tensor(inputs[number], requires_grad=True)
    f = fn(*tensors[:number], x, *tensors[number + 1 :])
    y = draw(f.shape, seed=11)
    (gx,) = tn.grad(f, x, y)
    moved = f.numpy() - at_zero
    size = np.linalg.norm(f.numpy()) * np.linalg.norm(y) + np.linalg.norm(at_zero) * np.linalg.norm(y)
    left, right = np.vdot(moved, y), np.vdot(x.numpy(), gx.numpy())
    assert abs(left - right) <= 1e-13 * size, f"input {number}: <f(x), y> is {left}, but <x, gx> is {right}"


def check_float32(fn, expected, inputs, rtol=1e-4):
    """float32 in gives float32 out, value and gradients alike, close to the float64 result."""
    tensors = [tn.Tensor(x.astype(np.float32), requires_grad=True) for x in inputs]
    y = fn(*tensors)
    assert y.dtype == np.float32
    check_close(y.numpy(), expected, rtol)
    y.sum().backward()
    for i, t in enumerate(tensors):
        assert t.grad is None or (t.grad.dtype == np.float32 and t.grad.shape == t.shape), f"gradient {i}"


def check_nan(fn, twin, inputs):
    """An input that is all NaN gives NaN if the definition does (it may not read the input: cropped, or power 0)."""
    for i in range(len(inputs)):
        arrays = [np.full_like(x, np.nan) if j == i else x for j, x in enumerate(inputs)]
        if np.isnan(twin(*arrays)).any():
            assert np.isnan(fn(*map(tn.Tensor, arrays)).numpy()).any(), f"NaN in input {i} was lost"


def check_close(actual, expected, rtol):
    """Equal up to `rtol` of the largest value, NaN and Inf in the same places."""
    finite = np.isfinite(expected)
    np.testing.assert_array_equal(np.isfinite(actual), finite)
    np.testing.assert_array_equal(actual[~finite], expected[~finite])
    scale = np.abs(expected[finite]).max(initial=0.0)
    np.testing.assert_allclose(actual[finite], expected[finite], rtol=rtol, atol=rtol * scale)
