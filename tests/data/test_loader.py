"""DataLoader: order, determinism over workers and resuming, errors that surface, threads that go."""
import threading
import time
import traceback
import warnings

import numpy as np
import pytest

from tinynet.data import DataLoader


class Numbers:
    """Sample i is (i, a random number of its own)."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return np.full((2, 2), index), np.float32(0)

    def sample(self, index, rng):
        return np.full((2, 2), index), np.float32(rng.random())


class Failing(Numbers):
    """Sample 5 cannot be read."""

    def sample(self, index, rng):
        if index == 5:
            raise OSError("sample 5 is on a broken disk")
        return super().sample(index, rng)


def indices(batches):
    return [batch[0][:, 0, 0].tolist() for batch in batches]


def loader_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("tinynet-loader")]


def test_in_order_with_the_rest_as_a_last_batch():
    loader = DataLoader(Numbers(7), 3)
    assert indices(loader) == [[0, 1, 2], [3, 4, 5], [6]]
    assert len(loader) == 3


def test_drop_last_leaves_the_rest_out():
    loader = DataLoader(Numbers(7), 3, drop_last=True)
    assert indices(loader) == [[0, 1, 2], [3, 4, 5]]
    assert len(loader) == 2


def test_shuffle_is_a_permutation_of_samples_not_of_batches():
    order = sum(indices(DataLoader(Numbers(100), 10, shuffle=True)), [])
    assert sorted(order) == list(range(100))
    assert order != list(range(100))
    assert not any(np.ptp(order[i:i + 10]) < 20 for i in range(0, 100, 10))


def test_epochs_and_seeds_differ_and_come_again():
    loader = DataLoader(Numbers(50), 10, shuffle=True, seed=4)
    first, second = indices(loader), indices(loader)
    assert loader.epoch == 2
    assert first != second
    assert first == indices(loader.batches(0)) and second == indices(loader.batches(1))
    assert first != indices(DataLoader(Numbers(50), 10, shuffle=True, seed=5))


def test_an_epoch_broken_off_does_not_count():
    loader = DataLoader(Numbers(10), 2)
    for _ in loader:
        break
    assert loader.epoch == 0


@pytest.mark.parametrize("workers", [1, 3])
def test_the_same_bits_for_any_number_of_workers(workers):
    alone = DataLoader(Numbers(23), 4, shuffle=True, seed=1)
    helped = DataLoader(Numbers(23), 4, shuffle=True, seed=1, workers=workers)
    for _ in range(2):
        for expected, got in zip(alone, helped, strict=True):
            for a, b in zip(expected, got, strict=True):
                assert a.dtype == b.dtype and np.array_equal(a, b)
    assert not loader_threads()


def test_samples_draw_from_generators_of_their_own():
    noise = np.concatenate([batch[1] for batch in DataLoader(Numbers(40), 8)])
    assert len(set(noise.tolist())) == 40
    loader = DataLoader(Numbers(40), 8)
    assert not np.array_equal(noise, np.concatenate([batch[1] for batch in loader.batches(1)]))
    assert np.array_equal(noise, np.concatenate([batch[1] for batch in DataLoader(Numbers(40), 5)]))


def test_the_first_sample_does_not_share_the_seed_of_the_order():
    # (seed, epoch) and (seed, epoch, 0) are one and the same to NumPy's SeedSequence.
    loader = DataLoader(Numbers(30), 30, shuffle=True)
    assert not np.array_equal(loader.order(0), np.random.default_rng((0, 0, 0)).permutation(30))


@pytest.mark.parametrize("workers", [0, 2])
def test_resuming_in_mid_epoch_gives_the_remaining_batches(workers):
    loader = DataLoader(Numbers(20), 3, shuffle=True, workers=workers)
    whole = list(loader.batches(2))
    for start in (0, 3, 7):
        for expected, got in zip(whole[start:], loader.batches(2, start), strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(expected, got, strict=True))
    assert loader.epoch == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_surfaces_at_its_batch_with_its_traceback(workers):
    received = []
    with pytest.raises(OSError, match="broken disk") as caught:
        for batch in DataLoader(Failing(40), 2, workers=workers):
            received.append(batch)
    assert indices(received) == [[0, 1], [2, 3]]
    assert any(frame.name == "sample" for frame in traceback.extract_tb(caught.value.__traceback__))
    gone()


def gone():
    """After an error nobody waits for the threads; they go by themselves."""
    for _ in range(500):
        if not loader_threads():
            return
        time.sleep(0.01)
    raise AssertionError("loader threads are left")


def skipping(bad, count, batch_size, error=OSError, **options):
    """A loader of Numbers, of which those in `bad` cannot be read."""
    class Bad(Numbers):
        def sample(self, index, rng):
            if index in bad:
                raise error(f"{index}.png is broken")
            return super().sample(index, rng)

    return DataLoader(Bad(count), batch_size, on_error="skip", **options)


@pytest.mark.parametrize("error", [OSError, ValueError, FileNotFoundError])
def test_bad_samples_can_be_skipped_and_are_counted(error):
    loader = skipping([1, 6, 7, 8], 10, 3, error)
    with pytest.warns(UserWarning) as warned:
        assert indices(loader) == [[0, 2], [3, 4, 5], [9]]      # of the third batch nothing is left
    assert loader.skipped == {i: f"{i}.png is broken" for i in (1, 6, 7, 8)}
    assert str(warned[0].message) == "DataLoader: skipped sample 1: 1.png is broken"
    assert len(warned) == 4 and len(loader) == 4
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(indices(loader)) == 3                        # warned of once
    assert len(loader.skipped) == 4


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.filterwarnings("ignore:DataLoader. skipped")
def test_skipping_gives_the_same_bits_for_any_number_of_workers(workers):
    alone, helped = (skipping(range(5, 12), 40, 2, shuffle=True, seed=3, workers=n) for n in (0, workers))
    whole = DataLoader(Numbers(40), 2, shuffle=True, seed=3)
    for _ in range(2):
        good = [(rows[keep], noise[keep]) for rows, noise in whole
                if (keep := (rows[:, 0, 0] < 5) | (rows[:, 0, 0] >= 12)).any()]
        for expected, a, b in zip(good, alone, helped, strict=True):
            for one, two, three in zip(expected, a, b, strict=True):
                assert np.array_equal(one, two) and np.array_equal(two, three)
        assert list(alone.skipped.items()) == list(helped.skipped.items())
    assert set(alone.skipped) == set(range(5, 12))
    assert not loader_threads()


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:DataLoader. skipped")
def test_resuming_behind_batches_that_were_left_out(workers):
    loader = skipping([0, 1, 4, 5, 6, 7, 9], 12, 2, workers=workers)
    whole, positions = [], []
    for batch in loader.batches(0):
        whole.append(batch)
        positions.append(loader.position)
    assert indices(whole) == [[2, 3], [8], [10, 11]] and positions == [2, 5, 6]
    for given, start in enumerate(positions, start=1):
        assert indices(loader.batches(0, start)) == indices(whole[given:])


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.filterwarnings("ignore:DataLoader. skipped")
def test_an_epoch_of_which_nothing_can_be_read_is_an_error(workers):
    with pytest.raises(ValueError, match="none of the 5 samples can be read; the last: 4.png is broken"):
        list(skipping(range(5), 5, 2, workers=workers))
    assert not loader_threads()


@pytest.mark.parametrize("error", [TypeError, KeyError, ZeroDivisionError])
def test_other_errors_are_never_skipped(error):
    with pytest.raises(error, match="3.png is broken"):
        list(skipping([3], 5, 2, error))


def test_closing_early_leaves_no_thread_behind():
    batches = DataLoader(Numbers(1000), 2, workers=3).batches(0)
    next(batches)
    assert loader_threads()
    batches.close()
    assert not loader_threads()


def test_workers_stop_in_the_middle_of_a_batch_when_closed():
    class Slow(Numbers):
        def sample(self, index, rng):
            time.sleep(0.05 * (index >= 100))
            return super().sample(index, rng)

    batches = DataLoader(Slow(1000), 100, workers=2).batches(0)
    next(batches)                       # each of the batches in the making takes 5 s
    began = time.perf_counter()
    batches.close()
    assert time.perf_counter() - began < 2
    assert not loader_threads()


def test_workers_do_not_run_away_from_the_consumer():
    asked = []

    class Counting(Numbers):
        def sample(self, index, rng):
            asked.append(index)
            return super().sample(index, rng)

    batches = DataLoader(Counting(1000), 1, workers=2).batches(0)
    next(batches)
    time.sleep(0.1)
    assert len(asked) <= 5
    batches.close()


def test_waited_counts_the_seconds_of_waiting():
    loader = DataLoader(Numbers(10), 2)
    list(loader)
    assert 0 < loader.waited < 5


def test_samples_of_different_shapes_are_named():
    dataset = [(np.zeros((4, 4)),), (np.zeros((4, 4)),), (np.zeros((4, 5)),)]
    assert [batch[0].shape for batch in DataLoader(dataset, 1)] == [(1, 4, 4), (1, 4, 4), (1, 4, 5)]
    with pytest.raises(ValueError, match=r"sample 2 has the shapes \(4, 5\), but sample 0 .* batch_size=1"):
        list(DataLoader(dataset, 3))


def test_a_sample_must_be_a_tuple():
    with pytest.raises(TypeError, match=r"sample 0 is a ndarray.*\(x,\)"):
        list(DataLoader([np.zeros(3)], 1))


@pytest.mark.parametrize("arguments, error, sentence", [
    ({"batch_size": 0}, ValueError, "batch_size is 0; give a whole number from 1"),
    ({"batch_size": 2.5}, TypeError, "batch_size is 2.5"),
    ({"batch_size": 1, "workers": -1}, ValueError, "workers is -1"),
    ({"batch_size": 1, "seed": -3}, ValueError, "seed is -3"),
    ({"batch_size": 1, "on_error": "ignore"}, ValueError, "on_error is 'ignore'; give 'raise'.* or 'skip'"),
    ({"batch_size": 5, "drop_last": True}, ValueError, "drop_last leaves no batch of the 4 samples"),
])
def test_wrong_arguments(arguments, error, sentence):
    with pytest.raises(error, match=sentence):
        DataLoader(Numbers(4), **arguments)


def test_an_empty_dataset():
    with pytest.raises(ValueError, match="the dataset is empty"):
        DataLoader([], 1)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_parts_of_a_batch_are_the_batch(workers):
    loader = DataLoader(Numbers(11), 4, shuffle=True, workers=workers)
    whole = list(loader.batches(2))
    parts = [list(loader.batches(2, part=(i, 3))) for i in range(3)]
    assert [[len(batch[0]) for batch in part] for part in parts] == [[2, 2, 1], [1, 1, 1], [1, 1, 1]]
    for batch, *shares in zip(whole, *parts, strict=True):
        for array, *pieces in zip(batch, *shares, strict=True):
            np.testing.assert_array_equal(np.concatenate(pieces), array)


def test_a_batch_that_is_too_small_to_share_is_refused_at_once():
    with pytest.raises(ValueError, match=r"4 processes share each batch, but the last has 3 sample\(s\); .*drop_last"):
        DataLoader(Numbers(11), 4).batches(1, part=(0, 4))
    DataLoader(Numbers(11), 4, drop_last=True).batches(1, part=(0, 4))


@pytest.mark.filterwarnings("ignore:DataLoader. skipped")
def test_a_part_of_which_nothing_can_be_read_is_an_error():
    loader = skipping([3, 4, 5], 12, 4)
    assert indices(loader.batches(1, part=(1, 2))) == [[2], [6, 7], [10, 11]]
    with pytest.raises(ValueError, match="this process's part of batch 1 can be read.*5.png is broken"):
        list(loader.batches(1, part=(0, 2)))


def test_a_start_beyond_the_epoch_is_refused_at_once():
    with pytest.raises(ValueError, match="start is batch 6, but an epoch has 5 batches"):
        DataLoader(Numbers(10), 2).batches(0, start=6)
