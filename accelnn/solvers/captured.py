"""Gradient descent on a GPU as CUDA graphs: a step is captured once, and replayed for each batch.

What Python takes between two launches is gone, and so are most of the launches: cuBLASLt adds
biases and applies relu as part of its products, and the update of all parameters is one kernel.
What changes from step to step (learning rate, Adam's corrections, the batch's examples, dropout's
random numbers) the kernels of `kernels/gpu/step.cu` read from device memory, which is filled
for an epoch of mini-batches, or many epochs of full batches, at a time. A batch of another size,
as the last of an epoch may be, has a graph of its own.
"""

import functools
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np

from accelnn import batches
from accelnn.backend import Array, array_module, install_cupy
from accelnn.kernels.gpu import cublaslt, cuda
from accelnn.kernels.gpu.cublaslt import Product, Unsupported
from accelnn.network import Parameters
from accelnn.optimizers import Adam
from accelnn.solvers import precisions
from accelnn.solvers.direct import Direct
from accelnn.solvers.job import Job, Trainer

PLANNED = 1000  # epochs of full batches whose learning rates are sent at a time

# Threads of a block, along the units and the examples of a matrix; the most blocks of a kernel
# that leaves a number for each; the most that share the examples of a bias's gradient, and how
# many of these make one more worth while
UNITS, EXAMPLES = 32, 8
THREADS = UNITS * EXAMPLES
BLOCKS = 1024
SHARES, SHARE = 64, 128

_told: set[str] = set()  # the reasons that were warned of

Launch = Callable[[], object]


class Captured(Direct):
    """A training in captured steps.

    operands : the parameters as products read them: themselves, or their bfloat16
    plan : α and ε of each step that is planned; numbers : what step.cu calls `steps`
    losses : what the costs are summed from, a number for each block of threads
    """

    def __init__(self, job: Job) -> None:
        super().__init__(job)
        xp, dtype, layers = self.xp, self.params.dtype, self.params.layers
        self.precision = job.precision or str(dtype)
        rounded = self.precision == "bfloat16"
        self.options = ("-DBFLOAT16",) if rounded else ()
        self.compile_seconds = self._compile()

        whole = job.batch_size is None
        sizes = [job.examples] if whole else self.sizes
        self.batch_sizes = sizes
        self.most = max(sizes)
        self.operand_type = np.dtype(np.uint16) if rounded else dtype
        self.operands = self.params
        if rounded:
            flat = xp.empty(self.params.flat.shape, self.operand_type)
            self.operands = Parameters(flat, layers)
        self.A = [self._matrix(n) for n in layers[1:-1]]
        self.dZ = [self._matrix(n) for n in layers[1:]]
        self.results = xp.empty(self.most * max(map(_stride, layers[1:])) * rounded, dtype)
        self.workspaces = [xp.empty(cublaslt.WORKSPACE, np.uint8) for _ in range(2)]
        self.losses = xp.zeros(BLOCKS, np.float64)
        self.plan = xp.zeros((PLANNED if whole else len(sizes), 2), dtype)
        self.numbers = xp.zeros(3, np.int64)
        self.shares = xp.empty((SHARES, max(layers[1:])), dtype)
        self.tickets = xp.zeros(_parts(max(layers[1:]), UNITS), np.uint32)
        self.is_weight = self._is_weight()
        if whole:
            self.X, self.Y = self._as_operand(_dense(job.X)), job.Y
        else:
            X, Y = (batches.examples_first(array) for array in (job.X, job.Y))
            self.rows = self._as_operand(X), Y
            self.orders = batches.orders(job.examples, job.seed)
            self.order = xp.zeros(job.examples, np.int64)
            self.X, self.Y = self._matrix(layers[0]), xp.empty((self.most, layers[-1]), dtype).T
        self.graphs, self.kept = self._capture()

    def advance(self, rates: list[float], cost: Array | None) -> None:
        if cost is not None:
            self.losses.fill(0)
            self._run(rates[:1])
            cost[...] = self.losses.sum() / self.job.examples
            rates = rates[1:]
        at_once = PLANNED if self.job.batch_size is None else 1
        for start in range(0, len(rates), at_once):
            if self.job.interruption.requested:
                return
            self._run(rates[start : start + at_once])

    def _run(self, rates: list[float]) -> None:
        """An epoch for each rate, planned together: one, where there are mini-batches."""
        sizes = self.batch_sizes * len(rates)
        per_step = np.repeat(rates, len(self.batch_sizes))
        optimizer = self.job.optimizer
        plan = np.zeros((len(sizes), 2), self.params.dtype)
        plan[:, 0] = per_step
        if isinstance(optimizer, Adam):
            numbers = range(self.steps + 1, self.steps + 1 + len(sizes))
            plan[:] = [optimizer.corrected(*now) for now in zip(per_step, numbers, strict=True)]
        self._send(plan, self.plan)
        self._send(np.array([0, 0, self.steps]), self.numbers)
        if self.job.batch_size is not None:
            self._send(next(self.orders), self.order)
        for size in sizes:
            self.graphs[size].launch()
        self.steps += len(sizes)

    def _send(self, array: Array, there: Array) -> None:
        """Into device memory where the kernels look, by way of what CuPy allocates: its copies
        from the host are pinned, and nobody waits for them."""
        there[: len(array)] = self.xp.asarray(array)

    # ---------------------------------------------------------------------------- setting up

    def _compile(self) -> float:
        """The seconds until the kernels are loaded, compiled where that was never done."""
        start = time.perf_counter()
        cuda.kernel("step.cu", "begin_step", self.params.dtype, *self.options)
        return time.perf_counter() - start

    def _capture(self) -> tuple[dict[int, Any], list["Step"]]:
        """The graph of a step for each batch size, and the steps: they hold what graphs only know
        the addresses of."""
        stream = self.xp.cuda.Stream
        current = self.xp.cuda.get_current_stream()
        main, side = stream(non_blocking=True), stream(non_blocking=True)
        graphs, steps = {}, [Step(self, size) for size in sorted(set(self.batch_sizes))]
        state = [self.params.flat, *self.moments]
        before = [array.copy() for array in state]
        main.wait_event(current.record())
        try:
            with main:
                for step in steps:
                    step.enqueue(main, side)  # on trial: CUDA loads much only at its first use
                    graphs[step.m] = _captured(step, main, side)
        finally:
            current.wait_event(main.record())
            for array, as_it_was in zip(state, before, strict=True):
                array[...] = as_it_was
        if self.operands is not self.params:
            self._to_operands(self.params.flat, self.operands.flat)
        return graphs, steps

    def kernel(
        self,
        name: str,
        blocks: tuple[int, ...],
        threads: tuple[int, ...],
        *arguments: Any,
        shared: int = 0,
    ) -> Launch:
        """A launch of a kernel of step.cu, to be made on the current stream whenever called.

        Python's integers become long long, and floats of the parameters' type; int is given as
        numpy.int32.
        """
        kinds: dict[type, Any] = {int: np.int64, float: self.params.dtype.type}
        arguments = tuple(
            kinds[type(value)](value) if type(value) in kinds else value for value in arguments
        )
        function = cuda.kernel("step.cu", name, self.params.dtype, *self.options)
        return functools.partial(function, blocks, threads, arguments, shared_mem=shared)

    def real(self, array: Array) -> Array:
        """Where a product may write what is to become `array`: the same, unless that is bfloat16
        and its own floats are still needed."""
        if array.dtype == self.params.dtype:
            return array
        n, m = array.shape
        return self.results[: m * _stride(n)].reshape(m, _stride(n))[:, :n].T

    def _matrix(self, n: int) -> Array:
        """(n, most) for products to read and write, a column's elements side by side."""
        return self.xp.empty((self.most, _stride(n)), self.operand_type)[:, :n].T

    def _as_operand(self, array: Array) -> Array:
        """A dense array as products read it."""
        if self.operands is self.params:
            return array
        operand = self.xp.empty_like(array, self.operand_type)
        self._to_operands(array, operand)
        return operand

    def _to_operands(self, array: Array, operands: Array) -> None:
        self.kernel("to_operands", *_row(array.size), array, operands, array.size)()

    def _is_weight(self) -> Array:
        """1 for each W of the flat parameters and 0 for each b, where L2 has to know."""
        if not self.job.net.l2:
            return self.xp.zeros(1, np.uint8)
        flat = np.zeros(self.params.flat.shape, np.uint8)
        for W, _ in Parameters(flat, self.params.layers):
            W[...] = 1
        return self.xp.asarray(flat)


class Step:
    """A step on m examples, on arrays that stay where they are.

    forward : launches, from the beginning to dZ of the last layer
    backward : for each layer from the last on, those that lead from its dZ to its dW, to its db,
        and to dZ of the layer before
    update : the last launch
    """

    def __init__(self, training: Captured, m: int) -> None:
        self.training, self.m = training, m
        self.net, self.layers = training.job.net, training.params.layers
        self.A, self.dZ = (
            [array[:, :m] for array in arrays] for arrays in (training.A, training.dZ)
        )
        self.X, self.Y = training.X[:, :m], training.Y[:, :m]
        self.forward: list[Launch] = [self._begin()]
        backward: list[tuple[Launch, Launch, list[Launch]]] = []
        for l in range(len(self.layers) - 1):
            launches, before = self._hidden(l - 1) if l else ([], [])
            self.forward += launches
            backward.append((self._weight_gradient(l), self._bias_gradient(l), before))
        self.forward += self._output()
        self.backward = backward[::-1]
        self.update = self._update()

    def enqueue(self, main: Any, side: Any) -> None:
        """On the stream `main`, which is the current one, and on `side` what nobody waits for
        before the update."""

        def follows(stream: Any, other: Any) -> None:
            stream.wait_event(other.record(self.training.xp.cuda.Event(disable_timing=True)))

        for launch in self.forward:
            launch()
        for weight_gradient, bias_gradient, before in self.backward:
            follows(side, main)
            with side:
                bias_gradient()
                if before:
                    weight_gradient()
            for launch in before or [weight_gradient]:
                launch()
        follows(main, side)
        self.update()

    def _begin(self) -> Launch:
        """The batch gathered; the whole data is there."""
        t = self.training
        if t.job.batch_size is None:
            return t.kernel("begin_step", (1,), (1,), t.numbers)
        n, outputs = self.layers[0], self.layers[-1]
        return t.kernel(
            "gather",
            *_grid(_parts(max(n, outputs), 4), self.m),  # it moves several numbers at a time
            *t.rows,
            t.order,
            t.numbers,
            t.job.batch_size,
            n,
            outputs,
            self.m,
            self.X,
            _stride(n),
            self.Y,
        )

    def _hidden(self, l: int) -> tuple[list[Launch], list[Launch]]:
        """The launches from A[l-1] to A[l], and from dZ[l+1] back to dZ[l]."""
        t, kind, keep = self.training, self.net.hidden[l], float(self.net.keep_prob[l])
        if kind == "relu" and keep == 1:
            with suppress(Unsupported):
                return self._relu(l)
        b, n = t.params[l][1], self.layers[l + 1]
        Z, dA = t.real(self.A[l]), t.real(self.dZ[l])
        dropout = np.int32(l), keep, np.uint64(t.job.seed % 2**64), t.numbers
        sizes = n, self.m, _stride(n), cuda.KIND[kind], *dropout
        grid = _grid(n, self.m)
        return (
            [
                self._product(l, Z),
                t.kernel("activation", *grid, Z, b, self.A[l], *sizes),
            ],
            [
                self._product_back(l, dA),
                t.kernel("activation_gradient", *grid, dA, self.A[l], self.dZ[l], *sizes),
            ],
        )

    def _relu(self, l: int) -> tuple[list[Launch], list[Launch]]:
        """The same where relu is part of the products. Raises Unsupported where it cannot be.

        Such a relu takes NaN to 0. Divergence is still detected, because the parameters are NaN.
        """
        if self.layers[l + 2] == 1:
            raise Unsupported("cuBLASLt has no derivative of relu for products of vectors")
        mask = cublaslt.relu_mask(self.training.xp, self.layers[l + 1], self.m)
        bias = self.training.operands[l][1]
        return (
            [self._product(l, self.A[l], bias=bias, mask=mask)],
            [self._product_back(l, self.dZ[l], mask=mask)],
        )

    def _product(self, l: int, out: Array, **epilogue: Array) -> Product:
        """W[l] A[l-1]"""
        t = self.training
        A = self.A[l - 1] if l else self.X
        return Product(t.operands[l][0], A, out, t.precision, t.workspaces[0], **epilogue)

    def _product_back(self, l: int, out: Array, **epilogue: Array) -> Product:
        """W[l+1]ᵀ dZ[l+1]"""
        t = self.training
        W, dZ = t.operands[l + 1][0], self.dZ[l + 1]
        return Product(W.T, dZ, out, t.precision, t.workspaces[0], **epilogue)

    def _weight_gradient(self, l: int) -> Product:
        """dW[l] = dZ[l] A[l-1]ᵀ"""
        t = self.training
        A = self.A[l - 1] if l else self.X
        # All but the first layer's run beside the other products.
        return Product(self.dZ[l], A.T, t.gradients[l][0], t.precision, t.workspaces[min(l, 1)])

    def _bias_gradient(self, l: int) -> Launch:
        t, n = self.training, self.layers[l + 1]
        blocks = _parts(n, UNITS), min(_parts(self.m, SHARE), SHARES)
        return t.kernel(
            "bias_gradient",
            blocks,
            (UNITS, EXAMPLES),
            self.dZ[l],
            t.gradients[l][1],
            n,
            self.m,
            _stride(n),
            t.shares,
            t.tickets,
            shared=THREADS * t.params.dtype.itemsize,
        )

    def _output(self) -> list[Launch]:
        """The launches from A of the last hidden layer to dZ of the output, and the loss."""
        t, l, n = self.training, len(self.layers) - 2, self.layers[-1]
        Z = t.real(self.dZ[l])
        lanes = 1 << min(n - 1, 31).bit_length()  # the power of two from n on, at most 32
        unit, example = (stride // self.Y.itemsize for stride in self.Y.strides)
        return [
            self._product(l, Z),
            t.kernel(
                "output_gradient",
                *_row(self.m * lanes),
                Z,
                t.params[l][1],
                self.Y,
                unit,
                example,
                self.dZ[l],
                n,
                self.m,
                _stride(n),
                cuda.KIND[self.net.output],
                t.job.optimizer.scale(1.0) / self.m,
                np.int32(lanes),
                t.losses,
                shared=THREADS // 32 * t.params.dtype.itemsize,
            ),
        ]

    def _update(self) -> Launch:
        t, optimizer, l2 = self.training, self.training.job.optimizer, float(self.net.l2)
        name = "update" if optimizer.name == "sgd" else f"{optimizer.name}_update"
        count = t.params.flat.size
        return t.kernel(
            name,
            *_row(count),
            t.params.flat,
            t.gradients.flat,
            count,
            optimizer.scale(1.0) / self.m * l2,
            l2 / 2,
            t.is_weight,
            t.operands.flat,
            t.losses,
            t.plan,
            t.numbers,
            *map(float, optimizer.betas[: optimizer.moments]),
            *t.moments,
            shared=THREADS // 32 * t.params.dtype.itemsize,
        )


class Uncaptured(Direct):
    """The training of a job whose steps could not be captured, because of `reason`."""

    def __init__(self, job: Job, reason: str) -> None:
        super().__init__(job)
        self.reason = reason


def why_not() -> str | None:
    """Why steps cannot be captured here at all, and what to do about it, or None."""
    import cupy

    if not hasattr(cupy, "RawModule"):
        return "this CuPy compiles no kernels: it has no RawModule"
    reason = cublaslt.why_not()
    return reason and f"{reason}: {install_cupy()}"


def start(job: Job) -> Trainer:
    """A training in captured steps; where they cannot be captured in uncaptured ones, and a
    warning says why, once for each reason.

    Raises ValueError where only captured steps have the job's precision.
    """
    reason = why_not()
    if reason is None:
        try:
            return Captured(job)
        except MemoryError:
            raise
        except Exception as error:  # of CUDA, cuBLASLt, CuPy or the compiler
            reason = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    if precisions.why_not(job.precision) is not None:
        raise ValueError(f"precision={job.precision!r} needs captured steps: {reason}")
    if reason not in _told:
        _told.add(reason)
        warnings.warn(
            f"steps are not captured as CUDA graphs, and take longer: {reason}",
            RuntimeWarning,
            stacklevel=2,
        )
    return Uncaptured(job, reason)


def _captured(step: Step, main: Any, side: Any) -> Any:
    """The graph of a step."""
    main.begin_capture()
    try:
        step.enqueue(main, side)
    except BaseException:
        with suppress(Exception):  # what CUDA says of a broken capture tells less
            main.end_capture()
        raise
    return main.end_capture()


def _stride(n: int) -> int:
    """Elements from one column of (n, m) to the next: whole 16 bytes, as tensor cores need."""
    return -(-n // 8) * 8


def _parts(count: int, size: int) -> int:
    """How many parts of this size there are, the last one perhaps short."""
    return -(-count // size)


def _grid(n: int, m: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Blocks and threads for the elements of an (n, m) matrix."""
    return (_parts(n, UNITS), min(_parts(m, EXAMPLES), BLOCKS)), (UNITS, EXAMPLES)


def _row(count: int) -> tuple[tuple[int], tuple[int]]:
    """Blocks and threads for as many numbers in a row."""
    return (min(_parts(count, THREADS), BLOCKS),), (THREADS,)


def _dense(array: Array) -> Array:
    """The array, or a copy of it, without gaps in memory."""
    flags = array.flags
    if flags.c_contiguous or flags.f_contiguous:
        return array
    return array_module(array).ascontiguousarray(array)
