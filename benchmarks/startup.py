"""From the start of the process to the first training step.

The side's framework is imported, the FCN built and trained for one step. tinynet compiles its kernels once a
machine ("cold", measured with an empty folder for them) and reads them from the disk afterwards ("warm").
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time

from benchmarks.measure import number, row, table
from benchmarks.torch_side import compiler_trouble

COMPILED = "compiled, channels_last"
SIDES = {"tinynet, warm": "tinynet", "PyTorch": "channels_last", "PyTorch, compiled": COMPILED}
STAGES = "imported", "stepped"


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield f"Seconds from the process's start, median of {run.turns} in turns; tinynet's cold start once."
    yield "torch.compile compiles each time anew."
    yield ""
    yield from table("s", "imported", "first training step done")
    sides = {name: side for name, side in SIDES.items() if side != COMPILED or not compiler_trouble()}
    times = {name: [] for name in sides}
    with tempfile.TemporaryDirectory() as kernels:
        times["tinynet, cold"] = [_times("tinynet", kernels)]
        for _ in range(run.turns):
            for name, side in sides.items():
                times[name].append(_times(side, kernels))
    for name, runs in times.items():
        seconds = run.figures[name] = [statistics.median(each) for each in zip(*runs, strict=True)]
        yield row(name, *map(number, seconds))


def _times(side, kernels):
    """Seconds from the start until each of the STAGES; `kernels` is the folder that keeps tinynet's."""
    module = "tinynet" if side == "tinynet" else "torch"
    command = [sys.executable, "-c", PROGRAM.format(module=module, side=side)]
    with tempfile.TemporaryDirectory() as compiled:
        folders = {"NUMBA_CACHE_DIR": kernels, "TORCHINDUCTOR_CACHE_DIR": compiled}
        began = time.perf_counter()
        with subprocess.Popen(command, env=os.environ | folders, stdout=subprocess.PIPE, text=True) as process:
            times = {line.strip(): time.perf_counter() - began for line in process.stdout}
    if process.returncode or tuple(times) != STAGES:
        raise RuntimeError(f"startup: the first step of {side} failed; what the process says stands above")
    return list(times.values())


PROGRAM = """
import {module}
print("imported", flush=True)
from benchmarks.worker import first_step
first_step("{side}")
print("stepped", flush=True)
"""
