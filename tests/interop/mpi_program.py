"""What test_mpi.py has mpiexec run: python -m tests.interop.mpi_program WHAT FOLDER"""

import os
import signal
import sys
import time
from pathlib import Path

import numba
import numpy as np

import tinynet as tn
from tinynet import autograd, data, nn, optim, team, training
from tinynet.interop import mpi
from tinynet.interop.mpi_batch_norm import synchronised

CASES = [(dtype, norm) for dtype in ("float32", "float64") for norm in (False, True)]


class Samples:
    """Images and labels; 11 don't divide into batches of 4, nor 3 into 2 parts."""

    def __init__(self, dtype, count=11):
        rng = np.random.default_rng(3)
        self.images = rng.standard_normal((count, 6, 6, 3)).astype(dtype)
        self.labels = rng.integers(0, 4, count)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def network(dtype, norm, dropout=0.0):
    tn.manual_seed(1 + team.current().rank)  # the ranks' first weights differ until fit makes them those of the first
    first = [nn.Conv2d(3, 8, 3, padding=1, bias=not norm), *([nn.BatchNorm2d(8)] if norm else []), nn.ReLU()]
    second = [nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Dropout(dropout), nn.Dense(64, 4)]
    model = nn.Sequential(*first, *second)
    return synchronised(model.astype(dtype))


def loss_fn(model, batch):
    images, labels = batch
    return tn.cross_entropy(model(tn.Tensor(images)), labels)


def train(folder, dtype="float32", norm=True, dropout=0.0, epochs=3, loss_fn=loss_fn, **options):
    """(model, history) of a small training run."""
    model = network(dtype, norm, dropout)
    optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    loader = data.DataLoader(Samples(dtype), 4, shuffle=True)
    history = training.fit(model, optimizer, loader, loss_fn, epochs=epochs, out=folder, **options)
    return model, history


def seen_by(model):
    return {"seen_by": team.current().rank}


def keep(folder, name, arrays):
    np.savez(Path(folder) / f"{name}-rank{team.current().rank}.npz", **arrays)


def equality(folder):
    """Each case's weights and losses, of each rank."""
    for dtype, norm in CASES:
        name = f"{dtype}-{norm}"
        model, history = train(Path(folder) / name, dtype, norm, evaluate=seen_by)
        keep(folder, name, {**model.state_dict(), "losses": np.array([row["loss"] for row in history])})
    normalised(folder)
    overlap(folder)


def uneven_batch():
    """(x, gy, weight, bias) of a batch norm layer with 5 images: ranks have 3 and 2."""
    rng = np.random.default_rng(5)
    return [rng.standard_normal(shape) for shape in ((5, 3, 2, 4), (5, 3, 2, 4), 4, 4)]


def normalised(folder):
    """One layer's output, gradients and running statistics, for this rank's part of a batch."""
    x, gy, weight, bias = uneven_batch()
    ranks = team.current()
    x, gy = (np.array_split(array, ranks.size)[ranks.rank] for array in (x, gy))
    layer = synchronised(nn.Sequential(nn.BatchNorm2d(4).astype("float64")))[0]
    layer.weight.data[...], layer.bias.data[...] = weight, bias
    x = tn.Tensor(x, requires_grad=True)
    y = layer(x)
    y.backward(gy, retain_graph=True)
    keep(folder, "normalised", {"y": y.numpy(), "gx": x.grad.numpy(), "gw": layer.weight.grad.numpy(),
                                "gb": layer.bias.grad.numpy(), **layer.state_dict()})
    try:
        y.backward(gy, create_graph=True)
    except autograd.GraphError:
        return
    raise AssertionError("gradients of gradients did not raise")


def overlap(folder):
    """In which order the buckets' exchanges begin and the backward pass's operations run; and that the sums are right,
    though one rank is slower, the first layer is nobody's, and the second is the first rank's alone."""
    ranks, events = team.current(), []
    layers = [nn.Dense(8, 8) for _ in range(8)]
    parameters = [p for layer in layers for p in layer.parameters()]
    used = layers[1 if ranks.rank == 0 else 2 :]

    class Watched(mpi.Sum):
        def take(self, leaf):
            time.sleep(0.001 * ranks.rank)
            super().take(leaf)

        def advance(self, wait=False):
            before = self.posted
            super().advance(wait)
            events.extend(["post"] * (self.posted - before))

    def loss():
        for p in parameters:
            p.grad = None
        return nn.Sequential(*used)(tn.Tensor(np.full((2, 8), ranks.rank + 1, np.float32))).sum()

    loss().backward()
    own = [np.zeros(p.shape, p.dtype) if p.grad is None else p.grad.array for p in parameters]
    expected = [sum(ranks.gather(array)) for array in own]
    mpi.cut.__defaults__ = (300,)                               # bytes: a bucket for each layer
    for _ in range(5):
        total, result = Watched(parameters, ranks.parts, ranks.sums), loss()
        events.clear()
        noting = autograd.watched(lambda op, inputs, output: events.append(type(op).__name__))
        with noting, autograd.landing(total.take):
            result.backward()
        events.append("backward ended")
        total.finish()
        assert [p.grad is None for p in parameters] == [True] * 2 + [False] * 14
        for p, array in zip(parameters, expected, strict=False):
            assert p.grad is None or (p.grad.array == array).all()
    keep(folder, "overlap", {"events": np.array(events)})


def dropout(folder):
    """Weights after dropout, with and without a stop: the ranks' masks differ, and come again."""
    whole, _ = train(Path(folder) / "whole", dropout=0.5)
    batches = 0

    def stopping(model, batch):
        nonlocal batches
        batches += 1
        if batches == 5 and team.current().rank == 1:
            os.kill(os.getpid(), signal.SIGTERM)  # one rank alone gets it
        return loss_fn(model, batch)

    try:
        train(Path(folder) / "stopped", dropout=0.5, loss_fn=stopping)
    except SystemExit as stop:
        assert stop.code == 128 + signal.SIGTERM
    assert batches == 5
    resumed, _ = train(Path(folder) / "stopped", dropout=0.5, resume=True)
    with team.current().own_random():
        mask = tn.dropout(tn.Tensor(np.ones(64)), 0.5).numpy()
    weights = {f"whole.{name}": array for name, array in whole.state_dict().items()}
    weights |= {f"resumed.{name}": array for name, array in resumed.state_dict().items()}
    keep(folder, "dropout", {**weights, "mask": mask})


def dying(folder):
    """The second rank fails in the second epoch, while the first waits for its gradients."""
    def failing(model, batch):
        if team.current().rank == 1 and Path(folder, "metrics.csv").read_text():
            Path(folder, "died").write_text(str(time.time()))
            raise RuntimeError("the disk is on fire")
        return loss_fn(model, batch)

    train(folder, epochs=1000, loss_fn=failing)


def leaving(folder):
    """The second rank gives up with a sentence, as the examples do."""
    if team.current().rank == 1:
        sys.exit("ValueError: no such data")


def forever(folder):
    """Training until something happens; the second rank writes down which process it is."""
    def noting(model, batch):
        if team.current().rank == 1 and not Path(folder, "pid").exists():
            Path(folder, "pid").write_text(str(os.getpid()))
        return loss_fn(model, batch)

    train(folder, epochs=10**6, loss_fn=noting)


@mpi.group()
def main(what, folder):
    print(f"threads {numba.get_num_threads()}")
    globals()[what](folder)


if __name__ == "__main__":
    main(*sys.argv[1:])
