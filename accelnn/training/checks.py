"""The checks of what `fit` and `minimize` are given."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from accelnn import batches
from accelnn.backend import Array, array_module, as_array
from accelnn.columns import THREADS, HostColumns
from accelnn.network import Network, Parameters

T = TypeVar("T")


def checked(
    net: Network, params: Parameters, X: Array, Y: Array, batch_size: int | None = None
) -> tuple[Array, Array]:
    """X and Y to train on, or to watch, as `converted` gives them, and of good values."""
    X, Y = converted(net, params, X, Y, batch_size)
    check_values(net, params, X, Y)
    return X, Y


def converted(
    net: Network, params: Parameters, X: Array, Y: Array, batch_size: int | None
) -> tuple[Array, Array]:
    """X and Y as `Network.check` gives them. On the host, if the parameters are on a device, they
    stay as HostColumns, to be streamed.

    Raises as `Network.check` does, and TypeError for data on the host without a batch size, and
    if net is no Network.
    """
    if not isinstance(net, Network):
        raise TypeError(f"expected net as accelnn.Network, got {type(net).__name__}")
    net.check_params(params)
    X, Y = as_array(X, "X"), as_array(Y, "Y")
    on_host = isinstance(X, np.ndarray | HostColumns)
    if array_module(params.flat) is np or not on_host:
        X, Y = net.check(params, X, Y)
    elif array_module(X, Y) is np and batch_size is None:
        raise TypeError(
            "X and Y are on the host, and the parameters are on the device: move the data with "
            "accelnn.to_device; or give fit a batch_size, and mini-batches are streamed there"
        )
    else:
        net.check_shapes(X, Y)
        X = HostColumns.of(X, params.dtype)
        if Y.ndim == 1:
            Y = net.targets(Y, np.uint8 if net.layers[-1] > 1 else None)  # one-hot as bytes
        Y = HostColumns.of(Y, params.dtype)
    return X, Y


def check_values(net: Network, params: Parameters, X: Array, Y: Array) -> None:
    """Raise ValueError for NaN, infinity, and labels that the output cannot have."""
    for name, array in (("X", X), ("Y", Y), ("params", params.flat)):
        if isinstance(array, HostColumns) and array.rows.dtype.kind in "bui":
            continue  # whole numbers are finite
        bad = sum(_of_parts(array, not_finite))
        if bad:
            raise ValueError(
                f"{name} has {bad} NaN or infinite values among {array.size}: clean them first"
            )
    if net.output == "linear":
        return
    if isinstance(Y, HostColumns):  # `targets` has looked at other labels
        net.check_range(
            min(_of_parts(Y, lambda part: float(part.min()))),
            max(_of_parts(Y, lambda part: float(part.max()))),
        )
    if net.output == "softmax" and any(_of_parts(Y, _sums_differ)):
        raise ValueError("expected columns of Y that sum to 1 for softmax: pass one_hot(labels, n)")


def _of_parts(array: Array, function: Callable[[Array], T]) -> list[T]:
    """`function` of an array; of columns that stay on the host, of each block of them."""
    if not isinstance(array, HostColumns):
        return [function(array)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda some: function(array.read(some).T), array.blocks()))


def not_finite(array: Array) -> int:
    """How many of its values are NaN or infinite."""
    # The sum is finite if all values are, and takes half the time of asking each; only if it is
    # not (or overflowed) are they counted. Not by BLAS: its threads would keep the cores busy for
    # a while, just when the training begins.
    if math.isfinite(float(array.sum())):
        return 0
    return int((~array_module(array).isfinite(array)).sum())


def _sums_differ(Y: Array) -> bool:
    return bool((array_module(Y).abs(Y.sum(axis=0) - 1) > 1e-3).any())


def check_count(name: str, value: Any, least: int) -> None:
    """Raise ValueError if `value` is no integer from `least` on."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"expected {name} as an integer >= {least}, got {value!r}")


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
