"""Convolutions with so few outputs that all taps of all of them fit into two vectors: multiply first, shift afterwards.

    y[n,i,j,o] = b[o] + sum over u, v of  P[n, i + u - top, j + v - left, (u, v, o)]
    P[n,h,l,(u,v,o)] = sum over c of  x[n,h,l,c] * w[u,v,c,o]                          stride and dilation 1

A convolution to 3 colours would leave 13 of 16 lanes of a vector empty. But its 3x3 taps are 27 columns, and P is a
plain product of pixels and weights, which the register tile takes at full speed. What is left is to add up 9 shifted
pixels of P: an addition for as many multiplications as x has channels. (3x3, 32 channels to 3: 2.4 times as fast.)

The weight gradient is the same the other way round: shift first, multiply afterwards.

    w[u,v,c,o] = sum over n,h,l of  x[n,h,l,c] * Q[n,h,l,(u,v,o)]
    Q[n,h,l,(u,v,o)] = y[n, h - u + top, l - v + left, o], or 0 outside of y

Each pixel of x is then read once, not once for each tap. (3x3, 32 channels to 3: 1.5 times as fast as the direct sum.)
"""
import numba
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I64, VECTOR_BYTES, Operand, Vector, emit_loop, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts
from tinynet.kernels.memory import empty, room_for, zeros
from tinynet.kernels.panels import PANEL_BYTES
from tinynet.kernels.product import multiply
from tinynet.kernels.tasks import TASKS, none_taken, take
from tinynet.kernels.tile import NEXT, NO_FLOOR, STAY
from tinynet.kernels.window import clear, copy, load_window
from tinynet.shapes import Geometry
from tinynet.typing import Array, Shape

ROWS = 16                       # of pixels a task, at least
MOST = 4                        # outputs: a pixel of y is a short vector
LEAST_INPUTS = 16               # channels of x, for which this pays
MOST_COLUMNS = 2 * VECTOR_BYTES // 4
ABREAST = 4                     # pixels whose taps are added up at once (1.1 to 1.7 times as fast as one by one)
PIXELS_AT_ONCE = 128            # of a weight gradient: x and Q stay in the first cache


def pays(w_shape: Shape, geometry: Geometry) -> bool:
    """Is it such a convolution? w_shape = (KH, KW, inputs, outputs)"""
    KH, KW, inputs, outputs = w_shape
    return (geometry.stride == geometry.dilation == (1, 1) and geometry.groups == 1 and outputs <= MOST
            and inputs >= LEAST_INPUTS and KH * KW > 1 and KH * KW * outputs <= MOST_COLUMNS)


def gather(x: Array, w: Array, b: Array | None, padding: tuple[int, int], out_hw: tuple[int, int]) -> Array:
    """y[n,i,j,o] = b[o] + sum_uvc x[n, i + u - top, j + v - left, c] w[u,v,c,o]; padding = (top, left)

    x (N, H, W, C), w (KH, KW, C, O), b (O) or None, out_hw = (OH, OW); returns y (N, OH, OW, O).

    >>> gather(np.ones((1, 3, 3, 16)), np.ones((2, 2, 16, 1)), None, (0, 0), (2, 2))[0, :, :, 0]
    array([[64., 64.],
           [64., 64.]])
    """
    KH, KW, C, O = w.shape
    lanes = VECTOR_BYTES // x.itemsize
    columns = -(-KH * KW * O // lanes) * lanes
    weights = zeros((C, columns), x.dtype)
    weights[:, :KH * KW * O] = w.transpose(2, 0, 1, 3).reshape(C, -1)
    start = np.zeros(MOST, x.dtype)
    start[:O] = 0 if b is None else b
    y = empty((len(x), *out_hw, O), x.dtype)
    rows = max(1, min(out_hw[0], max(ROWS, -(-len(x) * out_hw[0] // TASKS))))
    add_shifted(np.ascontiguousarray(x), weights, np.zeros(columns, x.dtype), start, y, (KH, KW, *padding), rows,
                numba.get_num_threads(), none_taken())
    return y


def weight_gradient(x: Array, y: Array, padding: tuple[int, int], kernel_hw: tuple[int, int]) -> Array | None:
    """w[u,v,c,o] = sum_nij x[n, i + u - top, j + v - left, c] y[n,i,j,o]; padding = (top, left)

    x (N, H, W, C) and y (N, OH, OW, O), contiguous, kernel_hw = (KH, KW); returns w (KH, KW, C, O), or None if it isn't
    finite: what is not finite in x meets zeros outside of y, too.

    >>> weight_gradient(np.ones((1, 3, 3, 16)), np.ones((1, 2, 2, 1)), (0, 0), (2, 2))[:, :, 0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    (KH, KW), C, O = kernel_hw, x.shape[3], y.shape[3]
    lanes = VECTOR_BYTES // x.itemsize
    columns = -(-KH * KW * O // lanes) * lanes
    parts = zeros((max(1, min(TASKS, len(x) * x.shape[1] // ROWS)), C, columns), x.dtype)
    add_pixels(x, y, parts, (KH, KW, *padding), numba.get_num_threads(), none_taken())
    w = sum_parts(parts)[:, :KH * KW * O].reshape(C, KH, KW, O)[:, :, ::-1]            # Q's v goes from the last to 0
    return np.ascontiguousarray(w.transpose(1, 2, 0, 3)) if np.isfinite(w).all() else None


@kernel
def add_pixels(x, y, parts, window, lanes, taken):
    """parts[p] += x^T Q over the p-th part of all rows of all images"""
    KH, KW, _, _ = window
    N, H, W, C = x.shape
    O, columns = y.shape[3], parts.shape[2]
    panel = np.int64(PANEL_BYTES // x.itemsize)
    nothing = np.zeros(columns, x.dtype)
    at_once = max(1, PIXELS_AT_ONCE // max(1, W))
    for _ in prange(lanes):
        # the last vectors reach beyond the last pixel
        rows, shifted = room_for(KH * (W + KW - 1) * O + columns, x), room_for((at_once * W + 1) * columns, x)
        clear(rows)
        p = take(taken)
        while p < len(parts):
            sums = flattened(parts[p])
            begin, end = p * N * H // len(parts), (p + 1) * N * H // len(parts)
            for t in range(begin, end, at_once):
                count = min(at_once, end - t)
                for k in range(count):
                    _shift_row(y, ((t + k) // H, (t + k) % H), window, W, rows, shifted[k * W * columns:], columns)
                here = sums, STAY, columns
                so_far = here if t > begin else (nothing, STAY, STAY)
                next_rows = flattened(x), (t + count) * W * C, min(at_once, end - t - count) * W * C
                multiply("whole", (flattened(x), t * W * C, NEXT, C), (shifted, STAY, panel, columns), so_far, here,
                         (C, columns, count * W), NO_FLOOR, None, (next_rows,))
            p = take(taken)


@inner
def _shift_row(y, place, window, W, rows, shifted, columns):
    """shifted[l, (u, v, o)] = Q[n, h, l, (u, KW - 1 - v, o)] with place = (n, h): numbers that are neighbours in y"""
    n, h = place
    KH, KW, top, left = window
    O, lanes = y.shape[3], VECTOR_BYTES // y.itemsize
    pitch = (W + KW - 1) * O
    for u in range(KH):
        i = h - u + top
        load_window(y, n, i, i + 1, left - KW + 1, W + KW - 1, rows[u * pitch:(u + 1) * pitch])
    for l in range(W):
        for u in range(KH):
            for k in range(0, KW * O, lanes):                # what one writes too much the next one overwrites
                copy_vector((rows, u * pitch + l * O + k), (shifted, l * columns + u * KW * O + k))


@kernel
def add_shifted(x, weights, nothing, start, y, window, rows, lanes, taken):
    """A task is so many rows of an image; its bits are the same in whichever lane."""
    KH, KW, _, _ = window
    _, OH, OW, O = y.shape
    blocks = (OH + rows - 1) // rows
    pitch = (OW + KW - 1) * weights.shape[1]
    for _ in prange(lanes):
        # the last vectors reach beyond the last pixel
        products, line = room_for(KH * pitch + MOST, x), room_for(OW * O + MOST, x)
        task = take(taken)
        while task < len(x) * blocks:
            first = task % blocks * rows
            place = task // blocks, first, min(rows, OH - first)
            _add_rows(place, x, weights, nothing, start, y, window, products, line)
            task = take(taken)


@inner
def _add_rows(place, x, weights, nothing, start, y, window, products, line):
    """So many rows of y from the place (n, i) on, each as soon as the KH rows of P below it are there.

    There is room for no more of P than these, so that they stay in the first cache, or nearly so.
    """
    n, first, rows = place
    KH, KW, top, left = window
    _, OH, OW, O = y.shape
    columns = weights.shape[1]
    pitch = (OW + KW - 1) * columns
    for r in range(rows + KH - 1):
        at = r % KH * pitch                                  # where the row was that is not needed any more
        _multiply_row(x, weights, nothing, (n, first + r - top), left, products[at:at + pitch])
        i = r - KH + 1
        if i >= 0:
            # the row below; the tap below; the pixel to the right and the tap to the right; the next pixel
            steps = pitch, KW * O, columns + O, columns
            shifted_sums(products, i % KH, steps, (np.int64(KH), np.int64(KW)), start, line, O, OW)
            copy(line[:OW * O], flattened(y[n, first + i]))


@inner
def _multiply_row(x, weights, nothing, place, left, row):
    """row[l + left] = x[n, h, l] @ weights, and 0 outside of the image; place = (n, h)"""
    n, h = place
    _, H, W, C = x.shape
    columns = weights.shape[1]
    width = len(row) // columns
    begin, end = max(0, left), min(width, left + W)          # left < 0: x's first pixels are cut off
    if h < 0 or h >= H or begin >= end:
        begin = end = width
    clear(row[:begin * columns])
    clear(row[end * columns:])
    if end > begin:
        panel = np.int64(PANEL_BYTES // x.itemsize)
        next_row = flattened(x), (n * H + h + 1) * W * C, W * C
        multiply("whole", (flattened(x), ((n * H + h) * W + begin - left) * C, C, NEXT),
                 (flattened(weights), STAY, panel, columns), (nothing, STAY, STAY), (row, begin * columns, columns),
                 (end - begin, columns, C), NO_FLOOR, None, (next_row,))


@intrinsic
def _copy_vector(typing, source, target):
    """target = source, both (array, offset), for as many numbers as a vector has"""
    def codegen(context, builder, signature, arguments):
        x, y = (Operand(context, builder, signature.args[i], arguments[i]) for i in range(2))
        vector = Vector(builder, signature.args[0][0].dtype)
        vector.store(vector.load(x.at(), None), y.at(), None)
        return context.get_dummy_value()

    return types.none(source, target), codegen


def _copy_vector_numpy(source, target):
    (x, at), (y, to) = source, target
    y[to:][:VECTOR_BYTES // x.itemsize] = x[at:][:VECTOR_BYTES // x.itemsize]


copy_vector = _copy_vector_numpy if config.DISABLE_JIT else _copy_vector


@intrinsic
def _shifted_sums(typing, p, top, steps, taps, start, line, O, count):
    """line[j, :] = start + sum over u, v of p[row(u), u * steps[1] + v * steps[2] + j * steps[3], :], O numbers a pixel

    p has as many rows, steps[0] apart, as there are taps, and begins with row(0) = top. Sums are vectors of MOST
    numbers; what one writes too much the next one overwrites.
    """
    signature = types.none(p, top, steps, taps, start, line, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        p, start, line = (context.make_array(signature.args[i])(context, builder, arguments[i]).data for i in (0, 4, 5))
        pitch, down, across, ahead = (builder.extract_value(arguments[2], i) for i in range(4))
        KH, KW = (builder.extract_value(arguments[3], i) for i in range(2))
        _, top, *_, O, count = arguments
        pixel = ir.VectorType(context.get_data_type(signature.args[4].dtype), MOST)
        itemsize = signature.args[4].dtype.bitwidth // 8

        def load(address):
            return builder.load(builder.bitcast(address, pixel.as_pointer()), align=itemsize)

        first = load(start)

        def pixels(j, size):
            """So many from j on"""
            places = [builder.gep(p, [builder.mul(builder.add(j, I64(i)), ahead)]) for i in range(size)]

            def row(u, sums):
                r = builder.add(u, top)
                r = builder.select(builder.icmp_signed("<", r, KH), r, builder.sub(r, KH))
                at = builder.add(builder.mul(r, pitch), builder.mul(u, down))

                def tap(v, sums):
                    offset = builder.add(at, builder.mul(v, across))
                    return [builder.fadd(total, load(builder.gep(place, [offset])))
                            for total, place in zip(sums, places, strict=True)]

                return emit_loop(builder, KW, sums, tap)

            for i, total in enumerate(emit_loop(builder, KH, [first] * size, row)):
                target = builder.gep(line, [builder.mul(builder.add(j, I64(i)), O)])
                builder.store(total, builder.bitcast(target, pixel.as_pointer()), align=itemsize)
            return []

        whole = builder.sdiv(count, I64(ABREAST))
        done = builder.mul(whole, I64(ABREAST))
        with builder.if_then(builder.icmp_signed(">", whole, I64(0))):
            emit_loop(builder, whole, [], lambda k, _: pixels(builder.mul(k, I64(ABREAST)), ABREAST))
        with builder.if_then(builder.icmp_signed("<", done, count)):
            emit_loop(builder, builder.sub(count, done), [], lambda k, _: pixels(builder.add(done, k), 1))
        return context.get_dummy_value()

    return signature, codegen


def _shifted_sums_numpy(p, top, steps, taps, start, line, O, count):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    pitch, down, across, ahead = steps
    for j in range(count):
        total = start.copy()
        for u in range(taps[0]):
            for v in range(taps[1]):
                total += p[(top + u) % taps[0] * pitch + u * down + v * across + j * ahead:][:MOST]
        line[j * O:][:MOST] = total


shifted_sums = _shifted_sums_numpy if config.DISABLE_JIT else _shifted_sums
