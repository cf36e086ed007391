"""python -m benchmarks [kernels|steps|guard] [--write]: measure; tables on stdout, or in README.md too."""

import argparse
from pathlib import Path

from benchmarks import guard, kernels, steps
from benchmarks.machine import description, measured_peak, set_threads

PARTS = {"kernels": kernels, "steps": steps, "guard": guard}
README = Path(__file__).with_name("README.md")


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="tinynet against PyTorch")
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--write", action="store_true", help="put the tables into benchmarks/README.md, too")
    options = parser.parse_args(arguments)
    unknown = [part for part in options.parts if part not in PARTS]
    if unknown:
        parser.error(f"{unknown[0]} is none of the parts {', '.join(PARTS)}")
    threads = set_threads()
    for part in options.parts or PARTS:
        section = measured_section(PARTS[part], threads)
        if options.write:
            text = with_section(README.read_text(encoding="utf-8"), part, section)
            README.write_text(text, encoding="utf-8")


def measured_section(part, threads):
    """The part's lines, headed by the machine's; printed as they come."""
    section = []

    def tell(line):
        print(line, flush=True)
        section.append(line)

    peak = measured_peak(threads)
    tell(f"Measured on: {description(threads, peak)}")
    tell("")
    for line in part.lines(peak):
        tell(line)
    print()
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
