"""The choice of a solver: by the job alone, and by `warm_up`."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

import accelnn
from accelnn.backend import array_module, to_device
from accelnn.optimizers import SGD, Adam
from accelnn.solvers import captured, jitted, persistent
from accelnn.solvers.choice import SOLVERS, pick
from accelnn.solvers.job import Job

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def job(layers, m, batch_size=None, optimizer=None, dtype="float64"):
    net = accelnn.Network(layers, "relu", "sigmoid")
    params = net.init("he", dtype=dtype)
    X, Y = (to_device(np.zeros((n, m), dtype)) for n in (layers[0], layers[-1]))
    return Job(net, params, X, Y, optimizer or SGD(), batch_size)


def warm_up(monkeypatch):
    """`accelnn.warm_up` without compiling."""
    monkeypatch.setattr(jitted, "load", lambda _dtype: 0.0)
    accelnn.warm_up()


JOBS = [
    # layers, examples, batch size, optimizer, epochs; warmed up, and not
    ([12288, 1], 209, None, SGD(), 2000, "gram-jitted", "gram"),
    ([12288, 7, 1], 209, None, SGD(), 3000, "gram-jitted", "gram"),
    ([12288, 20, 7, 5, 1], 209, None, SGD(), 3000, "gram-jitted", "gram"),
    ([12288, 7, 1], 1000, None, SGD(), 300, "gram", "gram"),  # a large product is BLAS's
    ([12288, 7, 1], 209, None, Adam(), 3000, "jitted", "jitted"),  # not linear, and long
    ([2, 4, 1], 400, None, SGD(), 2000, "jitted", "direct"),
    ([2, 4, 1], 400, None, SGD(), 10**6, "jitted", "jitted"),  # long
    ([20, 10, 1], 2000, None, SGD(), 500, "jitted", "direct"),  # more examples than features
    ([2000, 20, 1], 1000, None, SGD(), 1, "jitted", "direct"),  # too few steps to pay for G
    ([784, 256, 128, 10], 4000, 128, Adam(), 10, "jitted", "direct"),
    ([784, 256, 128, 10], 4000, 128, Adam(), 1000, "jitted", "jitted"),
]


@pytest.mark.parametrize("row", JOBS, ids=str)
def test_a_short_training_uses_compiled_code_only_if_it_is_warmed_up(monkeypatch, row):
    layers, m, batch_size, optimizer, epochs, warm, cold = row
    of = job(layers, m, batch_size, optimizer)
    assert pick("auto", of, epochs)[0] == cold
    warm_up(monkeypatch)
    assert pick("auto", of, epochs)[0] == warm


def test_warming_up_one_dtype_leaves_the_other_as_it_was(monkeypatch):
    monkeypatch.setattr(jitted, "load", lambda _dtype: 2.5)
    assert accelnn.warm_up("float32") == 2.5
    assert pick("auto", job([2, 4, 1], 400, dtype="float32"), 10)[0] == "jitted"
    assert pick("auto", job([2, 4, 1], 400), 10)[0] == "direct"
    with pytest.raises(ValueError, match="float32 or float64, got float16"):
        accelnn.warm_up("float16")


def test_fit_says_in_its_history_what_was_picked_and_why(random):
    X, Y = random.standard_normal((3, 20)), np.ones((1, 20))
    net = accelnn.Network([3, 2, 1])
    _, history = accelnn.fit(net, net.init(), X, Y, epochs=3, learning_rate=0.1)
    assert (history.solver, history.reason) == ("direct", "too short to load compiled code")


# --------------------------------------------------------------------------------------------
# optimizers that no kernel knows; test_unknown_activations has the activations


@dataclass(frozen=True, kw_only=True)
class SignDescent(SGD):
    """theta - rate · sign(gradient): not linear."""

    name: ClassVar[str] = "signdescent"
    linear: ClassVar[bool] = False

    def update(self, theta, gradient, moments, learning_rate, step):
        theta -= learning_rate * array_module(theta).sign(gradient)


@dataclass(frozen=True, kw_only=True)
class HalfSteps(SGD):
    """Gradient descent at half the learning rate: linear."""

    name: ClassVar[str] = "halfsteps"

    def update(self, theta, gradient, moments, learning_rate, step):
        theta -= gradient / 2


COMPILED = ["jitted", "gram-jitted"]


@pytest.fixture(params=["numpy", pytest.param("double_with_cublaslt", marks=pytest.mark.slow)])
def device(request):
    """The CPU, and the device double on which all kernels run."""
    if request.param != "numpy":
        request.getfixturevalue(request.param)
    return request.param


def check_own(device, monkeypatch, net, optimizer, expected, fault):
    """Compiled solvers refuse this `fault`; "auto" picks the expected one, which trains."""
    random = np.random.default_rng(1)
    X, Y = map(to_device, (random.normal(size=(40, 12)), random.random((1, 12)) < 0.5))
    given = net, net.init("scaled", dtype="float64"), X, Y
    options = {"optimizer": optimizer, "learning_rate": 0.02, "epochs": 50}
    for solver in COMPILED:
        with pytest.raises(ValueError, match=f"cannot do this: .*{fault}"):
            accelnn.fit(*given, solver=solver, **options)
    warm_up(monkeypatch)
    _, history = accelnn.fit(*given, **options)
    assert history.solver == expected, device
    assert history.final_cost < 0.9 * history.costs[0]
    return history


def test_an_optimizer_from_outside_works_at_once(device, monkeypatch):
    fault = "no optimizer '(signdescent|halfsteps)'|not linear"
    net = accelnn.Network([40, 5, 1], "tanh")
    check_own(device, monkeypatch, net, SignDescent(), "direct", fault)
    history = check_own(device, monkeypatch, net, HalfSteps(), "gram", fault)
    X, Y = map(to_device, (np.ones((40, 12)), np.ones((1, 12))))
    options = {"epochs": 5, "record_every": 1}
    params = net.init("scaled", dtype="float64")
    half, whole = (
        accelnn.fit(net, params, X, Y, optimizer=optimizer, learning_rate=rate, **options)[1]
        for optimizer, rate in ((HalfSteps(), 0.2), (SGD(), 0.1))
    )
    np.testing.assert_allclose(half.costs, whole.costs, rtol=1e-12)
    assert history.optimizer == "halfsteps"
    net = replace(net, l2=0.1)  # c of W[1] = c W + S Xᵀ shrinks by the optimizer's own rule
    check_own(device, monkeypatch, net, HalfSteps(), "gram", "no optimizer")
    options |= {"optimizer": HalfSteps(), "learning_rate": 0.2}
    gram, direct = (
        accelnn.fit(net, params, X, Y, solver=solver, **options) for solver in ("gram", "direct")
    )
    np.testing.assert_allclose(gram[1].costs, direct[1].costs, rtol=1e-12)


def test_a_class_with_a_known_name_is_not_taken_for_the_librarys_own(monkeypatch, device):
    monkeypatch.setattr(HalfSteps, "name", "sgd")
    net = accelnn.Network([40, 5, 1], "tanh")
    check_own(device, monkeypatch, net, HalfSteps(), "gram", "no optimizer 'sgd'")


# --------------------------------------------------------------------------------------------
# on a GPU, where nothing was measured: the solvers differ severalfold


@pytest.fixture
def capturable(double_with_kernels, monkeypatch):  # noqa: ARG001
    """A GPU of an H200's size, on which steps can be captured, unless another reason is given."""
    h200 = persistent.Limits(processors=132, shared=227 * 1024)
    monkeypatch.setattr(persistent.Limits, "of_device", lambda: h200)

    def says(reason):
        monkeypatch.setattr(captured, "why_not", lambda: reason)

    says(None)
    return says


ON_A_GPU = [
    # layers, examples, batch size, optimizer; captured steps, without them
    ([12288, 1], 209, None, SGD(), "gram-jitted", "gram-jitted"),
    ([12288, 7, 1], 209, None, SGD(), "gram-jitted", "gram-jitted"),
    ([12288, 20, 7, 5, 1], 209, None, SGD(), "gram-jitted", "gram-jitted"),
    ([2, 4, 1], 400, None, SGD(), "gram-jitted", "gram-jitted"),
    ([12288, 7, 1], 209, None, Adam(), "jitted", "direct"),
    ([784, 256, 128, 10], 4000, 128, SGD(), "jitted", "direct"),
    ([784, 256, 128, 10], 4000, 1024, Adam(), "jitted", "direct"),
    ([20, 10, 1], 20_000, None, SGD(), "jitted", "direct"),  # G is too large for the cache
]


@pytest.mark.parametrize("row", ON_A_GPU, ids=str)
def test_a_gpu_trains_few_examples_in_one_launch_and_captures_other_steps(capturable, row):
    layers, m, batch_size, optimizer, expected, otherwise = row
    of = job(layers, m, batch_size, optimizer, dtype="float32")
    assert pick("auto", of, epochs=2000)[0] == expected
    capturable("nvmath-python is not installed")
    name, reason = pick("auto", of, epochs=2000)
    assert name == otherwise
    assert "captured as" not in reason


def test_rounded_products_are_left_to_the_solvers_that_have_them(capturable):
    of = job([12288, 7, 1], 209, dtype="float32")
    of.precision = "tf32"
    assert pick("auto", of, epochs=2000)[0] == "jitted"
    with pytest.raises(ValueError, match="'gram-jitted' cannot do this: .* not tf32"):
        pick("gram-jitted", of, epochs=2000)
    of.precision = "bfloat16"
    capturable("nvmath-python is not installed")
    assert pick("auto", of, epochs=2000)[0] == "jitted"  # and names the package to install
    for name in ("direct", "gram", "gram-jitted"):
        with pytest.raises(ValueError, match=f"'{name}' cannot do this: .*bfloat16"):
            pick(name, of, epochs=2000)


@pytest.mark.usefixtures("double")
def test_a_gpu_without_kernels_trains_vectorised():
    assert pick("auto", job([12288, 20, 1], 3000, dtype="float32"), epochs=3000)[0] == "gram"
    assert pick("auto", job([784, 20, 10], 500, 50), epochs=3)[0] == "direct"


@pytest.mark.usefixtures("double_with_kernels")
def test_a_gpu_does_not_wait_for_the_compiler_of_the_cpu():
    assert pick("auto", job([12288, 7, 1], 209, dtype="float32"), epochs=10)[0] == "gram-jitted"


# --------------------------------------------------------------------------------------------
# against measurements


def growth_tables():
    """The measured growth tables: {(file, table, value): {solver: seconds}, with their jobs}."""
    rows = {}
    for path in sorted(RESULTS.glob("*.json")):
        for record in json.loads(path.read_text())["records"]:
            if record["case"].startswith("growth") and record["seconds"]:
                key = (path.stem, record["case"], record["size"]["value"])
                rows.setdefault(key, (record, {}))[1][record["implementation"]] = record["seconds"]
    return rows


def test_the_rule_is_right_at_25_of_26_measured_sizes(monkeypatch):
    warm_up(monkeypatch)
    right, tables = 0, growth_tables()
    for key, (record, seconds) in tables.items():
        examples = key[2] if record["size"]["along"] == "examples" else 209
        batch_size = record["batch_size"]
        one = job(record["size"]["layers"], 4000 if batch_size else examples, batch_size)
        picked, _ = pick("auto", one, record["epochs"])
        measured = {name: s for name, s in seconds.items() if name in SOLVERS}
        right += measured[picked] <= 1.05 * min(measured.values())
        assert measured[picked] <= 1.3 * min(measured.values()), key
    assert len(tables) == 26
    assert right >= 25
