"""python -m benchmarks.detection --data DIR: the Detector trained by tinynet and by PyTorch; do both learn as well?

From the same first weights, with the same augmented batches in the same order and the same recipe, a few seeds each.
Dropout and rounding lead the two apart, so it is their means that must agree, within what the seeds differ.
"""

import argparse
import collections
import itertools
import statistics
import time

import numpy as np

import tinynet as tn
from benchmarks.autoencoder import take_state
from benchmarks.machine import description, set_threads
from benchmarks.measure import row, table
from benchmarks.torch_side import convolution, to_torch, torch
from examples import detection
from tinynet import data, optim
from tinynet.inspect.peak import measured_peak

nn, F = torch.nn, torch.nn.functional
FIGURES = {"mean_iou": "mean IoU", "iou_50": "IoU >= 0.5", "accuracy": "class right"}
LABEL_SMOOTHING, WEIGHT_DECAY = 0.1, 0.05  # as in the example


class Residual(nn.Module):
    """y = body(x) + x"""

    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x) + x


class FlattenChannelsLast(nn.Module):
    """(N, C, H, W) to (N, H W C), in tinynet's order."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


class Detector(nn.Module):
    """The same layers under the same names as examples.detection.Detector."""

    def __init__(self, num_classes, size, widths, dropout=0.3):
        super().__init__()
        blocks = [*convolution(3, widths[0])]
        for c_in, c_out in zip(widths[:-1], widths[1:], strict=True):
            second = Residual(nn.Sequential(*convolution(c_out, c_out)))
            blocks += nn.MaxPool2d(2), *convolution(c_in, c_out), second
        last = Residual(nn.Sequential(*convolution(widths[-1], widths[-1])))
        self.features = nn.Sequential(*blocks, last, FlattenChannelsLast())
        self.dropout = nn.Dropout(dropout)
        count = widths[-1] * (size >> (len(widths) - 1)) ** 2
        self.box = nn.Linear(count, 4)
        self.label = nn.Linear(count, num_classes)
        self.scale = count**-0.5

    def forward(self, x):
        features = self.features(x) * self.scale
        centre, size = torch.sigmoid(self.box(features)).chunk(2, 1)
        return torch.cat([centre - size / 2, centre + size / 2], 1), self.label(self.dropout(features))


def giou_loss(boxes, target):
    """The mean of 1 - I / U + (C - U) / C, as tinynet.giou_loss has it."""

    def area(low, high):
        return (high - low).clamp(min=0).prod(1)

    (low, high), (target_low, target_high) = boxes.chunk(2, 1), target.chunk(2, 1)
    intersection = area(torch.maximum(low, target_low), torch.minimum(high, target_high))
    union = area(low, high) + area(target_low, target_high) - intersection
    hull = area(torch.minimum(low, target_low), torch.maximum(high, target_high))
    return (1 - intersection / union + (hull - union) / hull).mean()


def box_loss(boxes, target):
    """GIoU and twice smooth L1, as the example's default."""
    return giou_loss(boxes, target) + 2 * F.smooth_l1_loss(boxes, target, beta=0.02, reduction="sum") / len(target)


def tinynet_steps(model, loader, settings):
    """The example's recipe, in the model's dtype; yields the loss of every step."""
    dtype = next(model.parameters()).dtype
    optimizer = optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=WEIGHT_DECAY)
    for lr, (images, boxes, labels) in scheduled(loader, settings):
        optimizer.lr = lr
        optimizer.zero_grad()
        found, logits = model(tn.Tensor(images.astype(dtype)))
        where = detection.both(found, boxes.astype(dtype))
        what = tn.cross_entropy(logits, labels, label_smoothing=LABEL_SMOOTHING)
        loss = settings["box_weight"] * where + what
        loss.backward()
        optimizer.step()
        yield loss.item()


def torch_steps(model, loader, settings):
    """The same in PyTorch."""
    dtype = next(model.parameters()).dtype
    optimizer = torch.optim.AdamW(model.parameters(), lr=settings["lr"], weight_decay=WEIGHT_DECAY, fused=True)
    for lr, (images, boxes, labels) in scheduled(loader, settings):
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        found, logits = model(to_torch(images, "channels_last").to(dtype))
        where = box_loss(found, torch.from_numpy(boxes).to(dtype))
        what = F.cross_entropy(logits, torch.from_numpy(labels), label_smoothing=LABEL_SMOOTHING)
        loss = settings["box_weight"] * where + what
        loss.backward()
        optimizer.step()
        yield loss.item()


def train_tinynet(model, loader, settings):
    """Trains; gives back what finds boxes and scores."""
    consume(tinynet_steps(model, loader, settings))
    model.eval()
    return lambda images: detection.predict(model, images)


def train_torch(model, loader, settings):
    """The same in PyTorch."""
    consume(torch_steps(model, loader, settings))
    model.eval()

    def predict(images):
        with torch.no_grad():
            boxes, logits = model(to_torch(images, "channels_last"))
        return boxes.clamp(0, 1).numpy(), logits.softmax(1).numpy()

    return predict


def consume(steps):
    """Runs a generator to its end."""
    collections.deque(steps, maxlen=0)


def scheduled(loader, settings):
    """(learning rate, batch) for every step of all epochs."""
    schedule = optim.OneCycleLR(settings["lr"], settings["epochs"] * len(loader))
    batches = (batch for epoch in range(1, settings["epochs"] + 1) for batch in loader.batches(epoch))
    return ((schedule(step), batch) for step, batch in enumerate(batches))


def evaluated(predict, dataset):
    """{figure: value} of what is found in all pictures of a data set."""
    found = [predict(images) for images, _, _ in data.DataLoader(dataset, 50)]
    boxes, scores = (np.concatenate(part) for part in zip(*found, strict=True))
    figures = detection.figures(boxes, scores, *detection.truth(dataset))
    return {name: float(figures[name]) for name in FIGURES}


def compare(options, settings):
    """Two lines for each seed, the means and the spreads, and whether they agree."""
    train_set, val_set = (detection.load(split, options.data, settings["size"]) for split in ("train", "val"))
    shape = len(train_set.classes), settings["size"], settings["widths"]
    yield (f"Detector(widths={settings['widths']}), {settings['epochs']} epochs of {len(train_set)} pictures of "
           f"{settings['size']} x {settings['size']}; figures on {len(val_set)} others.")
    yield ""
    yield from table("seed", "side", *FIGURES.values(), "seconds")
    results = {"tinynet": [], "PyTorch": []}
    for seed in range(options.seeds):
        tn.manual_seed(seed)
        torch.manual_seed(seed)
        ours, theirs = detection.Detector(*shape), Detector(*shape)
        take_state(theirs, ours.state_dict())
        loader = data.DataLoader(detection.augmented(train_set), settings["batch_size"], shuffle=True, seed=seed,
                                 drop_last=True)
        sides = ("tinynet", train_tinynet, ours), ("PyTorch", train_torch, theirs)
        for side, train, model in sides:
            start = time.perf_counter()
            predict = train(model, loader, settings)
            seconds = time.perf_counter() - start
            figures = evaluated(predict, val_set)
            results[side].append(figures)
            yield row(seed, side, *(f"{value:.3f}" for value in figures.values()), f"{seconds:.0f}")
    yield from summary(results)


def same_function(options, settings, every=10):
    """Lines: the losses of both sides in float64 and without dropout, where only rounding can part them."""
    train_set = detection.load("train", options.data, settings["size"])
    shape = len(train_set.classes), settings["size"], settings["widths"]
    tn.manual_seed(0)
    ours, theirs = detection.Detector(*shape, dropout=0.0), Detector(*shape, dropout=0.0)
    take_state(theirs, ours.state_dict())
    ours.astype(np.float64)
    theirs.double()
    loader = data.DataLoader(detection.augmented(train_set), settings["batch_size"], shuffle=True, drop_last=True)
    yield from table("step", "loss, tinynet", "loss, PyTorch", "difference, relative")
    pairs = zip(tinynet_steps(ours, loader, settings), torch_steps(theirs, loader, settings), strict=True)
    for step, (one, other) in enumerate(itertools.islice(pairs, options.float64), 1):
        if step in (1, options.float64) or step % every == 0:
            yield row(step, f"{one:.12f}", f"{other:.12f}", f"{abs(one - other) / one:.0e}")


def summary(results):
    """Means and standard deviations of both sides, and a verdict for each figure."""
    statistic = {"mean": statistics.mean, "standard deviation": statistics.stdev}
    values = {(name, side): {figure: of([run[figure] for run in runs]) for figure in FIGURES}
              for name, of in statistic.items() for side, runs in results.items()}
    for (name, side), of_figures in values.items():
        yield row(name, side, *(f"{value:.3f}" for value in of_figures.values()), "")
    yield ""
    for figure, title in FIGURES.items():
        difference = abs(values["mean", "tinynet"][figure] - values["mean", "PyTorch"][figure])
        spread = max(values["standard deviation", side][figure] for side in results)
        verdict = "agree within" if difference <= spread else "differ by more than"
        yield f"{title}: the means differ by {difference:.3f}; they {verdict} the spread of the seeds, {spread:.3f}."


def main(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m benchmarks.detection", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", required=True, help="folder of Tiny ImageNet")
    parser.add_argument("--epochs", type=int, default=4, help="passes over the pictures (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="trainings of each, from 2 up (default: %(default)s)")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks (default: the example's)")
    parser.add_argument("--float64", type=int, metavar="STEPS", help="instead: the loss of each of the first steps in "
                        "float64, without dropout")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: the spread needs two or more")
    settings = detection.TINY_IMAGENET | {"epochs": options.epochs, "box_weight": detection.BOX_WEIGHT}
    if options.widths:
        settings["widths"] = tuple(options.widths)
    threads = set_threads()
    if options.float64:
        for line in same_function(options, settings):
            print(line, flush=True)
        return
    print(f"Measured on: {description(threads, measured_peak(threads))}\n")
    for line in compare(options, settings):
        print(line, flush=True)


if __name__ == "__main__":
    main()
