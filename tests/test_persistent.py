"""Sample space in one launch from record to record: the kernel of
kernels/gpu/sample_space.cu against `Gram`, run by the device double on the host and, if there is
one, on a GPU."""

import math

import numpy as np
import pytest
from doubles import device as device_double
from doubles import host_cuda
from helpers.published import PUBLISHED
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Adam, Momentum, Network, backend, datasets
from accelnn.backend import array_module, to_device, to_host
from accelnn.optimizers import inverse_decay, optimizer_of
from accelnn.recipes import RECIPES
from accelnn.scores import accuracy
from accelnn.solvers import persistent
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.job import Job
from accelnn.solvers.persistent import Limits, Partition, Persistent, Shape, partition, partitions

pytestmark = pytest.mark.slow

H200 = Limits(processors=132, shared=227 * 1024)


@pytest.fixture(params=["kernels", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request):
    """The device double that runs kernels, then a GPU, chosen; gives the backend."""
    if request.param == "kernels":
        request.getfixturevalue("double_with_kernels")
    else:
        backend.use("cupy")
    return backend.current()


def data(net, m, seed):
    """Features and labels with which a net of these layers can be trained."""
    random = np.random.default_rng(seed)
    X, n = random.normal(size=(net.layers[0], m)), net.layers[-1]
    if net.output == "softmax":
        return X, accelnn.one_hot(random.integers(n, size=m), n)
    if net.output == "linear":
        return X, random.normal(size=(n, m))
    return X, (random.random((n, m)) < 0.4).astype(np.float64)


def job(net, m, optimizer="sgd", dtype="float64", seed=0):
    """On the chosen backend, with a validation set."""
    arrays = (*data(net, m, 0), *data(net, 7, 1))
    X, Y, *validation = (to_device(array, dtype) for array in arrays)
    params = net.init("he", seed=3, dtype=dtype)
    return Job(net, params, X, Y, optimizer_of(optimizer), None, seed, tuple(validation))


def on_host(net, m, *options):
    with accelnn.use("numpy"):
        return job(net, m, *options)


def trained(trainer, rates, every):
    """Costs and validation costs of each record, and the parameters, on the host."""
    costs = array_module(trainer.job.X).empty((2, -(-len(rates) // every)), trainer.job.X.dtype)
    for record, start in enumerate(range(0, len(rates), every)):
        costs[1, record] = trainer.validation()[0]
        trainer.advance(rates[start : start + every], costs[0, record, ...])
    return to_host(costs), to_host(trainer.parameters().flat)


def check_same(trainer, reference, tolerance, rates=(0.3,) * 50, every=10):
    (costs, flat), (wanted, expected) = (
        trained(one, list(rates), every) for one in (trainer, reference)
    )
    assert np.isfinite(wanted).all()
    np.testing.assert_allclose(costs, wanted, rtol=tolerance)
    np.testing.assert_allclose(flat, expected, rtol=tolerance, atol=tolerance)


def shared_out(of, width, **options):
    """A partition of small blocks that has all in shared memory, but for `options`."""
    shape = Shape.of(of)
    options = {"rows": shape.layers[0], "held": True, "threads": 64} | options
    return Partition(shape, width, **options)


# --------------------------------------------------------------------------------------------
# the same training

NETS = {
    "logistic regression": Network([30, 1]),
    "logistic regression with L2": Network([30, 2], l2=0.7),
    "softmax regression": Network([30, 3], output="softmax"),
    "linear regression": Network([30, 2], output="linear", l2=0.1),
    "sigmoid": Network([5, 6, 1], hidden="sigmoid"),
    "tanh with L2": Network([30, 6, 3], hidden="tanh", output="softmax", l2=0.5),
    "relu": Network([30, 7, 1], hidden="relu"),
    "leaky relu with L2": Network([5, 6, 2], hidden="leaky_relu", output="linear", l2=0.2),
    "one unit": Network([1, 1, 1], hidden="tanh"),
    "two layers": Network([5, 6, 4, 1], hidden=("tanh", "sigmoid")),
    "three layers with L2": Network([30, 9, 5, 4, 3], output="softmax", l2=0.5),
    "many terms in an inner product": Network([30, 20, 35, 40], hidden="tanh", output="softmax"),
}
DROPOUT = Network(
    [30, 9, 8, 7, 6, 3],
    hidden=("relu", "sigmoid", "leaky_relu", "tanh"),
    output="softmax",
    keep_prob=(0.6, 0.7, 1.0, 0.8),
    l2=0.3,
)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.parametrize("name", NETS)
@pytest.mark.usefixtures("device")
def test_it_is_the_training_of_gram(name, optimizer):
    net, rates = NETS[name], (0.1,) * 50
    check_same(Persistent(job(net, 13, optimizer)), Gram(on_host(net, 13, optimizer)), 1e-10, rates)


@pytest.mark.parametrize("name", ["relu", "tanh with L2", "three layers with L2"])
@pytest.mark.usefixtures("device")
def test_float32_is_the_same_training_too(name):
    options = Momentum(beta=0.8), "float32"
    check_same(
        Persistent(job(NETS[name], 13, *options)), Gram(on_host(NETS[name], 13, *options)), 1e-4
    )


@pytest.mark.parametrize("optimizer", ["sgd", Momentum(beta=0.8)])
@pytest.mark.usefixtures("device")
def test_rates_may_change_from_epoch_to_epoch(optimizer):
    net, decay = NETS["tanh with L2"], inverse_decay(0.5, 0.3)
    check_same(
        Persistent(job(net, 13, optimizer)),
        Gram(on_host(net, 13, optimizer)),
        1e-10,
        [decay(epoch) for epoch in range(11)],
        every=4,
    )


@pytest.mark.parametrize("width", [1, 3, 7, 13])
@pytest.mark.parametrize("m", [1, 2, 13, 40])
@pytest.mark.usefixtures("device")
def test_any_number_of_blocks_gives_the_same_training(m, width):
    """Blocks for 1 to 40 examples each; the last has fewer where they do not come out even."""
    of = job(NETS["three layers with L2"], m, Momentum(beta=0.8))
    reference = Gram(on_host(of.net, m, Momentum(beta=0.8)))
    check_same(Persistent(of, shared_out(of, min(m, width))), reference, 1e-10, (0.3,) * 6, 4)


@pytest.mark.parametrize(
    "options",
    [
        {"held": False},
        {"rows": 4},
        {"rows": 8, "held": False},
        {"in_shares": True},
        {"in_shares": True, "rows": 4, "held": False},
        {"threads": 128},
        {"threads": 512},
    ],
    ids=str,
)
@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.usefixtures("device")
def test_where_things_are_kept_and_added_up_does_not_change_the_training(width, options):
    of = job(NETS["three layers with L2"], 40, Momentum(beta=0.8))
    reference = Gram(on_host(of.net, 40, Momentum(beta=0.8)))
    check_same(Persistent(of, shared_out(of, width, **options)), reference, 1e-10, (0.3,) * 6, 4)


@pytest.mark.usefixtures("double_with_kernels")
def test_the_blocks_that_an_h200_is_expected_to_need_give_the_same_training(monkeypatch):
    net = Network([300, 7, 1])
    monkeypatch.setitem(device_double.ATTRIBUTES, "MultiProcessorCount", H200.processors)
    trainer = Persistent(job(net, 209, "sgd", "float32"))
    assert trainer.partition == partition(Shape((7, 1), 209, False, 4), H200)
    check_same(trainer, Gram(on_host(net, 209, "sgd", "float32")), 1e-4, (0.01,) * 5, 2)


@pytest.mark.parametrize("in_shares", [False, True])
@pytest.mark.usefixtures("device")
def test_dropout_draws_the_masks_of_the_direct_solver(in_shares):
    of = job(DROPOUT, 13, seed=5)
    trainer = Persistent(of, shared_out(of, 4, in_shares=in_shares))
    check_same(trainer, Direct(job(DROPOUT, 13, seed=5)), 1e-10, (0.3,) * 9, every=4)


@pytest.mark.usefixtures("device")
def test_dropout_follows_its_seed():
    one, same, other = (
        trained(Persistent(job(DROPOUT, 13, seed=seed)), [0.3] * 5, 2)[1] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("in_shares", [False, True])
@pytest.mark.usefixtures("double_with_kernels")
def test_the_order_in_which_threads_run_does_not_change_a_bit(monkeypatch, in_shares):
    def run(seed):
        monkeypatch.setattr(host_cuda, "seed", seed)
        of = job(NETS["three layers with L2"], 13, Momentum(beta=0.8), "float32")
        return trained(Persistent(of, shared_out(of, 3, in_shares=in_shares)), [0.3] * 5, 3)

    costs, flat = run(0)
    for seed in (1, 2, 3):
        again, same = run(seed)
        np.testing.assert_array_equal(costs, again)
        np.testing.assert_array_equal(flat, same)


@pytest.mark.usefixtures("device")
def test_the_records_do_not_change_a_bit():
    """Nor in how many launches a training runs."""
    net = NETS["three layers with L2"]
    (_, often), (_, once) = (
        trained(Persistent(job(net, 13, Momentum(beta=0.8))), [0.3] * 9, every) for every in (1, 9)
    )
    np.testing.assert_array_equal(often, once)


@pytest.mark.usefixtures("device")
def test_a_diverging_training_ends_with_what_is_not_finite():
    net = NETS["leaky relu with L2"]
    (costs, _), flat = trained(Persistent(job(net, 13)), [1e200] * 8, 2)
    assert np.isfinite(costs[0])
    assert not np.isfinite(costs[-1])
    assert np.isnan(flat).any()


# --------------------------------------------------------------------------------------------
# launches


def test_nobody_waits_for_the_device_between_records(double_with_kernels):
    trainer = Persistent(job(NETS["tanh with L2"], 13))
    costs = double_with_kernels.empty(5, np.float64)
    device_double.Log.synchronizations = device_double.Log.launches = 0
    for record in range(5):
        trainer.advance([0.3] * 10, costs[record, ...])
    assert device_double.Log.launches == 5
    assert device_double.Log.synchronizations == 0


def test_a_cost_is_only_written_where_it_is_wanted(double_with_kernels):
    trainer = Persistent(job(NETS["relu"], 13))
    cost = double_with_kernels.asarray(np.array(7.0))
    trainer.advance([0.3], None)
    assert float(cost) == 7
    trainer.advance([0.3], cost)
    assert 0 < float(cost) < 2


def test_long_launches_are_split_and_few_of_them_are_queued(double_with_kernels, monkeypatch):
    whole = trained(Persistent(job(NETS["tanh with L2"], 13)), [0.3] * 20, 20)
    trainer = Persistent(job(NETS["tanh with L2"], 13))
    monkeypatch.setattr(persistent, "LONGEST_LAUNCH", 3.5 * trainer.partition.seconds)
    device_double.Log.synchronizations = device_double.Log.launches = 0
    trainer.advance([0.3] * 20, double_with_kernels.empty((), np.float64))
    assert device_double.Log.launches == 7  # of 3 steps, and 2 in the end
    assert 1 <= device_double.Log.synchronizations <= 3
    np.testing.assert_array_equal(to_host(trainer.parameters().flat), whole[1])


@pytest.mark.usefixtures("double_with_kernels")
def test_a_launch_that_does_not_fit_on_the_device_is_refused():
    of = job(NETS["relu"], 40)
    trainer = Persistent(of, shared_out(of, 1, threads=512))
    with pytest.raises(Exception, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
        trainer.advance([0.3], None)


# --------------------------------------------------------------------------------------------
# what is used, what is refused


@pytest.mark.usefixtures("device")
def test_fit_trains_with_it():
    net, (X, Y), watched = (
        NETS["tanh with L2"],
        *(data(NETS["tanh with L2"], m, m) for m in (13, 7)),
    )
    options = {"epochs": 9, "record_every": 4, "learning_rate": 0.3, "optimizer": "momentum"}
    first = net.init("he", seed=3, dtype="float64")
    params, history = accelnn.fit(
        net,
        first,
        *map(to_device, (X, Y)),
        solver="gram-jitted",
        validation=tuple(map(to_device, watched)),
        **options,
    )
    with accelnn.use("numpy"):
        expected, same = accelnn.fit(
            net, net.init("he", seed=3), X, Y, solver="direct", validation=watched, **options
        )
    np.testing.assert_allclose(to_host(params.flat), expected.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-11)
    np.testing.assert_allclose(history.validation_costs, same.validation_costs, rtol=1e-11)
    assert history.final_cost == pytest.approx(same.final_cost, rel=1e-11)
    assert (history.solver, history.backend) == ("gram-jitted", "cupy")
    assert history.compile_seconds >= 0


@pytest.mark.usefixtures("device")
def test_patience_returns_what_it_had_at_the_lowest_cost():
    net = Network([20, 6, 1], hidden="tanh", output="linear")
    random = np.random.default_rng(5)
    w, X, X_v = random.normal(size=(1, 20)), *random.normal(size=(2, 20, 20))
    Y, Y_v = (0.3 * (w @ x + 4 * random.normal(size=(1, 20))) for x in (X, X_v))
    X, Y, X_v, Y_v = map(to_device, (X, Y, X_v, Y_v))
    params, history = accelnn.fit(
        net,
        net.init("normal", scale=0.1, seed=3, dtype="float64"),
        X,
        Y,
        solver="gram-jitted",
        validation=(X_v, Y_v),
        patience=2,
        epochs=120,
        record_every=5,
        learning_rate=0.05,
    )
    assert "patience" in history.stopped
    assert net.cost(params, X_v, Y_v) == pytest.approx(min(history.validation_costs), rel=1e-11)


@pytest.mark.usefixtures("double_with_kernels")
@pytest.mark.parametrize(
    ("change", "reason"),
    [({"batch_size": 4}, "full batches"), ({"optimizer": Adam()}, "adam is not linear")],
)
def test_what_is_not_sample_space_is_refused(change, reason):
    of = job(NETS["relu"], 13)
    assert persistent.why_not(of) is None
    for name, value in change.items():
        setattr(of, name, value)
    assert reason in persistent.why_not(of)


@pytest.mark.usefixtures("double_with_kernels")
def test_what_does_not_fit_in_shared_memory_is_refused_with_both_sizes(monkeypatch):
    net = Network([30, 60, 60, 1])
    few = Limits(processors=4, shared=20 * 1024)
    monkeypatch.setattr(Limits, "of_device", lambda: few)
    with pytest.raises(ValueError, match="a block needs .. KB .* this GPU has 20 KB"):
        accelnn.fit(
            net,
            net.init("he"),
            *map(to_device, data(net, 13, 0)),
            solver="gram-jitted",
            epochs=1,
            learning_rate=0.1,
        )


@pytest.mark.usefixtures("double")
def test_a_cupy_without_kernels_is_refused():
    assert "RawModule" in persistent.why_not(job(NETS["relu"], 13))


# --------------------------------------------------------------------------------------------
# how blocks share the work

shapes = st.builds(
    Shape,
    layers=st.lists(st.integers(1, 80), min_size=1, max_size=4).map(tuple),
    m=st.integers(1, 6000),
    momentum=st.booleans(),
    itemsize=st.sampled_from([4, 8]),
)


@settings(max_examples=60, deadline=None)
@given(shape=shapes, processors=st.integers(1, 140), shared=st.integers(10_000, 232_448))
def test_a_schedule_fits_the_device_and_leaves_nobody_without_work(shape, processors, shared):
    limits = Limits(processors, shared)
    for one in partitions(shape, limits):
        assert one.shared <= shared
        assert one.blocks <= processors
        assert (one.blocks - 1) * one.width < shape.m <= one.blocks * one.width
        assert one.rows == shape.layers[0] or (one.rows and one.rows % persistent.TILE == 0)
        assert 2 * persistent.WARP <= one.threads <= 512
        assert 0 < one.seconds < math.inf


@settings(max_examples=60, deadline=None)
@given(shape=shapes, processors=st.integers(1, 140), shared=st.integers(10_000, 232_448))
def test_what_is_refused_needs_more_than_there_is(shape, processors, shared):
    limits = Limits(processors, shared)
    if partition(shape, limits) is None:
        assert persistent.least_shared(shape, limits) > shared


@pytest.mark.parametrize(
    ("layers", "m", "itemsize"),
    [((1,), 209, 4), ((7, 1), 209, 4), ((20, 7, 5, 1), 209, 4), ((7, 1), 209, 8)],
)
def test_the_cats_are_shared_by_many_blocks_that_have_all_they_need(layers, m, itemsize):
    one = partition(Shape(layers, m, False, itemsize), H200)
    assert 10 <= one.blocks <= 132
    assert (one.rows, one.held) == (layers[0], True)
    assert one.seconds < 4e-6


def test_few_upper_parameters_are_added_up_by_all_blocks_at_once():
    assert not partition(Shape((7, 1), 209, False, 4), H200).in_shares


def test_many_upper_parameters_are_added_up_in_shares():
    assert partition(Shape((60, 60, 10), 500, False, 4), H200).in_shares


def test_columns_of_G_stay_in_the_cache_where_they_do_not_fit_in_shared_memory():
    one = partition(Shape((7, 1), 6000, False, 4), H200)
    assert not one.held
    assert one.rows == 7


# --------------------------------------------------------------------------------------------
# the real thing


@pytest.mark.gpu
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures_of_the_real_cats_come_from_one_launch_a_record(real_data, name):
    recipe, cats = RECIPES[name], datasets.load_cats(real_data, dtype="float64")
    with accelnn.use("cupy"):
        params, history = accelnn.fit(
            recipe.net,
            recipe.first_weights("float64"),
            *map(to_device, (cats.X_train, cats.Y_train)),
            epochs=recipe.epochs,
            learning_rate=recipe.learning_rate,
            record_every=recipe.epochs - 1,
            solver="gram-jitted",
        )
        X_test = to_device(cats.X_test)
        found = accuracy(to_host(recipe.net.predict(params, X_test)), cats.Y_test)
    before_last, final, _, test = PUBLISHED[name]
    assert history.costs[-1] == pytest.approx(before_last, abs=1e-9)
    assert history.final_cost == pytest.approx(final, abs=1e-9)
    assert found == pytest.approx(test)


@pytest.mark.gpu
@pytest.mark.parametrize("m", [209, 1000, 5000])
def test_large_trainings_are_those_of_gram(m):
    """Where many blocks run at once, and where G is not in shared memory."""
    with accelnn.use("cupy"):
        net = Network([2000, 20, 7, 1])
        check_same(Persistent(job(net, m)), Gram(job(net, m)), 1e-9, (0.01,) * 50)
