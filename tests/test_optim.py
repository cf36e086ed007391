"""Optimisers against the equations of their papers; state, locks, schedules, clipping; that they learn."""

import math

import numba
import numpy as np
import pytest

import tinynet as tn
from tinynet import nn, optim
from tinynet.kernels.update import CHUNK


@pytest.fixture(autouse=True)
def one_thread():
    """Hundreds of tiny steps: waking a second thread for each would take longer than the steps."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    yield
    numba.set_num_threads(threads)


# The twins: one number w, its gradients one after the other; the equations as the docstrings have them.


def sgd(w, gradients, lr, momentum=0.0, nesterov=False, weight_decay=0.0):
    v = 0.0
    for g in gradients:
        g = g + weight_decay * w
        v = momentum * v + g
        w = w - lr * (g + momentum * v if nesterov else v)
    return w


def adam(w, gradients, lr=1e-3, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=0.0):
    m = v = 0.0
    for t, g in enumerate(gradients, start=1):
        w = w - lr * decoupled * w
        g = g + weight_decay * w
        m = betas[0] * m + (1 - betas[0]) * g
        v = betas[1] * v + (1 - betas[1]) * g**2
        w = w - lr * (m / (1 - betas[0] ** t)) / (math.sqrt(v / (1 - betas[1] ** t)) + eps)
    return w


def adamw(w, gradients, weight_decay=1e-2, **options):
    return adam(w, gradients, decoupled=weight_decay, **options)


def rmsprop(w, gradients, lr=1e-2, alpha=0.99, eps=1e-8, momentum=0.0, weight_decay=0.0):
    v = u = 0.0
    for g in gradients:
        g = g + weight_decay * w
        v = alpha * v + (1 - alpha) * g**2
        u = momentum * u + g / (math.sqrt(v) + eps)
        w = w - lr * u
    return w


RULES = [
    (optim.SGD, sgd, {"lr": 0.1}),
    (optim.SGD, sgd, {"lr": 0.1, "weight_decay": 0.2}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.2}),
    (optim.SGD, sgd, {"lr": 0.1, "momentum": 0.9, "nesterov": True, "weight_decay": 0.2}),
    (optim.Adam, adam, {}),
    (optim.Adam, adam, {"lr": 0.1, "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0.2}),
    (optim.AdamW, adamw, {}),
    (optim.AdamW, adamw, {"lr": 0.1, "betas": (0.5, 0.8), "eps": 0.1, "weight_decay": 0.2}),
    (optim.RMSProp, rmsprop, {}),
    (optim.RMSProp, rmsprop, {"lr": 0.1, "alpha": 0.7, "eps": 0.1, "momentum": 0.9, "weight_decay": 0.2}),
]
EACH = [
    (optim.SGD, {"lr": 0.1, "momentum": 0.9, "nesterov": True}), (optim.Adam, {"lr": 0.05}),
    (optim.AdamW, {"lr": 0.05}), (optim.RMSProp, {"lr": 0.02, "momentum": 0.5}), (optim.SGD, {"lr": 0.3}),
]


def drawn(shape, count, dtype, seed=0):
    """A parameter, and a list of gradients for it."""
    generator = np.random.default_rng(seed)
    w, *gradients = generator.standard_normal((count + 1, *shape)).astype(dtype)
    return nn.Parameter(w), gradients


def step_with(optimizer, gradients):
    for p, g in zip(optimizer.parameters, gradients, strict=True):
        p.grad = None if g is None else tn.Tensor(g)
    optimizer.step()


@pytest.mark.parametrize("rule, twin, options", RULES)
@pytest.mark.parametrize("dtype, rtol", [(np.float32, 1e-5), (np.float64, 1e-13)])
def test_follows_its_equations(rule, twin, options, dtype, rtol):
    p, gradients = drawn((2, 3), 5, dtype)
    start = p.data.astype(float)
    optimizer = rule([p], **{"lr": 1e-3, **options} if rule is not optim.RMSProp else options)
    for g in gradients:
        step_with(optimizer, [g])
    expected = [twin(start[i], [float(g[i]) for g in gradients], **options) for i in np.ndindex(start.shape)]
    np.testing.assert_allclose(p.data.ravel(), expected, rtol=rtol, atol=rtol)
    assert p.dtype == dtype and p.grad.dtype == dtype
    assert all(array.dtype == dtype for slots in optimizer.state for array in slots.values())
    np.testing.assert_array_equal(p.grad.data, gradients[-1])      # gradients are only read


@pytest.mark.parametrize("rule, options", EACH)
def test_chunks_cover_a_large_parameter(rule, options):
    p, gradients = drawn((3, CHUNK + 7), 2, np.float32)
    q = nn.Parameter(p.data[-1, -5:].copy())
    large, small = rule([p], **options), rule([q], **options)
    for g in gradients:
        step_with(large, [g])
        step_with(small, [g[-1, -5:].copy()])
    np.testing.assert_allclose(p.data[-1, -5:], q.data, rtol=1e-6)


@pytest.mark.skipif(numba.config.DISABLE_JIT, reason="there are no threads without compiling")
@pytest.mark.parametrize("rule, options", EACH)
def test_same_bits_for_any_number_of_threads(rule, options):
    results = set()
    for threads in (1, numba.config.NUMBA_NUM_THREADS):
        numba.set_num_threads(threads)
        p, gradients = drawn((3 * CHUNK + 5,), 3, np.float32)
        optimizer = rule([p], weight_decay=0.1, **options)
        for g in gradients:
            step_with(optimizer, [g])
        results.add(p.data.tobytes())
    assert len(results) == 1


@pytest.mark.parametrize("rule, options", EACH)
def test_parameters_of_one_dtype_are_updated_in_one_launch(rule, options, monkeypatch):
    launches, update = [], optim.update
    monkeypatch.setattr(optim, "update", lambda *arguments: (launches.append(arguments), update(*arguments)))
    shapes, dtypes = [(3, 4), (CHUNK + 1,), (), (0, 2), (5,)], [np.float32] * 3 + [np.float64] * 2
    many = [drawn(shape, 2, dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]
    alone = [nn.Parameter(p.data.copy()) for p, _ in many]
    optimizer, optimizers = rule([p for p, _ in many], **options), [rule([p], **options) for p in alone]
    for step in range(2):
        launches.clear()
        step_with(optimizer, [g[step] for _, g in many])
        assert len(launches) == 2
        for own, (_, g) in zip(optimizers, many, strict=True):
            step_with(own, [g[step]])
    for (p, _), q in zip(many, alone, strict=True):
        np.testing.assert_array_equal(p.data, q.data)


def test_parameters_that_share_memory_are_updated_one_after_the_other(monkeypatch):
    launches, update = [], optim.update
    monkeypatch.setattr(optim, "update", lambda rule, arrays, *numbers: (launches.append(len(arrays)),
                                                                         update(rule, arrays, *numbers)))
    memory = np.zeros(3 * CHUNK, np.float32)
    parts = memory[:2 * CHUNK], memory[CHUNK:], np.zeros(5, np.float32)
    parameters = [tn.Tensor(part, requires_grad=True) for part in parts]
    assert np.shares_memory(parameters[0].data, parameters[1].data)
    step_with(optim.SGD(parameters, lr=0.5), [np.ones(part.shape, np.float32) for part in parts])
    assert launches == [2, 1]
    np.testing.assert_array_equal(memory, np.repeat(np.float32([-0.5, -1, -0.5]), CHUNK))


@pytest.mark.parametrize("rule, options", EACH)
def test_parameters_without_gradient_are_skipped_and_keep_their_own_time(rule, options):
    (p, gradients), (q, _) = drawn((4,), 3, np.float32), drawn((4,), 3, np.float32)
    untouched = q.data.copy()
    optimizer, alone = rule([p, q], **options), rule([nn.Parameter(untouched.copy())], **options)
    step_with(optimizer, [gradients[0], None])
    np.testing.assert_array_equal(q.data, untouched)
    step_with(optimizer, [gradients[1], gradients[2]])
    step_with(alone, [gradients[2]])
    np.testing.assert_array_equal(q.data, alone.parameters[0].data)


@pytest.mark.parametrize("rule, options", EACH)
def test_strided_and_empty_and_scalar_arrays(rule, options):
    p, gradients = drawn((3, 4), 1, np.float32)
    q = nn.Parameter(p.data.copy())
    one, other = rule([p], **options), rule([q, nn.Parameter(np.zeros((0, 2))), nn.Parameter(1.0)], **options)
    step_with(one, gradients)
    strided = np.ascontiguousarray(gradients[0].T).T
    step_with(other, [strided, np.zeros((0, 2), np.float64), np.float32(2.0)])
    np.testing.assert_array_equal(p.data, q.data)
    assert other.parameters[2].item() < 1


@pytest.mark.parametrize("rule, options", EACH)
def test_resumes_bit_for_bit(rule, options):
    p, gradients = drawn((5,), 6, np.float32)
    optimizer = rule([p], **options)
    for g in gradients[:3]:
        step_with(optimizer, [g])
    q = nn.Parameter(p.data.copy())
    again = rule([q], **{**options, "lr": 0.7})
    again.load_state_dict(optimizer.state_dict())
    assert again.lr == optimizer.lr
    for g in gradients[3:]:
        step_with(optimizer, [g])
        step_with(again, [g])
    np.testing.assert_array_equal(p.data, q.data)


def test_state_is_flat_arrays_and_a_copy():
    p, gradients = drawn((2, 3), 1, np.float32)
    optimizer = optim.Adam([p], lr=0.5)
    state = optimizer.state_dict()
    step_with(optimizer, gradients)
    assert {name: array.shape for name, array in state.items()} == {
        "lr": (), "beta1": (), "beta2": (), "eps": (), "weight_decay": (),
        "step.0": (), "m.0": (2, 3), "v.0": (2, 3)}
    assert not state["m.0"].any() and state["step.0"] == 0


def test_a_state_of_another_model_lists_everything_and_changes_nothing():
    optimizer = optim.SGD([drawn((3,), 1, np.float32)[0]], lr=0.1, momentum=0.9)
    other = optim.SGD([drawn((4,), 1, np.float64)[0], drawn((2,), 1, np.float32)[0]], lr=0.2, momentum=0.5)
    state = other.state_dict()
    del state["weight_decay"]
    with pytest.raises(ValueError, match="nothing was changed") as info:
        optimizer.load_state_dict(state)
    for part in ("weight_decay is missing", "velocity.1 is unknown", "step.1 is unknown",
                 r"velocity.0 is float64 \(4,\), but must be float32 \(3,\)"):
        assert info.match(part)
    assert optimizer.lr == 0.1 and optimizer.momentum == 0.9


def test_a_locked_parameter_raises_before_anything_changes():
    p, q = (nn.Parameter(np.ones(2, np.float32)) for _ in range(2))
    optimizer = optim.SGD([p, q], lr=0.1, momentum=0.9)
    (p * q).sum().backward()
    alive = q * q
    with pytest.raises(ValueError, match=r"SGD.step; nothing .*\n.*parameter 1 of shape \(2,\) is locked, "
                                         r"because a live"):
        optimizer.step()
    assert (p.data == 1).all() and optimizer.steps == [0, 0] and not optimizer.state[0]["velocity"].any()
    del alive
    optimizer.step()
    np.testing.assert_allclose(p.data, 0.9)


def test_parameters_changed_behind_the_optimiser_raise():
    layer = nn.Dense(2, 2)
    optimizer = optim.SGD(layer.parameters(), lr=0.1)
    layer.astype(np.float64)
    layer(tn.Tensor(np.ones((1, 2)))).sum().backward()
    with pytest.raises(ValueError, match="is float64, but was float32 when the optimiser was made"):
        optimizer.step()
    p = nn.Parameter(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match=r"parameter 0 is float32 \(2, 3\), but its gradient .* \(3, 2\)"):
        step_with(optim.SGD([p], lr=0.1), [np.ones((3, 2), np.float32)])
    optimizer = optim.SGD([p], lr=0.1)
    p.data = np.ones((3, 2), np.float32).T
    p.grad = tn.Tensor(np.ones((2, 3), np.float32))
    with pytest.raises(ValueError, match="not contiguous"):
        optimizer.step()


def test_nan_gradients_travel():
    p, _ = drawn((3,), 1, np.float32)
    optimizer = optim.Adam([p])
    step_with(optimizer, [np.array([1, np.nan, 1], np.float32)])
    np.testing.assert_array_equal(np.isnan(p.data), [False, True, False])


def test_numpy_numbers_as_settings_stay_float32():
    p, gradients = drawn((3,), 1, np.float32)
    q = nn.Parameter(p.data.copy())
    plain, numpy = optim.SGD([p], lr=0.1), optim.SGD([q], lr=np.float64(1))
    numpy.lr = np.float64(0.1)
    assert type(numpy.lr) is float
    for optimizer in (plain, numpy):
        step_with(optimizer, gradients)
    np.testing.assert_array_equal(p.data, q.data)


def test_zero_grad_drops_gradients():
    p, gradients = drawn((3,), 1, np.float32)
    optimizer = optim.SGD([p], lr=0.1)
    step_with(optimizer, gradients)
    optimizer.zero_grad()
    assert p.grad is None


@pytest.mark.parametrize("make, error, match", [
    (lambda p: optim.SGD([], lr=1), ValueError, "SGD: the list of parameters is empty"),
    (lambda p: optim.SGD(p, lr=1), TypeError, "SGD: parameters is a Parameter; give a list"),
    (lambda p: optim.SGD(nn.Dense(2, 2), lr=1), TypeError, r"is a Dense; give model.parameters\(\)"),
    (lambda p: optim.SGD([p, np.ones(2)], lr=1), TypeError, "parameter 1 is a ndarray"),
    (lambda p: optim.SGD([tn.Tensor([1.0])], lr=1), ValueError, "parameter 0 of shape .* does not require a "
                                                                "gradient"),
    (lambda p: optim.SGD([p * 2], lr=1), ValueError, "is the result of an operation"),
    (lambda p: optim.SGD([p, p], lr=1), ValueError, "in the list twice"),
    (lambda p: optim.SGD([p], lr=-1), ValueError, "SGD: lr is -1, but must be 0 or more"),
    (lambda p: optim.SGD([p], lr=math.nan), ValueError, "SGD: lr is nan"),
    (lambda p: optim.SGD([p], lr="1"), TypeError, "SGD: lr is '1'"),
    (lambda p: setattr(optim.SGD([p], lr=1), "lr", -1), ValueError, "SGD: lr is -1"),
    (lambda p: optim.SGD([p], lr=1, nesterov=True), ValueError, "SGD: nesterov=True looks along .* "
                                                                "momentum=0.9"),
    (lambda p: optim.SGD([p], lr=1, weight_decay=-1), ValueError, "SGD: weight_decay is -1"),
    (lambda p: optim.Adam([p], betas=(0.9, 1.0)), ValueError, "Adam: betas is 1.0, but must be 0 or more and "
                                                              "less than 1"),
    (lambda p: optim.AdamW([p], betas=0.9), TypeError, "AdamW: betas is 0.9, but must be a pair"),
    (lambda p: optim.RMSProp([p], alpha=1), ValueError, "RMSProp: alpha is 1"),
    (lambda p: optim.StepLR(0.1, 0), ValueError, "StepLR: step_size is 0"),
    (lambda p: optim.StepLR(0.1, 3)(-1), ValueError, "StepLR: step is -1"),
    (lambda p: optim.CosineLR(0.1, 10, warmup_steps=10), ValueError, "CosineLR: total_steps is 10, but must "
                                                                     "be at least 11"),
    (lambda p: optim.CosineLR(0.1, 10.5), TypeError, "CosineLR: total_steps is 10.5"),
    (lambda p: optim.OneCycleLR(0.1, 10, div=0), ValueError, "OneCycleLR: div is 0"),
    (lambda p: optim.OneCycleLR(0.1, 10, rise=1), ValueError, "OneCycleLR: rise is 1"),
])
def test_errors(make, error, match):
    with pytest.raises(error, match=match):
        make(nn.Parameter(np.ones(2, np.float32)))


class TestClipGradNorm:
    def parameters(self, *gradients):
        parameters = [nn.Parameter(np.zeros(np.shape(g), np.float32)) for g in gradients]
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = tn.Tensor(np.array(g, np.float32))
        return parameters

    def test_scales_all_by_one_factor(self):
        p, q = parameters = self.parameters([2.0, 0.0], [[1.0], [2.0]])
        parameters.append(nn.Parameter(np.zeros(2)))        # has no gradient
        assert optim.clip_grad_norm(iter(parameters), 0.3) == 3
        np.testing.assert_allclose(p.grad.data, [0.2, 0], rtol=1e-5)
        np.testing.assert_allclose(q.grad.data, [[0.1], [0.2]], rtol=1e-5)
        assert p.grad.dtype == np.float32

    def test_small_gradients_stay_untouched(self):
        (p,) = self.parameters([0.3, 0.4])
        before = p.grad
        assert optim.clip_grad_norm([p], 1.0) == pytest.approx(0.5)
        assert p.grad is before

    @pytest.mark.parametrize("bad", [math.nan, math.inf])
    def test_a_norm_that_is_no_number_is_returned_and_changes_nothing(self, bad):
        (p,) = self.parameters([bad, 4.0])
        norm = optim.clip_grad_norm([p], 1.0)
        assert not math.isfinite(norm)
        np.testing.assert_array_equal(p.grad.data, np.array([bad, 4], np.float32))

    def test_large_gradients_do_not_overflow(self):
        (p,) = self.parameters([3e30, 4e30])
        assert optim.clip_grad_norm([p], 1.0) == pytest.approx(5e30)
        np.testing.assert_allclose(p.grad.data, [0.6, 0.8], rtol=1e-5)


class TestSchedules:
    def test_step(self):
        schedule = optim.StepLR(1.0, 3, gamma=0.5)
        assert [schedule(step) for step in range(7)] == [1, 1, 1, 0.5, 0.5, 0.5, 0.25]

    def test_cosine_warms_up_falls_and_stays(self):
        schedule = optim.CosineLR(2.0, total_steps=14, warmup_steps=4, final_lr=1.0)
        assert [schedule(step) for step in range(4)] == [0.5, 1, 1.5, 2]
        assert schedule(4) == 2 and schedule(9) == pytest.approx(1.5)
        assert schedule(14) == schedule(1000) == 1
        assert all(schedule(step) > schedule(step + 1) for step in range(4, 14))

    def test_one_cycle_has_its_ends_and_top(self):
        schedule = optim.OneCycleLR(1.0, total_steps=20, rise=0.25, div=10, final_div=100)
        assert schedule(0) == pytest.approx(0.1) and schedule(2) == pytest.approx(0.55) and schedule(4) == 1
        assert schedule(19) == pytest.approx(0.001) == schedule(50)
        rates = [schedule(step) for step in range(20)]
        assert rates[:5] == sorted(rates[:5]) and rates[4:] == sorted(rates[4:], reverse=True)

    def test_one_cycle_may_start_at_the_top(self):
        assert optim.OneCycleLR(1.0, total_steps=5, rise=0.2)(0) == 1
        assert optim.OneCycleLR(1.0, total_steps=5, rise=0.0)(0) <= 1

    def test_any_step_at_any_time(self):
        schedule = optim.CosineLR(1.0, 10)
        later = schedule(7)
        schedule(1)
        assert schedule(7) == later


@pytest.mark.parametrize("rule, options", EACH)
def test_learns_xor(rule, options):
    x = tn.Tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    y = tn.Tensor([[0.0], [1.0], [1.0], [0.0]])
    model = nn.Sequential(nn.Dense(2, 16), nn.Tanh(), nn.Dense(16, 1))
    optimizer = rule(model.parameters(), **options)
    schedule = optim.CosineLR(options["lr"], total_steps=200)
    for step in range(200):
        optimizer.lr = schedule(step)
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        assert loss.dtype == np.float32
        optimizer.step()
    assert loss.item() < 0.01
    assert all(p.dtype == p.grad.dtype == np.float32 for p in model.parameters())


@pytest.mark.parametrize("rule, options", EACH)
def test_finds_a_linear_map(rule, options):
    truth = np.array([[1.0, -2.0], [0.5, 3.0], [-1.0, 0.0]], np.float32)
    x = np.random.default_rng(0).standard_normal((32, 3), dtype=np.float32)
    y = tn.Tensor(np.einsum("ni,io->no", x, truth) + np.float32(0.5))
    layer = nn.Dense(3, 2)
    optimizer = rule(layer.parameters(), **options)
    schedule = optim.CosineLR(options["lr"], total_steps=300)
    for step in range(300):
        optimizer.lr = schedule(step)
        optimizer.zero_grad()
        ((layer(tn.Tensor(x)) - y) ** 2).sum(1).mean().backward()
        optimizer.step()
    np.testing.assert_allclose(layer.weight.data, truth, atol=0.12)     # weight decay pulls towards 0
    np.testing.assert_allclose(layer.bias.data, 0.5, atol=0.12)
