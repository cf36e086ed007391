"""Mistakes that a type checker finds: each line is one, with the error that mypy gives. Read by mypy, never run.

mypy is told to complain of a `type: ignore` where there is nothing to ignore: so it rejects every one of these lines.
"""

# ruff: noqa: B018

import numpy as np

import tinynet as tn
from tinynet import data, metrics, nn, optim, training


def mistakes() -> None:
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    model = nn.Sequential(nn.Dense(2, 2))
    convolution = nn.Conv2d(3, 8, 3)

    tn.Tensor([1.0], grad=True)                                     # type: ignore[call-arg]
    tn.relu()                                                       # type: ignore[call-arg]
    x + None                                                        # type: ignore[operator]
    x ** x                                                          # type: ignore[operator]
    x.sum(axis="rows")                                              # type: ignore[arg-type]
    x.grad.data                                                     # type: ignore[union-attr]
    x.size = 3                                                      # type: ignore[misc]
    x.dta                                                           # type: ignore[attr-defined]
    tn.conv2d(x, x, None, 2)                                        # type: ignore[call-arg]
    tn.conv2d(x, x, padding="valid")                                # type: ignore[arg-type]
    tn.conv2d(x, x, stride=(1, 2, 3))                               # type: ignore[arg-type]
    tn.resize(x, 2, mode="cubic")                                   # type: ignore[arg-type]
    tn.mse_loss(x, x, reduction="max")                              # type: ignore[arg-type]
    tn.relu6(x)                                                     # type: ignore[attr-defined]
    tn.gradcheck(x, lambda t: t)                                    # type: ignore[arg-type]
    tn.save(x, "weights.safetensors")                               # type: ignore[arg-type]
    nn.Conv2d(3, 8)                                                 # type: ignore[call-arg]
    nn.Conv2d(3, 8, kernel=3)                                       # type: ignore[call-arg]
    nn.Upsample(2, mode="cubic")                                    # type: ignore[arg-type]
    nn.Sequential([nn.ReLU()])                                      # type: ignore[arg-type]
    convolution.wieght                                              # type: ignore[attr-defined]
    convolution.weight = np.ones((3, 3, 3, 8))                      # type: ignore[assignment]
    convolution.bias.data                                           # type: ignore[union-attr]
    model.load_state_dict(["weight"])                               # type: ignore[arg-type]
    optim.Adam(model, lr=1e-3)                                      # type: ignore[arg-type]
    optim.SGD(model.parameters())                                   # type: ignore[call-arg]
    data.DataLoader(5, batch_size=2)                                # type: ignore[arg-type]
    data.DataLoader([1], batch_size=2, on_error="warn")             # type: ignore[arg-type]
    data.Augmented([1], lambda sample: sample)                      # type: ignore[arg-type, misc]
    metrics.ConfusionMatrix("five")                                 # type: ignore[arg-type]
    training.fit(model, optim.Adam(model.parameters()), data.DataLoader([1], 1), tn.mse_loss)  # type: ignore[call-arg, arg-type]
