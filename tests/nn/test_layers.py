"""Layers: their functions, shapes, names and dtypes, and the arguments that they refuse."""

import inspect

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn

LAYERS = [
    (lambda: nn.Conv2d(4, 6, 3), (2, 7, 8, 4), (2, 5, 6, 6)),
    (lambda: nn.Conv2d(4, 6, (3, 1), (2, 1), padding=((1, 0), (0, 2)), dilation=(2, 1), groups=2, bias=False),
     (2, 8, 8, 4), (2, 3, 10, 6)),
    (lambda: nn.Conv2d(4, 4, 3, padding="same"), (2, 7, 8, 4), (2, 7, 8, 4)),
    (lambda: nn.ConvTranspose2d(4, 6, 4, stride=2, padding=1), (2, 4, 5, 4), (2, 8, 10, 6)),
    (lambda: nn.ConvTranspose2d(4, 6, 3, 2, 1, 1, 2, False), (2, 4, 5, 4), (2, 8, 10, 6)),
    (lambda: nn.Dense(4, 6), (2, 3, 4), (2, 3, 6)),
    (lambda: nn.Dense(4, 6, bias=False), (2, 4), (2, 6)),
    (nn.Flatten, (2, 3, 4, 5), (2, 60)),
    (nn.ReLU, (2, 3), (2, 3)),
    (lambda: nn.LeakyReLU(0.2), (2, 3), (2, 3)),
    (nn.Sigmoid, (2, 3), (2, 3)),
    (nn.Tanh, (2, 3), (2, 3)),
    (nn.GELU, (2, 3), (2, 3)),
    (lambda: nn.MaxPool2d(2), (2, 6, 8, 3), (2, 3, 4, 3)),
    (lambda: nn.MaxPool2d(3, stride=2, padding=1), (2, 7, 8, 3), (2, 4, 4, 3)),
    (lambda: nn.AvgPool2d((2, 1)), (2, 6, 8, 3), (2, 3, 8, 3)),
    (lambda: nn.Upsample(2), (2, 3, 4, 3), (2, 6, 8, 3)),
    (lambda: nn.Upsample((2, 3), mode="bilinear"), (2, 3, 4, 3), (2, 6, 12, 3)),
    (lambda: nn.BatchNorm2d(4), (2, 5, 6, 4), (2, 5, 6, 4)),
    (lambda: nn.BatchNorm2d(4, affine=False), (2, 5, 6, 4), (2, 5, 6, 4)),
    (lambda: nn.GroupNorm(2, 4), (2, 5, 6, 4), (2, 5, 6, 4)),
    (lambda: nn.LayerNorm(4), (2, 5, 4), (2, 5, 4)),
    (lambda: nn.LayerNorm((5, 4), affine=False), (2, 5, 4), (2, 5, 4)),
    (lambda: nn.Dropout(0.3), (2, 30), (2, 30)),
]
IDS = [repr(make()).split("  #")[0] for make, _, _ in LAYERS]


@pytest.mark.parametrize("make, x_shape, y_shape", LAYERS, ids=IDS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_shapes_and_dtypes_of_result_and_gradients(make, x_shape, y_shape, dtype):
    layer = make().astype(dtype)
    x = tn.Tensor(np.random.default_rng(0).standard_normal(x_shape), requires_grad=True, dtype=dtype)
    y = layer(x)
    assert y.shape == y_shape and y.dtype == dtype
    y.backward(tn.Tensor(np.random.default_rng(1).standard_normal(y_shape), dtype=dtype))
    assert x.grad.shape == x_shape and x.grad.dtype == dtype
    for name, p in layer.named_parameters():
        assert p.grad.shape == p.shape and p.grad.dtype == p.dtype == dtype, name
        assert p.grad.data.any(), name
    assert all(array.dtype == dtype for array in layer.state_dict().values())


@pytest.mark.parametrize("make, shapes", [
    (lambda: nn.Conv2d(4, 6, (3, 5), groups=2), {"weight": (3, 5, 2, 6), "bias": (6,)}),
    (lambda: nn.ConvTranspose2d(4, 6, (3, 5), groups=2), {"weight": (3, 5, 3, 4), "bias": (6,)}),
    (lambda: nn.Dense(4, 6), {"weight": (4, 6), "bias": (6,)}),
    (lambda: nn.Dense(4, 6, bias=False), {"weight": (4, 6)}),
    (lambda: nn.BatchNorm2d(5), {"weight": (5,), "bias": (5,), "running_mean": (5,), "running_var": (5,)}),
    (lambda: nn.BatchNorm2d(5, affine=False), {"running_mean": (5,), "running_var": (5,)}),
    (lambda: nn.GroupNorm(2, 4), {"weight": (4,), "bias": (4,)}),
    (lambda: nn.LayerNorm((3, 4)), {"weight": (3, 4), "bias": (3, 4)}),
])
def test_names_and_shapes_of_the_state(make, shapes):
    state = make().state_dict()
    assert {name: array.shape for name, array in state.items()} == shapes
    assert all(array.dtype == np.float32 for array in state.values())


@pytest.mark.parametrize("layer, arguments", [
    (nn.Conv2d, "in_channels out_channels kernel_size stride padding dilation groups bias"),
    (nn.ConvTranspose2d, "in_channels out_channels kernel_size stride padding output_padding groups bias "
                         "dilation"),
    (nn.BatchNorm2d, "num_features eps momentum affine"),
    (nn.GroupNorm, "num_groups num_channels eps affine"),
    (nn.MaxPool2d, "kernel_size stride padding"),
])
def test_arguments_are_pytorchs_in_its_order(layer, arguments):
    assert list(inspect.signature(layer).parameters) == arguments.split()


def test_dense_is_the_affine_map():
    layer = nn.Dense(3, 2).astype(np.float64)
    layer.bias.data[...] = [1, -1]
    x = np.random.default_rng(0).standard_normal((4, 3))
    expected = np.einsum("ni,io->no", x, layer.weight.data) + [1, -1]
    np.testing.assert_allclose(layer(tn.Tensor(x)).data, expected, rtol=1e-12)


def test_convolution_and_its_transpose_share_the_weight():
    """<conv(x), y> = <x, transpose(y)> with the very same weight."""
    conv = nn.Conv2d(3, 5, 4, stride=2, padding=1, bias=False).astype(np.float64)
    transpose = nn.ConvTranspose2d(5, 3, 4, stride=2, padding=1, bias=False).astype(np.float64)
    transpose.load_state_dict(conv.state_dict())
    generator = np.random.default_rng(0)
    x, y = generator.standard_normal((2, 8, 6, 3)), generator.standard_normal((2, 4, 3, 5))
    forward, back = conv(tn.Tensor(x)).data, transpose(tn.Tensor(y)).data
    assert np.sum(forward * y) == pytest.approx(np.sum(x * back), rel=1e-12)


def test_batch_norm_moves_and_uses_its_statistics():
    layer = nn.BatchNorm2d(2, momentum=0.25)
    x = np.random.default_rng(0).normal(3, 2, (4, 5, 5, 2)).astype(np.float32)
    layer(tn.Tensor(x))
    np.testing.assert_allclose(layer.running_mean, 0.25 * x.mean((0, 1, 2)), rtol=1e-4)
    np.testing.assert_allclose(layer.running_var, 0.75 + 0.25 * x.var((0, 1, 2), ddof=1), rtol=1e-4)
    before = layer.state_dict()
    layer.eval()
    y = layer(tn.Tensor(x)).data
    expected = (x - layer.running_mean) / np.sqrt(layer.running_var + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=1e-3, atol=1e-5)
    for name, array in layer.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


def test_dropout_only_in_training():
    layer, x = nn.Dropout(0.5), tn.Tensor(np.ones(1000, np.float32))
    y = layer(x).data
    assert set(np.unique(y)) == {0, 2} and 400 < np.count_nonzero(y) < 600
    np.testing.assert_array_equal(layer.eval()(x).data, 1)


@pytest.mark.parametrize("make, error, match", [
    (lambda: nn.Conv2d(3, 4, 3, groups=2), ValueError, "Conv2d: in_channels is 3, which is not divisible by "
                                                       "groups=2"),
    (lambda: nn.Conv2d(4, 3, 3, groups=2), ValueError, "Conv2d: out_channels is 3"),
    (lambda: nn.Conv2d(0, 3, 3), ValueError, "Conv2d: in_channels is 0, but must be at least 1"),
    (lambda: nn.Conv2d(3.0, 3, 3), TypeError, "Conv2d: in_channels is 3.0"),
    (lambda: nn.Conv2d(3, 3, 0), ValueError, "Conv2d: kernel_size is 0"),
    (lambda: nn.Conv2d(3, 3, 3, stride=0), ValueError, "Conv2d: stride is 0"),
    (lambda: nn.Conv2d(3, 3, 3, padding="valid"), ValueError, "Conv2d: padding is 'valid'"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, groups=3), ValueError, "ConvTranspose2d: out_channels is 4"),
    (lambda: nn.ConvTranspose2d(3, 4, 3, output_padding=-1), ValueError, "ConvTranspose2d: output_padding "
                                                                         "is -1"),
    (lambda: nn.Dense(3, 0), ValueError, "Dense: out_features is 0"),
    (lambda: nn.MaxPool2d((2, 2, 2)), ValueError, "MaxPool2d: kernel_size"),
    (lambda: nn.AvgPool2d(2, stride=0), ValueError, "AvgPool2d: stride is 0"),
    (lambda: nn.Upsample(0), ValueError, "Upsample: scale_factor is 0"),
    (lambda: nn.Upsample(2, "cubic"), ValueError, "Upsample: mode is 'cubic'"),
    (lambda: nn.BatchNorm2d(0), ValueError, "BatchNorm2d: num_features is 0"),
    (lambda: nn.BatchNorm2d(3, momentum=1.5), ValueError, "BatchNorm2d: momentum is 1.5"),
    (lambda: nn.BatchNorm2d(3, eps=-1), ValueError, "BatchNorm2d: eps is -1"),
    (lambda: nn.GroupNorm(3, 4), ValueError, "GroupNorm: 4 channels are not divisible into 3 groups"),
    (lambda: nn.LayerNorm(()), ValueError, "LayerNorm: normalized_shape is empty"),
    (lambda: nn.LayerNorm((3, 0)), ValueError, "LayerNorm: normalized_shape is 0"),
    (lambda: nn.Dropout(1.0), ValueError, "Dropout: p is 1.0, but must be less than 1"),
    (lambda: nn.Dropout(-0.1), ValueError, "Dropout: p is -0.1"),
    (lambda: nn.Dropout("half"), TypeError, "Dropout: p is 'half'"),
    (lambda: nn.LeakyReLU(None), TypeError, "LeakyReLU: negative_slope is None"),
])
def test_bad_arguments_raise_sentences(make, error, match):
    with pytest.raises(error, match=match):
        make()


def test_inputs_that_do_not_fit_name_the_fix():
    images = tn.Tensor(np.zeros((2, 3, 4, 5), np.float32))
    with pytest.raises(ValueError, match=r"Dense: x of shape \(2, 3, 4, 5\) has 5 features.*nn.Flatten\(\) "
                                         r"before it"):
        nn.Dense(60, 2)(images)
    with pytest.raises(ValueError, match="make in_features the last size"):
        nn.Dense(7, 2)(images)
    with pytest.raises(ValueError, match=r"Upsample: x has shape \(2, 60\)"):
        nn.Upsample(2)(nn.Flatten()(images))
