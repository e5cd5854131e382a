"""The compiled operations against the vectorised ones, the compiled steps' products against
NumPy's, and how compiled code is looked up and prepared."""

import importlib.util
import itertools
from types import SimpleNamespace

import numba
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Network, operations
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.kernels import jit
from accelnn.kernels.cpu import blas, steps
from accelnn.kernels.loops import KINDS
from accelnn.solvers import jitted

pytestmark = pytest.mark.slow

STEPS = SimpleNamespace(**jit.steps())


def shared_by(threads):
    """The compiled operations as so many threads share them in a training."""

    def bias_activation(Z, b, activation, D):
        masks, kind = Z if D is None else D, KINDS[activation]
        for part in range(threads):
            area = steps.block(*Z.shape, part, threads)
            STEPS.bias_activation(Z, b[:, 0], kind, masks, D is not None, *area)

    def activation_gradient(dA, A, activation, db, D, keep_prob):
        masks, kind = A if D is None else D, KINDS[activation]
        keep, sums = dA.dtype.type(keep_prob), np.zeros((len(dA), threads), dA.dtype)
        for part in range(threads):
            area = steps.block(*dA.shape, part, threads)
            STEPS.activation_gradient(dA, A, kind, sums, part, masks, keep, D is not None, *area)
        sums.sum(axis=1, keepdims=True, out=db)

    def output_gradient(Z, b, Y, output, scale, db, cost):
        (n, m), loss = Z.shape, 0.0
        sums, work = np.zeros((n, threads), Z.dtype), np.empty((2, m), Z.dtype)
        for part in range(threads):
            loss += STEPS.output_gradient(
                Z,
                b[:, 0],
                Y,
                KINDS[output],
                Z.dtype.type(scale),
                sums,
                part,
                cost is not None,
                work,
                part * m // threads,
                (part + 1) * m // threads,
            )
        sums.sum(axis=1, keepdims=True, out=db)
        if cost is not None:
            cost[...] = loss / m

    return SimpleNamespace(
        bias_activation=bias_activation,
        activation_gradient=activation_gradient,
        output_gradient=output_gradient,
        momentum_update=STEPS.momentum_update,
        adam_update=STEPS.adam_update,
    )


FORMS = {"vectorised": operations.VECTORISED, "compiled": shared_by(1), "shared": shared_by(3)}
TOLERANCE = {"float64": 1e-14, "float32": 2e-6}
dtypes = pytest.mark.parametrize("dtype", TOLERANCE)
activations = pytest.mark.parametrize("activation", ACTIVATIONS)
outputs = pytest.mark.parametrize("output", OUTPUTS)
keeps = pytest.mark.parametrize("keep_prob", [None, 0.6])
few = settings(max_examples=15, deadline=None)
shapes = st.tuples(st.integers(1, 9), st.integers(1, 130))
seeds = st.integers(0, 2**32)


def drawn(shape, dtype, keep_prob=None, seed=0, scale=2.0):
    """Z, b, what a gradient may be, and D."""
    random = np.random.default_rng(seed)
    Z, dA = (scale * random.normal(size=shape).astype(dtype) for _ in range(2))
    b = random.normal(size=(shape[0], 1)).astype(dtype)
    D = None
    if keep_prob is not None:
        D = ((random.random(shape) < keep_prob) / keep_prob).astype(dtype)
    return Z, b, dA, D


def labels(output, shape, dtype, seed):
    random = np.random.default_rng(seed)
    if output == "softmax":
        return accelnn.one_hot(random.integers(shape[0], size=shape[1]), shape[0]).astype(dtype)
    if output == "sigmoid":
        return random.random(shape).round(1).astype(dtype)  # soft labels too
    return random.normal(size=shape).astype(dtype)


def check_same(results, dtype, terms=1):
    """Arrays of all forms, sums of so many terms."""
    tolerance = TOLERANCE[dtype] * (1 + terms) ** 0.5 * 4
    for form in FORMS:
        for got, expected in zip(results[form], results["vectorised"], strict=True):
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(got, expected, rtol=tolerance, atol=tolerance)


# --------------------------------------------------------------------------------------------
# each operation against the vectorised one


def biased_and_activated(Z, b, activation, D):
    results = {}
    for name, form in FORMS.items():
        work = Z.copy()
        form.bias_activation(work, b, activation, D)
        results[name] = [work]
    return results


def activation_gradients(Z, dA, activation, D, keep_prob):
    """dZ and db of all forms, from the activations of the vectorised one."""
    results, A = {}, Z.copy()
    FORMS["vectorised"].bias_activation(A, np.zeros((len(Z), 1), Z.dtype), activation, D)
    for name, form in FORMS.items():
        work, db = dA.copy(), np.full((len(Z), 1), np.nan, Z.dtype)
        form.activation_gradient(work, A.copy(), activation, db, D, keep_prob or 1.0)
        results[name] = [work, db]
    return results


def output_gradients(Z, b, Y, output, scale=0.5, with_cost=True):
    results = {}
    for name, form in FORMS.items():
        work, db, cost = Z.copy(), np.full(b.shape, np.nan, Z.dtype), np.full(2, np.nan, Z.dtype)
        form.output_gradient(work, b, Y, output, scale, db, cost[1, ...] if with_cost else None)
        assert np.isnan(cost[0])
        results[name] = [work, db, cost[1:]]
    return results


@activations
@dtypes
@keeps
@few
@given(shape=shapes, seed=seeds)
def test_bias_and_activation(activation, dtype, keep_prob, shape, seed):
    Z, b, _, D = drawn(shape, dtype, keep_prob, seed)
    check_same(biased_and_activated(Z, b, activation, D), dtype)


@activations
@dtypes
@keeps
@few
@given(shape=shapes, seed=seeds)
def test_derivative_and_its_sum(activation, dtype, keep_prob, shape, seed):
    Z, _, dA, D = drawn(shape, dtype, keep_prob, seed)
    results = activation_gradients(Z, dA, activation, D, keep_prob)
    check_same(results, dtype, terms=shape[1])


@outputs
@dtypes
@pytest.mark.parametrize("with_cost", [True, False])
@few
@given(shape=shapes, seed=seeds)
def test_output_loss_and_gradient(output, dtype, with_cost, shape, seed):
    Z, b, _, _ = drawn(shape, dtype, seed=seed)
    Y = labels(output, shape, dtype, seed)
    results = output_gradients(Z, b, Y, output, with_cost=with_cost)
    assert np.isnan(results["compiled"][2][0]) != with_cost
    check_same(results, dtype, terms=shape[1])


@pytest.mark.parametrize("shape", [(1, 1), (1, 5000), (300, 1), (40, 3000)])
@dtypes
def test_shapes_that_threads_share(shape, dtype):
    Z, b, dA, D = drawn(shape, dtype, 0.6)
    check_same(biased_and_activated(Z, b, "tanh", D), dtype)
    check_same(activation_gradients(Z, dA, "tanh", D, 0.6), dtype, terms=shape[1])
    for output in OUTPUTS:
        Y = labels(output, shape, dtype, 1)
        check_same(output_gradients(Z, b, Y, output), dtype, terms=shape[1])


@dtypes
@few
@given(size=st.integers(1, 500), seed=seeds)
def test_updates(dtype, size, seed):
    random = np.random.default_rng(seed)
    given_ = [random.normal(size=size).astype(dtype) for _ in range(3)]
    given_.append(random.random(size).astype(dtype))
    for operation, arrays, numbers in (
        ("momentum_update", 3, (0.9, 0.3)),
        ("adam_update", 4, (0.9, 0.999, 0.01, 1e-8)),
    ):
        results = {}
        for name, form in FORMS.items():
            theta, step, *moments = (array.copy() for array in given_[:arrays])
            getattr(form, operation)(theta, step, *moments, *map(theta.dtype.type, numbers))
            results[name] = [theta, *moments]
        # Where V is near 0 Adam divides by its root, of which float32 knows few digits
        check_same(results, dtype, terms=100)


# --------------------------------------------------------------------------------------------
# NaN, and logits far from 0


@activations
@dtypes
def test_nan_stays_where_it_is(activation, dtype):
    Z, b, dA, _ = drawn((3, 40), dtype)
    Z[1, 17] = np.nan
    results = biased_and_activated(Z, b, activation, None)
    np.testing.assert_array_equal(np.isnan(results["compiled"][0]), np.isnan(Z))
    check_same(results, dtype)

    Z, _, dA, _ = drawn((3, 40), dtype)
    dA[1, 17] = np.nan
    dZ, db = activation_gradients(Z, dA, activation, None, None)["compiled"]
    np.testing.assert_array_equal(np.isnan(dZ), np.isnan(dA))
    assert np.isnan(db[:, 0]).tolist() == [False, True, False]


@outputs
@dtypes
def test_nan_reaches_the_loss_and_what_depends_on_it(output, dtype):
    Z, b, _, _ = drawn((3, 40), dtype)
    Z[1, 17] = np.nan
    results = output_gradients(Z, b, labels(output, (3, 40), dtype, 1), output)
    dZ, db, cost = results["compiled"]
    expected = np.isnan(Z)
    if output == "softmax":
        expected[:, 17] = True  # the probabilities of an example add up to 1
    np.testing.assert_array_equal(np.isnan(dZ), expected)
    np.testing.assert_array_equal(np.isnan(db[:, 0]), expected.any(axis=1))
    assert np.isnan(cost).all()
    check_same(results, dtype, terms=40)


@pytest.mark.parametrize("size", [100.0, 1000.0, 1e4])
@outputs
@dtypes
@pytest.mark.parametrize("sign", [-1, 1])
def test_extreme_logits_have_finite_losses(output, dtype, size, sign):
    Z = np.array([[1, -1, 1, -1], [-1, 1, 1, -1], [0, 0, 1, 0]], dtype) * size * sign
    Y = np.eye(3, dtype=dtype)[:, [0, 0, 1, 2]]
    results = output_gradients(Z, np.zeros((3, 1), dtype), Y, output)
    for result in results["compiled"]:
        assert np.isfinite(result).all()
    assert results["compiled"][2] >= size / 4
    check_same(results, dtype)


@activations
@dtypes
def test_extreme_activations_are_those_of_the_formulas(activation, dtype):
    Z = np.array([[-1e30, -1e4, -750, -90, -1e-30, 0, 1e-30, 90, 750, 1e4, 1e30]], dtype)
    results = biased_and_activated(Z, np.zeros((1, 1), dtype), activation, None)
    assert np.isfinite(results["compiled"][0]).all()
    check_same(results, dtype)


# --------------------------------------------------------------------------------------------
# all together


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam"])
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("output", OUTPUTS)
def test_a_compiled_training_is_the_vectorised_one(optimizer, batch_size, output):
    net = Network([5, 7, 6, 3], hidden=("tanh", "leaky_relu"), output=output, keep_prob=0.8, l2=0.1)
    X, Y = np.random.default_rng(0).normal(size=(5, 30)), labels(output, (3, 30), "float64", 1)
    options = {"epochs": 5, "learning_rate": 0.05, "record_every": 2, "validation": 0.2}
    options |= {"optimizer": optimizer, "batch_size": batch_size}
    expected, plain = accelnn.fit(net, net.init("he"), X, Y, solver="direct", **options)
    params, history = accelnn.fit(net, net.init("he"), X, Y, solver="jitted", **options)
    np.testing.assert_allclose(params.flat, expected.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, plain.costs, rtol=1e-12)
    np.testing.assert_allclose(history.validation_costs, plain.validation_costs, rtol=1e-12)


# --------------------------------------------------------------------------------------------
# products

# rows, depth, columns
PRODUCTS = {
    "numbers": (1, 1, 1),
    "inner": (1, 300, 1),
    "outer": (5, 1, 7),
    "thin": (7, 209, 209),
    "one row": (1, 400, 300),
    "one column": (300, 400, 1),
    "beyond the cache": (4, 70, 2000),
    "BLAS": (50, 60, 55),
    "few rows in BLAS": (6, 500, 700),
    "wide in BLAS": (9, 20, 1500),
}
TRANSPOSED = [(0, 0), (1, 0), (0, 1)]  # A, B; a training has no product of both transposed
FACTORS = [(1, 0), (-1, 1), (1, 0.9), (0.5, -2)]  # α, β
transposed = pytest.mark.parametrize(("A_transposed", "B_transposed"), TRANSPOSED)


def matrices(shape, dtype, A_transposed, B_transposed, beta):
    """A, B, C, and op(A), op(B), which are views of them; where β is 0 C is not yet filled."""
    rows, depth, columns = shape
    random = np.random.default_rng(0)
    A = random.normal(size=(depth, rows) if A_transposed else (rows, depth)).astype(dtype)
    B = random.normal(size=(columns, depth) if B_transposed else (depth, columns)).astype(dtype)
    C = random.normal(size=(rows, columns)).astype(dtype)
    if beta == 0:
        C[...] = np.nan
    return A, B, C, A.T if A_transposed else A, B.T if B_transposed else B


def check_product(C, before, opA, opB, alpha, beta, areas):
    """Each area of C is α A B + β C, and the rest is as it was."""
    depth = opA.shape[1]
    full = alpha * (opA.astype("f8") @ opB) + (beta * before.astype("f8") if beta else 0)
    expected = before.astype("f8")
    for first, last, start, stop in areas:
        expected[first:last, start:stop] = full[first:last, start:stop]
    tolerance = 16 * np.finfo(C.dtype).eps * max(depth, 8) ** 0.5
    np.testing.assert_allclose(C, expected, rtol=tolerance, atol=tolerance * 4)


def areas_of(rows, columns):
    """Areas of a matrix: all of it, what several threads would do, and a part from its middle."""
    yield [(0, rows, 0, columns)]
    yield [steps.block(rows, columns, part, 3) for part in range(3)]
    yield [(rows // 3, rows - rows // 4, columns // 4, columns - columns // 3)]


@pytest.mark.parametrize("name", PRODUCTS)
@transposed
@pytest.mark.parametrize(("alpha", "beta"), FACTORS)
@dtypes
def test_products_are_those_of_numpy(name, A_transposed, B_transposed, alpha, beta, dtype):
    rows, _, columns = PRODUCTS[name]
    kind = np.dtype(dtype).type
    for areas in areas_of(rows, columns):
        A, B, C, opA, opB = matrices(PRODUCTS[name], dtype, A_transposed, B_transposed, beta)
        before, routine = C.copy(), blas.address(dtype)
        for area in areas:
            STEPS.product(
                routine, A, A_transposed, B, B_transposed, C, kind(alpha), kind(beta), area
            )
        check_product(C, before, opA, opB, alpha, beta, areas)


@transposed
def test_products_of_all_small_sizes_are_those_of_numpy(A_transposed, B_transposed):
    """All remainders of what is done by eights, fours and twos."""
    routine = blas.address("float64")
    for shape in itertools.product(range(1, 5), range(1, 18), range(1, 4)):
        A, B, C, opA, opB = matrices(shape, "float64", A_transposed, B_transposed, 0)
        area = (0, shape[0], 0, shape[2])
        STEPS.product(routine, A, A_transposed, B, B_transposed, C, 1.0, 0.0, area)
        np.testing.assert_allclose(C, opA @ opB, rtol=1e-13, atol=1e-13)


@transposed
@few
@given(rows=st.integers(1, 5), depth=st.integers(1, 20), columns=st.integers(1, 5))
def test_products_as_plain_python(A_transposed, B_transposed, rows, depth, columns):
    shape = rows, depth, columns
    for alpha, beta in FACTORS:
        A, B, C, opA, opB = matrices(shape, "float64", A_transposed, B_transposed, beta)
        before, area = C.copy(), (0, rows, 0, columns)
        steps.product(0, A, A_transposed, B, B_transposed, C, alpha, beta, area)
        check_product(C, before, opA, opB, alpha, beta, [area])


def test_wide_products_go_by_parts_that_stay_in_the_cache(monkeypatch):
    widths = []
    plain = steps.add_row

    def watched(A, transposed, B, C, alpha, i, start, stop, depth):
        widths.append((start, stop))
        plain(A, transposed, B, C, alpha, i, start, stop, depth)

    monkeypatch.setattr(steps, "SECOND_CACHE", 4000)
    monkeypatch.setattr(steps, "add_row", watched)
    A, B, C, opA, opB = matrices((1, 3, 200), "float64", 0, 0, 0)
    steps.product(0, A, 0, B, 0, C, 1.0, 0.0, (0, 1, 10, 190))
    assert widths == [(10, 93), (93, 176), (176, 190)]  # 83 columns of 3 numbers are 2000 bytes
    np.testing.assert_allclose(C[:, 10:190], (opA @ opB)[:, 10:190], rtol=1e-13)
    assert np.isnan(C[:, :10]).all()
    assert np.isnan(C[:, 190:]).all()


@pytest.mark.parametrize("name", PRODUCTS)
@pytest.mark.parametrize(("A_transposed", "B_transposed"), [*TRANSPOSED, (1, 1)])
@dtypes
def test_blas_is_given_blocks_of_row_major_matrices(name, A_transposed, B_transposed, dtype):
    shape, kind = PRODUCTS[name], np.dtype(dtype).type
    for (alpha, beta), areas in itertools.product(FACTORS, areas_of(shape[0], shape[2])):
        A, B, C, opA, opB = matrices(shape, dtype, A_transposed, B_transposed, beta)
        before = C.copy()
        for area in areas:
            STEPS.gemm(
                blas.address(dtype),
                A,
                A_transposed,
                B,
                B_transposed,
                C,
                kind(alpha),
                kind(beta),
                *area,
            )
        check_product(C, before, opA, opB, alpha, beta, areas)


def test_scipy_serves_where_numpys_blas_is_not_found(monkeypatch):
    blas.address.cache_clear()
    monkeypatch.setattr(blas, "_openblas_files", list)
    try:
        routine = blas.address("float64")
    finally:
        blas.address.cache_clear()
    A, B, C, opA, opB = matrices((5, 6, 7), "float64", 0, 0, 0)
    STEPS.gemm(routine, A, 0, B, 0, C, 1.0, 0.0, 0, 5, 0, 7)
    np.testing.assert_allclose(C, opA @ opB, rtol=1e-13)


@given(rows=st.integers(1, 700), columns=st.integers(1, 700), parts=st.integers(1, 20))
def test_blocks_cover_a_matrix_exactly_once(rows, columns, parts):
    times = np.zeros((rows, columns), int)
    for part in range(parts):
        first, last, start, stop = steps.block(rows, columns, part, parts)
        assert 0 <= first <= last <= rows
        assert 0 <= start <= stop <= columns
        times[first:last, start:stop] += 1
    assert (times == 1).all()


@given(rows=st.integers(1, 2000), columns=st.integers(1, 2000), parts=st.integers(1, 20))
def test_blocks_are_of_about_one_size(rows, columns, parts):
    sizes = []
    for part in range(parts):
        first, last, start, stop = steps.block(rows, columns, part, parts)
        sizes.append((last - first) * (stop - start))
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


def test_what_is_kept_is_known_before_it_is_called(twice):
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
    for dtype in TOLERANCE:
        jitted.load(dtype)
    stats = jit.train().stats
    assert sum(stats.cache_hits.values()) == len(TOLERANCE)
    assert not stats.cache_misses


def test_other_types_are_not_kept(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    for other in ((1,), (np.ones(2),), (np.float32(1),)):
        assert not in_memory(function, other)
        assert not jit.kept(function, other)


def test_what_is_prepared_is_not_compiled_again(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    assert jit.prepare(function, (2.0,)) < 0.05
    function(3.0)
    assert len(function.signatures) == 1
    assert sum(function.stats.cache_misses.values()) == 1


def test_where_numba_no_longer_tells_nothing_is_kept():
    assert not jit.kept(SimpleNamespace(), (1.0,))


def test_without_a_place_on_disk_nothing_is_kept_and_all_works(monkeypatch, twice):
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
