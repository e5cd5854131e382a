"""Loops against vectorised code: the dot product, broadcasting, logistic regression."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from accelnn import backend
from accelnn.backend import Array, NumpyBackend, array_module, to_host
from accelnn.functions import binary_cross_entropy_from_logits, sigmoid
from accelnn.kernels import loops

from .checks import Say, check, fastest

FOODS = ("apples", "beef", "eggs", "potatoes")
CALORIES = {
    "carbohydrate": (56.0, 0.0, 4.4, 68.0),
    "protein": (1.2, 104.0, 52.0, 8.0),
    "fat": (1.8, 135.0, 99.0, 0.9),
}


def vectorization(say: Say = print, n: int = 1_000_000) -> dict[str, Any]:
    """The dot product of n numbers, loop against vectorised, and the calories by broadcasting.

    Returns loop and vectorised (the products), loop_seconds, vectorised_seconds, ratio (of the
    seconds), calories (4,) and percentage (3, 4).
    """
    device = backend.current()
    random = np.random.RandomState(1)
    a, b = random.rand(n), random.rand(n)
    with NumpyBackend().timer() as timing:
        loop = float(loops.dot(a, b))
    a, b = device.to_device(a), device.to_device(b)
    vectorised = float(check("the vectorised dot product", device.xp.dot(a, b), loop))
    seconds = fastest(lambda: device.xp.dot(a, b), device)
    ratio = timing.seconds / seconds
    say(f"The dot product of two vectors of {n:,} random numbers in 0..1:")
    say(f"  loop        {loop:.6f}   {timing.seconds * 1e3:10.3f} ms   for i in range(n): ...")
    say(f"  vectorised  {vectorised:.6f}   {seconds * 1e3:10.3f} ms   {device.name}.dot(a, b)")
    say(f"  vectorised is {ratio:,.0f} times faster, on {device.device_name()}")

    A = device.to_device(np.array(list(CALORIES.values())))
    cal = A.sum(axis=0)
    cal, percentage = to_host(cal), to_host(100 * A / cal.reshape(1, 4))
    check("the sum of the percentages", percentage.sum(axis=0), [100] * 4)
    say("\nBroadcasting: the percentage of the calories from each nutrient,")
    say("100 * A / cal.reshape(1, 4)")
    say(f"  {'':12}" + "".join(f"{food:>10}" for food in FOODS))
    for nutrient, row in zip(CALORIES, percentage, strict=True):
        say(f"  {nutrient:12}" + "".join(f"{value:10.2f}" for value in row))
    say(f"  {'calories':12}" + "".join(f"{value:10.1f}" for value in cal))
    products = {"loop": loop, "vectorised": vectorised, "ratio": ratio}
    times = {"loop_seconds": timing.seconds, "vectorised_seconds": seconds}
    return products | times | {"calories": cal, "percentage": percentage}


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

    n features, m examples. Returns each level's seconds by name, and the ratio of first to last.
    """
    device = backend.current()
    random = np.random.RandomState(1)
    X, w, b = random.randn(n, m), 0.1 * random.randn(n), 0.5
    Y = (random.rand(m) < 0.5).astype(float)
    columns = (device.to_device(w[:, None]), b, device.to_device(X), device.to_device(Y[None]))
    cost, slope, db = map(to_host, vectorised(*columns))
    dw = [0.0] * n, np.zeros(n)
    lists = w.tolist(), b, X.tolist(), Y.tolist()
    runs: tuple[Callable[[], Any], ...] = (
        partial(loops.logistic_explicit, *lists, dw[0]),
        partial(loops.logistic_vectorised_features, w, b, X, Y, dw[1]),
        partial(vectorised, *columns),
    )
    seconds = {}
    say(f"One iteration of logistic regression, {n} features, {m} examples:")
    for level, code, run in zip(LEVELS, SHOWN, runs, strict=True):
        seconds[level] = fastest(run, device if level == "no loop" else NumpyBackend())
        say(f"  {level:34} {seconds[level] * 1e3:9.3f} ms   {code}")
    for level, run, gradient in zip(LEVELS, runs, dw, strict=False):
        check(f"{level}: cost and db", run(), (float(cost), float(db)), 1e-10)
        check(f"{level}: dw", np.array(gradient), slope[:, 0], 1e-10)
    first, second, last = seconds.values()
    say(f"The same cost {float(cost):.8f}, dw and db, at each level. On {device.device_name()}:")
    say(f"  vectorising the features   {first / second:8,.0f} times faster")
    say(f"  and the examples           {second / last:8,.0f} times faster")
    say(f"  together                   {first / last:8,.0f} times faster")
    say("The loop over iterations stays: each starts from the weights of the one before.")
    return {**seconds, "ratio": first / last}
