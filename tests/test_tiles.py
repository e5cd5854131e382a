"""Tiles of products, transposed blocks and views at addresses, against NumPy; threads that meet at
the barrier."""

import threading
from itertools import product

import numba
import numpy as np
import pytest

from accelnn.kernels.cpu import steps, tiles
from accelnn.kernels.cpu.tiles import (
    INNER_COLUMNS,
    INNER_ROWS,
    barrier,
    lanes,
    padded,
    tile_rows,
    view,
)

pytestmark = pytest.mark.slow

dtypes = pytest.mark.parametrize("dtype", ["float64", "float32"])
EDGE = 3  # rows and columns around a matrix that must stay as they are


@numba.njit
def tile(zero, integers):
    tiles.tile(zero, integers)


@numba.njit
def inner_tile(zero, integers):
    tiles.inner_tile(zero, integers)


@numba.njit
def transpose_block(zero, integers):
    tiles.transpose_block(zero, integers)


@numba.njit
def viewed(zero, address, shape):
    return view(zero, address, shape)


def whole_numbers(shape, dtype, seed=0):
    """Small ones, whose products and sums are exact in any order and with any rounding."""
    return np.random.default_rng(seed).integers(-8, 9, shape).astype(dtype)


def address(array):
    return array.ctypes.data


def bordered(shape, dtype):
    """A matrix with an edge around it, and the matrix without the edge."""
    whole = whole_numbers(np.add(shape, 2 * EDGE), dtype, seed=2)
    return whole, whole[EDGE:-EDGE, EDGE:-EDGE]


# --------------------------------------------------------------------------------------------
# products


def check_product(multiply, A, B, shape, add):
    """Two factors' product comes to a matrix, NaN before unless it is added; the edge stays."""
    whole, C = bordered(shape, A.dtype)
    if not add:
        C[...] = np.nan
    expected = whole.copy()
    written = expected[EDGE : EDGE + shape[0], EDGE : EDGE + shape[1]]
    written[...] = A.astype("f8") @ B.astype("f8") + (written if add else 0)
    multiply(address(C), C.strides[0])
    np.testing.assert_array_equal(whole, expected)


def width(columns, lanes):
    """The columns that a tile writes: 2, 1 or half a vector."""
    return 2 * lanes if columns > lanes else lanes if columns > lanes // 2 else lanes // 2


@dtypes
@pytest.mark.parametrize("transposed", [False, True])
def test_a_tile_is_the_product_of_numpy(dtype, transposed):
    number, vector = np.dtype(dtype).type(0), lanes(dtype)
    sizes = range(1, tile_rows() + 2), range(1, 2 * vector + 2), (1, 2, 5, 33)
    for rows, columns, depth, add in product(*sizes, (0, 1)):
        shape = min(rows, tile_rows()), width(columns, vector)
        A = whole_numbers((shape[0], depth), dtype)
        stored = np.full((depth, shape[0] + 2) if transposed else (shape[0], depth + 2), np.nan)
        stored = stored.astype(dtype)
        left = stored.T[: shape[0], :depth] if transposed else stored[:, :depth]
        left[...] = A
        B = whole_numbers((depth, 2 * vector + 1), dtype, seed=1)[:, : shape[1]]

        def multiply(c, c_row, rows=rows, columns=columns, depth=depth, a=left, b=B, add=add):
            left, right = (address(a), *a.strides), (address(b), b.strides[0])
            tile(number, (rows, columns, depth, *left, *right, c, c_row, add))

        check_product(multiply, A, B, shape, add)


@dtypes
def test_a_tile_of_inner_products_is_that_of_numpy(dtype):
    number, vector = np.dtype(dtype).type(0), lanes(dtype)
    sizes = range(1, INNER_ROWS + 2), range(1, INNER_COLUMNS + 2), (1, 2, 5)
    for rows, columns, vectors, add in product(*sizes, (0, 1)):
        shape = min(rows, INNER_ROWS), min(columns, INNER_COLUMNS)
        A, B = (
            whole_numbers((n, vectors * vector + 1), dtype, seed)[:, :-1]
            for seed, n in enumerate(shape)
        )

        def multiply(c, c_row, rows=rows, columns=columns, vectors=vectors, a=A, b=B, add=add):
            factors = address(a), a.strides[0], address(b), b.strides[0]
            inner_tile(number, (rows, columns, vectors, *factors, c, c_row, add))

        check_product(multiply, A, B.T, shape, add)


# --------------------------------------------------------------------------------------------
# memory


@dtypes
def test_a_block_is_transposed_and_nothing_around_it(dtype):
    number, n = np.dtype(dtype).type(0), lanes(dtype)
    A = np.random.default_rng(0).normal(size=(n, n + 1)).astype(dtype)[:, :n]
    whole, B = bordered((n, n), dtype)
    expected = whole.copy()
    expected[EDGE:-EDGE, EDGE:-EDGE] = A.T
    transpose_block(number, (address(A), A.strides[0], address(B), B.strides[0]))
    np.testing.assert_array_equal(whole, expected)


@dtypes
@pytest.mark.parametrize("shape", [(7,), (3, 5), (2, 3, 4), (0,), (1, 0)])
def test_a_view_is_the_array_at_its_address(dtype, shape):
    memory = np.arange(30, dtype=dtype)
    array = viewed(memory.dtype.type(0), address(memory[2:]), shape)
    assert (array.dtype, array.shape) == (memory.dtype, shape)
    assert array.flags.c_contiguous
    np.testing.assert_array_equal(array.ravel(), memory[2 : 2 + array.size])
    array[...] = -1
    assert (memory < 0).sum() == array.size
    assert not array.size or memory[2] == -1


def test_rows_are_an_odd_number_of_vectors_apart():
    for n, vector in product(range(1, 200), (2, 4, 8, 16)):
        row = padded(n, vector)
        assert n <= row < n + 2 * vector
        assert row % (2 * vector) == vector


def test_sizes_are_rounded_up_to_whole_vectors():
    for n, granule in product(range(100), (1, 2, 4, 8, 16)):
        rounded = steps.rounded_up(n, granule)
        assert n <= rounded < n + granule
        assert rounded % granule == 0


# --------------------------------------------------------------------------------------------
# threads

LINE = 16  # int64 of two cache lines


@numba.njit(nogil=True)
def meet(counters, rounds, part, counts, mistakes):
    """Count rounds, and how often the others' counts differed when all had met."""
    for i in range(1, rounds + 1):
        counts[part, 0] = i
        barrier(0.0, (counters, len(counts)))
        for other in range(len(counts)):
            mistakes[part] += counts[other, 0] != i
        barrier(0.0, (counters, len(counts)))


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_threads_meet_at_a_barrier_in_every_round(threads):
    rounds, counters = 1000, np.zeros(2 * LINE, np.int64)
    counts, mistakes = np.zeros((threads, LINE), np.int64), np.zeros(threads, np.int64)
    meet(address(counters), 0, 0, counts, mistakes)  # compiles it
    running = [
        threading.Thread(
            target=meet, args=(address(counters), rounds, part, counts, mistakes), daemon=True
        )
        for part in range(threads)
    ]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join(100)
    assert not any(thread.is_alive() for thread in running)
    assert (counts[:, 0] == rounds).all()
    assert not mistakes.any()
