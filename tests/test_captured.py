"""Captured steps, on the device double with kernels and a double of cuBLASLt: they are the direct
training in whatever order a graph's launches may take, and nothing waits in between."""

import gc
import importlib.util
import sys
from dataclasses import replace

import numpy as np
import pytest
from doubles import cublaslt as cublaslt_double
from doubles import device as device_double
from doubles import graphs as graphs_double
from doubles import host_cuda
from test_solvers import NETS, OPTIMIZERS, M, data

import accelnn
from accelnn import Network
from accelnn.backend import to_device, to_host
from accelnn.kernels.gpu import cublaslt
from accelnn.kernels.gpu.cublaslt import Product, Unsupported
from accelnn.optimizers import SGD, inverse_decay
from accelnn.solvers import captured
from accelnn.solvers.job import Job

pytestmark = pytest.mark.slow

BATCHES = {"whole": None, "short last batch": 8, "no short batch": 53, "more than there are": 64}
DEEP = Network([5, 9, 8, 7, 3], ("relu", "sigmoid", "leaky_relu"), output="softmax", l2=0.3)


@pytest.fixture(autouse=True)
def nothing_told_yet(monkeypatch):
    monkeypatch.setattr(captured, "_told", set())


captures = pytest.mark.usefixtures("captures")  # on the double, and on a GPU
on_double = pytest.mark.usefixtures("double_with_cublaslt")


def both(net, m=M, dtype="float64", precision=None, **options):
    """(params, history) of the captured training, in this precision, and of the direct one."""
    given = net.init("he", seed=3, dtype=dtype), *map(to_device, data(net, m, dtype=dtype))
    watched = tuple(map(to_device, data(net, 7, seed=1, dtype=dtype)))
    options = {
        "epochs": 5,
        "record_every": 2,
        "learning_rate": 0.2,
        "validation": watched,
    } | options
    return [
        accelnn.fit(net, *given, solver=solver, precision=precision, **options)
        for solver, precision in (("jitted", precision), ("direct", None))
    ]


def check_same(pair, tolerance=1e-11):
    (params, history), (expected, direct) = pair
    assert (history.solver, direct.solver) == ("jitted", "direct")
    assert float(abs(expected.flat).max()) > 0.1
    np.testing.assert_allclose(
        to_host(params.flat), to_host(expected.flat), rtol=tolerance, atol=tolerance
    )
    for got, wanted in (
        (history.costs, direct.costs),
        (history.validation_costs, direct.validation_costs),
        (history.final_cost, direct.final_cost),
        (history.final_validation_cost, direct.final_validation_cost),
    ):
        assert np.all(np.isfinite(wanted))
        np.testing.assert_allclose(got, wanted, rtol=tolerance)
    assert history.epochs == direct.epochs


def install(monkeypatch, epilogues):
    """A double of cuBLASLt that has no others."""
    return cublaslt_double.install(monkeypatch, device_double.enqueue, epilogues=epilogues)


def epilogues(lt):
    """Those of the products that were called."""
    return {epilogue for _, epilogue in lt.calls}


# --------------------------------------------------------------------------------------------
# the same training as the direct one


@captures
@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_captured_steps_are_the_same_training(name, batch_size):
    check_same(both(NETS[name], batch_size=batch_size))


@captures
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("l2", [0.0, 0.4])
def test_they_are_with_every_optimizer_on_batches_of_any_size(optimizer, batch, l2):
    check_same(
        both(
            replace(DEEP, l2=l2),
            optimizer=OPTIMIZERS[optimizer],
            batch_size=BATCHES[batch],
            learning_rate=0.02,
        )
    )


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_relu_in_the_products_is_the_same_training(
    double_with_cublaslt, monkeypatch, dtype, batch_size
):
    """float64 has no such products; without the epilogues float32 has none either."""
    net = Network([6, 140, 9, 3], output="softmax", l2=0.1)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    pair = both(net, dtype=dtype, batch_size=batch_size, learning_rate=0.05)
    check_same(pair, tolerance)
    with_relu = {"DEFAULT", "RELU_AUX_BIAS", "DRELU"}
    assert epilogues(double_with_cublaslt.lt) == ({"DEFAULT"} if dtype == "float64" else with_relu)
    without = install(monkeypatch, [cublaslt_double.Epilogue.DEFAULT])
    check_same(both(net, dtype=dtype, batch_size=batch_size, learning_rate=0.05), tolerance)
    assert epilogues(without) == {"DEFAULT"}


@on_double
def test_relu_is_in_the_products_of_both_directions_or_of_none(monkeypatch):
    lt = install(monkeypatch, [*cublaslt_double.Epilogue][:2])  # not its derivative
    check_same(both(Network([6, 9, 8, 3], output="softmax"), dtype="float32"), 1e-4)
    assert epilogues(lt) == {"DEFAULT"}


@captures
@pytest.mark.parametrize("keep_prob", [0.7, (0.6, 1.0, 0.8)])
@pytest.mark.parametrize("batch_size", [None, 8])
def test_dropout_draws_the_masks_of_the_direct_training(keep_prob, batch_size):
    net = replace(DEEP, keep_prob=keep_prob)
    check_same(both(net, batch_size=batch_size, seed=2**33 + 5))
    (first, _), _ = both(net, batch_size=batch_size, seed=1)
    (other, _), _ = both(net, batch_size=batch_size, seed=2)
    assert float(abs(first.flat - other.flat).max()) > 1e-3


@captures
@pytest.mark.parametrize("batch_size", [None, 8])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_changing_learning_rate_is_the_same_training(batch_size, optimizer):
    rate = inverse_decay(0.05, 0.3)
    check_same(
        both(DEEP, learning_rate=rate, optimizer=OPTIMIZERS[optimizer], batch_size=batch_size)
    )


@captures
@pytest.mark.parametrize("record_every", [1, 3, 100])
@pytest.mark.parametrize("planned", [1, 2, 1000])
def test_it_does_not_matter_how_many_epochs_are_planned_at_a_time(
    monkeypatch, record_every, planned
):
    monkeypatch.setattr(captured, "PLANNED", planned)
    check_same(both(DEEP, epochs=8, record_every=record_every, optimizer="adam"))


@on_double
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("name", ["relu", "dropout by layer", "logistic regression with L2"])
def test_the_order_of_what_is_not_waited_for_does_not_matter(monkeypatch, seed, name):
    """Of the launches of a graph, and of the threads of each."""
    graphs_double.order.seed(seed)
    monkeypatch.setattr(host_cuda, "seed", seed)
    for batch_size in (None, 8):
        check_same(both(NETS[name], batch_size=batch_size, dtype="float32"), 2e-4)


@captures
@pytest.mark.parametrize("m", [1, 2, 200])
def test_few_examples_and_many_are_trained_on(m):
    for net in (NETS["one unit"], NETS["tanh with L2"], Network([3, 40, 40], output="linear")):
        check_same(both(net, m))


VIEWS = {
    "F": lambda array: to_device(array.T.copy()).T,
    "every other row": lambda array: to_device(np.repeat(array, 2, axis=0))[::2],
    "every other column": lambda array: to_device(np.repeat(array, 2, axis=1))[:, ::2],
    "reversed": lambda array: to_device(array[:, ::-1].copy())[:, ::-1],
}


@captures
@pytest.mark.parametrize("layout", VIEWS)
@pytest.mark.parametrize("batch_size", [None, 8])
def test_views_of_any_layout_are_trained_on_as_their_copies(layout, batch_size):
    net = Network([6, 5, 2], hidden="tanh")
    arrays = data(net, 20)
    options = {"epochs": 3, "learning_rate": 0.3, "solver": "jitted", "batch_size": batch_size}
    (params, history), (expected, same) = (
        accelnn.fit(net, net.init("he", dtype="float64"), *map(there, arrays), **options)
        for there in (VIEWS[layout], to_device)
    )
    np.testing.assert_allclose(to_host(params.flat), to_host(expected.flat), rtol=1e-12)
    np.testing.assert_allclose(history.costs, same.costs, rtol=1e-12)


@captures
def test_nothing_that_was_given_is_changed():
    X, Y = map(to_device, data(DEEP, 20))
    params = DEEP.init("he", dtype="float64")
    before = [to_host(array).copy() for array in (params.flat, X, Y)]
    for batch_size in (None, 8):
        accelnn.fit(
            *(DEEP, params, X, Y),
            epochs=3,
            learning_rate=0.1,
            solver="jitted",
            batch_size=batch_size,
        )
    for array, expected in zip((params.flat, X, Y), before, strict=True):
        np.testing.assert_array_equal(to_host(array), expected)


@captures
@pytest.mark.parametrize("batch_size", [None, 8])
def test_no_epochs_return_the_parameters_given(batch_size):
    """What the set-up tries out leaves no trace, in Adam's moments neither."""
    X, Y = map(to_device, data(DEEP, 20))
    params = DEEP.init("he", dtype="float64")
    options = {"learning_rate": 0.1, "solver": "jitted", "optimizer": "adam"}
    trained, history = accelnn.fit(DEEP, params, X, Y, epochs=0, batch_size=batch_size, **options)
    np.testing.assert_array_equal(to_host(trained.flat), to_host(params.flat))
    assert history.costs == []


@captures
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
@pytest.mark.parametrize("outputs", [2, 7, 70])
def test_large_logits_do_not_overflow(output, outputs):
    net = Network([5, outputs], output=output)
    X, Y = map(to_device, data(net, 20))
    params = net.init("normal", scale=1e4, dtype="float64")
    options = {"epochs": 2, "learning_rate": 1e-3, "record_every": 1}
    (_, history), (_, direct) = (
        accelnn.fit(net, params, X, Y, solver=solver, **options) for solver in ("jitted", "direct")
    )
    np.testing.assert_allclose(history.costs, direct.costs, rtol=1e-10)
    assert min(history.costs) > 1e3


@captures
def test_divergence_is_warned_about():
    net = Network([5, 6, 2], hidden="tanh", output="linear")
    X, Y = map(to_device, data(net, 20))
    with pytest.warns(RuntimeWarning, match="diverged"):
        accelnn.fit(
            *(net, net.init("he", dtype="float64"), X, Y),
            epochs=200,
            learning_rate=1e6,
            solver="jitted",
        )


# --------------------------------------------------------------------------------------------
# graphs, and what they wait for


@pytest.mark.parametrize(
    ("batch_size", "graphs", "per_epoch"), [(None, 1, 1), (8, 2, 7), (53, 1, 1), (64, 1, 1)]
)
@on_double
def test_a_step_is_captured_once_for_each_size_of_a_batch(batch_size, graphs, per_epoch):
    X, Y = map(to_device, data(DEEP, M))
    accelnn.fit(
        *(DEEP, DEEP.init("he"), X, Y),
        epochs=6,
        learning_rate=0.1,
        batch_size=batch_size,
        solver="jitted",
        callbacks=[lambda _now: False],
    )
    assert graphs_double.Graph.made == graphs
    assert graphs_double.Graph.launched == 6 * per_epoch


@pytest.mark.parametrize("keep_prob", [1.0, 0.8])
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [None, 6])
def test_nothing_waits_for_the_device_between_records(
    double_with_cublaslt, keep_prob, optimizer, batch_size
):
    log = double_with_cublaslt.counts
    net = replace(DEEP, keep_prob=keep_prob)
    X, Y = (to_device(array, "float32") for array in data(net, 20))
    counts = []
    for epochs, record_every in ((1, 1), (20, 1), (20, 7)):
        log.synchronizations = 0
        accelnn.fit(
            *(net, net.init(), X, Y),
            epochs=epochs,
            learning_rate=0.01,
            record_every=record_every,
            solver="jitted",
            optimizer=OPTIMIZERS[optimizer],
            batch_size=batch_size,
            validation=0.2,
        )
        counts.append(log.synchronizations)
    assert counts[0] == counts[1] == counts[2]


@on_double
@pytest.mark.parametrize("relu", [True, False])
def test_a_step_is_few_launches(monkeypatch, relu):
    """Beside products the batch, biases' gradients, the output and the update; and where relu is
    not part of the products, it and its derivative."""
    if not relu:
        install(monkeypatch, [cublaslt_double.Epilogue.DEFAULT])
    net = Network([7, 5, 4, 3], output="softmax")
    X, Y = (to_device(array, "float32") for array in data(net, 24))
    training = captured.Captured(Job(net, net.init(), X, Y, SGD(), batch_size=8))
    assert len(training.graphs[8].nodes) == (3 + 3 + 2) + (1 + 3 + 1 + 1) + (0 if relu else 4)


@on_double
@pytest.mark.parametrize("batch_size", [None, 6])
def test_between_records_only_plans_and_orders_cross_to_the_device(batch_size):
    X, Y = (to_device(array, "float32") for array in data(DEEP, 20))
    training = captured.Captured(Job(DEEP, DEEP.init(), X, Y, SGD(), batch_size=batch_size))
    before = device_double.Log.uploads
    training.advance([0.1] * 9, None)
    assert device_double.Log.uploads - before == (2 if batch_size is None else 9 * 3)


def test_what_a_graph_uses_lives_as_long_as_the_training_and_no_longer(double_with_cublaslt):
    lt = double_with_cublaslt.lt
    X, Y = (to_device(array, "float32") for array in data(DEEP, 20))
    training = captured.Captured(Job(DEEP, DEEP.init(), X, Y, SGD(), batch_size=8))
    gc.collect()
    assert len(lt.objects) == 4 * 2 * (3 * 4 - 1)  # a descriptor and three layouts each
    training.advance([0.1], None)
    del training
    gc.collect()
    assert not lt.objects


@captures
def test_patience_and_callbacks_work():
    epochs = []
    X, Y = map(to_device, data(DEEP, 20))
    wrong = to_device(np.roll(to_host(Y), 1, axis=0))
    params, history = accelnn.fit(
        *(DEEP, DEEP.init("he"), X, Y),
        epochs=30,
        learning_rate=0.3,
        batch_size=6,
        validation=(X, wrong),
        patience=4,
        callbacks=[lambda told: epochs.append(told.epoch)],
        solver="jitted",
    )
    assert epochs == history.epochs
    assert len(epochs) < 30
    assert history.final_validation_cost == pytest.approx(min(history.validation_costs), rel=1e-6)
    assert params.dtype == np.float32


@captures
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_callbacks_between_epochs_do_not_change_the_training(optimizer):
    for batch_size in (None, 8):
        options = {"optimizer": OPTIMIZERS[optimizer], "batch_size": batch_size, "epochs": 7}
        check_same(both(DEEP, record_every=3, callbacks=[lambda _now: False], **options))


# --------------------------------------------------------------------------------------------
# where steps cannot be captured

SMALL = Network([5, 4, 1], hidden="tanh")


def train_small(**options):
    X, Y = map(to_device, data(SMALL, 20))
    options = {"epochs": 3, "learning_rate": 0.1, "solver": "jitted"} | options
    return accelnn.fit(SMALL, SMALL.init("he", dtype="float32"), X, Y, **options)


def check_uncaptured(match):
    """One warning in all, and the direct training."""
    with pytest.warns(RuntimeWarning, match=match) as warned:
        params, history = train_small()
    assert len(warned) == 1
    train_small()  # does not warn again
    expected, direct = train_small(solver="direct")
    np.testing.assert_array_equal(to_host(params.flat), to_host(expected.flat))
    assert history.costs == direct.costs
    assert history.solver == "direct"
    assert "asked for: jitted; not captured: " in history.reason


@pytest.fixture
def no_nvmath(double_with_kernels, monkeypatch):
    """The device double, where nvmath-python is not installed."""
    for name in ("nvmath", "nvmath.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cublaslt._handle.cache_clear()
    return double_with_kernels


@pytest.mark.usefixtures("no_nvmath")
def test_without_nvmath_python_it_is_told_once_what_to_install():
    check_uncaptured(r"nvmath-python is not installed.*\[cuda13\]")


@on_double
def test_a_broken_nvmath_python_is_told_too(monkeypatch):
    broken = RuntimeError("CUDA driver is not found (libcuda.so.1: cannot open)\nmore")
    monkeypatch.setattr(
        cublaslt_double.Double, "create", lambda _self: (_ for _ in ()).throw(broken)
    )
    check_uncaptured(r"does not answer.*RuntimeError: CUDA driver is not found \(libcuda.so.1")


@pytest.mark.usefixtures("double")
def test_without_kernels_it_is_told_too():
    check_uncaptured("this CuPy compiles no kernels")


@pytest.mark.parametrize("within", ["the set-up", "the trial", "the capture"])
def test_where_the_capture_fails_the_training_begins_anew_from_the_same_parameters(
    double_with_cublaslt, monkeypatch, within
):
    lt = double_with_cublaslt.lt
    name = "matmul_algo_get_heuristic" if within == "the set-up" else "matmul"
    original = getattr(lt, name)

    def failing(*arguments):
        if within != "the capture" or graphs_double.captures:
            raise cublaslt_double.cuBLASLtError(14)
        return original(*arguments)

    monkeypatch.setattr(lt, name, failing)
    check_uncaptured("cuBLASLt")
    assert not graphs_double.captures


@on_double
def test_running_out_of_memory_is_no_reason_for_uncaptured_steps(monkeypatch):
    def none_left(*_arguments):
        raise device_double.OutOfMemoryError("Out of memory allocating 4,096 bytes")

    monkeypatch.setattr(captured, "Captured", none_left)
    with pytest.raises(MemoryError):
        train_small()


@pytest.mark.usefixtures("no_nvmath")
def test_auto_does_not_pick_what_cannot_be_captured():
    _, history = train_small(solver="auto", batch_size=8, epochs=2)
    assert history.solver == "direct"


# --------------------------------------------------------------------------------------------
# products

ORDERS = {"rows": to_device, "columns": lambda array: to_device(array.T.copy()).T}
SHAPES = [(5, 7, 3), (1, 7, 3), (5, 1, 3), (5, 7, 1), (1, 1, 1), (130, 2, 4)]


def workspace():
    return to_device(np.zeros(cublaslt.WORKSPACE, np.uint8))


@captures
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("a_order", ORDERS)
@pytest.mark.parametrize("b_order", ORDERS)
@pytest.mark.parametrize("out_order", ORDERS)
def test_a_product_is_that_of_its_matrices_however_they_lie(
    random, shape, a_order, b_order, out_order
):
    n, k, m = shape
    a, b = random.normal(size=(n, k)), random.normal(size=(k, m))
    out = ORDERS[out_order](np.full((n, m), np.nan))
    Product(ORDERS[a_order](a), ORDERS[b_order](b), out, "float64", workspace())()
    np.testing.assert_allclose(to_host(out), a @ b, rtol=1e-13)


@captures
@pytest.mark.parametrize("n", [3, 128, 130])
def test_matrices_within_larger_ones_are_multiplied(random, n):
    """Columns with a gap behind, as activations have it; the gap is left alone."""
    W, A = random.normal(size=(n, 7)), random.normal(size=(4, 9))
    out = to_device(np.zeros((4, n + 3)))
    Product(to_device(W), to_device(A)[:, :7].T, out[:, :n].T, "float64", workspace())()
    np.testing.assert_allclose(to_host(out)[:, :n].T, W @ A[:, :7].T, rtol=1e-13)
    assert not to_host(out)[:, n:].any()


@captures
@pytest.mark.parametrize("n", [3, 128, 130])
def test_relu_and_its_derivative_are_part_of_products(captures, random, n):
    shapes = (n, 6), (5, 6), (n, 1), (5, 4), (4, n)
    arrays = [random.normal(size=shape).astype("float32") for shape in shapes]
    W, A, b, dZ_next, W_next = arrays
    W_there, A_there, b_there, dZ_there, W_next_there = map(to_device, arrays)
    out, dZ = (to_device(np.full((5, n), np.nan, "float32")) for _ in range(2))
    mask = cublaslt.relu_mask(captures.xp, n, 5)
    common = "float32", workspace()
    try:
        relu = Product(W_there, A_there.T, out.T, *common, bias=b_there, mask=mask)
        derivative = Product(W_next_there.T, dZ_there.T, dZ.T, *common, mask=mask)
    except Unsupported as error:
        pytest.skip(str(error))
    relu()
    derivative()
    Z = W @ A.T + b
    np.testing.assert_allclose(to_host(out).T, np.maximum(Z, 0), rtol=1e-5, atol=1e-6)
    expected = W_next.T @ dZ_next.T * (Z > 0)
    np.testing.assert_allclose(to_host(dZ).T, expected, rtol=1e-5, atol=1e-6)


def test_products_refuse_what_cublaslt_cannot_multiply(double_with_cublaslt, random):
    xp, lt = double_with_cublaslt, double_with_cublaslt.lt
    array = to_device(random.normal(size=(8, 8)))
    scattered, out = array[::2, ::2], xp.empty_like(array)
    with pytest.raises(ValueError, match="contiguous rows or columns.*copy it"):
        Product(scattered, scattered, out[:4, :4], "float64", workspace())
    mask = cublaslt.relu_mask(xp, 8, 8)
    with pytest.raises(ValueError, match="output with contiguous columns"):
        Product(array, array, out, "float64", workspace(), mask=mask)
    with pytest.raises(Unsupported):  # float64 has no epilogues
        Product(array, array, out.T, "float64", workspace(), mask=mask)
    with pytest.raises(Unsupported):
        Product(array, array.astype("float32"), out, "float64", workspace())
    gc.collect()
    assert not lt.objects


@pytest.mark.skipif(importlib.util.find_spec("nvmath") is None, reason="no nvmath-python here")
def test_the_double_has_no_name_that_nvmath_python_does_not_have():
    from nvmath.bindings import cublas, cublasLt

    double = cublaslt_double.Double(None)
    names = [name for name in dir(double) if not name.startswith("_")]
    names = {*names} - {"calls", "epilogues", "objects"}
    assert len(names) > 15
    for name in names:
        assert hasattr(cublasLt, name)
    for kind in ("Epilogue", "MatmulDescAttribute", "MatmulPreferenceAttribute"):
        for member in getattr(cublaslt_double, kind):
            assert getattr(cublasLt, kind)[member.name] == member.value
    for kind in ("ComputeType", "Operation"):
        for member in getattr(cublaslt_double, kind):
            assert getattr(cublas, kind)[member.name] == member.value
    for kind, types in (
        ("matmul_desc", cublaslt_double.DESCRIPTION_TYPES),
        ("matmul_preference", cublaslt_double.MatmulPreferenceAttribute),
    ):
        mine, theirs = (
            getattr(module, f"get_{kind}_attribute_dtype") for module in (double, cublasLt)
        )
        for attribute in types:
            assert np.dtype(mine(attribute)) == np.dtype(theirs(attribute))
    assert cublaslt.HEURISTIC_RESULT.itemsize == cublasLt.matmul_heuristic_result_dtype.itemsize
