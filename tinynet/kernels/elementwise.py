"""Functions of one or two arrays, element by element, on all cores; for small arrays NumPy is as good.

    z[i] = f(x[i], y[i])        y may be shorter than x: a row that is repeated, down to a single number

NumPy's loops run on one core and fill memory that is fresh, and a formula of several operations is as many
passes over memory. Here each function is one pass: a line in `_apply`, the table of them all. The loop over
chunks, which is compiled once for the whole table, picks the line by its number.
"""

import numba
import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array

LARGE = 65536  # elements; for fewer NumPy is faster than waking threads
CHUNK = 8192  # elements that are dealt with at a time: three arrays of them lie in the nearest two caches
CHUNKS = 8  # that one thread takes at a time

ADD, SUBTRACT, MULTIPLY, RELU, RELU_GRAD, SIGMOID_GRAD, TANH_GRAD = range(7)
SQUARE_SLOPE, ABSOLUTE_SLOPE, HUBER_SLOPE, GATE, ADD_TO = range(7, 12)


def add(x: Array, y: Array) -> Array:
    """x + y, broadcast by NumPy's rules."""
    return x + y if max(x.size, y.size) < LARGE else _commutative(ADD, np.add, x, y)


def add_to(x: Array, y: Array) -> Array:
    """x + y, written over x, for y of the same shape: what isn't in the caches need not be fetched to be written."""
    if x.size < LARGE or not (x.flags.c_contiguous and y.flags.c_contiguous):
        return np.add(x, y, out=x)
    return apply(ADD_TO, y, y, out=x)


def multiply(x: Array, y: Array) -> Array:
    """x y, broadcast by NumPy's rules."""
    return x * y if max(x.size, y.size) < LARGE else _commutative(MULTIPLY, np.multiply, x, y)


def subtract(x: Array, y: Array) -> Array:
    """x - y, broadcast by NumPy's rules."""
    if x.size < LARGE or not _is_repeated(y, x):
        return x - y
    return apply(SUBTRACT, x, y)


def _commutative(code, ufunc, x, y):
    for long, short in ((x, y), (y, x)):
        if _is_repeated(short, long):
            return apply(code, long, short)
    return ufunc(x, y)


def _is_repeated(short, long):
    """Whether `apply` can take both: broadcasting repeats `short` as a whole, in chunks of `long`."""
    if not (short.flags.c_contiguous and long.flags.c_contiguous):
        return False
    if short.shape == long.shape or short.size == 1 and short.ndim <= long.ndim:
        return True
    trimmed = short.shape
    while trimmed and trimmed[0] == 1:
        trimmed = trimmed[1:]
    return short.ndim <= long.ndim and trimmed == long.shape[-len(trimmed) :] and 0 < short.size <= CHUNK


def apply(code: int, x: Array, y: Array, factor: float = 1.0, bound: float = 1.0, out: Array | None = None) -> Array:
    """z = f(x, y) for the function with this number; y has the shape of x, or is a row that x repeats.

    out: the contiguous array z, whose values GATE and ADD_TO change; not x or y, or the loops would not be vectorised.
    """
    z = empty(x.shape, x.dtype) if out is None else out
    number = x.dtype.type
    x, y = np.ascontiguousarray(x).reshape(-1), np.ascontiguousarray(y).reshape(-1)
    numbers = number(factor), number(bound)
    _elementwise(code, x, y, *numbers, z.reshape(-1), numba.get_num_threads(), none_taken())
    return z


@kernel
def _elementwise(code, x, y, factor, bound, z, lanes, taken):
    step = CHUNK // y.size * y.size if y.size < x.size else CHUNK  # whole rows
    for _ in prange(lanes):
        task = take(taken)
        while task < (x.size + CHUNKS * step - 1) // (CHUNKS * step):
            _chunks(code, x, y, factor, bound, z, step, task * CHUNKS * step)
            task = take(taken)


@inner
def _chunks(code, x, y, factor, bound, z, step, start):
    """The chunks of one task. A row is written out as often as it fits into a chunk; it is then an array, too."""
    is_row = y.size < x.size
    rows = np.empty(step if is_row else 0, y.dtype)
    if y.size == 1:
        rows[:] = y[0]
    else:
        for first in range(0, rows.size, y.size):
            for i in range(y.size):  # `rows[...] = y` could raise: to compile its sentence takes 2 s
                rows[first + i] = y[i]
    for first in range(start, min(x.size, start + CHUNKS * step), step):
        last = min(x.size, first + step)
        b = rows[: last - first] if is_row else y[first:last]
        _apply(code, x[first:last], b, factor, bound, z[first:last])


@inner
def _apply(code, a, b, factor, bound, c):
    n, zero, one = c.size, c.dtype.type(0), c.dtype.type(1)
    if code == ADD:
        for i in range(n):
            c[i] = a[i] + b[i]
    elif code == SUBTRACT:
        for i in range(n):
            c[i] = a[i] - b[i]
    elif code == MULTIPLY:
        for i in range(n):
            c[i] = a[i] * b[i]
    elif code == RELU:
        for i in range(n):
            c[i] = zero if a[i] <= 0 else a[i]  # `a[i] if a[i] > 0 else 0` would turn NaN into 0
    elif code == RELU_GRAD:
        for i in range(n):
            c[i] = zero if b[i] <= 0 else a[i]
    elif code == GATE:
        for i in range(n):
            c[i] = zero if a[i] <= 0 else c[i]
    elif code == ADD_TO:
        for i in range(n):
            c[i] += a[i]
    elif code == SIGMOID_GRAD:
        for i in range(n):
            c[i] = a[i] * (b[i] * (one - b[i]))
    elif code == TANH_GRAD:
        for i in range(n):
            c[i] = a[i] * (one - b[i] * b[i])
    elif code == SQUARE_SLOPE:
        for i in range(n):
            c[i] = factor * (a[i] - b[i])
    elif code == ABSOLUTE_SLOPE:
        for i in range(n):
            d = a[i] - b[i]
            c[i] = factor * (one if d > 0 else -one if d < 0 else d)  # 0 at 0, NaN of NaN
    else:
        for i in range(n):
            d = a[i] - b[i]
            c[i] = factor * (bound if d > bound else -bound if d < -bound else d)
