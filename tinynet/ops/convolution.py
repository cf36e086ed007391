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

What follows a convolution can be done to each of its pixels while they are at hand, before they are written: that
saves a journey to the memory and back, which takes longer than the work. `then` tells what; nn.Sequential finds out.
On the way back the same is true of what comes before: a gradient that pooling leaves three quarters 0 is never written
out. Scatter and WeightGradient read the pixels that pooling chose, and put each in its place as they go (`unpool`).
"""

from __future__ import annotations

from typing import NamedTuple

from tinynet.autograd import Op
from tinynet.kernels import convolution as kernels
from tinynet.kernels.reduction import sum_rows
from tinynet.ops.activation import ReluGrad
from tinynet.ops.pooling import MaxPoolGrad, images, unpooling
from tinynet.shapes import Geometry, conv2d_shapes, conv_transpose2d_shapes
from tinynet.tensor import Gradients, Tensor, TensorLike, as_tensor
from tinynet.typing import Array, Padding, Pair, Shape


class Then(NamedTuple):
    """What is done to a result z before it is written: y = pool(relu(z)), or one of them, or none."""

    relu: bool = False
    pool: bool = False  # the largest of each 2x2 pixels


NOTHING = Then()


class Gather(Op):
    """z = x * w + b,  y = then(z);  gx = Scatter(gz, w),  gw = WeightGradient(x, gz),  gb = sum gz over the pixels"""

    gives_new = True

    def __init__(self, geometry: Geometry, out_hw: tuple[int, int], then: Then = NOTHING) -> None:
        self.geometry, self.out_hw, self.then = geometry, out_hw, then
        self.keeps = ("x", "w", "output") if then.relu else ("x", "w")

    def forward(self, x: Array, w: Array, b: Array | None = None) -> Array:
        self.x_hw, self.w_hw = x.shape[1:3], w.shape[:2]
        result = kernels.gather(x, w, b, self.geometry, self.out_hw, *self.then)
        if not self.then.pool:
            return result
        y, places = result
        if any(self.needs):
            self.places = places
        return y

    def output_shape(self, x: Shape, w: Shape, b: Shape | None = None) -> Shape:
        return x[0], *(n // 2 if self.then.pool else n for n in self.out_hw), w[3]

    def backward(self, gy: Tensor) -> Gradients:
        needs_x, needs_w, needs_b = self.needs
        gz, known = _through_relu(self, gy, sums=needs_b) if self.then.relu else (gy, None)
        gb = PixelSum(known)(gz) if needs_b else None  # before pooling there are only zeros more to add up
        unpool = unpooling(self.places, (gz.shape[0], *self.out_hw, gz.shape[3])) if self.then.pool else None
        gx = Scatter(self.geometry, self.x_hw, unpool=unpool)(gz, self.w) if needs_x else None
        gw = WeightGradient(self.geometry, self.w_hw, unpool)(self.x, gz) if needs_w else None
        return gx, gw, gb


class Scatter(Op):
    """z = y spread by w, + b,  x = relu(z) or z;  gy = Gather(gz, w),  gw = WeightGradient(gz, y),  gb = sum gz

    unpool: y is given by the pixels that pooling chose, which this brings back to their places first.
    """

    gives_new = True

    def __init__(self, geometry: Geometry, out_hw: tuple[int, int], relu: bool = False,
                 unpool: MaxPoolGrad | None = None) -> None:
        self.geometry, self.out_hw, self.relu, self.unpool = geometry, out_hw, relu, unpool
        self.keeps = ("y", "w", "output") if relu else ("y", "w")

    def forward(self, y: Array, w: Array, b: Array | None = None) -> Array:
        whole = images(y, self.unpool)
        self.y_hw, self.w_hw = whole.shape[1:3], w.shape[:2]
        return kernels.scatter(whole, w, b, self.geometry, self.out_hw, self.relu)

    def output_shape(self, y: Shape, w: Shape, b: Shape | None = None) -> Shape:
        return y[0], *self.out_hw, w[2] * self.geometry.groups

    def backward(self, gx: Tensor) -> Gradients:
        needs_y, needs_w, needs_b = self.needs
        gz, known = _through_relu(self, gx, sums=needs_b) if self.relu else (gx, None)
        gb = PixelSum(known)(gz) if needs_b else None
        gy = _pooled(Gather(self.geometry, self.y_hw)(gz, self.w), self.unpool) if needs_y else None
        gw = WeightGradient(self.geometry, self.w_hw, self.unpool)(gz, self.y) if needs_w else None
        return gy, gw, gb


class WeightGradient(Op):
    """w = x correlated with y;  gx = Scatter(y, gw),  gy = Gather(x, gw); unpool: as Scatter's"""

    keeps = ("x", "y")

    def __init__(self, geometry: Geometry, kernel_hw: tuple[int, int], unpool: MaxPoolGrad | None = None) -> None:
        self.geometry, self.kernel_hw, self.unpool = geometry, kernel_hw, unpool

    def forward(self, x: Array, y: Array) -> Array:
        whole = images(y, self.unpool)
        self.x_hw, self.y_hw = x.shape[1:3], whole.shape[1:3]
        return kernels.weight_gradient(x, whole, self.geometry, self.kernel_hw)

    def output_shape(self, x: Shape, y: Shape) -> Shape:
        return *self.kernel_hw, x[3] // self.geometry.groups, y[3]

    def backward(self, gw: Tensor) -> Gradients:
        gx = Scatter(self.geometry, self.x_hw, unpool=self.unpool)(self.y, gw) if self.needs[0] else None
        gy = _pooled(Gather(self.geometry, self.y_hw)(self.x, gw), self.unpool) if self.needs[1] else None
        return gx, gy


def _pooled(gradient, unpool):
    """The gradient of images, as that of the pixels that are unpooled to them."""
    return gradient if unpool is None else unpool.backward(gradient)


def _through_relu(op, gy, sums):
    """The gradient before an op's ReLU, and its sum over the pixels, if it is wanted and found in passing, or None."""
    gate = ReluGrad(op.may_overwrite, sums)
    return gate(gy, op.output.detach()), gate.pixel_sum


class PixelSum(Op):
    """s = sum of y over the pixels, if it isn't known;  gy = gs, repeated"""

    def __init__(self, known: Array | None) -> None:
        self.known = known

    def forward(self, y: Array) -> Array:
        self.shape = y.shape
        return sum_rows(y.reshape(-1, y.shape[-1])) if self.known is None else self.known

    def output_shape(self, y: Shape) -> Shape:
        return y[-1:]

    def backward(self, gs: Tensor) -> Tensor:
        return gs.broadcast_to(self.shape)


def conv2d(x: TensorLike, w: TensorLike, b: TensorLike | None = None, *, stride: Pair = 1, padding: Padding = 0,
           dilation: Pair = 1, groups: int = 1, then: Then = NOTHING) -> Tensor:
    """Convolution: every output pixel is a weighted sum of a window of the input.

        y[n, i, j, o] = b[o] + sum over u v c of
                        x[n, i*stride + u*dilation - top, j*stride + v*dilation - left, c] w[u, v, c, o]

        gx[n, i*stride + u*dilation - top, j*stride + v*dilation - left, c] += gy[n, i, j, o] w[u, v, c, o]
        gw[u, v, c, o] += x[n, i*stride + u*dilation - top, j*stride + v*dilation - left, c] gy[n, i, j, o]
        gb[o] += gy[n, i, j, o]
        The first of them is conv_transpose2d(gy, w). See the top of tinynet/ops/convolution.py for the reason.

    where x is 0 outside the image. (As everywhere in this field the window is not mirrored: a correlation.)

    x: images (N, H, W, C); w: (KH, KW, C/groups, O); b: (O,). Gives (N, OH, OW, O) with
    OH = (H + top + bottom - dilation*(KH - 1) - 1) // stride + 1.
    stride, dilation: an int or (h, w); padding: an int, (h, w), ((top, bottom), (left, right)) or "same".
    groups: channels are cut into that many parts, each convolved with its own part of w.
    then: what is done to y before it is written, Then(relu=True), Then(pool=True) or both; pooling takes 2x2 pixels.
    Raises ValueError for shapes that don't fit, naming the sizes that would.

    >>> import numpy as np
    >>> x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    >>> conv2d(x, np.ones((3, 3, 1, 1), np.float32)).reshape(2, 2)
    Tensor([[45., 54.],
            [81., 90.]])
    """
    x, w, b = _tensors(x, w, b)
    geometry, out_hw = conv2d_shapes(x.shape, w.shape, b[0].shape if b else None, stride, padding, dilation, groups)
    if then.pool and min(out_hw) < 2:
        raise ValueError(f"conv2d: the result has {out_hw[0]} x {out_hw[1]} pixels, but pooling takes 2 x 2 at least")
    return Gather(geometry, out_hw, then)(x, w, *b)


def conv_transpose2d(x: TensorLike, w: TensorLike, b: TensorLike | None = None, *, stride: Pair = 1,
                     padding: Padding = 0, output_padding: Pair = 0, dilation: Pair = 1, groups: int = 1,
                     then: Then = NOTHING) -> Tensor:
    """Transposed convolution: the adjoint of conv2d with the same weight, which spreads where that one gathers.

        y[n, i*stride + u*dilation - top, j*stride + v*dilation - left, o] += x[n, i, j, c] w[u, v, o, c]

    with y starting as b.

        gx[n, i, j, c] += gy[n, i*stride + u*dilation - top, j*stride + v*dilation - left, o] w[u, v, o, c]
        gw[u, v, o, c] += gy[n, i*stride + u*dilation - top, j*stride + v*dilation - left, o] x[n, i, j, c]
        gb[o] += gy[n, i, j, o]
        The first of them is conv2d(gy, w).

    <conv2d(a, w), x> = <a, conv_transpose2d(x, w)> for all a and x. With a stride it makes images larger; a kernel
    that the stride doesn't divide reaches some pixels more often than others (checkerboards), 4 with stride 2 doesn't.

    x: images (N, H, W, C); w: (KH, KW, O/groups, C), the weight of the convolution that it transposes; b: (O,).
    Gives (N, OH, OW, O) with OH = (H - 1)*stride - top - bottom + dilation*(KH - 1) + 1 + output_padding; several input
    sizes of the convolution share an output size, and output_padding (less than stride or dilation) tells them apart.
    then: Then(relu=True) applies the rectifier before y is written.
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
    if then.pool:
        raise ValueError("conv_transpose2d: then can't pool; call max_pool2d on the result")
    return Scatter(geometry, out_hw, then.relu)(x, w, *b)


def _tensors(x, w, b):
    """All three as tensors; the bias as a tuple that is empty where there is none."""
    x = as_tensor(x)
    return x, as_tensor(w, like=x), () if b is None else (as_tensor(b, like=x),)
