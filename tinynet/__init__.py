"""tinynet: a deep-learning framework on NumPy and numba, small enough to read and fast enough to use."""

from tinynet.autograd import GraphError, detect_anomaly, grad, no_grad
from tinynet.gradcheck import GradientError, gradcheck, gradgradcheck
from tinynet.random import manual_seed
from tinynet.tensor import Tensor
from tinynet.ops import *  # noqa: F403
