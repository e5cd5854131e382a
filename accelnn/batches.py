"""Mini-batches: the order of the examples in each epoch, gathering, and the validation split.

Columns are examples. They are gathered from an (m, n) array with contiguous rows, whose transposed
view is X: 128 columns of a C-ordered (784, 60000) array take 1083 us, 128 rows 65 us.
"""

import functools
import itertools
import threading
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from accelnn.backend import Array, array_module

BLOCKS = 16  # whose examples are shuffled together, and read at a time
MARKED = 100  # epochs between two states of the generator of orders that are kept


def orders(
    m: int,
    seed: int,
    shuffle: bool | int | Iterable[Array] = True,
    first: int = 0,
    marks: dict[int, Any] | None = None,
) -> Iterator[Array]:
    """For each epoch from `first` on a permutation of 0 ... m-1, (m,) int64 on the host.

    shuffle : True for those of a seed; False for 0 ... m-1 itself; the size of blocks for those of
        `in_blocks`; or the coming epochs' own
    marks : by epoch the state of the generator before it: drawing begins at the last one before
        `first`, and one is added every MARKED epochs

    Raises ValueError if one of the caller's own is no permutation, or one is missing.
    """
    if shuffle is False:
        yield from itertools.repeat(np.arange(m))
    elif isinstance(shuffle, int):
        block, marks = None if shuffle is True else shuffle, {} if marks is None else marks
        random = np.random.default_rng((seed, m) if block is None else (seed, m, block))
        start = max((epoch for epoch in marks if epoch <= first), default=0)
        if start in marks:
            random.bit_generator.state = marks[start]
        for epoch in itertools.count(start):
            if epoch % MARKED == 0:
                marks[epoch] = random.bit_generator.state
            order = random.permutation(m) if block is None else in_blocks(m, block, random)
            if epoch >= first:
                yield order
    for given in () if isinstance(shuffle, int) else shuffle:
        order = np.asarray(given)
        if order.shape != (m,) or order.dtype.kind not in "iu" or not is_permutation(order):
            got = f"{order.dtype} of shape {order.shape}"
            raise ValueError(f"expected shuffle to give permutations of 0..{m - 1}, got {got}")
        yield order.astype(np.int64, copy=False)
    raise ValueError("expected shuffle to give a permutation for each epoch, and it gave fewer")


def in_blocks(m: int, block: int, random: Any) -> Array:
    """A permutation of 0 ... m-1 that data on a disk can be read in: blocks of contiguous examples
    in random order, and the examples of BLOCKS of them at a time in random order."""
    starts = random.permutation(-(-m // block)) * block
    order = (starts[:, None] + np.arange(block)).ravel()
    order = order[order < m]  # the last block may be short
    for start in range(0, m, BLOCKS * block):
        random.shuffle(order[start : start + BLOCKS * block])
    return order


def is_permutation(order: Array) -> bool:
    """Whether integers (m,) are 0 ... m-1 in some order."""
    seen = np.zeros(len(order), bool)
    in_range = bool(len(order) and order.min() >= 0 and order.max() < len(order))
    seen[order if in_range else []] = True
    return bool(seen.all())


def sizes(m: int, batch_size: int) -> list[int]:
    """The sizes of an epoch's batches: the last one may be short."""
    full, rest = divmod(m, batch_size)
    return [batch_size] * full + [rest] * (rest > 0)


def examples_first(X: Array) -> Array:
    """Xᵀ (m, n) with contiguous rows: a view if X is one already, else a copy."""
    return array_module(X).ascontiguousarray(X.T)


def gather(rows: Array, indices: Array, out: Array) -> None:
    """out = rows[indices], without allocating."""
    xp = array_module(rows)
    # With the default mode NumPy gathers into a buffer first, to leave `out` alone on errors.
    mode = {"mode": "clip"} if xp is np else {}
    xp.take(rows, indices, axis=0, out=out, **mode)


def split(
    data: tuple[Array, ...], share: float, seed: int, sort: bool = False
) -> tuple[tuple[Array, ...], ...]:
    """The arrays of `data`, with examples along their last axis, to train on, and those of a
    validation set: this share of the examples, at least one and not all, drawn at random, the same
    for a seed. None stays None.

    sort : whether both stay in the order of `data`, in which blocks of them can be read
    """
    trained, watched = split_order(data[0].shape[1], share, seed, sort)
    return part(data, trained), part(data, watched)


def split_order(m: int, share: float, seed: int, sort: bool = False) -> tuple[Array, Array]:
    """The numbers of the examples to train on and of those held out, on the host, as in `split`."""
    order = np.random.default_rng((seed, m, 1)).permutation(m)
    held_out = min(max(round(share * m), 1), m - 1)
    trained, watched = order[held_out:], order[:held_out]
    return (np.sort(trained), np.sort(watched)) if sort else (trained, watched)


def part(data: tuple[Array, ...], chosen: Array) -> tuple[Array, ...]:
    """These examples, whose numbers are on the host, of the arrays of `data`, as in `split`."""

    def of(array: Array) -> Array:
        index = array_module(array).asarray(chosen)
        return array[index] if array.ndim == 1 else array[:, index]

    return tuple(array if array is None else of(array) for array in data)


class Fold:
    """Examples that several trainings see, whose columns are copied when the first needs them."""

    def __init__(self, X: Array, examples: Array) -> None:
        self.X, self.examples, self._lock = X, examples, threading.Lock()

    @property
    def columns(self) -> Array:
        """X of these examples."""
        with self._lock:
            return self._columns

    @functools.cached_property
    def _columns(self) -> Array:
        return self.X[:, self.examples]
