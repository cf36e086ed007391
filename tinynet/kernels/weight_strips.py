"""The weight gradient of few channels by Winograd's way down the columns: winograd_rows.py's steps, each turned round.

    D[t, j, o]        = sum over h    A[t, h] y[4i + h, j, o]                          6 rows of 4
    U[t, (v, c), o]   = sum over i, j  V[t, j + v, c] D[t, j, o]                        for all strips i of all images
    w[u, v, c, o]     = sum over t    G[t, u] U[t, (v, c), o]

with V as there. The sum is cut into parts, whose U stay in the second cache; with so many channels that there would be
fewer than LEAST_PARTS of them, the direct sum is faster (200 channels: 1.5 to 2.3, 512 channels of 16 x 16 pixels: 7
times). The product has taps abreast and outputs as its rows, or the other way round, as fills vectors better
(12 channels to 64 outputs, abreast: 1.4 times as fast). (3x3, 8 channels to 16, 16 x 128 x 128: 1.4 times as fast as
the direct sum; 24 to 24, 64 pixels: 1.8; 12 to 64: 1.6; 120 to 120, 32 pixels: 1.8. With 3 channels it took 1.1 times
as long.) The error is up to 1e-5 of the largest result.
"""
import numba
import numpy as np

from tinynet.kernels import winograd_rows
from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts
from tinynet.kernels.memory import empty, room_for
from tinynet.kernels.panels import panel_columns
from tinynet.kernels.product import multiply
from tinynet.kernels.tasks import TASKS, none_taken, take
from tinynet.kernels.tile import NEXT, NO_FLOOR, STAY, work
from tinynet.kernels.winograd_rows import pixels_abreast, strip_of
from tinynet.kernels.winograd_rows_tile import PHOTO, STRIP, transform_rows
from tinynet.kernels.winograd_transform import MATRICES, N
from tinynet.shapes import Geometry
from tinynet.typing import Array, DType, Shape

PANEL = panel_columns(4)
CACHE = 2**15                    # numbers of V and D: a small part of the second cache
LEAST_STRIPS = 2                 # of a part of the sum
MOST_SUMS = 2**21                # in all parts together: to add them up takes time, too
LEAST_PARTS = 4                  # for each thread some; with two it took 1.4 to 1.7 times as long as the direct sum
LEAST_WORK = 2**20               # multiplications of a tap; with half as many it took as long as the direct sum


def pays(w_shape: Shape, y_shape: Shape, dtype: DType, geometry: Geometry) -> bool:
    """Is it such a convolution, of more channels than photos have, and large enough? w_shape = (KH, KW, C, O)"""
    (_, _, C, O), (images, OH, OW, _) = w_shape, y_shape
    return (C > PHOTO and images * OH * OW * C * O >= LEAST_WORK and _parts(C, y_shape) >= LEAST_PARTS
            and winograd_rows.pays(w_shape, y_shape[1:3], dtype, geometry))


def _parts(C, y_shape):
    """Into how many parts the sum is cut; 0 if all of U is too large for one"""
    (images, OH, _, O), abreast = y_shape, pixels_abreast(y_shape[3])
    most = MOST_SUMS // (N * (2 + abreast) * C * abreast * O)
    return min(TASKS, most, images * -(-OH // STRIP) // LEAST_STRIPS)


def weight_gradient(x: Array, y: Array, padding: tuple[int, int]) -> Array | None:
    """As convolution.weight_gradient, for contiguous x and y and padding = (top, left); None if it isn't finite."""
    (_, _, OW, O), C = y.shape, x.shape[3]
    abreast = pixels_abreast(O)
    taps, rows = (2 + abreast) * C, abreast * O
    outputs_abreast = work(taps, rows) < work(rows, taps)
    shape = (taps, rows) if outputs_abreast else (rows, taps)
    parts = empty((max(1, _parts(C, y.shape)), N, *shape), x.dtype)
    at_once = min(OW // abreast, max(1, CACHE // (N * abreast * (C + O))))
    add_strips(x, y, parts, np.zeros(-(-shape[1] // PANEL) * PANEL, x.dtype), padding, outputs_abreast,
               (abreast, at_once, numba.get_num_threads()), none_taken())
    U = parts[0] if len(parts) == 1 else sum_parts(parts)
    U = (U.swapaxes(1, 2) if outputs_abreast else U).reshape(N, abreast, O, 2 + abreast, C)
    U = sum(U[:, i, :, i:i + 3] for i in range(abreast))     # each of the pixels has its taps where its window is
    w = np.einsum("tu,tovc->uvco", MATRICES["G(4,3)"][0].astype(x.dtype), U)
    return np.ascontiguousarray(w) if np.isfinite(w).all() else None


@kernel
def add_strips(x, y, parts, nothing, padding, outputs_abreast, split, taken):
    """parts[p] = U of the p-th part of all strips, its outputs before its taps if these are abreast

    split as in convolve_strips.
    """
    (_, OH, _, O), C = y.shape, x.shape[3]
    abreast, at_once, lanes = split
    everything = len(x) * ((OH + STRIP - 1) // STRIP)
    for _ in prange(lanes):
        of_x, of_y = (at_once * abreast + 2) * C, at_once * abreast * O
        V, D = room_for(N * of_x + PANEL, x), room_for(N * of_y + PANEL, x)      # what is read may end behind them
        window = room_for(N * max(of_x, of_y), x)
        p = take(taken)
        while p < len(parts):
            begin = p * everything // len(parts)
            for strip in range(begin, (p + 1) * everything // len(parts)):
                _add_strip(strip, x, y, parts[p], nothing, padding, outputs_abreast, split, V, D, window,
                           strip == begin)
            p = take(taken)


@inner
def _add_strip(strip, x, y, sums, nothing, padding, outputs_abreast, split, V, D, window, is_first):
    C, (_, OH, OW, O), (abreast, at_once, _) = x.shape[3], y.shape, split
    strips = (OH + STRIP - 1) // STRIP
    n, i = strip // strips, strip % strips * STRIP
    rows = abreast * O
    for j in range(0, OW // abreast, at_once):
        count = min(at_once, OW // abreast - j)
        of_x, of_y = (count * abreast + 2) * C, count * rows
        lines = strip_of(x, n, i - padding[0], N, j * abreast - padding[1], count * abreast + 2, window)
        transform_rows("BT6", lines, (V, STAY, of_x), of_x)
        lines = strip_of(y, n, i, STRIP, j * abreast, count * abreast, window)
        transform_rows("A(4,3)", lines, (D, STAY, of_y), of_y)
        starts = is_first and j == 0
        if outputs_abreast:
            _add_places(V, of_x, abreast * C, D, of_y, rows, sums, nothing, count, starts)
        else:
            _add_places(D, of_y, rows, V, of_x, abreast * C, sums, nothing, count, starts)


@inner
def _add_places(down, down_size, down_step, across, across_size, across_step, sums, nothing, count, starts):
    """sums[t] += the product at each place t, or = the first one; down gives its rows, across its columns"""
    _, rows, columns = sums.shape
    for t in range(N):
        here = flattened(sums), t * rows * columns, columns
        so_far = (nothing, STAY, STAY) if starts else here
        multiply("any", (down, t * down_size, NEXT, down_step), (across, t * across_size, np.int64(PANEL), across_step),
                 so_far, here, (rows, columns, count), NO_FLOOR, None, None)
