"""The machine that is measured: what it is, the threads that both sides get, its multiply-add peak."""

import os
import platform
import time
from pathlib import Path

import llvmlite.binding as llvm
import numba
import numpy as np

from benchmarks.torch_side import set_torch_threads, torch
from tinynet.kernels.jit import FLAGS
from tinynet.kernels.tile import ROWS, VECTOR_BYTES, VECTORS, block

COLUMNS = VECTORS * VECTOR_BYTES // 4  # of the register tile in float32
DEPTH = 192  # products in each sum: A and B together are some 30 KB, which the first cache holds


def set_threads():
    """Give both sides as many threads as numba takes by default, a core each; returns how many."""
    threads = numba.config.NUMBA_NUM_THREADS
    numba.set_num_threads(threads)
    set_torch_threads(threads)
    return threads


def measured_peak(threads, seconds=1.0):
    """Operations a second, two for each multiply-add, of the register tile alone on every core.

    Its operands stay in the first cache. The best of many short runs: a peak is what can be reached.
    """
    rng = np.random.default_rng(0)
    a, b, sums = (_aligned(size) for size in (ROWS * DEPTH, COLUMNS * DEPTH, threads * ROWS * COLUMNS))
    a[:], b[:], sums[:] = rng.standard_normal(a.size), rng.standard_normal(b.size), 0
    sums = sums.reshape(threads, -1)
    repeats = 2000
    _multiply_add(a, b, sums, repeats)  # compiles
    best, end = float("inf"), time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        _multiply_add(a, b, sums, repeats)
        best = min(best, time.perf_counter() - start)
    return 2 * threads * repeats * ROWS * COLUMNS * DEPTH / best


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
            block((a, 0, 0, DEPTH, 0, 0, 1), (b, 0, 0, 0, COLUMNS), c, c, (1, 1, DEPTH), (1, ROWS), COLUMNS)


def description(threads, peak):
    """One line about the machine and the versions; no names of hosts or folders."""
    versions = f"NumPy {np.__version__}, numba {numba.__version__}, PyTorch {torch.__version__}"
    return (
        f"{_processor()} ({llvm.get_host_cpu_name()}), {os.cpu_count()} cores; "
        f"{threads} threads a side (numba's: {numba.threading_layer()}); "
        f"multiply-add peak {peak / 1e9:.0f} GFLOP/s (measured, float32); "
        f"{platform.system()}, Python {platform.python_version()}, {versions}."
    )


def _processor():
    """The processor's name, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
