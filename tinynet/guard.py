"""Write protection: memory that a live graph still needs can't be changed behind its back.

A gradient is wrong, without a word, if an array that `backward` will read is overwritten after the forward pass.
So every array through which a user can write (the one given to `Tensor(...)`, and what `.data` hands out) is known
here by the block of memory that it lies in, and is read-only as long as a graph keeps that block; NumPy then raises
`ValueError: assignment destination is read-only`. The kernels read the same memory through arrays of their own.

What can't be seen: a slice that the user took of an array before, and writes through.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable

import numpy as np

from tinynet.kernels.memory import Loan
from tinynet.typing import Array


class _Block:
    """A block of memory: how many live ops keep it, and the arrays through which a user can write to it."""

    __slots__ = ("keepers", "views")

    def __init__(self) -> None:
        self.keepers = 0
        self.views = {}  # id(array) -> weak reference to it


_blocks = {}  # id(the array that owns the memory) -> _Block
_mutex = threading.RLock()  # re-entrant: a weak reference may die, and call back, while it is held


def _in_forked_child() -> None:
    global _mutex
    _mutex = threading.RLock()  # another thread, which isn't here, may have held it


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def owner(array: Array) -> Array:
    """The array that owns the memory of `array`, or for now does: the pool lends a block to one after another."""
    while isinstance(array.base, np.ndarray) and not isinstance(array.base, Loan):
        array = array.base
    return array


def publish(array: Array) -> None:
    """Make `array` known as one that a user can write through, and read-only at once if its block is kept."""
    if not array.flags.writeable:
        return
    block_id, key = id(owner(array)), id(array)
    with _mutex:
        block = _blocks.get(block_id) or _Block()

        def forget(_):
            if _mutex is None:  # the interpreter is shutting down, and has emptied this module
                return
            with _mutex:
                block.views.pop(key, None)
                if not block.views and not block.keepers and _blocks.get(block_id) is block:
                    del _blocks[block_id]

        block.views[key] = weakref.ref(array, forget)
        _blocks[block_id] = block  # only now: a view that dies meanwhile may have removed it
        if block.keepers:
            array.flags.writeable = False


def is_kept(array: Array) -> bool:
    """Whether a live graph still needs the memory of `array`."""
    block = _blocks.get(id(owner(array)))
    return block is not None and block.keepers > 0


class Keep:
    """Holds arrays for a later backward pass; their memory is read-only to users until this object goes."""

    __slots__ = ("owners",)

    def __init__(self, arrays: Iterable[Array]) -> None:
        self.owners = [owner(a) for a in arrays]
        with _mutex:
            for a in self.owners:
                block = _blocks.get(id(a)) or _Block()
                block.keepers += 1
                _blocks[id(a)] = block  # only now, as in publish
                if block.keepers == 1 and block.views:
                    _set_writeable(block, False)

    def __del__(self) -> None:
        with _mutex:
            for a in self.owners:
                block = _blocks[id(a)]
                block.keepers -= 1
                if block.keepers:
                    continue
                if block.views:
                    _set_writeable(block, True)
                else:
                    del _blocks[id(a)]


def _set_writeable(block: _Block, writeable: bool) -> None:
    """Set the flag of every public array of the block, the owner of the memory first (views follow it)."""
    arrays = [a for ref in list(block.views.values()) if (a := ref()) is not None]
    arrays.sort(key=lambda a: a.base is not None)
    for a in arrays:
        a.flags.writeable = writeable
