"""Data that stays as it is stored, in the host's memory or in a file, while a training reads parts
of it: `HostColumns`, and the `Stored` numbers of a file."""

import math
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

Array = Any  # as in accelnn.backend, which needs this module

# Bytes that a thread works on at a time: about a core's cache, and large enough for few calls
BLOCK_BYTES = 1 << 21
# Threads that gather or read data: more of them gain nothing, because they share the memory's rate.
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
# Bytes between two rows of a file that are read rather than skipped
GAP = 1 << 16
CACHED = 1 << 19  # bytes of floats that are computed from numbers while these are in the cache


@dataclass(frozen=True, eq=False)
class Stored:
    """Rows (k, n) of numbers in a file, in memory only while they are used.

    source : an h5py dataset, a zarr array, a memory map, or anything with shape, dtype and slices
    by_columns : whether its columns are the rows; else all axes but the first are one
    """

    source: Any
    by_columns: bool = False

    @property
    def shape(self) -> tuple[int, int]:
        """(k, n)"""
        first, *others = self.source.shape
        return (others[0], first) if self.by_columns else (first, math.prod(others))

    @property
    def dtype(self) -> np.dtype[Any]:
        """That of the numbers."""
        return self.source.dtype  # type: ignore[no-any-return]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> Array:
        """These rows, in memory."""
        if self.by_columns:
            return np.asarray(self.source[:, rows]).T
        return np.asarray(self.source[rows]).reshape(-1, self.shape[1])

    def read(self, numbers: Array) -> Array:
        """The rows of these ascending numbers; those close together are read at once."""
        rows = np.empty((len(numbers), self.shape[1]), self.dtype)
        width = max(1, self.shape[1] * self.dtype.itemsize)
        apart = np.flatnonzero(np.diff(numbers) > 1 + GAP // width) + 1
        step = max(1, BLOCK_BYTES // width)
        for run in np.split(numbers, apart) if len(numbers) else ():
            for start in range(run[0], run[-1] + 1, step):
                end = min(start + step, run[-1] + 1)
                first, last = np.searchsorted(numbers, (start, end))
                places = numbers[first:last] - start
                if len(places):
                    block = self[start:end]
                    all_of_it = np.array_equal(places, np.arange(end - start))
                    rows[first:last] = block if all_of_it else block[places]
        return rows

    def features(self, numbers: slice) -> Array:
        """(k, size) of these columns."""
        if self.by_columns:
            return np.asarray(self.source[numbers]).T
        if len(self.source.shape) == 2:
            return np.asarray(self.source[:, numbers])
        step = max(1, BLOCK_BYTES // (self.shape[1] * self.dtype.itemsize))
        return np.concatenate([self[k : k + step][:, numbers] for k in range(0, len(self), step)])

    @property
    def block(self) -> int:
        """The rows of a block for `batches.in_blocks`: about half of BLOCK_BYTES, in whole chunks
        of the file."""
        rows = max(1, BLOCK_BYTES // 2 // (self.shape[1] * self.dtype.itemsize))
        chunks = getattr(self.source, "chunks", None) or (1, 1)
        chunk = chunks[1 if self.by_columns else 0]
        return int(-(-rows // chunk) * chunk)


@dataclass(frozen=True, eq=False)
class HostColumns:
    """X (n, m) on the host, whose columns become floats when needed, never all at once.

    NumPy reads it as a whole: `np.asarray` gives its (n, m) floats. Device arrays do not mix with
    it; `accelnn.fit` streams it.

    rows : (k, n) numbers of any type, in memory or Stored; a row is a column of X. Collecting rows
        in memory that are not contiguous takes many times as long.
    dtype : float32 or float64, of the floats
    scale : the divisor of the numbers: 255 makes [0, 1] of bytes
    chosen : (m,) the rows of X, in its order; None for all as they are
    """

    rows: Array
    dtype: np.dtype[Any]
    scale: float = 1.0
    chosen: Array | None = None

    @classmethod
    def of(cls, X: Array, dtype: np.dtype[Any]) -> Self:
        """X (n, m), an array on the host or HostColumns, as floats of `dtype`, without a copy."""
        if isinstance(X, cls):
            return replace(X, dtype=dtype)
        return cls(np.asarray(X).T, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m)"""
        k, *others = self.rows.shape
        return (*reversed(others), k if self.chosen is None else len(self.chosen))

    @property
    def ndim(self) -> int:
        """2, unless `rows` is no matrix."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """n · m"""
        return int(np.prod(self.shape))

    @property
    def in_file(self) -> bool:
        """Whether the numbers are in memory only while they are used."""
        return isinstance(self.rows, Stored)

    @property
    def wire(self) -> np.dtype[Any]:
        """The type in which columns are sent: the stored one, unless the floats are smaller."""
        stored = self.rows.dtype.newbyteorder("=")
        small = stored.kind in "buif" and stored.itemsize <= self.dtype.itemsize
        return stored if small else self.dtype

    def __getitem__(self, key: Any) -> Self:
        """X[:, columns] with a slice or an array of columns, without a copy."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None):
            all_rows = np.arange(len(self.rows)) if self.chosen is None else self.chosen
            chosen = all_rows[key[1]]
            if chosen.ndim == 1:
                return replace(self, chosen=chosen)
        raise IndexError(f"expected X[:, columns] of data on the host, got X[{key!r}]")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("data that stays on the host has no array of its floats: copy it")
        return replace(self, dtype=np.dtype(dtype or self.dtype)).read().T

    def gather(self, columns: Array, out: Array) -> None:
        """out = the numbers of these columns as rows (size, n), cast to its dtype and not scaled;
        other threads run meanwhile."""
        if self.in_file:
            self.loaded(columns).gather(np.arange(len(columns)), out)
            return
        rows, numbers = self.rows, columns if self.chosen is None else self.chosen[columns]
        if rows.flags.c_contiguous and rows.dtype == out.dtype:
            # With the default mode NumPy gathers into a buffer first.
            np.take(rows, numbers, axis=0, out=out, mode="clip")
            return
        # np.take would first make all rows contiguous, of that dtype.
        step = max(1, BLOCK_BYTES // max(1, out[:1].nbytes))
        with np.errstate(over="ignore", invalid="ignore"):  # `fit` refuses what overflows
            for start in range(0, len(numbers), step):
                out[start : start + step] = rows[numbers[start : start + step]]

    def take(self, columns: Array) -> Self:
        """X[:, columns] of numbers from 0 to m-1, without a copy."""
        return replace(self, chosen=columns if self.chosen is None else self.chosen[columns])

    def loaded(self, columns: Array) -> Self:
        """`take`, in memory: columns in a file are read, in its order."""
        if not self.in_file:
            return self.take(columns)
        numbers = columns if self.chosen is None else self.chosen[columns]
        order = np.argsort(numbers, kind="stable")
        places = np.empty_like(order)
        places[order] = np.arange(len(order))
        return replace(self, rows=self.rows.read(numbers[order]), chosen=places)

    def followed_by(self, other: Self) -> Self:
        """The columns of both, as they are stored, in memory: a copy."""
        n, m, more = *self.shape, other.shape[1]
        rows = np.empty((m + more, n), self.rows.dtype)
        self.gather(np.arange(m), rows[:m])
        other.gather(np.arange(more), rows[m:])
        return replace(self, rows=rows, chosen=np.arange(m + more))

    def read(self, columns: Array | None = None) -> Array:
        """The floats of these columns, by default all, as rows (size, n): a copy."""
        columns = np.arange(self.shape[-1]) if columns is None else columns
        floats = np.empty((len(columns), *self.shape[:-1]), self.dtype)
        if self.scale == 1:
            self.gather(columns, floats)
            return floats
        step = max(1, CACHED // max(1, floats[:1].nbytes))
        raw = np.empty((step, *floats.shape[1:]), self.rows.dtype)
        held = self.loaded(columns)
        for start in range(0, len(floats), step):
            part = floats[start : start + step]
            held.gather(np.arange(start, start + len(part)), raw[: len(part)])
            np.divide(raw[: len(part)], self.dtype.type(self.scale), out=part, dtype=self.dtype)
        return floats

    def features(self, numbers: slice) -> Array:
        """X[numbers], (size, m) floats: a copy."""
        rows = self.rows.features(numbers) if self.in_file else self.rows[:, numbers]
        floats = (rows if self.chosen is None else rows[self.chosen]).astype(self.dtype)
        if self.scale != 1:
            floats /= self.scale
        return floats.T

    def blocks(self, size: int | None = None) -> Iterator[Array]:
        """The numbers of all columns, 0 ... m-1, `size` at a time, or BLOCK_BYTES of floats."""
        n, m = self.shape
        step = size or max(1, BLOCK_BYTES // (n * self.dtype.itemsize))
        for start in range(0, m, step):
            yield np.arange(start, min(start + step, m))


def stored(numbers: Any, *, scale: float = 1.0, examples: str = "rows") -> HostColumns:
    """Features or labels in a file, for `accelnn.fit` and a Network's methods, as floats that are
    `scale` times smaller.

    numbers : an h5py dataset, a zarr array, a memory map, or anything with shape, dtype and slices:
        (m, ...) with an example in each row, or (n, m) with one in each column. Keep its file open
    scale : the divisor: 255 makes [0, 1] of pixels, which stay bytes until they are used
    examples : "rows" | "columns"

    Without a scale `fit` takes the same objects as they are, except memory maps, if their shape
    says which axis has the examples. Raises TypeError without shape, dtype and slices, ValueError
    for other values.
    """
    names = "shape", "dtype", "__getitem__"
    if not all(hasattr(numbers, name) for name in names) or len(numbers.shape) < 2:
        found = f"{type(numbers).__name__} of shape {getattr(numbers, 'shape', None)}"
        raise TypeError(f"expected an h5py dataset or the like with two axes or more, got {found}")
    if np.dtype(numbers.dtype).kind not in "buif":
        raise TypeError(f"expected real numbers, got {numbers.dtype}")
    if examples not in ("rows", "columns") or (examples == "columns" and len(numbers.shape) > 2):
        expected = "'rows', or 'columns' of an array of two axes"
        raise ValueError(f"expected examples as {expected}, got {examples!r} of {numbers.shape}")
    if not 0 < scale < math.inf:
        raise ValueError(f"expected a finite scale above 0, got {scale}")
    dtype = np.result_type(numbers.dtype, np.float32)
    return HostColumns(Stored(numbers, examples == "columns"), dtype, float(scale))


def as_stored(value: Any, features: int, name: str) -> Any:
    """`value` as HostColumns (features, m) if it stays in a file, else itself. Raises ValueError if
    its examples can be neither rows nor columns, or either."""
    shape = getattr(value, "shape", ())
    if not _in_file(value) or len(shape) < 2:
        return value
    columns = shape == (features, *shape[1:2])
    rows = math.prod(shape[1:]) == features
    if columns and rows and features > 1:
        remedy = "pass accelnn.stored(..., examples='rows'), or 'columns'"
        raise ValueError(f"the examples of {name} {shape} may be rows or columns: {remedy}")
    if not (columns or rows):
        expected = f"({features}, m), or (m, {features}) with an example in each row"
        raise ValueError(f"expected {name} of shape {expected}, got {shape}")
    return stored(value, examples="columns" if columns else "rows")


def _in_file(value: Any) -> bool:
    """Whether this is no array and yet has its shape, dtype and slices. A memory map is an array:
    joblib makes one of any large array, which must not change a training."""
    cupy = sys.modules.get("cupy")
    arrays = (np.ndarray, HostColumns, *([cupy.ndarray] if cupy else ()))
    if isinstance(value, arrays):
        return False
    array = any(hasattr(value, name) for name in ("__dlpack__", "__array_interface__", "tocsr"))
    sliced = hasattr(value, "__getitem__") and isinstance(getattr(value, "dtype", None), np.dtype)
    return sliced and not array
