"""The choice of a solver: what is estimated, when compiled code is worth its price, and why."""

import json
from pathlib import Path

import numpy as np
import pytest

import accelnn
from accelnn.backend import to_device
from accelnn.optimizers import SGD, Adam
from accelnn.solvers import captured, choice, jitted, persistent
from accelnn.solvers.choice import SOLVERS, estimate, pick
from accelnn.solvers.job import Job

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def job(layers, m, batch_size=None, optimizer=None, dtype="float64"):
    net = accelnn.Network(layers, "relu", "sigmoid")
    params = net.init("he", dtype=dtype)
    X, Y = (to_device(np.zeros((n, m), dtype)) for n in (layers[0], layers[-1]))
    return Job(net, params, X, Y, optimizer or SGD(), batch_size)


@pytest.fixture
def price(monkeypatch):
    """Sets what compiled code costs, and forgets what it would have saved."""
    pytest.importorskip("numba")  # before Numba is imported, "auto" does not even ask the price
    monkeypatch.setattr(choice, "_missed", {np.dtype(kind): 0.0 for kind in ("f4", "f8")})

    def set_to(seconds):
        monkeypatch.setattr(jitted, "price", lambda _dtype: seconds)

    set_to(0.0)
    return set_to


@pytest.mark.parametrize(
    ("layers", "m", "batch_size", "expected"),
    [
        ([12288, 1], 209, None, "gram-jitted"),
        ([12288, 7, 1], 209, None, "gram-jitted"),
        ([12288, 20, 7, 5, 1], 209, None, "gram-jitted"),
        ([2, 4, 1], 400, None, "jitted"),
        ([20, 10, 1], 2000, None, "jitted"),  # more examples than features
        ([784, 256, 128, 10], 4000, 128, "jitted"),
    ],
)
def test_compiled_code_at_hand_is_used_and_sample_space_where_examples_are_few(
    price, layers, m, batch_size, expected
):
    price(0.0)
    assert pick("auto", job(layers, m, batch_size), epochs=500)[0] == expected


def test_a_few_epochs_do_not_pay_for_sample_space(price):
    price(0.0)
    assert not pick("auto", job([2000, 20, 1], 1000), epochs=1)[0].startswith("gram")
    assert pick("auto", job([2000, 20, 1], 1000), epochs=1000)[0].startswith("gram")


def test_adam_never_runs_in_sample_space(price):
    price(0.0)
    name, _ = pick("auto", job([12288, 7, 1], 209, optimizer=Adam()), epochs=3000)
    assert not name.startswith("gram")


def test_what_must_be_compiled_first_is_not_used_for_a_short_training(price):
    price(jitted.COMPILING)
    name, reason = pick("auto", job([2, 4, 1], 400), epochs=2000)
    assert name == "direct"
    assert "compiled" in reason


def test_a_long_training_earns_its_compilation(price):
    price(jitted.COMPILING)
    long = job([784, 256, 128, 10], 4000, batch_size=32)
    assert estimate(SOLVERS["direct"], long, 2000) > 2 * jitted.COMPILING
    assert pick("auto", long, epochs=2000)[0] == "jitted"


def test_many_short_trainings_earn_what_none_of_them_would_alone(price):
    price(jitted.LOADING)
    names = [pick("auto", job([2, 4, 1], 400), epochs=2000)[0] for _ in range(50)]
    assert names[0] == "direct"
    assert names[-1] == "jitted"
    assert names == sorted(names), "once bought, it is used"


def test_the_reason_names_what_each_solver_was_expected_to_take(price):
    price(0.0)
    _, reason = pick("auto", job([12288, 7, 1], 209), epochs=3000)
    for name in SOLVERS:
        assert f"{name} " in reason


def test_fit_says_in_its_history_what_was_picked_and_why(random):
    X, Y = random.standard_normal((3, 20)), np.ones((1, 20))
    net = accelnn.Network([3, 2, 1])
    _, history = accelnn.fit(net, net.init(), X, Y, epochs=3, learning_rate=0.1)
    assert history.solver in SOLVERS
    assert history.reason.startswith("expected: direct ")


def test_what_counts_as_shared_is_what_the_compiled_steps_share():
    from accelnn.kernels import training

    assert choice.SHARED == training.WORTH_SHARING


@pytest.mark.parametrize("smaller", ["m", "n_0", "epochs", "units"])
def test_a_larger_job_is_expected_to_take_longer(smaller):
    sizes = {"m": 300, "n_0": 500, "epochs": 100, "units": 20}

    def seconds(sizes):
        one = job([sizes["n_0"], sizes["units"], 1], sizes["m"])
        return {name: estimate(s, one, sizes["epochs"]) for name, s in SOLVERS.items()}

    large, small = seconds(sizes), seconds(sizes | {smaller: sizes[smaller] // 2})
    assert all(small[name] < large[name] for name in SOLVERS)


# --------------------------------------------------------------------------------------------
# on a GPU, where nothing was measured: the ways differ severalfold


@pytest.fixture
def capturable(double_with_kernels, monkeypatch):  # noqa: ARG001
    """A GPU of an H200's size, on which steps can be captured, unless another reason is given."""
    h200 = persistent.Limits(processors=132, shared=227 * 1024)
    monkeypatch.setattr(persistent.Limits, "of_device", lambda: h200)

    def says(reason):
        monkeypatch.setattr(captured, "uncapturable", lambda: reason)

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
    ([20, 10, 1], 20_000, None, SGD(), "jitted", "direct"),  # more than a block has room for
]


@pytest.mark.parametrize(
    ("layers", "m", "batch_size", "optimizer", "expected", "otherwise"), ON_A_GPU, ids=str
)
def test_a_gpu_keeps_a_training_of_few_examples_in_one_kernel_and_captures_steps_else(
    capturable, layers, m, batch_size, optimizer, expected, otherwise
):
    of = job(layers, m, batch_size, optimizer, dtype="float32")
    assert pick("auto", of, epochs=2000)[0] == expected
    capturable("nvmath-python is not installed")
    name, reason = pick("auto", of, epochs=2000)
    assert name == otherwise
    assert "jitted inf" not in reason


def test_products_of_another_precision_are_left_to_the_solvers_that_have_them(capturable):
    of = job([12288, 7, 1], 209, dtype="float32")
    of.precision = "tf32"
    assert pick("auto", of, epochs=2000)[0] == "jitted"
    with pytest.raises(ValueError, match="'gram-jitted' cannot do this: .* not tf32"):
        pick("gram-jitted", of, epochs=2000)
    of.precision = "bfloat16"
    capturable("nvmath-python is not installed")
    assert pick("auto", of, epochs=2000)[0] == "jitted"  # which says what to install
    for name in ("direct", "gram", "gram-jitted"):
        with pytest.raises(ValueError, match=f"'{name}' cannot do this: .*bfloat16"):
            pick(name, of, epochs=2000)


@pytest.mark.usefixtures("double")
def test_a_gpu_without_kernels_trains_vectorised():
    assert pick("auto", job([12288, 20, 1], 3000, dtype="float32"), epochs=3000)[0] == "gram"
    assert pick("auto", job([784, 20, 10], 500, 50), epochs=3)[0] == "direct"


@pytest.mark.usefixtures("double_with_kernels")
def test_a_gpu_does_not_wait_for_the_compiler_of_the_cpu(price):
    price(jitted.COMPILING)
    assert pick("auto", job([12288, 7, 1], 209, dtype="float32"), epochs=10)[0] == "gram-jitted"


@pytest.mark.usefixtures("capturable")
@pytest.mark.parametrize("smaller", ["m", "n_0", "epochs", "units"])
def test_a_larger_job_is_expected_to_take_longer_on_a_gpu(smaller):
    sizes = {"m": 3000, "n_0": 5000, "epochs": 100, "units": 20}

    def seconds(sizes):
        one = job([sizes["n_0"], sizes["units"], 1], sizes["m"], dtype="float32")
        return {name: estimate(s, one, sizes["epochs"]) for name, s in SOLVERS.items()}

    large, small = seconds(sizes), seconds(sizes | {smaller: sizes[smaller] // 2})
    assert all(0 < small[name] <= large[name] for name in SOLVERS)
    assert sum(small.values()) < sum(large.values())


# --------------------------------------------------------------------------------------------
# against what was measured


def growth_tables():
    """The measured growth tables: {(file, table, value): {solver: seconds}, with their jobs}."""
    rows = {}
    for path in sorted(RESULTS.glob("*.json")):
        for record in json.loads(path.read_text())["records"]:
            if record["case"].startswith("growth") and record["seconds"]:
                key = (path.stem, record["case"], record["size"]["value"])
                rows.setdefault(key, (record, {}))[1][record["implementation"]] = record["seconds"]
    return rows


@pytest.mark.usefixtures("price")
@pytest.mark.parametrize("key", growth_tables(), ids=str)
def test_the_choice_is_close_to_the_best_of_each_measured_growth_table(key):
    record, seconds = growth_tables()[key]
    examples = key[2] if record["size"]["along"] == "examples" else 209
    batch_size = record["batch_size"]
    one = job(record["size"]["layers"], 4000 if batch_size else examples, batch_size)
    one.params.flat = one.params.flat.astype(record["dtype"])
    picked, _ = pick("auto", one, record["epochs"])
    measured = {name: s for name, s in seconds.items() if name in SOLVERS}
    assert measured[picked] <= 1.25 * min(measured.values())  # of one noisy run
