"""Module: strict attributes, ordered names, state in and out, text."""

import copy
import re
import sys

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn
from tinynet.nn.module import headline


class Net(nn.Module):
    """Parts in every place where they may stand."""

    def __init__(self, width=4):
        self.width = width
        self.scale = nn.Parameter(np.ones(3, np.float32))
        self.encoder = nn.Sequential(nn.Dense(3, width), nn.ReLU())
        self.blocks = [nn.Dense(width, width), (nn.Dense(width, 2), nn.Tanh())]
        self.heads = {"box": nn.Dense(2, 4), "class": nn.Dense(2, 5)}
        self.counts = np.zeros(2, np.int64)
        self.cache = None

    def forward(self, x):
        first, (second, tanh) = self.blocks
        x = tanh(second(first(self.encoder(x * self.scale))))
        return self.heads["box"](x), self.heads["class"](x)


NAMES = ["scale", "counts", "encoder.0.weight", "encoder.0.bias", "blocks.0.weight", "blocks.0.bias",
         "blocks.1.0.weight", "blocks.1.0.bias", "heads.box.weight", "heads.box.bias", "heads.class.weight",
         "heads.class.bias"]


class TestNames:
    def test_state_has_every_parameter_and_buffer_in_order(self):
        assert list(Net().state_dict()) == NAMES

    def test_parameters_are_the_state_without_buffers(self):
        net = Net()
        assert [name for name, _ in net.named_parameters()] == [name for name in NAMES if name != "counts"]
        assert all(isinstance(p, nn.Parameter) and p.requires_grad for p in net.parameters())

    def test_modules_depth_first(self):
        names = [name for name, _ in Net().named_modules()]
        assert names == ["", "encoder", "encoder.0", "encoder.1", "blocks.0", "blocks.1.0", "blocks.1.1",
                         "heads.box", "heads.class"]

    def test_a_list_may_grow_later(self):
        net = Net()
        net.blocks.append(nn.Dense(2, 2))
        assert "blocks.2.weight" in net.state_dict()

    def test_what_is_shared_is_listed_once_under_its_first_name(self):
        layer = nn.Dense(2, 2)
        tied = nn.Sequential(layer, nn.ReLU(), layer, nn.Dense(2, 2))
        tied[3].weight = layer.weight
        assert list(tied.state_dict()) == ["0.weight", "0.bias", "3.bias"]
        assert len(list(tied.parameters())) == 3
        assert len(list(tied.modules())) == 4

    def test_a_shared_parameter_gets_both_gradients(self):
        layer = nn.Dense(1, 1, bias=False)
        layer.weight.data[...] = 3
        nn.Sequential(layer, layer)(tn.Tensor([[2.0]])).sum().backward()
        assert layer.weight.grad.item() == 12      # d (2 w^2) / dw = 4 w


class TestAttributes:
    def test_reading_a_typo_names_what_is_near(self):
        with pytest.raises(AttributeError, match="Dense has no attribute 'wieght'; near names: weight"):
            nn.Dense(2, 2).wieght  # noqa: B018

    def test_assigning_a_new_name_after_construction_raises(self):
        with pytest.raises(AttributeError, match="no attribute 'encoderr' to assign; near names: encoder"):
            Net().encoderr = nn.ReLU()

    def test_assigning_an_existing_name_works(self):
        net = Net()
        net.width = 7
        net.cache = "anything"
        assert net.width == 7

    def test_a_subclass_may_go_on_assigning_after_super(self):
        class Wider(Net):
            def __init__(self):
                super().__init__(8)
                self.extra = nn.Dense(8, 8)

        assert "extra.weight" in Wider().state_dict()

    @pytest.mark.parametrize("name, value, kind", [
        ("scale", np.zeros(3, np.float32), "Parameter"), ("scale", tn.Tensor([1.0]), "Parameter"),
        ("encoder", None, "Module"), ("counts", [0, 0], "ndarray"),
    ])
    def test_a_kind_stays_its_kind(self, name, value, kind):
        with pytest.raises(TypeError, match=f"Net.{name} is a {kind} and got a {type(value).__name__}"):
            setattr(Net(), name, value)

    def test_a_part_may_be_exchanged(self):
        net = Net()
        net.encoder = nn.Dense(3, 4)
        assert "encoder.weight" in net.state_dict()

    @pytest.mark.parametrize("value, match", [
        ({nn.ReLU()}, "a set of modules"), (tn.Tensor([1.0], requires_grad=True), "make it an nn.Parameter"),
    ])
    def test_parameters_that_would_be_lost_raise(self, value, match):
        class Loses(nn.Module):
            def __init__(self):
                self.part = value

        with pytest.raises(TypeError, match=f"Loses.part: .*{match}"):
            Loses()

    def test_an_argument_that_a_layer_does_not_take_raises(self):
        with pytest.raises(TypeError):
            nn.ReLU(True)

    def test_a_property_shows_its_own_error(self):
        class Broken(nn.Module):
            @property
            def size(self):
                return self.missing

        with pytest.raises(AttributeError, match="no attribute 'missing'"):
            Broken().size  # noqa: B018

    def test_a_property_may_be_assigned(self):
        class Named(nn.Module):
            def __init__(self):
                self.inner = 1

            @property
            def outer(self):
                return self.inner

            @outer.setter
            def outer(self, value):
                self.inner = value

        named = Named()
        named.outer = 5
        assert named.inner == 5

    def test_forward_is_missing(self):
        with pytest.raises(NotImplementedError, match="Module has no forward"):
            nn.Module()(1)

    def test_a_parameter_wraps_tensors_and_contiguous_arrays(self):
        transposed = np.zeros((2, 3), np.float32).T
        assert nn.Parameter(transposed).data.flags.c_contiguous
        assert nn.Parameter(tn.Tensor([1.0, 2.0])).shape == (2,)
        assert nn.Parameter([1.0]).dtype == np.float32
        assert nn.Parameter(np.float32(3)).shape == ()


class TestState:
    def test_round_trip(self):
        source, target = Net(), Net()
        source.counts[...] = 5
        assert target.load_state_dict(source.state_dict()) == ([], [])
        for name, array in source.state_dict().items():
            np.testing.assert_array_equal(array, target.state_dict()[name])

    def test_state_is_a_copy(self):
        net = Net()
        state = net.state_dict()
        net.scale.data[...] = 9
        net.counts[...] = 9
        assert (state["scale"] == 1).all() and (state["counts"] == 0).all()

    def test_loading_copies(self):
        net, state = Net(), Net().state_dict()
        net.load_state_dict(state)
        state["scale"][...] = 9
        assert (net.scale.data == 1).all()

    def test_all_faults_in_one_error_and_nothing_changed(self):
        net = Net()
        before = net.state_dict()
        state = {name: array + 1 for name, array in before.items()}
        del state["encoder.0.weight"]
        state["stray"] = np.zeros(1)
        state["blocks.0.weight"] = np.zeros((4, 5), np.float32)
        state["heads.box.bias"] = np.zeros(4)
        with pytest.raises(ValueError, match="nothing was changed") as info:
            net.load_state_dict(state)
        for part in ("encoder.0.weight: missing", "stray: in the state, but not",
                     "heads.box.bias: the state has dtype float64, the model float32",
                     r"blocks.0.weight: the state has shape \(4, 5\), the model \(4, 4\)"):
            assert re.search(part, str(info.value))
        for name, array in net.state_dict().items():
            np.testing.assert_array_equal(array, before[name])

    def test_not_strict_leaves_names_alone_but_not_shapes(self):
        net, state = Net(), Net().state_dict()
        del state["scale"]
        state["stray"] = np.zeros(1)
        assert net.load_state_dict(state, strict=False) == (["scale"], ["stray"])
        state["counts"] = np.zeros(3, np.int64)
        with pytest.raises(ValueError, match="counts: the state has shape"):
            net.load_state_dict(state, strict=False)

    def test_a_live_graph_locks_what_it_needs(self):
        net = Net()
        box, label = net(tn.Tensor(np.ones((2, 3), np.float32)))
        with pytest.raises(ValueError, match="encoder.0.weight: locked"):
            net.load_state_dict(net.state_dict())
        with pytest.raises(ValueError, match="Module.astype: .* is locked"):
            net.astype(np.float64)
        (box.sum() + label.sum()).backward()
        net.load_state_dict(net.state_dict())

    def test_astype_converts_floats_in_place_and_keeps_what_is_shared(self):
        layer = nn.Dense(2, 2)
        net = nn.Sequential(layer, layer, nn.BatchNorm2d(2))
        first = layer.weight
        first.grad = tn.Tensor(np.ones((2, 2), np.float32))
        values = first.data.copy()
        assert net.astype(np.float64) is net
        assert layer.weight is first and first.requires_grad and first.grad is None
        assert {array.dtype for array in net.state_dict().values()} == {np.dtype(np.float64)}
        np.testing.assert_array_equal(first.data, values.astype(np.float64))
        assert Net().astype(np.float64).counts.dtype == np.int64
        with pytest.raises(TypeError, match="got float16"):
            net.astype(np.float16)

    def test_a_deep_copy_is_independent_and_closed(self):
        net = Net()
        net.scale.data[...] = 1      # what .data hands out must not be copied apart from the values
        other = copy.deepcopy(net)
        other.counts[...] = 3
        assert (net.counts == 0).all()
        other.scale.data[...] = 3
        assert (net.scale.data == 1).all() and (other.scale + 0).data[0] == 3
        with pytest.raises(AttributeError):
            other.new = 1

    def test_train_and_eval_reach_every_part(self):
        net = Net()
        assert net.training and net.eval() is net
        assert not any(module.training for module in net.modules())
        net.train()
        assert all(module.training for module in net.modules())


class TestText:
    def test_tree(self):
        conv = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        model = nn.Sequential(conv, nn.Residual(nn.Dense(4, 4)), nn.ReLU())
        assert repr(model) == """\
Sequential(  # 128 parameters
  0: Conv2d(3, 4, kernel_size=3, padding=1, bias=False)  # 108 parameters
  1: Residual(  # 20 parameters
    body: Dense(4, 4)  # 20 parameters
  )
  2: ReLU()
)"""

    def test_own_modules_show_their_plain_arguments(self):
        assert headline(Net(5)) == "Net(width=5)"
        assert headline(Net()) == "Net()"
        assert repr(nn.Module()) == "Module()"
        assert headline(nn.MaxPool2d((2, 3))) == "MaxPool2d((2, 3))"

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
    def test_an_error_says_which_layer_it_came_from(self):
        model = nn.Sequential(nn.ReLU(), nn.Sequential(nn.Dense(3, 3), nn.Dense(4, 4)))
        with pytest.raises(ValueError, match="Dense: x") as info:
            model(tn.Tensor(np.zeros((2, 3), np.float32)))
        assert info.value.__notes__ == ["in Dense(4, 4), which is 1.1 of Sequential"]

    @pytest.mark.skipif(sys.version_info < (3, 11), reason="exceptions have notes from Python 3.11 on")
    def test_an_error_raised_anew_gets_its_new_place(self):
        class Fails(nn.Module):
            def forward(self, x):
                raise error

        error = ValueError("the same object")
        error.add_note("kept")
        models = ((nn.Sequential(Fails()), "0 of Sequential"), (nn.Residual(Fails()), "body of Residual"))
        for model, place in models:
            with pytest.raises(ValueError):
                model(1)
            assert error.__notes__ == ["kept", f"in Fails(), which is {place}"]
