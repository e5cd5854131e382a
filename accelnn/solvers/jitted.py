"""Gradient descent as one compiled call for many steps: `accelnn.kernels.cpu.steps`.

Neither Python nor NumPy runs between two products, Numba's threads share a product, and an update
is part of the product before it. Serves full batches, mini-batches and sample space.
"""

import functools
import itertools
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import threadpoolctl

from accelnn import batches
from accelnn.backend import Array
from accelnn.kernels.cpu import fused
from accelnn.network import Network, Parameters, cost_and_accuracy
from accelnn.optimizers import SGD
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, Trainer, draw_mask, layer_table

# Inputs from which examples are stored as rows: BLAS then forms the first product, and a row is
# gathered in one go. With fewer, loops run along the examples.
EXAMPLES_FIRST_FROM = 32

# Limits of one compiled call, which Ctrl-C cannot interrupt: multiply-adds, about half a second of
# them, and the elements of its dropout masks, all drawn before it
LONGEST_CALL, LARGEST_MASKS = 2e10, 2**20


class Jitted(Trainer):
    """A training in compiled steps."""

    by_kernels = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        self.space = self if isinstance(self, InSampleSpace) else None
        self.compile_seconds = load(job.params.dtype)
        batched = job.batch_size is not None
        self.orders = batches.orders(job.examples, job.seed) if batched else iter(())
        self.state = _state(job, self.params, self.space)
        self.sizes = np.array(job.sizes)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        per_epoch = len(self.sizes)
        sizes = np.tile(self.sizes, len(rates))
        orders = itertools.islice(self.orders, len(rates))
        order = np.concatenate([np.zeros(0, np.int64), *orders])
        l2_cost: Any = 0.0
        if cost is not None and self.space is not None and self.job.net.l2:
            with one_blas_thread():
                l2_cost = self.space.penalty(self.params[0][0] @ self.space.G)
        recorded = per_epoch if cost is not None else 0
        total = self._run(np.repeat(rates, per_epoch), sizes, order, recorded)
        if cost is not None:
            cost[...] = total / self.job.examples + l2_cost

    def _run(self, rates: Array, sizes: Array, order: Array, recorded: int) -> float:
        """Take these steps, in calls short enough to be interrupted; returns the sum of the costs
        of the first `recorded`, each times its examples."""
        from accelnn.kernels.cpu import steps

        state, layers, largest = self.state, self.params.layers, int(sizes.max())
        l2 = float(self.job.net.l2) if self.space is None else 0.0
        dropout = state.settings[steps.DROPOUT] != 0
        most = int(LONGEST_CALL / (3 * largest * self.params.flat.size))
        if dropout:
            most = min(most, LARGEST_MASKS // (sum(layers[1:]) * largest))
        most, ends, total = max(1, most), sizes.cumsum(), 0.0
        with _blas_threads(layers, largest):
            for start in range(0, len(sizes), most):
                if self.job.interruption.requested:
                    break
                taken = sizes[start : start + most]
                first = ends[start] - taken[0]
                chosen = order[first : first + taken.sum()]
                counted = min(max(recorded - start, 0), len(taken))
                if dropout:
                    state = state._replace(D=self._masks(taken))
                # Planned call by call: c and Adam's corrections must not run ahead of Ctrl-C.
                plan = self._plan(rates[start : start + most], taken)
                mean = _train(state, plan, taken, chosen, l2, counted)
                total += mean * int(taken[:counted].sum())
                self.steps += len(taken)
        return total

    def _plan(self, rates: Array, sizes: Array) -> Array:
        """`Now.plan` of each step: α, scale, shrinkage, ε and c."""
        optimizer, l2 = self.job.optimizer, self.job.net.l2
        plan = np.zeros((len(rates), 5))
        plan[:, [0, 3]] = self.corrected(rates)
        plan[:, 1] = [optimizer.scale(rate) for rate in rates] / sizes
        plan[:, 2] = plan[:, 1] * l2
        if self.space is not None:
            plan[:, 4] = [self.space.shrink(rate) for rate in rates] if l2 else 1.0
        return plan

    def _masks(self, sizes: Array) -> Array:
        """The masks of each step, one after the other, drawn in the order of `draw_masks`."""
        net = self.job.net
        D = np.empty(sum(net.layers[1:]) * int(sizes.sum()), self.params.dtype)
        start = 0
        for m in sizes:
            for n, keep in itertools.zip_longest(net.layers[1:], net.keep_prob, fillvalue=1.0):
                layer = D[start : start + n * m]
                if keep < 1:
                    draw_mask(layer, keep, self.random)
                start += n * m
        return D

    def validation(self) -> tuple[Array, Array | None]:
        state, Z = self._validation_pass
        m = Z.shape[1]
        with _blas_threads(self.params.layers, m):
            _train(state, np.zeros((1, 5)), np.array([m]), np.zeros(0, np.int64), 0.0, 0)
        return cost_and_accuracy(self.job.net, self.params, Z, self.job.validation[1])

    @functools.cached_property
    def _validation_pass(self) -> tuple[Any, Array]:
        """The state of a step on the validation set that ends with the last product forward, and
        where that leaves the logits, without their bias."""
        from accelnn.kernels.cpu import steps

        X, Y = self.job.validation
        net = replace(self.job.net, keep_prob=1.0)
        state = _state(replace(self.job, net=net, X=X, Y=Y, batch_size=None), self.params)
        forward = state.phases[state.phases[:, steps.PHASE] <= steps.FORWARD]
        return state._replace(phases=forward), state.A[-Y.size :].reshape(Y.shape)


class JittedGram(InSampleSpace, Jitted):
    """A training in compiled steps in sample space."""

    def validation(self) -> tuple[Array, Array | None]:
        with one_blas_thread():  # the others would still be awake when the training goes on
            return super().validation()


def _state(job: Job, params: Parameters, space: InSampleSpace | None = None) -> Any:
    """The `State` of the compiled steps."""
    from accelnn.kernels.cpu import blas, steps

    dtype, layers, optimizer = params.dtype, params.layers, job.optimizer
    whole = job.batch_size is None
    most, units, outputs = max(job.sizes), sum(layers[1:]), layers[-1]
    threads = _threads()
    empty = functools.partial(np.empty, dtype=dtype)
    nothing = empty(0)
    in_space = space is not None
    examples_first = not in_space and layers[0] >= EXAMPLES_FIRST_FROM
    X = job.X.T if examples_first else job.X
    if space is not None:
        X = space.G
    separate = not optimizer.linear  # the update, from the product that forms the gradient
    code = fused.OPTIMIZERS[optimizer.name]
    dropout = min(job.net.keep_prob, default=1) < 1
    own_products = not blas.has_small_kernels()
    return steps.State(
        gemm=blas.address(dtype),
        settings=np.array([code, in_space, examples_first, dropout, threads, own_products, 0, 1]),
        phases=_phases(params, not whole, in_space, separate),
        layers=layer_table(job.net, layers),
        keep_prob=np.array([*job.net.keep_prob, 1.0]),
        betas=np.array(optimizer.betas),
        theta=params.flat,
        step=empty(params.flat.size if separate else 0),
        moments=np.zeros((2, params.flat.size if optimizer.moments else 0), dtype),
        X=nothing if whole else _flat(job.X.T),
        Y=nothing if whole else _flat(job.Y.T),
        X_batch=_flat(X) if whole else empty(most * layers[0]),
        Y_batch=_flat(job.Y) if whole else empty(most * outputs),
        P0=nothing if space is None else _flat(space.P0),
        A=empty(units * most),
        dA=empty(units * most),
        D=nothing,
        db=empty((units, threads)),
        work=empty((2, most)),
        losses=np.zeros(threads),
    )


def _flat(array: Array) -> Array:
    """The elements in C order, contiguous and writable: compiled code knows no other arrays."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


def _phases(params: Parameters, gathered: bool, sample_space: bool, separate: bool) -> Array:
    """`State.phases`: what a step does, and how much work it is."""
    from accelnn.kernels.cpu import steps as t

    layers = params.layers
    products = [n * before for before, n in pairwise(layers)]
    last = len(products) - 1
    rows = [(t.GATHER, 0, layers[0], 0)] if gathered else []
    rows += [(t.FORWARD, l, product, 0) for l, product in enumerate(products)]
    rows += [(t.OUTPUT, last, 20 * layers[-1], 0)]  # an exponential costs some 20 multiply-adds
    rows += [(t.BACKWARD, l, products[l], 0) for l in range(last, 0, -1)]
    if sample_space:
        products[0] = layers[1]
    rows += [(t.UPDATE, last, sum(products), 10 * params.flat.size if separate else 0)]
    return np.array(rows)


_loaded: set[np.dtype[Any]] = set()  # the dtypes for which the compiled steps are in memory


def load(dtype: Any) -> float:
    """Load the compiled steps for this dtype, or compile them; the seconds that took."""
    from accelnn.kernels import jit

    dtype = np.dtype(dtype)
    with _shared.loading:
        if dtype in _loaded:
            return 0.0
        # Arguments of the smallest training: those of any other of this dtype have the same types.
        one = np.zeros((1, 1), dtype)
        job = Job(Network([1, 1]), Parameters(np.zeros(2, dtype), (1, 1)), one, one, SGD())
        plan, sizes, order = np.zeros((1, 5)), np.ones(1, np.int64), np.zeros(0, np.int64)
        seconds = jit.prepare(jit.train(), (_state(job, job.params), plan, sizes, order, 0.0, 0))
        _loaded.add(dtype)
        return seconds


# ------------------------------------------------- what the trainings of one process have in common


class _Shared:
    """Locks, and the limit on BLAS, that trainings in several threads share."""

    def __init__(self) -> None:
        self.loading, self.limiting, self.running = (threading.Lock() for _ in range(3))
        self.trainings = 0  # that need one BLAS thread now
        self.limit: Any = None  # on BLAS, while there are any


_shared, _serial = _Shared(), False


def _after_fork() -> None:
    """Start afresh in a child: no other thread exists that could release a lock or a limit, and
    GNU OpenMP ends a child that uses it after its parent did."""
    global _shared, _serial
    if _shared.limit is not None:
        _shared.limit.restore_original_limits()
    _shared = _Shared()
    with suppress(AttributeError, ValueError):  # Numba is not imported, or never ran in parallel
        numba: Any = sys.modules.get("numba")
        _serial = _serial or numba.threading_layer() == "omp"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _threads() -> int:
    """The threads that share a product."""
    import numba

    return 1 if _serial else int(numba.get_num_threads())


def _train(*arguments: Any) -> float:
    """Take compiled steps, one training at a time: each call has all cores already, and Numba's
    own pool of threads ends a process in which two use it at once."""
    from accelnn.kernels import jit

    with _shared.running:
        return float(jit.train()(*arguments))


@functools.cache
def _blas() -> Any:
    """The BLAS libraries of this process, among them SciPy's, which compiled code calls."""
    import scipy.linalg.cython_blas  # noqa: F401

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One BLAS thread a product within the block, because the threads that share a product are
    Numba's. The last of the trainings that run at once restores the former number."""
    shared = _shared
    with shared.limiting:
        if shared.trainings == 0:
            shared.limit = _blas().limit(limits=1)
        shared.trainings += 1
    try:
        yield
    finally:
        with shared.limiting:
            shared.trainings -= 1
            if shared.trainings == 0:
                shared.limit.restore_original_limits()
                shared.limit = None


def _blas_threads(layers: tuple[int, ...], m: int) -> AbstractContextManager[None]:
    """`one_blas_thread`, if a product of a step on m examples may be large enough for BLAS."""
    from accelnn.kernels.cpu.steps import SERIAL_IN_BLAS

    large = any(before * n * m > SERIAL_IN_BLAS for before, n in pairwise(layers))
    return one_blas_thread() if large else nullcontext()
