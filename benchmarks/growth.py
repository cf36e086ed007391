"""How the time of a training step of the FCN grows with the batch, the image, the width and the threads."""

import numba

from benchmarks import Images, random_batch, torch_side
from benchmarks.machine import set_threads
from benchmarks.measure import alternate, fastest, row, table
from benchmarks.tinynet_side import Trainer
from benchmarks.torch_side import EAGER, set_torch_threads

COUNTS = 1, 2, 4, 8, 16, 32, 64
SIZES = 32, 64, 128, 256, 512
WIDTHS = 8, 16, 32, 64, 128, 256
EFFORT = {"calls": 2, "seconds": 0.05}  # of a turn


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield "PyTorch runs eagerly, in the faster of its two layouts."
    yield ""
    yield "![Milliseconds of a training step](pictures/growth.png)"
    yield ""
    yield from table(
        "a training step of the FCN, ms", "tinynet", "PyTorch", "its layout", "PyTorch / tinynet"
    )
    for panel, points in _panels(run.machine.threads).items():
        curve = run.figures[panel] = []
        for x, images, width, threads in points:
            own, other, layout = _timed(images, width, threads, run.turns)
            curve.append((x, own.median, other.median))
            ratio = f"{other.median / own.median:.2f}"
            yield row(panel.format(x=x), own, other, layout, ratio)
    set_threads()


def _panels(threads):
    """{what grows: (its value, images, width, threads) of each point}"""
    doublings = [2**i for i in range(threads.bit_length()) if 2**i < threads]
    return {
        "{x} images of 64 x 64, width 32": [(n, Images(n, 64), 32, threads) for n in COUNTS],
        "1 image of {x} x {x}, width 32": [(size, Images(1, size), 32, threads) for size in SIZES],
        "1 image of 64 x 64, width {x}": [(width, Images(1, 64), width, threads) for width in WIDTHS],
        "16 images of 128 x 128, width 32, threads: {x}": [
            (n, Images(16, 128), 32, n) for n in [*doublings, threads]
        ],
    }


def _timed(images, width, threads, turns):
    """(tinynet's Timing, PyTorch's best, its layout)"""
    numba.set_num_threads(threads)
    set_torch_threads(threads)
    batch = random_batch("FCN", images)
    theirs = {way.layout: torch_side.Trainer("FCN", batch, way, width) for way in EAGER}
    steps = {layout: trainer.step for layout, trainer in theirs.items()}
    times = alternate({"tinynet": Trainer("FCN", batch, width).step, **steps}, turns, **EFFORT)
    layout = fastest(times, theirs)
    return times["tinynet"], times[layout], layout
