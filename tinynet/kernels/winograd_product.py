"""The matrix products between Winograd's transforms: C[i, j] = sum over k of A[i, k] B[k, j], or as much added to C.

What the register tile (tile.py) asks before it begins (how many columns are left, where a line ends, what C is at
least) takes as long as a short sum itself, and with few channels these sums are short: 32 products for 32 channels.
Here all of that is known: columns come in whole vectors, rows and k in simple steps. So all is one nest of loops.
(With 32 channels 1.2 times as fast.)
"""
import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I64, VECTOR_BYTES, Operand, Vector, emit_loop, unknown
from tinynet.kernels.tile import ROWS, VECTORS

PANEL = VECTORS * VECTOR_BYTES // 4  # columns of a tile


@intrinsic
def _multiply(typing, a, b, c, size, goes_on):
    """C = A B, or C += A B if goes_on is 1

    a = (array, offset, step of i, of k)                       size = (how many i, j, k), at least 1 of each
    b = (array, offset, step from panel to panel, of k)        j: whole vectors; a panel has PANEL of them
    c = (array, offset, step of i)
    """
    signature = types.none(a, b, c, size, types.intp)

    def codegen(context, builder, signature, arguments):
        a, b, c = (Operand(context, builder, signature.args[i], arguments[i]) for i in range(3))
        rows, columns, depth = (builder.extract_value(arguments[3], i) for i in range(3))
        vector = Vector(builder, signature.args[0][0].dtype)
        nothing = vector.on_stack(1)
        vector.store(vector.zero, nothing, None)
        goes_on = builder.icmp_signed("!=", arguments[4], I64(0))
        last, blocks = builder.sub(rows, I64(1)), builder.sdiv(builder.add(rows, I64(ROWS - 1)), I64(ROWS))
        whole = builder.sdiv(columns, I64(PANEL))

        def panels(vectors, first, count):
            def tile(i, j):
                """Some rows times a panel; where there are fewer, the last one several times, the same sums again."""
                indices = [builder.add(builder.mul(i, I64(ROWS)), I64(r)) for r in range(ROWS)]
                indices = [builder.select(builder.icmp_signed("<", i, last), i, last) for i in indices]
                a_rows = [a.at(builder.mul(i, a.steps[0])) for i in indices]
                c_rows = [c.at(builder.mul(i, c.steps[0]), builder.mul(j, I64(PANEL))) for i in indices]
                b_panel = b.at(builder.mul(j, b.steps[0]))
                starts = goes_on, nothing
                _emit_tile(vector, vectors, a_rows, a.steps[1], b_panel, b.steps[1], c_rows, depth, starts)
                return []

            def panel(j, _):
                j = builder.add(first, j)
                return emit_loop(builder, blocks, [], lambda i, _: tile(i, j))

            with builder.if_then(builder.icmp_signed(">", count, I64(0))):
                emit_loop(builder, count, [], panel)

        panels(VECTORS, I64(0), whole)
        if VECTORS > 1:
            panels(1, whole, builder.sub(builder.sdiv(builder.add(columns, I64(PANEL - 1)), I64(PANEL)), whole))
        return context.get_dummy_value()

    return signature, codegen


def _emit_tile(vector, vectors, a_rows, a_k, b_panel, b_k, c_rows, depth, starts):
    """The sums of some rows and the first `vectors` vectors of a panel; starts = (do they go on?, where zeros are)"""
    builder, lanes = vector.builder, vector.lanes
    goes_on, nothing = starts

    def side_by_side(place):
        return [builder.gep(place, [I64(n * lanes)]) for n in range(vectors)]

    def step(k, sums):
        a_offset, b_offset = unknown(builder, builder.mul(k, a_k)), unknown(builder, builder.mul(k, b_k))
        columns = [vector.load(place, None) for place in side_by_side(builder.gep(b_panel, [b_offset]))]
        numbers = [vector.spread(builder.load(builder.gep(row, [a_offset]))) for row in a_rows]
        products = [(number, column) for number in numbers for column in columns]
        return [vector.multiply_add(*pair, one) for pair, one in zip(products, sums, strict=True)]

    places = [place for row in c_rows for place in side_by_side(row)]
    starts = [builder.select(goes_on, place, nothing) for place in places]
    sums = emit_loop(builder, depth, [vector.load(start, None) for start in starts], step)
    vector.store_all(sums, [(place, None) for place in places], None)


def _multiply_numpy(a, b, c, size, goes_on):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    def view(array, offset, *shape_and_steps):
        shape, steps = zip(*shape_and_steps, strict=True)
        return np.lib.stride_tricks.as_strided(array[offset:], shape, [step * array.itemsize for step in steps])

    rows, columns, depth = size
    A = view(*a[:2], (rows, a[2]), (depth, a[3]))
    for j in range(0, columns, PANEL):
        width = min(PANEL, columns - j)
        B = view(b[0], b[1] + j // PANEL * b[2], (depth, b[3]), (width, 1))
        C = view(c[0], c[1] + j, (rows, c[2]), (width, 1))
        C[...] = A @ B + (C if goes_on else 0)


multiply = _multiply_numpy if config.DISABLE_JIT else _multiply
