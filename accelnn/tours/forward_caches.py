"""Forward layer by layer, with the caches Z and A that backward reads."""

from collections.abc import Callable
from typing import Any

import numpy as np

from accelnn.backend import Array, array_module, to_device, to_host
from accelnn.functions import ACTIVATIONS, sigmoid
from accelnn.network import Network

from .checks import Say, check, described, drawn

relu = ACTIVATIONS["relu"].function


def forward_caches(say: Say = print) -> dict[str, Array]:
    """Forward layer by layer, with the caches Z and A, and backward from them.

    The single layers and the net of three are the test cases of the course's exercise "Building
    your Deep Neural Network: Step by Step". Returns Z, A and the gradients by name, on the host.
    Raises ArithmeticError if one is not the published one, or not that of `Network.gradients`.
    """
    results = _single_layer(say)
    net = Network([5, 4, 3, 1], hidden="relu", output="sigmoid")
    random = np.random.RandomState(6)
    X = to_device(random.randn(5, 4))
    params = drawn(net.layers, random)
    Y = to_device(np.array([[1.0, 0.0, 0.0, 1.0]]))

    def report(name: str, array: Array) -> None:
        results[name] = to_host(array)
        say(described(name, results[name]))

    say("\nA net of three layers, 5 - 4 - 3 - 1, and 4 examples. Forward, for l = 1, 2, 3:")
    say("    Z[l] = W[l] A[l-1] + b[l],  A[l] = relu(Z[l]), at last sigmoid; A[0] = X")
    report("X", X)
    Z: list[Array] = [None]
    A = [X]
    for l, (W, b) in enumerate(params, 1):
        Z.append(W @ A[l - 1] + b)
        A.append(relu(Z[l]) if l < len(params) else sigmoid(Z[l]))
        say(f"  layer {l}: W{l} {W.shape}, b{l} {b.shape}")
        report(f"Z{l}", Z[l])
        report(f"A{l}", A[l])
    check("A3", A[3], [[0.03921668, 0.70498921, 0.19734387, 0.04728177]])
    check("Network.forward", net.forward(params, X), results["A3"])

    say("Backward, from the caches, for l = 3, 2, 1:")
    say("    dZ[3] = A[3] - Y,  dZ[l] = W[l+1].T dZ[l+1] * (Z[l] > 0)")
    say("    dW[l] = dZ[l] A[l-1].T / m,  db[l] = sum of dZ[l] / m")
    xp, m, expected = array_module(X), X.shape[1], net.gradients(params, X, Y)
    dZ = A[3] - Y
    for l in range(len(params), 0, -1):
        dW, db = xp.dot(dZ, A[l - 1].T) / m, dZ.sum(axis=1, keepdims=True) / m
        say(f"  layer {l}: reads A{l - 1} {A[l - 1].shape}" + (f", Z{l - 1}" if l > 1 else ""))
        for name, gradient, ours in zip(("dW", "db"), (dW, db), expected[l - 1], strict=True):
            report(f"{name}{l}", gradient)
            check(f"{name}{l}", gradient, to_host(ours), 1e-10)
        if l > 1:
            dZ = xp.dot(params[l - 1][0].T, dZ) * (Z[l - 1] > 0)
    say("A3 is as published, and the gradients are those of Network.gradients.")
    return results


def _single_layer(say: Say) -> dict[str, Array]:
    """The course's cases of one layer: Z alone, then with each activation."""
    say("One layer of one unit, two examples: Z = W A + b, cached with A, W and b")
    cases: tuple[tuple[str, int, Callable[[Array], Array], Any], ...] = (
        ("Z", 1, lambda Z: Z, [[3.26295337, -1.23429987]]),
        ("σ(Z)", 2, sigmoid, [[0.96890023, 0.11013289]]),
        ("relu", 2, relu, [[3.43896131, 0]]),
    )
    results = {}
    for name, seed, g, published in cases:
        random = np.random.RandomState(seed)
        A, W, b = (to_device(random.randn(*shape)) for shape in ((3, 2), (1, 3), (1, 1)))
        results[name] = check(name, g(W @ A + b), published)
        say(described(name, results[name]) + f"   drawn with seed {seed}; as published")
    return results
