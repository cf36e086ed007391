"""The differentiable functions, a file a family; in each class backward stands right below forward."""

from tinynet.ops.arithmetic import abs, clip, exp, log, maximum, minimum, sqrt, where
from tinynet.ops.layout import broadcast_to, concatenate, flatten, pad, reshape, stack, transpose
from tinynet.ops.reduction import logsumexp, max, mean, min, sum, var
