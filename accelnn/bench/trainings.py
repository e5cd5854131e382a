"""Whole trainings as cases: the notes' recipes, and mini-batches of a larger net on digits, each
trained by loops, the notes' NumPy, this library and, on request, other packages.

A measurement is a whole training from the first weights; for a short one, the median of several.
If `repeat` of them would take too long, full-batch gradient descent, whose only state is its
weights, is run in equal parts: `repeat` measurements of one training, or of as much of it as there
is time for. Trainings with a set-up ("auto", "torch-gram"), with an optimizer that has moments, or
in mini-batches always run whole, as often as there is time for and at least once.
"""

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, Protocol

import numpy as np

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array, Backend, to_host
from accelnn.bench import machine, notes
from accelnn.bench.cases import LOOPS, ON_GPU, TURN, Skip, place_of
from accelnn.bench.peers import FLOAT32, PEERS, Peer, PeerJob, Unfit, on_gpu
from accelnn.bench.products import Products
from accelnn.bench.records import Record, TrainingRecord
from accelnn.kernels import loops
from accelnn.network import Network, Parameters
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy


@dataclass(frozen=True)
class Training:
    """One training to be timed.

    data, first_weights : functions of a dtype, and of a dtype and a seed
    dtype : the only one that it runs in; None for the dtype of the run
    precision : of the matrix products, as in `accelnn.fit`; None for that of the dtype
    examples : their number, if it is known before the data is drawn
    for_gpu : whether it would take too long on a CPU
    seeds : measurement k draws its weights and orders its mini-batches by seeds[k]
    band : by dtype, the relative amount by which a final cost may exceed ours before it is wrong
    """

    net: Network
    data: Callable[[str], datasets.Dataset]
    first_weights: Callable[[str, int], Parameters]
    epochs: int
    learning_rate: float
    optimizer: str = "sgd"
    batch_size: int | None = None
    dtype: str | None = None
    precision: str | None = None
    examples: int | None = None
    for_gpu: bool = False
    seeds: tuple[int, ...] = (0,)
    implementations: tuple[str, ...] = (
        *("python", "numba", "notes", "numpy", "accelnn"),
        *("cupy", "accelnn-cupy"),
    )
    float32_peers: tuple[str, ...] = ()
    band: tuple[tuple[str, float], ...] = (("float64", 1e-6), ("float32", 0.1))

    def steps(self, examples: int) -> int:
        """Updates of the weights in the whole training."""
        return self.epochs * -(-examples // (self.batch_size or examples))


def _recipe(name: str, **options: Any) -> Training:
    recipe = RECIPES[name]
    return Training(
        recipe.net,
        data=lambda dtype: recipe.data(dtype=dtype),
        first_weights=lambda dtype, _seed: recipe.first_weights(dtype),
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        **options,
    )


def _digits(
    batch_size: int,
    optimizer: str,
    epochs: int,
    rate: float | None = None,
    seeds: tuple[int, ...] = (0,),
) -> Training:
    net = Network([784, 256, 128, 10], output="softmax")
    return Training(
        net,
        data=lambda dtype: datasets.load_digits(dtype=dtype),
        first_weights=lambda dtype, seed: net.init("he", seed=seed, dtype=dtype),
        epochs=epochs,
        learning_rate=rate or {"sgd": 0.1, "adam": 1e-3}[optimizer],
        optimizer=optimizer,
        batch_size=batch_size,
        dtype="float32",
        seeds=seeds,
        implementations=("numpy", "accelnn", "cupy", "accelnn-cupy", "products"),
    )


def _large(precision: str, band: float) -> Training:
    """100 steps of 1.4e12 floating-point operations each, nearly all of them in matrix products.

    The learning rate is small because the curvature grows with the width of the net.
    """
    net = Network([4096, 4096, 4096, 10], output="softmax")
    return Training(
        net,
        data=lambda _dtype: _drawn(2 * 8192),
        first_weights=lambda dtype, seed: net.init("he", seed=seed, dtype=dtype),
        epochs=50,
        learning_rate=1e-3,
        batch_size=8192,
        dtype="float32",
        precision=precision,
        examples=2 * 8192,
        for_gpu=True,
        implementations=ON_GPU,
        band=(("float32", band),),
    )


@functools.lru_cache(maxsize=1)  # it takes a quarter of a gigabyte
def _drawn(m: int) -> datasets.Dataset:
    """Random points in 4096 dimensions, float32; the class is the largest of ten projections."""
    random = np.random.default_rng(0)
    X = random.standard_normal((m + 1000, 4096), np.float32)
    labels = (X @ random.standard_normal((4096, 10), np.float32)).argmax(axis=1)
    classes = tuple(map(str, range(10)))
    return datasets.Dataset(X[:m].T, labels[:m], X[m:].T, labels[m:], classes, "drawn")


# Gradient descent amplifies rounding. In float32 permuting the examples changes the final cost of
# cat-2layer by 3e-3 and that of cat-4layer by 0.14, relatively, so the latter gets a wider band. In
# float64 all of these trainings are stable.
WIDE = (("float64", 1e-6), ("float32", 0.5))

# The mini-batches run for about a second, at learning rates low enough that rounding does not
# decide the final cost.
TRAININGS = {
    "cat-logistic": _recipe("cat-logistic"),
    "cat-2layer": _recipe("cat-2layer", float32_peers=("torch", "jax")),
    "cat-4layer": _recipe("cat-4layer", float32_peers=("torch", "jax"), band=WIDE),
    "planar": _recipe("planar"),
    "digits": _recipe("digits"),
    "minibatch-32-sgd": _digits(32, "sgd", 10),
    "minibatch-32-adam": _digits(32, "adam", 10, rate=1e-4),
    "minibatch-128-sgd": _digits(128, "sgd", 30),
    "minibatch-128-adam": _digits(128, "adam", 30, rate=1e-4),
    "minibatch-1024-sgd": _digits(1024, "sgd", 60),
    "minibatch-1024-adam": _digits(1024, "adam", 60, rate=1e-4),
    # as a user of MLPClassifier would train it: its accuracy over five seeds
    "digits-mlp": _digits(128, "adam", 10, seeds=(1, 2, 3, 4, 5)),
    # one for each precision of the products; bfloat16 has 8 significant bits
    "minibatch-4096-8192": _large("float32", band=0.01),
    "minibatch-4096-8192-tf32": _large("tf32", band=0.01),
    "minibatch-4096-8192-bfloat16": _large("bfloat16", band=0.05),
}

# The largest relative difference of one step from the float64 reference's
TOLERANCE = {"float64": 1e-9, "float32": 1e-2, "tf32": 2e-2, "bfloat16": 0.1}

# The paper and most packages add Adam's ε after the bias correction, scikit-learn before it, which
# changes the first step by 2 %.
ADAM_TOLERANCE = 0.05

# MLPClassifier shuffles in its own order, and the last batches decide the final cost: over eight
# orders it differed by up to 0.74, relative to the lowest. So the band is wide; its process counts
# that every example was seen in every epoch.
BAND_OF_ORDER = 1.0


# --------------------------------------------------------------------------------------------
# our implementations, in this process


class Trainee(Protocol):
    """A training that can be run repeatedly from its first weights.

    solver, precision : the solver and the precision of its products, or None if not known
    device : on which it ran
    compile_seconds : spent compiling, not included in the seconds that `train` returns
    """

    solver: str | None
    precision: str | None
    device: str
    compile_seconds: float | None

    def first_step(self) -> Array:
        """The weights (flat) after one step on the first mini-batch."""

    def restart(self, seed: int) -> None:
        """Start again from the first weights."""

    def train(self, epochs: int) -> float:
        """Continue training; return the seconds it took."""

    def weights(self) -> Array:
        """The current weights (flat, on the host)."""

    def close(self) -> None:
        """Free what was started."""


class Library:
    """`accelnn.fit` on the backend of the arrays. Each `train` is a separate call, from the current
    weights.

    `first_step` raises Skip if the solver cannot do this training.
    """

    def __init__(
        self,
        training: Training,
        first: Callable[[int], Parameters],
        X: Array,
        Y: Array,
        solver: str,
        place: Backend,
    ) -> None:
        self.training, self.first, self.X, self.Y = training, first, X, Y
        self.asked, self.place, self.device = solver, place, place.device_name()
        self.solver: str | None = None
        self.precision: str | None = None
        self.compile_seconds: float | None = None

    def first_step(self) -> Array:
        self.restart(self.training.seeds[0])
        size = self.training.batch_size
        try:
            self._fit(self.X[:, :size], self.Y[:, :size], 1)
        except ValueError as reason:
            if "cannot do this" not in str(reason):
                raise
            raise Skip(str(reason)) from None
        return self.weights()

    def restart(self, seed: int) -> None:
        self.params, self.seed = self.first(seed), seed

    def train(self, epochs: int) -> float:
        before = self.compile_seconds or 0.0
        with self.place.timer() as timing:
            self._fit(self.X, self.Y, epochs)
        return float(timing.seconds) - (self.compile_seconds or 0.0) + before

    def _fit(self, X: Array, Y: Array, epochs: int) -> None:
        training = self.training
        self.params, history = accelnn.fit(
            training.net,
            self.params,
            X,
            Y,
            epochs=epochs,
            learning_rate=training.learning_rate,
            optimizer=training.optimizer,
            batch_size=training.batch_size,
            solver=self.asked,
            seed=self.seed,
            precision=training.precision,
        )
        self.solver, self.precision = history.solver, history.precision
        if history.compile_seconds:
            self.compile_seconds = (self.compile_seconds or 0.0) + history.compile_seconds

    def weights(self) -> Array:
        return to_host(self.params.flat)

    def close(self) -> None:
        """Nothing to close."""


class Notes:
    """The notes' NumPy: `optimize` for logistic regression, else the L-layer `model`."""

    solver: str | None = None
    precision: str | None = None
    compile_seconds: float | None = None

    def __init__(
        self, training: Training, first: Callable[[int], Parameters], X: Array, Y: Array
    ) -> None:
        self.training, self.first, self.X, self.Y = training, first, X, Y
        self.device = backend.NumpyBackend().device_name()

    def first_step(self) -> Array:
        self.restart(self.training.seeds[0])
        self.train(1)
        return self.weights()

    def restart(self, seed: int) -> None:
        self.params = self.first(seed)

    def train(self, epochs: int) -> float:
        start = time.perf_counter()
        self.params = self._train(epochs)
        return time.perf_counter() - start

    def _train(self, epochs: int) -> Parameters:
        net, rate = self.training.net, self.training.learning_rate
        if len(net.layers) == 2 and not net.l2:
            [(W, b)] = self.params
            w, bias, _ = notes.optimize(W.T, float(b[0, 0]), self.X, self.Y, epochs, rate)
            return Parameters.from_layers([(w.T, np.array([[bias]], w.dtype))])
        named: dict[str, Array] = {}
        for layer, (W, b) in enumerate(self.params, 1):
            named |= {f"W{layer}": W, f"b{layer}": b}
        activations = [*net.hidden, net.output]
        named, _ = notes.model(self.X, self.Y, named, activations, epochs, rate, net.l2)
        return Parameters.from_layers(
            [(named[f"W{layer}"], named[f"b{layer}"]) for layer in range(1, len(net.layers))]
        )

    def weights(self) -> Array:
        return self.params.flat

    def close(self) -> None:
        """Nothing to close."""


class Loops(Notes):
    """The notes' loops, in Python or compiled."""

    def __init__(
        self,
        training: Training,
        first: Callable[[int], Parameters],
        X: Array,
        Y: Array,
        implementation: str,
    ) -> None:
        super().__init__(training, first, np.ascontiguousarray(X), Y)
        net, m = training.net, X.shape[1]
        self.kinds = tuple(loops.KINDS[name] for name in (*net.hidden, net.output))
        self.A = (self.X, *(np.empty((n, m), X.dtype) for n in net.layers[1:]))
        self.dA = tuple(np.empty_like(array) for array in self.A)
        self.run_epoch = LOOPS[implementation].network_epoch

    def restart(self, seed: int) -> None:
        self.params = self.first(seed).copy()
        self.gradients = self.params.empty_like()

    def _train(self, epochs: int) -> Parameters:
        W, b = zip(*self.params, strict=True)
        dW, db = zip(*self.gradients, strict=True)
        arrays = (W, b, self.A, self.Y, self.kinds, self.dA, dW, db)
        for _ in range(epochs):
            self.run_epoch(*arrays, self.training.learning_rate, self.training.net.l2)
        return self.params


class Other:
    """Another package, in its own process.

    Raises Skip if it is not installed or cannot do this training.
    """

    def __init__(
        self,
        name: str,
        training: Training,
        first: Callable[[int], Parameters],
        X: Array,
        Y: Array,
        threads: int,
    ) -> None:
        net, seed = training.net, training.seeds[0]
        job = PeerJob(
            layers=tuple(net.layers),
            hidden=tuple(net.hidden),
            output=net.output,
            l2=net.l2,
            optimizer=training.optimizer,
            learning_rate=training.learning_rate,
            batch_size=training.batch_size,
            threads=threads,
            weights=first(seed).flat,
            seed=seed,
            X=np.ascontiguousarray(X.T),
            Y=np.ascontiguousarray(Y.T),
            precision=training.precision,
            gpu=_gpu_index(),
        )
        self.first = first
        try:
            self.peer = Peer(name, job)
        except Unfit as reason:
            raise Skip(str(reason)) from None
        self.solver: str | None = self.peer.variant
        self.precision = training.precision
        self.device = self.peer.device or backend.NumpyBackend().device_name()
        self.compile_seconds = self.peer.compile_seconds
        self.first_step, self.train = self.peer.first_step, self.peer.train
        self.weights, self.close = self.peer.weights, self.peer.close

    def restart(self, seed: int) -> None:
        self.peer.restart(self.first(seed).flat, seed)


# --------------------------------------------------------------------------------------------
# cases

# The first of these that was run is the reference for the final costs of the others
OURS = ("numpy", "accelnn", "cupy", "accelnn-cupy")

# A measurement is the median of trainings that take SHORT seconds together, but at most MOST of
# them: interruptions by other processes last about 10 ms.
SHORT, MOST = 0.1, 15

# Implementations with a set-up, which would have to be repeated for each part of a training
WITH_SET_UP = ("accelnn", "accelnn-cupy", "torch-gram")


@dataclass
class TrainingCase:
    """One training by name, run whole if there is time for it, else in part and scaled."""

    name: str
    dtype: str  # of the whole run; a training may have one of its own
    limits: dict[str, dict[str, float]]  # by backend, as machine.limits gives them
    peers: bool = False  # whether to include other packages
    gpu_peers: bool = False  # whether to include them on the GPU

    @property
    def training(self) -> Training:
        return TRAININGS[self.name]

    def __str__(self) -> str:
        return self.name

    @property
    def implementations(self) -> Sequence[str]:
        """The implementations that can do this training."""
        training = self.training
        if not self.peers:
            return training.implementations
        others = [
            name
            for name in PEERS
            if (self.gpu_peers if on_gpu(name) else not training.for_gpu)
            and (training.batch_size is None or name != "torch-gram")
        ]
        if self.dtype == "float64":
            others += [name + FLOAT32 for name in training.float32_peers]
        return (*training.implementations, *others)

    def dtype_of(self, implementation: str) -> str:
        """The dtype in which an implementation trains."""
        if implementation.endswith(FLOAT32):
            return "float32"
        return self.training.dtype or self.dtype

    def record(self, implementation: str) -> TrainingRecord:
        threads: int | None = {"python": 1, "numba": 1}.get(implementation, _blas_threads())
        place = "numpy"
        if implementation in ON_GPU or on_gpu(implementation):
            threads, place = None, "cupy" if implementation in ON_GPU else "cuda"
        training, dtype = self.training, self.dtype_of(implementation)
        return TrainingRecord(
            case=self.name,
            implementation=implementation,
            size={"layers": list(training.net.layers), "examples": self.examples},
            dtype=dtype,
            backend=place,
            threads=threads,
            epochs=training.epochs,
            optimizer=training.optimizer,
            batch_size=training.batch_size,
            steps=training.steps(self.examples),
            data=self._data(dtype),
        )

    def _data(self, dtype: str) -> str:
        if self.training.examples is not None:
            return "drawn"
        return "stand-in" if self.dataset(dtype).stand_in else "real"

    def prepare(
        self, implementation: str, seconds: float, repeat: int
    ) -> "TrainingContestant | Products":
        place, dtype = place_of(implementation), self.dtype_of(implementation)
        data, training = self.dataset(dtype), self.training
        if implementation == "products":
            size = training.batch_size or self.examples
            weights = self.first_weights(dtype, training.seeds[0])
            return Products(training.net, weights, data.X_train, size, training.epochs)
        if implementation in LOOPS:  # a small part is enough to time them
            seconds /= 5
        m = self._affordable_examples(implementation, seconds / repeat)
        X, Y = data.X_train[:, :m], data.Y_train[:, :m]
        first: Callable[[int], Parameters] = functools.partial(self.first_weights, dtype)
        transfer_seconds = None
        if place.name == "cupy":
            place.synchronize()
            start = time.perf_counter()
            X, Y = place.to_device(X), place.to_device(Y)
            place.synchronize()
            transfer_seconds = time.perf_counter() - start

            def first(seed: int) -> Parameters:
                weights = self.first_weights(dtype, seed)
                return Parameters(place.to_device(weights.flat), weights.layers)

        name = implementation.removesuffix(FLOAT32)
        trainee: Trainee
        if name in PEERS:
            trainee = Other(name, training, first, X, Y, _blas_threads())
        elif name in LOOPS:
            trainee = Loops(training, first, X, Y, name)
        elif name == "notes":
            trainee = Notes(training, first, X, Y)
        else:
            solver = "auto" if name in ("accelnn", "accelnn-cupy") else "direct"
            trainee = Library(training, first, X, Y, solver, place)
        contestant = TrainingContestant(self, name, dtype, trainee, place, m, seconds, repeat)
        contestant.transfer_seconds = transfer_seconds
        return contestant

    def _affordable_examples(self, implementation: str, seconds: float) -> int:
        if implementation != "python":
            return self.examples
        turns = operations(self.training.net) / 2
        return max(1, min(self.examples, int(seconds / (turns * TURN["python"]))))

    def compare(self, records: Sequence[Record]) -> None:
        """Enter the difference of each final cost from that of the first of OURS that was run. A
        cost above it by more than rounding explains means less work: the record is wrong."""
        ended = [r for r in records if isinstance(r, TrainingRecord) and r.final_cost is not None]
        by_name = {record.implementation: record for record in ended}
        ours = next((by_name[name] for name in OURS if name in by_name), None)
        if ours is None or not ours.final_cost:
            return
        for record in ended:
            assert record.final_cost is not None
            record.cost_difference = record.final_cost / ours.final_cost - 1
            band = dict(self.training.band)[record.dtype]
            if record.implementation == "sklearn" and self.training.batch_size:
                band = BAND_OF_ORDER
            if not record.cost_difference <= band:  # NaN comes here too
                record.status = "wrong"
                record.seconds = record.seconds_min = record.seconds_max = None
                record.reason = (
                    f"the final cost {record.final_cost:.6g} exceeds that of "
                    f"{ours.implementation}, {ours.final_cost:.6g}, by more than {band:g} of it"
                )

    @property
    def examples(self) -> int:
        if self.training.examples is not None:
            return self.training.examples
        return int(self.dataset(self.training.dtype or self.dtype).X_train.shape[1])

    @functools.cached_property
    def _datasets(self) -> dict[str, datasets.Dataset]:
        return {}

    def dataset(self, dtype: str) -> datasets.Dataset:
        """The data on the host, labels as the (n_L, m) that the loops and the notes need."""
        if dtype not in self._datasets:
            with backend.use("numpy"):
                data, net = self.training.data(dtype), self.training.net
                Y_train, Y_test = (net.targets(Y, dtype) for Y in (data.Y_train, data.Y_test))
                self._datasets[dtype] = replace(data, Y_train=Y_train, Y_test=Y_test)
        return self._datasets[dtype]

    def first_weights(self, dtype: str, seed: int) -> Parameters:
        """The initial weights, on the host."""
        with backend.use("numpy"):
            return self.training.first_weights(dtype, seed)

    def first_gradient(self, dtype: str, size: int) -> Array:
        """The gradient for the first `size` examples at the initial weights, flat, in float64."""
        if (dtype, size) not in self._gradients:
            training, data = self.training, self.dataset(dtype)
            flat = self.first_weights(dtype, training.seeds[0]).flat.astype(np.float64)
            weights = Parameters(flat, training.net.layers)
            X, Y = data.X_train[:, :size], data.Y_train[:, :size]
            self._gradients[dtype, size] = training.net.gradients(weights, X, Y).flat
        return self._gradients[dtype, size]

    @functools.cached_property
    def _gradients(self) -> dict[tuple[str, int], Array]:
        return {}

    def outcome(self, dtype: str, flat: Array) -> tuple[float, float, float]:
        """Final cost, training accuracy and test accuracy of trained weights, always computed in
        float64: on the host, or on the GPU if it takes too long there."""
        net, data = self.training.net, self.dataset(dtype)
        place: Backend = backend.NumpyBackend()
        if self.training.for_gpu and backend.why_not() is None:
            place = backend.CupyBackend()
        weights = Parameters(place.to_device(flat, np.float64), net.layers)
        train = [place.to_device(Z, np.float64) for Z in (data.X_train, data.Y_train)]
        test = [place.to_device(Z, np.float64) for Z in (data.X_test, data.Y_test)]
        return (
            net.cost(weights, *train),
            accuracy(net.predict(weights, train[0]), train[1]),
            accuracy(net.predict(weights, test[0]), test[1]),
        )


class TrainingContestant:
    """One implementation's training, on the first m examples, whole or in parts.

    Measures the seconds of an epoch on m examples.
    """

    run_share = 1.0
    transfer_seconds: float | None

    def __init__(
        self,
        case: TrainingCase,
        name: str,
        dtype: str,
        trainee: Trainee,
        place: Backend,
        m: int,
        seconds: float,
        repeat: int,
    ) -> None:
        self.case, self.name, self.dtype, self.trainee = case, name, dtype, trainee
        self.place, self.m, self.seconds, self.repeat = place, m, seconds, repeat
        self.scale = case.training.epochs * case.examples / m
        self.tolerance = ADAM_TOLERANCE
        if case.training.optimizer == "sgd":
            self.tolerance = TOLERANCE[case.training.precision or dtype]
        self.parts: list[int] | None = None
        self.done = 0  # epochs since the initial weights
        self.measured = 0
        self.test_accuracies: dict[int, float] = {}

    def run(self) -> None:
        """The first step of the training."""
        self.after_first_step = self.trainee.first_step()

    def error(self) -> float:
        """The relative difference of that step from the float64 reference's."""
        training = self.case.training
        first = self.case.first_weights(self.dtype, training.seeds[0]).flat.astype(np.float64)
        size = min(training.batch_size or self.m, self.m)
        gradient = self.case.first_gradient(self.dtype, size)
        step = self.after_first_step - first
        if training.optimizer == "sgd":
            reference = -training.learning_rate * gradient
            return float(np.abs(step - reference).max() / np.abs(reference).max())
        # Adam's first step is α g / (|g| + ε): gradients that are pure rounding get full steps of
        # random sign, so the norm of the whole step is compared.
        reference = -training.learning_rate * gradient / (np.abs(gradient) + 1e-8)
        return float(np.linalg.norm(step - reference) / np.linalg.norm(reference))

    def measure(self) -> float:
        """Time the whole training (a short one several times) or its next part."""
        if self.parts is None:
            self.parts = self._plan()
        training = self.case.training
        epochs, seed = training.epochs, training.seeds[self.measured % len(training.seeds)]
        if self.parts:
            epochs = self.parts.pop(0)
        whole = epochs == training.epochs
        if self.measured == 0 and not whole:
            self.trainee.restart(seed)
        seconds: list[float] = []
        while not seconds or (whole and sum(seconds) < SHORT and len(seconds) < MOST):
            if whole:
                self.trainee.restart(seed)
                self.done = 0
            seconds.append(self.trainee.train(epochs))
            self.done += epochs
        self.measured += 1
        if len(training.seeds) > 1:
            self.test_accuracies[seed] = self._outcome()[2]
        return statistics.median(seconds) / epochs

    def _plan(self) -> list[int]:
        """The epochs of each measurement; empty if each is a whole training."""
        training, repeat = self.case.training, self.repeat
        if self.name in WITH_SET_UP or training.batch_size or training.optimizer != "sgd":
            return []
        self.trainee.restart(training.seeds[0])
        epochs, spent = 1, 0.0
        while True:
            seconds = self.trainee.train(epochs)
            spent += seconds
            if seconds > self.seconds / 50 or spent > self.seconds / 10:
                break
            epochs *= 4
        whole, affordable = training.epochs, int(self.seconds / seconds * epochs)
        if self.m == self.case.examples and affordable >= whole * repeat:
            return []
        if self.m == self.case.examples and affordable >= whole >= repeat:
            return [whole * (i + 1) // repeat - whole * i // repeat for i in range(repeat)]
        return [max(1, min(affordable, whole) // repeat)] * repeat

    def _outcome(self) -> tuple[float, float, float]:
        return self.case.outcome(self.dtype, self.trainee.weights())

    def finish(self, record: Record) -> None:
        """Enter the rate, the epochs that were run, and cost and accuracy of the weights."""
        assert isinstance(record, TrainingRecord)
        assert record.seconds is not None
        case, training = self.case, self.case.training
        whole = training.epochs
        record.device = self.trainee.device
        record.solver = self.trainee.solver or self.name
        record.precision = self.trainee.precision or self.dtype
        if self.trainee.compile_seconds is not None:
            record.compile_seconds = self.trainee.compile_seconds
        if not record.in_sample_space:
            products = operations(training.net) * case.examples * whole
            record.gflop_per_s = products / record.seconds / 1e9
            limits = case.limits.get("cupy" if record.backend == "cuda" else record.backend, {})
            rate = limits.get(f"matmul_{record.precision}_gflop_per_s")
            if rate is None and record.precision == case.dtype:  # the plain limit's dtype
                rate = limits.get("matmul_gflop_per_s")
            if rate is not None:
                record.share_of_limit = record.gflop_per_s / rate
        record.epochs_measured = self.done * self.m / case.examples
        if self.m < case.examples:
            epochs = f"{self.done} epoch{'s' if self.done > 1 else ''}"
            record.reason = f"{epochs} on {self.m:,} of {case.examples:,} examples"
            return
        if self.done < whole:
            record.reason = f"{self.done:,} of {whole:,} epochs"
            return
        record.final_cost, record.train_accuracy, record.test_accuracy = self._outcome()
        remarks = []
        if self.test_accuracies:
            found = list(self.test_accuracies.values())
            record.test_accuracy = statistics.mean(found)
            seeds = f"{len(found)} seeds" if len(found) > 1 else "one seed"
            remarks.append(f"test accuracy of {seeds} {min(found):.2%} to {max(found):.2%}")
        if self.name == "sklearn" and training.batch_size:
            remarks.append("shuffles in its own order")
        record.reason = "; ".join(remarks) or None

    def close(self) -> None:
        """Free what was started."""
        self.trainee.close()


def operations(net: Network) -> int:
    """Floating-point operations of an epoch's matrix products, per example.

    Every layer has one product in the forward pass and one for dW, all but the first one for dA.
    """
    products = [n * before for before, n in pairwise(net.layers)]
    return 2 * (3 * sum(products) - products[0])


@functools.cache
def _blas_threads() -> int:
    return machine.blas_threads()


def _gpu_index() -> int:
    """The index of the GPU that our implementations use, for the peers."""
    return 0 if backend.why_not() else backend.CupyBackend().index
