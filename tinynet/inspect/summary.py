"""A dry run: what a model makes of an input shape, layer by layer, without computing anything.

The model's own forward runs, on arrays that have a shape but neither memory nor values (a single zero, repeated), and
no op computes: each only tells the shape of its result (Op.dry_run). So any forward made of tinynet's functions works,
at any size, at once; what it may not do is look at values, which are all zero.
"""

from __future__ import annotations

import html
from typing import Any, NamedTuple

import numpy as np

from tinynet.autograd import Op, dry_run, no_grad, running
from tinynet.guard import owner
from tinynet.inspect.fitting import shapes_that_fit
from tinynet.inspect.reach import Field, field_after, kept_arrays, multiply_adds
from tinynet.nn import Module
from tinynet.tensor import Tensor
from tinynet.typing import Array, Shape

COLUMNS = ("layer", "", "output", "parameters", "multiply-adds", "memory", "sees")


class Row(NamedTuple):
    """A line of the table: a layer's call, or an op that a larger module calls itself."""

    layer: str  # its path in the model
    kind: str  # its class
    output: Shape | tuple[Shape, ...]  # its output's shape; of several outputs a tuple of shapes
    parameters: int  # that it is the first to use
    multiply_adds: int  # of convolutions and products of matrices; all else is little beside them
    memory: int  # bytes of its output
    sees: Field | str | None  # the receptive field: a Field, "all", or None for what isn't made from an image


class Summary:
    """The table that summary() gives: print it, or read .rows and the totals.

    parameters, multiply_adds: of the whole model;  memory: bytes of all outputs;
    kept: bytes of activations that a training step keeps for its backward pass, as far as ops tell;
    output: the shape of the model's output (of several a tuple of shapes).
    """

    def __init__(self, model: Module, shapes: list[Shape], watcher: Watcher,
                 output: Shape | tuple[Shape, ...]) -> None:
        self.model, self.shapes, self.rows, self.output = type(model).__name__, shapes, watcher.rows, output
        self.parameters = sum(p.size for p in model.parameters())
        self.unused = self.parameters - sum(row.parameters for row in self.rows)
        self.multiply_adds = sum(row.multiply_adds for row in self.rows)
        self.memory = sum(row.memory for row in self.rows)
        self.kept = sum(watcher.kept.values())

    def __repr__(self) -> str:
        lines = [COLUMNS, *map(_cells, self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = ["  ".join(cell.ljust(width) if i < 3 else cell.rjust(width)
                          for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines]
        rule = "-" * max(map(len, text))
        return "\n".join([text[0], rule, *text[1:], rule, *self._totals()])

    def _totals(self):
        given = " and ".join(_times(shape) for shape in self.shapes)
        unused = f", {self.unused:,} of which forward doesn't use" if self.unused else ""
        yield f"{self.model}: {given} becomes {_output(self.output)}"
        yield f"{self.parameters:,} parameters{unused}; {count(self.multiply_adds)} multiply-adds"
        yield f"{size_of(self.memory)} of outputs, of which training keeps {size_of(self.kept)} for the backward pass"

    def _repr_html_(self):
        def line(cells, tag):
            return "<tr>" + "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells) + "</tr>"

        rows = "".join(line(_cells(row), "td") for row in self.rows)
        totals = "<br>".join(map(html.escape, self._totals()))
        return f"<table><thead>{line(COLUMNS, 'th')}</thead><tbody>{rows}</tbody></table><p>{totals}</p>"


def summary(model: Module, *shapes: Shape) -> Summary:
    """What `model` makes of inputs of these shapes: a table, layer by layer, at once for any size.

    Its columns: the layer's path and class; the output's shape; the parameters, counted where they are first used;
    multiply-adds, those of convolutions and products of matrices; the output's memory; what a pixel of the output sees
    of the image, its receptive field. Ops that a module calls itself, such as the addition of a skip, have lines of
    their own. Nothing is computed, compiled or changed: not the running statistics, not the random numbers.

    shapes: one for each argument of forward, with the batch axis. Gives a Summary.
    Raises ValueError for a shape that doesn't fit, naming the layer, what it got, and the nearest shapes that fit.

    >>> from tinynet import nn
    >>> summary(nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), (1, 64, 64, 3))
    layer             output           parameters  multiply-adds    memory  sees
    ----------------------------------------------------------------------------
    0      Conv2d     1 x 64 x 64 x 8         224         884.7K   128 KiB   3x3
    1      ReLU       1 x 64 x 64 x 8                              128 KiB   3x3
    2      MaxPool2d  1 x 32 x 32 x 8                             32.0 KiB   4x4
    ----------------------------------------------------------------------------
    Sequential: 1 x 64 x 64 x 3 becomes 1 x 32 x 32 x 8
    224 parameters; 884.7K multiply-adds
    288 KiB of outputs, of which training keeps 128 KiB for the backward pass
    """
    if not isinstance(model, Module):
        raise TypeError(f"summary: got a {type(model).__name__}, but must get a Module; for a function write a Module "
                        "whose forward calls it")
    shapes = [_checked(shape) for shape in shapes]
    watcher = Watcher(model)
    try:
        output = watcher.pass_through(shapes)
    except ValueError as error:
        raise ValueError(_complaint(model, shapes, watcher, error)) from error
    return Summary(model, shapes, watcher, output)


def _checked(shape):
    if not isinstance(shape, (tuple, list)) or not all(isinstance(n, (int, np.integer)) and n > 0 for n in shape):
        raise ValueError(f"summary: got the shape {shape!r}, but a shape is a tuple of positive integers such as "
                         "(1, 128, 128, 3), one for each argument of forward")
    return tuple(int(n) for n in shape)


class Watcher:
    """Stands in for all ops during a dry run, and writes down what is called and what it costs."""

    is_dry = True

    def __init__(self, model: Module) -> None:
        self.model = model
        self.paths = {id(module): path for path, module in model.named_modules()}
        self.unused = {id(parameter) for parameter in model.parameters()}
        self.rows = []
        self.fields = {}  # id of an array -> its receptive field
        self.made = {}  # id of the memory that ops made -> how many were made before
        self.kept = {}  # id of the memory that the backward pass will read -> bytes
        self.arrays = []  # all arrays met: while they live, no other has their id
        self.innermost = None  # the call that was entered last
        self.got = None  # the shapes that a failing layer got

    def pass_through(self, shapes: list[Shape]) -> Shape | tuple[Shape, ...]:
        """Run the model on such inputs; returns the shape of its output."""
        dtype = next((p.dtype for p in self.model.parameters()), np.float32)
        inputs = [Tensor(0.0).wrap(np.broadcast_to(np.zeros((), dtype), shape)) for shape in shapes]
        for x in inputs:
            self._note(x.array, Field() if x.ndim == 4 else None)
        with no_grad(), dry_run(self):
            return _shapes(self.model(*inputs))

    def call(self, call: tuple[Module, Any], inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """A module is called: run its forward. If it calls no other modules, it is a layer and gets a row."""
        module, _ = self.innermost = call
        rows, made = len(self.rows), len(self.made)
        try:
            output = module.forward(*inputs, **options)
        except ValueError:
            self.got = self.got or _shapes(inputs)
            raise
        if self.innermost is call:  # then the rows are those of its ops: they become one
            ops = self.rows[rows:]
            self.rows[rows:] = [self._row(module, type(module).__name__, output, made, ops)]
        return output

    def run(self, op: Op, inputs: tuple[Tensor, ...], arrays: list[Array]) -> Tensor:
        """An op is called: its result, a tensor without values. It gets a row, for now."""
        y = op.dry_run(*arrays)
        shapes = [a.shape for a in arrays]
        self._note(y, field_after(op, shapes, y.shape, [self.fields.get(id(x.array)) for x in inputs]))
        made = len(self.made)
        self.made.setdefault(id(owner(y)), made)
        first_used = {id(x): x.size for x in inputs if id(x) in self.unused}
        self.unused -= first_used.keys()
        for array in kept_arrays(op, arrays, y):
            self._keep(array)
        cost = Row("", "", (), sum(first_used.values()), multiply_adds(op, shapes), 0, None)
        module = running.call[0] if running.call else self.model
        output = inputs[0].wrap(y)
        self.rows.append(self._row(module, type(op).__name__, output, made, [cost]))
        return output

    def _row(self, module, kind, output, made, ops):
        """The row of what was computed since `made` pieces of memory were there, by ops of these rows."""
        tensors = _tensors(output)
        new = {id(owner(t.array)): t.array.nbytes for t in tensors
               if self.made.get(id(owner(t.array)), -1) >= made}
        sees = self.fields.get(id(tensors[0].array)) if tensors else None
        return Row(self.paths.get(id(module), ""), kind, _shapes(output), sum(row.parameters for row in ops),
                   sum(row.multiply_adds for row in ops), sum(new.values()), sees)

    def _note(self, array, field):
        self.arrays.append(array)
        self.fields[id(array)] = field

    def _keep(self, array):
        """The backward pass will read this array: it counts if it is an op's result (parameters are there anyway)."""
        key = id(owner(array))
        if key in self.made:
            self.kept[key] = max(array.nbytes, self.kept.get(key, 0))


def _complaint(model, shapes, watcher, error):
    """The sentence about shapes that don't fit: where, what was got and needed, and what would fit."""
    def fits(others):
        try:
            Watcher(model).pass_through(others)
        except ValueError:
            return False
        return True

    _, path, layer, _ = error.place
    where = f"{path}, {layer}," if path else layer
    given = " and ".join(map(str, shapes))
    others = [" and ".join(map(str, found)) for found in shapes_that_fit(shapes, fits)]
    advice = f"the nearest that would fit: {', '.join(others)}" if others else "no shape like it would fit"
    return f"summary: {type(model).__name__} can't take {given}: {where} got {_listed(watcher.got)}: {error}; {advice}"


def _tensors(value):
    """The tensors in a module's output: itself, or those of a tuple, list or dict."""
    if isinstance(value, Tensor):
        return [value]
    values = value.values() if isinstance(value, dict) else value if isinstance(value, (tuple, list)) else ()
    return [tensor for item in values for tensor in _tensors(item)]


def _shapes(value):
    """The shape of a tensor; of several a tuple of shapes."""
    return value.shape if isinstance(value, Tensor) else tuple(tensor.shape for tensor in _tensors(value))


def _listed(shapes):
    return str(shapes[0]) if len(shapes) == 1 else str(shapes)


def _cells(row):
    return (row.layer, row.kind, _output(row.output), f"{row.parameters:,}" if row.parameters else "",
            count(row.multiply_adds) if row.multiply_adds else "", size_of(row.memory) if row.memory else "",
            "-" if row.sees is None else str(row.sees))


def _output(shape):
    several = shape and isinstance(shape[0], tuple)
    return " and ".join(map(_times, shape)) if several else _times(shape)


def _times(shape):
    return " x ".join(map(str, shape)) if shape else "a number"


def count(n: int) -> str:
    """A large number in short: 9,408, 12.3K, 451.7M."""
    if n < 10_000:
        return f"{n:,}"
    power = min((len(str(n)) - 1) // 3, 4)
    return f"{n / 1000**power:.1f}{' KMGT'[power]}"


def size_of(n: int) -> str:
    power = min((max(n, 1).bit_length() - 1) // 10, 3)
    value = n / 1024**power
    return f"{value:.{0 if power == 0 or value >= 100 else 1}f} {('B', 'KiB', 'MiB', 'GiB')[power]}"
