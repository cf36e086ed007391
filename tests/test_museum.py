"""A museum of wrong gradients: each exhibit is a mistake that somebody has made, and one check must reject it.

An exhibit is an op whose docstring says what went wrong and where it is known from; `at` are the inputs to check it at,
`looks_like` what gradcheck should say about it. Most forget or confuse something in backward, so that gradcheck sees
them. The rooms at the end show what differences alone can't see: a backward that fits a wrong forward, a gradient that
can't be differentiated again, an engine that lets a graph be spoiled.
"""

import warnings

import numpy as np
import pytest

import tinynet as tn
from tests.checks import distinct, draw
from tests.naive import loss as naive_loss
from tests.naive import pooling as naive_pooling
from tests.naive import resize as naive_resize
from tinynet.autograd import Op
from tinynet.operators import Index, IndexAdd, swap_last
from tinynet.ops.convolution import Gather, Scatter, WeightGradient
from tinynet.shapes import Geometry

MUSEUM = []
PADDED = Geometry(padding=((1, 1), (1, 1)))


def exhibit(looks_like, *at):
    """Put an op into the museum: what it looks like (None: no usual mistake), and the inputs to check it at."""

    def hang(op):
        MUSEUM.append(pytest.param(op, looks_like, at, id=op.__name__))
        return op

    return hang


# ---- Factors and signs


@exhibit("a constant factor of 5", draw((3,)) * 1e-9)
class FiveTimesTooLarge(Op):
    """PyTorch's gradcheck passes it: the values lie below its absolute tolerance."""

    def forward(self, x):
        return x * 2

    def backward(self, gy):
        return gy * 10


@exhibit("a constant factor of 1.00075", draw((3,)))
class AlmostRight(Op):
    """An error of 0.075 %: PyTorch's gradcheck, relative tolerance 1e-3, passes it too."""

    def forward(self, x):
        return x * 2

    def backward(self, gy):
        return gy * 2.0015


@exhibit("the wrong sign", draw((3,)), draw((3,), 1))
class Subtract(Op):
    """The second operand's minus is forgotten."""

    def forward(self, x, y):
        return x - y

    def backward(self, gz):
        return gz, gz


@exhibit("a constant factor of 2", draw((4,), low=1, high=3))
class SquareRoot(Op):
    """1 / (2 sqrt x) has lost its 2."""

    keeps = ("output",)

    def forward(self, x):
        return np.sqrt(x)

    def backward(self, gy):
        return gy / self.output


@exhibit("a constant factor of 0.5, as if one of two uses", draw((3,)))
class Square(Op):
    """y = x x with a gradient for one of the two: a node that sets its gradient (`=` for `+=`)."""

    keeps = ("x",)

    def forward(self, x):
        return x * x

    def backward(self, gy):
        return gy * self.x


@exhibit("the number of all elements of the input: a mean's 1/n", draw((2, 3)))
class Mean(Op):
    """A mean that hands on its gradient as a sum would."""

    def forward(self, x):
        self.shape = x.shape
        return np.asarray(x.mean())

    def backward(self, gy):
        return gy.broadcast_to(self.shape)


@exhibit("a constant factor of 1/6, the number of all", draw((6,)))
class MeanTwice(Mean):
    """The opposite: 1/n is in the loss and in the gradient's code once more."""

    def backward(self, gy):
        return gy.broadcast_to(self.shape) * (1 / 36)


@exhibit("a constant factor of 4, the number of the elements along axis 0", draw((4, 3), low=-2, high=2))
class CrossEntropy(Op):
    """p - onehot, as the textbooks have it for one image, in front of a mean over four of them."""

    keeps = ("x",)

    def forward(self, x):
        p = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        return np.asarray(-np.log(p[:, 1]).mean())

    def backward(self, gy):
        return gy * (tn.softmax(self.x) - np.eye(3)[1])


@exhibit("a constant factor of 0.8", distinct((4, 5)))
class Dropout(Op):
    """The values that stay are scaled by 1 / (1 - p) on the way there, but not on the way back."""

    def forward(self, x):
        self.stays = np.arange(x.size).reshape(x.shape) % 5 > 0
        return x * self.stays / 0.8

    def backward(self, gy):
        return gy * self.stays


# ---- Wrong formulas


@exhibit(None, draw((5,)))
class Sigmoid(Op):
    """y (1 - y) is right for y, and wrong for x: the famous network in eleven lines takes care to pass y."""

    keeps = ("x",)

    def forward(self, x):
        return 1 / (1 + np.exp(-x))

    def backward(self, gy):
        return gy * self.x * (1 - self.x)


@exhibit(None, draw((3,)), draw((3,), low=1, high=2))
class Divide(Op):
    """The denominator's gradient is -x / y^2; here the square is missing."""

    keeps = ("x", "y")

    def forward(self, x, y):
        return x / y

    def backward(self, gz):
        return gz / self.y, -gz * self.x / self.y


@exhibit(None, distinct((6,)))
class GuidedRelu(Op):
    """Guided backpropagation, made for pictures of what a network looks at, drops negative gradients: not linear."""

    keeps = ("x",)

    def forward(self, x):
        return np.maximum(x, 0)

    def backward(self, gy):
        return gy * (self.x.array > 0) * (gy.array > 0)


@exhibit(None, distinct((6,)))
class StraightThrough(Op):
    """Rounding whose gradient is passed through as if it were nothing: useful, and no derivative."""

    def forward(self, x):
        return np.round(x * 2) / 2

    def backward(self, gy):
        return gy


@exhibit("only the diagonal is used", draw((2, 3)))
class Softmax(Op):
    """p (1 - p), the sigmoid's derivative: what an element does to the others' shares is left out."""

    keeps = ("output",)

    def forward(self, x):
        return np.exp(x) / np.exp(x).sum(-1, keepdims=True)

    def backward(self, gp):
        return gp * self.output * (1 - self.output)


@exhibit(None, draw((2, 3)))
class LogSoftmax(Op):
    """gy - p: right in front of a cross-entropy, where the gradients sum to 1, and nowhere else."""

    keeps = ("output",)

    def forward(self, x):
        return x - np.log(np.exp(x).sum(-1, keepdims=True))

    def backward(self, gy):
        return gy - tn.exp(self.output)


@exhibit(None, draw((5, 2)))
class BatchNorm(Op):
    """Mean and deviation are taken for constants, though x moves them too."""

    def forward(self, x):
        self.deviation = x.std(0)
        return (x - x.mean(0)) / self.deviation

    def backward(self, gy):
        return gy / self.deviation


@exhibit("a constant factor of 0.8", draw((5, 2)))
class Unbiased(Op):
    """A variance with n - 1 there and with n back."""

    keeps = ("x",)

    def forward(self, x):
        return x.var(0, ddof=1)

    def backward(self, gy):
        return (self.x - self.x.mean(0, keepdims=True)) * gy * (2 / len(self.x))


@exhibit("doesn't arrive", draw((3,)))
class Detached(Op):
    """Through NumPy and back: the value is right, the way back is cut."""

    def forward(self, x):
        return np.sin(x)

    def backward(self, gy):
        return None


@exhibit("a NaN or Inf made by backward", np.array([0.0, 1.0, 2.0]))
class PowerAtZero(Op):
    """x^1 by the rule of powers with a logarithm in it: 0 * ln 0 is NaN."""

    def forward(self, x):
        self.slope = x / x
        return x * 1.0

    def backward(self, gy):
        return gy * self.slope


# ---- Broadcasting and sums


@exhibit("a missing un-broadcast: only the copy at 0 along axis 0", draw((4, 3)), draw((3,), 1))
class FirstRow(Op):
    """A bias is added to every row of a batch, but only the first row's gradient comes back."""

    def forward(self, x, b):
        return x + b

    def backward(self, gy):
        return gy, gy[0]


@exhibit("a sum over the wrong axis: axes 0 and 1", draw((3, 3)), draw((3,), 1))
class WrongAxis(Op):
    """As many rows as columns: nothing but the values tells that the sum went along the wrong ones."""

    def forward(self, x, b):
        return x + b

    def backward(self, gy):
        return gy, gy.sum(1)


@exhibit("a constant factor of 1/4, the number of the elements along axis 0 of the result", draw((4, 3)), draw((3,), 1))
class AveragedBias(Op):
    """The mean over the batch in place of the sum."""

    def forward(self, x, b):
        return x + b

    def backward(self, gy):
        return gy, gy.mean(0)


@exhibit("a sum over the wrong axis: taken over axis 1 of the input", draw((2, 3)))
class SpreadOut(Op):
    """A doubling that sums its gradient, and gives everyone the total."""

    def forward(self, x):
        return x * 2

    def backward(self, gy):
        return (gy * 2).sum(1, keepdims=True).broadcast_to(gy.shape)


# ---- Moved elements


@exhibit("a transposed array: the right values with the axes in the order (2, 0, 1)", draw((3, 3, 3)))
class Transpose(Op):
    """Back with the order of the way there, not with its inverse: right for every swap of two axes, wrong for three."""

    def forward(self, x):
        return x.transpose(1, 2, 0)

    def backward(self, gy):
        return gy.transpose(1, 2, 0)


@exhibit("a flipped array: the right values, mirrored along axis 1", draw((2, 4)))
class Mirror(Op):
    """The augmentation that mirrors images forgets to mirror their gradients."""

    def forward(self, x):
        return x[:, ::-1]

    def backward(self, gy):
        return gy


@exhibit("(= for +=): only the last of several", draw((4,)))
class Take(Op):
    """An embedding: rows that are taken twice are written twice, and the second time replaces the first."""

    index = np.array([0, 2, 2, 3, 2])

    def forward(self, x):
        return x[self.index]

    def backward(self, gy):
        gx = np.zeros(4)
        gx[self.index] = gy.array
        return gy.wrap(gx)


@exhibit("shifted by one along axis 0: off by one", draw((5,)))
class Pad(Op):
    """One zero in front, but the way back cuts it off at the end."""

    def forward(self, x):
        return np.pad(x, (1, 0))

    def backward(self, gy):
        return gy[:-1]


@exhibit("gradients handed to the wrong inputs: input 1 got this one", draw((3,)), draw((3,), 1))
class Concatenate(Op):
    """Two parts of one length, handed back in the other order."""

    def forward(self, x, y):
        return np.concatenate([x, y])

    def backward(self, gz):
        return gz[3:], gz[:3]


# ---- Matrices and convolutions


@exhibit("a transposed kernel or matrix", draw((2, 3)), draw((3, 3), 1))
class MatMul(Op):
    """ga = gc b for gc b^T: for square weights no shape complains."""

    keeps = ("a", "b")

    def forward(self, a, b):
        return a @ b

    def backward(self, gc):
        return gc @ self.b, swap_last(self.a) @ gc


@exhibit("a transposed array", draw((2, 3)), draw((3, 3), 1))
class MatMulTurned(MatMul):
    """gb = gc^T a, which is the transpose of a^T gc."""

    def backward(self, gc):
        return gc @ swap_last(self.b), swap_last(gc) @ self.a


class Conv(Op):
    """y = x * w, 3x3 with a border of one: right, unless a subclass says otherwise."""

    keeps = ("x", "w")

    def forward(self, x, w):
        return Gather(PADDED, x.shape[1:3])(tn.Tensor(x), tn.Tensor(w)).array

    def backward(self, gy):
        return self.gx(gy), self.gw(gy)

    def gx(self, gy):
        return Scatter(PADDED, self.x.shape[1:3])(gy, self.w)

    def gw(self, gy):
        return WeightGradient(PADDED, (3, 3))(self.x, gy)


IMAGES = draw((1, 4, 5, 2)), draw((3, 3, 2, 2), 1)


@exhibit("a flipped kernel: each offset counted backwards along axes 1 and 2",
         draw((1, 4, 5, 1)), draw((3, 3, 1, 1), 1))
class ConvNotMirrored(Conv):
    """The input gradient is a convolution with the kernel mirrored; here it isn't."""

    def gx(self, gy):
        return Gather(PADDED, self.x.shape[1:3])(gy, self.w)


@exhibit("a transposed kernel or matrix: axis 3 of the result is taken for axis 3", *IMAGES)
class ConvChannels(Conv):
    """As many channels in as out, and taken for each other."""

    def gx(self, gy):
        return Scatter(PADDED, self.x.shape[1:3])(gy, swap_last(self.w))


@exhibit("a flipped array: the right values, mirrored along axes 0 and 1", *IMAGES)
class ConvWeightMirrored(Conv):
    """What a true convolution's weight gradient would be: this one is a correlation, as everywhere in this field."""

    def gw(self, gy):
        return super().gw(gy)[::-1, ::-1]


@exhibit("a mistake at the border only, along axes 1 and 2: padding", *IMAGES)
class ConvBorder(Conv):
    """The gradient of the inner part alone: windows that reach into the padding are skipped on the way back."""

    def gx(self, gy):
        inside = np.zeros(gy.shape)
        inside[:, 1:-1, 1:-1] = 1
        skipped = gy * (1 - inside)
        height, width = self.x.shape[1:3]
        at_edge = np.ones(self.x.shape)
        at_edge[:, 1:-1, 1:-1] = 0
        return super().gx(gy) - super().gx(skipped) * at_edge[:, :height, :width]


@exhibit("a mistake at the border only, along axis 1", draw((1, 6, 1, 1)))
class AveragePool(Op):
    """Windows of three with padding: the mean there counts the padding, the way back counts the pixels inside."""

    def forward(self, x):
        return naive_pooling.avg_pool2d(x, (3, 1), (1, 1), ((1, 1), (0, 0)))

    def backward(self, gy):
        inside = np.array([2, 3, 3, 3, 3, 2]).reshape(1, 6, 1, 1)
        gy = tn.pad(gy / inside, ((0, 0), (1, 1), (0, 0), (0, 0)))
        return gy[:, :-2] + gy[:, 1:-1] + gy[:, 2:]


@exhibit("(= for +=)", distinct((1, 5, 1, 1)))
class MaxPool(Op):
    """Windows that overlap may share their maximum: it gets the gradient of the one that writes last."""

    def forward(self, x):
        windows = np.lib.stride_tricks.sliding_window_view(x[0, :, 0, 0], 3)
        self.places = windows.argmax(1) + np.arange(3)
        return windows.max(1).reshape(1, 3, 1, 1)

    def backward(self, gy):
        gx = np.zeros((1, 5, 1, 1))
        gx[0, self.places] = gy.array[0]
        return gy.wrap(gx)


@exhibit(None, draw((1, 4, 1, 1)))
class Stride(Op):
    """Every second pixel is taken; the way back fills the first ones in a row."""

    def forward(self, x):
        return x[:, ::2]

    def backward(self, gy):
        return tn.pad(gy, ((0, 0), (0, 2), (0, 0), (0, 0)))


def tensors(at):
    return [tn.Tensor(x, requires_grad=True) for x in at]


@pytest.mark.parametrize("op, looks_like, at", MUSEUM)
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
    with pytest.raises(tn.GraphError, match="dtype float64 .* dtype float32"):
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
