"""Fair timing: contestants take turns in one process, after a check that they compute the same thing."""

import statistics
import time
from functools import partial
from typing import NamedTuple

import numpy as np

CALLS = 4  # timed calls in a turn, at least,
SECONDS = 0.1  # and so many that a turn lasts this long
PAUSE = 0.05  # before a turn: the threads of the one before, which wait for work in a busy loop, go to sleep


class Timing(NamedTuple):
    """How long one call took, in seconds, over all turns."""

    median: float
    least: float
    lower: float  # quartiles
    upper: float

    def __str__(self):
        median, least, lower, upper = (number(1e3 * t) for t in self)
        return f"{median} ({least}; {lower}-{upper})"


def alternate(contestants, turns, calls=CALLS, seconds=SECONDS):
    """{name: Timing} of {name: function without arguments}, in turns, so that a slow spell hits all."""
    return alternate_turns(
        {name: partial(turn, call, calls, seconds) for name, call in contestants.items()}, turns
    )


def alternate_turns(contestants, turns):
    """The same for {name: function that does a turn and gives its times}, which may be another process's."""
    times = {name: [] for name in contestants}
    for _ in range(turns):
        for name, take_turn in contestants.items():
            time.sleep(PAUSE)
            times[name] += take_turn()
    return {name: _summary(t) for name, t in times.items()}


def turn(call, calls=CALLS, seconds=SECONDS):
    """The times of a turn's calls. The first is not timed: it brings the data back into the caches."""
    call()
    times = []
    while len(times) < calls or sum(times) < seconds:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return times


def fastest_time(call, calls):
    """The least of so many calls' times."""
    return min(turn(call, calls, seconds=0))


def fastest(times, among):
    """The name with the least median among `among`."""
    return min(among, key=lambda name: times[name].median)


def _summary(times):
    lower, median, upper = statistics.quantiles(times, n=4, method="inclusive")
    return Timing(median, min(times), lower, upper)


def relative_error(a, b):
    """|a - b| / |b|, Euclidean norms, of two arrays, or of two lists of arrays taken as one vector each."""
    pairs = [[np.asarray(v, np.float64) for v in pair] for pair in zip(_listed(a), _listed(b), strict=True)]
    for x, y in pairs:
        if x.shape != y.shape:
            raise ValueError(f"relative_error: the arrays have the shapes {x.shape} and {y.shape}")
    difference = sum(np.square(x - y).sum() for x, y in pairs)
    return float(np.sqrt(difference / sum(np.square(y).sum() for _, y in pairs)))


def checked_error(what, a, b, most):
    """relative_error(a, b); ValueError if it exceeds `most`, as then two different things would be timed."""
    error = relative_error(a, b)
    if not error <= most:
        raise ValueError(
            f"{what}: the two sides' results differ by {error:.1e}; rounding may explain {most:.0e}"
        )
    return error


def _listed(value):
    return value if isinstance(value, (list, tuple)) else [value]


def number(x):
    """Three digits that count: 0.0123, 1.23, 12.3, 123, 1234."""
    return f"{x:.0f}" if x >= 99.95 else f"{x:#.3g}"


def small(x):
    """One digit that counts: 2e-07, or 0."""
    return f"{x:.0e}" if x else "0"


def table(*head):
    """The first two lines of a Markdown table: the first column to the left, the others to the right."""
    return [row(*head), "|---|" + "---:|" * (len(head) - 1)]


def row(*cells):
    """A line of a Markdown table."""
    return "| " + " | ".join(str(cell) for cell in cells) + " |"
