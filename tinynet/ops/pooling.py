"""Pooling: the largest value or the mean of every window of an image.

Max-pooling remembers where each maximum was found. Its gradient goes back to these places and nowhere else:

    MaxPool          x -> y     y = x at the place of each window's maximum, which it finds
    MaxPoolGrad     gy -> gx    each value to its place; values that meet are added
    MaxPoolGather    v -> y     v at the places: the adjoint of MaxPoolGrad, as MaxPoolGrad is its

The places move by jumps as x changes, so to derivatives they are constants. Average pooling is linear: see
`resize`.
"""

from __future__ import annotations

from typing import NamedTuple

from tinynet.autograd import Op
from tinynet.kernels import pooling as kernels
from tinynet.kernels.resize import Taps, window_taps
from tinynet.ops.resize import Resample
from tinynet.shapes import check_image, padding_pairs, pair, window_output_size
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import Array, Padding, Pair, Shape


class Window(NamedTuple):
    """How a window moves over the image."""

    kernel: tuple  # (KH, KW)
    stride: tuple  # (sh, sw)
    start: tuple  # padding at the (top, left), where the first window begins
    size: tuple  # (OH, OW)


class MaxPool(Op):
    """y = x at the places of the maxima;  gx = gy at these places, 0 elsewhere"""

    def __init__(self, window: Window) -> None:
        self.window = window

    def forward(self, x: Array) -> Array:
        kernel, stride, start, size = self.window
        y, places = kernels.max_pool(x, kernel, stride, start, size)
        if self.needs[0]:
            self.places, self.x_shape = places, x.shape
        return y

    def output_shape(self, x: Shape) -> Shape:
        return x[0], *self.window.size, x[3]

    def backward(self, gy: Tensor) -> Tensor:
        return MaxPoolGrad(self.window, self.places, self.x_shape)(gy)


class MaxPoolGrad(Op):
    """gx = gy at the places of the maxima, 0 elsewhere;  its gradient is read from the same places"""

    def __init__(self, window: Window, places: Array, x_shape: Shape) -> None:
        self.window, self.places, self.x_shape = window, places, x_shape

    def forward(self, gy: Array) -> Array:
        kernel, stride, start, _ = self.window
        return kernels.max_pool_scatter(gy, self.places, self.x_shape, kernel, stride, start)

    def output_shape(self, gy: Shape) -> Shape:
        return self.x_shape

    def backward(self, v: Tensor) -> Tensor:
        return MaxPoolGather(self.window, self.places)(v)


def unpooling(places: Array, x_shape: Shape) -> MaxPoolGrad:
    """The gradient of pooling 2x2 pixels of images of that shape, whose largest were at these places."""
    return MaxPoolGrad(Window((2, 2), (2, 2), (0, 0), (x_shape[1] // 2, x_shape[2] // 2)), places, x_shape)


def images(gy: Array, unpool: MaxPoolGrad | None) -> Array | kernels.Unpooled:
    """gy, or what an unpooling would give of it, for kernels that need no pass that spreads it."""
    return gy if unpool is None else kernels.Unpooled(gy, unpool.places, unpool.x_shape[1:3])


class MaxPoolGather(Op):
    """y = x at the places of another image's maxima;  gx = gy at these places, 0 elsewhere"""

    def __init__(self, window: Window, places: Array) -> None:
        self.window, self.places = window, places

    def forward(self, x: Array) -> Array:
        kernel, stride, start, _ = self.window
        self.x_shape = x.shape
        return kernels.max_pool_gather(x, self.places, kernel, stride, start)

    def output_shape(self, x: Shape) -> Shape:
        return x[0], *self.window.size, x[3]

    def backward(self, gy: Tensor) -> Tensor:
        return MaxPoolGrad(self.window, self.places, self.x_shape)(gy)


class AvgPool(Resample):
    """y = the mean of each window;  gx = gy spread evenly over its window, divided by its size"""

    def __init__(self, window: Window, rows: Taps, columns: Taps) -> None:
        super().__init__(rows, columns, divisor=window.kernel[0] * window.kernel[1])
        self.window = window


def max_pool2d(x: TensorLike, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> Tensor:
    """The largest value of every window, for each channel.

        y[n, i, j, c] = max over u, v  x[n, i*stride + u - top, j*stride + v - left, c]

        gx[n, h, l, c] += gy[n, i, j, c]      at the place (h, l) where that maximum stood

    Of equal values the first one gets the gradient; NaN counts as larger than everything; the padding is
    never chosen.

    x: images (N, H, W, C); kernel_size, stride: an int or (h, w), the stride being the kernel's size if none
    is given; padding: an int, (h, w), ((top, bottom), (left, right)) or "same", at most half the kernel.
    Gives (N, OH, OW, C) with OH = (H + top + bottom - KH) // stride + 1.
    Raises ValueError if the window doesn't fit or the padding is too wide.

    >>> max_pool2d([[[[1.0], [4.0], [5.0], [0.0]], [[3.0], [2.0], [6.0], [7.0]]]], 2).reshape(1, 2)
    Tensor([[4., 7.]])
    """
    x = as_tensor(x)
    window = _window(x.shape, kernel_size, stride, padding, "max_pool2d")
    return MaxPool(window)(x)


def avg_pool2d(x: TensorLike, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> Tensor:
    """The mean of every window, for each channel.

        y[n, i, j, c] = 1/(KH KW) sum over u, v  x[n, i*stride + u - top, j*stride + v - left, c]

        gx[n, i*stride + u - top, j*stride + v - left, c] += gy[n, i, j, c] / (KH KW)

    The padding counts as zeros (PyTorch's count_include_pad=True).

    x: images (N, H, W, C); kernel_size, stride, padding and the result's size: as in max_pool2d.
    Raises ValueError if the window doesn't fit or the padding is too wide.

    >>> avg_pool2d([[[[1.0], [4.0], [5.0], [0.0]], [[3.0], [2.0], [6.0], [7.0]]]], 2).reshape(1, 2)
    Tensor([[2.5, 4.5]])
    """
    x = as_tensor(x)
    window = _window(x.shape, kernel_size, stride, padding, "avg_pool2d")
    rows, columns = (window_taps(inputs, *along) for inputs, *along in zip(x.shape[1:3], *window, strict=True))
    return AvgPool(window, rows, columns)(x)


def _window(x_shape, kernel_size, stride, padding, op):
    """The arguments of a pooling, checked."""
    check_image(x_shape, op)
    kernel = pair(kernel_size, op, "kernel_size")
    stride = kernel if stride is None else pair(stride, op, "stride")
    padding = padding_pairs(padding, kernel, stride, (1, 1), op)
    for pads, length in zip(padding, kernel, strict=True):
        if max(pads) > length // 2:
            raise ValueError(
                f"{op}: padding is {padding}, but must be at most half the kernel {kernel}, "
                f"here {length // 2}: no window may lie in the padding alone; pad less or enlarge the kernel"
            )
    size = window_output_size(x_shape, kernel, stride, padding, (1, 1), op)
    return Window(kernel, stride, tuple(before for before, _ in padding), size)
