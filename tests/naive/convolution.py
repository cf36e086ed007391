"""Convolution, its adjoint and its weight gradient by definition: over all pairs of pixels that meet."""

import itertools

import numpy as np


def meetings(x_hw, y_hw, kernel_hw, geometry):
    """All (h, l, u, v, i, j): pixel (h, l) of x meets pixel (i, j) of y through tap (u, v)."""
    (sh, sw), ((top, _), (left, _)), (dh, dw), _ = geometry
    for i, j, u, v in itertools.product(*map(range, (*y_hw, *kernel_hw))):
        h, l = i * sh + u * dh - top, j * sw + v * dw - left
        if 0 <= h < x_hw[0] and 0 <= l < x_hw[1]:
            yield h, l, u, v, i, j


def gather(x, w, b, geometry, out_hw):
    groups, O = geometry.groups, w.shape[3]
    x, w = by_groups(x, groups), by_groups(w, groups)
    y = np.zeros((len(x), *out_hw, groups, O // groups))
    for h, l, u, v, i, j in meetings(x.shape[1:3], out_hw, w.shape[:2], geometry):
        y[:, i, j] += np.einsum("ngc,cgo->ngo", x[:, h, l], w[u, v])
    return y.reshape(len(x), *out_hw, O) + (0 if b is None else b)


def scatter(y, w, b, geometry, out_hw):
    groups, C = geometry.groups, w.shape[2] * geometry.groups
    y, w = by_groups(y, groups), by_groups(w, groups)
    x = np.zeros((len(y), *out_hw, groups, C // groups))
    for h, l, u, v, i, j in meetings(out_hw, y.shape[1:3], w.shape[:2], geometry):
        x[:, h, l] += np.einsum("ngo,cgo->ngc", y[:, i, j], w[u, v])
    return x.reshape(len(y), *out_hw, C) + (0 if b is None else b)


def weight_gradient(x, y, geometry, kernel_hw):
    groups, C, O = geometry.groups, x.shape[3], y.shape[3]
    x, y = by_groups(x, groups), by_groups(y, groups)
    w = np.zeros((*kernel_hw, C // groups, groups, O // groups))
    for h, l, u, v, i, j in meetings(x.shape[1:3], y.shape[1:3], kernel_hw, geometry):
        w[u, v] += np.einsum("ngc,ngo->cgo", x[:, h, l], y[:, i, j])
    return w.reshape(*kernel_hw, C // groups, O)


def by_groups(array, groups):
    """(..., channels) to (..., groups, channels of each)"""
    return array.reshape(*array.shape[:-1], groups, array.shape[-1] // groups)
