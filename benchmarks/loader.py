"""How long training waits for its data: the example of segmentation on augmented, generated scenes."""

import time
from contextlib import closing

import tinynet as tn
from benchmarks.measure import number, row, table
from examples import segmentation
from tinynet import data, optim

SCENES, SIZE = 128, 128
SETTINGS = segmentation.SCENES
WORKERS = 0, 1  # the example's is 1


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield (
        f"An epoch of {SCENES} scenes in batches of {SETTINGS['batch_size']}. The first paints "
        "the scenes, later ones have them."
    )
    yield ""
    yield from table(
        "workers, epoch", "seconds", "of these waiting for data", "share", "images a second, data alone"
    )
    for workers in WORKERS:
        scenes = data.Scenes(SCENES, size=(SIZE, SIZE), seed=0, cache=True)
        step = trainer(scenes)
        loader = data.DataLoader(
            segmentation.augmented(scenes, is_photos=False),
            SETTINGS["batch_size"],
            shuffle=True,
            workers=workers,
            drop_last=True,
        )
        for name, epoch in (("first", 0), ("later", 1)):
            waited = loader.waited
            seconds = epoch_time(loader, epoch, step)
            waited = loader.waited - waited
            alone = SCENES / epoch_time(loader, epoch, lambda batch: None) if epoch else None
            share = run.figures[f"{workers}, {name}"] = waited / seconds
            yield row(
                f"{workers}, {name}",
                number(seconds),
                number(waited),
                f"{100 * share:.1f} %",
                number(alone) if alone else "",
            )


def trainer(scenes):
    """A function that trains the example's network on a batch; warmed up."""
    model = segmentation.FCN(len(scenes.classes), SETTINGS["widths"])
    optimizer = optim.AdamW(model.parameters(), lr=SETTINGS["lr"])

    def step(batch):
        images, masks = batch
        optimizer.zero_grad()
        tn.cross_entropy(model(tn.Tensor(images)), masks, ignore_index=scenes.ignore_index).backward()
        optimizer.step()

    image, mask = data.Scenes(1, size=(SIZE, SIZE), seed=1)[0]
    step((image[None], mask[None]))  # compiles
    return step


def epoch_time(loader, epoch, step):
    began = time.perf_counter()
    with closing(loader.batches(epoch)) as batches:
        for batch in batches:
            step(batch)
    return time.perf_counter() - began
