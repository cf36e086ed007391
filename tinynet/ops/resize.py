"""Resizing images, and the op behind all maps that are linear in rows and in columns, as average pooling is.

Such a map is y = R x K^T / d for each channel of an image, R for the rows and K for the columns, both very
sparse, d a number. Its adjoint is R^T gy K / d: a map of the same kind. So one op is its own family: a
Resample's gradient is a Resample.
"""

from __future__ import annotations

from tinynet.autograd import Op
from tinynet.kernels.resize import Taps, bilinear_taps, nearest_taps, resample
from tinynet.shapes import check_image, pair
from tinynet.tensor import Tensor, TensorLike, as_tensor
from tinynet.typing import Array, Mode, Pair, Shape

TAPS = {"nearest": nearest_taps, "bilinear": bilinear_taps}


class Resample(Op):
    """y = R x K^T / d;  gx = R^T gy K / d"""

    def __init__(self, rows: Taps, columns: Taps, divisor: int = 1) -> None:
        self.rows, self.columns, self.divisor = rows, columns, divisor

    def forward(self, x: Array) -> Array:
        return resample(x, self.rows, self.columns, self.divisor)

    def output_shape(self, x: Shape) -> Shape:
        return x[0], self.rows.outputs, self.columns.outputs, x[3]

    def backward(self, gy: Tensor) -> Tensor:
        return Resample(self.rows.transposed(), self.columns.transposed(), self.divisor)(gy)


class Resize(Resample):
    """y = x with as many pixels as the tables have outputs: R x K^T;  gx = R^T gy K"""

    def __init__(self, rows: Taps, columns: Taps, mode: Mode) -> None:
        super().__init__(rows, columns)
        self.mode = mode


def resize(x: TensorLike, size: Pair, mode: Mode = "nearest") -> Tensor:
    """Images of another size, each output pixel read from the place that it covers in the input.

    "nearest":   y[i] = x[floor(i H / OH)]
    "bilinear":  y[i] = (1 - t) x[h] + t x[h + 1],   h + t = (i + 1/2) H / OH - 1/2, limited to 0 .. H - 1

    along the height and then along the width.

        gx[floor(i H / OH)] += gy[i]                              nearest
        gx[h] += (1 - t) gy[i],   gx[h + 1] += t gy[i]            bilinear

    Pixels have centres (PyTorch's align_corners=False); when making images smaller, nothing is smoothed. The places
    are computed in integers, so that no rounding picks a neighbour.

    x: images (N, H, W, C); size: (OH, OW) in pixels, or an int for both. Gives (N, OH, OW, C).
    Raises ValueError for another mode, a size below 1 or an x that is no batch of images.

    >>> resize([[[[1.0], [3.0]]]], (1, 4), mode="bilinear").reshape(4)
    Tensor([1. , 1.5, 2.5, 3. ])
    """
    x = as_tensor(x)
    check_image(x.shape, "resize")
    size = pair(size, "resize", "size")
    if mode not in TAPS:
        raise ValueError(f'resize: mode is {mode!r}, but must be "nearest" or "bilinear"')
    rows, columns = (TAPS[mode](inputs, outputs) for inputs, outputs in zip(x.shape[1:3], size, strict=True))
    return Resize(rows, columns, mode)(x)
