"""The course's MATLAB files: the two-dimensional football data, and the digits of exercise 4."""

import os
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import DTypeLike

from accelnn import backend
from accelnn.backend import Array
from accelnn.network import Parameters

from .dataset import Dataset, Preprocessing, StandInWarning, on_backend
from .generated import spiral
from .reading import Schema, check_labels, find_folder, read_mat

_FOOTBALL_FILES = "football.mat", "data.mat"  # the second is what the course calls it
_FOOTBALL_REMEDY = "to download it: accelnn data download football"
_EX4_REMEDY = (
    "put a whole copy from exercise 4 of the course Machine Learning into ./datasets, or name "
    "its folder in ACCELNN_DATA"
)


def load_football(
    folder: str | os.PathLike[str] | None = None, dtype: DTypeLike | None = None
) -> Dataset:
    """The course's regularisation data: the places on a football field where a header was won.

    football.mat, or data.mat as the course calls it, is read from `folder`, or else from the
    first of $ACCELNN_DATA, ./datasets and the user's cache that has it. If none has, a spiral
    stands in for it: `source`, `stand_in` and a StandInWarning say so. To download the real one:
    `accelnn data download football`.

    Parameters
    ----------
    folder : where the file must be, if given
    dtype : of X; by default the backend's

    Returns X (2, 211), Y (1, 211) of 0 (red) and 1 (blue), in the file's order; the test set is
    the file's Xval (2, 200), yval.

    Raises FileNotFoundError if the file is missing from `folder`, or ACCELNN_DATA is no folder;
    ValueError if its contents are wrong.
    """
    found = find_folder(*_FOOTBALL_FILES) if folder is None else Path(folder)
    if found is None:
        drawn = spiral(dtype=dtype)
        source = (
            f"stand-in for the football data (no {_FOOTBALL_FILES[0]} found; "
            f"{_FOOTBALL_REMEDY}): {drawn.source}"
        )
        warnings.warn(f"this data is a {source}", StandInWarning, stacklevel=2)
        return replace(drawn, source=source, stand_in=True)
    paths = [found / name for name in _FOOTBALL_FILES]
    path = next((path for path in paths if path.exists()), paths[0])
    schema: Schema = {
        "X": (np.number, ("m", 2)),
        "y": (np.number, ("m", 1)),
        "Xval": (np.number, ("k", 2)),
        "yval": (np.number, ("k", 1)),
    }
    arrays = read_mat(path, schema, _FOOTBALL_REMEDY)

    def part(X: str, y: str) -> tuple[Array, Array]:
        labels = check_labels(path, y, arrays[y].ravel(), 0, 1, _FOOTBALL_REMEDY)
        return arrays[X].astype(np.float64), labels

    return on_backend(part("X", "y"), part("Xval", "yval"), ("red", "blue"), str(path), dtype)


def load_ex4(
    folder: str | os.PathLike[str] | None = None, dtype: DTypeLike | None = None
) -> Dataset:
    """The 5,000 digits of 20 x 20 pixels of the course's exercise 4, all of them to train on.

    ex4data1.mat is read from `folder`, or else from the first of $ACCELNN_DATA, ./datasets and
    the user's cache that has it. The file holds each picture column by column; here it is row
    by row, as every picture in accelnn, and so are the weights of `load_ex4_weights`.

    Parameters
    ----------
    folder : where the file must be, if given
    dtype : of X; by default the backend's

    Returns X (400, 5000), about in [0, 1], as the file scales it; Y (5000,) int64. A label is
    the file's label - 1, so that the weights fit: "1", ..., "9", and "0" (labelled 10) last. The
    test set is empty: (400, 0) and (0,).

    Raises FileNotFoundError if there is no such file, or ACCELNN_DATA is no folder; ValueError
    if its contents are wrong.
    """
    path = _ex4_path("ex4data1.mat", folder)
    arrays = read_mat(
        path, {"X": (np.floating, ("m", 400)), "y": (np.number, ("m", 1))}, _EX4_REMEDY
    )
    labels = check_labels(path, "y", arrays["y"].ravel(), 1, 10, _EX4_REMEDY)
    X = _row_by_row(arrays["X"])
    digits = on_backend((X, labels - 1), (X[:0], labels[:0]), tuple("1234567890"), str(path), dtype)
    # what pictures of bytes would need; the file's are scaled already
    return replace(digits, preprocessing=Preprocessing((20, 20, 1), scale=255.0))


def load_ex4_weights(
    folder: str | os.PathLike[str] | None = None, dtype: DTypeLike | None = None
) -> Parameters:
    """The trained weights of exercise 4 for `Network([400, 25, 10], hidden="sigmoid")`.

    They fit the X of `load_ex4`; ex4weights.mat is looked for in the same places as its file.

    Parameters
    ----------
    folder : where the file must be, if given
    dtype : of the parameters returned; by default the backend's

    Raises FileNotFoundError if there is no such file, or ACCELNN_DATA is no folder; ValueError
    if its contents are wrong.
    """
    path = _ex4_path("ex4weights.mat", folder)
    schema: Schema = {"Theta1": (np.floating, (25, 401)), "Theta2": (np.floating, (10, 26))}
    theta1, theta2 = read_mat(path, schema, _EX4_REMEDY).values()
    device = backend.current()
    pairs = [(_row_by_row(theta1[:, 1:]), theta1[:, :1]), (theta2[:, 1:], theta2[:, :1])]
    dtype = device.default_dtype if dtype is None else dtype
    return Parameters.from_layers(
        (device.to_device(W, dtype), device.to_device(b, dtype)) for W, b in pairs
    )


def _ex4_path(name: str, folder: str | os.PathLike[str] | None) -> Path:
    found = find_folder(name) if folder is None else Path(folder)
    if found is None:
        raise FileNotFoundError(f"{name}: not found: {_EX4_REMEDY}")
    return found / name


def _row_by_row(pictures: Array) -> Array:
    """Pictures (m, 400) that run down the columns, as pictures that run along the rows."""
    return pictures.reshape(-1, 20, 20).transpose(0, 2, 1).reshape(-1, 400)
