"""Matrix products whose sums are cut into parts by K and N alone: the same bits for any number of threads and rows.

    C[i, j] = sum over k of A[i, k] * B[k, j]            A (M, K), B (K, N), C (M, N)

(The rows are the images of a batch: what an image gives must not depend on the others.)

The nest of loops (product.py) wants B in panels (panels.py), and an A that lies turned as well. So each task cuts its
factors into panels piece by piece, unless it has so few rows that a piece is read once or twice: then B is read as it
lies, or is turned piece by piece if it lies turned. Many weights and few rows, as dense layers have, are a journey to
the memory: each piece asks for the next one in passing (prefetch.py; 16 x 8192 x 128: 1.15 to 1.45 times as fast).

So are convolutions of 1x1 computed, whose pixels are the rows: `affine`.

Where one factor is a mere vector, the tile has nothing to keep: vectors.py.
"""
import math

import numba
import numpy as np

from tinynet.kernels import vectors
from tinynet.kernels.emit import VECTOR_BYTES, flattened, has_wide_registers
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, zeros
from tinynet.kernels.panels import PANEL_BYTES, cut, cut_turned, panel_columns, panels_for
from tinynet.kernels.product import multiply as times
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.tile import ONE, STAY, VECTORS, WIDE, WIDE_ROWS, least, rows_at_once
from tinynet.typing import Array, DType

# A task goes over K by pieces of DEPTH at most, and cuts COLUMNS of B into panels for each, or more where a PIECE has
# room for all. So much of B (256 KB in float32) stays in the second cache, and with it ROWS of A (384 KB), or more
# where they are short (RUN). To cut a piece takes as long as to multiply some 30 rows by it: so where B is more than a
# piece, tasks are TALL (256 rows and a K of 8192 to 128 columns: 1.1 times as fast as with 192 rows at most).
# Pieces are equally deep, but for one more in each than in the last: of 128 and 128, panels would lie 4096 bytes apart,
# and meet in the same cache sets (129 and 127: 1.1 times as fast).
# Of a turned A with a long K, the pixels of a 1x1's weight gradient, a task takes all rows and columns, if C has no
# more than MOST_SUMS: so A and B, which may come from memory, are read once (128 to 256, 64 pixels: 1.3 times as fast),
# and asked for while the piece before is multiplied (64 to 64, 128 pixels: 1.3 times). Where their rows are short, both
# are read as they lie, so few k at a time that the first cache holds them (64 to 64: 1.2 times).
ROWS, COLUMNS, DEPTH = 192, 128, 512
TURNED_DEPTH = 192              # of a turned A: its panels share the first cache with those of B (1.1 times as fast)
ASKING_DEPTH = 96 if has_wide_registers() else 192     # of one that a task takes whole, asking for what comes next
SHORT_ROW = WIDE // 4           # numbers of a row of B that is read as it lies; or 4 times as many, with A's row; with
                                # more than 3 times as many the first cache holds half as many k
DEEP = 192                      # k from which on two panels of B don't stay in the first cache
PIECE = 2 ** 16                 # numbers of B in panels at a time
RUN = 2 ** 15                   # numbers of A that a task may have where its rows are short
LEAST_ROWS = 96                 # of a task, where B is a single piece
TALL, TALLEST = 384, 1024       # rows of a task that cuts B anew, at least and at most
BLOCKS = 4                      # a thread, wanted at least
MOST_SUMS = 2 ** 16
MANY_ROWS = 32                  # of A, for which it is worth the copy to cut B into panels; twice as many of a turned A
LEAST_IN_PANELS = 2 ** 13       # numbers of B: so few stay in the first cache as they lie
LEAST_FAR = 2 ** 19             # numbers of B: so many are in no cache
FAR_DEPTH = 64                  # of their pieces: one is asked for while another is in the first cache
NEVER, FAR, AS_IT_IS, TURNED = range(4)     # is B cut into panels? FAR: never, and asked for; the others: how it lies
MANY_COLUMNS = 64               # of C, for which it is worth the copy to cut a turned A into panels
TASKS = 4                       # wanted at least: where a row of C is too short for so many, K is cut into parts
SHORT = 256                     # of these parts, at least
PART, MOST_PARTS = 2 ** 11, 16  # a K of 2 PART or more is long: it may be cut into parts of no fewer than PART


def matmul(a: Array, b: Array) -> Array:
    """a @ b for a (..., M, K) and b (..., K, N) with the same leading axes, or none; returns (..., M, N).

    Transposed views (x.T, x.swapaxes(-1, -2)) are taken as they are. A sum over nothing (K = 0) is 0.

    >>> matmul(np.array([[1.0, 2.0]]), np.array([[3.0], [4.0]]))
    array([[11.]])
    """
    leading, (M, K), N = a.shape[:-2], a.shape[-2:], b.shape[-1]
    batch = math.prod(leading)
    return _product(a.reshape(batch, M, K), b.reshape(batch, K, N)).reshape(*leading, M, N)


def sum_parts(parts: Array) -> Array:
    """parts[0] + parts[1] + ..., in this order."""
    total = empty(parts.shape[1:], parts.dtype)
    add_parts(parts.reshape(len(parts), -1), total.reshape(-1))
    return total


def _product(a, b):
    """matmul for three axes"""
    (batch, _, K), N = a.shape, b.shape[2]
    parts = max(1, min(-(-TASKS * COLUMNS // max(1, N)), TASKS, K // SHORT), min(MOST_PARTS, K // PART))
    if batch == 1 and K > 0:
        c = _product_with_vector(a[0], b[0], parts)
        if c is not None:
            return c[None]
    return _in_parts(a, b, parts)


def _product_with_vector(a, b, parts):
    """a @ b where one of them has so few rows or columns that it is a case for vectors.py, else None"""
    (M, K), N = a.shape, b.shape[1]
    if K == 1:
        return vectors.outer(a.reshape(-1), b.reshape(-1))
    if N == 1 and a.flags.c_contiguous:
        return vectors.times_transposed(b.reshape(1, K), a).reshape(M, 1)
    if N == 1 and a.T.flags.c_contiguous:
        return _sum(vectors.row_times(b.reshape(-1), a.T, parts)).reshape(M, 1)
    if M <= vectors.FEW and b.T.flags.c_contiguous and not b.flags.c_contiguous:
        return vectors.times_transposed(np.ascontiguousarray(a), b.T)
    if M == 1 and b.flags.c_contiguous:
        return _sum(vectors.row_times(a.reshape(-1), b, parts))[None]
    return None


def fills_vectors(columns: int, dtype: DType) -> bool:
    """Can rows of so many columns be read as they are: whole vectors, or half a one?"""
    lanes = VECTOR_BYTES // np.dtype(dtype).itemsize
    return columns % lanes == 0 or columns == lanes // 2


def affine(a: Array, b: Array, bias: Array | None, relu: bool) -> Array:
    """a @ b + bias, or max(a @ b + bias, 0), for a (M, K), contiguous, b (K, N) and bias (N) or None, with K > 0

    The sums over K are not cut, so that a row's bits don't depend on what other rows there are.

    >>> affine(np.array([[1.0, 2.0]]), np.array([[3.0], [-4.0]]), np.array([1.0]), True)
    array([[0.]])
    """
    c = empty((1, 1, len(a), b.shape[1]), a.dtype)
    bias = np.zeros(b.shape[1], a.dtype) if bias is None else np.ascontiguousarray(bias)
    _multiply(a[None], b[None], bias, c, least(relu, a.dtype), ONE if is_streamed(a, c) else STAY)
    return c[0, 0]


def _in_parts(a, b, parts):
    """a @ b by tiles"""
    (batch, M, K), N = a.shape, b.shape[2]
    if not K or not batch * M * N:
        return zeros((batch, M, N), a.dtype)
    c = empty((parts, batch, M, N), a.dtype)
    _multiply(a, b, np.zeros(N, a.dtype), c, least(False, a.dtype), STAY)
    return _sum(c)


def _multiply(a, b, start, c, floor, streams):
    """c[p] = max(start + a @ b over the p-th part of K, floor)"""
    (M, K), N, panel, threads = a.shape[1:], b.shape[2], panel_columns(b.itemsize), numba.get_num_threads()
    a_flat, a_row, a_k = _flat(a)
    if b.swapaxes(1, 2).flags.c_contiguous and not b.flags.c_contiguous:
        b, steps, cuts = b.swapaxes(1, 2), (K * N, panel * K, 1), TURNED
    else:
        many = 2 * MANY_ROWS if a_row == 1 else MANY_ROWS
        in_panels = M >= many and N >= panel // VECTORS and K * N > LEAST_IN_PANELS
        in_panels &= a_row != 1 or N > SHORT_ROW and M + N > 4 * SHORT_ROW
        as_it_lies = FAR if K * N >= LEAST_FAR else NEVER
        cuts = AS_IT_IS if in_panels or not fills_vectors(N, b.dtype) else as_it_lies
        b, steps = np.ascontiguousarray(b), (K * N, panel, N)
    if a_row == 1 and len(c) >= threads and M * N <= MOST_SUMS:
        block = M, N
    else:
        block = _block(M, K, N, len(c) * len(a), b.itemsize, threads)
    multiply(a_flat, a_row, a_k, b.reshape(-1), steps, cuts, start, c, K, floor, streams, block, threads, none_taken())


def _block(M, K, N, products, itemsize, threads):
    """(rows, columns) of a task: more rows where B is cut anew for each task, fewer where it is a single piece

    Where that makes fewer tasks than there are threads, columns are shared out, too, by whole panels.
    """
    columns = N if N * min(K, DEPTH) <= PIECE else COLUMNS
    least = TALL if K > DEPTH or N > columns else LEAST_ROWS
    rows = TALLEST if K > DEPTH else max(least, RUN // K)
    across = -(-N // columns)
    wanted = -(-BLOCKS * threads // across)
    down = max(1, -(-M // rows), min(-(-M // least), wanted))
    if threads < down < wanted and products * across % threads:
        down -= down % threads                               # as many for each thread
    panel = panel_columns(itemsize)
    columns = min(columns, -(-N * products * down // (threads * panel)) * panel)
    at_once = rows_at_once(columns, itemsize)
    return -(-M // (down * at_once)) * at_once, columns


def _sum(parts):
    return parts[0] if len(parts) == 1 else sum_parts(parts)


def _flat(a):
    """(flat array, step of the rows, step of the columns); copies if `a` is neither contiguous nor turned"""
    _, M, N = a.shape
    if a.swapaxes(1, 2).flags.c_contiguous and not a.flags.c_contiguous:
        return a.swapaxes(1, 2).reshape(-1), 1, M
    return np.ascontiguousarray(a).reshape(-1), N, 1


@kernel
def multiply(a, a_row, a_k, b, b_steps, cuts, start, c, K, floor, streams, block, lanes, taken):
    """c[p] = max(start + a @ b over the p-th part of K, floor); cuts: how B becomes panels; streams: past the caches"""
    parts, batch, M, N = c.shape
    rows, columns = block
    tasks = parts * batch * ((M + rows - 1) // rows) * ((N + columns - 1) // columns)
    cuts_b = cuts >= AS_IT_IS
    cuts_a = cuts_b and a_row == 1 and N >= MANY_COLUMNS
    longest = (K + parts - 1) // parts
    most = DEPTH
    if cuts == FAR:
        most = FAR_DEPTH
    elif a_row == 1 and rows >= M:
        most = ASKING_DEPTH if cuts_a or M + N <= 3 * SHORT_ROW else ASKING_DEPTH // 2
    elif cuts_a:
        most = TURNED_DEPTH
    depth = longest // ((longest - 1) // most + 1) + 1
    for _ in prange(lanes):
        a_panels = panels_for(min(rows, M) if cuts_a else 0, WIDE_ROWS, depth, a)
        b_panels = panels_for(min(columns, N) if cuts_b else 0, PANEL_BYTES // a.itemsize, depth, a)
        task, held = take(taken), np.int64(-1)
        while task < tasks:
            held = _multiply_block(task, a, a_row, a_k, b, b_steps, cuts, start, c, K, floor, streams, block, depth,
                                   a_panels, b_panels, held)
            task = take(taken)
        arrived()


@inner
def _multiply_block(task, a, a_row, a_k, b, b_steps, cuts, start, c, K, floor, streams, block, depth, a_panels,
                    b_panels, held):
    """Some rows and columns of a product, over one part of K

    held: where the piece of B begins that is in panels already; returns which one it is then.
    """
    parts, batch, M, N = c.shape
    rows, columns = block
    down, across = (M + rows - 1) // rows, (N + columns - 1) // columns
    b_matrix, b_panel, b_k = b_steps
    matrix, j, i = task // (down * across), task // down % across * columns, task % down * rows
    part, m = matrix // batch, matrix % batch
    k, end = part * K // parts, (part + 1) * K // parts
    rows, columns = min(rows, M - i), min(columns, N - j)
    target = flattened(c), (matrix * M + i) * N + j, N
    begin, panel = (start, j, STAY), PANEL_BYTES // a.itemsize
    while True:
        count = min(depth, end - k)
        is_last = k + count >= end
        size, lowest = (rows, columns, count), floor if is_last else a.dtype.type(-np.inf)
        far = np.int64(count == a_row), streams if is_last else STAY         # whole rows of A can be asked for
        a_first = m * M * K + i * a_row + k * a_k
        b_first = m * b_matrix + j // panel * b_panel + k * b_k
        b_part = b, b_first, b_panel, b_k
        if b_panels.size:
            if b_first != held:
                if cuts == TURNED:
                    cut_turned((b, b_first, b_panel // panel), (columns, count), b_panels)
                else:
                    cut("B", (b, b_first, b_k), (columns, count), b_panels)
                held = b_first
            b_part = b_panels, STAY, count * panel, panel
        if a_panels.size:
            cut("A", (a, a_first, a_k), (rows, count), a_panels)
            after = min(depth, end - k - count) if rows == M else 0          # where tasks share B, it is near
            later = _next_pieces((a, a_first, a_k), (b, b_first, b_k), count, after)
            times("any", (a_panels, STAY), (b_panels, STAY), begin, target, size, lowest, None, later)
        elif N <= VECTOR_BYTES // 2 // a.itemsize:
            times("few", (a, a_first, a_row, a_k), b_part, begin, target, size, lowest, far, None)
        elif a_row == 1 and K > DEPTH and rows == M:         # many pixels, of which the next are asked for in passing
            later = _next_pieces((a, a_first, a_k), (b, b_first, b_k), count, min(depth, end - k - count))
            times("any", (a, a_first, a_row, a_k), b_part, begin, target, size, lowest, None, later)
        elif cuts == FAR:
            later = b, b_first + count * b_k, min(depth, end - k - count) * b_k
            times("any", (a, a_first, a_row, a_k), b_part, begin, target, size, lowest, None, (later,))
        else:
            a_part, is_deep = (a, a_first, a_row, a_k), b_panels.size > 0 and count > DEEP
            _multiply_rows(a_part, b_part, begin, target, size, lowest, far, is_deep)
        begin, k = target, k + count
        if is_last:
            break
    return held


@inner
def _next_pieces(a, b, count, after):
    """`after` rows of a turned A and of B, those behind `count`, as product.multiply asks for them"""
    (a, a_first, a_k), (b, b_first, b_k) = a, b
    return (a, a_first + count * a_k, after * a_k), (b, b_first + count * b_k, after * b_k)


@inner
def _multiply_rows(a, b, s, c, size, floor, far, is_deep):
    """As product.multiply, for as many rows at a time as stay in the second cache; is_deep: B's panels are"""
    (a_array, a_first, a_row, a_k), (s_array, s_first, s_row), (c_array, c_first, c_row) = a, s, c
    rows, columns, count = size
    some = max(ROWS, RUN // count)
    for r in range(0, rows, some):
        a_part = a_array, a_first + r * a_row, a_row, a_k
        begin, target = (s_array, s_first + r * s_row, s_row), (c_array, c_first + r * c_row, c_row)
        size = min(some, rows - r), columns, count
        if is_deep:
            times("deep", a_part, b, begin, target, size, floor, far, None)
        else:
            times("any", a_part, b, begin, target, size, floor, far, None)


@kernel
def add_parts(parts, total):
    """total = parts[0] + parts[1] + ..., by runs of elements"""
    run = 1024
    for task in prange((len(total) + run - 1) // run):
        sums = total[task * run:(task + 1) * run]
        for i in range(len(sums)):
            sums[i] = 0
        for p in range(len(parts)):
            part = parts[p, task * run:(task + 1) * run]
            for i in range(len(sums)):
                sums[i] += part[i]
