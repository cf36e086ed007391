"""A docstring's example, run: what it prints, the gradients of its call, and the check of these."""

from __future__ import annotations

import contextlib
import doctest
import inspect
import io
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

import tinynet as tn
from tinynet.autograd import watched

JITTER = 0.05  # by how much the values of an example are moved for the check: few then stand on a kink


def run(text: str, names: dict[str, Any]) -> list[str]:
    """The lines of all examples in a docstring with what they print now.

    >>> run("Twice.\\n\\n>>> 2 * x\\n4\\n", {"x": 2})
    ['>>> 2 * x', '4']
    """
    return [line for part in doctest.DocTestParser().get_examples(text) for line in _played(part, names)]


def told(text: str, names: dict[str, Any]) -> str:
    """A text with what its examples print now in place of what is written there.

    >>> told("Twice:\\n\\n>>> 2 * x\\n5\\n\\nThat is all.", {"x": 2})
    'Twice:\\n\\n>>> 2 * x\\n4\\n\\nThat is all.'
    """
    parts = doctest.DocTestParser().parse(text)
    return "".join(p if isinstance(p, str) else "\n".join([*_played(p, names), ""]) for p in parts)


def _played(example, names):
    """The lines of an example, and what it prints."""
    top, *more = example.source.splitlines()
    printed, hook = io.StringIO(), sys.displayhook
    sys.displayhook = sys.__displayhook__
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(example.source, "<example>", "single"), names)
    finally:
        sys.displayhook = hook
    return [f">>> {top}", *(f"... {line}" for line in more), *printed.getvalue().splitlines()]


def first(calls: Sequence[Any], thing: Any) -> Any:
    """The first call of a function or class that its own example makes."""
    if not calls:
        raise LookupError(f"{thing.__name__}: the example in its docstring doesn't call it by this name")
    return calls[0]


class Call(NamedTuple):
    """A call of a function or layer as an example makes it: which arrays go in, and the same as a function of them."""

    lines: list[str]  # of the example
    leaves: dict[str, np.ndarray]  # name -> float64 array
    function: Callable[..., Any]  # of Tensors, in the order of the leaves


def of_function(function: Callable[..., Any]) -> Call:
    """The call of a function in its own docstring's example."""
    calls = []

    def recorded(*arguments, **options):
        calls.append(inspect.signature(function).bind(*arguments, **options))
        return function(*arguments, **options)

    names = vars(sys.modules[function.__module__]) | {function.__name__: recorded}
    lines = run(inspect.getdoc(function), names)
    bound = first(calls, function)
    leaves = {}
    for name, value in bound.arguments.items():
        if name == "tensors":
            leaves |= {f"x_{i}": np.asarray(one, np.float64) for i, one in enumerate(value)}
        elif _is_input(value):
            leaves[name] = np.asarray(value, np.float64)

    def of_leaves(*tensors):
        tn.manual_seed(0)  # the same draws in every call
        given = dict(zip(leaves, tensors, strict=True))
        if "tensors" in bound.arguments:
            given = {"tensors": list(tensors)}
        bound.arguments.update(given)
        return function(*bound.args, **bound.kwargs)

    return Call(lines, leaves, of_leaves)


def _is_input(value):
    """Is it an array of floats? Single numbers are options, arrays of integers are labels."""
    if isinstance(value, tn.Tensor):
        return value.dtype.kind == "f"
    return isinstance(value, (list, np.ndarray)) and np.asarray(value).dtype.kind == "f"


def of_layer(cls: Any) -> Call:
    """The call of a layer in its own docstring's example, as a function of x and of the layer's parameters."""
    calls = []

    class Recorded(cls):
        def __call__(self, x):
            calls.append((self, x))
            return super().__call__(x)

    Recorded.__name__ = cls.__name__
    lines = run(inspect.getdoc(cls), vars(sys.modules[cls.__module__]) | {cls.__name__: Recorded})
    layer, x = first(calls, cls)
    layer.astype(np.float64)
    names = [name for name, _ in layer.named_parameters()]
    owners = dict(layer.named_modules())
    leaves = {"x": x.numpy().astype(np.float64)}
    leaves |= {name: parameter.numpy().copy() for name, parameter in layer.named_parameters()}

    def of_leaves(x, *parameters):
        tn.manual_seed(0)
        for name, parameter in zip(names, parameters, strict=True):
            owner, _, last = name.rpartition(".")
            vars(owners[owner])[last] = parameter  # not by assignment, which would ask for a Parameter: a leaf
        return cls.__call__(layer, x)

    return Call(lines, leaves, of_leaves)


class Gradients(NamedTuple):
    """What a call gives, for a gradient gy of its result."""

    y: np.ndarray
    gy: np.ndarray
    of_leaves: dict[str, np.ndarray | None]  # name -> ndarray, or None where there is no gradient
    forward_ops: list[type]  # the classes of the ops that ran, each once
    backward_ops: list[type]


def gradients(call: Call) -> Gradients:
    """The call's result and gradients in float64; gy counts 1, 2, 3, ..., so that no two elements get the same."""
    leaves = [tn.Tensor(x, requires_grad=True) for x in call.leaves.values()]
    forward_ops, backward_ops = {}, {}
    with watched(lambda op, inputs, output: forward_ops.setdefault(type(op))):
        y = call.function(*leaves)
    gy = 1.0 + np.arange(y.size).reshape(y.shape)
    with watched(lambda op, inputs, output: backward_ops.setdefault(type(op))):
        y.backward(gy)
    found = [None if leaf.grad is None else leaf.grad.numpy() for leaf in leaves]
    return Gradients(y.numpy(), gy, dict(zip(call.leaves, found, strict=True)), list(forward_ops), list(backward_ops))


def check(call: Call) -> list[str]:
    """What tn.gradcheck and tn.gradgradcheck say, a line each, at the example's values moved a little."""
    rng = np.random.default_rng(0)
    leaves = [tn.Tensor(x + rng.uniform(-JITTER, JITTER, x.shape), requires_grad=True) for x in call.leaves.values()]
    return [f"{what} (tn.{checker.__name__}): {_verdict(checker, call.function, leaves)}"
            for what, checker in (("gradient", tn.gradcheck), ("gradient of the gradient", tn.gradgradcheck))]


def _verdict(checker, function, leaves):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            checker(function, leaves)
        except (tn.GradientError, ValueError) as error:
            return f"WRONG: {error}"
    return "equal to differences" + (", but for kinks" if caught else "")
