"""Captured steps, on the device double with kernels and a double of cuBLASLt: they are the direct
training whatever order the launches of a graph take, and nothing waits in between."""

import functools
import gc
import importlib.util
import itertools
import sys
from dataclasses import replace

import numpy as np
import pytest
from doubles import cublaslt as cublaslt_double
from doubles import device as device_double
from doubles import graphs as graphs_double
from doubles import host_cuda
from helpers import trainings
from helpers.trainings import BATCHES, NETS, OPTIMIZERS, M, check_same, data, synchronizations

import accelnn
from accelnn import Network
from accelnn.backend import to_device, to_host
from accelnn.kernels.gpu import cublaslt
from accelnn.kernels.gpu.cublaslt import Product, Unsupported
from accelnn.optimizers import SGD, inverse_decay
from accelnn.solvers import captured
from accelnn.solvers.job import Job

pytestmark = pytest.mark.slow

DEEP = Network([5, 9, 8, 7, 3], ("relu", "sigmoid", "leaky_relu"), output="softmax", l2=0.3)


@pytest.fixture(autouse=True)
def no_warnings_yet(monkeypatch):
    monkeypatch.setattr(captured, "_warned", set())


captures = pytest.mark.usefixtures("captures")  # on the double, and on a GPU
on_double = pytest.mark.usefixtures("double_with_cublaslt")
optimizers = pytest.mark.parametrize("optimizer", OPTIMIZERS)
both = functools.partial(trainings.both, solver="jitted", learning_rate=0.2)


def install(monkeypatch, epilogues):
    """A double of cuBLASLt with these epilogues only."""
    return cublaslt_double.install(monkeypatch, device_double.enqueue, epilogues=epilogues)


def epilogues(lt):
    """Those of the products that were called."""
    return {epilogue for _, epilogue in lt.calls}


def training(net=DEEP, m=20, **options):
    """A captured training in float32."""
    X, Y = (to_device(array, "float32") for array in data(net, m))
    params = net.init("he", dtype="float32")
    return captured.Captured(Job(net, params, X, Y, SGD(), **options))


# --------------------------------------------------------------------------------------------
# the same training as the direct one


@captures
@pytest.mark.parametrize("batch_size", [None, 8])
def test_captured_steps_are_the_same_training(batch_size):
    for name, net in NETS.items():
        check_same(both(net, batch_size=batch_size), variant=name)


@captures
@optimizers
def test_they_are_with_every_optimizer_on_batches_of_any_size(optimizer):
    for (name, batch_size), l2 in itertools.product(BATCHES.items(), [0.0, 0.4]):
        options = {"optimizer": OPTIMIZERS[optimizer], "learning_rate": 0.02}
        pair = both(replace(DEEP, l2=l2), batch_size=batch_size, **options)
        check_same(pair, variant=(name, l2))


@captures
def test_between_one_and_two_batches_no_trial_gathers_beyond_the_examples():
    """The trial of the short batch counts a step: the next trial must not gather the second
    batch, which is beyond the order of the 53 examples."""
    for batch_size in (30, 40, 52):
        check_same(both(DEEP, batch_size=batch_size, learning_rate=0.02), variant=batch_size)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_relu_in_the_products_is_the_same_training(double_with_cublaslt, monkeypatch, dtype):
    """float64 has no such products; without the epilogues float32 has none either."""
    net = Network([6, 140, 9, 3], output="softmax", l2=0.1)
    tolerance = 1e-11 if dtype == "float64" else 1e-4
    with_relu = {"DEFAULT", "RELU_AUX_BIAS", "DRELU"}
    expected = {"DEFAULT"} if dtype == "float64" else with_relu
    train = functools.partial(both, net, dtype=dtype, learning_rate=0.05)
    for batch_size in (None, 8):
        double_with_cublaslt.lt.calls.clear()
        check_same(train(batch_size=batch_size), tolerance)
        assert epilogues(double_with_cublaslt.lt) == expected
    without = install(monkeypatch, [cublaslt_double.Epilogue.DEFAULT])
    check_same(train(batch_size=8), tolerance)
    check_same(train(), tolerance)
    assert epilogues(without) == {"DEFAULT"}


@on_double
def test_relu_is_in_the_products_of_both_directions_or_of_none(monkeypatch):
    lt = install(monkeypatch, [*cublaslt_double.Epilogue][:2])  # not its derivative
    check_same(both(Network([6, 9, 8, 3], output="softmax"), dtype="float32"), 1e-4)
    assert epilogues(lt) == {"DEFAULT"}


@captures
@pytest.mark.parametrize("keep_prob", [0.7, (0.6, 1.0, 0.8)])
def test_dropout_draws_the_masks_of_the_direct_training(keep_prob):
    net = replace(DEEP, keep_prob=keep_prob)
    for batch_size in (None, 8):
        check_same(both(net, batch_size=batch_size, seed=2**33 + 5))
        (first, _), _ = both(net, batch_size=batch_size, seed=1)
        (other, _), _ = both(net, batch_size=batch_size, seed=2)
        assert float(abs(first.flat - other.flat).max()) > 1e-3


@captures
@optimizers
def test_changing_rates_and_callbacks_between_epochs_do_not_matter(optimizer):
    for batch_size in (None, 8):
        options = {"optimizer": OPTIMIZERS[optimizer], "batch_size": batch_size}
        check_same(both(DEEP, learning_rate=inverse_decay(0.05, 0.3), **options))
        check_same(both(DEEP, record_every=3, callbacks=[lambda _now: False], **options))


@captures
@pytest.mark.parametrize("planned", [1, 2, 1000])
def test_it_does_not_matter_how_many_epochs_are_planned_at_a_time(monkeypatch, planned):
    monkeypatch.setattr(captured, "PLANNED", planned)
    for record_every in (1, 3, 100):
        check_same(both(DEEP, epochs=8, record_every=record_every, optimizer="adam"))


@on_double
@pytest.mark.parametrize("seed", range(5))
def test_the_order_of_concurrent_launches_does_not_matter(monkeypatch, seed):
    """The launches are those of a graph, and the threads of each launch are shuffled too."""
    graphs_double.order.seed(seed)
    monkeypatch.setattr(host_cuda, "seed", seed)
    names = ["relu", "dropout by layer", "logistic regression with L2"]
    for name, batch_size in itertools.product(names, [None, 8]):
        check_same(both(NETS[name], batch_size=batch_size, dtype="float32"), 2e-4, name)


@captures
def test_few_examples_and_many_are_trained_on():
    others = Network([3, 40, 40], output="linear")
    for m, net in itertools.product([1, 2, 200], [NETS["one unit"], NETS["tanh with L2"], others]):
        check_same(both(net, m=m), variant=m)


VIEWS = {
    "F": lambda array: to_device(array.T.copy()).T,
    "every other row": lambda array: to_device(np.repeat(array, 2, axis=0))[::2],
    "every other column": lambda array: to_device(np.repeat(array, 2, axis=1))[:, ::2],
    "reversed": lambda array: to_device(array[:, ::-1].copy())[:, ::-1],
}


@captures
def test_views_of_any_layout_are_trained_on_as_their_copies():
    net = Network([6, 5, 2], hidden="tanh")
    arrays = data(net, 20)
    for (layout, view), batch_size in itertools.product(VIEWS.items(), [None, 8]):
        options = {"epochs": 3, "learning_rate": 0.3, "solver": "jitted", "batch_size": batch_size}
        (params, history), (expected, same) = (
            accelnn.fit(net, net.init("he", dtype="float64"), *map(move, arrays), **options)
            for move in (view, to_device)
        )
        close = {"rtol": 1e-12, "err_msg": layout}
        np.testing.assert_allclose(to_host(params.flat), to_host(expected.flat), **close)
        np.testing.assert_allclose(history.costs, same.costs, **close)


@captures
@pytest.mark.parametrize("batch_size", [None, 8])
def test_the_arrays_given_are_not_changed_and_no_epochs_return_the_parameters_given(batch_size):
    """The set-up's trials leave no trace, not even in Adam's moments."""
    X, Y = map(to_device, data(DEEP, 20))
    params = DEEP.init("he", dtype="float64")
    before = [to_host(array).copy() for array in (params.flat, X, Y)]
    options = {"learning_rate": 0.1, "solver": "jitted", "optimizer": "adam"}
    for epochs in (3, 0):
        trained, history = accelnn.fit(
            DEEP, params, X, Y, epochs=epochs, batch_size=batch_size, **options
        )
        for array, expected in zip((params.flat, X, Y), before, strict=True):
            np.testing.assert_array_equal(to_host(array), expected)
    np.testing.assert_array_equal(to_host(trained.flat), to_host(params.flat))
    assert history.costs == []


@captures
@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_large_logits_do_not_overflow(output):
    for outputs in (2, 7, 70):
        net = Network([5, outputs], output=output)
        X, Y = map(to_device, data(net, 20))
        params = net.init("normal", scale=1e4, dtype="float64")
        options = {"epochs": 2, "learning_rate": 1e-3, "record_every": 1}
        (_, history), (_, direct) = (
            accelnn.fit(net, params, X, Y, solver=solver, **options)
            for solver in ("jitted", "direct")
        )
        np.testing.assert_allclose(history.costs, direct.costs, rtol=1e-10)
        assert min(history.costs) > 1e3


@captures
def test_divergence_is_warned_about():
    net = Network([5, 6, 2], hidden="tanh", output="linear")
    given = net.init("he", dtype="float64"), *map(to_device, data(net, 20))
    with pytest.warns(RuntimeWarning, match="diverged"):
        accelnn.fit(net, *given, epochs=200, learning_rate=1e6, solver="jitted")


# --------------------------------------------------------------------------------------------
# graphs and waiting


@on_double
def test_a_step_is_captured_once_for_each_size_of_a_batch():
    X, Y = map(to_device, data(DEEP, M))
    for batch_size, graphs, per_epoch in [(None, 1, 1), (8, 2, 7), (53, 1, 1), (64, 1, 1)]:
        made, launched = graphs_double.Graph.made, graphs_double.Graph.launched
        accelnn.fit(
            *(DEEP, DEEP.init("he"), X, Y),
            epochs=6,
            learning_rate=0.1,
            batch_size=batch_size,
            solver="jitted",
            callbacks=[lambda _now: False],
        )
        assert graphs_double.Graph.made - made == graphs
        assert graphs_double.Graph.launched - launched == 6 * per_epoch


@optimizers
def test_nothing_waits_for_the_device_between_records(double_with_cublaslt, optimizer):
    X, Y = (to_device(array, "float32") for array in data(DEEP, 20))
    for keep_prob, batch_size in itertools.product([1.0, 0.8], [None, 6]):
        net = replace(DEEP, keep_prob=keep_prob)
        options = {"optimizer": OPTIMIZERS[optimizer], "batch_size": batch_size, "validation": 0.2}
        counts = [
            synchronizations(double_with_cublaslt, net, X, Y, *lengths, solver="jitted", **options)
            for lengths in ((1, 1), (20, 1), (20, 7))
        ]
        assert counts[0] == counts[1] == counts[2], (keep_prob, batch_size)


@on_double
@pytest.mark.parametrize("relu", [True, False])
def test_a_step_is_few_launches(monkeypatch, relu):
    """Besides products: the batch, bias gradients, the output and the update; and, if relu is not
    part of the products, relu and its derivative."""
    if not relu:
        install(monkeypatch, [cublaslt_double.Epilogue.DEFAULT])
    trainer = training(Network([7, 5, 4, 3], output="softmax"), 24, batch_size=8)
    assert len(trainer.graphs[8].nodes) == (3 + 3 + 2) + (1 + 3 + 1 + 1) + (0 if relu else 4)


@on_double
def test_between_records_only_plans_and_orders_cross_to_the_device():
    for batch_size, uploads in ((None, 2), (6, 9 * 3)):
        trainer = training(batch_size=batch_size)
        before = device_double.Log.uploads
        trainer.advance([0.1] * 9, None)
        assert device_double.Log.uploads - before == uploads


def test_what_a_graph_uses_lives_as_long_as_the_training_and_no_longer(double_with_cublaslt):
    lt = double_with_cublaslt.lt
    trainer = training(batch_size=8)
    gc.collect()
    assert len(lt.objects) == 4 * 2 * (3 * 4 - 1)  # a descriptor and three layouts each
    trainer.advance([0.1], None)
    gc.disable()  # no cycle keeps the workspaces until a collection
    try:
        del trainer
        assert not lt.objects
    finally:
        gc.enable()


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
        callbacks=[lambda now: epochs.append(now.epoch)],
        solver="jitted",
    )
    assert epochs == history.epochs
    assert len(epochs) < 30
    assert history.final_validation_cost == pytest.approx(min(history.validation_costs), rel=1e-6)
    assert params.dtype == np.float32


# --------------------------------------------------------------------------------------------
# if steps cannot be captured

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
    """The device double without nvmath-python."""
    for name in ("nvmath", "nvmath.bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    cublaslt._handle.cache_clear()
    return double_with_kernels


@pytest.mark.usefixtures("no_nvmath")
def test_without_nvmath_python_a_warning_says_once_what_to_install():
    check_uncaptured(r"nvmath-python is not installed.*\[cuda13\]")


@on_double
def test_a_broken_nvmath_python_is_warned_about_too(monkeypatch):
    broken = RuntimeError("CUDA driver is not found (libcuda.so.1: cannot open)\nmore")
    monkeypatch.setattr(
        cublaslt_double.Double, "create", lambda _self: (_ for _ in ()).throw(broken)
    )
    check_uncaptured(r"does not answer.*RuntimeError: CUDA driver is not found \(libcuda.so.1")


@pytest.mark.usefixtures("double")
def test_a_cupy_without_kernels_is_warned_about_too():
    check_uncaptured("this CuPy compiles no kernels")


@pytest.mark.parametrize("within", ["the set-up", "the trial", "the capture"])
def test_if_the_capture_fails_the_training_starts_again_from_the_same_parameters(
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

    monkeypatch.setattr(captured.Captured, "__init__", none_left)
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
def test_a_product_is_that_of_its_matrices_in_any_order(random):
    for (n, k, m), *orders in itertools.product(SHAPES, ORDERS, ORDERS, ORDERS):
        a_order, b_order, out_order = (ORDERS[name] for name in orders)
        a, b = random.normal(size=(n, k)), random.normal(size=(k, m))
        out = out_order(np.full((n, m), np.nan))
        Product(a_order(a), b_order(b), out, "float64", workspace())()
        message = str((n, k, m, orders))
        np.testing.assert_allclose(to_host(out), a @ b, rtol=1e-13, err_msg=message)


@captures
def test_matrices_within_larger_ones_are_multiplied(random):
    """Columns with a gap after each, as activations have; the gap is not written."""
    for n in (3, 128, 130):
        W, A = random.normal(size=(n, 7)), random.normal(size=(4, 9))
        out = to_device(np.zeros((4, n + 3)))
        Product(to_device(W), to_device(A)[:, :7].T, out[:, :n].T, "float64", workspace())()
        np.testing.assert_allclose(to_host(out)[:, :n].T, W @ A[:, :7].T, rtol=1e-13)
        assert not to_host(out)[:, n:].any()


@pytest.mark.parametrize("n", [3, 128, 130])
def test_relu_and_its_derivative_are_part_of_products(captures, random, n):
    shapes = (n, 6), (5, 6), (n, 1), (5, 4), (4, n)
    arrays = [random.normal(size=shape).astype("float32") for shape in shapes]
    W, A, b, dZ_next, W_next = arrays
    moved = [*map(to_device, arrays)]
    out, dZ = (to_device(np.full((5, n), np.nan, "float32")) for _ in range(2))
    mask = cublaslt.relu_mask(captures.xp, n, 5)
    common = "float32", workspace()
    try:
        relu = Product(moved[0], moved[1].T, out.T, *common, bias=moved[2], mask=mask)
        derivative = Product(moved[4].T, moved[3].T, dZ.T, *common, mask=mask)
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
