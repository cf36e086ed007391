"""What the write protection (tinynet/guard.py) costs: training steps with it and without it, in turns."""

import numpy as np

from benchmarks import Images, random_batch
from benchmarks.measure import alternate, row, table
from benchmarks.tinynet_side import Trainer
from tinynet import autograd, guard

# The protection costs by the op, not by the byte: so once at full size, and once with little but ops.
BATCHES = Images(16, 128), Images(1, 16)

STUBS = (
    (autograd, "Keep", lambda arrays: None),
    (guard, "publish", lambda array: None),
    (guard, "is_kept", lambda array: False),
)


def unprotected(call):
    """The same call with the protection taken out of the framework while it runs."""

    def run():
        originals = [getattr(module, name) for module, name, _ in STUBS]
        for module, name, stub in STUBS:
            setattr(module, name, stub)
        try:
            return call()
        finally:
            for (module, name, _), original in zip(STUBS, originals, strict=True):
                setattr(module, name, original)

    return run


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield "Training steps of the FCN, Adam."
    yield ""
    yield from table("ms: median (minimum; quartiles)", "protected", "unprotected", "cost")
    for images in BATCHES:
        yield _timed(images, run.turns)


def _timed(images, turns):
    batch = random_batch("FCN", images)
    protected, bare = Trainer("FCN", batch), Trainer("FCN", batch)
    step_bare = unprotected(bare.step)
    protected.step()
    step_bare()
    own, other = protected.model.state_dict(), bare.model.state_dict()
    if not all(np.array_equal(own[name], other[name]) for name in own):
        raise ValueError(
            "guard: a step without the write protection gives other parameters, but must give the same bits"
        )
    times = alternate({"protected": protected.step, "unprotected": step_bare}, turns)
    cost = times["protected"].median / times["unprotected"].median - 1
    return row(
        f"{images.count} x {images.size} x {images.size}",
        times["protected"],
        times["unprotected"],
        f"{100 * cost:+.1f} %",
    )
