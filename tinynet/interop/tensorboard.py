"""The command tensorboard: the metrics.csv of finished or running trainings as event files, which TensorBoard shows.

Each column becomes a curve over the steps, its values rounded to float32: TensorBoard's server leaves out any others.
The event files stand beside metrics.csv, so runs have the names of their folders. Done again, only what is new is
added: TensorBoard, which may be watching, never sees a point twice. Where a run was begun anew, its old files go.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np

from tinynet.training import METRICS
from tinynet.typing import FilePath

SUFFIX = ".tinynet"  # of the event files made here: others' are left alone
AXES = ("epoch", "step")  # columns that are places, not values


class Point(NamedTuple):
    """A point of a curve."""

    step: int
    name: str
    value: str  # the number, written out: unlike numbers, NaN is then equal to itself


def main(arguments: list[str]) -> int:
    """The command: converts every metrics.csv of a folder; the status is 1 if there is none."""
    parser = argparse.ArgumentParser(
        prog="python -m tinynet tensorboard",
        description="Make TensorBoard's event files of each metrics.csv in a folder of results and the folders within. "
                    "Done again, it adds what is new. Then: tensorboard --logdir FOLDER")
    parser.add_argument("folder", type=Path, help="what was given to training as --out, or a folder of several")
    folder = parser.parse_args(arguments).folder
    tables = sorted(folder.rglob(METRICS))
    for table in tables:
        print(f"{table.parent}: {convert(table.parent)} new points")
    print(f"To look at them: tensorboard --logdir {folder}" if tables else
          f"{folder} holds no {METRICS}, nor do the folders within; give what training got as --out")
    return 0 if tables else 1


def convert(folder: FilePath) -> int:
    """Bring the event files in `folder` up to date with its metrics.csv; returns how many points were added.

    Raises ImportError without the extra [tensorboard], ValueError for a table that training didn't write.
    """
    board = _package()
    table = Path(folder) / METRICS
    wanted = read_points(table)
    files = sorted(table.parent.glob(f"events.out.tfevents.*{SUFFIX}"))
    there = [point for file in files for point in _written(board, file)]
    if wanted[:len(there)] != there:        # the run was begun anew, or resumed further back
        for file in files:
            file.unlink()
        there = []
    new = wanted[len(there):]
    if new:
        _write(board, table.parent, new, wall_time=os.stat(table).st_mtime)
    return len(new)


def read_points(table: FilePath) -> list[Point]:
    """The points of a metrics.csv, row by row; ValueError, naming file and line, for what are no numbers."""
    points = []
    with open(table, newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            try:
                step = int(row["step"])
                points += [Point(step, name, _single(float(text))) for name, text in row.items() if name not in AXES]
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"tensorboard: {table}, row of epoch {row.get('epoch')}: {error!r}; a table of "
                                 "training has a column named step and numbers in every row") from None
    return points


def _single(value):
    with np.errstate(over="ignore"):  # beyond 3e38 it becomes Inf
        return str(np.float32(value))


def _written(board, file):
    """The points of an event file, in order."""
    for event in board.EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            yield Point(event.step, value.tag, _single(board.make_ndarray(value.tensor)))


def _write(board, folder, points, wall_time):
    """A new event file with these points."""
    writer = board.EventFileWriter(str(folder), filename_suffix=SUFFIX)
    try:
        for step, name, text in points:
            tensor = board.make_tensor_proto(np.float32(text))
            value = board.Summary.Value(tag=name, tensor=tensor, metadata=board.create_summary_metadata(name, ""))
            writer.add_event(board.Event(step=step, wall_time=wall_time, summary=board.Summary(value=[value])))
    finally:
        writer.close()


def _package():
    """What is needed of the package tensorboard, an optional extra."""
    try:
        from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.scalar.metadata import create_summary_metadata
        from tensorboard.summary.writer.event_file_writer import EventFileWriter
        from tensorboard.util.tensor_util import make_ndarray, make_tensor_proto
    except ImportError:
        raise ImportError("tensorboard: the package tensorboard is not installed; it comes with the extra tensorboard: "
                          "pip install 'tinynet[tensorboard]'") from None
    return SimpleNamespace(
        EventFileLoader=EventFileLoader, EventFileWriter=EventFileWriter, Event=Event, Summary=Summary,
        create_summary_metadata=create_summary_metadata, make_ndarray=make_ndarray, make_tensor_proto=make_tensor_proto)
