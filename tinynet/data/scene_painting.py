"""What scenes are painted with: a canvas that keeps picture and mask in step, a camera, a light, noise.

World coordinates are metres: x to the right of the middle of the street, y above the ground, z ahead of the
camera. Colours are arrays (3,), and pictures (3, H, W) while they are painted, for NumPy is slow along an
innermost axis of 3.
"""
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from tinynet.typing import Array, Random

CLASSES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "car", "person")
SKY, BUILDING, POLE, ROAD, PAVEMENT, TREE, SIGN, CAR, PERSON = range(len(CLASSES))
PALETTE = ((128, 128, 128), (128, 0, 0), (192, 192, 128), (128, 64, 128), (60, 40, 222), (128, 128, 0),
           (192, 128, 128), (64, 0, 128), (64, 64, 0))


Colour = Array          # (3,) or (3, h, w)
Points = Array | Sequence[tuple[float, ...]]
Window = tuple[slice, slice]
Cover = tuple[Window, Array]        # a window and how much of each of its pixels is covered


class Camera(NamedTuple):
    """A pinhole that looks along z with its horizon level: px = centre + focal (x - x0) / z, py likewise."""

    focal: float       # pixels
    centre: float      # the column of the vanishing point
    horizon: float     # its row
    x: float           # where the camera stands, metres from the middle of the street
    y: float           # and how high

    def project(self, points: Points) -> Array:
        """World points (n, 3) to pixels (n, 2) as (column, row)."""
        points = np.asarray(points, float)
        scale = self.focal / points[:, 2]
        return np.stack([self.centre + (points[:, 0] - self.x) * scale,
                         self.horizon + (self.y - points[:, 1]) * scale], axis=1)

    def column(self, x: float, z: float) -> float:
        return self.centre + self.focal * (x - self.x) / z

    def row(self, y: float, z: float) -> float:
        return self.horizon + self.focal * (self.y - y) / z


class Light(NamedTuple):
    """The hour and the weather."""

    zenith: Colour     # the sky's colour overhead
    skyline: Colour    # and at the horizon
    tint: Colour       # what every other colour is multiplied by
    haze: float            # share of the skyline's colour that each metre of air mixes in
    sun_side: int          # -1 left, 1 right
    sun: float             # 0 overcast, 1 hard light
    clouds: float          # 0 none, 1 covered
    lamps: bool            # windows and lamps are lit

    def on(self, colour: Array, z: float = 0.0, facing: float = 0.0) -> Array:
        """The colour (3,) or (3, h, w) of a surface z metres away; facing is 1 towards the sun, -1 away."""
        lit = colour * spread(self.tint * (1 + 0.35 * self.sun * facing), colour)
        clear = np.exp(-self.haze * z)
        return lit * clear + spread(self.skyline, colour) * (1 - clear)


class Canvas:
    """Picture, class and owner of each pixel, painted from back to front.

    A shape is a window (two slices) and the coverage of its pixels in [0, 1]; a pixel takes the label of the
    last shape that covers its centre. `owner` is the number of the object that a pixel shows, 0 for none.
    """

    def __init__(self, size: tuple[int, int], camera: Camera, light: Light) -> None:
        self.height, self.width = size
        self.camera = camera
        self.light = light
        self.unit = self.height / 128          # sizes in pixels are meant for pictures 128 pixels high
        self.image = np.zeros((3, *size), np.float32)
        self.mask = np.zeros(size, np.uint8)
        self.owner = np.zeros(size, np.int32)
        self.labels = []                       # of objects 1, 2, ...
        self.columns = np.arange(self.width, dtype=np.float32) + 0.5
        self.rows = np.arange(self.height, dtype=np.float32) + 0.5

    def new_object(self, label: int) -> int:
        """The number of a new object for `paint`."""
        self.labels.append(label)
        return len(self.labels)

    def paint(self, shape: Cover | None, colour: Colour, label: int | None = None, owner: int = 0) -> None:
        """Lays a colour, (3,) or (3, h, w) of the window, over a shape; without a label the mask stays."""
        if shape is None:
            return
        (rows, columns), coverage = shape
        patch = self.image[:, rows, columns]
        patch += coverage * (spread(colour, patch) - patch)
        if label is not None:
            inside = coverage >= 0.5
            self.mask[rows, columns][inside] = label
            self.owner[rows, columns][inside] = owner

    def darken(self, shape: Cover | None, share: float) -> None:
        """Takes a share of the light from a shape: a shadow."""
        if shape is not None:
            (rows, columns), coverage = shape
            self.image[:, rows, columns] *= 1 - share * coverage

    def window(self, left: float, top: float, right: float, bottom: float) -> Window | None:
        """The two slices of the pixels that the rectangle touches, or None if it lies outside."""
        first_row, last_row = _span(top, bottom, self.height)
        first_column, last_column = _span(left, right, self.width)
        if first_row >= last_row or first_column >= last_column:
            return None
        return slice(first_row, last_row), slice(first_column, last_column)

    def rectangle(self, left: float, top: float, right: float, bottom: float) -> Cover | None:
        """An upright rectangle."""
        window = self.window(left, top, right, bottom)
        if window is None:
            return None
        x, y = self.columns[window[1]], self.rows[window[0]]
        across = np.clip(np.minimum(x - left, right - x) + 0.5, 0, 1)
        down = np.clip(np.minimum(y - top, bottom - y) + 0.5, 0, 1)
        return window, down[:, None] * across

    def polygon(self, points: Points) -> Cover | None:
        """A convex polygon with corners (n, 2): the nearest side says how far inside a pixel is."""
        points = np.asarray(points, np.float32)
        (left, top), (right, bottom) = points.min(0).tolist(), points.max(0).tolist()
        window = self.window(left, top, right, bottom)
        if window is None or min(right - left, bottom - top) < 0.4:      # too thin to cover a pixel
            return None
        along = _next(points) - points
        length = np.hypot(along[:, 0], along[:, 1])
        points, along, length = points[length > 1e-3], along[length > 1e-3], length[length > 1e-3]
        if len(points) < 3:
            return None
        normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / length[:, None]
        normal *= 1 if _twice_area(points) > 0 else -1
        x = normal[:, :1] * self.columns[window[1]]
        y = normal[:, 1:] * self.rows[window[0]] - (normal * points).sum(1, keepdims=True)
        inside = (x[:, None, :] + y[:, :, None]).min(axis=0)
        return window, np.clip(inside + 0.5, 0, 1)

    def ellipse(self, x: float, y: float, radius_x: float, radius_y: float) -> Cover | None:
        """An upright ellipse."""
        window = self.window(x - radius_x, y - radius_y, x + radius_x, y + radius_y)
        if window is None:
            return None
        across = ((self.columns[window[1]] - x) / radius_x) ** 2
        down = ((self.rows[window[0]] - y) / radius_y) ** 2
        inside = (1 - np.sqrt(down[:, None] + across)) * min(radius_x, radius_y)
        return window, np.clip(inside + 0.5, 0, 1)

    def face(self, corners: Points) -> Cover | None:
        """A flat convex face with corners (n, 3) in the world."""
        return self.polygon(self.camera.project(corners))


def spread(colour: Colour, like: Array) -> Array:
    """A colour (3,) as (3, 1, 1) where `like` is a picture (3, h, w); a picture as it is."""
    colour = np.asarray(colour, np.float32)
    return colour.reshape(3, 1, 1) if colour.ndim < np.ndim(like) else colour


def faces_camera(camera: Camera, corners: Points) -> bool:
    """True for a face whose corners (n, 3) appear clockwise on the screen: of a solid, the visible ones."""
    return _twice_area(camera.project(corners)) > 0


def smooth_noise(rng: Random, size: tuple[int, int], cells: tuple[int, int]) -> Array:
    """Noise in [-1, 1] of `size` (h, w): a random grid of `cells` (rows, columns), smoothly interpolated."""
    grid = rng.uniform(-1, 1, (cells[0] + 1, cells[1] + 1)).astype(np.float32)
    rows, down = _eased(size[0], cells[0])
    columns, across = _eased(size[1], cells[1])
    lines = grid[rows] + (grid[rows + 1] - grid[rows]) * down[:, None]
    return lines[:, columns] + (lines[:, columns + 1] - lines[:, columns]) * across


def _eased(pixels, cells):
    place = (np.arange(pixels, dtype=np.float32) + 0.5) * (cells / pixels)
    cell = np.minimum(place.astype(np.intp), cells - 1)
    t = place - cell.astype(np.float32)
    return cell, t * t * (3 - 2 * t)


def _span(low, high, size):
    # Half a pixel more on either side, for the soft edge.
    return max(0, int(np.floor(max(low, -1e6) - 0.5))), min(size, int(np.ceil(min(high, 1e6) + 0.5)))


def _twice_area(points):
    corners = points.tolist()
    return sum(x * v - u * y for (x, y), (u, v) in zip(corners, corners[1:] + corners[:1], strict=True))


def _next(points):
    return np.concatenate([points[1:], points[:1]])
