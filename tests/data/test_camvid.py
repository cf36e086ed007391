"""CamVid: reading the layout, and a sentence for every way in which it can be broken."""
import os
from pathlib import Path

import numpy as np
import pytest

from tinynet.data import CamVid, DataLoader
from tinynet.data.files import LARGEST_LIST
from tinynet.data.images import image_size, read_image, read_labels

Image = pytest.importorskip("PIL.Image")

REAL = Path(__file__).parents[3] / "shared" / "data" / "camvid"


@pytest.fixture
def tree(tmp_path):
    """Three pictures of 6x8 pixels in the layout of the SegNet tutorial."""
    rng = np.random.default_rng(0)
    for folder in ("train", "trainannot"):
        (tmp_path / folder).mkdir()
    lines = []
    for name in "abc":
        Image.fromarray(rng.integers(0, 256, (6, 8, 3), np.uint8)).save(tmp_path / "train" / f"{name}.png")
        Image.fromarray(rng.integers(0, 12, (6, 8), np.uint8)).save(tmp_path / "trainannot" / f"{name}.png")
        lines.append(f"/SegNet/CamVid/train/{name}.png /SegNet/CamVid/trainannot/{name}.png\n")
    (tmp_path / "train.txt").write_text("".join(lines))
    return tmp_path


@pytest.mark.parametrize("cache", [False, True])
def test_reads_images_and_masks(tree, cache):
    dataset = CamVid(tree, cache=cache)
    assert len(dataset) == 3
    for _ in range(2):
        image, mask = dataset[1]
        assert image.dtype == np.float32 and image.shape == (6, 8, 3)
        assert np.array_equal(np.rint(image * 255), np.array(Image.open(tree / "train" / "b.png")))
        assert mask.dtype == np.uint8
        assert np.array_equal(mask, np.array(Image.open(tree / "trainannot" / "b.png")))
        mask[:] = 0                     # the next reading must not see it
    with pytest.raises(IndexError):
        dataset[3]


def test_describes_its_classes(tree):
    dataset = CamVid(tree)
    assert len(dataset.classes) == 11 and dataset.ignore_index == 11
    assert dataset.palette.shape == (12, 3) and dataset.palette[8].tolist() == [64, 0, 128]
    assert dataset.classes[8] == "car"


def test_makes_batches_with_workers(tree):
    image, mask = next(iter(DataLoader(CamVid(tree, cache=True), 3, workers=2)))
    assert image.shape == (3, 6, 8, 3) and mask.shape == (3, 6, 8)


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        CamVid(tmp_path / "nowhere")


def test_an_empty_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no list such as train.txt"):
        CamVid(tmp_path)


@pytest.mark.parametrize("split", ["test", "../train", ""])
def test_an_unknown_split_names_those_there_are(tree, split):
    (tree / "val.txt").write_text("")
    with pytest.raises(ValueError, match="there is no split .* splits there: train, val"):
        CamVid(tree, split)


@pytest.mark.parametrize("text, sentence", [
    ("", "names no images"),
    ("\n \n", "names no images"),
    ("train/a.png\n", "line 1: .* has 1 parts"),
    ("train/a.png trainannot/a.png\ntrain/b.png trainannot/b.png 7\n", "line 2: .* has 3 parts"),
    ("../secret/../a.png trainannot/a.png\n", r"holds '\.\.'"),
    ("train/.. trainannot/a.png\n", r"holds '\.\.'"),
    ("train\\a.png trainannot/a.png\n", "a backslash"),
    ("a.png trainannot/a.png\n", "names no folder"),
    ("/a.png trainannot/a.png\n", "names no folder"),
    ("//a.png trainannot/a.png\n", "names no folder"),
    ("/../etc/passwd trainannot/a.png\n", r"holds '\.\.'"),
    ("train/a\0.png trainannot/a.png\n", "a zero byte"),
    ("train/" + 300 * "a" + " trainannot/a.png\n", "line 1: the image .*aa.* is missing"),
    (10_000 * "train/a.png ", r"line 1: 'train/a.png train.{,70}\.\.\. has 10000 parts"),
    ("/etc/passwd trainannot/a.png\n", "line 1: the image .*etc/passwd is missing"),
    ("train/d.png trainannot/a.png\n", "line 1: the image .*d.png is missing"),
    ("train/a.png trainannot/d.png\n", "line 1: the mask .*d.png is missing"),
])
def test_a_list_that_makes_no_sense(tree, text, sentence):
    (tree / "train.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence) as caught:
        CamVid(tree)
    assert str(tree / "train.txt") in str(caught.value) and len(str(caught.value)) < 800


def test_a_list_that_is_no_list(tree):
    (tree / "train.txt").write_bytes(b"")
    os.truncate(tree / "train.txt", LARGEST_LIST + 1)
    with pytest.raises(ValueError, match="train.txt has more than 67,108,864 bytes"):
        CamVid(tree)


def test_bad_files_can_be_left_out(tree):
    lines = (tree / "train.txt").read_text()
    (tree / "train.txt").write_text(f"../x.png y.png\n{lines}train/d.png trainannot/a.png\n")
    (tree / "train" / "b.png").write_text("not a picture")
    with pytest.warns(UserWarning) as warned:
        dataset = CamVid(tree, on_error="skip")
    assert [image.stem for image, _ in dataset.pairs] == ["a", "c"]
    reasons = [("line 1", "holds '..'"), ("line 3", "b.png: cannot be read as an image"), ("line 5", "is missing")]
    assert len(warned) == len(dataset.skipped) == 3
    for (key, reason), (line, expected), warning in zip(dataset.skipped.items(), reasons, warned, strict=True):
        assert key == f"{tree / 'train.txt'}, {line}" and expected in reason
        assert str(warning.message) == f"CamVid: skipped {key}: {reason}"
    with pytest.raises(ValueError, match="holds '..'"):
        CamVid(tree)
    with pytest.raises(ValueError, match="CamVid: on_error is 'warn'; give 'raise', which stops at a bad file, or 'sk"):
        CamVid(tree, on_error="warn")


def test_with_nothing_left(tree):
    (tree / "train.txt").write_text("../a b\n")
    with pytest.warns(UserWarning), pytest.raises(ValueError, match="names no images that can be read"):
        CamVid(tree, on_error="skip")


def test_a_list_with_a_byte_order_mark_and_foreign_line_ends(tree):
    (tree / "train.txt").write_bytes(b"\xef\xbb\xbftrain/a.png trainannot/a.png\r\n\r\n")
    assert len(CamVid(tree)) == 1


def test_a_mask_of_another_size(tree):
    Image.fromarray(np.zeros((6, 7), np.uint8)).save(tree / "trainannot" / "b.png")
    with pytest.raises(ValueError, match=r"trainannot/b.png has \(h, w\) = \(6, 7\), but .*\(6, 8\)"):
        CamVid(tree)


def test_a_mask_with_unknown_classes(tree):
    Image.fromarray(np.full((6, 8), [12] * 4 + [200] * 4, np.uint8)).save(tree / "trainannot" / "b.png")
    dataset = CamVid(tree)
    dataset[0]
    with pytest.raises(ValueError, match="trainannot/b.png holds the class 12, 200"):
        dataset[1]


def test_a_mask_in_colour(tree):
    Image.fromarray(np.zeros((6, 8, 3), np.uint8)).save(tree / "trainannot" / "b.png")
    with pytest.raises(ValueError, match="trainannot/b.png: .*mode is RGB.* one 8-bit channel"):
        CamVid(tree)[1]


def test_a_file_that_is_no_image(tree):
    (tree / "train" / "b.png").write_text("not a picture")
    with pytest.raises(ValueError, match="train/b.png: cannot be read as an image: "):
        CamVid(tree)


def test_a_truncated_file(tree):
    path = tree / "train" / "b.png"
    path.write_bytes(path.read_bytes()[:120])
    with pytest.raises(ValueError, match="train/b.png: cannot be read as an image: .*truncated"):
        CamVid(tree)[1]


def test_images_of_other_modes_become_rgb(tmp_path):
    path = tmp_path / "x.png"
    Image.fromarray(np.full((2, 3), 100, np.uint8)).save(path)
    assert np.array_equal(read_image(path), np.full((2, 3, 3), 100))
    Image.new("RGBA", (3, 2), (10, 20, 30, 0)).save(path)
    assert np.array_equal(read_image(path), np.full((2, 3, 3), 255))
    Image.fromarray(np.full((2, 3), 1000, np.uint16)).save(path)
    with pytest.raises(ValueError, match="more than 8 bits"):
        read_image(path)


def test_a_palette_image_gives_indices_as_labels_and_colours_as_image(tmp_path):
    image = Image.new("P", (3, 2), 1)
    image.putpalette([0, 0, 0, 9, 8, 7])
    image.save(tmp_path / "x.png")
    assert np.array_equal(read_labels(tmp_path / "x.png"), np.ones((2, 3)))
    assert read_image(tmp_path / "x.png")[0, 0].tolist() == [9, 8, 7]


def test_an_image_that_lies_on_its_side_is_turned(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (8, 4)).save(tmp_path / "x.jpg", exif=exif)
    assert image_size(tmp_path / "x.jpg") == read_image(tmp_path / "x.jpg").shape[:2] == (8, 4)


@pytest.mark.skipif(not REAL.is_dir(), reason="the CamVid pictures are not there")
def test_the_real_pictures():
    train, val = CamVid(REAL), CamVid(REAL, "val")
    assert (len(train), len(val)) == (367, 26)
    image, mask = train[0]
    assert image.shape == (360, 480, 3) and mask.shape == (360, 480)
    assert 0 <= image.min() and image.max() <= 1 and mask.max() <= 11
