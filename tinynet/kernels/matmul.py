"""Matrix products, in which every sum is cut into parts by the shapes alone: the same bits for any number of threads.

    C[i, j] = sum over k of A[i, k] * B[k, j]            A (M, K), B (K, N), C (M, N)

The register tile (tile.py) walks over A by any steps, so a transposed A costs nothing. It needs B's columns side by side, so a
transposed B is the other case: then C.T = B.T @ A.T, in which B.T is the one that may be transposed, and only A, or B if
that is smaller, has to be copied.
"""
import math

import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.tile import STAY, block

# A task computes ROWS x COLUMNS of C from DEPTH of K at a time: so much of B (128 KB in float32) stays in the second cache.
ROWS, COLUMNS, DEPTH = 64, 128, 256
TASKS = 16                      # wanted at least: where C is too small for so many, K is cut as well


def matmul(a, b):
    """a @ b for a (..., M, K) and b (..., K, N) with the same leading axes, which may be none; returns (..., M, N).

    Transposed views (x.T, or x.swapaxes(-1, -2)) are taken as they are. A sum over nothing (K = 0) is 0.

    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    leading, (M, K), N = a.shape[:-2], a.shape[-2:], b.shape[-1]
    batch = math.prod(leading)
    return _product(a.reshape(batch, M, K), b.reshape(batch, K, N)).reshape(*leading, M, N)


def transpose(a):
    """(B, M, N) to (B, N, M), contiguous."""
    a = np.ascontiguousarray(a)
    b = np.empty((a.shape[0], a.shape[2], a.shape[1]), a.dtype)
    _transpose(a, b)
    return b


def sum_parts(parts):
    """parts[0] + parts[1] + ..., in this order."""
    total = np.empty(parts.shape[1:], parts.dtype)
    _sum_parts(parts.reshape(len(parts), -1), total.reshape(-1))
    return total


def _product(a, b):
    """matmul for three axes"""
    (batch, M, K), N = a.shape, b.shape[2]
    a_flat, a_row, a_k = _steps(a)
    b_flat, b_k, b_column = _steps(b)
    if b_column != 1:
        if M < N:
            return transpose(_product(b.swapaxes(1, 2), transpose(a)))
        b_flat, b_k = transpose(b.swapaxes(1, 2)).reshape(-1), N
    tasks = batch * -(-M // ROWS) * -(-N // COLUMNS)
    parts = max(1, min(-(-TASKS // max(tasks, 1)), K // DEPTH))
    c = np.empty((parts, batch, M, N), a.dtype)
    _products(a_flat, a_row, a_k, b_flat, b_k, np.zeros(N, a.dtype), c, K)
    return c[0] if parts == 1 else sum_parts(c)


def _steps(a):
    """(flat array, step of the rows, step of the columns); copies what is neither contiguous nor transposed"""
    _, M, N = a.shape
    if a.swapaxes(1, 2).flags.c_contiguous and not a.flags.c_contiguous:
        return a.swapaxes(1, 2).reshape(-1), 1, M
    return np.ascontiguousarray(a).reshape(-1), N, 1


@kernel
def _products(a, a_row, a_k, b, b_k, zeros, c, K):
    """c[p] = a @ b over the p-th part of K"""
    parts, batch, M, N = c.shape
    for task in prange(parts * batch * ((M + ROWS - 1) // ROWS) * ((N + COLUMNS - 1) // COLUMNS)):
        _task(np.int64(task), a, a_row, a_k, b, b_k, zeros, c, K)


@inner
def _task(task, a, a_row, a_k, b, b_k, zeros, c, K):
    """One part of K, one matrix, one block of its rows and columns."""
    parts, batch, M, N = c.shape
    down, across = (M + ROWS - 1) // ROWS, (N + COLUMNS - 1) // COLUMNS
    matrix, i, j = task // (down * across), task // across % down * ROWS, task % across * COLUMNS
    part, m = matrix // batch, matrix % batch
    rows, columns = (1, min(ROWS, M - i)), min(COLUMNS, N - j)
    target = (c.reshape(-1), (matrix * M + i) * N + j, STAY, N)
    start = (zeros, STAY, STAY, STAY)
    k, end = part * K // parts, (part + 1) * K // parts
    while True:
        count = min(DEPTH, end - k)
        block((a, m * M * K + i * a_row + k * a_k, STAY, a_row, STAY, STAY, a_k),
              (b, m * K * N + k * b_k + j, STAY, STAY, b_k), start, target, (1, 1, count), rows, columns)
        start, k = target, k + count
        if k >= end:
            break


@kernel
def _transpose(a, b):
    batch, M, N = a.shape
    down, across = (M + 31) // 32, (N + 31) // 32
    for task in prange(batch * down * across):
        m, i, j = task // (down * across), task // across % down * 32, task % across * 32
        for q in range(j, min(N, j + 32)):
            for p in range(i, min(M, i + 32)):
                b[m, q, p] = a[m, p, q]


@kernel
def _sum_parts(parts, total):
    run = 1024
    for task in prange((len(total) + run - 1) // run):
        sums = total[task * run:(task + 1) * run]
        for i in range(len(sums)):
            sums[i] = 0
        for p in range(len(parts)):
            part = parts[p, task * run:(task + 1) * run]
            for i in range(len(sums)):
                sums[i] += part[i]
