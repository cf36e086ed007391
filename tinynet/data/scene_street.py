"""Paints what a street is made of and what stands still behind everything: sky, ground, buildings."""
from typing import NamedTuple

import numpy as np

from tinynet.data.scene_painting import BUILDING, PAVEMENT, ROAD, SKY, TREE, Canvas, Light, smooth_noise
from tinynet.typing import Random

FAR = 160.0        # metres to what is painted at the horizon
WALLS = np.array([[0.78, 0.72, 0.6], [0.58, 0.33, 0.26], [0.55, 0.55, 0.56], [0.42, 0.5, 0.58],
                  [0.85, 0.83, 0.8], [0.5, 0.42, 0.32]])


class Street(NamedTuple):
    """A straight road with a pavement on either side, perhaps crossed by another road."""

    half_road: float       # metres from the middle to the kerb
    left: float            # from the middle to the buildings on the left
    right: float           # and on the right
    crossing: tuple[float, float]        # (from, to) in z of the road that crosses, or (FAR, FAR)
    zebra: float           # z of the zebra crossing, or 0 for none


class Facade(NamedTuple):
    """How the walls of one building look."""

    wall: np.ndarray
    trim: np.ndarray
    glass: np.ndarray
    height: float
    bay: float             # metres from window to window
    storey: float
    opening: tuple[float, float]         # share of bay and storey that the window takes
    shop: np.ndarray       # colour of the ground floor's front
    shop_height: float     # 0 for none
    roof: float            # rise of the roof in metres, 0 for flat
    table: np.ndarray      # random numbers for windows and stones


def paint_sky(canvas: Canvas, rng: Random) -> None:
    """A gradient from the skyline up, with clouds that flatten towards the horizon."""
    light = canvas.light
    height, width = canvas.height, canvas.width
    up = np.clip((canvas.camera.horizon - canvas.rows) / max(canvas.camera.horizon, 1), 0, 1)[:, None]
    sky = light.skyline[:, None, None] + (light.zenith - light.skyline)[:, None, None] * up ** 0.7
    clouds = smooth_noise(rng, (height, width), (5, 3)) + 0.5 * smooth_noise(rng, (height, width), (12, 7))
    clouds += 0.25 * smooth_noise(rng, (height, width), (30, 18))
    cover = np.clip((clouds + 2.2 * light.clouds - 1.1) * 1.2, 0, 1) * (0.35 + 0.65 * up)
    bright = np.clip(light.skyline * 0.5 + 0.5 * light.tint, 0, 1)[:, None, None] * (0.92 + 0.1 * clouds)
    canvas.image[:] = sky + cover * (bright - sky)
    canvas.mask[:] = SKY


def paint_horizon(canvas: Canvas, rng: Random) -> None:
    """Far away: a line of trees or of roofs, so that the sky's edge tells no class."""
    camera, light = canvas.camera, canvas.light
    trees = rng.random() < 0.6
    cells = (1, int(rng.integers(4, 9))) if trees else (1, int(rng.integers(8, 16)))
    profile = smooth_noise(rng, (1, canvas.width), cells)[0]
    if trees:
        profile = profile + 0.4 * smooth_noise(rng, (1, canvas.width), (1, 24))[0]
        colour = np.array([0.25, 0.36, 0.2])
    else:
        profile = rng.uniform(-1, 1, cells[1] + 1)[(np.arange(canvas.width) * cells[1]) // canvas.width]
        colour = np.array([0.5, 0.44, 0.42]) * rng.uniform(0.6, 1.2)
    top = camera.horizon - canvas.unit * (7 + 4 * profile)
    window = canvas.window(0, top.min(), canvas.width, camera.horizon)
    coverage = np.clip(canvas.rows[window[0], None] - top + 0.5, 0, 1)
    coverage *= canvas.rows[window[0], None] < camera.horizon + 1
    canvas.paint((window, coverage), light.on(colour, FAR * 0.3), TREE if trees else BUILDING)


def paint_ground(canvas: Canvas, rng: Random, street: Street) -> None:
    """Road and pavements, by looking up for each pixel below the horizon which place (x, z) it shows."""
    camera, light = canvas.camera, canvas.light
    first = int(np.clip(np.ceil(camera.horizon), 0, canvas.height - 1))
    rows = slice(first, canvas.height)
    z = (camera.focal * camera.y / np.maximum(canvas.rows[rows] - camera.horizon, 0.25))[:, None]
    x = camera.x + (canvas.columns - camera.centre) * (z / camera.focal)
    metre = camera.focal / z                                # pixels across one metre
    crossing = (z > street.crossing[0]) & (z < street.crossing[1])
    road = (np.abs(x) < street.half_road) | crossing
    stones = rng.random((64, 64)).astype(np.float32)
    asphalt = rng.uniform(0.22, 0.5) * np.array([1, 1, 1.03]) * rng.uniform(0.95, 1.05, 3)
    slabs = rng.uniform(0.35, 0.68) * rng.uniform(0.9, 1.08, 3)
    ground = np.where(road, asphalt[:, None, None], slabs[:, None, None]).astype(np.float32)
    ground *= np.where(road, _asphalt(x, z, stones), _slabs(x, z, stones, metre, rng.uniform(0.5, 1.2)))
    kerb = (np.abs(np.abs(x) - street.half_road - 0.12) < 0.14) & ~crossing
    ground *= 1 + 0.22 * kerb
    marks = _markings(rng, street, x, z) * (metre * 0.12 > 0.35)
    worn = marks * (0.55 + 0.4 * stones[(z * 3).astype(int) & 63, (x * 5).astype(int) & 63])
    ground += worn * (np.array([0.92, 0.9, 0.84])[:, None, None] - ground)
    ground *= 1 - 0.45 * light.sun * _shade(rng, light, street, x, z)
    size = (canvas.height - first, canvas.width)
    ground *= 1 + 0.06 * smooth_noise(rng, size, (6, 5)) + 0.05 * smooth_noise(rng, size, (40, 16))
    canvas.image[:, rows] = light.on(ground, np.minimum(z, FAR))
    canvas.mask[rows] = np.where(road, ROAD, PAVEMENT)


def _asphalt(x, z, stones):
    """Grain, and tracks where the wheels run."""
    grain = stones[(z * 5).astype(int) & 63, (x * 9).astype(int) & 63]
    patches = stones[(z / 5).astype(int) & 63, ((x + 40) / 2.2).astype(int) & 63]
    return 0.95 + 0.1 * grain * (z < 30) - 0.16 * (patches > 0.86) + 0.05 * np.cos(2.2 * x)


def _slabs(x, z, stones, metre, size):
    """Paving stones, each of its own grey, with joints as long as they are wider than a pixel or so."""
    across, along = (x + 100) / size, z / size
    tone = stones[along.astype(int) & 63, across.astype(int) & 63]
    joint = (across % 1 < 0.09) | (along % 1 < 0.09)
    clear = np.clip((metre * size - 3) / 8, 0, 1)
    return 0.94 + 0.14 * clear * (tone - 0.5) - 0.2 * clear * joint


def _markings(rng, street, x, z):
    """Where the road is painted: dashes in the middle, lines along the kerb, a zebra crossing."""
    kind = rng.random()
    period = rng.uniform(3, 7)
    middle = np.abs(x) < 0.08
    dashed = (z + rng.uniform(0, 7)) % period < period * 0.55
    marks = middle & (dashed if kind < 0.7 else kind < 0.85)
    if rng.random() < 0.5:
        marks |= np.abs(np.abs(x) - street.half_road + 0.35) < 0.07
    marks &= (z < street.crossing[0]) | (z > street.crossing[1])
    if street.zebra:
        near = np.abs(z - street.zebra) < 1.4
        marks = np.where(near, (x % 1.0 < 0.5) & (np.abs(x) < street.half_road - 0.2), marks)
    return marks


def _shade(rng, light, street, x, z):
    """Where buildings on the sun's side keep the ground dark, with the steps of their roofs."""
    reach = rng.uniform(-0.6, 1.3) * street.half_road + rng.uniform(-1.5, 1.5, 16)[(z / 9).astype(int) & 15]
    return x * light.sun_side > reach


def random_facade(rng: Random, light: Light) -> Facade:
    """A building's looks: plaster, brick, concrete or glass."""
    wall = WALLS[rng.integers(len(WALLS))] * rng.uniform(0.7, 1.15) * rng.uniform(0.94, 1.06, 3)
    wall = np.clip(wall, 0.08, 0.95)
    low = rng.random() < 0.45
    storey = rng.uniform(2.7, 3.6)
    height = storey * (rng.integers(2, 4) if low else rng.integers(3, 9)) + rng.uniform(0.4, 1.5)
    dark_glass = light.zenith * 0.35 + np.array([0.04, 0.06, 0.08])
    return Facade(
        wall=wall, trim=np.clip(wall * rng.choice([0.6, 1.35]), 0, 1),
        glass=np.array([0.95, 0.78, 0.42]) if light.lamps else dark_glass,
        height=height, bay=rng.uniform(1.8, 4.0), storey=storey,
        opening=(rng.uniform(0.35, 0.8), rng.uniform(0.42, 0.66)),
        shop=rng.uniform(0.15, 0.6) * rng.uniform(0.6, 1.4, 3),
        shop_height=storey * 1.05 if rng.random() < 0.5 else 0.0,
        roof=rng.uniform(1.5, 3.5) if low and rng.random() < 0.7 else 0.0,
        table=rng.random((32, 32)).astype(np.float32))


def paint_building(canvas: Canvas, facade: Facade, side: int, x: float, near: float, far: float,
                   depth: float = 14.0) -> None:
    """One building beside the street, from z near to far: roof, wall along the street, wall facing us."""
    if facade.roof:
        _paint_roof(canvas, facade, side, x, near, far, depth)
    _paint_side_wall(canvas, facade, side, x, near, far)
    if near > 2:
        paint_front_wall(canvas, facade, *sorted((x, x + side * depth)), near)


def _paint_side_wall(canvas, facade, side, x, near, far):
    """The wall in the plane x, seen at a slant: a column of pixels shows one z, a pixel one height."""
    camera = canvas.camera
    edges = sorted(float(camera.column(x, z)) for z in (max(near, 0.5), far))
    top = min(camera.row(facade.height, z) for z in (max(near, 0.5), far))
    bottom = max(camera.row(0, z) for z in (max(near, 0.5), far))
    window = canvas.window(edges[0], top, edges[1], bottom)
    if window is None:
        return
    columns = canvas.columns[window[1]]
    offset = side * np.maximum(side * (columns - camera.centre), 0.5)
    z = np.clip(camera.focal * (x - camera.x) / offset, max(near, 0.5), far)
    rows = canvas.rows[window[0], None]
    y = camera.y + (camera.horizon - rows) * (z / camera.focal)
    across = np.clip(np.minimum(columns - edges[0], edges[1] - columns) + 0.5, 0, 1)
    down = np.clip(np.minimum(facade.height - y, y) * (camera.focal / z) + 0.5, 0, 1)
    pixels_a_bay = camera.focal * abs(x - camera.x) / z ** 2 * facade.bay
    colour = _wall(facade, np.broadcast_to(z - near, y.shape), y, pixels_a_bay, canvas.light.lamps)
    facing = -side * canvas.light.sun_side
    canvas.paint((window, down * across), canvas.light.on(colour, z, facing), BUILDING)


def paint_front_wall(canvas: Canvas, facade: Facade, left: float, right: float, z: float) -> None:
    """A wall that faces the camera, from x left to right."""
    camera = canvas.camera
    shape = canvas.rectangle(camera.column(left, z), camera.row(facade.height, z),
                             camera.column(right, z), camera.row(0, z))
    if shape is None:
        return
    rows, columns = shape[0]
    scale = z / camera.focal
    y = camera.y + (camera.horizon - canvas.rows[rows, None]) * scale
    u = camera.x + (canvas.columns[columns] - camera.centre) * scale - left
    colour = _wall(facade, np.broadcast_to(u, (len(y), len(u))), np.broadcast_to(y, (len(y), len(u))),
                   facade.bay / scale, canvas.light.lamps)
    canvas.paint(shape, canvas.light.on(colour, z, -0.3), BUILDING)


def _wall(facade, u, y, pixels_a_bay, lamps):
    """The colour (3, h, w) of a wall at u metres along it and y above the ground.

    Windows fade out where a bay has too few pixels to show them.
    """
    table = facade.table
    column, row = u / facade.bay, (y - facade.shop_height) / facade.storey
    column_number, row_number = np.floor(column).astype(int), np.floor(row).astype(int)
    beside = np.abs(column - column_number - 0.5) * 2
    above = np.abs(row - row_number - 0.5) * 2
    upper = (y > facade.shop_height) & (y < facade.height - 0.35 * facade.storey)
    glass = (beside < facade.opening[0]) & (above < facade.opening[1]) & upper
    frame = (beside < facade.opening[0] + 0.14) & (above < facade.opening[1] + 0.14) & upper & ~glass
    clear = np.clip((pixels_a_bay - 2.5) / 3, 0, 1)
    chance = table[row_number & 31, column_number & 31]
    pane = np.where(chance > 0.6, 1.0, 0.22) if lamps else 0.6 + 0.9 * chance
    stones = table[(y * 2.2).astype(int) & 31, (u * 1.3).astype(int) & 31]
    colour = facade.wall[:, None, None] * (0.93 + 0.1 * stones * clear + 0.008 * np.minimum(y, 10))
    colour = np.where(frame, colour + (facade.trim[:, None, None] - colour) * (0.7 * clear), colour)
    colour = np.where(glass, colour + (facade.glass[:, None, None] * pane - colour) * clear, colour)
    colour = np.where(y > facade.height - 0.4, facade.trim[:, None, None], colour)
    if facade.shop_height:
        colour = np.where(y < facade.shop_height, _shop(facade, column, y, chance, lamps), colour)
    return colour * (0.8 + 0.2 * np.clip(y, 0, 1))


def _shop(facade, column, y, chance, lamps):
    """The ground floor of a shop: a board with its colour over wide panes."""
    pane = (np.abs(column % 1 - 0.5) < 0.42) & (y < facade.shop_height * 0.72) & (y > 0.4)
    inside = facade.glass[:, None, None] * (1.1 if lamps else 0.7 + 0.7 * chance)
    return np.where(pane, inside, facade.shop[:, None, None] * (0.85 + 0.3 * (y > facade.shop_height * 0.76)))


def _paint_roof(canvas, facade, side, x, near, far, depth):
    """A gable: the slope towards the street, and the triangle over the front wall."""
    camera, light = canvas.camera, canvas.light
    near = max(near, 0.8)
    eave, ridge = facade.height, facade.height + facade.roof
    middle = x + side * min(depth / 2, 4.0)
    tiles = np.array([0.42, 0.24, 0.19]) if facade.table[0, 0] < 0.6 else np.array([0.27, 0.27, 0.3])
    # One sees the slope from above its plane, prolonged to where the camera stands.
    run = abs(middle - x)
    if camera.y > eave - facade.roof / run * abs(x - camera.x):
        slope = canvas.face([(x, eave, near), (x, eave, far), (middle, ridge, far), (middle, ridge, near)])
        canvas.paint(slope, light.on(tiles, near + 4, 0.5 * -side * light.sun_side), BUILDING)
    back = x + side * min(depth, 8.0)
    if camera.column(x, near) * side < camera.column(back, near) * side:
        gable = canvas.face([(x, eave, near), (middle, ridge, near), (back, eave, near)])
        canvas.paint(gable, light.on(facade.wall * 0.9, near, -0.3), BUILDING)
