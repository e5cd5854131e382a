"""The notes' own NumPy, for comparison: parameters and caches in dictionaries, a new array for each
result, the cost in every epoch, and the gradient of the input, which is never used."""

from collections.abc import Callable
from typing import Any

import numpy as np

from accelnn.backend import Array

Cache = tuple[Array, Array, Array, Array]  # A_prev, W, b, Z of one layer


def sigmoid(Z: Array) -> Array:
    return 1 / (1 + np.exp(-Z))


def _sigmoid_backward(dA: Array, Z: Array) -> Array:
    s = sigmoid(Z)
    return dA * s * (1 - s)


def _relu_backward(dA: Array, Z: Array) -> Array:
    dZ = np.array(dA, copy=True)
    dZ[Z <= 0] = 0
    return dZ


FORWARD: dict[str, Callable[[Array], Array]] = {
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": lambda Z: np.maximum(0, Z),
}
BACKWARD: dict[str, Callable[[Array, Array], Array]] = {
    "sigmoid": _sigmoid_backward,
    "tanh": lambda dA, Z: dA * (1 - np.power(np.tanh(Z), 2)),
    "relu": _relu_backward,
}


def model_forward(
    X: Array, parameters: dict[str, Array], activations: list[str]
) -> tuple[Array, list[Cache]]:
    """The activations of the last layer, and the caches for the backward pass."""
    A, caches = X, []
    for l, activation in enumerate(activations, 1):
        A_prev, W, b = A, parameters[f"W{l}"], parameters[f"b{l}"]
        Z = np.dot(W, A_prev) + b
        A = FORWARD[activation](Z)
        caches.append((A_prev, W, b, Z))
    return A, caches


def compute_cost(AL: Array, Y: Array, parameters: dict[str, Array], lambd: float) -> float:
    """Cross-entropy from probabilities, with the notes' L2 term."""
    m = Y.shape[1]
    cost = -1 / m * np.sum(Y * np.log(AL) + (1 - Y) * np.log(1 - AL))
    if lambd:
        squares = [np.sum(np.square(W)) for name, W in parameters.items() if name[0] == "W"]
        cost = cost + lambd / (2 * m) * sum(squares)
    return float(np.squeeze(cost))


def model_backward(
    AL: Array, Y: Array, caches: list[Cache], activations: list[str], lambd: float
) -> dict[str, Array]:
    """dA, dW and db of every layer."""
    grads: dict[str, Array] = {}
    m = Y.shape[1]
    dA = -(np.divide(Y, AL) - np.divide(1 - Y, 1 - AL))
    for layer in reversed(range(1, len(activations) + 1)):
        A_prev, W, _, Z = caches[layer - 1]
        dZ = BACKWARD[activations[layer - 1]](dA, Z)
        grads[f"dW{layer}"] = 1 / m * np.dot(dZ, A_prev.T)
        if lambd:
            grads[f"dW{layer}"] = grads[f"dW{layer}"] + lambd / m * W
        grads[f"db{layer}"] = 1 / m * np.sum(dZ, axis=1, keepdims=True)
        dA = grads[f"dA{layer - 1}"] = np.dot(W.T, dZ)
    return grads


def model(
    X: Array,
    Y: Array,
    parameters: dict[str, Array],
    activations: list[str],
    epochs: int,
    learning_rate: float,
    lambd: float = 0.0,
) -> tuple[dict[str, Array], list[float]]:
    """Gradient descent: the trained parameters, and the cost of every 100th epoch."""
    costs = []
    for epoch in range(epochs):
        AL, caches = model_forward(X, parameters, activations)
        cost = compute_cost(AL, Y, parameters, lambd)
        grads = model_backward(AL, Y, caches, activations, lambd)
        parameters = {
            name: value - learning_rate * grads["d" + name] for name, value in parameters.items()
        }
        if epoch % 100 == 0:
            costs.append(cost)
    return parameters, costs


def optimize(
    w: Array, b: Any, X: Array, Y: Array, epochs: int, learning_rate: float
) -> tuple[Array, Any, list[float]]:
    """Logistic regression, w (n, 1): the trained w and b, and the cost of every 100th epoch."""
    m = X.shape[1]
    costs = []
    for epoch in range(epochs):
        A = sigmoid(np.dot(w.T, X) + b)
        cost = -1 / m * np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A))
        dw = 1 / m * np.dot(X, (A - Y).T)
        db = 1 / m * np.sum(A - Y)
        w = w - learning_rate * dw
        b = b - learning_rate * db
        if epoch % 100 == 0:
            costs.append(float(cost))
    return w, b, costs
