"""The precision of products: the refusals, the history, and what is rounded."""

import functools
import itertools
import json

import numpy as np
import pytest
from doubles import cublaslt as cublaslt_double
from doubles import device as device_double
from doubles.cublaslt import from_bfloat16, to_bfloat16
from helpers import trainings
from helpers.trainings import NETS, OPTIMIZERS, M, data

import accelnn
from accelnn import Network
from accelnn import train as accelnn_train
from accelnn.backend import to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.kernels.gpu import cuda

pytestmark = pytest.mark.slow

NET = Network([5, 6, 3], hidden="tanh", output="softmax")
DEEP = Network([5, 9, 8, 7, 3], ("relu", "sigmoid", "leaky_relu"), output="softmax", l2=0.3)
ROUNDED = ["tf32", "bfloat16"]

captures = pytest.mark.usefixtures("captures")  # on the double, and on a GPU
on_double = pytest.mark.usefixtures("double_with_cublaslt")
rounded = pytest.mark.parametrize("precision", ROUNDED)
both = functools.partial(trainings.both, solver="jitted", dtype="float32", learning_rate=0.2)


def train(dtype="float32", net=NET, **options):
    X, Y = (to_device(array, dtype) for array in data(net, M))
    options = {"epochs": 3, "learning_rate": 0.1, "solver": "direct"} | options
    return accelnn.fit(net, net.init("he", seed=2, dtype=dtype), X, Y, **options)


# --------------------------------------------------------------------------------------------
# refusals


@pytest.mark.usefixtures("there")
def test_a_precision_that_the_parameters_cannot_have_is_refused():
    with pytest.raises(ValueError, match=r"unknown precision 'half'.*'float64'.*'bfloat16'"):
        train(precision="half")
    for dtype, precision, needed in [
        ("float64", "float32", "float32"),
        ("float32", "float64", "float64"),
        ("float64", "tf32", "float32"),
        ("float64", "bfloat16", "float32"),
    ]:
        message = rf"{precision}' needs {needed} parameters, got {dtype}.*init\(dtype='{needed}'\)"
        with pytest.raises(ValueError, match=message):
            train(dtype, precision=precision)


@rounded
def test_rounded_products_are_refused_on_the_cpu(precision):
    with pytest.raises(ValueError, match=f"'{precision}' needs a GPU.*accelnn.to_device"):
        train(precision=precision)


@pytest.mark.usefixtures("double")
@rounded
def test_rounded_products_are_refused_on_older_gpus(monkeypatch, precision):
    monkeypatch.setattr(device_double.Device, "compute_capability", "75")
    with pytest.raises(ValueError, match=r"compute capability 8\.0.*has 7\.5: choose 'float32'"):
        train(precision=precision)


@on_double
def test_solvers_refuse_products_that_they_do_not_have():
    for solver in ("direct", "gram", "gram-jitted"):
        with pytest.raises(ValueError, match=f"'{solver}' cannot do this.*bfloat16"):
            train(solver=solver, precision="bfloat16")
    with pytest.raises(ValueError, match="'gram-jitted' cannot do this.*not tf32"):
        train(solver="gram-jitted", precision="tf32")


@pytest.mark.usefixtures("double_with_kernels")
def test_bfloat16_without_captured_steps_says_what_to_install():
    for solver in ("auto", "jitted"):
        with pytest.raises(ValueError, match=r"'bfloat16' needs captured steps.*pip install"):
            train(solver=solver, precision="bfloat16")


# --------------------------------------------------------------------------------------------
# the history, and the command


@pytest.mark.usefixtures("there")
def test_the_history_has_the_precision_of_the_parameters_by_default():
    for dtype, solver in itertools.product(["float32", "float64"], ["direct", "gram"]):
        for precision in (None, dtype):
            params, history = train(dtype, solver=solver, precision=precision)
            assert (history.precision, history.dtype) == (dtype, dtype)
            assert params.dtype == dtype


@captures
@rounded
def test_the_history_has_the_precision_of_rounded_products(precision):
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
    assert f", {precision}\n" in err  # the dtype, and nothing about products


@on_double
@rounded
def test_the_command_names_rounded_products(capsys, precision):
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


def test_cupys_products_have_the_precision_while_the_training_runs(double):
    linalg = double._core._routines_linalg
    default, tf32 = linalg.COMPUTE_TYPE_DEFAULT, linalg.COMPUTE_TYPE_TF32
    expected = {None: default, "float32": default, "tf32": tf32}
    for before, solver, precision in itertools.product(
        [default, tf32], ["direct", "gram"], expected
    ):
        linalg.set_compute_type("float32", before)
        seen = set()
        train(
            solver=solver,
            precision=precision,
            callbacks=[lambda _now, seen=seen: seen.add(linalg.get_compute_type("float32"))],
        )
        assert seen == {expected[precision]}, (before, solver, precision)
        assert linalg.get_compute_type("float32") == before
    linalg.set_compute_type("float32", default)


def test_an_interrupted_training_gives_cupys_precision_back(double):
    def interrupt(_now):
        raise KeyboardInterrupt

    linalg = double._core._routines_linalg
    with pytest.raises(KeyboardInterrupt):
        train(precision="tf32", callbacks=[interrupt])
    assert linalg.get_compute_type("float32") == linalg.COMPUTE_TYPE_DEFAULT


# --------------------------------------------------------------------------------------------
# products of captured steps


def test_captured_products_have_the_precision(double_with_cublaslt):
    for dtype, precision, compute in [
        ("float64", None, "COMPUTE_64F"),
        ("float32", None, "COMPUTE_32F"),
        ("float32", "tf32", "COMPUTE_32F_FAST_TF32"),
        ("float32", "bfloat16", "COMPUTE_32F"),
    ]:
        double_with_cublaslt.lt.calls.clear()
        _, history = train(dtype, solver="jitted", precision=precision, batch_size=8)
        assert {kind for kind, _ in double_with_cublaslt.lt.calls} == {compute}
        assert history.precision == (precision or dtype)


@captures
@rounded
def test_rounded_products_give_the_training_of_exact_ones_but_for_the_rounding(precision):
    for name, net in NETS.items():
        pair = both(net, precision=precision, batch_size=8)
        check_close(pair, {"tf32": 1e-2, "bfloat16": 5e-2}[precision], name)


@captures
def test_bfloat16_goes_with_every_optimizer():
    for name, optimizer in OPTIMIZERS.items():
        options = {"optimizer": optimizer, "learning_rate": 0.01, "epochs": 9}
        check_close(both(DEEP, precision="bfloat16", **options), 3e-2, name)


@captures
def test_trials_of_the_set_up_leave_no_trace_in_the_bfloat16_copies():
    """Adam with nothing planned yet divides a gradient of 0 by 0."""
    net = Network([5, 4, 3], hidden="tanh", output="softmax")
    X, Y = data(net, 20, dtype="float32")
    X[2] = 0
    given = net.init("he", dtype="float32"), to_device(X), to_device(Y)
    options = {"epochs": 3, "learning_rate": 0.01, "optimizer": "adam"}
    _, history = accelnn.fit(net, *given, solver="jitted", precision="bfloat16", **options)
    _, exact = accelnn.fit(net, *given, solver="direct", **options)
    assert history.final_cost == pytest.approx(exact.final_cost, rel=3e-2)


def check_close(pair, tolerance, variant):
    """The costs are close, and not the same."""
    (_, history), (_, exact) = pair
    assert history.solver == "jitted", variant
    costs, expected = ([*h.costs, h.final_cost] for h in (history, exact))
    np.testing.assert_allclose(costs, expected, rtol=tolerance, err_msg=variant)
    assert costs != expected, variant


def bf16(array):
    """The same numbers, rounded to bfloat16."""
    return from_bfloat16(to_bfloat16(np.float32(array)), cublaslt_double.BFLOAT16)


def rounded_training(net, params, X, Y, epochs, rate, fused):
    """Gradient descent written out, with the factors of all products rounded to bfloat16.

    fused : whether relu is part of products, which then add a rounded bias
    """
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
def test_factors_of_products_are_bfloat16_and_all_other_numbers_float32(monkeypatch, fused):
    if not fused:
        none = [cublaslt_double.Epilogue.DEFAULT]
        cublaslt_double.install(monkeypatch, device_double.enqueue, epilogues=none)
    kinds = [("relu", "relu"), ("tanh", "relu"), ("leaky_relu", "sigmoid")]
    for hidden, output in itertools.product(kinds, ["softmax", "sigmoid", "linear"]):
        net = Network([6, 7, 5, 3], hidden=hidden, output=output)
        X, Y = data(net, 12, dtype="float32")
        first = net.init("he", seed=4, dtype="float32")
        spread = np.linspace(-0.3, 0.3, first.flat.size, dtype="float32")
        first.flat += to_device(spread)  # biases too
        on_host = [(to_host(W), to_host(b)) for W, b in first]
        expected = rounded_training(net, on_host, X, Y, 3, 0.3, fused)
        options = {"epochs": 3, "learning_rate": 0.3, "solver": "jitted", "precision": "bfloat16"}
        trained, _ = accelnn.fit(net, first, to_device(X), to_device(Y), **options)
        close = {"rtol": 1e-5, "atol": 1e-6, "err_msg": f"{hidden} {output}"}
        np.testing.assert_allclose(to_host(trained.flat), expected, **close)


@captures
def test_bfloat16_is_the_nearest_with_ties_to_even(random):
    bits = random.integers(2**32, size=20_000, dtype=np.uint32)
    bits[:8] = [0, 0x80000000, 0x7F800000, 0xFF800000, 0x3F808000, 0x3F818000, 0x3F818001, 1]
    bits[8:11] = [0x7F7FFFFF, 0x7FC00000, 0x7F800001]  # the largest, NaN, NaN with low bits only
    numbers = bits.view(np.float32)
    floats, operands = to_device(numbers), to_device(np.zeros(len(bits), np.uint16))
    run = cuda.kernel("step.cu", "to_operands", np.float32, "-DBFLOAT16")
    run((3,), (64,), (floats, operands, np.int64(len(bits))))
    got = (to_host(operands).astype(np.uint32) << np.uint32(16)).view(np.float32)
    nan = np.isnan(numbers)
    np.testing.assert_array_equal(np.isnan(got), nan)
    expected = from_bfloat16(to_bfloat16(numbers[~nan]), cublaslt_double.BFLOAT16)
    np.testing.assert_array_equal(got[~nan], expected)
    assert np.all(np.abs(got[4:7] - [1, 1.015625, 1.015625]) < 1e-7)
