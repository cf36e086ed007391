"""Detector: one object in each picture, where it is (a box) and what it is (a class), by one CNN with two heads.

    python -m examples.detection                            learns objects of generated scenes, in a minute or two
    python -m examples.detection --data tiny-imagenet       learns photos (folder with wnids.txt), in half an hour
    python -m examples.detection --data VOC2012             the same of Pascal VOC's photos with a single object
    python -m examples.detection --evaluate out/detection/best.safetensors --data tiny-imagenet --split val
    python -m examples.detection --many                     several objects in each picture: see detection_many.py

Blocks of convolutions turn the picture into a small map of features; flattened, it is one long vector that still
knows which feature was at which place. Two dense layers read it:

    image --> block --> block --> ... --> flatten --+--> dense: 4 numbers --sigmoid--> centre, size --> corners
              each: pooling, convolution,           |
              another one added to its input        +--> dense: a score for each class

The second is trained by cross-entropy, the first by two losses together, since each is blind where the other sees. The
overlap with the true box (`--box-loss giou`) is what one wants, but where a found box is far too large around a small
object, it hardly changes with the box. The distance of the corners (`--box-loss smooth-l1`) pulls as hard there as
anywhere, but doesn't know that four numbers make up a box. All losses added train the blocks, which have to serve both.

Sermanet et al., OverFeat, ICLR 2014 (arXiv:1312.6229); Rezatofighi et al., Generalized Intersection over Union,
CVPR 2019 (arXiv:1902.09630); Carion et al., DETR, ECCV 2020 (arXiv:2005.12872), for both losses together; Simonyan,
Vedaldi, Zisserman, Deep inside convolutional networks, 2014 (arXiv:1312.6034), for the pictures of where it looks.
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tinynet as tn
from examples.record import Record, about, counts
from examples.sketch import BOXES, FOUND, TRUE, with_boxes
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description
from tinynet.data.augmentation import resize_bilinear
from tinynet.interop import mpi

# The network


class Detector(nn.Module):
    """Images (N, size, size, 3) to boxes (N, 4), as corners in fractions, and logits (N, num_classes).

    widths: the channels of the first convolution and of the blocks, each at half the size of the one before.
    The boxes may reach a little beyond the image, as the objects do that it cuts.
    Raises ValueError for a size that the poolings don't divide.
    """

    def __init__(self, num_classes, size=64, widths=(32, 64, 128, 256), dropout=0.3):
        last_size = pooled_size(size, len(widths) - 1)
        blocks = [*convolution(3, widths[0])]
        for c_in, c_out in zip(widths[:-1], widths[1:], strict=True):
            second = nn.Residual(nn.Sequential(*convolution(c_out, c_out)))
            blocks += nn.MaxPool2d(2), *convolution(c_in, c_out), second
        last = nn.Residual(nn.Sequential(*convolution(widths[-1], widths[-1])))
        self.features = nn.Sequential(*blocks, last, nn.Flatten())
        self.dropout = nn.Dropout(dropout)  # for the class alone: a box from noisy features is a blurred one
        count = widths[-1] * last_size**2
        self.box = nn.Dense(count, 4)
        self.label = nn.Dense(count, num_classes)
        # A step of Adam moves each weight by about lr, whatever its gradient, and so the sum over thousands of
        # features by thousands of lr: far into the sigmoid's flat ends, where boxes stay. Features this small
        # make it sqrt(count) lr, and the first boxes lie in the middle.
        self.scale = count**-0.5

    def forward(self, x):
        features = self.features(x) * self.scale
        return corners(tn.sigmoid(self.box(features))), self.label(self.dropout(features))


def pooled_size(size, poolings):
    """What is left of a height or width when it has been halved so many times."""
    if size < 2**poolings or size % 2**poolings:
        raise ValueError(f"Detector: size is {size}, but {poolings} poolings need a multiple of {2**poolings}")
    return size // 2**poolings


def convolution(c_in, c_out):
    """3x3 convolution, batch normalisation (which makes a bias pointless), ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


def corners(boxes):
    """(N, 4) of centre x, centre y, width, height to (N, 4) of x_min, y_min, x_max, y_max."""
    centre, half = boxes[:, :2], boxes[:, 2:] * 0.5
    return tn.concatenate([centre - half, centre + half], axis=1)


def predict(model, images):
    """Boxes (N, 4), cut at the border, and probabilities (N, K) of images (N, H, W, 3)."""
    with tn.no_grad():
        boxes, logits = model(tn.Tensor(images))
        return np.clip(boxes.data, 0, 1), tn.softmax(logits).data


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"epochs": 25, "batch_size": 32, "lr": 3e-3, "size": 64, "widths": (16, 32, 64, 128)}
TINY_IMAGENET = {"epochs": 40, "batch_size": 32, "lr": 3e-3, "size": 64, "widths": (32, 64, 128, 256)}
VOC = {"epochs": 150, "batch_size": 16, "lr": 3e-3, "size": 96, "widths": (16, 32, 64, 128, 256)}
BOX_WEIGHT = 2.5  # of the box's loss beside the class's
KINDS = ("sign", "car", "person")  # the objects in generated scenes


def load(split, folder, size):
    """The pictures of a split, (image (size, size, 3), box, label): of the folder, or generated ones."""
    if not folder:
        return generated(split, size)
    if not Path(folder).is_dir():
        raise FileNotFoundError(f"--data {folder}: there is no such folder; give one of Tiny ImageNet (it holds "
                                "wnids.txt) or of Pascal VOC")
    photos = data.TinyImageNet(folder, split) if is_tiny_imagenet(folder) else data.VOC(folder, split, single=True)
    return Resized(photos, size)


def is_tiny_imagenet(folder):
    return (Path(folder) / "wnids.txt").is_file()


def generated(split, size):
    """Objects out of drawn street scenes; those of "val" are out of none of the scenes of "train"."""
    count, seed = {"train": (500, 0), "val": (100, 1)}.get(split, (0, 0))
    if not count:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return Closeups(data.Scenes(count, size=(256, 256), seed=seed, cache=True), size)


class Closeups:
    """Single signs, cars and people of street scenes, each in a square window of random size and place.

    In training (`sample`) each epoch has other windows. Objects of which no window shows enough alone are left out:
    nobody could tell which is meant.
    """

    classes = KINDS

    def __init__(self, scenes, size):
        self.scenes, self.size = scenes, size
        self.objects = []  # (scene, number of the object in it)
        for index in range(len(scenes)):
            boxes, _ = scenes.objects(index)
            self.objects += [(index, which) for which in range(len(boxes)) if self.window(index, which) is not None]

    def __len__(self):
        return len(self.objects)

    def __getitem__(self, index):
        return self.closeup(*self.objects[index], self.window(*self.objects[index]))

    def sample(self, index, rng):
        window = self.window(*self.objects[index], rng)
        return self[index] if window is None else self.closeup(*self.objects[index], window)

    def window(self, index, which, rng=None):
        """A window around an object, drawn from rng, or always the same one."""
        rng = np.random.default_rng((self.scenes.seed, index, which)) if rng is None else rng
        boxes, _ = self.scenes.objects(index)
        return lone_window(boxes * self.scenes.size[0], which, self.scenes.size[0], rng)

    def closeup(self, index, which, window):
        left, top, side, box = window
        scene = self.scenes.scene(index)
        image = resized(scene.image[top:top + side, left:left + side], self.size)
        return image, box, int(scene.labels[which]) - self.scenes.classes.index(KINDS[0])


def lone_window(boxes, which, size, rng, draws=4):
    """(left, top, side, box in it) of a window in which one of the boxes is alone, or nearly; or None.

    boxes (n, 4) in pixels of an image of size x size. The window shows all of the box, which takes between 9/10
    and 2/5 of its side; boxes below 16 pixels have none.
    """
    low, high = np.floor(boxes[which, :2]).astype(int), np.ceil(boxes[which, 2:]).astype(int)
    longest = max(high - low)
    for _ in range(draws if longest >= 16 else 0):
        side = min(size, int(longest * rng.uniform(1.1, 2.5)))
        left, top = rng.integers(np.maximum(high - side, 0), np.minimum(low, size - side) + 1).tolist()
        shown = np.clip((boxes - (left, top, left, top)) / side, 0, 1).astype(np.float32)
        areas = np.prod(shown[:, 2:] - shown[:, :2], axis=1)
        if 3 * (areas.sum() - areas[which]) <= areas[which]:
            return left, top, side, shown[which]
    return None


class Resized:
    """A data set of pictures of any size, each squeezed into size x size, kept in memory from then on."""

    def __init__(self, dataset, size):
        self.dataset, self.size = dataset, size
        self.classes = dataset.classes
        self.kept = {}  # as bytes: a quarter of the room

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if index not in self.kept:
            image, box, label = self.dataset[index]
            self.kept[index] = np.rint(resized(image, self.size) * 255).astype(np.uint8), box, label
        pixels, box, label = self.kept[index]
        return np.divide(pixels, 255, dtype=np.float32), box, label


def resized(image, size):
    """The image at size x size; halved first while it's more than twice as large, so that nothing aliases."""
    while image.shape[0] >= 2 * size:
        image = (image[:-1:2] + image[1::2]) / 2
    while image.shape[1] >= 2 * size:
        image = (image[:, :-1:2] + image[:, 1::2]) / 2
    return image if image.shape[:2] == (size, size) else resize_bilinear(image, (size, size))


def augmented(dataset):
    """The training images zoomed into, mirrored and relit at random; the boxes move along."""
    closer = [] if isinstance(dataset, Closeups) else [data.Zoom()]  # close-ups have new windows by themselves
    return data.Augmented(dataset, *closer, data.Flip(), data.Brightness(0.2), data.Contrast(0.2))


# Training


def train(options):
    """Train as the options say; prints the figures and draws what the trained network finds."""
    training.make_folder(options.out)
    pooled_size(options.size, len(options.widths))  # complains, if at all, before the data are read
    tn.manual_seed(options.seed)
    train_set = load("train", options.data, options.size)
    val_set = load(options.split, options.data, options.size)
    boxes, labels = truth(train_set)
    classes, widths = list(train_set.classes), options.widths
    model = Detector(len(classes), options.size, widths)
    loader = data.DataLoader(augmented(train_set), options.batch_size, shuffle=True, seed=options.seed,
                             workers=options.workers, drop_last=True)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr, weight_decay=0.05)
    config = {"classes": classes, "widths": list(widths), "size": options.size, "box_loss": options.box_loss,
              "box_weight": options.box_weight, "seed": options.seed, "batch_size": options.batch_size,
              "lr": options.lr, "epochs": options.epochs, "mean_box": boxes.mean(0).tolist(),
              "commonest": int(np.bincount(labels).argmax())}
    print(f"Detector, {sum(p.size for p in model.parameters()):,} parameters; "
          f"{len(train_set)} training images, {len(val_set)} of {options.split}")

    def loss_fn(model, batch):
        images, boxes, labels = batch
        found, logits = model(tn.Tensor(images))
        where = BOX_LOSSES[options.box_loss](found, boxes)
        return options.box_weight * where + tn.cross_entropy(logits, labels, label_smoothing=0.1)

    def evaluated(model):
        found, true = outputs(model, val_set), truth(val_set)
        record.confusion(classes, counts(len(classes), found[1].argmax(1), true[1]))
        return figures(*found, *true)

    samples = [val_set[i] for i in range(0, len(val_set), -(-len(val_set) // 6))]
    record = Record(options.out, options, model, loader, loss_fn, resume=options.resume,
                    show=lambda model: with_boxes(samples, classes, *outputs(model, samples)), **BOXES)

    training.fit(
        model, optimizer, loader, loss_fn,
        epochs=options.epochs,
        out=options.out,
        schedule=optim.OneCycleLR(options.lr, options.epochs * len(loader)),
        evaluate=evaluated,
        follow=("found", max),
        after_epoch=record,
        resume=options.resume,
        config=config,
    )
    if training.is_first():
        report(model, val_set, config, Path(options.out))


def smooth_l1(boxes, target):
    """Summed over the four numbers, the mean over the boxes; errors above 2 % of the image count linearly."""
    return tn.smooth_l1_loss(boxes, target, beta=0.02, reduction="sum") / len(target)


def both(boxes, target):
    return tn.giou_loss(boxes, target) + 2 * smooth_l1(boxes, target)


BOX_LOSSES = {"both": both, "giou": tn.giou_loss, "smooth-l1": smooth_l1}


# Evaluation


def truth(dataset):
    """All boxes (n, 4) and labels (n) of a data set."""
    _, boxes, labels = zip(*(dataset[i] for i in range(len(dataset))), strict=True)
    return np.stack(boxes), np.array(labels)


def outputs(model, dataset, batch_size=50):
    """What the model finds in all pictures, as they are without augmentation: boxes (n, 4), probabilities (n, K)."""
    found = []
    for first in range(0, len(dataset), batch_size):
        indices = range(first, min(first + batch_size, len(dataset)))
        found.append(predict(model, np.stack([dataset[i][0] for i in indices])))
    boxes, probabilities = zip(*found, strict=True)
    return np.concatenate(boxes), np.concatenate(probabilities)


def figures(boxes, probabilities, true_boxes, labels):
    """Mean IoU, the shares of boxes with IoU >= 0.5 and of classes that are right, and of pictures with both."""
    iou, right = metrics.box_iou(boxes, true_boxes), probabilities.argmax(1) == labels
    return {"mean_iou": iou.mean(), "iou_50": (iou >= 0.5).mean(), "accuracy": right.mean(),
            "found": ((iou >= 0.5) & right).mean()}


def report(model, dataset, config, folder):
    """Print the figures beside those of what needs no picture to be seen, and draw what the model sees."""
    model.eval()
    boxes, labels = truth(dataset)
    found = outputs(model, dataset)
    always = np.eye(len(dataset.classes))[np.full(len(labels), config["commonest"])]
    rows = {"detector": found}
    for name, box in (("mean box", config["mean_box"]), ("whole image", (0, 0, 1, 1))):
        rows[name] = np.broadcast_to(np.float32(box), boxes.shape), always
    print(f"\n{len(dataset)} images   mean IoU  IoU >= 0.5  class right  both")
    for name, row in rows.items():
        iou, share, accuracy, both = figures(*row, boxes, labels).values()
        print(f"{name:14} {iou:8.3f}  {share:10.3f}  {accuracy:11.3f}  {both:4.3f}")
    print("(mean box and whole image: always the same box, with the class that is commonest in training)")
    draw(folder / "boxes.png", dataset, *found)
    draw_looks(folder / "looks.png", model, dataset)
    print(f"pictures: {folder / 'boxes.png'}, {folder / 'looks.png'}")


def restore(path):
    """The model of a checkpoint, and its configuration."""
    description = read_description(path)
    if description["model"] != "Detector":
        raise ValueError(f"--evaluate {path}: it holds a {description['model']}, not a Detector")
    config = description["config"]
    model = Detector(len(config["classes"]), config["size"], config["widths"])
    load_checkpoint(path, model)
    return model, config


# Pictures


def draw(path, dataset, boxes, probabilities, columns=6):
    """Pictures with their true and found boxes: those that were found, and below those that were not."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    true_boxes, labels = truth(dataset)
    overlap = metrics.box_iou(boxes, true_boxes)
    found = (overlap >= 0.5) & (probabilities.argmax(1) == labels)
    figure = Figure((2.1 * columns, 11.6), layout="constrained")
    parts = figure.subfigures(2, 1)
    sections = (found, "class and place right (IoU at least 0.5)"), (~found, "class or place wrong")
    for part, (chosen, title) in zip(parts, sections, strict=True):
        indices = np.flatnonzero(chosen)
        part.suptitle(f"{title}: {len(indices)} of {len(found)}", fontsize=14, fontweight="bold")
        axes = part.subplots(2, columns).ravel()
        for ax in axes:
            ax.set_axis_off()
        picks = indices[np.linspace(0, len(indices) - 1, min(len(indices), len(axes))).round().astype(int)]
        for ax, i in zip(axes, picks, strict=False):
            show(ax, dataset[int(i)][0], true_boxes[i], boxes[i])
            ax.set_title(caption(dataset.classes, labels[i], probabilities[i], overlap[i]), fontsize=10,
                         color="black" if found[i] else "#c00000")
    figure.legend(handles=box_lines(), loc="outside lower center", ncols=2, frameon=False, fontsize=12)
    FigureCanvasAgg(figure).print_png(path)


def show(ax, image, true_box, box):
    """The image with both boxes; the true one is wider, so that it shows where they coincide."""
    from matplotlib.patches import Rectangle

    height, width = image.shape[:2]
    ax.imshow(image, interpolation="nearest", extent=(0, width, height, 0))
    for (x0, y0, x1, y1), colour, line in ((true_box, TRUE, 4.5), (box, FOUND, 2)):
        corner, size = (x0 * width, y0 * height), ((x1 - x0) * width, (y1 - y0) * height)
        ax.add_patch(Rectangle(corner, *size, fill=False, edgecolor=colour, linewidth=line, clip_on=False))
    ax.set_axis_off()


def caption(classes, label, probabilities, overlap):
    """The class found, how sure, what it really is if it's another, and the overlap."""
    best = int(probabilities.argmax())
    instead = "" if best == label else f", is {classes[label]}"
    return f"{classes[best]} {probabilities[best]:.0%}{instead}\nIoU {overlap:.2f}"


def box_lines():
    from matplotlib.lines import Line2D

    return [Line2D([], [], color=TRUE, linewidth=4.5, label="true box"),
            Line2D([], [], color=FOUND, linewidth=2, label="found box")]


def draw_looks(path, model, dataset, columns=8):
    """Below each picture: which of its pixels the box, and which of them the class depends on most."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    chosen = np.unique(np.linspace(0, len(dataset) - 1, columns).round().astype(int))
    images, true_boxes, labels = (np.stack(part) for part in zip(*(dataset[int(i)] for i in chosen), strict=True))
    boxes, probabilities = predict(model, images)
    overlaps = metrics.box_iou(boxes, true_boxes)
    figure = Figure((2.1 * len(chosen), 7.4), layout="constrained")
    axes = figure.subplots(3, len(chosen), squeeze=False)
    for i, top in enumerate(axes[0]):
        show(top, images[i], true_boxes[i], boxes[i])
        top.set_title(caption(dataset.classes, labels[i], probabilities[i], overlaps[i]), fontsize=10)
    for line, heat in zip(axes[1:], looks(model, images), strict=True):
        for ax, one in zip(line, heat, strict=True):
            ax.imshow(one, cmap="inferno", vmin=0, vmax=np.quantile(one, 0.995))
    for line, name in zip(axes, ("picture", "the box depends on", "the class depends on"), strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[], frame_on=False)
        line[0].set_axis_on()
        line[0].set_ylabel(name, fontsize=12)
    figure.legend(handles=box_lines(), loc="outside lower center", ncols=2, frameon=False, fontsize=12,
                  title="bright: a small change of this pixel changes the head's output much")
    FigureCanvasAgg(figure).print_png(path)


def looks(model, images, copies=8, noise=0.1):
    """How much each pixel moves the box, and how much the winning class's score: two of (N, H, W).

    The norm of the output's gradient over the channels (for the box: and over its four numbers), squared and
    averaged over noisy copies of the image, since that of the image alone is speckled (Smilkov et al.,
    SmoothGrad, 2017, arXiv:1706.03825).
    """
    rng = np.random.default_rng(0)
    winner = np.eye(model.label.out_features, dtype=np.float32)[predict(model, images)[1].argmax(1)]
    questions = [lambda boxes, logits, j=j: boxes[:, j].sum() for j in range(4)]
    questions.append(lambda boxes, logits: (logits * winner).sum())
    heat = np.zeros((2, *images.shape[:3]))
    for _ in range(copies):
        noisy = images + noise * rng.standard_normal(images.shape, np.float32)
        for which, question in enumerate(questions):
            x = tn.Tensor(noisy, requires_grad=True)
            (gradient,) = tn.grad(question(*model(x)), x)
            heat[which // 4] += np.square(gradient.data).sum(-1)
    return np.sqrt(heat / copies)


# The command


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.detection", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR",
                        help="folder of Tiny ImageNet or Pascal VOC (default: generated scenes)")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="the highest learning rate")
    parser.add_argument("--size", type=int, help="height and width that every picture is resized to")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks from the image down")
    parser.add_argument("--box-loss", choices=BOX_LOSSES, default="both", help="(default: %(default)s)")
    parser.add_argument("--box-weight", type=float, default=BOX_WEIGHT,
                        help="what the box's loss counts beside the class's (default: %(default)s)")
    parser.add_argument("--many", action="store_true",
                        help="several objects in a picture; its own options: --many --help")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="out/detection", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", help="only evaluate")
    parser.add_argument("--split", metavar="NAME", default="val", help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.about = about(parser, arguments)
    kind = SCENES if not options.data else TINY_IMAGENET if is_tiny_imagenet(options.data) else VOC
    for name, value in kind.items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


@mpi.group()  # under mpiexec, with others
def main(arguments=None):
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    if "--many" in arguments:
        from examples import detection_many  # it imports from this file

        detection_many.main([argument for argument in arguments if argument != "--many"])
        return
    options = parse(arguments)
    try:
        if not options.evaluate:
            train(options)
            return
        training.make_folder(options.out)
        model, config = restore(options.evaluate)
        dataset = load(options.split, options.data, config["size"])
        if list(dataset.classes) != config["classes"]:
            raise ValueError(f"--evaluate {options.evaluate}: it holds a Detector for the classes "
                             f"{config['classes']}, but the data's are {list(dataset.classes)}")
        report(model, dataset, config, Path(options.out))
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
