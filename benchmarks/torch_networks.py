"""The networks of the comparison in PyTorch: the same layers and names as in tinynet_networks.py."""

from torch import nn
from torch.nn import functional as F

from benchmarks import CLASSES, THINGS


class CAE(nn.Module):
    def __init__(self, width=32):
        super().__init__()
        w = width
        self.net = nn.Sequential(
            nn.Conv2d(3, w, 3, padding=1), relu(), nn.MaxPool2d(2),
            nn.Conv2d(w, 2 * w, 3, padding=1), relu(), nn.MaxPool2d(2),
            nn.Conv2d(2 * w, 4 * w, 3, padding=1), relu(),
            nn.ConvTranspose2d(4 * w, 2 * w, 4, 2, 1), relu(),
            nn.ConvTranspose2d(2 * w, w, 4, 2, 1), relu(),
            nn.Conv2d(w, 3, 3, padding=1), nn.Sigmoid(),
        )

    def forward(self, x):
        return self.net(x)


class FCN(nn.Module):
    def __init__(self, width=32):
        super().__init__()
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
        nn.Conv2d(c_in, c_out, 3, padding=1), relu(),
        nn.Conv2d(c_out, c_out, 3, padding=1), relu(), nn.MaxPool2d(2),
    )


def relu():
    """In place: PyTorch's faster one."""
    return nn.ReLU(inplace=True)


class Detector(nn.Module):
    def __init__(self, size, width=32):
        super().__init__()
        w = width
        layers = []
        for c_in, c_out in ((3, w), (w, 2 * w), (2 * w, 4 * w), (4 * w, 4 * w)):
            layers += [nn.Conv2d(c_in, c_out, 3, padding=1), relu(), nn.MaxPool2d(2)]
        self.features = nn.Sequential(*layers, nn.Flatten())
        self.flattened = size // 16, size // 16, 4 * w  # (H, W, C), though flattened in the order C, H, W
        count = 4 * w * (size // 16) ** 2
        self.box = nn.Sequential(nn.Linear(count, 128), relu(), nn.Linear(128, 4))
        self.label = nn.Sequential(nn.Linear(count, 128), relu(), nn.Linear(128, THINGS))

    def forward(self, x):
        features = self.features(x)
        return self.box(features), self.label(features)


class ResNet(nn.Module):
    """examples.residual.ResNet(10, 20)"""

    def __init__(self, width=16):
        super().__init__()
        self.first = nn.Sequential(*normalized(3, width), relu())
        widths = [width] * 4 + [2 * width] * 3 + [4 * width] * 3  # into and out of the blocks
        self.blocks = nn.ModuleList(Residual(*pair) for pair in zip(widths[:-1], widths[1:], strict=True))
        self.score = nn.Linear(4 * width, THINGS)

    def forward(self, x):
        x = self.first(x)
        for part in self.blocks:
            x = F.relu(part(x), inplace=True)
        return self.score(x.mean((2, 3)))


class Residual(nn.Module):
    """body(x) + x; where the channels double, + every second pixel of x with channels of zeros."""

    def __init__(self, c_in, c_out):
        super().__init__()
        self.more = c_out - c_in
        first = normalized(c_in, c_out, 2 if self.more else 1)
        self.body = nn.Sequential(*first, relu(), *normalized(c_out, c_out))

    def forward(self, x):
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, self.more)) if self.more else x
        return self.body(x) + short


def normalized(c_in, c_out, stride=1):
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(c_out)


class SegmentationFCN(nn.Module):
    """examples.segmentation.FCN"""

    def __init__(self, classes, widths):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(*normalized(c_in, c_out), relu(), *normalized(c_out, c_out), relu())
            for c_in, c_out in zip((3, *widths[:-1]), widths, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = nn.ModuleList(nn.ConvTranspose2d(*pair, 4, stride=2, padding=1) for pair in upwards)
        self.refine = nn.ModuleList(nn.Sequential(*normalized(c_out, c_out), relu()) for _, c_out in upwards)
        self.score = nn.Conv2d(widths[0], classes, 1)

    def forward(self, x):
        features = [self.down[0](x)]
        for part in self.down[1:]:
            features.append(part(self.pool(features[-1])))
        x = features.pop()
        for up, refine in zip(self.up, self.refine, strict=True):
            feature = features.pop()
            x = refine(up(x, output_size=feature.shape[2:]) + feature)
        return self.score(x)


def network(name, size, width=32):
    if name == "Detector":
        return Detector(size, width)
    if name == "ResNet-20":
        return ResNet(width // 2)
    return {"CAE": CAE, "FCN": FCN}[name](width)


def loss(name, output, targets):
    if name == "CAE":
        return F.mse_loss(output, *targets)
    if name == "Detector":
        (box, label), (true_box, true_label) = output, targets
        return F.smooth_l1_loss(box, true_box) + F.cross_entropy(label, true_label)
    return F.cross_entropy(output, *targets)
