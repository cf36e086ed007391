"""PyTorch's weights: states of the same layers under the same names, their arrays turned into the other layout.

                       tinynet                  PyTorch
    convolution        (KH, KW, C/groups, O)    (O, C/groups, KH, KW)
    its transpose      (KH, KW, O/groups, C)    (C, O/groups, KH, KW)
    dense              (in, out)                (out, in)
    LayerNorm          (H, W, C)                (C, H, W)
    anything else      as it is

One thing isn't seen in any layer: where images are flattened, features come in the order H, W, C in tinynet and C, H,
W in PyTorch. The rows of the next dense weight, and all that stands between, have to change places too; so do the
columns of a dense weight whose result becomes an image. Which these are is found by running the model on an example.

PyTorch itself isn't needed here: both sides meet in safetensors files (in PyTorch: safetensors.torch.save_file).
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tinynet import nn, operators, safetensors
from tinynet.interop.trace import Example, trace
from tinynet.ops.layout import Concatenate, Pad
from tinynet.ops.normalization import Normalize, Standardize
from tinynet.typing import Array, FilePath, Shape

COUNTER = "num_batches_tracked"  # of PyTorch's batch normalisation; tinynet has none


def load(model: nn.Module, path: FilePath, example: Example | None = None) -> None:
    """Fill `model` from a safetensors file with the state of a PyTorch model of the same layers.

    example: an input of the model, of any batch size, needed if it has dense layers (for the order of what is
    flattened). Raises ValueError that lists all names missing, unexpected, of another shape or dtype; nothing is
    changed then.

    >>> import tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "model.safetensors")
    >>> linear = {"weight": np.array([[1, 2, 3], [4, 5, 6]], np.float32), "bias": np.zeros(2, np.float32)}
    >>> safetensors.save(linear, path)              # in PyTorch: save_file(nn.Linear(3, 2).state_dict(), path)
    >>> dense = nn.Dense(3, 2)
    >>> load(dense, path, example=np.zeros((1, 3), np.float32))
    >>> dense.weight.shape, dense(np.ones((1, 3), np.float32)).numpy()
    ((3, 2), array([[ 6., 15.]], dtype=float32))
    """
    try:
        load_state(model, safetensors.load(path), example)
    except safetensors.FormatError:
        raise
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)}: {error}") from None


def save(model: nn.Module, path: FilePath, example: Example | None = None) -> None:
    """Write the model's state for PyTorch: model.load_state_dict(safetensors.torch.load_file(path)) takes it."""
    safetensors.save(state(model, example), path)


def state(model: nn.Module, example: Example | None = None) -> dict[str, Array]:
    """The model's state in PyTorch's layout: {name: ndarray}; batch normalisations get their counter, 0.

    >>> [(name, array.shape) for name, array in state(nn.Conv2d(3, 8, 5)).items()]
    [('weight', (8, 3, 5, 5)), ('bias', (8,))]
    """
    turns = _turns(model, example)
    arrays = {name: turns[name].to_torch(array) for name, array in model.state_dict().items()}
    counters = [name for name in _counters(model) if name not in arrays]
    return arrays | {name: np.array(0, np.int64) for name in counters}


def load_state(model: nn.Module, state: Mapping[str, Array], example: Example | None = None) -> None:
    """Fill `model` from {name: ndarray} in PyTorch's layout; example and errors as for `load`."""
    turns = _turns(model, example)
    own = model.state_dict()
    counters = _counters(model)
    faults = [f"{name}: missing in the state" for name in own if name not in state]
    faults += [f"{name}: in the state, but not in the model" for name in state
               if name not in own and name not in counters]
    for name, array in own.items():
        if name not in state:
            continue
        given, wanted = np.asarray(state[name]), turns[name].to_torch(array)
        if given.shape != wanted.shape:
            faults.append(f"{name}: the state has shape {given.shape}, PyTorch's layer would have {wanted.shape}")
        if given.dtype != wanted.dtype:
            faults.append(f"{name}: the state has dtype {given.dtype}, the model {wanted.dtype}")
    if faults:
        raise ValueError(f"the state does not fit this {type(model).__name__}; nothing was changed:\n  "
                         + "\n  ".join(faults))
    model.load_state_dict({name: turns[name].from_torch(np.asarray(state[name])) for name in own})


def _counters(model):
    return {f"{name}.{COUNTER}".lstrip(".") for name, module in model.named_modules()
            if isinstance(module, nn.BatchNorm2d)}


class Turn(NamedTuple):
    """How one array of a state changes its layout."""

    axes: tuple[int, ...]  # PyTorch's axes, as axes of tinynet's array
    maps: tuple[tuple[int, Shape], ...] = ()  # (axis, (H, W, C)): this axis is a flattened map of features

    def to_torch(self, array: Array) -> Array:
        for axis, shape in self.maps:
            array = np.take(array, _channels_first(shape), axis)
        return np.ascontiguousarray(array.transpose(self.axes))

    def from_torch(self, array: Array) -> Array:
        array = array.transpose(np.argsort(self.axes))
        for axis, shape in self.maps:
            array = np.take(array, np.argsort(_channels_first(shape)), axis)
        return np.ascontiguousarray(array)


def _channels_first(shape):
    """The places in (H, W, C), flattened, of the elements in the order C, H, W."""
    return np.arange(np.prod(shape)).reshape(shape).transpose(2, 0, 1).reshape(-1)


def _turns(model, example):
    """{name: Turn} of all that the model's state has."""
    maps = _maps(model, example)
    turns = {}
    for prefix, module in model.named_modules():
        for name, value in module._owned():
            if not isinstance(value, nn.Module):
                full = f"{prefix}.{name}".lstrip(".")
                axes = tuple(range(value.ndim))
                if name == "weight":
                    axes = _weight_axes(module, axes)
                elif isinstance(module, nn.LayerNorm) and value.ndim == 3:
                    axes = (2, 0, 1)
                turns.setdefault(full, Turn(axes, maps.get(full, ())))
    return turns


def _weight_axes(module, axes):
    if isinstance(module, (nn.Conv2d, nn.ConvTranspose2d)):
        return 3, 2, 0, 1
    if isinstance(module, nn.Dense):
        return 1, 0
    if isinstance(module, nn.LayerNorm) and len(axes) == 3:
        return 2, 0, 1
    return axes


# Which axes of the parameters are flattened maps of features. Values whose last axes run along each other (the two
# sides of an addition, a ReLU's input and output...) make up a group; a reshape from or to (N, H, W, C) says what the
# group's axis is a map of.


def _maps(model, example):
    """{name: ((axis, (H, W, C)), ...)} of the parameters and statistics with such axes."""
    if not any(isinstance(module, nn.Dense) for module in model.modules()):
        return {}
    if example is None:
        raise ValueError(f"the {type(model).__name__} has dense layers, and where images are flattened PyTorch has "
                         "another order; give example=, an input such as the model takes, to find these places")
    groups, shapes, rows = _follow(trace(model, example))
    found = {}
    for name, parameter in model.named_parameters():
        key = id(parameter.array)
        axes = [(0, groups.find(rows[key]))] if key in rows else []
        axes.append((parameter.ndim - 1, groups.find(key)))
        found[name] = tuple((axis, shapes[group]) for axis, group in axes if group in shapes)
    for name, module in model.named_modules():
        if isinstance(module, nn.BatchNorm2d) and module.affine:
            prefix = f"{name}.".lstrip(".")
            found[f"{prefix}running_mean"] = found[f"{prefix}running_var"] = found[f"{prefix}weight"]
    return found


class _Groups:
    """Disjoint sets of values."""

    def __init__(self) -> None:
        self.parent = {}

    def find(self, key: int) -> int:
        while key in self.parent:
            key = self.parent[key]
        return key

    def join(self, a: int, b: int) -> None:
        a, b = self.find(a), self.find(b)
        if a != b:
            self.parent[a] = b


def _follow(found):
    """The groups; {group: (H, W, C)}; {matrix: the value whose last axis its rows run along}."""
    groups, seen, rows = _Groups(), [], {}
    for op, inputs, output in found.calls:
        if isinstance(op, operators.Reshape) and (shape := _flattened(inputs[0], output)):
            seen.append((inputs[0] if inputs[0].ndim == 2 else output, shape))
        elif isinstance(op, operators.MatMul):
            rows[id(inputs[1])] = id(inputs[0])
            groups.join(id(inputs[1]), id(output))
        elif _keeps_last_axis(op, output):
            for x in inputs:
                if x.ndim and x.shape[-1] == output.shape[-1]:
                    groups.join(id(x), id(output))
    shapes = {}
    for array, shape in seen:
        if shapes.setdefault(groups.find(id(array)), shape) != shape:
            raise ValueError(f"features are flattened from {shape} and from {shapes[groups.find(id(array))]} and "
                             "then combined; PyTorch's order of them can't be told")
    _check_followed(found, groups, shapes)
    return groups, shapes, rows


def _flattened(x, y):
    """(H, W, C) if this reshape makes rows of maps of features or maps of rows, in which the order matters."""
    image, flat = (x, y) if x.ndim == 4 else (y, x)
    if image.ndim == 4 and flat.ndim == 2 and len(image) == len(flat):
        height, width, channels = image.shape[1:]
        if height * width > 1 and channels > 1:
            return height, width, channels
    return None


REARRANGING = (operators.Index, operators.Transpose, operators.TakeLast, Concatenate, Pad)


def _keeps_last_axis(op, y):
    if isinstance(op, REARRANGING) or (isinstance(op, operators.Sum) and y.ndim - 1 in op.axes):
        return False
    return not isinstance(op, Normalize) or op.groups in (1, y.shape[-1])


def _check_followed(found, groups, shapes):
    """Raise where flattened features go into an op that has an order of its own."""
    for op, inputs, output in found.calls:
        if not any(groups.find(id(x)) in shapes for x in inputs):
            continue
        nameless = isinstance(op, Standardize) and len(inputs) == 1     # statistics that no parameter tells of
        lost = isinstance(op, REARRANGING) or (isinstance(op, Normalize) and not _keeps_last_axis(op, output))
        reshaped = (isinstance(op, operators.Reshape) and not _flattened(inputs[0], output)
                    and inputs[0].shape[-1] != output.shape[-1])
        if nameless or lost or reshaped:
            raise ValueError(f"flattened features go through {type(op).__name__}, where PyTorch's order of them "
                             "can't be followed; let a dense layer read them first")
