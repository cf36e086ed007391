"""Reads image files into arrays with Pillow, asked for only here; says which file is broken and why."""
from __future__ import annotations

from pathlib import Path

import numpy as np

from tinynet.data.files import brief, open_regular
from tinynet.typing import Array, FilePath

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP")     # others stay shut: Pillow would run Ghostscript for EPS
MOST_PIXELS = 2**26       # 67 million; 0.2 GB as bytes, 0.8 GB as float32
ORIENTATION = 0x0112      # the EXIF tag that says how the camera was held
TURNED = (5, 6, 7, 8)     # its values for which width and height change places


def read_image(path: FilePath) -> Array:
    """The picture as uint8 (H, W, 3): always RGB, transparent parts white, turned upright by its EXIF tag.

    The content tells the format, not the name. Raises FileNotFoundError, and ValueError for a file that is no
    JPEG, PNG, BMP, GIF or WebP, is truncated, has no pixel, more than 2**26 of them (a small file can claim
    billions, and would unpack to as many bytes) or more than 8 bits a channel.
    """
    from_pillow, operations = _pillow()

    def decode(image):
        _refuse_deep(image)
        image = operations.exif_transpose(image)
        if "A" in image.getbands() or "transparency" in image.info:
            image = image.convert("RGBA")
            white = from_pillow.new("RGBA", image.size, "white")
            image = from_pillow.alpha_composite(white, image)
        return np.array(image.convert("RGB"))

    return _opened(path, decode)


def read_labels(path: FilePath) -> Array:
    """The label map as uint8 (H, W), the pixel values as stored: of a palette image the palette's indices.

    Raises as `read_image`, and ValueError where there is not one 8-bit channel.
    """
    def decode(image):
        if image.mode not in ("L", "P"):
            raise ValueError(f"its mode is {image.mode}, but a label map has one 8-bit channel (mode L or P)")
        return np.array(image)

    return _opened(path, decode)


def image_size(path: FilePath) -> tuple[int, int]:
    """(height, width) of the picture as read_image would give it; reads the file's head only."""
    def measure(image):
        # Of a PNG without the tag, getexif would decode the whole picture in search of it.
        turned = "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED
        return image.size if turned else image.size[::-1]

    return _opened(path, measure)


def _opened(path, use):
    pillow, _ = _pillow()
    with open_regular(Path(path)) as file:
        try:
            with pillow.open(file, formats=FORMATS) as image:
                _check_size(*image.size)
                return use(image)
        except pillow.UnidentifiedImageError as error:
            raise ValueError(f"{path}: cannot be read as an image: it is none of {', '.join(FORMATS)}") from error
        except Exception as error:      # on broken bytes Pillow raises nearly any type, SyntaxError included
            raise ValueError(f"{path}: cannot be read as an image: {brief(str(error), 300)}") from error


def _check_size(width, height):
    """What the head says, before any pixel is unpacked."""
    if width < 1 or height < 1:
        raise ValueError(f"it is {width} pixels wide and {height} high, which makes none")
    if width * height > MOST_PIXELS:
        raise ValueError(f"it is {width:,} pixels wide and {height:,} high; at most {MOST_PIXELS:,} are read")


def _refuse_deep(image):
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its mode is {image.mode}, more than 8 bits a channel; save it with 8 bits")


def _pillow():
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading image files needs Pillow; run: pip install 'tinynet[examples]'") from error
    return Image, ImageOps
