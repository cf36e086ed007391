"""Every public op, loss and layer, whatever else is tested of it: a table that a new one must be entered into.

A case draws shapes and options and gives the function, its naive twin and the inputs. Each is held to its twin, to
gradcheck and gradgradcheck (the fast ones; the files in tests/ops/ use the exact ones), to float32 in, float32 out, and
to NaN for NaN; where it is linear in an input also to the adjoint identity, to rounding.
"""

import inspect

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, distinct, draw
from tests.naive import activation, convolution, loss, matmul, normalization, pooling, resize
from tinynet import nn, ops
from tinynet.shapes import Geometry, conv2d_shapes, conv_transpose2d_shapes

CASES, LINEAR = {}, {}
sides = st.integers(1, 3)
shapes = st.lists(sides, max_size=3).map(tuple)
pairs = st.tuples(sides, sides)


def case(*names, linear=()):
    """Enter a function (name, drawn) -> (fn, twin, inputs) into the table, for all these names."""

    def enter(make):
        for name in names:
            CASES[name], LINEAR[name] = make, linear
        return make

    return enter


def axis_of(drawn, shape):
    return drawn(st.integers(-len(shape), len(shape) - 1))


@case("exp", "abs", "log", "sqrt")
def elementwise(name, drawn):
    shape = drawn(shapes)
    x = distinct(shape) if name == "abs" else draw(shape, low=0.2, high=2)
    return getattr(tn, name), getattr(np, name), [x]


@case("maximum", "minimum")
def two(name, drawn):
    shape = drawn(shapes)
    return getattr(tn, name), getattr(np, name), [distinct(shape), distinct(shape[-1:], 1) + 0.03]


@case("where", linear=(0, 1))
def where(name, drawn):
    shape = drawn(shapes)
    condition = draw(shape, 2) > 0
    return (lambda x, y: tn.where(condition, x, y), lambda x, y: np.where(condition, x, y),
            [draw(shape), draw(shape[-1:], 1)])


@case("clip")
def clip(name, drawn):
    low, high = drawn(st.sampled_from([(-0.2, 0.3), (None, 0.1), (-0.1, None)]))
    return lambda x: tn.clip(x, low, high), lambda x: np.clip(x, low, high), [distinct(drawn(shapes))]


@case("matmul", linear=(0, 1))
def product(name, drawn):
    stack, (m, k), n = drawn(st.lists(sides, max_size=1).map(tuple)), drawn(pairs), drawn(sides)
    return tn.matmul, matmul.matmul, [draw((*stack, m, k)), draw((k, n), 1)]


@case("sum", "mean", linear=(0,))
@case("var", "max", "min")
def reduction(name, drawn):
    shape, keepdims = drawn(shapes.filter(len)), drawn(st.booleans())
    axis = drawn(st.sampled_from([None, 0, -1, tuple(range(len(shape)))]))
    return (lambda x: getattr(tn, name)(x, axis, keepdims),
            lambda x: getattr(np, name)(x, axis=axis, keepdims=keepdims), [distinct(shape)])


@case("logsumexp")
def logsumexp(name, drawn):
    shape = drawn(shapes.filter(len))
    axis = axis_of(drawn, shape)
    return lambda x: tn.logsumexp(x, axis), lambda x: np.log(np.exp(x).sum(axis)), [draw(shape)]


@case("reshape", "flatten", "transpose", "broadcast_to", "pad", linear=(0,))
def layout(name, drawn):
    shape = drawn(st.tuples(sides, sides, sides))
    axes, more = tuple(drawn(st.permutations(range(3)))), drawn(sides)
    width = [drawn(st.tuples(st.integers(0, 2), st.integers(0, 2))) for _ in shape]
    fn, twin = {
        "reshape": (lambda x: tn.reshape(x, (shape[1], -1)), lambda x: x.reshape(shape[1], -1)),
        "flatten": (lambda x: tn.flatten(x), lambda x: x.reshape(shape[0], -1)),
        "transpose": (lambda x: tn.transpose(x, axes), lambda x: x.transpose(axes)),
        "broadcast_to": (lambda x: tn.broadcast_to(x, (more, *shape)), lambda x: np.stack([x] * more)),
        "pad": (lambda x: tn.pad(x, width, 0.5), lambda x: np.pad(x, width, constant_values=0.5)),
    }[name]
    return fn, twin, [draw(shape)]


@case("concatenate", "stack", linear=(0, 1))
def joined(name, drawn):
    shape = drawn(shapes.filter(len))
    axis = axis_of(drawn, shape)
    fn, twin = getattr(tn, name), getattr(np, name)
    return lambda x, y: fn([x, y], axis), lambda x, y: twin([x, y], axis), [draw(shape), draw(shape, 1)]


@case("relu", "leaky_relu", "sigmoid", "tanh", "softplus", "gelu", "silu")
def activations(name, drawn):
    options = [drawn(st.sampled_from([0.01, -0.5, 2.0]))] if name == "leaky_relu" else []
    fn, twin = getattr(tn, name), getattr(activation, name)
    return lambda x: fn(x, *options), lambda x: twin(x, *options), [distinct(drawn(shapes))]


@case("softmax", "log_softmax")
def softmax(name, drawn):
    shape = drawn(shapes.filter(len))
    axis = axis_of(drawn, shape)
    fn, twin = getattr(tn, name), getattr(activation, name)
    return lambda x: fn(x, axis), lambda x: twin(x, axis), [draw(shape, low=-3, high=3)]


@case("dropout", linear=(0,))
def dropout(name, drawn):
    shape, p = drawn(st.tuples(sides, sides)), drawn(st.sampled_from([0.0, 0.3, 0.7]))

    def fn(x):
        tn.manual_seed(1)
        return tn.dropout(x, p)

    stays = fn(np.ones(shape)).numpy() > 0
    return fn, lambda x: x * np.where(stays, 1 / (1 - p), 0), [draw(shape)]


def conv_options(drawn):
    """Options, and the sizes of an image, kernel and channels that fit them."""
    groups, kernel, dilation = drawn(st.integers(1, 2)), drawn(pairs), drawn(st.tuples(*[st.integers(1, 2)] * 2))
    padding = drawn(st.tuples(*[st.tuples(st.integers(0, 1), st.integers(0, 1))] * 2))
    size = [max(1, d * (k - 1) + 1 - sum(p)) + drawn(st.integers(0, 2))
            for d, k, p in zip(dilation, kernel, padding, strict=True)]
    options = dict(stride=drawn(st.tuples(*[st.integers(1, 2)] * 2)), padding=padding, dilation=dilation, groups=groups)
    return options, size, kernel, drawn(st.integers(1, 2))


@case("conv2d", linear=(0, 1, 2))
def conv2d(name, drawn):
    options, size, kernel, channels = conv_options(drawn)
    groups = options["groups"]
    x, w = draw((2, *size, channels * groups)), draw((*kernel, channels, 2 * groups), 1)
    geometry, out = conv2d_shapes(x.shape, w.shape, None, **options)
    return (lambda *t: tn.conv2d(*t, **options), lambda *a: convolution.gather(*a, geometry, out),
            [x, w, draw((2 * groups,), 2)])


@case("conv_transpose2d", linear=(0, 1, 2))
def conv_transpose2d(name, drawn):
    options, _, kernel, channels = conv_options(drawn)
    groups, size = options["groups"], drawn(st.tuples(st.integers(2, 3), st.integers(2, 3)))
    options["output_padding"] = tuple(drawn(st.integers(0, max(s, d) - 1))
                                      for s, d in zip(options["stride"], options["dilation"], strict=True))
    options["padding"] = tuple((min(a, k - 1), 0) for (a, _), k in zip(options["padding"], kernel, strict=True))
    x, w = draw((2, *size, 2 * groups)), draw((*kernel, channels, 2 * groups), 1)
    geometry, out = conv_transpose2d_shapes(x.shape, w.shape, None, **options)
    return (lambda *t: tn.conv_transpose2d(*t, **options), lambda *a: convolution.scatter(*a, geometry, out),
            [x, w, draw((channels * groups,), 2)])


@case("avg_pool2d", linear=(0,))
@case("max_pool2d")
def pools(name, drawn):
    kernel, stride = drawn(pairs), drawn(pairs)
    padding = tuple((drawn(st.integers(0, k // 2)), drawn(st.integers(0, k // 2))) for k in kernel)
    x = distinct((1, *(k + drawn(st.integers(0, 2)) for k in kernel), 2))
    fn, twin = getattr(tn, name), getattr(pooling, name)
    return lambda x: fn(x, kernel, stride, padding), lambda x: twin(x, kernel, stride, padding), [x]


@case("resize", linear=(0,))
def resized(name, drawn):
    size, out, mode = drawn(pairs), drawn(st.tuples(*[st.integers(1, 5)] * 2)), drawn(st.sampled_from(
        ["nearest", "bilinear"]))
    return lambda x: tn.resize(x, out, mode), lambda x: resize.resize(x, out, mode), [draw((1, *size, 2))]


@case("batch_norm", "group_norm", "layer_norm", linear=(1, 2))
def norms(name, drawn):
    x, groups = draw((2, *drawn(pairs), 4)), drawn(st.sampled_from([1, 2, 4]))
    fn, twin = {
        "batch_norm": (lambda *t: tn.batch_norm(*t, eps=0.1), lambda *a: normalization.batch_norm(*a, 0.1)),
        "group_norm": (lambda x, *p: tn.group_norm(x, groups, *p, eps=0.1),
                       lambda x, *p: normalization.group_norm(x, groups, *p, 0.1)),
        "layer_norm": (lambda x, *p: tn.layer_norm(x, 4, *p, eps=0.1),
                       lambda x, *p: normalization.layer_norm(x, 1, *p, 0.1)),
    }[name]
    return fn, twin, [x, draw((4,), 1, 0.5, 1.5), draw((4,), 2)]


reductions = st.sampled_from(["mean", "sum", "none"])


@case("cross_entropy", "dice_loss")
def of_classes(name, drawn):
    shape, classes, options = drawn(shapes.filter(len)), drawn(st.integers(2, 4)), {"reduction": drawn(reductions)}
    target = np.random.default_rng(classes).integers(0, classes, shape)
    if name == "cross_entropy":
        options["label_smoothing"] = drawn(st.sampled_from([0.0, 0.2]))
    twin = loss.cross_entropy if name == "cross_entropy" else loss.dice_of_classes
    return (lambda x: getattr(tn, name)(x, target, **options), lambda x: twin(x, target, **options),
            [draw((*shape, classes), low=-2, high=2)])


@case("binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss")
def of_values(name, drawn):
    shape, reduction = drawn(shapes), drawn(reductions)
    target = draw(shape, 1, 0.1, 0.9)
    return (lambda x, t: getattr(tn, name)(x, t, reduction=reduction),
            lambda x, t: getattr(loss, name)(x, t, reduction=reduction), [target + distinct(shape) + 0.013, target])


@case("giou_loss")
def giou(name, drawn):
    count, reduction = drawn(st.integers(1, 3)), drawn(reductions)
    low = draw((2, count, 2), drawn(st.integers(0, 99)), 0, 0.5)
    boxes = list(np.concatenate([low, low + draw((2, count, 2), 1, 0.1, 0.5)], -1))
    return (lambda x, t: tn.giou_loss(x, t, reduction=reduction),
            lambda x, t: loss.giou_loss(x, t, reduction), boxes)


def test_no_public_op_is_left_out():
    assert sorted(CASES) == sorted(ops.__all__)


@pytest.mark.parametrize("name", ops.__all__)
@settings(max_examples=6)
@given(data=st.data())
def test_op(name, data):
    fn, twin, inputs = CASES[name](name, data.draw)
    check_op(fn, twin, inputs, fast=True, linear=LINEAR[name], rtol32=1e-3)


# ---- Layers: as functions of x and of their parameters

IMAGE = (2, 5, 4, 4)
SAME = Geometry((1, 1), ((1, 1), (1, 1)))




def residual(x, w, b):
    return activation.relu(x @ w + b) + x


LAYERS = {
    nn.Conv2d: (lambda: nn.Conv2d(4, 3, 3, padding=1), lambda x, w, b: convolution.gather(x, w, b, SAME, (5, 4))),
    nn.ConvTranspose2d: (lambda: nn.ConvTranspose2d(4, 3, 4, 2, 1), lambda x, w, b: convolution.scatter(
        x, w, b, SAME._replace(stride=(2, 2)), (10, 8))),
    nn.Dense: (lambda: nn.Dense(4, 3), lambda x, w, b: matmul.matmul(x, w) + b),
    nn.Flatten: (nn.Flatten, lambda x: x.reshape(2, -1)),
    nn.ReLU: (nn.ReLU, activation.relu),
    nn.LeakyReLU: (nn.LeakyReLU, lambda x: activation.leaky_relu(x, 0.01)),
    nn.Sigmoid: (nn.Sigmoid, activation.sigmoid),
    nn.Tanh: (nn.Tanh, activation.tanh),
    nn.GELU: (nn.GELU, activation.gelu),
    nn.MaxPool2d: (lambda: nn.MaxPool2d(2), lambda x: pooling.max_pool2d(x, (2, 2), (2, 2), ((0, 0), (0, 0)))),
    nn.AvgPool2d: (lambda: nn.AvgPool2d(2), lambda x: pooling.avg_pool2d(x, (2, 2), (2, 2), ((0, 0), (0, 0)))),
    nn.Upsample: (lambda: nn.Upsample(2, "bilinear"), lambda x: resize.resize(x, (10, 8), "bilinear")),
    nn.BatchNorm2d: (lambda: nn.BatchNorm2d(4), normalization.batch_norm),
    nn.GroupNorm: (lambda: nn.GroupNorm(2, 4), lambda x, w, b: normalization.group_norm(x, 2, w, b)),
    nn.LayerNorm: (lambda: nn.LayerNorm(4), lambda x, w, b: normalization.layer_norm(x, 1, w, b)),
    nn.Dropout: (lambda: nn.Dropout(0.3).eval(), lambda x: x),
    nn.Sequential: (lambda: nn.Sequential(nn.Dense(4, 3), nn.Tanh()), lambda x, w, b: np.tanh(x @ w + b)),
    nn.Residual: (lambda: nn.Residual(nn.Sequential(nn.Dense(4, 4), nn.ReLU())), residual),
}


def as_function(layer):
    """The layer as a function of x and its parameters, and their values."""
    names = [name.rpartition(".") for name, _ in layer.named_parameters()]
    owners = dict(layer.named_modules())
    values = [np.asarray(p.data, np.float64) + draw(p.shape, i) * 0.3 for i, p in enumerate(layer.parameters())]

    def fn(x, *parameters):
        for (owner, _, name), parameter in zip(names, parameters, strict=True):
            vars(owners[owner])[name] = parameter  # past the check that it is a Parameter: it shall not be a leaf
        return layer(x)

    return fn, values


def test_no_layer_is_left_out():
    layers = {value for name in nn.__all__ if inspect.isclass(value := getattr(nn, name))}
    assert set(LAYERS) == layers - {nn.Module, nn.Parameter}


@pytest.mark.parametrize("make, twin", LAYERS.values(), ids=[layer.__name__ for layer in LAYERS])
def test_layer(make, twin):
    layer = make().astype(np.float64)
    fn, values = as_function(layer)
    check_op(fn, twin, [distinct(IMAGE), *values], fast=True, rtol32=1e-3)
