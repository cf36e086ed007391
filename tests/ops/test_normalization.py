"""batch_norm, group_norm, layer_norm: twins, gradients of every order, running statistics, accuracy."""

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_close, check_float32, check_op, draw
from tests.naive import normalization as naive
from tinynet.ops.normalization import batch_norm, group_norm, layer_norm

shapes = st.lists(st.integers(1, 2), min_size=0, max_size=2).map(tuple)
few = settings(max_examples=5)  # second derivatives of three inputs by differences take long


def parameters(shape):
    """A weight and a bias, none near 0."""
    return draw(shape, 1, 0.5, 1.5), draw(shape, 2)


@few
@given(st.integers(2, 3), shapes, st.integers(1, 2))
def test_batch_norm_is_its_twin_with_right_gradients(samples, middle, channels):
    x = draw((samples, *middle, channels))
    check_op(
        lambda *t: batch_norm(*t, eps=0.1),
        lambda *a: naive.batch_norm(*a, 0.1),
        [x, *parameters((channels,))],
    )


@few
@given(st.integers(1, 2), shapes, st.integers(1, 2), st.integers(1, 2))
def test_group_norm_is_its_twin_with_right_gradients(samples, middle, groups, together):
    x = draw((samples, *middle, groups * together))

    def twin(*a):
        return naive.group_norm(a[0], groups, *a[1:], 0.1)

    check_op(lambda x, *p: group_norm(x, groups, *p, eps=0.1), twin, [x, *parameters(x.shape[-1:])])


@few
@given(shapes, st.lists(st.integers(1, 3), min_size=1, max_size=2).map(tuple))
def test_layer_norm_is_its_twin_with_right_gradients(leading, lengths):
    x = draw((*leading, *lengths))

    def twin(*a):
        return naive.layer_norm(a[0], len(lengths), *a[1:], 0.1)

    check_op(lambda x, *p: layer_norm(x, lengths, *p, eps=0.1), twin, [x, *parameters(lengths)])


@few
@given(shapes, st.integers(1, 3))
def test_batch_norm_in_evaluation_is_its_twin_with_right_gradients(leading, channels):
    x, mean, var = draw((2, *leading, channels)), draw((channels,), 3), draw((channels,), 4, 0.5, 2)

    def fn(*t):
        return batch_norm(*t, mean, var, training=False)

    check_op(fn, lambda *a: naive.batch_norm_evaluation(*a, mean, var), [x, *parameters((channels,))])


@pytest.mark.parametrize("norm", ["batch", "group", "layer", "evaluation"])
@pytest.mark.parametrize("given_parameters", ["none", "weight", "bias"])
def test_weight_and_bias_may_be_missing(norm, given_parameters):
    x, (w, b) = draw((2, 1, 4)), parameters((4,))
    fn, twin = {
        "batch": (lambda x, w, b: batch_norm(x, w, b), naive.batch_norm),
        "group": (lambda x, w, b: group_norm(x, 2, w, b), lambda x, w, b: naive.group_norm(x, 2, w, b)),
        "layer": (lambda x, w, b: layer_norm(x, 4, w, b), lambda x, w, b: naive.layer_norm(x, 1, w, b)),
        "evaluation": (
            lambda x, w, b: batch_norm(x, w, b, np.zeros(4), np.ones(4), training=False),
            lambda x, w, b: naive.batch_norm_evaluation(x, w, b, 0, 1),
        ),
    }[norm]
    if given_parameters == "none":
        check_op(lambda x: fn(x, None, None), lambda x: twin(x, 1, 0), [x])
    elif given_parameters == "weight":
        check_op(lambda x, w: fn(x, w, None), lambda x, w: twin(x, w, 0), [x, w])
    else:
        check_op(lambda x, b: fn(x, None, b), lambda x, b: twin(x, 1, b), [x, b])


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w, b: batch_norm(x, w, b),
        lambda x, w, b: group_norm(x, 2, w, b),
        lambda x, w, b: layer_norm(x, 4, w, b),
    ],
)
def test_third_derivatives(norm):
    """gradgradcheck of the gradient: every op that a second derivative is made of has right gradients too."""
    x, (w, b) = draw((2, 1, 4)), parameters((4,))

    def gradient(x, w):
        return tn.grad((norm(x, w, b) ** 3).sum(), [x, w], create_graph=True)

    inputs = [tn.Tensor(x, requires_grad=True), tn.Tensor(w, requires_grad=True)]
    for i in range(2):
        assert tn.gradgradcheck(lambda x, w, i=i: gradient(x, w)[i], inputs)


def test_running_statistics_move_towards_those_of_the_batch():
    x = draw((4, 5, 3)).astype(np.float32)
    mean, var = np.full(3, 0.5, np.float32), np.full(3, 2, np.float32)
    batch_norm(x, None, None, mean, var, momentum=0.25)
    np.testing.assert_allclose(mean, 0.75 * 0.5 + 0.25 * x.mean((0, 1)), rtol=1e-5)
    np.testing.assert_allclose(var, 0.75 * 2 + 0.25 * x.var((0, 1), ddof=1), rtol=1e-5)
    assert mean.dtype == var.dtype == np.float32


def test_evaluation_reads_the_running_statistics_and_leaves_them():
    x, mean, var = draw((4, 3)), np.ones(3), np.full(3, 4.0)
    t = tn.Tensor(x, requires_grad=True)
    y = batch_norm(t, None, None, mean, var, training=False, eps=0.0)
    np.testing.assert_allclose(y.numpy(), (x - 1) / 2, rtol=1e-14)
    assert (mean == 1).all() and (var == 4).all()
    mean[:], var[:] = 9, 9
    y.sum().backward()
    np.testing.assert_allclose(t.grad.numpy(), 0.5, rtol=1e-14)


@pytest.mark.parametrize("shape, training", [((6, 4), True), ((2, 1, 4, 4), True), ((2, 4, 4, 4), False)])
def test_pooling_takes_images_in_training(shape, training):
    mean, var = np.zeros(4), np.ones(4)
    with pytest.raises(ValueError, match=r"pooling takes images .* call max_pool2d"):
        batch_norm(draw(shape), None, None, mean, var, training=training, pool=True)
    assert (mean == 0).all() and (var == 1).all()


def test_bad_arguments_leave_the_running_statistics():
    mean, var = np.zeros(3), np.ones(3)
    for arguments in [
        dict(weight=np.ones(2)),
        dict(bias=np.ones((3, 1))),
        dict(momentum=2.0),
        dict(eps=-1.0),
    ]:
        with pytest.raises(ValueError):
            batch_norm(
                **dict(x=draw((4, 3)), weight=None, bias=None, running_mean=mean, running_var=var) | arguments
            )
    with pytest.raises(ValueError):
        batch_norm(draw((1, 3)), None, None, mean, var)
    assert (mean == 0).all() and (var == 1).all()


@pytest.mark.parametrize("dtype, offset, rtol", [(np.float32, 1e4, 2e-3), (np.float64, 1e8, 1e-6)])
def test_a_large_mean_leaves_the_variance_exact(dtype, offset, rtol):
    """A variance as mean(x^2) - mean(x)^2 would have lost all its digits."""
    x = (draw((50, 40, 3)) + offset).astype(dtype)
    exact = naive.batch_norm(x.astype(np.longdouble), 1, 0, 0)
    y = batch_norm(x, None, None, eps=0.0).numpy()
    assert np.abs(y - exact).max() < rtol


def test_the_result_has_mean_0_and_variance_1():
    y = batch_norm(draw((6, 9, 9, 5)).astype(np.float32) * 3 + 7, None, None).numpy().astype(np.float64)
    np.testing.assert_allclose(y.mean((0, 1, 2)), 0, atol=1e-6)
    np.testing.assert_allclose(y.var((0, 1, 2)), 1, rtol=1e-4)


def test_the_input_gradient_is_orthogonal_to_ones_and_to_the_result():
    """Neither a shift nor a stretch of x changes y, so that no gradient points that way."""
    t = tn.Tensor(draw((5, 4, 3)), requires_grad=True)
    y = batch_norm(t, None, None, eps=0.0)
    y.backward(draw((5, 4, 3), 1))
    np.testing.assert_allclose(t.grad.numpy().sum((0, 1)), 0, atol=1e-13)
    np.testing.assert_allclose((t.grad.numpy() * y.numpy()).sum((0, 1)), 0, atol=1e-13)


def test_nan_and_infinity_stay_in_their_group():
    x = draw((2, 3, 4))
    x[0, 1, 2], x[1, 1, 0] = np.nan, np.inf
    found = {
        "batch": np.isnan(batch_norm(x, None, None).numpy()).any(axis=(0, 1)),
        "group": np.isnan(group_norm(x, 2).numpy()).any(axis=1),
        "layer": np.isnan(layer_norm(x, 4).numpy()).any(axis=2),
    }
    assert found["batch"].tolist() == [True, False, True, False]
    assert found["group"].tolist() == [[False, False, True, True], [True, True, False, False]]
    assert found["layer"].tolist() == [[False, True, False], [False, True, False]]


@pytest.mark.parametrize(
    "norm", [batch_norm, lambda x, w, b: group_norm(x, 2, w, b), lambda x, w, b: layer_norm(x, 6, w, b)]
)
def test_float32_whose_squares_are_too_large_for_it(norm):
    w, b = (p.astype(np.float32) for p in parameters((6,)))
    x, gy = draw((3, 150, 6)).astype(np.float32), draw((3, 150, 6), 3).astype(np.float32)
    found = []
    for scale in np.float32([1e3, 1e25]):                     # eps counts for neither
        t, weight = (tn.Tensor(a, requires_grad=True) for a in (scale * x, w))
        y = norm(t, weight, b)
        y.backward(np.float32(1e15) * gy)
        found.append((y.numpy(), t.grad.numpy() * scale, weight.grad.numpy()))
    for small, large in zip(*found, strict=True):
        check_close(large, small, 1e-4)


def test_many_positions_and_samples_in_float32():
    """Sizes at which samples and positions are cut into several chunks."""
    w, b = parameters((6,))
    for x in (draw((1, 70, 50, 6)), draw((70, 40, 6)), draw((130, 6))):
        check_float32(batch_norm, naive.batch_norm(x, w, b), [x, w, b])
        check_float32(
            lambda *t: group_norm(t[0], 3, *t[1:]), naive.group_norm(x, 3, w, b), [x, w, b], rtol=2e-3
        )
    x, w, b = draw((130, 6)), tn.Tensor(w, requires_grad=True), b
    t, gy = tn.Tensor(x, requires_grad=True), draw((130, 6), 3)
    layer_norm(t, 6, w, b).backward(gy)
    check_close(w.grad.numpy(), (gy * naive.layer_norm(x, 1, 1, 0)).sum(0), 1e-12)


@pytest.mark.parametrize(
    "norm",
    [
        lambda x, w, b: batch_norm(x, w, b),
        lambda x, w, b: group_norm(x, 2, w, b),
        lambda x, w, b: layer_norm(x, 6, w, b),
    ],
)
def test_same_bits_for_any_number_of_threads(norm):
    x, threads, found = draw((3, 150, 6)).astype(np.float32), numba.get_num_threads(), []
    w, b = (p.astype(np.float32) for p in parameters((6,)))
    try:
        for count in range(1, threads + 1):
            numba.set_num_threads(count)
            tensors = [tn.Tensor(a, requires_grad=True) for a in (x, w, b)]
            y = norm(*tensors)
            (y * y * y).sum().backward()
            found.append((y.numpy().tobytes(), *(t.grad.numpy().tobytes() for t in tensors)))
    finally:
        numba.set_num_threads(threads)
    assert len(set(found)) == 1


def test_no_samples():
    assert group_norm(np.zeros((0, 3, 4)), 2).shape == (0, 3, 4)
    assert layer_norm(np.zeros((0, 4)), 4).shape == (0, 4)
    assert batch_norm(np.zeros((0, 4)), None, None, np.zeros(4), np.ones(4), training=False).shape == (0, 4)


def test_sentences_of_batch_norm():
    x, mean, var = draw((4, 3)), np.zeros(3), np.ones(3)
    with pytest.raises(ValueError, match=r"batch_norm: x of shape \(1, 3\) has 1 value\(s\) per channel"):
        batch_norm(x[:1], None, None)
    with pytest.raises(ValueError, match=r"batch_norm: x has the shape \(4,\), but needs two axes"):
        batch_norm(x[:, 0], None, None)
    with pytest.raises(ValueError, match=r"batch_norm: weight has the shape \(2,\), but must have \(3,\)"):
        batch_norm(x, np.ones(2), None)
    with pytest.raises(ValueError, match=r"batch_norm: bias has the shape \(1, 3\), but must have \(3,\)"):
        batch_norm(x, None, np.ones((1, 3)))
    with pytest.raises(ValueError, match="batch_norm: of running_mean and running_var only one is given"):
        batch_norm(x, None, None, mean)
    with pytest.raises(ValueError, match="batch_norm: training=False takes running_mean and running_var"):
        batch_norm(x, None, None, training=False)
    with pytest.raises(ValueError, match=r"batch_norm: running_var has the shape \(2,\)"):
        batch_norm(x, None, None, mean, var[:2])
    with pytest.raises(TypeError, match="batch_norm: running_mean is list, but must be an ndarray"):
        batch_norm(x, None, None, [0.0] * 3, var)
    with pytest.raises(ValueError, match="batch_norm: momentum is 1.5, but must be between 0 and 1"):
        batch_norm(x, None, None, mean, var, momentum=1.5)
    with pytest.raises(ValueError, match="batch_norm: eps is -1, but must not be negative"):
        batch_norm(x, None, None, eps=-1)
    var.flags.writeable = False
    with pytest.raises(ValueError, match="batch_norm: running_var can't be written to"):
        batch_norm(x, None, None, mean, var)


def test_sentences_of_group_norm_and_layer_norm():
    x = draw((4, 5, 6))
    with pytest.raises(
        ValueError, match=r"group_norm: x has 6 channels \(shape \(4, 5, 6\)\), which 4 groups don't divide"
    ):
        group_norm(x, 4)
    with pytest.raises(ValueError, match="group_norm: num_groups is 0, but must be at least 1"):
        group_norm(x, 0)
    with pytest.raises(ValueError, match=r"group_norm: x has the shape \(4, 0, 6\)"):
        group_norm(x[:, :0], 2)
    with pytest.raises(ValueError, match=r"group_norm: weight has the shape \(2,\), but must have \(6,\)"):
        group_norm(x, 2, np.ones(2))
    with pytest.raises(
        ValueError, match=r"layer_norm: normalized_shape is \(5,\), but must be the last axes of x"
    ):
        layer_norm(x, 5)
    with pytest.raises(
        ValueError, match=r"layer_norm: bias has the shape \(6,\), but must have \(5, 6\), normalized_shape"
    ):
        layer_norm(x, (5, 6), None, np.ones(6))


def distinct_parameters(channels):
    """A bias that turns half of the channels' values negative, and a weight of either sign."""
    return draw((channels,), 1, 0.5, 1.5) * np.where(np.arange(channels) % 2, -1, 1), draw((channels,), 2)


@pytest.mark.parametrize("parameters_given", [0, 1, 2])
@pytest.mark.parametrize("training", [True, False])
def test_relu_in_the_same_passes(training, parameters_given):
    x, channels = draw((3, 4, 5), 7), 5
    statistics = {} if training else {"running_mean": draw((5,), 3), "running_var": draw((5,), 4, 0.5, 2)}

    def fused(x, w=None, b=None, relu=True):
        running = {name: value.astype(x.dtype) for name, value in statistics.items()}
        return batch_norm(x, w, b, **running, training=training, eps=0.1, relu=relu)

    def twin(*arrays):
        y = fused(*map(tn.Tensor, arrays), relu=False).numpy()
        return np.where(y <= 0, 0, y)

    check_op(fused, twin, [x, *distinct_parameters(channels)[:parameters_given]])


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [1, 3, 16, 100, 300])
def test_relu_passes_gradients_exactly_where_it_passed_values(channels, dtype):
    """Values close to 0 in plenty: forward and backward compute them by the same roundings."""
    rng = np.random.default_rng(channels)
    x = rng.integers(-3, 4, (40, 7, 10, channels)).astype(dtype)  # of few different values, many become 0
    x = np.where(x == 1, x.mean((0, 1, 2)), x).astype(dtype)
    w, b = rng.normal(size=channels).astype(dtype), np.zeros(channels, dtype)
    arguments = [tn.Tensor(a, requires_grad=True) for a in (x, w, b)]
    y = batch_norm(*arguments, relu=True)
    gy = rng.integers(-8, 9, y.shape).astype(dtype)
    passed = np.where(y.array > 0, gy, 0)
    y.backward(gy)
    np.testing.assert_array_equal(arguments[2].grad.array, passed.sum((0, 1, 2)))
    expected = [tn.Tensor(a, requires_grad=True) for a in (x, w, b)]
    batch_norm(*expected).backward(passed)
    rtol = 1e-4 if numba.config.BOUNDSCHECK else 0  # checks between the operations keep some from being fused
    for got, wanted in zip(arguments, expected, strict=True):
        np.testing.assert_allclose(got.grad.array, wanted.grad.array, rtol=rtol, atol=rtol)


def test_nan_passes_the_relu():
    x = np.ones((4, 3), np.float32)
    x[1, 1] = np.nan
    t = tn.Tensor(x, requires_grad=True)
    y = batch_norm(t, None, None, relu=True)
    y.sum().backward()
    for array in (y.array, t.grad.array):
        assert np.isnan(array[:, 1]).all() and np.isfinite(array[:, [0, 2]]).all()
