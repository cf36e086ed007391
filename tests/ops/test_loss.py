"""Losses of classes and values against their definitions: options, reductions, extremes, and what is refused."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, draw
from tests.naive import loss as naive
from tinynet.ops import loss as ops

shapes = st.lists(st.integers(1, 3), max_size=3).map(tuple)
reductions = st.sampled_from(["mean", "sum", "none"])


@given(
    shape=shapes,
    K=st.integers(2, 4),
    weighted=st.booleans(),
    ignore_index=st.sampled_from([None, 0, 255, -100]),
    smoothing=st.sampled_from([0.0, 0.1, 1.0]),
    reduction=reductions,
    dtype=st.sampled_from([np.uint8, np.int32, np.int64]),
)
def test_cross_entropy(shape, K, weighted, ignore_index, smoothing, reduction, dtype):
    rng = np.random.default_rng(K + len(shape))
    target = rng.integers(0, K, shape)
    if ignore_index is not None and ignore_index >= 0 and target.size > 1:
        target.reshape(-1)[1] = ignore_index
    options = {
        "weight": rng.uniform(0.5, 2, K) if weighted else None,
        "ignore_index": ignore_index,
        "label_smoothing": smoothing,
        "reduction": reduction,
    }
    if (target == ignore_index).all():
        return  # test_all_pixels_ignored
    check_op(
        lambda x: ops.cross_entropy(x, target.astype(dtype), **options),
        lambda x: naive.cross_entropy(x, target, **options),
        [draw((*shape, K), low=-3, high=3)],
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_of_one_class_is_nothing(smoothing):
    x = tn.Tensor(draw((3, 1)), requires_grad=True)
    loss = ops.cross_entropy(x, np.zeros(3, int), label_smoothing=smoothing, reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(loss.numpy(), 0)
    np.testing.assert_allclose(x.grad.numpy(), 0, atol=1e-15)


def test_cross_entropy_of_thousands_of_pixels():
    x, target = draw((2, 30, 40, 5)), np.random.default_rng(0).integers(0, 5, (2, 30, 40))
    t = tn.Tensor(x.astype(np.float32), requires_grad=True)
    loss = ops.cross_entropy(t, target, ignore_index=3, label_smoothing=0.1)
    (loss * 2).backward()
    assert loss.item() == pytest.approx(naive.cross_entropy(x, target, None, 3, 0.1), rel=1e-6)
    hard, soft = np.full(5, 0.9), np.full(5, 0.02)
    kept = np.where(target == 3, -1, target).reshape(-1)
    expected = naive.cross_entropy_gradient(x.reshape(-1, 5), kept, hard, soft).reshape(x.shape)
    np.testing.assert_allclose(t.grad.numpy(), expected * 2 / (target != 3).sum(), rtol=1e-4, atol=1e-9)
    assert not t.grad.numpy()[target == 3].any()


@pytest.mark.parametrize("dtype", [np.uint8, np.int64])
def test_the_mean_is_by_the_weights_of_the_pixels_that_count(dtype):
    """More pixels than are counted at once; a class that isn't there may weigh NaN."""
    x, target = draw((100, 100, 5)), np.random.default_rng(1).integers(0, 4, (100, 100))
    target[50:] = 4 - target[50:] % 2 * 2  # 2 or 4, so that no two parts weigh the same
    target[target == 3] = 0
    weight = np.array([0.5, 2.0, 3.0, np.nan, 7.0])
    probability = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
    losses = -np.log(np.take_along_axis(probability, target[..., None], -1))[..., 0]
    for ignored in (None, 4):
        counts = np.where(target == ignored, 0, weight[target])
        loss = ops.cross_entropy(x, target.astype(dtype), weight=weight, ignore_index=ignored)
        np.testing.assert_allclose(loss.item(), (counts * losses).sum() / counts.sum(), rtol=1e-12)


def test_third_derivative_of_cross_entropy():
    x, target = tn.Tensor(draw((2, 3)), requires_grad=True), np.array([2, 0])

    def curvature(x):
        (g,) = tn.grad(ops.cross_entropy(x, target, label_smoothing=0.2), x, create_graph=True)
        return (g * g * g).sum()

    assert tn.gradcheck(curvature, x) and tn.gradgradcheck(curvature, x)


def test_the_gradient_of_a_kept_graph_cannot_be_spoiled():
    x = tn.Tensor([[1.0, 2.0]], requires_grad=True)
    (g,) = tn.grad(ops.cross_entropy(x, np.array([0])), x, create_graph=True)
    with pytest.raises(ValueError, match="read-only"):
        g.data[:] = 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_all_pixels_ignored(smoothing):
    for reduction, expected in (("mean", math.nan), ("sum", 0), ("none", 0)):
        x = tn.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
        loss = ops.cross_entropy(
            x, np.array([7, 7]), ignore_index=7, label_smoothing=smoothing, reduction=reduction
        )
        np.testing.assert_array_equal(loss.numpy(), np.full(loss.shape, expected, np.float32))
        loss.sum().backward()
        np.testing.assert_array_equal(x.grad.numpy(), 0)
    (g,) = tn.grad(ops.cross_entropy(x, np.array([7, 7]), ignore_index=7), x, create_graph=True)
    np.testing.assert_array_equal(tn.grad(g.sum(), x)[0].numpy(), 0)


def test_target_as_a_tensor_and_without_pixels():
    x = tn.Tensor(draw((3, 4)))
    target = np.array([1, 0, 3])
    expected = ops.cross_entropy(x, target).item()
    assert ops.cross_entropy(x, tn.Tensor(target)).item() == expected
    assert ops.cross_entropy(x, target, weight=tn.Tensor(np.ones(4))).item() == expected
    empty = ops.cross_entropy(tn.Tensor(np.empty((0, 4))), np.empty(0, np.int64))
    assert np.isnan(empty.item())


@pytest.mark.parametrize(
    "error, match, logits, target, options",
    [
        (ValueError, r"no classes", (), (), {}),
        (ValueError, r"no classes", (3, 0), (3,), {}),
        (ValueError, r"target has the shape \(3, 1\), but .* take one of \(3,\)", (3, 4), (3, 1), {}),
        (ValueError, r"target has the shape \(4, 2, 3\)", (4, 2, 3), (4, 2, 3), {}),
        (TypeError, r"target is of dtype float64.*astype\(np.int64\)", (3, 4), np.zeros(3), {}),
        (TypeError, r"target is of dtype bool", (3, 4), np.zeros(3, bool), {}),
        (ValueError, r"holds the class 4, but .* 0\.\.3; .* ignore_index=4", (3, 4), [0, 4, 1], {}),
        (ValueError, r"holds the class -1", (3, 4), [0, -1, 1], {"ignore_index": 255}),
        (ValueError, r"holds the class 4294967297", (3, 4), np.array([0, 2**32 + 1, 1]), {}),
        (ValueError, r"holds the class 255", (3, 4), np.array([0, 255, 1], np.uint8), {"ignore_index": -1}),
        (ValueError, r"weight has the shape \(3,\), but 4 classes take \(4,\)", (3, 4), (3,), {"weight": [1, 1, 1]}),
        (ValueError, r"label_smoothing is 1.5", (3, 4), (3,), {"label_smoothing": 1.5}),
        (ValueError, r'reduction is \'avg\', but must be "mean"', (3, 4), (3,), {"reduction": "avg"}),
    ],
)
def test_cross_entropy_refuses(error, match, logits, target, options):
    target = np.zeros(target, int) if isinstance(target, tuple) else np.asarray(target)
    with pytest.raises(error, match=f"cross_entropy: .*{match}"):
        ops.cross_entropy(np.zeros(logits), target, **options)


@given(shape=shapes, reduction=reductions, weighted=st.booleans(), positive=st.booleans())
def test_binary_cross_entropy(shape, reduction, weighted, positive):
    rng = np.random.default_rng(len(shape))
    last = shape[-1:]
    options = {"weight": rng.uniform(0.5, 2, shape)} if weighted else {}
    options |= {"pos_weight": rng.uniform(0.5, 2, last)} if positive else {}
    check_op(
        lambda x, t: ops.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options),
        lambda x, t: naive.binary_cross_entropy_with_logits(x, t, reduction=reduction, **options),
        [draw(shape, low=-3, high=3), rng.uniform(0.1, 0.9, shape)],
    )


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_binary_cross_entropy_of_large_logits(dtype):
    x = tn.Tensor(np.array([-1000, -1000, 1000, 1000], dtype), requires_grad=True)
    loss = ops.binary_cross_entropy_with_logits(x, np.array([0, 1, 0, 1]), reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(loss.numpy(), [0, 1000, 1000, 0])
    np.testing.assert_array_equal(x.grad.numpy(), [0, -1, 1, 0])
    assert loss.dtype == x.grad.dtype == dtype


def apart(shape, seed):
    """Predictions and targets whose differences keep away from 0, and from 0.5 and 1, where smooth_l1 bends."""
    rng = np.random.default_rng(seed)
    target = rng.normal(size=shape)
    difference = rng.choice([0.1, 0.3, 0.7, 0.9, 1.2, 2.0], shape) * rng.choice([-1, 1], shape)
    return [target + difference, target]


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
@given(shape=shapes, reduction=reductions)
def test_errors_of_values(name, shape, reduction):
    check_op(
        lambda x, t: getattr(ops, name)(x, t, reduction=reduction),
        lambda x, t: getattr(naive, name)(x, t, reduction=reduction),
        apart(shape, len(shape)),
        rtol32=1e-3,
    )


@given(shape=shapes, beta=st.sampled_from([0.5, 1.0]))
def test_smooth_l1_beta(shape, beta):
    check_op(
        lambda x, t: ops.smooth_l1_loss(x, t, beta=beta),
        lambda x, t: naive.smooth_l1_loss(x, t, beta),
        apart(shape, 7),
        rtol32=1e-3,
    )


@pytest.mark.filterwarnings("error")
def test_smooth_l1_at_its_bends_and_far_away():
    x = tn.Tensor(np.array([0, 0.5, -0.5, 1e30, -np.inf], np.float32), requires_grad=True)
    loss = ops.smooth_l1_loss(x, np.zeros(5), beta=0.5, reduction="none")
    loss.sum().backward()
    np.testing.assert_array_equal(loss.numpy(), np.array([0, 0.25, 0.25, 1e30, np.inf], np.float32))
    np.testing.assert_array_equal(x.grad.numpy(), [0, 1, -1, 1, -1])


def test_smooth_l1_without_a_parabola_is_l1():
    x, t = apart((4,), 0)
    assert ops.smooth_l1_loss(x, t, beta=0).item() == ops.l1_loss(x, t).item()


def test_l1_has_no_gradient_where_it_is_zero():
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    ops.l1_loss(x, [1.0, 5.0], reduction="sum").backward()
    np.testing.assert_array_equal(x.grad.numpy(), [0, -1])


@pytest.mark.parametrize("name", ["binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss"])
def test_nothing_is_broadcast(name):
    loss = getattr(ops, name)
    for target in (np.ones(3), np.ones((3, 3)), 1.0, tn.Tensor(np.ones((1, 3)))):
        with pytest.raises(ValueError, match=rf"{name}: .* has the shape \(3, 1\), target \(.*must be equal"):
            loss(np.ones((3, 1)), target)
    with pytest.raises(ValueError, match=f"{name}: reduction is 'average'"):
        loss(np.ones(3), np.ones(3), reduction="average")


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
def test_of_nothing(name):
    x = np.empty((0, 3))
    assert getattr(ops, name)(x, x, reduction="sum").item() == 0
    assert getattr(ops, name)(x, x, reduction="none").shape == (0, 3)
    with pytest.raises(ValueError, match=rf"{name}: prediction has the shape \(0, 3\); of no elements"):
        getattr(ops, name)(x, x)


@pytest.mark.parametrize("name", ["mse_loss", "l1_loss", "smooth_l1_loss"])
def test_errors_of_many_values(name):
    x, t = draw((300, 301)), draw((300, 301), seed=1)
    tensors = [tn.Tensor(a.astype(np.float32), requires_grad=True) for a in (x, t)]
    loss = getattr(ops, name)(*tensors)
    (loss * 2).backward()
    assert loss.item() == pytest.approx(getattr(naive, name)(x, t), rel=1e-6)
    d = x - t
    slope = {"mse_loss": 2 * d, "l1_loss": np.sign(d), "smooth_l1_loss": np.clip(d, -1, 1)}[name] * (2 / d.size)
    for tensor, expected in zip(tensors, (slope, -slope), strict=True):
        assert tensor.grad.dtype == np.float32
        np.testing.assert_allclose(tensor.grad.numpy(), expected, rtol=1e-4, atol=1e-10)


def test_targets_take_on_the_dtype_of_the_prediction():
    x = tn.Tensor(np.ones(3, np.float32))
    for target in (np.zeros(3), np.zeros(3, np.uint8), tn.Tensor(np.zeros(3, np.int64)), [0, 0, 0]):
        for name in ("binary_cross_entropy_with_logits", "mse_loss", "l1_loss", "smooth_l1_loss"):
            assert getattr(ops, name)(x, target).dtype == np.float32


def test_other_sentences():
    x = np.ones((2, 3))
    for name in ("weight", "pos_weight"):
        with pytest.raises(ValueError, match=rf"logits: {name} has the shape \(2,\), but must broadcast to"):
            ops.binary_cross_entropy_with_logits(x, x, **{name: np.ones(2)})
        with pytest.raises(ValueError, match=rf"{name} has the shape \(4, 2, 3\)"):
            ops.binary_cross_entropy_with_logits(x, x, **{name: np.ones((4, 2, 3))})
    for beta in (-1, math.nan, math.inf):
        with pytest.raises(ValueError, match="smooth_l1_loss: beta is"):
            ops.smooth_l1_loss(x, x, beta=beta)
