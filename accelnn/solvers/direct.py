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
from accelnn.columns import HostColumns
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
        if job.batch_size is None:
            [total] = job.totals(slice(None), [job.examples])
            *_, places = job.here(np.zeros(0, np.int64), self.sizes)
            whole = self._batch(job.X, job.Y, slice(None), total, places)
            self.batches: Iterator[Batch] = itertools.repeat(whole)
        else:
            self.batches = self._streamed() if isinstance(job.X, HostColumns) else self._gathered()

    def advance(self, rates: list[float], cost: Array | None) -> None:
        for epoch, rate in enumerate(rates):
            recorded = cost if epoch == 0 else None
            if recorded is not None:
                recorded[...] = 0
            for size, batch in zip(self.sizes, self.batches, strict=False):  # batches have no end
                if self.job.halted:
                    return
                self._drop(batch, size)
                cost_of_batch = None if recorded is None else self.batch_cost
                self._propagate(batch, rate, cost_of_batch)
                if self.job.place is not None:
                    self._share(batch.work, rate, cost_of_batch)
                self.steps += 1
                arrays = self.params.flat, self.gradients.flat, self.moments
                self.job.optimizer.update(*arrays, rate, self.steps)
                if recorded is not None:
                    self.batch_cost *= size / self.job.examples
                    recorded += self.batch_cost

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
        for chosen, total, places in self._parts(self.xp):
            X, Y = batch = [array[: len(chosen)] for array in room]
            for rows, gathered in zip(sources, batch, strict=True):
                batches.gather(rows, chosen, gathered)
            yield self._batch(X.T, Y.T, chosen, total, places)

    def _streamed(self) -> Iterator[Batch]:
        """The same of data that stays on the host."""
        job = self.job
        parts, again = itertools.tee(self._parts(np))
        numbers = (chosen for chosen, _, _ in parts)
        stream = streaming.stream((job.X, job.Y), numbers, self.most, self.xp)
        batch = zip(job.resources.enter_context(closing(stream)), again, strict=False)
        for (X, Y), part in batch:
            yield self._batch(X, Y, *part)

    def _parts(self, xp: Any) -> Iterator[tuple[Array, float, Array]]:
        """For each mini-batch, epoch after epoch: the columns of X that this process has, as an
        array of `xp`, the sum of the weights of the whole batch, and the columns' places in it."""
        for order in self.job.orders():
            totals = self.job.totals(order, self.sizes)
            columns, counts, places = self.job.here(order, self.sizes)
            columns, end = xp.asarray(columns), 0
            for count, total in zip(counts, totals, strict=True):
                start, end = end, end + count
                yield columns[start:end], total, places[start:end]

    def _batch(self, X: Array, Y: Array, chosen: Any, total: float, places: Any) -> Batch:
        """The batch of these examples; the weights of all that processes share sum to `total`."""
        m = X.shape[1]
        work = self.work[m] if m in self.work else self.work.setdefault(m, self._part(m))
        work.total = float(total)
        if self.job.weights is not None:
            work.weights = self.job.weights[chosen]
        return Batch(X, Y, work, places)

    def _part(self, m: int) -> Workspace:
        return self.work[self.most].part(m)

    def scale(self, rate: float, work: Workspace) -> float:
        """The factor of a batch's dZ; 0 if all its examples weigh nothing."""
        return self.job.optimizer.scale(rate) / work.total if work.total else 0.0
