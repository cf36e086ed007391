"""GridDetector: any number of objects in each picture, by the two heads answering at every cell of a grid.

    python -m examples.detection --many                     learns street scenes: signs, cars, people; in minutes
    python -m examples.detection --many --data fruit-voc    learns photos with boxes in Pascal VOC's XML
    python -m examples.detection --many --evaluate out/detection-many/best.safetensors

The detector of one object flattens its features and reads them with two dense layers: one answer for the
picture. Here convolutions take the place of the dense layers, and so each cell of the features gets its own
answer: how likely an object of each class has its middle here, and how far from here its box reaches to the
four sides.

    image --> block --> block --> block ------(+)--> refine --+--> conv --> conv 1x1: a score for each class
                pool      pool      | pool     | up           |
                                    block --> ...             +--> conv --> conv 1x1: left, top, right, bottom

    cells near an object's middle must answer           . . . . . .         <-- left -- o -- right -->
    with its class and its box, all others with         . . x x . .         each x tells the same box:
    "nothing here"; where two objects want the          . . x x . .         of such answers only the best
    same cell, the smaller one gets it                  . . . . . .         is kept (non-maximum suppression)

Nearly all cells are empty, and most of those are easy; so each answer's loss is weighted by how wrong it is
(focal loss), or the many easy ones would drown the few that matter. What is found is judged by average
precision (AP).

Tian et al., FCOS, ICCV 2019 (arXiv:1904.01355); Lin et al., Focal loss, ICCV 2017 (arXiv:1708.02002); Li et
al., Generalized focal loss, NeurIPS 2020 (arXiv:2006.04388); Rezatofighi et al., GIoU, CVPR 2019
(arXiv:1902.09630); Lin et al., Feature pyramid networks, CVPR 2017 (arXiv:1612.03144) for the way back up.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tinynet as tn
from examples.detection import KINDS, Resized, convolution
from examples.record import Record, about
from examples.sketch import LARGEST, boxed
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description
from tinynet.data.loader import draw as draw_sample
from tinynet.interop import mpi

# The network


class GridDetector(nn.Module):
    """Images (N, H, W, 3) to boxes (N, H/s, W/s, 4) and logits (N, H/s, W/s, num_classes), with the stride s.

    widths: the channels of the blocks, from the image's size down, each at half the size of the one before.
    stride: the size of a cell in pixels, a power of 2; the blocks below that size come back up to it by
    transposed convolutions, and are added. H and W are multiples of the smallest block's cell,
    2**(len(widths) - 1).
    """

    def __init__(self, num_classes, widths=(16, 32, 64, 96, 128), stride=4):
        level = stride.bit_length() - 1
        if stride != 2**level or not 0 < level < len(widths):
            raise ValueError(f"GridDetector: stride is {stride}, but must be a power of 2 from 2 to "
                             f"{2 ** (len(widths) - 1)}, the cell of the last of {len(widths)} blocks")
        self.stride, self.smallest = stride, 2 ** (len(widths) - 1)
        self.down = [nn.Sequential(*convolution(3, widths[0]))] + [
            nn.Sequential(nn.MaxPool2d(2), *convolution(c_in, c_out), *convolution(c_out, c_out))
            for c_in, c_out in zip(widths, widths[1:], strict=False)
        ]
        upwards = list(zip(widths[:level:-1], widths[-2:level - 1:-1], strict=True))
        self.up = [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1) for c_in, c_out in upwards]
        self.refine = [nn.Sequential(*convolution(c_out, c_out)) for _, c_out in upwards]
        c = widths[level]
        self.label = nn.Sequential(*convolution(c, c), nn.Conv2d(c, num_classes, 1))
        self.reach = nn.Sequential(*convolution(c, c), nn.Conv2d(c, 4, 1))
        self.label[-1].bias.data[:] = -4.0  # begin with "nothing here" everywhere: sigmoid(-4) is 2 %

    def forward(self, x):
        self.check_size(*x.shape[1:3])
        features = []
        for block in self.down:
            x = block(x)
            features.append(x)
        features.pop()
        for up, refine in zip(self.up, self.refine, strict=True):
            x = refine(up(x) + features.pop())
        return self._boxes(tn.exp(tn.clip(self.reach(x), -5, 5))), self.label(x)

    def check_size(self, height, width):
        """Raises ValueError for images that the poolings do not divide."""
        if height % self.smallest or width % self.smallest:
            raise ValueError(f"GridDetector: images are {height} x {width}, but {len(self.down)} blocks need multiples "
                             f"of {self.smallest}; resize them")

    def _boxes(self, reach):
        """How far the box reaches from the cell's middle to its four sides, in cells, to corners in fractions."""
        h, w = reach.shape[1:3]
        middle = middles(h, w)
        low, high = reach.like(middle) - reach[..., :2], reach[..., 2:] + reach.like(middle)
        return tn.concatenate([low, high], axis=-1) / reach.like(np.array([w, h, w, h]))


def middles(h, w):
    """The cells' middles (x, y) in cells: (h, w, 2)."""
    y, x = np.indices((h, w)) + 0.5
    return np.stack([x, y], axis=-1)


def predict(model, images, least=0.05, overlap=0.5):
    """For each of the images (N, H, W, 3) what is found, best first: (boxes (n, 4), scores (n,), labels (n,)).

    Of all cells' answers for all classes with a score of at least `least`, those stay whose box overlaps no
    better one of its class by more than `overlap`.
    """
    with tn.no_grad():
        boxes, logits = model(tn.Tensor(images))
        scores = tn.sigmoid(logits).data
    found = []
    for boxes_here, scores_here in zip(np.clip(boxes.data, 0, 1), scores, strict=True):
        *cell, labels = np.nonzero(scores_here >= least)
        candidates, rated = boxes_here[tuple(cell)], scores_here[(*cell, labels)]
        kept = metrics.nms(candidates, rated, overlap, labels)
        found.append((candidates[kept], rated[kept], labels[kept]))
    return found


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"epochs": 10, "batch_size": 16, "lr": 4e-3, "size": 128, "widths": (16, 32, 64, 96, 128), "stride": 4}
PHOTOS = {"epochs": 120, "batch_size": 8, "lr": 2e-3, "size": 128, "widths": (16, 32, 64, 128, 128), "stride": 8}
SMALLEST = 6  # pixels across and down that a scene's object must show to count, in training as in evaluation
NOTHING = -1  # the class of a cell without an object


def load(split, folder, size):
    """The pictures of a split, (image (size, size, 3), boxes, labels): of the folder, or generated ones."""
    return Resized(data.VOC(folder, split), size) if folder else generated(split, size)


def generated(split, size):
    """Drawn street scenes; those of "val" are none of those of "train"."""
    count, seed = {"train": (1500, 0), "val": (150, 1)}.get(split, (0, 0))
    if not count:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return Street(data.Scenes(count, size=(size, size), seed=seed, cache=True))


class Street:
    """Generated scenes as (image, boxes, labels) of the signs, cars and people of at least SMALLEST pixels."""

    classes = KINDS

    def __init__(self, scenes):
        self.scenes = scenes
        self.numbers = [scenes.classes.index(name) for name in KINDS]

    def __len__(self):
        return len(self.scenes)

    def __getitem__(self, index):
        image, _, boxes, labels = self.scenes.scene(index)
        height, width = image.shape[:2]
        sides = (boxes[:, 2:] - boxes[:, :2]) * np.float32([width, height])
        large = (sides > SMALLEST - 0.5).all(1)  # whole pixels, but for rounding
        return image, boxes[large], np.searchsorted(self.numbers, labels[large])


def augmented(dataset):
    """The training images mirrored; photos also zoomed and relit at random."""
    if isinstance(dataset, Street):
        return data.Augmented(dataset, data.Flip())
    return data.Augmented(dataset, data.Zoom(0.3), data.Flip(), data.Brightness(0.3), data.Contrast(0.3))


class Targets:
    """What each cell should answer, for samples (image, boxes, labels) after augmentation: arrays that stack.

    Gives (image, classes int64 (h, w), boxes float32 (h, w, 4)), the class NOTHING where there is no object.
    """

    def __init__(self, dataset, stride):
        self.dataset, self.stride = dataset, stride

    def __len__(self):
        return len(self.dataset)

    def sample(self, index, rng):
        image, boxes, labels = draw_sample(self.dataset, index, rng)
        h, w = (n // self.stride for n in image.shape[:2])
        return np.ascontiguousarray(image), *assigned(boxes, labels, h, w)


def assigned(boxes, labels, h, w, radius=1.5):
    """The class (h, w) and the box (h, w, 4) of each cell: of the object whose middle is near, the smaller first.

    Near are the cells whose middle lies within `radius` cells of the object's, and within its box; and always
    the cell that the object's middle lies in.
    """
    classes, targets = np.full((h, w), NOTHING), np.zeros((h, w, 4), np.float32)
    low, high = boxes[:, :2] * (w, h), boxes[:, 2:] * (w, h)
    cells = middles(h, w)
    for i in np.argsort(-(high - low).prod(1), kind="stable"):  # the smaller overwrites the larger
        middle = (low[i] + high[i]) / 2
        reach = np.clip((high[i] - low[i]) / 2, 0.5, radius)  # 1/2 is always enough for one cell
        near = (np.abs(cells - middle) <= reach).all(-1)
        classes[near], targets[near] = labels[i], boxes[i]
    return classes, targets


# Training


def grid_loss(model, batch, gamma=2.0):
    """Focal loss of all cells' scores plus GIoU loss of the boxes of those with an object, for each such cell.

    A cell's score is to be the IoU of its box for the class of its object, and 0 for all others: so the best
    score is that of the best box. Each term is weighted by |target - score| ** gamma.
    """
    images, classes, targets = batch
    boxes, logits = model(tn.Tensor(images))
    occupied = np.nonzero(classes != NOTHING)
    count = max(1, len(occupied[0]))
    wanted = np.zeros(logits.shape, np.float32)
    wanted[(*occupied, classes[occupied])] = metrics.box_iou(boxes.data[occupied], targets[occupied])
    weight = np.abs(wanted - tn.sigmoid(logits.detach()).data) ** np.float32(gamma)
    loss = tn.binary_cross_entropy_with_logits(logits, wanted, weight=weight, reduction="sum")
    return (loss + tn.giou_loss(boxes[occupied], targets[occupied], reduction="sum")) / count


def train(options):
    """Train as the options say; prints the figures and draws what the trained network finds."""
    training.make_folder(options.out)
    train_set = load("train", options.data, options.size)
    val_set = load(options.split, options.data, options.size)
    tn.manual_seed(options.seed)
    classes, widths = list(train_set.classes), options.widths
    model = GridDetector(len(classes), widths, options.stride)
    model.check_size(options.size, options.size)
    loader = data.DataLoader(Targets(augmented(train_set), options.stride), options.batch_size, shuffle=True,
                             seed=options.seed, workers=options.workers, drop_last=True)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr)
    print(f"GridDetector with cells of {options.stride} x {options.stride} pixels, "
          f"{sum(p.size for p in model.parameters()):,} parameters; {len(train_set)} training images")

    samples = [val_set[i] for i in several_objects(val_set, 4)]
    record = Record(options.out, options, model, loader, grid_loss, resume=options.resume,
                    show=lambda model: sketched(model, samples, classes),
                    shown="true boxes in white, and what is found with a score of at least 0.4",
                    legend=[(name, colour(k)) for k, name in enumerate(classes)])
    training.fit(
        model, optimizer, loader, grid_loss,
        epochs=options.epochs,
        out=options.out,
        schedule=optim.OneCycleLR(options.lr, options.epochs * len(loader)),
        clip_norm=10.0,
        evaluate=lambda model: {"mean_ap": evaluate(model, val_set).mean()},
        follow=("mean_ap", max),
        after_epoch=record,
        resume=options.resume,
        config={"classes": classes, "size": options.size, "widths": list(widths), "stride": options.stride,
                "seed": options.seed, "batch_size": options.batch_size, "lr": options.lr, "epochs": options.epochs},
    )
    if training.is_first():
        print(f"\nwithout looking, the same boxes in each image: mean AP {blind(train_set, val_set).mean():.3f}")
        report(model, val_set, Path(options.out), "objects")


# Evaluation


def evaluate(model, dataset, batch_size=16):
    """The average precision of what the model finds in all images of the data set."""
    precision = metrics.AveragePrecision(len(dataset.classes), names=dataset.classes)
    for first in range(0, len(dataset), batch_size):
        samples = [dataset[i] for i in range(first, min(first + batch_size, len(dataset)))]
        images = np.stack([image for image, _, _ in samples])
        for found, (_, boxes, labels) in zip(predict(model, images), samples, strict=True):
            precision.update(*found, boxes, labels)
    return precision


def blind(train_set, dataset, parts=4):
    """The average precision of a guess that knows where objects mostly are, but does not look.

    In every image it finds the same boxes: for each class and each of parts x parts fields of the image, the
    mean of the training boxes whose middle lies there, with their number as its score.
    """
    boxes, labels = (np.concatenate(part) for part in
                     zip(*(train_set[i][1:] for i in range(len(train_set))), strict=True))
    fields = np.minimum((boxes[:, :2] + boxes[:, 2:]) / 2 * parts, parts - 1).astype(int)
    places = np.stack([labels, *fields.T], axis=1)
    guesses = []
    for place in np.unique(places, axis=0):
        there = (places == place).all(1)
        guesses.append((boxes[there].mean(0), there.sum(), place[0]))
    found = [np.array(part) for part in zip(*guesses, strict=True)]
    precision = metrics.AveragePrecision(len(dataset.classes), names=dataset.classes)
    for i in range(len(dataset)):
        precision.update(*found, *dataset[i][1:])
    return precision


def report(model, dataset, out, name):
    """Print the model's figures on the data set, and draw what it finds and how its grid answers."""
    model.eval()
    precision = evaluate(model, dataset)
    counted = f"objects of {SMALLEST} x {SMALLEST} pixels and more" if isinstance(dataset, Street) else "all objects"
    print(f"\n{len(dataset)} images, {counted}; a box is right from an IoU of {precision.threshold} on\n{precision}")
    print(f"mean AP {precision.mean():.3f}")
    chosen = several_objects(dataset)
    draw(out / f"{name}.png", dataset, model, chosen)
    draw_grid(out / f"{name}-grid.png", dataset, model, chosen[::3])
    print(f"pictures: {out / f'{name}.png'}, {out / f'{name}-grid.png'}")


def restore(path, folder, split):
    """The model of a checkpoint and the data set of its images' size, which must have the model's classes."""
    description = read_description(path)
    config = description["config"]
    if description["model"] != "GridDetector":
        raise ValueError(f"--evaluate {path}: it holds a {description['model']}, not a GridDetector")
    dataset = load(split, folder, config["size"])
    if config["classes"] != list(dataset.classes):
        raise ValueError(f"--evaluate {path}: it holds a GridDetector for the classes {config['classes']}, but the "
                         f"data's are {list(dataset.classes)}")
    model = GridDetector(len(dataset.classes), config["widths"], config["stride"])
    load_checkpoint(path, model)
    return model, dataset


# Pictures

COLOURS = ("#ff4b4b", "#ffd500", "#2ee6ff", "#7dff5a", "#ff6bf0", "#ff9a2e", "#a98bff", "#5affc4")


def several_objects(dataset, count=8):
    """The numbers of images spread over the data set that show several objects, or the most that there are."""
    numbers = np.array([len(dataset[i][2]) for i in range(len(dataset))])
    several = np.flatnonzero(numbers >= min(3, numbers.max()))
    places = np.linspace(0, len(several) - 1, min(count, len(several)))
    return several[places.round().astype(int)].tolist()


def draw(path, dataset, model, chosen, columns=4):
    """Images with the true boxes, thin and white, and those found, in their class's colour, with their score."""
    rows = -(-len(chosen) // columns)
    figure, axes = new_figure(rows, columns, (3.3 * columns, 3.3 * rows + 0.7))
    for ax, index in zip(axes.flat, chosen, strict=False):
        draw_objects(ax, dataset, model, index)
    handles = [line("white", "true box", black=True)]
    handles += [line(colour(k), f"found: {name}, with its score") for k, name in enumerate(dataset.classes)]
    save(figure, path, handles)


def draw_grid(path, dataset, model, chosen):
    """A row an image: what is found there, and for each class how likely each cell says it has its middle there."""
    columns = 1 + len(dataset.classes)
    figure, axes = new_figure(len(chosen), columns, (3.1 * columns + 0.8, 3.1 * len(chosen) + 0.4))
    for row, index in zip(axes, chosen, strict=True):
        draw_objects(row[0], dataset, model, index)
        with tn.no_grad():
            scores = tn.sigmoid(model(tn.Tensor(dataset[index][0][None]))[1]).data[0]
        image = to_show(dataset, index)
        height, width = image.shape[:2]
        for k, ax in enumerate(row[1:]):
            ax.imshow(np.repeat(image.mean(-1, keepdims=True), 3, axis=-1) * 0.6)
            heat = ax.imshow(scores[..., k], cmap="inferno", vmin=0, vmax=1, alpha=np.sqrt(scores[..., k]),
                             extent=(-0.5, width - 0.5, height - 0.5, -0.5), interpolation="nearest")
    titles = ["true (white) and found", *(f"each cell's score for {name}" for name in dataset.classes)]
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    figure.colorbar(heat, ax=axes[:, -1], shrink=0.6, label="score")
    save(figure, path, [])


def sketched(model, samples, classes, least=0.4):
    """Small pictures of what is found in a few samples (image, true boxes, labels)."""
    pictures = []
    for image, true_boxes, _ in samples:
        (boxes, scores, labels), = predict(model, image[None], least)
        found = [(box, colour(k), 2, f"{classes[k]} {score:.2f}")
                 for box, score, k in zip(boxes[::-1], scores[::-1], labels[::-1], strict=True)]  # the best on top
        pictures.append(boxed(image, [(box, "white", 1, "") for box in true_boxes] + found, LARGEST))
    return pictures


def draw_objects(ax, dataset, model, index, least=0.4):
    """One image with its true boxes and those found with a score of at least `least`."""
    image, true_boxes, _ = dataset[index]
    (boxes, scores, labels), = predict(model, image[None], least)
    image = to_show(dataset, index)
    ax.imshow(image)
    for box in true_boxes:
        outline(ax, image, box, "black", 2.2)
        outline(ax, image, box, "white", 1.0)
    for box, score, label in zip(boxes[::-1], scores[::-1], labels[::-1], strict=True):  # the best on top
        x, y = outline(ax, image, box, colour(label), 1.8)
        ax.text(x, y, f"{dataset.classes[label]} {score:.2f}", fontsize=6, clip_on=True,
                va="bottom" if box[1] > 0.05 else "top",
                bbox={"facecolor": colour(label), "edgecolor": "none", "pad": 0.6})


def to_show(dataset, index):
    """The image, a photo in its own size and shape: boxes are fractions of either."""
    return (dataset.dataset if isinstance(dataset, Resized) else dataset)[index][0]


def outline(ax, image, box, colour, width):
    """Draws the box; gives its upper left corner."""
    from matplotlib.patches import Rectangle

    height_px, width_px = image.shape[:2]
    x, y, right, bottom = box * (width_px, height_px, width_px, height_px) - 0.5
    ax.add_patch(Rectangle((x, y), right - x, bottom - y, fill=False, edgecolor=colour, linewidth=width))
    return x, y


def colour(label):
    return COLOURS[label % len(COLOURS)]


def line(colour, label, black=False):
    """An entry of a legend; with a black rim if it is to be seen on white."""
    from matplotlib.lines import Line2D
    from matplotlib.patheffects import withStroke

    return Line2D([], [], color=colour, label=label, path_effects=[withStroke(linewidth=3, foreground="black")]
                  if black else [])


def new_figure(rows, columns, size):
    from matplotlib.figure import Figure

    figure = Figure(size, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for ax in axes.flat:
        ax.set_axis_off()
    return figure, axes


def save(figure, path, handles):
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    if handles:
        figure.legend(handles=handles, loc="outside lower center", ncols=len(handles), frameon=False)
    FigureCanvasAgg(figure).print_png(path)


# The command


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.detection --many", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder in Pascal VOC's layout (default: generated scenes)")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="the highest learning rate")
    parser.add_argument("--size", type=int, help="height and width to which images are brought, in pixels")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks from the top down")
    parser.add_argument("--stride", type=int, help="height and width of a cell of the grid, in pixels")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="out/detection-many", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", help="only evaluate this one")
    parser.add_argument("--split", metavar="NAME", default="val", help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.about = about(parser, arguments)
    for name, value in (PHOTOS if options.data else SCENES).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


@mpi.group()  # under mpiexec, with others
def main(arguments=None):
    options = parse(arguments)
    try:
        if not options.evaluate:
            train(options)
            return
        training.make_folder(options.out)
        model, dataset = restore(options.evaluate, options.data, options.split)
        report(model, dataset, Path(options.out), options.split)
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
