"""The recorded graph as a picture and as text: every op a box, every module a frame, every skip an arc."""

import re
import xml.etree.ElementTree as xml

import numpy as np
import pytest

import tinynet as tn
from examples import autoencoder, detection, residual, segmentation
from tinynet import nn
from tinynet.autograd import Op, node, topological_order

SVG = "{http://www.w3.org/2000/svg}"
IMAGES = np.random.default_rng(0).random((2, 16, 16, 3), dtype=np.float32)


def fcn(skips=True):
    model = segmentation.FCN(5, (4, 8, 8), skips=skips)
    return tn.cross_entropy(model(tn.Tensor(IMAGES)), np.zeros((2, 16, 16), int))


def both_heads():
    box, logits = detection.Detector(5, size=16, widths=(4, 8))(tn.Tensor(IMAGES))
    return tn.mse_loss(box, box.detach() + 1) + tn.cross_entropy(logits, np.array([1, 2]))


def penalty():
    """The squared norm of a gradient: a graph of gradients."""
    x = tn.Tensor(IMAGES, requires_grad=True)
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.Sigmoid(), nn.Flatten(), nn.Dense(4 * 14 * 14, 1))
    (gx,) = tn.grad(model(x).sum(), x, create_graph=True)
    return (gx * gx).sum()


LOSSES = {
    "FCN": fcn,
    "CAE": lambda: tn.mse_loss(autoencoder.CAE((16, 16), 3, 8)(tn.Tensor(IMAGES)), IMAGES),
    "ResNet": lambda: tn.cross_entropy(residual.ResNet(5, 8)(tn.Tensor(IMAGES)), np.array([1, 2])),
    "Detector": both_heads,
    "penalty": penalty,
}


def boxes(svg):
    return [r for r in xml.fromstring(svg).iter(SVG + "rect") if "op" in r.get("class").split()]


def arcs(svg):
    return [p for p in xml.fromstring(svg).iter(SVG + "path") if p.get("class") == "arc"]


def inside(inner, outer):
    (x, y, w, h), (X, Y, W, H) = ([float(r.get(k)) for k in ("x", "y", "width", "height")] for r in (inner, outer))
    return X <= x and Y <= y and x + w <= X + W and y + h <= Y + H


@pytest.mark.parametrize("name", LOSSES)
def test_every_op_is_a_box_and_every_edge_a_line(name):
    loss = LOSSES[name]()
    ops = [n for n in topological_order([node(loss)]) if isinstance(n, Op)]
    edges = {(parent, op) for op in ops for parent in op.parents if isinstance(parent, Op)}
    picture = tn.graph(loss)
    assert [box.op for box in picture.boxes] == sorted(ops, key=lambda op: op.number)
    assert {(picture.boxes[a].op, picture.boxes[b].op) for a, b in picture.edges} == edges
    assert all(a < b for a, b in picture.edges)
    drawn = xml.fromstring(picture.svg)
    assert len(boxes(picture.svg)) == len(ops)
    assert len([p for p in drawn.iter(SVG + "path") if p.get("class") in ("down", "arc")]) == len(edges)


@pytest.mark.parametrize("name", LOSSES)
def test_nothing_overlaps_or_sticks_out(name):
    svg = tn.graph(LOSSES[name]()).svg
    drawn = xml.fromstring(svg)
    page = xml.Element("rect", {"x": "0", "y": "0", "width": drawn.get("width"), "height": drawn.get("height")})
    frames = [r for r in drawn.iter(SVG + "rect") if r.get("class") == "frame"]
    assert all(inside(r, page) for r in [*frames, *boxes(svg)])
    for i, frame in enumerate(frames):  # two frames, and a frame and a box: one inside the other, or apart
        for other in [*frames[i + 1:], *boxes(svg)]:
            top, below = sorted((frame, other), key=lambda r: float(r.get("y")))
            assert inside(other, frame) or float(top.get("y")) + float(top.get("height")) <= float(below.get("y"))
    assert all(float(x) <= float(drawn.get("width")) for p in arcs(svg) for x in re.findall(r"Q([\d.]+)", p.get("d")))
    tops = [float(r.get("y")) for r in boxes(svg)]
    assert all(a + 20 < b for a, b in zip(tops[:-1], tops[1:], strict=True))


def test_skips_are_arcs_one_within_the_other():
    assert not arcs(tn.graph(fcn(skips=False)).svg)
    picture = tn.graph(fcn())
    skips = sorted((a, b) for a, b in picture.edges if b > a + 1)
    assert len(skips) == len(arcs(picture.svg)) == 2
    (a, d), (b, c) = skips
    assert a < b < c < d
    assert [picture.boxes[i].label for i in (c, d)] == ["Add", "Add"]
    assert picture.boxes[a].shape == picture.boxes[d].shape == "2×16×16×4"
    lanes = {float(re.search(r"V([\d.-]+)Q([\d.]+)", p.get("d"))[2]): p for p in arcs(picture.svg)}
    assert len(lanes) == 2


def test_groups_are_the_calls_of_modules():
    (model, _) = tn.graph(fcn()).members
    assert model.title == "FCN"
    titles = [m.title if not isinstance(m, int) else m for m in model.members]
    assert titles[:3] == ["down.0 Sequential", "pool MaxPool2d", "down.1 Sequential"]
    assert [m.title for m in model.members[0].members][:2] == ["0 Conv2d", "1 BatchNorm2d"]
    assert sum(isinstance(m, int) for m in model.members) == 2  # the additions, done by the FCN itself


def test_a_layer_called_twice_has_two_groups():
    layer = nn.Dense(3, 3)
    shared = nn.Sequential(layer, layer)
    x = tn.Tensor(np.ones((2, 3), np.float32))
    (group,) = tn.graph(layer(shared[0](x))).members[:1]
    assert group.title == "Dense"
    assert len(tn.graph(layer(layer(x))).members) == 2


def test_boxes_say_what_they_take():
    first, *_ = tn.graph(fcn()).boxes
    assert (first.label, first.shape, first.notes) == ("Gather", "2×16×16×4", "given x 2×16×16×3, weight 3×3×3×4")
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    assert [box.notes for box in tn.graph(x * 2).boxes] == ["x 2"]
    fused = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2))(tn.Tensor(IMAGES))
    assert [box.label for box in tn.graph(fused).boxes] == ["Gather + relu + pool"]


def test_gradients_of_gradients_are_grouped_by_whose_gradient_they_are():
    picture = tn.graph(penalty())
    titles = [m.title for m in picture.members if not isinstance(m, int)]
    assert titles == ["Sequential", "gradient of 3 Dense", "gradient of 2 Flatten", "gradient of 1 Sigmoid",
                      "gradient of 0 Conv2d"]
    assert "w 3×3×3×4" not in picture.svg and "0.weight 3×3×3×4" in picture.svg
    x = tn.Tensor([0.5], requires_grad=True)
    (gx,) = tn.grad(x ** 3, x, create_graph=True)
    (ggx,) = tn.grad(gx, x, create_graph=True)
    assert "gradient of Pow" in tn.graph(ggx).svg and "gradient of gradient of Pow" not in tn.graph(gx).svg


def dot_is_well_formed(text):
    strings = r'"(?:[^"\\]|\\.)*"'
    statement = rf"(n\d+ -> n\d+|n\d+ \[label={strings}\]|(node|graph) \[[^\]]*\]|label={strings});"
    opening = r"digraph tinynet \{|subgraph cluster_\d+ \{"
    lines = [line.strip() for line in text.splitlines()]
    assert all(re.fullmatch(rf"{statement}|{opening}|\}}", line) for line in lines)
    assert sum(line.endswith("{") for line in lines) == sum(line == "}" for line in lines)
    return lines


@pytest.mark.parametrize("name", LOSSES)
def test_dot(name):
    picture = tn.graph(LOSSES[name]())
    lines = dot_is_well_formed(picture.dot)
    assert sum(" -> " in line for line in lines) == len(picture.edges)
    assert sum(bool(re.match(r"n\d+ \[", line)) for line in lines) == len(picture.boxes)


def test_names_are_escaped():
    class Parts(nn.Module):
        def __init__(self):
            self.parts = {'<a&"b\\': nn.Dense(2, 2)}

        def forward(self, x):
            return self.parts['<a&"b\\'](x)

    picture = tn.graph(Parts()(tn.Tensor([[1.0, 2.0]])))
    assert 'parts.<a&"b\\ Dense' in [t.text for t in xml.fromstring(picture.svg).iter(SVG + "text")]
    assert r'label="parts.<a&\"b\\ Dense"' in "\n".join(dot_is_well_formed(picture.dot))


def test_several_outputs_and_files(tmp_path):
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    picture = tn.graph([x.sum(), x * 3])
    assert [box.label for box in picture.boxes] == ["Sum", "Reshape", "Mul"]
    assert picture._repr_svg_() == picture.svg
    picture.save(tmp_path / "graph.svg")
    picture.save(str(tmp_path / "graph.dot"))
    assert (tmp_path / "graph.svg").read_text(encoding="utf-8") == picture.svg
    assert (tmp_path / "graph.dot").read_text(encoding="utf-8") == picture.dot


def test_a_long_graph():
    x = tn.Tensor([1.0], requires_grad=True)
    for _ in range(1500):
        x = x * 1.0
    assert len(boxes(tn.graph(x).svg)) == 1500


def test_what_has_no_graph():
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    for nothing in (x, tn.Tensor(1.0), 3, [x * 2, None]):
        with pytest.raises(tn.GraphError, match="graph: got a"):
            tn.graph(nothing)
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(tn.GraphError, match="freed by an earlier backward pass"):
        tn.graph(loss)


def test_calls_are_closed_after_errors():
    with pytest.raises(ValueError, match="Dense"):
        nn.Sequential(nn.Dense(2, 2))(tn.Tensor([[1.0]]))
    x = tn.Tensor([1.0], requires_grad=True)
    assert tn.graph(x * x).members == [0]
