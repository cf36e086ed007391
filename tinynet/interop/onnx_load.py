"""ONNX files as trainable modules: the graph's nodes are run one after the other, each with tinynet's own function."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from tinynet import nn
from tinynet.interop import onnx_images, onnx_layout  # noqa: F401  (their operators join the table)
from tinynet.interop.onnx_graph import WEIGHT_TO_FIRST, package
from tinynet.interop.onnx_operators import OPERATORS, Image, Node, fault, plain
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import FilePath

FLOATS = (np.float32, np.float64)


def load(path: FilePath) -> Imported:
    """The model in an ONNX file, as a module: called with arrays or Tensors in the file's own layout, in its order.

    Its parameters have the names of the file's initialisers (convolutions' weights in tinynet's layout), its batch
    normalisations update their statistics in training; call .eval() for the file's own results. Raises ValueError
    that names every node which tinynet has no function for, ImportError without the extra [onnx].
    """
    onnx = package()
    return Imported(onnx.load(os.fspath(path)))


class Imported(nn.Module):
    """A model made of an ONNX graph (an onnx.ModelProto): see `load`."""

    def __init__(self, model: Any) -> None:
        onnx = package()
        opsets = {each.domain: each.version for each in model.opset_import}
        graph = model.graph
        arrays = {each.name: onnx.numpy_helper.to_array(each) for each in graph.initializer}
        self.nodes = [_node(onnx, each, opsets.get(each.domain, 0)) for each in graph.node]
        faults = [f"{node}: {reason}" for node in self.nodes if (reason := fault(node))]
        faults += [f"the weights {name!r} are {array.dtype}; tinynet has float32 and float64"
                   for name, array in arrays.items() if array.dtype.kind not in "fiub" or array.dtype == np.float16]
        if faults:
            raise ValueError(f"interop.onnx.load: tinynet can't run {graph.name or 'this graph'}:\n  "
                             + "\n  ".join(faults))
        self.input_names = [each.name for each in graph.input if each.name not in arrays]
        self.output_names = [each.name for each in graph.output]
        self.turned, self.constants, self.places = _turned(self.nodes) & arrays.keys(), {}, {}
        statistics = {name for node in self.nodes if node.kind == "BatchNormalization" for name in node.inputs[3:]}
        for name, array in arrays.items():
            self._own(name, array, name in statistics)

    def _own(self, name, array, is_statistic):
        """An initialiser as a parameter, a buffer, or a constant that isn't trained."""
        if array.dtype not in FLOATS or not array.ndim:
            self.constants[name] = array.copy()
            return
        if name in self.turned:
            array = array.transpose(np.argsort(WEIGHT_TO_FIRST))
        attribute = name if not hasattr(self, name) else f"{name}_"
        self.places[name] = attribute
        setattr(self, attribute, array.copy() if is_statistic else nn.Parameter(array.copy()))

    def forward(self, *inputs: TensorLike) -> Tensor | tuple[Tensor, ...]:
        if len(inputs) != len(self.input_names):
            raise ValueError(f"the model takes {len(self.input_names)} inputs ({', '.join(self.input_names)}), "
                             f"but got {len(inputs)}")
        values = {name: _value(array) for name, array in self.constants.items()}
        values |= {name: getattr(self, attribute) for name, attribute in self.places.items()}
        values |= {name: _value(x) for name, x in zip(self.input_names, inputs, strict=True)}
        for node in self.nodes:
            given = [values[name] if name else None for name in node.inputs]
            try:
                made = OPERATORS[node.kind](node, given, self)
            except Exception as error:
                error.add_note(f"in the node {node}")
                raise
            made = made if isinstance(made, tuple) else (made,)
            values.update(zip(node.outputs, made, strict=False))
            missing = [name for name in node.outputs[len(made) :] if name]
            if missing:
                raise ValueError(f"the node {node} is asked for {missing}, which tinynet doesn't compute")
        outputs = tuple(_result(values[name]) for name in self.output_names)
        return outputs[0] if len(outputs) == 1 else outputs


def _node(onnx, node, opset):
    attributes = {each.name: onnx.helper.get_attribute_value(each) for each in node.attribute}
    for name, value in attributes.items():
        if isinstance(value, bytes):
            attributes[name] = value.decode()
        elif isinstance(value, onnx.TensorProto):
            attributes[name] = onnx.numpy_helper.to_array(value)
    kind = node.op_type if node.domain in ("", "ai.onnx") else f"{node.domain}.{node.op_type}"
    return Node(kind, node.name, tuple(node.input), tuple(node.output), attributes, opset)


def _turned(nodes):
    """The names that are read as weights of two-dimensional convolutions and as nothing else."""
    weights, others = set(), set()
    for node in nodes:
        for place, name in enumerate(node.inputs):
            is_weight = node.kind in ("Conv", "ConvTranspose") and place == 1
            flat = is_weight and len(node.attributes.get("kernel_shape", ())) == 2
            (weights if flat else others).add(name)
    return weights - others


def _value(x):
    """Floats as a Tensor, whole numbers and truths as an ndarray."""
    if isinstance(x, Tensor) and x.dtype in FLOATS:
        return x
    array = x.data if isinstance(x, Tensor) else np.asarray(x)
    if array.dtype in FLOATS:
        return as_tensor(array)
    if array.dtype.kind == "f" or array.dtype.kind not in "iub":
        raise TypeError(f"interop.onnx: a value is {array.dtype}; tinynet has float32 and float64")
    return array


def _result(value):
    value = plain(value) if isinstance(value, Image) else value
    return value if isinstance(value, Tensor) else Tensor(value)
