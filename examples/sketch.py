"""Small pictures drawn fast, pixel by pixel with Pillow: what a model makes of a few images, once an epoch."""

import io

import numpy as np

from tinynet.safetensors import write_atomically

LARGEST = 256  # pixels across, of an image in a strip; larger ones are thinned out
GAP = 4
DARK, WHITE, GREY = "#1c2733", "#ffffff", "#51606f"
RIGHT, WRONG = "#1e7b45", "#b3402a"  # behind white text
TRUE, FOUND = "#19e04a", "#ff8c00"  # of boxes
BOXES = {"shown": "boxes, and below how likely the likeliest classes are, the true one in green",
         "legend": [("true box", TRUE), ("found box", FOUND)]}  # what with_boxes draws, for a Record


def save_strip(path, images, columns=None):
    """Write images of one size, (H, W, 1 or 3) in [0, 1] or as uint8, side by side as WebP; nothing between them.

    Of exact and nearly exact it takes the smaller: flat colours stay exact, and photos take a few kilobytes.
    """
    from PIL import Image

    images = np.stack([pixels(image) for image in images])
    step = -(-images.shape[2] // LARGEST)
    images = images[:, ::step, ::step]
    n, height, width, _ = images.shape
    columns = min(columns or n, n)
    rows = -(-n // columns)
    sheet = np.zeros((rows * (height + GAP) - GAP, columns * (width + GAP) - GAP, 4), np.uint8)  # transparent
    for i, image in enumerate(images):
        top, left = i // columns * (height + GAP), i % columns * (width + GAP)
        sheet[top:top + height, left:left + width, :3] = image
        sheet[top:top + height, left:left + width, 3] = 255
    files = [io.BytesIO(), io.BytesIO()]
    Image.fromarray(sheet).save(files[0], "WEBP", lossless=True, quality=20, method=1)
    Image.fromarray(sheet).save(files[1], "WEBP", quality=90, method=2)
    write_atomically(path, [min((file.getvalue() for file in files), key=len)])


def pixels(image):
    """The image as uint8 in three colours."""
    if image.dtype != np.uint8:
        image = np.rint(np.clip(np.nan_to_num(image), 0, 1) * 255).astype(np.uint8)
    return np.repeat(image, 3, axis=-1) if image.shape[-1] == 1 else image


def enlarged(image, times):
    return pixels(image).repeat(times, axis=0).repeat(times, axis=1)


def filters(weight, tap=12):
    """A convolution's weight (KH, KW, C, O) as O pictures, a square of `tap` pixels for each number; grey is 0.

    Of three channels each is a colour; of any other number the picture is their mean. Each filter is shown as
    strong as it can be.
    """
    if weight.shape[2] != 3:
        weight = weight.mean(2, keepdims=True)
    weight = weight / np.maximum(np.abs(weight).max((0, 1, 2)), 1e-12)
    return [enlarged(0.5 + one / 2, tap) for one in np.moveaxis(weight, -1, 0)]


def boxed(image, boxes, width=192):
    """The image enlarged to about `width`, with boxes: (corners in fractions, colour, line in pixels, label or "")."""
    from PIL import Image, ImageDraw

    picture = Image.fromarray(enlarged(image, max(1, width // image.shape[1])))
    draw = ImageDraw.Draw(picture)
    for corners, colour, line, label in boxes:
        x0, y0, x1, y1 = np.rint(np.clip(corners, 0, 1) * (picture.size * 2)).astype(int).tolist()
        x1, y1 = max(x0 + 1, x1 - 1), max(y0 + 1, y1 - 1)  # the last pixel that belongs to it
        draw.rectangle((x0, y0, x1, y1), outline=colour, width=line)
        if label:
            place = draw.textbbox((x0, y0 if y0 < 12 else y0 - 12), label, font_size=10)
            draw.rectangle((place[0] - 1, place[1] - 1, place[2] + 1, place[3] + 1), fill=colour)
            draw.text((x0, y0 if y0 < 12 else y0 - 12), label, fill="black", font_size=10)
    return np.asarray(picture)


def with_answers(picture, classes, probabilities, label, most=3, line=15):
    """The picture, below it the likeliest classes, each on a bar as long as it is likely; the true one is green."""
    from PIL import Image, ImageDraw

    height, width = picture.shape[:2]
    card = Image.new("RGB", (width, height + line * most), DARK)
    card.paste(Image.fromarray(picture))
    draw = ImageDraw.Draw(card)
    for i, k in enumerate(np.argsort(-probabilities, kind="stable")[:most]):
        top = height + i * line
        colour = RIGHT if k == label else WRONG if i == 0 else GREY
        draw.rectangle((0, top + 1, probabilities[k] * (width - 1), top + line - 1), fill=colour)
        draw.text((3, top + 1), f"{classes[k]} {probabilities[k]:.0%}", fill=WHITE, font_size=11)
    return np.asarray(card)


def with_boxes(samples, classes, boxes, probabilities):
    """Of samples (image, true box, label): each with the true box, the one found, and the likeliest classes."""
    return [with_answers(boxed(image, [(true_box, TRUE, 5, ""), (box, FOUND, 2, "")]), classes, likely, label)
            for (image, true_box, label), box, likely in zip(samples, boxes, probabilities, strict=True)]
