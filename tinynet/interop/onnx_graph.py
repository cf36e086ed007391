"""An ONNX graph under construction: nodes, initialisers, unique names, and images in the layout that is asked for.

ONNX's image operators take (N, C, H, W), tinynet has (N, H, W, C). A value is kept in the layout in which it was made,
and transposed, once, where the other is asked for. So between one convolution and the next nothing is transposed.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from tinynet.safetensors import write_atomically
from tinynet.typing import Array, FilePath

OPSET, IR_VERSION = 17, 8  # of ONNX 1.12: what newer runtimes read too
TO_FIRST, TO_LAST = (0, 3, 1, 2), (0, 2, 3, 1)  # axes of a transpose to (N, C, H, W), and back
WEIGHT_TO_FIRST = (3, 2, 0, 1)


def package() -> ModuleType:
    """The package onnx, an optional extra."""
    try:
        import onnx
    except ImportError:
        raise ImportError("interop.onnx: the package onnx is not installed; it comes with the extra onnx: "
                          "pip install 'tinynet[onnx]'") from None
    return onnx


class Graph:
    """Nodes in order; each value is known by its array's id, as in a trace."""

    def __init__(self, names: dict[int, str]) -> None:
        self.onnx = package()
        self.names = names  # id of a parameter's array -> its name in the state
        self.nodes, self.initializers = [], []
        self.taken, self.outputs = set(), set()
        self.last, self.first = {}, {}  # id of an array -> the value's name, channels last (or no image) and first
        self.kept = []  # arrays, so that their ids stay theirs

    def unique(self, name: str) -> str:
        found, count = name, 1
        while found in self.taken:
            count += 1
            found = f"{name}_{count}"
        self.taken.add(found)
        return found

    def node(self, kind: str, inputs: list[str], name: str | None = None, **attributes: Any) -> str:
        """A new node of one output, whose name is returned."""
        output = self.unique(name or kind.lower())
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def constant(self, array: npt.ArrayLike, name: str | None = None) -> str:
        """A constant's name: of the model's state an initialiser; without a name a node, which nobody will train."""
        array = np.asarray(array, order="C")
        if name is None:
            return self.node("Constant", [], value=self.onnx.numpy_helper.from_array(array))
        name = self.unique(name)
        self.initializers.append(self.onnx.numpy_helper.from_array(array, name))
        return name

    def integers(self, values: npt.ArrayLike) -> str:
        """The name of a constant of whole numbers, as shapes and axes are."""
        return self.constant(np.asarray(values, np.int64))

    def is_known(self, array: Array) -> bool:
        """Is it computed in the graph, not a parameter or constant?"""
        return id(array) in self.last or id(array) in self.first

    def is_first(self, array: Array) -> bool:
        """Is it an image made with its channels first?"""
        return id(array) in self.first and id(array) not in self.last

    def channels_last(self, array: Array) -> str:
        """The name of a value as tinynet has it."""
        if id(array) not in self.last:
            if id(array) in self.first:
                name = self.node("Transpose", [self.first[id(array)]], perm=TO_LAST)
            else:
                name = self.constant(array, self.names.get(id(array)))
                self.kept.append(array)
            self.last[id(array)] = name
        return self.last[id(array)]

    def channels_first(self, array: Array) -> str:
        """The name of an image (N, H, W, C) as (N, C, H, W)."""
        if id(array) not in self.first:
            self.first[id(array)] = self.node("Transpose", [self.channels_last(array)], perm=TO_FIRST)
        return self.first[id(array)]

    def weight(self, array: Array) -> str:
        """The name of a convolution's weight (KH, KW, C, O) as (O, C, KH, KW)."""
        if self.is_known(array):
            return self.node("Transpose", [self.channels_last(array)], perm=WEIGHT_TO_FIRST)
        return self.constant(array.transpose(WEIGHT_TO_FIRST), self.names.get(id(array)))

    def rename(self, old: str, new: str) -> None:
        """Give a node's output the name of an output of the model; what can't be renamed is copied."""
        if any(old in node.output for node in self.nodes) and old not in self.outputs:
            for node in self.nodes:
                node.input[:] = [new if name == old else name for name in node.input]
                node.output[:] = [new if name == old else name for name in node.output]
        else:
            self.nodes.append(self.onnx.helper.make_node("Identity", [old], [new], name=new))
        self.outputs.add(new)

    def save(self, inputs: list[Any], outputs: list[Any], name: str, path: FilePath) -> None:
        """Drop what nothing depends on, check all, and write the file."""
        helper, needed, used = self.onnx.helper, {value.name for value in outputs}, []
        for node in reversed(self.nodes):
            if needed.intersection(node.output):
                used.append(node)
                needed.update(node.input)
        initializers = [each for each in self.initializers if each.name in needed]
        graph = helper.make_graph(used[::-1], name, inputs, outputs, initializers)
        model = helper.make_model(graph, producer_name="tinynet", ir_version=IR_VERSION,
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        model = self.onnx.shape_inference.infer_shapes(model, strict_mode=True)
        self.onnx.checker.check_model(model, full_check=True)
        write_atomically(path, [model.SerializeToString()])
