"""One training on several processes: MPI between them, NCCL between their GPUs.

The processes share out the examples, or the features. With shares of the examples, in the order of
the ranks, each computes its part of a batch's gradient, and one Allreduce a step adds the parts up.
With shares of the features, in sample space, G = Σ X_kᵀ X_k and P⁰ = Σ W⁰_k X_k are added up once,
and W_k = c W⁰_k + S X_kᵀ is gathered at the end. Both train as one process would on all the data.

Errors name process 1 to n; process 1 has MPI's rank 0. mpi4py is imported when it is first used.
"""

import functools
import hashlib
import os
import sys
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from importlib import import_module
from typing import Any, TypeVar

import numpy as np

from accelnn import backend
from accelnn.__main__ import RANKS
from accelnn.backend import Array, array_module, to_host
from accelnn.network import Network, Parameters

T = TypeVar("T")
Scores = tuple[Any, Any]  # a cost, and an accuracy or None

INSTALL = "pip install 'accelnn[mpi]'"
# Seconds until mpiexec has printed a message: it drops what it has not read when processes end
PRINTING = 1.0
COMPARED = 5.0  # seconds between two comparisons of the weights
# The variables by which starters of processes say how many there are: MPICH and Intel MPI, Open
# MPI, and Slurm's srun
SIZES = ("PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "SLURM_STEP_NUM_TASKS")
# Errors that are raised with their own type on the other processes; any other is a RuntimeError
RAISED = (ValueError, TypeError, OSError, MemoryError, ModuleNotFoundError, KeyboardInterrupt)


class Disagreement(RuntimeError):
    """The processes hold different weights, and all raise this error."""


class Processes:
    """The processes of an MPI communicator. Every method is called by all of them at once, except
    `named` and `failing`.

    comm : as mpi4py has it
    rank, size : of this process, from 0 on, and their number
    """

    def __init__(self, comm: Any) -> None:
        if not isinstance(comm, _mpi().Intracomm):
            expected = "expected comm as a communicator of mpi4py, such as MPI.COMM_WORLD"
            raise TypeError(f"{expected}, got {type(comm).__name__}")
        self.comm, self.rank, self.size = comm, int(comm.rank), int(comm.size)
        self._last_comparison = -np.inf

    def named(self, ranks: Sequence[int]) -> str:
        """ "process 2 of 4", or "processes 2, 3 of 4" """
        numbers = ", ".join(str(rank + 1) for rank in ranks)
        return f"process{'es' * (len(ranks) > 1)} {numbers} of {self.size}"

    def sum(self, array: Array) -> None:
        """Replace a contiguous array by its sum over all processes, the same bits on each."""
        if array_module(array) is np:
            self.comm.Allreduce(_mpi().IN_PLACE, array)
        else:
            self._nccl(array)

    def most(self, number: int) -> int:
        """The largest of a number on each process."""
        return int(self.comm.allreduce(number, _mpi().MAX))

    def any(self, flag: bool) -> bool:
        """Whether it is true on any process."""
        return bool(self.most(int(flag)))

    def gather(self, value: T) -> list[T]:
        """The values of all processes."""
        values: list[T] = self.comm.allgather(value)
        return values

    def first(self, value: T) -> T:
        """The value of process 1."""
        found: T = self.comm.bcast(value)
        return found

    @contextmanager
    def together(self) -> Iterator[None]:
        """Raise the first process's error within the block on all processes, naming it if not all
        failed alike. Nothing within the block may wait for other processes."""
        error: BaseException | None = None
        try:
            yield
        except BaseException as raised:
            error = raised
        found = self.gather(None if error is None else _as_raised(error))
        if error is not None and len(set(found)) == 1:
            raise error
        for rank, each in enumerate(found):
            if each is not None:
                kind, text = each
                raise kind(f"{self.named([rank])}: {text}") from error

    @contextmanager
    def failing(self) -> Iterator[None]:
        """End all processes with a message if an error ends the block on this one, which the others
        would wait for."""
        try:
            yield
        except Disagreement:
            raise
        except BaseException as error:
            if self.size == 1:
                raise
            status, message = 130, "was interrupted"
            if not isinstance(error, KeyboardInterrupt):
                status, message = 1, f"failed: {type(error).__name__}: {error}"
                traceback.print_exc(file=sys.__stderr__)
            print(f"{self.named([self.rank])} {message}", file=sys.__stderr__, flush=True)
            time.sleep(PRINTING)
            self.comm.Abort(status)

    def same(self, **settings: object) -> None:
        """Raise ValueError if a setting differs among the processes."""
        found = self.gather({name: repr(value) for name, value in settings.items()})
        for name, value in found[0].items():
            for rank, others in enumerate(found):
                if others[name] != value:
                    given = f"process 1 has {value}, {self.named([rank])} {others[name]}"
                    raise ValueError(f"expected the same {name} on all processes: {given}")

    def compare(self, array: Array, name: str = "weights") -> None:
        """Raise Disagreement unless all processes hold the same numbers, by a hash of them."""
        content = np.ascontiguousarray(to_host(array))
        hashes = self.gather(hashlib.blake2b(content.data, digest_size=16).digest())
        [(usual, _)] = Counter(hashes).most_common(1)
        others = [rank for rank, each in enumerate(hashes) if each != usual]
        if others:
            found = f"the {name} of {self.named(others)} differ from those of the others"
            raise Disagreement(f"{found}: give all processes the same {name} and settings")

    def compare_at_times(self, array: Array) -> None:
        """`compare` weights if the last time was a few seconds ago."""
        if self.first(time.monotonic() - self._last_comparison > COMPARED):
            self.compare(array)
            self._last_comparison = time.monotonic()

    def dealt(self, seconds: Sequence[float]) -> list[int]:
        """Which of several tasks this process is to do, by their seconds: the longest first, each
        is given to the process that has the least to do."""
        loads, mine = [0.0] * self.size, []
        for task in sorted(range(len(seconds)), key=lambda i: -seconds[i]):
            rank = loads.index(min(loads))
            loads[rank] += seconds[task]
            mine += [task] * (rank == self.rank)
        return mine

    @functools.cached_property
    def local(self) -> tuple[int, int]:
        """The rank among the processes of this host, and how many of them share its cores."""
        host = self.comm.Split_type(_mpi().COMM_TYPE_SHARED)
        mine = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else {0}
        sharing = sum(bool(mine & others) for others in host.allgather(mine))
        rank = int(host.rank)
        host.Free()
        return rank, sharing

    def backend(self, name: str) -> str:
        """The name of a backend with this process's GPU: those of a host take one each."""
        if name not in ("cupy", "auto") or backend.why_not() is not None:
            return name
        count = import_module("cupy").cuda.runtime.getDeviceCount()
        return f"cupy:{self.local[0] % count}"

    @property
    def cores(self) -> int:
        """The cores for each process."""
        from accelnn.solvers import threads

        return max(1, threads.cores() // self.local[1])

    def check_threads(self) -> None:
        """Warn on process 1, once, if BLAS has more threads on a host than it has cores."""
        from threadpoolctl import threadpool_info

        counts = [each["num_threads"] for each in threadpool_info() if each["user_api"] == "blas"]
        crowded = self.gather(max(counts, default=1) > self.cores)
        if any(crowded) and self.rank == 0 and self.size > 1:
            found = f"{self.local[1]} processes with {max(counts, default=1)} BLAS threads each"
            remedy = f"set OPENBLAS_NUM_THREADS={self.cores} (MKL_NUM_THREADS for MKL)"
            _warn_once(f"{found} have more than there are cores: {remedy}")

    @functools.cached_property
    def _nccl(self) -> Callable[[Array], None]:
        """The sum over the GPUs of all processes, of the current device, on the current stream."""
        cuda = import_module("cupy").cuda
        nccl = cuda.nccl
        identity = self.first(nccl.get_unique_id() if self.rank == 0 else None)
        communicator = nccl.NcclCommunicator(self.size, identity, self.rank)
        types = {"float32": nccl.NCCL_FLOAT32, "float64": nccl.NCCL_FLOAT64}

        def add_up(array: Array) -> None:
            place, kind = array.data.ptr, types[array.dtype.name]
            stream = cuda.get_current_stream().ptr
            communicator.allReduce(place, place, array.size, kind, nccl.NCCL_SUM, stream)

        return add_up

    def check_nccl(self) -> None:
        """Raise ModuleNotFoundError if CuPy has no NCCL."""
        if not getattr(import_module("cupy").cuda.nccl, "available", True):
            hint = "pip install nvidia-nccl-cu12 or nvidia-nccl-cu13, for the CUDA of your CuPy"
            raise ModuleNotFoundError(f"processes with GPUs need NCCL, which CuPy lacks: {hint}")


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=2)


def _as_raised(error: BaseException) -> tuple[type[BaseException], str]:
    """The type with which an error is raised on the other processes, and its message."""
    kind = next((kind for kind in RAISED if isinstance(error, kind)), RuntimeError)
    named = isinstance(error, (kind, RuntimeError))
    return kind, str(error) if named else f"{type(error).__name__}: {error}"


def _mpi() -> Any:
    try:
        from mpi4py import MPI
    except ImportError as error:
        found = f"several processes need mpi4py and an MPI library ({error})"
        raise ModuleNotFoundError(f"{found}: {INSTALL}") from None
    return MPI


@contextmanager
def once() -> Iterator[None]:
    """Drop what this program prints within the block, unless it is alone or process 1."""
    if not any(int(os.environ.get(name) or 0) for name in RANKS) or _started() < 2:
        yield
        return
    with open(os.devnull, "w") as null, redirect_stdout(null), redirect_stderr(null):
        yield


def _started() -> int:
    """The number of processes that were started with this one."""
    counts = (os.environ.get(name, "") for name in SIZES)
    return max((int(count) for count in counts if count.isdecimal()), default=1)


def launched() -> Processes | None:
    """The processes among which this program was started by mpiexec or srun, or None if it is
    alone. Raises ModuleNotFoundError without mpi4py, RuntimeError if MPI does not see the others.
    """
    if _started() < 2:
        return None
    processes = Processes(_mpi().COMM_WORLD)
    if processes.size == 1:
        found = f"this is one of {_started()} processes, and mpi4py's MPI library sees no other"
        raise RuntimeError(f"{found}: start them by the mpiexec of that library")
    return processes


# ----------------------------------------------------------------------------- shares of the data


def part(size: int, processes: Processes) -> slice:
    """This process's part of so many examples or features, the sizes of which differ by one."""
    return slice(*(size * rank // processes.size for rank in (processes.rank, processes.rank + 1)))


def features(processes: Processes, net: Network, shape: tuple[int, ...]) -> slice | None:
    """This process's features if the processes share out the features, or None if they share out
    the examples, by the shapes (rows, m) of their X; raises ValueError if neither fits."""
    shapes, n = processes.gather(tuple(shape)), net.layers[0]
    rows = [each[0] if len(each) == 2 else 0 for each in shapes]
    if all(count == n for count in rows):
        return None
    if max(rows) < n and min(rows) and sum(rows) == n and len({m for _, m in shapes}) == 1:
        start = sum(rows[: processes.rank])
        return slice(start, start + rows[processes.rank])
    found = ", ".join(str(each) for each in shapes)
    expected = f"expected X of shape ({n}, m_k) with some of the examples on each process"
    expected += f", or (n_k, m) with some of the {n} features and the same m"
    raise ValueError(f"{expected}; got, from process 1 on, {found}")


def places(processes: Processes, count: int) -> Array:
    """For all examples, in the order of the processes that have `count` each, their columns on this
    process, or -1 for those of others: (m,) int64."""
    counts = processes.gather(count)
    place, start = np.full(sum(counts), -1), sum(counts[: processes.rank])
    place[start : start + count] = np.arange(count)
    return place


def of_features(net: Network, params: Parameters, chosen: slice) -> tuple[Network, Parameters]:
    """The net that sees some of the features, and its parameters."""
    (W, _), layers = params[0], (chosen.stop - chosen.start, *net.layers[1:])
    flat = array_module(W).concatenate([W[:, chosen].ravel(), params.flat[W.size :]])
    return replace(net, layers=layers), Parameters(flat, layers)


def whole(processes: Processes, params: Parameters) -> Parameters:
    """The parameters for all features, from those that the processes have for theirs."""
    (W, _), xp = params[0], array_module(params.flat)
    parts = processes.gather(to_host(W))
    columns = xp.asarray(np.concatenate(parts, axis=1))
    flat = xp.concatenate([columns.ravel(), params.flat[W.size :]])
    return Parameters(flat, (columns.shape[1], *params.layers[1:]))


def mean(
    processes: Processes, scores: Callable[[], Scores], m: int, weights: Array | None
) -> Scores:
    """The mean cost and accuracy over the examples of all processes; `scores` computes those of the
    m examples of this one, with these weights."""
    cost, accuracy = scores() if m else (0.0, 0.0)
    total = m if weights is None else float(weights.sum())
    sums = np.array([float(cost) * total, total, float(accuracy or 0.0) * m, m])
    known = not processes.any(accuracy is None)
    processes.sum(sums)
    return sums[0] / (sums[1] or 1.0), sums[2] / sums[3] if known else None
