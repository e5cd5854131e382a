"""Training: published figures, its history, Ctrl-C, dropout, the device, and bad input."""

import copy
import itertools
import json
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import tracemalloc
import types
import warnings
from contextlib import suppress

import numpy as np
import pytest
from helpers.core import refused, small, unchanged
from helpers.published import PUBLISHED, check_published_figures

import accelnn
from accelnn import Network, batches, network
from accelnn.backend import to_device, to_host
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy
from accelnn.solvers.direct import Direct

# --------------------------------------------------------------------------------------------
# against published figures and a training written out


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_real_cats_give_the_published_figures(real_data, name):
    check_published_figures(name, real_data, "auto")


@pytest.mark.usefixtures("there")
def test_a_training_is_gradient_descent_written_out(flower):
    (X, Y), given, m = flower, tuple(map(to_device, flower)), flower[0].shape[1]
    for l2 in (0.0, 0.3):
        net, params = small(l2=l2)
        W1, b1, W2, b2 = (to_host(array).copy() for layer in params for array in layer)
        options = {"epochs": 50, "learning_rate": 0.5, "record_every": 1}
        trained, history = accelnn.fit(net, params, *given, **options)
        costs = []
        for _ in range(51):
            expected = np.concatenate([array.ravel() for array in (W1, b1, W2, b2)])
            A1 = np.tanh(W1 @ X + b1)
            A2 = 1 / (1 + np.exp(-(W2 @ A1 + b2)))
            loss = -(Y * np.log(A2) + (1 - Y) * np.log(1 - A2)).mean()
            costs.append(loss + l2 / (2 * m) * ((W1**2).sum() + (W2**2).sum()))
            dZ2 = A2 - Y
            dZ1 = W2.T @ dZ2 * (1 - A1**2)
            W2 = W2 - 0.5 * (dZ2 @ A1.T + l2 * W2) / m
            W1 = W1 - 0.5 * (dZ1 @ X.T + l2 * W1) / m
            b2 = b2 - 0.5 * dZ2.mean(axis=1, keepdims=True)
            b1 = b1 - 0.5 * dZ1.mean(axis=1, keepdims=True)
        np.testing.assert_allclose([*history.costs, history.final_cost], costs, rtol=1e-11)
        np.testing.assert_allclose(to_host(trained.flat), expected, rtol=1e-9, atol=1e-12)


def test_the_flower_is_learnt_by_four_hidden_units(flower):
    recipe = RECIPES["planar"]
    params, _ = accelnn.fit(
        recipe.net, recipe.first_weights(), *flower, epochs=2000, learning_rate=0.5
    )
    assert 0.88 <= accuracy(recipe.net.predict(params, flower[0]), flower[1]) <= 0.93


# --------------------------------------------------------------------------------------------
# the history


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


@pytest.mark.parametrize("record_every", [1, 3, 7, 20, 25, 60])
def test_records_taken_together_are_those_taken_one_by_one(record_every, monkeypatch):
    monkeypatch.setattr("accelnn.training.descent.EPOCHS_AT_ONCE", 20)
    for solver, batch_size, l2 in (
        *(("direct", None, 0.1), ("jitted", None, 0.1), ("jitted", 8, 0.1)),
        *(("gram", None, 0.0), ("gram-jitted", None, 0.0), ("gram-jitted", None, 0.5)),
    ):
        given = wide_problem(l2=l2)
        options = {"epochs": 59, "record_every": record_every, "batch_size": batch_size}
        options |= {"learning_rate": lambda epoch: 0.1 / (1 + epoch), "solver": solver}
        together, history = accelnn.fit(*given, **options)
        one_by_one, expected = accelnn.fit(*given, callbacks=[lambda _: None], **options)
        np.testing.assert_array_equal(together.flat, one_by_one.flat)
        assert history.epochs == expected.epochs == [*range(0, 59, record_every)], solver
        assert history.costs == expected.costs, solver


def test_about_a_hundred_costs_are_recorded_by_default(flower):
    net, params = small()
    for epochs, batch_size, records in ((50, None, 50), (50, 100, 50), (2500, None, 100)):
        options = {"learning_rate": 0.1, "batch_size": batch_size}
        _, history = accelnn.fit(net, params, *flower, epochs=epochs, **options)
        assert len(history.costs) == len(history.epochs) == records, (epochs, batch_size)
        assert history.epochs_run == epochs
    options = {"validation": 0.2, "callbacks": [lambda now: now.epoch >= 20]}
    for patience, recorded in ((2500, [0, 25]), (50, [0, 10, 20]), (3, list(range(21)))):
        _, history = accelnn.fit(
            net, params, *flower, epochs=2500, learning_rate=0.01, patience=patience, **options
        )
        assert history.epochs == recorded, patience


@pytest.mark.usefixtures("there")
def test_final_cost_and_accuracy_are_those_of_the_parameters_returned():
    random = np.random.default_rng(2)
    X, Y = random.normal(size=(5, 40)), accelnn.one_hot(np.arange(40) % 3, 3)
    X, Y, X_v, Y_v = map(to_device, (X[:, :30], Y[:, :30], X[:, 30:], Y[:, 30:]))
    for output in ("sigmoid", "softmax", "linear"):
        net = Network([5, 4, 3], output=output, l2=0.4, keep_prob=0.9)
        options = {"epochs": 6, "learning_rate": 0.1, "validation": (X_v, Y_v)}
        params, history = accelnn.fit(net, net.init("he", dtype="float64"), X, Y, **options)
        assert history.final_cost == pytest.approx(net.cost(params, X, Y), rel=1e-12), output
        cost = Network([5, 4, 3], output=output).cost(params, X_v, Y_v)
        assert history.final_validation_cost == pytest.approx(cost), output
        if output == "linear":
            assert history.final_accuracy is history.final_validation_accuracy is None
            assert history.validation_accuracies == []
            continue
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


def test_a_history_keeps_no_copy_of_the_data():
    net = Network([200, 1])
    X = np.random.default_rng(0).integers(0, 255, (200, 3000)).astype(np.uint8)
    Y = np.arange(3000) % 2
    for validation in (None, 0.25):
        tracemalloc.start()
        _, history = accelnn.fit(
            net, net.init(), X, Y, epochs=1, learning_rate=1e-5, validation=validation
        )
        kept, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert kept < X.nbytes / 2, validation  # as floats X takes 8 times its bytes
        assert np.isfinite(history.final_cost)


def test_row_major_data_is_trained_on_without_a_copy_or_with_two_in_compiled_steps():
    rows = np.random.default_rng(0).normal(size=(60, 20_000))
    Y = np.arange(60) % 2
    net = Network([20_000, 2, 1])
    params = net.init()
    for solver in accelnn.solvers.SOLVERS:
        options = {"epochs": 2, "learning_rate": 0.01, "solver": solver}
        accelnn.fit(net, params, rows.T, Y, **options)  # loads what is loaded once
        tracemalloc.start()
        trained, _ = accelnn.fit(net, params, rows.T, Y, **options)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < (3 if solver == "jitted" else 0.5) * rows.nbytes, solver
        expected, _ = accelnn.fit(net, params, np.ascontiguousarray(rows.T), Y, **options)
        np.testing.assert_allclose(trained.flat, expected.flat, 1e-10, 1e-13, err_msg=solver)


def test_a_history_is_copied_pickled_and_written_as_json(flower):
    net, params = small()
    options = {"epochs": 4, "learning_rate": 0.1, "validation": 0.25}
    for copied in (copy.deepcopy, lambda history: pickle.loads(pickle.dumps(history))):
        _, history = accelnn.fit(net, params, *flower, **options)
        other = copied(history)
        assert other._evaluate is None, "the copy refers to the data"
        assert other.to_dict() == history.to_dict()
    values = history.to_dict()
    assert json.loads(json.dumps(values)) == values
    assert values["final_cost"] == history.final_cost
    assert values["validation_accuracies"] == history.validation_accuracies
    assert history.final_cost == pytest.approx(split_cost(net, params, flower, **options))


def split_cost(net, params, data, epochs, learning_rate, validation):
    """The final cost of the examples that a share for validation leaves."""
    (X, Y), _ = batches.split(data, validation, seed=0)
    return accelnn.fit(net, params, X, Y, epochs=epochs, learning_rate=learning_rate)[1].final_cost


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
def test_integer_labels_train_as_columns_do():
    X = np.random.default_rng(0).normal(size=(4, 50))
    for outputs, batch_size in itertools.product((1, 3), (None, 16)):
        net = Network([4, 5, outputs], output="softmax" if outputs == 3 else "sigmoid")
        labels = np.arange(50) % (2 if outputs == 1 else 3)
        columns = labels[None].astype(float) if outputs == 1 else accelnn.one_hot(labels, 3)
        given = to_device(X), to_device(labels)
        params = net.init("he", dtype="float64")
        options = {"epochs": 4, "learning_rate": 0.2, "batch_size": batch_size, "validation": 0.2}
        by_labels, history = accelnn.fit(net, params, *given, **options)
        by_columns, same = accelnn.fit(net, params, given[0], to_device(columns), **options)
        case = f"{outputs} outputs, batch size {batch_size}"
        np.testing.assert_array_equal(to_host(by_labels.flat), to_host(by_columns.flat), case)
        timed = {"seconds": history.seconds, "compile_seconds": history.compile_seconds}
        assert history.to_dict() == same.to_dict() | timed


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


def test_a_bar_is_full_only_if_the_training_came_to_its_end(flower, capsys):
    def shown(*callbacks):
        net, params = small()
        options = {"epochs": 25, "learning_rate": 0.5, "record_every": 10, "verbose": True}
        with suppress(accelnn.Interrupted):
            accelnn.fit(net, params, *flower, callbacks=callbacks, **options)
        return capsys.readouterr().err

    def interrupt(now):
        if now.epoch == 10:
            raise KeyboardInterrupt

    seen = []
    assert "100%" in shown()  # though the last record is at epoch 20
    early = shown(lambda now: now.epoch == 10, lambda now: seen.append(now.epoch))
    assert "44%" in early
    assert "100%" not in early
    assert seen == [0, 10], "all callbacks are called"
    stopped = shown(interrupt)
    assert "4%" in stopped
    assert "100%" not in stopped


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
def test_ctrl_c_raises_an_error_with_the_parameters_and_history_so_far(flower):
    def interrupt(now):
        if now.epoch == 20:
            raise KeyboardInterrupt

    net, params = small(l2=0.1)
    X, Y = map(to_device, flower)
    for chosen in ({}, {"batch_size": 32}, {"solver": "gram"}):
        options = {"learning_rate": 0.5, "record_every": 10, "validation": 0.2} | chosen
        with pytest.raises(accelnn.Interrupted) as interrupted:
            accelnn.fit(net, params, X, Y, epochs=100, callbacks=[interrupt], **options)
        so_far, history = interrupted.value.params, interrupted.value.history
        assert isinstance(interrupted.value, KeyboardInterrupt)
        assert (history.epochs, history.epochs_run) == ([0, 10, 20], 21), chosen
        assert history.stopped == "interrupted"
        expected, whole = accelnn.fit(net, params, X, Y, epochs=21, **options)
        np.testing.assert_allclose(to_host(so_far.flat), to_host(expected.flat), rtol=1e-12)
        assert history.costs == pytest.approx(whole.costs), chosen
        assert history.final_cost == pytest.approx(whole.final_cost), chosen
        assert history.final_validation_cost == pytest.approx(whole.final_validation_cost), chosen


def wide_problem(l2):
    random = np.random.default_rng(0)
    net = Network([30, 8, 1], hidden="tanh", l2=l2)
    return net, net.init(), random.normal(size=(30, 20)), random.integers(2, size=20)


def test_a_signal_ends_a_training_between_two_steps():
    given = wide_problem(l2=0.5)
    for solver, batch_size in (
        *(("direct", None), ("direct", 8), ("gram", None)),
        *(("jitted", None), ("gram-jitted", None)),
    ):
        options = {"learning_rate": 0.01, "solver": solver, "batch_size": batch_size}
        accelnn.fit(*given, epochs=1, **options)  # compiles what is not compiled
        before = signal.getsignal(signal.SIGINT)
        timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
        callbacks = [lambda _now, timer=timer: timer.start()]
        long = {"epochs": 10**7, "record_every": 10**7, "callbacks": callbacks}
        with pytest.raises(accelnn.Interrupted) as interrupted:
            accelnn.fit(*given, **long, **options)
        assert signal.getsignal(signal.SIGINT) is before
        epochs = interrupted.value.history.epochs_run
        assert 0 < epochs < 10**7, solver
        if batch_size is None:
            expected, _ = accelnn.fit(*given, epochs=epochs, **options)
            np.testing.assert_allclose(
                interrupted.value.params.flat, expected.flat, rtol=1e-6, err_msg=solver
            )


def test_a_signal_between_two_compiled_calls_leaves_sample_space_in_step(monkeypatch):
    from accelnn.kernels import jit
    from accelnn.solvers import jitted

    given = wide_problem(l2=5.0)
    monkeypatch.setattr(jitted, "LONGEST_CALL", 1e5)
    train, calls = jit.train(np.dtype("float64")), []

    def counted(*args):
        calls.append(1)
        if len(calls) == 3:
            signal.raise_signal(signal.SIGINT)
        return train(*args)

    for optimizer in ("sgd", "momentum"):
        calls.clear()
        options = {"learning_rate": 0.1, "solver": "gram-jitted", "optimizer": optimizer}
        accelnn.fit(*given, epochs=1, **options)  # compiles what is not compiled
        with monkeypatch.context() as patch:
            patch.setattr(jit, "train", lambda _dtype: counted)
            with pytest.raises(accelnn.Interrupted) as interrupted:
                accelnn.fit(*given, epochs=5000, record_every=5000, **options)
        history = interrupted.value.history
        assert 0 < history.epochs_run < 5000
        assert len(history.costs) == 1
        expected, _ = accelnn.fit(*given, epochs=history.epochs_run, **options)
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


def test_ctrl_c_after_the_last_epoch_loses_nothing(flower, monkeypatch):
    net, params = small()
    options = {"epochs": 4, "learning_rate": 0.5, "validation": flower}
    expected, history = accelnn.fit(net, params, *flower, **options)
    validate, calls = Direct.validation, []

    def validation(trainer):
        calls.append(1)
        if len(calls) == len(history.epochs) + 1:
            signal.raise_signal(signal.SIGINT)
        return validate(trainer)

    monkeypatch.setattr(Direct, "validation", validation)
    with pytest.raises(accelnn.Interrupted) as interrupted:
        accelnn.fit(net, params, *flower, **options)
    np.testing.assert_array_equal(interrupted.value.params.flat, expected.flat)
    assert interrupted.value.history.final_validation_cost == history.final_validation_cost


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


def test_an_interrupted_script_ends_with_a_message():
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
# arguments stay as they are


def test_a_history_has_the_seconds_of_its_training(flower):
    net, params = small()
    start = time.perf_counter()
    _, history = accelnn.fit(net, params, *flower, epochs=50, learning_rate=0.5)
    _, minimized = accelnn.minimize(net, params, *flower, evaluations=20)
    assert history.seconds > 0
    assert minimized.seconds > 0
    assert history.seconds + minimized.seconds < time.perf_counter() - start


def test_training_on_from_where_one_stopped_is_the_same_training(flower):
    net, params = small(l2=0.1)
    half, _ = accelnn.fit(net, params, *flower, epochs=30, learning_rate=0.5)
    on, _ = accelnn.fit(net, half, *flower, epochs=30, learning_rate=0.5)
    whole, _ = accelnn.fit(net, params, *flower, epochs=60, learning_rate=0.5)
    np.testing.assert_array_equal(on.flat, whole.flat)


def test_arguments_are_not_changed(flower):
    net, params = small(l2=0.1, keep_prob=0.8)
    with unchanged(params.flat, *flower):
        accelnn.fit(net, params, *flower, epochs=5, learning_rate=0.5)
        net.gradients(params, *flower)
        net.predict(params, flower[0])


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


def test_any_memory_layout_of_X_gives_the_same(flower):
    net, params = small()
    options = {"epochs": 20, "learning_rate": 0.5}
    expected, _ = accelnn.fit(net, params, *flower, **options)
    for layout in "CF":
        X = np.array(flower[0], order=layout)
        trained, _ = accelnn.fit(net, params, X, flower[1], **options)
        np.testing.assert_allclose(trained.flat, expected.flat, rtol=1e-12, err_msg=layout)


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
    seen = []
    plain = network.bias_activation

    def watched(Z, b, activation, D):
        seen.append(None if D is None else to_host(D).copy())
        plain(Z, b, activation, D)

    monkeypatch.setattr(network, "bias_activation", watched)
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
    assert not np.array_equal(first, second)  # drawn again in every step


def test_backward_through_dropout_is_the_numerical_gradient_of_the_thinned_net(flower):
    from accelnn.network import Workspace, backward, forward
    from accelnn.numerical import numerical_gradient, relative_difference

    X, Y = flower[0][:, :9], flower[1][:, 190:199]
    for hidden in ("sigmoid", "tanh", "relu", "leaky_relu"):
        net = Network([2, 5, 4, 1], hidden=hidden, keep_prob=(0.6, 0.8), l2=0.2)
        random = np.random.default_rng(0)
        params = net.init("he", seed=4)
        params.flat[...] += random.normal(0, 0.1, params.flat.shape)  # away from relu's kink at 0
        work = Workspace(net, params, 9, dropout=True)
        for D, keep in zip(work.D, net.keep_prob, strict=True):
            D[...] = (random.random(D.shape) < keep) / keep

        def cost_and_gradient(theta, net=net, work=work):
            work.params = accelnn.Parameters(theta, net.layers)
            gradients, cost = work.params.empty_like(), np.empty(1)
            forward(work, X)
            backward(work, X, Y, 1 / 9, gradients, cost[0, ...])
            return cost[0], gradients.flat

        numerical = numerical_gradient(
            lambda theta, f=cost_and_gradient: f(theta)[0], params.flat, 1e-6
        )
        exact = cost_and_gradient(params.flat)[1]
        assert relative_difference(exact, numerical) < 1e-7, hidden


# --------------------------------------------------------------------------------------------
# the device


def test_nothing_waits_for_the_device_between_records(double):
    random = np.random.default_rng(0)
    X = to_device(random.normal(size=(5, 20)), "float32")
    Y = to_device(accelnn.one_hot(np.arange(20) % 3, 3), "float32")
    for output, keep_prob in itertools.product(("sigmoid", "softmax", "linear"), (1.0, 0.8)):
        options = {"output": output, "l2": 0.1, "keep_prob": keep_prob}
        net = Network([5, 6, 4, 3], hidden=("tanh", "relu"), **options)
        counts = []
        for epochs, record_every in ((1, 1), (200, 1), (200, 50)):
            double.counts.synchronizations = 0
            accelnn.fit(
                net, net.init(), X, Y, epochs=epochs, learning_rate=0.1, record_every=record_every
            )
            counts.append(double.counts.synchronizations)
        # the checks before, the costs and the final cost after: as many for 1 epoch as for 200
        assert counts[0] == counts[1] == counts[2], options


def test_data_crosses_to_the_device_once(double):
    net = Network([5, 4, 1])
    X, Y = to_device(np.ones((5, 8))), to_device(np.ones((1, 8)))
    params = net.init()
    double.counts.uploads = 0
    accelnn.fit(net, params, X, Y, epochs=10, learning_rate=0.1)
    net.predict(params, X)
    assert double.counts.uploads == 0


# --------------------------------------------------------------------------------------------
# bad input


@pytest.mark.usefixtures("there")
def test_bad_data_is_refused_before_training(flower):
    def spoilt(array, value):
        array = array.copy()
        array[0, 3] = value
        return array

    net, params = small()
    X, Y = flower
    for given, message in (
        ((spoilt(X, np.nan), Y), "X has 1 NaN or infinite"),
        ((spoilt(X, np.inf), Y), "X has 1 NaN or infinite"),
        ((X, spoilt(Y, np.nan)), "Y has 1 NaN"),
        ((X, spoilt(Y, 2)), r"labels Y in 0\.\.1.*got 0\.\.2"),
        ((X, spoilt(Y, -1)), r"labels Y in 0\.\.1.*got -1\.\.1"),
        ((X[:, :0], Y[:, :0]), "at least one example"),
        ((X.T, Y), "pass X.T"),
        ((X, Y[:, 1:]), r"Y of shape \(1, 400\) or labels of shape \(400,\)"),
    ):
        with refused(message):
            accelnn.fit(net, params, *map(to_device, given), epochs=1, learning_rate=0.5)


def test_bad_arguments_are_refused(flower):
    net, params = small()
    for options, message in (
        ({"epochs": -1}, "epochs as an integer >= 0, got -1"),
        ({"epochs": 1.5}, "epochs as an integer"),
        ({"epochs": True}, "epochs as an integer"),
        ({"epochs": None}, "epochs as an integer"),
        ({"record_every": 0}, "record_every as an integer >= 1"),
        ({"batch_size": 0}, "batch_size as an integer >= 1"),
        ({"patience": 0, "validation": 0.2}, "patience as an integer >= 1"),
        ({"patience": 3}, "patience watches the validation cost"),
        ({"learning_rate": 0}, "learning_rate > 0, got 0"),
        ({"learning_rate": float("nan")}, "learning_rate > 0"),
        ({"solver": "adam"}, "unknown solver 'adam'.*auto.*direct"),
        ({"seed": -1}, "seed as an integer >= 0, got -1"),
        ({"verbose": "loud"}, "verbose as False, True or 'lines', got 'loud'"),
        ({"validation": 1.5}, r"share in \(0, 1\) or as \(X, Y\), got 1.5"),
        ({"validation": "some"}, r"share in \(0, 1\) or as \(X, Y\), got str"),
        ({"validation": (flower[0].T, flower[1])}, "validation: expected X of shape"),
    ):
        with refused(message):
            accelnn.fit(net, params, *flower, **{"epochs": 1, "learning_rate": 0.5} | options)

    options = {"epochs": 1, "learning_rate": 0.5}
    for given, message in (
        ((net, None, *flower), r"params as accelnn\.Parameters, got NoneType.*net\.init"),
        (([2, 4, 1], params, *flower), r"net as accelnn\.Network, got list"),
        ((net, params, flower[0].tolist(), flower[1]), r"X as an array, got list: pass numpy"),
    ):
        with refused(message, TypeError):
            accelnn.fit(*given, **options)
    softmax = Network([2, 3], output="softmax")
    with refused("sum to 1.*one_hot"):
        accelnn.fit(softmax, softmax.init(), np.ones((2, 4)), np.zeros((3, 4)), **options)
    params.flat[3] = np.nan
    with refused("params has 1 NaN"):
        accelnn.fit(net, params, *flower, **options)


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
