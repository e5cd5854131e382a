"""Every form of the four operations against one float64 reference: vectorised, compiled on whole
arrays and on blocks of examples, and CUDA. The constants that the forms have in common agree."""

import re

import numpy as np
import pytest
from doubles import host_cuda
from helpers import compiled
from helpers.philox import dropout_mask
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scipy import special

import accelnn
from accelnn import (
    SGD,
    Adam,
    HeavyBall,
    Momentum,
    Nesterov,
    backend,
    functions,
    operations,
    optimizers,
)
from accelnn.backend import to_device, to_host
from accelnn.kernels import loops
from accelnn.kernels.cpu import fused
from accelnn.kernels.gpu import cuda

DTYPES = ("float64", "float32")
KEEP, SEED, STEP, LAYER = 0.6, 2**40 + 5, 2**33 + 6, 1  # of the dropout masks
SHAPES = [(1, 1), (4, 7), (25, 64), (33, 9), (3, 2050)]


# --------------------------------------------------------------------------------------------
# the reference

ACTIVATE = {
    "sigmoid": special.expit,
    "tanh": np.tanh,
    "relu": lambda z: np.where(z < 0, 0, z),
    "leaky_relu": lambda z: np.where(z < 0, 0.01 * z, z),
    "identity": lambda z: z,
}
SLOPE = {
    "sigmoid": lambda z: special.expit(z) * special.expit(-z),
    "tanh": lambda z: 1 - np.tanh(z) ** 2,
    "relu": lambda z: np.where(z > 0, 1.0, 0.0),
    "leaky_relu": lambda z: np.where(z > 0, 1.0, 0.01),
    "identity": np.ones_like,
}
ERROR = {  # the derivative of the loss
    "sigmoid": lambda z, y: special.expit(z) - y,
    "softmax": lambda z, y: special.softmax(z, axis=0) - y,
    "linear": lambda z, y: z - y,
    "absolute": lambda z, y: np.sign(z - y),
    "huber": lambda z, y: np.clip(z - y, -1, 1),
    "poisson": lambda z, y: np.exp(z) - y,
}
LOSS = {
    "sigmoid": lambda z, y: -y * special.log_expit(z) - (1 - y) * special.log_expit(-z),
    "softmax": lambda z, y: -y * special.log_softmax(z, axis=0),
    "linear": lambda z, y: (z - y) ** 2 / 2,
    "absolute": lambda z, y: abs(z - y),
    "huber": lambda z, y: np.where(abs(z - y) > 1, abs(z - y) - 0.5, (z - y) ** 2 / 2),
    "poisson": lambda z, y: special.xlogy(y, y) - y * z - y + np.exp(z),
}


# --------------------------------------------------------------------------------------------
# the forms, each with one signature, on NumPy arrays


# the optimizers' updates, at a step so late that Adam's corrections are over
UPDATES = {
    "update": lambda theta, step: SGD().update(theta, step, [], 1.0, 1),
    "momentum_update": lambda theta, step, V, beta, rate: Momentum(beta=beta).update(
        theta, step, [V], rate, 1
    ),
    "heavyball_update": lambda theta, step, V, beta, rate: HeavyBall(beta=beta).update(
        theta, step, [V], rate, 1
    ),
    "nesterov_update": lambda theta, step, V, beta, rate: Nesterov(beta=beta).update(
        theta, step, [V], rate, 1
    ),
    "adam_update": lambda theta, step, M, V, beta1, beta2, rate, epsilon: Adam(
        beta1=beta1, beta2=beta2, epsilon=epsilon
    ).update(theta, step, [M, V], rate, 10**9),
}


class Vectorised:
    """The operations and updates of arrays, on the chosen backend."""

    def __getattr__(self, name):
        def run(*arguments):
            moved = [
                to_device(argument.copy()) if isinstance(argument, np.ndarray) else argument
                for argument in arguments
            ]
            getattr(operations, name, UPDATES.get(name))(*moved)
            for argument, result in zip(arguments, moved, strict=True):
                if isinstance(argument, np.ndarray):
                    argument[...] = to_host(result)

        return run


class Compiled:
    """The loops of kernels/cpu/fused.py, on so many blocks of examples one after the other.

    A block lies in an array with more columns, which the loops leave alone, as in compiled steps.
    """

    def __init__(self, blocks):
        self.blocks = blocks

    def optimizer_step(self, optimizer, theta, *arguments):
        compiled.functions(str(theta.dtype)).optimizer_step(optimizer, theta, *arguments)

    def update(self, theta, step):
        none, zero = theta[:0], theta.dtype.type(0)
        self.optimizer_step(fused.SGD, theta, step, none, none, (zero,) * 4)

    def momentum_update(self, theta, step, M, beta, rate):
        self.optimizer_step(fused.MOMENTUM, theta, step, M, M[:0], (beta, beta, rate, beta))

    def heavyball_update(self, theta, step, M, beta, rate, kind=fused.HEAVYBALL):
        self.optimizer_step(kind, theta, step, M, M[:0], (beta, beta, rate, beta))

    def nesterov_update(self, theta, step, M, beta, rate):
        self.heavyball_update(theta, step, M, beta, rate, fused.NESTEROV)

    def adam_update(self, theta, step, M, V, *numbers):
        self.optimizer_step(fused.ADAM, theta, step, M, V, numbers)

    def on_blocks(self, name, A, others, arguments):
        """Call a function for each block of A, which it changes, and of the others' same columns.
        `arguments` has those that follow A, from the blocks of the others. Returns the results."""
        function, results = getattr(compiled.functions(str(A.dtype)), name), []
        for columns in np.array_split(np.arange(A.shape[1]), self.blocks):
            m, (block, *rest) = len(columns), (self.stored(one[:, columns]) for one in (A, *others))
            before = block[:, m:].copy()
            results.append(function(block, *arguments(*rest), m))
            np.testing.assert_array_equal(block[:, m:], before)
            A[:, columns] = block[:, :m]
        return results

    def stored(self, array):
        wide = np.full((len(array), array.shape[1] + 3), 7.0, array.dtype)
        wide[:, : array.shape[1]] = array
        return wide

    def bias_activation(self, Z, b, activation, D):
        kind, masks = loops.KINDS[activation], Z if D is None else D
        given = b.reshape(-1), kind
        self.on_blocks("bias_activation", Z, [masks], lambda D_: (*given, D_, D is not None))

    def activation_gradient(self, dA, A, activation, db, D, keep_prob):
        masks, keep, db[...] = A if D is None else D, dA.dtype.type(keep_prob), 0
        given, how = (loops.KINDS[activation], db.reshape(-1)), (keep, D is not None)
        others = [A, masks]
        self.on_blocks("activation_gradient", dA, others, lambda A_, D_: (A_, *given, D_, *how))

    def output_gradient(self, Z, b, Y, output, scale, db, cost, weights=None):
        db[...], work = 0, np.full((2, Z.shape[1] + 3), np.nan, Z.dtype)
        w = np.ones(Z.shape[1], Z.dtype) if weights is None else weights
        given = loops.KINDS[output], Z.dtype.type(scale), db.reshape(-1), cost is not None, work
        losses = self.on_blocks(
            "output_gradient", Z, [Y, w[None]], lambda Y_, w_: (b.reshape(-1), Y_, w_[0], *given)
        )
        if cost is not None:
            cost[...] = sum(losses) / w.sum()


class Cuda:
    """The kernels of step.cu, for which arrays hold an example's units side by side.

    grid, block : of the kernels that go over matrices
    """

    def __init__(self, grid=(2, 3), block=(32, 4)):
        self.grid, self.block = grid, block
        self.steps = to_device(np.array([0, 4, STEP - 4]))  # NEXT, NOW, BEFORE

    def launch(self, name, dtype, blocks, threads, *arguments, shared=0):
        kinds = {int: np.int64, float: np.dtype(dtype).type}
        arguments = [kinds.get(type(value), lambda same: same)(value) for value in arguments]
        kernel = cuda.kernel("step.cu", name, dtype)
        kernel(blocks, threads, tuple(arguments), shared_mem=shared * np.dtype(dtype).itemsize)

    def stored(self, array):
        """An (n, m) array on the device, columns contiguous and apart by whole 16 bytes."""
        n, m = array.shape
        rows = np.full((m, -(-n // 8) * 8), np.nan, array.dtype)
        rows[:, :n] = array.T
        return to_device(rows), (n, m, rows.shape[1])

    def read(self, rows, into):
        into[...] = to_host(rows)[:, : len(into)].T

    def dropped(self, D):
        return np.int32(LAYER), 1.0 if D is None else KEEP, np.uint64(SEED), self.steps

    def bias_activation(self, Z, b, activation, D):
        rows, sizes = self.stored(Z)
        how = *sizes, cuda.KIND[activation], *self.dropped(D)
        arrays = rows, to_device(b), rows
        self.launch("activation", Z.dtype, self.grid, self.block, *arrays, *how)
        self.read(rows, Z)

    def activation_gradient(self, dA, A, activation, db, D, _keep_prob):
        (rows, sizes), (outputs, _) = self.stored(dA), self.stored(A)
        how = *sizes, cuda.KIND[activation], *self.dropped(D)
        arrays = rows, outputs, rows
        self.launch("activation_gradient", dA.dtype, self.grid, self.block, *arrays, *how)
        self.read(rows, dA)
        self.sum(rows, sizes, db)

    def output_gradient(self, Z, b, Y, output, scale, db, cost, weights=None):
        assert weights is None
        rows, (n, m, stride) = self.stored(Z)
        blocks, threads = self.grid[1], self.block[0] * self.block[1]
        losses, lanes = to_device(np.zeros(blocks)), 1 << min(n - 1, 31).bit_length()
        labels = to_device(Y.copy()), m, 1
        how = n, m, stride, cuda.KIND[output], float(scale), np.int32(lanes), losses
        arrays = rows, to_device(b), *labels, rows
        warps = threads // 32
        self.launch("output_gradient", Z.dtype, (blocks,), (threads,), *arrays, *how, shared=warps)
        self.read(rows, Z)
        self.sum(rows, (n, m, stride), db)
        if cost is not None:
            cost[...] = to_host(losses).sum() / m

    def sum(self, rows, sizes, db):
        n, parts = sizes[0], self.grid[1]
        result = to_device(np.full(n, np.nan, db.dtype))
        partial = to_device(np.full((parts, n), np.nan, db.dtype))
        counters = to_device(np.zeros(-(-n // 32), np.uint32))
        grid, block = (-(-n // 32), parts), (32, self.block[1])
        arrays = rows, result, *sizes, partial, counters
        self.launch("bias_gradient", db.dtype, grid, block, *arrays, shared=32 * block[1])
        assert not to_host(counters).any()
        db[:, 0] = to_host(result)

    def updated(self, name, theta, step, moments, betas, rate, epsilon=0.0):
        on_device = [to_device(array.copy()) for array in (theta, *moments)]
        plan = to_device(np.array([[np.nan] * 2, [rate, epsilon]], theta.dtype))
        numbers, losses = to_device(np.array([1, 1, 0])), to_device(np.zeros(2))
        is_weight = to_device(np.zeros(1, np.uint8))
        given = on_device[0], to_device(step.copy()), theta.size, 0.0, 0.0, is_weight
        rest = on_device[0], losses, plan, numbers, *map(float, betas)
        rest += (*on_device[1:], on_device[0], on_device[0])[:2]
        self.launch(name, theta.dtype, (2,), (64,), *given, *rest, shared=2)
        assert to_host(numbers).tolist() == [2, 1, 0]
        for array, result in zip((theta, *moments), on_device, strict=True):
            array[...] = to_host(result)

    def update(self, theta, step):
        self.updated("sgd_update", theta, step, [], [0, 0], 1.0)

    def momentum_update(self, theta, step, V, beta, rate):
        self.updated("momentum_update", theta, step, [V], [beta, 0], rate)

    def heavyball_update(self, theta, step, V, beta, rate, name="heavyball_update"):
        self.updated(name, theta, step / rate, [V], [beta, 0], rate)

    def nesterov_update(self, theta, step, V, beta, rate):
        self.heavyball_update(theta, step, V, beta, rate, "nesterov_update")

    def adam_update(self, theta, step, M, V, beta1, beta2, rate, epsilon):
        self.updated("adam_update", theta, step, [M, V], [beta1, beta2], rate, epsilon)


@pytest.fixture(
    params=[
        "vectorised",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("double", "compiled", "in blocks")
        ),
        pytest.param("cuda", marks=pytest.mark.slow),
        pytest.param("cupy", marks=pytest.mark.gpu),
        pytest.param("cuda on a GPU", marks=pytest.mark.gpu),
    ]
)
def form(request):
    """Each form of the operations in turn, on its backend."""
    name = request.param
    if name in ("double", "cuda"):
        request.getfixturevalue("double" if name == "double" else "double_with_kernels")
    elif name in ("cupy", "cuda on a GPU"):
        backend.use("cupy")
    if name in ("compiled", "in blocks"):
        return Compiled(1 if name == "compiled" else 3)
    return Cuda() if "cuda" in name else Vectorised()


# --------------------------------------------------------------------------------------------
# the operations

few = settings(
    max_examples=6,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
shapes = st.tuples(st.integers(1, 40), st.integers(1, 130))
seeds = st.integers(0, 2**32)


def drawn(shape, dtype, seed=0, scale=2.0):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def mask(shape, dtype, keep_prob):
    return None if keep_prob is None else dropout_mask(shape, KEEP, SEED, STEP, LAYER, dtype)


def labels(output, shape, dtype, seed=0):
    random = np.random.default_rng(seed)
    if output == "softmax":
        return accelnn.one_hot(random.integers(shape[0], size=shape[1]), shape[0]).astype(dtype)
    if output == "sigmoid":
        return random.random(shape).round(1).astype(dtype)  # soft labels too
    if output == "poisson":
        return random.poisson(2, shape).astype(dtype)
    return random.normal(size=shape).astype(dtype)


def close(got, expected, dtype, case, terms=1):
    """Results that are sums of so many terms."""
    tolerance = {"float64": 2e-14, "float32": 4e-6}[dtype] * (1 + terms) ** 0.5
    np.testing.assert_allclose(got, expected, tolerance, tolerance * 4, err_msg=str(case))


def check_activation(form, Z, b, activation, keep_prob, case):
    dtype, D = str(Z.dtype), mask(Z.shape, str(Z.dtype), keep_prob)
    with np.errstate(all="ignore"):
        expected = ACTIVATE[activation](Z.astype("f8") + b) * (1.0 if D is None else D)
        form.bias_activation(Z, b, activation, D)
    close(Z, expected, dtype, case)


def check_gradient(form, Z, dA, activation, keep_prob, case):
    dtype, D = str(Z.dtype), mask(Z.shape, str(Z.dtype), keep_prob)
    factor, db = 1.0 if D is None else D, np.full((len(Z), 1), np.nan, Z.dtype)
    with np.errstate(all="ignore"):
        A = (ACTIVATE[activation](Z.astype("f8")) * factor).astype(dtype)
        dZ = dA * factor * SLOPE[activation](Z.astype("f8"))
        form.activation_gradient(dA, A, activation, db, D, keep_prob or 1.0)
        close(dA, dZ, dtype, case)
        close(db, dZ.sum(axis=1, keepdims=True), dtype, case, terms=10 * Z.shape[1])


def check_output(form, Z, b, Y, output, with_cost, case, weights=None):
    dtype, (n, m) = str(Z.dtype), Z.shape
    db, cost = np.full((n, 1), np.nan, Z.dtype), np.full((), np.nan, Z.dtype)
    with np.errstate(all="ignore"):
        logits = Z.astype("f8") + b
        w = np.ones(m) if weights is None else weights.astype("f8")
        dZ = ERROR[output](logits, Y) * w * 0.5
        loss = (LOSS[output](logits, Y) * w).sum() / w.sum()
        extra = [] if weights is None else [weights]
        form.output_gradient(Z, b, Y, output, 0.5, db, cost if with_cost else None, *extra)
        close(Z, dZ, dtype, case, terms=n)
        close(db, dZ.sum(axis=1, keepdims=True), dtype, case, terms=10 * m)
        if with_cost:
            close(cost, loss, dtype, case, terms=m)


def check_all(form, shape, dtype, keep_prob, seed):
    case = shape, dtype, keep_prob, seed
    Z, dA = drawn(shape, dtype, seed), drawn(shape, dtype, seed + 1)
    b = drawn((shape[0], 1), dtype, seed + 2)
    for activation in functions.ACTIVATIONS:
        check_activation(form, Z.copy(), b, activation, keep_prob, (activation, *case))
        check_gradient(form, Z.copy(), dA.copy(), activation, keep_prob, (activation, *case))
    for output in functions.OUTPUTS:
        Y = labels(output, shape, dtype, seed)
        check_output(form, Z.copy(), b, Y, output, keep_prob is None, (output, *case))
        if not isinstance(form, Cuda):
            w = np.random.default_rng(seed).integers(1, 9, shape[1]).astype(dtype)
            check_output(form, Z.copy(), b, Y, output, True, (output, "weights", *case), w)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("keep_prob", [None, KEEP])
def test_operations_are_those_of_the_reference(form, dtype, keep_prob):
    for shape in SHAPES:
        check_all(form, shape, dtype, keep_prob, 0)


@few
@given(shape=shapes, dtype=st.sampled_from(DTYPES), dropout=st.booleans(), seed=seeds)
def test_operations_of_any_shape(form, shape, dtype, dropout, seed):
    check_all(form, shape, dtype, KEEP if dropout else None, seed)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_come_out_where_the_reference_has_them(form, dtype):
    Z, dA, b = drawn((6, 40), dtype), drawn((6, 40), dtype, 1), drawn((6, 1), dtype, 2)
    Z[1, :3], Z[2, 5], b[5] = [np.nan, np.inf, -np.inf], np.nan, np.nan
    finite = drawn((6, 40), dtype, 3)
    dA[3, 6:9] = [np.nan, np.inf, -np.inf]
    for activation in functions.ACTIVATIONS:
        check_activation(form, Z.copy(), b, activation, None, activation)
        if activation in ("sigmoid", "tanh"):  # a slope of 0 times infinity differs by form
            check_gradient(form, finite.copy(), dA.copy(), activation, None, activation)
    one_bad = drawn((6, 40), dtype)
    one_bad[1, 17] = np.nan
    for output in functions.OUTPUTS:
        Y = labels(output, Z.shape, dtype)
        check_output(form, one_bad.copy(), np.zeros_like(b), Y, output, True, output)


@pytest.mark.parametrize("dtype", DTYPES)
def test_extreme_numbers_overflow_nowhere(form, dtype):
    Z = np.array([[0.0, -0.0, 1e-30, 20, -20, 90, -90, 750, -750, 1e4, -1e4, 3e38, -3e38]], dtype)
    zero = np.zeros((1, 1), dtype)
    for activation in functions.ACTIVATIONS:
        check_activation(form, Z.copy(), zero, activation, None, activation)
    logits = Z[0, :11]
    pairs = np.stack([np.repeat(logits, 11), np.tile(logits, 11)])
    for output in functions.OUTPUTS.keys() - {"poisson"}:  # whose e^z overflows
        for winner in range(2):
            Y = np.eye(2, dtype=dtype)[[winner] * 121].T
            check_output(form, pairs.copy(), np.zeros((2, 1), dtype), Y, output, True, output)


@pytest.mark.parametrize("dtype", DTYPES)
def test_tiny_costs_keep_their_digits(form, dtype):
    if isinstance(form, Cuda):
        pytest.skip("whose softmax has the cost of an example to one rounding of 1")
    Z = np.array([[30, 0, 5], [0, 31, 5], [-1, 2, -40]], dtype)
    softmax = np.log1p([np.exp(-30) + np.exp(-31), np.exp(-31) + np.exp(-29), 1 + np.exp(-45)])
    logistic = LOSS["sigmoid"](Z[0].astype("f8"), np.array([1, 0, 1]))
    for columns in ([0], [1], [0, 1, 2]):
        for rows, output, losses in ((3, "softmax", softmax), (1, "sigmoid", logistic)):
            Y = np.eye(3, dtype=dtype)[:, [0, 1, 0]][:rows, columns]
            db, cost = np.zeros((rows, 1), dtype), np.full((), np.nan, dtype)
            form.output_gradient(Z[:rows, columns], 0 * db, Y, output, 1.0, db, cost)
            exact = losses[columns].mean()
            rel = {"float64": 1e-13}.get(dtype, 1e-5)
            assert float(cost) == pytest.approx(exact, rel=rel, abs=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_updates(form, dtype):
    for size in (1, 9, 100, 1000):
        theta, step, M = (drawn(size, dtype, seed) for seed in range(3))
        V = abs(drawn(size, dtype, 3)) + np.dtype(dtype).type(0.1)
        exact = [array.astype("f8") for array in (theta, step, M, V)]

        def check(name, arrays, numbers, expected, size=size):
            got = [array.copy() for array in arrays]
            getattr(form, name)(*got, *map(np.dtype(dtype).type, numbers))
            for one, other in zip([got[0], *got[2:]], expected, strict=True):
                close(one, other, dtype, (name, size), terms=4)

        t, s, m, v = exact
        check("update", (theta, step), (), [t - s])
        average = 0.9 * m + s
        check("momentum_update", (theta, step, M), (0.9, 0.3), [t - 0.3 * average, average])
        check("heavyball_update", (theta, step, M), (0.9, 0.25), [t - average, average])
        check("nesterov_update", (theta, step, M), (0.9, 0.25), [t - 0.9 * average - s, average])
        square = 0.995 * v + 0.005 * (s / (1 - 0.9)) ** 2  # step is (1 - β₁) times the gradient
        adam = [t - 0.01 * average / (np.sqrt(square) + 1e-8), average, square]
        check("adam_update", (theta, step, M, V), (0.9, 0.995, 0.01, 1e-8), adam)


GRIDS = [((1, 1), (32, 1)), ((3, 2), (32, 8)), ((40, 1), (32, 4)), ((2, 3), (64, 2))]


@pytest.mark.slow
@pytest.mark.usefixtures("double_with_kernels")
def test_any_grid_and_any_order_of_the_threads_is_right(monkeypatch):
    for order, (grid, block) in enumerate(GRIDS):
        monkeypatch.setattr(host_cuda, "seed", order)
        check_all(Cuda(grid, block), (33, 132), "float32", KEEP, 0)
        check_all(Cuda(grid, block), (13, 40), "float32", None, 0)


@pytest.mark.slow
@pytest.mark.usefixtures("double_with_kernels")
def test_sums_over_many_blocks_give_the_same_bits_each_time(monkeypatch):
    results = set()
    for order in range(5):
        monkeypatch.setattr(host_cuda, "seed", order)
        Z, b, Y = (
            drawn((3, 901), "float32"),
            drawn((3, 1), "float32"),
            labels("softmax", (3, 901), "f4"),
        )
        db, cost = np.empty((3, 1), "f4"), np.empty((), "f4")
        Cuda((1, 20)).output_gradient(Z, b, Y, "softmax", 1.0, db, cost)
        results.add(b"".join(array.tobytes() for array in (Z, db, cost)))
    assert len(results) == 1


# --------------------------------------------------------------------------------------------
# constants that all forms share


def test_constants_kinds_and_names_agree():
    text = cuda.source("step.cu")

    def enum(name):
        [names] = re.findall(rf"enum {name} \{{(.*?)\}}", text)
        return names.lower().replace(",", " ").split()

    [leak] = re.findall(r"LEAK = REAL\((.*?)\)", text)
    assert float(leak) == loops.LEAK == functions.LEAKY_SLOPE
    kinds = loops.KINDS.keys() - {"identity"}  # of the same kind as "linear"
    assert enum("Kind") == sorted(kinds, key=loops.KINDS.get)
    assert enum("Optimizer") == sorted(fused.OPTIMIZERS, key=fused.OPTIMIZERS.get)
    assert loops.HIDDEN_KINDS.keys() == functions.ACTIVATIONS.keys()
    assert loops.OUTPUT_KINDS.keys() == functions.OUTPUTS.keys()
    assert fused.OPTIMIZERS.keys() == optimizers.OPTIMIZERS.keys()
