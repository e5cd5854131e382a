"""scikit-learn's MLPClassifier as a peer, for jobs that it can do. Runs in the child."""

import warnings
from collections.abc import Callable

import numpy as np
from sklearn.neural_network import MLPClassifier

from accelnn.backend import Array
from accelnn.bench.peers import PeerJob, PeerTrainer, flat_of, layers_of
from accelnn.bench.records import Skip

ACTIVATIONS = {"sigmoid": "logistic", "tanh": "tanh", "relu": "relu"}


def trainers(name: str, job: PeerJob) -> dict[str, Callable[[], PeerTrainer]]:
    del name
    if len(set(job.net.hidden)) > 1:
        raise Skip("MLPClassifier has one activation for all hidden layers")
    if not set(job.net.hidden) <= set(ACTIVATIONS):
        raise Skip(f"MLPClassifier has no {job.net.hidden[0]}")
    if job.net.output == "linear":
        raise Skip("MLPClassifier has no linear output")
    return {f"MLPClassifier {job.recipe.optimizer}": lambda: Classifier(job)}


class Classifier:
    """MLPClassifier with our weights and without early stopping.

    Its `fit` goes on from the weights, but with a new optimizer: Adam has to train in one go.
    """

    def __init__(self, job: PeerJob) -> None:
        self.job = job
        # softmax for classes, sigmoid for two classes or for several labels
        self.labels = job.Y.argmax(axis=1) if job.net.output == "softmax" else job.Y.astype(int)
        if self.labels.ndim == 2 and self.labels.shape[1] == 1:
            self.labels = self.labels[:, 0]
        self.classes = np.arange(max(2, job.net.layers[-1]))

    def restart(self, weights: Array, seed: int) -> None:
        job = self.job
        self.model = MLPClassifier(
            hidden_layer_sizes=job.net.layers[1:-1],
            activation=ACTIVATIONS[job.net.hidden[0]] if job.net.hidden else "relu",
            solver="adam" if job.recipe.optimizer == "adam" else "sgd",
            alpha=job.net.l2,  # which it divides by the examples of a step, as we do
            batch_size=job.recipe.batch_size or job.m,
            learning_rate_init=job.recipe.learning_rate,
            momentum=0.0,
            shuffle=job.recipe.batch_size is not None,
            random_state=np.random.RandomState(seed),
            tol=0.0,
            n_iter_no_change=np.inf,
        )
        with warnings.catch_warnings(action="ignore"):  # that one example is fewer than a batch
            # the only way to make it allocate its arrays, which then get our values
            self.model.partial_fit(job.X[:1], self.labels[:1], classes=self.classes)
        layers = list(layers_of(weights, job.net.layers))
        self.model.coefs_ = [np.ascontiguousarray(W.T) for W, _ in layers]
        self.model.intercepts_ = [b for _, b in layers]
        self.model.t_ = 0
        del self.model._optimizer  # it holds the arrays that were replaced
        self.model.warm_start = True  # `fit` continues from the current weights

    def train(self, epochs: int) -> None:
        before = self.model.t_
        with warnings.catch_warnings(action="ignore"):  # that it has not converged
            if self.labels.ndim == 2 or len(np.unique(self.labels)) == len(self.classes):
                self.model.max_iter = epochs
                self.model.fit(self.job.X, self.labels)
            else:  # a warm start would refuse what lacks a class
                self.model.warm_start = False
                for _ in range(epochs):
                    self.model.partial_fit(self.job.X, self.labels)
        if self.model.t_ - before != epochs * self.job.m:
            raise RuntimeError(f"{self.model.t_ - before} examples, not {epochs} × {self.job.m}")

    def weights(self) -> Array:
        pairs = zip(self.model.coefs_, self.model.intercepts_, strict=True)
        return flat_of((W.T, b) for W, b in pairs)
