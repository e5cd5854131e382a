"""The four operations: their formulas, every registered form against them, the registry."""

import numpy as np
import pytest
from scipy import special

from accelnn import operations
from accelnn.backend import to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS

SHAPES = [(1, 1), (4, 7), (25, 64), (3, 1000)]
ACTIVATE = {
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda z: np.maximum(z, 0),
    "leaky_relu": lambda z: np.where(z > 0, z, 0.01 * z),
}
SLOPE = {
    "sigmoid": lambda z: special.expit(z) * special.expit(-z),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: (z > 0) * 1.0,
    "leaky_relu": lambda z: np.where(z > 0, 1.0, 0.01),
}
dtypes = pytest.mark.parametrize("dtype", ["float32", "float64"])
shapes = pytest.mark.parametrize("shape", SHAPES)
keeps = pytest.mark.parametrize("keep_prob", [None, 0.6])
pytestmark = pytest.mark.usefixtures("there")


def close(got, expected, dtype):
    tolerance = {"float64": 1e-13, "float32": 1e-5}[dtype]
    np.testing.assert_allclose(to_host(got), expected, rtol=tolerance, atol=tolerance)


def drawn(random, shape, dtype, keep_prob):
    Z, b = random.normal(size=shape).astype(dtype), random.normal(size=(shape[0], 1)).astype(dtype)
    D = None if keep_prob is None else (random.random(shape) < keep_prob).astype(dtype) / keep_prob
    return Z, b, None if D is None else D.astype(dtype)


def forms(name):
    """The forms in use on this backend: the vectorised, and what replaced it."""
    chosen = operations.operations_for(to_device(np.ones(1)))
    return {getattr(operations.VECTORISED, name), getattr(chosen, name)}


@pytest.mark.parametrize("activation", ACTIVATIONS)
@dtypes
@shapes
@keeps
def test_bias_activation(random, activation, dtype, shape, keep_prob):
    Z, b, D = drawn(random, shape, dtype, keep_prob)
    expected = ACTIVATE[activation]((Z + b).astype("f8")) * (1 if D is None else D)
    for form in forms("bias_activation"):
        work = to_device(Z.copy())
        form(work, to_device(b), activation, None if D is None else to_device(D))
        close(work, expected, dtype)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@dtypes
@shapes
@keeps
def test_activation_gradient(random, activation, dtype, shape, keep_prob):
    Z, b, D = drawn(random, shape, dtype, keep_prob)
    dA = random.normal(size=shape).astype(dtype)
    factor = 1 if D is None else D
    dZ = dA * factor * SLOPE[activation]((Z + b).astype("f8"))
    for form in forms("activation_gradient"):
        A = to_device((ACTIVATE[activation](Z + b) * factor).astype(dtype))
        work, db = to_device(dA.copy()), to_device(np.full(b.shape, np.nan, dtype))
        form(work, A, activation, db, None if D is None else to_device(D), keep_prob or 1.0)
        close(work, dZ, dtype)
        np.testing.assert_allclose(
            to_host(db), dZ.sum(axis=1, keepdims=True), atol=1e-3 if dtype == "float32" else 1e-11
        )


@pytest.mark.parametrize("output", OUTPUTS)
@dtypes
@shapes
@pytest.mark.parametrize("with_cost", [True, False])
def test_output_gradient(random, output, dtype, shape, with_cost):
    Z, b, _ = drawn(random, shape, dtype, None)
    Y = np.eye(shape[0], dtype=dtype)[:, random.integers(shape[0], size=shape[1])]
    logits = (Z + b).astype("f8")
    A = {
        "sigmoid": special.expit(logits),
        "softmax": special.softmax(logits, axis=0),
        "linear": logits,
    }[output]
    loss = {
        "sigmoid": -special.log_expit(np.where(Y == 1, logits, -logits)),
        "softmax": -Y * special.log_softmax(logits, axis=0),
        "linear": (logits - Y) ** 2 / 2,
    }[output].sum() / shape[1]
    for form in forms("output_gradient"):
        work, db = to_device(Z.copy()), to_device(np.full(b.shape, np.nan, dtype))
        costs = to_device(np.full(2, np.nan, dtype))
        cost = costs[1, ...] if with_cost else None
        form(work, to_device(b), to_device(Y), output, 0.5, db, cost)
        close(work, (A - Y) * 0.5, dtype)
        np.testing.assert_allclose(
            to_host(db),
            ((A - Y) * 0.5).sum(axis=1, keepdims=True),
            atol=1e-3 if dtype == "float32" else 1e-11,
        )
        assert np.isnan(to_host(costs)).tolist() == [True, not with_cost]
        if with_cost:
            close(costs[1], loss, dtype)


@dtypes
def test_update(random, dtype):
    theta, step = (random.normal(size=9).astype(dtype) for _ in range(2))
    for form in forms("update"):
        work = to_device(theta.copy())
        form(work, to_device(step))
        close(work, theta - step.astype("f8"), dtype)


def test_a_registered_form_takes_the_place_of_one_operation_on_one_backend(there, monkeypatch):
    monkeypatch.setattr(operations, "_chosen", dict(operations._chosen))
    calls = []

    def faster(parameters, step):
        calls.append(step.shape)
        operations.update(parameters, step)

    before = operations.operations_for(to_device(np.ones(1)))
    operations.register(there.name, update=faster)
    chosen = operations.operations_for(to_device(np.ones(1)))
    assert chosen == before._replace(update=faster)
    others = [name for name in operations._chosen if name != there.name]
    assert all(operations._chosen[name].update is operations.update for name in others)

    import accelnn

    net = accelnn.Network([2, 1])
    X, Y = to_device(np.ones((2, 3))), to_device(np.ones((1, 3)))
    params = net.init(dtype="float64")
    accelnn.fit(net, params, X, Y, epochs=4, learning_rate=0.1, solver="direct")
    assert calls == [(3,)] * 4
