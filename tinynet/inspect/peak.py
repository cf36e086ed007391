"""The most that a machine multiplies and adds: a product of matrices that the first cache holds, again and again."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable

import numba
import numpy as np

from tinynet.kernels.jit import FLAGS
from tinynet.kernels.memory import empty
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.product import multiply
from tinynet.kernels.tile import NEXT, NO_FLOOR, STAY, WIDE, WIDE_ROWS

ROWS, COLUMNS = 4 * WIDE_ROWS, WIDE // 4  # a few register tiles: setting out is then next to nothing
PANEL = panel_columns(4)
DEPTH = 96  # products in each sum: A and B together are 15 to 34 KB, which the first cache holds
REPEATS = 1000  # in each run: a millisecond or so, for the system may interrupt longer ones every time


@functools.cache
def peak_of_this_machine(threads: int) -> float:
    """GFLOP/s with that many threads, measured once in a process; 0 where kernels are plain Python."""
    return 0.0 if numba.config.DISABLE_JIT else measured_peak(threads, seconds=0.3) / 1e9


def measured_peak(threads: int, seconds: float = 1.0) -> float:
    """Operations a second in float32, two for each multiply-add, of kernels/product.py alone on every core.

    The best of many short runs: a peak is what can be reached.
    """
    rng = np.random.default_rng(0)
    a, b, sums = (empty((size,), np.float32) for size in (ROWS * DEPTH, COLUMNS * DEPTH, threads * ROWS * COLUMNS))
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


# Not a tinynet kernel, whose cache on disk knows nothing of this file's edits: compiled anew in each run.
@numba.njit(parallel=True, **FLAGS)
def _multiply_add(a, b, sums, repeats):
    """sums[thread] += repeats * (A @ B), A of ROWS x DEPTH, B of DEPTH x COLUMNS, in panels"""
    for thread in numba.prange(len(sums)):
        c = (sums[thread], STAY, np.int64(COLUMNS))
        for _ in range(repeats):
            multiply("whole", (a, STAY, np.int64(DEPTH), NEXT), (b, STAY, np.int64(DEPTH * PANEL), np.int64(PANEL)),
                     c, c, (np.int64(ROWS), np.int64(COLUMNS), np.int64(DEPTH)), NO_FLOOR, None, None)
