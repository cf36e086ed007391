"""Normalising groups of values to mean 0 and variance 1: batch, group and layer norm are one thing.

All three see x as N samples of S positions of C channels, and the channels as G groups of D = C / G. A group
of one sample, S * D values, is brought to mean 0 and variance 1; then each channel has a weight and a bias:

    xh[n,s,c] = (x[n,s,c] - mean[n,g]) * rstd[n,g]        rstd = 1 / sqrt(var + eps),  g = c // D
    y[n,s,c]  = xh[n,s,c] * w[c] + b[c]

    batch norm  (1, N*H*W, C), C groups
    group norm  (N, H*W, C), G groups
    layer norm  (rows, 1, C), 1 group

The gradient, with A the mean over a group:  gx = rstd (w gy - A(w gy) - xh A(w gy xh)).

A ReLU behind it, max(y, 0), is done in the same passes: `relu=True`. Backward then asks for y's sign. It computes
y again from x, which it reads anyway, by the very function that forward uses: that is faster than reading y.
And so is 2x2 max-pooling behind batch norm: y is written pooled, and gy read as pooling left it (pooling.Unpooled).

So forward reads x twice (moments; standardize) and backward x and gy twice (gradient_sums; input_gradient).
Sums run position by position with all channels side by side, in chunks that the shape alone decides: of a few
positions in x's own type, which is twice as fast, and of those sums in float64. Where float32 is too narrow for a
square, all of it is summed in float64.
"""

import math
from typing import NamedTuple

import numba
import numpy as np

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, room_for
from tinynet.kernels.pooling import NO_PLACES, Unpooled, best_of_four, stored, unpool_run, whole
from tinynet.kernels.prefetch import prefetch_ahead
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array, Shape

CHUNKS = 64  # at most: enough to keep many cores busy
WIDTH = 256  # values that the loops take at once, where a position has fewer channels
RUN = 16  # rows of WIDTH values whose sums are of x's own type
CHUNK_VALUES = 8192  # at least: fewer are not worth a task


def chunks(shape: Shape) -> tuple[int, int]:
    """(T, P): the samples are cut into T parts, each sample's positions into P, which makes T*P tasks.

    P knows nothing of the other samples: a sample's sums are the same in any batch.
    """
    samples, positions, channels = shape
    pieces = max(1, min(positions, positions * channels // CHUNK_VALUES, CHUNKS))
    return min(samples, CHUNKS // pieces), pieces


def statistics(x: Array, groups: int) -> tuple[Array, Array]:
    """mean and (biased) variance of each group of x (N, S, C): both (N, G) and float64."""
    n, s, c = x.shape
    shift = x[:, 0, :: c // groups].astype(np.float64)
    mean, var, tasks = np.empty((n, groups)), np.empty((n, groups)), chunks(x.shape)
    partial = np.empty((2, n, tasks[1], groups))
    check = moments(_flat(x), c, shift, tasks, partial, mean, var, numba.get_num_threads(), none_taken())
    return _or_wide(check, (mean, var), x, lambda: statistics(x.astype(np.float64), groups))


def normalize(x: Array, mean: Array, rstd: Array, w: Array | None, b: Array | None, relu: bool = False) -> Array:
    """y = (x - mean) rstd w + b, or max(y, 0); w and b may be None."""
    y = empty(x.shape, x.dtype)
    w, b = _or_constant(w, 1, x), _or_constant(b, 0, x)
    standardize(_flat(x), mean, rstd, w, b, relu, chunks(x.shape), _flat(y), numba.get_num_threads(), none_taken())
    return y


def normalize_pooled(x: Array, mean: Array, rstd: Array, w: Array | None, b: Array | None,
                     relu: bool = False) -> tuple[Array, Array]:
    """The largest of each 2x2 pixels of normalize(...) of images x (N, H, W, C) as one sample, and which of the four.

    mean and rstd are (1, C).
    """
    n, h, width, c = x.shape
    y = empty((n, h // 2, width // 2, c), x.dtype)
    places = empty(y.shape, np.uint8)
    w, b = (_or_constant(each, value, x.reshape(1, -1, c)) for each, value in ((w, 1), (b, 0)))
    x = np.ascontiguousarray(x)
    standardize_pooled(x, mean, rstd, w, b, relu, y, places, numba.get_num_threads(), none_taken())
    return y, places


class Sums(NamedTuple):
    """What all gradients of a normalisation are made of, summed in one reading of x and gy; float64."""

    gradient: np.ndarray  # (N, G): A(w gy)
    correlation: np.ndarray  # (N, G): A(w gy xh)
    bias: np.ndarray  # (C,): sum of gy, the gradient of b
    weight: np.ndarray  # (C,): sum of gy xh, the gradient of w


def sums_of_gradient(gy: Array | Unpooled, x: Array, mean: Array, rstd: Array, w: Array | None, b: Array | None = None,
                     relu: bool = False) -> Sums:
    """The Sums of gy and x (N, S, C); with relu, of gy where y > 0. gy: of x's size, or, of one sample, Unpooled"""
    n, s, c = x.shape
    groups, tasks = mean.shape[1], chunks(x.shape)
    by_group, by_channel = np.empty((2, n, tasks[1], groups)), np.empty((2, *tasks, c))
    found = tuple(np.empty(shape) for shape in ((n, groups), (n, groups), c, c))
    w, b, threads = _or_constant(w, 1, x), _or_constant(b, 0, x), numba.get_num_threads()
    check = gradient_sums(*_in_memory(gy, x), _flat(x), mean, rstd, w, b, relu, by_group, by_channel, found, threads,
                          none_taken())

    def wide():
        whole_gy = whole(gy).reshape(x.shape)
        wide_gy, wide_x, wide_w, wide_b = (each.astype(np.float64) for each in (whole_gy, x, w, b))
        return sums_of_gradient(wide_gy, wide_x, mean, rstd, wide_w, wide_b, relu)

    return Sums(*_or_wide(check, found, x, wide))


def _or_wide(check, found, x, wide):
    """What was found, or, where that isn't finite, `wide()`: a product of two float32 may be too large for float32.

    check: a sum of all that was summed, which is not finite if any of it isn't.
    """
    if x.dtype == np.float64 or math.isfinite(check):
        return found
    return tuple(np.where(np.isfinite(each), each, other) for each, other in zip(found, wide(), strict=True))


def normalize_gradient(gy: Array | Unpooled, x: Array, mean: Array, rstd: Array, w: Array | None, sums: Sums,
                       b: Array | None = None, relu: bool = False) -> Array:
    """gx = rstd (w gy - A(w gy) - xh A(w gy xh)); with relu, gy counts where y > 0. gy: as sums_of_gradient's."""
    gx = empty(x.shape, x.dtype)
    w, b, tasks = _or_constant(w, 1, x), _or_constant(b, 0, x), chunks(x.shape)
    input_gradient(
        *_in_memory(gy, x), _flat(x), mean, rstd, w, b, relu, sums.gradient, sums.correlation, tasks, _flat(gx),
        numba.get_num_threads(), none_taken(),
    )
    return gx


def _flat(x):
    """(N, S, C) as (N, S*C)"""
    return np.ascontiguousarray(x).reshape(len(x), x.shape[1] * x.shape[2])


def _in_memory(gy, x):
    """gy for the kernels: (pixels, places, (H, W)) of Unpooled ones; else (N, S*C) behind two axes of 1, no places"""
    if isinstance(gy, Unpooled):
        return *stored(gy), gy.hw
    return np.ascontiguousarray(gy).reshape(1, 1, *_flat(x).shape), NO_PLACES, (1, 1)


def _or_constant(w, value, x):
    return np.full(x.shape[2], value, x.dtype) if w is None else np.ascontiguousarray(w)


@inner
def side_by_side(C, S):
    """How many positions the loops take at once. A loop over 16 channels is over before it has got going."""
    return max(1, min(WIDTH // C, S))


@inner
def spread(values, w, wide):
    """A value for each group as a value for each channel, times w; and that for several positions side by side."""
    C = len(w)
    D = C // len(values)
    for c in range(C):
        wide[c] = values[c // D] * w[c]
    repeat(wide, C, wide)


@inner
def repeat(channels, C, wide):
    for i in range(0, len(wide), C):
        for c in range(C):
            wide[i + c] = channels[c]


@inner
def fold(wide, C):
    """The sums of several positions side by side become one sum for each channel."""
    for i in range(C, len(wide), C):
        for c in range(C):
            wide[c] += wide[i + c]


@inner
def move(few, sums):
    """sums += few; few = 0"""
    for i in range(len(few)):
        sums[i] += few[i]
        few[i] = 0


@inner
def affine(x, m, scale, b):
    """y = (x - m) scale + b: one function, since forward and backward must agree on the sign of y."""
    return (x - m) * scale + b


@inner
def weighted_sum(w, values):
    total = 0.0
    for c in range(len(values)):
        total += w[c] * values[c]
    return total


@kernel
def moments(x, C, shift, tasks, partial, mean, var, lanes, taken):
    """mean = shift + A(d), var = A(d^2) - A(d)^2, with d = x - shift

    The variance is a difference of two large numbers, were d not taken from one of the values themselves.
    partial[0] = sum of d, partial[1] = sum of d^2 by sample, chunk and group. Returns the sum of all A(d) and A(d^2).
    """
    N, S = x.shape[0], x.shape[1] // C
    T, P = tasks
    G = shift.shape[1]
    D = C // G
    for _ in prange(lanes):
        L, ones = side_by_side(C, S) * C, np.ones(C)
        s1, s2, origin = np.empty(L), np.empty(L), room_for(L, x)
        few1, few2 = np.zeros(L, x.dtype), np.zeros(L, x.dtype)
        task = take(taken)
        while task < T * P:
            t, p = task // P, task % P
            for n in range(t * N // T, (t + 1) * N // T):
                spread(shift[n], ones, origin)
                s1[:] = 0
                s2[:] = 0
                begin, stop = p * S // P * C, (p + 1) * S // P * C
                for first in range(begin, stop, RUN * L):
                    _add_moments(x[n, first : min(first + RUN * L, stop)], origin, few1, few2)
                    move(few1, s1)
                    move(few2, s2)
                fold(s1, C)
                fold(s2, C)
                for g in range(G):
                    partial[0, n, p, g] = s1[g * D : (g + 1) * D].sum()
                    partial[1, n, p, g] = s2[g * D : (g + 1) * D].sum()
            task = take(taken)
    return _mean_and_variance(partial, shift, D * S, mean, var)


@inner
def _mean_and_variance(partial, shift, count, mean, var):
    check = _means(partial[0], count, mean) + _means(partial[1], count, var)
    for n in range(len(mean)):
        for g in range(mean.shape[1]):
            squared = var[n, g] - mean[n, g] * mean[n, g]
            var[n, g] = 0.0 if squared < 0 else squared      # where rounding went too far; a NaN stays
            mean[n, g] += shift[n, g]
    return check


@inner
def _means(sums, count, means):
    """means[n, g] = sum over p of sums[n, p, g], / count; returns the sum of all."""
    N, P, G = sums.shape
    check = 0.0
    for n in range(N):
        for g in range(G):
            total = 0.0
            for p in range(P):
                total += sums[n, p, g]
            means[n, g] = total / count
            check += means[n, g]
    return check


@inner
def _add_moments(x, origin, sum1, sum2):
    """sum1 += d, sum2 += d^2 with d = x - origin, of several positions side by side"""
    L = len(origin)
    for i in range(0, len(x), L):
        row = x[i : min(i + L, len(x))]
        prefetch_ahead(row)
        for c in range(len(row)):
            d = row[c] - origin[c]
            sum1[c] += d
            sum2[c] += d * d


@kernel
def standardize(x, mean, rstd, w, b, relu, tasks, y, lanes, taken):
    """y = (x - mean) rstd w + b, or max(y, 0)."""
    C = len(w)
    N, S = x.shape[0], x.shape[1] // C
    T, P = tasks
    zero = x.dtype.type(0)
    for _ in prange(lanes):
        L, ones = side_by_side(C, S) * C, np.ones(C)
        m, scale, bias = room_for(L, x), room_for(L, x), room_for(L, x)
        repeat(b, C, bias)
        task = take(taken)
        while task < T * P:
            t, p = task // P, task % P
            for n in range(t * N // T, (t + 1) * N // T):
                spread(mean[n], ones, m)
                spread(rstd[n], w, scale)
                stop = (p + 1) * S // P * C
                for i in range(p * S // P * C, stop, L):
                    row, out = x[n, i : min(i + L, stop)], y[n, i : min(i + L, stop)]
                    if relu:
                        for c in range(len(row)):
                            value = affine(row[c], m[c], scale[c], bias[c])
                            out[c] = zero if value <= 0 else value
                    else:
                        for c in range(len(row)):
                            out[c] = affine(row[c], m[c], scale[c], bias[c])
            task = take(taken)


@kernel
def standardize_pooled(x, mean, rstd, w, b, relu, y, places, lanes, taken):
    """As standardize, of each 2x2 pixels the largest. A task is a row of y."""
    N, rows, columns, C = y.shape
    length = 2 * columns * C
    floor = x.dtype.type(0 if relu else -np.inf)
    for _ in prange(lanes):
        L, ones = side_by_side(C, 2 * columns) * C, np.ones(C)
        m, scale, bias = room_for(L, x), room_for(L, x), room_for(L, x)
        spread(mean[0], ones, m)
        spread(rstd[0], w, scale)
        repeat(b, C, bias)
        upper, lower = room_for(length, x), room_for(length, x)
        task = take(taken)
        while task < N * rows:
            n, i = task // rows, task % rows
            _standardize_row(flattened(x[n, 2 * i]), (m, scale, bias), upper)
            _standardize_row(flattened(x[n, 2 * i + 1]), (m, scale, bias), lower)
            best_of_four(upper, lower, flattened(y[n, i]), flattened(places[n, i]), C, floor)
            task = take(taken)


@inner
def _standardize_row(x, line, y):
    """y = (x - m) scale + bias with line = (m, scale, bias), for as much of a row as y has room for"""
    m, scale, bias = line
    for i in range(0, len(y), len(m)):
        row, out = x[i : min(i + len(m), len(y))], y[i : min(i + len(m), len(y))]
        for c in range(len(row)):
            out[c] = affine(row[c], m[c], scale[c], bias[c])


@kernel
def gradient_sums(gy, places, hw, x, mean, rstd, w, b, relu, by_group, by_channel, sums, lanes, taken):
    """sums = Sums of gy and x, from those weighted with w by (sample, chunk, group) and plain ones by (task, channel)

    gy: see _in_memory. Returns the sum of all sums.
    """
    _, T, P, C = by_channel.shape
    N, S = x.shape[0], x.shape[1] // C
    G = mean.shape[1]
    D = C // G
    for _ in prange(lanes):
        L, ones = side_by_side(C, S) * C, np.ones(C)
        s1, s2 = np.empty(L), np.empty(L)
        few1, few2 = np.zeros(L, x.dtype), np.zeros(L, x.dtype)
        m, scale, bias = room_for(L, x), room_for(L, x), room_for(L, x)
        gated, unpooled = room_for(L, x), room_for(RUN * L if places.size else 0, x)
        repeat(b, C, bias)
        task = take(taken)
        while task < T * P:
            t, p = task // P, task % P
            total1, total2 = by_channel[0, t, p], by_channel[1, t, p]
            total1[:] = 0
            total2[:] = 0
            for n in range(t * N // T, (t + 1) * N // T):
                spread(mean[n], ones, m)
                spread(rstd[n], w, scale)
                s1[:] = 0
                s2[:] = 0
                begin, stop = p * S // P * C, (p + 1) * S // P * C
                for first in range(begin, stop, RUN * L):
                    last = min(first + RUN * L, stop)
                    g = _part(gy, places, hw, n, first, last, unpooled)
                    _add_products(g, x[n, first:last], (m, scale, bias), relu, gated, few1, few2)
                    move(few1, s1)
                    move(few2, s2)
                fold(s1, C)
                fold(s2, C)
                for c in range(C):
                    s2[c] += s1[c] * (m[c] - mean[n, c // D])  # what rounding took from the mean
                for g in range(G):
                    s2[g * D : (g + 1) * D] *= rstd[n, g]
                    by_group[0, n, p, g] = weighted_sum(w[g * D : (g + 1) * D], s1[g * D : (g + 1) * D])
                    by_group[1, n, p, g] = weighted_sum(w[g * D : (g + 1) * D], s2[g * D : (g + 1) * D])
                total1 += s1[:C]
                total2 += s2[:C]
            task = take(taken)
    gradient, correlation, bias, weight = sums
    check = _means(by_group[0], D * S, gradient) + _means(by_group[1], D * S, correlation)
    return check + _add_channels(by_channel[0], bias) + _add_channels(by_channel[1], weight)


@inner
def _add_channels(parts, sums):
    """sums[c] = sum over t and p of parts[t, p, c]; returns the sum of all."""
    T, P, C = parts.shape
    check = 0.0
    for c in range(C):
        sums[c] = 0
    for t in range(T):
        for p in range(P):
            for c in range(C):
                sums[c] += parts[t, p, c]
    for c in range(C):
        check += sums[c]
    return check


@inner
def _part(gy, places, hw, n, first, last, unpooled):
    """gy[n, first:last], gy being given as _in_memory says"""
    if places.size:
        unpool_run(gy, places, hw, first // gy.shape[3], unpooled[: last - first])
        return unpooled[: last - first]
    return gy[0, 0, n, first:last]


@inner
def _add_products(gy, x, line, relu, gated, sum1, sum2):
    """sum1 += gy, sum2 += gy (x - m), of several positions side by side; with relu, of gy where y > 0

    line = (m, scale, bias): y = (x - m) scale + bias
    """
    m, scale, bias = line
    L, zero = len(m), x.dtype.type(0)
    for i in range(0, len(x), L):
        row, g_row = x[i : min(i + L, len(x))], gy[i : min(i + L, len(x))]
        prefetch_ahead(row)
        prefetch_ahead(g_row)
        if relu:
            for c in range(len(row)):
                value = g_row[c]  # read in any case: then no branch stops the loop from vectorising
                gated[c] = zero if affine(row[c], m[c], scale[c], bias[c]) <= 0 else value
            g_row = gated[: len(row)]
        for c in range(len(row)):
            sum1[c] += g_row[c]
            sum2[c] += g_row[c] * (row[c] - m[c])


@kernel
def input_gradient(gy, places, hw, x, mean, rstd, w, b, relu, gradient, correlation, tasks, gx, lanes, taken):
    """gx = a gy - q (x - mean) - r  with  a = rstd w, q = rstd^2 correlation, r = rstd gradient; gy: see _in_memory"""
    C = len(w)
    N, S = x.shape[0], x.shape[1] // C
    T, P = tasks
    zero = x.dtype.type(0)
    for _ in prange(lanes):
        L, ones = side_by_side(C, S) * C, np.ones(C)
        m, a, bias = room_for(L, x), room_for(L, x), room_for(L, x)
        q, r = room_for(L, x), room_for(L, x)
        unpooled = room_for(L if places.size else 0, x)
        repeat(b, C, bias)
        task = take(taken)
        while task < T * P:
            t, p = task // P, task % P
            for n in range(t * N // T, (t + 1) * N // T):
                spread(mean[n], ones, m)
                spread(rstd[n], w, a)
                spread(rstd[n] * rstd[n] * correlation[n], ones, q)
                spread(rstd[n] * gradient[n], ones, r)
                stop = (p + 1) * S // P * C
                for i in range(p * S // P * C, stop, L):
                    j = min(i + L, stop)
                    row, out = x[n, i:j], gx[n, i:j]
                    g_row = _part(gy, places, hw, n, i, j, unpooled)
                    if relu:
                        for c in range(len(row)):
                            value = g_row[c]
                            value = zero if affine(row[c], m[c], a[c], bias[c]) <= 0 else value
                            out[c] = a[c] * value - q[c] * (row[c] - m[c]) - r[c]
                    else:
                        for c in range(len(row)):
                            out[c] = a[c] * g_row[c] - q[c] * (row[c] - m[c]) - r[c]
            task = take(taken)
