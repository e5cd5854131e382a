"""The notes' loops in plain Python, written once.

The same functions run over nested lists, over NumPy arrays, and compiled by Numba (`jit.py`).
Hence three habits: results go to arrays given by the caller; the rows of a matrix are looked up
once, outside the inner loop; `prange` marks iterations that are independent of one another.

Columns are examples: X is (n, m), Y is (n_outputs, m), W is (n_l, n_{l-1}), b is (n_l, 1).
"""

import math
from typing import Any

import numpy as np

Vector = Any  # a list of numbers or a 1-D array
Matrix = Any  # a list of equally long lists or a 2-D array
Layers = Any  # a list or a tuple with one entry per layer

prange = range  # iterations that are independent; numba.prange in the parallel twins

# What a layer applies to W·A + b.
SIGMOID, TANH, RELU, LEAKY_RELU, SOFTMAX, LINEAR = range(6)

HIDDEN_KINDS = {"sigmoid": SIGMOID, "tanh": TANH, "relu": RELU, "leaky_relu": LEAKY_RELU}
OUTPUT_KINDS = {"sigmoid": SIGMOID, "softmax": SOFTMAX, "linear": LINEAR}
KINDS = HIDDEN_KINDS | OUTPUT_KINDS

# The optimizers that the compiled steps and the GPU's kernels know
SGD, MOMENTUM, ADAM = range(3)
OPTIMIZERS = {"sgd": SGD, "momentum": MOMENTUM, "adam": ADAM}

LEAK = 0.01  # slope of the leaky ReLU below zero
SMALLEST = 1e-16  # for logarithms: below it, float64 cannot tell 1 - p from 1


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
        length = math.sqrt(squares)
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
            p[j] = math.exp(row[j] - largest)
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
    """1 / (1 + e⁻ᶻ) of one number, written so that the exponential never overflows."""
    if z >= 0.0:
        return 1.0 / (1.0 + math.exp(-z))
    e = math.exp(z)
    return e / (1.0 + e)


def logistic_loss(z: float, y: float) -> float:
    """-y log σ(z) - (1 - y) log(1 - σ(z)), from the logit z: finite for every finite z."""
    return max(z, 0.0) - y * z + math.log1p(math.exp(-abs(z)))


def logistic_explicit(w: Vector, b: float, X: Matrix, Y: Vector, dw: Vector) -> tuple[float, float]:
    """Cost and db of logistic regression, its gradient in dw: every loop explicit."""
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
    """The same with the loops over features as array expressions: arrays only, no lists."""
    m = len(Y)
    cost, db = 0.0, 0.0
    dw[:] = 0.0
    for i in range(m):
        x = X[:, i].copy()  # contiguous: a column is read across memory, so read it once
        z = np.dot(w, x) + b
        cost += logistic_loss(z, Y[i])
        dz = sigmoid(z) - Y[i]
        dw += x * dz
        db += dz
    dw /= m
    return cost / m, db / m


# --------------------------------------------------------------------------- dense layers


def activate(z: float, kind: int) -> float:
    """g(z) of one number; SOFTMAX needs its whole column and is left to `softmax_columns`."""
    if kind == SIGMOID:
        return sigmoid(z)
    if kind == TANH:
        return math.tanh(z)
    if kind == RELU:
        return 0.0 if z < 0.0 else z
    if kind == LEAKY_RELU:
        return LEAK * z if z < 0.0 else z
    if kind in (LINEAR, SOFTMAX):
        return z
    raise ValueError("unknown kind of activation")


def activation_derivative(a: float, kind: int) -> float:
    """g'(z) of one number, from a = g(z)."""
    if kind == SIGMOID:
        return a * (1.0 - a)
    if kind == TANH:
        return 1.0 - a * a
    if kind == RELU:
        return 1.0 if a > 0.0 else 0.0
    if kind == LEAKY_RELU:
        return 1.0 if a > 0.0 else LEAK
    if kind == LINEAR:
        return 1.0
    raise ValueError("unknown kind of activation")


def output_loss(a: float, y: float, kind: int) -> float:
    """What one output a, where y was wanted, adds to the loss of its example."""
    if kind == SIGMOID:
        return -y * math.log(max(a, SMALLEST)) - (1.0 - y) * math.log(max(1.0 - a, SMALLEST))
    if kind == SOFTMAX:
        return -y * math.log(max(a, SMALLEST))
    if kind == LINEAR:
        return 0.5 * (a - y) * (a - y)
    raise ValueError("unknown kind of output")


def softmax_columns(Z: Matrix) -> None:
    """Z becomes the softmax of each of its columns, which are the examples."""
    for j in prange(len(Z[0])):
        largest, total = -math.inf, 0.0
        for i in range(len(Z)):
            largest = max(largest, Z[i][j])
        for i in range(len(Z)):
            Z[i][j] = math.exp(Z[i][j] - largest)
            total += Z[i][j]
        for i in range(len(Z)):
            Z[i][j] /= total


def layer_forward(W: Matrix, b: Matrix, A_prev: Matrix, kind: int, A: Matrix) -> None:
    """A = g(W A_prev + b), unit by unit"""
    for i in prange(len(W)):
        weights, bias, a = W[i], b[i], A[i]
        for j in range(len(a)):
            a[j] = bias[0]
        for k in range(len(weights)):
            weight, x = weights[k], A_prev[k]
            for j in range(len(a)):
                a[j] += weight * x[j]
        for j in range(len(a)):
            a[j] = activate(a[j], kind)
    if kind == SOFTMAX:
        softmax_columns(A)


def output_error(A: Matrix, Y: Matrix, dZ: Matrix) -> None:
    """dZ = (A - Y) / m, for sigmoid, softmax and linear outputs alike, each with its cost"""
    for i in prange(len(A)):
        a, y, dz = A[i], Y[i], dZ[i]
        for j in range(len(a)):
            dz[j] = (a[j] - y[j]) / len(a)


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
        for j in range(len(a)):
            dz_prev[j] *= activation_derivative(a[j], kind)


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


def penalise(W: Matrix, factor: float, dW: Matrix) -> None:
    """dW += factor * W, what L2 adds to the gradient"""
    for i in prange(len(W)):
        weights, slope = W[i], dW[i]
        for k in range(len(weights)):
            slope[k] += factor * weights[k]


def squares(W: Matrix) -> float:
    """Σ w²"""
    total = 0.0
    for i in prange(len(W)):
        weights = W[i]
        for k in range(len(weights)):
            total += weights[k] * weights[k]
    return total


def descend(theta: Matrix, gradient: Matrix, learning_rate: float) -> None:
    """theta -= learning_rate * gradient"""
    for i in prange(len(theta)):
        row, slope = theta[i], gradient[i]
        for j in range(len(row)):
            row[j] -= learning_rate * slope[j]


# ------------------------------------------------------------- a dense network, any depth
#
# W, b, dW, db and kinds have an entry for each layer; A and dA one more, in front: A[0] is X
# and layer l reads A[l] and writes A[l + 1]. dA[l] receives dZ of the layer that wrote A[l];
# dA[0] is never touched. For Numba they are tuples whose matrices are of one type: one dtype,
# C-contiguous, all writable. `lambd` is the notes' name for λ of L2.


def network_forward(W: Layers, b: Layers, A: Layers, kinds: Layers) -> None:
    """A[1], A[2], ... from A[0]"""
    for layer in range(len(W)):
        layer_forward(W[layer], b[layer], A[layer], kinds[layer], A[layer + 1])


def network_cost(A_out: Matrix, Y: Matrix, output: int) -> float:
    """Mean over the examples of the cross-entropy (SIGMOID: summed over the outputs; SOFTMAX:
    categorical) or of half the squared error (LINEAR)."""
    total = 0.0
    for i in prange(len(Y)):
        a, y = A_out[i], Y[i]
        for j in range(len(y)):
            total += output_loss(a[j], y[j], output)
    return total / len(Y[0])


def network_penalty(W: Layers, lambd: float, m: int) -> float:
    """λ/(2m) Σ w², what L2 adds to the cost"""
    total = 0.0
    for layer in range(len(W)):
        total += squares(W[layer])
    return lambd / (2 * m) * total


def network_backward(
    W: Layers, A: Layers, Y: Matrix, kinds: Layers, dA: Layers, dW: Layers, db: Layers, lambd: float
) -> None:
    """dW and db of every layer, from the A that `network_forward` left; dA is work space."""
    output_error(A[len(W)], Y, dA[len(W)])
    for layer in range(len(W) - 1, -1, -1):
        layer_gradients(dA[layer + 1], A[layer], dW[layer], db[layer])
        if lambd > 0.0:
            penalise(W[layer], lambd / len(Y[0]), dW[layer])
        if layer > 0:
            hidden_error(W[layer], dA[layer + 1], A[layer], kinds[layer - 1], dA[layer])


def network_update(W: Layers, b: Layers, dW: Layers, db: Layers, learning_rate: float) -> None:
    """One step of gradient descent, in place."""
    for layer in range(len(W)):
        descend(W[layer], dW[layer], learning_rate)
        descend(b[layer], db[layer], learning_rate)


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
    """One epoch: forward, cost, backward, update. Returns the cost before the update."""
    network_forward(W, b, A, kinds)
    cost = network_cost(A[len(W)], Y, kinds[len(W) - 1])
    if lambd > 0.0:
        cost += network_penalty(W, lambd, len(Y[0]))
    network_backward(W, A, Y, kinds, dA, dW, db, lambd)
    network_update(W, b, dW, db, learning_rate)
    return cost
