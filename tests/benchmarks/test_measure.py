"""Benchmarks: contestants take turns, and what differs isn't timed."""

import numpy as np
import pytest

from benchmarks import measure


def test_contestants_take_turns_and_each_first_call_is_not_timed():
    calls = []
    contestants = {name: lambda name=name: calls.append(name) for name in "ab"}
    times = measure.alternate(contestants, turns=2, calls=3, seconds=0)
    assert calls == list("aaaabbbb" * 2)
    assert all(time.least <= time.lower <= time.median <= time.upper for time in times.values())


def test_a_turn_lasts_its_seconds():
    assert sum(measure.turn(lambda: None, calls=1, seconds=0.01)) >= 0.01


def test_the_fastest_has_the_least_median():
    times = measure.alternate_turns({"a": lambda: [1.0, 9.0, 9.0], "b": lambda: [2.0, 2.0, 2.0]}, turns=1)
    assert times["a"].least < times["b"].least
    assert measure.fastest(times, times) == "b"


def test_errors_are_relative_to_all_arrays_taken_as_one():
    a, b = [np.array([3.0, 0.0]), np.array([[5.0]])], [np.array([3.0, 4.0]), np.array([[0.0]])]
    assert measure.relative_error(a, b) == pytest.approx(np.sqrt(16 + 25) / 5)


def test_what_differs_is_not_timed():
    ones = np.ones(3)
    assert measure.checked_error("same", ones, ones, 1e-6) == 0
    with pytest.raises(ValueError, match="conv: the two sides' results differ by 1e|conv: .* differ by 1.0e-01"):
        measure.checked_error("conv", 1.1 * ones, ones, 1e-6)
    with pytest.raises(ValueError, match="differ by nan"):
        measure.checked_error("conv", np.nan * ones, ones, 1e-6)
    with pytest.raises(ValueError, match="shapes"):
        measure.checked_error("conv", np.ones((3, 1)), ones, 1e-6)
