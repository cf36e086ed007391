"""What kernels emit as LLVM instructions, where a compiler left to itself finds half of the speed: vectors, and loops.

An @intrinsic of numba's is a function whose body is not compiled from Python, but put together here, instruction by
instruction: a builder appends to a *block*, which runs from its first instruction to its last, a branch; where blocks
meet, a *phi* takes the value of the way by which it was reached. Memory is addressed by Operands; a Vector has the
operations on VECTOR_BYTES of numbers at once, of which the processor does one or a few at a time.
"""

import functools
from typing import NamedTuple

from llvmlite import ir
from numba import config, types
from numba.core.codegen import get_host_cpu_features
from numba.extending import intrinsic

VECTOR_BYTES = 64               # of a vector in the emitted code; LLVM cuts it up where registers are smaller
I1, I8, I32, I64 = (ir.IntType(bits) for bits in (1, 8, 32, 64))


def has_wide_registers():
    """Will numba's code be for 32 registers of 64 bytes, and masks (AVX-512)?"""
    features = get_host_cpu_features() if config.CPU_FEATURES is None else config.CPU_FEATURES
    return "+avx512f" in features.split(",")


@intrinsic
def _flattened(typing, array):
    """A contiguous array as one with a single axis, in a kernel: numba takes 0.1 s to compile each reshape(-1)."""
    if not isinstance(array, types.Array) or array.layout != "C":
        return None
    from numba.core.imputils import impl_ret_borrowed  # numba has them when it compiles; before, they take 0.15 s
    from numba.np.arrayobj import populate_array
    line = array.copy(ndim=1)

    def codegen(context, builder, signature, arguments):
        source = context.make_array(array)(context, builder, arguments[0])
        target = context.make_array(line)(context, builder)
        populate_array(target, data=source.data, shape=[source.nitems], strides=[source.itemsize],
                       itemsize=source.itemsize, meminfo=source.meminfo, parent=source.parent)
        return impl_ret_borrowed(context, builder, line, target._getvalue())

    return line(array), codegen


def _flattened_numpy(array):
    return array.reshape(-1)


flattened = _flattened_numpy if config.DISABLE_JIT else _flattened


def emit_loop(builder, count, values, body):
    """for i in range(count): values = body(i, values)        count >= 1; the values stay in registers"""
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


def emit_prefetch(builder, address, cache=2):
    """Ask for the line of memory there, into the first or second cache; an address that does not exist is ignored."""
    name = "llvm.prefetch.p0"
    function = builder.module.globals.get(name) or ir.Function(
        builder.module, ir.FunctionType(ir.VoidType(), [address.type, I32, I32, I32]), name)
    builder.call(function, [address, I32(0), I32(4 - cache), I32(1)])       # to read; how near; data, not code


class Operand:
    """(array, offset, steps...): a pointer to where it begins, and the steps."""

    def __init__(self, context, builder, type_, value):
        array, offset, *self.steps = (builder.extract_value(value, i) for i in range(len(type_)))
        self.builder = builder
        self.start = builder.gep(context.make_array(type_[0])(context, builder, array).data, [offset])

    def at(self, *offsets):
        address = self.start
        for offset in offsets:
            address = self.builder.gep(address, [offset])
        return address


class Part(NamedTuple):
    """The first lanes of a vector, where no more are wanted."""

    count: ir.Value
    mask: ir.Value              # true in these lanes


class Vector:
    """The vector operations for one element type, on VECTOR_BYTES or a part of it."""

    def __init__(self, builder, dtype, size=VECTOR_BYTES):
        self.builder = builder
        self.bytes = dtype.bitwidth // 8
        self.lanes = size // self.bytes
        self.type = ir.VectorType(ir.FloatType() if self.bytes == 4 else ir.DoubleType(), self.lanes)
        self.zero = ir.Constant(self.type, [0.0] * self.lanes)

    def on_stack(self, count):
        """A place for so many vectors that lasts as long as the function runs"""
        with self.builder.goto_entry_block():
            place = self.builder.alloca(self.type, count)
        place.align = VECTOR_BYTES
        return self.builder.bitcast(place, self.type.element.as_pointer())

    def spread(self, number):
        """`number` in every lane"""
        return self._broadcast(number, self.type)

    def _broadcast(self, number, type_):
        undefined = ir.Constant(type_, ir.Undefined)
        first = self.builder.insert_element(undefined, number, I32(0))
        all_first = ir.Constant(ir.VectorType(I32, self.lanes), [0] * self.lanes)
        return self.builder.shuffle_vector(first, undefined, all_first)

    def multiply_add(self, x, y, z):
        """x * y + z, which "contract" allows to be one instruction"""
        return self.builder.fadd(self.builder.fmul(x, y, flags=("contract",)), z, flags=("contract",))

    def constant(self, number):
        return ir.Constant(self.type, [float(number)] * self.lanes)

    def add(self, x, y):
        return self.builder.fadd(x, y, flags=("contract",))

    def subtract(self, x, y):
        return self.builder.fsub(x, y, flags=("contract",))

    def multiply(self, x, y):
        return self.builder.fmul(x, y, flags=("contract",))

    def maximum(self, x, floor):
        """x, or `floor` where that is more; NaN stays NaN: just what a processor's instruction for it does"""
        return self.builder.select(self.builder.fcmp_ordered(">", floor, x), floor, x)

    def largest(self, vectors):
        """(the largest, which of them it is, as bytes): the first of equal ones; NaN beats every number"""
        best, ranks = vectors[0], self._bytes(0)
        for rank, vector in enumerate(vectors[1:], 1):
            is_nan = self.builder.fcmp_unordered("uno", vector, vector)
            beats = self.builder.or_(self.builder.fcmp_ordered(">", vector, best), is_nan)
            best = self.builder.select(beats, vector, best)
            ranks = self.builder.select(beats, self._bytes(rank), ranks)
        return best, ranks

    def _bytes(self, value):
        return ir.Constant(ir.VectorType(I8, self.lanes), [value] * self.lanes)

    def store_bytes(self, value, address):
        address = self.builder.bitcast(address, value.type.as_pointer())
        self.builder.store(value, address, align=1)

    def load_where(self, address, bytes_address, wanted):
        """The lanes whose byte is the one that is wanted; the others are 0."""
        numbers = self.load(address, None)
        type_ = self._bytes(0).type
        ranks = self.builder.load(self.builder.bitcast(bytes_address, type_.as_pointer()), align=1)
        is_wanted = self.builder.icmp_unsigned("==", ranks, self._broadcast(wanted, type_))
        return self.builder.select(is_wanted, numbers, self.zero)

    def part(self, count):
        """The first `count` lanes, of which there may be more or less than a vector has; see Part."""
        builder, bounds = self.builder, ((">", self.lanes), ("<", 0))
        for sign, bound in bounds:
            count = builder.select(builder.icmp_signed(sign, count, I64(bound)), I64(bound), count)
        return Part(count, self._mask(count))

    def _mask(self, count):
        """true in the first `count` lanes

        It compares integers as wide as the elements: of others, LLVM would convert the mask in each step of the
        loop where registers have 32 bytes.
        """
        integer = ir.IntType(8 * self.bytes)
        count = count if integer == I64 else self.builder.trunc(count, integer)
        type_ = ir.VectorType(integer, self.lanes)
        numbers = ir.Constant(type_, list(range(self.lanes)))
        return self.builder.icmp_signed("<", numbers, self._broadcast(count, type_))

    def load(self, address, part):
        """Lanes that are not of the part are 0, and their memory is not touched."""
        address = self.builder.bitcast(address, self.type.as_pointer())
        if part is None:
            return self.builder.load(address, align=self.bytes)
        load = self._masked("load", self.type, [address.type, I32, part.mask.type, self.type])
        return self.builder.call(load, [address, I32(self.bytes), part.mask, self.zero])

    def store(self, value, address, part):
        self._store_each([value], [(address, part)])

    def is_lined_up(self, operand):
        """Does the operand begin with a cache line, and each of its steps lead to the beginning of another?"""
        builder = self.builder
        steps = [builder.mul(step, I64(self.bytes)) for step in operand.steps]
        places = [builder.ptrtoint(operand.start, I64), *steps]
        within_line = builder.and_(functools.reduce(builder.or_, places), I64(VECTOR_BYTES - 1))
        return builder.icmp_signed("==", within_line, I64(0))

    def store_all(self, values, places, streams):
        """values to places = [(address, part)]; if `streams` is true, past the caches (streaming.py). None: never."""
        if streams is None:
            return self._store_each(values, places)
        with self.builder.if_else(streams) as (past_the_caches, otherwise):
            with past_the_caches:
                hint = self.builder.module.add_metadata([I32(1)])
                for value, (address, _) in zip(values, places, strict=True):
                    address = self.builder.bitcast(address, self.type.as_pointer())
                    self.builder.store(value, address, align=VECTOR_BYTES).set_metadata("nontemporal", hint)
            with otherwise:
                self._store_each(values, places)

    def _store_each(self, values, places):
        for part in dict.fromkeys(part for _, part in places):
            ours = [(value, address) for value, (address, each) in zip(values, places, strict=True) if each is part]
            if part is None:
                self._store_whole(*zip(*ours, strict=True))
            elif has_wide_registers():
                self._store_masked(*zip(*ours, strict=True), part.mask)
            else:
                self._store_by_halves(*zip(*ours, strict=True), part.count)

    def _store_whole(self, values, addresses):
        for value, address in zip(values, addresses, strict=True):
            self.builder.store(value, self.builder.bitcast(address, value.type.as_pointer()), align=self.bytes)

    def _store_masked(self, values, addresses, mask):
        for value, address in zip(values, addresses, strict=True):
            address = self.builder.bitcast(address, self.type.as_pointer())
            store = self._masked("store", ir.VoidType(), [self.type, address.type, I32, mask.type])
            self.builder.call(store, [value, address, I32(self.bytes), mask])

    def _store_by_halves(self, values, addresses, count):
        """The first `count` lanes of each: all, or as the bits of `count` say a half of them, a quarter, ..., the last.

        For a masked store AVX2 needs as long as for 20 others, and NEON has none.
        """
        builder, size = self.builder, self.lanes
        with builder.if_else(builder.icmp_signed("==", count, I64(size))) as (whole, otherwise):
            with whole:
                self._store_whole(values, addresses)
            with otherwise:
                while size > 1:
                    size //= 2
                    values, addresses = self._store_if(builder.and_(count, I64(size)), values, addresses, size)

    def _store_if(self, wanted, values, addresses, size):
        """Stores the first `size` lanes unless `wanted` is 0; returns the `size` lanes that are next, and where to."""
        builder = self.builder
        first, second = ([self._lanes(value, begin, size) for value in values] for begin in (0, size))
        before = builder.block
        with builder.if_then(builder.icmp_signed("!=", wanted, I64(0))):
            self._store_whole(first, addresses)
            inside = builder.block
        following = [builder.phi(value.type) for value in first]
        for phi, *ways in zip(following, first, second, strict=True):
            for value, block in zip(ways, (before, inside), strict=True):
                phi.add_incoming(value, block)
        return following, [builder.gep(address, [wanted]) for address in addresses]

    def _lanes(self, value, begin, size):
        lanes = ir.Constant(ir.VectorType(I32, size), list(range(begin, begin + size)))
        return self.builder.shuffle_vector(value, ir.Constant(value.type, ir.Undefined), lanes)

    def _masked(self, verb, result, arguments):
        module = self.builder.module
        name = f"llvm.masked.{verb}.v{self.lanes}f{8 * self.bytes}.p0"
        if name not in module.globals:
            ir.Function(module, ir.FunctionType(result, arguments), name)
        return module.globals[name]


def unknown(builder, number):
    """The same number, of which LLVM thinks that it could be another one each time.

    Or else it would compute all addresses before a loop: more than there are registers, each then to be loaded.
    """
    same = ir.InlineAsm(ir.FunctionType(I64, [I64]), "", "=r,0", side_effect=True)
    return builder.call(same, [number])
