"""The estimators under pytest-benchmark, in pairs with scikit-learn's own and PyTorch's usual loop:
`pytest benchmarks/test_estimators.py`.

A peer runs before each round of ours, so that both meet the same machine. The ratio of the medians
is in `extra_info`, and so are the accuracies, or R², of both on held-out examples over the seeds.
"""

import itertools
import statistics
import time
import warnings
from typing import NamedTuple

import numpy as np
import pytest
from sklearn import datasets, neural_network
from sklearn.metrics import accuracy_score, r2_score
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler

import accelnn
from accelnn import sklearn as estimators

SEEDS = 5
REST = 0.3  # seconds after a peer's training, so that BLAS's threads fall asleep


class Job(NamedTuple):
    """A data set, a function of no arguments, and the options of the estimators."""

    data: object
    options: dict
    regression: bool = False


def large(m=200_000, features=54, classes=7):
    """A table like that of forest covers: classes by a random net, with noise"""
    random = np.random.default_rng(0)
    X = random.normal(size=(m, features))
    hidden = np.tanh(X @ random.normal(size=(features, 30)) / 4)
    scores = hidden @ random.normal(size=(30, classes)) + 0.5 * random.normal(size=(m, classes))
    return X, scores.argmax(axis=1)


def two_classes(m=20_000, features=30):
    X = np.random.default_rng(0).normal(size=(m, features))
    return X, (np.sin(X[:, 0]) + X[:, 1] * X[:, 2] > 0).astype(int)


def loaded(name):
    return lambda: getattr(datasets, f"load_{name}")(return_X_y=True)


JOBS = {
    "breast cancer": Job(loaded("breast_cancer"), {}),
    "wine": Job(loaded("wine"), {}),
    "diabetes": Job(loaded("diabetes"), {}, regression=True),
    "digits": Job(loaded("digits"), {}),
    "digits, 256-128": Job(loaded("digits"), {"hidden_layer_sizes": (256, 128)}),
    "20,000 x 30, 64-64": Job(two_classes, {"hidden_layer_sizes": (64, 64), "max_iter": 20}),
    "200,000 x 54": Job(large, {"max_iter": 5}),
}


class Torch:
    """PyTorch's usual loop, in float32 with a DataLoader, for as many epochs as ours ran."""

    def __init__(self, regression, hidden_layer_sizes=(100,), max_iter=200, random_state=0):
        import torch

        self.torch, self.regression, self.epochs = torch, regression, max_iter
        self.hidden, self.seed = hidden_layer_sizes, random_state

    def fit(self, X, y):
        torch = self.torch
        torch.manual_seed(self.seed)
        outputs = 1 if self.regression else int(y.max()) + 1
        sizes, layers = (X.shape[1], *self.hidden, outputs), []
        for before, n in itertools.pairwise(sizes):
            layers += [torch.nn.Linear(before, n), torch.nn.ReLU()]
        self.net = torch.nn.Sequential(*layers[:-1])
        targets = torch.tensor(y, dtype=torch.float32)[:, None] if self.regression else y
        pairs = torch.utils.data.TensorDataset(
            torch.tensor(X, dtype=torch.float32), torch.as_tensor(targets)
        )
        batches = torch.utils.data.DataLoader(pairs, batch_size=200, shuffle=True)
        loss_of = torch.nn.MSELoss() if self.regression else torch.nn.CrossEntropyLoss()
        optimizer = torch.optim.Adam(self.net.parameters(), lr=1e-3, weight_decay=1e-4)
        for _ in range(self.epochs):
            for batch, labels in batches:
                optimizer.zero_grad()
                loss_of(self.net(batch), labels).backward()
                optimizer.step()
        return self

    def predict(self, X):
        with self.torch.no_grad():
            Z = self.net(self.torch.tensor(X, dtype=self.torch.float32)).numpy()
        return Z[:, 0] if self.regression else Z.argmax(axis=1)


@pytest.mark.parametrize("peer", ["scikit-learn", "PyTorch"])
@pytest.mark.parametrize("name", JOBS)
def test_estimator(benchmark, name, peer):
    job = JOBS[name]
    if peer == "PyTorch":
        pytest.importorskip("torch")
    X, X_test, y, y_test = train_test_split(*job.data(), random_state=0)
    scaler = StandardScaler().fit(X)
    X, X_test = scaler.transform(X), scaler.transform(X_test)
    score = r2_score if job.regression else accuracy_score
    kind = "MLPRegressor" if job.regression else "MLPClassifier"
    accelnn.warm_up("float64", progress=False)
    seconds, scores, epochs = [], {"ours": [], peer: []}, []

    def ours(seed):
        model = getattr(estimators, kind)(random_state=seed, **job.options).fit(X, y)
        scores["ours"].append(score(y_test, model.predict(X_test)))
        epochs.append(model.n_iter_)

    def theirs():
        seed = len(seconds)
        options = job.options | {"random_state": seed}
        if peer == "PyTorch":
            options["max_iter"] = epochs[-1] if epochs else options.get("max_iter", 200)
            model = Torch(job.regression, **options)
        else:
            model = getattr(neural_network, kind)(**options)
        start = time.perf_counter()
        model.fit(X, y)
        seconds.append(time.perf_counter() - start)
        scores[peer].append(score(y_test, model.predict(X_test)))
        time.sleep(REST)
        return (seed,), {}

    with warnings.catch_warnings(action="ignore"):  # that they have not converged
        ours(0)
        scores["ours"].clear()
        benchmark.pedantic(ours, setup=theirs, rounds=SEEDS)
    benchmark.group = name
    benchmark.extra_info |= {
        "peer": peer,
        "peer_seconds": statistics.median(seconds),
        "ratio": statistics.median(seconds) / benchmark.stats.stats.median,
        "epochs": epochs[1:],
        "scores": scores,
    }
