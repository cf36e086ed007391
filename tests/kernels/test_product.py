"""The nest of loops for matrix products against NumPy, for every edge."""

import itertools
import os
import subprocess
import sys

import numpy as np
import pytest

from tinynet.kernels import product, tile
from tinynet.kernels.emit import VECTOR_BYTES
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import aligned
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.product import FEW_ROWS

DTYPES = [np.float32, np.float64]


@kernel
def run_whole(a, b, s, c, size, floor, far):
    for _ in prange(1):
        product.multiply("whole", a, b, s, c, size, floor, far, None)


@kernel
def run_few(a, b, s, c, size, floor, far):
    for _ in prange(1):
        product.multiply("few", a, b, s, c, size, floor, far, None)


@kernel
def run_any(a, b, s, c, size, floor, far):
    for _ in prange(1):
        product.multiply("any", a, b, s, c, size, floor, far, None)


@kernel
def run_deep(a, b, s, c, size, floor, far):
    for _ in prange(1):
        product.multiply("deep", a, b, s, c, size, floor, far, None)


@kernel
def run_asking(a, b, s, c, size, floor, far):
    for _ in prange(1):
        later = (a[0], a[1] + size[0], len(a[0])), (b[0], b[1], 100 * len(b[0]))
        product.multiply("any", a, b, s, c, size, floor, far, later)


def kernels_for(columns, dtype):
    """Those that may be asked for so many columns"""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    return [run_any, run_deep] + [run_whole] * (columns % lanes == 0) + [run_few] * (columns <= lanes // 2)


def panels(b, width=None):
    """b (K, N) cut into panels, of which the last has nonsense in the columns that b doesn't have"""
    width = width or panel_columns(b.itemsize)
    wide = np.full((len(b), -(-b.shape[1] // width) * width), np.nan, b.dtype)
    wide[:, :b.shape[1]] = b
    return np.ascontiguousarray(wide.reshape(len(b), -1, width).swapaxes(0, 1))


def check(rows, columns, depth, dtype, start="bias", floor=-np.inf, far=(0, 0), gap=0):
    """A lies turned, and C's rows `gap` apart; C begins 4 numbers after a cache line, unless `far`."""
    random = np.random.default_rng(0)
    a, b = (random.standard_normal(shape).astype(dtype) for shape in ((depth, rows), (depth, columns)))
    at, step = 0 if far[1] else 4, columns + gap
    before = random.standard_normal(at + rows * step + 8).astype(dtype)
    inside = np.arange(at, at + rows * step).reshape(rows, step)[:, :columns]
    bias = random.standard_normal(columns).astype(dtype)
    expected = np.maximum(a.T.astype(float) @ b + (bias if start == "bias" else before[inside]), floor)
    for run in kernels_for(columns, dtype):
        c = aligned(before.copy())
        s = (bias, 0, tile.STAY) if start == "bias" else (c, at, step)
        cut = panels(b)
        packed = cut.reshape(-1), 0
        run((a.reshape(-1), 0, tile.NEXT, rows), (*packed, cut[0].size, cut.shape[2]), s, (c, at, step),
            (rows, columns, depth), dtype(floor), far)
        np.testing.assert_allclose(c[inside], expected, rtol=0, atol=1e-4 if dtype == np.float32 else 1e-13)
        outside = np.ones(len(c), bool)
        outside[inside] = False
        np.testing.assert_array_equal(c[outside], before[outside])       # nothing else was written
        if start == "bias":
            with_steps, c = c, aligned(before.copy())
            run((a.reshape(-1), 0, tile.NEXT, rows), packed, s, (c, at, step), (rows, columns, depth), dtype(floor),
                far)
            np.testing.assert_array_equal(c, with_steps)                 # nothing but panels: no need to say so
            c = aligned(before.copy())
            run_asking((a.reshape(-1), 0, tile.NEXT, rows), packed, s, (c, at, step), (rows, columns, depth),
                       dtype(floor), far)
            np.testing.assert_array_equal(c, with_steps)                 # what is asked for changes nothing
            if run is not run_few:                                       # whose tiles have more rows
                c = aligned(before.copy())
                run((panels(a, tile.WIDE_ROWS).reshape(-1), 0), packed, s, (c, at, step), (rows, columns, depth),
                    dtype(floor), (0, far[1]))
                np.testing.assert_array_equal(c, with_steps)


@pytest.mark.parametrize("dtype", DTYPES)
def test_edges(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for rows in (1, tile.ROWS - 1, tile.ROWS, FEW_ROWS + 1, 2 * FEW_ROWS + 1):
        for columns in {1, lanes // 2 - 1, lanes // 2, lanes // 2 + 1, lanes, 2 * lanes - 1, 2 * lanes, 5 * lanes + 3,
                        11 * lanes}:
            for depth, gap in ((1, 0), (7, 3)):
                check(rows, columns, depth, dtype, gap=gap)


@pytest.mark.parametrize("dtype", DTYPES)
def test_starts_floors_and_places_change_only_what_they_say(dtype):
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    for columns, floor in itertools.product((lanes // 2, lanes, 2 * lanes + 1, 4 * lanes), (-np.inf, 0.0, 0.25)):
        check(FEW_ROWS + 5, columns, 9, dtype, "sum", floor, gap=2)
        for far in ((0, 1), (1, 0), (1, 1)):
            check(FEW_ROWS + 5, columns, 9, dtype, "bias", floor, far)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_travel_and_stay_in_their_row_or_column(dtype, bad):
    rows, depth = FEW_ROWS + 2, 4
    for columns in (VECTOR_BYTES // 16, VECTOR_BYTES // 4, 70):
        a, b = np.ones((rows, depth), dtype), np.ones((depth, columns), dtype)
        a[3, 1] = bad
        b[2, columns - 1] = bad
        cut = panels(b)
        for run in kernels_for(columns, dtype):
            c = np.zeros(rows * columns, dtype)
            run((a.reshape(-1), 0, depth, tile.NEXT), (cut.reshape(-1), 0, cut[0].size, cut.shape[2]),
                (np.zeros(columns, dtype), 0, tile.STAY), (c, 0, columns), (rows, columns, depth), dtype(0), (0, 0))
            wrong = ~np.isfinite(c.reshape(rows, columns))
            assert wrong[3].all() and wrong[:, -1].all()
            assert wrong.sum() == rows + columns - 1


def test_plain_python():
    code = ("import numpy as np; from tests.kernels import test_product;"
            "test_product.check(7, 40, 5, np.float64, 'sum', 0.25, gap=2)")
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
