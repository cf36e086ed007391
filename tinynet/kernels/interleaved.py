"""Dilated convolutions as ordinary ones: of images that lie in one another like the threads of a cloth.

    y[i] = sum over u of  x[i + u*d - top] w[u]

Pixel i of y meets no other pixels of x than those d, 2d, ... beside each other: y's pixels a, a + d, a + 2d, ... are an
ordinary convolution of x's pixels a - top, a - top + d, ... So along each axis, an image is d images, which are taken
apart, convolved as a batch of d*d times as many, and put together again. That is two journeys through memory for
nothing, but an ordinary convolution can go Winograd's way. (3x3 of dilation 2, 64 channels, 64 x 64 pixels: 2 to 2.3
times as fast as the direct sum; of dilation 4, 128 channels, 32 x 32 pixels: 2.8 times.)

    part (a, b) of image n has the number (n*dh + a)*dw + b, and x[n, a - before + dh*r, b - before' + dw*l] at (r, l)
"""
from typing import NamedTuple

import numpy as np

from tinynet.kernels import winograd
from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import empty
from tinynet.kernels.window import clear, copy
from tinynet.shapes import Geometry
from tinynet.typing import Array, DType, Shape

LEAST_CHANNELS = 32              # with 16 it took as long as the direct sum


class Interleaved(NamedTuple):
    """Of a dilated convolution: the ordinary one of its parts, and how both sides' images become parts."""

    geometry: Geometry
    dilation: tuple[int, int]
    before: tuple[int, int]      # of x's first pixels, 0 to dilation - 1 that there aren't
    x_hw: tuple[int, int]        # of a part
    y_hw: tuple[int, int]

    def parts_of_x(self, x: Array) -> Array:
        """x (N, H, W, C) as parts (N*dh*dw, *x_hw, C), with zeros where they reach beyond it"""
        return _split(x, self.dilation, self.before, self.x_hw)

    def parts_of_y(self, y: Array) -> Array:
        """y (N, OH, OW, O) as parts (N*dh*dw, *y_hw, O)"""
        return _split(y, self.dilation, (0, 0), self.y_hw)

    def whole_x(self, parts: Array, hw: tuple[int, int]) -> Array:
        """x of its parts; hw = (H, W)"""
        return _join(parts, self.dilation, self.before, hw)

    def whole_y(self, parts: Array, hw: tuple[int, int]) -> Array:
        """y of its parts; hw = (OH, OW)"""
        return _join(parts, self.dilation, (0, 0), hw)


def as_ordinary(w_shape: Shape, x_hw: tuple[int, int], y_hw: tuple[int, int], dtype: DType,
                geometry: Geometry) -> Interleaved | None:
    """How such a convolution becomes an ordinary one, or None if it isn't dilated or that doesn't pay.

    >>> both = (2, 2), (2, 2)
    >>> geometry = Geometry(padding=both, dilation=(2, 2))
    >>> as_ordinary((3, 3, 64, 64), (40, 40), (40, 40), np.dtype(np.float32), geometry).y_hw
    (20, 20)
    """
    dilation = geometry.dilation
    if dilation == (1, 1) or geometry.stride != (1, 1) or geometry.groups != 1 or min(w_shape[2:]) < LEAST_CHANNELS:
        return None
    pads = [first for first, _ in geometry.padding]
    before = tuple(pad % d for pad, d in zip(pads, dilation, strict=True))
    ordinary = Geometry(padding=tuple((pad // d, pad // d) for pad, d in zip(pads, dilation, strict=True)))
    x_hw = tuple(-(-(n + skipped) // d) for n, skipped, d in zip(x_hw, before, dilation, strict=True))
    y_hw = tuple(-(-n // d) for n, d in zip(y_hw, dilation, strict=True))
    if not winograd.pays(w_shape, y_hw, dtype, ordinary):
        return None
    return Interleaved(ordinary, dilation, before, x_hw, y_hw)


def _split(x, dilation, before, hw):
    parts = empty((len(x) * dilation[0] * dilation[1], *hw, x.shape[3]), x.dtype)
    split(np.ascontiguousarray(x), parts, dilation, before)
    return parts


def _join(parts, dilation, before, hw):
    x = empty((len(parts) // (dilation[0] * dilation[1]), *hw, parts.shape[3]), parts.dtype)
    join(parts, x, dilation, before)
    return x


@kernel
def split(x, parts, dilation, before):
    """All parts, 0 where they have pixels outside of x"""
    for task in prange(len(parts) * parts.shape[1]):
        _split_row(np.int64(task), x, parts, dilation, before)


@inner
def _split_row(task, x, parts, dilation, before):
    (_, H, W, C), (_, R, L, _), (dh, dw) = x.shape, parts.shape, dilation
    part, r = task // R, task % R
    n, h, first = part // (dh * dw), part // dw % dh - before[0] + dh * r, part % dw - before[1]
    line = flattened(parts[part, r])
    if h < 0 or h >= H:
        clear(line)
        return
    row = flattened(x[n, h])
    for k in range(L):
        w = first + dw * k
        if 0 <= w < W:
            copy(row[w * C:(w + 1) * C], line[k * C:(k + 1) * C])
        else:
            clear(line[k * C:(k + 1) * C])


@kernel
def join(parts, x, dilation, before):
    """x of all parts"""
    for task in prange(len(x) * x.shape[1]):
        _join_row(np.int64(task), parts, x, dilation, before)


@inner
def _join_row(task, parts, x, dilation, before):
    (_, H, W, C), (dh, dw) = x.shape, dilation
    n, h = task // H, task % H
    row = flattened(x[n, h])
    for w in range(W):
        down, across = h + before[0], w + before[1]
        part = (n * dh + down % dh) * dw + across % dw
        k = across // dw
        copy(flattened(parts[part, down // dh])[k * C:(k + 1) * C], row[w * C:(w + 1) * C])
