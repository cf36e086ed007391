"""Activations and their gradients, each one pass: NumPy for small arrays, the table of `elementwise` for others."""

import numpy as np

from tinynet.kernels import elementwise
from tinynet.kernels.elementwise import LARGE, apply


def relu(x):
    """max(x, 0), where a NaN stays a NaN."""
    return np.maximum(x, 0) if x.size < LARGE else apply(elementwise.RELU, x, x)


def relu_grad(gy, y):
    """gy where y > 0 (or y is NaN), else 0: the gradient of y = relu(x) in x, as a function of y."""
    return np.where(y <= 0, y.dtype.type(0), gy) if y.size < LARGE else apply(elementwise.RELU_GRAD, gy, y)


def sigmoid(x):
    """1 / (1 + e^-x)"""
    if x.size >= LARGE:
        return apply(elementwise.SIGMOID, x, x)
    e = np.exp(-np.abs(x))  # 1 / (1 + e) for x >= 0, and e / (1 + e) below: e never overflows
    return np.where(x >= 0, x.dtype.type(1), e) / (1 + e)


def sigmoid_grad(gy, y):
    """gy y (1 - y): the gradient of y = sigmoid(x) in x, as a function of y."""
    return gy * (y * (1 - y)) if y.size < LARGE else apply(elementwise.SIGMOID_GRAD, gy, y)


def tanh(x):
    """(e^x - e^-x) / (e^x + e^-x)"""
    return np.tanh(x) if x.size < LARGE else apply(elementwise.TANH, x, x)


def tanh_grad(gy, y):
    """gy (1 - y^2): the gradient of y = tanh(x) in x, as a function of y."""
    return gy * (1 - y * y) if y.size < LARGE else apply(elementwise.TANH_GRAD, gy, y)


def normal_cdf(x):
    """P(X <= x), X standard normal: erfc(-x / sqrt 2) / 2, exact on the far left too, where 1 + erf is 0."""
    return apply(elementwise.NORMAL_CDF, x, x)
