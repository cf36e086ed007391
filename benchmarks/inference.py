"""The networks' forward pass in evaluation: tinynet against PyTorch, ONNX Runtime and OpenVINO."""

from benchmarks import NETWORKS, random_batch
from benchmarks.comparison import MOST_OUTPUT, RATIO, batch_name, exact_trainer, in_float32, trainers, ways
from benchmarks.exported import RUNTIMES, exported
from benchmarks.measure import alternate, checked_error, fastest, row, small, table
from benchmarks.torch_side import BFLOAT16


def lines(run):
    """The section's lines, each as soon as it is known."""
    floats, everything, remark = ways()
    yield "![PyTorch's time / tinynet's, for each network](pictures/ratios.png)"
    yield ""
    yield f"float32, also in ONNX Runtime and OpenVINO, which run what torch.onnx.export gives. {remark}"
    yield ""
    others = [f"{name} / tinynet" for name in RUNTIMES]
    head = ("tinynet", "PyTorch", "its way", RATIO, *RUNTIMES, *others, "PyTorch, bfloat16", "difference")
    yield from table("ms: median (minimum; quartiles)", *head)
    for name, images in NETWORKS.items():
        for batch_images in (images, images._replace(count=1)):
            yield _timed(name, batch_images, floats, everything, run)


def _timed(name, images, floats, everything, run):
    batch = random_batch(name, images)
    contestants = trainers(name, batch, everything)
    state = contestants["tinynet"].model.state_dict()
    contestants |= exported(contestants["contiguous"], run.machine.threads)
    true = exact_trainer(name, batch, state).outputs()
    errors = {
        key: checked_error(f"{batch_name(name, images)}, {key}", each.outputs(), true, MOST_OUTPUT)
        for key, each in in_float32(contestants).items()
    }
    for key in contestants.keys() - RUNTIMES.keys():
        contestants[key].model.eval()
    times = alternate({key: each.infer for key, each in contestants.items()}, run.turns)
    best = fastest(times, [way.name for way in floats])
    rivals = [times[key] for key in RUNTIMES]
    own = times["tinynet"].median
    ratios = [each.median / own for each in (times[best], *rivals)]
    run.figures[batch_name(name, images)] = dict(zip(("PyTorch", *RUNTIMES), ratios, strict=True))
    first, *rest = [f"{ratio:.2f}" for ratio in ratios]
    return row(
        batch_name(name, images),
        times["tinynet"],
        times[best],
        best,
        first,
        *rivals,
        *rest,
        times.get(BFLOAT16.name, ""),
        small(max(errors.values())),
    )
