"""Exported models: ONNX's checker passes them, ONNX Runtime computes the same, for batches of other sizes too."""

import re

import numpy as np
import pytest

import tinynet as tn
from tests.interop.models import MODELS, images, model, outputs, unsettle
from tinynet import nn

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
from tinynet.interop.onnx import export  # noqa: E402


def run(path, *inputs):
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, {each.name: x for each, x in zip(session.get_inputs(), inputs, strict=True)})


def nodes(path):
    return [node.op_type for node in onnx.load(path).graph.node]


def check(made, path, x, atol=1e-5):
    """Exported with one batch, run with another."""
    export(made, x[:1], path)
    made.eval()
    with tn.exact_convolution():
        for y, z in zip(outputs(made, x), run(path, x), strict=True):
            assert y.shape == z.shape and y.dtype == z.dtype
            np.testing.assert_allclose(z, y, atol=atol)


@pytest.mark.parametrize("name", MODELS)
def test_the_four_models(name, tmp_path):
    path = str(tmp_path / "model.onnx")
    made, x = model(name), images(name, 3)
    check(made, path, x)
    found = onnx.load(path)
    assert found.opset_import[0].version >= 17
    named = {each.name for each in found.graph.initializer}
    assert {key for key in made.state_dict()} <= named
    assert found.graph.input[0].name == "x" and found.graph.output[0].name in ("output", "output_0")
    assert found.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "N"


class Function(nn.Module):
    def __init__(self, function):
        self.function = function

    def forward(self, x):
        return self.function(x)


LAYERS = {
    "Conv2d, groups": lambda: nn.Conv2d(4, 6, (3, 2), stride=(2, 1), padding=((1, 0), (1, 2)), dilation=2, groups=2),
    "Conv2d, same": lambda: nn.Conv2d(4, 3, 4, padding="same", bias=False),
    "ConvTranspose2d": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "Dense": lambda: nn.Dense(4, 3),
    "Flatten": lambda: nn.Sequential(nn.Flatten(), nn.Dense(4 * 9 * 7, 2)),
    "ReLU": nn.ReLU, "LeakyReLU": lambda: nn.LeakyReLU(0.2), "Sigmoid": nn.Sigmoid, "Tanh": nn.Tanh, "GELU": nn.GELU,
    "MaxPool2d": lambda: nn.MaxPool2d(3, 2, 1), "MaxPool2d, uneven": lambda: nn.MaxPool2d(4, 3, ((1, 2), (0, 1))),
    "AvgPool2d": lambda: nn.AvgPool2d(3, 2, 1), "AvgPool2d, uneven": lambda: nn.AvgPool2d(4, 3, ((1, 2), (0, 1))),
    "Upsample": lambda: nn.Upsample((2, 3)), "Upsample, bilinear": lambda: nn.Upsample(2, mode="bilinear"),
    "BatchNorm2d": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.ReLU()),
    "BatchNorm2d, plain": lambda: nn.BatchNorm2d(4, affine=False),
    "BatchNorm2d, flat": lambda: nn.Sequential(nn.Flatten(), nn.BatchNorm2d(4 * 9 * 7)),
    "GroupNorm": lambda: nn.GroupNorm(2, 4), "GroupNorm, one": lambda: nn.GroupNorm(1, 4),
    "GroupNorm, plain": lambda: nn.GroupNorm(2, 4, affine=False),
    "GroupNorm, rows": lambda: nn.Sequential(Function(lambda x: x.reshape((-1, 63, 4))), nn.GroupNorm(2, 4)),
    "GroupNorm, flat": lambda: nn.Sequential(nn.Flatten(), nn.GroupNorm(4, 4 * 9 * 7)),
    "LayerNorm": lambda: nn.LayerNorm(4), "LayerNorm, map": lambda: nn.LayerNorm((9, 7, 4)),
    "LayerNorm, plain": lambda: nn.LayerNorm((7, 4), affine=False),
    "Dropout": lambda: nn.Dropout(0.5),
    "Residual": lambda: nn.Residual(nn.Conv2d(4, 4, 3, padding=1)),
    "Sequential": lambda: nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.ConvTranspose2d(4, 2, 2),
                                        nn.ReLU()),
}


@pytest.mark.parametrize("name", LAYERS)
def test_each_layer(name, tmp_path):
    made = LAYERS[name]()
    unsettle(made)
    check(made, str(tmp_path / "layer.onnx"), np.random.default_rng(3).normal(size=(3, 9, 7, 4)).astype(np.float32))


FUNCTIONS = {
    "arithmetic": lambda x: (1 - x) / (x * x + 2) ** 1.5 - tn.sqrt(tn.abs(x)) + tn.exp(-x) * tn.log(tn.softplus(x)),
    "bounds": lambda x: tn.clip(x, -0.5, 0.5) + tn.maximum(x, 0.25) * tn.minimum(x, x * x),
    "softmax": lambda x: tn.softmax(tn.conv2d(x, WEIGHT)) + tn.log_softmax(tn.conv2d(x, WEIGHT), 1),
    "channels": lambda x: tn.conv2d(x, WEIGHT) * np.float32([1, 2, 3]) + np.ones((7, 1), np.float32),
    "slices": lambda x: tn.conv2d(x, WEIGHT)[:, 1:-1, ::2, ::-1],
    "an integer": lambda x: tn.conv2d(x, WEIGHT)[..., 1] + x[:, :, -1, :1],
    "padding": lambda x: tn.pad(tn.conv2d(x, WEIGHT), ((0, 0), (1, 2), (0, 0), (3, 0)), 0.5),
    "concatenation": lambda x: tn.concatenate([tn.conv2d(x, WEIGHT), x], axis=-1),
    "means": lambda x: tn.conv2d(x, WEIGHT).mean((1, 2)) + tn.mean(x, (1, 2, 3), keepdims=True)[:, :, 0, 0],
    "transposed": lambda x: x.transpose(0, 3, 1, 2).reshape((-1, 9, 7)) @ np.ones((7, 2), np.float32),
    "resize": lambda x: tn.resize(x, (7, 20)) + tn.resize(x, (7, 20), "bilinear"),
    "broadcast": lambda x: tn.broadcast_to(x[:, :1], (len(x), 9, 7, 4)),
}
WEIGHT = np.random.default_rng(4).normal(size=(1, 1, 4, 3)).astype(np.float32)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions(name, tmp_path):
    check(Function(FUNCTIONS[name]), str(tmp_path / "function.onnx"),
          np.random.default_rng(3).normal(size=(3, 9, 7, 4)).astype(np.float32))


def test_between_convolutions_nothing_is_transposed(tmp_path):
    path = str(tmp_path / "model.onnx")
    export(model("FCN"), images("FCN"), path)
    assert nodes(path).count("Transpose") == 2
    export(model("FCN"), images("FCN"), path, layout="NCHW")
    assert nodes(path).count("Transpose") == 0
    x = images("FCN", 3)
    with tn.exact_convolution():
        (y,), (z,) = outputs(model("FCN"), x), run(path, np.ascontiguousarray(x.transpose(0, 3, 1, 2)))
    assert y.shape == z.transpose(0, 2, 3, 1).shape
    assert len(re.findall(r"down\.0\.0", str(onnx.load(path).graph.node[:2]))) >= 2     # named after its layer


def test_several_inputs_and_outputs(tmp_path):
    class Two(nn.Module):
        def forward(self, a, b):
            return a + b, a, a * b

    path = str(tmp_path / "two.onnx")
    a, b = np.float32([[1, 2]]), np.float32([[3, 4]])
    export(Two(), (a, b), path)
    assert [each.name for each in onnx.load(path).graph.input] == ["a", "b"]
    for y, z in zip(run(path, a, b), (a + b, a, a * b), strict=True):
        np.testing.assert_array_equal(y, z)


def test_float64(tmp_path):
    made = nn.Sequential(nn.Flatten(), nn.Dense(18, 2)).astype(np.float64)
    check(made, str(tmp_path / "double.onnx"), np.random.default_rng(5).random((2, 3, 3, 2)), atol=1e-12)


def test_training_mode_stays_as_it_was(tmp_path):
    made = nn.Sequential(nn.Dropout(0.5), nn.Dense(2, 2))
    made[1].eval()
    export(made, np.ones((1, 2), np.float32), tmp_path / "a.onnx")
    assert made.training and made[0].training and not made[1].training


@pytest.mark.parametrize(("function", "said"), {
    lambda x: x * np.float32(x.numpy().max()): "a constant that goes into Mul",
    lambda x: x / len(x): "a constant that goes into Div",
    lambda x: tn.abs(x) if len(x) > 1 else x * 1: "calls other ops",
    lambda x: x.max(1): "uses the op MaxLast",
    lambda x: x[:, [0, 1]]: "other things than slices",
}.items())
def test_what_cannot_be_exported_is_named(function, said, tmp_path):
    with pytest.raises(ValueError, match=f"export: .*{said}"):
        export(Function(function), np.ones((1, 3), np.float32), tmp_path / "no.onnx")
    assert not list(tmp_path.iterdir())
