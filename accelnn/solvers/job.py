"""The `Job` that a solver of gradient descent gets, and the parts that all trainings share."""

import functools
import itertools
import math
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from accelnn import batches, distributed, kernels, streaming
from accelnn.backend import Array, array_module, to_host
from accelnn.columns import HostColumns
from accelnn.distributed import Processes
from accelnn.kernels import loops
from accelnn.kernels.cpu import fused
from accelnn.kernels.gpu.cuda import Philox, kernels_compile
from accelnn.network import Network, Parameters, Workspace, cost_and_accuracy, forward
from accelnn.optimizers import OPTIMIZERS, Optimizer


class Interruption:
    """Defers Ctrl-C within a `with` block: trainers look at `requested` between two steps and
    return early, then `check` raises KeyboardInterrupt, as the block's end does. A second Ctrl-C
    does not wait. Other threads receive no signals, and a handler stays installed unless it is
    Python's own or says by an attribute `raises_interrupt` that it raises KeyboardInterrupt.

    signalled : the number of the signal that came, or 0
    deadline : when trainers return early too, for a checkpoint, in seconds of time.monotonic
    signals : those deferred; SIGTERM, if among them, then ends a training as Ctrl-C does
    agree : of processes that train together, all of which call `check` at once: returns the largest
        of their numbers
    halting : whether all of them return early
    """

    signalled = 0
    deadline = math.inf
    signals: tuple[int, ...] = (signal.SIGINT,)
    agree: Callable[[int], int] | None = None
    halting = False

    def __enter__(self) -> None:
        self._handlers: dict[int, Any] = {}
        if self.signalled or threading.current_thread() is not threading.main_thread():
            return
        for number in self.signals:
            handler: Any = signal.getsignal(number)
            default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
            if handler is default or hasattr(handler, "raises_interrupt"):
                self._handlers[number] = handler
                signal.signal(number, self._request)

    def __exit__(self, *error: object) -> None:
        self._restore()
        if error[0] is None:
            self.check()

    @property
    def requested(self) -> bool:
        return bool(self.signalled) or time.monotonic() >= self.deadline

    def check(self) -> None:
        agreed = self.signalled
        if self.agree is not None:
            agreed, self.halting = self.agree(agreed), False
            self.signalled = self.signalled or agreed  # a signal may have come meanwhile
        if agreed:
            raise KeyboardInterrupt

    def _request(self, number: int, *_: object) -> None:
        self.signalled = number
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._handlers.items():
            signal.signal(number, handler)


@dataclass
class Job:
    """A training, checked and ready to begin.

    params : the first weights, a copy that the solver may change
    X, Y : (n_0, m) and (n_L, m), of the parameters' dtype and on their backend; or HostColumns,
        to be streamed in mini-batches; X alone in full batches, from a file
    batch_size : examples a step; None for all of them
    validation : X and Y of the validation set, and its weights or None; or None
    weights : of the examples (m,), of the parameters' dtype and on their backend, or None
    shuffle, threads, precision : as in `fit`; a precision of None is the parameters' own
    state : of the training that this one continues, or None
    resumed : of a checkpoint of this training, or None
    marks : states of the generator of the orders, as in `batches.orders`
    gram : returns Xᵀ X (m, m), if trainings share it
    processes : those that train it together, or None
    whole_net, features : the net that sees all features, and those that this process has, if they
        share these out; else None
    place : (m,) the columns of X that have the examples of all processes, -1 for those of others;
        None if this process has all, or some features of all
    resources : closed when the training ends, however it ends
    interruption : Ctrl-C, deferred while steps run
    """

    net: Network
    params: Parameters
    X: Array
    Y: Array
    optimizer: Optimizer
    batch_size: int | None = None
    seed: int = 0
    validation: Any = None
    precision: str | None = None
    weights: Array | None = None
    shuffle: bool | int | Iterable[Array] = True
    state: "State | None" = None
    resumed: "State | None" = None
    marks: dict[int, Any] = field(default_factory=dict)
    threads: int | None = None
    gram: Callable[[], Array] | None = None
    processes: Processes | None = None
    whole_net: Network | None = None
    features: slice | None = None
    place: Array | None = None
    resources: ExitStack = field(default_factory=ExitStack)
    interruption: Interruption = field(default_factory=Interruption)

    @property
    def xp(self) -> Any:
        return array_module(self.params.flat)

    @property
    def streamed(self) -> bool:
        """Whether X, or that of the validation set, stays on the host."""
        validation = () if self.validation is None else self.validation
        return any(isinstance(array, HostColumns) for array in (self.X, *validation))

    @property
    def batches_streamed(self) -> bool:
        """Whether mini-batches come from data that no array holds."""
        return self.batch_size is not None and isinstance(self.X, HostColumns)

    def load(self) -> None:
        """Bring X, and that of the validation set, into memory if they are in a file."""
        self.X = self._loaded(self.X)
        if self.validation is not None:
            self.validation = (self._loaded(self.validation[0]), *self.validation[1:])

    def _loaded(self, X: Array) -> Array:
        return self.xp.asarray(np.asarray(X)) if isinstance(X, HostColumns) else X

    @property
    def examples(self) -> int:
        """m of the training set, of all processes."""
        return int(self.X.shape[1]) if self.place is None else len(self.place)

    @property
    def sizes(self) -> list[int]:
        """The number of examples in each step of an epoch."""
        return batches.sizes(self.examples, self.batch_size or self.examples)

    @property
    def block(self) -> int | None:
        """The contiguous examples of each block, if blocks are shuffled."""
        whole = isinstance(self.shuffle, bool) or not isinstance(self.shuffle, int)
        return None if whole else self.shuffle  # type: ignore[return-value]

    @property
    def drops(self) -> bool:
        """Whether there is dropout."""
        return min(self.net.keep_prob, default=1.0) < 1

    @property
    def shared(self) -> str | None:
        """What processes share out: "examples" | "features"; None if there is one process."""
        if self.processes is None:
            return None
        return "features" if self.place is None else "examples"

    @property
    def first_epoch(self) -> int:
        return 0 if self.state is None else self.state.epochs

    @property
    def begins(self) -> "State":
        """From which the trainer goes on."""
        return self.resumed or self.state or State(0, 0)

    @property
    def halted(self) -> bool:
        """Whether trainers are to return before their next step; processes agree on it."""
        together = self.processes is not None
        return self.interruption.halting if together else self.interruption.requested

    def orders(self) -> Iterator[Array]:
        """The order of the examples in each epoch of mini-batches, from the present one on."""
        first, now = self.first_epoch, self.begins.epochs
        if isinstance(self.shuffle, bool):
            return batches.orders(self.examples, self.seed, self.shuffle, now, self.marks)
        own = batches.orders(self.examples, self.seed, self.shuffle)
        return itertools.islice(own, now - first, None)

    def epochs(self) -> Iterator[tuple[Array, list["Step"]]]:
        """The columns of X that this process has of each epoch of mini-batches, in its order, and
        its steps; of the present epoch, those from the next step on."""
        if self.weights is not None:
            _ = self.host_weights  # here, because a thread that reads cannot wait for processes
        return self._epochs()

    def _epochs(self) -> Iterator[tuple[Array, list["Step"]]]:
        begun, sizes = self.begins.batches, self.sizes
        for order in self.orders():
            totals = self.totals(order, sizes)
            columns, counts, places = self.here(order, sizes)
            ends = [0, *np.cumsum(counts).tolist()]
            bounds = list(zip(ends, ends[1:], totals, strict=False))[begun:]
            steps = [Step(columns[i:j], places[i:j], total) for i, j, total in bounds]
            yield columns[ends[begun] :], steps
            begun = 0

    def streams(self) -> tuple[Sequence[HostColumns], Iterator[tuple[Array, list["Step"]]], int]:
        """X and Y, the `epochs`, and the examples to read at a time: of blocks that are shuffled
        together."""
        block = self.block or (self.X.rows.block if self.X.in_file else 1)
        return (self.X, self.Y), self.epochs(), batches.BLOCKS * block

    def here(self, order: Array, sizes: Array) -> tuple[Array, Array, Array]:
        """The examples of batches of these sizes, or of the whole one if the order is empty, that
        this process has: their columns of X, their number in each batch, and, with several
        processes, their places in it."""
        if self.place is None:
            return order, sizes, order
        if not len(order):
            places = np.flatnonzero(self.place >= 0)
            return order, np.array([len(places)]), places
        columns, starts = self.place[order], np.cumsum([0, *sizes[:-1]])
        mine = columns >= 0
        counts = np.add.reduceat(mine, starts, dtype=np.int64)
        return columns[mine], counts, np.flatnonzero(mine) - starts.repeat(counts)

    @property
    def layers(self) -> tuple[int, ...]:
        """Those of the net that sees all features."""
        return tuple((self.whole_net or self.net).layers)

    def part(self, params: Parameters) -> Parameters:
        """The parameters for this process's features, of those for all."""
        if self.whole_net is None:
            return params
        assert self.features is not None
        return distributed.of_features(self.whole_net, params, self.features)[1]

    def whole(self, params: Parameters) -> Parameters:
        """The parameters for all features, if processes share them out."""
        if self.processes is None or self.place is not None:
            return params
        return distributed.whole(self.processes, params)

    def totals(self, order: Array, sizes: Sequence[int]) -> Array:
        """The sum of the weights of each batch, on the host, from the examples' order; `sizes` are
        the numbers of examples, which are the sums if all weigh the same."""
        if self.weights is None:
            return np.array(sizes, np.float64)
        starts = np.cumsum([0, *sizes[:-1]])
        return np.add.reduceat(self.host_weights[order], starts)

    @functools.cached_property
    def host_weights(self) -> Array:
        """Those of all processes."""
        weights = to_host(self.weights).astype(np.float64)
        if self.processes is None or self.place is None:
            return weights
        of_all = np.zeros(self.examples)
        of_all[self.place >= 0] = weights
        self.processes.sum(of_all)
        return of_all


class Step(NamedTuple):
    """A mini-batch: the columns of X that this process has of it, their places in it, if several
    processes share it, and the sum of all its weights."""

    columns: Array
    places: Array
    total: float


@dataclass(frozen=True)
class State:
    """What a training needs to go on beside its parameters: pass `history.state` to
    `accelnn.fit(state=...)`.

    epochs, steps : taken so far, from the first training on
    moments : the optimizer's, each a flat array like the parameters
    dropout : the state of its generator of random numbers, if it has one on the host
    batches : those taken of an epoch that was interrupted
    partial : their part of its cost, or None if that epoch is not recorded
    params, c : in a checkpoint, the parameters in the trainer's own form, which `moments` have
        too; and the numbers c of sample space and of its moments
    """

    epochs: int
    steps: int
    moments: tuple[Array, ...] = ()
    dropout: Any = None
    batches: int = 0
    partial: float | None = 0.0
    params: Array | None = None
    c: tuple[float, ...] = ()


class Trainer:
    """A training under way, which never waits for the device; each solver has its own steps.

    divides : what several processes may share out, "examples" | "features", or None
    by_kernels : whether kernels compute it, which know certain optimizers and activations
    streams : whether examples may stay on the host while the parameters are on a device
    params : the arrays that steps update
    gradients, summed : of the same shapes, and their memory with two more numbers: with processes
        the cost, and whether one is to halt
    steps : updates so far
    partial : the cost of the batches taken of the epoch under way
    threads : those of its steps, or None if that is left to NumPy or a device
    not_captured : why the solver "jitted" could not capture steps on a GPU, or ""
    """

    divides: str | None = None
    by_kernels = streams = False
    compile_seconds = 0.0
    threads: int | None = None
    not_captured = ""

    def __init__(self, job: Job) -> None:
        self.job, self.xp, begins = job, job.xp, job.begins
        self.steps = begins.steps
        self.partial: Any = begins.partial or 0.0  # 0-d on the device, if its steps add to it there
        self._first_step, self._per_epoch = begins.steps - begins.batches, len(job.sizes)
        self.params = self._first_params()
        if begins.params is not None:
            self.params.flat[...] = begins.params
        size = self.params.flat.size
        self.summed = self.xp.zeros(size + 2, self.params.dtype)
        self.gradients = Parameters(self.summed[:size], self.params.layers)
        self.moments = [self.xp.zeros_like(self.params.flat) for _ in range(job.optimizer.moments)]
        for moment, before in zip(self.moments, begins.moments, strict=False):
            moment[...] = before

    def _first_params(self) -> Parameters:
        return self.job.params

    @classmethod
    def start(cls, job: Job) -> "Trainer":
        return cls(job)

    @classmethod
    def why_not(cls, job: Job) -> str | None:
        """Why it cannot do a job, or None."""
        if job.shared is not None and job.shared != cls.divides:
            use = {"examples": "direct", "features": "gram"}[job.shared]
            return f"processes share out the {job.shared}: use the solver {use!r}"
        if job.streamed and not cls.streams:
            return (
                "X and Y are on the host, and the parameters on the device: the solver 'direct' "
                "streams them; or move them with accelnn.to_device"
            )
        if cls.by_kernels:
            return why_not_kernels(job)
        if job.precision == "bfloat16":
            return "only captured steps, solver='jitted', have products of bfloat16"
        return None

    def advance(self, rates: list[float], cost: Array | None) -> None:
        """Run to the end of an epoch for each rate, the first of which may be under way; or return
        before a step if the job is halted.

        `cost`, 0-d, receives the first epoch's mean over its batches, each before its update.
        """
        raise NotImplementedError

    def advance_through(self, rates: list[float], costs: Array, every: int) -> None:
        """`advance` through several records: `costs` receives the cost of the first epoch and of
        each `every` epochs later."""
        for record, start in enumerate(range(0, len(rates), every)):
            if not self.job.halted:
                self.advance(rates[start : start + every], costs[record, ...])

    def validation(self) -> tuple[Array, Array | None]:
        """The validation set's cost without L2, and its accuracy unless the output is linear."""
        net, (X, *labels) = self.job.net, self.job.validation
        if isinstance(X, HostColumns):
            return streaming.evaluate(net, self.params, X, *labels)
        Z = forward(self.validation_workspace, X)
        return cost_and_accuracy(net, self.params, Z, *labels)

    def parameters(self) -> Parameters:
        """A copy of the present parameters."""
        return self.params.copy()

    def state(self) -> State:
        """From which another training goes on; the arrays are those of this one."""
        own = self.checkpoint()
        return replace(own, moments=tuple(self.moments_of_params()), params=None, c=())

    def checkpoint(self) -> State:
        """From which this training goes on, in its own form; the arrays are those of this one."""
        generator = getattr(self.random, "bit_generator", None) if self.job.drops else None
        dropout = generator.state if isinstance(generator, np.random.BitGenerator) else None
        moments, partial = tuple(self.moments), float(self.partial) if self.batches_run else 0.0
        now = self.epoch, self.steps, moments, dropout, self.batches_run, partial
        return State(*now, self.params.flat)

    def moments_of_params(self) -> list[Array]:
        """The moments for `parameters()`."""
        return self.moments

    @property
    def epoch(self) -> int:
        """The epoch under way, which is the number of those completed since the first training."""
        return self._position[0]

    @property
    def batches_run(self) -> int:
        """The batches taken of the epoch under way."""
        return self._position[1]

    @property
    def _position(self) -> tuple[int, int]:
        epochs, batch = divmod(self.steps - self._first_step, self._per_epoch)
        return self.job.begins.epochs + epochs, batch

    @functools.cached_property
    def validation_workspace(self) -> Workspace:
        return Workspace(self.job.net, self.params, self.job.validation[0].shape[1])

    @functools.cached_property
    def random(self) -> Any:
        """Dropout's generator of random numbers, or, if a GPU's kernels run, numbers by place."""
        if self.xp is not np and kernels_compile(self.xp):
            return Philox(self.job.seed)
        random = self.xp.random.default_rng(self.job.seed)
        if self.job.begins.dropout is not None:
            random.bit_generator.state = self.job.begins.dropout
        return random

    def draw_masks(self, D: Iterable[Array | None]) -> None:
        """Fill the dropout masks D[l] of the next step; None for a layer that drops no units."""
        for layer, (mask, keep) in enumerate(zip(D, self.job.net.keep_prob, strict=True)):
            if mask is not None and isinstance(self.random, Philox):
                self.random.draw(mask, keep, self.steps, layer)
            elif mask is not None:
                draw_mask(mask, keep, self.random)

    def add_up(self, cost: Array | None) -> None:
        """Sum the gradients and `cost`, 0-d or None, over the processes, which all halt after this
        step if one of them is to."""
        job, (cost_place, halt) = self.job, (self.summed[-2, ...], self.summed[-1, ...])
        assert job.processes is not None
        requested, on_host = job.interruption.requested, self.xp is np
        cost_place[...], halt[...] = 0 if cost is None else cost, requested
        job.processes.sum(self.summed)
        if cost is not None:
            cost[...] = cost_place
        # A GPU need not finish the step for this: MPI asks the processes themselves.
        job.interruption.halting = bool(halt) if on_host else job.processes.any(requested)

    def corrected(self, rates: Array) -> Array:
        """α and ε of the next steps, (steps, 2), as the optimizer corrects them."""
        corrected = self.job.optimizer.corrected
        if type(self.job.optimizer).corrected is Optimizer.corrected:  # saves 0.3 us a step
            return np.stack([rates, np.zeros(len(rates))], axis=1)
        return np.array([corrected(rate, self.steps + i) for i, rate in enumerate(rates, start=1)])


def draw_mask(D: Array, keep: float, random: Any) -> None:
    """D ← 1 / keep with probability keep, else 0: inverted dropout, which keeps the means."""
    random.random(D.shape, dtype=D.dtype, out=D)  # CuPy needs the size too
    array_module(D).less(D, keep, out=D)
    D /= keep


def why_not_kernels(job: Job) -> str | None:
    """Why kernels cannot train a job, or None."""
    name, known = job.optimizer.name, fused.OPTIMIZERS
    if name not in known or type(job.optimizer) is not OPTIMIZERS.get(name):
        only = ", ".join(known)
        return f"the kernels have no optimizer {name!r}, only {only}: use the solver 'direct'"
    if job.weights is not None and job.xp is not np:
        return "a GPU's kernels know no weights of examples: use the solver 'direct'"
    return kernels.why_not(job.net.hidden, job.net.output)


def layer_table(net: Network, layers: tuple[int, ...]) -> Array:
    """The layers as kernels read them, a row each: n_l, n_{l-1}, the places of W and b in the flat
    parameters, the place of its first unit among all, and the kind of its activation."""
    rows, place, unit = [], 0, 0
    for (before, n), kind in zip(pairwise(layers), (*net.hidden, net.output), strict=True):
        rows.append((n, before, place, place + n * before, unit, loops.KINDS[kind]))
        place += n * (before + 1)
        unit += n
    return np.array(rows)
