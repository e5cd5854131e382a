"""Networks of every kind, data to train them with, and the comparison of a solver's training with
the direct one."""

import numpy as np

import accelnn
from accelnn import Adam, HeavyBall, Momentum, Nesterov, Network
from accelnn.backend import to_device, to_host

NETS = {
    "logistic regression": Network([5, 1]),
    "logistic regression with L2": Network([5, 2], l2=0.7),
    "softmax regression": Network([40, 3], output="softmax"),
    "linear regression": Network([5, 2], output="linear", l2=0.1),
    "sigmoid": Network([5, 6, 1], hidden="sigmoid"),
    "tanh with L2": Network([5, 6, 3], hidden="tanh", output="softmax", l2=0.5),
    "relu": Network([40, 6, 1], hidden="relu"),
    "leaky relu with L2": Network([5, 6, 2], hidden="leaky_relu", output="linear", l2=0.2),
    "one unit": Network([1, 1, 1], hidden="tanh"),
    "two layers": Network([5, 6, 4, 1], hidden=("tanh", "sigmoid")),
    "three layers with L2": Network([40, 9, 5, 4, 3], output="softmax", l2=0.5),
    "dropout": Network([5, 8, 1], hidden="tanh", keep_prob=0.7),
    "dropout by layer": Network(
        [5, 9, 8, 7, 3],
        hidden=("relu", "sigmoid", "leaky_relu"),
        output="softmax",
        keep_prob=(0.6, 1.0, 0.8),
        l2=0.3,
    ),
    "absolute errors": Network([5, 6, 2], hidden="identity", output="absolute"),
    "huber": Network([5, 7, 4, 1], hidden=("identity", "tanh"), output="huber", l2=0.2),
    "counts": Network([6, 5, 2], hidden="tanh", output="poisson"),
    "wide layers": Network([60, 50, 12, 3], hidden="tanh", output="softmax"),
}
OPTIMIZERS = {
    "sgd": "sgd",
    "momentum": Momentum(beta=0.8),
    "heavyball": HeavyBall(beta=0.8),
    "nesterov": Nesterov(beta=0.7),
    "adam": Adam(beta1=0.8, beta2=0.95, epsilon=1e-6),
}
M = 53
BATCHES = {"whole": None, "short last batch": 8, "no short batch": 53, "more than there are": 64}


def data(net, m, seed=0, dtype="float64"):
    """Features and labels on the host with which a net of these layers can be trained."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(net.layers[0], m))
    n = net.layers[-1]
    if net.output == "softmax":
        return X.astype(dtype), accelnn.one_hot(random.integers(n, size=m), n).astype(dtype)
    if net.output == "poisson":
        # of small numbers, because e^Z diverges easily
        return (0.1 * X).astype(dtype), random.poisson(0.5, size=(n, m)).astype(dtype)
    if not net.classifies:
        return X.astype(dtype), random.normal(0, 1.5, size=(n, m)).astype(dtype)
    return X.astype(dtype), (random.random((n, m)) < 0.4).astype(dtype)


def synchronizations(double, net, X, Y, epochs, record_every, **options):
    """How often a training on the device double waits for the device."""
    double.counts.synchronizations = 0
    options |= {"epochs": epochs, "record_every": record_every, "learning_rate": 0.01}
    accelnn.fit(net, net.init(), X, Y, **options)
    return double.counts.synchronizations


def both(net, solver, m=M, dtype="float64", precision=None, **options):
    """(params, history) of the solver with this precision, and of the direct one, on the chosen
    backend."""
    given = net.init("he", seed=3, dtype=dtype), *map(to_device, data(net, m, dtype=dtype))
    watched = tuple(map(to_device, data(net, 11, seed=1, dtype=dtype)))
    options = {
        "epochs": 7,
        "record_every": 2,
        "learning_rate": 0.3,
        "validation": watched,
    } | options
    return [
        accelnn.fit(net, *given, solver=name, precision=chosen, **options)
        for name, chosen in ((solver, precision), ("direct", None))
    ]


def check_same(pair, tolerance=1e-11, variant=""):
    """The parameters and all costs of two trainings agree, of which each solver did its own."""
    (params, history), (expected, direct) = ((to_host(p.flat), h) for p, h in pair)
    assert np.abs(expected).max() > 0.1, variant
    close = {"rtol": tolerance, "err_msg": str(variant)}
    np.testing.assert_allclose(params, expected, atol=tolerance, **close)
    for name in ("costs", "validation_costs", "final_cost", "final_validation_cost"):
        costs, reference = getattr(history, name), getattr(direct, name)
        assert np.all(np.isfinite(reference)), (variant, name)
        np.testing.assert_allclose(costs, reference, **close)
    assert len(history.validation_costs) == len(direct.costs), variant
    assert history.epochs == direct.epochs, variant
    assert history.reason == direct.reason == "asked for", variant
