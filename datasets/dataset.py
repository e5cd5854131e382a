"""The Dataset that every loader returns. Columns are examples: X is (n_features, m).

X is the view `.T` of a row-major (m, n_features) array, so that each example is contiguous.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from accelnn import backend
from accelnn.backend import Array, Backend
from accelnn.columns import HostColumns

# The share of a device's free memory for data; a validation split and a training need the rest.
SHARE = 0.5

DType = DTypeLike | None  # None is the backend's default


class StandInWarning(UserWarning):
    """The data is a drawn stand-in, because the real data was not found."""


@dataclass(frozen=True, eq=False)
class Preprocessing:
    """How raw features became what a network is trained on: (raw - shift) / scale.

    image_shape : (height, width, channels) of pictures, flattened in this order; else None
    shift, scale : numbers, or one per feature (n_features,) float64 on the host
    """

    image_shape: tuple[int, int, int] | None = None
    shift: Array = 0.0
    scale: Array = 1.0


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training, validation and test sets, on the backend that was chosen when they were loaded.

    X_train, X_test : (n_features, m) float, pictures in [0, 1]; the test set may be empty (m = 0)
    Y_train, Y_test : (1, m) of 0/1 in X's dtype for two classes, int64 labels (m,) for more, values
        (1, m) in X's dtype without classes
    classes : the classes' names, by label; none for a regression
    source : where the data comes from, in one line
    stand_in : whether it is drawn in place of real data that was not found
    preprocessing : how raw features became X
    too_large : why the device has no room for the sets, in one line, or None. Without room they
        are HostColumns, which `accelnn.fit` streams, and more than two classes are one-hot columns
    X_validation, Y_validation : the examples to watch during training, or None
    """

    X_train: Array
    Y_train: Array
    X_test: Array
    Y_test: Array
    classes: tuple[str, ...]
    source: str
    stand_in: bool = False
    preprocessing: Preprocessing = field(default_factory=Preprocessing)
    too_large: str | None = None
    X_validation: Array | None = None
    Y_validation: Array | None = None

    @property
    def sizes(self) -> str:
        """The numbers of features, classes and examples in a line."""
        n = self.X_train.shape[0]
        features = f"{n:,} feature{'s' if n > 1 else ''}"
        if self.preprocessing.image_shape is not None:
            height, width, channels = self.preprocessing.image_shape
            features += f" ({'colour' if channels == 3 else 'grey'} pictures of {width} x {height})"
        sets = {"training": self.X_train, "validation": self.X_validation, "test": self.X_test}
        counts = [f"{X.shape[1]:,} {name}" for name, X in sets.items() if X is not None]
        classes = [f"{len(self.classes)} classes"] if self.classes else []
        return ", ".join([features, *classes, *counts]) + " examples"

    def __repr__(self) -> str:
        return f"<Dataset {self.source}: {self.sizes}>"


def apply(preprocessing: Preprocessing, rows: Array, dtype: DTypeLike) -> Array:
    """X (n_features, m), as a network takes it, from raw examples: (rows - shift) / scale.

    rows : (m, n_features) on either backend, where X will be too; not changed
    dtype : of X. Bytes are scaled in it, anything else in its own precision if that is higher:
        float32 would lose a small difference of large numbers
    """
    device = backend.backend_of(rows)
    X = rows.astype(dtype if rows.dtype == np.uint8 else np.result_type(rows.dtype, dtype))
    shift, scale = (
        device.to_device(value, X.dtype) if np.ndim(value) else float(value)
        for value in (preprocessing.shift, preprocessing.scale)
    )
    if np.any(preprocessing.shift):
        X -= shift
    X /= scale
    return X.astype(dtype, copy=False).T


def on_backend(
    train: Sequence[Array],
    test: Sequence[Array],
    classes: tuple[str, ...],
    source: str,
    dtype: DType,
    preprocessing: Preprocessing | None = None,
    validation: Sequence[Array] = (),
) -> Dataset:
    """The Dataset of pairs on the host: examples (m, ...) and labels (m,), or values (m,) if there
    are no classes, preprocessed on the device. uint8 examples (m, h, w) or (m, h, w, c) are
    pixels, scaled to [0, 1]. Examples may also be HostColumns (n, m), with all preprocessing.

    Raises ValueError if `dtype` is not a floating-point type. Warns with a RuntimeWarning if the
    device has no room and the data stays on the host.
    """
    device = backend.current()
    dtype = np.dtype(device.default_dtype if dtype is None else dtype)
    if dtype.kind != "f":
        raise ValueError(f"expected a floating-point dtype such as float32, got {dtype}")
    pixels, one = train[0].dtype == np.uint8, len(classes) in (0, 2)  # one row of targets
    preprocessing = preprocessing or Preprocessing()
    if pixels:
        height, width, channels = (*train[0].shape[1:], 1)[:3]  # grey pictures may have no c
        preprocessing = Preprocessing((height, width, channels), scale=255.0)
    examples = [pair[0] for pair in (train, validation, test) if pair]
    in_file, outputs = isinstance(examples[0], HostColumns), 1 if one else len(classes)
    too_large = None if in_file else _too_large(device, examples, outputs, dtype)
    if too_large:
        message = f"{too_large}: it stays on the host, and mini-batches are streamed from there"
        warnings.warn(message, RuntimeWarning, stacklevel=3)

    def place(examples: Array, labels: Array) -> tuple[Array, Array]:
        if in_file:
            X = HostColumns.of(examples, dtype)
        else:
            rows = examples.reshape(len(examples), math.prod(examples.shape[1:]))
            if not too_large:
                X, Y = apply(preprocessing, device.to_device(rows), dtype), device.to_device(labels)
                return X, Y[None].astype(dtype) if one else Y.astype(np.int64, copy=False)
            if not pixels:
                rows = apply(preprocessing, rows, dtype).T
            X = HostColumns(rows, dtype, preprocessing.scale if pixels else 1.0)
        Y = labels[:, None] if one else labels[:, None] == np.arange(len(classes))
        return X, HostColumns(Y.astype(np.uint8 if classes else dtype), dtype)

    sets = *place(*train), *place(*test)
    watch = place(*validation) if validation else (None, None)
    return Dataset(*sets, classes, source, False, preprocessing, too_large, *watch)


def as_stand_in(drawn: Dataset, name: str, source: str) -> Dataset:
    """`drawn` in place of the data set `name`, with a warning for the loader's caller."""
    message = f"drawn data stands in; for the real data: accelnn data download {name}"
    warnings.warn(message, StandInWarning, stacklevel=3)
    return replace(drawn, source=source, stand_in=True)


def _too_large(device: Backend, sets: Sequence[Array], outputs: int, dtype: Any) -> str | None:
    """Why a device has no room for examples (m, ...) and their targets, or None if it has."""
    if device.name == "numpy":
        return None
    numbers = sum(examples.size + outputs * len(examples) for examples in sets)
    needed = numbers * dtype.itemsize + max(examples.nbytes for examples in sets)
    free, _ = device.memory()
    if needed <= SHARE * free:
        return None
    room = f"{SHARE * free / 2**30:.3g} GiB ({SHARE:.0%} of the {free / 2**30:.3g} GiB free)"
    taken = f"{needed / 2**30:.3g} GiB in {dtype}"
    return f"the data takes {taken}, for which {device.device_name()} has {room}"


def stratified_split(labels: Array, n_test: Array, seed: int) -> tuple[Array, Array]:
    """Indices of a training and a test part of labels (m,), both shuffled; the test part has
    `n_test[label]` of each label."""
    rng = np.random.RandomState(seed)
    order = rng.permutation(len(labels))
    in_test = np.zeros(len(labels), bool)
    for label, n in enumerate(n_test):
        in_test[np.flatnonzero(labels[order] == label)[: int(n)]] = True
    return rng.permutation(order[~in_test]), rng.permutation(order[in_test])
