"""Gradient descent as the notes write it: forward, backward, update, on either backend.

A step takes all of X, or a mini-batch, gathered on the device of X or streamed from the host.
Arrays that a step writes are allocated before the first.
"""

import itertools
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from accelnn import batches, streaming
from accelnn.backend import Array
from accelnn.network import Workspace, backward, forward, penalty
from accelnn.solvers.job import Job, Trainer


class Batch(NamedTuple):
    """The examples of a step that this process has, and the arrays to work on them."""

    X: Array
    Y: Array
    work: Workspace  # which has the examples' weights
    places: Array  # of the examples in the whole batch, if processes share it


class Direct(Trainer):
    """A training with vectorised arrays."""

    streams = True
    divides: str | None = "examples"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.sizes = job.sizes
        # L2 is added once, to the sum over the processes.
        net = job.net if job.place is None else replace(job.net, l2=0.0)
        self.most = min(self.sizes[0], job.X.shape[1])
        self.work = {self.most: Workspace(net, self.params, self.most, dropout=True)}
        self.batch_cost = self.xp.empty((), self.params.dtype)
        self.partial = self.xp.full((), self.partial, self.params.dtype)
        if job.batch_size is None:
            [total] = job.totals(slice(None), [job.examples])
            *_, places = job.here(np.zeros(0, np.int64), self.sizes)
            whole = self._batch(job.X, job.Y, slice(None), places, total)
            self.batches: Iterator[Batch] = itertools.repeat(whole)
        else:
            self.batches = self._streamed() if job.batches_streamed else self._gathered()

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for rate in rates:
            begun = self.batches_run
            if cost is not None and not begun:
                self.partial[...] = 0
            cost_of_batch = None if cost is None else self.batch_cost
            for size in self.sizes[begun:]:
                if self.job.halted:
                    return
                batch = next(self.batches)
                self._drop(batch, size)
                self._propagate(batch, rate, cost_of_batch)
                if self.job.place is not None:
                    self._share(batch.work, rate, cost_of_batch)
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
        X, Y, work, _ = batch
        scale = self.scale(rate, work)
        if not work.m:  # other processes have the examples
            self.summed[...] = 0
            if cost is not None:
                cost[...] = 0
            return
        forward(work, X)
        backward(work, X, Y, scale, self.gradients, cost)

    def _drop(self, batch: Batch, size: int) -> None:
        """Draw the dropout masks of a batch of this size, and keep those of its examples here."""
        D = batch.work.D
        if self.job.place is None:
            self.draw_masks(D)
            return
        whole = [D if D is None else self.xp.empty((len(D), size), D.dtype) for D in batch.work.D]
        self.draw_masks(whole)
        places = self.xp.asarray(batch.places)
        for mask, drawn in zip(D, whole, strict=True):
            if mask is not None and drawn is not None:
                mask[...] = drawn[:, places]

    def _share(self, work: Workspace, rate: float, cost: Array | None) -> None:
        """Sum the gradients and the cost over the processes, and add L2's part."""
        net, scale = self.job.net, self.scale(rate, work)
        if cost is not None:
            weight = work.m if work.weights is None else work.weights.sum()
            cost *= weight / (work.total or 1)
        self.add_up(cost)
        if net.l2:
            for (W, _), (dW, _) in zip(self.params, self.gradients, strict=True):
                dW += scale * net.l2 * W
            if cost is not None:
                cost += penalty(net, self.params, work.total)

    def _gathered(self) -> Iterator[Batch]:
        """Mini-batches of arrays on the parameters' device, epoch after epoch."""
        sources = [batches.examples_first(array) for array in (self.job.X, self.job.Y)]
        room = [self.xp.empty((self.most, rows.shape[1]), rows.dtype) for rows in sources]
        for on_host, steps in self.job.epochs():
            columns, end = self.xp.asarray(on_host), 0
            for step in steps:
                start, end = end, end + len(step.columns)
                X, Y = batch = [array[: end - start] for array in room]
                for rows, gathered in zip(sources, batch, strict=True):
                    batches.gather(rows, columns[start:end], gathered)
                yield self._batch(X.T, Y.T, columns[start:end], step.places, step.total)

    def _streamed(self) -> Iterator[Batch]:
        """The same of data that stays on the host or in a file."""
        job, close = self.job, self.job.resources.enter_context
        data, epochs, piece = job.streams()
        if self.xp is np:
            together = streaming.per_chunk(job.X, self.sizes[0])
            parts = close(closing(streaming.on_host(data, epochs, piece, together)))
        else:
            windows = close(closing(streaming.windows(data, epochs, piece)))
            parts = close(closing(streaming.stream(data, windows, self.most, self.xp)))
        for steps, (X, Y) in parts:
            end = 0
            for step in steps:
                start, end = end, end + len(step.columns)
                yield self._batch(X[:, start:end], Y[:, start:end], *step)

    def _batch(self, X: Array, Y: Array, chosen: Any, places: Array, total: float) -> Batch:
        """The batch of these examples; the weights of all that processes share sum to `total`."""
        m = X.shape[1]
        if m not in self.work:
            self.work[m] = self.work[self.most].part(m)
        work = self.work[m]
        work.total = float(total)
        if self.job.weights is not None:
            work.weights = self.job.weights[chosen]
        return Batch(X, Y, work, places)

    def scale(self, rate: float, work: Workspace) -> float:
        """The factor of a batch's dZ; 0 if all its examples weigh nothing."""
        return self.job.optimizer.scale(rate) / work.total if work.total else 0.0
