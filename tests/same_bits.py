"""python -m tests.same_bits: every example trains to the same bits, however it is run and however often it is stopped.

Each example trains for a few epochs on a handful of small pictures, in processes of its own: with 1 and 2 threads, with
0, 1 and 3 loader workers, and stopped at random moments by Ctrl-C, SIGTERM or kill -9 and resumed, each time with other
threads and workers. Then all checkpoints and metrics files must be equal, byte for byte.

    python -m tests.same_bits --stops 20        20 stops of each kind for each example; a few minutes
"""

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

EXAMPLES = "segmentation", "autoencoder", "residual", "detection", "detection_many"
SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGKILL
SECONDS = 300                   # in which a child must be done
EPOCHS = 3


def train(name, threads, arguments):
    """In a child: one of the examples, on a few pictures, wide enough for all kinds of kernels."""
    import numba

    numba.set_num_threads(min(threads, numba.config.NUMBA_NUM_THREADS))
    main, options = globals()[f"_{name}"]()
    main(["--epochs", str(EPOCHS), *options, *arguments])


def _segmentation():
    from examples import segmentation
    from tinynet import data

    segmentation.generated = lambda split: data.Scenes(8, size=(32, 40), seed=int(split == "val"))
    segmentation.draw = lambda *arguments: None
    return segmentation.main, ["--batch-size", "2", "--widths", "16", "16", "32"]


def _autoencoder():
    from examples import autoencoder
    from tinynet import data

    autoencoder.generated = lambda split: data.Scenes(8, size=(16, 24), seed=int(split == "val"))
    for draw in ("draw_outputs", "draw_walk", "draw_filters"):
        setattr(autoencoder, draw, lambda *arguments: None)
    return autoencoder.main, ["--batch-size", "2", "--widths", "16", "32", "--hidden", "8", "--code", "3",
                              "--noise", "0.1"]


def _residual():
    from examples import residual

    def generated(split):
        rng = np.random.default_rng(int(split == "val"))
        return residual.Labelled(rng.random((20, 12, 12, 3), dtype=np.float32), np.arange(20) % 3, ("a", "b", "c"))

    residual.generated = generated
    return residual.main, ["--batch-size", "5", "--depths", "8", "--width", "16"]


def _detection():
    from examples import detection
    from tinynet import data

    detection.generated = lambda split, size: detection.Closeups(
        data.Scenes(6, size=(128, 128), seed=int(split == "val"), cache=True), size)
    detection.draw = detection.draw_looks = lambda *arguments: None
    return detection.main, ["--batch-size", "4", "--size", "32", "--widths", "16", "32"]


def _detection_many():
    from examples import detection_many
    from tinynet import data

    detection_many.generated = lambda split, size: detection_many.Street(
        data.Scenes(8, size=(64, 64), seed=int(split == "val")))
    detection_many.draw = lambda *arguments: None
    return detection_many.main, ["--batch-size", "2", "--widths", "16", "16", "32", "32"]


# The runs

def child(name, out, threads=1, workers=1, resume=False):
    """A process that trains into `out`."""
    options = ["--out", str(out), "--workers", str(workers), *(["--resume"] if resume else [])]
    code = f"from tests.same_bits import train; train({name!r}, {threads}, {options!r})"
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process):
    """Wait for a child that must end well."""
    _, errors = process.communicate(timeout=SECONDS)
    if process.returncode:
        raise RuntimeError(f"a training ended with {process.returncode}:\n{errors}")


def files(out):
    """{name: bytes} of all that training leaves behind but pictures, and results.csv, which has minutes in it."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(Path(out).rglob("*"))
            if path.suffix == ".safetensors" or path.name == "metrics.csv"}


def differences(files, reference):
    """The names of files that only one side has, or whose bytes differ."""
    return [name for name in sorted(files.keys() | reference.keys()) if files.get(name) != reference.get(name)]


def stopped(name, out, number, stops, seconds, chance):
    """Train with so many stops at random moments, going on after each with other threads and workers."""
    for _ in range(stops):
        began = any(Path(out).rglob("checkpoint.safetensors"))
        process = child(name, out, chance.choice((1, 2)), chance.choice((0, 1, 3)), resume=began)
        time.sleep(chance.uniform(0.4, 1) * seconds)
        process.send_signal(number)
        process.communicate(timeout=SECONDS)
    finish(child(name, out, resume=any(Path(out).rglob("checkpoint.safetensors"))))


def check(name, folder, ways, stops, signals=SIGNALS, seed=0):
    """Yield (what was done, the files that differ) for each way to run an example and each kind of stop."""
    chance = random.Random(f"{name} {seed}")
    folder = Path(folder)
    began = time.monotonic()
    finish(child(name, folder / "reference"))
    seconds = time.monotonic() - began
    reference = files(folder / "reference")
    for threads, workers in ways:
        out = folder / f"{threads}-{workers}"
        finish(child(name, out, threads, workers))
        yield f"{threads} threads, {workers} workers", differences(files(out), reference)
    for number in signals:
        out = folder / number.name
        stopped(name, out, number, stops, seconds, chance)
        yield f"{stops} stops by {number.name}", differences(files(out), reference)


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.same_bits", description=__doc__.split("\n")[0])
    parser.add_argument("examples", nargs="*", metavar="EXAMPLE", help=f"some of {', '.join(EXAMPLES)} (default: all)")
    parser.add_argument("--stops", type=int, default=5, help="by each signal (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    options = parser.parse_args()
    failed = False
    for name in options.examples or EXAMPLES:
        with tempfile.TemporaryDirectory() as folder:
            ways = [(1, 1), (2, 1), (1, 0), (2, 3)]
            for what, differing in check(name, folder, ways, options.stops, seed=options.seed):
                failed |= bool(differing)
                print(f"{name}, {what}: {', '.join(differing) + ' differ' if differing else 'same bits'}", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
