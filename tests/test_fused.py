"""The compiled steps: whole trainings against the vectorised ones, products by BLAS on blocks of
matrices, and how compiled code is looked up and prepared. test_operations.py has the operations."""

import functools
import importlib.util
import itertools
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import accelnn
from accelnn import SGD, Network, Parameters
from accelnn.functions import OUTPUTS
from accelnn.kernels import jit
from accelnn.kernels.cpu import blas, steps
from accelnn.solvers import jitted
from accelnn.solvers.job import Job

pytestmark = pytest.mark.slow

DTYPES = ("float64", "float32")


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
def test_a_compiled_training_is_the_vectorised_one(optimizer, monkeypatch):
    X = np.random.default_rng(0).normal(size=(5, 90))
    for batch_size, output, loops in itertools.product([None, 8], OUTPUTS, [True, False]):
        monkeypatch.setattr(blas, "has_small_kernels", lambda loops=loops: not loops)
        net = Network(
            [5, 7, 6, 3], hidden=("tanh", "leaky_relu"), output=output, keep_prob=0.8, l2=0.1
        )
        Y = accelnn.one_hot(np.arange(90) % 3, 3)
        options = {"epochs": 5, "learning_rate": 0.05, "record_every": 2, "validation": 0.2}
        options |= {"optimizer": optimizer, "batch_size": batch_size}
        expected, plain = accelnn.fit(net, net.init("he"), X, Y, solver="direct", **options)
        params, history = accelnn.fit(net, net.init("he"), X, Y, solver="jitted", **options)
        case = f"{batch_size} {output} {loops}"
        np.testing.assert_allclose(params.flat, expected.flat, 1e-11, 1e-12, err_msg=case)
        np.testing.assert_allclose(history.costs, plain.costs, 1e-12, err_msg=case)
        np.testing.assert_allclose(
            history.validation_costs, plain.validation_costs, 1e-12, err_msg=case
        )


# --------------------------------------------------------------------------------------------
# products

PRODUCTS = [  # rows, depth, columns
    *itertools.product((1, 2, 7), (1, 17), (1, 3)),
    *((1, 300, 1), (7, 209, 209), (1, 400, 300), (300, 400, 1), (4, 70, 2000), (50, 60, 55)),
    *((3, 1, 64), (2, 6, 65), (5, 3, 100), (6, 130, 5), (12, 80, 70)),
]
FACTORS = [(1, 0), (-1, 1), (1, 0.9), (0.5, -2)]  # α, β


def areas_of(rows, columns):
    """Areas of a matrix: all of it, those of several threads, and a part from its middle."""
    yield [(0, rows, 0, columns)]
    yield [steps.block(rows, columns, part, 3) for part in range(3)]
    yield [(rows // 3, rows - rows // 4, columns // 4, columns - columns // 3)]


def check_products(multiply, shape, dtype, A_transposed, B_transposed, alpha, beta):
    """Each area of C becomes α A B + β C; the rest stays. If β is 0, C is NaN before."""
    rows, depth, columns = shape
    for areas in areas_of(rows, columns):
        random, kind = np.random.default_rng(0), np.dtype(dtype).type
        A = random.normal(size=(depth, rows) if A_transposed else (rows, depth)).astype(dtype)
        B = random.normal(size=(columns, depth) if B_transposed else (depth, columns)).astype(dtype)
        C = random.normal(size=(rows, columns)).astype(dtype)
        if beta == 0:
            C[...] = np.nan
        expected = C.astype("f8")
        full = (A.T if A_transposed else A).astype("f8") @ (B.T if B_transposed else B)
        full = alpha * full + (beta * expected if beta else 0)
        for area in areas:
            first, last, start, stop = area
            expected[first:last, start:stop] = full[first:last, start:stop]
            multiply(A, A_transposed, B, B_transposed, C, kind(alpha), kind(beta), area)
        tolerance = 16 * np.finfo(dtype).eps * max(depth, 8) ** 0.5
        case = f"{shape} {A_transposed, B_transposed} {alpha, beta} {areas}"
        np.testing.assert_allclose(C, expected, tolerance, tolerance * 4, err_msg=case)


def product_of(functions, dtype, loops):
    """`steps.product`, with loops for thin products or without."""
    params, one = Parameters(np.zeros(2, dtype), (1, 1)), np.zeros((1, 1), dtype)
    state = jitted._state(Job(Network([1, 1]), params, one, one, SGD()), params)
    settings = np.array([*range(8)])
    settings[steps.LOOPS] = loops
    return functools.partial(functions["product"], state._replace(settings=settings))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loops", [0, 1])
def test_products_of_blocks_are_those_of_numpy(dtype, loops):
    product = product_of(jit.cpu_functions(), dtype, loops)
    transposed = [(0, 0), (1, 0), (0, 1)]  # A, B
    for shape, which, factors in itertools.product(PRODUCTS, transposed, FACTORS):
        check_products(product, shape, dtype, *which, *factors)


def test_loops_of_thin_products_as_plain_python(monkeypatch):
    def gemm(*_arguments):
        raise AssertionError("a product of BLAS")

    monkeypatch.setattr(steps, "gemm", gemm)
    product = product_of(vars(steps), "float64", loops=1)
    for shape, which in (
        *(((3, depth, 64), (0, 0)) for depth in range(1, 9)),
        *(((rows, 3, 70), (1, 0)) for rows in range(3, 6)),
        *(((rows, 64, columns), (0, 1)) for rows in range(3, 6) for columns in range(3, 6)),
    ):
        rows, depth, columns = shape
        A = np.random.default_rng(0).normal(size=(depth, rows) if which[0] else (rows, depth))
        B = np.random.default_rng(1).normal(size=(columns, depth) if which[1] else (depth, columns))
        C = np.full((rows, columns), np.nan)
        product(A, which[0], B, which[1], C, 2.0, 0.0, (0, rows, 0, columns))
        expected = 2 * (A.T if which[0] else A) @ (B.T if which[1] else B)
        np.testing.assert_allclose(C, expected, 1e-13, 1e-13, err_msg=str((shape, which)))


def test_scipys_blas_replaces_a_missing_one_of_numpy(monkeypatch):
    blas.address.cache_clear()
    monkeypatch.setattr(blas, "_openblas", list)
    try:
        routine = blas.address("float64")
    finally:
        blas.address.cache_clear()
    product = functools.partial(jit.cpu_functions()["gemm"], routine)
    check_products(product, (5, 6, 7), "float64", 0, 0, 1, 0)


sides = st.integers(1, 700)


@given(rows=sides, columns=sides, parts=st.integers(1, 20))
def test_blocks_cover_a_matrix_exactly_once_and_are_of_about_one_size(rows, columns, parts):
    times, sizes = np.zeros((rows, columns), int), []
    for part in range(parts):
        first, last, start, stop = steps.block(rows, columns, part, parts)
        assert 0 <= first <= last <= rows
        assert 0 <= start <= stop <= columns
        times[first:last, start:stop] += 1
        sizes.append((last - first) * (stop - start))
    assert (times == 1).all()
    assert max(sizes) - min(sizes) <= max(rows, columns)


# --------------------------------------------------------------------------------------------
# compiled code in memory and on disk


@pytest.fixture
def twice(tmp_path):
    """A function from a file of its own, freshly compiled by each call of the fixture."""
    path = tmp_path / "of_its_own.py"
    path.write_text("def twice(x):\n    return x + x\n")
    spec = importlib.util.spec_from_file_location("of_its_own", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: jit.njit(module.twice)


def in_memory(function, arguments):
    return tuple(map(numba.typeof, arguments)) in function.signatures


def test_compiled_code_on_disk_is_found_without_a_call(twice):
    first, number = twice(), (1.0,)
    assert not in_memory(first, number)
    assert not jit.kept(first, number)
    assert jit.prepare(first, number) > 0
    assert in_memory(first, number)
    assert jit.kept(first, number)
    assert first(4.0) == 8.0

    another = twice()  # as in another process: on disk and not in memory
    assert not in_memory(another, number)
    assert jit.kept(another, number)
    jit.prepare(another, number)
    assert in_memory(another, number)
    assert sum(another.stats.cache_hits.values()) == 1


def test_a_training_runs_loaded_code_even_if_this_process_had_it_compiled():
    for dtype in DTYPES:
        jitted.load(dtype)
        stats = jit.train(dtype).stats
        assert sum(stats.cache_hits.values()) == 1
        assert not stats.cache_misses


def test_code_for_other_types_is_not_found(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    for other in ((1,), (np.ones(2),), (np.float32(1),)):
        assert not in_memory(function, other)
        assert not jit.kept(function, other)


def test_prepared_code_is_not_compiled_again(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    assert jit.prepare(function, (2.0,)) < 0.05
    function(3.0)
    assert len(function.signatures) == 1
    assert sum(function.stats.cache_misses.values()) == 1


def test_nothing_is_found_if_numba_changes_its_cache():
    assert not jit.kept(SimpleNamespace(), (1.0,))


def test_functions_compile_without_a_cache_on_disk(monkeypatch, twice):
    plain = numba.njit

    def nowhere(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(function, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    function = twice()
    jit.prepare(function, (1.0,))
    assert in_memory(function, (1.0,))
    assert not jit.kept(function, (1.0,))
    assert function(4.0) == 8.0
