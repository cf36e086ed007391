"""Benchmarks: the networks of the comparison train, on images of any size that the parts give them."""

import numpy as np
import pytest

from benchmarks import CLASSES, NETWORKS, THINGS, Images, random_batch
from benchmarks.tinynet_side import Trainer

SHAPES = {
    "CAE": [(2, 32, 32, 3)],
    "FCN": [(2, 32, 32, CLASSES)],
    "Detector": [(2, 4), (2, THINGS)],
    "ResNet-20": [(2, THINGS)],
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_of_the_comparison_learns_its_batch(name):
    trainer = Trainer(name, random_batch(name, Images(2, 32)), width=8)
    assert [output.shape for output in trainer.outputs()] == SHAPES[name]
    loss, gradients, _ = trainer.results()
    assert gradients.keys() == dict(trainer.model.named_parameters()).keys()
    assert all(np.abs(gradient).max() > 0 for gradient in gradients.values())
    for _ in range(10):
        trainer.step()
    assert trainer.loss().item() < loss
