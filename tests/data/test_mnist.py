"""MNIST: IDX files written byte by byte, and a sentence for every way in which they can lie."""
import gzip
import struct
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from tinynet.data import MNIST, DataLoader

REAL = Path(__file__).parents[3] / "shared" / "data" / "mnist"
IMAGES, LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


def idx(array, magic=None):
    """An array of bytes as IDX: 0, 0, 8, axes; the sizes; the values."""
    magic = 0x800 + array.ndim if magic is None else magic
    return struct.pack(f">{1 + array.ndim}I", magic, *array.shape) + array.tobytes()


@pytest.fixture
def digits(tmp_path):
    """Twelve images of 5x4 pixels and their labels in the training files, three others for the test."""
    rng = np.random.default_rng(0)
    for name, count in (("train", 12), ("t10k", 3)):
        images = rng.integers(0, 256, (count, 5, 4), np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (tmp_path / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        (tmp_path / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return tmp_path


def stored(folder, name=IMAGES):
    return np.frombuffer((folder / name).read_bytes()[16:], np.uint8).reshape(-1, 5, 4)


def test_reads_images_and_labels(digits):
    dataset = MNIST(digits)
    image, label = dataset[3]
    assert image.dtype == np.float32 and image.shape == (5, 4, 1)
    np.testing.assert_array_equal(np.rint(image[..., 0] * 255), stored(digits)[3])
    assert type(label) is int and label == 3
    assert dataset.classes[label] == "3" and len(dataset.classes) == 10
    image[:] = 0  # the next reading must not see it
    assert dataset[3][0].any()
    with pytest.raises(IndexError):
        dataset[10]


def test_the_last_sixth_of_the_training_files_is_held_back(digits):
    train, val, test = (MNIST(digits, split) for split in ("train", "val", "test"))
    assert (len(train), len(val), len(test)) == (10, 2, 3)
    np.testing.assert_array_equal(np.concatenate([train.images, val.images]), stored(digits))
    assert [val[i][1] for i in range(2)] == [0, 1]
    np.testing.assert_array_equal(test.images, stored(digits, "t10k-images-idx3-ubyte"))


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_the_content_tells_whether_it_is_gzipped(digits, ending):
    plain = stored(digits).copy()
    packed = gzip.compress((digits / IMAGES).read_bytes())
    (digits / IMAGES).unlink()
    (digits / f"{IMAGES}{ending}").write_bytes(packed)
    (digits / LABELS).rename(digits / f"{LABELS}.gz")  # the name says gzip, the content does not
    np.testing.assert_array_equal(MNIST(digits).images, plain[:10])


def test_makes_batches_with_workers(digits):
    image, label = next(iter(DataLoader(MNIST(digits), 4, workers=2)))
    assert image.shape == (4, 5, 4, 1) and image.dtype == np.float32 and label.tolist() == [0, 1, 2, 3]


def test_a_missing_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="MNIST: there is no folder .*nowhere"):
        MNIST(tmp_path / "nowhere")


@pytest.mark.parametrize("name", [IMAGES, LABELS])
def test_a_missing_file(digits, name):
    (digits / name).unlink()
    with pytest.raises(FileNotFoundError, match=f"holds neither {name} nor {name}.gz"):
        MNIST(digits)


def test_an_unknown_split(digits):
    with pytest.raises(ValueError, match="no split 'dev'; give one of train, val, test"):
        MNIST(digits, "dev")


def test_images_and_labels_in_each_others_place(digits):
    images, labels = (digits / IMAGES).read_bytes(), (digits / LABELS).read_bytes()
    (digits / IMAGES).write_bytes(labels)
    (digits / LABELS).write_bytes(images)
    with pytest.raises(ValueError, match=f"{IMAGES} begins with the number 2049, but a file of images"):
        MNIST(digits)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
@pytest.mark.parametrize("content, sentence", [
    (idx(np.zeros((12, 5, 4), np.uint8))[:-1], "promises 12 x 5 x 4 = 240 bytes, but only 239 follow"),
    (idx(np.zeros((12, 5, 4), np.uint8)) + b"\0", "promises 12 x 5 x 4 = 240 bytes, but more follow"),
    (idx(np.zeros((12, 5, 4), np.uint8))[:10], "ends after 10 bytes, but its head alone has 16"),
    (b"", "ends after 0 bytes"),
    (idx(np.zeros((12, 5, 4), np.uint8), magic=0xD03), "begins with the number 3331"),  # float32
    (struct.pack("<4I", 0x803, 12, 5, 4), "begins with the number 50855936"),  # the low byte first
    (struct.pack(">4I", 0x803, 0, 28, 28), "promises 0 x 28 x 28 values, which is none"),
    (struct.pack(">4I", 0x803, *3 * [2**32 - 1]), "promises .* but at most 2,147,483,648 are read"),
    (struct.pack(">4I", 0x803, 2**31 - 1, 1, 1), "promises 2,147,483,647 x 1 x 1 .* but only 0 follow"),
])
def test_a_file_that_lies(digits, content, sentence, pack):
    (digits / IMAGES).write_bytes(pack(content))
    with pytest.raises(ValueError, match=f"{IMAGES} {sentence}"):
        MNIST(digits)


def test_no_more_is_unpacked_than_promised(digits, monkeypatch):
    """100 MB of zeros behind an honest head: the reading stops a byte after the promise."""
    (digits / IMAGES).write_bytes(gzip.compress(idx(np.zeros((12, 5, 4), np.uint8)) + bytes(100_000_000), 1))
    unpacked, read = [], gzip.GzipFile.read

    def counted(self, size=-1):
        unpacked.append(size)
        return read(self, size)

    monkeypatch.setattr(gzip.GzipFile, "read", counted)
    with pytest.raises(ValueError, match="but more follow"):
        MNIST(digits)
    assert min(unpacked) > 0 and sum(unpacked) == 16 + 240 + 1


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzipped"])
def test_what_a_promise_takes(digits, pack):
    """A promise of 2 GB with nothing behind it takes no memory, and what is there is not copied twice over."""
    (digits / IMAGES).write_bytes(pack(struct.pack(">4I", 0x803, 2**17, 2**7, 2**7) + bytes(2_000_000)))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="promises 131,072 x 128 x 128 = .* but only 2,000,000 follow"):
            MNIST(digits)
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()


def test_every_cut_is_refused(digits):
    for name in (IMAGES, LABELS):
        for pack in (bytes, gzip.compress):
            whole = (digits / name).read_bytes()
            packed = pack(whole)
            for size in range(len(packed)):
                (digits / name).write_bytes(packed[:size])
                with pytest.raises(ValueError, match=f"MNIST: .*{name}"):
                    MNIST(digits)
            (digits / name).write_bytes(whole)


@pytest.mark.parametrize("damage", [
    lambda packed: packed[:-12],  # the end is missing
    lambda packed: packed[:-8] + bytes(4) + packed[-4:],  # another checksum
    lambda packed: packed[:10] + b"\xff\xff" + packed[12:],  # no deflate stream
    lambda packed: packed[:2] + b"\x07" + packed[3:],  # an unknown method
])
def test_broken_gzip(digits, damage):
    (digits / IMAGES).write_bytes(damage(gzip.compress((digits / IMAGES).read_bytes())))
    with pytest.raises(ValueError, match=f"{IMAGES} cannot be unpacked: .*; fetch the file again"):
        MNIST(digits)


def test_another_number_of_labels(digits):
    (digits / LABELS).write_bytes(idx(np.zeros(11, np.uint8)))
    with pytest.raises(ValueError, match=f"{LABELS} holds 11 labels, but .*{IMAGES} 12 images"):
        MNIST(digits)


def test_a_label_that_is_no_digit(digits):
    (digits / LABELS).write_bytes(idx(np.array([*range(10), 10, 3], np.uint8)))
    with pytest.raises(ValueError, match=f"{LABELS}: label 10 is 10, but digits are 0 to 9"):
        MNIST(digits)


@pytest.mark.parametrize("split", ["train", "val"])
def test_too_few_to_hold_any_back(digits, split):
    (digits / IMAGES).write_bytes(idx(np.zeros((5, 2, 2), np.uint8)))
    (digits / LABELS).write_bytes(idx(np.zeros(5, np.uint8)))
    with pytest.raises(ValueError, match="holds 5 images, too few to hold back a sixth"):
        MNIST(digits, split)


@pytest.mark.skipif(not REAL.is_dir(), reason="the MNIST files are not there")
def test_the_real_digits():
    train, val = MNIST(REAL), MNIST(REAL, "val")
    assert (len(train), len(val)) == (50_000, 10_000)
    image, label = train[0]
    assert image.shape == (28, 28, 1) and image.max() <= 1 and label == 5
    both = np.concatenate([train.labels, val.labels])
    assert np.bincount(both).tolist() == [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
