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
    sums = np.zeros(columns, x.dtype)
    if x.size == 0:
        return sums
    x = np.ascontiguousarray(x).reshape(-1)
    gate = x[:0] if gate is None else gate.reshape(-1)
    gated = x if len(gate) else np.empty(0, x.dtype)  # x may be read-only, which numba wouldn't let through
    side_by_side = max(1, min(NARROW // columns, rows))
    wide_rows, width = rows // side_by_side, side_by_side * columns
    chunks = min(-(-wide_rows // CHUNK_ROWS), max(1, CHUNKS // -(-width // BLOCK)))
    sum_chunks(x, gate, gated, np.empty((chunks, width)), sums, numba.get_num_threads(), none_taken())
    return sums


@kernel
def sum_chunks(x, gate, gated, partial, sums, lanes, taken):
    """sums[c] = sum of x[r, c] over all rows r, several of which are laid side by side: as wide as partial's

    If there is a gate, `gated` is x itself, and becomes 0 where that is 0 or less; else both are empty.
    partial[p] = the sum over the rows of chunk p.
    """
    P, C = partial.shape
    R = len(x) // C
    blocks = (C + BLOCK - 1) // BLOCK
    for _ in prange(lanes):
        room = np.empty(BLOCK)  # not in partial: lanes that write into the same cache line wait for each other
        task = take(taken)
        while task < P * blocks:
            p, block = task // blocks, task % blocks
            start, stop = block * BLOCK, min(C, (block + 1) * BLOCK)
            total = room[: stop - start]
            total[:] = 0
            _add_rows(x, gate, gated, p * R // P * C + start, (p + 1) * R // P * C, C, total)
            partial[p, start:stop] = total
            task = take(taken)
    _fold(x, gate, gated, R * C, partial, sums)


@inner
def _add_rows(x, gate, gated, begin, end, step, total):
    """total += the numbers of x from `begin` on, and every `step` further up to `end`, once their gate is shut"""
    for first in range(begin, end, step):
        last = first + len(total)
        prefetch_ahead(x[first:last])
        if len(gate):
            prefetch_ahead(gate[first:last])
            shut(gated[first:last], gate[first:last])
        row = x[first:last]
        for c in range(len(total)):
            total[c] += row[c]


@inner
def _fold(x, gate, gated, rest, partial, sums):
    """Adds up the chunks' sums, and of these those of rows side by side. The rest are rows too few to lie so."""
    total, C = partial[0], len(sums)
    for p in range(1, len(partial)):
        for c in range(len(total)):
            total[c] += partial[p, c]
    for c in range(C, len(total)):
        total[c % C] += total[c]
    _add_rows(x, gate, gated, rest, len(x), C, total[:C])
    for c in range(C):
        sums[c] = total[c]


@inner
def shut(x, gate):
    """x = 0 where the gate is 0 or less; a NaN lets through"""
    zero = x.dtype.type(0)
    for i in range(len(x)):
        x[i] = zero if gate[i] <= 0 else x[i]
