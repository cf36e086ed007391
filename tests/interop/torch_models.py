"""The CAE and the detector of the examples in PyTorch; benchmarks/torch_networks.py has the other two."""

import torch
from torch import nn

from benchmarks.torch_networks import ResNet, SegmentationFCN


def network(name):
    """The twin of models.model(name)."""
    return {
        "CAE": lambda: CAE((14, 12), 3, 8, (8, 12, 16), 24),
        "CAE, map": lambda: CAE((14, 12), 3, (3, 3, 4), (8, 12, 16), None),
        "FCN": lambda: SegmentationFCN(5, (8, 12, 16)),
        "ResNet": SmallResNet,
        "Detector": lambda: Detector(3, 16, (8, 12, 16)),
    }[name]()


def convolution(c_in, c_out):
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


class CAE(nn.Module):
    def __init__(self, size, channels, code, widths, hidden):
        super().__init__()
        self.sizes = [tuple(n >> halvings for n in size) for halvings in range(len(widths))]
        self.bottom = (widths[-1], *self.sizes[-1])
        self.down = nn.ModuleList(nn.Sequential(*convolution(*c))
                                  for c in zip((channels, *widths[:-1]), widths, strict=True))
        self.pool = nn.MaxPool2d(2)
        if isinstance(code, int):
            features = self.bottom[0] * self.bottom[1] * self.bottom[2]
            self.to_code = nn.Sequential(nn.Flatten(), nn.Linear(features, hidden, bias=False),
                                         nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, code))
            self.from_code = nn.Sequential(nn.Linear(code, hidden, bias=False), nn.BatchNorm1d(hidden), nn.ReLU(),
                                           nn.Linear(hidden, features, bias=False))
        else:
            self.to_code = nn.Conv2d(widths[-1], code[-1], 1)
            self.from_code = nn.Conv2d(code[-1], widths[-1], 1, bias=False)
        self.first = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(*c, 4, stride=2, padding=1, bias=False) for c in upwards)
        self.refine = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(c_out), nn.ReLU()) for _, c_out in upwards)
        self.paint = nn.Sequential(nn.Conv2d(widths[0], channels, 3, padding=1), nn.Sigmoid())

    def forward(self, x):
        x = self.down[0](x)
        for block in self.down[1:]:
            x = block(self.pool(x))
        x = self.first(self.from_code(self.to_code(x)).reshape((-1, *self.bottom)))
        for up, refine, size in zip(self.up, self.refine, self.sizes[-2::-1], strict=True):
            x = refine(up(x, output_size=size))
        return self.paint(x)


class SmallResNet(ResNet):
    """examples.residual.ResNet(4, 8, width=8): of ResNet-20's nine blocks those with three."""

    def __init__(self):
        super().__init__(width=8)
        self.blocks = nn.ModuleList(self.blocks[index] for index in (0, 3, 6))
        self.score = nn.Linear(32, 4)


class Added(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body = body

    def forward(self, x):
        return self.body(x) + x


class Detector(nn.Module):
    def __init__(self, classes, size, widths):
        super().__init__()
        blocks = [*convolution(3, widths[0])]
        for c_in, c_out in zip(widths[:-1], widths[1:], strict=True):
            blocks += nn.MaxPool2d(2), *convolution(c_in, c_out), Added(nn.Sequential(*convolution(c_out, c_out)))
        last = Added(nn.Sequential(*convolution(widths[-1], widths[-1])))
        self.features = nn.Sequential(*blocks, last, nn.Flatten())
        count = widths[-1] * (size >> (len(widths) - 1)) ** 2
        self.box, self.label = nn.Linear(count, 4), nn.Linear(count, classes)
        self.scale = count**-0.5

    def forward(self, x):
        x = self.features(x) * self.scale
        box = torch.sigmoid(self.box(x))
        centre, half = box[:, :2], box[:, 2:] * 0.5
        return torch.cat([centre - half, centre + half], 1), self.label(x)
