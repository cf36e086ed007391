"""Which layers of a Sequential are computed together: what follows a convolution is done before its result is written.

The arithmetic of batch normalisation, ReLU and pooling is next to nothing, but each of them reads and writes whole
images. It fits into the last step of the layer before, where a pixel is at hand anyway:

    Conv2d, ConvTranspose2d    then  [BatchNorm2d]  [ReLU]  [MaxPool2d(2), after a Conv2d]
    BatchNorm2d                then                 [ReLU]  [MaxPool2d(2), in training]

A BatchNorm2d joins in where it is a fixed factor and shift for each channel, in evaluation, and where nobody will ask
for gradients: it then goes into the convolution's weight and bias, which changes the last digits; kernels/prepared.py
keeps these as long as all that they are made of stays the same. All else gives the same bits as one layer after the
other, but for the gradient of a bias before pooling: its sum leaves out the pixels that got nothing, which may round
the last digit otherwise. Layers of other classes, subclasses too, stand alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tinynet.autograd import is_recording
from tinynet.kernels.memory import aligned
from tinynet.kernels.prepared import prepared
from tinynet.nn.layers import BatchNorm2d, Conv2d, ConvTranspose2d, MaxPool2d, ReLU
from tinynet.nn.module import Module
from tinynet.ops.convolution import Then
from tinynet.shapes import pair

FOLLOWERS = {
    Conv2d: (BatchNorm2d, ReLU, MaxPool2d),
    ConvTranspose2d: (BatchNorm2d, ReLU),
    BatchNorm2d: (ReLU, MaxPool2d),
}


def steps(layers: Sequence[Module]) -> Iterator[tuple[Module, dict[str, Any]]]:
    """(layer, options) of each call to be made: the options tell it to do those that follow, too.

    >>> from tinynet import nn
    >>> layers = [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU()]
    >>> [(type(layer).__name__, options) for layer, options in steps(layers)]
    [('Conv2d', {'then': Then(relu=True, pool=True)}), ('ReLU', {})]
    """
    at = 0
    while at < len(layers):
        layer, found = layers[at], {}
        at += 1
        for kind in FOLLOWERS.get(type(layer), ()):
            if at < len(layers) and type(layers[at]) is kind and _joins(layer, layers[at]):
                found[kind] = layers[at]
                at += 1
        yield layer, _options(layer, found)


def _joins(layer, follower):
    """Can this follower, of a right class, be done together with that layer?"""
    if type(follower) is BatchNorm2d:
        return not (follower.training or is_recording()) and follower.num_features == layer.out_channels
    if type(follower) is MaxPool2d:
        if type(layer) is BatchNorm2d and not layer.training:
            return False
        stride = follower.kernel_size if follower.stride is None else follower.stride
        sizes = [pair(size, "MaxPool2d", "window") for size in (follower.kernel_size, stride)]
        return sizes == [(2, 2), (2, 2)] and follower.padding == 0
    return True


def _options(layer, found):
    """The arguments of the layer's call that stand for the followers found."""
    if not found:
        return {}
    if type(layer) is BatchNorm2d:
        return {"relu": ReLU in found, "pool": MaxPool2d in found}
    options = {"then": Then(relu=ReLU in found, pool=MaxPool2d in found)}
    if BatchNorm2d in found:
        options["parameters"] = _normalized(layer, found[BatchNorm2d])
    return options


def joined(layer: Module, options: dict[str, Any]) -> str:
    """The classes of a layer and of the followers that a call with these options does, too.

    >>> from tinynet import nn
    >>> [joined(*step) for step in steps([nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Sigmoid()])]
    ['Conv2d+ReLU+MaxPool2d', 'Sigmoid']
    """
    then = options.get("then", Then(options.get("relu", False), options.get("pool", False)))
    done = {BatchNorm2d: "parameters" in options, ReLU: then.relu, MaxPool2d: then.pool}
    kinds = [type(layer), *(kind for kind in FOLLOWERS.get(type(layer), ()) if done[kind])]
    return "+".join(kind.__name__ for kind in kinds)


def _normalized(layer, norm):
    """The convolution's weight and bias with the normalisation in them, computed once for the same numbers"""
    bias, weight, shift = (None if p is None else p.array for p in (layer.bias, norm.weight, norm.bias))
    w, b = prepared.get(_folded, layer.weight.array, bias, norm.running_mean, norm.running_var, norm.eps, weight, shift,
                        type(layer))
    return layer.weight.wrap(w), layer.weight.wrap(b)


def _folded(w, b, mean, var, eps, weight, shift, kind):
    """(z - mean) r weight + shift is (r weight) z + ...; w (KH, KW, C, O), transposed (KH, KW, O, C)"""
    scale = 1 / np.sqrt(var.astype(np.float64) + eps)
    scale = scale if weight is None else scale * weight
    offset = ((0 if b is None else b) - mean) * scale
    offset = offset if shift is None else offset + shift
    per_output = scale if kind is Conv2d else scale[:, None]
    return aligned((w * per_output).astype(w.dtype)), offset.astype(w.dtype)
