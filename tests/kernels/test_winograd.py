"""Winograd's convolution: exact matrices, tiles against the direct sum in float64, adjoints, NaN, threads."""

import functools
from fractions import Fraction

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet.kernels import convolution, winograd
from tinynet.kernels import winograd_transform as transforms
from tinynet.kernels.prepared import Prepared
from tinynet.shapes import Geometry, conv_output_size


def geometry(kind, padding):
    stride = 2 if kind == 2 else 1
    return Geometry((stride, stride), padding, (1, 1), 1)


def case(kind, N, hw, padding, C, O):
    """x, w, y, a bias for each side and the geometry, of a 3x3 convolution (kind 1), 4x4 of stride 2 (2), or 5x5 (3)"""
    random = np.random.default_rng(0)
    k, (stride, _) = 2 + kind, geometry(kind, padding).stride
    y_hw = [conv_output_size(n, k, stride, sum(p), 1) for n, p in zip(hw, padding, strict=True)]
    shapes = (N, *hw, C), (k, k, C, O), (N, *y_hw, O), (C,), (O,)
    return *(random.standard_normal(shape, dtype=np.float32) for shape in shapes), geometry(kind, padding)


def both(x, w, y, bx, by, how, exactly=False):
    """{operation: result}, by Winograd in float32 or by the direct sum in float64."""
    k = convolution if exactly else winograd
    x, w, y, bx, by = (a.astype(np.float64) if exactly else a for a in (x, w, y, bx, by))
    return {"gather": k.gather(x, w, by, how, y.shape[1:3]), "scatter": k.scatter(y, w, bx, how, x.shape[1:3]),
            "weight_gradient": k.weight_gradient(x, y, how, w.shape[:2])}


def relative(got, expected):
    return np.abs(got - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("m, r", transforms.SIZES)
def test_the_matrices_are_exact(m, r):
    """In fractions, with the scale of B^T and G left out: not a digit may differ from the definition."""
    n = m + r - 1
    random = np.random.default_rng(r)
    x, w = ([Fraction(int(i), 7) for i in random.integers(-9, 9, size)] for size in (n, r))
    bt, g, a = transforms.interpolation(n), transforms.evaluation(r, n), transforms.evaluation(m, n)
    y = a.T @ ((g @ w) * (bt @ x))
    assert list(y) == [sum(x[i + t] * w[t] for t in range(r)) for i in range(m)]


@pytest.mark.parametrize("m, r", transforms.SIZES)
def test_scaled_matrices_do_the_same(m, r):
    n = m + r - 1
    x, w = np.random.default_rng(0).random((n, n)), np.random.default_rng(1).random((r, r))
    bt, g, at, gt, a = (functools.reduce(np.matmul, transforms.MATRICES[name])
                        for name in (f"BT{n}", *(f"{which}({m},{r})" for which in ("G", "AT", "GT", "A"))))
    windows = np.lib.stride_tricks.sliding_window_view(x, (r, r))
    np.testing.assert_allclose(at @ ((g @ w @ g.T) * (bt @ x @ bt.T)) @ at.T, np.einsum("ijab,ab", windows, w))
    np.testing.assert_allclose(gt, g.T)
    np.testing.assert_allclose(a, at.T)


def test_where_tiles_are_large():
    """Where the last tiles reach far beyond the image, those of 64 products are no fewer in all than those of 36."""
    def points(r, channels, *out_hw):
        return winograd._points(r, channels, out_hw, winograd.LEAST_OF_LARGE)

    few, many, most = (64, 64), (96, 64), (256, 272)
    assert [points(3, few, n, n) for n in (12, 16, 18, 32, 64, 128)] == [6, 6, 8, 6, 8, 8]
    assert points(3, few, 240, 320) == points(3, (16, 16), 30, 40) == 8
    assert points(3, many, 128, 128) == points(3, many[::-1], 128, 128) == 6
    assert [points(5, many, n, n) for n in (2, 8, 9, 128)] == [6, 6, 8, 8]
    assert points(5, most, 128, 128) == points(2, few, 128, 128) == 6


@given(kind=st.sampled_from([1, 2, 3]), N=st.integers(1, 2), hw=st.tuples(st.integers(5, 26), st.integers(5, 26)),
       padding=st.tuples(*[st.tuples(st.integers(0, 2), st.integers(0, 2))] * 2),
       C=st.sampled_from([16, 32]), O=st.sampled_from([16, 48]))
def test_equals_the_direct_sum(kind, N, hw, padding, C, O):
    """To 1e-5; but for tiles of 6x6 pixels, which are held to the 2e-5 that are promised."""
    arguments = case(kind, N, hw, padding, C, O)
    exact = both(*arguments, exactly=True)
    for name, result in both(*arguments).items():
        assert result.dtype == np.float32 and result.shape == exact[name].shape
        is_image = name != "weight_gradient" and kind == 1
        points = winograd._points(3, (C, O), result.shape[1:3], winograd.LEAST_OF_LARGE) if is_image else transforms.N
        assert relative(result, exact[name]) < (2e-5 if points == transforms.LARGE_N else 1e-5), name


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_weights_transformed_in_passing_or_before_give_the_same_bits(kind, monkeypatch):
    """The first time within the convolution's kernel; the second by themselves, kept for the third."""
    monkeypatch.setattr(winograd, "prepared", Prepared())
    first, second, third = (both(*case(kind, 2, (14, 11), ((1, 1), (1, 2)), 32, 48)) for _ in range(3))
    assert len(winograd.prepared.results) == 2
    for name in ("gather", "scatter"):
        assert np.array_equal(first[name], second[name]) and np.array_equal(second[name], third[name]), name


@pytest.mark.parametrize("kind, hw, C, O", [(1, 24, 64, 64), (1, 64, 64, 64), (1, 16, 128, 128), (1, 24, 256, 16),
                                            (1, 8, 256, 256), (2, 32, 64, 128), (3, 32, 64, 64), (3, 64, 16, 16),
                                            (3, 24, 256, 16)])
def test_the_stated_error_holds(kind, hw, C, O):
    """some 1e-5 of the largest result, for each class of shapes"""
    arguments = case(kind, 4, (hw, hw), ((1, 1), (1, 1)), C, O)
    exact = both(*arguments, exactly=True)
    for name, result in both(*arguments).items():
        assert relative(result, exact[name]) < 2e-5, name


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_the_stated_error_holds_for_long_sums(kind):
    x, w, y, _, _, how = case(kind, 8, (128, 128), ((1, 1), (1, 1)), 16, 16)
    exact = convolution.weight_gradient(x.astype(np.float64), y.astype(np.float64), how, w.shape[:2])
    assert relative(winograd.weight_gradient(x, y, how, w.shape[:2]), exact) < 2e-5


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_adjoints(kind):
    """<gather(x, w), y> = <x, scatter(y, w)> = <w, weight_gradient(x, y)>"""
    x, w, y, bx, by, how = case(kind, 2, (14, 11), ((1, 2), (0, 1)), 32, 32)
    results = both(x, w, y, 0 * bx, 0 * by, how)
    one, two, three = (np.vdot(a.astype(float), b) for a, b in zip(results.values(), (y, x, w), strict=False))
    size = np.linalg.norm(results["gather"].astype(float)) * np.linalg.norm(y)
    assert abs(one - two) < 1e-5 * size and abs(one - three) < 1e-5 * size


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 3e38])
@pytest.mark.parametrize("name", ["x", "w", "y"])
def test_what_is_not_finite_takes_the_direct_way(value, name):
    """So that it reaches no pixel that it would not reach there; a number near the largest may overflow within."""
    x, w, y, bx, by, how = case(1, 2, (12, 12), ((1, 1), (1, 1)), 32, 32)
    {"x": x, "w": w, "y": y}[name][0, 1, 0, 5] = value
    def run():
        return {"gather": convolution.gather(x, w, by, how, (12, 12)),
                "scatter": convolution.scatter(y, w, bx, how, (12, 12)),
                "weight_gradient": convolution.weight_gradient(x, y, how, (3, 3))}

    public = run()
    with tn.exact_convolution():
        direct = run()
    for key, result in public.items():
        np.testing.assert_array_equal(np.isfinite(result), np.isfinite(direct[key]), err_msg=key)
        np.testing.assert_array_equal(np.isnan(result), np.isnan(direct[key]), err_msg=key)


@pytest.mark.parametrize("kind", [1, 2, 3])
def test_one_and_two_threads_give_the_same_bits(kind):
    if numba.config.NUMBA_NUM_THREADS < 2:
        pytest.skip("this machine has one core")
    arguments = case(kind, 5, (22, 27), ((1, 1), (1, 1)), 32, 32)
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        results.append(both(*arguments))
    for name in results[0]:
        np.testing.assert_array_equal(results[0][name], results[1][name])


def test_an_image_does_not_depend_on_its_company():
    x, w, y, _, by, how = case(1, 9, (13, 14), ((1, 1), (1, 1)), 32, 32)
    together = convolution.gather(x, w, by, how, y.shape[1:3])
    for n in (0, 4, 8):
        np.testing.assert_array_equal(convolution.gather(x[n:n + 1], w, by, how, y.shape[1:3])[0], together[n])


def test_no_images_at_all():
    x, w, y, _, by, how = case(1, 0, (12, 12), ((1, 1), (1, 1)), 32, 32)
    assert convolution.gather(x, w, by, how, (12, 12)).shape == (0, 12, 12, 32)
    np.testing.assert_array_equal(convolution.weight_gradient(x, y, how, (3, 3)), np.zeros((3, 3, 32, 32)))


def test_which_convolutions_go_this_way():
    how = geometry(1, ((1, 1), (1, 1)))
    pays = winograd.pays
    assert pays((3, 3, 32, 48), (12, 12), np.float32, how)
    assert pays((4, 4, 32, 48), (15, 10), np.float32, geometry(2, ((1, 1), (1, 1))))
    assert not pays((4, 4, 32, 48), (10, 10), np.float32, geometry(2, ((1, 1), (1, 1))))     # 4 tiles
    assert pays((4, 4, 32, 48), (10, 10), np.float32, geometry(2, ((1, 1), (1, 1))), images=3)    # a sum over 12
    assert not pays((3, 3, 32, 48), (12, 12), np.float64, how)
    assert not pays((3, 3, 32, 40), (12, 12), np.float32, how)       # no whole vectors
    assert pays((3, 3, 16, 64), (12, 12), np.float32, how)
    assert not pays((3, 3, 8, 64), (12, 12), np.float32, how)
    assert not pays((3, 3, 64, 64), (5, 5), np.float32, how)         # 2 x 2 tiles of 4 x 4 would be mostly empty
    assert pays((5, 5, 64, 64), (12, 12), np.float32, how)
    assert not pays((5, 5, 64, 64), (12, 12), np.float32, geometry(2, ((1, 1), (1, 1))))
    assert not pays((4, 4, 64, 64), (12, 12), np.float32, how) and not pays((7, 7, 64, 64), (12, 12), np.float32, how)
    assert not pays((3, 3, 64, 64), (12, 12), np.float32, how._replace(dilation=(2, 2)))
    assert not pays((3, 3, 64, 64), (12, 12), np.float32, how._replace(groups=2))
    assert not pays((3, 3, 64, 64), (12, 12), np.float32, how._replace(stride=(2, 2)))
    assert pays((3, 3, 64, 64), (8, 8), np.float32, how, images=3)   # a weight gradient: 12 tiles
    assert not pays((3, 3, 64, 64), (8, 8), np.float32, how, images=2)
    assert not pays((3, 3, 256, 256), (8, 8), np.float32, how, images=3)     # too few for so many weights


def test_exact_convolution_is_the_direct_sum():
    x, w, y, _, by, how = case(1, 1, (12, 12), ((1, 1), (1, 1)), 32, 32)
    with tn.exact_convolution():
        assert not winograd.pays(w.shape, (12, 12), np.float32, how)
        exact = convolution.gather(x, w, by, how, (12, 12))
    assert winograd.pays(w.shape, (12, 12), np.float32, how)
    assert 0 < relative(convolution.gather(x, w, by, how, (12, 12)), exact) < 1e-5
