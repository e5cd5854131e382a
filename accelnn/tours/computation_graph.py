"""Derivatives on a computation graph, step by step, each checked by nudging its variable."""

import math
from collections.abc import Callable

from accelnn.functions import sigmoid

from .checks import Say, check

NUDGE = 0.001  # as in the notes

# a variable's name and value, its derivative, the rule for it, and the output as its function
Row = tuple[str, float, float, str, Callable[[float], float]]


def computation_graph(say: Say = print) -> dict[str, float]:
    """Derivatives step by step: of J = 3(a + bc), and of logistic regression's loss.

    Returns each value and derivative by name.
    """
    return _product(say) | _logistic(say)


def _product(say: Say) -> dict[str, float]:
    a, b, c = 5.0, 3.0, 2.0
    say("J(a, b, c) = 3(a + bc) at a = 5, b = 3, c = 2. Forward, from left to right:")
    u = b * c
    v = a + u
    J = 3 * v
    say(f"  u = bc    = {u:g}\n  v = a + u = {v:g}\n  J = 3v    = {J:g}")
    say("Backward, from right to left, by the chain rule:")
    dv = 3.0
    da = du = dv * 1
    db, dc = du * c, du * b
    rows: tuple[Row, ...] = (
        ("v", v, dv, "3", lambda v: 3 * v),
        ("a", a, da, "dJ/dv · dv/da = 3 · 1", lambda a: 3 * (a + u)),
        ("u", u, du, "dJ/dv · dv/du = 3 · 1", lambda u: 3 * (a + u)),
        ("b", b, db, "dJ/du · du/db = 3 · c", lambda b: 3 * (a + b * c)),
        ("c", c, dc, "dJ/du · du/dc = 3 · b", lambda c: 3 * (a + b * c)),
    )
    return {"u": u, "v": v, "J": J} | _derivatives(say, "J", rows)


def _logistic(say: Say) -> dict[str, float]:
    x1, x2, w1, w2, b, y = 1.0, 2.0, 0.5, -0.25, 0.1, 1.0

    def loss(a: float) -> float:
        return -(y * math.log(a) + (1 - y) * math.log(1 - a))

    def loss_of(w1: float, w2: float, b: float) -> float:
        return loss(sigmoid(w1 * x1 + w2 * x2 + b))

    say(f"\nLogistic regression of one example: x1 = {x1:g}, x2 = {x2:g}, y = {y:g},")
    say(f"w1 = {w1:g}, w2 = {w2:g}, b = {b:g}. Forward:")
    z = w1 * x1 + w2 * x2 + b
    a = sigmoid(z)
    L = loss(a)
    say(f"  z = w1 x1 + w2 x2 + b             = {z:.6f}")
    say(f"  a = σ(z)                          = {a:.6f}")
    say(f"  L = -(y log a + (1-y) log(1-a))   = {L:.6f}")
    say("Backward:")
    da, dz = -y / a + (1 - y) / (1 - a), a - y
    check("dL/dz = a - y against dL/da · da/dz", dz, da * a * (1 - a))
    rows: tuple[Row, ...] = (
        ("a", a, da, "-y/a + (1-y)/(1-a)", loss),
        ("z", z, dz, "da · a(1-a) = a - y", lambda z: loss(sigmoid(z))),
        ("w1", w1, x1 * dz, "x1 · dz", lambda w1: loss_of(w1, w2, b)),
        ("w2", w2, x2 * dz, "x2 · dz", lambda w2: loss_of(w1, w2, b)),
        ("b", b, dz, "dz", lambda b: loss_of(w1, w2, b)),
    )
    return {"z": z, "a": a, "L": L} | _derivatives(say, "L", rows)


def _derivatives(say: Say, output: str, rows: tuple[Row, ...]) -> dict[str, float]:
    """The derivatives by name, each printed beside the change after a nudge, and checked."""
    derivatives, width = {}, max(len(rule) for *_, rule, _ in rows)
    for name, value, derivative, rule, function in rows:
        up, down = function(value + NUDGE), function(value - NUDGE)
        change = (up - function(value)) / NUDGE
        nudged = f"{name} + {NUDGE:g}: {output} changes by {change:.4g}·{NUDGE:g}"
        what = f"d{output}/d{name}"
        say(f"  {what:6} = {rule:{width}} = {derivative:<6.4g}  {nudged}")
        check(what, derivative, (up - down) / (2 * NUDGE), 1e-5)
        derivatives[what] = derivative
    return derivatives
