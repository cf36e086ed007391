"""The sum over the rows of a matrix, in parallel, with the same bits for any number of threads.

    y[c] = sum_r x[r, c]

The gradient of whatever was broadcast, a bias above all. Rows are cut into chunks, wide matrices into blocks
of columns as well; how many is decided by the shape alone. Each chunk is summed row by row in float64, the
chunks' sums in their order.
"""

import numba
import numpy as np

from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array

CHUNKS = 64  # at most: enough to keep many cores busy
CHUNK_ROWS = 64  # at least: fewer are not worth a task
BLOCK = 1024  # columns of a task: 8 kB of float64 sums, which stay in the nearest cache
NARROW = 64  # columns; where there are fewer, several rows are laid side by side


def sum_rows(x: Array) -> Array:
    """Sum x of shape (R, C) over its rows: (C,), of x's dtype.

    >>> sum_rows(np.ones((5, 2), np.float32))
    array([5., 5.], dtype=float32)
    """
    rows, columns = x.shape
    if x.size == 0:
        return np.zeros(columns, x.dtype)
    x = np.ascontiguousarray(x)
    side_by_side = max(1, min(NARROW // columns, rows))
    whole = rows // side_by_side * side_by_side
    sums = (
        _chunked_sum(x[:whole].reshape(-1, side_by_side * columns)).reshape(side_by_side, columns).sum(axis=0)
    )
    if whole < rows:
        sums += x[whole:].sum(axis=0, dtype=np.float64)
    return sums.astype(x.dtype)


def _chunked_sum(x):
    """Sum over the rows in float64."""
    rows, columns = x.shape
    blocks = -(-columns // BLOCK)
    chunks = min(-(-rows // CHUNK_ROWS), max(1, CHUNKS // blocks))
    partial = np.empty((chunks, columns))
    sum_chunks(x, partial, numba.get_num_threads(), none_taken())
    return partial.sum(axis=0)


@kernel
def sum_chunks(x, partial, lanes, taken):
    """partial[p, c] = sum of x[r, c] over the rows r of chunk p."""
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
                row = x[r, start:stop]
                for c in range(stop - start):
                    sums[c] += row[c]
            partial[p, start:stop] = sums
            task = take(taken)
