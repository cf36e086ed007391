"""PyTorch's side: its import, its layouts, and training and inference in each way of running a network."""

import math
from typing import NamedTuple

try:
    import threadpoolctl
    import torch
except ImportError as error:
    raise ImportError(
        f"benchmarks: tinynet is compared with PyTorch, but {error.name} is not installed; "
        "it comes with the extra bench: pip install '.[bench]'"
    ) from error
from torch import nn

from benchmarks.torch_networks import loss, network

LAYOUTS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}


class Way(NamedTuple):
    """How PyTorch runs a network."""

    layout: str
    compiled: bool = False  # by torch.compile
    bfloat16: bool = False  # by autocast

    @property
    def name(self):
        return "compiled, " * self.compiled + "bfloat16, " * self.bfloat16 + self.layout


EAGER = [Way(layout) for layout in LAYOUTS]
COMPILED = [Way(layout, compiled=True) for layout in LAYOUTS]
BFLOAT16 = Way("channels_last", bfloat16=True)
WAYS = {way.name: way for way in (*EAGER, *COMPILED, BFLOAT16)}


def set_torch_threads(count):
    """For PyTorch, and every other pool of threads in the process but numba's."""
    threadpoolctl.threadpool_limits(count)
    torch.set_num_threads(count)


def compiler_trouble():
    """Why torch.compile can't run here, or "": it needs a C++ compiler."""
    try:
        torch.compile(lambda x: x.cos() + 1)(torch.ones(64))
    except Exception as error:  # its kinds differ from version to version
        return f"{type(error).__name__}: {str(error).strip().splitlines()[0]}"
    return ""


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


def convolution(c_in, c_out):
    """3x3 convolution, batch normalisation (which makes a bias pointless), ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU(inplace=True)


class Trainer:
    """The network, Adam (PyTorch's fast one, fused) and a batch."""

    def __init__(self, name, batch, way=EAGER[0], width=32, dtype=torch.float32):
        images, targets = batch
        self.way, self.name = way, name
        self.images = to_torch(images, way.layout).to(dtype)
        self.targets = tuple(self._target(target, dtype) for target in targets)
        self.model = network(name, images.shape[1], width).to(dtype, memory_format=LAYOUTS[way.layout])
        self.optimizer = torch.optim.Adam(self.model.parameters(), fused=True)
        self._loss, self._infer = self._plain_loss, self.model
        if way.compiled:
            self._loss = torch.compile(self._plain_loss, dynamic=False)
            self._infer = torch.compile(self.model, dynamic=False, options={"freezing": True})

    def _target(self, target, dtype):
        if target.ndim == 4:
            return to_torch(target, self.way.layout).to(dtype)
        target = torch.from_numpy(target)
        return target.to(dtype) if target.is_floating_point() else target

    def _plain_loss(self, images, targets):
        return loss(self.name, self.model(images), targets)

    def loss(self):
        with torch.autocast("cpu", torch.bfloat16, enabled=self.way.bfloat16):
            return self._loss(self.images, self.targets)

    def step(self):
        self.optimizer.zero_grad()
        self.loss().backward()
        self.optimizer.step()

    def infer(self):
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=self.way.bfloat16):
            return self._infer(self.images)

    def results(self):
        """(loss, {name: gradient}, outputs in evaluation after this training forward pass), as tinynet's"""
        value = self.loss()
        value.backward()
        gradients = {
            name: parameter_from_torch(self.model, p.grad) for name, p in self.model.named_parameters()
        }
        self.optimizer.zero_grad()
        return value.item(), gradients, self.outputs()

    def outputs(self):
        """The network's outputs in evaluation, as a list of arrays as tinynet has them."""
        self.model.eval()
        output = self.infer()
        self.model.train()
        outputs = output if isinstance(output, tuple) else (output,)
        return [from_torch(each.float()) if each.ndim == 4 else each.float().numpy() for each in outputs]

    def take_state(self, state):
        take_state(self.model, state)


def take_state(model, state):
    """Copy {name: array}, the parameters and running statistics of tinynet's modules, into PyTorch's."""
    own = {name: t for name, t in model.state_dict().items() if t.ndim}  # batch norm's counter is none
    if own.keys() != state.keys():
        raise ValueError(f"take_state: only one of the networks has {sorted(own.keys() ^ state.keys())}")
    with torch.no_grad():
        for name, array in state.items():
            own[name].copy_(parameter_to_torch(model, array))


# Dense weights are (in, out) in tinynet and (out, in) in PyTorch. Where `in` is a flattened map of features,
# its order is H, W, C in tinynet and C, H, W in PyTorch.


def parameter_to_torch(model, array):
    """A parameter of tinynet's network as the same of PyTorch's `model`."""
    if array.ndim == 4:
        return weight_to_torch(array)
    if is_behind_flatten(model, array):
        height, width, channels = model.flattened
        array = array.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(array.shape)
    return torch.from_numpy(array.T)


def parameter_from_torch(model, tensor):
    """The way back."""
    array = weight_from_torch(tensor)
    if array.ndim != 2:
        return array
    array = array.T
    if is_behind_flatten(model, array):
        height, width, channels = model.flattened
        array = array.reshape(channels, height, width, -1).transpose(1, 2, 0, 3).reshape(array.shape)
    return array


def is_behind_flatten(model, array):
    """Is this (in, out) weight that of a dense layer which reads a flattened map of features?"""
    return hasattr(model, "flattened") and array.ndim == 2 and len(array) == math.prod(model.flattened)
