"""Where the kernels' arrays lie: at the beginning of a cache line, in memory that is used again and again.

The processor moves memory in lines of 64 bytes, which is just a vector of AVX-512. NumPy's arrays begin 16 bytes
into a line as a rule, so that each vector of them takes two lines: the tile's loop then runs at 5/6 of its speed.

And memory fresh from the operating system is slow: it is handed out page by page when it is first touched, filled
with zeros, which takes longer than most loops over it. malloc, which NumPy asks, gives large blocks back to the
system as soon as they are free and asks for new ones at the next training step. So here large blocks are kept:

    empty() lends a block out: the array that it gives refers to the loan, and all views of it refer to the array
    when all of them have gone, so has the loan, nobody can read the block any more, and it goes back into the pool
"""

import collections
import ctypes
import math
import sys
import threading

import numpy as np

from tinynet.typing import Array, DType, Shape

LINE = 64
LARGE = 1 << 18  # bytes; smaller blocks malloc keeps by itself
LARGER_AT_MOST = 8  # times what is asked for: with less, some arrays of each training step would find no block
FREE_AT_MOST = 1 << 30  # bytes that wait in the pool: enough for a training step, no burden when training is over


class Block(np.ndarray):
    """Memory that is lent to one array after another."""


class Loan(Block):
    """A view of a block, as long as an array lies in it.

    NumPy lets a view of a view refer to the array that owns the memory, and forgets the view between; but not
    where the types differ. As a loan is of another type, slices of a lent array refer to the array itself.
    """

    pool = None

    def __del__(self, is_ending=sys.is_finalizing):
        if self.pool is not None and not is_ending():
            self.pool.give_back(self.base)


class Pool:
    """The free blocks, by size.

    An array may die at any moment, in any thread, even amid `take`: then nothing may wait for a lock. So blocks
    come back through a deque, whose append needs none, and whoever gets the lock at once sorts them; who doesn't
    get it does without. (A child that was forked while another thread held it does without for ever.)
    """

    def __init__(self) -> None:
        self.returned = collections.deque()
        self.lock = threading.Lock()
        self.free = {}  # size -> the free blocks of that size
        self.free_bytes = self.lent_bytes = self.most_lent = 0

    def take(self, size: int) -> Loan | None:
        """A block of this size: a free one, or a new one. None if the pool is busy."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            self._sort_returned()
            block = self._fitting(size)
            self.lent_bytes += block.size
            self.most_lent = max(self.most_lent, self.lent_bytes)
            self._drop()
        finally:
            self.lock.release()
        loan = block.view(Loan)
        loan.pool = self
        return loan

    def _fitting(self, size):
        """The smallest free block that is large enough, but not much too large, or else a new one."""
        if size not in self.free:
            fitting = [s for s in self.free if size <= s <= LARGER_AT_MOST * size]
            if not fitting:
                return Block(size, np.uint8)
            size = min(fitting)
        return self._pop(size)

    def give_back(self, block: Block) -> None:
        self.returned.append(block)
        if self.lock.acquire(blocking=False):
            try:
                self._sort_returned()
                self._drop()
            finally:
                self.lock.release()

    def _sort_returned(self):
        while self.returned:
            block = self.returned.popleft()
            self.free.setdefault(block.size, []).append(block)
            self.free_bytes += block.size
            self.lent_bytes -= block.size

    def _drop(self):
        """Let go of free blocks until the blocks, free and lent, are a quarter more than what was lent at once.

        With nothing to spare, every training step would lose at its peak what it needs again soon afterwards. The
        smallest block that is enough goes: of large ones there are few, and they cost most to have again.
        """
        spare = self.most_lent * 5 // 4 - self.lent_bytes
        while (excess := self.free_bytes - min(FREE_AT_MOST, spare)) > 0:
            self._pop(min((size for size in self.free if size >= excess), default=max(self.free)))

    def _pop(self, size):
        block = self.free[size].pop()
        self.free_bytes -= size
        if not self.free[size]:
            del self.free[size]
        return block


pool = Pool()


def empty(shape: Shape, dtype: DType) -> Array:
    """An array that is not filled yet, contiguous, from the beginning of a cache line.

    >>> empty((2, 3), np.float32).__array_interface__["data"][0] % LINE
    0
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    loan = pool.take(_rounded(size) + LINE - 1) if size >= LARGE else None
    return _array_in(np.empty(size + LINE - 1, np.uint8) if loan is None else loan, shape, dtype)


def _rounded(size):
    """The next of the sizes 4, 5, 6, 7 times a power of 2, so that arrays of about one size can share a block."""
    step = 1 << size.bit_length() - 3
    return -(-size // step) * step


def _array_in(block, shape, dtype):
    address = ctypes.addressof(ctypes.c_char.from_buffer(block))     # NumPy takes three times as long to tell it
    return np.ndarray(shape, dtype, block, -address % LINE)


def zeros(shape: Shape, dtype: DType) -> Array:
    array = empty(shape, dtype)
    array.fill(0)
    return array


def aligned(array: Array) -> Array:
    """`array` itself where it is contiguous and begins with a cache line, or else a copy that does.

    For what is read often and is small, such as weights.
    """
    if array.flags.c_contiguous and _address(array) % LINE == 0:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _address(array):
    return array.__array_interface__["data"][0]
