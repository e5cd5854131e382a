"""Gradient descent on a GPU as CUDA graphs: a step is captured once, and replayed for each batch.

That saves Python's time between two launches, and most launches: products add biases and apply
relu, and one kernel updates all parameters. Values that change from step to step are sent to device
memory for an epoch of mini-batches, or many epochs of full batches, at a time.
"""

import functools
import time
import warnings
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from accelnn import batches
from accelnn.backend import Array, install_cupy
from accelnn.kernels.gpu import cublaslt, cuda
from accelnn.kernels.gpu.cublaslt import Product, Unsupported
from accelnn.network import layer_views
from accelnn.solvers.direct import Direct
from accelnn.solvers.job import Job, Trainer

PLANNED = 1000  # epochs of full batches whose learning rates are sent at a time

UNITS, EXAMPLES = 32, 8  # threads of a block, along the units and the examples of a matrix
THREADS = UNITS * EXAMPLES
BLOCKS = 1024  # the most of a kernel that leaves a number for each
# The most blocks that share the examples of a bias gradient, and the examples that justify one
SHARES, SHARE = 64, 128

_warned: set[str] = set()  # the reasons for steps that are not captured

Launch = Callable[[], object]


class Captured(Trainer):
    """A training in captured steps.

    rounded : whether products read bfloat16
    operands : the flat parameters as products read them: themselves, or a copy in bfloat16
    factors : W and b of each layer in them
    plan : α and ε of each planned step
    numbers : `steps` of step.cu
    losses : the sum of the costs, in a part for each block of threads
    is_weight : 1 for each element of a W, 0 for each of a b
    """

    by_kernels = True

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        xp, dtype, layers = self.xp, self.params.dtype, self.params.layers
        self.precision = job.precision or str(dtype)
        self.rounded = self.precision == "bfloat16"
        start = time.perf_counter()
        self.kernel("begin_step", 1, 1)
        self.compile_seconds = time.perf_counter() - start
        whole, self.sizes, self.most = job.batch_size is None, job.sizes, max(job.sizes)
        self.operands = self._as_operand(self.params.flat)
        self.factors = layer_views(self.operands, layers)
        self.A = [self._matrix(n) for n in layers[1:-1]]
        self.dZ = [self._matrix(n) for n in layers[1:]]
        self.results = xp.empty(self.most * max(map(_stride, layers[1:])) * self.rounded, dtype)
        self.workspaces = [xp.empty(cublaslt.WORKSPACE, np.uint8) for _ in range(2)]
        self.losses = xp.zeros(BLOCKS, np.float64)
        self.plan = xp.zeros((PLANNED if whole else len(self.sizes), 2), dtype)
        self.numbers = xp.zeros(3, np.int64)
        self.shares = xp.empty((SHARES, max(layers[1:])), dtype)
        self.tickets = xp.zeros(_parts(max(layers[1:]), UNITS), np.uint32)
        ones = [np.repeat(np.array([1, 0], np.uint8), [W.size, b.size]) for W, b in self.params]
        self.is_weight = xp.asarray(np.concatenate(ones))
        if whole:
            dense = job.X.flags.c_contiguous or job.X.flags.f_contiguous
            self.X = self._as_operand(job.X if dense else xp.ascontiguousarray(job.X))
            self.Y = job.Y
        else:
            X, Y = (batches.examples_first(array) for array in (job.X, job.Y))
            self.rows = self._as_operand(X), Y
            self.orders = job.orders()
            self.order = xp.zeros(job.examples, np.int64)
            self.X, self.Y = self._matrix(layers[0]), xp.empty((self.most, layers[-1]), dtype).T
        self.graphs, self.captured = self._capture()

    @classmethod
    def start(cls, job: Job) -> Trainer:
        """Captured steps; if that fails, vectorised ones and a warning, once for each reason.

        Raises ValueError if only captured steps have the job's precision.
        """
        reason = why_not()
        if reason is None:
            try:
                return cls(job)
            except MemoryError:
                raise
            except Exception as error:  # of CUDA, cuBLASLt, CuPy or the compiler
                reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
        if job.precision == "bfloat16":
            raise ValueError(f"precision={job.precision!r} needs captured steps: {reason}")
        if reason not in _warned:
            _warned.add(reason)
            message = f"steps are not captured as CUDA graphs, and take longer: {reason}"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        trainer = Direct(job)
        trainer.not_captured = reason
        return trainer

    def advance(self, rates: list[float], cost: Array | None) -> None:
        if cost is not None:
            self.losses.fill(0)
            self._run(rates[:1])
            cost[...] = self.losses.sum() / self.job.examples
            rates = rates[1:]
        at_once = PLANNED if self.job.batch_size is None else 1
        for start in range(0, len(rates), at_once):
            if self.job.halted:
                return
            self._run(rates[start : start + at_once])

    def _run(self, rates: list[float]) -> None:
        """An epoch for each rate, planned together; with mini-batches a single one."""
        plan = self.corrected(np.repeat(rates, len(self.sizes)))
        # Uploads from pinned memory, which do not wait
        self.plan[: len(plan)] = self.xp.asarray(plan.astype(self.params.dtype))
        self.numbers[...] = self.xp.asarray(np.array([0, 0, self.steps]))
        if self.job.batch_size is not None:
            self.order[...] = self.xp.asarray(next(self.orders))
        for size in self.sizes * len(rates):
            self.graphs[size].launch()
        self.steps += len(plan)

    def _capture(self) -> tuple[dict[int, Any], list["Step"]]:
        """The graph of a step for each batch size, and the steps, which keep its arrays alive."""
        stream, current = self.xp.cuda.Stream, self.xp.cuda.get_current_stream()
        main, side = stream(non_blocking=True), stream(non_blocking=True)
        steps = [Step(self, size) for size in sorted(set(self.sizes))]
        graphs, state = {}, [self.params.flat, *[self.operands] * self.rounded, *self.moments]
        before = [array.copy() for array in state]
        main.wait_event(current.record())
        try:
            with main:
                for step in steps:
                    self.numbers.fill(0)  # a step counts on, and would gather the next batch
                    step.enqueue(main, side)  # a trial: CUDA loads much only at its first use
                    graphs[step.m] = step.capture(main, side)
        finally:
            current.wait_event(main.record())
            for array, original in zip(state, before, strict=True):
                array[...] = original
        return graphs, steps

    def kernel(self, name: str, blocks: Any, threads: Any, *given: Any, shared: int = 0) -> Launch:
        """A launch of a kernel of step.cu, on the stream that is current when it is called.

        Python's integers become long long, and its floats the parameters' type, of which the
        kernel has `shared` numbers in shared memory; int is given as numpy.int32.
        """
        dtype = self.params.dtype
        function = cuda.kernel("step.cu", name, dtype, *["-DBFLOAT16"] * self.rounded)
        kinds: dict[type, Any] = {int: np.int64, float: dtype.type}
        arguments = tuple(kinds.get(type(value), lambda same: same)(value) for value in given)
        size = shared * dtype.itemsize
        return functools.partial(function, blocks, threads, arguments, shared_mem=size)

    def real(self, array: Array) -> Array:
        """The array that a product writes for `array`: itself, or floats if it is bfloat16."""
        if array.dtype == self.params.dtype:
            return array
        n, m = array.shape
        return self.results[: m * _stride(n)].reshape(m, _stride(n))[:, :n].T

    def _matrix(self, n: int) -> Array:
        """(n, most) with contiguous columns, for products to read and write."""
        dtype = np.uint16 if self.rounded else self.params.dtype
        return self.xp.empty((self.most, _stride(n)), dtype)[:, :n].T

    def _as_operand(self, array: Array) -> Array:
        """A dense array as products read it."""
        if not self.rounded:
            return array
        operand = self.xp.empty_like(array, np.uint16)
        self.kernel("to_operands", *_row(array.size), array, operand, array.size)()
        return operand


class Step:
    """The launches of a step on m examples, on arrays that do not move.

    Layer l = 0, 1, ... has W[l], the input A[l], which is X for the first, and dZ[l].

    forward : from the beginning to dZ of the last layer
    backward : for each layer, the last first, from its dZ to its dW, its db, and dZ before it
    update : the last one
    """

    def __init__(self, training: Captured, m: int) -> None:
        # Not in a cycle with it, which would keep the device's memory for longer
        self.training: Captured = weakref.proxy(training)
        self.m = m
        self.net, self.layers = training.job.net, training.params.layers
        self.A = [array[:, :m] for array in (training.X, *training.A)]
        self.dZ = [array[:, :m] for array in training.dZ]
        self.Y = training.Y[:, :m]
        first, other = training.workspaces
        self._product = functools.partial(Product, precision=training.precision, workspace=first)
        last = len(self.layers) - 2
        self.forward: list[Launch] = [self._begin()]
        before: list[list[Launch]] = [[]]
        for l in range(last):
            forward, backward = self._hidden(l)
            self.forward += forward
            before.append(backward)
        self.forward += self._output()
        self.backward: list[tuple[Launch, Launch, list[Launch]]] = []
        for l in range(last, -1, -1):
            # All but the first layer's weight gradients run at the same time as other products.
            arrays = self.dZ[l], self.A[l].T, training.gradients[l][0]
            weight_gradient = self._product(*arrays, workspace=other if l else first)
            self.backward.append((weight_gradient, self._bias_gradient(l), before[l]))
        self.update = self._update()

    def enqueue(self, main: Any, side: Any) -> None:
        """Launch on `main`, the current stream, and work that only the update needs on `side`."""
        import cupy

        def follow(stream: Any, other: Any) -> None:
            stream.wait_event(other.record(cupy.cuda.Event(disable_timing=True)))

        for launch in self.forward:
            launch()
        for weight_gradient, bias_gradient, before in self.backward:
            follow(side, main)
            with side:
                bias_gradient()
                if before:
                    weight_gradient()
            for launch in before or [weight_gradient]:
                launch()
        follow(main, side)
        self.update()

    def capture(self, main: Any, side: Any) -> Any:
        """The graph of these launches."""
        main.begin_capture()
        try:
            self.enqueue(main, side)
        except BaseException:
            with suppress(Exception):  # CUDA's own error about a broken capture says less
                main.end_capture()
            raise
        return main.end_capture()

    def _begin(self) -> Launch:
        """Gather the batch; a full batch needs no gathering."""
        t, m, n, outputs = self.training, self.m, self.layers[0], self.layers[-1]
        if t.job.batch_size is None:
            return t.kernel("begin_step", (1,), (1,), t.numbers)
        grid = _grid(_parts(max(n, outputs), 4), m)  # a thread moves several numbers at a time
        batch = *t.rows, t.order, t.numbers, t.job.batch_size
        return t.kernel("gather", *grid, *batch, n, outputs, m, self.A[0], _stride(n), self.Y)

    def _hidden(self, l: int) -> tuple[list[Launch], list[Launch]]:
        """The launches from A[l] to A[l+1], and from dZ[l+1] back to dZ[l]."""
        t, n = self.training, self.layers[l + 1]
        kind, keep = self.net.hidden[l], float(self.net.keep_prob[l])
        (W, bias), W_next, A, dZ = t.factors[l], t.factors[l + 1][0], self.A[l + 1], self.dZ[l]
        # cuBLASLt has no derivative of relu for products of vectors.
        if kind == "relu" and keep == 1 and self.layers[l + 2] > 1:
            # It takes NaN to 0; divergence is still detected, because the parameters are NaN.
            mask = cublaslt.relu_mask(t.xp, n, self.m)
            with suppress(Unsupported):
                return (
                    [self._product(W, self.A[l], A, bias=bias, mask=mask)],
                    [self._product(W_next.T, self.dZ[l + 1], dZ, mask=mask)],
                )
        Z, dA = t.real(A), t.real(dZ)
        dropout = np.int32(l), keep, np.uint64(t.job.seed % 2**64), t.numbers
        last = n, self.m, _stride(n), cuda.KIND[kind], *dropout
        activation = t.kernel("activation", *_grid(n, self.m), Z, t.params[l][1], A, *last)
        gradient = t.kernel("activation_gradient", *_grid(n, self.m), dA, A, dZ, *last)
        return (
            [self._product(W, self.A[l], Z), activation],
            [self._product(W_next.T, self.dZ[l + 1], dA), gradient],
        )

    def _bias_gradient(self, l: int) -> Launch:
        t, n, m = self.training, self.layers[l + 1], self.m
        blocks = _parts(n, UNITS), min(_parts(m, SHARE), SHARES)
        arguments = self.dZ[l], t.gradients[l][1], n, m, _stride(n), t.shares, t.tickets
        return t.kernel("bias_gradient", blocks, (UNITS, EXAMPLES), *arguments, shared=THREADS)

    def _output(self) -> list[Launch]:
        """The launches from the last hidden layer to the output's dZ, and the loss."""
        t, m, n, dZ = self.training, self.m, self.layers[-1], self.dZ[-1]
        (W, _), (_, b) = t.factors[-1], t.params[-1]
        Z, scale = t.real(dZ), t.job.optimizer.scale(1.0) / m
        lanes = 1 << min(n - 1, 31).bit_length()  # the power of two from n on, at most 32
        Y = self.Y, *(stride // self.Y.itemsize for stride in self.Y.strides)
        last = cuda.KIND[self.net.output], scale, np.int32(lanes), t.losses
        arguments = Z, b, *Y, dZ, n, m, _stride(n), *last
        gradient = t.kernel("output_gradient", *_row(m * lanes), *arguments, shared=THREADS // 32)
        return [self._product(W, self.A[-1], Z), gradient]

    def _update(self) -> Launch:
        t, optimizer, l2 = self.training, self.training.job.optimizer, float(self.net.l2)
        theta, count = t.params.flat, t.params.flat.size
        decay = optimizer.scale(1.0) / self.m * l2, l2 / 2, t.is_weight
        moments = (*t.moments, theta, theta)[:2]  # any arrays if the optimizer has none
        last = t.operands, t.losses, t.plan, t.numbers, *map(float, optimizer.betas), *moments
        arguments = theta, t.gradients.flat, count, *decay, *last
        name = f"{optimizer.name}_update"
        return t.kernel(name, *_row(count), *arguments, shared=THREADS // 32)


def why_not() -> str | None:
    """Why this machine can capture no steps, and the remedy, or None."""
    import cupy

    if not hasattr(cupy, "RawModule"):
        return "this CuPy compiles no kernels: it has no RawModule"
    reason = cublaslt.why_not()
    return reason and f"{reason}: {install_cupy()}"


def _stride(n: int) -> int:
    """Elements from one column of (n, m) to the next: whole 16 bytes, as tensor cores need."""
    return 8 * _parts(n, 8)


def _parts(count: int, size: int) -> int:
    """How many parts of this size there are; the last may be short."""
    return -(-count // size)


def _grid(n: int, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Blocks and threads for the elements of an (n, m) matrix."""
    return (_parts(n, UNITS), min(_parts(m, EXAMPLES), BLOCKS)), (UNITS, EXAMPLES)


def _row(count: int) -> tuple[tuple[int], tuple[int]]:
    """Blocks and threads for `count` numbers in a row."""
    return (min(_parts(count, THREADS), BLOCKS),), (THREADS,)
