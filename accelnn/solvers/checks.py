"""What `fit` refuses, and how it says so."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from accelnn import batches
from accelnn.backend import Array, array_module
from accelnn.columns import THREADS, HostColumns
from accelnn.network import Network, Parameters
from accelnn.optimizers import optimizer_of
from accelnn.solvers import minimize

T = TypeVar("T")


def checked(
    net: Network, params: Parameters, X: Array, Y: Array, batch_size: int | None
) -> tuple[Array, Array]:
    """X and Y to train on, or to watch: as `Network.check` gives them, and of good values.

    On the host, where the parameters are on a device, they stay as HostColumns, to be streamed.
    Raises TypeError for these without a batch size.
    """
    on_host = isinstance(X, np.ndarray | HostColumns)
    if array_module(params.flat) is np or not on_host:
        X, Y = net.check(params, X, Y)
    elif array_module(X, Y) is np and batch_size is None:
        raise TypeError(
            "X and Y are on the host, and the parameters are on the device: give batch_size, and "
            "mini-batches are streamed there, or move the data with accelnn.to_device"
        )
    else:
        X, Y = HostColumns.of(X, params.dtype), HostColumns.of(Y, params.dtype)
        net.check_shapes(params, X, Y)
    check_values(net, params, X, Y)
    return X, Y


def check_values(net: Network, params: Parameters, X: Array, Y: Array) -> None:
    """Raise ValueError for NaN, infinity, labels that the output cannot have, or no examples."""
    if X.shape[1] == 0:
        raise ValueError("expected at least one example, got X with no columns")
    for name, array in (("X", X), ("Y", Y), ("params", params.flat)):
        if isinstance(array, HostColumns) and array.rows.dtype.kind in "bui":
            continue  # whole numbers are finite
        bad = sum(_of_parts(array, _not_finite))
        if bad:
            raise ValueError(
                f"{name} has {bad} NaN or infinite values among {array.size}: clean them first"
            )
    if net.output == "linear":
        return
    low = min(_of_parts(Y, lambda part: float(part.min())))
    high = max(_of_parts(Y, lambda part: float(part.max())))
    if low < 0 or high > 1:
        raise ValueError(
            f"expected labels Y in 0..1 for {net.output} outputs, got {low:g}..{high:g}"
        )
    if net.output == "softmax" and any(_of_parts(Y, _sums_differ)):
        raise ValueError("expected columns of Y that sum to 1 for softmax: pass one_hot(labels, n)")


def _of_parts(array: Array, function: Callable[[Array], T]) -> list[T]:
    """What `function` says of an array; of columns that stay on the host, of blocks of them."""
    if not isinstance(array, HostColumns):
        return [function(array)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda some: function(array.read(some).T), array.blocks()))


def _not_finite(array: Array) -> int:
    # One number tells whether all are finite, in half the time that asking each takes; only
    # where it is not (or the sum overflowed) are they counted. Not by BLAS: its threads would
    # keep the cores busy for a while, just when the training begins.
    if math.isfinite(float(array.sum())):
        return 0
    return int((~array_module(array).isfinite(array)).sum())


def _sums_differ(Y: Array) -> bool:
    return bool((array_module(Y).abs(Y.sum(axis=0) - 1) > 1e-3).any())


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
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    validation: Any,
    seed: int,
    batch_size: int | None,
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
        watched = checked(net, params, X_validation, Y_validation, batch_size)
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None
    return X, Y, watched
