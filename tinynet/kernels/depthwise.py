"""Convolutions of small groups, down to one channel each ("depthwise"): a vector of channels at a time.

    y[p, i] = b[i] + sum over u, v and k < G of  x[q, i - i % G + k] * w[u,v,k,i]       G channels a group

where tap (u, v) of the target pixel p lies on the source pixel q. The register tile of tile.py has nothing to do
here: its columns, the outputs of one group, would leave most of a vector empty. But with channels last, the
channels of 16 groups (or of 8 groups of two, ...) are neighbours, and so are their weights. So a step of the sum
loads a vector of x, one of w, and multiplies them channel by channel. For G > 1, a group's channels must meet each
other: in step k, all lanes of a group take what its k-th lane has, which is one shuffle of the vector.

So few operations go with each number that to copy x, with zeros around it, would take as long as all of them.
Hence x is read where it is, and taps outside of the image are left out. Pixels in a row which have the same taps
inside make a *run*: the left border, a long one, and the right border. Rows and runs are listed in tables.
Where there are few channels, neighbouring pixels count as one that has more of them.

Groups of other sizes, and groups that don't give as many channels as they take, are filled up with zeros to the
next power of two.
"""
import functools

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts
from tinynet.kernels.memory import aligned, empty, zeros
from tinynet.kernels.tile import I32, I64, VECTOR_BYTES, Operand, Vector, emit_loop, row_offsets

LARGEST = 8                     # channels of a group, for which this pays: half a vector of float32
PIXELS, VECTORS = 4, 4          # of a tile
WIDE = 64                       # channels: where there are fewer, several pixels are laid side by side
SUMS = 24                       # of a tile of weights at most: they stay in registers
ROWS, TASKS = 8, 16             # rows of a task at most, tasks at least


def pays(inputs, outputs, groups):
    """inputs, outputs: how many channels of each group"""
    return groups > 1 and max(inputs, outputs) <= LARGEST


def correlate(source, weights, bias, axes, groups, size):
    """target[n,h,l,i] = bias[i] + sum over k and over the taps of h's and l's phases of source * weights[u,v,k,i]

    axes: as in convolution.py; weights (KH, KW, source's channels of a group, target's channels), size of target.
    """
    TH, TW, M = size
    G = _filled_size(weights.shape[2], M // groups)
    source, weights = _filled(source, groups, G), _filled_weights(weights, groups, G)
    bias = zeros((groups * G,), source.dtype) if bias is None else _filled(bias, groups, G)
    target = empty((len(source), TH, TW, groups * G), source.dtype)
    tables = _lines(axes[0], source.shape[1], TH), _runs(axes[1], source.shape[2], TW)
    side_by_side = _side_by_side(axes[1], groups * G)
    weights, bias = aligned(np.tile(weights, side_by_side)), aligned(np.tile(bias, side_by_side))
    rows = max(1, min(ROWS, len(source) * TH // TASKS))
    correlate_channels(source, weights, bias, target, *tables, rows, (0,) * G)
    return _taken(target, groups, M // groups)


def weight_gradient(x, y, axes, groups, kernel_hw):
    """w[u,v,k,i] = sum over the pixels of x[.., k-th of i's group] y[.., i]; axes as in convolution.py"""
    (KH, KW), CG, OG = kernel_hw, x.shape[3] // groups, y.shape[3] // groups
    G = _filled_size(CG, OG)
    x, y = _filled(x, groups, G), _filled(y, groups, G)
    tables = _lines(axes[0], x.shape[1], y.shape[1]), _runs(axes[1], x.shape[2], y.shape[2])
    side_by_side = _side_by_side(axes[1], groups * G)
    parts = zeros((max(1, min(TASKS, len(y) * y.shape[1])), KH, KW, G, side_by_side * groups * G), x.dtype)
    add_channels(x, y, parts, *tables, (0,) * G)
    w = sum_parts(parts).reshape(KH, KW, G, side_by_side, groups * G).sum(3)
    return _taken(np.ascontiguousarray(w[:, :, :CG]), groups, OG)


# ---- Groups of G channels ----------------------------------------------------------------------------------

def _filled_size(inputs, outputs):
    return 1 << (max(inputs, outputs) - 1).bit_length()


def _filled(x, groups, G):
    """x (..., groups of some channels) with zeros behind the channels of each group, up to G"""
    *leading, channels = x.shape
    if channels == groups * G:
        return np.ascontiguousarray(x)
    filled = zeros((*leading, groups, G), x.dtype)
    filled[..., :channels // groups] = x.reshape(*leading, groups, -1)
    return filled.reshape(*leading, groups * G)


def _filled_weights(w, groups, G):
    KH, KW, inputs, outputs = w.shape
    if inputs == G and outputs == groups * G:
        return aligned(w)
    filled = zeros((KH, KW, G, groups, G), w.dtype)
    filled[:, :, :inputs, :, :outputs // groups] = w.reshape(KH, KW, inputs, groups, -1)
    return filled.reshape(KH, KW, G, groups * G)


def _taken(x, groups, channels):
    """What _filled has filled: the first `channels` of each group"""
    *leading, all_channels = x.shape
    if all_channels == groups * channels:
        return x
    return np.ascontiguousarray(x.reshape(*leading, groups, -1)[..., :channels]).reshape(*leading, -1)


def _side_by_side(axis, channels):
    """How many pixels are taken as one with so many more channels, whose weights are repeated: where neighbours in
    the target have neighbours in the source. That fills the vectors."""
    return max(1, WIDE // channels) if len(axis) == axis[0][4] == 1 else 1


# ---- Which taps lie inside ---------------------------------------------------------------------------------

def _taps_inside(axis, source_size, p):
    """(how many, weight of the first, its source pixel) of the taps of target pixel p that are inside"""
    taps, tap, jump, first, advance, reach = axis[p % len(axis)]
    first += p // len(axis) * advance
    inside = [t for t in range(taps) if 0 <= first + t * reach < source_size]
    begin = inside[0] if inside else 0
    return len(inside), tap + begin * jump, first + begin * reach


@functools.lru_cache(maxsize=1024)
def _lines(axis, source_size, target_size):
    """For each target row: (taps, weight's row of the first, its source row, step of the weights, of the source)"""
    table = [(*_taps_inside(axis, source_size, p), axis[p % len(axis)][2], axis[p % len(axis)][5])
             for p in range(target_size)]
    return np.array(table).reshape(-1, 5)


@functools.lru_cache(maxsize=1024)
def _runs(axis, source_size, target_size):
    """(first target pixel, step to the next, pixels, step of their sources, and a line as above) for each run"""
    table = []
    for f, (_, _, jump, _, advance, reach) in enumerate(axis):
        run = None
        for p in range(f, target_size, len(axis)):
            taps, tap, pixel = _taps_inside(axis, source_size, p)
            if run is None or run[4:6] != [taps, tap]:
                run = [p, len(axis), 0, advance, taps, tap, pixel, jump, reach]
                table.append(run)
            run[2] += 1
    return np.array(table).reshape(-1, 9)


# ---- Gather and scatter ------------------------------------------------------------------------------------

@kernel
def correlate_channels(source, weights, bias, target, lines, runs, rows, group):
    """A task is `rows` rows of an image."""
    blocks = (target.shape[1] + rows - 1) // rows
    for task in prange(len(target) * blocks):
        _correlate_rows(np.int64(task), blocks, source, weights, bias, target, lines, runs, rows, group)


@inner
def _correlate_rows(task, blocks, source, weights, bias, target, lines, runs, rows, group):
    n, first = task // blocks, task % blocks * rows
    for h in range(first, min(target.shape[1], first + rows)):
        for r in range(len(runs)):
            _correlate_run((n, h), source, weights, bias, target, lines[h], runs[r], group)


@inner
def _correlate_run(place, source, weights, bias, target, line, run, group):
    n, h = place
    taps_u, u, row, jump_u, reach_u = line
    begin, step, pixels, advance, taps_v, v, pixel, jump_v, reach_v = run
    _, H, W, C = source.shape
    _, TH, TW, _ = target.shape
    KW, tap = weights.shape[1], len(group) * len(bias)
    x, w, y = source.reshape(-1), weights.reshape(-1), target.reshape(-1)
    at, to = ((n * H + row) * W + pixel) * C, ((n * TH + h) * TW + begin) * C
    if taps_u * taps_v == 0:
        for p in range(pixels):
            for i in range(C):
                y[to + p * step * C + i] = bias[i]
        return
    wide, p = len(bias), 0
    while p < pixels:
        columns = min(wide, (pixels - p) * C)                # of one pixel, or of several side by side
        left = max(1, (pixels - p) * C // wide)
        i = 0
        while i < columns:
            i += pixel_tile(group, (x, at + p * advance * C + i, advance * wide, reach_u * W * C, reach_v * C),
                            (w, (u * KW + v) * tap + i, jump_u * KW * tap, jump_v * tap, wide), (bias, i),
                            (y, to + p * step * C + i, step * wide), (taps_u, taps_v), left, columns - i)
        p += min(PIXELS, left) * (wide // C)


# ---- The weight gradient -----------------------------------------------------------------------------------

@kernel
def add_channels(x, y, parts, lines, runs, group):
    """parts[p] += the sum over the p-th part of all rows of y"""
    for p in prange(len(parts)):
        _add_part(np.int64(p), x, y, parts, lines, runs, group)


@inner
def _add_part(p, x, y, parts, lines, runs, group):
    N, OH, _, _ = y.shape
    for t in range(p * N * OH // len(parts), (p + 1) * N * OH // len(parts)):
        n, i = t // OH, t % OH
        for r in range(len(runs)):
            _add_run((n, i), x, y, parts[p], lines[i], runs[r], group)


@inner
def _add_run(place, x, y, sums, line, run, group):
    """sums[u,v,k,i] += sum over the run's pixels of x y, for the taps inside"""
    n, h = place
    taps_u, u, row, _, reach_u = line
    begin, _, pixels, advance, taps_v, v, pixel, _, reach_v = run
    _, H, W, C = x.shape
    _, OH, OW, _ = y.shape
    KW, wide = sums.shape[1], sums.shape[3]
    tap = len(group) * wide
    lanes = VECTOR_BYTES // x.itemsize
    flat_x, flat_y, flat = x.reshape(-1), y.reshape(-1), sums.reshape(-1)
    at, to, first = ((n * H + row) * W + pixel) * C, ((n * OH + h) * OW + begin) * C, (u * KW + v) * tap
    down, across = reach_u * W * C, reach_v * C
    p = 0
    while p < pixels:
        columns = min(wide, (pixels - p) * C)                # of one pixel, or of several side by side
        left = max(1, (pixels - p) * C // wide)
        for i in range(0, columns, lanes):
            a, b, todo = 0, 0, taps_u * taps_v
            while todo > 0:
                done = weight_tile(group,
                                   (flat_x, at + a * down + b * across + p * advance * C + i,
                                    down, across, advance * wide),
                                   (flat_y, to + p * C + i, wide),
                                   (flat, first + (a * KW + b) * tap + i, KW * tap, tap, wide),
                                   (b, taps_v, todo), left, columns - i)
                todo -= done
                b += done
                while b >= taps_v:
                    b -= taps_v
                    a += 1
        p += left * (wide // C)


# ---- The tiles ---------------------------------------------------------------------------------------------

@intrinsic
def _pixel_tile(typing, group, x, w, b, y, taps, pixels, columns):
    """y[p, i] = b[i] + sum_uvk x[p, u, v, i - i % G + k] w[u, v, k, i] for some pixels; returns how many columns

    group: a tuple of G; x = (array, offset, step of p, of u, of v), w = (array, offset, step of u, of v, of k),
    b = (array, offset), y = (array, offset, step of p); pixels, columns: how many there are. Missing pixels are
    computed as copies of the last, missing columns are masked.
    """
    G = len(group)

    def codegen(context, builder, signature, arguments):
        operands = [Operand(context, builder, *pair) for pair in zip(signature.args[1:5], arguments[1:5], strict=True)]
        taps, (pixels, columns) = [builder.extract_value(arguments[5], i) for i in range(2)], arguments[6:]
        vector = Vector(builder, signature.args[1][0].dtype)
        wide = VECTORS if G == 1 else 2                      # G > 1 needs registers for what is shuffled
        many = I64(wide * vector.lanes)
        is_wide = builder.icmp_signed(">=", columns, many)
        with builder.if_else(is_wide) as (then, otherwise):
            with then:
                _emit_pixels(builder, vector, G, *operands, taps, pixels, [None] * wide)
            with otherwise:
                _emit_pixels(builder, vector, G, *operands, taps, pixels, [vector.mask(columns)])
        return builder.select(is_wide, many, I64(vector.lanes))

    return types.intp(group, x, w, b, y, taps, types.intp, types.intp), codegen


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
        _whole_or_masked(builder, vector, columns, functools.partial(
            _emit_weights, builder, vector, G, x, y, w, taps, pixels))
        return builder.select(builder.icmp_signed("<", taps[2], I64(most)), taps[2], I64(most))

    return types.intp(group, x, y, w, taps, types.intp, types.intp), codegen


def _taps_at_once(G):
    """The taps of a tile of weights: the nine of 3x3, or as many as there are registers for their sums"""
    return min(9, SUMS // G)


def _whole_or_masked(builder, vector, columns, emit):
    with builder.if_else(builder.icmp_signed(">=", columns, I64(vector.lanes))) as (then, otherwise):
        with then:
            emit(None)
        with otherwise:
            emit(vector.mask(columns))


def _emit_pixels(builder, vector, G, x, w, b, y, taps, pixels, masks):
    steps = [(I64(0), each.steps[0]) for each in (x, y)]
    x_rows, y_rows = row_offsets(builder, PIXELS, (I64(0), pixels, pixels), steps)

    def vectors(operand, *offsets):
        return [(operand.at(*offsets, I64(i * vector.lanes)), mask) for i, mask in enumerate(masks)]

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
    for one, place in zip(sums, (place for row in y_rows for place in vectors(y, row)), strict=True):
        vector.store(one, *place)


def _emit_weights(builder, vector, G, x, y, w, taps, pixels, mask):
    x_rows, w_rows = row_offsets(builder, _taps_at_once(G), taps, [each.steps[:2] for each in (x, w)])

    def step(p, sums):
        """One pixel: a vector of y, which meets a vector of x for each tap in G ways."""
        pixel = vector.load(y.at(builder.mul(p, y.steps[0])), mask)
        windows = [vector.load(x.at(row, builder.mul(p, x.steps[2])), mask) for row in x_rows]
        factors = [_all_take(builder, vector, G, window, k) for window in windows for k in range(G)]
        return [vector.multiply_add(factor, pixel, one) for factor, one in zip(factors, sums, strict=True)]

    places = [w.at(row, builder.mul(I64(k), w.steps[2])) for row in w_rows for k in range(G)]
    sums = emit_loop(builder, pixels, [vector.load(place, mask) for place in places], step)
    for one, place in zip(sums, places, strict=True):
        vector.store(one, place, mask)


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


def _pixel_tile_numpy(group, x, w, b, y, taps, pixels, columns):
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
