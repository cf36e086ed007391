"""The contestants in training and inference: set up with the same weights, compared with float64."""

from benchmarks import torch_side
from benchmarks.machine import has_bfloat16
from benchmarks.measure import checked_error, relative_error, row, small
from benchmarks.tinynet_side import Trainer
from benchmarks.torch_side import BFLOAT16, COMPILED, EAGER, torch

RATIO = "PyTorch / tinynet"

# Rounding is let through: batch norms one behind the other magnify it, and where it moves a value over ReLU's
# kink, the gradient really differs. A mistake is larger: a wrong layer turns it by tens of per cent.
MOST_LOSS, MOST_GRADIENT, MOST_OUTPUT = 1e-5, 2e-2, 1e-3
ERROR_HEAD = (
    "relative difference to PyTorch in float64",
    "loss",
    "gradient as one vector",
    "its worst tensor",
    "outputs",
)


def trainers(name, batch, ways):
    """{contestant: trainer} with the same first weights: tinynet's, and PyTorch's for each of its ways."""
    torch.compiler.reset()  # what was compiled for the network before counts towards a limit
    ours = Trainer(name, batch)
    theirs = {way.name: torch_side.Trainer(name, batch, way) for way in ways}
    for trainer in theirs.values():
        trainer.take_state(ours.model.state_dict())
    return {"tinynet": ours, **theirs}


def in_float32(contestants):
    """Those that can be compared: bfloat16 rounds to three digits."""
    return {key: each for key, each in contestants.items() if key != BFLOAT16.name}


def exact_trainer(name, batch, state):
    """PyTorch in float64, with the same weights."""
    trainer = torch_side.Trainer(name, batch, torch_side.Way("contiguous"), dtype=torch.float64)
    trainer.take_state(state)
    return trainer


def error_rows(name, batch, contestants):
    """A row for each contestant: how far it is from float64 at the same weights; raises if far off."""
    loss, gradients, outputs = exact_trainer(name, batch, contestants["tinynet"].model.state_dict()).results()
    for contestant, trainer in contestants.items():
        own_loss, own_gradients, own_outputs = trainer.results()
        pairs = {key: (own_gradients[key], gradients[key]) for key in gradients}
        worst = max((relative_error(*pair), key) for key, pair in pairs.items())
        errors = (
            checked_error(f"{name}'s loss, {contestant}", own_loss, loss, MOST_LOSS),
            checked_error(
                f"{name}'s gradient, {contestant}", *zip(*pairs.values(), strict=True), MOST_GRADIENT
            ),
            worst[0],
            checked_error(f"{name}'s outputs, {contestant}", own_outputs, outputs, MOST_OUTPUT),
        )
        cells = [small(error) for error in errors]
        cells[2] += f" ({worst[1]})"
        yield row(f"{name}, {contestant}", *cells)


def ways():
    """(PyTorch's ways in float32 that can run here, all its ways that can, what to say of the others)"""
    trouble = torch_side.compiler_trouble()
    floats = [*EAGER] if trouble else [*EAGER, *COMPILED]
    remark = "PyTorch: the fastest of eager and torch.compile, in two layouts."
    if trouble:
        remark = f"Without torch.compile, which can't run here ({trouble})."
    return floats, [*floats, BFLOAT16] if has_bfloat16() else floats, remark


def batch_name(name, images):
    return f"{name}, {images.count} x {images.size} x {images.size}"
