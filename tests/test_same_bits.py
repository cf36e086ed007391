"""The same seed gives the same bits: for any threads, workers, stops and resumes, and for an image in any company.

(On another kind of processor the last digits may differ: its vectors are of another length.)
"""

import signal

import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder, detection, detection_many, residual, segmentation
from tests import same_bits

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
