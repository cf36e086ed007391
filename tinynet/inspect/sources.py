"""Where things stand in the source, and which kernels a function calls: both read from the source itself, by ast.

Reading takes milliseconds a function, and many cards share their functions; hence the caches.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import textwrap
from pathlib import Path
from typing import Any

from tinynet.autograd import Op
from tinynet.kernels import tile

ROOT = Path(__file__).parents[2]


def place(thing: Any) -> str:
    """file:line of the line that begins with def or class.

    >>> place(Op)
    'tinynet/autograd.py:...'
    """
    path = Path(inspect.getsourcefile(plain(thing))).relative_to(ROOT)
    return f"{path.as_posix()}:{line(thing)}"


@functools.cache
def line(thing: Any) -> int:
    """The number of the line that begins with def or class."""
    lines, first = inspect.getsourcelines(plain(thing))
    return first + next(i for i, text in enumerate(lines) if text.lstrip().startswith(("def ", "class ")))


def plain(thing: Any) -> Any:
    """The function as it is written: without what compiles or wraps it."""
    return inspect.unwrap(getattr(thing, "py_func", thing))


@functools.cache
def named_in(thing: Any) -> list[Any]:
    """The functions and classes of tinynet that a function or class names, in the order of its source."""
    found = []
    names = vars(sys.modules[thing.__module__])
    tree = ast.parse(textwrap.dedent(inspect.getsource(thing)))
    nodes = [n for n in ast.walk(tree) if isinstance(n, (ast.Name, ast.Attribute))]
    for n in sorted(nodes, key=lambda n: (n.lineno, n.col_offset)):
        if isinstance(n, ast.Name):
            one = names.get(n.id)
        else:
            one = getattr(names.get(n.value.id), n.attr, None) if isinstance(n.value, ast.Name) else None
        one = plain(one)
        if (getattr(one, "__module__", None) or "").startswith("tinynet.") and hasattr(one, "__name__"):
            found.append(one)
    return found


def kernels(op: type) -> list[Any]:
    """The functions of tinynet.kernels that an op's forward and backward call, or helpers that it is made with.

    >>> from tinynet.ops.activation import Relu, ReluGrad
    >>> [kernel.__name__ for kernel in kernels(Relu)], [kernel.__name__ for kernel in kernels(ReluGrad)]
    (['relu'], ['relu_grad', 'sum_rows'])
    """
    waiting = [method for name in ("forward", "backward", "__init__") for method in methods(op, name)]
    found, seen = [], set(waiting)
    while waiting:
        for one in named_in(waiting.pop(0)):
            if one in seen or not (inspect.isfunction(one) or inspect.isclass(one)):
                continue
            seen.add(one)
            if one.__module__.startswith("tinynet.kernels."):
                found.append(one)
            elif one.__module__ == op.__module__ and not _is_op(one):
                waiting.append(one)
    return found


def _is_op(thing):
    return inspect.isclass(thing) and issubclass(thing, Op)


def methods(op: type, name: str) -> list[Any]:
    """The op's method of that name, and those of its bases that it goes on to by super()."""
    found = []
    for cls in op.__mro__[:-1]:
        if name in vars(cls):
            found.append(vars(cls)[name])
            if "super()" not in inspect.getsource(found[-1]):
                break
    return found


@functools.cache
def loops(kernel: Any) -> list[Any]:
    """The compiled loops (@kernel) that a function of tinynet.kernels comes to, and the register tile if they use it.

    >>> from tinynet.kernels.matmul import matmul
    >>> [loop.__name__ for loop in loops(matmul)]
    ['...']
    """
    waiting, seen, found = [kernel], {kernel}, []
    while waiting:
        one = waiting.pop(0)
        if is_compiled(one) or one is plain(tile.block):
            found.append(one)
        for other in named_in(one):
            if other not in seen and inspect.isfunction(other) and other.__module__.startswith("tinynet.kernels."):
                seen.add(other)
                waiting.append(other)
    return found


def is_compiled(function: Any) -> bool:
    """Is there a @kernel above it?"""
    return inspect.getsource(function).startswith("@kernel")
