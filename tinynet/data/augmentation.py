"""Random changes of samples: geometry moves image, mask and boxes alike, light changes the image alone.

A transformation is called with a sample (a tuple whose first part is the image) and a random generator, and
returns a new sample; it never writes into the one it got. Images are float32 (H, W, C) in [0, 1] and stay so.
Boxes are (x_min, y_min, x_max, y_max) in fractions of the image: (4,) for one object, or (n, 4) for many, with
labels (n,) behind them.
"""
from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from tinynet.data.loader import Dataset, Sample, draw
from tinynet.typing import Array, Pair, Random

BAND = 32           # rows that are resized at once: what lies between stays in the cache (2 to 4 times as fast)
KEPT = 1 / 4        # of many objects, those stay of whose box the image still shows this share


Transform = Callable[[Sample, Random], Sample]


class Augmented:
    """A dataset whose `sample(index, rng)` is the wrapped one's after all transformations, first to last.

    `augmented[index]` is the sample as it is, since an index alone holds no randomness;
    DataLoader calls `sample`.
    `classes`, `palette` and `ignore_index` are the wrapped dataset's. Raises TypeError for what cannot be
    called.

    >>> plain = [(np.zeros((4, 6, 3), np.float32), np.zeros((4, 6), np.uint8))]
    >>> augmented = Augmented(plain, Flip(), Crop(4))
    >>> [part.shape for part in augmented.sample(0, np.random.default_rng(0))]
    [(4, 4, 3), (4, 4)]
    """

    def __init__(self, dataset: Dataset, *transforms: Transform) -> None:
        for transform in transforms:
            if not callable(transform):
                raise TypeError(f"Augmented: {transform!r} is no transformation; "
                                "give callables such as data.Flip()")
        self.dataset = dataset
        self.transforms = transforms
        self.classes = getattr(dataset, "classes", None)
        self.palette = getattr(dataset, "palette", None)
        self.ignore_index = getattr(dataset, "ignore_index", None)

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Sample:
        return self.dataset[index]

    def sample(self, index: int, rng: Random) -> Sample:
        """The sample after the transformations, which draw from `rng` in turn."""
        sample = draw(self.dataset, index, rng)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class Flip:
    """Mirrors left and right with probability p."""

    def __init__(self, p: float = 0.5) -> None:
        if not 0 <= p <= 1:
            raise ValueError(f"Flip: p is {p}; give a probability from 0 to 1")
        self.p = p

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        if rng.random() >= self.p:
            return sample
        return move("Flip", sample, _mirrored, _mirrored, _mirrored_boxes)


class Crop:
    """Cuts a window of `size` (an int or (h, w)) at a random place, the same from image and mask.

    scale: (low, high), between which a random factor is drawn, by which the image is resized before: what Scale does,
    but only what the window shows is computed, which takes half the time.

    An image that is smaller then gets margins, their widths random too: the image's mean colour, and
    `ignore_index` in the mask. Without an ignore_index a mask that is too small raises ValueError.

    Boxes are cut off at the window's border. Of many, those of which less than 1/4 is left go, with their
    labels; one alone that has gone raises ValueError: for samples of one object there is Zoom.

    >>> sample = np.zeros((8, 8, 3), np.float32), np.zeros((8, 8), np.uint8)
    >>> [part.shape for part in Crop(6, scale=(0.8, 1.25))(sample, np.random.default_rng(0))]
    [(6, 6, 3), (6, 6)]
    """

    def __init__(self, size: Pair, ignore_index: int | None = None, scale: tuple[float, float] | None = None) -> None:
        self.size = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Crop: size is {size}; give a number of pixels, or a pair (h, w), from 1 up")
        self.ignore_index = ignore_index
        self.scale = None if scale is None else _check_factors("Crop", *scale)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        old = sample[0].shape[:2]
        height, width = new = old if self.scale is None else _scaled(old, self.scale, rng)
        (top, above, below), (left, before, behind) = (
            _window(have, want, rng) for have, want in zip(new, self.size, strict=True))
        margins = ((above, below), (before, behind))
        seen = self.size[0] - above - below, self.size[1] - before - behind
        rows, columns = ((first * n / m, (first + count) * n / m)      # of the image as it was
                         for first, count, n, m in zip((top, left), seen, old, new, strict=True))

        def cut(part, resize):
            if new == old:
                return part[top:top + seen[0], left:left + seen[1]]
            return resize(part, seen, rows, columns)

        def image(part):
            shown = cut(part, resize_bilinear)
            return shown if seen == self.size else _framed(shown, margins, part.mean((0, 1)))

        def mask(part):
            if seen != self.size and self.ignore_index is None:
                raise ValueError(f"Crop: the mask, {new}, is smaller than the window {self.size}; "
                                 "give an ignore_index for its margin, or a smaller size")
            shown = cut(part, resize_nearest)
            return shown if seen == self.size else _framed(shown, margins, self.ignore_index)

        def boxes(part):
            pixels = part * _corners(width, height) + _corners(before - left, above - top)
            return pixels / _corners(self.size[1], self.size[0])

        return move("Crop", sample, image, mask, boxes)


class Scale:
    """Resizes by a random factor from `low` to `high`: the image bilinearly, the mask to the nearest pixel.

    Pixel i of n' covers the place (i + 1/2) n / n' - 1/2 of n in both, so that the mask stays on the image.
    Sizes then differ from sample to sample; Crop(size, scale=(low, high)) does both.
    """

    def __init__(self, low: float, high: float) -> None:
        self.factors = _check_factors("Scale", low, high)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        size = _scaled(sample[0].shape[:2], self.factors, rng)

        def image(part):
            return resize_bilinear(part, size)

        def mask(part):
            return resize_nearest(part, size)

        return move("Scale", sample, image, mask, np.copy)      # fractions stay what they are


class Zoom:
    """Looks closer: a random window with at least `keep` of the object, resized to the image's own size.

    The window's area is a share of the image's drawn from [smallest, 1], its width is to its height as the
    image's, times a factor from 1 / aspect to aspect; its place is random too. Of ten draws the first that
    shows `keep` of the box's area counts (of many boxes: of one chosen at random, the others being cut or
    left out as by Crop); if none does, the sample stays. Without boxes the first draw counts.

    So that each epoch shows an object at another place and in another size: what a detector must not take
    for granted. Szegedy et al., Going deeper with convolutions, CVPR 2015, section 6 (without regard for
    boxes); Liu et al., SSD, ECCV 2016 (with).

    >>> sample = np.zeros((8, 8, 3), np.float32), np.array([0.5, 0.5, 1, 1], np.float32), 7
    >>> image, box, label = Zoom(smallest=0.3)(sample, np.random.default_rng(0))
    >>> image.shape, box.round(2), label
    ((8, 8, 3), array([0.5 , 0.45, 1.  , 1.  ], dtype=float32), 7)
    """

    DRAWS = 10

    def __init__(self, smallest: float = 0.4, aspect: float = 4 / 3, keep: float = 0.7) -> None:
        for name, value in (("smallest", smallest), ("keep", keep)):
            if not 0 < value <= 1:
                raise ValueError(f"Zoom: {name} is {value}; give a share above 0, up to 1")
        if not aspect >= 1:
            raise ValueError(f"Zoom: aspect is {aspect}; give a number from 1 (always the image's own) up")
        self.smallest, self.aspect, self.keep = smallest, aspect, keep

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        window = self._window(sample, rng)
        if window is None:
            return sample
        left, top, right, bottom = window
        height, width = size = sample[0].shape[:2]
        rows, columns = (top * height, bottom * height), (left * width, right * width)

        def image(part):
            return resize_bilinear(part, size, rows, columns)

        def mask(part):
            return resize_nearest(part, size, rows, columns)

        def boxes(part):
            return (part - _corners(left, top)) / _corners(right - left, bottom - top)

        return move("Zoom", sample, image, mask, boxes)

    def _window(self, sample, rng):
        """(left, top, right, bottom) in fractions of the image, or None where no draw keeps the object."""
        boxes = [part.reshape(-1, 4) for part in sample if _are_boxes(part) and part.size]
        box = boxes[0][rng.integers(len(boxes[0]))] if boxes else None
        for _ in range(self.DRAWS):
            area = rng.uniform(self.smallest, 1)
            stretch = self.aspect ** rng.uniform(-1, 1)
            width, height = min(1.0, math.sqrt(area * stretch)), min(1.0, math.sqrt(area / stretch))
            left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
            window = left, top, left + width, top + height
            if box is None or _shown(box, window) >= self.keep:
                return window
        return None


class Brightness:
    """image <- clip(image b, 0, 1) with b drawn from [1 - amount, 1 + amount]."""

    def __init__(self, amount: float) -> None:
        self.amount = _check_amount("Brightness", amount)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        factor = float(rng.uniform(1 - self.amount, 1 + self.amount))
        return (_lit(sample[0], factor, 0.0), *sample[1:])


class Contrast:
    """image <- clip(m + (image - m) c, 0, 1), m its mean, with c drawn from [1 - amount, 1 + amount]."""

    def __init__(self, amount: float) -> None:
        self.amount = _check_amount("Contrast", amount)

    def __call__(self, sample: Sample, rng: Random) -> Sample:
        factor = float(rng.uniform(1 - self.amount, 1 + self.amount))
        mean = float(sample[0].mean())
        return (_lit(sample[0], factor, mean * (1 - factor)), *sample[1:])


def _lit(image, factor, offset):
    """clip(image factor + offset, 0, 1)"""
    lit = image * factor
    lit += offset
    return np.clip(lit, 0, 1, out=lit)


def move(name: str, sample: Sample, image: Callable[[Array], Array], mask: Callable[[Array], Array],
         boxes: Callable[[Array], Array]) -> Sample:
    """Applies one movement to a sample, by a function for each kind of part.

    - image: float images (H, W, C); mask: integer masks (H, W).
    - boxes: float boxes (4,) or (n, 4), as fractions; it may put them beyond the border, where they are cut.
      Of n boxes those of which less than 1/4 is left go, with their entries of labels (n,).

    A single number (a class label) stays as it is. Anything else raises TypeError: a part that the movement
    does not know must not be left behind in silence. One box that is left with no area raises ValueError.
    """
    size = np.shape(sample[0])[:2]
    old = next((part for part in sample if _are_boxes(part)), None)
    new, kept = (None, None) if old is None else _cut(name, boxes(old).astype(old.dtype, copy=False))
    moved = []
    for position, part in enumerate(sample):
        shape, dtype = np.shape(part), np.asarray(part).dtype
        if part is old is not None:
            moved.append(new if old.ndim == 1 else new[kept])
        elif len(shape) == 3 and shape[:2] == size and dtype.kind == "f":
            moved.append(image(part))
        elif len(shape) == 2 and shape == size and dtype.kind in "iu":
            moved.append(mask(part))
        elif np.ndim(old) == 2 and shape == old.shape[:1] and dtype.kind in "iu":
            moved.append(part[kept])
        elif shape == () and position > 0:
            moved.append(part)
        else:
            raise TypeError(f"{name}: part {position} of the sample is {dtype} of shape {shape}; it moves "
                            f"float images (H, W, C) and integer masks (H, W), here of size {size}, and float "
                            "boxes (4,) or (n, 4) with integer labels (n,), and keeps single labels")
    return tuple(moved)


def _are_boxes(part):
    return isinstance(part, np.ndarray) and part.ndim in (1, 2) and part.shape[-1] == 4 and part.dtype.kind == "f"


def _cut(name, boxes):
    """The boxes cut at the image's border, and which of them still show enough of themselves."""
    inside = np.clip(boxes, 0, 1)
    kept = _area(inside) >= KEPT * _area(boxes)
    if boxes.ndim == 1 and not _area(inside) > 0:
        raise ValueError(f"{name}: the sample's only box has moved out of the image; choose the window by the "
                         "box, as data.Zoom does")
    return inside, kept & (_area(inside) > 0)


def _shown(box, window):
    """The share of a box's area that lies in the window."""
    low, high = np.maximum(box[:2], window[:2]), np.minimum(box[2:], window[2:])
    return float(np.prod(np.maximum(high - low, 0)) / _area(box))


def _area(boxes):
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def _corners(x, y):
    """What is added to or multiplies both corners of a box."""
    return np.array((x, y, x, y), np.float32)


def resize_bilinear(image: Array, size: tuple[int, int], rows: tuple[float, float] | None = None,
                    columns: tuple[float, float] | None = None) -> Array:
    """The image (H, W, C) at another size (h, w): each pixel a mean of four, weighted by nearness.

    rows, columns: the window (first, end) to be taken, in pixels, broken ones too; by default all of them.
    One axis after the other. Shrinking does not smooth first, so from a factor of about 1/2 down fine
    patterns alias.
    """
    height, width, channels = image.shape
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    above, below, down = _between(height, size[0], rows, image.dtype)
    left, right, across = _between(width, size[1], columns, image.dtype)
    # Channels count as columns from here on: NumPy is slow where the innermost axis has length 3.
    left, right = ((places[:, None] * channels + np.arange(channels)).ravel() for places in (left, right))
    across = across.repeat(channels)
    resized = np.empty((size[0], size[1] * channels), image.dtype)
    for first in range(0, size[0], BAND):
        band = slice(first, first + BAND)
        stretched = _mixed(flat, above[band], below[band], down[band, None], 0)
        # rounding may go past 1 by one unit in the last place
        np.clip(_mixed(stretched, left, right, across, 1), 0, 1, out=resized[band])
    return resized.reshape(*size, channels)


def _mixed(image, first, second, weight, axis):
    """The image's lines `first` plus `weight` times what `second` have more"""
    mixed, difference = image.take(first, axis), image.take(second, axis)
    difference -= mixed
    difference *= weight
    mixed += difference
    return mixed


def resize_nearest(mask: Array, size: tuple[int, int], rows: tuple[float, float] | None = None,
                   columns: tuple[float, float] | None = None) -> Array:
    """The mask (H, W) at another size (h, w): each pixel that of its nearest neighbour."""
    return mask[_nearest(mask.shape[0], size[0], rows)][:, _nearest(mask.shape[1], size[1], columns)]


def _nearest(old, new, window):
    """For each of `new` pixels: its nearest neighbour among `old`, within the window."""
    if window is None:
        return (2 * np.arange(new) + 1) * old // (2 * new)
    first, end = window
    return np.clip(first + (np.arange(new) + 0.5) * ((end - first) / new), 0, old - 1).astype(np.intp)


def _between(old, new, window, dtype):
    """For each of `new` pixels: its two neighbours among `old` and the weight of the second."""
    first, end = window or (0, old)
    place = np.clip(first + (np.arange(new) + 0.5) * ((end - first) / new) - 0.5, 0, old - 1)
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (place - low).astype(dtype)


def _window(have, want, rng):
    """Along one axis: where the window starts, and the margins before and behind that make it fit."""
    slack = have - want
    offset = int(rng.integers(abs(slack) + 1))
    return (offset, 0, 0) if slack >= 0 else (0, offset, -slack - offset)


def _scaled(size, factors, rng):
    """(h, w) times a factor drawn between these two"""
    factor = rng.uniform(*factors)
    return tuple(max(1, round(n * factor)) for n in size)


def _framed(part, margins, value):
    (above, below), (before, behind) = margins
    height, width = part.shape[:2]
    framed = np.empty((above + height + below, before + width + behind, *part.shape[2:]), part.dtype)
    framed[...] = value
    framed[above:above + height, before:before + width] = part
    return framed


def _mirrored(part):
    return part[:, ::-1]


def _mirrored_boxes(part):
    """x_min becomes 1 - x_max and the reverse."""
    return np.stack([1 - part[..., 2], part[..., 1], 1 - part[..., 0], part[..., 3]], axis=-1)


def _check_factors(name, low, high):
    if not 0 < low <= high:
        raise ValueError(f"{name}: the factors are low {low}, high {high}; give 0 < low <= high")
    return low, high


def _check_amount(name, amount):
    if not 0 <= amount <= 1:
        raise ValueError(f"{name}: amount is {amount}; give a number from 0 (no change) to 1")
    return amount
