"""`minimize`: training by SciPy's minimisers, as the notes train their digits.

SciPy steers on the host with one float64 vector; every cost and gradient is computed where the
arrays are, by one forward and one backward.
"""

import functools
import math
from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np

from accelnn.backend import Array, array_module, at_work, backend_of, to_host
from accelnn.network import Network, Parameters, Workspace, backward, forward
from accelnn.solvers import precisions
from accelnn.training.checks import check_count, checked
from accelnn.training.fit import evaluate
from accelnn.training.history import Callback, Checkpoint, History, Interrupted, ask
from accelnn.training.progress import following

# by method: SciPy's names of its limits, none of which may stop it before ours
METHODS = {"TNC": ("maxfun",), "L-BFGS-B": ("maxfun", "maxiter")}

STOPPED, INTERRUPTED = "a callback ended it", "interrupted"


class _Ended(Exception):
    """All evaluations are used, or a callback ended the training: SciPy itself checks between
    iterations only, and would take more."""


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
    callbacks: Sequence[Callback] = (),
    verbose: bool | str = False,
) -> tuple[Parameters, History]:
    """Train by scipy.optimize.minimize on the flat parameters, on all examples at once.

    A line search tries worse parameters on its way, so the costs need not fall from one
    evaluation to the next; the best parameters that were evaluated are returned.

    Parameters
    ----------
    net, params, X, Y, callbacks, verbose : as in `fit`
    method : "TNC" (truncated Newton, as in the notes) | "L-BFGS-B"
    evaluations : of cost and gradient, at most; several of them make one update
    record_every : evaluations between recorded costs; by default max(1, evaluations // 100)

    Returns
    -------
    The trained Parameters, and the History, whose `epochs` are evaluations.

    Raises as `fit` does, and ValueError for dropout, which makes the cost random, or if the cost
    of the first parameters is not finite.
    """
    given = X, Y
    X, Y = checked(net, params, X, Y)
    if method not in METHODS:
        raise ValueError(f"unknown method {method!r}: expected one of {list(METHODS)}")
    check_count("evaluations", evaluations, least=0)
    if record_every is None:
        record_every = max(1, evaluations // 100)
    check_count("record_every", record_every, least=1)
    if any(keep < 1 for keep in net.keep_prob):
        raise ValueError(
            f"expected keep_prob=1, got {net.keep_prob}: dropout makes the cost random, and no "
            "line search can follow it; use accelnn.fit"
        )
    ran_on, params = backend_of(params.flat), params.copy()
    history = History(
        solver="minimize",
        reason="asked for",
        backend=ran_on.name,
        device=ran_on.device_name(),
        dtype=str(params.dtype),
        precision=str(params.dtype),
    )
    with ExitStack() as stack:
        stack.enter_context(np.errstate(over="ignore", invalid="ignore"))
        stack.enter_context(precisions.of_products(array_module(params.flat), history.precision))
        callbacks = list(callbacks)
        if verbose:
            callbacks.append(
                stack.enter_context(following(verbose, evaluations, unit="evaluation"))
            )
        costs, best, ended = _search(
            net, params, X, Y, method, evaluations, record_every, callbacks
        )
        params.flat[...] = ran_on.to_device(best, params.dtype)
        history.reason = f"{method}, {len(costs)} evaluations: {ended}"
        history.stopped = ended if ended in (STOPPED, INTERRUPTED) else None
        history.costs, history.epochs_run = costs[::record_every], len(costs)
        history.epochs = list(range(0, len(costs), record_every))
        history._evaluate = functools.partial(evaluate, net, params.copy(), *given)
        if ended == INTERRUPTED:
            raise Interrupted(params, history)
    return params, history


def _search(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    method: str,
    evaluations: int,
    record_every: int,
    callbacks: list[Callback],
) -> tuple[list[float], Array, str]:
    """The cost of each evaluation, the best parameters (flat float64, on the host), and why the
    search ended. `params` is changed on the way."""
    # Here, and not above: SciPy's optimisers take longer to import than all of accelnn.
    from scipy.optimize import minimize as search

    n, m = params.flat.size, X.shape[1]
    work = Workspace(net, params, m)
    xp = work.xp
    # The cost behind the gradient, so that both come to the host in one transfer.
    result = xp.empty(n + 1, params.dtype)
    gradients, cost = Parameters(result[:n], net.layers), result[n, ...]
    costs: list[float] = []
    best, lowest = to_host(params.flat).astype(np.float64), math.inf

    def cost_and_gradient(theta: Array) -> tuple[float, Array]:
        nonlocal best, lowest
        if len(costs) == evaluations:
            raise _Ended("all that were allowed")
        params.flat[...] = xp.asarray(theta, params.dtype)
        forward(net, params, X, work)
        backward(net, params, X, Y, work, 1 / m, gradients, cost)
        on_host = to_host(result).astype(np.float64)
        costs.append(float(on_host[n]))
        number = len(costs) - 1
        if number == 0 and not math.isfinite(costs[0]):
            raise ValueError(f"the cost of the first parameters is {costs[0]}: start from smaller")
        if costs[-1] < lowest:
            best, lowest = theta.copy(), costs[-1]
        if number % record_every == 0:
            checkpoint = Checkpoint(number, costs[-1], None, None, None, params.copy)
            if ask(callbacks, checkpoint):
                raise _Ended(STOPPED)
        return costs[-1], on_host[:n]

    options: dict[str, float] = dict.fromkeys(METHODS[method], max(evaluations, 1))  # not 0
    if method == "TNC":
        # It takes differences of gradients, with steps for float64 unless it is given this. In
        # float32 those drown in rounding: the digits then reach 94 % in 400 evaluations instead
        # of 99.8 %.
        options["accuracy"] = math.sqrt(np.finfo(params.dtype).eps)
    try:
        found = search(cost_and_gradient, best, jac=True, method=method, options=options)
        return costs, best, str(found.message)
    except _Ended as reason:
        return costs, best, str(reason)
    except KeyboardInterrupt:
        return costs, best, INTERRUPTED
