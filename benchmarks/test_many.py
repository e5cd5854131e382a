"""Many trainings at once under pytest-benchmark, by `fit_many` and other ways:
`pytest benchmarks/test_many.py`. All are gradient descent on all examples, in float64.
"""

import functools
import warnings
from typing import Any, NamedTuple

import numpy as np
import pytest

import accelnn
from accelnn import Network, datasets

pytestmark = pytest.mark.filterwarnings("ignore:drawn data stands in")


class Job(NamedTuple):
    """Trainings of one hidden layer: for each its net, weights, rate, and the examples it sees."""

    X: Any
    Y: Any
    nets: list
    params: list
    rates: list
    examples: list
    epochs: int


def planar(widths, epochs=2000):
    flower, count = datasets.flower(), len(widths)
    nets = [Network([2, int(n), 1], hidden="tanh") for n in widths]
    params = [net.init("normal", scale=(0.01, 1.0), seed=i) for i, net in enumerate(nets)]
    return Job(flower.X_train, flower.Y_train, nets, params, [0.5] * count, [None] * count, epochs)


def cats(epochs=1000):
    """A search by 5 folds over 8 learning rates"""
    data = datasets.load_cats()
    m = data.X_train.shape[1]
    net = Network([12288, 7, 1])
    folds = np.array_split(np.random.default_rng(0).permutation(m), 5)
    settings = [
        (rate, np.setdiff1d(np.arange(m), fold))
        for rate in (0.001, 0.002, 0.003, 0.004, 0.005, 0.006, 0.007, 0.008)
        for fold in folds
    ]
    rates, examples = map(list, zip(*settings, strict=True))
    count = len(settings)
    first = net.init("scaled", seed=1)
    return Job(data.X_train, data.Y_train, [net] * count, [first] * count, rates, examples, epochs)


WIDTHS = np.random.default_rng(0).choice([1, 2, 3, 4, 5, 10, 20, 50], 64)
JOBS = {
    "64 planar nets": functools.partial(planar, WIDTHS),
    "planar's seven sizes": functools.partial(planar, (1, 2, 3, 4, 5, 20, 50)),
    "cats, 5 folds x 8 rates": cats,
}


def together(job):
    options = {"epochs": job.epochs, "learning_rate": job.rates, "examples": job.examples}
    return accelnn.fit_many(job.nets, job.params, job.X, job.Y, **options)


def one_after_the_other(job, threads=None):
    results = []
    for net, params, rate, seen in zip(job.nets, job.params, job.rates, job.examples, strict=True):
        X, Y = (job.X, job.Y) if seen is None else (job.X[:, seen], job.Y[:, seen])
        options = {"epochs": job.epochs, "learning_rate": rate, "threads": threads}
        results.append(accelnn.fit(net, params, X, Y, **options))
    return results


def by_scikit_learn(job):
    """MLPClassifier in joblib's processes, one BLAS thread each."""
    import joblib

    def fit(net, rate, seen):
        from sklearn.neural_network import MLPClassifier

        X, y = job.X.T, job.Y[0]
        X, y = (X, y) if seen is None else (X[seen], y[seen])
        model = MLPClassifier(
            net.layers[1],
            net.hidden[0],
            solver="sgd",
            momentum=0,
            alpha=0,
            batch_size=len(y),
            learning_rate_init=rate,
            max_iter=job.epochs,
            tol=0,
            n_iter_no_change=np.inf,
        )
        with warnings.catch_warnings(action="ignore"):
            return model.fit(X, y)

    tasks = zip(job.nets, job.rates, job.examples, strict=True)
    return joblib.Parallel(n_jobs=-1)(joblib.delayed(fit)(*task) for task in tasks)


def by_vmap(job):
    """JAX's vmap over nets padded to the widest, and over weights of 0 or 1 of the examples."""
    import jax

    jax.config.update("jax_enable_x64", True)
    jnp, widest = jax.numpy, max(net.layers[1] for net in job.nets)
    g = {"tanh": jnp.tanh, "relu": jax.nn.relu}[job.nets[0].hidden[0]]
    X, Y = jnp.asarray(job.X), jnp.asarray(job.Y)

    def padded(array, axis):
        room = [(0, 0)] * 2
        room[axis] = 0, widest - array.shape[axis]
        return np.pad(array, room)

    W1, b1, W2 = (
        np.stack([padded(params[layer][part], axis) for params in job.params])
        for layer, part, axis in ((0, 0, 0), (0, 1, 0), (1, 0, 1))
    )
    b2 = np.stack([params[1][1] for params in job.params])
    everything = np.arange(X.shape[1])
    seen = [np.isin(everything, everything if e is None else e) * 1.0 for e in job.examples]

    def cost(theta, w):
        W1, b1, W2, b2 = theta
        Z = W2 @ g(W1 @ X + b1) + b2
        losses = jnp.maximum(Z, 0) - Z * Y + jnp.log1p(jnp.exp(-abs(Z)))
        return (losses * w).sum() / w.sum()

    def train(theta, rate, w):
        def step(_, theta):
            gradients = jax.grad(cost)(theta, w)
            return jax.tree.map(lambda t, d: t - rate * d, theta, gradients)

        return jax.lax.fori_loop(0, job.epochs, step, theta)

    trained = jax.jit(jax.vmap(train))
    return jax.block_until_ready(trained((W1, b1, W2, b2), np.array(job.rates), np.stack(seen)))


WAYS = {
    "fit_many": together,
    "fits of one thread": functools.partial(one_after_the_other, threads=1),
    "fits": one_after_the_other,
    "scikit-learn and joblib": by_scikit_learn,
    "JAX vmap": by_vmap,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", JOBS)
def test_many(benchmark, name, way):
    if way == "JAX vmap":
        pytest.importorskip("jax")
    job = JOBS[name]()
    slow = name.startswith("cats") and way in ("JAX vmap", "scikit-learn and joblib")
    if slow:  # minutes: a part of the epochs, from which the whole follows
        job = job._replace(epochs=job.epochs // 50)
    accelnn.warm_up("float64", progress=False)
    benchmark.group = name
    benchmark.extra_info["epochs"] = job.epochs
    benchmark.pedantic(WAYS[way], (job,), rounds=3, warmup_rounds=1)
