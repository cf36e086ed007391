"""tinynet against PyTorch, on one machine in one run; here: the network and the batch that both train."""

import numpy as np

CLASSES = 12
WIDTHS = (32, 64, 128, 128)


def random_batch(count, size):
    """`count` images (N, H, W, 3) of noise, and a random class for each of their pixels (N, H, W)."""
    rng = np.random.default_rng(0)
    images = rng.random((count, size, size, 3), dtype=np.float32)
    return images, rng.integers(0, CLASSES, (count, size, size))
