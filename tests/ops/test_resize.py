"""resize: its twin, its adjoint, its gradients, and where no rounding may decide."""

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_close, check_op, draw
from tests.naive import resize as naive
from tinynet.kernels.resize import bilinear_taps, nearest_taps, resample
from tinynet.ops.resize import resize

modes = st.sampled_from(["nearest", "bilinear"])
sizes = st.tuples(st.integers(1, 5), st.integers(1, 5))


@given(modes, sizes, sizes)
def test_is_its_twin_with_right_gradients(mode, size, out):
    x = draw((1, *size, 2))
    check_op(lambda x: resize(x, out, mode), lambda x: naive.resize(x, out, mode), [x])


@given(modes, st.integers(1, 60), st.integers(1, 60))
def test_the_gradient_is_the_adjoint(mode, inputs, outputs):
    x, y = draw((1, inputs, 2, 2)), draw((1, outputs, 3, 2), seed=1)
    t = tn.Tensor(x, requires_grad=True)
    out = resize(t, (outputs, 3), mode)
    out.backward(y)
    np.testing.assert_allclose((out.numpy() * y).sum(), (x * t.grad.numpy()).sum(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("inputs, outputs", [(30, 7), (122, 9), (21, 77), (2, 98)])
def test_nearest_takes_whole_pixels_exactly(inputs, outputs):
    """In floating point floor(i * (inputs / outputs)) is off by one for some pixels of these."""
    index = nearest_taps(inputs, outputs).index
    assert index.tolist() == [i * inputs // outputs for i in range(outputs)]


def test_one_number_is_both_sides():
    assert resize(draw((1, 2, 3, 1)), 4).shape == (1, 4, 4, 1)


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_the_same_size_changes_nothing(mode):
    x = draw((2, 5, 4, 3))
    x[0, 2, 2, 1] = np.nan
    np.testing.assert_array_equal(resize(x, (5, 4), mode).numpy(), x)


def test_nan_reaches_its_neighbours_only():
    x = np.zeros((1, 4, 4, 1))
    x[0, 0, 0] = np.nan
    y = resize(x, 8, "bilinear").numpy()[0, :, :, 0]
    assert np.isnan(y).sum() == 9 and np.isnan(y[:3, :3]).all()


@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
def test_infinity_travels(mode):
    x = draw((1, 3, 3, 2))
    x[0, 1, 1, 0] = np.inf
    check_close(resize(x, (7, 5), mode).numpy(), naive.resize(x, (7, 5), mode), 1e-12)


def test_no_images():
    assert resize(np.zeros((0, 4, 4, 2)), 2).shape == (0, 2, 2, 2)


def test_same_bits_for_any_number_of_threads():
    x = draw((3, 17, 9, 5)).astype(np.float32)
    rows, columns = bilinear_taps(17, 40), bilinear_taps(9, 4)
    threads, found = numba.get_num_threads(), []
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            y = resample(x, rows, columns)
            found.append((y.tobytes(), resample(y, rows.transposed(), columns.transposed()).tobytes()))
    finally:
        numba.set_num_threads(threads)
    assert len(set(found)) == 1


def test_sentences():
    x = draw((1, 4, 4, 2))
    with pytest.raises(ValueError, match=r'resize: mode is \'cubic\', but must be "nearest" or "bilinear"'):
        resize(x, 2, mode="cubic")
    with pytest.raises(ValueError, match="resize: size is 0, but must be at least 1"):
        resize(x, (3, 0))
    with pytest.raises(TypeError, match="resize: size is 2.5"):
        resize(x, 2.5)
    with pytest.raises(ValueError, match=r"resize: x has the shape \(4, 4, 2\)"):
        resize(x[0], 2)
