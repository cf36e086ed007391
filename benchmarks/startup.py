"""From the start of the process to the first training step: python -m benchmarks.startup SIDE does it.

The side's framework is imported, the FCN built and trained for one step. tinynet compiles its kernels once a
machine ("cold", measured with an empty folder for them) and reads them from the disk afterwards ("warm").
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks import NETWORKS, random_batch
from benchmarks.measure import number, row, table
from benchmarks.worker import trainer

SIDES = {"tinynet, warm": "tinynet", "PyTorch": "channels_last", "PyTorch, compiled": "compiled"}
MODULES = {"tinynet": "tinynet", "channels_last": "torch", "compiled": "torch"}
STAGES = "imported", "stepped"


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield (
        f"Seconds from the process's start, median of {run.turns} in turns; tinynet cold once, "
        "torch.compile"
    )
    yield "cold each time."
    yield ""
    yield from table("s", "imported", "first training step done")
    with tempfile.TemporaryDirectory() as folder:
        cold = _times("tinynet", {"NUMBA_CACHE_DIR": folder})
    times = {name: [] for name in SIDES}
    for _ in range(run.turns):
        for name, side in SIDES.items():
            with tempfile.TemporaryDirectory() as folder:
                times[name].append(_times(side, {"TORCHINDUCTOR_CACHE_DIR": folder}))
    medians = {name: [statistics.median(each) for each in zip(*t, strict=True)] for name, t in times.items()}
    for name, seconds in {"tinynet, cold": cold, **medians}.items():
        run.figures[name] = seconds
        yield row(name, *map(number, seconds))


def _times(side, environment):
    """Seconds from the start until each of the STAGES."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(module=MODULES[side], side=side)],
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        times = {line.strip(): time.perf_counter() - began for line in process.stdout}
    if process.returncode or tuple(times) != STAGES:
        raise RuntimeError(f"startup: the process of {side} failed; see python -m benchmarks.startup {side}")
    return list(times.values())


PROGRAM = """
import {module}
print("imported", flush=True)
from benchmarks.startup import first_step
first_step("{side}")
print("stepped", flush=True)
"""


def first_step(side):
    batch = random_batch("FCN", NETWORKS["FCN"])
    trainer(side, "FCN", batch).step()


if __name__ == "__main__":
    first_step(sys.argv[1])
