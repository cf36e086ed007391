"""Checkpoints: all that training needs to go on, bit for bit, in one safetensors file.

    model.*       the model's parameters and buffers
    optimizer.*   the optimiser's state
    metadata      "model": its class; "config": what the caller says about the run; "progress": how far it is;
                  "random": the state of tinynet.random; the last three as JSON
"""

from __future__ import annotations

import json
import os
from typing import Any

from tinynet import random
from tinynet.nn import Module
from tinynet.optim import Optimizer
from tinynet.safetensors import load, load_metadata, save
from tinynet.typing import Array, FilePath

KIND = "checkpoint 1"       # the metadata's "tinynet": what the file is, and which version of it


def save_checkpoint(path: FilePath, model: Module, optimizer: Optimizer, progress: dict[str, Any],
                    config: dict[str, Any] | None = None) -> None:
    """Write model, optimiser, random state and `progress` to `path`, in one step: all of it, or nothing.

    `progress` and `config` are dicts that JSON holds; `config` describes the run (its model, batch size...).
    Raises TypeError for what JSON doesn't hold and OSError where the file can't be written.
    """
    state = {f"model.{name}": array for name, array in model.state_dict().items()}
    state |= {f"optimizer.{name}": array for name, array in optimizer.state_dict().items()}
    save(state, path, metadata={
        "tinynet": KIND,
        "model": type(model).__name__,
        "config": _to_json("config", config or {}),
        "progress": _to_json("progress", progress),
        "random": _to_json("random", random.get_state()),
    })


def load_checkpoint(path: FilePath, model: Module, optimizer: Optimizer | None = None) -> dict[str, Any]:
    """Put `model` into the state that `path` holds; returns the progress that was saved with it.

    With an optimiser, its state and the random state too, so that training goes on as if it never stopped.
    Raises ValueError for a file that is no checkpoint, or one of another model or optimiser, listing what is
    missing, unexpected or of another shape; then nothing has been changed.

    >>> import numpy as np, tempfile, os
    >>> from tinynet import nn, optim
    >>> model = nn.Dense(2, 1)
    >>> sgd = optim.SGD(model.parameters(), lr=0.1)
    >>> path = os.path.join(tempfile.mkdtemp(), "checkpoint.safetensors")
    >>> save_checkpoint(path, model, sgd, {"epoch": 3})
    >>> load_checkpoint(path, nn.Dense(2, 1))
    {'epoch': 3}
    """
    description = read_description(path)
    state = load(path)
    changed: list[tuple[Module | Optimizer, dict[str, Array]]] = [(model, model.state_dict())]
    random_before = random.get_state()
    try:
        model.load_state_dict(_part(state, "model."))
        if optimizer is not None:
            changed.append((optimizer, optimizer.state_dict()))
            optimizer.load_state_dict(_part(state, "optimizer."))
            random.set_state(description["random"])
    except (ValueError, TypeError, KeyError, OverflowError) as error:
        for owner, before in changed:
            owner.load_state_dict(before)
        random.set_state(random_before)
        raise ValueError(f"load_checkpoint: {os.fspath(path)}, saved from a {description['model']}, does not "
                         f"fit this {type(model).__name__} and its optimiser: {error}") from error
    return description["progress"]


def read_description(path: FilePath) -> dict[str, Any]:
    """What a checkpoint says of itself: a dict of "model" (its class), "config", "progress" and "random".

    Enough to build the model before `load_checkpoint` fills it. Raises ValueError for what is no checkpoint.
    """
    metadata = load_metadata(path)
    if metadata.get("tinynet") != KIND:
        raise ValueError(f"load_checkpoint: {os.fspath(path)} is a safetensors file, but no checkpoint (its "
                         f"metadata would say tinynet: {KIND!r}); tinynet.load reads its arrays")
    try:
        parts = {name: json.loads(metadata[name]) for name in ("config", "progress", "random")}
        if not all(isinstance(part, dict) for part in parts.values()):
            raise ValueError("config, progress and random must each be a table")
        return {"model": metadata["model"], **parts}
    except (KeyError, ValueError, RecursionError) as error:
        raise ValueError(f"load_checkpoint: the metadata of {os.fspath(path)} is damaged ({error!r}); "
                         "use another checkpoint") from None


def _part(state, prefix):
    return {name.removeprefix(prefix): array for name, array in state.items() if name.startswith(prefix)}


def _to_json(name, value):
    try:
        return json.dumps(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"save_checkpoint: {name} must hold only what JSON does (numbers, strings, lists, "
                        f"dicts): {error}") from None
