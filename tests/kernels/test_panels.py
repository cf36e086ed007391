"""Pieces of matrices cut into panels, against NumPy."""

import numba
import numpy as np
import pytest

from tinynet.kernels import panels
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import LINE, room_for
from tinynet.kernels.tile import WIDE, WIDE_ROWS


@kernel
def cut_b(matrix, size, target):
    for _ in prange(1):
        panels.cut("B", matrix, size, target)


@kernel
def cut_wide_b(matrix, size, target):
    for _ in prange(1):
        panels.cut("wide B", matrix, size, target)


@kernel
def cut_turned_b(matrix, size, target):
    for _ in prange(1):
        panels.cut_turned(matrix, size, target)


@kernel
def cut_a(matrix, size, target):
    for _ in prange(1):
        panels.cut("A", matrix, size, target)


@kernel
def addresses(like, found):
    for i in prange(len(found)):
        memory = room_for(i * i, like)
        found[i] = memory.ctypes.data if len(memory) == i * i else -1


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("factor", ["A", "B", "wide B"])
def test_pieces_and_their_columns_to_spare(factor, dtype):
    itemsize = np.dtype(dtype).itemsize
    run, width = {"A": (cut_a, WIDE_ROWS), "B": (cut_b, panels.panel_columns(itemsize)),
                  "wide B": (cut_wide_b, WIDE // itemsize)}[factor]
    matrix = np.random.default_rng(0).standard_normal((9, 3 * width + 10)).astype(dtype)
    for columns in (1, width - 1, width, width + 1, 2 * width, 3 * width + 2):
        for depth in (1, 5):
            whole = -(-columns // width) * width
            target = np.full(whole * depth + 3, 7, dtype)
            run((matrix.reshape(-1), 2 * matrix.shape[1] + 4, matrix.shape[1]), (columns, depth), target)
            expected = np.zeros((depth, whole), dtype)
            expected[:, :columns] = matrix[2:2 + depth, 4:4 + columns]
            expected = expected.reshape(depth, -1, width).swapaxes(0, 1)
            np.testing.assert_array_equal(target[:-3], expected.reshape(-1))
            assert (target[-3:] == 7).all()                              # nothing else was written


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_turned_pieces_and_their_columns_to_spare(dtype):
    width = panels.panel_columns(np.dtype(dtype).itemsize)
    turned = np.random.default_rng(0).standard_normal((3 * width + 4, 40)).astype(dtype)
    for columns in (1, width - 1, width, width + 1, 2 * width, 3 * width + 2):
        for depth in (1, 3, 8, 9, 16, 30):
            whole = -(-columns // width) * width
            target = np.full(whole * depth + 3, 7, dtype)
            cut_turned_b((turned.reshape(-1), 2 * turned.shape[1] + 5, turned.shape[1]), (columns, depth), target)
            expected = np.zeros((depth, whole), dtype)
            expected[:, :columns] = turned[2:2 + columns, 5:5 + depth].T
            expected = expected.reshape(depth, -1, width).swapaxes(0, 1)
            np.testing.assert_array_equal(target[:-3], expected.reshape(-1))
            assert (target[-3:] == 7).all()                              # nothing else was written


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="NumPy's arrays may be freed, and their addresses be anything")
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint8])
def test_room_begins_with_a_cache_line(dtype):
    found = np.zeros(50, np.int64)
    addresses(np.zeros(1, dtype), found)
    assert (found > 0).all() and (found % LINE == 0).all()
