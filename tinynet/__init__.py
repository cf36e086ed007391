"""tinynet: a deep-learning framework on NumPy and numba, small enough to read and fast enough to use."""

__version__ = "0.1.0"  # setup.cfg reads it from here

from tinynet.autograd import GraphError, detect_anomaly, grad, no_grad
from tinynet.gradcheck import GradientError, KinkWarning, gradcheck, gradgradcheck
from tinynet.inspect import graph, profile, summary
from tinynet.kernels.winograd import exact_convolution
from tinynet.ops import *  # noqa: F403  (ops.__all__ lists them)
from tinynet.ops import __all__ as _ops
from tinynet.random import manual_seed
from tinynet.safetensors import load, save
from tinynet.tensor import Tensor

__all__ = [
    "Tensor", "GraphError", "GradientError", "KinkWarning", "detect_anomaly", "exact_convolution", "grad",
    "gradcheck", "gradgradcheck", "graph", "no_grad", "manual_seed", "load", "profile", "save", "summary", *_ops,
]
