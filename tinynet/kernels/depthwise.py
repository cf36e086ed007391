"""Convolutions of small groups, down to one channel each ("depthwise"): a vector of channels at a time.

    y[p, i] = b[i] + sum over u, v and k < G of  x[q, i - i % G + k] * w[u,v,k,i]       G channels a group

where tap (u, v) of the target pixel p lies on the source pixel q. The register tile of tile.py has nothing to do
here: its columns, the outputs of one group, would leave most of a vector empty. But with channels last, the
channels of 16 groups (or of 8 groups of two, ...) are neighbours, and so are their weights. So a step of the sum
loads a vector of x, one of w, and multiplies them channel by channel. For G > 1, a group's channels must meet each
other: in step k, all lanes of a group take what its k-th lane has, which is one shuffle of the vector.

So few operations go with each number that to copy x, with zeros around it, would take as long as all of them.
Hence x is read where it is, and taps outside of the image are left out. Pixels in a row which have the same taps
inside make a *run*: the left border, a long one, and the right border. Rows and runs are listed in tables.
Where there are few channels, neighbouring pixels count as one that has more of them.

Groups of other sizes, and groups that don't give as many channels as they take, are filled up with zeros to the
next power of two.
"""
import functools
from typing import Any

import numpy as np

from tinynet.kernels.depthwise_tile import PIXELS, pixel_tile, weight_tile
from tinynet.kernels.emit import VECTOR_BYTES, flattened
from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.matmul import sum_parts
from tinynet.kernels.memory import aligned, empty, zeros
from tinynet.kernels.streaming import arrived, is_streamed
from tinynet.typing import Array

LARGEST = 8                     # channels of a group, for which this pays: half a vector of float32
WIDE = 64                       # channels: where there are fewer, several pixels are laid side by side
ROWS, TASKS = 8, 16             # rows of a task at most, tasks at least


def pays(inputs: int, outputs: int, groups: int) -> bool:
    """inputs, outputs: how many channels of each group"""
    return groups > 1 and max(inputs, outputs) <= LARGEST


def correlate(source: Array, weights: Array, bias: Array | None, axes: Any, groups: int,
              size: tuple[int, int, int]) -> Array:
    """target[n,h,l,i] = bias[i] + sum over k and over the taps of h's and l's phases of source * weights[u,v,k,i]

    axes: as in convolution.py; weights (KH, KW, source's channels of a group, target's channels), size of target.
    """
    TH, TW, M = size
    axes = [tuple(map(_forwards, axis)) for axis in axes]
    G = _filled_size(weights.shape[2], M // groups)
    source, weights = _filled(source, groups, G), _filled_weights(weights, groups, G)
    bias = zeros((groups * G,), source.dtype) if bias is None else _filled(bias, groups, G)
    target = empty((len(source), TH, TW, groups * G), source.dtype)
    tables = _lines(axes[0], source.shape[1], TH), _runs(axes[1], source.shape[2], TW)
    side_by_side = _side_by_side(axes[1], groups * G)
    if side_by_side > 1:
        weights, bias = np.tile(weights, side_by_side), np.tile(bias, side_by_side)
    rows = max(1, min(ROWS, len(source) * TH // TASKS))
    streams = np.int64(is_streamed(source, target))
    correlate_channels(source, aligned(weights), bias, target, *tables, rows, (0,) * G, streams)
    return _taken(target, groups, M // groups)


def weight_gradient(x: Array, y: Array, axes: Any, groups: int, kernel_hw: tuple[int, int]) -> Array:
    """w[u,v,k,i] = sum over the pixels of x[.., k-th of i's group] y[.., i]; axes as in convolution.py"""
    (KH, KW), CG, OG = kernel_hw, x.shape[3] // groups, y.shape[3] // groups
    G = _filled_size(CG, OG)
    x, y = _filled(x, groups, G), _filled(y, groups, G)
    tables = _lines(axes[0], x.shape[1], y.shape[1]), _runs(axes[1], x.shape[2], y.shape[2])
    side_by_side = _side_by_side(axes[1], groups * G)
    parts = zeros((max(1, min(TASKS, len(y) * y.shape[1])), KH, KW, G, side_by_side * groups * G), x.dtype)
    add_channels(x, y, parts, *tables, (0,) * G)
    w = sum_parts(parts).reshape(KH, KW, G, side_by_side, groups * G).sum(3)
    return _taken(np.ascontiguousarray(w[:, :, :CG]), groups, OG)


# ---- Groups of G channels ----------------------------------------------------------------------------------

def _filled_size(inputs, outputs):
    return 1 << (max(inputs, outputs) - 1).bit_length()


def _filled(x, groups, G):
    """x (..., groups of some channels) with zeros behind the channels of each group, up to G"""
    *leading, channels = x.shape
    if channels == groups * G:
        return np.ascontiguousarray(x)
    filled = zeros((*leading, groups, G), x.dtype)
    filled[..., :channels // groups] = x.reshape(*leading, groups, -1)
    return filled.reshape(*leading, groups * G)


def _filled_weights(w, groups, G):
    KH, KW, inputs, outputs = w.shape
    if inputs == G and outputs == groups * G:
        return aligned(w)
    filled = zeros((KH, KW, G, groups, G), w.dtype)
    filled[:, :, :inputs, :, :outputs // groups] = w.reshape(KH, KW, inputs, groups, -1)
    return filled.reshape(KH, KW, G, groups * G)


def _taken(x, groups, channels):
    """What _filled has filled: the first `channels` of each group"""
    *leading, all_channels = x.shape
    if all_channels == groups * channels:
        return x
    return np.ascontiguousarray(x.reshape(*leading, groups, -1)[..., :channels]).reshape(*leading, -1)


def _side_by_side(axis, channels):
    """How many pixels are taken as one with so many more channels, whose weights are repeated: where neighbours in
    the target have neighbours in the source. That fills the vectors."""
    return max(1, WIDE // channels) if len(axis) == axis[0][4] == 1 else 1


# ---- Which taps lie inside ---------------------------------------------------------------------------------

def _taps_inside(axis, source_size, p):
    """(how many, weight of the first, its source pixel) of the taps of target pixel p that are inside"""
    taps, tap, jump, first, advance, reach = axis[p % len(axis)]
    first += p // len(axis) * advance
    inside = [t for t in range(taps) if 0 <= first + t * reach < source_size]
    begin = inside[0] if inside else 0
    return len(inside), tap + begin * jump, first + begin * reach


def _forwards(phase):
    """The same taps, in the order of their source pixels."""
    taps, tap, jump, first, advance, reach = phase
    if reach >= 0:
        return phase
    return taps, tap + (taps - 1) * jump, -jump, first + (taps - 1) * reach, advance, -reach


@functools.lru_cache(maxsize=1024)
def _lines(axis, source_size, target_size):
    """For each target row: (taps, weight's row of the first, its source row, step of the weights, of the source)"""
    table = [(*_taps_inside(axis, source_size, p), axis[p % len(axis)][2], axis[p % len(axis)][5])
             for p in range(target_size)]
    return np.array(table).reshape(-1, 5)


@functools.lru_cache(maxsize=1024)
def _runs(axis, source_size, target_size):
    """(first target pixel, step to the next, pixels, step of their sources, and a line as above) for each run"""
    table = []
    for f, (_, _, jump, _, advance, reach) in enumerate(axis):
        run = None
        for p in range(f, target_size, len(axis)):
            taps, tap, pixel = _taps_inside(axis, source_size, p)
            if run is None or run[4:6] != [taps, tap]:
                run = [p, len(axis), 0, advance, taps, tap, pixel, jump, reach]
                table.append(run)
            run[2] += 1
    return np.array(table).reshape(-1, 9)


# ---- Gather and scatter ------------------------------------------------------------------------------------

@kernel
def correlate_channels(source, weights, bias, target, lines, runs, rows, group, streams):
    """A task is `rows` rows of an image."""
    blocks = (target.shape[1] + rows - 1) // rows
    for task in prange(len(target) * blocks):
        _correlate_rows(np.int64(task), blocks, source, weights, bias, target, lines, runs, rows, group, streams)


@inner
def _correlate_rows(task, blocks, source, weights, bias, target, lines, runs, rows, group, streams):
    n, first = task // blocks, task % blocks * rows
    flat = flattened(source), flattened(weights), bias, flattened(target)
    size = source.shape[1:], target.shape[1], target.shape[2], weights.shape[1]
    for h in range(first, min(target.shape[1], first + rows)):
        for r in range(len(runs)):
            _correlate_run((n, h), flat, size, lines[h], runs[r], group, streams)
    arrived()


@inner
def _correlate_run(place, flat, size, line, run, group, streams):
    n, h = place
    x, w, bias, y = flat
    (H, W, C), TH, TW, KW = size
    taps_u, u, row, jump_u, reach_u = line
    begin, step, pixels, advance, taps_v, v, pixel, jump_v, reach_v = run
    tap = len(group) * len(bias)
    at, to = ((n * H + row) * W + pixel) * C, ((n * TH + h) * TW + begin) * C
    if taps_u * taps_v == 0:
        for p in range(pixels):
            for i in range(C):
                y[to + p * step * C + i] = bias[i]
        return
    wide, p = len(bias), 0
    while p < pixels:
        if C == wide and pixels - p < PIXELS <= pixels:
            p = pixels - PIXELS                              # some once more: a whole tile is quicker than a rest
        columns = min(wide, (pixels - p) * C)                # of one pixel, or of several side by side
        left = max(1, (pixels - p) * C // wide)
        i = 0
        while i < columns:
            i += pixel_tile(group, (x, at + p * advance * C + i, advance * wide, reach_u * W * C, reach_v * C),
                            (w, (u * KW + v) * tap + i, jump_u * KW * tap, jump_v * tap, wide), (bias, i),
                            (y, to + p * step * C + i, step * wide), (taps_u, taps_v), left, columns - i, streams)
        p += min(PIXELS, left) * (wide // C)


# ---- The weight gradient -----------------------------------------------------------------------------------

@kernel
def add_channels(x, y, parts, lines, runs, group):
    """parts[p] += the sum over the p-th part of all rows of y"""
    for p in prange(len(parts)):
        _add_part(np.int64(p), x, y, parts, lines, runs, group)


@inner
def _add_part(p, x, y, parts, lines, runs, group):
    N, OH, _, _ = y.shape
    for t in range(p * N * OH // len(parts), (p + 1) * N * OH // len(parts)):
        n, i = t // OH, t % OH
        for r in range(len(runs)):
            _add_run((n, i), x, y, parts[p], lines[i], runs[r], group)


@inner
def _add_run(place, x, y, sums, line, run, group):
    """sums[u,v,k,i] += sum over the run's pixels of x y, for the taps inside"""
    n, h = place
    taps_u, u, row, _, reach_u = line
    begin, _, pixels, advance, taps_v, v, pixel, _, reach_v = run
    _, H, W, C = x.shape
    _, OH, OW, _ = y.shape
    KW, wide = sums.shape[1], sums.shape[3]
    tap = len(group) * wide
    lanes = VECTOR_BYTES // x.itemsize
    flat_x, flat_y, flat = flattened(x), flattened(y), flattened(sums)
    at, to, first = ((n * H + row) * W + pixel) * C, ((n * OH + h) * OW + begin) * C, (u * KW + v) * tap
    down, across = reach_u * W * C, reach_v * C
    p = 0
    while p < pixels:
        columns = min(wide, (pixels - p) * C)                # of one pixel, or of several side by side
        left = max(1, (pixels - p) * C // wide)
        for i in range(0, columns, lanes):
            a, b, todo = 0, 0, taps_u * taps_v
            while todo > 0:
                done = weight_tile(group,
                                   (flat_x, at + a * down + b * across + p * advance * C + i,
                                    down, across, advance * wide),
                                   (flat_y, to + p * C + i, wide),
                                   (flat, first + (a * KW + b) * tap + i, KW * tap, tap, wide),
                                   (b, taps_v, todo), left, columns - i)
                todo -= done
                b += done
                while b >= taps_v:
                    b -= taps_v
                    a += 1
        p += left * (wide // C)
