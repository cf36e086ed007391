"""Non-maximum suppression and average precision by their definitions, one box after the other."""

import math


def iou(a, b):
    width = max(0, min(a[2], b[2]) - max(a[0], b[0]))
    height = max(0, min(a[3], b[3]) - max(a[1], b[1]))
    both = width * height
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either else 0


def nms(boxes, scores, threshold, labels):
    """The indices of the boxes that overlap no kept one of their class too much, best first."""
    kept = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
        if all(labels[i] != labels[k] or iou(boxes[i], boxes[k]) <= threshold for k in kept):
            kept.append(i)
    return kept


def average_precision(images, k, threshold):
    """Class k's AP over images [(boxes, scores, labels, true_boxes, true_labels)]: at each score that occurs count
    the right boxes among those found with at least it; then take each step of the recall times the best
    precision
    at that recall or a higher one."""
    found, true = [], 0
    for boxes, scores, labels, true_boxes, true_labels in images:
        truths = [box for box, label in zip(true_boxes, true_labels, strict=True) if label == k]
        true += len(truths)
        taken = set()
        for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], i)):
            if labels[i] != k:
                continue
            overlaps = [iou(boxes[i], truth) for truth in truths]
            nearest = overlaps.index(max(overlaps)) if truths else None
            right = bool(truths) and overlaps[nearest] >= threshold and nearest not in taken
            if right:
                taken.add(nearest)
            found.append((scores[i], right))
    if not true:
        return math.nan
    points = [(0.0, 0.0)]
    for least in sorted({score for score, _ in found}, reverse=True):
        counted = [right for score, right in found if score >= least]
        points.append((sum(counted) / true, sum(counted) / len(counted)))
    area = 0.0
    for i in range(1, len(points)):
        step = points[i][0] - points[i - 1][0]
        area += step * max(precision for recall, precision in points if recall >= points[i][0])
    return area
