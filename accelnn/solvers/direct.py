"""Gradient descent as the notes write it: forward, backward, update, on either backend.

The whole of X makes a step, or mini-batches of it do, gathered where they are or streamed from the
host. Every array that a step writes is allocated before the first.
"""

import functools
from collections.abc import Iterator
from contextlib import closing
from typing import NamedTuple

from accelnn import batches, streaming
from accelnn.backend import Array, array_module
from accelnn.columns import HostColumns
from accelnn.network import Parameters, Workspace, backward, cost_and_accuracy, forward
from accelnn.optimizers import new_moments
from accelnn.solvers.job import Job, draw_masks, dropout_generator


class Batch(NamedTuple):
    """The examples of a step and the arrays to work on them."""

    X: Array
    Y: Array
    work: Workspace


class Direct:
    """A training with vectorised arrays."""

    compile_seconds = 0.0

    def __init__(self, job: Job) -> None:
        self.job = job
        self.params = job.params
        self.gradients = self.params.empty_like()
        self.moments = new_moments(job.optimizer, self.params.flat)
        self.steps = 0
        self.xp = array_module(self.params.flat)
        self.random = dropout_generator(job, self.xp)
        if job.batch_size is not None:
            self.sizes = batches.sizes(job.examples, job.batch_size)
            self.work_of = functools.cache(
                lambda size: Workspace(job.net, self.params, size, dropout=True)
            )
            streamed = isinstance(job.X, HostColumns)
            self.batches = self._streamed() if streamed else self._gathered()
            self.batch_cost = self.xp.empty((), self.params.dtype)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for number, rate in enumerate(rates):
            if self.job.interruption.requested:
                return
            recorded = cost if number == 0 else None
            if self.job.batch_size is None:
                self._step(self.whole, rate, recorded)
            else:
                self._epoch(rate, recorded)

    def _epoch(self, rate: float, cost: Array | None) -> None:
        """A step on each batch, in an order of the epoch's own; `cost` receives their mean."""
        if cost is not None:
            cost[...] = 0
        for size, batch in zip(self.sizes, self.batches, strict=False):  # batches have no end
            if self.job.interruption.requested:
                return
            self._step(batch, rate, None if cost is None else self.batch_cost)
            if cost is not None:
                self.batch_cost *= size / self.job.examples
                cost += self.batch_cost

    def _step(self, batch: Batch, rate: float, cost: Array | None) -> None:
        job, (X, Y, work) = self.job, batch
        draw_masks(job.net, work, self.random, self.steps)
        forward(job.net, self.params, X, work)
        scale = job.optimizer.scale(rate) / work.m
        backward(job.net, self.params, X, Y, work, scale, self.gradients, cost)
        self.steps += 1
        job.optimizer.update(
            work.operations,
            self.params.flat,
            self.gradients.flat,
            self.moments,
            rate,
            self.steps,
        )

    def validation(self) -> tuple[Array, Array | None]:
        assert self.job.validation is not None
        X, Y = self.job.validation
        if isinstance(X, HostColumns):
            return streaming.evaluate(self.job.net, self.params, X, Y)
        Z = forward(self.job.net, self.params, X, self._validation_workspace)
        return cost_and_accuracy(self.job.net, self.params, Z, Y)

    def parameters(self) -> Parameters:
        return self.params.copy()

    @functools.cached_property
    def whole(self) -> Batch:
        """All examples, if they make a step."""
        job = self.job
        work = Workspace(job.net, self.params, job.examples, dropout=True)
        return Batch(job.X, job.Y, work)

    @functools.cached_property
    def _validation_workspace(self) -> Workspace:
        assert self.job.validation is not None
        return Workspace(self.job.net, self.params, self.job.validation[0].shape[1])

    def _gathered(self) -> Iterator[Batch]:
        """Mini-batches of arrays that are where the parameters are, epoch after epoch."""
        sources = [batches.examples_first(array) for array in (self.job.X, self.job.Y)]

        @functools.cache
        def arrays(size: int) -> list[Array]:
            return [self.xp.empty((size, rows.shape[1]), rows.dtype) for rows in sources]

        for order in batches.orders(self.job.examples, self.job.seed):
            order, start = self.xp.asarray(order), 0
            for size in self.sizes:
                for rows, batch in zip(sources, arrays(size), strict=True):
                    batches.gather(rows, order[start : start + size], batch)
                X, Y = arrays(size)
                yield Batch(X.T, Y.T, self.work_of(size))
                start += size

    def _streamed(self) -> Iterator[Batch]:
        """Mini-batches of data that stays on the host, in the same order."""
        job = self.job
        wanted = batches.numbers(job.examples, self.sizes[0], job.seed)
        stream = streaming.stream((job.X, job.Y), wanted, self.sizes[0], self.xp)
        for X, Y in job.held.enter_context(closing(stream)):
            yield Batch(X, Y, self.work_of(X.shape[1]))
