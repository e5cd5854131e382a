"""How good predictions are: accuracy, confusion matrix, and a report of each class.

Predictions and labels come in any of these forms, on the host or on the device: class indices
(m,), (1, m) of 0 and 1, or one-hot (n_classes, m).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accelnn.backend import Array, to_host


def accuracy(predictions: Array, Y: Array) -> float:
    """The share of examples predicted right, in 0..1; waits for the device.

    Parameters
    ----------
    predictions, Y : m examples each, in any of the forms above

    Raises ValueError if the two do not go together, or there are no examples.
    """
    predicted, true = _both(predictions, Y)
    return float((predicted == true).mean())


def labels(Y: Array) -> Array:
    """Class indices (m,) int64 on the host, of labels or predictions in any form.

    The largest of each column of (n, m) counts, so that probabilities of n classes will do.
    Raises ValueError for another shape, or if (m,) or (1, m) hold anything but 0, 1, 2, ...
    """
    Y = to_host(Y)
    if Y.ndim not in (1, 2) or (Y.ndim == 2 and len(Y) == 0):
        raise ValueError(f"expected labels of shape (m,), (1, m) or (n, m), got {Y.shape}")
    if Y.ndim == 2 and len(Y) > 1:
        return Y.argmax(axis=0).astype(np.int64)
    indices = Y.ravel()
    wrong = indices[(indices < 0) | (indices != np.floor(indices))]
    if wrong.size:
        raise ValueError(f"expected class indices 0, 1, 2, ..., got {wrong[0]}")
    return indices.astype(np.int64)


def _both(predictions: Array, Y: Array) -> tuple[Array, Array]:
    """The labels of both, as many of each.

    Raises ValueError if they do not go together, or there are no examples.
    """
    predicted, true = labels(predictions), labels(Y)
    if predicted.shape != true.shape:
        raise ValueError(
            f"expected as many predictions as labels, got {predicted.size} predictions "
            f"and {true.size} labels"
        )
    if not true.size:
        raise ValueError("expected at least one example, got none")
    return predicted, true


def confusion_matrix(predictions: Array, Y: Array, n_classes: int | None = None) -> Array:
    """How often each class was predicted as each: (n_classes, n_classes) int64 on the host.

    Parameters
    ----------
    predictions, Y : m examples each, in any of the forms above
    n_classes : how many there are; without it, as many as occur, at least two and at least as
        many as a one-hot Y has rows

    Returns
    -------
    Rows are the true class, columns the predicted one.

    Raises ValueError if the two do not go together, there are no examples, or a class is not
    among n_classes.
    """
    predicted, true = _both(predictions, Y)
    occurring = int(max(predicted.max(), true.max())) + 1
    if n_classes is None:
        rows = np.shape(Y)[0] if len(np.shape(Y)) == 2 else 1
        n_classes = max(2, occurring, rows)
    elif occurring > n_classes:
        raise ValueError(f"expected classes in 0..{n_classes - 1}, got class {occurring - 1}")
    pairs = np.bincount(true * n_classes + predicted, minlength=n_classes**2)
    return pairs.astype(np.int64).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class ClassReport:
    """How well one class was predicted; or, by name, an average over all.

    precision : the share of the examples predicted as the class that are of it
    recall : the share of the examples of the class that were predicted as it
    f1 : 2 precision · recall / (precision + recall)
    support : how many examples of the class there are

    A share of nothing is 0.
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def report(predictions: Array, Y: Array, classes: Sequence[str]) -> list[ClassReport]:
    """One ClassReport a class, then "accuracy" and "macro average".

    Over all examples together precision, recall and F1 are one and the same number, the
    accuracy; "macro average" is the plain mean over the classes.

    Parameters
    ----------
    predictions, Y : m examples each, in any of the forms above
    classes : the classes' names, by label

    Raises ValueError as `confusion_matrix` does.
    """
    confusion = confusion_matrix(predictions, Y, len(classes))
    right, predicted, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    columns = [_share(right, predicted), _share(right, true), _share(2 * right, predicted + true)]
    total = int(true.sum())

    def row(name: str, scores: Sequence[float], support: int) -> ClassReport:
        precision, recall, f1 = map(float, scores)
        return ClassReport(name, precision, recall, f1, support)

    return [
        *map(row, classes, zip(*columns, strict=True), true.tolist()),
        row("accuracy", [right.sum() / total] * 3, total),
        row("macro average", [column.mean() for column in columns], total),
    ]


def _share(part: Array, whole: Array) -> Array:
    return part / np.maximum(whole, 1)
