"""The training loop, the one that all examples use: it shows, records, saves and resumes.

One step of gradient descent is `train_step`; `fit` repeats it over the batches of all epochs. Around it:

    A checkpoint is a place between two batches: weights, optimiser, random numbers, and `Progress`, which
    says where. One is written before the first batch, after the last of each epoch, and on Ctrl-C. What
    follows an epoch's checkpoint (evaluation, metrics, pictures) is simply done again on resuming there.

Several processes may train together (team.py, interop/mpi.py). Each takes its part of every batch, and the first
alone evaluates, writes and draws.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any, Self, TypeVar

import numpy as np

from tinynet import random, team
from tinynet.autograd import no_grad
from tinynet.checkpoint import load_checkpoint, read_description, save_checkpoint
from tinynet.data.loader import DataLoader
from tinynet.nn import Module
from tinynet.optim import Optimizer, clip_grad_norm
from tinynet.safetensors import write_atomically
from tinynet.team import is_first
from tinynet.tensor import Tensor
from tinynet.typing import FilePath

M = TypeVar("M", bound=Module)
Row = dict[str, float]  # of metrics.csv

CHECKPOINT, BEST, METRICS = "checkpoint.safetensors", "best.safetensors", "metrics.csv"


def fit(model: M, optimizer: Optimizer, loader: DataLoader, loss_fn: Callable[[M, Any], Tensor], *, epochs: int,
        out: FilePath, schedule: Callable[[int], float] | None = None, clip_norm: float | None = None,
        evaluate: Callable[[M], dict[str, float]] | None = None, follow: tuple[str, Callable[..., Any]] | None = None,
        after_epoch: Callable[[int, M, Row], object] | None = None, resume: bool = False,
        config: dict[str, Any] | None = None) -> list[Row]:
    """Train `model` for `epochs` epochs; returns the history, a list of one dict for each epoch.

    - loader: a `data.DataLoader`; each batch is a tuple of ndarrays.
    - loss_fn(model, batch): the loss, a scalar Tensor; the mean over the batch.
    - out: the folder for checkpoint.safetensors, best.safetensors and metrics.csv; a run there is replaced.
    - schedule(step): the learning rate of a step, counted from 0; a pure function.
    - clip_norm: the largest norm that the gradient of all parameters together may have.
    - evaluate(model): a dict of numbers, after each epoch, in evaluation mode and without a graph.
    - follow: ("mean_iou", max) or ("val_loss", min): which of these says when to write best.safetensors.
    - after_epoch(epoch, model, metrics): for pictures; in evaluation mode; metrics is the row of metrics.csv.
    - resume: go on from the checkpoint in `out`; the results are, bit for bit, those without the stop.
    - config: a dict that JSON holds; resuming with another one is refused.

    Within interop.mpi.group() several processes share the work: the loader's batch_size is that of all together.

    Epochs count from 1. The first Ctrl-C (or SIGTERM) stops between two batches, with a checkpoint, and exits
    with code 130 (143); the second stops at once. Raises ValueError for a checkpoint of something else,
    OSError where `out` can't be written, FloatingPointError when the loss or a weight is no longer finite:
    the checkpoint is then the last good one.
    """
    if follow is not None and evaluate is None:
        raise ValueError(f"fit: follow is {follow!r}, but there is no evaluate whose numbers it could follow")
    config = _checked_config({**(config or {}), "clip_norm": clip_norm, "batches_per_epoch": len(loader)})
    checkpoint, best, table = (os.path.join(out, name) for name in (CHECKPOINT, BEST, METRICS))
    progress, ranks = Progress(), team.current()
    part = ranks.rank, ranks.size
    loader.batches(progress.epoch, part=part)  # refuses what can't be shared, before anything is written
    if is_first():
        make_folder(out)
        if resume:
            progress = _resumed(checkpoint, model, optimizer, config)
        write_metrics(table, progress.history)
        if not resume:
            _save(checkpoint, model, optimizer, progress, config)
    progress = _same_in_all(ranks, model, optimizer, progress)

    model.train()
    with StopSignals() as stop, Display(epochs, len(loader)) as display:
        while progress.epoch <= epochs:
            display.begin_epoch(progress)
            with closing(loader.batches(progress.epoch, progress.batch, part)) as batches:
                for batch in batches:
                    if schedule is not None:
                        optimizer.lr = schedule(progress.step)
                    loss, samples = train_step(model, optimizer, batch, loss_fn, clip_norm, progress)
                    progress.count(loss, samples, loader.position)
                    display.show_batch(progress, optimizer.lr)
                    if ranks.agree(stop.signal):
                        break
            if is_first():
                _save(checkpoint, model, optimizer, progress, config)
            if stopped_by := ranks.agree(stop.signal):
                display.close()
                print(f"Stopped in epoch {progress.epoch} after batch {progress.batch} of {len(loader)}; "
                      f"saved {checkpoint}. To go on, do the same with resume=True (--resume).", flush=True)
                raise SystemExit(128 + stopped_by)

            row = {"epoch": progress.epoch, "step": progress.step,
                   "loss": progress.mean_loss, "lr": optimizer.lr}
            if is_first():
                with evaluating(model):
                    if evaluate is not None:
                        row |= _checked_metrics(evaluate(model), row, progress.history, follow)
                    progress.history.append(row)
                    write_metrics(table, progress.history)
                    if follow is not None and _is_best(progress.history, *follow):
                        _save(best, model, optimizer, progress, config)
                    display.end_epoch(progress, row)
                    if after_epoch is not None:
                        after_epoch(progress.epoch, model, row)
            progress.history, state = ranks.broadcast((progress.history, random.get_state()))
            random.set_state(state)
            progress.next_epoch()
    return progress.history


def train_step(model: M, optimizer: Optimizer, batch: Any, loss_fn: Callable[[M, Any], Tensor], clip_norm: float | None,
               progress: Progress) -> tuple[float, int]:
    """One step of gradient descent on one batch; returns the loss before it, and the number of samples.

    Of several processes, each with its part of the batch, all take the same step: that of the whole batch.
    """
    ranks = team.current()
    optimizer.zero_grad()
    with ranks.own_random():
        loss = loss_fn(model, batch)
    value, samples = ranks.mean(loss.item(), len(batch[0]))
    _check_finite("the loss", value, progress, optimizer)
    ranks.backward(loss, len(batch[0]) / samples, optimizer.parameters)
    if clip_norm is not None:
        norm = clip_grad_norm(model.parameters(), clip_norm)
        _check_finite("the gradient's norm", norm, progress, optimizer)
    optimizer.step()
    return value, samples


@contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode and no graph is recorded; afterwards it's in training mode."""
    model.eval()
    try:
        with no_grad():
            yield
    finally:
        model.train()


@dataclass
class Progress:
    """How far training is: a place between two batches."""
    epoch: int = 1                  # the present epoch, counted from 1
    batch: int = 0                  # its batches that are done
    step: int = 0                   # all batches that are done
    loss_sum: float = 0.0           # over this epoch's samples so far
    samples: int = 0                # of this epoch so far
    history: list[Row] = field(default_factory=list)     # the rows of metrics.csv

    @property
    def mean_loss(self) -> float:
        return self.loss_sum / self.samples

    def count(self, loss: float, samples: int, position: int) -> None:
        self.batch = position               # a batch of which nothing could be read was left out
        self.step += 1
        self.loss_sum += loss * samples     # the last batch may be smaller: weigh it by its samples
        self.samples += samples

    def next_epoch(self) -> None:
        self.epoch += 1
        self.batch = self.samples = 0
        self.loss_sum = 0.0


# Files

def make_folder(out: FilePath) -> None:
    """Make the folder `out` if need be and try to write in it, to fail before the work; raises OSError."""
    try:
        os.makedirs(out, exist_ok=True)
        trial = os.path.join(out, f".trial-{os.getpid()}")
        with open(trial, "wb"):
            os.remove(trial)
    except OSError as error:
        raise OSError(f"out: cannot write in the folder {os.fspath(out)} ({error.strerror or error}); "
                      "give another one") from error


def write_metrics(path: FilePath, history: list[Row]) -> None:
    """Write the whole history as CSV, a column for each key, in one step: a reader never sees half a row.

    It is written anew after each epoch, so rows past a checkpoint vanish on resuming there by themselves.
    """
    text = io.StringIO()
    if history:
        table = csv.DictWriter(text, list(history[0]), lineterminator="\n")
        table.writeheader()
        table.writerows(history)
    write_atomically(path, [text.getvalue().encode()])


def _save(path, model, optimizer, progress, config):
    """Write a checkpoint, but never over a good one when the weights have become useless."""
    for name, array in model.state_dict().items():
        if not np.isfinite(array).all():
            raise FloatingPointError(f"fit: {name} is not finite after {progress.step} steps; try a lower "
                                     "learning rate, or clip_norm=1.0; the checkpoint is the last good one")
    save_checkpoint(path, model, optimizer, asdict(progress), config)


def _resumed(checkpoint, model, optimizer, config):
    """The progress of a checkpoint of the same run, once model and optimiser are in its state."""
    if not os.path.exists(checkpoint):
        raise FileNotFoundError(f"fit: there is no {checkpoint} to resume from; give the folder of a run "
                                "that was started, or start one without resume")
    description = read_description(checkpoint)
    if _kinds(description["progress"]) != _kinds(asdict(Progress())):
        raise ValueError(f"fit: {checkpoint} was not written by fit; load_checkpoint reads it")
    before = description["config"]
    absent = "not given"
    names = [name for name in {**before, **config} if before.get(name, absent) != config.get(name, absent)]
    differences = [f"{name} was {before.get(name, absent)}, is {config.get(name, absent)}" for name in names]
    if differences:
        raise ValueError(f"fit: {checkpoint} is of another run: {'; '.join(differences)}; "
                         "resume with what it was started with, or give another out")
    progress = Progress(**load_checkpoint(checkpoint, model, optimizer))
    batches = config["batches_per_epoch"]
    print(f"Resuming in epoch {progress.epoch} after batch {progress.batch} of {batches}.", flush=True)
    return progress


def _same_in_all(ranks, model, optimizer, progress):
    """Every process starts from the first one's weights, optimiser, random numbers and progress."""
    if ranks.size == 1:
        return progress
    weights, state, numbers, progress = ranks.broadcast(
        (model.state_dict(), optimizer.state_dict(), random.get_state(), progress))
    model.load_state_dict(weights)
    optimizer.load_state_dict(state)
    random.set_state(numbers)
    return progress


def _kinds(progress):
    """The names of a progress and the types of their values, by which to know one."""
    return {name: type(value) for name, value in progress.items()}


# Checks

def _check_finite(what, value, progress, optimizer):
    if not math.isfinite(value):
        place = f"step {progress.step} (epoch {progress.epoch}, batch {progress.batch + 1})"
        raise FloatingPointError(
            f"fit: {what} is {value} at {place}, with the learning rate {optimizer.lr:g}; try a lower one, "
            "or clip_norm=1.0 (tinynet.detect_anomaly() finds the operation); the last good checkpoint stays")


def _checked_config(config):
    """The config as JSON gives it back (tuples are lists there), to be compared with one that was read."""
    try:
        return json.loads(json.dumps(config))
    except (TypeError, ValueError) as error:
        raise TypeError("fit: config must hold only what JSON does (numbers, strings, lists, dicts): "
                        f"{error}") from None


def _checked_metrics(metrics, row, history, follow):
    """evaluate's numbers as floats, with the same names in every epoch."""
    taken = [name for name in metrics if name in row]
    if taken:
        raise ValueError(f"fit: evaluate gave {', '.join(taken)}, which metrics.csv already has for the "
                         "training; rename it, say, to val_loss")
    if history and list(history[0]) != [*row, *metrics]:
        raise ValueError(f"fit: evaluate gave {list(metrics)}, but in the first epoch "
                         f"{list(history[0])[len(row):]}; give the same in the same order (nan for none)")
    if follow is not None and follow[0] not in metrics:
        raise ValueError(f"fit: follow is {follow[0]!r}, but evaluate gave {list(metrics)}; follow one")
    return {name: float(value) for name, value in metrics.items()}


def _is_best(history, name, better):
    """Whether the last row has the best value so far; the first of equals stays the best, nan never is."""
    *earlier, last = (row[name] for row in history)
    earlier = [value for value in earlier if not math.isnan(value)]
    return not math.isnan(last) and last not in earlier and better([last, *earlier]) == last


# The terminal

class StopSignals:
    """Turns the first Ctrl-C or SIGTERM into a wish that the loop grants between batches; the second acts."""

    ECHO_SECONDS = 0.5          # launchers such as timeout pass on a signal that the whole group has got

    def __init__(self) -> None:
        self.signal = 0         # the number of the signal that came
        self.previous = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():       # Python allows it nowhere else
            for number in (signal.SIGINT, signal.SIGTERM):
                self.previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self.previous.items():
            signal.signal(number, handler or signal.SIG_DFL)

    def _receive(self, number, frame):
        if self.signal:
            if time.monotonic() - self.received < self.ECHO_SECONDS:
                return
            raise KeyboardInterrupt
        self.signal = number
        self.received = time.monotonic()
        # print() is not safe here: the signal may have come in the middle of another print
        os.write(2, b"\nStopping after this batch, with a checkpoint. Once more to stop at once, without.\n")


class Display:
    """A line an epoch, and meanwhile tqdm's bar, or without it or a terminal a line every ten seconds."""

    SECONDS = 10

    def __init__(self, epochs: int, batches: int) -> None:
        self.epochs = epochs
        self.batches = batches
        self.bar = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None

    def begin_epoch(self, progress: Progress) -> None:
        self.began = self.shown = time.monotonic()
        self.first_batch, self.first_sample = progress.batch, progress.samples
        tqdm = _find_tqdm()
        if tqdm is not None and sys.stdout.isatty():
            self.bar = tqdm(total=self.batches, initial=progress.batch, desc=self._title(progress),
                            unit="batch", leave=False, dynamic_ncols=True, file=sys.stdout)

    def show_batch(self, progress: Progress, lr: float) -> None:
        text = f"loss {progress.mean_loss:.4g}  lr {lr:.3g}  {self._speed(progress):.0f} images/s"
        if self.bar is not None:
            self.bar.set_postfix_str(text, refresh=False)
            self.bar.update()
        elif time.monotonic() - self.shown >= self.SECONDS:
            self.shown = time.monotonic()
            done, left = progress.batch - self.first_batch, self.batches - progress.batch
            seconds = (self.shown - self.began) / done * left
            print(f"{self._title(progress)}  batch {progress.batch}/{self.batches}  {text}  "
                  f"{seconds // 60:.0f}:{seconds % 60:02.0f} left", flush=True)

    def end_epoch(self, progress: Progress, row: Row) -> None:
        self.close()
        numbers = [f"{name} {value:.4g}" for name, value in row.items() if name not in ("epoch", "step")]
        seconds = time.monotonic() - self.began
        print("  ".join([self._title(progress), *numbers, f"{seconds:.1f} s"]), flush=True)

    def _title(self, progress):
        return f"epoch {progress.epoch}/{self.epochs}"

    def _speed(self, progress):
        return (progress.samples - self.first_sample) / max(time.monotonic() - self.began, 1e-9)


def _find_tqdm():
    try:
        from tqdm import tqdm  # an extra: pip install tinynet[examples]
    except ImportError:
        return None
    return tqdm
