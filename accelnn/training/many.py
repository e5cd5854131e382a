"""`fit_many`: trainings that share their data, all at once."""

import functools
import inspect
import signal
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import nullcontext, suppress
from typing import Any, Self

import numpy as np

from accelnn.backend import Array, array_module, backend_of, to_host
from accelnn.batches import Fold
from accelnn.columns import HostColumns
from accelnn.distributed import Processes
from accelnn.network import Network, Parameters
from accelnn.solvers import choice, threads
from accelnn.solvers.job import Interruption
from accelnn.training import checks
from accelnn.training.fit import OF_CHECKPOINTS, Training, divergence, fit, prepared
from accelnn.training.history import INTERRUPTED, History, Interrupted
from accelnn.training.progress import counting

Result = tuple[Parameters, History]


class TrainingsInterrupted(KeyboardInterrupt):
    """Ctrl-C ended `fit_many`.

    results : as `fit_many` returns them, with None for a training that had not begun; the history
        of one that had not ended says `stopped="interrupted"`
    """

    def __init__(self, results: list[Result | None]) -> None:
        self.results = results
        ended = sum(r is not None and r[1].stopped != INTERRUPTED for r in results)
        found = f"interrupted after {ended} of {len(results)} trainings"
        super().__init__(f"{found}: .results holds the results so far")


class TrainingsFailed(ExceptionGroup):
    """Trainings of `fit_many` failed, and the others came to their end.

    exceptions : the errors
    results : as `fit_many` returns them, with None for a training that failed
    """

    results: list[Result | None]

    @classmethod
    def of(cls, errors: dict[int, Exception], results: list[Result | None]) -> Self:
        """The error to raise, from the errors of these trainings, the first of which is 1."""
        numbers: dict[str, list[int]] = {}
        for number, error in sorted(errors.items()):
            numbers.setdefault(f"{type(error).__name__}: {error}", []).append(number)
        found = "; ".join(f"training {_joined(those)}: {text}" for text, those in numbers.items())
        message = f"{len(errors)} of {len(results)} trainings failed, and .results holds the others"
        failed = cls(f"{message}: {found}", list(errors.values()))
        failed.results = results
        return failed

    def __str__(self) -> str:
        return self.message


def fit_many(
    nets: Network | Sequence[Network],
    params: Parameters | Sequence[Parameters],
    X: Array,
    Y: Array,
    *,
    examples: Array | list[Array | None] | None = None,
    verbose: bool | str = False,
    comm: Any = None,
    **keywords: Any,
) -> list[tuple[Parameters, History]]:
    """Run several trainings of `accelnn.fit` that share X and Y.

    On the CPU each runs on one thread, and as many at once as there are cores: the longest first,
    and the next when one ends. Its result is that of `fit(..., threads=1)` with the same solver.
    On a GPU they run one after the other. Returns a list of (Parameters, History) in their order.

    Parameters
    ----------
    nets : a Network, or a list or tuple with one for each training
    params : the first weights: Parameters, or a list or tuple with those of each training
    X, Y : as in `fit`, for all trainings
    examples : the columns of X and Y that a training sees, those of a fold for instance: an array
        of integers, or a list with one or None for each training; by default all
    verbose : True shows a progress bar of the trainings, "lines" prints a line as each ends
    comm : of mpi4py, such as MPI.COMM_WORLD, to spread the trainings over its processes, which all
        call `fit_many` with the same arguments, and all return all results. Each process trains
        what takes a like share of the time, by an estimate, on its share of the host's cores
    keywords : as in `fit`, except threads. A list has a value for each training, and anything
        else is one value for all: to give a sequence to all, make it a tuple or an array.
        `weights` has one for each column of X. `callbacks` are called in the thread of their
        training, and the solver "auto" considers the time that all trainings take together

    In sample space the trainings share G = XᵀX, a part of which is that of a fold.

    Raises TypeError and ValueError as `fit` does, before the first training begins, and for lists
    of different lengths. An error in one training ends no other: TrainingsFailed follows the last.
    Ctrl-C raises TrainingsInterrupted. Both have the `results` so far. Warns with a RuntimeWarning
    of each training that diverged.
    """
    processes = None if comm is None else Processes(comm)
    with nullcontext() if processes is None else processes.together():
        each = _arguments(nets, params, X, Y, examples, keywords)
        trainings = _prepared(each)
    rates = [training.descent.learning_rate for training in trainings]
    running, is_first = _Running(trainings, processes), comm is None or comm.rank == 0
    del trainings  # each is freed when it has ended
    with (
        nullcontext() if processes is None else processes.failing(),
        counting(verbose if is_first else False, len(running.order)) as ended,
        suppress(KeyboardInterrupt),
        running,
    ):
        running.run(ended)
        if processes is not None:
            running.collect(processes)
    results, failed = running.results, None
    if running.errors:
        failed = TrainingsFailed.of(running.errors, results)
    if running.requested:
        raise TrainingsInterrupted(results) from failed
    for number, (result, rate) in enumerate(zip(results, rates, strict=True), start=1):
        message = None if result is None else divergence(result[0], result[1], rate)
        if message and is_first:
            warnings.warn(f"{_name(number, results)}: {message}", RuntimeWarning, stacklevel=2)
    if failed is not None:
        raise failed
    return results


def _joined(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, numbers))


def _name(number: int, among: Sized) -> str:
    return f"training {number} of {len(among)}"


def _arguments(
    nets: Any, params: Any, X: Array, Y: Array, examples: Any, keywords: dict[str, Any]
) -> list[dict[str, Any]]:
    """The arguments of `fit` and the examples, for each training."""
    if "threads" in keywords:
        raise TypeError("fit_many takes no threads: it gives each training one thread")
    if given := [name for name in OF_CHECKPOINTS if name in keywords]:
        raise TypeError(f"fit_many takes no {given[0]}: call fit for each training")
    values = {"net": nets, "params": params, "examples": examples, **keywords}
    for name in ("net", "params"):
        if isinstance(values[name], tuple):
            values[name] = list(values[name])
    lengths = {name: len(value) for name, value in values.items() if isinstance(value, list)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{length} of {name}" for name, length in lengths.items())
        hint = "a list has a value for each training; give a tuple or an array if it is one value"
        raise ValueError(f"expected lists of one length, got {found}: {hint}")
    count = max(lengths.values(), default=1)
    if count > 1 and isinstance(keywords.get("shuffle"), Iterator):
        raise ValueError("shuffle is one iterator for all trainings: give a list with one for each")
    fits = inspect.signature(fit)
    arguments = []
    for i in range(count):
        one = {n: value[i] if n in lengths else value for n, value in values.items()}
        chosen = one.pop("examples")
        bound = fits.bind(X=X, Y=Y, threads=1, **one)
        bound.apply_defaults()
        for name in ("verbose", "comm", *OF_CHECKPOINTS):
            del bound.arguments[name]
        arguments.append({**bound.arguments, "examples": chosen})
    return arguments


def _prepared(arguments: list[dict[str, Any]]) -> list[Training]:
    """The trainings, checked."""
    share, trainings = _Shared(), []
    for number, one in enumerate(arguments, start=1):
        try:
            trainings.append(share.prepared(**one))
        except (TypeError, ValueError) as error:
            raise type(error)(f"{_name(number, arguments)}: {error}") from None
    return trainings


class _Shared:
    """What trainings share: X and Y in the form that their nets need, G, and folds."""

    def __init__(self) -> None:
        self.data: dict[Any, checks.Data] = {}
        self.grams: dict[int, _Gram] = {}
        self.folds: dict[Any, Fold] = {}

    def prepared(
        self,
        net: Network,
        params: Parameters,
        X: Array,
        Y: Array,
        examples: Any,
        batch_size: Any,
        **others: Any,
    ) -> Training:
        """The training of these arguments."""
        checks.check_net(net, params)
        checks.check_finite("params", params.flat)
        with backend_of(params.flat).at_work("training"):
            streams = batch_size is not None
            kind = net.layers[0], net.layers[-1], net.output, params.dtype, streams
            if kind not in self.data:
                self.data[kind] = checks.checked(net, params, X, Y, streams)
            X, Y = data = self.data[kind]
            fold = None if examples is None else self.fold(X, _checked_examples(examples, X))
            given = {"net": net, "params": params, "X": X, "Y": Y, "batch_size": batch_size}
            training = prepared(**given, **others, data=data, fold=fold)
            job = training.descent.job
            choice.pick(training.solver, job, training.descent.epochs)  # raises if none can do it
            if training.share is None and not isinstance(X, HostColumns):  # else it sees others
                gram = self.grams.setdefault(id(X), _Gram(X))
                job.gram = functools.partial(gram.of, fold and fold.examples)
            return training

    def fold(self, X: Array, examples: Array) -> Fold:
        """The Fold of these examples, the same for the same."""
        key = id(X), examples.tobytes()
        if key not in self.folds:
            self.folds[key] = Fold(X, array_module(X).asarray(examples))
        return self.folds[key]


def _checked_examples(examples: Any, X: Array) -> Array:
    """The numbers of columns of X, on the host."""
    m, chosen = X.shape[1], np.asarray(to_host(examples))
    if chosen.ndim != 1 or chosen.dtype.kind not in "iu" or not len(chosen):
        found = f"{chosen.dtype} of shape {chosen.shape}"
        raise ValueError(f"expected examples as the numbers of columns of X, got {found}")
    if chosen.min() < 0 or chosen.max() >= m:
        found = f"{chosen.min()}..{chosen.max()}"
        raise ValueError(f"expected examples in 0..{m - 1}, the columns of X, got {found}")
    return chosen.astype(np.int64, copy=False)


class _Gram:
    """G = Xᵀ X of all examples, formed when a training first asks for it or a part of it."""

    def __init__(self, X: Array) -> None:
        self.X, self.lock = X, threading.Lock()

    def of(self, examples: Array | None) -> Array:
        """Xᵀ X of these examples, by default all."""
        with self.lock:
            G = self.whole
        return G if examples is None else G[array_module(G).ix_(examples, examples)]

    @functools.cached_property
    def whole(self) -> Array:
        return array_module(self.X).matmul(self.X.T, self.X)


class _Running(Interruption):
    """Trainings under way, those of this process if there are several, which Ctrl-C ends all.

    results, errors : by their places from 0 on, and by their numbers from 1 on
    """

    def __init__(self, trainings: Sequence[Training], processes: Processes | None) -> None:
        seconds = [training.seconds for training in trainings]
        self.total, self.cores = sum(seconds), threads.cores()
        mine: Iterable[int] = range(len(trainings))
        if processes is not None:
            mine, self.cores = processes.dealt(seconds), processes.cores
        self.waiting = {place: trainings[place] for place in mine}
        # The longest first; of those as long, a fold's together, for few of its copies at once.
        self.order = sorted(self.waiting, key=lambda i: (-seconds[i], id(trainings[i].fold)))
        self.on_cpu = all(training.descent.job.xp is np for training in trainings)
        self.interruptions = [training.descent.job.interruption for training in trainings]
        self.results: list[Any] = [None] * len(trainings)
        self.errors: dict[int, Exception] = {}

    def run(self, ended: Callable[[str], None]) -> None:
        """Run all trainings; calls `ended` with a line on each that has ended."""
        workers = min(self.cores, len(self.order)) if self.on_cpu else 1
        if workers < 2:
            for place in self.order:
                ended(self._line(self._train(place)))
            return
        with threads.one_blas_thread(), ThreadPoolExecutor(workers) as pool:
            futures = [pool.submit(self._train, place) for place in self.order]
            try:
                for future in as_completed(futures):
                    ended(self._line(future.result()))
            except BaseException:
                self.end()
                raise

    def collect(self, processes: Processes) -> None:
        """Exchange the results and errors with the other processes."""
        found = {place: self.results[place] for place in self.order}
        for results, errors, signalled in processes.gather((found, self.errors, self.signalled)):
            for place, result in results.items():
                self.results[place] = result
            self.errors |= errors
            self.signalled = max(self.signalled, signalled)

    def _train(self, place: int) -> int:
        """Run a training, unless all are to end; returns its place."""
        training = self.waiting.pop(place)
        if self.requested:
            return place
        try:
            with backend_of(training.descent.job.params.flat).at_work("training"):
                self.results[place] = training.run(seconds=self.total)
        except Interrupted as stopped:  # by Ctrl-C, or by a callback
            self.results[place] = stopped.params, stopped.history
            self.end()
        except Exception as error:
            self.errors[place + 1] = error
        return place

    def _line(self, place: int) -> str:
        name, result = _name(place + 1, self.results), self.results[place]
        if result is None:
            return f"{name}: {self.errors.get(place + 1, 'not begun')}"
        costs = [f"{cost:.6f}" for cost in result[1].costs]
        return f"{name}: cost {' to '.join(costs[:1] + costs[1:][-1:])}"

    def end(self) -> None:
        """Make all trainings end after the steps they are taking."""
        self.signalled = signal.SIGINT
        for interruption in self.interruptions:
            interruption.signalled = signal.SIGINT

    def _request(self, number: int, *frame: object) -> None:
        super()._request(number, *frame)
        self.end()
