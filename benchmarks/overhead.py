"""What the engine costs: microseconds an operation on tensors so small that arithmetic is nothing; and a profile."""

import numba
import numpy as np

import tinynet as tn
from benchmarks import NETWORKS, random_batch
from benchmarks.machine import set_threads
from benchmarks.measure import alternate, number, row, table
from benchmarks.tinynet_side import Trainer
from benchmarks.torch_side import set_torch_threads, torch

F = torch.nn.functional
CHAIN = 50  # operations one behind the other
IMAGE, MATRIX = (1, 4, 4, 4), (4, 4)

# name: (shape of x, shapes of w in tinynet and PyTorch or None, tinynet's, PyTorch's). Images of this size
# have the same shape in both.
OPERATIONS = {
    "x + w": (MATRIX, (MATRIX, MATRIX), lambda x, w: x + w, lambda x, w: x + w),
    "x * w": (MATRIX, (MATRIX, MATRIX), lambda x, w: x * w, lambda x, w: x * w),
    "x @ w": (MATRIX, (MATRIX, MATRIX), lambda x, w: x @ w, lambda x, w: x @ w),
    "reshape": (MATRIX, None, lambda x, w: x.reshape(4, 4), lambda x, w: x.reshape(4, 4)),
    "relu": (IMAGE, None, lambda x, w: tn.relu(x), lambda x, w: F.relu(x)),
    "tanh": (IMAGE, None, lambda x, w: tn.tanh(x), lambda x, w: torch.tanh(x)),
    "softmax": (MATRIX, None, lambda x, w: tn.softmax(x), lambda x, w: F.softmax(x, -1)),
    "conv2d 3x3": (
        IMAGE,
        ((3, 3, 4, 4), (4, 4, 3, 3)),
        lambda x, w: tn.conv2d(x, w, padding=1),
        lambda x, w: F.conv2d(x, w, padding=1),
    ),
    "max_pool2d 1x1": (IMAGE, None, lambda x, w: tn.max_pool2d(x, 1), lambda x, w: F.max_pool2d(x, 1)),
}


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield f"Chains of {CHAIN} operations on tensors of {MATRIX} or images {IMAGE}, one thread a side."
    yield "Backward is the whole less forward."
    yield ""
    numba.set_num_threads(1)
    set_torch_threads(1)
    head = "tinynet forward", "PyTorch forward", "ratio", "tinynet backward", "PyTorch backward", "ratio"
    yield from table("microseconds an operation, median", *head)
    for name, (shape, weights, own, theirs) in OPERATIONS.items():
        w, their_w = weights or (None, None)
        contestants = dict(_chains("tinynet", _tinynet(shape), _tinynet(w), own))
        contestants |= _chains("PyTorch", _torch(shape), _torch(their_w), theirs)
        times = alternate(contestants, run.turns, seconds=0.05)
        forward = {side: 1e6 * times[side, "forward"].median / CHAIN for side in ("tinynet", "PyTorch")}
        both = {side: 1e6 * times[side, "both"].median / CHAIN for side in ("tinynet", "PyTorch")}
        cells = []
        for part in (forward, {side: both[side] - forward[side] for side in both}):
            cells += [
                number(part["tinynet"]),
                number(part["PyTorch"]),
                f"{part['PyTorch'] / part['tinynet']:.2f}",
            ]
        yield row(name, *cells)
    set_threads()
    yield ""
    yield from _profiles(run)


def _profiles(run):
    """A line for each network: its training step without tn.profile() and within."""
    yield "A training step within tn.profile(), what its lines explain of the time, and its own work, taken out."
    yield ""
    yield from table("milliseconds, median", "without", "within", "explained", "own work")
    for name, images in NETWORKS.items():
        trainer, profile = Trainer(name, random_batch(name, images)), tn.profile(peak=run.machine.peak / 1e9)

        def profiled(trainer=trainer, profile=profile):
            with profile:
                trainer.step()

        times = alternate({"without": trainer.step, "within": profiled}, run.turns)
        cells = [number(1e3 * times[side].median) for side in times]
        yield row(name, *cells, f"{100 * profile.covered:.1f} %", number(1e3 * profile.overhead))


def _chains(side, x, w, operation):
    """((side, "forward"), function), and the same with the backward pass."""

    def forward():
        y = x
        for _ in range(CHAIN):
            y = operation(y, w)
        return y.sum()

    yield (side, "forward"), forward
    yield (side, "both"), lambda: forward().backward()


def _tinynet(shape):
    return shape and tn.Tensor(np.zeros(shape, np.float32), requires_grad=True)


def _torch(shape):
    return shape and torch.zeros(shape).requires_grad_()
