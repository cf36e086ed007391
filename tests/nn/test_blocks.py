"""Sequential and Residual: order, names, slices, and shapes that must not be broadcast."""

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn


def x(*shape):
    return tn.Tensor(np.random.default_rng(0).standard_normal(shape, dtype=np.float32))


class TestSequential:
    def test_layers_one_after_the_other(self):
        first, second = nn.Dense(3, 4), nn.Dense(4, 2)
        inputs = x(5, 3)
        np.testing.assert_array_equal(nn.Sequential(first, second)(inputs).data, second(first(inputs)).data)

    def test_order_beyond_ten_layers(self):
        layers = [nn.ReLU() for _ in range(12)]
        assert list(nn.Sequential(*layers)) == layers

    def test_length_index_and_slice(self):
        model = nn.Sequential(nn.ReLU(), nn.Dense(2, 2), nn.Tanh())
        assert len(model) == 3 and isinstance(model[-1], nn.Tanh)
        assert isinstance(model[:2], nn.Sequential) and model[:2][1] is model[1]

    def test_empty_is_the_identity(self):
        inputs = x(2)
        assert nn.Sequential()(inputs) is inputs

    @pytest.mark.parametrize("layer, match", [
        ([nn.ReLU()], r"layer 0 is a list, .* write "
                      r"Sequential\(\*layers\)"), (tn.exp, "layer 0 is a function"),
        (nn.ReLU, "layer 0 is a class"),
    ])
    def test_only_modules(self, layer, match):
        with pytest.raises(TypeError, match=match):
            nn.Sequential(layer)


class TestResidual:
    def test_adds_its_input(self):
        body, inputs = nn.Dense(3, 3), x(2, 3)
        np.testing.assert_array_equal(nn.Residual(body)(inputs).data, body(inputs).data + inputs.data)

    def test_adds_its_shortcut(self):
        body, shortcut, inputs = nn.Dense(3, 4), nn.Dense(3, 4), x(2, 3)
        block = nn.Residual(body, shortcut)
        np.testing.assert_array_equal(block(inputs).data, body(inputs).data + shortcut(inputs).data)
        assert list(block.state_dict()) == ["body.weight", "body.bias", "shortcut.weight", "shortcut.bias"]

    def test_identity_carries_the_gradient(self):
        body = nn.Dense(3, 3)
        body.weight.data[...] = 0
        inputs = tn.Tensor(np.ones((2, 3), np.float32), requires_grad=True)
        nn.Residual(body)(inputs).sum().backward()
        np.testing.assert_array_equal(inputs.grad.data, 1)

    def test_shapes_that_would_broadcast_raise(self):
        with pytest.raises(ValueError, match=r"turns x of shape \(2, 3\) into \(2, 1\).*x itself"):
            nn.Residual(nn.Dense(3, 1))(x(2, 3))

    def test_images_get_the_shortcut_that_fits(self):
        block = nn.Residual(nn.Conv2d(3, 8, 3, stride=2, padding=1))
        with pytest.raises(ValueError, match=r"give shortcut=nn.Conv2d\(3, 8, 1, stride=\(2, 2\)\)"):
            block(x(1, 7, 8, 3))
        block = nn.Residual(block.body, nn.Conv2d(3, 8, 1, stride=(2, 2)))
        assert block(x(1, 7, 8, 3)).shape == (1, 4, 4, 8)

    def test_unpadded_body_gets_another_hint(self):
        with pytest.raises(ValueError, match="pad the body's convolutions"):
            nn.Residual(nn.Conv2d(3, 3, 3))(x(1, 8, 8, 3))

    def test_parts_must_be_modules(self):
        with pytest.raises(TypeError, match="shortcut is a float"):
            nn.Residual(nn.ReLU(), 1.0)
        with pytest.raises(TypeError, match="body is a NoneType"):
            nn.Residual(None)
