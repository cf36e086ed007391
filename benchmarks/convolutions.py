"""Convolutions and dense layers, kernel by kernel without the engine: both sides of each."""

from typing import NamedTuple

import numpy as np

from benchmarks.measure import alternate, checked_error, fastest, number, row, small, table
from benchmarks.torch_side import LAYOUTS, from_torch, to_torch, torch, weight_from_torch, weight_to_torch
from tinynet.kernels.convolution import gather, scatter, weight_gradient
from tinynet.kernels.matmul import matmul
from tinynet.kernels.memory import aligned
from tinynet.shapes import Geometry

F = torch.nn.functional
BATCH = 16
MOST = 1e-4  # relative difference of the two sides' results
KINDS = ("forward", "input gradient", "weight gradient")
HEAD = (
    "ms: median (minimum; quartiles)",
    "tinynet",
    "GFLOP/s",
    "of peak",
    "GB/s",
    "of memory's",
    "PyTorch",
    "its layout",
    "PyTorch / tinynet",
    "difference",
)


class Case(NamedTuple):
    """One line of a table."""

    name: str
    operations: int  # 2 for each multiply-add of the direct algorithm; 0 where these are not the work
    bytes: int  # of what is read and written, each number once
    own: object  # function without arguments; gives an array, or a list of them
    others: dict  # layout -> the same in PyTorch; gives a tensor, or a list of them
    back: object  # PyTorch's result as tinynet's


class Convolution(NamedTuple):
    """Images of c_in channels and size x size pixels, to c_out channels; padded to keep their size."""

    c_in: int
    c_out: int
    size: int
    kernel: int = 3
    stride: int = 1
    transposed: bool = False
    dilation: int = 1
    groups: int = 1
    batch: int = BATCH

    @property
    def name(self):
        words = [f"{self.kernel}x{self.kernel}"]
        words += ["transposed"] if self.transposed else []
        words += [f"s{self.stride}"] if self.stride > 1 else []
        words += [f"dilation {self.dilation}"] if self.dilation > 1 else []
        words += [f"groups {self.groups}"] if self.groups > 1 else []
        words += [f"{self.c_in}->{self.c_out}", f"@{self.size}"]
        words += [f"batch {self.batch}"] if self.batch != BATCH else []
        return " ".join(words)

    @property
    def padding(self):
        """What keeps the size, or lets a stride divide it."""
        reach = self.dilation * (self.kernel - 1)
        return (reach - self.stride + 2) // 2 if self.transposed else reach // 2

    @property
    def out_size(self):
        return self.size * self.stride if self.transposed else -(-self.size // self.stride)

    @property
    def operations(self):
        pixels = min(self.size, self.out_size) ** 2
        return 2 * self.batch * pixels * self.kernel**2 * self.c_in * self.c_out // self.groups

    @property
    def shapes(self):
        """Of x, w and gy."""
        channels = (
            (self.c_out // self.groups, self.c_in)
            if self.transposed
            else (self.c_in // self.groups, self.c_out)
        )
        return (
            (self.batch, self.size, self.size, self.c_in),
            (self.kernel, self.kernel, *channels),
            (self.batch, self.out_size, self.out_size, self.c_out),
        )


class Dense(NamedTuple):
    """rows images of c_in features, to c_out."""

    rows: int
    c_in: int
    c_out: int

    @property
    def name(self):
        return f"dense {self.rows}x{self.c_in}x{self.c_out}"

    @property
    def operations(self):
        return 2 * self.rows * self.c_in * self.c_out

    @property
    def shapes(self):
        return (self.rows, self.c_in), (self.c_in, self.c_out), (self.rows, self.c_out)


def cases(layers):
    """The three kernels of each layer. The arrays of one layer are gone before those of the next are made."""
    rng = np.random.default_rng(0)
    for layer in layers:
        # begun at a cache line, as both frameworks' own arrays are
        arrays = [aligned(rng.standard_normal(shape, dtype=np.float32)) for shape in layer.shapes]
        sides = _dense(*arrays) if isinstance(layer, Dense) else _convolution(layer, *arrays)
        size = sum(array.nbytes for array in arrays)
        for kind, side in zip(KINDS, sides, strict=True):
            yield Case(f"{layer.name}, {kind}", layer.operations, size, *side)


def _convolution(c, x, w, gy):
    """(tinynet's function, PyTorch's by layout, the way back) for each of KINDS."""
    geometry = Geometry((c.stride,) * 2, ((c.padding,) * 2,) * 2, (c.dilation,) * 2, c.groups)
    in_hw, out_hw, kernel_hw = x.shape[1:3], gy.shape[1:3], w.shape[:2]
    forward, backward = (scatter, gather) if c.transposed else (gather, scatter)
    pair = (gy, x) if c.transposed else (x, gy)
    own = (
        lambda: forward(x, w, None, geometry, out_hw),
        lambda: backward(gy, w, None, geometry, in_hw),
        lambda: weight_gradient(*pair, geometry, kernel_hw),
    )
    theirs = {layout: _torch_convolution(c, x, w, gy, layout) for layout in LAYOUTS}
    backs = from_torch, from_torch, weight_from_torch
    for i, (call, back) in enumerate(zip(own, backs, strict=True)):
        yield call, {layout: side[i] for layout, side in theirs.items()}, back


def _torch_convolution(c, x, w, gy, layout):
    x, gy, w = to_torch(x, layout), to_torch(gy, layout), weight_to_torch(w, layout)
    forward = F.conv_transpose2d if c.transposed else F.conv2d
    options = {"stride": c.stride, "padding": c.padding, "dilation": c.dilation, "groups": c.groups}
    geometry = [c.stride] * 2, [c.padding] * 2, [c.dilation] * 2, c.transposed, [0, 0], c.groups

    def gradient(which):
        mask = [which == 0, which == 1, False]
        return torch.ops.aten.convolution_backward(gy, x, w, None, *geometry, mask)[which]

    return lambda: forward(x, w, **options), lambda: gradient(0), lambda: gradient(1)


def _dense(x, w, gy):
    """y = x w, with PyTorch's weight as nn.Linear has it, (out, in), and as tinynet has it, (in, out)."""
    xt, gyt = torch.from_numpy(x), torch.from_numpy(gy)
    weights = {"(out, in)": torch.from_numpy(w.T.copy()), "(in, out)": torch.from_numpy(w).T}
    back = torch.Tensor.numpy
    yield lambda: matmul(x, w), {k: lambda wt=wt: F.linear(xt, wt) for k, wt in weights.items()}, back
    yield lambda: matmul(gy, w.T), {k: lambda wt=wt: gyt @ wt for k, wt in weights.items()}, back
    gradients = {"(out, in)": lambda: gyt.T @ xt, "(in, out)": lambda: (xt.T @ gyt).T}
    yield lambda: matmul(x.T, gy), gradients, lambda gw: gw.T.numpy()


def compared(case, turns, **options):
    """({contestant: Timing}, PyTorch's best layout, the largest difference); raises if results differ."""
    own = case.own()
    errors = [
        checked_error(f"{case.name}, {layout}", own, case.back(call()), MOST)
        for layout, call in case.others.items()
    ]
    times = alternate({"tinynet": case.own, **case.others}, turns, **options)
    return times, fastest(times, case.others), max(errors)


def measured_table(all_cases, run):
    """The lines of the table of all cases; the ratios go into run.figures."""
    yield from table(*HEAD)
    ratios = run.figures.setdefault("ratios", {})
    for case in all_cases:
        times, layout, error = compared(case, run.turns)
        mine, other = times["tinynet"], times[layout]
        ratios[case.name] = other.median / mine.median
        speed = case.operations / mine.median
        flow = case.bytes / mine.median
        of_peak = (number(speed / 1e9), f"{100 * speed / run.machine.peak:.0f} %") if speed else ("", "")
        of_memory = number(flow / 1e9), f"{100 * flow / run.machine.bandwidth:.0f} %"
        ratio = f"{ratios[case.name]:.2f}"
        yield row(case.name, mine, *of_peak, *of_memory, other, layout, ratio, small(error))
    yield ""
    yield slowest(ratios)


def slowest(ratios, count=10):
    """A sentence on where PyTorch is ahead, worst first."""
    behind = sorted((ratio, name) for name, ratio in ratios.items() if ratio < 1)
    listed = "; ".join(f"{name} {ratio:.2f}" for ratio, name in behind[:count])
    most = f", the {count} worst" if len(behind) > count else ""
    names = f"{most}: {listed}" if behind else ""
    return f"Of {len(ratios)} kernels {len(behind)} are slower than PyTorch's{names}."
