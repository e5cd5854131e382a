"""The checks of what `fit` and `minimize` are given."""

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from accelnn import batches
from accelnn.backend import Array, array_module, as_array
from accelnn.columns import THREADS, HostColumns, as_stored
from accelnn.functions import OUTPUTS
from accelnn.network import Network, Parameters, is_integer
from accelnn.optimizers import Optimizer
from accelnn.solvers.job import Job, State

T = TypeVar("T")
Data = tuple[Array, Array]  # X and Y

VALIDATION = "expected validation as a share in (0, 1) or as (X, Y)"


def checked(net: Network, params: Parameters, X: Array, Y: Array, streams: bool = False) -> Data:
    """X and Y as `converted` gives them; raises ValueError for NaN, infinity, and labels that
    the output cannot have."""
    X, Y = converted(net, params, X, Y, streams)
    for name, array in (("X", X), ("Y", Y), ("params", params.flat)):
        check_finite(name, array)
    if isinstance(Y, HostColumns) and OUTPUTS[net.output].least == 0:  # `converted` checks arrays
        ranges = _of_parts(Y, lambda part: (float(part.min()), float(part.max())))
        net.check_range(min(low for low, _ in ranges), max(high for _, high in ranges))
        _of_parts(Y, net.check_sums)
    return X, Y


def check_net(net: Network, params: Parameters) -> None:
    """Raise TypeError or ValueError unless these are a network and parameters of it."""
    if not isinstance(net, Network):
        raise TypeError(f"expected net as accelnn.Network, got {type(net).__name__}")
    net.check_params(params)


def check_finite(name: str, array: Array) -> None:
    """Raise ValueError if values of the array are NaN or infinite."""
    if isinstance(array, HostColumns) and array.rows.dtype.kind in "bui":
        return  # whole numbers are finite
    if bad := sum(_of_parts(array, not_finite)):
        found = f"{bad} NaN or infinite values among {array.size}"
        raise ValueError(f"{name} has {found}: clean them first")


def converted(net: Network, params: Parameters, X: Array, Y: Array, streams: bool) -> Data:
    """X and Y as `Network.check` gives them; HostColumns, to be streamed, if they are in a file, or
    on the host and the parameters on a device. Of full batches, X alone may be HostColumns."""
    check_net(net, params)
    X, Y = (
        as_array(as_stored(array, n, name), name)
        for array, n, name in ((X, net.layers[0], "X"), (Y, net.layers[-1], "Y"))
    )
    on_host, in_file = array_module(params.flat) is np, in_a_file(X)
    if not (in_file or (isinstance(X, np.ndarray | HostColumns) and not on_host)):
        return net.check(params, X, Y)
    if in_file and not streams:
        net.check_shapes(X, Y)
        Y = array_module(params.flat).asarray(net.targets(Y), params.dtype)
        return HostColumns.of(X, params.dtype), Y
    if array_module(X, Y) is np and not streams:
        raise TypeError(
            "X and Y are on the host, and the parameters are on the device: move the data with "
            "accelnn.to_device; or give fit a batch_size, and mini-batches are streamed there"
        )
    net.check_shapes(X, Y)
    if Y.ndim == 1:
        Y = net.targets(Y, np.uint8 if net.layers[-1] > 1 else None)  # one-hot as bytes
    return HostColumns.of(X, params.dtype), HostColumns.of(Y, params.dtype)


def in_a_file(X: Array) -> bool:
    """Whether these are columns in a file."""
    return isinstance(X, HostColumns) and X.in_file


def shuffling(shuffle: Any, X: Array, batch_size: int | None) -> Any:
    """`shuffle` as the job takes it: the size of blocks for True if batches come from a file."""
    if shuffle is True and batch_size is not None and in_a_file(X):
        return X.rows.block
    if isinstance(shuffle, bool) or hasattr(shuffle, "__iter__"):
        return shuffle
    if not is_integer(shuffle, 1):
        expected = "True, False, the size of a block of at least 1, or permutations"
        raise ValueError(f"expected shuffle as {expected}, got {shuffle!r}")
    return int(shuffle)


def share_of(validation: Any) -> float | None:
    """The share of the examples that `validation` asks for, or None if it asks for no share."""
    if not isinstance(validation, int | float):
        return None
    if not 0 < validation < 1:
        raise ValueError(f"{VALIDATION}, got {validation!r}")
    return validation


def set_apart(job: Job, share: float) -> None:
    """Move this share of the examples into the job's validation set."""
    if job.examples < 2:
        raise ValueError("a validation split needs at least 2 examples, got 1")
    data, place, sets = (job.X, job.Y, job.weights), job.place, []
    in_order = job.block is not None
    for order in batches.split_order(job.examples, share, job.seed, in_order):
        columns = order if place is None else place[order]
        sets.append(batches.part(data, columns[columns >= 0]))
        if place is not None and len(sets) == 1:  # the training set
            job.place = np.where(columns >= 0, (columns >= 0).cumsum() - 1, -1)
    (job.X, job.Y, job.weights), job.validation = sets


def validation_set(job: Job, validation: Any) -> tuple[Array, ...]:
    """The caller's own validation set, and no weights, as the job takes it."""
    try:
        X, Y = validation
    except (TypeError, ValueError):
        raise ValueError(f"{VALIDATION}, got {type(validation).__name__}") from None
    try:
        return *checked(job.net, job.params, X, Y, job.batch_size is not None), None
    except (TypeError, ValueError) as error:
        raise type(error)(f"validation: {error}") from None


def fitting_state(state: Any, params: Parameters, optimizer: Optimizer) -> State | None:
    """The state to go on from; raises TypeError or ValueError unless it fits."""
    if state is None:
        return None
    if not isinstance(state, State):
        expected = "expected state as history.state of a training"
        raise TypeError(f"{expected}, got {type(state).__name__}")
    shapes = [moment.shape for moment in state.moments]
    if shapes != [params.flat.shape] * optimizer.moments:
        expected = f"{optimizer.moments} moments of shape {params.flat.shape} for {optimizer.name}"
        raise ValueError(f"expected a state with {expected}, got {shapes}")
    return state


def _of_parts(array: Array, function: Callable[[Array], T]) -> list[T]:
    """`function` of an array, or of each block of HostColumns."""
    if not isinstance(array, HostColumns):
        return [function(array)]
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda block: function(array.read(block).T), array.blocks()))


def not_finite(array: Array) -> int:
    """The number of values that are NaN or infinite."""
    # A finite sum proves all values finite in half the time. Not by BLAS, whose threads would
    # keep the cores busy for a while, just when the training begins.
    if math.isfinite(float(array.sum())):
        return 0
    return int((~array_module(array).isfinite(array)).sum())


def count(name: str, value: Any, least: int) -> int:
    """The count as a Python int, which cannot overflow; ValueError if it is below `least`."""
    if not is_integer(value, least):
        raise ValueError(f"expected {name} as an integer >= {least}, got {value!r}")
    return int(value)
