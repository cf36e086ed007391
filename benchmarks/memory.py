"""The memory that training takes at its peak; in MB for one side: python -m benchmarks.memory SIDE NETWORK

SIDE is tinynet, or PyTorch's layout: channels_last or contiguous. What every program has is left out: all
that is resident after the imports, the making of the batch, and a training step on a tiny batch, which
loads kernels and starts threads. Then the network is built and trained for five steps. The peak is VmHWM,
the most that the process ever had. (Not ru_maxrss: under Linux a child process may start with its
parent's.)
"""

import gc
import subprocess
import sys
from pathlib import Path

from benchmarks import NETWORKS, Images, random_batch
from benchmarks.measure import number, row, table
from benchmarks.worker import trainer

STATUS = Path("/proc/self/status")
LAYOUTS = "channels_last", "contiguous"
SMALL = Images(1, 32)


def lines(run):
    """The section's lines, each as soon as it is known; a process for each figure."""
    if not STATUS.exists():
        yield "Not measured, since it is read from Linux's /proc/self/status."
        return
    yield "Five training steps, in MB beyond what is resident before the network is built; PyTorch eagerly."
    yield ""
    yield from table("MB", "tinynet", "PyTorch", "its layout", "PyTorch / tinynet")
    for name, images in NETWORKS.items():
        used = {side: _measured(side, name) for side in ("tinynet", *LAYOUTS)}
        layout = min(LAYOUTS, key=used.get)
        ratio = run.figures[name] = used[layout] / used["tinynet"]
        yield row(
            f"{name}, {images.count} x {images.size} x {images.size}",
            number(used["tinynet"]),
            number(used[layout]),
            layout,
            f"{ratio:.2f}",
        )


def _measured(side, name):
    command = [sys.executable, "-m", "benchmarks.memory", side, name]
    return float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)


def peak_of_training(side, name, steps=5):
    trainer(side, name, random_batch(name, SMALL)).step()
    batch = random_batch(name, NETWORKS[name])
    gc.collect()
    before, mark = megabytes("VmRSS"), megabytes("VmHWM")
    training = trainer(side, name, batch)
    for _ in range(steps):
        training.step()
    after = megabytes("VmHWM")
    if after <= mark:
        raise RuntimeError(
            f"memory: training stayed below the {mark:.0f} MB of the preparation; take larger batches"
        )
    return after - before


def megabytes(name):
    """VmRSS, what is resident now, or VmHWM, the most that ever was."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(name + ":")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    print(peak_of_training(*sys.argv[1:]))
