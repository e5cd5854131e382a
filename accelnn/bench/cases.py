"""What is measured: a case prepares, for each implementation, a contestant that does its job.

Here stand the notes' operations; the trainings stand in `trainings.py`. The benchmark command
and the pytest-benchmark suites both take them from these tables.
"""

import functools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numba
import numpy as np

from accelnn import backend
from accelnn.backend import Array, Backend, to_host
from accelnn.bench import machine
from accelnn.bench.records import Record
from accelnn.bench.timing import stopwatch
from accelnn.kernels import jit, loops


class Skip(Exception):
    """An implementation cannot run here; the message says why."""


class Contestant(Protocol):
    """One implementation of one case, ready to run.

    tolerance : the error up to which the result of `run` counts as right
    scale : how many of the units that `measure` tells are in the whole job
    run_share : how many of them `run` does
    transfer_seconds : to move the inputs to the device, where they had to
    """

    tolerance: float
    scale: float
    run_share: float
    transfer_seconds: float | None

    def run(self) -> None:
        """Do the job, or a part of it that can be checked."""

    def error(self) -> float:
        """The largest error of what `run` left, relative to the float64 reference."""

    def measure(self) -> float:
        """Measure once; the seconds of one unit of the job."""

    def finish(self, record: Record) -> None:
        """Enter into the record what is known when all is measured."""

    def close(self) -> None:
        """End whatever was started for it."""


# The implementations whose first run includes compiling
COMPILED = ("numba", "numba-parallel", "cupy")


def place_of(implementation: str) -> Backend:
    """The backend on which an implementation runs; Skip where that is not to be had."""
    if implementation != "cupy":
        return backend.NumpyBackend()
    reason = backend.cupy_unusable()
    if reason is not None:
        raise Skip(reason)
    return backend.CupyBackend()


class Case(Protocol):
    """What the benchmark needs of a case."""

    @property
    def implementations(self) -> Sequence[str]:
        """What can do the job."""

    def record(self, implementation: str) -> Record:
        """A record that says what is to be measured, and nothing yet of the result."""

    def prepare(self, implementation: str, seconds: float, repeat: int) -> Contestant:
        """A contestant that can be measured `repeat` times within about `seconds`.

        Raises Skip where the implementation cannot run here.
        """

    def compare(self, records: Sequence[Record]) -> None:
        """Judge the results by one another, when all are there."""


# --------------------------------------------------------------------------------------------
# the notes' operations

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operation:
    """One operation on inputs whose shapes follow from a size n.

    vectorised : (xp, *inputs, out) -> the result, in `out` where there is one
    inputs, output : shapes
    by_rows : which inputs share their rows with the output; the loops may be given fewer rows
    sums : how many terms each element of the result adds up
    bound : what limits it at best: "stream", the memory, or "matmul", the arithmetic
    by_blas : whether NumPy hands it to BLAS, which uses all threads
    """

    vectorised: Callable[..., Array]
    inputs: Callable[[int], Sequence[Shape]]
    output: Callable[[int], Shape]
    sizes: Sequence[int]
    by_rows: Sequence[int] = (0,)
    sums: Callable[[int], int] = lambda _: 1
    bound: str = "stream"
    by_blas: bool = False

    def elements(self, n: int) -> int:
        """Numbers read and written."""
        return sum(math.prod(shape) for shape in (*self.inputs(n), self.output(n)))

    def multiplications(self, n: int) -> int:
        """Turns of the innermost loop."""
        return math.prod(self.output(n)) * self.sums(n)


OPERATIONS = {
    "dot": Operation(
        vectorised=lambda xp, a, b, _: xp.dot(a, b),
        inputs=lambda n: ((n,), (n,)),
        output=lambda _: (),
        sizes=(15, 1_000, 1_000_000),
        by_rows=(0, 1),
        sums=lambda n: n,
        by_blas=True,
    ),
    "outer": Operation(
        vectorised=lambda xp, a, b, out: xp.multiply(a[:, None], b, out=out),
        inputs=lambda n: ((n,), (n,)),
        output=lambda n: (n, n),
        sizes=(15, 100, 1_000),
    ),
    "elementwise": Operation(
        vectorised=lambda xp, a, b, out: xp.multiply(a, b, out=out),
        inputs=lambda n: ((n,), (n,)),
        output=lambda n: (n,),
        sizes=(15, 1_000, 1_000_000),
        by_rows=(0, 1),
    ),
    "gdot": Operation(
        vectorised=lambda xp, W, x, out: xp.matmul(W, x, out=out),
        inputs=lambda n: ((n, n), (n,)),
        output=lambda n: (n,),
        sizes=(15, 100, 1_000),
        sums=lambda n: n,
        by_blas=True,
    ),
    "matmul": Operation(
        vectorised=lambda xp, A, B, out: xp.matmul(A, B, out=out),
        inputs=lambda n: ((n, n), (n, n)),
        output=lambda n: (n, n),
        sizes=(15, 100, 1_000),
        sums=lambda n: n,
        bound="matmul",
        by_blas=True,
    ),
}

LOOPS: dict[str, Any] = {
    "python-lists": loops,
    "python": loops,
    "numba": jit.serial,
    "numba-parallel": jit.parallel,
}

# What one turn of the innermost loop takes at most, in seconds: how many rows the loops are given
TURN = {"python": 2.5e-7, "python-lists": 1.5e-7, "numba": 1e-9, "numba-parallel": 1e-9}


def sizes(operation: Operation) -> list[int]:
    """From the notes' vectors of 15 to the first 1, 2 or 5 times 10^k beyond the caches."""
    caches = 4 if operation.bound == "stream" else 1
    beyond = next(
        digit * 10**power
        for power in range(1, 12)
        for digit in (1, 2, 5)
        if operation.elements(digit * 10**power) * 8 > caches * machine.last_level_cache()
    )
    return [*operation.sizes, max(beyond, 2 * operation.sizes[-1])]


@dataclass
class OperationCase:
    """One operation at one size."""

    name: str
    n: int
    dtype: str
    limits: dict[str, dict[str, float]]  # by backend, as machine.limits gives them

    implementations = ("python-lists", "python", "numba", "numba-parallel", "numpy", "cupy")

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.name]

    def __str__(self) -> str:
        return f"{self.name}({self.n:,})"

    def record(self, implementation: str) -> Record:
        threads: int | None = 1
        if implementation == "numba-parallel":
            threads = numba.get_num_threads()
        elif implementation == "numpy" and self.operation.by_blas:
            threads = machine.blas_threads()
        elif implementation == "cupy":
            threads = None
        return Record(
            case=self.name,
            implementation=implementation,
            size={"n": self.n},
            dtype=self.dtype,
            backend="cupy" if implementation == "cupy" else "numpy",
            threads=threads,
        )

    def prepare(self, implementation: str, seconds: float, repeat: int) -> "OperationContestant":
        place = place_of(implementation)
        rows = self._affordable_rows(implementation, seconds / repeat)
        return OperationContestant(self, implementation, place, rows)

    def compare(self, records: Sequence[Record]) -> None:
        """Each was compared with the float64 reference: there is nothing to add."""

    def _affordable_rows(self, implementation: str, seconds: float) -> int:
        if implementation not in TURN:
            return self.n
        one_row = self.operation.multiplications(self.n) / self.n * TURN[implementation]
        return max(1, min(self.n, int(seconds / one_row)))

    @functools.cached_property
    def arrays(self) -> list[Array]:
        """The inputs, drawn from [0, 1)."""
        random = np.random.default_rng(0)
        return [random.random(shape).astype(self.dtype) for shape in self.operation.inputs(self.n)]


class OperationContestant:
    """One implementation of an operation, on the first rows. Measures in seconds of a run."""

    run_share = 1.0

    def __init__(self, case: OperationCase, implementation: str, place: Backend, rows: int) -> None:
        self.case, self.place, self.rows = case, place, rows
        operation = case.operation
        self.scale = case.n / rows
        # Rounding in a sum of k terms, in any order, stays below about k u (Higham 2002,
        # chapter 4); a little room, but never so much that a wrong result could pass.
        unit = float(np.finfo(case.dtype).eps)
        self.tolerance = min(4 * unit * operation.sums(case.n), 1e-2)
        self.transfer_seconds = None

        self.inputs = list(case.arrays)
        for i in operation.by_rows:
            self.inputs[i] = self.inputs[i][:rows]
        shape = operation.output(case.n)
        out = np.full((rows, *shape[1:]) if shape else (), np.nan, case.dtype)
        arrays: list[Any] = self.inputs
        if implementation == "python-lists":
            arrays, out = [array.tolist() for array in arrays], out.tolist()
        elif place.name == "cupy":
            place.synchronize()
            start = time.perf_counter()
            arrays = [place.to_device(array) for array in arrays]
            place.synchronize()
            self.transfer_seconds = time.perf_counter() - start
            out = place.to_device(out)
        if implementation in ("numpy", "cupy"):
            job = functools.partial(operation.vectorised, place.xp, *arrays, out)
        else:
            function = getattr(LOOPS[implementation], case.name)
            job = functools.partial(function, *arrays, *((out,) if shape else ()))
        self.job, self.result = job, out
        self.measure = stopwatch(job, place)

    def run(self) -> None:
        """Do the job once, and keep the result."""
        returned = self.job()
        if returned is not None:
            self.result = returned

    def error(self) -> float:
        """The largest error, relative to the largest element of the float64 reference."""
        in_float64 = (array.astype(np.float64) for array in self.inputs)
        reference = np.asarray(self.case.operation.vectorised(np, *in_float64, None))
        difference = np.asarray(to_host(self.result), np.float64) - reference
        return float(np.abs(difference).max() / np.abs(reference).max())

    def finish(self, record: Record) -> None:
        """Enter the rate, its share of the machine's limit, and what was scaled."""
        assert record.seconds is not None
        case, operation = self.case, self.case.operation
        record.device = self.place.device_name()
        if self.rows < case.n:
            record.reason = f"{self.rows:,} of {case.n:,} rows"
        limits = case.limits[record.backend]
        if operation.bound == "matmul":
            products = 2 * operation.multiplications(case.n)
            record.gflop_per_s = products / record.seconds / 1e9
            record.share_of_limit = record.gflop_per_s / limits["matmul_gflop_per_s"]
        else:
            bytes_moved = operation.elements(case.n) * np.dtype(case.dtype).itemsize
            record.gb_per_s = bytes_moved / record.seconds / 1e9
            if bytes_moved > machine.last_level_cache():
                record.share_of_limit = record.gb_per_s / limits["stream_gb_per_s"]

    def close(self) -> None:
        """There is nothing to end."""
