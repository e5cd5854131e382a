"""The four operations of a dense net besides matrix products: bias and activation; derivative and
bias gradient; output, loss and gradient; update. Each works in place.

These are the vectorised forms, for NumPy and CuPy; the kernels' forms are tested against the same
reference. Shapes: Z, A, dA, D (n_l, m); b, db (n_l, 1); Y (n_outputs, m).
"""

import math
from collections.abc import Callable
from typing import NamedTuple

from accelnn.backend import Array, array_module
from accelnn.functions import ACTIVATIONS, OUTPUTS


def bias_activation(Z: Array, b: Array, activation: str, D: Array | None) -> None:
    """Z ← g(Z + b), then inverted dropout: Z ← Z ∘ D, with 0 or 1 / keep_prob in D."""
    Z += b
    ACTIVATIONS[activation].function(Z, out=Z)
    if D is not None:
        Z *= D


def activation_gradient(
    dA: Array, A: Array, activation: str, db: Array, D: Array | None, keep_prob: float
) -> None:
    """dA ← dZ = dA ∘ D ∘ g'(Z), and db ← Σ dZ over the examples.

    A is overwritten. It is g(Z) / keep_prob if a unit was kept; if it was dropped, D makes its
    gradient 0 whatever g' is.
    """
    if D is not None:
        dA *= D
        A *= keep_prob
    dA *= ACTIVATIONS[activation].slope(A, out=A)
    dA.sum(axis=1, keepdims=True, out=db)


def output_gradient(
    Z: Array, b: Array, Y: Array, output: str, scale: float, db: Array, cost: Array | None
) -> None:
    """Z ← dZ = (A - Y) · scale with A = g(Z + b), and db ← Σ dZ; cost ← the loss, if given.

    With scale 1/m, each dW and db computed from dZ is a gradient of the cost; with α/m, it is a
    step of gradient descent. dZ is the smallest array that the factor can be applied to.
    """
    Z += b
    if cost is not None:
        cost[...] = OUTPUTS[output].loss(Z, Y)
    OUTPUTS[output].function(Z, out=Z)
    Z -= Y
    Z *= scale
    Z.sum(axis=1, keepdims=True, out=db)


def update(parameters: Array, step: Array) -> None:
    """θ ← θ - step, with step = α dθ."""
    parameters -= step


def momentum_update(theta: Array, step: Array, V: Array, beta: float, rate: float) -> None:
    """V ← β V + step, θ ← θ - α V, with step = (1 - β) dθ, which is overwritten."""
    xp = array_module(theta)
    V *= beta
    V += step
    xp.multiply(V, rate, out=step)
    theta -= step


def adam_update(
    theta: Array,
    step: Array,
    M: Array,
    V: Array,
    beta1: float,
    beta2: float,
    rate: float,
    epsilon: float,
) -> None:
    """M ← β₁ M + step, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M / (√V + ε).

    step = (1 - β₁) dθ is overwritten; α and ε are corrected for bias.
    """
    xp = array_module(theta)
    M *= beta1
    M += step
    V *= beta2
    step *= math.sqrt(1 - beta2) / (1 - beta1)
    xp.square(step, out=step)
    V += step
    xp.sqrt(V, out=step)
    step += epsilon
    xp.divide(M, step, out=step)
    step *= rate
    theta -= step


class Operations(NamedTuple):
    """The form of each operation that one backend runs."""

    bias_activation: Callable[..., None] = bias_activation
    activation_gradient: Callable[..., None] = activation_gradient
    output_gradient: Callable[..., None] = output_gradient
    update: Callable[..., None] = update
    momentum_update: Callable[..., None] = momentum_update
    adam_update: Callable[..., None] = adam_update


VECTORISED = Operations()
_chosen = {"numpy": VECTORISED, "cupy": VECTORISED}


def register(backend: str, **forms: Callable[..., None]) -> None:
    """Replace operations, by name, on "numpy" or "cupy"."""
    _chosen[backend] = _chosen[backend]._replace(**forms)


def operations_for(*arrays: Array) -> Operations:
    """The operations to use on these arrays."""
    return _chosen[array_module(*arrays).__name__]
