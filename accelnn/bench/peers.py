"""Other packages on the same trainings, each in its own process.

They get the same data, first weights, dtype, threads, epochs and mini-batches, and run in the best
way that their users would choose: if there are several, a short trial picks the fastest, which the
record names. The packages are imported in the child only. X (m, n_0) and Y (m, n_L) hold examples
first, both C-contiguous: the layout of all of these packages.

A package is one entry of PEERS: a module whose `trainers(name, job)` returns, by name, the ways in
which it can do a job (`PeerTrainer`), and whose `gpu_name(job)` returns the name of the GPU, for
those that run on one. `Peer` is the parent's end of the process.
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

# Seconds after which a peer that does not answer is ended: compiling takes longest
TIMEOUT = 600.0

# Seconds for which each way of running a job is tried
TRIAL = 0.5


class Unfit(Exception):
    """A peer cannot do a job here; the message says why."""


class PeerError(Exception):
    """A peer's process crashed, hung or raised an error; the message says which."""


@dataclass(frozen=True, eq=False)
class PeerJob:
    """A training, as plain data.

    layers, hidden, output, l2 : as in Network
    optimizer : "sgd" | "momentum" (β = 0.9) | "adam" (β = 0.9 and 0.999, ε = 1e-8)
    batch_size : None is full batch
    threads : for the peer to use
    weights : the first ones as one vector, as Parameters.flat
    seed : of the mini-batches' order, which is that of accelnn.batches
    X : (m, n_0), Y : (m, n_L), C-contiguous, of the job's dtype
    precision : of the matrix products, "tf32" | "bfloat16" with sums in float32; None is the dtype
    gpu : index of the GPU, for peers that run on one
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
        """The number of examples."""
        return len(self.X)

    @property
    def decay(self) -> float:
        """λ/m with the examples m of a full step: decay * W is added to dW."""
        return self.l2 / (self.batch_size or self.m)

    def first_step(self) -> "PeerJob":
        """The job on its first mini-batch alone, where an epoch is a single step."""
        return replace(self, X=self.X[: self.batch_size], Y=self.Y[: self.batch_size])


class PeerTrainer(Protocol):
    """One way in which a package does a job."""

    def restart(self, weights: Array, seed: int) -> None:
        """Start again from these weights (flat), with a new optimizer and order of batches."""

    def train(self, epochs: int) -> None:
        """Continue training; the weights are ready when this returns."""

    def weights(self) -> Array:
        """The current weights as one vector."""


class PeerKind(NamedTuple):
    """A way of training by another package.

    module : with its trainers
    package : that it needs, by import name
    compiles : whether the time of its first run beyond the second is compiling
    gpu : whether it runs on the GPU instead of the CPU
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
    """The versions of the installed packages behind the peers among these implementations."""
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
    compile_seconds : to compile it; None if it compiles nothing
    device : the GPU's name; None on the CPU

    Raises Unfit if the package is not installed or cannot do this job, and PeerError if it fails.
    Must be closed; it also ends when this process ends.
    """

    def __init__(self, name: str, job: PeerJob) -> None:
        self.name = name
        self._errors: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by `close`
        # In its own session Ctrl-C in the terminal reaches only the parent, which then ends it.
        # If the parent dies, the child reads the end of the pipe.
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
        """Start again from these weights, with a new optimizer and order of mini-batches."""
        self._ask("restart", weights, seed)

    def train(self, epochs: int) -> float:
        """Continue training; return the seconds it took, measured in the child."""
        return float(self._ask("train", epochs))

    def weights(self) -> Array:
        """The current weights as one vector."""
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
        """The child's answer; the child is ended if there is none within TIMEOUT."""
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
    """Variables that limit a child to these threads, and to the CPU or the GPU."""
    count = str(threads)
    limits = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), count)
    if on_gpu(name):
        # by default JAX would take three quarters of the GPU's memory, of which we hold a part
        return limits | {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    limits |= {
        "NPROC": count,  # XLA's pool of threads
        "JAX_PLATFORMS": "cpu",
        "TORCHINDUCTOR_COMPILE_THREADS": "1",  # no pool of compilers that keeps running
    }
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        limits["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return limits


# --------------------------------------------------------------------------------------------
# the child's end


class Service:
    """What a child does on request."""

    def prepare(self, name: str, job: PeerJob) -> tuple[str, float | None, str | None]:
        """Compile, warm up and choose; return the fastest way of running, the seconds to compile
        it, and the GPU's name."""
        kind = PEERS[name]
        try:
            module = importlib.import_module(kind.module)
        except ModuleNotFoundError as error:
            if error.name != kind.package:
                raise
            raise Unfit(f"{kind.package} is not installed: {install_command('peers')}") from None
        self.name, self.job = name, job
        self.trainers: Callable[[str, PeerJob], dict[str, Callable[[], PeerTrainer]]] = (
            module.trainers
        )
        ready, compiling, failed = {}, {}, []
        for variant, make in self.trainers(name, job).items():
            try:
                trainer = make()
                trainer.restart(job.weights, job.seed)
                first, second = seconds_of(trainer, 1), seconds_of(trainer, 1)
            except Unfit:
                raise
            except Exception as error:  # an older release may lack one of the ways
                failed.append(error)
                continue
            ready[variant], compiling[variant] = trainer, max(0.0, first - second)
        if not ready:
            raise failed[0]
        self.variant = fastest(ready) if len(ready) > 1 else next(iter(ready))
        self.trainer: PeerTrainer = ready[self.variant]
        self.restart(job.weights, job.seed)
        # the largest, because code that they share is compiled with the first
        compile_seconds = max(compiling.values()) if kind.compiles else None
        return self.variant, compile_seconds, module.gpu_name(job) if kind.gpu else None

    def first_step(self) -> Array:
        """The weights after one step on the first mini-batch, in the chosen way."""
        trainer = self.trainers(self.name, self.job.first_step())[self.variant]()
        trainer.restart(self.job.weights, self.job.seed)
        trainer.train(1)
        return trainer.weights()

    def restart(self, weights: Array, seed: int) -> None:
        """Start again."""
        self.trainer.restart(weights, seed)

    def train(self, epochs: int) -> float:
        """Continue training; return the seconds it took."""
        return seconds_of(self.trainer, epochs)

    def weights(self) -> Array:
        """The current weights."""
        return self.trainer.weights()


def seconds_of(trainer: PeerTrainer, epochs: int) -> float:
    """Train; return the seconds it took."""
    start = time.perf_counter()
    trainer.train(epochs)
    return time.perf_counter() - start


def fastest(trainers: dict[str, PeerTrainer]) -> str:
    """The name of the fastest in three short measurements of each, in turn."""
    # as many epochs as the fastest does in a third of the time, so that set-up counts little
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
    os.dup2(2, 1)  # output of a package must not mix with the answers
    service = Service()
    # A thread reads, so that the end of the parent is noticed during a training too.
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
