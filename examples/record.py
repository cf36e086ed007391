"""What a run writes down as it learns, so that its report can show it: pictures, filters, mistakes, the graph.

All of it are files in the folder `report` beside the checkpoint: a run that is stopped and resumed, or killed, keeps
what it has. After each epoch examples/report.py makes the page of them anew.
"""

import copy
import csv
import io
import json
import os
import platform
import shlex
import sys
from contextlib import closing
from importlib import metadata
from pathlib import Path

import numba
import numpy as np

import tinynet as tn
from examples import report, sketch
from tinynet import metrics, random, team
from tinynet.safetensors import write_atomically
from tinynet.training import METRICS

FRAMES = 40  # epochs that are drawn, about; of more only every second, third...


def about(parser, arguments):
    """What a command is for, as its parser says, the command itself, and what it is run with."""
    given = sys.argv[1:] if arguments is None else arguments
    command = [*parser.prog.split(), *(argument for argument in given if argument != "--resume")]
    return {
        "what": parser.description,
        "command": shlex.join(command),
        "versions": {"Python": platform.python_version(), "tinynet": installed("tinynet"), "NumPy": np.__version__,
                     "numba": numba.__version__},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors, "
                   f"{numba.get_num_threads()} threads",
    }


def installed(package):
    """Its version; a package that is run from its source folder may be of any."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "from its source folder"


class Record:
    """Writes a run down; `fit` takes it as after_epoch, and training goes on to the very same bits.

    out: the run's folder;  options: with .out, the report's folder, .epochs, and .about from about().
    show(model): what it makes of a few images by now, a list of pictures (H, W, 3);  shown: what these are, in words.
    given: {name: pictures} that stay the same, as many as show gives;  legend: (name, colour as "#rrggbb") pairs.
    runs: {name: folder} of the runs that the report compares, this one among them; without it, it's of this one.
    resume: keep what there is. Otherwise what an earlier run left is removed.
    """

    def __init__(self, out, options, model, loader, loss_fn, *, show, shown, given=None, legend=(), runs=None,
                 resume=False):
        self.folder, self.epochs, self.show = Path(out) / report.FOLDER, options.epochs, show
        self.page, self.runs = Path(options.out), runs or {"": out}
        if not team.is_first():  # of several processes that train together one writes
            return
        if not (resume and (self.folder / "about.json").exists()):
            with team.joined(team.ALONE):
                self._begin(model, loader, loss_fn, given or {})
            self._write("about.json", json.dumps({**options.about, "epochs": options.epochs, "shown": shown,
                                                  "given": list(given or {}), "legend": list(legend)}, indent=1))
        report.write(self.page, self.runs)
        print(f"report, renewed after each epoch: {self.page / report.PAGE}")

    def __call__(self, epoch, model, row):
        if is_drawn(epoch, self.epochs):
            self._draw(epoch, model)
        report.write(self.page, self.runs)

    def confusion(self, names, matrix):
        """Keep how often each class was taken for each, the latest count."""
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *matrix.tolist()])
        self._write("confusion.csv", text.getvalue())

    def _begin(self, model, loader, loss_fn, given):
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder.parent / METRICS).unlink(missing_ok=True)
        for pattern in report.FILES:
            for path in self.folder.glob(pattern):
                path.unlink()
        svg, shape = first_step(model, loader, loss_fn)
        self._write("graph.svg", svg)
        self._write("summary.html", tn.summary(model, (1, *shape[1:]))._repr_html_())
        for i, pictures in enumerate(given.values()):
            sketch.save_strip(self.folder / f"given-{i}.webp", pictures)
        model.eval()
        self._draw(0, model)  # before any training
        model.train()

    def _draw(self, epoch, model):
        sketch.save_strip(self.folder / f"shown-{epoch:04d}.webp", self.show(model))
        weight = next(p for p in model.parameters() if p.ndim == 4).numpy()
        sketch.save_strip(self.folder / f"filters-{epoch:04d}.webp", sketch.filters(weight), columns=16)

    def _write(self, name, text):
        write_atomically(self.folder / name, [text.encode()])


def counts(k, found, true):
    """How often each of k classes was taken for each: a matrix (true, found) of the labels of many images."""
    confusion = metrics.ConfusionMatrix(k)
    confusion.update(found, true)
    return confusion.matrix


def is_drawn(epoch, epochs):
    """The first epoch, the last, and between them evenly so many that there are about FRAMES."""
    return epoch in (1, epochs) or epoch % -(-epochs // FRAMES) == 0


def first_step(model, loader, loss_fn):
    """The graph of the first training step as SVG, and the shape of its images; a copy of the model takes it."""
    state = random.get_state()
    with closing(loader.batches(1)) as batches:
        batch = next(batches)
    svg = tn.graph(loss_fn(copy.deepcopy(model).train(), batch)).svg
    random.set_state(state)  # dropout has drawn from it
    return svg, batch[0].shape
