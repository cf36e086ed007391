"""The kernels as they are compiled for another processor, whose registers are smaller.

A tile that does fewer rows than it was asked for once dropped the others, which only showed there.
"""

import os
import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from tests.kernels import test_matmul
from tests.kernels.test_convolution import ONE, Case
from tinynet.kernels import jit, tile, winograd
from tinynet.shapes import Geometry

assert (tile.ROWS, tile.VECTORS) == (6, 1)
padded, halved = Geometry(padding=ONE), Geometry((2, 2), ONE)
Case(2, (7, 9), (3, 3), 5, 37, padded, np.float32).check(1e-5)
Case(1, (9, 8), (3, 3), 12, 3, padded, np.float32).check(1e-5)
for case in Case(2, (8, 12), (3, 3), 32, 48, padded, np.float32), Case(1, (20, 26), (4, 4), 32, 32, halved, np.float32):
    assert winograd.pays(case.w.shape, case.y_hw, case.x.dtype, case.geometry)
    case.check(1e-4)
for M, K, N in (1, 700, 5), (7, 30, 70), (67, 9, 17):
    test_matmul.check(test_matmul.draw((M, K), False, np.float32), test_matmul.draw((K, N), True, np.float32), 1e-5)
assert {"correlate", "add_weights", "convolve", "correlate_tiles", "multiply"} <= set(jit.compiled_kernels)
"""


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names an x86 processor")
def test_registers_of_32_bytes(tmp_path):
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma",
                   "NUMBA_CACHE_DIR": str(tmp_path), "NUMBA_DISABLE_JIT": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
