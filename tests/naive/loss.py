"""Losses by their definitions, one pixel, class or box at a time, in float64."""

import math

import numpy as np

from tests.naive.activation import sigmoid, softmax


def reduce(losses, reduction, count=None):
    """The losses, their sum, or their mean over `count` (their number, unless given)."""
    if reduction == "none":
        return losses
    total = sum(losses.reshape(-1))
    return total if reduction == "sum" else total / (losses.size if count is None else count)


def cross_entropy(logits, target, weight=None, ignore_index=None, label_smoothing=0.0, reduction="mean"):
    """-sum_k q_k w_k log p_k, where q is 1 - s on the target and s/K more on every class."""
    K = logits.shape[-1]
    weight = [1.0] * K if weight is None else weight
    losses, count = np.zeros(target.shape), 0.0
    for pixel in np.ndindex(target.shape):
        t = target[pixel]
        if t == ignore_index:
            continue
        powers = [math.exp(v) for v in logits[pixel]]
        for k in range(K):
            q = (1 - label_smoothing) * (k == t) + label_smoothing / K
            losses[pixel] -= q * weight[k] * math.log(powers[k] / sum(powers))
        count += weight[t]
    return reduce(losses, reduction, count)


def cross_entropy_gradient(logits, target, hard, soft):
    """d loss / d x_k = sum_j c_j (p_k - [j = k]) of each row, with c_j = hard_j [j = t] + soft_j; 0 where t < 0."""
    p, gradient = softmax(logits, -1), np.zeros(logits.shape)
    M, K = logits.shape
    for m in range(M):
        for k in range(K):
            for j in range(K if target[m] >= 0 else 0):
                c = hard[j] * (j == target[m]) + soft[j]
                gradient[m, k] += c * (p[m, k] - (j == k))
    return gradient


def binary_cross_entropy_with_logits(logits, target, weight=1.0, pos_weight=1.0, reduction="mean"):
    p = sigmoid(logits)
    losses = -weight * (pos_weight * target * np.log(p) + (1 - target) * np.log(1 - p))
    return reduce(losses, reduction)


def mse_loss(x, t, reduction="mean"):
    return reduce((x - t) ** 2, reduction)


def l1_loss(x, t, reduction="mean"):
    return reduce(np.abs(x - t), reduction)


def smooth_l1_loss(x, t, beta=1.0, reduction="mean"):
    losses = np.empty(x.shape)
    for i in np.ndindex(x.shape):
        d = abs(x[i] - t[i])
        losses[i] = d * d / (2 * beta) if d < beta else d - beta / 2
    return reduce(losses, reduction)


def dice_of_classes(logits, target, eps=1.0, ignore_index=None, reduction="mean"):
    p, K = softmax(logits, -1), logits.shape[-1]
    losses = np.empty(K)
    for k in range(K):
        overlap = predicted = true = 0.0
        for pixel in np.ndindex(target.shape):
            if target[pixel] != ignore_index:
                overlap += p[pixel][k] * (target[pixel] == k)
                predicted += p[pixel][k]
                true += target[pixel] == k
        losses[k] = 1 - (2 * overlap + eps) / (predicted + true + eps)
    return reduce(losses, reduction)


def dice_of_region(logits, target, eps=1.0):
    p = sigmoid(logits)
    return 1 - (2 * (p * target).sum() + eps) / (p.sum() + target.sum() + eps)


def giou_loss(boxes, target, reduction="mean"):
    losses = np.empty(boxes.shape[:-1])
    for i in np.ndindex(losses.shape):
        (a, b, c, d), (e, f, g, h) = boxes[i], target[i]
        intersection = max(0, min(c, g) - max(a, e)) * max(0, min(d, h) - max(b, f))
        union = (c - a) * (d - b) + (g - e) * (h - f) - intersection
        hull = (max(c, g) - min(a, e)) * (max(d, h) - min(b, f))
        losses[i] = 1 - intersection / union + (hull - union) / hull
    return reduce(losses, reduction)
