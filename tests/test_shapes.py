"""Sizes and sentences of the image operations: each formula against counting, each mistake with what would fix it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinynet import shapes


@given(st.integers(1, 12), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_conv_output_size_counts_the_windows_that_fit(size, kernel, stride, padding, dilation):
    reach = dilation * (kernel - 1) + 1
    starts = [i for i in range(0, size + padding, stride) if i + reach <= size + padding]
    assert max(shapes.conv_output_size(size, kernel, stride, padding, dilation), 0) == len(starts)


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 3), st.integers(0, 3), st.integers(1, 3))
def test_transposed_size_undoes_conv_size(size, kernel, stride, padding, dilation):
    out = shapes.conv_output_size(size, kernel, stride, padding, dilation)
    if out >= 1:
        back = shapes.conv_transpose_output_size(out, kernel, stride, padding, dilation)
        extra = size - back
        assert 0 <= extra < stride  # what output_padding may make up for
        assert shapes.conv_transpose_output_size(out, kernel, stride, padding, dilation, extra) == size


@pytest.mark.parametrize("padding, pairs", [
    (1, ((1, 1), (1, 1))), ((1, 2), ((1, 1), (2, 2))), (((0, 1), (2, 3)), ((0, 1), (2, 3))), ("same", ((1, 1), (2, 2))),
])
def test_padding_in_all_its_forms(padding, pairs):
    assert shapes.padding_pairs(padding, (3, 3), (1, 1), (1, 2), "conv2d") == pairs


def conv2d(x=(1, 8, 8, 4), w=(3, 3, 4, 16), b=None, stride=1, padding=0, dilation=1, groups=1):
    return shapes.conv2d_shapes(x, w, b, stride, padding, dilation, groups)


@pytest.mark.parametrize("arguments, sentence", [
    (dict(x=(8, 8, 4)), r"x has the shape \(8, 8, 4\).*add the batch axis"),
    (dict(x=(1, 0, 8, 4)), "must be at least 1"),
    (dict(w=(3, 3, 4)), r"w has the shape \(3, 3, 4\)"),
    (dict(w=(3, 3, 3, 16)), r"x has 4 channels .* takes 3; give w the shape \(3, 3, 4, 16\)"),
    (dict(groups=3), "3 groups don't divide"),
    (dict(groups=2), r"takes 8; give w the shape \(3, 3, 2, 16\)"),
    (dict(b=(3,)), r"b has the shape \(3,\), but 16 channels come out"),
    (dict(dilation=4), "reaches over 9 pixels of height .* pad by 1 more"),
    (dict(stride=0), "stride is 0, but must be at least 1"),
    (dict(stride=(1, 2, 3)), r"stride is \(1, 2, 3\)"),
    (dict(padding=-1), "padding is -1, but must be at least 0"),
    (dict(padding="valid"), "padding is 'valid'"),
    (dict(padding="same", stride=2), "needs a stride of 1"),
    (dict(padding=((1, 1), 2)), "must be"),
    (dict(groups=0), "groups is 0"),
])
def test_conv2d_sentences(arguments, sentence):
    with pytest.raises(ValueError, match="^conv2d: .*" + sentence):
        conv2d(**arguments)


@pytest.mark.parametrize("arguments", [dict(stride=1.5), dict(stride=True), dict(dilation="2")])
def test_conv2d_wrong_types(arguments):
    with pytest.raises(TypeError, match="must be an integer"):
        conv2d(**arguments)


def transpose(x=(1, 4, 4, 6), w=(4, 4, 3, 6), b=None, stride=2, padding=1, output_padding=0, dilation=1, groups=1):
    return shapes.conv_transpose2d_shapes(x, w, b, stride, padding, output_padding, dilation, groups)


def test_transposed_sizes():
    assert transpose()[1] == (8, 8)
    assert transpose(output_padding=(1, 0))[1] == (9, 8)


@pytest.mark.parametrize("arguments, sentence", [
    (dict(w=(4, 4, 6, 3)), r"w of shape .* takes 3: .* give it the shape \(4, 4, 6, 6\)"),
    (dict(output_padding=2), "output_padding is 2 in height, but must be less than the stride"),
    (dict(groups=4), "4 groups don't divide"),
    (dict(b=(6,)), "but 3 channels come out"),
    (dict(padding=7), "would give a height of"),
])
def test_conv_transpose2d_sentences(arguments, sentence):
    with pytest.raises(ValueError, match="^conv_transpose2d: .*" + sentence):
        transpose(**arguments)


def test_a_convolution_of_nothing_but_its_kernel():
    assert shapes.Geometry() == ((1, 1), ((0, 0), (0, 0)), (1, 1), 1)
    assert shapes.conv_output_size(7, 3) == 5 and shapes.conv_transpose_output_size(5, 3) == 7


@pytest.mark.parametrize("op, layout", [("conv2d", "(KH, KW, C/groups, O)"),
                                        ("conv_transpose2d", "(KH, KW, O/groups, C)")])
def test_a_weight_of_three_axes_is_told_its_layout(op, layout):
    with pytest.raises(ValueError, match=re.escape(layout)):
        shapes.check_weight((3, 3, 8), op)


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 3), st.integers(0, 2), st.integers(1, 3))
def test_output_padding_gives_back_the_size_that_a_convolution_had(size, kernel, stride, padding, dilation):
    out = shapes.conv_output_size(size, kernel, stride, 2 * padding, dilation)
    if out < 1 or shapes.conv_transpose_output_size(out, kernel, stride, 2 * padding, dilation) < 1:
        return
    x, w = (2, out, out + 1, 6), (kernel, kernel, 5, 6)
    extra = shapes.output_padding_for((size, size + stride), x, w, stride, padding, dilation, 1)
    assert extra[0] == extra[1] and 0 <= extra[0] < stride
    assert shapes.conv_transpose2d_shapes(x, w, None, stride, padding, extra, dilation, 1)[1] == (size, size + stride)


@pytest.mark.parametrize("size", [(8, 9), (9, 8), (11, 9), (9, 11)])
def test_an_output_size_that_no_convolution_made_is_told_which_would_be(size):
    with pytest.raises(ValueError, match=r"from \(9, 9\) to \(10, 10\)"):
        shapes.output_padding_for(size, (1, 5, 5, 3), (3, 3, 4, 3), 2, 1, 1, 1)
