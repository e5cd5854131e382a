"""How good predictions are: accuracy, confusion matrix, and a report of each class.

Predictions and labels come in any of these forms, on the host or on the device: (1, m) of 0 and
1, one-hot (n_classes, m), or class indices (m,).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from accelnn.backend import Array, array_module, to_host


def accuracy(predictions: Array, Y: Array) -> float:
    """The share of examples predicted right, in 0..1; waits for the device.

    Parameters
    ----------
    predictions : as `Network.predict` gives them: (1, m) of 0 and 1, or class indices (m,)
    Y : (1, m) of 0 and 1, or one-hot (n_classes, m)

    Raises ValueError where the two do not go together, or there are no examples.
    """
    xp = array_module(predictions, Y)
    predictions, Y = xp.asarray(predictions), xp.asarray(Y)
    labels = Y.argmax(axis=0) if predictions.ndim == 1 and Y.ndim == 2 else Y
    if predictions.shape != labels.shape:
        raise ValueError(
            f"expected predictions (1, m) with Y (1, m), or (m,) with one-hot Y (n, m), "
            f"got {predictions.shape} with {Y.shape}"
        )
    if not predictions.size:
        raise ValueError("expected at least one example, got none")
    return float((predictions == labels).mean())


def labels(Y: Array) -> Array:
    """Class indices (m,) int64 on the host, of labels or predictions in any form.

    Of (n, m) each column's largest counts, so that probabilities of n classes will do.
    Raises ValueError where the shape is another, or (m,) or (1, m) hold anything but 0, 1, 2, ...
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


def confusion_matrix(predictions: Array, Y: Array, n_classes: int | None = None) -> Array:
    """How often each class was taken for each: (n_classes, n_classes) int64 on the host.

    Parameters
    ----------
    predictions, Y : m examples each, in any of the forms above
    n_classes : how many there are; without it, as many as occur, at least two and at least as
        many as a one-hot Y has rows

    Returns
    -------
    Rows are the true class, columns the predicted one.

    Raises ValueError where the two do not go together, there are no examples, or a class is
    not among n_classes.
    """
    said, true = labels(predictions), labels(Y)
    if said.shape != true.shape:
        raise ValueError(
            f"expected as many predictions as labels, got {said.size} predictions "
            f"and {true.size} labels"
        )
    if not true.size:
        raise ValueError("expected at least one example, got none")
    occurring = int(max(said.max(), true.max())) + 1
    if n_classes is None:
        rows = np.shape(Y)[0] if len(np.shape(Y)) == 2 else 1
        n_classes = max(2, occurring, rows)
    elif occurring > n_classes:
        raise ValueError(f"expected classes in 0..{n_classes - 1}, got class {occurring - 1}")
    pairs = np.bincount(true * n_classes + said, minlength=n_classes**2)
    return pairs.astype(np.int64).reshape(n_classes, n_classes)


@dataclass(frozen=True)
class ClassReport:
    """How well one class was told from the others; or, by name, an average over all.

    precision : of the examples said to be of the class, the share that are
    recall : of the examples of the class, the share said to be
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
    right, said, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    columns = [_share(right, said), _share(right, true), _share(2 * right, said + true)]
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
