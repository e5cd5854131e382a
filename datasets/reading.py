"""Finding data files, and reading them against a schema."""

import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from accelnn.backend import Array

AnyPath = str | os.PathLike[str]

# The contents of a file by key: a type, or a range of labels, and a shape. A letter stands for any
# size from 1, the same everywhere: "mn" is any matrix, ("m", 2) one of two columns.
Schema = dict[str, tuple[type[np.generic] | range, Sequence[int | str]]]

# Public copies by the file's name: the path below `download.BASE`, and the sha256.
Copies = dict[str, tuple[str, str]]

# h5py raises these for damaged bytes.
_HDF5_ERRORS = (OSError, RuntimeError, TypeError, LookupError, UnicodeError, MemoryError)


def cache_folder() -> Path:
    """The user's cache folder for accelnn, where downloads go; it may not exist yet."""
    return Path(platformdirs.user_cache_dir("accelnn"))


def find_folder(folder: AnyPath | None, *names: str) -> Path | None:
    """`folder` if given, else the first of $ACCELNN_DATA, ./datasets and the user's cache that
    has any of these files, or None. Raises FileNotFoundError if ACCELNN_DATA is no folder."""
    if folder is not None:
        return Path(folder)
    folders = [Path("datasets"), cache_folder()]
    if named := os.environ.get("ACCELNN_DATA"):
        if not Path(named).is_dir():
            raise FileNotFoundError(
                f"ACCELNN_DATA={named}: no such folder: name the one with {names[0]}, or unset it"
            )
        folders.insert(0, Path(named))
    return next((f for f in folders if any((f / name).exists() for name in names)), None)


@dataclass(frozen=True)
class DataFile:
    """A file to read, and what the user can do if it is missing or wrong."""

    path: Path
    remedy: str

    def wrong(self, place: str, found: str, expected: str) -> ValueError:
        """The error for the contents of a place in the file, such as a key."""
        place = f"{self.path}: {place}"
        return ValueError(f"{place}: found {found}, expected {expected}: {self.remedy}")

    def require(self) -> None:
        """Raise FileNotFoundError if the file does not exist."""
        if not self.path.is_file():
            raise FileNotFoundError(f"{self.path}: no such file: {self.remedy}")

    @contextmanager
    def refuse_damaged(self, kind: str, errors: Any = Exception) -> Iterator[None]:
        """Raise ValueError for `errors` in the block, except the system's (e.g. no permission)."""
        try:
            yield
        except errors as error:
            if isinstance(error, OSError) and error.errno:
                raise
            reason = str(error).partition("\n")[0] or type(error).__name__
            message = f"{self.path}: not a whole {kind} ({reason}): {self.remedy}"
            raise ValueError(message) from error

    @contextmanager
    def open_hdf5(self) -> Iterator[Any]:
        """The file as an h5py.File; damaged bytes raise ValueError."""
        import h5py  # here, so that importing accelnn.datasets stays cheap

        self.require()
        with self.refuse_damaged("HDF5 file", _HDF5_ERRORS), h5py.File(self.path, "r") as file:
            yield file

    def read_hdf5(self, schema: Schema, optional: Schema | None = None) -> dict[str, Array]:
        """The arrays of an HDF5 file by key, and those of `optional` if the file has any of them.
        Raises FileNotFoundError, or ValueError if the file does not match the schema."""
        with self.open_hdf5() as file:
            if optional and any(key in file for key in optional):
                schema = schema | optional
            return self._checked(file, schema)

    def read_mat(self, schema: Schema) -> dict[str, Array]:
        """The arrays of a MATLAB file by key; raises as `read_hdf5`."""
        import scipy.io

        self.require()
        damaged = self.refuse_damaged("MATLAB file")
        with damaged, warnings.catch_warnings(action="error"), self.path.open("rb") as file:
            contents = scipy.io.loadmat(file)
        contents = {key: value for key, value in contents.items() if not key.startswith("__")}
        return self._checked(contents, schema)

    def _checked(self, file: Mapping[str, Any], schema: Schema) -> dict[str, Array]:
        """The arrays in `schema`, row-major and checked: floats are finite, labels int64."""
        import h5py

        arrays: dict[str, Array] = {}
        sizes: dict[int | str, int] = {}
        for key, (kind, letters) in schema.items():
            stored = file.get(key)
            if not isinstance(stored, np.ndarray | h5py.Dataset):
                raise self.wrong(key, f"only the keys {list(file)}", "a dataset of that name")
            shape = tuple(sizes.get(n, n) for n in letters)
            found = stored.shape or ()  # None for HDF5's "empty"
            free = [n for n in shape if isinstance(n, str)]
            fits = len(found) == len(shape) and all(
                size > 0 if n in free else size == n for n, size in zip(shape, found, strict=True)
            )
            number = np.number if isinstance(kind, range) else kind
            if not fits or not np.issubdtype(stored.dtype, number):
                expected = f"{number.__name__} of shape {shape}".replace("'", "")
                if free:
                    expected += f" with {', '.join(free)} > 0"
                raise self.wrong(key, f"{stored.dtype} of shape {stored.shape}", expected)
            sizes.update(zip(letters, found, strict=True))
            array = np.ascontiguousarray(stored[()])
            if array.dtype.kind == "f" and not np.isfinite(array).all():
                raise self.wrong(key, "NaN or infinity", "finite numbers")
            if isinstance(kind, range):
                if others := [label for label in array.ravel().tolist() if label not in kind]:
                    expected = f"labels in {kind[0]}..{kind[-1]}"
                    raise self.wrong(key, f"the label {others[0]}", expected)
                array = array.ravel().astype(np.int64)
            arrays[key] = array
        return arrays
