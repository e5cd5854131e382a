"""The four operations that are, beside matrix products, all a dense net does.

Here stands the vectorised form of each, the readable truth on either backend. A faster form for
one backend takes its place through `register`; every registered form is tested against these.
All four work in place. Shapes: Z, A, dA (n_l, m); b, db (n_l, 1); Y (n_outputs, m).
"""

from collections.abc import Callable
from typing import NamedTuple

from accelnn.backend import Array, array_module
from accelnn.functions import ACTIVATIONS, OUTPUTS


def bias_activation(Z: Array, b: Array, activation: str, D: Array | None) -> None:
    """Z ← g(Z + b), then inverted dropout: Z ← Z ∘ D, where D holds 0 and 1 / keep_prob."""
    Z += b
    ACTIVATIONS[activation].function(Z, out=Z)
    if D is not None:
        Z *= D


def activation_gradient(
    dA: Array, A: Array, activation: str, db: Array, D: Array | None, keep_prob: float
) -> None:
    """dA ← dZ = dA ∘ D ∘ g'(Z), and db ← Σ dZ over the examples.

    A is spent: nothing needs it any more, and its memory serves for g'. Where a unit was kept,
    A is g(Z) / keep_prob; where it was dropped, D makes its gradient 0 whatever g' is.
    """
    if D is not None:
        dA *= D
        A *= keep_prob
    dA *= ACTIVATIONS[activation].slope(A, out=A)
    dA.sum(axis=1, keepdims=True, out=db)


def output_gradient(
    Z: Array, b: Array, Y: Array, output: str, scale: float, db: Array, cost: Array | None
) -> None:
    """Z ← dZ = (A - Y) · scale with A = g(Z + b), and db ← Σ dZ; cost ← the loss, if asked for.

    With scale 1/m every dW and db that follows from this dZ is a gradient of the cost; with
    α/m it is a step of gradient descent. Either factor enters here, in the smallest array there
    is, and no larger one ever has to be scaled.
    """
    Z += b
    if cost is not None:
        cost[...] = OUTPUTS[output].loss(Z, Y)
    OUTPUTS[output].function(Z, out=Z)
    Z -= Y
    Z *= scale
    Z.sum(axis=1, keepdims=True, out=db)


def update(parameters: Array, step: Array) -> None:
    """θ ← θ - α dθ on the flat buffers, where step is α dθ."""
    parameters -= step


class Operations(NamedTuple):
    """One form of each operation, as one backend runs them."""

    bias_activation: Callable[..., None] = bias_activation
    activation_gradient: Callable[..., None] = activation_gradient
    output_gradient: Callable[..., None] = output_gradient
    update: Callable[..., None] = update


VECTORISED = Operations()
_chosen = {"numpy": VECTORISED, "cupy": VECTORISED}


def register(backend: str, **forms: Callable[..., None]) -> None:
    """Let `forms`, by name of operation, take the place of the present ones on `backend`."""
    _chosen[backend] = _chosen[backend]._replace(**forms)


def operations_for(*arrays: Array) -> Operations:
    """The form of each operation to use on these arrays."""
    return _chosen[array_module(*arrays).__name__]
