"""Max-pooling: the largest value of each window, and two adjoint maps that follow where it was found.

    y[n,i,j,c]   = max over u, v of  x[n, i*s+u-p, j*s+v-p, c]        pool; u*KW + v is the maximum's place
    gx[n,h,w,c]  = sum of gy[n,i,j,c] whose maximum lies at (h, w)    scatter
    y[n,i,j,c]   = x at the place of the maximum of (n,i,j,c)         gather, the adjoint of scatter

Pixels of the padding take no part. The first of equal maxima is taken, and NaN beats every number. A task
writes one row of the output and nothing else (in scatter too: it goes through all windows over its row), so
that overlapping windows need no atomic sums, and threads cannot change a bit. The innermost loop is over
channels.

Of 2x2 pixels the gradient has one that is not 0. Whoever reads it next can do without the others: see Unpooled.
"""

from typing import NamedTuple

import numba
import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import VECTOR_BYTES, Operand, Vector, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array, Shape

NO_PLACES = np.empty((0, 0, 0, 0), np.uint8)  # of largest pixels, where a kernel that could choose some doesn't


class Unpooled(NamedTuple):
    """Images of which max-pooling has chosen one of each 2x2 pixels: the others are 0, and needn't be in memory."""

    pixels: Array  # (N, OH // 2, OW // 2, O)
    places: Array  # which of the four each of them is, 0 to 3
    hw: tuple[int, int]  # (OH, OW)

    @property
    def shape(self) -> Shape:
        return self.pixels.shape[0], *self.hw, self.pixels.shape[3]

    def whole(self) -> Array:
        """All pixels.

        >>> Unpooled(np.full((1, 1, 1, 1), 5.0), np.full((1, 1, 1, 1), 2, np.uint8), (2, 3)).whole()[0, :, :, 0]
        array([[0., 0., 0.],
               [5., 0., 0.]])
        """
        return max_pool_scatter(self.pixels, self.places, self.shape, (2, 2), (2, 2), (0, 0))


def whole(x: Array | Unpooled) -> Array:
    """All pixels of images, contiguous."""
    return x.whole() if isinstance(x, Unpooled) else np.ascontiguousarray(x)


def stored(x: Array | Unpooled) -> tuple[Array, Array]:
    """Those pixels of images that are in memory, and which of four each of them is; NO_PLACES if these are all."""
    pixels, places = (x.pixels, x.places) if isinstance(x, Unpooled) else (x, NO_PLACES)
    return np.ascontiguousarray(pixels), places


def max_pool(x: Array, kernel_size: tuple[int, int], stride: tuple[int, int], padding: tuple[int, int],
             size: tuple[int, int]) -> tuple[Array, Array]:
    """The maxima of x (N, H, W, C) and their places in the windows, small integers, both (N, *size, C).

    stride is (sh, sw), padding (top, left): what lies below and to the right follows from `size`.
    """
    n, _, _, channels = x.shape
    y = empty((n, *size, channels), x.dtype)
    place = empty(y.shape, np.uint8 if kernel_size[0] * kernel_size[1] <= 256 else np.int32)
    x = np.ascontiguousarray(x)
    if _side_by_side(x.shape, size, kernel_size, stride, padding):
        pool_fours(x, y, place, numba.get_num_threads(), none_taken())
    else:
        pool(x, *kernel_size, *stride, *padding, y, place)
    return y, place


def max_pool_scatter(gy: Array, place: Array, shape: Shape, kernel_size: tuple[int, int], stride: tuple[int, int],
                     padding: tuple[int, int]) -> Array:
    """Bring gy back to where the maxima were found, in an array of the input's shape."""
    gx = empty(shape, gy.dtype)
    gy = np.ascontiguousarray(gy)
    if _side_by_side(shape, gy.shape[1:3], kernel_size, stride, padding):
        scatter_fours(gy, place, gx, numba.get_num_threads(), none_taken())
    else:
        scatter(gy, place, *kernel_size, *stride, *padding, gx)
    return gx


def max_pool_gather(x: Array, place: Array, kernel_size: tuple[int, int], stride: tuple[int, int],
                    padding: tuple[int, int]) -> Array:
    """Read x where the maxima were found."""
    y = empty(place.shape, x.dtype)
    gather(np.ascontiguousarray(x), place, *kernel_size, *stride, *padding, y)
    return y


def _side_by_side(shape, size, kernel_size, stride, padding):
    """Whether 2x2 windows cover an image of this shape side by side: the common case, with loops of its own."""
    plain = tuple(kernel_size) == tuple(stride) == (2, 2) and tuple(padding) == (0, 0)
    return plain and shape[1:3] == (2 * size[0], 2 * size[1])


@inner
def reach(start, length, size):
    """The part of a window from `start` on that lies within 0..size, counted from its start."""
    return max(0, -start), min(length, size - start)


@inner
def windows_over(position, length, stride, count):
    """The range of windows that cover a position (counted from the padded edge)."""
    return max(0, (position - length + stride) // stride), min(count, position // stride + 1)


@inner
def challenge(best, at, pixel, k):
    """Let a pixel challenge the best so far, channel by channel; k is its place in the window."""
    for c in range(len(best)):
        beats = pixel[c] > best[c] or pixel[c] != pixel[c]  # the second is true of NaN alone
        best[c] = pixel[c] if beats else best[c]
        at[c] = k if beats else at[c]


@kernel
def pool(x, KH, KW, sh, sw, top, left, y, place):
    """y = the maximum of each window of x, place = the cell of the window where it stands."""
    _, H, W, C = x.shape
    N, OH, OW, _ = y.shape
    integer = place.dtype.type
    for task in prange(N * OH):
        n, i = task // OH, task % OH
        h = i * sh - top
        u0, u1 = reach(h, KH, H)
        for j in range(OW):
            w = j * sw - left
            v0, v1 = reach(w, KW, W)
            best, at = y[n, i, j], place[n, i, j]
            first = x[n, h + u0, w + v0]
            for c in range(len(best)):  # `best[:] = first` could raise: to compile its sentence takes 2 s
                best[c] = first[c]
            at[:] = integer(u0 * KW + v0)
            for u in range(u0, u1):
                for v in range(v0, v1):
                    challenge(best, at, x[n, h + u, w + v], integer(u * KW + v))


@kernel
def pool_fours(x, y, place, lanes, taken):
    """The same where 2x2 windows cover the image side by side: each is read and written in one pass."""
    N, OH, OW, C = y.shape
    lowest = x.dtype.type(-np.inf)
    for _ in prange(lanes):
        task = take(taken)
        while task < N * OH:
            n, i = task // OH, task % OH
            best_of_four(flattened(x[n, 2 * i]), flattened(x[n, 2 * i + 1]), flattened(y[n, i]),
                         flattened(place[n, i]), C, lowest)
            task = take(taken)


@inner
def best_of_four(upper, lower, best, at, C, floor):
    """The maxima of two rows of pixels, or the floor where that is more.

    The loop over pixels is in here, too: so it is once a row that it is checked whether the arrays overlap.
    """
    k0, k1, k2, k3 = np.uint8(0), np.uint8(1), np.uint8(2), np.uint8(3)
    for j in range(best.size // max(C, 1)):
        here, there = j * C, 2 * j * C
        for c in range(C):
            m, k, v = upper[there + c], k0, upper[there + C + c]
            beats = v > m or v != v  # the second is true of NaN alone
            m, k, v = v if beats else m, k1 if beats else k, lower[there + c]
            beats = v > m or v != v
            m, k, v = v if beats else m, k2 if beats else k, lower[there + C + c]
            beats = v > m or v != v
            m = v if beats else m
            best[here + c], at[here + c] = floor if floor > m else m, k3 if beats else k


@kernel
def scatter(gy, place, KH, KW, sh, sw, top, left, gx):
    """gx[n,h,w,c] = sum of gy[n,i,j,c] over the windows (i, j) whose maximum is at (h, w)."""
    N, OH, OW, C = gy.shape
    _, H, W, _ = gx.shape
    zero = gx.dtype.type(0)
    for task in prange(N * H):
        n, h = task // H, task % H
        row = gx[n, h]
        row[:] = zero
        i0, i1 = windows_over(h + top, KH, sh, OH)
        for i in range(i0, i1):
            for j in range(OW):
                w = j * sw - left
                v0, v1 = reach(w, KW, W)
                g, at = gy[n, i, j], place[n, i, j]
                for v in range(v0, v1):
                    out = row[w + v]
                    k = place.dtype.type((h + top - i * sh) * KW + v)
                    for c in range(C):
                        out[c] += g[c] if at[c] == k else zero


@kernel
def scatter_fours(gy, place, gx, lanes, taken):
    """The same where 2x2 windows cover the image side by side: each element is written once, and none is read."""
    N, OH, OW, C = gy.shape
    for _ in prange(lanes):
        task = take(taken)
        while task < N * OH:
            n, i = task // OH, task % OH
            give_to_four(flattened(gy[n, i]), flattened(place[n, i]), flattened(gx[n, 2 * i]),
                         flattened(gx[n, 2 * i + 1]), C)
            task = take(taken)


@inner
def give_to_four(g, at, upper, lower, C):
    """In two rows of pixels, two above and two below get g where the maximum was theirs, and else 0."""
    zero = g.dtype.type(0)
    for j in range(g.size // max(C, 1)):
        here, there = j * C, 2 * j * C
        for c in range(C):
            k, v = at[here + c], g[here + c]
            upper[there + c] = v if k == 0 else zero
            upper[there + C + c] = v if k == 1 else zero
            lower[there + c] = v if k == 2 else zero
            lower[there + C + c] = v if k == 3 else zero


@kernel
def gather(x, place, KH, KW, sh, sw, top, left, y):
    """y[n,i,j,c] = x at the place of (n,i,j,c)."""
    N, OH, OW, C = y.shape
    for task in prange(N * OH):
        n, i = task // OH, task % OH
        for j in range(OW):
            for c in range(C):
                k = np.int64(place[n, i, j, c])  # small integers of NumPy's own would wrap or overflow
                y[n, i, j, c] = x[n, i * sh - top + k // KW, j * sw - left + k % KW, c]


# ---- Unpooled images, read without being written ------------------------------------------------------------

@inner
def unpool_run(pixels, places, hw, position, run):
    """run = the pixels from a position on, counted through all rows of all images, of Unpooled(pixels, places, hw)"""
    H, W = hw
    C = pixels.shape[3]
    n, h, w = position // (H * W), position // W % H, position % W
    done = 0
    while done < len(run):
        count = min((W - w) * C, len(run) - done)
        unpool_row(pixels, places, n, h, w, run[done : done + count])
        done += count
        h, w = h + 1, 0
        if h == H:
            n, h = n + 1, 0


@inner
def unpool_row(pixels, places, n, h, w, row):
    """row = the pixels from (n, h, w) on"""
    _, rows, columns, C = pixels.shape
    flat, at = flattened(pixels), flattened(places)
    lanes = VECTOR_BYTES // row.itemsize
    whole = C // lanes * lanes
    covered = min(len(row), (2 * columns - w) * C) if h < 2 * rows else 0
    for i in range(max(0, covered), len(row)):
        row[i] = 0
    for i in range(0, covered, C):
        here, wanted = ((n * rows + h // 2) * columns + w // 2) * C, np.uint8(h % 2 * 2 + w % 2)
        for c in range(0, whole, lanes):
            put_where((flat, here + c), (at, here + c), wanted, (row, i + c))
        for c in range(whole, C):
            row[i + c] = flat[here + c] if at[here + c] == wanted else 0
        w += 1


@intrinsic
def _put_where(typing, values, places, wanted, target):
    """target = a vector of the values where their places are the one that is wanted, and else 0: all (array, offset)"""
    signature = types.none(values, places, wanted, target)

    def codegen(context, builder, signature, arguments):
        x, at, y = (Operand(context, builder, signature.args[i], arguments[i]) for i in (0, 1, 3))
        vector = Vector(builder, signature.args[0][0].dtype)
        vector.store(vector.load_where(x.at(), at.at(), arguments[2]), y.at(), None)
        return context.get_dummy_value()

    return signature, codegen


def _put_where_numpy(values, places, wanted, target):
    lanes = VECTOR_BYTES // values[0].itemsize
    x, at, y = (array[offset:][:lanes] for array, offset in (values, places, target))
    y[...] = np.where(at == wanted, x, 0)


put_where = _put_where_numpy if config.DISABLE_JIT else _put_where
