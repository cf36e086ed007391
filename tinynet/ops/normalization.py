"""Batch, group and layer normalisation: values brought to mean 0 and variance 1, then scaled and shifted.

They differ in the groups of values that share a mean (kernels/normalization.py says which), not in what is
done with them. For an input x (N, S, C), a weight w and a bias b for each channel, with A the mean over a
group,

    r = 1 / sqrt(A((x - A x)^2) + eps)        xh = r (x - A x)        y = w xh + b

Moving x moves mean and variance too. Altogether dxh = J dx with a matrix J that is its own transpose:

    J u = r (u - A u - xh A(xh u))

and the gradients of y, each an op of its own, are (the sums go over all but the channels)

    InputGradient   (x, gy, w) -> gx    gx = J(w gy)
    WeightGradient  (x, gy)    -> gw    gw = sum gy xh
    BiasGradient    (gy)       -> gb    gb = sum gy

All of them need the same few sums over gy and x. The first that runs takes these sums, in one reading of the
two arrays, for all. What the gradients of the gradients are stands at the ops; they are again made of such ops
and of arithmetic.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence

import numpy as np

from tinynet.autograd import Op, is_dry_run, is_recording
from tinynet.kernels import normalization as kernels
from tinynet.kernels.pooling import Unpooled
from tinynet.ops.activation import ReluGrad
from tinynet.ops.pooling import MaxPoolGrad, images, unpooling
from tinynet.shapes import integer
from tinynet.tensor import Gradients, Tensor, TensorLike, as_tensor
from tinynet.typing import Array, Shape


class Moments:
    """Mean and variance of each group of x (N, S, C), of `count` values: computed once, handed from op to op."""

    def __init__(self, x: Array, groups: int, eps: float) -> None:
        self.layout, self.groups, self.eps = x.shape, groups, eps
        self.count, self.mean, self.var = self.measure(x)
        self.rstd = _reciprocal_deviation(self.var, eps)

    def measure(self, x: Array) -> tuple[int, Array, Array]:
        return x[0].size // self.groups if len(x) else 0, *kernels.statistics(x, self.groups)

    def sums(self, gy: Array | Unpooled, x: Array, w: Array | None, b: Array | None = None,
             relu: bool = False) -> kernels.Sums:
        return kernels.sums_of_gradient(gy, x.reshape(self.layout), self.mean, self.rstd, _flat(w), _flat(b), relu)


class Normalize(Op):
    """y = w xh + b;  gx = J(w gy),  gw = sum gy xh,  gb = sum gy.  With relu: max(y, 0), and gy where y > 0

    layout: the (N, S, C) that x, of whatever shape, is taken as; w and b are C numbers in the shape of x's last axes.
    pool: of images, of each 2x2 pixels the largest, and gy where they stood.
    """

    keeps = ("x", "w", "b")
    gives_new = True
    w = b = None

    def __init__(self, layout: Shape, groups: int, eps: float, moments: Moments | None = None, relu: bool = False,
                 pool: bool = False, measure: Callable[..., Moments] = Moments) -> None:
        self.layout, self.groups, self.eps, self.moments = layout, groups, eps, moments
        self.relu, self.pool, self.measure = relu, pool, measure

    def forward(self, x: Array, w: Array | None = None, b: Array | None = None) -> Array:
        if self.moments is None:
            self.moments = self.measure(x.reshape(self.layout), self.groups, self.eps)
        mean, rstd = self.moments.mean, self.moments.rstd
        if not self.pool:
            return _normalized(x, self.layout, mean, rstd, w, b, self.relu)
        y, places = kernels.normalize_pooled(x, mean, rstd, w, b, self.relu)
        if any(self.needs):
            self.places = places
        return y

    def output_shape(self, x: Shape, w: Shape = (), b: Shape = ()) -> Shape:
        return (x[0], x[1] // 2, x[2] // 2, x[3]) if self.pool else x

    def backward(self, gy: Tensor) -> Gradients:
        x, w, moments = self.x, self.w, self.moments
        relu, unpool = (), unpooling(self.places, x.shape) if self.pool else None
        if unpool and is_recording():
            gy, unpool = unpool(gy), None
        if self.relu and is_recording():  # the gradients' own gradients know nothing of a ReLU: a step before them
            gy = _gated(gy, self.layout, moments.mean, moments.rstd, x, w, self.b)
        elif self.relu:
            relu = _array(self.b), True
        sums = functools.cache(  # for the first op that asks
            lambda: moments.sums(images(gy.array, unpool), x.array, _array(w), *relu)
        )
        gx = InputGradient(moments, sums, relu, unpool)(x, gy, *_given(w)) if self.needs[0] else None
        gw = WeightGradient(moments, sums, w.shape)(x, gy) if self.needs[1] else None
        gb = BiasGradient(sums, w.shape)(gy) if self.needs[2] else None
        return gx, gw, gb


def _given(*tensors):
    return [t for t in tensors if t is not None]


def _array(tensor):
    return None if tensor is None else tensor.array


def _flat(array):
    return None if array is None else array.reshape(-1)


def _normalized(x, layout, mean, rstd, w, b, relu):
    """w (x - mean) rstd + b, or max(..., 0)"""
    return kernels.normalize(x.reshape(layout), mean, rstd, _flat(w), _flat(b), relu).reshape(x.shape)


def _gated(gy, layout, mean, rstd, x, w, b):
    """gy where max(y, 0) let y pass, y being w (x - mean) rstd + b."""
    y = _normalized(x.array, layout, mean, rstd, _array(w), _array(b), relu=True)
    return ReluGrad()(gy, gy.wrap(y))


class InputGradient(Op):
    """gx = J u, u = w gy.  For a gradient v of gx:  ggy = w J v,  gw = sum gy J v,  and, as J moves with x,

    ggx = -r (xh A(v J u) + J u A(xh v) + J v A(xh u))
    """

    keeps = ("x", "gy", "w", "output")
    w = None

    def __init__(self, moments: Moments, sums: Callable[[], kernels.Sums] | None = None,
                 relu: tuple[Array | None, bool] | tuple[()] = (), unpool: MaxPoolGrad | None = None) -> None:
        self.moments, self.sums = moments, sums
        self.relu, self.unpool = relu, unpool  # (b, True) if a ReLU's gradient comes first; pooling's, if that does

    def forward(self, x: Array, gy: Array, w: Array | None = None) -> Array:
        moments, layout = self.moments, self.moments.layout
        sums = self.sums() if self.sums else moments.sums(gy, x, w)
        b, relu = self.relu or (None, False)
        gy, rows, w, b = images(gy, self.unpool), x.reshape(layout), _flat(w), _flat(b)
        return kernels.normalize_gradient(gy, rows, moments.mean, moments.rstd, w, sums, b, relu).reshape(x.shape)

    def backward(self, v: Tensor) -> Gradients:
        jv = InputGradient(self.moments)(self.x, v)
        gx = self._through_x(v, jv) if self.needs[0] else None
        ggy = (jv if self.w is None else jv * self.w) if self.needs[1] else None
        gw = (self.gy * jv).sum_to(self.w.shape) if self.needs[2] else None
        return gx, ggy, gw

    def _through_x(self, v, jv):
        (n, s, c), groups = self.moments.layout, self.moments.groups
        u = self.gy if self.w is None else self.gy * self.w
        x, u, v, ju, jv = (t.reshape((n, s, groups, c // groups)) for t in (self.x, u, v, self.output, jv))

        def mean(t):
            return t.mean((1, 3), keepdims=True)

        centred = x - mean(x)
        r = (mean(centred * centred) + self.moments.eps) ** -0.5
        xh = centred * r
        return (-r * (xh * mean(v * ju) + ju * mean(xh * v) + jv * mean(xh * u))).reshape(self.x.shape)


class WeightGradient(Op):
    """gw = sum gy xh.  For a gradient v of gw:  gx = J(v gy),  ggy = v xh"""

    keeps = ("x", "gy")

    def __init__(self, moments: Moments, sums: Callable[[], kernels.Sums], shape: Shape) -> None:
        self.moments, self.sums, self.shape = moments, sums, shape

    def forward(self, x: Array, gy: Array) -> Array:
        return self.sums().weight.astype(x.dtype).reshape(self.shape)

    def output_shape(self, x: Shape, gy: Shape) -> Shape:
        return self.shape

    def backward(self, v: Tensor) -> Gradients:
        moments = self.moments
        gx = InputGradient(moments)(self.x, self.gy, v) if self.needs[0] else None
        normalize = Normalize(moments.layout, moments.groups, moments.eps, moments)
        return gx, normalize(self.x, v) if self.needs[1] else None


class BiasGradient(Op):
    """gb = sum gy.  For a gradient v of gb:  ggy = v, repeated"""

    def __init__(self, sums: Callable[[], kernels.Sums], shape: Shape) -> None:
        self.sums, self.shape = sums, shape

    def forward(self, gy: Array) -> Array:
        self.gy_shape = gy.shape
        return self.sums().bias.astype(gy.dtype).reshape(self.shape)

    def output_shape(self, gy: Shape) -> Shape:
        return self.shape

    def backward(self, v: Tensor) -> Tensor:
        return v.broadcast_to(self.gy_shape)


class Standardize(Op):
    """y = w xh + b with a fixed xh = (x - mean) rstd;  gx = gy w rstd,  gw = sum gy xh,  gb = sum gy

    With relu: max(y, 0), and gy where y > 0.
    """

    keeps = ("x", "w", "b")
    w = b = None

    def __init__(self, mean: Array, rstd: Array, relu: bool = False) -> None:
        self.mean, self.rstd, self.relu = mean, rstd, relu

    def forward(self, x: Array, w: Array | None = None, b: Array | None = None) -> Array:
        return _normalized(x, _as_one(x.shape), self.mean[None], self.rstd[None], w, b, self.relu)

    def backward(self, gy: Tensor) -> Gradients:
        if self.relu:
            gy = _gated(gy, _as_one(gy.shape), self.mean[None], self.rstd[None], self.x, self.w, self.b)
        scale = gy.like(self.rstd)
        gx = gy * (scale if self.w is None else self.w * scale) if self.needs[0] else None
        gw = (gy * Standardize(self.mean, self.rstd)(self.x)).sum_to(self.w.shape) if self.needs[1] else None
        return gx, gw, gy.sum_to(self.b.shape) if self.needs[2] else None


def _as_one(shape):
    """The layout of batch normalisation: all places of all images as those of one sample"""
    return 1, math.prod(shape[:-1]), shape[-1]


def batch_norm(x: TensorLike, weight: TensorLike | None, bias: TensorLike | None, running_mean: Array | None = None,
               running_var: Array | None = None, training: bool = True, momentum: float = 0.1, eps: float = 1e-5,
               relu: bool = False, pool: bool = False, measure: Callable[..., Moments] = Moments) -> Tensor:
    """Each channel normalised over the whole batch.

        y = (x - mean) / sqrt(var + eps) * weight + bias

        gx = r (u - A u - xh A(u xh)),   gweight = sum gy xh,   gbias = sum gy
        with u = gy weight, xh = (x - mean) r, r = 1 / sqrt(var + eps), A the mean over the same values as theirs
        In evaluation mean and var are constants: gx = gy weight r.

    training: mean and (biased) variance are those of the batch, over all axes but the last; the running ones,
    if given, are updated in place: running += momentum (batch's - running), with the unbiased variance.
    Otherwise the running ones are used. relu: max(y, 0) in place of y, made in the same passes over memory.
    pool: of images (N, H, W, C), and in training alone, the largest of each 2x2 pixels of that, in these passes, too:
    (N, H // 2, W // 2, C), and gy then counts where these stood.
    measure: what takes the batch's statistics, for a batch that is only a part (interop.mpi_batch_norm).

    x: (..., C), two axes or more; weight, bias: (C,) or None; running_mean, running_var: ndarrays (C,), both
    or neither. Raises ValueError for shapes that don't fit, for fewer than two values per channel in
    training, for an evaluation without running statistics, and for a pool of what it can't be done of. Bad
    arguments leave the running statistics as they were.
    Paper: Ioffe and Szegedy, Batch normalization, ICML 2015.

    >>> batch_norm([[1.0], [1.0], [4.0]], [1.0], [0.0], eps=2.0)
    Tensor([[-0.5],
            [-0.5],
            [ 1. ]])
    """
    op = "batch_norm"
    x = as_tensor(x)
    if x.ndim < 2:
        raise ValueError(f"{op}: x has the shape {x.shape}, but needs two axes or more, the channels last")
    channels = x.shape[-1]
    if channels == 0:
        raise ValueError(f"{op}: x has the shape {x.shape}, but must have one channel or more, on the last axis")
    count = x.size // channels
    parameters = _parameters(op, x, weight, bias, (channels,), "one for each channel of x")
    _check_eps(op, eps)
    _check_running(running_mean, running_var, channels, training, momentum)
    if training and count < 2 and not is_dry_run():
        raise ValueError(
            f"{op}: x of shape {x.shape} has {count} value(s) per channel, but the variance of a batch needs "
            "two or more; take a larger batch, or training=False"
        )
    if pool and (x.ndim != 4 or min(x.shape[1:3]) < 2 or not training):
        raise ValueError(f"{op}: x has the shape {x.shape}, but pooling takes images (N, H, W, C) of 2 x 2 pixels at "
                         "least, and is done in training alone; call max_pool2d on the result")
    if not training:  # copies of the statistics: a backward pass may come after their next update
        mean, rstd = (
            running_mean.astype(np.float64),
            _reciprocal_deviation(running_var.astype(np.float64), eps),
        )
        return Standardize(mean, rstd, relu)(x, *parameters)
    normalize = Normalize(_as_one(x.shape), channels, eps, relu=relu, pool=pool, measure=measure)
    y = normalize(x, *parameters)
    if running_mean is not None and not is_dry_run():
        mean, var, count = normalize.moments.mean[0], normalize.moments.var[0], normalize.moments.count
        running_mean += (momentum * (mean - running_mean)).astype(running_mean.dtype)
        running_var += (momentum * (var * count / (count - 1) - running_var)).astype(running_var.dtype)
    return y


def group_norm(x: TensorLike, num_groups: int, weight: TensorLike | None = None, bias: TensorLike | None = None,
               eps: float = 1e-5) -> Tensor:
    """Each sample's channels normalised in groups, over all places and the channels of the group.

        y = (x - mean) / sqrt(var + eps) * weight + bias

        gx = r (u - A u - xh A(u xh)),   gweight = sum gy xh,   gbias = sum gy
        with u = gy weight, xh = (x - mean) r, r = 1 / sqrt(var + eps), A the mean over the same values as theirs

    x: (N, ..., C), whose C channels are cut into num_groups groups of neighbours; weight, bias: (C,) or None.
    Raises ValueError for shapes that don't fit. Paper: Wu and He, Group normalization, ECCV 2018.

    >>> group_norm([[1.0, 1.0, 4.0, 5.0, 2.0, 2.0]], 2, eps=2.0)
    Tensor([[-0.5, -0.5,  1. ,  1. , -0.5, -0.5]])
    """
    op = "group_norm"
    x = as_tensor(x)
    groups = integer(num_groups, op, "num_groups", 1)
    if x.ndim < 2:
        raise ValueError(
            f"{op}: x has the shape {x.shape}, but needs two axes or more, samples first and channels last"
        )
    samples, channels = x.shape[0], x.shape[-1]
    if 0 in x.shape[1:]:
        raise ValueError(f"{op}: x has the shape {x.shape}, but only the number of samples may be 0")
    if channels % groups:
        raise ValueError(
            f"{op}: x has {channels} channels (shape {x.shape}), which {groups} groups don't divide"
        )
    _check_eps(op, eps)
    parameters = _parameters(op, x, weight, bias, (channels,), "one for each channel of x")
    return Normalize((samples, math.prod(x.shape[1:-1]), channels), groups, eps)(x, *parameters)


def layer_norm(x: TensorLike, normalized_shape: int | Sequence[int], weight: TensorLike | None = None,
               bias: TensorLike | None = None, eps: float = 1e-5) -> Tensor:
    """Each sample normalised over its last axes.

        y = (x - mean) / sqrt(var + eps) * weight + bias

        gx = r (u - A u - xh A(u xh)),   gweight = sum gy xh,   gbias = sum gy
        with u = gy weight, xh = (x - mean) r, r = 1 / sqrt(var + eps), A the mean over the same values as theirs

    normalized_shape: the lengths of these axes, an int (the last alone) or a tuple; weight, bias: of that
    shape, or None.
    Raises ValueError for shapes that don't fit. Paper: Ba, Kiros and Hinton, Layer normalization, 2016.

    >>> layer_norm([[1.0, 1.0, 4.0], [5.0, 2.0, 2.0]], 3, eps=2.0)
    Tensor([[-0.5, -0.5,  1. ],
            [ 1. , -0.5, -0.5]])
    """
    op = "layer_norm"
    x = as_tensor(x)
    lengths = normalized_shape if isinstance(normalized_shape, (tuple, list)) else (normalized_shape,)
    lengths = tuple(integer(n, op, "normalized_shape", 1) for n in lengths)
    if not lengths or x.shape[-len(lengths) :] != lengths:
        raise ValueError(
            f"{op}: normalized_shape is {lengths}, but must be the last axes of x, whose shape is {x.shape}"
        )
    _check_eps(op, eps)
    parameters = _parameters(op, x, weight, bias, lengths, "normalized_shape")
    channels = math.prod(lengths)
    return Normalize((x.size // channels, 1, channels), 1, eps)(x, *parameters)


def _parameters(op, x, weight, bias, shape, meaning):
    """What the ops take: both, the weight alone, or none. A bias alone gets a weight of ones."""
    given = {name: as_tensor(p, like=x) for name, p in (("weight", weight), ("bias", bias)) if p is not None}
    for name, parameter in given.items():
        if parameter.shape != shape:
            raise ValueError(
                f"{op}: {name} has the shape {parameter.shape}, but must have {shape}, {meaning}"
            )
    if "bias" in given and "weight" not in given:
        given = {"weight": x.like(np.ones(shape)), **given}
    return list(given.values())


def _check_eps(op, eps):
    if not eps >= 0:
        raise ValueError(f"{op}: eps is {eps}, but must not be negative")


def _check_running(mean, var, channels, training, momentum):
    """Raise unless the running statistics can be used, or updated in place."""
    op = "batch_norm"
    if (mean is None) != (var is None):
        raise ValueError(f"{op}: of running_mean and running_var only one is given; give both or neither")
    if mean is None and not training:
        raise ValueError(
            f"{op}: training=False takes running_mean and running_var, which are None; give both"
        )
    if not 0 <= momentum <= 1:
        raise ValueError(f"{op}: momentum is {momentum}, but must be between 0 and 1")
    for name, running in (("running_mean", mean), ("running_var", var)):
        if running is None:
            continue
        if not isinstance(running, np.ndarray) or running.dtype.kind != "f":
            raise TypeError(
                f"{op}: {name} is {type(running).__name__}, but must be an ndarray of floats: it is updated"
            )
        if running.shape != (channels,):
            raise ValueError(
                f"{op}: {name} has the shape {running.shape}, but must have ({channels},), x's channels"
            )
        if training and not running.flags.writeable:
            raise ValueError(
                f"{op}: {name} can't be written to, but training updates it in place; give a copy"
            )


def _reciprocal_deviation(var, eps):
    with np.errstate(divide="ignore"):  # without eps a constant group has 1 / 0 = Inf, which makes NaN
        return 1 / np.sqrt(var + eps)
