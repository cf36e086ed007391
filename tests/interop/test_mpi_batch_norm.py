"""Batch normalisation over all ranks, with ranks that are simulated: test_mpi.py has real ones."""

import threading

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, team
from tinynet.autograd import GraphError
from tinynet.interop import mpi_batch_norm
from tinynet.interop.mpi_batch_norm import MomentsOfAllRanks, synchronised


class Threads:
    """A team of threads."""

    def __init__(self, size):
        self.arrays, self.barrier, self.local = [None] * size, threading.Barrier(size), threading.local()

    def gather(self, array):
        self.arrays[self.local.rank] = array
        self.barrier.wait(10)
        every = np.stack(self.arrays)
        self.barrier.wait(10)
        return every

    def run(self, function):
        """[function(rank)], each in a thread of its own."""
        results = [None] * len(self.arrays)

        def thread(rank):
            self.local.rank = rank
            results[rank] = function(rank)

        threads = [threading.Thread(target=thread, args=(rank,)) for rank in range(len(results))]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        return results


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("pool", [False, True])
def test_parts_of_a_batch_are_normalised_as_the_batch(monkeypatch, relu, pool):
    rng = np.random.default_rng(0)
    x, gy = rng.standard_normal((2, 7, 2, 2, 3)) + 5
    weight, bias = rng.standard_normal((2, 3))

    def run(x, gy, measure):
        tensors = [tn.Tensor(array, requires_grad=True) for array in (x, weight, bias)]
        mean, var = np.zeros(3), np.ones(3)
        y = tn.batch_norm(*tensors, mean, var, relu=relu, pool=pool, measure=measure)
        y.backward(gy[:, :1, :1] if pool else gy)
        return [y.numpy(), *(t.grad.numpy() for t in tensors), mean, var]

    threads = Threads(3)
    monkeypatch.setattr(mpi_batch_norm.team, "current", lambda: threads)
    xs, gys = (np.split(array, [1, 5]) for array in (x, gy))                       # 1, 4 and 2 images
    parts = threads.run(lambda rank: run(xs[rank], gys[rank], MomentsOfAllRanks))
    monkeypatch.undo()
    y, gx, gw, gb, mean, var = zip(*parts, strict=True)
    found = np.concatenate(y), np.concatenate(gx), sum(gw), sum(gb), mean[0], var[2]
    for got, expected in zip(found, run(x, gy, tn.ops.normalization.Moments), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-12)


def test_alone_it_is_batch_normalisation():
    x = np.random.default_rng(0).random((4, 3, 3, 2), np.float32)
    layers = nn.BatchNorm2d(2), synchronised(nn.Sequential(nn.BatchNorm2d(2)))[0]
    assert team.current() is team.ALONE
    first, second = (layer(tn.Tensor(x)).numpy() for layer in layers)
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(layers[0].running_var, layers[1].running_var)


def test_gradients_of_gradients_are_refused():
    layer = synchronised(nn.Sequential(nn.BatchNorm2d(2)))
    x = tn.Tensor(np.random.default_rng(0).random((4, 3, 3, 2)), requires_grad=True)
    with pytest.raises(GraphError, match="synchronised over ranks"):
        tn.grad(layer.astype("float64")(x).sum(), x, create_graph=True)
