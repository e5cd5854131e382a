"""What every loader returns. Columns are examples: X is (n_features, m), Y is (n_outputs, m).

X is the view `.T` of a row-major (m, n_features) array, so that each example is contiguous.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import DTypeLike

from accelnn import backend
from accelnn.backend import Array


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set and a test set, on the backend that was chosen when they were loaded.

    X_train, X_test : (n_features, m) float, pictures in [0, 1]
    Y_train, Y_test : (1, m) of 0/1 for two classes, else one-hot (n_classes, m); dtype of X
    classes : the classes' names, by label
    source : where the data comes from, in one line
    stand_in : whether it is drawn in place of real data that was not found
    """

    X_train: Array
    Y_train: Array
    X_test: Array
    Y_test: Array
    classes: tuple[str, ...]
    source: str
    stand_in: bool = False


def on_backend(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    classes: tuple[str, ...],
    source: str,
    dtype: DTypeLike | None,
    stand_in: bool = False,
) -> Dataset:
    """The Dataset of two (examples (m, ...), labels (m,)) pairs on the host.

    uint8 examples are pixels: they travel as they are, and are scaled to [0, 1] on the device.
    Raises ValueError where `dtype` is no floating-point type.
    """
    device = backend.current()
    dtype = np.dtype(device.default_dtype if dtype is None else dtype)
    if dtype.kind != "f":
        raise ValueError(f"expected a floating-point dtype such as float32, got {dtype}")

    def columns(examples: Array) -> Array:
        rows = examples.reshape(len(examples), math.prod(examples.shape[1:]))
        X = device.to_device(rows).astype(dtype, copy=False)
        if examples.dtype == np.uint8:
            X /= 255
        return X.T

    def targets(labels: Array) -> Array:
        two = len(classes) == 2
        Y = labels[None] if two else labels == np.arange(len(classes))[:, None]
        return device.to_device(Y, dtype)

    return Dataset(
        X_train=columns(train[0]),
        Y_train=targets(train[1]),
        X_test=columns(test[0]),
        Y_test=targets(test[1]),
        classes=classes,
        source=source,
        stand_in=stand_in,
    )
