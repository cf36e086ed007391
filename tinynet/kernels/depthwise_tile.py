"""The tiles of depthwise.py, emitted as vector instructions: a few pixels, or a few weights, by a vector of channels.

Neighbouring pixels share what their windows have in common. For four pixels of a 3x3 kernel a row of x is six vectors,
not twelve; so the tile of whole rows loads each once, where pixels and taps are neighbours (stride and dilation 1).
"""
import functools

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I32, I64, VECTOR_BYTES, Operand, Vector, emit_loop
from tinynet.kernels.tile import row_offsets

PIXELS, VECTORS = 4, 4          # of a tile
TAPS = 3                        # in a row, for which a tile is made that loads each vector of x once: those of 3x3
SUMS = 24                       # of a tile of weights at most: they stay in registers


@intrinsic
def _pixel_tile(typing, group, x, w, b, y, taps, pixels, columns, streams):
    """y[p, i] = b[i] + sum_uvk x[p, u, v, i - i % G + k] w[u, v, k, i] for some pixels; returns how many columns

    group: a tuple of G; x = (array, offset, step of p, of u, of v), w = (array, offset, step of u, of v, of k),
    b = (array, offset), y = (array, offset, step of p); pixels, columns: how many there are. Missing pixels are
    computed as copies of the last, missing columns are left out. streams = 1: y is written past the caches
    (streaming.py) where its vectors are whole cache lines.
    """
    G = len(group)

    def codegen(context, builder, signature, arguments):
        operands = [Operand(context, builder, *pair) for pair in zip(signature.args[1:5], arguments[1:5], strict=True)]
        taps, (pixels, columns, streams) = [builder.extract_value(arguments[5], i) for i in range(2)], arguments[6:]
        vector = Vector(builder, signature.args[1][0].dtype)
        wide = VECTORS if G == 1 else 2                      # G > 1 needs registers for what is shuffled
        many = I64(wide * vector.lanes)
        is_wide = builder.icmp_signed(">=", columns, many)
        streams = builder.and_(builder.icmp_signed("!=", streams, I64(0)), vector.is_lined_up(operands[3]))
        with builder.if_else(is_wide) as (then, otherwise):
            with then:
                if G == 1:
                    _emit_wide(builder, vector, *operands, taps, pixels, streams)
                else:
                    _emit_pixels(builder, vector, G, *operands, taps, pixels, [None] * wide, streams)
            with otherwise:
                _emit_pixels(builder, vector, G, *operands, taps, pixels, [vector.part(columns)], None)
        return builder.select(is_wide, many, I64(vector.lanes))

    return types.intp(group, x, w, b, y, taps, types.intp, types.intp, types.intp), codegen


@intrinsic
def _weight_tile(typing, group, x, y, w, taps, pixels, columns):
    """w[u, v, k, i] += sum_p x[u, v, p, i - i % G + k] y[p, i] for some taps and one vector; returns how many taps

    group: a tuple of G; x = (array, offset, step of u, of v, of p), y = (array, offset, step of p), w = (array,
    offset, step of u, of v, of k); taps = (v of the first, how many v, how many taps are left).
    """
    G = len(group)
    most = _taps_at_once(G)

    def codegen(context, builder, signature, arguments):
        x, y, w = (Operand(context, builder, *pair) for pair in zip(signature.args[1:4], arguments[1:4], strict=True))
        taps, (pixels, columns) = [builder.extract_value(arguments[4], i) for i in range(3)], arguments[5:]
        vector = Vector(builder, signature.args[1][0].dtype)

        def emit(part):
            if G == 1 and part is None:
                _emit_whole_weights(builder, vector, x, y, w, taps, pixels)
            else:
                _emit_weights(builder, vector, G, x, y, w, taps, pixels, part)

        _whole_or_part(builder, vector, columns, emit)
        return builder.select(builder.icmp_signed("<", taps[2], I64(most)), taps[2], I64(most))

    return types.intp(group, x, y, w, taps, types.intp, types.intp), codegen


def _taps_at_once(G):
    """The taps of a tile of weights: the nine of 3x3, or as many as there are registers for their sums"""
    return min(9, SUMS // G)


def _whole_or_part(builder, vector, columns, emit):
    with builder.if_else(builder.icmp_signed(">=", columns, I64(vector.lanes))) as (then, otherwise):
        with then:
            emit(None)
        with otherwise:
            emit(vector.part(columns))


def _emit_pixels(builder, vector, G, x, w, b, y, taps, pixels, parts, streams):
    steps = [(I64(0), each.steps[0]) for each in (x, y)]
    x_rows, y_rows = row_offsets(builder, PIXELS, (I64(0), pixels, pixels), steps)

    def vectors(operand, *offsets):
        return [(operand.at(*offsets, I64(i * vector.lanes)), part) for i, part in enumerate(parts)]

    def down(u, sums):
        return emit_loop(builder, taps[1], sums, lambda v, sums: step(u, v, sums))

    def step(u, v, sums):
        """One tap: vectors of weights for each k, and vectors of each pixel in G ways."""
        x_tap, w_tap = (builder.add(builder.mul(u, each.steps[i]), builder.mul(v, each.steps[i + 1]))
                        for i, each in ((1, x), (0, w)))
        windows = [vector.load(*place) for row in x_rows for place in vectors(x, x_tap, row)]
        for k in range(G):
            weights = [vector.load(*place) for place in vectors(w, w_tap, builder.mul(I64(k), w.steps[2]))]
            sums = [vector.multiply_add(_all_take(builder, vector, G, window, k), weight, one)
                    for window, weight, one in zip(windows, weights * PIXELS, sums, strict=True)]
        return sums

    start = [vector.load(*place) for place in vectors(b)] * PIXELS
    sums = emit_loop(builder, taps[0], start, down)
    vector.store_all(sums, [place for row in y_rows for place in vectors(y, row)], streams)


def _emit_wide(builder, vector, x, w, b, y, taps, pixels, streams):
    """Depthwise: if taps and pixels are neighbours, a vector of x is loaded once for all its taps."""
    are_neighbours = functools.reduce(builder.and_, (
        builder.icmp_signed("==", x.steps[0], x.steps[2]), builder.icmp_signed("==", taps[1], I64(TAPS)),
        builder.icmp_signed(">=", pixels, I64(PIXELS))))
    with builder.if_else(are_neighbours) as (then, otherwise):
        with then:
            _emit_neighbours(builder, vector, x, w, b, y, taps[0], streams)
        with otherwise:
            _emit_pixels(builder, vector, 1, x, w, b, y, taps, pixels, [None] * VECTORS, streams)


def _emit_neighbours(builder, vector, x, w, b, y, taps_u, streams):
    """As _emit_pixels, for TAPS taps in a row: the pixels p and the taps v need only the x[p + v]."""

    def places(operand, count, step, *offsets):
        """[vector][row]: where they begin"""
        return [[operand.at(*offsets, builder.mul(I64(row), step), I64(i * vector.lanes)) for row in range(count)]
                for i in range(VECTORS)]

    def down(u, sums):
        windows = places(x, PIXELS + TAPS - 1, x.steps[0], builder.mul(u, x.steps[1]))
        weights = places(w, TAPS, w.steps[1], builder.mul(u, w.steps[0]))
        each = zip(by_vector(sums), windows, weights, strict=True)
        return [one for mine in each for one in across(*mine)]

    def across(sums, window, weights):
        window, weights = ([vector.load(place, None) for place in each] for each in (window, weights))
        for v, weight in enumerate(weights):
            sums = [vector.multiply_add(window[p + v], weight, one) for p, one in enumerate(sums)]
        return sums

    def by_vector(sums):
        return [sums[i * PIXELS:(i + 1) * PIXELS] for i in range(VECTORS)]

    start = [vector.load(b.at(I64(i * vector.lanes)), None) for i in range(VECTORS) for _ in range(PIXELS)]
    sums = emit_loop(builder, taps_u, start, down)
    vector.store_all(sums, [(place, None) for rows in places(y, PIXELS, y.steps[0]) for place in rows], streams)


def _emit_weights(builder, vector, G, x, y, w, taps, pixels, part):
    x_rows, w_rows = row_offsets(builder, _taps_at_once(G), taps, [each.steps[:2] for each in (x, w)])

    def step(p, sums):
        """One pixel: a vector of y, which meets a vector of x for each tap in G ways."""
        pixel = vector.load(y.at(builder.mul(p, y.steps[0])), part)
        windows = [vector.load(x.at(row, builder.mul(p, x.steps[2])), part) for row in x_rows]
        factors = [_all_take(builder, vector, G, window, k) for window in windows for k in range(G)]
        return [vector.multiply_add(factor, pixel, one) for factor, one in zip(factors, sums, strict=True)]

    places = [w.at(row, builder.mul(I64(k), w.steps[2])) for row in w_rows for k in range(G)]
    sums = emit_loop(builder, pixels, [vector.load(place, part) for place in places], step)
    for one, place in zip(sums, places, strict=True):
        vector.store(one, place, part)


def _emit_whole_weights(builder, vector, x, y, w, taps, pixels):
    """Depthwise: if taps and pixels are neighbours, and all taps are there, a vector of x is loaded once for three."""
    are_neighbours = functools.reduce(builder.and_, (
        builder.icmp_signed("==", x.steps[1], x.steps[2]), builder.icmp_signed("==", taps[1], I64(TAPS)),
        builder.icmp_signed("==", taps[2], I64(TAPS * TAPS)), builder.icmp_signed(">=", pixels, I64(PIXELS))))
    with builder.if_else(are_neighbours) as (then, otherwise):
        with then:
            _emit_weights_of_neighbours(builder, vector, x, y, w, pixels)
        with otherwise:
            _emit_weights(builder, vector, 1, x, y, w, taps, pixels, None)


def _emit_weights_of_neighbours(builder, vector, x, y, w, pixels):
    """As _emit_weights, for TAPS x TAPS taps: some pixels p at once and the taps v need only the x[p + v]."""

    def some(count, first, sums):
        """`count` pixels from the first on"""
        here, sums = builder.mul(first, x.steps[2]), list(sums)
        pixels = [vector.load(y.at(builder.mul(builder.add(first, I64(p)), y.steps[0])), None) for p in range(count)]
        for u in range(TAPS):
            window = [vector.load(x.at(here, builder.mul(I64(u), x.steps[0]), builder.mul(I64(q), x.steps[2])), None)
                      for q in range(count + TAPS - 1)]
            for v in range(TAPS):
                for p, pixel in enumerate(pixels):
                    sums[u * TAPS + v] = vector.multiply_add(window[p + v], pixel, sums[u * TAPS + v])
        return sums

    places = [w.at(builder.mul(I64(u), w.steps[0]), builder.mul(I64(v), w.steps[1]))
              for u in range(TAPS) for v in range(TAPS)]
    whole = builder.sdiv(pixels, I64(PIXELS))
    sums = emit_loop(builder, whole, [vector.load(place, None) for place in places],
                     lambda i, sums: some(PIXELS, builder.mul(i, I64(PIXELS)), sums))
    for one, place in zip(sums, places, strict=True):
        vector.store(one, place, None)
    done = builder.mul(whole, I64(PIXELS))
    with builder.if_then(builder.icmp_signed("<", done, pixels)):
        sums = emit_loop(builder, builder.sub(pixels, done), [vector.load(place, None) for place in places],
                         lambda i, sums: some(1, builder.add(done, i), sums))
        for one, place in zip(sums, places, strict=True):
            vector.store(one, place, None)


def _all_take(builder, vector, G, value, k):
    """Every lane takes what the k-th lane of its group has."""
    if G == 1:
        return value
    lanes = [i - i % G + k for i in range(vector.lanes)]
    return builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined),
                                  ir.Constant(ir.VectorType(I32, vector.lanes), lanes))


# ---- The same in NumPy, for NUMBA_DISABLE_JIT=1 ------------------------------------------------------------

def _vector_at(operand, columns, *offsets):
    begin = operand[1] + sum(offsets)
    return operand[0][begin:begin + min(columns, VECTOR_BYTES // operand[0].itemsize)]


def _taken_by_all(values, G, k):
    lanes = np.arange(len(values))
    return values[lanes - lanes % G + k]


def _pixel_tile_numpy(group, x, w, b, y, taps, pixels, columns, streams):
    G = len(group)
    for p in range(min(pixels, PIXELS)):
        total = _vector_at(b, columns).copy()
        for u, v, k in np.ndindex(*taps, G):
            window = _vector_at(x, columns, p * x[2], u * x[3], v * x[4])
            total += _taken_by_all(window, G, k) * _vector_at(w, columns, u * w[2], v * w[3], k * w[4])
        _vector_at(y, columns, p * y[2])[...] = total
    return VECTOR_BYTES // x[0].itemsize


def _weight_tile_numpy(group, x, y, w, taps, pixels, columns):
    G, (v, width, left) = len(group), taps
    done = min(left, _taps_at_once(G))
    for r, k, p in np.ndindex(done, G, pixels):
        u, across = (v + r) // width, (v + r) % width - v
        window = _vector_at(x, columns, u * x[2], across * x[3], p * x[4])
        total = _vector_at(w, columns, u * w[2], across * w[3], k * w[4])
        total += _taken_by_all(window, G, k) * _vector_at(y, columns, p * y[2])
    return done


pixel_tile, weight_tile = (_pixel_tile_numpy, _weight_tile_numpy) if config.DISABLE_JIT else (_pixel_tile, _weight_tile)
