"""Functions that move elements: against NumPy's, with gradients and sentences."""

import numpy as np
import pytest

import tinynet as tn
from tests.checks import check_op, draw

CASES = {
    "reshape": (lambda x: tn.reshape(x, (3, -1)), lambda x: x.reshape(3, -1)),
    "transpose": (lambda x: tn.transpose(x, (1, 2, 0)), lambda x: x.transpose(1, 2, 0)),
    "flatten": (tn.flatten, lambda x: x.reshape(len(x), -1)),
    "broadcast_to": (lambda x: tn.broadcast_to(x, (2, 2, 3, 2)), lambda x: np.broadcast_to(x, (2, 2, 3, 2))),
    "pad": (lambda x: tn.pad(x, ((0, 1), (2, 0), (1, 1)), 0.5),
            lambda x: np.pad(x, ((0, 1), (2, 0), (1, 1)), constant_values=0.5)),
}


@pytest.mark.parametrize("fn, twin", CASES.values(), ids=CASES.keys())
def test_one_tensor(fn, twin):
    check_op(fn, twin, [draw((2, 3, 2))])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate(axis):
    lengths = [(2, 3, 2), (2, 3, 2), (2, 3, 2)]
    lengths[1] = tuple(n + 1 if i == axis % 3 else n for i, n in enumerate(lengths[1]))
    check_op(lambda *xs: tn.concatenate(xs, axis), lambda *xs: np.concatenate(xs, axis),
             [draw(s, i) for i, s in enumerate(lengths)])


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_stack(axis):
    check_op(lambda *xs: tn.stack(xs, axis), lambda *xs: np.stack(xs, axis), [draw((2, 3), i) for i in range(3)])


@pytest.mark.parametrize("call, sentence", [
    (lambda: tn.pad(np.ones((2, 2)), ((1, 1),)), "a pair .before, after. for each axis"),
    (lambda: tn.pad(np.ones(2), ((-1, 1),)), "width is -1"),
    (lambda: tn.concatenate([]), "no tensors"),
    (lambda: tn.concatenate([np.ones((2, 3)), np.ones((3, 2))]), "differ in more than axis 0"),
    (lambda: tn.concatenate([np.ones(2), np.ones((2, 2))]), "different numbers of axes"),
    (lambda: tn.concatenate([np.ones(2)], axis=1), "axis 1 is out of range"),
    (lambda: tn.stack([np.ones(2), np.ones(3)]), "must be equal"),
])
def test_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence):
        call()
