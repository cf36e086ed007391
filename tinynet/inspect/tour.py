"""The command tour: ten stops from a tensor to the register tile, each a file, an idea, and a program that runs."""

from __future__ import annotations

import argparse
import inspect
import sys
from collections.abc import Callable
from typing import Any

from tinynet.inspect import stops
from tinynet.inspect.sources import place
from tinynet.inspect.worked import told


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tinynet tour",
        description="A guided tour of the source in ten stops, an evening long. Without a number: the stops. With one: "
                    "the idea there, the files to open beside it, and a small program, run now.")
    parser.add_argument("stop", nargs="?", type=int, help=f"1 to {len(stops.STOPS)}")
    number = parser.parse_args(arguments).stop
    if number is None:
        print(listing())
        return 0
    if not 1 <= number <= len(stops.STOPS):
        print(f"tour: there is no stop {number}; they go from 1 to {len(stops.STOPS)}", file=sys.stderr)
        return 2
    print(shown(number))
    return 0


def idea(stop: Callable[[], Any]) -> str:
    """A stop's first line."""
    return inspect.getdoc(stop).split("\n\n")[0]


def question(stop: Callable[[], Any]) -> str:
    """The question that it answers."""
    return inspect.getdoc(stop).split("\n\n")[1]


def file(stop: Callable[[], Any]) -> str:
    """The file that it is about."""
    return place(stop()[0]).partition(":")[0]


def listing() -> str:
    """The stops, three lines each."""
    lines = []
    for number, stop in enumerate(stops.STOPS, start=1):
        lines += [f"{number:2}  {idea(stop)}", f"    {question(stop)}", f"    {place(stop()[0])}", ""]
    return "\n".join([*lines, "python -m tinynet tour 1    begins; take ten to twenty minutes for a stop"])


def shown(number: int) -> str:
    """A stop: what to open, and its text with what its program prints now."""
    stop = stops.STOPS[number - 1]
    text = inspect.getdoc(stop).split("\n\n", 2)[2]
    places = "\n".join(f"    {place(thing):42}{thing.__name__}" for thing in stop())
    after = f"\n\nNext: python -m tinynet tour {number + 1}" if number < len(stops.STOPS) else ""
    return (f"Stop {number} of {len(stops.STOPS)}: {idea(stop)}\n\n{question(stop)}\n\nOpen beside this:\n{places}\n\n"
            f"{told(text, dict(vars(stops))).rstrip()}{after}")
