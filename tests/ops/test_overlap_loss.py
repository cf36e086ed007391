"""Dice and GIoU against their definitions, and at the places where areas vanish."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.checks import check_op, draw
from tests.naive import loss as naive
from tinynet.ops.overlap_loss import dice_loss, giou_loss

shapes = st.lists(st.integers(1, 3), min_size=1, max_size=3).map(tuple)
reductions = st.sampled_from(["mean", "sum", "none"])


@given(
    shape=shapes,
    K=st.integers(2, 4),
    eps=st.sampled_from([1.0, 0.01]),
    ignore_index=st.sampled_from([None, 1, 255]),
    reduction=reductions,
)
def test_dice_of_classes(shape, K, eps, ignore_index, reduction):
    target = np.random.default_rng(K).integers(0, K, shape)
    if ignore_index == 255 and target.size > 1:
        target.reshape(-1)[0] = 255
    options = {"eps": eps, "ignore_index": ignore_index, "reduction": reduction}
    check_op(
        lambda x: dice_loss(x, target.astype(np.uint8), **options),
        lambda x: naive.dice_of_classes(x, target, **options),
        [draw((*shape, K), low=-3, high=3)],
    )


@given(shape=shapes, eps=st.sampled_from([1.0, 0.01]), soft=st.booleans())
def test_dice_of_a_region(shape, eps, soft):
    target = np.random.default_rng(0).uniform(size=shape)
    target = target if soft else target.round()
    check_op(
        lambda x: dice_loss(x, target, eps=eps),
        lambda x: naive.dice_of_region(x, target, eps),
        [draw(shape, low=-3, high=3)],
    )


def test_dice_of_a_region_with_pixels_left_out():
    x, target = draw((4, 5)), np.random.default_rng(0).integers(0, 2, (4, 5)).astype(np.uint8)
    target[1:3] = 255
    kept = target != 255
    expected = naive.dice_of_region(x[kept], target[kept])
    assert dice_loss(x, target, ignore_index=255).item() == pytest.approx(expected)


def test_dice_of_a_class_that_is_not_there():
    x = np.zeros((6, 3))
    x[..., 2] = -100
    x[..., 0] = 100
    loss = dice_loss(x, np.zeros(6, int), reduction="none").numpy()
    np.testing.assert_allclose(loss, 0, atol=1e-12)


def test_dice_refuses():
    x = np.zeros((2, 3))
    with pytest.raises(ValueError, match=r"dice_loss: target has the logits' shape \(2, 3\).* it holds 255; .*"):
        dice_loss(x, np.full((2, 3), 255))
    with pytest.raises(ValueError, match="it holds -1"):
        dice_loss(x, np.full((2, 3), -1))
    with pytest.raises(ValueError, match=r"dice_loss: target has the shape \(3,\)"):
        dice_loss(x, np.zeros(3, int))
    with pytest.raises(TypeError, match="dice_loss: target is of dtype float64"):
        dice_loss(x, np.zeros(2))
    with pytest.raises(ValueError, match="dice_loss: target holds the class 3"):
        dice_loss(x, np.array([0, 3]))
    with pytest.raises(ValueError, match=r"have one class.*give target the logits' shape"):
        dice_loss(np.zeros((2, 1)), np.zeros(2, int))
    with pytest.raises(ValueError, match="dice_loss: eps is -1"):
        dice_loss(x, np.zeros(2, int), eps=-1)
    with pytest.raises(ValueError, match="dice_loss: reduction is 'all'"):
        dice_loss(x, np.zeros(2, int), reduction="all")


def boxes(shape, seed, size=0.4):
    """Boxes of at least a tenth of `size`, with no two sides on one line."""
    rng = np.random.default_rng(seed)
    low = rng.uniform(0, 1 - size, (*shape, 2))
    return np.concatenate([low, low + rng.uniform(0.1, 1, (*shape, 2)) * size], -1)


@given(shape=st.lists(st.integers(1, 3), max_size=2).map(tuple), seed=st.integers(0, 50), reduction=reductions)
def test_giou(shape, seed, reduction):
    check_op(
        lambda x, t: giou_loss(x, t, reduction=reduction),
        lambda x, t: naive.giou_loss(x, t, reduction),
        [boxes(shape, seed), boxes(shape, seed + 100)],
    )


def gradient(box, target, dtype=np.float64):
    x = tn.Tensor(np.array([box], dtype), requires_grad=True)
    loss = giou_loss(x, np.array([target]))
    loss.backward()
    assert loss.dtype == x.grad.dtype == dtype
    return loss.item(), x.grad.numpy()[0]


def test_giou_by_hand():
    unit = [0, 0, 1, 1]
    assert gradient(unit, unit)[0] == 0
    assert gradient([0, 0, 0.5, 1], unit)[0] == 0.5  # inside: 1 - IoU
    assert gradient([1, 0, 2, 1], unit)[0] == 1  # side by side
    assert gradient([3, 0, 4, 1], unit)[0] == 1.5  # two apart: half of the hull is empty


def test_giou_draws_boxes_together_that_are_apart():
    box, target = [0.7, 0.8, 0.9, 0.9], [0.1, 0.1, 0.3, 0.2]
    _, g = gradient(box, target)
    assert g[0] + g[2] > 0 and g[1] + g[3] > 0  # moved to the left, or up, the loss falls
    x = tn.Tensor(np.array(box), requires_grad=True)
    assert tn.gradcheck(lambda x: giou_loss(x, np.array(target)), x)


def test_giou_of_a_box_without_area():
    """Right on the side of growing boxes: as differences of the definition for a slightly larger box say."""
    box, target = np.array([0.4, 0.5, 0.4, 0.5]), np.array([0.2, 0.3, 0.7, 0.9])
    loss, g = gradient(box, target)
    h = 1e-7
    outward = [-h, -h, h, h]
    for width in (0, 1):  # the area is width * height: one side's difference needs the other side to be 0 here
        moved = box + np.eye(4)[width + 2] * h
        assert g[width + 2] == pytest.approx((naive.giou_loss(moved, target) - loss) / h, abs=1e-6)
    assert np.isfinite(naive.giou_loss(box + outward, target)) and loss == pytest.approx(1 + 0)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize(
    "box, target",
    [
        ([0.5, 0.5, 0.5, 0.5], [0.5, 0.5, 0.5, 0.5]),  # one point twice
        ([0.1, 0.1, 0.1, 0.1], [0.5, 0.5, 0.5, 0.5]),  # two points
        ([0.1, 0.1, 0.1, 0.9], [0.1, 0.1, 0.1, 0.9]),  # one line twice
        ([0.1, 0.1, 0.1, 0.9], [0.0, 0.2, 0.6, 0.3]),  # a line across a box
        ([0, 0, 1, 1], [0, 0, 1, 1]),  # equal
    ],
)
def test_giou_stays_finite(box, target, dtype):
    loss, g = gradient(box, target, dtype)
    assert 0 <= loss <= 2 and np.isfinite(g).all()


def test_giou_puts_predicted_corners_in_order():
    target = [0.1, 0.2, 0.6, 0.9]
    loss, g = gradient([0.2, 0.1, 0.5, 0.7], target)
    turned_loss, turned = gradient([0.5, 0.1, 0.2, 0.7], target)
    assert turned_loss == loss
    np.testing.assert_array_equal(turned, g[[2, 1, 0, 3]])


def test_giou_refuses():
    box = np.array([[0.1, 0.1, 0.2, 0.2]])
    with pytest.raises(ValueError, match=r"giou_loss: boxes has the shape \(1, 4\), target \(4,\)"):
        giou_loss(box, box[0])
    with pytest.raises(ValueError, match=r"giou_loss: boxes have the shape \(2, 5\), but the last axis must be 4"):
        giou_loss(np.ones((2, 5)), np.ones((2, 5)))
    with pytest.raises(ValueError, match=r"target holds the box \[0.5, 0.5, 0.25, 0.25\], .*not \(x, y, width"):
        giou_loss(box, [[0.5, 0.5, 0.25, 0.25]])
    with pytest.raises(ValueError, match="giou_loss: reduction is 'max'"):
        giou_loss(box, box, reduction="max")
