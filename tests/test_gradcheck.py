"""The gradient check itself: it must reject wrong gradients, small ones and small errors included."""

import numpy as np
import pytest

import tinynet as tn
from tinynet.autograd import Op


class Faulty(Op):
    """y = x^2 with a gradient that can be wrong in a chosen way."""

    keeps = ("x",)

    def __init__(self, wrong):
        self.wrong = wrong

    def forward(self, x):
        return x * x

    def backward(self, gy):
        return self.wrong(gy * self.x * 2, self.x)


def point(scale=1.0):
    return tn.Tensor(np.array([0.3, -1.2, 2.0]) * scale, requires_grad=True)


def first_element(value):
    return tn.Tensor(np.array([value, 0.0, 0.0]))


WRONG = {
    "factor 5": lambda g, x: g * 5,
    "0.075 % off": lambda g, x: g * 1.00075,
    "sign": lambda g, x: -g,
    "zero": lambda g, x: g * 0,
    "one element": lambda g, x: g + first_element(1e-3),
    "detached": lambda g, x: g.detach() * 2,
    "reversed": lambda g, x: g[::-1],
    "nan": lambda g, x: g * float("nan"),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG.keys())
def test_wrong_gradients_are_rejected(wrong):
    with pytest.raises(tn.GradientError, match=r"gradient of input 0 at \(\d,\) is .* by backward, but .* by diff"):
        tn.gradcheck(lambda x: Faulty(wrong)(x), point())


@pytest.mark.parametrize("scale", [1e-9, 1e-4, 1.0, 1e6])
def test_right_gradients_pass_and_wrong_ones_fail_at_every_scale(scale):
    x = point(scale)
    assert tn.gradcheck(lambda x: Faulty(lambda g, x: g)(x) * (1 / scale), x)
    with pytest.raises(tn.GradientError):
        tn.gradcheck(lambda x: Faulty(lambda g, x: g * 5)(x) * (1 / scale), x)


def test_gradgradcheck_rejects_a_gradient_that_is_right_but_not_differentiable():
    fn = lambda x: Faulty(lambda g, x: g.detach())(x)  # noqa: E731
    assert tn.gradcheck(fn, point())
    with pytest.raises(tn.GradientError):
        tn.gradgradcheck(fn, point())


def test_gradgradcheck_passes_linear_functions():
    assert tn.gradgradcheck(lambda x: x * 3, point())


def test_only_inputs_that_need_a_gradient_are_checked():
    constant = tn.Tensor(np.array([1.0, 2.0, 3.0]))
    assert tn.gradcheck(lambda x, c: x * c.detach(), [point(), constant])


def test_sentences():
    with pytest.raises(ValueError, match="nothing to check"):
        tn.gradcheck(lambda x: x, tn.Tensor(np.ones(2)))
    with pytest.raises(TypeError, match="need float64"):
        tn.gradcheck(lambda x: x, tn.Tensor([1.0], requires_grad=True))
    with pytest.raises(TypeError, match="fn returned a float"):
        tn.gradcheck(lambda x: 1.0, point())
