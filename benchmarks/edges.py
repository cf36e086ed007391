"""Convolutions and dense layers at the edges of what networks have: few channels, strides, groups..."""

from benchmarks.convolutions import BATCH, Convolution, Dense, cases, measured_table

LAYERS = (
    Convolution(3, 16, 128),
    Convolution(3, 64, 128, 7, 2),
    Convolution(32, 3, 128),
    Convolution(32, 12, 128),
    Convolution(16, 16, 32),
    Convolution(16, 32, 32, 3, 2),
    Convolution(64, 128, 64, 3, 2),
    Convolution(64, 64, 64, groups=4),
    Convolution(128, 128, 32, groups=32),
    Convolution(64, 64, 64, groups=64),
    Convolution(128, 128, 32, 3, 2, groups=128),
    Convolution(64, 64, 64, dilation=2),
    Convolution(128, 128, 32, dilation=4),
    Convolution(12, 64, 64, 1),
    Convolution(64, 12, 64, 1),
    Convolution(64, 64, 64, 1),
    Convolution(64, 256, 32, 1),
    Convolution(512, 128, 16, 1),
    Convolution(256, 256, 16, 1),
    Convolution(16, 32, 64, 5),
    Convolution(64, 64, 32, 5),
    Convolution(12, 12, 32, 8, 4, transposed=True),
    Convolution(12, 12, 16, 4, 2, transposed=True),
    Convolution(128, 64, 32, 2, 2, transposed=True),
    Convolution(64, 64, 64, batch=1),
    Convolution(128, 128, 16, batch=1),
    Dense(1, 8192, 128),
    Dense(1, 512, 512),
    Dense(16, 512, 512),
    Dense(256, 8192, 128),
    Dense(256, 512, 512),
    Dense(256, 128, 10),
    Dense(1024, 1024, 1024),
)


def lines(run):
    """The section's lines, each as soon as it is known."""
    yield f'Batches of {BATCH} if not stated, float32; "s2" is a stride of 2,'
    yield '"dense 16x512x10" 16 rows from 512 to 10.'
    yield ""
    yield from measured_table(cases(LAYERS), run)
