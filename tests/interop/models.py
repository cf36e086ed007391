"""The four examples' models, small, with statistics and biases that are not at their first values."""

import numpy as np

import tinynet as tn
from examples.autoencoder import CAE
from examples.detection import Detector
from examples.residual import ResNet
from examples.segmentation import FCN
from tinynet import nn

MODELS = {
    "CAE": lambda: CAE((14, 12), 3, code=8, widths=(8, 12, 16), hidden=24),
    "CAE, map": lambda: CAE((14, 12), 3, code=(3, 3, 4), widths=(8, 12, 16)),
    "FCN": lambda: FCN(5, widths=(8, 12, 16)),
    "ResNet": lambda: ResNet(4, 8, width=8),
    "Detector": lambda: Detector(3, size=16, widths=(8, 12, 16)),
}


def model(name):
    """The model as after some training."""
    made = MODELS[name]()
    unsettle(made)
    return made.eval()


def unsettle(made):
    """Random statistics, scales and biases, so that one left out or in the wrong order is seen."""
    rng = np.random.default_rng(1)
    for module in made.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean[:] = rng.normal(0, 0.2, module.num_features)
            module.running_var[:] = rng.uniform(0.5, 2, module.num_features)
        for parameter in vars(module).values():
            if isinstance(parameter, nn.Parameter) and parameter.ndim == 1:
                parameter.data[:] += rng.normal(0, 0.2, parameter.shape).astype(np.float32)


def images(name, count=2):
    """What the model takes."""
    size = {"CAE": (14, 12), "CAE, map": (14, 12), "FCN": (13, 18), "ResNet": (12, 10), "Detector": (16, 16)}[name]
    return np.random.default_rng(2).random((count, *size, 3), dtype=np.float32)


def outputs(made, x):
    """The outputs as a list of arrays."""
    with tn.no_grad():
        y = made(tn.Tensor(x))
    return [each.data for each in (y if isinstance(y, tuple) else (y,))]
