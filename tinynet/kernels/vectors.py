"""Products of a matrix and a vector, as fast as the memory gives the matrix.

    c[m, n] = sum over k of a[m, k] * b[n, k]       dot_rows        a of few rows, times a transposed matrix
    c[n]    = sum over k of a[k] * b[k, n]          mix_rows        a row vector times a matrix
    c[i, j] = a[i] * b[j]                           spread_rows     a column times a row: a sum of one product

Each number of the matrix is needed only once (or once for each of few rows), so that there is nothing to gain from
keeping some of it in registers, as the tile does. What counts is to read, or write, row after row. A dense layer
with a batch of one image has these three: its input gradient, the layer itself, and its weight gradient.
"""
import numpy as np

from tinynet.kernels.emit import VECTOR_BYTES, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.tile import NEAR, NEXT, NO_FLOOR, ONE, STAY, tile
from tinynet.typing import Array

FEW = 4                         # rows of a
RUN = 2 ** 14                   # numbers of the matrix that are worth a task, at least
COLUMNS = 128                   # of a task, where a row vector is multiplied
WIDTH = 8 * VECTOR_BYTES        # bytes of a tile there


def times_transposed(a: Array, b: Array) -> Array:
    """a @ b.T for contiguous a (M, K) and b (N, K); returns (M, N)

    >>> times_transposed(np.array([[1.0, 2.0]]), np.array([[3.0, 4.0], [5.0, 6.0]]))
    array([[11., 17.]])
    """
    c = empty((len(a), len(b)), a.dtype)
    dot_rows(a, b, c, max(1, RUN // b.shape[1]))
    return c


def row_times(a: Array, b: Array, parts: int) -> Array:
    """a @ b for contiguous a (K) and b (K, N), cut into parts over K; returns the parts (parts, N)

    >>> row_times(np.array([1.0, 2.0]), np.array([[3.0], [4.0]]), 1)
    array([[11.]])
    """
    c = empty((parts, b.shape[1]), a.dtype)
    mix_rows(a, b, np.zeros(COLUMNS, a.dtype), c)
    return c


def outer(a: Array, b: Array) -> Array:
    """a[:, None] * b for contiguous a (M) and b (N); returns (M, N)

    >>> outer(np.array([1.0, 2.0]), np.array([3.0, 4.0]))
    array([[3., 4.],
           [6., 8.]])
    """
    c = empty((len(a), len(b)), a.dtype)
    spread_rows(a, b, c, max(1, RUN // max(1, len(b))))
    return c


@kernel
def dot_rows(a, b, c, run):
    """A task is a run of b's rows."""
    for task in prange((len(b) + run - 1) // run):
        _dot_run(a, b, c, np.int64(task) * run, run)


@inner
def _dot_run(a, b, c, begin, run):
    for n in range(begin, min(len(b), begin + run)):
        row = b[n]
        for m in range(len(a)):
            factor, total = a[m], c.dtype.type(0)
            for k in range(len(row)):
                total += factor[k] * row[k]
            c[m, n] = total


@kernel
def mix_rows(a, b, zeros, parts):
    """parts[p, n] = the sum over the p-th part of b's rows; a task is COLUMNS columns of a part"""
    blocks = (b.shape[1] + COLUMNS - 1) // COLUMNS
    for task in prange(len(parts) * blocks):
        _mix_columns(a, b, zeros, parts, np.int64(task) // blocks, np.int64(task) % blocks * COLUMNS)


@inner
def _mix_columns(a, b, zeros, parts, p, begin):
    """A tile of one row: its order of summing is that of a tile of many, so that a row does not depend on others."""
    K, N = b.shape
    k, end = p * K // len(parts), (p + 1) * K // len(parts)
    width = WIDTH // a.itemsize
    for n in range(begin, min(N, begin + COLUMNS), width):
        tile(1, WIDTH, (a, k, STAY, STAY, STAY, STAY, NEXT), (flattened(b), k * N + n, STAY, STAY, N),
             (zeros, STAY, STAY, STAY), (flattened(parts), p * N + n, STAY, STAY),
             (ONE, ONE, end - k), (STAY, ONE, ONE), min(N, begin + COLUMNS) - n, NO_FLOOR, NEAR, None,
             (STAY, ONE))


@kernel
def spread_rows(a, b, c, run):
    """A task is a run of c's rows."""
    for task in prange((len(a) + run - 1) // run):
        _spread_run(a, b, c, np.int64(task) * run, run)


@inner
def _spread_run(a, b, c, begin, run):
    for m in range(begin, min(len(a), begin + run)):
        factor, row = a[m], c[m]
        for n in range(len(row)):
            row[n] = factor * b[n]
