"""The ops behind Tensor's own operators and methods: + - * / ** @, indexing, sum, and changes of layout.

They stand on Tensor's floor because Tensor can't be without them; all other ops are in `tinynet/ops/`.
In each class `backward` is the derivative of the `forward` above it, and is itself written in Tensor operators.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet.autograd import Op
from tinynet.kernels.elementwise import add, add_to, multiply, subtract
from tinynet.kernels.matmul import matmul
from tinynet.kernels.memory import zeros
from tinynet.kernels.reduction import sum_rows
from tinynet.typing import Array, DType, Shape

if TYPE_CHECKING:  # it stands one floor up
    from tinynet.tensor import Gradients, Tensor


class Add(Op):
    """z = x + y;  gx = gz,  gy = gz

    in_place: z is written over x, which has y's shape.
    """

    broadcasts = True

    def __init__(self, in_place: bool = False) -> None:
        self.in_place = in_place

    def forward(self, x: Array, y: Array) -> Array:
        return add_to(x, y) if self.in_place else add(x, y)

    def backward(self, gz: Tensor) -> Gradients:
        return gz, gz


class Sub(Op):
    """z = x - y;  gx = gz,  gy = -gz"""

    broadcasts = True

    def forward(self, x: Array, y: Array) -> Array:
        return subtract(x, y)

    def backward(self, gz: Tensor) -> Gradients:
        return gz, -gz if self.needs[1] else None


class Mul(Op):
    """z = x y;  gx = gz y,  gy = gz x"""

    keeps = ("x", "y")
    broadcasts = True

    def forward(self, x: Array, y: Array) -> Array:
        return multiply(x, y)

    def backward(self, gz: Tensor) -> Gradients:
        return gz * self.y if self.needs[0] else None, gz * self.x if self.needs[1] else None


class Div(Op):
    """z = x / y;  gx = gz / y,  gy = -gz x / y^2"""

    keeps = ("x", "y")
    broadcasts = True

    def forward(self, x: Array, y: Array) -> Array:
        return x / y

    def backward(self, gz: Tensor) -> Gradients:
        gx = gz / self.y
        return gx, -gx * self.x / self.y if self.needs[1] else None


class Neg(Op):
    """y = -x;  gx = -gy"""

    def forward(self, x: Array) -> Array:
        return -x

    def backward(self, gy: Tensor) -> Tensor:
        return -gy


class Pow(Op):
    """y = x^p for a number p;  gx = gy p x^(p-1)"""

    keeps = ("x",)

    def __init__(self, p: float) -> None:
        self.p = p

    def forward(self, x: Array) -> Array:
        return x**self.p

    def backward(self, gy: Tensor) -> Tensor:
        if self.p == 0:
            return gy * 0  # not 0 * x^-1, which is NaN at 0
        return gy * (self.p * self.x ** (self.p - 1))


class MatMul(Op):
    """c = a b for matrices (M, K) and (K, N), or a stack of each;  ga = gc b^T,  gb = a^T gc"""

    keeps = ("a", "b")
    gives_new = True

    def forward(self, a: Array, b: Array) -> Array:
        return matmul(a, b)

    def output_shape(self, a: Shape, b: Shape) -> Shape:
        return *a[:-1], b[-1]

    def backward(self, gc: Tensor) -> Gradients:
        ga = MatMul()(gc, swap_last(self.b)) if self.needs[0] else None
        gb = MatMul()(swap_last(self.a), gc) if self.needs[1] else None
        return ga, gb


def swap_last(x: Tensor) -> Tensor:
    """The transpose of a matrix, or of each matrix of a stack."""
    return Transpose((*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))(x)


class Sum(Op):
    """y = sum of x over `axes`, which stay as axes of length 1;  gx = gy, repeated along them"""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        self.shape = x.shape
        leading = len(self.axes)
        if 0 < leading < x.ndim and self.axes == tuple(range(leading)) and x.flags.c_contiguous:
            rest = x.shape[leading:]  # the sum over the leading axes, as for a bias, is the one worth a kernel
            rows = x.reshape(math.prod(x.shape[:leading]), math.prod(rest))  # -1 can't be told where an axis is empty
            return sum_rows(rows).reshape((1,) * leading + rest)
        return x.sum(axis=self.axes, keepdims=True)

    def output_shape(self, x: Shape) -> Shape:
        return tuple(1 if i in self.axes else n for i, n in enumerate(x))

    def backward(self, gy: Tensor) -> Tensor:
        return BroadcastTo(self.shape)(gy)


class BroadcastTo(Op):
    """y = x repeated to `shape` by NumPy's rules;  gx = gy summed over the copies (un-broadcast by the engine)"""

    broadcasts = True

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        return np.ascontiguousarray(np.broadcast_to(x, self.shape))

    def output_shape(self, x: Shape) -> Shape:
        return self.shape

    def backward(self, gy: Tensor) -> Tensor:
        return gy


class Reshape(Op):
    """y = x in another shape, element by element;  gx = gy in the shape of x"""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return x.reshape(self.shape)

    dry_run = forward  # it only makes a view

    def backward(self, gy: Tensor) -> Tensor:
        return Reshape(self.x_shape)(gy)


class Transpose(Op):
    """y = x with its axes in another order;  gx = gy with the order undone"""

    def __init__(self, axes: tuple[int, ...]) -> None:
        self.axes = axes

    def forward(self, x: Array) -> Array:
        return x.transpose(self.axes)

    dry_run = forward

    def backward(self, gy: Tensor) -> Tensor:
        return Transpose(tuple(int(i) for i in np.argsort(self.axes)))(gy)


class Index(Op):
    """y = x[index];  gx = zeros with gy added in at index (an element that was taken twice gets both)"""

    def __init__(self, index: Any) -> None:
        self.index = index

    def forward(self, x: Array) -> Array:
        self.x_shape = x.shape
        return x[self.index]

    dry_run = forward

    def backward(self, gy: Tensor) -> Tensor:
        return IndexAdd(self.index, self.x_shape)(gy)


class IndexAdd(Op):
    """y = zeros of `shape`, with x added in at `index`: the adjoint of Index;  gx = gy[index]"""

    def __init__(self, index: Any, shape: Shape) -> None:
        self.index, self.shape = index, shape

    def forward(self, x: Array) -> Array:
        y = zeros(self.shape, x.dtype)
        parts = self.index if isinstance(self.index, tuple) else (self.index,)
        if any(isinstance(p, (np.ndarray, list)) for p in parts):
            np.add.at(y, self.index, x)
        else:
            y[self.index] = x  # slices and integers take no element twice
        return y

    def output_shape(self, x: Shape) -> Shape:
        return self.shape

    def backward(self, gy: Tensor) -> Tensor:
        return Index(self.index)(gy)


class TakeLast(Op):
    """y[..., 0] = x[..., index[...]], one element of each row;  gx = gy in its place, 0 elsewhere"""

    def __init__(self, index: Array) -> None:
        self.index = index[..., None]

    def forward(self, x: Array) -> Array:
        self.length = x.shape[-1]
        return np.take_along_axis(x, self.index, -1)

    def output_shape(self, x: Shape) -> Shape:
        return *x[:-1], 1

    def backward(self, gy: Tensor) -> Tensor:
        return PutLast(self.index[..., 0], self.length)(gy)


class MaxLast(TakeLast):
    """y[..., 0] = the largest of each row, the first of equal ones, NaN if there is one;  gx = gy in its place"""

    def __init__(self) -> None:
        """The index is found by forward."""

    def forward(self, x: Array) -> Array:
        self.index = x.argmax(-1)[..., None]
        return super().forward(x)


class PutLast(Op):
    """y[..., index[...]] = x[..., 0] in rows of `length` zeros: the adjoint of TakeLast;  gx = gy at index"""

    def __init__(self, index: Array, length: int) -> None:
        self.index, self.length = index[..., None], length

    def forward(self, x: Array) -> Array:
        y = np.zeros((*x.shape[:-1], self.length), x.dtype)
        np.put_along_axis(y, self.index, x, -1)
        return y

    def output_shape(self, x: Shape) -> Shape:
        return *x[:-1], self.length

    def backward(self, gy: Tensor) -> Tensor:
        return TakeLast(self.index[..., 0])(gy)


class Where(Op):
    """z = x where the condition holds, y elsewhere;  gx = gz where it holds, else 0,  gy = gz where not, else 0"""

    broadcasts = True

    def __init__(self, condition: Array) -> None:
        self.condition = condition

    def forward(self, x: Array, y: Array) -> Array:
        return np.where(self.condition, x, y)

    def output_shape(self, x: Shape, y: Shape) -> Shape:
        return np.broadcast_shapes(self.condition.shape, x, y)

    def backward(self, gz: Tensor) -> Gradients:
        zero = gz.like(0)
        return Where(self.condition)(gz, zero), Where(self.condition)(zero, gz)


class Larger(Where):
    """z = the larger of x and y, NaN if either is;  gx = gz where x was taken (or equal), else 0,  gy = gz - gx"""

    def __init__(self) -> None:
        """The condition is found by forward."""

    def forward(self, x: Array, y: Array) -> Array:
        self.condition = (x >= y) | np.isnan(x)
        return super().forward(x, y)

    output_shape = Op.output_shape


class Smaller(Larger):
    """z = the smaller of x and y, NaN if either is;  gx = gz where x was taken (or equal), else 0,  gy = gz - gx"""

    def forward(self, x: Array, y: Array) -> Array:
        self.condition = (x <= y) | np.isnan(x)
        return Where.forward(self, x, y)


class Cast(Op):
    """y = x in another float dtype;  gx = gy in the dtype of x"""

    def __init__(self, dtype: DType) -> None:
        self.to = dtype

    def forward(self, x: Array) -> Array:
        self.x_dtype = x.dtype
        return x.astype(self.to)

    def dry_run(self, x: Array) -> Array:
        return np.broadcast_to(np.zeros((), self.to), x.shape)

    def _fit(self, g, shape):
        return g  # the one op whose gradient changes its dtype on the way

    def backward(self, gy: Tensor) -> Tensor:
        return Cast(self.x_dtype)(gy)
