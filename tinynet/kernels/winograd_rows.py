"""Winograd's 3x3 convolution down the columns of an image, a direct sum along its rows: for few channels.

winograd.py transforms tiles along both axes, whole vectors of channels at a time. With few channels that takes as long
as the products that it saves, or there are no whole vectors. Along one axis, 6 products give 4 pixels, and to transform
is to add up rows, whatever is in them:

    V[t, l, c]        = sum over h    B^T[t, h] x[4i + h - top, l - left, c]          6 rows of 6
    U[t, (v, c), o]   = sum over u    G[t, u] w[u, v, c, o]                           made once
    M[t, j, o]        = sum over v, c  V[t, j + v, c] U[t, (v, c), o]                  half of the multiplications
    y[4i + h, j, o]   = sum over t    A^T[h, t] M[t, j, o]                            4 rows of 6

A pixel's window in a row of V is one run of numbers, as channels are last: the sum over v and c is a single loop. M is
never written as a whole: some pixels of it, 6 rows of them, come from the registers and are transformed at once, and
biased, rectified and pooled. For 3 channels, those of photos, the loop is unrolled, and a number of V is loaded once
for the up to 3 pixels whose windows it belongs to.

Against the direct sum, forward, 16 images of 128 x 128: 3 channels to 32 1.2 times as fast, with pooling 1.5 times; 8
to 8 1.5, 8 to 16 1.35, 12 to 64 1.45 times.

Outputs that fill half of a vector or less are computed for neighbouring pixels side by side: one wide pixel, in whose
weights each has its own shifted to where its window is, with zeros around.

The bias is added to M at the point 1: A^T is 1 there in each of its rows. Rounding and what isn't finite: as in
winograd.py, with a third of its error.
"""
import functools
import math
from typing import Any

import numba
import numpy as np

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, room_for, zeros
from tinynet.kernels.pooling import NO_PLACES, max_pool
from tinynet.kernels.prepared import prepared
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.tile import ONE, STAY, least
from tinynet.kernels.window import load_window
from tinynet.kernels.winograd import LEAST_FILLED, direct_only, sum_of
from tinynet.kernels.winograd_rows_tile import PHOTO, STRIP, TOGETHER, WIDE, multiply_rows, transform_rows
from tinynet.kernels.winograd_transform import LANES, MATRICES, POINTS, N
from tinynet.shapes import Geometry
from tinynet.typing import Array, DType, Shape

LEAST_INPUTS = PHOTO             # with 1 it took 1.1 times as long as the direct sum, with 2 as long
LEAST_FULL = 3 / 4               # the part of a pixel's vectors that outputs fill; with 5/8 as long as the direct sum
CACHE = 3 * 2**11                # numbers of V: half of a first cache


def pays(w_shape: Shape, y_hw: tuple[int, int], dtype: DType, geometry: Geometry) -> bool:
    """Is it such a convolution, large enough? w_shape = (KH, KW, inputs, outputs)"""
    return _suits(w_shape, y_hw, dtype, geometry) and not direct_only.get()


@functools.lru_cache(maxsize=1024)
def _suits(w_shape, y_hw, dtype, geometry):
    (height, width), (C, O) = y_hw, w_shape[2:]
    abreast, columns = pixels_abreast(O), -(-O // LANES) * LANES
    return (w_shape[:2] == (3, 3) and dtype == np.float32 and geometry.stride == geometry.dilation == (1, 1)
            and geometry.groups == 1 and C >= LEAST_INPUTS and abreast * O >= LEAST_FULL * columns
            and width % abreast == 0 and width // abreast >= TOGETHER
            and height >= LEAST_FILLED * -(-height // STRIP) * STRIP)


def pixels_abreast(outputs: int) -> int:
    """How many pixels are a wide one"""
    return 2 if 2 * outputs <= LANES else 1


def gather(x: Array, w: Array, b: Array | None, padding: tuple[int, int], out_hw: tuple[int, int], relu: bool = False,
           pool: bool = False) -> Any:
    """As convolution.gather with padding = (top, left); None if the result isn't finite everywhere."""
    (height, width), (C, O) = out_hw, w.shape[2:]
    pooled_hw, abreast = (height // 2, width // 2), pixels_abreast(O)
    U = prepared.get(_transformed, w, abreast)
    starts = zeros((N, U.shape[2]), x.dtype)
    if b is not None:
        starts[POINTS[N].index(1), :abreast * O] = np.tile(b, abreast)
    fits = pool and C == PHOTO and O % WIDE == 0
    y = empty((len(x), *(pooled_hw if fits else out_hw), O), x.dtype)
    places = empty(y.shape, np.uint8) if fits else NO_PLACES
    if fits:
        height, width = height // 2 * 2, width // 2 * 2
    is_lined_up = abreast * O % LANES == 0                   # what is written past the caches must be
    epilogue = least(relu, x.dtype), places, ONE if is_lined_up and is_streamed(x, y) else STAY
    checks = np.zeros((len(x) * -(-height // STRIP), LANES), x.dtype)
    at_once = max(TOGETHER, CACHE // (N * C * abreast) // TOGETHER * TOGETHER)
    split = abreast, min(width // abreast, at_once), numba.get_num_threads()
    total = convolve_strips(np.ascontiguousarray(x), U, starts, y, epilogue, padding, (height, width // abreast), split,
                            checks, none_taken())
    if not math.isfinite(total):
        return None
    if fits:
        return y, places
    return max_pool(y, (2, 2), (2, 2), (0, 0), pooled_hw) if pool else y


def _transformed(w, abreast):
    """U (6, taps, columns) for wide pixels: the i-th of those abreast has its taps i pixels to the right

    There are as many columns as fill vectors: those behind the outputs are 0.
    """
    _, KW, C, O = w.shape
    U = zeros((N, KW + abreast - 1, C, -(-abreast * O // LANES) * LANES), w.dtype)
    for i in range(abreast):
        U[:, i:i + KW, :, i * O:(i + 1) * O] = np.einsum("tu,uvco->tvco", MATRICES["G(4,3)"][0].astype(w.dtype), w)
    return U.reshape(N, -1, U.shape[3])


@kernel
def convolve_strips(x, U, starts, y, epilogue, padding, size, split, checks, taken):
    """A task is a strip of an image, the 4 rows of y that 6 rows of x give; its bits are the same in whichever lane.

    size = (rows of y, wide pixels of a row)
    split = (pixels of a wide one, wide ones of which V stays in the first cache, lanes)
    epilogue = (floor, places, streams): y = max(..., floor), of which every 2x2 pixels only the largest where there is
    room for their places, written past the caches or not
    """
    strips = (size[0] + STRIP - 1) // STRIP
    abreast, at_once, lanes = split
    for _ in prange(lanes):
        room = N * (at_once * abreast + 2) * x.shape[3]
        V, window = room_for(room, x), room_for(room, x)
        task = take(taken)
        while task < len(checks):
            place = task // strips, task % strips * STRIP
            _convolve_strip(place, x, U, starts, y, epilogue, padding, size, split, V, window, checks[task])
            task = take(taken)
        arrived()
    return sum_of(flattened(checks))


@inner
def _convolve_strip(place, x, U, starts, y, epilogue, padding, size, split, V, window, check):
    (n, i), (abreast, at_once, _) = place, split
    floor, places, streams = epilogue
    C, (_, rows, pixels, channels) = x.shape[3], y.shape
    pools = ONE if places.size else STAY
    width = (at_once * abreast + 2) * C
    for begin in range(0, size[1], at_once):
        j = min(begin, size[1] - at_once)                    # in the last round, some pixels once more
        lines = strip_of(x, n, i - padding[0], N, j * abreast - padding[1], at_once * abreast + 2, window)
        transform_rows("BT6", lines, (V, STAY, width), width)
        first = ((n * rows + (i >> pools)) * pixels + (j * abreast >> pools)) * channels
        target = flattened(y), first, pixels * channels, abreast * channels
        _multiply((V, STAY, width, abreast * C), U, flattened(starts), target, flattened(places),
                  min(STRIP >> pools, rows - (i >> pools)), at_once, (floor, (check, STAY), streams))


@inner
def strip_of(x, n, top, rows, left, width, window):
    """(array, offset, from row to row) of so many rows of x[n], from left to left + width: where they are, or a copy in
    the window, with zeros, if they reach beyond the image"""
    _, H, W, C = x.shape
    if top >= 0 and left >= 0 and top + rows <= H and left + width <= W:
        return flattened(x), ((n * H + top) * W + left) * C, W * C
    load_window(x, n, top, top + rows, left, width, window)
    return window, STAY, width * C


@inner
def _multiply(v, U, starts, target, places, height, width, done):
    """y = max(A^T (V U) + bias, floor), pixels by pixels: all outputs of some, so that y is written in its order"""
    _, taps, columns = U.shape
    pools = ONE if len(places) else STAY
    for begin in range(0, width, TOGETHER):
        j = min(begin, width - TOGETHER)                     # in the last round, some pixels once more
        o = 0
        while o < target[3]:
            a, u = (v[0], v[1] + j * v[3], v[2], v[3]), (flattened(U), o, taps * columns, columns)
            s, at = (starts, o, columns), target[1] + (j >> pools) * target[3] + o
            y, chosen, left = (target[0], at, target[2], target[3]), (places, at), target[3] - o
            if len(places):
                o += multiply_rows("wide photo", True, a, u, s, y, chosen, taps, height, left, done)
            elif taps == 3 * PHOTO and left >= WIDE:
                o += multiply_rows("wide photo", False, a, u, s, y, chosen, taps, height, left, done)
            elif taps == 3 * PHOTO:
                o += multiply_rows("narrow photo", False, a, u, s, y, chosen, taps, height, left, done)
            elif left >= WIDE:
                o += multiply_rows("wide", False, a, u, s, y, chosen, taps, height, left, done)
            else:
                o += multiply_rows("narrow", False, a, u, s, y, chosen, taps, height, left, done)
