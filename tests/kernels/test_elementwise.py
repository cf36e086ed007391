"""The table of elementwise functions, over many chunks, against NumPy."""

import numba
import numpy as np
import pytest

from tests.naive import activation as naive
from tinynet.kernels import activation, elementwise
from tinynet.kernels.elementwise import CHUNK, CHUNKS, LARGE

TASK = CHUNKS * CHUNK
SPECIAL = [0.0, -0.0, np.nan, np.inf, -np.inf, 1e-30, -1e-30, 88.0, -88.0, 104.0, -104.0, 1e38, -1e38]


def values(size, dtype, seed=0):
    x = np.random.default_rng(seed).normal(0, 3, size).astype(dtype)
    if size > 1000:
        x[7 :: size // 40][: len(SPECIAL)] = SPECIAL
    return x


SHAPES = [
    ((LARGE,), (LARGE,)),
    ((5, 3, TASK), (5, 3, TASK)),
    ((3 * TASK + 1,), ()),
    ((TASK, 7), (7,)),
    ((61, 40, 33), (33,)),
    ((61, 40, 33), (40, 33)),
    ((61, 40, 33), (1, 1, 33)),
    ((9, CHUNK), (CHUNK,)),
    ((9, CHUNK + 1), (CHUNK + 1,)),  # too long a row
    ((300, 300), (300, 1)),  # not repeated as a whole
    ((300, 1, 300), (300, 1)),
    ((70000,), (1, 70000)),
    ((1, 70000), (1, 1, 1)),
]


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shapes", SHAPES, ids=str)
@pytest.mark.parametrize("name", ["add", "subtract", "multiply"])
def test_arithmetic_is_numpys(name, shapes, dtype):
    long, short = (values(int(np.prod(shape)), dtype, i).reshape(shape) for i, shape in enumerate(shapes))
    for x, y in ((long, short), (short, long), (long[..., ::-1], short)):
        with np.errstate(all="ignore"):
            expected = getattr(np, name)(x, y)
            z = getattr(elementwise, name)(x, y)
        assert z.dtype == dtype and z.shape == expected.shape
        np.testing.assert_array_equal(z, expected)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("count", [5, LARGE + 3])
def test_adding_to_an_array_writes_over_it(count, dtype):
    x, y = values(count, dtype, 1), values(count, dtype, 2)
    with np.errstate(all="ignore"):
        expected, turned = x + y, x[::-1] + y
        assert elementwise.add_to(x[::-1], y).base is x
        np.testing.assert_array_equal(x[::-1], turned)
        x[:] = values(count, dtype, 1)
        assert elementwise.add_to(x, y) is x
    np.testing.assert_array_equal(x, expected)
    np.testing.assert_array_equal(y, values(count, dtype, 2))


@pytest.mark.parametrize("name", ["sigmoid", "tanh"])
def test_float32_functions_hold_to_their_definition(name):
    x = np.concatenate([np.linspace(-9, 9, LARGE), np.geomspace(1e-30, 1, 999), -np.geomspace(1e-30, 1, 999)])
    x = x.astype(np.float32)
    expected = naive.__dict__[name](x.astype(np.float64))
    y = getattr(activation, name)(x)
    assert y.dtype == np.float32
    if name == "tanh":
        expected[np.abs(x) < 1e-6] = x[np.abs(x) < 1e-6]  # the definition subtracts equal numbers there
    np.testing.assert_allclose(y, expected, rtol=6e-7)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("name", ["relu", "sigmoid", "tanh", "relu_grad", "sigmoid_grad", "tanh_grad"])
def test_large_arrays_are_dealt_with_like_small_ones(name, dtype):
    function, n = getattr(activation, name), 3 * TASK + 5
    arrays = [values(n, dtype, i) for i in range(2 if name.endswith("_grad") else 1)]
    with np.errstate(all="ignore"):
        expected = np.concatenate([function(*(a[i : i + 1000] for a in arrays)) for i in range(0, n, 1000)])
    rtol, atol = (1e-6, 1e-5) if dtype == np.float32 else (1e-14, 1e-14)  # 1 - y^2 is a difference, fused here
    np.testing.assert_allclose(function(*arrays), expected, rtol=rtol, atol=atol if "tanh_grad" in name else 1e-37)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="there are no threads without compiling")
def test_same_bits_for_any_number_of_threads():
    x, y = values(5 * TASK + 3, np.float32).reshape(-1, 1), values(7, np.float32)
    x = np.ascontiguousarray(np.broadcast_to(x, (x.size, 7)))
    results, threads = [], numba.get_num_threads()
    for n in {1, threads}:
        numba.set_num_threads(n)
        results.append(elementwise.add(x, y).tobytes() + activation.sigmoid(x).tobytes())
    numba.set_num_threads(threads)
    assert len(set(results)) == 1
