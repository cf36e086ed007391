"""ResNet: deep networks can be worse than shallow ones, until each block's input is added to its output.

    python -m examples.residual                        learns windows of generated scenes, in 2 or 3 minutes
    python -m examples.residual --data tiny-imagenet   learns photos (Tiny ImageNet's layout), in an hour
    python -m examples.residual --evaluate out/residual/plain-32/checkpoint.safetensors

A deeper network could do all that a shallow one does: let its further layers hand on what they get. Trained
by gradient descent it doesn't: from some depth on, *plain* networks get worse even on the images that they
are trained on. So let every block of two convolutions learn only what is to be *added* to its input; handing
on is then learning zero:

    plain       x --> convolution --> ReLU --> convolution --> ReLU -->

    residual    x --> convolution --> ReLU --> convolution --(+)--> ReLU -->
                  |                                           |
                  '----------------- shortcut ----------------'

Each convolution is followed by batch normalisation. Where a block halves the size and doubles the channels,
its shortcut takes every second pixel and fills up with channels of zeros (the paper's option A, and not a 1x1
convolution, its option B). So shortcuts have no parameters: both networks have the same layers, even the same
first weights, and whatever differs comes from the additions alone.

Four networks are trained one after the other, plain and residual at two depths, from the same seed, with the
same images in the same order. All run the paper's recipe: momentum 0.9, weight decay 0.0001, the learning
rate divided by 10 after 1/2 and 3/4 of the steps; photos shifted by up to 4 pixels and mirrored. One thing is
added, for all four: the learning rate first rises.

He, Zhang, Ren, Sun, Deep residual learning for image recognition, CVPR 2016 (arXiv:1512.03385), section 4.2.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import tinynet as tn
from examples.record import Record, about, counts
from examples.sketch import enlarged, with_answers
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description
from tinynet.interop import mpi

# The network


class ResNet(nn.Module):
    """A score for each class: images (N, H, W, in_channels) to logits (N, num_classes); any H and W.

    depth = 6 n + 2: a convolution, three stages of n blocks of two convolutions each, and a dense layer. The
    stages have width, 2 width and 4 width channels, at full, half and quarter size.
    residual=False leaves out the additions, and nothing else: the layers and their parameters are the same.
    Raises ValueError for another depth.
    """

    def __init__(self, num_classes, depth, residual=True, in_channels=3, width=16):
        n = (depth - 2) // 6
        if n < 1 or depth != 6 * n + 2:
            raise ValueError(f"ResNet: depth is {depth}, but must be 6 n + 2 for n blocks a stage: 8, 14...")
        self.depth, self.residual = depth, residual
        self.first = nn.Sequential(*convolution(in_channels, width), nn.ReLU())
        widths = [width] * (n + 1) + [2 * width] * n + [4 * width] * n  # into and out of the blocks
        steps = zip(widths[:-1], widths[1:], strict=True)
        self.blocks = [block(c_in, c_out, residual) for c_in, c_out in steps]
        self.score = nn.Dense(4 * width, num_classes)

    def forward(self, x):
        x = self.first(x)
        for part in self.blocks:
            x = tn.relu(part(x))
        return self.score(x.mean((1, 2)))


def block(c_in, c_out, residual):
    """Two convolutions, the first with stride 2 if the channels double, and the shortcut around them."""
    stride = 1 if c_in == c_out else 2
    body = nn.Sequential(*convolution(c_in, c_out, stride), nn.ReLU(), *convolution(c_out, c_out))
    if not residual:
        return body
    return nn.Residual(body, shortcut=None if stride == 1 else ZeroPadded(c_out - c_in, stride))


def convolution(c_in, c_out, stride=1):
    """3x3 convolution and batch normalisation, which makes a bias pointless."""
    return nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(c_out)


class ZeroPadded(nn.Module):
    """y = every stride-th pixel of x, and `more` channels of zeros: a shortcut without parameters."""

    def __init__(self, more, stride):
        self.more, self.stride = more, stride

    def forward(self, x):
        x = x[:, :: self.stride, :: self.stride]
        return tn.pad(x, ((0, 0), (0, 0), (0, 0), (0, self.more)))


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"depths": [8, 32], "epochs": 10, "batch_size": 32, "lr": 0.03, "width": 8}
PHOTOS = {"depths": [20, 56], "epochs": 70, "batch_size": 64, "lr": 0.1, "width": 16}
SIZE = 32  # of the images, in pixels, as in the paper


class Labelled:
    """Images of one size with a class for each, in memory: dataset[i] is (image float32 (H, W, 3), label)."""

    def __init__(self, images, labels, classes):
        self.images, self.labels, self.classes = np.stack(images), np.array(labels), list(classes)

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        return self.images[index], self.labels[index]


def load(split, folder):
    """The images of a split with their classes: of the folder, or generated ones if there is none."""
    return photos(split, folder) if folder else generated(split)


def photos(split, folder):
    """Tiny ImageNet's photos at half their size, each pixel the mean of 2x2: 32x32."""
    dataset = data.TinyImageNet(folder, split)
    images, labels = [], []
    for i in range(len(dataset)):
        image, _, label = dataset[i]
        images.append(image.reshape(SIZE, 2, SIZE, 2, 3).mean((1, 3)))
        labels.append(label)
    return Labelled(images, labels, dataset.classes)


def generated(split):
    """Windows of drawn street scenes; those of "val" come from other scenes than those of "train"."""
    scenes, seed = {"train": (200, 0), "val": (100, 1)}.get(split, (0, 0))
    if not scenes:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return windows(data.Scenes(scenes, size=(128, 128), seed=seed))


def windows(scenes):
    """What is in the middle? From each scene a 32x32 window a class, with 2x2 pixels of it in the middle."""
    images, labels = [], []
    half = SIZE // 2
    for i in range(len(scenes)):
        image, mask = scenes[i]
        # (4, H - 31, W - 31): the four pixels in the middle of each window
        middles = np.stack([mask[half - 1 + u : u - half or None, half - 1 + v : v - half or None]
                            for u in (0, 1) for v in (0, 1)])
        rng = np.random.default_rng((scenes.seed, i))
        for label in range(len(scenes.classes)):
            places = np.argwhere((middles == label).all(0))
            if len(places):
                top, left = rng.choice(places)
                images.append(image[top : top + SIZE, left : left + SIZE])
                labels.append(label)
    return Labelled(images, labels, scenes.classes)


def augmented(dataset, generated):
    """The training images mirrored at random; photos also shifted, but a window's middle has to stay."""
    return data.Augmented(dataset, *([] if generated else [shifted]), data.Flip())


def shifted(sample, rng, most=4):
    """The image moved by up to `most` pixels each way, grey coming in from the border."""
    image, label = sample
    height, width = image.shape[:2]
    framed = np.full((height + 2 * most, width + 2 * most, image.shape[2]), 0.5, np.float32)
    framed[most : most + height, most : most + width] = image
    top, left = rng.integers(2 * most + 1, size=2)
    return framed[top : top + height, left : left + width], label


def scores(model, images):
    """The logits; grey becomes 0, as the convolutions' padding is."""
    return model(tn.Tensor((images - 0.5) / 0.25))


# Training


def train(options):
    """Train the networks as the options say; prints the figures and draws the curves."""
    training.make_folder(options.out)
    if options.epochs < 1:
        raise ValueError(f"--epochs is {options.epochs}; give a whole number from 1 up")
    for depth in options.depths:
        ResNet(1, depth, width=options.width)  # what doesn't fit is told before any work
    val_set, train_set = load(options.split, options.data), load("train", options.data)
    sizes = f"{len(train_set)} training images, {len(train_set.classes)} classes"
    print(f"{sizes}; {options.epochs} epochs each for " + ", ".join(name for name, *_ in networks(options)))
    if training.is_first():
        gradients = {name: first_gradients(make(options, depth, residual, train_set), train_set, options)
                     for name, depth, residual in networks(options)}
        draw_gradients(Path(options.out) / "gradients.png", gradients)
    histories, results, runs = {}, [], {}
    for number, (name, depth, residual) in enumerate(networks(options)):
        out = Path(options.out) / name
        model = make(options, depth, residual, train_set)
        if options.sync_batch_norm:
            mpi.synchronised(model)
        print(f"\n{name}: {sum(p.size for p in model.parameters()):,} parameters")
        began = time.process_time()
        # A network that isn't the first may have to be started when the run is resumed.
        resume = options.resume and (number == 0 or (out / training.CHECKPOINT).exists())
        runs[name] = out
        histories[name] = fit(model, train_set, val_set, runs, resume, options)
        if not training.is_first():
            continue
        minutes = round((time.process_time() - began) / 60, 1)
        model.eval()
        results.append({"network": name, **figures(answers(model, train_set.images), train_set, "train"),
                        **figures(answers(model, val_set.images), val_set, "val"),
                        "cpu_minutes": "" if resume else minutes})  # those before a stop aren't known
        training.write_metrics(Path(options.out) / "results.csv", results)
    if training.is_first():
        draw_curves(Path(options.out) / "curves.png", histories, baseline(train_set, val_set))
        report(results, train_set, val_set, options)


def networks(options):
    """(name, depth, residual) of each network, in the order of training."""
    kinds = {"plain": False, "residual": True}
    return [(f"{kind}-{depth}", depth, kinds[kind]) for kind in kinds for depth in options.depths]


def make(options, depth, residual, dataset):
    """A network with its first weights: the plain one's and the residual one's are the same."""
    tn.manual_seed(options.seed)
    return ResNet(len(dataset.classes), depth, residual, width=options.width)


def loader(dataset, options):
    """The training images, augmented, in an order that the seed alone decides."""
    return data.DataLoader(augmented(dataset, not options.data), options.batch_size, shuffle=True,
                           seed=options.seed, workers=options.workers, drop_last=True)


def loss_fn(model, batch):
    images, labels = batch
    return tn.cross_entropy(scores(model, images), labels)


def fit(model, train_set, val_set, runs, resume, options):
    """Train one network into its own folder, the last of runs {name: folder}; returns the history."""
    out, classes = list(runs.values())[-1], train_set.classes
    batches = loader(train_set, options)
    optimizer = optim.SGD(model.parameters(), lr=options.lr, momentum=0.9, weight_decay=1e-4)
    some = slice(None, None, -(-len(train_set) // 1000))  # at most 1000 tell the error well enough
    part = Labelled(train_set.images[some], train_set.labels[some], train_set.classes)

    def evaluate(model):
        in_training, logits = answers(model, part.images), answers(model, val_set.images)
        record.confusion(classes, counts(len(classes), logits.argmax(1), val_set.labels))
        return {"train_error": figures(in_training, part, "train")["train_error"], **figures(logits, val_set, "val")}

    few = slice(None, None, -(-len(val_set) // 8))
    record = Record(out, options, model, batches, loss_fn, runs=runs, resume=resume,
                    show=lambda model: sketched(model, val_set.images[few], val_set.labels[few], classes),
                    shown="images, and below how likely the likeliest classes are, the true one in green")
    return training.fit(
        model, optimizer, batches, loss_fn,
        epochs=options.epochs,
        out=out,
        schedule=in_steps(options.lr, options.epochs * len(batches)),
        evaluate=evaluate,
        follow=("val_error", min),
        after_epoch=record,
        resume=resume,
        config={"classes": train_set.classes, "depth": model.depth, "residual": model.residual,
                "width": options.width, "seed": options.seed, "batch_size": options.batch_size,
                "lr": options.lr, "epochs": options.epochs},
    )


def in_steps(lr, total):
    """The paper's schedule: lr, a tenth of it after half of all steps, a hundredth after three quarters.

    Before that lr is reached in even steps, over a tenth of all: at once it throws a deep residual network
    far back, and here the steps to recover are missing. (The paper begins with lr / 10, at 110 layers only.)
    """
    rise = max(total // 10, 1)

    def schedule(step):
        falls = (2 * step >= total) + (4 * step >= 3 * total)
        return lr * min((step + 1) / rise, 1) * 0.1**falls

    return schedule


def first_gradients(model, dataset, options):
    """The norm of the gradient of each convolution's weight, first to last, before any training."""
    batch = next(loader(dataset, options).batches(epoch=1))
    loss_fn(model, batch).backward()
    weights = [p for name, p in model.named_parameters() if p.ndim == 4]
    return [float(np.sqrt(np.square(p.grad.data).sum())) for p in weights]


# Evaluation


def answers(model, images, at_once=100):
    """The logits of all images (N, H, W, C), as they are: an array (N, K)."""
    with tn.no_grad():
        parts = [scores(model, images[i : i + at_once]).data for i in range(0, len(images), at_once)]
    return np.concatenate(parts)


def figures(logits, dataset, prefix):
    """Mean loss and share of wrong classes of what was answered to the images of a data set."""
    return {f"{prefix}_loss": tn.cross_entropy(logits, dataset.labels).item(),
            f"{prefix}_error": 1 - metrics.accuracy(logits, dataset.labels)}


def baseline(train_set, dataset):
    """Loss and error without looking: each class as likely as it is frequent in training."""
    k = len(train_set.classes)
    likely = np.bincount(train_set.labels, minlength=k) / len(train_set)
    seen = np.bincount(dataset.labels, minlength=k) / len(dataset)
    known = seen > 0
    return float(-(seen[known] * np.log(likely[known])).sum()), float(1 - seen[likely.argmax()])


def report(results, train_set, val_set, options):
    """Print the figures as a table, and what they say about depth."""
    print(f"\n{'':12}  training loss   error  {options.split + ' loss':>10}   error  CPU min")
    line = "{:12}  {:13.3f}  {:6.1%}  {:10.3f}  {:6.1%}  {:>7}"
    for row in results:
        print(line.format(*row.values()))
    print(line.format("not looking", *baseline(train_set, train_set), *baseline(train_set, val_set), ""))
    rows = {row["network"]: row for row in results}
    shallow, deep = options.depths[0], options.depths[-1]
    print()
    for kind in ("plain", "residual") if deep > shallow else ():
        a, b = rows[f"{kind}-{shallow}"]["train_loss"], rows[f"{kind}-{deep}"]["train_loss"]
        print(f"{kind}: with {deep} layers the training loss is {abs(b - a):.3f} "
              f"{'higher' if b > a else 'lower'} than with {shallow}")
    if not options.data:
        print("(Small windows, narrow networks, few steps: depth may not pay here. The paper's comparison,\n"
              " on photos, with 20 and 56 layers: --data DIR, with a folder in Tiny ImageNet's layout.)")
    print(f"pictures: {Path(options.out) / 'curves.png'}, {Path(options.out) / 'gradients.png'}")


def restore(path, dataset):
    """The model of a checkpoint, which must be one for the data set's classes."""
    description = read_description(path)
    config = description["config"]
    if description["model"] != "ResNet" or config.get("classes") != dataset.classes:
        raise ValueError(f"--evaluate {path}: it holds a {description['model']} for the classes "
                         f"{config.get('classes')}, but the data's are {dataset.classes}")
    model = ResNet(len(dataset.classes), config["depth"], config["residual"], width=config["width"])
    load_checkpoint(path, model)
    return model.eval()


# Pictures

COLOURS = ("#e08214", "#2166ac", "#1b7837", "#762a83")  # of the depths, from the shallowest on


def sketched(model, images, labels, classes):
    """Small pictures of a few images, and of what the model takes them for."""
    likely = tn.softmax(tn.Tensor(answers(model, images))).data
    return [with_answers(enlarged(image, 3), classes, each, label)
            for image, each, label in zip(images, likely, labels, strict=True)]


def draw_curves(path, histories, chance):
    """Training loss and validation error of each network by epoch."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((13, 5.6), layout="constrained")
    figure.suptitle("plain networks (dashed) and residual ones (solid), by their number of layers")
    columns, titles = ("loss", "val_error"), ("training loss", "validation error")
    for ax, column, title, level in zip(figure.subplots(1, 2), columns, titles, chance, strict=True):
        epochs = {name: [row["epoch"] for row in rows] for name, rows in histories.items()}
        ax.axhline(level, color="0.6", linewidth=1, zorder=0)
        ax.annotate("not looking", (max(epochs[name][-1] for name in epochs), level), (0, 3), ha="right",
                    textcoords="offset points", color="0.4")
        draw_lines(ax, epochs, {name: [row[column] for row in rows] for name, rows in histories.items()})
        ax.set(title=title, xlabel="epoch")
    FigureCanvasAgg(figure).print_png(path)


def draw_gradients(path, gradients):
    """The norm of each convolution's gradient before training, from the first convolution to the last.

    One would expect that little arrives at the image. But batch normalisation divides the gradient by the
    deviation of what it normalises: in a plain network it grows from layer to layer, on its way back to the
    image (Yang et al., A mean field theory of batch normalization, 2019, arXiv:1902.08129). Additions keep it
    nearly level.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure((9, 5.6), layout="constrained")
    ax = figure.subplots()
    ax.set_yscale("log")
    draw_lines(ax, {name: range(1, len(norms) + 1) for name, norms in gradients.items()}, gradients)
    spans = ", ".join(f"{name}: {max(norms) / min(norms):.1f}" for name, norms in gradients.items())
    ax.set(title="before training: the gradient of each convolution's weight", ylabel="norm of the gradient",
           xlabel="convolution, from the image on\n\nWith batch normalisation a deep plain network's "
                  "gradient doesn't vanish towards the image: it grows.\n"
                  f"Largest norm over smallest:  {spans}")
    FigureCanvasAgg(figure).print_png(path)


def draw_lines(ax, xs, ys, apart=13):
    """A line a network, named at its end: colour = depth, dashed = plain, solid = residual."""
    depths = sorted({int(name.split("-")[1]) for name in ys})
    ends = {}
    for name in ys:
        kind, depth = name.split("-")
        colour = COLOURS[depths.index(int(depth)) % len(COLOURS)]
        ax.plot(xs[name], ys[name], color=colour, linestyle="--" if kind == "plain" else "-", linewidth=1.8)
        ends.setdefault(xs[name][-1], []).append((ys[name][-1], name, colour))
    if ax.get_yscale() == "linear":
        ax.set_ylim(0)
    ax.spines[["top", "right"]].set_visible(False)
    for x, names in ends.items():
        height = -np.inf  # in points, of the name before: names that would overlap go up
        for y, name, colour in sorted(names):
            end = ax.transData.transform((x, y))[1] * 72 / ax.figure.dpi
            height = max(end, height + apart)
            ax.annotate(name, (x, y), (6, height - end), textcoords="offset points", va="center",
                        color=colour, bbox={"color": "white", "pad": 1, "alpha": 0.8})


# The command


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.residual", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder in Tiny ImageNet's layout (default: scenes)")
    parser.add_argument("--depths", type=int, nargs="+", metavar="DEPTH", help="layers: 6 n + 2 each")
    parser.add_argument("--width", type=int, help="channels of the first stage")
    parser.add_argument("--epochs", type=int, help="passes over the training images, for each network")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="the learning rate to begin with")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1,
                        help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--sync-batch-norm", action="store_true", help="under mpiexec: over all ranks' images")
    parser.add_argument("--out", metavar="DIR", default="out/residual", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", nargs="+",
                        help="only evaluate; several are compared")
    parser.add_argument("--split", metavar="NAME", default="val",
                        help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.about = about(parser, arguments)
    for name, value in (PHOTOS if options.data else SCENES).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    options.depths = sorted(set(options.depths))
    return options


@mpi.group()  # under mpiexec, with others
def main(arguments=None):
    options = parse(arguments)
    try:
        if not options.evaluate:
            train(options)
            return
        dataset = load(options.split, options.data)
        for path in options.evaluate:
            model = restore(path, dataset)
            result = figures(answers(model, dataset.images), dataset, "val")
            name = f"{'residual' if model.residual else 'plain'}-{model.depth}"
            print(f"{name} ({path}): {len(dataset)} images, "
                  f"loss {result['val_loss']:.3f}, accuracy {1 - result['val_error']:.1%}")
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
