"""Gradient checks: the gradients that backward computes, held against finite differences of the function itself.

For a function f of an array x, and some gradient g of its result, L(x) = sum g f(x) is a number, and backward says what
dL/dx is. A central difference says it too, without knowing any rule: for a direction d, a step h,

    <dL/dx, d>  =  (L(x + h d) - L(x - h d)) / 2h   +  O(h^2)

The exact check takes one direction for each element; the fast one a few random directions, in which all elements move
at once: four evaluations each in place of four an element, and a mistake anywhere shows in almost every one of them.

The two must agree relative to their own size: a check with a fixed tolerance passes any gradient of a small value.
The difference quotient is uncertain by about eps |L| / h from rounding and f''' h^2 from curvature; both are estimated
(the second from a quotient with 2h), and only that uncertainty excuses a difference, never a tolerance by itself.

Kinks. At 0 a relu has the slope 0 to the left and 1 to the right; a central difference says 1/2, and backward may
rightly say anything from 0 to 1. So where the two disagree, each side is looked at by itself, at two step sizes: in a
smooth place the gap between the sides shrinks with the step, at a kink it stays. At a kink the gradient must lie
between the slopes of the sides; where the function itself jumps on one side, it must be the slope of the other; where
it jumps on both, nothing can be said. Such elements are named in a KinkWarning, for they are checked less strictly; if
an input has no others, that is an error.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence

import numpy as np

from tinynet.autograd import propagate
from tinynet.diagnosis import looks_like
from tinynet.tensor import Tensor

STEP = 1e-4  # of the size of a value: rounding (1e-16 / 1e-4) and curvature (1e-8) stay far below the tolerance
FINE = 64  # how much smaller the step is that a kink is told by
TOLERANCE = 1e-6  # relative
DIRECTIONS = 3  # of the fast check, for each input
LARGEST_JACOBIAN = 2**22  # numbers; a mistake in anything larger is reported without a guess at its kind


class GradientError(AssertionError):
    """A gradient that backward computes is not the derivative of the function."""


class KinkWarning(UserWarning):
    """Some elements lie on a kink, where a function has two slopes, and could be checked less strictly only."""


def gradcheck(fn: Callable[..., Tensor], inputs: Tensor | Sequence[Tensor], *, fast: bool = False) -> bool:
    """Check the gradients of `fn` at `inputs` against central differences; True, or GradientError with the details.

    fn: takes Tensors, returns a Tensor (of any shape), the same one for the same inputs (ValueError otherwise).
    inputs: a Tensor or a sequence of float64 Tensors; those with requires_grad=True are checked.
    fast: check random directions rather than every element; only if they find something, look at every element.

    The error names the input, the index, the analytic and the numeric value, and, if the whole gradient looks like one
    of the usual mistakes (a constant factor, a transposed kernel, only one of several copies...), which one.
    Elements on a kink (0 of a relu, ties of a max) must have a gradient between the slopes of both sides, and are named
    in a KinkWarning; an input with nothing but kinks is an error.

    >>> import tinynet as tn
    >>> x = tn.Tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> gradcheck(lambda x: x * x, x)
    True
    >>> gradcheck(lambda x: x * x.detach(), x)
    Traceback (most recent call last):
    ...
    tinynet.gradcheck.GradientError: gradcheck: the gradient of input 0 at (0,) is ... by backward, but ... by
    differences (uncertain by ...): a relative error of 0.5, a ratio of 0.5; 2 of 2 elements are wrong;
    it looks like a constant factor of 0.5, as if one of two uses of the input were left out (= for +=)
    """
    inputs = _checked("gradcheck", inputs)
    y = fn(*inputs)
    if not isinstance(y, Tensor):
        raise TypeError(f"gradcheck: fn returned a {type(y).__name__}, but must return a Tensor")
    again = fn(*inputs)
    if not np.array_equal(y.array, again.array, equal_nan=True):
        raise ValueError(
            "gradcheck: fn gave two different results for the same inputs, so that differences mean nothing; "
            "if it draws random numbers, let it call tn.manual_seed first"
        )
    g = _weights(y.shape, seed=0)
    analytic, doubled = _gradients(y, g, inputs), _gradients(again, -2 * g, inputs)
    for number, gx in analytic.items():
        _check_linear(number, gx, doubled[number])
        with np.errstate(all="ignore"):  # NaN and Inf are reported as what they are
            slopes = _Slopes(fn, inputs, number, g)
            if not (fast and _directions_agree(slopes, gx)):
                _check_elements(slopes, analytic)
    return True


def gradgradcheck(fn: Callable[..., Tensor], inputs: Tensor | Sequence[Tensor], *, fast: bool = False) -> bool:
    """Check the gradients of the gradients of `fn`: gradcheck of the function that computes fn's gradients.

    That function takes the inputs and the result's gradient, both varied, and gives all input gradients.

    >>> import tinynet as tn
    >>> x = tn.Tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> gradgradcheck(lambda x: x * x * x, x)
    True
    """
    inputs = _checked("gradgradcheck", inputs)
    gy = Tensor(_weights(fn(*inputs).shape, seed=1), requires_grad=True)

    def gradients(*arguments):
        *xs, gy = arguments
        targets = [x for x in xs if x.requires_grad]
        y = fn(*xs)
        found = propagate([y], [gy], targets, create_graph=True, retain_graph=True)
        total = 0.0
        for i, (x, gx) in enumerate(zip(targets, found, strict=True)):
            if gx is not None:
                total = total + (gx * Tensor(_weights(x.shape, seed=2 + i))).sum()
        return total if isinstance(total, Tensor) else Tensor(np.zeros(()))

    return gradcheck(gradients, [*inputs, gy], fast=fast)


def _checked(name, inputs):
    inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        raise ValueError(f"{name}: none of the inputs has requires_grad=True, so there is nothing to check")
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.requires_grad and x.dtype != np.float64:
            raise TypeError(f"{name}: input {i} is {x.dtype}; differences need float64 (x.astype(np.float64))")
    return inputs


def _gradients(y, g, inputs):
    """{number of the input: its gradient by backward}"""
    checked = {i: x for i, x in enumerate(inputs) if isinstance(x, Tensor) and x.requires_grad}
    found = propagate([y], [Tensor(g)], list(checked.values())) if y.requires_grad else [None] * len(checked)
    return {
        i: np.zeros(x.shape) if gx is None else gx.array
        for (i, x), gx in zip(checked.items(), found, strict=True)
    }


def _check_linear(number, gx, doubled):
    """-2 times the result's gradient must give -2 times the input's: backward may not look at its sign or size."""
    finite = np.isfinite(gx)
    wrong = finite & ~(np.abs(doubled + 2 * np.where(finite, gx, 0)) <= 1e-9 * np.abs(gx[finite]).max(initial=0.0))
    if wrong.any():
        index = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise GradientError(
            f"gradcheck: the gradient of input {number} isn't linear in the result's gradient: at {index} it is "
            f"{gx[index]:.9g}, but {doubled[index]:.9g} for a result's gradient -2 times as large"
        )


def _weights(shape, seed):
    """A fixed gradient for the result, with no element near 0 and no two alike, so that no mistake hides."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


class _Slopes:
    """The slopes of L = sum g fn, as a function of one of fn's inputs, along any direction."""

    def __init__(self, fn, inputs, number, g):
        self.fn, self.inputs, self.number, self.g = fn, inputs, number, g
        self.x = inputs[number].array.copy()
        self.unit = np.maximum(1e-2, np.abs(self.x))  # steps are relative to the size of each element
        self.here = self.terms(self.x)

    def terms(self, moved):
        """g fn, element by element: what doesn't change when x moves cancels exactly in differences."""
        x = Tensor(moved, requires_grad=True)
        return self.g * self.fn(*(x if i == self.number else v for i, v in enumerate(self.inputs))).array

    def along(self, direction):
        """By central differences: the slope, a part for each element of the result; how uncertain their sum is; and
        whether the slopes to the left and to the right seem to differ, however small the step."""

        def quotient(h):
            up, down = self.terms(self.x + h * direction), self.terms(self.x - h * direction)
            gap = np.abs(((up - self.here) + (down - self.here)).sum()) / h
            return (up - down) / (2 * h), np.abs(up).sum() + np.abs(down).sum(), gap

        near, size, gap = quotient(STEP)
        far, _, far_gap = quotient(2 * STEP)
        rounding = 4e-16 * size / STEP
        difference = near - far  # Richardson: the h^2 term taken out
        bent = gap > 0.75 * far_gap and gap > 10 * rounding  # in a smooth place it would be half as large
        return near + difference / 3, rounding + abs(difference.sum()) / 30, bent

    def sides(self, direction):
        """(slope with a large step, slope with a small one) to the left and to the right, and the latter's rounding."""
        fine, found = 2 * STEP / FINE, []
        for sign in (-1, 1):
            moved = (self.terms(self.x + sign * h * direction) for h in (2 * STEP, fine))
            found.append([sign * (y - self.here).sum() / h for y, h in zip(moved, (2 * STEP, fine), strict=True)])
        return (*found, 8e-16 * np.abs(self.here).sum() / fine)

    def element(self, index):
        """The direction in which one element alone moves."""
        direction = np.zeros(self.x.shape)
        direction[index] = self.unit[index]
        return direction


def _directions_agree(slopes, analytic):
    """The fast check: whether backward's slopes and the differences agree along random directions."""
    for seed in range(DIRECTIONS):
        direction = _weights(slopes.x.shape, 100 + seed) * slopes.unit
        parts, doubt, bent = slopes.along(direction)
        expected, numeric = (analytic * direction).sum(), parts.sum()
        size = np.sqrt(((analytic * direction) ** 2).sum())  # the sum's own, if it weren't for cancellation
        if bent or not (np.isfinite(size) and abs(expected - numeric) <= TOLERANCE * max(size, abs(numeric)) + doubt):
            return False
    return True


def _check_elements(slopes, gradients):
    """The exact check: every element of one input's gradient."""
    analytic = gradients[slopes.number]
    scale, kinks = np.abs(analytic[np.isfinite(analytic)]).max(initial=0.0), []
    for index in np.ndindex(analytic.shape):
        numeric, doubt, bent, _ = _element(slopes, index)
        agree = _agree(analytic[index], numeric, doubt, scale)
        sides = None if agree and not bent else _kink(slopes, index, analytic[index])
        if sides:
            kinks.append(f"{index} ({sides})")
        elif not agree:
            raise GradientError(_sentence(slopes, gradients, index, numeric, doubt))
    if not kinks:
        return
    named = f"gradcheck: input {slopes.number} lies on a kink at {', '.join(kinks[:8])}" + ", ..." * (len(kinks) > 8)
    if len(kinks) == analytic.size:
        raise GradientError(f"{named}: that is everywhere, so nothing has been checked; move it away from the kinks")
    warnings.warn(f"{named}; there any gradient between the slopes passes", KinkWarning, stacklevel=3)


def _element(slopes, index):
    """The derivative in one element, how uncertain it is, whether there may be a kink, and the derivative's parts."""
    unit = slopes.unit[index]
    parts, doubt, bent = slopes.along(slopes.element(index))
    return parts.sum() / unit, doubt / unit, bent, parts / unit


def _agree(analytic, numeric, doubt, scale):
    return np.abs(analytic - numeric) <= TOLERANCE * np.abs(numeric) + doubt + 1e-9 * scale


def _kink(slopes, index, analytic):
    """The slopes of the two sides in words, if there is a kink and the gradient is one that it allows; else None."""
    unit = slopes.unit[index]
    *sides, noise = slopes.sides(slopes.element(index))
    (left_far, left), (right_far, right) = np.array(sides) / unit
    noise /= unit
    if not np.isfinite([*sides[0], *sides[1], analytic]).all():
        return None
    slack = 1e-4 * (abs(left) + abs(right)) + noise
    settled = [s for far, s in ((left_far, left), (right_far, right)) if abs(s) <= 2 * abs(far) + noise]
    if len(settled) < 2:  # a jump: the quotient grows as the step shrinks
        if not settled:
            return "a jump"
        slope = settled[0] + 0.0  # no -0
        return f"a jump beside the slope {slope:.4g}" if abs(analytic - slope) <= 1e-4 * abs(slope) + noise else None
    gap, far_gap = abs(right - left), abs(right_far - left_far)
    at = gap > slack and gap >= far_gap / 2
    close = far_gap > 100 * slack and not 0.5 < gap / far_gap * FINE < 2  # else smooth: proportional to the step
    allowed = min(left, right) - slack <= analytic <= max(left, right) + slack
    return f"slopes {left:.4g} and {right:.4g}" if (at or close) and allowed else None


def _sentence(slopes, gradients, index, numeric, doubt):
    """What is wrong, and what it looks like."""
    analytic = gradients[slopes.number]
    ratio = f"{analytic[index] / numeric:.6g}" if numeric else "undefined"
    relative = abs(analytic[index] - numeric) / max(abs(analytic[index]), abs(numeric))
    text = (
        f"gradcheck: the gradient of input {slopes.number} at {index} is {analytic[index]:.9g} by backward, but "
        f"{numeric:.9g} by differences (uncertain by {doubt:.1g}): a relative error of {relative:.2g}, a "
        f"ratio of {ratio}"
    )
    if analytic.size * slopes.g.size > LARGEST_JACOBIAN:
        return text
    columns = [_element(slopes, i) for i in np.ndindex(analytic.shape)]
    found, doubts = (np.reshape([c[k] for c in columns], analytic.shape) for k in (0, 1))
    wrong = ~_agree(analytic, found, doubts, np.abs(found).max())
    jacobian = np.stack([c[3] / slopes.g for c in columns], -1).reshape(slopes.g.shape + analytic.shape)
    others = {i: gx for i, gx in gradients.items() if i != slopes.number}
    kind = looks_like(analytic, found, wrong, slopes.g, jacobian, others)
    return f"{text}; {wrong.sum()} of {wrong.size} elements are wrong" + (f"; it looks like {kind}" if kind else "")
