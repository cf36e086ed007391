"""One side in a process of its own, taking turns on command: python -m benchmarks.worker SIDE NETWORK

SIDE is tinynet, or a way of PyTorch's (channels_last). For each line on standard input, "step" or "infer", the
worker does a turn of that and answers with its times in seconds. So settings of whole processes can be compared.
"""

import importlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager

from benchmarks import NETWORKS, random_batch
from benchmarks.measure import turn


def trainer(side, name, batch):
    """The side's trainer, "tinynet" or a way of PyTorch's; only its own framework is imported."""
    if side == "tinynet":
        return importlib.import_module("benchmarks.tinynet_side").Trainer(name, batch)
    torch_side = importlib.import_module("benchmarks.torch_side")
    return torch_side.Trainer(name, batch, torch_side.WAYS[side])


@contextmanager
def worker(side, name, environment, threads):
    """A function that sends the worker a command and gives the times of its turn."""
    settings = {"NUMBA_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.worker", side, name],
        env=os.environ | settings | environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )

    def ask(command):
        process.stdin.write(command + "\n")
        process.stdin.flush()
        answer = process.stdout.readline()
        if not answer:
            raise RuntimeError(f"worker: the process of {side} ended; what it says stands above")
        return json.loads(answer)

    try:
        yield ask
    finally:
        process.stdin.close()
        process.wait()


def serve(side, name):
    training = trainer(side, name, random_batch(name, NETWORKS[name]))
    for line in sys.stdin:
        command = line.strip()
        training.model.train(command == "step")
        print(json.dumps(turn(getattr(training, command))), flush=True)


def first_step(side):
    """A training step of the FCN, from nothing."""
    trainer(side, "FCN", random_batch("FCN", NETWORKS["FCN"])).step()


if __name__ == "__main__":
    serve(*sys.argv[1:])
