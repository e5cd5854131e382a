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
from accelnn.bench.cases import LOOPS, TURN, Contestant, place_of
from accelnn.bench.records import Record, TrainingRecord
from accelnn.kernels import loops
from accelnn.network import Parameters
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
            size={"layers": list(self.recipe.net.layers), "examples": self._data.X_train.shape[1]},
            dtype=self.dtype,
            backend="cupy" if implementation == "cupy" else "numpy",
            threads=threads,
            solver="direct" if implementation in ("numpy", "cupy") else implementation,
            epochs=self.recipe.epochs,
            data="stand-in" if self._data.stand_in else "real",
        )

    def prepare(self, implementation: str, seconds: float, repeat: int) -> Contestant:
        recipe, place, data = self.recipe, place_of(implementation), self._data
        m = self._affordable_examples(implementation, seconds / repeat)
        X, Y = data.X_train[:, :m], data.Y_train[:, :m]
        first = self._first_weights
        reference = self._step(m)

        transfer = None
        if place.name == "cupy":
            place.synchronize()
            start = time.perf_counter()
            X, Y = place.to_device(X), place.to_device(Y)
            place.synchronize()
            transfer = time.perf_counter() - start
            first = Parameters(place.to_device(first.flat), first.layers)

        start_anew = functools.partial(trainer, implementation, recipe, first, X, Y)
        train = start_anew()
        trained = first
        parts: list[int] = []

        def one_step() -> None:
            nonlocal trained
            trained = start_anew()(1)

        def error() -> float:
            step = _host(trained).flat - self._first_weights.flat
            return float(np.abs(step - reference).max() / np.abs(reference).max())

        def measure() -> float:
            """One part of the training, as the seconds of an epoch."""
            nonlocal trained
            if not parts:
                parts.extend(self._parts(start_anew, place, seconds, repeat, m))
            epochs = parts.pop(0)
            with place.timer() as timing:
                trained = train(epochs)
            done.append(epochs)
            return float(timing.seconds) / epochs

        done: list[int] = []

        def finish(record: Record) -> None:
            assert isinstance(record, TrainingRecord)
            assert record.seconds is not None
            record.device = place.device_name()
            record.gflop_per_s = self._operations() * recipe.epochs / record.seconds / 1e9
            rate = self.limits[record.backend]["matmul_gflop_per_s"]
            record.share_of_limit = record.gflop_per_s / rate
            epochs = sum(done)
            record.epochs_measured = epochs * m / data.X_train.shape[1]
            if m < data.X_train.shape[1]:
                examples = f"{m} of {data.X_train.shape[1]} examples"
                record.reason = f"scaled from {_count(epochs, 'epoch')} on {examples}"
            elif epochs < recipe.epochs:
                record.reason = f"scaled from {epochs} of {recipe.epochs} epochs"
            else:
                self._judge(record, _host(trained))

        return Contestant(
            run=one_step,
            error=error,
            tolerance=TOLERANCE[self.dtype],
            measure=measure,
            finish=finish,
            scale=recipe.epochs * data.X_train.shape[1] / m,
            transfer_seconds=transfer,
        )

    def _parts(
        self,
        start_anew: Callable[[], Trainer],
        place: Backend,
        seconds: float,
        repeat: int,
        m: int,
    ) -> list[int]:
        """How many epochs to run in each part: all of them where the time allows."""
        train, epochs, spent = start_anew(), 1, 0.0
        while True:
            with place.timer() as timing:
                train(epochs)
            spent += timing.seconds
            if timing.seconds > seconds / 50 or spent > seconds / 10:
                break
            epochs *= 4
        affordable = int(seconds / (timing.seconds / epochs))
        whole = self.recipe.epochs
        if m == self._data.X_train.shape[1] and affordable >= whole >= repeat:
            return [whole * (i + 1) // repeat - whole * i // repeat for i in range(repeat)]
        return [max(1, min(affordable, whole) // repeat)] * repeat

    def _affordable_examples(self, implementation: str, seconds: float) -> int:
        m = int(self._data.X_train.shape[1])
        if implementation != "python":
            return m
        one_example = self._operations() / 2 / m * TURN["python"]
        return max(1, min(m, int(seconds / one_example)))

    def _operations(self) -> int:
        """Floating-point operations of the matrix products of an epoch."""
        layers = self.recipe.net.layers
        products = [n * before for before, n in pairwise(layers)]
        # forward and dW of every layer, dA of all but the first
        return 2 * int(self._data.X_train.shape[1]) * (3 * sum(products) - products[0])

    def _judge(self, record: TrainingRecord, trained: Parameters) -> None:
        """Enter what the trained weights are worth, the same way for everybody, in float64."""
        net, data = self.recipe.net, self._data
        weights = Parameters(trained.flat.astype(np.float64), trained.layers)
        record.final_cost = net.cost(weights, data.X_train, data.Y_train)
        record.train_accuracy = accuracy(net.predict(weights, data.X_train), data.Y_train)
        record.test_accuracy = accuracy(net.predict(weights, data.X_test), data.Y_test)

    def _step(self, m: int) -> Array:
        """The first step of gradient descent on m examples, in float64."""
        X, Y = self._data.X_train[:, :m], self._data.Y_train[:, :m]
        weights = Parameters(self._first_weights.flat.astype(np.float64), self.recipe.net.layers)
        return -self.recipe.learning_rate * self.recipe.net.gradients(weights, X, Y).flat

    @functools.cached_property
    def _data(self) -> datasets.Dataset:
        with backend.use("numpy"):
            return self.recipe.data(dtype=self.dtype)

    @functools.cached_property
    def _first_weights(self) -> Parameters:
        with backend.use("numpy"):
            return self.recipe.first_weights(self.dtype)


def _host(params: Parameters) -> Parameters:
    return Parameters(to_host(params.flat), params.layers)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'s' if number != 1 else ''}"


@functools.cache
def _blas_threads() -> int:
    return machine.blas_threads()
