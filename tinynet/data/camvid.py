"""CamVid: street scenes with a class for every pixel, in the folder layout of the SegNet tutorial."""
from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import numpy as np

from tinynet.data.files import Faults, brief, numbered_lines
from tinynet.data.images import image_size, read_image, read_labels
from tinynet.typing import Array, FilePath, OnError

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian",
           "bicyclist")
VOID = 11
PALETTE = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
           (192, 128, 128), (64, 64, 128), (64, 0, 128), (64, 64, 0), (0, 128, 192), (0, 0, 0))


class CamVid:
    """The pictures of one split: `dataset[i]` is (image float32 (H, W, 3) in [0, 1], mask uint8 (H, W)).

    `root` holds `<split>.txt`, whose lines name an image and its mask; of either path the last two parts
    count (`/SegNet/CamVid/train/a.png` is `root/train/a.png`). A mask's pixel value is the class; 11
    (void) is `ignore_index`, and `palette` has a colour for it too. `cache=True` keeps decoded files in
    memory as uint8 (0.7 MB for 360x480). `on_error="skip"` leaves out the lines whose files are refused when
    the dataset is made, with a warning; `skipped` is a dict of line to reason.

    Raises FileNotFoundError or ValueError with the file's name: when made, for missing folders, lists and
    files, lines that make no sense, files that are no images and masks of another size; when read, for
    truncated files and masks with unknown classes.

    V. Badrinarayanan, A. Kendall, R. Cipolla, "SegNet", PAMI 2017; G. Brostow, J. Fauqueur, R. Cipolla,
    "Semantic object classes in video", Pattern Recognition Letters 30(2), 2009.
    """

    classes = CLASSES
    palette = np.array(PALETTE, np.uint8)
    ignore_index = VOID

    def __init__(self, root: FilePath, split: str = "train", cache: bool = False, on_error: OnError = "raise") -> None:
        self.root = Path(root)
        faults = Faults("CamVid", on_error)
        self.pairs = _listed_pairs(self.root, _list_file(self.root, split), faults)
        self.skipped = faults.reasons
        self._cache = {} if cache else None

    def __len__(self) -> int:
        return len(self.pairs)

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        pixels, mask = self._decoded(index)
        return np.divide(pixels, 255, dtype=np.float32), mask.copy()

    def _decoded(self, index):
        if self._cache is None:
            return _read_pair(*self.pairs[index])
        index = range(len(self))[index]              # one entry for -1 and the last
        if index not in self._cache:
            self._cache[index] = _read_pair(*self.pairs[index])
        return self._cache[index]


def _list_file(root, split):
    if not root.is_dir():
        raise FileNotFoundError(f"CamVid: there is no folder {root}; give the one that holds train.txt")
    path = root / f"{split}.txt"
    if path.parent == root and path.is_file():
        return path
    splits = sorted(found.stem for found in root.glob("*.txt"))
    if not splits:
        raise FileNotFoundError(f"CamVid: {root} holds no list such as train.txt; give the folder that does")
    raise ValueError(f"CamVid: there is no split {split!r}, for {path} does not exist; "
                     f"splits there: {', '.join(splits)}")


def _listed_pairs(root, list_file, faults):
    """The pairs (image path, mask path) that the list file names, their heads checked."""
    pairs = []
    for where, line in numbered_lines("CamVid", list_file):
        with faults.skipped_as(where):
            names = line.split()
            if len(names) != 2:
                raise ValueError(f"CamVid: {where}: {brief(repr(line))} has {len(names)} parts; "
                                 "a line names an image and its mask, with a space between")
            image, mask = (_resolved(root, name, where) for name in names)
            _check_files(image, mask, where)
            pairs.append((image, mask))
    if not pairs:
        raise ValueError(f"CamVid: {list_file} names no images that can be read; give a list with a line for each")
    return pairs


def _resolved(root, name, where):
    parts = PurePosixPath(name).parts
    if ".." in parts or "\\" in name or "\0" in name:
        raise ValueError(f"CamVid: {where}: {brief(repr(name))} holds '..', a backslash or a zero byte; "
                         f"name files inside {root}, with slashes")
    if len(parts) < 2 or parts[-2].startswith("/"):         # the root of an absolute path is / or //
        raise ValueError(f"CamVid: {where}: {brief(repr(name))} names no folder; "
                         "give folder/file, such as train/0001.png")
    return root.joinpath(*parts[-2:])


def _check_files(image, mask, where):
    """Both files are there and the head of the mask agrees with that of its image."""
    for path, kind in ((image, "image"), (mask, "mask")):
        if not os.path.isfile(path):                        # False for a name that is too long, too
            raise FileNotFoundError(f"CamVid: {where}: the {kind} {brief(str(path), 300)} is missing")
    _check_sizes(image, image_size(image), mask, image_size(mask))


def _read_pair(image, mask):
    pixels, labels = read_image(image), read_labels(mask)
    _check_sizes(image, pixels.shape[:2], mask, labels.shape)
    unknown = np.flatnonzero(np.bincount(labels.ravel(), minlength=256)[VOID + 1:]) + VOID + 1
    if unknown.size:
        raise ValueError(f"CamVid: {mask} holds the class {', '.join(map(str, unknown))}; "
                         f"classes are 0 ({CLASSES[0]}) to {VOID - 1} ({CLASSES[-1]}), and {VOID} is void")
    return pixels, labels


def _check_sizes(image, image_shape, mask, mask_shape):
    if tuple(image_shape) != tuple(mask_shape):
        raise ValueError(f"CamVid: {mask} has (h, w) = {tuple(mask_shape)}, but its image {image} has "
                         f"{tuple(image_shape)}; give the mask the size of its image")
