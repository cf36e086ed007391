"""tinynet against PyTorch, on one machine in one run: see README.md; here: the networks' batches."""

from typing import NamedTuple

import numpy as np

CLASSES = 12  # of the FCN's pixels
THINGS = 10  # classes of the detector and of the residual network


class Images(NamedTuple):
    """A batch: so many images, of size x size pixels."""

    count: int
    size: int


# The networks of the comparison, each with the batch that it is trained with. They are written out in
# tinynet_networks.py and, with the same layers, in torch_networks.py.
NETWORKS = {
    "CAE": Images(16, 128),
    "FCN": Images(16, 128),
    "Detector": Images(16, 128),
    "ResNet-20": Images(128, 32),
}


def random_batch(name, images):
    """Images of noise (N, H, W, 3), and a tuple of random targets as the network's loss wants them."""
    rng = np.random.default_rng(0)
    n, size = images
    x = rng.random((n, size, size, 3), dtype=np.float32)
    targets = {
        "CAE": (x,),
        "FCN": (rng.integers(0, CLASSES, (n, size, size)),),
        "Detector": (rng.random((n, 4), dtype=np.float32), rng.integers(0, THINGS, n)),
        "ResNet-20": (rng.integers(0, THINGS, n),),
    }
    return x, targets[name]
