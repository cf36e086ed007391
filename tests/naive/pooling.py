"""Max and average pooling, window by window."""

import numpy as np


def windows(x, kernel, stride, padding, fill):
    """All (i, j, window) of the padded image, the window being (N, KH, KW, C)."""
    x = np.pad(x, ((0, 0), *padding, (0, 0)), constant_values=fill)
    for i in range((x.shape[1] - kernel[0]) // stride[0] + 1):
        for j in range((x.shape[2] - kernel[1]) // stride[1] + 1):
            h, w = i * stride[0], j * stride[1]
            yield i, j, x[:, h : h + kernel[0], w : w + kernel[1]]


def _pool(reduce, x, kernel, stride, padding, fill):
    found = {
        (i, j): reduce(window, axis=(1, 2)) for i, j, window in windows(x, kernel, stride, padding, fill)
    }
    oh, ow = max(found)
    return np.stack([np.stack([found[i, j] for j in range(ow + 1)], axis=1) for i in range(oh + 1)], axis=1)


def max_pool2d(x, kernel, stride, padding):
    return _pool(np.max, x, kernel, stride, padding, -np.inf)


def avg_pool2d(x, kernel, stride, padding):
    return _pool(np.mean, x, kernel, stride, padding, 0.0)


def max_pool2d_gradient(gy, x, kernel, stride, padding):
    """gx: each gy goes to the first maximum of its window's part of the image (NaN: to the last NaN)."""
    (top, _), (left, _) = padding
    n, height, width, channels = x.shape
    gx = np.zeros(x.shape)
    for b, i, j, c in np.ndindex(gy.shape):
        place, best = None, None
        for h in range(i * stride[0] - top, i * stride[0] - top + kernel[0]):
            for w in range(j * stride[1] - left, j * stride[1] - left + kernel[1]):
                inside = 0 <= h < height and 0 <= w < width
                if inside and (place is None or x[b, h, w, c] > best or np.isnan(x[b, h, w, c])):
                    place, best = (h, w), x[b, h, w, c]
        gx[b, *place, c] += gy[b, i, j, c]
    return gx
