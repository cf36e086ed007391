"""The names that type hints use in many places: what a size, a shape or a path may be given as.

They are for readers and type checkers; nothing is checked by them at run time. `TensorLike`, which needs Tensor, is in
tensor.py; data sets and samples are in data/loader.py.
"""

import os
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]  # the docstring says of which dtype and shape
Numbers = Array | np.generic | float | Sequence[Any]  # whatever NumPy makes an array of
Shape = tuple[int, ...]
DType = npt.DTypeLike
FilePath = str | os.PathLike[str]

Axes = int | Sequence[int] | None  # of a reduction; None is all
Pair = int | tuple[int, int]  # for height and width alike, or (height, width)
Sides = tuple[tuple[int, int], tuple[int, int]]  # ((top, bottom), (left, right))
Padding = Pair | Sides | Literal["same"]
Mode = Literal["nearest", "bilinear"]
Reduction = Literal["mean", "sum", "none"]
OnError = Literal["raise", "skip"]
Random = np.random.Generator
