"""The Detector and its command: shapes and gradients, the data's windows, the same bits after a stop, and the files."""

import csv
import sys
import types

import numpy as np
import pytest

import examples
import tinynet as tn
from examples import detection
from examples.detection import Closeups, Detector, Resized, corners, lone_window, resized
from tinynet import data, metrics

pytest.importorskip("matplotlib")


@pytest.fixture
def few_scenes(monkeypatch):
    """Handfuls of objects in place of a thousand."""
    monkeypatch.setattr(detection, "generated", lambda split, size: closeups(size, seed=int(split == "val")))


def closeups(size, seed=0):
    return Closeups(data.Scenes(6, size=(128, 128), seed=seed, cache=True), size)


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("draw", "draw_looks"):
        monkeypatch.setattr(detection, name, lambda *args: None)


def run(out, *options):
    detection.main(["--epochs", "2", "--batch-size", "4", "--size", "16", "--widths", "4", "8",
                    "--out", str(out), *options])
    return tn.load(out / "checkpoint.safetensors")


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("size, widths", [(16, (4, 8)), (20, (4, 8, 8)), (24, (4, 8, 8, 12))])
def test_two_heads_of_any_size(size, widths):
    model = Detector(5, size, widths)
    model.eval()
    boxes, logits = model(np.random.default_rng(0).random((2, size, size, 3), np.float32))
    assert boxes.shape == (2, 4) and logits.shape == (2, 5)
    low, high = boxes.data[:, :2], boxes.data[:, 2:]
    assert (low < high).all() and (-0.5 <= low).all() and (high <= 1.5).all()


@pytest.mark.parametrize("size", [0, 6, 18])
def test_a_size_that_the_poolings_do_not_divide(size):
    with pytest.raises(ValueError, match=f"Detector: size is {size}, but 2 poolings need a multiple of 4"):
        Detector(5, size, (4, 8, 8))


def test_corners_of_centre_and_size():
    boxes = corners(tn.Tensor([[0.5, 0.4, 0.2, 0.6]]))
    np.testing.assert_allclose(boxes.data, [[0.4, 0.1, 0.6, 0.7]], atol=1e-7)


@pytest.mark.parametrize("name", detection.BOX_LOSSES)
def test_each_loss_trains_its_own_head_and_both_the_features(name):
    model = Detector(3, 8, (2, 3))
    x = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    target = np.array([[0.1, 0.2, 0.35, 0.9], [0.3, 0.05, 0.9, 0.6]], np.float32)
    for head, other in (("box", "label"), ("label", "box")):
        for p in model.parameters():
            p.grad = None
        boxes, logits = model(tn.Tensor(x))
        losses = {"box": detection.BOX_LOSSES[name](boxes, target), "label": tn.cross_entropy(logits, np.array([0, 2]))}
        losses[head].backward()
        trained = {key for key, p in model.named_parameters() if p.grad is not None and np.abs(p.grad.data).max() > 0}
        assert f"{head}.weight" in trained and "features.0.weight" in trained
        assert not any(key.startswith(other) for key in trained)


def test_smooth_l1_sums_the_four_numbers():
    loss = detection.smooth_l1(tn.Tensor([[0.5, 0.5, 0.5, 0.5]] * 2), np.float32([[0.5, 0.5, 0.3, 0.5]] * 2))
    assert loss.item() == pytest.approx(0.2 - 0.01, abs=1e-6)


def test_it_learns_where_a_square_is_and_of_which_colour():
    rng = np.random.default_rng(0)
    images, boxes, labels = np.zeros((64, 16, 16, 3), np.float32), np.zeros((64, 4), np.float32), np.arange(64) % 3
    for image, box, label in zip(images, boxes, labels, strict=True):
        x, y, side = *rng.integers(0, 8, 2), rng.integers(5, 9)
        image[y:y + side, x:x + side, label] = 1
        box[:] = np.array([x, y, x + side, y + side]) / 16
    model = Detector(3, 16, (8, 16), dropout=0)
    optimizer = tn.optim.AdamW(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        found, logits = model(tn.Tensor(images))
        (tn.giou_loss(found, boxes) + tn.cross_entropy(logits, labels)).backward()
        optimizer.step()
    model.eval()
    found, probabilities = detection.predict(model, images)
    assert metrics.box_iou(found, boxes).mean() > 0.7 and metrics.accuracy(probabilities, labels) > 0.95


def test_figures_count_both():
    boxes = np.array([[0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1], [0, 0, 1, 1]], np.float32)
    true = np.array([[0, 0, 1, 1], [0, 0, 1, 0.5], [0, 0, 0.4, 1], [0, 0, 0.1, 1]], np.float32)
    probabilities = np.array([[0.9, 0.1], [0.8, 0.2], [0.7, 0.3], [0.6, 0.4]])
    figures = detection.figures(boxes, probabilities, true, np.array([0, 1, 0, 1]))
    expected = {"mean_iou": 0.5, "iou_50": 0.5, "accuracy": 0.5, "found": 0.25}
    assert figures.keys() == expected.keys()
    np.testing.assert_allclose(list(figures.values()), list(expected.values()), rtol=1e-6)


def test_closeups_show_one_whole_object_each_time_elsewhere():
    dataset = closeups(32)
    assert len(dataset) >= 6 and dataset.classes == ("sign", "car", "person")
    for i in range(len(dataset)):
        always, drawn, again = dataset[i], *(dataset.sample(i, np.random.default_rng(5)) for _ in range(2))
        for image, box, label in (always, drawn):
            assert image.shape == (32, 32, 3) and image.dtype == box.dtype == np.float32
            assert (0 <= box).all() and (box <= 1).all() and label in (0, 1, 2)
            assert 0.3 < max(box[2:] - box[:2]) <= 0.95
        assert always[2] == drawn[2] and not np.array_equal(always[1], drawn[1])
        assert all(np.array_equal(*parts) for parts in zip(drawn, again, strict=True))
        assert all(np.array_equal(*parts) for parts in zip(always, dataset[i], strict=True))


def test_outputs_are_of_the_pictures_that_the_truth_is_of():
    dataset = closeups(16)
    model = Detector(3, 16, (4, 8))
    model.eval()
    boxes, probabilities = detection.outputs(model, dataset, batch_size=4)
    for i in (0, 3, 4, len(dataset) - 1):
        box, probability = detection.predict(model, dataset[i][0][None])
        np.testing.assert_allclose(boxes[i], box[0], atol=1e-6)
        np.testing.assert_allclose(probabilities[i], probability[0], atol=1e-6)
    true_boxes, labels = detection.truth(dataset)
    assert np.array_equal(true_boxes[3], dataset[3][1]) and labels[3] == dataset[3][2]


def test_no_window_where_two_objects_are_on_each_other():
    one, other = np.array([10.0, 10, 50, 50]), np.array([12.0, 12, 52, 52])
    rng = np.random.default_rng(0)
    assert lone_window(np.stack([one, other]), 0, 64, rng) is None
    assert lone_window(np.array([[3.0, 3, 10, 10]]), 0, 64, rng) is None    # too small to see
    left, top, side, box = lone_window(one[None], 0, 64, rng)
    np.testing.assert_allclose(box * side + (left, top, left, top), one, atol=1e-4)


def test_resizing_keeps_what_is_where_and_averages_when_it_shrinks():
    image = np.zeros((90, 61, 3), np.float32)
    image[45:] = 1
    small = resized(image, 16)
    assert small.shape == (16, 16, 3) and small.dtype == np.float32
    assert small[:7].max() == 0 and small[9:].min() == 1
    stripes = np.tile(np.float32([0, 1]), 32)[None, :, None].repeat(64, 0).repeat(3, 2)
    np.testing.assert_allclose(resized(stripes, 16), 0.5)


def test_pictures_of_any_size_are_squeezed_and_kept():
    class Two:
        classes, read = ("a", "b"), 0

        def __len__(self):
            return 2

        def __getitem__(self, index):
            self.read += 1
            return np.full((20 + index, 90, 3), 0.25, np.float32), np.float32([0, 0.5, 1, 1]), index

    dataset = Resized(Two(), 16)
    assert len(dataset) == 2 and dataset.classes == ("a", "b")
    for _ in range(3):
        image, box, label = dataset[1]
        assert image.shape == (16, 16, 3) and image.dtype == np.float32
        np.testing.assert_allclose(image, 0.25, atol=1 / 500)
        assert box.tolist() == [0, 0.5, 1, 1] and label == 1
        image[:] = 0  # the next reading must not see it
    assert dataset.dataset.read == 1


def test_looks_see_the_pixels_that_count():
    model = Detector(2, 16, (4,))
    model.eval()
    features = np.zeros((16, 16, 4))  # of the flattened map, the heads take only the upper left corner
    features[:6, :6] = 1
    for head in (model.box, model.label):
        head.weight.data[features.ravel() == 0] = 0
    images = np.random.default_rng(0).random((3, 16, 16, 3), np.float32)
    heat = detection.looks(model, images, copies=2)
    assert heat.shape == (2, 3, 16, 16) and (heat >= 0).all()
    for head in heat:
        assert head[:, :6, :6].mean() > 0 and head[:, 9:].max() == head[:, :, 9:].max() == 0


def test_stopped_and_resumed_is_bit_identical(few_scenes, no_pictures, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    loss, calls = detection.tn.cross_entropy, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == len(closeups(16)) // 4 + 2:  # in the second epoch
            raise KeyboardInterrupt
        return loss(*args, **kwargs)

    monkeypatch.setattr(detection.tn, "cross_entropy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(detection.tn, "cross_entropy", loss)
    assert same_bits(whole, run(tmp_path / "parts", "--resume"))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_the_command_leaves_figures_and_pictures(few_scenes, tmp_path, capsys):
    run(tmp_path, "--box-loss", "smooth-l1", "--workers", "0")
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert all(0 <= float(rows[-1][name]) <= 1 for name in ("mean_iou", "iou_50", "accuracy", "found"))
    for name in ("boxes.png", "looks.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "true box" in page and "in green after epoch 2" in page and "confusion matrix" in page
    printed = capsys.readouterr().out
    table = printed[printed.index("images   mean IoU"):]
    assert "mean box" in table and "whole image" in table and str(tmp_path / "boxes.png") in table
    detection.main(["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")])
    again = capsys.readouterr().out
    assert again.replace(str(tmp_path / "again"), str(tmp_path)).strip().endswith(table.strip())
    assert (tmp_path / "again/looks.png").exists()


def test_a_folder_of_tiny_imagenet_is_known_by_its_list(tmp_path):
    Image = pytest.importorskip("PIL.Image")
    images = tmp_path / "train" / "n01443537" / "images"
    images.mkdir(parents=True)
    (tmp_path / "wnids.txt").write_text("n01443537\n")
    (tmp_path / "words.txt").write_text("n01443537\tgoldfish\n")
    lines = []
    for k in range(10):
        Image.new("RGB", (32, 32), (200, 20 * k, 0)).save(images / f"n01443537_{k}.JPEG")
        lines.append(f"n01443537_{k}.JPEG 0 0 {10 + k} 15\n")
    (images.parent / "n01443537_boxes.txt").write_text("".join(lines))
    train, val = (detection.load(split, str(tmp_path), 16) for split in ("train", "val"))
    assert (len(train), len(val), train.classes) == (9, 1, ("goldfish",))
    assert val[0][0].shape == (16, 16, 3) and val[0][1].tolist() == [0, 0, 20 / 32, 0.5]
    assert detection.parse(["--data", str(tmp_path)]).epochs == detection.TINY_IMAGENET["epochs"]


def test_many_is_handed_on(monkeypatch):
    handed = []
    many = types.SimpleNamespace(main=handed.append)
    monkeypatch.setitem(sys.modules, "examples.detection_many", many)
    monkeypatch.setattr(examples, "detection_many", many, raising=False)
    detection.main(["--seed", "3", "--many", "--out", "x"])
    assert handed == [["--seed", "3", "--out", "x"]]


@pytest.mark.parametrize("options, sentence", [
    (["--data", "nowhere"], "--data nowhere: there is no such folder"),
    (["--split", "test"], "generated scenes have the splits train and val"),
    (["--evaluate", "nothing.safetensors"], "nothing.safetensors"),
    (["--out", "/dev/null/x"], "cannot write in the folder"),
    (["--size", "20"], "size is 20, but 4 poolings need a multiple of 16"),
    (["--resume", "--batch-size", "2"], "no .*checkpoint.safetensors to resume from"),
])
def test_what_does_not_fit_ends_in_a_sentence(options, sentence, tmp_path, monkeypatch, request):
    if "--split" not in options:
        request.getfixturevalue("few_scenes")
    else:
        monkeypatch.setattr(detection, "Closeups", lambda scenes, size: [(np.zeros((size, size, 3)), np.zeros(4), 0)])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        detection.main(options)


def test_a_checkpoint_of_something_else_is_refused(few_scenes, no_pictures, tmp_path, monkeypatch):
    run(tmp_path)
    again = ["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")]
    monkeypatch.setattr(Closeups, "classes", ("only", "these", "three"))
    with pytest.raises(SystemExit, match="it holds a Detector for the classes .*sign.* but the data's are .*only"):
        detection.main(again)
    monkeypatch.setattr(detection, "read_description", lambda path: {"model": "FCN", "config": {}})
    with pytest.raises(SystemExit, match="it holds a FCN, not a Detector"):
        detection.main(again)
