"""The gradient check itself: it must reject wrong gradients, small ones and small errors included."""

import warnings

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


def first_element(factor):
    return tn.Tensor(np.array([factor, 1.0, 1.0]))


WRONG = {
    "factor 5": lambda g, x: g * 5,
    "0.075 % off": lambda g, x: g * 1.00075,
    "sign": lambda g, x: -g,
    "zero": lambda g, x: g * 0,
    "one element": lambda g, x: g * first_element(1.001),
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


def test_a_backward_that_looks_at_the_sign_or_size_of_the_gradient_is_rejected():
    for wrong in (lambda g, x: g + 1e-3, lambda g, x: g * (g.array > -9) * (x.array > 0) * (g.array > 0)):
        with pytest.raises(tn.GradientError, match="isn't linear in the result's gradient: at "):
            tn.gradcheck(lambda x, wrong=wrong: Faulty(wrong)(x), tn.Tensor(np.arange(1.0, 9.0), requires_grad=True))


def test_a_function_with_two_results_for_one_input_is_refused():
    with pytest.raises(ValueError, match="two different results .*manual_seed"):
        tn.gradcheck(tn.dropout, tn.Tensor(np.ones(50), requires_grad=True))


@pytest.mark.parametrize("check", [tn.gradcheck, tn.gradgradcheck])
def test_fast_takes_a_number_of_calls_that_does_not_depend_on_the_size(check):
    calls = []

    def fn(x):
        calls.append(1)
        return tn.exp(x) * x

    assert check(fn, tn.Tensor(np.random.default_rng(0).normal(size=(50, 40)), requires_grad=True), fast=True)
    assert len(calls) <= 2 + 1 + 2 * (1 + 12)


def test_fast_finds_one_wrong_element_of_thousands_and_says_which():
    factor = np.ones((70, 70))
    factor[31, 7] = 1.01
    x = tn.Tensor(np.random.default_rng(0).normal(size=(70, 70)), requires_grad=True)
    with pytest.raises(tn.GradientError, match=r"at \(31, 7\) is .* ratio of 1.01$"):
        tn.gradcheck(lambda x: Faulty(lambda g, x: g * tn.Tensor(factor))(x), x, fast=True)


def kinked(*values):
    return tn.Tensor(np.array(values), requires_grad=True)


@pytest.mark.parametrize("fast", [False, True])
def test_kinks_are_named(fast):
    with pytest.warns(tn.KinkWarning, match=r"kink at \(1,\) \(slopes 0.7698 and -0.7698\); there any") as caught:
        assert tn.gradcheck(tn.abs, kinked(1.0, 0.0, -2.0), fast=fast)
    assert caught[0].filename == __file__
    with pytest.warns(tn.KinkWarning, match=r"kink at \(0,\) .*, \(7,\) \(slopes .*\), \.\.\.; there"):
        assert tn.gradcheck(tn.relu, kinked(*[0.0] * 12, 1.0))


@pytest.mark.parametrize("distance", [1e-7, 3e-7, 9e-7, -2e-7])
def test_close_to_a_kink_a_right_gradient_passes(distance):
    """The steps reach over the kink: it is found, and excuses the gradient of the side that the element is on."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", tn.KinkWarning)
        assert tn.gradcheck(lambda x: tn.abs(x) * 3, kinked(distance, 5.0))


@pytest.mark.parametrize("slope", [-1.1, 1.1, np.nan, np.inf])
def test_at_a_kink_only_what_lies_between_its_slopes_passes(slope):
    class Wrong(Op):
        def forward(self, x):
            return np.abs(x)

        def backward(self, gy):
            return gy * np.array([slope, 1.0])

    with pytest.raises(tn.GradientError, match=r"at \(0,\)"):
        tn.gradcheck(lambda x: Wrong()(x), kinked(0.0, 1.0))


def test_nothing_but_kinks_is_no_pass():
    with pytest.raises(tn.GradientError, match=r"kink at \(0,\) .*, \(1,\) .*: that is everywhere, so nothing has"):
        tn.gradcheck(tn.relu, kinked(0.0, 0.0))


def test_a_small_slope_is_no_kink():
    """Close to an extremum the slopes of the two sides differ in sign: that must not excuse anything."""
    for x in (1e-6, 1e-4, 1e-3):
        assert tn.gradcheck(lambda x: x * x, kinked(x, 1.0))
        with pytest.raises(tn.GradientError, match=r"at \(0,\)"):
            tn.gradcheck(lambda x: Faulty(lambda g, x: g * 1.5)(x), kinked(x, 1.0))


def test_at_a_jump_the_slope_of_the_other_side_counts():
    """The gradient of a relu jumps at 0; to the left it is 0, and so is its derivative."""
    with pytest.warns(tn.KinkWarning, match=r"kink at \(0,\) \(a jump beside the slope 0\)"):
        assert tn.gradgradcheck(tn.relu, kinked(0.0, 1.0))

    class Jump(Op):
        def forward(self, x):
            return np.where(x > 0, 1 + 2 * x, 2 * x)

        def backward(self, gy):
            return gy * 5

    with pytest.raises(tn.GradientError, match=r"at \(0,\)"):
        tn.gradcheck(lambda x: Jump()(x), kinked(0.0, 1.0))


def test_a_function_that_is_not_finite_does_not_pass():
    for fn, value in ((tn.sqrt, 0.0), (tn.log, 0.0), (tn.log, -1.0)):
        with pytest.raises(tn.GradientError, match="looks like a function that isn't finite here"):
            tn.gradcheck(fn, kinked(value, 1.0))


def test_the_gradient_of_another_input_and_the_sign_of_some_elements_are_recognised():
    with pytest.raises(tn.GradientError, match="2 of 3 elements are wrong; it looks like the wrong sign in some elem"):
        tn.gradcheck(lambda x: Faulty(lambda g, x: g * tn.Tensor(np.array([1.0, -1.0, -1.0])))(x), point())


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
