"""Activations and their gradients, each one pass: NumPy for small arrays where that gives the same, kernels for others.

What takes a few multiplications is in the table of `elementwise`. The curves made of exponentials are in a kernel
of their own, which networks without them need not compile. NumPy's exponentials end in other digits: with them, what
an image gives would depend on how many others there are.
"""

import math

import numpy as np

from tinynet.kernels import elementwise
from tinynet.kernels.elementwise import LARGE, apply
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.softmax import exp_float32
from tinynet.typing import Array

CHUNK = 8192  # elements that one thread takes at a time
BRANCHES = 4096  # elements; NumPy's masked write has a branch for each, and of more the processor guesses many wrongly

SIGMOID, TANH, NORMAL_CDF = range(3)

ONE, TWO = np.float32(1), np.float32(2)
NEAR = np.float32(0.625)  # below, tanh x = x + x^3 (T0 + T1 x^2 + ...): Cephes' tanhf
T0, T1, T2 = np.float32(-3.33332819422e-1), np.float32(1.33314422036e-1), np.float32(-5.37397155531e-2)
T3, T4 = np.float32(2.06390887954e-2), np.float32(-5.70498872745e-3)


def relu(x: Array) -> Array:
    """max(x, 0), where a NaN stays a NaN."""
    return np.maximum(x, 0) if x.size < LARGE else apply(elementwise.RELU, x, x)


def relu_grad(gy: Array, y: Array, in_place: bool = False) -> Array:
    """gy where y > 0 (or y is NaN), else 0: the gradient of y = relu(x) in x, as a function of y."""
    if y.size >= BRANCHES:
        return apply(elementwise.GATE, y, y, out=gy) if in_place else apply(elementwise.RELU_GRAD, gy, y)
    gx = gy if in_place else gy.copy()
    gx[y <= 0] = 0
    return gx


def sigmoid(x: Array) -> Array:
    """1 / (1 + e^-x)"""
    return curve(SIGMOID, x)


def sigmoid_grad(gy: Array, y: Array) -> Array:
    """gy y (1 - y): the gradient of y = sigmoid(x) in x, as a function of y."""
    return gy * (y * (1 - y)) if y.size < LARGE else apply(elementwise.SIGMOID_GRAD, gy, y)


def tanh(x: Array) -> Array:
    """(e^x - e^-x) / (e^x + e^-x)"""
    return curve(TANH, x)


def tanh_grad(gy: Array, y: Array) -> Array:
    """gy (1 - y^2): the gradient of y = tanh(x) in x, as a function of y."""
    return gy * (1 - y * y) if y.size < LARGE else apply(elementwise.TANH_GRAD, gy, y)


def normal_cdf(x: Array) -> Array:
    """P(X <= x), X standard normal: erfc(-x / sqrt 2) / 2, exact on the far left too, where 1 + erf is 0."""
    return curve(NORMAL_CDF, x)


def curve(code: int, x: Array) -> Array:
    """y = f(x) for the curve with this number."""
    y = empty(x.shape, x.dtype)
    _curve(code, np.ascontiguousarray(x).reshape(-1), y.reshape(-1))
    return y


@kernel
def _curve(code, x, y):
    for task in prange((x.size + CHUNK - 1) // CHUNK):
        start = np.int64(task) * CHUNK
        _apply(code, x[start : start + CHUNK], y[start : start + CHUNK])


@inner
def _apply(code, x, y):
    if code == SIGMOID:
        _sigmoid(x, y)
    elif code == TANH:
        _tanh(x, y)
    else:
        for i in range(y.size):
            y[i] = 0.5 * math.erfc(-math.sqrt(0.5) * float(x[i]))


@inner
def _sigmoid(x, y):
    """1 / (1 + e) for x >= 0, and e / (1 + e) below, with e = exp(-|x|), which never overflows."""
    if y.itemsize == 4:
        for i in range(y.size):
            e = exp_float32(-abs(x[i]))
            y[i] = (ONE if x[i] >= 0 else e) / (ONE + e)
    else:
        for i in range(y.size):
            e = math.exp(-abs(x[i]))
            y[i] = (1.0 if x[i] >= 0 else e) / (1.0 + e)


@inner
def _tanh(x, y):
    """(1 - e) / (1 + e) with e = exp(-2 |x|), and near 0, where this difference is inexact, a polynomial."""
    if y.itemsize == 4:
        for i in range(y.size):
            v = x[i]
            e = exp_float32(-TWO * abs(v))
            far = (ONE - e) / (ONE + e)
            s = v * v
            near = v + v * s * ((((T4 * s + T3) * s + T2) * s + T1) * s + T0)
            y[i] = near if abs(v) < NEAR else far if v > 0 else -far
    else:
        for i in range(y.size):
            y[i] = math.tanh(x[i])
