"""The table of a profile: accounts added up by layer or by op, as rows and as text."""

from __future__ import annotations

from typing import Any, NamedTuple

from tinynet.inspect.summary import count, size_of

WIDTH = 120  # characters that a line has at most
MOSTLY = 0.9  # of the time a thread should have the processor while it is measured
EXPLAINED = {
    "layers": "the rows above",
    "ops": "the rows above",
    "Python of layers": "from a layer's call to its ops",
    "between layers": "Python of modules that call others",
    "backward": "the walk through the graph; gradients are added up, and copied for .grad",
    "outside": "the program outside of all these",
}
NOTHING = "Profile: nothing has run within it yet: call a model inside `with tn.profile() as p:`, and print p after it"
RUNNING = "Profile: it is still running; leave its `with` block, then print it"


class Row(NamedTuple):
    """A layer, or an op that a larger module or the program calls itself; figures of one step."""

    layer: str  # its path in the model; "" outside of modules
    kind: str  # its class, or the op's
    runs: float  # of the layer, or of the op
    forward: float  # seconds
    backward: float
    multiply_adds: float  # in the forward pass
    backward_multiply_adds: float
    kept: float  # bytes of results that are kept for the backward pass, and weren't by a row above
    gradient: float | None  # root of the mean square of the output's gradient
    weights_gradient: float | None  # norm of the weights' gradient, root of the mean square over the steps
    dead: tuple | None  # (channels in which a ReLU gave only zeros, of how many)


class Ledger:
    """The accounts of a profile, added up: rows, parts, and the text of the tables."""

    def __init__(self, profile: Any) -> None:
        self.profile, self.steps = profile, max(profile.steps, 1)
        self.unit = self.steps * 1e9  # nanoseconds of all steps -> seconds of one
        roots = {place.root: None for place, *_ in profile.accounts if place.root is not None}
        self.names = _names(roots)
        self.rows, self.between, self.within = [], 0, 0
        groups = {}
        for (place, op, which), account in profile.accounts.items():
            if not profile.is_container(place):
                groups.setdefault(place, []).append(account)
                self.within += account.forward if not op else 0
            elif op:
                groups[place, op, which] = [account]
            else:
                self.between += account.forward
        self.rows = [self._row(group, profile.is_container(group[0].place)) for group in groups.values()]

    def _row(self, accounts, is_op):
        place, op = accounts[0].place, accounts[0].op

        def total(name):
            return sum(getattr(account, name) for account in accounts)

        squares, numbers = (sum(a.gradients[i] for a in accounts) for i in (0, 1))
        weights, is_trained = (sum(a.weights[i] for a in accounts) for i in (0, 1))
        units = [dead for account in accounts for dead in account.dead.values()]
        runs = accounts[0].runs if is_op else next((a.runs for a in accounts if not a.op), 0)
        return Row(
            self._layer(place, is_op), op if is_op else place.kind,
            runs / self.steps, total("forward") / self.unit, total("backward") / self.unit,
            total("multiply_adds") / self.steps, total("backward_multiply_adds") / self.steps,
            total("kept") / self.steps,
            (squares / numbers) ** 0.5 if numbers else None,
            (weights / self.steps) ** 0.5 if is_trained else None,
            (sum(int(dead.sum()) for dead in units), sum(map(len, units))) if units else None,
        )

    def _layer(self, place, is_op):
        """The path; for an op that the outermost module calls itself, which has none, that module's class."""
        if place.root is None or (self.names is None and place.path):
            return place.path
        if self.names is None:
            return type(place.root).__name__ if is_op else ""
        return ".".join(filter(None, (self.names[place.root], place.path)))

    @property
    def parts(self) -> dict[str, float]:
        """{name: seconds of a step} of what isn't in the rows, but for what is outside."""
        return {name: seconds for name, seconds, _ in self._parts()}

    def _parts(self):
        """(name, seconds, seconds without those of its ops)"""
        p = self.profile
        if self.between:
            yield "between layers", self.between / self.unit, self.between / self.unit
        for name, account in p.parts_of_training.items():
            yield name, (account.forward + account.backward) / self.unit, account.forward / self.unit

    # Text

    def text(self, by: str) -> str:
        if by not in ("layer", "op"):
            raise ValueError(f'profile: table by {by!r}; give "layer" or "op"')
        if not self.profile.accounts or not self.profile.total:
            return NOTHING if not self.profile.accounts else RUNNING
        head, cells, lefts, sums = self._by_layer() if by == "layer" else self._by_op()
        lines = _columns(head, cells, lefts)
        rule = "-" * max(map(len, lines))
        return "\n".join([lines[0], rule, *lines[1:], rule, *self._sums(sums), *self._totals()])

    def _by_layer(self):
        head = ("layer", "", "fwd ms", "of peak", "bwd ms", "of peak", "time", "kept", "rms dy", "|dw|", "dead")
        cells = [self._cells(row) for row in self.rows]
        seconds = sum(row.forward + row.backward for row in self.rows)
        return head, cells, 2, [("layers", seconds), *((name, whole) for name, whole, _ in self._parts())]

    def _cells(self, row):
        kind = row.kind if row.runs in (0, 1) else f"{row.kind} ({row.runs:.3g} times)"
        return (
            row.layer, kind, _ms(row.forward), self._of_peak(row.multiply_adds, row.forward),
            _ms(row.backward) if row.backward else "", self._of_peak(row.backward_multiply_adds, row.backward),
            self._share(row.forward + row.backward), size_of(round(row.kept)) if row.kept else "",
            "" if row.gradient is None else f"{row.gradient:.1e}",
            "" if row.weights_gradient is None else f"{row.weights_gradient:.1e}",
            "" if row.dead is None else "{}/{}".format(*row.dead),
        )

    def _by_op(self):
        head = ("op", "pass", "runs", "ms", "time", "multiply-adds", "of peak")
        cells, whole = [], 0
        for (name, is_backward), account in sorted(self.profile.by_op.items(), key=lambda item: -_time(item[1])):
            seconds, cost = _time(account) / self.unit, (account.multiply_adds + account.backward_multiply_adds)
            whole += seconds
            cells.append((name, "backward" if is_backward else "forward", f"{account.runs / self.steps:.3g}",
                          _ms(seconds), self._share(seconds), count(round(cost / self.steps)) if cost else "",
                          self._of_peak(cost / self.steps, seconds)))
        return head, cells, 2, [("ops", whole), ("Python of layers", self.within / self.unit),
                                *((name, without) for name, _, without in self._parts())]

    def _sums(self, parts):
        """What the rows and the parts make together, and what is left."""
        total = sum(seconds for _, seconds in parts)
        outside = self.profile.outside / self.unit
        for name, seconds in [*parts, ("together", total), ("outside", outside)]:
            yield f"{name:<16}  {_ms(seconds):>8} ms  {self._share(seconds):>7}  {EXPLAINED.get(name, '')}".rstrip()

    def _totals(self):
        p = self.profile
        steps = f"{p.steps} step{'s' * (p.steps > 1)} of" if p.steps else "no step of an optimiser;"
        cost = sum(row.multiply_adds + row.backward_multiply_adds for row in self.rows)
        kept = sum(row.kept for row in self.rows)
        seconds = sum(row.forward + row.backward for row in self.rows)
        yield f"{steps} {_ms(p.seconds)} ms, and {_ms(p.overhead)} ms for the profile itself"
        if p.ran < MOSTLY:
            yield (f"the thread had the processor for {100 * p.ran:.0f} % of the time; it waited, or others ran: "
                   "single figures may be too large")
        if kept:
            yield f"{size_of(round(kept))} of results kept for the backward pass"
        if cost and self.profile.peak:
            rate = 2e-9 * cost / seconds
            yield (f"{count(round(cost))} multiply-adds at {rate:.3g} GFLOP/s in the layers' time, "
                   f"{self._of_peak(cost, seconds)} of the peak of {p.peak:.0f} "
                   f"({p.threads} thread{'s' * (p.threads > 1)})")

    def _share(self, seconds):
        return f"{100 * seconds * self.unit / self.profile.total:.1f} %"

    def _of_peak(self, multiply_adds, seconds):
        if not multiply_adds or not seconds or not self.profile.peak:
            return ""
        return f"{200e-9 * multiply_adds / seconds / self.profile.peak:.0f} %"


def _names(roots):
    """Names for the outermost modules, their classes and, if need be, numbers; None where there is but one."""
    if len(roots) < 2:
        return None
    kinds = [type(root).__name__ for root in roots]
    return {root: kind + (f" {kinds[:i].count(kind) + 1}" if kinds.count(kind) > 1 else "")
            for i, (root, kind) in enumerate(zip(roots, kinds, strict=True))}


def _columns(head, rows, lefts):
    """Lines of aligned cells, without columns that are empty in all rows; paths that are too long lose their front."""
    used = [i for i in range(len(head)) if any(row[i] for row in rows) or i < lefts]
    lines = [[line[i] for i in used] for line in (head, *rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    widths[0] = max(min(widths[0], WIDTH - sum(widths[1:]) - 2 * (len(widths) - 1)), 12)
    for line in lines:
        if len(line[0]) > widths[0]:
            line[0] = "..." + line[0][3 - widths[0]:]
    return ["  ".join(cell.ljust(width) if i < lefts else cell.rjust(width)
                      for i, (cell, width) in enumerate(zip(line, widths, strict=True))).rstrip() for line in lines]


def _time(account):
    return account.forward + account.backward


def _ms(seconds):
    return f"{1000 * seconds:.2f}"
