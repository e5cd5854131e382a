"""The `Job` that a solver of gradient descent gets, and the parts that all trainings share."""

import functools
import signal
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

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
    """

    requested = False
    agree: Callable[[bool], bool] | None = None  # among processes; all call `check` at once
    agreed = False  # that all processes halt

    def __enter__(self) -> None:
        in_main_thread = threading.current_thread() is threading.main_thread()
        handler: Any = signal.getsignal(signal.SIGINT)
        raises = handler is signal.default_int_handler or hasattr(handler, "raises_interrupt")
        self._handler, self._replaced = handler, in_main_thread and raises
        if self._replaced:
            signal.signal(signal.SIGINT, self._request)

    def __exit__(self, *error: object) -> None:
        if self._replaced:
            signal.signal(signal.SIGINT, self._handler)
        if error[0] is None:
            self.check()

    def check(self) -> None:
        if self.agree is not None and not self.agreed:
            self.agreed = self.agree(self.requested)
        if self.agreed or (self.agree is None and self.requested):
            raise KeyboardInterrupt

    def _request(self, *_: object) -> None:
        self.requested = True
        signal.signal(signal.SIGINT, self._handler)


@dataclass
class Job:
    """A training, checked and ready to begin.

    params : the first weights, a copy that the solver may change
    X, Y : (n_0, m) and (n_L, m), of the parameters' dtype and on their backend; or HostColumns,
        to be streamed in mini-batches to the device of the parameters
    batch_size : examples a step; None for all of them
    validation : X and Y of the validation set, and its weights or None; or None
    weights : of the examples (m,), of the parameters' dtype and on their backend, or None
    shuffle, threads, precision : as in `fit`; a precision of None is the parameters' own
    state : of the training that this one continues, or None
    gram : returns Xᵀ X (m, m), if trainings share it
    processes : those that train it together, or None
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
    shuffle: bool | Iterable[Array] = True
    state: "State | None" = None
    threads: int | None = None
    gram: Callable[[], Array] | None = None
    processes: Processes | None = None
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
    def examples(self) -> int:
        """m of the training set, of all processes."""
        return int(self.X.shape[1]) if self.place is None else len(self.place)

    @property
    def sizes(self) -> list[int]:
        """The number of examples in each step of an epoch."""
        return batches.sizes(self.examples, self.batch_size or self.examples)

    @property
    def drops(self) -> bool:
        """Whether there is dropout."""
        return min(self.net.keep_prob, default=1.0) < 1

    @property
    def halted(self) -> bool:
        """Whether trainers are to return early; processes agree on it."""
        together = self.processes is not None
        return self.interruption.agreed if together else self.interruption.requested

    @property
    def shared(self) -> str | None:
        """What processes share out: "examples" | "features"; None if there is one process."""
        if self.processes is None:
            return None
        return "features" if self.place is None else "examples"

    @property
    def first_epoch(self) -> int:
        return 0 if self.state is None else self.state.epochs

    def orders(self) -> Iterator[Array]:
        """The order of the examples in each epoch of mini-batches."""
        return batches.orders(self.examples, self.seed, self.shuffle, self.first_epoch)

    def here(self, order: Array, sizes: Array) -> tuple[Array, Array, Array]:
        """The examples of batches of these sizes, or of the whole one if the order is empty, that
        this process has: their columns of X, their
        number in each batch, and, with several processes, their places in it."""
        if self.place is None:
            return order, sizes, order
        if not len(order):
            places = np.flatnonzero(self.place >= 0)
            return order, np.array([len(places)]), places
        columns, starts = self.place[order], np.cumsum([0, *sizes[:-1]])
        mine = columns >= 0
        counts = np.add.reduceat(mine, starts, dtype=np.int64)
        return columns[mine], counts, np.flatnonzero(mine) - starts.repeat(counts)

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


@dataclass(frozen=True)
class State:
    """What a training needs to go on beside its parameters: pass `history.state` to
    `accelnn.fit(state=...)`.

    epochs, steps : taken so far, from the first training on
    moments : the optimizer's, each a flat array like the parameters
    dropout : the state of its generator of random numbers, if it has one on the host
    """

    epochs: int
    steps: int
    moments: tuple[Array, ...] = ()
    dropout: Any = None


class Trainer:
    """A training under way, which never waits for the device; each solver has its own steps.

    divides : what several processes may share out, "examples" | "features", or None
    by_kernels : whether kernels compute it, which know certain optimizers and activations
    streams : whether examples may stay on the host while the parameters are on a device
    params : the arrays that steps update
    gradients, summed : of the same shapes, and their memory with two more numbers: with processes
        the cost, and whether one is to halt
    steps : updates so far
    not_captured : why the solver "jitted" could not capture steps on a GPU, or ""
    """

    divides: str | None = None
    by_kernels = streams = False
    compile_seconds = 0.0
    not_captured = ""

    def __init__(self, job: Job) -> None:
        self.job, self.xp, self.steps = job, job.xp, 0 if job.state is None else job.state.steps
        self.params = self._first_params()
        size = self.params.flat.size
        self.summed = self.xp.zeros(size + 2, self.params.dtype)
        self.gradients = Parameters(self.summed[:size], self.params.layers)
        self.moments = [self.xp.zeros_like(self.params.flat) for _ in range(job.optimizer.moments)]
        if job.state is not None:
            for moment, before in zip(self.moments, job.state.moments, strict=True):
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
        """Run an epoch for each rate, or fewer if the job is halted.

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
        epochs = self.job.first_epoch + self.epochs_run
        generator = getattr(self.random, "bit_generator", None) if self.job.drops else None
        dropout = generator.state if isinstance(generator, np.random.BitGenerator) else None
        return State(epochs, self.steps, tuple(self.moments_of_params()), dropout)

    def moments_of_params(self) -> list[Array]:
        """The moments for `parameters()`."""
        return self.moments

    @property
    def epochs_run(self) -> int:
        """Epochs completed in this training."""
        before = 0 if self.job.state is None else self.job.state.steps
        return (self.steps - before) // len(self.job.sizes)

    @functools.cached_property
    def validation_workspace(self) -> Workspace:
        return Workspace(self.job.net, self.params, self.job.validation[0].shape[1])

    @functools.cached_property
    def random(self) -> Any:
        """Dropout's generator of random numbers, or, if a GPU's kernels run, numbers by place."""
        if self.xp is not np and kernels_compile(self.xp):
            return Philox(self.job.seed)
        random = self.xp.random.default_rng(self.job.seed)
        if self.job.state is not None and self.job.state.dropout is not None:
            random.bit_generator.state = self.job.state.dropout
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
        job.interruption.agreed = bool(halt) if on_host else job.processes.any(requested)

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
