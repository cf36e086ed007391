"""Tiny ImageNet: photos of 64x64 pixels with one class and one box each, in the folder layout of CS231N."""
from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tinynet.data.files import brief, numbered_lines
from tinynet.data.images import read_image
from tinynet.typing import Array, FilePath

ENDINGS = (".jpeg", ".jpg")
LONGEST_WNID = 32
POSITION = re.compile("-?[0-9]{1,9}")       # of a pixel


class Entry(NamedTuple):
    """One photo: its file, its box in pixels as written, its class and the line that says so."""

    path: Path
    corners: tuple[int, ...]      # x1, y1, x2, y2: positions of pixels, both ends inside
    label: int
    where: str


class TinyImageNet:
    """The photos of one split: `dataset[i]` is (image float32 (H, W, 3) in [0, 1], box float32 (4,), label).

    `root` holds `wnids.txt` (WordNet's ids of the classes), `words.txt` (ids and names) and for each class
    `train/<wnid>/images/<wnid>_<k>.JPEG` and `train/<wnid>/<wnid>_boxes.txt` (lines of file, x1, y1, x2, y2);
    where there is `val/val_annotations.txt` (file, wnid, x1, y1, x2, y2), its photos in `val/images` are the
    split "val". Without it, "val" is the last tenth of each class by k, and "train" the rest.

    A label is the class's place among the sorted `wnids`; `classes` has the names, each the first of
    words.txt. The files' boxes name the first and the last pixel inside, so that the box in fractions is
    (x1 / W, y1 / H, (x2 + 1) / W, (y2 + 1) / H); what lies beyond the border is cut off. `cache=True` keeps
    decoded photos in memory as uint8 (12 kB each).

    Raises FileNotFoundError or ValueError with file and line: when made, for missing files and folders,
    lines that make no sense, unknown classes, photos without a box and boxes without a photo; when read,
    for broken files and boxes that lie outside their photo.

    Y. Le, X. Yang, "Tiny ImageNet visual recognition challenge", Stanford CS231N, 2015.
    """

    def __init__(self, root: FilePath, split: str = "train", cache: bool = False) -> None:
        self.root = Path(root)
        self.wnids = _listed_wnids(self.root)
        self.classes = _short_names(self.root / "words.txt", self.wnids)
        self.entries = _split_entries(self.root, self.wnids, split)
        self._cache = {} if cache else None

    def __len__(self) -> int:
        return len(self.entries)

    def __getitem__(self, index: int) -> tuple[Array, Array, int]:
        entry = self.entries[index]
        pixels = self._decoded(entry.path)
        return np.divide(pixels, 255, dtype=np.float32), _box(entry, pixels.shape[:2]), entry.label

    def _decoded(self, path):
        if self._cache is None:
            return read_image(path)
        if path not in self._cache:
            self._cache[path] = read_image(path)
        return self._cache[path]


def _listed_wnids(root):
    """The sorted ids of wnids.txt."""
    if not root.is_dir():
        raise FileNotFoundError(f"TinyImageNet: there is no folder {root}; give the one that holds wnids.txt")
    path = root / "wnids.txt"
    wnids = set()
    for where, line in numbered_lines("TinyImageNet", path):
        wnid = line.strip()
        if not (wnid.isalnum() and len(wnid) <= LONGEST_WNID):
            raise ValueError(f"TinyImageNet: {where}: {brief(repr(line))} is no WordNet id; a line holds one, "
                             "such as n01443537")
        if wnid in wnids:
            raise ValueError(f"TinyImageNet: {where}: {wnid} was there before; name each class once")
        wnids.add(wnid)
    if not wnids:
        raise ValueError(f"TinyImageNet: {path} names no classes; give a line with an id for each")
    return tuple(sorted(wnids))


def _short_names(path, wnids):
    """For each id its first name in words.txt, whose lines are id, tab, names with commas between."""
    names = {}
    for where, line in numbered_lines("TinyImageNet", path):
        wnid, tab, words = line.partition("\t")
        if not tab or not words.strip():
            raise ValueError(f"TinyImageNet: {where}: {brief(repr(line))} is not an id, a tab and names")
        names[wnid.strip()] = words.split(",")[0].strip()
    missing = [wnid for wnid in wnids if wnid not in names]
    if missing:
        raise ValueError(f"TinyImageNet: {path} has no name for {missing[0]}, which wnids.txt lists; "
                         "add a line with its id, a tab and its name")
    return tuple(names[wnid] for wnid in wnids)


def _split_entries(root, wnids, split):
    if split not in ("train", "val"):
        raise ValueError(f"TinyImageNet: there is no split {split!r}; there are train and val")
    labels = {wnid: label for label, wnid in enumerate(wnids)}
    official = root / "val" / "val_annotations.txt"
    if split == "val" and official.is_file():
        return _entries(official, root / "val" / "images", labels)
    entries = []
    for wnid in wnids:
        folder = root / "train" / wnid
        found = _entries(folder / f"{wnid}_boxes.txt", folder / "images", labels, wnid)
        # All begin with the same id, so the shorter name has the smaller number.
        found.sort(key=lambda entry: (len(entry.path.name), entry.path.name))
        if not official.is_file():
            held_out = -(-len(found) // 10)
            found = found[-held_out:] if split == "val" else found[:-held_out]
        entries += found
    if not entries:
        raise ValueError(f"TinyImageNet: {root} has no photos left for the split {split}; "
                         "give at least two of a class")
    return entries


def _entries(list_file, folder, labels, wnid=None):
    """The photos in `folder` by the lines of `list_file`, which name the class unless `wnid` is given."""
    files = _photos(folder)
    entries = {}
    for where, line in numbered_lines("TinyImageNet", list_file):
        name, label, corners = _parsed(line, where, labels, wnid)
        if name not in files:
            raise FileNotFoundError(f"TinyImageNet: {where}: there is no photo {brief(name)} in {folder}")
        if name in entries:
            raise ValueError(f"TinyImageNet: {where}: {name} was there before; give each photo one box")
        entries[name] = Entry(folder / name, corners, label, where)
    without = sorted(files - entries.keys())
    if without:
        raise ValueError(f"TinyImageNet: {list_file} has no line for the photo {folder / without[0]} "
                         f"({len(without)} without a box); add its line or remove the photo")
    return list(entries.values())


def _photos(folder):
    """The names of the JPEG files in a folder, of which there must be some."""
    if not folder.is_dir():
        raise FileNotFoundError(f"TinyImageNet: there is no folder {folder}")
    names = {path.name for path in folder.iterdir() if path.suffix.lower() in ENDINGS}
    if not names:
        raise FileNotFoundError(f"TinyImageNet: the folder {folder} holds no photos (*.JPEG)")
    return names


def _parsed(line, where, labels, wnid):
    """(file name, label, corners) of a line: file, x1, y1, x2, y2, with the class behind the file if need be."""
    parts = line.split()
    form = ["file", *(["wnid"] if wnid is None else []), "x1", "y1", "x2", "y2"]
    if len(parts) != len(form):
        raise ValueError(f"TinyImageNet: {where}: {brief(repr(line))} has {len(parts)} parts; "
                         f"a line has {len(form)}: {', '.join(form)}")
    if wnid is None:
        wnid = parts[1]
        if wnid not in labels:
            raise ValueError(f"TinyImageNet: {where}: the class {brief(wnid)} is not in wnids.txt")
    if not all(POSITION.fullmatch(part) for part in parts[-4:]):
        raise ValueError(f"TinyImageNet: {where}: {brief(repr(line))} should end in four whole numbers of at most "
                         "9 digits, x1, y1, x2, y2")
    x1, y1, x2, y2 = corners = tuple(int(part) for part in parts[-4:])
    if x2 < x1 or y2 < y1:
        raise ValueError(f"TinyImageNet: {where}: the box {corners} ends before it begins; "
                         "give x1, y1, x2, y2, not a width and a height")
    return parts[0], labels[wnid], corners


def _box(entry, size):
    """The box in fractions of a photo of `size` (h, w)."""
    height, width = size
    x1, y1, x2, y2 = entry.corners
    if x2 < 0 or y2 < 0 or x1 >= width or y1 >= height:
        raise ValueError(f"TinyImageNet: {entry.where}: the box {entry.corners} lies outside its photo "
                         f"{entry.path}, which is {width} pixels wide and {height} high")
    box = np.divide((x1, y1, x2 + 1, y2 + 1), (width, height, width, height))
    return np.clip(box, 0, 1).astype(np.float32)
