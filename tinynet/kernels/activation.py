"""Activations that NumPy has no single fast pass for: ReLU and its gradient, the normal distribution."""

import math

import numpy as np

from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import empty

CHUNK = 8192  # numbers that one thread takes at a time; for fewer in all, NumPy is faster than waking threads


def relu(x):
    """max(x, 0), where a NaN stays a NaN."""
    if x.size <= CHUNK:
        return np.maximum(x, 0)
    y = empty(x.shape, x.dtype)
    _relu(np.ascontiguousarray(x).reshape(-1), y.reshape(-1))
    return y


@kernel
def _relu(x, y):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = x[chunk * CHUNK : (chunk + 1) * CHUNK], y[chunk * CHUNK : (chunk + 1) * CHUNK]
        zero = x.dtype.type(0)
        for i in range(a.size):
            b[i] = zero if a[i] <= 0 else a[i]  # `a[i] if a[i] > 0 else 0` would turn NaN into 0


def relu_grad(gy, y):
    """gy where y > 0 (or y is NaN), else 0: the gradient of y = relu(x) in x, as a function of y."""
    if y.size <= CHUNK:
        return np.where(y <= 0, y.dtype.type(0), gy)
    gx = empty(y.shape, y.dtype)
    _relu_grad(np.ascontiguousarray(gy).reshape(-1), np.ascontiguousarray(y).reshape(-1), gx.reshape(-1))
    return gx


@kernel
def _relu_grad(gy, y, gx):
    for chunk in prange((y.size + CHUNK - 1) // CHUNK):
        first, last = chunk * CHUNK, (chunk + 1) * CHUNK
        a, b, c = gy[first:last], y[first:last], gx[first:last]
        zero = y.dtype.type(0)
        for i in range(a.size):
            c[i] = zero if b[i] <= 0 else a[i]


def normal_cdf(x):
    """P(X <= x), X standard normal: erfc(-x / sqrt 2) / 2, exact on the far left too, where 1 + erf is 0."""
    p = empty(x.shape, x.dtype)
    _normal_cdf(np.ascontiguousarray(x).reshape(-1), p.reshape(-1))
    return p


@kernel
def _normal_cdf(x, p):
    for chunk in prange((x.size + CHUNK - 1) // CHUNK):
        a, b = x[chunk * CHUNK : (chunk + 1) * CHUNK], p[chunk * CHUNK : (chunk + 1) * CHUNK]
        for i in range(a.size):
            b[i] = 0.5 * math.erfc(-math.sqrt(0.5) * float(a[i]))
