"""Random changes of samples: geometry moves image and mask alike, light changes the image alone.

A transformation is called with a sample (a tuple whose first part is the image) and a random generator, and
returns a new sample; it never writes into the one it got. Images are float32 (H, W, C) in [0, 1] and stay so.
"""
import numpy as np

from tinynet.data.loader import draw


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

    def __init__(self, dataset, *transforms):
        for transform in transforms:
            if not callable(transform):
                raise TypeError(f"Augmented: {transform!r} is no transformation; "
                                "give callables such as data.Flip()")
        self.dataset = dataset
        self.transforms = transforms
        self.classes = getattr(dataset, "classes", None)
        self.palette = getattr(dataset, "palette", None)
        self.ignore_index = getattr(dataset, "ignore_index", None)

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.dataset[index]

    def sample(self, index, rng):
        """The sample after the transformations, which draw from `rng` in turn."""
        sample = draw(self.dataset, index, rng)
        for transform in self.transforms:
            sample = transform(sample, rng)
        return sample


class Flip:
    """Mirrors left and right with probability p."""

    def __init__(self, p=0.5):
        if not 0 <= p <= 1:
            raise ValueError(f"Flip: p is {p}; give a probability from 0 to 1")
        self.p = p

    def __call__(self, sample, rng):
        if rng.random() >= self.p:
            return sample
        return move("Flip", sample, image=_mirrored, mask=_mirrored)


class Crop:
    """Cuts a window of `size` (an int or (h, w)) at a random place, the same from image and mask.

    An image that is smaller first gets margins, their widths random too: the image's mean colour, and
    `ignore_index` in the mask. Without an ignore_index a mask that is too small raises ValueError.
    """

    def __init__(self, size, ignore_index=None):
        self.size = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 1:
            raise ValueError(f"Crop: size is {size}; give a number of pixels, or a pair (h, w), from 1 up")
        self.ignore_index = ignore_index

    def __call__(self, sample, rng):
        height, width = sample[0].shape[:2]
        (top, above, below), (left, before, behind) = (
            _window(have, want, rng) for have, want in zip((height, width), self.size, strict=True))
        margins = ((above, below), (before, behind))
        padded = above + below + before + behind > 0

        def cut(part):
            return part[top:top + self.size[0], left:left + self.size[1]]

        def image(part):
            return cut(_framed(part, margins, part.mean((0, 1))) if padded else part)

        def mask(part):
            if padded and self.ignore_index is None:
                raise ValueError(f"Crop: the mask, {part.shape}, is smaller than the window {self.size}; "
                                 "give an ignore_index for its margin, or a smaller size")
            return cut(_framed(part, margins, self.ignore_index) if padded else part)

        return move("Crop", sample, image, mask)


class Scale:
    """Resizes by a random factor from `low` to `high`: the image bilinearly, the mask to the nearest pixel.

    Pixel i of n' covers the place (i + 1/2) n / n' - 1/2 of n in both, so that the mask stays on the image.
    Sizes then differ from sample to sample: let a Crop follow.
    """

    def __init__(self, low, high):
        if not 0 < low <= high:
            raise ValueError(f"Scale: the factors are low {low}, high {high}; give 0 < low <= high")
        self.low, self.high = low, high

    def __call__(self, sample, rng):
        factor = rng.uniform(self.low, self.high)
        size = tuple(max(1, round(n * factor)) for n in sample[0].shape[:2])

        def image(part):
            return resize_bilinear(part, size)

        def mask(part):
            return resize_nearest(part, size)

        return move("Scale", sample, image, mask)


class Brightness:
    """image <- clip(image b, 0, 1) with b drawn from [1 - amount, 1 + amount]."""

    def __init__(self, amount):
        self.amount = _check_amount("Brightness", amount)

    def __call__(self, sample, rng):
        factor = float(rng.uniform(1 - self.amount, 1 + self.amount))
        return (np.clip(sample[0] * factor, 0, 1), *sample[1:])


class Contrast:
    """image <- clip(m + (image - m) c, 0, 1), m its mean, with c drawn from [1 - amount, 1 + amount]."""

    def __init__(self, amount):
        self.amount = _check_amount("Contrast", amount)

    def __call__(self, sample, rng):
        factor = float(rng.uniform(1 - self.amount, 1 + self.amount))
        mean = float(sample[0].mean())
        return (np.clip(sample[0] * factor + mean * (1 - factor), 0, 1), *sample[1:])


def move(name, sample, image, mask):
    """Applies one movement to a sample: `image` to float images (H, W, C), `mask` to integer masks (H, W).

    A single number (a class label) stays as it is. Anything else raises TypeError: a part that the movement
    does not know must not be left behind in silence.
    """
    size = np.shape(sample[0])[:2]
    moved = []
    for position, part in enumerate(sample):
        shape = np.shape(part)
        if len(shape) == 3 and shape[:2] == size and part.dtype.kind == "f":
            moved.append(image(part))
        elif len(shape) == 2 and shape == size and part.dtype.kind in "iu":
            moved.append(mask(part))
        elif shape == () and position > 0:
            moved.append(part)
        else:
            kind = getattr(part, "dtype", type(part).__name__)
            raise TypeError(f"{name}: part {position} of the sample is {kind} of shape {shape}; it moves "
                            f"float images (H, W, C) and integer masks (H, W), here of size {size}, and "
                            "keeps single labels")
    return tuple(moved)


def resize_bilinear(image, size):
    """The image (H, W, C) at another size (h, w): each pixel a mean of four, weighted by nearness.

    One axis after the other. Shrinking does not smooth first, so from a factor of about 1/2 down fine
    patterns alias.
    """
    height, width, channels = image.shape
    low, high, weight = _between(height, size[0], image.dtype)
    flat = np.ascontiguousarray(image).reshape(height, width * channels)
    rows = flat[low]
    rows += (flat[high] - rows) * weight[:, None]
    # Channels count as columns from here on: NumPy is slow where the innermost axis has length 3.
    low, high, weight = _between(width, size[1], image.dtype)
    low, high = ((columns[:, None] * channels + np.arange(channels)).ravel() for columns in (low, high))
    resized = rows.take(low, axis=1)
    resized += (rows.take(high, axis=1) - resized) * weight.repeat(channels)
    np.clip(resized, 0, 1, out=resized)              # rounding may go past 1 by one unit in the last place
    return resized.reshape(*size, channels)


def resize_nearest(mask, size):
    """The mask (H, W) at another size (h, w): each pixel that of its nearest neighbour."""
    return mask[_nearest(mask.shape[0], size[0])][:, _nearest(mask.shape[1], size[1])]


def _nearest(old, new):
    """For each of `new` pixels: its nearest neighbour among `old`."""
    return (2 * np.arange(new) + 1) * old // (2 * new)


def _between(old, new, dtype):
    """For each of `new` pixels: its two neighbours among `old` and the weight of the second."""
    place = np.clip((np.arange(new) + 0.5) * (old / new) - 0.5, 0, old - 1)
    low = place.astype(np.intp)
    return low, np.minimum(low + 1, old - 1), (place - low).astype(dtype)


def _window(have, want, rng):
    """Along one axis: where the window starts, and the margins before and behind that make it fit."""
    slack = have - want
    offset = int(rng.integers(abs(slack) + 1))
    return (offset, 0, 0) if slack >= 0 else (0, offset, -slack - offset)


def _framed(part, margins, value):
    (above, below), (before, behind) = margins
    height, width = part.shape[:2]
    framed = np.empty((above + height + below, before + width + behind, *part.shape[2:]), part.dtype)
    framed[...] = value
    framed[above:above + height, before:before + width] = part
    return framed


def _mirrored(part):
    return part[:, ::-1]


def _check_amount(name, amount):
    if not 0 <= amount <= 1:
        raise ValueError(f"{name}: amount is {amount}; give a number from 0 (no change) to 1")
    return amount
