"""Modules: layers with parameters, and what they are put together with."""

from tinynet.nn import init
from tinynet.nn.blocks import Residual, Sequential
from tinynet.nn.layers import (
    GELU,
    AvgPool2d,
    BatchNorm2d,
    Conv2d,
    ConvTranspose2d,
    Dense,
    Dropout,
    Flatten,
    GroupNorm,
    LayerNorm,
    LeakyReLU,
    MaxPool2d,
    ReLU,
    Sigmoid,
    Tanh,
    Upsample,
)
from tinynet.nn.module import Module, Parameter

__all__ = [
    "GELU", "AvgPool2d", "BatchNorm2d", "Conv2d", "ConvTranspose2d", "Dense", "Dropout", "Flatten",
    "GroupNorm", "LayerNorm", "LeakyReLU", "MaxPool2d", "Module", "Parameter", "ReLU", "Residual",
    "Sequential", "Sigmoid", "Tanh", "Upsample", "init",
]
