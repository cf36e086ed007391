"""Metrics against their definitions in plain loops, and by hand where the definition has corners."""

import math

import numpy as np
import pytest

import tinynet as tn
from tinynet.metrics import ConfusionMatrix, accuracy, box_iou, psnr


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
