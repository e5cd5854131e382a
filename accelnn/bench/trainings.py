"""Whole trainings as cases, each trained by loops, the notes' NumPy, accelnn and other packages.

A measurement is a whole training; for a short one, the median of several. If `repeat` of them
would take too long, full-batch gradient descent, whose only state is its weights, runs in equal
parts; trainings with a set-up, moments or mini-batches always run whole, at least once.
"""

import functools
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np

import accelnn
from accelnn import backend, datasets
from accelnn.backend import Array, to_host
from accelnn.bench import machine, notes
from accelnn.bench.cases import ON_GPU, TURN, place_of
from accelnn.bench.peers import FLOAT32, PEERS, Peer, PeerJob, on_gpu
from accelnn.bench.records import Record, Skip, TrainingRecord
from accelnn.kernels import jit, loops
from accelnn.network import Network, Parameters
from accelnn.recipes import RECIPES, Recipe
from accelnn.scores import accuracy

# --------------------------------------------------------------------------------------------
# implementations


@dataclass(eq=False)
class Job:
    """A training for one implementation: X (n_0, m) and Y (n_L, m) are on its backend.

    peer : the process that does it, if another package does
    """

    recipe: Recipe
    X: Array
    Y: Array
    peer: Peer | None = None


# A training's solver, precision, device and compile_seconds; and its seconds, if the caller's clock
# has others
Facts = dict[str, Any]

# The trained parameters (None if it trains nothing), and the facts
Trained = tuple[Parameters | None, Facts]

# (job, params, epochs, seed, m): train on the first m examples, and leave the given parameters
Implementation = Callable[[Job, Parameters, int, int, int], Trained]


def library(solver: str, job: Job, params: Parameters, epochs: int, seed: int, m: int) -> Trained:
    """`accelnn.fit` on the backend of the arrays. Raises Skip if the solver cannot do the job."""
    given = ("learning_rate", "optimizer", "batch_size", "precision")
    options: dict[str, Any] = {name: getattr(job.recipe, name) for name in given}
    options |= {"epochs": epochs, "solver": solver, "seed": seed}
    try:
        params, history = accelnn.fit(job.recipe.net, params, job.X[:, :m], job.Y[:, :m], **options)
    except ValueError as reason:
        if "cannot do this" not in str(reason):
            raise
        raise Skip(str(reason)) from None
    names = ("solver", "precision", "device", "compile_seconds")
    return params, {name: getattr(history, name) for name in names}


def loop(module: Any, job: Job, first: Parameters, epochs: int, _seed: int, m: int) -> Trained:
    """The loops of a module."""
    net, params, gradients = job.recipe.net, first.copy(), first.empty_like()
    kinds = tuple(loops.KINDS[name] for name in (*net.hidden, net.output))
    outputs = (np.empty((n, m), job.X.dtype) for n in net.layers[1:])
    A = (np.ascontiguousarray(job.X[:, :m]), *outputs)
    dA = tuple(np.empty_like(array) for array in A)
    (W, b), (dW, db) = zip(*params, strict=True), zip(*gradients, strict=True)
    arrays = (W, b, A, job.Y[:, :m], kinds, dA, dW, db)
    for _ in range(epochs):
        module.network_epoch(*arrays, job.recipe.learning_rate, net.l2)
    return params, {}


def notes_numpy(job: Job, params: Parameters, epochs: int, _seed: int, m: int) -> Trained:
    """The notes' `optimize` for logistic regression, else their `model`."""
    net, rate = job.recipe.net, job.recipe.learning_rate
    X, Y = job.X[:, :m], job.Y[:, :m]
    if len(net.layers) == 2 and not net.l2:
        [(W, b)] = params
        w, bias, _ = notes.optimize(W.T, float(b[0, 0]), X, Y, epochs, rate)
        return Parameters.from_layers([(w.T, np.array([[bias]], w.dtype))]), {}
    named: dict[str, Array] = {}
    for l, (W, b) in enumerate(params, 1):
        named |= {f"W{l}": W, f"b{l}": b}
    named, _ = notes.model(X, Y, named, [*net.hidden, net.output], epochs, rate, net.l2)
    trained = [(named[f"W{l}"], named[f"b{l}"]) for l in range(1, len(net.layers))]
    return Parameters.from_layers(trained), {}


def products(job: Job, params: Parameters, epochs: int, _seed: int, m: int) -> Trained:
    """The 3L - 1 matrix products of each step and nothing else, in the faster layout: Z = W A,
    dW = dZ Aᵀ and, in all but the first layer, dA = Wᵀ dZ. Without a faster product only the rest
    of a training's time can be saved."""
    layers, weights = job.recipe.net.layers, [W for W, _ in params]
    dW, random = [np.empty_like(W) for W in weights], np.random.default_rng(0)

    def arrays(m: int, layout: Any) -> list[list[Array]]:
        return [
            [np.asarray(random.random((n, m)).astype(job.X.dtype), order=layout) for n in sizes]
            for sizes in (layers[1:-1], layers[1:], layers[1:], layers[:-1])
        ]

    def step(X: Array, A: list[Array], Z: list[Array], dZ: list[Array], dA: list[Array]) -> None:
        inputs = [X, *A]
        for l, W in enumerate(weights):
            np.matmul(W, inputs[l], out=Z[l])
        for l in reversed(range(len(weights))):
            np.matmul(dZ[l], inputs[l].T, out=dW[l])
            if l:
                np.matmul(weights[l].T, dZ[l], out=dA[l])

    size = min(job.recipe.batch_size or m, m)
    batches = [job.X[:, start : min(start + size, m)] for start in range(0, m, size)]
    found = []
    for layout, name in (("C", "examples last"), ("F", "examples first")):
        work = {n: arrays(n, layout) for n in {X.shape[1] for X in batches}}
        step(batches[0], *work[size])
        start = time.perf_counter()
        for _ in range(epochs):
            for X in batches:
                step(X, *work[X.shape[1]])
        found.append((time.perf_counter() - start, name))
    seconds, name = min(found)
    return None, {"solver": name, "seconds": seconds}


def peer(name: str, job: Job, params: Parameters, epochs: int, seed: int, m: int) -> Trained:
    """Another package, in its own process. Raises Skip if it is not installed or cannot do it."""
    recipe = job.recipe
    if job.peer is None:
        X, Y = (np.ascontiguousarray(Z.T) for Z in (job.X, job.Y))
        sent = replace(recipe, data=None)  # type: ignore[arg-type]  # it may not pickle
        gpu = 0 if backend.why_not() else backend.CupyBackend().index
        job.peer = Peer(name, PeerJob(sent, params.flat, X, Y, machine.blas_threads(), gpu))
    flat, seconds = job.peer.train(params.flat, epochs, seed, m)
    return Parameters(flat, params.layers), {
        "solver": job.peer.variant,
        "precision": recipe.precision,
        "device": job.peer.device,
        "compile_seconds": job.peer.compile_seconds or 0.0,
        "seconds": seconds,
    }


# By name, all that an implementation needs
IMPLEMENTATIONS: dict[str, Implementation] = {
    "python": functools.partial(loop, loops),
    "numba": functools.partial(loop, jit.serial),
    "notes": notes_numpy,
    "numpy": functools.partial(library, "direct"),
    "accelnn": functools.partial(library, "auto"),
    "cupy": functools.partial(library, "direct"),
    "accelnn-cupy": functools.partial(library, "auto"),
    "products": products,
}

# They train in full batches only; the products are a limit for mini-batches
FULL_BATCHES_ONLY = ("python", "numba", "notes", "torch-gram")

# The first of these that ran is the reference for the final costs of the others
OURS = ("numpy", "accelnn", "cupy", "accelnn-cupy")

# --------------------------------------------------------------------------------------------
# trainings

# Gradient descent amplifies rounding. In float32 permuting the examples changes the final cost of
# cat-2layer by 3e-3 and that of cat-4layer by 0.14, relatively, so the latter gets a wider band. In
# float64 all of these trainings are stable.
BAND, WIDE = {"float64": 1e-6, "float32": 0.1}, {"float64": 1e-6, "float32": 0.5}


@dataclass(frozen=True)
class Training:
    """One training to be timed.

    seeds : measurement k draws its weights and orders its mini-batches by seeds[k]; by default
        by the recipe's seed
    dtype : the only one that it runs in; None for the dtype of the run
    examples : their number, if it is known before the data is drawn
    for_gpu : whether it would take too long on a CPU
    float32_peers : peers that train in float32 too, while all others train in float64
    band : by dtype, the relative amount by which a final cost may exceed ours before it is wrong
    along : what grows and its value, if the training is a point on a curve of growth
    """

    recipe: Recipe
    implementations: Mapping[str, Implementation] = field(default_factory=lambda: IMPLEMENTATIONS)
    dtype: str | None = None
    examples: int | None = None
    for_gpu: bool = False
    seeds: Sequence[int] = ()
    float32_peers: Sequence[str] = ()
    band: Mapping[str, float] = field(default_factory=lambda: BAND)
    along: tuple[str, int] | None = None


def _notes(name: str, **options: Any) -> Training:
    return Training(RECIPES[name].changed(method=None), **options)


def _digits(batch_size: int, optimizer: str, epochs: int, rate: float) -> Training:
    recipe = RECIPES["digits-minibatch"].changed(optimizer=optimizer, learning_rate=rate)
    recipe = recipe.changed(batch_size=batch_size, epochs=epochs, seed=0)
    return Training(recipe, dtype="float32")


def _large(precision: str, band: float) -> Training:
    """100 steps of 1.4e12 floating-point operations each, nearly all in matrix products. The
    learning rate is small because the curvature grows with the width of the net."""
    net = Network([4096, 4096, 4096, 10], output="softmax")
    training = _random(net, 2 * 8192, 50, 1e-3, batch_size=8192, precision=precision)
    return replace(training, for_gpu=True, band={"float32": band})


def _random(net: Network, m: int, epochs: int, rate: float, **options: Any) -> Training:
    """In float32, on m random points."""
    n, classes = net.layers[0], max(net.layers[-1], 2)
    recipe = Recipe("Random points", lambda **_: _drawn(m, n, classes), net, epochs, rate, "he")
    return Training(recipe.changed(seed=0, **options), dtype="float32", examples=m)


@functools.lru_cache(maxsize=1)  # it takes up to a quarter of a gigabyte
def _drawn(m: int, n: int, classes: int) -> datasets.Dataset:
    """Random points in n dimensions, float32; the class is the largest of so many projections."""
    random = np.random.default_rng(0)
    X = random.standard_normal((m + 1000, n), np.float32)
    labels = (X @ random.standard_normal((n, classes), np.float32)).argmax(axis=1)
    names = tuple(map(str, range(classes)))
    return datasets.Dataset(X[:m].T, labels[:m], X[m:].T, labels[m:], names, "drawn")


# The mini-batches run for about a second, at learning rates low enough that rounding does not
# decide the final cost.
TRAININGS = {
    "cat-logistic": _notes("cat-logistic"),
    "cat-2layer": _notes("cat-2layer", float32_peers=("torch", "jax")),
    "cat-4layer": _notes("cat-4layer", float32_peers=("torch", "jax"), band=WIDE),
    "planar": _notes("planar"),
    "digits": _notes("digits"),
    "minibatch-32-sgd": _digits(32, "sgd", 10, 0.1),
    "minibatch-32-adam": _digits(32, "adam", 10, 1e-4),
    "minibatch-128-sgd": _digits(128, "sgd", 30, 0.1),
    "minibatch-128-adam": _digits(128, "adam", 30, 1e-4),
    "minibatch-1024-sgd": _digits(1024, "sgd", 60, 0.1),
    "minibatch-1024-adam": _digits(1024, "adam", 60, 1e-4),
    # as a user of MLPClassifier would train it: its accuracy over five seeds
    "digits-mlp": replace(_digits(128, "adam", 10, 1e-3), seeds=(1, 2, 3, 4, 5)),
    # nets that others publish times of: SimpleChains.jl, a table's few columns, OpenNN on HIGGS
    "4-32-16-4": _random(
        Network([4, 32, 16, 4], hidden="tanh", output="softmax"),
        10_000,
        500,
        1e-3,
        optimizer="adam",
    ),
    "24-8-2": _random(Network([24, 8, 2], hidden="tanh", output="softmax"), 200, 20_000, 0.1),
    "28-300x5-1": _random(
        Network([28, *[300] * 5, 1], hidden="tanh"), 10_000, 4, 0.01, batch_size=100
    ),
    "30-64-64-1": _random(Network([30, 64, 64, 1]), 20_000, 40, 0.1, batch_size=128),
    # one for each precision of the products; bfloat16 has 8 significant bits
    "minibatch-4096-8192": _large("float32", band=0.01),
    "minibatch-4096-8192-tf32": _large("tf32", band=0.01),
    "minibatch-4096-8192-bfloat16": _large("bfloat16", band=0.05),
}

# --------------------------------------------------------------------------------------------
# cases

# The largest relative difference of one step from the float64 reference's
TOLERANCE = {"float64": 1e-9, "float32": 1e-2, "tf32": 2e-2, "bfloat16": 0.1}

# scikit-learn adds Adam's ε before the bias correction, which changes the first step by 2 %
ADAM_TOLERANCE = 0.05

# MLPClassifier shuffles in its own order, which changed the final cost by up to 0.74 of the lowest
# over eight orders; its process checks that it sees every example in every epoch.
BAND_OF_ORDER = 1.0

# Examples on which the first step is checked: sample space takes a quarter of a second to form the
# inner products of this many with 12,288 features, and six seconds for 5,000.
CHECKED = 1000

# A measurement is the median of trainings that take SHORT seconds together, of at most MOST:
# interruptions by other processes last about 10 ms.
SHORT, MOST = 0.1, 15

WITH_SET_UP = ("accelnn", "accelnn-cupy", "torch-gram")  # each part would have to repeat it


@dataclass
class TrainingCase:
    """One training.

    dtype : of the whole run; a training may have its own
    limits : by backend, as from `machine.limits`
    peers, gpu_peers : whether to include other packages, and those on the GPU
    """

    name: str
    training: Training
    dtype: str
    limits: dict[str, dict[str, float]]
    peers: bool = False
    gpu_peers: bool = False
    _datasets: dict[str, datasets.Dataset] = field(default_factory=dict, repr=False)

    @property
    def recipe(self) -> Recipe:
        return self.training.recipe

    def __str__(self) -> str:
        return f"{self.name}({self.training.along[1]:,})" if self.training.along else self.name

    @property
    def implementations(self) -> Sequence[str]:
        training = self.training
        names = [n for n in training.implementations if n in ON_GPU or not training.for_gpu]
        if self.peers:
            names += [n for n in PEERS if (self.gpu_peers if on_gpu(n) else not training.for_gpu)]
        if self.peers and self.dtype == "float64":
            names += [name + FLOAT32 for name in training.float32_peers]
        without = FULL_BATCHES_ONLY if self.recipe.batch_size else ("products",)
        return [name for name in names if name not in without]

    def dtype_of(self, implementation: str) -> str:
        own = self.training.dtype or self.dtype
        return "float32" if implementation.endswith(FLOAT32) else own

    def record(self, implementation: str) -> TrainingRecord:
        threads: int | None = {"python": 1, "numba": 1}.get(implementation, machine.blas_threads())
        place = "numpy"
        if implementation in ON_GPU or on_gpu(implementation):
            threads, place = None, "cupy" if implementation in ON_GPU else "cuda"
        recipe, dtype, examples = self.recipe, self.dtype_of(implementation), self.examples
        size: dict[str, Any] = {"layers": list(recipe.net.layers), "examples": examples}
        if self.training.along:
            size |= dict(zip(("along", "value"), self.training.along, strict=True))
        record = TrainingRecord(self.name, implementation, size, dtype, place, threads=threads)
        record.epochs, record.optimizer = recipe.epochs, recipe.optimizer
        record.batch_size = recipe.batch_size
        record.steps = recipe.epochs * -(-examples // (recipe.batch_size or examples))
        record.data = "drawn"
        if self.training.examples is None:
            record.data = "stand-in" if self.dataset(dtype).stand_in else "real"
        return record

    def prepare(self, implementation: str, seconds: float, repeat: int) -> "TrainingContestant":
        return TrainingContestant(self, implementation, seconds, repeat)

    def finish(self, records: Sequence[Record]) -> None:
        """Enter the difference of each final cost from that of the first of OURS that was run. A
        cost above it by more than rounding explains means less work: the record is wrong."""
        self._datasets.clear()
        ended = {r.implementation: r for r in records if isinstance(r, TrainingRecord)}
        costs = {name: r.final_cost for name, r in ended.items() if r.final_cost is not None}
        ours = next((name for name in OURS if costs.get(name)), None)
        if ours is None:
            return
        for name, cost in costs.items():
            difference = ended[name].cost_difference = cost / costs[ours] - 1
            band = self.training.band[ended[name].dtype]
            if name == "sklearn" and self.recipe.batch_size:
                band = BAND_OF_ORDER
            if not difference <= band:  # also for NaN
                more = f"{ours}, {costs[ours]:.6g}, by more than {band:g} of it"
                ended[name].reject("wrong", f"the final cost {cost:.6g} exceeds that of {more}")

    @property
    def examples(self) -> int:
        if self.training.examples is not None:
            return self.training.examples
        return int(self.dataset(self.training.dtype or self.dtype).X_train.shape[1])

    def dataset(self, dtype: str) -> datasets.Dataset:
        """The data on the host, with the labels as (n_L, m)."""
        if dtype not in self._datasets:
            with backend.use("numpy"):
                data, net = self.recipe.data(dtype=dtype), self.recipe.net
                Y_train, Y_test = (net.targets(Y, dtype) for Y in (data.Y_train, data.Y_test))
                self._datasets[dtype] = replace(data, Y_train=Y_train, Y_test=Y_test)
        return self._datasets[dtype]

    @property
    def seeds(self) -> Sequence[int]:
        return self.training.seeds or (self.recipe.seed,)


class TrainingContestant:
    """One implementation's training on the first m examples; measures the seconds of an epoch."""

    def __init__(self, case: TrainingCase, name: str, seconds: float, repeat: int) -> None:
        self.case, self.name, self.place, self.repeat = case, name, place_of(name), repeat
        if name in ("python", "numba"):  # a small part is enough to time them
            seconds /= 5
        self.seconds, recipe, self.m = seconds, case.recipe, case.examples
        if name == "python":
            example = operations(recipe.net) / 2 * TURN["python"]
            self.m = max(1, min(self.m, int(seconds / repeat / example)))
        self.checked = min(recipe.batch_size or self.m, self.m, CHECKED)
        self.scale, self.run_share = recipe.epochs * case.examples / self.m, self.checked / self.m
        self.dtype = case.dtype_of(name)
        self.tolerance = ADAM_TOLERANCE
        if recipe.optimizer == "sgd":
            self.tolerance = TOLERANCE[recipe.precision or self.dtype]
        data = case.dataset(self.dtype)
        self.place.synchronize()
        begun = time.perf_counter()
        X, Y = (self.place.to_device(Z[:, : self.m]) for Z in (data.X_train, data.Y_train))
        self.place.synchronize()
        self.transfer_seconds = time.perf_counter() - begun
        self.restart(case.seeds[0])
        self.job = Job(recipe, X, Y)
        other = functools.partial(peer, name.removesuffix(FLOAT32))
        self.implementation = case.training.implementations.get(name, other)
        self.parts: list[int] | None = None
        self.facts: Facts = {}
        self.measured, self.compile_seconds = 0, 0.0
        self.test_accuracies: dict[int, float] = {}

    def restart(self, seed: int) -> None:
        """Start again from the first weights of this seed."""
        with backend.use("numpy"):
            weights = self.case.recipe.changed(seed=seed).first_weights(self.dtype)
        self.first = Parameters(self.place.to_device(weights.flat), weights.layers)
        self.params: Parameters | None = self.first
        self.seed, self.done = seed, 0

    def advance(self, epochs: int, m: int | None = None) -> float:
        """Continue training on the first m examples; return the seconds it took."""
        params = self.first if self.params is None else self.params
        with self.place.timer() as timing:
            trained = self.implementation(self.job, params, epochs, self.seed, m or self.m)
        self.params, self.facts = trained
        self.done += epochs
        compiling = self.facts.get("compile_seconds", 0.0)
        self.compile_seconds = max(self.compile_seconds, compiling)
        return float(self.facts.get("seconds", timing.seconds - compiling))

    def run(self) -> None:
        """Take the first step."""
        self.advance(1, self.checked)

    def error(self) -> float | None:
        """The relative difference of that step from one in float64."""
        if self.params is None:
            return None
        recipe, data = self.case.recipe, self.case.dataset(self.dtype)
        first = Parameters(to_host(self.first.flat).astype(np.float64), recipe.net.layers)
        X, Y = (Z[:, : self.checked] for Z in (data.X_train, data.Y_train))
        gradient = recipe.net.gradients(first, X, Y).flat
        norm: Any = functools.partial(np.linalg.norm, ord=np.inf)
        if recipe.optimizer == "adam":
            gradient = gradient / (np.abs(gradient) + 1e-8)
            norm = np.linalg.norm  # gradients that are pure rounding get full steps of random sign
        step, expected = to_host(self.params.flat) - first.flat, -recipe.learning_rate * gradient
        return float(norm(step - expected) / norm(expected))

    def measure(self) -> float:
        """Time the whole training (a short one several times) or its next part."""
        seeds = self.case.seeds
        if self.parts is None:
            self.parts = self._plan()
            self.restart(seeds[0])
        if self.parts:
            epochs = self.parts.pop(0)
            return self.advance(epochs) / epochs
        seed = seeds[self.measured % len(seeds)]
        self.measured += 1
        seconds: list[float] = []
        while sum(seconds) < SHORT and len(seconds) < MOST:
            self.restart(seed)
            seconds.append(self.advance(self.case.recipe.epochs))
        if len(seeds) > 1 and self.params is not None:
            self.test_accuracies[seed] = self._outcome()[2]
        return statistics.median(seconds) / self.case.recipe.epochs

    def _plan(self) -> list[int]:
        """The epochs of each measurement; empty if each is a whole training."""
        recipe, repeat, along = self.case.recipe, self.repeat, self.case.training.along
        if self.name in WITH_SET_UP or along or recipe.batch_size or recipe.optimizer != "sgd":
            return []
        self.restart(self.case.seeds[0])
        epochs, spent = 1, 0.0
        while True:
            seconds = self.advance(epochs)
            spent += seconds
            if seconds > self.seconds / 50 or spent > self.seconds / 10:
                break
            epochs *= 4
        whole, affordable = recipe.epochs, int(self.seconds / seconds * epochs)
        if self.m == self.case.examples and affordable >= whole * repeat:
            return []
        if self.m == self.case.examples and affordable >= whole >= repeat:
            return [whole * (i + 1) // repeat - whole * i // repeat for i in range(repeat)]
        return [max(1, min(affordable, whole) // repeat)] * repeat

    def _outcome(self) -> tuple[float, float, float]:
        """Final cost, training and test accuracy, in float64: on the host, or on the GPU if the
        host would take too long."""
        assert self.params is not None
        net, data = self.case.recipe.net, self.case.dataset(self.dtype)
        on_gpu = self.case.training.for_gpu and backend.why_not() is None
        place = backend.CupyBackend() if on_gpu else backend.NumpyBackend()
        flat = place.to_device(to_host(self.params.flat), np.float64)
        weights = Parameters(flat, net.layers)
        arrays = (data.X_train, data.Y_train, data.X_test, data.Y_test)
        X, Y, X_test, Y_test = (place.to_device(Z, np.float64) for Z in arrays)
        scores = [accuracy(net.predict(weights, A), B) for A, B in ((X, Y), (X_test, Y_test))]
        return net.cost(weights, X, Y), scores[0], scores[1]

    def finish(self, record: Record) -> None:
        """Enter the rate, the epochs that were run, and cost and accuracy of the weights."""
        assert isinstance(record, TrainingRecord)
        assert record.seconds is not None
        case, facts, whole = self.case, self.facts, self.case.recipe.epochs
        record.device = facts.get("device") or self.place.device_name()
        record.solver = facts.get("solver") or self.name
        record.precision = facts.get("precision") or self.dtype
        if record.backend == "cupy":
            record.transfer_seconds = self.transfer_seconds
        if self.compile_seconds:
            record.compile_seconds = self.compile_seconds
        if not record.in_sample_space:
            work = operations(case.recipe.net) * case.examples * whole
            record.gflop_per_s = work / record.seconds / 1e9
            limits = case.limits.get("cupy" if record.backend == "cuda" else record.backend, {})
            plain = limits.get("matmul_gflop_per_s") if record.precision == case.dtype else None
            rate = limits.get(f"matmul_{record.precision}_gflop_per_s", plain)
            if rate is not None:
                record.share_of_limit = record.gflop_per_s / rate
        record.epochs_measured = self.done * self.m / case.examples
        if self.m < case.examples:
            epochs = f"{self.done} epoch{'s' if self.done > 1 else ''}"
            record.reason = f"{epochs} on {self.m:,} of {case.examples:,} examples"
        elif self.done < whole:
            record.reason = f"{self.done:,} of {whole:,} epochs"
        elif self.params is not None and not case.training.along:
            record.final_cost, record.train_accuracy, record.test_accuracy = self._outcome()
            remarks = []
            if found := list(self.test_accuracies.values()):
                record.test_accuracy = statistics.mean(found)
                seeds = f"{len(found)} seeds" if len(found) > 1 else "one seed"
                remarks.append(f"test accuracy of {seeds} {min(found):.2%} to {max(found):.2%}")
            if self.name == "sklearn" and case.recipe.batch_size:
                remarks.append("shuffles in its own order")
            record.reason = "; ".join(remarks) or None

    def close(self) -> None:
        if self.job.peer is not None:
            self.job.peer.close()


def operations(net: Network) -> int:
    """Floating-point operations of an epoch's matrix products, per example."""
    sizes = [n * before for before, n in pairwise(net.layers)]
    return 2 * (3 * sum(sizes) - sizes[0])  # for Z, dW and, but in the first layer, dA
