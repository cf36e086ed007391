"""The memory that training takes at its peak, in MB: python -m benchmarks.memory SIDE COUNT SIZE

SIDE is tinynet, or PyTorch's layout: channels_last or contiguous. What every program has is left out: all
that is resident after the imports, the making of the batch, and a training step on a tiny batch, which
loads kernels and starts threads. Then the network is built and trained for five steps. The peak is VmHWM,
the most that the process ever had. (Not ru_maxrss: under Linux a child process may start with its
parent's.)
"""

import gc
import importlib
import sys
from pathlib import Path

from benchmarks import random_batch

STATUS = Path("/proc/self/status")


def has_memory_figures():
    return STATUS.exists()


def megabytes(name):
    """VmRSS, what is resident now, or VmHWM, the most that ever was."""
    (line,) = [line for line in STATUS.read_text().splitlines() if line.startswith(name + ":")]
    return int(line.split()[1]) / 1024


def trainer(side, batch):
    """The side's trainer; only its own framework is imported, so that the other's memory plays no part."""
    if side == "tinynet":
        return importlib.import_module("benchmarks.tinynet_side").Trainer(*batch)
    return importlib.import_module("benchmarks.torch_side").Trainer(*batch, side)


def peak_of_training(side, count, size, steps=5):
    trainer(side, random_batch(1, 32)).step()
    batch = random_batch(count, size)
    gc.collect()
    before, mark = megabytes("VmRSS"), megabytes("VmHWM")
    training = trainer(side, batch)
    for _ in range(steps):
        training.step()
    after = megabytes("VmHWM")
    if after <= mark:
        raise RuntimeError(
            f"memory: training stayed below the {mark:.0f} MB of the preparation; take larger batches"
        )
    return after - before


if __name__ == "__main__":
    print(peak_of_training(sys.argv[1], *map(int, sys.argv[2:])))
