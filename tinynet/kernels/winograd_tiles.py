"""From images to the tiles of Winograd's convolution, and back: what is computed at the edges of its products.

An image is cut into tiles, a grid of them, which are counted through the grids of all images. A tile's 36 or 64
transformed values go to as many places: V[p, tile, channel] for the matrix that is multiplied at the place p. A tile
that reaches beyond the image is copied to a window first, with zeros, or from one back.

    side = (s, top, left): an image's, as the head of winograd.py has it        grid = (rows, columns) of tiles
    m: the pixels by which one tile begins after the one before         points: N or LARGE_N, as there are places a side
"""
import numpy as np

from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner
from tinynet.kernels.prefetch import prefetch_window
from tinynet.kernels.window import load_window, store_window
from tinynet.kernels.winograd_transform import LANES, LARGE_N, N, finish, finish_pooled, transform, transform_unpooled


@inner
def to_places(x, tiles, side, grid, m, size, points, V, step, window):
    """V[p, tile, channel] = (B^T X B)[p] for tiles of as many pixels as points, or (A X A^T)[p] for tiles of size m

    tiles = (first, how many) of all in the grids of all images; a tile begins m folded pixels after the one before.
    """
    first, count = tiles
    s, top, left = side
    _, H, W, C = x.shape
    width = s * size
    n, row, column = position(first, grid)
    to = 0
    for _ in range(count):
        h, l = row * m * s - top, column * m * s - left
        if h >= 0 and l >= 0 and h + width <= H and l + width <= W:
            pixels, at, pitch = flattened(x), ((n * H + h) * W + l) * C, W * C
        else:
            load_window(x, n, h, h + width, l, width, window)
            pixels, at, pitch = window, 0, width * C
        for a in range(s):                                   # (a third loop, over b, took 5 to 10 % longer)
            for c in range(0, s * C, LANES):                 # b and c: pixels side by side are one behind the other
                from_ = (pixels, at + a * pitch + c, s * pitch, s * C)
                to_all = V, to, points * step, step
                if size == LARGE_N:
                    transform("BT8", from_, to_all)
                elif points == LARGE_N:
                    transform("A(4,5)", from_, to_all)
                elif size == N:
                    transform("BT6", from_, to_all)
                elif size == 4:
                    transform("A(4,3)", from_, to_all)
                elif size == 2:
                    transform("A(2,5)", from_, to_all)
                else:
                    transform("A(5,2)", from_, to_all)
                to += LANES
        n, row, column = next_position(n, row, column, grid)


@inner
def unpooled_to_places(x, places, tiles, side, grid, m, size, points, V, step, window):
    """The same of images, not folded, of whose 2x2 pixels x has one and `places` says which.

    (A function of its own: with both in one, few channels took 3 to 8 % longer.)
    """
    first, count = tiles
    _, top, left = side
    _, H, W, C = x.shape
    place_window = np.empty(((size + 3) // 2)**2 * C, np.uint8)
    n, row, column = position(first, grid)
    to = 0
    for _ in range(count):
        h, l = row * m - top, column * m - left
        i, j, skipped = h >> 1, l >> 1, (h & 1, l & 1)
        height, width = (size + skipped[0] + 1) >> 1, (size + skipped[1] + 1) >> 1
        if i >= 0 and j >= 0 and i + height <= H and j + width <= W:
            pixels, ranks, at, pitch = flattened(x), flattened(places), ((n * H + i) * W + j) * C, W * C
        else:
            load_window(x, n, i, i + height, j, width, window)
            load_window(places, n, i, i + height, j, width, place_window)
            pixels, ranks, at, pitch = window, place_window, 0, width * C
        for c in range(0, C, LANES):
            from_, which = (pixels, at + c, pitch, C), (ranks, at + c, pitch, C)
            to_all = V, to, points * step, step
            if size == LARGE_N:
                transform_unpooled("BT8", from_, which, skipped, to_all)
            elif points == LARGE_N:
                transform_unpooled("A(4,5)", from_, which, skipped, to_all)
            elif size == N:
                transform_unpooled("BT6", from_, which, skipped, to_all)
            elif size == 4:
                transform_unpooled("A(4,3)", from_, which, skipped, to_all)
            elif size == 2:
                transform_unpooled("A(2,5)", from_, which, skipped, to_all)
            else:
                transform_unpooled("A(5,2)", from_, which, skipped, to_all)
            to += LANES
        n, row, column = next_position(n, row, column, grid)


@inner
def from_places(M, step, y, epilogue, tiles, side, grid, m, points, window, check):
    """y's tiles = max(A^T M A + bias, floor)"""
    first, count = tiles
    s, top, left = side
    bias, floor, _, streams = epilogue
    _, H, W, O = y.shape
    width = s * m
    n, row, column = position(first, grid)
    at_m = 0
    for _ in range(count):
        h, l = row * width - top, column * width - left
        inside = h >= 0 and l >= 0 and h + width <= H and l + width <= W
        if inside:
            pixels, at, pitch = flattened(y), ((n * H + h) * W + l) * O, W * O
        else:
            pixels, at, pitch = window, 0, width * O
        for a in range(s):
            for o in range(0, s * O, LANES):
                from_, to = (M, at_m, points * step, step), (pixels, at + a * pitch + o, s * pitch, s * O)
                its_bias = bias, o if o < O else o - O
                if m == 6:
                    finish("AT(6,3)", from_, to, its_bias, floor, check, streams * inside)
                elif points == LARGE_N:
                    finish("AT(4,5)", from_, to, its_bias, floor, check, streams * inside)
                elif m == 4:
                    finish("AT(4,3)", from_, to, its_bias, floor, check, streams * inside)
                elif m == 2:
                    finish("AT(2,5)", from_, to, its_bias, floor, check, streams * inside)
                else:
                    finish("AT(5,2)", from_, to, its_bias, floor, check, streams * inside)
                at_m += LANES
        if not inside:
            store_window(window, n, h, h + width, l, width, y)
        n, row, column = next_position(n, row, column, grid)


@inner
def from_places_pooled(M, step, y, epilogue, tiles, grid, m, window, check):
    """y's tiles = max(pool(A^T M A + bias), floor), which are half as large, and where in M's the largest were"""
    first, count = tiles
    bias, floor, places, streams = epilogue
    (_, H, W, O), width = y.shape, m // 2
    place_window = np.empty(width * width * O, np.uint8)
    n, row, column = position(first, grid)
    for i in range(count):
        h, l = row * width, column * width
        inside = h + width <= H and l + width <= W
        at = ((n * H + h) * W + l) * O if inside else 0
        pitch = W * O if inside else width * O
        pixels, ranks = (flattened(y), flattened(places)) if inside else (window, place_window)
        for o in range(0, O, LANES):
            to, which, at_m = (pixels, at + o, pitch, O), (ranks, at + o, pitch, O), i * O + o
            if m == 6:
                finish_pooled("AT(6,3)", (M, at_m, LARGE_N * step, step), to, which, (bias, o), floor, check,
                              streams * inside)
            else:
                finish_pooled("AT(4,3)", (M, at_m, N * step, step), to, which, (bias, o), floor, check,
                              streams * inside)
        if not inside:
            store_window(window, n, h, h + width, l, width, y)
            store_window(place_window, n, h, h + width, l, width, places)
        n, row, column = next_position(n, row, column, grid)


@inner
def part(count, p, parts):
    """How many of so many belong to the p-th of the parts."""
    return (p + 1) * count // parts - p * count // parts


@inner
def ask_for(x, place, count, side, grid, m, size):
    """Ask the memory for what so many tiles from a place on will read; returns the place behind them."""
    s, top, left = side
    n, row, column = place
    for _ in range(count):
        h, l = row * m * s - top, column * m * s - left
        prefetch_window(x, n, h, h + s * size, l + s * (size - m), l + s * size)
        n, row, column = next_position(n, row, column, grid)
    return n, row, column


@inner
def position(tile, grid):
    """(image, row, column) of a tile"""
    rows, columns = grid
    return tile // (rows * columns), tile // columns % rows, tile % columns


@inner
def next_position(n, row, column, grid):
    """Of the tile after that one. (To divide takes longer than the rest of a tile's bookkeeping.)"""
    column += 1
    if column == grid[1]:
        row, column = row + 1, 0
    if row == grid[0]:
        n, row = n + 1, 0
    return n, row, column
