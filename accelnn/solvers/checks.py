"""What `fit` refuses, and how it says so."""

import math
from typing import Any

import numpy as np

from accelnn import batches
from accelnn.backend import Array, array_module
from accelnn.network import Network, Parameters
from accelnn.optimizers import optimizer_of
from accelnn.solvers import minimize


def check_values(net: Network, params: Parameters, X: Array, Y: Array) -> None:
    """Raise ValueError for NaN, infinity, labels that the output cannot have, or no examples."""
    xp = array_module(X)
    if X.shape[1] == 0:
        raise ValueError("expected at least one example, got X with no columns")
    for name, array in (("X", X), ("Y", Y), ("params", params.flat)):
        # One number tells whether all are finite, in half the time that asking each takes; only
        # where it is not (or the sum overflowed) are they counted. Not by BLAS: its threads would
        # keep the cores busy for a while, just when the training begins.
        if math.isfinite(float(array.sum())):
            continue
        bad = int((~xp.isfinite(array)).sum())
        if bad:
            raise ValueError(
                f"{name} has {bad} NaN or infinite values among {array.size}: clean them first"
            )
    if net.output == "linear":
        return
    low, high = float(Y.min()), float(Y.max())
    if low < 0 or high > 1:
        raise ValueError(
            f"expected labels Y in 0..1 for {net.output} outputs, got {low:g}..{high:g}"
        )
    if net.output == "softmax" and bool((xp.abs(Y.sum(axis=0) - 1) > 1e-3).any()):
        raise ValueError("expected columns of Y that sum to 1 for softmax: pass one_hot(labels, n)")


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError where `value` is no integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"expected {name} as an integer >= {least}, got {value!r}")


def check_method(solver: str, method: str) -> None:
    """Raise ValueError for a method that SciPy's minimisers or this solver do not have."""
    if method not in minimize.METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {list(minimize.METHODS)}")
    if solver != "minimize" and method != "TNC":
        raise ValueError(f"method {method!r} is of solver='minimize', not of {solver!r}")


def check_minimize(net: Network, optimizer: Any, **not_taken: Any) -> None:
    """Raise ValueError for what only gradient descent takes, and for dropout."""
    for name, value in not_taken.items():
        if value is not None:
            got = "(X, Y)" if isinstance(value, tuple) else repr(value)  # not all of their numbers
            raise ValueError(f"solver='minimize' takes no {name}, got {got}: omit it")
    if optimizer_of(optimizer).name != "sgd":
        raise ValueError(f"solver='minimize' takes no optimizer, got {optimizer!r}: omit it")
    if any(keep < 1 for keep in net.keep_prob):
        raise ValueError(
            f"expected keep_prob=1 for solver='minimize', got {net.keep_prob}: dropout makes the "
            "cost random, and no line search can follow it; use gradient descent"
        )


def set_apart(
    net: Network, params: Parameters, X: Array, Y: Array, validation: Any, seed: int
) -> tuple[Array, Array, tuple[Array, Array]]:
    """X and Y to train on, and the validation set, from a share of X or the user's own."""
    if isinstance(validation, int | float):
        if not 0 < validation < 1:
            raise ValueError(
                f"expected validation as a share in (0, 1) or as (X, Y), got {validation!r}"
            )
        if X.shape[1] < 2:
            raise ValueError("a validation split needs at least 2 examples, got 1")
        X, Y, X_validation, Y_validation = batches.split(X, Y, validation, seed)
        return X, Y, (X_validation, Y_validation)
    try:
        X_validation, Y_validation = validation
    except (TypeError, ValueError):
        raise ValueError(
            "expected validation as a share in (0, 1) or as (X, Y), "
            f"got {type(validation).__name__}"
        ) from None
    try:
        X_validation, Y_validation = net.check(params, X_validation, Y_validation)
        check_values(net, params, X_validation, Y_validation)
    except ValueError as error:
        raise ValueError(f"validation: {error}") from None
    return X, Y, (X_validation, Y_validation)
