"""DataLoader: batches of a dataset, the same bits for any number of workers and from any batch on."""
from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from os import getpid
from threading import Event
from typing import Any, Protocol

import numpy as np

from tinynet.autograd import part
from tinynet.data.files import Faults
from tinynet.typing import Array, OnError, Random

BATCHES_AHEAD = 2      # prepared batches that may wait, for each worker


Sample = tuple[Any, ...]        # arrays and numbers
Batch = tuple[Array, ...]       # the samples' parts, stacked


class Dataset(Protocol):
    """What is loaded from: anything with these two, a list too."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


class DataLoader:
    """Iterates over a dataset in batches: one iteration is one epoch.

    A dataset has `len(dataset)` and `dataset[index]`, a tuple of arrays; if it also has
    `sample(index, rng)`, that is called instead, with a generator made from (seed, epoch, index).
    So order and augmentation depend on nothing else: not on the workers, nor on where one resumes.

    - batch_size: samples in a batch; the last batch has what remains, or is left out with `drop_last`.
    - shuffle: a new permutation of all samples in every epoch, made from (seed, epoch).
    - workers: threads that prepare the next batches while the caller works; 0 prepares each when asked.
    - on_error: what a ValueError or an OSError of the dataset does, by which readers refuse a file. "raise"
      stops there. "skip" leaves the sample out, so that its batch is shorter, or is not given at all if it was
      alone; the other batches stay what they were. `loader.skipped` is a dict of index to reason, and each is
      warned of once. An epoch of which nothing can be read raises ValueError even so.

    `loader.epoch` is the epoch that the next iteration gives; going through to the end counts it up.
    `loader.position` is the place in its epoch behind the batch given last: where to resume.
    `loader.waited` is the time in seconds that the caller has spent waiting for batches so far.

    Raises ValueError for an empty dataset, a batch_size below 1, negative workers or seed, and, at the batch
    concerned, for samples that do not stack. An error of the dataset comes out at its batch as it was raised.

    >>> loader = DataLoader([(np.full(3, i), i) for i in range(5)], batch_size=2)
    >>> [labels.tolist() for rows, labels in loader]
    [[0, 1], [2, 3], [4]]
    >>> len(loader), loader.epoch
    (3, 1)
    """

    def __init__(self, dataset: Dataset, batch_size: int, shuffle: bool = False, seed: int = 0, workers: int = 0,
                 drop_last: bool = False, on_error: OnError = "raise") -> None:
        _check_whole("batch_size", batch_size, 1)
        _check_whole("workers", workers, 0)
        _check_whole("seed", seed, 0)
        if len(dataset) == 0:
            raise ValueError("DataLoader: the dataset is empty; give it one sample at least")
        if drop_last and len(dataset) < batch_size:
            raise ValueError(f"DataLoader: drop_last leaves no batch of the {len(dataset)} samples, for "
                             f"batch_size is {batch_size}; give a smaller batch_size or drop_last=False")
        self.dataset = dataset
        self.batch_size = batch_size
        self.shuffle = shuffle
        self.seed = seed
        self.workers = workers
        self.drop_last = drop_last
        self.epoch = 0
        self.position = 0
        self.waited = 0.0
        self._faults = Faults("DataLoader", on_error, "sample ")

    def __len__(self) -> int:
        """The number of batches in an epoch."""
        samples = len(self.dataset)
        return samples // self.batch_size if self.drop_last else -(-samples // self.batch_size)

    @property
    def skipped(self) -> dict[int, str]:
        """The samples that could not be read so far, a dict of index to reason."""
        return dict(self._faults.reasons)

    def __iter__(self) -> Generator[Batch]:
        yield from self.batches(self.epoch)
        self.epoch += 1

    def batches(self, epoch: int, start: int = 0, part: tuple[int, int] = (0, 1)) -> Generator[Batch]:
        """The batches of one epoch from batch `start` on, as a generator; leaves `loader.epoch` alone.

        part: (i, n) gives the i-th of n even parts of each batch, for n processes that share the work; they differ
        by at most one sample. Raises ValueError for a batch of fewer than n samples.

        Resuming in the middle of an epoch gives the very batches that were still to come:

        >>> loader = DataLoader([(i,) for i in range(6)], batch_size=2, shuffle=True)
        >>> whole = [batch.tolist() for (batch,) in loader.batches(epoch=3)]
        >>> whole[1:] == [batch.tolist() for (batch,) in loader.batches(epoch=3, start=1)]
        True
        """
        _check_whole("epoch", epoch, 0)
        _check_whole("start", start, 0)
        if start > len(self):
            raise ValueError(f"DataLoader: start is batch {start}, but an epoch has {len(self)} batches; "
                             f"give a start from 0 to {len(self)}")
        order = self.order(epoch)
        chunks = [order[i * self.batch_size:(i + 1) * self.batch_size] for i in range(start, len(self))]
        mine, parts = part
        if chunks and len(chunks[-1]) < parts:
            raise ValueError(f"DataLoader: {parts} processes share each batch, but the last has {len(chunks[-1])} "
                             "sample(s); give another batch_size, drop_last=True, or fewer processes")
        chunks = [np.array_split(chunk, parts)[mine] for chunk in chunks]
        prepared = self._prefetched(epoch, chunks) if self.workers else self._on_demand(epoch, chunks)
        return self._readable(prepared, start, shared=parts > 1)

    def order(self, epoch: int) -> Array:
        """The indices of all samples in the order in which epoch `epoch` takes them."""
        samples = len(self.dataset)
        if not self.shuffle:
            return np.arange(samples)
        # (seed, epoch, i) seeds sample i; no sample has the index `samples`, so this seed is the order's own.
        return np.random.default_rng((self.seed, epoch, samples)).permutation(samples)

    def _readable(self, prepared, start, shared):
        """The batches of which something could be read, in order; counts what could not."""
        self.position = start
        given = 0
        with contextlib.closing(prepared):
            for position, (batch, refused) in enumerate(prepared, start + 1):
                for index, error in refused:
                    self._faults.keep(index, str(error))
                if batch is None and shared:
                    raise ValueError(f"DataLoader: none of the samples of this process's part of batch {position - 1} "
                                     f"can be read, and the other processes would wait for it; the last: {error}")
                if batch is not None:
                    self.position = position
                    given += 1
                    yield batch
        if start == 0 and not given:
            raise ValueError(f"DataLoader: none of the {len(self.dataset)} samples can be read; the last: {error}")

    def _on_demand(self, epoch, chunks):
        for chunk in chunks:
            began = time.perf_counter()
            with part("loader"):
                batch = self._prepare(epoch, chunk, None)
            self.waited += time.perf_counter() - began
            yield batch

    def _prefetched(self, epoch, chunks):
        """Keeps a bounded queue of batches in the making; hands them out in order."""
        closing = Event()
        ahead = BATCHES_AHEAD * self.workers
        pool = ThreadPoolExecutor(self.workers, thread_name_prefix="tinynet-loader")
        remaining = iter(chunks)
        pending = deque()
        process, at_ease = getpid(), True
        try:
            while True:
                if getpid() != process:              # they would never answer
                    raise RuntimeError("DataLoader: this process was forked in the middle of an epoch, and the worker "
                                       "threads stayed behind; go through the loader anew here")
                while len(pending) < ahead and (chunk := next(remaining, None)) is not None:
                    pending.append(pool.submit(self._prepare, epoch, chunk, closing))
                if not pending:
                    return
                began = time.perf_counter()
                try:
                    with part("loader"):
                        batch = pending.popleft().result()  # raises what the worker raised, with its traceback
                except BaseException as error:
                    at_ease = False
                    if isinstance(error, SystemExit):   # would end this program, too, and without a traceback
                        raise RuntimeError("DataLoader: the dataset raised SystemExit in a worker") from error
                    raise
                self.waited += time.perf_counter() - began
                yield batch
        finally:
            # Reached at the end, after an error, on Ctrl-C and when the generator is closed early. An error comes out
            # at once: another worker may be busy with a sample that takes long, or hangs.
            closing.set()
            pool.shutdown(wait=at_ease, cancel_futures=True)

    def _prepare(self, epoch, indices, closing):
        """(batch, refused): the samples stacked, or None if none can be read; [(index, its error)]."""
        samples, kept, refused = [], [], []
        for index in indices.tolist():
            if closing is not None and closing.is_set():
                return None                             # nobody waits for this batch any more
            try:
                samples.append(draw(self.dataset, index, np.random.default_rng((self.seed, epoch, index))))
                kept.append(index)
            except (ValueError, OSError) as error:
                if not self._faults.skips:
                    raise
                refused.append((index, error))
        return (_stacked(samples, kept) if kept else None), refused


def draw(dataset: Dataset, index: int, rng: Random) -> Sample:
    """One sample: `dataset.sample(index, rng)` where the dataset has it, else `dataset[index]`."""
    return dataset.sample(index, rng) if hasattr(dataset, "sample") else dataset[index]


def _stacked(samples, indices):
    """A tuple of arrays (N, ...) from N tuples of arrays."""
    for sample, index in zip(samples, indices, strict=True):
        if not isinstance(sample, tuple):
            raise TypeError(f"DataLoader: sample {index} is a {type(sample).__name__}; a dataset gives "
                            "tuples of arrays, so give (x,) in place of x")
    samples = [tuple(np.asarray(part) for part in sample) for sample in samples]
    expected = [part.shape for part in samples[0]]
    for sample, index in zip(samples, indices, strict=True):
        shapes = [part.shape for part in sample]
        if shapes != expected:
            raise ValueError(f"DataLoader: sample {index} has the shapes {_listed(shapes)}, but sample "
                             f"{indices[0]} of the same batch has {_listed(expected)}; it needs equal ones: "
                             "data.Augmented(dataset, data.Crop(size)) crops them, or use batch_size=1")
    return tuple(np.stack(parts) for parts in zip(*samples, strict=True))


def _listed(shapes):
    return ", ".join(map(str, shapes))


def _check_whole(name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"DataLoader: {name} is {value!r}; give a whole number from {minimum} up")
    if value < minimum:
        raise ValueError(f"DataLoader: {name} is {value}; give a whole number from {minimum} up")
