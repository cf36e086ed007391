"""The weight gradient of a convolution, as the direct sum:

    w[u,v,c,o] = sum over n,i,j of  x[n, i*sh + u*dh - top, j*sw + v*dw - left, c] * y[n,i,j,o]

The loop is the register tile's (tile.py), as for the convolution itself, but the other way round: its rows are u, v and
c, its columns outputs, and its sum runs over pixels. With few outputs, they are its rows, and v and c its columns.

The sum is cut into parts of whole rows of y, as many as the shapes say, which are then added in their order.

    N images   H W size of x   OH OW size of y   KH KW kernel   C channels of x   O channels of y
    groups: each from C/groups (CG) to O/groups (OG) channels
"""
import math

import numba
import numpy as np

from tinynet.kernels.emit import VECTOR_BYTES, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts
from tinynet.kernels.memory import room_for, zeros
from tinynet.kernels.panels import cut, panel_columns, panels_for
from tinynet.kernels.pooling import Unpooled, stored, unpool_row, whole
from tinynet.kernels.tasks import ROWS, TASKS, columns_per_task, none_taken, take
from tinynet.kernels.tile import NEAR, NEXT, NO_FLOOR, ONE, STAY, WIDE, block, work
from tinynet.kernels.window import load_window
from tinynet.shapes import Geometry
from tinynet.typing import Array

PIXELS_AT_ONCE = 256            # whose y, a tile's columns, and x, a tile's rows, stay in the first cache
FEW_INPUTS = 64                 # where there are more, half as many pixels: theirs lie far apart and share places there
FEW_WEIGHTS = 32                # of an output channel: so few products for each y that the memory decides
MANY_WEIGHTS = 64               # of an output channel, for which it is worth the copy to cut y into panels
MOST_PARTIAL_WEIGHTS = 2 ** 20  # in all parts together: to add them up takes time, too


def weight_gradient(x: Array, y: Array | Unpooled, geometry: Geometry, kernel_hw: tuple[int, int]) -> Array:
    """As convolution.weight_gradient, for contiguous x."""
    (KH, KW), groups, CG, O = kernel_hw, geometry.groups, x.shape[3] // geometry.groups, y.shape[3]
    if (KH, KW) == geometry.stride == (1, 1) and x.shape == (*y.shape[:3], x.shape[3]):
        x, y = (each.reshape(1, -1, *each.shape[2:]) for each in (x, whole(y)))      # 1x1 doesn't see where images end
    is_narrow = groups == geometry.dilation[1] == 1 and _is_narrow(KW * CG, O)
    shape = (KH, O, KW, CG) if is_narrow else (KH, KW, CG, O)
    most = max(1, MOST_PARTIAL_WEIGHTS // math.prod(shape))
    rows = max(1, min(y.shape[1], max(ROWS, PIXELS_AT_ONCE // max(1, y.shape[2]))))
    parts = zeros((max(1, min(TASKS, most, len(x) * -(-y.shape[1] // rows))), *shape), x.dtype)
    columns = columns_per_task(O // groups, len(parts))
    cuts = not is_narrow and O // groups > panel_columns(x.itemsize) and KH * KW * CG >= MANY_WEIGHTS
    window = _window(x, y, kernel_hw, geometry, rows)
    y_hw, (y, places) = y.shape[1:3], stored(y)
    add_weights(x, y, places, y_hw, parts, window, columns, is_narrow, cuts, numba.get_num_threads(), none_taken())
    w = parts[0] if len(parts) == 1 else sum_parts(parts)
    return np.ascontiguousarray(w.transpose(0, 2, 3, 1)) if is_narrow else w


def _is_narrow(inputs, outputs):
    """Are inputs better abreast in a tile, and outputs its rows? (32 channels to 3: 5 times as fast)"""
    return outputs <= VECTOR_BYTES // 4 and work(outputs, inputs) < work(inputs, outputs)


def _window(x, y, kernel_hw, geometry, rows):
    """(KH, KW, sh, sw, top, left, dh, dw, groups, rows, width, height), the last two of the scratch

    (none: height 0) that holds the pixels of x that a block of rows of y meets, with the padding
    """
    (KH, KW), (sh, sw), ((top, _), (left, _)), (dh, dw), groups = kernel_hw, *geometry
    OH, OW = y.shape[1:3]
    width, height = [(n - 1) * s + (k - 1) * d + 1
                     for n, s, k, d in ((OW, sw, KW, dw), (rows, sh, KH, dh))]
    if top == left == 0 and (OH - 1) * sh + (KH - 1) * dh < x.shape[1] and width <= x.shape[2]:
        width, height = x.shape[2], 0                        # all inside of the image: read it where it is
    return KH, KW, sh, sw, top, left, dh, dw, groups, rows, max(0, width), max(0, height)


@kernel
def add_weights(x, y, places, y_hw, parts, window, columns, is_narrow, cuts, lanes, taken):
    """parts[p] += the sum over the p-th part of all blocks of rows of y; a task is some columns of a part

    places: of y's pixels, if they are those of 2x2 that pooling chose. y_hw = (OH, OW) of the whole ones.
    is_narrow: as in _add_rows; cuts: y is cut into panels.
    """
    _, _, _, _, _, _, _, _, groups, _, width, height = window
    C, OW, OG = x.shape[3], y_hw[1], y.shape[3] // groups
    splits = (OG + columns - 1) // columns
    at_once = max(1, (PIXELS_AT_ONCE if C <= FEW_INPUTS else PIXELS_AT_ONCE // 2) // max(1, OW))
    for _ in prange(lanes):
        scratch = np.empty(height * width * C, x.dtype)
        unpooled = room_for(at_once * OW * y.shape[3] if places.size else 0, y)
        panels = panels_for(min(columns, OG) if cuts else 0, WIDE // y.itemsize, at_once * OW, y)
        task = take(taken)
        while task < len(parts) * splits:
            p, o = task // splits, task % splits * columns
            _add_part(x, y, places, y_hw, parts, p, o, columns, is_narrow, at_once, scratch, unpooled, panels, window)
            task = take(taken)


@inner
def _add_part(x, y, places, y_hw, parts, p, o, columns, is_narrow, at_once, scratch, unpooled, panels, window):
    KH, _, sh, _, top, left, dh, _, _, rows, width, height = window
    N, H, _, C = x.shape
    (OH, OW), O = y_hw, y.shape[3]
    sums = flattened(parts[p])
    blocks = (OH + rows - 1) // rows
    for t in range(p * N * blocks // len(parts), (p + 1) * N * blocks // len(parts)):
        n, i0 = t // blocks, t % blocks * rows
        i1 = min(OH, i0 + rows)
        h0 = i0 * sh - top
        if height > 0:
            load_window(x, n, h0, (i1 - 1) * sh - top + (KH - 1) * dh + 1, -left, width, scratch)
            lines, origin = scratch, 0
        else:
            lines, origin = flattened(x), (n * H + h0) * width * C
        for i in range(i0, i1, at_once):
            here = lines, origin + (i - i0) * sh * width * C, width * C, C
            count = min(at_once, i1 - i)
            pixels, at = flattened(y), (n * OH + i) * OW * O
            later = flattened(y), at + count * OW * O, at_once * OW * O
            if places.size:
                pixels, at = unpooled, 0
                later = later[0], (n * y.shape[1] + (i + count) // 2) * y.shape[2] * O, later[2] // 4
                for k in range(count):
                    unpool_row(y, places, n, i + k, STAY, unpooled[k * OW * O:(k + 1) * OW * O])
            _add_rows((count, OW, O), here, (pixels, at), sums, window, o, columns, is_narrow, panels, later)


@inner
def _add_rows(size, lines, y, sums, window, o, columns, is_narrow, panels, later):
    """sums[u,v,c,o] += sum_ij x[i*sh + u*dh, j*sw + v*dw, c] y[i,j,o] over some rows i, group by group

    size = (rows, OW, O), y = (array, offset), later: what will be read of y next, as block() has it.

    is_narrow: sums[u,o,v,c], the tile's rows being o, its columns v and c.
    Where many weights meet each y, it is cut into panels, if there is room for them.
    """
    count, OW, O = size
    x, at, pitch, C = lines
    KH, KW, sh, sw, _, _, dh, dw, groups, _, _, _ = window
    CG, OG = C // groups, O // groups
    (flat, from_y), pixels = y, (count, ONE, OW)
    taps, inner_rows = KW, CG
    if groups == dw == 1:                                    # the taps are neighbours: v and c are one
        taps, inner_rows = 1, KW * CG
    width = KW * C if is_narrow else min(columns, OG - o)
    abreast = WIDE // sums.itemsize if panels.size else width
    for group in range(groups):
        m = group * OG + o
        if panels.size:
            cut("wide B", (flat, from_y + m, O), (width, count * OW), panels)
        for q in range(0, width, abreast):
            for step in range(KH if is_narrow else taps):
                if is_narrow:
                    a = flat, from_y, STAY, NEXT, OW * O, STAY, O
                    b = x, at + step * dh * pitch, sh * pitch, STAY, sw * C
                    c = sums, step * O * KW * C, STAY, KW * C
                    rows = 1, O
                else:
                    a = x, at + step * dw * C + group * CG, dh * pitch, NEXT, sh * pitch, STAY, sw * C
                    b = flat, from_y + m, OW * O, STAY, O
                    c = sums, step * CG * O + m + q, KW * CG * O, O
                    rows = KH, inner_rows
                if panels.size:
                    b = panels, q * count * OW, OW * abreast, STAY, abreast
                if rows[0] * rows[1] <= FEW_WEIGHTS:         # two calls: to ask is code that the others do without
                    block(a, b, c, c, pixels, rows, min(abreast, width - q), NO_FLOOR, NEAR, (later,))
                else:
                    block(a, b, c, c, pixels, rows, min(abreast, width - q), NO_FLOOR, NEAR, None)
