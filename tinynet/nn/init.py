"""First values of weights: He and Glorot by fan-in and fan-out, and the bilinear interpolation kernel.

A layer's outputs keep the variance of its inputs if each weight has variance 1 / fan_in; behind a ReLU, which
throws half of the signal away, 2 / fan_in. Every function draws from tinynet.random.generator() and returns a
float32 array; so a model made under one seed has the same weights in float32 and, after astype, in float64.
To use another start than a layer's own:

    layer.weight.data[...] = init.glorot_uniform(layer.weight.shape, *init.fans(layer.weight.shape))
"""

from __future__ import annotations

import math

import numpy as np

from tinynet import random
from tinynet.typing import Array, Pair, Shape

RELU_GAIN = math.sqrt(2)


def fans(shape: Shape, groups: int = 1, stride: Pair = 1, transposed: bool = False) -> tuple[float, float]:
    """(fan_in, fan_out): how many products an output value sums, how many output values an input value feeds.

    dense (I, O)                 fan_in = I                     fan_out = O
    convolution (KH, KW, C/g, O) fan_in = KH KW C/g             fan_out = (KH/sh) (KW/sw) O/g
    its transpose, same weight   the two swapped, as the roles of input and output are

    A stride s lets an input value meet only K/s of the K taps of each axis (on average; at least one counts).
    The fans may be fractions where the stride does not divide the kernel.

    >>> fans((3, 3, 16, 32)), fans((4, 4, 8, 16), stride=2, transposed=True)
    ((144.0, 288.0), (64.0, 128.0))
    """
    if len(shape) == 2:
        return float(shape[0]), float(shape[1])
    if len(shape) != 4:
        raise ValueError(f"fans: shape {tuple(shape)} belongs to no layer; give a dense weight's (in, out) "
                         "or a convolution's (KH, KW, C/groups, O)")
    kernel_h, kernel_w, channels_a_group, out_channels = shape
    stride_h, stride_w = (stride, stride) if isinstance(stride, int) else stride
    fan_in = float(kernel_h * kernel_w * channels_a_group)
    fan_out = max(1.0, kernel_h / stride_h) * max(1.0, kernel_w / stride_w) * out_channels / groups
    return (fan_out, fan_in) if transposed else (fan_in, fan_out)


def he_normal(shape: Shape, fan_in: float, gain: float = RELU_GAIN) -> Array:
    """w ~ N(0, gain^2 / fan_in); gain sqrt(2) is for ReLU, 1 for linear layers.

    He et al., Delving Deep into Rectifiers (2015), arXiv:1502.01852.
    """
    return _normal(shape, gain / math.sqrt(_positive(fan_in, "he_normal")))


def he_uniform(shape: Shape, fan_in: float, gain: float = RELU_GAIN) -> Array:
    """w ~ U(-a, a) with a = gain sqrt(3 / fan_in): the variance of he_normal."""
    return _uniform(shape, gain * math.sqrt(3 / _positive(fan_in, "he_uniform")))


def glorot_normal(shape: Shape, fan_in: float, fan_out: float, gain: float = 1.0) -> Array:
    """w ~ N(0, 2 gain^2 / (fan_in + fan_out)): the mean of what the forward and the backward pass would like.

    Glorot and Bengio, Understanding the Difficulty of Training Deep Feedforward Neural Networks (2010).
    """
    return _normal(shape, gain * math.sqrt(2 / _positive(fan_in + fan_out, "glorot_normal")))


def glorot_uniform(shape: Shape, fan_in: float, fan_out: float, gain: float = 1.0) -> Array:
    """w ~ U(-a, a) with a = gain sqrt(6 / (fan_in + fan_out)): the variance of glorot_normal."""
    return _uniform(shape, gain * math.sqrt(6 / _positive(fan_in + fan_out, "glorot_uniform")))


def bilinear(shape: Shape) -> Array:
    """The weight (KH, KW, O/groups, C) with which a transposed convolution interpolates each channel.

    w[u, v, c, c] = (1 - |u - m| / f) (1 - |v - m| / f)
                    with f = ceil(K / 2) and the middle m = f - 1 for odd K, f - 1/2 for even K

    To enlarge f times take kernel_size 2f - f % 2, stride f, padding (f - f % 2) / 2. Each group has as many
    outputs as inputs. It is how upsampling layers start in
    Long et al., Fully Convolutional Networks for Semantic Segmentation (2015), arXiv:1411.4038.

    >>> float(bilinear((4, 4, 1, 1))[1, 1, 0, 0])       # 0.75 * 0.75
    0.5625
    """
    kernel_h, kernel_w, outputs, channels = shape
    if channels % outputs:
        raise ValueError(f"bilinear: shape {tuple(shape)} gives {outputs} outputs a group, but {channels} "
                         "channels are no whole number of such groups; a channel is interpolated into "
                         "itself, so take O = C")
    w = np.zeros(shape, np.float32)
    for channel in range(channels):
        w[:, :, channel % outputs, channel] = _triangle(kernel_h)[:, None] * _triangle(kernel_w)[None, :]
    return w


def _triangle(size):
    half = (size + 1) // 2
    middle = half - 1 if size % 2 else half - 0.5
    return 1 - np.abs(np.arange(size) - middle) / half


def _normal(shape, deviation):
    return random.generator().standard_normal(shape, dtype=np.float32) * float(deviation)


def _uniform(shape, bound):
    bound = float(bound)
    return random.generator().random(shape, dtype=np.float32) * (2 * bound) - bound


def _positive(fan, function):
    if fan <= 0:
        raise ValueError(f"{function}: a fan of {fan} leaves no weights to draw; give the fans of "
                         "init.fans(shape)")
    return float(fan)
