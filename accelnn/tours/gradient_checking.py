"""Gradient checking, on gradients with and without a mistake."""

from collections.abc import Callable

import numpy as np

from accelnn.backend import Array, to_device
from accelnn.network import Network, Parameters
from accelnn.numerical import numerical_gradient, relative_difference

from .checks import Say, drawn

SETTINGS = ((1e-7, "|a|+|b|"), (1e-4, "|a+b|"))  # step and norm: both ways of the notes
RIGHT = 1e-7  # the largest relative difference of a right gradient

# by the mistake's name, factors on (layer, 0 for its dW or 1 for its db)
MISTAKES: dict[str, dict[tuple[int, int], float]] = {
    "right": {},
    "dW2 doubled": {(2, 0): 2},
    "db1 times 4": {(1, 1): 4},
    "dW2 doubled and db1 times 4": {(2, 0): 2, (1, 1): 4},
}


def gradient_checking(say: Say = print) -> dict[tuple[str, float, str], float]:
    """Gradients with and without a stated mistake, against central differences.

    J(θ) = θ x, and the cost of a net on the course's weights and data. Returns the
    relative difference by (gradient, step, norm), such as ("n-D: dW2 doubled", 1e-7, "|a|+|b|").
    """
    x = 2.0
    say("One-dimensional: J = theta x with x = 2, theta = 4, so that dtheta = x")
    gradients = {"right": np.array([x]), "dtheta doubled": np.array([2 * x])}
    one = _checked(say, "1-D", gradients, lambda theta: float(theta[0] * x), np.array([4.0]))

    net = Network([4, 5, 3, 1], hidden="relu", output="sigmoid")
    random = np.random.RandomState(1)
    X, Y = to_device(random.randn(4, 3)), to_device(np.array([[1.0, 1.0, 0.0]]))
    params = drawn(net.layers, random)
    say(f"\nn-dimensional: a {list(net.layers)} net, {params.flat.size} parameters")
    gradients = {}
    for mistake, factors in MISTAKES.items():
        wrong = net.gradients(params, X, Y)
        for (layer, part), factor in factors.items():
            wrong[layer - 1][part][...] *= factor
        gradients[mistake] = wrong.flat

    def cost(theta: Array) -> float:
        return net.cost(Parameters(theta, net.layers), X, Y)

    return one | _checked(say, "n-D", gradients, cost, params.flat)


def _checked(
    say: Say, kind: str, gradients: dict[str, Array], cost: Callable[[Array], float], theta: Array
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
                raise ArithmeticError(f"{kind}, {mistake}: relative difference {difference:.3e}")
            differences[f"{kind}: {mistake}", step, norm] = difference
    return differences
