"""What a model computes, as the list of its ops: the model is run once, in evaluation mode, and watched.

A value is known by its ndarray: `id(array)` is the same wherever it is used again, so long as the trace is alive. An
input of a call that is neither a call's output nor an input of the model is a parameter or a constant.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from tinynet.autograd import Op, watched
from tinynet.nn import Module
from tinynet.tensor import Tensor, TensorLike, as_tensor

Example = TensorLike | tuple[TensorLike, ...]  # an input of a model, or all of several


class Call(NamedTuple):
    """One op of the model."""

    op: Op
    inputs: tuple[np.ndarray, ...]
    output: np.ndarray


class Trace(NamedTuple):
    """All that a model did with its inputs."""

    inputs: tuple[np.ndarray, ...]
    calls: list[Call]
    outputs: tuple[np.ndarray, ...]


def trace(model: Module, example: Example) -> Trace:
    """Run `model` on `example` (an array, or a tuple of several) in evaluation mode, and note every op.

    Not under no_grad(): there a Sequential puts batch normalisations into the weights before them.

    >>> from tinynet import nn
    >>> found = trace(nn.Sequential(nn.Dense(3, 2), nn.ReLU()), np.zeros((1, 3), np.float32))
    >>> [type(call.op).__name__ for call in found.calls]
    ['MatMul', 'Add', 'Relu']
    """
    calls = []

    def watcher(op, inputs, output):
        calls.append(Call(op, tuple(x.array for x in inputs), output.array))

    inputs = [as_tensor(x) for x in (example if isinstance(example, (tuple, list)) else (example,))]
    with evaluation(model), watched(watcher):
        outputs = model(*inputs)
    outputs = outputs if isinstance(outputs, (tuple, list)) else (outputs,)
    for output in outputs:
        if not isinstance(output, Tensor):
            raise TypeError(f"trace: {type(model).__name__} returned a {type(output).__name__}; "
                            "make it return a Tensor or a tuple of Tensors")
    return Trace(tuple(x.array for x in inputs), calls, tuple(y.array for y in outputs))


@contextlib.contextmanager
def evaluation(model: Module) -> Iterator[None]:
    """Within this context the model is in evaluation mode; afterwards each of its parts is as it was."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training
