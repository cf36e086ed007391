"""Losses of overlap, of regions and of boxes: dice_loss giou_loss."""

from __future__ import annotations

import numpy as np

from tinynet.ops.activation import relu, sigmoid, softmax
from tinynet.ops.arithmetic import maximum, minimum, where
from tinynet.ops.loss import check_reduction, class_target, reduced, same_shape
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import Reduction


def dice_loss(logits: TensorLike, target: TensorLike, *, eps: float = 1.0, ignore_index: int | None = None,
              reduction: Reduction = "mean") -> Tensor:
    """One minus the soft overlap of regions, which a class of few pixels counts in as much as one of many.

        loss_k = 1 - (2 sum p_k t_k + eps) / (sum p_k + sum t_k + eps)      sums over all pixels of the batch

        gp_k = gloss_k (a - 2 t_k b) / b^2      with loss_k = 1 - a / b; then on through softmax or sigmoid

    Two forms, told apart by the target's shape:
    - K classes: logits (..., K), integer target (...): p = softmax(logits), t_k = [target = k].
    - one region: logits (...), target (...) from 0 to 1: p = sigmoid(logits), t = target.

    eps: of 0 or more; makes the loss of a class that is neither there nor predicted 0.
    ignore_index: pixels whose target it is are left out.
    reduction: over the classes, "mean", "sum", or "none" for the K losses (for a region, one).
    Raises ValueError for a target of another shape or range, TypeError for classes that are floats.
    Milletari, Navab and Ahmadi, V-Net, 2016 (arXiv 1606.04797).

    >>> dice_loss([[2.0, -2.0], [-1.0, 1.0]], np.array([0, 1]), reduction="none").numpy().round(3)
    array([0.044, 0.047], dtype=float32)
    """
    check_reduction("dice_loss", reduction)
    if not 0 <= eps < float("inf"):
        raise ValueError(f"dice_loss: eps is {eps!r}, but must be a number of 0 or more")
    logits = as_tensor(logits)
    values = np.asarray(target.array if isinstance(target, Tensor) else target)
    is_region = values.shape == logits.shape
    t = _region(logits, values, ignore_index) if is_region else _one_hot(logits, values, ignore_index)
    p = (sigmoid(logits) if is_region else softmax(logits)).reshape(t.shape)
    if ignore_index is not None:
        p = p * (values.reshape(-1, 1) != ignore_index)
    overlap, total = (p * t).sum(0), p.sum(0) + t.sum(0)
    return reduced(1 - (overlap * 2 + eps) / (total + eps), reduction)


def _region(logits, target, ignore_index):
    """t of one region, (M, 1), 0 where it is to be ignored."""
    t = target.reshape(-1, 1)
    if ignore_index is not None:
        t = np.where(t == ignore_index, 0, t)
    if t.size and (t.min() < 0 or t.max() > 1):
        worst = t.min() if t.min() < 0 else t.max()
        raise ValueError(
            f"dice_loss: target has the logits' shape {logits.shape}, so it must hold shares of a region, "
            f"from 0 to 1, but it holds {worst}; divide it by its maximum, or, if that marks what isn't to "
            f"count, give ignore_index={worst}"
        )
    return logits.like(t)


def _one_hot(logits, target, ignore_index):
    """t_k of K classes, (M, K), 0 where it is to be ignored."""
    target = class_target("dice_loss", logits, target, ignore_index)
    K = logits.shape[-1]
    if K == 1:
        raise ValueError(
            f"dice_loss: logits of shape {logits.shape} have one class, whose softmax is 1 everywhere; "
            f"for one region give target the logits' shape: target[..., None]"
        )
    return logits.like(target.reshape(-1, 1) == np.arange(K))


EPS = 1e-9  # keeps 0 / 0 away; below the area of any real box (one pixel of 10,000 x 10,000 is 1e-8)


def giou_loss(boxes: TensorLike, target: TensorLike, *, reduction: Reduction = "mean") -> Tensor:
    """One minus the generalised intersection over union of boxes (..., 4) with target boxes of equal shape.

        loss = 1 - I / U + (C - U) / C      areas: I intersection, U union, C the smallest box around both

        gboxes = gloss (I dU / U^2 - dI / U + U dC / C^2 - dU / C)      dI, dU, dC: the areas' own derivatives,
        the length of a side by which an area grows as a corner moves. The same holds for gtarget.

    Boxes are (x_min, y_min, x_max, y_max), as fractions of the image. The loss goes from 0 (equal) over 1
    (side by side) towards 2 (far apart), so that boxes apart are drawn together too. U and C count as
    1e-9 at least: boxes without an area have finite losses and gradients.
    Predicted corners in the wrong order are put in order, as in the paper.
    reduction: "none" gives the losses (...), "sum", or "mean" over all boxes.
    Raises ValueError for unequal shapes, a last axis that isn't 4, targets with corners in the wrong order.
    Rezatofighi et al., Generalized Intersection over Union, 2019 (arXiv 1902.09630).

    >>> giou_loss([[0.0, 0.0, 0.5, 0.5]], [[0.25, 0.0, 0.75, 0.5]])
    Tensor(0.666666...)
    """
    check_reduction("giou_loss", reduction)
    boxes, target = same_shape("giou_loss", boxes, target, "boxes")
    _check_boxes(boxes, target)
    low, high = boxes[..., :2], boxes[..., 2:]
    in_order = ~(low.array > high.array)
    low, high = where(in_order, low, high), where(in_order, high, low)
    target_low, target_high = target[..., :2], target[..., 2:]

    intersection = _area(relu(minimum(high, target_high) - maximum(low, target_low)))
    union = _area(high - low) + _area(target_high - target_low) - intersection
    hull = _area(maximum(high, target_high) - minimum(low, target_low))
    giou = intersection / maximum(union, EPS) - (hull - union) / maximum(hull, EPS)
    return reduced(1 - giou, reduction)


def _area(size):
    """width * height of (..., 2)"""
    return size[..., 0] * size[..., 1]


def _check_boxes(boxes, target):
    if boxes.ndim == 0 or boxes.shape[-1] != 4:
        raise ValueError(
            f"giou_loss: boxes have the shape {boxes.shape}, but the last axis must be 4: "
            "x_min, y_min, x_max, y_max"
        )
    wrong = (target.array[..., :2] > target.array[..., 2:]).any(-1)
    if wrong.any():
        raise ValueError(
            f"giou_loss: target holds the box {target.array[wrong][0].tolist()}, whose minimum is above its "
            "maximum; boxes are (x_min, y_min, x_max, y_max), not (x, y, width, height)"
        )
