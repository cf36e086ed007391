"""Functions of an error d = x - t, for losses: their values, the sum of these, and their slopes, each one pass.

                  f(d)                                                    f'(d)
    SQUARE        d^2                                                     2 d
    ABSOLUTE      |d|                                                     the sign of d, 0 at 0
    HUBER         d^2 / (2 b) where |d| < b, else |d| - b/2               d / b, limited to -1..1
"""

import numpy as np

from tinynet.kernels import elementwise
from tinynet.kernels.elementwise import LARGE, apply
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.typing import Array

SQUARE, ABSOLUTE, HUBER = range(3)
CHUNK = 16384  # elements of a partial sum


def values(code: int, x: Array, t: Array, bound: float) -> Array:
    """f(x - t) of each element."""
    d = np.subtract(x, t)
    if code == SQUARE:
        return d * d
    d = np.abs(d)
    if code == ABSOLUTE:
        return d
    near = np.minimum(d, bound)  # near (d - near/2) / b is both cases in one, and squares no large number
    return near * (d - near * 0.5) * (1 / bound)


def sum_of_values(code: int, x: Array, t: Array, bound: float) -> float:
    """The sum of f(x - t), a Python float: in float64, in chunks, so that threads cannot change a bit."""
    if x.size < LARGE:
        return float(values(code, x, t, bound).sum(dtype=np.float64))
    x, t = np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(t).reshape(-1)
    partial = np.empty(-(-x.size // CHUNK))
    _sums(code, x, t, x.dtype.type(bound), partial)
    return float(partial.sum())


def slopes(code: int, x: Array, t: Array, bound: float, factor: float) -> Array:
    """factor f'(x - t) of each element."""
    if code == HUBER:
        factor /= bound
    elif code == SQUARE:
        factor *= 2
    if x.size >= LARGE:
        table = elementwise.SQUARE_SLOPE, elementwise.ABSOLUTE_SLOPE, elementwise.HUBER_SLOPE
        return apply(table[code], x, t, factor, bound)
    d = np.subtract(x, t)
    return factor * (np.sign(d) if code == ABSOLUTE else np.clip(d, -bound, bound) if code == HUBER else d)


def curvatures(code: int, x: Array, t: Array, bound: float) -> Array:
    """f''(x - t) of each element, 0 in the bends."""
    if code == HUBER:
        return (np.abs(x - t) < bound) * x.dtype.type(1 / bound)
    return np.full(x.shape, 2 if code == SQUARE else 0, x.dtype)


@kernel
def _sums(code, x, t, bound, partial):
    """partial[p] = sum of f(x[i] - t[i]) over the elements i of chunk p"""
    for p in prange(partial.size):
        start = np.int64(p) * CHUNK
        partial[p] = _sum(code, x[start : start + CHUNK], t[start : start + CHUNK], bound)


@inner
def _sum(code, x, t, bound):
    total = np.float64(0)  # a Python number plus a float32 would be float32, without compiling
    if code == SQUARE:
        for i in range(x.size):
            d = x[i] - t[i]
            total += d * d
    elif code == ABSOLUTE:
        for i in range(x.size):
            total += abs(x[i] - t[i])
    else:
        scale, half = 1 / bound, x.dtype.type(0.5)
        for i in range(x.size):
            d = abs(x[i] - t[i])
            near = bound if d > bound else d  # NaN stays d
            total += near * (d - near * half) * scale
    return total
