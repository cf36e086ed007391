"""Where the time goes in what tinynet is slowest at, against PyTorch: a training step on CamVid, and single images."""

import time
from collections import Counter
from contextlib import contextmanager

import numpy as np

import tinynet as tn
from benchmarks import NETWORKS, Images, random_batch
from benchmarks.measure import number, row, table
from benchmarks.tinynet_side import Trainer
from examples import segmentation
from tinynet import optim
from tinynet.autograd import Op

LINES = 8  # of each table
CALLS = 5  # in each turn


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield "Milliseconds in the forward methods of all operations, gradients being operations, too; means of all calls."
    for title, work in _works():
        work()
        total, by_operation = _profile(work, CALLS * run.turns)
        yield ""
        yield from table(title, "ms", "of all", "calls", "GFLOP/s of the definition")
        for (name, operations), (seconds, calls) in by_operation[:LINES]:
            speed = number(operations * calls / seconds / 1e9) if operations else ""
            yield row(name, number(1e3 * seconds), f"{100 * seconds / total:.0f} %", number(calls), speed)
        rest = sum(seconds for _, (seconds, _) in by_operation[LINES:])
        yield row("other operations", number(1e3 * rest), f"{100 * rest / total:.0f} %", "", "")
        between = total - rest - sum(seconds for _, (seconds, _) in by_operation[:LINES])
        yield row("between operations", number(1e3 * between), f"{100 * between / total:.0f} %", "", "")


def _works():
    """(title, a function to be profiled)"""
    yield "training step of the example on CamVid", _camvid()
    for name, count in (("CAE", 16), ("FCN", 16), ("CAE", 1), ("ResNet-20", 1)):
        images = Images(count, NETWORKS[name].size)
        trainer = Trainer(name, random_batch(name, images))
        trainer.model.eval()
        yield f"inference of {name}, {count} x {images.size} x {images.size}", trainer.infer


def _camvid(classes=11, batch=(4, 240, 320)):
    model = segmentation.FCN(classes, segmentation.PHOTOS["widths"])
    optimizer = optim.AdamW(model.parameters())
    rng = np.random.default_rng(0)
    images, masks = rng.random((*batch, 3), np.float32), rng.integers(0, classes, batch)

    def step():
        optimizer.zero_grad()
        tn.cross_entropy(model(tn.Tensor(images)), masks).backward()
        optimizer.step()

    return step


def _profile(work, calls):
    """Seconds of a call, and [((operation, its arithmetic operations), (seconds, how often)) in a call], most first."""
    with _watched() as (seconds, counts):
        work()
        seconds.clear()
        counts.clear()
        began = time.perf_counter()
        for _ in range(calls):
            work()
        total = (time.perf_counter() - began) / calls
    found = {key: (seconds[key] / calls, counts[key] / calls) for key in seconds}
    return total, sorted(found.items(), key=lambda item: -item[1][0])


@contextmanager
def _watched():
    """Inside, every operation's forward notes its time."""
    seconds, counts = Counter(), Counter()
    watched = {kind: kind.__dict__["forward"] for kind in _kinds(Op) if "forward" in kind.__dict__}

    def watch(forward):
        def watching(op, *arrays):
            began = time.perf_counter()
            result = forward(op, *arrays)
            spent = time.perf_counter() - began
            key = _name(op, arrays), _operations(op, arrays, result)
            seconds[key] += spent
            counts[key] += 1
            return result

        return watching

    for kind, forward in watched.items():
        kind.forward = watch(forward)
    try:
        yield seconds, counts
    finally:
        for kind, forward in watched.items():
            kind.forward = forward


def _kinds(kind):
    for one in kind.__subclasses__():
        yield one
        yield from _kinds(one)


def _name(op, arrays):
    shapes = [" x ".join(map(str, array.shape)) for array in arrays[:2]]
    return f"{type(op).__name__}: {' and '.join(shapes)}"


def _operations(op, arrays, result):
    """Of a convolution: two for each multiplication and addition of its definition."""
    if type(op).__name__ == "Gather":
        x, w, y = arrays[0], arrays[1], result[0] if isinstance(result, tuple) else result
        pixels = len(x) * op.out_hw[0] * op.out_hw[1]
    elif type(op).__name__ == "Scatter":
        y, w = arrays[:2]
        pixels = len(y) * op.y_hw[0] * op.y_hw[1]
    elif type(op).__name__ == "WeightGradient" and hasattr(op, "geometry"):
        y, w = arrays[1], result
        pixels = len(y) * op.y_hw[0] * op.y_hw[1]
    else:
        return 0
    return 2 * pixels * w.size
