"""Resizing, pixel by pixel, the places as exact fractions."""

from fractions import Fraction
from math import floor

import numpy as np


def _nearest(i, inputs, outputs):
    return {floor(Fraction(i * inputs, outputs)): 1.0}


def _bilinear(i, inputs, outputs):
    place = (i + Fraction(1, 2)) * inputs / outputs - Fraction(1, 2)
    place = min(max(place, Fraction(0)), Fraction(inputs - 1))
    low = floor(place)
    t = float(place - low)
    return {low: 1 - t, low + 1: t} if t else {low: 1.0}


def resize(x, size, mode):
    reads = {"nearest": _nearest, "bilinear": _bilinear}[mode]
    y = np.zeros((x.shape[0], *size, x.shape[3]))
    for i in range(size[0]):
        for j in range(size[1]):
            for h, a in reads(i, x.shape[1], size[0]).items():
                for w, b in reads(j, x.shape[2], size[1]).items():
                    y[:, i, j] += a * b * x[:, h, w]
    return y
