"""Whole training steps of the networks: tinynet against PyTorch, eager and compiled, in two layouts."""

from benchmarks import NETWORKS, random_batch
from benchmarks.comparison import ERROR_HEAD, RATIO, batch_name, error_rows, in_float32, trainers, ways
from benchmarks.measure import alternate, fastest, row, table
from benchmarks.torch_side import BFLOAT16


def lines(run):
    """The section's lines, each as soon as it is known."""
    floats, everything, remark = ways()
    yield f"Adam, float32. {remark}"
    yield ""
    yield from table(
        "ms: median (minimum; quartiles)", "tinynet", "PyTorch", "its way", RATIO, "PyTorch, bfloat16"
    )
    errors = []
    for name, images in NETWORKS.items():
        for batch_images in (images, images._replace(count=1)):
            yield _timed(name, batch_images, floats, everything, run, errors)
    yield ""
    yield from table(*ERROR_HEAD)
    yield from errors


def _timed(name, images, floats, everything, run, errors):
    """The table's row; the rows of the other table are added to `errors`."""
    batch = random_batch(name, images)
    contestants = trainers(name, batch, everything)
    if images.count > 1:
        errors += error_rows(name, batch, in_float32(contestants))
    times = alternate({key: trainer.step for key, trainer in contestants.items()}, run.turns)
    best = fastest(times, [way.name for way in floats])
    ratio = times[best].median / times["tinynet"].median
    run.figures[batch_name(name, images)] = ratio
    return row(
        batch_name(name, images),
        times["tinynet"],
        times[best],
        best,
        f"{ratio:.2f}",
        times.get(BFLOAT16.name, ""),
    )
