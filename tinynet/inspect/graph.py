"""The recorded graph, made into something to look at: its ops in the order of their computation, grouped by module.

Every op of a graph knows what it was computed from (Op.parents) and during which call of a module (Op.call). A module's
call takes a stretch of time, and the calls within it parts of this stretch: so in the order of time each call's ops
stand together, and the groups are nested as the calls were.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from tinynet.autograd import GraphError, Op, node, topological_order
from tinynet.inspect.drawing import draw
from tinynet.tensor import Tensor
from tinynet.typing import FilePath, Shape


class Box(NamedTuple):
    """An op of the graph."""

    label: str
    shape: str  # of its result
    notes: str  # what it takes that no op of the graph made: parameters, and what needs no gradient
    op: Op


class Group(NamedTuple):
    """A call of a module, with the boxes (their numbers) and groups inside, in the order of time."""

    title: str
    members: list[int | Group]


class Graph:
    """What graph() gives: .svg and .dot are texts, save(path) writes one of them; notebooks show the picture.

    boxes: the ops, first to last;  edges: (from, to), numbers of boxes;  members: boxes' numbers and Groups.
    """

    def __init__(self, outputs: list[Tensor]) -> None:
        nodes = [n for n in topological_order([node(t) for t in outputs]) if isinstance(n, Op)]
        ops = sorted(nodes, key=lambda op: op.number)
        place = {op: i for i, op in enumerate(ops)}
        self.edges = [(place[p], i) for i, op in enumerate(ops)
                      for p in dict.fromkeys(p for p in op.parents if isinstance(p, Op))]
        names = Names()
        shapes = _result_shapes(ops, outputs)
        self.boxes = [Box(label(op), times(shapes[op]), ", ".join(_notes(op, names)), op) for op in ops]
        self.members = _grouped(ops, names)

    @property
    def svg(self) -> str:
        """The picture, an SVG document."""
        return draw(self.boxes, self.edges, self.members)

    def _repr_svg_(self) -> str:
        return self.svg

    @property
    def dot(self) -> str:
        """The graph in the language of Graphviz, which lays it out in its own way."""
        lines = ["digraph tinynet {", '  node [shape=box, style=rounded, fontname="sans-serif"];',
                 '  graph [style=rounded, fontname="sans-serif"];', *_dot_members(self.members, self.boxes, "  ", [0]),
                 *(f"  n{a} -> n{b};" for a, b in self.edges), "}"]
        return "\n".join(lines) + "\n"

    def save(self, path: FilePath) -> None:
        """Write the picture to `path`, or the text for Graphviz if its name ends in .dot or .gv."""
        is_dot = Path(path).suffix.lower() in (".dot", ".gv")
        Path(path).write_text(self.dot if is_dot else self.svg, encoding="utf-8")


def graph(outputs: Tensor | Sequence[Tensor]) -> Graph:
    """The recorded graph of a tensor, such as a loss, or of several, as a picture: ops as boxes, modules as frames.

    A box holds an op's name, the shape of its result, and what it takes beside other ops' results, such as a layer's
    weight; pointing at it shows its formula and its gradients'. An arrow between neighbours goes straight down; one
    that skips boxes, as a skip connection does, is an arc at the side. Gradients recorded with create_graph=True are
    part of the graph, too, in groups that say of which op or layer they are the gradient.

    Call it before backward(), which frees the graph. Gives a Graph: .svg, .dot, .save(path).
    Raises GraphError where nothing was recorded, or it has been freed.

    >>> import tinynet as tn
    >>> x = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> picture = graph((x * x + x).sum())
    >>> [f"{box.label} {box.shape}" for box in picture.boxes], picture.edges
    (['Mul 2', 'Add 2', 'Sum 1', 'Reshape a number'], [(0, 1), (1, 2), (2, 3)])
    """
    outputs = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
    for output in outputs:
        if not isinstance(output, Tensor) or output.op is None:
            what = "tensor that no recorded op made" if isinstance(output, Tensor) else type(output).__name__
            raise GraphError(f"graph: got a {what}; give the result of a computation with tensors of which one "
                             "requires a gradient, outside no_grad()")
    return Graph(outputs)


def _result_shapes(ops, outputs):
    """Op -> shape of its result, which the ops know that take it."""
    shapes = {node(t): t.shape for t in outputs}
    for op in ops:
        shapes |= {p: shape for p, shape in zip(op.parents, op.shapes, strict=True) if isinstance(p, Op)}
    return shapes


def label(op: Op) -> str:
    """The op's class, and what it does besides."""
    return " + ".join([type(op).__name__, *also_does(op)])


def also_does(op: Op) -> list[str]:
    """What an op does besides what its class says: a list with "relu" or "pool" or both."""
    then = getattr(op, "then", op)
    return [name for name in ("relu", "pool") if getattr(then, name, False)]


def _notes(op, names):
    """What an op takes that no op made: parameters and other leaves, and constants (but for single numbers)."""
    for i, (parent, shape) in enumerate(zip(op.parents, op.shapes, strict=True)):
        if isinstance(parent, Op):
            continue
        argument = op.arguments[i] if i < len(op.arguments) else f"input {i}"
        if parent is not None:
            yield f"{names.of_parameter(parent, op.call) or argument} {times(shape)}"
        elif shape:
            yield f"given {argument} {times(shape)}"


def times(shape: Shape) -> str:
    return "×".join(map(str, shape)) if shape else "a number"


def _grouped(ops, names):
    """The numbers of the ops, in groups by the calls that they belong to."""
    top, around = [], []  # around: (call, its group) of the op before, outermost first
    for i, op in enumerate(ops):
        calls = _calls(op.call)
        shared = 0
        while shared < min(len(calls), len(around)) and calls[shared] is around[shared][0]:
            shared += 1
        del around[shared:]
        for call in calls[shared:]:
            group = Group(names.of_call(call), [])
            (around[-1][1].members if around else top).append(group)
            around.append((call, group))
        (around[-1][1].members if around else top).append(i)
    return top


def _calls(call):
    """The calls around an op, outermost first: of modules; or the op alone of whose backward it is a part."""
    calls = []
    while call is not None:
        calls.append(call)
        call = None if isinstance(call, Op) else call[1]
    return calls[::-1]


class Names:
    """What modules and parameters are called, from the outermost module of a call."""

    def __init__(self) -> None:
        self.known = {}  # a module -> names of its parts and parameters, by their ids

    def of_call(self, call: Any) -> str:
        """The title of a call's group: the module's name within the module that called it, and its class."""
        if isinstance(call, Op):
            whose = type(call).__name__ if call.call is None else self.of_call(call.call)
            return f"gradient of {whose}"
        module, outer = call
        path = self._path(call, module)
        if isinstance(outer, tuple):
            path = _below(self._path(call, outer[0]), path)
        return f"{path} {type(module).__name__}".strip()

    def of_parameter(self, parameter: Tensor, call: Any) -> str:
        """Its name within the module that is called; in a backward pass its name in the whole model."""
        if isinstance(call, tuple):
            return _below(self._path(call, call[0]), self._path(call, parameter))
        while isinstance(call, Op):
            call = call.call
        return self._path(call, parameter) if call else ""

    def place(self, call: Any) -> Any:
        """(the outermost module around a call of a module, the path in it of the one that is called)"""
        return _outermost(call), self._path(call, call[0])

    def _path(self, call, thing):
        root = _outermost(call)
        if root not in self.known:
            named = itertools.chain(root.named_modules(), root.named_parameters())
            self.known[root] = {id(part): name for name, part in named}
        return self.known[root].get(id(thing), "")


def _outermost(call):
    while isinstance(call[1], tuple):
        call = call[1]
    return call[0]


def _below(prefix, path):
    return path.removeprefix(prefix + ".") if prefix else path


def _dot_members(members, boxes, indent, count):
    """The lines of boxes and of groups, which Graphviz calls clusters."""
    for member in members:
        if isinstance(member, Group):
            count[0] += 1
            yield f"{indent}subgraph cluster_{count[0]} {{"
            yield f"{indent}  label={_quoted(member.title)};"
            yield from _dot_members(member.members, boxes, indent + "  ", count)
            yield f"{indent}}}"
        else:
            box = boxes[member]
            text = "\n".join(filter(None, (box.label, box.shape, box.notes)))
            yield f"{indent}n{member} [label={_quoted(text)}];"


def _quoted(text):
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
