"""Network, Parameters, and the mathematics of forward and backward."""

import copy
import itertools
import pickle

import h5py
import numpy as np
import pytest
from helpers.core import refused
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from accelnn import Network, Parameters, gradient_check
from accelnn.backend import to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.network import INITIALISATIONS, cost_and_accuracy


def problem(net, m=6, seed=0):
    """Parameters away from zero, and data that suits the output."""
    random = np.random.default_rng(seed)
    params = net.init("he", seed=seed, dtype="float64")
    params.flat[...] += to_device(random.normal(0, 0.1, params.flat.shape))
    X = random.normal(size=(net.layers[0], m))
    Y = np.eye(net.layers[-1])[:, random.integers(net.layers[-1], size=m)]
    if net.output == "linear" or net.layers[-1] == 1:
        Y = random.random((net.layers[-1], m))
    return params, to_device(X), to_device(Y)


# --------------------------------------------------------------------------------------------
# gradients


@pytest.mark.usefixtures("there")
def test_gradients_are_the_numerical_ones():
    for hidden, output, l2 in itertools.product(ACTIVATIONS, OUTPUTS, (0.0, 0.7)):
        net = Network([3, 4, 2], hidden=hidden, output=output, l2=l2)
        params, X, Y = problem(net)
        assert gradient_check(net, params, X, Y) < 1e-7, net
        assert gradient_check(net, params, X, Y, step=1e-4, norm="|a+b|") < 1e-7, net


def test_the_layers_of_copied_parameters_are_views_of_their_own_buffer():
    params = Network([3, 2, 1]).init()
    for copied in (copy.deepcopy(params), pickle.loads(pickle.dumps(params)), params.copy()):
        np.testing.assert_array_equal(copied.flat, params.flat)
        copied.flat[:] = 7
        assert all((W == 7).all() and (b == 7).all() for W, b in copied)
    assert not (params.flat == 7).any()


def test_gradients_are_the_numerical_ones_at_any_depth():
    for layers in ([3, 1], [2, 5, 1], [4, 3, 5, 3], [2, 3, 3, 2, 2]):
        net = Network(layers, hidden="tanh", l2=0.3)
        assert gradient_check(net, *problem(net)) < 1e-7, layers
    mixed = Network([3, 4, 4, 1], hidden=["tanh", "leaky_relu"])
    assert gradient_check(mixed, *problem(mixed)) < 1e-7
    assert mixed.hidden == ("tanh", "leaky_relu")


def test_the_check_finds_a_mistake(monkeypatch):
    net = Network([3, 4, 1], hidden="tanh")
    params, X, Y = problem(net)
    right = Network.gradients

    def wrong(self, *args):
        gradients = right(self, *args)
        gradients[0][0][...] *= 2
        return gradients

    monkeypatch.setattr(Network, "gradients", wrong)
    assert gradient_check(net, params, X, Y) > 0.05


def test_logistic_regression_is_the_network_without_hidden_layers():
    net = Network([3, 1])
    params, X, Y = problem(net)
    (W, b), m = params[0], X.shape[1]
    A = special.expit(W @ X + b)
    [(dW, db)] = net.gradients(params, X, Y)
    np.testing.assert_allclose(dW, (A - Y) @ X.T / m, rtol=1e-13)
    np.testing.assert_allclose(db, [[(A - Y).mean()]], rtol=1e-13)
    expected = -(Y * np.log(A) + (1 - Y) * np.log(1 - A)).mean()
    assert net.cost(params, X, Y) == pytest.approx(expected, rel=1e-13)


def test_l2_penalises_weights_and_not_biases():
    plain, penalised = Network([3, 2, 1]), Network([3, 2, 1], l2=0.5)
    params, X, Y = problem(plain)
    squares = sum((W**2).sum() for W, _ in params)
    difference = penalised.cost(params, X, Y) - plain.cost(params, X, Y)
    assert difference == pytest.approx(0.5 / (2 * 6) * squares, rel=1e-12)
    for (dW, db), (dW0, db0), (W, _) in zip(
        penalised.gradients(params, X, Y), plain.gradients(params, X, Y), params, strict=True
    ):
        np.testing.assert_allclose(dW - dW0, 0.5 / 6 * W, rtol=1e-9)
        np.testing.assert_array_equal(db, db0)


# --------------------------------------------------------------------------------------------
# predictions


@pytest.mark.usefixtures("there")
def test_forward_and_predict_are_the_formulas():
    for output in OUTPUTS:
        net = Network([3, 4, 2], hidden="tanh", output=output)
        params, X, _ = problem(net)
        (W1, b1), (W2, b2) = [(to_host(W), to_host(b)) for W, b in params]
        Z = W2 @ np.tanh(W1 @ to_host(X) + b1) + b2
        activations = {"sigmoid": special.expit(Z), "softmax": special.softmax(Z, axis=0)}
        activations["poisson"] = np.exp(Z)
        expected = activations.get(output, Z)
        np.testing.assert_allclose(to_host(net.forward(params, X)), expected, rtol=1e-12)

    X = to_device(np.array([[-2.0, 0.0, 3.0]]))
    for W, output, expected in (
        ([[1]], "sigmoid", [0, 0, 1]),  # a half is no cat
        ([[1], [-1]], "sigmoid", [1, 0, 0]),
        ([[1], [-1]], "softmax", [1, 0, 0]),
        ([[2]], "linear", [[-4, 0, 6]]),
    ):
        layer = to_device(np.array(W, float)), to_device(np.zeros((len(W), 1)))
        predicted = Network([1, len(W)], output=output).predict(Parameters.from_layers([layer]), X)
        assert to_host(predicted).tolist() == expected, (W, output)


@pytest.mark.usefixtures("there")
def test_outputs_that_are_not_numbers_are_no_predictions():
    for outputs in (1, 3):
        net = Network([3, outputs])
        params, X, _ = problem(net)
        X = to_host(X).copy()
        X[1, 2:4] = np.nan
        X, Y = to_device(X), to_device(np.ones(6, int))
        with refused("outputs of 2 of 6 examples are NaN"):
            net.predict(params, X)
        with refused("outputs of 2 of 6 examples are NaN"):
            net.accuracy(params, X, Y)
    Z, Y = to_device(np.array([[np.nan, -1.0, 2.0]])), to_device(np.zeros((1, 3)))
    params = Network([1, 1]).init("zeros", dtype="float64")
    _, right = cost_and_accuracy(Network([1, 1]), params, Z, Y)
    assert float(to_host(right)) == pytest.approx(1 / 3)  # NaN is never right


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**31))
def test_accuracy_is_the_share_of_predictions_that_are_the_labels(outputs, m, seed):
    net = Network([3, outputs])
    params, X, _ = problem(net, m, seed % 1000)
    labels = np.random.default_rng(seed).integers(max(2, outputs), size=m)
    predicted = net.predict(params, X)
    assert (predicted.shape, predicted.dtype) == ((m,), np.int64)
    assert net.accuracy(params, X, labels) == (predicted == labels).mean()


# --------------------------------------------------------------------------------------------
# parameters and initialisation


def test_parameters_are_views_into_one_buffer():
    params = Parameters(np.zeros(3 * 4 + 4 + 4 * 2 + 2), (3, 4, 2))
    for number, (W, b) in enumerate(params, 1):
        W[...] = number
        b[...] = -number
    assert params.flat.tolist() == [1] * 12 + [-1] * 4 + [2] * 8 + [-2] * 2
    assert [(W.shape, b.shape) for W, b in params] == [((4, 3), (4, 1)), ((2, 4), (2, 1))]
    assert len(params) == 2
    assert repr(params) == "<Parameters of layers [3, 4, 2]: 26 float64 values on numpy>"
    other = params.copy()
    other.flat[...] = 0
    assert params.flat[0] == 1
    with refused(r"shape \(5,\).*got \(4,\)"):
        Parameters(np.zeros(4), (4, 1))


def test_parameters_take_float32_and_float64_arrays_only():
    for dtype in ("i8", "u1", "f2", "g", "c16", "O", "?", ">f4", ">f8", "U3", "m8[s]", "f8,f8"):
        with refused("native float32 or float64, got ndarray of .*asarray", TypeError):
            Parameters(np.zeros(5, dtype), (4, 1))
    with refused("got list of no dtype", TypeError):
        Parameters([1.0] * 5, (4, 1))
    with refused("masked", TypeError):
        Parameters(np.ma.array(np.ones(5), mask=[1, 0, 0, 0, 0]), (4, 1))
    with (
        h5py.File("in memory", "w", driver="core", backing_store=False) as file,
        refused("got Dataset of float64", TypeError),
    ):
        Parameters(file.create_dataset("theta", data=np.ones(5)), (4, 1))
    for pair in (([[1j]], [[0]]), (np.array([[None]]), [[0]]), ([["1"]], [[0]])):
        with refused("W as an array of real numbers", TypeError):
            Parameters.from_layers([pair])


def test_sizes_of_any_integer_type_do_not_overflow():
    count = 200 * 201 + 201
    assert Parameters(np.zeros(count), np.array([200, 200, 1], np.uint8)).layers == (200, 200, 1)
    assert Network(np.array([200, 200, 1], np.uint8)).init().flat.size == count
    with refused("float", TypeError):
        Parameters(np.zeros(5), (4.0, 1))
    net = Network([2, 1], l2=np.float16(0.1), keep_prob=())
    assert type(net.l2) is float


@given(st.lists(st.integers(1, 6), min_size=2, max_size=5), st.sampled_from(["f4", "f8"]))
def test_parameters_from_ones_own_layers_hold_the_same_numbers(layers, dtype):
    random = np.random.default_rng(1)
    pairs = [
        (random.normal(size=(n, before)).astype(dtype), random.normal(size=(n, 1)).astype(dtype))
        for before, n in itertools.pairwise(layers)
    ]
    params = Parameters.from_layers(pairs)
    assert params.layers == tuple(layers)
    assert params.dtype == dtype
    for (W, b), (W0, b0) in zip(params, pairs, strict=True):
        np.testing.assert_array_equal(W, W0)
        np.testing.assert_array_equal(b, b0)
        assert not np.shares_memory(W, W0)


def test_parameters_from_lists_of_integers_are_float64():
    params = Parameters.from_layers([([[1, 2]], [[3]])])
    assert params.dtype == np.float64
    assert params.flat.tolist() == [1, 2, 3]


@pytest.mark.usefixtures("there")
def test_a_seed_gives_the_notes_weights_on_every_backend():
    formulas = {
        "zeros": lambda random, n, k: np.zeros((n, k)),  # noqa: ARG005
        "normal": lambda random, n, k: random.randn(n, k) * (0.01 if n == 4 else 1.0),
        "scaled": lambda random, n, k: random.randn(n, k) / np.sqrt(k),
        "he": lambda random, n, k: random.randn(n, k) * np.sqrt(2.0 / k),
        "glorot": lambda random, n, k: (random.rand(n, k) * 2 - 1) * np.sqrt(6 / (n + k)),
        "uniform": lambda random, n, k: random.rand(n, k) * 2 * 0.12 - 0.12,
    }
    assert formulas.keys() == INITIALISATIONS.keys()
    for kind, formula in formulas.items():
        scales = ((0.01, 1.0),) if kind == "normal" else ()
        params = Network([5, 4, 1]).init(kind, *scales, seed=3, dtype="float64")
        random = np.random.RandomState(3)
        for (W, b), (n, before) in zip(params, [(4, 5), (1, 4)], strict=True):
            np.testing.assert_array_equal(to_host(W), formula(random, n, before), kind)
            np.testing.assert_array_equal(to_host(b), 0, kind)


def test_the_default_precision_is_the_backends(there):
    assert Network([2, 1]).init().dtype == there.default_dtype
    assert Network([2, 1]).init(dtype="float32").dtype == np.float32


def test_data_is_converted_to_the_parameters_precision():
    net = Network([3, 1])
    for X in (np.ones((3, 2)), np.array([[1, 2], [3, 4], [5, 6]])):
        assert net.forward(net.init(dtype="float32"), X).dtype == np.float32


# --------------------------------------------------------------------------------------------
# bad input


def test_impossible_networks_are_refused():
    for arguments, message in (
        ({"layers": [3]}, "at least two"),
        ({"layers": [3, 0]}, "positive integers"),
        ({"layers": [3, 2.5]}, "positive integers"),
        ({"layers": [3, True]}, "positive integers"),
        ({"layers": [3, 4, 1], "hidden": "swish"}, "unknown hidden 'swish'.*leaky_relu"),
        ({"layers": [3, 4, 4, 1], "hidden": ["relu"]}, "hidden as one value or 2"),
        ({"layers": [3, 1], "output": "relu"}, "unknown output 'relu'.*softmax"),
        ({"layers": [3, 1], "output": "softmax"}, "softmax of one output"),
        ({"layers": [3, 1], "l2": -1}, "l2 >= 0"),
        ({"layers": [3, 1], "l2": float("nan")}, "l2 >= 0"),
        ({"layers": [3, 4, 1], "keep_prob": 0}, r"keep_prob in \(0, 1\]"),
        ({"layers": [3, 4, 1], "keep_prob": [0.5, 0.5]}, "keep_prob as one value or 1"),
    ):
        with refused(message):
            Network(**arguments)
    with refused(r"one sequence of sizes.*pass Network\(\[2, 4, 1\]\)", TypeError):
        Network(2, 4, 1)
    with refused(r"pass Network\(\[n_0, \.\.\., n_L\]\)", TypeError):
        Network(2)


def test_impossible_parameters_are_refused():
    net = Network([3, 4, 1])
    for arguments, message in (
        ({"kind": "xavier"}, "unknown init 'xavier'.*scaled"),
        ({"dtype": "float16"}, "float32 or float64, got float16"),
        ({"kind": "normal", "scale": [0.1]}, "scale as one value or 2"),
        ({"kind": "he", "scale": 0.1}, "scale is for init 'normal', got scale=0.1 with 'he'"),
    ):
        with refused(message):
            net.init(**arguments)
    right = np.ones((2, 3)), np.ones((2, 1))
    for pairs, message in (
        ([], "at least one layer"),
        ([(np.ones((2, 3)), np.ones(2))], r"b of shape \(2, 1\), got \(2,\).*reshape"),
        ([(np.ones(3), np.ones((1, 1)))], r"layer 1: expected W"),
        (
            [right, (np.ones((1, 3)), np.ones((1, 1)))],
            r"layer 2: expected W of shape \(n_2, 2\), got \(1, 3\)",
        ),
    ):
        with refused(message):
            Parameters.from_layers(pairs)
    X, Y = np.ones((3, 2)), np.ones((1, 2))
    with refused(r"layers \[3, 4, 1\], got \[3, 1\]"):
        net.cost(Network([3, 1]).init(), X, Y)
    for params in (None, np.ones(4), [(np.ones((1, 3)), np.ones((1, 1)))]):
        with refused(r"accelnn\.Parameters, got .*: pass net\.init\(\)", TypeError):
            net.cost(params, X, Y)


def test_shapes_that_do_not_fit_are_refused_with_what_to_do():
    net = Network([3, 1])
    labels = r"Y of shape \(1, 6\) or labels of shape \(6,\), got"
    for X, Y, message in (
        ((6, 3), (1, 6), r"X of shape \(3, m\), got \(6, 3\): pass X.T"),
        ((4, 6), (1, 6), r"X of shape \(3, m\), got \(4, 6\)$"),
        ((3,), (1, 6), r"X of shape \(3, m\), got \(3,\): pass X.reshape\(-1, 1\) for one example"),
        ((3, 6), (6, 1), rf"{labels} \(6, 1\): pass Y.T"),
        ((3, 6), (5,), rf"{labels} \(5,\)$"),
        ((3, 6), (1, 5), rf"{labels} \(1, 5\)$"),
        ((3, 0), (1, 0), "at least one example"),
    ):
        for ask in (net.cost, net.accuracy):
            with refused(message):
                ask(net.init(), np.ones(X), np.ones(Y))


def test_data_that_is_no_array_of_numbers_is_refused():
    net = Network([3, 1])
    for X, message in (
        ([[1, 2], [3, 4], [5, 6]], r"X as an array, got list: pass numpy\.array"),
        (None, "X as an array, got NoneType"),
        (np.array([["1", "2"]] * 3), "X as an array of real numbers, got dtype <U1"),
        (np.ones((3, 2), complex), "X as an array of real numbers, got dtype complex128"),
        (np.array([[None, 1]] * 3), "X as an array of real numbers, got dtype object"),
    ):
        with refused(message, TypeError):
            net.predict(net.init(), X)


def test_data_on_the_host_with_parameters_on_the_device_is_refused(double):
    net = Network([3, 1])
    params = net.init()
    with refused("mixed", TypeError):
        net.predict(params, np.ones((3, 2)))
    assert double.counts.synchronizations == 0


# --------------------------------------------------------------------------------------------
# labels


@pytest.mark.usefixtures("there")
def test_integer_labels_are_the_same_as_columns():
    kinds = [(1, "sigmoid"), (4, "sigmoid"), (4, "softmax")]
    for (outputs, output), dtype in itertools.product(kinds, [np.int64, np.uint8, bool]):
        if dtype is bool and outputs > 1:
            continue
        net = Network([3, 5, outputs], output=output)
        params, X, _ = problem(net, m=12)
        labels = (np.arange(12) % max(2, outputs)).astype(dtype)
        columns = labels[None] if outputs == 1 else np.eye(4)[labels].T
        labels, columns = to_device(labels), to_device(columns.astype(float))
        case = f"{outputs} {output} {dtype}"
        assert net.cost(params, X, labels) == net.cost(params, X, columns), case
        assert net.accuracy(params, X, labels) == net.accuracy(params, X, columns), case
        by_labels, by_columns = (net.gradients(params, X, Y).flat for Y in (labels, columns))
        np.testing.assert_array_equal(to_host(by_labels), to_host(by_columns), case)
        np.testing.assert_array_equal(to_host(net.targets(labels)), to_host(columns), case)


def test_labels_that_an_output_cannot_have_are_refused():
    X = np.ones((3, 6))
    several = (
        ("softmax", np.ones(6), r"integer labels of shape \(m,\), got float64"),
        ("softmax", np.array([0, 1, 2, 3, 4, 0]), r"labels in 0\.\.3, got 0\.\.4"),
        ("softmax", np.array([0, -1, 2, 3, 1, 0]), r"labels in 0\.\.3, got -1\.\.3"),
        ("softmax", np.ones((1, 6)), r"labels of shape \(6,\), got \(1, 6\): pass Y.ravel"),
        ("softmax", np.ones((4, 6)) / 2, "columns of Y that sum to 1"),
        ("linear", np.ones(6), r"Y of shape \(4, 6\), got \(6,\)"),
    )
    for output, Y, message in several:
        net = Network([3, 4], output=output)
        for ask in (net.cost, net.gradients):
            with refused(message):
                ask(net.init(), X, Y)
    net = Network([3, 1])
    for labels in ([1, 2, 1, 2, 1, 1], [-1, 1, -1, 1, 1, 1], [0, 0.5, 2, 0, 0, 0]):
        for Y in (np.array(labels), np.array([labels])):
            for ask in (net.cost, net.gradients, net.accuracy):
                with refused(r"labels Y in 0\.\.1 for sigmoid outputs"):
                    ask(net.init(), X, Y)
    with refused("class indices 0, 1, 2, ..., got 0.5"):
        net.accuracy(net.init(), X, np.full(6, 0.5))


def test_one_linear_output_takes_values_for_labels_and_has_no_accuracy():
    net = Network([3, 1], output="linear")
    params, X, Y = problem(net)
    assert net.cost(params, X, Y[0]) == net.cost(params, X, Y)
    with refused(r"linear output has no labels.*net\.cost"):
        net.accuracy(params, X, Y)
