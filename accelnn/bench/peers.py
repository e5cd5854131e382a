"""Other packages given the very same trainings, each in a process of its own.

Same data, first weights, dtype, threads, epochs and mini-batches, and each in the best way its
users would run it: where there are several ways, a short trial picks the fastest, and its name is
kept. The packages are imported in the child only. Data is examples first here, X (m, n_0) and
Y (m, n_L), both C-contiguous: the layout that all of these packages work on.

A package is one entry of PEERS: a module whose `trainers(name, job)` gives, by name, the ways in
which it can do a job (`Trainer`), and whose `gpu_name(job)`, where it runs on one, tells which that
is. `Peer` is the parent's end of the process.
"""

import contextlib
import importlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from itertools import pairwise
from typing import IO, Any, NamedTuple, Protocol

import numpy as np

from accelnn.backend import Array
from accelnn.install import install_command

# Ends the name of a peer that trains in float32 where the others train in float64.
FLOAT32 = "-float32"

# Seconds until a peer that does not answer is ended: compiling takes the longest of all.
TIMEOUT = 600.0

# Seconds for which each way of running a job is tried
TRIAL = 0.5


class Unfit(Exception):
    """This peer cannot do this job here; the message says why."""


class PeerError(Exception):
    """A peer's process crashed, hung or raised; the message says what is known."""


@dataclass(frozen=True, eq=False)
class Job:
    """A training, as plain data.

    layers, hidden, output, l2 : as in Network
    optimizer : "sgd" | "momentum" (β = 0.9) | "adam" (β = 0.9 and 0.999, ε = 1e-8)
    batch_size : None is full batch
    threads : that the peer may use
    weights : the first ones as one vector, as Parameters.flat
    seed : of the mini-batches' order, which is ours: accelnn.batches
    X : (m, n_0), Y : (m, n_L), C-contiguous, of the job's dtype
    precision : of the matrix products, "tf32" | "bfloat16" with sums in float32; else the dtype's
    gpu : index among the visible ones, for those that run on one
    """

    layers: tuple[int, ...]
    hidden: tuple[str, ...]
    output: str
    l2: float
    optimizer: str
    learning_rate: float
    batch_size: int | None
    threads: int
    weights: Array
    seed: int
    X: Array
    Y: Array
    precision: str | None = None
    gpu: int = 0

    @property
    def m(self) -> int:
        """How many examples there are."""
        return len(self.X)

    @property
    def decay(self) -> float:
        """λ/m, m being the examples of a step (the short last one aside): dW gets decay * W."""
        return self.l2 / (self.batch_size or self.m)

    def first_step(self) -> "Job":
        """The same on its first mini-batch alone: an epoch of it is a single step."""
        return replace(self, X=self.X[: self.batch_size], Y=self.Y[: self.batch_size])


class Trainer(Protocol):
    """One way in which a package does a job."""

    def restart(self, weights: Array, seed: int) -> None:
        """Begin anew from these weights (flat), with a new optimizer and order of mini-batches."""

    def train(self, epochs: int) -> None:
        """Train on; the weights are ready when this returns."""

    def weights(self) -> Array:
        """The present ones as one vector."""


class PeerKind(NamedTuple):
    """A way of training by another package.

    module : gives the trainers
    package : what it needs, by the name it is imported by
    compiles : whether what its first run takes beyond the second is compiling
    gpu : whether it runs there, and not on the CPU
    """

    module: str
    package: str
    compiles: bool
    gpu: bool = False


PEERS = {
    "torch": PeerKind("accelnn.bench.peer_torch", "torch", compiles=False),
    "torch-compile": PeerKind("accelnn.bench.peer_torch", "torch", compiles=True),
    "torch-gram": PeerKind("accelnn.bench.peer_torch", "torch", compiles=True),
    "jax": PeerKind("accelnn.bench.peer_jax", "jax", compiles=True),
    "sklearn": PeerKind("accelnn.bench.peer_sklearn", "sklearn", compiles=False),
    "torch-cuda": PeerKind("accelnn.bench.peer_torch", "torch", compiles=False, gpu=True),
    "torch-cuda-compile": PeerKind("accelnn.bench.peer_torch", "torch", compiles=True, gpu=True),
    # capturing counts as compiling
    "torch-cuda-graph": PeerKind("accelnn.bench.peer_torch", "torch", compiles=True, gpu=True),
    "jax-cuda": PeerKind("accelnn.bench.peer_jax", "jax", compiles=True, gpu=True),
}


def on_gpu(implementation: str) -> bool:
    """Whether this is a peer that runs on a GPU."""
    kind = PEERS.get(implementation.removesuffix(FLOAT32))
    return kind is not None and kind.gpu


def versions(implementations: Iterable[str]) -> dict[str, str]:
    """Of the packages behind those of these that are peers, where they are installed."""
    found = {}
    for name in implementations:
        kind = PEERS.get(name.removesuffix(FLOAT32))
        if kind is not None:
            distribution = {"sklearn": "scikit-learn"}.get(kind.package, kind.package)
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[distribution] = metadata.version(distribution)
    return found


def layers_of(flat: Array, layers: Sequence[int]) -> Iterator[tuple[Array, Array]]:
    """W (n_l, n_{l-1}) and b (n_l,) of each layer as copies out of a flat vector."""
    start = 0
    for before, n in pairwise(layers):
        end = start + n * before
        yield flat[start:end].reshape(n, before).copy(), flat[end : end + n].copy()
        start = end + n


def flat_of(pairs: Sequence[tuple[Array, Array]]) -> Array:
    """The flat vector of W (n_l, n_{l-1}) and b of each layer."""
    return np.concatenate([np.asarray(part).ravel() for pair in pairs for part in pair])


# --------------------------------------------------------------------------------------------
# the parent's end


class Peer:
    """A peer's process, ready to train: started, compiled, warmed up.

    variant : the way of running that the trial picked
    compile_seconds : until it was compiled; None where nothing is
    device : the GPU's name; None on the CPU

    Raises Unfit where the package is not installed or its job is another one, and PeerError
    where it fails. To be closed at the end; it ends by itself when this process ends.
    """

    def __init__(self, name: str, job: Job) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        # A session of its own: Ctrl-C in the terminal is for the parent, which then ends it. The
        # pipe is its lifeline: when the parent dies, however it does, the child reads its end.
        self._process = subprocess.Popen(
            [sys.executable, "-c", "from accelnn.bench.peers import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=os.environ | _environment(name, job.threads),
            start_new_session=True,
        )
        self.variant: str
        self.compile_seconds: float | None
        self.device: str | None
        try:
            self.variant, self.compile_seconds, self.device = self._ask("prepare", name, job)
        except BaseException:
            self.close()
            raise

    def first_step(self) -> Array:
        """The weights (flat) after one step on the first mini-batch."""
        return self._ask("first_step")

    def restart(self, weights: Array, seed: int) -> None:
        """Begin anew from these weights, with a new optimizer and order of mini-batches."""
        self._ask("restart", weights, seed)

    def train(self, epochs: int) -> float:
        """Train on; the seconds that it took, measured in the child."""
        return float(self._ask("train", epochs))

    def weights(self) -> Array:
        """The present ones as one vector."""
        return self._ask("weights")

    def close(self) -> None:
        """End the process and all that it started."""
        with contextlib.suppress(OSError):  # it is gone already
            if os.name == "posix":
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._errors):
            assert pipe is not None
            with contextlib.suppress(OSError):  # what was never read by the child
                pipe.close()

    def _ask(self, *request: Any) -> Any:
        """What the child answers; ends it where it does not within TIMEOUT."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        late = threading.Event()

        def give_up() -> None:
            late.set()
            self._process.kill()

        timer = threading.Timer(TIMEOUT, give_up)
        timer.start()
        try:
            pickle.dump(request, self._process.stdin)
            self._process.stdin.flush()
            status, answer = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError):
            if late.is_set():
                raise PeerError(f"{self.name} did not answer within {TIMEOUT:g} s") from None
            status_code = self._process.wait()
            raise PeerError(
                f"the process of {self.name} ended with status {status_code}{self._last_words()}"
            ) from None
        finally:
            timer.cancel()
        if status == "unfit":
            raise Unfit(answer)
        if status == "failed":
            raise PeerError(answer)
        return answer

    def _last_words(self) -> str:
        """The last line that the child wrote to its standard error."""
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""


def _environment(name: str, threads: int) -> dict[str, str]:
    """What holds a child to this many threads, and to the CPU or to the GPU."""
    count = str(threads)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
    if on_gpu(name):
        # JAX would take three quarters of the GPU's memory at once, of which we hold a part
        return limits | {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    limits |= {
        "NPROC": count,  # XLA's pool of threads
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers that goes on beside ours
    }
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        limits["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return limits


# --------------------------------------------------------------------------------------------
# the child's end


class Service:
    """What a child does on request."""

    def prepare(self, name: str, job: Job) -> tuple[str, float | None, str | None]:
        """Compile, warm up and choose; which way of running won, its seconds of compiling, and
        the GPU's name."""
        kind = PEERS[name]
        try:
            module = importlib.import_module(kind.module)
        except ModuleNotFoundError as error:
            if error.name != kind.package:
                raise
            raise Unfit(f"{kind.package} is not installed: {install_command('peers')}") from None
        self.name, self.job = name, job
        self.trainers: Callable[[str, Job], dict[str, Callable[[], Trainer]]] = module.trainers
        ready, compiling, failed = {}, {}, []
        for variant, make in self.trainers(name, job).items():
            try:
                trainer = make()
                trainer.restart(job.weights, job.seed)
                first, second = seconds_of(trainer, 1), seconds_of(trainer, 1)
            except Unfit:
                raise
            except Exception as error:  # an older release may lack one way, and have the others
                failed.append(error)
                continue
            ready[variant], compiling[variant] = trainer, max(0.0, first - second)
        if not ready:
            raise failed[0]
        self.variant = fastest(ready) if len(ready) > 1 else next(iter(ready))
        self.trainer: Trainer = ready[self.variant]
        self.restart(job.weights, job.seed)
        # the most that one way took: what they share is compiled for the first of them
        compile_seconds = max(compiling.values()) if kind.compiles else None
        return self.variant, compile_seconds, module.gpu_name(job) if kind.gpu else None

    def first_step(self) -> Array:
        """The weights after one step on the first mini-batch, by the way that was chosen."""
        trainer = self.trainers(self.name, self.job.first_step())[self.variant]()
        trainer.restart(self.job.weights, self.job.seed)
        trainer.train(1)
        return trainer.weights()

    def restart(self, weights: Array, seed: int) -> None:
        """Begin anew."""
        self.trainer.restart(weights, seed)

    def train(self, epochs: int) -> float:
        """Train on; the seconds it took."""
        return seconds_of(self.trainer, epochs)

    def weights(self) -> Array:
        """The present weights."""
        return self.trainer.weights()


def seconds_of(trainer: Trainer, epochs: int) -> float:
    """Train; the seconds it took."""
    start = time.perf_counter()
    trainer.train(epochs)
    return time.perf_counter() - start


def fastest(trainers: dict[str, Trainer]) -> str:
    """The name of the quickest, of three short measurements each, in turn."""
    # as many epochs as the quickest does in a third of the time: set-up must not decide alone
    epoch = min(seconds_of(trainer, 3) / 3 for trainer in trainers.values())
    epochs = max(1, int(TRIAL / 3 / epoch))
    seconds = dict.fromkeys(trainers, float("inf"))
    for _ in range(3):
        for name, trainer in trainers.items():
            seconds[name] = min(seconds[name], seconds_of(trainer, epochs))
    return min(seconds, key=lambda name: seconds[name])


def serve() -> None:
    """Answer the parent's requests on standard input until it ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a package prints must not get between the answers
    service = Service()
    # A thread reads, so that the end of the parent is noticed in the midst of a training too.
    arrived: queue.SimpleQueue[Any] = queue.SimpleQueue()

    def read() -> None:
        while True:
            try:
                arrived.put(pickle.load(requests))
            except (EOFError, OSError):
                os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    while True:
        name, *arguments = arrived.get()
        try:
            answer = ("ok", getattr(service, name)(*arguments))
        except Unfit as reason:
            answer = ("unfit", str(reason))
        except Exception as error:
            answer = ("failed", f"{type(error).__name__}: {error}".strip().splitlines()[0][:200])
        pickle.dump(answer, answers)
        answers.flush()
