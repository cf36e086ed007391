"""The simulation of many ranks: what it says where the answer is known."""

import numpy as np
import pytest

pytest.importorskip("torch", reason="the benchmarks compare with PyTorch")
pytest.importorskip("threadpoolctl", reason="the benchmarks count PyTorch's threads")

from benchmarks import Images, scaling
from benchmarks.scaling import Link, Step, exchange, seconds

STEP = Step(backward=1.0, update=3.0, end=3.5, buckets=[(1.5, 8e6), (2.5, 8e6), (3.0, 1e6)])
FREE = Link("without latency", 0.0, 1e9)


def test_bytes_are_those_of_a_ring():
    for ranks in (2, 16, 1024):
        assert exchange(5e6, ranks, FREE) == pytest.approx(2 * (ranks - 1) / ranks * 5e6 / 1e9)


def test_few_bytes_take_logarithmically_many_messages():
    assert exchange(0, 1024, Link("", 1e-6, 1e9)) == pytest.approx(20e-6)


def test_a_fast_link_costs_nothing_and_a_slow_one_what_it_cannot_hide():
    assert seconds(STEP, 4, Link("", 0.0, 1e30)) == STEP.end
    slow = Link("", 0.0, 1e6)                                  # 1.5 s for each MB with 4 ranks: 25.5 s in all
    assert seconds(STEP, 4, slow, overlap=False) == pytest.approx(3.0 + 25.5 + 0.5)
    assert seconds(STEP, 4, slow) == pytest.approx(1.5 + 25.5 + 0.5)


def test_buckets_wait_for_their_gradients():
    assert seconds(STEP, 4, Link("", 0.0, 1e9)) == pytest.approx(3.0 + 1.5e-3 + 0.5)


@pytest.mark.parametrize("name", ["CAE", "ResNet-20"])
def test_a_measured_step_is_in_order(name):
    step = scaling.measured(name, Images(2, 32), turns=1)
    ready = [at for at, _ in step.buckets]
    assert 0 < step.backward < ready[0] and ready == sorted(ready) and ready[-1] <= step.update < step.end
    model = scaling.network(name, 32)
    assert sum(size for _, size in step.buckets) == 4 * sum(p.size for p in model.parameters())


def test_more_images_take_longer_in_a_straight_line():
    single = STEP.stretched(0.5)
    times = [scaling.for_images(STEP, single, 3, n).end for n in (1, 2, 3, 5)]
    np.testing.assert_allclose(times, [1.75, 2.625, 3.5, 5.25])
