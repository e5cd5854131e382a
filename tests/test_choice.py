"""The choice of a solver: what is estimated, when compiled code is worth its price, and why."""

import json
from pathlib import Path

import numpy as np
import pytest

import accelnn
from accelnn.optimizers import SGD, Adam
from accelnn.solvers import choice, jitted
from accelnn.solvers.choice import SOLVERS, estimate, pick
from accelnn.solvers.job import Job

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def job(layers, m, batch_size=None, optimizer=None, dtype="float64"):
    net = accelnn.Network(layers, "relu", "sigmoid")
    params = net.init("he", dtype=dtype)
    X, Y = np.zeros((layers[0], m), dtype), np.zeros((layers[-1], m), dtype)
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
