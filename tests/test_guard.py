"""Arrays that a live graph needs can't be written, by whatever way a user came by them; and can again afterwards."""

import numpy as np
import pytest

import tinynet as tn
from tinynet import guard


def writes(array):
    array[...] = 1.0


def test_the_users_own_array_is_locked_while_the_graph_lives():
    a = np.ones(3)
    x = tn.Tensor(a, requires_grad=True)
    y = (x * x).sum()
    with pytest.raises(ValueError, match="read-only"):
        writes(a)
    y.backward()
    writes(a)


@pytest.mark.parametrize("before", [True, False])
def test_data_is_locked_whether_taken_before_or_after(before):
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    taken = x.data if before else None
    y = x * x
    with pytest.raises(ValueError, match="read-only"):
        writes(taken if before else x.data)
    with pytest.raises(ValueError, match="live graph still needs"):
        x.data = np.zeros(2, np.float32)
    del y  # dropped without a backward pass
    writes(x.data)
    x.data = np.zeros(2, np.float32)
    assert x.data.tolist() == [0, 0]


def test_an_output_that_is_kept_is_locked():
    x = tn.Tensor([1.0], requires_grad=True)
    y = tn.exp(x)
    with pytest.raises(ValueError, match="read-only"):
        writes(y.data)


def test_views_share_the_lock():
    a = np.arange(6.0)
    x = tn.Tensor(a.reshape(2, 3), requires_grad=True)
    z = x.reshape(6)
    view = z.data
    y = (z * z).sum()
    for array in (a, view, x.data):
        with pytest.raises(ValueError, match="read-only"):
            writes(array)
    y.backward()
    for array in (a, view, x.data):
        writes(array)


def test_what_backward_does_not_read_stays_writable():
    x = tn.Tensor([1.0, 2.0], requires_grad=True)
    y = x + 1
    writes(x.data)  # the gradient of a sum doesn't depend on x
    y.backward(np.ones(2, np.float32))
    assert x.grad.data.tolist() == [1, 1]


def test_two_graphs_keep_one_array():
    x = tn.Tensor([1.0], requires_grad=True)
    first, second = x * x, x * x
    first.backward()
    with pytest.raises(ValueError, match="read-only"):
        writes(x.data)
    second.backward()
    writes(x.data)


def test_nothing_is_remembered_afterwards():
    before = dict(guard._blocks)
    x = tn.Tensor(np.ones(4), requires_grad=True)
    y = tn.exp(x * x.data)
    y.sum().backward()
    del x, y
    assert guard._blocks.keys() == before.keys()


def test_a_read_only_array_is_copied():
    a = np.broadcast_to(np.float64(1), (3,))
    x = tn.Tensor(a)
    assert x.array.flags.writeable
    assert not np.shares_memory(x.array, a)


def test_kernels_see_writable_arrays_though_the_public_ones_are_locked():
    x = tn.Tensor(np.ones(3), requires_grad=True)
    y = x * x
    assert not x.data.flags.writeable
    assert x.array.flags.writeable  # a read-only array would make numba compile everything a second time
    del y


class _Dropping(dict):
    """A dict that lets its `last` array die as soon as it has been asked: as Python's collector may, at any line."""

    last = None

    def get(self, key):
        found = super().get(key)
        self.last = None
        return found


@pytest.fixture
def published(monkeypatch):
    """An array, one view of which is known; it dies at the next look at the blocks."""
    monkeypatch.setattr(guard, "_blocks", _Dropping(guard._blocks))
    a = np.zeros(3)
    view = a.view()
    guard.publish(view)
    guard._blocks.last = view
    return a


def is_guarded(array, view):
    keep = guard.Keep([array])
    with pytest.raises(ValueError, match="read-only"):
        writes(view)
    del keep
    writes(view)
    return True


def test_the_only_other_view_may_die_while_one_is_published(published):
    view = published.view()
    guard.publish(view)
    assert guard._blocks.last is None and is_guarded(published, view)


def test_the_only_view_may_die_while_its_block_is_kept(published):
    keep = guard.Keep([published])
    assert guard._blocks.last is None
    view = published.view()
    guard.publish(view)
    assert not view.flags.writeable
    del keep
    assert is_guarded(published, view)
