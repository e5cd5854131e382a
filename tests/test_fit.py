"""Training: published figures, what it leaves alone, dropout, the device, and bad input."""

import copy
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import tracemalloc
import types
import warnings

import numpy as np
import pytest

import accelnn
from accelnn import Network, datasets
from accelnn.backend import to_device, to_host
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy


@pytest.fixture
def flower():
    data = datasets.flower()
    return data.X_train, data.Y_train


def small(**options):
    net = Network([2, 4, 1], hidden="tanh", **options)
    return net, net.init("he", seed=2, dtype="float64")


# --------------------------------------------------------------------------------------------
# against published figures and a training written out

PUBLISHED = {
    # cost before the last update, final cost, train and test accuracy: the notes' expressions
    "cat-logistic": (0.1356588474, 0.1356080753, 0.9904, 0.70),
    "cat-2layer": (0.0176397136, 0.0176279472, 1.0, 0.74),
    "cat-4layer": (0.0729843366, 0.0733238698, 0.9904, 0.82),
}


def check_published_figures(name, real_data, solver):
    """Train on the real cats, and hold every figure to the published one."""
    recipe = RECIPES[name]
    cats = datasets.load_cats(real_data)
    params, history = accelnn.fit(
        recipe.net,
        recipe.first_weights(),
        cats.X_train,
        cats.Y_train,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        record_every=recipe.epochs - 1,
        solver=solver,
    )
    before_last, final, train, test = PUBLISHED[name]
    assert history.costs[-1] == pytest.approx(before_last, abs=1e-9)
    assert history.final_cost == pytest.approx(final, abs=1e-9)
    assert accuracy(recipe.net.predict(params, cats.X_train), cats.Y_train) == pytest.approx(
        train, abs=5e-5
    )
    assert accuracy(recipe.net.predict(params, cats.X_test), cats.Y_test) == pytest.approx(test)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_cats_give_the_published_figures(real_data, name):
    check_published_figures(name, real_data, "auto")


@pytest.mark.usefixtures("there")
def test_a_training_is_gradient_descent_written_out(flower):
    X, Y = map(to_host, flower)
    net, params = small()
    W1, b1, W2, b2 = (to_host(array).copy() for layer in params for array in layer)
    trained, history = accelnn.fit(
        net, params, to_device(X), to_device(Y), epochs=50, learning_rate=0.5, record_every=1
    )
    m, costs = X.shape[1], []
    for _ in range(51):
        A1 = np.tanh(W1 @ X + b1)
        A2 = 1 / (1 + np.exp(-(W2 @ A1 + b2)))
        costs.append(-(Y * np.log(A2) + (1 - Y) * np.log(1 - A2)).mean())
        if len(costs) == 51:
            break
        dZ2 = A2 - Y
        dZ1 = W2.T @ dZ2 * (1 - A1**2)
        W2, b2 = W2 - 0.5 * dZ2 @ A1.T / m, b2 - 0.5 * dZ2.mean(axis=1, keepdims=True)
        W1, b1 = W1 - 0.5 * dZ1 @ X.T / m, b1 - 0.5 * dZ1.mean(axis=1, keepdims=True)
    np.testing.assert_allclose([*history.costs, history.final_cost], costs, rtol=1e-11)
    expected = np.concatenate([array.ravel() for array in (W1, b1, W2, b2)])
    np.testing.assert_allclose(to_host(trained.flat), expected, rtol=1e-9, atol=1e-12)


def test_the_flower_is_learnt_by_four_hidden_units(flower):
    recipe = RECIPES["planar"]
    params, _ = accelnn.fit(
        recipe.net, recipe.first_weights(), *flower, epochs=2000, learning_rate=0.5
    )
    assert 0.88 <= accuracy(recipe.net.predict(params, flower[0]), flower[1]) <= 0.93


@pytest.mark.slow
def test_digits_are_learnt_from_the_embedded_file():
    recipe = RECIPES["digits"]
    digits = datasets.load_digits()
    params, history = accelnn.fit(
        recipe.net,
        recipe.first_weights(),
        digits.X_train,
        digits.Y_train,
        epochs=recipe.epochs,
        learning_rate=recipe.learning_rate,
        record_every=100,  # between them it goes up and down
    )
    assert history.costs == sorted(history.costs, reverse=True)
    assert accuracy(recipe.net.predict(params, digits.X_test), digits.Y_test) > 0.88


# --------------------------------------------------------------------------------------------
# what a training tells, and what it leaves alone


def test_history_has_the_costs_before_the_recorded_updates(there, flower):
    X, Y = map(to_device, flower)
    net, params = small()
    trained, history = accelnn.fit(
        net, params, X, Y, epochs=25, learning_rate=0.5, record_every=10, solver="direct"
    )
    assert history.epochs == [0, 10, 20]
    assert len(history.costs) == 3
    assert history.costs[0] == pytest.approx(net.cost(params, X, Y), rel=1e-12)
    assert history.final_cost == pytest.approx(net.cost(trained, X, Y), rel=1e-12)
    assert all(type(cost) is float for cost in [*history.costs, history.final_cost])
    assert (history.backend, history.dtype) == (there.name, "float64")
    assert history.device == there.device_name()
    assert (history.solver, history.reason) == ("direct", "asked for")


@pytest.mark.parametrize(
    ("epochs", "batch_size", "records"),
    [(50, None, 50), (50, 100, 50), (2500, None, 100), (7, 8, 7)],
)
def test_about_a_hundred_costs_are_recorded_by_default(flower, epochs, batch_size, records):
    net, params = small()
    _, history = accelnn.fit(
        net, params, *flower, epochs=epochs, learning_rate=0.1, batch_size=batch_size
    )
    assert len(history.costs) == len(history.epochs) == records
    assert history.epochs_run == epochs


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("output", ["sigmoid", "softmax", "linear"])
def test_final_cost_and_accuracy_are_those_of_the_parameters_returned(output):
    net = Network([5, 4, 3], output=output, l2=0.4, keep_prob=0.9)
    random = np.random.default_rng(2)
    X, Y = random.normal(size=(5, 40)), accelnn.one_hot(np.arange(40) % 3, 3)
    X, Y, X_v, Y_v = map(to_device, (X[:, :30], Y[:, :30], X[:, 30:], Y[:, 30:]))
    params, history = accelnn.fit(
        net,
        net.init("he", dtype="float64"),
        X,
        Y,
        epochs=6,
        learning_rate=0.1,
        validation=(X_v, Y_v),
    )
    assert history.final_cost == pytest.approx(net.cost(params, X, Y), rel=1e-12)
    unpenalised = Network([5, 4, 3], output=output)
    assert history.final_validation_cost == pytest.approx(unpenalised.cost(params, X_v, Y_v))
    if output == "linear":
        assert history.final_accuracy is history.final_validation_accuracy is None
        assert history.validation_accuracies == []
        return
    assert history.final_accuracy == pytest.approx(net.accuracy(params, X, Y))
    assert history.final_validation_accuracy == pytest.approx(net.accuracy(params, X_v, Y_v))
    assert len(history.validation_accuracies) == len(history.costs) == 6


def test_the_final_cost_is_computed_once_when_it_is_read(monkeypatch, flower):
    module, calls = sys.modules["accelnn.training.fit"], []
    plain = module.streaming.evaluate
    monkeypatch.setattr(module.streaming, "evaluate", lambda *args: calls.append(1) or plain(*args))
    net, params = small()
    trained, history = accelnn.fit(net, params, *flower, epochs=3, learning_rate=0.1)
    assert not calls
    expected = net.cost(trained, *flower)
    trained.flat[...] = 0  # what was returned may be changed
    first = history.final_cost, history.final_accuracy, history.final_cost
    assert len(calls) == 1
    assert first[0] == first[2] == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("validation", [None, 0.25])
def test_a_history_keeps_no_copy_of_the_data(validation):
    net = Network([200, 1])
    X = np.random.default_rng(0).integers(0, 255, (200, 3000)).astype(np.uint8)
    Y = np.arange(3000) % 2
    tracemalloc.start()
    _, history = accelnn.fit(
        net, net.init(), X, Y, epochs=1, learning_rate=1e-5, validation=validation
    )
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert held < X.nbytes / 2  # as floats it is 8 times as large
    assert np.isfinite(history.final_cost)


@pytest.mark.parametrize("solver", accelnn.solvers.SOLVERS)
def test_row_major_data_is_trained_on_without_a_copy(solver):
    rows = np.random.default_rng(0).normal(size=(60, 20_000))
    Y = np.arange(60) % 2
    net = Network([20_000, 2, 1])
    params = net.init()
    options = {"epochs": 2, "learning_rate": 0.01, "solver": solver}
    accelnn.fit(net, params, rows.T, Y, **options)  # whatever is loaded once
    tracemalloc.start()
    trained, _ = accelnn.fit(net, params, rows.T, Y, **options)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < rows.nbytes / 2
    expected, _ = accelnn.fit(net, params, np.ascontiguousarray(rows.T), Y, **options)
    np.testing.assert_allclose(trained.flat, expected.flat, rtol=1e-10, atol=1e-13)


def test_a_history_is_copied_pickled_and_written_as_json(flower):
    net, params = small()
    _, history = accelnn.fit(net, params, *flower, epochs=4, learning_rate=0.1, validation=0.25)
    values = history.to_dict()
    for other in (copy.deepcopy(history), pickle.loads(pickle.dumps(history))):
        assert other.to_dict() == values
    assert json.loads(json.dumps(values)) == values
    assert values["final_cost"] == history.final_cost
    assert values["validation_accuracies"] == history.validation_accuracies


def test_a_history_is_shown_in_one_line(flower):
    net, params = small()
    _, history = accelnn.fit(net, params, *flower, epochs=2000, learning_rate=0.1)
    first, final = history.costs[0], history.final_cost
    assert repr(history) == (
        f"<History: 2,000 epochs by direct in float64 on numpy, cost {first:.6g} to {final:.6g}>"
    )


def test_adam_has_a_learning_rate_of_its_own_and_the_others_need_one(flower):
    net, params = small()
    trained, _ = accelnn.fit(net, params, *flower, epochs=5, optimizer="adam")
    expected, _ = accelnn.fit(net, params, *flower, epochs=5, optimizer="adam", learning_rate=1e-3)
    np.testing.assert_array_equal(trained.flat, expected.flat)
    for optimizer in ("sgd", "momentum"):
        with pytest.raises(ValueError, match=f"'{optimizer}' needs a learning_rate.*adam"):
            accelnn.fit(net, params, *flower, epochs=5, optimizer=optimizer)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("output", ["sigmoid", "softmax"])
@pytest.mark.parametrize("batch_size", [None, 16])
def test_integer_labels_train_as_columns_do(output, batch_size):
    net = Network([4, 5, 1 if output == "sigmoid" else 3], output=output)
    X = np.random.default_rng(0).normal(size=(4, 50))
    labels = np.arange(50) % (2 if output == "sigmoid" else 3)
    columns = labels[None].astype(float) if output == "sigmoid" else accelnn.one_hot(labels, 3)
    X, labels, columns = map(to_device, (X, labels, columns))
    params = net.init("he", dtype="float64")
    options = {"epochs": 4, "learning_rate": 0.2, "batch_size": batch_size, "validation": 0.2}
    by_labels, history = accelnn.fit(net, params, X, labels, **options)
    by_columns, same = accelnn.fit(net, params, X, columns, **options)
    np.testing.assert_array_equal(to_host(by_labels.flat), to_host(by_columns.flat))
    assert history.costs == same.costs
    assert history.validation_costs == same.validation_costs
    assert history.final_accuracy == same.final_accuracy


# --------------------------------------------------------------------------------------------
# what verbose shows


def test_verbose_lines_are_those_of_the_notes(flower, capsys):
    net, params = small()
    _, history = accelnn.fit(
        net, params, *flower, epochs=250, learning_rate=0.5, record_every=100, verbose="lines"
    )
    assert capsys.readouterr().out.splitlines() == [
        f"cost after epoch {epoch}: {cost:.6f}"
        for epoch, cost in zip((0, 100, 200), history.costs, strict=True)
    ]


def test_verbose_shows_percentage_cost_and_validation(flower, capsys):
    net, params = small()
    options = {"epochs": 20, "learning_rate": 0.5, "validation": 0.25}
    quiet, _ = accelnn.fit(net, params, *flower, **options)
    shown, history = accelnn.fit(net, params, *flower, verbose=True, **options)
    output = capsys.readouterr()
    assert output.out == ""
    assert "100%" in output.err
    assert f"cost {history.costs[-1]:.4f}" in " ".join(output.err.split())
    np.testing.assert_allclose(shown.flat, quiet.flat, rtol=1e-12)


def test_a_notebook_shows_the_bar_in_its_output(flower, monkeypatch):
    from rich.console import Console

    drawn = []
    notebook = types.ModuleType("IPython.display")
    handle = types.SimpleNamespace(update=drawn.append)
    notebook.display = lambda table, display_id: drawn.append(table) or handle  # noqa: ARG005
    monkeypatch.setitem(sys.modules, "IPython", types.ModuleType("IPython"))
    monkeypatch.setitem(sys.modules, "IPython.display", notebook)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)
    net, params = small()
    _, history = accelnn.fit(net, params, *flower, epochs=20, learning_rate=0.5, verbose=True)
    console = Console(force_jupyter=False, width=100)
    with console.capture() as shown:
        console.print(drawn[-1])
    assert "100%" in shown.get()
    assert f"cost {history.costs[-1]:.4f}" in shown.get()


# --------------------------------------------------------------------------------------------
# Ctrl-C


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("options", [{}, {"batch_size": 32}, {"solver": "gram"}], ids=str)
def test_ctrl_c_raises_what_holds_the_parameters_and_history_so_far(flower, options):
    def interrupt(now):
        if now.epoch == 20:
            raise KeyboardInterrupt

    net, params = small(l2=0.1)
    X, Y = map(to_device, flower)
    options = {"learning_rate": 0.5, "record_every": 10, "validation": 0.2} | options
    with pytest.raises(accelnn.Interrupted) as interrupted:
        accelnn.fit(net, params, X, Y, epochs=100, callbacks=[interrupt], **options)
    so_far, history = interrupted.value.params, interrupted.value.history
    assert isinstance(interrupted.value, KeyboardInterrupt)
    assert (history.epochs, history.epochs_run) == ([0, 10, 20], 21)
    assert history.stopped == "interrupted"
    expected, whole = accelnn.fit(net, params, X, Y, epochs=21, **options)
    np.testing.assert_allclose(to_host(so_far.flat), to_host(expected.flat), rtol=1e-12)
    assert history.costs == pytest.approx(whole.costs)
    assert history.final_cost == pytest.approx(whole.final_cost)
    assert history.final_validation_cost == pytest.approx(whole.final_validation_cost)


@pytest.mark.parametrize(
    ("solver", "batch_size"),
    [("direct", None), ("direct", 8), ("gram", None), ("jitted", None), ("gram-jitted", None)],
)
def test_a_signal_ends_a_training_between_two_steps(solver, batch_size):
    random = np.random.default_rng(0)
    net = Network([30, 8, 1], hidden="tanh", l2=0.5)
    params, X, Y = net.init(), random.normal(size=(30, 20)), random.integers(2, size=20)
    options = {"learning_rate": 0.01, "solver": solver, "batch_size": batch_size}
    accelnn.fit(net, params, X, Y, epochs=1, **options)  # whatever is to be compiled
    before = signal.getsignal(signal.SIGINT)
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    with pytest.raises(accelnn.Interrupted) as interrupted:
        accelnn.fit(
            net,
            params,
            X,
            Y,
            epochs=10**7,
            record_every=10**7,
            callbacks=[lambda _now: timer.start()],
            **options,
        )
    assert signal.getsignal(signal.SIGINT) is before
    epochs = interrupted.value.history.epochs_run
    assert 0 < epochs < 10**7
    if batch_size is None:
        expected, _ = accelnn.fit(net, params, X, Y, epochs=epochs, **options)
        np.testing.assert_allclose(interrupted.value.params.flat, expected.flat, rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"optimizer": "momentum"}], ids=str)
def test_a_signal_between_two_compiled_calls_leaves_sample_space_in_step(monkeypatch, options):
    from accelnn.kernels import jit
    from accelnn.solvers import jitted

    random = np.random.default_rng(0)
    net = Network([30, 8, 1], hidden="tanh", l2=5.0)
    params, X, Y = net.init(), random.normal(size=(30, 20)), random.integers(2, size=20)
    options = {"learning_rate": 0.1, "solver": "gram-jitted"} | options
    monkeypatch.setattr(jitted, "LONGEST_CALL", 1e5)
    train, calls = jit.train(), []

    def counted(*args):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return train(*args)

    accelnn.fit(net, params, X, Y, epochs=1, **options)  # whatever is to be compiled
    with monkeypatch.context() as patch:
        patch.setattr(jit, "train", lambda: counted)
        with pytest.raises(accelnn.Interrupted) as interrupted:
            accelnn.fit(net, params, X, Y, epochs=5000, record_every=5000, **options)
    history = interrupted.value.history
    assert 0 < history.epochs_run < 5000
    assert len(history.costs) == 1
    expected, _ = accelnn.fit(net, params, X, Y, epochs=history.epochs_run, **options)
    np.testing.assert_allclose(interrupted.value.params.flat, expected.flat, rtol=1e-12)


def test_ctrl_c_while_a_solver_gets_ready_gives_the_first_parameters(flower, monkeypatch):
    def compiling(_job):
        raise KeyboardInterrupt

    monkeypatch.setattr("accelnn.solvers.direct.Direct.start", compiling)
    net, params = small()
    with pytest.raises(accelnn.Interrupted) as interrupted:
        accelnn.fit(net, params, *flower, epochs=10, learning_rate=0.5)
    np.testing.assert_array_equal(interrupted.value.params.flat, params.flat)
    history = interrupted.value.history
    assert (history.epochs_run, history.costs, history.stopped) == (0, [], "interrupted")
    assert history.final_cost == pytest.approx(net.cost(params, *flower))


def test_a_bar_stays_where_ctrl_c_came(flower, capsys):
    def interrupt(now):
        if now.epoch == 40:
            raise KeyboardInterrupt

    net, params = small()
    options = {"epochs": 100, "learning_rate": 0.5, "record_every": 10, "verbose": True}
    with pytest.raises(accelnn.Interrupted):
        accelnn.fit(net, params, *flower, callbacks=[interrupt], **options)
    assert "31%" in capsys.readouterr().err


def test_a_second_ctrl_c_does_not_wait():
    class Stubborn(accelnn.solvers.job.Interruption):
        def __exit__(self, *error):
            signal.raise_signal(signal.SIGINT)  # the first, held back
            assert self.requested
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt), Stubborn():
        pass
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_trainings_in_other_threads_leave_signals_alone(flower):
    net, params = small()
    results = []
    thread = threading.Thread(
        target=lambda: results.append(
            accelnn.fit(net, params, *flower, epochs=3, learning_rate=0.1)
        )
    )
    thread.start()
    thread.join()
    assert results[0][1].epochs_run == 3


def test_an_interrupted_script_ends_with_what_it_had_come_to():
    code = """
import numpy as np, accelnn
net = accelnn.Network([30, 8, 1])
X, Y = np.ones((30, 20)), np.ones((1, 20))
def ready(now):
    if now.epoch == 0:
        print("training", flush=True)
accelnn.fit(net, net.init(), X, Y, epochs=10**8, learning_rate=0.01, record_every=1000,
            callbacks=[ready])
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout.readline() == "training\n"
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Interrupted: training interrupted after " in error


# --------------------------------------------------------------------------------------------
# what it leaves alone


def test_training_on_from_where_one_stopped_is_the_same_training(flower):
    net, params = small(l2=0.1)
    half, _ = accelnn.fit(net, params, *flower, epochs=30, learning_rate=0.5)
    on, _ = accelnn.fit(net, half, *flower, epochs=30, learning_rate=0.5)
    whole, _ = accelnn.fit(net, params, *flower, epochs=60, learning_rate=0.5)
    np.testing.assert_array_equal(on.flat, whole.flat)


def test_nothing_that_was_given_is_changed(flower):
    net, params = small(l2=0.1, keep_prob=0.8)
    given = [params.flat, *flower]
    before = [array.copy() for array in given]
    for array in given:
        array.setflags(write=False)
    accelnn.fit(net, params, *flower, epochs=5, learning_rate=0.5)
    net.gradients(params, *flower)
    net.predict(params, flower[0])
    for array, as_it_was in zip(given, before, strict=True):
        np.testing.assert_array_equal(array, as_it_was)


def test_no_epochs_change_nothing(flower):
    net, params = small()
    trained, history = accelnn.fit(net, params, *flower, epochs=0, learning_rate=0.5)
    np.testing.assert_array_equal(trained.flat, params.flat)
    assert history.costs == []
    assert history.final_cost == pytest.approx(net.cost(params, *flower))


def test_float32_stays_float32_and_near_float64(flower):
    net, params = small()
    single, history = accelnn.fit(
        net, net.init("he", seed=2, dtype="float32"), *flower, epochs=50, learning_rate=0.5
    )
    double, _ = accelnn.fit(net, params, *flower, epochs=50, learning_rate=0.5)
    assert single.dtype == np.float32
    assert history.dtype == "float32"
    np.testing.assert_allclose(single.flat, double.flat, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("layout", ["C", "F"])
def test_any_memory_layout_of_X_gives_the_same(flower, layout):
    net, params = small()
    X = np.array(flower[0], order=layout)
    trained, _ = accelnn.fit(net, params, X, flower[1], epochs=20, learning_rate=0.5)
    expected, _ = accelnn.fit(net, params, *flower, epochs=20, learning_rate=0.5)
    np.testing.assert_allclose(trained.flat, expected.flat, rtol=1e-12)


# --------------------------------------------------------------------------------------------
# dropout


@pytest.mark.usefixtures("there")
def test_dropout_follows_its_seed(flower):
    X, Y = map(to_device, flower)
    net, params = small(keep_prob=0.7)

    def trained(seed):
        return to_host(
            accelnn.fit(net, params, X, Y, epochs=5, learning_rate=0.5, seed=seed)[0].flat
        )

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.array_equal(trained(1), trained(2))


@pytest.mark.usefixtures("there")
def test_dropout_keeps_its_share_and_scales_what_it_keeps(monkeypatch, flower):
    from accelnn import operations

    seen = []
    plain = operations.bias_activation

    def watched(Z, b, activation, D):
        seen.append(None if D is None else to_host(D).copy())
        plain(Z, b, activation, D)

    monkeypatch.setattr(
        operations,
        "_chosen",
        {name: ops._replace(bias_activation=watched) for name, ops in operations._chosen.items()},
    )
    X, Y = map(to_device, flower)
    net = Network([2, 50, 40, 1], hidden="tanh", keep_prob=(0.6, 1.0))
    params = net.init("he", dtype="float64")
    accelnn.fit(net, params, X, Y, epochs=2, learning_rate=0.1, solver="direct")
    first, none, second, _, *evaluation = seen
    assert none is None
    assert all(D is None for D in evaluation)  # the final cost is taken without dropout
    for D in (first, second):
        assert set(np.unique(D)) == {0.0, 1 / 0.6}
        assert np.mean(D > 0) == pytest.approx(0.6, abs=4 * np.sqrt(0.24 / D.size))
    assert not np.array_equal(first, second)  # drawn anew in every step


@pytest.mark.parametrize("hidden", ["sigmoid", "tanh", "relu", "leaky_relu"])
def test_backward_through_dropout_is_the_numerical_gradient_of_the_thinned_net(hidden, flower):
    from accelnn.gradient_check import numerical_gradient, relative_difference
    from accelnn.network import Workspace, backward, forward

    X, Y = flower[0][:, :9], flower[1][:, 190:199]
    net = Network([2, 5, 4, 1], hidden=hidden, keep_prob=(0.6, 0.8), l2=0.2)
    random = np.random.default_rng(0)
    params = net.init("he", seed=4)
    params.flat[...] += random.normal(0, 0.1, params.flat.shape)  # away from relu's kink at 0
    work = Workspace(net, params, 9, dropout=True)
    for D, keep in zip(work.D, net.keep_prob, strict=True):
        D[...] = (random.random(D.shape) < keep) / keep

    def cost_and_gradient(theta):
        theta = accelnn.Parameters(theta, net.layers)
        gradients, cost = theta.empty_like(), np.empty(1)
        forward(net, theta, X, work)
        backward(net, theta, X, Y, work, 1 / 9, gradients, cost[0, ...])
        return cost[0], gradients.flat

    numerical = numerical_gradient(lambda theta: cost_and_gradient(theta)[0], params.flat, 1e-6)
    assert relative_difference(cost_and_gradient(params.flat)[1], numerical) < 1e-7


# --------------------------------------------------------------------------------------------
# the device


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "linear"])
@pytest.mark.parametrize("keep_prob", [1.0, 0.8])
def test_nothing_waits_for_the_device_between_records(double, output, keep_prob):
    random = np.random.default_rng(0)
    net = Network([5, 6, 4, 3], hidden=("tanh", "relu"), output=output, l2=0.1, keep_prob=keep_prob)
    X = to_device(random.normal(size=(5, 20)), "float32")
    Y = to_device(accelnn.one_hot(np.arange(20) % 3, 3), "float32")
    counts = []
    for epochs, record_every in ((1, 1), (200, 1), (200, 50)):
        double.counts.synchronizations = 0
        accelnn.fit(
            net, net.init(), X, Y, epochs=epochs, learning_rate=0.1, record_every=record_every
        )
        counts.append(double.counts.synchronizations)
    # the checks before, the costs and the final cost after: as many for 1 epoch as for 200
    assert counts[0] == counts[1] == counts[2]


def test_data_crosses_to_the_device_once(double):
    net = Network([5, 4, 1])
    X, Y = to_device(np.ones((5, 8))), to_device(np.ones((1, 8)))
    params = net.init()
    double.counts.uploads = 0
    accelnn.fit(net, params, X, Y, epochs=10, learning_rate=0.1)
    net.predict(params, X)
    assert double.counts.uploads == 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_device_gives_the_costs_of_the_host(flower, l2):
    net, _ = small(l2=l2)
    options = {"epochs": 50, "learning_rate": 0.5, "record_every": 1}
    device_params = net.init("he", seed=2, dtype="float64")
    _, there = accelnn.fit(net, device_params, *map(to_device, flower), **options)
    with accelnn.use("numpy"):
        _, here = accelnn.fit(net, net.init("he", seed=2), *map(to_host, flower), **options)
    assert (there.backend, here.backend) == ("cupy", "numpy")
    np.testing.assert_allclose(there.costs, here.costs, rtol=1e-12)


@pytest.mark.gpu
def test_a_real_gpu_gives_the_costs_of_the_host(flower):
    net, params = small()
    options = {"epochs": 50, "learning_rate": 0.5, "record_every": 1}
    _, here = accelnn.fit(net, params, *flower, **options)
    with accelnn.use("cupy"):
        params = net.init("he", seed=2, dtype="float64")
        _, there = accelnn.fit(net, params, *map(to_device, flower), **options)
    assert there.backend == "cupy"
    np.testing.assert_allclose(there.costs, here.costs, rtol=1e-10)


# --------------------------------------------------------------------------------------------
# bad input


def _with(array, value):
    array = array.copy()
    array[0, 3] = value
    return array


BAD_DATA = {
    "NaN in X": (lambda X, Y: (_with(X, np.nan), Y), "X has 1 NaN or infinite"),
    "infinity in X": (lambda X, Y: (_with(X, np.inf), Y), "X has 1 NaN or infinite"),
    "NaN in Y": (lambda X, Y: (X, _with(Y, np.nan)), "Y has 1 NaN"),
    "a label of 2": (lambda X, Y: (X, _with(Y, 2)), r"labels Y in 0\.\.1.*got 0\.\.2"),
    "a label of -1": (lambda X, Y: (X, _with(Y, -1)), r"labels Y in 0\.\.1.*got -1\.\.1"),
    "no examples": (lambda X, Y: (X[:, :0], Y[:, :0]), "at least one example"),
    "rows as examples": (lambda X, Y: (X.T, Y), "pass X.T"),
}


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data_is_refused_before_training(flower, case):
    spoil, message = BAD_DATA[case]
    net, params = small()
    X, Y = map(to_device, spoil(*flower))
    with pytest.raises(ValueError, match=message):
        accelnn.fit(net, params, X, Y, epochs=1, learning_rate=0.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": -1}, "epochs as an integer >= 0, got -1"),
        ({"epochs": 1.5}, "epochs as an integer"),
        ({"epochs": True}, "epochs as an integer"),
        ({"record_every": 0}, "record_every as an integer >= 1"),
        ({"learning_rate": 0}, "learning_rate > 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"solver": "adam"}, "unknown solver 'adam'.*auto.*direct"),
        ({"seed": -1}, "seed as an integer >= 0, got -1"),
        ({"verbose": "loud"}, "verbose as False, True or 'lines', got 'loud'"),
    ],
)
def test_bad_options_are_refused(flower, options, message):
    net, params = small()
    with pytest.raises(ValueError, match=message):
        accelnn.fit(net, params, *flower, **{"epochs": 1, "learning_rate": 0.5} | options)


def test_what_is_no_network_or_no_parameters_is_refused_with_what_to_pass(flower):
    net, params = small()
    with pytest.raises(TypeError, match=r"params as accelnn\.Parameters, got NoneType.*net\.init"):
        accelnn.fit(net, None, *flower, epochs=1, learning_rate=0.5)
    with pytest.raises(TypeError, match=r"net as accelnn\.Network, got list"):
        accelnn.fit([2, 4, 1], params, *flower, epochs=1, learning_rate=0.5)
    X, Y = flower
    with pytest.raises(TypeError, match=r"X as an array, got list: pass numpy\.array"):
        accelnn.fit(net, params, X.tolist(), Y, epochs=1, learning_rate=0.5)
    with pytest.raises(ValueError, match=r"Y of shape \(1, 400\) or labels of shape \(400,\)"):
        accelnn.fit(net, params, X, Y[:, 1:], epochs=1, learning_rate=0.5)


def test_softmax_wants_columns_that_sum_to_one():
    net = Network([2, 3], output="softmax")
    with pytest.raises(ValueError, match="sum to 1.*one_hot"):
        accelnn.fit(net, net.init(), np.ones((2, 4)), np.zeros((3, 4)), epochs=1, learning_rate=1)


def test_bad_weights_are_refused(flower):
    net, params = small()
    params.flat[3] = np.nan
    with pytest.raises(ValueError, match="params has 1 NaN"):
        accelnn.fit(net, params, *flower, epochs=1, learning_rate=0.5)


@pytest.mark.usefixtures("there")
def test_divergence_is_warned_about_once_with_the_epoch(flower):
    net = Network([2, 8, 1], output="linear")
    X, Y = map(to_device, flower)
    with pytest.warns(RuntimeWarning, match=r"diverged.*learning rate \(1e\+06\)") as warned:
        _, history = accelnn.fit(
            net, net.init(dtype="float64"), X, Y, epochs=80, learning_rate=1e6, record_every=20
        )
    assert len(warned) == 1
    assert not np.isfinite(history.final_cost)


def test_extreme_weights_give_no_warning(flower):
    net = Network([2, 4, 1], hidden="sigmoid")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        params = net.init("normal", scale=1e4)
        _, history = accelnn.fit(net, params, *flower, epochs=3, learning_rate=0.5)
    assert np.isfinite(history.final_cost)
