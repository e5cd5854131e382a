"""Sample space on a GPU: one launch of kernels/gpu/sample_space.cu runs to the next record.

The steps of a net on few examples are too small for a GPU to notice: launching the dozen kernels
of one takes fifty times as long as their work. Here a launch stays on the device for thousands of
steps, in which its blocks share the examples out among themselves; see sample_space.cu.
"""

import functools
import time
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from accelnn.backend import Array, array_module
from accelnn.kernels.gpu import cuda
from accelnn.kernels.loops import KINDS
from accelnn.network import Network
from accelnn.optimizers import new_moments
from accelnn.solvers import gram, precisions
from accelnn.solvers.gram import InSampleSpace
from accelnn.solvers.job import Job

SOURCE, KERNEL = "sample_space.cu", "train"
THREADS = 64, 512  # of a block, at least and at most
WARP = 32
TILE = 4  # of sample_space.cu
COLUMNS = 9  # of its table of layers

# What a step takes, in cycles of a multiprocessor: counted for an H200 and NOT measured, because no
# GPU was at hand. They set how many blocks share the work and how long a launch may become.
CYCLES = 1.7e9  # a second
EXCHANGE = 800  # until what all blocks wrote has been read by all, however little it is
LAYER = 300  # forward, backward and the barriers of a layer, however small
WARP_PRODUCT = 24, 150  # a tile's 32 steps along k, and adding up what its lanes have
SHARED_PRODUCT = 8, 16  # the same where all warps wait for shared memory
RECEIVED = 64  # bytes a cycle from the L2 cache, for each block
CACHE, MEMORY = 40e6, 2000  # bytes of that cache for G, and bytes a cycle from memory, for all

# Seconds, about. Ctrl-C is heard between two launches, so that none should take longer; and since
# launches are only queued, the queue is kept as short.
LONGEST_LAUNCH = 0.5


class Limits(NamedTuple):
    """What a GPU has: multiprocessors, and bytes of shared memory for a block on one."""

    processors: int
    shared: int

    @classmethod
    def of_device(cls) -> "Limits":
        """Those of the current device."""
        import cupy

        attributes = cupy.cuda.Device().attributes
        return cls(attributes["MultiProcessorCount"], attributes["MaxSharedMemoryPerBlockOptin"])


class Shape(NamedTuple):
    """What the work of a training depends on: n_1, ..., n_L; m; V or not; bytes of a number."""

    layers: tuple[int, ...]
    m: int
    momentum: bool
    itemsize: int

    @classmethod
    def of(cls, job: Job) -> "Shape":
        return cls(
            tuple(job.net.layers[1:]),
            job.examples,
            job.optimizer.moments > 0,
            job.params.dtype.itemsize,
        )

    @property
    def uppers(self) -> int:
        """The upper parameters: all but S."""
        return self.layers[0] + sum(n * (k + 1) for k, n in pairwise(self.layers))


class Partition(NamedTuple):
    """How the blocks of a launch share out the steps of a training.

    width : examples of a block
    in_shares : whether each block adds up its share of the sums of all blocks, or all of them
    rows : of S, how many find place in shared memory at once
    held : whether the block's columns of G find place there too
    threads : of a block: a power of two
    """

    shape: Shape
    width: int
    in_shares: bool = False
    rows: int = 0
    held: bool = False
    threads: int = THREADS[1]

    @property
    def blocks(self) -> int:
        return -(-self.shape.m // self.width)

    @property
    def column_bits(self) -> int:
        """Columns are counted in 2 to this power."""
        return (self.width - 1).bit_length()

    @property
    def share(self) -> int:
        """The upper parameters that a block updates."""
        uppers = self.shape.uppers
        return -(-uppers // self.blocks) if self.in_shares else uppers

    @property
    def sum_bits(self) -> int:
        """A sum of all blocks is added up by 2 to this power threads: as many as there are, but
        at least the 4 whose words make a sector of the L2 cache."""
        most = (self.blocks - 1).bit_length()
        at_hand = (self.threads // 2 // (self.share + 1)).bit_length() - 1
        return min(5, most, max(2, at_hand))

    @property
    def elements(self) -> int:
        """Numbers in shared memory: the same as in `Block::begin` of sample_space.cu."""
        layers, m, momentum, _ = self.shape
        stride = (1 << self.column_bits) + 1
        return (
            (COLUMNS + 1) * len(layers)
            + self.shape.uppers
            + momentum * self.share
            + (2 + momentum) * layers[0] * self.width
            + layers[-1] * self.width
            + 2 * sum(layers) * stride
            + self.threads // WARP
            + self.rows * m
            + self.held * self.width * m
        )

    @property
    def shared(self) -> int:
        """Bytes of shared memory."""
        return self.elements * self.shape.itemsize

    @property
    def numbers(self) -> int:
        """Numbers of a step that blocks exchange: the same as in `Block::begin`."""
        shape, padded = self.shape, -(-self.blocks // 4) * 4
        return shape.layers[0] * shape.m + (shape.uppers + 1) * padded + shape.uppers

    @property
    def seconds(self) -> float:
        """What a step is expected to take."""
        layers, m, _, itemsize = self.shape
        units = layers[0]
        halves = itemsize // 4  # of a number, which travel one by one
        received = units * m + self.share * self.blocks
        received += self.shape.uppers * self.in_shares
        exchange = EXCHANGE * (1 + self.in_shares) + received * 8 * halves / RECEIVED

        tiles = -(-self.width // TILE) * -(-units // TILE)
        along = -(-m // WARP)
        of_a_warp, of_all = (
            (along * step + end) * halves for step, end in (WARP_PRODUCT, SHARED_PRODUCT)
        )
        product: float = max(-(-tiles // (self.threads // WARP)) * of_a_warp, tiles * of_all)
        if not self.held:
            product += self.width * m * -(-units // TILE) * itemsize / RECEIVED
            if m * m * itemsize > CACHE:
                product = max(product, m * m * itemsize / MEMORY)

        # Forward, dW and dA read two numbers for each multiply-add, 32 in a cycle.
        upper = sum(3 * n * k << self.column_bits for k, n in pairwise(layers)) * 2 * halves / 32
        return (exchange + product + LAYER * len(layers) + upper) / CYCLES

    def table(self, net: Network) -> Array:
        """`table` of sample_space.cu: a row for each layer."""
        rows, place, unit = [], 0, 0
        layers = pairwise((0, *self.shape.layers))  # of the first W nothing is among the upper
        kinds, keeps = (*net.hidden, net.output), (*net.keep_prob, 1)
        for (before, n), kind, keep in zip(layers, kinds, keeps, strict=True):
            bits = self._inner_bits(n, before), self._inner_bits(before, n)
            rows.append((n, before, place, place + n * before, unit, KINDS[kind], keep < 1, *bits))
            place += n * (before + 1)
            unit += n
        return np.array(rows, np.int32)

    def _inner_bits(self, count: int, terms: int) -> int:
        """An inner product of so many terms, for so many units of each column, is shared by 2 to
        this power threads: as long as there are enough, and each has 8 terms at least."""
        bits = 0
        while (
            bits < 5
            and count << (self.column_bits + bits + 1) <= self.threads
            and terms >> bits >= 16
        ):
            bits += 1
        return bits


def partitions(shape: Shape, limits: Limits) -> list[Partition]:
    """Those that there is room for: for each width, as much in shared memory as can be."""
    m, units = shape.m, shape.layers[0]
    # Half of the threads wait for S: with 4 numbers each, all are on their way at once.
    threads = 1 << (units * m // 2 - 1).bit_length()
    threads = min(max(threads, THREADS[0]), THREADS[1])
    widths = {-(-m // blocks) for blocks in range(1, min(limits.processors, m) + 1)}
    # Whole tiles; a width that is none is of use where even one tile has no room.
    widths |= {min(m, -(-width // TILE) * TILE) for width in widths}
    found = []
    for width in sorted(widths):
        for in_shares in (False, True):
            bare = Partition(shape, width, in_shares, threads=threads)
            for held in (True, False):
                free = limits.shared // shape.itemsize - bare._replace(held=held).elements
                rows = min(units, max(free, 0) // m)
                if rows < units:
                    rows -= rows % TILE
                if rows:
                    found.append(bare._replace(rows=rows, held=held))
                    break
    return found


@functools.lru_cache
def partition(shape: Shape, limits: Limits) -> Partition | None:
    """The one that is expected to be fastest, or None where there is no room for any."""
    return min(partitions(shape, limits), key=lambda one: one.seconds, default=None)


class Persistent(InSampleSpace):
    """A full-batch training in sample space that stays on the GPU from record to record."""

    def __init__(self, job: Job, chosen: Partition | None = None) -> None:
        """chosen : how the blocks share the work; the fastest expected where none is given."""
        net = job.net
        self.dtype = job.params.dtype
        chosen = chosen or partition(Shape.of(job), Limits.of_device())
        assert chosen is not None, why_not(job)
        self.partition = chosen
        start = time.perf_counter()
        self.kernel = cuda.kernel(
            SOURCE, KERNEL, self.dtype, cooperative=True, shared=chosen.shared
        )
        self.compile_seconds = time.perf_counter() - start
        super().__init__(job)

        self.xp = xp = array_module(job.X)
        self.theta = self.space.inner.flat
        moments = new_moments(job.optimizer, self.theta)
        self.given = (
            self.theta,
            moments[0] if moments else self.theta,
            *(xp.ascontiguousarray(array) for array in (self.space.P0, self.space.G, job.Y)),
            self.space.first_squares if net.l2 else self.theta,
        )
        words = 2 * chosen.numbers * self.dtype.itemsize // 4
        self.tables = (
            xp.asarray(chosen.table(net)),
            xp.asarray(np.array([*net.keep_prob, 1], self.dtype)),
            xp.zeros(words, np.uint64),
        )
        self.settings = (
            *map(np.int32, (len(net.layers) - 1, job.examples, chosen.width, chosen.rows)),
            *map(np.int32, (chosen.held, chosen.in_shares, chosen.sum_bits, len(moments))),
            *map(self.dtype.type, (job.optimizer.betas[0], net.l2)),
            np.uint64(int(job.seed) & 2**64 - 1),
        )
        self.queued = 0.0  # seconds of launches since `reached`
        self.reached: Any = None

    def advance(self, rates: list[float], cost: Array | None) -> None:
        """Queue the epochs, in launches short enough to be interrupted between them."""
        most = max(1, int(LONGEST_LAUNCH / self.partition.seconds))
        for start in range(0, len(rates), most):
            if self.job.interruption.requested:
                return
            self._launch(rates[start : start + most], cost if start == 0 else None)

    def _launch(self, rates: list[float], cost: Array | None) -> None:
        recorded = cost is not None
        self.kernel(
            (self.partition.blocks,),
            (self.partition.threads,),
            (
                *self.given,
                self.xp.asarray(self._plan(rates)),
                *self.tables,
                cost if recorded else self.theta,
                *self.settings,
                np.int64(self.steps),
                np.int32(len(rates)),
                np.int32(recorded),
            ),
            shared_mem=self.partition.shared,
        )
        self.steps += len(rates)
        self._bound_queue(len(rates) * self.partition.seconds)

    def _plan(self, rates: list[float]) -> Array:
        """For each step α, the factor of dZ, that times λ, and c."""
        optimizer, net = self.job.optimizer, self.job.net
        plan = np.ones((len(rates), 4))
        plan[:, 0] = rates
        plan[:, 1] = [optimizer.scale(rate) / self.job.examples for rate in rates]
        plan[:, 2] = plan[:, 1] * net.l2
        if net.l2:
            plan[:, 3] = [self.shrinkage.step(rate) for rate in rates]
        return plan.astype(self.dtype)

    def _bound_queue(self, seconds: float) -> None:
        """Wait where launches of more than twice LONGEST_LAUNCH are queued: the device has work
        meanwhile, and Ctrl-C would otherwise have to wait for all of them."""
        self.queued += seconds
        if self.queued < LONGEST_LAUNCH:
            return
        before, self.reached = self.reached, self.xp.cuda.Event()
        self.reached.record()
        if before is not None:
            before.synchronize()
        self.queued = 0.0


def why_not(job: Job) -> str | None:
    """Why a training on a GPU cannot run in one launch from record to record, or None."""
    import cupy

    reason = gram.why_not(job)
    if reason is not None:
        return reason
    if job.precision in precisions.ROUNDED:
        return f"its products are the parameters' own, not {job.precision}"
    if not hasattr(cupy, "RawModule"):
        return "this CuPy compiles no kernels: it has no RawModule"
    shape, limits = Shape.of(job), Limits.of_device()
    if shape.layers[0] * shape.m >= 2**31:
        return f"S has {shape.layers[0] * shape.m:,} numbers, and the kernel counts to 2^31"
    if partition(shape, limits) is None:
        return (
            f"a block needs {least_shared(shape, limits) / 1024:,.0f} KB of shared memory for the "
            f"upper parameters, a few rows of S and its examples' activations, and this GPU has "
            f"{limits.shared / 1024:,.0f} KB"
        )
    return None


def least_shared(shape: Shape, limits: Limits) -> int:
    """Bytes of shared memory of the partition that takes least of it."""
    width = -(-shape.m // limits.processors)
    rows = min(shape.layers[0], TILE)
    return min(Partition(shape, width, in_shares, rows).shared for in_shares in (False, True))
