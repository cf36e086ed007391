"""Activations: relu leaky_relu sigmoid tanh softplus gelu silu softmax log_softmax dropout."""

from __future__ import annotations

import math
import operator

import numpy as np

from tinynet.autograd import Op
from tinynet.kernels import activation as kernels
from tinynet.kernels.elementwise import multiply
from tinynet.kernels.reduction import sum_rows
from tinynet.kernels.softmax import softmax as softmax_of_rows
from tinynet.kernels.softmax import softmax_gradient
from tinynet.ops.arithmetic import exp
from tinynet.random import generator
from tinynet.tensor import Gradients, Tensor, TensorLike, as_tensor
from tinynet.typing import Array


class Relu(Op):
    """y = max(x, 0);  gx = gy [y > 0]"""

    keeps = ("output",)
    gives_new = True

    def forward(self, x: Array) -> Array:
        return kernels.relu(x)

    def backward(self, gy: Tensor) -> Tensor:
        return ReluGrad(self.may_overwrite)(gy, self.output.detach())


class ReluGrad(Op):
    """gx = gy [y > 0]: linear in gy, and its own adjoint; in y it is flat, a step apart

    in_place: gx is written over gy, which spares an array as large as the images. With `sums` its sum over all axes but
    the last is then known, too: pixel_sum.
    """

    keeps = ("y",)
    pixel_sum = None

    def __init__(self, in_place: bool = False, sums: bool = False) -> None:
        self.in_place, self.sums = in_place, sums

    def forward(self, gy: Array, y: Array) -> Array:
        if not (self.in_place and self.sums):
            return kernels.relu_grad(gy, y, self.in_place)
        channels = gy.shape[-1]
        self.pixel_sum = sum_rows(gy.reshape(-1, channels), gate=y.reshape(-1, channels))
        return gy

    def backward(self, ggx: Tensor) -> Gradients:
        return ReluGrad()(ggx, self.y), None


class Gate(Op):
    """y = g x for a constant array g of x's shape;  gx = g gy"""

    def __init__(self, gate: Array) -> None:
        self.gate = gate

    def forward(self, x: Array) -> Array:
        return multiply(x, self.gate)

    def backward(self, gy: Tensor) -> Tensor:
        return Gate(self.gate)(gy)


class Dropout(Gate):
    """y = g x with g = 0 with probability p, else 1 / (1 - p), drawn anew;  gx = g gy"""

    def __init__(self, p: float) -> None:
        self.p = p

    def forward(self, x: Array) -> Array:
        stays = generator().random(x.shape, dtype=np.float32) >= self.p  # the same draws for float64
        self.gate = stays * np.array(1 / (1 - self.p) if self.p < 1 else 0, x.dtype)
        return super().forward(x)


class LeakyRelu(Op):
    """y = g x  with  g = 1 for x > 0, else the slope;  gx = g gy"""

    def __init__(self, slope: float) -> None:
        self.slope = slope

    def forward(self, x: Array) -> Array:
        self.gate = np.where(x > 0, x.dtype.type(1), x.dtype.type(self.slope))
        return multiply(x, self.gate)

    def backward(self, gy: Tensor) -> Tensor:
        return Gate(self.gate)(gy)


class Sigmoid(Op):
    """y = 1 / (1 + e^-x);  gx = gy y (1 - y)"""

    keeps = ("output",)

    def forward(self, x: Array) -> Array:
        return kernels.sigmoid(x)

    def backward(self, gy: Tensor) -> Tensor:
        return SigmoidGrad()(gy, self.output)


class SigmoidGrad(Op):
    """gx = gy y (1 - y): linear in gy, and its own adjoint;  in y its derivative is gy (1 - 2 y)"""

    keeps = ("gy", "y")

    def forward(self, gy: Array, y: Array) -> Array:
        return kernels.sigmoid_grad(gy, y)

    def backward(self, v: Tensor) -> Gradients:
        return SigmoidGrad()(v, self.y), v * self.gy * (1 - 2 * self.y) if self.needs[1] else None


class Tanh(Op):
    """y = tanh x;  gx = gy (1 - y^2)"""

    keeps = ("output",)

    def forward(self, x: Array) -> Array:
        return kernels.tanh(x)

    def backward(self, gy: Tensor) -> Tensor:
        return TanhGrad()(gy, self.output)


class TanhGrad(Op):
    """gx = gy (1 - y^2): linear in gy, and its own adjoint;  in y its derivative is -2 gy y"""

    keeps = ("gy", "y")

    def forward(self, gy: Array, y: Array) -> Array:
        return kernels.tanh_grad(gy, y)

    def backward(self, v: Tensor) -> Gradients:
        return TanhGrad()(v, self.y), v * self.gy * (-2 * self.y) if self.needs[1] else None


class Softplus(Op):
    """y = ln(1 + e^x) = max(x, 0) + ln(1 + e^-|x|);  gx = gy sigmoid(x)"""

    keeps = ("x",)

    def forward(self, x: Array) -> Array:
        return np.maximum(x, 0) + np.log1p(np.exp(-np.abs(x)))

    def backward(self, gy: Tensor) -> Tensor:
        return gy * sigmoid(self.x)


class NormalCdf(Op):
    """P(x) = (1 + erf(x / sqrt 2)) / 2;  gx = gy e^(-x^2 / 2) / sqrt(2 pi)"""

    keeps = ("x",)

    def forward(self, x: Array) -> Array:
        return kernels.normal_cdf(x)

    def backward(self, gy: Tensor) -> Tensor:
        x = self.x
        return gy * (exp(x * x * -0.5) * (1 / math.sqrt(2 * math.pi)))


class Softmax(Op):
    """p = e^x / sum e^x along an axis;  gx = p (gp - sum gp p), the sum along that axis too"""

    keeps = ("output",)

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return _by_rows(softmax_of_rows, self.axis, x)

    def backward(self, gp: Tensor) -> Tensor:
        return SoftmaxGrad(self.axis)(gp, self.output)


class SoftmaxGrad(Op):
    """gx = p (gp - sum gp p): linear in gp, and its own adjoint;  d/dp: v (gp - sum gp p) - gp sum v p"""

    keeps = ("gp", "p")

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, gp: Array, p: Array) -> Array:
        return _by_rows(softmax_gradient, self.axis, p, gp)

    def backward(self, v: Tensor) -> Gradients:
        gp, p = self.gp, self.p
        if not self.needs[1]:
            return SoftmaxGrad(self.axis)(v, p), None
        shares = [(g * p).sum(self.axis, keepdims=True) for g in (gp, v)]
        return SoftmaxGrad(self.axis)(v, p), v * (gp - shares[0]) - gp * shares[1]


class LogSoftmax(Op):
    """y = x - ln sum e^x along an axis;  gx = gy - e^y sum gy, the sum along that axis too"""

    keeps = ("output",)

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, x: Array) -> Array:
        return _by_rows(softmax_of_rows, self.axis, x, logarithm=True)

    def backward(self, gy: Tensor) -> Tensor:
        return LogSoftmaxGrad(self.axis)(gy, self.output)


class LogSoftmaxGrad(Op):
    """gx = gy - e^y sum gy: linear in gy, its adjoint v - sum v e^y;  in y its derivative is -v e^y sum gy"""

    keeps = ("gy", "y")

    def __init__(self, axis: int) -> None:
        self.axis = axis

    def forward(self, gy: Array, y: Array) -> Array:
        return _by_rows(softmax_gradient, self.axis, y, gy, logarithm=True)

    def backward(self, v: Tensor) -> Gradients:
        share = v * exp(self.y)
        in_y = -share * self.gy.sum(self.axis, keepdims=True) if self.needs[1] else None
        return v - share.sum(self.axis, keepdims=True), in_y


def _by_rows(kernel, axis, *arrays, **options):
    """A kernel for rows, along any axis of such arrays"""
    arrays = [x.swapaxes(axis, -1) for x in arrays]
    y = kernel(*(x.reshape(-1, x.shape[-1]) for x in arrays), **options).reshape(arrays[0].shape)
    return np.ascontiguousarray(y.swapaxes(axis, -1))


def relu(x: TensorLike) -> Tensor:
    """The rectifier, of any shape: y = max(x, 0). NaN stays NaN; the gradient at 0 is 0.

    >>> relu([-1.0, 0.0, 2.0])
    Tensor([0., 0., 2.])
    """
    return Relu()(as_tensor(x))


def leaky_relu(x: TensorLike, negative_slope: float = 0.01) -> Tensor:
    """The rectifier that leaks, of any shape: y = x for x > 0, else negative_slope * x (whose gradient holds at 0 too).

    >>> leaky_relu([-1.0, 0.0, 2.0], 0.25)
    Tensor([-0.25,  0.  ,  2.  ])
    """
    return LeakyRelu(float(negative_slope))(as_tensor(x))


def sigmoid(x: TensorLike) -> Tensor:
    """The logistic function, of any shape: y = 1 / (1 + e^-x), without overflow for any x.

    >>> sigmoid([-1000.0, 0.0, 2.0])
    Tensor([0..., 0.5..., 0.8807...])
    """
    return Sigmoid()(as_tensor(x))


def tanh(x: TensorLike) -> Tensor:
    """The hyperbolic tangent, of any shape: y = (e^x - e^-x) / (e^x + e^-x), without overflow for any x.

    >>> tanh([-1000.0, 0.0, 0.5])
    Tensor([-1...,  0...,  0.46211...])
    """
    return Tanh()(as_tensor(x))


def softplus(x: TensorLike) -> Tensor:
    """The smooth rectifier, of any shape: y = ln(1 + e^x), without overflow for any x.

    >>> softplus([-1000.0, 0.0, 100.0])
    Tensor([  0...,   0.69314..., 100...])
    """
    return Softplus()(as_tensor(x))


def gelu(x: TensorLike) -> Tensor:
    """The Gaussian error linear unit, exact: y = x P(X <= x) = x (1 + erf(x / sqrt 2)) / 2, X being normal.

    gx = gy (P(X <= x) + x e^(-x^2 / 2) / sqrt(2 pi))

    x: of any shape, which y has too.
    Hendrycks and Gimpel, Gaussian Error Linear Units, 2016 (arXiv 1606.08415).

    >>> gelu([-1000.0, 0.0, 1.0])
    Tensor([-0...,  0...,  0.84134...])
    """
    x = as_tensor(x)
    return x * NormalCdf()(x)


def silu(x: TensorLike) -> Tensor:
    """The sigmoid-weighted linear unit, also called swish: y = x / (1 + e^-x) = x s with s = sigmoid(x).

    gx = gy (s + x s (1 - s))

    x: of any shape, which y has too.
    Elfwing, Uchibe and Doya, Sigmoid-Weighted Linear Units for Neural Network Function Approximation, 2018.

    >>> silu([-1000.0, 0.0, 1.0])
    Tensor([-0...,  0...,  0.73105...])
    """
    x = as_tensor(x)
    return x * sigmoid(x)


def softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """Positive numbers that sum to 1 along `axis`: p_k = e^x_k / sum_j e^x_j, without overflow for any x.

    x: of any shape with that axis, which p has too. Raises ValueError if x has no such axis, or one of length 0.

    >>> softmax([0.0, 1000.0, 1000.0])
    Tensor([0. , 0.5, 0.5])
    """
    x = as_tensor(x)
    return Softmax(_axis("softmax", x, axis))(x)


def log_softmax(x: TensorLike, axis: int = -1) -> Tensor:
    """The logarithm of softmax, exact where softmax would be 0: y_k = x_k - ln sum_j e^x_j along `axis`.

    x: of any shape with that axis, which y has too. Raises ValueError if x has no such axis, or one of length 0.

    >>> log_softmax([0.0, 1000.0])
    Tensor([-1000.,     0.])
    """
    x = as_tensor(x)
    return LogSoftmax(_axis("log_softmax", x, axis))(x)


def dropout(x: TensorLike, p: float = 0.5, training: bool = True) -> Tensor:
    """In training, each element becomes 0 with probability p, else x / (1 - p), so that its mean stays.

        y = g x      with g = 0 with probability p, else 1 / (1 - p), drawn anew for each element

    x: of any shape, which y has too. With training=False, y is x itself. The draws are the framework's own:
    `manual_seed` repeats them.
    Raises ValueError for a p outside 0..1.
    Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting, 2014.

    >>> import tinynet as tn
    >>> tn.manual_seed(0)
    >>> dropout([1.0, 2.0, 3.0, 4.0], 0.5)
    Tensor([2., 4., 6., 0.])
    """
    x = as_tensor(x)
    if not 0 <= p <= 1:
        raise ValueError(f"dropout: p is {p!r}, but is the probability of a zero, from 0 to 1")
    if not training or p == 0:
        return x
    return Dropout(p)(x)


def _axis(op, x, axis):
    """A check that x has elements along `axis`."""
    axis = operator.index(axis)
    if not -x.ndim <= axis < x.ndim:
        raise ValueError(f"{op}: x of shape {x.shape} has no axis {axis}; the last one is {x.ndim - 1} or -1")
    if x.shape[axis] == 0:
        raise ValueError(f"{op}: axis {axis} of x of shape {x.shape} is empty; there is nothing to compare")
    return axis
