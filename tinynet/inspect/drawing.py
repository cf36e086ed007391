"""Graphs drawn as SVG, by hand: one column of boxes, downwards in time, frames around groups, arcs at the side.

Where each op stands below the one before, a frame can hold each group, and what an eye must follow is what doesn't
just go on downwards. Such an arrow runs at the right side, in a lane of its own where others run beside it; the
shorter, the nearer to the boxes, so that the arcs of an hour-glass lie within each other as its levels do.
"""

from collections.abc import Sequence
from typing import Any
from xml.sax.saxutils import escape

CHARACTER, HEIGHT = 6.7, 20  # of the text in boxes, and of a box
GAP, PADDING = 8, 6  # between boxes; between a frame and what it holds
TITLE = 17  # of a frame that holds others, above them; other frames have theirs at the left
LANE, MARGIN = 13, 12

STYLE = """
  text { font: 11px ui-monospace, Menlo, Consolas, "DejaVu Sans Mono", monospace; fill: #1c2733; }
  .title { font-family: system-ui, "Helvetica Neue", Arial, "DejaVu Sans", sans-serif; fill: #51606f; }
  .shape { fill: #51606f; } .notes { fill: #8a5a16; }
  .page { fill: #ffffff; } .frame { fill: #5b7fa6; fill-opacity: 0.07; stroke: #9db2c7; }
  .op { fill: #ffffff; stroke: #7d8b99; } .weighted { fill: #dbe8f8; stroke: #3f73ad; }
  .view { fill: none; stroke: #b4bec8; stroke-dasharray: 3 2; } .end { fill: #fbe3dc; stroke: #b8532f; }
  .down, .arc { fill: none; stroke: #51606f; stroke-width: 1.2; } .arc { stroke: #c0561f; stroke-width: 1.6; }
  .tip { fill: #51606f; } .arctip { fill: #c0561f; }
  @media (prefers-color-scheme: dark) {
    text { fill: #e4e9ee; } .title, .shape { fill: #a9b6c3; } .notes { fill: #e0b36b; }
    .page { fill: #14191f; } .frame { fill: #7fa6d0; stroke: #46586b; }
    .op { fill: #1f2730; stroke: #8795a3; } .weighted { fill: #1d3654; stroke: #6ea3dc; }
    .view { fill: none; stroke: #56636f; } .end { fill: #4a2418; stroke: #e58761; }
    .down { stroke: #a9b6c3; } .arc { stroke: #f0935a; } .tip { fill: #a9b6c3; } .arctip { fill: #f0935a; }
  }
"""
VIEWS = {"Reshape", "Transpose", "Index", "BroadcastTo", "Cast"}  # ops that only move


def draw(boxes: Sequence[Any], edges: Sequence[tuple[int, int]], members: Sequence[Any]) -> str:
    """The SVG document of a Graph's boxes, edges and members (groups with members, and numbers of boxes)."""
    place = _Placing(boxes, members)
    lanes = _lanes([(a, b) for a, b in edges if b != a + 1])
    width = place.right + place.depth * PADDING + LANE * (max(lanes.values(), default=-1) + 2) + MARGIN
    height = place.y + MARGIN
    ends = set(range(len(boxes))) - {a for a, _ in edges}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" width="{width:.0f}" '
        f'height="{height:.0f}">',
        f"<style>{STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 6 6" refX="6" refY="3" markerWidth="6" markerHeight="6" orient="auto">'
        '<path class="tip" d="M0 0L6 3L0 6z"/></marker><marker id="arctip" viewBox="0 0 6 6" refX="6" refY="3" '
        'markerWidth="5" markerHeight="5" orient="auto"><path class="arctip" d="M0 0L6 3L0 6z"/></marker></defs>',
        f'<rect class="page" width="{width:.0f}" height="{height:.0f}"/>',
        *place.frames,
        *(_box(box, place.left, place.tops[i], place.right, i in ends) for i, box in enumerate(boxes)),
        *(_down(place, a, b) for a, b in edges if b == a + 1),
        *(_arc(place, a, b, lane) for (a, b), lane in lanes.items()),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


class _Placing:
    """Where everything stands: the boxes' tops, the column's left and right, and the frames, drawn."""

    def __init__(self, boxes, members):
        self.depth, titles = _depth_and_titles(members)
        longest = max((len(_text(box)) for box in boxes), default=0)
        self.left = MARGIN + (self.depth + 1) * PADDING + titles * CHARACTER + 10
        self.right = self.left + longest * CHARACTER + 16
        self.tops, self.frames, self.y = {}, [], MARGIN
        self._members(members, 0)

    def _members(self, members, depth):
        for i, member in enumerate(members):
            self.y += GAP if i else 0
            if isinstance(member, int):
                self.tops[member] = self.y
                self.y += HEIGHT
            else:
                self._group(member, depth)

    def _group(self, group, depth):
        top, index, is_leaf = self.y, len(self.frames), _is_leaf(group)
        self.y += PADDING if is_leaf else TITLE + 2
        self._members(group.members, depth + 1)
        self.y += PADDING
        x, right = MARGIN + depth * PADDING, self.right + (self.depth - depth) * PADDING
        self.frames.insert(index, (  # before those within it
            f'<rect class="frame" x="{x}" y="{top}" width="{right - x:.0f}" height="{self.y - top}" rx="7"/>'
            f'<text class="title" x="{x + 7}" y="{top + (PADDING + 14 if is_leaf else 13)}">{escape(group.title)}'
            "</text>"))


def _is_leaf(group):
    return all(isinstance(member, int) for member in group.members)


def _depth_and_titles(members):
    """How deep the groups lie within each other, and the longest title that stands beside boxes."""
    depth = titles = 0
    for group in members:
        if not isinstance(group, int):
            below, longest = _depth_and_titles(group.members)
            depth = max(depth, below + 1)
            titles = max(titles, longest, len(group.title) if _is_leaf(group) else 0)
    return depth, titles


def _text(box):
    return "  ".join(filter(None, (box.label, box.shape, box.notes)))


def _box(box, left, top, right, is_end):
    """A box with its text; pointing at it shows the formula, the first lines of the op's documentation."""
    kind = type(box.op).__name__
    role = "end" if is_end else "view" if kind in VIEWS else "weighted" if box.notes else "op"
    spans = "".join(f'<tspan class="{name}" dx="{dx}">{escape(text)}</tspan>'
                    for name, dx, text in (("shape", 10, box.shape), ("notes", 10, box.notes)) if text)
    formula = " ".join((type(box.op).__doc__ or kind).split("\n\n")[0].split())
    return (f'<g><title>{escape(f"{kind}: {formula}")}</title>'
            f'<rect class="op {role}" x="{left:.0f}" y="{top}" width="{right - left:.0f}" height="{HEIGHT}" rx="4"/>'
            f'<text x="{left + 7:.0f}" y="{top + 14}">{escape(box.label)}{spans}</text></g>')


def _down(place, a, b):
    x = (place.left + place.right) / 2
    return f'<path class="down" marker-end="url(#tip)" d="M{x:.0f} {place.tops[a] + HEIGHT}V{place.tops[b]}"/>'


def _lanes(edges):
    """(from, to) -> lane: the shortest first, each in the innermost lane that is free along it."""
    lanes, taken = {}, []  # taken: of each lane the stretches that are
    for a, b in sorted(edges, key=lambda edge: edge[1] - edge[0]):
        free = (i for i, stretches in enumerate(taken) if all(b <= c or d <= a for c, d in stretches))
        lane = lanes[a, b] = next(free, len(taken))
        taken[lane:] = taken[lane:] or [[]]
        taken[lane].append((a, b))
    return lanes


def _arc(place, a, b, lane):
    """From the side of one box, out to the lane, down, and back to the side of the other."""
    start, end = place.tops[a] + HEIGHT - 6, place.tops[b] + 6
    x = place.right + place.depth * PADDING + LANE * (lane + 1)
    bend = min(x - place.right, (end - start) / 2)
    return (f'<path class="arc" marker-end="url(#arctip)" d="M{place.right:.0f} {start}H{x - bend:.0f}'
            f"Q{x:.0f} {start} {x:.0f} {start + bend:.0f}V{end - bend:.0f}"
            f'Q{x:.0f} {end} {x - bend:.0f} {end}H{place.right:.0f}"/>')
