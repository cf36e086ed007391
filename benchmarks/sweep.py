"""Every convolution of 8 to 256 channels on images of 8 to 128 pixels: where is PyTorch faster?"""

import math

from benchmarks.convolutions import BATCH, KINDS, Convolution, cases, compared, slowest
from benchmarks.measure import row, table

CHANNELS = (8, 16, 32, 64, 128, 256)
SIZES = (8, 16, 32, 64, 128)
KERNELS = (3, 1)
MOST_OPERATIONS = 8e9  # of a kernel: batches are smaller where they would have more
EFFORT = {"calls": 3, "seconds": 0.02}  # of a turn: there are many


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield (
        f"PyTorch's best layout / tinynet, for {KINDS[0]}, {KINDS[1]} and {KINDS[2]}; batches of {BATCH}, "
        f"fewer where a kernel would take more than {MOST_OPERATIONS / 1e9:.0f} billion operations."
    )
    ratios = run.figures.setdefault("ratios", {})
    for kernel in KERNELS:
        yield ""
        yield from table(f"{kernel}x{kernel}", *(f"{size} pixels" for size in SIZES))
        for c_in, c_out in _channels():
            layers = [_layer(c_in, c_out, size, kernel) for size in SIZES]
            found = [[_ratio(case, run, ratios) for case in cases([layer])] for layer in layers]
            yield row(f"{c_in} to {c_out}", *(" ".join(f"{ratio:.2f}" for ratio in three) for three in found))
    yield ""
    yield _summary(ratios)
    yield slowest(ratios, count=20)


def _channels():
    """As many out as in, and twice as many."""
    return [(c, c) for c in CHANNELS] + [(c, 2 * c) for c in CHANNELS[:-1]]


def _layer(c_in, c_out, size, kernel):
    one = Convolution(c_in, c_out, size, kernel, batch=1)
    return one._replace(batch=max(1, min(BATCH, int(MOST_OPERATIONS // one.operations))))


def _ratio(case, run, ratios):
    times, layout, _ = compared(case, run.turns, **EFFORT)
    ratios[case.name] = times[layout].median / times["tinynet"].median
    return ratios[case.name]


def _summary(ratios):
    least, name = min((ratio, name) for name, ratio in ratios.items())
    mean = math.exp(sum(map(math.log, ratios.values())) / len(ratios))
    return f"The smallest ratio is {least:.2f} ({name}), the geometric mean of all {mean:.2f}."
