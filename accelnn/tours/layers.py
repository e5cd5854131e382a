"""Forward and backward layer by layer, L2 and dropout, on the course's numeric test cases."""

from typing import Any

import numpy as np

from accelnn import network
from accelnn.backend import Array, array_module, to_device, to_host
from accelnn.functions import ACTIVATIONS, binary_cross_entropy, sigmoid
from accelnn.network import Network, Parameters, Workspace

from .checks import Say, check, described, drawn

relu = ACTIVATIONS["relu"].function

# one layer's value by name: the seed, the activation and the published figures
ONE_LAYER: tuple[Any, ...] = (
    ("Z", 1, lambda Z: Z, [[3.26295337, -1.23429987]]),
    ("σ(Z)", 2, sigmoid, [[0.96890023, 0.11013289]]),
    ("relu", 2, relu, [[3.43896131, 0]]),
)


def forward_caches(say: Say = print) -> dict[str, Array]:
    """Forward layer by layer, with the caches Z and A, and backward from them.

    On the exercise "Building your Deep Neural Network". Returns Z, A and the gradients by name.
    """
    results = {}

    def report(name: str, array: Array, remark: str = "") -> None:
        results[name] = to_host(array)
        say(described(name, results[name]) + remark)

    say("One layer of one unit, two examples: Z = W A + b, cached with A, W and b")
    for name, seed, g, published in ONE_LAYER:
        random = np.random.RandomState(seed)
        A0, W, b = (to_device(random.randn(*shape)) for shape in ((3, 2), (1, 3), (1, 1)))
        report(name, g(W @ A0 + b), f"   drawn with seed {seed}; as published")
        check(name, results[name], published)

    net = Network([5, 4, 3, 1], hidden="relu", output="sigmoid")
    random = np.random.RandomState(6)
    X = to_device(random.randn(5, 4))
    params = drawn(net.layers, random)
    Y = to_device(np.array([[1.0, 0.0, 0.0, 1.0]]))
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


LAYERS = (3, 2, 3, 1)

# All figures below are published with the exercise.
OUTPUT = ((0.40682402, 0.01629284, 0.16722898, 0.10118111, 0.40682402),)
L2_COST = 1.78648594516  # of OUTPUT, λ = 0.1
L2_GRADIENTS = {  # λ = 0.7
    "dW1": [[-0.25604646, 0.12298827, -0.28297129], [-0.17706303, 0.34536094, -0.4410571]],
    "dW2": [[0.79276486, 0.85133918], [-0.0957219, -0.01720463], [-0.13100772, -0.03750433]],
    "dW3": [[-1.77691347, -0.11832879, -0.09397446]],
}
DROPOUT_OUTPUT = [[0.36974721, 0.00305176, 0.04565099, 0.49683389, 0.36974721]]  # keep_prob 0.7
DROPOUT_GRADIENTS = {  # masks drawn with keep_prob 0.5, divided by keep_prob 0.8
    "dA1": [[0.36544439, 0, -0.00188233, 0, -0.17408748], [0.65515713, 0, -0.00337459, 0, 0]],
    "dA2": [
        [0.58180856, 0, -0.00299679, 0, -0.27715731],
        [0, 0.53159854, 0, 0.53159854, -0.34089673],
        [0, 0, -0.00292733, 0, 0],
    ],
}


def regularisation(say: Say = print) -> dict[str, Any]:
    """L2 and dropout, forward and backward, against the course's published test cases.

    They are of its exercise "Regularization". Returns cost, activations and gradients by name.
    """
    results: dict[str, Any] = {}

    def report(name: str, array: Array, published: Any) -> None:
        results[name] = check(name, array, published)
        say(described(name, results[name]))

    net = Network(LAYERS, l2=0.1)
    params = drawn(LAYERS, np.random.RandomState(1))
    A, Y = to_device(np.array(OUTPUT)), to_device(np.array([[1.0, 1, 0, 1, 0]]))
    cost = binary_cross_entropy(A, Y) + network.penalty(net, params, Y.shape[1])
    results["cost"] = float(check("the cost with L2", cost, L2_COST, 1e-10))
    say(f"A net {list(LAYERS)}, weights and 5 examples drawn with seed 1.")
    say("L2: cost = cross-entropy + λ/(2m) Σ W², λ = 0.1")
    say(f"    cost {results['cost']:.11f}, published {L2_COST:.11f}")
    say("L2 backward: dW = dZ A.T / m + λ/m W, λ = 0.7")
    random = np.random.RandomState(1)
    X = to_device(random.randn(LAYERS[0], 5))
    params = drawn(LAYERS, random)
    gradients = Network(LAYERS, l2=0.7).gradients(params, X, Y)
    for (name, published), (dW, _) in zip(L2_GRADIENTS.items(), gradients, strict=True):
        report(name, dW, published)

    say("\nDropout forward, keep_prob 0.7: D = rand(...) < keep_prob, A *= D / keep_prob")
    A3, _ = _forward(Network(LAYERS, keep_prob=0.7), params, X)
    report("A3", A3, DROPOUT_OUTPUT)

    say("Dropout backward: dA *= D / keep_prob, dZ = dA * (A > 0),")
    say("with the masks of a forward pass with keep_prob 0.5, and keep_prob 0.8")
    A3, work = _forward(Network(LAYERS, keep_prob=0.5), params, X)
    masks: list[Array] = work.D[:2]
    D1, D2 = work.D[:2] = [(D > 0) / 0.8 for D in masks]
    dA2 = params[2][0].T @ (A3 - Y) * D2
    dZ2 = dA2 * (work.A[1] > 0)
    dA1 = params[1][0].T @ dZ2 * D1
    dZ1 = dA1 * (work.A[0] > 0)
    report("dA2", dA2, DROPOUT_GRADIENTS["dA2"])
    report("dA1", dA1, DROPOUT_GRADIENTS["dA1"])

    work.net = Network(LAYERS, keep_prob=0.8)
    network.backward(work, X, Y, 1.0, params.empty_like())
    check("dZ2 of a training", work.dA[1], to_host(dZ2))
    check("dZ1 of a training", work.dA[0], to_host(dZ1))
    say("All are as published, and dZ is what a training computes.")
    return results


def _forward(net: Network, params: Parameters, X: Array) -> tuple[Array, Workspace]:
    """A3 with masks drawn with seed 1, and the workspace, ready for backward."""
    random = np.random.RandomState(1)
    work = Workspace(net, params, X.shape[1], dropout=True)
    for l, keep in enumerate(net.keep_prob):
        work.D[l] = to_device((random.rand(*work.A[l].shape) < keep) / keep)
    return sigmoid(network.forward(work, X) + params[-1][1]), work
