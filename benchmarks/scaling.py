"""Where training on many machines stops scaling: a step measured on this one, its exchanges simulated.

What is measured, for each network, on one core, in seconds of the processor: the forward pass, the backward pass and
when in it each bucket of gradients is complete (tinynet/interop/mpi.py cuts them), the optimiser's step. A rank is
taken to be a machine with CORES such cores and a link of its own, which do the step that many times as fast.

What is simulated, for p ranks over a link with a latency of a seconds and b bytes a second, are the exchanges, by the
costs in Thakur, Rabenseifner and Gropp (2005), for n bytes:

    alltoall     pairwise  (p - 1) a + (p - 1)/p n/b     or, for few bytes, Bruck's  lg p a + lg p/2 n/b
    allgather              lg p a + (p - 1)/p n/b
    two small allgathers   2 lg p a       (the loss and the number of samples; whether somebody asked to stop)

So 2 (p - 1)/p n bytes are on the wire, as for a ring, which is nearly 2 n from a few ranks on: the bytes hardly depend
on p, the latencies do. A bucket is exchanged when it is complete and the one before it is through. What isn't through
when the backward pass ends is waited for.
"""

import math
import time
from typing import NamedTuple

import numba

import tinynet as tn
from benchmarks import NETWORKS, random_batch
from benchmarks.machine import set_threads
from benchmarks.measure import number, row, table
from benchmarks.tinynet_networks import loss, network
from tinynet import optim
from tinynet.autograd import landing
from tinynet.interop.mpi import cut

RANKS = 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024
SHOWN = 2, 16, 128, 1024
WHOLE = 1024  # images in the batch that the ranks share
CORES = 16  # of a rank


class Link(NamedTuple):
    name: str
    latency: float  # seconds from the call of one process to that of another
    bandwidth: float  # bytes a second


LINKS = Link("1 Gbit/s", 50e-6, 0.125e9), Link("10 Gbit/s", 20e-6, 1.25e9), Link("100 Gbit/s", 2e-6, 12.5e9)


class Step(NamedTuple):
    """A training step of one rank alone; times in seconds from its beginning."""

    backward: float  # when the backward pass begins,
    update: float  # and when it has ended
    end: float
    buckets: list  # (when it is complete, bytes)

    def stretched(self, factor):
        """The step with so many times the work."""
        buckets = [(ready * factor, size) for ready, size in self.buckets]
        return Step(self.backward * factor, self.update * factor, self.end * factor, buckets)


def exchange(size, ranks, link):
    """Seconds from the first to the last byte of a bucket's alltoall and allgather."""
    rounds = math.ceil(math.log2(ranks))
    once = (ranks - 1) / ranks * size / link.bandwidth
    pairwise = (ranks - 1) * link.latency + once
    bruck = rounds * link.latency + rounds / 2 * size / link.bandwidth
    return min(pairwise, bruck) + rounds * link.latency + once


def seconds(step, ranks, link, overlap=True):
    """The length of a step of so many ranks."""
    small = math.ceil(math.log2(ranks)) * link.latency
    free = 0.0  # when the link is
    for ready, size in step.buckets:
        free = max(free, small + (ready if overlap else step.update)) + exchange(size, ranks, link)
    return max(free, small + step.update) + (step.end - step.update) + small


def lines(run):
    """The section's lines, each as soon as it is known."""
    numba.set_num_threads(1)
    steps = {name: [measured(name, each, run.turns) for each in (images, images._replace(count=1))]
             for name, images in NETWORKS.items()}
    set_threads()
    yield from table("a rank", "parameters", "MB sent and got", "buckets", "images", "step, core-ms", "with one image")
    for name, (step, single) in steps.items():
        size = sum(size for _, size in step.buckets)
        cells = f"{size // 4:,}", number(2e-6 * size), len(step.buckets), NETWORKS[name].count
        yield row(name, *cells, number(1e3 * step.end), number(1e3 * single.end))
    steps = {name: [step.stretched(1 / CORES) for step in pair] for name, pair in steps.items()}
    yield ""
    yield from weak(run, {name: step for name, (step, _) in steps.items()})
    yield ""
    yield from strong(run, steps)


def weak(run, steps):
    """Each rank has the images of the table above."""
    yield "With as many images for each rank (weak scaling): the share of its time that a rank computes, in per cent;"
    yield "in brackets without overlap. Last: the largest number of ranks, up to 1,024, at which it is 50 or more."
    yield ""
    yield from table("", *(f"{p:,} ranks" for p in SHOWN), "50 % up to")
    for name, step in steps.items():
        for link in LINKS:
            share = {p: (step.end / seconds(step, p, link), step.end / seconds(step, p, link, False)) for p in RANKS}
            last = max((p for p in RANKS if share[p][0] >= 0.5), default=1)
            run.figures[f"weak, {name}, {link.name}"] = last
            cells = (f"{100 * with_it:.0f} ({100 * without:.0f})" for with_it, without in map(share.get, SHOWN))
            yield row(f"{name}, {link.name}", *cells, f"{last:,}")


def strong(run, steps):
    """The ranks share one batch."""
    yield f"With {WHOLE:,} images in all (strong scaling): how many times as fast as one rank; and at its fastest."
    yield ""
    yield from table("", *(f"{p:,} ranks" for p in SHOWN), "fastest")
    for name, pair in steps.items():
        alone = for_images(*pair, NETWORKS[name].count, WHOLE).end
        for link in LINKS:
            gain = {p: alone / seconds(for_images(*pair, NETWORKS[name].count, WHOLE // p), p, link) for p in RANKS}
            best = max(gain, key=gain.get)
            run.figures[f"strong, {name}, {link.name}"] = best, gain[best]
            cells = (number(gain[p]) for p in SHOWN)
            yield row(f"{name}, {link.name}", *cells, f"{number(gain[best])} with {best:,}")


def for_images(step, single, count, images):
    """The step for so many images: its length grows in a straight line through those for one and for `count`."""
    slope = (step.end - single.end) / (count - 1)
    return step.stretched((single.end + slope * (images - 1)) / step.end)


def measured(name, images, turns):
    """The shortest Step of five for each turn: what else the machine does would only hide the exchanges."""
    x, targets = random_batch(name, images)
    tn.manual_seed(0)
    model = network(name, images.size)
    optimizer = optim.Adam(model.parameters(), lr=1e-3)
    timed(name, model, optimizer, x, targets)  # compiles
    return min((timed(name, model, optimizer, x, targets) for _ in range(5 * turns)), key=lambda step: step.end)


def timed(name, model, optimizer, x, targets):
    buckets = cut(optimizer.parameters)
    bucket_of = {id(p): bucket for bucket in buckets for p in bucket.parameters}
    complete = {}
    optimizer.zero_grad()
    began = time.process_time()  # with one thread: what else runs on the machine doesn't count
    result = loss(name, model(tn.Tensor(x)), targets)
    backward = time.process_time() - began
    with landing(lambda leaf: complete.update({id(bucket_of[id(leaf)]): time.process_time() - began})):
        result.backward()
    update = time.process_time() - began
    optimizer.step()
    end = time.process_time() - began
    sizes = [(complete[id(bucket)], sum(p.array.nbytes for p in bucket.parameters)) for bucket in buckets]
    return Step(backward, update, end, sizes)
