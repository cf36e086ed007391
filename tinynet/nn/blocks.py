"""Modules made of modules: one after the other, and a block with its input added."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tinynet.autograd import is_dry_run
from tinynet.nn.fusion import steps
from tinynet.nn.module import Module, headline
from tinynet.tensor import Tensor


class Sequential(Module):
    """y = layers[-1](... layers[1](layers[0](x))): the layers one after the other.

    gx = gy taken back through the layers, the last one first

    x: of the shape that the first layer takes; y: of the shape that the last one gives.
    Its parts are named "0", "1", ...; len(), iteration and indexing work, and a slice is a Sequential of the
    same layers. Where layers can be computed together, they are: see nn/fusion.py.

    >>> from tinynet import nn
    >>> nn.Sequential(nn.Conv2d(3, 8, 3, padding="same"), nn.ReLU(), nn.Flatten())
    Sequential(  # 224 parameters
      0: Conv2d(3, 8, kernel_size=3, padding='same')  # 224 parameters
      1: ReLU()
      2: Flatten()
    )
    >>> import tinynet as tn
    >>> Sequential(nn.ReLU(), nn.Flatten())(tn.Tensor([[[1.0, -2.0], [-3.0, 4.0]]]))
    Tensor([[1., 0., 0., 4.]])
    """

    def __init__(self, *layers: Module) -> None:
        for index, layer in enumerate(layers):
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential: layer {index} is a {_kind(layer)}, but must be a Module; "
                                + ("write Sequential(*layers)" if isinstance(layer, (list, tuple)) else
                                   "for a function take its module, such as nn.ReLU() for relu"))
            setattr(self, str(index), layer)

    def forward(self, x: Tensor) -> Tensor:
        layers = list(self)
        for layer, options in ((layer, {}) for layer in layers) if is_dry_run() else steps(layers):
            x = layer(x, **options)
        return x

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __iter__(self) -> Iterator[Module]:
        return (part for part in vars(self).values() if isinstance(part, Module))

    def __getitem__(self, index: int | slice) -> Any:
        layers = list(self)
        return Sequential(*layers[index]) if isinstance(index, slice) else layers[index]


class Residual(Module):
    """y = body(x) + shortcut(x), where the shortcut is the identity unless given; no ReLU behind it.

    gx = gy taken back through the body + gy taken back through the shortcut (the identity: gy itself)

    x: of any shape that both take, y: of the one that both give.
    Where the body changes the number of channels or the size, the shortcut has to change them alike: a 1x1
    convolution of the same stride. Raises ValueError if the two sides differ in shape; they are never
    broadcast.
    He et al., Deep Residual Learning for Image Recognition (2016), arXiv:1512.03385, equations 1 and 2.

    >>> import numpy as np, tinynet as tn
    >>> from tinynet import nn
    >>> body = nn.Sequential(nn.Conv2d(8, 16, 3, stride=2, padding=1), nn.ReLU())
    >>> block = nn.Residual(body, shortcut=nn.Conv2d(8, 16, 1, stride=2))
    >>> block(tn.Tensor(np.zeros((1, 6, 6, 8), np.float32))).shape
    (1, 3, 3, 16)
    >>> Residual(nn.ReLU())(tn.Tensor([1.0, -2.0]))
    Tensor([ 2., -2.])
    """

    def __init__(self, body: Module, shortcut: Module | None = None) -> None:
        for name, part in (("body", body), ("shortcut", shortcut)):
            if not isinstance(part, Module) and not (name == "shortcut" and part is None):
                raise TypeError(f"Residual: {name} is a {_kind(part)}, but must be a Module")
        self.body = body
        self.shortcut = shortcut

    def forward(self, x: Tensor) -> Tensor:
        y = self.body(x)
        short = x if self.shortcut is None else self.shortcut(x)
        if y.shape != short.shape:
            side = "x itself" if self.shortcut is None else headline(self.shortcut)
            raise ValueError(f"Residual: the body turns x of shape {x.shape} into {y.shape}, the shortcut, "
                             f"{side}, into {short.shape}; {_shortcut_hint(x.shape, y.shape)}")
        return y + short


def _shortcut_hint(x_shape, y_shape):
    """The shortcut that would fit, for images; strides are those that round up, as padded convolutions do."""
    if len(x_shape) != 4 or len(y_shape) != 4 or 0 in y_shape:
        return "give a shortcut that ends in the body's shape"
    sizes = list(zip(x_shape[1:3], y_shape[1:3], strict=True))
    stride = tuple(-(-before // after) for before, after in sizes)
    if any(-(-before // s) != after for (before, after), s in zip(sizes, stride, strict=True)):
        return "give a shortcut that ends in the body's shape, or pad the body's convolutions"
    return f"give shortcut=nn.Conv2d({x_shape[3]}, {y_shape[3]}, 1, stride={stride})"


def _kind(value):
    return "class (not an object of it)" if isinstance(value, type) else type(value).__name__
