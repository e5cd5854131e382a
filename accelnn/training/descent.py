"""Gradient descent from record to record: the training itself, once `fit` has checked its input."""

import functools
import math
import signal
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

from accelnn import distributed
from accelnn.backend import Array, to_host
from accelnn.network import Parameters
from accelnn.optimizers import Schedule, rates
from accelnn.solvers.choice import trainer_of
from accelnn.solvers.job import Job, Trainer
from accelnn.training.checkpoint import CheckpointFile
from accelnn.training.history import INTERRUPTED, Callback, Checkpoint, History, ask

# The epochs that a solver is given at a time, and the examples of mini-batches: few enough for
# their learning rates and orders to stay small, however far apart the records are. In batches of
# one, compiled steps need 32 MiB for them.
EPOCHS_AT_ONCE, EXAMPLES_AT_ONCE = 10_000, 250_000


@dataclass
class Descent:
    """A job, and its course as in `fit`. Records stay on the device until the end, unless patience
    or a callback needs them.

    file : where checkpoints go, or None
    starts : the epochs that are recorded
    costs, validation_costs, accuracies : of each record
    validated, asked : the records for which that was done
    lowest, best_record, best : the lowest validation cost, and its parameters
    """

    job: Job
    epochs: int
    learning_rate: float | Schedule
    record_every: int
    patience: int | None
    callbacks: list[Callback]
    file: CheckpointFile | None = None

    def run(self, history: History) -> Parameters:
        """Train with the solver that `history` names, and complete it; returns the parameters."""
        job, first, xp = self.job, self.job.first_epoch, self.job.xp
        # The cost of an epoch is known only if that of its first batches is.
        known = job.state is None or not job.state.batches or job.state.partial is not None
        self.starts = range(first if known else first + 1, first + self.epochs, self.record_every)
        self.costs, self.validation_costs = xp.zeros((2, len(self.starts)), job.params.dtype)
        self.accuracies = xp.full(len(self.starts), math.nan)
        self.validated = self.asked = 0
        self.lowest, self.best, self.best_record = math.inf, job.params, 0
        if self.file is not None:
            self.file.restore(self, history)
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
        if self.file is not None:
            job.interruption.signals = signal.SIGINT, signal.SIGTERM
            self.file.begin(self)
        self.stepping = False  # if interrupted then, its arrays may be half updated
        try:
            with job.interruption:
                history.stopped = self._epochs()
        except KeyboardInterrupt:
            history.stopped = INTERRUPTED
        trained = None
        try:
            with job.interruption:
                if self.file is not None and not self.stepping:
                    self.file.save(self)
                trained = self._complete(history)
        except KeyboardInterrupt:
            if trained is None:  # the second Ctrl-C
                raise
            history.stopped = INTERRUPTED
        return trained

    def _epochs(self) -> str | None:
        """All epochs, or why they ended before the last. A training that was resumed skips what
        was done before."""
        if not self.callbacks and self.job.validation is None:
            self._advance_all()
            return None
        for record, start in enumerate(self.starts):
            self._advance(start)
            if self.job.validation is not None and record >= self.validated:
                self._validate(record)
            lowest = self.starts[self.best_record]
            if self.patience is not None and start - lowest >= self.patience:
                return f"patience: lowest validation cost after epoch {lowest}"
            if self.callbacks and record >= self.asked and self.trainer.epoch <= start + 1:
                self._advance(start + 1)
                ended = ask(self.callbacks, self._checkpoint(record))
                if ended if self.job.processes is None else self.job.processes.any(ended):
                    return f"a callback ended it after epoch {start}"
                self.asked = record + 1
        self._advance(self.starts.stop)
        return None

    def _advance_all(self) -> None:
        """All epochs, as many records at a time as the solver is given."""
        every, stop = self.record_every, self.starts.stop
        together = max(1, self.at_once // every) * every
        while (epoch := self.trainer.epoch) < stop:
            if epoch not in self.starts or every > self.at_once:
                since = (epoch - self.starts.start) % every
                self._advance(min(epoch - since + every, stop))
            else:
                record, coming = self.starts.index(epoch), self._coming(epoch + together)
                costs = self.costs[record : record + len(coming[::every])]
                self._take(self.trainer.advance_through, coming, costs, every)

    def _advance(self, stop: int) -> None:
        """Run to the end of the epoch before `stop`, which is at most the next record's."""
        while (epoch := self.trainer.epoch) < stop:
            recorded = epoch in self.starts
            cost = self.costs[self.starts.index(epoch), ...] if recorded else None
            self._take(self.trainer.advance, self._coming(stop), cost)

    def _coming(self, stop: int) -> range:
        """The epochs before `stop` that the solver is given next."""
        epoch, most = self.trainer.epoch, min(stop, self.starts.stop)
        if self.file is not None:
            most = min(most, self.file.next_epoch)
        return range(epoch, min(most, epoch + self.at_once))

    def _take(self, advance: Callable[..., None], epochs: range, *arguments: Any) -> None:
        """Take the steps of these epochs, or fewer; then write a checkpoint if it is time."""
        alphas, job = rates(self.learning_rate, epochs), self.job
        self.stepping = True
        advance(alphas, *arguments)
        self.stepping = False
        job.interruption.check()
        if job.processes is not None:
            job.processes.compare_at_times(self.trainer.params.flat)
        if self.file is not None and self.file.is_due(self):
            self.file.save(self)

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
        self.validated = record + 1

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
            learning_rate=rates(self.learning_rate, range(epoch, epoch + 1))[0],
            parameters=self._parameters,
        )

    def _complete(self, history: History) -> Parameters:
        """Enter the records into the history; returns the parameters, the best under patience."""
        epoch, state = self.trainer.epoch, self.trainer.state()
        history.epochs_run = epoch - self.job.first_epoch
        recorded = epoch in self.starts or not state.batches
        history.state = state if recorded else replace(state, partial=None)
        records = len(range(self.starts.start, epoch, self.record_every))
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
