"""How good a prediction is: confusion matrix of classes, PSNR of images, IoU of boxes, accuracy of labels."""

import math

import numpy as np

from tinynet.tensor import Tensor


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

    def __init__(self, num_classes, ignore_index=None, names=None):
        if isinstance(num_classes, bool) or not isinstance(num_classes, (int, np.integer)):
            raise TypeError(f"ConfusionMatrix: num_classes is {num_classes!r}, but must be an integer")
        if num_classes < 1:
            raise ValueError(f"ConfusionMatrix: num_classes is {num_classes}, but must be at least 1")
        if names is not None and len(names) != num_classes:
            raise ValueError(f"ConfusionMatrix: {len(names)} names for {num_classes} classes; give one each")
        self.num_classes = int(num_classes)
        self.ignore_index = ignore_index
        self.names = [str(name) for name in (range(num_classes) if names is None else names)]
        self.matrix = np.zeros((num_classes, num_classes), np.int64)

    def update(self, prediction, target):
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

    def pixel_accuracy(self):
        """The part of all pixels that were predicted right."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    def class_accuracy(self):
        """For each class, the part of its pixels predicted right (its recall); NaN if it has none."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(axis=1))

    def class_average(self):
        """The mean of class_accuracy over the classes that appear in the targets."""
        return _mean_of_known(self.class_accuracy())

    def iou(self):
        """For each class, intersection over union of prediction and target; NaN if it appears in neither."""
        right = np.diag(self.matrix)
        return _ratio(right, self.matrix.sum(axis=1) + self.matrix.sum(axis=0) - right)

    def mean_iou(self):
        """The mean of iou over the classes that appear in the targets or the predictions."""
        return _mean_of_known(self.iou())

    def __str__(self):
        width = max(len(name) for name in (*self.names, "class"))
        rows = zip(self.names, self.matrix.sum(axis=1), self.class_accuracy(), self.iou(), strict=True)
        mean = ("mean", self.matrix.sum(), self.class_average(), self.mean_iou())
        lines = [f"{'class':{width}}  {'pixels':>12}  accuracy     IoU"]
        lines += [f"{name:{width}}  {pixels:12,}  {_percent(accuracy):>8}  {_percent(iou):>6}"
                  for name, pixels, accuracy, iou in (*rows, mean)]
        return "\n".join([*lines, f"pixel accuracy {_percent(self.pixel_accuracy())}"])

    def __repr__(self):
        return f"ConfusionMatrix({self.num_classes} classes, {self.matrix.sum():,} pixels)"


def psnr(prediction, target, peak=1.0):
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


def box_iou(a, b):
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


def accuracy(prediction, target):
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


def _values(array):
    return array.data if isinstance(array, Tensor) else np.asarray(array)


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
