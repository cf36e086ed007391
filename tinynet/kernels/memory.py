"""Where the kernels' arrays lie: at the beginning of a cache line.

The processor moves memory in lines of 64 bytes, which is just a vector of AVX-512. NumPy's arrays begin 16 bytes
into a line as a rule, so that each vector of them takes two lines: the tile's loop then runs at 5/6 of its speed.
"""

import math

import numpy as np

LINE = 64


def empty(shape, dtype):
    """An array that is not filled yet, contiguous, from the beginning of a cache line.

    >>> empty((2, 3), np.float32).__array_interface__["data"][0] % LINE
    0
    """
    dtype = np.dtype(dtype)
    size = math.prod(shape) * dtype.itemsize
    block = np.empty(size + LINE - 1, np.uint8)
    begin = -_address(block) % LINE
    return block[begin:begin + size].view(dtype).reshape(shape)


def zeros(shape, dtype):
    array = empty(shape, dtype)
    array.fill(0)
    return array


def aligned(array):
    """`array` itself where it is contiguous and begins with a cache line, or else a copy that does.

    For what is read often and is small, such as weights.
    """
    if array.flags.c_contiguous and _address(array) % LINE == 0:
        return array
    copy = empty(array.shape, array.dtype)
    copy[...] = array
    return copy


def _address(array):
    return array.__array_interface__["data"][0]
