"""What every loader returns. Columns are examples: X is (n_features, m), Y is (n_outputs, m).

X is the view `.T` of a row-major (m, n_features) array, so that each example is contiguous.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import DTypeLike

from accelnn import backend
from accelnn.backend import Array


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How raw features became what a network is trained on: (raw - shift) / scale.

    image_shape : (height, width, channels) of the pictures, None where there are none; a picture
        is resized to it and flattened row by row, the channels innermost
    shift, scale : numbers, or one per feature (n_features,) float64 on the host
    """

    image_shape: tuple[int, int, int] | None = None
    shift: Array = 0.0
    scale: Array = 1.0


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training set and a test set, on the backend that was chosen when they were loaded.

    X_train, X_test : (n_features, m) float, pictures in [0, 1]
    Y_train, Y_test : (1, m) of 0/1 for two classes, else one-hot (n_classes, m); dtype of X
    classes : the classes' names, by label
    source : where the data comes from, in one line
    stand_in : whether it is drawn in place of real data that was not found
    preprocessing : how raw features became X
    """

    X_train: Array
    Y_train: Array
    X_test: Array
    Y_test: Array
    classes: tuple[str, ...]
    source: str
    stand_in: bool = False
    preprocessing: Preprocessing = field(default_factory=Preprocessing)


def on_backend(
    train: tuple[Array, Array],
    test: tuple[Array, Array],
    classes: tuple[str, ...],
    source: str,
    dtype: DTypeLike | None,
    stand_in: bool = False,
    preprocessing: Preprocessing | None = None,
) -> Dataset:
    """The Dataset of two (examples (m, ...), labels (m,)) pairs on the host.

    uint8 examples (m, h, w) or (m, h, w, c) are pixels: they travel as they are, and are scaled
    to [0, 1] on the device; `preprocessing` then follows from them.
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

    if train[0].dtype == np.uint8:
        height, width, *channels = train[0].shape[1:]
        preprocessing = Preprocessing((height, width, channels[0] if channels else 1), scale=255.0)
    return Dataset(
        X_train=columns(train[0]),
        Y_train=targets(train[1]),
        X_test=columns(test[0]),
        Y_test=targets(test[1]),
        classes=classes,
        source=source,
        stand_in=stand_in,
        preprocessing=preprocessing or Preprocessing(),
    )


def stratified_split(labels: Array, n_test: Sequence[int], seed: int) -> tuple[Array, Array]:
    """Indices of a training and a test part, both shuffled; `n_test[label]` of each in the test.

    labels : integers (m,) in 0 .. len(n_test) - 1
    """
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(labels))
    in_test = np.zeros(len(labels), bool)
    for label, n in enumerate(n_test):
        in_test[np.flatnonzero(labels[order] == label)[:n]] = True
    return rng.permutation(order[~in_test]), rng.permutation(order[in_test])
