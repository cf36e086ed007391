"""The dry run: right shapes and figures, nothing computed, and shapes that don't fit explained."""

import sys
import tracemalloc

import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder, detection, residual, segmentation
from tinynet import nn, random
from tinynet.autograd import Op

MODELS = {
    "FCN": (lambda: segmentation.FCN(9, (8, 16)), (2, 12, 16, 3)),
    "FCN of odd size": (lambda: segmentation.FCN(9, (8, 16, 24)), (1, 13, 11, 3)),
    "CAE": (lambda: autoencoder.CAE((16, 12), 3, 8), (2, 16, 12, 3)),
    "CAE with a map": (lambda: autoencoder.CAE((16, 12), 3, (4, 3, 5)), (2, 16, 12, 3)),
    "ResNet": (lambda: residual.ResNet(10, 8), (2, 16, 16, 3)),
    "Detector": (lambda: detection.Detector(9, size=16, widths=(8, 16)), (2, 16, 16, 3)),
}


def row(table, layer, kind=None):
    (found,) = [r for r in table.rows if r.layer == layer and kind in (None, r.kind)]
    return found


def ops():
    """All classes of ops in the package."""
    found, new = set(), {Op}
    while new:
        new = {sub for cls in new for sub in cls.__subclasses__()} - found
        found |= new
    return {cls for cls in found if cls.__module__.startswith("tinynet.")}


# Shapes


def shapes(value):
    return tuple(t.shape for t in value) if isinstance(value, tuple) else value.shape


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("training", [True, False])
def test_shapes_and_parameters_are_those_of_a_real_run(name, training):
    make, shape = MODELS[name]
    model = make().train(training)
    table = tn.summary(model, shape)
    met = []
    for path, module in model.named_modules():
        if not any(True for _ in module.modules() if _ is not module):
            forward = module.forward
            module.__dict__["forward"] = lambda *a, _f=forward, _p=path, **k: note(met, _p, _f, *a, **k)
    try:
        with tn.no_grad():
            model.train()  # evaluation would put batch normalisation into convolutions
            output = model(tn.Tensor(np.zeros(shape, np.float32)))
    finally:
        for module in model.modules():
            module.__dict__.pop("forward", None)
    assert table.output == shapes(output)
    rows = {(r.layer, r.output) for r in table.rows}
    # with these, layers do others' work, too
    alone = {(path, s) for path, s, options in met if "then" not in options and not options.get("pool")}
    assert alone and alone <= rows
    assert table.parameters == sum(p.size for p in model.parameters()) == sum(r.parameters for r in table.rows)


def note(met, path, forward, *inputs, **options):
    output = forward(*inputs, **options)
    met.append((path, output.shape, options))
    return output


CASES = {  # functions that between them use every op, with the shapes of their inputs
    "arithmetic": (lambda x, y: (x + y) * (x - y) / (y * y + 2) - (-x) ** 2 + tn.exp(x) + tn.sqrt(tn.abs(y) + 1)
                   + tn.log(x * x + 1), [(3, 4), (4,)]),
    "choice": (lambda x, y: tn.maximum(x, y) + tn.minimum(x, y) + tn.where(np.ones((2, 1, 1), bool), x, y)
               + x.clip(-0.5, 0.5), [(3, 4), (4,)]),
    "reduction": (lambda x: x.sum(0) + x.mean((0, 2), keepdims=True) + x.max(1) + x.min() + tn.logsumexp(x),
                  [(3, 3, 3)]),
    "matmul": (lambda a, b: a @ b, [(2, 3, 4), (2, 4, 5)]),
    "matmul of rows": (lambda a, b: a @ b, [(2, 3, 4), (4, 5)]),
    "layout": (lambda x, y: tn.stack([tn.pad(x, ((1, 0), (0, 2)))[1:, :4].T, tn.concatenate([y, y], 1).T])
               [np.array([0, 1, 0])] + tn.broadcast_to(x[0], (3, 4)).T, [(3, 4), (3, 2)]),
    "cast": (lambda x: x.astype(np.float64).astype(np.float32), [(3,)]),
    "activation": (lambda x: tn.relu(x) + tn.leaky_relu(x) + tn.sigmoid(x) + tn.tanh(x) + tn.softplus(x)
                   + tn.gelu(x) + tn.silu(x) + tn.softmax(x) + tn.log_softmax(x) + tn.dropout(x), [(3, 4)]),
    "conv2d": (lambda x, w, b: tn.conv2d(x, w, b, stride=2, padding=1, groups=2), [(2, 7, 6, 4), (3, 3, 2, 6), (6,)]),
    "conv_transpose2d": (lambda x, w, b: tn.conv_transpose2d(x, w, b, stride=2, output_padding=1, groups=2),
                         [(2, 3, 4, 4), (3, 3, 3, 4), (6,)]),
    "pooling": (lambda x: tn.max_pool2d(x, 3, 2, 1) + tn.avg_pool2d(x, 3, 2, 1), [(2, 7, 6, 3)]),
    "resize": (lambda x: tn.resize(x, (5, 9)) + tn.resize(x, (5, 9), "bilinear"), [(2, 4, 6, 3)]),
    "normalisation": (lambda x, w, b: tn.batch_norm(x, w, b) + tn.group_norm(x, 2, w, b) + tn.layer_norm(x, 4, w, b)
                      + tn.batch_norm(x, w, b, np.zeros(4, np.float32), np.ones(4, np.float32), training=False),
                      [(2, 3, 3, 4), (4,), (4,)]),
    "fused": (lambda x: nn.Sequential(nn.Conv2d(4, 6, 3), nn.ReLU(), nn.MaxPool2d(2), nn.BatchNorm2d(6), nn.ReLU(),
                                      nn.ConvTranspose2d(6, 3, 2, stride=2), nn.ReLU())(x), [(2, 7, 6, 4)]),
    "cross_entropy": (lambda x: tn.cross_entropy(x, [1, 0, 2]) + tn.cross_entropy(x, [1, 0, 2], reduction="none"),
                      [(3, 4)]),
    "errors": (lambda x, t: tn.mse_loss(x, t) + tn.smooth_l1_loss(x, t, reduction="none") + tn.l1_loss(x, t),
               [(3, 4), (3, 4)]),
}


def test_every_op_foretells_its_result(monkeypatch):
    """Forward, backward and backward of that: each op's dry run gives its result's shape and dtype."""
    call, seen = Op.__call__, set()

    def compared(op, *inputs):
        y = call(op, *inputs)
        foretold = op.dry_run(*op._arrays(inputs))
        assert (foretold.shape, foretold.dtype) == (y.shape, y.dtype), type(op).__name__
        seen.add(type(op))
        return y

    monkeypatch.setattr(Op, "__call__", compared)
    rng = np.random.default_rng(0)
    for function, sizes in CASES.values():
        inputs = [tn.Tensor(rng.standard_normal(size).astype(np.float32), requires_grad=True) for size in sizes]
        y = function(*inputs)
        gradients = tn.grad((y * y).sum(), inputs, create_graph=True)
        sum((g * g).sum() for g in gradients).backward()
    assert {cls.__name__ for cls in ops() - seen} == set()


# Nothing is computed


def test_no_kernel_and_no_forward_runs(monkeypatch):
    def refuse(*_):
        raise AssertionError("a dry run computed something")

    models = {name: make() for name, (make, _) in MODELS.items()}
    for name, module in list(sys.modules.items()):
        if name.startswith("tinynet.kernels."):
            for attribute, value in list(vars(module).items()):
                if hasattr(value, "dispatcher"):
                    monkeypatch.setattr(module, attribute, refuse)
    for op in ops():
        if op.dry_run is not op.forward:  # those make views, of no memory
            monkeypatch.setattr(op, "forward", refuse)
    for name, (_, shape) in MODELS.items():
        assert tn.summary(models[name], shape).rows


def test_it_takes_no_memory_and_changes_nothing():
    model = segmentation.FCN(9, (8, 16))
    before, draws = model.state_dict(), random.get_state()
    tn.summary(nn.Sequential(model, nn.Dropout(0.5)), (4, 8192, 8192, 3))
    tracemalloc.start()
    try:
        tn.summary(nn.Sequential(model, nn.Dropout(0.5)), (4, 8192, 8192, 3))  # some 200 GB
        assert tracemalloc.get_traced_memory()[1] < 2e6
    finally:
        tracemalloc.stop()
    assert random.get_state() == draws
    assert all(np.array_equal(array, model.state_dict()[name]) for name, array in before.items())
    assert model(tn.Tensor(np.zeros((1, 4, 4, 3), np.float32))).op is not None  # ops compute and record again


def test_a_failing_dry_run_is_over():
    with pytest.raises(ValueError):
        tn.summary(nn.Dense(2, 3), (1, 5))
    assert (tn.Tensor([2.0]) * 3).item() == 6


# Figures


def test_figures_of_a_small_net():
    model = nn.Sequential(nn.Conv2d(3, 8, 5, stride=2, padding=2), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
                          nn.Conv2d(8, 4, 3, groups=2, bias=False), nn.ConvTranspose2d(4, 6, 4, stride=2), nn.Flatten(),
                          nn.Dense(1728, 10))
    table = tn.summary(model, (2, 36, 40, 3))
    assert [r.output for r in table.rows] == [*[(2, 18, 20, 8)] * 3, (2, 9, 10, 8), (2, 7, 8, 4), (2, 16, 18, 6),
                                              (2, 1728), (2, 10)]
    assert [r.parameters for r in table.rows] == [608, 16, 0, 0, 144, 390, 0, 17290]
    assert [r.multiply_adds for r in table.rows] == [2 * 18 * 20 * 8 * 75, 0, 0, 0, 2 * 7 * 8 * 4 * 36,
                                                     2 * 7 * 8 * 4 * 16 * 6, 0, 2 * 17280]
    assert [r.memory for r in table.rows] == [4 * 2 * n for n in (2880, 2880, 2880, 720, 224, 1728, 0, 10)]
    assert [str(r.sees) for r in table.rows] == ["5x5"] * 3 + ["7x7", "15x15", "19x19", "all", "all"]
    assert table.kept == 4 * 2 * (2880 + 2880 + 720 + 224 + 1728)  # what normalisation, ReLU, and the layers read


def test_figures_of_the_fcn():
    table = tn.summary(segmentation.FCN(11), (1, 128, 128, 3))
    assert table.output == (1, 128, 128, 11)
    first, second = row(table, "down.0.0"), row(table, "down.0.3")
    assert (first.parameters, first.multiply_adds, first.memory) == (864, 128 * 128 * 864, 4 * 128 * 128 * 32)
    assert str(second.sees) == "5x5"
    assert [str(r.sees) for r in table.rows if r.layer == "pool"] == ["6x6", "16x16", "36x36"]
    assert str(row(table, "down.3.5").sees) == "68x68"
    assert [str(r.sees) for r in table.rows if r.kind == "Add"] == ["76x76", "88x88", "94x94"]
    assert str(row(table, "score").sees) == "96x96"
    assert [r.output for r in table.rows if r.kind == "Add"] == [(1, 32, 32, 128), (1, 64, 64, 64), (1, 128, 128, 32)]


def test_what_is_pooled_in_passing_sees_four_pixels():
    class Pooled(nn.BatchNorm2d):
        def forward(self, x):
            return super().forward(x, relu=True, pool=True)

    table = tn.summary(nn.Sequential(Pooled(2), nn.Conv2d(2, 2, 3)), (1, 8, 8, 2))
    assert [(r.output, str(r.sees)) for r in table.rows] == [((1, 4, 4, 2), "2x2"), ((1, 2, 2, 2), "6x6")]


@pytest.mark.parametrize("layers", [
    [nn.Conv2d(1, 1, 3, stride=2), nn.Conv2d(1, 1, (2, 3), dilation=2)],
    [nn.AvgPool2d(3, 2, 1), nn.Conv2d(1, 1, 3, padding="same"), nn.AvgPool2d(2)],
    [nn.Conv2d(1, 1, 2, stride=2), nn.ConvTranspose2d(1, 1, 4, stride=2, padding=1), nn.Conv2d(1, 1, 3)],
    [nn.Conv2d(1, 1, 3), nn.Upsample(2), nn.Conv2d(1, 1, 2)],
])
def test_receptive_field_is_what_an_output_depends_on(layers):
    model = nn.Sequential(*layers)
    for name, parameter in model.named_parameters():
        parameter.data[...] = name.endswith("weight")
    with tn.no_grad():  # the outputs that a single bright pixel reaches, for every pixel of an image
        y = model(tn.Tensor(np.eye(400, dtype=np.float32).reshape(400, 20, 20, 1))).numpy()
    reaches = (y[..., 0] != 0).reshape(20, 20, *y.shape[1:3])
    height = max(np.ptp(np.nonzero(reaches[..., i, j])[0]) + 1 for i, j in np.ndindex(y.shape[1:3]))
    width = max(np.ptp(np.nonzero(reaches[..., i, j])[1]) + 1 for i, j in np.ndindex(y.shape[1:3]))
    assert str(tn.summary(model, (1, 20, 20, 1)).rows[-1].sees) == f"{height}x{width}"


class Own(nn.Module):
    """A user's module: its own parameter, tinynet's functions, a layer that is used twice, several inputs."""

    def __init__(self):
        self.weight = nn.Parameter(np.ones((3, 3, 2, 2), np.float32))
        self.idle = nn.Parameter(np.ones(7, np.float32))
        self.shared = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x, row):
        x = tn.maximum(self.shared(tn.conv2d(x, self.weight)), 0.0)
        return {"image": self.shared(x), "row": tn.softmax(row + x.max((1, 2)), axis=-1)}


def test_modules_of_users():
    table = tn.summary(Own(), (1, 9, 9, 2), (2,))
    assert table.output == ((1, 7, 7, 2), (1, 2))
    assert (table.rows[0].layer, table.rows[0].kind, table.rows[0].parameters) == ("", "Gather", 36)
    assert [r.parameters for r in table.rows if r.layer == "shared"] == [38, 0]
    assert "81 parameters, 7 of which forward doesn't use" in repr(table)
    assert [r.output for r in table.rows if r.kind == "Larger"] == [(1, 7, 7, 2)]


def test_one_image_is_enough_in_training():
    assert tn.summary(autoencoder.CAE((16, 16)), (1, 16, 16, 1)).output == (1, 16, 16, 1)


def test_float64():
    assert tn.summary(nn.Conv2d(1, 1, 1).astype(np.float64), (1, 4, 4, 1)).memory == 128


def test_text_and_html():
    table = tn.summary(nn.Sequential(nn.Conv2d(3, 64, 3), nn.Flatten()), (1, 1026, 1026, 3))
    lines = repr(table).splitlines()
    assert lines[2].split() == "0 Conv2d 1 x 1024 x 1024 x 64 1,792 1.8G 256 MiB 3x3".split()
    assert lines[3].split() == "1 Flatten 1 x 67108864 all".split()
    assert "1 x 1026 x 1026 x 3 becomes 1 x 67108864" in lines[5]
    assert table._repr_html_().count("<tr>") == 3


# Shapes that don't fit


@pytest.mark.parametrize(("model", "shape", "words"), [
    (lambda: segmentation.FCN(9, (8, 8, 8, 8)), (1, 20, 5, 3),
     ["FCN can't take (1, 20, 5, 3)", "pool, MaxPool2d(2), got (1, 5, 1, 8)", "fit: (1, 20, 8, 3), (1, 20, 9, 3)"]),
    (lambda: segmentation.FCN(9, (8, 8)), (1, 16, 16, 1),
     ["down.0.0, Conv2d(3, 8", "got (1, 16, 16, 1)", "x has 1 channels", "fit: (1, 16, 16, 3)"]),
    (lambda: segmentation.FCN(9, (8, 8)), (16, 16, 3), ["images are (N, H, W, C)", "fit: (1, 16, 16, 3)"]),
    (lambda: detection.Detector(9, size=16, widths=(8, 16)), (1, 20, 13, 3),
     ["box, Dense(1024, 4)", "got (1, 960)", "takes 1024", "(1, 16, 16, 3)"]),
    (lambda: nn.Sequential(nn.Dense(784, 10)), (1, 28), ["at", "fit: (1, 784)"]),
    (lambda: nn.Residual(nn.Conv2d(3, 3, 3)), (1, 8, 8, 3), ["no shape like it would fit"]),
])
def test_a_shape_that_does_not_fit(model, shape, words):
    model = model()
    with pytest.raises(ValueError) as caught:
        tn.summary(model, shape)
    for word in words:
        assert word in str(caught.value)


def test_inputs_of_one_size_change_together():
    class Sum(nn.Module):
        def __init__(self):
            self.pool = nn.MaxPool2d(4)

        def forward(self, x, y):
            return self.pool(x + y)

    with pytest.raises(ValueError, match=r"fit: \(1, 4, 9, 2\) and \(1, 4, 9, 1\), \(1, 5, 9, 2\) and"):
        tn.summary(Sum(), (1, 2, 9, 2), (1, 2, 9, 1))


@pytest.mark.parametrize("shape", [5, (1, 0), (1, 2.5), "ab"])
def test_what_is_no_shape(shape):
    with pytest.raises(ValueError, match="summary: got the shape"):
        tn.summary(nn.ReLU(), shape)


def test_what_is_no_module():
    with pytest.raises(TypeError, match="summary: got a function, but must get a Module"):
        tn.summary(tn.relu, (1, 2))


def test_other_errors_stay_what_they_are():
    class Wrong(nn.Module):
        def forward(self, x):
            return x.nonsense

    with pytest.raises(AttributeError, match="nonsense"):
        tn.summary(Wrong(), (1, 2))
