"""The operations of `operations.py` as loops: one pass over each array.

Each works on an area of its matrices, or on columns start ... stop-1, so that threads can share a
matrix. Columns are examples. Kinds are those of `loops.py`; unknown ones raise ValueError. Numbers
have the dtype of the arrays: a float64 among float32 would halve the SIMD lanes.
"""

from math import exp, log, sqrt
from typing import Any

from ..loops import LINEAR, SIGMOID, SOFTMAX, activate, logistic_loss, multiply_by_slope, sigmoid

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous
Area = tuple[int, int, int, int]  # first, last row; start, stop column


def bias_activation(Z: Matrix, b: Vector, kind: int, D: Matrix, dropout: bool, area: Area) -> None:
    """Z ← g(Z + b), and Z ← Z ∘ D with dropout."""
    first, last, start, stop = area
    for i in range(first, last):
        z = Z[i, start:stop]
        activate(z, b[i], kind)
        if dropout:
            d = D[i, start:stop]
            for j in range(len(z)):
                z[j] *= d[j]


def activation_gradient(
    dA: Matrix,
    A: Matrix,
    kind: int,
    db: Vector,
    D: Matrix,
    keep_prob: float,
    dropout: bool,
    area: Area,
) -> None:
    """dA ← dZ = dA ∘ D ∘ g'(Z), and db ← its sums over these examples."""
    first, last, start, stop = area
    for i in range(first, last):
        da, a = dA[i, start:stop], A[i, start:stop]
        if dropout:
            d = D[i, start:stop]
            for j in range(len(a)):
                da[j] *= d[j]
        db[i] = multiply_by_slope(da, a, keep_prob, kind)


def output_loss(z: Vector, bias: float, y: Vector, kind: int) -> float:
    """The loss of one output, from its logits z + bias; not for the softmax"""
    loss = 0.0
    if kind == SIGMOID:
        for j in range(len(z)):
            loss += logistic_loss(z[j] + bias, y[j])
    elif kind == LINEAR:
        for j in range(len(z)):
            error = z[j] + bias - y[j]
            loss += 0.5 * error * error
    return loss


def output_error(z: Vector, bias: float, y: Vector, kind: int, scale: float) -> float:
    """z ← dz = (g(z + bias) - y) · scale of one output, returns Σ dz; not for the softmax"""
    total = type(scale)(0)
    if kind == SIGMOID:
        for j in range(len(z)):
            z[j] = (sigmoid(z[j] + bias) - y[j]) * scale
            total += z[j]
    elif kind == LINEAR:
        for j in range(len(z)):
            z[j] = (z[j] + bias - y[j]) * scale
            total += z[j]
    else:
        raise ValueError("unknown kind of output")
    return total


def softmax_output(
    Z: Matrix,
    b: Vector,
    Y: Matrix,
    scale: float,
    db: Vector,
    with_loss: bool,
    work: Matrix,
    start: int,
    stop: int,
) -> float:
    """`output_gradient` of the softmax, by rows: they are contiguous. The two rows of `work`
    receive the columns' maxima and sums."""
    loss, one = 0.0, Z.dtype.type(1)
    largest, sums = work[0, start:stop], work[1, start:stop]
    for i in range(len(Z)):
        z = Z[i, start:stop]
        for j in range(len(z)):
            z[j] += b[i]
            largest[j] = z[j] if i == 0 else max(largest[j], z[j])
    if with_loss:  # -Σ y (z - max - log Σ e^(z - max)), where Σ y = 1
        for i in range(len(Z)):
            z, y = Z[i, start:stop], Y[i, start:stop]
            for j in range(len(z)):
                loss -= y[j] * (z[j] - largest[j])
    for i in range(len(Z)):
        z = Z[i, start:stop]
        for j in range(len(z)):
            z[j] = exp(z[j] - largest[j])
            sums[j] = z[j] if i == 0 else sums[j] + z[j]
    if with_loss:
        for j in range(len(sums)):
            loss += log(sums[j])
    for j in range(len(sums)):
        sums[j] = one / sums[j]
    for i in range(len(Z)):
        z, y = Z[i, start:stop], Y[i, start:stop]
        total = Z.dtype.type(0)
        for j in range(len(z)):
            z[j] = (z[j] * sums[j] - y[j]) * scale
            total += z[j]
        db[i] = total
    return loss


def output_gradient(
    Z: Matrix,
    b: Vector,
    Y: Matrix,
    kind: int,
    scale: float,
    db: Vector,
    with_loss: bool,
    work: Matrix,
    start: int,
    stop: int,
) -> float:
    """Z ← dZ = (g(Z + b) - Y) · scale and db ← its sums; returns the loss, or 0."""
    if kind == SOFTMAX:
        return softmax_output(Z, b, Y, scale, db, with_loss, work, start, stop)
    loss = 0.0
    for i in range(len(Z)):
        z, y = Z[i, start:stop], Y[i, start:stop]
        if with_loss:
            loss += output_loss(z, b[i], y, kind)
        db[i] = output_error(z, b[i], y, kind, scale)
    return loss


def momentum_update(theta: Vector, step: Vector, V: Vector, beta: float, rate: float) -> None:
    """V ← β V + step, θ ← θ - α V"""
    for j in range(len(theta)):
        v = beta * V[j] + step[j]
        V[j] = v
        theta[j] -= rate * v


def adam_update(
    theta: Vector, step: Vector, M: Vector, V: Vector, numbers: tuple[float, float, float, float]
) -> None:
    """M ← β₁ M + step, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M / (√V + ε).

    step is (1 - β₁) dθ; the numbers are β₁, β₂, α and ε.
    """
    beta1, beta2, rate, epsilon = numbers
    one = theta.dtype.type(1)
    factor = (one - beta2) / ((one - beta1) * (one - beta1))
    for j in range(len(theta)):
        m = beta1 * M[j] + step[j]
        v = beta2 * V[j] + factor * (step[j] * step[j])
        M[j] = m
        V[j] = v
        theta[j] -= rate * m / (sqrt(v) + epsilon)
