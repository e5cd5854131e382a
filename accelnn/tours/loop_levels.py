"""One iteration of logistic regression, with ever fewer loops in Python."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from accelnn import backend
from accelnn.backend import Array, NumpyBackend, array_module, to_host
from accelnn.functions import binary_cross_entropy_from_logits, sigmoid
from accelnn.kernels import loops

from .checks import Say, check, fastest

LEVELS = ("loops over examples and features", "loop over examples", "no loop")
SHOWN = ("for i in ...: for j in ...", "for i in ...: np.dot(w, x)", "np.dot(w.T, X)")


def vectorised(w: Array, b: float, X: Array, Y: Array) -> tuple[Array, Array, Array]:
    """Cost, dw (n, 1) and db of logistic regression with weights w (n, 1), without a loop."""
    xp, m = array_module(X), X.shape[1]
    Z = xp.dot(w.T, X) + b
    dZ = sigmoid(Z) - Y
    return binary_cross_entropy_from_logits(Z, Y), xp.dot(X, dZ.T) / m, dZ.sum() / m


def loop_levels(say: Say = print, n: int = 300, m: int = 200) -> dict[str, Any]:
    """One iteration of logistic regression by explicit loops, by one loop and by none, timed.

    n features, m examples. Returns the seconds of each level by name, and the ratio of the
    first to the last. Raises ArithmeticError if the levels differ in cost, dw or db.
    """
    device = backend.current()
    random = np.random.RandomState(1)
    X, w, b = random.randn(n, m), 0.1 * random.randn(n), 0.5
    Y = (random.rand(m) < 0.5).astype(float)
    lists = w.tolist(), b, X.tolist(), Y.tolist()
    dw = [0.0] * n, np.zeros(n)
    columns = (device.to_device(w[:, None]), b, device.to_device(X), device.to_device(Y[None]))
    levels: tuple[tuple[Callable[[], Any], NumpyBackend], ...] = (
        (partial(loops.logistic_explicit, *lists, dw[0]), NumpyBackend()),
        (partial(loops.logistic_vectorised_features, w, b, X, Y, dw[1]), NumpyBackend()),
        (partial(vectorised, *columns), device),
    )
    cost, slope, db = map(to_host, vectorised(*columns))
    seconds = {}
    say(f"One iteration of logistic regression, {n} features, {m} examples:")
    for level, code, (run, place) in zip(LEVELS, SHOWN, levels, strict=True):
        seconds[level] = fastest(run, place)
        say(f"  {level:34} {seconds[level] * 1e3:9.3f} ms   {code}")
    for level, (run, _), gradient in zip(LEVELS, levels, dw, strict=False):
        check(f"{level}: cost and db", run(), (float(cost), float(db)), 1e-10)
        check(f"{level}: dw", np.array(gradient), slope[:, 0], 1e-10)
    first, second, last = seconds.values()
    say(f"The same cost {float(cost):.8f}, dw and db, at each level. On {device.device_name()}:")
    say(f"  vectorising the features   {first / second:8,.0f} times faster")
    say(f"  and the examples           {second / last:8,.0f} times faster")
    say(f"  together                   {first / last:8,.0f} times faster")
    say("The loop over iterations stays: each starts from the weights of the one before.")
    return {**seconds, "ratio": first / last}
