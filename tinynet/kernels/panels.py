"""Matrices cut into panels: what the loops of a product read one after the other lies side by side.

    panels[p, k, :] = matrix[k, p W:(p + 1) W]            panels of W columns, row by row, one behind the other

A tile of a product reads some columns of B, 32 of a row, then 32 of the next. If rows are a power of two long, all of
these lie in a few sets of the cache, which can't hold them: each tile would fetch them anew. And where columns are few,
of each line that is fetched a part is read. A panel is one piece, which is read from its beginning to its end. To cut
B into panels takes a few per cent of the time of a product of a hundred rows, and reads the memory in the order in
which it lies there. A B that lies turned, its columns one behind the other, is turned on this way; and an A that does,
its rows side by side, is a matter of panels, too.

The last panel may have columns to spare. They are zeros: tiles multiply them, too, and what the memory held before may
be numbers below 1e-38, for each of which some processors take 100 times as long.
"""
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I64, VECTOR_BYTES, Operand, Vector, emit_loop
from tinynet.kernels.jit import inner
from tinynet.kernels.memory import room_for
from tinynet.kernels.tile import USUAL, WIDE, WIDE_ROWS
from tinynet.kernels.turning import ROW, emit_turned

PANEL_BYTES = USUAL             # of a row of a panel of B: a tile's columns


def panel_columns(itemsize: int) -> int:
    """Of a panel of B."""
    return PANEL_BYTES // itemsize


@inner
def panels_for(columns, width, depth, like):
    """Memory for so many columns and rows in panels of that width, for numbers of the kind of `like`"""
    return room_for((columns + width - 1) // width * width * depth, like)


@intrinsic(prefer_literal=True)
def _cut(typing, factor, matrix, size, panels):
    """A piece of a product's factor, "B" or a turned "A", cut into panels; or "wide B", for block() of tile.py

    matrix = (array, where the piece begins, step of k), size = (how many columns, k) it has, panels: flat
    """
    if not isinstance(factor, types.StringLiteral):
        return None
    itemsize = panels.dtype.bitwidth // 8
    W = _width(factor.literal_value, itemsize)

    def codegen(context, builder, signature, arguments):
        matrix = Operand(context, builder, signature.args[1], arguments[1])
        columns, depth = (builder.extract_value(arguments[2], i) for i in range(2))
        target = context.make_array(signature.args[3])(context, builder, arguments[3]).data
        vector = Vector(builder, signature.args[3].dtype, min(W * itemsize, VECTOR_BYTES))
        offsets = [I64(n) for n in range(0, W, vector.lanes)]
        whole = builder.sdiv(columns, I64(W))
        left = builder.sub(columns, builder.mul(whole, I64(W)))
        rest = [vector.part(builder.sub(left, offset)) for offset in offsets]

        def move(k, p, parts):
            source = matrix.at(builder.mul(k, matrix.steps[0]), builder.mul(p, I64(W)))
            place = builder.gep(target, [builder.mul(builder.add(builder.mul(p, depth), k), I64(W))])
            for offset, part in zip(offsets, parts, strict=True):
                vector.store(vector.load(builder.gep(source, [offset]), part), builder.gep(place, [offset]), None)
            return []

        def move_row(k, _):
            emit_loop(builder, whole, [], lambda p, _: move(k, p, [None] * len(offsets)))
            with builder.if_then(builder.icmp_signed(">", left, I64(0))):
                move(k, whole, rest)
            return []

        emit_loop(builder, depth, [], move_row)
        return context.get_dummy_value()

    return types.none(factor, matrix, size, panels), codegen


def _width(factor, itemsize):
    """W: a tile's columns of B, or those of a wide one, or its rows of A"""
    return {"B": panel_columns(itemsize), "wide B": WIDE // itemsize, "A": WIDE_ROWS}[factor]


def _cut_numpy(factor, matrix, size, panels):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    (array, offset, step), (columns, depth), width = matrix, size, _width(factor, panels.itemsize)
    for p in range(-(-columns // width)):
        here = min(width, columns - p * width)
        for k in range(depth):
            source, place = offset + k * step + p * width, (p * depth + k) * width
            panels[place:place + here] = array[source:source + here]
            panels[place + here:place + width] = 0


cut = _cut_numpy if config.DISABLE_JIT else _cut


@intrinsic
def _cut_turned(typing, matrix, size, panels):
    """A piece of a B that lies turned, cut into panels

    matrix = (array, where the piece begins, step of columns), size = (how many columns, k) it has, panels: flat
    """
    W = panel_columns(panels.dtype.bitwidth // 8)

    def codegen(context, builder, signature, arguments):
        matrix = Operand(context, builder, signature.args[0], arguments[0])
        columns, depth = (builder.extract_value(arguments[1], i) for i in range(2))
        target = context.make_array(signature.args[2])(context, builder, arguments[2]).data
        vector = Vector(builder, signature.args[2].dtype, ROW)
        side, last = I64(vector.lanes), builder.sub(columns, I64(1))
        is_deep = builder.icmp_signed(">=", depth, side)

        def square(p, q, k, are_all, count):
            """The q-th square of panel p, from row k on; or `count` rows of it, if that is given"""
            within, rows = builder.mul(q, side), []
            first = builder.add(builder.mul(p, I64(W)), within)
            for r in range(vector.lanes):
                j = builder.add(first, I64(r))
                exists = builder.icmp_signed("<=", j, last)
                j = j if are_all else builder.select(exists, j, last)
                row = vector.load(matrix.at(builder.mul(j, matrix.steps[0]), k), count and vector.part(count))
                rows.append(row if are_all else builder.select(exists, row, vector.zero))
            to = builder.add(builder.mul(builder.add(builder.mul(p, depth), k), I64(W)), within)
            for r, row in enumerate(emit_turned(builder, rows)):
                place = builder.gep(target, [builder.add(to, I64(r * W))])
                if count is None:
                    vector.store(row, place, None)
                else:
                    with builder.if_then(builder.icmp_signed("<", I64(r), count)):
                        vector.store(row, place, None)
            return []

        def panel(p, are_all):
            """By squares; the last one may overlap the one before it, or have too few rows where it is the only one"""
            def row_of_squares(s, _):
                k, end = builder.mul(s, side), builder.sub(depth, side)
                k = builder.select(builder.icmp_signed("<", k, end), k, end)
                return emit_loop(builder, I64(W // vector.lanes), [], lambda q, _: square(p, q, k, are_all, None))

            squares = builder.sdiv(builder.add(depth, I64(vector.lanes - 1)), side)
            with builder.if_else(is_deep) as (deep, shallow):
                with deep:
                    emit_loop(builder, squares, [], row_of_squares)
                with shallow:
                    emit_loop(builder, I64(W // vector.lanes), [], lambda q, _: square(p, q, I64(0), are_all, depth))
            return []

        whole = builder.sdiv(columns, I64(W))
        with builder.if_then(builder.icmp_signed(">", whole, I64(0))):
            emit_loop(builder, whole, [], lambda p, _: panel(p, True))
        with builder.if_then(builder.icmp_signed("<", builder.mul(whole, I64(W)), columns)):
            panel(whole, False)
        return context.get_dummy_value()

    return types.none(matrix, size, panels), codegen


def _cut_turned_numpy(matrix, size, panels):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    (array, offset, step), (columns, depth), width = matrix, size, panel_columns(panels.itemsize)
    for p in range(-(-columns // width)):
        here = min(width, columns - p * width)
        for k in range(depth):
            source, place = offset + p * width * step + k, (p * depth + k) * width
            panels[place:place + here] = array[source:source + (here - 1) * step + 1:step]
            panels[place + here:place + width] = 0


cut_turned = _cut_turned_numpy if config.DISABLE_JIT else _cut_turned
