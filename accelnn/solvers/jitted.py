"""Gradient descent as one compiled call for many steps: `accelnn.kernels.cpu.steps`.

What Python and NumPy take between two products is gone, the products' threads are ours, and an
update is part of the product that leads to it. Full batches, mini-batches, and sample space.
"""

import functools
import itertools
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from itertools import pairwise
from typing import Any

import numpy as np
import threadpoolctl

from accelnn import batches
from accelnn.backend import Array
from accelnn.kernels import loops
from accelnn.network import Network, Parameters, cost_and_accuracy
from accelnn.optimizers import SGD, Adam
from accelnn.solvers.gram import SampleSpace, Shrinkage
from accelnn.solvers.job import Job, draw_mask, dropout_generator

# Inputs from which examples lie better as rows: then BLAS does the first product, and a row is
# gathered in one go. Below, loops run along the examples.
EXAMPLES_FIRST_FROM = 32

# Of a compiled call, which Ctrl-C cannot interrupt: about half a second of multiply-adds, and
# the masks of dropout, all drawn before.
LONGEST_CALL = 2e10
LARGEST_MASKS = 2**20  # elements


class Jitted:
    """A training in compiled steps, in sample space if one is given."""

    def __init__(self, job: Job, space: SampleSpace | None = None) -> None:
        self.job, self.space = job, space
        self.compile_seconds = load(job.params.dtype)
        self.params = job.params if space is None else space.inner
        self.shrinkage = Shrinkage(job)
        self.random = dropout_generator(job, np)
        self.orders = batches.orders(job.examples, job.seed)
        self.steps = 0
        self.state, self.sizes = _state(job, self.params, space)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        per_epoch = len(self.sizes)
        sizes = np.tile(self.sizes, len(rates))
        order = np.zeros(0, np.int64)
        if self.job.batch_size is not None:
            order = np.concatenate([order, *itertools.islice(self.orders, len(rates))])
        l2_cost = self._l2_cost() if cost is not None and self.space is not None else 0.0
        recorded = per_epoch if cost is not None else 0
        total = self._run(np.repeat(rates, per_epoch), sizes, order, recorded)
        if cost is not None:
            cost[...] = total / self.job.examples + l2_cost

    def _run(self, rates: Array, sizes: Array, order: Array, recorded: int) -> float:
        """`kernels.cpu.steps.train` of these steps, in calls short enough to be interrupted;
        the costs of the first `recorded`, each times its examples, added up."""
        from accelnn.kernels import jit
        from accelnn.kernels.cpu import steps

        state, layers, largest = self.state, self.params.layers, int(sizes.max())
        l2 = float(self.job.net.l2) if self.space is None else 0.0
        dropout = state.settings[steps.DROPOUT] != 0
        most = int(LONGEST_CALL / _multiply_adds(layers, largest))
        if dropout:
            most = min(most, LARGEST_MASKS // (sum(layers[1:]) * largest))
        most, ends, total = max(1, most), sizes.cumsum(), 0.0
        with one_blas_thread() if _uses_blas(layers, largest) else nullcontext():
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
                mean = jit.train()(state, plan, taken, chosen, l2, counted)
                total += float(mean) * int(taken[:counted].sum())
                self.steps += len(taken)
        return total

    def _plan(self, rates: Array, sizes: Array) -> Array:
        """For each step its `Now.plan`: α, scale, shrinkage, ε and c."""
        optimizer, l2 = self.job.optimizer, self.job.net.l2
        plan = np.zeros((len(rates), 5))
        plan[:, 0] = rates
        plan[:, 1] = [optimizer.scale(rate) for rate in rates] / sizes
        plan[:, 2] = plan[:, 1] * l2
        if isinstance(optimizer, Adam):
            numbers = range(self.steps + 1, self.steps + 1 + len(rates))
            corrected = [optimizer.corrected(*item) for item in zip(rates, numbers, strict=True)]
            plan[:, [0, 3]] = corrected
        if self.space is not None:
            plan[:, 4] = [self.shrinkage.step(rate) for rate in rates] if l2 else 1.0
        return plan

    def _masks(self, sizes: Array) -> Array:
        """Each step's masks, one after the other, in the order in which `draw_masks` draws."""
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

    def _l2_cost(self) -> Any:
        """λ/(2m) Σ ‖W‖² in sample space."""
        assert self.space is not None
        if not self.job.net.l2:
            return 0.0
        with one_blas_thread():
            return self.space.penalty(self.shrinkage.c, self.params[0][0] @ self.space.G)

    def validation(self) -> tuple[Array, Array | None]:
        if self.space is not None:
            with one_blas_thread():  # the others would still be awake when the training goes on
                return self.space.validation(self.shrinkage.c)
        from accelnn.kernels import jit

        state, Z = self._validation_pass
        m = Z.shape[1]
        with one_blas_thread() if _uses_blas(self.params.layers, m) else nullcontext():
            jit.train()(state, np.zeros((1, 5)), np.array([m]), np.zeros(0, np.int64), 0.0, 0)
        assert self.job.validation is not None
        return cost_and_accuracy(self.job.net, self.params, Z, self.job.validation[1])

    @functools.cached_property
    def _validation_pass(self) -> tuple[Any, Array]:
        """A step on the whole validation set that ends with the last product forward, and where
        that leaves the logits, without their bias."""
        from accelnn.kernels.cpu import steps

        assert self.job.validation is not None
        X, Y = self.job.validation
        whole = replace(self.job, X=X, Y=Y, batch_size=None)
        state, _ = _state(whole, self.params, None)
        settings = state.settings.copy()
        settings[steps.DROPOUT] = 0
        forward = state.phases[state.phases[:, steps.PHASE] <= steps.FORWARD]
        outputs, m = Y.shape
        return (
            state._replace(settings=settings, phases=forward),
            state.A[-outputs * m :].reshape(outputs, m),
        )

    def parameters(self) -> Parameters:
        return self.params.copy() if self.space is None else self.space.parameters(self.shrinkage.c)


def in_sample_space(job: Job) -> Jitted:
    """The compiled training of a job in sample space."""
    return Jitted(job, SampleSpace.of(job))


# ------------------------------------------------------------------------- the compiled state


def _state(job: Job, params: Parameters, space: SampleSpace | None) -> tuple[Any, Array]:
    """The arrays that the compiled steps work on, and the sizes of an epoch's batches."""
    import numba

    from accelnn.kernels.cpu import blas, steps

    dtype, layers = params.dtype, params.layers
    whole = job.batch_size is None
    sizes = np.array(batches.sizes(job.examples, job.batch_size or job.examples))
    most, units, outputs = int(sizes.max()), sum(layers[1:]), layers[-1]
    threads = numba.get_num_threads()

    def empty(*shape: int) -> Array:
        return np.empty(shape, dtype)

    examples_first = space is None and layers[0] >= EXAMPLES_FIRST_FROM
    if space is not None:
        X_batch = _flat(space.G)
    elif whole:
        X_batch = _flat(job.X.T if examples_first else job.X)
    else:
        X_batch = empty(most * layers[0])
    adam = isinstance(job.optimizer, Adam)
    state = steps.State(
        gemm=blas.address(dtype),
        settings=np.array(
            [
                loops.OPTIMIZERS[job.optimizer.name],
                space is not None,
                examples_first,
                job.dropout,
                threads,
                not blas.has_small_kernels(),
                0,
                1,
            ]
        ),
        phases=_phases(layers, gathered=not whole, sample_space=space is not None, adam=adam),
        layers=_layer_table(job.net, layers),
        keep_prob=np.array([*job.net.keep_prob, 1.0]),
        betas=np.array(job.optimizer.betas),
        theta=params.flat,
        step=empty(params.flat.size if adam else 0),
        moments=np.zeros((job.optimizer.moments, params.flat.size), dtype),
        X=empty(0) if whole else _flat(job.X.T),
        Y=empty(0) if whole else _flat(job.Y.T),
        X_batch=X_batch,
        Y_batch=_flat(job.Y) if whole else empty(most * outputs),
        P0=empty(0) if space is None else _flat(space.P0),
        A=empty(units * most),
        dA=empty(units * most),
        D=empty(0),
        db=empty(units, threads),
        work=empty(2, most),
        losses=np.zeros(threads),
    )
    return state, sizes


def _flat(array: Array) -> Array:
    """The elements in C order, contiguous and writable: compiled code knows no other arrays."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


def _layer_table(net: Network, layers: tuple[int, ...]) -> Array:
    """`State.layers`"""
    rows, place, unit = [], 0, 0
    for (before, n), kind in zip(pairwise(layers), (*net.hidden, net.output), strict=True):
        rows.append((n, before, place, place + n * before, unit, loops.KINDS[kind]))
        place += n * (before + 1)
        unit += n
    return np.array(rows)


def _phases(layers: tuple[int, ...], gathered: bool, sample_space: bool, adam: bool) -> Array:
    """`State.phases`: what a step does, and how much work it is."""
    from accelnn.kernels.cpu import steps as t

    products = [n * before for before, n in pairwise(layers)]
    last = len(products) - 1
    rows = [(t.GATHER, 0, layers[0], 0)] if gathered else []
    rows += [(t.FORWARD, l, product, 0) for l, product in enumerate(products)]
    rows += [(t.OUTPUT, last, 20 * layers[-1], 0)]  # an exponential costs some 20 multiply-adds
    rows += [(t.BACKWARD, l, products[l], 0) for l in range(last, 0, -1)]
    if sample_space:
        products[0] = layers[1]
    elements = sum(n * (before + 1) for before, n in pairwise(layers))
    rows += [(t.UPDATE, last, sum(products), 10 * elements if adam else 0)]
    return np.array(rows)


def _uses_blas(layers: tuple[int, ...], m: int) -> bool:
    """Whether one of a step's products may be so large that BLAS would share it."""
    from accelnn.kernels.cpu.steps import SERIAL_IN_BLAS

    return any(before * n * m > SERIAL_IN_BLAS for before, n in pairwise(layers))


def _multiply_adds(layers: tuple[int, ...], m: int) -> int:
    """Multiply-adds of a step on m examples, about."""
    return 3 * m * sum(n * (before + 1) for before, n in pairwise(layers))


# -------------------------------------------------------------------------------- compilation


_loaded: set[np.dtype[Any]] = set()  # the dtypes for which the compiled steps are in memory


def load(dtype: Any) -> float:
    """Load the compiled steps for this dtype, or compile them; the seconds that took."""
    from accelnn.kernels import jit

    dtype = np.dtype(dtype)
    if dtype in _loaded:
        return 0.0
    seconds = jit.prepare(jit.train(), _smallest_arguments(dtype))
    _loaded.add(dtype)
    return seconds


def _smallest_arguments(dtype: np.dtype[Any]) -> tuple[Any, ...]:
    """Arguments of the compiled steps: any training's of this dtype have the same types."""
    params = Parameters(np.zeros(2, dtype), (1, 1))
    one = np.zeros((1, 1), dtype)
    state, sizes = _state(Job(Network([1, 1]), params, one, one, SGD()), params, None)
    return state, np.zeros((1, 5)), sizes, np.zeros(0, np.int64), 0.0, 0


@functools.cache
def _blas() -> Any:
    """The BLAS libraries of this process, SciPy's among them, which compiled code calls."""
    import scipy.linalg.cython_blas  # noqa: F401

    return threadpoolctl.ThreadpoolController().select(user_api="blas")


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """One thread a product: the threads that share a product are Numba's."""
    with _blas().limit(limits=1):
        yield
