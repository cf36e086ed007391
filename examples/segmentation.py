"""FCN: every pixel of a street scene gets a class, by an hour-glass of convolutions with skip connections.

    python -m examples.segmentation                      learns generated scenes, in a minute or two
    python -m examples.segmentation --data camvid        learns CamVid's photos (folder with train.txt, val.txt)
    python -m examples.segmentation --evaluate out/segmentation/best.safetensors --data camvid --split val

On the way down, blocks of convolutions find *what* there is and pooling makes the picture smaller, so that each pixel
comes to know its surroundings. On the way up, transposed convolutions make it large again. But pooling has lost *where*
exactly things are. So the features of each block on the way down are added to those of the same size on the way up:

    image --> block 1 --------------------(+)--> refine --> 1x1 convolution --> a score for each class at each pixel
                 | pool                    | up
                 block 2 -------------(+)--> refine
                    | pool              | up
                    block 3 ------> ... --

Without these skips (`--no-skips`) the same layers have to paint the borders from memory.

Long, Shelhamer, Darrell, Fully convolutional networks for semantic segmentation, CVPR 2015 (arXiv:1411.4038);
Ronneberger et al., U-Net, MICCAI 2015 (arXiv:1505.04597).
"""

import argparse
import sys
from pathlib import Path

import numpy as np

import tinynet as tn
from tinynet import data, metrics, nn, optim, training
from tinynet.checkpoint import load_checkpoint, read_description

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
        return model(tn.Tensor(image[None])).data[0].argmax(-1)


# The data

# What is good for each kind of data, found by trying; any of it can be given on the command line.
SCENES = {"epochs": 9, "batch_size": 8, "lr": 4e-3, "balance": 0.3, "widths": (16, 32, 64, 96, 128)}
PHOTOS = {"epochs": 70, "batch_size": 4, "lr": 3e-3, "balance": 0.5, "widths": (16, 32, 64, 128, 192)}


def load(split, folder):
    """The images of a split with their masks: of the folder, or generated ones if there is none."""
    return data.CamVid(folder, split, cache=True) if folder else generated(split)


def generated(split):
    """Drawn street scenes; those of "val" are none of those of "train"."""
    count, seed = {"train": (1000, 0), "val": (100, 1)}.get(split, (0, 0))
    if not count:
        raise ValueError(f"--split {split}: generated scenes have the splits train and val")
    return data.Scenes(count, size=(128, 128), seed=seed, cache=True)


def augmented(dataset):
    """The training images mirrored, resized, cropped and relit at random."""
    if isinstance(dataset, data.Scenes):
        return data.Augmented(dataset, data.Flip())
    size = dataset[0][1].shape
    crop = tuple(n * 2 // 3 for n in size)
    return data.Augmented(
        dataset,
        data.Scale(0.8, 1.25),
        data.Crop(crop, dataset.ignore_index),
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
    train_set, val_set = load("train", options.data), load(options.split, options.data)
    tn.manual_seed(options.seed)
    classes, widths = list(train_set.classes), options.widths
    model = FCN(len(classes), widths, skips=options.skips)
    weights = class_weights(train_set, options.balance)
    loader = data.DataLoader(augmented(train_set), options.batch_size, shuffle=True, seed=options.seed,
                             workers=options.workers, drop_last=True)
    optimizer = optim.AdamW(model.parameters(), lr=options.lr)
    print(f"FCN {'with' if options.skips else 'without'} skips, "
          f"{sum(p.size for p in model.parameters()):,} parameters; {len(train_set)} training images")

    def loss_fn(model, batch):
        images, masks = batch
        return tn.cross_entropy(model(tn.Tensor(images)), masks, weight=weights, ignore_index=train_set.ignore_index)

    def after_epoch(epoch, model, row):
        if epoch in (1, 2, 4) or epoch % 10 == 0 or epoch == options.epochs:
            draw(Path(options.out) / f"epoch-{epoch:03d}.png", val_set, {"output": model})

    training.fit(
        model, optimizer, loader, loss_fn,
        epochs=options.epochs,
        out=options.out,
        schedule=optim.OneCycleLR(options.lr, options.epochs * len(loader)),
        evaluate=lambda model: figures(evaluate(model, val_set)),
        follow=("mean_iou", max),
        after_epoch=after_epoch,
        resume=options.resume,
        config={"classes": classes, "widths": list(widths), "skips": options.skips, "seed": options.seed,
                "batch_size": options.batch_size, "lr": options.lr, "epochs": options.epochs,
                "balance": options.balance},
    )
    report({"output": model}, val_set, Path(options.out) / "scenes.png")


# Evaluation


def evaluate(model, dataset):
    """The confusion matrix of the model over all images of the data set, each at its full size."""
    confusion = metrics.ConfusionMatrix(len(dataset.classes), dataset.ignore_index, dataset.classes)
    for i in range(len(dataset)):
        image, mask = dataset[i]
        confusion.update(predict(model, image), mask)
    return confusion


def figures(confusion):
    return {"pixel_accuracy": confusion.pixel_accuracy(), "class_average": confusion.class_average(),
            "mean_iou": confusion.mean_iou()}


def report(models, dataset, picture):
    """Print each model's figures on the data set and draw what they see."""
    for name, model in models.items():
        model.eval()
        confusion = evaluate(model, dataset)
        print(f"\n{name}: {len(dataset)} images\n{confusion}\nmean IoU {confusion.mean_iou():.3f}")
    draw(picture, dataset, models)
    print(f"picture: {picture}")


def restore(path, dataset):
    """The model of a checkpoint, which must be one for the data set's classes."""
    description = read_description(path)
    config = description["config"]
    if description["model"] != "FCN" or config.get("classes") != list(dataset.classes):
        raise ValueError(f"--evaluate {path}: it holds a {description['model']} for the classes "
                         f"{config.get('classes')}, but the data's are {list(dataset.classes)}")
    model = FCN(len(dataset.classes), config["widths"], skips=config["skips"])
    load_checkpoint(path, model)
    return model


# Pictures


def draw(path, dataset, models, rows=4):
    """A row a scene: the input, the truth, and for each model its output and, in red, where that is wrong."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

    chosen = np.linspace(0, len(dataset) - 1, rows).round().astype(int)
    titles = ["input", "truth"] + [title for name in models for title in (name, "error")]
    height, width = dataset[0][1].shape
    figure = Figure((2.6 * len(titles), 2.6 * rows * height / width + 0.7), layout="constrained")
    axes = figure.subplots(rows, len(titles), squeeze=False)
    palette = np.asarray(dataset.palette)
    for line, index in zip(axes, chosen, strict=True):
        image, mask = dataset[int(index)]
        shown = [image, palette[mask]]
        for model in models.values():
            output = predict(model, image)
            shown += [palette[output], errors(image, mask, output, dataset.ignore_index)]
        for ax, picture in zip(line, shown, strict=True):
            ax.imshow(picture, interpolation="nearest")
            ax.set_axis_off()
    for ax, title in zip(axes[0], titles, strict=True):
        ax.set_title(title)
    legend = [Patch(color=palette[i] / 255, label=name) for i, name in enumerate(dataset.classes)]
    figure.legend(handles=legend, loc="outside lower center", ncols=-(-len(legend) // 2), frameon=False)
    FigureCanvasAgg(figure).print_png(path)


def errors(image, mask, output, ignore_index):
    """The image in pale grey, wrong pixels in red; pixels without a true class are never wrong."""
    grey = np.repeat(0.6 + 0.4 * image.mean(-1, keepdims=True), 3, axis=-1)
    wrong = (output != mask) & (mask != ignore_index if ignore_index is not None else True)
    grey[wrong] = (0.85, 0.1, 0.1)
    return grey


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
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="threads that prepare batches (default: %(default)s)")
    parser.add_argument("--out", metavar="DIR", default="out/segmentation", help="(default: %(default)s)")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoint in --out")
    parser.add_argument("--evaluate", metavar="CHECKPOINT", nargs="+", help="only evaluate; several are compared")
    parser.add_argument("--split", metavar="NAME", default="val", help="what to evaluate on (default: %(default)s)")
    options = parser.parse_args(arguments)
    for name, value in (PHOTOS if options.data else SCENES).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    return options


def main(arguments=None):
    options = parse(arguments)
    try:
        if not options.evaluate:
            train(options)
            return
        training.make_folder(options.out)
        dataset = load(options.split, options.data)
        models = {}
        for path in options.evaluate:
            model = restore(path, dataset)
            name = "with skips" if model.skips else "without skips"
            models[f"{name} ({path})" if name in models else name] = model
        report(models, dataset, Path(options.out) / f"{options.split}.png")
    except (OSError, ValueError) as error:  # what the user gave doesn't fit: the sentence is enough
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main()
