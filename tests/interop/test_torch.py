"""States in PyTorch's layout: turned by hand, and, where PyTorch is installed, against PyTorch's own outputs."""

import numpy as np
import pytest

import tinynet as tn
from tests.interop.models import MODELS, images, model, outputs, unsettle
from tinynet import nn, safetensors
from tinynet.interop import torch as interop


def draw(*shape):
    return np.random.default_rng(len(shape)).random(shape, dtype=np.float32)


def test_each_layer_s_layout():
    layers = nn.Sequential(nn.Conv2d(4, 6, (2, 3), groups=2), nn.ConvTranspose2d(6, 4, (2, 3), groups=2),
                           nn.LayerNorm((5, 7, 4)), nn.Dense(4, 3), nn.BatchNorm2d(3))
    state = {
        "0.weight": draw(6, 2, 2, 3), "0.bias": draw(6),
        "1.weight": draw(6, 2, 2, 3), "1.bias": draw(4),
        "2.weight": draw(4, 5, 7), "2.bias": draw(4, 5, 7),
        "3.weight": draw(3, 4), "3.bias": draw(3),
        "4.weight": draw(3), "4.bias": draw(3), "4.running_mean": draw(3), "4.running_var": draw(3),
        "4.num_batches_tracked": np.array(7),
    }
    interop.load_state(layers, state, example=draw(1, 5, 7, 4))
    convolution, transposed, norm, dense, _ = layers
    assert convolution.weight.data[1, 2, 0, 5] == state["0.weight"][5, 0, 1, 2]
    assert transposed.weight.data[1, 2, 0, 5] == state["1.weight"][5, 0, 1, 2]
    assert norm.weight.data[3, 6, 2] == state["2.weight"][2, 3, 6]
    assert norm.bias.data[3, 6, 2] == state["2.bias"][2, 3, 6]
    assert dense.weight.data[3, 1] == state["3.weight"][1, 3]
    again = interop.state(layers, example=draw(1, 5, 7, 4))
    assert again.keys() == state.keys()
    for name in state.keys() - {"4.num_batches_tracked"}:
        np.testing.assert_array_equal(again[name], state[name])


def test_flattened_features_change_places():
    """A linear layer that picks out one pixel, written in PyTorch's order C, H, W."""
    network = nn.Sequential(nn.Flatten(), nn.ReLU(), nn.Dense(2 * 3 * 4, 1))
    picks = np.zeros((4, 2, 3), np.float32)
    picks[1, 0, 2] = 1
    state = {"2.weight": picks.reshape(1, -1), "2.bias": np.zeros(1, np.float32)}
    x = draw(2, 2, 3, 4)
    interop.load_state(network, state, example=x[:1])
    np.testing.assert_array_equal(network(tn.Tensor(x)).data[:, 0], x[:, 0, 2, 1])
    np.testing.assert_array_equal(interop.state(network, example=x)["2.weight"], state["2.weight"])


class Maps(nn.Module):
    """A dense layer whose result becomes a map of features, normalised while it is still flat."""

    def __init__(self):
        self.dense, self.norm = nn.Dense(2, 2 * 3 * 4), nn.BatchNorm2d(2 * 3 * 4)

    def forward(self, x):
        return self.norm(self.dense(x)).reshape((-1, 2, 3, 4))


def test_what_becomes_a_map_changes_places_too():
    network = Maps()
    place = {name: np.arange(24, dtype=np.float32).reshape(4, 2, 3) for name in ("bias", "running_mean")}
    state = interop.state(network, example=draw(1, 2))
    state["dense.bias"], state["norm.running_mean"] = place["bias"].reshape(-1), place["running_mean"].reshape(-1)
    interop.load_state(network, state, example=draw(1, 2))
    for array in (network.dense.bias.data, network.norm.running_mean):
        np.testing.assert_array_equal(array.reshape(2, 3, 4), place["bias"].transpose(1, 2, 0))


def test_an_order_that_is_lost_is_an_error():
    class Halves(nn.Module):
        def __init__(self):
            self.dense = nn.Dense(12, 2)

        def forward(self, x):
            return self.dense(tn.flatten(x)[:, :12])

    with pytest.raises(ValueError, match="flattened features go through Index"):
        interop.state(Halves(), example=draw(1, 2, 3, 4))
    with pytest.raises(ValueError, match="give example="):
        interop.state(Halves())


def test_all_differences_in_one_error():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = network.state_dict()
    state = interop.state(network)
    del state["1.bias"]
    state |= {"0.weight": draw(4, 2, 3, 3), "2.weight": draw(1), "1.weight": np.ones(4)}
    with pytest.raises(ValueError) as caught:
        interop.load_state(network, state)
    said = str(caught.value)
    for fault in ("1.bias: missing in the state", "2.weight: in the state, but not in the model",
                  "0.weight: the state has shape (4, 2, 3, 3), PyTorch's layer would have (4, 3, 3, 3)",
                  "1.weight: the state has dtype float64, the model float32"):
        assert fault in said
    for name, array in network.state_dict().items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("name", MODELS)
def test_there_and_back(name, tmp_path):
    first, second = model(name), MODELS[name]()
    interop.save(first, tmp_path / "state.safetensors", example=images(name, 1))
    second.train()
    interop.load(second, tmp_path / "state.safetensors", example=images(name, 1))
    assert all(module.training for module in second.modules())
    for key, array in first.state_dict().items():
        np.testing.assert_array_equal(second.state_dict()[key], array)


def test_an_error_names_the_file(tmp_path):
    path = tmp_path / "state.safetensors"
    safetensors.save({"weight": draw(2)}, path)
    with pytest.raises(ValueError, match="(?s)state.safetensors.*bias: missing"):
        interop.load(nn.GroupNorm(1, 2), path)


@pytest.mark.parametrize("name", MODELS)
def test_outputs_are_pytorch_s(name, tmp_path):
    torch = pytest.importorskip("torch")
    from tests.interop.torch_models import network

    torch.manual_seed(0)
    theirs, ours, x = network(name), MODELS[name](), images(name)
    given = MODELS[name]()
    unsettle(given)
    theirs.load_state_dict(as_tensors(torch, interop.state(given, example=x)))     # strict
    theirs.eval()
    path = tmp_path / "state.safetensors"
    safetensors.save({key: t.numpy() for key, t in theirs.state_dict().items()}, path)
    interop.load(ours, path, example=x)
    with torch.no_grad():
        expected = theirs(torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    expected = [y.numpy() for y in (expected if isinstance(expected, tuple) else (expected,))]
    with tn.exact_convolution():
        for y, z in zip(outputs(ours.eval(), x), expected, strict=True):
            np.testing.assert_allclose(y, z.transpose(0, 2, 3, 1) if z.ndim == 4 else z, atol=1e-5)


def as_tensors(torch, state):
    return {name: torch.from_numpy(array) for name, array in state.items()}
