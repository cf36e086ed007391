"""Softmax, and its cross-entropy: the loss of every pixel, and its gradient, in one pass over the logits.

    z_k    = x_k - max_j x_j                        a pixel's logits, shifted so that exp can't overflow
    p_k    = exp(z_k) / sum_j exp(z_j)              softmax
    c_k    = hard_k [k = t] + soft_k                how much the loss asks of class k, t being the target
    loss   = -sum_k c_k log p_k = C log sum_j exp(z_j) - sum_k c_k z_k              with C = sum_k c_k
    dloss/dx_k = C p_k - c_k

`hard` and `soft` hold the class weights and the label smoothing: hard = (1 - s) w, soft = s w / K.

Legend: M pixels, K classes. A pixel has only K numbers, often a dozen, too few to fill vector registers.
So LANES pixels are turned into a scratch block, side by side, and loops run over pixels, class after class.
"""

import math

import numba
import numpy as np

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.prefetch import prefetch_run
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.turning import turn_block
from tinynet.typing import Array

LANES = 64  # pixels in a block; a multiple of every vector length
CHUNK = 16 * LANES  # pixels of a task

ZERO = np.float32(0)
LOWEST = np.float32(-87.0)  # exp(-87) = 1.6e-38, just above the smallest normal number
ONE, HALF = np.float32(1), np.float32(0.5)
LOG2_E = np.float32(1.4426950408889634)
LOG_2_HIGH, LOG_2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)  # log 2, with k * HIGH exact
# exp(f) = 1 + f + f^2 (1/2 + f/6 + ...) for |f| <= log(2) / 2, the minimax coefficients of Cephes' expf
C2, C3, C4 = np.float32(5.0000001201e-1), np.float32(1.6666665459e-1), np.float32(4.1665795894e-2)
C5, C6, C7 = np.float32(8.3334519073e-3), np.float32(1.3981999507e-3), np.float32(1.9875691500e-4)
# log(1 + f) = f - f^2 / 2 + f^3 (L0 + L1 f + ...) for 1 + f from sqrt(1/2) to sqrt(2), those of Cephes' logf
L0, L1, L2 = np.float32(3.3333331174e-1), np.float32(-2.4999993993e-1), np.float32(2.0000714765e-1)
L3, L4, L5 = np.float32(-1.6668057665e-1), np.float32(1.4249322787e-1), np.float32(-1.2420140846e-1)
L6, L7, L8 = np.float32(1.1676998740e-1), np.float32(-1.1514610310e-1), np.float32(7.0376836292e-2)
ROOT = np.float32(1.4142135)


def softmax(x: Array, logarithm: bool = False) -> Array:
    """p_k, or log p_k, of each pixel: x (M, K); returns (M, K).

    >>> softmax(np.array([[0.0, 1000.0, 1000.0]]))
    array([[0. , 0.5, 0.5]])
    """
    return _by_pixel(x, x[:0], logarithm)


def softmax_gradient(p: Array, gp: Array, logarithm: bool = False) -> Array:
    """The gradient in x of p = softmax(x): p_k (gp_k - sum_j gp_j p_j); or gy_k - e^y_k sum_j gy_j of its logarithm y.

    p or y, and their gradient: (M, K); returns (M, K).

    >>> softmax_gradient(np.array([[0.5, 0.5]]), np.array([[1.0, 0.0]]))
    array([[ 0.25, -0.25]])
    """
    return _by_pixel(p, gp, logarithm)


def _by_pixel(x, gp, logarithm):
    y = empty(x.shape, x.dtype)
    x, gp = (np.require(each, requirements="CW") for each in (x, gp))  # numba would compile anew for read-only ones
    _softmax(x, gp, y, logarithm, numba.get_num_threads(), none_taken())
    return y


def softmax_cross_entropy(logits: Array, target: Array, hard: Array, soft: Array, scale: float,
                          with_gradient: bool) -> tuple[Array, Array | None]:
    """The losses (M,) of all pixels and `scale` times their gradient (M, K), which is None unless asked for.

    logits: (M, K); target: (M,), int32, each in 0..K-1, or -1 for a pixel to ignore, whose loss is 0.
    hard: (K,); soft: (K,), or () for no smoothing.
    """
    M, K = logits.shape
    dtype = logits.dtype
    logits, target = np.ascontiguousarray(logits), np.ascontiguousarray(target)
    hard, soft = np.ascontiguousarray(hard, dtype), np.ascontiguousarray(soft, dtype)
    loss, gradient = empty((M,), dtype), empty((M if with_gradient else 0, K), dtype)
    _cross_entropy(logits, target, hard, soft, dtype.type(scale), loss, gradient, numba.get_num_threads(),
                   none_taken())
    return loss, gradient if with_gradient else None


@kernel
def _softmax(x, gp, y, logarithm, lanes, taken):
    """y = softmax of x, or its logarithm; or, where there is a gp, the gradient of that whose result x is.

    A task is a chunk of pixels.
    """
    M, K = x.shape
    for _ in prange(lanes):
        e, z = np.zeros((K, LANES), x.dtype), np.zeros((K, LANES), x.dtype)
        total = np.zeros(LANES, x.dtype)
        chunk = take(taken)
        while chunk * CHUNK < M:
            stop = min(M, (chunk + 1) * CHUNK)
            for m in range(chunk * CHUNK, stop, LANES):
                end = min(m + LANES, stop)
                _ask_for_next(x, gp if gp.size else y, m)
                if gp.size:
                    turn_block(x[m:end], e)
                    turn_block(gp[m:end], z)
                    if logarithm:
                        _exp_and_sum(e, total)
                    _through_softmax(e, z, total, logarithm)
                else:
                    _shifted_logits(x[m:end], z, total)
                    e[:] = z
                    _exp_and_sum(e, total)
                    _normalized(e, z, total, logarithm)
                turn_block(z[:, : end - m], y[m:end])
            chunk = take(taken)


@inner
def _through_softmax(p, g, total, logarithm):
    """g_k = p_k (g_k - sum_j g_j p_j), or g_k - p_k sum_j g_j"""
    total[:] = 0
    for k in range(len(g)):
        for i in range(LANES):
            total[i] += g[k, i] if logarithm else g[k, i] * p[k, i]
    for k in range(len(g)):
        for i in range(LANES):
            g[k, i] = g[k, i] - p[k, i] * total[i] if logarithm else p[k, i] * (g[k, i] - total[i])


@inner
def _ask_for_next(x, y, m):
    """Ask for the block of pixels after that which begins at m, while this one is computed."""
    begin, end = (m + LANES) * x.shape[1], (m + 2 * LANES) * x.shape[1]
    prefetch_run(flattened(x), begin, end)
    prefetch_run(flattened(y), begin, end)


@inner
def _normalized(e, z, total, logarithm):
    """z_k = e_k / total, or z_k - log total"""
    if logarithm and total.itemsize == 4:
        for i in range(LANES):
            total[i] = log_float32(total[i])
    elif logarithm:
        for i in range(LANES):
            total[i] = math.log(total[i])
    for k in range(len(z)):
        for i in range(LANES):
            z[k, i] = z[k, i] - total[i] if logarithm else e[k, i] / total[i]


@kernel
def _cross_entropy(logits, target, hard, soft, scale, loss, gradient, lanes, taken):
    """A task is a chunk of pixels."""
    M, K = logits.shape
    for _ in prange(lanes):
        z = np.zeros((K, LANES), logits.dtype)
        total = np.zeros(LANES, logits.dtype)  # sum_k exp(z_k)
        asked = np.zeros(LANES, logits.dtype)  # C = sum_k c_k
        chunk = take(taken)
        while chunk * CHUNK < M:
            stop = min(M, (chunk + 1) * CHUNK)
            for m in range(chunk * CHUNK, stop, LANES):
                end = min(m + LANES, stop)
                _ask_for_next(logits, gradient, m)
                _shifted_logits(logits[m:end], z, total)
                _linear_part(z, target[m:end], hard, soft, asked, loss[m:end])
                _exp_and_sum(z, total)
                _logarithmic_part(total, target[m:end], asked, loss[m:end])
                if gradient.size:
                    _gradient(z, total, asked, target[m:end], hard, soft, scale, gradient[m:end])
            chunk = take(taken)


@inner
def _shifted_logits(x, z, peak):
    """z_k = x_k - max_j x_j, turned round: x has a pixel a row, z has a class a row."""
    turn_block(x, z)
    for i in range(LANES):
        peak[i] = z[0, i]
    for k in range(1, z.shape[0]):
        row = z[k]
        for i in range(LANES):  # a NaN may or may not become the maximum: it stays in its row all the same
            peak[i] = row[i] if row[i] > peak[i] else peak[i]
    for k in range(z.shape[0]):
        row = z[k]
        for i in range(LANES):
            row[i] -= peak[i]


@inner
def _linear_part(z, t, hard, soft, asked, loss):
    """loss = -sum_k c_k z_k, asked = sum_k c_k"""
    for i in range(t.size):
        asked[i] = 0
        loss[i] = 0
        if t[i] >= 0:
            asked[i] = hard[t[i]]
            loss[i] = -hard[t[i]] * z[t[i], i]
    for k in range(soft.size):
        row = z[k]
        for i in range(t.size):
            c = soft[k] if t[i] >= 0 else ZERO
            asked[i] += c
            loss[i] -= c * row[i]


@inner
def _exp_and_sum(z, total):
    """z_k becomes exp(z_k), total = sum_k exp(z_k)."""
    for i in range(LANES):
        total[i] = 0
    for k in range(z.shape[0]):
        row = z[k]
        if row.itemsize == 4:
            for i in range(LANES):
                row[i] = exp_float32(row[i])
        else:
            for i in range(LANES):
                row[i] = math.exp(row[i])
        for i in range(LANES):
            total[i] += row[i]


@inner
def _logarithmic_part(total, t, asked, loss):
    """loss += C log sum_k exp(z_k), but an ignored pixel's loss stays 0, were its logits NaN."""
    if total.itemsize == 4:
        for i in range(t.size):
            loss[i] = loss[i] + asked[i] * log_float32(total[i]) if t[i] >= 0 else ZERO
    else:
        for i in range(t.size):
            loss[i] = loss[i] + asked[i] * math.log(total[i]) if t[i] >= 0 else 0


@inner
def _gradient(e, total, asked, t, hard, soft, scale, gradient):
    """gradient_k = scale (C p_k - c_k), with p_k = e_k / total; turned round again."""
    for i in range(t.size):  # 0 for an ignored pixel, even if all are and the scale is NaN
        total[i] = (scale if t[i] >= 0 else ZERO) * asked[i] / total[i]
    for k in range(e.shape[0]):
        row = e[k]
        for i in range(t.size):
            row[i] = row[i] * total[i] if t[i] >= 0 else ZERO  # 0 times a NaN would be NaN
    for k in range(soft.size):
        row = e[k]
        for i in range(t.size):
            row[i] -= scale * soft[k] if t[i] >= 0 else ZERO
    for i in range(t.size):
        if t[i] >= 0:
            e[t[i], i] -= scale * hard[t[i]]
    turn_block(e[:, : t.size], gradient)


@inner
def exp_float32(x):
    """exp(x) for float32 x <= 0, within 4e-7 of its value, and 0 below LOWEST; NaN stays NaN.

    exp(x) = 2^k exp(f) with x = k log 2 + f. The C library's exp is a call for every number; this has no
    branch and no call, so LLVM does 8 or 16 numbers at once.
    """
    k = np.floor((x if x > LOWEST else LOWEST) * LOG2_E + HALF)  # not of a NaN, which no integer stands for
    f = (LOWEST if x < LOWEST else x) - k * LOG_2_HIGH - k * LOG_2_LOW
    p = ((((C7 * f + C6) * f + C5) * f + C4) * f + C3) * f + C2
    p = p * f * f + f + ONE
    power = np.int32((np.int32(k) + np.int32(127)) << np.int32(23)).view(np.float32)  # 2^k, from its bits
    return ZERO if x < LOWEST else p * power


@inner
def log_float32(x):
    """log(x) for float32 x >= 1, within 2e-7 of the larger of its value and 1; NaN stays NaN.

    log(x) = k log 2 + log(1 + f) with x = 2^k (1 + f), without a branch or call, too.
    """
    bits = np.float32(x).view(np.int32)
    exponent = np.int32((bits >> 23) - 127)
    f = np.int32(bits - (exponent << 23)).view(np.float32)  # from 1 to 2
    k = np.float32(exponent) + (ONE if f > ROOT else ZERO)
    f = (f * HALF if f > ROOT else f) - ONE
    p = (((((((L8 * f + L7) * f + L6) * f + L5) * f + L4) * f + L3) * f + L2) * f + L1) * f + L0
    value = f * f * f * p + k * LOG_2_LOW - HALF * f * f + f + k * LOG_2_HIGH
    return value if x == x else x
