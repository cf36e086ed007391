"""Matrices turned round: whole squares, and what is left at their edges."""

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


def check_edges(dtype):
    for M, N in ((16, 16), (33, 21), (70, 40), (5, 9), (47, 31)):
        a = np.random.default_rng(0).standard_normal((2, M, N)).astype(dtype)
        a[0, 1, 2], a[1, -1, -1] = np.nan, -np.inf
        result = np.full((2, N + 1, M + 2), 7, dtype)
        turn(a, result)
        np.testing.assert_array_equal(result[:, :N, :M], a.swapaxes(1, 2))
        assert (result[:, N:] == 7).all() and (result[..., M:] == 7).all()       # what is beyond stays as it is


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    check_edges(dtype)


def test_plain_python():
    code = "from tests.kernels import test_turning; test_turning.check_edges('float32')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
