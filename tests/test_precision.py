"""How far float32 is from float64: a stated bound for each op, for its value and its gradients, Winograd included.

    python -m tests.test_precision        the largest errors found, beside the bounds

An error is the largest difference relative to the largest value. Inputs are float32 numbers, the same for both; shapes
are drawn, of the sizes at which kernels cut their work into tiles and chunks.
"""

import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tinynet import ops
from tinynet.kernels import winograd
from tinynet.shapes import Geometry

BOUNDS, MAKERS = {}, {}


def bound(value, gradient, *names):
    """State the bounds of the ops with these names, whose function and inputs the decorated one draws."""

    def enter(make):
        for name in names:
            BOUNDS[name], MAKERS[name] = (value, gradient), make
        return make

    return enter


def normal(rng, *shape):
    return rng.standard_normal(shape, dtype=np.float32)


def images(rng, channels=None, least=1):
    """A batch of images."""
    h, w = rng.integers(least, 40, 2)
    return normal(rng, rng.integers(1, 4), h, w, channels or rng.integers(1, 40))


def options(name, **more):
    return lambda *t: getattr(tn, name)(*t, **more)


@bound(0, 0, "relu", "abs", "clip", "maximum", "minimum", "where")
@bound(1e-7, 1e-7, "leaky_relu")
@bound(5e-7, 5e-7, "exp", "softplus", "gelu", "logsumexp")
@bound(1e-6, 2e-6, "sigmoid", "tanh", "silu", "softmax", "log_softmax")
def elementwise(name, rng):
    x, y = (3 * normal(rng, 30, 200) for _ in range(2))
    return {
        "clip": (options("clip", low=-0.5, high=0.5), [x]), "maximum": (tn.maximum, [x, y]),
        "minimum": (tn.minimum, [x, y]), "where": (lambda a, b: tn.where(x > 0, a, b), [x, y]),
        "logsumexp": (options("logsumexp", axis=1), [x]),
    }.get(name, (getattr(tn, name), [x]))


@bound(3e-7, 3e-7, "log", "sqrt")
def positive(name, rng):
    return getattr(tn, name), [rng.uniform(0.1, 9, (50, 60)).astype(np.float32)]


@bound(0, 0, "max", "min")
@bound(2e-6, 1e-6, "sum", "mean", "var")
def reduction(name, rng):
    axis = [None, 0, 1, (0, 2), (1, 2)][rng.integers(5)]
    return options(name, axis=axis), [normal(rng, *rng.integers(1, 60, 3)) + 1]


@bound(5e-6, 5e-6, "matmul")
def product(name, rng):
    m, k, n = rng.integers(1, 300, 3)
    return tn.matmul, [normal(rng, m, k), normal(rng, k, n)]


@bound(0, 0, "reshape", "flatten", "transpose", "pad")
@bound(0, 3e-7, "broadcast_to", "concatenate", "stack")
@bound(3e-7, 3e-7, "dropout")
def layout(name, rng):
    x = normal(rng, *rng.integers(1, 30, 3))

    def dropout(x):
        tn.manual_seed(1)
        return tn.dropout(x, 0.3)

    return {
        "reshape": lambda x: x.reshape(-1), "transpose": lambda x: x.transpose(2, 0, 1), "dropout": dropout,
        "pad": options("pad", width=((0, 1), (2, 0), (1, 1))), "concatenate": lambda x: tn.concatenate([x, x * 2]),
        "stack": lambda x: tn.stack([x, x * 2]), "broadcast_to": lambda x: x.broadcast_to((7, *x.shape)),
    }.get(name, getattr(tn, name)), [x]


@bound(5e-6, 5e-6, "conv2d", "conv_transpose2d")
def direct(name, rng):
    kernel, stride, groups = rng.integers(1, 6, 2), int(rng.integers(1, 3)), int(rng.integers(1, 3))
    x = images(rng, groups * int(rng.integers(1, 40)), least=5)
    to = int(rng.integers(1, 20))
    if name == "conv2d":
        w, b = normal(rng, *kernel, x.shape[3] // groups, groups * to), normal(rng, groups * to)
    else:
        w, b = normal(rng, *kernel, to, x.shape[3]), normal(rng, groups * to)

    def fn(*t):
        with tn.exact_convolution():
            return getattr(tn, name)(*t, stride=stride, groups=groups)

    return fn, [x, w, b]


@bound(2e-5, 2e-5, "conv2d 3x3 by Winograd", "conv2d 4x4, stride 2, by Winograd")
@bound(2e-5, 2e-5, "conv_transpose2d 3x3 by Winograd", "conv_transpose2d 4x4, stride 2, by Winograd")
@bound(2e-5, 2e-5, "conv2d 5x5 by Winograd", "conv_transpose2d 5x5 by Winograd")
def by_winograd(name, rng):
    k = int(name.split()[1][0])
    stride = 2 if k == 4 else 1
    c, o = (16 * int(n) for n in rng.integers(1, 9, 2))
    x, w, b = normal(rng, 2, *rng.integers(10, 34, 2), c), normal(rng, k, k, c, o), normal(rng, o)
    if "transpose" in name:
        w = normal(rng, k, k, o, c)
    else:
        how = Geometry((stride, stride), ((1, 1), (1, 1)))
        if not winograd.pays(w.shape, tuple((n + 2 - k) // stride + 1 for n in x.shape[1:3]), np.float32, how):
            return by_winograd(name, rng)
    return options(name.split()[0], stride=stride, padding=1), [x, w, b]


@bound(3e-6, 1e-5, "conv2d of few channels", "conv_transpose2d of few channels")
def by_winograds_rows(name, rng):
    c, o = (4 * int(n) for n in rng.integers(2, 4, 2))
    x, b = normal(rng, 2, int(rng.integers(20, 40)), 2 * int(rng.integers(20, 30)), c), normal(rng, o)
    w = normal(rng, 3, 3, *((o, c) if "transpose" in name else (c, o)))
    return options(name.split()[0], padding=1), [x, w, b]


@bound(0, 1e-6, "max_pool2d")
@bound(1e-6, 1e-6, "avg_pool2d")
def pools(name, rng):
    return options(name, kernel_size=int(rng.integers(2, 5)), stride=int(rng.integers(1, 4)), padding=1), [
        images(rng, least=5)]


@bound(1e-6, 2e-6, "resize")
def resized(name, rng):
    size = tuple(int(n) for n in rng.integers(1, 60, 2))
    return options("resize", size=size, mode=["nearest", "bilinear"][rng.integers(2)]), [images(rng)]


@bound(1e-6, 2e-6, "batch_norm", "group_norm", "layer_norm")
def norms(name, rng):
    c = 4 * int(rng.integers(1, 16))
    parameters = [normal(rng, c), normal(rng, c)]
    if name == "group_norm":
        return lambda x, *p: tn.group_norm(x, 4, *p), [images(rng, c, 4) + 1, *parameters]
    if name == "layer_norm":
        return lambda x, *p: tn.layer_norm(x, c, *p), [images(rng, c, 4) + 1, *parameters]
    return tn.batch_norm, [images(rng, c, 4) + 1, *parameters]


@bound(1e-6, 3e-6, "cross_entropy", "dice_loss")
def of_classes(name, rng):
    x = 3 * images(rng, int(rng.integers(2, 30)))
    return options(name, target=rng.integers(0, x.shape[-1], x.shape[:-1])), [x]


@bound(1e-6, 1e-6, "binary_cross_entropy_with_logits")
def of_logits(name, rng):
    x = 3 * images(rng)
    return options(name, target=(normal(rng, *x.shape) > 0).astype(float)), [x]


@bound(5e-7, 5e-7, "mse_loss", "l1_loss", "smooth_l1_loss")
def of_values(name, rng):
    x = images(rng)
    return getattr(tn, name), [x, normal(rng, *x.shape)]


@bound(1e-6, 1e-6, "giou_loss")
def giou(name, rng):
    low = rng.uniform(0, 0.5, (2, 50, 2))
    boxes = np.concatenate([low, low + rng.uniform(0.1, 0.5, low.shape)], -1)
    return tn.giou_loss, list(boxes.astype(np.float32))


def error(got, expected):
    """The largest difference, relative to the largest value."""
    assert got.dtype == np.float32 and got.shape == expected.shape
    return np.abs(got - expected).max(initial=0.0) / (np.abs(expected).max(initial=0.0) or 1)


def errors(name, seed):
    """The relative errors of value and gradients (the worst input's), for what `seed` draws."""
    rng = np.random.default_rng(seed)
    fn, inputs = MAKERS[name](name, rng)
    results = []
    for dtype in (np.float32, np.float64):
        tensors = [tn.Tensor(x.astype(dtype), requires_grad=True) for x in inputs]
        y = fn(*tensors)
        gy = np.random.default_rng([seed, 1]).standard_normal(y.shape, dtype=np.float32).astype(dtype)
        y.backward(gy)
        results.append((y.numpy(), [t.grad.numpy() for t in tensors]))
    (y, gradients), (exact, exact_gradients) = results
    return error(y, exact), max(error(*pair) for pair in zip(gradients, exact_gradients, strict=True))


def test_every_op_has_its_bounds():
    assert set(ops.__all__) <= set(BOUNDS)


@pytest.mark.parametrize("name", BOUNDS)
@settings(max_examples=4)
@given(seed=st.integers(0, 2**32 - 1))
def test_float32_keeps_its_bound(name, seed):
    value, gradient = errors(name, seed)
    assert value <= BOUNDS[name][0], "value"
    assert gradient <= BOUNDS[name][1], "gradient"


def main(draws=20):
    print(f"{'':45}    value    bound gradient    bound    (largest of {draws} draws)")
    for name, bounds in BOUNDS.items():
        value, gradient = np.max([errors(name, seed) for seed in range(draws)], axis=0)
        print(f"{name:45} {value:8.1e} {bounds[0]:8.1e} {gradient:8.1e} {bounds[1]:8.1e}", flush=True)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
