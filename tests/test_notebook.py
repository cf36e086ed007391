"""What notebooks show: the facts, the values or images, everything escaped, and no colours of its own."""

import base64
import io
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import tinynet as tn
from tinynet import nn

VOID = {"img", "br"}


class Checked(HTMLParser):
    """Reads HTML, and fails where tags don't match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.cells, self.rows, self.text, self.images = [], [], [], "", []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.images += [dict(attributes)] if tag == "img" else []
        self.rows += [[]] if tag == "tr" else []
        if tag not in VOID:
            self.open.append(tag)
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data


def shown(thing):
    html = thing._repr_html_()
    assert not re.search(r"color|background|#[0-9a-f]{3}|<script|<style", html)
    return Checked(html)


def test_a_matrix_with_its_facts():
    x = tn.Tensor([[1.0, -2.5], [np.nan, np.inf]], requires_grad=True)
    page = shown(x)
    assert page.text.startswith("Tensor 2 × 2, float32, needs a gradient, from -2.5 to 1, 1 NaN, 1 Inf")
    assert page.rows == [["1", "-2.5"], ["nan", "inf"]]
    x.sum().backward()
    assert "needs a gradient, has one," in shown(x).text


def test_what_made_it():
    y = tn.exp(tn.Tensor([0.0], requires_grad=True))
    assert shown(y).text.startswith("Tensor 1, float32, made by Exp, from 1 to 1")
    assert shown(nn.Parameter(np.zeros(3))).text.startswith("Parameter 3, float64, needs a gradient")


def test_of_much_the_first_and_last_are_shown():
    rows = shown(tn.Tensor(np.arange(10000.0).reshape(100, 100))).rows
    assert len(rows) == 11 and len(rows[0]) == 11
    assert rows[0][:2] == ["0", "1"] and rows[0][5] == "…" and rows[0][-1] == "99"
    assert rows[5] == ["…"] * 11 and rows[-1][-1] == "9999"
    assert len(shown(tn.Tensor(np.zeros(10))).rows[0]) == 10


@pytest.mark.parametrize("array", [np.float32(3.5), np.zeros((0, 3)), np.zeros((0, 8, 8, 3)), np.ones((2, 2, 2)),
                                   np.array([True, False]), np.array([[1, 2]]), np.full((1, 8, 8, 3), np.nan),
                                   np.ones((1, 8, 8, 2)), np.full((1, 8, 8, 3), 1.5), np.ones((1, 4, 8, 3))])
def test_anything_else_has_values(array):
    page = shown(tn.Tensor(array))
    assert not page.images and page.text


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("dtype", [np.float32, np.uint8])
def test_images_are_shown(channels, dtype):
    pillow = pytest.importorskip("PIL.Image")
    values = np.random.default_rng(0).integers(0, 256, (6, 16, 32, channels)).astype(np.uint8)
    page = shown(tn.Tensor(values if dtype == np.uint8 else values.astype(np.float32) / 255))
    assert len(page.images) == 4 and "6 in all" in page.text and not page.rows
    assert (page.images[0]["width"], page.images[0]["height"]) == ("128", "64")
    picture = pillow.open(io.BytesIO(base64.b64decode(page.images[1]["src"].partition(",")[2])))
    np.testing.assert_array_equal(np.asarray(picture).reshape(16, 32, channels), values[1])


def test_without_pillow_images_have_values(monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    page = shown(tn.Tensor(np.ones((1, 16, 16, 3))))
    assert not page.images and "1., 1." in page.text


def test_a_module_is_a_table_of_its_parts():
    model = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Residual(nn.ReLU())).eval()
    page = shown(model)
    assert page.text.startswith("Sequential: 232 parameters, in evaluation mode")
    assert page.rows[1:] == [
        ["", "Sequential()", "", ""],
        ["0", "Conv2d(3, 8, kernel_size=3, bias=False)", "weight 3 × 3 × 3 × 8", "216"],
        ["1", "BatchNorm2d(8)", "weight 8, bias 8, running_mean 8, running_var 8", "16"],
        ["2", "Residual()", "", ""],
        ["2.body", "ReLU()", "", ""],
    ]


class Named(nn.Module):
    def __init__(self, name):
        self.name = name
        self.parts = {"<b>": nn.ReLU()}


def test_names_are_escaped():
    html = Named("<script>")._repr_html_()
    assert "<script>" not in html and "parts.<b>" not in html
    assert shown(Named("a & b")).rows[1][1] == "Named('a & b')" and shown(Named("")).rows[2][0] == "parts.<b>"
    made = tn.Tensor([1.0])
    made.op = type("<i>", (), {})()
    assert "<i>" not in made._repr_html_() and "made by <i>" in shown(made).text
