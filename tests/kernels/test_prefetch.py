"""What tiles ask the memory for in passing: all of it, each a part, wherever they begin."""

import numpy as np
import pytest
from numba import types
from numba.extending import intrinsic

from tinynet.kernels.emit import I64, Operand
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.prefetch import Wanted

STEPS = 6


@intrinsic
def asked_by(typing, pieces, tiles, tile, place):
    """place = (array, offset): there, for each step of a tile, the address that it asks for, in numbers"""
    def codegen(context, builder, signature, arguments):
        wanted = Wanted(context, builder, signature.args[0], arguments[0], arguments[1], I64(STEPS))
        share, target = wanted.share(arguments[2]), Operand(context, builder, signature.args[3], arguments[3])
        for step in range(STEPS):
            address = builder.ptrtoint(share[0], I64)
            builder.store(builder.sdiv(address, I64(4)), target.at(I64(step)))
            share = wanted.ask(share)
        return context.get_dummy_value()

    return types.none(pieces, types.intp, types.intp, place), codegen


@kernel
def asked_of_one(memory, count, tiles, addresses):
    for tile in prange(tiles):
        asked_by(((memory, 0, count),), tiles, tile, (addresses, tile * STEPS))


@kernel
def asked_of_three(memory, count, tiles, addresses):
    for tile in prange(tiles):
        pieces = (memory, 0, count), (memory, 1001, count), (memory, 2002, count)
        asked_by(pieces, tiles, tile, (addresses, tile * STEPS))


@pytest.mark.parametrize("tiles", [1, 2, 5, 8])
@pytest.mark.parametrize(("asked", "count"), [(asked_of_one, 1), (asked_of_three, 3)])
def test_each_piece_is_asked_for_once_from_its_beginning_to_its_end(asked, count, tiles):
    """Each tile's steps follow each other, and so do the tiles of a piece, the first of which take the first piece."""
    memory = np.zeros(3000, np.float32)
    of_each = -(-tiles // count)
    step = 7                                                 # numbers
    addresses = np.zeros(tiles * STEPS, np.int64)
    asked(memory, step * STEPS * of_each, tiles, addresses)
    first = memory.ctypes.data // 4
    expected = [first + 1001 * (tile // of_each) + step * (tile % of_each * STEPS + k)
                for tile in range(tiles) for k in range(STEPS)]
    np.testing.assert_array_equal(addresses, expected)
