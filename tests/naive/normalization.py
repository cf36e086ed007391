"""Batch, group and layer normalisation as their definitions say."""

import numpy as np


def _standard(x, axes, eps):
    mean = x.mean(axis=axes, keepdims=True)
    var = ((x - mean) ** 2).mean(axis=axes, keepdims=True)
    return (x - mean) / np.sqrt(var + eps)


def batch_norm(x, w, b, eps=1e-5):
    return _standard(x, tuple(range(x.ndim - 1)), eps) * w + b


def batch_norm_evaluation(x, w, b, mean, var, eps=1e-5):
    return (x - mean) / np.sqrt(var + eps) * w + b


def group_norm(x, groups, w, b, eps=1e-5):
    y = np.empty(x.shape)
    d = x.shape[-1] // groups
    for n in range(len(x)):
        for g in range(groups):
            part = x[n, ..., g * d : (g + 1) * d]
            y[n, ..., g * d : (g + 1) * d] = _standard(part, None, eps)
    return y * w + b


def layer_norm(x, axes, w, b, eps=1e-5):
    return _standard(x, tuple(range(x.ndim - axes, x.ndim)), eps) * w + b
