"""The operations of `operations.py` and the optimizers' updates as loops: one pass over each array.

Each works on the first m columns of its matrices, which are examples. Kinds are those of
`loops.py`; unknown ones raise ValueError. Numbers have the dtype of the arrays: a float64 among
float32 would halve the SIMD lanes.
"""

from math import exp, log, log1p, sqrt
from typing import Any

from ..loops import (
    ABSOLUTE,
    HUBER,
    LINEAR,
    POISSON,
    SIGMOID,
    SOFTMAX,
    activate,
    logistic_loss,
    loss_of_error,
    multiply_by_slope,
    residual,
    sigmoid,
)

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous
Numbers = tuple[float, float, float, float]  # β₁, β₂, α and ε of an optimizer, of the arrays' dtype

# The optimizers that the compiled steps and the GPU's kernels know
SGD, MOMENTUM, HEAVYBALL, NESTEROV, ADAM = range(5)
OPTIMIZERS = {"sgd": SGD, "momentum": MOMENTUM, "heavyball": HEAVYBALL}
OPTIMIZERS |= {"nesterov": NESTEROV, "adam": ADAM}


def bias_activation(Z: Matrix, b: Vector, g: int, D: Matrix, dropout: bool, m: int) -> None:
    """Z ← g(Z + b), and Z ← Z ∘ D with dropout; g is a kind of activation."""
    for i in range(len(Z)):
        z = Z[i, :m]
        activate(z, b[i], g)
        if dropout:
            d = D[i, :m]
            for j in range(len(z)):
                z[j] *= d[j]


def activation_gradient(
    dA: Matrix, A: Matrix, g: int, db: Vector, D: Matrix, keep: float, dropout: bool, m: int
) -> None:
    """dA ← dZ = dA ∘ D ∘ g'(Z), and db ← db + its sums over these examples."""
    for i in range(len(dA)):
        da, a = dA[i, :m], A[i, :m]
        if dropout:
            d = D[i, :m]
            for j in range(len(a)):
                da[j] *= d[j]
        db[i] += multiply_by_slope(da, a, keep, g)


def output_loss(z: Vector, bias: float, y: Vector, w: Vector, kind: int) -> float:
    """The loss of one output, from its logits z + bias; not for the softmax"""
    loss = 0.0
    if kind == SIGMOID:
        for j in range(len(z)):
            loss += w[j] * logistic_loss(z[j] + bias, y[j])
    elif kind == POISSON:
        for j in range(len(z)):
            logit, count = z[j] + bias, y[j]
            loss += w[j] * (exp(logit) - count)
            if count != 0:
                loss += w[j] * count * (log(count) - logit)
    else:
        for j in range(len(z)):
            loss += w[j] * loss_of_error(z[j] + bias - y[j], kind)
    return loss


def output_error(z: Vector, bias: float, y: Vector, w: Vector, kind: int, scale: float) -> float:
    """z ← dz = (g(z + bias) - y) · w · scale of one output, returns Σ dz; not for the softmax"""
    total = type(scale)(0)
    if kind == SIGMOID:
        for j in range(len(z)):
            z[j] = (sigmoid(z[j] + bias) - y[j]) * (scale * w[j])
            total += z[j]
    elif kind in (LINEAR, ABSOLUTE, HUBER, POISSON):
        activate(z, bias, kind)
        for j in range(len(z)):
            z[j] = residual(z[j] - y[j], kind) * (scale * w[j])
            total += z[j]
    else:
        raise ValueError("unknown kind of output")
    return total


def output_gradient(
    Z: Matrix,
    b: Vector,
    Y: Matrix,
    w: Vector,
    kind: int,
    scale: float,
    db: Vector,
    with_loss: bool,
    work: Matrix,
    m: int,
) -> float:
    """Z ← dZ = (g(Z + b) - Y) · w · scale, with weights w of the examples, and db ← db + its sums;
    returns the loss, or 0. For absolute and Huber's losses the difference becomes their residual.

    The softmax goes by rows too, because they are contiguous: the two rows of `work` receive the
    columns' maxima and sums.
    """
    loss, zero, one, w = 0.0, Z.dtype.type(0), Z.dtype.type(1), w[:m]
    if kind != SOFTMAX:
        for i in range(len(Z)):
            z, y = Z[i, :m], Y[i, :m]
            if with_loss:
                loss += output_loss(z, b[i], y, w, kind)
            db[i] += output_error(z, b[i], y, w, kind, scale)
        return loss
    largest, sums = work[0, :m], work[1, :m]
    for i in range(len(Z)):
        z = Z[i, :m]
        for j in range(len(z)):
            z[j] += b[i]
            largest[j] = z[j] if i == 0 else max(largest[j], z[j])
    for i in range(len(Z)):
        z, y = Z[i, :m], Y[i, :m]
        if with_loss:  # -Σ y (z - max - log Σ e^(z - max)), where Σ y = 1
            for j in range(len(z)):
                loss -= w[j] * y[j] * (z[j] - largest[j])
        for j in range(len(z)):
            z[j] = exp(z[j] - largest[j])
            sums[j] = z[j] if i == 0 else sums[j] + z[j]
    if with_loss:  # log1p of the sum without the largest term, because 1 swallows small ones
        others = largest
        others[:] = zero
        for i in range(len(Z)):
            z = Z[i, :m]
            for j in range(len(z)):
                others[j] += z[j] if z[j] < one else zero
        for j in range(len(sums)):
            loss += w[j] * (log1p(others[j]) if sums[j] - others[j] < 1.5 else log(sums[j]))
    for j in range(len(sums)):
        sums[j] = one / sums[j]
    for i in range(len(Z)):
        z, y = Z[i, :m], Y[i, :m]
        total = zero
        for j in range(len(z)):
            z[j] = (z[j] * sums[j] - y[j]) * (scale * w[j])
            total += z[j]
        db[i] += total
    return loss


def optimizer_step(
    optimizer: int, theta: Vector, step: Vector, M: Vector, V: Vector, numbers: Numbers
) -> None:
    """θ and its moments M and V after a step: (1 - β₁) dθ for momentum and Adam, else α dθ."""
    beta1, beta2, rate, epsilon = numbers
    one = theta.dtype.type(1)
    if optimizer == SGD:
        for j in range(len(theta)):
            theta[j] -= step[j]
    elif optimizer == MOMENTUM:  # M ← β M + step, θ ← θ - α M
        for j in range(len(theta)):
            m = beta1 * M[j] + step[j]
            M[j] = m
            theta[j] -= rate * m
    elif optimizer == HEAVYBALL:  # M ← β M + step, θ ← θ - M
        for j in range(len(theta)):
            m = beta1 * M[j] + step[j]
            M[j] = m
            theta[j] -= m
    elif optimizer == NESTEROV:  # M likewise, θ ← θ - (β M + step)
        for j in range(len(theta)):
            m = beta1 * M[j] + step[j]
            M[j] = m
            theta[j] -= beta1 * m + step[j]
    else:  # Adam: M ← β₁ M + step, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M / (√V + ε)
        factor = (one - beta2) / ((one - beta1) * (one - beta1))
        for j in range(len(theta)):
            m = beta1 * M[j] + step[j]
            v = beta2 * V[j] + factor * (step[j] * step[j])
            M[j] = m
            V[j] = v
            theta[j] -= rate * m / (sqrt(v) + epsilon)
