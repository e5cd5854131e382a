"""The operations of a dense net besides matrix products and the update: bias and activation;
derivative and bias gradient; output, loss and gradient. Each works in place.

These are the vectorised forms, for NumPy and CuPy; the kernels' forms are tested against the same
reference. Shapes: Z, A, dA, D (n_l, m); b, db (n_l, 1); Y (n_outputs, m).
"""

from accelnn.backend import Array
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
    Z: Array,
    b: Array,
    Y: Array,
    output: str,
    scale: float,
    db: Array,
    cost: Array | None,
    weights: Array | None = None,
) -> None:
    """Z ← dZ = error · w · scale, where the error is A - Y for most losses, with A = g(Z + b) and
    the examples' weights w (m,), if given; db ← Σ dZ; cost ← the loss, if given.

    With scale 1/m, or 1/Σw, each dW and db computed from dZ is a gradient of the cost; with α/m, it
    is a step of gradient descent. dZ is the smallest array that the factor can be applied to.
    """
    kind = OUTPUTS[output]
    Z += b
    if cost is not None:
        cost[...] = kind.loss(Z, Y, weights)
    kind.function(Z, out=Z)
    kind.error(Z, Y)
    Z *= scale if weights is None else scale * weights
    Z.sum(axis=1, keepdims=True, out=db)
