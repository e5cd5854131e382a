"""Activations that no kernel has: vectorised solvers train them, the others refuse them at once."""

from dataclasses import replace

import numpy as np
import pytest
from doubles import host_cuda
from helpers import compiled

import accelnn
from accelnn import Network, functions, kernels, to_device, to_host
from accelnn.backend import array_module
from accelnn.kernels import jit, loops
from accelnn.kernels.gpu import cuda
from accelnn.solvers import threads


def softplus(x, out=None):
    return array_module(x).log1p(array_module(x).exp(x), out=out)


def softplus_slope(a, out=None):
    return array_module(a).subtract(1, array_module(a).exp(-a), out=out)


def constant_slope(a, out=None):
    return array_module(a).add(0 * a, 1, out=out)


ADDED = {
    "softplus": functions.Activation(softplus, softplus_slope),
    "linear": functions.Activation(functions.identity, constant_slope),  # kernels' outputs have it
}
added = pytest.mark.parametrize("activation", ADDED)


@pytest.fixture(autouse=True)
def more_activations(monkeypatch):
    for name, activation in ADDED.items():
        monkeypatch.setitem(functions.ACTIVATIONS, name, activation)


def problem(activation):
    """A network, X and Y that all solvers could train but for the activation."""
    random = np.random.default_rng(1)
    X = random.normal(size=(40, 12))
    return Network([40, 5, 1], hidden=activation), X, (X[:1] > 0) * 1.0


# --------------------------------------------------------------------------------------------
# the solvers

COMPILED, VECTORISED = ["jitted", "gram-jitted"], ["direct", "gram"]


@added
def test_vectorised_solvers_train_it_and_compiled_ones_refuse_it(activation):
    net, X, Y = problem(activation)
    params = net.init("scaled")
    assert accelnn.gradient_check(net, params, X, Y) < 1e-7
    options = {"epochs": 50, "learning_rate": 0.1}
    for solver in VECTORISED:
        _, history = accelnn.fit(net, params, X, Y, solver=solver, **options)
        assert history.final_cost < 0.5 * history.costs[0], solver
    for solver in COMPILED:
        with pytest.raises(ValueError, match=f"have no hidden activation '{activation}'"):
            accelnn.fit(net, params, X, Y, solver=solver, **options)


@added
def test_auto_picks_a_solver_that_can(activation):
    net, X, Y = problem(activation)
    epochs = 10**6  # of which a callback ends all but one; compiled solvers would save minutes
    options = {"epochs": epochs, "learning_rate": 0.1, "callbacks": [lambda _: True]}
    _, history = accelnn.fit(net, net.init(), X, Y, **options)
    assert history.solver in VECTORISED


@added
@pytest.mark.usefixtures("double_with_cublaslt")
def test_solvers_of_a_gpu_do_the_same(activation):
    net, X, Y = problem(activation)
    params = net.init("scaled", dtype="float64")
    options = {"epochs": 5, "learning_rate": 0.1, "record_every": 1}
    for solver in COMPILED:
        with pytest.raises(ValueError, match=f"no hidden activation '{activation}'"):
            accelnn.fit(net, params, to_device(X), to_device(Y), solver=solver, **options)
    _, history = accelnn.fit(net, params, to_device(X), to_device(Y), solver="auto", **options)
    assert history.solver in VECTORISED
    params = accelnn.Parameters(to_host(params.flat), params.layers)
    _, on_host = accelnn.fit(net, params, X, Y, solver="direct", **options)
    np.testing.assert_allclose(history.costs, on_host.costs, rtol=1e-12)


def test_the_refusal_names_what_the_kernels_have():
    assert kernels.why_not(["relu", "tanh"], "softmax") is None
    assert kernels.why_not(["relu", "softplus"], "softmax") == (
        "the kernels have no hidden activation 'softplus', only sigmoid, tanh, relu, leaky_relu, "
        "identity: use the solver 'direct'"
    )
    assert "no output activation 'tanh', only sigmoid, softmax, linear" in kernels.why_not(
        [], "tanh"
    )


# --------------------------------------------------------------------------------------------
# kernels that get the number of an unknown kind


@pytest.mark.parametrize("run", [loops, jit.serial, jit.parallel])
def test_loops_raise(run):
    W, A, out = np.ones((2, 3)), np.ones((3, 4)), np.ones((2, 4))
    # From within a prange Numba passes a ValueError on as the cause of a SystemError.
    error = SystemError if run is jit.parallel else ValueError
    for kind in (9, -1):
        with pytest.raises(error):
            run.layer_forward(W, np.ones((2, 1)), A, kind, out)
        with pytest.raises(error):
            run.hidden_error(W, out, A, kind, A.copy())
        with pytest.raises(error):
            run.network_cost(out, out, kind)


def test_compiled_layers_raise():
    Z, dA, db = np.ones((3, 4)), np.ones((3, 4)), np.ones(4)
    functions, work = compiled.functions("float64"), np.ones((2, 4))
    for kind in (9, -1):
        with pytest.raises(ValueError, match="unknown kind of activation"):
            functions.bias_activation(Z, db, kind, Z, False, 4)
    for kind in (loops.SOFTMAX, loops.POISSON, 9, -1):
        with pytest.raises(ValueError, match="unknown kind of hidden activation"):
            functions.activation_gradient(dA, Z, kind, db, Z, 1.0, False, 4)
    for kind in (loops.TANH, loops.RELU, 9, -1):
        with pytest.raises(ValueError, match="unknown kind of output"):
            functions.output_gradient(Z, db, Z, db, kind, 0.5, db, True, work, 4)


@added
@pytest.mark.parametrize("solver", COMPILED)
def test_compiled_steps_that_would_raise_on_one_thread_do_not_begin(
    activation, solver, monkeypatch
):
    """The other threads would wait for it forever."""

    def begun(*_arguments):
        raise AssertionError("begun")

    monkeypatch.setattr(threads, "run", begun)
    net, X, Y = problem(activation)
    options = {"epochs": 2, "learning_rate": 0.1, "solver": solver}
    with pytest.raises(AssertionError, match="begun"):
        accelnn.fit(replace(net, hidden="tanh"), net.init("scaled"), X, Y, **options)
    with pytest.raises(ValueError, match=f"no hidden activation '{activation}'"):
        accelnn.fit(net, net.init("scaled"), X, Y, **options)


@pytest.mark.usefixtures("double_with_kernels")
def test_kernels_of_a_gpu_trap():
    rows, b, steps = (to_device(np.ones(4, t)) for t in (np.float32, np.float32, np.int64))
    sizes = np.int64(2), np.int64(2), np.int64(2)
    dropout = np.int32(0), np.float32(1), np.uint64(0), steps
    labels = rows, np.int64(1), np.int64(2), rows
    losses = to_device(np.zeros(1))
    for name, arrays, kinds, rest in (
        ("activation", (rows, b, rows), (loops.SOFTMAX, 9, -1), dropout),
        ("activation_gradient", (rows, b, rows), (loops.SOFTMAX, loops.POISSON, 9, -1), dropout),
        (
            "output_gradient",
            (rows, b, *labels),
            (loops.RELU, 9, -1),
            (np.float32(1), np.int32(1), losses),
        ),
    ):
        kernel = cuda.kernel("step.cu", name, np.float32)
        for kind in kinds:
            with pytest.raises(host_cuda.KernelError, match="__trap"):
                kernel((1,), (32,), (*arrays, *sizes, np.int32(kind), *rest), shared_mem=4)
