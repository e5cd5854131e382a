"""Every solver against the direct one, mini-batches against a loop written out, and what `fit`
does with every solver."""

import itertools
import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
import threadpoolctl
from helpers.published import PUBLISHED, check_published_figures
from helpers.trainings import BATCHES, NETS, OPTIMIZERS, M, both, check_same, data, synchronizations

import accelnn
from accelnn import Momentum, Network, Parameters, batches
from accelnn.backend import to_device, to_host
from accelnn.kernels import jit
from accelnn.optimizers import inverse_decay, optimizer_of
from accelnn.solvers import SOLVERS, jitted
from accelnn.solvers.direct import Direct
from accelnn.solvers.job import Job

FULL_BATCH = {"epochs": 7, "record_every": 2, "learning_rate": 0.3}
FOR_BATCHES = ["direct", "jitted"]
IN_SAMPLE_SPACE = ["gram", "gram-jitted"]
solvers = pytest.mark.parametrize("solver", SOLVERS)
for_batches = pytest.mark.parametrize("solver", FOR_BATCHES)
in_sample_space = pytest.mark.parametrize("solver", IN_SAMPLE_SPACE)
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)


def check_close(params, expected, tolerance=1e-12):
    np.testing.assert_allclose(params.flat, expected.flat, rtol=tolerance, atol=tolerance / 100)


# --------------------------------------------------------------------------------------------
# the same training by every solver


@in_sample_space
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_sample_space_is_the_same_training(solver, optimizer):
    for name, net in NETS.items():
        check_same(both(net, solver, optimizer=OPTIMIZERS[optimizer]), variant=name)


@optimizers
@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_steps_are_the_same_training(optimizer, batch):
    options = {"optimizer": OPTIMIZERS[optimizer], "batch_size": BATCHES[batch]}
    options["learning_rate"] = 0.02 if optimizer == "adam" else 0.3
    for name, net in NETS.items():
        check_same(both(net, "jitted", **options), variant=name)


@pytest.mark.slow
@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "jitted"])
def test_float32_is_the_same_training_too(solver):
    batch_size = 8 if solver == "jitted" else None
    names = ["relu", "two layers", "dropout by layer", "wide layers"]
    for name, options in itertools.product(
        names, [{}, {"optimizer": "momentum", "batch_size": batch_size}]
    ):
        check_same(both(NETS[name], solver, dtype="float32", **options), 2e-4, (name, options))


@pytest.mark.slow
def test_adam_in_float32_has_about_the_same_costs():
    """Adam makes a whole step of a gradient that is nothing but rounding, so parameters differ."""
    options = {"dtype": "float32", "optimizer": "adam", "learning_rate": 0.02}
    (_, history), (_, direct) = both(NETS["two layers"], "jitted", **options)
    np.testing.assert_allclose(history.costs, direct.costs, rtol=1e-3)
    assert history.dtype == "float32"


@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "jitted"])
def test_one_example_and_a_changing_learning_rate_are_the_same_training(solver):
    net = NETS["tanh with L2"]
    for m in (1, 2):  # matrices that are vectors
        check_same(both(net, solver, m), variant=m)
    rate = inverse_decay(0.5, 0.3)
    check_same(both(net, solver, learning_rate=rate, optimizer="momentum"))


# Sizes at which several threads share the examples, in several portions each
SHARED = {
    "many examples": (Network([64, 20, 4, 3], output="softmax", l2=1.0), 3_000, 2_900),
    "wide layers": (Network([64, 200, 90, 3], hidden="tanh", keep_prob=0.8), 300, 290),
    "few features": (Network([20, 200, 1], hidden="sigmoid"), 300, 290),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_gives_the_same_training(monkeypatch, threads):
    """7 parts of 290 examples: the last ones are small or empty."""
    monkeypatch.setattr("accelnn.solvers.threads.best_count", lambda *_: threads)
    for name, (net, m, size) in SHARED.items():
        for optimizer, batch_size in itertools.product(["sgd", "adam"], [None, size]):
            options = {"optimizer": optimizer, "batch_size": batch_size, "learning_rate": 0.02}
            pair = both(net, "jitted", m, epochs=3, **options)
            check_same(pair, 1e-10, (name, options))
    net, m, _ = SHARED["wide layers"]
    check_same(both(replace(net, l2=1.0), "gram-jitted", m, epochs=5), 1e-10, "sample space")


def test_the_number_of_compiled_calls_does_not_change_a_training(monkeypatch):
    """Calls end after so many steps: in the middle of epochs of 7, and of records."""
    for name, most in itertools.product(["tanh with L2", "dropout by layer"], [1, 3, 7, 10**9]):
        params = NETS[name].init()
        monkeypatch.setattr(jitted, "LONGEST_CALL", most * 3 * 8 * params.flat.size)
        pair = both(NETS[name], "jitted", batch_size=8, optimizer="momentum")
        check_same(pair, variant=(name, most))


def test_dropout_masks_are_drawn_for_a_few_steps_at_a_time(monkeypatch):
    net, drawn = NETS["dropout by layer"], []
    monkeypatch.setattr(jitted, "LARGEST_MASKS", 3 * sum(net.layers[1:]) * 8)
    plain = jitted.Jitted._masks

    def counted(self, sizes, places):
        drawn.append(len(sizes))
        return plain(self, sizes, places)

    monkeypatch.setattr(jitted.Jitted, "_masks", counted)
    check_same(both(net, "jitted", batch_size=8))
    assert max(drawn) == 3
    assert sum(drawn) == 7 * 7  # 7 epochs of 7 batches


def test_one_compiled_form_serves_every_training():
    for name, optimizer, batch in (
        ("logistic regression", "sgd", None),
        ("dropout by layer", "adam", 8),
        ("three layers with L2", "momentum", 64),
    ):
        both(NETS[name], "jitted", optimizer=optimizer, batch_size=batch)
    both(NETS["tanh with L2"], "gram-jitted")
    assert jitted.load("float64") == 0
    assert len(jit.train(np.dtype("float64")).signatures) == 1


@in_sample_space
@pytest.mark.parametrize("name", PUBLISHED)
def test_sample_space_gives_the_published_figures_of_the_real_cats(real_data, solver, name):
    # If something else runs, BLAS's threads wait for one another: 30 times as long.
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        check_published_figures(name, real_data, solver)


# --------------------------------------------------------------------------------------------
# mini-batches


def written_out(net, theta, X, Y, batch_size, seed, rates, optimizer="sgd"):
    """The parameters and costs of a training on mini-batches, as a loop."""
    optimizer, step, m, costs = optimizer_of(optimizer), 0, X.shape[1], []
    moments = [np.zeros_like(theta.flat) for _ in range(optimizer.moments)]
    for rate, order in zip(rates, batches.orders(m, seed), strict=False):
        total = 0.0
        for start in range(0, m, batch_size):
            chosen = order[start : start + batch_size]
            step += 1
            total += net.cost(theta, X[:, chosen], Y[:, chosen]) * len(chosen)
            gradient = net.gradients(theta, X[:, chosen], Y[:, chosen]).flat
            gradient *= optimizer.scale(rate)
            optimizer.update(theta.flat, gradient, moments, rate, step)
        costs.append(total / m)
    return theta, costs


@pytest.mark.usefixtures("there")
def test_a_mini_batch_training_is_a_loop_over_batches_in_random_order():
    for output, batch_size in itertools.product(["sigmoid", "softmax", "linear"], [1, 8, 53, 64]):
        net, variant = (
            Network([5, 6, 3], hidden="tanh", output=output, l2=0.3),
            (output, batch_size),
        )
        X, Y = data(net, M)
        params, history = accelnn.fit(
            *(net, net.init("he", seed=3, dtype="float64"), *map(to_device, (X, Y))),
            epochs=4,
            learning_rate=0.1,
            batch_size=batch_size,
            seed=9,
        )
        with accelnn.use("numpy"):
            first = net.init("he", seed=3)
            theta, costs = written_out(net, first, X, Y, batch_size, 9, [0.1] * 4)
            final_cost = net.cost(theta, X, Y)
        flat, close = to_host(params.flat), {"rtol": 1e-11, "err_msg": str(variant)}
        np.testing.assert_allclose(flat, theta.flat, atol=1e-12, **close)
        np.testing.assert_allclose(history.costs, costs, **close)
        assert history.final_cost == pytest.approx(final_cost, rel=1e-11), variant
        assert history.epochs == [0, 1, 2, 3]  # all of them by default


@for_batches
def test_a_rate_is_that_of_all_batches_of_its_epoch(solver):
    net, rates = NETS["relu"], [0.02, 0.01, 0.004]
    X, Y = data(net, M)
    for name, optimizer in OPTIMIZERS.items():
        options = {"batch_size": 8, "solver": solver, "optimizer": optimizer, "epochs": 3}
        trained, _ = accelnn.fit(
            net, net.init("he"), X, Y, learning_rate=rates.__getitem__, **options
        )
        theta, _ = written_out(net, net.init("he"), X, Y, 8, 0, rates, optimizer)
        np.testing.assert_allclose(trained.flat, theta.flat, rtol=1e-11, atol=1e-12, err_msg=name)


@for_batches
def test_a_batch_of_all_examples_is_the_full_batch_in_another_order(solver):
    net = NETS["two layers"]
    given = net.init("he", seed=3), *data(net, M)
    whole, _ = accelnn.fit(net, *given, solver=solver, **FULL_BATCH)
    batch, _ = accelnn.fit(net, *given, solver=solver, batch_size=2 * M, **FULL_BATCH)
    check_close(batch, whole, 1e-10)


@solvers
def test_a_random_training_follows_its_seed(solver):
    """Which examples make a batch, and which units are dropped."""
    cases = [("dropout", None)] + [("two layers", 8), ("dropout", 8)] * (solver in FOR_BATCHES)
    for name, batch_size in cases:
        net = NETS[name]
        given = net.init("he", seed=3), *data(net, M)
        options = FULL_BATCH | {"solver": solver, "batch_size": batch_size}
        one, same, other = (
            accelnn.fit(net, *given, seed=seed, **options)[0].flat for seed in (1, 1, 2)
        )
        np.testing.assert_array_equal(one, same)
        assert not np.allclose(one, other, rtol=1e-3), name


@optimizers
def test_a_step_on_a_batch_allocates_nothing_large(optimizer):
    for hidden in ("tanh", "relu"):
        net = Network([50, 64, 3], hidden=hidden, output="softmax")
        chosen = optimizer_of(OPTIMIZERS[optimizer])
        job = Job(net, net.init("he"), *data(net, 4100), chosen, batch_size=2000)
        trainer, cost = Direct(job), np.empty(())
        trainer.advance([0.1], cost)  # allocates what batches of 2000 and of 100 need
        tracemalloc.start()
        try:
            trainer.advance([0.1, 0.1], None)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 64 * 2000 * 8 / 4, hidden


# --------------------------------------------------------------------------------------------
# validation, patience, callbacks, schedules


@solvers
def test_the_validation_cost_has_no_l2_and_no_dropout(solver):
    net = NETS["dropout by layer"]
    first, pair = net.init("he", seed=3), data(net, 17, seed=4)
    params, history = accelnn.fit(
        net, first, *data(net, M), solver=solver, validation=pair, **FULL_BATCH
    )
    plain = replace(net, l2=0.0, keep_prob=1.0)
    assert history.validation_costs[0] == pytest.approx(plain.cost(first, *pair), rel=1e-12)
    assert history.final_validation_cost == pytest.approx(plain.cost(params, *pair), rel=1e-12)
    assert len(history.validation_costs) == len(history.costs) == 4


@solvers
def test_a_validation_set_does_not_change_the_training(solver):
    """Nor does it matter whether it is a share split off by the seed or given as arrays."""
    net = NETS["tanh with L2"]
    first, (X, Y) = net.init("he", seed=3), data(net, M)
    (X_train, Y_train), held_out = batches.split((X, Y), 0.25, 5)
    options = FULL_BATCH | {"solver": solver, "seed": 5}
    alone, _ = accelnn.fit(net, first, X_train, Y_train, **options)
    trainings = [
        accelnn.fit(net, first, X_train, Y_train, validation=tuple(held_out), **options),
        accelnn.fit(net, first, X, Y, validation=0.25, **options),
    ]
    for params, history in trainings:
        np.testing.assert_array_equal(params.flat, alone.flat)
        assert history.validation_costs == trainings[0][1].validation_costs
        assert history.final_cost == trainings[0][1].final_cost


@pytest.fixture
def overfitted():
    """A training whose validation cost falls and then rises: net, arguments and options."""
    net = Network([20, 6, 1], hidden="tanh", output="linear")
    random = np.random.default_rng(5)
    w, X, X_v = random.normal(size=(1, 20)), *random.normal(size=(2, 20, 20))
    Y, Y_v = (0.3 * (w @ x + 4 * random.normal(size=(1, 20))) for x in (X, X_v))
    options = {"learning_rate": 0.05, "epochs": 120, "validation": (X_v, Y_v)}
    return net, (net.init("normal", scale=0.1, seed=3), X, Y), options


@solvers
def test_patience_stops_and_returns_the_parameters_of_the_lowest_cost(overfitted, solver):
    net, given, options = overfitted
    for record_every, patience in itertools.product([1, 5], [1, 4]):
        options |= {"record_every": record_every, "solver": solver}
        _, whole = accelnn.fit(net, *given, **options)
        watched = whole.validation_costs
        lowest = int(np.argmin(watched))
        assert 3 < lowest < len(watched) - patience - 1
        assert watched[lowest + 1 :] == sorted(watched[lowest + 1 :])

        params, history = accelnn.fit(net, *given, patience=patience * record_every, **options)
        assert "patience" in history.stopped
        assert history.validation_costs == watched[: lowest + patience]
        assert history.costs == whole.costs[: lowest + patience]
        expected, _ = accelnn.fit(net, *given, **options | {"epochs": lowest * record_every})
        check_close(params, expected)
        assert history.final_validation_cost == pytest.approx(watched[lowest], rel=1e-12)
        assert history.final_cost == pytest.approx(net.cost(params, *given[1:]))


@solvers
def test_patience_that_does_not_stop_returns_the_lowest_too(overfitted, solver):
    net, given, options = overfitted
    options = options | {"record_every": 5, "solver": solver}
    params, history = accelnn.fit(net, *given, patience=1000, **options)
    assert history.stopped is None
    assert history.epochs[-1] == 115
    assert history.final_validation_cost == pytest.approx(min(history.validation_costs), rel=1e-12)
    assert np.isfinite(params.flat).all()
    # As long as the cost falls, these are the last.
    falling, history = accelnn.fit(net, *given, patience=5, **options | {"epochs": 12})
    expected, same = accelnn.fit(net, *given, **options | {"epochs": 12})
    np.testing.assert_array_equal(falling.flat, expected.flat)
    assert history.costs == same.costs


@solvers
def test_patience_saves_the_best_of_a_training_that_diverges(solver):
    net = NETS["leaky relu with L2"]
    first = net.init("he")
    options = {"epochs": 400, "learning_rate": 50, "record_every": 1, "patience": 3}
    with pytest.warns(RuntimeWarning, match="the cost rose from"):
        params, history = accelnn.fit(
            *(net, first, *data(net, M)),
            solver=solver,
            validation=data(net, 5, seed=1),
            **options,
        )
    assert history.epochs == [0, 1, 2]
    np.testing.assert_array_equal(params.flat, first.flat)


@solvers
def test_callbacks_see_each_record_in_order(solver):
    net = NETS["tanh with L2"]
    for optimizer in ("sgd", "momentum"):
        given, seen = (net.init("he", seed=3), *data(net, M)), []

        def spoils(checkpoint, seen=seen):
            parameters = checkpoint.parameters()
            seen.append((checkpoint, parameters.copy()))
            parameters.flat[...] = np.nan  # a copy: the training is not affected

        options = FULL_BATCH | {
            "solver": solver,
            "optimizer": optimizer,
            "learning_rate": inverse_decay(0.5, 0.1),
            "validation": data(net, 9, seed=4),
        }
        params, history = accelnn.fit(net, *given, callbacks=[spoils], **options)
        expected, same = accelnn.fit(net, *given, **options)
        check_close(params, expected)
        np.testing.assert_allclose(history.costs, same.costs, rtol=1e-12)

        checkpoints = [checkpoint for checkpoint, _ in seen]
        assert [c.epoch for c in checkpoints] == history.epochs == [0, 2, 4, 6]
        assert [c.cost for c in checkpoints] == history.costs
        assert [c.validation_cost for c in checkpoints] == history.validation_costs
        rates = [0.5 / (1 + 0.1 * epoch) for epoch in (0, 2, 4, 6)]
        assert [c.learning_rate for c in checkpoints] == pytest.approx(rates)
        for checkpoint, parameters in seen:  # those after its epoch
            shorter, _ = accelnn.fit(net, *given, **options | {"epochs": checkpoint.epoch + 1})
            check_close(parameters, shorter)


@for_batches
def test_callbacks_between_epochs_of_batches_do_not_change_the_training(solver):
    net = NETS["dropout"]
    given = net.init("he", seed=3), *data(net, M)
    for optimizer in OPTIMIZERS.values():
        options = {"epochs": 4, "learning_rate": 0.02, "batch_size": 8, "solver": solver}
        options["optimizer"], epochs = optimizer, []
        params, history = accelnn.fit(
            net, *given, callbacks=[lambda now, epochs=epochs: epochs.append(now.epoch)], **options
        )
        expected, same = accelnn.fit(net, *given, **options)
        check_close(params, expected)
        np.testing.assert_allclose(history.costs, same.costs, rtol=1e-12)
        assert epochs == history.epochs == [0, 1, 2, 3]


@solvers
def test_a_callback_can_end_the_training_after_all_were_called(solver):
    net = NETS["tanh with L2"]
    given, epochs = (net.init("he", seed=3), *data(net, M)), []
    options = FULL_BATCH | {"solver": solver}
    params, history = accelnn.fit(
        net,
        *given,
        callbacks=[lambda checkpoint: checkpoint.epoch == 4, lambda c: epochs.append(c.epoch)],
        **options,
    )
    assert epochs == history.epochs == [0, 2, 4]
    assert history.stopped == "a callback ended it after epoch 4"
    expected, _ = accelnn.fit(net, *given, **options | {"epochs": 5})
    check_close(params, expected)


@solvers
def test_a_schedule_that_is_constant_is_the_constant(solver):
    net, epochs = NETS["tanh with L2"], []
    given = net.init("he", seed=3), *data(net, M)
    constant, history = accelnn.fit(net, *given, solver=solver, **FULL_BATCH)
    schedule = FULL_BATCH | {"learning_rate": lambda epoch: epochs.append(epoch) or 0.3}
    scheduled, same = accelnn.fit(net, *given, solver=solver, **schedule)
    np.testing.assert_array_equal(scheduled.flat, constant.flat)
    assert history.costs == same.costs
    assert sorted(set(epochs)) == list(range(7))


# --------------------------------------------------------------------------------------------
# the history, and the arrays given


@solvers
def test_the_history_says_what_ran(solver):
    net = NETS["tanh with L2"]
    _, history = accelnn.fit(
        net, net.init(), *data(net, M), solver=solver, optimizer=Momentum(beta=0.5), **FULL_BATCH
    )
    assert (history.solver, history.reason) == (solver, "asked for")
    assert (history.optimizer, history.batch_size, history.stopped) == ("momentum", None, None)
    assert (history.validation_costs, history.final_validation_cost) == ([], None)
    assert (history.backend, history.dtype) == ("numpy", "float64")
    assert (history.compile_seconds >= 0) if "jitted" in solver else history.compile_seconds == 0
    numbers = [*history.costs, history.final_cost, history.compile_seconds]
    assert all(type(value) is float for value in numbers)


@for_batches
def test_the_history_of_batches(solver):
    net = NETS["relu"]
    options = {"epochs": 7, "learning_rate": 0.01, "record_every": 3, "validation": 0.2}
    _, history = accelnn.fit(
        *(net, net.init(), *data(net, M)),
        solver=solver,
        optimizer="adam",
        batch_size=8,
        **options,
    )
    assert history.epochs == [0, 3, 6]
    assert len(history.costs) == len(history.validation_costs) == 3
    assert (history.optimizer, history.batch_size) == ("adam", 8)
    assert type(history.final_validation_cost) is float


def test_only_the_first_training_of_a_kind_spends_time_on_compiling():
    net, given = NETS["relu"], (NETS["relu"].init(), *data(NETS["relu"], M))
    _, second = (accelnn.fit(net, *given, solver="jitted", **FULL_BATCH)[1] for _ in range(2))
    assert 0 <= second.compile_seconds < 0.1


@solvers
def test_no_epochs_change_nothing_and_one_is_one_update(solver):
    net = NETS["tanh with L2"]
    first, (X, Y) = net.init("he", seed=3), data(net, M)
    for epochs, patience in ((0, None), (0, 2), (1, None)):
        options = {"epochs": epochs, "learning_rate": 0.3, "validation": (X, Y)}
        trained, history = accelnn.fit(
            net, first, X, Y, solver=solver, patience=patience, **options
        )
        expected = first.flat - epochs * 0.3 * net.gradients(first, X, Y).flat
        close = {"rtol": 1e-12, "atol": 1e-14} if epochs else {"rtol": 0}
        np.testing.assert_allclose(trained.flat, expected, **close)
        assert len(history.costs) == len(history.validation_costs) == epochs
        assert history.final_cost == pytest.approx(net.cost(trained, X, Y))
        assert history.final_validation_cost is not None
        assert history.stopped is None


READ_ONLY = [
    {},
    {"optimizer": "momentum"},
    {"validation": 0.2, "patience": 2},
    {"batch_size": 8},
    {"batch_size": 8, "optimizer": "adam"},
]


@solvers
def test_arrays_that_were_given_may_be_read_only_and_stay_as_they_are(solver):
    net = NETS["relu"]
    cases = READ_ONLY if solver in FOR_BATCHES else READ_ONLY[:3]
    for options, order in itertools.product(cases, "CF"):
        first, (X, Y), pair = net.init("he"), data(net, M), data(net, 9, seed=4)
        X, Y = np.asarray(X, order=order), np.asarray(Y, order=order)
        given = [first.flat, X, Y, *pair]
        copies = [array.copy() for array in given]
        for array in given:
            array.setflags(write=False)
        options = FULL_BATCH | {"learning_rate": 0.01, "validation": pair} | options
        trained, _ = accelnn.fit(
            net, Parameters(first.flat, net.layers), X, Y, solver=solver, **options
        )
        for array, copy in zip(given, copies, strict=True):
            np.testing.assert_array_equal(array, copy, err_msg=str((options, order)))
            assert not np.shares_memory(trained.flat, array)
        trained.flat[...] = 0  # the user's own, and writable


@solvers
def test_views_of_any_layout_are_trained_on_as_their_copies(solver):
    net = NETS["relu"]
    base, Y = np.random.default_rng(0).normal(size=(80, 2 * M)), data(net, M)[1]
    for layout, X in {
        "every other row": base[::2, :M],
        "every other column": base[:40, ::2],
        "reversed": base[:40, :M][::-1, ::-1],
    }.items():
        trained, copied = (
            accelnn.fit(net, net.init("he"), array, Y, solver=solver, **FULL_BATCH)[0].flat
            for array in (X, X.copy())
        )
        np.testing.assert_allclose(trained, copied, rtol=1e-11, atol=1e-13, err_msg=layout)


# --------------------------------------------------------------------------------------------
# interruptions and divergence


def blas_threads():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


@solvers
def test_an_interrupt_in_a_callback_leaves_the_threads_as_they_were(solver):
    net = NETS["wide layers"]

    def interrupts(checkpoint):
        if checkpoint.epoch == 2:
            raise KeyboardInterrupt

    before = blas_threads()
    with pytest.raises(KeyboardInterrupt):
        accelnn.fit(
            net, net.init(), *data(net, M), solver=solver, callbacks=[interrupts], **FULL_BATCH
        )
    assert blas_threads() == before


@solvers
def test_divergence_is_warned_about(solver):
    net = NETS["leaky relu with L2"]
    for batch_size in [None, 8] if solver in FOR_BATCHES else [None]:
        options = {"solver": solver, "batch_size": batch_size, "validation": data(net, 5, seed=1)}
        message = r"diverged; lower the learning rate \(50\)"
        with pytest.warns(RuntimeWarning, match=message) as warned:
            _, history = accelnn.fit(
                *(net, net.init("he"), *data(net, M)), epochs=400, learning_rate=50, **options
            )
        assert len(warned) == 1
        assert not np.isfinite(history.final_cost)
        assert warned[0].filename == __file__


# --------------------------------------------------------------------------------------------
# the device

ON_THE_DEVICE = {
    "batches": ("direct", {"batch_size": 6}),
    "momentum on batches": ("direct", {"batch_size": 6, "optimizer": "momentum"}),
    "adam on batches": ("direct", {"batch_size": 6, "optimizer": "adam"}),
    "adam": ("direct", {"optimizer": "adam"}),
    "sample space": ("gram", {}),
    "momentum in sample space": ("gram", {"optimizer": "momentum"}),
}
DEVICE_NET = Network([5, 6, 4, 3], hidden=("tanh", "leaky_relu"), output="softmax", l2=0.1)


@pytest.mark.parametrize("case", ON_THE_DEVICE)
def test_nothing_waits_for_the_device_between_records(double, case):
    solver, options = ON_THE_DEVICE[case]
    X, Y = (to_device(array, "float32") for array in data(DEVICE_NET, 20))
    for keep_prob, validation in itertools.product([1.0, 0.8], [None, 0.2]):
        net = replace(DEVICE_NET, keep_prob=keep_prob)
        given = options | {"solver": solver, "validation": validation}
        counts = [
            synchronizations(double, net, X, Y, *lengths, **given)
            for lengths in ((1, 1), (60, 1), (60, 20))
        ]
        assert counts[0] == counts[1] == counts[2], (keep_prob, validation)


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", ON_THE_DEVICE)
def test_the_device_gives_the_training_of_the_host(case):
    solver, options = ON_THE_DEVICE[case]
    options = FULL_BATCH | {"learning_rate": 0.02, "solver": solver} | options

    def trained():
        X, Y, *pair = map(to_device, (*data(DEVICE_NET, 20), *data(DEVICE_NET, 7, seed=1)))
        first = DEVICE_NET.init("he", dtype="float64")
        return accelnn.fit(DEVICE_NET, first, X, Y, validation=tuple(pair), **options)

    params, history = trained()
    with accelnn.use("numpy"):
        expected, same = trained()
    assert (history.backend, same.backend) == ("cupy", "numpy")
    np.testing.assert_allclose(to_host(params.flat), expected.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-11)
    np.testing.assert_allclose(history.validation_costs, same.validation_costs, rtol=1e-11)


def test_only_the_order_of_an_epoch_crosses_to_the_device(double):
    X, Y = map(to_device, data(DEVICE_NET, 20))
    first = DEVICE_NET.init()
    for batch_size, uploads in ((None, 0), (6, 9)):
        double.counts.uploads = 0
        accelnn.fit(DEVICE_NET, first, X, Y, epochs=9, learning_rate=0.1, batch_size=batch_size)
        assert double.counts.uploads == uploads


@pytest.mark.usefixtures("double")
def test_patience_and_callbacks_work_on_the_device():
    epochs = []
    X, Y = map(to_device, data(DEVICE_NET, 20))
    wrong = to_device(np.roll(to_host(Y), 1, axis=0))
    params, history = accelnn.fit(
        *(DEVICE_NET, DEVICE_NET.init("he"), X, Y),
        epochs=50,
        learning_rate=0.1,
        batch_size=6,
        validation=(X, wrong),
        patience=30,
        callbacks=[lambda now: epochs.append(now.epoch)],
    )
    assert epochs == history.epochs == list(range(len(epochs)))
    best = min(history.validation_costs)
    assert history.final_validation_cost == pytest.approx(best, rel=1e-6)
    assert params.dtype == np.float32


# --------------------------------------------------------------------------------------------
# refusals


@in_sample_space
def test_sample_space_refuses_mini_batches_and_adam(solver):
    net = NETS["relu"]
    for options, message in (
        ({"optimizer": "adam"}, "cannot do this: adam is not linear in the gradient"),
        ({"batch_size": 8}, "cannot do this: sample space needs full batches"),
        ({"batch_size": 8, "optimizer": "adam"}, "cannot do this"),
    ):
        with pytest.raises(ValueError, match=message):
            accelnn.fit(net, net.init(), *data(net, M), solver=solver, **FULL_BATCH | options)


def spoilt(array, value):
    array = array.copy()
    array[0, 3] = value
    return array


X_SMALL, Y_SMALL = data(NETS["logistic regression"], 9, seed=1)
BAD_OPTIONS = [
    ({"batch_size": 0}, "batch_size as an integer >= 1, got 0"),
    ({"batch_size": -8}, "batch_size as an integer >= 1, got -8"),
    ({"batch_size": 8.5}, "batch_size as an integer >= 1, got 8.5"),
    ({"batch_size": True}, "batch_size as an integer"),
    ({"batch_size": "8"}, "batch_size as an integer >= 1, got '8'"),
    ({"patience": 0, "validation": 0.5}, "patience as an integer >= 1, got 0"),
    ({"patience": 1.5, "validation": 0.5}, "patience as an integer"),
    ({"patience": 3}, "give validation as well"),
    ({"validation": 0.0}, r"share in \(0, 1\) or as \(X, Y\), got 0.0"),
    ({"validation": 1.0}, r"share in \(0, 1\)"),
    ({"validation": True}, r"share in \(0, 1\)"),
    ({"validation": float("nan")}, r"share in \(0, 1\)"),
    ({"validation": X_SMALL}, r"share in \(0, 1\) or as \(X, Y\), got ndarray"),
    ({"validation": (X_SMALL, Y_SMALL, 1)}, r"as \(X, Y\), got tuple"),
    ({"validation": (X_SMALL[:2], Y_SMALL)}, r"validation: expected X of shape"),
    ({"validation": (X_SMALL[:, :4], Y_SMALL)}, r"validation: expected Y of shape"),
    ({"validation": (spoilt(X_SMALL, np.nan), Y_SMALL)}, "validation: X has 1 NaN or infinite"),
    ({"validation": (X_SMALL, spoilt(Y_SMALL, np.inf))}, "validation: Y has 1 NaN or infinite"),
    ({"validation": (X_SMALL, spoilt(Y_SMALL, 2))}, r"validation: .*got 0\.\.2"),
    ({"validation": (X_SMALL[:, :0], Y_SMALL[:, :0])}, "at least one example"),
    ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'.*adam"),
    ({"optimizer": None}, "unknown optimizer None"),
]


@pytest.mark.parametrize(("options", "message"), BAD_OPTIONS, ids=str)
def test_bad_options_are_refused(options, message):
    net = NETS["logistic regression"]
    with pytest.raises(ValueError, match=message):
        accelnn.fit(net, net.init(), *data(net, M), **FULL_BATCH | options)


def test_one_example_cannot_be_split():
    net = NETS["logistic regression"]
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        accelnn.fit(net, net.init(), *data(net, 1), validation=0.5, **FULL_BATCH)


@pytest.mark.usefixtures("double")
def test_the_validation_set_has_to_be_on_the_side_of_the_data():
    X, Y = map(to_device, data(DEVICE_NET, 20))
    options = FULL_BATCH | {"validation": data(DEVICE_NET, 4)}
    with pytest.raises(TypeError, match="validation: .* on the host"):
        accelnn.fit(DEVICE_NET, DEVICE_NET.init(), X, Y, **options)


def test_minimize_calls_back_too():
    net, seen = NETS["logistic regression"], []

    def third(checkpoint):
        seen.append(checkpoint)
        return len(seen) == 3

    _, history = accelnn.minimize(net, net.init(), *data(net, M), record_every=1, callbacks=[third])
    assert [checkpoint.cost for checkpoint in seen] == history.costs
    assert [checkpoint.epoch for checkpoint in seen] == history.epochs == [0, 1, 2]
    assert {(c.validation_cost, c.learning_rate) for c in seen} == {(None, None)}
    assert seen[0].parameters().layers == net.layers
    accelnn.fit(net, net.init(), *data(net, M), callbacks=[seen.append], **FULL_BATCH)
    assert [checkpoint.validation_cost for checkpoint in seen[3:]] == [None] * 4
