"""Checkpoints: everything comes back, and what doesn't fit is refused with nothing changed."""

import json
import os

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, optim, random
from tinynet.checkpoint import load_checkpoint, read_description, save_checkpoint
from tinynet.safetensors import load, load_metadata, save


class Line(nn.Module):
    def __init__(self, size=3, bias=True):
        self.weight = nn.Parameter(np.arange(size, dtype=np.float32))
        self.bias = nn.Parameter(np.ones(1, np.float32)) if bias else None
        self.mean = np.zeros(size, np.float32)


def trained(**options):
    """A model and its optimiser after one step, with nothing left at its initial value."""
    model = Line(**options)
    optimizer = optim.SGD(model.parameters(), lr=0.5, momentum=0.9)
    sum((p * p).sum() for p in model.parameters()).backward()
    optimizer.step()
    model.mean[...] = 7
    return model, optimizer


def fresh(**options):
    model = Line(**options)
    return model, optim.SGD(model.parameters(), lr=0.1, momentum=0.9)


def everything(model, optimizer):
    """Bytes of all that a checkpoint could change."""
    state = {**model.state_dict(), **{f"o.{k}": v for k, v in optimizer.state_dict().items()}}
    return {name: array.tobytes() for name, array in state.items()}, json.dumps(random.get_state())


@pytest.fixture
def path(tmp_path):
    return tmp_path / "checkpoint.safetensors"


def test_everything_comes_back(path):
    model, optimizer = trained()
    random.generator().random(5)
    expected = everything(model, optimizer)
    progress = {"epoch": 2, "loss": 0.1 + 0.2, "history": [{"a": float("inf")}]}
    save_checkpoint(path, model, optimizer, progress)

    tn.manual_seed(9)
    model, optimizer = fresh()
    assert everything(model, optimizer) != expected
    assert load_checkpoint(path, model, optimizer) == progress
    assert everything(model, optimizer) == expected


def test_without_optimizer_only_the_model_changes(path):
    saved, optimizer = trained()
    save_checkpoint(path, saved, optimizer, {})
    tn.manual_seed(9)
    before = random.get_state()
    model, _ = fresh()
    load_checkpoint(path, model)
    assert all(np.array_equal(a, model.state_dict()[name]) for name, a in saved.state_dict().items())
    assert random.get_state() == before


def test_description(path):
    save_checkpoint(path, *trained(), {"epoch": 1}, config={"layers": [1, 2]})
    description = read_description(path)
    assert description["model"] == "Line"
    assert description["config"] == {"layers": [1, 2]}
    assert description["progress"] == {"epoch": 1}


@pytest.mark.parametrize("options, names", [
    ({"size": 4}, ["weight", "mean"]),
    ({"bias": False}, ["bias"]),
])
def test_another_model_is_refused_and_nothing_changed(options, names, path):
    save_checkpoint(path, *trained(), {})
    model, optimizer = fresh(**options)
    tn.manual_seed(9)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match="saved from a Line, does not fit this Line") as caught:
        load_checkpoint(path, model, optimizer)
    assert str(path) in str(caught.value)
    assert all(name in str(caught.value) for name in names)
    assert everything(model, optimizer) == before


def damaged(path, change):
    """The checkpoint at `path`, written anew after `change(state, metadata)`."""
    state, metadata = load(path), load_metadata(path)
    change(state, metadata)
    save(state, path, metadata)


@pytest.mark.parametrize("change, match", [
    (lambda state, metadata: state.pop("model.mean"), "mean"),
    (lambda state, metadata: state.update({"model.x": np.zeros(1)}), "x"),
    (lambda state, metadata: state.update({"model.mean": np.zeros(3)}), "float64"),
    (lambda state, metadata: state.pop("optimizer.velocity.0"), "velocity.0"),
    (lambda state, metadata: state.update({"optimizer.lr": np.array(np.nan)}), "lr"),
    (lambda state, metadata: metadata.update(random="{}"), "does not fit"),
    (lambda state, metadata: metadata.update(random='{"bit_generator": "MT19937"}'), "does not fit"),
    (lambda state, metadata: metadata.update(random=metadata["random"].replace('"inc": ', '"inc": 9' + 99 * "0")),
     "does not fit"),
], ids=["missing", "unexpected", "dtype", "optimiser", "lr", "no random", "other random", "huge random"])
def test_a_late_fault_leaves_nothing_half_changed(change, match, path):
    save_checkpoint(path, *trained(), {})
    damaged(path, change)
    model, optimizer = fresh()
    tn.manual_seed(9)
    before = everything(model, optimizer)
    with pytest.raises(ValueError, match=match):
        load_checkpoint(path, model, optimizer)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize("change, match", [
    (lambda state, metadata: metadata.clear(), "no checkpoint"),
    (lambda state, metadata: metadata.update(tinynet="checkpoint 2"), "no checkpoint"),
    (lambda state, metadata: metadata.update(progress="{"), "damaged"),
    (lambda state, metadata: metadata.pop("random"), "damaged"),
    (lambda state, metadata: metadata.update(progress="[1]"), "must each be a table"),
])
def test_what_is_no_checkpoint(change, match, path):
    save_checkpoint(path, *trained(), {})
    damaged(path, change)
    with pytest.raises(ValueError, match=match) as caught:
        load_checkpoint(path, *fresh())
    assert str(path) in str(caught.value)


def test_a_file_cut_at_any_byte_is_refused(path):
    save_checkpoint(path, *trained(), {"epoch": 1})
    model, optimizer = fresh()
    before = everything(model, optimizer)
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        with pytest.raises(ValueError, match="not a sound safetensors file"):
            load_checkpoint(path, model, optimizer)
    assert everything(model, optimizer) == before


def test_what_json_does_not_hold(path):
    with pytest.raises(TypeError, match="progress must hold only what JSON does"):
        save_checkpoint(path, *trained(), {"loss": np.float32(1)})
    assert not path.exists()
