"""The layers: each keeps its arguments and parameters, checks them once, and calls the function of its name.

Arguments are PyTorch's in PyTorch's order; images are (N, H, W, C). Weights of convolutions and dense layers
start at He normal with fan_in and the gain of ReLU, biases at 0 (see nn.init). Parameters are float32;
Module.astype changes that.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tinynet import ops
from tinynet.nn import init
from tinynet.nn.module import Module, Parameter
from tinynet.ops.convolution import NOTHING, Then
from tinynet.ops.normalization import Moments
from tinynet.shapes import conv_geometry, integer, output_padding_for, padding_pairs, pair
from tinynet.tensor import Tensor, as_tensor
from tinynet.typing import Mode, Padding, Pair


class Conv2d(Module):
    """y = conv2d(x, weight, bias): (N, H, W, in_channels) to (N, OH, OW, out_channels).

    weight (KH, KW, in_channels/groups, out_channels), bias (out_channels) or None.
    padding: an int, a pair (h, w), "same", or ((top, bottom), (left, right)).

    >>> import tinynet as tn
    >>> layer = Conv2d(1, 2, 2)
    >>> layer.weight.data[...] = [[[[1.0, -1.0]], [[2.0, -1.0]]], [[[3.0, -1.0]], [[4.0, -1.0]]]]
    >>> layer(tn.Tensor([[[[1.0], [1.0]], [[1.0], [2.0]]]])).numpy()
    array([[[[14., -5.]]]], dtype=float32)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Padding = 0,
                 dilation: Pair = 1, groups: int = 1, bias: bool = True) -> None:
        self.in_channels, self.out_channels = _channels("Conv2d", in_channels, out_channels, groups)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.dilation, self.groups = dilation, groups
        kernel = pair(kernel_size, "Conv2d", "kernel_size")
        conv_geometry(stride, padding, dilation, groups, kernel, "Conv2d")
        shape = (*kernel, in_channels // groups, out_channels)
        fan_in, _ = init.fans(shape, groups)
        self.weight = Parameter(init.he_normal(shape, fan_in))
        self.bias = _zeros(out_channels) if bias else None

    def forward(self, x: Tensor, parameters: tuple[Tensor, Tensor | None] | None = None,
                then: Then = NOTHING) -> Tensor:
        """parameters: (weight, bias) in place of the layer's own; then: what to do before y is written."""
        weight, bias = parameters or (self.weight, self.bias)
        return ops.conv2d(x, weight, bias, stride=self.stride, padding=self.padding,
                          dilation=self.dilation, groups=self.groups, then=then)


class ConvTranspose2d(Module):
    """y = conv_transpose2d(x, weight, bias): (N, H, W, in_channels) to (N, OH, OW, out_channels).

    weight (KH, KW, out_channels/groups, in_channels): that of the convolution which it transposes, one from
    out_channels to in_channels. bias (out_channels) or None.
    OH = (H - 1) stride - 2 padding + dilation (KH - 1) + 1 + output_padding; or call it with
    output_size=(OH, OW), a size that a convolution would have made into (H, W): output_padding follows.

    >>> import tinynet as tn
    >>> layer = ConvTranspose2d(1, 1, 2, stride=2)
    >>> layer.weight.data[...] = [[[[1.0]], [[2.0]]], [[[3.0]], [[4.0]]]]
    >>> layer(tn.Tensor([[[[1.0], [10.0]]]])).numpy().reshape(2, 4)
    array([[ 1.,  2., 10., 20.],
           [ 3.,  4., 30., 40.]], dtype=float32)
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: Pair, stride: Pair = 1, padding: Padding = 0,
                 output_padding: Pair = 0, groups: int = 1, bias: bool = True, dilation: Pair = 1) -> None:
        name = "ConvTranspose2d"
        self.in_channels, self.out_channels = _channels(name, in_channels, out_channels, groups)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding
        self.output_padding, self.dilation, self.groups = output_padding, dilation, groups
        kernel = pair(kernel_size, name, "kernel_size")
        strides = conv_geometry(stride, padding, dilation, groups, kernel, name).stride
        pair(output_padding, name, "output_padding", minimum=0)
        shape = (*kernel, out_channels // groups, in_channels)
        fan_in, _ = init.fans(shape, groups, strides, transposed=True)
        self.weight = Parameter(init.he_normal(shape, fan_in))
        self.bias = _zeros(out_channels) if bias else None

    def forward(self, x: Tensor, output_size: Pair | None = None,
                parameters: tuple[Tensor, Tensor | None] | None = None, then: Then = NOTHING) -> Tensor:
        """parameters: (weight, bias) in place of the layer's own; then: what to do before y is written."""
        weight, bias = parameters or (self.weight, self.bias)
        geometry = {"stride": self.stride, "padding": self.padding, "dilation": self.dilation,
                    "groups": self.groups}
        extra = self.output_padding
        if output_size is not None:
            extra = output_padding_for(output_size, as_tensor(x).shape, self.weight.shape, **geometry)
        return ops.conv_transpose2d(x, weight, bias, output_padding=extra, then=then, **geometry)


class Dense(Module):
    """y = x weight + bias: (..., in_features) to (..., out_features); weight (in_features, out_features).

    gx = gy weight^T,   gweight = x^T gy,   gbias = sum gy      summed over all axes but the last

    >>> import tinynet as tn
    >>> layer = Dense(2, 3)
    >>> layer.weight.data[...] = [[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]
    >>> layer(tn.Tensor([[1.0, 10.0]])).numpy()
    array([[41., 52., 63.]], dtype=float32)
    """

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        self.in_features = integer(in_features, "Dense", "in_features", 1)
        self.out_features = integer(out_features, "Dense", "out_features", 1)
        shape = (in_features, out_features)
        self.weight = Parameter(init.he_normal(shape, init.fans(shape)[0]))
        self.bias = _zeros(out_features) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        if not x.ndim or x.shape[-1] != self.in_features:
            flat = x.ndim > 2 and x.size == x.shape[0] * self.in_features
            raise ValueError(f"Dense: x of shape {x.shape} has {x.shape[-1] if x.ndim else 'no'} features, "
                             "but the layer takes "
                             f"{self.in_features}; " + ("put nn.Flatten() before it" if flat else
                                                              "make in_features the last size of x"))
        y = ops.matmul(x, self.weight)
        return y if self.bias is None else y + self.bias


class Flatten(Module):
    """y = x as (N, everything else): (N, H, W, C) to (N, H W C).

    >>> import tinynet as tn
    >>> Flatten()(tn.Tensor([[[1.0, 2.0], [3.0, 4.0]]]))
    Tensor([[1., 2., 3., 4.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.flatten(x)


class ReLU(Module):
    """y = max(x, 0), of any shape; NaN stays NaN.

    >>> import tinynet as tn
    >>> ReLU()(tn.Tensor([-1.0, 0.0, 2.0]))
    Tensor([0., 0., 2.])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.relu(x)


class LeakyReLU(Module):
    """y = x where x > 0, negative_slope x elsewhere; of any shape.

    >>> import tinynet as tn
    >>> LeakyReLU(0.25)(tn.Tensor([-1.0, 0.0, 2.0]))
    Tensor([-0.25,  0.  ,  2.  ])
    """

    def __init__(self, negative_slope: float = 0.01) -> None:
        self.negative_slope = _number("LeakyReLU", "negative_slope", negative_slope)

    def forward(self, x: Tensor) -> Tensor:
        return ops.leaky_relu(x, self.negative_slope)


class Sigmoid(Module):
    """y = 1 / (1 + e^-x), of any shape.

    >>> import tinynet as tn
    >>> Sigmoid()(tn.Tensor([0.0, 2.0]))
    Tensor([0.5..., 0.8807...])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.sigmoid(x)


class Tanh(Module):
    """y = tanh(x), of any shape.

    >>> import tinynet as tn
    >>> Tanh()(tn.Tensor([0.0, 0.5]))
    Tensor([0..., 0.46211...])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.tanh(x)


class GELU(Module):
    """y = x P(Z <= x) with Z ~ N(0, 1), of any shape: see tinynet.gelu.

    >>> import tinynet as tn
    >>> GELU()(tn.Tensor([-1.0, 0.0, 1.0]))
    Tensor([-0.15865...,  0...,  0.84134...])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.gelu(x)


class _Pool2d(Module):
    """What the two poolings share: a window kernel_size, moved by stride (by default its own size)."""

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Padding = 0) -> None:
        name = type(self).__name__
        kernel = pair(kernel_size, name, "kernel_size")
        strides = kernel if stride is None else pair(stride, name, "stride")
        padding_pairs(padding, kernel, strides, (1, 1), name)
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding


class MaxPool2d(_Pool2d):
    """y = the maximum of each window, by channel: (N, H, W, C) to (N, OH, OW, C); see tinynet.max_pool2d.

    >>> import tinynet as tn
    >>> MaxPool2d(2)(tn.Tensor([[[[1.0], [4.0], [5.0], [0.0]], [[3.0], [2.0], [6.0], [7.0]]]])).reshape(1, 2)
    Tensor([[4., 7.]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.max_pool2d(x, self.kernel_size, self.stride, self.padding)


class AvgPool2d(_Pool2d):
    """y = the mean of each window, by channel: (N, H, W, C) to (N, OH, OW, C); see tinynet.avg_pool2d.

    >>> import tinynet as tn
    >>> AvgPool2d(2)(tn.Tensor([[[[1.0], [4.0], [5.0], [0.0]], [[3.0], [2.0], [6.0], [7.0]]]])).reshape(1, 2)
    Tensor([[2.5, 4.5]])
    """

    def forward(self, x: Tensor) -> Tensor:
        return ops.avg_pool2d(x, self.kernel_size, self.stride, self.padding)


class Upsample(Module):
    """y = x resized to scale_factor times its height and width; mode "nearest" or "bilinear"; see tinynet.resize.

    (N, H, W, C) to (N, scale_factor H, scale_factor W, C).

    >>> import tinynet as tn
    >>> Upsample((1, 2), mode="bilinear")(tn.Tensor([[[[1.0], [3.0]]]])).reshape(4)
    Tensor([1. , 1.5, 2.5, 3. ])
    """

    def __init__(self, scale_factor: Pair, mode: Mode = "nearest") -> None:
        pair(scale_factor, "Upsample", "scale_factor")
        if mode not in ("nearest", "bilinear"):
            raise ValueError(f'Upsample: mode is {mode!r}, but must be "nearest" or "bilinear"')
        self.scale_factor, self.mode = scale_factor, mode

    def forward(self, x: Tensor) -> Tensor:
        if x.ndim != 4:
            raise ValueError(f"Upsample: x has shape {x.shape}, but must be images (N, H, W, C)")
        scale_h, scale_w = pair(self.scale_factor, "Upsample", "scale_factor")
        return ops.resize(x, (x.shape[1] * scale_h, x.shape[2] * scale_w), self.mode)


class BatchNorm2d(Module):
    """y = (x - mean) / sqrt(var + eps) weight + bias, by channel, over N, H, W; x (N, H, W, num_features).

    In training the batch's own statistics are used, and move the running ones:
    running = (1 - momentum) running + momentum batch (with the unbiased variance). In evaluation the running
    ones are used. Ioffe and Szegedy, Batch Normalization (2015), arXiv:1502.03167.

    >>> import tinynet as tn
    >>> layer = BatchNorm2d(1, eps=2.0)
    >>> layer(tn.Tensor([[[[1.0], [1.0], [4.0]]]])).numpy().reshape(3)
    array([-0.5, -0.5,  1. ], dtype=float32)
    >>> layer.running_mean                                      # 0.1 of the way from 0 to the batch's mean of 2
    array([0.2], dtype=float32)
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1, affine: bool = True) -> None:
        self.num_features = integer(num_features, "BatchNorm2d", "num_features", 1)
        self.eps = _number("BatchNorm2d", "eps", eps, minimum=0)
        self.momentum = _number("BatchNorm2d", "momentum", momentum, minimum=0, maximum=1)
        self.affine = affine
        self.weight, self.bias = _scale_and_shift(num_features, affine)
        self.running_mean = np.zeros(num_features, np.float32)
        self.running_var = np.ones(num_features, np.float32)
        self.measure = Moments  # interop.mpi_batch_norm has one that measures the batches of several processes

    def forward(self, x: Tensor, relu: bool = False, pool: bool = False) -> Tensor:
        """relu: max(y, 0), pool: the largest of each 2x2 pixels, both in the same passes over memory."""
        return ops.batch_norm(x, self.weight, self.bias, self.running_mean, self.running_var, self.training,
                              self.momentum, self.eps, relu=relu, pool=pool, measure=self.measure)


class GroupNorm(Module):
    """y = (x - mean) / sqrt(var + eps) weight + bias, over H, W and a group of channels, for each image.

    x, y: (N, ..., num_channels). Wu and He, Group Normalization (2018), arXiv:1803.08494.

    >>> import tinynet as tn
    >>> GroupNorm(2, 6, eps=2.0)(tn.Tensor([[1.0, 1.0, 4.0, 5.0, 2.0, 2.0]])).numpy()
    array([[-0.5, -0.5,  1. ,  1. , -0.5, -0.5]], dtype=float32)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True) -> None:
        self.num_groups = integer(num_groups, "GroupNorm", "num_groups", 1)
        self.num_channels = integer(num_channels, "GroupNorm", "num_channels", 1)
        if num_channels % num_groups:
            raise ValueError(f"GroupNorm: {num_channels} channels are not divisible into {num_groups} groups")
        self.eps = _number("GroupNorm", "eps", eps, minimum=0)
        self.affine = affine
        self.weight, self.bias = _scale_and_shift(num_channels, affine)

    def forward(self, x: Tensor) -> Tensor:
        return ops.group_norm(x, self.num_groups, self.weight, self.bias, self.eps)


class LayerNorm(Module):
    """y = (x - mean) / sqrt(var + eps) weight + bias, over the last axes, normalized_shape (int or tuple).

    x, y: (..., *normalized_shape). Ba, Kiros and Hinton, Layer Normalization (2016), arXiv:1607.06450.

    >>> import tinynet as tn
    >>> LayerNorm(3, eps=2.0)(tn.Tensor([[1.0, 1.0, 4.0], [5.0, 2.0, 2.0]])).numpy()
    array([[-0.5, -0.5,  1. ],
           [ 1. , -0.5, -0.5]], dtype=float32)
    """

    def __init__(self, normalized_shape: int | Sequence[int], eps: float = 1e-5, affine: bool = True) -> None:
        sizes = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
        if not sizes:
            raise ValueError("LayerNorm: normalized_shape is empty; give the sizes of the last axes of x")
        self.normalized_shape = tuple(integer(size, "LayerNorm", "normalized_shape", 1) for size in sizes)
        self.eps = _number("LayerNorm", "eps", eps, minimum=0)
        self.affine = affine
        self.weight, self.bias = _scale_and_shift(self.normalized_shape, affine)

    def forward(self, x: Tensor) -> Tensor:
        return ops.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)


class Dropout(Module):
    """In training y = x / (1 - p) with probability 1 - p, else 0, for each value; in evaluation y = x. Of any shape.

    Srivastava et al., Dropout: A Simple Way to Prevent Neural Networks from Overfitting (2014).

    >>> import tinynet as tn
    >>> tn.manual_seed(0)
    >>> Dropout(0.5)(tn.Tensor([1.0, 2.0, 3.0, 4.0]))
    Tensor([2., 4., 6., 0.])
    """

    def __init__(self, p: float = 0.5) -> None:
        self.p = _number("Dropout", "p", p, minimum=0)
        if p >= 1:
            raise ValueError(f"Dropout: p is {p}, but must be less than 1 (at 1 nothing would pass)")

    def forward(self, x: Tensor) -> Tensor:
        return ops.dropout(x, self.p, self.training)


def _channels(layer, in_channels, out_channels, groups):
    """The channel counts, checked against each other and the groups."""
    integer(groups, layer, "groups", 1)
    for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
        integer(channels, layer, name, 1)
        if channels % groups:
            raise ValueError(f"{layer}: {name} is {channels}, which is not divisible by groups={groups}")
    return in_channels, out_channels


def _number(layer, name, value, minimum=float("-inf"), maximum=float("inf")):
    """The value within its bounds, as a Python float (a NumPy float64 would make float32 arrays float64)."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{layer}: {name} is {value!r}, but must be a number")
    if not minimum <= value <= maximum:
        raise ValueError(f"{layer}: {name} is {value}, but must be from {minimum} to {maximum}")
    return float(value)


def _zeros(size: int | Sequence[int]) -> Parameter:
    return Parameter(np.zeros(size, np.float32))


def _scale_and_shift(shape, affine):
    """Weight 1 and bias 0 of a normalisation, or None for both."""
    return (Parameter(np.ones(shape, np.float32)), _zeros(shape)) if affine else (None, None)
