"""The optimisers' update rules: one launch for all parameters, one pass over each w, its gradient g and its state.

NumPy would make a pass for each operation of a rule, and read and write all arrays each time. A launch for each
parameter would take longer than the work, where there are many small ones. But numba knows no list of arrays that it
needn't convert each time. So a kernel gets a table of where they begin in memory.

The numbers are NumPy's, of the arrays' dtype: so what is computed is of that dtype, too. Whatever does not change from
element to element is computed by the caller, in float64: 1 - 0.999 in float32 would be wrong in the fifth digit.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numba
import numpy as np

from tinynet.kernels.jit import inner, kernel, prange
from tinynet.kernels.memory import address, array_at
from tinynet.kernels.tasks import none_taken, take
from tinynet.typing import Array

CHUNK = 16384  # elements that one thread takes at a time


def update(rule: Any, parameters: Sequence[tuple[Array, ...]], *numbers: np.floating[Any]) -> None:
    """Apply a rule (sgd, adam or rmsprop), with its numbers, to all parameters in place.

    parameters: of each the arrays w, g and the rule's state, contiguous, all of one dtype and of w's size.

    >>> w, g = np.array([1.0, 2.0]), np.array([0.5, 0.0])
    >>> update(sgd, [(w, g)], *np.array([0.1, 0.0, 0.0, 0.0]))
    >>> w
    array([0.95, 2.  ])
    """
    table = np.array([[address(array) for array in arrays] for arrays in parameters], np.int64)
    pieces = _pieces(tuple(arrays[0].size for arrays in parameters))
    like = np.empty(0, parameters[0][0].dtype)
    rule(like, table, pieces, *numbers, numba.get_num_threads(), none_taken())


@functools.lru_cache(maxsize=64)
def _pieces(sizes):
    """(parameter, first element, count) of each task"""
    pieces = [(p, begin, min(CHUNK, size - begin)) for p, size in enumerate(sizes) for begin in range(0, size, CHUNK)]
    return np.array(pieces, np.int64).reshape(-1, 3)


@inner
def _part(like, table, pieces, task, slot):
    """That task's elements of a parameter's array: 0 is w, 1 is g, then its state; none where it hasn't so much."""
    parameter, begin, count = pieces[task, 0], pieces[task, 1], pieces[task, 2]
    if slot >= table.shape[1]:
        return like
    return array_at(table[parameter, slot] + begin * like.itemsize, count, like)


@kernel
def sgd(like, table, pieces, lr, momentum, nesterov, decay, lanes, taken):
    """The state, velocity, is there if there is momentum."""
    for _ in prange(lanes):
        task = take(taken)
        while task < len(pieces):
            w, g = _part(like, table, pieces, task, 0), _part(like, table, pieces, task, 1)
            velocity = _part(like, table, pieces, task, 2)
            _sgd(w, g, velocity, lr, momentum, nesterov, decay)
            task = take(taken)


@inner
def _sgd(w, g, velocity, lr, momentum, nesterov, decay):
    """g = g + decay w;  v = momentum v + g;  w = w - lr v, or with nesterov  w - lr (g + momentum v)"""
    if velocity.size == 0:
        for i in range(w.size):
            w[i] -= lr * _decayed(g[i], w[i], decay)
    else:
        for i in range(w.size):
            slope = _decayed(g[i], w[i], decay)
            v = momentum * velocity[i] + slope
            velocity[i] = v
            w[i] -= lr * (slope + momentum * v if nesterov != 0 else v)


@kernel
def adam(like, table, pieces, lr, beta1, new1, beta2, new2, root, eps, decay, shrink, lanes, taken):
    """new = 1 - beta;  root = 1 / sqrt(1 - beta2^t);  lr is divided by 1 - beta1^t"""
    for _ in prange(lanes):
        task = take(taken)
        while task < len(pieces):
            w, g = _part(like, table, pieces, task, 0), _part(like, table, pieces, task, 1)
            m, v = _part(like, table, pieces, task, 2), _part(like, table, pieces, task, 3)
            _adam(w, g, m, v, lr, beta1, new1, beta2, new2, root, eps, decay, shrink)
            task = take(taken)


@inner
def _adam(w, g, m, v, lr, beta1, new1, beta2, new2, root, eps, decay, shrink):
    """g = g + decay w;  m = beta1 m + new1 g;  v = beta2 v + new2 g^2;  w = shrink w - lr m / (root sqrt(v) + eps)"""
    for i in range(w.size):
        slope = _decayed(g[i], w[i], decay)
        m[i] = beta1 * m[i] + new1 * slope
        v[i] = beta2 * v[i] + new2 * (slope * slope)
        w[i] = shrink * w[i] - lr * (m[i] / (root * np.sqrt(v[i]) + eps))


@kernel
def rmsprop(like, table, pieces, lr, alpha, new, eps, momentum, decay, lanes, taken):
    """new = 1 - alpha; of the state, v and u, the second is there if there is momentum."""
    for _ in prange(lanes):
        task = take(taken)
        while task < len(pieces):
            w, g = _part(like, table, pieces, task, 0), _part(like, table, pieces, task, 1)
            v, u = _part(like, table, pieces, task, 2), _part(like, table, pieces, task, 3)
            _rmsprop(w, g, v, u, lr, alpha, new, eps, momentum, decay)
            task = take(taken)


@inner
def _rmsprop(w, g, v, u, lr, alpha, new, eps, momentum, decay):
    """g = g + decay w;  v = alpha v + new g^2;  u = momentum u + g / (sqrt(v) + eps);  w = w - lr u"""
    for i in range(w.size):
        slope = _decayed(g[i], w[i], decay)
        v[i] = alpha * v[i] + new * (slope * slope)
        step = slope / (np.sqrt(v[i]) + eps)
        if u.size:
            step += momentum * u[i]
            u[i] = step
        w[i] -= lr * step


@inner
def _decayed(g, w, decay):
    return g + decay * w if decay != 0 else g  # 0 w is NaN where w is infinite
