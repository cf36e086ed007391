"""Single operations in the sizes that the examples have: tinynet's kernels against PyTorch's."""

from typing import NamedTuple

import numpy as np

import tinynet as tn
from benchmarks.measure import alternate, checked_error, number, row, small, table
from benchmarks.torch_side import LAYOUTS, from_torch, to_torch, torch, weight_from_torch, weight_to_torch
from tinynet.kernels.convolution import gather, scatter, weight_gradient
from tinynet.kernels.matmul import matmul
from tinynet.kernels.memory import aligned
from tinynet.shapes import Geometry

F = torch.nn.functional
BATCH = 16
MOST = 1e-4  # relative difference of the two sides' results


class Case(NamedTuple):
    """One line of the table."""

    name: str
    operations: int  # 2 for each multiply-add of the direct algorithm; 0 where these are not the work
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

    @property
    def name(self):
        kind = " transposed" if self.transposed else ""
        stride = f" s{self.stride}" if self.stride > 1 else ""
        return f"{self.kernel}x{self.kernel}{kind}{stride} {self.c_in}->{self.c_out} @{self.size}"

    @property
    def padding(self):
        return (self.kernel - 1) // 2

    @property
    def out_size(self):
        return self.size * self.stride if self.transposed else self.size // self.stride

    @property
    def operations(self):
        pixels = min(self.size, self.out_size) ** 2
        return 2 * BATCH * pixels * self.kernel**2 * self.c_in * self.c_out


CONVOLUTIONS = (
    Convolution(3, 32, 128),
    Convolution(32, 32, 128),
    Convolution(32, 64, 64),
    Convolution(64, 64, 64),
    Convolution(64, 128, 32),
    Convolution(128, 128, 32),
    Convolution(128, 128, 16),
    Convolution(128, 64, 32, 4, 2, transposed=True),
    Convolution(64, 32, 64, 4, 2, transposed=True),
    Convolution(128, 12, 32, 1),
    Convolution(32, 12, 128, 1),
)


def lines(peak):
    """The section's lines, each as soon as it is known; `peak` in operations a second."""
    yield f'Batches of {BATCH}, float32. "128->64 @32": from 128 to 64 channels, 32 x 32 pixels in.'
    yield ""
    yield from table(
        "ms: median (minimum; quartiles)",
        "tinynet",
        "GFLOP/s",
        "of peak",
        "PyTorch",
        "its layout",
        "GFLOP/s",
        "PyTorch / tinynet",
        "difference",
    )
    for case in cases():
        yield measured(case, peak)


def measured(case, peak):
    """The case's line, after a check that both sides give the same."""
    own = case.own()
    errors = [
        checked_error(f"{case.name}, {layout}", own, case.back(call()), MOST)
        for layout, call in case.others.items()
    ]
    times = alternate({"tinynet": case.own, **case.others})
    layout = min(case.others, key=lambda other: times[other].median)
    mine, other = times["tinynet"], times[layout]
    own_speed, share, other_speed = "", "", ""
    if case.operations:
        own_rate, other_rate = (case.operations / t.median for t in (mine, other))
        own_speed, other_speed = number(own_rate / 1e9), number(other_rate / 1e9)
        share = f"{100 * own_rate / peak:.0f} %"
    ratio = f"{other.median / mine.median:.2f}"
    return row(case.name, mine, own_speed, share, other, layout, other_speed, ratio, small(max(errors)))


def cases():
    """All cases, one after the other: the arrays of one are gone before those of the next are made."""
    rng = np.random.default_rng(0)

    def random(*shape):
        return aligned(rng.standard_normal(shape, dtype=np.float32))     # as both frameworks' own arrays are

    for c in CONVOLUTIONS:
        x = random(BATCH, c.size, c.size, c.c_in)
        gy = random(BATCH, c.out_size, c.out_size, c.c_out)
        w = random(c.kernel, c.kernel, *((c.c_out, c.c_in) if c.transposed else (c.c_in, c.c_out)))
        yield from convolution_cases(c, x, w, gy)
    yield from dense_cases(random(BATCH, 8192), random(8192, 128), random(BATCH, 128))
    yield pooling_case(random(BATCH, 128, 128, 32), random(BATCH, 64, 64, 32))
    yield cross_entropy_case(random(BATCH, 128, 128, 12), rng.integers(0, 12, (BATCH, 128, 128)))
    yield batch_norm_case(random(BATCH, 128, 128, 32), random(32), random(32), random(BATCH, 128, 128, 32))


def convolution_cases(c, x, w, gy):
    """Forward, input gradient and weight gradient of a convolution or a transposed one, kernel by kernel."""
    geometry = Geometry((c.stride, c.stride), ((c.padding, c.padding),) * 2)
    in_hw, out_hw, kernel_hw = x.shape[1:3], gy.shape[1:3], w.shape[:2]
    forward, backward = (scatter, gather) if c.transposed else (gather, scatter)
    pair = (gy, x) if c.transposed else (x, gy)
    sides = {layout: _torch_convolution(c, x, w, gy, layout) for layout in LAYOUTS}
    yield Case(
        f"{c.name}, forward",
        c.operations,
        lambda: forward(x, w, None, geometry, out_hw),
        {layout: side[0] for layout, side in sides.items()},
        from_torch,
    )
    yield Case(
        f"{c.name}, input gradient",
        c.operations,
        lambda: backward(gy, w, None, geometry, in_hw),
        {layout: side[1] for layout, side in sides.items()},
        from_torch,
    )
    yield Case(
        f"{c.name}, weight gradient",
        c.operations,
        lambda: weight_gradient(*pair, geometry, kernel_hw)[0],
        {layout: side[2] for layout, side in sides.items()},
        weight_from_torch,
    )


def _torch_convolution(c, x, w, gy, layout):
    """(forward, input gradient, weight gradient), each alone."""
    x, gy, w = to_torch(x, layout), to_torch(gy, layout), weight_to_torch(w, layout)
    forward = F.conv_transpose2d if c.transposed else F.conv2d

    def gradient(which):
        dilation, output_padding, groups = [1, 1], [0, 0], 1
        geometry = [c.stride] * 2, [c.padding] * 2, dilation, c.transposed, output_padding, groups
        mask = [which == 0, which == 1, False]
        return torch.ops.aten.convolution_backward(gy, x, w, None, *geometry, mask)[which]

    return lambda: forward(x, w, stride=c.stride, padding=c.padding), lambda: gradient(0), lambda: gradient(1)


def dense_cases(x, w, gy):
    """y = x w, with PyTorch's weight laid out as nn.Linear has it: (out, in)."""
    (rows, c_in), c_out = x.shape, w.shape[1]
    operations = 2 * rows * c_in * c_out
    xt, wt, gyt = torch.from_numpy(x), torch.from_numpy(w.T.copy()), torch.from_numpy(gy)
    name, layout = f"dense {rows}x{c_in}x{c_out}", "(out, in)"
    yield Case(
        f"{name}, forward",
        operations,
        lambda: matmul(x, w),
        {layout: lambda: F.linear(xt, wt)},
        torch.Tensor.numpy,
    )
    yield Case(
        f"{name}, input gradient",
        operations,
        lambda: matmul(gy, w.T),
        {layout: lambda: gyt @ wt},
        torch.Tensor.numpy,
    )
    yield Case(
        f"{name}, weight gradient",
        operations,
        lambda: matmul(x.T, gy),
        {layout: lambda: gyt.T @ xt},
        lambda gw: gw.T.numpy(),
    )


def pooling_case(x, gy):
    """Maxima of 2x2 pixels, and their gradient."""
    xt = tn.Tensor(x, requires_grad=True)
    gyt = tn.Tensor(gy)

    def theirs(layout):
        x_, gy_ = to_torch(x, layout).requires_grad_(), to_torch(gy, layout)
        return lambda: torch.autograd.grad(F.max_pool2d(x_, 2), x_, gy_)

    return Case(
        f"max-pool 2x2 {x.shape[3]} @{x.shape[1]}, forward and backward",
        0,
        lambda: _arrays(tn.grad(tn.max_pool2d(xt, 2), xt, gyt)),
        {layout: theirs(layout) for layout in LAYOUTS},
        _images,
    )


def cross_entropy_case(logits, target):
    """The loss and its gradient."""
    x = tn.Tensor(logits, requires_grad=True)

    def theirs(layout):
        x_, target_ = to_torch(logits, layout).requires_grad_(), torch.from_numpy(target)
        return lambda: torch.autograd.grad(F.cross_entropy(x_, target_), x_)

    return Case(
        f"softmax cross-entropy {logits.shape[3]} @{logits.shape[1]}, forward and backward",
        0,
        lambda: _arrays(tn.grad(tn.cross_entropy(x, target), x)),
        {layout: theirs(layout) for layout in LAYOUTS},
        _images,
    )


def batch_norm_case(x, w, b, gy):
    """In training: with the batch's statistics, running ones updated, and all three gradients."""
    inputs = [tn.Tensor(array, requires_grad=True) for array in (x, w, b)]
    gyt, running = tn.Tensor(gy), (np.zeros_like(w), np.ones_like(w))

    def theirs(layout):
        inputs_ = [
            to_torch(x, layout).requires_grad_(),
            *(torch.from_numpy(array).clone().requires_grad_() for array in (w, b)),
        ]
        gy_, (mean, var) = to_torch(gy, layout), (torch.zeros(len(w)), torch.ones(len(w)))
        return lambda: torch.autograd.grad(
            F.batch_norm(inputs_[0], mean, var, inputs_[1], inputs_[2], training=True), inputs_, gy_
        )

    return Case(
        f"batch norm {x.shape[3]} @{x.shape[1]}, training, forward and backward",
        0,
        lambda: _arrays(tn.grad(tn.batch_norm(inputs[0], inputs[1], inputs[2], *running), inputs, gyt)),
        {layout: theirs(layout) for layout in LAYOUTS},
        _images,
    )


def _arrays(tensors):
    return [tensor.numpy() for tensor in tensors]


def _images(tensors):
    """PyTorch's gradients of images and of vectors as tinynet's."""
    return [from_torch(tensor) if tensor.ndim == 4 else tensor.numpy() for tensor in tensors]
