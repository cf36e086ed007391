"""Normalising groups of values to mean 0 and variance 1: batch, group and layer norm are one thing.

All three see x as N samples of S positions of C channels, and the channels as G groups of D = C / G. A group
of one sample, S * D values, is brought to mean 0 and variance 1; then each channel has a weight and a bias:

    xh[n,s,c] = (x[n,s,c] - mean[n,g]) * rstd[n,g]        rstd = 1 / sqrt(var + eps),  g = c // D
    y[n,s,c]  = xh[n,s,c] * w[c] + b[c]

    batch norm  (1, N*H*W, C), C groups
    group norm  (N, H*W, C), G groups
    layer norm  (rows, 1, C), 1 group

The gradient, with A the mean over a group:  gx = rstd (w gy - A(w gy) - xh A(w gy xh)).

So forward reads x twice (moments; standardize) and backward x and gy twice (gradient_sums; input_gradient).
Sums run in float64, position by position with all channels side by side, in chunks that the shape alone
decides.
"""

from typing import NamedTuple

import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty

CHUNKS = 64  # at most: enough to keep many cores busy
CHUNK_POSITIONS = 32  # at least: fewer are not worth a task


def chunks(shape):
    """(T, P): the samples are cut into T parts, each sample's positions into P, which makes T*P tasks."""
    samples, positions, _ = shape
    parts = min(samples, CHUNKS)
    return parts, max(1, min(positions // CHUNK_POSITIONS, CHUNKS // max(1, parts)))


def statistics(x, groups):
    """mean and (biased) variance of each group of x (N, S, C): both (N, G) and float64."""
    n, s, c = x.shape
    x = np.ascontiguousarray(x)
    shift = x[:, 0, :: c // groups].astype(np.float64)
    partial = np.empty((2, n, chunks(x.shape)[1], groups))
    moments(x, shift, chunks(x.shape), partial)
    first, second = partial.sum(axis=2) / (s * c // groups)
    return shift + first, np.maximum(second - first * first, 0.0)


def normalize(x, mean, rstd, w, b):
    """y = (x - mean) rstd w + b; w and b may be None."""
    y = empty(x.shape, x.dtype)
    standardize(
        np.ascontiguousarray(x), mean, rstd, _or_constant(w, 1, x), _or_constant(b, 0, x), chunks(x.shape), y
    )
    return y


class Sums(NamedTuple):
    """What all gradients of a normalisation are made of, summed in one reading of x and gy; float64."""

    gradient: np.ndarray  # (N, G): A(w gy)
    correlation: np.ndarray  # (N, G): A(w gy xh)
    bias: np.ndarray  # (C,): sum of gy, the gradient of b
    weight: np.ndarray  # (C,): sum of gy xh, the gradient of w


def sums_of_gradient(gy, x, mean, rstd, w):
    """The Sums of gy and x, both (N, S, C)."""
    n, s, c = x.shape
    groups = mean.shape[1]
    by_group = np.empty((2, n, chunks(x.shape)[1], groups))
    by_channel = np.empty((2, *chunks(x.shape), c))
    gradient_sums(
        np.ascontiguousarray(gy),
        np.ascontiguousarray(x),
        mean,
        rstd,
        _or_constant(w, 1, x),
        by_group,
        by_channel,
    )
    return Sums(*by_group.sum(axis=2) / (s * c // groups), *by_channel.sum(axis=(1, 2)))


def normalize_gradient(gy, x, mean, rstd, w, sums):
    """gx = rstd (w gy - A(w gy) - xh A(w gy xh))."""
    gx = empty(x.shape, x.dtype)
    gy, x, w = np.ascontiguousarray(gy), np.ascontiguousarray(x), _or_constant(w, 1, x)
    input_gradient(gy, x, mean, rstd, w, sums.gradient, sums.correlation, chunks(x.shape), gx)
    return gx


def _or_constant(w, value, x):
    return np.full(x.shape[2], value, x.dtype) if w is None else np.ascontiguousarray(w)


@inner
def spread(values, channels):
    """A value for each group as a value for each channel."""
    D = len(channels) // len(values)
    for g in range(len(values)):
        channels[g * D : (g + 1) * D] = values[g]


@inner
def weighted_sum(w, values):
    total = 0.0
    for c in range(len(values)):
        total += w[c] * values[c]
    return total


@kernel
def moments(x, shift, tasks, partial):
    """partial[0] = sum of d, partial[1] = sum of d^2 by sample, chunk and group, with d = x - shift.

    The variance is A(d^2) - A(d)^2: a difference of two large numbers, were d not taken from one of the
    values themselves.
    """
    N, S, C = x.shape
    T, P = tasks
    G = shift.shape[1]
    D = C // G
    for task in prange(T * P):
        t, p = task // P, task % P
        s1, s2, origin = np.empty(C), np.empty(C), np.empty(C)
        for n in range(t * N // T, (t + 1) * N // T):
            spread(shift[n], origin)
            s1[:] = 0
            s2[:] = 0
            for s in range(p * S // P, (p + 1) * S // P):
                row = x[n, s]
                for c in range(C):
                    d = row[c] - origin[c]
                    s1[c] += d
                    s2[c] += d * d
            for g in range(G):
                partial[0, n, p, g] = s1[g * D : (g + 1) * D].sum()
                partial[1, n, p, g] = s2[g * D : (g + 1) * D].sum()


@kernel
def standardize(x, mean, rstd, w, b, tasks, y):
    """y = (x - mean) rstd w + b."""
    N, S, C = x.shape
    T, P = tasks
    for task in prange(T * P):
        t, p = task // P, task % P
        m, scale = np.empty(C, x.dtype), np.empty(C, x.dtype)
        for n in range(t * N // T, (t + 1) * N // T):
            spread(mean[n], m)
            spread(rstd[n], scale)
            scale *= w
            for s in range(p * S // P, (p + 1) * S // P):
                row, out = x[n, s], y[n, s]
                for c in range(C):
                    out[c] = (row[c] - m[c]) * scale[c] + b[c]


@kernel
def gradient_sums(gy, x, mean, rstd, w, by_group, by_channel):
    """Sums of gy and gy xh: weighted with w by (sample, chunk, group), plain by (task, channel)."""
    N, S, C = x.shape
    _, T, P, _ = by_channel.shape
    G = mean.shape[1]
    D = C // G
    for task in prange(T * P):
        t, p = task // P, task % P
        total1, total2 = by_channel[0, t, p], by_channel[1, t, p]
        total1[:] = 0
        total2[:] = 0
        s1, s2, m, scale = np.empty(C), np.empty(C), np.empty(C), np.empty(C)
        for n in range(t * N // T, (t + 1) * N // T):
            spread(mean[n], m)
            spread(rstd[n], scale)
            s1[:] = 0
            s2[:] = 0
            for s in range(p * S // P, (p + 1) * S // P):
                row, g_row = x[n, s], gy[n, s]
                for c in range(C):
                    s1[c] += g_row[c]
                    s2[c] += g_row[c] * (row[c] - m[c])
            s2 *= scale
            total1 += s1
            total2 += s2
            for g in range(G):
                by_group[0, n, p, g] = weighted_sum(w[g * D : (g + 1) * D], s1[g * D : (g + 1) * D])
                by_group[1, n, p, g] = weighted_sum(w[g * D : (g + 1) * D], s2[g * D : (g + 1) * D])


@kernel
def input_gradient(gy, x, mean, rstd, w, gradient, correlation, tasks, gx):
    """gx = a gy - q (x - mean) - r  with  a = rstd w,  q = rstd^2 correlation,  r = rstd gradient."""
    N, S, C = x.shape
    T, P = tasks
    for task in prange(T * P):
        t, p = task // P, task % P
        m, a, q, r = np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype), np.empty(C, x.dtype)
        for n in range(t * N // T, (t + 1) * N // T):
            spread(mean[n], m)
            spread(rstd[n], a)
            a *= w
            spread(rstd[n] * rstd[n] * correlation[n], q)
            spread(rstd[n] * gradient[n], r)
            for s in range(p * S // P, (p + 1) * S // P):
                row, g_row, out = x[n, s], gy[n, s], gx[n, s]
                for c in range(C):
                    out[c] = a[c] * g_row[c] - q[c] * (row[c] - m[c]) - r[c]
