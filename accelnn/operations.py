"""The four operations that are, beside matrix products, all a dense net does.

Here stands the vectorised form of each, the readable truth on either backend. A faster form for
one backend takes its place through `register`; every registered form is tested against these.
All four work in place. Shapes: Z, A, dA (n_l, m); b, db (n_l, 1); Y (n_outputs, m).
"""

import functools
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from accelnn.backend import Array, array_module
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.optimizers import adam_update, momentum_update, update


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


class Operations(NamedTuple):
    """One form of each operation, as one backend runs them; of the update one an optimizer."""

    bias_activation: Callable[..., None] = bias_activation
    activation_gradient: Callable[..., None] = activation_gradient
    output_gradient: Callable[..., None] = output_gradient
    update: Callable[..., None] = update
    momentum_update: Callable[..., None] = momentum_update
    adam_update: Callable[..., None] = adam_update


VECTORISED = Operations()
_chosen = {"numpy": VECTORISED, "cupy": VECTORISED}


def register(backend: str, **forms: Callable[..., None]) -> None:
    """Let `forms`, by name of operation, take the place of the present ones on `backend`."""
    _chosen[backend] = _chosen[backend]._replace(**forms)


def operations_for(*arrays: Array) -> Operations:
    """The form of each operation to use on these arrays."""
    xp = array_module(*arrays)
    if xp is not np:
        fused_on_gpu(xp)
    return _chosen[xp.__name__]


# --------------------------------------------------------------------------------------------
# on a GPU: one launch each


@functools.cache
def fused_on_gpu(cupy: Any) -> bool:
    """Whether `kernels/gpu/cuda.py` serves CuPy's arrays; the first call registers its forms.

    If they do not compile, because NVRTC is missing for instance, a warning says why and the
    vectorised forms stay. So do forms that were registered before.
    """
    if not hasattr(cupy, "RawModule"):
        return False
    from accelnn.kernels.gpu import cuda

    try:
        cuda.compile_operations()
    except Exception as error:  # CuPy's, the compiler's, the driver's
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(
            f"the GPU's fused operations do not compile, and the vectorised ones run ({reason})",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    present = _chosen["cupy"]._asdict()
    forms = cuda.operations()._asdict().items()
    register(
        "cupy", **{name: form for name, form in forms if present[name] is getattr(VECTORISED, name)}
    )
    return True
