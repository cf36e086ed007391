"""Single operations in the sizes that the examples have: tinynet's kernels against PyTorch's."""

import numpy as np

import tinynet as tn
from benchmarks.convolutions import BATCH, Case, Convolution, Dense, cases, measured_table
from benchmarks.torch_side import LAYOUTS, from_torch, to_torch, torch
from tinynet.kernels.memory import aligned

F = torch.nn.functional

LAYERS = (
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
    Dense(16, 8192, 128),
)


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield f'Batches of {BATCH}, float32. "128->64 @32": from 128 to 64 channels, 32 x 32 pixels in.'
    yield ""
    yield from measured_table(all_cases(), run)


def all_cases():
    """Convolutions and dense layers, then what is no sum of products, through the engine on both sides."""
    yield from cases(LAYERS)
    rng = np.random.default_rng(0)

    def random(*shape):
        return aligned(rng.standard_normal(shape, dtype=np.float32))

    yield pooling_case(random(BATCH, 128, 128, 32), random(BATCH, 64, 64, 32))
    yield cross_entropy_case(random(BATCH, 128, 128, 12), rng.integers(0, 12, (BATCH, 128, 128)))
    yield batch_norm_case(random(BATCH, 128, 128, 32), random(32), random(32), random(BATCH, 128, 128, 32))


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
        2 * x.nbytes + 2 * gy.nbytes,
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
        2 * logits.nbytes + target.nbytes,
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
        2 * x.nbytes + 2 * gy.nbytes,
        lambda: _arrays(tn.grad(tn.batch_norm(inputs[0], inputs[1], inputs[2], *running), inputs, gyt)),
        {layout: theirs(layout) for layout in LAYOUTS},
        _images,
    )


def _arrays(tensors):
    return [tensor.numpy() for tensor in tensors]


def _images(tensors):
    """PyTorch's gradients of images and of vectors as tinynet's."""
    return [from_torch(tensor) if tensor.ndim == 4 else tensor.numpy() for tensor in tensors]
