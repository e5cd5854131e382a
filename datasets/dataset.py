"""What every loader returns. Columns are examples: X is (n_features, m), Y is (n_outputs, m).

X is the view `.T` of a row-major (m, n_features) array, so that each example is contiguous.
"""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import DTypeLike

from accelnn import backend
from accelnn.backend import Array, Backend
from accelnn.columns import HostColumns

# Of a device's free memory, what data may take: a validation split copies it, and activations and
# sample space need theirs.
SHARE = 0.5


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

    Where a device has no room for them, they stay on the host as HostColumns, which `accelnn.fit`
    streams in mini-batches.

    X_train, X_test : (n_features, m) float, pictures in [0, 1]
    Y_train, Y_test : (1, m) of 0/1 for two classes, else one-hot (n_classes, m); dtype of X
    classes : the classes' names, by label
    source : where the data comes from, in one line
    stand_in : whether it is drawn in place of real data that was not found
    preprocessing : how raw features became X
    too_large : why they stay on the host, in one line, or None
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


def apply(preprocessing: Preprocessing, rows: Array, dtype: DTypeLike) -> Array:
    """What a network takes, X (n_features, m), of raw examples: (rows - shift) / scale.

    Parameters
    ----------
    preprocessing : the shift and the scale
    rows : (m, n_features) on either backend, where X will be too; not changed
    dtype : of X. Bytes are scaled in this precision, anything else in its own, so that a small
        difference of large numbers is not lost to float32 before it is taken.
    """
    there = backend.backend_of(rows)
    X = rows.astype(dtype if rows.dtype == np.uint8 else np.result_type(rows.dtype, dtype))
    shift, scale = (
        there.to_device(value, X.dtype) if np.ndim(value) else float(value)
        for value in (preprocessing.shift, preprocessing.scale)
    )
    if np.ndim(preprocessing.shift) or shift:
        X -= shift
    X /= scale
    return X.astype(dtype, copy=False).T


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

    Examples and labels travel once and as they are, and `preprocessing` is applied on the device.
    uint8 examples (m, h, w) or (m, h, w, c) are pixels, scaled to [0, 1]: their preprocessing
    follows from them.
    Raises ValueError where `dtype` is no floating-point type. Warns with a RuntimeWarning where
    the device has no room, and the data stays on the host.
    """
    device = backend.current()
    dtype = np.dtype(device.default_dtype if dtype is None else dtype)
    if dtype.kind != "f":
        raise ValueError(f"expected a floating-point dtype such as float32, got {dtype}")

    if train[0].dtype == np.uint8:
        height, width, *channels = train[0].shape[1:]
        preprocessing = Preprocessing((height, width, channels[0] if channels else 1), scale=255.0)
    preprocessing = preprocessing or Preprocessing()
    too_large = _too_large(device, (train[0], test[0]), len(classes), dtype)
    if too_large:
        warnings.warn(
            f"{too_large}: it stays on the host, from where mini-batches are streamed",
            RuntimeWarning,
            stacklevel=3,
        )

    def columns(examples: Array) -> Array:
        rows = examples.reshape(len(examples), math.prod(examples.shape[1:]))
        if not too_large:
            return apply(preprocessing, device.to_device(rows), dtype)
        if rows.dtype == np.uint8:
            return HostColumns(rows, dtype, scale=255.0)
        return HostColumns.of(apply(preprocessing, rows, dtype), dtype)

    def targets(labels: Array) -> Array:
        two = len(classes) == 2
        if too_large:
            Y = labels[:, None] if two else labels[:, None] == np.arange(len(classes))
            return HostColumns(Y.astype(np.uint8), dtype)
        labels = device.to_device(labels)
        Y = labels[None] if two else labels == device.xp.arange(len(classes))[:, None]
        return Y.astype(dtype)

    return Dataset(
        X_train=columns(train[0]),
        Y_train=targets(train[1]),
        X_test=columns(test[0]),
        Y_test=targets(test[1]),
        classes=classes,
        source=source,
        stand_in=stand_in,
        preprocessing=preprocessing,
        too_large=too_large,
    )


def _too_large(
    device: Backend, examples: Sequence[Array], n_classes: int, dtype: np.dtype[Any]
) -> str | None:
    """Why a device has no room for (m, ...) examples and their labels, or None where it has."""
    if device.name == "numpy":
        return None
    outputs = 1 if n_classes == 2 else n_classes
    numbers = sum(array.size + outputs * len(array) for array in examples)
    needed = numbers * dtype.itemsize + max(array.nbytes for array in examples)
    free, _ = device.memory()
    if needed <= SHARE * free:
        return None
    return (
        f"the data takes {needed / 2**30:.3g} GiB in {dtype}, for which {device.device_name()} "
        f"has {SHARE * free / 2**30:.3g} GiB ({SHARE:.0%} of the {free / 2**30:.3g} GiB free)"
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
