"""Writing past the caches what is too large for them.

To write into memory a core first reads it: the whole line of 64 bytes, because a store might change a part of it only.
The line then takes a place in the caches, and drives something out. Where operand and result don't fit into them, both
are in vain: the line is overwritten as a whole, and nobody finds it there later on, as the beginning of the result has
been driven out by its end. A *streaming* store says so. It sends whole lines straight to memory: a third of the traffic
less for a loop that reads one array and writes another, and what the caches held stays there. (1x1, 64 channels to 64,
16 x 64 x 64 pixels: 1.4 times as fast.)

Lines should go out in the order in which they lie there. Written column by column, 4x4 pixels at a time, an image took
twice as long as row by row, and longer than through the caches.

Of small results it would be wrong: whoever reads them next would have to fetch from memory what is in the caches now.
"""
from pathlib import Path

from numba import config, types
from numba.extending import intrinsic

from tinynet.typing import Array


def _largest_cache():
    """Bytes of the largest cache, as Linux tells; elsewhere as many as servers have."""
    try:
        sizes = [path.read_text() for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")]
        return max(1024 * int(size.strip().rstrip("K")) for size in sizes)
    except (OSError, ValueError):                            # no such files, or none that is a number
        return 1 << 25


STREAMED = _largest_cache() // 2     # bytes that a kernel reads and writes; other programs want room there, too


def is_streamed(x: Array, y: Array) -> bool:
    """Is the result y of x, which begins with a cache line, to be written past the caches?"""
    return x.nbytes + y.nbytes >= STREAMED


@intrinsic
def _arrived(typing):
    """Wait until all that was streamed is where others see it: at the end of each thread's part of a kernel."""
    def codegen(context, builder, signature, arguments):
        builder.fence("seq_cst")
        return context.get_dummy_value()

    return types.none(), codegen


def _arrived_numpy():
    """NumPy doesn't stream."""


arrived = _arrived_numpy if config.DISABLE_JIT else _arrived
