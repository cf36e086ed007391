"""TensorBoard reads what python -m tinynet tensorboard makes of metrics.csv: every value and step, once."""

import math
import sys

import numpy as np
import pytest

from tinynet import __main__, training
from tinynet.interop import tensorboard

ROWS = [
    {"epoch": 1, "step": 23, "loss": 0.1, "lr": 1e-3, "mean_iou": math.nan},
    {"epoch": 2, "step": 46, "loss": 1 / 3, "lr": 5e-4, "mean_iou": 0.7123456789012345},
    {"epoch": 3, "step": 69, "loss": 2.5e-17, "lr": 1e300, "mean_iou": math.inf},
]


def curves(folder):
    """{name: [(step, value), ...]} as TensorBoard's own reader has it."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    util = pytest.importorskip("tensorboard.util.tensor_util")
    reader = accumulator.EventAccumulator(str(folder), size_guidance={"tensors": 0}).Reload()
    names = reader.Tags()["tensors"]
    assert {reader.SummaryMetadata(name).plugin_data.plugin_name for name in names} <= {"scalars"}
    assert all(e.tensor_proto.dtype == 1 for name in names for e in reader.Tensors(name))       # DT_FLOAT
    return {name: [(e.step, util.make_ndarray(e.tensor_proto).item()) for e in reader.Tensors(name)] for name in names}


def expected(rows):
    """In float32, the only precision that TensorBoard's server shows."""
    with np.errstate(over="ignore"):
        return {name: [(row["step"], float(np.float32(row[name]))) for row in rows] for name in rows[0]
                if name not in ("epoch", "step")}


def event_files(folder):
    return sorted(folder.glob("events*"))


@pytest.fixture
def run(tmp_path):
    """A folder as training leaves it."""
    pytest.importorskip("tensorboard")
    folder = tmp_path / "with skips"
    folder.mkdir()
    training.write_metrics(folder / "metrics.csv", ROWS)
    return folder


def test_every_value_and_step_is_there(run):
    assert tensorboard.convert(run) == 9
    assert repr(curves(run)) == repr(expected(ROWS))            # repr, for NaN is not equal to itself


def test_a_second_time_nothing_is_doubled(run):
    tensorboard.convert(run)
    before = [(file, file.read_bytes()) for file in event_files(run)]
    assert tensorboard.convert(run) == 0
    assert [(file, file.read_bytes()) for file in event_files(run)] == before


def test_what_training_adds_is_added(run):
    training.write_metrics(run / "metrics.csv", ROWS[:1])
    assert tensorboard.convert(run) == 3
    training.write_metrics(run / "metrics.csv", ROWS)
    assert tensorboard.convert(run) == 6
    assert repr(curves(run)) == repr(expected(ROWS))


def test_a_run_begun_anew_replaces_the_old_one_and_leaves_others_files(run):
    others = run / "events.out.tfevents.1.other"
    others.write_bytes(b"")
    tensorboard.convert(run)
    again = [{**ROWS[0], "loss": 0.7}]
    training.write_metrics(run / "metrics.csv", again)
    assert tensorboard.convert(run) == 3
    assert others.exists()
    others.unlink()
    assert repr(curves(run)) == repr(expected(again))


def test_the_command_finds_the_runs_of_a_folder(run, capsys):
    assert __main__.main(["tensorboard", str(run.parent)]) == 0
    first, last = capsys.readouterr().out.splitlines()
    assert first == f"{run}: 9 new points" and last.endswith(f"tensorboard --logdir {run.parent}")
    assert set(curves(run)) == {"loss", "lr", "mean_iou"}


def test_a_folder_without_metrics_is_named(tmp_path, capsys):
    assert __main__.main(["tensorboard", str(tmp_path)]) == 1
    assert f"{tmp_path} holds no metrics.csv" in capsys.readouterr().out


@pytest.mark.parametrize("text", ["epoch,loss\n1,0.5\n", "epoch,step,loss\n1,23,low\n", "epoch,step,loss\n1,23\n"])
def test_a_table_of_something_else_is_refused(text, tmp_path):
    (tmp_path / "metrics.csv").write_text(text)
    with pytest.raises(ValueError, match=r"tensorboard: .*metrics\.csv, row of epoch 1: .* a column named step"):
        tensorboard.read_points(tmp_path / "metrics.csv")


def test_without_the_package_the_extra_is_named(tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "tensorboard"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ImportError, match=r"pip install 'tinynet\[tensorboard\]'"):
        tensorboard.convert(tmp_path)
