"""Weights of examples, their order, and trainings that go on: on every backend, by every solver."""

import itertools
import pickle

import numpy as np
import pytest
from helpers.core import refused
from helpers.trainings import NETS, data
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Network
from accelnn.backend import to_device, to_host
from accelnn.numerical import numerical_gradient

CPU = ("direct", "jitted", "gram", "gram-jitted")
RATES = {"sgd": 0.1, "momentum": 0.1, "heavyball": 0.02, "nesterov": 0.02, "adam": 0.01}
M = 30


def trained(net, X, Y, params=None, **options):
    options = {"epochs": 6, "learning_rate": 0.05, "record_every": 1} | options
    params = net.init("scaled", seed=3, dtype="float64") if params is None else params
    return accelnn.fit(net, params, X, Y, **options)


def check_equal(one, other, rtol=0.0):
    np.testing.assert_allclose(to_host(one[0].flat), to_host(other[0].flat), rtol, atol=rtol)
    np.testing.assert_allclose(one[1].costs, other[1].costs, rtol)


# --------------------------------------------------------------------------------------------
# weights


@pytest.mark.parametrize("name", NETS)
def test_gradients_with_weights_are_the_numerical_ones(name):
    net = NETS[name]
    X, Y = data(net, 7)
    w = np.array([0.0, 1, 2, 0.5, 3, 1, 0.25])
    params = net.init("scaled", seed=1, dtype="float64")

    def cost(theta):
        return net.cost(accelnn.Parameters(theta, net.layers), X, Y, w)

    expected = numerical_gradient(cost, params.flat)
    gradients = net.gradients(params, X, Y, w).flat
    np.testing.assert_allclose(gradients, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.usefixtures("there")
@pytest.mark.parametrize("name", ["tanh with L2", "huber", "counts", "softmax regression"])
def test_whole_weights_are_copies_of_the_examples(name):
    net = NETS[name]
    X, Y = data(net, M)
    counts = np.random.default_rng(0).integers(0, 4, M)
    copied = [to_device(np.repeat(array, counts, axis=1)) for array in (X, Y)]
    X, Y, w = to_device(X), to_device(Y), to_device(counts.astype(float))
    params = net.init("scaled", seed=3, dtype="float64")
    assert net.cost(params, X, Y, w) == pytest.approx(net.cost(params, *copied), rel=1e-12)
    with_weights = trained(net, X, Y, weights=w, solver="direct")
    with_copies = trained(net, *copied, solver="direct")
    check_equal(with_weights, with_copies, 1e-10)
    assert with_weights[1].final_cost == pytest.approx(with_copies[1].final_cost, rel=1e-10)


@pytest.mark.parametrize("solver", CPU)
def test_weights_of_one_change_nothing(solver):
    net = NETS["tanh with L2"]
    X, Y = data(net, M)
    check_equal(
        trained(net, X, Y, solver=solver),
        trained(net, X, Y, solver=solver, weights=np.ones(M)),
        1e-14,
    )


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_a_batch_that_weighs_nothing_changes_nothing(solver):
    net = NETS["tanh with L2"]
    X, Y = data(net, M)
    weights = (np.arange(M) < 10) * 1.0
    options = {"solver": solver, "batch_size": 10, "shuffle": False, "epochs": 2}
    one = trained(net, X, Y, weights=weights, **options)
    alone = trained(net, X[:, :10], Y[:, :10], **options)
    np.testing.assert_allclose(one[0].flat, alone[0].flat, rtol=1e-12)
    # an epoch's cost is the mean over its examples' batches, two of three of which have none
    np.testing.assert_allclose(one[1].costs, np.array(alone[1].costs) / 3, rtol=1e-12)


def test_a_share_for_validation_keeps_its_weights():
    net = NETS["huber"]
    X, Y = data(net, M)
    weights = np.random.default_rng(1).random(M)
    held_out = []
    for solver in ("direct", "jitted"):
        params, history = trained(net, X, Y, weights=weights, validation=0.3, solver=solver)
        held_out.append(history.final_validation_cost)
        (X_train, Y_train, w), (X_held, Y_held, w_held) = accelnn.batches.split(
            (X, Y, weights), 0.3, 0
        )
        plain = Network(net.layers, net.hidden, net.output)
        assert history.final_cost == pytest.approx(net.cost(params, X_train, Y_train, w))
        expected = plain.cost(params, X_held, Y_held, w_held)
        assert held_out[-1] == pytest.approx(expected, rel=1e-10)


def test_bad_weights_are_refused():
    net = NETS["tanh with L2"]
    X, Y = data(net, M)
    for weights, message in (
        (np.ones(M + 1), rf"weights of shape \({M},\), got \({M + 1},\)"),
        (np.ones((1, M)), "weights of shape"),
        (-np.ones(M), "weights of 0 or more, not all 0 and finite: the lowest is -1"),
        (np.zeros(M), "the sum 0"),
        (np.full(M, np.nan), "the lowest is nan"),
        (np.full(M, np.inf), "the sum inf"),
    ):
        with refused(message):
            trained(net, X, Y, weights=weights)
    with refused("weights as an array", TypeError):
        trained(net, X, Y, weights=[1.0] * M)


@pytest.mark.usefixtures("double_with_cublaslt")
def test_a_gpu_trains_with_weights_by_vectorised_arrays():
    net = NETS["tanh with L2"]
    X, Y = map(to_device, data(net, M))
    _, history = trained(net, X, Y, weights=to_device(np.ones(M)))
    assert history.solver in ("direct", "gram")
    with refused("a GPU's kernels know no weights"):
        trained(net, X, Y, weights=to_device(np.ones(M)), solver="jitted")


# --------------------------------------------------------------------------------------------
# the order of the examples


@pytest.mark.usefixtures("there")
def test_without_shuffling_batches_are_the_columns_in_their_order():
    net = Network([3, 2], output="linear")
    random = np.random.default_rng(0)
    X, Y = random.normal(size=(3, 10)), random.normal(size=(2, 10))
    params, _ = trained(net, to_device(X), to_device(Y), shuffle=False, batch_size=4, epochs=2)
    W, b = (to_host(array).copy() for array in net.init("scaled", seed=3, dtype="float64")[0])
    for columns in [slice(0, 4), slice(4, 8), slice(8, 10)] * 2:
        error = (W @ X[:, columns] + b - Y[:, columns]) / X[:, columns].shape[1]
        W -= 0.05 * error @ X[:, columns].T
        b -= 0.05 * error.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(to_host(params[0][0]), W, rtol=1e-12)


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_the_users_own_orders_are_those_of_a_copy_in_that_order(solver):
    net = NETS["two layers"]
    X, Y = data(net, M)
    order = np.random.default_rng(5).permutation(M)
    options = {"batch_size": 7, "solver": solver}
    own = trained(net, X, Y, shuffle=itertools.repeat(order), **options)
    check_equal(own, trained(net, X[:, order], Y[:, order], shuffle=False, **options), 1e-13)
    asked = (order for _ in range(6))  # computed when an epoch begins, and only then
    check_equal(own, trained(net, X, Y, shuffle=asked, **options))
    assert next(asked, None) is None


@pytest.mark.parametrize("solver", ["direct", "jitted"])
def test_orders_that_are_no_permutations_are_refused(solver):
    net = NETS["two layers"]
    X, Y = data(net, M)
    for order in (np.arange(M - 1), np.arange(M) / 1, np.zeros(M, int), np.arange(M) - 1):
        with refused(rf"permutations of 0\.\.{M - 1}, got"):
            trained(net, X, Y, shuffle=[order] * 6, batch_size=7, solver=solver)
    with refused("a permutation for each epoch, and it gave fewer"):
        trained(net, X, Y, shuffle=[np.arange(M)] * 3, batch_size=7, solver=solver)


@given(order=st.lists(st.integers(-2, 12), max_size=12))
def test_permutations_are_recognised(order):
    expected = sorted(order) == list(range(len(order)))
    assert accelnn.batches.is_permutation(np.array(order, int)) == expected


# --------------------------------------------------------------------------------------------
# trainings that go on


@settings(max_examples=25, deadline=None)
@given(
    solver=st.sampled_from(["direct", "jitted"]),
    optimizer=st.sampled_from([*RATES]),
    batch_size=st.sampled_from([None, 7, 30]),
    name=st.sampled_from(["tanh with L2", "dropout by layer", "huber"]),
    first=st.integers(0, 6),
)
def test_a_training_goes_on_as_if_there_had_been_no_break(
    solver, optimizer, batch_size, name, first
):
    net = NETS[name]
    X, Y = data(net, M)
    options = {"solver": solver, "optimizer": optimizer, "batch_size": batch_size, "seed": 3}
    options["learning_rate"] = lambda epoch: RATES[optimizer] / (1 + epoch)
    whole = trained(net, X, Y, **options)
    begun = trained(net, X, Y, epochs=first, **options)
    state = pickle.loads(pickle.dumps(begun[1].state))
    ended = trained(net, X, Y, begun[0], epochs=6 - first, state=state, **options)
    np.testing.assert_array_equal(ended[0].flat, whole[0].flat)
    assert begun[1].costs + ended[1].costs == whole[1].costs
    assert begun[1].epochs + ended[1].epochs == whole[1].epochs
    assert ended[1].state.epochs == 6
    assert (begun[1].epochs_run, ended[1].epochs_run) == (first, 6 - first)


@pytest.mark.parametrize("optimizer", RATES)
@pytest.mark.usefixtures("there")
def test_a_state_moves_between_solvers(optimizer):
    """Also out of sample space, whose moments are of another array."""
    net = Network([60, 5, 3], hidden="tanh", output="softmax", l2=0.4)
    X, Y = map(to_device, data(net, 12))
    options = {"optimizer": optimizer, "learning_rate": RATES[optimizer]}
    whole = trained(net, X, Y, solver="direct", **options)
    first = "direct" if optimizer == "adam" else "gram"
    begun = trained(net, X, Y, solver=first, epochs=4, **options)
    ended = trained(net, X, Y, begun[0], solver="direct", epochs=2, state=begun[1].state, **options)
    np.testing.assert_allclose(to_host(ended[0].flat), to_host(whole[0].flat), rtol=1e-9)


def test_sample_space_refuses_moments_that_it_cannot_have():
    net = Network([60, 5, 1], hidden="tanh")
    X, Y = data(net, 12)
    for optimizer, rate in RATES.items():
        state = trained(net, X, Y, optimizer=optimizer, learning_rate=rate)[1].state
        options = {"optimizer": optimizer, "learning_rate": rate, "state": state}
        if optimizer == "sgd":
            assert trained(net, X, Y, solver="gram", **options)[1].solver == "gram"
        else:
            with refused(f"with the moments of {optimizer}|not linear"):
                trained(net, X, Y, solver="gram", **options)
            assert trained(net, X, Y, **options)[1].solver != "gram"


def test_states_that_do_not_fit_are_refused():
    net, other = NETS["two layers"], NETS["tanh with L2"]
    X, Y = data(net, M)
    history = trained(net, X, Y, optimizer="adam", learning_rate=0.01)[1]
    with refused("expected state as history.state of a training, got History", TypeError):
        trained(net, X, Y, state=history)
    with refused(r"0 moments of shape \(\d+,\) for sgd, got"):
        trained(net, X, Y, state=history.state)
    with refused(r"2 moments of shape \(\d+,\) for adam, got"):
        options = {"optimizer": "adam", "learning_rate": 0.01, "state": history.state}
        trained(other, *data(other, M), **options)


def test_patience_that_found_better_parameters_leaves_no_state():
    net = NETS["two layers"]
    X, Y = data(net, M)
    _, history = trained(net, X, Y, epochs=300, learning_rate=2.0, validation=0.3, patience=5)
    assert history.stopped.startswith("patience")
    assert history.state is None


# --------------------------------------------------------------------------------------------
# threads


def test_threads_limit_those_of_compiled_steps(monkeypatch):
    monkeypatch.setattr("accelnn.solvers.threads.best_count", lambda *_: 4)
    net = NETS["two layers"]
    X, Y = data(net, M)
    used = []
    run = accelnn.solvers.threads.run
    monkeypatch.setattr(
        "accelnn.solvers.threads.run", lambda part, parts: used.append(parts) or run(part, parts)
    )
    for threads, expected in ((None, 4), (1, 1), (3, 3), (9, 4)):
        trained(net, X, Y, solver="jitted", threads=threads)
        assert set(used) == {expected}, threads
        used.clear()
    for threads in (0, -1, 1.5, True):
        with refused("threads as an integer >= 1"):
            trained(net, X, Y, threads=threads)
