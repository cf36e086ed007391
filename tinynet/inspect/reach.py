"""What an op costs and sees: its multiply-adds, what it keeps, and the receptive field of what it makes.

A pixel of a layer depends on a window of the input image, its receptive field. Going from layer to layer, along one
axis, two numbers tell its size:

    size   how many input pixels the window reaches over
    jump   how many input pixels further the next pixel's window lies

A window of k pixels of the layer before, which moves by s of them, makes of these (Dumoulin and Visin, A guide to
convolution arithmetic for deep learning, 2016, arXiv:1603.07285)

    size + (k - 1) jump    and    s jump

A transposed convolution of stride s makes the jump s times smaller, and reads ceil(k / s) pixels of the layer before.
Where two meet, as at a skip connection, the larger counts. On images made larger, windows see more or less, depending
on where they lie: the size is that of the largest, or a little above. The statistics of a normalisation, which depend
on all pixels, are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

import numpy as np

from tinynet import operators as basic
from tinynet.autograd import Op
from tinynet.ops.convolution import Gather, Scatter, WeightGradient
from tinynet.ops.normalization import Normalize
from tinynet.ops.pooling import MaxPool
from tinynet.ops.resize import Resample, Resize
from tinynet.typing import Array, Shape


class Field(NamedTuple):
    """A receptive field, (height, width) each."""

    size: tuple[Fraction, ...] = (Fraction(1), Fraction(1))
    jump: tuple[Fraction, ...] = (Fraction(1), Fraction(1))

    def seen_through(self, reach: Sequence[int], stride: Sequence[int | Fraction]) -> Field:
        """The field of windows of `reach` of these pixels, which move by `stride` of them."""
        size = tuple(n + (k - 1) * j for n, k, j in zip(self.size, reach, self.jump, strict=True))
        return Field(size, tuple(j * s for j, s in zip(self.jump, stride, strict=True)))

    def __str__(self) -> str:
        height, width = (math.ceil(n) for n in self.size)
        return f"{height}x{width}"


EVERYTHING = "all"  # the field of what has no place in the image any more, or depends on all of it


def multiply_adds(op: Op, shapes: Sequence[Shape]) -> int:
    """The products that an op of convolution or of matrices sums up, those with padding included; 0 for others."""
    if isinstance(op, Gather):
        kernel_h, kernel_w, channels, outputs = shapes[1]
        return shapes[0][0] * math.prod(op.out_hw) * kernel_h * kernel_w * channels * outputs
    if isinstance(op, Scatter):
        return math.prod(_unpooled(op, shapes[0])[:3]) * math.prod(shapes[1])
    if isinstance(op, WeightGradient):
        return math.prod(_unpooled(op, shapes[1])) * math.prod(op.kernel_hw) * shapes[0][3] // op.geometry.groups
    if isinstance(op, basic.MatMul):
        return math.prod(shapes[0]) * shapes[1][-1]
    return 0


def _unpooled(op, shape):
    """The shape of the images that an op takes, of which it may be given those pixels alone that pooling chose."""
    return shape if op.unpool is None else op.unpool.x_shape


def kept_arrays(op: Op, arrays: Sequence[Array], y: Array) -> list[Array]:
    """Those of an op's inputs and its result that its backward will read, as far as `keeps` tells."""
    named = dict(zip(op.arguments, arrays, strict=False), output=y)
    return [named[name] for name in op.keeps if name in named]


def field_after(op: Op, shapes: Sequence[Shape], made: Shape,
                fields: Sequence[Field | str | None]) -> Field | str | None:
    """The field of an op's result, of shape `made`; fields are its inputs', None for one not made from the image."""
    known = [f for f in fields if f is not None]
    if not known or EVERYTHING in known:
        return EVERYTHING if known else None
    if _loses_place(op, shapes[0], made):
        return EVERYTHING
    field = Field(*(tuple(map(max, *numbers)) for numbers in zip(*known, strict=True))) if known[1:] else known[0]
    window = _window(op, shapes)
    return field.seen_through(*window) if window else field


def _loses_place(op, shape, made):
    """Does this op mix values of all places, or move them where their place can't be told?"""
    if isinstance(op, basic.Sum):
        return bool({1, 2} & set(op.axes)) and len(shape) == 4
    if isinstance(op, basic.Reshape):
        return made[-1:] != shape[-1:]  # the channels stay together when pixels become rows
    if isinstance(op, basic.Transpose):
        return len(shape) == 4 and tuple(op.axes[1:3]) != (1, 2)
    return False


def _window(op, shapes):
    """(reach, stride) of the windows of the layer before that an op reads; None for single pixels, side by side."""
    if isinstance(op, (Gather, Scatter)):
        stride, _, dilation, _ = op.geometry
        reach = [d * (k - 1) + 1 for k, d in zip(shapes[1][:2], dilation, strict=True)]
        if isinstance(op, Scatter):
            pairs = list(zip(reach, stride, strict=True))
            return [-(-r // s) for r, s in pairs], [Fraction(1, s) for s in stride]
        if not op.then.pool:
            return reach, stride
        return [r + s for r, s in zip(reach, stride, strict=True)], [2 * s for s in stride]
    if isinstance(op, MaxPool):
        return op.window.kernel, op.window.stride
    if isinstance(op, Normalize) and op.pool:
        return (2, 2), (2, 2)
    if isinstance(op, Resample):
        return list(zip(*(_along(taps, isinstance(op, Resize)) for taps in (op.rows, op.columns)), strict=True))
    if isinstance(op, basic.Index) and len(shapes[0]) == 4:
        return (1, 1), [_step(op.index, axis) for axis in (1, 2)]
    return None


def _along(taps, is_resize):
    """The same along one axis, from a table of which inputs each output reads."""
    first, last = taps.index[taps.start[:-1]], taps.index[taps.start[1:] - 1]
    step = Fraction(taps.inputs, taps.outputs) if is_resize else int(np.diff(last).max(initial=1))
    return int(np.max(last - first)) + 1, step


def _step(index, axis):
    part = index[axis] if isinstance(index, tuple) and axis < len(index) else None
    return abs(part.step or 1) if isinstance(part, slice) else 1
