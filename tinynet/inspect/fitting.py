"""The shapes nearest to one that a model can't take: found by trying, since a dry run costs next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from tinynet.typing import Shape

FAR = 64  # pixels that height, width or both are changed by
NEAR = 8  # pixels that height and width are changed by independently
SQUARE = 256  # the largest side of square images tried
FEATURES = 4096  # the most features tried of rows
WANTED = 3
PATIENCE = 100  # tries without another find after the first


def shapes_that_fit(shapes: list[Shape], fits: Callable[[list[Shape]], bool]) -> list[list[Shape]]:
    """Up to three lists of shapes for which `fits` is true, the nearest first; the first input that can change does."""
    at = next((i for i, shape in enumerate(shapes) if len(shape) in (3, 4)), 0)
    found, failures = [], 0
    for candidate in _neighbours(shapes[at]):
        # images of one size stay of one size
        changed = [(s[0], *candidate[1:3], s[3]) if i != at and _same_size(s, shapes[at]) else s
                   for i, s in enumerate(shapes)]
        changed[at] = candidate
        if fits(changed):
            found.append(changed)
            failures = 0
            if len(found) == WANTED or candidate[1:3] == shapes[at][1:3]:
                break
        failures += 1
        if found and failures > PATIENCE:
            break
    return found


def _same_size(shape, other):
    return len(shape) == len(other) == 4 and shape[1:3] == other[1:3]


def _neighbours(shape):
    """Shapes like this one: with the batch axis that lacks, with other channels, of another size, nearest first."""
    if len(shape) == 3:
        yield 1, *shape
    elif len(shape) == 4:
        n, height, width, channels = shape
        yield from ((n, height, width, c) for c in range(1, 17) if c != channels)
        yield from ((n, h, w, channels) for _, _, h, w in sorted(
            (abs(h - height) + abs(w - width), h != height and w != width, h, w)  # rather one side than both
            for h, w in _sizes(height, width) - {(height, width)}))
    elif shape:
        others = (m for m in range(1, FEATURES + 1) if m != shape[-1])
        yield from ((*shape[:-1], m) for m in sorted(others, key=lambda m: abs(m - shape[-1])))


def _sizes(height, width):
    """Sizes worth a try: near ones, one side or both changed alike, squares, multiples of powers of two."""
    far, near = range(-FAR, FAR + 1), range(-NEAR, NEAR + 1)
    sizes = {(height + d * a, width + d * b) for d in far for a, b in ((0, 1), (1, 0), (1, 1))}
    sizes |= {(height + a, width + b) for a, b in product(near, near)}
    sizes |= {(s, s) for s in range(1, SQUARE + 1)}
    for power in (16, 32, 64):
        sizes |= set(product(*({n // power * power, -(-n // power) * power} for n in (height, width))))
    return {(h, w) for h, w in sizes if h > 0 and w > 0}
