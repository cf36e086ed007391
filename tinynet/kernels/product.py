"""The product of two matrices as one nest of loops, for a thread: C[i, j] = max(floor, S[i, j] + sum_k A[i, k] B[k, j])

What the register tile (tile.py) asks before it begins (how many columns are left, where a line ends, which taps there
are) takes as long as a short sum itself, and with few channels sums are short: 32 products for 32 channels. Matrices
need no such questions. Their rows and k come in simple steps, and B comes in *panels* (panels.py), of as many columns
as a tile has, one behind the other: what a tile reads of B is one piece. A wide tile takes two of them at a time. Where
B is nothing but panels, the next ones are asked for while some are in use, so that they needn't be waited for.
(Winograd's products of 128 channels: 1.15 times as fast.) Where panels are too deep to stay in the first cache, each k
asks for a later one (1x1 from 256 channels on: 1.02 to 1.07).

So this is what Winograd's way does between its transforms (1.2 times as fast as with the tile, of 32 channels), what
dense layers do, and convolutions of 1x1.
"""
import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I1, I64, VECTOR_BYTES, Operand, Vector, emit_loop, emit_prefetch, unknown
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.prefetch import Wanted
from tinynet.kernels.tile import AHEAD, ROWS, VECTORS, WIDE_ROWS, WIDE_VECTORS, wide_pays

FEW_ROWS = 12  # of a tile of half a vector: as many sums as a processor needs to be busy
PANELS = WIDE_VECTORS // VECTORS        # side by side, of a wide tile
STEPS_AHEAD = 16                # B is asked for, if it doesn't stay in the first cache


@intrinsic(prefer_literal=True)
def _multiply(typing, columns, a, b, s, c, size, floor, far, later):
    """C = max(floor, S + A B)

    columns: "whole" if they fill whole vectors, "few" if they are no more than half a vector, "any", or "deep" if there
        are so many k that the first cache doesn't hold B's panels; B can be read to the end of its last vector all the
        same.
    a = (array, offset, step of i, of k)                     s = (array, offset, step of i)
    b = (array, offset, step from panel to panel, of k)      c = (array, offset, step of i)
    a, b: or (array, offset), if they are nothing but panels, those of a turned A as wide as a wide tile has rows
    size = (how many i, j, k), at least one of each
    far = (A, C), 1 for what is in no cache, or None: A, whose rows are then whole, is asked for, C goes past the caches
    later: pieces of memory, (array, offset, how many numbers) each, that will be wanted soon, or None
    What is asked for is so in passing, with each k a line or less; see prefetch.py.
    """
    if not isinstance(columns, types.StringLiteral):
        return None
    signature = types.none(columns, a, b, s, c, size, floor, far, later)
    kind = columns.literal_value

    def codegen(context, builder, signature, arguments):
        operands = [Operand(context, builder, signature.args[i], arguments[i]) for i in range(1, 5)]
        rows, columns, depth = (builder.extract_value(arguments[5], i) for i in range(3))
        dtype = signature.args[1][0].dtype
        vector = Vector(builder, dtype, VECTOR_BYTES // 2 if kind == "few" else VECTOR_BYTES)
        b_is_packed = not operands[1].steps
        if b_is_packed:
            step = I64(panel_columns(vector.bytes))
            operands[1].steps = [builder.mul(depth, step), step]
        lowest = vector.spread(context.cast(builder, arguments[6], signature.args[6], dtype))
        asks = streams = None
        if not isinstance(signature.args[7], types.NoneType):
            asks, streams = (builder.trunc(builder.extract_value(arguments[7], i), I1) for i in range(2))
            streams = builder.and_(streams, vector.is_lined_up(operands[3]))
        at_once = FEW_ROWS if kind == "few" else ROWS if operands[0].steps else WIDE_ROWS
        panel = VECTORS * vector.lanes
        whole = builder.sdiv(columns, I64(panel))            # panels, the last one, if it has columns to spare, aside
        pairs = _pairs(context, builder, rows, whole) if kind != "few" else I64(0)
        wide_tiles, tiles = (_parts(builder, rows, n) for n in (WIDE_ROWS, at_once))         # of a pair, of a panel
        in_pairs, before = builder.mul(pairs, I64(PANELS)), builder.mul(pairs, wide_tiles)
        singles = builder.sub(whole, in_pairs)
        others = builder.sub(_parts(builder, columns, panel), in_pairs)      # singles, and what is left
        all_tiles = builder.add(before, builder.mul(others, tiles))
        wanted = Wanted(context, builder, signature.args[8], arguments[8], all_tiles, depth)
        tile = _Tile(vector, *operands, depth, lowest, (asks, b_is_packed, kind == "deep", streams), rows, wanted)

        def pair(i):
            tile.emit_rows(WIDE_ROWS, builder.mul(i, I64(PANELS)), [None] * WIDE_VECTORS, builder.mul(i, wide_tiles))

        def single(i, parts):
            tile.emit_rows(at_once, builder.add(in_pairs, i), parts, builder.add(before, builder.mul(i, tiles)))

        if kind == "few":
            single(I64(0), [vector.part(columns)])
            return context.get_dummy_value()
        if PANELS > 1:
            _emit_each(builder, pairs, pair)
        _emit_each(builder, singles, lambda i: single(i, [None] * VECTORS))
        for parts, is_so in _rests(vector, builder.sub(columns, builder.mul(whole, I64(panel))), kind == "whole"):
            with builder.if_then(is_so):
                single(singles, parts)
        return context.get_dummy_value()

    return signature, codegen


def _parts(builder, count, size):
    """How many parts of that size there are, the last one perhaps with fewer"""
    return builder.sdiv(builder.add(count, I64(size - 1)), I64(size))


def _pairs(context, builder, rows, panels):
    """How many pairs of so many panels wide tiles take: all, or none"""
    if PANELS == 1:
        return I64(0)
    pays = context.compile_internal(builder, wide_pays, types.boolean(types.intp), [rows])
    return builder.select(builder.trunc(pays, I1), builder.sdiv(panels, I64(PANELS)), I64(0))


def _emit_each(builder, count, body):
    """for i in range(count): body(i)"""
    def once(i, _):
        body(i)
        return []

    with builder.if_then(builder.icmp_signed(">", count, I64(0))):
        emit_loop(builder, count, [], once)


def _rests(vector, left, are_whole):
    """What may be left of a panel: (for each vector the part of it that there is, or None for all; whether it is so)"""
    builder, lanes = vector.builder, vector.lanes
    if VECTORS == 2:
        yield [None], builder.icmp_signed("==", left, I64(lanes))
        if not are_whole:
            yield [None, vector.part(builder.sub(left, I64(lanes)))], builder.icmp_signed(">", left, I64(lanes))
    if not are_whole:
        yield [vector.part(left)], builder.icmp_unsigned("<", builder.sub(left, I64(1)), I64(lanes - 1))


class _Tile:
    """Some rows of some vectors of a panel, or of two"""

    def __init__(self, vector, a, b, s, c, depth, lowest, far, rows, wanted):
        self.builder, self.vector, self.depth, self.lowest = vector.builder, vector, depth, lowest
        self.a, self.b, self.s, self.c = a, b, s, c
        self.asks_for_a, self.asks_for_panels, self.asks_for_b, self.streams = far
        self.rows, self.wanted = rows, wanted
        self.a_is_packed = not a.steps
        if self.a_is_packed:
            a.steps = [I64(1), I64(WIDE_ROWS)]

    def emit_rows(self, at_once, j, parts, before):
        """All rows, so many at once, from the j-th panel on: those parts of the vectors that there are

        before: how many tiles come before these.
        """
        def tile(i, _):
            return self._emit(at_once, i, j, parts, self.wanted.share(self.builder.add(before, i)))

        emit_loop(self.builder, _parts(self.builder, self.rows, at_once), [], tile)

    def _emit(self, at_once, i, j, parts, share):
        """The i-th of them. Where there are fewer, the last one several times, the same sums again."""
        builder, vector = self.builder, self.vector
        last = builder.sub(self.rows, I64(1))
        indices = [builder.add(builder.mul(i, I64(at_once)), I64(r)) for r in range(at_once)]
        indices = [builder.select(builder.icmp_signed("<", index, last), index, last) for index in indices]
        first = builder.mul(j, I64(VECTORS * vector.lanes))
        s_rows, c_rows = ([each.at(builder.mul(index, each.steps[0])) for index in indices]
                          for each in (self.s, self.c))
        before = builder.mul(i, I64(at_once))
        a_panel = self.a.at(builder.mul(before, self.depth if self.a_is_packed else self.a.steps[0]))
        a_rows = [builder.gep(a_panel, [builder.mul(builder.sub(index, before), self.a.steps[0])]) for index in indices]
        b_columns = [self.b.at(builder.mul(builder.add(j, I64(n // VECTORS)), self.b.steps[0]),
                               I64(n % VECTORS * vector.lanes)) for n in range(len(parts))]
        later_rows = None if self.asks_for_a is None else self._later_rows(at_once, a_rows[0], j)
        later = self._next_panels(b_columns[0], i, len(parts)) if self.asks_for_panels else None

        def step(k, values):
            sums, share = values[:len(sums_before)], values[len(sums_before):]
            a_offset, b_offset = (unknown(builder, builder.mul(k, each.steps[1])) for each in (self.a, self.b))
            if later_rows is not None:
                emit_prefetch(builder, builder.gep(later_rows, [builder.mul(k, I64(at_once))]), cache=1)
            if self.asks_for_panels:
                emit_prefetch(builder, builder.gep(later, [builder.mul(k, I64(vector.lanes))]), cache=1)
            if self.asks_for_b:
                ahead = builder.add(b_offset, I64(STEPS_AHEAD * VECTORS * vector.lanes))
                for column in b_columns:
                    emit_prefetch(builder, builder.gep(column, [ahead]), cache=1)
            columns = [vector.load(builder.gep(column, [b_offset]), None) for column in b_columns]
            numbers = [vector.spread(builder.load(builder.gep(row, [a_offset]))) for row in a_rows]
            products = [(number, column) for number in numbers for column in columns]
            sums = [vector.multiply_add(*pair, one) for pair, one in zip(products, sums, strict=True)]
            return sums + self.wanted.ask(share)

        sums_before = [vector.load(*to) for row in s_rows for to in self._abreast(builder.gep(row, [first]), parts)]
        values = emit_loop(builder, self.depth, sums_before + share, step)
        sums = [vector.maximum(one, self.lowest) for one in values[:len(sums_before)]]
        places = [place for row in c_rows for place in self._abreast(builder.gep(row, [first]), parts)]
        vector.store_all(sums, places, self.streams if parts.count(None) == len(parts) else None)
        return []

    def _later_rows(self, at_once, row, j):
        """From where on to ask for the rows of a later tile, once for all panels; else for what is at hand"""
        builder = self.builder
        asks = builder.and_(self.asks_for_a, builder.icmp_signed("==", j, I64(0)))
        ahead = builder.mul(self.a.steps[0], I64(AHEAD * at_once))
        return builder.gep(row, [builder.select(asks, ahead, I64(0))])

    def _next_panels(self, panel, i, vectors):
        """From where on the i-th rows ask for the next panels, a vector for each k: the i-th part, or else the last"""
        builder, count = self.builder, max(vectors, VECTORS)
        part = builder.select(builder.icmp_signed("<", i, I64(count)), i, I64(count - 1))
        part = builder.mul(builder.add(part, I64(count)), builder.mul(self.depth, I64(self.vector.lanes)))
        return builder.gep(panel, [part])

    def _abreast(self, place, parts):
        """The addresses of the vectors side by side from there on, each with the part of it that there is"""
        return [(self.builder.gep(place, [I64(n * self.vector.lanes)]), part) for n, part in enumerate(parts)]


def _multiply_numpy(columns, a, b, s, c, size, floor, far, later):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    def view(array, offset, *shape_and_steps):
        shape, steps = zip(*shape_and_steps, strict=True)
        return np.lib.stride_tricks.as_strided(array[offset:], shape, [step * array.itemsize for step in steps])

    (rows, columns, depth), panel = size, panel_columns(a[0].itemsize)
    b = b if len(b) > 2 else (*b, depth * panel, panel)
    if len(a) > 2:
        A = view(*a[:2], (rows, a[2]), (depth, a[3]))
    else:
        W = WIDE_ROWS
        A = view(*a, (-(-rows // W), depth * W), (W, 1), (depth, W)).reshape(-1, depth)[:rows]
    for j in range(0, columns, panel):
        width = min(panel, columns - j)
        B = view(b[0], b[1] + j // panel * b[2], (depth, b[3]), (width, 1))
        S, C = (view(each[0], each[1] + j, (rows, each[2]), (width, 1)) for each in (s, c))
        values = S.copy()
        for k in range(depth):                       # in this order: that of A @ B depends on how many rows there are
            values += A[:, k, None] * B[k]
        C[...] = np.where(floor > values, floor, values)


multiply = _multiply_numpy if config.DISABLE_JIT else _multiply
