"""The GPU: the sources beside this file, compiled at run time by CuPy, and the operations and
random numbers that they give to CuPy arrays.

Every operation is one launch. Nothing here waits for the device, and scalars are passed by value.
Arrays of one operation that are not as its kernel needs them (of one dtype, float32 or float64, and
C-contiguous), and activations without a kernel, go to the vectorised form.
"""

import functools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from accelnn.operations import VECTORISED, Operations

from ..loops import HIDDEN_KINDS, KINDS, OUTPUT_KINDS

Array = Any  # a cupy.ndarray
Kernel = Any  # a cupy.RawKernel

REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
KIND = {name: np.int32(kind) for name, kind in KINDS.items()}
NONE = np.uintp(0)  # for a pointer
MOST = 2**30  # rows or columns that a kernel counts
WARP = 32
THREADS = 256  # of a block, mostly
BLOCKS = 8  # of these, as many as a multiprocessor runs at once
PACK = 16  # bytes that an access moves
MOST_SHARED = 48 * 1024  # bytes of shared memory that a block has without asking for more

# --------------------------------------------------------------------------------------------
# sources and their kernels


@functools.cache
def source(name: str) -> str:
    """The text of kernels/<name>, ready to be compiled."""
    return with_common(Path(__file__).with_name(name).read_text(encoding="utf-8"), name)


def with_common(code: str, name: str = "kernel.cu") -> str:
    """`code` with common.cuh in place of its `#include`, or before it where it has none.

    CuPy keeps what it compiled by its text, so that must be all there is.
    """
    common = Path(__file__).with_name("common.cuh").read_text(encoding="utf-8")
    before, include, after = code.partition('#include "common.cuh"\n')
    if not include:
        before, after = "", code
    line = before.count("\n") + 1 + bool(include)
    return f'{before}#line 1 "common.cuh"\n{common}#line {line} "{name}"\n{after}'


def kernel(
    name: str,
    function: str,
    dtype: Any,
    *options: str,
    cooperative: bool = False,
    shared: int = 0,
) -> Kernel:
    """`function` of kernels/<name> for arrays of this dtype on the current device.

    options : more of the compiler's, for instance "-DBFLOAT16"
    cooperative : all blocks of a launch run at once, or the launch fails
    shared : bytes of shared memory that a launch may ask for; 48 KB are there without asking
    """
    import cupy

    device = cupy.cuda.runtime.getDevice()
    more = shared > MOST_SHARED
    return _kernel(cupy, device, name, function, np.dtype(dtype), options, cooperative, more)


@functools.cache
def _kernel(
    cupy: Any,
    device: int,
    name: str,
    function: str,
    dtype: Any,
    options: tuple[str, ...],
    cooperative: bool,
    more: bool,
) -> Kernel:
    module = _module(cupy, device, name, dtype, options, cooperative)
    found = module.get_function(function)
    if more:  # a limit, which costs nothing where less is asked for; all forms of a kernel share it
        attributes = cupy.cuda.Device(device).attributes
        found.max_dynamic_shared_size_bytes = attributes["MaxSharedMemoryPerBlockOptin"]
    return found


@functools.cache
def _module(
    cupy: Any,
    device: int,  # noqa: ARG001
    name: str,
    dtype: Any,
    options: tuple[str, ...],
    cooperative: bool,
) -> Any:
    return cupy.RawModule(
        code=source(name),
        options=("-std=c++17", f"-DREAL={REAL[dtype]}", *options),
        enable_cooperative_groups=cooperative,
    )


# --------------------------------------------------------------------------------------------
# launches: how many blocks of how many threads


class Plan(NamedTuple):
    """A launch.

    shared : bytes of shared memory a block
    partial : numbers that the blocks leave for the one of them that comes last
    counters : of those that have come
    """

    grid: tuple[int, ...]
    block: tuple[int, ...]
    shared: int = 0
    partial: int = 0
    counters: int = 0


def rows_plan(n: int, m: int, itemsize: int, multiprocessors: int) -> Plan:
    """For bias_activation on (n, m): threads along x go along a row, each along y has its own."""
    across, x, y = _rows_block(n, m, itemsize, multiprocessors)
    most = 4 * BLOCKS * multiprocessors
    across = min(-(-across // x), most)
    return Plan((across, min(-(-n // y), max(most // across, 1))), (x, y))


def row_sums_plan(n: int, m: int, itemsize: int, multiprocessors: int) -> Plan:
    """For activation_gradient on (n, m): as above, but several blocks share a row only where there
    are too few rows otherwise, for then the sums of the blocks have to be added up."""
    across, x, y = _rows_block(n, m, itemsize, multiprocessors)
    groups = -(-n // y)
    across = max(min(across // (4 * x), -(-2 * multiprocessors // groups)), 1)
    shared = THREADS // WARP * itemsize
    grid = (across, min(groups, 4 * BLOCKS * multiprocessors))
    return Plan(grid, (x, y), shared, *((n * across, groups) if across > 1 else ()))


def _rows_block(n: int, m: int, itemsize: int, multiprocessors: int) -> tuple[int, int, int]:
    """Accesses that a row takes, and threads of a block along the rows and across them.

    A row gets a warp, and more where it is long, or where the rows alone would not keep the
    multiprocessors busy.
    """
    pack = PACK // itemsize
    accesses = m // pack if m % pack == 0 else m
    x = WARP
    while x < min(THREADS, accesses) and (accesses > 4 * x or n * x < THREADS * multiprocessors):
        x *= 2
    return accesses, x, THREADS // x


def columns_plan(n: int, m: int, itemsize: int, multiprocessors: int) -> Plan:
    """For output_gradient on (n, m): threads along x have a column each, those along y share it.

    A column is shared where there are few of them, and where they are tall: what the columns in
    work on a multiprocessor take is read three times, and should stay in its first-level cache.
    Small outputs are left to one block, which saves the adding up.
    """
    most = 4096 // itemsize  # threads of a block, as the kernel says
    small = n * m <= 8192
    x = min(-(-m // WARP) * WARP, most) if small else WARP
    shares = max(1024 * multiprocessors / m, n * itemsize / 160)
    y = 1
    while y < min(n, shares) and 2 * x * y <= most:
        y *= 2
    if small:
        blocks = 1
    else:
        x = max(THREADS // y, WARP)
        blocks = min(-(-m // x), multiprocessors * max(1024 // (x * y), 2))
    shared = (n * (x // WARP) + x * y) * itemsize
    return Plan((blocks,), (x, y), shared, *(((n + 1) * blocks, 1) if blocks > 1 else ()))


def flat_plan(n: int, m: int, itemsize: int, multiprocessors: int) -> Plan:
    """For what is done number by number, of n · m of them."""
    blocks = -(-n * m * itemsize // (PACK * THREADS))
    return Plan((min(blocks, 16 * BLOCKS * multiprocessors),), (THREADS,))


PLANS = {
    "bias_activation": rows_plan,
    "activation_gradient": row_sums_plan,
    "output_gradient": columns_plan,
    "update": flat_plan,
    "momentum_update": flat_plan,
    "adam_update": flat_plan,
    "draw_mask": flat_plan,
}


def _planned(function: str, dtype: Any, n: int, m: int) -> tuple[Kernel, Plan]:
    """The kernel of operations.cu and its launch for (n, m) on the current device."""
    import cupy

    return _planned_on(cupy, cupy.cuda.runtime.getDevice(), function, dtype, n, m)


@functools.lru_cache(4096)
def _planned_on(
    cupy: Any, device: int, function: str, dtype: Any, n: int, m: int
) -> tuple[Kernel, Plan]:
    multiprocessors = cupy.cuda.Device(device).attributes["MultiProcessorCount"]
    plan = PLANS[function](n, m, dtype.itemsize, multiprocessors)
    return kernel("operations.cu", function, dtype), plan


def _scratch(plan: Plan, dtype: Any) -> tuple[Array, Array]:
    """Where the blocks of a launch leave their sums, and the counter of those that have come."""
    if not plan.counters:
        return NONE, NONE
    import cupy

    stream = cupy.cuda.get_current_stream().ptr
    kept = _kept(cupy, cupy.cuda.runtime.getDevice(), stream, dtype)
    partial, counters = (array.size for array in kept[-1]) if kept else (0, 0)
    if partial < plan.partial or counters < plan.counters:
        partial, counters = max(partial, 2 * plan.partial), max(counters, 2 * plan.counters)
        kept.append((cupy.empty(partial, dtype), cupy.zeros(counters, np.uint32)))
    return kept[-1]


@functools.cache
def _kept(cupy: Any, device: int, stream: int, dtype: Any) -> list[tuple[Array, Array]]:  # noqa: ARG001
    """Scratch memory of a stream, whose launches follow one another. What became too small is kept
    as well: captured launches still use it."""
    return []


# --------------------------------------------------------------------------------------------
# the operations


def _fit(*operands: tuple[Array | None, tuple[int, ...]]) -> bool:
    """Whether each array is C-contiguous, of this shape and the first one's dtype; or None."""
    dtype = operands[0][0].dtype  # type: ignore[union-attr]
    return dtype in REAL and all(
        array is None
        or (array.shape == shape and array.dtype == dtype and array.flags.c_contiguous)
        for array, shape in operands
    )


def _sized(n: int, m: int) -> bool:
    """Whether a kernel can count rows and columns by int."""
    return 0 < n < MOST and 0 < m < MOST


def bias_activation(Z: Array, b: Array, activation: str, D: Array | None) -> None:
    n, m = Z.shape
    fit = _sized(n, m) and _fit((Z, (n, m)), (b, (n, 1)), (D, (n, m)))
    if not (fit and activation in HIDDEN_KINDS):
        return VECTORISED.bias_activation(Z, b, activation, D)
    launch, plan = _planned("bias_activation", Z.dtype, n, m)
    arguments = (Z, b, NONE if D is None else D, np.int32(n), np.int32(m), KIND[activation])
    launch(plan.grid, plan.block, arguments)


def activation_gradient(
    dA: Array, A: Array, activation: str, db: Array, D: Array | None, keep_prob: float
) -> None:
    n, m = dA.shape
    fit = _sized(n, m) and _fit((dA, (n, m)), (A, (n, m)), (db, (n, 1)), (D, (n, m)))
    if not (fit and activation in HIDDEN_KINDS):
        return VECTORISED.activation_gradient(dA, A, activation, db, D, keep_prob)
    launch, plan = _planned("activation_gradient", dA.dtype, n, m)
    masks, keep = (NONE, 1.0) if D is None else (D, keep_prob)
    sizes = np.int32(n), np.int32(m), KIND[activation], dA.dtype.type(keep)
    arguments = (dA, A, masks, db, *_scratch(plan, dA.dtype), *sizes)
    launch(plan.grid, plan.block, arguments, shared_mem=plan.shared)


def output_gradient(
    Z: Array, b: Array, Y: Array, output: str, scale: float, db: Array, cost: Array | None
) -> None:
    n, m = Z.shape
    fit = _sized(n, m) and _fit((Z, (n, m)), (b, (n, 1)), (db, (n, 1)), (cost, ()))
    if not (fit and Y.shape == Z.shape and Y.dtype == Z.dtype and output in OUTPUT_KINDS):
        return VECTORISED.output_gradient(Z, b, Y, output, scale, db, cost)
    launch, plan = _planned("output_gradient", Z.dtype, n, m)
    if plan.shared > MOST_SHARED:  # more than 5000 outputs
        return VECTORISED.output_gradient(Z, b, Y, output, scale, db, cost)
    # Y may lie in any order, and that of a mini-batch lies example by example.
    strides = (np.int64(stride // Y.dtype.itemsize) for stride in Y.strides)
    results = db, NONE if cost is None else cost, *_scratch(plan, Z.dtype)
    sizes = np.int32(n), np.int32(m), KIND[output], Z.dtype.type(scale)
    launch(plan.grid, plan.block, (Z, b, Y, *strides, *results, *sizes), shared_mem=plan.shared)


def update(parameters: Array, step: Array) -> None:
    if not _alike(parameters, step):
        return VECTORISED.update(parameters, step)
    _launch_flat("update", parameters, step)


def momentum_update(theta: Array, step: Array, V: Array, beta: float, rate: float) -> None:
    if not _alike(theta, step, V):
        return VECTORISED.momentum_update(theta, step, V, beta, rate)
    _launch_flat("momentum_update", theta, step, V, numbers=(beta, rate))


def adam_update(
    theta: Array,
    step: Array,
    M: Array,
    V: Array,
    beta1: float,
    beta2: float,
    rate: float,
    epsilon: float,
) -> None:
    if not _alike(theta, step, M, V):
        return VECTORISED.adam_update(theta, step, M, V, beta1, beta2, rate, epsilon)
    root = math.sqrt(1 - beta2) / (1 - beta1)
    _launch_flat("adam_update", theta, step, M, V, numbers=(beta1, beta2, root, rate, epsilon))


def _alike(first: Array, *others: Array) -> bool:
    return first.size > 0 and _fit(*((array, first.shape) for array in (first, *others)))


def _launch_flat(function: str, *arrays: Array, numbers: tuple[float, ...] = ()) -> None:
    dtype, count = arrays[0].dtype, arrays[0].size
    launch, plan = _planned(function, dtype, 1, count)
    launch(plan.grid, plan.block, (*arrays, np.int64(count), *map(dtype.type, numbers)))


def compile_operations() -> None:
    """Compile what most will use, or find it compiled; whatever CuPy raises where that fails."""
    kernel("operations.cu", "update", np.float32)


def operations() -> Operations:
    """The operations in the form of these kernels."""
    return Operations(
        bias_activation,
        activation_gradient,
        output_gradient,
        update,
        momentum_update,
        adam_update,
    )


# --------------------------------------------------------------------------------------------
# dropout


class Philox(NamedTuple):
    """Dropout's random numbers on the GPU, where each follows from the place it is for: so every
    solver draws the same masks, in whatever order. Philox4x32-10 of Salmon et al. (2011)."""

    seed: int

    def draw(self, D: Array, keep: float, step: int, layer: int) -> None:
        """D (n_l, m) ← 1 / keep with probability keep, else 0.

        step : 0, 1, 2, ..., the updates before this one
        layer : 0, 1, 2, ... of the hidden layers

        Raises ValueError where D is no C-contiguous float32 or float64.
        """
        if not _fit((D, D.shape)):
            raise ValueError(f"expected D as C-contiguous float32 or float64, got {D.dtype}")
        if D.size == 0:
            return
        launch, plan = _planned("draw_mask", D.dtype, 1, D.size)
        key = np.uint64(self.seed % 2**64)
        where = np.int64(D.size), D.dtype.type(keep), key, np.int64(step), np.int32(layer)
        launch(plan.grid, plan.block, (D, *where))
