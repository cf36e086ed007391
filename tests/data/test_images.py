"""Image files that are broken, lie or are huge: each is refused by a sentence with the file and the reason."""
import os
import struct
import zlib

import numpy as np
import pytest

from tinynet.data import VOC
from tinynet.data.images import MOST_PIXELS, image_size, read_image, read_labels

Image = pytest.importorskip("PIL.Image")

KINDS = ("PNG", "JPEG", "BMP", "GIF", "WEBP")


def png(width, height, data=b"", color_type=2):
    """A PNG file of 8 bits a channel whose head says what it is told."""
    def chunk(name, content):
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))

    head = struct.pack(">IIBBBBB", width, height, 8, color_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(data)) + chunk(b"IEND", b"")


def bmp(width, height):
    return struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54) + struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24,
                                                                      0, 0, 0, 0, 0, 0)


def gif(width, height):
    return b"GIF89a" + struct.pack("<HHBBB", width, height, 0, 0, 0) + b";"


def refused(path, content, reason, readers=(image_size, read_image, read_labels)):
    path.write_bytes(content)
    for reader in readers:
        with pytest.raises(ValueError, match=reason) as caught:
            reader(path)
        assert str(path) in str(caught.value) and len(str(caught.value)) < 600


def saved(path, kind, size=(64, 48)):
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], 3), np.uint8)).save(path, kind)
    return path.read_bytes()


def test_the_packers_of_hostile_images_can_pack_sound_ones(tmp_path):
    (tmp_path / "x.jpg").write_bytes(png(3, 2, (b"\0" + bytes(9)) * 2))
    assert read_image(tmp_path / "x.jpg").shape == (2, 3, 3)
    (tmp_path / "x.jpg").write_bytes(bmp(1, 1) + bytes(4))
    assert read_image(tmp_path / "x.jpg").shape == (1, 1, 3)


@pytest.mark.parametrize("kind", KINDS)
def test_all_the_kinds_there_are_whatever_the_name_says(kind, tmp_path):
    saved(tmp_path / "x.jpg", kind)
    assert read_image(tmp_path / "x.jpg").shape == (48, 64, 3) and image_size(tmp_path / "x.jpg") == (48, 64)


@pytest.mark.parametrize("kind", KINDS)
def test_truncated_at_any_place(kind, tmp_path):
    """Cut short, an image is refused; only where all but an end mark is there may it be read."""
    path = tmp_path / "x.jpg"
    whole = saved(path, kind)
    expected = read_image(path)
    for size in {*range(0, len(whole) - 32, max(len(whole) // 60, 1)), *range(40)}:
        refused(path, whole[:size], "cannot be read as an image", [read_image])
    for size in range(len(whole) - 32, len(whole)):
        path.write_bytes(whole[:size])
        try:
            assert np.array_equal(read_image(path), expected)
        except ValueError as error:
            assert f"{path}: cannot be read as an image: " in str(error)


@pytest.mark.parametrize("content", [
    png(0, 5), png(5, 0), bmp(0, 5), bmp(5, 0), gif(0, 5), gif(5, 0), png(0, 0),
], ids=["png 0x5", "png 5x0", "bmp 0x5", "bmp 5x0", "gif 0x5", "gif 5x0", "png 0x0"])
def test_without_a_pixel(content, tmp_path):
    refused(tmp_path / "x.png", content, "x.png: cannot be read as an image")


@pytest.mark.parametrize("width, height", [
    (2**13 + 1, 2**13), (20_000, 20_000), (2**31 - 1, 2**31 - 1), (1, MOST_PIXELS + 1),
])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_decompression_bombs(width, height, tmp_path, monkeypatch):
    """Nothing is unpacked: 1 MB of zeros stands here for what would be gigabytes."""
    def unpack(image):
        raise AssertionError("it was unpacked")

    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", unpack)
    content = png(width, height, bytes(1_000_000))
    assert len(content) < 2000
    refused(tmp_path / "x.png", content, "read as an image: .*(at most 67,108,864 are read|exceeds limit)")


@pytest.mark.parametrize("content", [
    b"", b"not a picture", b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", b"<svg xmlns='http://www.w3.org/2000/svg'/>",
    b"\x93NUMPY\x01\x00", b"P6 2 2 255\n" + bytes(12), b"II*\0\x08\0\0\0", b"8BPS\0\x01", b"\0\0\x01\0",
], ids=["nothing", "text", "EPS", "SVG", "NumPy", "PPM", "TIFF", "PSD", "ICO"])
def test_of_another_kind(content, tmp_path):
    refused(tmp_path / "x.png", content, "x.png: cannot be read as an image: it is none of JPEG, PNG, BMP, GIF, WEBP")


def test_what_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.png"):
        read_image(tmp_path / "absent.png")
    os.mkfifo(tmp_path / "pipe.png")            # from which one would wait for ever
    os.mkdir(tmp_path / "folder.png")
    for name in ("pipe.png", "folder.png"):
        with pytest.raises(ValueError, match=f"{name} is no regular file"):
            read_image(tmp_path / name)
    os.mkfifo(tmp_path / "x.xml")
    with pytest.raises(ValueError, match="x.xml is no regular file"):
        VOC(tmp_path, "val")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", KINDS)
def test_any_changed_byte_is_refused_or_read(kind, tmp_path):
    path = tmp_path / "x.png"
    whole = saved(path, kind, (6, 5))
    for place in range(0, len(whole), max(len(whole) // 300, 1)):
        for byte in (0, 255):
            path.write_bytes(whole[:place] + bytes([byte]) + whole[place + 1:])
            try:
                assert read_image(path).ndim == 3
            except ValueError as error:
                assert f"{path}: cannot be read as an image: " in str(error)
