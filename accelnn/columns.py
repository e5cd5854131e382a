"""Data that stays on the host while a device trains on it, as it is stored: `HostColumns`."""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np

Array = Any  # as in accelnn.backend, which needs this module

# What a thread works on at a time: about what a core has of cache, and large enough for few calls
BLOCK_BYTES = 1 << 21

# That gather, or read through data: a core's share of the memory's rate is a fraction of it, and
# more than some of them gain nothing.
THREADS = min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)


@dataclass(frozen=True, eq=False)
class HostColumns:
    """X (n, m) on the host, of which columns become floats when they are wanted, and never all.

    For NumPy it is an array, read as a whole: `np.asarray` gives its (n, m) floats. For CuPy it
    is one on the host, with which device arrays do not mix; `accelnn.fit` streams it.

    Parameters
    ----------
    rows : (k, n) numbers of any type, in memory or mapped into it, of which a row is a column
        of X. Where a row is not contiguous, collecting it takes many times as long.
    dtype : float32 or float64, of the floats
    scale : what the numbers are divided by: 255 makes [0, 1] of bytes
    chosen : (m,) the rows that X consists of, in its order; None is all as they lie
    """

    rows: Array
    dtype: np.dtype[Any]
    scale: float = 1.0
    chosen: Array | None = None

    @classmethod
    def of(cls, X: Array, dtype: np.dtype[Any]) -> Self:
        """X (n, m), an array on the host or one of these, as floats of `dtype`; copies nothing."""
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
        """2, where it can be trained on."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """n · m"""
        return int(np.prod(self.shape))

    @property
    def places(self) -> Array:
        """(m,) int64: where each column is among the rows."""
        return np.arange(len(self.rows)) if self.chosen is None else self.chosen

    @property
    def wire(self) -> np.dtype[Any]:
        """What the columns travel as: the type they are stored in, unless the floats are smaller.

        A device converts them in passing; the way there is what takes time.
        """
        stored = self.rows.dtype.newbyteorder("=")
        small = stored.kind in "buif" and stored.itemsize <= self.dtype.itemsize
        return stored if small else self.dtype

    def __getitem__(self, key: Any) -> Self:
        """X[:, some] with a slice or an array of columns; copies none of them."""
        if isinstance(key, tuple) and len(key) == 2 and key[0] == slice(None):
            chosen = self.places[key[1]]
            if chosen.ndim == 1:
                return replace(self, chosen=chosen)
        raise IndexError(f"expected X[:, columns] of data on the host, got X[{key!r}]")

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("data that stays on the host has no array of its floats: copy it")
        return replace(self, dtype=np.dtype(dtype or self.dtype)).read(np.arange(self.shape[1])).T

    def gather(self, columns: Array, out: Array) -> None:
        """out = the numbers of these columns as rows (size, n), cast to its dtype and not scaled.

        NumPy lets other threads run meanwhile.
        """
        rows, wanted = self.rows, columns if self.chosen is None else self.chosen[columns]
        if rows.flags.c_contiguous and rows.dtype == out.dtype:
            # With the default mode NumPy gathers into a buffer first.
            np.take(rows, wanted, axis=0, out=out, mode="clip")
            return
        # np.take would first make all rows contiguous, of that dtype.
        step = max(1, BLOCK_BYTES // max(1, out[:1].nbytes))
        with np.errstate(over="ignore", invalid="ignore"):  # `fit` refuses what overflows
            for start in range(0, len(wanted), step):
                out[start : start + step] = rows[wanted[start : start + step]]

    def read(self, columns: Array) -> Array:
        """The floats of these columns as rows (size, n): a copy."""
        rows = np.empty((len(columns), *self.shape[:-1]), self.dtype)
        self.gather(columns, rows)
        if self.scale != 1:
            rows /= self.scale
        return rows

    def blocks(self) -> Iterator[Array]:
        """All columns, some at a time: arrays of their numbers 0 ... m-1."""
        n, m = self.shape
        step = max(1, BLOCK_BYTES // (n * self.dtype.itemsize))
        for start in range(0, m, step):
            yield np.arange(start, min(start + step, m))
