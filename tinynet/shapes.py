"""Every output-size formula and every shape check of the image operations, each with its sentence.

A convolution reads a window of `dilation * (kernel - 1) + 1` pixels, every `stride` pixels, from an input
that `padding` has made larger. So, along either axis,

    conv2d            out = (in + before + after - dilation * (kernel - 1) - 1) // stride + 1
    conv_transpose2d  out = (in - 1) * stride - before - after + dilation * (kernel - 1) + 1 + output_padding
    pooling           as conv2d with dilation 1

The two are inverse to each other up to the floor: the input sizes that conv2d maps onto one output size differ
by less than a stride, and `output_padding` says which of them a transposed convolution should give back.
"""

from __future__ import annotations

import operator
from typing import NamedTuple

from tinynet.typing import Padding, Pair, Shape, Sides


class Geometry(NamedTuple):
    """How a convolution's window moves: all that its kernels need to know beside the arrays."""

    stride: tuple[int, int] = (1, 1)  # (vertical, horizontal)
    padding: Sides = ((0, 0), (0, 0))  # ((top, bottom), (left, right))
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1


def integer(value: int, op: str, name: str, minimum: int) -> int:
    """`value` as an int of at least `minimum`, or a sentence."""
    if isinstance(value, bool):
        raise TypeError(f"{op}: {name} is {value!r}, but must be an integer")
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{op}: {name} is {value!r}, but must be an integer or a pair of integers") from None
    if value < minimum:
        raise ValueError(f"{op}: {name} is {value}, but must be at least {minimum}")
    return value


def pair(value: Pair, op: str, name: str, minimum: int = 1) -> tuple[int, int]:
    """An int or an (h, w) pair as an (h, w) pair of ints of at least `minimum`.

    >>> pair(3, "conv2d", "kernel_size")
    (3, 3)
    """
    if isinstance(value, (tuple, list)):
        if len(value) != 2:
            raise ValueError(f"{op}: {name} is {tuple(value)}, but must be an integer or a pair (height, width)")
        return integer(value[0], op, name, minimum), integer(value[1], op, name, minimum)
    return (integer(value, op, name, minimum),) * 2


def padding_pairs(padding: Padding, kernel: tuple[int, int], stride: tuple[int, int], dilation: tuple[int, int],
                  op: str) -> Sides:
    """Padding in any of its forms as ((top, bottom), (left, right)).

    An int pads all four sides, a pair (h, w) top and bottom by h, left and right by w, a nested pair each side by
    its own number. "same" keeps the size at stride 1 (an odd pixel goes to the bottom and the right).

    >>> padding_pairs("same", (3, 4), (1, 1), (1, 1), "conv2d")
    ((1, 1), (1, 2))
    """
    if isinstance(padding, str):
        if padding != "same":
            raise ValueError(f'{op}: padding is {padding!r}, but the only word that it may be is "same"')
        if stride != (1, 1):
            raise ValueError(f'{op}: padding is "same", which needs a stride of 1, but the stride is {stride}')
        total = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((t // 2, t - t // 2) for t in total)
    if isinstance(padding, (tuple, list)) and any(isinstance(p, (tuple, list)) for p in padding):
        if len(padding) != 2 or not all(isinstance(p, (tuple, list)) and len(p) == 2 for p in padding):
            raise ValueError(f"{op}: padding is {padding}, but must be ((top, bottom), (left, right))")
        return tuple(tuple(integer(p, op, "padding", 0) for p in side) for side in padding)
    h, w = pair(padding, op, "padding", minimum=0)
    return ((h, h), (w, w))


def conv_output_size(size: int, kernel: int, stride: int = 1, padding_sum: int = 0, dilation: int = 1) -> int:
    """Pixels out of a convolution or pooling along one axis (0 or less: the window doesn't fit).

    >>> conv_output_size(7, kernel=3, stride=2, padding_sum=2)
    4
    """
    return (size + padding_sum - dilation * (kernel - 1) - 1) // stride + 1


def conv_transpose_output_size(size: int, kernel: int, stride: int = 1, padding_sum: int = 0, dilation: int = 1,
                               output_padding: int = 0) -> int:
    """Pixels out of a transposed convolution along one axis.

    >>> conv_transpose_output_size(4, kernel=3, stride=2, padding_sum=2)
    7
    """
    return (size - 1) * stride - padding_sum + dilation * (kernel - 1) + 1 + output_padding


def check_image(shape: Shape, op: str, name: str = "x") -> None:
    """Raise unless `shape` is that of a batch of images, (N, H, W, C)."""
    if len(shape) != 4:
        hint = "; add the batch axis with x[None]" if len(shape) == 3 else ""
        raise ValueError(f"{op}: {name} has the shape {shape}, but images are (N, H, W, C), channels last{hint}")
    if 0 in shape[1:]:
        raise ValueError(f"{op}: {name} has the shape {shape}, but height, width and channels must be at least 1")


def window_output_size(shape: Shape, kernel: tuple[int, int], stride: tuple[int, int], padding: Sides,
                       dilation: tuple[int, int], op: str) -> tuple[int, int]:
    """(OH, OW) of a convolution or pooling over images of `shape`, or a sentence if the window doesn't fit."""
    sizes = []
    for axis, side in enumerate(("height", "width")):
        size, total = shape[1 + axis], sum(padding[axis])
        out = conv_output_size(size, kernel[axis], stride[axis], total, dilation[axis])
        if out < 1:
            reach = dilation[axis] * (kernel[axis] - 1) + 1
            raise ValueError(
                f"{op}: the window reaches over {reach} pixels of {side} (kernel {kernel[axis]}, dilation "
                f"{dilation[axis]}), but x of shape {shape} has {size} plus {total} of padding; pad by "
                f"{reach - size - total} more or take a smaller kernel"
            )
        sizes.append(out)
    return tuple(sizes)


def check_weight(w_shape: Shape, op: str) -> None:
    """Raise unless `w_shape` is that of a convolution's weight, (KH, KW, C/groups, O)."""
    if len(w_shape) != 4 or 0 in w_shape:
        layout = "(KH, KW, C/groups, O)" if op == "conv2d" else "(KH, KW, O/groups, C)"
        raise ValueError(f"{op}: w has the shape {w_shape}, but must have four axes {layout}, none of them 0")


def check_bias(b_shape: Shape | None, channels: int, op: str) -> None:
    """Raise unless the bias has one value for each channel that comes out."""
    if b_shape is not None and b_shape != (channels,):
        raise ValueError(f"{op}: b has the shape {b_shape}, but {channels} channels come out; it must be ({channels},)")


def conv_geometry(stride: Pair, padding: Padding, dilation: Pair, groups: int, kernel: tuple[int, int],
                  op: str) -> Geometry:
    """A convolution's arguments, in any of their forms, as a `Geometry`."""
    stride = pair(stride, op, "stride")
    dilation = pair(dilation, op, "dilation")
    groups = integer(groups, op, "groups", 1)
    return Geometry(stride, padding_pairs(padding, kernel, stride, dilation, op), dilation, groups)


def conv2d_shapes(x_shape: Shape, w_shape: Shape, b_shape: Shape | None, stride: Pair, padding: Padding, dilation: Pair,
                  groups: int) -> tuple[Geometry, tuple[int, int]]:
    """Check the arguments of conv2d; its Geometry and the output's (OH, OW)."""
    op = "conv2d"
    check_image(x_shape, op)
    check_weight(w_shape, op)
    geometry = conv_geometry(stride, padding, dilation, groups, w_shape[:2], op)
    c, (kh, kw, cg, o), groups = x_shape[3], w_shape, geometry.groups
    if o % groups:
        raise ValueError(f"{op}: w of shape {w_shape} gives {o} channels, which {groups} groups don't divide")
    if c != cg * groups:
        fit = f"; give w the shape {(kh, kw, c // groups, o)}" if c % groups == 0 else ""
        raise ValueError(
            f"{op}: x has {c} channels (shape {x_shape}), but w of shape {w_shape} with groups={groups} takes "
            f"{cg * groups}{fit}"
        )
    check_bias(b_shape, o, op)
    return geometry, window_output_size(x_shape, (kh, kw), geometry.stride, geometry.padding, geometry.dilation, op)


def conv_transpose2d_shapes(x_shape: Shape, w_shape: Shape, b_shape: Shape | None, stride: Pair, padding: Padding,
                            output_padding: Pair, dilation: Pair, groups: int) -> tuple[Geometry, tuple[int, int]]:
    """Check the arguments of conv_transpose2d; its Geometry and the output's (H, W)."""
    op = "conv_transpose2d"
    check_image(x_shape, op)
    check_weight(w_shape, op)
    geometry = conv_geometry(stride, padding, dilation, groups, w_shape[:2], op)
    extra = pair(output_padding, op, "output_padding", minimum=0)
    c, (kh, kw, og, wc), groups = x_shape[3], w_shape, geometry.groups
    if c != wc:
        raise ValueError(
            f"{op}: x has {c} channels (shape {x_shape}), but w of shape {w_shape} takes {wc}: it is the weight of "
            f"the convolution that is transposed, (KH, KW, O/groups, C); give it the shape {(kh, kw, og, c)}"
        )
    if c % groups:
        raise ValueError(f"{op}: x has {c} channels (shape {x_shape}), which {groups} groups don't divide")
    check_bias(b_shape, og * groups, op)
    out = []
    for axis, side in enumerate(("height", "width")):
        s, d, k, total = geometry.stride[axis], geometry.dilation[axis], w_shape[axis], sum(geometry.padding[axis])
        if extra[axis] >= max(s, d):
            raise ValueError(
                f"{op}: output_padding is {extra[axis]} in {side}, but must be less than the stride ({s}) or the "
                f"dilation ({d}): beyond them no input pixel reaches"
            )
        size = conv_transpose_output_size(x_shape[1 + axis], k, s, total, d, extra[axis])
        if size < 1:
            raise ValueError(
                f"{op}: x of shape {x_shape} would give a {side} of {size} (kernel {k}, stride {s}, padding "
                f"{geometry.padding[axis]}); take less padding"
            )
        out.append(size)
    return geometry, tuple(out)


def output_padding_for(output_size: Pair, x_shape: Shape, w_shape: Shape, stride: Pair, padding: Padding,
                       dilation: Pair, groups: int) -> tuple[int, int]:
    """The output_padding with which conv_transpose2d gives images of `output_size`, or a sentence if none does."""
    op = "conv_transpose2d"
    wanted = pair(output_size, op, "output_size")
    _, smallest = conv_transpose2d_shapes(x_shape, w_shape, None, stride, padding, 0, dilation, groups)
    reach = [max(s, d) for s, d in zip(pair(stride, op, "stride"), pair(dilation, op, "dilation"), strict=True)]
    extra = tuple(n - m for n, m in zip(wanted, smallest, strict=True))
    if any(not 0 <= e < r for e, r in zip(extra, reach, strict=True)):
        largest = tuple(m + r - 1 for m, r in zip(smallest, reach, strict=True))
        raise ValueError(
            f"{op}: output_size is {wanted}, but x of shape {x_shape} can become images from {smallest} to {largest}"
        )
    return extra
