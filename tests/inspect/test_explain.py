"""The cards: every public name has every part, what they say is so, and names are found however they are spelt."""

import os
import re
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, ops, optim
from tinynet.autograd import Op
from tinynet.inspect import catalogue, explain, sources, twins, update_rule, worked

ENTRIES = {entry.name: entry for entry in catalogue.entries()}
EQUATION = re.compile(r"\b[a-z]+(_k)?(\[.*?\])? \+?= ")
SHAPES = re.compile(r"\b[Ss]hapes?\b|\(N, |\(\.\.\., |matrix")
PLACE = re.compile(r"\b((?:tinynet|tests)/[\w/]+\.py):(\d+)")


@pytest.fixture(scope="module")
def sections():
    """A card's sections, made once for all tests."""
    made = {}

    def of(name):
        if name not in made:
            made[name] = explain.sections(ENTRIES[name])
        return made[name]

    return of


def rows(where):
    """{what: the rest of the line} of the table of places."""
    return {line[:line.find("  ", 2)].strip(): line for line in where.splitlines()}


def test_no_public_name_is_left_out():
    layers = {name for name in nn.__all__ if isinstance(getattr(nn, name), type)} - {"Module", "Parameter"}
    rules = {name for name, thing in vars(optim).items() if isinstance(thing, type) and hasattr(thing, "step")}
    assert set(ENTRIES) == {*ops.__all__, *layers, *rules - {"Optimizer"}}


@pytest.mark.parametrize("name", ENTRIES)
def test_every_part_is_there(name, sections):
    entry, parts = ENTRIES[name], sections(name)
    assert EQUATION.search(parts[""]), "no equation of forward"
    assert SHAPES.search(parts[""]), "no shapes"
    where = rows(parts["Where"])
    assert PLACE.search(where[name])
    assert PLACE.search(where["naive twin"])
    kernels = [line for what, line in where.items() if what.startswith("kernel")]
    assert kernels and all(PLACE.search(line) or "NumPy's own" in line for line in kernels)
    example = parts["Example"].splitlines()
    assert any(line.startswith(">>>") for line in example) and re.search(r"\d", example[-1]), "no worked example"
    if entry.is_optimizer:
        assert PLACE.search(where["step"]) and PLACE.search(where["_update"])
    else:
        assert re.search(r"^\s*g\w+(\[.*?\])? \+?= ", parts["Gradient"], re.MULTILINE), "no equation of the gradient"
        if "It is made of" in parts["Gradient"]:
            own = re.sub(r"^as tinynet\.\w+:\s*", "", parts["Gradient"])
            assert re.match(r"g\w+(\[.*?\])? \+?= ", own), "no equation of the whole's gradient"
        forward = [line for what, line in where.items() if what.startswith("op ")]
        assert forward and all(PLACE.search(line) and "backward in line " in line for line in forward)
        values = next(text for heading, text in parts.items() if heading.startswith("Its gradients"))
        result = explain.result_name(entry)
        for one in (result, f"g{result}", *(re.findall(r"^(g\w+)", values, re.MULTILINE))):
            assert re.search(rf"^{one}(, of shape .*)? = .*\d", values, re.MULTILINE), f"no value of {one}"


@pytest.mark.parametrize("family", sorted({entry.family for entry in ENTRIES.values()}))
def test_the_check_passes(family, sections):
    for name, entry in ENTRIES.items():
        if entry.family == family:
            (verdict,) = (text for heading, text in sections(name).items() if heading.startswith("Check"))
            assert "WRONG" not in verdict and "kinks" not in verdict, f"{name}: {verdict}"
            assert verdict.count("equal") >= (1 if entry.is_optimizer else 2)


def test_places_are_right(sections):
    """At each place there is the beginning of a function or class."""
    for name in ENTRIES:
        for file, line in PLACE.findall(sections(name)["Where"]):
            text = (sources.ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
            begins = re.match(r"\s*(def|class) |\w+ = |.*(np\.|lambda|getattr)", text)
            assert begins, f"{name}: {file}:{line} is {text!r}"


@pytest.mark.parametrize("name, wanted", [
    ("relu", ["op Relu ", "kernel relu ", "kernel relu_grad ", "loop elementwise ", "naive/activation.py"]),
    ("conv2d", ["op Gather ", "runs Scatter ", "kernel scatter ", "loop convolve ", "kernels/winograd.py", "tile.py",
                "naive/convolution.py"]),
    ("nn.Conv2d", ["forward ", "op Gather ", "tinynet/nn/layers.py"]),
    ("batch_norm", ["op Normalize ", "kernel statistics ", "runs InputGradient "]),
    ("log", ["NumPy's own functions do it", "in NumPy: np.log"]),
    ("AdamW", ["kernel adam ", "adamw"]),
    ("dice_loss", ["dice_of_classes"]),
])
def test_places_name_what_runs(name, wanted, sections):
    where = sections(catalogue.find(name).name)["Where"]
    assert not [words for words in wanted if words not in where]


@pytest.mark.parametrize("name, found", [
    ("conv2d", ops.conv2d), ("nn.Conv2d", nn.Conv2d), ("Conv2d", nn.Conv2d), ("nn.conv2d", nn.Conv2d),
    ("CONV2D", ops.conv2d), ("tinynet.nn.batchnorm2d", nn.BatchNorm2d), ("batchnorm", ops.batch_norm),
    ("relu", ops.relu), ("ReLU", nn.ReLU), ("optim.Adam", optim.Adam), ("adam", optim.Adam), ("tn.sum", ops.sum),
])
def test_names_are_found(name, found):
    assert catalogue.find(name).thing is found


@pytest.mark.parametrize("name, near", [("conv", "conv2d"), ("gealu", "gelu"), ("maxpool", "max_pool2d"),
                                        ("crossentropy_loss", "cross_entropy"), ("optim.adem", "Adam")])
def test_near_names_are_suggested(name, near):
    with pytest.raises(LookupError, match=rf"there is no '{name}'; near names: .*\b{near}\b"):
        catalogue.find(name)


def test_the_command(capsys):
    assert explain.main([]) == 0
    listed = capsys.readouterr().out
    assert all(re.search(rf"^    {name} +\S", listed, re.MULTILINE) for name in ENTRIES)
    assert max(map(len, listed.splitlines())) <= 120
    places = [listed.index(f"\n    {name} ") for name in ("exp", "relu", "sum", "conv2d", "Conv2d", "mse_loss", "SGD")]
    assert places == sorted(places)
    assert explain.main(["hyperconv"]) == 2
    assert "there is no 'hyperconv'" in capsys.readouterr().err


def test_without_the_tests_a_sentence_says_so(tmp_path):
    assert twins.twin(ENTRIES["conv2d"], root=tmp_path) == ("", twins.NOT_HERE)
    shutil.copytree(sources.ROOT / "tinynet", tmp_path / "tinynet", ignore=shutil.ignore_patterns("__pycache__"))
    done = subprocess.run([sys.executable, "-m", "tinynet", "explain", "exp"], cwd=tmp_path, capture_output=True,
                          text=True, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 0 and done.stdout.startswith("exp(x)\n") and "gx = gy y" in done.stdout
    assert twins.NOT_HERE in done.stdout and done.stdout.count("tests/") == 1


class Doubled(Op):
    """y = 2 x;  gx = 2 gy"""

    def forward(self, x):
        return 2 * x

    def backward(self, gy):
        return gy * 3


def test_a_wrong_gradient_is_seen():
    call = worked.Call([], {"x": np.ones(2)}, lambda x: Doubled()(x))
    first, _ = worked.check(call)
    assert "WRONG" in first and "a constant factor of 1.5" in first


def test_a_wrong_update_is_seen(monkeypatch):
    true = update_rule.equations(optim.Adam)
    assert [name for name, _ in true] == ["g", "m", "v", "w"]
    wrong = [(name, formula.replace("beta2^t", "beta1^t")) for name, formula in true]
    monkeypatch.setattr(update_rule, "equations", lambda rule: wrong)
    assert explain.sections(ENTRIES["Adam"])["Check: the equations above, computed, and step(), on w^2"].endswith(
        "WRONG: they differ")


def test_the_example_is_run_and_not_copied():
    assert worked.run(">>> a = 2\n>>> print(a,\n...       b)\nsomething else\n", {"b": 7}) == [
        ">>> a = 2", ">>> print(a,", "...       b)", "2 7"]


def test_values_of_the_gradient():
    found = worked.gradients(worked.of_function(tn.sqrt))
    np.testing.assert_allclose(found.of_leaves["x"], [1 / 4, 2 / 6])


def test_an_example_that_calls_something_else_is_named():
    def lonely(x):
        """y = x

        >>> 1 + 1
        2
        """
        return x

    with pytest.raises(LookupError, match="lonely: the example in its docstring doesn't call it"):
        worked.of_function(lonely)
