"""What a profile writes down: spans of time, and accounts, each for an op in its place, to which they are booked."""

from __future__ import annotations

import collections
from typing import NamedTuple

import numpy as np

from tinynet.typing import Array

CHUNK = 1 << 15  # numbers whose squares are added up in their own dtype; these sums in Python's


class Place(NamedTuple):
    """Whose op it is."""

    root: object  # the outermost module around it; None outside modules
    path: str  # of the innermost in the outermost
    kind: str  # the class of the innermost, with those of the layers that it does too


OUTSIDE_MODULES = Place(None, "", "")


class Account:
    """What is known of an op in its place: sums over all its runs."""

    def __init__(self, place: Place, op: str) -> None:
        self.place, self.op = place, op  # op: what it does; "" for the Python code of a module
        self.runs = 0
        self.forward = self.backward = 0  # nanoseconds
        self.multiply_adds, self.backward_multiply_adds = 0, 0
        self.kept = 0  # bytes
        self.gradients = [0.0, 0]  # of the output's gradients: the sum of their squares, and how many numbers
        self.weights = [0.0, 0]  # of the weights' gradients
        self.dead = {}  # channels -> for each whether a ReLU has given only zeros so far

    def note_gradient(self, gy: Array) -> None:
        _add_squares(self.gradients, gy)

    def note_weights_gradient(self, gw: Array) -> None:
        _add_squares(self.weights, gw)

    def note_zeros(self, y: Array) -> None:
        """Which channels of the output of a ReLU are zero for all inputs seen so far? (NaN isn't.)"""
        if not y.size:
            return
        rows = y.reshape(-1, y.shape[-1] if y.ndim else 1)
        dead = self.dead.setdefault(rows.shape[1], np.ones(rows.shape[1], bool))
        start, count = 0, 64  # most channels show soon that they live: then there is little to look at
        while start < len(rows) and dead.any():
            dead[dead] = ~rows[start : start + count, dead].any(0)
            start, count = start + count, 2 * count


def _add_squares(sums, array):
    numbers = array.reshape(-1)
    with np.errstate(all="ignore"):
        for start in range(0, numbers.size, CHUNK):
            few = numbers[start : start + CHUNK]
            sums[0] += float(np.einsum("i,i->", few, few))
    sums[1] += numbers.size


class Span:
    """A stretch of time."""

    __slots__ = ("name", "kind", "place", "account", "outer", "start", "end", "inside", "counts", "notes")

    def __init__(self, name: str, kind: str, place: Place, account: Account | None, outer: Span | None,
                 start: int) -> None:
        self.name, self.kind, self.place, self.account, self.outer = name, kind, place, account, outer
        self.start = self.end = start
        self.inside = 0  # nanoseconds of the spans inside it, and of the profile's work for them
        self.counts = collections.Counter()  # of a module's ops by name: the second Add is another than the first
        self.notes = {}  # for the timeline

    @property
    def own(self) -> int:
        return self.end - self.start - self.inside
