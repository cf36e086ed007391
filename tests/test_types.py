"""Type hints: everything public has them, they can be resolved, and mypy holds tinynet's users and tinynet to them."""

import dataclasses
import inspect
import re
import subprocess
import sys
import typing
from pathlib import Path

import pytest

import tinynet as tn
from tinynet import autograd, data, metrics, nn, optim, tensor
from tinynet.autograd import Op
from tinynet.nn import Module

ROOT = Path(tn.__file__).parent.parent
ABOVE = {name: getattr(tensor, name) for name in ("Tensor", "TensorLike", "Gradients")}     # unknown to floors below


def callables():
    """name -> function, of all that is public: functions, classes' constructors, methods and properties."""
    found = {}
    for home in (tn, nn, nn.init, optim, data, metrics, autograd):
        names = getattr(home, "__all__", None) or [n for n, thing in vars(home).items() if not n.startswith("_")
                                                  and getattr(thing, "__module__", None) == home.__name__]
        for name in names:
            thing = getattr(home, name)
            if inspect.isclass(thing):
                found |= {f"{thing.__module__}.{thing.__qualname__}.{n}": f for n, f in _methods(thing)}
            elif inspect.isfunction(thing):
                found[f"{thing.__module__}.{thing.__qualname__}"] = thing
    return found


def _methods(cls):
    """Those that tinynet wrote; what dataclass, NamedTuple and the like generate isn't in the class's source."""
    source, seen = inspect.getsource(cls), set()
    for base in cls.__mro__:
        for name, member in vars(base).items():
            if name in seen:
                continue
            seen.add(name)
            member = inspect.unwrap(getattr(member, "fget", None) or getattr(member, "__func__", member))
            is_private = name.startswith("_") and not name.startswith("__")
            if inspect.isfunction(member) and base.__module__.startswith("tinynet") and not is_private:
                if base is not cls or not dataclasses.is_dataclass(cls) or f"def {name}(" in source:
                    yield name, member


CALLABLES = callables()


def test_all_that_is_public_is_looked_at():
    assert len(CALLABLES) > 250
    for name in ("tinynet.ops.convolution.conv2d", "tinynet.tensor.Tensor.__getitem__", "tinynet.tensor.Tensor.shape",
                 "tinynet.nn.layers.Conv2d.__init__", "tinynet.nn.layers.Conv2d.load_state_dict",
                 "tinynet.optim.clip_grad_norm", "tinynet.autograd.Op.__call__", "tinynet.data.voc.VOC.__getitem__"):
        assert name in CALLABLES


@pytest.mark.parametrize("name", sorted(CALLABLES))
def test_every_parameter_and_result_has_a_hint_that_resolves(name):
    function = CALLABLES[name]
    hints = typing.get_type_hints(function, localns=ABOVE)
    parameters = list(inspect.signature(function).parameters)
    if "." in function.__qualname__ and parameters and parameters[0] in ("self", "cls"):
        parameters = parameters[1:]
    missing = [p for p in [*parameters, "return"] if p not in hints]
    assert not missing, f"{name} has no hint for {', '.join(missing)}"


def subclasses(cls):
    return {below for child in cls.__subclasses__() for below in (child, *subclasses(child))}


@pytest.mark.parametrize("op", sorted((op for op in subclasses(Op) if op.__module__.startswith("tinynet.")),
                                      key=lambda op: op.__qualname__), ids=lambda op: op.__name__)
def test_the_passes_of_every_op_say_that_arrays_go_forward_and_tensors_back(op):
    forward = typing.get_type_hints(op.forward, localns=ABOVE)
    backward = typing.get_type_hints(op.backward, localns=ABOVE)
    assert all("array" in str(hint).lower() for hint in forward.values()) and "return" in forward
    assert "Tensor" in str(backward.pop("return")) and set(backward.values()) == {tn.Tensor}


@pytest.mark.parametrize("layer", sorted((m for m in subclasses(Module) if m.__module__.startswith("tinynet.nn")),
                                         key=lambda m: m.__qualname__), ids=lambda m: m.__name__)
def test_layers_take_tensors_and_give_tensors(layer):
    if not layer.__name__.startswith("_"):
        hints = typing.get_type_hints(layer.forward)
        assert hints["x"] is hints["return"] is tn.Tensor


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What mypy --strict says of tinynet and of tests/typed, by file; once, for it takes some seconds."""
    pytest.importorskip("mypy")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context", "--no-pretty",
         "--cache-dir", str(tmp_path_factory.mktemp("mypy")), "tinynet", "tests/typed"],
        cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode in (0, 1), done.stdout + done.stderr
    return done.stdout.replace("\\", "/").splitlines()


def test_mypy_finds_nothing_in_the_package(checked):
    assert [line for line in checked if line.startswith("tinynet/")] == []


def test_mypy_strict_passes_what_users_write(checked):
    assert [line for line in checked if line.startswith("tests/typed/right.py")] == []


def test_mypy_rejects_every_mistake(checked):
    """A `type: ignore` at a line where mypy had nothing to complain of, or of something else, would be an error."""
    assert [line for line in checked if line.startswith("tests/typed/wrong.py")] == []
    text = (ROOT / "tests/typed/wrong.py").read_text()
    mistakes = text[text.index("    tn.Tensor([1.0], grad"):].splitlines()
    assert len(mistakes) > 25 and all(re.search(r"# type: ignore\[[a-z, -]+\]$", line) for line in mistakes)


def test_the_marker_for_type_checkers_is_there():
    assert (ROOT / "tinynet/py.typed").read_bytes() == b""
