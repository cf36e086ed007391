"""Metrics against their definitions in plain loops, and by hand where the definition has corners."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tests.naive import detection as naive
from tinynet.metrics import AveragePrecision, ConfusionMatrix, accuracy, box_iou, nms, psnr


class TestConfusionMatrix:
    def test_counts_like_a_loop(self):
        generator = np.random.default_rng(0)
        confusion, expected = ConfusionMatrix(5), np.zeros((5, 5), int)
        for dtype in (np.int64, np.uint8, np.int16):
            prediction = generator.integers(0, 5, (2, 6, 7)).astype(dtype)
            target = generator.integers(0, 5, (2, 6, 7)).astype(np.uint8)
            confusion.update(prediction, target)
            for p, t in zip(prediction.ravel(), target.ravel(), strict=True):
                expected[t, p] += 1
        np.testing.assert_array_equal(confusion.matrix, expected)

    def test_many_classes_in_bytes_do_not_wrap_round(self):
        confusion = ConfusionMatrix(200)
        confusion.update(np.array([199], np.uint8), np.array([198], np.uint8))
        assert confusion.matrix[198, 199] == 1

    def test_figures_by_hand(self):
        confusion = ConfusionMatrix(4)      # class 2 is predicted but in no target, class 3 is nowhere
        confusion.update(np.array([0, 0, 1, 2, 1]), np.array([0, 0, 0, 1, 1]))
        assert confusion.pixel_accuracy() == 3 / 5
        np.testing.assert_array_equal(confusion.class_accuracy(), [2 / 3, 1 / 2, np.nan, np.nan])
        assert confusion.class_average() == pytest.approx((2 / 3 + 1 / 2) / 2)
        np.testing.assert_allclose(confusion.iou(), [2 / 3, 1 / 3, 0, np.nan])
        assert confusion.mean_iou() == pytest.approx((2 / 3 + 1 / 3 + 0) / 3)

    @pytest.mark.parametrize("ignore", [255, -1, 1])
    def test_ignored_pixels_are_left_out(self, ignore):
        confusion = ConfusionMatrix(2, ignore_index=ignore)
        confusion.update(np.array([[0, 1], [77, 0]]), np.array([[0, 0], [ignore, ignore]]))
        np.testing.assert_array_equal(confusion.matrix, [[1, 1], [0, 0]])

    def test_empty_is_nan_without_a_warning(self):
        confusion = ConfusionMatrix(2, ignore_index=0)
        confusion.update(np.zeros(3, int), np.zeros(3, int))
        figures = (confusion.pixel_accuracy(), confusion.class_average(), confusion.mean_iou())
        assert all(math.isnan(figure) for figure in figures)
        assert "pixel accuracy -" in str(confusion)

    @pytest.mark.parametrize("prediction, target, error, match", [
        ([0, 1], [0], ValueError, r"prediction has shape \(2,\), target \(1,\)"),
        ([0, 3], [0, 1], ValueError, "prediction holds the class 3 .* from 0 to 2$"),
        ([0, 1], [0, 255], ValueError, "target holds the class 255 .*give ignore_index"),
        ([0, 1], [0, -1], ValueError, "target holds the class -1"),
        ([0.0, 1.0], [0, 1], TypeError, "prediction has dtype float64"),
        ([0, 1], [True, False], TypeError, "target has dtype bool"),
    ])
    def test_wrong_labels_raise_and_count_nothing(self, prediction, target, error, match):
        confusion = ConfusionMatrix(3)
        with pytest.raises(error, match=match):
            confusion.update(np.array(prediction), np.array(target))
        assert not confusion.matrix.any()

    @pytest.mark.parametrize("arguments, error", [
        ((0,), ValueError), ((2.5,), TypeError), ((2, None, ["a"]), ValueError),
    ])
    def test_wrong_arguments(self, arguments, error):
        with pytest.raises(error, match="ConfusionMatrix: "):
            ConfusionMatrix(*arguments)

    def test_table_lines_up(self):
        confusion = ConfusionMatrix(2, names=("a very long class", "b"))
        confusion.update(np.array([0, 0]), np.array([0, 0]))
        lines = str(confusion).splitlines()
        assert len({len(line) for line in lines[:-1]}) == 1
        assert lines[2].split() == ["b", "0", "-", "-"]


class TestPsnr:
    def test_definition(self):
        a, b = np.random.default_rng(0).random((2, 3, 4, 5, 3)).astype(np.float32)
        error = sum((float(p) - float(q)) ** 2 for p, q in zip(a.ravel(), b.ravel(), strict=True)) / a.size
        assert psnr(a, b) == pytest.approx(10 * math.log10(1 / error))
        assert psnr(tn.Tensor(a), b, peak=255) == pytest.approx(10 * math.log10(255**2 / error))

    def test_bytes_do_not_wrap_round(self):
        low, high = np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8)
        assert psnr(low, high, peak=255) == psnr(high, low, peak=255) == 0

    def test_equal_images_and_nan(self):
        ones = np.ones((2, 2))
        assert psnr(ones, ones) == math.inf
        assert math.isnan(psnr(ones * np.nan, ones))

    @pytest.mark.parametrize("a, b, peak, match", [
        (np.ones((2, 1)), np.ones(2), 1, "must be equal"), (np.ones(0), np.ones(0), 1, "empty"),
        (np.ones(2), np.ones(2), 0, "peak is 0"),
    ])
    def test_errors(self, a, b, peak, match):
        with pytest.raises(ValueError, match=f"psnr: .*{match}"):
            psnr(a, b, peak)


def cells(box):
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


class TestBoxIou:
    @pytest.mark.parametrize("a, b, expected", [
        ((0, 0, 2, 2), (1, 1, 3, 3), 1 / 7), ((0, 0, 1, 1), (0, 0, 1, 1), 1), ((0, 0, 1, 1), (2, 2, 3, 3), 0),
        ((0, 0, 1, 1), (1, 0, 2, 1), 0), ((0, 0, 4, 4), (1, 1, 2, 3), 2 / 16),
        ((1, 1, 0, 0), (0, 0, 1, 1), 0), ((1, 1, 1, 1), (1, 1, 1, 1), 0),
    ])
    def test_by_hand(self, a, b, expected):
        for one, other in ((a, b), (b, a)):
            assert box_iou(np.array(one, float), np.array(other, float)) == pytest.approx(expected)
            assert box_iou(np.array(one), np.array(other)) == pytest.approx(expected)

    def test_counts_cells_of_a_grid(self):
        """On whole coordinates areas are numbers of cells."""
        generator = np.random.default_rng(0)
        corners = np.sort(generator.integers(0, 9, (2, 4, 5, 2, 2)), axis=-2).reshape(2, 4, 5, 4)
        got = box_iou(corners[0].astype(np.float32), corners[1].astype(np.float32))
        assert got.shape == (4, 5) and got.dtype == np.float32
        for place in np.ndindex(4, 5):
            one, other = (cells(box) for box in corners[:, *place])
            assert got[place] == pytest.approx(len(one & other) / max(1, len(one | other)))

    def test_nan_travels_and_shapes_are_checked(self):
        box = np.array([0.0, 0.0, 1.0, 1.0])
        assert np.isnan(box_iou(box * [1, 1, np.nan, 1], box))
        with pytest.raises(ValueError, match="box_iou: a has shape"):
            box_iou(box, box[None])
        with pytest.raises(ValueError, match=r"must be \(..., 4\)"):
            box_iou(box[:3], box[:3])


class TestAccuracy:
    def test_logits_and_labels(self):
        target = np.array([[0, 2], [1, 1]])
        logits = np.eye(3)[np.array([[0, 2], [1, 0]])]
        assert accuracy(logits, target) == accuracy(logits.argmax(-1), target) == 0.75
        assert accuracy(tn.Tensor(logits), target) == 0.75

    @pytest.mark.parametrize("prediction, target, match", [
        (np.zeros((3, 2)), np.zeros(2, int), "give logits"),
        (np.zeros(2), np.zeros(2, int), "prediction is float64"),
        (np.zeros(2, int), np.zeros(2), "integer labels"),
        (np.zeros((0, 3)), np.zeros(0, int), "at least one"),
        (np.zeros((2, 1, 3)), np.zeros((1, 2), int), "give logits"),
    ])
    def test_errors(self, prediction, target, match):
        with pytest.raises(ValueError, match=f"accuracy: .*{match}"):
            accuracy(prediction, target)


def some_boxes(draw, most=7, classes=3):
    """Boxes on a grid of halves, scores and labels: few values, so that ties and equal IoUs are frequent."""
    n = draw(st.integers(0, most))
    corner, side, score = st.integers(0, 5), st.integers(1, 4), st.sampled_from([0.1, 0.2, 0.5, 0.9])
    boxes = [(x, y, x + w, y + h) for x, y, w, h in draw(st.lists(st.tuples(corner, corner, side, side),
                                                                   min_size=n, max_size=n))]
    scores = draw(st.lists(score, min_size=n, max_size=n))
    labels = draw(st.lists(st.integers(0, classes - 1), min_size=n, max_size=n))
    return np.array(boxes, np.float64).reshape(-1, 4) / 2, np.array(scores), np.array(labels, np.int64)


@st.composite
def found_boxes(draw):
    return some_boxes(draw)


@st.composite
def judged_images(draw):
    """Images as AveragePrecision.update takes them."""
    images = []
    for _ in range(draw(st.integers(1, 4))):
        found, (true_boxes, _, true_labels) = some_boxes(draw), some_boxes(draw, most=4)
        images.append((*found, true_boxes, true_labels))
    return images


def judged(images, threshold=0.5):
    precision = AveragePrecision(3, threshold)
    for image in images:
        precision.update(*image)
    return precision


A, B, FAR = (0.0, 0.0, 0.4, 0.4), (0.4, 0.4, 0.6, 0.6), (0.8, 0.8, 0.9, 0.9)


class TestNms:
    @given(found_boxes(), st.sampled_from([0.0, 0.25, 0.5, 1.0]))
    def test_is_the_definition(self, found, threshold):
        boxes, scores, labels = found
        assert nms(boxes, scores, threshold, labels).tolist() == naive.nms(boxes, scores, threshold, labels)
        everything = np.zeros_like(labels)
        assert nms(boxes, scores, threshold).tolist() == naive.nms(boxes, scores, threshold, everything)

    def test_of_equal_scores_the_first_stays(self):
        assert nms(np.array([A, A, B]), np.array([0.5, 0.5, 0.5])).tolist() == [0, 2]

    def test_nothing_and_integers(self):
        kept = nms(np.zeros((0, 4)), np.zeros(0))
        assert kept.shape == (0,) and kept.dtype == np.int64
        assert nms(np.array([A, A]), np.array([1, 2], np.uint8)).tolist() == [1]

    @pytest.mark.parametrize("boxes, scores, threshold, match", [
        (np.zeros((2, 3)), np.zeros(2), 0.5, r"boxes has shape \(2, 3\), but must be \(n, 4\)"),
        (np.zeros((2, 4)), np.zeros((2, 1)), 0.5, r"scores has shape \(2, 1\), but the 2 boxes take \(2,\)"),
        (np.zeros((1, 4)), np.array([np.nan]), 0.5, "scores holds NaN"),
        (np.full((1, 4), np.nan), np.zeros(1), 0.5, "boxes holds NaN"),
        (np.zeros((1, 4)), np.zeros(1), 50, "threshold is 50"),
    ])
    def test_errors(self, boxes, scores, threshold, match):
        with pytest.raises(ValueError, match=f"nms: {match}"):
            nms(boxes, scores, threshold)


class TestAveragePrecision:
    @given(judged_images(), st.sampled_from([0.25, 0.5, 1.0]))
    def test_is_the_definition(self, images, threshold):
        expected = [naive.average_precision(images, k, threshold) for k in range(3)]
        np.testing.assert_allclose(judged(images, threshold).average_precision(), expected, atol=1e-12)

    @given(judged_images())
    def test_the_order_of_the_images_makes_no_difference(self, images):
        one, other = judged(images), judged(images[::-1])
        np.testing.assert_array_equal(one.average_precision(), other.average_precision())
        assert str(one) == str(other)

    @given(judged_images())
    def test_the_truth_itself_is_perfect(self, images):
        precision = AveragePrecision(3)
        for *_, boxes, labels in images:
            boxes, first = np.unique(boxes, axis=0, return_index=True)      # of equal boxes each finds the first
            precision.update(boxes, np.ones(len(boxes)), labels[first], boxes, labels[first])
        assert (precision.average_precision()[precision.true > 0] == 1).all()

    def test_by_hand(self):
        """Right, wrong, right among two true boxes: precision 1 up to recall 1/2, then 2/3."""
        precision = AveragePrecision(2)
        precision.update([A, FAR, B], [0.9, 0.8, 0.7], [1, 1, 1], [A, B], [1, 1])
        recall, height = precision.curve(1)
        np.testing.assert_allclose(recall, [1 / 2, 1 / 2, 1])
        np.testing.assert_allclose(height, [1, 1 / 2, 2 / 3])
        np.testing.assert_allclose(precision.average_precision(), [np.nan, 1 / 2 + 1 / 3])
        assert precision.mean() == pytest.approx(5 / 6)

    def test_the_second_to_find_a_box_is_wrong(self):
        precision = judged([([A, A, B], [0.9, 0.8, 0.1], [0, 0, 0], [A, B], [0, 0])])
        np.testing.assert_allclose(precision.curve(0)[1], [1, 1 / 2, 2 / 3])

    def test_another_class_or_image_does_not_count(self):
        nothing = np.zeros((0, 4)), np.zeros(0, int)
        precision = judged([([A], [0.9], [1], [A], [0]), ([A], [0.9], [0], *nothing)])
        assert precision.average_precision()[0] == 0
        assert np.isnan(precision.average_precision()[1:]).all()        # found, but never true
        np.testing.assert_array_equal(precision.recall(), [0, np.nan, np.nan])

    def test_an_iou_of_just_the_threshold_is_enough(self):
        half = (0.0, 0.0, 0.4, 0.2)
        assert judged([([half], [1.0], [0], [A], [0])]).mean() == 1

    def test_found_nothing_and_saw_nothing(self):
        precision = AveragePrecision(2, names=["dog", "cat"])
        assert math.isnan(precision.mean())
        precision.update([], [], [], [], [])
        precision.update([], [], [], [A], [0])
        assert precision.mean() == 0
        lines = str(precision).splitlines()
        assert len({len(line) for line in lines}) == 1
        assert lines[1].split() == ["dog", "1", "0", "0.0%", "0.0%"] and lines[2].split()[-1] == "-"

    @pytest.mark.parametrize("arguments, error, match", [
        (([A], [0.5, 0.4], [0], [A], [0]), ValueError, r"scores has shape \(2,\), but the 1 boxes take \(1,\)"),
        (([A], [0.5], [0], [A], [0, 1]), ValueError, "true_labels has shape"),
        (([A], [0.5], [0], [A[:3]], [0]), ValueError, "true_boxes has shape"),
        (([A], [0.5], [3], [A], [0]), ValueError, "labels holds classes from 3 to 3, but must hold some from 0 to 2"),
        (([A], [0.5], [0], [A], [-1]), ValueError, "true_labels holds classes from -1"),
        (([A], [0.5], [0.0], [A], [0]), TypeError, "labels has dtype float64"),
        (([A], [math.nan], [0], [A], [0]), ValueError, "scores holds NaN"),
    ])
    def test_what_does_not_fit_counts_nothing(self, arguments, error, match):
        precision = AveragePrecision(3)
        with pytest.raises(error, match=f"AveragePrecision.update: {match}"):
            precision.update(*arguments)
        assert not precision.true.any() and str(precision) == str(AveragePrecision(3))

    @pytest.mark.parametrize("arguments, error", [
        ((0,), ValueError), ((True,), TypeError), ((2, 0), ValueError), ((2, 0.5, ["a"]), ValueError),
    ])
    def test_wrong_arguments(self, arguments, error):
        with pytest.raises(error, match="AveragePrecision: "):
            AveragePrecision(*arguments)
