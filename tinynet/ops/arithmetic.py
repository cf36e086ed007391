"""Functions of single elements: exp log sqrt abs maximum minimum where clip."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from tinynet.autograd import Op
from tinynet.operators import Larger, Smaller, Where
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import Array


class Exp(Op):
    """y = e^x;  gx = gy y"""

    keeps = ("output",)

    def forward(self, x: Array) -> Array:
        return np.exp(x)

    def backward(self, gy: Tensor) -> Tensor:
        return gy * self.output


class Log(Op):
    """y = ln x;  gx = gy / x"""

    keeps = ("x",)

    def forward(self, x: Array) -> Array:
        return np.log(x)

    def backward(self, gy: Tensor) -> Tensor:
        return gy / self.x


class Sqrt(Op):
    """y = sqrt(x);  gx = gy / (2 y)"""

    keeps = ("output",)

    def forward(self, x: Array) -> Array:
        return np.sqrt(x)

    def backward(self, gy: Tensor) -> Tensor:
        return gy / (self.output * 2)


class Abs(Op):
    """y = |x|;  gx = gy sign(x), and 0 at the kink"""

    keeps = ("x",)

    def forward(self, x: Array) -> Array:
        return np.abs(x)

    def backward(self, gy: Tensor) -> Tensor:
        return gy * gy.wrap(np.sign(self.x.array))


def exp(x: TensorLike) -> Tensor:
    """e to the power of each element, of any shape: y = e^x.

    >>> exp([0.0, 1.0])
    Tensor([1.      , 2.718...])
    """
    return Exp()(as_tensor(x))


def log(x: TensorLike) -> Tensor:
    """The natural logarithm of each element, of any shape: y = ln x; -Inf at 0, NaN below.

    >>> log([1.0, 10.0])
    Tensor([0.       , 2.3025851])
    """
    return Log()(as_tensor(x))


def sqrt(x: TensorLike) -> Tensor:
    """The square root of each element, of any shape: y = sqrt(x); NaN below 0. Its gradient at 0 is Inf.

    >>> sqrt([4.0, 9.0])
    Tensor([2., 3.])
    """
    return Sqrt()(as_tensor(x))


def abs(x: TensorLike) -> Tensor:
    """The absolute value of each element, of any shape: y = |x|; the gradient at 0 is 0.

    >>> abs([-2.0, 3.0])
    Tensor([2., 3.])
    """
    return Abs()(as_tensor(x))


def maximum(x: TensorLike, y: TensorLike) -> Tensor:
    """The larger of x and y, element by element: z = max(x, y). NaN if either is; equal: x gets the gradient.

    x, y: of shapes that broadcast together, to that of z.

    >>> maximum([1.0, 5.0, 4.0], [3.0, 3.0, 4.0])
    Tensor([3., 5., 4.])
    """
    return Larger()(*_both(x, y))


def minimum(x: TensorLike, y: TensorLike) -> Tensor:
    """The smaller of x and y, element by element: z = min(x, y). NaN if either is; equal: x gets the gradient.

    x, y: of shapes that broadcast together, to that of z.

    >>> minimum([1.0, 5.0, 4.0], [3.0, 3.0, 4.0])
    Tensor([1., 3., 4.])
    """
    return Smaller()(*_both(x, y))


def where(condition: npt.ArrayLike, x: TensorLike, y: TensorLike) -> Tensor:
    """One of two values, element by element: z = x where the condition holds, y elsewhere.

    condition (bool), x, y: of shapes that broadcast together, to that of z. The condition gets no gradient.
    Raises TypeError for a condition that isn't bool.

    >>> where([True, False], [1.0, 2.0], [3.0, 4.0])
    Tensor([1., 4.])
    """
    condition = np.asarray(condition)
    if condition.dtype != bool:
        raise TypeError(f"where: the condition has dtype {condition.dtype}, but must be bool; compare, as in x > 0")
    return Where(condition)(*_both(x, y))


def clip(x: TensorLike, low: TensorLike | None = None, high: TensorLike | None = None) -> Tensor:
    """Each element, of any shape, limited to [low, high]: y = min(max(x, low), high).

    gx = gy where low <= x <= high, 0 elsewhere

    >>> clip([-2.0, 0.5, 7.0], 0.0, 1.0)
    Tensor([0. , 0.5, 1. ])
    """
    return as_tensor(x).clip(low, high)


def _both(x, y):
    """x and y as tensors; what isn't one takes on the other's dtype."""
    x = as_tensor(x, like=y)
    return x, as_tensor(y, like=x)
