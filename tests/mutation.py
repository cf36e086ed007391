"""Would the tests notice? Mutation testing: small mistakes are made in the source, one at a time; a test must fail.

    python -m tests.mutation                        150 mutants, drawn evenly from tinynet/ops and the engine
    python -m tests.mutation --sample 0             all of them
    python -m tests.mutation tinynet/autograd.py    of one file only

A mutant is the syntax tree of a file with one node changed: `<` to `<=`, `+` to `-`, a number by one, a condition
negated, two arguments exchanged, a statement or a gradient left out. For each, a process is forked from one that has
all kernels loaded, imports tinynet with this one file changed, and runs the tests that mirror the file, up to the first
that fails. A mutant that no test kills is printed: a test is missing, or the change makes no difference. If all mutants
of a file are killed, the file is tried unchanged as well: it has to survive.
"""

import argparse
import ast
import copy
import importlib.machinery
import importlib.util
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECONDS = 40  # of computing, for the tests of a mutant; one that never ends counts as killed
ENGINE = ["tests/test_autograd.py", "tests/test_tensor.py", "tests/ops/test_arithmetic.py", "tests/ops/test_layout.py",
          "tests/ops/test_reduction.py", "tests/test_guard.py"]
SLOW = "tests/test_autograd.py::test_chain_of_100_000_ops"  # is left out
TESTS = {  # the tests of a file, the quickest first; of tinynet/ops/x.py also tests/ops/test_x.py
    "tinynet/autograd.py": ENGINE,
    "tinynet/tensor.py": [*ENGINE[1:], "tests/test_autograd.py"],
    "tinynet/operators.py": [*ENGINE[1:], "tests/test_autograd.py"],
    "tinynet/shapes.py": ["tests/test_shapes.py", "tests/ops/test_pooling.py", "tests/ops/test_convolution.py",
                          "tests/nn/test_layers.py"],
    "tinynet/ops/convolution.py": ["tests/nn/test_fusion.py"],
    "tinynet/ops/resize.py": ["tests/ops/test_pooling.py"],
}

SWAPS = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.In: ast.NotIn, ast.NotIn: ast.In, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv, ast.Pow: ast.Mult, ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}


class Mutator(ast.NodeTransformer):
    """Counts the places where something can be changed, and changes the one with the number `target`."""

    def __init__(self, target=None):
        self.target, self.count, self.what, self.function = target, 0, None, None

    def visit(self, node):
        if isinstance(node, ast.JoinedStr) or _is_text(node) or isinstance(node, ast.keyword) and node.arg == "strict":
            return node  # sentences and docstrings stay as they are; zip's `strict` makes no difference to right code
        function = self.function
        if isinstance(node, ast.FunctionDef):
            self.function = node.name
            node.body = [self.visit(n) for n in node.body]
            node.args.defaults = [self.visit(n) for n in node.args.defaults]
        elif not isinstance(node, (ast.Raise, ast.ImportFrom, ast.Import)):
            node = self.generic_visit(node)
        for changed, what in self.changes(node):
            if self.count == self.target:
                self.what = f"{node.lineno}: {what}:  {ast.unparse(node).splitlines()[0][:90]}"
                node = ast.copy_location(changed, node)
            self.count += 1
        self.function = function
        return node

    def changes(self, node):
        """(changed node, description) for each way to change this one."""
        if isinstance(node, ast.Compare):
            yield _with(node, ops=[SWAPS[type(node.ops[0])](), *node.ops[1:]]), "another comparison"
        elif isinstance(node, (ast.BinOp, ast.AugAssign)) and type(node.op) in SWAPS:
            yield _with(node, op=SWAPS[type(node.op)]()), f"{type(node.op).__name__} to {SWAPS[type(node.op)].__name__}"
        elif isinstance(node, ast.BoolOp):
            yield _with(node, op=SWAPS[type(node.op)]()), "and for or, or for and"
        elif isinstance(node, ast.UnaryOp):
            yield node.operand, f"{type(node.op).__name__} left out"
        elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
            yield ast.Constant(not node.value), "True for False, False for True"
        elif isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            yield ast.Constant(node.value + 1), "a number plus 1"
        elif isinstance(node, (ast.If, ast.IfExp)):
            yield _with(node, test=ast.UnaryOp(ast.Not(), node.test)), "the condition negated"
        elif isinstance(node, ast.Call) and len(node.args) > 1 and not isinstance(node.args[1], ast.Starred):
            first, second, *rest = node.args
            yield _with(node, args=[second, first, *rest]), "the first two arguments exchanged"
        elif isinstance(node, ast.Return) and self.function == "backward":
            parts = node.value.elts if isinstance(node.value, ast.Tuple) else [node.value]
            for i, part in enumerate(parts):
                if isinstance(part, ast.Constant):
                    continue
                some = [ast.Constant(None) if i == j else p for j, p in enumerate(parts)]
                yield _with(node, value=ast.Tuple(some, ast.Load())), f"gradient {i} left out"
        elif _can_go(node):
            yield ast.Pass(), "a statement left out"


def _with(node, **fields):
    changed = copy.copy(node)
    vars(changed).update(fields)
    return changed


def _is_text(node):
    node = node.value if isinstance(node, ast.Expr) else node
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def _can_go(node):
    """Statements whose absence isn't a NameError at once."""
    if isinstance(node, ast.Assign):
        return not isinstance(node.targets[0], (ast.Name, ast.Tuple))
    return isinstance(node, (ast.Expr, ast.Raise))


def count(source):
    """How many mutants a source has."""
    mutator = Mutator()
    mutator.visit(ast.parse(source))
    return mutator.count


def mutate(source, number):
    """The changed syntax tree, and what was changed in it."""
    mutator = Mutator(number)
    return ast.fix_missing_locations(mutator.visit(ast.parse(source))), mutator.what


class Changed(importlib.machinery.SourceFileLoader):
    """Imports the code that it is given in place of the file's."""

    def __init__(self, path, code):
        self.module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
        super().__init__(self.module, str(path))
        self.code = code

    def get_code(self, fullname):
        return self.code

    def find_spec(self, fullname, path=None, target=None):
        found = fullname == self.module
        return importlib.util.spec_from_file_location(fullname, self.path, loader=self) if found else None


def run(tests):
    """pytest's exit code: 0 if all tests pass."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-p", "no:doctest", "-W", "ignore", f"--deselect={SLOW}"]
    return pytest.main([*options, "--override-ini=addopts=--import-mode=importlib", *(str(ROOT / t) for t in tests)])


def forget():
    """Let tinynet be imported anew, all but its kernels, which are loaded and don't change."""
    import tinynet.kernels as kernels

    for name in list(sys.modules):
        if name.split(".")[0] in ("tinynet", "tests") and not name.startswith("tinynet.kernels"):
            del sys.modules[name]
    return kernels


def in_child(work):
    """Run `work` in a forked child, silently; whether it returned 0."""
    child = os.fork()
    if not child:
        signal.setitimer(signal.ITIMER_PROF, SECONDS)  # its signal ends the process
        silent = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silent, 1)
        os.dup2(silent, 2)
        try:
            os._exit(int(work()))
        finally:
            os._exit(9)
    return os.waitpid(child, 0)[1] == 0


def survives(name, number):
    """Whether a file's mutant passes all of its tests, and what was changed."""
    path = ROOT / name
    tree, what = mutate(path.read_text(), number)
    code = compile(tree, str(path), "exec")

    def work():
        kernels = forget()
        sys.meta_path.insert(0, Changed(path, code))
        import tinynet

        tinynet.kernels = kernels
        return run(tests_of(name))

    return in_child(work), what


def tests_of(name):
    mirror = [f"tests/ops/test_{Path(name).name}"] if name.startswith("tinynet/ops/") else []
    return [*mirror, *TESTS.get(name, [])]


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="*", help="source files, from the project's folder (default: ops and engine)")
    parser.add_argument("--sample", type=int, default=150, help="how many mutants to draw; 0 for all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    names = arguments.files or [
        *(p.relative_to(ROOT).as_posix() for p in sorted(ROOT.glob("tinynet/ops/*.py")) if p.name != "__init__.py"),
        "tinynet/autograd.py", "tinynet/tensor.py", "tinynet/operators.py", "tinynet/shapes.py",
    ]
    os.environ |= {"NUMBA_NUM_THREADS": "1", "NUMBA_THREADING_LAYER": "workqueue"}  # that one lives on in a fork
    os.chdir(ROOT)
    sys.path.insert(0, str(ROOT))
    mutants = [(name, i) for name in names for i in range(count((ROOT / name).read_text()))]
    print(f"{len(mutants)} mutants; loading all kernels", flush=True)
    if run(sorted({t for name in names for t in tests_of(name)})):
        sys.exit("the tests fail before anything is changed")
    if arguments.sample:
        mutants = random.Random(arguments.seed).sample(mutants, min(arguments.sample, len(mutants)))
    begin, survivors = time.time(), []
    for done, (name, number) in enumerate(sorted(mutants), 1):
        alive, what = survives(name, number)
        if alive:
            survivors.append(name)
            print(f"survived: {name}:{what}", flush=True)
        if done % 25 == 0:
            print(f"{done} mutants, {done - len(survivors)} killed, {time.time() - begin:.0f} s", flush=True)
    for name in sorted({name for name, _ in mutants} - set(survivors)):
        if not survives(name, None)[0]:
            sys.exit(f"{name}: its tests fail in a forked child though nothing is changed: no fault of the mutants")
    killed = len(mutants) - len(survivors)
    print(f"killed {killed} of {len(mutants)}: {killed / len(mutants):.1%}")


if __name__ == "__main__":
    main()
