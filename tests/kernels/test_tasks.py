"""Tasks that go to whoever is free: each to one thread, none left out."""

import numba
import numpy as np

from tinynet.kernels.jit import kernel, prange
from tinynet.kernels.tasks import none_taken, take


@kernel
def count_visits(lanes, taken, visits):
    for _ in prange(lanes):
        task = take(taken)
        while task < len(visits):
            visits[task] += 1
            task = take(taken)


def test_each_task_is_done_once():
    numba.set_num_threads(numba.config.NUMBA_NUM_THREADS)       # or nobody could come between
    for tasks, lanes in ((0, 2), (1, 2), (10000, 7)):
        visits = np.zeros(tasks, np.int64)
        count_visits(lanes, none_taken(), visits)
        assert (visits == 1).all()
