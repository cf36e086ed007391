"""The museum's first room: wrong factors, wrong signs, wrong formulas, wrong sums."""

import numpy as np

import tinynet as tn
from tests.checks import distinct, draw
from tests.museum import exhibit
from tinynet.autograd import Op

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
