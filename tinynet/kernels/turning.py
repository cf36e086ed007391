"""Matrices turned round, (M, N) to (N, M), by squares: of a line of memory that is fetched all numbers are used.

Number by number, a square of 8x8 takes 64 loads and 64 stores. As vectors it is turned in three steps, each of which
lets blocks off the diagonal change places, half as large as in the step before:

    A B      A C                  4x4, then 2x2 within each of these, then 1x1: 8 loads, 24 exchanges that
    C D  ->  B D                  stay in the registers, 8 stores
"""
import math

import numpy as np
from llvmlite import ir
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I32, I64, Vector
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import aligned, empty
from tinynet.typing import Array

SQUARE = 16                     # of a task: of 4 bytes each, a line of memory
ROW = 32                        # bytes of a vector
LARGE = 2 ** 15                 # numbers of all matrices; fewer NumPy turns as fast


def turned(a: Array) -> Array:
    """a (..., M, N) as (..., N, M), contiguous, from the beginning of a cache line.

    >>> turned(np.array([[1.0, 2.0]]))
    array([[1.],
           [2.]])
    """
    *leading, M, N = a.shape
    if a.size < LARGE or a.swapaxes(-1, -2).flags.c_contiguous:
        return aligned(a.swapaxes(-1, -2))
    result = empty((math.prod(leading), N, M), a.dtype)
    turn(np.ascontiguousarray(a).reshape(-1, M, N), result)
    return result.reshape(*leading, N, M)


@kernel
def turn(a, turned):
    """turned[m, j, i] = a[m, i, j]"""
    batch, M, N = a.shape
    down, across = (M + SQUARE - 1) // SQUARE, (N + SQUARE - 1) // SQUARE
    for task in prange(batch * down * across):
        m, i, j = task // (down * across), task // across % down * SQUARE, task % across * SQUARE
        turn_block(a[m, i:i + SQUARE, j:j + SQUARE], turned[m, j:j + SQUARE, i:i + SQUARE])


@inner
def turn_block(a, turned):
    """turned[j, i] = a[i, j]; there may be more of `turned`, which stays as it is"""
    side = ROW // a.itemsize
    M, N = a.shape
    if M < side or N < side:
        for i in range(M):
            for j in range(N):
                turned[j, i] = a[i, j]
        return
    for first in range(0, M, side):
        i = min(first, M - side)                             # the last square may overlap the one before it
        for column in range(0, N, side):
            j = min(column, N - side)
            exchange(a[i:i + side, j:j + side], turned[j:j + side, i:i + side])


@intrinsic
def _exchange(typing, a, turned):
    """turned = a.T, for squares of ROW bytes a row"""
    def codegen(context, builder, signature, arguments):
        vector = Vector(builder, signature.args[0].dtype, ROW)
        source, target = (_rows(context, builder, *pair, vector)
                          for pair in zip(signature.args, arguments, strict=True))
        for row, place in zip(emit_turned(builder, [vector.load(row, None) for row in source]), target, strict=True):
            vector.store(row, place, None)
        return context.get_dummy_value()

    return types.none(a, turned), codegen


def _rows(context, builder, type_, value, vector):
    """The addresses of a matrix's rows"""
    array = context.make_array(type_)(context, builder, value)
    step = builder.sdiv(builder.extract_value(array.strides, 0), I64(vector.bytes))
    return [builder.gep(array.data, [builder.mul(step, I64(i))]) for i in range(vector.lanes)]


def emit_turned(builder, rows):
    """The columns of the square that these vectors are the rows of"""
    block = len(rows) // 2
    while block:
        for i in range(len(rows)):
            if not i & block:
                rows[i], rows[i + block] = _swapped(builder, rows[i], rows[i + block], block)
        block //= 2
    return rows


def _swapped(builder, upper, lower, block):
    """[A B], [C D] -> [A C], [B D], blocks of so many numbers, which alternate along the vectors"""
    lanes = upper.type.count
    first = [k if not k & block else lanes + k - block for k in range(lanes)]
    second = [k + block if not k & block else lanes + k for k in range(lanes)]
    return [builder.shuffle_vector(upper, lower, ir.Constant(ir.VectorType(I32, lanes), mask)) for mask in
            (first, second)]


def _exchange_numpy(a, turned):
    """The same in NumPy, for NUMBA_DISABLE_JIT=1."""
    turned[...] = a.T


exchange = _exchange_numpy if config.DISABLE_JIT else _exchange
