"""Gradient descent as the notes write it: forward, backward, update, on either backend.

The whole of X makes a step, or mini-batches of it do. Every array that a step writes is allocated
before the first.
"""

import functools
from typing import NamedTuple

from accelnn import batches
from accelnn.backend import Array, array_module
from accelnn.network import Parameters, Workspace, backward, forward, loss_of
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
        if job.batch_size is None:
            self.whole = Batch(
                job.X, job.Y, Workspace(job.net, self.params, job.examples, dropout=True)
            )
        else:
            self.X_rows = batches.examples_first(job.X)
            self.Y_rows = batches.examples_first(job.Y)
            self.orders = batches.orders(job.examples, job.seed)
            self.sizes = batches.sizes(job.examples, job.batch_size)
            self.batch_of = functools.cache(self._batch_of)
            self.batch_cost = self.xp.empty((), self.params.dtype)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for number, rate in enumerate(rates):
            wanted = cost if number == 0 else None
            if self.job.batch_size is None:
                self._step(self.whole, rate, wanted)
            else:
                self._epoch(rate, wanted)

    def _epoch(self, rate: float, cost: Array | None) -> None:
        """A step on each batch, in an order of the epoch's own; `cost` receives their mean."""
        order = self.xp.asarray(next(self.orders))
        if cost is not None:
            cost[...] = 0
        start = 0
        for size in self.sizes:
            batch = self.batch_of(size)
            indices = order[start : start + size]
            batches.gather(self.X_rows, indices, batch.X.T)
            batches.gather(self.Y_rows, indices, batch.Y.T)
            self._step(batch, rate, None if cost is None else self.batch_cost)
            if cost is not None:
                self.batch_cost *= size / self.job.examples
                cost += self.batch_cost
            start += size

    def _step(self, batch: Batch, rate: float, cost: Array | None) -> None:
        job, (X, Y, work) = self.job, batch
        draw_masks(job.net, work, self.random)
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

    def validation_cost(self) -> Array:
        assert self.job.validation is not None
        X, Y = self.job.validation
        Z = forward(self.job.net, self.params, X, self._validation_workspace)
        return loss_of(self.job.net, self.params, Z, Y)

    def parameters(self) -> Parameters:
        return self.params.copy()

    def cost(self, params: Parameters) -> float:
        return self.job.net.cost(params, self.job.X, self.job.Y)

    @functools.cached_property
    def _validation_workspace(self) -> Workspace:
        assert self.job.validation is not None
        return Workspace(self.job.net, self.params, self.job.validation[0].shape[1])

    def _batch_of(self, size: int) -> Batch:
        """Arrays for a batch of this size, its examples contiguous."""
        X, Y = (
            self.xp.empty((size, rows.shape[1]), rows.dtype) for rows in (self.X_rows, self.Y_rows)
        )
        return Batch(X.T, Y.T, Workspace(self.job.net, self.params, size, dropout=True))
