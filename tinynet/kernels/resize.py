"""Resampling: every separable linear map of images as one kernel, for resizing and for average pooling.

    y[n,i,j,c] = 1/divisor sum of a b x[n,h,w,c]  over the taps (h, a) of row i and (w, b) of column j

What one axis does is a table of *taps*, for each output position the input positions that it reads and their
weights. The adjoint map is the same sum with both tables transposed, so that the same kernel computes it, and
it is as deterministic: each output pixel is written once, its taps are added in the tables' order.
"""

from typing import NamedTuple

import numpy as np

from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.memory import empty
from tinynet.typing import Array


class Taps(NamedTuple):
    """A sparse matrix for one axis, by rows: output i reads the taps start[i]:start[i + 1]."""

    start: np.ndarray
    index: np.ndarray  # the input position
    weight: np.ndarray
    inputs: int  # the size of the input axis

    @property
    def outputs(self) -> int:
        return len(self.start) - 1

    def transposed(self) -> "Taps":
        """The adjoint's table: its outputs are this one's inputs."""
        reader = np.repeat(np.arange(self.outputs), np.diff(self.start))
        order = np.argsort(self.index, kind="stable")
        return taps(self.index[order], reader[order], self.weight[order], self.inputs, self.outputs)


def taps(output: Array, index: Array, weight: Array, outputs: int, inputs: int) -> Taps:
    """The table in which output[t], ascending, reads index[t] times weight[t]."""
    start = np.searchsorted(output, np.arange(outputs + 1))
    return Taps(start, np.asarray(index, np.int64), np.asarray(weight, np.float64), inputs)


def nearest_taps(inputs: int, outputs: int) -> Taps:
    """Output i reads the input floor(i * inputs / outputs)."""
    i = np.arange(outputs)
    return taps(i, i * inputs // outputs, np.ones(outputs), outputs, inputs)


def bilinear_taps(inputs: int, outputs: int) -> Taps:
    """Output i reads the two inputs about (i + 1/2) * inputs / outputs - 1/2: pixels have centres.

    The place is kept as a fraction of integers. Beyond the outer centres the border's pixel alone is read,
    and no pixel is read with weight 0, which would let its NaN through.
    """
    i = np.arange(outputs)
    place, denominator = np.maximum((2 * i + 1) * inputs - outputs, 0), 2 * outputs
    low, rest = place // denominator, place % denominator
    upper = np.where(low < inputs - 1, rest / denominator, 0.0)
    output = np.stack([i, i], axis=1)
    index = np.stack([low, low + 1], axis=1)
    weight = np.stack([1 - upper, upper], axis=1)
    read = weight > 0
    return taps(output[read], index[read], weight[read], outputs, inputs)


def window_taps(inputs: int, window: int, stride: int, before: int, outputs: int) -> Taps:
    """Output i reads the inputs of a window that starts at i * stride - before, as far as there are any."""
    output = np.repeat(np.arange(outputs), window)
    index = output * stride - before + np.tile(np.arange(window), outputs)
    inside = (index >= 0) & (index < inputs)
    return taps(output[inside], index[inside], np.ones(inside.sum()), outputs, inputs)


def resample(x: Array, rows: Taps, columns: Taps, divisor: int = 1) -> Array:
    """Apply the tables of both axes to x (N, H, W, C): (N, rows.outputs, columns.outputs, C).

    All sums are divided by `divisor`: so the mean of ones is one, which 1/3 as a tap's weight wouldn't give.
    """
    y = empty((x.shape[0], rows.outputs, columns.outputs, x.shape[3]), x.dtype)
    a, b = rows.weight.astype(x.dtype), columns.weight.astype(x.dtype)
    x = np.ascontiguousarray(x)
    separable_map(x, rows.start, rows.index, a, columns.start, columns.index, b, x.dtype.type(divisor), y)
    return y


@kernel
def separable_map(x, row_start, row_index, row_weight, column_start, column_index, column_weight, divisor, y):
    """y[n,i,j,c] = 1/divisor sum_ts row_weight[t] column_weight[s] x[n, row_index[t], column_index[s], c]."""
    N, OH, OW, C = y.shape
    for task in prange(N * OH):
        n, i = task // OH, task % OH
        for j in range(OW):
            out = y[n, i, j]
            out[:] = 0
            for t in range(row_start[i], row_start[i + 1]):
                for s in range(column_start[j], column_start[j + 1]):
                    pixel = x[n, row_index[t], column_index[s]]
                    weight = row_weight[t] * column_weight[s]
                    for c in range(C):
                        out[c] += weight * pixel[c]
            if divisor != 1:
                for c in range(C):
                    out[c] /= divisor
