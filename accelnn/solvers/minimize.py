"""Training by SciPy's minimisers: the digits of the notes, on the unrolled parameters.

SciPy steers on the host with one float64 vector; every cost and gradient is computed where the
arrays are, by one forward and one backward.
"""

import math
from collections.abc import Callable

import numpy as np

from accelnn.backend import Array, to_host
from accelnn.network import Network, Parameters, Workspace, backward, forward

# by method: what SciPy calls its limits, none of which may stop it before ours
METHODS = {"TNC": ("maxfun",), "L-BFGS-B": ("maxfun", "maxiter")}


class _Ended(Exception):
    """All evaluations are used, or a callback wants no more: SciPy itself checks between
    iterations only, and would take more."""


def train(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    evaluations: int,
    method: str,
    record_every: int,
    on_record: Callable[[int, float], bool],
) -> tuple[list[float], str]:
    """Change `params` in place to the best of at most `evaluations`; returns costs and reason.

    `on_record` is called with the evaluation and its cost at each record; a true answer ends it.
    The costs are those of evaluations 0, record_every, 2 record_every, ... A line search tries
    worse parameters on its way, so the costs need not fall from one to the next.

    Raises ValueError where the cost of the first parameters is not finite.
    """
    # Here, and not above: SciPy's optimisers take longer to import than all of accelnn.
    from scipy.optimize import minimize

    n, m = params.flat.size, X.shape[1]
    work = Workspace(net, params, m)
    xp = work.xp
    # The cost behind the gradient, so that both come to the host in one transfer.
    result = xp.empty(n + 1, params.dtype)
    gradients, cost = Parameters(result[:n], net.layers), result[n, ...]
    costs: list[float] = []
    best, best_cost = to_host(params.flat).astype(np.float64), math.inf

    def cost_and_gradient(theta: Array) -> tuple[float, Array]:
        nonlocal best, best_cost
        if len(costs) == evaluations:
            raise _Ended("all that were allowed")
        params.flat[...] = xp.asarray(theta, params.dtype)
        forward(net, params, X, work)
        backward(net, params, X, Y, work, 1 / m, gradients, cost)
        on_host = to_host(result).astype(np.float64)
        costs.append(float(on_host[n]))
        if len(costs) == 1 and not math.isfinite(costs[0]):
            raise ValueError(f"the cost of the first parameters is {costs[0]}: start from smaller")
        if costs[-1] < best_cost:
            best, best_cost = theta.copy(), costs[-1]
        if (len(costs) - 1) % record_every == 0 and on_record(len(costs) - 1, costs[-1]):
            raise _Ended("a callback ended it")
        return costs[-1], on_host[:n]

    options: dict[str, float] = dict.fromkeys(METHODS[method], max(evaluations, 1))  # not 0
    if method == "TNC":
        # It takes differences of gradients, with steps for float64 unless told. In float32 those
        # drown in rounding: the digits then reach 94 % in 400 evaluations instead of 99.8 %.
        options["accuracy"] = math.sqrt(np.finfo(params.dtype).eps)
    try:
        message = minimize(
            cost_and_gradient, best, jac=True, method=method, options=options
        ).message
    except _Ended as reason:
        message = str(reason)
    params.flat[...] = xp.asarray(best, params.dtype)
    return costs[::record_every], f"{method}, {len(costs)} evaluations: {message}"
