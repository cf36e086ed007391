"""The public ops, layers, losses and optimisers in an order to read them in, and finding one by a careless name."""

from __future__ import annotations

import difflib
import inspect
import re
from typing import Any, NamedTuple

from tinynet import nn, ops, optim
from tinynet.inspect.sources import line

FAMILIES = {  # module -> heading: simplest first
    "tinynet.ops.arithmetic": "Functions of single elements",
    "tinynet.ops.activation": "Activations",
    "tinynet.ops.reduction": "Many elements to one",
    "tinynet.ops.layout": "Layout: elements move, and stay what they are",
    "tinynet.tensor": "The matrix product",
    "tinynet.ops.resize": "Images of another size",
    "tinynet.ops.pooling": "Pooling",
    "tinynet.ops.convolution": "Convolution, direct or by Winograd's way",
    "tinynet.ops.normalization": "Normalisation",
    "tinynet.nn.layers": "Layers",
    "tinynet.nn.blocks": "Layers made of layers",
    "tinynet.ops.loss": "Losses by element",
    "tinynet.ops.overlap_loss": "Losses of overlap",
    "tinynet.optim": "Optimisers",
}
PREFIXES = {"tn": ops, "tinynet": ops, "ops": ops, "nn": nn, "optim": optim}


class Entry(NamedTuple):
    """A public name, and what it stands for."""

    name: str
    thing: object
    home: object  # the module that one takes it from: ops, nn or optim

    @property
    def family(self) -> str:
        return FAMILIES[self.thing.__module__]

    @property
    def is_layer(self) -> bool:
        return self.home is nn

    @property
    def is_optimizer(self) -> bool:
        return self.home is optim


def entries() -> list[Entry]:
    """All of them, family by family, in each as their file has them.

    >>> [entry.name for entry in entries()][:3], [entry.name for entry in entries()][-4:]
    (['exp', 'log', 'sqrt'], ['SGD', 'Adam', 'AdamW', 'RMSProp'])
    """
    found = [Entry(name, getattr(ops, name), ops) for name in ops.__all__]
    layers = inspect.getmembers(nn, lambda thing: inspect.isclass(thing) and issubclass(thing, nn.Module))
    found += [Entry(name, thing, nn) for name, thing in layers if thing is not nn.Module]
    found += [Entry(name, thing, optim) for name, thing in vars(optim).items() if _is_optimizer(thing)]
    order = list(FAMILIES)
    return sorted(found, key=lambda entry: (order.index(entry.thing.__module__), line(entry.thing)))


def _is_optimizer(thing):
    return inspect.isclass(thing) and issubclass(thing, optim.Optimizer) and thing is not optim.Optimizer


def find(name: str) -> Entry:
    """The entry that a name means; a LookupError with near names if there is none.

    A prefix (nn., optim., tn.) says where to look. Of names that differ in case or underscores alone the exact one is
    taken, else the first: `relu` is the function, `ReLU` the layer.

    >>> find("nn.conv2d").thing.__module__, find("CONV2D").thing.__module__, find("adam").name
    ('tinynet.nn.layers', 'tinynet.ops.convolution', 'Adam')
    """
    prefix, _, last = name.rpartition(".")
    known = entries()
    if prefix:
        home = PREFIXES.get(prefix.rpartition(".")[2].lower())
        known = [entry for entry in known if home in (None, entry.home)]
    matches = [entry for entry in known if entry.name == last]
    matches += [entry for entry in known if _plain(entry.name) == _plain(last)]
    if not matches:
        raise LookupError(f"explain: there is no {name!r}{_near(last)}; without a name, all of them are listed")
    return matches[0]


def _plain(name):
    return name.lower().replace("_", "")


def _near(name):
    """Names that are spelt alike, or of which this one is a part."""
    plain = _plain(name)
    all_names = {entry.name: _plain(entry.name) for entry in entries()}
    parts = [full for full, other in all_names.items() if len(plain) > 2 and (plain in other or other in plain)]
    alike = difflib.get_close_matches(plain, all_names.values(), n=4)
    near = dict.fromkeys([full for full, other in all_names.items() if other in alike] + parts)
    return f"; near names: {', '.join(near)}" if near else ""


def listing() -> str:
    """All names with a line each."""
    lines, family = [], None
    for entry in entries():
        if entry.family != family:
            family = entry.family
            lines += ["", family]
        lines.append(f"    {entry.name:34}{first_sentence(entry.thing)}")
    return "\n".join(lines[1:])


def first_sentence(thing: Any) -> str:
    """What a docstring's first line says, as far as it fits."""
    first = re.split(r"\. (?=[A-Z])", inspect.getdoc(thing).partition("\n")[0])[0].rstrip(".:")
    return first if len(first) <= 78 else first[:78].rpartition(" ")[0] + " ..."
