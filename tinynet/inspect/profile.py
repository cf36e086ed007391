"""The profile of a training step: the time and the size of each op and each layer, taken while they run.

Ops, modules and the walk through the graph leave their work to `running.watcher` if there is one, which here lets
them do it and takes the time; what is no op, such as the optimiser's step, announces itself with autograd.part. Each
is a *span* of time, and spans are nested:

    with tn.profile()  [ Sequential [ Conv2d [ Gather ] ]  [ ... ]  backward [ Gather backward [ WeightGradient ] ] ]

A span's own time is its time without the spans inside it. So the own times of all spans add up to the whole, and none
is counted twice, though ops run within ops' backward. Own times are booked to accounts, each for an op in its layer;
what runs within an op's backward goes to that op. The profile's own work is taken out of all of them.
"""

from __future__ import annotations

import contextlib
import math
import time
import weakref
from collections.abc import Iterator
from typing import Any, Literal, Self

import numba
import numpy as np

from tinynet import guard
from tinynet.autograd import Op, run_backward, running
from tinynet.inspect.accounts import OUTSIDE_MODULES, Account, Place, Span
from tinynet.inspect.graph import Names, also_does, label
from tinynet.inspect.ledger import Ledger, Row
from tinynet.inspect.peak import peak_of_this_machine
from tinynet.inspect.reach import kept_arrays, multiply_adds
from tinynet.inspect.timeline import save_timeline
from tinynet.nn.fusion import joined
from tinynet.ops.activation import Relu
from tinynet.tensor import Tensor
from tinynet.typing import Array, FilePath

clock = time.perf_counter_ns  # whole numbers: sums of them are exact
MOST_SPANS = 200_000  # in the timeline: some 60 MB as a file


class Profile:
    """What profile() gives: a context to train in, and afterwards the table of what was done there.

    rows: a Row for each layer, and for each op that no layer of its own calls;  parts: {name: seconds} of all else;
    steps: of the optimiser;  seconds: of a step;  covered: the share of it that rows and parts explain;
    overhead: the seconds that the profile itself takes besides, in a step;
    ran: the share of the time for which the thread had the processor, but for its waits for the loader.
    All figures are those of one step, the mean of all; of the whole block if no optimiser made one.
    """

    is_dry = False  # ops do compute

    def __init__(self, peak: float | None = None) -> None:
        self.steps, self.threads = 0, numba.get_num_threads()
        self.spans = []  # those that are over, for the timeline: the first MOST_SPANS
        self.accounts = {}  # (place, op, which of this name in the call) -> Account
        self.parts_of_training = {}  # name -> Account
        self.by_op = {}  # (op, in a backward pass?) -> Account
        self.containers = set()  # (root, path) of modules that called others
        self.outside = self.work = self.total = 0  # nanoseconds: outside of all, the profile's own, the rest together
        self._peak = peak
        self._names = Names()
        self._span, self._work_before = None, 0
        self._processor = 0  # nanoseconds for which the thread had it
        self._of_op = weakref.WeakKeyDictionary()  # recorded op -> its Account
        self._made = weakref.WeakValueDictionary()  # id -> array that owns memory of an op's result
        self._measured = {}  # calls of layers, by id, whose output's gradient is known in this backward pass

    @property
    def peak(self) -> float:
        """The most that this machine multiplies and adds, in GFLOP/s; measured when it is first needed."""
        if self._peak is None:
            self._peak = peak_of_this_machine(self.threads)
        return self._peak

    # The table

    def table(self, by: Literal["layer", "op"] = "layer") -> str:
        """The table as a text: by "layer", or by "op", all layers together, where those of the backward pass show."""
        return Ledger(self).text(by)

    __repr__ = table

    @property
    def rows(self) -> list[Row]:
        return Ledger(self).rows

    @property
    def parts(self) -> dict[str, float]:
        return Ledger(self).parts

    @property
    def seconds(self) -> float:
        return self.total / max(self.steps, 1) / 1e9

    @property
    def overhead(self) -> float:
        return self.work / max(self.steps, 1) / 1e9

    @property
    def covered(self) -> float:
        return 1 - self.outside / self.total if self.total else math.nan

    @property
    def ran(self) -> float:
        loader = self.parts_of_training.get("loader")
        return self._processor / max(self.total + self.work - (loader.forward if loader else 0), 1)

    def save(self, path: FilePath) -> None:
        """Write what ran when as a file for https://ui.perfetto.dev or chrome://tracing (Trace Event Format, JSON).

        Raises RuntimeError if nothing has run.
        """
        if not self.spans:
            raise RuntimeError("profile: nothing has run within it, so there is no timeline to save; train inside the "
                               "`with` block, save after it")
        save_timeline(self.spans, path)

    # The block

    def __enter__(self) -> Self:
        if running.watcher is not None or self._span is not None:
            raise RuntimeError("profile: a profile or a summary is running already, and time would be counted twice; "
                               "leave its block first")
        place = OUTSIDE_MODULES if running.call is None else self._place(running.call, {})
        self._span = Span("profile", "profile", place, None, None, clock())
        self._work_before = self.work
        self._processor -= time.thread_time_ns()
        running.watcher = self
        return self

    def __exit__(self, *error: object) -> None:
        running.watcher = None
        self._processor += time.thread_time_ns()
        while (span := self._span).outer is not None:  # an interrupt may leave some open
            self._end(span)
        self._end(span)
        self.outside += span.own
        self.total += span.end - span.start - (self.work - self._work_before)

    def _begin(self, name, kind, place=None, account=None):
        self._span = Span(name, kind, place or self._span.place, account, self._span, clock())
        return self._span

    def _end(self, span):
        span.end = clock()
        self._span = span.outer
        if len(self.spans) < MOST_SPANS or span.outer is None:
            self.spans.append(span)

    def _leave(self, span, came):
        """Tell the span around that this one is over; what was done about it since `came` is the profile's work."""
        work = clock() - came - (span.end - span.start)
        self.work += work
        span.outer.inside += span.end - span.start + work

    # What comes by

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """autograd.part: the optimiser's step and the like."""
        came = clock()
        account = self.parts_of_training.setdefault(name, Account(self._span.place, name))
        span = self._begin(name, "part", account=account)
        try:
            yield
            self.steps += name == "optimizer"
        finally:
            self._end(span)
            account.runs += 1
            account.forward += span.own
            self._measured.clear()
            self._leave(span, came)

    def call(self, call: Any, inputs: tuple[Any, ...], options: dict[str, Any]) -> Any:
        """Module.__call__: let the module's forward run, and take the time."""
        came = clock()
        outer, module = self._span, call[0]
        place = self._place(call, options)
        self.containers.add((outer.place.root, outer.place.path))
        span = self._begin(f"{place.path} {place.kind}".strip(), "layer", place, outer.account)
        try:
            return module.forward(*inputs, **options)
        finally:
            self._end(span)
            account = outer.account or self._account(place, "")
            account.runs += 1
            account.forward += span.own
            self._leave(span, came)

    def run(self, op: Op, inputs: tuple[Tensor, ...], arrays: list[Array]) -> Tensor:
        """Op.__call__: let the op run, and take the time. Within another's backward it is that one's."""
        came = clock()
        name, shapes, was_kept = label(op), [a.shape for a in arrays], _kept(arrays)
        within = self._span.account
        account = within or self._account_of_op(name)
        span = self._begin(name, "op", account=account)
        running.watcher = None
        try:
            output = op(*inputs)
        finally:
            self._end(span)
            running.watcher = self
        self._book(account, op, name, shapes, span, is_backward=within is not None)
        if kept := self._memory_kept(op, arrays, output.array, was_kept):
            account.kept += kept
            span.notes["bytes kept for backward"] = kept
        if op.parents:
            self._of_op[op] = account
        if within is None and (type(op) is Relu or "relu" in also_does(op)):
            account.note_zeros(output.array)
        span.notes["shapes"] = f"{', '.join(map(str, shapes))} -> {output.shape}"
        self._leave(span, came)
        return output

    def backward(self, op: Op, gy: Tensor, useful: set[Any] | None) -> list[Tensor | None]:
        """autograd.run_backward: let the op's backward run, and take the time."""
        came = clock()
        account = self._of_op.get(op) or self._account_from_before(op)
        if id(op.call) not in self._measured:  # of a layer's ops the last comes first: its output is the layer's
            account.note_gradient(gy.array)
            if not self.is_container(account.place):
                self._measured[id(op.call)] = op.call
        span = self._begin(f"{label(op)} backward", "backward", account.place, account)
        try:
            gradients = run_backward(op, gy, useful)
        finally:
            self._end(span)
        account.backward += span.own
        by_op = self._by_op(f"{type(op).__name__}.backward", True)
        by_op.runs += 1
        by_op.backward += span.own
        for parent, g in zip(op.parents, gradients, strict=False):
            if g is not None and not isinstance(parent, Op):
                account.note_weights_gradient(g.array)
        self._leave(span, came)
        return gradients

    # Whose it is

    def is_container(self, place: Place) -> bool:
        """Whether a module has called others, so that it is no layer; what is outside of all modules isn't either."""
        return place.root is None or (place.root, place.path) in self.containers

    def _place(self, call, options):
        return Place(*self._names.place(call), joined(call[0], options))

    def _account(self, place, name, which=0):
        return self.accounts.setdefault((place, name, which), Account(place, name))

    def _account_of_op(self, name):
        """That of an op in the module that calls it; of several such in a call each has its own."""
        span = self._span
        if span.kind != "layer":
            return self._account(span.place, name)
        span.counts[name] += 1
        return self._account(span.place, name, span.counts[name])

    def _account_from_before(self, op):
        """That of an op which was recorded before the profile began."""
        call = op.call
        while isinstance(call, Op):
            call = call.call
        return self._account(OUTSIDE_MODULES if call is None else self._place(call, {}), label(op))

    def _by_op(self, name, is_backward):
        return self.by_op.setdefault((name, is_backward), Account(OUTSIDE_MODULES, name))

    # What is booked

    def _book(self, account, op, name, shapes, span, is_backward):
        cost = multiply_adds(op, shapes)
        for one in (account, self._by_op(name, is_backward)):
            if is_backward:
                one.backward += span.own
                one.backward_multiply_adds += cost
            else:
                one.forward += span.own
                one.multiply_adds += cost
        self._by_op(name, is_backward).runs += 1
        account.runs += not is_backward
        if cost:
            span.notes |= {"multiply-adds": cost, "GFLOP/s": round(2 * cost / max(span.own, 1), 1)}

    def _memory_kept(self, op, arrays, y, was_kept):
        """How much the graph keeps because of this op; not counted: what was kept before, and what no op made."""
        memory = guard.owner(y)
        if id(memory) not in was_kept:
            self._made[id(memory)] = memory
        if not op.parents:
            return 0
        fresh = {}
        for array in kept_arrays(op, arrays, y):
            key = id(guard.owner(array))
            if not was_kept.get(key) and key in self._made:
                fresh[key] = max(array.nbytes, fresh.get(key, 0))
        return sum(fresh.values()) + sum(a.nbytes for a in vars(op).values() if isinstance(a, np.ndarray))


def _kept(arrays):
    """The memory of these arrays, by id, and whether a live graph keeps it already."""
    return {id(guard.owner(a)): guard.is_kept(a) for a in arrays}


def _check_peak(peak):
    if peak is not None and (isinstance(peak, bool) or not isinstance(peak, (int, float)) or not peak > 0):
        raise ValueError(f"profile: peak is {peak!r}, but must be the GFLOP/s that the machine can do, more than 0; "
                         "leave it out to have it measured")


def profile(peak: float | None = None) -> Profile:
    """Within this context time is taken: `with tn.profile() as p`, training steps inside, then print(p).

    The table has a row for each layer, and for each op that a larger module or the program calls itself. Layers that
    nn.Sequential computes together are one row, such as Conv2d+ReLU. Its columns, for one step of the optimiser:

    fwd ms, bwd ms   the forward and the backward pass; behind each what it makes of the peak: its multiply-adds (as
                     tn.summary counts them, of direct sums: Winograd's way may have more than 100 %) against the most
                     that the machine can do
    time             the share of the step
    kept             memory of results that the graph keeps for the backward pass, where it is first kept
    rms dy           the gradient of the row's output, root of the mean square
    |dw|             the norm of the gradient of the row's weights (of a weight used twice: of each use by itself)
    dead             channels whose ReLU gave 0 for all inputs within the profile (behind its pooling, if done too)

    Below stands what else takes time: Python code of modules that call others, the walk through the graph, the
    optimiser, the loader; what is left is the program outside of all of these. The profile's own work is taken out.
    Let a step run before it, for kernels are compiled when first called. p.save("trace.json") writes a timeline.

    peak: GFLOP/s that multiply-adds are held against; measured on this machine if not given, which takes a few seconds.
    It holds for the current thread; results are, bit for bit, those without it. `with p:` once more goes on adding up.
    Raises RuntimeError within another profile or a summary, ValueError for a peak that is none.

    >>> import numpy as np, tinynet as tn
    >>> from tinynet import nn, optim
    >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Dense(8 * 6 * 6, 2))
    >>> optimizer = optim.SGD(model.parameters(), lr=0.1)
    >>> with tn.profile(peak=100) as p:
    ...     tn.mse_loss(model(tn.Tensor(np.ones((4, 8, 8, 3), np.float32))), np.zeros((4, 2))).backward()
    ...     optimizer.step()
    >>> [(row.layer, row.kind, int(row.multiply_adds)) for row in p.rows]
    [('0', 'Conv2d+ReLU', 31104), ('2', 'Flatten', 0), ('3', 'Dense', 2304), ('', 'ErrorLoss', 0)]
    >>> list(p.parts)
    ['between layers', 'backward', 'optimizer']
    """
    _check_peak(peak)
    return Profile(peak)
