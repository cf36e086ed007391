"""The register tile, the one inner loop of convolutions and matrix products:

    C[r, c] = S[r, c] + sum over u, v, k of  A[r, u, v, k] * B[u, v, k, c]

A processor core multiplies and adds whole vectors (on AVX-512: 16 float32 at once), two of them a cycle, provided that
the operands are at hand. Memory cannot deliver that: two loads for each multiplication are twice too many. So a tile of C,
8 rows by 2 vectors, is kept in registers while the sums run. A step of k then loads 2 vectors of B and 8 numbers of A,
each copied into all lanes of a vector, and does 16 multiply-adds with these 10 loads:

                        B[k, 0:16]  B[k, 16:32]
         A[0, k]      [  C[0, :16]   C[0, 16:] ]
         A[1, k]      [  C[1, :16]   C[1, 16:] ]
          ...         [      ...        ...    ]
         A[7, k]      [  C[7, :16]   C[7, 16:] ]

None of the operands has to be copied into a special layout first. Each is a flat array with an offset and one step for each index
(only B's and C's columns must be neighbours); steps may overlap, be zero or be negative. That is how the same loop computes
a product with a transposed matrix (swap two steps), a convolution (the steps of r and v overlap: the window moves), a strided
or dilated one, and sums that start from a bias (S with a row step of 0) or go on (S is C).

The loop is emitted as LLVM vector instructions, because a compiler that is given plain loops finds half of the speed.
"""
import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.jit import inner

VECTOR_BYTES = 64               # of a vector in the emitted code; LLVM cuts it in 2 or 4 where registers are smaller


def _has_wide_registers():
    """Will the code be for 32 registers of 64 bytes (AVX-512)?"""
    features = config.CPU_FEATURES
    if features is None and config.CPU_NAME in (None, "host"):
        features = llvm.get_host_cpu_features().flatten()
    return "+avx512f" in (features or "")


# Sums, plus a step's vectors of B, plus the number of A that is just in use, must fit into the registers:
#   AVX-512  32 registers of 64 bytes   8 x 2 vectors: 16 sums + 2 + 1 = 19 registers
#   AVX2     16 of 32 bytes             6 x 1 vectors of 2 registers: 12 + 2 + 1 = 15
#   NEON     32 of 16 bytes             6 x 1 vectors of 4 registers: 24 + 4 + 1 = 29
# And there must be enough of them: a multiply-add takes 4 cycles, 2 start in each, so fewer than 8 sums would have to wait.
ROWS, VECTORS = (8, 2) if _has_wide_registers() else (6, 1)


@inner
def block(a, b, s, c, steps, rows, columns):
    """C[r, c] = S[r, c] + sum_uvk A[r, u, v, k] B[u, v, k, c] for any number of rows and columns, tile by tile.

    a = (array, offset, step of r, of u, of v, of k)     s = (array, offset, step of r)
    b = (array, offset, step of u, of v, of k)           c = (array, offset, step of r)
    steps = (how many u, how many v, how many k); with none of them, C = S
    """
    lanes = VECTOR_BYTES // a[0].itemsize
    start, from_start, start_row = s
    target, to_target, target_row = c
    if steps[0] * steps[1] * steps[2] == 0:
        for r in range(rows):
            for i in range(columns):
                target[to_target + r * target_row + i] = start[from_start + r * start_row + i]
        return
    for i in range(0, columns, VECTORS * lanes):
        left = columns - i
        bi = (b[0], b[1] + i, b[2], b[3], b[4])
        r = 0
        while r < rows:                                          # tile() says how many rows it did: none can be dropped
            ar = (a[0], a[1] + r * a[2], a[2], a[3], a[4], a[5])
            sr = (start, from_start + r * start_row + i, start_row)
            cr = (target, to_target + r * target_row + i, target_row)
            if VECTORS > 1 and left > lanes:
                r += tile(ROWS, VECTORS, ar, bi, sr, cr, steps, rows - r, left)
            else:
                r += tile(ROWS, 1, ar, bi, sr, cr, steps, rows - r, left)


@intrinsic(prefer_literal=True)
def _tile(typing, most_rows, vectors, a, b, s, c, steps, rows, columns):
    """The upper left tile, of at most `most_rows` rows and `vectors` vectors, of the block; returns its number of rows.

    A last tile may have fewer rows: its missing rows are computed as copies of its last row and written onto it, the same
    values once more, which is cheaper than to ask. It may have fewer columns: those are masked.
    """
    if not isinstance(most_rows, types.IntegerLiteral) or not isinstance(vectors, types.IntegerLiteral):
        return None
    shape = most_rows.literal_value, vectors.literal_value
    plain = [types.unliteral(one) for one in (a, b, s, c, steps)]
    signature = types.intp(most_rows, vectors, *plain, types.intp, types.intp)

    def codegen(context, builder, signature, arguments):
        operands = [_Operand(context, builder, *pair) for pair in zip(signature.args[2:6], arguments[2:6], strict=True)]
        counts = [builder.extract_value(arguments[6], i) for i in range(3)]
        rows, columns = arguments[7:]
        vector = _Vector(builder, signature.args[2][0].dtype)
        whole = builder.icmp_signed(">=", columns, I64(shape[1] * vector.lanes))
        with builder.if_else(whole) as (then, otherwise):
            with then:
                _emit_tile(builder, vector, shape, *operands, counts, rows, masks=[None] * shape[1])
            with otherwise:
                masks = [vector.mask(builder.sub(columns, I64(i * vector.lanes))) for i in range(shape[1])]
                _emit_tile(builder, vector, shape, *operands, counts, rows, masks)
        return _least(builder, rows, I64(shape[0]))

    return signature, codegen


def _tile_numpy(most_rows, vectors, a, b, s, c, steps, rows, columns):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    def view(operand, *shape):
        array, offset, *strides = operand
        strides = (*strides, 1)[:len(shape)]
        flat = array[offset:]
        return np.lib.stride_tricks.as_strided(flat, shape, [step * array.itemsize for step in strides])

    rows = min(rows, most_rows)
    columns = min(columns, vectors * VECTOR_BYTES // a[0].itemsize)
    products = np.einsum("ruvk,uvkc->rc", view(a, rows, *steps), view(b, *steps, columns))
    view(c, rows, columns)[...] = view(s, rows, columns) + products
    return rows


tile = _tile_numpy if config.DISABLE_JIT else _tile


# ---- What the tile emits, from the whole down to its parts --------------------------------------------------------------

I1, I32, I64 = ir.IntType(1), ir.IntType(32), ir.IntType(64)


def _emit_tile(builder, vector, shape, a, b, s, c, counts, rows, masks):
    """Load the sums from S, let u, v and k run, store the sums to C."""
    last = builder.sub(rows, I64(1))
    clamped = [_least(builder, I64(r), last) for r in range(shape[0])]
    row_offsets = [builder.mul(r, a.steps[0]) for r in clamped]

    def addresses(operand):
        """of each vector of the tile, row by row"""
        for r in clamped:
            row = operand.at(builder.mul(r, operand.steps[0]))
            for i, mask in enumerate(masks):
                yield builder.gep(row, [I64(i * vector.lanes)]), mask

    def step(a_at, b_at, sums):
        """One k: every row's number of A times every vector of B."""
        columns = [vector.load(builder.gep(b_at, [I64(i * vector.lanes)]), mask) for i, mask in enumerate(masks)]
        sums = iter(sums)
        new = []
        for offset in row_offsets:
            number = vector.spread(builder.load(builder.gep(a_at, [offset])))
            new += [vector.multiply_add(number, column, next(sums)) for column in columns]
        return new

    def nest(depth, a_at, b_at, sums):
        """The loops over u, v and k: this one, and in it the deeper ones."""
        if depth == 3:
            return step(a_at, b_at, sums)
        return _loop(builder, counts[depth], sums, lambda i, sums: nest(
            depth + 1,
            builder.gep(a_at, [builder.mul(i, a.steps[1 + depth])]),
            builder.gep(b_at, [builder.mul(i, b.steps[depth])]),
            sums))

    sums = nest(0, a.start, b.start, [vector.load(*where) for where in addresses(s)])
    for one, where in zip(sums, addresses(c), strict=True):
        vector.store(one, *where)


def _loop(builder, count, values, body):
    """for i in range(count): values = body(i, values)        with count >= 1; values are in registers all the time"""
    before = builder.block
    inside, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(inside)
    builder.position_at_end(inside)
    i = builder.phi(I64)
    current = [builder.phi(value.type) for value in values]
    new = body(i, current)
    next_i = builder.add(i, I64(1))
    for phi, first, following in zip([i, *current], [I64(0), *values], [next_i, *new], strict=True):
        phi.add_incoming(first, before)
        phi.add_incoming(following, builder.block)
    builder.cbranch(builder.icmp_signed("<", next_i, count), inside, after)
    builder.position_at_end(after)
    return new


def _least(builder, x, y):
    return builder.select(builder.icmp_signed("<", x, y), x, y)


class _Operand:
    """(array, offset, steps...): a pointer to the first element, and the steps."""

    def __init__(self, context, builder, type_, value):
        array, offset, *self.steps = (builder.extract_value(value, i) for i in range(len(type_)))
        self.builder = builder
        self.start = builder.gep(context.make_array(type_[0])(context, builder, array).data, [offset])

    def at(self, offset):
        return self.builder.gep(self.start, [offset])


class _Vector:
    """The vector operations for one element type."""

    def __init__(self, builder, dtype):
        self.builder = builder
        self.bytes = dtype.bitwidth // 8
        self.lanes = VECTOR_BYTES // self.bytes
        self.type = ir.VectorType(ir.FloatType() if self.bytes == 4 else ir.DoubleType(), self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def spread(self, number):
        """`number` in every lane"""
        return self._broadcast(number, self.type)

    def _broadcast(self, number, type_):
        undefined = ir.Constant(type_, ir.Undefined)
        first = self.builder.insert_element(undefined, number, I32(0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes))

    def multiply_add(self, x, y, z):
        """x * y + z, which "contract" allows to be one instruction"""
        return self.builder.fadd(self.builder.fmul(x, y, flags=("contract",)), z, flags=("contract",))

    def mask(self, count):
        """true in the first `count` lanes"""
        type_ = ir.VectorType(I64, self.lanes)
        return self.builder.icmp_signed("<", ir.Constant(type_, list(range(self.lanes))), self._broadcast(count, type_))

    def load(self, address, mask):
        """Masked lanes are 0 and their memory is not touched."""
        address = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            return self.builder.load(address, align=self.bytes)
        load = self._masked("load", self.type, [address.type, I32, mask.type, self.type])
        return self.builder.call(load, [address, I32(self.bytes), mask, self.zero])

    def store(self, value, address, mask):
        address = self.builder.bitcast(address, self.type.as_pointer())
        if mask is None:
            self.builder.store(value, address, align=self.bytes)
        else:
            store = self._masked("store", ir.VoidType(), [self.type, address.type, I32, mask.type])
            self.builder.call(store, [value, address, I32(self.bytes), mask])

    def _masked(self, verb, result, arguments):
        name = f"llvm.masked.{verb}.v{self.lanes}f{8 * self.bytes}.p0"
        known = self.builder.module.globals
        return known[name] if name in known else ir.Function(self.builder.module, ir.FunctionType(result, arguments), name)
