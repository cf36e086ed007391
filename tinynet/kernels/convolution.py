"""Convolution, transposed convolution and their weight gradient: one sum seen from three sides.

    F(x, w, y) = sum over n,i,j,u,v,c,o of  x[n, i*s + u*d - p, j*s + v*d - p, c] * w[u,v,c,o] * y[n,i,j,o]

(s the stride, d the dilation, p the padding before; x is 0 outside of the image.) F is linear in each of its
three arguments. Leave one out, and what remains is an array of that argument's shape:

    gather            without y   a pixel of y gathers from the window of x below it     convolution
    scatter           without x   a pixel of y scatters its value over that window       transposed one
    weight_gradient   without w   a weight meets all pairs of pixels that it connects

So the derivatives of each are the other two:

    <gather(x, w), y>  =  <x, scatter(y, w)>  =  <w, weight_gradient(x, y)>  =  F(x, w, y)

and the three suffice for convolutions, transposed convolutions and all their derivatives of any order.

Gather and scatter are even one loop. Pixel h of x meets pixel i of y through the tap u where i*s + u*d - p =
h. For h, h + s, h + 2s, ... (a *phase*) these are the same taps, and as h goes on by s, i goes on by 1. So
scatter too can gather, in s phases with about K/s taps each. And gather has a single phase, with all taps.

Nothing is unrolled into windows ("im2col"): with channels last the windows are there already. In rows of C
channels, a pixel's window starts at j*s*C, its tap v at v*d*C, its channel c at c: just steps of the register
tile (tile.py). Its rows are pixels, its columns output channels, and its sum runs over u, v and c.

The weight gradient's loops are in weight_sum.py. Groups of few channels are the business of depthwise.py, and few
outputs that of few_outputs.py. Where it is faster, winograd.py computes the same with fewer multiplications, or, of few
channels, winograd_rows.py and weight_strips.py. Dilated ones can be taken apart into ordinary ones: interleaved.py.

    N images   H W size of x   OH OW size of y   KH KW kernel   C channels of x   O channels of y
    groups: each from C/groups to O/groups channels
"""
import functools
import math
from typing import Any

import numba
import numpy as np

from tinynet.kernels import depthwise, few_outputs, interleaved, weight_strips, weight_sum, winograd, winograd_rows
from tinynet.kernels.activation import relu as rectified
from tinynet.kernels.emit import VECTOR_BYTES, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import affine, fills_vectors, matmul
from tinynet.kernels.memory import aligned, empty, room_for, zeros
from tinynet.kernels.pooling import NO_PLACES, Unpooled, best_of_four, max_pool, whole
from tinynet.kernels.reduction import sum_rows
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.kernels.tasks import ROWS, TASKS, columns_per_task, none_taken, take
from tinynet.kernels.tile import NEXT, ONE, STAY, block, effort, least
from tinynet.kernels.turning import turned
from tinynet.kernels.window import load_window
from tinynet.shapes import Geometry
from tinynet.typing import Array

LANES = VECTOR_BYTES // 4        # of a vector of float32
LEAST_WORK = 2 ** 20            # multiplications for an image, to set up windows of several pixels; that takes 15 us


def gather(x: Array, w: Array, b: Array | None, geometry: Geometry, out_hw: tuple[int, int], relu: bool = False,
           pool: bool = False) -> Any:
    """y[n,i,j,o] = b[o] + sum_uvc x[n, i*sh + u*dh - top, j*sw + v*dw - left, c] w[u,v,c,o]

    x (N, H, W, C), w (KH, KW, C/groups, O), b (O) or None, out_hw = (OH, OW); returns y (N, OH, OW, O).
    relu: max(y, 0). pool: of each 2x2 pixels the largest, and where it stood, as pooling.max_pool.

    >>> from tinynet.shapes import Geometry
    >>> gather(np.ones((1, 3, 3, 1)), np.ones((2, 2, 1, 1)), None, Geometry(), (2, 2))[0, :, :, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    if winograd.pays(w.shape, out_hw, x.dtype, geometry):
        y = winograd.gather(x, w, b, geometry, out_hw, relu, pool)
        if y is not None:
            return y
    plan = interleaved.as_ordinary(w.shape, x.shape[1:3], out_hw, x.dtype, geometry)
    if plan:
        parts = gather(plan.parts_of_x(x), w, b, plan.geometry, plan.y_hw, relu)
        return _finished(plan.whole_y(parts, out_hw), False, pool)
    (top, _), (left, _) = geometry.padding
    if winograd_rows.pays(w.shape, out_hw, x.dtype, geometry):
        y = winograd_rows.gather(x, w, b, (top, left), out_hw, relu, pool)
        if y is not None:
            return y
    if few_outputs.pays(w.shape, geometry):
        return _finished(few_outputs.gather(x, w, b, (top, left), out_hw), relu, pool)
    if _is_pointwise(w.shape, x.shape[1:3], out_hw, geometry):
        return _finished(_each_pixel(x, w[0, 0], b, relu), False, pool)
    axes, O, groups = _gather_axes(w.shape[:2], geometry), w.shape[3], geometry.groups
    size = *out_hw, O
    if depthwise.pays(w.shape[2], O // groups, groups):
        return _finished(depthwise.correlate(x, w, b, axes, groups, size), relu, pool)
    return _correlate(x, aligned(w), b, axes, groups, O // groups, size, relu, pool)


def _is_pointwise(w_shape, source_hw, target_hw, geometry):
    """Is it one matrix, times each pixel by itself?"""
    return (w_shape[:2] == geometry.stride == (1, 1) and geometry.groups == 1 and source_hw == target_hw
            and not any(map(any, geometry.padding)) and w_shape[2] > 0)


def _each_pixel(x, w, b, relu):
    """y[n,i,j] = x[n,i,j] @ w + b, or max(y, 0), for w (C, O)"""
    return affine(np.ascontiguousarray(x).reshape(-1, len(w)), w, b, relu).reshape(*x.shape[:3], -1)


def _finished(y, relu, pool):
    """What correlate does to its rows in passing, done to the whole."""
    y = rectified(y) if relu else y
    return max_pool(y, (2, 2), (2, 2), (0, 0), (y.shape[1] // 2, y.shape[2] // 2)) if pool else y


def scatter(y: Array | Unpooled, w: Array, b: Array | None, geometry: Geometry, out_hw: tuple[int, int],
            relu: bool = False) -> Array:
    """x[n,h,l,c] = b[c] + sum y[n,i,j,o] w[u,v,c,o] where i*sh + u*dh - top = h, j*sw + v*dw - left = l

    y (N, OH, OW, O), w (KH, KW, C/groups, O), b (C) or None, out_hw = (H, W); returns x (N, H, W, C).

    >>> from tinynet.shapes import Geometry
    >>> scatter(np.ones((1, 2, 2, 1)), np.ones((2, 2, 1, 1)), None, Geometry(), (3, 3))[0, :, :, 0]
    array([[1., 2., 1.],
           [2., 4., 2.],
           [1., 2., 1.]])
    """
    if winograd.pays(w.shape, y.shape[1:3], w.dtype, geometry):
        x = winograd.scatter(y, w, b, geometry, out_hw, relu)
        if x is not None:
            return x
    y = whole(y)
    plan = interleaved.as_ordinary(w.shape, out_hw, y.shape[1:3], y.dtype, geometry)
    if plan:
        return plan.whole_x(scatter(plan.parts_of_y(y), w, b, plan.geometry, plan.x_hw, relu), out_hw)
    KH, KW, CG, O = w.shape
    (top, _), (left, _) = geometry.padding
    mirrored, before = w[::-1, ::-1].swapaxes(2, 3), (KH - 1 - top, KW - 1 - left)       # of stride 1, gather's
    if winograd_rows.pays(mirrored.shape, out_hw, y.dtype, geometry):
        x = winograd_rows.gather(y, mirrored, b, before, out_hw, relu)
        if x is not None:
            return x
    if few_outputs.pays(mirrored.shape, geometry):
        return _finished(few_outputs.gather(y, mirrored, b, before, out_hw), relu, False)
    if _is_pointwise(w.shape, y.shape[1:3], out_hw, geometry):
        return _each_pixel(y, w[0, 0].T, b, relu)
    axes, groups, OG = _scatter_axes(w.shape[:2], geometry), geometry.groups, O // geometry.groups
    size = *out_hw, CG * groups
    if depthwise.pays(CG, OG, groups):
        swapped = w.reshape(KH, KW, CG, groups, OG).transpose(0, 1, 4, 3, 2).reshape(KH, KW, OG, groups * CG)
        return _finished(depthwise.correlate(y, swapped, b, axes, groups, size), relu, False)
    return _correlate(y, turned(w), b, axes, groups, OG * CG, size, relu)      # the tile wants outputs, now c, abreast


def weight_gradient(x: Array, y: Array | Unpooled, geometry: Geometry, kernel_hw: tuple[int, int]) -> Array:
    """w[u,v,c,o] = sum_nij x[n, i*sh + u*dh - top, j*sw + v*dw - left, c] y[n,i,j,o]

    x (N, H, W, C), y (N, OH, OW, O), kernel_hw = (KH, KW); returns w (KH, KW, C/groups, O).

    >>> from tinynet.shapes import Geometry
    >>> weight_gradient(np.ones((1, 3, 3, 1)), np.ones((1, 2, 2, 1)), Geometry(), (2, 2))[:, :, 0, 0]
    array([[4., 4.],
           [4., 4.]])
    """
    w_shape, y_hw = (*kernel_hw, x.shape[3], y.shape[3]), y.shape[1:3]
    if winograd.pays(w_shape, y_hw, x.dtype, geometry, len(x)):
        w = winograd.weight_gradient(x, y, geometry, kernel_hw)
        if w is not None:
            return w
    plan = interleaved.as_ordinary(w_shape, x.shape[1:3], y_hw, x.dtype, geometry)
    if plan:
        return weight_gradient(plan.parts_of_x(x), plan.parts_of_y(whole(y)), plan.geometry, kernel_hw)
    x, (top, _), (left, _) = np.ascontiguousarray(x), *geometry.padding
    if weight_strips.pays(w_shape, y.shape, x.dtype, geometry):
        w = weight_strips.weight_gradient(x, whole(y), (top, left))
        if w is not None:
            return w
    if few_outputs.pays(w_shape, geometry):
        w = few_outputs.weight_gradient(x, whole(y), (top, left), kernel_hw)
        if w is not None:
            return w
    (KH, KW), groups, CG, O = kernel_hw, geometry.groups, x.shape[3] // geometry.groups, y.shape[3]
    if depthwise.pays(CG, O // groups, groups):
        return depthwise.weight_gradient(x, whole(y), _gather_axes(kernel_hw, geometry), groups, kernel_hw)
    if _is_pointwise((KH, KW, CG, O), x.shape[1:3], y_hw, geometry) and fills_vectors(O, x.dtype):
        return matmul(x.reshape(-1, CG).T, whole(y).reshape(-1, O)).reshape(1, 1, CG, O)
    return weight_sum.weight_gradient(x, y, geometry, kernel_hw)


# ---- Gather and scatter: the plan --------------------------------------------------------------------------

def _by_axis(kernel_hw, geometry):
    """(size, stride, padding before, dilation) of the vertical axis, then of the horizontal one"""
    (top, _), (left, _) = geometry.padding
    return zip(kernel_hw, geometry.stride, (top, left), geometry.dilation, strict=True)


# An axis is a table with a line for each phase. Of n phases, phase f has the target pixels f, f + n, f + 2n,
# ... The g-th of them is the sum over t < taps of
#     source[first + g * advance + t * reach] * weight[tap + t * jump]
# and the columns of the table are taps, tap, jump, first, advance, reach.

@functools.lru_cache(maxsize=1024)
def _gather_axes(kernel_hw, geometry):
    return tuple(((size, 0, 1, -before, stride, dilation),)
                 for size, stride, before, dilation in _by_axis(kernel_hw, geometry))


@functools.lru_cache(maxsize=1024)
def _scatter_axes(kernel_hw, geometry):
    return tuple(_scatter_axis(*each) for each in _by_axis(kernel_hw, geometry))


def _scatter_axis(size, stride, before, dilation):
    common = math.gcd(stride, dilation)
    jump = stride // common
    table = []
    for f in range(stride):
        tap = next((u for u in range(min(jump, size)) if (f + before - u * dilation) % stride == 0), size)
        taps = len(range(tap, size, jump))
        table.append((taps, tap, jump, (f + before - tap * dilation) // stride, 1, -(dilation // common)))
    return tuple(table)


def _band(axis, begin, end):
    """(first, one past the last) of the source pixels that the target pixels from begin to end read"""
    pixels = []
    for p in range(begin, end):
        taps, _, _, first, advance, reach = axis[p % len(axis)]
        first += p // len(axis) * advance
        pixels += [first, first + (taps - 1) * reach] if taps else []
    return (min(pixels), max(pixels) + 1) if pixels else (0, 0)


@functools.lru_cache(maxsize=1024)
def _plan(axes, groups, source_shape, size, pool):
    """((rows, columns) of a task,
    the vertical axis, the horizontal axis, and the source rows of each block of target rows,
    the first column, the width and the height of the scratch that holds a block's source (none: height 0))"""
    (N, H, W, _), (TH, TW, M) = source_shape, size
    columns = M // groups if pool else columns_per_task(M // groups, N * -(-TH // ROWS))
    rows = max(1, min(ROWS, N * -(-M // (groups * columns)) * TH // TASKS))
    rows += rows % 2 if pool else 0                          # a pooled pixel's rows belong to one task
    bands = [_band(axes[0], h, min(h + rows, TH)) for h in range(0, TH, rows)]
    left, right = _band(axes[1], 0, TW)
    height = max((bottom - top for top, bottom in bands), default=0)
    if left >= 0 and right <= W and all(top >= 0 and bottom <= H for top, bottom in bands):
        left, right, height = 0, W, 0                        # all inside of the image: read it where it is
    tables = np.array(axes[0]), np.array(axes[1]), np.array(bands).reshape(-1, 2)
    return (rows, columns), tables, (left, right - left, height)


def _correlate(source, weights, bias, axes, groups, group_step, size, relu=False, pool=False):
    """target[n, h, l] = bias + sum over the taps of h's and l's phases of source[n, h', l'] @ weights[u, v]

    weights (KH, KW, rows, columns): those of a group begin group_step elements after those of the one before.
    relu and pool as in gather.
    """
    work = math.prod(size) * math.prod(weights.shape[:3])
    pixels = _pixels_at_once(axes[1], size[2], size[1]) if groups == 1 and work > LEAST_WORK else 1
    if pixels > 1:
        target = _correlate_side_by_side(pixels, source, weights, bias, axes, size, relu)
        if target is not None:
            return _finished(target, False, pool)
    source = np.ascontiguousarray(source)
    TH, TW, M = size
    target = empty((len(source), TH // 2, TW // 2, M) if pool else (len(source), *size), source.dtype)
    places = empty(target.shape, np.uint8) if pool else NO_PLACES
    bias = np.zeros(size[2], source.dtype) if bias is None else np.ascontiguousarray(bias)
    split, tables, window = _plan(axes, groups, source.shape, size, pool)
    epilogue = least(relu, source.dtype), places, ONE if is_streamed(source, target) else STAY
    correlate(source, weights, bias, target, size, epilogue, tables, window, (*split, groups, group_step),
              numba.get_num_threads(), none_taken())
    return (target, places) if pool else target


# ---- Gather and scatter: the loops -------------------------------------------------------------------------

@kernel
def correlate(source, weights, bias, target, size, epilogue, tables, window, split, lanes, taken):
    """A task is some columns of a block of rows of an image; its bits are the same in whichever lane.

    size is the target's, (TH, TW, M). epilogue = (floor, places, streams): target = max(..., floor), of which every 2x2
    pixels only the largest where there is room for their places, written past the caches or not. It follows when a
    task's rows are in the cache still.
    """
    _, width, height = window
    rows, columns, groups, _ = split
    _, TW, M = size
    blocks = len(tables[2])
    splits = (M // groups + columns - 1) // columns
    pooled_rows = rows if epilogue[1].size else 0
    for _ in prange(lanes):
        scratch = np.empty(height * width * source.shape[3], source.dtype)
        before_pooling = room_for(pooled_rows * TW * M, source)
        task = take(taken)
        while task < len(source) * blocks * splits:
            place = task // splits // blocks, task // splits % blocks, task % splits * columns
            _correlate_rows(place, scratch, before_pooling, source, weights, bias, target, size, epilogue, tables,
                            window, split)
            task = take(taken)
        arrived()


@inner
def _correlate_rows(place, scratch, before_pooling, source, weights, bias, target, size, epilogue, tables, window,
                    split):
    n, i, o = place
    down, across, bands = tables
    left, width, height = window
    floor, places, streams = epilogue
    TH, TW, M = size
    _, H, _, C = source.shape
    if height > 0:
        top, bottom = bands[i]
        load_window(source, n, top, bottom, left, width, scratch)
        lines = scratch, -(top * width + left) * C, width * C, C
    else:
        lines = flattened(source), n * H * width * C, width * C, C
    h0, h1 = i * split[0], min(TH, (i + 1) * split[0])
    out, at = flattened(target), n * TH * TW * M            # where the first of all rows is, or would be
    lowest, source_is_far = floor, ONE if height == 0 else STAY
    if places.size:
        out, at, lowest, streams = before_pooling, -h0 * TW * M, source.dtype.type(-np.inf), STAY
    finish = lowest, (source_is_far, streams)
    for f in range(len(down)):
        above = (h0 - f + len(down) - 1) // len(down)        # how many pixels of this phase are above h0
        rows = (h1 - f + len(down) - 1) // len(down) - above
        for g in range(len(across)):
            _correlate_phase((above, rows, o), lines, weights, bias, (out, at, TW, M), finish, down, f, across, g,
                             split)
    if places.size:
        _pool_rows(out, n, h0 // 2, (h1 - h0) // 2, TW * M, floor, target, places)


@inner
def _correlate_phase(place, lines, weights, bias, target, finish, down, f, across, g, split):
    """The pixels of one phase, group by group."""
    above, rows, o = place
    source, origin, pitch, C = lines
    out, start, TW, M = target
    floor, far = finish
    _, columns, groups, group_step = split
    _, KW, tap_rows, tap_columns = weights.shape
    K, MG, tap = C // groups, M // groups, tap_rows * tap_columns
    taps_u, u, jump_u, first_u, advance_u, reach_u = down[f]
    taps_v, v, jump_v, first_v, advance_v, reach_v = across[g]
    at = origin + (first_u + above * advance_u) * pitch + first_v * C
    to = start + ((f + above * len(down)) * TW + g) * M
    counts = taps_u, taps_v, K
    if groups == 1 and jump_v == 1 and reach_v == 1:         # the taps are neighbours: v and k are one sum
        counts = taps_u, 1, taps_v * C                       # (MERGED)
    for group in range(groups):
        m = group * MG + o
        block((source, at + group * K, advance_u * pitch, advance_v * C, reach_u * pitch, reach_v * C, NEXT),
              (flattened(weights), (u * KW + v) * tap + group * group_step + o,
               jump_u * KW * tap, jump_v * tap, tap_columns),
              (bias, m, STAY, STAY),
              (out, to + m, len(down) * TW * M, len(across) * M),
              counts, (rows, (TW - g + len(across) - 1) // len(across)), min(columns, MG - o), floor, far,
              None)


@inner
def _pool_rows(rows, n, first, count, pitch, floor, y, places):
    """y[n, first:first + count] = max(the largest of 2x2 pixels, floor), of rows that are `pitch` long"""
    for i in range(count):
        best, at = flattened(y[n, first + i]), flattened(places[n, first + i])
        best_of_four(rows[2 * i * pitch:], rows[(2 * i + 1) * pitch:], best, at, y.shape[3], floor)


# ---- Few outputs: several pixels side by side fill the vectors ----------------------------------------------

@functools.lru_cache(maxsize=1024)
def _pixels_at_once(axis, outputs, width):
    """How many neighbouring pixels of the target are best computed as one with so many times the channels: that
    which takes the fewest multiplications of vectors for a pixel. (3x3, 8 channels to 8, where a register has 16: 2
    pixels, 1.2 times as fast; of 4 phases, 12 channels to 12: 2 of them, 1.3 times)"""
    def cost(pixels):
        taps = [phase[0] for phase in axis]
        if pixels > 1:
            taps = [count for _, count, _ in _windows_of_several(axis, pixels)]
        return sum(taps) / len(taps) * effort(pixels * outputs) / pixels

    several = [n for n in range(2, 4 * LANES // outputs + 1)
               if width % n == 0 and (n % len(axis) == 0 or len(axis) % n == 0)]
    return min([1, *several], key=lambda n: (cost(n), -n))


def _windows_of_several(axis, pixels):
    """(first source pixel, how many, (target pixel, weight, source pixel) of each tap) of the first target pixels, and
    of the next ones if they are another phase"""
    windows = []
    for start in range(0, max(len(axis), pixels), pixels):
        taps = []
        for i in range(pixels):
            count, tap, jump, first, advance, reach = axis[(start + i) % len(axis)]
            first += (start + i) // len(axis) * advance
            taps += [(i, tap + t * jump, first + t * reach) for t in range(count)]
        begin = min((source for _, _, source in taps), default=0)
        windows.append((begin, max((source for _, _, source in taps), default=0) + 1 - begin, taps))
    return windows


def _correlate_side_by_side(pixels, source, weights, bias, axes, size, relu):
    """As _correlate; None if the result isn't finite everywhere, where that may be due to taps of zeros: they make a
    NaN of what is not finite beside a pixel's window."""
    weights, across, has_zeros = _side_by_side(pixels, weights, axes[1])
    bias = None if bias is None else np.tile(bias, pixels)
    wide = size[0], size[1] // pixels, size[2] * pixels
    target = _correlate(source, weights, bias, (axes[0], across), 1, 0, wide, relu)
    if has_zeros and not np.isfinite(sum_rows(target.reshape(-1, wide[2]))).all():
        return None
    return target.reshape(len(source), *size)


def _side_by_side(pixels, weights, axis):
    """(weights, axis) of the convolution that computes several pixels as one, and whether there are taps of zeros

    The i-th of them has the weights shifted to where its taps are. Windows grow by taps of zeros, where theirs differ.
    """
    KH, _, rows, columns = weights.shape
    windows = _windows_of_several(axis, pixels)
    wide = zeros((KH, sum(count for _, count, _ in windows), rows, pixels, columns), weights.dtype)
    advance = pixels * len(windows) // len(axis) * axis[0][4]
    lines, at = [], 0
    for begin, count, taps in windows:
        for i, v, source in taps:
            wide[:, at + source - begin, :, i] = weights[:, v]
        lines.append((count, at, 1, begin, advance, 1))
        at += count
    has_zeros = any(len(taps) < count * pixels for _, count, taps in windows)
    return wide.reshape(KH, at, rows, pixels * columns), tuple(lines), has_zeros
