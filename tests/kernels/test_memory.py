"""The pool of memory: never used again while anyone can read it, used again afterwards, bounded, no deadlock."""

import gc
import os
import pickle
import random
import sys
import threading

import numpy as np
import pytest

from tinynet import guard
from tinynet.kernels import memory
from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import LINE, address, array_at, empty, scratch_for, settled, zeros

SHAPE = (1024, 300)  # 1.2 MB, which the pool serves
HOLDERS = {
    "slice": lambda a: a[3:5, ::2],
    "reshape": lambda a: a.reshape(-1),
    "slice of a slice": lambda a: a[3:][1:].T[2:],
    "memoryview": lambda a: memoryview(a),
    "memoryview of a slice": lambda a: memoryview(a[5:]),
    "frombuffer": lambda a: np.frombuffer(a, np.uint8),
    "other dtype": lambda a: a.view(np.int32)[7],
    "subclass": lambda a: np.asarray(a.view(np.recarray))[1:],
    "interface": lambda a: np.asarray(type("Holder", (), {"__array_interface__": a.__array_interface__, "a": a})()),
    "strides": lambda a: np.lib.stride_tricks.as_strided(a, (3, 3), (4, 4)),
}


@pytest.fixture(autouse=True)
def pool(monkeypatch):
    """A pool of the test's own."""
    monkeypatch.setattr(memory, "pool", memory.Pool())
    return memory.pool


@pytest.mark.parametrize("holder", HOLDERS.values(), ids=HOLDERS)
def test_memory_is_used_again_only_after_the_last_view(holder):
    array = empty(SHAPE, np.float32)
    first = address(array)
    view = holder(array)
    del array
    gc.collect()
    other = empty(SHAPE, np.float32)
    assert address(other) != first
    del view
    gc.collect()  # the class made in "interface" is a cycle
    again = empty(SHAPE, np.float32)
    assert address(again) == first


def test_arrays_are_like_any_others():
    for make in (empty, zeros):
        for _ in range(2):  # in a new block, and in one used again
            a = make(SHAPE, np.float32)
            flags = a.flags
            assert flags.c_contiguous and flags.writeable and flags.aligned and type(a) is np.ndarray
            assert address(a) % LINE == 0 and a.shape == SHAPE and a.nbytes == 4 * 1024 * 300
            assert make is empty or not a.any()
            a[...] = 7
            assert (pickle.loads(pickle.dumps(a)) == a).all() and (np.resize(a, 5) == 7).all()
            del a


@kernel
def double(like, table):
    for i in prange(len(table)):
        numbers = array_at(table[i, 0], table[i, 1], like)
        for k in range(numbers.size):
            numbers[k] *= 2


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_kernel_finds_arrays_by_their_addresses(dtype):
    arrays = [np.full(count, count, dtype)[begin:] for count, begin in [(3, 0), (7, 2), (1, 0)]]
    double(np.empty(0, dtype), np.array([(address(a), a.size) for a in arrays]))
    assert [a.tolist() for a in arrays] == [[6] * 3, [14] * 5, [2]]


def test_an_address_is_told_of_any_array():
    a = np.arange(12.0).reshape(3, 4)
    locked, empty_one = a.copy(), np.empty((0, 3))
    locked.flags.writeable = False
    for one in (a, a[1:], a[:, 1:], a.T, locked, empty_one):
        assert address(one) == one.__array_interface__["data"][0]


def test_runs_never_overlap_and_join_again(pool):
    """Arrays of any size come and go; those that are there are told by their values, the free runs by their sums."""
    rng, there = random.Random(0), []
    for step in range(600):
        if there and rng.random() < 0.5:
            array, number = there.pop(rng.randrange(len(there)))
            assert (array == number).all()
            del array
        else:
            there.append((empty((rng.randrange(1 << 16, 1 << 20),), np.float32), step))
            there[-1][0][...] = step
        for heap in (pool.small, pool.large):
            assert heap.free == sorted(heap.free)
            neighbours = zip(heap.free, heap.free[1:], strict=False)
            assert all(a[0] < b[0] or a[1] + a[2] < b[1] for a, b in neighbours)  # or else they would be one
        lent = sum(a.base.size for a, _ in there)
        free = sum(size for heap in (pool.small, pool.large) for *_, size in heap.free)
        assert pool.lent_bytes == lent == sum(len(s) for h in (pool.small, pool.large) for s in h.slabs) - free
    there.clear()
    for heap in (pool.small, pool.large):
        assert heap.free == [(i, 0, len(slab)) for i, slab in enumerate(heap.slabs)]


def test_the_same_step_again_takes_nothing_new(pool):
    def step():
        a, b = empty((1 << 20,), np.float32), empty((3 << 18,), np.float32)
        c = empty((5 << 17,), np.float32)
        places = [address(a), address(b), address(c)]
        del a
        return [*places, address(empty((1 << 18,), np.float32)), address(empty((1 << 20,), np.float32))]

    assert step() == step()
    assert len(pool.large.slabs) == 1


def test_free_memory_is_bounded(pool, monkeypatch):
    monkeypatch.setattr(memory, "FREE_AT_MOST", 3 << 20)
    arrays = [empty(SHAPE, np.float32) for _ in range(10)]
    for array in arrays:
        array[...] = 1
    array = None
    while arrays:
        arrays.pop()
        assert pool.free_bytes <= 3 << 20
    if sys.platform == "linux":
        assert (empty((10 * SHAPE[0], SHAPE[1]), np.float32)[5000:] == 0).all()  # fresh pages


def test_with_less_memory_slabs_are_smaller(pool, monkeypatch):
    slab = memory._slab

    def most(size):
        if size > 3 << 20:
            raise OSError("no more")
        return slab(size)

    monkeypatch.setattr(memory, "_slab", most)
    arrays = [empty(SHAPE, np.float32) for _ in range(3)]
    assert all(isinstance(array.base, memory.Loan) for array in arrays) and len(pool.large.slabs) == 3
    monkeypatch.setattr(memory, "_slab", lambda size: most(1 << 40))
    assert not isinstance(empty(SHAPE, np.float32).base, memory.Loan)  # malloc may have some


def test_what_settles_lies_in_no_slab():
    array = empty(SHAPE, np.float32)
    array[...] = 3
    copy = settled(array)
    assert not isinstance(copy.base, memory.Loan) and address(copy) % LINE == 0 and (copy == array).all()
    assert settled(copy) is copy


def test_who_finds_the_pool_busy_does_without(pool):
    with pool.lock:
        array = empty(SHAPE, np.float32)
    assert not isinstance(array.base, memory.Loan)
    array = empty(SHAPE, np.float32)
    first = address(array)
    with pool.lock:
        del array
    assert len(pool.returned) == 1
    assert address(empty(SHAPE, np.float32)) == first


def test_threads_never_share_a_block():
    """Each thread fills its arrays with its own number and must find it there, while others take and return."""
    wrong = []

    def work(number):
        rng, kept = random.Random(number), []
        for step in range(400):
            a = empty((rng.choice((70_000, 80_000, 200_000)),), np.float32)
            a[::1000] = number * 1000 + step
            kept.append((a[::1000], number * 1000 + step))
            if len(kept) > rng.randrange(6):
                view, value = kept.pop(rng.randrange(len(kept)))
                if not (view == value).all():
                    wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    gc.collect()
    empty(SHAPE, np.float32)
    assert not wrong and memory.pool.lent_bytes == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_can_go_on(pool):
    array = empty(SHAPE, np.float32)
    array[...] = 1
    with pool.lock:  # held for ever, as the child sees it
        child = os.fork()
        if not child:
            array[...] = 2
            fine = (empty(SHAPE, np.float32) + array).shape == SHAPE
            del array
            os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0 and (array == 1).all()


def test_write_protection_ends_with_the_array():
    """A block that a graph kept is writable when it is lent again, even while an old keeper lives on."""
    array = empty(SHAPE, np.float32)
    first, view = address(array), array[1:]
    guard.publish(view)
    keep = guard.Keep([array])
    assert not view.flags.writeable and guard.owner(view) is array
    del array, view
    assert address(empty(SHAPE, np.float32)) != first  # the keeper holds the array
    del keep
    again = empty(SHAPE, np.float32)
    assert not guard.is_kept(again) and again.flags.writeable


def test_protected_owner_becomes_writable_again():
    array = empty(SHAPE, np.float32)
    guard.publish(array)
    keep = guard.Keep([array])
    assert not array.flags.writeable
    del keep
    assert array.flags.writeable


def test_scratch_is_the_same_memory_again_and_each_threads_own(monkeypatch):
    monkeypatch.setattr(memory, "_scratch", memory._Scratch())
    float32, float64 = np.dtype(np.float32), np.dtype(np.float64)
    small = scratch_for((3, 5), float32)
    assert small.shape == (3, 5) and small.dtype == float32 and address(small) % LINE == 0
    assert scratch_for((3, 5), float32) is small
    large = scratch_for((100, 40), float64)              # of new memory: what an array refers to stays its own
    large[...], small[...] = 7, 1
    assert (large == 7).all() and scratch_for((100, 40), float64) is large
    assert np.shares_memory(scratch_for((3, 5), float32), large) and np.shares_memory(scratch_for((9,), float64), large)
    others = []
    thread = threading.Thread(target=lambda: others.append(scratch_for((100, 40), float64)))
    thread.start()
    thread.join()
    assert not np.shares_memory(others[0], large)


def test_scratch_is_bounded(monkeypatch):
    monkeypatch.setattr(memory, "_scratch", memory._Scratch())
    float32 = np.dtype(np.float32)
    for count in range(1, 3 * memory.MOST_SHAPES):
        assert scratch_for((count,), float32).shape == (count,)
        assert len(memory._scratch.arrays) <= memory.MOST_SHAPES
    huge = memory.MOST_SCRATCH // 4 + 1,
    assert not np.shares_memory(scratch_for(huge, float32), scratch_for(huge, float32))
    assert memory._scratch.memory.size < memory.MOST_SCRATCH
    monkeypatch.setattr(memory, "_slab", lambda size: (_ for _ in ()).throw(OSError("no memory")))
    assert scratch_for((3 * memory.MOST_SHAPES,) * 2, float32).size == (3 * memory.MOST_SHAPES)**2
