"""python -m benchmarks [PART...] [--write]: measure; tables on stdout, or in README.md too, with pictures."""

import argparse
import importlib
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.machine import Machine, description, measured_machine
from benchmarks.pictures import draw_all, remember

PARTS = (
    "steps",
    "inference",
    "memory",
    "startup",
    "narrow",
    "camvid",
    "growth",
    "kernels",
    "edges",
    "sweep",
    "roofline",
    "profile",
    "overhead",
    "loader",
    "guard",
    "scaling",
)
README = Path(__file__).with_name("README.md")


@dataclass
class Run:
    """What a part is given, and where it leaves its figures."""

    machine: Machine
    turns: int  # of each contestant
    data: str | None  # the folder of CamVid
    figures: dict = field(default_factory=dict)  # what the part's pictures show


def main(arguments=None):
    options = parse(arguments)
    for part in options.parts or PARTS:
        # The machine first: it launches a kernel, for which numba chooses its kind of threads. A part's
        # imports may bring others into the process (OpenVINO's tbb), which users of tinynet don't have.
        run = Run(measured_machine(), options.turns, options.data)
        module = importlib.import_module(f"benchmarks.{part}")
        section = measured_section(module, run)
        if options.write:
            text = with_section(README.read_text(encoding="utf-8"), part, section)
            README.write_text(text, encoding="utf-8")
            remember(part, run.figures)
            draw_all()


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="tinynet against PyTorch")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md, too")
    parser.add_argument(
        "--turns", type=int, default=6, help="of each contestant (default: 6); fewer to try it out"
    )
    parser.add_argument("--data", metavar="DIR", help="CamVid's folder, for the part camvid")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]} is none of the parts {', '.join(PARTS)}")
    if options.turns < 1:
        parser.error(f"--turns is {options.turns}; give a whole number from 1 up")
    return options


def measured_section(module, run):
    """The part's lines, headed by the machine's; printed as they come."""
    section = []

    def tell(line):
        print(line, flush=True)
        section.append(line)

    began = time.perf_counter()
    tell(f"Measured on: {description(*run.machine)}")
    tell("")
    for line in module.lines(run):
        tell(line)
    print(f"({(time.perf_counter() - began) / 60:.1f} minutes)\n")
    return "\n".join(section)


def with_section(text, name, section):
    """The text with what stands between <!-- name --> and <!-- /name --> replaced."""
    start, end = f"<!-- {name} -->\n", f"\n<!-- /{name} -->"
    if text.count(start) != 1 or text.count(end) != 1:
        raise ValueError(
            f"{README.name}: a line {start.strip()} and a line {end.strip()} must stand around the section, "
            f"but there are {text.count(start)} and {text.count(end)}"
        )
    return text[: text.index(start) + len(start)] + section + text[text.index(end) :]


if __name__ == "__main__":
    main()
