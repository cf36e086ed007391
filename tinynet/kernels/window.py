"""Windows of images: copied out with zeros where they reach beyond the image, and copied back."""
from tinynet.kernels.emit import flattened
from tinynet.kernels.jit import inner


@inner
def load_window(x, n, top, bottom, left, width, scratch):
    """scratch = x[n, top:bottom, left:left + width], zero where that lies outside of the image"""
    _, H, W, C = x.shape
    flat = flattened(x)
    begin, end = max(0, -left), min(width, W - left)
    for h in range(top, bottom):
        line = scratch[(h - top) * width * C:(h - top + 1) * width * C]
        if h < 0 or h >= H or begin >= end:
            clear(line)
        else:
            at = ((n * H + h) * W + left) * C
            clear(line[:begin * C])
            copy(flat[at + begin * C:at + end * C], line[begin * C:end * C])
            clear(line[end * C:])


# These loops run over slices, from 0: with an offset, line[begin + i], LLVM would not vectorise them. (And to
# assign slice to slice takes numba 1.5 s to compile.)

@inner
def copy(source, target):
    for i in range(len(target)):
        target[i] = source[i]


@inner
def clear(target):
    for i in range(len(target)):
        target[i] = 0


@inner
def store_window(window, n, top, bottom, left, width, y):
    """y[n, top:bottom, left:left + width] = window, without what lies outside of the image"""
    _, H, W, C = y.shape
    flat = flattened(y)
    begin, end = max(0, -left), min(width, W - left)
    if begin >= end:
        return
    for h in range(max(top, 0), min(bottom, H)):
        at = ((n * H + h) * W + left) * C
        line = window[(h - top) * width * C:(h - top + 1) * width * C]
        copy(line[begin * C:end * C], flat[at + begin * C:at + end * C])
