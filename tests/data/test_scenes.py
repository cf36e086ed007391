"""Scenes: the same picture for the same number, every class there, boxes tight around what one sees."""
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tinynet.data import DataLoader, Scenes
from tinynet.data.scene_painting import Camera, Canvas, Light, smooth_noise


@pytest.fixture(scope="module")
def scenes():
    """Forty scenes with their boxes."""
    dataset = Scenes(40, 128)
    return [dataset.scene(i) for i in range(40)]


@pytest.fixture
def canvas():
    white = np.ones(3)
    light = Light(white, white, white, 0.0, 1, 0.0, 0.0, False)
    return Canvas((20, 30), Camera(20.0, 15.0, 10.0, 0.0, 2.0), light)


def test_types_shapes_and_range(scenes):
    dataset = Scenes(3, (48, 64))
    image, mask = dataset[2]
    assert image.shape == (48, 64, 3) and image.dtype == np.float32 and image.flags.c_contiguous
    assert mask.shape == (48, 64) and mask.dtype == np.uint8
    assert len(dataset) == 3 and dataset.ignore_index is None
    assert dataset.palette.shape == (9, 3) and dataset.palette.dtype == np.uint8 and len(dataset.classes) == 9
    for scene in scenes:
        assert np.isfinite(scene.image).all() and 0 <= scene.image.min() and scene.image.max() <= 1


def test_the_same_scene_in_any_order_and_thread():
    dataset = Scenes(12, 64, seed=3)
    alone = [dataset[i] for i in range(12)]
    with ThreadPoolExecutor(3) as pool:
        threaded = list(pool.map(Scenes(12, 64, seed=3).__getitem__, range(11, -1, -1)))[::-1]
    for (image, mask), (again, mask_again) in zip(alone, threaded, strict=True):
        assert np.array_equal(image, again) and np.array_equal(mask, mask_again)
    assert np.array_equal(dataset[-1][0], alone[11][0])
    assert np.array_equal(Scenes(500, 64, seed=3)[5][0], alone[5][0])


def test_the_cache_gives_the_same_scenes_and_cannot_be_written_to():
    plain, cached = Scenes(3, 32), Scenes(3, 32, cache=True)
    for _ in range(2):
        for index in range(3):
            for expected, got in zip(plain.scene(index), cached.scene(index), strict=True):
                assert expected.dtype == got.dtype and np.array_equal(expected, got)
                got[...] = 0


def test_scenes_and_seeds_differ():
    images = [Scenes(4, 32, seed)[i][0] for seed in (0, 1, 2) for i in range(4)]
    assert len({image.tobytes() for image in images}) == len(images)


def test_every_class_is_there_often_enough_to_be_learnt(scenes):
    counts = np.array([np.bincount(scene.mask.ravel(), minlength=9) for scene in scenes])
    assert counts.shape[1] == 9
    share = counts.sum(0) / counts.sum()
    assert share.min() > 0.004 and share.max() < 0.5
    assert ((counts > 20).mean(0) > 0.7).all()


def test_colour_alone_does_not_tell_the_classes(scenes):
    # The best guess from the colour alone, cut into 8x8x8 cells, learnt and tested on these very pixels.
    colours = np.concatenate([(scene.image * 7.99).astype(int).reshape(-1, 3) for scene in scenes])
    classes = np.concatenate([scene.mask.ravel() for scene in scenes])
    table = np.zeros((512, 9), int)
    np.add.at(table, (colours @ (64, 8, 1), classes), 1)
    assert table.max(1).sum() / len(classes) < 0.65


def test_boxes_are_tight_around_what_is_visible():
    dataset = Scenes(10, 96)
    seen = 0
    for index in range(10):
        _, mask, boxes, labels = dataset.scene(index)
        assert boxes.dtype == np.float32 and boxes.shape == (len(labels), 4) and labels.dtype == np.int64
        again = dataset.objects(index)
        assert np.array_equal(again[0], boxes) and np.array_equal(again[1], labels)
        assert (boxes >= 0).all() and (boxes <= 1).all() and (boxes[:, :2] < boxes[:, 2:]).all()
        for (left, top, right, bottom), label in zip(np.rint(boxes * 96).astype(int), labels, strict=True):
            inside = mask[top:bottom, left:right] == label
            assert inside[0].any() and inside[-1].any() and inside[:, 0].any() and inside[:, -1].any()
            seen += 1
    assert seen > 20


def test_boxes_hold_nearly_all_pixels_of_their_classes(scenes):
    # Only what is left of objects hidden but for a few pixels may lie outside.
    missed = total = 0
    for _, mask, boxes, labels in scenes:
        outside = np.isin(mask, (6, 7, 8))
        total += outside.sum()
        for (left, top, right, bottom), label in zip(np.rint(boxes * 128).astype(int), labels, strict=True):
            window = outside[top:bottom, left:right]
            window[mask[top:bottom, left:right] == label] = False
        missed += outside.sum()
    assert missed < 0.01 * total


def test_loads_in_batches():
    image, mask = next(iter(DataLoader(Scenes(4, 32), 4, workers=2)))
    assert image.shape == (4, 32, 32, 3) and mask.shape == (4, 32, 32)


@pytest.mark.parametrize("size", [16, (16, 100), (120, 20), (90, 120)])
def test_any_size(size):
    for image, mask in (Scenes(6, size)[i] for i in range(6)):
        assert np.isfinite(image).all() and mask.max() < 9


@pytest.mark.parametrize("arguments, sentence", [
    ((0,), "count is 0"), ((1, 15), "size is"), ((1, (20, 3)), "size is"), ((1, 32, -1), "seed is -1")])
def test_wrong_arguments(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        Scenes(*arguments)


def test_beyond_the_last_scene():
    with pytest.raises(IndexError, match="no scene 5 among 5"):
        Scenes(5, 32)[5]


def covered(canvas, shape):
    """The mask of the pixels whose centres the shape covers."""
    canvas.mask[:] = 0
    canvas.paint(shape, np.ones(3), 1)
    return canvas.mask.astype(bool)


def test_a_polygon_covers_the_centres_inside_it(canvas):
    x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5)
    expected = (y > 2.2) & (y < 17.3) & (x - 4 > (y - 2.2) * 0.5) & (x < 22.6)
    corners = [(4, 2.2), (22.6, 2.2), (22.6, 17.3), (11.55, 17.3)]
    for points in (corners, corners[::-1]):
        assert np.array_equal(covered(canvas, canvas.polygon(points)), expected)


def test_an_ellipse_and_a_rectangle_cover_the_centres_inside_them(canvas):
    x, y = np.meshgrid(np.arange(30) + 0.5, np.arange(20) + 0.5)
    inside = ((x - 25.2) / 8) ** 2 + ((y - 9.7) / 5) ** 2 < 1
    assert np.array_equal(covered(canvas, canvas.ellipse(25.2, 9.7, 8, 5)), inside)
    inside = (x > -3) & (x < 7.4) & (y > 12.1) & (y < 40)
    assert np.array_equal(covered(canvas, canvas.rectangle(-3, 12.1, 7.4, 40)), inside)


def test_shapes_outside_the_picture_paint_nothing(canvas):
    triangle = canvas.polygon([(5, 30), (9, 30), (7, 40)])
    for shape in (canvas.rectangle(40, 0, 50, 10), canvas.ellipse(-20, 5, 3, 3), triangle):
        assert shape is None
        canvas.paint(shape, np.ones(3), 1)
        canvas.darken(shape, 0.5)
    assert not canvas.mask.any()


def test_the_last_shape_owns_the_pixel(canvas):
    first, second = canvas.new_object(7), canvas.new_object(8)
    canvas.paint(canvas.rectangle(0, 0, 10, 10), np.ones(3), 7, first)
    canvas.paint(canvas.rectangle(5, 5, 15, 15), np.ones(3), 8, second)
    canvas.paint(canvas.rectangle(0, 0, 10, 10), np.zeros(3))       # light and shadow own nothing
    assert canvas.owner[7, 7] == second and canvas.owner[2, 2] == first and canvas.owner[18, 18] == 0
    assert canvas.mask[7, 7] == 8 and canvas.mask[2, 2] == 7


def test_the_camera_sees_along_straight_lines():
    camera = Camera(focal=100.0, centre=60.0, horizon=50.0, x=1.0, y=2.0)
    near, far = camera.project([(3, 0, 5), (3, 0, 10)])
    assert near.tolist() == [100.0, 90.0] and far.tolist() == [80.0, 70.0]
    assert (camera.column(3, 5), camera.row(0, 5)) == (100.0, 90.0)


def test_noise_is_smooth_and_within_its_range():
    noise = smooth_noise(np.random.default_rng(0), (64, 80), (4, 5))
    assert noise.shape == (64, 80) and noise.dtype == np.float32
    assert np.abs(noise).max() <= 1 and noise.std() > 0.2
    assert np.abs(np.diff(noise, axis=0)).max() < 0.25 and np.abs(np.diff(noise, axis=1)).max() < 0.25
