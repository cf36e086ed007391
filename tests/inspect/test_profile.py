"""The profile: times that add up, figures that others have found too, and nothing changed by looking."""

import json
import sys
import threading
import time
import weakref

import numpy as np
import pytest

import tinynet as tn
from tinynet import data, guard, nn, optim
from tinynet.autograd import Op, node, running, topological_order

IMAGES = np.random.default_rng(0).random((8, 32, 32, 3), dtype=np.float32)
LABELS = np.arange(8)


def small_model():
    return nn.Sequential(
        nn.Sequential(nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Residual(nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU())),
        nn.Flatten(), nn.Dense(16 * 16 * 16, 10),
    )


class Training:
    """Steps of a model on a batch; the first is done at once, for it compiles kernels."""

    def __init__(self, model):
        self.model, self.optimizer = model, optim.Adam(model.parameters(), lr=1e-3)
        self.step()

    def step(self):
        self.optimizer.zero_grad()
        loss = tn.cross_entropy(self.model(tn.Tensor(IMAGES)), LABELS)
        loss.backward()
        optim.clip_grad_norm(self.model.parameters(), 1.0)
        self.optimizer.step()
        return loss.item()

    def profiled(self, steps):
        with tn.profile(peak=100) as p:
            for _ in range(steps):
                self.step()
        return p


def row(p, layer, kind=None):
    (found,) = [r for r in p.rows if r.layer == layer and kind in (None, r.kind)]
    return found


def seconds_of(rows):
    return sum(r.forward + r.backward for r in rows)


# Time


def test_times_add_up_to_the_step():
    training = Training(small_model())
    began = time.perf_counter()
    p = training.profiled(5)
    whole = time.perf_counter() - began
    explained = seconds_of(p.rows) + sum(p.parts.values())
    assert p.steps == 5 and explained / p.seconds == pytest.approx(p.covered)
    assert explained <= p.seconds and 5 * (p.seconds + p.overhead) <= whole
    assert set(p.parts) == {"between layers", "zero_grad", "backward", "clip_grad_norm", "optimizer"}
    by_op = sum(a.forward + a.backward for a in p.by_op.values()) / 5e9
    assert 0.5 * seconds_of(p.rows) < by_op < explained


def test_where_the_time_is_spent(monkeypatch):
    now = [0]
    monkeypatch.setattr(sys.modules["tinynet.inspect.profile"], "clock", lambda: now[0])

    def work(seconds):
        now[0] += int(seconds * 1e9)

    class Slow(Op):
        def forward(self, x):
            work(2)
            return x + 0

        def backward(self, gy):
            work(4)
            return Slow()(gy)

    class Layer(nn.Module):
        def forward(self, x):
            work(1)
            return Slow()(x)

    class Model(nn.Module):
        def __init__(self):
            self.layer = Layer()

        def forward(self, x):
            work(8)
            return self.layer(x)

    x = tn.Tensor([1.0], requires_grad=True)
    with tn.profile() as p:
        work(16)
        Model()(x).backward()
        work(16)
    (found,) = p.rows
    assert (found.layer, found.forward, found.backward) == ("layer", 3, 6)
    assert p.parts == {"between layers": 8, "backward": 0}
    assert (p.seconds, p.overhead, p.covered) == (49, 0, pytest.approx(17 / 49))
    ops = {name: (a.forward + a.backward) / 1e9 for name, a in p.by_op.items()}
    assert ops == {("Slow", False): 2, ("Slow.backward", True): 4, ("Slow", True): 2}
    assert "1000.00 ms    2.0 %  from a layer's call to its ops" in p.table("op")


def test_gradients_of_gradients_are_counted_once():
    x = tn.Tensor(IMAGES, requires_grad=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid(), nn.Flatten(), nn.Dense(4 * 30 * 30, 1))

    def penalty():
        (gx,) = tn.grad(model(x).sum(), x, create_graph=True)
        (gx * gx).sum().backward()

    penalty()
    with tn.profile() as p:
        penalty()
    assert [r.layer for r in p.rows][:4] == ["0", "1", "2", "3"]
    assert {r.kind for r in p.rows[4:]} == {"Sum", "Reshape", "Mul"}
    assert seconds_of(p.rows) + sum(p.parts.values()) == pytest.approx(p.covered * p.seconds)
    cost = 8 * 30 * 30 * 27 * 4
    assert row(p, "0").multiply_adds == cost
    assert row(p, "0").backward_multiply_adds == 5 * cost  # gx; its two; those of y


def test_a_thread_that_did_not_run_is_told():
    with tn.profile() as p:
        tn.exp(1.0)
        time.sleep(0.1)
    assert p.ran < 0.5 and "the thread had the processor for" in str(p)
    began = time.thread_time()
    with tn.profile() as p:
        while time.thread_time() < began + 0.02:
            tn.exp(1.0)
        spent = time.thread_time() - began
    assert p.ran * (p.seconds + p.overhead) == pytest.approx(spent, rel=0.2)


def test_the_loader_has_its_part():
    class Slow(list):
        def sample(self, index, rng):
            time.sleep(0.01)
            return self[index]

    for workers in (0, 1):
        with tn.profile() as p:
            for (x,) in data.DataLoader(Slow([(np.ones(2, np.float32),)] * 3), 1, workers=workers):
                tn.exp(x)
        assert 0.02 < p.parts["loader"] < 0.06


# Sizes


def test_multiply_adds_are_those_of_summary():
    model = small_model()
    p = Training(model).profiled(1)
    table = tn.summary(model, IMAGES.shape)
    found = {r.layer: r.multiply_adds for r in p.rows if r.multiply_adds}
    assert found == {r.layer: r.multiply_adds for r in table.rows if r.multiply_adds}
    backward = {r.layer: r.backward_multiply_adds for r in p.rows if r.multiply_adds}
    assert backward == {layer: (1 if layer == "0.0" else 2) * n for layer, n in found.items()}  # no gradient of images
    first = row(p, "0.0")
    share = 2e-9 * first.multiply_adds / first.forward / p.peak
    assert f"{100 * share:.0f} %" in str(p)


@pytest.mark.parametrize("layer", [nn.Conv2d(4, 6, 3, stride=2, groups=2), nn.ConvTranspose2d(4, 6, 3, groups=2)])
def test_each_gradient_of_a_convolution_costs_what_it_costs(layer):
    x = tn.Tensor(np.ones((2, 5, 7, 4), np.float32), requires_grad=True)
    with tn.profile() as p:
        nn.Sequential(layer)(x).sum().backward()
    cost = tn.summary(layer, x.shape).multiply_adds
    assert (row(p, "0").multiply_adds, row(p, "0").backward_multiply_adds) == (cost, 2 * cost)


def test_a_gradient_that_is_read_as_pooling_left_it_costs_what_all_of_it_does():
    layer, x = nn.Conv2d(4, 6, 3), tn.Tensor(np.ones((2, 7, 8, 4), np.float32), requires_grad=True)
    with tn.profile() as p:
        nn.Sequential(layer, nn.MaxPool2d(2))(x).sum().backward()
    assert row(p, "0").backward_multiply_adds == 2 * tn.summary(layer, x.shape).multiply_adds


def test_kept_bytes_are_those_of_the_graph():
    model = small_model()
    with tn.profile() as p:
        loss = tn.cross_entropy(model(tn.Tensor(IMAGES)), LABELS)
    held = {}
    for op in topological_order([node(loss)]):
        if isinstance(op, Op):
            arrays = [getattr(op, name).array for name in op.keeps if getattr(op, name) is not None]
            arrays += [value for value in vars(op).values() if isinstance(value, np.ndarray)]
            held |= {id(guard.owner(a)): a.nbytes for a in arrays}
    for array in [IMAGES, *(w.array for w in model.parameters())]:  # which are there anyway
        held.pop(id(guard.owner(array)), None)
    assert sum(r.kept for r in p.rows) == sum(held.values()) > 9e5
    with tn.profile() as again:
        assert tn.cross_entropy(model(tn.Tensor(IMAGES)), LABELS).requires_grad
    assert [r.kept for r in again.rows] == [r.kept for r in p.rows]
    with tn.profile() as p, tn.no_grad():
        model(tn.Tensor(IMAGES))
    assert not any(r.kept for r in p.rows)


def test_what_is_kept_twice_counts_once():
    x = tn.Tensor(np.ones((3, 5), np.float32), requires_grad=True)
    with tn.profile() as p:
        y = tn.exp(x)  # keeps its result
        z = tn.tanh(y * y)  # the product keeps it again, twice
    assert [(r.kind, r.kept) for r in p.rows] == [("Exp", 60), ("Mul", 0), ("Tanh", 60)]
    assert z.requires_grad


def test_sizes_of_gradients():
    dense = nn.Dense(3, 2)
    x, g = tn.Tensor([[1.0, 2.0, 3.0]]), np.array([[3.0, 4.0]], np.float32)
    with tn.profile() as p:
        nn.Sequential(dense)(x).backward(tn.Tensor(g))
    found = row(p, "0")
    assert found.gradient == pytest.approx(np.sqrt(12.5))
    both = np.concatenate([dense.weight.grad.numpy().ravel(), dense.bias.grad.numpy()])
    assert found.weights_gradient == pytest.approx(np.linalg.norm(both))


def test_the_gradient_of_a_layer_is_that_of_its_last_op():
    class Layer(nn.Module):
        def forward(self, x):
            return tn.exp(x * 3) * 5

    with tn.profile() as p:
        for _ in range(2):
            y = nn.Sequential(Layer())(tn.Tensor([0.0, 0.0], requires_grad=True))
            y.backward(tn.Tensor([3.0, 4.0]))
    assert [r.gradient for r in p.rows] == pytest.approx([np.sqrt(12.5)] * 2)


FOLLOWERS = {
    "relu": lambda: [nn.ReLU()],
    "pool": lambda: [nn.ReLU(), nn.MaxPool2d(2)],
    "norm": lambda: [nn.BatchNorm2d(8), nn.ReLU()],
    "alone": lambda: [nn.Sequential(nn.ReLU())],
}


@pytest.mark.parametrize("followers", FOLLOWERS)
def test_dead_relus_are_found(followers):
    model = nn.Sequential(nn.Conv2d(3, 8, 3), *FOLLOWERS[followers]())
    last = [m for m in model if hasattr(m, "bias")][-1]
    last.bias.data[:] = 5
    last.bias.data[[2, 5]] = -50
    with tn.profile(peak=100) as p:
        model(tn.Tensor(IMAGES))
    (found,) = [r for r in p.rows if "ReLU" in r.kind]
    assert found.dead == (2, 8)
    assert " 2/8" in str(p)
    last.bias.data[2] = 5
    with p:  # goes on: one of the two gives something else than 0 now
        model(tn.Tensor(IMAGES))
    (found,) = [r for r in p.rows if "ReLU" in r.kind]
    assert found.dead == (1, 8)


def test_nan_is_not_dead_and_a_single_pixel_is_enough():
    x = np.full((2, 10, 10, 3), -1.0, np.float32)
    x[1, 9, 9, 0], x[0, 3, 4, 1] = np.nan, 1e-30
    with tn.profile() as p:
        tn.relu(x)
    assert p.rows[0].dead == (1, 3)


def test_a_number_and_nothing():
    with tn.profile(peak=100) as p:
        tn.relu(tn.Tensor(-1.0, requires_grad=True)).backward()
        tn.relu(np.zeros((0, 3), np.float32))
        tn.relu(np.zeros((3, 0), np.float32))
    assert p.rows[0].dead == (1, 1) and p.rows[0].runs == 3


# Whose it is


def test_rows_are_layers_and_the_ops_between_them():
    p = Training(small_model()).profiled(2)
    assert [(r.layer, r.kind, r.runs) for r in p.rows] == [
        ("0.0", "Conv2d", 1), ("0.1", "BatchNorm2d+ReLU+MaxPool2d", 1), ("1.body.0", "Conv2d+ReLU", 1), ("1", "Add", 1),
        ("2", "Flatten", 1), ("3", "Dense", 1), ("", "CrossEntropy", 1)]
    model = small_model().eval()
    with tn.profile(peak=100) as p, tn.no_grad():
        model(tn.Tensor(IMAGES))
    assert p.rows[0].kind == "Conv2d+BatchNorm2d+ReLU+MaxPool2d" and p.rows[0].layer == "0.0"
    assert p.steps == 0 and p.rows[0].backward == 0 and "bwd" not in str(p) and "no step" in str(p)


def test_each_op_of_a_larger_module_has_a_row():
    class Skips(nn.Module):
        def __init__(self):
            self.first, self.second = nn.Tanh(), nn.Tanh()

        def forward(self, x):
            x = self.first(x) + x
            return self.second(x) + x

    model = Skips()
    with tn.profile() as p:
        for _ in range(3):
            model(tn.Tensor([1.0]))
    assert [(r.layer, r.kind, r.runs) for r in p.rows] == [
        ("first", "Tanh", 3), ("Skips", "Add", 3), ("second", "Tanh", 3), ("Skips", "Add", 3)]
    assert "Tanh (3 times)" in str(p)


def test_two_models_are_told_apart():
    first, second = nn.Sequential(nn.Tanh()), nn.Sequential(nn.Tanh())
    with tn.profile() as p:
        second(first(tn.Tensor([1.0])))
    assert [r.layer for r in p.rows] == ["Sequential 1.0", "Sequential 2.0"]


def test_a_graph_from_before():
    model = nn.Sequential(nn.Dense(3, 2), nn.Tanh())
    y = model(tn.Tensor([[1.0, 2.0, 3.0]])).sum()
    with tn.profile() as p:
        y.backward()
    assert row(p, "0").backward > 0 and row(p, "0").weights_gradient > 0
    assert row(p, "0").forward == 0


def test_in_the_middle_of_a_module():
    class Half(nn.Module):
        def __init__(self):
            self.first, self.second = nn.Tanh(), nn.Tanh()

        def forward(self, x):
            x = self.first(x)
            with tn.profile() as self.__dict__["p"]:
                return self.second(x) * 2

    model = nn.Sequential(Half())
    model(tn.Tensor([1.0]))
    assert [(r.layer, r.kind) for r in model[0].p.rows] == [("0.second", "Tanh"), ("0", "Mul")]


# The timeline


def test_the_timeline_is_nested(tmp_path):
    training = Training(small_model())
    p = training.profiled(2)
    p.save(tmp_path / "trace.json")
    trace = json.loads((tmp_path / "trace.json").read_text())
    events = trace["traceEvents"]
    assert {e["ph"] for e in events} == {"M", "X"}
    around, depth = [], 0
    spans = [e for e in events if e["ph"] == "X"]
    for e in spans:
        assert set(e) == {"name", "cat", "ph", "ts", "dur", "pid", "tid", "args"}
        assert isinstance(e["pid"], int) and e["ts"] >= 0 and e["dur"] >= 0
        start, end = (round(1000 * t) for t in (e["ts"], e["ts"] + e["dur"]))  # nanoseconds
        while around and start >= around[-1][1]:
            around.pop()
        assert not around or around[-1][0] <= start <= end <= around[-1][1]
        around.append((start, end))
        depth = max(depth, len(around))
    assert depth > 4  # the profile, Sequential, Sequential, Conv2d, Gather
    assert spans[0]["name"] == "profile" and spans[0]["dur"] == max(e["dur"] for e in spans)
    assert spans[0]["dur"] == pytest.approx(2e6 * (p.seconds + p.overhead), abs=0.01)
    own = sum(e["args"]["own ms"] for e in spans)
    assert own == pytest.approx(2000 * p.seconds)
    assert sum(e["name"] == "optimizer" for e in spans) == 2
    assert any(e["name"] == "0.0 Conv2d" and e["cat"] == "layer" for e in spans)
    gather = next(e for e in spans if e["name"] == "Gather")
    assert gather["args"]["layer"] == "0.0 Conv2d" and gather["args"]["multiply-adds"] == 8 * 32 * 32 * 27 * 16


# Looking changes nothing


def test_the_results_are_the_same_bits():
    def train(look):
        tn.manual_seed(1)
        training = Training(small_model())
        losses = [look(training) for _ in range(3)]
        return losses, [p.numpy().copy() for p in training.model.parameters()]

    def looking(training):
        with tn.profile():
            return training.step()

    plain, looked = train(Training.step), train(looking)
    assert plain[0] == looked[0]
    assert all(np.array_equal(a, b) for a, b in zip(plain[1], looked[1], strict=True))


def test_off_means_nobody_watches():
    assert running.watcher is None
    with tn.profile() as p:
        assert running.watcher is p
        tn.exp(1.0)
    assert running.watcher is None
    with pytest.raises(ValueError, match="Dense: x of shape"), tn.profile() as p:
        nn.Sequential(nn.Dense(2, 2))(tn.Tensor([[1.0]]))
    assert running.watcher is None and p._span is None and p.total > 0
    tn.exp(1.0)
    assert len(p.by_op) == 0


def test_other_threads_are_not_watched():
    def work():
        tn.exp(1.0)
        with tn.profile() as theirs:
            tn.log(1.0)
        found.append(theirs)

    found = []
    with tn.profile() as p:
        tn.sqrt(1.0)
        thread = threading.Thread(target=work)
        thread.start()
        thread.join()
    assert [r.kind for r in p.rows] == ["Sqrt"] and [r.kind for r in found[0].rows] == ["Log"]


def test_memory_is_let_go():
    """No op, array or graph lives longer for having been looked at."""
    layer = nn.Sequential(nn.Dense(3, 2), nn.ReLU())
    with tn.profile() as p:
        y = layer(tn.Tensor([[1.0, 2.0, 3.0]]))
        y.sum().backward()
        y = layer(tn.Tensor([[1.0, 2.0, 3.0]]))
        op, array = weakref.ref(y.op), weakref.ref(guard.owner(y.array))
        assert guard.is_kept(y.array)
        del y
        assert op() is None and array() is None
    assert len(p.spans) > 10 and not p._measured


def test_a_long_timeline_is_cut_off(monkeypatch):
    monkeypatch.setattr(sys.modules["tinynet.inspect.profile"], "MOST_SPANS", 5)
    with tn.profile() as p:
        for _ in range(8):
            tn.exp(1.0)
    assert [span.name for span in p.spans] == ["Exp"] * 5 + ["profile"]
    assert p.rows[0].runs == 8


def test_anomalies_are_found_as_ever():
    x = tn.Tensor([0.0, 1.0], requires_grad=True)
    with tn.profile(), tn.detect_anomaly():
        with pytest.raises(FloatingPointError, match="Log made an Inf in its forward pass.*test_profile.py"):
            tn.log(x)
        with pytest.raises(FloatingPointError, match="Sqrt made an Inf in its backward pass.*test_profile.py"):
            tn.sqrt(x).sum().backward()


def test_summary_within_a_profile_computes_nothing():
    model = small_model()
    with tn.profile() as p:
        assert tn.summary(model, IMAGES.shape).multiply_adds > 0
        tn.exp(1.0)
    assert [r.kind for r in p.rows] == ["Exp"]


# Errors and texts


def test_what_cannot_be():
    with tn.profile() as p:
        with pytest.raises(RuntimeError, match="profile: a profile or a summary is running already"):
            with tn.profile():
                pass
        with pytest.raises(RuntimeError, match="running already"):
            p.__enter__()
        assert running.watcher is p
        assert "nothing has run" in str(p)
        tn.exp(1.0)
        assert "still running" in str(p)
    with pytest.raises(ValueError, match='"layer" or "op"'):
        p.table("line")
    for peak in (0, -1.0, "fast", True, float("nan")):
        with pytest.raises(ValueError, match="profile: peak is .*, but must be the GFLOP/s"):
            tn.profile(peak)


def test_before_anything_ran(tmp_path):
    for p in (tn.profile(), tn.profile(peak=1)):
        assert "nothing has run within it yet" in str(p) and "nothing has run" in p.table("op")
        with pytest.raises(RuntimeError, match="no timeline to save"):
            p.save(tmp_path / "trace.json")
    assert not list(tmp_path.iterdir())


def test_the_table_fits_a_terminal():
    class Deep(nn.Module):
        def __init__(self, depth):
            self.a_part_with_quite_a_long_name = Deep(depth - 1) if depth else nn.Dense(3, 3)

        def forward(self, x):
            return self.a_part_with_quite_a_long_name(x)

    with tn.profile(peak=100) as p:
        Deep(5)(tn.Tensor([[1.0, 2.0, 3.0]])).sum().backward()
    for by in ("layer", "op"):
        assert max(map(len, p.table(by).splitlines())) <= 120
    assert "name.a_part_with_quite_a_long_name  Dense" in str(p)


def test_the_peak_is_measured():
    with tn.profile() as p:
        tn.matmul(np.ones((2, 3), np.float32), np.ones((3, 4), np.float32))
    assert 1 < p.peak < 10_000
    assert f"of the peak of {p.peak:.0f} (1 thread)" in str(p)
