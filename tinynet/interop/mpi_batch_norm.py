"""Batch normalisation over the batches of all ranks: with p ranks as with one that has the whole batch.

Each rank has a part of the batch, on whose own mean and variance plain batch normalisation would work, and with small
parts these are noisy. Here the ranks exchange a few numbers a channel (C of them), from which each computes what the
whole batch has. From the n_r values, mean m_r and variance v_r of each rank (Chan, Golub and LeVeque, 1983):

    n = sum_r n_r        m = sum_r n_r m_r / n        v = sum_r n_r (v_r + (m_r - m)^2) / n

The gradient of x needs the means A(w gy) and A(w gy xh) over the whole batch (ops/normalization.py), again from those
of the ranks: A = sum_r n_r A_r / n. So a layer sends 3 C float64 forward and 2 C backward. Weight and bias get the sum
over the ranks from mpi.py, as all parameters do.

Its price is latency: each layer waits for all ranks, twice. It is worth it where a rank has few values for a channel.
Peng et al., MegDet (2018), arXiv:1711.07240.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from tinynet import nn, team
from tinynet.autograd import GraphError, is_recording
from tinynet.kernels.normalization import Sums
from tinynet.kernels.pooling import Unpooled
from tinynet.ops.normalization import Moments
from tinynet.typing import Array

M = TypeVar("M", bound=nn.Module)


def synchronised(model: M) -> M:
    """Have all BatchNorm2d layers of the model normalise over all ranks' batches in training; returns the model.

    >>> layer = synchronised(nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)))[1]
    >>> layer.measure.__name__
    'MomentsOfAllRanks'
    """
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.measure = MomentsOfAllRanks
    return model


class MomentsOfAllRanks(Moments):
    """Mean and variance of each channel over the batches of all ranks."""

    def measure(self, x: Array) -> tuple[int, Array, Array]:
        count, mean, var = super().measure(x)
        self.ranks = team.current()
        every = self.ranks.gather(np.concatenate([np.full_like(mean, count), mean, var]))  # (p, 3, C)
        counts, means, variances = every[:, :1], every[:, 1:2], every[:, 2:]
        total = counts.sum(0)
        self.shares = counts / total  # (p, 1, C)
        mean = (self.shares * means).sum(0)
        return int(total[0, 0]), mean, (self.shares * (variances + (means - mean) ** 2)).sum(0)

    def sums(self, gy: Array | Unpooled, x: Array, w: Array | None, b: Array | None = None,
             relu: bool = False) -> Sums:
        if is_recording():
            raise GraphError("batch_norm: gradients of gradients (create_graph=True) don't go through batch "
                             "normalisation that is synchronised over ranks; use a model without it")
        own = super().sums(gy, x, w, b, relu)
        every = self.ranks.gather(np.concatenate([own.gradient, own.correlation]))  # (p, 2, C)
        gradient, correlation = (self.shares * every).sum(0)[:, None]
        return own._replace(gradient=gradient, correlation=correlation)
