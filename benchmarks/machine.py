"""The machine that is measured: what it is, the threads that both sides get, its two roofs.

No kernel multiplies and adds faster than the register tile does alone, or reads and writes faster than a
loop that does nothing else. Both are measured, in the same run as what is held against them.
"""

import os
import platform
import time
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np

from benchmarks.torch_side import set_torch_threads, torch
from tinynet.kernels.jit import FLAGS
from tinynet.kernels.tile import ROWS, VECTOR_BYTES, VECTORS, block

COLUMNS = VECTORS * VECTOR_BYTES // 4  # of the register tile in float32
DEPTH = 192  # products in each sum: A and B together are some 30 KB, which the first cache holds


MEGABYTES = 128  # of each array that the bandwidth is measured with: far more than caches hold


class Machine(NamedTuple):
    """What the parts hold their figures against."""

    threads: int  # of each side
    peak: float  # operations a second, two for each multiply-add
    bandwidth: float  # bytes a second


def measured_machine():
    """Sets the threads, too."""
    threads = set_threads()
    return Machine(threads, measured_peak(threads), measured_bandwidth())


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
    best = _best_time(lambda: _multiply_add(a, b, sums, repeats), seconds)
    return 2 * threads * repeats * ROWS * COLUMNS * DEPTH / best


def measured_bandwidth(seconds=1.0):
    """Bytes a second that all cores together read from memory and write to it, at a = b + 3 c."""
    a, b, c = (np.ones(MEGABYTES << 18, np.float32) for _ in range(3))
    _triad(a, b, c)  # compiles
    best = _best_time(lambda: _triad(a, b, c), seconds)
    return 3 * a.nbytes / best


def _best_time(call, seconds):
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
            block((a, 0, 0, DEPTH, 0, 0, 1), (b, 0, 0, 0, COLUMNS), c, c, (1, 1, DEPTH), (1, ROWS), COLUMNS)


@numba.njit(parallel=True, **FLAGS)
def _triad(a, b, c):
    for i in numba.prange(len(a)):
        a[i] = b[i] + 3 * c[i]


def has_bfloat16():
    """Has the processor instructions for products of bfloat16?"""
    features = llvm.get_host_cpu_features()
    return any(features.get(name) for name in ("avx512bf16", "amx-bf16", "bf16"))


def description(threads, peak, bandwidth=None):
    """One line about the machine and the versions; no names of hosts or folders."""
    memory = f"; memory {bandwidth / 1e9:.0f} GB/s (measured)" if bandwidth else ""
    versions = f"NumPy {np.__version__}, numba {numba.__version__}, PyTorch {torch.__version__}"
    return (
        f"{_processor()} ({llvm.get_host_cpu_name()}), {os.cpu_count()} cores; "
        f"{threads} threads a side (numba's: {numba.threading_layer()}); "
        f"multiply-add peak {peak / 1e9:.0f} GFLOP/s (measured, float32){memory}; "
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
