"""python -m tests.soak: hours of training. Does memory grow, does it slow down, does the loss stay finite?

The FCN of the segmentation example, trained as that example trains it: on CamVid with --data, else on generated scenes.
Every minute a line: steps done, the median milliseconds of processor time of a step, resident memory, loss. At the end
the last tenth of the steps is compared with the second tenth (the first is the warm-up).

    python -m tests.soak --data camvid --steps 20000        1 to 2 hours on two cores
    python -m tests.soak --minutes 10
"""

import argparse
import itertools
import math
import statistics
import sys
import time
from contextlib import closing
from pathlib import Path

import tinynet as tn
from examples import segmentation
from tinynet import data, optim

MOST_GROWTH = 0.01              # of memory, after the warm-up
MOST_SLOWDOWN = 0.10            # of the median step: the machine has other things to do, too


def resident():
    """Bytes of memory that the process holds, from Linux's /proc."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096


def training(options):
    """Yield the loss of one step after another, without end."""
    settings = segmentation.PHOTOS if options.data else segmentation.SCENES
    train_set = segmentation.load("train", options.data)
    tn.manual_seed(0)
    model = segmentation.FCN(len(train_set.classes), settings["widths"])
    weights = segmentation.class_weights(train_set, settings["balance"])
    optimizer = optim.AdamW(model.parameters(), lr=settings["lr"])
    loader = data.DataLoader(segmentation.augmented(train_set, is_photos=options.data is not None),
                             settings["batch_size"], shuffle=True, workers=options.workers, drop_last=True)
    for epoch in itertools.count(1):
        with closing(loader.batches(epoch)) as batches:
            for images, masks in batches:
                optimizer.zero_grad()
                loss = tn.cross_entropy(model(tn.Tensor(images)), masks, weight=weights,
                                        ignore_index=train_set.ignore_index)
                loss.backward()
                optimizer.step()
                yield loss.item()


def soak(options):
    """Train; returns the seconds of processor time and the resident bytes of every step."""
    seconds, memory = [], []
    began, before = time.monotonic(), time.process_time()
    shown = began
    for step, loss in enumerate(training(options), 1):
        now, used = time.monotonic(), time.process_time()
        seconds.append(used - before)
        memory.append(resident())
        before = used
        if not math.isfinite(loss):
            sys.exit(f"soak: the loss is {loss} at step {step}")
        done = now - began > options.minutes * 60 or step >= options.steps
        if done or now - shown >= 60:
            shown = now
            print(f"{now - began:6.0f} s  step {step}  {1000 * statistics.median(seconds[-200:]):.1f} ms  "
                  f"{memory[-1] / 2**20:.1f} MB  loss {loss:.3f}", flush=True)
        if done:
            return seconds, memory


def verdict(seconds, memory):
    """(sentence, is it well) of both promises: the last tenth of the steps against the second."""
    tenth = max(1, len(seconds) // 10)
    early, late = slice(tenth, 2 * tenth), slice(-tenth, None)
    growth = max(memory[late]) / max(memory[:2 * tenth]) - 1
    slowdown = statistics.median(seconds[late]) / statistics.median(seconds[early]) - 1
    yield f"memory grew by {growth:.2%} (allowed: {MOST_GROWTH:.0%})", growth <= MOST_GROWTH
    yield f"a step takes {slowdown:+.1%} longer (allowed: {MOST_SLOWDOWN:.0%})", slowdown <= MOST_SLOWDOWN


def main():
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder in CamVid's layout (default: generated scenes)")
    parser.add_argument("--steps", type=int, default=20_000, help="at most (default: %(default)s)")
    parser.add_argument("--minutes", type=float, default=120, help="at most (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=1, help="of the loader (default: %(default)s)")
    well = True
    for sentence, is_well in verdict(*soak(parser.parse_args())):
        print(f"{'ok' if is_well else 'FAILED'}: {sentence}")
        well &= is_well
    sys.exit(not well)


if __name__ == "__main__":
    main()
