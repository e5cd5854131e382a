"""The notes' trainings as cases: the recipes, each trained by loops, notes, NumPy and CuPy.

Gradient descent has no memory but its weights, so a training can be run in equal parts, the
implementations taking turns: `repeat` measurements of the one training, and at its end the
trained weights.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array, Backend, to_host
from accelnn.bench import machine, notes
from accelnn.bench.cases import LOOPS, TURN, place_of
from accelnn.bench.records import Record, TrainingRecord
from accelnn.kernels import loops
from accelnn.network import Network, Parameters
from accelnn.recipes import RECIPES, Recipe
from accelnn.scores import accuracy

# The recipes that are timed
TRAININGS = ("cat-logistic", "cat-2layer", "cat-4layer", "planar", "digits")

# How far one step may be from the float64 reference's, relative to the step
TOLERANCE = {"float64": 1e-9, "float32": 1e-2}

KINDS = {
    "sigmoid": loops.SIGMOID,
    "tanh": loops.TANH,
    "relu": loops.RELU,
    "leaky_relu": loops.LEAKY_RELU,
    "softmax": loops.SOFTMAX,
    "linear": loops.LINEAR,
}

# (epochs) -> the weights after that many more epochs
Trainer = Callable[[int], Parameters]


def library_trainer(recipe: Recipe, params: Parameters, X: Array, Y: Array) -> Trainer:
    """`accelnn.fit`, wherever the arrays are."""

    def train(epochs: int) -> Parameters:
        nonlocal params
        params, _ = accelnn.fit(
            recipe.net, params, X, Y, epochs=epochs, learning_rate=recipe.learning_rate
        )
        return params

    return train


def notes_trainer(recipe: Recipe, params: Parameters, X: Array, Y: Array) -> Trainer:
    """The notes' expressions: logistic regression in its own, the rest in the L-layer model's."""
    if len(recipe.net.layers) == 2 and not recipe.net.l2:
        w, b = params[0][0].T.copy(), float(params[0][1][0, 0])

        def train_logistic(epochs: int) -> Parameters:
            nonlocal w, b
            w, b, _ = notes.optimize(w, b, X, Y, epochs, recipe.learning_rate)
            return Parameters.from_layers([(w.T, np.array([[b]], w.dtype))])

        return train_logistic

    activations = [*recipe.net.hidden, recipe.net.output]
    named: dict[str, Array] = {}
    for layer, (W, b) in enumerate(params, 1):
        named |= {f"W{layer}": W, f"b{layer}": b}

    def train(epochs: int) -> Parameters:
        nonlocal named
        named, _ = notes.model(
            X, Y, named, activations, epochs, recipe.learning_rate, recipe.net.l2
        )
        return Parameters.from_layers(
            [(named[f"W{layer}"], named[f"b{layer}"]) for layer in range(1, len(params) + 1)]
        )

    return train


def loops_trainer(
    implementation: str, recipe: Recipe, params: Parameters, X: Array, Y: Array
) -> Trainer:
    """The naive loops of the notes, plain or compiled."""
    net, m = recipe.net, X.shape[1]
    kinds = tuple(KINDS[name] for name in (*net.hidden, net.output))
    A = (np.ascontiguousarray(X), *(np.empty((n, m), X.dtype) for n in net.layers[1:]))
    dA = tuple(np.empty_like(array) for array in A)
    params, gradients = params.copy(), params.empty_like()
    W, b = zip(*params, strict=True)
    dW, db = zip(*gradients, strict=True)
    run_epoch = LOOPS[implementation].network_epoch

    def train(epochs: int) -> Parameters:
        for _ in range(epochs):
            run_epoch(W, b, A, Y, kinds, dA, dW, db, recipe.learning_rate, net.l2)
        return params.copy()

    return train


def trainer(implementation: str, recipe: Recipe, params: Parameters, X: Array, Y: Array) -> Trainer:
    """The trainer of an implementation, from these weights on."""
    if implementation in LOOPS:
        return loops_trainer(implementation, recipe, params, X, Y)
    make = notes_trainer if implementation == "notes" else library_trainer
    return make(recipe, params, X, Y)


@dataclass
class TrainingCase:
    """One recipe, trained whole where the time allows, else in part and scaled."""

    name: str
    dtype: str
    limits: dict[str, dict[str, float]]  # by backend, as machine.limits gives them

    implementations = ("python", "numba", "notes", "numpy", "cupy")

    @property
    def recipe(self) -> Recipe:
        return RECIPES[self.name]

    def __str__(self) -> str:
        return self.name

    def record(self, implementation: str) -> TrainingRecord:
        threads = {"python": 1, "numba": 1, "cupy": None}.get(implementation, _blas_threads())
        return TrainingRecord(
            case=self.name,
            implementation=implementation,
            size={"layers": list(self.recipe.net.layers), "examples": self.examples},
            dtype=self.dtype,
            backend="cupy" if implementation == "cupy" else "numpy",
            threads=threads,
            solver="direct" if implementation in ("numpy", "cupy") else implementation,
            epochs=self.recipe.epochs,
            data="stand-in" if self.dataset.stand_in else "real",
        )

    def prepare(self, implementation: str, seconds: float, repeat: int) -> "TrainingContestant":
        place = place_of(implementation)
        if implementation in LOOPS:  # a part of them tells enough: leave the time to the others
            seconds /= 5
        m = self._affordable_examples(implementation, seconds / repeat)
        return TrainingContestant(self, implementation, place, m, seconds, repeat)

    def _affordable_examples(self, implementation: str, seconds: float) -> int:
        if implementation != "python":
            return self.examples
        turns = operations(self.recipe.net) / 2
        return max(1, min(self.examples, int(seconds / (turns * TURN["python"]))))

    @property
    def examples(self) -> int:
        return int(self.dataset.X_train.shape[1])

    @functools.cached_property
    def dataset(self) -> datasets.Dataset:
        with backend.use("numpy"):
            return self.recipe.data(dtype=self.dtype)

    @functools.cached_property
    def first_weights(self) -> Parameters:
        with backend.use("numpy"):
            return self.recipe.first_weights(self.dtype)


class TrainingContestant:
    """One implementation's run of a recipe, on the first m examples, in parts.

    Measures in seconds of an epoch on m examples.
    """

    run_share = 1.0

    def __init__(
        self,
        case: TrainingCase,
        implementation: str,
        place: Backend,
        m: int,
        seconds: float,
        repeat: int,
    ) -> None:
        self.case, self.place, self.m, self.seconds, self.repeat = case, place, m, seconds, repeat
        self.scale = case.recipe.epochs * case.examples / m
        self.tolerance = TOLERANCE[case.dtype]
        first = case.first_weights
        X, Y = case.dataset.X_train[:, :m], case.dataset.Y_train[:, :m]
        self.transfer_seconds = None
        if place.name == "cupy":
            place.synchronize()
            start = time.perf_counter()
            X, Y = place.to_device(X), place.to_device(Y)
            place.synchronize()
            self.transfer_seconds = time.perf_counter() - start
            first = Parameters(place.to_device(first.flat), first.layers)
        self.start_anew = functools.partial(trainer, implementation, case.recipe, first, X, Y)
        self.train = self.start_anew()
        self.trained = first
        self.parts: list[int] | None = None
        self.done = 0

    def run(self) -> None:
        """The first step of the training."""
        self.trained = self.start_anew()(1)

    def error(self) -> float:
        """How far that step is from the float64 reference's, relative to it."""
        case, X, Y = self.case, self.case.dataset.X_train, self.case.dataset.Y_train
        weights = Parameters(case.first_weights.flat.astype(np.float64), case.recipe.net.layers)
        gradients = case.recipe.net.gradients(weights, X[:, : self.m], Y[:, : self.m])
        reference = -case.recipe.learning_rate * gradients.flat
        step = to_host(self.trained.flat) - weights.flat
        return float(np.abs(step - reference).max() / np.abs(reference).max())

    def measure(self) -> float:
        """The next part of the training."""
        if self.parts is None:
            self.parts = self._plan()
        epochs = self.parts.pop(0)
        with self.place.timer() as timing:
            self.trained = self.train(epochs)
        self.done += epochs
        return float(timing.seconds) / epochs

    def _plan(self) -> list[int]:
        """How many epochs to run in each part: all of them in the end, where the time allows."""
        train, epochs, spent = self.start_anew(), 1, 0.0
        while True:
            with self.place.timer() as timing:
                train(epochs)
            spent += timing.seconds
            if timing.seconds > self.seconds / 50 or spent > self.seconds / 10:
                break
            epochs *= 4
        whole, repeat = self.case.recipe.epochs, self.repeat
        affordable = int(self.seconds / timing.seconds * epochs)
        if self.m == self.case.examples and affordable >= whole >= repeat:
            return [whole * (i + 1) // repeat - whole * i // repeat for i in range(repeat)]
        return [max(1, min(affordable, whole) // repeat)] * repeat

    def finish(self, record: Record) -> None:
        """Enter the rate, what was scaled, and what the trained weights are worth."""
        assert isinstance(record, TrainingRecord)
        assert record.seconds is not None
        case, whole = self.case, self.case.recipe.epochs
        record.device = self.place.device_name()
        products = operations(case.recipe.net) * case.examples * whole
        record.gflop_per_s = products / record.seconds / 1e9
        rate = case.limits[record.backend]["matmul_gflop_per_s"]
        record.share_of_limit = record.gflop_per_s / rate
        record.epochs_measured = self.done * self.m / case.examples
        if self.m < case.examples:
            epochs = f"{self.done} epoch{'s' if self.done > 1 else ''}"
            record.reason = f"{epochs} on {self.m:,} of {case.examples:,} examples"
        elif self.done < whole:
            record.reason = f"{self.done:,} of {whole:,} epochs"
        else:  # judged in float64 and the same way, whoever trained them
            net, data = case.recipe.net, case.dataset
            weights = Parameters(to_host(self.trained.flat).astype(np.float64), net.layers)
            record.final_cost = net.cost(weights, data.X_train, data.Y_train)
            record.train_accuracy = accuracy(net.predict(weights, data.X_train), data.Y_train)
            record.test_accuracy = accuracy(net.predict(weights, data.X_test), data.Y_test)


def operations(net: Network) -> int:
    """Floating-point operations of the matrix products of an epoch, for each example.

    Forward and dW take a product each in every layer, dA one in all but the first.
    """
    products = [n * before for before, n in pairwise(net.layers)]
    return 2 * (3 * sum(products) - products[0])


@functools.cache
def _blas_threads() -> int:
    return machine.blas_threads()
