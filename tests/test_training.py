"""The training loop: it learns, it records, and a stop anywhere leaves no trace in the results."""

import csv
import json
import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, optim, training
from tinynet.checkpoint import read_description, save_checkpoint
from tinynet.data.loader import DataLoader
from tinynet.safetensors import load, load_metadata, save
from tinynet.training import fit


class Line(nn.Module):
    """y = x . w, while training with random noise (as dropout has) and a buffer (as batch_norm has)."""

    def __init__(self, size=3):
        self.weight = nn.Parameter(np.zeros((1, size), np.float32))
        self.mean = np.zeros(size, np.float32)

    def forward(self, x):
        if self.training:
            x = x + np.float32(0.1) * tn.random.generator().random(x.shape, np.float32)
            self.mean[...] = 0.9 * self.mean + 0.1 * x.mean(axis=0)
        return (tn.Tensor(x) * self.weight).sum(axis=1)


def dataset(samples=10, size=3):
    rng = np.random.default_rng(1)
    x = rng.normal(size=(samples, size)).astype(np.float32)
    return [(row, np.float32(row @ np.arange(size))) for row in x]


def squared_error(model, batch):
    x, y = batch
    return ((model(x) - tn.Tensor(y)) ** 2).mean()


def evaluate(model):
    assert not model.training
    return {"weight_sum": np.float32(model.weight.data.sum()), "draw": tn.random.generator().random()}


SETTINGS = {"epochs": 3, "schedule": optim.CosineLR(0.1, total_steps=9), "clip_norm": 5.0,
            "evaluate": evaluate, "follow": ("weight_sum", max), "config": {"seed": 4}}
BATCHES = 3


def run(out, loss_fn=squared_error, loader=None, **changes):
    """A whole run from scratch, seeds, model and all: 3 epochs of 3 batches, the last of them smaller."""
    tn.manual_seed(4)
    model = Line().eval()       # fit is to switch it
    optimizer = optim.Adam(model.parameters(), lr=0.1)
    loader = loader or DataLoader(dataset(), batch_size=4, shuffle=True, seed=4)
    return fit(model, optimizer, loader, loss_fn, out=out, **(SETTINGS | changes))


def files(out):
    return {name: (out / name).read_bytes() for name in sorted(os.listdir(out))}


def interrupting(call, action):
    """The loss, but on its `call`-th call (from 1) `action` happens first."""
    calls = 0

    def loss_fn(model, batch):
        nonlocal calls
        calls += 1
        if calls == call:
            action()
        return squared_error(model, batch)
    return loss_fn


def send(*numbers):
    def action():
        for number in numbers:
            os.kill(os.getpid(), number)
    return action


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    """History and files of the run that nothing interrupts."""
    out = tmp_path_factory.mktemp("reference")
    return run(out), files(out)


# Learning and recording

def test_it_learns(tmp_path):
    history = run(tmp_path, epochs=40, schedule=None)
    assert history[-1]["loss"] < 0.05 * history[0]["loss"]


def test_history_is_the_metrics_file(reference):
    history, written = reference
    rows = list(csv.DictReader(written["metrics.csv"].decode().splitlines()))
    assert [{name: float(value) for name, value in row.items()} for row in rows] == history
    assert list(rows[0]) == ["epoch", "step", "loss", "lr", "weight_sum", "draw"]
    assert [(row["epoch"], row["step"]) for row in rows] == [("1", "3"), ("2", "6"), ("3", "9")]
    assert history[1]["lr"] == SETTINGS["schedule"](5)


def test_loss_is_the_mean_over_samples(tmp_path):
    losses = []

    def loss_fn(model, batch):
        loss = squared_error(model, batch)
        losses.append((loss.item(), len(batch[0])))
        return loss

    (row,) = run(tmp_path, loss_fn, epochs=1)
    assert [samples for _, samples in losses] == [4, 4, 2]
    assert row["loss"] == sum(loss * samples for loss, samples in losses) / 10


def test_schedule_sets_the_rate_of_each_step(tmp_path):
    steps = []
    run(tmp_path, epochs=1, schedule=lambda step: steps.append(step) or 0.1 * (step + 1))
    assert steps[:BATCHES] == [0, 1, 2]


def test_evaluation_has_no_graph_and_no_training_mode(tmp_path):
    seen = []

    def look(model):
        seen.append((model.training, squared_error(model, next(loader)).requires_grad))
        return {}

    loader = DataLoader(dataset(), batch_size=4).batches(0)
    modes = []
    run(tmp_path, lambda model, batch: modes.append(model.training) or squared_error(model, batch), epochs=2,
        evaluate=look, follow=None,
        after_epoch=lambda epoch, model, row: seen.append((epoch, model.training)))
    assert seen == [(False, False), (1, False), (False, False), (2, False)]
    assert modes == [True] * 2 * BATCHES


@pytest.mark.parametrize("follow, values, best_epoch", [
    (max, [1, 3, 2], 2), (min, [1, 3, 2], 1), (max, [2, 2, 1], 1),
    (max, [float("nan"), 1, float("nan")], 2), (min, [3, float("nan"), 2], 3),
])
def test_best_checkpoint(follow, values, best_epoch, tmp_path):
    left = iter(values)
    run(tmp_path, evaluate=lambda model: {"score": next(left)}, follow=("score", follow))
    assert read_description(tmp_path / "best.safetensors")["progress"]["epoch"] == best_epoch


def test_a_new_run_replaces_the_one_in_its_folder(tmp_path, reference):
    run(tmp_path, epochs=5)
    run(tmp_path)
    assert files(tmp_path)["metrics.csv"] == reference[1]["metrics.csv"]
    assert files(tmp_path)["checkpoint.safetensors"] == reference[1]["checkpoint.safetensors"]


# Stopping and resuming

@pytest.mark.parametrize("call", range(1, 3 * BATCHES + 1))
def test_stopped_after_any_batch_and_resumed_gives_the_same_bits(call, tmp_path, reference, capsys):
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, interrupting(call, send(signal.SIGINT)))
    assert caught.value.code == 130
    epoch, batch = (call - 1) // BATCHES + 1, (call - 1) % BATCHES + 1
    assert f"Stopped in epoch {epoch} after batch {batch} of 3" in capsys.readouterr().out
    progress = read_description(tmp_path / "checkpoint.safetensors")["progress"]
    assert (progress["epoch"], progress["batch"], progress["step"]) == (epoch, batch, call)

    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


def test_stopped_after_every_batch(tmp_path, reference):
    with pytest.raises(SystemExit):
        run(tmp_path, interrupting(1, send(signal.SIGINT)))
    for _ in range(3 * BATCHES - 1):
        with pytest.raises(SystemExit):
            run(tmp_path, interrupting(1, send(signal.SIGINT)), resume=True)
    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


@pytest.mark.parametrize("call", [1, 2, 4, 9])
def test_killed_without_a_word_and_resumed_gives_the_same_bits(call, tmp_path, reference):
    def die():
        raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupting(call, die))
    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


@pytest.mark.parametrize("place", ["evaluate", "after_epoch"])
@pytest.mark.parametrize("dying_epoch", [1, 2, 3])
def test_killed_after_an_epoch_and_resumed_gives_the_same_bits(place, dying_epoch, tmp_path, reference):
    epochs = []

    def die(*args):
        epochs.append(1)
        if len(epochs) == dying_epoch:
            raise RuntimeError("killed")
        return evaluate(args[0]) if place == "evaluate" else None

    with pytest.raises(RuntimeError, match="killed"):
        run(tmp_path, **{place: die})
    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


def test_resuming_a_finished_run_changes_nothing(tmp_path, reference):
    run(tmp_path)
    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


def test_resuming_with_more_epochs_goes_on(tmp_path, reference):
    run(tmp_path, epochs=2)
    assert run(tmp_path, resume=True) == reference[0]
    assert files(tmp_path) == reference[1]


@pytest.mark.filterwarnings("ignore:DataLoader. skipped")
@pytest.mark.parametrize("call", [1, 4, 7, 14])
def test_where_samples_are_skipped_a_stop_leaves_no_trace_either(call, tmp_path):
    """Of ten batches of one sample, three can't be read and so aren't given."""
    class Broken(list):
        def __getitem__(self, index):
            if index in (2, 3, 9):
                raise OSError("it is broken")
            return super().__getitem__(index)

    def loader():
        return DataLoader(Broken(dataset()), batch_size=1, shuffle=True, seed=4, on_error="skip")

    whole = run(tmp_path / "whole", loader=loader())
    assert [row["step"] for row in whole] == [7, 14, 21]
    with pytest.raises(SystemExit):
        run(tmp_path / "stopped", interrupting(call, send(signal.SIGINT)), loader=loader())
    assert run(tmp_path / "stopped", loader=loader(), resume=True) == whole
    assert files(tmp_path / "stopped") == files(tmp_path / "whole")


def test_the_second_signal_stops_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(training.StopSignals, "ECHO_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, interrupting(2, send(signal.SIGINT, signal.SIGINT)))
    assert read_description(tmp_path / "checkpoint.safetensors")["progress"]["step"] == 0


def test_a_signal_that_comes_twice_at_one_time_is_one(tmp_path):
    with pytest.raises(SystemExit):
        run(tmp_path, interrupting(2, send(signal.SIGINT, signal.SIGINT)))


def test_sigterm_and_the_handlers_afterwards(tmp_path):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as caught:
        run(tmp_path, interrupting(2, send(signal.SIGTERM)))
    assert caught.value.code == 143
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_exit_code_of_a_process(tmp_path):
    script = textwrap.dedent("""
        import pathlib, signal, sys
        from tests.test_training import interrupting, run, send
        run(pathlib.Path(sys.argv[1]), interrupting(2, send(signal.SIGINT)))
    """)
    command = [sys.executable, "-c", script, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 130
    assert "Traceback" not in done.stderr
    assert "Stopped in epoch 1 after batch 2 of 3" in done.stdout


# What is refused

def test_resuming_without_a_checkpoint(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no .*checkpoint.safetensors to resume from"):
        run(tmp_path, resume=True)


def test_resuming_a_checkpoint_of_another_loop(tmp_path):
    model = Line()
    optimizer = optim.SGD(model.parameters(), lr=1.0)
    save_checkpoint(tmp_path / "checkpoint.safetensors", model, optimizer, {"epoch": 1})
    with pytest.raises(ValueError, match="was not written by fit"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize("damage", [
    {"epoch": "2"}, {"step": 1.5}, {"history": {}}, {"batch": True}, {"loss_sum": None},
])
def test_resuming_a_damaged_checkpoint(damage, tmp_path):
    run(tmp_path, epochs=1)
    path = tmp_path / "checkpoint.safetensors"
    metadata = load_metadata(path)
    metadata["progress"] = json.dumps(json.loads(metadata["progress"]) | damage)
    save(load(path), path, metadata)
    with pytest.raises(ValueError, match="checkpoint.safetensors was not written by fit"):
        run(tmp_path, resume=True)


def test_resuming_another_run(tmp_path):
    run(tmp_path, epochs=1)
    before = files(tmp_path)
    with pytest.raises(ValueError, match="seed was 4, is 5; width was not given, is 2"):
        run(tmp_path, resume=True, config={"seed": 5, "width": 2})
    with pytest.raises(ValueError, match="clip_norm was 5.0, is None"):
        run(tmp_path, resume=True, clip_norm=None)
    assert files(tmp_path) == before


def test_a_config_of_tuples_resumes(tmp_path):
    run(tmp_path, epochs=1, config={"size": (2, 3)})
    assert len(run(tmp_path, epochs=2, config={"size": (2, 3)}, resume=True)) == 2


def test_an_unwritable_out_is_refused_before_any_work(tmp_path):
    (tmp_path / "plain").touch()

    def never(model, batch):
        pytest.fail("work was done")
    for out in (tmp_path / "plain", tmp_path / "plain" / "below"):
        with pytest.raises(OSError, match=f"out: cannot write in the folder {out} "):
            run(out, never)


@pytest.mark.parametrize("changes, error, match", [
    ({"evaluate": None}, ValueError, "there is no evaluate"),
    ({"config": {"size": np.float32(1)}}, TypeError, "config must hold only what JSON does"),
    ({"evaluate": lambda model: {"loss": 1.0}}, ValueError, "evaluate gave loss, which metrics.csv"),
    ({"follow": ("iou", max)}, ValueError, r"follow is 'iou', but evaluate gave \['weight_sum', 'draw'\]"),
    ({"evaluate": lambda model: {str(model.mean[0]): 0.0}, "follow": None}, ValueError, "first epoch"),
])
def test_mistaken_arguments(changes, error, match, tmp_path):
    with pytest.raises(error, match=match):
        run(tmp_path, **changes)


@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_a_loss_that_is_not_finite(factor, tmp_path):
    calls = []

    def loss_fn(model, batch):
        calls.append(1)
        return squared_error(model, batch) * (factor if len(calls) == 5 else 1.0)
    sentence = rf"the loss is {factor} at step 4 \(epoch 2, batch 2\).*try a lower one"
    with pytest.raises(FloatingPointError, match=sentence):
        run(tmp_path, loss_fn)
    assert read_description(tmp_path / "checkpoint.safetensors")["progress"]["step"] == 3


def test_weights_that_are_not_finite_do_not_replace_a_good_checkpoint(tmp_path):
    def spoil():
        models[0].mean[0] = np.inf
    models = []

    def loss_fn(model, batch):
        models[:] = [model]
        return spoiling(model, batch)
    spoiling = interrupting(6, spoil)
    with pytest.raises(FloatingPointError, match="mean is not finite after 6 steps"):
        run(tmp_path, loss_fn)
    assert read_description(tmp_path / "checkpoint.safetensors")["progress"]["step"] == 3


def test_a_failing_disk_leaves_the_last_checkpoint(tmp_path, monkeypatch):
    def fail():
        def replace(*names):
            raise OSError(28, "No space left on device")
        monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(OSError, match="cannot write .*checkpoint.safetensors: No space left on device"):
        run(tmp_path, interrupting(5, fail))
    assert read_description(tmp_path / "checkpoint.safetensors")["progress"]["step"] == 3
    assert sorted(os.listdir(tmp_path)) == ["best.safetensors", "checkpoint.safetensors", "metrics.csv"]


# The terminal

def test_plain_lines_where_no_terminal_is(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(training.Display, "SECONDS", 0)
    run(tmp_path, epochs=1)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[:2] for line in lines[:3]] == [["epoch 1/1", f"batch {n}/3"] for n in (1, 2, 3)]
    assert "loss" in lines[0] and "lr 0.1" in lines[0] and "images/s" in lines[0] and "left" in lines[0]
    assert lines[3].startswith("epoch 1/1  loss ") and "weight_sum" in lines[3] and lines[3].endswith(" s")


def test_a_bar_on_a_terminal_and_none_without_tqdm(tmp_path, capsys, monkeypatch):
    pytest.importorskip("tqdm")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    run(tmp_path, epochs=1)
    assert "epoch 1/1:" in capsys.readouterr().out
    monkeypatch.setitem(sys.modules, "tqdm", None)
    run(tmp_path, epochs=1)
    assert "epoch 1/1:" not in capsys.readouterr().out
