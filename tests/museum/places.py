"""The museum's second room: right values in wrong places, in arrays, matrices, convolutions and pooling."""

import numpy as np

import tinynet as tn
from tests.checks import distinct, draw
from tests.museum import exhibit
from tests.naive import pooling as naive_pooling
from tinynet.autograd import Op
from tinynet.operators import swap_last
from tinynet.ops.convolution import Gather, Scatter, WeightGradient
from tinynet.shapes import Geometry

PADDED = Geometry(padding=((1, 1), (1, 1)))

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
