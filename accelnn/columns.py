"""Data that stays on the host, as it is stored, while a device trains on it: `HostColumns`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

Array = Any  # as in accelnn.backend, which needs this module

# Bytes that a thread works on at a time: about a core's cache, and large enough for few calls
BLOCK_BYTES = 1 << 21
# Threads that gather or read data: more of them gain nothing, because they share the memory's rate.
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(frozen=True, eq=False)
class HostColumns:
    """X (n, m) on the host, whose columns become floats when needed, never all at once.

    NumPy reads it as a whole: `np.asarray` gives its (n, m) floats. Device arrays do not mix with
    it; `accelnn.fit` streams it.

    rows : (k, n) numbers of any type, in memory or mapped from a file; a row is a column of X.
        Collecting rows that are not contiguous takes many times as long.
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
        """X (n, m), an array on the host or a HostColumns, as floats of `dtype`, without a copy."""
        if isinstance(X, cls):
            return replace(X, dtype=dtype)
        return cls(np.asarray(X).T, dtype)

    @property
    def shape(self) -> tuple[int, ...]:
        """(n, m)"""
        stored: tuple[int, ...] = self.rows.T.shape
        return stored if self.chosen is None else (*stored[:-1], len(self.chosen))

    @property
    def ndim(self) -> int:
        """2, unless `rows` is no matrix."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """n · m"""
        return int(np.prod(self.shape))

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
        return replace(self, dtype=np.dtype(dtype or self.dtype)).read(np.arange(self.shape[1])).T

    def gather(self, columns: Array, out: Array) -> None:
        """out = the numbers of these columns as rows (size, n), cast to its dtype and not scaled;
        other threads run meanwhile."""
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

    def read(self, columns: Array) -> Array:
        """The floats of these columns as rows (size, n): a copy."""
        rows = np.empty((len(columns), *self.shape[:-1]), self.dtype)
        self.gather(columns, rows)
        if self.scale != 1:
            rows /= self.scale
        return rows

    def blocks(self, size: int | None = None) -> Iterator[Array]:
        """The numbers of all columns, 0 ... m-1, `size` at a time, or BLOCK_BYTES of floats."""
        n, m = self.shape
        step = size or max(1, BLOCK_BYTES // (n * self.dtype.itemsize))
        for start in range(0, m, step):
            yield np.arange(start, min(start + step, m))
