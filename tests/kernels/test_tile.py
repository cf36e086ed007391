"""The register tile against the sum that it is, for every edge."""

import itertools
import os
import platform
import subprocess
import sys

import numpy as np
import pytest

from tinynet.kernels import tile
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import aligned


@kernel
def run(a, a_steps, b, b_steps, s, s_steps, c, c_steps, counts, rows, columns):
    for _ in prange(1):
        a_h, a_w, a_u, a_v, a_k = a_steps
        b_u, b_v, b_k = b_steps
        tile.block((a, 3, a_h, a_w, a_u, a_v, a_k), (b, 2, b_u, b_v, b_k), (s, 1, s_steps[0], s_steps[1]),
                   (c, 4, c_steps[0], c_steps[1]), counts, rows, columns, tile.NO_FLOOR, tile.NEAR, None)


def expected(a, a_steps, b, b_steps, s, s_steps, counts, rows, columns):
    """The definition, index by index."""
    def at(flat, offset, steps, indices):
        return flat[offset + sum(step * index for step, index in zip(steps, indices, strict=True))]

    c = np.zeros((*rows, columns))
    for h, w, i in np.ndindex(c.shape):
        c[h, w, i] = at(s, 1, (*s_steps, 1), (h, w, i))
        for u, v, k in np.ndindex(*counts):
            c[h, w, i] += at(a, 3, a_steps, (h, w, u, v, k)) * at(b, 2, (*b_steps, 1), (u, v, k, i))
    return c


def check(rows, columns, counts, dtype, start, gap=2):
    random = np.random.default_rng(0)
    height, width = rows
    a_steps, b_steps = (3 * width + 11 * gap, 3, 5, -1, 2), (3 * columns, 0, columns)
    a = random.standard_normal(4000).astype(dtype)
    b = random.standard_normal(2000).astype(dtype)
    c_steps = width * (columns + 1) + gap, columns + 1        # a gap after each row, a wider one after each h
    c = random.standard_normal(4 + c_steps[0] * height + 64).astype(dtype)
    if start == "bias":
        s, s_steps = random.standard_normal(columns + 1).astype(dtype), (0, 0)
    else:
        s, s_steps = c[3:], c_steps                           # C itself: run() takes S from 1, but C from 4
    wide_a, wide_b, wide_s = (each.astype(np.float64) for each in (a[500:], b, s))
    reference = expected(wide_a, a_steps, wide_b, b_steps, wide_s, s_steps, counts, rows, columns)
    before = c.copy()
    run(a[500:], a_steps, b, b_steps, s, s_steps, c, c_steps, counts, rows, columns)
    inside = np.zeros(len(c), bool)
    for h, w in np.ndindex(*rows):
        where = slice(4 + h * c_steps[0] + w * c_steps[1], 4 + h * c_steps[0] + w * c_steps[1] + columns)
        inside[where] = True
        atol = 1e-4 if dtype == np.float32 else 1e-13
        np.testing.assert_allclose(c[where], reference[h, w], rtol=0, atol=atol)
    np.testing.assert_array_equal(c[~inside], before[~inside])   # nothing else was written


LINES = [(1, 2 * tile.ROWS), (1, 3 * tile.ROWS + 1), (3, 2 * tile.ROWS + 3)]      # of several tiles


def check_edges(dtype):
    lanes = tile.VECTOR_BYTES // np.dtype(dtype).itemsize
    wide = tile.WIDE_VECTORS * lanes
    many = {wide - lanes, wide - lanes + 1, wide, max(wide, tile.FLAT_VECTORS * lanes) + 2, wide + 2 * lanes + 1}
    some_rows = [(1, n) for n in range(1, max(tile.ROWS, tile.SLIM_ROWS) + 3)] + [(n, 1) for n in (2, 9)]
    for rows in [*some_rows, (3, 5), (2, 9), *LINES]:
        for columns in {1, 3, *(n + d for n in (lanes // 2, lanes, 2 * lanes) for d in (-1, 0, 1)), *many}:
            check(rows, columns, (1, 2, 2), dtype, "bias")


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_edges(dtype):
    check_edges(dtype)


def test_wide_tiles_only_where_rows_fill_them():
    for rows in range(1, 200):
        wide, usual = (-(-rows // n) * n for n in (tile.WIDE_ROWS, tile.ROWS))
        if tile.wide_pays(rows):
            assert tile.WIDE_VECTORS > tile.VECTORS and wide < 1.1 * usual
        elif tile.WIDE_VECTORS > tile.VECTORS:
            assert wide > usual


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("start", ["bias", "sum"])
def test_counts_and_starts(dtype, start):
    for counts in itertools.product((1, 3), (1, 2), (1, 4)):
        check((2, 5), 19, counts, dtype, start)


@pytest.mark.parametrize("rows", [(2, 5), (3, tile.ROWS), *LINES])
def test_lines_without_a_gap_are_one(rows):
    for columns, start in itertools.product((3, 19, 40), ("bias", "sum")):
        check(rows, columns, (2, 2, 3), np.float64, start, gap=0)


@pytest.mark.parametrize("counts", [(0, 1, 1), (1, 0, 2), (2, 1, 0)])
def test_sum_over_nothing_is_the_start(counts):
    check((2, 5), 19, counts, np.float64, "bias")


def test_no_rows_or_columns():
    check((0, 5), 19, (1, 1, 1), np.float64, "bias")
    check((5, 0), 19, (1, 1, 1), np.float64, "bias")
    check((2, 2), 0, (1, 1, 1), np.float64, "bias")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("columns", [3, 16, 21, 70])
def test_nan_and_inf_travel_and_stay_in_their_row_or_column(bad, columns):
    rows, K = 11, 4
    for dtype, row in itertools.product((np.float32, np.float64), range(rows)):
        a, b = np.ones((rows, K), dtype), np.ones((K, columns), dtype)
        a[row, 1] = bad
        b[2, columns - 1] = bad
        c = np.zeros(4 + rows * columns, dtype)
        a = np.concatenate([np.zeros(3, dtype), a.ravel()])
        b = np.concatenate([np.zeros(2, dtype), b.ravel()])
        zeros = np.zeros(columns + 1, dtype)
        steps = (0, K, 0, 0, 1), (0, 0, columns), (0, columns)
        run(a, steps[0], b, steps[1], zeros, (0, 0), c, steps[2], (1, 1, K), (1, rows), columns)
        wrong = ~np.isfinite(c[4:].reshape(rows, columns))
        assert wrong[row].all() and wrong[:, -1].all()
        assert wrong.sum() == rows + columns - 1


@kernel
def run_matrix(a, b, s, c, counts, rows, columns, floor, far):
    for _ in prange(1):
        tile.block((a, tile.STAY, tile.STAY, counts[2], tile.STAY, tile.STAY, tile.NEXT),
                   (b, tile.STAY, tile.STAY, tile.STAY, columns), (s, tile.STAY, tile.STAY, tile.STAY),
                   (c, tile.STAY, tile.STAY, columns), counts, rows, columns, floor, far, None)


@kernel
def run_asking(a, b, s, c, counts, rows, columns, floor, far):
    for _ in prange(1):
        tile.block((a, tile.STAY, tile.STAY, counts[2], tile.STAY, tile.STAY, tile.NEXT),
                   (b, tile.STAY, tile.STAY, tile.STAY, columns), (s, tile.STAY, tile.STAY, tile.STAY),
                   (c, tile.STAY, tile.STAY, columns), counts, rows, columns, floor, far,
                   ((a, counts[2], len(a)), (b, tile.STAY, len(b))))


def product(rows, columns, dtype, floor, far, first=0, run=run_matrix):
    """A matrix product by one block, into memory that begins `first` numbers after a cache line."""
    random = np.random.default_rng(0)
    K = 5
    a, b = random.standard_normal((rows, K)).astype(dtype), random.standard_normal((K, columns)).astype(dtype)
    c = aligned(np.zeros(first + rows * columns, dtype))[first:]
    run(a.reshape(-1), b.reshape(-1), np.zeros(columns, dtype), c, (1, 1, K), (1, rows), columns,
        np.float32(floor), far)
    return c.reshape(rows, columns)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("columns", [3, 16, 32, 64, 72])
def test_where_the_operands_lie_changes_nothing(columns, dtype):
    """Asked for ahead, or in passing, or written past the caches; some rows begin with a cache line, some not."""
    for rows, first, far in itertools.product((1, tile.ROWS, 5 * tile.ROWS + 3), (0, 1), ((1, 0), (0, 1), (1, 1))):
        expected = product(rows, columns, dtype, -np.inf, (0, 0))
        np.testing.assert_array_equal(product(rows, columns, dtype, -np.inf, far, first), expected)
        np.testing.assert_array_equal(product(rows, columns, dtype, -np.inf, far, first, run_asking), expected)


@pytest.mark.parametrize("columns", [3, 16, 40])
def test_floor(columns):
    sums = product(11, columns, np.float32, -np.inf, (0, 0))
    assert (sums < 0.25).any() and (sums > 0.25).any()
    for far in ((0, 0), (1, 1)):
        np.testing.assert_array_equal(product(11, columns, np.float32, 0.25, far), np.maximum(sums, np.float32(0.25)))


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="names x86 processors")
def test_edges_on_a_processor_with_smaller_registers():
    """A smaller tile must not drop rows: the same checks for a processor without AVX-512."""
    code = "import numpy as np; from tests.kernels import test_tile; test_tile.check_edges(np.float32)"
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx,+avx2,+fma"}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


def test_plain_python():
    code = "from tests.kernels import test_tile; test_tile.check((2, 5), 19, (2, 2, 3), 'float64', 'sum')"
    subprocess.run([sys.executable, "-c", code], env={**os.environ, "NUMBA_DISABLE_JIT": "1"}, check=True)
