"""Optimisers, learning-rate schedules and gradient clipping.

An optimiser's step is PyTorch's update rule, in place, one pass over all parameters and their state. In the
equations w is the parameter, g its gradient, t the number of its steps from 1; the loops that compute them are
in kernels/update.py. State has the parameter's dtype.

For different settings in parts of a model (no weight decay on biases, say) make an optimiser for each part.

>>> import tinynet as tn
>>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
>>> optimizer = SGD([w], lr=0.5)
>>> (w * w).sum().backward()
>>> optimizer.step()
>>> w
Tensor([0., 0.], requires_grad=True)
"""

from __future__ import annotations

import collections
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from tinynet.autograd import part
from tinynet.guard import owner
from tinynet.kernels.update import adam, rmsprop, sgd, update
from tinynet.tensor import Tensor
from tinynet.typing import Array


class Optimizer:
    """What all optimisers share: the parameters, their state, and the walk over them.

    A rule names its settings and its state arrays (zero at first), and updates parameters in `_update`.
    Raises TypeError for what is no list of trainable tensors; ValueError for an empty one, a tensor given
    twice, or a setting out of range.
    """

    settings: tuple[str, ...] = ("lr",)  # the attributes that state_dict holds beside the arrays
    slots: tuple[str, ...] = ()  # the names of the state arrays, each of its parameter's shape

    def __init__(self, parameters: Iterable[Tensor], lr: float) -> None:
        self.parameters = _checked_parameters(type(self).__name__, parameters)
        self.lr = lr
        self.steps = [0] * len(self.parameters)
        self.state = [{slot: np.zeros(p.shape, p.dtype) for slot in self.slots} for p in self.parameters]
        self._dtypes = [p.dtype for p in self.parameters]

    @property
    def lr(self) -> float:
        """The learning rate; assign to change it."""
        return self._lr

    @lr.setter
    def lr(self, lr: float) -> None:
        self._lr = self._number("lr", lr)

    def _number(self, name, value, below=math.inf):
        """A setting as a Python float (a NumPy float64 would compute in float64), with 0 <= value < below."""
        return _number(type(self).__name__, name, value, below=below)

    def zero_grad(self) -> None:
        """Drops the gradients: `.grad` is None until the next backward()."""
        with part("zero_grad"):
            for p in self.parameters:
                p.grad = None

    def step(self) -> None:
        """Updates every parameter that has a gradient, and skips those that have none.

        Raises ValueError, before anything is changed, if a parameter is locked by a live graph, its array is
        not what it was when the optimiser was made, or its gradient does not fit it.
        """
        with part("optimizer"):
            active = [index for index, p in enumerate(self.parameters) if p.grad is not None]
            self._check_arrays(active)
            alike = {}  # parameters of one dtype and time, no two in one memory: as a rule all of them
            sharers = collections.Counter()
            for index in active:
                p = self.parameters[index]
                self.steps[index] += 1
                arrays = (p.array, np.ascontiguousarray(p.grad.array), *self.state[index].values())
                memory = id(owner(p.array))
                alike.setdefault((p.dtype, self.steps[index], sharers[memory]), []).append(arrays)
                sharers[memory] += 1
            for (dtype, t, _), parameters in alike.items():
                self._update(parameters, dtype, t)

    def _update(self, parameters, dtype, t):
        """The rule at time t, in place, for parameters of that dtype: of each (w, g, *state), where g is only read."""
        raise NotImplementedError

    def _check_arrays(self, active):
        faults = []
        for index in active:
            p, dtype = self.parameters[index], self._dtypes[index]
            flags = p.data.flags
            if not flags.writeable:
                faults.append(f"parameter {index} of shape {p.shape} is locked, because a live graph still "
                              "needs its values; before step() call backward(), or drop what was computed "
                              "with it")
            elif not flags.c_contiguous:
                faults.append(f"parameter {index} of shape {p.shape} is not contiguous; give its .data a "
                              "C-ordered array")
            elif p.dtype != dtype:
                faults.append(f"parameter {index} of shape {p.shape} is {p.dtype}, but was {dtype} when the "
                              "optimiser was made; make the optimiser after Module.astype")
            elif p.grad.shape != p.shape or p.grad.dtype != dtype:
                faults.append(f"parameter {index} is {dtype} {p.shape}, but its gradient is {p.grad.dtype} "
                              f"{p.grad.shape}; they must be equal")
        if faults:
            more = [f"and {len(faults) - 5} more"] if len(faults) > 5 else []
            _raise_all(f"{type(self).__name__}.step", faults[:5] + more)

    def state_dict(self) -> dict[str, Array]:
        """{name: ndarray}, flat, so that safetensors holds it; copies.

        The settings by name and "step.INDEX" as arrays without axes; "SLOT.INDEX" the state arrays, by the
        parameter's place in the list that the optimiser was made with.
        """
        state = {name: np.array(getattr(self, name)) for name in self.settings}
        for index, slots in enumerate(self.state):
            state[f"step.{index}"] = np.array(self.steps[index])
            state.update((f"{slot}.{index}", array.copy()) for slot, array in slots.items())
        return state

    def load_state_dict(self, state: Mapping[str, Array]) -> None:
        """Takes over a state: settings (the learning rate too), steps and state arrays.

        Raises one ValueError that lists all that is missing, unexpected, or of another shape or dtype, before
        anything is changed.
        """
        own = self.state_dict()
        faults = [f"{name} is missing" for name in own if name not in state]
        faults += [f"{name} is unknown to this optimiser" for name in state if name not in own]
        for name in own:
            if name not in state:
                continue
            got, needed = np.asarray(state[name]), own[name]
            if got.shape != needed.shape or got.dtype != needed.dtype:
                faults.append(f"{name} is {got.dtype} {got.shape}, but must be {needed.dtype} {needed.shape}")
        if faults:
            _raise_all(f"{type(self).__name__}.load_state_dict: the state does not fit", faults)
        for name in self.settings:
            setattr(self, name, np.asarray(state[name]).item())
        for index, slots in enumerate(self.state):
            self.steps[index] = int(state[f"step.{index}"])
            for slot, array in slots.items():
                array[...] = state[f"{slot}.{index}"]

    def __repr__(self) -> str:
        settings = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.settings)
        return f"{type(self).__name__}({len(self.parameters)} parameters, {settings})"


class SGD(Optimizer):
    """Stochastic gradient descent; with momentum (Polyak, 1964) or Nesterov's (Sutskever et al., 2013).

    g = g + weight_decay w
    v = momentum v + g
    w = w - lr v                    (plain: w - lr g; nesterov: w - lr (g + momentum v))

    v: of the shape of w, 0 at first.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = SGD([w], lr=0.1, momentum=0.9)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    ...     print(w.numpy().round(4))
    [0.8 1.6]
    [0.46 0.92]
    """

    settings = ("lr", "momentum", "nesterov", "weight_decay")

    def __init__(self, parameters: Iterable[Tensor], lr: float, momentum: float = 0.0, nesterov: bool = False,
                 weight_decay: float = 0.0) -> None:
        self.momentum = self._number("momentum", momentum)
        self.nesterov = bool(nesterov)
        self.weight_decay = self._number("weight_decay", weight_decay)
        if nesterov and not momentum:
            raise ValueError("SGD: nesterov=True looks along the momentum, which is 0; give momentum=0.9")
        self.slots = ("velocity",) if momentum else ()
        super().__init__(parameters, lr)

    def _update(self, parameters, dtype, t):
        numbers = _numbers(dtype, self.lr, self.momentum, self.nesterov, self.weight_decay)
        update(sgd, parameters, *numbers)


class Adam(Optimizer):
    """Adam: Kingma and Ba, Adam: A Method for Stochastic Optimization (2015), arXiv:1412.6980, algorithm 1.

    g = g + weight_decay w
    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    m, v: of the shape of w, 0 at first; the divisors make up for that start. eps keeps 0 / 0 away.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = Adam([w], lr=0.1)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    ...     print(w.numpy().round(4))
    [0.9 1.9]
    [0.8004 1.8002]
    """

    settings = ("lr", "beta1", "beta2", "eps", "weight_decay")
    slots = ("m", "v")

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        if not isinstance(betas, (tuple, list)) or len(betas) != 2:
            raise TypeError(f"{type(self).__name__}: betas is {betas!r}, but must be a pair (beta1, beta2)")
        self.beta1, self.beta2 = (self._number("betas", beta, below=1) for beta in betas)
        self.eps = self._number("eps", eps)
        self.weight_decay = self._number("weight_decay", weight_decay)
        super().__init__(parameters, lr)

    def _update(self, parameters, dtype, t):
        self._move(parameters, dtype, t, decay=self.weight_decay, shrink=1.0)

    def _move(self, parameters, dtype, t, decay, shrink):
        beta1, beta2 = self.beta1, self.beta2
        lr, root = self.lr / (1 - beta1**t), 1 / math.sqrt(1 - beta2**t)
        numbers = _numbers(dtype, lr, beta1, 1 - beta1, beta2, 1 - beta2, root, self.eps, decay, shrink)
        update(adam, parameters, *numbers)


class AdamW(Adam):
    """Adam with decoupled weight decay: Loshchilov and Hutter (2019), arXiv:1711.05101, algorithm 2.

    w = w - lr weight_decay w       first, then Adam's step from the bare gradient
    m = beta1 m + (1 - beta1) g
    v = beta2 v + (1 - beta2) g^2
    w = w - lr (m / (1 - beta1^t)) / (sqrt(v / (1 - beta2^t)) + eps)

    m, v: of the shape of w, 0 at first.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = AdamW([w], lr=0.1, weight_decay=0.5)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    ...     print(w.numpy().round(4))
    [0.85 1.8 ]
    [0.7082 1.6104]
    """

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.999),
                 eps: float = 1e-8, weight_decay: float = 1e-2) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)

    def _update(self, parameters, dtype, t):
        self._move(parameters, dtype, t, decay=0.0, shrink=1 - self.lr * self.weight_decay)


class RMSProp(Optimizer):
    """RMSProp: Tieleman and Hinton, Lecture 6.5 of Neural Networks for Machine Learning (2012).

    g = g + weight_decay w
    v = alpha v + (1 - alpha) g^2
    u = momentum u + g / (sqrt(v) + eps)
    w = w - lr u

    v, u: of the shape of w, 0 at first.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 2.0], requires_grad=True)
    >>> optimizer = RMSProp([w], lr=0.01, momentum=0.5)
    >>> for _ in range(2):
    ...     optimizer.zero_grad()
    ...     (w * w).sum().backward()
    ...     optimizer.step()
    ...     print(w.numpy().round(4))
    [0.9 1.9]
    [0.7829 1.7809]
    """

    settings = ("lr", "alpha", "eps", "momentum", "weight_decay")

    def __init__(self, parameters: Iterable[Tensor], lr: float = 1e-2, alpha: float = 0.99, eps: float = 1e-8,
                 momentum: float = 0.0, weight_decay: float = 0.0) -> None:
        self.alpha = self._number("alpha", alpha, below=1)
        self.eps = self._number("eps", eps)
        self.momentum = self._number("momentum", momentum)
        self.weight_decay = self._number("weight_decay", weight_decay)
        self.slots = ("v", "u") if momentum else ("v",)
        super().__init__(parameters, lr)

    def _update(self, parameters, dtype, t):
        numbers = _numbers(dtype, self.lr, self.alpha, 1 - self.alpha, self.eps, self.momentum, self.weight_decay)
        update(rmsprop, parameters, *numbers)


def clip_grad_norm(parameters: Iterable[Tensor], max_norm: float) -> float:
    """Scales all gradients by one factor, so that their joint norm is at most max_norm; returns the old norm.

    norm = sqrt(sum over all parameters of sum g^2),   g = g min(1, max_norm / (norm + 1e-6))

    The sum runs in float64, so that large gradients don't overflow. If the norm is NaN or Inf, it is returned
    and the gradients stay as they are (PyTorch would make them NaN or 0): ask math.isfinite before step().
    Pascanu et al., On the Difficulty of Training Recurrent Neural Networks (2013), arXiv:1211.5063.

    >>> import tinynet as tn
    >>> w = tn.Tensor([1.0, 1.0], requires_grad=True)
    >>> (w * tn.Tensor([3.0, 4.0])).sum().backward()
    >>> clip_grad_norm([w], 0.5)
    5.0
    >>> w.grad
    Tensor([0.29999995, 0.39999992])
    """
    parameters = _checked_parameters("clip_grad_norm", parameters)
    max_norm = _number("clip_grad_norm", "max_norm", max_norm)
    active = [p for p in parameters if p.grad is not None]
    with part("clip_grad_norm"):
        norm = math.sqrt(sum(float(np.sum(np.square(p.grad.data, dtype=np.float64))) for p in active))
        factor = max_norm / (norm + 1e-6)
        if math.isfinite(norm) and factor < 1:
            for p in active:
                p.grad = Tensor(p.grad.data * factor)
    return norm


@dataclass(frozen=True)
class StepLR:
    """lr(step) = lr gamma^floor(step / step_size)

    A schedule is a function of the step, from 0, and has no state: optimizer.lr = schedule(step).

    >>> schedule = StepLR(0.1, step_size=30)
    >>> [round(schedule(step), 6) for step in (0, 29, 30, 60)]
    [0.1, 0.1, 0.01, 0.001]
    """

    lr: float
    step_size: int
    gamma: float = 0.1

    def __post_init__(self) -> None:
        _number("StepLR", "lr", self.lr)
        _number("StepLR", "gamma", self.gamma)
        _steps("StepLR", "step_size", self.step_size, 1)

    def __call__(self, step: int) -> float:
        return self.lr * self.gamma ** (_steps("StepLR", "step", step, 0) // self.step_size)


@dataclass(frozen=True)
class CosineLR:
    """A linear warm-up, then half a cosine from lr to final_lr, which it reaches at total_steps and keeps.

    step < warmup_steps:  lr(step) = lr (step + 1) / warmup_steps
    else:                 lr(step) = final_lr + (lr - final_lr) (1 + cos(pi s)) / 2
                          with s = (step - warmup_steps) / (total_steps - warmup_steps)

    Loshchilov and Hutter, SGDR (2017), arXiv:1608.03983, equation 5, without restarts.

    >>> schedule = CosineLR(0.1, total_steps=10, warmup_steps=2)
    >>> [round(schedule(step), 6) for step in (0, 1, 2, 6, 10)]
    [0.05, 0.1, 0.1, 0.05, 0.0]
    """

    lr: float
    total_steps: int
    warmup_steps: int = 0
    final_lr: float = 0.0

    def __post_init__(self) -> None:
        _number("CosineLR", "lr", self.lr)
        _number("CosineLR", "final_lr", self.final_lr)
        _steps("CosineLR", "warmup_steps", self.warmup_steps, 0)
        _steps("CosineLR", "total_steps", self.total_steps, self.warmup_steps + 1)

    def __call__(self, step: int) -> float:
        if _steps("CosineLR", "step", step, 0) < self.warmup_steps:
            return self.lr * (step + 1) / self.warmup_steps
        part = (step - self.warmup_steps) / (self.total_steps - self.warmup_steps)
        return _cosine(self.lr, self.final_lr, part)


@dataclass(frozen=True)
class OneCycleLR:
    """Half a cosine from max_lr / div to max_lr, then one down to max_lr / div / final_div, which it keeps.

    The top is at step rise * total_steps - 1, the end at total_steps - 1, as in PyTorch.
    Smith and Topin, Super-Convergence (2018), arXiv:1708.07120.

    >>> schedule = OneCycleLR(0.1, total_steps=10)
    >>> [round(schedule(step), 6) for step in (0, 2, 9)]
    [0.004, 0.1, 0.0]
    """

    max_lr: float
    total_steps: int
    rise: float = 0.3
    div: float = 25.0
    final_div: float = 1e4

    def __post_init__(self) -> None:
        _number("OneCycleLR", "max_lr", self.max_lr)
        _number("OneCycleLR", "rise", self.rise, below=1)
        _steps("OneCycleLR", "total_steps", self.total_steps, 2)
        for name in ("div", "final_div"):
            if _number("OneCycleLR", name, getattr(self, name)) == 0:
                raise ValueError(f"OneCycleLR: {name} is 0, but the learning rate is divided by it")

    def __call__(self, step: int) -> float:
        step = _steps("OneCycleLR", "step", step, 0)
        first, top, end = self.max_lr / self.div, self.rise * self.total_steps - 1, self.total_steps - 1
        if step < top:
            return _cosine(first, self.max_lr, step / top)
        return _cosine(self.max_lr, first / self.final_div, (step - top) / (end - top))


def _cosine(start, end, part):
    """Half a cosine wave from start (part 0) to end (part 1 and beyond)."""
    return end + (start - end) * (1 + math.cos(math.pi * min(part, 1.0))) / 2


def _numbers(dtype, *numbers):
    """Numbers as a kernel takes them: of the dtype of the parameter, lest it compute in float64."""
    return [dtype.type(number) for number in numbers]


def _checked_parameters(caller, parameters):
    """The parameters as a list, each a different Tensor that requires a gradient."""
    if isinstance(parameters, Tensor) or not hasattr(parameters, "__iter__"):
        fix = "model.parameters()" if hasattr(parameters, "parameters") else "a list of Parameters"
        raise TypeError(f"{caller}: parameters is a {type(parameters).__name__}; give {fix}")
    parameters = list(parameters)
    if not parameters:
        raise ValueError(f"{caller}: the list of parameters is empty (an iterator that was used up, or a "
                         "model without any?)")
    for index, p in enumerate(parameters):
        if not isinstance(p, Tensor):
            raise TypeError(f"{caller}: parameter {index} is a {type(p).__name__}, but must be a "
                            "Parameter or Tensor")
        if not p.requires_grad or p.op is not None:
            why = "does not require a gradient" if not p.requires_grad else "is the result of an operation"
            raise ValueError(f"{caller}: parameter {index} of shape {p.shape} {why}; give leaves with "
                             "requires_grad=True")
    if len({id(p) for p in parameters}) < len(parameters):
        raise ValueError(f"{caller}: a parameter is in the list twice and would be counted twice; give each "
                         "once")
    return parameters


def _number(caller, name, value, below=math.inf):
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise TypeError(f"{caller}: {name} is {value!r}, but must be a number")
    if not 0 <= value < below:
        raise ValueError(f"{caller}: {name} is {value}, but must be 0 or more and "
                         + (f"less than {below}" if below < math.inf else "finite"))
    return float(value)


def _steps(caller, name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{caller}: {name} is {value!r}, but must be an integer")
    if value < minimum:
        raise ValueError(f"{caller}: {name} is {value}, but must be at least {minimum}")
    return int(value)


def _raise_all(what, faults):
    raise ValueError(f"{what}; nothing was changed:\n  " + "\n  ".join(faults))
