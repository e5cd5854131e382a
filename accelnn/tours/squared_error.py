"""Why logistic regression does not use the squared error: its cost is not convex."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from accelnn import plots
from accelnn.backend import Array, array_module, to_device, to_host
from accelnn.functions import sigmoid

from .checks import Say, check

X = np.array([-4.0, -3, -2, -1, 0, 1, 2, 3])  # one feature, eight examples
Y = np.array([0.0, 0, 0, 1, 0, 1, 1, 1])
SPAN = 10.0  # w and b in ± SPAN
STARTS = ((-8.0, 0.0), (3.0, 5.0), (0.0, 0.0))  # (w, b) before descent
STEPS = 1000


class Loss(NamedTuple):
    """A loss of one example as a function of z, with a = sigmoid(z), and its derivatives by z."""

    value: Callable[[Array, Array, Array], Array]  # of z, a, y
    slope: Callable[[Array, Array], Array]  # of a, y
    curvature: Callable[[Array, Array], Array]  # of a, y


def _cross_entropy(z: Array, _a: Array, y: Array) -> Array:
    xp = array_module(z)
    return xp.maximum(z, 0) - z * y + xp.log1p(xp.exp(-xp.abs(z)))


LOSSES = {
    "squared error": Loss(
        lambda _z, a, y: (a - y) ** 2 / 2,
        lambda a, y: (a - y) * a * (1 - a),
        lambda a, y: a * (1 - a) * (a * (1 - a) + (a - y) * (1 - 2 * a)),
    ),
    "cross-entropy": Loss(_cross_entropy, lambda a, y: a - y, lambda a, _y: a * (1 - a)),
}


def squared_error(say: Say = print, n: int = 81) -> dict[str, Any]:
    """Why squared error is a bad loss for logistic regression: its cost is not convex.

    Returns w and b (n,); and by loss its costs (n, n), w down and b across, "smallest curvature",
    and "descent": the w, b and cost that gradient descent reaches from each of STARTS.
    """
    w = b = np.linspace(-SPAN, SPAN, n)
    results: dict[str, Any] = {"w": w, "b": b}
    say(f"One feature x = {X.astype(int).tolist()},")
    say(f"labels y = {Y.astype(int).tolist()}, a = σ(w x + b).")
    say("Cost and its curvature along w at b = 0, by second differences:")
    say(f"  {'w':>4}" + "".join(f"{name:>16}{'curvature':>12}" for name in LOSSES))
    along = np.array([-8.0, -4, -2, -1, 0, 1, 2, 4, 8])
    columns = [column for loss in LOSSES.values() for column in _along_w(loss, along)]
    for value, *row in zip(along, *columns, strict=True):
        say(f"  {value:4g}" + "{:16.4f}{:12.1e}{:16.4f}{:12.1e}".format(*row))
    say(f"\nSmallest curvature in any direction, on {n} x {n} points with w and b in ±{SPAN:g};")
    say(f"and where {STEPS} steps of gradient descent at learning rate 1 end:")
    for name, loss in LOSSES.items():
        costs, smallest = _surface(loss, w, b)
        say(f"  {name}: {smallest.min():.1e}, below 0 at {(smallest < 0).mean():.0%} of the points")
        ends = np.array([_descend(loss, *start) for start in STARTS])
        for (w_start, b_start), (w_end, b_end, cost) in zip(STARTS, ends, strict=True):
            start = f"w = {w_start:2g}, b = {b_start:g}"
            say(f"    from {start} to w = {w_end:5.2f}, b = {b_end:5.2f}: cost {cost:.4f}")
        results[name], results[f"{name}: descent"] = costs, ends
        results[f"{name}: smallest curvature"] = float(smallest.min())
    bends = [name for name in LOSSES if results[f"{name}: smallest curvature"] < 0]
    if bends != ["squared error"]:
        raise ArithmeticError(f"expected only the squared error to bend down, got {bends}")
    say("The cross-entropy is convex: descent finds its one minimum from anywhere. The")
    say("squared error is flat in places and bends down: descent hardly moves there.")
    return results


def draw(results: dict[str, Any]) -> plots.Figure:
    """The two cost surfaces, from what `squared_error` returned."""
    return plots.cost_surfaces(results["w"], results["b"], {name: results[name] for name in LOSSES})


def _cost(loss: Loss, w: Any, b: Any) -> Array:
    """The mean cost over the examples, for weights w and biases b of any one shape."""
    x, y = to_device(X), to_device(Y)
    z = w[..., None] * x + b[..., None]
    return loss.value(z, sigmoid(z), y).mean(axis=-1)


def _along_w(loss: Loss, w: Array, step: float = 1e-3) -> tuple[Array, Array]:
    """Costs and second derivatives by w at b = 0: second differences, checked by the formula."""
    b = to_device(np.zeros_like(w))
    below, at, above = (_cost(loss, to_device(w + d), b) for d in (-step, 0, step))
    exact = (loss.curvature(sigmoid(w[:, None] * X), Y) * X**2).mean(axis=-1)
    differences = (above - 2 * at + below) / step**2
    return to_host(at), check("the second differences", differences, exact, 1e-3)


def _surface(loss: Loss, w: Array, b: Array) -> tuple[Array, Array]:
    """The costs, and the smaller eigenvalue of their Hessians, (n, n) on the host."""
    W, B = np.meshgrid(w, b, indexing="ij")
    curvature = loss.curvature(sigmoid(W[..., None] * X + B[..., None]), Y)
    ww, wb, bb = ((curvature * X**k).mean(axis=-1) for k in (2, 1, 0))
    smaller = (ww + bb) / 2 - np.sqrt(((ww - bb) / 2) ** 2 + wb**2)
    return to_host(_cost(loss, to_device(W), to_device(B))), smaller


def _descend(loss: Loss, w: float, b: float) -> tuple[float, float, float]:
    """w, b and the cost after gradient descent from w and b."""
    for _ in range(STEPS):
        slope = loss.slope(sigmoid(w * X + b), Y)
        w, b = w - float((slope * X).mean()), b - float(slope.mean())
    return w, b, float(_cost(loss, to_device(np.array(w)), to_device(np.array(b))))
