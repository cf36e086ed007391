"""What is computed from weights before they are used, kept for as long as they stay the same.

Winograd's way needs the weights transformed. For a batch that takes next to no time; for a single image it can take as
long as the convolution. In training the weights change at each step. But in evaluation they are the same each time, and
then the transformed ones are, too.

How to know that they are the same? Anybody may write into an array, at any time, without telling. So nothing is
assumed: a copy of the weights is kept, too, and compared, all of it, which takes less than to transform them. To
keep something for each training step in vain would cost memory, so a result is kept only when the same weights come a
second time, as far as a sample of them tells. Until then, what uses it may compute it in passing: `known`.

What nn/fusion.py makes of weights and a normalisation's statistics is kept, too: then all of these count. And weights
that come from here, into which nobody writes, need not be compared: the same array has the same values.
"""

import os
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np

from tinynet.kernels.memory import settled
from tinynet.typing import Array

MOST_BYTES = 1 << 26            # of all that is kept
MOST_SAMPLES = 256              # of weights that came once
SAMPLE = 64                     # numbers


class Prepared:
    """The results, those used last at the end."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.samples = OrderedDict()    # key -> None
        self.results = OrderedDict()    # key -> (a copy of the weights, the result, bytes of both)
        self.given = set()              # the ids of all arrays in these results
        self.bytes = 0

    def get(self, compute: Callable[..., Any], w: Array, *others: Any) -> Any:
        """compute(w, *others): an array, or a tuple of arrays, that nobody may write into.

        w: an array of any shape; others: small arrays, numbers, classes or None.

        >>> prepared = Prepared()
        >>> w = np.ones(3, np.float32)
        >>> doubled = [prepared.get(lambda w: 2 * w, w) for _ in range(3)]
        >>> w[0] = 5
        >>> doubled[1] is doubled[2], prepared.get(lambda w: 2 * w, w)[0] == 10
        (False, np.True_)
        """
        result = self.known(compute, w, *others)
        return compute(w, *others) if result is None else result

    def known(self, compute: Callable[..., Any], w: Array, *others: Any) -> Any:
        """As get; but None if these weights didn't come before, for those who can compute it better in passing."""
        is_own = id(w) in self.given
        if is_own:
            key = compute, id(w), *map(_exactly, others)
        else:
            bits = np.ascontiguousarray(w).reshape(-1).view(f"u{w.itemsize}")    # for -0 is not 0, and NaN is NaN
            sample = bits[::max(1, bits.size // SAMPLE)].tobytes()
            key = compute, w.shape, w.dtype, sample, *map(_exactly, others)
        with self.lock:
            entry = self.results.get(key)
            if entry is not None:
                self.results.move_to_end(key)
        if entry is not None and (is_own or (entry[0] == bits).all()):
            return entry[1]
        with self.lock:
            if key not in self.samples:
                self.samples[key] = None
                if len(self.samples) > MOST_SAMPLES:
                    self.samples.popitem(last=False)
                return None
        result = compute(w, *others)
        with self.lock:
            return self._kept(key, w if is_own else bits.copy(), result)

    def _kept(self, key, w, result):
        """The result, which is kept from now on, but for one that is too large"""
        if key in self.results:
            self._drop(key)
        size = w.nbytes + sum(array.nbytes for array in _arrays(result))
        if size > MOST_BYTES:
            return result
        result = tuple(map(settled, result)) if isinstance(result, tuple) else settled(result)
        self.results[key] = w, result, size
        self.given.update(map(id, _arrays(result)))
        self.bytes += size
        while self.bytes > MOST_BYTES:
            self._drop(next(iter(self.results)))
        return result

    def _drop(self, key):
        _, result, size = self.results.pop(key)
        self.given.difference_update(map(id, _arrays(result)))
        self.bytes -= size


def _arrays(result):
    return result if isinstance(result, tuple) else (result,)


def _exactly(value):
    """What tells a value from all others: of an array, its bytes."""
    return (value.dtype, value.tobytes()) if isinstance(value, np.ndarray) else value


prepared = Prepared()

if hasattr(os, "register_at_fork"):
    # Empty, with a new lock: another thread, which isn't in the child, may have held the old one.
    os.register_at_fork(after_in_child=prepared.__init__)
