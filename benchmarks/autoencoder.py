"""python -m benchmarks.autoencoder --data DIR: the CAE trained by tinynet and by PyTorch; are both as good?

From the same first weights, with the same batches in the same order and the same recipe, a few seeds each.
Beyond the first steps rounding leads the two apart, so their means must agree, within what the seeds differ.
"""

import argparse
import statistics
import time

import numpy as np

import tinynet as tn
from benchmarks.machine import description, set_threads
from benchmarks.measure import row, table
from benchmarks.torch_side import from_torch, to_torch, torch, weight_to_torch
from examples import autoencoder
from tinynet import data, optim
from tinynet.inspect.peak import measured_peak

nn, F = torch.nn, torch.nn.functional


class CAE(nn.Module):
    """The same layers under the same names as examples.autoencoder.CAE with a code that is no map."""

    def __init__(self, size, channels, code, widths, hidden=256):
        super().__init__()
        self.sizes = [tuple(n >> halvings for n in size) for halvings in range(len(widths))]
        self.bottom = (*self.sizes[-1], widths[-1])
        features = int(np.prod(self.bottom))
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU())
            for c_in, c_out in zip((channels, *widths[:-1]), widths, strict=True)
        )
        self.to_code = nn.Sequential(nn.Flatten(), *dense(features, hidden), nn.Linear(hidden, code))
        self.from_code = nn.Sequential(*dense(code, hidden), nn.Linear(hidden, features, bias=False))
        self.first = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False) for c_in, c_out in upwards
        )
        self.refine = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c_out), nn.ReLU()) for _, c_out in upwards)
        self.paint = nn.Sequential(nn.Conv2d(widths[0], channels, 3, padding=1), nn.Sigmoid())

    def forward(self, x):
        x = self.down[0](x)
        for block in self.down[1:]:
            x = block(F.max_pool2d(x, 2))
        code = self.to_code(x.permute(0, 2, 3, 1))  # flattened as tinynet does: channels last
        x = self.first(self.from_code(code).view(-1, *self.bottom).permute(0, 3, 1, 2))
        for up, refine, size in zip(self.up, self.refine, self.sizes[-2::-1], strict=True):
            x = refine(up(x, output_size=size))
        return self.paint(x)


def dense(features_in, features_out):
    """Dense layer, batch normalisation (which makes a bias pointless), ReLU."""
    return nn.Linear(features_in, features_out, bias=False), nn.BatchNorm1d(features_out), nn.ReLU()


def take_state(model, state):
    """Copy {name: array}, the parameters and running statistics of tinynet's CAE, into PyTorch's."""
    own = {name: t for name, t in model.state_dict().items() if t.ndim}  # batch norm's counter is none
    if own.keys() != state.keys():
        raise ValueError(f"take_state: only one of the networks has {sorted(own.keys() ^ state.keys())}")
    with torch.no_grad():
        for name, array in state.items():
            own[name].copy_(weight_to_torch(array) if array.ndim == 4 else torch.from_numpy(array.T))


def train_tinynet(model, loader, passes, lr):
    """The example's recipe; gives back what makes images of images."""
    optimizer = optim.AdamW(model.parameters(), lr=lr)
    for images in scheduled(optimizer, loader, passes, lr):
        optimizer.zero_grad()
        tn.mse_loss(model(tn.Tensor(images)), images).backward()
        optimizer.step()
    model.eval()
    return model


def train_torch(model, loader, passes, lr):
    """The same in PyTorch."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=1e-2, fused=True)
    for images in scheduled(optimizer.param_groups[0], loader, passes, lr):
        images = to_torch(images, "contiguous")
        optimizer.zero_grad()
        F.mse_loss(model(images), images).backward()
        optimizer.step()
    model.eval()

    def reconstruct(images):
        with torch.no_grad():
            return from_torch(model(to_torch(images, "contiguous")))

    return reconstruct


def scheduled(optimizer, loader, passes, lr):
    """The batches of all passes; for each the learning rate, of tinynet's optimiser or of PyTorch's group."""
    schedule = optim.OneCycleLR(lr, passes * len(loader))
    batches = (images for number in range(1, passes + 1) for images, _ in loader.batches(number))
    for step, images in enumerate(batches):
        if isinstance(optimizer, dict):
            optimizer["lr"] = schedule(step)
        else:
            optimizer.lr = schedule(step)
        yield images


def compare(options):
    """A line for each seed, the means and the spreads, and whether they agree."""
    settings = autoencoder.DIGITS
    digits = data.MNIST(options.data)
    pairs = autoencoder.Pairs([digits[i] for i in range(min(options.images, len(digits)))])
    held_back = autoencoder.Pairs(data.MNIST(options.data, "val"))
    *size, channels = digits[0][0].shape
    shape = (size, channels, options.code, settings["widths"])
    yield (f"CAE with {options.code} code values, passes over {len(pairs)} digits: {options.passes}; "
           f"mean squared error of {len(held_back)} others.")
    yield ""
    yield from table("seed", "tinynet", "PyTorch", "seconds, tinynet", "PyTorch")
    errors, seconds = [], []
    for seed in range(options.seeds):
        tn.manual_seed(seed)
        ours, theirs = autoencoder.CAE(*shape), CAE(*shape)
        take_state(theirs, ours.state_dict())
        loader = data.DataLoader(pairs, settings["batch_size"], shuffle=True, seed=seed, drop_last=True)
        for train, model in ((train_tinynet, ours), (train_torch, theirs)):
            start = time.perf_counter()
            trained = train(model, loader, options.passes, settings["lr"])
            seconds.append(time.perf_counter() - start)
            errors.append(autoencoder.mean_squared_error(trained, held_back))
        yield row(seed, *(f"{error:.5f}" for error in errors[-2:]), *(f"{s:.1f}" for s in seconds[-2:]))
    yield from summary(errors[::2], errors[1::2])


def summary(ours, theirs):
    """Mean and standard deviation of both sides' errors, and the verdict."""
    means, spreads = ([of(side) for side in (ours, theirs)] for of in (statistics.mean, statistics.stdev))
    yield row("mean", *(f"{mean:.5f}" for mean in means), "", "")
    yield row("standard deviation", *(f"{spread:.5f}" for spread in spreads), "", "")
    yield ""
    difference = abs(means[0] - means[1])
    verdict = "agree within" if difference <= max(spreads) else "differ by more than"
    yield f"The means differ by {difference:.5f}: they {verdict} the spread of the seeds, {max(spreads):.5f}."


def main(arguments=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m benchmarks.autoencoder", description=first)
    parser.add_argument("--data", metavar="DIR", required=True, help="folder with MNIST's IDX files")
    parser.add_argument("--code", type=int, default=32, help="numbers in the code (default: %(default)s)")
    parser.add_argument("--passes", type=int, default=1, help="over the images (default: %(default)s)")
    parser.add_argument("--images", type=int, default=10_000, help="to train on (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="2 or more (default: %(default)s)")
    options = parser.parse_args(arguments)
    if options.seeds < 2:
        parser.error(f"--seeds {options.seeds}: the spread needs two or more")
    threads = set_threads()
    print(f"Measured on: {description(threads, measured_peak(threads))}\n")
    for line in compare(options):
        print(line, flush=True)


if __name__ == "__main__":
    main()
