"""The framework's own random numbers: one seeded generator for initialisation and dropout."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

_generator = np.random.Generator(np.random.PCG64(0))


def _in_forked_child() -> None:
    """The same numbers from here on, but without the lock, which another thread may have held."""
    global _generator
    state = _generator.bit_generator.state
    _generator = np.random.Generator(np.random.PCG64(0))
    _generator.bit_generator.state = state


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_forked_child)


def manual_seed(seed: int) -> None:
    """Restart the framework's generator: the same seed gives the same weights and the same dropout masks.

    >>> manual_seed(1); a = generator().random()
    >>> manual_seed(1); a == generator().random()
    True
    """
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or seed < 0:
        raise ValueError(f"manual_seed: seed is {seed!r}, but must be an integer of 0 or more")
    _generator.bit_generator.state = np.random.PCG64(int(seed)).state


def generator() -> np.random.Generator:
    """The generator that everything random in the framework draws from (data loading has its own, by index)."""
    return _generator


def get_state() -> Mapping[str, Any]:
    """The generator's state as a dictionary that JSON can hold; `set_state` goes on from there."""
    return _generator.bit_generator.state


def set_state(state: Mapping[str, Any]) -> None:
    """Put the generator back to a state that `get_state` gave."""
    _generator.bit_generator.state = state
