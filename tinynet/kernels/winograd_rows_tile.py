"""What winograd_rows.py's convolutions do in registers: sums of rows, and strips of 4 rows of pixels.

    transform_rows    V = B^T x, and D = A y for the weight gradient: sums of whole rows, whatever is in them
    multiply_rows     y = A^T (V U): for some pixels the 6 products of each are summed up in registers and put on the
                      stack; from there they come back transformed, as 4 pixels one below the other

Each step of the sums loads a tap's weights and, for each pixel, its number of V, as in tile.py. The 9 taps of 3
channels are few enough for their weights to stay in registers, too; then each number of V is loaded once, for all
windows that it belongs to.
"""
import functools

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I1, I64, Operand, Vector, emit_loop, has_wide_registers, unknown
from tinynet.kernels.winograd_transform import LANES, MATRICES, N, add_to, multiply

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
        return multiply(self.vector, MATRICES["AT(4,3)"], values)

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
    matrix = functools.reduce(np.matmul, MATRICES["AT(4,3)"])
    strip = np.tensordot(matrix, M, 1).astype(M.dtype)              # (4, width, outputs)
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
