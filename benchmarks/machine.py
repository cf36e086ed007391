"""The machine that is measured: what it is, the threads that both sides get, its two roofs.

No kernel multiplies and adds faster than a product of matrices that lie in the first cache, or reads and writes faster
than a loop that does nothing else. Both are measured, in the same run as what is held against them.
"""

import os
import platform
from pathlib import Path
from typing import NamedTuple

import llvmlite.binding as llvm
import numba
import numpy as np

from benchmarks.torch_side import set_torch_threads, torch
from tinynet.inspect.peak import best_time, measured_peak
from tinynet.kernels.jit import FLAGS

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


def measured_bandwidth(seconds=1.0):
    """Bytes a second that all cores together read from memory and write to it, at a = b + 3 c."""
    a, b, c = (np.ones(MEGABYTES << 18, np.float32) for _ in range(3))
    _triad(a, b, c)  # compiles
    best = best_time(lambda: _triad(a, b, c), seconds)
    return 3 * a.nbytes / best


# Not a tinynet kernel, whose cache on disk knows nothing of this file's edits: compiled anew in each run.
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
