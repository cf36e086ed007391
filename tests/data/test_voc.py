"""VOC: both layouts, the quirks of real files, and a sentence for every way in which they can be broken."""
import time
from pathlib import Path

import numpy as np
import pytest

from tinynet.data import VOC

Image = pytest.importorskip("PIL.Image")

REAL = Path(__file__).parents[3] / "shared" / "data" / "fruit-voc"
NAMES = "abcdefg"


def an_object(name="apple", box=(1, 1, 4, 3), extra=""):
    sides = "".join(f"<{side}>{v}</{side}>" for side, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return f"<object><name>{name}</name>{extra}<bndbox>{sides}</bndbox></object>"


def annotation(*objects, filename="wrong.jpg", size=(0, 0)):
    return (f"<?xml version='1.0' encoding='utf-8'?>\n<annotation><filename>{filename}</filename>"
            f"<path>C:\\elsewhere\\{filename}</path><size><width>{size[0]}</width><height>{size[1]}</height></size>"
            f"{''.join(objects)}</annotation>")


def an_image(path, size=(8, 6), mode="RGB", color=100, **options):
    Image.new(mode, size, color).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Seven images of 8x6 pixels with their XML beside them: image i has i % 3 objects."""
    for i, name in enumerate(NAMES):
        an_image(tmp_path / f"{name}.jpg", color=(30 * i, 0, 0))
        objects = [an_object(("apple", "pear")[k], (1 + k, 1, 4, 3)) for k in range(i % 3)]
        (tmp_path / f"{name}.xml").write_text(annotation(*objects))
    return tmp_path


def one(tmp_path, *objects, text=None, **options):
    """The dataset of one annotation with one image of 8x6 pixels beside it."""
    if not (tmp_path / "x.jpg").exists():
        an_image(tmp_path / "x.jpg")
    (tmp_path / "x.xml").write_text(text or annotation(*objects))
    return VOC(tmp_path, "val", **options)


def test_reads_images_boxes_and_labels(folder):
    dataset = VOC(folder)
    assert dataset.classes == ("apple", "pear")
    image, boxes, labels = dataset[1]       # c
    assert image.dtype == np.float32 and image.shape == (6, 8, 3)
    assert boxes.dtype == np.float32 and labels.dtype == np.int64
    np.testing.assert_allclose(boxes, [[0, 0, 4 / 8, 3 / 6], [1 / 8, 0, 4 / 8, 3 / 6]])
    assert labels.tolist() == [0, 1]
    with pytest.raises(IndexError):
        dataset[5]


def test_images_without_objects_stay(folder):
    _, boxes, labels = VOC(folder, "val")[0]        # a
    assert boxes.shape == (0, 4) and labels.shape == (0,) and labels.dtype == np.int64


def test_every_fifth_image_is_held_back(folder):
    val, train = ([item.path.stem for item in VOC(folder, split).items] for split in ("val", "train"))
    assert val == ["a", "f"] and train == ["b", "c", "d", "e", "g"]


def test_single_keeps_images_with_one_object(folder):
    dataset = VOC(folder, single=True)
    assert [item.path.stem for item in dataset.items] == ["b", "e"]
    image, box, label = dataset[0]
    assert box.shape == (4,) and box.dtype == np.float32 and label == 0 and isinstance(label, int)


@pytest.mark.parametrize("cache", [False, True])
def test_what_it_gives_is_the_callers_own(folder, cache):
    dataset = VOC(folder, cache=cache)
    for part in dataset[-1]:
        part[...] = 0
    image, boxes, _ = VOC(folder, cache=True)[4]
    again = dataset[4]
    np.testing.assert_array_equal(again[0], image)
    np.testing.assert_array_equal(again[1], boxes)


def test_a_split_without_images(tmp_path):
    one(tmp_path, an_object())
    with pytest.raises(ValueError, match="the split 'train' of .* has 0 images"):
        VOC(tmp_path)


def test_given_classes_leave_the_others_out(folder):
    dataset = VOC(folder, classes=["pear"])
    assert [dataset[i][2].tolist() for i in range(5)] == [[], [0], [], [], []]
    with pytest.raises(ValueError, match="the split 'val' of .* has 2 images, none of them with exactly one object"):
        VOC(folder, "val", classes=["plum"], single=True)


def test_the_devkits_layout(tmp_path):
    root = tmp_path / "VOCdevkit" / "VOC2012"
    for part in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / part).mkdir(parents=True)
    for name in "pqr":
        an_image(root / "JPEGImages" / f"{name}.jpg")
        (root / "Annotations" / f"{name}.xml").write_text(annotation(an_object(f"class of {name}")))
    (root / "ImageSets/Main/train.txt").write_text("r  1\np -1\n\n")
    for given in (root, root.parent):
        dataset = VOC(given)
        assert [item.path.stem for item in dataset.items] == ["r", "p"]
        assert dataset.classes == ("class of p", "class of q", "class of r")      # of all splits
    for split in ("val", "../Main/train", ""):
        with pytest.raises(ValueError, match="there is no split .* splits there: train"):
            VOC(root, split)
    (root / "ImageSets/Main/val.txt").write_text("../p\n")
    with pytest.raises(FileNotFoundError, match=r"val.txt names \.\./p, but there is no"):
        VOC(root, "val")
    (root / "ImageSets/Main/val.txt").write_text("\n")
    with pytest.raises(ValueError, match="val.txt names no images"):
        VOC(root, "val")


def test_the_folder_may_be_given_by_its_parent(folder, tmp_path_factory):
    parent = tmp_path_factory.mktemp("parent")
    folder.rename(parent / "train")
    assert len(VOC(parent)) == 5
    (parent / "more").mkdir()
    (parent / "more" / "x.xml").write_text(annotation())
    with pytest.raises(ValueError, match="several folders with annotations, more, train; give one"):
        VOC(parent)


# Quirks


def test_the_decoded_images_size_counts(tmp_path):
    for size in ((0, 0), (4000, 3000)):
        dataset = one(tmp_path, text=annotation(an_object(), size=size))
        np.testing.assert_allclose(dataset[0][1], [[0, 0, 0.5, 0.5]])


@pytest.mark.parametrize("mode, color, saved_as", [
    ("L", 100, "JPEG"), ("P", 1, "PNG"), ("RGBA", (9, 9, 9, 128), "PNG"), ("CMYK", (1, 2, 3, 4), "JPEG"),
])
def test_any_kind_of_image_in_jpg(tmp_path, mode, color, saved_as):
    an_image(tmp_path / "x.jpg", mode=mode, color=color, format=saved_as)
    assert one(tmp_path, an_object())[0][0].shape == (6, 8, 3)


def test_boxes_are_those_of_the_upright_picture(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    an_image(tmp_path / "x.jpg", (6, 8), exif=exif)      # upright 8 wide, 6 high
    image, boxes, _ = one(tmp_path, an_object(box=(1, 1, 8, 3)))[0]
    assert image.shape == (6, 8, 3)
    np.testing.assert_allclose(boxes, [[0, 0, 1, 0.5]])


@pytest.mark.parametrize("box, expected", [
    ((-3, 0, 99, 3), (0, 0, 1, 0.5)), ((8, 6, 8, 6), (7 / 8, 5 / 6, 1, 1)), ((1, 1, 1, 1), (0, 0, 1 / 8, 1 / 6)),
    (("2.5", " 1\n", "4e0", 3), (1.5 / 8, 0, 0.5, 0.5)),
])
def test_boxes_are_cut_off_at_the_border(tmp_path, box, expected):
    np.testing.assert_allclose(one(tmp_path, an_object(box=box))[0][1], [expected], rtol=1e-6)


def test_an_image_is_found_by_the_stem_else_by_the_filename(tmp_path):
    an_image(tmp_path / "y.JPG", (4, 4))
    (tmp_path / "x.xml").write_text(annotation(an_object(box=(1, 1, 2, 2)), filename="C:\\photos\\y.JPG"))
    assert VOC(tmp_path, "val").items[0].path.name == "y.JPG"
    an_image(tmp_path / "x.png")
    assert VOC(tmp_path, "val").items[0].path.name == "x.png"


def test_parts_of_objects_are_no_objects(tmp_path):
    dataset = one(tmp_path, an_object("person", extra="<part><name>head</name><bndbox/></part>"))
    assert dataset.classes == ("person",) and len(dataset[0][2]) == 1


def test_difficult_objects_can_be_left_out(tmp_path):
    objects = an_object(extra="<difficult>1</difficult>"), an_object("pear", extra="<difficult>0</difficult>")
    assert one(tmp_path, *objects)[0][2].tolist() == [0, 1]
    assert one(tmp_path, *objects, difficult=False, single=True).classes == ("pear",)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "latin-1"])
def test_names_in_any_encoding(tmp_path, encoding):
    text = annotation(an_object("Äpfel")).replace("utf-8", encoding.replace("-sig", ""))
    an_image(tmp_path / "x.jpg")
    (tmp_path / "x.xml").write_bytes(text.encode(encoding))
    assert VOC(tmp_path, "val").classes == ("Äpfel",)


# What is refused


@pytest.mark.parametrize("objects, sentence", [
    ("<object><bndbox/></object>", "object 1 has no name"),
    (an_object() + "<object><name>fig</name></object>", r"object 2 \(fig\) has no bndbox"),
    ("<object><name>fig</name><bndbox><xmin>1</xmin></bndbox></object>", "ymin is '', but must be a number"),
    (an_object(box=(1, 1, "wide", 3)), r"object 1 \(apple\): xmax is 'wide', but must be a number"),
    (an_object(box=(1, "nan", 4, 3)), "ymin is 'nan'"),
    (an_object(box=(1, 1, "inf", 3)), "xmax is 'inf'"),
    (an_object(box=(1, "1e400", 4, 3)), "ymin is '1e400'"),
    (an_object(box=(1, "1_0", 4, 3)), "ymin is '1_0'"),
    (an_object(box=(1, "1.2.3", 4, 3)), "ymin is '1.2.3'"),
    (an_object(box=(1, "9" * 1_000_000, 4, 3)), r"ymin is '9{76}\.\.\., but must be a number"),
    (an_object(box=(1, 1, "x" * 1_000_000, 3)), r"xmax is 'x{76}\.\.\., but must be a number"),
    (an_object("n" * 1_000_000, box=(5, 1, 4, 3)), r"object 1 \(n{77}\.\.\.\) has the box 5, 1, 4, 3, whose max"),
    (an_object(box=(0, 0, "1e-300", 3)), "which lies outside its image"),
    (an_object(box=(1, 5, 4, 3)), "the box 1, 5, 4, 3, whose maximum lies below its minimum"),
    (an_object(box=(5, 1, 4, 3)), "the box 5, 1, 4, 3, whose maximum lies below its minimum"),
    (an_object(box=(9, 1, 12, 3)), "the box 9, 1, 12, 3, which lies outside its image of 8 x 6 pixels"),
    (an_object(box=(1, -5, 3, 0)), "lies outside its image"),
    ("", "hold no objects"),
])
def test_annotations_that_make_no_sense(tmp_path, objects, sentence):
    with pytest.raises(ValueError, match=f"VOC: .*{sentence}") as error:
        one(tmp_path, objects)
    assert str(tmp_path / "x.xml") in str(error.value) or objects == ""
    assert len(str(error.value)) < 600


def test_bad_files_can_be_left_out(folder):
    (folder / "c.xml").write_text("<annotation>")
    (folder / "e.jpg").write_text("no picture")
    (folder / "f.xml").write_text(annotation(an_object(box=(5, 1, 4, 3))))
    with pytest.warns(UserWarning) as warned:
        train, val = (VOC(folder, split, on_error="skip") for split in ("train", "val"))
    assert [item.path.stem for item in train.items] == ["b", "d", "g"]     # the splits are what they were
    assert [item.path.stem for item in val.items] == ["a"]
    broken, no_image, inside_out = (str(folder / f"{name}.xml") for name in "cef")
    assert list(train.skipped) == [broken, no_image] and list(val.skipped) == [broken, inside_out]
    assert "c.xml cannot be read as XML: no element found" in train.skipped[broken]
    assert "e.jpg: cannot be read as an image" in train.skipped[no_image]
    assert "the box 5, 1, 4, 3, whose maximum lies below its minimum" in val.skipped[inside_out]
    assert len(warned) == len(train.skipped) + len(val.skipped)
    with pytest.raises(ValueError, match="c.xml cannot be read as XML"):
        VOC(folder)


@pytest.mark.parametrize("make", [
    lambda n: annotation(*(an_object(f"n{i}") for i in range(n))),
    lambda n: "<annotation " + " ".join(f"a{i}='b'" for i in range(n)) + "/>",
    lambda n: "<annotation>" + "<a/>" * n + "</annotation>",
    lambda n: "<annotation>" + "<object><name>n</name>" + "&lt;" * n + "</object></annotation>",
    lambda n: "<annotation>" + "".join(f"<n{i}:a xmlns:n{i}='b'/>" for i in range(n)) + "</annotation>",
], ids=["objects", "attributes", "elements", "references", "namespaces"])
def test_large_annotations_take_time_in_proportion(tmp_path, make):
    """4 MB at the most, so a second or two; what is quadratic in one of these would take minutes."""
    text = make(20_000)
    began = time.process_time()
    try:
        one(tmp_path, text=text)
    except ValueError as error:
        assert "VOC: " in str(error)
    assert time.process_time() - began < 3


BOMB = "<!DOCTYPE x [<!ENTITY a 'ha'><!ENTITY b '&a;&a;&a;&a;'>]><annotation>&b;</annotation>"
FETCH = "<!DOCTYPE x [<!ENTITY a SYSTEM 'file:///etc/passwd'>]><annotation><filename>&a;</filename></annotation>"


@pytest.mark.parametrize("text, sentence", [
    (BOMB, "declares a document type"), (FETCH, "declares a document type"),
    ("<!DOCTYPE x SYSTEM 'http://elsewhere/x.dtd'><annotation/>", "declares a document type"),
    ("<annotation>&a;</annotation>", "cannot be read as XML: undefined entity"),
    ("<annotation>" + "<a>" * 20 + "</a>" * 20 + "</annotation>", "nest deeper than 16"),
    ("<annotation>" + " " * 4_000_000 + "</annotation>", "more than 4,000,000 bytes"),
    ("<annotation><object>", "cannot be read as XML: no element found"),
    (" ", "cannot be read as XML"), ("\0\0", "cannot be read as XML"),
    ("<?xml version='1.0' encoding='klingon'?><annotation/>", "cannot be read as XML: unknown encoding"),
    ("<html/>", "its root element is <html>"),
])
def test_xml_that_is_refused(tmp_path, text, sentence):
    with pytest.raises(ValueError, match=f"VOC: .*x.xml.*{sentence}"):
        one(tmp_path, text=text)


def test_missing_places(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*nowhere"):
        VOC(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="holds no XML files and no Annotations folder"):
        VOC(tmp_path)
    (tmp_path / "x.xml").write_text(annotation(an_object(), filename="y.jpg"))
    with pytest.raises(FileNotFoundError, match=r"image of .*x.xml is missing: .* no x.jpg \(or .*\) and no 'y.jpg'"):
        VOC(tmp_path, "val")
    (tmp_path / "x.jpg").write_text("no picture")
    with pytest.raises(ValueError, match="x.jpg: cannot be read as an image"):
        VOC(tmp_path, "val")
    with pytest.raises(ValueError, match="there is no split 'test'; .* train and val"):
        VOC(tmp_path, "test")


@pytest.mark.skipif(not REAL.is_dir(), reason="the fruit photos are not there")
def test_the_real_pictures():
    train, val = VOC(REAL), VOC(REAL / "train", "val")
    assert train.classes == val.classes == ("apple", "banana", "orange")
    assert (len(train), len(val)) == (192, 48)
    assert len(VOC(REAL, single=True)) + len(VOC(REAL, "val", single=True)) == 140
    counts = sum(np.bincount(item.labels, minlength=3) for item in train.items + val.items)
    assert counts.tolist() == [156, 169, 140]
    for item in val.items:
        assert (item.boxes >= 0).all() and (item.boxes <= 1).all() and (item.boxes[:, 2:] > item.boxes[:, :2]).all()
    image, box, label = VOC(REAL, single=True)[0]
    assert image.ndim == 3 and box.shape == (4,) and train.classes[label] == "apple"
