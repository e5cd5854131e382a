"""`minimize`: training by SciPy's minimisers, as the notes train their digits. SciPy works on the
host with one float64 vector; costs and gradients are computed where the arrays are.
"""

import functools
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from accelnn.backend import Array, at_work, backend_of, to_host
from accelnn.network import Network, Parameters, Workspace, backward, checked_weights, forward
from accelnn.solvers import precisions
from accelnn.training.checks import checked, count
from accelnn.training.fit import evaluate
from accelnn.training.history import INTERRUPTED, Callback, Checkpoint, History, Interrupted, ask
from accelnn.training.progress import following

# by method: SciPy's names of its limits, none of which may stop it before ours
METHODS = {"TNC": ("maxfun",), "L-BFGS-B": ("maxfun", "maxiter")}

STOPPED = "a callback ended it"


class _Ended(Exception):
    """Ends a search within an iteration; SciPy checks its limits only between two."""


@at_work("training")
def minimize(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    method: str = "TNC",
    evaluations: int = 400,
    record_every: int | None = None,
    weights: Array = None,
    options: Mapping[str, Any] | None = None,
    callbacks: Sequence[Callback] = (),
    verbose: bool | str = False,
) -> tuple[Parameters, History]:
    """Train by scipy.optimize.minimize, on all examples at once.

    A line search tries worse parameters on its way, so costs may rise from one evaluation to the
    next. Returns the best Parameters evaluated, and the History, in which epochs are evaluations.

    Parameters
    ----------
    net, params, X, Y, weights, callbacks, verbose : as in `fit`
    method : "TNC" (truncated Newton, as in the notes) | "L-BFGS-B"
    evaluations : the most evaluations of cost and gradient; an update takes several
    record_every : evaluations between recorded costs; by default max(1, evaluations // 100)
    options : of SciPy's method, such as {"maxiter": 200, "gtol": 1e-4}, in place of its defaults

    Raises as `fit` does, and ValueError for dropout, which makes the cost random, and for first
    parameters whose cost is not finite.
    """
    given = X, Y, weights
    X, Y = checked(net, params, X, Y)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {list(METHODS)}")
    evaluations = count("evaluations", evaluations, 0)
    record_every = max(1, evaluations // 100) if record_every is None else record_every
    record_every = count("record_every", record_every, 1)
    if any(keep < 1 for keep in net.keep_prob):
        hint = "dropout makes the cost random, and no line search can follow it; use accelnn.fit"
        raise ValueError(f"expected keep_prob=1, got {net.keep_prob}: {hint}")
    # SciPy's optimisers take longer to import than all of accelnn.
    from scipy.optimize import minimize as search

    start = time.perf_counter()
    params, n = params.copy(), params.flat.size
    work = Workspace(net, params, X.shape[1])
    work.weights, work.total = checked_weights(weights, X, params)
    # The cost follows the gradient, so that both come to the host in one transfer.
    result = work.xp.empty(n + 1, params.dtype)
    gradients, cost = Parameters(result[:n], net.layers), result[n, ...]
    costs: list[float] = []
    best, lowest = to_host(params.flat).astype(np.float64), math.inf

    def cost_and_gradient(theta: Array) -> tuple[float, Array]:
        nonlocal best, lowest
        number = len(costs)
        if number == evaluations:
            raise _Ended("all that were allowed")
        params.flat[...] = work.xp.asarray(theta, params.dtype)
        forward(work, X)
        backward(work, X, Y, 1 / work.total, gradients, cost)
        on_host = to_host(result).astype(np.float64)
        costs.append(float(on_host[n]))
        if number == 0 and not math.isfinite(costs[0]):
            raise ValueError(f"the cost of the first parameters is {costs[0]}: start from smaller")
        if costs[-1] < lowest:
            best, lowest = theta.copy(), costs[-1]
        now = Checkpoint(number, costs[-1], None, None, None, params.copy)
        if number % record_every == 0 and ask(asked, now):
            raise _Ended(STOPPED)
        return costs[-1], on_host[:n]

    settings: dict[str, Any] = dict.fromkeys(METHODS[method], max(evaluations, 1))  # not 0
    if method == "TNC":
        # TNC takes differences of gradients with steps for float64 unless it is given this. In
        # float32 they drown in rounding: the digits then reach 94 % in 400 evaluations, not 99.8.
        settings["accuracy"] = math.sqrt(np.finfo(params.dtype).eps)
    settings |= options or {}
    iterations = 0

    def iterated(_theta: Array) -> None:
        nonlocal iterations
        iterations += 1

    with (
        np.errstate(over="ignore", invalid="ignore"),
        precisions.of_products(work.xp, str(params.dtype)),
        following(verbose, evaluations, unit="evaluation") as shown,
    ):
        asked = [callback for callback in (*callbacks, shown) if callback]
        try:
            how = {"method": method, "options": settings, "callback": iterated}
            found = search(cost_and_gradient, best, jac=True, **how)
            ended = str(found.message)
        except _Ended as why:
            ended = str(why)
        except KeyboardInterrupt:
            ended = INTERRUPTED
        params.flat[...] = backend_of(params.flat).to_device(best, params.dtype)
        reason = f"{method}, {len(costs)} evaluations: {ended}"
        history = History.of(params, "minimize", reason, str(params.dtype))
        history.seconds = time.perf_counter() - start
        history.costs, history.epochs_run = costs[::record_every], len(costs)
        history.epochs = list(range(0, len(costs), record_every))
        history.iterations = iterations
        history.stopped = ended if ended in (STOPPED, INTERRUPTED) else None
        history._evaluate = functools.partial(evaluate, net, params.copy(), given)
        if ended == INTERRUPTED:
            raise Interrupted(params, history)
    return params, history
