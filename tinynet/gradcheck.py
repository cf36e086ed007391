"""Gradient checks: the gradients that backward computes, held against finite differences of the function itself.

For a function f of an array x, and some gradient g of its result, L(x) = sum g f(x) is a number, and backward says what
dL/dx is. A central difference says it too, without knowing any rule:

    dL/dx[i]  =  (L(x + h e_i) - L(x - h e_i)) / 2h   +  O(h^2)

The two must agree relative to their own size: a check with a fixed tolerance passes any gradient of a small value.
The difference quotient is uncertain by about eps |L| / h from rounding and f''' h^2 from curvature; both are estimated
(the second from a quotient with 2h), and only that uncertainty excuses a difference, never a tolerance by itself.
"""

import numpy as np

from tinynet.autograd import propagate
from tinynet.tensor import Tensor

STEP = 1e-4  # of the size of a value: rounding (1e-16 / 1e-4) and curvature (1e-8) stay far below the tolerance
TOLERANCE = 1e-6  # relative


class GradientError(AssertionError):
    """A gradient that backward computes is not the derivative of the function."""


def gradcheck(fn, inputs):
    """Check the gradients of `fn` at `inputs` against central differences; True, or GradientError with the details.

    fn: takes Tensors, returns a Tensor (of any shape). inputs: a Tensor or a sequence of float64 Tensors; those with
    requires_grad=True are checked, every element of each. They should lie away from kinks (0 of a relu, ties of a max).
    The error names the input, the index, and the analytic and the numeric value.

    >>> import tinynet as tn
    >>> x = tn.Tensor([0.5, -1.5], dtype="float64", requires_grad=True)
    >>> gradcheck(lambda x: x * x, x)
    True
    """
    inputs = _checked("gradcheck", inputs)
    y = fn(*inputs)
    if not isinstance(y, Tensor):
        raise TypeError(f"gradcheck: fn returned a {type(y).__name__}, but must return a Tensor")
    g = Tensor(_weights(y.shape, seed=0))
    targets = [x for x in inputs if x.requires_grad]
    analytic = propagate([y], [g], targets) if y.requires_grad else [None] * len(targets)
    checked = iter(analytic)
    for number, x in enumerate(inputs):
        if x.requires_grad:
            gx = next(checked)
            _check_input(fn, inputs, number, np.zeros(x.shape) if gx is None else gx.array, g.array)
    return True


def gradgradcheck(fn, inputs):
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

    return gradcheck(gradients, [*inputs, gy])


def _checked(name, inputs):
    inputs = list(inputs) if isinstance(inputs, (list, tuple)) else [inputs]
    if not any(isinstance(x, Tensor) and x.requires_grad for x in inputs):
        raise ValueError(f"{name}: none of the inputs has requires_grad=True, so there is nothing to check")
    for i, x in enumerate(inputs):
        if isinstance(x, Tensor) and x.requires_grad and x.dtype != np.float64:
            raise TypeError(f"{name}: input {i} is {x.dtype}; differences need float64 (x.astype(np.float64))")
    return inputs


def _weights(shape, seed):
    """A fixed gradient for the result, with no element near 0 and no two alike, so that no mistake hides."""
    rng = np.random.default_rng(seed)
    return rng.uniform(0.5, 1.5, shape) * rng.choice([-1.0, 1.0], shape)


def _check_input(fn, inputs, number, analytic, g):
    """Compare one input's gradient with the differences, element by element."""
    x = inputs[number].array.copy()
    if analytic.shape != x.shape:
        raise GradientError(f"gradcheck: the gradient of input {number} has the shape {analytic.shape}, not {x.shape}")
    scale = np.abs(analytic).max(initial=0.0)
    for index in np.ndindex(x.shape):
        numeric, doubt = _difference(fn, inputs, number, x, index, g)
        error = abs(analytic[index] - numeric)
        largest = max(abs(analytic[index]), abs(numeric))
        if not error <= TOLERANCE * largest + doubt + 1e-9 * scale:
            raise GradientError(
                f"gradcheck: the gradient of input {number} at {index} is {analytic[index]:.9g} by backward, but "
                f"{numeric:.9g} by differences (uncertain by {doubt:.1g}); ratio {_ratio(analytic[index], numeric)}"
            )


def _ratio(a, b):
    return f"{a / b:.6g}" if b else "undefined"


def _difference(fn, inputs, number, x, index, g):
    """The derivative of sum(g * fn) in one element by central differences, and how uncertain it is."""
    h = STEP * max(1e-2, abs(x[index]))

    def value(step):
        moved = x.copy()
        moved[index] += step
        arguments = [Tensor(moved, requires_grad=True) if i == number else v for i, v in enumerate(inputs)]
        return g * fn(*arguments).array  # elementwise: what doesn't change cancels exactly below

    def quotient(h):
        up, down = value(h), value(-h)
        return (up - down).sum() / (2 * h), np.abs(up).sum() + np.abs(down).sum()

    near, size = quotient(h)
    far, _ = quotient(2 * h)
    rounding = 4e-16 * size / h
    return near + (near - far) / 3, rounding + abs(near - far) / 30  # Richardson: the h^2 term taken out
