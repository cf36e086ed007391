"""The sum over the rows of a matrix, in parallel, with the same bits for any number of threads.

    y[c] = sum_r x[r, c]

The gradient of whatever was broadcast, a bias above all. Rows are cut into chunks, wide matrices into blocks
of columns as well; how many is decided by the shape alone. Each chunk is summed row by row in float64, the
chunks' sums in their order.

A ReLU behind the bias lets through only a part of the gradient. To shut its gate takes a journey through all of it;
the sum takes no time if it comes along.
"""

import numba
import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.prefetch import prefetch_ahead
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array

CHUNKS = 64  # at most: enough to keep many cores busy
CHUNK_ROWS = 64  # at least: fewer are not worth a task
BLOCK = 1024  # columns of a task: 8 kB of float64 sums, which stay in the nearest cache
NARROW = 64  # columns; where there are fewer, several rows are laid side by side


def sum_rows(x: Array, gate: Array | None = None) -> Array:
    """Sum x of shape (R, C) over its rows: (C,), of x's dtype.

    gate: of the same shape. Where it is 0 or less, x is set to 0 first; both are contiguous then.

    >>> x = np.ones((5, 2), np.float32)
    >>> sum_rows(x), sum_rows(x, gate=np.eye(5, 2, dtype=np.float32))
    (array([5., 5.], dtype=float32), array([1., 1.], dtype=float32))
    >>> x[:2]
    array([[1., 0.],
           [0., 1.]], dtype=float32)
    """
    rows, columns = x.shape
    if x.size == 0:
        return np.zeros(columns, x.dtype)
    x = np.ascontiguousarray(x)
    gate = x[:0] if gate is None else gate
    side_by_side = max(1, min(NARROW // columns, rows))
    whole = rows // side_by_side * side_by_side
    wide = -1, side_by_side * columns
    sums = _chunked_sum(x[:whole].reshape(wide), gate[:whole].reshape(wide)).reshape(side_by_side, columns).sum(axis=0)
    if whole < rows:
        sums += _chunked_sum(x[whole:], gate[whole:])
    return sums.astype(x.dtype)


def _chunked_sum(x, gate):
    """Sum over the rows in float64."""
    rows, columns = x.shape
    blocks = -(-columns // BLOCK)
    chunks = min(-(-rows // CHUNK_ROWS), max(1, CHUNKS // blocks))
    partial = np.empty((chunks, columns))
    gated = x if len(gate) else np.empty((0, columns), x.dtype)  # x may be read-only, which numba wouldn't let through
    sum_chunks(x, gate, gated, partial, numba.get_num_threads(), none_taken())
    return partial.sum(axis=0)


@kernel
def sum_chunks(x, gate, gated, partial, lanes, taken):
    """partial[p, c] = sum of x[r, c] over the rows r of chunk p.

    If there is a gate, `gated` is x itself, and becomes 0 where that is 0 or less; else they have no rows.
    """
    R, C = x.shape
    P = len(partial)
    blocks = (C + BLOCK - 1) // BLOCK
    for _ in prange(lanes):
        room = np.empty(BLOCK)  # not in partial: lanes that write into the same cache line wait for each other
        task = take(taken)
        while task < P * blocks:
            p, block = task // blocks, task % blocks
            start, stop = block * BLOCK, min(C, (block + 1) * BLOCK)
            sums = room[: stop - start]
            sums[:] = 0
            for r in range(p * R // P, (p + 1) * R // P):
                prefetch_ahead(x[r, start:stop])
                if len(gate):
                    prefetch_ahead(gate[r, start:stop])
                    shut(gated[r, start:stop], gate[r, start:stop])
                row = x[r, start:stop]
                for c in range(stop - start):
                    sums[c] += row[c]
            partial[p, start:stop] = sums
            task = take(taken)


@inner
def shut(x, gate):
    """x = 0 where the gate is 0 or less; a NaN lets through"""
    zero = x.dtype.type(0)
    for i in range(len(x)):
        x[i] = zero if gate[i] <= 0 else x[i]
