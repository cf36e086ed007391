"""Winograd's convolution: 1/6 to 4/10 of the multiplications, for 3x3 and 5x5 kernels and 4x4 ones of stride 2.

winograd_transform.py tells how 36 products, one at each place of 6x6 transformed values, give a tile of 4x4 pixels of a
3x3 convolution, of 2x2 of a 5x5 one, or of 5x5 of a 2x2 one, or how 64 products give 6x6 of a 3x3 one or 4x4 of a 5x5
one (_points tells which); winograd_tiles.py cuts images into such tiles. Here all is one problem,

    Y[n, i, j] = sum over t, t' < r of  X[n, i + t, j + t'] w[t, t']         (vectors of channels, matrices w[t, t'])

in which X and Y are the images, or images *folded*: 2x2 pixels as one with four times the channels,

    X[n, i, j, (a, b, c)] = x[n, s*i + a - top, s*j + b - left, c]           s = 1: as it is     s = 2: folded

                          r     x        y          w[t, t']
    conv 3x3 or 5x5       3, 5  s = 1    s = 1      w[t, t']
    its transpose         3, 5  s = 1    s = 1      w[r-1-t, r-1-t'], channels swapped
    conv 4x4, stride 2    2     s = 2    s = 1      the four w[2t+a, 2t'+b] one below the other
    its transpose         2     s = 1    s = 2      the four w[2(1-t)+a, 2(1-t')+b] side by side, channels swapped

For a block of tiles, few enough to stay in the second cache, or nearly so (_tiles_at_once):

    V[p] = (B^T X B)[p]    tiles x channels of x, at each of the 36 or 64 places p
    M[p] = V[p] U[p]       a matrix product (product.py); U = G w G^T is made once, before all blocks
    Y    = A^T M A         the tiles of y, plus the bias; and there too, before they are written, ReLU and 2x2 pooling

The weight gradient is the adjoint, step by step: dU[p] = V[p]^T (A gy A^T)[p], summed over all tiles, gw = G^T dU G.

Rounding: the error is some 1e-5 of the largest result, ten times that of the direct sum, because the transforms add up
numbers that nearly cancel. An Inf or NaN would spread over its tile: if the result isn't finite, all of it, that of
the other images in the batch too, is computed again in the direct way.
"""

import contextlib
import contextvars
import functools
import math
from collections.abc import Iterator
from typing import Any

import numba
import numpy as np

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, scratch_for
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.pooling import NO_PLACES, Unpooled, max_pool, stored
from tinynet.kernels.prepared import prepared
from tinynet.kernels.product import multiply
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.tile import NEXT, NO_FLOOR, ONE, STAY, least, rows_at_once
from tinynet.kernels.turning import turn_block
from tinynet.kernels.winograd_tiles import (
    ask_for,
    from_places,
    from_places_pooled,
    part,
    position,
    to_places,
    unpooled_to_places,
)
from tinynet.kernels.winograd_transform import LANES, LARGE_N, N, transform
from tinynet.shapes import Geometry
from tinynet.typing import Array, DType, Shape

CACHE = 3 * 2**18               # bytes of the second cache for V and M
MOST_TILES = 64                 # of a task
TASKS = 8                       # a thread, if U stays in the second cache
PANEL = panel_columns(4)
PLANE_GAP = 16                  # floats between the places' matrices, which otherwise meet in the same cache sets
KINDS = ((3, 3), (1, 1)), ((5, 5), (1, 1)), ((4, 4), (2, 2))     # kernel and stride
LEAST_CHANNELS = 16             # from 120 pixels on 1.3 to 1.4 times as fast as winograd_rows.py
MOST_OF_LARGE = {3: 64, 5: 256}  # channels for 64 places, by r: of more, U is too large, and 3x3 ones err by 2e-5
LEAST_OF_LARGE = 9              # tiles of an image: with 4, a single one took up to 1.5 times as long
FEWER = 0.9                     # times as many products at most, for them to pay
LEAST_FILLED = 0.55             # the part of the tiles that lies in the image; from the count of products, not timed
LEAST_FOLDED = 5                # tiles of an image, where the stride is 2: four times as many weights to transform
MOST_WEIGHTS = 2500             # for each tile of a weight gradient, at each place: dU is up to 9 times as large as w
LEAST_TILES = 12                # of a weight gradient, which is a sum over them
PART_TILES = 24                 # of a weight gradient's part, at least
MOST_PARTS = 4                  # of a weight gradient: each is 4 times as large as the weights, and has to be added up
LONGEST_PART = {N: 2**12, LARGE_N: 2**8}     # tiles, for which there are more parts: the error grows with their root
MOST_PARTIAL_WEIGHTS = 2**23    # in all of these parts
RUN = 1024                      # numbers of the parts that a task adds up
NO_WEIGHTS = np.empty((0, 0, 0, 0), np.float32)     # in place of those that have been transformed before

direct_only = contextvars.ContextVar("direct_only", default=False)


@contextlib.contextmanager
def exact_convolution() -> Iterator[None]:
    """Within this context all convolutions are direct sums, as those in float64 always are.

    Otherwise 3x3 and 5x5 ones, and 4x4 ones of stride 2, take Winograd's way from 16 channels on: faster (3x3 of 64
    channels twice as fast), with an error of up to 2e-5 of the largest result in place of 1e-6. 3x3 ones of fewer
    channels do so down the columns alone, with an error of up to 3e-6, of their weight gradients 1e-5. A backward pass
    outside of the context does so, too.

    >>> x, w = np.ones((1, 8, 8, 32), np.float32), np.full((3, 3, 32, 32), 0.1, np.float32)
    >>> import tinynet as tn
    >>> with tn.exact_convolution():
    ...     exact = tn.conv2d(x, w, padding=1).numpy()
    >>> bool(abs(tn.conv2d(x, w, padding=1).numpy() - exact).max() < 1e-5 * exact.max())
    True
    """
    token = direct_only.set(True)
    try:
        yield
    finally:
        direct_only.reset(token)


def pays(w_shape: Shape, y_hw: tuple[int, int], dtype: DType, geometry: Geometry, images: int | None = None) -> bool:
    """Is it a kind of convolution that can go this way, and is it then faster than the direct sum?

    images: how many, for their weight gradient. Else it doesn't count: what is computed of one must not depend on its
    company.
    """
    return _suits(w_shape, y_hw, dtype, geometry, images) and not direct_only.get()


@functools.lru_cache(maxsize=1024)
def _suits(w_shape, y_hw, dtype, geometry, images):
    kernel_hw, (C, O) = w_shape[:2], w_shape[2:]
    if (kernel_hw, geometry.stride) not in KINDS or dtype != np.float32:
        return False
    m = N + 1 - _taps(kernel_hw, geometry)
    tiles = math.prod(-(-n // m) for n in y_hw)
    if images is not None:
        all_tiles, weights = images * tiles, math.prod(geometry.stride) * C * O
        if all_tiles < LEAST_TILES or weights > MOST_WEIGHTS * all_tiles:
            return False
    elif geometry.stride != (1, 1) and tiles < LEAST_FOLDED:
        return False
    return (geometry.dilation == (1, 1) and geometry.groups == 1 and C % LANES == O % LANES == 0
            and min(C, O) >= LEAST_CHANNELS and math.prod(y_hw) >= LEAST_FILLED * tiles * m * m)


def _taps(kernel_hw, geometry):
    """r: of images that are folded, where the stride is 2"""
    return kernel_hw[0] // geometry.stride[0]


def gather(x: Array, w: Array, b: Array | None, geometry: Geometry, out_hw: tuple[int, int], relu: bool = False,
           pool: bool = False) -> Any:
    """As convolution.gather; None if the result isn't finite everywhere."""
    side = (geometry.stride[0], geometry.padding[0][0], geometry.padding[1][0])
    fits = pool and w.shape[0] == 3                          # there are 2 x 2 of 2 x 2 pixels in a tile
    r = _taps(w.shape[:2], geometry)
    y = _convolve(x, w, True, w.shape[3], b, side, (1, 0, 0), r, out_hw, relu, fits)
    if fits or not pool:
        return y
    return None if y is None else max_pool(y, (2, 2), (2, 2), (0, 0), (out_hw[0] // 2, out_hw[1] // 2))


def scatter(y: Array | Unpooled, w: Array, b: Array | None, geometry: Geometry, out_hw: tuple[int, int],
            relu: bool = False) -> Array | None:
    """As convolution.scatter; None if the result isn't finite everywhere."""
    ((top, _), (left, _)), r = geometry.padding, _taps(w.shape[:2], geometry)
    if geometry.stride == (1, 1):
        source, target = (1, r - 1 - top, r - 1 - left), (1, 0, 0)
    else:
        source, target = (1, 1, 1), (2, top, left)
    return _convolve(y, w, False, w.shape[2], b, source, target, r, out_hw, relu)


def weight_gradient(x: Array, y: Array | Unpooled, geometry: Geometry, kernel_hw: tuple[int, int]) -> Array | None:
    """As convolution.weight_gradient; None if the result isn't finite everywhere, or a sum over no images."""
    if not len(x):
        return None
    C, O, r = x.shape[3], y.shape[3], _taps(kernel_hw, geometry)
    n = N                                                    # of 3x3 kernels 0.93 to 1.1 times as fast with LARGE_N
    if r == 5:
        n = _points(r, (C, O), y.shape[1:3], -(-PART_TILES // len(x)))
    source = (geometry.stride[0], geometry.padding[0][0], geometry.padding[1][0])
    rows = source[0]**2 * C
    m = n + 1 - r
    grid = tuple(-(-size // m) for size in y.shape[1:3])
    tiles, total = _tiles_at_once(rows, O, n, 1), len(x) * math.prod(grid)
    x, (y, places) = np.ascontiguousarray(x), stored(y)
    count = max(1, min(MOST_PARTS, total // min(tiles, PART_TILES)))
    most = max(1, MOST_PARTIAL_WEIGHTS // (count * n * n * rows * O))
    count *= min(most, -(-total // (count * LONGEST_PART[n])))
    of_part = -(-total // count)
    tiles = -(-of_part // max(1, round(of_part / tiles)))    # of a block, each of which adds to all of dU
    parts = empty((count, n, n, rows * O + PLANE_GAP), x.dtype)
    scratch = scratch_for(_scratch_shape(tiles, rows, O, m, n, numba.get_num_threads()), x.dtype)
    w, nothing, is_far = empty((*kernel_hw, C, O), x.dtype), np.zeros(O, x.dtype), ONE if is_streamed(x, y) else STAY
    total = correlate_tiles(x, y, places, parts, nothing, w, source, grid, r, tiles, is_far, scratch, none_taken())
    return w if math.isfinite(total) else None


def _room_for_weights(w, is_gathering, n):
    """For U = G w G^T, the matrix of each place in panels of PANEL columns, the last one perhaps with some to spare

    In rows of O columns a tile's would lie O numbers apart, where that is a power of two in a few sets of the cache.
    is_gathering: with w as it is, the folds of 4x4 one below the other; else turned round, and its matrices transposed,
    the folds side by side.
    """
    s = 2 if len(w) == 4 else 1
    rows, columns = (s * s * w.shape[2], w.shape[3]) if is_gathering else (w.shape[3], s * s * w.shape[2])
    return empty((n, n, rows * -(-columns // PANEL) * PANEL + PLANE_GAP), w.dtype)


def _transformed(w, is_gathering, n):
    """U as _room_for_weights says, for weights that come again and again"""
    U = _room_for_weights(w, is_gathering, n)
    transform_weights(np.ascontiguousarray(w), is_gathering, U)
    return U


def _convolve(x, w, is_gathering, channels, b, source, target, r, out_hw, relu, pool=False):
    """The convolution of the head of this file, as (s, top, left) of x and of y say; None if it isn't finite."""
    n = _points(r, w.shape[2:], out_hw, LEAST_OF_LARGE)
    U = prepared.known(_transformed, w, is_gathering, n)
    if U is None:
        w, U = np.ascontiguousarray(w), _room_for_weights(w, is_gathering, n)
    else:
        w = NO_WEIGHTS
    (OH, OW), rows, columns = out_hw, source[0]**2 * x.shape[3], target[0]**2 * channels
    plan = _plan(x.shape[0], rows, columns, target, r, n, out_hw, numba.get_num_threads())
    grid, tiles, tasks, scratch_shape = plan
    x, x_places = stored(x)
    y = empty((len(x), OH // 2, OW // 2, channels) if pool else (len(x), OH, OW, channels), x.dtype)
    places = empty(y.shape, np.uint8) if pool else NO_PLACES
    checks, scratch = np.zeros((tasks, LANES), x.dtype), scratch_for(scratch_shape, x.dtype)
    bias = np.zeros(channels, x.dtype) if b is None else np.ascontiguousarray(b)
    epilogue = bias, least(relu, x.dtype), places, ONE if is_streamed(x, y) else STAY
    nothing = np.zeros(columns, x.dtype)
    total = convolve(x, x_places, w, is_gathering, U, nothing, y, epilogue, source, target, grid, r, tiles, checks,
                     scratch, none_taken())
    if not math.isfinite(total):
        return None
    return (y, places) if pool else y


@functools.lru_cache(maxsize=1024)
def _points(r, channels, out_hw, least):
    """n: N, or LARGE_N for 3x3 kernels of few channels, and most 5x5 ones, if the larger tiles take fewer products.

    The last ones reach beyond the image: of 3x3 kernels 128 pixels are 22 x 22 tiles of 64 products, or 32 x 32 of 36,
    which takes 1.1 times as long; 32 pixels are 6 x 6 or 8 x 8, which is the same. Of 5x5 kernels a pixel takes 4
    products, or 9, and up to twice as long. least: how many larger tiles an image has to have.
    """
    large, usual = (math.prod(-(-size // (n + 1 - r)) for size in out_hw) for n in (LARGE_N, N))
    pays = large >= least and LARGE_N**2 * large <= FEWER * N**2 * usual
    return LARGE_N if pays and max(channels) <= MOST_OF_LARGE.get(r, 0) else N


@functools.lru_cache(maxsize=1024)
def _plan(images, rows, columns, target, r, n, out_hw, threads):
    """(rows and columns of tiles of an image, tiles of a task, tasks, shape of the scratch) of a convolution"""
    (s, *before), m = target, n + 1 - r
    down, across = (-(-(size + skipped) // (s * m)) for size, skipped in zip(out_hw, before, strict=True))
    total = images * down * across
    wanted = threads * (TASKS if 4 * n * n * rows * columns <= CACHE else 1)       # each task reads all of U
    at_once = rows_at_once(columns, 4)
    most = min(MOST_TILES, _tiles_at_once(rows, columns, n, 2), -(-total // wanted))
    tiles = max(at_once, most // at_once * at_once)
    return (down, across), tiles, -(-total // tiles), _scratch_shape(tiles, rows, columns, m, n, threads)


def _tiles_at_once(rows, columns, n, reuse):
    """How many tiles make a block: as many as stay in the second cache, V and M being rows + columns numbers a place.

    Or more, if U doesn't stay there: it has rows x columns numbers a place and comes anew for each block. So the blocks
    are so large that it is no more than `reuse` times what V and M are.
    """
    return max(8, CACHE // (4 * n * n * (rows + columns)), rows * columns // (reuse * (rows + columns)))


def _scratch_shape(tiles, rows, columns, m, n, threads):
    """For each thread: V, M, and a window of x or y."""
    return threads, n * n * (tiles * (rows + columns) + 2 * PLANE_GAP) + max(n * n * rows, m * m * columns)


@kernel
def transform_weights(w, is_gathering, U):
    """U = G w G^T for each pair of channels, as _room_for_weights says"""
    for block in prange(w.shape[2] // LANES):
        _transform_block(np.int64(block) * LANES, w, is_gathering, U)


@inner
def _transform_block(first, w, is_gathering, U):
    """What LANES input channels have to do with U; of 4x4, for each of the four folds w[2t + a, 2t' + b]"""
    if is_gathering:
        _transform_as_it_is(first, w, U)
    else:
        _transform_turned(first, w, U)


@inner
def _transform_as_it_is(first, w, U):
    KH, KW, C, O = w.shape
    s = 2 if KH == 4 else 1
    for a, b in np.ndindex(s, s):
        for c in range(first, first + LANES):
            for o in range(0, O, LANES):
                place = ((a * KW + b) * C + c) * O + o
                _transform(flattened(w), place, C * O, (KH, KW, s), U, s * s * C, (a * s + b) * C + c, o)


@inner
def _transform_turned(first, w, U):
    """From a fold's last tap to its first, and input channels abreast"""
    KH, KW, C, O = w.shape
    s = 2 if KH == 4 else 1
    turned = np.empty(KH * KW * LANES * LANES, w.dtype)
    for o in range(0, O, LANES):
        _turn_taps(w, first, o, turned)
        for a, b in np.ndindex(s, s):
            last = ((KH - s + a) * KW + KW - s + b) * LANES * LANES
            for k in range(LANES):
                place, column = last + k * LANES, (a * s + b) * C + first
                _transform(turned, place, -LANES * LANES, (KH, KW, s), U, O, o + k, column)


@inner
def _turn_taps(w, c, o, turned):
    """turned[u, v, j, i] = w[u, v, c + i, o + j]"""
    KH, KW = w.shape[:2]
    taps = turned.reshape(KH, KW, LANES, LANES)
    for u in range(KH):
        for v in range(KW):
            turn_block(w[u, v, c:c + LANES, o:o + LANES], taps[u, v])


@inner
def _transform(w, first, tap, size, U, rows, row, column):
    """U[p, row, column:] = (G w G^T)[p] for LANES pairs of channels, at all places p; U has so many `rows` at each

    w: flat, the first tap of these pairs at `first`, each further one `tap` numbers on; size = (KH, KW, s)
    """
    KH, KW, s = size
    plane, panel = U.shape[2], column // PANEL * PANEL
    source, to = (w, first, s * KW * tap, s * tap), panel * rows + row * PANEL + column - panel
    if len(U) == LARGE_N and KH == 3:
        transform("G(6,3)", source, (flattened(U), to, LARGE_N * plane, plane))
    elif len(U) == LARGE_N:
        transform("G(4,5)", source, (flattened(U), to, LARGE_N * plane, plane))
    elif KH // s == 3:
        transform("G(4,3)", source, (flattened(U), to, N * plane, plane))
    elif KH // s == 5:
        transform("G(2,5)", source, (flattened(U), to, N * plane, plane))
    else:
        transform("G(5,2)", source, (flattened(U), to, N * plane, plane))


@kernel
def convolve(x, x_places, w, is_gathering, U, nothing, y, epilogue, source, target, grid, r, tiles, checks, scratch,
             taken):
    """First U from w, unless it is NO_WEIGHTS; then a task is a block of tiles, its bits the same in whichever lane.

    x_places: as stored() gives them.
    epilogue = (bias, floor, places, streams): y = max(... + bias, floor), of which every 2x2 pixels only the largest
    where there is room for their places, written past the caches or not. checks[task] = the sum of all that it found.
    Returns the sum of these, which is not finite if any of it isn't.
    """
    for block in prange(w.shape[2] // LANES):
        _transform_block(np.int64(block) * LANES, w, is_gathering, U)
    for lane in prange(len(scratch)):
        check = np.empty(LANES, x.dtype)         # not in checks: lanes that write into the same cache line wait
        task = take(taken)
        while task < len(checks):
            check[:] = 0
            _convolve_tiles(task, len(scratch), x, x_places, U, nothing, y, epilogue, source, target, grid, r, tiles,
                            check, scratch[lane])
            checks[task] = check
            task = take(taken)
        arrived()
    return sum_of(flattened(checks))


@inner
def sum_of(numbers):
    total = numbers.dtype.type(0)
    for i in range(len(numbers)):
        total += numbers[i]
    return total


@inner
def _convolve_tiles(task, lanes, x, x_places, U, nothing, y, epilogue, source, target, grid, r, tiles, check, scratch):
    C, O, (n, _, plane) = source[0]**2 * x.shape[3], target[0]**2 * y.shape[3], U.shape
    first = task * tiles
    count = min(tiles, len(x) * grid[0] * grid[1] - first)
    v_step, m_step = tiles * C + PLANE_GAP, tiles * O + PLANE_GAP
    V, M = scratch[:n * n * v_step], scratch[n * n * v_step:n * n * (v_step + m_step)]
    window = scratch[n * n * (v_step + m_step):]
    m = n + 1 - r
    if x_places.size:
        unpooled_to_places(x, x_places, (first, count), source, grid, m, n, n, V, v_step, window)
    else:
        to_places(x, (first, count), source, grid, m, n, n, V, v_step, window)
    later = first + lanes * tiles
    place, later_count = position(later, grid), 0
    if epilogue[3] and not x_places.size:                    # what the caches hold comes without being asked for
        later_count = min(tiles, len(x) * grid[0] * grid[1] - later)
    for p in range(n * n):
        multiply("whole", (V, p * v_step, C, NEXT), (flattened(U), p * plane), (nothing, STAY, STAY),
                 (M, p * m_step, O), (count, O, C), NO_FLOOR, None, None)
        place = ask_for(x, place, part(later_count, p, n * n), source, grid, m, n)
    if epilogue[2].size:
        from_places_pooled(M, m_step, y, epilogue, (first, count), grid, m, window, (check, STAY))
    else:
        from_places(M, m_step, y, epilogue, (first, count), target, grid, m, n, window, (check, STAY))


# ---- The weight gradient -----------------------------------------------------------------------------------

@kernel
def correlate_tiles(x, y, places, parts, nothing, w, source, grid, r, tiles, is_far, scratch, taken):
    """w = G^T dU G for each pair of channels, dU being the sum over all tiles of V^T (A gy A^T), for each place

    parts[k] = the sum over the k-th part of all tiles. Returns the sum of all weights, not finite if any of them isn't.
    places: as y's stored(). is_far: x and y are in no cache.
    """
    for lane in prange(len(scratch)):
        k = take(taken)
        while k < len(parts):
            _add_part(k, x, y, places, parts, nothing, source, grid, r, tiles, is_far, scratch[lane])
            k = take(taken)
    U = flattened(parts[0])
    runs = (len(U) + RUN - 1) // RUN if len(parts) > 1 else 0
    for run in prange(runs):
        _add_parts(parts, U[run * RUN:(run + 1) * RUN], np.int64(run * RUN))
    checks = np.empty(w.shape[2], w.dtype)
    for c in prange(w.shape[2]):
        checks[c] = _weights_back(U, np.int64(c), w, source[0], parts.shape[1], parts.shape[3])
    return sum_of(checks)


@inner
def _add_part(k, x, y, places, parts, nothing, source, grid, r, tiles, is_far, scratch):
    C, O, (_, n, _, plane) = source[0]**2 * x.shape[3], y.shape[3], parts.shape
    m = n + 1 - r
    v_step, d_step = tiles * C + PLANE_GAP, tiles * O + PLANE_GAP
    V, D = scratch[:n * n * v_step], scratch[n * n * v_step:n * n * (v_step + d_step)]
    window = scratch[n * n * (v_step + d_step):]
    sums = flattened(parts[k])
    everything = len(x) * grid[0] * grid[1]
    begin, end = k * everything // len(parts), (k + 1) * everything // len(parts)
    for first in range(begin, end, tiles):
        count = min(tiles, end - first)
        to_places(x, (first, count), source, grid, m, n, n, V, v_step, window)
        if places.size:
            unpooled_to_places(y, places, (first, count), (ONE, STAY, STAY), grid, m, m, n, D, d_step, window)
        else:
            to_places(y, (first, count), (ONE, STAY, STAY), grid, m, m, n, D, d_step, window)
        x_place = y_place = position(first + tiles, grid)
        later_count = min(tiles, everything - first - tiles) if is_far else 0
        for p in range(n * n):
            here = sums, p * plane, O
            multiply("whole", (V, p * v_step, NEXT, C), (D, p * d_step, PANEL, O),
                     here if first > begin else (nothing, STAY, STAY), here, (C, O, count), NO_FLOOR, None,
                     None)
            x_part = part(later_count, p, n * n)
            x_place = ask_for(x, x_place, x_part, source, grid, m, n)
            y_place = ask_for(y, y_place, 0 if places.size else x_part, (ONE, STAY, STAY), grid, m, m)


@inner
def _add_parts(parts, sums, first):
    """sums, a run of parts[0] from there on, += that of the others"""
    for k in range(1, len(parts)):
        part = flattened(parts[k])
        for i in range(len(sums)):
            sums[i] += part[first + i]


@inner
def _weights_back(U, c, w, s, n, plane):
    """The weights of input channel c, w[s*t + a, s*t' + b, c]; returns the sum of them."""
    KH, KW, C, O = w.shape
    check = w.dtype.type(0)
    for a in range(s):
        for b in range(s):
            _row_back(U, flattened(w), ((a * s + b) * C + c) * O, ((a * KW + b) * C + c) * O, w.shape, s, n, plane)
    for u in range(KH):
        for v in range(KW):
            check += sum_of(w[u, v, c])
    return check


@inner
def _row_back(U, w, from_, to, shape, s, n, plane):
    """w = G^T dU G for a row of channels"""
    KH, KW, C, O = shape
    down, across = s * KW * C * O, s * C * O
    for o in range(0, O, LANES):
        if n == LARGE_N:                                     # of 5x5 kernels alone: see weight_gradient
            transform("GT(4,5)", (U, from_ + o, LARGE_N * plane, plane), (w, to + o, down, across))
        elif KH // s == 3:
            transform("GT(4,3)", (U, from_ + o, N * plane, plane), (w, to + o, down, across))
        elif KH // s == 5:
            transform("GT(2,5)", (U, from_ + o, N * plane, plane), (w, to + o, down, across))
        else:
            transform("GT(5,2)", (U, from_ + o, N * plane, plane), (w, to + o, down, across))
