"""Seconds an epoch of the example of segmentation on CamVid: tinynet, and PyTorch fed by the same loader."""

import time
from contextlib import closing
from functools import partial
from itertools import islice

import tinynet as tn
from benchmarks.comparison import RATIO
from benchmarks.measure import alternate_turns, checked_error, fastest, row, table
from benchmarks.torch_networks import SegmentationFCN
from benchmarks.torch_side import EAGER, LAYOUTS, take_state, to_torch, torch
from examples import segmentation
from tinynet import data, optim

SETTINGS = segmentation.PHOTOS
STEPS = 10  # timed in a turn; of fewer, too many would share the processors with a loader that fills its queue
WORKERS = 1  # the example's
MOST_LOSS = 1e-4


def lines(run):
    """The section's lines, each as soon as it is known."""
    if not run.data:
        yield "Not measured: it needs CamVid's photos, `--data DIR`."
        return
    photos = data.CamVid(run.data, "train", cache=True)
    loader = data.DataLoader(
        segmentation.augmented(photos, is_photos=True),
        SETTINGS["batch_size"],
        shuffle=True,
        workers=WORKERS,
        drop_last=True,
    )
    ours, theirs = contestants(photos)
    with closing(loader.batches(0)) as batches:
        batch = next(batches)
    for layout, (loss, _) in theirs.items():
        checked_error(f"CamVid's loss, {layout}", loss(batch).item(), ours[0](batch).item(), MOST_LOSS)
    sides = {"tinynet": ours, **theirs}
    turns = {name: partial(_turn, step, loader) for name, (_, step) in sides.items()}
    times = alternate_turns(turns, run.turns)
    layout = fastest(times, theirs)
    own, other = times["tinynet"].median, times[layout].median
    ratio = run.figures["ratio"] = other / own
    height, width = batch[0].shape[1:3]
    yield (
        f"A step and its batch, {STEPS} in each of {run.turns} turns; an epoch is {len(loader)} "
        "times the median."
    )
    yield (
        f"Batches of {SETTINGS['batch_size']} crops of {width} x {height}, which one thread "
        "prepares meanwhile for"
    )
    yield "either side."
    yield ""
    yield from table("", "tinynet", "PyTorch", "its layout", RATIO)
    yield row(
        "ms a step: median (minimum; quartiles)", times["tinynet"], times[layout], layout, f"{ratio:.2f}"
    )
    yield row(
        "seconds an epoch",
        *(f"{seconds * len(loader):.1f}" for seconds in (own, other)),
        layout,
        f"{ratio:.2f}",
    )


def _turn(step, loader):
    """The times of STEPS steps, each with the wait for its batch; the first step isn't counted."""
    times = []
    with closing(loader.batches(0)) as batches:
        began = time.perf_counter()
        for batch in islice(batches, STEPS + 1):
            step(batch)
            times.append(time.perf_counter() - began)
            began = time.perf_counter()
    return times[1:]


def contestants(photos):
    """((loss, step) of tinynet, {layout: those of PyTorch}), functions of a batch, from the same weights."""
    classes, widths = len(photos.classes), SETTINGS["widths"]
    weights = segmentation.class_weights(photos, SETTINGS["balance"])
    tn.manual_seed(0)
    model = segmentation.FCN(classes, widths)
    optimizer = optim.AdamW(model.parameters(), lr=SETTINGS["lr"])

    def loss(batch):
        images, masks = batch
        return tn.cross_entropy(
            model(tn.Tensor(images)), masks, weight=weights, ignore_index=photos.ignore_index
        )

    theirs = {way.layout: _torch(photos, weights, way.layout, model.state_dict()) for way in EAGER}
    return (loss, partial(_step, loss, optimizer)), theirs


def _torch(photos, weights, layout, state):
    model = SegmentationFCN(len(photos.classes), SETTINGS["widths"]).to(memory_format=LAYOUTS[layout])
    take_state(model, state)
    optimizer = torch.optim.AdamW(model.parameters(), lr=SETTINGS["lr"], fused=True)
    criterion = torch.nn.CrossEntropyLoss(torch.from_numpy(weights), ignore_index=photos.ignore_index)

    def loss(batch):
        images, masks = batch
        return criterion(model(to_torch(images, layout)), torch.from_numpy(masks).long())

    return loss, partial(_step, loss, optimizer)


def _step(loss, optimizer, batch):
    optimizer.zero_grad()
    loss(batch).backward()
    optimizer.step()
