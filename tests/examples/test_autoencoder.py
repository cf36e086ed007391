"""The CAE and its command: sizes, codes, gradients, PCA, noise, the same bits after a stop, the files."""

import csv
import gzip
import struct

import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder
from examples.autoencoder import CAE, PCA, Pairs
from tinynet import data

pytest.importorskip("matplotlib")


@pytest.fixture
def few_scenes(monkeypatch):
    """A handful of small scenes in place of thousands."""
    def generated(split):
        return data.Scenes(6, size=(16, 20), seed=split == "val")

    monkeypatch.setattr(autoencoder, "generated", generated)


@pytest.fixture
def digits(tmp_path):
    """Two dozen images of 9x8 pixels in MNIST's files."""
    folder = tmp_path / "digits"
    folder.mkdir()
    images = np.random.default_rng(0).integers(0, 256, (24, 9, 8), np.uint8)
    head = struct.pack(">4I", 2051, *images.shape)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(head + images.tobytes()))
    (folder / "train-labels-idx1-ubyte").write_bytes(struct.pack(">2I", 2049, 24) + bytes(24))
    return folder


@pytest.fixture
def no_pictures(monkeypatch):
    for name in ("draw_outputs", "draw_walk", "draw_filters"):
        monkeypatch.setattr(autoencoder, name, lambda *args: None)


def run(out, *options):
    """Train shortly; the weights at the end."""
    small = ["--batch-size", "2", "--widths", "4", "6", "--hidden", "8", "--code", "3"]
    autoencoder.main(["--epochs", "2", *small, "--out", str(out), *options])
    return tn.load(out / "checkpoint.safetensors")


def evaluate(out, *options):
    checkpoint = str(out / "checkpoint.safetensors")
    autoencoder.main(["--evaluate", checkpoint, "--out", str(out / "again"), *options])


def same_bits(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


def images(count, size, channels=3):
    return np.random.default_rng(0).random((count, *size, channels), dtype=np.float32)


@pytest.mark.parametrize("size", [(4, 4), (7, 9), (13, 6)])
@pytest.mark.parametrize("as_map", [False, True])
def test_any_size_comes_back_through_the_code(size, as_map):
    shape = (size[0] // 4, size[1] // 4, 2) if as_map else (5,)
    model = CAE(size, 3, shape if as_map else 5, widths=(4, 6, 8), hidden=7)
    x = tn.Tensor(images(3, size))
    code = model.encode(x)
    assert code.shape == (3, *shape)
    y = model.decode(code)
    assert y.shape == (3, *size, 3) and y.dtype == np.float32
    assert 0 <= y.numpy().min() and y.numpy().max() <= 1


@pytest.mark.parametrize("code", [3, (2, 2, 2)])
def test_gradients_are_the_slope_of_the_error(code):
    model = CAE((5, 4), 1, code, widths=(2, 3), hidden=4).astype(np.float64)
    x = tn.Tensor(images(3, (5, 4), 1).astype(np.float64))
    parameters = list(model.parameters())
    rng = np.random.default_rng(0)
    start = [p.data + 0.1 * rng.standard_normal(p.shape) for p in parameters]  # away from ReLU's kink at 0
    direction = [rng.standard_normal(p.shape) for p in parameters]

    def error(distance):
        for p, middle, along in zip(parameters, start, direction, strict=True):
            p.data[...] = middle + distance * along
        return tn.mse_loss(model(x), x)

    step = 1e-6
    slope = (error(step).item() - error(-step).item()) / (2 * step)
    error(0.0).backward()
    analytic = sum(np.sum(p.grad.numpy() * along) for p, along in zip(parameters, direction, strict=True))
    np.testing.assert_allclose(analytic, slope, rtol=1e-6)
    assert all(p.grad.numpy().any() for p in parameters)


def test_only_the_code_passes_from_one_half_to_the_other():
    model = CAE((8, 8), 1, 2, widths=(4, 8), hidden=8)
    model.eval()
    x = images(2, (8, 8), 1)
    whole, halves = model(tn.Tensor(x)), model.decode(tn.Tensor(model.encode(tn.Tensor(x)).numpy()))
    np.testing.assert_array_equal(whole.numpy(), halves.numpy())


@pytest.mark.parametrize("size, code, sentence", [
    ((3, 8), 4, "an image of 3x8 cannot be halved 2 times; give fewer widths"),
    ((16, 12), (4, 4, 2), "a map of 4x4, but 2 halvings make 16x12 into 4x3; give 4x3x2"),
])
def test_sizes_that_do_not_fit(size, code, sentence):
    with pytest.raises(ValueError, match=sentence):
        CAE(size, 1, code, widths=(4, 4, 4))


@pytest.mark.parametrize("count", [40, 8], ids=["more images than values", "fewer"])
def test_pca_is_the_best_linear_code(count):
    x = images(count, (3, 4), 1)
    pca = PCA([(image,) for image in x], k=3)
    flat = x.reshape(count, -1).astype(np.float64)
    u, s, v = np.linalg.svd(flat - flat.mean(0), full_matrices=False)
    best = np.clip(flat.mean(0) + (u[:, :3] * s[:3]) @ v[:3], 0, 1)
    output = pca(x)
    assert output.shape == x.shape and output.dtype == np.float32
    np.testing.assert_allclose(output.reshape(count, -1), best, atol=1e-5)


def test_the_error_is_the_mean_over_all_images():
    x = images(230, (4, 4), 1)  # three batches, the last a smaller one
    error = autoencoder.mean_squared_error(lambda images: 0 * images, Pairs([(image, 7) for image in x]))
    np.testing.assert_allclose(error, np.mean(x.astype(np.float64) ** 2), rtol=1e-12)
    assert autoencoder.figures(0.01) == {"mse": 0.01, "psnr": 20.0}


def test_noise_is_new_in_each_epoch_and_the_same_for_any_workers():
    pairs = Pairs([(np.full((4, 4, 1), 0.5, np.float32),)] * 6, noise=0.2)
    batches = {
        (workers, epoch): list(data.DataLoader(pairs, 2, shuffle=True, workers=workers).batches(epoch))
        for workers in (0, 2) for epoch in (1, 2)
    }
    for epoch in (1, 2):
        for (noisy, clean), (again, _) in zip(batches[0, epoch], batches[2, epoch], strict=True):
            np.testing.assert_array_equal(noisy, again)
            assert noisy.dtype == np.float32 and 0 <= noisy.min() and noisy.max() <= 1
            assert (clean == 0.5).all() and 0.05 < np.std(noisy) < 0.4
    assert not np.array_equal(batches[0, 1][0][0], batches[0, 2][0][0])
    np.testing.assert_array_equal(pairs[3][0], pairs[3][0])


def test_stopped_and_resumed_is_bit_identical(few_scenes, no_pictures, tmp_path, monkeypatch):
    whole = run(tmp_path / "whole", "--noise", "0.1")
    loss, calls = tn.mse_loss, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 5:  # in the second epoch
            raise KeyboardInterrupt
        return loss(*args, **kwargs)

    monkeypatch.setattr(autoencoder.tn, "mse_loss", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", "--noise", "0.1")
    monkeypatch.setattr(autoencoder.tn, "mse_loss", loss)
    assert same_bits(whole, run(tmp_path / "parts", "--noise", "0.1", "--resume"))
    assert (tmp_path / "whole/metrics.csv").read_bytes() == (tmp_path / "parts/metrics.csv").read_bytes()


def test_the_command_leaves_figures_and_pictures(few_scenes, tmp_path, capsys):
    run(tmp_path)
    rows = list(csv.DictReader(open(tmp_path / "metrics.csv")))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    for name in ("reconstructions", "walk", "filters"):
        assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    page = (tmp_path / "report.html").read_text()
    assert "3 code values after epoch 2" in page and "psnr by epoch" in page
    printed = capsys.readouterr().out
    line = f"CAE, 3 values     {float(rows[-1]['mse']):.5f}  {float(rows[-1]['psnr']):5.2f} dB"
    assert line in printed and "PCA, 3 values" in printed and "mean image" in printed
    assert str(tmp_path / "reconstructions.png") in printed
    evaluate(tmp_path)
    assert line in capsys.readouterr().out
    assert (tmp_path / "again/reconstructions.png").exists()


def test_a_map_as_code_and_noise_that_the_checkpoint_remembers(few_scenes, tmp_path, capsys):
    run(tmp_path, "--code", "8x10x2", "--noise", "0.3")
    assert "CAE, 160 values" in (printed := capsys.readouterr().out)
    evaluate(tmp_path)
    table = printed[printed.index("noisy image"):printed.index("pictures")]
    assert table in capsys.readouterr().out


def test_a_folder_is_recognised_by_its_files(digits, no_pictures, tmp_path, capsys):
    run(tmp_path / "out", "--data", str(digits))
    assert "CAE with 3 code values for 9x8x1" in capsys.readouterr().out
    assert autoencoder.kind(digits) is autoencoder.DIGITS and autoencoder.kind(None) is autoencoder.SCENES
    (tmp_path / "wnids.txt").write_text("n01443537\n")
    assert autoencoder.kind(tmp_path) is autoencoder.PHOTOS


@pytest.mark.parametrize("options, sentence", [
    (["--data", "nowhere"], "--data nowhere: there is no such folder"),
    (["--data", "."], r"--data \.: it holds neither MNIST's"),
    (["--split", "test"], "generated scenes have the splits train and val"),
    (["--noise", "-1"], "--noise -1.0: it is a deviation"),
    (["--evaluate", "nothing.safetensors"], "nothing.safetensors"),
    (["--out", "/dev/null/x"], "cannot write in the folder"),
    (["--resume", "--batch-size", "2", "--code", "2"], "no .*checkpoint.safetensors to resume from"),
    (["--code", "3x3x3"], "CAE: the code is a map of 3x3, but 2 halvings make 16x20 into 4x5"),
])
def test_what_does_not_fit_ends_in_a_sentence(options, sentence, few_scenes, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if "--split" in options:
        monkeypatch.undo()
        monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=sentence):
        autoencoder.main(options)


@pytest.mark.parametrize("text", ["0", "8x8", "axbxc", "8x0x2", "-3", ""])
def test_a_code_that_is_none(text, capsys):
    with pytest.raises(SystemExit):
        autoencoder.main([f"--code={text}"])
    assert f"{text!r} is neither a number such as 32 nor a map such as 8x8x16" in capsys.readouterr().err


def test_a_checkpoint_for_other_images_is_refused(few_scenes, digits, no_pictures, tmp_path):
    run(tmp_path / "out")
    with pytest.raises(SystemExit, match=r"a CAE for images \[16, 20, 3\], but the data's are \[9, 8, 1\]"):
        evaluate(tmp_path / "out", "--data", str(digits))
