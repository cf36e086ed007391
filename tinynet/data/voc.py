"""VOC: photos with boxes around their objects, in Pascal VOC's XML files."""
from __future__ import annotations

import math
import re
from collections.abc import Sequence
from pathlib import Path, PureWindowsPath
from typing import NamedTuple
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

import numpy as np

from tinynet.data.files import Faults, brief, numbered_lines, open_regular
from tinynet.data.images import image_size, read_image
from tinynet.typing import Array, FilePath, OnError

SUFFIXES = (".jpg", ".jpeg", ".png", ".bmp", ".webp")
LARGEST = 4_000_000        # bytes of XML: some 10,000 objects
DEEPEST = 16               # elements within elements; VOC's own files have 5
NUMBER = re.compile(r"[-+]?([0-9]{1,30}\.?[0-9]{0,30}|\.[0-9]{1,30})([eE][-+]?[0-9]{1,3})?")
VAL_EVERY = 5              # without lists of images: of the sorted images, this one's multiples are "val"


class Annotated(NamedTuple):
    """An image with its objects: path, boxes float32 (n, 4), labels int64 (n)."""

    path: Path
    boxes: np.ndarray
    labels: np.ndarray


class VOC:
    """The images of one split with their objects, any number of them in each.

    `dataset[i]` is (image float32 (H, W, 3) in [0, 1], boxes float32 (n, 4), labels int64 (n)); n may be 0.
    With `single=True` only images with exactly one object count: (image, box float32 (4,), label int).

    `root` is the folder of the XML files with the images beside them, or one with the devkit's
    `Annotations/`, `JPEGImages/` and `ImageSets/Main/`; or a folder that holds just one of these (`fruit-voc`
    for `fruit-voc/train`). A split is a list in `ImageSets/Main/`; without such lists "val" is every 5th
    image in sorted order, from the first on, and "train" the others.

    The XML's `xmin ymin xmax ymax` count pixels from 1 and include both ends, so the box of fractions is
    ((xmin - 1) / W, (ymin - 1) / H, xmax / W, ymax / H), cut off at the border. W and H are those of the
    decoded image turned upright by its EXIF tag, which is how annotation tools show it: the XML's own `size`
    and `path` are often wrong and do not count. An image is found by the XML file's own name, else by its
    `filename`.

    classes: the names, sorted, of all objects of all splits; if given, objects of other names are left out.
    difficult: False leaves out the objects marked as difficult. cache=True keeps decoded images as uint8.
    on_error: "skip" leaves out the annotations (and images) that are refused when the dataset is made, with a
    warning for each; the others stay in their splits, and `skipped` is a dict of XML file to reason.

    Raises FileNotFoundError or ValueError with the file's name: when made, for missing folders, lists and
    images, XML that is broken, huge, too deep or declares entities, fields that are missing and boxes that
    make no sense; when read, for truncated images.

    M. Everingham et al., The Pascal Visual Object Classes (VOC) challenge, IJCV 88(2), 2010.
    """

    def __init__(self, root: FilePath, split: str = "train", single: bool = False, cache: bool = False,
                 classes: Sequence[str] | None = None, difficult: bool = True, on_error: OnError = "raise") -> None:
        self.root = _found_root(Path(root))
        devkit = _is_devkit(self.root)
        folder = self.root / "Annotations" if devkit else self.root
        files = {path.stem: path for path in sorted(folder.glob("*.xml"))}
        chosen = _chosen(self.root, split, files, folder)
        faults = Faults("VOC", on_error)
        trees, objects = {}, {}
        for stem in files if classes is None else dict.fromkeys(chosen):
            with faults.skipped_as(str(files[stem])):
                tree = _parsed(files[stem])
                trees[stem], objects[stem] = tree, _objects(files[stem], tree, difficult)
        if classes is None:
            classes = sorted({name for found in objects.values() for _, name, _ in found})
        if not classes:
            raise ValueError(f"VOC: the annotations in {folder} hold no objects; give a folder that has some")
        self.classes = tuple(classes)
        labels = {name: label for label, name in reversed(list(enumerate(classes)))}        # of equal names the first
        pictures = _Pictures(self.root / "JPEGImages" if devkit else self.root)
        annotated = []
        for stem in (stem for stem in chosen if stem in objects):
            with faults.skipped_as(str(files[stem])):
                picture = pictures.of(files[stem], trees[stem])
                annotated.append(_annotated(files[stem], picture, objects[stem], labels))
        self.skipped = faults.reasons
        self.items = [item for item in annotated if not single or len(item.labels) == 1]
        if not self.items:
            raise ValueError(f"VOC: the split {split!r} of {self.root} has {len(annotated)} images, none of "
                             "them with exactly one object; give another split, or single=False")
        self.single = single
        self._cache = {} if cache else None

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Array, Array, Array | int]:
        index = range(len(self))[index]              # one entry for -1 and the last
        _, boxes, labels = self.items[index]
        image = np.divide(self._decoded(index), 255, dtype=np.float32)
        if self.single:
            return image, boxes[0].copy(), int(labels[0])
        return image, boxes.copy(), labels.copy()

    def _decoded(self, index):
        if self._cache is None:
            return read_image(self.items[index].path)
        if index not in self._cache:
            self._cache[index] = read_image(self.items[index].path)
        return self._cache[index]


# Where things are


def _is_devkit(folder):
    return (folder / "Annotations").is_dir()


def _found_root(root):
    """The folder itself, or the only one in it that holds annotations."""
    if not root.is_dir():
        raise FileNotFoundError(f"VOC: there is no folder {root}; give the one that holds the XML files")

    def holds_annotations(folder):
        return _is_devkit(folder) or next(folder.glob("*.xml"), None) is not None

    if holds_annotations(root):
        return root
    inside = [folder for folder in sorted(root.iterdir()) if folder.is_dir() and holds_annotations(folder)]
    if len(inside) == 1:
        return inside[0]
    if inside:
        raise ValueError(f"VOC: {root} holds several folders with annotations, "
                         f"{', '.join(folder.name for folder in inside)}; give one of them")
    raise FileNotFoundError(f"VOC: {root} holds no XML files and no Annotations folder; give the folder "
                            "that does")


def _chosen(root, split, files, folder):
    """The stems of the split's files, sorted, or in the order of its list."""
    if not files:
        raise FileNotFoundError(f"VOC: {folder} holds no XML files; give the folder that does")
    lists = root / "ImageSets" / "Main"
    if lists.is_dir():
        return _listed(lists, split, files)
    if split not in ("train", "val"):
        raise ValueError(f"VOC: there is no split {split!r}; without {lists} the splits are train and val")
    stems = sorted(files)
    return [stem for i, stem in enumerate(stems) if (i % VAL_EVERY == 0) == (split == "val")]


def _listed(lists, split, files):
    """The stems that the split's list names, one a line; what may follow there (1, 0, -1) does not count."""
    path = lists / f"{split}.txt"
    if path.parent != lists or not path.is_file():
        splits = ", ".join(sorted(found.stem for found in lists.glob("*.txt")))
        raise ValueError(f"VOC: there is no split {split!r}, for {path} does not exist; splits there: "
                         f"{splits}")
    stems = [line.split()[0] for _, line in numbered_lines("VOC", path)]
    if not stems:
        raise ValueError(f"VOC: {path} names no images; give a list with a line for each image")
    for stem in stems:
        if stem not in files:
            raise FileNotFoundError(f"VOC: {path} names {brief(stem)}, but there is no such XML file among the "
                                    "annotations")
    return stems


class _Pictures:
    """The image files of a folder by their names."""

    def __init__(self, folder):
        self.folder = folder
        paths = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        self.by_name = {path.name: path for path in paths}
        self.by_stem = {path.stem: path for path in reversed(paths)}       # of several the first

    def of(self, annotation: Path, tree: Element) -> Path:
        """The image of an XML file: of the same stem, else the one that its `filename` names."""
        named = PureWindowsPath(_text(tree, "filename")).name              # splits at / and at \
        path = self.by_stem.get(annotation.stem) or self.by_name.get(named)
        if path is None:
            also = f" and no {brief(repr(named))}, which it names" if named else ""
            raise FileNotFoundError(f"VOC: the image of {annotation} is missing: {self.folder} holds no "
                                    f"{annotation.stem}.jpg (or {', '.join(SUFFIXES[1:])}){also}")
        return path


# What the files say


def _parsed(path):
    """The root element of an XML file; refuses what VOC files have no use for and attackers have.

    A document type is refused where it starts, so no entity is ever declared, let alone expanded or fetched.
    """
    def refuse(reason):
        raise ValueError(f"VOC: {path}: {reason}")

    def start(name, attributes):
        nonlocal depth
        depth += 1
        if depth > DEEPEST:
            refuse(f"its elements nest deeper than {DEEPEST}, which no VOC file needs")
        builder.start(name, attributes)

    def end(name):
        nonlocal depth
        depth -= 1
        builder.end(name)

    def refuse_doctype(*_):
        refuse("it declares a document type, through which entities could come in; remove the <!DOCTYPE ...>")

    depth, builder, parser = 0, TreeBuilder(), expat.ParserCreate()
    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = refuse_doctype
    with open_regular(path) as file:
        text = file.read(LARGEST + 1)
    if len(text) > LARGEST:
        refuse(f"it has more than {LARGEST:,} bytes, far beyond any VOC file")
    try:
        parser.Parse(text, True)
    except (expat.ExpatError, LookupError, ValueError) as error:       # ours, or an encoding that is unknown
        if str(error).startswith("VOC:"):
            raise
        raise ValueError(f"VOC: {path} cannot be read as XML: {error}") from None
    tree = builder.close()
    if tree.tag != "annotation":
        refuse(f"its root element is <{brief(tree.tag)}>, but VOC's is <annotation>")
    return tree


def _text(element, name):
    return (element.findtext(name) or "").strip()


def _objects(path, tree, difficult):
    """The objects of an XML file: [(number, name, (xmin, ymin, xmax, ymax))], numbers from 1."""
    objects = []
    for number, element in enumerate(tree.findall("object"), start=1):
        name = _text(element, "name")
        if not name:
            raise ValueError(f"VOC: {path}: object {number} has no name; give it one or remove it")
        corners = _corners(f"VOC: {path}: object {number} ({brief(name)})", element.find("bndbox"))
        if difficult or _text(element, "difficult") in ("", "0"):
            objects.append((number, name, corners))
    return objects


def _corners(where, element):
    if element is None:
        raise ValueError(f"{where} has no bndbox; give it one or remove the object")
    corners = []
    for side in ("xmin", "ymin", "xmax", "ymax"):
        text = _text(element, side)
        corners.append(float(text) if NUMBER.fullmatch(text) else math.nan)
        if not math.isfinite(corners[-1]):
            raise ValueError(f"{where}: {side} is {brief(repr(text))}, but must be a number of pixels")
    return tuple(corners)


def _annotated(path, picture, objects, classes):
    """The image with the objects of the classes (name to label), their boxes as fractions of it."""
    height, width = image_size(picture)
    boxes, labels = [], []
    for number, name, corners in objects:
        if name in classes:
            boxes.append(_fractions(f"VOC: {path}: object {number} ({brief(name)})", corners, width, height))
            labels.append(classes[name])
    return Annotated(picture, np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64))


def _fractions(where, corners, width, height):
    x_min, y_min, x_max, y_max = corners
    if x_max < x_min or y_max < y_min:
        raise ValueError(f"{where} has the box {_listed_numbers(corners)}, whose maximum lies below its "
                         "minimum; boxes are xmin, ymin, xmax, ymax")
    cut = (max(x_min - 1, 0), max(y_min - 1, 0), min(x_max, width), min(y_max, height))
    box = np.divide(cut, (width, height, width, height)).astype(np.float32)
    if not (box[2:] > box[:2]).all():
        raise ValueError(f"{where} has the box {_listed_numbers(corners)}, which lies outside its image of "
                         f"{width} x {height} pixels; correct or remove it")
    return box


def _listed_numbers(corners):
    return ", ".join(f"{corner:g}" for corner in corners)
