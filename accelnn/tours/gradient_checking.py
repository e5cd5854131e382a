"""Gradient checking, on gradients with and without a mistake."""

from collections.abc import Callable

import numpy as np

from accelnn.backend import Array, to_device
from accelnn.gradient_check import numerical_gradient, relative_difference
from accelnn.network import Network, Parameters

from .checks import Say, drawn

SETTINGS = ((1e-7, "|a|+|b|"), (1e-4, "|a+b|"))  # step and norm, the notes' both ways
RIGHT = 1e-7  # the largest relative difference of a right gradient

# by what is wrong: the factors on the gradients by layer and 0 for dW, 1 for db
MISTAKES: dict[str, dict[tuple[int, int], float]] = {
    "right": {},
    "dW2 doubled": {(1, 0): 2},
    "db1 times 4": {(0, 1): 4},
    "dW2 doubled and db1 times 4": {(1, 0): 2, (0, 1): 4},
}


def gradient_checking(say: Say = print) -> dict[tuple[str, float, str], float]:
    """Gradients with and without a stated mistake, against central differences.

    One-dimensional: J(θ) = θ x at x = 2, θ = 4. n-dimensional: a net of three layers with the
    weights and data of the course's exercise. Returns the relative difference by what was
    checked ("1-D: right", "n-D: dW2 doubled", ...), step and norm. Raises ArithmeticError if the
    check finds a mistake in a right gradient, or none in a wrong one.
    """
    x, theta = 2.0, np.array([4.0])
    say("One-dimensional: J = theta x with x = 2, theta = 4, so that dtheta = x")
    differences = _checked(
        say,
        "1-D",
        {"right": np.array([x]), "dtheta doubled": np.array([2 * x])},
        lambda theta: float(theta[0] * x),
        theta,
    )
    net = Network([4, 5, 3, 1], hidden="relu", output="sigmoid")
    random = np.random.RandomState(1)
    X, Y = to_device(random.randn(4, 3)), to_device(np.array([[1.0, 1.0, 0.0]]))
    params = drawn(net.layers, random)
    say("")
    say(f"n-dimensional: a {list(net.layers)} net, {params.flat.size} parameters")
    gradients = {}
    for mistake, factors in MISTAKES.items():
        wrong = net.gradients(params, X, Y)
        for (layer, which), factor in factors.items():
            wrong[layer][which][...] *= factor
        gradients[mistake] = wrong.flat
    return differences | _checked(
        say,
        "n-D",
        gradients,
        lambda theta: net.cost(Parameters(theta, net.layers), X, Y),
        params.flat,
    )


def _checked(
    say: Say,
    kind: str,
    gradients: dict[str, Array],
    cost: Callable[[Array], float],
    theta: Array,
) -> dict[tuple[str, float, str], float]:
    """The relative difference of each gradient by each setting, printed with its verdict."""
    differences = {}
    for step, norm in SETTINGS:
        numerical = numerical_gradient(cost, theta, step)
        say(f"  step {step:.0e}, |a - b| / ({norm})")
        for mistake, gradient in gradients.items():
            difference = relative_difference(gradient, numerical, norm)
            found = difference >= RIGHT
            say(f"    {mistake:28} {difference:.3e}   {'there is a mistake' if found else 'right'}")
            if found != (mistake != "right"):
                raise ArithmeticError(
                    f"{kind}, {mistake}: the relative difference {difference:.3e}"
                )
            differences[f"{kind}: {mistake}", step, norm] = difference
    return differences
