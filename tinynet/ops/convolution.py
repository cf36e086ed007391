"""Convolution, transposed convolution and the weight gradient: one trilinear form seen from three sides.

Of images x (N, H, W, C), a weight w (KH, KW, C/groups, O) and images y (N, OH, OW, O) one can form the number

    <x, w, y> = sum over n i j u v c o   x[n, i*s + u*d - top, j*s + v*d - left, c]  w[u, v, c, o]  y[n, i, j, o]

which is linear in each of the three. Leaving one of them out leaves a sum that gives something of its shape:

    Gather          (x, w) -> y    collects each output pixel from a window of inputs      conv2d
    Scatter         (y, w) -> x    spreads each input pixel over a window of outputs       conv_transpose2d
    WeightGradient  (x, y) -> w    correlates inputs with outputs

The derivative of a product in one factor is the product of the others. So the gradients of each of the three are the
other two, the gradients of those are again among the three, and convolutions can be differentiated as often as one
likes. This is why a convolution's input gradient is a transposed convolution, and the other way round.
"""

from tinynet.autograd import Op
from tinynet.kernels import convolution as kernels
from tinynet.shapes import conv2d_shapes, conv_transpose2d_shapes
from tinynet.tensor import as_tensor


class Gather(Op):
    """y = x * w + b;  gx = Scatter(gy, w),  gw = WeightGradient(x, gy),  gb = sum gy over the pixels"""

    keeps = ("x", "w")

    def __init__(self, geometry, out_hw):
        self.geometry, self.out_hw = geometry, out_hw

    def forward(self, x, w, b=None):
        self.x_hw, self.w_hw = x.shape[1:3], w.shape[:2]
        return kernels.gather(x, w, b, self.geometry, self.out_hw)

    def backward(self, gy):
        needs_x, needs_w, needs_b = self.needs
        gx = Scatter(self.geometry, self.x_hw)(gy, self.w) if needs_x else None
        gw = WeightGradient(self.geometry, self.w_hw)(self.x, gy) if needs_w else None
        return gx, gw, gy.sum((0, 1, 2)) if needs_b else None


class Scatter(Op):
    """x = y spread by w, + b;  gy = Gather(gx, w),  gw = WeightGradient(gx, y),  gb = sum gx over the pixels"""

    keeps = ("y", "w")

    def __init__(self, geometry, out_hw):
        self.geometry, self.out_hw = geometry, out_hw

    def forward(self, y, w, b=None):
        self.y_hw, self.w_hw = y.shape[1:3], w.shape[:2]
        return kernels.scatter(y, w, b, self.geometry, self.out_hw)

    def backward(self, gx):
        needs_y, needs_w, needs_b = self.needs
        gy = Gather(self.geometry, self.y_hw)(gx, self.w) if needs_y else None
        gw = WeightGradient(self.geometry, self.w_hw)(gx, self.y) if needs_w else None
        return gy, gw, gx.sum((0, 1, 2)) if needs_b else None


class WeightGradient(Op):
    """w = x correlated with y;  gx = Scatter(y, gw),  gy = Gather(x, gw)"""

    keeps = ("x", "y")

    def __init__(self, geometry, kernel_hw):
        self.geometry, self.kernel_hw = geometry, kernel_hw

    def forward(self, x, y):
        self.x_hw, self.y_hw = x.shape[1:3], y.shape[1:3]
        return kernels.weight_gradient(x, y, self.geometry, self.kernel_hw)

    def backward(self, gw):
        gx = Scatter(self.geometry, self.x_hw)(self.y, gw) if self.needs[0] else None
        gy = Gather(self.geometry, self.y_hw)(self.x, gw) if self.needs[1] else None
        return gx, gy


def conv2d(x, w, b=None, *, stride=1, padding=0, dilation=1, groups=1):
    """Convolution: every output pixel is a weighted sum of a window of the input.

        y[n, i, j, o] = b[o] + sum over u v c of
                        x[n, i*stride + u*dilation - top, j*stride + v*dilation - left, c] w[u, v, c, o]

    where x is 0 outside the image. (As everywhere in this field the window is not mirrored: a correlation.)

    x: images (N, H, W, C); w: (KH, KW, C/groups, O); b: (O,). Gives (N, OH, OW, O) with
    OH = (H + top + bottom - dilation*(KH - 1) - 1) // stride + 1.
    stride, dilation: an int or (h, w); padding: an int, (h, w), ((top, bottom), (left, right)) or "same".
    groups: channels are cut into that many parts, each convolved with its own part of w.
    Raises ValueError for shapes that don't fit, naming the sizes that would.

    >>> import numpy as np
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> conv2d(x, np.ones((3, 3, 1, 1), np.float32)).reshape(2, 2)
    Tensor([[45., 54.],
            [81., 90.]])
    """
    x, w, b = _tensors(x, w, b)
    geometry, out_hw = conv2d_shapes(x.shape, w.shape, b[0].shape if b else None, stride, padding, dilation, groups)
    return Gather(geometry, out_hw)(x, w, *b)


def conv_transpose2d(x, w, b=None, *, stride=1, padding=0, output_padding=0, dilation=1, groups=1):
    """Transposed convolution: the adjoint of conv2d with the same weight, which spreads where that one gathers.

        y[n, i*stride + u*dilation - top, j*stride + v*dilation - left, o] += x[n, i, j, c] w[u, v, o, c]

    with y starting as b.

    <conv2d(a, w), x> = <a, conv_transpose2d(x, w)> for all a and x. With a stride it makes images larger; a kernel
    that the stride doesn't divide reaches some pixels more often than others (checkerboards), 4 with stride 2 doesn't.

    x: images (N, H, W, C); w: (KH, KW, O/groups, C), the weight of the convolution that it transposes; b: (O,).
    Gives (N, OH, OW, O) with OH = (H - 1)*stride - top - bottom + dilation*(KH - 1) + 1 + output_padding; several input
    sizes of the convolution share an output size, and output_padding (less than stride or dilation) tells them apart.
    Raises ValueError for shapes that don't fit. Paper: Zeiler et al., Deconvolutional networks, CVPR 2010.

    >>> import numpy as np
    >>> x = np.array([[1, 2], [3, 4]], np.float32).reshape(1, 2, 2, 1)
    >>> conv_transpose2d(x, np.ones((2, 2, 1, 1), np.float32), stride=2).reshape(4, 4)
    Tensor([[1., 1., 2., 2.],
            [1., 1., 2., 2.],
            [3., 3., 4., 4.],
            [3., 3., 4., 4.]])
    """
    x, w, b = _tensors(x, w, b)
    geometry, out_hw = conv_transpose2d_shapes(
        x.shape, w.shape, b[0].shape if b else None, stride, padding, output_padding, dilation, groups
    )
    return Scatter(geometry, out_hw)(x, w, *b)


def _tensors(x, w, b):
    """All three as tensors; the bias as a tuple that is empty where there is none."""
    x = as_tensor(x)
    return x, as_tensor(w, like=x), () if b is None else (as_tensor(b, like=x),)
