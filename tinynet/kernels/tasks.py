"""Tasks that go to whoever is free: threads don't run equally fast, where others use the machine, too.

A loop that is cut into as many pieces as there are threads takes as long as the slowest of them. So it is cut into more
tasks, and each thread takes the next one that nobody has taken yet. A task's result must not depend on who did it.
"""
import numpy as np
from numba import config, types
from numba.extending import intrinsic

from tinynet.kernels.emit import I64
from tinynet.typing import Array

# Of the direct sums of convolutions and their weight gradients:
ROWS = 8                        # of pixels, read into a task's scratch: they stay in the second cache
COLUMNS = 64                    # of outputs at least, where a task does not do all of them
TASKS = 16                      # wanted at least


def none_taken() -> Array:
    """The counter of a kernel that begins."""
    return np.zeros(1, np.int64)


@intrinsic
def _take(typing, taken):
    """The next task: taken[0], which is one more afterwards, in one step that no other thread can come between"""
    def codegen(context, builder, signature, arguments):
        array = context.make_array(signature.args[0])(context, builder, arguments[0])
        return builder.atomic_rmw("add", array.data, I64(1), "monotonic")

    return types.int64(taken), codegen


def _take_numpy(taken):
    taken[0] += 1
    return taken[0] - 1


take = _take_numpy if config.DISABLE_JIT else _take


def columns_per_task(columns: int, tasks: int) -> int:
    """All columns, or of several tasks with some COLUMNS each, where `tasks` alone are fewer than TASKS."""
    splits = -(-TASKS // max(1, tasks))
    return max(1, min(columns, COLUMNS * -(-columns // (COLUMNS * splits))))
