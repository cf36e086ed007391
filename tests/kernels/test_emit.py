"""What kernels emit; vectors and loops are tested where they are used, by test_tile and test_product."""

import numba
import numpy as np
import pytest

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import kernel, prange


@kernel
def double(x):
    for n in prange(len(x)):
        line = flattened(x[n])
        for i in range(len(line)):
            line[i] *= 2


def test_a_flattened_array_is_the_same_memory():
    for shape in ((3, 4, 5), (2, 1, 0), (1, 7)):
        x = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        expected = 2 * x
        double(x)
        np.testing.assert_array_equal(x, expected)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="NumPy copies such an array")
def test_what_is_not_contiguous_is_not_flattened():
    with pytest.raises(numba.TypingError):
        double(np.zeros((4, 4, 4), np.float32)[:, ::2])
