"""Kills a process while it saves over a file, at many points, and looks each time at what the file holds:

    python -m tests.kill_points FOLDER --points 200

Half of the points are random moments; the others are random steps of the work: bytes written, and before and after each
call that opens, forces to the disk or renames. The file must be whole, the old one or the new one. (A killed process
loses nothing that the system has taken; that it would outlast a power cut rests on the order of fsync and rename, which
test_safetensors.py checks.) With --in-place it is written as one would do without thinking, which must fail.
"""
import argparse
import importlib.util
import os
import random
import signal
import sys
import time
from pathlib import Path

import numpy as np

SIZES = (1, 3_000, 40_000)      # of the arrays, in floats
LONGEST = 0.02                  # seconds until a kill by time; a save takes a few milliseconds


def safetensors_alone():
    """tinynet/safetensors.py without the package around it, which would bring numba and its threads into the forks."""
    path = Path(__file__).parents[1] / "tinynet" / "safetensors.py"
    spec = importlib.util.spec_from_file_location("safetensors_alone", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_in_place(path, chunks):
    with files.open(path, "wb") as file:
        for chunk in chunks:
            file.write(chunk)


def state(number):
    """A state whose every float says which one it is."""
    return {str(size): np.full(size, number, np.float32) for size in SIZES}, {"number": str(number)}


def save_one(path, number):
    arrays, metadata = state(number)
    files.save(arrays, path, metadata)


def number_of(path):
    """Which state the file holds, all of it; raises for a mixture."""
    arrays, metadata = files.load(path), files.load_metadata(path)
    number = int(metadata["number"])
    expected, _ = state(number)
    if not all(np.array_equal(arrays[name], expected[name]) for name in expected):
        raise ValueError("the arrays are not of one state")
    return number


class Fuse:
    """Kills the process at the step with this number, counted from 0; the steps are the calls of `step`."""

    def __init__(self, last, pieces):
        self.last, self.pieces, self.steps = last, pieces, 0

    def step(self):
        if self.steps == self.last:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def lay(self):
        """Put steps before and after each call to the system that a save makes."""
        for name in ("fsync", "replace", "open", "close"):
            setattr(os, name, self.stepping(getattr(os, name)))
        files.open = lambda path, mode: Unbuffered(path, mode, self)

    def stepping(self, call):
        def stepped(*arguments):
            self.step()
            result = call(*arguments)
            self.step()
            return result
        return stepped


class Unbuffered:
    """A file that writes what it is given in pieces of random sizes, each a step."""

    def __init__(self, path, mode, fuse):
        fuse.step()
        self.file, self.fuse = open(path, mode, buffering=0), fuse
        self.flush, self.fileno = self.file.flush, self.file.fileno
        fuse.step()

    def write(self, chunk):
        chunk = memoryview(chunk).cast("B")
        while len(chunk):
            piece = self.fuse.pieces.randint(1, 30_000)
            self.file.write(chunk[:piece])
            chunk = chunk[piece:]
            self.fuse.step()

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.file.close()


def in_child(work):
    """Run `work` in a fork; returns its process id."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    return child


def kill_by_time(path, rng):
    def overwrite():
        while True:
            for number in (1, 2):
                save_one(path, number)

    child = in_child(overwrite)
    time.sleep(rng.uniform(0, LONGEST))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def kill_by_step(path, rng, step, number):
    fuse = Fuse(step, random.Random(rng.random()))

    def overwrite():
        fuse.lay()
        save_one(path, number)

    os.waitpid(in_child(overwrite), 0)


def count_steps(path, rng):
    """How many steps a save has, about: the pieces are random."""
    reader, writer = os.pipe()

    def overwrite():
        fuse = Fuse(None, random.Random(rng.random()))
        fuse.lay()
        save_one(path, 1)
        os.write(writer, str(fuse.steps).encode())

    os.waitpid(in_child(overwrite), 0)
    return int(os.read(reader, 20))


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--points", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--in-place", action="store_true", help="write without a temporary file: this must fail")
    options = parser.parse_args()
    if options.in_place:
        files.write_atomically = write_in_place
    path, rng = options.folder / "file.safetensors", random.Random(options.seed)
    save_one(path, 0)
    steps = count_steps(path, rng)
    whole, last, changes = 0, number_of(path), 0
    for point in range(options.points):
        if point % 2:
            kill_by_time(path, rng)
        else:               # first each step in turn, then any
            half = point // 2
            kill_by_step(path, rng, half if half < steps else rng.randrange(steps), 3 + half)
        try:
            now = number_of(path)
            whole += 1
            changes += now != last
            last = now
        except ValueError as error:
            print(f"point {point}: {error}")
            save_one(path, 0)
    left = len(list(options.folder.glob(f"{files.UNFINISHED}*")))
    print(f"{whole} of {options.points} kill points survived; {steps} steps a save; "
          f"the new file was there {changes} times; {left} temporary files left")
    sys.exit(whole < options.points)


files = safetensors_alone()
files.open = open               # until a Fuse puts its own there

if __name__ == "__main__":
    main()
