"""The most that a machine multiplies and adds: the register tile alone, on operands that the first cache holds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numba
import numpy as np

from tinynet.kernels.emit import VECTOR_BYTES
from tinynet.kernels.jit import FLAGS
from tinynet.kernels.tile import NEAR, NO_FLOOR, ROWS, VECTORS, block

COLUMNS = VECTORS * VECTOR_BYTES // 4  # of the register tile in float32
DEPTH = 192  # products in each sum: A and B together are some 30 KB, which the first cache holds
REPEATS = 2000  # in each run: a millisecond or so, for the system may interrupt longer ones every time


@functools.cache
def peak_of_this_machine(threads: int) -> float:
    """GFLOP/s with that many threads, measured once in a process; 0 where kernels are plain Python."""
    return 0.0 if numba.config.DISABLE_JIT else measured_peak(threads, seconds=0.3) / 1e9


def measured_peak(threads: int, seconds: float = 1.0) -> float:
    """Operations a second in float32, two for each multiply-add, of the register tile alone on every core.

    The best of many short runs: a peak is what can be reached.
    """
    rng = np.random.default_rng(0)
    a, b, sums = (_aligned(size) for size in (ROWS * DEPTH, COLUMNS * DEPTH, threads * ROWS * COLUMNS))
    a[:], b[:], sums[:] = rng.standard_normal(a.size), rng.standard_normal(b.size), 0
    sums = sums.reshape(threads, -1)
    _multiply_add(a, b, sums, REPEATS)  # compiles
    best = best_time(lambda: _multiply_add(a, b, sums, REPEATS), seconds)
    return 2 * threads * REPEATS * ROWS * COLUMNS * DEPTH / best


def best_time(call: Callable[[], object], seconds: float) -> float:
    """The shortest time that a call takes, of as many as fit into that many seconds."""
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        call()
        best = min(best, time.perf_counter() - start)
    return best


def _aligned(size):
    """An array whose vectors don't straddle two lines of the cache: a load of one that does counts as two."""
    array = np.empty(size + VECTOR_BYTES // 4, np.float32)
    return array[-array.ctypes.data % VECTOR_BYTES // 4 :][:size]


# Not a tinynet kernel, whose cache on disk knows nothing of this file's edits: compiled anew in each run.
@numba.njit(parallel=True, **FLAGS)
def _multiply_add(a, b, sums, repeats):
    """sums[thread] += repeats * (A @ B), A of ROWS x DEPTH, B of DEPTH x COLUMNS"""
    for thread in numba.prange(len(sums)):
        c = (sums[thread], 0, 0, COLUMNS)
        for _ in range(repeats):
            block((a, 0, 0, DEPTH, 0, 0, 1), (b, 0, 0, 0, COLUMNS), c, c, (1, 1, DEPTH), (1, ROWS), COLUMNS, NO_FLOOR,
                  NEAR)
