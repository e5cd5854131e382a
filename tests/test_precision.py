"""The precision of products: what is refused, what is told, and what is rounded where."""

import json

import numpy as np
import pytest
from doubles import cublaslt as cublaslt_double
from doubles import device as device_double
from doubles.cublaslt import from_bfloat16, to_bfloat16
from test_captured import DEEP, M, both, captures, install, on_double
from test_solvers import NETS, OPTIMIZERS, data

import accelnn
from accelnn import Network
from accelnn import train as accelnn_train
from accelnn.backend import to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.kernels.gpu import cuda

pytestmark = pytest.mark.slow

NET = Network([5, 6, 3], hidden="tanh", output="softmax")


def train(dtype="float32", net=NET, **options):
    X, Y = (to_device(array, dtype) for array in data(net, M))
    options = {"epochs": 3, "learning_rate": 0.1, "solver": "direct"} | options
    return accelnn.fit(net, net.init("he", seed=2, dtype=dtype), X, Y, **options)


# --------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.usefixtures("there")
def test_an_unknown_precision_is_refused_and_those_there_are_are_named():
    with pytest.raises(ValueError, match=r"unknown precision 'half'.*'float64'.*'bfloat16'"):
        train(precision="half")


@pytest.mark.parametrize(
    ("dtype", "precision", "needed"),
    [
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "tf32", "float32"),
        ("float64", "bfloat16", "float32"),
    ],
)
@pytest.mark.usefixtures("there")
def test_a_precision_that_the_parameters_cannot_have_is_refused(dtype, precision, needed):
    message = rf"{precision}' needs {needed} parameters, got {dtype}.*init\(dtype='{needed}'\)"
    with pytest.raises(ValueError, match=message):
        train(dtype, precision=precision)


@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rounded_products_are_refused_on_the_cpu(precision):
    with pytest.raises(ValueError, match=f"'{precision}' needs a GPU.*accelnn.to_device"):
        train(precision=precision)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rounded_products_are_refused_by_gpus_that_have_none(monkeypatch, precision):
    monkeypatch.setattr(device_double.Device, "compute_capability", "75")
    with pytest.raises(ValueError, match=r"compute capability 8\.0.*has 7\.5: choose 'float32'"):
        train(precision=precision)


@on_double
@pytest.mark.parametrize("solver", ["direct", "gram", "gram-jitted"])
def test_products_of_bfloat16_are_those_of_captured_steps_alone(solver):
    with pytest.raises(ValueError, match=f"'{solver}' cannot do this.*bfloat16"):
        train(solver=solver, precision="bfloat16")


@on_double
def test_the_kernel_in_sample_space_refuses_rounded_products():
    with pytest.raises(ValueError, match="'gram-jitted' cannot do this.*not tf32"):
        train(solver="gram-jitted", precision="tf32")


@pytest.mark.usefixtures("double_with_kernels")
@pytest.mark.parametrize("solver", ["auto", "jitted"])
def test_bfloat16_without_captured_steps_says_what_to_install(solver):
    with pytest.raises(ValueError, match=r"'bfloat16' needs captured steps.*pip install"):
        train(solver=solver, precision="bfloat16")


# --------------------------------------------------------------------------------------------
# what is told


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("solver", ["direct", "gram"])
def test_the_history_tells_the_precision_of_the_parameters_where_none_is_asked_for(dtype, solver):
    for precision in (None, dtype):
        params, history = train(dtype, solver=solver, precision=precision)
        assert (history.precision, history.dtype) == (dtype, dtype)
        assert params.dtype == dtype


@captures
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_the_history_tells_rounded_products(precision):
    params, history = train(solver="jitted", precision=precision)
    assert (history.precision, history.dtype, history.solver) == (precision, "float32", "jitted")
    assert params.dtype == np.float32


def command(*arguments):
    """The exit status of `python -m accelnn.train planar` with its JSON on standard output."""
    return accelnn_train.main(["planar", "--epochs", "3", *arguments, "--json", "-"])


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_the_command_trains_in_the_precision_asked_for(capsys, precision):
    assert command("--precision", precision) == 0
    out, err = capsys.readouterr()
    [training] = json.loads(out)["trainings"]
    assert training["precision"] == training["dtype"] == precision
    assert f", {precision}\n" in err  # nothing beside the dtype


@on_double
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_the_command_tells_rounded_products(capsys, precision):
    asked = ("--backend", "cupy", "--solver", "jitted", "--precision", precision)
    assert command(*asked) == 0
    out, err = capsys.readouterr()
    [training] = json.loads(out)["trainings"]
    assert (training["precision"], training["dtype"]) == (precision, "float32")
    assert f"float32, products in {precision}" in " ".join(err.split())


def test_the_command_refuses_rounded_products_on_the_cpu(capsys):
    assert command("--precision", "tf32") == 1
    assert "needs a GPU" in capsys.readouterr().err
    assert command("--precision", "tf32", "--dtype", "float64") == 1
    assert "needs float32 parameters, got float64" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------
# products of CuPy


@pytest.mark.parametrize("before", ["DEFAULT", "TF32"])
@pytest.mark.parametrize("solver", ["direct", "gram"])
def test_cupys_products_have_the_precision_while_the_training_runs(double, before, solver):
    linalg = double._core._routines_linalg
    before = getattr(linalg, f"COMPUTE_TYPE_{before}")
    linalg.set_compute_type("float32", before)
    for precision, expected in ((None, "DEFAULT"), ("float32", "DEFAULT"), ("tf32", "TF32")):
        seen = []
        train(
            solver=solver,
            precision=precision,
            callbacks=[lambda _now, seen=seen: seen.append(linalg.get_compute_type("float32"))],
        )
        assert {*seen} == {getattr(linalg, f"COMPUTE_TYPE_{expected}")}
        assert linalg.get_compute_type("float32") == before


def test_an_interrupted_training_gives_cupys_precision_back(double):
    def interrupt(_now):
        raise KeyboardInterrupt

    linalg = double._core._routines_linalg
    with pytest.raises(KeyboardInterrupt):
        train(precision="tf32", callbacks=[interrupt])
    assert linalg.get_compute_type("float32") == linalg.COMPUTE_TYPE_DEFAULT


# --------------------------------------------------------------------------------------------
# products of captured steps


@pytest.mark.parametrize(
    ("dtype", "precision", "compute"),
    [
        ("float64", None, "COMPUTE_64F"),
        ("float32", None, "COMPUTE_32F"),
        ("float32", "tf32", "COMPUTE_32F_FAST_TF32"),
        ("float32", "bfloat16", "COMPUTE_32F"),
    ],
)
def test_captured_products_are_of_the_precision(double_with_cublaslt, dtype, precision, compute):
    _, history = train(dtype, solver="jitted", precision=precision, batch_size=8)
    assert {kind for kind, _ in double_with_cublaslt.lt.calls} == {compute}
    assert history.precision == (precision or dtype)


@captures
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("precision", ["tf32", "bfloat16"])
def test_rounded_products_give_the_training_of_exact_ones_but_for_the_rounding(name, precision):
    pair = both(NETS[name], dtype="float32", precision=precision, batch_size=8)
    check_close(pair, {"tf32": 1e-2, "bfloat16": 5e-2}[precision])


@captures
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_bfloat16_goes_with_every_optimizer(optimizer):
    options = {"optimizer": OPTIMIZERS[optimizer], "learning_rate": 0.01, "epochs": 9}
    check_close(both(DEEP, dtype="float32", precision="bfloat16", **options), 3e-2)


@captures
def test_what_the_set_up_tries_out_leaves_no_trace_in_what_products_read():
    """Where a gradient is 0, Adam with nothing planned yet divides it by 0."""
    net = Network([5, 4, 3], hidden="tanh", output="softmax")
    X, Y = data(net, 20, dtype="float32")
    X[2] = 0
    given = net.init("he", dtype="float32"), to_device(X), to_device(Y)
    options = {"epochs": 3, "learning_rate": 0.01, "optimizer": "adam"}
    _, history = accelnn.fit(net, *given, solver="jitted", precision="bfloat16", **options)
    _, exact = accelnn.fit(net, *given, solver="direct", **options)
    assert history.final_cost == pytest.approx(exact.final_cost, rel=3e-2)


def check_close(pair, tolerance):
    """Costs alike, and not the same."""
    (_, history), (_, exact) = pair
    assert history.solver == "jitted"
    np.testing.assert_allclose(history.costs, exact.costs, rtol=tolerance)
    np.testing.assert_allclose(history.final_cost, exact.final_cost, rtol=tolerance)
    assert history.costs != exact.costs


def bf16(array):
    """The same numbers, rounded to bfloat16."""
    return from_bfloat16(to_bfloat16(np.float32(array)), cublaslt_double.BFLOAT16)


def rounded_training(net, params, X, Y, epochs, rate, fused):
    """Gradient descent written out, with what products multiply as bfloat16. fused : whether relu
    is part of products, which then add a bias of their own kind."""
    layers = [(W.copy(), b.copy()) for W, b in params]
    m = X.shape[1]
    for _ in range(epochs):
        A = [bf16(X)]
        for (W, b), kind in zip(layers, net.hidden, strict=False):
            bias = bf16(b) if kind == "relu" and fused else b
            A.append(bf16(ACTIVATIONS[kind].function(bf16(W) @ A[-1] + bias)))
        W, b = layers[-1]
        dZ = bf16((OUTPUTS[net.output].function(bf16(W) @ A[-1] + b) - Y) / np.float32(m))
        steps = []
        for l in range(len(layers) - 1, -1, -1):
            steps.append((dZ @ A[l].T, dZ.sum(axis=1, keepdims=True)))
            if l:
                slope = ACTIVATIONS[net.hidden[l - 1]].slope(A[l])
                dZ = bf16(bf16(layers[l][0]).T @ dZ * slope)
        for (W, b), (dW, db) in zip(layers, steps[::-1], strict=True):
            W -= np.float32(rate) * dW
            b -= np.float32(rate) * db
    return np.concatenate([array.ravel() for layer in layers for array in layer])


@on_double
@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("output", ["softmax", "sigmoid", "linear"])
@pytest.mark.parametrize("hidden", [("relu", "relu"), ("tanh", "relu"), ("leaky_relu", "sigmoid")])
def test_what_products_multiply_is_bfloat16_and_all_the_rest_is_float32(
    monkeypatch, fused, output, hidden
):
    if not fused:
        install(monkeypatch, [cublaslt_double.Epilogue.DEFAULT])
    net = Network([6, 7, 5, 3], hidden=hidden, output=output)
    X, Y = data(net, 12, dtype="float32")
    first = net.init("he", seed=4, dtype="float32")
    first.flat += to_device(np.linspace(-0.3, 0.3, first.flat.size, dtype="float32"))  # biases too
    on_host = [(to_host(W), to_host(b)) for W, b in first]
    expected = rounded_training(net, on_host, X, Y, 3, 0.3, fused)
    options = {"epochs": 3, "learning_rate": 0.3, "solver": "jitted", "precision": "bfloat16"}
    trained, _ = accelnn.fit(net, first, to_device(X), to_device(Y), **options)
    np.testing.assert_allclose(to_host(trained.flat), expected, rtol=1e-5, atol=1e-6)


@captures
def test_bfloat16_is_the_nearest_with_ties_to_even(random):
    bits = random.integers(2**32, size=20_000, dtype=np.uint32)
    bits[:8] = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x3F808000, 0x3F818000, 0x3F818001, 1]
    bits[8:11] = [0x7F7FFFFF, 0x7FC00000, 0x7F800001]  # the largest, NaN, NaN with low bits only
    numbers = bits.view(np.float32)
    there, operands = to_device(numbers), to_device(np.zeros(len(bits), np.uint16))
    run = cuda.kernel("step.cu", "to_operands", np.float32, "-DBFLOAT16")
    run((3,), (64,), (there, operands, np.int64(len(bits))))
    got = (to_host(operands).astype(np.uint32) << np.uint32(16)).view(np.float32)
    nan = np.isnan(numbers)
    np.testing.assert_array_equal(np.isnan(got), nan)
    expected = from_bfloat16(to_bfloat16(numbers[~nan]), cublaslt_double.BFLOAT16)
    np.testing.assert_array_equal(got[~nan], expected)
    assert np.all(np.abs(got[4:7] - [1, 1.015625, 1.015625]) < 1e-7)
