"""The command explain: a card for each op, layer, loss and optimiser, made from its docstring and its code.

Nothing on a card is written here: the equations are the docstrings', places and kernels are read from the source, the
example is the docstring's, run now, its gradient is computed and checked now.
"""

from __future__ import annotations

import argparse
import inspect
import re
import sys
import textwrap
from typing import Any

import numpy as np

from tinynet.inspect import catalogue, sources, update_rule, worked
from tinynet.inspect.twins import twin

WIDTH = 118
MOVES = {"Reshape", "Transpose", "BroadcastTo", "Cast"}  # ops that only hand elements on


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tinynet explain",
        description="All about an op, layer, loss or optimiser on one card: equations, shapes, where its code stands, "
                    "an example with gradients, and a gradient check, made now. Without a name: what there is.")
    parser.add_argument("name", nargs="?", help="such as conv2d, nn.Conv2d, cross_entropy, adam")
    name = parser.parse_args(arguments).name
    if name is None:
        print(catalogue.listing())
        return 0
    try:
        entry = catalogue.find(name)
    except LookupError as error:
        print(error, file=sys.stderr)
        return 2
    print(card(entry))
    return 0


def card(entry: catalogue.Entry) -> str:
    """All that is known of an entry, as text.

    >>> print(card(catalogue.find("exp")))
    exp(x)
    ...
    Gradient
        y = e^x
        gx = gy y
    ...
    """
    parts = sections(entry)
    blocks = [f"{heading}\n{textwrap.indent(text, '    ')}" for heading, text in parts.items() if heading]
    return "\n\n".join([parts[""], *blocks])


def sections(entry: catalogue.Entry) -> dict[str, str]:
    """Heading -> text; that of "" is the head."""
    head = f"{entry.name}{_arguments(entry.thing)}\n\n{prose(entry.thing)}"
    if entry.is_optimizer:
        lines, options = update_rule.recorded(entry.thing)
        return {"": head, "Where": _table(_places_of_rule(entry)), "Example": "\n".join(lines),
                "Check: the equations above, computed, and step(), on w^2": _steps(entry.thing, options)}
    call = worked.of_layer(entry.thing) if entry.is_layer else worked.of_function(entry.thing)
    found = worked.gradients(call)
    return {"": head, "Gradient": gradient(entry, found), "Where": _table(_places(entry, found)),
            "Example": "\n".join(call.lines),
            "Its gradients, for 1, 2, 3, ... as that of the result": _values(result_name(entry), call, found),
            f"Check: in float64, at the example's values moved by up to {worked.JITTER}": "\n".join(worked.check(call))}


def _arguments(thing):
    signature = inspect.signature(thing)
    bare = [parameter.replace(annotation=parameter.empty) for parameter in signature.parameters.values()]
    text = str(signature.replace(parameters=bare, return_annotation=signature.empty))
    return re.sub(r"then=Then\([^)]*\)", "then=NOTHING", text)


# ---- Equations ---------------------------------------------------------------------------------------------

def paragraphs(thing: Any) -> list[str]:
    """A docstring without its examples, cut at the empty lines."""
    return inspect.getdoc(thing).partition(">>>")[0].rstrip().split("\n\n")


def _is_gradient(paragraph):
    return re.match(r"\s*g\w+(\[.*?\])? \+?= ", paragraph) is not None


def prose(thing: Any) -> str:
    """What a docstring says, but for its gradient's equations."""
    return "\n\n".join(p for p in paragraphs(thing) if not _is_gradient(p))


def gradient(entry: catalogue.Entry, found: Any) -> str:
    """The equations of the gradient: the docstring's own, those of the function that a layer calls, or the op's."""
    ops = [op for op in found.forward_ops if op.__name__ not in MOVES] or found.forward_ops
    texts = _own_gradient(entry.thing)
    if not texts and entry.is_layer:
        (function,) = called(entry.thing)
        texts = [f"as tinynet.{function.__name__}:", *_own_gradient(function)]
    if not any(_is_gradient(text) for text in texts):
        texts += [equations(op) for op in ops]
    if len(ops) > 1:
        names = ", ".join(op.__name__ for op in ops)
        made = f"It is made of the ops {names}; backward goes through them the other way round."
        texts.append(textwrap.fill(made, WIDTH - 4))
    return "\n\n".join(texts)


def _own_gradient(thing):
    return [textwrap.dedent(p) for p in paragraphs(thing) if _is_gradient(p)]


def called(layer: type) -> list[Any]:
    """The public functions that a layer's forward calls.

    >>> from tinynet import nn
    >>> [function.__name__ for function in called(nn.Conv2d)]
    ['conv2d']
    """
    known = {entry.thing for entry in catalogue.entries()}
    return [one for one in sources.named_in(layer.forward) if one in known]


def equations(op: type) -> str:
    """An op's docstring, a line an equation.

    >>> from tinynet.operators import Sub
    >>> print(equations(Sub))
    z = x - y
    gx = gz
    gy = -gz
    """
    return re.sub(r"[;,.]  +(?=\w+ = |With )", "\n", inspect.getdoc(op))


# ---- Places ------------------------------------------------------------------------------------------------

def _places(entry, found):
    """Rows (what, file:line, a word about it)."""
    yield entry.name, sources.place(entry.thing), ""
    if entry.is_layer:
        yield "forward", sources.place(entry.thing.forward), ""
    for op in found.forward_ops:
        yield f"op {op.__name__}", sources.place(op.forward), f"backward in line {sources.line(op.backward)}"
    ops = dict.fromkeys([*found.forward_ops, *found.backward_ops])
    others = [op for op in found.backward_ops if op not in found.forward_ops]
    for op in others:
        yield f"  runs {op.__name__}", sources.place(op), ""
    yield from _kernels(dict.fromkeys(kernel for op in ops for kernel in sources.kernels(op)))
    yield ("naive twin", *twin(entry))


def _places_of_rule(entry):
    """The same of an optimiser."""
    yield entry.name, sources.place(entry.thing), ""
    yield "step", sources.place(entry.thing.step), ""
    rules = [vars(cls)[name] for cls in entry.thing.__mro__ for name in ("_update", "_move") if name in vars(cls)]
    yield "_update", sources.place(rules[0]), ""
    named = [one for rule in rules for one in sources.named_in(rule)]
    yield from _kernels(dict.fromkeys(one for one in named if one.__module__.startswith("tinynet.kernels.")))
    yield ("naive twin", *twin(entry))


def _kernels(kernels):
    if not kernels:
        yield "kernel", "", "none: NumPy's own functions do it"
    for kernel in kernels:
        yield f"kernel {kernel.__name__}", sources.place(kernel), _first_line(kernel)
    for loop in dict.fromkeys(loop for kernel in kernels for loop in sources.loops(kernel) if loop not in kernels):
        yield f"  loop {loop.__name__.strip('_')}", sources.place(loop), _first_line(loop)


def _first_line(function):
    return (inspect.getdoc(function) or "").partition("\n")[0]


def _table(rows):
    """Columns side by side; a word about a place ends where the line does, a sentence in place of one doesn't."""
    rows = list(rows)
    first, second = (max(len(row[column]) for row in rows) for column in (0, 1))
    lines = []
    for what, place, word in rows:
        line = f"{what:{first}}  {place:{second}}  {word}".rstrip()
        lines.append(line if len(line) <= WIDTH or not place else line[:WIDTH].rpartition(" ")[0] + " ...")
    return "\n".join(lines)


# ---- Numbers -----------------------------------------------------------------------------------------------

def result_name(entry: catalogue.Entry) -> str:
    """What a docstring's first equation calls the result.

    >>> result_name(catalogue.find("softmax")), result_name(catalogue.find("mse_loss"))
    ('p', 'loss')
    """
    return re.search(r"\b([a-z]+)(?:_k)?(?:\[.*?\])? \+?= ", prose(entry.thing)).group(1)


def _values(result, call, found):
    """The inputs' and gradients' values, axes of length 1 left out."""
    rows = [*call.leaves.items(), (result, found.y), (f"g{result}", found.gy)]
    rows += [(f"g{name}", "none" if gx is None else gx) for name, gx in found.of_leaves.items()]
    return "\n".join(_row(*row) for row in rows)


def _row(name, value):
    if isinstance(value, str):
        return f"{name} = {value}"
    head = f"{name}, of shape {value.shape} = " if value.ndim > 2 else f"{name} = "
    numbers = np.squeeze(value) if value.ndim > 2 else value
    return head + np.array2string(numbers, precision=4, suppress_small=True, threshold=40, edgeitems=2,
                                  max_line_width=WIDTH - 20, prefix=" " * len(head))


def _steps(rule, options):
    lines = [f"{'t':>2}  {'g':>12}  {'w by equations':>16}  {'w by step()':>16}"]
    rows = update_rule.steps(rule, options)
    lines += [f"{t:>2}  {g:12.8f}  {expected:16.12f}  {w:16.12f}" for t, g, expected, w in rows]
    equal = all(np.isclose(expected, w, rtol=1e-12) for *_, expected, w in rows)
    return "\n".join([*lines, "equal" if equal else "WRONG: they differ"])
