"""SciPy's minimisers: the digits and the cost of the notes, a known minimum, bad input."""

import itertools
import sys

import numpy as np
import pytest
from helpers.core import refused, small, unchanged

import accelnn
from accelnn import Network, Parameters, datasets
from accelnn.backend import to_device, to_host
from accelnn.training.minimize import METHODS

# --------------------------------------------------------------------------------------------
# the digits of the notes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["float64", "float32"])  # each takes half a minute
def test_tnc_learns_the_digits_in_400_evaluations(dtype):
    digits = datasets.load_digits(test_size=0, dtype=dtype)
    net = Network([784, 25, 10], hidden="sigmoid", l2=1.0)
    params, history = accelnn.minimize(
        net, net.init("uniform", dtype=dtype), digits.X_train, digits.Y_train
    )
    assert history.final_accuracy >= 0.97
    assert history.final_accuracy == net.accuracy(params, digits.X_train, digits.Y_train)
    assert history.final_cost < 0.5157  # the notes', on 20 x 20 pictures
    assert params.dtype == dtype


def test_the_gradient_check_of_the_notes_gives_below_1e_9():
    def sines(rows, columns):
        """sin(1), sin(2), ... / 10, column by column: the exercise's weights for debugging."""
        return np.sin(np.arange(1, rows * columns + 1)).reshape(columns, rows).T / 10

    with_bias = sines(5, 4), sines(3, 6)  # the bias is the first column
    params = Parameters.from_layers([(theta[:, 1:], theta[:, :1]) for theta in with_bias])
    X, Y = sines(5, 3).T, accelnn.one_hot(np.arange(1, 6) % 3, 3)
    for l2 in (0.0, 1.0, 3.0):
        net = Network([3, 5, 3], hidden="sigmoid", l2=l2)
        assert accelnn.gradient_check(net, params, X, Y, step=1e-4, norm="|a+b|") < 1e-9, l2


# --------------------------------------------------------------------------------------------
# a minimum known otherwise


def newton(X, Y, l2):
    """Weights and bias (n + 1,) of the logistic regression with the least cost."""
    m = X.shape[1]
    X = np.vstack([X, np.ones(m)])
    ridge = np.diag([l2 / m] * (len(X) - 1) + [0.0])
    theta = np.zeros(len(X))
    for _ in range(30):
        A = 1 / (1 + np.exp(-theta @ X))
        gradient = X @ (A - Y[0]) / m + ridge @ theta
        theta -= np.linalg.solve((X * (A * (1 - A))) @ X.T / m + ridge, gradient)
    assert np.abs(gradient).max() < 1e-14
    return theta


@pytest.mark.usefixtures("there")
def test_logistic_regression_reaches_the_minimum_that_newton_finds(random):
    X = random.normal(size=(4, 60))
    Y = (random.random((1, 60)) < 1 / (1 + np.exp(-X[:1] + X[1:2]))).astype(float)
    net, theta = Network([4, 1], l2=0.5), newton(X, Y, 0.5)
    with accelnn.use("numpy"):
        least = net.cost(Parameters(theta, net.layers), X, Y)
    given = net.init("zeros", dtype="float64"), to_device(X), to_device(Y)
    for method in METHODS:
        params, history = accelnn.minimize(net, *given, method=method, evaluations=500)
        np.testing.assert_allclose(to_host(params.flat), theta, atol=1e-3, err_msg=method)
        assert least - 1e-14 <= history.final_cost == pytest.approx(least, abs=1e-7), method


# --------------------------------------------------------------------------------------------
# evaluations, and the history


@pytest.mark.usefixtures("there")
def test_no_more_evaluations_than_allowed(monkeypatch, flower):
    calls = []
    module = sys.modules["accelnn.training.minimize"]
    plain = module.backward

    def counted(*args):
        calls.append(1)
        plain(*args)

    monkeypatch.setattr(module, "backward", counted)
    net, params = small()
    X, Y = map(to_device, flower)
    start = net.cost(params, X, Y)
    for method, evaluations in itertools.product(METHODS, (0, 1, 2, 3, 7, 50)):
        calls.clear()
        trained, history = accelnn.minimize(
            net, params, X, Y, method=method, evaluations=evaluations, record_every=1
        )
        case = method, evaluations
        assert len(calls) == len(history.costs) == history.epochs_run == evaluations, case
        assert history.epochs == list(range(evaluations)), case
        assert history.final_cost == pytest.approx(min([start, *history.costs]), rel=1e-12), case
        assert history.final_cost == pytest.approx(net.cost(trained, X, Y), rel=1e-12), case


def test_history_has_method_evaluations_and_message(there, flower):
    net, params = small()
    X, Y = map(to_device, flower)
    _, history = accelnn.minimize(net, params, X, Y, evaluations=25, record_every=10)
    assert history.solver == "minimize"
    assert history.reason.startswith("TNC, 25 evaluations: ")
    assert history.epochs == [0, 10, 20]
    assert len(history.costs) == 3
    assert history.costs[0] == pytest.approx(net.cost(params, X, Y), rel=1e-12)
    assert (history.backend, history.dtype, history.optimizer) == (there.name, "float64", None)
    assert repr(history).startswith("<History: 25 evaluations by minimize in float64 on ")
    _, history = accelnn.minimize(net, params, X, Y, evaluations=250)
    assert history.epochs == list(range(0, 250, 2))


def test_a_search_that_converges_stops_early_and_gives_scipys_message(random):
    net = Network([2, 1], output="linear")
    X = random.normal(size=(2, 30))
    _, history = accelnn.minimize(
        net, net.init("zeros"), X, X[:1], method="L-BFGS-B", evaluations=1000
    )
    assert "CONVERGENCE" in history.reason
    assert history.final_cost < 1e-8


@pytest.mark.usefixtures("there")
def test_float32_stays_float32(flower):
    net, _ = small()
    X, Y = (to_device(array, "float32") for array in flower)
    params = net.init("he", seed=2, dtype="float32")
    for method in METHODS:
        trained, history = accelnn.minimize(net, params, X, Y, method=method, evaluations=60)
        assert trained.dtype == np.float32
        assert history.final_cost < 0.9 * history.costs[0], method


def test_arguments_are_not_changed(flower):
    net, params = small()
    with unchanged(params.flat, *flower):
        accelnn.minimize(net, params, *flower, evaluations=9)


def test_the_device_is_waited_for_once_an_evaluation(double, flower):
    net, params = small()
    X, Y = map(to_device, flower)
    counts = []
    for evaluations in (10, 30):
        double.counts.synchronizations = 0
        accelnn.minimize(net, params, X, Y, evaluations=evaluations)
        counts.append(double.counts.synchronizations)
    assert counts[1] - counts[0] == 20


@pytest.mark.usefixtures("there")
def test_ctrl_c_keeps_the_best_so_far(flower):
    def interrupt(now):
        if now.epoch == 12:
            raise KeyboardInterrupt

    net, params = small()
    X, Y = map(to_device, flower)
    for method in METHODS:
        options = {"method": method, "callbacks": [interrupt], "record_every": 1}
        with pytest.raises(accelnn.Interrupted, match="after 13 evaluations") as interrupted:
            accelnn.minimize(net, params, X, Y, **options)
        best, history = interrupted.value.params, interrupted.value.history
        assert (len(history.costs), history.stopped) == (13, "interrupted"), method
        assert net.cost(best, X, Y) == pytest.approx(min(history.costs), rel=1e-12), method


def test_a_callback_that_returns_true_ends_it(flower):
    net, params = small()
    _, history = accelnn.minimize(
        net, params, *flower, callbacks=[lambda now: now.epoch == 5], record_every=1
    )
    assert history.epochs_run == 6
    assert history.reason == "TNC, 6 evaluations: a callback ended it"
    assert history.stopped == "a callback ended it"


# --------------------------------------------------------------------------------------------
# bad input


def test_bad_input_is_refused(flower):
    net, params = small()
    for options, message in (
        ({"method": "BFGS"}, "unknown method 'BFGS'.*TNC.*L-BFGS-B"),
        ({"evaluations": -1}, "evaluations as an integer >= 0, got -1"),
        ({"record_every": 0}, "record_every as an integer >= 1, got 0"),
        ({"verbose": "loud"}, "verbose as False, True or 'lines', got 'loud'"),
    ):
        with refused(message):
            accelnn.minimize(net, params, *flower, **options)
    with refused(r"params as accelnn\.Parameters, got NoneType", TypeError):
        accelnn.minimize(net, None, *flower)
    with refused(r"net as accelnn\.Network, got str", TypeError):
        accelnn.minimize("net", params, *flower)
    with refused("keep_prob=1, .*dropout makes the cost random"):
        accelnn.minimize(*small(keep_prob=0.8), *flower)
    with refused(r"unknown solver 'minimize'.*accelnn\.minimize"):
        accelnn.fit(net, params, *flower, epochs=1, learning_rate=0.5, solver="minimize")
    net = Network([2, 1], output="linear")
    with refused("cost of the first parameters is inf"):
        accelnn.minimize(net, net.init("normal", scale=1e200), *flower)
