"""FCN: every pixel of a street scene gets a class, by an hour-glass of convolutions with skip connections.

    python -m examples.segmentation                      learns generated scenes, in a minute or two
    python -m examples.segmentation --data camvid        learns CamVid's photos (folder with train.txt, val.txt)
    python -m examples.segmentation --evaluate out/segmentation/best.safetensors --data camvid --split val
    python -m examples.segmentation --compare            the same twice, without skips and with: what they are worth
    python -m examples.segmentation --foreground car,person                    region of interest, or the rest
    mpiexec -n 4 python -m examples.segmentation         four processes, on one machine or several, train as one

On the way down, blocks of convolutions find *what* there is and pooling makes the picture smaller, so that each pixel
comes to know its surroundings. On the way up, transposed convolutions make it large again. But pooling has lost *where*
exactly things are. So the features of each block on the way down are added to those of the same size on the way up:

    image --> block 1 --------------------(+)--> refine --> 1x1 convolution --> a score for each class at each pixel
                 | pool                    | up
                 block 2 -------------(+)--> refine
                    | pool              | up
                    block 3 ------> ... --

Without these skips (`--no-skips`) the same layers have to paint the borders from memory. `--compare` trains both and
measures them near the objects' borders and away from them.

Long, Shelhamer, Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015 (arXiv:1411.4038);
Ronneberger et al., U-Net, MICCAI 2015 (arXiv:1505.04597).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tinynet as tn
from examples.record import Record, about
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description
from tinynet.interop import mpi

# The network


class FCN(nn.Module):
    """A score for each class at every pixel: images (N, H, W, in_channels) to logits (N, H, W, num_classes).

    widths: the channels of the blocks, from the image's size down, each at half the size of the one before.
    skips=False leaves out the additions, and nothing else: the layers and their parameters are the same.
    Any H and W from 2**(len(widths) - 1) up, odd ones too.
    """

    def __init__(self, num_classes, widths=(32, 64, 128, 128), in_channels=3, skips=True):
        self.skips = skips
        self.down = [
            nn.Sequential(*convolution(c_in, c_out), *convolution(c_out, c_out))
            for c_in, c_out in zip((in_channels, *widths[:-1]), widths, strict=True)
        ]
        self.pool = nn.MaxPool2d(2)
        upwards = list(zip(widths[:0:-1], widths[-2::-1], strict=True))
        self.up = [nn.ConvTranspose2d(c_in, c_out, 4, stride=2, padding=1) for c_in, c_out in upwards]
        self.refine = [nn.Sequential(*convolution(c_out, c_out)) for _, c_out in upwards]
        self.score = nn.Conv2d(widths[0], num_classes, 1)

    def forward(self, x):
        features = [self.down[0](x)]
        for block in self.down[1:]:
            features.append(block(self.pool(features[-1])))
        x = features.pop()
        for up, refine in zip(self.up, self.refine, strict=True):
            feature = features.pop()
            x = up(x, output_size=feature.shape[1:3])
            x = refine(x + feature if self.skips else x)
        return self.score(x)


def convolution(c_in, c_out):
    """3x3 convolution, batch normalisation (which makes a bias pointless), ReLU."""
    return nn.Conv2d(c_in, c_out, 3, padding=1, bias=False), nn.BatchNorm2d(c_out), nn.ReLU()


def predict(model, image):
    """The most likely class of each pixel: image (H, W, 3) to classes (H, W)."""
    with tn.no_grad():
        logits = model(tn.Tensor(image[None])).data[0]
    return logits.argmax(-1) if logits.shape[-1] > 1 else (logits[..., 0] > 0).astype(int)


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"epochs": 9, "batch_size": 8, "lr": 4e-3, "balance": 0.3, "widths": (16, 32, 64, 96, 128)}
PHOTOS = {"epochs": 45, "batch_size": 4, "lr": 3e-3, "balance": 0.5, "widths": (16, 32, 64, 96, 128, 128)}


def load(split, folder, foreground=None):
    """The images of a split with their masks: of the folder, or generated ones if there is none."""
    dataset = data.CamVid(folder, split, cache=True) if folder else generated(split)
    return Foreground(dataset, foreground) if foreground else dataset


def generated(split):
    """Drawn street scenes; those of "val" are none of those of "train"."""
    count, seed = {"train": (1000, 0), "val": (100, 1)}.get(split, (0, 0))
    if not count:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return data.Scenes(count, size=(128, 128), seed=seed, cache=True)


class Foreground:
    """A data set with other masks: 1 on the classes named ("car,person"), the region of interest, 0 on the rest."""

    def __init__(self, dataset, names):
        names = [name.strip().lower() for name in names.split(",")]
        unknown = [name for name in names if name not in dataset.classes]
        if unknown:
            raise ValueError(f"--foreground: there is no class {', '.join(map(repr, unknown))}; "
                             f"classes are {', '.join(dataset.classes)}")
        self.dataset = dataset
        self.classes = ("rest", "+".join(names))
        self.ignore_index = dataset.ignore_index
        self.value = np.isin(np.arange(256), [dataset.classes.index(name) for name in names]).astype(np.uint8)
        if self.ignore_index is not None:
            self.value[self.ignore_index] = self.ignore_index

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, mask = self.dataset[index]
        return image, self.value[mask]


def augmented(dataset, is_photos):
    """The training images mirrored; photos, which are few, also resized, cropped and relit at random."""
    if not is_photos:
        return data.Augmented(dataset, data.Flip())
    size = dataset[0][1].shape
    crop = tuple(n * 2 // 3 for n in size)
    return data.Augmented(
        dataset,
        data.Crop(crop, dataset.ignore_index, scale=(0.8, 1.25)),
        data.Flip(),
        data.Brightness(0.2),
        data.Contrast(0.2),
    )


def class_weights(dataset, balance, most=400):
    """Median-frequency weights: (median of the classes' frequencies / a class's own) ** balance.

    A class's frequency is its share of the pixels of those images that have it (Eigen and Fergus, ICCV 2015, section
    6.3.2), here of `most` images at most. balance=1 makes rare classes count as much as frequent ones, 0 makes all
    pixels count the same; 1/2 lies between: people are found, and not everything is a person.
    """
    k = len(dataset.classes)
    own, shared = np.zeros(k), np.zeros(k)  # pixels of the class; pixels of the images that have it
    for i in range(0, len(dataset), -(-len(dataset) // most)):
        counts = np.bincount(dataset[i][1].ravel(), minlength=k)[:k]
        own += counts
        shared += np.where(counts > 0, counts.sum(), 0)
    frequency = np.where(own > 0, own / np.maximum(shared, 1), np.nan)
    weights = (np.nanmedian(frequency) / frequency) ** balance
    return np.where(np.isnan(weights), 1.0, weights).astype(np.float32)


# Training


def train(options):
    """Train as the options say; prints the figures and draws what the trained network sees."""
    training.make_folder(options.out)
    val_set = load(options.split, options.data, options.foreground)
    if not options.compare:
        model = learn(options, options.skips, options.out, val_set, options.resume)
        if training.is_first():
            report({"output": model}, val_set, f"{options.out}/scenes.png")
        return
    models, runs = {}, {}
    for name, skips in (("without skips", False), ("with skips", True)):
        out = f"{options.out}/{name.replace(' ', '-')}"
        begun = options.resume and (not models or Path(out, training.CHECKPOINT).exists())
        runs[name] = out
        models[name] = learn(options, skips, out, val_set, begun, runs)
    if training.is_first():
        report(models, val_set, f"{options.out}/compare.png")


def learn(options, skips, out, val_set, resume, runs=None):
    """Train one network, into the folder `out`, and return it; the report is of all runs {name: folder} up to it."""
    train_set = load("train", options.data, options.foreground)
    tn.manual_seed(options.seed)
    classes, widths = list(train_set.classes), options.widths
    model = FCN(scores(classes), widths, skips=skips)
    if options.sync_batch_norm:
        mpi.synchronised(model)
    loss = loss_function(train_set, options)
    loader = data.DataLoader(augmented(train_set, is_photos=options.data is not None), options.batch_size,
                             shuffle=True, seed=options.seed, workers=options.workers, drop_last=True)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr)
    print(f"FCN {'with' if skips else 'without'} skips, "
          f"{sum(p.size for p in model.parameters()):,} parameters; {len(train_set)} training images")

    def loss_fn(model, batch):
        images, masks = batch
        return loss(model(tn.Tensor(images)), masks)

    def evaluated(model):
        confusion = evaluate(model, val_set)["everywhere"]
        record.confusion(classes, confusion.matrix)
        return figures(confusion)

    scenes = [val_set[int(i)] for i in chosen(val_set, 5)]
    record = Record(
        out, options, model, loader, loss_fn, runs=runs, resume=resume,
        given={"input": [image for image, _ in scenes], "truth": [paint(val_set, *scene) for scene in scenes]},
        show=lambda model: [paint(val_set, image, predict(model, image)) for image, _ in scenes],
        shown="the output, each pixel in the colour of its likeliest class",
        legend=colors(val_set))

    training.fit(
        model, optimizer, loader, loss_fn,
        epochs=options.epochs,
        out=out,
        schedule=optim.OneCycleLR(options.lr, options.epochs * len(loader)),
        evaluate=evaluated,
        follow=("iou" if options.foreground else "mean_iou", max),
        after_epoch=record,
        resume=resume,
        config={"classes": classes, "widths": list(widths), "skips": skips, "seed": options.seed,
                "batch_size": options.batch_size, "lr": options.lr, "epochs": options.epochs,
                "balance": options.balance, "foreground": options.foreground, "loss": options.loss},
    )
    return model


def scores(classes):
    """How many the network gives each pixel: one for each of several classes; for yes or no, one."""
    return len(classes) if len(classes) > 2 else 1


def loss_function(dataset, options):
    """loss(logits, masks): cross-entropy for classes; for a foreground binary cross-entropy or dice."""
    weights, void = class_weights(dataset, options.balance), dataset.ignore_index

    def cross_entropy(logits, masks):
        return tn.cross_entropy(logits, masks, weight=weights, ignore_index=void)

    def binary_cross_entropy(logits, masks):
        known = (masks != void).astype(np.float32)
        total = tn.binary_cross_entropy_with_logits(
            logits.reshape(masks.shape), masks * known, weight=known, pos_weight=weights[1] / weights[0],
            reduction="sum")
        return total / max(1.0, float(known.sum()))

    def dice(logits, masks):
        return tn.dice_loss(logits.reshape(masks.shape), masks.astype(np.float32), ignore_index=void)

    if not options.foreground:
        return cross_entropy
    return dice if options.loss == "dice" else binary_cross_entropy


# Evaluation

BAND = 3  # pixels


def evaluate(model, dataset):
    """The confusion matrices of the model over all images, each at its full size: near borders, elsewhere, and both."""
    near, elsewhere, everywhere = (
        metrics.ConfusionMatrix(len(dataset.classes), dataset.ignore_index, dataset.classes) for _ in range(3))
    for i in range(len(dataset)):
        image, mask = dataset[i]
        output, band = predict(model, image), border_band(mask)
        near.update(output[band], mask[band])
        elsewhere.update(output[~band], mask[~band])
    everywhere.matrix = near.matrix + elsewhere.matrix
    return {"everywhere": everywhere, "border": near, "elsewhere": elsewhere}


def border_band(mask, width=BAND):
    """Which pixels have another class, or none, within `width` pixels of them (in a square)."""
    low = high = mask
    for axis in (0, 1):
        low, high = (np.pad(each, [(width, width) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
                     for each in (low, high))
        low, high = (np.lib.stride_tricks.sliding_window_view(each, 2 * width + 1, axis) for each in (low, high))
        low, high = low.min(-1), high.max(-1)
    return low != high


def figures(confusion):
    """The numbers of a confusion matrix that are followed; of two classes those of the second, the foreground."""
    if confusion.num_classes == 2:
        (_, false), (missed, found) = confusion.matrix
        return {"iou": confusion.iou()[1], "precision": found / max(1, found + false),
                "recall": found / max(1, found + missed)}
    return {"pixel_accuracy": confusion.pixel_accuracy(), "class_average": confusion.class_average(),
            "mean_iou": confusion.mean_iou()}


def report(models, dataset, picture):
    """Print each model's figures on the data set and draw what they see."""
    results = {}
    for name, model in models.items():
        model.eval()
        results[name] = evaluate(model, dataset)
        whole = results[name]["everywhere"]
        print(f"\n{name}: {len(dataset)} images\n{whole}")
        print("  ".join(f"{key.replace('_', ' ').replace('iou', 'IoU')} {value:.3f}"
                        for key, value in figures(whole).items()))
    if len(results) == 2:
        print(f"\n{comparison(results)}")
    draw(picture, dataset, models)
    print(f"picture: {picture}")


def comparison(results):
    """The table of two models' mean IoU near the objects' borders and elsewhere, and what the second gains."""
    rows = {name: [confusions[place].mean_iou() for place in ("everywhere", "border", "elsewhere")]
            for name, confusions in results.items()}
    first, second = rows.values()
    rows["gain"] = [b - a for a, b in zip(first, second, strict=True)]
    width = max(map(len, rows))
    lines = [f"{'mean IoU':{width}}  everywhere  within {BAND} px of a border  elsewhere"]
    lines += [f"{name:{width}}  {a:10.3f}  {b:23.3f}  {c:9.3f}" for name, (a, b, c) in rows.items()]
    return "\n".join(lines)


def restore(paths, options):
    """The models of one checkpoint or two, each with its name, and the data set to judge them by."""
    descriptions = [read_description(path) for path in paths]
    for path, description in zip(paths, descriptions, strict=True):
        if description["model"] != "FCN":
            raise ValueError(f"--evaluate {path}: it holds a {description['model']}, not an FCN")
    dataset = load(options.split, options.data, descriptions[0]["config"].get("foreground"))
    models = {}
    for path, description in zip(paths, descriptions, strict=True):
        config = description["config"]
        if config.get("classes") != list(dataset.classes):
            raise ValueError(f"--evaluate {path}: it holds a FCN for the classes {config.get('classes')}, "
                             f"but the data's are {list(dataset.classes)}")
        model = FCN(scores(dataset.classes), config["widths"], skips=config["skips"])
        load_checkpoint(path, model)
        name = "with skips" if model.skips else "without skips"
        models[f"{name} ({path})" if name in models else name] = model
    return models, dataset


# Pictures


WRONG, RIGHT, NEAR = (0.85, 0.1, 0.1), (0.1, 0.6, 0.2), (0.55, 0.7, 0.95)


def draw(path, dataset, models, rows=4):
    """A row a scene: the input, the truth, each model's output; then where one is wrong, or where two differ."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    scenes = []
    for index in chosen(dataset, rows):
        image, mask = dataset[int(index)]
        outputs = [predict(model, image) for model in models.values()]
        painted = [paint(dataset, image, classes) for classes in (mask, *outputs)]
        judge = errors if len(outputs) == 1 else differences
        scenes.append([image, *painted, judge(dataset, image, mask, *outputs)])
    titles = ["input", "truth", *models, "error" if len(models) == 1 else "where they differ"]
    legend = [Patch(color=color, label=name) for name, color in colors(dataset)]
    if len(models) == 2:
        legend += [Patch(color=color, label=label) for color, label in (
            (RIGHT, f"only {titles[3]} right"), (WRONG, f"only {titles[2]} right"),
            (NEAR, f"within {BAND} px of a border"))]
    height, width = scenes[0][0].shape[:2]
    figure = Figure((2.6 * len(titles), 2.6 * rows * height / width + 0.7), layout="constrained")
    for line, pictures in zip(figure.subplots(rows, len(titles), squeeze=False), scenes, strict=True):
        for ax, picture in zip(line, pictures, strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
    for ax, title in zip(figure.axes, titles, strict=False):
        ax.set_title(title)
    figure.legend(handles=legend, loc="outside lower center", ncols=-(-len(legend) // 2), frameon=False)
    FigureCanvasAgg(figure).print_png(path)


def chosen(dataset, rows):
    """Scenes from all over the data set; for a foreground of those that have some of it."""
    indices = np.arange(len(dataset))
    if isinstance(dataset, Foreground):
        share = np.array([(dataset[i][1] == 1).mean() for i in range(len(dataset))])
        indices = np.flatnonzero(share >= np.median(share))
    return indices[np.linspace(0, len(indices) - 1, rows).round().astype(int)]


def colors(dataset):
    """The classes that have a colour in the pictures, with it."""
    if isinstance(dataset, Foreground):
        return []
    return [(name, "#" + bytes(dataset.palette[i]).hex()) for i, name in enumerate(dataset.classes)]


def paint(dataset, image, classes):
    """The classes in their colours; of a foreground the cut-out: the image where it is, white elsewhere."""
    if isinstance(dataset, Foreground):
        return np.where((classes == 1)[..., None], image, 1.0)
    return dataset.palette[classes]


def errors(dataset, image, mask, output):
    """The image in pale grey, wrong pixels in red; pixels without a true class are never wrong."""
    picture = pale(image)
    picture[(output != mask) & (mask != dataset.ignore_index)] = WRONG
    return picture


def differences(dataset, image, mask, first, second):
    """The image in pale grey, the band along the borders tinted, and the pixels that only one has right."""
    picture = pale(image)
    band = border_band(mask)
    picture[band] = 0.5 * picture[band] + 0.5 * np.array(NEAR)
    picture[(second == mask) & (first != mask)] = RIGHT
    picture[(first == mask) & (second != mask)] = WRONG
    return picture


def pale(image):
    return np.repeat(0.6 + 0.4 * image.mean(-1, keepdims=True), 3, axis=-1)


# The command


def parse(arguments=None):
    parser = argparse.ArgumentParser(prog="python -m examples.segmentation", description=__doc__.split("\n")[0])
    parser.add_argument("--data", metavar="DIR", help="folder in CamVid's layout (default: generated scenes)")
    parser.add_argument("--epochs", type=int, help="passes over the training images")
    parser.add_argument("--batch-size", type=int, help="images per step")
    parser.add_argument("--lr", type=float, help="the highest learning rate")
    parser.add_argument("--balance", type=float, help="class weights: 1 median-frequency, 0 none")
    parser.add_argument("--widths", type=int, nargs="+", help="channels of the blocks from the top down")
    parser.add_argument("--no-skips", dest="skips", action="store_false", help="leave the skip connections out")
    parser.add_argument("--compare", action="store_true", help="train without skips and with them, and compare")
    parser.add_argument("--foreground", metavar="NAMES", help="classes to tell from the rest, such as car,person")
    parser.add_argument("--loss", choices=("bce", "dice"), help="of a foreground: cross-entropy (default) or overlap")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--sync-batch-norm", action="store_true", help="under mpiexec: over all ranks' images")
    parser.add_argument("--out", metavar="DIR", default="out/segmentation", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", nargs="+", help="only evaluate; two are compared")
    parser.add_argument("--split", metavar="NAME", default="val", help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.about = about(parser, arguments)
    if len(options.evaluate or ()) > 2:
        parser.error(f"--evaluate: {len(options.evaluate)} checkpoints; give one, or two to compare")
    if options.compare and not options.skips:
        parser.error("--compare trains with skips and without; give it or --no-skips")
    if options.loss and not options.foreground:
        parser.error("--loss is for the foreground; name its classes with --foreground")
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
        models, dataset = restore(options.evaluate, options)
        report(models, dataset, f"{options.out}/{options.split}.png")
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
