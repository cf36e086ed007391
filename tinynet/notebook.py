"""What notebooks show of tensors and modules: HTML in the page's own colours, light or dark.

It knows tensors and modules only by what they carry; the classes, whose `_repr_html_` this is, stand above.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

import numpy as np

from tinynet.typing import Array, Shape

MOST_ROWS, MOST_COLUMNS = 10, 10  # of a table of values; of more the first and the last are shown
MOST_IMAGES = 4
SMALLEST_IMAGE, LARGEST_IMAGE = 8, 1024  # sides in pixels of what is taken for images


def tensor_html(tensor: Any) -> str:
    """A tensor's class, shape, dtype, its part in the graph and its range; then its values, or its images."""
    array = tensor.array
    facts = [times(array.shape), str(array.dtype)]
    if tensor.op is not None:
        facts.append(f"made by {type(tensor.op).__name__}")
    elif tensor.requires_grad:
        facts.append("needs a gradient" + ("" if tensor.grad is None else ", has one"))
    facts += _range(array)
    head = f"<div><b>{escape(type(tensor).__name__)}</b> {escape(', '.join(facts))}</div>"
    return head + (_images(array) or _values(array))


def module_html(title: str, rows: Iterable[Sequence[str]]) -> str:
    """A title, and a line for each part: its path, its constructor's call, its arrays and their parameters' number."""
    head = _row(("", "layer", "parameters and buffers", "parameters"), "th")
    return (f"<div><b>{escape(title)}</b></div><table><thead>{head}</thead>"
            f"<tbody>{''.join(_row(row, 'td') for row in rows)}</tbody></table>")


def times(shape: Shape) -> str:
    """A shape as it is read.

    >>> times((8, 32, 32, 3)), times(())
    ('8 × 32 × 32 × 3', 'a number')
    """
    return " × ".join(map(str, shape)) if shape else "a number"


def _row(cells, tag):
    return "<tr>" + "".join(f'<{tag} style="text-align: left">{escape(cell)}</{tag}>' for cell in cells) + "</tr>"


def _range(array):
    """From which value to which, and how many are none."""
    if array.ndim == 0 or array.size == 0 or array.dtype == bool:
        return
    finite = array[np.isfinite(array)]
    if finite.size:
        yield f"from {finite.min():.4g} to {finite.max():.4g}"
    for name, count in (("NaN", np.isnan(array).sum()), ("Inf", np.isinf(array).sum())):
        if count:
            yield f"{count:,} {name}"


def _values(array):
    """Up to two axes as a table, more as NumPy prints them."""
    if array.ndim == 0 or array.ndim > 2 or array.size == 0:
        text = np.array2string(array, separator=", ", threshold=64, edgeitems=2)
        return f"<pre>{escape(text)}</pre>"
    rows, columns = (_shown(n, most) for n, most in zip((1, *array.shape)[-2:], (MOST_ROWS, MOST_COLUMNS), strict=True))
    table = array.reshape(-1, array.shape[-1])
    cells = [["…" if i is None or j is None else f"{table[i, j]:.4g}" for j in columns] for i in rows]
    return f"<table><tbody>{''.join(_row(row, 'td') for row in cells)}</tbody></table>"


def _shown(length, most):
    """The places that are shown of so many, None for those left out."""
    half = most // 2
    return [*range(length)] if length <= most else [*range(half), None, *range(length - half, length)]


def _images(array):
    """The first images of a batch (N, H, W, 1 or 3) with values from 0 to 1, or bytes; "" if that isn't what it is."""
    shape = array.shape
    if (array.ndim != 4 or shape[3] not in (1, 3) or not shape[0]
            or not all(SMALLEST_IMAGE <= side <= LARGEST_IMAGE for side in shape[1:3])):
        return ""
    some = array[:MOST_IMAGES]
    if array.dtype != np.uint8:
        if array.dtype.kind != "f" or not (some.min() >= 0 and some.max() <= 1):    # NaN is neither
            return ""
        some = np.rint(some * 255).astype(np.uint8)
    try:
        pictures = [_png(image) for image in some]
    except ImportError:                                                             # no Pillow: the values, then
        return ""
    rest = f" … {shape[0]:,} in all" if shape[0] > MOST_IMAGES else ""
    return f"<div>{' '.join(pictures)}{rest}</div>"


def _png(image: Array) -> str:
    from PIL import Image  # an extra: pip install tinynet[examples]

    file = io.BytesIO()
    Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, "PNG")
    height, width = image.shape[:2]
    larger = max(1, 128 // max(height, width))
    return (f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}" alt="an image" '
            f'width="{width * larger}" height="{height * larger}" style="image-rendering: pixelated; display: inline">')
