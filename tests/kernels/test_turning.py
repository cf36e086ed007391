"""Matrices turned round: whole squares, what is left at their edges, and panels with columns to spare."""

import os
import subprocess
import sys

import numpy as np
import pytest

from tinynet.kernels.turning import turn, turned


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 5), (200, 300), (2, 256, 130), (1, 1, 257, 128), (3, 3, 128, 96), (0, 4)])
def test_turned(shape, dtype):
    a = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    for one in (a, a.swapaxes(-1, -2)):
        result = turned(one)
        np.testing.assert_array_equal(result, one.swapaxes(-1, -2))
        assert result.flags.c_contiguous


def check_panels(dtype):
    for M, N, width in ((16, 16, 16), (33, 21, 16), (70, 40, 32), (5, 9, 8), (47, 31, 16)):
        a = np.random.default_rng(0).standard_normal((2, M, N)).astype(dtype)
        a[0, 1, 2], a[1, -1, -1] = np.nan, -np.inf
        panels = np.full((2, -(-M // width), N, width), 7, dtype)
        turn(a, panels)
        side_by_side = panels.transpose(0, 2, 1, 3).reshape(2, N, -1)
        np.testing.assert_array_equal(side_by_side[..., :M], a.swapaxes(1, 2))
        assert (side_by_side[..., M:] == 7).all()                     # columns to spare stay as they are


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_panels(dtype):
    check_panels(dtype)


def test_plain_python():
    code = "from tests.kernels import test_turning; test_turning.check_panels('float32')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
