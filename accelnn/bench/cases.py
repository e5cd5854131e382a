"""The notes' operations as benchmark cases; the trainings are in `trainings.py`.

A case's `prepare(name, seconds, repeat)` returns a contestant to be measured `repeat` times in
about `seconds`, or raises Skip. Its `run` does the job, or a share (`run_share`) that is checked;
`measure` returns the seconds of a unit of the job, which has `scale` units.
"""

import functools
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numba
import numpy as np

from accelnn import backend
from accelnn.backend import Array, Backend, array_module, to_host
from accelnn.bench import machine
from accelnn.bench.records import Record, Skip
from accelnn.bench.timing import stopwatch
from accelnn.kernels import jit, loops

ON_GPU = ("cupy", "accelnn-cupy")  # our implementations that run on the GPU
COMPILED = ("numba", "numba-parallel", *ON_GPU)  # the first run compiles


def place_of(implementation: str) -> Backend:
    """The backend on which an implementation runs. Raises Skip if it cannot be used."""
    if implementation not in ON_GPU:
        return backend.NumpyBackend()
    if reason := backend.why_not():
        raise Skip(reason)
    return backend.CupyBackend()


def places() -> list[Backend]:
    """The host, and the GPU if it can be used."""
    on_gpu: list[Backend] = [] if backend.why_not() else [backend.CupyBackend()]
    return [backend.NumpyBackend(), *on_gpu]


# --------------------------------------------------------------------------------------------
# the notes' operations


@dataclass(frozen=True)
class Operation:
    """One operation on vectors of n or matrices of n × n numbers.

    vectorised : (xp, *inputs, out) -> the result, in `out` unless that is None
    inputs, output : their dimensions: 0 for a number, 1 for a vector, 2 for a matrix
    sums : whether each element of the result adds up n terms; NumPy then calls BLAS
    by_rows : the inputs that share their rows with the output; slow loops get fewer rows
    bound : its limit, "stream" (memory) or "matmul" (arithmetic)
    """

    vectorised: Callable[..., Array]
    inputs: Sequence[int]
    output: int
    sums: bool = False
    by_rows: Sequence[int] = (0,)
    bound: str = "stream"

    def shapes(self, n: int) -> list[tuple[int, ...]]:
        return [(n,) * dimensions for dimensions in (*self.inputs, self.output)]

    def elements(self, n: int) -> int:
        """Numbers read and written."""
        return sum(map(math.prod, self.shapes(n)))

    def multiplications(self, n: int) -> int:
        return int(n ** (self.output + self.sums))

    @property
    def sizes(self) -> tuple[int, ...]:
        """The sizes measured on every machine."""
        return (15, 100, 1_000) if 2 in (*self.inputs, self.output) else (15, 1_000, 1_000_000)

    @property
    def gpu_sizes(self) -> tuple[int, ...]:
        """More sizes for a GPU: to find the size from which it is faster, and a large one."""
        if self.sizes[-1] > 1_000:
            return 10_000, 100_000, 2**28
        return 300, 2**13 if self.bound == "matmul" else 2**14


OPERATIONS = {
    "dot": Operation(lambda xp, a, b, _: xp.dot(a, b), (1, 1), 0, sums=True, by_rows=(0, 1)),
    "outer": Operation(lambda xp, a, b, out: xp.multiply(a[:, None], b, out=out), (1, 1), 2),
    "elementwise": Operation(
        lambda xp, a, b, out: xp.multiply(a, b, out=out), (1, 1), 1, by_rows=(0, 1)
    ),
    "gdot": Operation(lambda xp, W, x, out: xp.matmul(W, x, out=out), (2, 1), 1, sums=True),
    "matmul": Operation(
        lambda xp, A, B, out: xp.matmul(A, B, out=out), (2, 2), 2, sums=True, bound="matmul"
    ),
}

# --------------------------------------------------------------------------------------------
# their implementations

Job = tuple[Callable[[], Any], Any]  # the function to time, and its result if it returns None


def loop(module: Any, case: "OperationCase", inputs: Sequence[Any], out: Any) -> Job:
    """The loops of a module."""
    arguments = (*inputs, out) if case.operation.output else inputs
    return functools.partial(getattr(module, case.name), *arguments), out


def loop_over_lists(case: "OperationCase", inputs: Sequence[Array], out: Array) -> Job:
    return loop(loops, case, [array.tolist() for array in inputs], out.tolist())


def vectorised(case: "OperationCase", inputs: Sequence[Array], out: Array) -> Job:
    """NumPy, or CuPy if that has the arrays."""
    return functools.partial(case.operation.vectorised, array_module(out), *inputs, out), out


# By name, all that an implementation needs; those named in ON_GPU get arrays on the GPU
IMPLEMENTATIONS: dict[str, Callable[["OperationCase", list[Array], Array], Job]] = {
    "python-lists": loop_over_lists,
    "python": functools.partial(loop, loops),
    "numba": functools.partial(loop, jit.serial),
    "numba-parallel": functools.partial(loop, jit.parallel),
    "numpy": vectorised,
    "cupy": vectorised,
}

# The most seconds that an iteration of the innermost loop takes, to choose the number of rows
TURN = {"python": 2.5e-7, "python-lists": 1.5e-7, "numba": 1e-9, "numba-parallel": 1e-9}

LONGEST_ROW = 10.0  # seconds that one row of a loop may take
HEADROOM = 0.9  # the share of the free memory that one size may take
OUTPUTS = 4  # implementations that each keep a whole result on the host
LIST_ELEMENT = 32  # bytes of a float in a Python list: the object and the pointer to it


def sizes(operation: Operation, dtype: str = "float64") -> list[int]:
    """The sizes of a full run: from 15 to beyond the caches, or to what is large for a GPU."""
    found = {*operation.sizes, max(_beyond_caches(operation), 2 * operation.sizes[-1])}
    if backend.why_not() is None:
        found |= {_with_room(operation, n, dtype) for n in operation.gpu_sizes}
    return sorted(found)


def short_sizes(operation: Operation) -> tuple[int, int]:
    """The sizes of a short run: the smallest, and one that shows the machine's limit, which a
    product reaches within the caches."""
    smallest, *_, largest = operation.sizes
    beyond = _beyond_caches(operation) if operation.bound == "stream" else 0
    return smallest, max(beyond, largest)


def _beyond_caches(operation: Operation) -> int:
    """The first 1, 2 or 5 times 10^k whose arrays do not fit the caches."""
    caches = 4 if operation.bound == "stream" else 1
    candidates = (int(digit * 10**power) for power in range(1, 12) for digit in (1, 2, 5))
    enough = caches * machine.last_level_cache()
    return next(n for n in candidates if operation.elements(n) * 8 > enough)


def _with_room(operation: Operation, n: int, dtype: str) -> int:
    """n, or the largest of n/2, n/4, ... that fits the memory of the host and the GPU."""
    while n > 1 and any(_why_not(operation, n, dtype, place) for place in places()):
        n //= 2
    return n


def _why_not(operation: Operation, n: int, dtype: str, place: Backend) -> str | None:
    """Why a size cannot be measured on a backend: it does not fit the free memory."""
    needed, free = _bytes_needed(operation, n, dtype, place.name), place.memory()[0]
    if needed <= HEADROOM * free:
        return None
    memory = "GPU memory" if place.name == "cupy" else "memory"
    return f"needs {_gib(needed)} of {memory}, {_gib(free)} are free"


def _bytes_needed(operation: Operation, n: int, dtype: str, place: str) -> int:
    """The most bytes that the implementations of one size hold at the same time."""
    *inputs, output = map(math.prod, operation.shapes(n))
    itemsize = int(np.dtype(dtype).itemsize)
    if place == "cupy":  # the inputs a second time when they are timed from the host
        return itemsize * (2 * sum(inputs) + output)
    shared = [size for i, size in enumerate(inputs) if i not in operation.by_rows]
    return (
        itemsize * (sum(inputs) + OUTPUTS * output)
        + 8 * 2 * output  # the reference and its difference from a result
        + (0 if dtype == "float64" else 8 * sum(inputs))  # from which the reference is computed
        + LIST_ELEMENT * sum(shared)
    )


def _gib(size: int) -> str:
    return f"{size / 2**30:,.1f} GiB" if size < 2**40 else f"{size / 2**40:,.1f} TiB"


@dataclass
class OperationCase:
    """One operation at one size.

    limits : by backend, as from `machine.limits`
    """

    name: str
    n: int
    dtype: str
    limits: dict[str, dict[str, float]]

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.name]

    @property
    def implementations(self) -> Sequence[str]:
        return tuple(IMPLEMENTATIONS)

    def __str__(self) -> str:
        return f"{self.name}({self.n:,})"

    def record(self, implementation: str) -> Record:
        blas = machine.blas_threads() if self.operation.sums else 1
        threads = {"numba-parallel": numba.get_num_threads(), "numpy": blas, "cupy": None}
        place = "cupy" if implementation in ON_GPU else "numpy"
        record = Record(self.name, implementation, {"n": self.n}, self.dtype, place)
        record.threads = threads.get(implementation, 1)
        return record

    def prepare(self, implementation: str, seconds: float, repeat: int) -> "OperationContestant":
        place = place_of(implementation)
        if reason := self._too_large.get(place.name) or self._too_large["numpy"]:
            raise Skip(f"{self} {reason}")
        rows = self._affordable_rows(implementation, seconds / repeat)
        return OperationContestant(self, implementation, place, rows)

    def finish(self, records: Sequence[Record]) -> None:
        """Nothing to compare: each result was checked."""

    @functools.cached_property
    def _too_large(self) -> dict[str, str | None]:
        """By backend, why this size does not fit; asked once, before anything is allocated."""
        return {p.name: _why_not(self.operation, self.n, self.dtype, p) for p in places()}

    def _affordable_rows(self, implementation: str, seconds: float) -> int:
        turn = TURN.get(implementation, 0.0)
        if implementation == "numba-parallel":
            turn /= numba.get_num_threads()
        elif "python" in implementation:  # a measurement takes up to five runs to prepare
            seconds /= 3
        one_row = self.operation.multiplications(self.n) / self.n * turn
        if one_row > LONGEST_ROW:
            raise Skip(f"one of {self.n:,} rows would take about {one_row:.0f} s")
        return max(1, min(self.n, int(seconds / one_row))) if turn else self.n


# The arrays of the present case only: the largest take gigabytes
@functools.lru_cache(maxsize=1)
def _inputs(name: str, n: int, dtype: str) -> list[Array]:
    random = np.random.default_rng(0)
    return [random.random(shape, np.dtype(dtype)) for shape in OPERATIONS[name].shapes(n)[:-1]]


@functools.lru_cache(maxsize=1)
def _reference(name: str, n: int, dtype: str, rows: int) -> Array:
    """The first rows of the result, computed in float64."""
    inputs = (array.astype(np.float64, copy=False) for array in _rows(name, n, dtype, rows))
    return np.asarray(OPERATIONS[name].vectorised(np, *inputs, None))


def _rows(name: str, n: int, dtype: str, rows: int) -> list[Array]:
    """The inputs for the first rows of the result."""
    by_rows, inputs = OPERATIONS[name].by_rows, _inputs(name, n, dtype)
    return [array[:rows] if i in by_rows else array for i, array in enumerate(inputs)]


class OperationContestant:
    """One implementation of an operation on the first rows; measures the seconds of a run."""

    run_share = 1.0

    def __init__(self, case: OperationCase, implementation: str, place: Backend, rows: int) -> None:
        self.case, self.place, self.rows = case, place, rows
        operation = case.operation
        self.scale = case.n / rows
        # The rounding error of a sum of k terms, in any order, is below about k u (Higham 2002,
        # chapter 4). Four times that still exposes a wrong result.
        unit = float(np.finfo(case.dtype).eps)
        self.tolerance = min(4 * unit * (case.n if operation.sums else 1), 1e-2)
        self.inputs = _rows(case.name, case.n, case.dtype, rows)
        shape = operation.shapes(case.n)[-1]
        self.out = np.full((rows, *shape[1:]) if shape else (), np.nan, case.dtype)
        self.on_place = place.to_device(self.out)
        arrays = self._upload(), self.on_place
        self.job, self.result = IMPLEMENTATIONS[implementation](case, *arrays)
        self.measure = stopwatch(self.job, place)

    def _upload(self) -> list[Array]:
        return [self.place.to_device(array) for array in self.inputs]

    def run(self) -> None:
        returned = self.job()
        self.result = self.result if returned is None else returned

    def error(self) -> float:
        """The largest error, relative to the largest element of the float64 reference."""
        case = self.case
        reference = _reference(case.name, case.n, case.dtype, self.rows)
        difference = np.atleast_1d(np.asarray(to_host(self.result), np.float64) - reference)
        largest = max(abs(reference.max()), abs(reference.min()))
        return float(np.abs(difference, out=difference).max() / largest)

    def finish(self, record: Record) -> None:
        """Enter the rate, its share of the limit, and the rows that were run; on a GPU measure the
        times with the transfers too."""
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
            if bytes_moved > machine.cache_of(self.place):
                record.share_of_limit = record.gb_per_s / limits["stream_gb_per_s"]
        if record.backend == "cupy":
            host = backend.NumpyBackend()
            record.transfer_seconds = _median_of_a_few(stopwatch(self.move, host))
            record.end_to_end_seconds = _median_of_a_few(stopwatch(self.upload_run_download, host))

    def move(self) -> None:
        """The inputs to the GPU and the result back."""
        self._upload()
        to_host(self.on_place, out=self.out)

    def upload_run_download(self) -> None:
        """The job, from inputs on the host to the result on the host."""
        vectorised(self.case, self._upload(), self.on_place)[0]()
        to_host(self.on_place, out=self.out)

    def close(self) -> None:
        """Nothing to close."""


def _median_of_a_few(measure: Callable[[], float]) -> float:
    """The median of three measurements, or of fewer that take a tenth of a second."""
    times = [measure()]
    while len(times) < 3 and sum(times) < 0.1:
        times.append(measure())
    return statistics.median(times)
