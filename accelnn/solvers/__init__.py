"""How a training runs: `fit` checks what it is given, picks a solver and tells which and why."""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelnn.backend import Array, array_module, backend_of, to_host
from accelnn.network import Network, Parameters
from accelnn.solvers import direct, minimize

# those of gradient descent; "minimize" takes no learning rate, and counts evaluations
SOLVERS: dict[str, Callable[..., Array]] = {"direct": direct.train}


@dataclass(frozen=True)
class History:
    """What a training left behind, on the host.

    costs : before the updates of the recorded epochs 0, record_every, 2 record_every, ...
    epochs : those epochs; for "minimize", those evaluations
    final_cost : of the parameters returned
    solver, reason : which one ran, and why that one
    backend, device, dtype : where and in what precision it ran
    """

    costs: list[float]
    epochs: list[int]
    final_cost: float
    solver: str
    reason: str
    backend: str
    device: str
    dtype: str


def fit(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    epochs: int,
    learning_rate: float | None = None,
    solver: str = "auto",
    method: str = "TNC",
    record_every: int = 100,
    seed: int = 0,
    on_record: Callable[[int, float], None] | None = None,
) -> tuple[Parameters, History]:
    """Train by full-batch gradient descent, θ ← θ - α ∂cost/∂θ, or by SciPy's minimisers.

    Runs where the arrays are and in the parameters' precision; changes none of them.

    Parameters
    ----------
    net : the architecture
    params : first weights
    X : (n_0, m) features; Y : (n_L, m) labels: 0..1 for sigmoid outputs, columns that sum to 1
        for softmax, any values for linear
    epochs : passes over X, each one update; for "minimize" the most evaluations of cost and
        gradient that it may use, several of which make one update
    learning_rate : α of gradient descent, which needs it; "minimize" has none
    solver : "auto" | "direct", gradient descent; "minimize", scipy.optimize.minimize on the flat
        parameters, which returns the best that it evaluated
    method : of "minimize": "TNC" (truncated Newton, as in the notes) | "L-BFGS-B"
    record_every : epochs between recorded costs
    seed : of dropout's random numbers
    on_record : called with the epoch and its cost at each record; then, and only then, a record
        waits for the device

    Returns
    -------
    The trained Parameters, and the History.

    Raises ValueError for shapes that do not fit, NaN or infinity in the data, labels out of
    range, values that make no sense and dropout with "minimize"; TypeError where host and
    device arrays are mixed. Warns with a RuntimeWarning where the cost of gradient descent did
    not stay finite.
    """
    X, Y = net.check(params, X, Y)
    _check_values(net, params, X, Y)
    _check_count("epochs", epochs, least=0)
    _check_count("record_every", record_every, least=1)
    name, reason = _pick(solver)
    _check_options(name, net, learning_rate, method)

    params = params.copy()
    with np.errstate(over="ignore", invalid="ignore"):  # divergence is reported once, below
        if name == "minimize":
            costs, reason = minimize.train(
                net,
                params,
                X,
                Y,
                evaluations=epochs,
                method=method,
                record_every=record_every,
                on_record=on_record,
            )
        else:
            on_device = SOLVERS[name](
                net,
                params,
                X,
                Y,
                epochs=epochs,
                learning_rate=learning_rate,
                record_every=record_every,
                seed=seed,
                on_record=on_record,
            )
            costs = to_host(on_device).tolist()
        final_cost = net.cost(params, X, Y)
    there = backend_of(X)
    history = History(
        costs=costs,
        epochs=[i * record_every for i in range(len(costs))],
        final_cost=final_cost,
        solver=name,
        reason=reason,
        backend=there.name,
        device=there.device_name(),
        dtype=str(params.dtype),
    )
    if learning_rate is not None:
        _warn_of_divergence(history, learning_rate)
    return params, history


def _pick(solver: str) -> tuple[str, str]:
    if solver == "auto":
        return "direct", "the only gradient descent there is"
    names = ["auto", *SOLVERS, "minimize"]
    if solver not in names:
        raise ValueError(f"unknown solver {solver!r}: expected one of {names}")
    return solver, "asked for"


def _check_options(name: str, net: Network, learning_rate: float | None, method: str) -> None:
    if method not in minimize.METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {list(minimize.METHODS)}")
    if name != "minimize":
        if learning_rate is None or not (math.isfinite(learning_rate) and learning_rate > 0):
            raise ValueError(f"gradient descent needs learning_rate > 0, got {learning_rate}")
        if method != "TNC":
            raise ValueError(f"method {method!r} is of solver='minimize', not of {name!r}")
        return
    if learning_rate is not None:
        raise ValueError(f"solver='minimize' takes no learning_rate, got {learning_rate}: omit it")
    if any(keep < 1 for keep in net.keep_prob):
        raise ValueError(
            f"expected keep_prob=1 for solver='minimize', got {net.keep_prob}: dropout makes the "
            "cost random, and no line search can follow it; use solver='direct'"
        )


def _check_values(net: Network, params: Parameters, X: Array, Y: Array) -> None:
    xp = array_module(X)
    if X.shape[1] == 0:
        raise ValueError("expected at least one example, got X with no columns")
    for name, array in (("X", X), ("Y", Y), ("params", params.flat)):
        # One number tells whether all are finite, in half the time that asking each takes; only
        # where it is not (or the sum overflowed) are they counted.
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


def _check_count(name: str, value: Any, least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < least:
        raise ValueError(f"expected {name} as an integer >= {least}, got {value!r}")


def _warn_of_divergence(history: History, learning_rate: float) -> None:
    costs = [*history.costs, history.final_cost]
    if not all(map(math.isfinite, costs)):
        first = next(i for i, cost in enumerate(costs) if not math.isfinite(cost))
        where = f"epoch {history.epochs[first]}" if first < len(history.costs) else "the end"
        warnings.warn(
            f"the cost is {costs[first]} at {where}: the training diverged; "
            f"lower the learning rate ({learning_rate:g})",
            RuntimeWarning,
            stacklevel=3,
        )
