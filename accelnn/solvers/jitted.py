"""Gradient descent as one compiled call for many steps: `accelnn.kernels.cpu.steps`.

Neither Python nor NumPy runs between two steps. Serves full batches, mini-batches and sample space.
"""

import functools
import itertools
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np

from accelnn import streaming
from accelnn.backend import Array
from accelnn.columns import HostColumns
from accelnn.network import Network, Parameters, cost_and_accuracy
from accelnn.optimizers import SGD
from accelnn.solvers import threads
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, Step, Trainer, draw_mask
from accelnn.solvers.layout import Layout, address

# Limits of one compiled call, which Ctrl-C cannot interrupt: multiply-adds, about half a second of
# them, and the elements of its dropout masks, all drawn before it
LONGEST_CALL, LARGEST_MASKS = 2e10, 2**20

NO_ORDER = np.zeros(0, np.int64)


class Jitted(Trainer):
    """A training in compiled steps."""

    by_kernels = streams = True
    divides: str | None = "examples"

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.space = self if isinstance(self, InSampleSpace) else None
        self.compile_seconds = load(job.params.dtype)
        gathered = job.batch_size is not None and not job.batches_streamed
        self.orders = job.orders() if gathered else iter(())
        self.streamed: Iterator[tuple[Sequence[Step], list[Any]]] | None = None
        if job.batches_streamed:
            # Steps read bytes, and floats like theirs, as they are in the file.
            stored, floats = job.X.rows.dtype, job.params.dtype
            self.as_stored = stored == np.uint8 or (stored == floats and job.X.scale == 1)
            read = streaming.windows if self.as_stored else streaming.on_host
            self.streamed = job.resources.enter_context(closing(read(*job.streams(), self.most)))
        self.drawn: list[Array] = []  # of epochs not completed
        self.layout = Layout(job, self.params, self.space)
        self.threads = self.layout.threads
        for moment, before in zip(self.layout.moments, self.moments, strict=True):
            moment[...] = before
        self.moments = self.layout.moments
        self.layout.state["summed"] = address(self.summed)
        self.sizes = np.array(job.sizes)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        l2_cost: Any = 0.0
        if cost is not None and self._adds_penalty:
            assert self.space is not None
            l2_cost = self.space.penalty(self.params[0][0] @ self.space.G)
        found = self._advance(rates, 0 if cost is None else len(rates))
        if cost is not None:
            cost[...] = found[0] + l2_cost

    def advance_through(self, rates: list[float], costs: Array, every: int) -> None:
        if self._adds_penalty:
            super().advance_through(rates, costs, every)
        else:
            costs[:] = self._advance(rates, every)

    @property
    def _adds_penalty(self) -> bool:
        """Whether steps leave L2's part of the cost to their caller."""
        return self.space is not None and self.job.net.l2 > 0

    @functools.cached_property
    def most(self) -> int:
        """The steps of a call, few enough to be interrupted and for what is made beforehand."""
        job, largest = self.job, max(self.job.sizes)
        if job.place is not None:
            return 1
        limits = [LONGEST_CALL / (3 * largest * self.params.flat.size)]
        if job.drops:
            limits.append(LARGEST_MASKS / (sum(self.params.layers[1:]) * largest))
        if job.batches_streamed:
            limits.append(streaming.per_chunk(job.X, largest))
        return max(1, int(min(limits)))

    def _advance(self, rates: list[float], every: int) -> Array:
        """`advance`; returns the costs of the first epoch and of each `every` epochs later, or
        zeros if that is 0."""
        per_epoch, (first, begun) = len(self.sizes), self._position
        self.drawn += itertools.islice(self.orders, max(0, len(rates) - len(self.drawn)))
        sizes, counted, drawn = self.sizes, np.ones(0), self.drawn[: len(rates)]
        order = drawn[0] if len(drawn) == 1 else np.concatenate([NO_ORDER, *drawn])
        # An epoch at a time, as for callbacks, must not cost more than its steps.
        if len(rates) > 1 or every == 0:
            sizes, epochs = np.tile(sizes, len(rates)), np.zeros(len(rates))
            epochs[:: every or len(rates)] = every > 0
            counted = epochs.repeat(per_epoch)[begun:]
        steps = np.repeat(rates, per_epoch)[begun:], sizes[begun:], order[sizes[:begun].sum() :]
        costs = self._run(*steps, counted)
        completed = self.epoch - first
        self.drawn = self.drawn[completed:]
        if per_epoch > 1:
            before = np.full(min(begun, 1), self.partial), np.zeros(max(begun - 1, 0))
            # In order, so that a pause does not change the last bit; `sum` adds in pairs.
            costs = np.concatenate([*before, costs]).reshape(-1, per_epoch).cumsum(axis=1)[:, -1]
            self.partial = float(costs[completed]) if self.batches_run else 0.0
        return costs[:: every or len(rates)] / self.job.examples

    def _run(self, rates: Array, sizes: Array, order: Array, counted: Array) -> Array:
        """Take these steps, in calls short enough to be interrupted; returns the cost of each times
        its examples, or 0 if its `counted` is 0 and not 1; if that is empty, all are."""
        l2 = float(self.job.net.l2) if self.space is None else 0.0
        ends, costs = sizes.cumsum(), np.zeros(len(sizes))
        for call in self._calls(len(sizes)):
            if self.job.halted:
                break
            taken = sizes[call]
            chosen = order[ends[call.start] - taken[0] : ends[call.stop - 1]]
            columns, counts, places, totals = self._examples(chosen, taken)
            if self.job.drops:
                self.layout.set_masks(self._masks(taken, places))
            # Planned call by call: c and Adam's corrections must not run ahead of Ctrl-C.
            plan = self._plan(rates[call], taken, totals)
            if len(counted):
                plan[:, 5] *= counted[call]
            step = _train if self.job.place is None else self._share
            costs[call] = step(self.layout, plan, counts, columns, l2)
            self.steps += len(taken)
        return costs

    def _examples(self, order: Array, sizes: Array) -> tuple[Array, Array, Array, Array]:
        """The examples of a call, as `Job.here` returns them, and the sum of the weights of each
        batch. Those in a file are put where the call finds them."""
        job = self.job
        if self.streamed is None:
            weighs = job.weights is not None
            return *job.here(order, sizes), self._totals(sizes, order) if weighs else sizes
        steps, (X, Y) = next(self.streamed)
        columns, places = (np.concatenate(parts) for parts in list(zip(*steps, strict=True))[:2])
        weights = None if job.weights is None else job.weights[columns]
        if self.as_stored:
            at = X.chosen
            self.layout.set_examples(X.rows, Y.read(), weights, X.scale)
        else:
            at = np.arange(len(columns))
            self.layout.set_examples(X.T, Y.T, weights)
        counts, totals = np.array([(len(step.columns), step.total) for step in steps]).T
        return at, counts.astype(np.int64), places, totals

    def _calls(self, steps: int) -> Iterator[slice]:
        """The next `steps` in calls; those of streamed examples end with the epoch."""
        end = 0
        while end < steps:
            left = steps if self.streamed is None else len(self.sizes) - self.batches_run
            start, end = end, min(end + min(self.most, left), steps)
            yield slice(start, end)

    def _share(
        self, layout: Layout, plan: Array, counts: Array, columns: Array, l2: float
    ) -> Array:
        """Take a step whose gradient is summed over the processes between its two halves."""
        from accelnn.kernels.cpu.steps import GRADIENT, UPDATE

        cost = np.zeros(1)
        self.summed[...] = 0
        if counts[0]:  # else other processes have the examples
            layout.state["phase"] = GRADIENT
            cost = _train(layout, plan, counts, columns, 0.0)
        self.add_up(cost[0, ...])
        layout.state["phase"] = UPDATE
        return cost + _train(layout, plan, counts, columns, l2)

    def _plan(self, rates: Array, sizes: Array, totals: Array) -> Array:
        """A row of the plan for each step: α, scale, shrinkage, ε, c and the factor of the loss."""
        optimizer, l2 = self.job.optimizer, self.job.net.l2
        plan = np.zeros((len(rates), 6))
        plan[:, :4:3] = self.corrected(rates)
        plan[:, 1] = [optimizer.scale(rate) for rate in rates]
        if self.job.weights is None:
            plan[:, 1] /= sizes
            plan[:, 5] = 1.0
        else:
            weighed = totals > 0  # else the batch changes nothing
            np.divide(plan[:, 1], totals, out=plan[:, 1], where=weighed)
            np.divide(sizes, totals, out=plan[:, 5], where=weighed)
            plan[~weighed, 1] = 0.0
        if l2:
            plan[:, 2] = plan[:, 1] * l2
        if self.space is not None:
            plan[:, 4] = [self.space.shrink(rate) for rate in rates] if l2 else 1.0
        return plan

    def _totals(self, sizes: Array, order: Array) -> Array:
        """The sum of the weights of each batch."""
        if len(order):
            return self.job.totals(order, sizes)
        return np.full(len(sizes), self.job.host_weights.sum())

    def _masks(self, sizes: Array, places: Array) -> Array:
        """The masks of each step, one after the other, drawn in the order of `draw_masks`; those of
        these places in the batch, if it is one that processes share."""
        net = self.job.net
        # Zeros follow, because whole vectors are read.
        D = np.zeros(sum(net.layers[1:]) * int(sizes.sum()) + max(sizes) + 64, self.params.dtype)
        start = 0
        for m in sizes:
            for n, keep in itertools.zip_longest(net.layers[1:], net.keep_prob, fillvalue=1.0):
                layer = D[start : start + n * m]
                if keep < 1:
                    draw_mask(layer, keep, self.random)
                if self.job.place is not None:
                    layer = layer.reshape(-1, m)[:, places].ravel()
                    D[start : start + len(layer)] = layer
                start += len(layer)
        return D

    def validation(self) -> tuple[Array, Array | None]:
        if isinstance(self.job.validation[0], HostColumns):
            return super().validation()
        layout, Z = self._validation_pass
        _train(layout, np.zeros((1, 6)), np.array([Z.shape[1]]), NO_ORDER, 0.0)
        return cost_and_accuracy(self.job.net, self.params, Z, *self.job.validation[1:])

    @functools.cached_property
    def _validation_pass(self) -> tuple[Any, Array]:
        """A step on the validation set that ends with the last product forward, and where that
        leaves the logits, without their bias."""
        X, Y, _ = self.job.validation
        net = replace(self.job.net, keep_prob=1.0)
        alone: dict[str, Any] = {"weights": None, "batch_size": None, "place": None}
        job = replace(self.job, net=net, X=X, Y=Y, **alone)
        layout = Layout(job, self.params, forward_only=True)
        return layout, layout.labels[: len(Y), : Y.shape[1]]


class JittedGram(InSampleSpace, Jitted):
    """A training in compiled steps in sample space."""


_loaded: set[np.dtype[Any]] = set()  # the dtypes for which the compiled steps are in memory


def load(dtype: Any) -> float:
    """Load the compiled steps for this dtype, or compile them; the seconds that took."""
    from accelnn.kernels import jit

    dtype = np.dtype(dtype)
    with threads.loading():
        if dtype in _loaded:
            return 0.0
        # Arguments of the smallest training: those of any other of this dtype have the same types.
        one = np.zeros((1, 1), dtype)
        job = Job(Network([1, 1]), Parameters(np.zeros(2, dtype), (1, 1)), one, one, SGD())
        plan, sizes, order = np.zeros((1, 6)), np.ones(1, np.int64), NO_ORDER
        smallest = Layout(job, job.params)
        arguments = smallest.state, smallest.layers, plan, sizes, order, 0.0, plan[0, :1], 0, 1
        seconds = jit.prepare(jit.train(dtype), arguments, dtype)
        _loaded.add(dtype)
        return seconds


def _train(layout: Layout, plan: Array, sizes: Array, *arguments: Any) -> Array:
    """Take compiled steps; returns their costs, which each thread has for its examples."""
    from accelnn.kernels import jit

    train, parts = jit.train(layout.dtype), layout.threads
    costs = np.zeros((parts, len(sizes)))

    def part(i: int) -> None:
        train(layout.state, layout.layers, plan, sizes, *arguments, costs[i], i, parts)

    threads.run(part, parts)
    return costs[0] if parts == 1 else costs.sum(axis=0)
