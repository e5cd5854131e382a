"""Every solver against the direct one, mini-batches against a loop written out, what `fit` can do
beside, and what it refuses."""

import itertools
import tracemalloc
from dataclasses import replace

import numba
import numpy as np
import pytest
import threadpoolctl
from helpers.published import PUBLISHED, check_published_figures

import accelnn
from accelnn import Adam, Momentum, Network, Parameters, batches
from accelnn.backend import to_device, to_host
from accelnn.kernels import jit
from accelnn.optimizers import inverse_decay
from accelnn.solvers import SOLVERS, jitted
from accelnn.solvers.direct import Direct
from accelnn.solvers.job import Job

FULL_BATCH = {"epochs": 7, "record_every": 2, "learning_rate": 0.3}
FOR_BATCHES = ["direct", "jitted"]
solvers = pytest.mark.parametrize("solver", SOLVERS)
for_batches = pytest.mark.parametrize("solver", FOR_BATCHES)


def data(net, m, seed=0, dtype="float64"):
    """Features and labels with which a net of these layers can be trained."""
    random = np.random.default_rng(seed)
    X = random.normal(size=(net.layers[0], m))
    n = net.layers[-1]
    if net.output == "softmax":
        return X.astype(dtype), accelnn.one_hot(random.integers(n, size=m), n).astype(dtype)
    if net.output == "linear":
        return X.astype(dtype), random.normal(size=(n, m)).astype(dtype)
    return X.astype(dtype), (random.random((n, m)) < 0.4).astype(dtype)


def both(net, m, solver, dtype="float64", **options):
    """(params, history) of the solver, and of the direct one."""
    given = net.init("he", seed=3, dtype=dtype), *data(net, m, dtype=dtype)
    options = FULL_BATCH | {"validation": data(net, 11, seed=1, dtype=dtype)} | options
    return tuple(accelnn.fit(net, *given, solver=name, **options) for name in (solver, "direct"))


def check_same(pair, tolerance):
    (params, history), (expected, direct) = pair
    assert np.abs(expected.flat).max() > 0.1
    np.testing.assert_allclose(params.flat, expected.flat, rtol=tolerance, atol=tolerance)
    for got, wanted in (
        (history.costs, direct.costs),
        (history.validation_costs, direct.validation_costs),
        (history.final_cost, direct.final_cost),
        (history.final_validation_cost, direct.final_validation_cost),
    ):
        assert np.all(np.isfinite(wanted))
        np.testing.assert_allclose(got, wanted, rtol=tolerance)
    assert len(history.costs) == len(history.validation_costs) == len(direct.costs)
    assert history.epochs == direct.epochs


# --------------------------------------------------------------------------------------------
# the same training by every solver

NETS = {
    "logistic regression": Network([5, 1]),
    "logistic regression with L2": Network([5, 2], l2=0.7),
    "softmax regression": Network([40, 3], output="softmax"),
    "linear regression": Network([5, 2], output="linear", l2=0.1),
    "sigmoid": Network([5, 6, 1], hidden="sigmoid"),
    "tanh with L2": Network([5, 6, 3], hidden="tanh", output="softmax", l2=0.5),
    "relu": Network([40, 6, 1], hidden="relu"),
    "leaky relu with L2": Network([5, 6, 2], hidden="leaky_relu", output="linear", l2=0.2),
    "one unit": Network([1, 1, 1], hidden="tanh"),
    "two layers": Network([5, 6, 4, 1], hidden=("tanh", "sigmoid")),
    "three layers with L2": Network([40, 9, 5, 4, 3], output="softmax", l2=0.5),
    "dropout": Network([5, 8, 1], hidden="tanh", keep_prob=0.7),
    "dropout by layer": Network(
        [5, 9, 8, 7, 3],
        hidden=("relu", "sigmoid", "leaky_relu"),
        output="softmax",
        keep_prob=(0.6, 1.0, 0.8),
        l2=0.3,
    ),
    "products by BLAS": Network([60, 50, 12, 3], hidden="tanh", output="softmax"),
}
OPTIMIZERS = {
    "sgd": "sgd",
    "momentum": Momentum(beta=0.8),
    "adam": Adam(beta1=0.8, beta2=0.95, epsilon=1e-6),
}
M = 53
BATCHES = {"whole": None, "short last batch": 8, "no short batch": 53, "more than there are": 64}
nets = pytest.mark.parametrize("name", NETS)


@nets
@pytest.mark.parametrize("solver", ["gram", "gram-jitted"])
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_sample_space_is_the_same_training(name, solver, optimizer):
    check_same(both(NETS[name], M, solver, optimizer=OPTIMIZERS[optimizer]), 1e-11)


@nets
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch", BATCHES)
def test_compiled_steps_are_the_same_training(name, optimizer, batch):
    pair = both(
        NETS[name],
        M,
        "jitted",
        optimizer=OPTIMIZERS[optimizer],
        batch_size=BATCHES[batch],
        learning_rate=0.02 if optimizer == "adam" else 0.3,
    )
    check_same(pair, 1e-11)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["relu", "two layers", "dropout by layer", "products by BLAS"])
@pytest.mark.parametrize(
    ("solver", "options"),
    [
        ("gram", {"optimizer": "momentum"}),
        ("gram-jitted", {}),
        ("gram-jitted", {"optimizer": "momentum"}),
        ("jitted", {}),
        ("jitted", {"optimizer": "momentum", "batch_size": 8}),
    ],
)
def test_float32_is_the_same_training_too(name, solver, options):
    check_same(both(NETS[name], M, solver, dtype="float32", **options), 2e-4)


@pytest.mark.slow
def test_adam_of_float32_is_near_that_of_float64():
    """Where a gradient is rounding and nothing else Adam makes a whole step of it, so that two
    trainings in float32 part: costs are compared."""
    (_, history), (_, direct) = both(
        NETS["two layers"], M, "jitted", "float32", optimizer="adam", learning_rate=0.02
    )
    np.testing.assert_allclose(history.costs, direct.costs, rtol=1e-3)
    assert history.dtype == "float32"


# One example or one unit, where matrices are vectors
@pytest.mark.parametrize("m", [1, 2])
@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "jitted"])
def test_one_example_is_enough(m, solver):
    check_same(both(NETS["tanh with L2"], m, solver), 1e-11)


@pytest.mark.parametrize("solver", ["gram", "gram-jitted", "jitted"])
def test_a_changing_learning_rate_is_the_same_training(solver):
    check_same(
        both(
            NETS["tanh with L2"],
            M,
            solver,
            learning_rate=inverse_decay(0.5, 0.3),
            optimizer="momentum",
        ),
        1e-11,
    )


# Sizes at which products, outputs and gathering are shared among threads
SHARED = {
    "many examples": (Network([64, 20, 4, 3], output="softmax", l2=1.0), 17_000, 16_900),
    "wide layers": (Network([64, 200, 90, 3], hidden="tanh", keep_prob=0.8), 300, 290),
    "few features": (Network([20, 200, 1], hidden="sigmoid"), 300, 290),
}


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("name", SHARED)
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_any_number_of_threads_gives_the_same_training(monkeypatch, threads, name, optimizer):
    """7 parts of what has 3 rows: some are empty. The parts need no threads of their own."""
    net, m, batch_size = SHARED[name]
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    for size in (None, batch_size):
        check_same(
            both(
                net,
                m,
                "jitted",
                epochs=3,
                learning_rate=0.02,
                optimizer=optimizer,
                batch_size=size,
            ),
            1e-10,
        )


@pytest.mark.slow
@pytest.mark.parametrize("threads", [1, 2, 7])
def test_any_number_of_threads_gives_the_same_training_in_sample_space(monkeypatch, threads):
    monkeypatch.setattr(numba, "get_num_threads", lambda: threads)
    net, m, _ = SHARED["wide layers"]
    check_same(both(replace(net, l2=1.0), m, "gram-jitted", epochs=5), 1e-10)


@pytest.mark.parametrize("most", [1, 3, 7, 10**9])
@pytest.mark.parametrize("name", ["tanh with L2", "dropout by layer"])
def test_it_does_not_matter_in_how_many_calls_a_compiled_training_runs(monkeypatch, most, name):
    """Calls end after so many steps: in the middle of epochs of 7, and of records."""
    step = jitted._multiply_adds(NETS[name].layers, 8)
    monkeypatch.setattr(jitted, "LONGEST_CALL", most * step)
    check_same(both(NETS[name], M, "jitted", batch_size=8, optimizer="momentum"), 1e-11)


def test_masks_of_dropout_are_drawn_for_a_few_steps_at_a_time(monkeypatch):
    net = NETS["dropout by layer"]
    monkeypatch.setattr(jitted, "LARGEST_MASKS", 3 * sum(net.layers[1:]) * 8)
    drawn = []
    plain = jitted.Jitted._masks

    def watched(self, sizes):
        drawn.append(len(sizes))
        return plain(self, sizes)

    monkeypatch.setattr(jitted.Jitted, "_masks", watched)
    check_same(both(net, M, "jitted", batch_size=8), 1e-11)
    assert max(drawn) == 3
    assert sum(drawn) == 7 * 7  # 7 epochs of 7 batches


def test_one_compiled_form_serves_every_training():
    for name, optimizer, batch in (
        ("logistic regression", "sgd", None),
        ("dropout by layer", "adam", 8),
        ("three layers with L2", "momentum", 64),
    ):
        both(NETS[name], M, "jitted", optimizer=optimizer, batch_size=batch)
    both(NETS["tanh with L2"], M, "gram-jitted")
    assert jitted.load("float64") == 0
    theta = [str(signature[0]) for signature in jit.train().signatures]
    assert len(theta) == len(set(theta)) <= 2  # float64, and float32 where a test needed it


@pytest.fixture
def one_blas_thread():
    """Where something else runs, BLAS's threads wait for one another: 30 times as long."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@pytest.mark.usefixtures("one_blas_thread")
@pytest.mark.parametrize("solver", ["gram", "gram-jitted"])
@pytest.mark.parametrize("name", PUBLISHED)
def test_sample_space_gives_the_published_figures_of_the_real_cats(real_data, solver, name):
    check_published_figures(name, real_data, solver)


# --------------------------------------------------------------------------------------------
# mini-batches


@pytest.mark.parametrize("output", ["sigmoid", "softmax", "linear"])
@pytest.mark.parametrize("batch_size", [1, 8, 53, 64])
@pytest.mark.usefixtures("there")
def test_a_mini_batch_training_is_a_loop_over_batches_in_random_order(output, batch_size):
    net = Network([5, 6, 3], hidden="tanh", output=output, l2=0.3)
    X, Y = data(net, M)
    params, history = accelnn.fit(
        net,
        net.init("he", seed=3, dtype="float64"),
        *map(to_device, (X, Y)),
        epochs=4,
        learning_rate=0.1,
        batch_size=batch_size,
        seed=9,
    )
    with accelnn.use("numpy"):
        theta, costs = net.init("he", seed=3), []
        for order in itertools.islice(batches.orders(M, 9), 4):
            total = 0.0
            for start in range(0, M, batch_size):
                chosen = order[start : start + batch_size]
                total += net.cost(theta, X[:, chosen], Y[:, chosen]) * len(chosen)
                theta.flat[...] -= 0.1 * net.gradients(theta, X[:, chosen], Y[:, chosen]).flat
            costs.append(total / M)
        final_cost = net.cost(theta, X, Y)
    np.testing.assert_allclose(to_host(params.flat), theta.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, costs, rtol=1e-11)
    assert history.final_cost == pytest.approx(final_cost, rel=1e-11)
    assert history.epochs == [0, 1, 2, 3]  # each, where nothing else is asked for


@for_batches
def test_a_batch_of_all_examples_is_the_full_batch_in_another_order(solver):
    net = NETS["two layers"]
    given = net.init("he", seed=3), *data(net, M)
    whole, _ = accelnn.fit(net, *given, solver=solver, **FULL_BATCH)
    batch, _ = accelnn.fit(net, *given, solver=solver, batch_size=2 * M, **FULL_BATCH)
    np.testing.assert_allclose(batch.flat, whole.flat, rtol=1e-11, atol=1e-12)


@for_batches
@pytest.mark.parametrize("name", ["two layers", "dropout"])
def test_a_training_on_batches_follows_its_seed(solver, name):
    net = NETS[name]
    given = net.init("he", seed=3), *data(net, M)

    def trained(seed):
        options = FULL_BATCH | {"batch_size": 8, "seed": seed}
        return accelnn.fit(net, *given, solver=solver, **options)[0].flat

    np.testing.assert_array_equal(trained(1), trained(1))
    assert not np.allclose(trained(1), trained(2), rtol=1e-3)


@pytest.mark.parametrize("solver", ["gram", "gram-jitted"])
def test_dropout_in_sample_space_follows_its_seed(solver):
    net = NETS["dropout"]
    given = net.init("he", seed=3), *data(net, M)
    one, same, other = (
        accelnn.fit(net, *given, solver=solver, seed=seed, **FULL_BATCH)[0].flat
        for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("hidden", ["tanh", "relu"])
def test_a_step_on_a_batch_allocates_nothing_large(optimizer, hidden):
    net = Network([50, 64, 3], hidden=hidden, output="softmax")
    X, Y = data(net, 4100)
    job = Job(net, net.init("he"), X, Y, OPTIMIZERS[optimizer], batch_size=2000)
    if isinstance(job.optimizer, str):
        job.optimizer = accelnn.SGD()
    trainer, cost = Direct(job), np.empty(())
    trainer.advance([0.1], cost)  # allocates what the batches of 2000 and of 100 need
    tracemalloc.start()
    try:
        trainer.advance([0.1, 0.1], None)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 64 * 2000 * 8 / 4


# --------------------------------------------------------------------------------------------
# validation, patience, callbacks, schedules


@solvers
def test_the_validation_cost_is_that_of_the_data_without_l2_and_dropout(solver):
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
def test_nothing_is_learnt_from_the_validation_set(solver):
    net = NETS["tanh with L2"]
    given = net.init("he", seed=3), *data(net, M)
    alone, _ = accelnn.fit(net, *given, solver=solver, **FULL_BATCH)
    watched, _ = accelnn.fit(
        net, *given, solver=solver, validation=data(net, 9, seed=4), **FULL_BATCH
    )
    np.testing.assert_array_equal(alone.flat, watched.flat)


@solvers
def test_a_validation_share_is_split_off_by_the_seed(solver):
    net = NETS["tanh with L2"]
    first, (X, Y) = net.init("he", seed=3), data(net, M)
    params, history = accelnn.fit(
        net, first, X, Y, solver=solver, validation=0.25, seed=5, **FULL_BATCH
    )
    X_train, Y_train, *held_out = batches.split(X, Y, 0.25, 5)
    expected, same = accelnn.fit(
        net, first, X_train, Y_train, solver=solver, validation=tuple(held_out), **FULL_BATCH
    )
    np.testing.assert_array_equal(params.flat, expected.flat)
    assert history.validation_costs == same.validation_costs
    assert history.final_cost == same.final_cost


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
@pytest.mark.parametrize("record_every", [1, 5])
@pytest.mark.parametrize("patience", [1, 4])
def test_patience_stops_and_returns_the_parameters_of_the_lowest_cost(
    overfitted, solver, record_every, patience
):
    net, given, options = overfitted
    options = options | {"record_every": record_every, "solver": solver}
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
    np.testing.assert_allclose(params.flat, expected.flat, rtol=1e-12, atol=1e-14)
    assert history.final_validation_cost == pytest.approx(watched[lowest], rel=1e-12)
    assert history.final_cost == pytest.approx(net.cost(params, *given[1:]))


@solvers
def test_patience_that_never_ends_changes_nothing(overfitted, solver):
    net, given, options = overfitted
    options = options | {"epochs": 12, "record_every": 5, "solver": solver}
    falling, history = accelnn.fit(net, *given, patience=5, **options)
    expected, same = accelnn.fit(net, *given, **options)
    assert history.stopped is None
    np.testing.assert_array_equal(falling.flat, expected.flat)
    assert history.costs == same.costs


@solvers
def test_the_lowest_is_returned_even_where_patience_did_not_stop_the_training(overfitted, solver):
    net, given, options = overfitted
    options = options | {"record_every": 5, "solver": solver}
    params, history = accelnn.fit(net, *given, patience=1000, **options)
    assert history.stopped is None
    assert history.epochs[-1] == 115
    assert history.final_validation_cost == pytest.approx(min(history.validation_costs), rel=1e-12)
    assert np.isfinite(params.flat).all()


@solvers
@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
def test_callbacks_are_told_of_each_record_in_order(solver, optimizer):
    net = NETS["tanh with L2"]
    given, seen = (net.init("he", seed=3), *data(net, M)), []

    def spoils(checkpoint):
        parameters = checkpoint.parameters()
        seen.append((checkpoint, parameters.copy()))
        parameters.flat[...] = np.nan  # a copy: the training does not mind

    options = FULL_BATCH | {
        "solver": solver,
        "optimizer": optimizer,
        "learning_rate": inverse_decay(0.5, 0.1),
        "validation": data(net, 9, seed=4),
    }
    params, history = accelnn.fit(net, *given, callbacks=[spoils], **options)
    expected, same = accelnn.fit(net, *given, **options)
    np.testing.assert_allclose(params.flat, expected.flat, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-12)

    checkpoints = [checkpoint for checkpoint, _ in seen]
    assert [c.epoch for c in checkpoints] == history.epochs == [0, 2, 4, 6]
    assert [c.cost for c in checkpoints] == history.costs
    assert [c.validation_cost for c in checkpoints] == history.validation_costs
    rates = [0.5 / (1 + 0.1 * epoch) for epoch in (0, 2, 4, 6)]
    assert [c.learning_rate for c in checkpoints] == pytest.approx(rates)
    for checkpoint, parameters in seen:  # after the epoch that is told of
        there, _ = accelnn.fit(net, *given, **options | {"epochs": checkpoint.epoch + 1})
        np.testing.assert_allclose(parameters.flat, there.flat, rtol=1e-12, atol=1e-14)


@for_batches
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_callbacks_between_epochs_of_batches_do_not_change_the_training(solver, optimizer):
    net = NETS["dropout"]
    given = net.init("he", seed=3), *data(net, M)
    options = {"epochs": 4, "learning_rate": 0.02, "batch_size": 8, "solver": solver}
    options["optimizer"] = OPTIMIZERS[optimizer]
    epochs = []
    params, history = accelnn.fit(
        net, *given, callbacks=[lambda told: epochs.append(told.epoch)], **options
    )
    expected, same = accelnn.fit(net, *given, **options)
    np.testing.assert_allclose(params.flat, expected.flat, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-12)
    assert epochs == history.epochs == [0, 1, 2, 3]


@solvers
def test_a_callback_can_end_the_training_and_all_are_told(solver):
    net = NETS["tanh with L2"]
    given, told = (net.init("he", seed=3), *data(net, M)), []
    options = FULL_BATCH | {"solver": solver}
    params, history = accelnn.fit(
        net,
        *given,
        callbacks=[lambda checkpoint: checkpoint.epoch == 4, lambda c: told.append(c.epoch)],
        **options,
    )
    assert told == history.epochs == [0, 2, 4]
    assert history.stopped == "a callback ended it after epoch 4"
    expected, _ = accelnn.fit(net, *given, **options | {"epochs": 5})
    np.testing.assert_allclose(params.flat, expected.flat, rtol=1e-12, atol=1e-14)


def test_callbacks_without_validation_are_told_none():
    net, seen = NETS["logistic regression"], []
    accelnn.fit(net, net.init(), *data(net, M), callbacks=[seen.append], **FULL_BATCH)
    assert [checkpoint.validation_cost for checkpoint in seen] == [None] * 4


@solvers
def test_a_schedule_that_is_constant_is_the_constant(solver):
    net = NETS["tanh with L2"]
    given = net.init("he", seed=3), *data(net, M)
    constant, history = accelnn.fit(net, *given, solver=solver, **FULL_BATCH)
    epochs = []

    def schedule(epoch):
        epochs.append(epoch)
        return 0.3

    scheduled, same = accelnn.fit(
        net, *given, solver=solver, **FULL_BATCH | {"learning_rate": schedule}
    )
    np.testing.assert_array_equal(scheduled.flat, constant.flat)
    assert history.costs == same.costs
    assert sorted(set(epochs)) == list(range(7))


@for_batches
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_rate_holds_for_all_batches_of_its_epoch(solver, optimizer):
    """Where it changes from epoch to epoch, trainings of one epoch after the other are the same
    as the whole, if nothing is kept from step to step."""
    net = NETS["relu"]
    X, Y = data(net, M)
    rates = [0.02, 0.01, 0.004]
    options = {"batch_size": 8, "solver": solver, "optimizer": OPTIMIZERS[optimizer]}
    trained, _ = accelnn.fit(
        net, net.init("he"), X, Y, epochs=3, learning_rate=rates.__getitem__, **options
    )
    theta, optimizer, step = (
        net.init("he"),
        accelnn.optimizers.optimizer_of(options["optimizer"]),
        0,
    )
    moments = accelnn.optimizers.new_moments(optimizer, theta.flat)
    for rate, order in zip(rates, batches.orders(M, 0), strict=False):
        for start in range(0, M, 8):
            chosen = order[start : start + 8]
            gradient = net.gradients(theta, X[:, chosen], Y[:, chosen]).flat
            gradient *= optimizer.scale(rate)
            step += 1
            operations = accelnn.operations.VECTORISED
            optimizer.update(operations, theta.flat, gradient, moments, rate, step)
    np.testing.assert_allclose(trained.flat, theta.flat, rtol=1e-11, atol=1e-12)


# --------------------------------------------------------------------------------------------
# what a training tells and what it leaves alone


@solvers
def test_the_history_tells_what_ran(solver):
    net = NETS["tanh with L2"]
    _, history = accelnn.fit(
        net, net.init(), *data(net, M), solver=solver, optimizer=Momentum(beta=0.5), **FULL_BATCH
    )
    assert (history.solver, history.reason) == (solver, "asked for")
    assert (history.optimizer, history.batch_size, history.stopped) == ("momentum", None, None)
    assert (history.validation_costs, history.final_validation_cost) == ([], None)
    assert (history.backend, history.dtype) == ("numpy", "float64")
    assert (history.compile_seconds >= 0) if "jitted" in solver else history.compile_seconds == 0
    told = [*history.costs, history.final_cost, history.compile_seconds]
    assert all(type(value) is float for value in told)


@for_batches
def test_the_history_of_batches(solver):
    net = NETS["relu"]
    _, history = accelnn.fit(
        net,
        net.init(),
        *data(net, M),
        epochs=7,
        learning_rate=0.01,
        solver=solver,
        optimizer="adam",
        batch_size=8,
        record_every=3,
        validation=0.2,
    )
    assert history.epochs == [0, 3, 6]
    assert len(history.costs) == len(history.validation_costs) == 3
    assert (history.optimizer, history.batch_size) == ("adam", 8)
    assert type(history.final_validation_cost) is float


def test_only_the_first_training_of_a_kind_spends_time_on_compiling():
    net = NETS["relu"]
    times = [
        accelnn.fit(net, net.init(), *data(net, M), solver="jitted", **FULL_BATCH)[
            1
        ].compile_seconds
        for _ in range(2)
    ]
    assert 0 <= times[1] < 0.1


@solvers
@pytest.mark.parametrize("epochs", [0, 1])
def test_no_epochs_change_nothing_and_one_is_one_update(solver, epochs):
    net = NETS["tanh with L2"]
    first, (X, Y) = net.init("he", seed=3), data(net, M)
    trained, history = accelnn.fit(
        net, first, X, Y, epochs=epochs, learning_rate=0.3, solver=solver, validation=(X, Y)
    )
    expected = first.flat - epochs * 0.3 * net.gradients(first, X, Y).flat
    np.testing.assert_allclose(trained.flat, expected, rtol=1e-12, atol=1e-14)
    assert len(history.costs) == len(history.validation_costs) == epochs
    assert history.final_cost == pytest.approx(net.cost(trained, X, Y))
    assert history.final_validation_cost is not None


@solvers
@pytest.mark.parametrize("validation", [None, 0.3])
def test_no_epochs_return_the_parameters_given_even_with_patience(solver, validation):
    net = NETS["relu"]
    first = net.init("he")
    trained, history = accelnn.fit(
        net,
        first,
        *data(net, M),
        epochs=0,
        learning_rate=0.3,
        solver=solver,
        validation=validation,
        patience=None if validation is None else 2,
    )
    np.testing.assert_array_equal(trained.flat, first.flat)
    assert history.stopped is None


READ_ONLY = {
    "whole": {},
    "momentum": {"optimizer": "momentum"},
    "batches": {"batch_size": 8},
    "adam on batches": {"batch_size": 8, "optimizer": "adam"},
    "validation share": {"validation": 0.2, "patience": 2},
}


@pytest.mark.parametrize(
    ("solver", "case"),
    [
        (solver, case)
        for solver, case in itertools.product(SOLVERS, READ_ONLY)
        if solver in FOR_BATCHES or "batch_size" not in READ_ONLY[case]
    ],
)
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_that_were_given_may_be_read_only_and_stay_as_they_are(solver, case, order):
    net, options = NETS["relu"], READ_ONLY[case]
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
        np.testing.assert_array_equal(array, copy)
        assert not np.shares_memory(trained.flat, array)
    trained.flat[...] = 0  # the user's own, and writable


@solvers
@pytest.mark.parametrize("layout", ["every other row", "every other column", "reversed"])
def test_views_of_any_layout_are_trained_on_as_their_copies(solver, layout):
    net = NETS["relu"]
    base, Y = np.random.default_rng(0).normal(size=(80, 2 * M)), data(net, M)[1]
    X = {
        "every other row": base[::2, :M],
        "every other column": base[:40, ::2],
        "reversed": base[:40, :M][::-1, ::-1],
    }[layout]
    trained, copied = (
        accelnn.fit(net, net.init("he"), array, Y, solver=solver, **FULL_BATCH)[0].flat
        for array in (X, X.copy())
    )
    np.testing.assert_allclose(trained, copied, rtol=1e-11, atol=1e-13)


# --------------------------------------------------------------------------------------------
# ends that nobody wants


def blas_threads():
    return {pool["filepath"]: pool["num_threads"] for pool in threadpoolctl.threadpool_info()}


@solvers
def test_an_interrupt_in_a_callback_goes_through_and_leaves_the_threads_as_they_were(solver):
    net = NETS["products by BLAS"]

    def interrupts(checkpoint):
        if checkpoint.epoch == 2:
            raise KeyboardInterrupt

    before = blas_threads()
    with pytest.raises(KeyboardInterrupt):
        accelnn.fit(
            net, net.init(), *data(net, M), solver=solver, callbacks=[interrupts], **FULL_BATCH
        )
    assert blas_threads() == before


@pytest.mark.parametrize("solver", ["jitted", "gram-jitted"])
def test_compiled_steps_have_one_thread_a_product_and_give_the_others_back(monkeypatch, solver):
    net = NETS["products by BLAS"]
    inside = []

    def interrupted(*_arguments):
        inside.append(blas_threads())
        raise KeyboardInterrupt

    monkeypatch.setattr(jit, "train", lambda: interrupted)
    monkeypatch.setattr(jit, "prepare", lambda _function, _arguments: 0.0)
    before = blas_threads()
    with pytest.raises(KeyboardInterrupt):
        accelnn.fit(net, net.init(), *data(net, M), solver=solver, **FULL_BATCH)
    assert blas_threads() == before
    openblas = [threads for path, threads in inside[0].items() if "openblas" in path]
    assert set(openblas) == {1}


@pytest.mark.parametrize(
    ("solver", "batch_size"),
    [*itertools.product(SOLVERS, [None]), *itertools.product(FOR_BATCHES, [8])],
)
def test_divergence_is_warned_about(solver, batch_size):
    net = NETS["leaky relu with L2"]
    with pytest.warns(RuntimeWarning, match=r"diverged; lower the learning rate \(50\)") as warned:
        _, history = accelnn.fit(
            net,
            net.init("he"),
            *data(net, M),
            epochs=400,
            learning_rate=50,
            solver=solver,
            batch_size=batch_size,
            validation=data(net, 5, seed=1),
        )
    assert len(warned) == 1
    assert not np.isfinite(history.final_cost)
    assert warned[0].filename == __file__


@solvers
def test_patience_saves_the_best_of_a_training_that_diverges(solver):
    net = NETS["leaky relu with L2"]
    first = net.init("he")
    with pytest.warns(RuntimeWarning, match="the cost rose from"):
        params, history = accelnn.fit(
            net,
            first,
            *data(net, M),
            epochs=400,
            learning_rate=50,
            solver=solver,
            record_every=1,
            validation=data(net, 5, seed=1),
            patience=3,
        )
    assert history.epochs == [0, 1, 2]
    np.testing.assert_array_equal(params.flat, first.flat)


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
@pytest.mark.parametrize("keep_prob", [1.0, 0.8])
@pytest.mark.parametrize("validation", [None, 0.2])
def test_nothing_waits_for_the_device_between_records(double, case, keep_prob, validation):
    solver, options = ON_THE_DEVICE[case]
    net = replace(DEVICE_NET, keep_prob=keep_prob)
    X, Y = (to_device(array, "float32") for array in data(net, 20))
    counts = []
    for epochs, record_every in ((1, 1), (60, 1), (60, 20)):
        double.counts.synchronizations = 0
        accelnn.fit(
            net,
            net.init(),
            X,
            Y,
            epochs=epochs,
            learning_rate=0.01,
            record_every=record_every,
            solver=solver,
            validation=validation,
            **options,
        )
        counts.append(double.counts.synchronizations)
    assert counts[0] == counts[1] == counts[2]


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("case", ON_THE_DEVICE)
def test_the_device_gives_the_training_of_the_host(case):
    solver, options = ON_THE_DEVICE[case]
    options = FULL_BATCH | {"learning_rate": 0.02, "solver": solver} | options
    given, pair = data(DEVICE_NET, 20), data(DEVICE_NET, 7, seed=1)
    first = DEVICE_NET.init("he", dtype="float64")
    there, history = accelnn.fit(
        DEVICE_NET,
        first,
        *map(to_device, given),
        validation=tuple(map(to_device, pair)),
        **options,
    )
    with accelnn.use("numpy"):
        here, same = accelnn.fit(
            DEVICE_NET, DEVICE_NET.init("he"), *given, validation=pair, **options
        )
    assert (history.backend, same.backend) == ("cupy", "numpy")
    np.testing.assert_allclose(to_host(there.flat), here.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-11)
    np.testing.assert_allclose(history.validation_costs, same.validation_costs, rtol=1e-11)


@pytest.mark.parametrize("batch_size", [None, 6])
def test_only_the_order_of_an_epoch_crosses_to_the_device(double, batch_size):
    X, Y = map(to_device, data(DEVICE_NET, 20))
    first = DEVICE_NET.init()
    double.counts.uploads = 0
    accelnn.fit(DEVICE_NET, first, X, Y, epochs=9, learning_rate=0.1, batch_size=batch_size)
    assert double.counts.uploads == (0 if batch_size is None else 9)


@pytest.mark.usefixtures("double")
def test_patience_and_callbacks_work_on_the_device():
    epochs = []
    X, Y = map(to_device, data(DEVICE_NET, 20))
    wrong = to_device(np.roll(to_host(Y), 1, axis=0))
    first = DEVICE_NET.init("he")
    params, history = accelnn.fit(
        DEVICE_NET,
        first,
        X,
        Y,
        epochs=50,
        learning_rate=0.1,
        batch_size=6,
        validation=(X, wrong),
        patience=30,
        callbacks=[lambda told: epochs.append(told.epoch)],
    )
    assert epochs == history.epochs == list(range(len(epochs)))
    best = min(history.validation_costs)
    assert history.final_validation_cost == pytest.approx(best, rel=1e-6)
    assert params.dtype == np.float32


# --------------------------------------------------------------------------------------------
# what is refused


@pytest.mark.parametrize("solver", ["gram", "gram-jitted"])
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adam"}, "cannot do this: adam is not linear in the gradient"),
        ({"batch_size": 8}, "cannot do this: sample space is for full batches"),
        ({"batch_size": 8, "optimizer": "adam"}, "cannot do this"),
    ],
)
def test_what_sample_space_cannot_do_is_refused(solver, options, message):
    net = NETS["relu"]
    with pytest.raises(ValueError, match=message):
        accelnn.fit(net, net.init(), *data(net, M), solver=solver, **FULL_BATCH | options)


def spoilt(array, value):
    array = array.copy()
    array[0, 3] = value
    return array


X_SMALL, Y_SMALL = data(NETS["logistic regression"], 9, seed=1)
BAD_OPTIONS = {
    "no examples a batch": ({"batch_size": 0}, "batch_size as an integer >= 1, got 0"),
    "a negative batch": ({"batch_size": -8}, "batch_size as an integer >= 1, got -8"),
    "half an example": ({"batch_size": 8.5}, "batch_size as an integer >= 1, got 8.5"),
    "a batch of True": ({"batch_size": True}, "batch_size as an integer"),
    "a batch by name": ({"batch_size": "8"}, "batch_size as an integer >= 1, got '8'"),
    "no patience": ({"patience": 0, "validation": 0.5}, "patience as an integer >= 1, got 0"),
    "some patience": ({"patience": 1.5, "validation": 0.5}, "patience as an integer"),
    "patience for nothing": ({"patience": 3}, "give validation as well"),
    "no share": ({"validation": 0.0}, r"share in \(0, 1\) or as \(X, Y\), got 0.0"),
    "all as a share": ({"validation": 1.0}, r"share in \(0, 1\)"),
    "a share of True": ({"validation": True}, r"share in \(0, 1\)"),
    "a share of NaN": ({"validation": float("nan")}, r"share in \(0, 1\)"),
    "X alone": ({"validation": X_SMALL}, r"share in \(0, 1\) or as \(X, Y\), got ndarray"),
    "three parts": ({"validation": (X_SMALL, Y_SMALL, 1)}, r"as \(X, Y\), got tuple"),
    "other features": ({"validation": (X_SMALL[:2], Y_SMALL)}, r"validation: expected X of shape"),
    "more labels": ({"validation": (X_SMALL[:, :4], Y_SMALL)}, r"validation: expected Y of shape"),
    "NaN in its X": (
        {"validation": (spoilt(X_SMALL, np.nan), Y_SMALL)},
        "validation: X has 1 NaN or infinite",
    ),
    "infinity in its Y": (
        {"validation": (X_SMALL, spoilt(Y_SMALL, np.inf))},
        "validation: Y has 1 NaN or infinite",
    ),
    "a label of 2": ({"validation": (X_SMALL, spoilt(Y_SMALL, 2))}, r"validation: .*got 0\.\.2"),
    "nothing to watch": ({"validation": (X_SMALL[:, :0], Y_SMALL[:, :0])}, "at least one example"),
    "unknown optimizer": ({"optimizer": "rmsprop"}, "unknown optimizer 'rmsprop'.*adam"),
    "no optimizer": ({"optimizer": None}, "unknown optimizer None"),
}


@solvers
@pytest.mark.parametrize("case", BAD_OPTIONS)
def test_bad_options_are_refused(solver, case):
    options, message = BAD_OPTIONS[case]
    net = NETS["logistic regression"]
    with pytest.raises(ValueError, match=message):
        accelnn.fit(net, net.init(), *data(net, M), solver=solver, **FULL_BATCH | options)


def test_one_example_cannot_be_split():
    net = NETS["logistic regression"]
    with pytest.raises(ValueError, match="at least 2 examples, got 1"):
        accelnn.fit(net, net.init(), *data(net, 1), validation=0.5, **FULL_BATCH)


def test_the_validation_set_has_to_be_where_the_data_is(double):
    X, Y = map(to_device, data(DEVICE_NET, 20))
    with pytest.raises(TypeError, match="validation: .* on the host"):
        accelnn.fit(
            DEVICE_NET, DEVICE_NET.init(), X, Y, validation=data(DEVICE_NET, 4), **FULL_BATCH
        )
    assert double is not None


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
