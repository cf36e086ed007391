"""Every kernel of a training step of the FCN under the machine's two roofs: multiply-adds, and memory."""

from benchmarks.convolutions import KINDS, Convolution, cases
from benchmarks.measure import fastest_time, number, row, table

# The FCN of tinynet_networks.py, layer by layer.
LAYERS = (
    Convolution(3, 32, 128),
    Convolution(32, 32, 128),
    Convolution(32, 64, 64),
    Convolution(64, 64, 64),
    Convolution(64, 128, 32),
    Convolution(128, 128, 32),
    Convolution(128, 128, 16),
    Convolution(64, 12, 32, 1),
    Convolution(128, 12, 16, 1),
    Convolution(128, 12, 8, 1),
    Convolution(12, 12, 8, 4, 2, transposed=True),
    Convolution(12, 12, 16, 4, 2, transposed=True),
    Convolution(12, 12, 32, 8, 4, transposed=True),
)
CALLS = 20  # of each kernel, for each turn


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield "![Arithmetic intensity against speed](pictures/roofline.png)"
    yield ""
    yield (
        "The convolutions of a step, each alone, at its fastest; 3x3 128->128 @16 occurs twice "
        "in it. Operations"
    )
    yield (
        "are those of the definition; Winograd's algorithm needs fewer and may pass the roof. "
        "Bytes count each"
    )
    yield (
        "number once; what is still in the caches needn't come from memory, so the slanted "
        "roof may be passed, too."
    )
    yield ""
    yield from table("kernel", "operations / byte", "GFLOP/s", "of the roof there")
    run.figures["roofs"] = {"peak": run.machine.peak, "bandwidth": run.machine.bandwidth}
    dots = run.figures["dots"] = {kind: [] for kind in KINDS}
    for case in cases(LAYERS):
        layer, kind = case.name.rsplit(", ", 1)
        if layer == LAYERS[0].name and kind == "input gradient":
            continue  # nobody asks for the images' gradient
        intensity, speed = (
            case.operations / case.bytes,
            case.operations / fastest_time(case.own, CALLS * run.turns),
        )
        dots[kind].append((layer, intensity, speed))
        roof = min(run.machine.peak, run.machine.bandwidth * intensity)
        yield row(case.name, number(intensity), number(speed / 1e9), f"{100 * speed / roof:.0f} %")
