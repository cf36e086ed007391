"""The register tile, the inner loop of convolutions:

    C[h, w, i] = max(floor, S[h, w, i] + sum over u, v, k of  A[h, w, u, v, k] * B[u, v, k, i])

A core multiplies and adds whole vectors (with AVX-512 two a cycle, of 16 float32 each), provided that the
operands are at hand. Memory cannot keep up: to load both factors of every product is already twice too
much. So a tile of C, 8 rows (h, w) by 2 vectors of columns i, stays in registers while the sum runs. Each
step of the sum then loads 2 vectors of B, and from A one number for each row, which is spread over a
vector; and these 10 loads serve 16 multiply-adds:

                         B[k, :16]   B[k, 16:]
           A[0, k]     [ C[0, :16]   C[0, 16:] ]
           A[1, k]     [ C[1, :16]   C[1, 16:] ]
             ...       [    ...         ...    ]
           A[7, k]     [ C[7, :16]   C[7, 16:] ]

(Where columns are many, tiles are wide: 6 rows by 4 vectors, so that 10 loads serve 24; 1.05 to 1.15 times as fast.)

No operand has to be brought into a special layout. Each is a flat array, an offset, and a step for each
index (only the columns i must be neighbours). Steps may overlap, be negative or be zero. So the same loop
computes a convolution (a pixel's step is smaller than its window), a strided or a dilated one, a weight
gradient (which reads A across), sums that start from a bias (S is the bias, with steps of zero), sums that
go on (S is C), and a ReLU behind it all (a floor of 0; without, it is -Inf). Where all is plain matrices,
the same tile needs fewer questions before it begins: product.py.

The loop is emitted as LLVM vector instructions: left to itself, a compiler finds half of this speed.
"""

import functools
from typing import Any

import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import (
    I64,
    VECTOR_BYTES,
    Operand,
    Vector,
    emit_loop,
    emit_prefetch,
    has_wide_registers,
    unknown,
)
from tinynet.kernels.jit import inner
from tinynet.kernels.prefetch import Wanted
from tinynet.typing import DType

# Sums, plus a step's vectors of B, plus the number of A that is just in use, must fit into the registers:
#   AVX-512  32 registers of 64 bytes   8 rows x 2 vectors of 1 register:  16 sums + 2 + 1 = 19
#                            many columns:  6 rows x 4 vectors:             24 sums + 4 + 1 = 29
#   AVX2     16 registers of 32 bytes   6 rows x 1 vector of 2 registers:  12 sums + 2 + 1 = 15
#   NEON     32 registers of 16 bytes   6 rows x 1 vector of 4 registers:  24 sums + 4 + 1 = 29
# Half a vector: AVX2  8 rows x 1 register: 8 sums + 1 + 1;   NEON  8 rows x 2 registers: 16 sums + 2 + 1
# There must also be enough of them: a multiply-add takes 4 cycles and 2 begin in each, so that fewer than 8
# sums would have to wait for themselves. (In LLVM's code for each of the three, the loop over k has just these
# multiply-adds and loads: no sum leaves its register. NEON's has been read, but not run. It has no masked loads,
# so that missing columns cost it a branch each.)
ROWS, VECTORS = (8, 2) if has_wide_registers() else (6, 1)
WIDE_ROWS, WIDE_VECTORS = (6, 4) if has_wide_registers() else (ROWS, VECTORS)         # where columns are many
FLAT_ROWS, FLAT_VECTORS = (4, 4) if has_wide_registers() else (4, 1)       # where there are no more rows
HAS_SLIM, SLIM_ROWS = not has_wide_registers(), 8       # half a vector: whole registers, where these are smaller

# What a tile's row has in bytes
SLIM, NARROW, USUAL = VECTOR_BYTES // 2, VECTOR_BYTES, VECTORS * VECTOR_BYTES
WIDE, FLAT = WIDE_VECTORS * VECTOR_BYTES, FLAT_VECTORS * VECTOR_BYTES

# Steps to write into an operand, and a count: for the literals 0 and 1, numba would compile one block() a
# combination.
STAY, NEXT, ONE = np.int64(0), np.int64(1), np.int64(1)
NEAR = STAY, STAY               # of a block, both A and C
NO_FLOOR = np.float32(-np.inf)
AHEAD = 4                       # tiles that A is asked for before it is used


@functools.cache
def least(relu: bool, dtype: DType) -> Any:
    """What a block is at least, as a number of its type."""
    return dtype.type(0 if relu else -np.inf)


def effort(columns: int) -> float:
    """What a row of so many float32 costs in a tile, in vectors. One alone is less than a tile can do: a sixth more."""
    lanes = VECTOR_BYTES // 4
    vectors = 0.5 if HAS_SLIM and columns <= lanes // 2 else -(-columns // lanes)
    return vectors + vectors % 2 / 6


def work(rows: int, columns: int) -> float:
    """What a product of so many rows and columns costs in tiles, for each k."""
    at_once = FLAT_ROWS if rows <= FLAT_ROWS else ROWS
    return -(-rows // at_once) * at_once * effort(columns)


def rows_at_once(columns: int, itemsize: int) -> int:
    """How many rows most tiles of so many columns have: it is best if theirs fill them."""
    return WIDE_ROWS if columns * itemsize >= WIDE else ROWS


def wide_pays(rows: int) -> bool:
    """Are wide tiles the faster ones for so many rows? One takes 0.7 of the time of two usual ones, side by side."""
    wide, usual = (rows + WIDE_ROWS - 1) // WIDE_ROWS, (rows + ROWS - 1) // ROWS
    return WIDE_VECTORS > VECTORS and 7 * wide <= 10 * usual


_wide_pays = inner(wide_pays)


@inner
def block(a, b, s, c, counts, rows, columns, floor, far, later):
    """C[h, w, i] = max(floor, S[h, w, i] + sum_uvk A[h, w, u, v, k] B[u, v, k, i]), tile by tile

    a = (array, offset, step of h, of w, of u, of v, of k)     counts = (how many u, v, k), or none
    b = (array, offset, step of u, of v, of k)                 rows = (how many h, w)
    s = (array, offset, step of h, of w)                       columns = how many i
    c = (array, offset, step of h, of w)
    floor: NO_FLOOR, or what C is at least
    far = (A, C), 1 for what is in no cache: A is asked for ahead (prefetch.py), C goes past the caches (streaming.py)
    later: memory that the tiles ask for in passing, as product.multiply has it
    """
    if counts[0] * counts[1] * counts[2] == 0:
        return _copy_rows(s, c, rows, columns, floor)
    lanes = VECTOR_BYTES // a[0].itemsize
    height, width = rows
    if a[2] == width * a[3] and s[2] == width * s[3] and c[2] == width * c[3]:
        height, width = 1, height * width            # all of them are one line
    is_flat = height * width <= FLAT_ROWS and columns > VECTORS * lanes
    may_be_wide = not is_flat and _wide_pays(height * width)
    i, index, tiles = 0, 0, _tiles(height * width, columns, lanes, may_be_wide)
    while i < columns:
        left = columns - i
        is_wide = may_be_wide and left > (WIDE_VECTORS - 1) * lanes
        bi = (b[0], b[1] + i, b[2], b[3], b[4])
        h, w, todo = 0, 0, height * width
        while todo > 0:
            ar = (a[0], a[1] + h * a[2] + w * a[3], a[2], a[3], a[4], a[5], a[6])
            sr = (s[0], s[1] + h * s[2] + w * s[3] + i, s[2], s[3])
            cr = (c[0], c[1] + h * c[2] + w * c[3] + i, c[2], c[3])
            if is_flat:
                done = tile(FLAT_ROWS, FLAT, ar, bi, sr, cr, counts, (w, width, todo), left, floor, far, later,
                            (index, tiles))
            elif VECTORS > 1 and left > lanes:
                if is_wide:                          # asked here: first of all, it took narrow tiles 1.04 times as long
                    done = tile(WIDE_ROWS, WIDE, ar, bi, sr, cr, counts, (w, width, todo), left, floor, far, later,
                            (index, tiles))
                else:
                    done = tile(ROWS, USUAL, ar, bi, sr, cr, counts, (w, width, todo), left, floor, far, later,
                            (index, tiles))
            elif HAS_SLIM and left <= lanes // 2:
                done = tile(SLIM_ROWS, SLIM, ar, bi, sr, cr, counts, (w, width, todo), left, floor, far, later,
                            (index, tiles))
            else:
                done = tile(ROWS, NARROW, ar, bi, sr, cr, counts, (w, width, todo), left, floor, far, later,
                            (index, tiles))
            index += _parts(done, WIDE_ROWS if is_wide else ROWS)
            todo -= done                             # what it says that it did, so that no row can be dropped
            w += done
            while w >= width:
                w -= width
                h += 1
        i += (FLAT_VECTORS if is_flat else WIDE_VECTORS if is_wide else VECTORS) * lanes


@inner
def _tiles(rows, columns, lanes, may_be_wide):
    """How many tiles block() has: wide ones as far as they go, if there may be any, and usual ones for what is left"""
    wide = _parts(columns - (WIDE_VECTORS - 1) * lanes, WIDE_VECTORS * lanes) if may_be_wide else 0
    others = max(0, columns - wide * WIDE_VECTORS * lanes)
    return wide * _parts(rows, WIDE_ROWS) + _parts(others, VECTORS * lanes) * _parts(rows, ROWS)


@inner
def _parts(count, size):
    """How many parts of that size there are, the last one perhaps with fewer"""
    return (count + size - 1) // size


@inner
def _copy_rows(s, c, rows, columns, floor):
    for h in range(rows[0]):
        for w in range(rows[1]):
            for i in range(columns):
                value = s[0][s[1] + h * s[2] + w * s[3] + i]
                c[0][c[1] + h * c[2] + w * c[3] + i] = floor if floor > value else value


@intrinsic(prefer_literal=True)
def _tile(typing, most_rows, size, a, b, s, c, counts, rows, columns, floor, far, later, turn):
    """The first tiles of the rest of a block, of most_rows rows of `size` bytes; returns how many rows it did.

    rows = (w of the first row, how many w, how many rows are left), columns = how many columns are left. As many tiles
    as fit into the rest of the line, or one that goes on in the next line. If fewer rows are left than fit, the missing
    ones are computed as copies of the last and written onto it, the same values again: that is cheaper than to ask.
    Missing columns are neither read nor written. turn = (which of a block's tiles it is, of how many).
    """
    if not isinstance(most_rows, types.IntegerLiteral) or not isinstance(size, types.IntegerLiteral):
        return None
    signature = types.intp(most_rows, size, a, b, s, c, counts, rows, types.intp, floor, far, later, turn)
    height, width = most_rows.literal_value, max(1, size.literal_value // VECTOR_BYTES)        # in vectors

    def codegen(context, builder, signature, arguments):
        pairs = zip(signature.args[2:6], arguments[2:6], strict=True)
        operands = [Operand(context, builder, *pair) for pair in pairs]
        counts, rows = [[builder.extract_value(each, i) for i in range(3)] for each in arguments[6:8]]
        (w, line, left), columns = rows, arguments[8]
        vector = Vector(builder, signature.args[2][0].dtype, size.literal_value // width)
        floor, far = context.cast(builder, arguments[9], signature.args[9], signature.args[2][0].dtype), arguments[10]
        a_is_far, c_is_far = (builder.icmp_signed("!=", builder.extract_value(far, i), I64(0)) for i in range(2))
        index, in_all = (builder.extract_value(arguments[12], i) for i in range(2))
        steps = functools.reduce(builder.mul, counts)
        wanted = index, Wanted(context, builder, signature.args[11], arguments[11], in_all, steps)
        fitting = builder.sdiv(builder.sub(line, w), I64(height))
        tiles = builder.select(builder.icmp_signed(">", fitting, I64(1)), fitting, I64(1))
        is_whole = builder.icmp_signed(">=", columns, I64(width * vector.lanes))
        with builder.if_else(is_whole) as (then, otherwise):
            with then:
                fills_line = size.literal_value >= VECTOR_BYTES      # what doesn't should not go past the caches
                streams = builder.and_(c_is_far, vector.is_lined_up(operands[3])) if fills_line else None
                far = a_is_far, streams
                _emit_tiles(builder, vector, height, *operands, counts, rows, tiles, [None] * width, floor, far, wanted)
            with otherwise:
                parts = [vector.part(builder.sub(columns, I64(i * vector.lanes))) for i in range(width)]
                _emit_tiles(builder, vector, height, *operands, counts, rows, tiles, parts, floor, (a_is_far, None),
                            wanted)
        done = builder.mul(tiles, I64(height))
        return builder.select(builder.icmp_signed("<", left, done), left, done)

    return signature, codegen


def _tile_numpy(most_rows, size, a, b, s, c, counts, rows, columns, floor, far, later, turn):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    def view(operand, offset, shape, steps):
        array = operand[0][operand[1] + offset:]
        return np.lib.stride_tricks.as_strided(array, shape, [step * array.itemsize for step in steps])

    w, width, left = rows
    columns = min(columns, size // a[0].itemsize)
    weights = view(b, 0, (*counts, columns), (*b[2:], 1))
    results = []
    for r in range(min(left, most_rows * max(1, (width - w) // most_rows))):
        h_r, w_r = (w + r) // width, (w + r) % width - w
        window = view(a, h_r * a[2] + w_r * a[3], counts, a[4:])
        start = view(s, h_r * s[2] + w_r * s[3], (columns,), (1,))
        target = view(c, h_r * c[2] + w_r * c[3], (columns,), (1,))
        results.append((target, start + np.einsum("uvk,uvki->i", window, weights)))
    for target, values in results:
        target[...] = np.where(floor > values, floor, values)
    return len(results)


tile = _tile_numpy if config.DISABLE_JIT else _tile


# ---- What the tile emits, from the whole down to its parts -------------------------------------------------

def _emit_tiles(builder, vector, most_rows, a, b, s, c, counts, rows, tiles, parts, floor, far, wanted):
    """For each tile: ask for a later A, load the sums from S, let u, v and k run, store the sums to C."""
    a_rows, s_rows, c_rows = row_offsets(builder, most_rows, rows, (a.steps, s.steps, c.steps))

    def vectors(operand, *offsets):
        """the addresses of the vectors side by side from there on, each with the part of it that there is"""
        return [(operand.at(*offsets, I64(i * vector.lanes)), part) for i, part in enumerate(parts)]

    def step(a_offset, b_offset, values):
        """One k: the number of A of each row times each vector of B."""
        sums, share = values[:most_rows * len(parts)], values[most_rows * len(parts):]
        a_offset, b_offset = unknown(builder, a_offset), unknown(builder, b_offset)
        columns = [vector.load(*where) for where in vectors(b, b_offset)]
        numbers = [vector.spread(builder.load(a.at(row, a_offset))) for row in a_rows]
        products = [(number, column) for number in numbers for column in columns]
        return [vector.multiply_add(*pair, one) for pair, one in zip(products, sums, strict=True)] + wanted.ask(share)

    def nest(depth, a_offset, b_offset, values):
        """The loop over u (depth 0), v or k, and in it the deeper ones."""
        if depth == 3:
            return step(a_offset, b_offset, values)

        def body(i, values):
            a_next = builder.add(a_offset, builder.mul(i, a.steps[2 + depth]))
            b_next = builder.add(b_offset, builder.mul(i, b.steps[depth]))
            return nest(depth + 1, a_next, b_next, values)

        return emit_loop(builder, counts[depth], values, body)

    lowest, (index, wanted) = vector.spread(floor), wanted
    u, v, k = counts
    one_run = ((u, I64(1)), (v, I64(1)), (a.steps[4], I64(1)), (a.steps[1], k))      # A's rows follow each other
    asks = functools.reduce(builder.and_, [far[0], *(builder.icmp_signed("==", *pair) for pair in one_run)])
    ahead = builder.mul(k, I64(AHEAD * most_rows))
    lines = builder.add(builder.sdiv(builder.mul(k, I64(most_rows)), I64(vector.lanes)), I64(1))

    def ask(to_a, i, _):
        emit_prefetch(builder, a.at(to_a, ahead, builder.mul(i, I64(vector.lanes))))
        return []

    def tile(i, _):
        first = builder.mul(i, I64(most_rows))
        to_a, to_s, to_c = (builder.mul(first, w_step) for _, w_step, *_ in (a.steps, s.steps, c.steps))
        with builder.if_then(asks):
            emit_loop(builder, lines, [], functools.partial(ask, to_a))
        sums = [vector.load(*where) for row in s_rows for where in vectors(s, row, to_s)]
        values = nest(0, to_a, I64(0), sums + wanted.share(builder.add(index, i)))
        sums = [vector.maximum(one, lowest) for one in values[:len(sums)]]
        vector.store_all(sums, [where for row in c_rows for where in vectors(c, row, to_c)], far[1])
        return []

    emit_loop(builder, tiles, [], tile)


def row_offsets(builder, most_rows, rows, steps):
    """How far each operand's rows are from its first. After an h's last w comes the next one's first."""
    w, width, left = rows
    before_last = builder.sub(width, I64(1))
    wraps = [builder.sub(h_step, builder.mul(w_step, before_last)) for h_step, w_step, *_ in steps]
    offsets = [[I64(0)] for _ in steps]
    for r in range(1, most_rows):
        w = builder.add(w, I64(1))
        at_end = builder.icmp_signed("==", w, width)
        exists = builder.icmp_signed("<", I64(r), left)
        for row, wrap, (_, w_step, *_) in zip(offsets, wraps, steps, strict=True):
            following = builder.add(row[-1], builder.select(at_end, wrap, w_step))
            row.append(builder.select(exists, following, row[-1]))    # a missing row is where the last one is
        w = builder.select(at_end, I64(0), w)
    return offsets
