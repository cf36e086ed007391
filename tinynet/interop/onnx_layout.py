"""ONNX's operators that move elements: Reshape, Transpose, Concat, Pad, Slice, Gather and their like."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

import tinynet as tn
from tinynet import nn
from tinynet.interop.onnx_operators import Node, _float, operator, plain
from tinynet.tensor import Tensor


@operator("Constant")
def constant(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    (value,) = node.attributes.values()
    array = np.asarray(value)
    if array.dtype.kind == "f" and "value" not in node.attributes:
        array = array.astype(np.float32)
    return tn.Tensor(array) if array.dtype.kind == "f" else array


@operator("Shape")
def shape(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    lengths = np.array(plain(inputs[0]).shape, np.int64)
    return lengths[node.attributes.get("start", 0) : node.attributes.get("end")]


@operator("Flatten")
def flatten(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Two axes: all before `axis`, and all from it on."""
    x, axis = plain(inputs[0]), node.attributes.get("axis", 1)
    rows = math.prod(x.shape[: axis if axis >= 0 else axis + x.ndim])
    return x.reshape((rows, x.size // rows if rows else 0))


@operator("Reshape")
def reshape(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """A length of 0 is x's own, unless allowzero says that it is none."""
    x, lengths = plain(inputs[0]), node.attributes.get("shape")
    lengths = [int(n) for n in (inputs[1] if lengths is None else lengths)]
    if not node.attributes.get("allowzero"):
        lengths = [x.shape[i] if n == 0 else n for i, n in enumerate(lengths)]
    return x.reshape(tuple(lengths))


@operator("Transpose")
def transpose(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x = plain(inputs[0])
    return x.transpose(tuple(node.attributes.get("perm", reversed(range(x.ndim)))))


@operator("Squeeze", "Unsqueeze")
def squeeze(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Axes of length 1 taken out, or put in; which, is an input from opset 13 on."""
    x = plain(inputs[0])
    axes = inputs[1] if len(inputs) > 1 and inputs[1] is not None else node.attributes.get("axes")
    if node.kind == "Squeeze":
        axes = [i for i, n in enumerate(x.shape) if n == 1] if axes is None else [int(a) % x.ndim for a in axes]
        return x.reshape(tuple(n for i, n in enumerate(x.shape) if i not in axes))
    ndim = x.ndim + len(axes)
    axes, lengths = {int(a) % ndim for a in axes}, iter(x.shape)
    return x.reshape(tuple(1 if i in axes else next(lengths) for i in range(ndim)))


@operator("Expand")
def expand(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x, lengths = _float(plain(inputs[0])), tuple(int(n) for n in inputs[1])
    return x.broadcast_to(np.broadcast_shapes(x.shape, lengths))


@operator("Concat")
def concatenate(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    parts, axis = [plain(x) for x in inputs], node.attributes["axis"]
    return tn.concatenate(parts, axis) if isinstance(parts[0], Tensor) else np.concatenate(parts, axis)


@operator("Slice")
def cut(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x = plain(inputs[0])
    if len(inputs) == 1:                                                # attributes up to opset 9
        starts, ends, axes = (node.attributes.get(name) for name in ("starts", "ends", "axes"))
        steps = None
    else:
        starts, ends, axes, steps = (*inputs[1:], None, None)[:4]
    axes = range(len(starts)) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    index = [slice(None)] * x.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        n, step = x.shape[axis], int(step)
        start, end = (int(bound) + n if bound < 0 else int(bound) for bound in (start, end))
        start = min(max(start, 0), n if step > 0 else n - 1)
        end = min(max(end, 0 if step > 0 else -1), n)
        index[axis] = slice(start, None if end < 0 else end, step)
    return x[tuple(index)]


@operator("Gather")
def gather(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    x, places = plain(inputs[0]), np.asarray(inputs[1])
    axis = node.attributes.get("axis", 0) % x.ndim
    return x[(*[slice(None)] * axis, places)]


@operator("Pad")
def pad(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Constant, or places of x itself; negative widths cut off."""
    x = _float(plain(inputs[0]))
    mode = node.attributes.get("mode", "constant")
    widths, value, axes = (*(inputs[1:] or [node.attributes["pads"]]), None, None)[:3]
    value = node.attributes.get("value", 0.0) if value is None else value.item()
    axes = range(x.ndim) if axes is None else [int(axis) % x.ndim for axis in axes]
    all_widths = [(0, 0)] * x.ndim
    for axis, before, after in zip(axes, widths[: len(axes)], widths[len(axes) :], strict=True):
        all_widths[axis] = int(before), int(after)
    x = x[tuple(slice(max(0, -before), n - max(0, -after)) for n, (before, after)
                in zip(x.shape, all_widths, strict=True))]
    all_widths = [(max(0, before), max(0, after)) for before, after in all_widths]
    if mode == "constant":
        return tn.pad(x, all_widths, value)
    for axis, width in enumerate(all_widths):
        if width != (0, 0):
            x = x[(*[slice(None)] * axis, np.pad(np.arange(x.shape[axis]), width, mode=mode))]
    return x


@operator("Cast")
def cast(node: Node, inputs: list[Any], module: nn.Module) -> Any:
    """Between float32 and float64, and to whole numbers."""
    x, to = plain(inputs[0]), node.attributes["to"]
    names = {1: np.float32, 11: np.float64, 6: np.int32, 7: np.int64, 9: np.bool_}
    if to not in names:
        raise ValueError(f"a cast to ONNX's type {to}; tinynet has float32 and float64, and counts with int64")
    dtype = np.dtype(names[to])
    if isinstance(x, Tensor) and dtype.kind == "f":
        return x.astype(dtype)
    array = (x.data if isinstance(x, Tensor) else x).astype(dtype)
    return tn.Tensor(array) if dtype.kind == "f" else array
