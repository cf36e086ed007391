"""Activations by their definitions, one number or one row at a time, in float64."""

import math

import numpy as np


def _each(f):
    """The function of arrays that applies `f` to every element."""
    return lambda x: np.array([f(float(v)) for v in x.reshape(-1)]).reshape(x.shape)


relu = _each(lambda v: v if v > 0 else 0.0)
sigmoid = _each(lambda v: 1 / (1 + math.exp(-v)))
tanh = _each(lambda v: (math.exp(v) - math.exp(-v)) / (math.exp(v) + math.exp(-v)))
softplus = _each(lambda v: math.log(1 + math.exp(v)))
gelu = _each(lambda v: v * (1 + math.erf(v / math.sqrt(2))) / 2)
silu = _each(lambda v: v / (1 + math.exp(-v)))


def leaky_relu(x, slope):
    return _each(lambda v: v if v > 0 else slope * v)(x)


def softmax(x, axis):
    """e^x_k / sum_j e^x_j for each line along the axis."""
    y = np.empty(x.shape)
    lines, results = np.moveaxis(x, axis, -1), np.moveaxis(y, axis, -1)
    for index in np.ndindex(lines.shape[:-1]):
        powers = [math.exp(v) for v in lines[index]]
        results[index] = [p / sum(powers) for p in powers]
    return y


def log_softmax(x, axis):
    return np.log(softmax(x, axis))
