"""What is kept for weights: found again while they are the same, to the bit, and never when they are not."""

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import tinynet as tn
from tinynet.kernels import prepared, winograd
from tinynet.kernels.prepared import Prepared


def counted():
    calls = []

    def compute(w):
        calls.append(w.copy())
        return 2 * w

    return compute, calls


def test_kept_from_the_second_time_on():
    compute, calls = counted()
    kept, w = Prepared(), np.arange(1000, dtype=np.float32)
    results = [kept.get(compute, w) for _ in range(4)]
    assert len(calls) == 2 and results[1] is results[2] is results[3]
    kept.get(compute, w.copy())                         # the values count, not the array
    assert len(calls) == 2


def test_what_comes_for_the_first_time_is_not_known():
    compute, calls = counted()
    kept, w = Prepared(), np.arange(1000, dtype=np.float32)
    assert kept.known(compute, w) is None and not calls
    assert kept.known(compute, w) is kept.known(compute, w) is kept.get(compute, w)
    w[500] = -1                                         # between what a sample sees: found out by comparing all
    np.testing.assert_array_equal(kept.known(compute, w), 2 * w)
    assert kept.known(compute, -w) is None


def test_any_change_is_noticed():
    compute, calls = counted()
    kept, w = Prepared(), np.zeros(1000, np.float32)
    for _ in range(3):
        kept.get(compute, w)
    for place, value in ((777, 1e-30), (999, np.nan), (3, -0.0)):
        w[place] = value
        np.testing.assert_array_equal(kept.get(compute, w), 2 * w)
    assert len(calls) == 5


def test_new_weights_each_time_keep_nothing():
    compute, _ = counted()
    kept = Prepared()
    for step in range(3 * prepared.MOST_SAMPLES):
        kept.get(compute, np.full(100, step, np.float32))
    assert not kept.results and len(kept.samples) == prepared.MOST_SAMPLES


def test_bounded(monkeypatch):
    compute, _ = counted()
    kept, many = Prepared(), [np.full(100, i, np.float32) for i in range(10)]
    monkeypatch.setattr(prepared, "MOST_BYTES", 5 * 800)
    for w in many * 3:
        np.testing.assert_array_equal(kept.get(compute, w), 2 * w)
        assert kept.bytes == sum(size for *_, size in kept.results.values()) <= prepared.MOST_BYTES
    kept.get(compute, np.ones(10_000, np.float32))
    assert kept.bytes <= prepared.MOST_BYTES


def test_threads():
    compute, _ = counted()
    kept, many = Prepared(), [np.full(100, i, np.float32) for i in range(10)]
    with ThreadPoolExecutor(8) as pool:
        for w, result in pool.map(lambda w: (w, kept.get(compute, w)), many * 50):
            np.testing.assert_array_equal(result, 2 * w)
    assert kept.bytes == sum(size for *_, size in kept.results.values())


def test_all_that_it_is_computed_from_counts():
    kept, w, shift = Prepared(), np.arange(1000, dtype=np.float32), np.zeros(3, np.float32)
    for value, factor in ((0, 2), (0, 3), (-0.0, 3), (np.nan, 3), (0, 2)):
        shift[1] = value
        for _ in range(3):
            scaled, shifted = kept.get(_scaled_and_copied, w, shift, factor)
            np.testing.assert_array_equal(scaled, factor * w)
            assert shifted.tobytes() == shift.tobytes()


def _scaled_and_copied(w, shift, factor):
    return factor * w, shift.copy()


def test_what_is_made_from_a_result_goes_by_the_array(monkeypatch):
    """A result is never written into: so it needs no comparison, nor a copy of its own."""
    compute, calls = counted()
    kept, w = Prepared(), np.arange(1000, dtype=np.float32)
    twice = [kept.get(compute, w) for _ in range(3)][-1]
    four = [kept.get(compute, twice) for _ in range(4)]
    assert len(calls) == 4 and four[-1] is four[-2]
    assert any(entry[0] is twice for entry in kept.results.values())
    monkeypatch.setattr(prepared, "MOST_BYTES", 4000)
    kept.get(compute, np.ones(500, np.float32))
    kept.get(compute, np.ones(500, np.float32))         # all others have to go
    assert kept.given == {id(result) for _, result, _ in kept.results.values()} and len(kept.given) == 1
    np.testing.assert_array_equal(kept.get(compute, twice), 4 * w)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="Unix alone forks")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_forked_child_does_not_wait_for_a_thread_that_is_not_there():
    with prepared.prepared.lock:
        child = os.fork()
        if not child:
            signal.alarm(10)
            prepared.prepared.get(np.square, np.ones(3, np.float32))
            os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


def test_convolution_follows_its_weights(monkeypatch):
    """Weights that are written into in place, as optimisers do, between calls."""
    monkeypatch.setattr(winograd, "prepared", Prepared())
    rng = np.random.default_rng(0)
    x, w = rng.random((1, 8, 8, 32), np.float32), rng.random((3, 3, 32, 32), np.float32)
    for change in (0, 0, 0, 0.5, 0, 0, 0):
        w[1, 1, 17, 5] += change
        for conv in (tn.conv2d, tn.conv_transpose2d):
            y = conv(x, w, padding=1).numpy()
            with tn.exact_convolution():
                exact = conv(x, w, padding=1).numpy()
            assert abs(y - exact).max() < 2e-5 * abs(exact).max()
    assert len(winograd.prepared.results) == 2          # those after the change took the place of those before
