"""CAE: a convolutional autoencoder squeezes images into a few numbers, the code, and paints them from it.

    python -m examples.autoencoder                              learns generated scenes, in a minute or two
    python -m examples.autoencoder --data mnist --code 32       learns digits (folder with MNIST's IDX files)
    python -m examples.autoencoder --data mnist --noise 0.5     learns to clean noisy digits
    python -m examples.autoencoder --data tiny-imagenet         learns photos (in Tiny ImageNet's layout)
    python -m examples.autoencoder --evaluate out/autoencoder/best.safetensors --data mnist --split val

On the way down, convolutions and pooling find ever larger features at ever fewer places, until a handful of
numbers is left. On the way up, transposed convolutions turn these into an image again. Nobody says what the
numbers should mean: the one aim is that the image come back, so they have to hold what images differ in.

    image  28x28                                              28x28  output: is it the image?
             | block 1                                          | 3x3 convolution
           14x14                                              14x14
             | pool, block 2                                    | transposed convolution, stride 2
            7x7                                                7x7
             | pool, block 3                                    | transposed convolution, stride 2
             +--> dense layers --> code: 32 numbers --> dense layers

A code can also be a small map of features (`--code 16x16x8`), each of whose numbers knows its own part of the
image: without the dense layers that keeps more of a large image. Beside the network stands PCA, the best that
as many numbers can do with nothing but a matrix. With `--noise` the input is noisy and the aim is the clean
image: what doesn't fit through the code is lost, and noise fits least of all.

Hinton and Salakhutdinov, Reducing the dimensionality of data with neural networks, Science 313, 2006;
Masci et al., Stacked convolutional auto-encoders, ICANN 2011;
Vincent et al., Extracting and composing robust features with denoising autoencoders, ICML 2008.
"""

import argparse
import math
import sys
from pathlib import Path

import numpy as np

import tinynet as tn
from examples.record import Record, about
from tinynet import data, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description
from tinynet.data.augmentation import resize_nearest
from tinynet.interop import mpi

# The network


class CAE(nn.Module):
    """An image squeezed into a code and painted again: images (N, H, W, channels) to the same, in [0, 1].

    size: (H, W), any from 2**(len(widths) - 1) up, odd ones too.
    code: how many numbers the code has, made by dense layers; or its shape (h, w, c) as a map of features.
    widths: the channels of the blocks, from the image's size down, each at half the size of the one before.
    hidden: the features of the dense layer on either side of a code without places.

    Raises ValueError for an image too small for so many halvings, and a map that doesn't fit them.
    """

    def __init__(self, size, channels=1, code=32, widths=(16, 32, 64), hidden=256):
        self.code = code
        self.sizes = [tuple(n >> halvings for n in size) for halvings in range(len(widths))]
        bottom = self.bottom = (*self.sizes[-1], widths[-1])
        check_sizes(size, code, bottom, len(widths) - 1)
        self.down = [nn.Sequential(*convolution(c_in, c_out))
                     for c_in, c_out in zip((channels, *widths[:-1]), widths, strict=True)]
        self.pool = nn.MaxPool2d(2)
        if isinstance(code, int):
            features = math.prod(bottom)
            self.to_code = nn.Sequential(nn.Flatten(), nn.Dense(features, hidden, bias=False),
                                         nn.BatchNorm2d(hidden), nn.ReLU(), nn.Dense(hidden, code))
            self.from_code = nn.Sequential(nn.Dense(code, hidden, bias=False),
                                           nn.BatchNorm2d(hidden), nn.ReLU(),
                                           nn.Dense(hidden, features, bias=False))
        else:
            self.to_code = nn.Conv2d(widths[-1], code[-1], 1)
            self.from_code = nn.Conv2d(code[-1], widths[-1], 1, bias=False)
        self.first = nn.Sequential(nn.BatchNorm2d(widths[-1]), nn.ReLU())
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1, bias=False)
                   for c_in, c_out in upwards]
        self.refine = [nn.Sequential(nn.BatchNorm2d(c_out), nn.ReLU()) for _, c_out in upwards]
        self.paint = nn.Sequential(nn.Conv2d(widths[0], channels, 3, padding=1), nn.Sigmoid())

    def forward(self, x):
        return self.decode(self.encode(x))

    def encode(self, x):
        """Images (N, H, W, channels) to codes (N, code) or (N, h, w, c)."""
        x = self.down[0](x)
        for block in self.down[1:]:
            x = block(self.pool(x))
        return self.to_code(x)

    def decode(self, code):
        """Codes to images."""
        x = self.first(self.from_code(code).reshape((-1, *self.bottom)))
        for up, refine, size in zip(self.up, self.refine, self.sizes[-2::-1], strict=True):
            x = refine(up(x, output_size=size))
        return self.paint(x)


def convolution(c_in, c_out):
    """3x3 convolution, batch normalisation (which makes a bias pointless), ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


def check_sizes(size, code, bottom, halvings):
    """Does the image bear so many halvings, and does the code fit what they leave?"""
    height, width, _ = bottom
    if min(height, width) < 1:
        raise ValueError(f"CAE: an image of {size[0]}x{size[1]} cannot be halved {halvings} times; "
                         "give fewer widths, or larger images")
    if not isinstance(code, int) and tuple(code[:2]) != (height, width):
        raise ValueError(f"CAE: the code is a map of {code[0]}x{code[1]}, but {halvings} halvings make "
                         f"{size[0]}x{size[1]} into {height}x{width}; give {height}x{width}x{code[2]}, "
                         "or another number of widths")


def reconstruct(model, images):
    """What comes out for the images (N, H, W, C), an array of the same shape."""
    with tn.no_grad():
        return model(tn.Tensor(images)).data


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"code": (16, 16, 8), "widths": (16, 32, 64), "epochs": 30, "batch_size": 8, "lr": 3e-3}
DIGITS = {"code": 32, "widths": (16, 32, 64), "epochs": 8, "batch_size": 100, "lr": 3e-3}
PHOTOS = {"code": (16, 16, 8), "widths": (16, 32, 64), "epochs": 12, "batch_size": 8, "lr": 3e-3}


def kind(folder):
    """The settings for what the folder holds, told by its files; for generated scenes without a folder."""
    if not folder:
        return SCENES
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"--data {folder}: there is no such folder")
    if any(Path(folder).glob("*-images-idx3-ubyte*")):
        return DIGITS
    if (Path(folder) / "wnids.txt").is_file():
        return PHOTOS
    raise FileNotFoundError(f"--data {folder}: it holds neither MNIST's train-images-idx3-ubyte.gz nor Tiny "
                            "ImageNet's wnids.txt; give the folder that does")


def load(split, folder):
    """The images of a split: of the folder, or generated ones if there is none."""
    settings = kind(folder)
    if settings is SCENES:
        return generated(split)
    return data.MNIST(folder, split) if settings is DIGITS else data.TinyImageNet(folder, split, cache=True)


def generated(split):
    """Drawn street scenes; those of "val" are none of those of "train"."""
    count, seed = {"train": (1000, 0), "val": (100, 1)}.get(split, (0, 0))
    if not count:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return data.Scenes(count, size=(64, 64), seed=seed, cache=True)


class Pairs:
    """The images of a dataset, each as (input, aim): the image twice, or first with noise on it.

    input = clip(image + noise n, 0, 1) with n ~ N(0, 1) for each value, from the sample's own generator:
    so it is another in each epoch, and the same for any number of workers.
    """

    def __init__(self, dataset, noise=0.0):
        if not 0 <= noise < math.inf:
            raise ValueError(f"--noise {noise}: it is a deviation; give a number from 0 (none) up")
        self.dataset, self.noise = dataset, noise

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        return self.sample(index, np.random.default_rng(index))

    def sample(self, index, rng):
        image = self.dataset[index][0]
        if not self.noise:
            return image, image
        return np.clip(image + self.noise * rng.standard_normal(image.shape, np.float32), 0, 1), image

    def few(self, count):
        """Inputs and aims of `count` pairs from all over the dataset, as two arrays (count, H, W, C)."""
        chosen = np.linspace(0, len(self) - 1, count).round().astype(int)
        return tuple(np.stack(parts) for parts in zip(*(self[int(i)] for i in chosen), strict=True))


# Training


def train(options):
    """Train as the options say; prints the figures and draws what the trained network does."""
    training.make_folder(options.out)
    train_set, val_set = load("train", options.data), load(options.split, options.data)
    pairs, held_back = Pairs(train_set, options.noise), Pairs(val_set, options.noise)
    tn.manual_seed(options.seed)
    *size, channels = train_set[0][0].shape
    config = {"size": size, "channels": channels, "code": options.code, "widths": options.widths,
              "hidden": options.hidden}
    model = CAE(**config)
    loader = data.DataLoader(pairs, options.batch_size, shuffle=True, seed=options.seed,
                             workers=options.workers, drop_last=True)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr)
    print(f"CAE with {values(options.code)} for {size[0]}x{size[1]}x{channels}, "
          f"{sum(p.size for p in model.parameters()):,} parameters; {len(train_set)} training images")

    def loss_fn(model, batch):
        noisy, clean = batch
        return tn.mse_loss(model(tn.Tensor(noisy)), clean)

    noisy, clean = held_back.few(6)
    record = Record(options.out, options, model, loader, loss_fn, resume=options.resume,
                    given={"noisy input": noisy, "clean original": clean} if options.noise else {"original": clean},
                    show=lambda model: reconstruct(model, noisy),
                    shown=f"the output, the image out of its {values(options.code)}")

    training.fit(
        model, optimizer, loader, loss_fn,
        epochs=options.epochs,
        out=options.out,
        schedule=optim.OneCycleLR(options.lr, options.epochs * len(loader)),
        evaluate=lambda model: figures(mean_squared_error(model, held_back)),
        follow=("mse", min),
        after_epoch=record,
        resume=options.resume,
        config={**config, "noise": options.noise, "seed": options.seed, "batch_size": options.batch_size,
                "lr": options.lr, "epochs": options.epochs},
    )
    if training.is_first():
        report(model, train_set, held_back, Path(options.out))


def values(code):
    """A code in words."""
    return f"{code} code values" if isinstance(code, int) else f"{'x'.join(map(str, code))} code values"


# Evaluation


class PCA:
    """The best autoencoder that is linear: the mean image, plus the k directions in which images differ most.

    code = (x - mean) V,  output = clip(mean + code V^T, 0, 1)

    V (values, k): the first right singular vectors of the centred training images X (n, values); they are
    the eigenvectors of X^T X, or X^T times those of X X^T, from whichever of the two is smaller. Fitted on at
    most 50 million values: all of MNIST's training images, some 4,000 of 64x64 in colour. The clipping makes
    its error a little less than is usually quoted. n images differ in n - 1 directions only; k is at most that.
    """

    MOST = 50_000_000

    def __init__(self, dataset, k):
        shape = dataset[0][0].shape
        self.count = min(len(dataset), self.MOST // math.prod(shape))
        self.k = k = min(k, self.count - 1, math.prod(shape))
        chosen = np.linspace(0, len(dataset) - 1, self.count).round().astype(int)
        x = np.stack([dataset[int(i)][0].ravel() for i in chosen])
        self.mean = x.mean(0)
        x -= self.mean
        wide = len(x) < x.shape[1]
        _, vectors = np.linalg.eigh((x @ x.T if wide else x.T @ x).astype(np.float64))
        vectors = vectors[:, : -k - 1 : -1].astype(np.float32)  # those of the largest eigenvalues come last
        self.directions = np.linalg.qr(x.T @ vectors)[0] if wide else vectors  # (values, k)

    def __call__(self, images):
        code = (images.reshape(len(images), -1) - self.mean) @ self.directions
        return np.clip(self.mean + code @ self.directions.T, 0, 1).reshape(images.shape)


def mean_squared_error(model, pairs):
    """The mean of (output - aim)^2 over all values of all images."""
    total = count = 0
    for noisy, clean in data.DataLoader(pairs, batch_size=100):
        total += np.square(outputs(model, noisy).astype(np.float64) - clean).sum()
        count += clean.size
    return float(total / count)


def outputs(model, images):
    """Of a network or of any function of images."""
    return reconstruct(model, images) if isinstance(model, nn.Module) else model(images)


def figures(mse):
    """The error and the peak signal-to-noise ratio in decibels, of images in [0, 1]."""
    return {"mse": mse, "psnr": -10 * math.log10(mse) if mse else math.inf}


def report(model, train_set, pairs, out):
    """Print the model's figures beside those of simpler ways with as many numbers, and draw what it does."""
    model.eval()
    k = model.code if isinstance(model.code, int) else math.prod(model.code)
    pca = PCA(train_set, k)
    ways = {"noisy image": lambda images: images} if pairs.noise else {}
    ways |= {
        "mean image": lambda images: np.broadcast_to(pca.mean.reshape(images.shape[1:]), images.shape),
        f"PCA, {pca.k} values": pca,
        f"CAE, {k} values": model,
    }
    errors = {name: mean_squared_error(way, pairs) for name, way in ways.items()}
    images = f"{len(pairs)} images of {math.prod(train_set[0][0].shape):,} values"
    print(f"\n{images} (PCA fitted on {pca.count} training images)\n{'':16}      MSE      PSNR")
    for name, error in errors.items():
        print(f"{name:16}  {error:7.5f}  {figures(error)['psnr']:5.2f} dB")
    drawn = {name: ways[name] for name in list(ways)[-2:]}
    draw_outputs(out / "reconstructions.png", pairs, drawn, errors)
    draw_walk(out / "walk.png", model, pairs)
    draw_filters(out / "filters.png", model, pairs)
    print(f"pictures: {out / 'reconstructions.png'}, {out / 'walk.png'}, {out / 'filters.png'}")


def restore(path, dataset):
    """The model of a checkpoint, which must be for images like the data set's, and the noise it knows."""
    description = read_description(path)
    config = description["config"]
    shape = [*config.get("size", ()), config.get("channels")]
    if description["model"] != "CAE" or shape != list(dataset[0][0].shape):
        raise ValueError(f"--evaluate {path}: it holds a {description['model']} for images {shape}, "
                         f"but the data's are {list(dataset[0][0].shape)} (height, width, channels)")
    model = CAE(*(config[name] for name in ("size", "channels", "code", "widths", "hidden")))
    load_checkpoint(path, model)
    return model, config["noise"]


# Pictures


def draw_outputs(path, pairs, models, errors=None, columns=10):
    """Images from all over the data, below them what each model makes of them; with noise also the aim."""
    noisy, clean = pairs.few(columns)
    rows = {"noisy input": noisy} if pairs.noise else {"original": clean}
    for name, model in models.items():
        rows[name + (f"\nMSE {errors[name]:.4f}" if errors else "")] = outputs(model, noisy)
    if pairs.noise:
        rows["clean original"] = clean
    draw_rows(path, list(rows.items()))


def draw_walk(path, model, pairs, walks=3, steps=9):
    """From one image to another in equal steps: of the code, decoded; and of the pixels."""
    _, images = pairs.few(2 * walks)
    share = np.linspace(0, 1, steps, dtype=np.float32)
    rows = []
    for start, end in zip(images[:walks], images[walks:], strict=True):
        ends = np.stack([start, end])
        with tn.no_grad():
            codes = model.encode(tn.Tensor(ends)).data
            decoded = model.decode(tn.Tensor(between(codes, share))).data
        rows.append(("walk through\nthe code", np.concatenate([ends[:1], decoded, ends[1:]])))
        rows.append(("cross-fade\nof pixels", np.concatenate([ends[:1], between(ends, share), ends[1:]])))
    percent = [f"{s:.0%}" for s in share[1:-1]]
    draw_rows(path, rows, ["original A", "A again", *percent, "B again", "original B"])


def between(ends, share):
    """(1 - s) ends[0] + s ends[1] for each s of share."""
    share = share.reshape(-1, *[1] * (ends.ndim - 1))
    return (1 - share) * ends[0] + share * ends[1]


def draw_filters(path, model, pairs, columns=8):
    """The filters of the first layer, and below each what its block answers to one image."""
    image = pairs.few(2)[0][:1]
    with tn.no_grad():
        answers = model.down[0](tn.Tensor(image)).data[0]  # (H, W, filters)
    answers = answers / np.maximum(answers.max((0, 1)), 1e-6)
    weight = model.down[0][0].weight.numpy()  # (3, 3, channels, filters)
    weight = weight / np.abs(weight).max((0, 1, 2))
    filters = resize_nearest(0.5 + weight / 2, image.shape[1:3])
    rows = [("an image", image)]
    for first in range(0, filters.shape[-1], columns):
        some = slice(first, first + columns)
        rows.append(("3x3 filters\n(grey is 0)", filters[..., some].transpose(3, 0, 1, 2)))
        rows.append(("where they\nanswer", answers[..., some].transpose(2, 0, 1)[..., None]))
    draw_rows(path, rows, columns=columns)


def draw_rows(path, rows, titles=(), columns=None):
    """A row of images for each (name, images (n, H, W, C)), its name on the left."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    height, width = rows[0][1].shape[1:3]
    columns, gap = columns or len(rows[0][1]), max(1, width // 12)
    inches = 1.2 * columns + 1.3, (1.2 * height / width + 0.1) * len(rows) + 0.3
    figure = Figure(inches, layout="constrained")
    axes = figure.subplots(len(rows), 1, squeeze=False)[:, 0]
    for ax, (name, images) in zip(axes, rows, strict=True):
        ax.imshow(strip(images, columns, gap), interpolation="nearest")
        ax.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=11)
        ax.set(xticks=[], yticks=[])
        ax.spines[:].set_visible(False)
    if titles:
        axes[0].set_xticks([(width + gap) * i + width / 2 for i in range(columns)], titles, fontsize=10)
        axes[0].tick_params(length=0, top=True, labeltop=True, bottom=False, labelbottom=False)
    FigureCanvasAgg(figure).print_png(path)


def strip(images, columns, gap):
    """Images (n, H, W, C) side by side in colour, white between them and for those that are missing."""
    n, height, width, _ = images.shape
    row = np.ones((height, columns, width + gap, 3), np.float32)
    row[:, :n, :width] = images.transpose(1, 0, 2, 3)  # (H, n, W, C); grey fills all three colours
    return row.reshape(height, -1, 3)[:, :-gap]


# The command


def parse(arguments=None):
    first = __doc__.split("\n")[0]
    parser = argparse.ArgumentParser(prog="python -m examples.autoencoder", description=first)
    parser.add_argument("--data", metavar="DIR",
                        help="folder of MNIST's files, or in Tiny ImageNet's layout (default: scenes)")
    parser.add_argument("--code", type=code_shape, metavar="K", help="how many numbers, or a map such as 8x8x16")
    parser.add_argument("--noise", type=float, metavar="S", help="deviation of the noise (default: 0)")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks from the top down")
    parser.add_argument("--hidden", type=int, default=256,
                        help="features of the dense layer on either side of the code (default: %(default)s)")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="the highest learning rate")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1,
                        help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="out/autoencoder", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", help="only evaluate")
    parser.add_argument("--split", metavar="NAME", default="val",
                        help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.about = about(parser, arguments)
    return options


def code_shape(text):
    """32 as it is, 8x8x16 as a tuple."""
    sizes = tuple(int(size) if size.isdecimal() else 0 for size in text.split("x"))
    if len(sizes) not in (1, 3) or min(sizes) < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is neither a number such as 32 nor a map such as 8x8x16")
    return sizes if len(sizes) == 3 else sizes[0]


@mpi.group()  # under mpiexec, with others
def main(arguments=None):
    options = parse(arguments)
    try:
        if not options.evaluate:
            for name, value in {**kind(options.data), "noise": 0.0}.items():
                if getattr(options, name) is None:
                    setattr(options, name, value)
            train(options)
            return
        training.make_folder(options.out)
        dataset = load(options.split, options.data)
        model, noise = restore(options.evaluate, dataset)
        pairs = Pairs(dataset, noise if options.noise is None else options.noise)
        report(model, load("train", options.data), pairs, Path(options.out))
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
