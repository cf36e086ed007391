"""Tensor: an array, its gradient, and the operators that record what is done with it."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinynet import autograd, guard
from tinynet import operators as ops
from tinynet.autograd import FLOATS, Op
from tinynet.notebook import tensor_html
from tinynet.typing import Array, Axes, DType, Numbers, Shape


class Tensor:
    """An n-dimensional array that remembers how it was computed, so that gradients can be taken.

    data: an array or anything that NumPy makes one of. A float32 or float64 array keeps its dtype and shares its
    memory; an integer or bool array keeps its dtype too (labels, masks) but can't need a gradient; numbers and lists
    become float32. requires_grad=True makes a leaf: `backward()` on a result adds the gradient into its `.grad`.

    Operators and methods follow NumPy, broadcasting included. Python numbers and NumPy arrays take on the dtype of
    the tensor that they meet; two tensors of different float dtypes raise TypeError. Comparisons give plain arrays.

    Memory that a live graph needs for its backward pass is read-only until the graph is gone (see `guard`).

    >>> x = Tensor([1.0, 2.0, 3.0], requires_grad=True)
    >>> y = (x * x).sum()
    >>> y.backward()
    >>> x.grad
    Tensor([2., 4., 6.])
    """

    __slots__ = ("array", "_public", "grad", "requires_grad", "op", "__weakref__")
    array: Array
    grad: Tensor | None
    _public: Array | None  # what .data gives
    requires_grad: bool
    op: Op | None  # that made it
    __array_ufunc__ = None  # ndarray + Tensor asks Tensor, in place of looping over its elements

    def __init__(self, data: TensorLike, requires_grad: bool = False, dtype: DType | None = None) -> None:
        array = _as_array(data, dtype)
        if requires_grad and array.dtype not in FLOATS:
            raise TypeError(f"Tensor: data of dtype {array.dtype} can't need a gradient; give dtype=np.float32")
        self.array = array
        self._public = None
        self.grad = None
        self.requires_grad = bool(requires_grad)
        self.op = None

    def wrap(self, array: Array) -> Tensor:
        """A plain tensor of an array that an op made; no checks, no graph."""
        result = Tensor.__new__(Tensor)
        result.array = array if isinstance(array, np.ndarray) else np.asarray(array)
        result._public = result.grad = result.op = None
        result.requires_grad = False
        return result

    def like(self, value: TensorLike) -> Tensor:
        """`value` as a tensor that can be computed with this one: numbers and arrays take on its dtype."""
        if isinstance(value, Tensor):
            return value
        return self.wrap(np.asarray(value, dtype=self.array.dtype if self.array.dtype in FLOATS else np.float32))

    # What it is

    @property
    def data(self) -> Array:
        """The values as an ndarray that shares the tensor's memory (read-only while a live graph needs them)."""
        if self._public is None:
            self._public = self.array.view()
            guard.publish(self._public)
        return self._public

    @data.setter
    def data(self, data: TensorLike) -> None:
        if guard.is_kept(self.array):
            raise ValueError(
                "Tensor.data: a live graph still needs the values that this would replace; "
                "call backward() first, drop the result, or compute it under no_grad()"
            )
        array = _as_array(data, self.dtype)
        if array.shape != self.shape:
            raise ValueError(f"Tensor.data: got the shape {array.shape}, but the tensor has {self.shape}")
        self.array, self._public = array, None

    @property
    def shape(self) -> Shape:
        """The lengths of the axes, a tuple of ints."""
        return self.array.shape

    @property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy dtype of the elements."""
        return self.array.dtype

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return self.array.ndim

    @property
    def size(self) -> int:
        """The number of elements."""
        return self.array.size

    def item(self) -> Any:
        """The only element, as a Python number."""
        return self.array.item()

    def numpy(self) -> Array:
        """The values as an ndarray: the same as `.data`."""
        return self.data

    def __array__(self, dtype: DType | None = None, copy: bool | None = None) -> Array:
        return np.array(self.data, dtype=dtype, copy=copy)

    def __repr__(self) -> str:
        body = np.array2string(self.array, separator=", ", prefix="Tensor(")
        dtype = "" if self.dtype == np.float32 else f", dtype={self.dtype}"
        made = f", op={type(self.op).__name__}" if self.op else ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({body}{dtype}{made})"

    def _repr_html_(self) -> str:
        return tensor_html(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return Tensor, (self.array.copy(), self.requires_grad)  # copies and pickles are leaves: no graph, no gradient

    def __len__(self) -> int:
        if not self.ndim:
            raise TypeError("len: a tensor without axes has no length")
        return self.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        return (self[i] for i in range(len(self)))

    def __bool__(self) -> bool:
        return bool(self.array)

    def __float__(self) -> float:
        return float(self.array)

    __hash__ = object.__hash__  # by identity, though == compares values: tensors are nodes of the graph

    # Gradients

    def detach(self) -> Tensor:
        """The same values, cut off from the graph: no gradient flows back through the result."""
        return self.wrap(self.array)

    def backward(self, grad: TensorLike | None = None, create_graph: bool = False, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor with respect to every leaf into the leaf's `.grad`.

        grad: the gradient of something with respect to this tensor; not needed for a scalar (it is 1).
        create_graph: record the backward pass, so that the gradients can be differentiated themselves.
        retain_graph: keep what the graph holds, for another backward pass; otherwise it is freed on the way.
        Raises GraphError for a tensor that needs no gradient, one that isn't a scalar, or a graph already freed.
        """
        autograd.backward(self, grad, create_graph=create_graph, retain_graph=retain_graph)

    def accumulate_grad(self, g: Tensor, own: bool = False) -> None:
        """Add to `.grad`; called by the backward pass on leaves. The first gradient is copied, never shared.

        own: nobody else knows the array of `g`, so that it needs no copy.
        """
        if self.grad is not None:
            self.grad = self.grad + g
        elif g.requires_grad:
            self.grad = g
        else:
            self.grad = self.wrap(np.asarray(g.array, order="C") if own else g.array.copy())

    def plus(self, g: Tensor, in_place: bool = False) -> Tensor:
        """self + g, for the backward pass; in_place: written over this tensor, whose array nobody else knows."""
        return ops.Add(in_place)(self, g)

    # Operators

    def __add__(self, other: TensorLike) -> Tensor:
        return ops.Add()(self, self.like(other))

    __radd__ = __add__

    def __sub__(self, other: TensorLike) -> Tensor:
        return ops.Sub()(self, self.like(other))

    def __rsub__(self, other: TensorLike) -> Tensor:
        return ops.Sub()(self.like(other), self)

    def __mul__(self, other: TensorLike) -> Tensor:
        return ops.Mul()(self, self.like(other))

    __rmul__ = __mul__

    def __truediv__(self, other: TensorLike) -> Tensor:
        return ops.Div()(self, self.like(other))

    def __rtruediv__(self, other: TensorLike) -> Tensor:
        return ops.Div()(self.like(other), self)

    def __neg__(self) -> Tensor:
        return ops.Neg()(self)

    def __pow__(self, p: float) -> Tensor:
        if not isinstance(p, (int, float, np.integer, np.floating)):
            raise TypeError(f"**: the exponent is a {type(p).__name__}, but must be a number (x ** y is exp(y log x))")
        return ops.Pow(p.item() if isinstance(p, np.generic) else p)(self)

    def __matmul__(self, other: TensorLike) -> Tensor:
        return _matmul(self, self.like(other))

    def __rmatmul__(self, other: TensorLike) -> Tensor:
        return _matmul(self.like(other), self)

    def __getitem__(self, index: Any) -> Tensor:
        parts = index if isinstance(index, tuple) else (index,)
        parts = tuple(p.array if isinstance(p, Tensor) else p for p in parts)
        return ops.Index(parts if isinstance(index, tuple) else parts[0])(self)

    def __eq__(self, other: object) -> Array:  # by element, as in NumPy
        return self.array == _values(other)

    def __ne__(self, other: object) -> Array:
        return self.array != _values(other)

    def __lt__(self, other: TensorLike) -> Array:
        return self.array < _values(other)

    def __le__(self, other: TensorLike) -> Array:
        return self.array <= _values(other)

    def __gt__(self, other: TensorLike) -> Array:
        return self.array > _values(other)

    def __ge__(self, other: TensorLike) -> Array:
        return self.array >= _values(other)

    # Reductions

    def sum(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """The sum over `axis` (an int, several, or None for all)."""
        axes = _axes("sum", axis, self.ndim)
        if not axes:
            return self
        return _squeeze(ops.Sum(axes)(self), axes, keepdims)

    def mean(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """The mean over `axis`."""
        return self.sum(axis, keepdims) * (1 / _count("mean", self.shape, axis))

    def var(self, axis: Axes = None, keepdims: bool = False, ddof: int = 0) -> Tensor:
        """The variance over `axis`: sum (x - mean)^2 / (n - ddof)."""
        n = _count("var", self.shape, axis)
        if n <= ddof:
            raise ValueError(f"var: {n} elements along axis {axis} are too few for ddof={ddof}")
        d = self - self.mean(axis, keepdims=True)
        return (d * d).sum(axis, keepdims) * (1 / (n - ddof))

    def max(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """The largest element over `axis`; NaN if there is one. The first of equal ones gets the gradient."""
        axes = _axes("max", axis, self.ndim)
        if not axes:
            return self
        count = _count("max", self.shape, axis)
        kept = [i for i in range(self.ndim) if i not in axes]
        rows = self.transpose((*kept, *axes)).reshape((*(self.shape[i] for i in kept), count))
        y = ops.MaxLast()(rows)
        return y.reshape([1 if i in axes else n for i, n in enumerate(self.shape) if keepdims or i not in axes])

    def min(self, axis: Axes = None, keepdims: bool = False) -> Tensor:
        """The smallest element over `axis`; NaN if there is one. The first of equal ones gets the gradient."""
        return -(-self).max(axis, keepdims)

    def sum_to(self, shape: Shape) -> Tensor:
        """Undo a broadcast from `shape`: the sum over all the axes that were added or repeated."""
        extra = self.ndim - len(shape)
        repeated = [extra + i for i, n in enumerate(shape) if n == 1 and self.shape[extra + i] != 1]
        axes = (*range(extra), *repeated)
        return (ops.Sum(axes)(self) if axes else self).reshape(shape)

    # Layout

    def reshape(self, *shape: int | Sequence[int]) -> Tensor:
        """The same elements in another shape; one length may be -1."""
        shape = _flat_arguments(shape)
        if shape == self.shape:
            return self
        known = 1
        for n in shape:
            known *= n if n != -1 else 1
        fits = self.size % known == 0 if known and -1 in shape else self.size == known
        if shape.count(-1) > 1 or any(n < -1 for n in shape) or not fits:
            raise ValueError(f"reshape: {self.size} elements of shape {self.shape} don't fit into {shape}")
        return ops.Reshape(shape)(self)

    def transpose(self, *axes: int | Sequence[int]) -> Tensor:
        """The axes in another order (reversed if none is given)."""
        axes = _flat_arguments(axes) or tuple(reversed(range(self.ndim)))
        if sorted(a % self.ndim if self.ndim else a for a in axes) != list(range(self.ndim)):
            raise ValueError(f"transpose: axes {axes} are no order of the {self.ndim} axes of shape {self.shape}")
        return ops.Transpose(tuple(a % self.ndim for a in axes))(self)

    @property
    def T(self) -> Tensor:
        """The axes reversed; for a matrix its transpose."""
        return self.transpose()

    def flatten(self, start: int = 0) -> Tensor:
        """All axes from `start` on as one: (N, H, W, C).flatten(1) is (N, H*W*C)."""
        n = 1
        for length in self.shape[start:]:
            n *= length
        return self.reshape((*self.shape[:start], n))

    def broadcast_to(self, shape: Sequence[int]) -> Tensor:
        """Repeated to `shape` by NumPy's rules."""
        shape = tuple(operator.index(n) for n in shape)
        try:
            fits = np.broadcast_shapes(self.shape, shape) == shape
        except ValueError:
            fits = False
        if not fits:
            raise ValueError(f"broadcast_to: the shape {self.shape} can't be repeated to {shape}")
        return self if shape == self.shape else ops.BroadcastTo(shape)(self)

    def clip(self, low: TensorLike | None = None, high: TensorLike | None = None) -> Tensor:
        """Limited to [low, high]; the gradient passes where low <= x <= high. NaN stays NaN."""
        y = self
        for bound, limited in ((low, ops.Larger), (high, ops.Smaller)):
            if bound is not None:
                y = limited()(y, self.like(bound))
        return y

    def astype(self, dtype: DType) -> Tensor:
        """The values in another float dtype; gradients come back in this one's."""
        dtype = np.dtype(dtype)
        if dtype not in FLOATS:
            raise TypeError(f"astype: tensors are float32 or float64, not {dtype}")
        return self if dtype == self.dtype else ops.Cast(dtype)(self)


TensorLike = Tensor | Numbers  # what is made a tensor where one is wanted
Gradients = tuple[Tensor | None, ...]  # of an op's inputs, as its backward gives them


def as_tensor(value: TensorLike, like: object = None) -> Tensor:
    """`value` as a Tensor: itself if it is one; numbers and arrays take on the dtype of `like`, if that is given."""
    if isinstance(value, Tensor):
        return value
    return like.like(value) if isinstance(like, Tensor) else Tensor(value)


def _values(value):
    return value.array if isinstance(value, Tensor) else value


def _as_array(data, dtype):
    """The array of a new tensor: shares memory where it may, and is always writable for the kernels."""
    if isinstance(data, Tensor):
        data = data.data
    given = data
    if not isinstance(data, (np.ndarray, np.generic)):
        data = np.asarray(data)
        dtype = dtype or np.float32
    if data.dtype.kind not in "fiub":
        raise TypeError(f"Tensor: data of dtype {data.dtype} aren't real numbers")
    dtype = np.dtype(dtype or (data.dtype if data.dtype.kind in "iub" or data.dtype in FLOATS else np.float32))
    array = np.asarray(data, dtype=dtype)
    if array is not given or not array.flags.writeable:
        return np.array(array)
    guard.publish(array)
    guard.publish(guard.owner(array))
    return array.view()


def _axes(op, axis, ndim):
    """`axis` in any of its forms as an ascending tuple of non-negative ints."""
    axes = range(ndim) if axis is None else axis if isinstance(axis, (tuple, list)) else (axis,)
    axes = [operator.index(a) for a in axes]
    if any(not -ndim <= a < ndim for a in axes) or len({a % ndim for a in axes}) < len(axes):
        raise ValueError(f"{op}: axis {axis} doesn't name different axes of a tensor with {ndim}")
    return tuple(sorted(a % ndim for a in axes))


def _count(op, shape, axis):
    """How many elements one result of a reduction is made of."""
    n = 1
    for a in _axes(op, axis, len(shape)):
        n *= shape[a]
    if n == 0:
        raise ValueError(f"{op}: no elements along axis {axis} of shape {shape}")
    return n


def _squeeze(y, axes, keepdims):
    return y if keepdims else y.reshape([n for i, n in enumerate(y.shape) if i not in axes])


def _flat_arguments(values):
    """f(2, 3) and f((2, 3)) alike, as a tuple of ints."""
    if len(values) == 1 and isinstance(values[0], (tuple, list)):
        values = values[0]
    return tuple(operator.index(v) for v in values)


def matmul(a: TensorLike, b: TensorLike) -> Tensor:
    """The matrix product, as the operator @: c = a b.

    a: (..., M, K), b: (..., K, N); gives (..., M, N). As in NumPy a vector counts as one row (first) or one column
    (second), and stacks of matrices are broadcast together. Raises ValueError for lengths that don't fit.

    >>> matmul([[1.0, 2.0]], [[3.0], [4.0]])
    Tensor([[11.]])
    """
    a = as_tensor(a, like=b)
    return _matmul(a, as_tensor(b, like=a))


def _matmul(a, b):
    if not a.ndim or not b.ndim or a.shape[-1] != b.shape[-min(b.ndim, 2)]:
        raise ValueError(
            f"matmul: shapes {a.shape} and {b.shape}: the last axis of the first must be as long as the "
            f"{'only' if b.ndim == 1 else 'last but one'} axis of the second"
        )
    if a.ndim == 1:
        return _matmul(a.reshape((1, -1)), b).reshape(b.shape[:-2] + b.shape[-1:] if b.ndim > 1 else ())
    if b.ndim == 1:
        return _matmul(a, b.reshape((-1, 1))).reshape(a.shape[:-1])
    if a.ndim == b.ndim == 2:
        return ops.MatMul()(a, b)
    (m, k), n = a.shape[-2:], b.shape[-1]
    if b.ndim == 2:  # all of a's rows at once
        rows = math.prod(a.shape[:-1])
        return ops.MatMul()(a.reshape((rows, k)), b).reshape((*a.shape[:-1], n))
    try:
        stack = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    except ValueError:
        raise ValueError(f"matmul: shapes {a.shape} and {b.shape}: the stacks don't broadcast") from None
    count = math.prod(stack)
    a = a.broadcast_to((*stack, m, k)).reshape((count, m, k))
    b = b.broadcast_to((*stack, k, n)).reshape((count, k, n))
    return ops.MatMul()(a, b).reshape((*stack, m, n))
