"""Other packages on the same trainings, each in its own process, which alone imports the package.

If a package has several ways of training, a short trial picks the fastest. It is one row of PEERS:
a module whose `trainers(name, job)` returns, by name, functions that make a `PeerTrainer`, and, if
it uses a GPU, whose `gpu_name(job)` returns its name.
"""

import contextlib
import importlib
import multiprocessing
import os
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, Protocol

import numpy as np

from accelnn.backend import Array
from accelnn.bench.records import Skip
from accelnn.install import install_command
from accelnn.network import Network, Parameters
from accelnn.recipes import Recipe

FLOAT32 = "-float32"  # ends a peer's name if it trains in float32 while the others use float64
TIMEOUT = 600.0  # seconds after which a peer that does not answer is ended: compiling is slowest
TRIAL = 0.5  # seconds for which each way of training is tried


class PeerError(Exception):
    """A peer's process crashed, hung or raised an error; the message says which."""


@dataclass(frozen=True, eq=False)
class PeerJob:
    """A training, as it is sent to a process.

    recipe : without data; its optimizer is "sgd" or "adam" (β = 0.9 and 0.999, ε = 1e-8), and its
        mini-batches are those of accelnn.batches
    weights : the first ones, as Parameters.flat
    X, Y : (m, n_0) and (m, n_L), C-contiguous, of the weights' dtype
    gpu : index of the GPU, for peers that run on one
    """

    recipe: Recipe
    weights: Array
    X: Array
    Y: Array
    threads: int
    gpu: int = 0

    @property
    def net(self) -> Network:
        return self.recipe.net

    @property
    def m(self) -> int:
        return len(self.X)

    @property
    def decay(self) -> float:
        """λ/m with the examples m of a full step: decay * W is added to dW."""
        return self.net.l2 / min(self.recipe.batch_size or self.m, self.m)


class PeerTrainer(Protocol):
    """One way in which a package does a job."""

    def restart(self, weights: Array, seed: int) -> None:
        """Start again from these weights (flat), with a new optimizer and order of batches."""

    def train(self, epochs: int) -> None:
        """Continue training; the weights are ready when this returns."""

    def weights(self) -> Array:
        """The current weights as one vector."""


class PeerKind(NamedTuple):
    """A peer: the module with its trainers, the package that it needs, whether its first run
    compiles, and whether it runs on the GPU."""

    module: str
    package: str
    compiles: bool
    gpu: bool = False


_TORCH, _JAX = ("accelnn.bench.peer_torch", "torch"), ("accelnn.bench.peer_jax", "jax")
PEERS = {
    "torch": PeerKind(*_TORCH, compiles=False),
    "torch-compile": PeerKind(*_TORCH, compiles=True),
    "torch-gram": PeerKind(*_TORCH, compiles=True),
    "jax": PeerKind(*_JAX, compiles=True),
    "sklearn": PeerKind("accelnn.bench.peer_sklearn", "sklearn", compiles=False),
    "torch-cuda": PeerKind(*_TORCH, compiles=False, gpu=True),
    "torch-cuda-compile": PeerKind(*_TORCH, compiles=True, gpu=True),
    "torch-cuda-graph": PeerKind(*_TORCH, compiles=True, gpu=True),  # capturing is compiling
    "jax-cuda": PeerKind(*_JAX, compiles=True, gpu=True),
}


def on_gpu(implementation: str) -> bool:
    """Whether this is a peer that runs on a GPU."""
    return implementation in PEERS and PEERS[implementation].gpu


def versions(implementations: Iterable[str]) -> dict[str, str]:
    """The versions of the installed packages behind the peers among these implementations."""
    found = {}
    for name in implementations:
        if kind := PEERS.get(name.removesuffix(FLOAT32)):
            distribution = kind.package.replace("sklearn", "scikit-learn")
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[distribution] = metadata.version(distribution)
    return found


def layers_of(flat: Array, layers: Sequence[int]) -> Iterator[tuple[Array, Array]]:
    """W (n_l, n_{l-1}) and b (n_l,) of each layer as copies out of a flat vector."""
    for W, b in Parameters(flat, layers):
        yield W.copy(), b[:, 0].copy()


def flat_of(pairs: Iterable[tuple[Any, Any]]) -> Array:
    """The flat vector of W (n_l, n_{l-1}) and b of each layer."""
    return np.concatenate([np.asarray(part).ravel() for pair in pairs for part in pair])


# --------------------------------------------------------------------------------------------
# the parent's end


class Peer:
    """A peer's process, ready to train; it must be closed, and ends with this process.

    variant : the way of training that the trial picked
    compile_seconds : None if it compiles nothing
    device : the GPU's name; None on the CPU

    Raises Skip if the package is not installed or cannot do this job, and PeerError if it fails.
    """

    def __init__(self, name: str, job: PeerJob) -> None:
        self.name = name
        self._output = tempfile.NamedTemporaryFile()  # noqa: SIM115 - closed by `close`
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        arguments = (theirs, self._output.name, name, PEERS[name], job)
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        try:
            with _inherited(_environment(name, job.threads)):
                self._process.start()
            theirs.close()
            self.variant, self.compile_seconds, self.device = self._answer()
        except BaseException:
            self.close()
            raise

    def train(self, weights: Array, epochs: int, seed: int, m: int) -> tuple[Array, float]:
        """The weights (flat) trained from these on the first m examples, and the seconds it took,
        measured in the child."""
        with contextlib.suppress(OSError):  # if it is gone, there is no answer either
            self._connection.send((weights, epochs, seed, m))
        trained: tuple[Array, float] = self._answer()
        return trained

    def close(self) -> None:
        if self._process.pid is not None:
            self._process.kill()
            self._process.join()
        self._connection.close()
        self._output.close()

    def _answer(self) -> Any:
        """The child's answer; if there is none within TIMEOUT, the child is killed."""
        try:
            if not self._connection.poll(TIMEOUT):
                self._process.kill()
                raise PeerError(f"{self.name} did not answer within {TIMEOUT:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join()
            reason = f"the process of {self.name} ended with status {self._process.exitcode}"
            if lines := self._output.read().decode(errors="replace").strip().splitlines():
                reason += f": {lines[-1][:200]}"
            raise PeerError(reason) from None
        if isinstance(answer, Exception):
            raise answer
        return answer


@contextlib.contextmanager
def _inherited(variables: dict[str, str]) -> Iterator[None]:
    """Processes started in the block have these variables, and leave Ctrl-C to their parent."""
    before, handler = dict(os.environ), signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ.update(variables)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        os.environ.clear()
        os.environ.update(before)


def _environment(name: str, threads: int) -> dict[str, str]:
    """Variables that limit a child to these threads, and to the CPU or the GPU."""
    pools = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    limits = dict.fromkeys(pools, str(threads))
    limits["PYTHONSAFEPATH"] = "1"  # import from the current folder only if the parent does
    if on_gpu(name):
        # by default JAX takes three quarters of the GPU's memory, of which we use a part
        return limits | {"JAX_PLATFORMS": "cuda", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    limits |= {"NPROC": str(threads), "JAX_PLATFORMS": "cpu"}  # NPROC is for XLA's pool
    limits["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of compilers that keeps running
    if threads == 1:
        flags = os.environ.get("XLA_FLAGS", "")
        limits["XLA_FLAGS"] = f"{flags} --xla_cpu_multi_thread_eigen=false".strip()
    return limits


# --------------------------------------------------------------------------------------------
# the child's end


def serve(connection: Connection, output: str, name: str, kind: PeerKind, job: PeerJob) -> None:
    """Answer the parent's requests until it ends."""
    file = os.open(output, os.O_WRONLY | os.O_APPEND)
    for standard in (1, 2):
        os.dup2(file, standard)
    # A thread waits, so that the end of the parent is noticed during a training too.
    threading.Thread(target=_follow, args=(multiprocessing.parent_process(),), daemon=True).start()
    try:
        trainer, variant, *ready = prepare(name, kind, job)
        connection.send((variant, *ready))
        trainers = {job.m: trainer}
        while True:
            weights, epochs, seed, m = connection.recv()
            if m not in trainers:
                part = replace(job, X=job.X[:m], Y=job.Y[:m])
                trainers[m] = _trainers(name, kind, part)[variant]()
            trainers[m].restart(weights, seed)
            seconds = seconds_of(trainers[m], epochs)
            connection.send((trainers[m].weights(), seconds))
    except Skip as reason:
        connection.send(reason)
    except Exception as error:
        message = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        connection.send(PeerError(message[:200]))


def _follow(parent: Any) -> None:
    """End this process when its parent ends."""
    parent.join()
    os._exit(1)


def _trainers(name: str, kind: PeerKind, job: PeerJob) -> dict[str, Callable[[], PeerTrainer]]:
    """The ways in which a peer can do a job. Raises Skip if there is none."""
    if job.recipe.optimizer not in ("sgd", "adam"):
        raise Skip(f"peers train by sgd and adam, not {job.recipe.optimizer}")
    try:
        module: Any = importlib.import_module(kind.module)
        return dict(module.trainers(name, job))
    except ModuleNotFoundError as error:
        if error.name != kind.package:
            raise
        raise Skip(f"{kind.package} is not installed: {install_command('peers')}") from None


def prepare(
    name: str, kind: PeerKind, job: PeerJob
) -> tuple[PeerTrainer, str, float | None, str | None]:
    """The fastest trainer, for all examples, its name, the seconds to compile it, and the GPU's
    name."""
    ready, compiling, failed = {}, {}, []
    for variant, make in _trainers(name, kind, job).items():
        try:
            trainer = make()
            trainer.restart(job.weights, job.recipe.seed)
            first, second = seconds_of(trainer, 1), seconds_of(trainer, 1)
        except Skip:
            raise
        except Exception as error:  # an older release may lack one of the ways
            failed.append(error)
            continue
        ready[variant], compiling[variant] = trainer, max(0.0, first - second)
    if not ready:
        raise failed[0]
    variant = fastest(ready) if len(ready) > 1 else next(iter(ready))
    # the largest, because code that they share is compiled with the first
    compile_seconds = max(compiling.values()) if kind.compiles else None
    device = importlib.import_module(kind.module).gpu_name(job) if kind.gpu else None
    return ready[variant], variant, compile_seconds, device


def seconds_of(trainer: PeerTrainer, epochs: int) -> float:
    start = time.perf_counter()
    trainer.train(epochs)
    return time.perf_counter() - start


def fastest(trainers: dict[str, PeerTrainer]) -> str:
    """The name of the fastest in three short measurements of each, in turn, of as many epochs as
    it does in a third of the time."""
    epoch = min(seconds_of(trainer, 3) / 3 for trainer in trainers.values())
    epochs = max(1, int(TRIAL / 3 / epoch))
    seconds = dict.fromkeys(trainers, float("inf"))
    for _ in range(3):
        for name, trainer in trainers.items():
            seconds[name] = min(seconds[name], seconds_of(trainer, epochs))
    return min(seconds, key=lambda name: seconds[name])
