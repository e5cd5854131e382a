"""Sample space in one launch from record to record: the kernel of kernels/gpu/sample_space.cu
against `Gram`, run by the device double on the host and, if there is one, on a GPU."""

import numpy as np
import pytest
from doubles import device as device_double
from doubles import host_cuda
from helpers.published import PUBLISHED, check_published_figures
from helpers.trainings import data
from hypothesis import given, settings
from hypothesis import strategies as st

import accelnn
from accelnn import Adam, Momentum, Network, backend
from accelnn.backend import array_module, to_device, to_host
from accelnn.optimizers import inverse_decay, optimizer_of
from accelnn.solvers import persistent
from accelnn.solvers.direct import Direct
from accelnn.solvers.gram import Gram
from accelnn.solvers.job import Job
from accelnn.solvers.persistent import Limits, Partition, Persistent, fitted, partition

pytestmark = pytest.mark.slow

H200 = Limits(processors=132, shared=227 * 1024)
MOMENTUM = Momentum(beta=0.8)


@pytest.fixture(params=["kernels", pytest.param("cupy", marks=pytest.mark.gpu)])
def device(request):
    """The device double that runs kernels, then a GPU, chosen; gives the backend."""
    if request.param == "kernels":
        request.getfixturevalue("double_with_kernels")
    else:
        backend.use("cupy")
    return backend.current()


def job(net, m, optimizer="sgd", dtype="float64", seed=0):
    """On the chosen backend, with a validation set."""
    arrays = (*data(net, m), *data(net, 7, 1))
    X, Y, *validation = (to_device(array, dtype) for array in arrays)
    params = net.init("he", seed=3, dtype=dtype)
    return Job(net, params, X, Y, optimizer_of(optimizer), None, seed, tuple(validation))


def on_host(net, m, *options):
    """The vectorised training of the same job, in sample space."""
    with accelnn.use("numpy"):
        return Gram(job(net, m, *options))


def trained(trainer, rates, every):
    """Costs and validation costs of each record, and the parameters, on the host."""
    costs = array_module(trainer.job.X).empty((2, -(-len(rates) // every)), trainer.job.X.dtype)
    for record, start in enumerate(range(0, len(rates), every)):
        costs[1, record] = trainer.validation()[0]
        trainer.advance(rates[start : start + every], costs[0, record, ...])
    return to_host(costs), to_host(trainer.parameters().flat)


def check_same(trainer, reference, tolerance, rates=(0.3,) * 50, every=10, variant=""):
    (costs, flat), (expected_costs, expected) = (
        trained(one, list(rates), every) for one in (trainer, reference)
    )
    assert np.isfinite(expected_costs).all(), variant
    close = {"rtol": tolerance, "err_msg": str(variant)}
    np.testing.assert_allclose(costs, expected_costs, **close)
    np.testing.assert_allclose(flat, expected, atol=tolerance, **close)


def small_blocks(of, width, **options):
    """A partition of small blocks, all in shared memory unless `options` say otherwise."""
    work = partition(of)
    options = {
        "rows": work.layers[0],
        "G_shared": True,
        "threads": 64,
        "in_shares": False,
    } | options
    return work._replace(width=width, **options)


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
DEEP = NETS["three layers with L2"]
DROPOUT = Network(
    [30, 9, 8, 7, 6, 3],
    hidden=("relu", "sigmoid", "leaky_relu", "tanh"),
    output="softmax",
    keep_prob=(0.6, 0.7, 1.0, 0.8),
    l2=0.3,
)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum"])
@pytest.mark.usefixtures("device")
def test_it_is_the_training_of_gram(optimizer):
    for name, net in NETS.items():
        rates, options = (0.1,) * 50, (net, 13, optimizer)
        check_same(Persistent(job(*options)), on_host(*options), 1e-10, rates, variant=name)
    for name in ("relu", "tanh with L2", "three layers with L2"):
        options = NETS[name], 13, MOMENTUM if optimizer == "momentum" else "sgd", "float32"
        check_same(Persistent(job(*options)), on_host(*options), 1e-4, variant=(name, "float32"))


@pytest.mark.usefixtures("device")
def test_rates_may_change_from_epoch_to_epoch():
    decay = inverse_decay(0.5, 0.3)
    rates = [decay(epoch) for epoch in range(11)]
    for optimizer in ("sgd", MOMENTUM):
        options = NETS["tanh with L2"], 13, optimizer
        check_same(Persistent(job(*options)), on_host(*options), 1e-10, rates, every=4)


@pytest.mark.parametrize("m", [1, 2, 13, 40])
@pytest.mark.usefixtures("device")
def test_any_number_of_blocks_gives_the_same_training(m):
    """Blocks of 1 to 40 examples; the last has fewer if the division is not even."""
    of = job(DEEP, m, MOMENTUM)
    for width in {min(m, width) for width in (1, 3, 7, 13)}:
        trainer = Persistent(job(DEEP, m, MOMENTUM), small_blocks(of, width))
        reference = on_host(DEEP, m, MOMENTUM)
        check_same(trainer, reference, 1e-10, (0.3,) * 6, 4, width)


@pytest.mark.parametrize("width", [5, 40])
@pytest.mark.usefixtures("device")
def test_the_place_of_arrays_and_sums_does_not_change_the_training(width):
    for options in (
        {"G_shared": False},
        {"rows": 4},
        {"rows": 8, "G_shared": False},
        {"in_shares": True},
        {"in_shares": True, "rows": 4, "G_shared": False},
        {"threads": 128},
        {"threads": 512},
    ):
        of = job(DEEP, 40, MOMENTUM)
        trainer = Persistent(of, small_blocks(of, width, **options))
        check_same(trainer, on_host(DEEP, 40, MOMENTUM), 1e-10, (0.3,) * 6, 4, options)


@pytest.mark.usefixtures("double_with_kernels")
def test_the_blocks_of_an_h200_give_the_same_training(monkeypatch):
    options = Network([300, 7, 1]), 209, "sgd", "float32"
    monkeypatch.setitem(device_double.ATTRIBUTES, "MultiProcessorCount", H200.processors)
    trainer = Persistent(job(*options))
    assert trainer.partition == fitted(Partition((7, 1), 209, False, 4), H200)
    check_same(trainer, on_host(*options), 1e-4, (0.01,) * 5, 2)


@pytest.mark.usefixtures("device")
def test_dropout_draws_the_masks_of_the_direct_solver_and_follows_its_seed():
    for in_shares in (False, True):
        of = job(DROPOUT, 13, seed=5)
        trainer = Persistent(of, small_blocks(of, 4, in_shares=in_shares))
        check_same(trainer, Direct(job(DROPOUT, 13, seed=5)), 1e-10, (0.3,) * 9, every=4)
    one, same, other = (
        trained(Persistent(job(DROPOUT, 13, seed=seed)), [0.3] * 5, 2)[1] for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert not np.allclose(one, other, rtol=1e-3)


@pytest.mark.parametrize("in_shares", [False, True])
@pytest.mark.usefixtures("double_with_kernels")
def test_the_order_of_the_threads_does_not_change_a_bit(monkeypatch, in_shares):
    def run(seed):
        monkeypatch.setattr(host_cuda, "seed", seed)
        of = job(DEEP, 13, MOMENTUM, "float32")
        return trained(Persistent(of, small_blocks(of, 3, in_shares=in_shares)), [0.3] * 5, 3)

    costs, flat = run(0)
    for seed in (1, 2, 3):
        again, same = run(seed)
        np.testing.assert_array_equal(costs, again)
        np.testing.assert_array_equal(flat, same)


@pytest.mark.usefixtures("device")
def test_the_number_of_records_does_not_change_a_bit():
    (_, often), (_, once) = (
        trained(Persistent(job(DEEP, 13, MOMENTUM)), [0.3] * 9, every) for every in (1, 9)
    )
    np.testing.assert_array_equal(often, once)


@pytest.mark.usefixtures("device")
def test_a_diverging_training_does_not_end_finite():
    with np.errstate(over="ignore", invalid="ignore"):  # as in `fit`
        (costs, _), flat = trained(Persistent(job(NETS["leaky relu with L2"], 13)), [1e200] * 8, 2)
    assert np.isfinite(costs[0])
    assert not np.isfinite(costs[-1])
    assert np.isnan(flat).any()


# --------------------------------------------------------------------------------------------
# launches


def test_nothing_waits_for_the_device_between_records(double_with_kernels):
    trainer = Persistent(job(NETS["tanh with L2"], 13))
    costs = double_with_kernels.empty(5, np.float64)
    device_double.Log.synchronizations = device_double.Log.launches = 0
    for record in range(5):
        trainer.advance([0.3] * 10, costs[record, ...])
    assert device_double.Log.launches == 5
    assert device_double.Log.synchronizations == 0


def test_a_cost_is_only_written_if_asked_for(double_with_kernels):
    trainer = Persistent(job(NETS["relu"], 13))
    cost = double_with_kernels.asarray(np.array(7.0))
    trainer.advance([0.3], None)
    assert float(cost) == 7
    trainer.advance([0.3], cost)
    assert 0 < float(cost) < 2


def test_long_launches_are_split_and_few_of_them_are_queued(double_with_kernels, monkeypatch):
    whole = trained(Persistent(job(NETS["tanh with L2"], 13)), [0.3] * 20, 20)
    trainer = Persistent(job(NETS["tanh with L2"], 13))
    assert trainer.partition.multiply_adds == persistent.LEAST_STEP
    assert Partition((20, 1), 3000, False, 4).multiply_adds == 20 * 3000**2
    monkeypatch.setattr(persistent, "LONGEST_LAUNCH", int(3.5 * persistent.LEAST_STEP))
    device_double.Log.synchronizations = device_double.Log.launches = 0
    trainer.advance([0.3] * 20, double_with_kernels.empty((), np.float64))
    assert device_double.Log.launches == 7  # six of 3 steps, and one of 2
    assert 1 <= device_double.Log.synchronizations <= 3
    np.testing.assert_array_equal(to_host(trainer.parameters().flat), whole[1])


@pytest.mark.usefixtures("double_with_kernels")
def test_a_launch_that_does_not_fit_on_the_device_is_refused():
    of = job(NETS["relu"], 40)
    trainer = Persistent(of, small_blocks(of, 1, threads=512))
    with pytest.raises(Exception, match="COOPERATIVE_LAUNCH_TOO_LARGE"):
        trainer.advance([0.3], None)


# --------------------------------------------------------------------------------------------
# fit


@pytest.mark.usefixtures("device")
def test_fit_trains_with_it():
    net = NETS["tanh with L2"]
    options = {"epochs": 9, "record_every": 4, "learning_rate": 0.3, "optimizer": "momentum"}

    def fitted(solver):
        X, Y, *watched = map(to_device, (*data(net, 13, 1), *data(net, 7, 2)))
        first = net.init("he", seed=3, dtype="float64")
        return accelnn.fit(net, first, X, Y, solver=solver, validation=tuple(watched), **options)

    params, history = fitted("gram-jitted")
    with accelnn.use("numpy"):
        expected, same = fitted("direct")
    np.testing.assert_allclose(to_host(params.flat), expected.flat, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-11)
    np.testing.assert_allclose(history.validation_costs, same.validation_costs, rtol=1e-11)
    assert history.final_cost == pytest.approx(same.final_cost, rel=1e-11)
    assert (history.solver, history.backend) == ("gram-jitted", "cupy")
    assert history.compile_seconds >= 0


@pytest.mark.usefixtures("device")
def test_patience_returns_the_parameters_of_the_lowest_cost():
    net = Network([20, 6, 1], hidden="tanh", output="linear")
    random = np.random.default_rng(5)
    w, X, X_v = random.normal(size=(1, 20)), *random.normal(size=(2, 20, 20))
    Y, Y_v = (0.3 * (w @ x + 4 * random.normal(size=(1, 20))) for x in (X, X_v))
    X, Y, X_v, Y_v = map(to_device, (X, Y, X_v, Y_v))
    first = net.init("normal", scale=0.1, seed=3, dtype="float64")
    options = {"epochs": 120, "record_every": 5, "learning_rate": 0.05, "patience": 2}
    params, history = accelnn.fit(
        net, first, X, Y, solver="gram-jitted", validation=(X_v, Y_v), **options
    )
    assert "patience" in history.stopped
    assert net.cost(params, X_v, Y_v) == pytest.approx(min(history.validation_costs), rel=1e-11)


@pytest.mark.usefixtures("double_with_kernels")
def test_mini_batches_and_adam_are_refused():
    of = job(NETS["relu"], 13)
    assert Persistent.why_not(of) is None
    of.batch_size = 4
    assert "full batches" in Persistent.why_not(of)
    assert "adam is not linear" in Persistent.why_not(job(NETS["relu"], 13, Adam()))


@pytest.mark.usefixtures("double_with_kernels")
def test_a_net_too_large_for_shared_memory_is_refused_with_both_sizes(monkeypatch):
    net = Network([30, 60, 60, 1])
    few = Limits(processors=4, shared=20 * 1024)
    monkeypatch.setattr(Limits, "of_device", lambda: few)
    given = net.init("he"), *map(to_device, data(net, 13))
    with pytest.raises(ValueError, match="a block needs .. KB .* this GPU has 20 KB"):
        accelnn.fit(net, *given, solver="gram-jitted", epochs=1, learning_rate=0.1)


@pytest.mark.usefixtures("double")
def test_a_cupy_without_kernels_is_refused():
    assert "RawModule" in Persistent.why_not(job(NETS["relu"], 13))


# --------------------------------------------------------------------------------------------
# how blocks share the work

works = st.builds(
    Partition,
    layers=st.lists(st.integers(1, 80), min_size=1, max_size=4).map(tuple),
    m=st.integers(1, 6000),
    momentum=st.booleans(),
    itemsize=st.sampled_from([4, 8]),
    width=st.just(1),
    in_shares=st.just(False),
    rows=st.just(0),
    G_shared=st.just(False),
    threads=st.just(512),
)


@settings(max_examples=200, deadline=None)
@given(work=works, processors=st.integers(1, 140), shared=st.integers(10_000, 232_448))
def test_a_partition_fits_the_device_or_none_does_and_every_block_has_work(
    work, processors, shared
):
    one = fitted(work, Limits(processors, shared))
    assert one.blocks <= processors
    assert (one.blocks - 1) * one.width < work.m <= one.blocks * one.width
    assert one.rows == work.layers[0] or (one.rows and one.rows % persistent.TILE == 0)
    assert 2 * persistent.WARP <= one.threads <= 512
    if one.shared > shared:  # the narrowest blocks with the fewest rows of S
        rows = min(work.layers[0], persistent.TILE)
        for in_shares in (False, True):
            bare = one._replace(in_shares=in_shares, G_shared=False, rows=rows)
            assert bare.shared >= one.shared
        assert one.width == -(-work.m // processors)


def test_the_cats_are_shared_by_many_blocks_that_have_all_they_need():
    for layers, itemsize in [((1,), 4), ((7, 1), 4), ((20, 7, 5, 1), 4), ((7, 1), 8)]:
        one = fitted(Partition(layers, 209, False, itemsize), H200)
        assert one.blocks == 27
        assert (one.rows, one.G_shared, one.in_shares) == (layers[0], True, False)


def test_many_upper_parameters_are_added_up_in_shares():
    assert fitted(Partition((60, 60, 10), 500, False, 4), H200).in_shares


def test_columns_of_G_too_large_for_shared_memory_stay_outside():
    one = fitted(Partition((7, 1), 6000, False, 4), H200)
    assert not one.G_shared
    assert one.rows == 7


# --------------------------------------------------------------------------------------------
# on a GPU


@pytest.mark.gpu
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_figures_of_the_real_cats_come_from_one_launch_a_record(real_data, name):
    with accelnn.use("cupy"):
        check_published_figures(name, real_data, "gram-jitted")


@pytest.mark.gpu
def test_large_trainings_are_those_of_gram():
    """Many blocks run at once, and G is not in shared memory."""
    net = Network([2000, 20, 7, 1])
    with accelnn.use("cupy"):
        for m in (209, 1000, 5000):
            check_same(Persistent(job(net, m)), Gram(job(net, m)), 1e-9, (0.01,) * 50, variant=m)
