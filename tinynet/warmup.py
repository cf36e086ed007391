"""The command warmup: compiles ahead every kernel that the examples use, by making a training step with each layer.

A kernel is compiled when it is first called, and kept on disk. So it is enough to call them: on images as small as
possible, with as many channels as it takes for a convolution to go Winograd's way.
"""

import argparse
import time

import numpy as np

import tinynet as tn
from tinynet import nn, optim
from tinynet.kernels import jit


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tinynet warmup",
        description="Compile ahead, for float32, every kernel that the examples use. Without this, each is compiled "
                    "when it is first called, which takes 15 to 30 seconds in all, once: they are kept on disk.")
    parser.parse_args(arguments)
    print(f"tinynet keeps compiled kernels in {jit.cache_folder() or 'memory only'}")
    start, before = time.perf_counter(), len(jit.compiled_kernels)
    step()
    seconds, count = time.perf_counter() - start, len(jit.compiled_kernels) - before
    if count:
        print(f"{count} kernels compiled, {seconds:.1f} s")
    else:
        print(f"all kernels are there already, {seconds:.1f} s")


def step() -> None:
    """A training step through every layer, loss and optimiser of the examples."""
    random = np.random.default_rng(0)
    images = tn.Tensor(random.random((2, 16, 16, 3), dtype=np.float32))
    network = _Network()
    pixels, objects = network(images)
    loss = (_pixel_loss(pixels, random.integers(0, 4, (2, 16, 16))) + _object_loss(objects, random.integers(0, 4, 2))
            + tn.mse_loss(pixels, tn.Tensor(np.zeros(pixels.shape, np.float32))) + _large_loss())
    loss.backward()
    for optimizer in (optim.Adam(network.parameters()), optim.AdamW(network.parameters()),
                      optim.SGD(network.parameters(), lr=0.1, momentum=0.9)):
        optim.clip_grad_norm(network.parameters(), 1.0)
        optimizer.step()
    network.eval()
    with tn.no_grad():
        for _ in range(2):  # of weights that come a second time, more is kept
            network(images)


class _Network(nn.Module):
    """Images to a class for each pixel, and to a box and a class for each image."""

    def __init__(self):
        self.first = nn.Sequential(nn.Conv2d(3, 32, 3, padding=1, bias=False), nn.BatchNorm2d(32), nn.ReLU())
        self.down = nn.Sequential(nn.Residual(nn.Conv2d(32, 32, 3, padding=1)), nn.MaxPool2d(2))
        self.halve = nn.Sequential(nn.BatchNorm2d(32), nn.MaxPool2d(2))
        self.strided = nn.Sequential(nn.Conv2d(32, 32, 4, stride=2, padding=1), nn.Upsample(2), nn.GELU())
        self.up = nn.Sequential(nn.ConvTranspose2d(32, 32, 4, stride=2, padding=1), nn.ReLU())
        self.paint = nn.Sequential(nn.Conv2d(32, 4, 3, padding=1), nn.Sigmoid())
        self.grey = nn.Conv2d(32, 1, 3, padding=1)
        self.score = nn.Conv2d(32, 4, 1)
        self.flat = nn.Sequential(nn.Flatten(), nn.Dense(4 * 4 * 32, 32), nn.LayerNorm(32), nn.Dropout(0.1))
        self.objects = nn.Dense(32, 8)

    def forward(self, x):
        features = self.first(x)
        small = self.down(features)
        features = self.up(small + self.strided(small) + self.halve(features)) + features
        pixels = self.paint(features) + self.grey(features) + self.score(features)
        return pixels, self.objects(self.flat(tn.avg_pool2d(small, 2)))


def _pixel_loss(logits, classes):
    return (tn.cross_entropy(logits, classes, ignore_index=0) + tn.dice_loss(logits, classes)
            + tn.binary_cross_entropy_with_logits(logits, tn.Tensor(np.ones(logits.shape, np.float32))))


def _large_loss():
    """What has a kernel for large arrays, or weights, only; an image of an odd size leaves max-pooling a rest."""
    spread = tn.conv_transpose2d(np.zeros((1, 4, 4, 64), np.float32), np.zeros((3, 3, 64, 64), np.float32), stride=2)
    x = tn.Tensor(np.zeros((1, 257, 257, 1), np.float32), requires_grad=True)
    y = tn.max_pool2d(tn.relu(tn.sigmoid(x)), 2)
    return tn.mse_loss(x, x.detach()) + y.sum() + spread.sum()


def _object_loss(outputs, classes):
    boxes = tn.Tensor(np.tile(np.float32([0.1, 0.1, 0.9, 0.9]), (2, 1)))
    corners = tn.concatenate([tn.sigmoid(outputs[:, :2]) * 0.5, tn.sigmoid(outputs[:, 2:4]) * 0.5 + 0.5], axis=1)
    return (tn.cross_entropy(outputs[:, 4:], classes) + tn.smooth_l1_loss(corners, boxes)
            + tn.giou_loss(corners, boxes))
