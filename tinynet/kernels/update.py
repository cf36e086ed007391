"""The optimisers' update rules: each one pass over a parameter w, its gradient g and its state, in place.

NumPy would make a pass for each operation of a rule, and read and write all arrays each time. All arrays are flat,
the numbers NumPy's, of the arrays' dtype: so what is computed is of that dtype, too. Whatever does not change from
element to element is computed by the caller, in float64: 1 - 0.999 in float32 would be wrong in the fifth digit.
"""

import numpy as np

from tinynet.kernels.jit import inner, kernel, prange

CHUNK = 16384  # elements that one thread takes at a time


@kernel
def sgd(w, g, velocity, lr, momentum, nesterov, decay):
    """velocity may be empty: then there is no momentum."""
    for chunk in prange((w.size + CHUNK - 1) // CHUNK):
        a, b = np.int64(chunk) * CHUNK, np.int64(chunk + 1) * CHUNK
        _sgd(w[a:b], g[a:b], velocity[a:b], lr, momentum, nesterov, decay)


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
def adam(w, g, m, v, lr, beta1, new1, beta2, new2, root, eps, decay, shrink):
    """new = 1 - beta;  root = 1 / sqrt(1 - beta2^t);  lr is divided by 1 - beta1^t"""
    for chunk in prange((w.size + CHUNK - 1) // CHUNK):
        a, b = np.int64(chunk) * CHUNK, np.int64(chunk + 1) * CHUNK
        _adam(w[a:b], g[a:b], m[a:b], v[a:b], lr, beta1, new1, beta2, new2, root, eps, decay, shrink)


@inner
def _adam(w, g, m, v, lr, beta1, new1, beta2, new2, root, eps, decay, shrink):
    """g = g + decay w;  m = beta1 m + new1 g;  v = beta2 v + new2 g^2;  w = shrink w - lr m / (root sqrt(v) + eps)"""
    for i in range(w.size):
        slope = _decayed(g[i], w[i], decay)
        m[i] = beta1 * m[i] + new1 * slope
        v[i] = beta2 * v[i] + new2 * (slope * slope)
        w[i] = shrink * w[i] - lr * (m[i] / (root * np.sqrt(v[i]) + eps))


@kernel
def rmsprop(w, g, v, u, lr, alpha, new, eps, momentum, decay):
    """new = 1 - alpha; u may be empty: then there is no momentum."""
    for chunk in prange((w.size + CHUNK - 1) // CHUNK):
        a, b = np.int64(chunk) * CHUNK, np.int64(chunk + 1) * CHUNK
        _rmsprop(w[a:b], g[a:b], v[a:b], u[a:b], lr, alpha, new, eps, momentum, decay)


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
