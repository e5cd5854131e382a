"""`fit_many`: the results of single trainings to the last bit, however many run at once."""

import functools
import os
import signal
import threading
import warnings
import weakref
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Network, batches, fit_many
from accelnn.backend import to_device, to_host
from accelnn.solvers import choice, jitted, threads
from accelnn.training.fit import Training

M = 60


def data(features, seed=3):
    """X (features, M) and Y (M,) of two classes."""
    random = np.random.default_rng(seed)
    return random.normal(size=(features, M)), random.integers(2, size=M)


def same(result, expected):
    """Whether two results of `fit` are the same to the last bit."""
    fields, others = result[1].to_dict(), expected[1].to_dict()
    for timed in ("seconds", "compile_seconds"):
        del fields[timed], others[timed]
    return (result[0].flat == expected[0].flat).all() and fields == others


@pytest.fixture
def cores(monkeypatch):
    """A function that sets the number of cores."""
    return lambda count: monkeypatch.setattr(threads, "cores", lambda: count)


# --------------------------------------------------------------------------------------------
# the same results as single trainings

NETS = {
    "wide": Network([80, 20, 1], hidden="tanh"),
    "deep": Network([80, 7, 5, 3, 1], hidden=("relu", "sigmoid", "leaky_relu")),
    "L2": Network([80, 6, 1], l2=0.7),
    "dropout": Network([80, 20, 10, 1], keep_prob=(0.8, 0.6)),
    "logistic": Network([80, 1], l2=0.1),
    "float32": Network([80, 9, 1], hidden="sigmoid"),
}


@pytest.mark.parametrize("batch_size", [None, 16])
@pytest.mark.parametrize("solver", choice.SOLVERS)
def test_results_are_those_of_single_trainings_on_one_thread_to_the_last_bit(
    solver, batch_size, cores
):
    if batch_size and solver.startswith("gram"):
        return  # sample space needs full batches
    cores(3)
    X, Y = data(80)
    first = {
        name: net.init("he", seed=seed, dtype="float32" if name == "float32" else "float64")
        for seed, (name, net) in enumerate(NETS.items())
    }
    each = {
        "learning_rate": [0.1, 0.02, lambda epoch: 0.1 / (1 + epoch), 0.1, 0.3, 0.1],
        "optimizer": ["sgd", "momentum", "momentum", "sgd", "momentum", "sgd"],
        "epochs": [12, 20, 7, 9, 5, 11],
        "seed": [0, 1, 2, 3, 4, 5],
        "validation": [None, 0.2, data(80, seed=4), None, 0.3, None],
        "weights": [None, np.arange(M), None, None, np.ones(M), None],
    }
    common = {"batch_size": batch_size, "solver": solver, "record_every": 4}
    found = fit_many(list(NETS.values()), list(first.values()), X, Y, **each, **common)
    for i, (name, net) in enumerate(NETS.items()):
        own = {keyword: values[i] for keyword, values in each.items()} | common
        assert same(found[i], accelnn.fit(net, first[name], X, Y, threads=1, **own)), name


@pytest.mark.usefixtures("there")
def test_every_backend_gives_the_results_of_single_trainings():
    on_host = data(80)
    folds = [np.arange(40), None, np.arange(0, M, 3)]
    net, params = NETS["wide"], NETS["wide"].init(dtype="float64")
    for (X, Y), batch_size in ((map(to_device, on_host), None), (on_host, 16)):  # streamed
        options = {"epochs": 6, "learning_rate": 0.1, "batch_size": batch_size, "validation": 0.2}
        found = fit_many(net, params, X, Y, examples=folds, **options)
        for (trained, history), fold in zip(found, folds, strict=True):
            chosen = np.arange(M) if fold is None else fold
            part = on_host[0][:, chosen], on_host[1][chosen]
            part = part if batch_size else map(to_device, part)
            expected, single = accelnn.fit(net, params, *part, **options)
            np.testing.assert_allclose(to_host(trained.flat), to_host(expected.flat), rtol=1e-12)
            assert history.final_cost == pytest.approx(single.final_cost, rel=1e-12)
            assert history.validation_costs == pytest.approx(single.validation_costs, rel=1e-12)


def test_a_fold_sees_its_examples_only(cores):
    cores(2)
    X, Y = data(80)
    random = np.random.default_rng(0)
    folds = [np.sort(part) for part in np.split(random.permutation(M), 5)]
    rest = [np.setdiff1d(np.arange(M), fold) for fold in folds]
    weights = random.uniform(size=M)
    net = NETS["L2"]
    for solver, batch_size in (
        *(("direct", None), ("direct", 16), ("jitted", None), ("jitted", 16)),
        *(("gram", None), ("gram-jitted", None)),
    ):
        options = {"epochs": 9, "learning_rate": 0.1, "solver": solver, "batch_size": batch_size}
        held_out = [(X[:, fold], Y[fold]) for fold in folds]
        many = {"examples": rest, "validation": held_out, "weights": weights}
        found = fit_many(net, net.init(), X, Y, **many, **options)
        for result, chosen, validation in zip(found, rest, held_out, strict=True):
            given = net, net.init(), X[:, chosen], Y[chosen]
            own = {"validation": validation, "weights": weights[chosen], "threads": 1}
            expected = accelnn.fit(*given, **own, **options)
            if solver.startswith("gram"):
                # BLAS sums a part of G in another order than G of a part.
                np.testing.assert_allclose(result[0].flat, expected[0].flat, rtol=1e-12)
                assert result[1].costs == pytest.approx(expected[1].costs, rel=1e-12)
                assert result[1].final_cost == pytest.approx(expected[1].final_cost, rel=1e-12)
            else:
                assert same(result, expected), solver


def test_a_share_is_drawn_for_validation_from_a_folds_examples():
    X, Y = data(80)
    net, chosen = NETS["wide"], np.arange(0, M, 2)
    options = {"epochs": 4, "learning_rate": 0.1, "solver": "gram", "validation": 0.2}
    [result] = fit_many(net, net.init(), X, Y, examples=chosen, **options)
    expected = accelnn.fit(net, net.init(), X[:, chosen], Y[chosen], threads=1, **options)
    assert same(result, expected)


def test_trainings_in_sample_space_form_G_once(monkeypatch):
    matmul, formed = np.matmul, []

    def counted(A, B, *rest, **options):
        if A.shape[1] == B.shape[0] == 80 and A.shape[0] == B.shape[1]:
            formed.append(A.shape[0])
        return matmul(A, B, *rest, **options)

    monkeypatch.setattr(np, "matmul", counted)
    X, Y = data(80)
    options = {"epochs": 3, "learning_rate": 0.1, "solver": "gram"}
    folds = [np.arange(30), None, np.arange(20, M), None]
    fit_many(NETS["wide"], NETS["wide"].init(), X, Y, examples=folds, **options)
    assert formed == [M]


def test_the_columns_of_a_fold_are_copied_once(monkeypatch, cores):
    cores(1)
    copied, alive = [], []

    def columns(fold):
        copied.append(fold.examples[0])
        alive.append(sum(one() is not None for one in copies))
        copy = fold.X[:, fold.examples]
        copies.append(weakref.ref(copy))
        return copy

    copies = []
    cached = functools.cached_property(columns)
    cached.__set_name__(batches.Fold, "_columns")
    monkeypatch.setattr(batches.Fold, "_columns", cached)
    X, Y = data(80)
    folds = [np.arange(20), np.arange(20, 40), np.arange(40, 60)]
    rates = [0.1, 0.2, 0.3]
    many = {"learning_rate": [rate for rate in rates for _ in folds], "examples": folds * 3}
    fit_many(NETS["deep"], NETS["deep"].init(), X, Y, epochs=2, **many)
    assert sorted(copied) == [0, 20, 40]
    assert alive == [0, 0, 0], "each is freed before the next is copied"


def test_trainings_go_on_from_their_states(cores):
    cores(2)
    X, Y = data(80)
    nets = [NETS["deep"], NETS["dropout"]]
    options = {"learning_rate": 0.01, "optimizer": "adam", "batch_size": 16}
    first = [net.init() for net in nets]
    half = fit_many(nets, first, X, Y, epochs=3, **options)
    states = [history.state for _, history in half]
    whole = fit_many(nets, [p for p, _ in half], X, Y, epochs=[2, 4], state=states, **options)
    for net, params, (found, _), epochs in zip(nets, first, whole, (5, 7), strict=True):
        expected, _ = accelnn.fit(net, params, X, Y, epochs=epochs, threads=1, **options)
        np.testing.assert_array_equal(found.flat, expected.flat)


def test_arguments_stay_as_they_are():
    X, Y = data(80)
    net = NETS["L2"]
    params, folds = net.init(), [np.arange(20), np.arange(10, 50)]
    before = [array.copy() for array in (X, Y, params.flat, *folds)]
    fit_many(net, params, X, Y, examples=folds, epochs=4, learning_rate=[0.1, 0.2])
    for array, copy in zip((X, Y, params.flat, *folds), before, strict=True):
        np.testing.assert_array_equal(array, copy)


# --------------------------------------------------------------------------------------------
# one value for all trainings, or a list with one for each

VALUES = {
    "epochs": st.integers(0, 4),
    "learning_rate": st.sampled_from([0.1, 0.5, lambda epoch: 1 / (2 + epoch)]),
    "optimizer": st.sampled_from(["sgd", "adam", accelnn.Momentum(beta=0.5)]),
    "batch_size": st.sampled_from([None, 7, M]),
    "seed": st.integers(0, 3),
    "record_every": st.sampled_from([None, 1, 2]),
    "validation": st.sampled_from([None, 0.25, data(2, seed=5)]),
    "net": st.sampled_from([Network([2, 3, 1]), Network([2, 3, 1], hidden="tanh", l2=0.1)]),
    "params": st.sampled_from([Network([2, 3, 1]).init(seed=seed) for seed in (1, 2)]),
    "examples": st.sampled_from([None, np.arange(5, 50), np.array([3, 1, 4, 1, 5])]),
}


@st.composite
def keywords(draw):
    """The number of trainings, and for each keyword a value or a list of so many."""
    count = draw(st.integers(1, 4))
    lists = draw(st.sets(st.sampled_from(sorted(VALUES)), min_size=1))
    one_or_each = {
        name: st.lists(values, min_size=count, max_size=count) if name in lists else values
        for name, values in VALUES.items()
    }
    return count, draw(st.fixed_dictionaries(one_or_each))


@settings(max_examples=40, deadline=None)
@given(keywords())
def test_a_keyword_is_one_value_or_a_list_with_one_for_each_training(drawn):
    count, many = drawn
    X, Y = data(2)
    found = fit_many(
        many["net"],
        many["params"],
        X,
        Y,
        **{n: many[n] for n in VALUES if n not in ("net", "params")},
    )
    assert len(found) == count
    for i in range(count):
        own = {name: v[i] if isinstance(v, list) else v for name, v in many.items()}
        chosen = own.pop("examples")
        part = slice(None) if chosen is None else chosen
        assert same(found[i], accelnn.fit(X=X[:, part], Y=Y[part], threads=1, **own))


def test_tuples_of_nets_and_parameters_have_one_for_each_training_other_tuples_are_one_value():
    X, Y = data(80)
    nets, calls = (NETS["wide"], NETS["deep"]), []
    first = tuple(net.init() for net in nets)
    callbacks = (lambda now: calls.append(now.epoch), lambda _: None)
    found = fit_many(nets, first, X, Y, epochs=2, learning_rate=0.1, callbacks=callbacks)
    assert [len(params.layers) for params, _ in found] == [3, 5]
    assert sorted(calls) == [0, 0, 1, 1]


def test_no_trainings_have_no_results():
    assert fit_many([], [], *data(2), epochs=3) == []


WRONG = {
    "missing a required argument: 'epochs'": {"learning_rate": 0.1},
    "unexpected keyword argument 'epoch'": {"epochs": 1, "epoch": 1},
    "takes no threads": {"epochs": 1, "threads": 2},
    "expected lists of one length, got 3 of epochs, 2 of seed": {"epochs": [1] * 3, "seed": [1, 2]},
    "one iterator for all": {"epochs": [1, 1], "shuffle": iter([np.arange(M)]), "batch_size": 8},
    "training 2 of 3: expected epochs as an integer >= 0, got -1": {"epochs": [1, -1, 2]},
    "training 1 of 2: solver='gram' cannot do this": {
        "epochs": [1, 1],
        "solver": "gram",
        "batch_size": [8, None],
    },
    "training 2 of 2: validation: expected X of shape": {
        "epochs": 1,
        "validation": [0.1, (np.zeros((3, 5)), np.zeros(5, int))],
    },
    "expected validation as a share in": {"epochs": 1, "validation": 1.5},
    "training 1 of 2: expected examples as the numbers of columns of X, got int64 of shape ()": {
        "epochs": 1,
        "examples": [1, 2],
    },
    "got bool of shape": {"epochs": 1, "examples": np.arange(M) < 9},
    "expected examples in 0..59, the columns of X, got -1..3": {
        "epochs": 1,
        "examples": np.array([3, -1]),
    },
    "in 0..59, the columns of X, got 2..60": {"epochs": 1, "examples": np.array([60, 2])},
    "expected verbose as False": {"epochs": 1, "verbose": "loud"},
}


@pytest.mark.parametrize("message", WRONG)
def test_wrong_arguments_are_errors_before_any_training(message, monkeypatch):
    monkeypatch.setattr(Training, "run", lambda *_, **__: pytest.fail("it trains"))
    net = Network([2, 3, 1])
    with pytest.raises((TypeError, ValueError)) as error:
        fit_many(net, net.init(), *data(2), **{"learning_rate": 0.1} | WRONG[message])
    assert message in str(error.value)


def test_parameters_of_another_net_and_bad_data_are_errors():
    X, Y = data(2)
    nets = [Network([2, 3, 1]), Network([2, 4, 1])]
    options = {"epochs": 1, "learning_rate": 0.1}
    with pytest.raises(ValueError, match="training 2 of 2: expected parameters of layers"):
        fit_many(nets, nets[0].init(), X, Y, **options)
    with pytest.raises(TypeError, match="training 1 of 1: expected net as accelnn.Network"):
        fit_many("net", nets[0].init(), X, Y, **options)
    X[0, 3] = np.nan
    with pytest.raises(ValueError, match="X has 1 NaN"):
        fit_many(nets[0], nets[0].init(), X, Y, **options)
    wrong = nets[0].init()
    wrong.flat[0] = np.inf
    with pytest.raises(ValueError, match="training 2 of 2: params has 1 NaN or infinite"):
        fit_many(nets[0], [nets[0].init(), wrong], *data(2), **options)


# --------------------------------------------------------------------------------------------
# errors, warnings and progress


def failing(epoch, error):
    def fail(now):
        if now.epoch == epoch:
            raise error

    return fail


@pytest.mark.parametrize("count", [1, 2])
def test_an_error_in_one_training_names_it_and_ends_no_other(count, cores):
    cores(count)
    X, Y = data(2)
    net, errors = Network([2, 3, 1]), {1: KeyError("one"), 3: OSError("two"), 4: OSError("two")}
    callbacks = [(failing(1, errors[i]),) if i in errors else () for i in range(6)]
    options = {"epochs": 4, "learning_rate": 0.1, "record_every": 1}
    with pytest.raises(accelnn.TrainingsFailed) as failed:
        fit_many(net, net.init(), X, Y, callbacks=callbacks, **options)
    message = "3 of 6 trainings failed, and .results holds the others: "
    message += "training 2: KeyError: 'one'; training 4, 5: OSError: two"
    assert str(failed.value) == message
    assert {id(e) for e in failed.value.exceptions} == {id(e) for e in errors.values()}
    assert failed.value.subgroup(KeyError).exceptions == (errors[1],)
    expected = accelnn.fit(net, net.init(), X, Y, threads=1, **options)
    for i, result in enumerate(failed.value.results):
        assert result is None if i in errors else same(result, expected), i


def test_weights_that_are_all_0_in_a_fold_are_an_error_of_that_fold():
    X, Y = data(2)
    net, weights = Network([2, 3, 1]), np.arange(M) >= 20.0
    folds = [np.arange(30), np.arange(20)]
    with pytest.raises(accelnn.TrainingsFailed, match="training 2: ValueError: expected weights"):
        fit_many(
            net, net.init(), X, Y, epochs=1, learning_rate=1.0, examples=folds, weights=weights
        )


def test_each_training_that_diverges_is_named():
    X, Y = data(2)
    net = Network([2, 3, 1], output="linear")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit_many(net, net.init(), X, Y, epochs=400, learning_rate=[0.01, 1e200, 0.1, 1e3])
    assert [str(warning.message)[:18] for warning in caught] == [
        "training 2 of 4: t",
        "training 4 of 4: t",
    ]
    assert all("lower the learning rate" in str(warning.message) for warning in caught)
    assert {warning.filename for warning in caught} == {__file__}


def test_verbose_shows_the_trainings(capsys, cores):
    cores(2)
    X, Y = data(2)
    net = Network([2, 3, 1])
    run = functools.partial(fit_many, net, net.init(), X, Y, epochs=[3, 5, 4], learning_rate=0.1)
    run(verbose=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "100%" in err
    assert "3 of 3" in err
    results = run(verbose="lines")
    lines = sorted(capsys.readouterr().out.splitlines())
    for number, (line, (_, history)) in enumerate(zip(lines, results, strict=True), start=1):
        costs = f"{history.costs[0]:.6f} to {history.costs[-1]:.6f}"
        assert line == f"training {number} of 3: cost {costs}"
    run()
    assert capsys.readouterr() == ("", "")


# --------------------------------------------------------------------------------------------
# Ctrl-C


@contextmanager
def pressed(calls):
    """A callback for the block: Ctrl-C comes shortly after so many calls."""
    timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
    lock, called, before = threading.Lock(), [], signal.getsignal(signal.SIGINT)

    def press(_now):
        with lock:
            called.append(1)
            if len(called) == calls:
                timer.start()

    yield press
    timer.join()
    assert signal.getsignal(signal.SIGINT) is before


LONG = 10**7


@pytest.mark.parametrize("solver", ["direct", "jitted", "gram-jitted"])
@pytest.mark.parametrize("count", [1, 2])
def test_ctrl_c_keeps_what_has_ended_and_ends_what_runs(solver, count, cores, monkeypatch):
    cores(count)
    monkeypatch.setattr(choice, "estimate", lambda _job, epochs: -epochs)  # the shortest first
    jitted.load("float64")
    X, Y = data(80)
    net, rates, epochs = NETS["wide"], [0.01, 0.02, 0.03, 0.04], [LONG, 5, 5, LONG]
    options = {"solver": solver, "record_every": LONG}
    with pressed(calls=count) as press:
        many = {"epochs": epochs, "learning_rate": rates, "callbacks": [(press,), (), (), (press,)]}
        with pytest.raises(accelnn.TrainingsInterrupted) as stopped:
            fit_many(net, net.init(), X, Y, **many, **options)
    results = stopped.value.results
    assert isinstance(stopped.value, KeyboardInterrupt)
    assert str(stopped.value).startswith("interrupted after 2 of 4 trainings: .results holds")
    for place in (1, 2):
        own = {"epochs": 5, "learning_rate": rates[place], "threads": 1}
        assert same(results[place], accelnn.fit(net, net.init(), X, Y, **own, **options))
    for place in (0, 3)[:count]:
        params, history = results[place]
        assert history.stopped == "interrupted"
        assert 0 < history.epochs_run < LONG
        assert history.final_cost == pytest.approx(net.cost(params, X, Y))
    assert count == 2 or results[3] is None


def test_ctrl_c_handled_by_another_ends_all_too(cores):
    def handler(*_):
        raise KeyboardInterrupt

    cores(2)
    X, Y = data(2)
    net, before = Network([2, 3, 1]), signal.signal(signal.SIGINT, handler)
    options = {"epochs": LONG, "learning_rate": [0.1] * 3, "record_every": LONG}
    try:
        with pressed(calls=2) as press, pytest.raises(accelnn.TrainingsInterrupted) as stopped:
            fit_many(net, net.init(), X, Y, callbacks=(press,), **options)
    finally:
        signal.signal(signal.SIGINT, before)
    first, second, third = stopped.value.results
    assert first[1].stopped == second[1].stopped == "interrupted"
    assert third is None


@pytest.mark.parametrize("count", [1, 2])
def test_a_keyboard_interrupt_in_a_callback_ends_all(count, cores):
    cores(count)
    X, Y = data(2)
    net = Network([2, 3, 1])
    callbacks = [(failing(2, KeyboardInterrupt()),), (), ()]
    options = {"learning_rate": 0.1, "record_every": 1, "callbacks": callbacks}
    with pytest.raises(accelnn.TrainingsInterrupted, match="0 of 3 trainings") as stopped:
        fit_many(net, net.init(), X, Y, epochs=[LONG + 1, LONG, 7], **options)
    assert stopped.value.results[0][1].epochs_run == 3
    assert stopped.value.results[2] is None


# --------------------------------------------------------------------------------------------
# at once


def test_trainings_run_at_once(cores):
    cores(3)
    X, Y = data(2)
    net, barrier = Network([2, 3, 1]), threading.Barrier(3, timeout=20)
    options = {"epochs": [1] * 3, "learning_rate": 0.1, "callbacks": (lambda _: barrier.wait(),)}
    fit_many(net, net.init(), X, Y, **options)


def test_64_nets_use_at_most_as_many_threads_as_there_are_cores(flower, cores, monkeypatch):
    cores(3)
    run, lock, running, most = Training.run, threading.Lock(), set(), []

    def counted(training, **options):
        with lock:
            running.add(threading.get_ident())
            most.append(len(running))
        result = run(training, **options)
        with lock:
            running.discard(threading.get_ident())
        return result

    monkeypatch.setattr(Training, "run", counted)
    several = lambda *_: pytest.fail("a training takes several threads")  # noqa: E731
    monkeypatch.setattr(threads._Pool, "run", several)
    nets = [Network([2, 1 + n % 8, 1], hidden="tanh") for n in range(64)]
    first = [net.init(seed=seed) for seed, net in enumerate(nets)]
    options = {"epochs": 20, "learning_rate": 0.5, "solver": "jitted"}
    found = fit_many(nets, first, *flower, **options)
    assert len(most) == len(found) == 64
    assert max(most) <= 3


def test_the_longest_training_begins_first(cores):
    cores(1)
    X, Y = data(2)
    net, begun = Network([2, 3, 1]), []
    callbacks = [(lambda _, place=place: begun.append(place),) for place in range(4)]
    options = {"epochs": [2, 40, 3, 40], "learning_rate": 0.1, "record_every": 100}
    fit_many(net, net.init(), X, Y, callbacks=callbacks, **options)
    assert begun == [1, 3, 2, 0]


def test_auto_compiles_for_many_trainings_that_are_short_alone(monkeypatch):
    X, Y = data(2)
    net = Network([2, 3, 1])
    job = choice.Job(net, net.init(), X, Y[None] * 1.0, accelnn.SGD())
    monkeypatch.setattr(choice, "LONG", 4 * choice.estimate(job, 100))
    options = {"epochs": 100, "learning_rate": 0.1}
    for count, solver in ((1, "direct"), (3, "direct"), (5, "jitted")):
        found = fit_many([net] * count, net.init(), X, Y, **options)
        assert {history.solver for _, history in found} == {solver}, count
    assert accelnn.fit(net, net.init(), X, Y, **options)[1].solver == "direct"


def test_a_training_on_one_thread_waits_for_no_other():
    with threads._pool.running:
        assert threads.run(lambda part: part + 1, 1) == [1]
