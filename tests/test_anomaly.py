"""detect_anomaly: the op that made the first NaN or Inf, forward or backward, the tensor, the line of the program."""

import re
from pathlib import Path

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, warmup
from tinynet.autograd import Op


def leaf(*values, dtype=np.float32):
    return tn.Tensor(np.array(values, dtype), requires_grad=True)


def raised(function):
    """The sentence of the error, and the line of this file that it names, as text."""
    with tn.detect_anomaly(), pytest.raises(FloatingPointError) as caught:
        function()
    sentence = str(caught.value)
    name, line = re.search(r"called at (\S+):(\d+)", sentence).groups()
    assert name == __file__
    return sentence, Path(__file__).read_text().splitlines()[int(line) - 1]


def test_forward():
    def program():
        y = leaf(1.0, 2.0) - 1
        z = tn.log(y)  # here
        return tn.exp(z)

    sentence, line = raised(program)
    assert sentence.startswith("Log made an Inf in its forward pass from finite inputs")
    assert line.endswith("# here")


def test_backward_names_the_line_of_the_forward_pass():
    def program():
        y = tn.sqrt(leaf(0.0))  # here
        z = y * 3
        z.backward()

    sentence, line = raised(program)
    assert sentence.startswith("Sqrt made an Inf in its backward pass, in the gradient of x of shape (1,), from a")
    assert line.endswith("# here")


def test_backward_names_the_tensor():
    def program():
        y = tn.Tensor([1e20]) * leaf(1.0)
        y.backward(np.array([1e30]))

    with pytest.raises(FloatingPointError, match=r"Mul made an Inf in its backward .* gradient of y of shape \(1,\)"):
        with tn.detect_anomaly():
            program()


def test_a_nan_made_of_infinities_is_named_where_it_comes_up():
    def program():
        mask = tn.Tensor(np.array([-np.inf, -np.inf], np.float32))
        x = leaf(1.0, 2.0) + mask  # an Inf that the program gives may go on
        return tn.softmax(x)  # here

    sentence, line = raised(program)
    assert sentence.startswith("Softmax made a NaN in its forward pass from an Inf in x of shape (2,)")
    assert line.endswith("# here")


def test_masks_of_infinities_are_no_anomaly():
    x = leaf(1.0, 2.0, 3.0)
    with tn.detect_anomaly():
        y = tn.softmax(tn.where(np.array([True, False, True]), x, -np.inf))
        (y * y).sum().backward()
        z = tn.where(np.isnan(x.array), 0.0, x)  # cleaning is none either
    assert np.isfinite(x.grad.numpy()).all() and z.shape == (3,)


def test_a_nan_in_the_data_and_an_inf_in_a_weight_are_told_from_made_ones():
    images, layer = np.ones((1, 4, 4, 2), np.float32), nn.Conv2d(2, 3, 3)
    images[0, 0, 0, 0] = np.nan
    with tn.detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"Gather got a NaN in x of shape \(1, 4, 4, 2\), where it was"):
            layer(tn.Tensor(images))
        layer.weight.data[0, 0, 0, 0] = np.inf
        with pytest.raises(FloatingPointError, match=r"Gather got an Inf in w of shape \(3, 3, 2, 3\), .*optimizer"):
            layer(tn.Tensor(np.ones_like(images)))


def test_a_nan_in_the_given_gradient():
    with tn.detect_anomaly():
        y = leaf(1.0) * 2
        with pytest.raises(FloatingPointError, match=r"Mul got a NaN in its backward pass.*given to backward\(\)"):
            y.backward(np.array([np.nan]))


def test_gradients_that_overflow_as_they_are_added():
    def program():
        y = leaf(0.0) * 1  # here
        (y * 3e38 + y * 3e38).backward()

    sentence, line = raised(program)
    assert sentence.startswith("backward made an Inf: the result of Mul of shape (1,) was used several times")
    assert line.endswith("# here")


def test_a_broadcast_that_overflows_as_it_is_summed_is_its_ops():
    def program():
        (leaf(0.0) * np.full(2, 3e38, np.float32)).sum().backward()

    sentence, _ = raised(program)
    assert sentence.startswith("Mul made an Inf in its backward pass, in the gradient of x of shape (1,)")


def test_second_derivatives():
    def program():
        x = leaf(0.0, dtype=np.float64)
        y = x**1.5  # here
        (gx,) = tn.grad(y, x, create_graph=True)
        tn.grad(gx, x)

    sentence, line = raised(program)
    assert "made an Inf in its backward pass" in sentence and ", in the backward pass of Pow" in sentence
    assert line.endswith("# here")


def test_a_healthy_training_step_raises_nothing():
    with tn.detect_anomaly():
        warmup.step()


def test_an_op_from_outside_of_the_context():
    y = tn.sqrt(leaf(0.0))
    with tn.detect_anomaly(), pytest.raises(FloatingPointError, match="called at a line outside of detect_anomaly"):
        y.backward()


def test_the_users_own_op_and_layer_are_the_users_lines():
    class Spoil(Op):
        def forward(self, x):
            return x * np.nan

    class Layer(nn.Module):
        def forward(self, x):
            return Spoil()(x)  # here

    sentence, line = raised(lambda: nn.Sequential(Layer())(leaf(1.0)))
    assert sentence.startswith("Spoil made a NaN") and line.endswith("# here")


def test_a_program_beside_the_package_whose_name_begins_alike():
    """Frames are the framework's own by their folder, not by the beginning of a name."""
    file = f"{Path(tn.__file__).parent}_program.py"
    with pytest.raises(FloatingPointError, match=f"called at {re.escape(file)}:3"):
        exec(compile("import tinynet as tn\nwith tn.detect_anomaly():\n    tn.log([0.0])\n", file, "exec"), {})


def test_it_costs_nothing_when_off():
    """Nothing is searched, and no line looked for: an op knows none."""
    y = leaf(1.0) * 2
    assert "called_at" not in vars(y.op)
    y.backward()
    with tn.detect_anomaly():
        assert "called_at" in vars((leaf(1.0) * 2).op)
    assert "called_at" not in vars((leaf(1.0) * 2).op)
