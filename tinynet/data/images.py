"""Reads image files into arrays with Pillow, asked for only here; says which file is broken and why."""
import numpy as np

ORIENTATION = 0x0112      # the EXIF tag that says how the camera was held
TURNED = (5, 6, 7, 8)     # its values for which width and height change places


def read_image(path):
    """The picture as uint8 (H, W, 3): always RGB, transparent parts white, turned upright by its EXIF tag.

    Raises FileNotFoundError, and ValueError for a file that is no image, is truncated or has more than 8
    bits a channel.
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


def read_labels(path):
    """The label map as uint8 (H, W), the pixel values as stored: of a palette image the palette's indices.

    Raises FileNotFoundError, and ValueError for a file that is no image, is truncated or has not one 8-bit
    channel.
    """
    def decode(image):
        if image.mode not in ("L", "P"):
            raise ValueError(f"its mode is {image.mode}, but a label map has one 8-bit channel (mode L or P)")
        return np.array(image)

    return _opened(path, decode)


def image_size(path):
    """(height, width) of the picture as read_image would give it; reads the file's head only."""
    def measure(image):
        # Of a PNG without the tag, getexif would decode the whole picture in search of it.
        turned = "exif" in image.info and image.getexif().get(ORIENTATION) in TURNED
        return image.size if turned else image.size[::-1]

    return _opened(path, measure)


def _opened(path, use):
    pillow, _ = _pillow()
    with open(path, "rb") as file:
        try:
            with pillow.open(file) as image:
                return use(image)
        except Exception as error:      # on broken bytes Pillow raises nearly any type, SyntaxError included
            raise ValueError(f"{path}: cannot be read as an image: {error}") from error


def _refuse_deep(image):
    if image.mode.startswith(("I", "F")):
        raise ValueError(f"its mode is {image.mode}, more than 8 bits a channel; save it with 8 bits")


def _pillow():
    try:
        from PIL import Image, ImageOps
    except ImportError as error:
        raise ImportError("reading image files needs Pillow; run: pip install 'tinynet[examples]'") from error
    return Image, ImageOps
