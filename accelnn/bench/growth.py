"""How the time of a training grows with examples, features, depth and batch size, for each solver,
and which solver "auto" picked.

The data is random, because only its shape matters; the mini-batches are of the digits. A training
that would take too long is ended early, and the rest is added at the rate of its epochs; the set-up
before the first epoch counts once.
"""

import functools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array
from accelnn.bench import machine
from accelnn.bench.cases import Skip
from accelnn.bench.records import Record, TrainingRecord
from accelnn.bench.trainings import TOLERANCE, operations
from accelnn.network import Network, Parameters
from accelnn.solvers import SOLVERS

EPOCHS = 300

# Examples on which the first step is checked: forming G of thousands would take too long.
CHECKED = 100


@dataclass(frozen=True)
class GrowthCase:
    """A net and its data at one size.

    along : the quantity that grows; value : its value here
    """

    name: str
    along: str
    value: int
    layers: tuple[int, ...]
    examples: int
    epochs: int = EPOCHS
    batch_size: int | None = None

    def __str__(self) -> str:
        return f"{self.name}({self.value:,})"

    @property
    def implementations(self) -> Sequence[str]:
        """All solvers, and "auto"."""
        return (*SOLVERS, "auto")

    @property
    def dtype(self) -> str:
        """float32 for mini-batches, else float64."""
        return "float32" if self.batch_size else "float64"

    @property
    def net(self) -> Network:
        """ReLU, with softmax for several outputs."""
        return Network(self.layers, output="softmax" if self.layers[-1] > 1 else "sigmoid")

    def record(self, implementation: str) -> TrainingRecord:
        return TrainingRecord(
            case=self.name,
            implementation=implementation,
            size={"along": self.along, "value": self.value, "layers": list(self.layers)},
            dtype=self.dtype,
            backend="numpy",
            threads=machine.blas_threads(),
            epochs=self.epochs,
            optimizer="sgd",
            batch_size=self.batch_size,
            steps=self.epochs * -(-self.examples // (self.batch_size or self.examples)),
        )

    def prepare(self, implementation: str, seconds: float, repeat: int) -> "GrowthContestant":
        return GrowthContestant(self, implementation, seconds / repeat)

    def compare(self, records: Sequence[Record]) -> None:
        """Nothing to compare: each first step was checked against the reference."""

    def data(self) -> tuple[Array, Array]:
        """X and Y."""
        if self.batch_size:
            return _digits()
        return _drawn(self.layers[0], self.examples)

    def first_weights(self) -> Parameters:
        """He's initial weights, on the host."""
        with backend.use("numpy"):
            return self.net.init("he", dtype=self.dtype)


@functools.lru_cache(maxsize=1)  # the largest takes half a gigabyte
def _drawn(features: int, examples: int) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    X = random.random((examples, features)).T
    return X, random.integers(0, 2, (1, examples)).astype(np.float64)


@functools.cache
def _digits() -> tuple[Array, Array]:
    with backend.use("numpy"):
        digits = datasets.load_digits(dtype="float32")
    return digits.X_train, digits.Y_train


class GrowthContestant:
    """One solver at one size. Measures the seconds of the training."""

    run_share = scale = 1.0
    transfer_seconds: float | None = None

    def __init__(self, case: GrowthCase, solver: str, seconds: float) -> None:
        self.case, self.solver, self.seconds = case, solver, seconds
        self.tolerance = TOLERANCE[case.dtype]
        self.X, self.Y = case.data()
        self.picked, self.done = solver, 0
        self.compile_seconds = 0.0

    def run(self) -> None:
        """Take a step on a few of the examples.

        Raises Skip if the solver cannot do this training.
        """
        count = min(CHECKED, self.case.batch_size or CHECKED)
        self.checked = self.X[:, :count], self.Y[..., :count]
        try:
            self.after_first_step = self._fit(*self.checked, 1)
        except ValueError as reason:
            if "cannot do this" not in str(reason):
                raise
            raise Skip(str(reason)) from None

    def _fit(
        self, X: Array, Y: Array, epochs: int, callbacks: Sequence[Callable[..., object]] = ()
    ) -> Parameters:
        params, history = accelnn.fit(
            self.case.net,
            self.case.first_weights(),
            X,
            Y,
            epochs=epochs,
            learning_rate=1e-3,
            batch_size=self.case.batch_size,
            solver=self.solver,
            record_every=max(1, epochs // 20),
            callbacks=callbacks,
        )
        self.picked = history.solver
        self.compiled = history.compile_seconds
        self.compile_seconds += history.compile_seconds
        return params

    def error(self) -> float:
        """The relative difference of the step from the float64 reference's."""
        first = self.case.first_weights()
        weights = Parameters(first.flat.astype(np.float64), first.layers)
        reference = -1e-3 * self.case.net.gradients(weights, *self.checked).flat
        step = self.after_first_step.flat - weights.flat
        return float(np.abs(step - reference).max() / np.abs(reference).max())

    def measure(self) -> float:
        """Time the training, or its beginning, from which the rest is extrapolated."""
        ends: list[tuple[int, float]] = []

        def watch(checkpoint: accelnn.Checkpoint) -> bool:
            ends.append((checkpoint.epoch + 1, time.perf_counter()))
            return len(ends) > 2 and ends[-1][1] - ends[0][1] > self.seconds

        start = time.perf_counter()
        self._fit(self.X, self.Y, self.case.epochs, [watch])
        seconds = time.perf_counter() - start - self.compiled
        (first, begun), (last, ended) = ends[0], ends[-1]
        stopped = last > first and ended - begun > self.seconds
        self.done = last if stopped else self.case.epochs
        missing = self.case.epochs - self.done
        return seconds + missing * (ended - begun) / max(1, last - first)

    def finish(self, record: Record) -> None:
        """Enter the solver, the epochs and the rate."""
        assert isinstance(record, TrainingRecord)
        assert record.seconds is not None
        case = self.case
        record.device = backend.NumpyBackend().device_name()
        record.solver, record.epochs_measured = self.picked, self.done
        record.compile_seconds = self.compile_seconds or None
        if not record.in_sample_space:
            products = operations(case.net) * case.examples * case.epochs
            record.gflop_per_s = products / record.seconds / 1e9
        if self.done < case.epochs:
            record.reason = f"{self.done:,} of {case.epochs:,} epochs"

    def close(self) -> None:
        """Nothing to close."""


GROWTHS = {
    "growth-examples": [
        GrowthCase("growth-examples", "examples", m, (12288, 7, 1), m)
        for m in (50, 100, 200, 500, 1000, 2000, 5000)
    ],
    "growth-features": [
        GrowthCase("growth-features", "features", n, (n, 7, 1), 209)
        for n in (50, 200, 1000, 5000, 20000)
    ],
    "growth-depth": [
        GrowthCase("growth-depth", "depth", depth, (12288, *[20] * depth, 1), 209)
        for depth in range(1, 6)
    ],
    "growth-batch": [
        GrowthCase("growth-batch", "batch", size, (784, 256, 128, 10), 4000, 3, size)
        for size in (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    ],
}
