"""Augmentation: image, mask and boxes move together, type and range stay, draws come from the generator given."""
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet.data import Augmented, Brightness, Contrast, Crop, DataLoader, Flip, Scale, Zoom
from tinynet.data.augmentation import resize_bilinear, resize_nearest

COLOURS = np.linspace(0.0, 1.0, 8, dtype=np.float32)
SIZES = st.integers(1, 12)


def painted(mask):
    """An image whose colour tells the class."""
    return np.repeat(COLOURS[mask][:, :, None], 3, axis=2)


def random_sample(rng, height=10, width=14):
    mask = rng.integers(0, 8, (height, width)).astype(np.uint8)
    return painted(mask), mask


def bilinear_twin(image, size):
    """The definition, a pixel at a time, in float64."""
    height, width = image.shape[:2]
    resized = np.zeros((*size, image.shape[2]))
    for i in range(size[0]):
        for j in range(size[1]):
            y = min(max((i + 0.5) * height / size[0] - 0.5, 0), height - 1)
            x = min(max((j + 0.5) * width / size[1] - 0.5, 0), width - 1)
            for v in (int(y), min(int(y) + 1, height - 1)):
                for u in (int(x), min(int(x) + 1, width - 1)):
                    twice = (1 + (int(y) == height - 1)) * (1 + (int(x) == width - 1))      # at the border
                    resized[i, j] += image[v, u] * (1 - abs(y - v)) * (1 - abs(x - u)) / twice
    return resized


@pytest.mark.parametrize("transform", [Flip(), Crop(6), Crop((4, 9)), Crop(12, 7), Crop((20, 5), 7),
                                       Crop(6, scale=(1, 1))])
@pytest.mark.parametrize("seed", range(6))
def test_geometry_moves_the_mask_with_the_image(transform, seed):
    rng = np.random.default_rng(seed)
    image, mask = random_sample(rng)
    before = image.copy(), mask.copy()
    moved, moved_mask = transform((image, mask), rng)
    assert moved.shape[:2] == moved_mask.shape
    assert moved.dtype == np.float32 and moved_mask.dtype == np.uint8
    kept = moved_mask != getattr(transform, "ignore_index", None)
    assert np.array_equal(moved[kept], painted(moved_mask)[kept])
    assert np.array_equal(image, before[0]) and np.array_equal(mask, before[1])


def test_flip_mirrors_left_and_right_as_often_as_told():
    image, mask = random_sample(np.random.default_rng(0))
    moved, moved_mask = Flip(p=1)((image, mask), np.random.default_rng(0))
    assert np.array_equal(moved, image[:, ::-1]) and np.array_equal(moved_mask, mask[:, ::-1])
    rng = np.random.default_rng(1)
    flipped = sum(not np.array_equal(Flip(0.25)((image, mask), rng)[1], mask) for _ in range(400))
    assert 70 < flipped < 130


def test_crop_reaches_every_window():
    image, mask = np.zeros((5, 4, 3), np.float32), np.arange(20, dtype=np.uint8).reshape(5, 4)
    rng = np.random.default_rng(0)
    corners = {int(Crop(3)((image, mask), rng)[1][0, 0]) for _ in range(200)}
    assert corners == {0, 1, 4, 5, 8, 9}


def test_crop_keeps_the_whole_of_a_smaller_image():
    image, mask = random_sample(np.random.default_rng(0), 5, 6)
    mask %= 7
    moved, moved_mask = Crop((9, 8), ignore_index=7)((image, mask), np.random.default_rng(0))
    assert moved_mask.shape == (9, 8)
    assert np.array_equal(moved_mask[moved_mask != 7], mask.ravel())
    margin = moved[moved_mask == 7]
    np.testing.assert_allclose(margin, np.broadcast_to(image.mean((0, 1)), (42, 3)), rtol=1e-5)


def test_crop_of_a_smaller_mask_needs_an_ignore_index():
    with pytest.raises(ValueError, match="smaller than the window .* give an ignore_index"):
        Crop(20)(random_sample(np.random.default_rng(0)), np.random.default_rng(0))


@given(st.integers(0, 99), st.sampled_from([(6, 9), (25, 9), (25, 40)]),
       st.sampled_from([(0.5, 2), (1, 1), (0.3, 0.4)]))
def test_crop_with_a_scale_is_scale_and_then_crop(seed, size, scale):
    sample = np.random.default_rng(seed).random((20, 30, 3), np.float32), np.arange(600).reshape(20, 30)
    image, mask = Crop(size, 999, scale)(sample, np.random.default_rng(seed))
    rng = np.random.default_rng(seed)
    other_image, other_mask = Crop(size, 999)(Scale(*scale)(sample, rng), rng)
    assert image.shape == other_image.shape == (*size, 3) and image.dtype == np.float32
    shown = mask != 999
    assert np.array_equal(shown, other_mask != 999)
    np.testing.assert_allclose(image[shown], other_image[shown], atol=1e-5)
    assert (mask == other_mask).mean() > 0.9                 # a place right between two pixels may be rounded to either
    np.testing.assert_allclose(image[~shown], np.broadcast_to(sample[0].mean((0, 1)), image[~shown].shape), rtol=1e-5)


@given(SIZES, SIZES, SIZES, SIZES)
def test_bilinear_resizing_is_its_definition(height, width, new_height, new_width):
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    resized = resize_bilinear(image, (new_height, new_width))
    assert resized.dtype == np.float32
    np.testing.assert_allclose(resized, bilinear_twin(image, (new_height, new_width)), atol=1e-6)


@given(SIZES, SIZES, SIZES, SIZES)
def test_nearest_resizing_is_its_definition(height, width, new_height, new_width):
    mask = np.arange(height * width).reshape(height, width)
    expected = [[mask[int((i + 0.5) * height / new_height), int((j + 0.5) * width / new_width)]
                 for j in range(new_width)] for i in range(new_height)]
    assert np.array_equal(resize_nearest(mask, (new_height, new_width)), expected)


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.0, 1.7, 2.0])
def test_scale_keeps_the_mask_on_the_image(factor):
    mask = np.kron(np.random.default_rng(0).integers(0, 8, (4, 5)), np.ones((12, 12), int)).astype(np.uint8)
    image, moved = Scale(factor, factor)((painted(mask), mask), np.random.default_rng(0))
    assert image.shape[:2] == moved.shape == (round(48 * factor), round(60 * factor))
    assert image.dtype == np.float32 and 0 <= image.min() and image.max() <= 1
    inner = moved[1:-1, 1:-1]
    flat = np.all([inner == moved[1 + v:moved.shape[0] - 1 + v, 1 + u:moved.shape[1] - 1 + u]
                   for v in (-1, 0, 1) for u in (-1, 0, 1)], axis=0)
    assert flat.mean() > 0.3
    np.testing.assert_allclose(image[1:-1, 1:-1][flat], painted(inner)[flat], atol=1e-6)


def boxed_sample(rng, size=40):
    """A dark image with a white rectangle, its box, and a label."""
    left, top = rng.integers(4, 16, 2)
    width, height = rng.integers(10, 20, 2)
    image = np.zeros((size, size, 3), np.float32)
    image[top:top + height, left:left + width] = 1
    return image, np.array([left, top, left + width, top + height], np.float32) / size, 5


def tight_box(image):
    """The box around what is brighter than half."""
    bright = image[..., 0] > 0.5
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    height, width = bright.shape
    return [columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height]


@pytest.mark.parametrize("transform, pixels", [
    (Flip(1), 0), (Crop(30), 0), (Crop((34, 50)), 0), (Crop(32, scale=(0.9, 1.2)), 1),
    (Scale(2, 2), 0), (Scale(0.7, 1.6), 1), (Zoom(), 1),
    (Zoom(smallest=0.2, aspect=2, keep=0.3), 1.5)])
@pytest.mark.parametrize("seed", range(8))
def test_geometry_moves_the_box_with_the_image(transform, pixels, seed):
    rng = np.random.default_rng(seed)
    image, box, label = sample = boxed_sample(rng)
    before = image.copy(), box.copy()
    moved, moved_box, same = transform(sample, rng)
    assert moved_box.dtype == np.float32 and same == label
    np.testing.assert_allclose(moved_box, tight_box(moved), atol=(pixels + 1e-4) / min(moved.shape[:2]))
    assert np.array_equal(image, before[0]) and np.array_equal(box, before[1])


BOXES = np.array([[0, 0, 0.5, 0.5], [0.4, 0.4, 0.6, 0.6], [0.9, 0, 1, 1]], np.float32)


def test_many_boxes_move_like_each_alone():
    image, labels = np.zeros((20, 20, 3), np.float32), np.array([7, 8, 9])
    for transform in (Flip(1), Scale(1.5, 1.5)):
        _, boxes, same = transform((image, BOXES, labels), np.random.default_rng(0))
        alone = [transform((image, box), np.random.default_rng(0))[1] for box in BOXES]
        assert np.array_equal(boxes, alone) and np.array_equal(same, labels)


@pytest.mark.parametrize("seed", range(8))
def test_crop_drops_boxes_of_which_little_is_left_with_their_labels(seed):
    image, labels = np.random.default_rng(0).random((20, 20, 3), np.float32), np.array([7, 8, 9])
    window, boxes, left = Crop(8)((image, BOXES, labels), np.random.default_rng(seed))
    top, start = np.argwhere(image[..., 0] == window[0, 0, 0])[0] / 20
    expected = []
    for (x0, y0, x1, y1), label in zip(BOXES.astype(float), labels, strict=True):
        w, h = min(x1, start + 0.4) - max(x0, start), min(y1, top + 0.4) - max(y0, top)
        if w > 0 and h > 0 and w * h >= (x1 - x0) * (y1 - y0) / 4 - 1e-6:
            expected.append((label, (max(x0, start) - start) / 0.4, (min(y1, top + 0.4) - top) / 0.4))
    assert left.tolist() == [label for label, *_ in expected]
    assert boxes.shape == (len(left), 4) and boxes.dtype == np.float32 and left.dtype == np.int64
    np.testing.assert_allclose(boxes[:, [0, 3]], np.reshape([rest for _, *rest in expected], (-1, 2)), atol=1e-5)


def test_images_without_objects_stay_so():
    sample = np.zeros((20, 20, 3), np.float32), np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    for transform in (Flip(1), Crop(8), Scale(2, 2), Zoom()):
        _, boxes, labels = transform(sample, np.random.default_rng(0))
        assert boxes.shape == (0, 4) and labels.shape == (0,)


def test_a_crop_that_loses_the_only_box_says_so():
    sample = np.zeros((20, 20, 3), np.float32), np.array([0, 0, 0.05, 0.05], np.float32)
    with pytest.raises(ValueError, match="Crop: the sample's only box has moved out .* data.Zoom"):
        for seed in range(20):
            Crop(5)(sample, np.random.default_rng(seed))


@given(st.integers(0, 1000))
def test_zoom_keeps_most_of_the_object_and_the_size(seed):
    rng = np.random.default_rng(seed)
    image, box, _ = boxed_sample(rng)
    window = Zoom(smallest=0.1, keep=0.7)._window((image, box), rng)
    if window is not None:
        left, top, right, bottom = window
        assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
        assert 0.1 * 0.99 <= (right - left) * (bottom - top) <= 1
        shown = (min(right, box[2]) - max(left, box[0])) * (min(bottom, box[3]) - max(top, box[1]))
        assert shown >= 0.7 * (box[2] - box[0]) * (box[3] - box[1]) * 0.999
    assert Zoom(smallest=0.1)((image, box), rng)[0].shape == image.shape


def test_zoom_leaves_a_sample_that_no_window_fits():
    sample = np.ones((20, 20, 3), np.float32), np.array([0, 0, 1, 1], np.float32)
    small = Zoom(smallest=0.01, keep=1.0)
    assert small(sample, np.random.default_rng(0)) is sample


def test_zoom_of_many_boxes_keeps_one_at_least_and_of_a_mask_its_classes():
    rng = np.random.default_rng(0)
    counts = set()
    for _ in range(60):
        _, boxes, labels = Zoom(smallest=0.1)((np.zeros((20, 20, 3), np.float32), BOXES, np.arange(3)), rng)
        counts.add(len(labels))
        assert len(boxes) == len(labels) >= 1
    assert counts == {1, 2, 3}
    mask = np.kron(rng.integers(0, 8, (4, 4)), np.ones((12, 12), int)).astype(np.uint8)
    image, moved = Zoom(smallest=0.3)((painted(mask), mask), rng)
    assert image.shape[:2] == moved.shape == (48, 48)
    assert (np.abs(image[..., 0] - COLOURS[moved]) < 1e-5).mean() > 0.6         # all but where colours meet


@pytest.mark.parametrize("transform", [Brightness(0.5), Contrast(0.5)])
def test_light_changes_the_image_alone_and_stays_in_range(transform):
    rng = np.random.default_rng(0)
    image, mask = random_sample(rng)
    means = []
    for _ in range(20):
        changed, same = transform((image, mask), rng)
        assert same is mask
        assert changed.dtype == np.float32 and 0 <= changed.min() and changed.max() <= 1
        assert not np.array_equal(changed, image)
        means.append(changed.std())
    assert min(means) < image.std() < max(means)


def test_contrast_keeps_the_mean_where_nothing_is_clipped():
    image = np.random.default_rng(0).uniform(0.4, 0.6, (8, 8, 3)).astype(np.float32)
    for seed in range(5):
        changed, = Contrast(0.8)((image,), np.random.default_rng(seed))
        assert abs(changed.mean() - image.mean()) < 1e-6


def test_every_transformation_draws_from_the_generator_given():
    sample = random_sample(np.random.default_rng(0))
    for transform in (Flip(), Crop(5), Crop(5, 0, (0.5, 2)), Scale(0.5, 2), Zoom(), Brightness(0.3), Contrast(0.3)):
        first, again = (transform(sample, np.random.default_rng(3)) for _ in range(2))
        assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


def test_labels_stay_and_unknown_parts_are_refused():
    image = np.zeros((4, 4, 3), np.float32)
    assert Flip(1)((image, np.int64(3)), np.random.default_rng(0))[1] == 3
    with pytest.raises(TypeError, match=r"Flip: part 1 of the sample is float32 of shape \(3,\)"):
        Flip(1)((image, np.zeros(3, np.float32)), np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"Flip: part 2 of the sample is int64 of shape \(3,\)"):
        Flip(1)((image, np.zeros((2, 4), np.float32), np.zeros(3, np.int64)), np.random.default_rng(0))
    with pytest.raises(TypeError, match=r"Crop: part 1 .* of shape \(4, 5\)"):
        Crop(2)((image, np.zeros((4, 5), np.uint8)), np.random.default_rng(0))


def test_augmented_applies_all_in_turn_and_passes_on_what_describes_the_classes():
    class Described(list):
        classes, palette, ignore_index = ("a", "b"), np.zeros((2, 3), np.uint8), 1

    dataset = Described([random_sample(np.random.default_rng(i), 9 + i, 12) for i in range(5)])
    augmented = Augmented(dataset, Scale(0.9, 1.5), Crop(8, ignore_index=1), Flip(), Brightness(0.2))
    assert len(augmented) == 5 and augmented.classes == ("a", "b") and augmented.ignore_index == 1
    assert augmented[2][0] is dataset[2][0]
    batches = [list(DataLoader(augmented, 2, seed=1, workers=workers)) for workers in (0, 2)]
    assert [batch[0].shape for batch in batches[0]] == [(2, 8, 8, 3), (2, 8, 8, 3), (1, 8, 8, 3)]
    for expected, got in zip(*batches, strict=True):
        assert np.array_equal(expected[0], got[0]) and np.array_equal(expected[1], got[1])


@pytest.mark.parametrize("make, sentence", [
    (lambda: Flip(1.5), "Flip: p is 1.5"),
    (lambda: Crop(0), "Crop: size is"),
    (lambda: Crop((3, 4, 5)), "Crop: size is"),
    (lambda: Scale(0, 1), "Scale: the factors are low 0"),
    (lambda: Crop(3, scale=(0, 1)), "Crop: the factors are low 0"),
    (lambda: Scale(2, 1), "give 0 < low <= high"),
    (lambda: Zoom(smallest=0), "Zoom: smallest is 0"),
    (lambda: Zoom(keep=1.5), "Zoom: keep is 1.5"),
    (lambda: Zoom(aspect=0.9), "Zoom: aspect is 0.9"),
    (lambda: Brightness(2), "Brightness: amount is 2"),
    (lambda: Contrast(-1), "Contrast: amount is -1"),
])
def test_wrong_arguments(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make()


def test_augmented_takes_callables_only():
    with pytest.raises(TypeError, match="no transformation"):
        Augmented([], "flip")
