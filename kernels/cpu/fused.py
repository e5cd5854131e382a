"""The four operations of `operations.py` as loops: one pass over each array, whatever is done.

Each works on the block of rows first ... last-1 and columns start ... stop-1 of its matrices, so
that threads can share a matrix. Matrices are C-contiguous, columns are examples. Kinds are those
of `loops.py`; a function raises ValueError for one that it does not compute.

Numbers come in the arrays' dtype, and constants are converted to it: a float64 among float32
makes the loop compute in float64, with half as many SIMD lanes.
"""

from math import sqrt
from typing import Any

from ..loops import LEAK, LEAKY_RELU, LINEAR, RELU, SIGMOID, SOFTMAX, TANH
from .elementary import exp, log, log1p, sigmoid, tanh

Vector = Any  # 1-D and contiguous
Matrix = Any  # 2-D and C-contiguous

# ------------------------------------------------------------------------ bias and activation


def activate(z: Vector, bias: float, kind: int) -> None:
    """z ← g(z + bias)"""
    zero, leak = z.dtype.type(0), z.dtype.type(LEAK)
    if kind == SIGMOID:
        for j in range(len(z)):
            z[j] = sigmoid(z[j] + bias)
    elif kind == TANH:
        for j in range(len(z)):
            z[j] = tanh(z[j] + bias)
    elif kind == RELU:
        for j in range(len(z)):
            x = z[j] + bias
            z[j] = zero if x < zero else x  # NaN stays
    elif kind == LEAKY_RELU:
        for j in range(len(z)):
            x = z[j] + bias
            z[j] = leak * x if x < zero else x
    else:
        raise ValueError("unknown kind of hidden activation")


def bias_activation(
    Z: Matrix,
    b: Vector,
    kind: int,
    D: Matrix,
    dropout: bool,
    first: int,
    last: int,
    start: int,
    stop: int,
) -> None:
    """Z ← g(Z + b), and Z ← Z ∘ D with dropout."""
    for i in range(first, last):
        z = Z[i, start:stop]
        activate(z, b[i], kind)
        if dropout:
            d = D[i, start:stop]
            for j in range(len(z)):
                z[j] *= d[j]


# ------------------------------------------------------------------- derivative and its sum


def multiply_by_slope(da: Vector, a: Vector, keep_prob: float, kind: int) -> float:
    """da ← da ∘ g'(z), from a = g(z) / keep_prob; Σ da"""
    zero, one, leak = a.dtype.type(0), a.dtype.type(1), a.dtype.type(LEAK)
    total: float = zero
    if kind == SIGMOID:
        for j in range(len(a)):
            x = keep_prob * a[j]
            da[j] *= x * (one - x)
            total += da[j]
    elif kind == TANH:
        for j in range(len(a)):
            x = keep_prob * a[j]
            da[j] *= one - x * x
            total += da[j]
    elif kind == RELU:
        for j in range(len(a)):
            da[j] = da[j] if a[j] > zero else zero * da[j]
            total += da[j]
    elif kind == LEAKY_RELU:
        for j in range(len(a)):
            da[j] = da[j] if a[j] > zero else leak * da[j]
            total += da[j]
    else:
        raise ValueError("unknown kind of hidden activation")
    return total


def activation_gradient(
    dA: Matrix,
    A: Matrix,
    kind: int,
    db: Matrix,
    column: int,
    D: Matrix,
    keep_prob: float,
    dropout: bool,
    first: int,
    last: int,
    start: int,
    stop: int,
) -> None:
    """dA ← dZ = dA ∘ D ∘ g'(Z), and its sum over these examples into a column of db.

    A stays as it is. Where a unit was dropped D makes its gradient 0, whatever g' is.
    """
    for i in range(first, last):
        da, a = dA[i, start:stop], A[i, start:stop]
        if dropout:
            d = D[i, start:stop]
            for j in range(len(a)):
                da[j] *= d[j]
        db[i, column] = multiply_by_slope(da, a, keep_prob, kind)


# ----------------------------------------------------------------- output, loss and gradient


def sigmoid_loss(z: Vector, bias: float, y: Vector) -> float:
    """Σ -y log σ(z + bias) - (1 - y) log(1 - σ(z + bias)), from the logits"""
    loss = 0.0
    for j in range(len(z)):
        x = z[j] + bias
        loss += max(x, 0.0) - x * y[j] + log1p(exp(-abs(x)))
    return loss


def sigmoid_gradient(z: Vector, bias: float, y: Vector, scale: float) -> float:
    """z ← (σ(z + bias) - y) · scale; Σ z"""
    total: float = z.dtype.type(0)
    for j in range(len(z)):
        z[j] = (sigmoid(z[j] + bias) - y[j]) * scale
        total += z[j]
    return total


def linear_loss(z: Vector, bias: float, y: Vector) -> float:
    """Σ (z + bias - y)² / 2"""
    loss = 0.0
    for j in range(len(z)):
        error = z[j] + bias - y[j]
        loss += 0.5 * error * error
    return loss


def linear_gradient(z: Vector, bias: float, y: Vector, scale: float) -> float:
    """z ← (z + bias - y) · scale; Σ z"""
    total: float = z.dtype.type(0)
    for j in range(len(z)):
        z[j] = (z[j] + bias - y[j]) * scale
        total += z[j]
    return total


def softmax_output(
    Z: Matrix,
    b: Vector,
    Y: Matrix,
    scale: float,
    db: Matrix,
    column: int,
    wanted: bool,
    work: Matrix,
    start: int,
    stop: int,
) -> float:
    """`output_gradient` of the softmax and its cross-entropy.

    By rows, which are contiguous, with the columns' maxima and sums in the two rows of `work`.
    """
    loss, one = 0.0, Z.dtype.type(1)
    largest, sums = work[0, start:stop], work[1, start:stop]
    for i in range(len(Z)):
        z = Z[i, start:stop]
        for j in range(len(z)):
            z[j] += b[i]
            largest[j] = z[j] if i == 0 else max(largest[j], z[j])
    if wanted:  # -Σ y (z - max - log Σ e^(z - max)), where Σ y = 1
        for i in range(len(Z)):
            z, y = Z[i, start:stop], Y[i, start:stop]
            for j in range(len(z)):
                loss -= y[j] * (z[j] - largest[j])
    for i in range(len(Z)):
        z = Z[i, start:stop]
        for j in range(len(z)):
            z[j] = exp(z[j] - largest[j])
            sums[j] = z[j] if i == 0 else sums[j] + z[j]
    if wanted:
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
        db[i, column] = total
    return loss


def output_gradient(
    Z: Matrix,
    b: Vector,
    Y: Matrix,
    kind: int,
    scale: float,
    db: Matrix,
    column: int,
    wanted: bool,
    work: Matrix,
    start: int,
    stop: int,
) -> float:
    """Z ← dZ = (g(Z + b) - Y) · scale, its sum into a column of db; the loss, if wanted."""
    if kind == SOFTMAX:
        return softmax_output(Z, b, Y, scale, db, column, wanted, work, start, stop)
    loss = 0.0
    for i in range(len(Z)):
        z, y = Z[i, start:stop], Y[i, start:stop]
        if kind == SIGMOID:
            loss += sigmoid_loss(z, b[i], y) if wanted else 0.0
            db[i, column] = sigmoid_gradient(z, b[i], y, scale)
        elif kind == LINEAR:
            loss += linear_loss(z, b[i], y) if wanted else 0.0
            db[i, column] = linear_gradient(z, b[i], y, scale)
        else:
            raise ValueError("unknown kind of output")
    return loss


# ------------------------------------------------------------------------------------ update


def momentum_update(theta: Vector, step: Vector, V: Vector, beta: float, rate: float) -> None:
    """V ← β V + step, θ ← θ - α V"""
    for j in range(len(theta)):
        v = beta * V[j] + step[j]
        V[j] = v
        theta[j] -= rate * v


def adam_update(
    theta: Vector,
    step: Vector,
    M: Vector,
    V: Vector,
    beta1: float,
    beta2: float,
    rate: float,
    epsilon: float,
) -> None:
    """M ← β₁ M + step, V ← β₂ V + (1 - β₂) dθ², θ ← θ - α M / (√V + ε); step is (1 - β₁) dθ."""
    one = theta.dtype.type(1)
    factor = (one - beta2) / ((one - beta1) * (one - beta1))
    for j in range(len(theta)):
        m = beta1 * M[j] + step[j]
        v = beta2 * V[j] + factor * (step[j] * step[j])
        M[j] = m
        V[j] = v
        theta[j] -= rate * m / (sqrt(v) + epsilon)
