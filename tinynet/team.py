"""Processes that train together: what training asks of them, and the team of one that a process is by itself.

`training.fit` speaks to its team through the methods of `Alone`, which has nobody to talk to and so does next to
nothing. tinynet/interop/mpi.py has the team of several processes, each with a part of every batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from tinynet.typing import Array

if TYPE_CHECKING:
    from tinynet.tensor import Tensor


class Alone:
    """A team of one."""

    rank, size = 0, 1  # which one this process is, of how many; the first writes the files

    def mean(self, loss: float, samples: int) -> tuple[float, int]:
        """(loss, samples) of the whole batch, from those of this process's part: the mean over all samples."""
        return loss, samples

    def backward(self, loss: Tensor, share: float, parameters: Sequence[Tensor]) -> None:
        """The gradients of the whole batch's loss, to which this loss contributes `share`, in each parameter's .grad"""
        loss.backward()

    def own_random(self) -> contextlib.AbstractContextManager[None]:
        """Within this context random numbers are this process's own; outside they are the same in all."""
        return contextlib.nullcontext()

    def broadcast(self, value: Any) -> Any:
        """The first process's value, in all; the others wait for it."""
        return value

    def agree(self, number: int) -> int:
        """The greatest of all processes' numbers, in all."""
        return number

    def gather(self, array: Array) -> Array:
        """All processes' arrays, stacked in the order of their ranks, in all."""
        return array[None]


ALONE = Alone()
_team = ALONE


def current() -> Any:
    """The team that this process belongs to."""
    return _team


def is_first() -> bool:
    """Whether this process is the one that writes files and reports; alone it is.

    >>> is_first()
    True
    """
    return _team.rank == 0


@contextlib.contextmanager
def joined(team: Any) -> Iterator[Any]:
    """Within this context the process belongs to that team."""
    global _team
    before, _team = _team, team
    try:
        yield team
    finally:
        _team = before
