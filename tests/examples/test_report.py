"""The report of a run: one page that fetches nothing and says what the folder says; in a browser its slider moves."""

import argparse
import csv
import json
import re
import types
from html.parser import HTMLParser

import numpy as np
import pytest

import tinynet as tn
from examples import record, report, sketch
from tests.examples import browser
from tinynet import data, nn, optim, random, training

pytest.importorskip("PIL")
HOSTILE = '<script>alert("x")</script>&\''


class Small(nn.Module):
    """A network with a dropout, whose random numbers a report must not take."""

    def __init__(self):
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5),
                                  nn.Conv2d(4, 3, 1))

    def forward(self, x):
        return self.body(x)


def run(out, epochs=3, page=None, is_recorded=True, resume=False, stop_in=None, **options):
    """Train a little, with a report or without; gives the model."""
    tn.manual_seed(0)
    rng = np.random.default_rng(0)
    images = rng.random((6, 8, 10, 3), dtype=np.float32)
    masks = rng.integers(0, 3, (6, 8, 10))
    model = Small()
    loader = data.DataLoader(list(zip(images, masks, strict=True)), 2, shuffle=True)

    def loss_fn(model, batch):
        if keeper and keeper.folder.exists() and len(list(keeper.folder.glob("shown-*"))) == stop_in:
            raise KeyboardInterrupt
        return tn.cross_entropy(model(tn.Tensor(batch[0])), batch[1])

    def show(model):
        assert not model.body.training
        with tn.no_grad():
            return list(tn.softmax(model(tn.Tensor(images[:4]))).data)

    def evaluate(model):
        if keeper:
            keeper.confusion(["a", HOSTILE, "c"], np.array([[7, 2, 1], [0, 0, 0], [0, 1, 999]]))
        return {"mean_iou": 0.5, "odd": float("nan")}

    keeper = None
    if is_recorded:
        about = {"what": f"Small: a {HOSTILE}", "command": f"python -m small '{HOSTILE}'", "machine": "one",
                 "versions": {"Python": "3"}}
        keeper = record.Record(out, types.SimpleNamespace(out=page or out, epochs=epochs, about=about), model, loader,
                               loss_fn, show=show, shown="the output", given={"input": list(images[:4])},
                               legend=[(HOSTILE, "#ff0000")], resume=resume, **options)
    training.fit(model, optim.SGD(model.parameters(), 0.1), loader, loss_fn, epochs=epochs, out=out,
                 evaluate=evaluate, after_epoch=keeper, resume=resume)
    return model


class Reader(HTMLParser):
    """What a page is made of; complains of elements that are not closed in their order."""

    VOID = {"meta", "img", "input", "br", "link"}

    def __init__(self, text):
        super().__init__()
        self.elements, self.open, self.text = [], [], ""
        self.feed(text)
        self.close()
        assert not self.open, f"not closed: {self.open}"

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, text):
        self.text += text

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    run(out)
    return out / "report.html"


def read(page):
    return Reader(page.read_text(encoding="utf-8"))


def test_all_that_it_shows_is_in_the_page(page):
    text = page.read_text(encoding="utf-8")
    frames = "".join(frame["srcdoc"] for frame in read(page).all("iframe"))
    for attributes in (read(page).elements + Reader(frames).elements):
        for name in ("src", "href", "xlink:href", "poster", "data", "action"):
            assert attributes[1].get(name, "data:").startswith("data:")
    assert not re.search(r"url\((?!#)|@import|https?://", re.sub(r'xmlns="[^"]*"', "", text.replace("&quot;", '"')))
    assert "<link" not in text


def test_it_can_be_read_without_seeing_it(page):
    reader = read(page)
    images = reader.all("img")
    assert len(images) == 1 + 4 + 4  # the input; output and filters, before training and after each epoch
    assert all(image["alt"] for image in images)
    assert sum("hidden" not in image for image in images) == 3  # without scripts the last of each
    assert reader.all("html")[0]["lang"] == "en" and len(reader.all("h1")) == 1
    assert "<title>Small: watch it learn</title>" in page.read_text(encoding="utf-8")
    labels = {label["for"] for label in reader.all("label")}
    assert {field["id"] for field in reader.all("input")} <= labels
    assert all(frame["title"] for frame in reader.all("iframe"))
    pictures = [svg for svg in reader.all("svg") if "aria-hidden" not in svg]
    assert pictures and all(svg["role"] == "img" and svg["aria-label"] for svg in pictures)
    ids = [attributes["id"] for _, attributes in reader.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    assert {attributes["aria-labelledby"] for attributes in reader.all("section")} <= set(ids)


def test_names_are_text_and_not_html(page):
    text = page.read_text(encoding="utf-8")
    assert HOSTILE not in text and len(read(page).all("script")) == 1
    assert read(page).text.count("<script>alert") >= 4  # the idea, the legend, the matrix (twice), the command


def test_curves_are_of_the_figures_that_are_finite(page):
    reader = read(page)
    labels = [svg["aria-label"] for svg in reader.all("svg")]
    rows = list(csv.DictReader(open(page.parent / "metrics.csv")))
    assert f"loss by epoch: from {float(rows[0]['loss']):.4g} to {float(rows[2]['loss']):.4g}" in labels
    assert [label.split(" by")[0] for label in labels] == ["loss", "lr", "mean IoU"]
    assert "no finite value yet" in reader.text and "odd" in reader.text


def test_rows_of_the_confusion_matrix_are_in_per_cent():
    table = report.confusion_table(["a", "b", "c"], [["7", "2", "1"], ["0", "0", "0"], ["0", "1", "999"]])
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", table)
    assert cells == ["70", "20", "10", "10", "", "", "", "0", "", "0", "100", "1,000"]


def test_training_goes_on_to_the_same_bits(tmp_path):
    states = []
    for is_recorded in (False, True):
        model = run(tmp_path / str(is_recorded), is_recorded=is_recorded)
        states.append({**model.state_dict(), "random": json.dumps(random.get_state())})
        assert model.body.training
    assert all(np.array_equal(states[0][name], states[1][name]) for name in states[0])
    assert (tmp_path / "False/metrics.csv").read_bytes() == (tmp_path / "True/metrics.csv").read_bytes()


def test_a_run_that_is_stopped_and_resumed_has_the_same_report(tmp_path):
    run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", stop_in=3)  # in the third epoch
    assert len(read(tmp_path / "parts/report.html").all("img")) == 1 + 3 + 3
    run(tmp_path / "parts", resume=True)
    assert (tmp_path / "whole/report.html").read_bytes() == (tmp_path / "parts/report.html").read_bytes()


def test_another_run_replaces_what_an_earlier_one_left(tmp_path):
    run(tmp_path)
    run(tmp_path, epochs=1)
    assert len(read(tmp_path / "report.html").all("img")) == 1 + 2 + 2


def test_there_is_a_page_before_the_first_epoch_ends(tmp_path):
    run(tmp_path)  # of which nothing may be left
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, stop_in=1)
    page = read(tmp_path / "report.html")
    assert [image["alt"] for image in page.all("img")] == ["input", "the output before training",
                                                          "filters before training"]
    assert [section["aria-labelledby"] for section in page.all("section")] == ["watch", "network", "graph", "made"]


def test_several_runs_are_side_by_side(tmp_path):
    runs = {}
    for name in ("first", "second"):
        runs[name] = tmp_path / name
        run(tmp_path / name, page=tmp_path, epochs=len(runs), runs=runs)
    reader = read(tmp_path / "report.html")
    assert len(reader.all("img")) == 1 + 2 * (2 + 3) and len(reader.all("iframe")) == 2
    assert [e["alt"] for e in reader.all("img") if "second" in e["alt"]][2] == "the output (second) after epoch 2"
    label = next(svg["aria-label"] for svg in reader.all("svg") if svg.get("aria-label", "").startswith("loss"))
    assert "first from" in label and "second from" in label


def test_what_is_not_there_is_left_out(tmp_path):
    report.write(tmp_path, {"": tmp_path})
    assert not read(tmp_path / "report.html").all("section")
    (tmp_path / "metrics.csv").write_text("epoch,step,loss\n1,2,0.5\n")
    report.write(tmp_path, {"": tmp_path})
    assert [section["aria-labelledby"] for section in read(tmp_path / "report.html").all("section")] == \
        ["curves", "numbers"]


@pytest.mark.parametrize("epochs", [1, 2, 39, 40, 41, 45, 150, 1000])
def test_about_forty_epochs_are_drawn_evenly(epochs):
    drawn = [epoch for epoch in range(1, epochs + 1) if record.is_drawn(epoch, epochs)]
    assert drawn[0] == 1 and drawn[-1] == epochs and min(epochs, 20) <= len(drawn) <= record.FRAMES + 2
    assert len(set(np.diff(drawn)[1:-1])) <= 1


@pytest.mark.parametrize("low, high, expected", [(0, 1, [0, 0.5, 1]), (0.2, 3.1, [1, 2, 3]), (5, 5, [5]),
                                                 (0, 9e-4, [0, 5e-4])])
def test_ticks_are_round(low, high, expected):
    np.testing.assert_allclose(report.ticks(low, high, 3), expected)


def test_strips_keep_the_pixels_and_leave_gaps(tmp_path):
    from PIL import Image

    rng = np.random.default_rng(0)
    images = np.array([[255, 0, 0], [0, 90, 0], [1, 2, 200]], np.uint8)[rng.integers(0, 3, (3, 5, 7))]
    sketch.save_strip(tmp_path / "a.webp", images, columns=2)
    sheet = np.asarray(Image.open(tmp_path / "a.webp"))
    assert sheet.shape == (5 + sketch.GAP + 5, 7 + sketch.GAP + 7, 4)
    np.testing.assert_array_equal(sheet[:5, 7 + sketch.GAP:, :3], images[1])
    np.testing.assert_array_equal(sheet[5 + sketch.GAP:, :7, :3], images[2])
    assert (sheet[5 + sketch.GAP:, 7:, 3] == 0).all() and (sheet[:5, :7, 3] == 255).all()
    photo = (100 + 20 * rng.random((64, 64, 3)) + np.linspace(0, 80, 64)[:, None]).astype(np.uint8)
    sketch.save_strip(tmp_path / "photo.webp", [photo])
    again = np.asarray(Image.open(tmp_path / "photo.webp").convert("RGB"))
    assert 0 < np.abs(again.astype(int) - photo).mean() < 8
    sketch.save_strip(tmp_path / "large.webp", [np.zeros((600, 400, 1), np.float32)])
    assert Image.open(tmp_path / "large.webp").size == (200, 300)


def test_boxes_are_where_the_fractions_say():
    box = np.array([0.25, 0.5, 0.5, 1]), "#ff8000", 1, ""
    picture = sketch.boxed(np.zeros((10, 20, 3), np.uint8), [box], width=45)
    assert picture.shape == (20, 40, 3)
    rows, columns = np.nonzero(picture[..., 0])
    assert (columns.min(), columns.max(), rows.min(), rows.max()) == (10, 19, 10, 19)
    assert picture[15, 15].max() == 0 and tuple(picture[10, 15]) == (255, 128, 0)


def test_answers_stand_on_bars_as_long_as_they_are_likely():
    picture = np.zeros((20, 100, 3), np.uint8)
    card = sketch.with_answers(picture, list("abcd"), np.array([0.1, 0.2, 0.64, 0.06]), label=1, line=15)
    assert card.shape == (20 + 3 * 15, 100, 3)
    bars = [card[20 + 15 * i + 13] for i in range(3)]  # a line below the text
    for bar, colour, share in zip(bars, (sketch.WRONG, sketch.RIGHT, sketch.GREY), (0.64, 0.2, 0.1), strict=True):
        is_bar = (bar == tuple(bytes.fromhex(colour[1:]))).all(-1)
        assert abs(is_bar.sum() - 100 * share) <= 2 and is_bar[:5].all()


def test_filters_are_as_strong_as_can_be_and_grey_at_zero():
    weight = np.zeros((3, 3, 3, 2), np.float32)
    weight[0, 1, 2, 0], weight[1, 1, 0, 1], weight[2, 2, 0, 1] = -0.1, 4, 2
    first, second = sketch.filters(weight, tap=2)
    assert first.shape == (6, 6, 3) and first[0, 2].tolist() == [128, 128, 0] and first[5, 5].tolist() == [128] * 3
    assert second[2, 2].tolist() == [255, 128, 128] and second[4, 5].tolist() == [191, 128, 128]


def test_the_command_is_what_was_typed(monkeypatch):
    parser = argparse.ArgumentParser(prog="python -m examples.small", description="Small: all of it.")
    assert record.about(parser, ["--data", "a b", "--resume"])["command"] == "python -m examples.small --data 'a b'"
    monkeypatch.setattr("sys.argv", ["small.py", "--seed", "3"])
    assert record.about(parser, None)["command"] == "python -m examples.small --seed 3"


@pytest.fixture(scope="module")
def chromium(page, tmp_path_factory):
    path = browser.find()
    if path is None:
        pytest.skip("no Chromium is installed")
    with browser.Browser(path, tmp_path_factory.mktemp("profile")) as chromium:
        chromium.open(page.as_uri())
        yield chromium


SHOWN = "[...document.querySelectorAll('.film img')].filter(i => i.checkVisibility()).map(i => i.alt)"


def test_arrow_keys_change_the_pictures(chromium):
    assert chromium.run(SHOWN) == ["the output after epoch 3", "filters after epoch 3"]
    chromium.run("document.getElementById('epoch').focus()")
    chromium.press("ArrowLeft")
    assert chromium.run(SHOWN) == ["the output after epoch 2", "filters after epoch 2"]
    assert chromium.run("document.getElementById('said').textContent") == "2 of 3"
    now = "[...document.querySelectorAll('.point.now')].map(p => p.dataset.epoch)"
    assert chromium.run(now) == ["2", "2", "2"]
    chromium.press("Home")
    assert chromium.run(SHOWN) == ["the output before training", "filters before training"]
    assert chromium.run("document.getElementById('epoch').getAttribute('aria-valuetext')") == "before training"
    outline = "getComputedStyle(document.activeElement).outlineStyle"
    assert chromium.run(f"document.activeElement.id + ' ' + {outline}") == "epoch solid"


def test_play_goes_to_the_end(chromium):
    play = "document.getElementById('play')"
    chromium.run(f"document.getElementById('epoch').value = 2; {play}.click()")
    assert chromium.run(f"{play}.textContent") == "Pause"
    chromium.run("new Promise(done => setTimeout(done, 700))")
    assert chromium.run(f"{play}.textContent") == "Play"
    assert chromium.run(SHOWN)[0] == "the output after epoch 3"


def test_it_fits_a_phone_and_wide_things_scroll_by_themselves(chromium):
    chromium.resize(390)
    chromium.run("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert chromium.run("document.documentElement.scrollWidth") <= 390
    assert chromium.run("[...document.querySelectorAll('.scroll')].some(box => box.scrollWidth > box.clientWidth)")


def test_it_is_dark_where_the_reader_wants_it(chromium):
    light = "getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        chromium.prefer(scheme)
        red = int(re.search(r"\d+", chromium.run(light))[0])
        text = int(re.search(r"\d+", chromium.run("getComputedStyle(document.body).color"))[0])
        seen[scheme] = red, text
    assert seen["light"][0] > 240 and seen["light"][1] < 60 and seen["dark"][0] < 40 and seen["dark"][1] > 200


def test_nothing_is_fetched_and_nothing_is_complained_of(chromium, page):
    chromium.open(page.as_uri())
    asked = [event["params"]["request"]["url"] for event in chromium.events
             if event.get("method") == "Network.requestWillBeSent"]
    assert page.as_uri() in asked and all(url == page.as_uri() or url.startswith("data:") for url in asked)
    complaints = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled", "Log.entryAdded")
    assert not [event for event in chromium.events if event.get("method") in complaints]
