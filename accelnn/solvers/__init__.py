"""How a training runs: `fit` checks what it is given, picks a solver and tells which and why."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from accelnn.backend import Array, array_module, at_work, backend_of, to_host
from accelnn.network import Network, Parameters
from accelnn.optimizers import Optimizer, Schedule, optimizer_of, rates
from accelnn.solvers import choice, minimize, precisions
from accelnn.solvers.captured import Uncaptured
from accelnn.solvers.checks import (
    check_count,
    check_method,
    check_minimize,
    checked,
    set_apart,
)
from accelnn.solvers.choice import SOLVERS
from accelnn.solvers.job import Job

__all__ = ["SOLVERS", "Checkpoint", "History", "fit"]


@dataclass(frozen=True)
class History:
    """What a training left behind, on the host.

    costs : of the epochs in `epochs`: before their update; with mini-batches the mean over the
        epoch's batches, each before its update
    epochs : 0, record_every, 2 record_every, ...; for "minimize", those evaluations
    final_cost : of the parameters returned
    solver, reason : which one ran, and why that one
    backend, device, dtype : where and in what precision it ran
    precision : of the matrix products
    optimizer, batch_size : as `fit` was given them; None where the solver has none
    validation_costs : of the validation set before those same epochs, without L2 and dropout;
        empty where there is none
    final_validation_cost : of the parameters returned
    stopped : why the training ended before its last epoch, or None
    compile_seconds : spent on compiling; the next training of this kind will not spend them
    """

    costs: list[float]
    epochs: list[int]
    final_cost: float
    solver: str
    reason: str
    backend: str
    device: str
    dtype: str
    precision: str
    optimizer: str | None = None
    batch_size: int | None = None
    validation_costs: list[float] = field(default_factory=list)
    final_validation_cost: float | None = None
    stopped: str | None = None
    compile_seconds: float = 0.0


@dataclass(frozen=True)
class Checkpoint:
    """What a callback is told, at the end of each recorded epoch.

    epoch, cost, validation_cost : as the history will hold them
    learning_rate : α of that epoch; None for "minimize"
    parameters : gives a copy of the parameters after it
    """

    epoch: int
    cost: float
    validation_cost: float | None
    learning_rate: float | None
    parameters: Callable[[], Parameters]


# A true answer ends the training
Callback = Callable[[Checkpoint], object]


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
    method: str = "TNC",
    precision: str | None = None,
    record_every: int | None = None,
    seed: int = 0,
    validation: float | tuple[Array, Array] | None = None,
    patience: int | None = None,
    callbacks: Sequence[Callback] = (),
) -> tuple[Parameters, History]:
    """Train by gradient descent, on all examples at once or on mini-batches, or by SciPy.

    Runs where the arrays are and in the parameters' precision; changes none of them. Where the
    parameters are on a device, X and Y may stay on the host, memory-mapped for instance: with a
    batch_size they are streamed, each mini-batch on its way while the one before is worked on.
    That is fastest where examples are contiguous (X is the .T of an (m, n_0) array), and bytes
    travel as bytes.

    Parameters
    ----------
    net : the architecture
    params : first weights
    X : (n_0, m) features; Y : (n_L, m) labels: 0..1 for sigmoid outputs, columns that sum to 1
        for softmax, any values for linear
    epochs : passes over X; for "minimize" the most evaluations of cost and gradient that it may
        use, several of which make one update
    learning_rate : α, which gradient descent needs: a number, or a function of the epoch such as
        `accelnn.optimizers` has; "minimize" has none
    optimizer : "sgd" | "momentum" | "adam", or accelnn.SGD(), Momentum(...), Adam(...)
    batch_size : examples a step. None: all of them, an epoch is one update. Else an epoch visits
        the examples in a random order of its own, in batches of which the last may be short;
        the cost of a batch is that of the formulas with m = its size, L2 included
    solver : "auto", or one of SOLVERS, all of which do the same gradient descent; "minimize":
        scipy.optimize.minimize on the flat parameters, which returns the best that it evaluated
    method : of "minimize": "TNC" (truncated Newton, as in the notes) | "L-BFGS-B"
    precision : of the matrix products. None: the parameters' own, "float64" | "float32". On a GPU
        float32 parameters can have faster ones, whose factors are rounded and whose sums are
        float32: "tf32" to 11 significant bits, and "bfloat16" to 8, by captured steps (solver
        "jitted"). These keep activations, copies of the weights and of the data, and the biases
        that relu is applied with, as bfloat16; all the rest stays float32
    record_every : epochs between recorded costs; 100, with mini-batches 1, where none is given
    seed : of dropout's random numbers, of the batches' order and of the validation split
    validation : examples to watch and not to learn from: a share of X in (0, 1), drawn at
        random, or their own (X, Y)
    patience : stop after so many records in a row that did not lower the validation cost, and
        return the parameters of the lowest
    callbacks : called with a Checkpoint at the end of each recorded epoch; then, and only then
        or with patience, a record waits for the device. A true answer ends the training

    Returns
    -------
    The trained Parameters, and the History.

    Raises ValueError for shapes that do not fit, NaN or infinity in the data, labels out of
    range, values that make no sense and what a solver cannot do; TypeError where host and device
    arrays are mixed otherwise. Warns with a RuntimeWarning where the cost of gradient descent did
    not stay finite.
    """
    precision = precisions.checked(precision, params)
    X, Y = checked(net, params, X, Y, batch_size)
    names = ["auto", *SOLVERS, "minimize"]
    if solver not in names:
        raise ValueError(f"unknown solver {solver!r}: expected one of {names}")
    check_method(solver, method)
    check_count("epochs", epochs, least=0)
    if batch_size is not None:
        check_count("batch_size", batch_size, least=1)
    if record_every is None:
        record_every = 100 if batch_size is None else 1
    check_count("record_every", record_every, least=1)
    if solver == "minimize":
        check_minimize(
            net,
            optimizer,
            learning_rate=learning_rate,
            batch_size=batch_size,
            validation=validation,
            patience=patience,
        )
        reason = precisions.unfit(precision)
        if reason is not None:
            raise ValueError(f"solver='minimize' cannot do this: {reason}")
    if validation is not None:
        X, Y, validation = set_apart(net, params, X, Y, validation, seed, batch_size)
    if patience is not None:
        check_count("patience", patience, least=1)
        if validation is None:
            raise ValueError("patience watches the validation cost: give validation as well")

    with (
        np.errstate(over="ignore", invalid="ignore"),  # divergence is reported once, below
        precisions.of_products(array_module(params.flat), precision),
    ):
        if solver == "minimize":
            run = _minimise(net, params.copy(), X, Y, epochs, method, record_every, callbacks)
        else:
            job = Job(
                net,
                params.copy(),
                X,
                Y,
                optimizer_of(optimizer),
                batch_size,
                seed,
                validation,
                precision,
            )
            with job.held:
                run = _descend(
                    job, solver, epochs, learning_rate, record_every, patience, callbacks
                )
    there = backend_of(params.flat)
    history = History(
        costs=run.costs,
        epochs=[record * record_every for record in range(len(run.costs))],
        final_cost=run.final_cost,
        solver=run.solver,
        reason=run.reason,
        backend=there.name,
        device=there.device_name(),
        dtype=str(params.dtype),
        precision=precision,
        optimizer=None if solver == "minimize" else job.optimizer.name,
        batch_size=batch_size,
        validation_costs=run.validation_costs,
        final_validation_cost=run.final_validation_cost,
        stopped=run.stopped,
        compile_seconds=run.compile_seconds,
    )
    if solver != "minimize":
        _warn_of_divergence(history, learning_rate)
    return run.params, history


@dataclass
class _Run:
    """What is known when the last epoch is done."""

    params: Parameters
    costs: list[float]
    final_cost: float
    solver: str
    reason: str
    validation_costs: list[float] = field(default_factory=list)
    final_validation_cost: float | None = None
    stopped: str | None = None
    compile_seconds: float = 0.0


def _descend(
    job: Job,
    solver: str,
    epochs: int,
    learning_rate: float | Schedule | None,
    record_every: int,
    patience: int | None,
    callbacks: Sequence[Callback],
) -> _Run:
    """Gradient descent by the solver asked for, or the one that is fastest, from record to record.

    Costs stay on the device until the end, unless patience or a callback has to see them.
    """
    rates(learning_rate, range(1))  # refused before anything is formed
    name, reason = choice.pick(solver, job, epochs)
    trainer = SOLVERS[name].start(job)
    if isinstance(trainer, Uncaptured):
        name, reason = "direct", f"{reason}: jitted; not captured: {trainer.reason}"
    starts = range(0, epochs, record_every)
    costs = array_module(job.params.flat).empty(len(starts), job.params.dtype)
    validation_costs = costs.copy() if job.validation is not None else costs[:0]
    lowest, best, since, stopped = math.inf, job.params.copy(), 0, None
    records = 0
    for record, start in enumerate(starts):
        if job.validation is not None:
            validation_costs[record] = trainer.validation_cost()
        if patience is not None:
            since += 1
            if float(validation_costs[record]) < lowest:
                lowest, best, since = float(validation_costs[record]), trainer.parameters(), 0
            if since == patience:
                stopped = f"patience: the validation cost was lowest {patience} records before"
                break
        alphas = rates(learning_rate, range(start, min(start + record_every, epochs)))
        records += 1
        if not callbacks:
            trainer.advance(alphas, costs[record, ...])
            continue
        trainer.advance(alphas[:1], costs[record, ...])
        checkpoint = Checkpoint(
            epoch=start,
            cost=float(costs[record]),
            validation_cost=float(validation_costs[record]) if job.validation else None,
            learning_rate=alphas[0],
            parameters=trainer.parameters,
        )
        if _tell(callbacks, checkpoint):
            stopped = f"a callback ended it after epoch {start}"
            break
        if alphas[1:]:
            trainer.advance(alphas[1:], None)
    params, final_validation_cost = trainer.parameters(), None
    if job.validation is not None:
        final_validation_cost = float(trainer.validation_cost())
        if not final_validation_cost < lowest and math.isfinite(lowest):
            params, final_validation_cost = best, lowest
    return _Run(
        params=params,
        costs=to_host(costs[:records]).tolist(),
        final_cost=trainer.cost(params),
        solver=name,
        reason=reason,
        validation_costs=to_host(validation_costs[:records]).tolist(),
        final_validation_cost=final_validation_cost,
        stopped=stopped,
        compile_seconds=trainer.compile_seconds,
    )


def _minimise(
    net: Network,
    params: Parameters,
    X: Array,
    Y: Array,
    evaluations: int,
    method: str,
    record_every: int,
    callbacks: Sequence[Callback],
) -> _Run:
    """SciPy's minimisers, with the same callbacks."""

    def on_record(evaluation: int, cost: float) -> bool:
        checkpoint = Checkpoint(evaluation, cost, None, None, params.copy)
        return _tell(callbacks, checkpoint)

    costs, reason = minimize.train(
        net,
        params,
        X,
        Y,
        evaluations=evaluations,
        method=method,
        record_every=record_every,
        on_record=on_record,
    )
    return _Run(params, costs, net.cost(params, X, Y), "minimize", reason)


def _tell(callbacks: Sequence[Callback], checkpoint: Checkpoint) -> bool:
    """Call each of them, and say whether one wants the training to end."""
    answers = [bool(callback(checkpoint)) for callback in callbacks]
    return True in answers


def _warn_of_divergence(history: History, learning_rate: Any) -> None:
    costs = [*history.costs, history.final_cost]
    if not all(map(math.isfinite, costs)):
        first = next(i for i, cost in enumerate(costs) if not math.isfinite(cost))
        where = f"epoch {history.epochs[first]}" if first < len(history.costs) else "the end"
        rate = "" if callable(learning_rate) else f" ({learning_rate:g})"
        warnings.warn(
            f"the cost is {costs[first]} at {where}: the training diverged; "
            f"lower the learning rate{rate}",
            RuntimeWarning,
            stacklevel=4,  # the caller of fit, which is decorated
        )
