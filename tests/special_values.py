"""What every operation gives for NaN, Inf, -0, denormals and empty arrays: the cases behind special_values.md.

`python -m tests.special_values` writes the table anew; test_special_values.py holds it to the code. The last column,
PyTorch's answer, is written by hand below: it was compared with PyTorch 2.13, cell by cell.
"""

from functools import partial
from pathlib import Path

import numpy as np

import tinynet as tn

TABLE = Path(__file__).with_suffix(".md")
SAME = "the same"
NO_ZEROS, ZEROS_IN_Y = "w meets no zeros of the padding", "w meets the padding's zeros in y alone"

NAN, INF, TINY = np.float32(np.nan), np.float32(np.inf), np.float32(1e-40)  # TINY is a denormal
NUMBERS = {"NaN": NAN, "+Inf": INF, "-Inf": -INF, "-0": np.float32(-0.0), "1e-40": TINY, "-100": np.float32(-100)}
PAIRS = {
    "NaN, 1": (NAN, 1), "1, NaN": (1, NAN), "Inf, Inf": (INF, INF), "Inf, -Inf": (INF, -INF), "Inf, 0": (INF, 0),
    "1, 0": (1, 0), "1, -0": (1, -0.0), "0, 0": (0, 0), "1e-40, 0.5": (TINY, 0.5),
}
IN_ROWS = {"NaN": NAN, "+Inf": INF, "-Inf": -INF, "-0": np.float32(-0.0), "1e-40": TINY}

# Functions of one number: the function, and how PyTorch differs.
ONE = {
    "exp": (tn.exp, SAME),
    "log": (tn.log, SAME),
    "sqrt": (tn.sqrt, SAME),
    "abs": (tn.abs, "the gradient at NaN is 0"),
    "-x": (lambda x: -x, SAME),
    "x ** 2": (lambda x: x**2, SAME),
    "x ** 0": (lambda x: x**0, SAME),
    "x ** -1": (lambda x: x**-1, SAME),
    "x ** 0.5": (lambda x: x**0.5, "the gradient at -Inf is NaN, at -0 -Inf"),
    "clip to [-1, 1]": (lambda x: tn.clip(x, -1, 1), "the gradient at NaN is 0"),
    "relu": (tn.relu, SAME),
    "leaky_relu": (tn.leaky_relu, SAME),
    "sigmoid": (tn.sigmoid, "the same"),
    "tanh": (tn.tanh, SAME),
    "softplus": (tn.softplus, "the gradient at -100 is 3.784e-44"),
    "gelu": (tn.gelu, "at +Inf: NaN; NaN"),
    "silu": (tn.silu, "the same"),
    "dropout, all stay": (lambda x: tn.dropout(x, 0.0), SAME),
    "dropout, none stays": (lambda x: tn.dropout(x, 1.0), SAME),
}

# Functions of two numbers; the gradients are those of both.
TWO = {
    "x + y": (lambda x, y: x + y, SAME),
    "x - y": (lambda x, y: x - y, SAME),
    "x y": (lambda x, y: x * y, SAME),
    "x / y": (lambda x, y: x / y, SAME),
    "maximum": (tn.maximum, "gradients: 1, 1 if one is NaN; 0.5, 0.5 if they are equal"),
    "minimum": (tn.minimum, "gradients: 1, 1 if one is NaN; 0.5, 0.5 if they are equal"),
    "where(True, x, y)": (lambda x, y: tn.where(np.ones(x.shape, bool), x, y), SAME),
}

# Functions of the row [1, v, 2], v being the special value.
ROW = {
    "sum": (tn.sum, SAME),
    "mean": (tn.mean, SAME),
    "var": (tn.var, "the gradients of the numbers beside an Inf are -Inf, beside a -Inf Inf"),
    "max": (tn.max, SAME),
    "min": (tn.min, SAME),
    "logsumexp": (tn.logsumexp, SAME),
    "softmax": (tn.softmax, SAME),
    "log_softmax": (tn.log_softmax, SAME),
    "x @ ones": (lambda x: x @ np.ones((3, 1), np.float32), SAME),
    "x @ zeros": (lambda x: x @ np.zeros((3, 1), np.float32), SAME),
    "layer_norm": (lambda x: tn.layer_norm(x, 3), SAME),
    "group_norm, 1 group": (lambda x: tn.group_norm(x.reshape((1, 3)), 1), SAME),
    "batch_norm, 1 channel": (lambda x: tn.batch_norm(x.reshape((3, 1)), None, None), SAME),
    "cross_entropy, class 0": (lambda x: tn.cross_entropy(x.reshape((1, 3)), np.array([0])), SAME),
    "cross_entropy, class 1": (lambda x: tn.cross_entropy(x.reshape((1, 3)), np.array([1])), SAME),
    "cross_entropy, ignored": (
        lambda x: tn.cross_entropy(x.reshape((1, 3)), np.array([1]), ignore_index=1, reduction="sum"),
        "the gradient is NaN for NaN and +Inf"),
    "cross_entropy, smoothed": (
        lambda x: tn.cross_entropy(x.reshape((1, 3)), np.array([0]), label_smoothing=0.1), SAME),
    "binary_cross_entropy, all yes": (
        lambda x: tn.binary_cross_entropy_with_logits(x, np.ones(3, np.float32), reduction="sum"), SAME),
    "binary_cross_entropy, all no": (
        lambda x: tn.binary_cross_entropy_with_logits(x, np.zeros(3, np.float32), reduction="sum"), SAME),
    "mse_loss, to 0": (lambda x: tn.mse_loss(x, np.zeros(3), reduction="sum"), SAME),
    "l1_loss, to 0": (lambda x: tn.l1_loss(x, np.zeros(3), reduction="sum"), "the gradient at NaN is 0"),
    "smooth_l1_loss, to 0": (lambda x: tn.smooth_l1_loss(x, np.zeros(3), reduction="sum"), SAME),
    "dice_loss, class 0": (lambda x: tn.dice_loss(x.reshape((1, 3)), np.array([0])), "has none"),
    "dice_loss, one region": (lambda x: tn.dice_loss(x, np.zeros(3)), "has none"),
    "giou_loss, box (0, 0, 1, v)": (
        lambda x: tn.giou_loss(tn.concatenate([x[:1] * 0, x[:1] * 0, x[:1], x[1:2]]), np.array([0.0, 0, 1, 1])),
        "has none (torchvision's own was not compared)"),
}


def _conv(channels, outputs, groups=1, size=3, transposed=False, **options):
    """A convolution as a function of x and w, and their shapes."""
    convolve = partial(tn.conv_transpose2d if transposed else tn.conv2d, padding=1, groups=groups, **options)
    return convolve, (1, 8, 8, outputs if transposed else channels), (size, size, channels // groups, outputs)


# Convolutions: v is in the first channel of the pixel (3, 3), or the first weight (u = v = c = o = 0).
CONVOLUTION = {
    "conv2d 3x3, 4 to 4 channels": (*_conv(4, 4), ZEROS_IN_Y),
    "conv2d 3x3, 4 to 1 (pixels side by side)": (*_conv(4, 1), ZEROS_IN_Y),
    "conv2d 3x3, 16 to 16 (Winograd)": (*_conv(16, 16), ZEROS_IN_Y),
    "conv2d 4x4, stride 2, 16 to 16 (Winograd)": (*_conv(16, 16, size=4, stride=2), NO_ZEROS),
    "conv2d 3x3, depthwise": (*_conv(4, 4, groups=4), SAME),
    "conv2d 3x3, groups of 3": (*_conv(6, 6, groups=2), SAME),
    "conv_transpose2d 4x4, stride 2, 4 to 4": (*_conv(4, 4, size=4, stride=2, transposed=True), NO_ZEROS),
    "conv_transpose2d 4x4, stride 2, 16 to 16 (Winograd)": (
        *_conv(16, 16, size=4, stride=2, transposed=True), NO_ZEROS),
    "conv_transpose2d 4x4, stride 2, depthwise": (*_conv(4, 4, groups=4, size=4, stride=2, transposed=True), SAME),
}

# Other functions of images of 8x8 pixels, and how many channels: v is in the first channel of the pixel (3, 3).
IMAGE = {
    "max_pool2d 2x2": (lambda x: tn.max_pool2d(x, 2), 2, SAME),
    "max_pool2d 3x3, stride 1": (lambda x: tn.max_pool2d(x, 3, 1, 1), 2, SAME),
    "avg_pool2d 2x2": (lambda x: tn.avg_pool2d(x, 2), 2, SAME),
    "avg_pool2d 3x3, stride 1": (lambda x: tn.avg_pool2d(x, 3, 1, 1), 2, SAME),
    "resize to 16x16, nearest": (lambda x: tn.resize(x, 16), 2, SAME),
    "resize to 16x16, bilinear": (lambda x: tn.resize(x, 16, "bilinear"), 2, SAME),
    "resize to 4x4, bilinear": (lambda x: tn.resize(x, 4, "bilinear"), 2, SAME),
    "resize to 8x8, bilinear": (
        lambda x: tn.resize(x, 8, "bilinear"), 2, "Inf gives NaN: it is read once more, with a weight of 0"),
    "batch_norm": (lambda x: tn.batch_norm(x, None, None), 2, SAME),
    "group_norm, 2 groups": (lambda x: tn.group_norm(x, 2), 4, SAME),
    "layer_norm of 4 channels": (lambda x: tn.layer_norm(x, 4), 4, SAME),
}


# ---- The cells ---------------------------------------------------------------------------------------------

def ones(shape):
    return np.ones(shape, np.float32)


def run(fn, *arrays):
    """(result, gradients) of fn at float32 arrays, as ndarrays; the gradient of the result's sum."""
    inputs = [tn.Tensor(np.array(a, np.float32), requires_grad=True) for a in arrays]
    y = fn(*inputs)
    y.backward(ones(y.shape))
    return y.numpy(), [np.zeros(x.shape) if x.grad is None else x.grad.numpy() for x in inputs]


def number(v):
    """A number as the table shows it, without the sign of a zero: "nsz", with which kernels are compiled, drops it."""
    return "NaN" if np.isnan(v) else "Inf" if v == INF else "-Inf" if v == -INF else "0" if v == 0 else f"{v:.4g}"


def numbers(values):
    values = [number(v) for v in np.ravel(values)]
    return values[0] if len(values) == 1 else f"[{', '.join(values)}]"


def cell(y, gradients):
    """A result and its gradient (one, or those of both arguments)."""
    return f"{numbers(y)}; {', '.join(numbers(g) for g in gradients)}"


def counts(array):
    """How many of an array's values are not finite, of each kind."""
    kinds = {"NaN": np.isnan(array), "Inf": array == INF, "-Inf": array == -INF}
    found = [f"{kind.sum()} {name}" for name, kind in kinds.items() if kind.any()]
    return ", ".join(found) or "finite"


def image(shape, place, value):
    """An array of numbers from -1 to 1, none of them 0, and the value."""
    x = np.linspace(-1, 1, 2 * (int(np.prod(shape)) // 2 + 1), dtype=np.float32)[: np.prod(shape)].reshape(shape)
    x[place] = value
    return x


def one_cells(fn, run=run):
    """A cell for each number; a second answer where large arrays, which kernels deal with, get another."""
    values = np.array(list(NUMBERS.values()))
    y, (g,) = run(fn, values)
    large_y, (large_g,) = run(fn, np.tile(values, 65536 // len(values) + 1))
    cells = []
    for i in range(len(values)):
        small, large = cell(y[i], [g[i]]), cell(large_y[i], [large_g[i]])
        cells.append(small if small == large else f"{small} (large arrays: {large})")
    return cells


def two_cells(fn, run=run):
    x, y = np.array(list(PAIRS.values()), np.float32).T
    z, (gx, gy) = run(fn, x, y)
    return [cell(z[i], [gx[i], gy[i]]) for i in range(len(z))]


def row_cells(fn, run=run):
    return [cell(*run(fn, np.array([1, v, 2], np.float32))) for v in IN_ROWS.values()]


def convolution_cells(fn, x_shape, w_shape, run=run):
    cells = []
    for in_w in (False, True):
        for v in (NAN, INF):
            x = image(x_shape, (0, 3, 3, 0), 1 if in_w else v)
            w = image(w_shape, (0, 0, 0, 0), v if in_w else 1)
            y, (gx, gw) = run(fn, x, w)
            cells.append(f"{counts(y)}; {counts(gx)}, {counts(gw)}")
    return cells


def image_cells(fn, channels, run=run):
    cells = []
    for v in (NAN, INF, -INF):
        y, (g,) = run(fn, image((1, 8, 8, channels), (0, 3, 3, 0), v))
        cells.append(f"{counts(y)}; {counts(g)}")
    return cells


# ---- Empty arrays ------------------------------------------------------------------------------------------

def _empty_conv(x, **options):
    return tn.conv2d(x, np.ones((3, 3, 4, 2), np.float32), **options)


EMPTY = {
    "exp, and all functions of one number": (tn.exp, (0, 3), SAME),
    "x + x": (lambda x: x + x, (0, 3), SAME),
    "sum": (tn.sum, (0, 3), SAME),
    "sum over axis 0": (lambda x: x.sum(0), (0, 3), SAME),
    "sum over axis 0 of no columns": (lambda x: x.sum(0), (3, 0), SAME),
    "mean": (tn.mean, (0, 3), "NaN"),
    "var": (tn.var, (0, 3), "NaN"),
    "max": (tn.max, (0, 3), "an error, too"),
    "max over axis 1": (lambda x: x.max(1), (0, 3), SAME),
    "logsumexp over axis 1": (lambda x: tn.logsumexp(x, 1), (0, 3), SAME),
    "logsumexp": (tn.logsumexp, (0, 3), "-Inf"),
    "softmax": (tn.softmax, (0, 3), SAME),
    "softmax of no classes": (tn.softmax, (3, 0), "(3, 0)"),
    "x @ x.T of no rows": (lambda x: x @ x.T, (0, 3), SAME),
    "x @ x.T of no columns": (lambda x: x @ x.T, (3, 0), SAME),
    "broadcast_to": (lambda x: x.broadcast_to((2, 0, 3)), (0, 3), SAME),
    "concatenate": (lambda x: tn.concatenate([x, np.ones((2, 3), np.float32)]), (0, 3), SAME),
    "conv2d of no images": (_empty_conv, (0, 8, 8, 4), SAME),
    "conv2d of no rows": (_empty_conv, (2, 0, 8, 4), "an error, too"),
    "conv2d of no channels": (lambda x: tn.conv2d(x, np.ones((3, 3, 0, 2), np.float32)), (2, 8, 8, 0), "(2, 6, 6, 0)"),
    "conv_transpose2d of no images": (
        lambda x: tn.conv_transpose2d(x, np.ones((4, 4, 2, 4), np.float32), stride=2), (0, 8, 8, 4), SAME),
    "max_pool2d of no images": (lambda x: tn.max_pool2d(x, 2), (0, 8, 8, 4), SAME),
    "max_pool2d of no channels": (lambda x: tn.max_pool2d(x, 2), (2, 8, 8, 0), "an error, too"),
    "avg_pool2d of no images": (lambda x: tn.avg_pool2d(x, 2), (0, 8, 8, 4), SAME),
    "resize of no images": (lambda x: tn.resize(x, 4), (0, 8, 8, 4), SAME),
    "batch_norm of no images": (lambda x: tn.batch_norm(x, None, None), (0, 8, 8, 4), "(0, 8, 8, 4)"),
    "batch_norm of no images, in evaluation": (
        lambda x: tn.batch_norm(x, None, None, np.zeros(4), np.ones(4), training=False), (0, 8, 8, 4), SAME),
    "batch_norm of no channels, in evaluation": (
        lambda x: tn.batch_norm(x, None, None, np.zeros(0), np.ones(0), training=False), (2, 8, 8, 0), "(2, 8, 8, 0)"),
    "group_norm of no images": (lambda x: tn.group_norm(x, 2), (0, 8, 8, 4), SAME),
    "layer_norm of no rows": (lambda x: tn.layer_norm(x, 3), (0, 3), SAME),
    "cross_entropy, mean": (lambda x: tn.cross_entropy(x, np.zeros(0, int)), (0, 3), SAME),
    "cross_entropy, sum": (lambda x: tn.cross_entropy(x, np.zeros(0, int), reduction="sum"), (0, 3), SAME),
    "binary_cross_entropy, mean": (
        lambda x: tn.binary_cross_entropy_with_logits(x, np.zeros((0, 3))), (0, 3), "NaN"),
    "mse_loss, mean": (lambda x: tn.mse_loss(x, np.zeros((0, 3))), (0, 3), "NaN"),
    "mse_loss, sum": (lambda x: tn.mse_loss(x, np.zeros((0, 3)), reduction="sum"), (0, 3), SAME),
    "giou_loss, mean": (lambda x: tn.giou_loss(x, np.zeros((0, 4))), (0, 4), "has none"),
    "dice_loss": (lambda x: tn.dice_loss(x, np.zeros(0, int)), (0, 3), "has none"),
}


def empty_cell(fn, shape, run=run):
    """The result's shape, its value if that is a single one, or the error."""
    try:
        y, (g,) = run(fn, np.ones(shape))
    except (ValueError, IndexError, RuntimeError) as error:
        return type(error).__name__
    assert g.shape == shape
    return f"{y.shape}" if y.size != 1 else number(y.item())


# ---- The table ---------------------------------------------------------------------------------------------

HEAD = """# NaN, Inf, -0, denormals, empty arrays

What each operation gives, in float32, and how PyTorch 2.13 differs. Written by `python -m tests.special_values`, held
to the code by `tests/test_special_values.py`.

- A cell is "result; gradient", the gradient of the result's sum (for two arguments, both gradients). The last column
  says where PyTorch's cell is another one.
- NaN and Inf travel: nothing is clipped, replaced or warned about. `tn.detect_anomaly()` finds where the first came up.
- Pixels of the padding are zeros, and 0 times Inf or NaN is NaN: an Inf or NaN in a convolution's weight makes a NaN
  wherever that weight meets the padding. Convolutions of groups of up to 8 channels leave the padding out.
- A mean over nothing, as the largest of nothing, is an error here, and NaN in PyTorch; cross_entropy's mean, 0 / 0 too
  where all pixels are ignored, is NaN in both.
- The sign of a zero is not promised, so the table doesn't show it: kernels may be compiled to lose it.
- Denormal numbers are read and written as they are, with one exception: where an e^x in a kernel would be below
  1.6e-38 it is 0 (cross_entropy, sigmoid, tanh).
"""


def section(title, columns, cases, cells):
    """A section of the table: a line for each case."""
    lines = [f"\n## {title}\n", f"| | {' | '.join(columns)} | PyTorch |", "|" + "---|" * (len(columns) + 2)]
    for name, (*case, note) in cases.items():
        lines.append(f"| {name} | {' | '.join(cells(*case))} | {note} |")
    return "\n".join(lines) + "\n"


def table():
    """The whole file."""
    values = list(IN_ROWS)
    return HEAD + "".join([
        section("Functions of one number", NUMBERS, ONE, one_cells),
        section("Functions of two numbers", PAIRS, TWO, two_cells),
        section("Of the row [1, v, 2]", [f"v = {v}" for v in values], ROW, row_cells),
        section("Of images with v in one channel of one pixel, or one weight: how many values are not finite",
                ["NaN in x", "Inf in x", "NaN in w", "Inf in w"], CONVOLUTION, convolution_cells),
        section("Of an image with v in one channel of one pixel: how many values are not finite",
                [f"v = {v}" for v in values[:3]], IMAGE, image_cells),
        section("Of an empty array: the result's shape, its value if it has one, or the error", ["result"],
                {f"{name}, {shape}": (fn, shape, note) for name, (fn, shape, note) in EMPTY.items()},
                lambda fn, shape: [empty_cell(fn, shape)]),
    ])


if __name__ == "__main__":
    TABLE.write_text(table())
