"""The graph of what was computed, and the walk back through it: Op, backward, grad, no_grad, detect_anomaly.

Every operation is an `Op`. Calling one computes its result and, if a gradient may be asked for later, makes the op a
node of the graph: it remembers the nodes that its inputs came from (`parents`) and what its `backward` will read.
A node is an op, or a *leaf*: a tensor that the user made. The graph only points backwards, from results to inputs,
so a result that is dropped takes its part of the graph with it.

The backward pass visits the nodes in topological order, every consumer of a value before the value's producer.
Any other order would hand a gradient on before all its parts have been added up:

    a = x * 2;  b = a + 1;  c = a * b        dc/da has two parts: one from c directly, one through b

It is a loop, not a recursion, so a chain of 100,000 ops is no deeper than one. Each op is freed once it has passed
its gradient on. `backward` methods take and return *tensors* and compute with ordinary ops: while gradients are being
computed nothing is recorded, unless `create_graph=True` asks for gradients of gradients, which then come for free.

This file knows tensors only by what they carry (array, op, requires_grad); the class itself stands one floor up.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from tinynet import anomaly
from tinynet.guard import Keep
from tinynet.typing import Array, Shape

if TYPE_CHECKING:  # they stand one floor up
    from tinynet.tensor import Tensor, TensorLike

FLOATS = (np.dtype(np.float32), np.dtype(np.float64))


class _Mode(threading.local):
    """Switches that hold for the current thread."""

    recording = True
    quiet = False  # are NumPy's warnings off already?
    anomaly = False  # or True: search every result; or a line of the program, on whose behalf ops run: just note it


_mode = _Mode()


class _Running(threading.local):
    """What is going on in the current thread, for those who look inside (tinynet/inspect).

    call: the innermost call of a module, (module, the call around it), or None; in a backward pass the op whose
    backward runs. Ops remember it as theirs.
    watcher: the object that ops, with run(op, inputs, arrays), and modules, with call(call, inputs, options), leave
    their calls to: in a dry run (watcher.is_dry) in place of computing, see Op.dry_run; in a profile to take the time.
    tracer: called with every op, its inputs and its output, once it has run; see watched.
    landed: called with every leaf whose .grad is complete; see landing.
    """

    call: Any = None
    watcher: Any = None
    tracer: Callable[[Op, Sequence[Tensor], Tensor], object] | None = None
    landed: Callable[[Tensor], object] | None = None


running = _Running()
_numbers = itertools.count()  # ops by the time at which they were recorded


@contextlib.contextmanager
def _switched(name: str, value: Any, where: threading.local = _mode) -> Iterator[None]:
    before = getattr(where, name)
    setattr(where, name, value)
    try:
        yield
    finally:
        setattr(where, name, before)


def is_recording() -> bool:
    """Whether what is computed now can become part of a graph."""
    return _mode.recording


def is_dry_run() -> bool:
    """Whether only shapes are computed now (tinynet.summary), so that there are no values to look at."""
    return running.watcher is not None and running.watcher.is_dry


def dry_run(watcher: Any) -> contextlib.AbstractContextManager[None]:
    """Within this context no op computes: watcher.run gives their results; module calls go by watcher.call."""
    return _switched("watcher", watcher, running)


def part(name: str) -> contextlib.AbstractContextManager[Any]:
    """Within this context what is done counts as that part of training, for a profile if there is one."""
    return NOTHING if running.watcher is None or running.watcher.is_dry else running.watcher.part(name)


def no_grad() -> contextlib.AbstractContextManager[None]:
    """Within this context nothing is recorded: results need no gradient and keep nothing alive.

    >>> import tinynet as tn
    >>> x = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> with tn.no_grad():
    ...     y = x * 2
    >>> y.requires_grad
    False
    """
    return _switched("recording", False)


def detect_anomaly() -> contextlib.AbstractContextManager[None]:
    """Within this context the first NaN or Inf that an operation makes raises, forward or backward.

    The error (FloatingPointError) names the op, the tensor, and the line of the program that called it, for a
    backward pass too. An Inf that the program gives, as in a mask, may go on; a NaN that it gives raises where it
    comes in. Every result is searched, so it is for debugging; the context holds for the current thread.

    >>> import tinynet as tn
    >>> with tn.detect_anomaly():
    ...     tn.log(tn.Tensor([0.0]))
    Traceback (most recent call last):
    ...
    FloatingPointError: Log made an Inf in its forward pass from finite inputs, called at <doctest ...
    """
    return _switched("anomaly", True)


def watched(tracer: Callable[[Op, Sequence[Tensor], Tensor], object]) -> contextlib.AbstractContextManager[None]:
    """Within this context tracer(op, inputs, output) is called after every op's forward pass: for tracing.

    >>> import tinynet as tn
    >>> with watched(lambda op, inputs, output: print(type(op).__name__, output.shape)):
    ...     y = tn.exp([1.0, 2.0]).sum()
    Exp (2,)
    Sum (1,)
    Reshape ()
    """
    return _switched("tracer", tracer, running)


def landing(listener: Callable[[Tensor], object]) -> contextlib.AbstractContextManager[None]:
    """Within this context listener(leaf) is called as soon as a backward pass has completed the leaf's .grad.

    A leaf comes behind all its consumers in topological order, and right behind the last of them: while most of the
    backward pass is still to come, so that what is to be done with a gradient can be begun.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> with landing(lambda leaf: print(leaf.grad)):
    ...     (w * w).sum().backward()
    Tensor([2., 4.])
    """
    return _switched("landed", listener, running)


def _noting(line):
    """Within this context ops note that line as theirs, and aren't searched."""
    return _switched("anomaly", line)


NOTHING = contextlib.nullcontext()


class GraphError(RuntimeError):
    """A gradient was asked for that the graph can't give."""


class Op:
    """A differentiable operation; a call of one is a node of the graph.

    A subclass gives `forward(self, x, ...)`, which takes and returns ndarrays, and right below it
    `backward(self, gy)`, which takes the result's gradient as a Tensor and returns one Tensor per input (or None for
    one that has no gradient). Parameters go to the constructor, tensors to the call: `Sum(axis=0)(x)`.

    keeps: what backward reads: names of forward's arguments, and "output". They are there as `self.x`, `self.output`.
    broadcasts: the inputs may differ in shape by NumPy's rules; the engine sums their gradients back to their shapes.
    needs: a bool per argument of forward, set before forward runs: will its gradient be asked for?
    gives_new: backward's gradients are arrays just made, of which nobody else knows.
    may_overwrite: set before backward runs: gy is such an array, contiguous, and nobody will read it afterwards.
    """

    keeps: tuple[str, ...] = ()
    broadcasts = False
    gives_new = False
    may_overwrite = False
    needs: tuple[bool, ...]
    arguments: tuple[str, ...] = ()  # the names of forward's arguments
    freed = False
    parents: Sequence[Op | Tensor | None] = ()
    called_at = anomaly.OUTSIDE  # file:line of the program, known under detect_anomaly() alone

    if TYPE_CHECKING:  # both with arguments of their own in each op, as are the attributes that keeps names
        forward: Callable[..., Any]
        backward: Callable[..., Any]

        def __getattr__(self, name: str) -> Any: ...

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        code = cls.forward.__code__
        cls.arguments = code.co_varnames[1 : code.co_argcount]

    def __call__(self, *inputs: Tensor) -> Tensor:
        arrays = self._arrays(inputs)
        if running.watcher is not None:
            return running.watcher.run(self, inputs, arrays)
        recording = _mode.recording
        needs = [recording and x.requires_grad for x in inputs]
        self.needs = (*needs, *[False] * (len(self.arguments) - len(needs)))
        if _mode.quiet:
            y = self.forward(*arrays)
        else:
            with np.errstate(all="ignore"):  # NaN and Inf travel without a warning; detect_anomaly() looks for them
                y = self.forward(*arrays)
        if _mode.anomaly:
            self._search(inputs, arrays, y)
        output = inputs[0].wrap(y)
        if True in needs:
            self._record(inputs, output)
        if running.tracer is not None:
            running.tracer(self, inputs, output)
        return output

    def output_shape(self, *shapes: Shape) -> Shape:
        """The shape of forward's result for inputs of these shapes; a subclass of another shape than this says so."""
        return np.broadcast_shapes(*shapes)

    def dry_run(self, *arrays: Array) -> Array:
        """What forward would return for such arrays, but without memory: an array that repeats a single zero."""
        return np.broadcast_to(np.zeros((), arrays[0].dtype), self.output_shape(*(a.shape for a in arrays)))

    def _arrays(self, inputs):
        """The inputs' arrays, all of one float dtype."""
        arrays = [x.array for x in inputs]
        dtypes = {a.dtype for a in arrays}
        floats = dtypes.intersection(FLOATS)
        if len(dtypes) == len(floats) == 1:
            return arrays
        if len(floats) > 1:
            got = ", ".join(f"{n} is {a.dtype}" for n, a in zip(self.arguments, arrays, strict=False))
            raise TypeError(f"{type(self).__name__}: {got}; all must be of one dtype (x.astype(...) converts)")
        dtype = floats.pop() if floats else FLOATS[0]
        return [a.astype(dtype, copy=False) for a in arrays]

    def _record(self, inputs, output):
        """Become a node of the graph: remember where the inputs came from and what backward will read."""
        self.parents = [node(x) if need else None for x, need in zip(inputs, self.needs, strict=False)]
        self.shapes = [x.shape for x in inputs]
        self.dtype = output.dtype
        self.call, self.number = running.call, next(_numbers)
        kept = []
        for name in self.keeps:
            if name == "output":
                self._output = output.wrap(output.array)
                kept.append(output.array)
            elif (position := self.arguments.index(name)) < len(inputs):
                setattr(self, name, inputs[position])
                kept.append(inputs[position].array)
        if kept:
            self.kept = Keep(kept)
        output.op = self
        output.requires_grad = True

    @property
    def output(self) -> Tensor:
        """This op's result as a tensor of the graph (not stored as one: the two would keep each other alive)."""
        output = self._output.wrap(self._output.array)
        output.op, output.requires_grad = self, True
        return output

    def _free(self):
        """Let go of everything. The shell that is left tells a second backward pass that it comes too late."""
        self.__dict__ = {"freed": True}

    def _gradients(self, gy):
        """backward's gradients, one per input, each fitted to the shape of its input."""
        if not _mode.anomaly:
            return self._fitted(self.backward(gy))
        line = self.called_at  # this op is to be named, not the ops that its backward calls
        with _noting(f"{line}, in the backward pass of {type(self).__name__}"):
            gradients = self._fitted(self.backward(gy))
        anomaly.check_backward(self, gy, gradients, line)
        return gradients

    def _fitted(self, gradients):
        if not isinstance(gradients, tuple):
            gradients = (gradients,)
        return [
            None if parent is None or g is None else self._fit(g, shape)
            for parent, g, shape in zip(self.parents, gradients, self.shapes, strict=False)
        ]

    def _fit(self, g, shape):
        """Un-broadcast: a value that was repeated collects the gradients of all its copies."""
        if g.shape != shape and self.broadcasts:
            g = g.sum_to(shape)
        if g.shape != shape or g.dtype != self.dtype:
            copied = g.shape != shape and not self.broadcasts and g.ndim >= len(shape)
            hint = "; if the input is broadcast, `broadcasts = True` has the gradients of its copies added up"
            raise GraphError(
                f"{type(self).__name__}.backward gave a gradient of shape {g.shape} and dtype {g.dtype} "
                f"for an input of shape {shape} and dtype {self.dtype}; they must be equal{hint if copied else ''}"
            )
        return g

    def _search(self, inputs, arrays, y):
        """What detect_anomaly() does at each op."""
        if isinstance(_mode.anomaly, str):
            self.called_at = _mode.anomaly
            return
        self.called_at = anomaly.users_line()
        anomaly.check_forward(self, inputs, arrays, np.asarray(y), self.called_at)


def node(tensor: Tensor) -> Op | Tensor:
    """The node of the graph that stands for a tensor: the op that made it, or the tensor itself (a leaf)."""
    return tensor if tensor.op is None else tensor.op


def topological_order(roots: Iterable[Op | Tensor]) -> list[Op | Tensor]:
    """All nodes that the roots depend on, each before every node that it was computed from."""
    consumers = dict.fromkeys(roots, 0)  # node -> how many edges lead to it
    stack = list(consumers)
    while stack:
        for parent in _parents(stack.pop()):
            if parent not in consumers:
                consumers[parent] = 0
                stack.append(parent)
            consumers[parent] += 1
    order = []
    ready = [n for n in consumers if not consumers[n]]
    while ready:
        order.append(ready.pop())
        for parent in _parents(order[-1]):
            consumers[parent] -= 1
            if not consumers[parent]:
                ready.append(parent)
    return order


def _parents(n):
    """The nodes that `n` was computed from and that need a gradient."""
    if not isinstance(n, Op):
        return ()
    if n.freed:
        raise GraphError(
            "backward: this part of the graph has been freed by an earlier backward pass; "
            "compute the result again, or keep the graph with backward(retain_graph=True)"
        )
    return [p for p in n.parents if p is not None]


def propagate(outputs: Sequence[Tensor], gradients: Sequence[Tensor], targets: Sequence[Tensor] | None = None,
              create_graph: bool = False, retain_graph: bool = False) -> Any:
    """Carry gradients from `outputs` back through the graph.

    Without targets they are added to the `.grad` of all leaves. With targets (tensors) a list of their gradients is
    returned, None for those that the outputs don't depend on, and only the ops on the way to them are visited.
    """
    order = topological_order([node(t) for t in outputs])
    wanted = None if targets is None else {node(t) for t in targets}
    useful = None if wanted is None else _leading_to(wanted, order)  # None: all
    found, arrived = {}, {}  # gradients of the targets; gradients on their way
    ours = set()  # the nodes whose gradient on its way is known to nobody else
    overwrites = not (create_graph or _mode.anomaly)  # may such gradients be written over?
    run = run_backward if running.watcher is None else running.watcher.backward
    with _switched("recording", create_graph), np.errstate(all="ignore"), _switched("quiet", True):
        for output, g in zip(outputs, gradients, strict=True):
            _add(arrived, node(output), g)
        for n in _consume(order):
            g = arrived.pop(n, None)
            if wanted is not None and n in wanted:
                found[n] = g
            is_ours = overwrites and n in ours and n not in found
            if not isinstance(n, Op):
                if wanted is None and g is not None:
                    n.accumulate_grad(g, own=is_ours)
                    if running.landed is not None:
                        running.landed(n)
                continue
            if g is not None and (useful is None or n in useful):
                n.may_overwrite = is_ours
                for parent, gx in zip(n.parents, run(n, g, useful), strict=False):
                    if gx is None:
                        continue
                    is_new = n.gives_new or parent in arrived  # then it is a sum
                    _add(arrived, parent, gx, in_place=overwrites and parent in ours)
                    if is_new and arrived[parent].array.flags.c_contiguous:
                        ours.add(parent)
            if not retain_graph:
                n._free()
    return None if targets is None else [found.get(node(t)) for t in targets]


def _consume(order):
    """Give the nodes from first to last, holding on to none that has been given."""
    order.reverse()
    while order:
        yield order.pop()


def _leading_to(wanted, order):
    """Those ops of the order from which a wanted node can be reached."""
    useful = set(wanted)
    for n in reversed(order):
        if any(p in useful for p in _parents(n)):
            useful.add(n)
    return useful


def run_backward(op: Op, gy: Tensor, useful: set[Op | Tensor] | None) -> list[Tensor | None]:
    """The gradients of an op's inputs, but only of those that lead somewhere useful."""
    needs = op.needs
    if useful is not None:
        op.needs = tuple(p in useful for p in op.parents) + needs[len(op.parents) :]
    outer, running.call = running.call, op
    try:
        gradients = op._gradients(gy)
        return [g if need else None for g, need in zip(gradients, op.needs, strict=False)]
    finally:
        op.needs, running.call = needs, outer


def _add(arrived, n, g, in_place=False):
    """A value that is used twice gets the sum of both gradients; in_place: written over the first of them."""
    if n not in arrived:
        arrived[n] = g
    elif not _mode.anomaly:
        arrived[n] = arrived[n].plus(g, in_place)
    else:
        parts = arrived[n], g
        with _noting(anomaly.users_line()):
            arrived[n] = arrived[n].plus(g)
        anomaly.check_sum(n, parts, arrived[n])


def backward(tensor: Tensor, grad: TensorLike | None, create_graph: bool = False, retain_graph: bool = False) -> None:
    """Add d tensor / d leaf to the `.grad` of every leaf that `tensor` was computed from (Tensor.backward)."""
    if not tensor.requires_grad:
        raise GraphError(
            "backward: this tensor needs no gradient: nothing that it was computed from has requires_grad=True, "
            "or it was computed under no_grad()"
        )
    seed = _seed("backward", tensor, grad)
    with part("backward"):
        propagate([tensor], [seed], create_graph=create_graph, retain_graph=retain_graph or create_graph)


def _seed(name, output, gradient):
    """The gradient that the walk starts with: the given one, or 1 for a scalar."""
    if gradient is None:
        if output.size != 1:
            raise GraphError(
                f"{name}: the tensor has the shape {output.shape}; only a scalar can do without a gradient: "
                "sum it, or give a gradient of its shape"
            )
        return output.wrap(np.ones(output.shape, output.dtype))
    gradient = output.like(gradient)
    if gradient.shape != output.shape:
        raise ValueError(f"{name}: the gradient has the shape {gradient.shape}, but must have {output.shape}")
    return gradient


def grad(outputs: Tensor | Sequence[Tensor], inputs: Tensor | Sequence[Tensor],
         grad_outputs: TensorLike | Sequence[TensorLike | None] | None = None,
         create_graph: bool = False) -> list[Tensor]:
    """The gradients of the (sum of the) outputs with respect to the inputs, without touching any `.grad`.

    outputs, inputs: a Tensor or a sequence of them; grad_outputs: a gradient per output, not needed for scalars.
    create_graph=True records the computation, so that the gradients can be differentiated again.
    Returns a list with a Tensor per input. Raises GraphError if an output doesn't depend on an input.

    >>> import tinynet as tn
    >>> x = tn.Tensor(3.0, requires_grad=True)
    >>> (gx,) = tn.grad(x ** 3, x, create_graph=True)
    >>> gx.item(), tn.grad(gx, x)[0].item()
    (27.0, 18.0)
    """
    outputs, inputs, grad_outputs = (_listed(v) for v in (outputs, inputs, grad_outputs))
    grad_outputs = grad_outputs or [None] * len(outputs)
    if len(grad_outputs) != len(outputs):
        raise ValueError(f"grad: {len(outputs)} outputs, but {len(grad_outputs)} grad_outputs; there must be one each")
    for kind, tensors in (("output", outputs), ("input", inputs)):
        for i, t in enumerate(tensors):
            if not t.requires_grad:
                raise GraphError(f"grad: {kind} {i} needs no gradient; set requires_grad=True before computing")
    seeds = [_seed("grad", t, g) for t, g in zip(outputs, grad_outputs, strict=True)]
    with part("backward"):
        gradients = propagate(outputs, seeds, inputs, create_graph=create_graph, retain_graph=create_graph)
    for i, g in enumerate(gradients):
        if g is None:
            raise GraphError(f"grad: the outputs were not computed from input {i} (shape {inputs[i].shape})")
    return gradients


def _listed(value):
    return list(value) if isinstance(value, (list, tuple)) else [] if value is None else [value]
