"""Asking for memory ahead of its use.

A core waits some hundred nanoseconds for what is in no cache, unless it has been asked for before. Along a line of
memory the processor sees ahead by itself; from the end of one row of a tile to the beginning of the next it doesn't.
To ask costs one instruction and changes nothing but time: addresses that don't exist are ignored.
"""
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import Operand, emit_prefetch, flattened
from tinynet.kernels.jit import inner

LINE = 64                       # bytes that come at once


@intrinsic
def _prefetch(typing, place):
    """Bring the line of memory at place = (array, offset) into the second cache."""
    def codegen(context, builder, signature, arguments):
        emit_prefetch(builder, Operand(context, builder, signature.args[0], arguments[0]).start)
        return context.get_dummy_value()

    return types.none(place), codegen


def _prefetch_numpy(place):
    """NumPy has nothing to ask with."""


prefetch = _prefetch_numpy if config.DISABLE_JIT else _prefetch


@inner
def prefetch_window(x, n, top, bottom, left, right):
    """Ask for what is inside of the image of x[n, top:bottom, left:right]."""
    _, H, W, C = x.shape
    flat = flattened(x)
    left, right = max(0, left), min(right, W)
    for h in range(max(0, top), min(bottom, H)):
        begin = ((n * H + h) * W + left) * C
        for i in range(begin, begin + (right - left) * C, LINE // x.itemsize):
            prefetch((flat, i))
