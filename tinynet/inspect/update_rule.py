"""An optimiser's equations, taken from its docstring and computed: they must give what its step() gives.

    m = beta1 m + (1 - beta1) g          as Python:  m = beta1 * m + (1 - beta1) * g
"""

from __future__ import annotations

import inspect
import math
import re
import sys
from typing import Any

import numpy as np

import tinynet as tn
from tinynet.inspect.worked import first, run

STEPS = 3


def equations(rule: type) -> list[tuple[str, str]]:
    """[(name, formula)] of the docstring's lines of the form `name = formula`; what follows a gap is a remark.

    >>> from tinynet import optim
    >>> equations(optim.RMSProp)[1]
    ('v', 'alpha v + (1 - alpha) g^2')
    """
    prose = inspect.getdoc(rule).partition(">>>")[0]
    return re.findall(r"^ *(\w) = (.*?)(?:  .*)?$", prose, re.MULTILINE)


def as_python(formula: str) -> str:
    """A formula as an expression: a product is written as two factors side by side, a power with ^.

    >>> as_python("lr (m / (1 - beta1^t))")
    'lr * ( m / ( 1 - beta1 ** t ) )'
    """
    words, before = [], ""
    for word in re.findall(r"[A-Za-z_]\w*|\d+|\S", formula):
        if re.match(r"[\w)]", before) and re.match(r"[\w(]", word) and before != "sqrt":
            words.append("*")
        words.append(word.replace("^", "**"))
        before = word
    return " ".join(words)


def recorded(rule: type) -> tuple[list[str], dict[str, Any]]:
    """(the lines of the docstring's example, the settings of the optimiser that it makes)."""
    made = []

    def make(*arguments, **options):
        made.append(options)
        return rule(*arguments, **options)

    lines = run(inspect.getdoc(rule), vars(sys.modules[rule.__module__]) | {rule.__name__: make})
    return lines, first(made, rule)


def steps(rule: type, options: dict[str, Any]) -> list[Any]:
    """[(t, g, w by the equations, w by step())] on the valley w^2, from w = 1 on."""
    w = tn.Tensor(np.ones(1), requires_grad=True)
    optimizer = rule([w], **options)
    names = {"w": 1.0, "v": 0.0, "m": 0.0, "u": 0.0, "sqrt": math.sqrt}
    names |= {name: getattr(optimizer, name) for name in optimizer.settings}
    found = []
    for t in range(1, STEPS + 1):
        names |= {"t": t, "g": 2 * names["w"]}
        g = names["g"]
        for name, formula in equations(rule):
            names[name] = eval(as_python(formula), {}, names)
        optimizer.zero_grad()
        (w * w).sum().backward()
        optimizer.step()
        found.append((t, g, names["w"], w.numpy().item()))
    return found
