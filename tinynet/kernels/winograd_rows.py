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
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I1, I64, Operand, Vector, emit_loop, flattened, has_wide_registers, unknown
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty, room_for, zeros
from tinynet.kernels.pooling import NO_PLACES, max_pool
from tinynet.kernels.prepared import prepared
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import none_taken, take
from tinynet.kernels.tile import ONE, STAY, least
from tinynet.kernels.window import load_window
from tinynet.kernels.winograd import direct_only, sum_of
from tinynet.kernels.winograd_transform import LANES, MATRICES, POINTS, N, add_to, multiply
from tinynet.shapes import Geometry
from tinynet.typing import Array, DType, Shape

STRIP = N - 2                    # rows of y that N rows of x give
PHOTO = 3                        # channels for which the loop is unrolled
# By name, what stays in registers, as tile.py has it: (pixels, vectors of outputs, taps if the loop is unrolled)
if has_wide_registers():
    TILES = {"wide photo": (4, 2, 3 * PHOTO), "narrow photo": (8, 1, 3 * PHOTO), "wide": (8, 2, None),
             "narrow": (16, 1, None)}
else:
    TILES = {"wide photo": (4, 1, 3 * PHOTO), "narrow photo": (4, 1, 3 * PHOTO), "wide": (6, 1, None),
             "narrow": (6, 1, None)}
TOGETHER = 16 if has_wide_registers() else 12     # pixels, of which all outputs are computed before the next ones
WIDE = TILES["wide"][1] * LANES  # outputs
LEAST_INPUTS = PHOTO             # with 1 it took 1.1 times as long as the direct sum, with 2 as long
LEAST_FULL = 3 / 4               # the part of a pixel's vectors that outputs fill; with 5/8 as long as the direct sum
CACHE = 3 * 2**11                # numbers of V: half of a first cache
LEAST_FILLED = 0.55              # as winograd.py's


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
        starts[POINTS.index(1), :abreast * O] = np.tile(b, abreast)
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
        U[:, i:i + KW, :, i * O:(i + 1) * O] = np.einsum("tu,uvco->tvco", MATRICES["G3"][0].astype(w.dtype), w)
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
        transform_rows("BT", lines, (V, STAY, width), width)
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
        j = min(begin, width - TOGETHER)                   # in the last round, some pixels once more
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


@intrinsic(prefer_literal=True)
def _transform_rows(typing, name, x, v, count):
    """v[t, :count] = sum over h of M[t, h] x[h, :count] for that M of MATRICES; x, v = (array, offset, step of rows)"""
    if not isinstance(name, types.StringLiteral):
        return None
    factors = MATRICES[name.literal_value]

    def codegen(context, builder, signature, arguments):
        x, v = (Operand(context, builder, signature.args[i], arguments[i]) for i in (1, 2))
        vector, count = Vector(builder, signature.args[1][0].dtype), arguments[3]

        def columns(i, part):
            first, rows = builder.mul(i, I64(vector.lanes)), range(factors[-1].shape[1])
            values = [vector.load(x.at(first, builder.mul(I64(h), x.steps[0])), part) for h in rows]
            for t, value in enumerate(multiply(vector, factors, values)):
                vector.store(value, v.at(first, builder.mul(I64(t), v.steps[0])), part)
            return []

        whole, left = builder.sdiv(count, I64(vector.lanes)), builder.srem(count, I64(vector.lanes))
        with builder.if_then(builder.icmp_signed(">", whole, I64(0))):
            emit_loop(builder, whole, [], lambda i, _: columns(i, None))
        with builder.if_then(builder.icmp_signed(">", left, I64(0))):
            columns(whole, vector.part(left))
        return context.get_dummy_value()

    return types.none(name, x, v, count), codegen


@intrinsic(prefer_literal=True)
def _multiply_rows(typing, name, pooled, v, u, s, y, places, taps, height, left, done):
    """y[h, j, :] = max(sum over t of A^T[h, t] M[t, j, :], floor),  M[t, j] = s[t] + sum over k of V[t, j, k] U[t, k]

    for TOGETHER pixels j and a vector of outputs or two, as TILES[name] says; returns how many that are. Of a narrow
    tile's, no more than are `left` go to y. If pooled, the largest of each 2x2 pixels goes there, and which of them it
    is to places.

    v = (array, offset, step of t, of j)     s = (array, offset, step of t)          taps: how many k
    u = (array, offset, step of t, of k)     y = (array, offset, step of h, of j)    height: how many h
    places = (array, offset), with y's steps     done = (floor, (check, offset), streams), as winograd_transform's
    """
    if not isinstance(name, types.StringLiteral) or not isinstance(pooled, types.BooleanLiteral):
        return None

    def codegen(context, builder, signature, arguments):
        pairs = zip(signature.args[2:7], arguments[2:7], strict=True)
        operands = [Operand(context, builder, *pair) for pair in pairs]
        floor, check, streams = (builder.extract_value(arguments[10], i) for i in range(3))
        check = Operand(context, builder, signature.args[10][1], check)
        vector = Vector(builder, signature.args[2][0].dtype)
        tile = _Tile(vector, TILES[name.literal_value], pooled.literal_value, *operands, arguments[7])
        tile.set_target(arguments[8], arguments[9], floor, builder.trunc(streams, I1))

        def pixels(i, total):
            return tile.emit(builder.mul(i, I64(tile.pixels)), total)

        add_to(vector, check, emit_loop(builder, I64(TOGETHER // tile.pixels), [vector.zero], pixels))
        return I64(tile.vectors * vector.lanes)

    return types.intp(name, pooled, v, u, s, y, places, taps, height, left, done), codegen


class _Tile:
    """What is emitted for some pixels: their M, row by row, to the stack, and from there A^T M to y, pixel by pixel."""

    def __init__(self, vector, shape, pooled, v, u, s, y, places, taps):
        self.vector, self.builder, self.pooled = vector, vector.builder, pooled
        self.pixels, self.vectors, self.unrolled = shape
        self.v, self.u, self.s, self.y, self.places, self.taps = v, u, s, y, places, taps
        self.M = vector.on_stack(N * self.pixels * self.vectors)

    def set_target(self, height, left, floor, streams):
        """What is written: rows that y doesn't have go where its last one is, before that."""
        builder, rows = self.builder, STRIP // 2 if self.pooled else STRIP
        last = builder.sub(height, I64(1))
        self.rows = [builder.mul(builder.select(builder.icmp_signed("<", I64(h), last), I64(h), last), self.y.steps[0])
                     for h in range(rows)]
        self.floor = self.vector.spread(floor)
        self.part = self.vector.part(left) if self.vectors == 1 else None
        self.streams = builder.and_(streams, builder.icmp_signed("==", height, I64(rows)))       # each line once

    def emit(self, first, total):
        """The pixels from there on; returns the total plus all of them."""
        builder = self.builder
        origin = builder.mul(first, self.v.steps[1])
        emit_loop(builder, I64(N), [], lambda t, _: self._products(t, origin))
        if self.pooled:
            first = builder.lshr(first, I64(1))
            return emit_loop(builder, I64(self.pixels // 2), total, lambda p, total: self._pair(first, p, total))
        return emit_loop(builder, I64(self.pixels), total, lambda p, total: self._pixel(first, p, total))

    def _products(self, t, origin):
        """M[t] of all pixels: the sums over the taps, to the stack"""
        builder, vector = self.builder, self.vector
        start = self._load(self.s, builder.mul(t, self.s.steps[0]))
        from_v = builder.add(origin, builder.mul(t, self.v.steps[0]))
        from_u = builder.mul(t, self.u.steps[0])
        sums = (self._unrolled if self.unrolled else self._loop)(from_v, from_u, start * self.pixels)
        for i, value in enumerate(sums):
            vector.store(value, self._place(t, I64(i)), None)
        return []

    def _loop(self, from_v, from_u, sums):
        """A tap at a time: its weights, and for each pixel its number of V"""
        builder, vector = self.builder, self.vector
        pixels = [builder.mul(I64(p), self.v.steps[1]) for p in range(self.pixels)]

        def tap(k, sums):
            at_v = unknown(builder, builder.add(from_v, k))
            at_u = unknown(builder, builder.add(from_u, builder.mul(k, self.u.steps[1])))
            weights = self._load(self.u, at_u)
            numbers = [vector.spread(builder.load(self.v.at(pixel, at_v))) for pixel in pixels]
            products = [(number, w) for number in numbers for w in weights]
            return [vector.multiply_add(*pair, one) for pair, one in zip(products, sums, strict=True)]

        return emit_loop(builder, self.taps, sums, tap)

    def _unrolled(self, from_v, from_u, sums):
        """A number of V at a time, which is a tap of several pixels; their windows begin PHOTO numbers apart."""
        builder, vector = self.builder, self.vector
        weights = [self._load(self.u, builder.add(from_u, builder.mul(I64(k), self.u.steps[1])))
                   for k in range(self.unrolled)]
        sums = [sums[p * self.vectors:(p + 1) * self.vectors] for p in range(self.pixels)]
        for i in range(PHOTO * (self.pixels - 1) + self.unrolled):
            number = vector.spread(builder.load(self.v.at(from_v, I64(i))))
            for p in range(self.pixels):
                if 0 <= i - PHOTO * p < self.unrolled:
                    pairs = zip(weights[i - PHOTO * p], sums[p], strict=True)
                    sums[p] = [vector.multiply_add(number, w, total) for w, total in pairs]
        return [total for each in sums for total in each]

    def _pixel(self, first, p, total):
        builder, vector = self.builder, self.vector
        to = builder.mul(builder.add(first, p), self.y.steps[1])
        for i in range(self.vectors):
            values = self._transformed(p, i)
            total = [functools.reduce(vector.add, values, *total)]
            self._store(values, to, i)
        return total

    def _pair(self, first, p, total):
        """Two pixels of four rows, of which y gets one of two rows"""
        builder, vector = self.builder, self.vector
        to, two = builder.mul(builder.add(first, p), self.y.steps[1]), builder.mul(p, I64(2))
        for i in range(self.vectors):
            left, right = self._transformed(two, i), self._transformed(builder.add(two, I64(1)), i)
            total = [functools.reduce(vector.add, left + right, *total)]
            best = [vector.largest([left[h], right[h], left[h + 1], right[h + 1]]) for h in range(0, STRIP, 2)]
            self._store([value for value, _ in best], to, i)
            for (_, rank), row in reversed(list(zip(best, self.rows, strict=True))):
                vector.store_bytes(rank, self.places.at(to, row, I64(i * vector.lanes)))
        return total

    def _transformed(self, p, i):
        """A^T M for the i-th vector of the p-th pixel: its rows of y"""
        place = self.builder.add(self.builder.mul(p, I64(self.vectors)), I64(i))
        values = [self.vector.load(self._place(I64(t), place), None) for t in range(N)]
        return multiply(self.vector, MATRICES["AT3"], values)

    def _store(self, values, to, i):
        values = [self.vector.maximum(value, self.floor) for value in values]
        places = [(self.y.at(to, row, I64(i * self.vector.lanes)), self.part) for row in self.rows]
        self.vector.store_all(values[::-1], places[::-1], self.streams)

    def _place(self, t, i):
        """Where on the stack the i-th vector of M[t] is"""
        at = self.builder.add(self.builder.mul(t, I64(self.pixels * self.vectors)), i)
        return self.builder.gep(self.M, [self.builder.mul(at, I64(self.vector.lanes))])

    def _load(self, operand, offset):
        """The vectors of outputs from there on"""
        return [self.vector.load(operand.at(offset, I64(i * self.vector.lanes)), None) for i in range(self.vectors)]


# ---- The same in NumPy, for NUMBA_DISABLE_JIT=1 ------------------------------------------------------------

def _view(operand, shape):
    """A view of (array, offset, steps...), whose last axis has steps of 1"""
    array, offset, *steps = operand
    steps = [step * array.itemsize for step in (*steps, 1)]
    return np.lib.stride_tricks.as_strided(array[offset:], shape, steps)


def _transform_rows_numpy(name, x, v, count):
    matrix = functools.reduce(np.matmul, MATRICES[name]).astype(v[0].dtype)
    _view(v, (len(matrix), count))[...] = matrix @ _view(x, (matrix.shape[1], count))


def _multiply_rows_numpy(name, pooled, v, u, s, y, places, taps, height, left, done):
    outputs = TILES[name][1] * LANES
    width, (floor, (check, at), _) = TOGETHER, done
    M = _view(s, (N, outputs))[:, None] + _view(v, (N, width, taps)) @ _view(u, (N, taps, outputs))
    strip = np.tensordot(*MATRICES["AT3"], M, 1).astype(M.dtype)              # (4, width, outputs)
    check[at:at + LANES] += strip.reshape(-1, LANES).sum(0)
    if pooled:
        fours = strip.reshape(2, 2, width // 2, 2, outputs).transpose(0, 2, 1, 3, 4).reshape(2, width // 2, 4, outputs)
        strip = fours.max(2)
        _view((*places, *y[2:]), (height, width // 2, outputs))[...] = fours.argmax(2)[:height]
    stored = min(outputs, left)
    _view(y, (height, strip.shape[1], stored))[...] = np.maximum(strip[:height, :, :stored], floor)
    return outputs


if config.DISABLE_JIT:
    transform_rows, multiply_rows = _transform_rows_numpy, _multiply_rows_numpy
else:
    transform_rows, multiply_rows = _transform_rows, _multiply_rows
