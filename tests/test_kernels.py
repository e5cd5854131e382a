"""The loops agree with closed forms however they are run: plain Python over lists and over
arrays, compiled, and compiled in parallel."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from accelnn.kernels import jit, loops
from accelnn.kernels.loops import LEAKY_RELU, LINEAR, RELU, SIGMOID, SOFTMAX, TANH

EXECUTIONS = {
    "lists": loops,
    "arrays": loops,
    "serial": jit.serial,
    "parallel": jit.parallel,
}
TOLERANCE = {np.float64: 1e-12, np.float32: 2e-5}

everywhere = pytest.mark.parametrize(
    "execution",
    ["lists", "arrays", "serial", pytest.param("parallel", marks=pytest.mark.slow)],
)


def execute(execution, name, *args):
    """Call a loop; what it writes lands in the arrays given, also when it ran over lists."""
    function = getattr(EXECUTIONS[execution], name)
    if execution != "lists":
        return function(*args)
    lists = [as_lists(arg) for arg in args]
    result = function(*lists)
    for arg, values in zip(args, lists, strict=True):
        copy_back(values, arg)
    return result


def as_lists(arg):
    if isinstance(arg, tuple):
        return [as_lists(entry) for entry in arg]
    return arg.tolist() if isinstance(arg, np.ndarray) else arg


def copy_back(values, arg):
    if isinstance(arg, tuple):
        for entry, array in zip(values, arg, strict=True):
            copy_back(entry, array)
    elif isinstance(arg, np.ndarray) and arg.size:
        arg[...] = values


def close(actual, expected, dtype=np.float64, case=""):
    tolerance = TOLERANCE[dtype]
    np.testing.assert_allclose(actual, expected, tolerance, tolerance, err_msg=str(case))


# ------------------------------------------------------------------- vectors and matrices


def softmax(Z, axis):
    E = np.exp(Z - Z.max(axis=axis, keepdims=True))
    return E / E.sum(axis=axis, keepdims=True)


CASES = {  # name: shapes of the arguments, shape of the result (None: a number), closed form
    "dot": ("n n", None, np.dot),
    "outer": ("n m", "nm", np.outer),
    "elementwise": ("n n", "n", np.multiply),
    "gdot": ("nm m", "n", np.matmul),
    "matmul": ("nk km", "nm", np.matmul),
    "normalize_rows": ("nm", "nm", lambda x: x / np.linalg.norm(x, axis=1, keepdims=True)),
    "softmax": ("nm", "nm", lambda x: softmax(x, axis=1)),
    "l1": ("n n", None, lambda yhat, y: np.abs(y - yhat).sum()),
    "l2": ("n n", None, lambda yhat, y: ((y - yhat) ** 2).sum()),
}


@everywhere
@pytest.mark.parametrize("name", CASES)
def test_loops_agree_with_closed_forms(execution, name):
    shapes, result_shape, closed_form = CASES[name]
    sizes = [(0, 2, 3), (1, 1, 1), (2, 3, 0), (15, 17, 16)]
    for dtype, (n, m, k) in itertools.product(TOLERANCE, sizes):
        rng, size = np.random.default_rng(1), {"n": n, "m": m, "k": k}
        inputs = [
            rng.standard_normal([size[letter] for letter in shape]).astype(dtype)
            for shape in shapes.split()
        ]
        expected = closed_form(*(x.astype(np.float64) for x in inputs))
        if result_shape is None:
            result = execute(execution, name, *inputs)
        else:
            result = np.full([size[letter] for letter in result_shape], np.nan, dtype)
            execute(execution, name, *inputs, result)
        close(result, expected, dtype, (dtype, size))


@everywhere
def test_rows_of_zeros_and_huge_inputs(execution):
    x, out = np.array([[0.0, 0.0], [3.0, 4.0]]), np.full((2, 2), np.nan)
    execute(execution, "normalize_rows", x, out)
    close(out, [[0.0, 0.0], [0.6, 0.8]])
    x, out = np.array([[1e4, -1e4, 1e4]]), np.full((1, 3), np.nan)
    execute(execution, "softmax", x, out)
    close(out, [[0.5, 0.0, 0.5]])


# -------------------------------------------------------------------- logistic regression

logits = st.floats(-1e4, 1e4)


@pytest.mark.parametrize("run", [loops, jit.serial], ids=["python", "serial"])
@given(z=logits)
@example(z=-1e4)
@example(z=1e4)
@settings(deadline=None)
def test_sigmoid_and_its_loss_over_the_whole_range(run, z):
    np.testing.assert_allclose(run.sigmoid(z), np.exp(-np.logaddexp(0, -z)), 1e-12, 1e-300)
    for y in 0.0, 0.3, 1.0:
        close(run.logistic_loss(z, y), np.logaddexp(0, z) - y * z)


@everywhere
def test_logistic_cost_and_gradient(execution):
    for name, scale in itertools.product(
        ["logistic_explicit", "logistic_vectorised_features"], [1.0, 1e4]
    ):
        if execution == "lists" and name == "logistic_vectorised_features":
            continue  # array expressions need arrays
        rng = np.random.default_rng(2)
        w, b, X = rng.standard_normal(7), 0.3, scale * rng.standard_normal((7, 15))
        Y, dw = rng.integers(0, 2, 15).astype(float), np.full(7, np.nan)
        cost, db = execute(execution, name, w, b, X, Y, dw)
        z = w @ X + b
        dz = np.exp(-np.logaddexp(0, -z)) - Y
        expected = np.mean(np.logaddexp(0, z) - Y * z), dz.mean(), *(X @ dz / 15)
        np.testing.assert_allclose([cost, db, *dw], expected, 1e-12, err_msg=f"{name} {scale}")


# ---------------------------------------------------------------------------- dense layers

ACTIVATIONS = {  # of Z, and the derivative, of Z as well
    SIGMOID: (lambda Z: 1 / (1 + np.exp(-Z)), lambda Z: np.exp(-Z) / (1 + np.exp(-Z)) ** 2),
    TANH: (np.tanh, lambda Z: 1 / np.cosh(Z) ** 2),
    RELU: (lambda Z: np.maximum(Z, 0), lambda Z: 1.0 * (Z > 0)),
    LEAKY_RELU: (lambda Z: np.maximum(Z, 0.01 * Z), lambda Z: np.where(Z > 0, 1, 0.01)),
    SOFTMAX: (lambda Z: softmax(Z, axis=0), None),
    LINEAR: (lambda Z: Z, None),
}
COSTS = {  # for each example
    SIGMOID: lambda A, Y: -np.sum(Y * np.log(A) + (1 - Y) * np.log(1 - A), axis=0),
    SOFTMAX: lambda A, Y: -np.sum(Y * np.log(A), axis=0),
    LINEAR: lambda A, Y: np.sum((A - Y) ** 2, axis=0) / 2,
}
HIDDEN = [SIGMOID, TANH, RELU, LEAKY_RELU]
NETWORKS = [  # each output without hidden layers, behind each activation, and behind all of them
    (*hidden, output) for output in COSTS for hidden in ([], *([kind] for kind in HIDDEN), HIDDEN)
]


def network(kinds, dtype=np.float64, m=6):
    """W, b, A with X in A[0], Y, and room for dA, dW, db."""
    rng = np.random.default_rng(3)
    sizes = [3, *[4, 3, 5, 2][: len(kinds) - 1], 2]
    W = tuple(rng.standard_normal((n, before)) for before, n in itertools.pairwise(sizes))
    b = tuple(rng.standard_normal((n, 1)) for n in sizes[1:])
    A = tuple(np.full((n, m), np.nan) for n in sizes)
    A[0][...] = rng.standard_normal(A[0].shape)
    Y = {
        SIGMOID: rng.integers(0, 2, (2, m)),
        SOFTMAX: np.eye(2)[:, rng.integers(0, 2, m)],
        LINEAR: rng.standard_normal((2, m)),
    }[kinds[-1]]
    W, b, A = (tuple(x.astype(dtype) for x in matrices) for matrices in (W, b, A))
    dA, dW, db = (tuple(np.full_like(x, np.nan) for x in matrices) for matrices in (A, W, b))
    return W, b, A, np.ascontiguousarray(Y, dtype), dA, dW, db


def numpy_forward_backward(W, b, X, Y, kinds, lambd):
    """A, the cost with its penalty, dW and db by vectorised NumPy, as the notes have them."""
    A, Z = [X], []
    for W_l, b_l, kind in zip(W, b, kinds, strict=True):
        Z.append(W_l @ A[-1] + b_l)
        A.append(ACTIVATIONS[kind][0](Z[-1]))
    m = Y.shape[1]
    cost = COSTS[kinds[-1]](A[-1], Y).mean() + lambd / (2 * m) * sum((W_l**2).sum() for W_l in W)
    dZ, dW, db = (A[-1] - Y) / m, [], []
    for layer in reversed(range(len(W))):
        dW.insert(0, dZ @ A[layer].T + lambd / m * W[layer])
        db.insert(0, dZ.sum(axis=1, keepdims=True))
        if layer:
            dZ = (W[layer].T @ dZ) * ACTIVATIONS[kinds[layer - 1]][1](Z[layer - 1])
    return A, cost, dW, db


@everywhere
def test_forward_and_backward_agree_with_numpy(execution):
    for kinds, lambd in itertools.product(NETWORKS, [0.0, 0.7]):
        W, b, A, Y, dA, dW, db = network(kinds)
        expected_A, expected_cost, *expected = numpy_forward_backward(W, b, A[0], Y, kinds, lambd)
        execute(execution, "network_forward", W, b, A, kinds)
        cost = execute(execution, "network_cost", A[-1], Y, kinds[-1])
        cost += execute(execution, "network_penalty", W, lambd, Y.shape[1])
        execute(execution, "network_backward", W, A, Y, kinds, dA, dW, db, lambd)
        close(cost, expected_cost, case=(kinds, lambd))
        for got, matrices in zip((A, dW, db), (expected_A, *expected), strict=True):
            for matrix, expected_matrix in zip(got, matrices, strict=True):
                close(matrix, expected_matrix, case=(kinds, lambd))
        assert np.isnan(dA[0]).all(), "the gradient of the input is not computed"


def test_backward_agrees_with_central_differences():
    run, h = jit.serial, 1e-6
    for kinds in NETWORKS:
        W, b, A, Y, dA, dW, db = network(kinds)

        def cost(W=W, b=b, A=A, Y=Y, kinds=kinds):
            run.network_forward(W, b, A, kinds)
            return run.network_cost(A[-1], Y, kinds[-1]) + run.network_penalty(W, 0.7, Y.shape[1])

        cost()
        run.network_backward(W, A, Y, kinds, dA, dW, db, 0.7)
        for theta, gradient in zip(W + b, dW + db, strict=True):
            for index in np.ndindex(theta.shape):
                value = theta[index]
                theta[index] = value + h
                above = cost()
                theta[index] = value - h
                below = cost()
                theta[index] = value
                numerical = pytest.approx((above - below) / (2 * h), 1e-6, 1e-8)
                assert gradient[index] == numerical, (kinds, index)


@everywhere
def test_an_epoch_is_forward_cost_backward_update(execution):
    kinds, learning_rate, lambd = (TANH, SIGMOID), 0.1, 0.7
    W, b, A, Y, dA, dW, db = network(kinds)
    _, cost, dW_before, db_before = numpy_forward_backward(W, b, A[0], Y, kinds, lambd)
    after = [
        theta - learning_rate * gradient
        for theta, gradient in zip(W + b, dW_before + db_before, strict=True)
    ]
    epoch = (execution, "network_epoch", W, b, A, Y, kinds, dA, dW, db, learning_rate, lambd)
    costs = [execute(*epoch)]
    close(costs[0], cost)
    for theta, expected in zip(W + b, after, strict=True):
        close(theta, expected)
    costs += [execute(*epoch) for _ in range(20)]
    assert costs == sorted(costs, reverse=True)


@pytest.mark.parametrize("execution", ["arrays", "serial"])
def test_an_epoch_in_float32(execution):
    kinds = (RELU, SOFTMAX)
    W, b, A, Y, dA, dW, db = network(kinds, np.float32)
    expected_A, cost, *_ = numpy_forward_backward(W, b, A[0], Y, kinds, 0.0)
    got = execute(execution, "network_epoch", W, b, A, Y, kinds, dA, dW, db, 0.1, 0.0)
    close(got, cost, np.float32)
    close(A[-1], expected_A[-1], np.float32)
    assert W[0].dtype == np.float32


@everywhere
def test_certain_and_wrong_outputs_cost_much_but_not_infinity(execution):
    A, Y = np.array([[1.0], [0.0]]), np.array([[0.0], [1.0]])
    for output in (SIGMOID, SOFTMAX):
        assert 30 < execute(execution, "network_cost", A, Y, output) < 100
        assert execute(execution, "network_cost", A, A, output) == 0.0


@everywhere
def test_activations_take_huge_inputs(execution):
    for kind in HIDDEN:
        W, b, A_prev = np.eye(2), np.zeros((2, 1)), np.array([[1e4, -1e4], [-1e4, 1e4]])
        A = np.full((2, 2), np.nan)
        execute(execution, "layer_forward", W, b, A_prev, kind, A)
        assert np.isfinite(A).all()


def test_a_diverged_network_shows_nan():
    for kind in [*HIDDEN, LINEAR]:
        z = [np.nan]
        loops.activate(z, 0.0, kind)
        assert np.isnan(z[0])


# ------------------------------------------------------------------- compiling and caching


def test_twins_exist_where_iterations_are_independent():
    shared = {
        name
        for name in jit.functions_of(loops)
        if getattr(jit.parallel, name) is getattr(jit.serial, name)
    }
    assert shared == {
        "sigmoid",
        "logistic_loss",
        "logistic_explicit",
        "logistic_vectorised_features",
        "activate",
        "multiply_by_slope",
        "output_loss",
        "loss_of_error",
        "residual",
    }


def python(program, folder, **environment):
    """What a process of its own prints, running in the folder."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        cwd=folder,
        env=os.environ | environment,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()


USE_BOTH = """
import numba, numpy as np
from accelnn.kernels import jit
a = np.arange(10.0)
assert not jit.serial.dot.signatures and not jit.parallel.dot.signatures, "import compiles"
def threads_started():
    try:
        return bool(numba.threading_layer())
    except ValueError:  # no parallel code has been loaded
        return False
for run in jit.serial, jit.parallel:
    assert run.dot(a, a) == 285.0
    print(sum(run.dot.stats.cache_hits.values()), threads_started())
"""


def test_twins_are_kept_apart_on_disk_and_loaded_from_there(tmp_path):
    cache = {"NUMBA_CACHE_DIR": str(tmp_path)}
    assert python(USE_BOTH, tmp_path, **cache) == ["0", "False", "0", "True"]
    entries = sorted(path.name.split("-")[0] for path in tmp_path.rglob("*.nbi"))
    assert entries == ["loops.dot", "loops.dot_parallel"]
    assert python(USE_BOTH, tmp_path, **cache) == ["1", "False", "1", "True"]


def test_compiled_code_is_kept_in_the_users_cache_folder(tmp_path):
    beside = set(Path(loops.__file__).parent.rglob("*.nbi"))
    python(USE_BOTH, tmp_path, NUMBA_CACHE_DIR="", XDG_CACHE_HOME=str(tmp_path))
    assert {path.name.split("-")[0] for path in (tmp_path / "accelnn").rglob("*.nbi")} == {
        "loops.dot",
        "loops.dot_parallel",
    }
    assert set(Path(loops.__file__).parent.rglob("*.nbi")) == beside


def test_loops_compile_without_a_cache_on_disk(tmp_path):
    # A copy, with a file where Numba would make its folder: not even root can write there.
    for source in Path(loops.__file__).parent.glob("*.py"):
        copy = tmp_path / "copied" / source.name
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(source.read_text())
    (tmp_path / "copied" / "__pycache__").touch()
    program = USE_BOTH.replace("accelnn.kernels", "copied") + "print(jit.__file__, run.dot.stats)"
    nowhere = {"NUMBA_CACHE_DIR": "", "XDG_CACHE_HOME": "/dev/null", "HOME": "/dev/null"}
    output = python(program, tmp_path, **nowhere)
    assert output[:5] == ["0", "False", "0", "True", str(tmp_path / "copied" / "jit.py")]
    assert "cache_path=None," in " ".join(output)
