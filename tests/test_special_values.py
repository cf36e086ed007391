"""NaN, Inf, -0, denormals and empty arrays: special_values.md is what the code does, and what the definitions say."""

import numpy as np
import pytest

import tinynet as tn
from tests import special_values as special
from tests.naive import convolution as naive
from tinynet.ops.convolution import Then
from tinynet.shapes import conv2d_shapes

SECTIONS = {
    "one": (special.ONE, special.one_cells),
    "two": (special.TWO, special.two_cells),
    "row": (special.ROW, special.row_cells),
    "convolution": (special.CONVOLUTION, special.convolution_cells),
    "image": (special.IMAGE, special.image_cells),
}
LINES = special.TABLE.read_text().splitlines()


def told(name):
    """The cells of a line of the table."""
    (line,) = [line for line in LINES if line.startswith(f"| {name} |")]
    return [cell.strip() for cell in line.split("|")[2:-2]]


@pytest.mark.parametrize(
    "section, name", [(section, name) for section, (cases, _) in SECTIONS.items() for name in cases]
)
def test_the_table_is_what_the_code_does(section, name):
    cases, cells = SECTIONS[section]
    *case, _ = cases[name]
    assert cells(*case) == told(name)


@pytest.mark.parametrize("name", special.EMPTY)
def test_the_table_is_what_the_code_does_with_empty_arrays(name):
    fn, shape, _ = special.EMPTY[name]
    assert [special.empty_cell(fn, shape)] == told(f"{name}, {shape}")


def test_the_table_is_complete():
    """Every function that computes has a line; the others move elements as they are."""
    moves = "reshape transpose pad stack flatten".split()
    text = " ".join(LINES)
    missing = [name for name in tn.ops.__all__ if name not in text and name not in moves]
    assert [name for name in missing if name not in ("matmul", "binary_cross_entropy_with_logits")] == []


KINDS = [(16, 3, 3, 1, 1), (4, 4, 3, 1, 1), (4, 1, 3, 1, 1), (16, 16, 3, 1, 1), (16, 16, 4, 2, 1), (4, 4, 3, 1, 4),
         (8, 16, 3, 2, 1)]


@pytest.mark.parametrize("C, O, K, stride, groups", KINDS)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("place", ["corner", "inside"])
def test_what_is_not_finite_stays_in_its_window(C, O, K, stride, groups, value, place):
    """In x, and in gy: as in the sum by its definition, in whichever way it is computed; with ReLU or pooling, too."""
    rng = np.random.default_rng(0)
    x, w = (rng.uniform(0.5, 1, s).astype(np.float32) for s in ((2, 8, 8, C), (K, K, C // groups, O)))
    geometry, out_hw = conv2d_shapes(x.shape, w.shape, None, stride, 1, 1, groups)
    gy = rng.uniform(0.5, 1, (2, *out_hw, O)).astype(np.float32)
    at = (1, 0, 0, 0) if place == "corner" else (1, 2, 1, 0)
    x[at], gy[at] = value, value
    options = {"stride": stride, "padding": 1, "groups": groups}
    leaf, weight = tn.Tensor(np.where(np.isfinite(x), x, 1), requires_grad=True), tn.Tensor(w, requires_grad=True)
    expected = naive.gather(x, w, None, geometry, out_hw)
    same_kinds(tn.conv2d(x, w, **options).numpy(), expected)
    same_kinds(tn.conv2d(x, w, **options, then=Then(relu=True)).numpy(), np.maximum(expected, 0))
    largest = expected.reshape((2, out_hw[0] // 2, 2, out_hw[1] // 2, 2, O)).max((2, 4))
    same_kinds(tn.conv2d(x, w, **options, then=Then(pool=True)).numpy(), largest)
    tn.conv2d(leaf, weight, **options).backward(gy)
    same_kinds(leaf.grad.numpy(), naive.scatter(gy, w, None, geometry, (8, 8)))
    x = leaf.numpy()
    if groups == 1:  # the padding's zeros count: 0 times NaN is NaN
        x, geometry = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0))), geometry._replace(padding=((0, 0), (0, 0)))
    with np.errstate(invalid="ignore"):
        same_kinds(weight.grad.numpy(), naive.weight_gradient(x, gy, geometry, (K, K)))


def same_kinds(actual, expected):
    for kind in (np.isnan, np.isposinf, np.isneginf):
        np.testing.assert_array_equal(kind(actual), kind(expected))


def test_zeros_keep_their_sign_where_the_definition_says():
    for fn, sign in ((tn.sqrt, True), (lambda x: -x, False), (tn.abs, False), (lambda x: x * 2, True)):
        assert np.signbit(fn(tn.Tensor([-0.0])).item()) == sign


DENORMALS = np.array([1e-40, -3e-42, 1.4e-45], np.float32)


@pytest.mark.parametrize("channels", [1, 16])
def test_denormals_go_through_kernels_as_they_are(channels):
    x = np.zeros((1, 8, 8, channels), np.float32)
    x[0, 3, 3, 0] = DENORMALS[0]
    w = np.ones((3, 3, channels, channels), np.float32)
    with tn.exact_convolution():  # Winograd's transforms divide by 24: what is that small, they lose in part
        y = tn.conv2d(x, w, padding=1).numpy()
    assert (y[0, 2:5, 2:5] == DENORMALS[0]).all()
    large = np.resize(DENORMALS, 70_000)
    for fn in (tn.relu, lambda x: x + 0.0, lambda x: x * 1.0, tn.tanh):
        np.testing.assert_array_equal(fn(tn.Tensor(large)).numpy(), np.maximum(large, 0) if fn is tn.relu else large)
    images = large[: 64 * channels].reshape((1, 8, 8, channels))
    np.testing.assert_array_equal(tn.max_pool2d(images, 1).numpy(), images)
    np.testing.assert_array_equal(tn.resize(images, 8, "bilinear").numpy(), images)
