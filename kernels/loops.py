"""The notes' loops in plain Python. They run over nested lists, over NumPy arrays, and compiled by
Numba (`jit.py`). So results go to arrays given by the caller; the rows of a matrix are looked up
once, outside the inner loop; and `prange` marks iterations that are independent of one another.

The activations of all compiled code are here. A new one needs a kind, a name in HIDDEN_KINDS and a
branch in `activate` and `multiply_by_slope`.

Columns are examples: X is (n, m), Y is (n_outputs, m), W is (n_l, n_{l-1}), b is (n_l, 1).
"""

import math
from math import exp, log, log1p, sqrt, tanh
from typing import Any

import numpy as np

Vector = Any  # a list of numbers or a 1-D array
Matrix = Any  # a list of equally long lists or a 2-D array
Layers = Any  # a list or a tuple with one entry per layer

prange = range  # iterations that are independent; numba.prange in the parallel twins

# The activation of a layer
SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, LINEAR, ABSOLUTE, HUBER, POISSON = range(9)

HIDDEN_KINDS = {"sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "leaky_relu": LEAKY_RELU}
HIDDEN_KINDS |= {"identity": LINEAR}
OUTPUT_KINDS = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "linear": LINEAR}
OUTPUT_KINDS |= {"absolute": ABSOLUTE, "huber": HUBER, "poisson": POISSON}
KINDS = HIDDEN_KINDS | OUTPUT_KINDS

LEAK = 0.01  # slope of the leaky ReLU below zero
SMALLEST = 1e-16  # in logarithms: for a smaller p, 1 - p is 1 in float64


# ------------------------------------------------------------------- vectors and matrices


def dot(a: Vector, b: Vector) -> float:
    """a · b"""
    total = 0.0
    for i in prange(len(a)):
        total += a[i] * b[i]
    return total


def outer(a: Vector, b: Vector, out: Matrix) -> None:
    """out = a bᵀ"""
    for i in prange(len(a)):
        x, row = a[i], out[i]
        for j in range(len(b)):
            row[j] = x * b[j]


def elementwise(a: Vector, b: Vector, out: Vector) -> None:
    """out = a * b, element by element"""
    for i in prange(len(a)):
        out[i] = a[i] * b[i]


def gdot(W: Matrix, x: Vector, out: Vector) -> None:
    """out = W x, the notes' general dot product"""
    for i in prange(len(W)):
        weights, total = W[i], 0.0
        for j in range(len(x)):
            total += weights[j] * x[j]
        out[i] = total


def matmul(A: Matrix, B: Matrix, out: Matrix) -> None:
    """out = A B, by whole rows of B: its columns would be read across memory."""
    for i in prange(len(A)):
        a, row = A[i], out[i]
        for j in range(len(row)):
            row[j] = 0.0
        for k in range(len(a)):
            x, b = a[k], B[k]
            for j in range(len(row)):
                row[j] += x * b[j]


def normalize_rows(x: Matrix, out: Matrix) -> None:
    """out = each row of x divided by its length; rows of zeros stay zero."""
    for i in prange(len(x)):
        row, unit, squares = x[i], out[i], 0.0
        for j in range(len(row)):
            squares += row[j] * row[j]
        length = sqrt(squares)
        for j in range(len(row)):
            unit[j] = row[j] / length if length > 0.0 else 0.0


def softmax(x: Matrix, out: Matrix) -> None:
    """out = softmax of each row of x, as in the notes' exercise; no input overflows."""
    for i in prange(len(x)):
        row, p = x[i], out[i]
        largest, total = -math.inf, 0.0
        for j in range(len(row)):
            largest = max(largest, row[j])
        for j in range(len(row)):
            p[j] = exp(row[j] - largest)
            total += p[j]
        for j in range(len(row)):
            p[j] /= total


def l1(yhat: Vector, y: Vector) -> float:
    """Σ |y - ŷ|"""
    total = 0.0
    for i in prange(len(y)):
        total += abs(y[i] - yhat[i])
    return total


def l2(yhat: Vector, y: Vector) -> float:
    """Σ (y - ŷ)²"""
    total = 0.0
    for i in prange(len(y)):
        error = y[i] - yhat[i]
        total += error * error
    return total


# -------------------------------------------------------------------- logistic regression


def sigmoid(z: float) -> float:
    """1 / (1 + e⁻ᶻ), for negative z as eᶻ / (1 + eᶻ): the exponential never overflows."""
    one, e = type(z)(1), exp(-abs(z))
    return (e if z < 0.0 else one) / (one + e)


def logistic_loss(z: float, y: float) -> float:
    """-y log σ(z) - (1 - y) log(1 - σ(z)) = max(z, 0) - y z + log(1 + e^-|z|), from the logit z:
    finite for every finite z, and 0 if a right one is infinite."""
    zero, one = type(z)(0), type(z)(1)
    weight = one - y if z > 0.0 else y
    return (weight * abs(z) if weight != 0.0 else zero) + log1p(exp(-abs(z)))


def logistic_explicit(w: Vector, b: float, X: Matrix, Y: Vector, dw: Vector) -> tuple[float, float]:
    """Cost and db of logistic regression, its gradient in dw, with all loops explicit."""
    n, m = len(w), len(Y)
    cost, db = 0.0, 0.0
    for j in range(n):
        dw[j] = 0.0
    for i in range(m):
        z = b
        for j in range(n):
            z += w[j] * X[j][i]
        cost += logistic_loss(z, Y[i])
        dz = sigmoid(z) - Y[i]
        for j in range(n):
            dw[j] += X[j][i] * dz
        db += dz
    for j in range(n):
        dw[j] /= m
    return cost / m, db / m


def logistic_vectorised_features(
    w: Vector, b: float, X: Matrix, Y: Vector, dw: Vector
) -> tuple[float, float]:
    """The same with the loops over features as array expressions, for arrays only."""
    m = len(Y)
    cost, db = 0.0, 0.0
    dw[:] = 0.0
    for i in range(m):
        x = X[:, i].copy()  # contiguous: a column lies across memory, so it is read once
        z = np.dot(w, x) + b
        cost += logistic_loss(z, Y[i])
        dz = sigmoid(z) - Y[i]
        dw += x * dz
        db += dz
    dw /= m
    return cost / m, db / m


# --------------------------------------------------------------------------- dense layers


def activate(z: Vector, bias: float, kind: int) -> None:
    """z ← g(z + bias) of one unit; for SOFTMAX, which needs whole columns, z ← z + bias.

    Constants have the type of `bias`: float64 among float32 would halve the SIMD lanes.
    """
    zero, leak = type(bias)(0), type(bias)(LEAK)
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
    elif kind == POISSON:
        for j in range(len(z)):
            z[j] = exp(z[j] + bias)
    elif kind in (SOFTMAX, LINEAR, ABSOLUTE, HUBER):
        for j in range(len(z)):
            z[j] += bias
    else:
        raise ValueError("unknown kind of activation")


def multiply_by_slope(da: Vector, a: Vector, keep_prob: float, kind: int) -> float:
    """da ← dz = da * g'(z) of one hidden unit, with a = g(z) / keep_prob; returns Σ dz."""
    zero, one, leak = type(keep_prob)(0), type(keep_prob)(1), type(keep_prob)(LEAK)
    total = zero
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
    elif kind == LINEAR:
        for j in range(len(a)):
            total += da[j]
    else:
        raise ValueError("unknown kind of hidden activation")
    return total


def output_loss(a: float, y: float, kind: int) -> float:
    """The part of one output a with label y in the loss, from a as in the notes."""
    if kind == SIGMOID:
        return -y * log(max(a, SMALLEST)) - (1.0 - y) * log(max(1.0 - a, SMALLEST))
    if kind == SOFTMAX:
        return -y * log(max(a, SMALLEST))
    if kind == POISSON:
        return (y * log(y / max(a, SMALLEST)) if y > 0.0 else 0.0) - y + a
    if kind in (LINEAR, ABSOLUTE, HUBER):
        return loss_of_error(a - y, kind)
    raise ValueError("unknown kind of output")


def loss_of_error(error: float, kind: int) -> float:
    """The loss of a linear output from a - y"""
    size, one, half = abs(error), type(error)(1), type(error)(0.5)
    if kind == ABSOLUTE:
        return size
    if kind == HUBER and size > one:
        return size - half
    return half * error * error


def residual(error: float, kind: int) -> float:
    """The derivative of the loss by the logit from a - y: itself, for most kinds"""
    zero, one = type(error)(0), type(error)(1)
    if kind == ABSOLUTE:
        return one if error > zero else (-one if error < zero else zero * error)  # NaN stays
    if kind == HUBER:
        return one if error > one else (-one if error < -one else error)
    return error


def softmax_columns(Z: Matrix) -> None:
    """Z becomes the softmax of each of its columns."""
    for j in prange(len(Z[0])):
        largest, total = -math.inf, 0.0
        for i in range(len(Z)):
            largest = max(largest, Z[i][j])
        for i in range(len(Z)):
            Z[i][j] = exp(Z[i][j] - largest)
            total += Z[i][j]
        for i in range(len(Z)):
            Z[i][j] /= total


def layer_forward(W: Matrix, b: Matrix, A_prev: Matrix, kind: int, A: Matrix) -> None:
    """A = g(W A_prev + b), unit by unit"""
    for i in prange(len(W)):
        weights, bias, a = W[i], b[i], A[i]
        for j in range(len(a)):
            a[j] = 0.0
        for k in range(len(weights)):
            weight, x = weights[k], A_prev[k]
            for j in range(len(a)):
                a[j] += weight * x[j]
        activate(a, float(bias[0]), kind)
    if kind == SOFTMAX:
        softmax_columns(A)


def output_error(A: Matrix, Y: Matrix, kind: int, dZ: Matrix) -> None:
    """dZ = (A - Y) / m, or for absolute and Huber's losses the residual of A - Y"""
    for i in prange(len(A)):
        a, y, dz = A[i], Y[i], dZ[i]
        for j in range(len(a)):
            dz[j] = residual(a[j] - y[j], kind) / len(a)


def hidden_error(W: Matrix, dZ: Matrix, A_prev: Matrix, kind: int, dZ_prev: Matrix) -> None:
    """dZ_prev = Wᵀ dZ * g'(Z_prev), unit by unit of the previous layer"""
    for k in prange(len(A_prev)):
        a, dz_prev = A_prev[k], dZ_prev[k]
        for j in range(len(a)):
            dz_prev[j] = 0.0
        for i in range(len(W)):
            weight, dz = W[i][k], dZ[i]
            for j in range(len(a)):
                dz_prev[j] += weight * dz[j]
        multiply_by_slope(dz_prev, a, 1.0, kind)


def layer_gradients(dZ: Matrix, A_prev: Matrix, dW: Matrix, db: Matrix) -> None:
    """dW = dZ A_prevᵀ, input by input (each is read once, for all units); db = Σ dZ"""
    for k in prange(len(A_prev)):
        x = A_prev[k]
        for i in range(len(dZ)):
            dz, total = dZ[i], 0.0
            for j in range(len(dz)):
                total += dz[j] * x[j]
            dW[i][k] = total
    for i in range(len(dZ)):
        dz, total = dZ[i], 0.0
        for j in range(len(dz)):
            total += dz[j]
        db[i][0] = total


def add(theta: Matrix, factor: float, change: Matrix) -> None:
    """theta += factor * change"""
    for i in prange(len(theta)):
        row, other = theta[i], change[i]
        for j in range(len(row)):
            row[j] += factor * other[j]


# ------------------------------------------------------------- a dense network, any depth
#
# W, b, dW, db and kinds have an entry for each layer; A and dA have one more, in front: A[0] is X,
# layer l reads A[l] and writes A[l + 1], and dA[l] receives dZ of the layer that wrote A[l]; dA[0]
# is not used. For Numba they are tuples of matrices of one type: one dtype, C-contiguous, writable.
# `lambd` is the notes' name for λ of L2.


def network_forward(W: Layers, b: Layers, A: Layers, kinds: Layers) -> None:
    """A[1], A[2], ... from A[0]"""
    for layer in range(len(W)):
        layer_forward(W[layer], b[layer], A[layer], kinds[layer], A[layer + 1])


def network_cost(A_out: Matrix, Y: Matrix, output: int) -> float:
    """Mean over the examples of the loss, summed over the outputs."""
    total = 0.0
    for i in prange(len(Y)):
        a, y = A_out[i], Y[i]
        for j in range(len(y)):
            total += output_loss(a[j], y[j], output)
    return total / len(Y[0])


def network_penalty(W: Layers, lambd: float, m: int) -> float:
    """λ/(2m) Σ w², what L2 adds to the cost"""
    squares = 0.0
    for layer in range(len(W)):
        rows = W[layer]
        for i in prange(len(rows)):
            weights = rows[i]
            for k in range(len(weights)):
                squares += weights[k] * weights[k]
    return lambd / (2 * m) * squares


def network_backward(
    W: Layers, A: Layers, Y: Matrix, kinds: Layers, dA: Layers, dW: Layers, db: Layers, lambd: float
) -> None:
    """dW and db of every layer, from the A of `network_forward`; dA is workspace."""
    output_error(A[len(W)], Y, kinds[len(W) - 1], dA[len(W)])
    for layer in range(len(W) - 1, -1, -1):
        layer_gradients(dA[layer + 1], A[layer], dW[layer], db[layer])
        if lambd > 0.0:
            add(dW[layer], lambd / len(Y[0]), W[layer])
        if layer > 0:
            hidden_error(W[layer], dA[layer + 1], A[layer], kinds[layer - 1], dA[layer])


def network_epoch(
    W: Layers,
    b: Layers,
    A: Layers,
    Y: Matrix,
    kinds: Layers,
    dA: Layers,
    dW: Layers,
    db: Layers,
    learning_rate: float,
    lambd: float,
) -> float:
    """One epoch: forward, cost, backward, update; returns the cost before the update."""
    network_forward(W, b, A, kinds)
    cost = network_cost(A[len(W)], Y, kinds[len(W) - 1])
    if lambd > 0.0:
        cost += network_penalty(W, lambd, len(Y[0]))
    network_backward(W, A, Y, kinds, dA, dW, db, lambd)
    for layer in range(len(W)):
        add(W[layer], -learning_rate, dW[layer])
        add(b[layer], -learning_rate, db[layer])
    return cost
