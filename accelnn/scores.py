"""Scores of predictions: accuracy, confusion matrix, and a report of each class.

Predictions and labels are class indices (m,), (1, m) of 0 and 1, or one-hot (n_classes, m), on
the host or a device. Raises ValueError if they are not, if their numbers differ, or without any.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from accelnn.backend import Array, as_numbers, to_host


def labels(Y: Array) -> Array:
    """Class indices (m,) int64 on the host, from labels or from probabilities (n_classes, m)."""
    Y = to_host(as_numbers(Y, "labels"))
    if Y.ndim not in (1, 2) or (Y.ndim == 2 and len(Y) == 0):
        raise ValueError(f"expected labels of shape (m,), (1, m) or (n, m), got {Y.shape}")
    if Y.ndim == 2 and len(Y) > 1:
        one_hot = ((Y == 0) | (Y == 1)).all()
        real = Y.dtype.kind == "f" and not np.isnan(Y).any()
        if (Y.sum(axis=0) != 1).any() if one_hot else not real:
            hint = "pass Y.T if its rows are examples, or labels (m, 1) as Y.ravel()"
            got = f"{Y.min():g}..{Y.max():g} in shape {Y.shape}"
            raise ValueError(f"expected one-hot columns or probabilities, got {got}: {hint}")
        return Y.argmax(axis=0).astype(np.int64)
    indices = Y.ravel().astype(np.float64)
    wrong = indices[~((indices >= 0) & (indices < 2**31) & (indices == np.floor(indices)))]
    if wrong.size:
        raise ValueError(f"expected class indices 0, 1, 2, ..., got {wrong[0]}")
    return indices.astype(np.int64)


def accuracy(predictions: Array, Y: Array) -> float:
    """The share of examples predicted right, in 0..1."""
    return float(np.equal(*_both(predictions, Y)).mean())


def _both(predictions: Array, Y: Array) -> tuple[Array, Array]:
    predicted, true = labels(predictions), labels(Y)
    shapes = [np.shape(array) for array in (predictions, Y)]
    columns = [shape for shape in shapes if len(shape) == 2 and shape[0] > shape[1] == 1]
    if columns and (len(columns) == 2 or predicted.size != true.size):
        raise ValueError(f"expected labels of shape (m,), got {columns[0]}: pass Y.ravel()")
    if predicted.size != true.size:
        got = f"{predicted.size} predictions and {true.size} labels"
        raise ValueError(f"expected as many predictions as labels, got {got}")
    if not true.size:
        raise ValueError("expected at least one example, got none")
    return predicted, true


def r2(predictions: Array, Y: Array) -> float:
    """The coefficient of determination of values (n_outputs, m), the mean over the outputs:
    1 − Σ (y − prediction)² / Σ (y − mean of y)²; NaN if an output never changes."""
    predicted, true = (np.atleast_2d(to_host(as_numbers(A, "values"))) for A in (predictions, Y))
    if predicted.shape != true.shape:
        got = f"{predicted.shape} and {true.shape}"
        raise ValueError(f"expected predictions and values of one shape, got {got}")
    spread = ((true - true.mean(axis=1, keepdims=True)) ** 2).sum(axis=1)
    error = ((true - predicted) ** 2).sum(axis=1)
    return float((1 - error / np.where(spread > 0, spread, np.nan)).mean())


def confusion_matrix(predictions: Array, Y: Array, n_classes: int | None = None) -> Array:
    """Counts (n_classes, n_classes) int64 on the host: rows are true classes, columns predicted.

    n_classes : by default as many as occur, at least two and the rows of a one-hot Y
    """
    predicted, true = _both(predictions, Y)
    occurring = int(max(predicted.max(), true.max())) + 1
    if n_classes is None:
        n_classes = max(2, occurring, np.shape(Y)[0] if np.ndim(Y) == 2 else 0)
    elif occurring > n_classes:
        raise ValueError(f"expected classes in 0..{n_classes - 1}, got class {occurring - 1}")
    pairs = np.bincount(true * n_classes + predicted, minlength=int(n_classes) ** 2)
    return pairs.astype(np.int64).reshape(n_classes, n_classes)


class ClassReport(NamedTuple):
    """The scores of one class, or an average over all. A share of nothing is 0.

    precision : the share of the examples predicted as this class that belong to it
    recall : the share of this class's examples that were predicted as it
    f1 : 2 precision · recall / (precision + recall)
    support : the number of this class's examples
    """

    name: str
    precision: float
    recall: float
    f1: float
    support: int


def report(predictions: Array, Y: Array, classes: Sequence[str]) -> list[ClassReport]:
    """One ClassReport a class, named by `classes`, then "accuracy", which is precision, recall and
    F1 over all examples, and "macro average", the plain mean over the classes."""
    confusion = confusion_matrix(predictions, Y, len(classes))
    right, predicted, true = confusion.diagonal(), confusion.sum(axis=0), confusion.sum(axis=1)
    parts, wholes = [right, right, 2 * right], [predicted, true, predicted + true]
    shares, total = np.divide(parts, np.maximum(wholes, 1)), int(true.sum())
    rows = zip(classes, shares.T, true.tolist(), strict=True)
    return [
        *(ClassReport._make((name, *scores.tolist(), n)) for name, scores, n in rows),
        ClassReport._make(("accuracy", *[float(right.sum() / total)] * 3, total)),
        ClassReport._make(("macro average", *shares.mean(axis=1).tolist(), total)),
    ]
