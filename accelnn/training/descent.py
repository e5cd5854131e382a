"""Gradient descent from record to record: the training itself, once `fit` has checked its input."""

import functools
import math
from contextlib import nullcontext
from dataclasses import dataclass

from accelnn import distributed
from accelnn.backend import Array, array_module, to_host
from accelnn.network import Parameters
from accelnn.optimizers import Schedule, rates
from accelnn.solvers.choice import trainer_of
from accelnn.solvers.job import Job, Trainer
from accelnn.training.history import INTERRUPTED, Callback, Checkpoint, History, ask

# The epochs that a solver is given at a time, and the examples of mini-batches: few enough for
# their learning rates and orders to stay small, however far apart the records are. In batches of
# one, compiled steps need 32 MiB for them.
EPOCHS_AT_ONCE, EXAMPLES_AT_ONCE = 10_000, 250_000


@dataclass
class Descent:
    """A job, and its course as in `fit`. Records stay on the device until the end, unless patience
    or a callback needs them."""

    job: Job
    epochs: int
    learning_rate: float | Schedule
    record_every: int
    patience: int | None
    callbacks: list[Callback]

    def run(self, history: History) -> Parameters:
        """Train with the solver that `history` names, and complete it; returns the parameters."""
        job = self.job
        # Ctrl-C during this ends it at once, unless other processes would wait.
        deferred = nullcontext() if job.processes is None else job.interruption
        try:
            with deferred:
                self.trainer: Trainer = trainer_of(history.solver, job).start(job)  # may compile
        except KeyboardInterrupt:
            history.stopped = INTERRUPTED
            return job.params
        history.compile_seconds = self.trainer.compile_seconds
        if self.trainer.not_captured:
            history.reason += f": jitted; not captured: {self.trainer.not_captured}"
            history.solver = "direct"
        first = job.first_epoch
        self.starts = range(first, first + self.epochs, self.record_every)
        xp = array_module(job.params.flat)
        self.costs, self.validation_costs = xp.empty((2, len(self.starts)), job.params.dtype)
        self.accuracies = xp.full(len(self.starts), math.nan)
        self.lowest, self.best, self.best_record = math.inf, job.params, 0
        try:
            with job.interruption:
                history.stopped = self._epochs()
        except KeyboardInterrupt:
            history.stopped = INTERRUPTED
        trained = None
        try:
            with job.interruption:
                trained = self._complete(history)
        except KeyboardInterrupt:
            if trained is None:  # the second Ctrl-C
                raise
            history.stopped = INTERRUPTED
        return trained

    def _epochs(self) -> str | None:
        """All epochs, or why they ended before the last."""
        if not self.callbacks and self.job.validation is None:
            self._advance_all()
            return None
        for record, start in enumerate(self.starts):
            if self.job.validation is not None:
                self._validate(record)
            lowest = self.starts[self.best_record]
            if self.patience is not None and start - lowest >= self.patience:
                return f"patience: lowest validation cost after epoch {lowest}"
            stop = min(start + self.record_every, self.starts.stop)
            self._advance(start, start + 1 if self.callbacks else stop, self.costs[record, ...])
            if self.callbacks:
                ended = ask(self.callbacks, self._checkpoint(record))
                if ended if self.job.processes is None else self.job.processes.any(ended):
                    return f"a callback ended it after epoch {start}"
                self._advance(start + 1, stop)
        return None

    def _advance_all(self) -> None:
        """All epochs, as many records at a time as the solver is given."""
        every, last = self.record_every, self.starts.stop
        together = max(1, self.at_once // every)
        for record in range(0, len(self.starts), together):
            start, costs = self.starts[record], self.costs[record : record + together]
            stop = min(start + together * every, last)
            if stop - start > self.at_once:
                self._advance(start, stop, costs[0, ...])
            else:
                alphas = rates(self.learning_rate, range(start, stop))
                self.trainer.advance_through(alphas, costs, every)
                self._check()

    def _advance(self, start: int, stop: int, cost: Array | None = None) -> None:
        for first in range(start, stop, self.at_once):
            self.alphas = rates(self.learning_rate, range(first, min(first + self.at_once, stop)))
            self.trainer.advance(self.alphas, cost if first == start else None)
            self._check()

    def _check(self) -> None:
        """Raise KeyboardInterrupt after Ctrl-C, and Disagreement if processes' weights differ."""
        self.job.interruption.check()
        if self.job.processes is not None:
            self.job.processes.compare_at_times(self.trainer.params.flat)

    @functools.cached_property
    def at_once(self) -> int:
        """The epochs that the solver is given at a time."""
        if self.job.shared == "features":  # which agree on Ctrl-C after each of these
            return min(EPOCHS_AT_ONCE, self.record_every)
        if self.job.batch_size is None:
            return EPOCHS_AT_ONCE
        return max(1, min(EPOCHS_AT_ONCE, EXAMPLES_AT_ONCE // self.job.examples))

    def _validate(self, record: int) -> None:
        self.validation_costs[record], accuracy = self._scores()
        if accuracy is not None:
            self.accuracies[record] = accuracy
        if self.patience is not None and float(self.validation_costs[record]) < self.lowest:
            self.lowest, self.best_record = float(self.validation_costs[record]), record
            self.best = self.trainer.parameters()

    def _scores(self) -> tuple[Array, Array | None]:
        """`Trainer.validation` on the examples of all processes."""
        job = self.job
        if job.processes is None or job.place is None:
            return self.trainer.validation()
        X, _, weights = job.validation
        return distributed.mean(job.processes, self.trainer.validation, X.shape[1], weights)

    def _parameters(self) -> Parameters:
        return self.job.whole(self.trainer.parameters())

    def _checkpoint(self, record: int) -> Checkpoint:
        epoch, watched = self.starts[record], self.job.validation is not None
        scored = watched and self.job.net.classifies
        return Checkpoint(
            epoch=epoch,
            cost=float(self.costs[record]),
            validation_cost=float(self.validation_costs[record]) if watched else None,
            validation_accuracy=float(self.accuracies[record]) if scored else None,
            learning_rate=self.alphas[0],
            parameters=self._parameters,
        )

    def _complete(self, history: History) -> Parameters:
        """Enter the records into the history; returns the parameters, the best under patience."""
        history.epochs_run = self.trainer.epochs_run
        history.state = self.trainer.state()
        records = len(range(0, history.epochs_run, self.record_every))
        history.costs = to_host(self.costs[:records]).tolist()
        history.epochs = list(self.starts[:records])
        trained = self.trainer.parameters()
        if self.job.validation is None:
            return trained
        cost, accuracy = self._scores()
        if math.isfinite(self.lowest) and not float(cost) < self.lowest:
            trained, cost, history.state = self.best, self.lowest, None
            accuracy = None if accuracy is None else self.accuracies[self.best_record]
        history.final_validation_cost = float(cost)
        history.validation_costs = to_host(self.validation_costs[:records]).tolist()
        if accuracy is not None:
            history.final_validation_accuracy = float(accuracy)
            history.validation_accuracies = to_host(self.accuracies[:records]).tolist()
        return trained
