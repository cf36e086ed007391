"""The search of detect_anomaly: which op first made a NaN or Inf, of which of its tensors, called from which line."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from types import FrameType
from typing import TYPE_CHECKING

import numpy as np

from tinynet.typing import Array

if TYPE_CHECKING:  # they stand above this floor
    from tinynet.autograd import Op
    from tinynet.tensor import Tensor

OWN = os.path.dirname(os.path.abspath(__file__)) + os.sep
OUTSIDE = "a line outside of detect_anomaly()"


def users_line() -> str:
    """file:line of the innermost call that is not the framework's own."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(OWN):
        frame = frame.f_back
    return "an unknown line" if frame is None else f"{frame.f_code.co_filename}:{frame.f_lineno}"


def check_forward(op: Op, inputs: Sequence[Tensor], arrays: Sequence[Array], y: Array, line: str) -> None:
    """Raise if y holds a NaN, or an Inf that was in no input.

    An Inf that came in may be meant, as in a mask for softmax, unless it is in a leaf that needs a gradient: a weight.
    A NaN is raised even then, for no other op under detect_anomaly() can have made it.
    """
    found = _worst(y)
    if found is None:
        return
    worst = [_worst(a) for a in arrays]
    parameters = [x.op is None and x.requires_grad for x in inputs]
    name = type(op).__name__
    if found in worst and (found == "NaN" or any(w and p for w, p in zip(worst, parameters, strict=True))):
        i = worst.index(found)
        raise FloatingPointError(
            f"{name} got {_a(found)} in {_tensor(op, i, arrays[i].shape)}, where it was before: given by the program, "
            f"left by an optimizer's step, or made outside of detect_anomaly(); called at {line}"
        )
    if found not in worst:
        source = "from finite inputs"
        for i, came in enumerate(worst):
            source = f"from {_a(came)} in {_tensor(op, i, arrays[i].shape)}" if came else source
        raise FloatingPointError(f"{name} made {_a(found)} in its forward pass {source}, called at {line}")


def check_backward(op: Op, gy: Tensor, gradients: Sequence[Tensor | None], line: str) -> None:
    """Raise if a gradient holds a NaN, or an Inf that was not in gy."""
    came = _worst(gy.array)
    for i, g in enumerate(gradients):
        found = None if g is None else _worst(g.array)
        if found is None or found == came == "Inf":
            continue
        where = f"in the gradient of {_tensor(op, i, g.shape)}"
        if found == came:
            what = f"got a NaN in its backward pass, that {where} comes from the gradient given to backward()"
        else:
            source = "a finite gradient" if came is None else f"a gradient that holds {_a(came)}"
            what = f"made {_a(found)} in its backward pass, {where}, from {source}"
        raise FloatingPointError(f"{type(op).__name__} {what}; called at {line}")


def check_sum(node: Op | Tensor, parts: Sequence[Tensor], total: Tensor) -> None:
    """Raise if the gradients of a value that was used twice are finite, but their sum isn't."""
    found = _worst(total.array)
    if found and found not in map(_worst, (part.array for part in parts)):
        is_op = hasattr(node, "called_at")
        what = f"the result of {type(node).__name__}" if is_op else "a tensor"
        raise FloatingPointError(
            f"backward made {_a(found)}: {what} of shape {total.shape} was used several times, and the gradients of "
            f"its uses add up to {_a(found)}; called at {node.called_at if is_op else users_line()}"
        )


def _worst(array):
    """ "NaN", "Inf", or None if all is finite."""
    if np.isfinite(array).all():
        return None
    return "NaN" if np.isnan(array).any() else "Inf"


def _a(found):
    return "a NaN" if found == "NaN" else "an Inf"


def _tensor(op, i, shape):
    name = op.arguments[i] if i < len(op.arguments) else f"input {i}"
    return f"{name} of shape {shape}"
