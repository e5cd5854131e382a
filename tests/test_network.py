"""Network, Parameters, and the mathematics of forward and backward."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import special

from accelnn import Network, Parameters, gradient_check
from accelnn.backend import to_device, to_host
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.network import INITIALISATIONS


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


@pytest.mark.parametrize(
    ("hidden", "output", "l2"), list(itertools.product(ACTIVATIONS, OUTPUTS, (0.0, 0.7)))
)
@pytest.mark.usefixtures("there")
def test_gradients_are_the_numerical_ones(hidden, output, l2):
    net = Network([3, 4, 2], hidden=hidden, output=output, l2=l2)
    params, X, Y = problem(net)
    assert gradient_check(net, params, X, Y) < 1e-7
    assert gradient_check(net, params, X, Y, step=1e-4, norm="|a+b|") < 1e-7


@pytest.mark.parametrize("layers", [[3, 1], [2, 5, 1], [4, 3, 5, 3], [2, 3, 3, 2, 2]])
def test_gradients_are_the_numerical_ones_at_any_depth(layers):
    net = Network(layers, hidden="tanh", l2=0.3)
    assert gradient_check(net, *problem(net)) < 1e-7


def test_one_activation_per_hidden_layer():
    net = Network([3, 4, 4, 1], hidden=["tanh", "leaky_relu"])
    assert gradient_check(net, *problem(net)) < 1e-7
    assert net.hidden == ("tanh", "leaky_relu")


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


def test_gradients_come_in_the_parameters_form():
    net = Network([3, 4, 2], output="softmax")
    params, X, Y = problem(net)
    for (dW, db), (W, b) in zip(net.gradients(params, X, Y), params, strict=True):
        assert dW.shape == W.shape
        assert db.shape == b.shape


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
def test_predictions():
    X = to_device(np.array([[-2.0, 0.0, 3.0]]))

    def predict(W, output):
        net = Network([1, len(W)], output=output)
        layer = to_device(np.array(W, float)), to_device(np.zeros((len(W), 1)))
        return to_host(net.predict(Parameters.from_layers([layer]), X)).tolist()

    assert predict([[1]], "sigmoid") == [0, 0, 1]  # a half is no cat
    assert predict([[1], [-1]], "sigmoid") == [1, 0, 0]
    assert predict([[1], [-1]], "softmax") == [1, 0, 0]
    assert predict([[2]], "linear") == [[-4, 0, 6]]


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("output", OUTPUTS)
def test_forward_gives_the_output_activations(output):
    net = Network([3, 4, 2], hidden="tanh", output=output)
    params, X, _ = problem(net)
    (W1, b1), (W2, b2) = [(to_host(W), to_host(b)) for W, b in params]
    Z = W2 @ np.tanh(W1 @ to_host(X) + b1) + b2
    expected = {
        "sigmoid": special.expit(Z),
        "softmax": special.softmax(Z, axis=0),
        "linear": Z,
    }[output]
    np.testing.assert_allclose(to_host(net.forward(params, X)), expected, rtol=1e-12)


# --------------------------------------------------------------------------------------------
# parameters and initialisation


def test_parameters_are_views_into_one_buffer():
    params = Parameters(np.zeros(3 * 4 + 4 + 4 * 2 + 2), (3, 4, 2))
    for number, (W, b) in enumerate(params, 1):
        W[...] = number
        b[...] = -number
    assert params.flat.tolist() == [1] * 12 + [-1] * 4 + [2] * 8 + [-2] * 2
    assert len(params) == 2
    assert repr(params) == "<Parameters of layers [3, 4, 2]: 26 float64 values on numpy>"
    other = params.copy()
    other.flat[...] = 0
    assert params.flat[0] == 1


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


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "at least one layer"),
        ([(np.ones((2, 3)), np.ones(2))], r"b of shape \(2, 1\), got \(2,\).*reshape"),
        ([(np.ones(3), np.ones((1, 1)))], r"layer 1: expected W"),
        (
            [(np.ones((2, 3)), np.ones((2, 1))), (np.ones((1, 3)), np.ones((1, 1)))],
            r"layer 2: expected W of shape \(n_2, 2\), got \(1, 3\)",
        ),
    ],
)
def test_layers_that_do_not_follow_each_other_are_refused(pairs, message):
    with pytest.raises(ValueError, match=message):
        Parameters.from_layers(pairs)


def test_a_buffer_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"shape \(5,\).*got \(4,\)"):
        Parameters(np.zeros(4), (4, 1))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("kind", INITIALISATIONS)
def test_a_seed_gives_the_notes_weights_on_every_backend(kind):
    net = Network([5, 4, 1])
    scales = ((0.01, 1.0),) if kind == "normal" else ()
    params = net.init(kind, *scales, seed=3, dtype="float64")
    random = np.random.RandomState(3)
    for (W, b), (n, before), scale in zip(params, [(4, 5), (1, 4)], (0.01, 1.0), strict=True):
        expected = {
            "zeros": lambda n=n, k=before: np.zeros((n, k)),
            "normal": lambda n=n, k=before, s=scale: random.randn(n, k) * s,
            "scaled": lambda n=n, k=before: random.randn(n, k) / np.sqrt(k),
            "he": lambda n=n, k=before: random.randn(n, k) * np.sqrt(2.0 / k),
            "glorot": lambda n=n, k=before: (random.rand(n, k) * 2 - 1) * np.sqrt(6 / (n + k)),
            "uniform": lambda n=n, k=before: random.rand(n, k) * 2 * 0.12 - 0.12,
        }[kind]()
        np.testing.assert_array_equal(to_host(W), expected)
        np.testing.assert_array_equal(to_host(b), 0)


def test_the_default_precision_is_the_backends(there):
    assert Network([2, 1]).init().dtype == there.default_dtype
    assert Network([2, 1]).init(dtype="float32").dtype == np.float32


# --------------------------------------------------------------------------------------------
# bad input


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"layers": [3]}, "at least two"),
        ({"layers": [3, 0]}, "positive integers"),
        ({"layers": [3, 2.5]}, "positive integers"),
        ({"layers": [3, 4, 1], "hidden": "swish"}, "unknown hidden 'swish'.*leaky_relu"),
        ({"layers": [3, 4, 4, 1], "hidden": ["relu"]}, "hidden as one value or 2"),
        ({"layers": [3, 1], "output": "relu"}, "unknown output 'relu'.*softmax"),
        ({"layers": [3, 1], "output": "softmax"}, "softmax of one output"),
        ({"layers": [3, 1], "l2": -1}, "l2 >= 0"),
        ({"layers": [3, 1], "l2": float("nan")}, "l2 >= 0"),
        ({"layers": [3, 4, 1], "keep_prob": 0}, r"keep_prob in \(0, 1\]"),
        ({"layers": [3, 4, 1], "keep_prob": [0.5, 0.5]}, "keep_prob as one value or 1"),
    ],
)
def test_an_impossible_network_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Network(**arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"kind": "xavier"}, "unknown init 'xavier'.*scaled"),
        ({"dtype": "float16"}, "float32 or float64, got float16"),
        ({"kind": "normal", "scale": [0.1]}, "scale as one value or 2"),
        ({"kind": "he", "scale": 0.1}, "scale is for init 'normal', got scale=0.1 with 'he'"),
    ],
)
def test_an_impossible_initialisation_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Network([3, 4, 1]).init(**arguments)


@pytest.mark.parametrize(
    ("X", "Y", "message"),
    [
        ((6, 3), (1, 6), r"X of shape \(3, m\), got \(6, 3\): pass X.T"),
        ((4, 6), (1, 6), r"X of shape \(3, m\), got \(4, 6\)$"),
        ((3,), (1, 6), r"X of shape \(3, m\), got \(3,\): pass X.reshape\(-1, 1\) for one example"),
        ((3, 6), (6, 1), r"Y of shape \(1, 6\) or labels of shape \(6,\), got \(6, 1\): pass Y.T"),
        ((3, 6), (5,), r"Y of shape \(1, 6\) or labels of shape \(6,\), got \(5,\)$"),
        ((3, 6), (1, 5), r"Y of shape \(1, 6\) or labels of shape \(6,\), got \(1, 5\)$"),
    ],
)
def test_shapes_that_do_not_fit_are_refused_with_what_to_do(X, Y, message):
    net = Network([3, 1])
    with pytest.raises(ValueError, match=message):
        net.cost(net.init(), np.ones(X), np.ones(Y))


@pytest.mark.parametrize(
    ("output", "Y", "message"),
    [
        ("softmax", np.ones(6), r"integer labels of shape \(m,\), got float64"),
        ("softmax", np.array([0, 1, 2, 3, 4, 0]), r"labels in 0\.\.3, got 0\.\.4"),
        ("softmax", np.array([0, -1, 2, 3, 1, 0]), r"labels in 0\.\.3, got -1\.\.3"),
        ("softmax", np.ones((1, 6)), r"labels of shape \(6,\), got \(1, 6\): pass Y.ravel"),
        ("linear", np.ones(6), r"Y of shape \(4, 6\), got \(6,\)"),
    ],
)
def test_labels_that_several_outputs_cannot_have_are_refused(output, Y, message):
    net = Network([3, 4], output=output)
    for ask in (net.cost, net.gradients):
        with pytest.raises(ValueError, match=message):
            ask(net.init(), np.ones((3, 6)), Y)


@pytest.mark.parametrize("labels", [[1, 2, 1, 2, 1, 1], [-1, 1, -1, 1, 1, 1], [0, 0.5, 2, 0, 0, 0]])
@pytest.mark.parametrize("form", [lambda Y: Y, lambda Y: Y[None]], ids=["labels", "row"])
def test_labels_that_one_sigmoid_cannot_have_are_refused(labels, form):
    net, X = Network([3, 1]), np.ones((3, 6))
    for ask in (net.cost, net.gradients, net.accuracy):
        with pytest.raises(ValueError, match=r"labels Y in 0\.\.1 for sigmoid outputs"):
            ask(net.init(), X, form(np.array(labels)))


def test_soft_labels_have_no_accuracy():
    net, X = Network([3, 1]), np.ones((3, 6))
    with pytest.raises(ValueError, match="class indices 0, 1, 2, ..., got 0.5"):
        net.accuracy(net.init(), X, np.full(6, 0.5))


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("outputs", [1, 3])
def test_outputs_that_are_not_numbers_are_no_predictions(outputs):
    net = Network([3, outputs])
    params, X, _ = problem(net)
    X = to_host(X).copy()
    X[1, 2:4] = np.nan
    for ask in (net.predict, lambda params, X: net.accuracy(params, X, to_device(np.ones(6, int)))):
        with pytest.raises(ValueError, match="outputs of 2 of 6 examples are NaN"):
            ask(params, to_device(X))


def test_no_examples_have_no_scores():
    net = Network([3, 1])
    for ask in (net.cost, net.accuracy):
        with pytest.raises(ValueError, match="at least one example"):
            ask(net.init(), np.ones((3, 0)), np.ones((1, 0)))


def test_parameters_of_another_network_are_refused():
    with pytest.raises(ValueError, match=r"layers \[3, 1\], got \[3, 2, 1\]"):
        Network([3, 1]).cost(Network([3, 2, 1]).init(), np.ones((3, 2)), np.ones((1, 2)))


def test_data_on_the_host_with_parameters_on_the_device_is_refused(double):
    net = Network([3, 1])
    params = net.init()
    with pytest.raises(TypeError, match="mixed"):
        net.predict(params, np.ones((3, 2)))
    assert double.counts.synchronizations == 0


def test_data_is_converted_to_the_parameters_precision():
    net = Network([3, 1])
    params = net.init(dtype="float32")
    assert net.forward(params, np.ones((3, 2))).dtype == np.float32
    assert net.forward(params, np.array([[1, 2], [3, 4], [5, 6]])).dtype == np.float32


@pytest.mark.parametrize(
    ("X", "message"),
    [
        ([[1, 2], [3, 4], [5, 6]], r"X as an array, got list: pass numpy\.array"),
        (None, "X as an array, got NoneType"),
        (np.array([["1", "2"]] * 3), "X as an array of real numbers, got dtype <U1"),
        (np.ones((3, 2), complex), "X as an array of real numbers, got dtype complex128"),
        (np.array([[None, 1]] * 3), "X as an array of real numbers, got dtype object"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(X, message):
    net = Network([3, 1])
    with pytest.raises(TypeError, match=message):
        net.predict(net.init(), X)


def test_sizes_that_come_one_by_one_are_refused_with_the_list_to_pass():
    with pytest.raises(TypeError, match=r"one sequence of sizes.*pass Network\(\[2, 4, 1\]\)"):
        Network(2, 4, 1)
    with pytest.raises(TypeError, match=r"pass Network\(\[n_0, \.\.\., n_L\]\)"):
        Network(2)


@pytest.mark.parametrize("params", [None, np.ones(4), [(np.ones((1, 3)), np.ones((1, 1)))]])
def test_parameters_of_another_kind_are_refused_with_what_to_pass(params):
    with pytest.raises(TypeError, match=r"accelnn\.Parameters, got .*: pass net\.init\(\)"):
        Network([3, 1]).cost(params, np.ones((3, 2)), np.ones((1, 2)))


# --------------------------------------------------------------------------------------------
# labels


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize(("outputs", "output"), [(1, "sigmoid"), (4, "sigmoid"), (4, "softmax")])
@pytest.mark.parametrize("dtype", [np.int64, np.uint8, bool])
def test_integer_labels_are_the_same_as_columns(outputs, output, dtype):
    net = Network([3, 5, outputs], output=output)
    params, X, _ = problem(net, m=12)
    labels = (np.arange(12) % max(2, outputs)).astype(dtype)
    if dtype is bool and outputs > 1:
        labels = labels.astype(np.int8)
    columns = labels[None] if outputs == 1 else np.eye(4)[labels].T
    labels, columns = to_device(labels), to_device(columns.astype(float))
    assert net.cost(params, X, labels) == net.cost(params, X, columns)
    assert net.accuracy(params, X, labels) == net.accuracy(params, X, columns)
    np.testing.assert_array_equal(
        to_host(net.gradients(params, X, labels).flat),
        to_host(net.gradients(params, X, columns).flat),
    )
    np.testing.assert_array_equal(to_host(net.targets(labels)), to_host(columns))


@given(st.integers(1, 5), st.integers(1, 30), st.integers(0, 2**31))
def test_accuracy_is_the_share_of_predictions_that_are_the_labels(outputs, m, seed):
    net = Network([3, outputs])
    params, X, _ = problem(net, m, seed % 1000)
    labels = np.random.default_rng(seed).integers(max(2, outputs), size=m)
    predicted = net.predict(params, X)
    assert predicted.shape == (m,)
    assert predicted.dtype == np.int64
    assert net.accuracy(params, X, labels) == (predicted == labels).mean()


def test_a_value_for_each_example_will_do_for_one_linear_output():
    net = Network([3, 1], output="linear")
    params, X, Y = problem(net)
    assert net.cost(params, X, Y[0]) == net.cost(params, X, Y)


def test_a_linear_output_has_no_accuracy():
    net = Network([3, 1], output="linear")
    with pytest.raises(ValueError, match=r"linear output has no labels.*net\.cost"):
        net.accuracy(*problem(net))
