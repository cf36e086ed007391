"""The same seed gives the same bits: for any threads, workers, stops and resumes, and for an image in any company.

(On another kind of processor the last digits may differ: its vectors are of another length.)
"""

import signal

import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder, detection, detection_many, residual, segmentation
from tests import same_bits
from tinynet import nn

pytest.importorskip("matplotlib")

SIGNALS = {
    "segmentation": [signal.SIGKILL],
    "autoencoder": [signal.SIGINT],
    "residual": [],
    "detection": [signal.SIGTERM],
    "detection_many": [],
}


@pytest.mark.parametrize("name", same_bits.EXAMPLES)
def test_an_example_trains_to_the_same_bits(name, tmp_path):
    found = dict(same_bits.check(name, tmp_path, ways=[(2, 3)], stops=1, signals=SIGNALS[name]))
    assert found and not any(found.values())


NETWORKS = {
    "segmentation": lambda: segmentation.FCN(5, (16, 32, 32)),
    "autoencoder": lambda: autoencoder.CAE((32, 32), 3, 8, (16, 32), 32),
    "residual": lambda: residual.ResNet(5, 8, True, width=16),
    "detection": lambda: detection.Detector(5, 32, (16, 32)),
    "detection_many": lambda: detection_many.GridDetector(5, (16, 16, 32, 32)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_does_not_depend_on_its_batch(name):
    model = NETWORKS[name]().eval()
    images = np.random.default_rng(0).random((9, 32, 32, 3), np.float32)

    def outputs(chosen):
        with tn.no_grad():
            y = model(tn.Tensor(images[chosen]))
        return [part.numpy() for part in (y if isinstance(y, tuple) else (y,))]

    together = outputs(list(range(9)))
    for chosen in ([4], [8, 0], [3, 3, 3, 4, 1], [7, 6, 5, 4, 3, 2, 1, 0]):
        for part, alone in zip(together, outputs(chosen), strict=True):
            np.testing.assert_array_equal(alone, part[chosen])


WEIGHT = np.random.default_rng(1).standard_normal((3, 3, 4, 4)).astype(np.float32)
FUNCTIONS = {
    **{fn.__name__: fn for fn in (tn.relu, tn.leaky_relu, tn.sigmoid, tn.tanh, tn.softplus, tn.gelu, tn.silu,
                                  tn.softmax, tn.log_softmax, tn.exp, tn.abs)},
    "log": lambda x: tn.log(tn.abs(x) + 1),
    "logsumexp": lambda x: tn.logsumexp(x, axis=-1),
    "mean": lambda x: tn.mean(x, axis=(1, 2)),
    "var": lambda x: tn.var(x, axis=(1, 2)),
    "sum": lambda x: tn.sum(x, axis=(1, 2, 3)),
    "max": lambda x: tn.max(x, axis=(1, 2)),
    "conv2d": lambda x: tn.conv2d(x, WEIGHT, padding=1),
    "conv_transpose2d": lambda x: tn.conv_transpose2d(x, WEIGHT, stride=2, padding=1),
    "depthwise": lambda x: tn.conv2d(x, WEIGHT[:, :, :1], padding=1, groups=4),
    "max_pool2d": lambda x: tn.max_pool2d(x, 3, 2, 1),
    "avg_pool2d": lambda x: tn.avg_pool2d(x, 3, 2, 1),
    "resize": lambda x: tn.resize(x, (90, 50), "bilinear"),
    "batch_norm": nn.BatchNorm2d(4).eval(),
    "group_norm": nn.GroupNorm(2, 4),
    "layer_norm": nn.LayerNorm((64, 64, 4)),
    "dense": lambda x: tn.matmul(x.flatten(1), np.resize(WEIGHT, (64 * 64 * 4, 3))),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_function_of_an_image_does_not_depend_on_its_batch(name):
    """20 images are work for kernels with threads; a single one isn't always."""
    images = np.random.default_rng(0).standard_normal((20, 64, 64, 4)).astype(np.float32)
    together = FUNCTIONS[name](tn.Tensor(images)).numpy()
    for chosen in ([0], [19, 3, 3]):
        np.testing.assert_array_equal(FUNCTIONS[name](tn.Tensor(images[chosen])).numpy(), together[chosen])
