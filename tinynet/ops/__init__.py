"""The differentiable functions, a file a family; in each class backward stands right below forward."""

from tinynet.ops.activation import (
    dropout,
    gelu,
    leaky_relu,
    log_softmax,
    relu,
    sigmoid,
    silu,
    softmax,
    softplus,
    tanh,
)
from tinynet.ops.arithmetic import abs, clip, exp, log, maximum, minimum, sqrt, where
from tinynet.ops.convolution import conv2d, conv_transpose2d
from tinynet.ops.layout import broadcast_to, concatenate, flatten, pad, reshape, stack, transpose
from tinynet.ops.loss import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    l1_loss,
    mse_loss,
    smooth_l1_loss,
)
from tinynet.ops.normalization import batch_norm, group_norm, layer_norm
from tinynet.ops.overlap_loss import dice_loss, giou_loss
from tinynet.ops.pooling import avg_pool2d, max_pool2d
from tinynet.ops.reduction import logsumexp, max, mean, min, sum, var
from tinynet.ops.resize import resize
from tinynet.tensor import matmul

__all__ = [
    "abs", "clip", "exp", "log", "matmul", "maximum", "minimum", "sqrt", "where",
    "logsumexp", "max", "mean", "min", "sum", "var",
    "broadcast_to", "concatenate", "flatten", "pad", "reshape", "stack", "transpose",
    "dropout", "gelu", "leaky_relu", "log_softmax", "relu", "sigmoid", "silu", "softmax", "softplus", "tanh",
    "conv2d", "conv_transpose2d", "avg_pool2d", "max_pool2d", "resize",
    "batch_norm", "group_norm", "layer_norm",
    "binary_cross_entropy_with_logits", "cross_entropy", "dice_loss", "giou_loss", "l1_loss", "mse_loss",
    "smooth_l1_loss",
]
