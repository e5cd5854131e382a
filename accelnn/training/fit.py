"""`fit`: check what is given, pick a solver, and descend from record to record."""

import functools
import math
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np

from accelnn import batches, streaming
from accelnn.backend import Array, array_module, at_work, backend_of, to_host
from accelnn.network import Network, Parameters, penalty
from accelnn.optimizers import Optimizer, Schedule, optimizer_of, rates
from accelnn.solvers import choice, precisions
from accelnn.solvers.choice import SOLVERS
from accelnn.solvers.job import Job, Trainer
from accelnn.training.checks import check_count, checked, converted, not_finite, set_apart
from accelnn.training.history import Callback, Checkpoint, History, Interrupted, ask
from accelnn.training.progress import following

# Epochs that a solver is given at a time, and examples of mini-batches: what it holds for each
# (a learning rate, the order of the examples) stays small, however far apart the records are.
EPOCHS_AT_ONCE, EXAMPLES_AT_ONCE = 10_000, 10**7

# A cost that has become so many times the first one is no accident of a few steps
ROSE = 10.0


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
    callbacks: Sequence[Callback] = (),
    verbose: bool | str = False,
) -> tuple[Parameters, History]:
    """Train by gradient descent, on all examples at once or on mini-batches.

    Runs where the arrays are and in the parameters' precision; changes none of them. X and Y may
    be arrays of PyTorch, JAX, pandas or polars too. If the parameters are on a device, X and Y
    may stay on the host, memory-mapped for instance: with a batch_size they are streamed, each
    mini-batch on its way while the one before is worked on. That is fastest if examples are
    contiguous (X is the .T of an (m, n_0) array), and bytes travel as bytes.

    Parameters
    ----------
    net : the architecture
    params : first weights, from `net.init` for instance
    X : (n_0, m) features, a column an example
    Y : integer labels (m,), or (n_L, m): 0..1 for sigmoid outputs, columns that sum to 1 for
        softmax, any values for linear
    epochs : passes over X
    learning_rate : α, a number or a function of the epoch such as `accelnn.optimizers` has; by
        default 0.001 for Adam, and needed for the others
    optimizer : "sgd" | "momentum" | "adam", or accelnn.SGD(), Momentum(...), Adam(...)
    batch_size : examples a step. None: all of them, an epoch is one update. Else an epoch visits
        the examples in a random order of its own, in batches of which the last may be short;
        the cost of a batch is that of the formulas with m = its size, L2 included
    solver : "auto", which follows from the job alone and from `accelnn.warm_up`; or one of
        accelnn.solvers.SOLVERS, all of which do the same gradient descent
    precision : of the matrix products. None: the parameters' own, "float64" | "float32". On a GPU
        float32 parameters can have faster ones, whose factors are rounded and whose sums are
        float32: "tf32" to 11 significant bits, and "bfloat16" to 8, by captured steps (solver
        "jitted"). These keep activations, copies of the weights and of the data, and the biases
        that relu is applied with, as bfloat16; all the rest stays float32
    record_every : epochs between recorded costs; by default max(1, epochs // 100), with patience
        at most max(1, patience // 5)
    seed : of dropout's random numbers, of the batches' order and of the validation split
    validation : examples to watch and not to learn from: a share of X in (0, 1), drawn at
        random, or their own (X, Y)
    patience : stop if the validation cost has reached no new minimum for so many epochs, seen at
        the records, and return the parameters of the minimum
    callbacks : called with a Checkpoint at the end of each recorded epoch; return true to end the
        training. A record waits for the device only for callbacks, patience and verbose
    verbose : True shows a progress bar, "lines" prints the costs as the notes do

    Returns
    -------
    The trained Parameters, and the History.

    Raises ValueError for shapes that do not fit, NaN or infinity in the data, labels out of
    range, values that make no sense and what a solver cannot do; TypeError for a net, params or
    data of the wrong type, and if host and device arrays are mixed otherwise. Ctrl-C raises
    `accelnn.Interrupted`, which holds the parameters and the history so far. Warns with a
    RuntimeWarning if the cost did not stay finite, or rose.
    """
    given = X, Y
    X, Y = checked(net, params, X, Y, batch_size)
    precision = precisions.checked(precision, params)
    if solver not in ("auto", *SOLVERS):
        raise ValueError(
            f"unknown solver {solver!r}: expected one of {['auto', *SOLVERS]}; "
            "SciPy's minimisers are accelnn.minimize(...)"
        )
    check_count("epochs", epochs, least=0)
    check_count("seed", seed, least=0)
    if batch_size is not None:
        check_count("batch_size", batch_size, least=1)
    if patience is not None:
        check_count("patience", patience, least=1)
        if validation is None:
            raise ValueError("patience watches the validation cost: give validation as well")
    if record_every is None:
        record_every = max(1, epochs // 100)
        if patience is not None:  # look often enough to stop in time
            record_every = min(record_every, max(1, patience // 5))
    check_count("record_every", record_every, least=1)
    optimizer = optimizer_of(optimizer)
    if learning_rate is None:
        learning_rate = optimizer.default_rate
        if learning_rate is None:
            raise ValueError(
                f"optimizer {optimizer.name!r} needs a learning_rate, such as 0.1: give one, or "
                "optimizer='adam', which has a default"
            )
    rates(learning_rate, range(1))  # refused before anything is formed
    share = validation if isinstance(validation, float) else None
    if validation is not None:
        X, Y, validation = set_apart(net, params, X, Y, validation, seed, batch_size)

    job = Job(net, params.copy(), X, Y, optimizer, batch_size, seed, validation, precision)
    ran_on = backend_of(params.flat)
    with ExitStack() as stack:
        # divergence is reported once, below
        stack.enter_context(np.errstate(over="ignore", invalid="ignore"))
        stack.enter_context(precisions.of_products(array_module(params.flat), precision))
        stack.enter_context(job.resources)
        callbacks = list(callbacks)
        if verbose:
            callbacks.append(stack.enter_context(following(verbose, epochs)))
        name, reason = choice.pick(solver, job, epochs)
        history = History(
            solver=name,
            reason=reason,
            backend=ran_on.name,
            device=ran_on.device_name(),
            dtype=str(params.dtype),
            precision=precision,
            optimizer=optimizer.name,
            batch_size=batch_size,
        )
        trained, interrupted = _descend(
            job, history, epochs, learning_rate, record_every, patience, callbacks
        )
        history._evaluate = functools.partial(
            evaluate, net, trained.copy(), *given, batch_size, share, seed
        )
        if interrupted:
            raise Interrupted(trained, history)
    _warn_of_divergence(history, trained, learning_rate)
    return trained, history


def _descend(
    job: Job,
    history: History,
    epochs: int,
    learning_rate: float | Schedule | None,
    record_every: int,
    patience: int | None,
    callbacks: list[Callback],
) -> tuple[Parameters, bool]:
    """Gradient descent from record to record, entered into `history`; returns the parameters,
    and whether Ctrl-C came.

    What is recorded stays on the device until the end, unless patience or a callback has to see
    it.
    """
    try:
        trainer: Trainer = SOLVERS[history.solver].start(job)  # which may have to compile
    except KeyboardInterrupt:
        history.stopped = "interrupted"
        return job.params, True
    history.compile_seconds = trainer.compile_seconds
    if trainer.not_captured:
        history.reason = f"{history.reason}: jitted; not captured: {trainer.not_captured}"
        history.solver = "direct"
    starts = range(0, epochs, record_every)
    xp, watched = array_module(job.params.flat), job.validation is not None
    costs, validation_costs = xp.empty((2, len(starts)), job.params.dtype)
    accuracies = xp.full(len(starts), math.nan)
    lowest, best, best_record = math.inf, job.params, 0
    interrupted = False

    at_once = EPOCHS_AT_ONCE
    if job.batch_size is not None:
        at_once = max(1, min(at_once, EXAMPLES_AT_ONCE // job.examples))

    def validate(record: int) -> None:
        validation_costs[record], accuracy = trainer.validation()
        if accuracy is not None:
            accuracies[record] = accuracy

    def advance(start: int, stop: int, cost: Array | None) -> None:
        for first in range(start, stop, at_once):
            alphas = rates(learning_rate, range(first, min(first + at_once, stop)))
            with job.interruption:
                trainer.advance(alphas, cost if first == start else None)

    try:
        for record, start in enumerate(starts):
            if watched:
                validate(record)
            if patience is not None:
                if float(validation_costs[record]) < lowest:
                    lowest, best = float(validation_costs[record]), trainer.parameters()
                    best_record = record
                if start - starts[best_record] >= patience:
                    history.stopped = (
                        f"patience: lowest validation cost after epoch {starts[best_record]}"
                    )
                    break
            stop = min(start + record_every, epochs)
            advance(start, start + 1 if callbacks else stop, costs[record, ...])
            if not callbacks:
                continue
            checkpoint = Checkpoint(
                epoch=start,
                cost=float(costs[record]),
                validation_cost=float(validation_costs[record]) if watched else None,
                validation_accuracy=(
                    float(accuracies[record]) if watched and job.net.output != "linear" else None
                ),
                learning_rate=rates(learning_rate, range(start, start + 1))[0],
                parameters=trainer.parameters,
            )
            if ask(callbacks, checkpoint):
                history.stopped = f"a callback ended it after epoch {start}"
                break
            advance(start + 1, stop, None)
    except KeyboardInterrupt:
        interrupted, history.stopped = True, "interrupted"
    history.epochs_run = trainer.steps // job.steps_per_epoch
    records = len(range(0, history.epochs_run, record_every))
    history.costs = to_host(costs[:records]).tolist()
    history.epochs = list(starts[:records])
    trained = trainer.parameters()
    if watched:
        cost, accuracy = trainer.validation()
        if math.isfinite(lowest) and not float(cost) < lowest:
            trained, cost = best, lowest
            accuracy = None if accuracy is None else accuracies[best_record]
        history.final_validation_cost = float(cost)
        history.validation_costs = to_host(validation_costs[:records]).tolist()
        if accuracy is not None:
            history.final_validation_accuracy = float(accuracy)
            history.validation_accuracies = to_host(accuracies[:records]).tolist()
    return trained, interrupted


@at_work("computing the final cost")
def evaluate(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    batch_size: int | None = None,
    share: float | None = None,
    seed: int = 0,
) -> tuple[float, float | None]:
    """The cost of the training set, L2 included and dropout not, and the accuracy unless the
    output is linear; from X and Y as the caller gave them, less the share to validate on."""
    X, Y = converted(net, params, X, Y, batch_size)
    if share is not None:
        X, Y, _, _ = batches.split(X, Y, share, seed)
    with np.errstate(over="ignore", invalid="ignore"):
        cost, accuracy = streaming.evaluate(net, params, X, Y)
        cost = float(cost + penalty(net, params, X.shape[1]))
    return cost, None if accuracy is None else float(accuracy)


def _warn_of_divergence(history: History, params: Parameters, learning_rate: Any) -> None:
    costs = history.costs
    bad = next((i for i, cost in enumerate(costs) if not math.isfinite(cost)), None)
    if bad is not None:
        found = f"is {costs[bad]} at epoch {history.epochs[bad]}"
    elif not_finite(params.flat):
        found = "is not finite at the end"
    elif costs and costs[-1] > ROSE * costs[0] > 0:
        found = f"rose from {costs[0]:.3g} to {costs[-1]:.3g}"
    else:
        return
    rate = "" if callable(learning_rate) else f" ({learning_rate:g})"
    warnings.warn(
        f"the cost {found}: the training diverged; lower the learning rate{rate}, or scale X",
        RuntimeWarning,
        stacklevel=4,  # the caller of fit, which is decorated
    )
