"""ONNX's operators on images, (N, C, H, W) to (N, C, H, W): convolutions, pooling, normalisations, Resize."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tinynet as tn
from tinynet import nn
from tinynet.interop.onnx_operators import WEIGHT_TO_LAST, Image, Node, _float, last, operator, plain
from tinynet.kernels.resize import taps
from tinynet.ops.resize import Resize


def _pair(node, name):
    value = node.attributes.get(name, (1, 1))
    if len(value) != 2:
        raise ValueError(f"{name} is {list(value)}; tinynet has two-dimensional windows")
    return tuple(value)


def _padding(node, size, kernel, stride, dilation):
    """((top, bottom), (left, right)); SAME keeps ceil(size / stride) pixels, the odd one above or below."""
    auto, found = node.attributes.get("auto_pad", "NOTSET"), []
    if auto == "VALID":
        return (0, 0), (0, 0)
    if auto == "NOTSET":
        pads = node.attributes.get("pads", (0, 0, 0, 0))
        return (pads[0], pads[2]), (pads[1], pads[3])
    for n, k, s, d in zip(size, kernel, stride, dilation, strict=True):
        total = max(0, (-(-n // s) - 1) * s + d * (k - 1) + 1 - n)
        small, large = total // 2, total - total // 2
        found.append((small, large) if auto == "SAME_UPPER" else (large, small))
    return tuple(found)


def _weight(node, w, module):
    """A convolution's weight as tinynet has it; the module's own have been turned when it was loaded."""
    if node.inputs[1] in module.turned:
        return w
    if w.ndim != 4:
        raise ValueError(f"a weight of shape {w.shape}; tinynet has two-dimensional convolutions")
    return w.transpose(WEIGHT_TO_LAST)


@operator("Conv")
def conv2d(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x, w, *b = inputs
    x, w = last(x), _weight(node, w, module)
    stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
    padding = _padding(node, x.shape[1:3], w.shape[:2], stride, dilation)
    return Image(tn.conv2d(x, w, *b, stride=stride, padding=padding, dilation=dilation,
                           groups=node.attributes.get("group", 1)))


@operator("ConvTranspose")
def conv_transpose2d(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Where output_shape is given, or SAME, the padding follows from it. What is too much is cut off afterwards."""
    x, w, *b = inputs
    x, w = last(x), _weight(node, w, module)
    stride, dilation = _pair(node, "strides"), _pair(node, "dilations")
    extra = tuple(node.attributes.get("output_padding", (0, 0)))
    whole = [(n - 1) * s + d * (k - 1) + 1 for n, k, s, d in zip(x.shape[1:3], w.shape[:2], stride, dilation,
                                                                 strict=True)]
    auto, wanted = node.attributes.get("auto_pad", "NOTSET"), node.attributes.get("output_shape")
    if auto.startswith("SAME") and wanted is None:
        wanted = [n * s for n, s in zip(x.shape[1:3], stride, strict=True)]
    if wanted is None:
        padding = _padding(node, x.shape[1:3], w.shape[:2], stride, dilation)
        wanted = [n - sum(pads) + e for n, pads, e in zip(whole, padding, extra, strict=True)]
    else:
        wanted, padding = wanted[-2:], []
        for n, out, e in zip(whole, wanted, extra, strict=True):
            total = max(0, n + e - out)
            before = total // 2 if auto != "SAME_LOWER" else total - total // 2
            padding.append((before, total - before))
    y = tn.conv_transpose2d(x, w, stride=stride, dilation=dilation, groups=node.attributes.get("group", 1))
    widths = [(0, max(0, out + before - n)) for n, out, (before, _) in zip(whole, wanted, padding, strict=True)]
    y = tn.pad(y, ((0, 0), *widths, (0, 0))) if any(map(any, widths)) else y
    y = y[(slice(None), *(slice(before, before + out) for (before, _), out in zip(padding, wanted, strict=True)))]
    return Image(y + b[0] if b and b[0] is not None else y)


@operator("MaxPool")
def max_pool2d(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x, kernel, stride = last(inputs[0]), _pair(node, "kernel_shape"), _pair(node, "strides")
    x, padding = _padded(_float(x), kernel, _padding(node, x.shape[1:3], kernel, stride, (1, 1)), -math.inf)
    return Image(tn.max_pool2d(x, kernel, stride, padding))


def _padded(x, kernel, padding, value):
    """x and its padding; what is wider than half the kernel is added to x."""
    if all(max(pads) <= k // 2 for pads, k in zip(padding, kernel, strict=True)):
        return x, padding
    return tn.pad(x, ((0, 0), *padding, (0, 0)), value), 0


@operator("AveragePool")
def avg_pool2d(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Unless the padding counts, divide by how much of each window lies in the image."""
    x, kernel, stride = last(inputs[0]), _pair(node, "kernel_shape"), _pair(node, "strides")
    padding = _padding(node, x.shape[1:3], kernel, stride, (1, 1))
    y = tn.avg_pool2d(*_pool_arguments(x, kernel, stride, padding))
    if not node.attributes.get("count_include_pad") and any(map(any, padding)):
        inside = x.like(np.ones((1, *x.shape[1:3], 1)))
        y = y / tn.avg_pool2d(*_pool_arguments(inside, kernel, stride, padding))
    return Image(y)


def _pool_arguments(x, kernel, stride, padding):
    x, padding = _padded(x, kernel, padding, 0.0)
    return x, kernel, stride, padding


@operator("GlobalAveragePool", "GlobalMaxPool")
def global_pool(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x = plain(inputs[0])
    axes = tuple(range(2, x.ndim))
    return x.mean(axes, keepdims=True) if node.kind == "GlobalAveragePool" else x.max(axes, keepdims=True)


# Normalisations


def _channels_last(x):
    return x.last if isinstance(x, Image) else x.transpose((0, *range(2, x.ndim), 1))


def _as_before(y):
    return Image(y) if y.ndim == 4 else y.transpose((0, y.ndim - 1, *range(1, y.ndim - 1)))


@operator("BatchNormalization")
def batch_norm(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """In the module's training with the batch's statistics, whose running ones are moved if the module owns them."""
    x, weight, bias, mean, var = inputs
    eps, momentum = node.attributes.get("epsilon", 1e-5), node.attributes.get("momentum", 0.9)
    y = _channels_last(x)
    if node.attributes.get("training_mode"):
        return _trained(y, weight, bias, mean, var, momentum, eps)[: len(node.outputs)]
    owned = isinstance(mean, np.ndarray) and isinstance(var, np.ndarray)
    mean, var = (each if isinstance(each, np.ndarray) else each.data for each in (mean, var))
    return _as_before(tn.batch_norm(y, weight, bias, mean, var, module.training and owned, 1 - momentum, eps))


def _trained(x, weight, bias, mean, var, momentum, eps):
    """The batch's statistics, and the running ones as ONNX moves them: with the biased variance."""
    axes = tuple(range(x.ndim - 1))
    y = tn.batch_norm(x, weight, bias, training=True, eps=eps)
    running = [x.like(old) * momentum + x.like(new) * (1 - momentum)
               for old, new in ((mean, x.mean(axes)), (var, x.var(axes)))]
    return _as_before(y), *running


@operator("InstanceNormalization")
def instance_norm(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x, weight, bias = inputs
    x = _channels_last(x)
    return _as_before(tn.group_norm(x, x.shape[-1], weight, bias, node.attributes.get("epsilon", 1e-5)))


@operator("GroupNormalization")
def group_norm(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """A scale for each channel; up to opset 20 for each group."""
    x, weight, bias = inputs
    x, groups = _channels_last(x), node.attributes["num_groups"]
    if node.opset < 21:
        each = x.shape[-1] // groups
        weight, bias = (t.reshape((groups, 1)).broadcast_to((groups, each)).reshape(-1) for t in (weight, bias))
    return _as_before(tn.group_norm(x, groups, weight, bias, node.attributes.get("epsilon", 1e-5)))


@operator("LayerNormalization")
def layer_norm(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Over the last axes from `axis` on; the mean and the reciprocal deviation too, where they are asked for."""
    x, weight, bias = (*(plain(each) for each in inputs), None)[:3]
    axis, eps = node.attributes.get("axis", -1) % x.ndim, node.attributes.get("epsilon", 1e-5)
    weight, bias = (t if t is None else t.broadcast_to(x.shape[axis:]) for t in (weight, bias))
    y = tn.layer_norm(x, x.shape[axis:], weight, bias, eps)
    if len(node.outputs) == 1:
        return y
    axes = tuple(range(axis, x.ndim))
    return y, x.mean(axes, keepdims=True), (x.var(axes, keepdims=True) + eps) ** -0.5


# Resize: where an output pixel lies in the input is a formula of the node's choice; then a table of taps does the rest.


@operator("Resize")
def resize(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x = last(inputs[0])
    _, scales, sizes = (*inputs[1:], None, None, None)[:3] if node.opset >= 11 else (None, inputs[1], None)
    axes = [int(axis) % 4 for axis in node.attributes.get("axes", range(4))]
    given = scales.data if scales is not None and scales.size else [int(n) for n in sizes]
    values = dict(zip(axes, given, strict=True))
    if scales is not None and scales.size:
        values = {axis: (math.floor(x.shape[(0, 3, 1, 2)[axis]] * float(s)), float(s)) for axis, s in values.items()}
    else:
        values = {axis: (n, n / x.shape[(0, 3, 1, 2)[axis]]) for axis, n in values.items()}
    if any(values[axis][0] != x.shape[(0, 3)[axis]] for axis in (0, 1) if axis in values):
        raise ValueError("a Resize of the batch or the channels; tinynet resizes height and width")
    tables = [_taps(node, n, *values.get(axis, (n, 1.0))) for axis, n in ((2, x.shape[1]), (3, x.shape[2]))]
    return Image(Resize(*tables, node.attributes.get("mode", "nearest"))(x))


def _taps(node, inputs, outputs, scale):
    """The table of one axis."""
    i = np.arange(outputs)
    default = "half_pixel" if node.opset >= 11 else "asymmetric"
    transformation = node.attributes.get("coordinate_transformation_mode", default)
    if transformation == "asymmetric":
        place = i / scale
    elif transformation == "align_corners":
        length = inputs * scale  # not always a whole number
        place = i * ((inputs - 1) / (length - 1)) if outputs > 1 else np.zeros(outputs)
    else:
        place = (i + 0.5) / scale - 0.5
        if transformation == "pytorch_half_pixel" and outputs == 1:
            place = np.zeros(1)
    if node.attributes.get("mode", "nearest") == "nearest":
        rounding = node.attributes.get("nearest_mode", "round_prefer_floor" if node.opset >= 11 else "floor")
        index = {"round_prefer_floor": np.ceil(place - 0.5), "round_prefer_ceil": np.floor(place + 0.5),
                 "floor": np.floor(place), "ceil": np.ceil(place)}[rounding]
        return taps(i, np.clip(index, 0, inputs - 1), np.ones(outputs), outputs, inputs)
    place = np.clip(place, 0, inputs - 1)
    low = np.floor(place).astype(int)
    index = np.stack([low, np.minimum(low + 1, inputs - 1)], 1)
    weight = np.stack([1 - (place - low), place - low], 1)
    read = weight > 0
    return taps(np.stack([i, i], 1)[read], index[read], weight[read], outputs, inputs)
