"""Scenes: generated street scenes with exact masks and boxes, so that examples run at once and offline."""
from __future__ import annotations

from typing import NamedTuple

import numpy as np

from tinynet.data.scene_painting import CLASSES, PALETTE, Camera, Canvas, Light, smooth_noise
from tinynet.data.scene_street import (
    FAR,
    Street,
    paint_building,
    paint_front_wall,
    paint_ground,
    paint_horizon,
    paint_sky,
    random_facade,
)
from tinynet.data.scene_things import (
    SIGN_KINDS,
    paint_bush,
    paint_car,
    paint_person,
    paint_pole,
    paint_sign,
    paint_tree,
)
from tinynet.typing import Array, Pair

SMALLEST_SHARE = 1 / 2000      # of the picture, that an object must show to count among the objects


class Scene(NamedTuple):
    """One scene: image float32 (H, W, 3), mask uint8 (H, W), boxes float32 (n, 4), labels int64 (n)."""

    image: np.ndarray
    mask: np.ndarray
    boxes: np.ndarray
    labels: np.ndarray


class Scenes:
    """A dataset of `count` street scenes, painted when asked for: `scenes[i]` is (image, mask).

    The image is float32 (H, W, 3) in [0, 1], the mask uint8 (H, W) of classes. Scene i of a seed is the same
    picture, bit for bit, whatever was asked for before. Another seed has other scenes: train on
    `Scenes(2000, seed=0)`, validate on `Scenes(200, seed=1)`.

    `size` is a number of pixels or a pair (h, w), from 16 up. Light, weather, camera and street are
    random too, and cars, people, signs and walls share their colours, so that colour alone does not tell
    the classes apart.

    Painting takes some 15 ms at 128x128. `cache=True` keeps what was painted in memory (65 kB each), so that
    only the first epoch pays; the bits are the same, for pictures have 256 levels as those from files do.

    Raises ValueError for a size below 16, a count below 1 and a negative seed, IndexError beyond the last
    scene.

    >>> scenes = Scenes(10, size=(32, 48))
    >>> image, mask = scenes[3]
    >>> image.shape, mask.shape, scenes.classes[3]
    ((32, 48, 3), (32, 48), 'road')
    """

    classes = CLASSES
    palette = np.array(PALETTE, np.uint8)
    ignore_index = None

    def __init__(self, count: int, size: Pair = (128, 128), seed: int = 0, cache: bool = False) -> None:
        self.size = (size, size) if isinstance(size, (int, np.integer)) else tuple(size)
        if len(self.size) != 2 or min(self.size) < 16:
            raise ValueError(f"Scenes: size is {size}; give a number of pixels, or a pair (h, w), from 16 up")
        if count < 1:
            raise ValueError(f"Scenes: count is {count}; give a number of scenes from 1 up")
        if seed < 0:
            raise ValueError(f"Scenes: seed is {seed}; give a whole number from 0 up")
        self.count = count
        self.seed = seed
        self._cache = {} if cache else None

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> tuple[Array, Array]:
        scene = self.scene(index)
        return scene.image, scene.mask

    def objects(self, index: int) -> tuple[Array, Array]:
        """Boxes float32 (n, 4) and labels int64 (n) of the cars, people and signs in scene `index`.

        A box (x_min, y_min, x_max, y_max), as fractions of width and height, is tight around what is
        visible of the object; objects that cover less than 1/2000 of the picture are left out.
        """
        scene = self.scene(index)
        return scene.boxes, scene.labels

    def scene(self, index: int) -> Scene:
        """Scene `index` with all that is known of it."""
        if not -self.count <= index < self.count:
            raise IndexError(f"Scenes: there is no scene {index} among {self.count}")
        pixels, *rest = self._drawn(int(index) % self.count)
        return Scene(np.divide(pixels, 255, dtype=np.float32), *(part.copy() for part in rest))

    def _drawn(self, index):
        """The scene with its image as uint8, painted or remembered."""
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        canvas = _painted(np.random.default_rng((self.seed, index)), self.size)
        pixels = np.rint(canvas.image * 255).astype(np.uint8).transpose(1, 2, 0)
        scene = Scene(np.ascontiguousarray(pixels), canvas.mask, *_visible_objects(canvas))
        if self._cache is not None:
            self._cache[index] = scene
        return scene


def _painted(rng, size):
    """A canvas with a whole scene on it, from the sky to the nearest thing."""
    street = _random_street(rng)
    canvas = Canvas(size, _random_camera(rng, size, street), _random_light(rng))
    paint_sky(canvas, rng)
    paint_horizon(canvas, rng)
    paint_ground(canvas, rng, street)
    _paint_sides(canvas, rng, street)
    for _, paint, arguments in sorted(_things(canvas, rng, street), key=lambda thing: -thing[0]):
        paint(canvas, rng, *arguments)
    _expose(canvas, rng)
    return canvas


def _random_light(rng):
    """A clear, cloudy or overcast day, or dusk."""
    kind = rng.choice(["clear", "cloudy", "overcast", "dusk"], p=[0.35, 0.25, 0.2, 0.2])
    sun_side = int(rng.choice([-1, 1]))
    vary = rng.uniform(0.93, 1.07, 3)
    if kind == "dusk":
        skyline = np.array([[0.82, 0.5, 0.36], [0.55, 0.45, 0.52]])[rng.integers(2)]
        return Light(zenith=np.array([0.2, 0.22, 0.4]) * vary, skyline=skyline * vary,
                     tint=np.array([0.62, 0.52, 0.5]) * vary * rng.uniform(0.75, 1.05),
                     haze=rng.uniform(0.003, 0.008), sun_side=sun_side, sun=0.25,
                     clouds=rng.uniform(0.1, 0.6), lamps=bool(rng.random() < 0.75))
    if kind == "overcast":
        grey = rng.uniform(0.55, 0.85) * vary
        return Light(zenith=grey * 0.92, skyline=grey,
                     tint=np.array([0.8, 0.82, 0.86]) * rng.uniform(0.7, 1.05),
                     haze=rng.uniform(0.004, 0.014), sun_side=sun_side, sun=0.05, clouds=0.9, lamps=False)
    clouds = rng.uniform(0.1, 0.35) if kind == "clear" else rng.uniform(0.4, 0.7)
    return Light(zenith=np.array([0.28, 0.47, 0.78]) * vary * rng.uniform(0.8, 1.15),
                 skyline=np.array([0.76, 0.83, 0.9]) * vary,
                 tint=np.array([1.06, 1.0, 0.93]) * rng.uniform(0.82, 1.12),
                 haze=rng.uniform(0.002, 0.007), sun_side=sun_side, sun=rng.uniform(0.6, 1.0),
                 clouds=clouds, lamps=False)


def _random_street(rng):
    half = rng.uniform(2.8, 5.5)
    zebra = float(rng.choice([0.0, rng.uniform(7, 16)]))
    crossing = (FAR, FAR)
    if rng.random() < 0.4:
        corner = rng.uniform(14, 32)
        crossing = (corner, corner + rng.uniform(6, 9))
        zebra = corner - 3 if rng.random() < 0.6 else zebra
    return Street(half, half + rng.uniform(2.2, 5), half + rng.uniform(2.2, 5), crossing, zebra)


def _random_camera(rng, size, street):
    height, width = size
    x = rng.uniform(-0.7, 0.7) * street.half_road
    if rng.random() < 0.2:
        x = rng.choice([-1, 1]) * (street.half_road + 0.9)
    return Camera(focal=height * rng.uniform(0.8, 1.2), centre=width * rng.uniform(0.3, 0.7),
                  horizon=height * rng.uniform(0.4, 0.55), x=x, y=rng.uniform(1.6, 3.0))


def _paint_sides(canvas, rng, street):
    """Buildings on both sides from far to near, trees in the gaps, perhaps one building across the end."""
    end = rng.uniform(45, 90) if rng.random() < 0.4 else FAR
    if end < FAR:
        left, right = -rng.uniform(6, 40), rng.uniform(6, 40)
        paint_front_wall(canvas, random_facade(rng, canvas.light), left, right, end)
    plots = []
    for side, distance in ((-1, street.left), (1, street.right)):
        gardens = 0.7 if rng.random() < 0.25 else 0.12
        for near, far in _plots(rng, street, min(end, 110)):
            plots.append((near, far, side, distance + max(0, rng.uniform(-2, 3)), rng.random() < gardens))
    for near, far, side, distance, garden in sorted(plots, key=lambda plot: -plot[0]):
        if garden:
            _paint_garden(canvas, rng, side, distance, near, far)
        else:
            paint_building(canvas, random_facade(rng, canvas.light), side, side * distance, near, far)


def _plots(rng, street, end):
    """Along one side: the (near, far) of each plot, with gaps here and there and the crossing kept free."""
    corner, beyond = street.crossing[0] - 2, street.crossing[1] + 2
    near = rng.uniform(-12, 2)
    while near < end:
        far = near + rng.uniform(8, 24)
        after = far + max(0, rng.uniform(-6, 4))
        if near < beyond and far > corner:
            far, after = corner, beyond
        if far > max(near + 3, 1.5):
            yield near, far
        near = after


def _paint_garden(canvas, rng, side, distance, near, far):
    for z in np.linspace(max(far, 4.0), max(near, 4.0), max(2, int((far - near) / 4))):
        if rng.random() < 0.75:
            paint_tree(canvas, rng, side * (distance + rng.uniform(1, 6)), z, rng.uniform(5, 11))
        paint_bush(canvas, rng, side * (distance + rng.uniform(0.5, 2)), z)


def _things(canvas, rng, street):
    """What stands in the street, as (z, paint, arguments)."""
    kerb = street.half_road
    things = _cars(canvas, rng, street)
    for x, z in _spots(canvas, rng, [_foot_x(rng, street) for _ in range(rng.integers(1, 6))], 5, 16):
        for _ in range(rng.choice([1, 1, 1, 2, 3])):
            beside = (x + rng.uniform(-0.7, 0.7), z + rng.uniform(-0.6, 0.6))
            things.append((beside[1], paint_person, beside))
    for x, z in _spots(canvas, rng, _sides(rng, 0, 4) * (kerb + rng.uniform(0.7, 1.6)), 9, 45):
        things.append((z, paint_tree, (x, z, rng.uniform(4.5, 9))))
    for x, z in _spots(canvas, rng, _sides(rng, 1, 4) * (kerb + rng.uniform(0.3, 0.8)), 6, 36):
        arm = -np.sign(x) * rng.uniform(1, 2.2) if rng.random() < 0.7 else 0.0
        things.append((z, paint_pole, (x, z, rng.uniform(5, 8.5), arm)))
    for x, z in _spots(canvas, rng, _sides(rng, 1, 4) * (kerb + rng.uniform(0.3, 1.0)), 5, 20):
        things.append((z, paint_sign, (x, z, SIGN_KINDS[rng.integers(len(SIGN_KINDS))])))
    return things


def _cars(canvas, rng, street):
    """Parked along the kerbs, driving in the lanes, and crossing."""
    cars = []
    from_z, to_z = street.crossing
    for side in (-1, 1):
        parked = [side * (street.half_road - 1.05)] if rng.random() < 0.55 else []
        for x, z in _spots(canvas, rng, parked, 6, 20):
            for _ in range(rng.integers(1, 5)):
                if not from_z - 3 < z < to_z + 3:
                    cars.append((z, paint_car, (x, z, "away" if rng.random() < 0.7 else "towards")))
                z += rng.uniform(5.5, 9)
        driving = [side * min(street.half_road * 0.45, 2.2)] if rng.random() < 0.5 else []
        for x, z in _spots(canvas, rng, driving, 8, 40):
            cars.append((z, paint_car, (x, z, "away" if side > 0 else "towards")))
    if from_z < FAR and rng.random() < 0.6:
        lane = from_z + 2 + (to_z - from_z - 4) * rng.integers(2)
        cars.append((lane, paint_car, (rng.uniform(-8, 8), lane, str(rng.choice(["left", "right"])))))
    return cars


def _sides(rng, low, high):
    """From low to high - 1 times -1 or 1: on which side of the street things stand."""
    return rng.choice([-1, 1], rng.integers(low, high))


def _foot_x(rng, street):
    """Where someone walks: mostly on a pavement, now and then on the road."""
    if rng.random() < 0.28:
        return rng.uniform(-1, 1) * street.half_road
    side = rng.choice([-1, 1])
    return side * rng.uniform(street.half_road + 0.5, (street.right if side > 0 else street.left) - 0.3)


def _spots(canvas, rng, sideways, near, far):
    """(x, z) for each x that the camera can see between near and far, z random, nearer ones likelier."""
    camera = canvas.camera
    for x in sideways:
        room = 0.92 * (canvas.width - camera.centre if x > camera.x else camera.centre)
        nearest = max(near, camera.focal * abs(x - camera.x) / room)
        if nearest < far:
            yield x, nearest * (far / nearest) ** rng.random()


def _expose(canvas, rng):
    """The camera's part: contrast, a darker rim, grain; leaves the picture within [0, 1]."""
    height, width = canvas.height, canvas.width
    image = canvas.image
    image -= 0.5
    image *= rng.uniform(0.85, 1.15)
    image += 0.5 + rng.uniform(-0.05, 0.05)
    down = (np.linspace(-1, 1, height) ** 2)[:, None]
    image *= (1 - rng.uniform(0, 0.1) * (down + np.linspace(-1, 1, width) ** 2)).astype(np.float32)
    image *= 1 + 0.05 * smooth_noise(rng, (height, width), (3, 3))
    image += rng.uniform(0.006, 0.03) * rng.standard_normal(image.shape, np.float32)
    np.clip(image, 0, 1, out=image)


def _visible_objects(canvas):
    """Tight boxes (n, 4) and labels (n) of the objects that show enough of themselves."""
    height, width = canvas.height, canvas.width
    boxes, labels = [], []
    for number, label in enumerate(canvas.labels, start=1):
        shown = canvas.owner == number
        if shown.sum() < SMALLEST_SHARE * height * width:
            continue
        rows, columns = np.flatnonzero(shown.any(1)), np.flatnonzero(shown.any(0))
        corners = (columns[0], rows[0], columns[-1] + 1, rows[-1] + 1)
        boxes.append(np.divide(corners, (width, height, width, height)))
        labels.append(label)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(labels, np.int64)
