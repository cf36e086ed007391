"""Module: owns parameters, finds those of its parts by itself, and takes no attribute by mistake.

There are no registries. What a module owns is read off its attributes, in the order of their assignment:

    Parameter            trained, and part of the state
    ndarray              a buffer: not trained, but part of the state (running statistics)
    Module               a part; its names get the attribute's name as prefix ("encoder.weight")
    list, tuple, dict    looked through for Parameters and Modules, at any depth ("blocks.0.weight")

Attributes are closed when the constructor is done: from then on, assigning a name that it did not make is an
error. Python has one place that knows when the outermost __init__ has returned, the class's own __call__, so
that is where ModuleType closes them; and __new__ opens them, so a subclass need not call super().__init__().
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tinynet.autograd import running
from tinynet.notebook import module_html, times
from tinynet.tensor import Tensor, TensorLike
from tinynet.typing import Array, DType

LOCKED = "locked: a live graph still needs its values; finish backward() or drop the graph's outputs first"


class Parameter(Tensor):
    """A tensor that is trained: it requires a gradient, and the module that has it as an attribute owns it.

    A copy (copy.deepcopy, pickle) has the values, not the gradient.

    >>> Parameter(np.zeros((2, 3), np.float32)).requires_grad
    True
    """

    __slots__ = ()

    def __init__(self, data: TensorLike, dtype: DType | None = None) -> None:
        if isinstance(data, Tensor):
            data = data.data
        if isinstance(data, np.ndarray):
            data = np.require(data, requirements="C")      # optimisers update it as one flat run
        super().__init__(data, requires_grad=True, dtype=dtype)

    def __reduce__(self) -> tuple[Any, ...]:
        return Parameter, (self.data,)


class ModuleType(type):
    """The class of module classes: closes a module's attributes when its constructor has returned."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        module = super().__call__(*args, **kwargs)
        module.__dict__["_closed"] = True
        return module

    @property
    def __signature__(cls) -> inspect.Signature:
        """The arguments of __init__, so that help(nn.Conv2d) doesn't show those of __call__ above."""
        signature = inspect.signature(cls.__init__)
        return signature.replace(parameters=list(signature.parameters.values())[1:], return_annotation=signature.empty)


class Module(metaclass=ModuleType):
    """Base of all layers and models: assign parameters and parts in __init__, write forward, call the object.

    >>> class Scale(Module):
    ...     def __init__(self, size):
    ...         self.weight = Parameter(np.ones(size, np.float32))
    ...     def forward(self, x):
    ...         return x * self.weight
    >>> scale = Scale(3)
    >>> scale
    Scale()  # 3 parameters
    >>> scale.wieght
    Traceback (most recent call last):
    AttributeError: Scale has no attribute 'wieght'; near names: weight
    """

    training: bool

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        module = super().__new__(cls)
        module.__dict__.update(training=True, _closed=False)
        return module

    def __init__(self) -> None:
        """Nothing to do; it is here so that arguments which a class does not take are an error."""

    def forward(self, *inputs: Any, **options: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} has no forward; define forward(self, x) in it")

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        outer = running.call
        running.call = call = (self, outer)
        try:
            if running.watcher is not None:
                return running.watcher.call(call, inputs, options)
            return self.forward(*inputs, **options)
        except Exception as error:
            _note_place(error, self)
            raise
        finally:
            running.call = outer

    # Attributes

    if not TYPE_CHECKING:  # which of itself tells what is no attribute, and with these would take any name for one

        def __getattr__(self, name: str) -> Any:      # Python asks here only after it found nothing
            if hasattr(type(self), name):
                return object.__getattribute__(self, name)  # a property whose own code failed: show that error
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}{_near(self, name)}")

        def __setattr__(self, name: str, value: Any) -> None:
            attributes = vars(self)
            if name in attributes:
                self._check_kind(name, attributes[name], value)
            elif self._closed and not hasattr(type(self), name):
                raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to assign"
                                     f"{_near(self, name)}; make it in __init__, say as self.{name} = None")
            if not self._closed:
                _check_findable(self, name, value)
            object.__setattr__(self, name, value)

    def _check_kind(self, name, old, new):
        """A parameter, buffer or module gives way only to one of its kind: else it would be lost silently."""
        for kind in (Parameter, np.ndarray, Module):
            if isinstance(old, kind) and not isinstance(new, kind):
                values = f", or values to {name}.data[...]" if kind is Parameter else ""
                raise TypeError(f"{type(self).__name__}.{name} is a {kind.__name__} and got a "
                                f"{type(new).__name__}; assign a {kind.__name__}{values}")

    # What the module owns

    def _owned(self) -> Iterator[tuple[str, Any]]:
        """(name, value) of each Parameter, buffer and direct part, in the order of assignment."""
        for name, value in vars(self).items():
            if isinstance(value, np.ndarray):
                yield name, value
            else:
                yield from _walk(name, value)

    def named_modules(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of this module, named "", and of all its parts, depth first; a shared one once.

        >>> from tinynet import nn
        >>> [name for name, _ in nn.Sequential(nn.ReLU(), nn.Residual(nn.Dense(2, 2))).named_modules()]
        ['', '0', '1', '1.body']
        """
        yield from self._named_modules("", set())

    def _named_modules(self, prefix: str, seen: set[int]) -> Iterator[tuple[str, Module]]:
        if id(self) in seen:
            return
        seen.add(id(self))
        yield prefix, self
        for name, value in self._owned():
            if isinstance(value, Module):
                yield from value._named_modules(_join(prefix, name), seen)

    def modules(self) -> Iterator[Module]:
        """This module and all its parts, depth first; a shared one once."""
        return (module for _, module in self.named_modules())

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of this module and all its parts; a shared one once, under its first name."""
        return ((name, value) for name, value in self._state() if isinstance(value, Parameter))

    def parameters(self) -> Iterator[Parameter]:
        """The parameters of this module and all its parts, each once: what an optimiser takes."""
        return (parameter for _, parameter in self.named_parameters())

    def _state(self) -> Iterator[tuple[str, Any]]:
        """(name, Parameter or buffer) of this module and all its parts, each once, under its first name."""
        seen = set()
        for prefix, module in self.named_modules():
            for name, value in module._owned():
                if not isinstance(value, Module) and id(value) not in seen:
                    seen.add(id(value))
                    yield _join(prefix, name), value

    # State

    def state_dict(self) -> dict[str, Array]:
        """{name: ndarray} of all parameters and buffers: copies, which training on doesn't change.

        >>> from tinynet import nn
        >>> {name: array.shape for name, array in nn.Dense(3, 2).state_dict().items()}
        {'weight': (3, 2), 'bias': (2,)}
        """
        return {name: _array(value).copy() for name, value in self._state()}

    def load_state_dict(self, state: Mapping[str, Array], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copies a state's arrays into the parameters and buffers.

        Everything wrong with it, names missing or unexpected, shapes, dtypes, arrays locked by a live graph,
        is listed in one ValueError before anything is changed. With strict=False missing and unexpected names
        are left alone. Returns (missing, unexpected), two lists of names.
        """
        own = {name: _array(value) for name, value in self._state()}
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        common = [name for name in own if name in state]
        faults = [f"{name}: {fault}" for name in common if (fault := _mismatch(own[name], state[name]))]
        if strict:
            faults = [f"{name}: missing in the state" for name in missing] + \
                     [f"{name}: in the state, but not in the model" for name in unexpected] + faults
        if faults:
            raise ValueError(f"load_state_dict: the state does not fit this {type(self).__name__}; nothing "
                             "was changed:\n  " + "\n  ".join(faults))
        for name in common:
            own[name][...] = state[name]
        return missing, unexpected

    def astype(self, dtype: DType) -> Self:
        """Converts all float parameters and buffers, in this module; drops the gradients; returns the module.

        float64 is for gradient checks. Make the optimiser afterwards: its state has the parameters' dtype.
        """
        dtype = np.dtype(dtype)
        if dtype not in (np.float32, np.float64):
            raise TypeError(f"Module.astype: got {dtype}, but parameters are float32 or float64")
        for name, parameter in self.named_parameters():
            if not parameter.data.flags.writeable:
                raise ValueError(f"Module.astype: {name} is {LOCKED}")
        for parameter in self.parameters():
            parameter.__init__(parameter.data, dtype)      # the same object, so what is shared stays shared
        for module in self.modules():
            for name, value in module._owned():
                if isinstance(value, np.ndarray) and value.dtype.kind == "f":
                    setattr(module, name, value.astype(dtype))
        return self

    def train(self, mode: bool = True) -> Self:
        """Sets training mode (batch_norm and dropout differ) in this module and all its parts; returns it."""
        for module in self.modules():
            module.training = bool(mode)
        return self

    def eval(self) -> Self:
        """Sets evaluation mode: batch_norm uses running statistics, dropout does nothing; returns it."""
        return self.train(False)

    # Text

    def __repr__(self) -> str:
        count = sum(parameter.size for parameter in self.parameters())
        parts = [(name, value) for name, value in self._owned() if isinstance(value, Module)]
        comment = f"  # {count:,} parameter{'s' * (count != 1)}" if count else ""
        if not parts:
            return f"{headline(self)}{comment}"
        lines = [f"{name}: {part!r}".replace("\n", "\n  ") for name, part in parts]
        return f"{headline(self)[:-1]}{comment}\n  " + "\n  ".join(lines) + "\n)"

    def _repr_html_(self) -> str:
        count = sum(parameter.size for parameter in self.parameters())
        mode = "training" if self.training else "evaluation"
        title = f"{type(self).__name__}: {count:,} parameter{'s' * (count != 1)}, in {mode} mode"
        return module_html(title, (_described(name, module) for name, module in self.named_modules()))


def headline(module: Module) -> str:
    """The constructor's call as far as the attributes tell it, without what is at its default.

    An argument is shown if an attribute of its name holds a plain value: a number, a string, a tuple of such.

    >>> from tinynet import nn
    >>> headline(nn.Conv2d(3, 16, 3, padding=1, bias=False))
    'Conv2d(3, 16, kernel_size=3, padding=1, bias=False)'
    """
    words = []
    positional = True
    for name, argument in inspect.signature(module.__init__).parameters.items():
        if argument.kind in (argument.VAR_POSITIONAL, argument.VAR_KEYWORD):
            continue
        value = vars(module).get(name, argument.default)
        if argument.default is True and value is None:
            value = False                                   # bias=False leaves self.bias = None
        required = argument.default is argument.empty
        if not _is_plain(value) or (not required and value == argument.default):
            positional = False
            continue
        positional = positional and required and len(words) < 2
        words.append(repr(value) if positional else f"{name}={value!r}")
    return f"{type(module).__name__}({', '.join(words)})"


def _described(name, module):
    """A module's cells in a notebook's table."""
    own = [(name, value) for name, value in module._owned() if not isinstance(value, Module)]
    count = sum(value.size for _, value in own if isinstance(value, Parameter))
    arrays = ", ".join(f"{name} {times(value.shape)}" for name, value in own)
    return name, headline(module), arrays, f"{count:,}" if count else ""


def _is_plain(value):
    if isinstance(value, (tuple, list)):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, (bool, int, float, str, np.number))


def _walk(name, value):
    """(name, value) of each Parameter and Module in nested lists, tuples and dicts."""
    if isinstance(value, (Parameter, Module)):
        yield name, value
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from _walk(f"{name}.{index}", item)
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _walk(f"{name}.{key}", item)


def _check_findable(module, name, value):
    """Raises for values that hold parameters where _walk would not find them, or not in a fixed order."""
    where = f"{type(module).__name__}.{name}"
    if isinstance(value, (set, frozenset)) and any(isinstance(item, (Parameter, Module)) for item in value):
        raise TypeError(f"{where}: a set of modules or parameters has no fixed order; use a list")
    if isinstance(value, Tensor) and value.requires_grad and not isinstance(value, Parameter):
        raise TypeError(f"{where}: a Tensor that requires a gradient would not be trained or saved; make it "
                        "an nn.Parameter")


def _mismatch(own, loaded):
    """What keeps an array of a state from being copied into the model's own; "" if nothing does."""
    loaded = np.asarray(loaded)
    if own.shape != loaded.shape:
        return f"the state has shape {loaded.shape}, the model {own.shape}"
    if own.dtype != loaded.dtype:
        return f"the state has dtype {loaded.dtype}, the model {own.dtype} (Module.astype changes it)"
    if not own.flags.writeable:
        return LOCKED
    return ""


def _note_place(error, module):
    """Notes on an error which layer it came from, as a path from the outermost module (Python 3.11 on)."""
    inner, path, layer, old = getattr(error, "place", (None, "", "", ""))
    name = next((name for name, part in module._owned() if part is inner), None)
    if inner is not module:
        path, layer = (_join(name, path), layer) if name else ("", headline(module))
    note = f"in {layer}" + (f", which is {path} of {type(module).__name__}" if path else "")
    error.place = (module, path, layer, note)
    error.__notes__ = [other for other in getattr(error, "__notes__", []) if other != old] + [note]


def _near(module, name):
    names = difflib.get_close_matches(name, [known for known in dir(module) if not known.startswith("_")])
    return f"; near names: {', '.join(names)}" if names else ""


def _join(prefix, name):
    return f"{prefix}.{name}" if prefix and name else prefix or name


def _array(value):
    return value.data if isinstance(value, Tensor) else value
