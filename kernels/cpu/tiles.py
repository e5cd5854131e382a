"""What compiled steps are made of below the level of loops, written as LLVM IR: a tile of a matrix
product, a block of a transposed matrix, and a barrier for threads.

A tile's sums stay in SIMD registers, 8 rows by 2 vectors of 16 float32 with AVX-512, 6 by 2 of 8
with AVX2. Its operands are read in place, because a copy would cost more than it gains at the sizes
of these nets: one thread of an AMD EPYC did 105 to 112 GFLOP/s so, and 97 to 104 with OpenBLAS.
"""

import copy
import inspect
import itertools
import math
import re
import sys
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.core.registry import cpu_target
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

INT = ir.IntType(64)


def vector_bytes() -> int:
    """The bytes of a SIMD register of the processor that Numba compiles for."""
    features = set(re.findall(r"\+([\w.]+)", cpu_target.target_context.codegen().magic_tuple()[2]))
    return 64 if "avx512f" in features else 32 if "avx2" in features else 16


def lanes(dtype: Any) -> int:
    """The numbers in a SIMD register."""
    return vector_bytes() // int(np.dtype(dtype).itemsize)


def padded(n: int, lanes: int) -> int:
    """At least n elements from row to row of a matrix: an odd number of vectors, because rows a
    power of two apart would compete for the same places in the cache."""
    return ((n + lanes - 1) // lanes | 1) * lanes


def tile_rows() -> int:
    """The rows of a tile: with AVX2, 16 registers hold 6 x 2 sums, 2 vectors of B and one of A."""
    return 6 if vector_bytes() == 32 else 8


# A tile of inner products: 16 sums need 32 registers.
INNER_ROWS, INNER_COLUMNS = 4, 4 if vector_bytes() == 64 else 2


class Emitter:
    """Writes one LLVM function, whose arguments are integers, for matrices of one type."""

    def __init__(self, module: Any, name: str, arguments: int, scalar: Any) -> None:
        form = ir.FunctionType(ir.VoidType(), [INT] * arguments)
        self.function = ir.Function(module, form, name)
        self.function.linkage = "internal"
        self.function.attributes.add("noinline")
        self.builder = ir.IRBuilder(self.function.append_basic_block())
        self.scalar, self.size = scalar, 8 if isinstance(scalar, ir.DoubleType) else 4
        self._set_lanes(vector_bytes() // self.size)

    def _set_lanes(self, lanes: int) -> None:
        self.lanes, self.vector = lanes, ir.VectorType(self.scalar, lanes)
        self.zero = ir.Constant(self.vector, [0.0] * lanes)

    def halved(self) -> "Emitter":
        """One for vectors half as long that goes on where this one is."""
        half = copy.copy(self)
        half._set_lanes(self.lanes // 2)
        return half

    def load(self, address: Any, offset: int = 0) -> Any:
        """The vector `offset` vectors after an address."""
        loaded = self.builder.load(self._pointer(address, offset, self.vector))
        loaded.align = self.size
        return loaded

    def store(self, value: Any, address: Any, offset: int = 0) -> None:
        self.builder.store(value, self._pointer(address, offset, self.vector)).align = self.size

    def put(self, number: Any, address: Any, offset: int, add: Any) -> None:
        """Store a number, or add it, `offset` numbers after an address."""
        address = self.builder.add(address, INT(offset * self.size))
        pointer = self._pointer(address, 0, self.scalar)
        added = self.builder.fadd(self.builder.load(pointer), number)
        self.builder.store(self.builder.select(self.greater(add, 0), added, number), pointer)

    def broadcast(self, address: Any) -> Any:
        """A vector of the number at an address."""
        number = self.builder.load(self._pointer(address, 0, self.scalar))
        nothing = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(nothing, number, ir.IntType(32)(0))
        return self.shuffle(first, nothing, [0] * self.lanes)

    def greater(self, value: Any, number: int) -> Any:
        return self.builder.icmp_signed(">", value, INT(number))

    def shuffle(self, x: Any, y: Any, order: list[int]) -> Any:
        mask = ir.Constant(ir.VectorType(ir.IntType(32), len(order)), order)
        return self.builder.shuffle_vector(x, y, mask)

    def add_product(self, x: Any, y: Any, total: Any) -> Any:
        """x y + total, an FMA where the processor has one"""
        product = self.builder.fmul(x, y, flags=["contract"])
        return self.builder.fadd(product, total, flags=["contract"])

    def clamped(self, start: Any, stride: Any, count: int, limit: Any) -> list[Any]:
        """Addresses of `count` rows; those from `limit` on are that of the last before it."""
        last, rows = self.builder.sub(limit, INT(1)), []
        for i in range(count):
            row = self.builder.select(self.greater(limit, i), INT(i), last)
            rows.append(self.builder.add(start, self.builder.mul(row, stride)))
        return rows

    def loop(self, count: Any, first: list[Any], body: Any) -> Any:
        """Values after `count` passes, at least one, of `body`, which returns the next values."""
        before, block = self.builder.block, self.function.append_basic_block()
        self.builder.branch(block)
        self.builder.position_at_end(block)
        values = [self.builder.phi(value.type) for value in (count, *first)]
        for phi, value in zip(values, (count, *first), strict=True):
            phi.add_incoming(value, before)
        left = self.builder.sub(values[0], INT(1))
        after = body(values[1:])
        for phi, value in zip(values, (left, *after), strict=True):
            phi.add_incoming(value, block)
        following = self.function.append_basic_block()
        self.builder.cbranch(self.greater(left, 0), block, following)
        self.builder.position_at_end(following)
        return after

    def _pointer(self, address: Any, offset: int, kind: Any) -> Any:
        if offset:
            address = self.builder.add(address, INT(offset * self.size * self.lanes))
        return self.builder.inttoptr(address, kind.as_pointer())


def emitted(write: Any) -> Any:
    """An intrinsic of compiled code, from a function that writes it with an `Emitter`.

    It is called with a number of the matrices' dtype, and a tuple of integers: addresses, strides
    in bytes, counts.
    """
    arguments = len(inspect.signature(write).parameters) - 1

    def typing(_context: Any, number: Any, integers: Any) -> Any:
        def codegen(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            scalar = context.get_value_type(signature.args[0])
            name = f"accelnn_{write.__name__}_{scalar}"
            function = builder.module.globals.get(name)
            if function is None:
                emitter = Emitter(builder.module, name, arguments, scalar)
                function = emitter.function
                write(emitter, *function.args)
                emitter.builder.ret_void()
            builder.call(function, cgutils.unpack_tuple(builder, values[1]))
            return context.get_dummy_value()

        return types.void(number, integers), codegen

    typing.__name__, typing.__doc__ = write.__name__, write.__doc__
    return intrinsic(typing)


@emitted
def tile(
    e: Emitter,
    rows: Any,
    columns: Any,
    depth: Any,
    a: Any,
    a_row: Any,
    a_column: Any,
    b: Any,
    b_row: Any,
    c: Any,
    c_row: Any,
    add: Any,
) -> None:
    """C ← A B, or C + A B with `add`, in up to `tile_rows` rows of 2, 1 or half a vector.

    A may lie any way; the rows of B and C are contiguous, and read and written in whole vectors.
    """
    for height, more_than in ((tile_rows(), 4), (4, 2), (2, 1), (1, 0)):
        for width, least in ((2, e.lanes), (1, e.lanes // 2), (0, 0)):
            fits = e.builder.and_(e.greater(rows, more_than), e.greater(columns, least))
            with e.builder.if_then(fits):
                A = e.clamped(a, a_row, height, rows)
                C = e.clamped(c, c_row, height, rows)
                vectors = e if width else e.halved()
                write_tile(vectors, width or 1, rows, depth, A, a_column, b, b_row, C, add)
                e.builder.ret_void()


def write_tile(
    e: Emitter,
    width: int,
    rows: Any,
    depth: Any,
    A: list[Any],
    a_column: Any,
    b: Any,
    b_row: Any,
    C: list[Any],
    add: Any,
) -> None:
    places = list(itertools.product(range(len(A)), range(width)))
    before = e.builder.block
    with e.builder.if_then(e.greater(add, 0)):
        there, present = e.builder.block, [e.load(C[i], j) for i, j in places]
    start = [e.builder.phi(e.vector) for _ in places]
    for phi, value in zip(start, present, strict=True):
        phi.add_incoming(e.zero, before)
        phi.add_incoming(value, there)

    def body(values: list[Any]) -> list[Any]:
        offset, b, *sums = values
        vectors = [e.load(b, j) for j in range(width)]
        for i, row in enumerate(A):
            x = e.broadcast(e.builder.add(row, offset))
            for j, y in enumerate(vectors):
                sums[i * width + j] = e.add_product(x, y, sums[i * width + j])
        return [e.builder.add(offset, a_column), e.builder.add(b, b_row), *sums]

    _, _, *sums = e.loop(depth, [INT(0), b, *start], body)
    for i, row in enumerate(C):
        with e.builder.if_then(e.greater(rows, i)):
            for j in range(width):
                e.store(sums[i * width + j], row, j)


@emitted
def inner_tile(
    e: Emitter,
    rows: Any,
    columns: Any,
    vectors: Any,
    a: Any,
    a_row: Any,
    b: Any,
    b_row: Any,
    c: Any,
    c_row: Any,
    add: Any,
) -> None:
    """C ← A Bᵀ, or C + A Bᵀ with `add`, in up to INNER_ROWS rows and INNER_COLUMNS columns.

    The rows of A and B are contiguous, and as long as so many vectors.
    """
    left = e.clamped(a, a_row, INNER_ROWS, rows)
    right = e.clamped(b, b_row, INNER_COLUMNS, columns)

    def body(values: list[Any]) -> list[Any]:
        offset, *sums = values
        xs = [e.load(e.builder.add(row, offset)) for row in left]
        ys = [e.load(e.builder.add(row, offset)) for row in right]
        pairs = itertools.product(xs, ys)
        sums = [e.add_product(*pair, total) for pair, total in zip(pairs, sums, strict=True)]
        return [e.builder.add(offset, INT(e.size * e.lanes)), *sums]

    start = [INT(0), *[e.zero] * (INNER_ROWS * INNER_COLUMNS)]
    sums = e.loop(vectors, start, body)[1:]
    # Adding the neighbours in two vectors gives one vector, half of it from each.
    for _ in range(int(math.log2(e.lanes))):
        evens, odds = list(range(0, 2 * e.lanes, 2)), list(range(1, 2 * e.lanes, 2))
        couples = zip(sums[::2], sums[1::2], strict=True)
        sums = [e.builder.fadd(e.shuffle(*xy, evens), e.shuffle(*xy, odds)) for xy in couples]
    C = e.clamped(c, c_row, INNER_ROWS, rows)
    for i, j in itertools.product(range(INNER_ROWS), range(INNER_COLUMNS)):
        with e.builder.if_then(e.builder.and_(e.greater(rows, i), e.greater(columns, j))):
            vector, lane = divmod(i * INNER_COLUMNS + j, e.lanes)
            total = e.builder.extract_element(sums[vector], ir.IntType(32)(lane))
            e.put(total, C[i], j, add)


@emitted
def transpose_block(e: Emitter, a: Any, a_row: Any, b: Any, b_row: Any) -> None:
    """B ← Aᵀ of a square with a vector in each row."""
    rows = [e.load(e.builder.add(a, e.builder.mul(a_row, INT(i)))) for i in range(e.lanes)]
    # Exchange halves between rows that lie half the square apart, then quarters, and so on.
    half = e.lanes // 2
    while half:
        for i in range(e.lanes):
            if not i & half:
                x, y = rows[i], rows[i | half]
                lower = [j if not j & half else e.lanes + j - half for j in range(e.lanes)]
                upper = [j + half if not j & half else e.lanes + j for j in range(e.lanes)]
                rows[i], rows[i | half] = e.shuffle(x, y, lower), e.shuffle(x, y, upper)
        half //= 2
    for i, row in enumerate(rows):
        e.store(row, e.builder.add(b, e.builder.mul(b_row, INT(i))))


@intrinsic  # type: ignore[untyped-decorator]
def view(_context: Any, number: Any, _address: Any, shape: Any) -> Any:
    """The C-contiguous array of a number's dtype, at an address, with a shape."""
    array_type = types.Array(number, len(shape), "C")

    def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        array = context.make_array(array_type)(context, builder)
        size = context.get_constant(
            types.intp, context.get_abi_sizeof(context.get_value_type(number))
        )
        sizes, strides = cgutils.unpack_tuple(builder, values[2]), [size]
        for length in sizes[:0:-1]:
            strides.insert(0, builder.mul(strides[0], length))
        data = builder.inttoptr(values[1], array.data.type)
        populate_array(array, data, sizes, strides, size, None)
        return array._getvalue()

    return array_type(number, _address, shape), codegen


SPINS, YIELDS = 2000, 100  # looks at the barrier before a thread yields its core, and then sleeps
if sys.platform == "win32":
    YIELD, SLEEP, DURATION = "SwitchToThread", "Sleep", 1
else:
    YIELD, SLEEP, DURATION = "sched_yield", "usleep", 10


@emitted
def barrier(e: Emitter, counters: Any, parts: Any) -> None:
    """Wait until `parts` threads are here.

    `counters` are two integers 128 bytes apart, zero at first: how many threads have arrived, and
    how often all have. A sleeping thread leaves its core to one that it waits for: beside a process
    that kept one of two cores busy, steps on batches of 32 took 380 us, and 660 without sleeping.
    """
    builder, size = e.builder, 8
    arrived = builder.inttoptr(counters, INT.as_pointer())
    rounds = builder.inttoptr(builder.add(counters, INT(128)), INT.as_pointer())
    entry = builder.load_atomic(rounds, "acquire", size)
    others = builder.atomic_rmw("add", arrived, INT(1), "acq_rel")
    with builder.if_then(builder.icmp_signed("==", builder.add(others, INT(1)), parts)):
        builder.store_atomic(INT(0), arrived, "monotonic", size)
        builder.store_atomic(builder.add(entry, INT(1)), rounds, "release", size)
        builder.ret_void()
    before = builder.block
    look, go_on, done = (e.function.append_basic_block() for _ in range(3))
    builder.branch(look)
    builder.position_at_end(look)
    spins = builder.phi(INT)
    now = builder.load_atomic(rounds, "acquire", size)
    builder.cbranch(builder.icmp_signed("==", now, entry), go_on, done)
    builder.position_at_end(go_on)
    number = ir.IntType(32)
    with builder.if_then(e.greater(spins, SPINS)):
        form = ir.FunctionType(number, [])
        builder.call(cgutils.get_or_insert_function(builder.module, form, YIELD), [])
    with builder.if_then(e.greater(spins, SPINS + YIELDS)):
        form = ir.FunctionType(number, [number])
        sleep = cgutils.get_or_insert_function(builder.module, form, SLEEP)
        builder.call(sleep, [number(DURATION)])
    spins.add_incoming(INT(0), before)
    spins.add_incoming(builder.add(spins, INT(1)), builder.block)
    builder.branch(look)
    builder.position_at_end(done)
