"""Gradient descent as the notes write it: forward, backward, update, on either backend."""

from collections.abc import Callable
from typing import Any

from accelnn.backend import Array
from accelnn.network import Network, Parameters, Workspace, backward, forward


def train(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    epochs: int,
    learning_rate: float,
    record_every: int,
    seed: int,
    on_record: Callable[[int, float], None] | None = None,
) -> Array:
    """Change `params` in place by `epochs` steps on all of X; returns the recorded costs.

    The costs (n_records,) stay where the arrays are, and nothing in the loop waits for the
    device. Every array that a step writes is allocated before the first.
    """
    work = Workspace(net, params, X.shape[1], dropout=True)
    xp = work.xp
    step, scale = params.empty_like(), learning_rate / X.shape[1]
    random: Any = xp.random.default_rng(seed) if min(net.keep_prob, default=1) < 1 else None
    costs = xp.empty(len(range(0, epochs, record_every)), params.dtype)
    for epoch in range(epochs):
        for D, keep in zip(work.D, net.keep_prob, strict=True):
            if D is not None:  # inverted dropout: what is kept is scaled up, so that means stay
                random.random(D.shape, dtype=D.dtype, out=D)  # CuPy needs the size too
                xp.less(D, keep, out=D)
                D /= keep
        record, remainder = divmod(epoch, record_every)
        forward(net, params, X, work)
        cost = None if remainder else costs[record, ...]
        backward(net, params, X, Y, work, scale, step, cost)
        work.operations.update(params.flat, step.flat)
        if cost is not None and on_record is not None:
            on_record(epoch, float(cost))
    return costs
