"""Losses by element: cross_entropy binary_cross_entropy_with_logits mse_loss l1_loss smooth_l1_loss."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from tinynet.autograd import Op
from tinynet.kernels import error
from tinynet.kernels.softmax import softmax_cross_entropy
from tinynet.ops.activation import softmax, softplus
from tinynet.tensor import Gradients, Tensor, TensorLike, as_tensor
from tinynet.typing import Array, DType, Reduction, Shape

COUNTED = 8192  # targets at once: a copy of more would be of fresh memory, page by page, which takes four times as long


class Asked(NamedTuple):
    """What a cross-entropy asks of M pixels with K classes, in the terms of kernels/softmax.py."""

    target: np.ndarray  # (M,), int32, -1 for a pixel to ignore
    hard: np.ndarray  # (K,), (1 - s) w: the weight of the target's logarithm
    soft: np.ndarray  # (K,), s w / K: the weight of every class's; () without smoothing
    scale: float  # what the sum is multiplied by

    def coefficients(self, dtype: DType) -> Array:
        """scale c: the (M, K) coefficients of loss = -sum_k c_k log p_k."""
        c = np.zeros((self.target.size, self.hard.size))
        pixels = np.flatnonzero(self.target >= 0)
        if self.soft.size:
            c[pixels] = self.soft
        c[pixels, self.target[pixels]] += self.hard[self.target[pixels]]
        return (c * self.scale if pixels.size else c).astype(dtype)  # all ignored: the scale of a mean is NaN


class CrossEntropy(Op):
    """loss = -sum_k c_k log p_k  with  p = softmax(x),  of each pixel, or summed over them and scaled

    gx_k = gloss (C p_k - c_k)  with  C = sum_k c_k: the kernel makes it in the same pass over the logits.
    """

    keeps = ("x",)

    def __init__(self, asked: Asked, shape: Shape | None) -> None:
        self.asked = asked
        self.shape_of_loss = shape  # the target's, or () for the scaled sum

    def forward(self, x: Array) -> Array:
        asked = self.asked
        rows = x.reshape(-1, x.shape[-1])
        loss, self.gradient = softmax_cross_entropy(rows, *asked, with_gradient=self.needs[0])
        if self.shape_of_loss is not None:
            return loss.reshape(self.shape_of_loss)
        return np.asarray(float(loss.sum(dtype=np.float64)) * asked.scale, x.dtype)

    def output_shape(self, x: Shape) -> Shape:
        return () if self.shape_of_loss is None else self.shape_of_loss

    def backward(self, gloss: Tensor) -> Tensor:
        return CrossEntropyGrad(self.asked, self.gradient)(gloss, self.x)


class CrossEntropyGrad(Op):
    """gx_k = gloss (C p_k - c_k)

    d/dgloss: sum_k ggx_k (C p_k - c_k);  d/dx: gloss C p_k (ggx_k - sum_j p_j ggx_j), softmax's own gradient
    """

    keeps = ("gloss", "x", "output")  # the output, since it may be `gradient` itself: nobody must write to it

    def __init__(self, asked: Asked, gradient: Array) -> None:
        self.asked, self.gradient = asked, gradient

    def forward(self, gloss: Array, x: Array) -> Array:
        gradient = self.gradient.reshape(x.shape)
        if gloss.size == 1 and gloss.item() == 1:  # as in loss.backward(): spares a pass over the logits
            return gradient
        return gradient * gloss[..., None]

    def output_shape(self, gloss: Shape, x: Shape) -> Shape:
        return x

    def backward(self, ggx: Tensor) -> Gradients:
        x, gloss = self.x, self.gloss
        c = ggx.wrap(self.asked.coefficients(ggx.dtype).reshape(x.shape))
        p, C = softmax(x), c.sum(-1, keepdims=True)
        ggloss = (ggx * (C * p - c)).sum(-1) if self.needs[0] else None
        if ggloss is not None and ggloss.shape != gloss.shape:
            ggloss = ggloss.sum()
        gx = gloss.reshape((*gloss.shape, 1)) * C * p * (ggx - (ggx * p).sum(-1, keepdims=True))
        return ggloss, gx


def cross_entropy(logits: TensorLike, target: TensorLike, *, weight: TensorLike | None = None,
                  ignore_index: int | None = None, label_smoothing: float = 0.0,
                  reduction: Reduction = "mean") -> Tensor:
    """Softmax cross-entropy between logits (..., K) and integer targets (...), as in PyTorch.

        loss = -(1 - s) w_t log p_t - s/K sum_k w_k log p_k      with p = softmax(logits), s = label_smoothing

        glogits_k = gloss (p_k - [k = t])      and in general  gloss (C p_k - c_k):
        c_k = (1 - s) w_t [k = t] + s/K w_k are the coefficients of the logarithms, C their sum. "mean" divides it.

    target: t, an integer array (or Tensor) of classes 0..K-1, in the logits' shape without the last axis.
    weight: w, (K,), a weight for each class.
    ignore_index: pixels whose target it is have a loss and a gradient of 0.
    reduction: "none" gives the losses (...), "sum" their sum, "mean" that divided by the sum of w_t over the
    pixels that are not ignored; if all are ignored the mean is 0 / 0 = NaN, and its gradient 0.
    Raises ValueError for a target of another shape or out of range, TypeError for one of floats.

    >>> cross_entropy([[0.0, 0.0], [0.0, 1.0], [0.0, 1000.0]], np.array([0, 1, 1]), reduction="none")
    Tensor([0.69314..., 0.31326..., 0...])
    """
    op, logits = "cross_entropy", as_tensor(logits)
    check_reduction(op, reduction)
    target = class_target(op, logits, target, ignore_index)
    K = logits.shape[-1]
    w = np.ones(K) if weight is None else _class_weight(op, weight, K)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"{op}: label_smoothing is {label_smoothing!r}, but is a share, from 0 to 1")
    scale = 1.0
    if reduction == "mean":
        total = _total_weight(target, None if weight is None else w, ignore_index)
        scale = 1 / total if total else float("nan")
    soft = w * (label_smoothing / K) if label_smoothing else np.empty(0)
    asked = Asked(target.reshape(-1), w * (1 - label_smoothing), soft, scale)
    return CrossEntropy(asked, target.shape if reduction == "none" else None)(logits)


def _total_weight(target, weight, ignore_index):
    """The sum of the targets' weights, over the pixels that are not ignored."""
    if weight is None and ignore_index is None:
        return target.size
    if weight is None:
        return int(np.count_nonzero(target >= 0))
    flat, weights = target.reshape(-1), np.append(weight, 0.0)  # -1, the last, weighs nothing
    return sum(float(weights.take(flat[first:first + COUNTED]).sum()) for first in range(0, flat.size, COUNTED))


def _class_weight(op, weight, K):
    weight = np.asarray(weight.array if isinstance(weight, Tensor) else weight, np.float64)
    if weight.shape != (K,):
        raise ValueError(f"{op}: weight has the shape {weight.shape}, but {K} classes take ({K},)")
    return weight


def class_target(op: str, logits: Tensor, target: TensorLike, ignore_index: int | None) -> Array:
    """The target as int32, -1 where it is to be ignored; checked against the logits' shape."""
    target = np.asarray(target.array if isinstance(target, Tensor) else target)
    if logits.ndim == 0 or logits.shape[-1] == 0:
        raise ValueError(f"{op}: logits of shape {logits.shape} have no classes on the last axis")
    if target.dtype.kind not in "iu":
        raise TypeError(
            f"{op}: target is of dtype {target.dtype}, but must hold the classes' numbers; give integers, "
            "for instance target.astype(np.int64), or scores.argmax(-1) of one-hot vectors"
        )
    if target.shape != logits.shape[:-1]:
        raise ValueError(
            f"{op}: target has the shape {target.shape}, but logits of shape {logits.shape} take one of "
            f"{logits.shape[:-1]}: theirs without the last axis, which is that of the classes"
        )
    K = logits.shape[-1]
    wrong = (target < 0) | (target >= K)
    if ignore_index is not None:
        ignored = target == ignore_index
        wrong &= ~ignored
    if wrong.any():
        low, high = target[wrong].min(), target[wrong].max()
        worst = low if low < 0 else high
        raise ValueError(
            f"{op}: target holds the class {worst}, but logits of shape {logits.shape} have the classes "
            f"0..{K - 1}; if it marks what is not to count, give ignore_index={worst}"
        )
    classes = target.astype(np.int32)
    if ignore_index is not None:
        classes |= -ignored.view(np.int8)  # -1 has all bits, and so has what is or-ed with it
    return classes


def binary_cross_entropy_with_logits(logits: TensorLike, target: TensorLike, *, weight: TensorLike | None = None,
                                     pos_weight: TensorLike | None = None, reduction: Reduction = "mean") -> Tensor:
    """Cross-entropy of yes-or-no questions: logits x (...), target t (...) of probabilities, mostly 0 and 1.

        loss = -w (t v log sigmoid(x) + (1 - t) log(1 - sigmoid(x)))
             = w ((1 - t) x + (1 + (v - 1) t) softplus(-x))

        glogits = gloss w ((1 + (v - 1) t) sigmoid(x) - v t),   gtarget = gloss w ((v - 1) softplus(-x) - x)
        Without weights the first is gloss (sigmoid(x) - t). "mean" divides both by the number of elements.

    The second form is the one computed: exact for logits of any size.
    weight: w, pos_weight: v, arrays that broadcast to the logits' shape.
    reduction: "none", "sum", or "mean" over all elements, whatever their weights.
    Raises ValueError for a target or a weight of a wrong shape.

    >>> binary_cross_entropy_with_logits([0.0, 1000.0], [1.0, 0.0], reduction="none")
    Tensor([6.931472e-01, 1.000000e+03])
    """
    op = "binary_cross_entropy_with_logits"
    check_reduction(op, reduction)
    logits, target = same_shape(op, logits, target, "logits")
    weight, pos_weight = _like(op, "weight", weight, logits), _like(op, "pos_weight", pos_weight, logits)
    log_weight = 1 if pos_weight is None else 1 + (pos_weight - 1) * target
    loss = (1 - target) * logits + softplus(-logits) * log_weight
    return reduced(loss if weight is None else loss * weight, reduction)


def _like(op, name, weight, logits):
    """A weight as a tensor that broadcasts to the logits' shape, or None."""
    if weight is None:
        return None
    weight = as_tensor(weight, like=logits)
    try:
        fits = np.broadcast_shapes(weight.shape, logits.shape) == logits.shape
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"{op}: {name} has the shape {weight.shape}, but must broadcast to the logits' {logits.shape}"
        )
    return weight


class ErrorLoss(Op):
    """loss = f(x - t), of each element, or summed and scaled;  gx = gloss f'(x - t),  gt = -gx

    f is one of the functions in kernels/error.py.
    """

    keeps = ("x", "t")

    def __init__(self, f: Any, bound: float, scale: float | None) -> None:
        self.f, self.bound = f, bound
        self.scale = scale  # what the sum is multiplied by; None to have the losses of all elements

    def forward(self, x: Array, t: Array) -> Array:
        if self.scale is None:
            return error.values(self.f, x, t, self.bound)
        return np.asarray(error.sum_of_values(self.f, x, t, self.bound) * self.scale, x.dtype)

    def output_shape(self, x: Shape, t: Shape) -> Shape:
        return x if self.scale is None else ()

    def backward(self, gloss: Tensor) -> Gradients:
        gx = ErrorSlope(self.f, self.bound, 1.0 if self.scale is None else self.scale)(gloss, self.x, self.t)
        return gx, -gx if self.needs[1] else None


class ErrorSlope(Op):
    """gx = gloss scale f'(x - t), with gloss of the shape of x, or a single number

    d/dgloss: scale f'(x - t) ggx, summed if gloss is a number;  d/dx: gloss scale f''(x - t) ggx, d/dt: minus that
    """

    keeps = ("gloss", "x", "t")

    def __init__(self, f: Any, bound: float, scale: float) -> None:
        self.f, self.bound, self.scale = f, bound, scale

    def forward(self, gloss: Array, x: Array, t: Array) -> Array:
        if gloss.ndim == 0:  # then the slopes are all that is to be written
            return error.slopes(self.f, x, t, self.bound, gloss.item() * self.scale)
        return gloss * error.slopes(self.f, x, t, self.bound, self.scale)

    def backward(self, ggx: Tensor) -> Gradients:
        gloss, x, t = self.gloss, self.x, self.t
        ggloss = gx = None
        if self.needs[0]:
            ggloss = ggx * ErrorSlope(self.f, self.bound, self.scale)(ggx.like(1), x, t)
            ggloss = ggloss.sum() if gloss.ndim == 0 else ggloss
        if self.needs[1] or self.needs[2]:
            curvature = ggx.wrap(error.curvatures(self.f, x.array, t.array, self.bound))
            gx = gloss * (ggx * curvature * self.scale)
        return ggloss, gx, -gx if self.needs[2] else None


def _error_loss(op, f, prediction, target, reduction, bound=1.0):
    check_reduction(op, reduction)
    prediction, target = same_shape(op, prediction, target)
    if reduction == "mean" and not prediction.size:
        raise ValueError(f"{op}: prediction has the shape {prediction.shape}; of no elements there is no mean")
    scale = None if reduction == "none" else 1.0 if reduction == "sum" else 1 / prediction.size
    return ErrorLoss(f, bound, scale)(prediction, target)


def mse_loss(prediction: TensorLike, target: TensorLike, *, reduction: Reduction = "mean") -> Tensor:
    """The squared error: loss = (x - t)^2, of prediction x and target t of equal shape (ValueError otherwise).

    gx = gloss 2 (x - t),   gt = -gx      divided by the number of elements for the mean

    reduction: "mean" over all elements, "sum", or "none".

    >>> mse_loss([1.0, 2.0], [1.0, 4.0])
    Tensor(2.)
    """
    return _error_loss("mse_loss", error.SQUARE, prediction, target, reduction)


def l1_loss(prediction: TensorLike, target: TensorLike, *, reduction: Reduction = "mean") -> Tensor:
    """The absolute error: loss = |x - t|, of prediction x and target t of equal shape (ValueError otherwise).

    gx = gloss sign(x - t),   gt = -gx      divided by the number of elements for the mean

    reduction: "mean" over all elements, "sum", or "none". The gradient is 0 where they agree.

    >>> l1_loss([1.0, 2.0], [1.0, 4.0])
    Tensor(1.)
    """
    return _error_loss("l1_loss", error.ABSOLUTE, prediction, target, reduction)


def smooth_l1_loss(prediction: TensorLike, target: TensorLike, *, beta: float = 1.0,
                   reduction: Reduction = "mean") -> Tensor:
    """Squared for small errors, absolute for large ones, so that outliers don't rule the gradient.

        loss = d^2 / (2 beta)  for d = |x - t| < beta,  else  d - beta / 2

        gx = gloss (x - t) / beta, limited to -gloss..gloss,   gt = -gx      divided by their number for the mean

    prediction x and target t must be of equal shape (ValueError otherwise); beta = 0 gives l1_loss.
    reduction: "mean" over all elements, "sum", or "none". Girshick, Fast R-CNN, 2015 (arXiv 1504.08083).

    >>> smooth_l1_loss([1.0, 2.0], [1.5, 4.0], reduction="none")
    Tensor([0.125, 1.5  ])
    """
    if not 0 <= beta < float("inf"):
        raise ValueError(f"smooth_l1_loss: beta is {beta!r}, but must be an error, finite and of 0 or more")
    f = error.HUBER if beta > 0 else error.ABSOLUTE
    return _error_loss("smooth_l1_loss", f, prediction, target, reduction, float(beta))


def check_reduction(op: str, reduction: Reduction) -> None:
    """Raises ValueError unless the reduction is one of the three."""
    if reduction not in ("mean", "sum", "none"):
        raise ValueError(f'{op}: reduction is {reduction!r}, but must be "mean", "sum" or "none"')


def reduced(loss: Tensor, reduction: Reduction) -> Tensor:
    """The losses, their sum, or their mean."""
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()


def same_shape(op: str, prediction: TensorLike, target: TensorLike, name: str = "prediction") -> tuple[Tensor, Tensor]:
    """Both as tensors of one shape: (n, 1) broadcast against (n,) would compare all pairs: nonsense."""
    prediction = as_tensor(prediction)
    if isinstance(target, Tensor) and target.dtype.kind != "f":
        target = target.array
    target = as_tensor(target, like=prediction)
    if target.shape != prediction.shape:
        raise ValueError(
            f"{op}: {name} has the shape {prediction.shape}, target {target.shape}; they must be equal, "
            "as nothing is broadcast: reshape one of them"
        )
    return prediction, target
