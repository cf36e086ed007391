"""README.md's pictures of the figures in results.json: python -m benchmarks.pictures draws them anew."""

import json
import math
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

HERE = Path(__file__).parent
RESULTS, FOLDER = HERE / "results.json", HERE / "pictures"
OWN, OTHER, GREY = "#1b7837", "#d6604d", "#777777"


def results():
    """{part: its figures}, of the last time that each was measured with --write."""
    return json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}


def remember(part, figures):
    text = json.dumps(results() | {part: figures}, indent=1)
    RESULTS.write_text(text + "\n", encoding="utf-8")


def draw_all():
    """Each picture whose parts have been measured."""
    known = results()
    FOLDER.mkdir(exist_ok=True)
    for name, (draw, parts) in PICTURES.items():
        if all(part in known for part in parts):
            figure = draw(*(known[part] for part in parts))
            FigureCanvasAgg(figure).print_png(FOLDER / f"{name}.png")


def ratios(steps, inference):
    """How many times as long PyTorch takes, training and inference of each network side by side."""
    names = [name for name in steps if ", 1 x" not in name]
    figure = Figure((7, 3.4), dpi=100, layout="constrained")
    ax = figure.subplots()
    series = {
        "training step": (OWN, [steps[name] for name in names]),
        "inference": ("#7fbf7b", [inference[name]["PyTorch"] for name in names]),
    }
    for shift, (label, (color, values)) in zip((-0.2, 0.2), series.items(), strict=True):
        places = [i + shift for i in range(len(names))]
        bars = ax.bar(places, values, 0.38, color=color, label=label)
        ax.bar_label(bars, [f"{value:.2f}" for value in values], padding=2)
    ax.axhline(1, color=OTHER, linewidth=1.5)
    ax.annotate(
        "PyTorch's\nbest",
        (len(names) - 0.5, 1),
        (6, 0),
        textcoords="offset points",
        color=OTHER,
        va="center",
        annotation_clip=False,
    )
    ax.set_xlim(-0.5, len(names) - 0.5)
    ax.set_xticks(range(len(names)), [name.replace(", ", "\n").replace(" x ", "×") for name in names])
    ax.set_ylabel("PyTorch's time / tinynet's")
    ax.set_ylim(0, 1.25 * max(max(values) for _, values in series.values()))
    ax.spines[["top", "right"]].set_visible(False)
    ax.legend(frameon=False, loc="upper right", ncols=2)
    ax.set_title("Times as fast as PyTorch's best (eager or compiled), by network", loc="left")
    return figure


def growth(panels):
    """Four panels: milliseconds of a training step against the batch, the image, the width, the threads."""
    figure = Figure((9, 6.5), dpi=90, layout="constrained")
    for ax, (panel, curve) in zip(figure.subplots(2, 2).flat, panels.items(), strict=True):
        xs, own, other = zip(*curve, strict=True)
        ax.plot(xs, [1e3 * t for t in own], "o-", color=OWN, label="tinynet")
        ax.plot(xs, [1e3 * t for t in other], "s--", color=OTHER, label="PyTorch")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ax.set_xticks(xs, [str(x) for x in xs])
        ax.set_title(panel.format(x="x"), fontsize="medium")
        ax.set_xlabel("x")
        ax.set_ylabel("ms a training step")
        ax.grid(True, which="major", alpha=0.3)
    figure.axes[0].legend(frameon=False)
    return figure


def roofline(figures):
    """A dot for each kernel: operations a byte against speed, under the two roofs."""
    figure = Figure((8, 5), dpi=90, layout="constrained")
    ax = figure.subplots()
    peak, bandwidth = (figures["roofs"][name] / 1e9 for name in ("peak", "bandwidth"))
    ridge = peak / bandwidth
    dots = [dot for kind in figures["dots"].values() for dot in kind]
    low, high = min(x for _, x, _ in dots) / 1.5, max(x for _, x, _ in dots) * 1.5
    low, high = min(low, ridge / 2), max(high, 2 * ridge)
    ax.plot([low, ridge, high], [low * bandwidth, peak, peak], color=GREY, linewidth=2)
    ax.text(low, peak * 0.6, f"memory: {bandwidth:.0f} GB/s", color=GREY)
    ax.text(ridge, peak * 1.1, f"multiply-adds: {peak:.0f} GFLOP/s", color=GREY)
    for (kind, each), (marker, color) in zip(figures["dots"].items(), MARKERS, strict=True):
        ax.plot(
            [x for _, x, _ in each], [y / 1e9 for *_, y in each], marker, color=color, label=kind, alpha=0.8
        )
    lowest = {}
    for layer, intensity, speed in dots:
        _, least = lowest.get(layer, (intensity, math.inf))
        lowest[layer] = intensity, min(speed / 1e9, least)
    for layer, place in lowest.items():
        ax.annotate(
            layer.replace("transposed", "tr."),
            place,
            (2, -5),
            textcoords="offset points",
            fontsize=6.5,
            color=GREY,
            rotation=-40,
            rotation_mode="anchor",
            ha="left",
            va="top",
        )
    ax.set_xscale("log")
    ax.set_yscale("log")
    ax.margins(y=0.15)
    ax.set_xlabel("operations of the definition for each byte read or written")
    ax.set_ylabel("GFLOP/s")
    ax.set_title("Convolutions of a training step of the FCN", loc="left")
    ax.grid(True, which="major", alpha=0.3)
    ax.legend(frameon=False, loc="lower right")
    return figure


MARKERS = (("o", OWN), ("s", "#2166ac"), ("^", OTHER))

# name: (what draws it, the parts whose figures it takes)
PICTURES = {
    "ratios": (ratios, ["steps", "inference"]),
    "growth": (growth, ["growth"]),
    "roofline": (roofline, ["roofline"]),
}


if __name__ == "__main__":
    draw_all()
