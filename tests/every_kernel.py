"""Work that calls every kernel through public operations, for tests of threads, processes and settings."""

import sys

import numpy as np

import tinynet as tn
from tinynet import optim
from tinynet.ops.convolution import Then

LARGE = 65536  # elements, from which on functions of one number are kernels


def work(seed):
    """Arrays that depend on the seed alone, bit by bit."""
    rng = np.random.default_rng(seed)

    def draw(*shape):
        return tn.Tensor(rng.uniform(-1, 1, shape).astype(np.float32), requires_grad=True)

    results = []
    for case in (_convolutions, _maps_of_images, _normalizations, _products, _functions, _losses, _updates):
        for y, leaves in case(draw, rng):
            results += [y.numpy(), *(x.grad.numpy() for x in leaves)]
    return results


def _backward(y, *leaves):
    y.sum().backward()
    return y, leaves


def _convolutions(draw, rng):
    for channels, outputs, groups, size, stride in ((3, 8, 1, 3, 1), (16, 16, 1, 3, 1), (16, 16, 1, 4, 2),
                                                    (16, 3, 1, 3, 1), (8, 2, 1, 3, 1), (8, 8, 8, 3, 1),
                                                    (8, 8, 2, 3, 2)):
        x, w, b = draw(3, 8, 8, channels), draw(size, size, channels // groups, outputs), draw(outputs)
        yield _backward(tn.conv2d(x, w, b, stride=stride, padding=1, groups=groups), x, w, b)
        x, b = draw(3, 8, 8, outputs), draw(channels)
        yield _backward(tn.conv_transpose2d(x, w, b, stride=stride, padding=1, groups=groups), x, w, b)
    x, w = draw(3, 8, 8, 16), draw(3, 3, 16, 16)
    yield _backward(tn.conv2d(x, w, padding=1, then=Then(relu=True, pool=True)), x, w)
    x, w = draw(1, 64, 64, 8), draw(3, 3, 8, 32)             # few channels, of so many pixels
    yield _backward(tn.conv2d(x, w, padding=1), x, w)
    x, w = draw(1, 12, 12, 32), draw(3, 3, 32, 32)
    yield _backward(tn.conv2d(x, w, padding=2, dilation=2), x, w)
    x, w = draw(1, 4, 4, 64), draw(3, 3, 64, 64)             # so many weights are turned by a kernel
    yield _backward(tn.conv2d(x, w, stride=2, padding=1), x, w)


def _maps_of_images(draw, rng):
    for pool in (lambda x: tn.max_pool2d(x, 2), lambda x: tn.max_pool2d(x, 3, 2, 1), lambda x: tn.avg_pool2d(x, 2)):
        x = draw(2, 8, 8, 5)
        yield _backward(pool(x), x)
        (gx,) = tn.grad((pool(x) ** 2).sum(), x, create_graph=True)
        x.grad = None
        yield _backward(gx**2, x)
    x = draw(2, 5, 7, 3)
    yield _backward(tn.resize(x, (9, 8), "bilinear"), x)


def _normalizations(draw, rng):
    x, w, b = draw(4, 6, 6, 8), draw(8), draw(8)
    for norm in (tn.batch_norm, lambda x, w, b: tn.group_norm(x, 2, w, b), lambda x, w, b: tn.layer_norm(x, 8, w, b)):
        for leaf in (x, w, b):
            leaf.grad = None
        yield _backward(norm(x, w, b) ** 3, x, w, b)
    for leaf in (x, w, b):
        leaf.grad = None
    yield _backward(tn.batch_norm(x, w, b, relu=True, pool=True) ** 3, x, w, b)


def _products(draw, rng):
    for m, k, n in ((33, 40, 50), (1, 300, 40), (40, 300, 1), (30, 1, 40), (2, 2000, 3)):
        a, b = draw(m, k), draw(k, n)
        yield _backward(a @ b, a, b)


def _functions(draw, rng):
    for fn in (tn.relu, tn.sigmoid, tn.tanh, tn.gelu, lambda x: tn.softmax(x) ** 2, tn.log_softmax,
               lambda x: x * x + x):
        x = draw(LARGE // 64 + 1, 64)
        yield _backward(fn(x), x)


def _losses(draw, rng):
    x = draw(300, 7)
    yield _backward(tn.cross_entropy(x, rng.integers(0, 7, 300), label_smoothing=0.1), x)
    for loss in (tn.mse_loss, tn.l1_loss, tn.smooth_l1_loss):
        x = draw(LARGE + 1)
        yield _backward(loss(x, np.zeros(LARGE + 1, np.float32)), x)


def _updates(draw, rng):
    for Optimizer in (optim.SGD, optim.Adam, optim.RMSProp):
        x = draw(1000)
        optimizer = Optimizer([x], lr=0.1)
        (x * x).sum().backward()
        optimizer.step()
        yield x * 1, [x]


def unused():
    """The kernels that have not been compiled for anything in this process."""
    modules = [module for name, module in sys.modules.items() if name.startswith("tinynet.kernels.")]
    kernels = {one for module in modules for one in vars(module).values() if hasattr(one, "dispatcher")}
    return sorted(f"{one.__module__}.{one.__name__}" for one in kernels if not one.dispatcher.overloads)


def same(results, expected):
    """Whether both are the same, bit by bit."""
    return len(results) == len(expected) and all(map(np.array_equal, results, expected))
