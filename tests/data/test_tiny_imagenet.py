"""TinyImageNet: reading the layout, the splits, and a sentence for every way in which it can be broken."""
from pathlib import Path

import numpy as np
import pytest

from tinynet.data import DataLoader, TinyImageNet

Image = pytest.importorskip("PIL.Image")

REAL = Path(__file__).parents[3] / "shared" / "data" / "tiny-imagenet-10"
FISH, CAT = "n01443537", "n02123045"


def save(path, mode="RGB", size=(8, 4)):
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.name.encode())
    shape = (size[1], size[0], 3) if mode == "RGB" else (size[1], size[0])
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, shape, np.uint8)).save(path, "JPEG")


@pytest.fixture
def tree(tmp_path):
    """Two classes with twelve photos of 8x4 pixels each; wnids.txt is not sorted, nor are the lists by number."""
    (tmp_path / "wnids.txt").write_text(f"{CAT}\n{FISH}\n")
    (tmp_path / "words.txt").write_text(f"n00000001\tentity\n{FISH}\tgoldfish, Carassius auratus\n{CAT}\ttabby\n")
    for wnid in (FISH, CAT):
        names = [f"{wnid}_{k}.JPEG" for k in range(12)]
        for name in names:
            save(tmp_path / "train" / wnid / "images" / name)
        lines = [f"{name}\t1\t0\t{4 + k % 3}\t2\n" for k, name in enumerate(names)]
        boxes(tmp_path, wnid).write_text("".join(sorted(lines)))
    return tmp_path


@pytest.fixture
def official(tree):
    """The same with a validation part of its own."""
    for name in ("val_0.JPEG", "val_1.JPEG"):
        save(tree / "val" / "images" / name)
    lines = f"val_0.JPEG\t{CAT}\t0\t0\t7\t3\n", f"val_1.JPEG\t{FISH}\t2\t1\t3\t1\n"
    (tree / "val" / "val_annotations.txt").write_text("".join(lines))
    return tree


def boxes(root, wnid=FISH):
    return root / "train" / wnid / f"{wnid}_boxes.txt"


def first_line(root, line):
    path = boxes(root)
    path.write_text("\n".join([line, *path.read_text().splitlines()[1:]]))


@pytest.mark.parametrize("cache", [False, True])
def test_reads_image_box_and_label(tree, cache):
    dataset = TinyImageNet(tree, cache=cache)
    assert dataset.wnids == (FISH, CAT) and dataset.classes == ("goldfish", "tabby")
    assert len(dataset) == 20
    for _ in range(2):
        image, box, label = dataset[1]
        path = tree / "train" / FISH / "images" / f"{FISH}_1.JPEG"
        assert image.dtype == np.float32 and image.shape == (4, 8, 3)
        assert np.array_equal(np.rint(image * 255), np.array(Image.open(path)))
        assert box.dtype == np.float32
        np.testing.assert_array_equal(box, np.float32([1 / 8, 0, 6 / 8, 3 / 4]))     # the ends are inside
        assert label == 0 and isinstance(label, int)
        image[:], box[:] = 0, 0                 # the next reading must not see it
    assert dataset[-1][2] == 1
    with pytest.raises(IndexError):
        dataset[20]


def test_the_last_tenth_by_number_is_held_out(tree):
    names = {split: [entry.path.name for entry in TinyImageNet(tree, split).entries] for split in ("train", "val")}
    assert names["val"] == [f"{wnid}_{k}.JPEG" for wnid in (FISH, CAT) for k in (10, 11)]
    assert names["train"] == [f"{wnid}_{k}.JPEG" for wnid in (FISH, CAT) for k in range(10)]


def test_an_official_validation_part_is_used(official):
    assert len(TinyImageNet(official)) == 24
    val = TinyImageNet(official, "val")
    assert [(box.tolist(), label) for _, box, label in (val[0], val[1])] == [
        ([0, 0, 1, 1], 1), ([0.25, 0.25, 0.5, 0.5], 0)]


def test_makes_batches_with_workers(tree):
    image, box, label = next(iter(DataLoader(TinyImageNet(tree, cache=True), 3, workers=2)))
    assert image.shape == (3, 4, 8, 3) and box.shape == (3, 4) and label.shape == (3,)


def test_grey_photos_become_rgb(tree):
    save(tree / "train" / FISH / "images" / f"{FISH}_0.JPEG", "L")
    image, _, _ = TinyImageNet(tree)[0]
    assert image.shape == (4, 8, 3) and np.array_equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("corners, expected", [
    ("3 3 3 3", [3 / 8, 3 / 4, 4 / 8, 1]),       # its ends are the same pixel: 1 wide, 1 high
    ("-2 1 9 9", [0, 1 / 4, 1, 1]),              # beyond the border
    ("0 0 7 3", [0, 0, 1, 1]),
])
def test_boxes_at_the_border(tree, corners, expected):
    first_line(tree, f"{FISH}_0.JPEG {corners}")
    np.testing.assert_array_equal(TinyImageNet(tree)[0][1], np.float32(expected))


@pytest.mark.parametrize("corners", ["8 0 9 3", "0 4 7 5", "-3 0 -1 3"])
def test_a_box_outside_its_photo(tree, corners):
    first_line(tree, f"{FISH}_0.JPEG {corners}")
    dataset = TinyImageNet(tree)
    with pytest.raises(ValueError, match=r"boxes.txt, line 1: the box .* lies outside .* 8 pixels wide and 4 high"):
        dataset[0]


@pytest.mark.parametrize("line, sentence", [
    (f"{FISH}_0.JPEG 1 2 3", "line 1: .* has 4 parts; a line has 5: file, x1, y1, x2, y2"),
    (f"{FISH}_0.JPEG 1 2 3 4 5", "line 1: .* has 6 parts"),
    (f"{FISH}_0.JPEG 0 0 3.5 3", "line 1: .* four whole numbers"),
    (f"{FISH}_0.JPEG a b c d", "line 1: .* four whole numbers"),
    (f"{FISH}_0.JPEG 5 0 3 3", r"line 1: the box \(5, 0, 3, 3\) ends before it begins"),
    (f"{FISH}_99.JPEG 0 0 3 3", f"line 1: there is no photo {FISH}_99.JPEG in .*images"),
    ("../../../secret.JPEG 0 0 3 3", "line 1: there is no photo"),
    (f"/etc/{FISH}_1.JPEG 0 0 3 3", "line 1: there is no photo"),
    (f"{FISH}_0.JPEG 0 0 {'9' * 5000} 3", r"line 1: .*\.\.\. should end in four whole numbers of at most 9 digits"),
    (f"{FISH}_0.JPEG -{'9' * 400} 0 3 3", "line 1: .* four whole numbers"),
    (f"{FISH}_0.JPEG 0 0 1_0 3", "line 1: .* four whole numbers"),
    (f"{FISH}_0.JPEG nan 0 3 3", "line 1: .* four whole numbers"),
    (f"{'x' * 100_000} 0 0 3 3", r"line 1: there is no photo x{77}\.\.\. in"),
    (f"{FISH}_1.JPEG 0 0 3 3", f"line 2: {FISH}_1.JPEG was there before"),
    ("", f"has no line for the photo .*{FISH}_0.JPEG .1 without a box"),
])
def test_a_line_of_boxes_that_makes_no_sense(tree, line, sentence):
    first_line(tree, line)
    with pytest.raises((ValueError, FileNotFoundError), match=f"boxes.txt,? {sentence}") as caught:
        TinyImageNet(tree)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("text, sentence", [
    ("", "names no classes"),
    (f"{FISH}\n../{CAT}\n", "line 2: .* is no WordNet id"),
    ("/etc\n", "line 1: '/etc' is no WordNet id"),
    (f"{'n' * 5000}\n", r"line 1: 'n{76}\.\.\. is no WordNet id"),
    (f"{FISH}\n\n{FISH}\n", f"line 3: {FISH} was there before"),
    (f"{FISH}\nn7\n", "words.txt has no name for n7"),
    (f"{FISH}\nn00000001\n", "there is no folder .*n00000001.images"),
])
def test_a_list_of_classes_that_makes_no_sense(tree, text, sentence):
    (tree / "wnids.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=sentence):
        TinyImageNet(tree)


def test_a_list_of_words_that_makes_no_sense(tree):
    (tree / "words.txt").write_text(f"{FISH}\tgoldfish\n{CAT} tabby\n")
    with pytest.raises(ValueError, match="words.txt, line 2: .* is not an id, a tab and names"):
        TinyImageNet(tree)


@pytest.mark.parametrize("line, sentence", [
    ("val_1.JPEG n00000001 0 0 3 3", "line 2: the class n00000001 is not in wnids.txt"),
    (f"val_1.JPEG {FISH} 0 0 3", "line 2: .* has 5 parts; a line has 6: file, wnid, x1"),
    (f"val_7.JPEG {FISH} 0 0 3 3", "line 2: there is no photo val_7.JPEG"),
])
def test_a_line_of_the_validation_part_that_makes_no_sense(official, line, sentence):
    (official / "val" / "val_annotations.txt").write_text(f"val_0.JPEG {CAT} 0 0 7 3\n{line}\n")
    with pytest.raises((ValueError, FileNotFoundError), match=f"val_annotations.txt, {sentence}"):
        TinyImageNet(official, "val")


@pytest.mark.parametrize("missing", ["wnids.txt", "words.txt", f"train/{FISH}/{FISH}_boxes.txt"])
def test_a_missing_file(tree, missing):
    (tree / missing).unlink()
    with pytest.raises(FileNotFoundError, match=f"there is no file .*{missing}"):
        TinyImageNet(tree)


def test_missing_and_empty_folders(tree):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        TinyImageNet(tree / "nowhere")
    for path in (tree / "train" / FISH / "images").iterdir():
        path.unlink()
    with pytest.raises(FileNotFoundError, match="images holds no photos"):
        TinyImageNet(tree)


def test_an_unknown_split_and_one_without_photos(tree):
    with pytest.raises(ValueError, match="there is no split 'test'; there are train and val"):
        TinyImageNet(tree, "test")
    for wnid in (FISH, CAT):
        for k in range(1, 12):
            (tree / "train" / wnid / "images" / f"{wnid}_{k}.JPEG").unlink()
        boxes(tree, wnid).write_text(f"{wnid}_0.JPEG 0 0 3 3\n")
    with pytest.raises(ValueError, match="no photos left for the split train; give at least two"):
        TinyImageNet(tree)


def test_a_broken_photo(tree):
    path = tree / "train" / FISH / "images" / f"{FISH}_0.JPEG"
    path.write_bytes(path.read_bytes()[:200])
    dataset = TinyImageNet(tree)
    with pytest.raises(ValueError, match=f"{FISH}_0.JPEG: cannot be read as an image"):
        dataset[0]


@pytest.mark.skipif(not REAL.is_dir(), reason="the Tiny ImageNet photos are not there")
def test_the_real_photos():
    train, val = TinyImageNet(REAL), TinyImageNet(REAL, "val")
    assert (len(train), len(val), len(val.classes)) == (4500, 500, 10)
    assert val.entries[0].path.name == "n01443537_450.JPEG" and val.classes[0] == "goldfish"
    image, box, label = val[499]
    assert image.shape == (64, 64, 3) and label == 9
    assert (0 <= box).all() and (box[:2] < box[2:]).all() and (box <= 1).all()
