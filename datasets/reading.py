"""Finding data files, and reading them against a schema.

A file that does not match raises an error that names the file, the key, what was found, what was
expected, and what to do; no file is skipped because it is broken.
"""

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from accelnn.backend import Array

# What a file must hold: a type and a shape by key. A letter is any size from 1, the same size
# at every place in the schema.
Schema = dict[str, tuple[type[np.generic], tuple[int | str, ...]]]


def cache_folder() -> Path:
    """The user's cache folder for accelnn, where downloads go; it may not exist yet."""
    return Path(platformdirs.user_cache_dir("accelnn"))


def find_folder(*names: str) -> Path | None:
    """The first of $ACCELNN_DATA, ./datasets and the user's cache that has any of these files.

    Raises FileNotFoundError if ACCELNN_DATA is no folder.
    """
    folders = [Path("datasets"), cache_folder()]
    if named := os.environ.get("ACCELNN_DATA"):
        if not Path(named).is_dir():
            raise FileNotFoundError(
                f"ACCELNN_DATA={named}: no such folder: name the one with {names[0]}, or unset it"
            )
        folders.insert(0, Path(named))
    for folder in folders:
        if any((folder / name).exists() for name in names):
            return folder
    return None


def read_hdf5(
    path: Path, schema: Schema, remedy: str, optional: Schema | None = None
) -> dict[str, Array]:
    """The arrays of an HDF5 file by key, and those of `optional` if the file has any of them.

    Raises FileNotFoundError, or ValueError if the file does not match the schema.
    """
    import h5py  # here, so that importing accelnn.datasets stays cheap

    _require(path, remedy)
    try:
        with h5py.File(path, "r") as file:
            if optional and any(key in file for key in optional):
                schema = schema | optional
            return _checked(path, file, h5py.Dataset, schema, remedy)
    except (OSError, RuntimeError, TypeError) as error:  # h5py raises these for damaged bytes
        if isinstance(error, OSError) and error.errno:  # the system's: no permission, locked
            raise
        raise ValueError(f"{path}: not a whole HDF5 file ({error}): {remedy}") from error


def read_mat(path: Path, schema: Schema, remedy: str) -> dict[str, Array]:
    """The arrays of a MATLAB file by key, row-major, floats finite.

    Raises FileNotFoundError, or ValueError if the file does not match the schema.
    """
    import scipy.io

    _require(path, remedy)
    try:
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("error")
            contents = scipy.io.loadmat(file)
    except Exception as error:  # damaged bytes raise anything
        if isinstance(error, OSError) and error.errno:
            raise
        raise ValueError(f"{path}: not a whole MATLAB file ({error}): {remedy}") from error
    contents = {key: value for key, value in contents.items() if not key.startswith("__")}
    arrays = _checked(path, contents, np.ndarray, schema, remedy)
    for key, array in arrays.items():
        if not np.isfinite(array).all():
            raise wrong(path, key, "NaN or infinity", "finite numbers", remedy)
    return {key: np.ascontiguousarray(array) for key, array in arrays.items()}


def check_labels(path: Path, key: str, labels: Array, first: int, last: int, remedy: str) -> Array:
    """`labels` (m,) as int64; raises ValueError if one is no integer in first .. last."""
    outside = labels[(labels < first) | (labels > last) | (labels % 1 != 0)]
    if len(outside):
        raise wrong(path, key, f"the label {outside[0]}", f"labels in {first}..{last}", remedy)
    return labels.astype(np.int64)


def wrong(path: Path, key: str, found: str, expected: str, remedy: str) -> ValueError:
    """The error for a file's contents."""
    return ValueError(f"{path}: {key}: found {found}, expected {expected}: {remedy}")


def _require(path: Path, remedy: str) -> None:
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: {remedy}")


def _checked(
    path: Path, file: Mapping[str, Any], array_type: Any, schema: Schema, remedy: str
) -> dict[str, Array]:
    """The arrays in `schema`, from an open file, checked before they are read."""
    arrays: dict[str, Array] = {}
    sizes: dict[int | str, int] = {}
    for key, (kind, letters) in schema.items():
        stored = file.get(key)
        if not isinstance(stored, array_type):
            found = f"only the keys {list(file)}"
            raise wrong(path, key, found, "a dataset of that name", remedy)
        shape = tuple(sizes.get(n, n) for n in letters)
        if not np.issubdtype(stored.dtype, kind) or not _fits(stored.shape, shape):
            found = f"{stored.dtype} of shape {stored.shape}"
            expected = f"{kind.__name__} of shape ({', '.join(map(str, shape))}"
            expected += ",)" if len(shape) == 1 else ")"
            if free := [n for n in shape if isinstance(n, str)]:
                expected += f" with {', '.join(free)} > 0"
            raise wrong(path, key, found, expected, remedy)
        sizes.update(zip(letters, stored.shape, strict=True))
        arrays[key] = stored[()]
    return arrays


def _fits(found: tuple[int, ...] | None, expected: tuple[int | str, ...]) -> bool:
    """Whether a stored shape (None for HDF5's "empty") is the one expected."""
    return (
        found is not None
        and len(found) == len(expected)
        and all(
            size > 0 if isinstance(n, str) else size == n
            for n, size in zip(expected, found, strict=True)
        )
    )
