"""Convolution, transposed convolution and their weight gradient: one sum seen from three sides.

    F(x, w, y) = sum over n, i, j, u, v, c, o of  x[n, i*s + u*d - p, j*s + v*d - p, c] * w[u, v, c, o] * y[n, i, j, o]

(s the stride, d the dilation, p the padding before; x is 0 outside of the image.) F is linear in each of its three arguments. Leave one out,
and what remains is an array of that argument's shape:

    gather            leave out y   each output pixel gathers from the window of input pixels below it   convolution
    scatter           leave out x   each pixel of y scatters its values over that window                 transposed convolution
    weight_gradient   leave out w   each weight meets all pairs of pixels that it ever connected

So each one's derivatives are the other two: <gather(x, w), y> = <x, scatter(y, w)> = <w, weight_gradient(x, y)> = F(x, w, y),
and the three suffice for a convolution, a transposed one, and all derivatives of both of any order.

Gather and scatter are even one loop. A pixel of x at h gets from the pixel of y at i through the tap u if i*s + u*d - p = h. For
h, h + s, h + 2s, ... (a *phase*) these are the same taps, every s-th one or so, and the pixels of y are neighbours. So scatter
*gathers* too, with ceil(K/s) taps a phase, writing every s-th pixel; and gather is the case of a single phase that has all taps.

Nothing is unrolled into windows ("im2col"): in channels-last layout the windows are there already. In padded rows of C channels, the pixel
j of the output starts at j*s*C, the tap v at v*d*C, and the channel c at c: steps of the register tile (tile.py), whose rows are
pixels, whose columns are output channels, and whose sum runs over (u, v, c). For the weight gradient its rows are (v, c), its sum runs over pixels.

    N images   H W size of x   OH OW size of y   KH KW kernel   C channels of x   O channels of y   groups: each C/groups to O/groups
"""
import functools
import math
import os

import numba
import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts, transpose
from tinynet.kernels.tile import NEXT, STAY, VECTORS, block


def gather(x, w, b, geometry, out_hw):
    """y[n,i,j,o] = b[o] + sum_uvc x[n, i*sh + u*dh - top, j*sw + v*dw - left, c] w[u,v,c,o]

    x (N, H, W, C), w (KH, KW, C/groups, O), b (O) or None, out_hw = (OH, OW); returns (N, OH, OW, O).
    """
    axes = [_gather_axis(*each) for each in _by_axis(w.shape[:2], geometry)]
    return _correlate_by_axes(x, np.ascontiguousarray(w), b, w.shape[3], axes, out_hw, geometry.groups, w.shape[3] // geometry.groups)


def scatter(y, w, b, geometry, out_hw):
    """x[n,h,v,c] = b[c] + the sum of y[n,i,j,o] w[u,v,c,o] over all i*sh + u*dh - top = h, j*sw + v*dw - left = w

    y (N, OH, OW, O), w (KH, KW, C/groups, O), b (C) or None, out_hw = (H, W); returns (N, H, W, C).
    """
    axes = [_scatter_axis(*each) for each in _by_axis(w.shape[:2], geometry)]
    KH, KW, C, O = w.shape
    wt = transpose(w.reshape(KH * KW, C, O)).reshape(KH, KW, O, C)
    return _correlate_by_axes(y, wt, b, C * geometry.groups, axes, out_hw, geometry.groups, O // geometry.groups * C)


def weight_gradient(x, y, geometry, kernel_hw):
    """w[u,v,c,o] = sum_nij x[n, i*sh + u*dh - top, j*sw + v*dw - left, c] y[n,i,j,o]

    x (N, H, W, C), y (N, OH, OW, O), kernel_hw = (KH, KW); returns (KH, KW, C/groups, O).
    """
    x, y = np.ascontiguousarray(x), np.ascontiguousarray(y)
    N, H, W, C = x.shape
    _, OH, OW, O = y.shape
    (sh, sw), ((top, _), (left, _)), (dh, dw), groups = geometry
    KH, KW = kernel_hw
    shape = KH, KW, C // groups, O
    rows = min(ROWS_PER_TASK, OH)
    chunks = min(16, max(1, N * -(-OH // rows)))
    while chunks > 1 and chunks * math.prod(shape) > 2 ** 20:
        chunks //= 2
    parts = np.empty((chunks, *shape), x.dtype)
    _weight_gradient(x, y, parts, (sh, sw, top, left, dh, dw, groups), rows, numba.get_num_threads())
    return sum_parts(parts)


# ---- Gather and scatter ---------------------------------------------------------------------------------------------

ROWS_PER_TASK = 8


def _by_axis(kernel_hw, geometry):
    """(size, stride, padding before, dilation) of the vertical axis, then of the horizontal one"""
    (top, _), (left, _) = geometry.padding
    return zip(kernel_hw, geometry.stride, (top, left), geometry.dilation, strict=True)


# An axis is a table with a line for each phase. Of n phases, phase f has the target pixels f, f + n, f + 2n, ... The g-th of them sums
#     over t < taps    source[first + g * advance + t * reach] * weight[tap + t * jump]
# and the columns of the table are                                              taps, tap, jump, first, advance, reach.

def _gather_axis(size, stride, before, dilation):
    return ((size, 0, 1, -before, stride, dilation),)


def _scatter_axis(size, stride, before, dilation):
    common = math.gcd(stride, dilation)
    jump = stride // common
    table = []
    for f in range(stride):
        hits = [u for u in range(min(jump, size)) if (f + before - u * dilation) % stride == 0]
        tap = hits[0] if hits else size
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
def _plan(axes, source_hw, target_hw, rows):
    """(vertical axis, horizontal axis, source rows of each block of target rows, source columns, scratch lines)"""
    bands = [_band(axes[0], h, min(h + rows, target_hw[0])) for h in range(0, target_hw[0], rows)]
    left, right = _band(axes[1], 0, target_hw[1])
    lines = max((bottom - top for top, bottom in bands), default=0)
    if left >= 0 and right <= source_hw[1] and all(top >= 0 and bottom <= source_hw[0] for top, bottom in bands):
        left, right, lines = 0, source_hw[1], 0                          # all inside of the image: read it where it is
    return np.array(axes[0]), np.array(axes[1]), np.array(bands).reshape(-1, 2), left, right - left, lines


def _correlate_by_axes(source, weights, bias, channels, axes, size, groups, group_step):
    source = np.ascontiguousarray(source)
    target = np.empty((len(source), *size, channels), source.dtype)
    bias = np.zeros(channels, source.dtype) if bias is None else np.ascontiguousarray(bias)
    rows = max(1, min(ROWS_PER_TASK, -(-len(source) * size[0] // 16)))
    plan = _plan(tuple(axes), source.shape[1:3], tuple(size), rows)
    _correlate(source, weights, bias, target, *plan, rows, groups, group_step, numba.get_num_threads())
    return target


@kernel
def _correlate(source, weights, bias, target, vertical, horizontal, bands, left, width, lines, rows, groups, group_step, lanes):
    """target[n, h, w] = bias + sum over the taps of h's and w's phases of source[n, h', w'] @ weights[u, v]

    A task is a block of rows of an image; which lane computes it makes no difference to its bits.
    """
    for lane in prange(lanes):
        scratch = np.empty(lines * width * source.shape[3], source.dtype)
        for task in range(np.int64(lane), len(source) * len(bands), lanes):
            _block_of_rows(task, scratch, source, weights, bias, target, vertical, horizontal, bands, left, width, rows, groups, group_step)


@inner
def _block_of_rows(task, scratch, source, weights, bias, target, vertical, horizontal, bands, left, width, rows, groups, group_step):
    _, H, _, C = source.shape
    n, i = task // len(bands), task % len(bands)
    top, bottom = bands[i]
    if len(scratch) > 0:
        _load_rows(source, n, top, bottom, left, width, scratch)
        lines, origin = scratch, -(top * width + left) * C
    else:
        lines, origin = source.reshape(-1), n * H * width * C
    h0, h1 = i * rows, min(target.shape[1], (i + 1) * rows)
    for f in range(len(vertical)):
        for g in range(len(horizontal)):
            _phase((lines, origin, width * C, C), weights, bias, target, n, h0, h1, f, g, vertical, horizontal, groups, group_step)


@inner
def _phase(lines, weights, bias, target, n, h0, h1, f, g, vertical, horizontal, groups, group_step):
    """The pixels of one phase, down and across, in rows h0 to h1 of target[n].

    The sum runs over all taps at once if their weights for one panel of columns fit into the cache; else over one row of taps after the other,
    each for all pixels (8 x 8 pixels, 256 to 256 channels: 1.5 times as fast).
    """
    line, origin, pitch, C = lines
    _, TH, TW, M = target.shape
    _, KW, tap_rows, tap_columns = weights.shape
    K, MG = C // groups, M // groups
    tap = tap_rows * tap_columns
    taps_u, u, jump_u, row, advance_u, reach_u = vertical[f]
    taps_v, v, jump_v, column, advance_v, reach_v = horizontal[g]
    above = (h0 - f + len(vertical) - 1) // len(vertical)                # pixels of this phase above h0
    rows = (h1 - f + len(vertical) - 1) // len(vertical) - above, (TW - g + len(horizontal) - 1) // len(horizontal)
    at = origin + (row + above * advance_u) * pitch + column * C
    to = ((n * TH + f + above * len(vertical)) * TW + g) * M
    panel = COLUMN_BYTES // bias.itemsize
    inner_counts = taps_v, K
    if groups == 1 and jump_v == 1 and reach_v == 1:                     # neighbouring taps: v and k are one sum (3 inputs: 1.1 to 1.5 times as fast)
        inner_counts = 1, taps_v * C
    together = max(1, taps_u)
    if taps_u * taps_v * K * COLUMN_BYTES > CACHED_BYTES:
        together = 1
    for group in range(groups):
        for o in range(0, MG, panel):
            s = (bias, group * MG + o, STAY, STAY)
            c = (target.reshape(-1), to + group * MG + o, len(vertical) * TW * M, len(horizontal) * M)
            for t in range(0, max(1, taps_u), together):
                a = (line, at + t * reach_u * pitch + group * K, advance_u * pitch, advance_v * C, reach_u * pitch, reach_v * C, NEXT)
                b = (weights.reshape(-1), ((u + t * jump_u) * KW + v) * tap + group * group_step + o, jump_u * KW * tap, jump_v * tap, tap_columns)
                block(a, b, s, c, (min(together, taps_u), *inner_counts), rows, min(panel, MG - o))
                s = c


COLUMN_BYTES = 64 * VECTORS
CACHED_BYTES = int(os.environ.get("CACHED", 2**18))


@inner
def _load_rows(x, n, top, bottom, low, width, scratch):
    """scratch = x[n, top:bottom, low:low + width], zero where that lies outside of the image"""
    _, H, W, C = x.shape
    flat = x.reshape(-1)
    left, right = max(0, -low), min(width, W - low)
    for h in range(top, bottom):
        line = scratch[(h - top) * width * C:(h - top + 1) * width * C]
        if h < 0 or h >= H or left >= right:
            _clear(line)
        else:
            at = ((n * H + h) * W + low) * C
            _clear(line[:left * C])
            _copy(flat[at + left * C:at + right * C], line[left * C:right * C])
            _clear(line[right * C:])


# Loops over slices from 0: numba's own slice assignment takes 1.5 s to compile, and LLVM does not vectorise line[left + i].

@inner
def _copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@inner
def _clear(target):
    for i in range(len(target)):
        target[i] = 0


# ---- The weight gradient --------------------------------------------------------------------------------------------

@kernel
def _weight_gradient(x, y, parts, window, rows, lanes):
    """parts[p] = the sum over the p-th part of all blocks of rows"""
    for lane in prange(lanes):
        for p in range(np.int64(lane), len(parts), lanes):
            _part(x, y, p, parts, window, rows)


@inner
def _part(x, y, p, parts, window, rows):
    sh, sw, top, left, dh, dw, groups = window
    N, H, W, C = x.shape
    _, OH, OW, O = y.shape
    P, KH, KW, _, _ = parts.shape
    width = (OW - 1) * sw + (KW - 1) * dw + 1
    height = (rows - 1) * sh + (KH - 1) * dh + 1
    inside = top <= 0 and left <= 0 and width <= W and (OH - 1) * sh + (KH - 1) * dh + 1 <= H
    pitch = (W if inside else width) * C
    blocks = (OH + rows - 1) // rows
    scratch = np.empty(0 if inside else height * pitch, x.dtype)
    sums = parts[p].reshape(-1)
    _clear(sums)
    for t in range(p * N * blocks // P, (p + 1) * N * blocks // P):
        n, i0 = t // blocks, t % blocks * rows
        i1 = min(OH, i0 + rows)
        h0 = i0 * sh - top
        if inside:
            lines, origin = x.reshape(-1), (n * H + h0) * pitch
        else:
            _load_rows(x, n, h0, (i1 - 1) * sh - top + (KH - 1) * dh + 1, -left, width, scratch)
            lines, origin = scratch, 0
        _add_rows(lines, origin, pitch, C, y, sums, n, i0, i1, window, KH, KW)


SUB = int(os.environ.get("SUB", "256"))


@inner
def _add_rows(lines, origin, pitch, C, y, sums, n, i0, i1, window, KH, KW):
    sh, sw, top, left, dh, dw, groups = window
    _, OH, OW, O = y.shape
    CG, OG = C // groups, O // groups
    flat = y.reshape(-1)
    sub = max(1, SUB // OW)
    merge = groups == 1 and dw == 1
    rows = (KH, KW * CG if merge else CG)
    for i in range(i0, i1, sub):
        for g in range(groups):
            b = (flat, (n * OH + i) * OW * O + g * OG, OW * O, STAY, O)
            for v in range(1 if merge else KW):
                at = origin + (i - i0) * sh * pitch + v * dw * C + g * CG
                a = (lines, at, dh * pitch, NEXT, sh * pitch, STAY, sw * C)
                c = (sums, v * CG * O + g * OG, KW * CG * O, O)
                block(a, b, c, c, (min(sub, i1 - i), 1, OW), rows, OG)
