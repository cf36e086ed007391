"""Paints what stands or moves in a street: cars, people, trees, poles and signs."""
import numpy as np

from tinynet.data.scene_painting import CAR, PERSON, POLE, SIGN, TREE, Canvas, faces_camera, smooth_noise
from tinynet.typing import Random

# length, width, clearance, height of the body and of the roof in metres; then where the cabin begins and ends
# at its foot and at its roof, as shares of the length from the tail
CAR_SHAPES = (
    (4.0, 1.75, 0.28, 0.88, 1.48, 0.02, 0.74, 0.12, 0.56),     # hatchback
    (4.6, 1.80, 0.28, 0.88, 1.42, 0.14, 0.74, 0.26, 0.58),     # saloon
    (4.5, 1.90, 0.34, 1.02, 1.75, 0.01, 0.78, 0.06, 0.64),     # off-roader
    (5.0, 2.00, 0.30, 1.15, 2.20, 0.00, 0.86, 0.02, 0.74),     # van
    (6.5, 2.20, 0.35, 1.20, 2.90, 0.00, 0.99, 0.00, 0.97),     # bus
)
CAR_SHARES = (0.32, 0.28, 0.2, 0.13, 0.07)
HEADINGS = {"away": (0.0, 1.0), "towards": (0.0, -1.0), "left": (-1.0, 0.0), "right": (1.0, 0.0)}
FACE_SHADES = {"tail": 0.82, "right": 1.0, "nose": 0.86, "left": 0.92}

CAR_GREYS = (0.12, 0.3, 0.55, 0.72, 0.9)
CAR_COLOURS = np.array([[0.62, 0.1, 0.1], [0.13, 0.22, 0.48], [0.16, 0.34, 0.24], [0.72, 0.55, 0.2],
                        [0.45, 0.36, 0.28], [0.36, 0.5, 0.6]])
LEAVES = np.array([[0.26, 0.4, 0.16], [0.36, 0.46, 0.2], [0.2, 0.32, 0.2], [0.42, 0.44, 0.26],
                   [0.56, 0.36, 0.16], [0.5, 0.24, 0.16]])
LEAF_SHARES = (0.3, 0.22, 0.2, 0.12, 0.1, 0.06)
SKIN = np.array([[0.93, 0.76, 0.64], [0.8, 0.6, 0.46], [0.56, 0.38, 0.27], [0.36, 0.24, 0.17]])
BOARDS = np.array([[0.08, 0.26, 0.6], [0.08, 0.42, 0.26], [0.92, 0.92, 0.9], [0.9, 0.72, 0.15]])
SIGNALS = np.array([[0.95, 0.15, 0.1], [0.98, 0.7, 0.1], [0.2, 0.9, 0.45]])
BLACK = np.array([0.06, 0.06, 0.07])
STEEL = np.array([0.55, 0.55, 0.57])
WHITE = np.array([0.93, 0.93, 0.9])
RED = np.array([0.8, 0.1, 0.1])
BLUE = np.array([0.1, 0.28, 0.66])
TAIL_LIGHT = np.array([0.85, 0.1, 0.08])
HEADLIGHT = np.array([1.0, 0.96, 0.8])
LAMPLIGHT = np.array([1.0, 0.92, 0.7])
LIT, UNLIT = 1.0, 0.75


def _brush(canvas, z, label, owner=0):
    """A function (shape, colour) that paints one thing, z metres away."""
    def lay(shape, colour):
        canvas.paint(shape, canvas.light.on(np.minimum(colour, 1), z), label, owner)
    return lay


def paint_car(canvas: Canvas, rng: Random, x: float, z: float, heading: str) -> None:
    """A car with its middle at (x, z): two solids with windows, wheels and lights on their faces."""
    light = canvas.light
    length, width, low, body, roof, *cabin = CAR_SHAPES[rng.choice(len(CAR_SHAPES), p=CAR_SHARES)]
    colour = _car_colour(rng)
    place = _Place(x, z, HEADINGS[heading], length, width)
    owner = canvas.new_object(CAR)
    lay = _brush(canvas, z, CAR, owner)
    canvas.darken(canvas.face(place.ring(-0.04, 1.04, 0.02, 0.62)), 0.55)
    ring = place.ring
    _paint_solid(canvas, lay, ring(0.03, 0.97, 0.06, 0.48), ring(0.03, 0.97, low + 0.1, 0.48), BLACK)
    sides = _paint_solid(canvas, lay, ring(0, 1, low, 0.5), ring(0.01, 0.99, body, 0.49), colour)
    panes = _paint_solid(canvas, lay, ring(*cabin[:2], body, 0.47), ring(*cabin[2:], roof, 0.4), colour)
    for face in panes.values():
        lay(canvas.face(_part(face, 0.07, 0.93, 0.12, 0.86)), light.zenith * 0.25 + BLACK)
    for name, face in sides.items():
        if name in ("left", "right"):
            _paint_wheels(canvas, lay, place, 1 if name == "right" else -1, length)
        else:
            _paint_lights(canvas, lay, face, TAIL_LIGHT if name == "tail" else HEADLIGHT, owner)


class _Place:
    """Turns a car's own lengthwise and sideways coordinates, as shares of its size, into the world's."""

    def __init__(self, x, z, heading, length, width):
        self.middle = np.array([x, z])
        self.ahead = np.array(heading) * length
        self.aside = np.array([heading[1], -heading[0]]) * width

    def point(self, along, aside, y):
        x, z = self.middle + self.ahead * (along - 0.5) + self.aside * aside
        return x, y, z

    def ring(self, tail, nose, y, half):
        """A level rectangle at height y, from `tail` to `nose` and `half` a width to either side."""
        return [self.point(along, aside, y)
                for along, aside in ((tail, -half), (tail, half), (nose, half), (nose, -half))]


def _paint_solid(canvas, lay, bottom, top, colour):
    """Paints the visible faces of a solid between two rings; returns the upright ones by name."""
    visible = {}
    for number, (name, shade) in enumerate(FACE_SHADES.items()):
        after = (number + 1) % 4
        face = np.array([bottom[number], bottom[after], top[after], top[number]])
        if faces_camera(canvas.camera, face[::-1]):
            visible[name] = face
            lay(canvas.face(face), colour * shade)
    if canvas.camera.y > top[0][1]:
        lay(canvas.face(top), colour * 1.18 + 0.02)
    return visible


def _part(face, left, right, low, high):
    """The part of a four-cornered face between shares of its width and height."""
    a, b, c, d = face
    return np.array([(1 - v) * ((1 - u) * a + u * b) + v * ((1 - u) * d + u * c)
                     for u, v in ((left, low), (right, low), (right, high), (left, high))])


def _paint_wheels(canvas, lay, place, side, length):
    turn = np.linspace(0, 2 * np.pi, 12, endpoint=False)
    for along in (0.18, 0.81):
        for radius, colour in ((0.34, BLACK), (0.19, STEEL)):
            x, y = along + radius / length * np.cos(turn), 0.34 + radius * np.sin(turn)
            rim = [place.point(px, 0.505 * side, py) for px, py in zip(x, y, strict=True)]
            lay(canvas.face(rim), colour)


def _paint_lights(canvas, lay, face, colour, owner):
    """Lights, number plate and bumper on the tail or the nose."""
    for left, right in ((0.03, 0.2), (0.8, 0.97)):
        lamp = canvas.face(_part(face, left, right, 0.52, 0.8))
        if canvas.light.lamps:
            canvas.paint(lamp, colour * LIT, CAR, owner)
        else:
            lay(lamp, colour * UNLIT)
    lay(canvas.face(_part(face, 0.36, 0.64, 0.3, 0.48)), WHITE * 0.9)
    lay(canvas.face(_part(face, 0.02, 0.98, 0.02, 0.14)), BLACK + 0.1)


def _car_colour(rng):
    if rng.random() < 0.55:
        return rng.choice(CAR_GREYS) * rng.uniform(0.95, 1.05, 3)
    return CAR_COLOURS[rng.integers(len(CAR_COLOURS))] * rng.uniform(0.75, 1.2)


def paint_person(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """Someone on foot: legs in mid-stride, coat, arms, bag, head; lengths are shares of the height."""
    camera = canvas.camera
    size = rng.uniform(1.5, 1.9) * camera.focal / z
    middle, foot = camera.column(x, z), camera.row(0, z)
    lay = _brush(canvas, z, PERSON, canvas.new_object(PERSON))
    coat, trousers = _cloth(rng), _cloth(rng) * 0.7
    stride, wide, lean = rng.uniform(0.03, 0.19), rng.uniform(0.11, 0.155), rng.uniform(-0.03, 0.03)

    def limb(top, bottom, colour):
        """From (middle, half width, height) at its top to the same at its bottom."""
        (x0, half0, y0), (x1, half1, y1) = top, bottom
        corners = (x0 - half0, y0), (x0 + half0, y0), (x1 + half1, y1), (x1 - half1, y1)
        lay(canvas.polygon([(middle + px * size, foot - py * size) for px, py in corners]), colour)

    canvas.darken(canvas.ellipse(middle, foot, 0.2 * size, 0.06 * size), 0.45)
    limb((-0.012, 0.06, 0.52), (-stride, 0.05, 0), trousers * 0.85)
    limb((0.012, 0.06, 0.52), (stride, 0.05, 0), trousers)
    limb((lean, wide * 0.8, 0.62), (0, wide * 0.85, rng.choice([0.47, 0.47, 0.3])), coat * 0.95)
    limb((lean, wide, 0.78), (lean, wide * 0.8, 0.6), coat)
    limb((lean, wide * 0.6, 0.83), (lean, wide, 0.77), coat)
    for way in (-1, 1):
        hand = way * (wide + 0.03) + rng.uniform(-0.07, 0.07)
        limb((way * wide + lean, 0.034, 0.8), (hand, 0.034, 0.47), coat * 0.86)
    if rng.random() < 0.3:
        limb((wide + 0.08, 0.08, 0.5), (wide + 0.08, 0.07, 0.34), _cloth(rng))
    skin = SKIN[rng.integers(len(SKIN))] * rng.uniform(0.9, 1.1)
    limb((lean, 0.034, 0.885), (lean, 0.034, 0.81), skin * 0.9)
    middle += lean * size
    lay(canvas.ellipse(middle, foot - 0.925 * size, 0.064 * size, 0.075 * size), _cloth(rng) * 0.4)
    middle += rng.uniform(-0.03, 0.03) * size
    lay(canvas.ellipse(middle, foot - 0.905 * size, 0.051 * size, 0.056 * size), skin)


def _cloth(rng):
    return np.clip(rng.uniform(0.1, 0.9) * rng.uniform(0.6, 1.4, 3) + rng.uniform(-0.06, 0.06), 0.05, 0.95)


def paint_tree(canvas: Canvas, rng: Random, x: float, z: float, height: float) -> None:
    """A trunk and a crown, slim as a poplar's or broad."""
    camera = canvas.camera
    metre = camera.focal / z
    base, foot = camera.column(x, z), camera.row(0, z)
    slim = rng.random() < 0.22
    reach = height * (rng.uniform(0.13, 0.18) if slim else rng.uniform(0.24, 0.36)) * metre
    bare = height * (0.1 if slim else rng.uniform(0.25, 0.38)) * metre
    half = max(0.022 * height * metre, 1.1 * canvas.unit)
    canvas.darken(canvas.ellipse(base, foot, reach * 0.7, reach * 0.1), 0.35)
    top = foot - bare - 0.3 * reach
    trunk = [(base + share * half, row)
             for share, row in ((-0.7, top), (0.7, top), (1.2, foot), (-1.2, foot))]
    bark = np.array([0.34, 0.26, 0.2]) * rng.uniform(0.6, 1.2)
    _brush(canvas, z, TREE)(canvas.polygon(trunk), bark)
    _paint_crown(canvas, rng, z, base, (foot - bare, foot - height * metre), reach, slim)


def paint_bush(canvas: Canvas, rng: Random, x: float, z: float) -> None:
    """A bush, down to the ground."""
    camera = canvas.camera
    metre, foot = camera.focal / z, camera.row(0, z)
    high, wide = rng.uniform(0.8, 1.8, 2) * metre
    _paint_crown(canvas, rng, z, camera.column(x, z), (foot, foot - high), wide, False)


def _paint_crown(canvas, rng, z, middle, span, reach, slim):
    """Overlapping ellipses from the row span[0] up to span[1], with a ragged rim and light from above."""
    bottom, top = span
    high = bottom - top
    window = canvas.window(middle - 1.3 * reach, top - 0.1 * high, middle + 1.3 * reach, bottom)
    if window is None:
        return
    count = 4 if slim else 8
    up = (np.arange(count) + 0.5) / count if slim else rng.uniform(0.2, 0.8, count)
    taper = 1.15 - up if slim else np.sqrt(1.05 - (2 * up - 1) ** 2)
    aside = np.zeros(count) if slim else rng.uniform(-0.55, 0.55, count) * taper
    radius_x = reach * (taper if slim else rng.uniform(0.4, 0.62, count))
    radius_y = high * (np.full(count, 0.22) if slim else rng.uniform(0.2, 0.32, count))
    across = ((canvas.columns[window[1]] - (middle + aside * reach)[:, None]) / radius_x[:, None]) ** 2
    down = ((canvas.rows[window[0]] - (bottom - high * up)[:, None]) / radius_y[:, None]) ** 2
    inside = (1 - (across[:, None, :] + down[:, :, None])).max(0)
    leaves = smooth_noise(rng, inside.shape, (9, 9)) + 0.7 * smooth_noise(rng, inside.shape, (23, 23))
    coverage = np.clip((inside + 0.34 * leaves) * max(reach, 2) * 0.35 + 0.5, 0, 1)
    height = ((bottom - canvas.rows[window[0]]) / max(high, 1))[:, None]
    shade = 0.62 + 0.42 * height + 0.2 * leaves - 0.12 * np.clip(inside, 0, 1)
    green = LEAVES[rng.choice(len(LEAVES), p=LEAF_SHARES)] * rng.uniform(0.92, 1.08, 3)
    shade *= rng.uniform(0.75, 1.25)
    _brush(canvas, z, TREE)((window, coverage), green[:, None, None] * shade)


def paint_pole(canvas: Canvas, rng: Random, x: float, z: float, height: float, arm: float) -> None:
    """A post, with a lamp at the end of an arm of `arm` metres unless that is 0."""
    camera = canvas.camera
    metre = camera.focal / z
    column, foot, top = camera.column(x, z), camera.row(0, z), camera.row(height, z)
    half = max(rng.uniform(0.06, 0.1) * metre, 1.5 * canvas.unit)      # never too thin to be learnt
    grey = STEEL * rng.uniform(0.25, 1.3)
    lay = _brush(canvas, z, POLE)
    canvas.darken(canvas.ellipse(column, foot, half * 3, half), 0.4)
    lay(canvas.rectangle(column - half, top, column + half, foot), grey)
    lay(canvas.rectangle(column - half, top, column - half * 0.3, foot), grey * 1.35)
    if arm:
        end = column + arm * metre
        lay(canvas.rectangle(min(column, end), top, max(column, end), top + 2 * half), grey)
        radii = max(0.42 * metre, 2.6 * half), max(0.16 * metre, 1.5 * half)
        lamp = canvas.ellipse(end, top + 2.2 * half, *radii)
        if canvas.light.lamps:
            canvas.paint(lamp, LAMPLIGHT, POLE)
        else:
            lay(lamp, WHITE * 0.85)


def paint_sign(canvas: Canvas, rng: Random, x: float, z: float, kind: str) -> None:
    """A plate, or a traffic light, on a post."""
    camera = canvas.camera
    metre = camera.focal / z
    radius = max(rng.uniform(0.4, 0.6) * metre, 4.4 * canvas.unit)
    middle = camera.row(rng.uniform(2.3, 3.2), z) - radius
    paint_pole(canvas, rng, x, z, camera.y - (middle - camera.horizon) / metre, 0.0)
    owner = canvas.new_object(SIGN)
    SIGNS[kind](canvas, rng, _brush(canvas, z, SIGN, owner), camera.column(x, z), middle, radius)


def _round_sign(canvas, rng, lay, x, y, radius):
    """A ban (red ring) or an order (blue disc)."""
    rim, field, bar = (RED, WHITE, BLACK) if rng.random() < 0.6 else (WHITE, BLUE, WHITE)
    lay(canvas.ellipse(x, y, radius, radius), rim)
    lay(canvas.ellipse(x, y, radius * 0.74, radius * 0.74), field)
    lay(canvas.rectangle(x - radius * 0.45, y - radius * 0.16, x + radius * 0.45, y + radius * 0.16), bar)


def _triangle_sign(canvas, rng, lay, x, y, radius):
    """A warning: a white field in a red border."""
    for share, colour in ((1.05, RED), (0.62, WHITE)):
        size = radius * share
        low, high, wide = y + 0.9 * size, y - 1.1 * size, 1.15 * size
        lay(canvas.polygon([(x - wide, low), (x, high), (x + wide, low)]), colour)


def _board_sign(canvas, rng, lay, x, y, radius):
    """A direction board: a coloured field with lines of writing."""
    field = BOARDS[rng.integers(len(BOARDS))]
    ink = WHITE if field.mean() < 0.5 else BLACK
    wide, high = radius * rng.uniform(1.0, 1.9), radius * rng.uniform(0.75, 1.15)
    lay(canvas.rectangle(x - wide, y - high, x + wide, y + high), field)
    for line in (-0.45, 0.0, 0.45):
        end = x + wide * rng.uniform(0.1, 0.8)
        lay(canvas.rectangle(x - wide * 0.8, y + high * (line - 0.12), end, y + high * (line + 0.12)), ink)


def _traffic_light(canvas, rng, lay, x, y, radius):
    """A dark box with three lamps, one of them lit."""
    wide = radius * 0.62
    lay(canvas.rectangle(x - wide, y - radius * 1.5, x + wide, y + radius * 1.2), BLACK + 0.04)
    lit = rng.integers(len(SIGNALS))
    for number, colour in enumerate(SIGNALS):
        lamp = canvas.ellipse(x, y + radius * (0.85 * number - 1.0), radius * 0.36, radius * 0.36)
        if number == lit:
            canvas.paint(lamp, colour)      # light of its own; the box has set label and owner
        else:
            lay(lamp, colour * 0.25)


SIGNS = {"round": _round_sign, "triangle": _triangle_sign, "board": _board_sign, "light": _traffic_light}
SIGN_KINDS = tuple(SIGNS)
