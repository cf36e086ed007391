"""Layers computed together: the same bits as one after the other, forward and backward, whatever the shapes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tinynet as tn
from tinynet import nn
from tinynet.nn.fusion import steps

WINOGRAD, DIRECT = (32, 32), (3, 5)


def images(n, h, w, c, dtype=np.float32, seed=0):
    return tn.Tensor(np.random.default_rng(seed).standard_normal((n, h, w, c)).astype(dtype), requires_grad=True)


def one_by_one(model, x):
    for layer in model:
        x = layer(x)
    return x


def results(run, model, x):
    """The output and the gradients of the input and of all parameters."""
    y = run(model, x)
    gy = np.random.default_rng(1).standard_normal(y.shape).astype(y.dtype)
    return [y.numpy(), *(g.numpy() for g in tn.grad(y, [x, *model.parameters()], tn.Tensor(gy)))]


def assert_same_bits(model, x):
    """But for a bias before pooling: its gradient's sum has other zeros, and so perhaps another last digit."""
    together = results(lambda model, x: model(x), model, x)
    for a, b in zip(together, results(one_by_one, model, x), strict=True):
        if a.ndim == 1 and any(isinstance(layer, nn.MaxPool2d) for layer in model):
            np.testing.assert_allclose(a, b, np.finfo(a.dtype).eps, 64 * np.finfo(np.float64).eps * np.abs(b).max())
        else:
            np.testing.assert_array_equal(a, b)


@given(channels=st.sampled_from([WINOGRAD, DIRECT, (32, 3), (8, 130)]), hw=st.tuples(*[st.integers(2, 19)] * 2),
       kernel=st.sampled_from([1, 3, 4]), stride=st.integers(1, 2), relu=st.booleans(), pool=st.booleans(),
       dtype=st.sampled_from([np.float32, np.float64]))
def test_convolution_relu_pooling(channels, hw, kernel, stride, relu, pool, dtype):
    layers = [nn.Conv2d(*channels, kernel, stride=stride, padding=2)]
    layers += [nn.ReLU()] * relu + [nn.MaxPool2d(2)] * pool
    assert_same_bits(nn.Sequential(*layers).astype(dtype), images(2, *hw, channels[0], dtype))


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("hw", [(16, 16), (15, 13), (18, 24), (23, 17)])
def test_winograd_relu_pooling(hw, relu):
    """With tiles of 4x4 pixels, twice, and of 6x6, that fit into the image or reach beyond it"""
    layers = [nn.Conv2d(32, 48, 3, padding=1), *[nn.ReLU()] * relu, nn.MaxPool2d(2)]
    assert_same_bits(nn.Sequential(*layers), images(2, *hw, 32))


@given(channels=st.sampled_from([WINOGRAD, DIRECT]), hw=st.tuples(*[st.integers(1, 12)] * 2))
def test_transposed_convolution_relu(channels, hw):
    model = nn.Sequential(nn.ConvTranspose2d(*channels, 4, stride=2, padding=1), nn.ReLU())
    assert_same_bits(model, images(2, *hw, channels[0]))


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("channels", [WINOGRAD, DIRECT])
@pytest.mark.parametrize("kind", [nn.Conv2d, nn.ConvTranspose2d])
@pytest.mark.parametrize("pool", [False, True])
def test_within_a_network(dtype, channels, kind, pool):
    """The gradients come from a layer behind, which lets them be changed in place."""
    layers = [kind(*channels, 4, stride=2), nn.ReLU(), *[nn.MaxPool2d(2)] * pool, nn.Conv2d(channels[1], 16, 3)]
    assert_same_bits(nn.Sequential(*layers).astype(dtype), images(2, 19, 17, channels[0], dtype))


@pytest.mark.parametrize("groups", [2, 8])
def test_groups(groups):
    model = nn.Sequential(nn.Conv2d(8, 16, 3, groups=groups), nn.ReLU(), nn.MaxPool2d(2))
    assert_same_bits(model, images(2, 9, 10, 8))


@given(channels=st.sampled_from([3, 16, 40]), hw=st.tuples(*[st.integers(2, 40)] * 2), relu=st.booleans(),
       dtype=st.sampled_from([np.float32, np.float64]))
def test_normalisation_relu_pooling(channels, hw, relu, dtype):
    model = nn.Sequential(nn.BatchNorm2d(channels), *[nn.ReLU()] * relu, nn.MaxPool2d(2)).astype(dtype)
    model[0].weight.data[...] = np.linspace(-1, 2, channels)
    model[0].bias.data[...] = np.linspace(2, -2, channels)
    x = images(2, *hw, channels, dtype)
    for a, b in zip(results(lambda model, x: model(x), model, x), results(one_by_one, model, x), strict=True):
        np.testing.assert_array_equal(a, b)


def test_normalisation_in_training_stays_itself():
    model = nn.Sequential(nn.Conv2d(3, 32, 3), nn.BatchNorm2d(32), nn.ReLU(), nn.Conv2d(32, 32, 3), nn.ReLU())
    x = images(2, 12, 12, 3)
    together = model(x).numpy()
    np.testing.assert_allclose(one_by_one(model, x).numpy(), together, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("convolution", [
    nn.Conv2d(32, 48, 3, padding=1), nn.Conv2d(32, 48, 3, bias=False), nn.ConvTranspose2d(32, 48, 4, 2, 1),
])
@pytest.mark.parametrize("affine", [True, False])
def test_normalisation_in_evaluation_goes_into_the_weight(convolution, affine):
    norm = nn.BatchNorm2d(48, affine=affine)
    random = np.random.default_rng(2)
    norm.running_mean[...], norm.running_var[...] = random.standard_normal(48), random.uniform(0.1, 5, 48)
    for p in norm.parameters():
        p.data[...] = random.standard_normal(48)
    model, x = nn.Sequential(convolution, norm, nn.ReLU()).eval(), images(2, 10, 11, 32)
    with tn.no_grad():
        assert [type(layer) for layer, _ in steps(list(model))] == [type(convolution)]
        y, expected = model(x).numpy(), one_by_one(model, x).numpy()
    assert np.abs(y - expected).max() < 2e-5 * np.abs(expected).max()
    assert len(list(steps(list(model)))) == 2                        # where gradients may be asked for, it stays


def test_normalisation_in_the_weight_follows_every_array_that_it_is_made_of():
    """They are written into in place, in no particular order; what is kept must never be what was."""
    convolution, norm = nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32)
    model, x = nn.Sequential(convolution, norm, nn.ReLU()).eval(), images(1, 10, 11, 16)
    arrays = [convolution.weight.data, convolution.bias.data, norm.running_mean, norm.running_var, norm.weight.data,
              norm.bias.data]
    with tn.no_grad():
        for array in (*arrays, *arrays):
            array.reshape(-1)[array.size // 2] += 0.5
            expected = one_by_one(model, x).numpy()
            for _ in range(4):
                assert np.abs(model(x).numpy() - expected).max() < 2e-5 * np.abs(expected).max()
        before = model(x).numpy()
        norm.eps = 0.5
        assert not np.array_equal(model(x).numpy(), before)


def test_what_does_not_join():
    class MyReLU(nn.ReLU):
        def forward(self, x):
            return x * 2

    def kinds(*layers):
        return [type(layer) for layer, _ in steps(list(layers))]

    conv = nn.Conv2d(3, 8, 3)
    assert kinds(conv, MyReLU()) == [nn.Conv2d, MyReLU]
    assert kinds(conv, nn.MaxPool2d(3)) == [nn.Conv2d, nn.MaxPool2d]
    assert kinds(conv, nn.MaxPool2d(2, stride=1)) == [nn.Conv2d, nn.MaxPool2d]
    assert kinds(conv, nn.MaxPool2d(2, padding=1)) == [nn.Conv2d, nn.MaxPool2d]
    assert kinds(conv, nn.MaxPool2d((2, 2), stride=(2, 2)), nn.ReLU()) == [nn.Conv2d, nn.ReLU]
    assert kinds(nn.ConvTranspose2d(3, 8, 4), nn.ReLU(), nn.MaxPool2d(2)) == [nn.ConvTranspose2d, nn.MaxPool2d]
    assert kinds(nn.Dense(3, 8), nn.ReLU()) == [nn.Dense, nn.ReLU]
    norm = nn.BatchNorm2d(8)
    assert kinds(conv, norm, nn.ReLU(), nn.MaxPool2d(2)) == [nn.Conv2d, nn.BatchNorm2d]
    assert kinds(norm, nn.MaxPool2d(3)) == [nn.BatchNorm2d, nn.MaxPool2d]
    assert kinds(norm.eval(), nn.ReLU(), nn.MaxPool2d(2)) == [nn.BatchNorm2d, nn.MaxPool2d]


@pytest.mark.parametrize("channels", [WINOGRAD, DIRECT])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_travels(channels, value):
    model = nn.Sequential(nn.Conv2d(*channels, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
    array = images(2, 8, 8, channels[0]).numpy().copy()
    array[0, 3, 4, 1] = value
    y, expected = model(tn.Tensor(array)).numpy(), one_by_one(model, tn.Tensor(array)).numpy()
    np.testing.assert_array_equal(y, expected)
    assert not np.isfinite(y[0]).all() and np.isfinite(y[1]).all()


@pytest.mark.parametrize("layers", [
    (nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)), (nn.Conv2d(2, 3, 3), nn.ReLU()),
    (nn.Conv2d(2, 3, 3), nn.MaxPool2d(2)), (nn.ConvTranspose2d(2, 3, 4, 2, 1), nn.ReLU()),
])
def test_gradients_of_gradients(layers):
    model = nn.Sequential(*layers).astype(np.float64)
    x = images(1, 6, 5, 2, np.float64)

    (layer, options), = steps(list(model))

    def square(x, w, b):
        y = layer(x, parameters=(w, b), **options)
        return (y * y).sum()

    tn.gradcheck(square, [x, layer.weight, layer.bias])
    tn.gradgradcheck(square, [x, layer.weight, layer.bias])


def test_gradients_of_gradients_through_normalisation_relu_pooling():
    layer = nn.BatchNorm2d(2).astype(np.float64)
    x = images(2, 5, 4, 2, np.float64)

    def square(x, w, b):
        y = tn.batch_norm(x, w, b, relu=True, pool=True)
        return (y * y).sum()

    tn.gradcheck(square, [x, layer.weight, layer.bias])
    tn.gradgradcheck(square, [x, layer.weight, layer.bias])


def test_too_small_to_pool_names_the_layer():
    with pytest.raises(ValueError, match="2 x 2"):
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.MaxPool2d(2))(images(1, 3, 3, 3))
