"""The weight gradient as a direct sum, in each of its forms, against its definition."""

import numpy as np
import pytest

from tests.naive import convolution as naive
from tinynet.kernels import weight_sum
from tinynet.shapes import Geometry, conv_output_size

ONE = ((1, 1), (1, 1))
FORMS = {  # (kernel, C, O, geometry, image): is_narrow, whether y is cut into panels
    "a tile of inputs": ((3, 3), 5, 20, Geometry(padding=ONE), (9, 7), False, False),
    "a tile of outputs": ((3, 3), 32, 3, Geometry(padding=ONE), (9, 12), True, False),
    "a tile of outputs, strided": ((7, 7), 8, 4, Geometry((2, 2), ((3, 3), (3, 3))), (11, 14), True, False),
    "panels": ((3, 3), 8, 70, Geometry((2, 1), ONE), (7, 8), False, True),
    "panels, dilated": ((3, 3), 9, 40, Geometry((1, 1), ONE, (2, 2)), (9, 8), False, True),
    "panels, in groups": ((3, 3), 16, 80, Geometry(padding=ONE, groups=2), (6, 9), False, True),
    "many inputs": ((3, 3), 70, 33, Geometry(padding=ONE), (20, 20), False, True),
    "rows longer than a chunk": ((3, 1), 2, 5, Geometry(), (4, 300), False, False),
    "inside of the image": ((2, 3), 4, 17, Geometry(), (40, 6), False, False),
    "1x1, strided": ((1, 1), 6, 9, Geometry((3, 2)), (10, 9), False, False),
    "1x1": ((1, 1), 6, 9, Geometry(), (10, 9), False, False),
}


def drawn(kernel, C, O, geometry, image, dtype=np.float64):
    axes = zip(image, kernel, geometry.stride, map(sum, geometry.padding), geometry.dilation, strict=True)
    generator = np.random.default_rng(0)
    x = generator.standard_normal((3, *image, C)).astype(dtype)
    return x, generator.standard_normal((3, *(conv_output_size(*axis) for axis in axes), O)).astype(dtype)


@pytest.mark.parametrize("name", FORMS)
def test_each_form_against_the_definition(name, monkeypatch):
    kernel, C, O, geometry, image, is_narrow, cuts = FORMS[name]
    seen, loop = [], weight_sum.add_weights
    monkeypatch.setattr(weight_sum, "add_weights", lambda *arguments: (seen.append(arguments), loop(*arguments)))
    for dtype, tolerance in ((np.float64, 1e-12), (np.float32, 1e-5)):
        x, y = drawn(kernel, C, O, geometry, image, dtype)
        w = weight_sum.weight_gradient(x, y, geometry, kernel)
        expected = naive.weight_gradient(x.astype(float), y.astype(float), geometry, kernel)
        assert w.dtype == dtype and w.flags.c_contiguous
        np.testing.assert_allclose(w, expected, rtol=0, atol=tolerance * np.abs(expected).max())
    assert [arguments[7:9] for arguments in seen] == [(is_narrow, cuts)] * 2


@pytest.mark.parametrize("name", ["a tile of inputs", "a tile of outputs", "panels"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nan_and_inf_travel(name, bad):
    kernel, C, O, geometry, image, *_ = FORMS[name]
    x, y = drawn(kernel, C, O, geometry, image)
    y[1, 2, 3, 1] = bad
    w = weight_sum.weight_gradient(x, y, geometry, kernel)
    assert not np.isfinite(w[1, 1, :, 1]).any()
    assert np.isfinite(np.delete(w, 1, axis=3)).all()


def test_no_images_have_the_gradient_zero():
    w = weight_sum.weight_gradient(np.zeros((0, 5, 5, 3)), np.zeros((0, 3, 3, 4)), Geometry(), (3, 3))
    np.testing.assert_array_equal(w, np.zeros((3, 3, 3, 4)))
