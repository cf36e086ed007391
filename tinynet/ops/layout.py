"""Functions that move elements without changing them: reshape transpose pad concatenate stack flatten broadcast_to."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinynet.autograd import Op
from tinynet.kernels.memory import empty
from tinynet.operators import Index
from tinynet.shapes import integer
from tinynet.tensor import Gradients, Tensor, TensorLike, as_tensor
from tinynet.typing import Array, Shape


class Pad(Op):
    """y = x with `width` = ((before, after), ...) constant elements around each axis;  gx = the inner part of gy"""

    def __init__(self, width: tuple[tuple[int, int], ...], value: float) -> None:
        self.width, self.value = width, value

    def forward(self, x: Array) -> Array:
        self.inner = tuple(slice(before, before + n) for (before, _), n in zip(self.width, x.shape, strict=True))
        y = empty(self.output_shape(x.shape), x.dtype)
        y.fill(self.value)
        y[self.inner] = x
        return y

    def output_shape(self, x: Shape) -> Shape:
        return tuple(before + n + after for (before, after), n in zip(self.width, x, strict=True))

    def backward(self, gy: Tensor) -> Tensor:
        return Index(self.inner)(gy)


class Concatenate(Op):
    """y = the inputs one after the other along `axis`;  gx_i = the part of gy where x_i went"""

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, *xs: Array) -> Array:
        self.ends = np.cumsum([x.shape[self.axis] for x in xs]).tolist()
        return np.concatenate(xs, axis=self.axis)

    def output_shape(self, *xs: Shape) -> Shape:
        return *xs[0][: self.axis], sum(x[self.axis] for x in xs), *xs[0][self.axis + 1 :]

    def backward(self, gy: Tensor) -> Gradients:
        before = (slice(None),) * self.axis
        starts = [0, *self.ends[:-1]]
        return tuple(Index((*before, slice(a, b)))(gy) for a, b in zip(starts, self.ends, strict=True))


def reshape(x: TensorLike, shape: int | Sequence[int]) -> Tensor:
    """The same elements in the same order, in another shape: y = x read as `shape`; one length may be -1.

    >>> reshape([1.0, 2.0, 3.0, 4.0], (2, -1))
    Tensor([[1., 2.],
            [3., 4.]])
    """
    return as_tensor(x).reshape(shape)


def transpose(x: TensorLike, axes: Sequence[int] = ()) -> Tensor:
    """The axes in another order (reversed if none is given): of a matrix, y[j, i] = x[i, j].

    x: of any shape (n0, n1, ...); y: of the same lengths in the order `axes`.

    >>> transpose([[1.0, 2.0], [3.0, 4.0]])
    Tensor([[1., 3.],
            [2., 4.]])
    """
    return as_tensor(x).transpose(axes)


def flatten(x: TensorLike, start: int = 1) -> Tensor:
    """All axes from `start` on as one: y = x read as rows; images (N, H, W, C) become (N, H*W*C).

    >>> flatten([[[1.0, 2.0], [3.0, 4.0]]])
    Tensor([[1., 2., 3., 4.]])
    """
    return as_tensor(x).flatten(start)


def broadcast_to(x: TensorLike, shape: Sequence[int]) -> Tensor:
    """Repeated to `shape` by NumPy's rules: y[i, j] = x[j] where x lacks an axis, x[0, j] where it is 1 long.

    >>> broadcast_to([1.0, 2.0], (2, 2))
    Tensor([[1., 2.],
            [1., 2.]])
    """
    return as_tensor(x).broadcast_to(shape)


def pad(x: TensorLike, width: Sequence[tuple[int, int]], value: float = 0.0) -> Tensor:
    """Elements of a constant value added around: y = x in the middle, `value` elsewhere.

    width: ((before, after), ...), a pair for each axis of x, whose lengths n become before + n + after in y's shape.

    >>> pad([1.0, 2.0], ((1, 2),))
    Tensor([0., 1., 2., 0., 0.])
    """
    x = as_tensor(x)
    if len(width) != x.ndim or any(len(pair) != 2 for pair in width):
        raise ValueError(f"pad: width is {width}, but must be a pair (before, after) for each axis of shape {x.shape}")
    width = tuple(tuple(integer(n, "pad", "width", 0) for n in pair) for pair in width)
    return Pad(width, value)(x)


def concatenate(tensors: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """One after the other along an axis: y = x_0 followed by x_1, ...; all other axes must be equal.

    Shapes (..., n_0, ...), (..., n_1, ...), ... give (..., n_0 + n_1 + ..., ...).

    >>> concatenate([[1.0, 2.0], [3.0]])
    Tensor([1., 2., 3.])
    """
    tensors = [as_tensor(t) for t in tensors]
    _check_parts("concatenate", tensors, axis, tensors[0].ndim if tensors else 0)
    axis %= tensors[0].ndim
    shapes = [t.shape for t in tensors]
    if len({(*s[:axis], *s[axis + 1 :]) for s in shapes}) > 1:
        raise ValueError(f"concatenate: shapes {shapes} differ in more than axis {axis}")
    return Concatenate(axis)(*tensors)


def stack(tensors: Sequence[TensorLike], axis: int = 0) -> Tensor:
    """Tensors of one shape along a new axis: y[i] = x_i (axis 0), y[:, i] = x_i (axis 1), ...

    n tensors of shape (a, b) give (n, a, b), (a, n, b) or (a, b, n).

    >>> stack([[1.0, 2.0], [3.0, 4.0]], axis=1)
    Tensor([[1., 3.],
            [2., 4.]])
    """
    tensors = [as_tensor(t) for t in tensors]
    _check_parts("stack", tensors, axis, tensors[0].ndim + 1 if tensors else 0)
    shapes = [t.shape for t in tensors]
    if len(set(shapes)) > 1:
        raise ValueError(f"stack: shapes {shapes} differ; they must be equal")
    axis %= tensors[0].ndim + 1
    row = (*shapes[0][:axis], 1, *shapes[0][axis:])
    return Concatenate(axis)(*(t.reshape(row) for t in tensors))


def _check_parts(op, tensors, axis, ndim):
    if not tensors:
        raise ValueError(f"{op}: there are no tensors")
    if len({t.ndim for t in tensors}) > 1:
        raise ValueError(f"{op}: shapes {[t.shape for t in tensors]} have different numbers of axes")
    if not -ndim <= axis < ndim:
        raise ValueError(f"{op}: axis {axis} is out of range for {ndim} axes")
