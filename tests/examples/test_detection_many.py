"""The detector of many objects: what its cells are taught, that it learns, and what its command leaves behind."""

import csv

import numba
import numpy as np
import pytest

import tinynet as tn
from examples import detection_many
from examples.detection_many import NOTHING, GridDetector, Targets, assigned, grid_loss, predict
from tinynet import data, metrics, optim

pytest.importorskip("matplotlib")


@pytest.fixture
def few_scenes(monkeypatch):
    """A handful of small scenes in place of a thousand."""
    monkeypatch.setattr(detection_many, "generated", lambda split, size: scenes(split == "val"))


def scenes(seed=0, count=6):
    return detection_many.Street(data.Scenes(count, size=(64, 64), seed=int(seed)))


def run(out, *options):
    detection_many.main(["--epochs", "2", "--batch-size", "2", "--widths", "4", "8", "8", "8", "--out", str(out),
                         *options])
    return tn.load(out / "checkpoint.safetensors")


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


# The network


@pytest.mark.parametrize("size, stride", [((32, 48), 4), ((16, 16), 2), ((64, 32), 8)])
def test_every_cell_of_the_grid_answers(size, stride):
    model = GridDetector(5, widths=(4, 8, 8, 8), stride=stride)
    model.eval()
    boxes, logits = model(np.zeros((2, *size, 3), np.float32))
    cells = (2, size[0] // stride, size[1] // stride)
    assert boxes.shape == (*cells, 4) and logits.shape == (*cells, 5)
    assert boxes.dtype == logits.dtype == np.float32
    h, w = cells[1:]
    inside = detection_many.middles(h, w) / (w, h)       # every box is around the middle of its cell
    assert (boxes.data[..., :2] < inside).all() and (boxes.data[..., 2:] > inside).all()


@pytest.mark.parametrize("stride", [1, 3, 16])
def test_strides_that_there_are_not(stride):
    with pytest.raises(ValueError, match=f"stride is {stride}, but must be a power of 2 from 2 to 8"):
        GridDetector(2, widths=(4, 8, 8, 8), stride=stride)


def test_images_that_the_poolings_do_not_divide():
    with pytest.raises(ValueError, match="images are 32 x 36, but 4 blocks need multiples of 8"):
        GridDetector(2, widths=(4, 8, 8, 8))(np.zeros((1, 32, 36, 3), np.float32))


def test_every_parameter_gets_a_gradient():
    model = GridDetector(3, widths=(4, 8, 8, 8), stride=4)
    grid_loss(model, next(iter(data.DataLoader(Targets(scenes(), 4), 4)))).backward()
    for name, parameter in model.named_parameters():
        assert np.isfinite(parameter.grad.data).all() and parameter.grad.data.any(), name


def test_images_without_objects_have_a_loss_too():
    batch = np.zeros((1, 16, 16, 3), np.float32), np.full((1, 4, 4), NOTHING), np.zeros((1, 4, 4, 4), np.float32)
    loss = grid_loss(GridDetector(2, widths=(4, 8, 8), stride=4), batch)
    loss.backward()
    assert 0 < loss.item() < 1


# What the cells are taught


def test_the_cells_near_an_objects_middle_get_it():
    box = np.array([[0.25, 0.125, 0.75, 0.875]], np.float32)          # on 8 x 8 cells: from (2, 1) to (6, 7)
    classes, boxes = assigned(box, np.array([2]), 8, 8)
    expected = np.full((8, 8), NOTHING)
    expected[2:6, 2:6] = 2              # the middle is (4, 4), and cells' middles up to 1.5 away are near
    np.testing.assert_array_equal(classes, expected)
    assert (boxes[classes == 2] == box).all() and not boxes[classes == NOTHING].any()


def test_small_objects_have_a_cell_and_come_before_large_ones():
    boxes = np.array([[0.45, 0.45, 0.47, 0.47], [0.0, 0.0, 1.0, 1.0], [0.98, 0.98, 1.0, 1.0]], np.float32)
    classes, targets = assigned(boxes, np.array([0, 1, 2]), 8, 8)
    assert classes[3, 3] == 0 and (classes == 0).sum() == 1
    assert (classes == 1).sum() == 15 and classes[7, 7] == 2
    np.testing.assert_array_equal(targets[3, 3], boxes[0])


def test_no_objects_leave_all_cells_empty():
    classes, boxes = assigned(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), 3, 5)
    assert classes.shape == (3, 5) and (classes == NOTHING).all() and boxes.shape == (3, 5, 4)


@pytest.mark.parametrize("stride", [4, 8])
def test_the_targets_find_the_objects_again(stride):
    """A network that answered just as it is taught would have nearly all objects."""
    precision = metrics.AveragePrecision(3)
    dataset = detection_many.Street(data.Scenes(10, size=(128, 128)))
    for i in range(len(dataset)):
        _, true_boxes, true_labels = dataset[i]
        _, classes, boxes = Targets(dataset, stride).sample(i, np.random.default_rng(0))
        there = classes != NOTHING
        kept = metrics.nms(boxes[there], np.ones(there.sum()), labels=classes[there])
        precision.update(boxes[there][kept], np.ones(len(kept)), classes[there][kept], true_boxes, true_labels)
    assert precision.mean() > 0.85


def test_objects_count_from_a_size_on():
    dataset = scenes(count=20)
    for i in range(len(dataset)):
        _, boxes, labels = dataset[i]
        assert len(boxes) == len(labels)
        sides = (boxes[:, 2:] - boxes[:, :2]) * 64
        assert (sides > detection_many.SMALLEST - 0.1).all()
        everything = dataset.scenes.scene(i)
        large = ((everything.boxes[:, 2:] - everything.boxes[:, :2]) * 64 > detection_many.SMALLEST - 0.1).all(1)
        names = [dataset.scenes.classes[k] for k in everything.labels[large]]
        assert [dataset.classes[k] for k in labels] == names


# What it learns


def test_it_learns_a_few_scenes_by_heart():
    dataset = scenes(count=3)
    tn.manual_seed(0)
    model = GridDetector(3, widths=(16, 16, 32, 32), stride=4)
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    loader = data.DataLoader(Targets(dataset, 4), 3)
    for _ in range(60):
        for batch in loader:
            optimizer.zero_grad()
            grid_loss(model, batch).backward()
            optimizer.step()
    assert detection_many.evaluate(model, dataset).mean() > 0.8       # in training mode: so few steps
    boxes, scores, labels = predict(model, np.stack([dataset[i][0] for i in range(3)]))[0]
    assert boxes.dtype == np.float32 and (np.diff(scores) <= 0).all() and labels.max() < 3


def test_one_and_two_threads_train_to_the_same_bits():
    states = []
    for threads in (1, 2):
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip("this machine has one core")
        numba.set_num_threads(threads)
        tn.manual_seed(0)
        model = GridDetector(3, widths=(8, 8, 16, 16), stride=4)
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for batch in data.DataLoader(Targets(scenes(), 4), 2):
            optimizer.zero_grad()
            grid_loss(model, batch).backward()
            optimizer.step()
        states.append(model.state_dict())
    assert same_bits(*states)


def test_blind_knows_where_objects_are_in_training():
    where = np.array([[0.0, 0.0, 0.4, 0.4], [0.6, 0.6, 1.0, 1.0]], np.float32)

    class Always:
        classes = ("a", "b")

        def __len__(self):
            return 3

        def __getitem__(self, i):
            return None, where, np.array([0, 1])

    assert detection_many.blind(Always(), Always()).mean() == pytest.approx(1)


# The command


def test_the_command_leaves_figures_and_pictures(few_scenes, tmp_path, capsys):
    run(tmp_path)
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    page = (tmp_path / "report.html").read_text()
    assert "at least 0.4 after epoch 2" in page and "mean ap by epoch" in page
    printed = capsys.readouterr().out
    assert "without looking" in printed and "person" in printed
    for name in ("objects.png", "objects-grid.png"):
        assert (tmp_path / name).read_bytes().startswith(b"\x89PNG") and name in printed
    detection_many.main(["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")])
    assert f"mean AP {float(rows[-1]['mean_ap']):.3f}" in capsys.readouterr().out
    assert (tmp_path / "again/val.png").exists() and (tmp_path / "again/val-grid.png").exists()


def test_stopped_and_resumed_is_bit_identical(few_scenes, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    loss, calls = detection_many.grid_loss, []

    def interrupted(*args):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return loss(*args)

    monkeypatch.setattr(detection_many, "grid_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(detection_many, "grid_loss", loss)
    assert same_bits(whole, run(tmp_path / "parts", "--resume"))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_a_folder_of_photos(tmp_path):
    image = pytest.importorskip("PIL.Image")
    for i in range(10):
        image.new("RGB", (40 + i, 50), (20 * i, 0, 0)).save(tmp_path / f"{i}.jpg")
        (tmp_path / f"{i}.xml").write_text(
            "<annotation><object><name>block</name><bndbox><xmin>5</xmin><ymin>5</ymin><xmax>30</xmax>"
            "<ymax>40</ymax></bndbox></object></annotation>")
    run(tmp_path / "out", "--data", str(tmp_path), "--size", "32", "--stride", "8")
    assert (tmp_path / "out/objects.png").exists()


@pytest.mark.parametrize("options, sentence", [
    (["--data", "nowhere"], "VOC: there is no folder nowhere"),
    (["--split", "test"], "generated scenes have the splits train and val"),
    (["--evaluate", "nothing.safetensors"], "nothing.safetensors"),
    (["--out", "/dev/null/x"], "cannot write in the folder"),
    (["--stride", "3"], "stride is 3, but must be a power of 2"),
    (["--size", "100"], "images are 100 x 100, but 5 blocks need multiples of 16"),
    (["--resume", "--batch-size", "2"], "no .*checkpoint.safetensors to resume from"),
])
def test_what_does_not_fit_ends_in_a_sentence(options, sentence, few_scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--split" in options:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        detection_many.main(options)


def test_a_checkpoint_of_something_else_is_refused(few_scenes, tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(detection_many.Street, "classes", ("only", "these", "three"))
    again = ["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")]
    with pytest.raises(SystemExit, match="it holds a GridDetector for the classes"):
        detection_many.main(again)
    monkeypatch.setattr(detection_many, "read_description", lambda path: {"model": "FCN", "config": {}})
    with pytest.raises(SystemExit, match="it holds a FCN, not a GridDetector"):
        detection_many.main(again)
