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
COLD = {"tinynet, cold": "tinynet", "PyTorch, compiled, cold": COMPILED}
WARM = {"tinynet, warm": "tinynet", "PyTorch": "channels_last"}
STAGES = "imported", "stepped"


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield f"Seconds from the process's start: the cold ones once, of the others the median of {run.turns} in turns."
    yield ""
    yield from table("s", "imported", "first training step done")
    cold = {name: side for name, side in COLD.items() if side != COMPILED or not compiler_trouble()}
    with tempfile.TemporaryDirectory() as kernels:
        times = {name: [_times(side, kernels)] for name, side in cold.items()}
        for _ in range(run.turns):
            for name, side in WARM.items():
                times.setdefault(name, []).append(_times(side, kernels))
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
        with subprocess.Popen(
            command, env=os.environ | folders, stdout=subprocess.PIPE, text=True
        ) as process:
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
