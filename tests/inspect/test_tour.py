"""The tour: what its stops mention exists, their programs print what they say, the debugger works, README agrees."""

import doctest
import inspect
import pdb
import re

import pytest

import tinynet as tn
from tinynet import nn, optim
from tinynet.inspect import stops, tour
from tinynet.inspect.sources import ROOT

NUMBERS = range(1, len(stops.STOPS) + 1)
FILES = {path.name: path.read_text(encoding="utf-8") for path in sorted((ROOT / "tinynet").rglob("*.py"))}


def words(stop):
    """The text without its programs, and the names in backticks."""
    text = "\n".join(line for line in inspect.getdoc(stop).splitlines() if not line.startswith((">>>", "...")))
    return text, re.findall(r"`([A-Za-z_.]\w*(?:\.\w+)*)(?:\(\))?`", text)


@pytest.mark.parametrize("stop", stops.STOPS, ids=lambda stop: stop.__name__)
def test_what_a_stop_mentions_exists(stop):
    text, names = words(stop)
    for file in set(re.findall(r"\b(\w+\.py)\b", text)) - {"small.py"}:
        assert file in FILES, file
    for module, name in re.findall(r"\b(tn|nn|optim)\.(\w+)", text):
        assert hasattr({"tn": tn, "nn": nn, "optim": optim}[module], name), f"{module}.{name}"
    for name in names:
        owner, _, last = name.rpartition(".")
        is_command = hasattr(pdb.Pdb, f"do_{name}")
        is_slot = owner == "" and name.startswith(".") and hasattr(tn.Tensor, last)
        is_defined = any(re.search(rf"(def|class) {last}\b", source) for source in FILES.values())
        assert is_command or is_slot or is_defined, name
    assert len(stop()) >= 2 and tour.file(stop).startswith("tinynet/")


def test_the_stops_go_from_the_tensor_to_the_tile():
    files = [tour.file(stop) for stop in stops.STOPS]
    assert len(files) == 10 and files[0] == "tinynet/tensor.py" and files[-1] == "tinynet/kernels/tile.py"
    floors = [file.rpartition("/")[0] for file in files]
    assert floors == sorted(floors, key=["tinynet", "tinynet/ops", "tinynet/kernels"].index)
    for stop in stops.STOPS:
        assert tour.idea(stop).endswith(".") and "\n" not in tour.idea(stop)
        assert tour.question(stop).startswith("Why ") and tour.question(stop).endswith("?")


@pytest.mark.parametrize("number", NUMBERS)
def test_a_stop_runs_and_prints_what_it_says(number, capsys):
    assert tour.main([str(number)]) == 0
    shown = capsys.readouterr().out
    stop = stops.STOPS[number - 1]
    written = inspect.getdoc(stop).split("\n\n", 2)[2]
    program = re.sub(r"^(>>>|\.\.\.) .*\n", "", written, flags=re.MULTILINE)     # its dots would stand for anything
    ran = re.sub(r"^(>>>|\.\.\.) .*\n", "", shown, flags=re.MULTILINE)
    flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
    assert doctest.OutputChecker().check_output(f"...\n{program}\n...", f"{ran}\nEnd", flags)
    assert shown.startswith(f"Stop {number} of 10: {tour.idea(stop)}\n\n{tour.question(stop)}\n")
    assert shown.count(">>> ") == written.count(">>> ") > 0
    for file, line, name in re.findall(r"^    (tinynet/\S+):(\d+) +(\w+)$", shown, re.MULTILINE):
        text = (ROOT / file).read_text(encoding="utf-8").splitlines()[int(line) - 1]
        assert re.match(rf"\s*(def|class) {name}\b", text)
    assert max(map(len, shown.splitlines())) <= 120


def test_the_command(capsys):
    assert tour.main([]) == 0
    listed = capsys.readouterr().out
    for number, stop in enumerate(stops.STOPS, start=1):
        assert f"{number:2}  {tour.idea(stop)}\n    {tour.question(stop)}\n    {tour.file(stop)}:" in listed
    assert tour.main(["11"]) == 2
    assert capsys.readouterr().err == "tour: there is no stop 11; they go from 1 to 10\n"


def test_a_debugger_steps_through_a_kernel():
    program = "import tinynet as tn\nprint(tn.max_pool2d([[[[1.0], [7.0]], [[5.0], [2.0]]]], (1, 2)).shape)\n"
    said = stops.debugged(program, [
        "import tinynet.kernels.pooling as kernels", "break kernels.challenge, pixel[0] == 7", "continue", "where",
        "p float(pixel[0]), float(best[0])", "next", "next", "p bool(beats)", "clear 1", "continue"])
    assert "\n(Pdb) (7.0, 1.0)\n" in said and "\n(Pdb) True\n" in said and "(1, 2, 1, 1)\n" in said
    names = [re.fullmatch(r"\w+\.py\(\d+\)(\w+)\(\)", line).group(1) for line in stops.way_down(said)]
    assert names == ["max_pool2d", "__call__", "forward", "max_pool", "pool", "challenge"]


def test_readme_has_the_same_stops():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    section = readme.partition("\n## Reading order\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| *\d.*$", section, re.MULTILINE)
    if not rows:
        pytest.skip("README's reading order has no table of the stops yet")
    assert rows == [f"| {number} | [{tour.file(stop).removeprefix('tinynet/')}]({tour.file(stop)}) | {tour.idea(stop)} "
                    f"| {tour.question(stop)} |" for number, stop in enumerate(stops.STOPS, start=1)]
