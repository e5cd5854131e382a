"""Gradient descent as one compiled call for many steps: `accelnn.kernels.cpu.steps`.

Neither Python nor NumPy runs between two products, Numba's threads share a product, and an update
is part of the product before it. Serves full batches, mini-batches and sample space.
"""

import functools
import itertools
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import numpy as np

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
        self.state = State(job, self.params, self.space)
        self.sizes = np.array(job.sizes)

    def advance(self, rates: list[float], cost: Array | None) -> None:
        per_epoch = len(self.sizes)
        sizes = np.tile(self.sizes, len(rates))
        orders = itertools.islice(self.orders, len(rates))
        order = np.concatenate([np.zeros(0, np.int64), *orders])
        l2_cost: Any = 0.0
        if cost is not None and self.space is not None and self.job.net.l2:
            l2_cost = self.space.penalty(self.params[0][0] @ self.space.G)
        recorded = per_epoch if cost is not None else 0
        total = self._run(np.repeat(rates, per_epoch), sizes, order, recorded)
        if cost is not None:
            cost[...] = total / self.job.examples + l2_cost

    def _run(self, rates: Array, sizes: Array, order: Array, recorded: int) -> float:
        """Take these steps, in calls short enough to be interrupted; returns the sum of the costs
        of the first `recorded`, each times its examples."""
        state, layers, largest = self.state, self.params.layers, int(sizes.max())
        l2 = float(self.job.net.l2) if self.space is None else 0.0
        dropout = min(self.job.net.keep_prob, default=1) < 1
        most = int(LONGEST_CALL / (3 * largest * self.params.flat.size))
        if dropout:
            most = min(most, LARGEST_MASKS // (sum(layers[1:]) * largest))
        most, ends, total = max(1, most), sizes.cumsum(), 0.0
        for start in range(0, len(sizes), most):
            if self.job.interruption.requested:
                break
            taken = sizes[start : start + most]
            first = ends[start] - taken[0]
            chosen = order[first : first + taken.sum()]
            counted = min(max(recorded - start, 0), len(taken))
            if dropout:
                state.set_masks(self._masks(taken))
            # Planned call by call: c and Adam's corrections must not run ahead of Ctrl-C.
            plan = self._plan(rates[start : start + most], taken)
            total += _train(state, plan, taken, chosen, l2, counted)
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
        # and zeros behind them, because whole vectors are read
        D = np.zeros(sum(net.layers[1:]) * int(sizes.sum()) + max(sizes) + 64, self.params.dtype)
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
        _train(state, np.zeros((1, 5)), np.array([Z.shape[1]]), np.zeros(0, np.int64), 0.0, 0)
        return cost_and_accuracy(self.job.net, self.params, Z, self.job.validation[1])

    @functools.cached_property
    def _validation_pass(self) -> tuple[Any, Array]:
        """The state of a step on the validation set that ends with the last product forward, and
        where that leaves the logits, without their bias."""
        X, Y = self.job.validation
        net = replace(self.job.net, keep_prob=1.0)
        job = replace(self.job, net=net, X=X, Y=Y, batch_size=None)
        state = State(job, self.params, forward_only=True)
        return state, state.labels[: len(Y), : Y.shape[1]]


class JittedGram(InSampleSpace, Jitted):
    """A training in compiled steps in sample space."""


class State:
    """The arguments of `steps.train` that describe a training, and the arrays that they point to."""

    def __init__(
        self,
        job: Job,
        params: Parameters,
        space: InSampleSpace | None = None,
        forward_only: bool = False,
    ) -> None:
        from accelnn.kernels.cpu import steps, tiles

        dtype, layers = params.dtype, params.layers
        gathered, m, lanes = job.batch_size is not None, max(job.sizes), tiles.lanes(dtype)
        granule = max(1, lanes // 2) if gathered else lanes
        self.threads, units = _threads(params, m, lanes), sum(layers[1:])
        share = tiles.rounded_up(-(-m // self.threads), granule)
        portion = _portion(share, units, params.flat.size, dtype, lanes)
        ld = tiles.padded(portion, lanes)
        whole = ld if gathered else tiles.padded(m, lanes)
        self.arrays: dict[str, Array] = {}

        def zeros(name: str, *shape: int) -> Array:
            self.arrays[name] = _aligned(shape, dtype)
            return self.arrays[name]

        def filled(name: str, array: Array, stride: int) -> Array:
            rows, columns = array.shape
            zeros(name, rows + lanes, stride)[:rows, :columns] = array
            return self.arrays[name]

        X = job.X if space is None else space.G
        if gathered:
            self.arrays |= {"X": _flat(X.T), "Y": _flat(job.Y.T)}
            self.labels = zeros("labels", self.threads, layers[-1] + 1, ld)
            inputs = zeros("inputs", self.threads, layers[0] + lanes, ld)
        else:
            self.labels = filled("labels", job.Y, whole)
            inputs = filled("inputs", X, whole)
        A = zeros("A", self.threads, units + lanes, ld)
        dZ = zeros("dZ", self.threads, units + lanes, ld)
        self.layers = np.zeros(len(layers) - 1, steps.LAYER)
        table = layer_table(job.net, layers)
        dW_size = 0
        for l, (row, layer) in enumerate(zip(table, self.layers)):
            n, before, *_ = row
            for name, value in zip(("units", "inputs", "weights", "biases", "first_unit", "kind"), row):
                layer[name] = value
            stride = tiles.padded(before, lanes)
            last = l == len(self.layers) - 1
            layer["A"] = A[0, row[4]:].ctypes.data
            layer["dZ"] = (A if last else dZ)[0, row[4]:].ctypes.data
            layer["keep_prob"] = 1.0 if last else job.net.keep_prob[l]
            if l:
                layer["input"], layer["input_row"] = self.layers[l-1]["A"], A.strides[1]
                layer["input_copy"] = A.strides[0]
            else:
                layer["input"], layer["input_row"] = inputs.ctypes.data, inputs.strides[-2]
                layer["input_copy"] = inputs.strides[0] if gathered else 0
                layer["input_example"] = 0 if gathered else dtype.itemsize
            by_rows = gathered or (before >= WIDE and portion < MANY)
            if by_rows and not (l == 0 and space is not None):
                layer["by_rows"] = 1
                if l or gathered:
                    rows = zeros(f"rows{l}", self.threads, ld, stride)
                    layer["rows_copy"] = rows.strides[0]
                else:
                    rows = filled("rows", X.T, stride)
                    layer["rows_example"] = rows.strides[0]
                layer["rows"], layer["rows_row"] = rows.ctypes.data, rows.strides[-2]
            layer["dW"], layer["dW_row"] = dW_size, stride * dtype.itemsize
            dW_size += n * stride
        dW = zeros("dW", self.threads, tiles.padded(dW_size, lanes))
        self.layers["dW"] = self.layers["dW"] * dtype.itemsize + dW.ctypes.data
        db = zeros("db", self.threads, tiles.padded(units, 4 * lanes))
        work = zeros("work", self.threads, 2, ld)
        P0 = zeros("P0", 0, whole) if space is None else filled("P0", space.P0, whole)
        moments = zeros("moments", 2, params.flat.size if job.optimizer.moments else 0)
        counters = self.arrays["counters"] = _aligned((32,), np.dtype(np.int64))
        self.arrays["theta"] = params.flat
        address = {name: array.ctypes.data for name, array in self.arrays.items()}
        self.state = np.zeros(1, steps.state_type(dtype))
        beta1, beta2 = job.optimizer.betas
        values = {
            "lanes": lanes, "size": dtype.itemsize, "granule": granule,
            "optimizer": fused.OPTIMIZERS[job.optimizer.name],
            "in_sample_space": space is not None, "gathered": gathered,
            "dropout": min(job.net.keep_prob, default=1) < 1, "forward_only": forward_only,
            "portion": portion, "row": A.strides[1], "copy": A.strides[0], "outputs": layers[-1],
            "X": address.get("X", 0), "Y": address.get("Y", 0), "labels": address["labels"],
            "labels_row": self.labels.strides[-2], "labels_copy": self.labels.strides[0] if gathered else 0,
            "labels_example": 0 if gathered else dtype.itemsize, "P0": address["P0"],
            "units": units, "theta": address["theta"], "M": moments[0].ctypes.data, "V": moments[1].ctypes.data,
            "gradient": dW.strides[0], "db": address["db"], "db_row": db.strides[0], "work": address["work"],
            "counters": address["counters"], "beta1": beta1, "beta2": beta2,
        }
        for name, value in values.items():
            self.state[0][name] = value


    def set_masks(self, D: Array) -> None:
        self.arrays["D"] = D
        self.state[0]["D"] = D.ctypes.data


WIDE, MANY = 64, 512
CACHE, LINE = 2**18, 128


def _threads(params: Parameters, m: int, lanes: int) -> int:
    import os

    import numba

    if "SH" in os.environ:
        return int(os.environ["SH"][0])
    return int(numba.get_num_threads()) if 3 * m * params.flat.size > 200_000 else 1


def _portion(share: int, units: int, parameters: int, dtype: Any, lanes: int) -> int:
    import os

    if "PORTION" in os.environ:
        return min(share, int(os.environ["PORTION"]))
    most = max(CACHE // (2 * dtype.itemsize * units), 64)
    return min(most // lanes * lanes, 1024, share)


def _aligned(shape, dtype) -> Array:
    """Zeros that begin at the start of a cache line, as vectors then do too."""
    size, item = int(np.prod(shape)), np.dtype(dtype).itemsize
    memory = np.zeros(size + LINE // item, dtype)
    start = -memory.ctypes.data % LINE // item
    return memory[start : start + size].reshape(shape)


def _flat(array: Array) -> Array:
    """The elements in C order, contiguous and writable: compiled code knows no other arrays."""
    flat = np.ascontiguousarray(array).reshape(-1)
    return flat if flat.flags.writeable else flat.copy()


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
        s = State(job, job.params)
        arguments = s.state, s.layers, plan, sizes, order, 0.0, 0, 0, 1
        seconds = jit.prepare(jit.train(dtype), arguments, dtype)
        _loaded.add(dtype)
        return seconds


# ------------------------------------------------- what the trainings of one process have in common


class _Shared:
    """Locks, and the limit on BLAS, that trainings in several threads share."""

    def __init__(self) -> None:
        self.loading, self.running = threading.Lock(), threading.Lock()

    @functools.cached_property
    def pool(self):
        return ThreadPoolExecutor(64)


_shared = _Shared()


def _after_fork() -> None:
    """Start afresh in a child, in which no other thread exists."""
    global _shared
    _shared = _Shared()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def _train(*arguments: Any) -> float:
    """Take compiled steps, one training at a time, because each uses all cores already."""
    from accelnn.kernels import jit

    dtype, parts = arguments[0].arrays["theta"].dtype, arguments[0].threads
    train = jit.train(dtype)
    arguments = arguments[0].state, arguments[0].layers, *arguments[1:]
    with _shared.running:
        pool = _shared.pool
        others = [pool.submit(train, *arguments, part, parts) for part in range(1, parts)]
        return float(train(*arguments, 0, parts)) + sum(other.result() for other in others)
