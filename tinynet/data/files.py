"""What the readers of data sets share: a look before a file is opened, bounded text, and bad files left out."""
from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from tinynet.typing import OnError

LARGEST_LIST = 2**26        # bytes of a text file with a line for each picture: about a million lines
POLICIES = ("raise", "skip")


class Faults:
    """What happens to a bad file: `on_error="raise"` lets its error out, "skip" goes on and keeps the reason.

    >>> faults = Faults("Reader", "skip")
    >>> with warnings.catch_warnings(record=True) as warned, faults.skipped_as("a.png"):
    ...     raise ValueError("a.png is no image")
    >>> faults.reasons, str(warned[0].message)
    ({'a.png': 'a.png is no image'}, 'Reader: skipped a.png: a.png is no image')
    """

    def __init__(self, owner: str, on_error: OnError, noun: str = "") -> None:
        if on_error not in POLICIES:
            raise ValueError(f"{owner}: on_error is {on_error!r}; give 'raise', which stops at a bad file, or "
                             "'skip', which leaves it out")
        self.owner, self.noun = owner, noun
        self.skips = on_error == "skip"
        self.reasons = {}

    @contextmanager
    def skipped_as(self, key: Any) -> Iterator[None]:
        """Inside, an error of the kinds by which readers refuse files is kept under `key`, or goes on."""
        try:
            yield
        except (ValueError, OSError) as error:
            if not self.skips:
                raise
            self.keep(key, str(error))

    def keep(self, key: Any, reason: str) -> None:
        """Count the reason and warn of it, once for each key."""
        if key not in self.reasons:
            self.reasons[key] = reason
            warnings.warn(f"{self.owner}: skipped {self.noun}{key}: {reason}", stacklevel=2)


def open_regular(path: Path) -> BinaryIO:
    """The file opened for reading; ValueError for a pipe or a device, from which one might read for ever."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no regular file; put one there")
    return open(path, "rb")


def numbered_lines(owner: str, path: Path) -> list[tuple[str, str]]:
    """(where, line) for each line of a text file with something on it."""
    if not path.is_file():
        raise FileNotFoundError(f"{owner}: there is no file {path}")
    with open(path, "rb") as file:
        text = file.read(LARGEST_LIST + 1)
    if len(text) > LARGEST_LIST:
        raise ValueError(f"{owner}: {path} has more than {LARGEST_LIST:,} bytes, far beyond any list of files")
    lines = text.decode("utf-8-sig", errors="replace").splitlines()
    return [(f"{path}, line {i}", line) for i, line in enumerate(lines, start=1) if line.strip()]


def brief(text: str, longest: int = 80) -> str:
    """What a file says, fit to stand in a sentence, however much it is."""
    return text if len(text) <= longest else text[:longest - 3] + "..."
