"""The matrix products of a training and nothing else. Only the rest of a training's time can be
saved without a faster matrix product."""

import time

import numpy as np

from accelnn import backend
from accelnn.backend import Array
from accelnn.bench.records import Record, TrainingRecord
from accelnn.network import Network, Parameters


class Products:
    """The 3L - 1 products of every step, by NumPy into preallocated arrays, in the faster layout.
    Measures the seconds of an epoch.

    Z[l] = W[l] A[l-1], dW[l] = dZ[l] A[l-1]ᵀ and, in all but the first layer,
    dA[l-1] = W[l]ᵀ dZ[l].
    """

    run_share = 1.0
    transfer_seconds: float | None = None

    def __init__(self, net: Network, weights: Parameters, X: Array, size: int, epochs: int) -> None:
        self.net, self.epochs, self.scale = net, epochs, float(epochs)
        self.tolerance = 4 * float(np.finfo(X.dtype).eps) * max(*net.layers, size)
        self.batches = [X[:, start : start + size] for start in range(0, X.shape[1], size)]
        self.weights = [W for W, _ in weights]
        random = np.random.default_rng(0)
        # by layout and by batch size: the last batch may be smaller
        self.work: dict[str, dict[int, tuple[list[Array], ...]]] = {
            layout: {m: self._arrays(m, layout, random) for m in (size, X.shape[1] % size) if m}
            for layout in "CF"
        }
        self._epoch("C")
        seconds = {layout: min(self._epoch(layout) for _ in range(3)) for layout in "CF"}
        self.layout = min(seconds, key=lambda layout: seconds[layout])

    def _arrays(self, m: int, layout: str, random: np.random.Generator) -> tuple[list[Array], ...]:
        outputs = self.net.layers[1:]

        def columns(n: int) -> Array:
            drawn = random.random((n, m)).astype(self.weights[0].dtype)
            return np.asarray(drawn, order=layout)  # type: ignore[call-overload]

        A, dZ = [columns(n) for n in outputs[:-1]], [columns(n) for n in outputs]
        Z, dA = [columns(n) for n in outputs], [columns(n) for n in outputs[:-1]]
        return A, dZ, Z, dA, [np.empty_like(W) for W in self.weights]

    def _step(self, X: Array, layout: str) -> None:
        A, dZ, Z, dA, dW = self.work[layout][X.shape[1]]
        before = [X, *A]
        for l, W in enumerate(self.weights):
            np.matmul(W, before[l], out=Z[l])
        for l in reversed(range(len(self.weights))):
            np.matmul(dZ[l], before[l].T, out=dW[l])
            if l:
                np.matmul(self.weights[l].T, dZ[l], out=dA[l - 1])

    def _epoch(self, layout: str) -> float:
        start = time.perf_counter()
        for X in self.batches:
            self._step(X, layout)
        return time.perf_counter() - start

    def run(self) -> None:
        """The products of the first step."""
        self._step(self.batches[0], self.layout)

    def error(self) -> float:
        """The largest error of any product, relative to its largest element."""
        X = self.batches[0].astype(np.float64)
        A, dZ, Z, dA, dW = self.work[self.layout][X.shape[1]]
        before, weights = [X, *A], [W.astype(np.float64) for W in self.weights]
        pairs = [
            *((Z[l], W @ before[l].astype(np.float64)) for l, W in enumerate(weights)),
            *((dW[l], dZ[l].astype(np.float64) @ before[l].T) for l in range(len(weights))),
            *((dA[l - 1], weights[l].T @ dZ[l]) for l in range(1, len(weights))),
        ]
        return max(float(np.abs(got - right).max() / np.abs(right).max()) for got, right in pairs)

    def measure(self) -> float:
        """The products of the whole training."""
        return sum(self._epoch(self.layout) for _ in range(self.epochs)) / self.epochs

    def finish(self, record: Record) -> None:
        """Enter the layout; all epochs were measured."""
        assert isinstance(record, TrainingRecord)
        record.device = backend.NumpyBackend().device_name()
        record.epochs_measured = self.epochs
        record.solver = {"C": "examples last", "F": "examples first"}[self.layout]

    def close(self) -> None:
        """Nothing to close."""
