"""ONNX's operators in tinynet's functions: f(node, inputs, module) gives the node's output, or a tuple of them.

Values are Tensors (floats), ndarrays (whole numbers, truths), or an Image: what an image operator made, with its
channels last. It stays so through elementwise operators up to the next image operator.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

import tinynet as tn
from tinynet import nn
from tinynet.interop.onnx_graph import TO_FIRST, TO_LAST, WEIGHT_TO_FIRST
from tinynet.ops.activation import NormalCdf
from tinynet.tensor import Tensor
from tinynet.typing import Array


class Node(NamedTuple):
    """What is left of a node when the protocol buffers are gone."""

    kind: str
    name: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]
    opset: int

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}" if self.name else f"{self.kind} (which makes {self.outputs[0]!r})"


Operator = Callable[[Node, list[Any], nn.Module], Any]
OPERATORS: dict[str, Operator] = {}
WEIGHT_TO_LAST = tuple(int(i) for i in np.argsort(WEIGHT_TO_FIRST))


class Image:
    """A Tensor (N, H, W, C) that stands for one of (N, C, H, W)."""

    def __init__(self, last: Tensor) -> None:
        self.last = last


def plain(value: Any) -> Any:
    """A value as ONNX has it."""
    return value.last.transpose(TO_FIRST) if isinstance(value, Image) else value


def last(value: Any) -> Any:
    """An image (N, C, H, W) as (N, H, W, C)."""
    if isinstance(value, Image):
        return value.last
    if value.ndim != 4:
        raise ValueError(f"images of shape {value.shape}; tinynet has two-dimensional ones, (N, C, H, W)")
    return value.transpose(TO_LAST)


def fault(node: Node) -> str:
    """Why a node can't be run, as far as one sees before it is."""
    if node.kind not in OPERATORS:
        return "tinynet has no such operator"
    wanted = REFUSED.get(node.kind, {})
    for name, allowed in wanted.items():
        if name in node.attributes and node.attributes[name] not in allowed:
            return f"{name} is {node.attributes[name]!r}; tinynet has {' or '.join(map(repr, allowed))}"
    if len(node.attributes.get("kernel_shape", (1, 1))) != 2:
        return f"kernel_shape is {list(node.attributes['kernel_shape'])}; tinynet has two-dimensional windows"
    return ""


REFUSED = {
    "MaxPool": {"ceil_mode": (0,), "dilations": ([1, 1],)},
    "AveragePool": {"ceil_mode": (0,), "dilations": ([1, 1],)},
    "Resize": {"mode": ("nearest", "linear"), "antialias": (0,), "exclude_outside": (0,),
               "keep_aspect_ratio_policy": ("stretch",),
               "coordinate_transformation_mode": ("half_pixel", "asymmetric", "align_corners", "pytorch_half_pixel")},
    "Pad": {"mode": ("constant", "edge", "reflect", "wrap")},
    "Gelu": {"approximate": ("none", "tanh")},
}


def operator(*kinds: str) -> Callable[[Operator], Operator]:
    def register(function):
        OPERATORS.update(dict.fromkeys(kinds, function))
        return function
    return register


def unary(function: Callable[[Tensor], Tensor]) -> Operator:
    """An elementwise operator, which leaves an Image an Image."""
    def run(node, inputs, module):
        (x,) = inputs
        return Image(function(x.last)) if isinstance(x, Image) else function(_float(x))
    return run


def _float(x):
    if not isinstance(x, Tensor):
        raise TypeError(f"a value is {x.dtype}; tinynet computes with float32 and float64")
    return x


def erf(x: Tensor) -> Tensor:
    """By the normal distribution: P(X <= x) = (1 + erf(x / sqrt 2)) / 2."""
    return NormalCdf()(x * math.sqrt(2)) * 2 - 1


OPERATORS |= {
    "Relu": unary(tn.relu), "Sigmoid": unary(tn.sigmoid), "Tanh": unary(tn.tanh), "Softplus": unary(tn.softplus),
    "Exp": unary(tn.exp), "Log": unary(tn.log), "Sqrt": unary(tn.sqrt), "Abs": unary(tn.abs), "Erf": unary(erf),
    "Neg": unary(lambda x: -x), "Reciprocal": unary(lambda x: 1 / x),
}


@operator("Identity")
def identity(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    return inputs[0]


@operator("LeakyRelu")
def leaky_relu(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    return unary(lambda x: tn.leaky_relu(x, node.attributes.get("alpha", 0.01)))(node, inputs, module)


@operator("Gelu")
def gelu(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    def by_tanh(x):
        return x * (tn.tanh((x + x * x * x * 0.044715) * math.sqrt(2 / math.pi)) + 1) * 0.5
    function = by_tanh if node.attributes.get("approximate") == "tanh" else tn.gelu
    return unary(function)(node, inputs, module)


@operator("Clip")
def clip(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """The bounds are attributes up to opset 10, inputs since; where they cross, the upper one holds."""
    x, low, high = (*inputs, None, None)[:3]
    low, high = (node.attributes.get(name) if bound is None else bound.item()
                 for name, bound in (("min", low), ("max", high)))
    return unary(lambda x: tn.clip(x, low, high))(node, [x], module)


@operator("Dropout")
def dropout(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Trained, the module drops as it does; the file's own training_mode is refused, for its draws are others."""
    x, ratio, training = (*inputs, None, None)[:3]
    p = node.attributes.get("ratio", 0.5) if ratio is None else float(ratio.data)
    if training is not None and bool(training) and p:
        raise ValueError("training_mode is set; tinynet drops in training alone, with its own random numbers")
    y = unary(lambda x: tn.dropout(x, p, module.training))(node, [x], module)
    return (y, np.ones(plain(x).shape, bool)) if len(node.outputs) > 1 else y


# Two operands and more


def binary(function: Callable[[Any, Any], Any]) -> Operator:
    """An elementwise operator of two operands, broadcast together."""
    def run(node, inputs, module):
        x, y = inputs
        if any(isinstance(each, Image) for each in inputs):
            sides = [_beside_image(each) for each in inputs]
            if all(side is not None for side in sides):
                return Image(function(*sides))
        return function(plain(x), plain(y))
    return run


def _beside_image(x):
    """An operand as it is broadcast against (N, H, W, C); None if it can't be."""
    if isinstance(x, Image):
        return x.last
    if x.ndim == 0:
        return x
    if x.ndim == 4:
        return x.transpose(TO_LAST)
    return x.reshape(x.shape[0]) if x.ndim == 3 and x.shape[1:] == (1, 1) else None


def power(x: Tensor, y: Tensor | Array) -> Tensor:
    """x^y: a number's power for any x, an array of powers for positive ones, as exp(y log x)."""
    _float(x)
    y = y.data if isinstance(y, Tensor) and not y.requires_grad else y
    if not isinstance(y, Tensor) and y.size == 1:
        return (x ** y.item()).reshape(np.broadcast_shapes(x.shape, y.shape))
    y = y if isinstance(y, Tensor) else x.like(y)
    if (x.array < 0).any() or ((x.array == 0) & (y.array == 0)).any():
        raise ValueError("negative numbers, or 0^0, with different exponents; tinynet has one exponent for all of them")
    return tn.exp(y * tn.log(x))


def divide(x: Any, y: Any) -> Any:
    """Whole numbers are rounded towards 0."""
    if isinstance(x, Tensor):
        return x / y
    return (x // y + ((x % y != 0) & ((x < 0) != (y < 0)))).astype(x.dtype)


def _reduce(function):
    def run(node, inputs, module):
        y = inputs[0]
        for x in inputs[1:]:
            y = binary(function)(node, [y, x], module)
        return y
    return run


OPERATORS |= {
    "Add": binary(lambda x, y: x + y), "Sub": binary(lambda x, y: x - y), "Mul": binary(lambda x, y: x * y),
    "Div": binary(divide), "Pow": binary(power),
    "Sum": _reduce(lambda x, y: x + y), "Max": _reduce(lambda x, y: tn.maximum(_float(x), _float(y))),
    "Min": _reduce(lambda x, y: tn.minimum(_float(x), _float(y))),
}


@operator("MatMul")
def matmul(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    a, b = (_float(plain(x)) for x in inputs)
    return tn.matmul(a, b)


@operator("Gemm")
def gemm(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """alpha a b + beta c, each transposed if asked for"""
    a, b, *c = (_float(plain(x)) for x in inputs if x is not None)
    attributes = node.attributes
    a, b = a.T if attributes.get("transA") else a, b.T if attributes.get("transB") else b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    y = a @ b if alpha == 1 else a @ b * alpha
    return y + (c[0] if beta == 1 else c[0] * beta) if c else y


@operator("Softmax", "LogSoftmax")
def softmax(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Along one axis; before opset 13 along it and all that follow."""
    x = _float(plain(inputs[0]))
    function = tn.softmax if node.kind == "Softmax" else tn.log_softmax
    axis = node.attributes.get("axis", -1 if node.opset >= 13 else 1) % x.ndim
    if node.opset >= 13:
        return function(x, axis)
    return function(x.reshape((*x.shape[:axis], -1)), axis).reshape(x.shape)


@operator("SoftmaxCrossEntropyLoss")
def cross_entropy(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Of scores (N, K, ...), classes (N, ...) and, perhaps, a weight for each class."""
    scores, target, *weight = inputs
    x = _float(plain(scores))
    x_last = x.transpose((0, *range(2, x.ndim), 1))
    loss = tn.cross_entropy(x_last, target, weight=weight[0].data if weight and weight[0] is not None else None,
                            ignore_index=node.attributes.get("ignore_index"),
                            reduction=node.attributes.get("reduction", "mean"))
    return (loss, tn.log_softmax(x, 1)) if len(node.outputs) > 1 else loss


# Reductions

REDUCTIONS = {
    "ReduceSum": lambda x, axes, keep: x.sum(axes, keep),
    "ReduceMean": lambda x, axes, keep: x.mean(axes, keep),
    "ReduceMax": lambda x, axes, keep: x.max(axes, keep),
    "ReduceMin": lambda x, axes, keep: x.min(axes, keep),
    "ReduceL1": lambda x, axes, keep: tn.abs(x).sum(axes, keep),
    "ReduceL2": lambda x, axes, keep: tn.sqrt((x * x).sum(axes, keep)),
    "ReduceSumSquare": lambda x, axes, keep: (x * x).sum(axes, keep),
    "ReduceLogSum": lambda x, axes, keep: tn.log(x.sum(axes, keep)),
    "ReduceLogSumExp": lambda x, axes, keep: tn.logsumexp(x, axes, keep),
}


@operator(*REDUCTIONS)
def reduction(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """The axes are an input in newer opsets; without any it is all of them, or, if the node says so, none."""
    x = _float(plain(inputs[0]))
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.attributes.get("axes", ())
    axes = tuple(int(axis) for axis in axes)
    if not axes and node.attributes.get("noop_with_empty_axes"):
        axes = ()
    else:
        axes = axes or None
    return REDUCTIONS[node.kind](x, axes, bool(node.attributes.get("keepdims", 1)))
