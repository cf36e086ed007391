"""What users write: mypy --strict passes it, and knows the types of what comes out. Read by mypy, never run."""

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, assert_type

import numpy as np
import numpy.typing as npt

import tinynet as tn
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint
from tinynet.data.loader import Batch, Dataset, Sample
from tinynet.inspect.graph import Graph
from tinynet.inspect.summary import Summary
from tinynet.interop import onnx
from tinynet.interop import torch as from_torch

Array = npt.NDArray[Any]


class Network(nn.Module):
    """A model of one's own."""

    def __init__(self, classes: int, width: int = 16) -> None:
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, stride=(2, 2), padding="same"), nn.ReLU(), nn.MaxPool2d(2))
        self.skip = nn.Residual(nn.Conv2d(width, width, 3, padding=((1, 1), (1, 1))))
        self.scale = nn.Parameter(np.ones(width, np.float32))
        self.running = np.zeros(width, np.float32)
        self.head = nn.Dense(width, classes)

    def forward(self, x: tn.Tensor) -> tn.Tensor:
        features: tn.Tensor = self.skip(self.body(x)) * self.scale
        return tn.matmul(features.mean((1, 2)), self.head.weight)


class Pairs:
    """A data set of one's own."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> tuple[Array, int]:
        return np.full((8, 8, 3), index, np.float32), index


def brighter(sample: Sample, rng: np.random.Generator) -> Sample:
    return (sample[0] * rng.uniform(0.5, 1.5), *sample[1:])


def tensors() -> None:
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    assert_type(x * 2 + np.ones(2), tn.Tensor)
    assert_type(1 - x / 3, tn.Tensor)
    assert_type(x @ x, tn.Tensor)
    assert_type(-x ** 2, tn.Tensor)
    assert_type(x[0], tn.Tensor)
    assert_type(x[None, ..., 1:], tn.Tensor)
    assert_type(x > 1, Array)
    assert_type(x == x, Array)
    assert_type(x.grad, tn.Tensor | None)
    assert_type(x.data, Array)
    assert_type(x.shape, tuple[int, ...])
    assert_type(x.sum(axis=0, keepdims=True), tn.Tensor)
    assert_type(x.reshape(1, 2).reshape((2, 1)).T, tn.Tensor)
    assert_type(list(x), list[tn.Tensor])
    x.sum().backward()
    x.data = [3.0, 4.0]
    assert_type(tn.grad(x.sum(), x, create_graph=True), list[tn.Tensor])
    assert_type(tn.gradcheck(lambda t: t * t, [x], fast=True), bool)
    assert_type(tn.no_grad(), AbstractContextManager[None])
    assert_type(tn.__version__, str)


def functions(x: tn.Tensor, labels: Array) -> None:
    assert_type(tn.relu([1.0, -1.0]), tn.Tensor)
    assert_type(tn.where(x > 0, x, 0.0), tn.Tensor)
    assert_type(tn.conv2d(x, np.ones((3, 3, 3, 8), np.float32), stride=2, padding=(1, 1)), tn.Tensor)
    assert_type(tn.max_pool2d(x, 2, padding="same"), tn.Tensor)
    assert_type(tn.resize(x, (4, 4), mode="bilinear"), tn.Tensor)
    assert_type(tn.concatenate([x, np.ones(3), [1.0]], axis=-1), tn.Tensor)
    assert_type(tn.max(x, axis=(0, 1)), tn.Tensor)
    assert_type(tn.cross_entropy(x, labels, ignore_index=255, reduction="none"), tn.Tensor)
    assert_type(tn.batch_norm(x, None, None, training=True), tn.Tensor)


def modules(model: Network) -> None:
    assert_type(model.train().eval().astype(np.float64), Network)
    assert_type(nn.Conv2d(3, 8, 3).weight, nn.Parameter)
    assert_type(nn.Conv2d(3, 8, 3).bias, nn.Parameter | None)
    assert_type(model.parameters(), Iterator[nn.Parameter])
    assert_type(model.state_dict(), dict[str, Array])
    assert_type(model.load_state_dict(tn.load("model.safetensors"), strict=False), tuple[list[str], list[str]])
    assert_type(tn.summary(model, (1, 32, 32, 3)), Summary)
    assert_type(tn.graph(model(tn.Tensor(np.ones((1, 32, 32, 3))))), Graph)
    assert_type(nn.init.fans((3, 3, 8, 8), stride=2), tuple[float, float])
    tn.save(model.state_dict(), "model.safetensors", metadata={"by": "me"})
    from_torch.load(model, "theirs.safetensors", example=np.ones((1, 32, 32, 3)))
    onnx.export(model, np.ones((1, 32, 32, 3)), "model.onnx", layout="NCHW")


def loss_of(model: Network, batch: Batch) -> tn.Tensor:
    return tn.cross_entropy(model(tn.Tensor(batch[0])), batch[1])


def evaluated(model: Network) -> dict[str, float]:
    confusion = metrics.ConfusionMatrix(10, names=["sky"] * 10)
    confusion.update(prediction=model(tn.Tensor(np.ones((1, 8, 8, 3)))).data.argmax(-1), target=np.array([1]))
    assert_type(confusion.iou(), Array)
    return {"mean_iou": confusion.mean_iou(), "psnr": metrics.psnr([0.5], [0.6])}


def train() -> None:
    pairs: Dataset = Pairs()
    loader = data.DataLoader(data.Augmented(pairs, data.Flip(), brighter), batch_size=4, workers=2, on_error="skip")
    for batch in loader:
        assert_type(batch, Batch)
    model = Network(10)
    optimizer = optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.99))
    assert_type(optim.clip_grad_norm(model.parameters(), 1.0), float)
    history = training.fit(model, optimizer, loader, loss_of, epochs=2, out="out", evaluate=evaluated,
                           schedule=optim.CosineLR(1e-3, total_steps=100), follow=("mean_iou", max),
                           after_epoch=lambda epoch, model, row: print(epoch, model.head, row["loss"]))
    assert_type(history, list[dict[str, float]])
    assert_type(load_checkpoint("out/best.safetensors", model), dict[str, Any])
    assert_type(data.MNIST("mnist")[0], tuple[Array, int])
    assert_type(data.Scenes(10, size=64)[0], tuple[Array, Array])
