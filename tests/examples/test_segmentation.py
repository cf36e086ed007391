"""The FCN and its command: sizes, what the skips are, the same bits for any threads and after a stop, and the files."""

import csv

import numba
import numpy as np
import pytest

import tinynet as tn
from examples import segmentation
from examples.segmentation import FCN
from tinynet import data, optim

pytest.importorskip("matplotlib")


@pytest.fixture
def few_scenes(monkeypatch):
    """A handful of small scenes in place of a thousand."""
    monkeypatch.setattr(segmentation, "generated", lambda split: data.Scenes(6, size=(32, 40), seed=split == "val"))


def run(out, *options):
    segmentation.main(["--epochs", "2", "--batch-size", "2", "--widths", "4", "8", "8", "--out", str(out), *options])
    return tn.load(out / "checkpoint.safetensors")


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("size", [(8, 8), (15, 22), (9, 31)])
def test_output_has_the_inputs_size(size):
    model = FCN(5, widths=(4, 8, 8))
    model.eval()
    assert model(np.zeros((2, *size, 3), np.float32)).shape == (2, *size, 5)


def test_without_skips_only_the_additions_are_gone():
    models = []
    for skips in (True, False):
        tn.manual_seed(0)
        models.append(FCN(3, widths=(4, 8), skips=skips))
    with_skips, without = models
    assert same_bits(with_skips.state_dict(), without.state_dict())
    for model in models:
        model.down[0][4].weight.data[:] = 0  # its last normalisation gives zeros: the skip adds nothing
        model.down[0][4].bias.data[:] = 0
        model.eval()
    x = np.random.default_rng(0).random((1, 8, 8, 3), dtype=np.float32)
    np.testing.assert_array_equal(with_skips(x).numpy(), without(x).numpy())
    for model in models:
        model.down[0][4].bias.data[:] = 1
    assert not np.allclose(with_skips(x).numpy(), without(x).numpy())


def test_one_and_two_threads_train_to_the_same_bits():
    states = []
    for threads in (1, 2):
        if threads > numba.config.NUMBA_NUM_THREADS:
            pytest.skip("this machine has one core")
        numba.set_num_threads(threads)
        tn.manual_seed(0)
        model = FCN(9, widths=(8, 16, 16))
        optimizer = optim.AdamW(model.parameters(), lr=1e-2)
        for images, masks in data.DataLoader(data.Scenes(6, size=(33, 40)), 2):
            optimizer.zero_grad()
            tn.cross_entropy(model(tn.Tensor(images)), masks).backward()
            optimizer.step()
        states.append(model.state_dict())
    assert same_bits(*states)


def test_stopped_and_resumed_is_bit_identical(few_scenes, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole")
    step, calls = segmentation.tn.cross_entropy, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return step(*args, **kwargs)

    monkeypatch.setattr(segmentation.tn, "cross_entropy", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts")
    monkeypatch.setattr(segmentation.tn, "cross_entropy", step)
    assert same_bits(whole, run(tmp_path / "parts", "--resume"))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_the_command_leaves_figures_and_pictures(few_scenes, tmp_path, capsys):
    run(tmp_path, "--no-skips")
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert 0 <= float(rows[-1]["mean_iou"]) <= 1
    assert (tmp_path / "scenes.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "likeliest class after epoch 2" in page and "mean IoU by epoch" in page and "confusion matrix" in page
    printed = capsys.readouterr().out
    assert "mean IoU" in printed and str(tmp_path / "scenes.png") in printed
    segmentation.main(["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")])
    assert f"mean IoU {float(rows[-1]['mean_iou']):.3f}" in capsys.readouterr().out
    assert (tmp_path / "again/val.png").exists()


def test_class_weights_are_median_frequency():
    masks = [np.array([[0, 0], [0, 1]]), np.array([[0, 0], [0, 0]])]

    class Two:
        classes = ("a", "b", "never")

        def __len__(self):
            return 2

        def __getitem__(self, i):
            return None, masks[i]

    # a has 7 of 8 pixels, b 1 of the 4 pixels of the image that has it; their median is 9/16
    np.testing.assert_allclose(segmentation.class_weights(Two(), 1), [9 / 14, 9 / 4, 1])
    np.testing.assert_allclose(segmentation.class_weights(Two(), 0), 1)


@pytest.mark.parametrize("options, sentence", [
    (["--data", "nowhere"], "CamVid: there is no folder nowhere"),
    (["--split", "test"], "generated scenes have the splits train and val"),
    (["--evaluate", "nothing.safetensors"], "nothing.safetensors"),
    (["--out", "/dev/null/x"], "cannot write in the folder"),
    (["--resume", "--batch-size", "2"], "no .*checkpoint.safetensors to resume from"),
])
def test_what_does_not_fit_ends_in_a_sentence(options, sentence, few_scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--split" in options:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        segmentation.main(options)


def test_a_checkpoint_of_other_classes_is_refused(few_scenes, tmp_path, monkeypatch):
    run(tmp_path)
    monkeypatch.setattr(data.Scenes, "classes", ("only", "these"))
    with pytest.raises(SystemExit, match="it holds a FCN for the classes"):
        segmentation.main(["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path / "again")])


def test_compare_trains_both_and_goes_on_where_it_was(few_scenes, tmp_path, capsys):
    options = ["--epochs", "1", "--batch-size", "2", "--widths", "4", "8", "8", "--compare", "--out", str(tmp_path)]
    segmentation.main(options)
    printed = capsys.readouterr().out
    assert "FCN without skips" in printed and "FCN with skips" in printed and "within 3 px of a border" in printed
    assert (tmp_path / "compare.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert all(f"({name}) after epoch 1" in page for name in ("without skips", "with skips"))
    segmentation.main([*options, "--resume"])  # both are done: only the comparison is made again
    assert capsys.readouterr().out.endswith(printed[printed.index("\nwithout skips:"):])
    checkpoints = [str(tmp_path / name / "checkpoint.safetensors") for name in ("without-skips", "with-skips")]
    segmentation.main(["--evaluate", *checkpoints, "--out", str(tmp_path)])
    assert capsys.readouterr().out == printed[printed.index("\nwithout skips:"):].replace("compare.png", "val.png")


@pytest.mark.parametrize("loss", ["bce", "dice"])
def test_foreground_is_found_and_cut_out(loss, few_scenes, tmp_path, capsys):
    run(tmp_path, "--foreground", "Sky, building", "--loss", loss)
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    assert list(rows[0])[4:] == ["iou", "precision", "recall"]
    printed = capsys.readouterr().out
    assert "sky+building" in printed and (tmp_path / "scenes.png").exists()
    segmentation.main(["--evaluate", str(tmp_path / "checkpoint.safetensors"), "--out", str(tmp_path)])
    assert capsys.readouterr().out.splitlines()[-2] == printed.splitlines()[-2]


def test_foreground_masks_keep_void():
    class Two:
        classes, palette, ignore_index = ("sky", "car"), np.zeros((2, 3)), 11

        def __getitem__(self, i):
            return "image", np.array([[0, 1, 11]])

    dataset = segmentation.Foreground(Two(), "Car")
    assert dataset.classes == ("rest", "car")
    np.testing.assert_array_equal(dataset[0][1], [[0, 1, 11]])
    with pytest.raises(ValueError, match="no class 'cow'; classes are sky, car"):
        segmentation.Foreground(Two(), "car,cow")


def test_losses_of_the_foreground_leave_void_out(monkeypatch):
    monkeypatch.setattr(segmentation, "class_weights", lambda dataset, balance: np.array([1, 2], np.float32))
    logits = tn.Tensor(np.linspace(-2, 2, 6).reshape(1, 2, 3, 1))
    masks = np.array([[[0, 1, 1], [11, 0, 11]]], np.uint8)
    x, t = logits.numpy().reshape(2, 3)[masks[0] != 11], masks[0][masks[0] != 11]
    p = 1 / (1 + np.exp(-x))
    expected = {"bce": -np.mean(2 * t * np.log(p) + (1 - t) * np.log(1 - p)),
                "dice": 1 - (2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)}

    class Void:
        ignore_index = 11

    for name, value in expected.items():
        options = segmentation.parse(["--foreground", "car", "--loss", name])
        assert segmentation.loss_function(Void, options)(logits, masks).item() == pytest.approx(value, rel=1e-5)


def test_border_band_is_what_lies_near_another_class():
    mask = np.zeros((9, 12), np.uint8)
    mask[:, 7:] = 3
    mask[0, 0] = 11
    expected = np.array([[any(mask[a, b] != mask[i, j] for a in range(max(0, i - 2), min(9, i + 3))
                              for b in range(max(0, j - 2), min(12, j + 3))) for j in range(12)] for i in range(9)])
    np.testing.assert_array_equal(segmentation.border_band(mask, 2), expected)
    assert not segmentation.border_band(np.ones((2, 2), np.uint8)).any()


def test_near_and_elsewhere_are_everything(few_scenes):
    tn.manual_seed(0)
    model = FCN(9, widths=(4, 8)).eval()
    parts = segmentation.evaluate(model, segmentation.generated("val"))
    assert parts["everywhere"].matrix.sum() == 6 * 32 * 40
    np.testing.assert_array_equal(parts["everywhere"].matrix, parts["border"].matrix + parts["elsewhere"].matrix)


@pytest.mark.parametrize("options, sentence", [
    (["--compare", "--no-skips"], "--compare trains with skips and without"),
    (["--loss", "dice"], "name its classes with --foreground"),
    (["--evaluate", "a", "b", "c"], "3 checkpoints"),
])
def test_options_that_contradict_are_refused(options, sentence, capsys):
    with pytest.raises(SystemExit):
        segmentation.main(options)
    assert sentence in capsys.readouterr().err
