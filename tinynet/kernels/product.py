"""The product of two matrices as one nest of loops, for a thread: C[i, j] = max(floor, S[i, j] + sum_k A[i, k] B[k, j])

What the register tile (tile.py) asks before it begins (how many columns are left, where a line ends, which taps there
are) takes as long as a short sum itself, and with few channels sums are short: 32 products for 32 channels. Matrices
need no such questions. Their rows and k come in simple steps, and B comes in *panels* (panels.py), of as many columns
as a tile has, one behind the other: what a tile reads of B is one piece. Where B is nothing but panels, the next one
is asked for while one is in use, so that it needn't be waited for. (Winograd's products of 128 channels: 1.15 times as
fast.)

So this is what Winograd's way does between its transforms (1.2 times as fast as with the tile, of 32 channels), what
dense layers do, and convolutions of 1x1.
"""
import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I1, I64, VECTOR_BYTES, Operand, Vector, emit_loop, emit_prefetch, unknown
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.prefetch import Wanted
from tinynet.kernels.tile import AHEAD, ROWS, VECTORS

FEW_ROWS = 12  # of a tile of half a vector: as many sums as a processor needs to be busy


@intrinsic(prefer_literal=True)
def _multiply(typing, columns, a, b, s, c, size, floor, far, later):
    """C = max(floor, S + A B)

    columns: "whole" if they fill whole vectors, "few" if they are no more than half a vector, or "any"; B can be read
    to the end of its last vector all the same.
    a = (array, offset, step of i, of k)                     s = (array, offset, step of i)
    b = (array, offset, step from panel to panel, of k)      c = (array, offset, step of i)
    a, b: or (array, offset), if they are nothing but panels, those of a turned A as wide as a tile has rows
    size = (how many i, j, k), at least one of each
    far = (A, C), 1 for what is in no cache: A, whose rows are then whole, is asked for ahead, C goes past the caches
    later: pieces of memory, (array, offset, how many numbers) each, that will be wanted soon, or None. The tiles ask
        for them in passing; see prefetch.py.
    """
    if not isinstance(columns, types.StringLiteral):
        return None
    signature = types.none(columns, a, b, s, c, size, floor, far, later)
    kind = columns.literal_value
    at_once = FEW_ROWS if kind == "few" else ROWS

    def codegen(context, builder, signature, arguments):
        operands = [Operand(context, builder, signature.args[i], arguments[i]) for i in range(1, 5)]
        rows, columns, depth = (builder.extract_value(arguments[5], i) for i in range(3))
        dtype = signature.args[1][0].dtype
        vector = Vector(builder, dtype, VECTOR_BYTES // 2 if kind == "few" else VECTOR_BYTES)
        b_is_packed = not operands[1].steps
        if b_is_packed:
            panel = I64(panel_columns(vector.bytes))
            operands[1].steps = [builder.mul(depth, panel), panel]
        lowest = vector.spread(context.cast(builder, arguments[6], signature.args[6], dtype))
        asks, streams = (builder.trunc(builder.extract_value(arguments[7], i), I1) for i in range(2))
        streams = builder.and_(streams, vector.is_lined_up(operands[3]))
        tiles = builder.mul(_parts(builder, rows, at_once), _parts(builder, columns, VECTORS * vector.lanes))
        wanted = Wanted(context, builder, signature.args[8], arguments[8], tiles, depth)
        tile = _Tile(vector, *operands, depth, lowest, (asks, b_is_packed, streams), at_once, wanted)
        if kind == "few":
            tile.emit_rows(rows, I64(0), [vector.part(columns)])
            return context.get_dummy_value()
        panel = I64(VECTORS * vector.lanes)
        whole = builder.sdiv(columns, panel)
        with builder.if_then(builder.icmp_signed(">", whole, I64(0))):
            emit_loop(builder, whole, [], lambda j, _: tile.emit_rows(rows, j, [None] * VECTORS))
        for parts, is_so in _rests(vector, builder.sub(columns, builder.mul(whole, panel)), kind == "whole"):
            with builder.if_then(is_so):
                tile.emit_rows(rows, whole, parts)
        return context.get_dummy_value()

    return signature, codegen


def _parts(builder, count, size):
    """How many parts of that size there are, the last one perhaps with fewer"""
    return builder.sdiv(builder.add(count, I64(size - 1)), I64(size))


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
    """Some rows of some vectors of a panel"""

    def __init__(self, vector, a, b, s, c, depth, lowest, far, at_once, wanted):
        self.builder, self.vector, self.depth, self.lowest = vector.builder, vector, depth, lowest
        self.a, self.b, self.s, self.c = a, b, s, c
        self.asks_for_a, self.asks_for_b, self.streams = far
        self.at_once, self.wanted = at_once, wanted
        self.a_is_packed = not a.steps
        if self.a_is_packed:
            a.steps = [I64(1), I64(ROWS)]

    def emit_rows(self, rows, j, parts):
        """All rows of the j-th panel, or of those parts of its vectors that there are"""
        blocks = _parts(self.builder, rows, self.at_once)

        def tile(i, _):
            return self._emit(i, rows, j, parts, self.wanted.share(self.builder.add(self.builder.mul(j, blocks), i)))

        return emit_loop(self.builder, blocks, [], tile)

    def _emit(self, i, rows, j, parts, share):
        """The i-th of them. Where there are fewer, the last one several times, the same sums again."""
        builder, vector, at_once = self.builder, self.vector, self.at_once
        last = builder.sub(rows, I64(1))
        indices = [builder.add(builder.mul(i, I64(at_once)), I64(r)) for r in range(at_once)]
        indices = [builder.select(builder.icmp_signed("<", index, last), index, last) for index in indices]
        first = builder.mul(j, I64(VECTORS * vector.lanes))
        s_rows, c_rows = ([each.at(builder.mul(index, each.steps[0])) for index in indices]
                          for each in (self.s, self.c))
        before = builder.mul(i, I64(at_once))
        a_panel = self.a.at(builder.mul(before, self.depth if self.a_is_packed else self.a.steps[0]))
        a_rows = [builder.gep(a_panel, [builder.mul(builder.sub(index, before), self.a.steps[0])]) for index in indices]
        panel = self.b.at(builder.mul(j, self.b.steps[0]))
        self._ask_ahead(a_rows[0], j)
        later = self._next_panel(panel, i) if self.asks_for_b else None

        def step(k, values):
            sums, share = values[:len(sums_before)], values[len(sums_before):]
            a_offset, b_offset = (unknown(builder, builder.mul(k, each.steps[1])) for each in (self.a, self.b))
            if self.asks_for_b:
                emit_prefetch(builder, builder.gep(later, [builder.mul(k, I64(vector.lanes))]), cache=1)
            columns = [vector.load(place, None) for place, _ in self._abreast(builder.gep(panel, [b_offset]), parts)]
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

    def _ask_ahead(self, row, j):
        """Ask the memory for the rows of a later tile, once for all panels."""
        builder, step, at_once = self.builder, self.a.steps[0], self.at_once
        later = builder.gep(row, [builder.mul(step, I64(AHEAD * at_once))])
        lines = builder.add(builder.sdiv(builder.mul(step, I64(at_once)), I64(self.vector.lanes)), I64(1))

        def ask(i, _):
            emit_prefetch(builder, builder.gep(later, [builder.mul(i, I64(self.vector.lanes))]))
            return []

        with builder.if_then(builder.and_(self.asks_for_a, builder.icmp_signed("==", j, I64(0)))):
            emit_loop(builder, lines, [], ask)

    def _next_panel(self, panel, i):
        """From where on the i-th rows ask for the next panel, a vector for each k: its beginning, or else its middle"""
        builder = self.builder
        middle = builder.mul(self.depth, I64((VECTORS - 1) * self.vector.lanes))
        begin = builder.select(builder.icmp_signed("==", i, I64(0)), I64(0), middle)
        return builder.gep(panel, [builder.add(self.b.steps[0], begin)])

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
        A = view(*a, (-(-rows // ROWS), depth * ROWS), (ROWS, 1), (depth, ROWS)).reshape(-1, depth)[:rows]
    for j in range(0, columns, panel):
        width = min(panel, columns - j)
        B = view(b[0], b[1] + j // panel * b[2], (depth, b[3]), (width, 1))
        S, C = (view(each[0], each[1] + j, (rows, each[2]), (width, 1)) for each in (s, c))
        values = S.copy()
        for k in range(depth):                       # in this order: that of A @ B depends on how many rows there are
            values += A[:, k, None] * B[k]
        C[...] = np.where(floor > values, floor, values)


multiply = _multiply_numpy if config.DISABLE_JIT else _multiply
