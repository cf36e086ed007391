"""What kind of mistake a wrong gradient looks like.

The differences of gradcheck give more than the right gradient. They give the whole Jacobian J[o, i] = dy_o / dx_i, and
with it, for the result's gradient g, not only what is right,

    gx[i] = sum over o of  g[o] J[o, i]

but also what would come out if one made a certain mistake: g with two axes swapped, J with its kernel mirrored, one of
the terms in place of their sum. So each kind of mistake is a prediction, and the wrong gradient is compared with them
in turn, the simplest first. o and i stand for all axes of the result and of the input.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np

from tinynet.typing import Array


def looks_like(analytic: Array, numeric: Array, wrong: Array, g: Array, jacobian: Array,
               others: Mapping[int, Array] | tuple[()] = ()) -> str | None:
    """The mistake in words, or None: of the gradient `analytic` of an input, which should be `numeric`.

    wrong: where they differ (bool, of their shape); g: the result's gradient; jacobian: (*result's axes, *input's);
    others: {number of another input: its gradient by backward}.

    >>> J = np.eye(3) * 2
    >>> looks_like(np.full(3, -2.0), np.full(3, 2.0), np.full(3, True), np.ones(3), J)
    'the wrong sign'
    """
    if not np.isfinite(numeric).all():
        return "a function that isn't finite here, nor are its differences"
    if not np.isfinite(analytic).all():
        return "a NaN or Inf made by backward, such as 0 * Inf, 0 / 0 or 1 / 0"
    if not analytic.any():
        return "a gradient that doesn't arrive: a detached tensor, or None where there should be one"
    for number in others:
        if _same(others[number], numeric):
            return f"gradients handed to the wrong inputs: input {number} got this one"
    # What is simple comes first; the border, for which no values are predicted, last.
    kinds = (_factor, _signs, _order, _swapped, _summed, _one_term, _border)
    return next((found for kind in kinds if (found := kind(analytic, numeric, wrong, g, jacobian))), None)


def _same(a, b):
    """Equal up to the errors of differences, and not merely both nothing."""
    return a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(b).max(initial=0.0))


def _pull(g, jacobian):
    """sum over o of g[o] J[o, i]"""
    return np.tensordot(g, jacobian, g.ndim)


def _factor(analytic, numeric, wrong, g, jacobian):
    """analytic = c numeric"""
    c = float((analytic * numeric).sum() / (numeric * numeric).sum()) if numeric.any() else 0.0
    if not _same(analytic, c * numeric):
        return None
    if abs(c + 1) < 1e-4:
        return "the wrong sign"
    counts = {analytic.size: "all elements of the input", g.size: "all elements of the result"}
    counts |= {n: f"the elements along axis {a} of the result" for a, n in enumerate(g.shape) if n not in counts}
    counts |= {n: f"the elements along axis {a} of the input" for a, n in enumerate(analytic.shape) if n not in counts}
    for n, which in counts.items():
        if n > 2 and min(abs(c - n), abs(c - 1 / n) * n) < 1e-4 * n:
            number = f"{n}" if c > 1 else f"1/{n}"
            return f"a constant factor of {number}, the number of {which}: a mean's 1/n left out, or taken twice"
    hint = ", as if one of two uses of the input were left out (= for +=)" if abs(c - 0.5) < 1e-4 else ""
    return f"a constant factor of {c:.6g}{hint}"


def _signs(analytic, numeric, wrong, g, jacobian):
    """analytic = + or - numeric"""
    return "the wrong sign in some elements" if _same(np.abs(analytic), np.abs(numeric)) else None


def _order(analytic, numeric, wrong, g, jacobian):
    """The right values in other places."""
    long = [a for a, n in enumerate(numeric.shape) if n > 1]
    for axes in _subsets(long):
        if _same(analytic, np.flip(numeric, axes)):
            return f"a flipped array: the right values, mirrored along {_names(axes)}"
    for axes in itertools.permutations(range(numeric.ndim)):
        if axes != tuple(range(numeric.ndim)) and _same(analytic, numeric.transpose(axes)):
            return f"a transposed array: the right values with the axes in the order {axes}"
    for a in long:
        for shift in (1, -1):
            parts = (slice(s, None) if s > 0 else slice(None, s) for s in (shift, -shift))
            kept, source = (_along(numeric.ndim, a, part) for part in parts)
            if numeric.shape[a] > 2 and numeric[source].any() and _same(analytic[kept], numeric[source]):
                return f"values that are shifted by one along axis {a}: off by one"
    return None


def _swapped(analytic, numeric, wrong, g, jacobian):
    """A flipped or transposed kernel: J with axes of the result and of the input exchanged, or mirrored together."""
    if g.ndim == numeric.ndim:
        for axes in _subsets([a for a, n in enumerate(numeric.shape) if n > 1]):
            if _same(analytic, np.flip(_pull(np.flip(g, axes), jacobian), axes)):
                return f"a flipped kernel: each offset counted backwards along {_names(axes)}"
    for a, b in itertools.product(range(g.ndim), range(numeric.ndim)):
        if g.shape[a] == numeric.shape[b] > 1 and _same(analytic, _pull(g, jacobian.swapaxes(a, g.ndim + b))):
            return f"a transposed kernel or matrix: axis {a} of the result is taken for axis {b} of the input"
    return None


def _summed(analytic, numeric, wrong, g, jacobian):
    """Sums over axes that should stay, or over others than they should."""
    for a, b in itertools.combinations(range(g.ndim), 2):
        if g.shape[a] == g.shape[b] and _same(analytic, _pull(g.swapaxes(a, b), jacobian)):
            return f"a sum over the wrong axis: axes {a} and {b} of the result's gradient are confused"
    for axes in _subsets([a for a, n in enumerate(numeric.shape) if n > 1]):
        total = numeric.sum(axes, keepdims=True)
        for sums, which in ((total, "sum"), (total / np.prod([numeric.shape[a] for a in axes]), "mean")):
            if _same(analytic, np.broadcast_to(sums, numeric.shape)):
                return f"a {which} over the wrong axis: taken over {_names(axes)} of the input, and repeated"
    return None


def _one_term(analytic, numeric, wrong, g, jacobian):
    """One of several terms of the sum, where all should be added."""
    if g.shape == numeric.shape:
        diagonal = np.diagonal(jacobian.reshape(g.size, -1)).reshape(g.shape)
        if _same(analytic, g * diagonal):
            return "a Jacobian of which only the diagonal is used: what an element does to other results is left out"
    for axis, n in enumerate(g.shape):
        for k in {0, n - 1} if n > 1 else ():
            one = _along(g.ndim, axis, slice(k, k + 1))
            if _same(analytic, _pull(g[one], jacobian[one])):
                return (f"a missing un-broadcast: only the copy at {k} along axis {axis} of the result counts, "
                        "where those of all copies should be added")
    terms = g.reshape(-1, 1) * jacobian.reshape(g.size, -1)
    there = np.abs(terms) > 1e-6 * np.abs(terms).max(initial=0.0)
    columns = np.arange(terms.shape[1])
    for which, rows in (("first", there.argmax(0)), ("last", len(terms) - 1 - there[::-1].argmax(0))):
        if _same(analytic.reshape(-1), terms[rows, columns]):
            return f"a value overwritten where it should be added (= for +=): only the {which} of several terms arrives"
    return None


def _border(analytic, numeric, wrong, g, jacobian):
    """Right inside, wrong at the first or last one or two places along some axes."""
    long = [a for a, n in enumerate(numeric.shape) if n > 2]
    for depth, axes in itertools.product((1, 2), _subsets(long)):
        inner = tuple(slice(depth, -depth) if a in axes else slice(None) for a in range(wrong.ndim))
        if wrong[inner].size and not wrong[inner].any():
            return f"a mistake at the border only, along {_names(axes)}: padding, or the last window"
    return None


def _subsets(axes):
    """All sets of these axes but the empty one, small ones first."""
    return itertools.chain.from_iterable(itertools.combinations(axes, n) for n in range(1, len(axes) + 1))


def _along(ndim, axis, part):
    return tuple(part if a == axis else slice(None) for a in range(ndim))


def _names(axes):
    return f"axis {axes[0]}" if len(axes) == 1 else "axes " + " and ".join(map(str, axes))
