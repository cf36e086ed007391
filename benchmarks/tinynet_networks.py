"""The networks of the comparison in tinynet, as one writes them; torch_networks.py has PyTorch's."""

import tinynet as tn
from benchmarks import CLASSES, THINGS
from examples.residual import ResNet
from tinynet import nn


class CAE(nn.Module):
    """Convolutions down to a quarter of the size, transposed ones back up: an image from an image."""

    def __init__(self, width=32):
        w = width
        self.net = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(2 * w, 4 * w, 3, padding=1), nn.ReLU(),
            nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1), nn.ReLU(),
            nn.ConvTranspose2d(2 * w, w, 4, 2, 1), nn.ReLU(),
            nn.Conv2d(w, 3, 3, padding=1), nn.Sigmoid(),
        )

    def forward(self, x):
        return self.net(x)


class FCN(nn.Module):
    """Four blocks down; the scores of the last three, made larger and added: a class for every pixel."""

    def __init__(self, width=32):
        w, k = width, CLASSES
        self.block1, self.block2 = block(3, w), block(w, 2 * w)
        self.block3, self.block4 = block(2 * w, 4 * w), block(4 * w, 4 * w)
        self.score4, self.score3 = nn.Conv2d(4 * w, k, 1), nn.Conv2d(4 * w, k, 1)
        self.score2 = nn.Conv2d(2 * w, k, 1)
        self.up4, self.up3 = nn.ConvTranspose2d(k, k, 4, 2, 1), nn.ConvTranspose2d(k, k, 4, 2, 1)
        self.up2 = nn.ConvTranspose2d(k, k, 8, 4, 2)

    def forward(self, x):
        half = self.block2(self.block1(x))
        third = self.block3(half)
        y = self.up4(self.score4(self.block4(third))) + self.score3(third)
        return self.up2(self.up3(y) + self.score2(half))


def block(c_in, c_out):
    return nn.Sequential(
        nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(),
        nn.Conv2d(c_out, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    )


class Detector(nn.Module):
    """Four convolutions, flattened; then one head for the box and one for the class."""

    def __init__(self, size, width=32):
        w = width
        layers = []
        for c_in, c_out in ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        count = 4 * w * (size // 16) ** 2
        self.box = nn.Sequential(nn.Dense(count, 128), nn.ReLU(), nn.Dense(128, 4))
        self.label = nn.Sequential(nn.Dense(count, 128), nn.ReLU(), nn.Dense(128, THINGS))

    def forward(self, x):
        features = self.features(x)
        return self.box(features), self.label(features)


def network(name, size, width=32):
    """The network for images of that size; `width` channels in its first layers (the ResNet: half)."""
    if name == "Detector":
        return Detector(size, width)
    if name == "ResNet-20":
        return ResNet(THINGS, 20, width=width // 2)
    return {"CAE": CAE, "FCN": FCN}[name](width)


def loss(name, output, targets):
    """The network's loss, a scalar."""
    if name == "CAE":
        return tn.mse_loss(output, *targets)
    if name == "Detector":
        (box, label), (true_box, true_label) = output, targets
        return tn.smooth_l1_loss(box, true_box) + tn.cross_entropy(label, true_label)
    return tn.cross_entropy(output, *targets)
