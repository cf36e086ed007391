"""Matrix products whose sums are cut into parts by K and N alone: the same bits for any number of threads and rows.

    C[i, j] = sum over k of A[i, k] * B[k, j]            A (M, K), B (K, N), C (M, N)

(The rows are the images of a batch: what an image gives must not depend on the others.)

The register tile (tile.py) walks over A in any steps, so a transposed A costs nothing. It needs B's columns
side by side, so a transposed B is the other case. Then either B is copied, or C.T = B.T @ A.T is computed,
where A has to be copied, and C to be turned: whichever moves less.

B's copy lies in *panels*, the columns of a task in one piece. In B itself a task reads short runs that are a whole
row apart; where a row is a power of two long, such runs share a few places of the cache and drive each other out.

Where one factor is a mere vector, the tile has nothing to keep: vectors.py.
"""
import math

import numpy as np

from tinynet.kernels import vectors
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import aligned, empty
from tinynet.kernels.tile import NEAR, NO_FLOOR, ONE, STAY, block
from tinynet.typing import Array

# A task is ROWS x COLUMNS of C and goes over K by DEPTH: so much of B (128 KB in float32) stays in the second
# cache.
ROWS, COLUMNS, DEPTH = 64, 128, 256
TASKS = 8                       # wanted at least: where a row of C is too short for so many, K is cut into parts
SQUARE = 16                     # is turned at once: as many cache lines are read, and as many written
LARGE = 2 ** 15                 # numbers of a matrix; smaller ones NumPy turns as fast


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


def turned(a: Array) -> Array:
    """a (..., M, N) as (..., N, M), contiguous, from the beginning of a cache line.

    >>> turned(np.array([[1.0, 2.0]]))
    array([[1.],
           [2.]])
    """
    *leading, M, N = a.shape
    if M * N < LARGE or a.swapaxes(-1, -2).flags.c_contiguous:
        return aligned(a.swapaxes(-1, -2))
    result = empty((math.prod(leading), 1, N, M), a.dtype)
    turn(np.ascontiguousarray(a).reshape(-1, M, N), result)
    return result.reshape(*leading, N, M)


def _product(a, b):
    """matmul for three axes"""
    (batch, _, K), N = a.shape, b.shape[2]
    parts = max(1, min(-(-TASKS * COLUMNS // max(1, N)), TASKS, K // DEPTH))
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


def _in_parts(a, b, parts):
    """a @ b on the tile"""
    (batch, M, K), N = a.shape, b.shape[2]
    b_flat, b_k, b_column = _flat(b)
    b_steps = K * N, COLUMNS, b_k                                    # from matrix to matrix, panel to panel, k to k
    if b_column != 1:
        if M * (K + N) < K * N:
            return turned(_in_parts(b.swapaxes(1, 2), turned(a), parts))
        panels = _panels(b.swapaxes(1, 2))
        b_flat, b_steps = panels.reshape(-1), [math.prod(panels.shape[axis:]) for axis in (1, 2, 3)]
    a_flat, a_row, a_k = _flat(a)
    c = empty((parts, batch, M, N), a.dtype)
    multiply(a_flat, a_row, a_k, b_flat, tuple(b_steps), np.zeros(N, a.dtype), c, K)
    return _sum(c)


def _sum(parts):
    return parts[0] if len(parts) == 1 else sum_parts(parts)


def _panels(b):
    """b (batch, N, K) turned: (batch, panels, K, columns of a panel), the last panel with columns to spare"""
    batch, N, K = b.shape
    panels = empty((batch, -(-N // COLUMNS), K, min(N, COLUMNS)), b.dtype)
    turn(b, panels)
    return panels


def _flat(a):
    """(flat array, step of the rows, step of the columns); copies if `a` is neither contiguous nor turned"""
    _, M, N = a.shape
    if a.swapaxes(1, 2).flags.c_contiguous and not a.flags.c_contiguous:
        return a.swapaxes(1, 2).reshape(-1), 1, M
    return np.ascontiguousarray(a).reshape(-1), N, 1


@kernel
def multiply(a, a_row, a_k, b, b_steps, zeros, c, K):
    """c[p] = a @ b over the p-th part of K"""
    parts, batch, M, N = c.shape
    for task in prange(parts * batch * ((M + ROWS - 1) // ROWS) * ((N + COLUMNS - 1) // COLUMNS)):
        _multiply_block(np.int64(task), a, a_row, a_k, b, b_steps, zeros, c, K)


@inner
def _multiply_block(task, a, a_row, a_k, b, b_steps, zeros, c, K):
    """Some rows and columns of a product, over one part of K."""
    parts, batch, M, N = c.shape
    down, across = (M + ROWS - 1) // ROWS, (N + COLUMNS - 1) // COLUMNS
    b_matrix, b_panel, b_k = b_steps
    matrix, i, j = task // (down * across), task // across % down * ROWS, task % across * COLUMNS
    part, m = matrix // batch, matrix % batch
    k, end = part * K // parts, (part + 1) * K // parts
    target = (c.reshape(-1), (matrix * M + i) * N + j, STAY, N)
    start = (zeros, STAY, STAY, STAY)
    while True:
        count = min(DEPTH, end - k)
        block((a, m * M * K + i * a_row + k * a_k, STAY, a_row, STAY, STAY, a_k),
              (b, m * b_matrix + j // COLUMNS * b_panel + k * b_k, STAY, STAY, b_k),
              start, target, (ONE, ONE, count), (ONE, min(ROWS, M - i)), min(COLUMNS, N - j), NO_FLOOR, NEAR)
        start, k = target, k + count
        if k >= end:
            break


@kernel
def turn(a, turned):
    """turned[m, i // W, j, i % W] = a[m, i, j], by squares, so that no cache line is fetched for one number alone"""
    batch, M, N = a.shape
    W = turned.shape[3]
    down, across = (M + SQUARE - 1) // SQUARE, (N + SQUARE - 1) // SQUARE
    for task in prange(batch * down * across):
        m, i, j = task // (down * across), task // across % down * SQUARE, task % across * SQUARE
        panel, left = turned[m, i // W], i // W * W
        for column in range(j, min(N, j + SQUARE)):
            for row in range(i, min(M, i + SQUARE)):
                panel[column, row - left] = a[m, row, column]


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
