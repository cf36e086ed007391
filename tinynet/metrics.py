"""How good a prediction is: of pixels' classes, of images, of labels, and of boxes, one or many an image."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from tinynet.tensor import Tensor, TensorLike
from tinynet.typing import Array


class ConfusionMatrix:
    """Counts of (target class, predicted class) over any number of pixels, and what follows from them.

    With n[t, p] the pixels of class t that were predicted as p (`matrix`, int64):

    pixel accuracy    sum_c n[c, c] / sum n
    class accuracy    n[c, c] / sum_p n[c, p]                                   NaN for c absent from the
    targets
    IoU               n[c, c] / (sum_p n[c, p] + sum_t n[t, c] - n[c, c])       NaN for c absent from both

    class_average and mean_iou are the means over the classes that are not NaN: so a class that is predicted
    but appears in no target counts as IoU 0, and one that appears nowhere does not count. All are NaN while
    empty. Pixels whose target is ignore_index are left out, whatever was predicted there.

    >>> confusion = ConfusionMatrix(2, names=("sky", "tree"))
    >>> confusion.update(prediction=np.array([[0, 1], [1, 1]]), target=np.array([[0, 0], [1, 1]]))
    >>> print(confusion)
    class        pixels  accuracy     IoU
    sky               2     50.0%   50.0%
    tree              2    100.0%   66.7%
    mean              4     75.0%   58.3%
    pixel accuracy 75.0%
    """

    def __init__(self, num_classes: int, ignore_index: int | None = None, names: Sequence[str] | None = None) -> None:
        self.names = _class_names("ConfusionMatrix", num_classes, names)
        self.num_classes = int(num_classes)
        self.ignore_index = ignore_index
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction: TensorLike, target: TensorLike) -> None:
        """Adds the pixels of two integer arrays of equal shape.

        Raises TypeError for other dtypes, ValueError for shapes that differ or classes out of range; then
        nothing is counted.
        """
        prediction, target = _values(prediction), _values(target)
        for name, labels in (("prediction", prediction), ("target", target)):
            if labels.dtype.kind not in "iu":
                raise TypeError(f"ConfusionMatrix.update: {name} has dtype {labels.dtype}, but must be "
                                "integers; take .argmax(-1) of logits")
        _check_equal_shapes("ConfusionMatrix.update", prediction, target)
        if self.ignore_index is not None:
            counted = target != self.ignore_index
            prediction, target = prediction[counted], target[counted]
        for name, labels in (("prediction", prediction), ("target", target)):
            self._check_range(name, labels)
        pairs = target.ravel().astype(np.int64) * self.num_classes + prediction.ravel().astype(np.int64)
        self.matrix += np.bincount(pairs, minlength=self.num_classes**2).reshape(self.matrix.shape)

    def _check_range(self, name, labels):
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            wrong = labels[(labels < 0) | (labels >= self.num_classes)]
            hint = "; give ignore_index if it marks what does not count" if name == "target" else ""
            raise ValueError(f"ConfusionMatrix.update: {name} holds the class {wrong[0]} ({wrong.size} times "
                             f"out of range), but must be from 0 to {self.num_classes - 1}{hint}")

    def pixel_accuracy(self) -> float:
        """The part of all pixels that were predicted right."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    def class_accuracy(self) -> Array:
        """For each class, the part of its pixels predicted right (its recall); NaN if it has none."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    def class_average(self) -> float:
        """The mean of class_accuracy over the classes that appear in the targets."""
        return _mean_of_known(self.class_accuracy())

    def iou(self) -> Array:
        """For each class, intersection over union of prediction and target; NaN if it appears in neither."""
        right = np.diag(self.matrix)
        return _ratio(right, self.matrix.sum(axis=1) + self.matrix.sum(axis=0) - right)

    def mean_iou(self) -> float:
        """The mean of iou over the classes that appear in the targets or the predictions."""
        return _mean_of_known(self.iou())

    def __str__(self) -> str:
        width = max(len(name) for name in (*self.names, "class"))
        rows = zip(self.names, self.matrix.sum(axis=1), self.class_accuracy(), self.iou(), strict=True)
        mean = ("mean", self.matrix.sum(), self.class_average(), self.mean_iou())
        lines = [f"{'class':{width}}  {'pixels':>12}  accuracy     IoU"]
        lines += [f"{name:{width}}  {pixels:12,}  {_percent(accuracy):>8}  {_percent(iou):>6}"
                  for name, pixels, accuracy, iou in (*rows, mean)]
        return "\n".join([*lines, f"pixel accuracy {_percent(self.pixel_accuracy())}"])

    def __repr__(self) -> str:
        return f"ConfusionMatrix({self.num_classes} classes, {self.matrix.sum():,} pixels)"


def psnr(prediction: TensorLike, target: TensorLike, peak: float = 1.0) -> float:
    """The peak signal-to-noise ratio in decibels: 10 log10(peak^2 / mean (prediction - target)^2).

    The mean runs over everything given; Inf if the two are equal. peak is the largest value that an image can
    have: 1 for floats in [0, 1], 255 for bytes. Raises ValueError if the shapes differ or are empty.

    >>> psnr(np.full((8, 8), 0.6), np.full((8, 8), 0.5))
    20.0
    """
    prediction, target = _values(prediction), _values(target)
    _check_equal_shapes("psnr", prediction, target)
    if not target.size:
        raise ValueError(f"psnr: the images are empty, of shape {target.shape}")
    if not peak > 0:
        raise ValueError(f"psnr: peak is {peak}, but must be above 0")
    error = float(np.mean(np.square(prediction.astype(np.float64) - target)))
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def box_iou(a: TensorLike, b: TensorLike) -> Array:
    """Intersection over union of pairs of boxes (x_min, y_min, x_max, y_max): (..., 4) and (..., 4) to (...).

    A box whose maximum lies below its minimum has the area 0; two boxes of area 0 have the IoU 0. NaN
    travels. Raises ValueError if the shapes differ.

    >>> float(box_iou(np.array([0.0, 0.0, 0.5, 1.0]), np.array([0.0, 0.0, 1.0, 1.0])))
    0.5
    """
    a, b = _values(a), _values(b)
    _check_equal_shapes("box_iou", a, b, "a", "b")
    if not a.ndim or a.shape[-1] != 4:
        raise ValueError(f"box_iou: the boxes have shape {a.shape}, but must be (..., 4): x_min, y_min, "
                         "x_max, y_max")
    a, b = (boxes.astype(np.result_type(a, b, np.float32), copy=False) for boxes in (a, b))
    both = np.concatenate([np.maximum(a[..., :2], b[..., :2]), np.minimum(a[..., 2:], b[..., 2:])], axis=-1)
    intersection = _area(both)
    union = _area(a) + _area(b) - intersection
    return intersection / np.where(union == 0, 1, union).astype(union.dtype)


def nms(boxes: TensorLike, scores: TensorLike, threshold: float = 0.5, labels: TensorLike | None = None) -> Array:
    """Non-maximum suppression: of boxes on the same object only the best stays; their indices, best first.

    The box with the highest score is kept, all whose IoU with it is above `threshold` are dropped, and so on
    with those left. Of equal scores the one with the lower index goes first. boxes (n, 4), scores (n,); with
    `labels` (n,) a box drops only those of its own class. Raises ValueError for other shapes, and for scores
    that are NaN.

    >>> boxes = np.array([[0.0, 0.0, 0.5, 0.5], [0.0, 0.0, 0.5, 0.6], [0.5, 0.5, 1.0, 1.0]])
    >>> nms(boxes, np.array([0.6, 0.9, 0.7]))
    array([1, 2])
    """
    if not 0 <= threshold <= 1:
        raise ValueError(f"nms: threshold is {threshold}, but an IoU lies from 0 to 1")
    boxes, scores = _boxes("nms", "boxes", boxes), _per_box("nms", "scores", scores, boxes)
    labels = np.zeros(len(boxes), int) if labels is None else _per_box("nms", "labels", labels, boxes)
    kept, left = [], _best_first(scores)
    while left.size:
        best, left = left[0], left[1:]
        kept.append(best)
        iou = box_iou(np.broadcast_to(boxes[best], (len(left), 4)), boxes[left])
        left = left[(iou <= threshold) | (labels[left] != labels[best])]
    return np.array(kept, np.int64)


class AveragePrecision:
    """The area under each class's curve of precision over recall, as in Pascal VOC from 2010 on.

    A found box is right if its IoU with a true box of its class is at least `threshold`, and it is the first
    to find that one: in each image, from the best score down, a found box takes the true box that it overlaps
    most, and is wrong if that one is taken already. Over all images, of the boxes with at least some score:

    recall r = right / all true boxes     precision p = right / all found boxes
    AP = integral over r of max_{r' >= r} p(r')

    Boxes of equal score join the curve together, so that the order of the images makes no difference. A class
    without true boxes has the AP NaN; mean() is over the others.

    >>> precision = AveragePrecision(1, names=["dog"])
    >>> dog, elsewhere = [0.1, 0.1, 0.5, 0.5], [0.6, 0.6, 0.9, 0.9]
    >>> precision.update([dog, elsewhere], [0.8, 0.9], [0, 0], true_boxes=[dog], true_labels=[0])
    >>> print(precision)
    class        true   found    recall      AP
    dog             1       2    100.0%   50.0%
    mean            1       2    100.0%   50.0%

    M. Everingham et al., The Pascal Visual Object Classes challenge, IJCV 88(2), 2010.
    """

    def __init__(self, num_classes: int, threshold: float = 0.5, names: Sequence[str] | None = None) -> None:
        self.names = _class_names("AveragePrecision", num_classes, names)
        if not 0 < threshold <= 1:
            raise ValueError(f"AveragePrecision: threshold is {threshold}; give an IoU above 0, up to 1")
        self.num_classes = int(num_classes)
        self.threshold = threshold
        self.true = np.zeros(num_classes, np.int64)         # the number of true boxes of each class
        self._found = [[] for _ in range(num_classes)]      # of each class: (score, right?) of its finds

    def update(self, boxes: TensorLike, scores: TensorLike, labels: TensorLike, true_boxes: TensorLike,
               true_labels: TensorLike) -> None:
        """Adds an image: found boxes (n, 4), their scores and labels (n,), true boxes (m, 4) and labels (m,).

        Raises ValueError for shapes that do not fit, NaN and classes out of range, TypeError for labels that
        are no integers; then nothing is counted.
        """
        caller = "AveragePrecision.update"
        boxes, true_boxes = _boxes(caller, "boxes", boxes), _boxes(caller, "true_boxes", true_boxes)
        scores = _per_box(caller, "scores", scores, boxes)
        labels = self._classes(caller, "labels", labels, boxes)
        true_labels = self._classes(caller, "true_labels", true_labels, true_boxes)
        for k in np.union1d(labels, true_labels):
            mine = _best_first(scores, labels == k)
            right = _first_finds(boxes[mine], true_boxes[true_labels == k], self.threshold)
            self._found[k] += zip(scores[mine].tolist(), right, strict=True)
            self.true[k] += np.count_nonzero(true_labels == k)

    def _classes(self, caller, name, labels, boxes):
        labels = _per_box(caller, name, labels, boxes)
        if labels.size and labels.dtype.kind not in "iu":
            raise TypeError(f"{caller}: {name} has dtype {labels.dtype}, but must be integers; take "
                            ".argmax(-1) of logits")
        if labels.size and not 0 <= labels.min() <= labels.max() < self.num_classes:
            raise ValueError(f"{caller}: {name} holds classes from {labels.min()} to {labels.max()}, but "
                             f"must hold some from 0 to {self.num_classes - 1}")
        return labels.astype(np.int64)

    def curve(self, k: int) -> tuple[Array, Array]:
        """Class k's (recall, precision), float64 with a point for each score that occurs, best first."""
        table = np.array(sorted(self._found[k], reverse=True), np.float64).reshape(-1, 2)
        last = np.flatnonzero(np.diff(table[:, 0], append=np.nan) != 0)        # of those with equal scores
        right = table[:, 1].cumsum()[last]
        return _ratio(right, np.full(last.shape, self.true[k])), right / (last + 1)

    def average_precision(self) -> Array:
        """For each class the area under its curve, (num_classes,); NaN if it has no true boxes."""
        areas = []
        for k in range(self.num_classes):
            recall, precision = self.curve(k)
            envelope = np.maximum.accumulate(precision[::-1])[::-1]
            areas.append((np.diff(recall, prepend=0) * envelope).sum() if self.true[k] else np.nan)
        return np.array(areas)

    def recall(self) -> Array:
        """For each class, the part of its true boxes found with whatever score; NaN if it has none."""
        right = [sum(right for _, right in found) for found in self._found]
        return _ratio(right, self.true)

    def mean(self) -> float:
        """The mean average precision (mAP) over the classes that have true boxes; NaN if there is none."""
        return _mean_of_known(self.average_precision())

    def __str__(self) -> str:
        width = max(len(name) for name in (*self.names, "class"))
        found, recall = [len(found) for found in self._found], self.recall()
        rows = zip(self.names, self.true, found, recall, self.average_precision(), strict=True)
        mean = ("mean", self.true.sum(), sum(found), _mean_of_known(recall), self.mean())
        lines = [f"{'class':{width}}  {'true':>10}  {'found':>6}  {'recall':>8}  {'AP':>6}"]
        lines += [f"{name:{width}}  {true:10,}  {found:6,}  {_percent(recall):>8}  {_percent(area):>6}"
                  for name, true, found, recall, area in (*rows, mean)]
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"AveragePrecision({self.num_classes} classes, {self.true.sum():,} true boxes)"


def _best_first(scores, among=True):
    """The indices of the scores, those `among`, from the highest down; of equal ones the first goes first."""
    order = np.argsort(-scores.astype(np.float64), kind="stable")
    return order[np.broadcast_to(among, scores.shape)[order]]


def _first_finds(boxes, true_boxes, threshold):
    """For each box, best first: is the true box that it overlaps most near enough, and not found yet?"""
    n, m = len(boxes), len(true_boxes)
    if not m:
        return [False] * n
    iou = box_iou(np.broadcast_to(boxes[:, None], (n, m, 4)), np.broadcast_to(true_boxes, (n, m, 4)))
    taken, right = set(), []
    for row, nearest in zip(iou, iou.argmax(axis=1).tolist(), strict=True):
        right.append(bool(row[nearest] >= threshold) and nearest not in taken)
        if right[-1]:
            taken.add(nearest)
    return right


def accuracy(prediction: TensorLike, target: TensorLike) -> float:
    """The part of the labels that are right; prediction holds logits (..., K) or labels (...) as the target.

    >>> accuracy(np.array([[0.1, 0.9], [0.8, 0.2]]), np.array([1, 1]))
    0.5
    """
    prediction, target = _values(prediction), _values(target)
    if target.dtype.kind not in "iu" or not target.size:
        raise ValueError(f"accuracy: target is {target.dtype} of shape {target.shape}, but must be integer "
                         "labels, at least one")
    if prediction.shape != target.shape and prediction.shape[:-1] == target.shape and prediction.shape[-1]:
        prediction = prediction.argmax(axis=-1)
    elif prediction.dtype.kind not in "iu":
        raise ValueError(f"accuracy: prediction is {prediction.dtype} of shape {prediction.shape}; give "
                         f"logits {(*target.shape, 'K')} or integer labels {target.shape}")
    _check_equal_shapes("accuracy", prediction, target)
    return float(np.mean(prediction == target))


def _values(array: TensorLike) -> Array:
    return array.data if isinstance(array, Tensor) else np.asarray(array)


def _class_names(caller, num_classes, names):
    """The classes' names as strings, their numbers if there are no names."""
    if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
        raise TypeError(f"{caller}: num_classes is {num_classes!r}, but must be an integer")
    if num_classes < 1:
        raise ValueError(f"{caller}: num_classes is {num_classes}, but must be at least 1")
    if names is not None and len(names) != num_classes:
        raise ValueError(f"{caller}: {len(names)} names for {num_classes} classes; give one each")
    return [str(name) for name in (range(num_classes) if names is None else names)]


def _boxes(caller, name, boxes):
    """The boxes as an array (n, 4) without NaN; an empty list is none."""
    boxes = _values(boxes)
    boxes = boxes.reshape(0, 4) if boxes.shape == (0,) else boxes
    if boxes.ndim != 2 or boxes.shape[1] != 4:
        raise ValueError(f"{caller}: {name} has shape {boxes.shape}, but must be (n, 4): x_min, y_min, "
                         "x_max, y_max")
    return _without_nan(caller, name, boxes)


def _per_box(caller, name, values, boxes):
    """The values as an array (n,) without NaN, one for each of the n boxes."""
    values = _values(values)
    if values.shape != (len(boxes),):
        raise ValueError(f"{caller}: {name} has shape {values.shape}, but the {len(boxes)} boxes take "
                         f"({len(boxes)},)")
    return _without_nan(caller, name, values)


def _without_nan(caller, name, values):
    if np.isnan(values).any():
        raise ValueError(f"{caller}: {name} holds NaN, which cannot be put in order; look where it came from")
    return values


def _check_equal_shapes(caller, a, b, a_name="prediction", b_name="target"):
    if a.shape != b.shape:
        raise ValueError(f"{caller}: {a_name} has shape {a.shape}, {b_name} {b.shape}; they must be equal")


def _ratio(part, whole):
    """part / whole, NaN where whole is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.asarray(whole) > 0)


def _mean_of_known(values):
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def _percent(value):
    return "-" if math.isnan(value) else f"{100 * value:.1f}%"


def _area(boxes):
    """(..., 4) to (...): width times height, 0 for what is inside out."""
    return np.maximum(boxes[..., 2] - boxes[..., 0], 0) * np.maximum(boxes[..., 3] - boxes[..., 1], 0)
