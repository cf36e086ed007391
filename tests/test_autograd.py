"""The graph: order, sums, freeing, gradients of gradients, and the sentences for what can't be had."""

import gc
import weakref

import numpy as np
import pytest

import tinynet as tn
from tinynet.autograd import Op, landing, propagate, watched
from tinynet.operators import Add
from tinynet.ops.convolution import Then


def leaf(*values):
    return tn.Tensor(np.array(values, np.float64), requires_grad=True)


def test_shared_value_gets_the_sum_of_its_gradients():
    x = leaf(3.0)
    a = x * 2
    b = a + 1
    (a * b).backward()  # c = 2x (2x + 1), dc/dx = 8x + 2
    assert x.grad.item() == 26


def test_every_op_runs_backward_once():
    calls = []

    class Count(Op):
        def forward(self, x):
            return x * 1

        def backward(self, gy):
            calls.append(1)
            return gy

    y = Count()(leaf(1.0))
    for _ in range(10):  # 2**10 paths lead to the one op
        y = y + y
    y.backward()
    assert len(calls) == 1


def test_chain_of_100_000_ops():
    x = leaf(1.0)
    y = x
    for _ in range(100_000):
        y = y + 1
    y.backward()
    assert x.grad.item() == 1
    y = x
    for _ in range(100_000):
        y = y * 1
    del y  # a graph that is dropped without a backward pass must not recurse either


def test_gradients_accumulate_over_backward_passes():
    x = leaf(2.0)
    (x * x).backward()
    (x * x).backward()
    assert x.grad.item() == 8


def test_grad_arrays_are_never_shared():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    (x + y).backward(np.ones(2))
    x.grad.data[0] = 7
    assert y.grad.data[0] == 1


def test_second_backward_raises_and_retain_graph_allows_it():
    x = leaf(2.0)
    y = x * x
    y.backward(retain_graph=True)
    y.backward()
    assert x.grad.item() == 8
    with pytest.raises(tn.GraphError, match="freed by an earlier backward pass"):
        y.backward()


def test_second_backward_through_a_shared_part_raises_before_it_changes_anything():
    x, z = leaf(2.0), leaf(5.0)
    shared = x * x
    first, second = shared * 1, shared * z
    first.backward()
    with pytest.raises(tn.GraphError, match="retain_graph=True"):
        second.backward()
    assert z.grad is None


def test_backward_of_a_non_scalar_needs_a_gradient():
    x = leaf(1.0, 2.0)
    with pytest.raises(tn.GraphError, match=r"shape \(2,\); only a scalar"):
        (x * 2).backward()
    with pytest.raises(ValueError, match=r"gradient has the shape \(3,\), but must have \(2,\)"):
        (x * 2).backward(np.ones(3))
    (x * 2).backward(np.array([1.0, 10.0]))
    np.testing.assert_array_equal(x.grad.data, [2, 20])


def test_backward_without_a_graph_raises():
    with pytest.raises(tn.GraphError, match="needs no gradient"):
        tn.Tensor(1.0).backward()
    x = leaf(1.0)
    with tn.no_grad():
        y = x * 2
    with pytest.raises(tn.GraphError, match="no_grad"):
        y.backward()


def test_no_grad_keeps_nothing_and_ends_with_its_block():
    x = leaf(1.0)
    with tn.no_grad():
        assert (x * 2).op is None
    assert (x * 2).requires_grad


def test_detach_stops_the_gradient():
    x = leaf(3.0)
    (x * x.detach()).backward()
    assert x.grad.item() == 3


def test_memory_is_freed_on_the_way():
    x = leaf(*range(10))
    middle = x * 2
    alive = weakref.ref(middle)
    y = (middle * middle).sum()
    del middle
    assert alive() is not None
    y.backward()
    assert alive() is None  # though y itself is still here


def test_graph_has_no_reference_cycles():
    x = leaf(1.0)
    gc.collect()
    gc.disable()
    try:
        y = tn.exp(tn.sqrt(x)) * 2  # ops that keep their output
        alive = weakref.ref(y.op)
        del y
        assert alive() is None
    finally:
        gc.enable()


def test_a_leaf_lands_once_complete_while_the_backward_pass_goes_on():
    first, shared, last = leaf(1.0), leaf(2.0), leaf(3.0)
    loss = tn.exp(first * shared) * shared * last
    events, landed = [], []

    def listener(node):
        events.append("leaf")
        landed.append((node, node.grad.numpy().copy()))

    with landing(listener), watched(lambda op, inputs, output: events.append(type(op).__name__)):
        loss.backward()
    assert events.index("leaf") < len(events) - 6               # the first leaf comes before most operations
    assert {id(node) for node, _ in landed} == {id(first), id(shared), id(last)} and len(landed) == 3
    assert landed[0][0] is last
    for node, grad in landed:
        np.testing.assert_array_equal(grad, node.grad.numpy())  # nothing was added afterwards
    tn.exp(first).backward()
    assert len(landed) == 3                                     # outside the context nobody listens


def test_grad_leaves_dot_grad_alone_and_takes_intermediate_inputs():
    x = leaf(2.0)
    y = x * x
    z = y * y
    gy, gx = tn.grad(z, [y, x], create_graph=True)
    assert (gy.item(), gx.item()) == (8, 32)
    assert x.grad is None


def test_grad_of_grad_of_grad():
    x = leaf(2.0)
    (g1,) = tn.grad(x**4, x, create_graph=True)
    (g2,) = tn.grad(g1, x, create_graph=True)
    (g3,) = tn.grad(g2, x)
    assert (g1.item(), g2.item(), g3.item()) == (32, 48, 48)


def test_backward_with_create_graph_gives_a_grad_that_can_be_differentiated():
    x = leaf(3.0)
    (x**3).backward(create_graph=True)
    (g2,) = tn.grad(x.grad, x)
    assert g2.item() == 18


def test_grad_sentences():
    x, unused = leaf(1.0), leaf(1.0)
    with pytest.raises(tn.GraphError, match="not computed from input 0"):
        tn.grad(x * 2, unused)
    with pytest.raises(tn.GraphError, match="input 0 needs no gradient"):
        tn.grad(x * 2, tn.Tensor(1.0))
    with pytest.raises(ValueError, match="must be one each"):
        tn.grad([x * 2, x * 3], x, grad_outputs=[1.0])


def test_grad_visits_only_what_leads_to_the_inputs():
    class Forbidden(Op):
        def forward(self, x):
            return x * 1

        def backward(self, gy):
            raise AssertionError("visited")

    x, y = leaf(2.0), leaf(3.0)
    z = x * 5 + Forbidden()(y)
    assert tn.grad(z, x)[0].item() == 5


def test_a_gradient_of_none_stops_there():
    class Deaf(Op):
        def forward(self, x, y):
            return x * y

        def backward(self, gz):
            return gz * 3, None

    x, y = leaf(2.0), leaf(5.0)
    gx, gy = propagate([Deaf()(x * 1, y * 1) + y * 0], [leaf(1.0)], [x, y])
    assert (gx.item(), gy.item()) == (3, 0)
    assert propagate([Deaf()(x * 1, y * 1)], [leaf(1.0)], [y]) == [None]


def test_a_kept_graph_gives_the_gradients_that_were_not_asked_for_before():
    x, z = leaf(2.0), leaf(5.0)
    y = x * z
    assert tn.grad(y, x, create_graph=True)[0].item() == 5
    assert tn.grad(y, z)[0].item() == 2


def test_two_dtypes_raise():
    with pytest.raises(TypeError, match="x is float64, y is float32"):
        leaf(1.0) * tn.Tensor(np.ones(1, np.float32))


def test_a_backward_of_the_wrong_shape_is_refused():
    class Wrong(Op):
        def forward(self, x):
            return x.sum(0)

        def backward(self, gy):
            return gy

    with pytest.raises(tn.GraphError, match=r"Wrong.backward gave a gradient of shape \(3,\)"):
        Wrong()(tn.Tensor(np.ones((2, 3)), requires_grad=True)).backward(np.ones(3))


def test_detect_anomaly_names_op_and_line():
    x = leaf(0.0)
    with tn.detect_anomaly():
        with pytest.raises(FloatingPointError, match=r"Log made an Inf in its forward .*test_autograd.py:\d+"):
            tn.log(x)
        y = tn.sqrt(x)
        with pytest.raises(FloatingPointError, match=r"Sqrt made an Inf in its backward .*test_autograd.py:\d+"):
            y.backward()


def test_detect_anomaly_lets_finite_gradients_pass():
    x, y = leaf(2.0), leaf(3.0)
    with tn.detect_anomaly():
        (tn.relu(x) * y.detach() + tn.maximum(x, y)).backward()  # ops with two gradients, with one, with None
    assert (x.grad.item(), y.grad.item()) == (3, 1)


def test_overflow_is_silent(recwarn):
    y = tn.exp(tn.Tensor([1000.0])) - tn.exp(tn.Tensor([1000.0]))
    assert np.isnan(y.item())
    assert not recwarn.list


def _two_layers(seed=0):
    """images, weights, the result of the first layer with its ReLU, that of the second"""
    rng = np.random.default_rng(seed)
    images, *weights = (tn.Tensor(rng.standard_normal(shape).astype(np.float32), requires_grad=True)
                        for shape in ((2, 48, 48, 16), (3, 3, 16, 16), (3, 3, 16, 16)))
    first = tn.conv2d(images, weights[0], padding=1, then=Then(relu=True))
    return images, weights, first, tn.conv2d(first, weights[1], padding=1, then=Then(relu=True))


def test_a_sum_of_gradients_is_written_over_one_that_nobody_else_knows():
    rng = np.random.default_rng(5)
    x, w = (tn.Tensor(rng.standard_normal((300, 300)).astype(np.float32), requires_grad=True) for _ in range(2))
    sums = []
    with watched(lambda op, inputs, output: sums.append(output) if isinstance(op, Add) and op.in_place else None):
        ((x @ w) + (w @ x) * 2 + x).sum().backward()
    ones = np.ones((300, 300))
    expected = (ones @ w.array.T.astype(np.float64)) + 2 * (w.array.T.astype(np.float64) @ ones) + ones
    np.testing.assert_allclose(x.grad.array, expected, rtol=1e-4, atol=1e-3)
    assert sums and any(np.shares_memory(output.array, x.grad.array) for output in sums)


def test_gradients_that_do_not_lie_in_rows_are_not_written_over():
    """The sum of two that are turned round is turned, too: a ReLU's gate can't be shut in it as in a row."""
    rng = np.random.default_rng(6)
    value, first, second = rng.standard_normal((3, 300, 300)).astype(np.float32)
    x = tn.Tensor(value, requires_grad=True)
    y = tn.relu(x)
    (y.T * first + y.T * second).sum().backward()
    np.testing.assert_array_equal(x.grad.array, np.where(value > 0, (first + second).T, 0))


@pytest.mark.parametrize("normalized_first", [True, False])
def test_what_a_differentiable_gradient_is_made_of_is_not_written_over(normalized_first):
    """A normalisation's gradient keeps what it gave, to be differentiated; a sum must not spoil that."""
    def fn(x, w, b):
        h = x * 1.5
        both = tn.batch_norm(h, w, b), h * h * h
        first, second = both if normalized_first else both[::-1]
        return first * first + second

    x, w, b = (tn.Tensor(np.random.default_rng(7).uniform(0.5, 2, shape), requires_grad=True)
               for shape in ((5, 3), (3,), (3,)))
    assert tn.gradgradcheck(fn, (x, w, b))


def test_a_leafs_gradient_is_nobody_elses():
    """A product's, just made, is taken as it is; one that others know is copied. Either can be written into."""
    rng = np.random.default_rng(4)
    x, w, shift = (tn.Tensor(rng.standard_normal((3, 3)).astype(np.float32), requires_grad=True) for _ in range(3))
    seed, kept = tn.Tensor(np.ones((3, 3), np.float32)), []
    y = x @ w + shift
    with watched(lambda op, inputs, output: kept.append(output)):
        y.backward(seed, retain_graph=True)
    assert w.grad.numpy().flags.c_contiguous and any(np.shares_memory(w.grad.array, made.array) for made in kept)
    first = [t.grad.numpy().copy() for t in (x, w, shift)]
    for t in (x, w, shift):
        t.grad.data[...] = 7
    np.testing.assert_array_equal(seed.numpy(), 1)
    for t in (x, w, shift):
        t.grad = None
    y.backward(seed, retain_graph=True)
    y.backward(seed)
    for t, once in zip((x, w, shift), first, strict=True):
        np.testing.assert_array_equal(t.grad.numpy(), once + once)


@pytest.mark.parametrize("shape", ["chain", "skip", "twice", "target", "kept", "differentiable", "searched"])
def test_gradients_that_others_know_are_not_overwritten(shape, monkeypatch):
    """A ReLU's gate is written over the gradient that came, but only where nobody else will read it.

    What comes from two sides is added up, which makes a new gradient, or is written over one that nobody else knows.
    """
    def gradients():
        images, weights, first, second = _two_layers()
        if shape == "skip":
            second = second + first
        if shape == "twice":
            second = tn.conv2d(first, weights[0], padding=1) + second * 2
        wanted = [images, *weights, *([first, second] if shape == "target" else [])]
        seed = tn.Tensor(np.random.default_rng(9).standard_normal(second.shape).astype(np.float32))
        before = seed.numpy().copy()
        if shape == "kept":
            second.backward(seed, retain_graph=True)
            second.backward(seed)
            found = [t.grad for t in wanted]
        elif shape == "searched":
            with tn.detect_anomaly():
                found = tn.grad(second, wanted, seed)
        else:
            found = tn.grad(second, wanted, seed, create_graph=shape == "differentiable")
        np.testing.assert_array_equal(seed.numpy(), before)
        return [g.numpy() for g in found]

    found = gradients()
    written = []
    monkeypatch.setattr(Op, "may_overwrite", property(lambda op: False, lambda op, value: written.append(value)))
    for g, expected in zip(found, gradients(), strict=True):
        np.testing.assert_array_equal(g, expected)
    assert any(written) == (shape in ("chain", "skip", "twice", "kept"))
