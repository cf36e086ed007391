"""MNIST: handwritten digits in the IDX files of LeCun's page, gzipped or not."""
from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np

from tinynet.typing import Array, FilePath

FILES = {"train": "train", "val": "train", "test": "t10k"}      # how the files of each split begin
UNSIGNED_BYTE = 8       # the third byte of the magic number; the fourth is the number of axes
MOST_BYTES = 2**31      # that a file may promise: 40 times MNIST's
PIECE = 2**20           # bytes that are unpacked at once


class MNIST:
    """The digits of one split: `dataset[i]` is (image float32 (H, W, 1) in [0, 1], label int).

    `root` holds `train-images-idx3-ubyte` and `train-labels-idx1-ubyte`, and `t10k-...` for the split "test";
    any of them may be gzipped (its first bytes tell) and then end in `.gz`. The split "val" is the last sixth
    of the training files (10,000 of MNIST's 60,000), "train" what comes before. Images of any size.

    `images` uint8 (n, H, W) and `labels` uint8 (n,) are the whole split as stored.

    Raises FileNotFoundError or ValueError with the file's name, when made: for missing folders and files,
    another magic number, files that are shorter or longer than their head says (no more is unpacked than it
    promises, and a promise of more than 2**31 bytes is refused), broken gzip, another number of labels than
    images, and labels above 9.

    Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to document recognition",
    Proc. IEEE 86(11), 1998.
    """

    classes = tuple("0123456789")

    def __init__(self, root: FilePath, split: str = "train") -> None:
        self.root = Path(root)
        images_file, labels_file = _files(self.root, split)
        images, labels = read_idx(images_file, 3), read_idx(labels_file, 1)
        _check_labels(labels_file, labels, len(self.classes), images_file, len(images))
        part = _part(split, len(images), images_file)
        self.images, self.labels = images[part], labels[part]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Array, int]:
        image = np.divide(self.images[index][..., None], 255, dtype=np.float32)
        return image, int(self.labels[index])


def read_idx(path: FilePath, axes: int) -> Array:
    """The unsigned bytes of an IDX file as an array with this number of axes.

    Four bytes 0, 0, 8 (for unsigned bytes), axes; the size of each axis in four bytes, the highest first; the
    values, the last axis running fastest. Raises ValueError for anything else.
    """
    with open(path, "rb") as file:
        packed = file.read(2) == b"\x1f\x8b"
        file.seek(0)
        stream = gzip.GzipFile(fileobj=file) if packed else file
        try:
            shape = _read_head(path, stream, axes)
            values = _read_at_most(stream, math.prod(shape) + 1)
        except (gzip.BadGzipFile, EOFError, zlib.error) as error:
            raise ValueError(f"MNIST: {path} cannot be unpacked: {error}; fetch the file again") from error
    promised = math.prod(shape)
    if len(values) != promised:
        got = f"only {len(values):,} follow" if len(values) < promised else "more follow"
        raise ValueError(f"MNIST: {path} promises {_times(shape)} = {promised:,} bytes, but {got}; "
                         "fetch the file again")
    return np.frombuffer(values, np.uint8).reshape(shape)


def _read_head(path, stream, axes):
    """The shape that the file's first bytes promise."""
    magic, *shape = np.frombuffer(_head_bytes(path, stream, 4 * (1 + axes)), ">u4").tolist()
    expected = UNSIGNED_BYTE << 8 | axes
    if magic != expected:
        kind = "images" if axes == 3 else "labels"
        raise ValueError(f"MNIST: {path} begins with the number {magic}, but a file of {kind} with "
                         f"{expected}; give an IDX file of unsigned bytes with {axes} axes")
    if 0 in shape:
        raise ValueError(f"MNIST: {path} promises {_times(shape)} values, which is none; give one with some")
    if math.prod(shape) > MOST_BYTES:
        raise ValueError(f"MNIST: {path} promises {_times(shape)} = {math.prod(shape):,} bytes, but at most "
                         f"{MOST_BYTES:,} are read; give a smaller file")
    return tuple(shape)


def _head_bytes(path, stream, count):
    head = _read_at_most(stream, count)
    if len(head) < count:
        raise ValueError(f"MNIST: {path} ends after {len(head)} bytes, but its head alone has {count}; "
                         "fetch the file again")
    return head


def _read_at_most(stream, count):
    """Up to `count` bytes, piece by piece: a promise alone takes no memory."""
    values = bytearray()
    while len(values) < count and (piece := stream.read(min(count - len(values), PIECE))):
        values += piece
    return values


def _files(root, split):
    """The files of images and of labels."""
    if not root.is_dir():
        raise FileNotFoundError(f"MNIST: there is no folder {root}; give the one that holds "
                                "train-images-idx3-ubyte.gz")
    if split not in FILES:
        raise ValueError(f"MNIST: there is no split {split!r}; give one of {', '.join(FILES)}")
    return tuple(_file(root, f"{FILES[split]}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1"))


def _file(root, name):
    for path in (root / name, root / f"{name}.gz"):
        if path.is_file():
            return path
    raise FileNotFoundError(f"MNIST: {root} holds neither {name} nor {name}.gz; put one of them there")


def _check_labels(path, labels, classes, images_file, images):
    if len(labels) != images:
        raise ValueError(f"MNIST: {path} holds {len(labels):,} labels, but {images_file} {images:,} images; "
                         "give two files that belong together")
    wrong = np.flatnonzero(labels >= classes)
    if wrong.size:
        raise ValueError(f"MNIST: {path}: label {wrong[0]} is {labels[wrong[0]]}, but digits are 0 to "
                         f"{classes - 1}; give MNIST's own labels")


def _part(split, count, path):
    """Which of the images in the file the split has."""
    held_back = count // 6
    if split != "test" and not held_back:
        raise ValueError(f"MNIST: {path} holds {count} images, too few to hold back a sixth; give 6 or more")
    parts = {"train": slice(count - held_back), "val": slice(count - held_back, None), "test": slice(None)}
    return parts[split]


def _times(shape):
    return " x ".join(f"{size:,}" for size in shape)
