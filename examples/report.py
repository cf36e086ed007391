"""report.html: a run's files made into one page that fetches nothing, to watch a network learn epoch by epoch.

It shows what lies in the run's folder, as tinynet/training.py and examples/record.py have written it, and leaves out
what doesn't: metrics.csv, and in the folder `report` the pictures of the epochs, the filters, the confusion matrix,
the model's summary and its graph. Of several runs it shows each thing side by side. The page around all that, with its
style and script, is examples/report_template.html.
"""

import base64
import csv
import html
import json
import math
from pathlib import Path
from string import Template

from tinynet.safetensors import write_atomically
from tinynet.training import METRICS

PAGE, FOLDER = "report.html", "report"
FILES = ("about.json", "given-*.webp", "shown-*.webp", "filters-*.webp", "confusion.csv", "summary.html", "graph.svg")
TEMPLATE = Template(Path(__file__).with_name("report_template.html").read_text(encoding="utf-8"))
escape = html.escape


def write(folder, runs):
    """Write report.html into `folder`, about the runs, a dict of name to folder; of a single run the name may be ""."""
    runs = [Run(name, Path(path), number) for number, (name, path) in enumerate(runs.items())]
    about = runs[0].about
    what, _, idea = about.get("what", "A network").partition(": ")
    page = TEMPLATE.substitute(
        title=escape(what), idea=escape(idea[:1].upper() + idea[1:]), controls=controls(runs), watch=watch(runs),
        curves=curves(runs), confusion=confusion(runs), network=network(runs), graph=graphs(runs),
        numbers=numbers(runs), made=made(about))
    write_atomically(Path(folder) / PAGE, [page.encode()])


def section(name, title, content):
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{title}</h2>\n{content}</section>'


class Run:
    """What a run's folder holds: .about, .rows (of metrics.csv, as floats), and paths of pictures by their epoch."""

    def __init__(self, name, folder, number):
        self.name, self.folder, self.number = name, folder / FOLDER, number
        self.of = f" ({name})" if name else ""
        self.about = json.loads(self.text("about.json") or "{}")
        self.rows = []
        if (folder / METRICS).exists():
            with open(folder / METRICS, newline="", encoding="utf-8") as file:
                self.rows = [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]
        self.last = int(self.rows[-1]["epoch"]) if self.rows else 0

    def text(self, name):
        """The text of a file of the report's folder, "" if there is none."""
        path = self.folder / name
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def pictures(self, kind):
        """{epoch: path} of what was drawn so far."""
        return {int(path.stem.rpartition("-")[2]): path for path in sorted(self.folder.glob(f"{kind}-*.webp"))}


# The pictures by epoch

def controls(runs):
    """The slider, which counts the epochs that have pictures; the script shows it."""
    epochs = sorted({epoch for run in runs for epoch in run.pictures("shown")})
    if not epochs:
        return ""
    last = len(epochs) - 1
    return f"""<div class="controls" id="controls" hidden><label for="epoch">Epoch</label>
<input type="range" id="epoch" min="0" max="{last}" value="{last}" data-epochs="{epochs}">
<output for="epoch" id="said">{epochs[-1]}</output><button type="button" id="play">Play</button></div>"""


def watch(runs):
    """What the slider moves: the pictures and the filters of each epoch."""
    drawn = [path for run in runs for path in run.pictures("shown").values()]
    if not drawn:
        return ""
    about = runs[0].about
    rows = [f'<h3>{escape(name)}</h3>{image(runs[0].folder / f"given-{i}.webp", name)}'
            for i, name in enumerate(about.get("given", ())) if (runs[0].folder / f"given-{i}.webp").exists()]
    shown = about.get("shown", "output")
    if len(runs) > 1:
        rows.append(f"<p>Below each network's name: {escape(shown)}.</p>")
    rows += [f"<h3>{escape(run.name or shown)}</h3>{film(run, 'shown', shown)}" for run in runs]
    width, _ = size_of(drawn[0])
    filters = "".join(f"<div>{heading(run)}{film(run, 'filters', 'filters')}</div>" for run in runs)
    return section("watch", "Watch it learn", f"""
<p>A few images that the network is not trained on, the same ones after each epoch. The slider moves the pictures, the
filters and the dots on the curves; arrow keys move it by one.</p>
{legend(about.get("legend", ()))}
{scrolling("pictures by epoch", f'<div class="strips" style="--drawn: {width}px">{"".join(rows)}</div>')}
<h3 class="large">The first layer's filters</h3>
<p>What each of its convolution's windows looks for, and against: grey is 0.</p>
<div class="filters">{filters}</div>""")


def film(run, kind, what):
    """All pictures of a kind, of which the page shows one; without scripts the last."""
    pictures = run.pictures(kind)
    last = max(pictures, default=None)
    frames = (image(path, f"{what}{run.of} {when(epoch)}", f' data-epoch="{epoch}"{"" if epoch == last else " hidden"}')
              for epoch, path in pictures.items())
    return f'<div class="film">{"".join(frames)}</div>'


def when(epoch):
    return f"after epoch {epoch}" if epoch else "before training"


def image(path, alt, more=""):
    """A picture within the page."""
    width, height = size_of(path)
    return (f'<img width="{width}" height="{height}" alt="{escape(alt)}"{more} '
            f'src="data:image/webp;base64,{base64.b64encode(path.read_bytes()).decode()}">')


def size_of(path):
    from PIL import Image

    with Image.open(path) as picture:
        return picture.size


def legend(entries):
    items = "".join(f'<li><span class="swatch" style="background: {escape(colour)}"></span>{escape(name)}</li>'
                    for name, colour in entries)
    return f'<ul class="legend">{items}</ul>' if items else ""


def heading(run):
    return f"<h3>{escape(run.name)}</h3>" if run.name else ""


def scrolling(label, content):
    """A box in which wide content scrolls, by keyboard too."""
    return f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}">{content}</div>'


# The curves

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 320, 190, 46, 10, 12, 24  # of a chart, and its margins


def curves(runs):
    """A chart for each column of metrics.csv, with a line for each run."""
    names = [name for name in (runs[0].rows or [{}])[0] if name not in ("epoch", "step")]
    if not names:
        return ""
    key = "".join(f'<li><svg width="34" height="12" aria-hidden="true"><path class="line run{run.number}" '
                  f'd="M1 6H33"/></svg>{escape(run.name)}</li>' for run in runs if run.name)
    charts = "".join(f"<figure><figcaption>{escape(words(name))}</figcaption>{chart(name, runs)}</figure>"
                     for name in names)
    return section("curves", "Curves", f"""
<p>By epoch. <em>loss</em> is the mean over the epoch's batches, as they were met in training; <em>lr</em> is the
learning rate at its end; the others are measured after each epoch on images that the network is not trained on, if
their name doesn't say otherwise.</p>
{f'<ul class="legend">{key}</ul>' if key else ""}<div class="charts">{charts}</div>""")


def chart(name, runs):
    """One column's values by epoch, an SVG."""
    lines = {run: [(int(row["epoch"]), row[name]) for row in run.rows if math.isfinite(row.get(name, math.nan))]
             for run in runs}
    points = [point for line in lines.values() for point in line]
    if not points:
        return "<p>no finite value yet</p>"
    values = [y for _, y in points]
    bottom, top = min(values), max(values)
    bottom = 0.0 if 0 <= bottom < 0.4 * top else bottom
    y_ticks = ticks(bottom, top, 4)
    bottom, top = min(bottom, y_ticks[0]), max(top, y_ticks[-1])
    end = max(2, *(run.last for run in runs))

    def x_of(epoch):
        return LEFT + (epoch - 1) / (end - 1) * (WIDTH - LEFT - RIGHT)

    def y_of(value):
        return HEIGHT - BOTTOM - (value - bottom) / ((top - bottom) or 1) * (HEIGHT - TOP - BOTTOM)

    parts = [f'<path class="grid" d="M{LEFT} {y_of(y):.1f}H{WIDTH - RIGHT}"/><text class="y" x="{LEFT - 6}" '
             f'y="{y_of(y) + 4:.1f}">{number(y)}</text>' for y in y_ticks]
    parts.append(f'<path class="grid" d="M{LEFT} {HEIGHT - BOTTOM}H{WIDTH - RIGHT}"/>')
    parts += [f'<text class="x" x="{x_of(x):.1f}" y="{HEIGHT - 7}">{x}</text>' for x in epoch_ticks(end)]
    for run, line in lines.items():
        path = "L".join(f"{x_of(x):.1f} {y_of(y):.1f}" for x, y in line)
        parts.append(f'<path class="line run{run.number}" d="M{path}"/>' if line else "")
        parts += [dot(run, x, y, x_of(x), y_of(y), is_alone=len(runs) == 1) for x, y in line]
    said = "; ".join(f"{run.name + ' ' if run.name else ''}from {number(line[0][1])} to {number(line[-1][1])}"
                     for run, line in lines.items() if line)
    return (f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img"{" class=many" if end > 60 else ""} '
            f'aria-label="{escape(words(name))} by epoch: {escape(said)}">{"".join(parts)}</svg>')


def dot(run, epoch, value, x, y, is_alone):
    """A dot on a curve, with its value as text where it's the only one of its epoch."""
    above = y - 8 if y > TOP + 14 else y + 18
    text = f'<text x="{min(max(x, LEFT + 30), WIDTH - 28):.1f}" y="{above:.1f}">{number(value)}</text>'
    return (f'<g class="point run{run.number}" data-epoch="{epoch}"><circle cx="{x:.1f}" cy="{y:.1f}" r="2.5">'
            f"<title>{escape(run.name)} epoch {epoch}: {number(value)}</title></circle>{text if is_alone else ''}</g>")


def ticks(low, high, count):
    """Round numbers from low to high, about `count` of them: steps of 1, 2 or 5 times a power of ten."""
    if high <= low:
        return [low]
    rough = (high - low) / count
    power = 10 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)
    return [i * step for i in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def epoch_ticks(end):
    step = max(1, round(ticks(0, end, 5)[1]))
    return [1, *range(step if step > 1 else 2, end + 1, step)]


def words(name):
    """A column's name as people write it."""
    return name.replace("_", " ").replace("iou", "IoU")


def number(value):
    return f"{value:.4g}" if math.isfinite(value) else str(value)


# The tables

def confusion(runs):
    """Each run's latest confusion matrix, each row in per cent."""
    tables = [(run, list(csv.reader(run.text("confusion.csv").splitlines()))) for run in runs]
    parts = [heading(run) + scrolling(f"confusion matrix{run.of}", confusion_table(rows[0], rows[1:]))
             for run, rows in tables if rows]
    if not parts:
        return ""
    return section("confusion", "What is taken for what", f"""
<p>A row for each true class, a column for each class found: of a hundred that are <em>this</em>, so many were taken for
<em>that</em>, after the last epoch. The diagonal is what is right. Empty is none at all, 0 less than half of one.</p>
<div class="side">{"".join(f"<div>{part}</div>" for part in parts)}</div>""")


def confusion_table(names, counts):
    head = "".join(f'<th scope="col"><span>{escape(name)}</span></th>' for name in names)
    lines = []
    for i, (name, row) in enumerate(zip(names, counts, strict=True)):
        row = [int(count) for count in row]
        total = sum(row)
        cells = "".join(confusion_cell(count / max(total, 1), i == j) for j, count in enumerate(row))
        lines.append(f'<tr><th scope="row">{escape(name)}</th>{cells}<td class="total">{total:,}</td></tr>')
    return (f'<table class="confusion"><thead><tr><th scope="col" class="corner">true</th>{head}'
            f'<th scope="col" class="total"><span>how many</span></th></tr></thead>'
            f'<tbody>{"".join(lines)}</tbody></table>')


def confusion_cell(share, right):
    strength = share if right else math.sqrt(share)  # few mistakes are to be seen, too
    return (f'<td class="{"right" if right else "wrong"}" style="--strength: {strength:.1%}">'
            f'{round(100 * share) if share else ""}</td>')


def numbers(runs):
    """metrics.csv as tables."""
    parts = [folded(run, "each epoch's figures", scrolling(f"figures{run.of}", numbers_table(run.rows)))
             for run in runs if run.rows]
    return section("numbers", "Figures", "".join(parts)) if parts else ""


def numbers_table(rows):
    names = [name for name in rows[0] if name != "step"]
    head = "".join(f'<th scope="col">{escape(words(name))}</th>' for name in names)
    lines = (f'<tr data-epoch="{row["epoch"]:.0f}">{"".join(f"<td>{number(row[name])}</td>" for name in names)}</tr>'
             for row in rows)
    return f'<table class="numbers"><thead><tr>{head}</tr></thead><tbody>{"".join(lines)}</tbody></table>'


def network(runs):
    """Each model's summary; its HTML is tinynet's own."""
    parts = [folded(run, "layer by layer", scrolling(f"the network's layers{run.of}", run.text("summary.html")),
                    is_open=len(runs) == 1) for run in runs if run.text("summary.html")]
    if not parts:
        return ""
    return section("network", "The network", f"""
<p>Layer by layer, for one image: what comes out, what it costs, and how much of the image a value of it
<em>sees</em>.</p>
{"".join(parts)}""")


def graphs(runs):
    """Each model's graph, in a frame of its own: an SVG's style would else be that of the whole page."""
    parts = []
    for run in runs:
        svg = run.text("graph.svg")
        if svg:
            width, height = (svg.partition(f'{side}="')[2].partition('"')[0] for side in (" width", " height"))
            frame = (f'<iframe sandbox title="graph{escape(run.of)}" width="{escape(width)}" height="{escape(height)}" '
                     f'srcdoc="{escape(FRAME + svg)}"></iframe>')
            parts.append(folded(run, "the graph", scrolling(f"the graph{run.of}", frame), is_open=False))
    if not parts:
        return ""
    return section("graph", "The graph of the first step", f"""
<p>What was computed in the first training step, downwards in time; backward() walks it upwards. Pointing at a box
shows its formula.</p>{"".join(parts)}""")


FRAME = ('<!DOCTYPE html><meta name="color-scheme" content="light dark">'
         "<style>body { margin: 0 } svg { display: block }</style>")


def folded(run, what, content, is_open=False):
    return f'<details{" open" if is_open else ""}><summary>{escape(run.name or what)}</summary>{content}</details>'


def made(about):
    """The command, and what it ran with."""
    if not about:
        return ""
    rows = {**about.get("versions", {}), "machine": about.get("machine", "")}
    table = "".join(f'<tr><th scope="row">{escape(name)}</th><td>{escape(text)}</td></tr>'
                    for name, text in rows.items())
    return section("made", "Made by", f"""
<pre tabindex="0" aria-label="the command"><code>{escape(about.get("command", ""))}</code></pre>
<table class="made"><tbody>{table}</tbody></table>""")
