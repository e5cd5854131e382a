"""Gradient descent as the notes write it: forward, backward, update, on either backend.

A step takes all of X, or a mini-batch, gathered on the device of X or streamed from the host.
Arrays that a step writes are allocated before the first.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from typing import Any, NamedTuple

import numpy as np

from accelnn import batches, streaming
from accelnn.backend import Array
from accelnn.columns import HostColumns
from accelnn.network import Workspace, backward, forward
from accelnn.solvers.job import Job, Trainer


class Batch(NamedTuple):
    """The examples of a step and the arrays to work on them."""

    X: Array
    Y: Array
    work: Workspace  # which has the examples' weights


class Direct(Trainer):
    """A training with vectorised arrays."""

    streams = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.sizes = job.sizes
        self.work = {m: Workspace(job.net, self.params, m, dropout=True) for m in set(self.sizes)}
        self.batch_cost = self.xp.empty((), self.params.dtype)
        self.partial = self.xp.full((), self.partial, self.params.dtype)
        if job.batch_size is None:
            [total] = job.totals(slice(None), [job.examples])
            whole = self._batch(job.X, job.Y, slice(None), total)
            self.batches: Iterator[Batch] = itertools.repeat(whole)
        elif isinstance(job.X, HostColumns):
            self.batches = self._streamed()
        else:
            self.batches = itertools.islice(self._gathered(), self.batches_run, None)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for rate in rates:
            begun = self.batches_run
            if cost is not None and not begun:
                self.partial[...] = 0
            for size in self.sizes[begun:]:
                if self.job.halted:
                    return
                batch = next(self.batches)
                self.draw_masks(batch.work.D)
                self._propagate(batch, rate, None if cost is None else self.batch_cost)
                self.steps += 1
                arrays = self.params.flat, self.gradients.flat, self.moments
                self.job.optimizer.update(*arrays, rate, self.steps)
                if cost is not None:
                    self.batch_cost *= size / self.job.examples
                    self.partial += self.batch_cost
            if cost is not None:
                cost[...] = self.partial
                cost = None

    def _propagate(self, batch: Batch, rate: float, cost: Array | None) -> None:
        """Forward and backward: the gradients, as the optimizer scales them, and the cost."""
        X, Y, work = batch
        scale = self.scale(rate, work)
        forward(work, X)
        backward(work, X, Y, scale, self.gradients, cost)

    def _gathered(self) -> Iterator[Batch]:
        """Mini-batches of arrays on the parameters' device, epoch after epoch."""
        sources = [batches.examples_first(array) for array in (self.job.X, self.job.Y)]
        room = {
            size: [self.xp.empty((size, rows.shape[1]), rows.dtype) for rows in sources]
            for size in self.work
        }
        for on_host in self.job.orders():
            order, totals = self.xp.asarray(on_host), self.job.totals(on_host, self.sizes)
            start = 0
            for size, total in zip(self.sizes, totals, strict=True):
                chosen = order[start : start + size]
                for rows, batch in zip(sources, room[size], strict=True):
                    batches.gather(rows, chosen, batch)
                X, Y = room[size]
                yield self._batch(X.T, Y.T, chosen, total)
                start += size

    def _streamed(self) -> Iterator[Batch]:
        """The same of data that stays on the host or in a file."""
        job, close = self.job, self.job.resources.enter_context
        if self.xp is np:
            runs = job.coming_sizes(streaming.per_chunk(job.X, self.sizes[0]))
            parts = close(closing(streaming.on_host(*job.streams(), runs)))
        else:
            sizes = map(sum, job.coming_sizes(1))
            windows = close(closing(streaming.windows(*job.streams(), sizes)))
            streamed = streaming.stream((job.X, job.Y), windows, self.sizes[0], self.xp)
            parts = close(closing(streamed))
        for chosen, (X, Y) in parts:
            yield self._batch(X, Y, chosen, job.totals(chosen, [len(chosen)])[0])

    def _batch(self, X: Array, Y: Array, chosen: Any, total: float) -> Batch:
        """The batch of these examples, the sum of whose weights is `total`."""
        work = self.work[X.shape[1]]
        if self.job.weights is not None:
            work.weights, work.total = self.job.weights[chosen], total
        return Batch(X, Y, work)

    def scale(self, rate: float, work: Workspace) -> float:
        """The factor of a batch's dZ; 0 if all its examples weigh nothing."""
        return self.job.optimizer.scale(rate) / work.total if work.total else 0.0
