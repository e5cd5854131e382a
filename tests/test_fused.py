"""The compiled steps: whole trainings on one thread and on several against the vectorised ones, and
how compiled code is looked up and prepared. test_operations.py and test_tiles.py have the parts."""

import importlib.util
import itertools
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numba
import numpy as np
import pytest
import threadpoolctl
from helpers.trainings import both, check_same
from hypothesis import given, settings
from hypothesis import strategies as st

from accelnn import Network
from accelnn.functions import ACTIVATIONS, OUTPUTS
from accelnn.kernels import jit
from accelnn.kernels.cpu import tiles
from accelnn.solvers import jitted, layout

pytestmark = pytest.mark.slow

DTYPES = ("float64", "float32")
# and their learning rates
OPTIMIZERS = {"sgd": 0.3, "momentum": 0.1, "heavyball": 0.02, "nesterov": 0.02, "adam": 0.02}
EXAMPLES = (1, 7, 8, 9, 33)  # less than a SIMD register, and whole ones and one more
NETS = {  # of each depth and each width
    "one layer": Network([3, 1], l2=0.1),
    "two layers": Network([17, 3, 2], hidden="tanh"),
    "three layers with L2": Network([70, 17, 1, 3], hidden=("tanh", "sigmoid"), l2=0.5),
    "four layers with dropout": Network(
        [3, 70, 17, 3, 4], hidden=("relu", "tanh", "leaky_relu"), keep_prob=(0.8, 1.0, 0.7), l2=0.1
    ),
}
BATCHES = {"whole": lambda _: None, "mini-batches": lambda m: min(m, 5 if m < 30 else 20)}


@pytest.fixture(autouse=True, scope="module")
def one_blas_thread():
    """If something else runs, BLAS's threads wait for one another: 30 times as long."""
    with threadpoolctl.threadpool_limits(1, user_api="blas"):
        yield


@pytest.fixture
def on_threads(monkeypatch):
    """A function that sets the number of threads of compiled steps."""

    def set_threads(count):
        monkeypatch.setattr("accelnn.solvers.threads.best_count", lambda *_: count)

    return set_threads


def check_training(net, m, solver="jitted", tolerance=1e-11, **options):
    """Its parameters and costs are those of the vectorised training."""
    rate = OPTIMIZERS[options["optimizer"]] / (10 if net.output == "poisson" else 1)
    options = {"epochs": 4, "learning_rate": rate} | options
    check_same(both(net, solver, m, **options), tolerance, (net, m, options))


# --------------------------------------------------------------------------------------------
# whole trainings


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_a_compiled_training_is_the_vectorised_one(on_threads, threads, optimizer):
    on_threads(threads)
    for net, output, m, batch in itertools.product(NETS.values(), OUTPUTS, EXAMPLES, BATCHES):
        last = 2 if output == "softmax" and net.layers[-1] == 1 else net.layers[-1]
        net = replace(net, layers=(*net.layers[:-1], last), output=output)
        check_training(net, m, optimizer=optimizer, batch_size=BATCHES[batch](m))


@pytest.mark.parametrize("threads", [1, 3])
def test_a_compiled_training_with_weights_is_the_vectorised_one(on_threads, threads):
    on_threads(threads)
    for net, m, batch in itertools.product(NETS.values(), EXAMPLES, BATCHES):
        weights = np.random.default_rng(m).integers(0, 4, m) + (np.arange(m) == 0)
        options = {"optimizer": "nesterov", "batch_size": BATCHES[batch](m), "weights": weights}
        check_training(net, m, **options)
        if batch == "whole":
            check_training(net, m, "gram-jitted", **options)


@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_a_training_in_float32_is_the_vectorised_one(on_threads, threads):
    on_threads(threads)
    for net, m, batch in itertools.product(NETS.values(), EXAMPLES, BATCHES):
        options = {"dtype": "float32", "batch_size": BATCHES[batch](m)}
        check_training(net, m, tolerance=2e-4, optimizer="momentum", **options)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "nesterov"])
@pytest.mark.parametrize("threads", [1, 2, 3, 5])
def test_a_training_in_sample_space_is_the_vectorised_one(on_threads, threads, optimizer):
    on_threads(threads)
    for net, m, dtype in itertools.product(NETS.values(), EXAMPLES, DTYPES):
        tolerance = {"float64": 1e-11, "float32": 2e-4}[dtype]
        check_training(net, m, "gram-jitted", tolerance, optimizer=optimizer, dtype=dtype)


@pytest.mark.parametrize("rows", [True, False])
@pytest.mark.parametrize("threads", [1, 3])
def test_portions_and_both_ways_to_the_gradient_are_the_same_training(
    on_threads, threads, rows, monkeypatch
):
    """Portions of one vector and of two; dW from transposed inputs, or as inner products."""
    on_threads(threads)
    monkeypatch.setattr(layout, "WIDE", 1 if rows else 10**9)
    monkeypatch.setattr(layout, "MANY", 10**9)
    monkeypatch.setattr(layout, "ACTIVATIONS", 1)
    for net, dtype, vectors, batch in itertools.product(NETS.values(), DTYPES, (1, 2), (None, 60)):
        monkeypatch.setattr(layout, "FEWEST", vectors * tiles.lanes(dtype))
        tolerance = {"float64": 1e-11, "float32": 2e-4}[dtype]
        options = {"optimizer": "momentum", "dtype": dtype}
        check_training(net, 101, tolerance=tolerance, batch_size=batch, **options)
        if batch is None:
            check_training(net, 101, "gram-jitted", tolerance, **options)


def test_portions_and_ways_to_the_gradient_are_what_these_tests_set(monkeypatch):
    ways, portions = set(), set()
    train = jitted._train

    def watched(layout, *arguments):
        ways.update(layout.layers["by_rows"].tolist())
        portions.add(int(layout.state["portion"][0]))
        return train(layout, *arguments)

    monkeypatch.setattr(jitted, "_train", watched)
    monkeypatch.setattr(layout, "ACTIVATIONS", 1)
    monkeypatch.setattr(layout, "FEWEST", tiles.lanes("float64"))
    for wide in (1, 10**9):
        ways.clear()
        monkeypatch.setattr(layout, "WIDE", wide)
        check_training(NETS["two layers"], 101, optimizer="sgd")
        assert ways == {int(wide == 1)}
    assert portions == {tiles.lanes("float64")}


@pytest.mark.parametrize("threads", [8])
def test_more_threads_than_cores_end_with_the_same_training(on_threads, threads):
    on_threads(threads)
    for batch_size, optimizer in itertools.product((None, 64), OPTIMIZERS):
        options = {"batch_size": batch_size, "optimizer": optimizer, "epochs": 10}
        check_training(NETS["four layers with dropout"], 200, **options)


layers = st.lists(st.integers(1, 40), min_size=2, max_size=5)


@settings(max_examples=40, deadline=None)
@given(data=st.data(), layers=layers, m=st.integers(1, 80), threads=st.integers(1, 5))
def test_a_training_of_any_size_is_the_vectorised_one(data, layers, m, threads):
    drawn = st.sampled_from
    # those that neither amplify rounding nor diverge
    hidden = tuple(data.draw(drawn(sorted({*ACTIVATIONS} - {"identity"}))) for _ in layers[2:])
    output = data.draw(drawn(sorted({*OUTPUTS} - {"absolute", "poisson"})))
    l2 = data.draw(drawn([0.0, 0.3]))
    layers[-1] = max(layers[-1], 2) if output == "softmax" else layers[-1]
    keep_prob = data.draw(drawn([1.0, 0.7]))
    options = {"optimizer": data.draw(drawn(["sgd", "momentum"])), "epochs": 3}
    rate = 1e-3 if output == "linear" else 0.02  # whose gradient has no bound
    options |= {"batch_size": data.draw(st.none() | st.integers(1, m)), "learning_rate": rate}
    net = Network(layers, hidden or "relu", output, l2, keep_prob)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("accelnn.solvers.threads.best_count", lambda *_: threads)
        patch.setattr(layout, "ACTIVATIONS", data.draw(drawn([1, 2**18])))
        patch.setattr(layout, "FEWEST", data.draw(drawn([1, 2, 8])) * tiles.lanes("float64"))
        patch.setattr(layout, "WIDE", data.draw(drawn([1, 64, 10**9])))
        check_training(net, m, **options)


# --------------------------------------------------------------------------------------------
# compiled code in memory and on disk


@pytest.fixture
def twice(tmp_path):
    """A function from a file of its own, freshly compiled by each call of the fixture."""
    path = tmp_path / "of_its_own.py"
    path.write_text("def twice(x):\n    return x + x\n")
    spec = importlib.util.spec_from_file_location("of_its_own", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda: jit.njit(module.twice)


def in_memory(function, arguments):
    return tuple(map(numba.typeof, arguments)) in function.signatures


def test_compiled_code_on_disk_is_found_without_a_call(twice):
    first, number = twice(), (1.0,)
    assert not in_memory(first, number)
    assert not jit.kept(first, number)
    assert jit.prepare(first, number) > 0
    assert in_memory(first, number)
    assert jit.kept(first, number)
    assert first(4.0) == 8.0

    another = twice()  # as in another process: on disk and not in memory
    assert not in_memory(another, number)
    assert jit.kept(another, number)
    jit.prepare(another, number)
    assert in_memory(another, number)
    assert sum(another.stats.cache_hits.values()) == 1


def test_a_training_runs_loaded_code_even_if_this_process_had_it_compiled():
    for dtype in DTYPES:
        jitted.load(dtype)
        stats = jit.train(np.dtype(dtype)).stats
        assert sum(stats.cache_hits.values()) == 1
        assert not stats.cache_misses


IN_BOTH_DTYPES = """
import sys, numpy as np, accelnn
accelnn.warm_up(*sys.argv[1:], progress=False)
net, random = accelnn.Network([300, 7, 1]), np.random.default_rng(0)
X, Y = random.random((300, 50)), np.ones((1, 50))
for dtype in sys.argv[1:]:
    first = net.init("he", dtype=dtype)
    costs = [
        accelnn.fit(net, first, X, Y, epochs=3, solver=solver, learning_rate=0.01)[1].costs
        for solver in ("direct", "jitted", "gram-jitted")
    ]
    np.testing.assert_allclose(costs[1:], [costs[0]] * 2, rtol=1e-5)
"""


@pytest.mark.parametrize("dtypes", [DTYPES, DTYPES[::-1]])
def test_compiled_code_of_both_dtypes_can_be_loaded_in_either_order(dtypes):
    """Each dtype is compiled by a process of its own, which could give two functions one symbol."""
    run = subprocess.run([sys.executable, "-c", IN_BOTH_DTYPES, *dtypes], check=False)
    assert run.returncode == 0


def test_code_for_other_types_is_not_found(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    for other in ((1,), (np.ones(2),), (np.float32(1),)):
        assert not in_memory(function, other)
        assert not jit.kept(function, other)


def test_prepared_code_is_not_compiled_again(twice):
    function = twice()
    jit.prepare(function, (1.0,))
    assert jit.prepare(function, (2.0,)) < 0.05
    function(3.0)
    assert len(function.signatures) == 1
    assert sum(function.stats.cache_misses.values()) == 1


def test_nothing_is_found_if_numba_changes_its_cache():
    assert not jit.kept(SimpleNamespace(), (1.0,))


def test_functions_compile_without_a_cache_on_disk(monkeypatch, twice):
    plain = numba.njit

    def nowhere(function, cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return plain(function, **options)

    monkeypatch.setattr(numba, "njit", nowhere)
    function = twice()
    jit.prepare(function, (1.0,))
    assert in_memory(function, (1.0,))
    assert not jit.kept(function, (1.0,))
    assert function(4.0) == 8.0
