"""Sample space on a GPU: one launch of kernels/gpu/sample_space.cu runs to the next record.

A step on few examples is too small for a GPU: launching its dozen kernels takes fifty times as
long as the work. One launch makes thousands of steps, and its blocks share the examples.
"""

import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from accelnn.backend import Array
from accelnn.kernels.gpu import cuda
from accelnn.network import Network, parameter_count
from accelnn.optimizers import SGD, Momentum
from accelnn.solvers import precisions
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job, layer_table

THREADS = 64, 512  # of a block, at least and at most
WARP = 32
TILE = 4  # of sample_space.cu
COLUMNS = 9  # of its table of layers

LEAST_WIDTH = 2 * TILE  # examples of a block, so that not too many blocks exchange numbers
WORTH_SHARING = 8192  # numbers added up by all blocks, to be worth a second exchange
# Multiply-adds of a launch, about half a second: Ctrl-C waits for its end, and as much again may be
# queued. A step counts as LEAST_STEP at least, because blocks exchange numbers.
LONGEST_LAUNCH, LEAST_STEP = 10**11, 10**6


class Limits(NamedTuple):
    """A GPU's multiprocessors, and the bytes of shared memory that a block can have."""

    processors: int
    shared: int

    @classmethod
    def of_device(cls) -> "Limits":
        import cupy

        attributes = cupy.cuda.Device().attributes
        return cls(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])


class Partition(NamedTuple):
    """How the blocks of a launch share the steps of a training.

    layers, m, momentum, itemsize : n_1, ..., n_L; examples; V or not; bytes of a number
    width, threads : of a block: its examples; a power of two
    in_shares : whether each block adds up a share of the sums for all, or all for itself
    rows : rows of S that are in shared memory at once
    G_shared : whether the block's columns of G are in shared memory
    """

    layers: tuple[int, ...]
    m: int
    momentum: bool
    itemsize: int
    width: int = 1
    in_shares: bool = False
    rows: int = 0
    G_shared: bool = False
    threads: int = THREADS[1]

    @property
    def uppers(self) -> int:
        """The number of upper parameters: all but S."""
        return self.layers[0] + parameter_count(self.layers)

    @property
    def multiply_adds(self) -> int:
        """Those of S G in a step, but at least LEAST_STEP."""
        return max(self.layers[0] * self.m**2, LEAST_STEP)

    @property
    def blocks(self) -> int:
        return -(-self.m // self.width)

    @property
    def column_bits(self) -> int:
        """Columns are counted in 2 to this power."""
        return (self.width - 1).bit_length()

    @property
    def share(self) -> int:
        """The upper parameters that a block updates."""
        return -(-self.uppers // self.blocks) if self.in_shares else self.uppers

    @property
    def sum_bits(self) -> int:
        """2 to this power threads add up a sum of all blocks: as many as are free, but at least
        the 4 whose words make a sector of the L2 cache."""
        most = (self.blocks - 1).bit_length()
        free = (self.threads // 2 // (self.share + 1)).bit_length() - 1
        return min(5, most, max(2, free))

    @property
    def shared(self) -> int:
        """Bytes of shared memory: the same as in `Block::begin` of sample_space.cu."""
        layers, stride = self.layers, (1 << self.column_bits) + 1
        return self.itemsize * (
            (COLUMNS + 1) * len(layers)
            + self.uppers
            + self.momentum * self.share
            + (2 + self.momentum) * layers[0] * self.width
            + layers[-1] * self.width
            + 2 * sum(layers) * stride
            + self.threads // WARP
            + self.rows * self.m
            + self.G_shared * self.width * self.m
        )

    @property
    def numbers(self) -> int:
        """Numbers of a step that blocks exchange: the same as in `Block::begin`."""
        padded = -(-self.blocks // 4) * 4
        return self.layers[0] * self.m + (self.uppers + 1) * padded + self.uppers

    def table(self, net: Network) -> Array:
        """`table` of sample_space.cu: a row for each layer, whose first W is not among the upper
        parameters."""
        layers = (0, *self.layers)
        bits = [
            (keep < 1, self._inner_bits(n, before), self._inner_bits(before, n))
            for (before, n), keep in zip(pairwise(layers), (*net.keep_prob, 1), strict=True)
        ]
        return np.hstack([layer_table(net, layers), bits]).astype(np.int32)

    def _inner_bits(self, count: int, terms: int) -> int:
        """2 to this power threads share an inner product of `terms`, of which each column has
        `count`: as many as are free, if each has 8 terms at least."""
        free = (self.threads // max(count, 1) >> self.column_bits).bit_length() - 1
        return max(0, min(5, free, (terms // 8).bit_length() - 1))


def partition(job: Job) -> Partition:
    """The best partition of a job for the current device."""
    layers, momentum = tuple(job.net.layers[1:]), job.optimizer.moments > 0
    work = Partition(layers, job.examples, momentum, job.params.dtype.itemsize)
    return fitted(work, Limits.of_device())


def fitted(work: Partition, limits: Limits) -> Partition:
    """`work` in as many blocks as the device runs at once, unless these had less than LEAST_WIDTH
    examples each, with as much in shared memory as fits; if nothing fits, the smallest."""
    m, units = work.m, work.layers[0]
    # Half of the threads wait for S: with 4 numbers each, all are on their way at once.
    threads = 1 << (units * m // 2 - 1).bit_length()
    threads = min(max(threads, THREADS[0]), THREADS[1])
    even = -(-m // limits.processors)
    whole_tiles = min(m, max(LEAST_WIDTH, -(-even // TILE) * TILE))
    for width in (whole_tiles, even):
        in_shares = work.uppers * -(-m // width) > WORTH_SHARING
        bare = work._replace(width=width, in_shares=in_shares, threads=threads)
        for option in (bare._replace(G_shared=True), bare, bare._replace(in_shares=True)):
            rows = min(units, max(limits.shared - option.shared, 0) // (m * work.itemsize))
            if rows < units:
                rows -= rows % TILE
            if rows:
                return option._replace(rows=rows)
    return option._replace(rows=min(units, TILE))


class Persistent(InSampleSpace):
    """A full-batch training in sample space that stays on the GPU from record to record."""

    by_kernels = True
    divides = None

    def __init__(self, job: Job, chosen: Partition | None = None) -> None:
        self.partition = chosen = chosen or partition(job)
        self.dtype = job.params.dtype
        start = time.perf_counter()
        self.kernel = cuda.kernel(
            "sample_space.cu", "train", self.dtype, cooperative=True, shared=chosen.shared
        )
        self.compile_seconds = time.perf_counter() - start
        super().__init__(job)
        xp, net, theta = self.xp, job.net, self.params.flat
        self.arrays = (
            theta,
            self.moments[0] if self.moments else theta,
            *(xp.ascontiguousarray(array) for array in (self.P0, self.G, job.Y)),
            self.first_squares if net.l2 else theta,
        )
        self.tables = (
            xp.asarray(chosen.table(net)),
            xp.asarray(np.array([*net.keep_prob, 1], self.dtype)),
            xp.zeros(2 * chosen.numbers * self.dtype.itemsize // 4, np.uint64),
        )
        layout = chosen.width, chosen.rows, chosen.G_shared, chosen.in_shares, chosen.sum_bits
        counts = len(net.layers) - 1, job.examples, *layout, len(self.moments)
        self.settings = (
            *map(np.int32, counts),
            *map(self.dtype.type, (job.optimizer.betas[0], net.l2)),
            np.uint64(int(job.seed) & 2**64 - 1),
        )
        self.queued = 0  # multiply-adds of launches since `reached`
        self.reached: Any = None

    @classmethod
    def why_not(cls, job: Job) -> str | None:
        import cupy

        reason = super().why_not(job)
        if reason is not None:
            return reason
        if job.precision in precisions.ROUNDED:
            return f"its products are the parameters' own, not {job.precision}"
        if type(job.optimizer) not in (SGD, Momentum):
            return f"its kernel knows sgd and momentum, not {job.optimizer.name}"
        if not hasattr(cupy, "RawModule"):
            return "this CuPy compiles no kernels: it has no RawModule"
        numbers = job.net.layers[1] * job.examples
        if numbers >= 2**31:
            return f"S has {numbers:,} numbers, and the kernel counts to 2^31"
        needed, limit = partition(job).shared, Limits.of_device().shared
        if needed > limit:
            return (
                f"a block needs {needed / 1024:,.0f} KB of shared memory for the upper parameters, "
                f"a few rows of S and its activations, and this GPU has {limit / 1024:,.0f} KB"
            )
        return None

    def advance(self, rates: list[float], cost: Array | None) -> None:
        """Queue the epochs, in launches short enough for Ctrl-C between them."""
        most = max(1, LONGEST_LAUNCH // self.partition.multiply_adds)
        for start in range(0, len(rates), most):
            if self.job.halted:
                return
            self._launch(rates[start : start + most], cost if start == 0 else None)

    def _launch(self, rates: list[float], cost: Array | None) -> None:
        one = self.partition
        plan, out = self.xp.asarray(self._plan(rates)), self.params.flat if cost is None else cost
        now = np.int64(self.steps), np.int32(len(rates)), np.int32(cost is not None)
        arguments = *self.arrays, plan, *self.tables, out, *self.settings, *now
        self.kernel((one.blocks,), (one.threads,), arguments, shared_mem=one.shared)
        self.steps += len(rates)
        self.queued += len(rates) * one.multiply_adds
        if self.queued >= LONGEST_LAUNCH:
            # Ctrl-C has to wait for all that is queued; the device stays busy with the latest.
            before, self.reached = self.reached, self.xp.cuda.Event()
            self.reached.record()
            if before is not None:
                before.synchronize()
            self.queued = 0

    def _plan(self, rates: list[float]) -> Array:
        """For each step α, the factor of dZ, that times λ, and c."""
        l2, scale = self.job.net.l2, self.job.optimizer.scale
        scales = np.array([scale(rate) for rate in rates]) / self.job.examples
        c = [self.shrink(rate) if l2 else 1.0 for rate in rates]
        return np.stack([rates, scales, scales * l2, c], axis=1).astype(self.dtype)
