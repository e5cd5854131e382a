"""`fit`: check the input, pick a solver, and descend."""

import functools
import math
import os
import time
import warnings
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from accelnn import batches, distributed, streaming
from accelnn.backend import Array, as_array, at_work, backend_of
from accelnn.columns import HostColumns, as_stored
from accelnn.distributed import Processes
from accelnn.network import (
    Network,
    Parameters,
    Workspace,
    checked_weights,
    cost_and_accuracy,
    penalty,
    propagate,
)
from accelnn.optimizers import Optimizer, Schedule, optimizer_of, rates
from accelnn.solvers import choice, precisions
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, State
from accelnn.training import checks
from accelnn.training.checkpoint import EVERY, checkpoint_file, settings_of
from accelnn.training.descent import Descent
from accelnn.training.history import INTERRUPTED, Callback, History, Interrupted
from accelnn.training.progress import check as check_verbose
from accelnn.training.progress import following

OF_CHECKPOINTS = "checkpoint", "checkpoint_every", "resume"  # arguments of `fit`

# A cost this many times the first one has diverged: a few bad steps do not raise it so far.
ROSE = 10.0
# Epochs whose learning rates must be equal on all processes
RATES = 10


@at_work("training")
def fit(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    epochs: int,
    learning_rate: float | Schedule | None = None,
    optimizer: str | Optimizer = "sgd",
    batch_size: int | None = None,
    solver: str = "auto",
    precision: str | None = None,
    record_every: int | None = None,
    seed: int = 0,
    validation: float | tuple[Array, Array] | None = None,
    patience: int | None = None,
    weights: Array = None,
    shuffle: bool | int | Iterable[Array] = True,
    state: State | None = None,
    threads: int | None = None,
    callbacks: Sequence[Callback] = (),
    verbose: bool | str = False,
    checkpoint: str | os.PathLike[str] | None = None,
    checkpoint_every: float | str = EVERY,
    resume: bool = False,
    comm: Any = None,
) -> tuple[Parameters, History]:
    """Train by gradient descent, on all examples at once or in mini-batches.

    Runs where the parameters are, in their precision, and changes none of its arguments. Trainings
    may run in several threads at once, and in forked processes. Returns the trained Parameters and
    the History.

    Parameters
    ----------
    net, params : the architecture, and first weights such as `net.init` gives
    X : features (n_0, m), a column an example, as an array of NumPy, CuPy, PyTorch, JAX, pandas
        or polars. With a batch_size, X and Y may stay on the host while the parameters are on a
        device: mini-batches are streamed there, fastest if X is the .T of a contiguous (m, n_0)
        array. They may also stay in a file, as an h5py dataset or zarr array, also with an example
        in each row, or as what `accelnn.stored` makes of one or of a memory map: mini-batches are
        read ahead, and sample space reads some features at a time
    Y : integer labels (m,); or (n_L, m): 0..1 for sigmoid outputs, columns that sum to 1 for
        softmax, counts for poisson, else any values
    epochs : passes over X
    learning_rate : α, a number or a function of the epoch, such as those of
        `accelnn.optimizers`; by default 0.001 for Adam, required for the others
    optimizer : "sgd" | "momentum" | "heavyball" | "nesterov" | "adam"; or an instance such as
        accelnn.Adam(beta1=0.9), or of your own `accelnn.optimizers.Optimizer`
    batch_size : examples a step, by default all. Each epoch visits the examples in a new random
        order; its last batch may be short. The cost of a batch has m = its size, L2 included
    solver : "auto", a choice by the job and by `accelnn.warm_up` alone; or one of
        accelnn.solvers.SOLVERS, which all do the same gradient descent
    precision : of the matrix products, by default the parameters'. float32 parameters on a GPU
        may have "tf32", factors of 11 significant bits, or with solver "jitted" "bfloat16", of 8:
        activations, data, a copy of the weights and the biases before a relu are then bfloat16
    record_every : epochs between recorded costs; by default max(1, epochs // 100), with patience
        at most max(1, patience // 5)
    seed : of the random numbers of dropout, batches and the validation split
    validation : examples to watch and not learn from: a share of X in (0, 1), drawn at random,
        or their own (X, Y)
    patience : stop after this many epochs without a new lowest validation cost, as seen at the
        records, and return the parameters of the lowest
    weights : of the examples, (m,) numbers from 0 on; the cost of a batch is Σ w loss / Σ w, and
        λ/(2 Σ w) Σ ‖W‖² of L2. A share drawn for validation keeps its weights
    shuffle : False takes the examples in the order of X in every epoch of mini-batches; an integer
        shuffles blocks of so many contiguous ones, then the examples of 16 blocks at a time, as is
        done by default with data in a file; or a permutation (m,) for each epoch, in an iterable
        that may compute them one by one
    state : `history.state` of a training with the same net, optimizer, data, batch_size and seed;
        this one then goes on from its parameters as if there had been no break
    threads : the most threads of compiled steps on the CPU; by default as many as pay
    callbacks : functions called with a Checkpoint after each recorded epoch; one that returns
        true ends the training. Records wait for the device only for callbacks, patience, verbose
    verbose : True shows a progress bar, "lines" prints the costs as the notes do
    checkpoint : a file from which the training can go on if this process ends, written from time
        to time, at the end, and on Ctrl-C and SIGTERM; if it cannot be, a warning says so
    checkpoint_every : seconds between two checkpoints, or epochs such as "10 epochs". Large nets
        have them less often, so that writing takes a hundredth of the time at most
    resume : whether to go on from the checkpoint, if there is one, with the bits of a training
        without a break. All arguments are as before, but `epochs` may be more
    comm : of mpi4py, such as MPI.COMM_WORLD, to train on all its processes: each calls `fit` with
        the same arguments, except for its share of X, Y, weights and validation's own (X, Y), and
        all return the same. Put together in the order of the ranks, the shares are the data on
        which one process would train: examples; or rows of X, features, with all of Y and weights,
        to train in sample space. `callbacks` may differ; with features, processes call a
        Checkpoint's `parameters` all at once. The first process writes the checkpoints, from which
        any number of processes can go on

    Raises ValueError for shapes, labels or options that do not fit, NaN or infinity in the data,
    a job that the solver cannot do, or a checkpoint that is damaged or of another training;
    FileExistsError for a checkpoint that exists, without `resume`, and OSError for one that cannot
    be written; TypeError for arguments of the wrong type, or host and device arrays mixed in
    another way; and on Ctrl-C Interrupted, with the parameters and the history so far. Warns with
    a RuntimeWarning if the cost rose tenfold or did not stay finite. With comm an error in the
    arguments of one process is raised on all, and names it; any later one ends all processes, and
    different weights raise `accelnn.distributed.Disagreement`.
    """
    arguments = dict(locals())
    for name in ("verbose", "comm", *OF_CHECKPOINTS):
        del arguments[name]
    processes = None if comm is None else Processes(comm)
    file = checkpoint_file(checkpoint, checkpoint_every, resume, processes)
    if file is not None and record_every is None:
        arguments["record_every"] = file.record_every
    if processes is None:
        data = checks.checked(net, params, X, Y, batch_size is not None)
        training = prepared(**arguments, data=data)
    else:
        training = together(processes, verbose, arguments)
        verbose = verbose if processes.rank == 0 else False
    training.descent.file = file
    with following(verbose, training.descent.epochs) as shown:
        trained, history = training.run(shown)
    message = divergence(trained, history, training.descent.learning_rate)
    if message and (comm is None or comm.rank == 0):
        warnings.warn(message, RuntimeWarning, stacklevel=3)  # the caller of fit, decorated
    return trained, history


@dataclass
class Training:
    """A training whose arguments are checked, as `prepared` returns it.

    descent : its job and its course
    solver, precision : as in `fit`
    share : of the examples, to be drawn for validation, or None
    given : X, Y and weights, for the final cost
    fold : the examples that it sees, or None for all
    """

    descent: Descent
    solver: str
    precision: str
    share: float | None
    given: Any
    fold: batches.Fold | None

    @property
    def seconds(self) -> float:
        """About how long it would take with vectorised arrays on all examples."""
        return choice.estimate(self.descent.job, self.descent.epochs)

    def run(
        self, shown: Callback | None = None, seconds: float = 0.0
    ) -> tuple[Parameters, History]:
        """Train, once; returns as `fit` does, and raises Interrupted.

        shown : one more callback
        seconds : the sum of `seconds` of trainings that run together
        """
        start, descent, job = time.perf_counter(), self.descent, self.descent.job
        file, asked = descent.file, self.solver
        if file is not None:
            others = {"precision": self.precision, "record_every": descent.record_every}
            others |= {"patience": descent.patience}
            if self.share is not None:
                others["validation"] = self.share
            asked = file.check(settings_of(job, **others), asked)
        if self.fold is not None:
            job.X, chosen = self.fold.columns, self.fold.examples
            job.Y, job.weights = batches.part((job.Y, job.weights), chosen)
            checked_weights(job.weights, job.X, job.params)  # which may now be all 0
        if self.share is not None:
            checks.set_apart(job, self.share)
        if shown is not None:
            descent.callbacks.append(shown)
        processes, final = job.processes, None
        with (
            nullcontext() if processes is None else processes.failing(),
            np.errstate(over="ignore", invalid="ignore"),  # `divergence` finds it
            precisions.of_products(job.xp, self.precision),
            job.resources,
        ):
            solver, reason = choice.pick(asked, job, descent.epochs, seconds)
            if processes is not None:  # where different solvers are warmed up
                solver, reason = processes.first((solver, reason))
            in_space = issubclass(choice.trainer_of(solver, job), InSampleSpace)
            if job.batch_size is None and not in_space:
                job.load()
            history = History.of(job.params, solver, reason, self.precision)
            history.optimizer, history.batch_size = job.optimizer.name, job.batch_size
            history.block_size = job.block
            history.processes = 1 if processes is None else processes.size
            trained = descent.run(history)
            if processes is not None:
                processes.compare(trained.flat if job.place is not None else trained[0][1])
                final = final_of_all(job, trained)
                trained = job.whole(trained)
        history.seconds = time.perf_counter() - (start if file is None else file.begun)
        split = None if self.share is None else (self.share, job.seed, job.block is not None)
        history._evaluate = functools.partial(
            evaluate,
            *(job.net, trained.copy(), self.given),
            streams=job.batch_size is not None,
            examples=None if self.fold is None else self.fold.examples,
            split=split,
        )
        if final is not None:
            history._evaluate = lambda: final
        if history.stopped == INTERRUPTED:
            number = job.interruption.signalled
            if file is None or file.epoch is None:
                raise Interrupted(trained, history, number)
            raise Interrupted(trained, history, number, file.path, file.epoch)
        return trained, history


def together(processes: Processes, verbose: bool | str, arguments: dict[str, Any]) -> Training:
    """The Training of this process's share of the data, as `prepared` returns it; errors of one
    process are raised on all."""
    net, params, X, Y = (arguments[name] for name in ("net", "params", "X", "Y"))
    with processes.together():
        checks.check_net(net, params)
        X = as_stored(X, net.layers[0], "X")
        shape = (X if isinstance(X, HostColumns) else as_array(X, "X")).shape
        if verbose not in (False, "lines"):
            check_verbose(verbose)
    processes.same(net=net, dtype=str(params.dtype), backend=backend_of(params.flat).name)
    features = distributed.features(processes, net, shape)
    processes.compare(params.flat, "first weights")
    if features is not None:
        net, params = distributed.of_features(net, params, features)
    with processes.together():
        data = checks.checked(net, params, X, Y, arguments["batch_size"] is not None)
        training = prepared(**arguments | {"net": net, "params": params}, data=data)
    descent, job = training.descent, training.descent.job
    processes.same(
        learning_rate=rates(descent.learning_rate, range(min(descent.epochs, RATES))),
        epochs=descent.epochs,
        optimizer=(job.optimizer.name, vars(job.optimizer)),
        batch_size=job.batch_size,
        solver=training.solver,
        precision=training.precision,
        record_every=descent.record_every,
        seed=job.seed,
        validation=training.share or job.validation is not None,
        patience=descent.patience,
        weights=job.weights is not None,
        shuffle=job.shuffle if isinstance(job.shuffle, int) else "your own",
        state=job.state and (job.state.epochs, job.state.steps),
    )
    job.processes, job.interruption.agree = processes, processes.most
    if features is None:
        job.place = distributed.places(processes, job.X.shape[1])
    else:
        job.whole_net, job.features = arguments["net"], features
        processes.compare(job.Y, "labels Y")
        if job.weights is not None:
            processes.compare(job.weights, "weights of the examples")
    job.threads = min(job.threads or processes.cores, processes.cores)
    if processes.any(bool(descent.callbacks or verbose)) and not descent.callbacks:
        descent.callbacks.append(lambda _: False)  # so that all stop at the same epochs
    with processes.together():
        choice.pick(training.solver, job, descent.epochs)
        if job.xp is not np:
            processes.check_nccl()
    processes.check_threads()
    return training


def share(arguments: dict[str, Any], processes: Processes) -> dict[str, Any]:
    """Arguments of `fit` with all of the data, as each of several processes passes them: with its
    part of the features if sample space pays, else of the examples."""
    changed, solver, optimizer = dict(arguments), arguments["solver"], arguments["optimizer"]
    data = {"X": arguments["X"], "Y": arguments["Y"], "weights": arguments.get("weights")}
    wide = solver.startswith("gram")
    if solver == "auto":
        net, params, batch_size = (arguments[n] for n in ("net", "params", "batch_size"))
        job = Job(net, params, data["X"], data["Y"], optimizer_of(optimizer), batch_size)
        wide = choice.is_wide(job, arguments["epochs"])

    def of_this(X: Array, *others: Array) -> tuple[Array, ...]:
        if wide:
            return X[distributed.part(len(X), processes)], *others
        chosen = distributed.part(X.shape[1], processes)
        each = (X, *others)
        return tuple(A if A is None else A[:, chosen] if A.ndim == 2 else A[chosen] for A in each)

    changed |= zip(data, of_this(*data.values()), strict=True)
    if isinstance(arguments["validation"], tuple):
        changed["validation"] = of_this(*arguments["validation"])
    return changed


def final_of_all(job: Job, params: Parameters) -> tuple[float, float | None]:
    """The final cost and accuracy on the training set that all processes share."""
    net, processes = job.net, job.processes
    assert processes is not None
    total = float(job.totals(slice(None), [job.examples])[0])
    if job.place is not None:
        data = job.X, job.Y, job.weights
        scores = functools.partial(streaming.evaluate, net, params, *data)
        cost, accuracy = distributed.mean(processes, scores, job.X.shape[1], job.weights)
        return _plain(cost + penalty(net, params, total), accuracy)
    (first, *upper), work = params, Workspace(net, params, job.examples)
    squares = job.xp.asarray(penalty(net, [first], total), params.dtype)
    work.A[0][...] = 0
    for numbers, (X,) in streaming.slabs(job.X, xp=job.xp):
        work.A[0] += job.xp.matmul(first[0][:, numbers], X)
    for array in (work.A[0], squares):
        processes.sum(array)
    cost, accuracy = cost_and_accuracy(net, params, propagate(work), job.Y, job.weights)
    return _plain(cost + squares + penalty(net, upper, total), accuracy)


def _plain(cost: Array, accuracy: Array | None) -> tuple[float, float | None]:
    return float(cost), None if accuracy is None else float(accuracy)


def prepared(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    *,
    epochs: int,
    learning_rate: float | Schedule | None,
    optimizer: str | Optimizer,
    batch_size: int | None,
    solver: str,
    precision: str | None,
    record_every: int | None,
    seed: int,
    validation: float | tuple[Array, Array] | None,
    patience: int | None,
    weights: Array,
    shuffle: bool | int | Iterable[Array],
    state: State | None,
    threads: int | None,
    callbacks: Sequence[Callback],
    data: checks.Data,
    fold: batches.Fold | None = None,
) -> Training:
    """The Training of the arguments of `fit`, checked; `data` are X and Y as `checks.checked`
    returns them, and `fold` the examples to train on, if not all."""
    precision = precisions.checked(precision, params)
    optimizer = optimizer_of(optimizer)
    learning_rate = optimizer.default_rate if learning_rate is None else learning_rate
    if learning_rate is None:
        hint = "such as 0.1: give one, or optimizer='adam', which has a default"
        raise ValueError(f"optimizer {optimizer.name!r} needs a learning_rate, {hint}")
    rates(learning_rate, range(1))  # raises for values that are no rate
    if solver not in (names := ["auto", *choice.SOLVERS]):
        hint = "SciPy's minimisers are accelnn.minimize(...)"
        raise ValueError(f"unknown solver {solver!r}: expected one of {names}; {hint}")
    epochs, seed = checks.count("epochs", epochs, 0), checks.count("seed", seed, 0)
    optional = {"batch_size": batch_size, "patience": patience, "record_every": record_every}
    batch_size, patience, record_every, threads = (
        None if n is None else checks.count(name, n, 1)
        for name, n in (*optional.items(), ("threads", threads))
    )
    if patience is not None and validation is None:
        raise ValueError("patience watches the validation cost: give validation as well")
    if record_every is None:
        record_every = max(1, min(epochs // 100, epochs if patience is None else patience // 5))
    job = Job(
        net,
        params.copy(),
        *data,
        optimizer,
        batch_size,
        seed,
        precision=precision,
        weights=checked_weights(weights, data[0], params)[0],
        shuffle=checks.shuffling(shuffle, data[0], batch_size),
        state=checks.fitting_state(state, params, optimizer),
        threads=threads,
    )
    share = checks.share_of(validation)
    if validation is not None and share is None:
        job.validation = checks.validation_set(job, validation)
    descent = Descent(job, epochs, learning_rate, record_every, patience, list(callbacks))
    return Training(descent, solver, precision, share, (X, Y, weights), fold)


@at_work("computing the final cost")
def evaluate(
    net: Network,
    params: Parameters,
    given: Any,
    *,
    streams: bool = False,
    examples: Array | None = None,
    split: Any = None,
) -> tuple[float, float | None]:
    """The final cost and accuracy of a History, from X, Y and weights as the caller gave them: of
    these `examples`, by default all, without the share that was drawn for validation with a seed,
    if `split` gives both."""
    X, Y, weights = given
    X, Y = checks.converted(net, params, X, Y, streams)
    data = X, Y, checked_weights(weights, X, params)[0]
    if examples is not None:
        data = batches.part(data, examples)
    if split is not None:
        data, _ = batches.split(data, *split)
    with np.errstate(over="ignore", invalid="ignore"):
        cost, accuracy = streaming.evaluate(net, params, *data)
        total = data[0].shape[1] if data[2] is None else float(data[2].sum())
        return _plain(cost + penalty(net, params, total), accuracy)


def divergence(params: Parameters, history: History, rate: float | Schedule) -> str | None:
    """That a training diverged, and what to do, or None."""
    costs = history.costs
    bad = next((i for i, cost in enumerate(costs) if not math.isfinite(cost)), None)
    if bad is not None:
        found = f"is {costs[bad]} at epoch {history.epochs[bad]}"
    elif checks.not_finite(params.flat):
        found = "is not finite at the end"
    elif costs and costs[-1] > ROSE * costs[0] > 0:
        found = f"rose from {costs[0]:.3g} to {costs[-1]:.3g}"
    else:
        return None
    given = "" if callable(rate) else f" ({rate:g})"
    return f"the cost {found}: the training diverged; lower the learning rate{given}, or scale X"
