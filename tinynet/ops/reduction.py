"""Functions that make many elements one: sum mean var max min logsumexp; derivatives come from Tensor's methods."""

from __future__ import annotations

import numpy as np

from tinynet.ops.arithmetic import exp, log
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import Axes


def sum(x: TensorLike, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The sum over `axis` (an int, several, or None for all): y = sum x.

    x: of any shape; y: of that shape without these axes, or with length 1 in their place if keepdims.

    >>> sum([[1.0, 2.0], [3.0, 4.0]], axis=0)
    Tensor([4., 6.])
    """
    return as_tensor(x).sum(axis, keepdims)


def mean(x: TensorLike, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The mean over `axis`: y = 1/n sum x. Raises ValueError where there are no elements.

    gx = gy / n, repeated along the axes

    Shapes: as in `sum`.

    >>> mean([[1.0, 2.0], [3.0, 4.0]])
    Tensor(2.5)
    """
    return as_tensor(x).mean(axis, keepdims)


def var(x: TensorLike, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
    """The variance over `axis`: y = sum (x - mean)^2 / (n - ddof). As NumPy's, n is not made smaller by default.

    gx = gy 2 (x - mean) / (n - ddof)

    Shapes: as in `sum`. Raises ValueError for fewer than ddof + 1 elements.

    >>> var([1.0, 3.0])
    Tensor(1.)
    """
    return as_tensor(x).var(axis, keepdims, ddof)


def max(x: TensorLike, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The largest element over `axis`: y = max x; NaN if there is one. Of equal ones the first gets the gradient.

    gx = gy at the place of the largest, 0 elsewhere

    Shapes: as in `sum`. Raises ValueError where there are no elements.

    >>> max([[1.0, 7.0], [3.0, 4.0]], axis=1)
    Tensor([7., 4.])
    """
    return as_tensor(x).max(axis, keepdims)


def min(x: TensorLike, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The smallest element over `axis`: y = min x; NaN if there is one. Of equal ones the first gets the gradient.

    gx = gy at the place of the smallest, 0 elsewhere: it is computed as -max(-x)

    Shapes: as in `sum`. Raises ValueError where there are no elements.

    >>> min([[1.0, 7.0], [3.0, 4.0]], axis=1)
    Tensor([1., 3.])
    """
    return as_tensor(x).min(axis, keepdims)


def logsumexp(x: TensorLike, axis: Axes = None, keepdims: bool = False) -> Tensor:
    """The maximum, made smooth: y = ln sum e^x over `axis`, computed as ln sum e^(x - m) + m with the maximum m.

    gx = gy e^(x - y): gy times the softmax of x

    No e^(x - m) is above 1, so that nothing overflows, and one of them is 1, so that the logarithm isn't that of 0.
    Shapes: as in `sum`.

    >>> logsumexp([1000.0, 1000.0])
    Tensor(1000.693...)
    """
    x = as_tensor(x)
    largest = x.detach().max(axis, keepdims=True)
    shift = x.wrap(np.where(np.isfinite(largest.array), largest.array, 0).astype(x.dtype))  # Inf - Inf would be NaN
    y = log(exp(x - shift).sum(axis, keepdims=True)) + shift
    return y if keepdims else y.reshape(x.detach().sum(axis).shape)
