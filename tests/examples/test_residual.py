"""The ResNet and its command: the paper's sizes, what residual adds, the same bits, and the files."""

import csv

import numba
import numpy as np
import pytest

import tinynet as tn
from examples import residual
from examples.residual import Labelled, ResNet, ZeroPadded
from tinynet import data, nn, optim
from tinynet.gradcheck import gradcheck

pytest.importorskip("matplotlib")
NAMES = ["plain-8", "plain-14", "residual-8", "residual-14"]


@pytest.fixture
def few_windows(monkeypatch):
    """Twelve small pictures of three classes in place of some thousand windows."""
    def generated(split):
        rng = np.random.default_rng(split == "val")
        return Labelled(rng.random((12, 12, 10, 3), dtype=np.float32), np.arange(12) % 3, ("a", "b", "c"))

    monkeypatch.setattr(residual, "generated", generated)


def run(out, *options):
    residual.main(["--depths", "8", "14", "--width", "2", "--epochs", "2", "--batch-size", "5",
                   "--out", str(out), *options])
    return {name: tn.load(out / name / "checkpoint.safetensors") for name in NAMES}


def plain_and_residual(**options):
    models = []
    for is_residual in (False, True):
        tn.manual_seed(0)
        models.append(ResNet(3, 14, is_residual, width=4, **options))
    return models


@pytest.mark.parametrize("depth, thousands", [(20, 270), (32, 460), (44, 660), (56, 850)])
def test_parameters_are_those_of_the_papers_table_6(depth, thousands):
    count = sum(p.size for p in ResNet(10, depth).parameters())
    assert round(count / 10000) * 10 == thousands


@pytest.mark.parametrize("depth", [2, 7, 9, 21, 0, -4])
def test_a_depth_that_is_not_6n_plus_2_is_refused(depth):
    with pytest.raises(ValueError, match=f"depth is {depth}, but must be 6 n \\+ 2"):
        ResNet(10, depth)


@pytest.mark.parametrize("is_residual", [False, True])
@pytest.mark.parametrize("size", [(32, 32), (7, 9), (1, 1)])
def test_images_of_any_size(is_residual, size):
    model = ResNet(5, 8, is_residual, in_channels=1, width=4).eval()
    assert model(tn.Tensor(np.zeros((2, *size, 1), np.float32))).shape == (2, 5)


def test_there_are_depth_layers_with_the_papers_strides():
    weighted = [m for m in ResNet(10, 20).modules() if isinstance(m, (nn.Conv2d, nn.Dense))]
    assert len(weighted) == 20
    assert [i for i, m in enumerate(weighted[:-1]) if m.stride == 2] == [7, 13]
    assert [m.out_channels for m in weighted[:-1]] == [16] * 7 + [32] * 6 + [64] * 6
    assert all(m.bias is None for m in weighted[:-1])


def test_plain_and_residual_have_the_same_layers_and_first_weights():
    plain, with_additions = (list(model.parameters()) for model in plain_and_residual())
    assert len(plain) == len(with_additions)
    assert all(np.array_equal(a.data, b.data) for a, b in zip(plain, with_additions, strict=True))


def test_blocks_that_say_nothing_hand_on_their_input_or_nothing():
    plain, with_additions = plain_and_residual()
    x = tn.Tensor(np.random.default_rng(0).random((2, 8, 8, 3), dtype=np.float32))
    for model in (plain, with_additions):
        for part in model.blocks:
            body = part.body if isinstance(part, nn.Residual) else part
            body[-1].weight.data[:] = 0  # the last normalisation gives zeros
        model.eval()
    np.testing.assert_array_equal(plain(x).data, np.zeros((2, 3)))
    handed_on = with_additions.first(x).data[:, ::4, ::4].mean((1, 2))  # 4 of 16; the others are zeros
    expected = handed_on @ with_additions.score.weight.data[:4]
    np.testing.assert_allclose(with_additions(x).data, expected, rtol=1e-5)


def test_the_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    x = np.arange(2 * 5 * 4 * 3, dtype=np.float64).reshape(2, 5, 4, 3)
    shortcut = ZeroPadded(2, 2)
    y = shortcut(tn.Tensor(x)).data
    assert y.shape == (2, 3, 2, 5)
    np.testing.assert_array_equal(y[..., :3], x[:, [0, 2, 4]][:, :, [0, 2]])
    assert not y[..., 3:].any()
    gradcheck(shortcut, [tn.Tensor(x, requires_grad=True)])


@pytest.mark.parametrize("is_residual", [False, True])
def test_the_networks_gradient_is_right(is_residual):
    model = ResNet(3, 8, is_residual, width=2).astype(np.float64)
    rng = np.random.default_rng(1)
    x = tn.Tensor(rng.standard_normal((3, 6, 5, 3)), requires_grad=True)
    gradcheck(lambda x: tn.cross_entropy(model(x), np.array([0, 1, 2])), [x])


def test_the_learning_rate_rises_then_falls_after_half_and_three_quarters():
    schedule = residual.in_steps(0.1, 40)
    expected = [0.025, 0.05, 0.075] + [0.1] * 17 + [0.01] * 10 + [0.001] * 10
    np.testing.assert_allclose([schedule(step) for step in range(40)], expected)
    schedule = residual.in_steps(0.1, 4)
    np.testing.assert_allclose([schedule(step) for step in range(4)], [0.1, 0.1, 0.01, 0.001])


def test_windows_show_their_class_in_the_middle():
    scenes = data.Scenes(4, size=(64, 80))
    found = residual.windows(scenes)
    assert found.images.shape[1:] == (32, 32, 3) and found.images.dtype == np.float32
    assert set(found.labels) <= set(range(9)) and len(found) > 20
    at = 0
    for i in range(4):
        image, mask = scenes[i]
        for label in np.flatnonzero(np.isin(np.arange(9), mask)):
            if at < len(found) and found.labels[at] == label:
                assert any(np.array_equal(image[r : r + 32, c : c + 32], found.images[at])
                           and (mask[r + 15 : r + 17, c + 15 : c + 17] == label).all()
                           for r in range(33) for c in range(49))
                at += 1
    assert at == len(found)


def test_shifted_moves_by_four_pixels_at_most():
    image = np.zeros((9, 8, 3), np.float32)
    image[4, 4] = 1
    seen = set()
    for seed in range(300):
        moved, label = residual.shifted((image, 7), np.random.default_rng(seed))
        assert moved.shape == image.shape and moved.dtype == np.float32 and label == 7
        seen |= {tuple(place - 4) for place in np.argwhere(moved[..., 0] == 1)}
    assert {(-4, 3), (3, -4), (0, 0)} <= seen and max(abs(n) for place in seen for n in place) == 4


def test_photos_are_halved_by_means_of_2x2(monkeypatch):
    photo = np.random.default_rng(0).random((64, 64, 3), dtype=np.float32)
    dataset = type("Reader", (list,), {"classes": ("lemon",)})([(photo, np.zeros(4, np.float32), 0)])
    monkeypatch.setattr(data, "TinyImageNet", lambda folder, split: dataset)
    images = residual.photos("train", "folder").images
    assert images.shape == (1, 32, 32, 3) and images.dtype == np.float32
    np.testing.assert_allclose(images[0, 3, 5], photo[6:8, 10:12].mean((0, 1)), rtol=1e-6)


def test_one_and_two_threads_train_to_the_same_bits():
    states = []
    for threads in (1, 2):
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip("this machine has one core")
        numba.set_num_threads(threads)
        tn.manual_seed(0)
        model = ResNet(3, 8, width=8)
        optimizer = optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
        rng = np.random.default_rng(0)
        for _ in range(3):
            optimizer.zero_grad()
            batch = rng.random((6, 17, 20, 3), dtype=np.float32), np.arange(6) % 3
            residual.loss_fn(model, batch).backward()
            optimizer.step()
        states.append(model.state_dict())
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])


def test_stopped_and_resumed_is_bit_identical(few_windows, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    step, calls = optim.SGD.step, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 12:  # each network takes 4 steps: the last step of the third network
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(optim.SGD, "step", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    assert not (tmp_path / "parts/residual-14").exists()
    monkeypatch.setattr(optim.SGD, "step", lambda self: calls.append(1) or step(self))
    calls.clear()
    parts = run(tmp_path / "parts", "--resume")
    assert len(calls) == 2 + 4  # the rest of the third network, and the fourth
    for name in NAMES:
        assert whole[name].keys() == parts[name].keys()
        assert all(np.array_equal(whole[name][key], parts[name][key]) for key in whole[name])
        assert (tmp_path / "whole" / name / "metrics.csv").read_bytes() == \
            (tmp_path / "parts" / name / "metrics.csv").read_bytes()


def test_the_command_leaves_figures_and_pictures(few_windows, tmp_path, capsys):
    run(tmp_path)
    printed = capsys.readouterr().out
    for picture in ("curves.png", "gradients.png"):
        assert (tmp_path / picture).read_bytes().startswith(b"\x89PNG")
        assert str(tmp_path / picture) in printed
    page = (tmp_path / "report.html").read_text()
    assert all(f"({name}) after epoch 2" in page and f"confusion matrix ({name})" in page for name in NAMES)
    results = list(csv.DictReader(open(tmp_path / "results.csv")))
    assert [row["network"] for row in results] == NAMES
    rows = list(csv.DictReader(open(tmp_path / "plain-14/metrics.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(results[1]["val_error"]) == float(rows[-1]["val_error"])
    assert "plain: with 14 layers the training loss is" in printed and "not looking" in printed
    capsys.readouterr()
    residual.main(["--evaluate", str(tmp_path / "plain-14/checkpoint.safetensors")])
    expected = f"loss {float(rows[-1]['val_loss']):.3f}, accuracy {1 - float(rows[-1]['val_error']):.1%}"
    printed = capsys.readouterr().out
    assert printed.startswith("plain-14 (") and expected in printed


def test_gradients_before_training_are_those_of_the_loss(few_windows):
    options = residual.parse(["--depths", "8", "--width", "2", "--batch-size", "5"])
    dataset = residual.load("train", None)
    norms = residual.first_gradients(residual.make(options, 8, True, dataset), dataset, options)
    model = residual.make(options, 8, True, dataset)
    images, labels = next(iter(residual.loader(dataset, options).batches(1)))
    tn.cross_entropy(residual.scores(model, images), labels).backward()
    assert len(norms) == 7
    np.testing.assert_allclose(norms[0], np.linalg.norm(model.first[0].weight.grad.data), rtol=1e-5)
    last = model.blocks[-1].body[3].weight.grad.data
    np.testing.assert_allclose(norms[-1], np.linalg.norm(last), rtol=1e-5)


@pytest.mark.parametrize("options, sentence", [
    (["--data", "nowhere"], "TinyImageNet: there is no folder nowhere"),
    (["--depths", "8", "10"], "depth is 10, but must be 6 n"),
    (["--width", "0"], "out_channels is 0"),
    (["--epochs", "0"], "--epochs is 0; give a whole number from 1 up"),
    (["--split", "test"], "generated scenes have the splits train and val"),
    (["--evaluate", "nothing.safetensors"], "nothing.safetensors"),
    (["--out", "/dev/null/x"], "cannot write in the folder"),
    (["--resume", "--batch-size", "2"], "no .*plain-8.checkpoint.safetensors to resume from"),
])
def test_what_does_not_fit_ends_in_a_sentence(options, sentence, few_windows, tmp_path, monkeypatch):
    if "--split" in options:
        monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        residual.main(options)


def test_a_checkpoint_of_other_classes_is_refused(few_windows, tmp_path, monkeypatch):
    run(tmp_path)
    checkpoint = str(tmp_path / "plain-8/checkpoint.safetensors")
    monkeypatch.setattr(residual, "generated", lambda split: Labelled([np.zeros((8, 8, 3))], [0], ["other"]))
    with pytest.raises(SystemExit, match="it holds a ResNet for the classes \\['a', 'b', 'c'\\]"):
        residual.main(["--evaluate", checkpoint])
