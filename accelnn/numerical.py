"""Gradient checking: the gradient of backward against central differences of the cost."""

from collections.abc import Callable

import numpy as np

from accelnn.backend import Array, as_numbers, to_host
from accelnn.network import Network, Parameters

NORM = "|a|+|b|"
NORMS = (NORM, "|a+b|")


def numerical_gradient(cost: Callable[[Array], float], theta: Array, step: float = 1e-7) -> Array:
    """[J(θ + ε e_i) - J(θ - ε e_i)] / 2ε for each element i of θ (n,), float64 on the host.

    cost : J, a number from an array like `theta`
    step : ε
    """
    gradient = np.empty(theta.size)
    theta = theta.astype(np.float64)  # float32 is too coarse for the steps
    for i in range(theta.size):
        above, below = theta.copy(), theta.copy()
        above[i] += step
        below[i] -= step
        gradient[i] = (float(cost(above)) - float(cost(below))) / (2 * step)
    return gradient


def relative_difference(a: Array, b: Array, norm: str = NORM) -> float:
    """‖a - b‖ / (‖a‖ + ‖b‖), or with norm "|a+b|" ‖a - b‖ / ‖a + b‖; 0 if both are zero."""
    if norm not in NORMS:
        raise ValueError(f"unknown norm {norm!r}: expected one of {list(NORMS)}")
    a, b = (to_host(as_numbers(array)).astype(np.float64) for array in (a, b))
    if a.shape != b.shape:
        raise ValueError(f"expected two arrays of one shape, got {a.shape} and {b.shape}")
    largest = np.max(np.abs([a, b]), initial=0) or 1.0  # whose square may overflow or be 0
    with np.errstate(invalid="ignore"):  # infinities give NaN
        a, b, length = a / largest, b / largest, np.linalg.norm
    scale = length(a) + length(b) if norm == NORM else length(a + b)
    if scale == 0:
        return float("inf") if length(a - b) else 0.0
    return float(length(a - b) / scale)


def gradient_check(
    net: Network, params: Parameters, X: Array, Y: Array, *, step: float = 1e-7, norm: str = NORM
) -> float:
    """The relative difference of `net.gradients` from numerical gradients: below 1e-7 if right.

    net, params, X, Y : as in `fit`; dropout is off, and the parameters are float64, because
        rounding to float32 would hide the differences
    step, norm : the notes use 1e-7 with "|a|+|b|", and 1e-4 with "|a+b|"
    """
    net.check_params(params)
    if params.dtype != np.float64:
        hint = "init(..., dtype='float64')"
        raise ValueError(f"expected float64 parameters, got {params.dtype}: {hint}")

    def cost(theta: Array) -> float:
        return net.cost(Parameters(theta, net.layers), X, Y)

    numerical = numerical_gradient(cost, params.flat, step)
    return relative_difference(net.gradients(params, X, Y).flat, numerical, norm)
