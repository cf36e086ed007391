"""The naive twin of an op, layer or optimiser: found in the tests' own tables, by ast.

tests/test_every_op.py has a function for each op that returns (op, twin, inputs), and a table of the layers;
tests/test_optim.py has a table of the optimisers. The twin is a function of tests/naive/, or a line of NumPy.
"""

from __future__ import annotations

import ast
import re
from pathlib import Path

from tinynet.inspect.catalogue import Entry
from tinynet.inspect.sources import ROOT

NOT_HERE = "the naive twins are in the folder tests/ of the repository, which is not installed here"


def twin(entry: Entry, root: Path = ROOT) -> tuple[str, str]:
    """(file:line, what is there) of the twin; ("", a sentence) where there are no tests.

    >>> from tinynet.inspect.catalogue import find
    >>> twin(find("exp"), root=ROOT / "nowhere") == ("", NOT_HERE)
    True
    """
    file = root / "tests" / ("test_optim.py" if entry.is_optimizer else "test_every_op.py")
    if not file.exists():
        return "", NOT_HERE
    tree = ast.parse(file.read_text(encoding="utf-8"))
    expression = _in_table(tree, entry) if entry.is_layer or entry.is_optimizer else _in_case(tree, entry.name)
    if isinstance(expression, ast.Name):
        return f"tests/{file.name}:{_defined(tree, expression.id)}", expression.id
    text = ast.unparse(expression)
    for module, name in re.findall(r"\b(\w+)\.(\w+)", text):
        naive = root / "tests" / "naive" / f"{module}.py"
        if naive.exists():
            return f"tests/naive/{module}.py:{_defined(ast.parse(naive.read_text(encoding='utf-8')), name)}", name
    return f"tests/test_every_op.py:{expression.lineno}", f"in NumPy: {text}"


def _defined(tree, name):
    """The line of a module that defines a name."""
    for n in tree.body:
        targets = [n.name] if isinstance(n, ast.FunctionDef) else map(ast.unparse, getattr(n, "targets", []))
        if name in targets:
            return n.lineno
    raise LookupError(f"{name} isn't defined there")


def _in_table(tree, entry):
    """The twin of a layer in LAYERS, of an optimiser in RULES."""
    wanted = f"{'optim' if entry.is_optimizer else 'nn'}.{entry.name}"
    for n in ast.walk(tree):
        if isinstance(n, ast.Dict):
            for key, value in zip(n.keys, n.values, strict=True):
                if key is not None and ast.unparse(key) == wanted and isinstance(value, ast.Tuple):
                    return value.elts[1]
        elif entry.is_optimizer and isinstance(n, ast.Tuple) and ast.unparse(n.elts[0]) == wanted:
            return n.elts[1]
    raise LookupError(f"{wanted} isn't in the tests' table")


def _in_case(tree, name):
    """The twin that the @case function of an op returns: (op, twin, inputs)."""
    function = next(f for f in tree.body if isinstance(f, ast.FunctionDef) and name in _case_names(f))
    assigned = None
    for n in ast.walk(function):
        if isinstance(n, ast.Assign) and ast.unparse(n.targets[0]) in ("twin", "(fn, twin)"):
            value = _resolved(n.value, name)
            assigned = value.elts[1] if isinstance(value, ast.Tuple) else value
    returned = next(n.value for n in function.body if isinstance(n, ast.Return)).elts[1]
    return _Twin(name, assigned).visit(returned)


def _case_names(function):
    calls = [d for d in function.decorator_list if isinstance(d, ast.Call) and ast.unparse(d.func) == "case"]
    return [a.value for call in calls for a in call.args]


def _resolved(value, name):
    """{"a": ..., "b": ...}[name] is the value of that key."""
    if isinstance(value, ast.Subscript) and isinstance(value.value, ast.Dict):
        keys = [key.value for key in value.value.keys]
        return value.value.values[keys.index(name)]
    return value


class _Twin(ast.NodeTransformer):
    """Writes out what depends on the op's name: getattr(module, name), `x if name == ... else y`, and `twin` itself."""

    def __init__(self, name, assigned):
        self.name, self.assigned = name, assigned

    def visit_Name(self, n):
        return self.visit(self.assigned) if n.id == "twin" else n

    def visit_Call(self, n):
        if ast.unparse(n.func) == "getattr":
            return ast.copy_location(ast.Attribute(n.args[0], self.name, ast.Load()), n)
        return self.generic_visit(n)

    def visit_IfExp(self, n):
        holds = ast.unparse(n.test) == f"name == '{self.name}'"
        return self.visit(n.body if holds else n.orelse)
