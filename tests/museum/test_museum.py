"""The museum's checks: every exhibit of the rooms formulas.py and places.py is rejected; and the rooms beyond them.

There it is shown what gradcheck alone passes: right gradients whose own derivative is wrong, a backward that fits a
wrong forward, what hides at a kink; and what the engine refuses before any check is made.
"""

import warnings

import numpy as np
import pytest

import tinynet as tn
from tests.checks import draw
from tests.museum import MUSEUM, formulas
from tests.museum.places import IMAGES, Conv
from tests.naive import loss as naive_loss
from tests.naive import pooling as naive_pooling
from tests.naive import resize as naive_resize
from tinynet.autograd import Op
from tinynet.operators import Index, IndexAdd


def test_the_museum_is_open():
    assert formulas.FiveTimesTooLarge in [op for op, _, _ in MUSEUM] and len(MUSEUM) >= 30


def tensors(at):
    return [tn.Tensor(x, requires_grad=True) for x in at]


@pytest.mark.parametrize("op, looks_like, at", MUSEUM, ids=[op.__name__ for op, _, _ in MUSEUM])
@pytest.mark.parametrize("fast", [False, True], ids=["exact", "fast"])
def test_gradcheck_rejects(op, looks_like, at, fast):
    with pytest.raises(tn.GradientError) as error:
        tn.gradcheck(lambda *xs: op()(*xs), tensors(at), fast=fast)
    _, _, guess = str(error.value).partition("it looks like ")
    assert looks_like in guess if looks_like else not guess


def test_the_frame_without_a_mistake_is_accepted():
    """The convolution that four exhibits are made from is right itself: they are rejected for their mistakes."""
    assert tn.gradcheck(lambda *xs: Conv()(*xs), tensors(IMAGES))


# ---- What a check of the gradient passes: its own derivative is wrong


class DetachedGradient(Op):
    """The slope is kept as an array: right, but to its own derivative a constant."""

    def forward(self, x):
        self.slope = 2 * x
        return x * x

    def backward(self, gy):
        return gy * self.slope


class TanhGradient(Op):
    """gx = gy (1 - y^2) whose derivative in y forgets gy."""

    keeps = ("gy", "y")

    def forward(self, gy, y):
        return gy * (1 - y * y)

    def backward(self, v):
        return v * (1 - self.y * self.y), v * self.y * -2


class TanhOnce(Op):
    keeps = ("output",)

    def forward(self, x):
        return np.tanh(x)

    def backward(self, gy):
        return TanhGradient()(gy, self.output)


class GatherAgain(Op):
    """The adjoint of taking elements is taken for its own adjoint."""

    index = np.array([0, 2, 2])

    def forward(self, x):
        return x[self.index]

    def backward(self, gy):
        return ScatterOnce()(gy)


class ScatterOnce(Op):
    """The first gradient is right; the gradient's gradient should collect, but spreads once more."""

    def forward(self, gy):
        return IndexAdd(GatherAgain.index, (3,)).forward(gy)

    def backward(self, v):
        return IndexAdd(GatherAgain.index, (3,))(v)


@pytest.mark.parametrize("op", [DetachedGradient, TanhOnce, GatherAgain])
def test_gradgradcheck_rejects(op):
    x = tensors([draw((3,), low=0.5)])
    assert tn.gradcheck(lambda x: op()(x), x)
    for fast in (False, True):
        with pytest.raises(tn.GradientError):
            tn.gradgradcheck(lambda x: op()(x), x, fast=fast)


# ---- What no difference can see: backward fits the wrong forward. Only an independent twin can.


def broadcast_mse(x, t):
    """DeZero's: (5, 1) against (5,) compares all pairs, without a word."""
    d = x - t
    return (d * d).mean()


def floating_nearest(x):
    """Nearest pixel by floating point: floor(i * (H / OH)) is off by one at i = 55, there and back alike."""
    places = np.floor(np.arange(77) * (21 / 77)).astype(int)
    return Index((slice(None), places))(x)


def pool_without_padding(x):
    """Padding forgotten altogether: the mean over fewer windows, each with its right gradient."""
    return tn.avg_pool2d(x, 3, stride=1)


@pytest.mark.parametrize("fn, twin, x", [
    (lambda x: broadcast_mse(x, draw((5,), 1)), lambda x: naive_loss.mse_loss(x[:, 0], draw((5,), 1)), draw((5, 1))),
    (floating_nearest, lambda x: naive_resize.resize(x, (77, 1), "nearest"), draw((1, 21, 1, 1))),
    (pool_without_padding, lambda x: naive_pooling.avg_pool2d(x, (3, 3), (1, 1), ((1, 1), (1, 1))), draw((1, 4, 4, 1))),
], ids=["broadcast_mse", "floating_nearest", "pool_without_padding"])
def test_only_the_twin_rejects(fn, twin, x):
    assert tn.gradcheck(fn, tensors([x]))
    y, expected = fn(tn.Tensor(x)).numpy(), twin(x)
    assert y.shape != np.shape(expected) or not np.allclose(y, expected)


# ---- What the engine rejects


class NotSummed(Op):
    """A bias whose gradient has the batch's shape: the un-broadcast is missing."""

    def forward(self, x, b):
        return x + b

    def backward(self, gy):
        return gy, gy


class TooPrecise(Op):
    """np.sqrt(1/n) is a NumPy float64, and makes a float32 gradient one of float64 (NumPy 2)."""

    def forward(self, x):
        return x * x.dtype.type(0.5)

    def backward(self, gy):
        return gy.wrap(gy.array * np.sqrt(1 / 4))


def test_the_engine_rejects_a_missing_unbroadcast():
    x, b = tensors([draw((4, 3)), draw((3,), 1)])
    with pytest.raises(tn.GraphError, match=r"of shape \(4, 3\) .* for an input of shape \(3,\).*broadcasts = True"):
        tn.gradcheck(lambda x, b: NotSummed()(x, b), [x, b])


def test_the_engine_rejects_a_gradient_that_turns_float64():
    x = tn.Tensor(np.ones(3, np.float32), requires_grad=True)
    with pytest.raises(tn.GraphError, match="dtype float64 .* dtype float32; they must be equal$"):
        TooPrecise()(x).sum().backward()


def test_the_engine_rejects_a_write_that_would_spoil_the_gradient():
    """PyTorch doesn't see writes through .numpy() or .data after the forward pass."""
    x = tn.Tensor(np.ones(3), requires_grad=True)
    y = x * x
    with pytest.raises(ValueError, match="read-only"):
        x.numpy()[0] = 5
    y.backward(np.ones(3))


def test_the_engine_rejects_a_second_backward():
    """micrograd's second backward() starts from the first one's gradients, and is silently wrong."""
    x = tn.Tensor(np.ones(3), requires_grad=True)
    y = (x * x).sum()
    y.backward()
    with pytest.raises(tn.GraphError, match="freed"):
        y.backward()


# ---- What hides at a kink


class TiedMax(Op):
    """DeZero's max: of equal largest elements each gets the whole gradient."""

    def forward(self, x):
        self.largest = (x == x.max()).astype(float)
        return np.asarray(x.max())

    def backward(self, gy):
        return gy * self.largest


def test_ties_that_each_take_the_whole_gradient_break_eulers_identity():
    """Each 1 lies between the slopes 0 and 1 of its kink, so gradcheck names the kink and lets it pass. But max(s x) =
    s max(x), so that <x, gx> must be max(x): the two together take too much."""
    (x,) = tensors([np.array([1.0, 3.0, 3.0])])
    with pytest.warns(tn.KinkWarning, match=r"input 0 lies on a kink at \(1,\) .*\(2,\)"):
        assert tn.gradcheck(lambda x: TiedMax()(x), x)
    for fn, holds in ((lambda x: TiedMax()(x), False), (tn.max, True)):
        (gx,) = tn.grad(fn(x), x)
        assert ((x.array * gx.array).sum() == 3) == holds


def test_a_kink_excuses_only_what_lies_between_its_slopes():
    (x,) = tensors([np.array([0.0, 1.0, -1.0])])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tn.KinkWarning)
        assert tn.gradcheck(tn.relu, x)
        with pytest.raises(tn.GradientError, match=r"at \(0,\)"):
            tn.gradcheck(lambda x: tn.relu(x) + Wrong()(x), x)


class Wrong(Op):
    """Zero, with a gradient of 2 at the first element."""

    def forward(self, x):
        return x * 0

    def backward(self, gy):
        return gy * np.array([2.0, 0.0, 0.0])
