"""Where the kernels' arrays lie: at the beginning of a cache line, in memory that is used again and again.

The processor moves memory in lines of 64 bytes, which is just a vector of AVX-512. NumPy's arrays begin 16 bytes
into a line as a rule, so that each vector of them takes two lines: the tile's loop then runs at 5/6 of its speed.

And memory fresh from the operating system is slow: it is handed out page by page when it is first touched, filled
with zeros, which takes longer than most loops over it. malloc, which NumPy asks, gives large blocks back to the
system as soon as they are free and asks for new ones at the next training step. So large arrays lie in *slabs*, long
stretches of memory that the system has promised but gives only where they are touched. Of a slab, *runs* are lent:

    empty() takes the smallest free run that is large enough, the first of equal ones, and cuts off what it needs
    the array refers to the loan, and all views of it refer to the array; when all of them have gone, so has the loan
    then nobody can read that run any more: it is free again, and one with the free runs beside it

So what a training step frees fits together again, whatever the sizes, and the next step needs no page more. Small
arrays live longer than large ones as a rule, and would lie in the way of joining them: they have slabs of their own.
"""

import bisect
import collections
import ctypes
import math
import mmap
import sys
import threading
from typing import Any

import numpy as np
from numba import carray, config, types
from numba.extending import intrinsic

from tinynet.kernels.jit import inner
from tinynet.typing import Array, DType, Shape

LINE = 64
LEAST = 1 << 18  # bytes of an array in a slab; smaller ones malloc keeps by itself
SMALL = 1 << 20  # bytes; arrays below lie in other slabs than those from here on
SLAB = 1 << 29  # bytes of a slab at least, which costs nothing until they are touched
GAP = 9 * LINE  # behind each array: else all would begin at the same place of a page, and meet in the same cache sets
MOST_SCRATCH = 1 << 25  # bytes that a thread keeps for its kernels
MOST_SHAPES = 64  # of scratch, that are remembered
FREE_AT_MOST = 1 << 30  # bytes of touched memory that are kept free: enough for a training step, no burden afterwards


class Loan(np.ndarray):
    """A run of a slab as an array of bytes, as long as an array lies in it.

    NumPy lets a view of a view refer to the array that owns the memory, and forgets the view between; but not
    where the types differ. As a loan is of another type, slices of a lent array refer to the array itself.
    """

    lender = None  # the pool, and the run

    def __del__(self, is_ending=sys.is_finalizing):
        if self.lender is not None and not is_ending():
            pool, run = self.lender
            pool.give_back(run)


class Heap:
    """Slabs of one kind, and which runs of them are free: (slab's number, start, size), in this order."""

    def __init__(self) -> None:
        self.slabs = []
        self.free = []

    def take(self, size: int) -> tuple[int, int, int]:
        """A run of this size, of a new slab if need be. Raises OSError or MemoryError if there is no memory."""
        fitting = [(run[2], run) for run in self.free if run[2] >= size]
        if not fitting:
            self._add_slab(size)
            return self.take(size)
        slab, start, whole = run = min(fitting)[1]
        at = bisect.bisect_left(self.free, run)
        self.free[at : at + 1] = [(slab, start + size, whole - size)] if whole > size else []
        return slab, start, size

    def give_back(self, run: tuple[int, int, int]) -> None:
        """The run is free again, and one with the free runs that it touches."""
        slab, start, size = run
        at = bisect.bisect_left(self.free, run)
        before, behind = self.free[max(0, at - 1) : at], self.free[at : at + 1]
        if before and before[0][0] == slab and sum(before[0][1:]) == start:
            at, start, size = at - 1, before[0][1], size + before[0][2]
        else:
            before = []
        if behind and behind[0][:2] == (slab, start + size):
            size += behind[0][2]
        else:
            behind = []
        self.free[at : at + len(before) + len(behind)] = [(slab, start, size)]

    def _add_slab(self, size):
        try:
            slab = _slab(max(size, SLAB))
        except (OSError, MemoryError):  # so much is not to be had, but perhaps enough
            slab = _slab(size)
        self.free.append((len(self.slabs), 0, len(slab)))
        self.slabs.append(slab)

    def return_pages(self) -> None:
        """Give the memory of all free runs back to the system; they stay free, and begin anew with zeros."""
        if hasattr(mmap, "MADV_DONTNEED"):
            for slab, start, size in self.free:
                begin, end = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE, start + size
                if end - begin >= mmap.PAGESIZE:
                    self.slabs[slab].madvise(mmap.MADV_DONTNEED, begin, (end - begin) // mmap.PAGESIZE * mmap.PAGESIZE)


def _slab(size):
    """So many bytes of memory that no other process shares, from the beginning of a page"""
    if not hasattr(mmap, "MAP_PRIVATE"):
        return mmap.mmap(-1, size)
    slab = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        slab.madvise(mmap.MADV_HUGEPAGE)  # pages of 2 MB: fewer to be handed out, and to be found
    return slab


class Pool:
    """What lends the runs.

    An array may die at any moment, in any thread, even amid `take`: then nothing may wait for a lock. So runs
    come back through a deque, whose append needs none, and whoever gets the lock at once sorts them; who doesn't
    get it does without. (A child that was forked while another thread held it does without for ever.)
    """

    def __init__(self) -> None:
        self.returned = collections.deque()
        self.lock = threading.Lock()
        self.small, self.large = Heap(), Heap()
        self.lent_bytes = self.free_bytes = 0  # the free ones that have been touched, or more

    def take(self, size: int) -> Loan | None:
        """So many bytes; None if the pool is busy or there is no memory."""
        if not self.lock.acquire(blocking=False):
            return None
        try:
            self._sort_returned()
            slab, start, _ = run = self._heap(size).take(size)
            self.lent_bytes += size
            self.free_bytes = max(0, self.free_bytes - size)
        except (OSError, MemoryError):
            return None
        finally:
            self.lock.release()
        loan = Loan(size, np.uint8, self._heap(size).slabs[slab], start)
        loan.lender = self, run
        return loan

    def _heap(self, size):
        return self.small if size < SMALL else self.large

    def give_back(self, run: tuple[int, int, int]) -> None:
        self.returned.append(run)
        if self.lock.acquire(blocking=False):
            try:
                self._sort_returned()
            finally:
                self.lock.release()

    def _sort_returned(self):
        while self.returned:
            run = self.returned.popleft()
            self._heap(run[2]).give_back(run)
            self.lent_bytes -= run[2]
            self.free_bytes += run[2]
        if self.free_bytes > FREE_AT_MOST:
            self.small.return_pages()
            self.large.return_pages()
            self.free_bytes = 0


pool = Pool()


def empty(shape: Shape, dtype: DType) -> Array:
    """An array that is not filled yet, contiguous, from the beginning of a cache line.

    >>> empty((2, 3), np.float32).__array_interface__["data"][0] % LINE
    0
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    loan = pool.take(-(-size // LINE) * LINE + GAP) if size >= LEAST else None
    if loan is not None:
        return np.ndarray(shape, dtype, loan)
    return _from_malloc(shape, dtype, size)


def _from_malloc(shape, dtype, size):
    memory = np.empty(size + LINE - 1, np.uint8)
    return np.ndarray(shape, dtype, memory, -address(memory) % LINE)


class _Scratch(threading.local):
    """Of the current thread: {(shape, dtype): an array of the one stretch of memory}"""

    def __init__(self) -> None:
        self.arrays, self.memory = {}, np.empty(0, np.uint8)


_scratch = _Scratch()


def scratch_for(shape: Shape, dtype: np.dtype[Any]) -> Array:
    """Room, not filled, for what a kernel writes and nobody reads afterwards: this thread's next kernel has the same.

    So it is still in the caches then. Up to MOST_SCRATCH bytes stay until the thread ends; for more the pool is asked.

    >>> scratch_for((2, 3), np.dtype(np.float32)) is scratch_for((2, 3), np.dtype(np.float32))
    True
    """
    array = _scratch.arrays.get((shape, dtype))
    if array is not None:
        return array
    size = math.prod(shape) * dtype.itemsize
    if size > MOST_SCRATCH:
        return empty(shape, dtype)
    if size > _scratch.memory.size or len(_scratch.arrays) == MOST_SHAPES:
        _scratch.arrays = {}
    if size > _scratch.memory.size:
        _scratch.memory = _lasting(size)
    array = _scratch.arrays[shape, dtype] = np.ndarray(shape, dtype, _scratch.memory)
    return array


def _lasting(size):
    """So many bytes outside of the pool, in whose way they would lie; in large pages if they are to be had."""
    try:
        return np.frombuffer(_slab(size), np.uint8)
    except OSError:
        return _from_malloc((size,), np.uint8, size)


@inner
def room_for(count, like):
    """Within a kernel: so many numbers of the kind of `like`, not filled yet, from the beginning of a cache line.

    NumPy's own would begin amid a line, and each vector of them be read from two.
    """
    memory = np.empty(count + LINE // like.itemsize, like.dtype)
    skipped = -memory.ctypes.data % LINE // like.itemsize
    return memory[skipped:skipped + count]


@intrinsic
def _pointer(typing, address, like):
    pointer = types.CPointer(like.dtype)

    def codegen(context, builder, signature, arguments):
        return builder.inttoptr(arguments[0], context.get_value_type(pointer))

    return pointer(address, like), codegen


@inner
def _array_at(address, count, like):
    """Within a kernel: the contiguous array of so many numbers of the kind of `like` that begins at an address."""
    return carray(_pointer(address, like), count)


def _array_at_numpy(address, count, like):
    return np.frombuffer((ctypes.c_byte * int(count * like.itemsize)).from_address(int(address)), like.dtype)


array_at = _array_at_numpy if config.DISABLE_JIT else _array_at


def address(array: Array) -> int:
    """Where an array begins in memory."""
    if array.size and array.flags.carray:                            # contiguous, and may be written to
        return ctypes.addressof(ctypes.c_char.from_buffer(array))    # NumPy takes three times as long to tell it
    return array.ctypes.data


def settled(array: Array) -> Array:
    """`array`, or a copy of it that lies in no slab: for what stays for long, which would lie in the way there."""
    if not isinstance(array.base, Loan):
        return array
    copy = _from_malloc(array.shape, array.dtype, array.nbytes)
    copy[...] = array
    return copy


def zeros(shape: Shape, dtype: DType) -> Array:
    array = empty(shape, dtype)
    array.fill(0)
    return array


def aligned(array: Array) -> Array:
    """`array` itself where it is contiguous and begins with a cache line, or else a copy that does.

    For what is read often and is small, such as weights.
    """
    if array.flags.c_contiguous and address(array) % LINE == 0:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy
