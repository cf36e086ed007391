"""PyTorch's side: its import, its layouts, the network of examples/segmentation.py written in it."""

try:
    import threadpoolctl
    import torch
except ImportError as error:
    raise ImportError(
        f"benchmarks: tinynet is compared with PyTorch, but {error.name} is not installed; "
        "it comes with the extra bench: pip install '.[bench]'"
    ) from error
from torch import nn
from torch.nn import functional as F

from benchmarks import CLASSES, WIDTHS

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


def set_torch_threads(count):
    """For PyTorch, and every other pool of threads in the process but numba's."""
    threadpoolctl.threadpool_limits(count)
    torch.set_num_threads(count)


def to_torch(array, layout):
    """Images (N, H, W, C) to (N, C, H, W), in memory as the layout says."""
    return torch.from_numpy(array).permute(0, 3, 1, 2).contiguous(memory_format=LAYOUTS[layout])


def from_torch(tensor):
    """Back to (N, H, W, C)."""
    return tensor.detach().permute(0, 2, 3, 1).numpy()


def weight_to_torch(array, layout="contiguous"):
    """(KH, KW, C, O) to (O, C, KH, KW); so a transposed convolution's (KH, KW, O, C) to (C, O, KH, KW)."""
    return torch.from_numpy(array).permute(3, 2, 0, 1).contiguous(memory_format=LAYOUTS[layout])


def weight_from_torch(tensor):
    """The way back; what isn't a convolution's weight stays as it is."""
    tensor = tensor.detach()
    return (tensor.permute(2, 3, 1, 0) if tensor.ndim == 4 else tensor).numpy()


class FCN(nn.Module):
    """The same layers under the same names as examples.segmentation.FCN."""

    def __init__(self):
        super().__init__()
        self.down = nn.ModuleList(
            nn.Sequential(*convolution(c_in, c_out), *convolution(c_out, c_out))
            for c_in, c_out in zip((3, *WIDTHS[:-1]), WIDTHS, strict=True)
        )
        self.pool = nn.MaxPool2d(2)
        upwards = list(zip(WIDTHS[:0:-1], WIDTHS[-2::-1], strict=True))
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1) for c_in, c_out in upwards
        )
        self.refine = nn.ModuleList(nn.Sequential(*convolution(c_out, c_out)) for _, c_out in upwards)
        self.score = nn.Conv2d(WIDTHS[0], CLASSES, 1)

    def forward(self, x):
        features = [self.down[0](x)]
        for block in self.down[1:]:
            features.append(block(self.pool(features[-1])))
        x = features.pop()
        for up, refine in zip(self.up, self.refine, strict=True):
            feature = features.pop()
            x = refine(up(x, output_size=feature.shape[2:]) + feature)
        return self.score(x)


def convolution(c_in, c_out):
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)


class Trainer:
    """The network, Adam and a batch. PyTorch's fast ways: ReLU in place, Adam fused."""

    def __init__(self, images, targets, layout, dtype=torch.float32):
        self.model = FCN().to(dtype, memory_format=LAYOUTS[layout])
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self.images, self.targets = to_torch(images, layout).to(dtype), torch.from_numpy(targets)

    def loss(self):
        return F.cross_entropy(self.model(self.images), self.targets)

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def logits(self):
        with torch.no_grad():
            return from_torch(self.model(self.images))

    def gradients(self):
        """{name: array}, as tinynet has them"""
        return {name: weight_from_torch(p.grad) for name, p in self.model.named_parameters()}

    def take_state(self, state):
        """Copy {name: array}, the parameters and running statistics of tinynet's modules."""
        own = {
            name: t for name, t in self.model.state_dict().items() if t.ndim
        }  # batch norm's counter is none
        if own.keys() != state.keys():
            raise ValueError(f"take_state: only one of the networks has {sorted(own.keys() ^ state.keys())}")
        with torch.no_grad():
            for name, array in state.items():
                own[name].copy_(weight_to_torch(array) if array.ndim == 4 else torch.from_numpy(array))
