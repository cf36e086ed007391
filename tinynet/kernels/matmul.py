"""Matrix products whose sums are cut into parts by K and N alone: the same bits for any number of threads and rows.

    C[i, j] = sum over k of A[i, k] * B[k, j]            A (M, K), B (K, N), C (M, N)

(The rows are the images of a batch: what an image gives must not depend on the others.)

The nest of loops (product.py) walks over A in any steps. A transposed A it reads in steps of whole rows, so that what
a task needs of it meets in a few sets of the caches; where there are many columns to use it for, the task first copies
it into one piece (dense layers' weight gradients: a fifth less time). It wants B's columns side by side, best in
panels. Of a transposed B panels are made, or C.T = B.T @ A.T is computed, where A has to be copied, and C to be
turned: whichever moves less. A B with its columns side by side is read as it is if it is small, or by few rows of A;
for many, panels are made of it, too.

So are convolutions of 1x1 computed, whose pixels are the rows: `affine`.

Where one factor is a mere vector, the tile has nothing to keep: vectors.py.
"""
import math

import numba
import numpy as np

from tinynet.kernels import vectors
from tinynet.kernels.emit import VECTOR_BYTES, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, zeros
from tinynet.kernels.product import multiply as times
from tinynet.kernels.product import panel_columns
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.tile import NEAR, ONE, STAY, VECTORS, least
from tinynet.kernels.turning import turn, turned
from tinynet.kernels.window import copy
from tinynet.typing import Array, DType

# A task is ROWS x COLUMNS of C and goes over K by DEPTH: so much of B (128 KB in float32) stays in the second
# cache. ROWS are whole tiles, of 6 or of 8; short rows are so many times more that a task has RUN numbers of A.
# Of a turned A with a long K, the pixels of a 1x1's weight gradient, a task takes all rows and columns, if C has no
# more than MOST_SUMS: so A and B, which may come from memory, are read once (128 to 256, 64 pixels: 1.3 times as fast).
ROWS, COLUMNS, DEPTH = 96, 128, 256
MOST_SUMS = 2 ** 16
RUN = 2 ** 15
MANY_ROWS = 128                 # of A, for which it is worth the copy to make panels of B
LEAST_IN_PANELS = 2 ** 13       # numbers of a B that lies well already: so few stay in the first cache as they lie
MOST_IN_PANELS = 2 ** 18        # and more would take too long to copy
MANY_COLUMNS = 64               # of C, for which a task's part of a transposed A is worth the copy
TASKS = 4                       # wanted at least: where a row of C is too short for so many, K is cut into parts
PART, MOST_PARTS = 2 ** 11, 16  # a K of 2 PART or more is long: it may be cut into parts of no fewer than PART


def matmul(a: Array, b: Array) -> Array:
    """a @ b for a (..., M, K) and b (..., K, N) with the same leading axes, or none; returns (..., M, N).

    Transposed views (x.T, x.swapaxes(-1, -2)) are taken as they are. A sum over nothing (K = 0) is 0.

    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    leading, (M, K), N = a.shape[:-2], a.shape[-2:], b.shape[-1]
    batch = math.prod(leading)
    return _product(a.reshape(batch, M, K), b.reshape(batch, K, N)).reshape(*leading, M, N)


def sum_parts(parts: Array) -> Array:
    """parts[0] + parts[1] + ..., in this order."""
    total = empty(parts.shape[1:], parts.dtype)
    add_parts(parts.reshape(len(parts), -1), total.reshape(-1))
    return total


def _product(a, b):
    """matmul for three axes"""
    (batch, _, K), N = a.shape, b.shape[2]
    parts = max(1, min(-(-TASKS * COLUMNS // max(1, N)), TASKS, K // DEPTH), min(MOST_PARTS, K // PART))
    if batch == 1 and K > 0:
        c = _product_with_vector(a[0], b[0], parts)
        if c is not None:
            return c[None]
    return _in_parts(a, b, parts)


def _product_with_vector(a, b, parts):
    """a @ b where one of them has so few rows or columns that it is a case for vectors.py, else None"""
    (M, K), N = a.shape, b.shape[1]
    if K == 1:
        return vectors.outer(a.reshape(-1), b.reshape(-1))
    if N == 1 and a.flags.c_contiguous:
        return vectors.times_transposed(b.reshape(1, K), a).reshape(M, 1)
    if N == 1 and a.T.flags.c_contiguous:
        return _sum(vectors.row_times(b.reshape(-1), a.T, parts)).reshape(M, 1)
    if M <= vectors.FEW and b.T.flags.c_contiguous and not b.flags.c_contiguous:
        return vectors.times_transposed(np.ascontiguousarray(a), b.T)
    if M == 1 and b.flags.c_contiguous:
        return _sum(vectors.row_times(a.reshape(-1), b, parts))[None]
    return None


def fills_vectors(columns: int, dtype: DType) -> bool:
    """Can rows of so many columns be read as they are: whole vectors, or half a one?"""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    return columns % lanes == 0 or columns == lanes // 2


def affine(a: Array, b: Array, bias: Array | None, relu: bool) -> Array:
    """a @ b + bias, or max(a @ b + bias, 0), for a (M, K), contiguous, b (K, N) and bias (N) or None, with K > 0

    The sums over K are not cut, so that a row's bits don't depend on what other rows there are.

    >>> affine(np.array([[1.0, 2.0]]), np.array([[3.0], [-4.0]]), np.array([1.0]), True)
    array([[0.]])
    """
    c = empty((1, 1, len(a), b.shape[1]), a.dtype)
    bias = np.zeros(b.shape[1], a.dtype) if bias is None else np.ascontiguousarray(bias)
    far = ONE, ONE if is_streamed(a, c) else STAY
    _multiply(a[None], b[None], bias, c, least(relu, a.dtype), far)
    return c[0, 0]


def _in_parts(a, b, parts):
    """a @ b by tiles"""
    (batch, M, K), N = a.shape, b.shape[2]
    if b.strides[2] != b.itemsize and M * (K + N) < K * N:
        return turned(_in_parts(b.swapaxes(1, 2), turned(a), parts))
    if not K or not batch * M * N:
        return zeros((batch, M, N), a.dtype)
    c = empty((parts, batch, M, N), a.dtype)
    _multiply(a, b, np.zeros(N, a.dtype), c, least(False, a.dtype), NEAR)
    return _sum(c)


def _multiply(a, b, start, c, floor, far):
    """c[p] = max(start + a @ b over the p-th part of K, floor)"""
    (M, K), N, panel = a.shape[1:], b.shape[2], panel_columns(b.itemsize)
    is_turned = b.swapaxes(1, 2).flags.c_contiguous and not b.flags.c_contiguous
    pays = M >= MANY_ROWS and LEAST_IN_PANELS < K * N <= MOST_IN_PANELS
    if is_turned or not fills_vectors(N, b.dtype) or pays:
        b = _panels(b, is_turned)
        steps = b.strides[0], b.strides[1], b.strides[2]
    else:
        b = np.ascontiguousarray(b)
        steps = b.strides[0], panel * b.itemsize, b.strides[1]
    a_flat, a_row, a_k = _flat(a)
    block = ROWS * max(1, min(RUN // (ROWS * K), M // (ROWS * TASKS))), COLUMNS
    if a_row == 1 and K >= 2 * PART and M * N <= MOST_SUMS:
        block = M, N
    multiply(a_flat, a_row, a_k, b.reshape(-1), tuple(step // b.itemsize for step in steps), start, c, K, floor, far,
             block, numba.get_num_threads(), none_taken())


def _sum(parts):
    return parts[0] if len(parts) == 1 else sum_parts(parts)


def _panels(b, is_turned):
    """b (batch, K, N) as (batch, panels, K, columns of a panel), the last panel with columns of zeros to spare

    Tiles multiply them, too, and what memory held before may be numbers below 1e-38, for each of which some processors
    take 100 times as long.
    """
    batch, K, N = b.shape
    width = panel_columns(b.itemsize)
    panels = empty((batch, -(-N // width), K, width), b.dtype)
    panels[:, N // width:, :, N % width:] = 0
    if is_turned:
        turn(b.swapaxes(1, 2), panels)
    else:
        cut(np.ascontiguousarray(b), panels)
    return panels


def _flat(a):
    """(flat array, step of the rows, step of the columns); copies if `a` is neither contiguous nor turned"""
    _, M, N = a.shape
    if a.swapaxes(1, 2).flags.c_contiguous and not a.flags.c_contiguous:
        return a.swapaxes(1, 2).reshape(-1), 1, M
    return np.ascontiguousarray(a).reshape(-1), N, 1


@kernel
def multiply(a, a_row, a_k, b, b_steps, start, c, K, floor, far, block, lanes, taken):
    """c[p] = max(start + a @ b over the p-th part of K, floor)"""
    parts, batch, M, N = c.shape
    rows, columns = block
    tasks = parts * batch * ((M + rows - 1) // rows) * ((N + columns - 1) // columns)
    copies = a_row == 1 and N >= MANY_COLUMNS
    for _ in prange(lanes):
        piece = np.empty(rows * min(K, DEPTH) if copies else 0, a.dtype)
        task = take(taken)
        while task < tasks:
            _multiply_block(task, a, a_row, a_k, b, b_steps, start, c, K, floor, far, block, piece)
            task = take(taken)
        arrived()


@inner
def _multiply_block(task, a, a_row, a_k, b, b_steps, start, c, K, floor, far, block, piece):
    """Some rows and columns of a product, over one part of K."""
    parts, batch, M, N = c.shape
    rows, columns = block
    down, across = (M + rows - 1) // rows, (N + columns - 1) // columns
    b_matrix, b_panel, b_k = b_steps
    matrix, i, j = task // (down * across), task // across % down * rows, task % across * columns
    part, m = matrix // batch, matrix % batch
    k, end = part * K // parts, (part + 1) * K // parts
    target = flattened(c), (matrix * M + i) * N + j, N
    begin = start, j, STAY
    panel = j // (VECTORS * (VECTOR_BYTES // a.itemsize))
    while True:
        count = min(DEPTH, end - k)
        is_last = k + count >= end
        a_part = a, m * M * K + i * a_row + k * a_k, a_row, a_k
        if piece.size:
            a_part = _in_one_piece(a_part, min(rows, M - i), count, piece)
        b_part = b, m * b_matrix + panel * b_panel + k * b_k, b_panel, b_k
        size, lowest = (min(rows, M - i), min(columns, N - j), count), floor if is_last else a.dtype.type(-np.inf)
        where = far[0], far[1] if is_last else STAY
        if N <= VECTOR_BYTES // 2 // a.itemsize:
            times("few", a_part, b_part, begin, target, size, lowest, where)
        else:
            times("any", a_part, b_part, begin, target, size, lowest, where)
        begin, k = target, k + count
        if is_last:
            break


@inner
def _in_one_piece(a_part, rows, depth, piece):
    """Some rows and some k of a transposed A, copied"""
    a, first, a_row, a_k = a_part
    for k in range(depth):
        copy(a[first + k * a_k:first + k * a_k + rows], piece[k * rows:(k + 1) * rows])
    return piece, STAY, a_row, rows


@kernel
def cut(b, panels):
    """panels[m, p, k, :] = b[m, k, p W:(p + 1) W]"""
    batch, K, N = b.shape
    _, count, _, W = panels.shape
    for task in prange(batch * count):
        _cut_panel(b[task // count], np.int64(task) % count * W, panels[task // count, task % count])


@inner
def _cut_panel(b, begin, panel):
    end = min(b.shape[1], begin + panel.shape[1])
    for k in range(len(b)):
        copy(b[k, begin:end], panel[k, :end - begin])


@kernel
def add_parts(parts, total):
    """total = parts[0] + parts[1] + ..., by runs of elements"""
    run = 1024
    for task in prange((len(total) + run - 1) // run):
        sums = total[task * run:(task + 1) * run]
        for i in range(len(sums)):
            sums[i] = 0
        for p in range(len(parts)):
            part = parts[p, task * run:(task + 1) * run]
            for i in range(len(sums)):
                sums[i] += part[i]
