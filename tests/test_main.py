"""The commands of python -m tinynet."""

import importlib
import subprocess
import sys

import numba
import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder, detection, detection_many, residual, segmentation
from tinynet import __main__, optim, warmup  # noqa: F401 (the last two for the process below)
from tinynet.kernels import jit


@pytest.mark.parametrize("arguments", [[], ["-h"], ["--help"]])
def test_the_commands_are_listed(arguments, capsys):
    assert __main__.main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 24 and max(map(len, lines)) <= 110                 # one screen
    for name, (module, what) in __main__.COMMANDS.items():
        assert any(line.split() == [name, *what.split()] for line in lines)
        assert callable(importlib.import_module(module).main)


def test_an_unknown_command_is_named():
    done = subprocess.run([sys.executable, "-m", "tinynet", "warm"], capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.startswith("python -m tinynet: there is no command 'warm'\n") and "warmup" in done.stderr


@pytest.mark.parametrize("name", __main__.COMMANDS)
def test_each_command_explains_itself(name, capsys):
    with pytest.raises(SystemExit, match="0"):
        __main__.main([name, "--help"])
    assert f"python -m tinynet {name}" in capsys.readouterr().out


def test_the_second_time_all_is_there(capsys):
    __main__.main(["warmup"])
    capsys.readouterr()
    __main__.main(["warmup"])
    where, what = capsys.readouterr().out.splitlines()
    assert where.endswith(f"kernels in {jit.cache_folder()}")
    assert what.startswith("all kernels are there already, ")


def examples_steps():
    """A training step of each network of the examples."""
    random = np.random.default_rng(0)
    images = random.random((2, 32, 32, 3), dtype=np.float32)
    classes, pixels = random.integers(0, 9, 2), random.integers(0, 9, (2, 32, 32))
    boxes = np.tile(np.float32([0.1, 0.2, 0.6, 0.7]), (2, 1))
    x = tn.Tensor(images)
    fcn = segmentation.FCN(9)
    yield fcn, tn.cross_entropy(fcn(x), pixels) + tn.dice_loss(fcn(x)[..., 0], (pixels > 4).astype(np.float32))
    for code in (8, (8, 8, 4)):
        cae = autoencoder.CAE((32, 32), 3, code)
        yield cae, tn.mse_loss(cae(x), x)
    for is_residual in (True, False):
        resnet = residual.ResNet(9, 8, residual=is_residual)
        yield resnet, tn.cross_entropy(resnet(x), classes)
    detector = detection.Detector(9, size=32)
    box, logits = detector(x)
    yield detector, detection.both(box, tn.Tensor(boxes)) + tn.cross_entropy(logits, classes)
    grid = detection_many.GridDetector(9)
    cells = [detection_many.assigned(boxes[:1], classes[i:i + 1], 8, 8) for i in range(2)]
    wanted, targets = (np.stack(each) for each in zip(*cells, strict=True))
    yield grid, detection_many.grid_loss(grid, (images, wanted, targets))


def overloads():
    """All that is compiled: (kernel, argument types)."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tinynet.kernels.")]
    dispatchers = {one.dispatcher for module in modules for one in vars(module).values() if hasattr(one, "dispatcher")}
    return {(one, types) for one in dispatchers for types in one.overloads}


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="nothing is compiled")
def test_examples_need_nothing_else():
    program = "\n".join([
        "from tests import test_main as here",
        "here.warmup.step()",
        "before = here.overloads()",
        "assert len(before) > 10",
        "for network, loss in here.examples_steps():",
        "    loss.backward()",
        "    here.optim.AdamW(network.parameters()).step()",
        "    here.optim.SGD(network.parameters(), lr=0.1, momentum=0.9).step()",
        "print(here.overloads() - before)",
    ])
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
