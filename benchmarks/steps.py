"""Whole training steps of the FCN, its forward pass alone, and their memory: tinynet against PyTorch."""

import subprocess
import sys

from benchmarks import CLASSES, WIDTHS, random_batch, tinynet_side, torch_side
from benchmarks.measure import alternate, checked_error, number, relative_error, row, small, table
from benchmarks.memory import has_memory_figures
from benchmarks.torch_side import LAYOUTS, torch

COUNT, SIZE = 16, 128  # images in a batch, and their height and width
RATIO = "PyTorch / tinynet"

# Rounding is let through: batch norms one behind the other magnify it, and where it moves a value over ReLU's
# kink, the gradient really differs. A mistake is larger: a wrong layer turns it by tens of per cent.
MOST_LOSS, MOST_GRADIENT, MOST_LOGITS = 1e-5, 2e-2, 1e-3


def lines(peak):
    """The section's lines, each as soon as it is known; `peak` is of no use here."""
    batch = random_batch(COUNT, SIZE)
    ours = tinynet_side.Trainer(*batch)
    theirs = {layout: torch_side.Trainer(*batch, layout) for layout in LAYOUTS}
    yield f"FCN({CLASSES}, widths={WIDTHS}), {COUNT} images of {SIZE} x {SIZE}, cross-entropy, Adam."
    yield ""
    yield from _compared({"tinynet": ours, **theirs}, batch)
    yield ""
    yield from table("ms: median (minimum; quartiles)", "tinynet", "PyTorch", "its layout", RATIO)
    yield _timed("training step", ours.step, {layout: t.step for layout, t in theirs.items()})
    for trainer in (ours, *theirs.values()):
        trainer.model.eval()
    yield _timed("forward only, evaluation", ours.logits, {layout: t.logits for layout, t in theirs.items()})
    yield ""
    yield from _memory()


def _compared(trainers, batch):
    """What each trainer computes from the same parameters, against PyTorch in float64; raises if far off."""
    state = trainers["tinynet"].model.state_dict()
    exact = torch_side.Trainer(*batch, "contiguous", torch.float64)
    exact.take_state(state)
    loss, gradients, logits = _results(exact)
    yield from table(
        "relative difference to PyTorch in float64",
        "loss",
        "gradient as one vector",
        "its worst tensor",
        "logits",
    )
    for name, trainer in trainers.items():
        if name != "tinynet":
            trainer.take_state(state)
        own_loss, own_gradients, own_logits = _results(trainer)
        pairs = {key: (own_gradients[key], gradients[key]) for key in gradients}
        worst = max((relative_error(*pair), key) for key, pair in pairs.items())
        errors = (
            checked_error(f"loss, {name}", own_loss, loss, MOST_LOSS),
            checked_error(f"gradient, {name}", *zip(*pairs.values(), strict=True), MOST_GRADIENT),
            worst[0],
            checked_error(f"logits, {name}", own_logits, logits, MOST_LOGITS),
        )
        cells = [small(error) for error in errors]
        cells[2] += f" ({worst[1]})"
        yield row(name if name == "tinynet" else f"PyTorch, {name}", *cells)


def _results(trainer):
    """(loss, gradients by name, logits in evaluation after this one training forward pass)"""
    loss = trainer.loss()
    loss.backward()
    gradients = trainer.gradients()
    trainer.optimizer.zero_grad()
    trainer.model.eval()
    logits = trainer.logits()
    trainer.model.train()
    return loss.item(), gradients, logits


def _timed(name, own, others):
    times = alternate({"tinynet": own, **others})
    layout = min(others, key=lambda other: times[other].median)
    ratio = times[layout].median / times["tinynet"].median
    return row(name, times["tinynet"], times[layout], layout, f"{ratio:.2f}")


def _memory():
    """Each side in a process of its own: see memory.py."""
    if not has_memory_figures():
        yield "Peak memory: not measured, since it is read from Linux's /proc/self/status."
        return
    used = {side: _megabytes(side) for side in ("tinynet", *LAYOUTS)}
    layout = min(LAYOUTS, key=lambda layout: used[layout])
    yield from table("MB", "tinynet", "PyTorch", "its layout", RATIO)
    cells = number(used["tinynet"]), number(used[layout]), layout, f"{used[layout] / used['tinynet']:.2f}"
    yield row("peak memory of training", *cells)


def _megabytes(side):
    command = [sys.executable, "-m", "benchmarks.memory", side, str(COUNT), str(SIZE)]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
