"""Models as ONNX files: the model is traced, and each op that it called becomes a node, or a few.

Weights keep their names of the state; convolutions' values are named after their layer. The batch may have any size
in the file: the model is traced with two sizes, and whatever differs between the two traces depends on it. (The second
trace has other values too, so that a constant computed from the images is found out, not frozen.)
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from tinynet import nn, operators
from tinynet.autograd import Op
from tinynet.interop.onnx_graph import TO_FIRST, Graph
from tinynet.interop.trace import Call, Example, trace
from tinynet.ops import activation, arithmetic, convolution, normalization, pooling
from tinynet.ops.layout import Concatenate, Pad
from tinynet.ops.resize import Resize
from tinynet.shapes import conv_transpose_output_size
from tinynet.typing import Array, FilePath

END = np.iinfo(np.int64).max


def export(model: nn.Module, example: Example, path: FilePath, layout: Literal["NHWC", "NCHW"] = "NHWC") -> None:
    """Write `model` to `path` as ONNX (opset 17), with any batch size, in evaluation mode.

    example: an input as the model takes it, an array (N, ...) or a tuple of several; only N may differ later.
    layout: of the file's images, in and out: "NHWC" as in tinynet, or "NCHW" as in PyTorch.
    Inputs have the names of forward's arguments; the output is "output", several are "output_0", "output_1"...
    Raises ValueError for a model that computes constants from its input or uses an op that ONNX lacks, naming it;
    ImportError without the extra [onnx].
    """
    if layout not in ("NHWC", "NCHW"):
        raise ValueError(f'export: layout is {layout!r}, but must be "NHWC" or "NCHW"')
    examples = example if isinstance(example, (tuple, list)) else (example,)
    examples = [np.asarray(getattr(x, "data", x) if not isinstance(x, np.ndarray) else x) for x in examples]
    if any(not x.ndim or not len(x) for x in examples):
        raise ValueError("export: each input of the example needs a batch axis with at least one element")
    larger = [np.concatenate([x, x[:1]])[::-1] * x.dtype.type(0.5) for x in examples]
    _Exporter(model, trace(model, tuple(examples)), trace(model, tuple(larger))).export(path, layout == "NCHW")


class _Exporter:
    def __init__(self, model, found, other):
        self.model = model
        self.graph = Graph({id(p.array): name for name, p in model.named_parameters()})
        self.found, self.other = found, other
        self.varies = {}  # id of an array -> for each axis, does its length depend on the batch?

    def export(self, path: FilePath, images_first: bool) -> None:
        self._compare()
        inputs = [self._input(name, x, images_first) for name, x in zip(self._input_names(), self.found.inputs,
                                                                        strict=True)]
        results = self.found.outputs
        names = ["output"] if len(results) == 1 else [f"output_{index}" for index in range(len(results))]
        self.graph.taken.update(names)
        for call in self.found.calls:
            self._add(call)
        outputs = []
        for name, array in zip(names, results, strict=True):
            first = images_first and array.ndim == 4
            made = self.graph.channels_first(array) if first else self.graph.channels_last(array)
            self.graph.rename(made, name)
            outputs.append(self._described(name, array, first))
        self.graph.save(inputs, outputs, type(self.model).__name__, path)

    def _input_names(self):
        names = [name for name in inspect.signature(self.model.forward).parameters]
        return [names[i] if i < len(names) and len(names) >= len(self.found.inputs) else f"input_{i}"
                for i in range(len(self.found.inputs))]

    def _input(self, name, array, images_first):
        first = images_first and array.ndim == 4
        (self.graph.first if first else self.graph.last)[id(array)] = self.graph.unique(name)
        return self._described(name, array, first)

    def _described(self, name, array, first):
        """The name, element type and shape of an input or output; lengths that depend on the batch are "N"."""
        varies = self.varies.get(id(array), (False,) * array.ndim)
        batches = len(self.found.inputs[0])
        shape = [("N" if n == batches else None) if free else n for n, free in zip(array.shape, varies, strict=True)]
        helper = self.graph.onnx.helper
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, [shape[i] for i in TO_FIRST] if first else shape)

    def _compare(self):
        """Note what depends on the batch's size; raise for what depends on its values."""
        names = [[type(call.op).__name__ for call in each.calls] for each in (self.found, self.other)]
        if names[0] != names[1]:
            raise ValueError(f"export: {type(self.model).__name__} calls other ops for another batch; ONNX needs the "
                             "same ones each time")
        self._compare_arrays(self.found.inputs, self.other.inputs)
        known = {id(x) for x in self.found.inputs} | self.graph.names.keys()
        for call, other in zip(self.found.calls, self.other.calls, strict=True):
            for a, b in zip(call.inputs, other.inputs, strict=True):
                if id(a) not in known and not np.array_equal(a, b, equal_nan=True):
                    raise ValueError(f"export: a constant that goes into {type(call.op).__name__}, of shape {a.shape}, "
                                     "is another one for another batch; compute it from the input with tinynet's "
                                     "functions, or not at all")
            self._compare_arrays([call.output], [other.output])
            known.add(id(call.output))

    def _compare_arrays(self, arrays, others):
        for a, b in zip(arrays, others, strict=True):
            if a.ndim != b.ndim:
                raise ValueError(f"export: a result has the shape {a.shape}, and {b.shape} for another batch; "
                                 "ONNX needs the same number of axes")
            self.varies[id(a)] = tuple(n != m for n, m in zip(a.shape, b.shape, strict=True))

    def _add(self, call):
        """The nodes of one op."""
        for kind in type(call.op).__mro__:
            if kind in CONVERTERS:
                return CONVERTERS[kind](self, call)
        name = type(call.op).__name__
        raise ValueError(f"export: {type(self.model).__name__} uses the op {name}, which this exporter doesn't know")

    def operands(self, call: Call) -> tuple[list[str], bool]:
        """(names of the inputs, whether they are images with their channels first)."""
        graph = self.graph
        if call.output.ndim == 4 and any(graph.is_first(x) for x in call.inputs):
            if all(self._fits_first(x) for x in call.inputs):
                return [self._first(x) for x in call.inputs], True
        return [graph.channels_last(x) for x in call.inputs], False

    def _fits_first(self, x):
        return x.ndim == 4 or not x.ndim or (x.ndim == 1 and not self.graph.is_known(x))

    def _first(self, x):
        """The name of an operand, broadcast against (N, C, H, W)."""
        if x.ndim == 1:
            return self.graph.constant(x[:, None, None], self.graph.names.get(id(x)))
        return self.graph.channels_first(x) if x.ndim == 4 else self.graph.channels_last(x)

    def result(self, call: Call, name: str, first: bool = False) -> None:
        (self.graph.first if first else self.graph.last)[id(call.output)] = name

    def layer(self, weight: Array) -> str | None:
        """The name of the layer that a weight belongs to, for its output."""
        return self.graph.names.get(id(weight), "").removesuffix("weight").rstrip(".") or None


# A converter for each op. Elementwise ones take images with the channels first as they are; so do those whose axes can
# be told in that order.

Converter = Callable[["_Exporter", Call], None]
CONVERTERS: dict[type[Op], Converter] = {}


def converts(*kinds: type[Op]) -> Callable[[Converter], Converter]:
    def register(function):
        CONVERTERS.update(dict.fromkeys(kinds, function))
        return function
    return register


def elementwise(kind: str, **attributes: Any) -> Converter:
    """The converter to a node of that kind, which has the same operands."""
    def convert(exporter, call):
        names, first = exporter.operands(call)
        exporter.result(call, exporter.graph.node(kind, names, **attributes), first)
    return convert


CONVERTERS |= {
    operators.Add: elementwise("Add"), operators.Sub: elementwise("Sub"), operators.Mul: elementwise("Mul"),
    operators.Div: elementwise("Div"), operators.Neg: elementwise("Neg"),
    operators.Larger: elementwise("Max"), operators.Smaller: elementwise("Min"),
    arithmetic.Exp: elementwise("Exp"), arithmetic.Log: elementwise("Log"), arithmetic.Sqrt: elementwise("Sqrt"),
    arithmetic.Abs: elementwise("Abs"), activation.Relu: elementwise("Relu"),
    activation.Sigmoid: elementwise("Sigmoid"), activation.Tanh: elementwise("Tanh"),
    activation.Softplus: elementwise("Softplus"),
}


def axes_of(axes: Sequence[int], first: bool) -> list[int]:
    """Axes of (N, H, W, C), told of (N, C, H, W) where it is that."""
    return [TO_FIRST.index(axis) for axis in axes] if first else list(axes)


@converts(operators.Pow)
def power(exporter: _Exporter, call: Call) -> None:
    names, first = exporter.operands(call)
    exponent = exporter.graph.constant(np.array(call.op.p, call.output.dtype))
    exporter.result(call, exporter.graph.node("Pow", [*names, exponent]), first)


@converts(activation.LeakyRelu)
def leaky_relu(exporter: _Exporter, call: Call) -> None:
    elementwise("LeakyRelu", alpha=call.op.slope)(exporter, call)


@converts(activation.NormalCdf)
def normal_cdf(exporter: _Exporter, call: Call) -> None:
    """(1 + erf(x / sqrt 2)) / 2"""
    (x,), first = exporter.operands(call)
    graph, number = exporter.graph, call.output.dtype.type
    y = graph.node("Erf", [graph.node("Div", [x, graph.constant(number(math.sqrt(2)))])])
    y = graph.node("Mul", [graph.node("Add", [y, graph.constant(number(1))]), graph.constant(number(0.5))])
    exporter.result(call, y, first)


@converts(activation.Softmax, activation.LogSoftmax)
def softmax(exporter: _Exporter, call: Call) -> None:
    (x,), first = exporter.operands(call)
    (axis,) = axes_of([call.op.axis % call.output.ndim], first)
    exporter.result(call, exporter.graph.node(type(call.op).__name__, [x], axis=axis), first)


@converts(operators.Cast)
def cast(exporter: _Exporter, call: Call) -> None:
    to = exporter.graph.onnx.helper.np_dtype_to_tensor_dtype(call.output.dtype)
    elementwise("Cast", to=to)(exporter, call)


@converts(operators.MatMul)
def matmul(exporter: _Exporter, call: Call) -> None:
    graph = exporter.graph
    names = [graph.channels_last(x) for x in call.inputs]
    exporter.result(call, graph.node("MatMul", names, exporter.layer(call.inputs[1])))


@converts(operators.Sum)
def total(exporter: _Exporter, call: Call) -> None:
    (x,), first = exporter.operands(call)
    axes = exporter.graph.integers(axes_of(call.op.axes, first))
    exporter.result(call, exporter.graph.node("ReduceSum", [x, axes], keepdims=1), first)


@converts(operators.Reshape)
def reshape(exporter: _Exporter, call: Call) -> None:
    """The one length that depends on the batch is left to be found."""
    graph, varies = exporter.graph, exporter.varies[id(call.output)]
    if sum(varies) > 1:
        raise ValueError(f"export: a reshape to {call.output.shape} has several lengths that depend on the batch")
    shape = [-1 if free else n for n, free in zip(call.output.shape, varies, strict=True)]
    names = [graph.channels_last(call.inputs[0]), graph.integers(shape)]
    exporter.result(call, graph.node("Reshape", names))


@converts(operators.BroadcastTo)
def broadcast_to(exporter: _Exporter, call: Call) -> None:
    graph, y = exporter.graph, call.output
    x = call.inputs[0]
    lengths = (1,) * (y.ndim - x.ndim) + x.shape
    varies = exporter.varies[id(y)]
    if any(free and n != own for n, own, free in zip(y.shape, lengths, varies, strict=True)):
        raise ValueError(f"export: {x.shape} is broadcast to {y.shape}, which depends on the batch; let the operation "
                         "that needs it do the broadcasting")
    shape = graph.integers([1 if free else n for n, free in zip(y.shape, varies, strict=True)])
    exporter.result(call, graph.node("Expand", [graph.channels_last(x), shape]))


@converts(operators.Transpose)
def transpose(exporter: _Exporter, call: Call) -> None:
    graph, (x,) = exporter.graph, call.inputs
    exporter.result(call, graph.node("Transpose", [graph.channels_last(x)], perm=call.op.axes))


@converts(operators.Index)
def index(exporter: _Exporter, call: Call) -> None:
    """Slices and integers: a slice node; an integer's axis of length 1 is then squeezed out."""
    parts = call.op.index if isinstance(call.op.index, tuple) else (call.op.index,)
    ndim = call.inputs[0].ndim
    if Ellipsis in [p for p in parts if p is Ellipsis]:
        at = next(i for i, p in enumerate(parts) if p is Ellipsis)
        parts = (*parts[:at], *[slice(None)] * (ndim - len(parts) + 1), *parts[at + 1 :])
    if not all(isinstance(p, (slice, int, np.integer)) and not isinstance(p, bool) for p in parts):
        raise ValueError(f"export: the index {call.op.index!r} has other things than slices and integers")
    (x,), first = exporter.operands(call)
    graph, squeezed = exporter.graph, [i for i, p in enumerate(parts) if not isinstance(p, slice)]
    cuts = [(axis, *_cut(part)) for axis, part in enumerate(parts) if part != slice(None)]
    if cuts:
        axes, starts, ends, steps = zip(*cuts, strict=True)
        bounds = (starts, ends, axes_of(axes, first), steps)
        x = graph.node("Slice", [x, *(graph.integers(values) for values in bounds)])
    if squeezed:
        x = graph.node("Squeeze", [x, graph.integers(axes_of(squeezed, first))])
    exporter.result(call, x, first)


def _cut(part):
    """(start, end, step) as ONNX counts."""
    if not isinstance(part, slice):
        return int(part), int(part) + 1 if part != -1 else END, 1
    step = 1 if part.step is None else part.step
    start = part.start if part.start is not None else 0 if step > 0 else END
    end = part.stop if part.stop is not None else END if step > 0 else -END
    return start, end, step


@converts(Pad)
def pad(exporter: _Exporter, call: Call) -> None:
    (x,), first = exporter.operands(call)
    width = [call.op.width[axis] for axis in TO_FIRST] if first else call.op.width
    graph = exporter.graph
    names = [x, graph.integers([before for before, _ in width] + [after for _, after in width]),
             graph.constant(call.output.dtype.type(call.op.value))]
    exporter.result(call, graph.node("Pad", names), first)


@converts(Concatenate)
def concatenate(exporter: _Exporter, call: Call) -> None:
    names, first = exporter.operands(call)
    (axis,) = axes_of([call.op.axis], first)
    exporter.result(call, exporter.graph.node("Concat", names, axis=axis), first)


# Images


@converts(convolution.Gather)
def conv2d(exporter: _Exporter, call: Call) -> None:
    graph, op = exporter.graph, call.op
    x, w, *b = call.inputs
    names = [graph.channels_first(x), graph.weight(w), *(graph.channels_last(each) for each in b)]
    name = exporter.layer(w)
    y = graph.node("Conv", names, name, kernel_shape=w.shape[:2], **_geometry(op.geometry))
    _then(exporter, call, y, name, op.then.relu, op.then.pool)


@converts(convolution.Scatter)
def conv_transpose2d(exporter: _Exporter, call: Call) -> None:
    graph, op = exporter.graph, call.op
    x, w, *b = call.inputs
    names = [graph.channels_first(x), graph.weight(w), *(graph.channels_last(each) for each in b)]
    geometry, kernel, name = op.geometry, w.shape[:2], exporter.layer(w)
    extra = [out - conv_transpose_output_size(size, k, stride, sum(padding), dilation)
             for size, k, stride, padding, dilation, out in zip(x.shape[1:3], kernel, geometry.stride, geometry.padding,
                                                                geometry.dilation, op.out_hw, strict=True)]
    y = graph.node("ConvTranspose", names, name, kernel_shape=kernel, output_padding=extra, **_geometry(geometry))
    _then(exporter, call, y, name, op.relu)


def _geometry(geometry):
    (top, bottom), (left, right) = geometry.padding
    return {"strides": geometry.stride, "pads": (top, left, bottom, right), "dilations": geometry.dilation,
            "group": geometry.groups}


def _then(exporter, call, y, name, relu, pool=False):
    """What a convolution does with its result is a node of its own."""
    if relu:
        y = exporter.graph.node("Relu", [y], name and f"{name}.relu")
    if pool:
        y = exporter.graph.node("MaxPool", [y], name and f"{name}.pool", kernel_shape=(2, 2), strides=(2, 2))
    exporter.result(call, y, first=True)


@converts(pooling.MaxPool)
def max_pool2d(exporter: _Exporter, call: Call) -> None:
    _pool(exporter, call, "MaxPool")


@converts(pooling.AvgPool)
def avg_pool2d(exporter: _Exporter, call: Call) -> None:
    _pool(exporter, call, "AveragePool", count_include_pad=1)


def _pool(exporter, call, kind, **attributes):
    """The padding behind the image is as much as the last window reaches over it."""
    kernel, stride, start, size = call.op.window
    (x,) = call.inputs
    end = [max(0, (out - 1) * s + k - length - before)
           for out, s, k, length, before in zip(size, stride, kernel, x.shape[1:3], start, strict=True)]
    graph = exporter.graph
    y = graph.node(kind, [graph.channels_first(x)], kernel_shape=kernel, strides=stride, pads=(*start, *end),
                   **attributes)
    exporter.result(call, y, first=True)


@converts(Resize)
def resize2d(exporter: _Exporter, call: Call) -> None:
    """Enlarged by whole numbers, nearest is ONNX's too; elsewhere its rounding differs, but rows can be taken."""
    graph, op, (x,) = exporter.graph, call.op, call.inputs
    y = graph.channels_first(x)
    sizes = op.rows.outputs, op.columns.outputs
    if op.mode == "nearest" and any(out % size for out, size in zip(sizes, x.shape[1:3], strict=True)):
        for axis, taps in ((2, op.rows), (3, op.columns)):
            y = graph.node("Gather", [y, graph.integers(taps.index)], axis=axis)
    else:
        modes = {"nearest": ("nearest", "asymmetric"), "bilinear": ("linear", "half_pixel")}
        mode, transformation = modes[op.mode]
        scales = [1, 1, *(_scale(size, out) for size, out in zip(x.shape[1:3], sizes, strict=True))]
        y = graph.node("Resize", [y, "", graph.constant(np.float32(scales))], mode=mode,
                       coordinate_transformation_mode=transformation, nearest_mode="floor")
    exporter.result(call, y, first=True)


def _scale(size, out):
    """The number with which ONNX makes `size` into `out`, which it rounds down. (Sizes would fix the batch.)"""
    scale = np.float32(out / size)
    return scale if int(scale * np.float32(size)) == out else np.nextafter(scale, np.float32(np.inf))


@converts(normalization.Standardize)
def batch_norm(exporter: _Exporter, call: Call) -> None:
    graph, (x, *parameters) = exporter.graph, call.inputs
    channels, dtype = x.shape[-1], x.dtype
    first = x.ndim == 4
    if not first and x.ndim != 2:
        raise ValueError(f"export: a batch normalisation of shape {x.shape}; ONNX's takes (N, C) or images")
    scale, shift = (*parameters, *(np.full(channels, each, dtype) for each in (1, 0)[len(parameters) :]))
    name, mean, var, eps = _statistics(exporter.model, call.op, dtype)
    prefix = f"{name}.".lstrip(".")
    names = [graph.channels_first(x) if first else graph.channels_last(x),
             graph.channels_last(scale), graph.channels_last(shift),
             graph.constant(mean, f"{prefix}running_mean"), graph.constant(var, f"{prefix}running_var")]
    y = graph.node("BatchNormalization", names, name or None, epsilon=eps)
    exporter.result(call, graph.node("Relu", [y], name and f"{name}.relu") if call.op.relu else y, first)


def _statistics(model, op, dtype):
    """(layer, mean, variance, epsilon): the layer's own if there is one with these, so that they have their names."""
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and len(module.running_mean) == len(op.mean):
            rstd = 1 / np.sqrt(module.running_var.astype(np.float64) + module.eps)
            if np.array_equal(module.running_mean, op.mean) and np.array_equal(rstd, op.rstd):
                return name, module.running_mean, module.running_var, module.eps
    return "", op.mean.astype(dtype), (op.rstd**-2.0).astype(dtype), 0.0


@converts(normalization.Normalize)
def group_norm(exporter: _Exporter, call: Call) -> None:
    """Over whole samples it is a layer normalisation, if there is a scale for each of their values, or none at all."""
    graph, op = exporter.graph, call.op
    x, *parameters = call.inputs
    together = x.size // op.moments.mean.size  # so many values share a mean
    if op.groups == 1 and (not parameters or parameters[0].size == together):
        lengths = next(x.shape[-k:] for k in range(1, x.ndim + 1) if math.prod(x.shape[-k:]) == together)
        scale, *shift = parameters or [np.ones(lengths, x.dtype)]
        names = [graph.channels_last(each) for each in (x, scale, *shift)]
        y = graph.node("LayerNormalization", names, exporter.layer(scale), axis=-len(lengths), epsilon=op.eps)
        first = False
    else:
        first, flat = x.ndim == 4, x.ndim == 2
        to_first, to_last = (0, x.ndim - 1, *range(1, x.ndim - 1)), (0, *range(2, x.ndim), 1)
        y = graph.channels_first(x) if first else graph.channels_last(x)
        y = y if first or flat else graph.node("Transpose", [y], perm=to_first)
        y = _in_groups(graph, y, op, x)
        for kind, parameter in zip(("Mul", "Add"), parameters, strict=False):
            along = parameter.reshape(-1, *[1] * (x.ndim - 2))
            y = graph.node(kind, [y, graph.constant(along, graph.names.get(id(parameter)))])
        y = y if first or flat else graph.node("Transpose", [y], perm=to_last)
    exporter.result(call, graph.node("Relu", [y]) if op.relu else y, first)


def _in_groups(graph, y, op, x):
    """(N, C, ...) normalised in groups: as (N, groups, the rest) they are what ONNX calls instances."""
    shape = (0, x.shape[-1], *((-1,) if x.ndim == 3 else x.shape[1:-1]))
    y = graph.node("Reshape", [y, graph.integers((0, op.groups, -1))])
    ones = [graph.constant(np.full(op.groups, value, x.dtype)) for value in (1, 0)]
    y = graph.node("InstanceNormalization", [y, *ones], epsilon=op.eps)
    return graph.node("Reshape", [y, graph.integers(shape)])
