"""The choice of a solver: by the job alone, and by `warm_up`."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import accelnn
from accelnn.backend import to_device
from accelnn.optimizers import SGD, Adam
from accelnn.solvers import captured, choice, jitted, persistent
from accelnn.solvers.choice import SOLVERS, pick
from accelnn.solvers.job import Job

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results"


def job(layers, m, batch_size=None, optimizer=None, dtype="float64"):
    net = accelnn.Network(layers, "relu", "sigmoid")
    params = net.init("he", dtype=dtype)
    X, Y = (to_device(np.zeros((n, m), dtype)) for n in (layers[0], layers[-1]))
    return Job(net, params, X, Y, optimizer or SGD(), batch_size)


@pytest.fixture(autouse=True)
def cold(monkeypatch):
    """Each test starts as a process does, without a `warm_up`."""
    monkeypatch.setattr(choice, "_warm", set())


@pytest.fixture
def warm(cold, monkeypatch):  # noqa: ARG001
    """`warm_up` without compiling."""
    monkeypatch.setattr(jitted, "load", lambda _dtype: 0.0)
    accelnn.warm_up()


JOBS = [
    # layers, examples, batch size, optimizer, epochs; warmed up, and not
    ([12288, 1], 209, None, SGD(), 2000, "gram-jitted", "gram"),
    ([12288, 7, 1], 209, None, SGD(), 3000, "gram-jitted", "gram"),
    ([12288, 20, 7, 5, 1], 209, None, SGD(), 3000, "gram-jitted", "gram"),
    ([12288, 7, 1], 1000, None, SGD(), 300, "gram", "gram"),  # a large product is BLAS's
    ([12288, 7, 1], 209, None, Adam(), 3000, "jitted", "direct"),  # not linear
    ([2, 4, 1], 400, None, SGD(), 2000, "jitted", "direct"),
    ([2, 4, 1], 400, None, SGD(), 10**6, "jitted", "jitted"),  # long
    ([20, 10, 1], 2000, None, SGD(), 500, "jitted", "direct"),  # more examples than features
    ([2000, 20, 1], 1000, None, SGD(), 1, "jitted", "direct"),  # too few to pay for G
    ([784, 256, 128, 10], 4000, 128, Adam(), 10, "jitted", "direct"),
    ([784, 256, 128, 10], 4000, 128, Adam(), 1000, "jitted", "jitted"),
]


@pytest.mark.usefixtures("warm")
@pytest.mark.parametrize(
    ("layers", "m", "batch_size", "optimizer", "epochs", "expected"),
    [row[:6] for row in JOBS],
    ids=str,
)
def test_compiled_code_that_is_ready_is_used(layers, m, batch_size, optimizer, epochs, expected):
    assert pick("auto", job(layers, m, batch_size, optimizer), epochs)[0] == expected


@pytest.mark.parametrize(
    ("layers", "m", "batch_size", "optimizer", "epochs", "expected"),
    [(*row[:5], row[6]) for row in JOBS],
    ids=str,
)
def test_otherwise_a_short_training_does_not_wait_for_it(
    layers, m, batch_size, optimizer, epochs, expected
):
    assert pick("auto", job(layers, m, batch_size, optimizer), epochs)[0] == expected


def test_warming_up_one_dtype_leaves_the_other_as_it_was(monkeypatch):
    monkeypatch.setattr(jitted, "load", lambda _dtype: 2.5)
    assert accelnn.warm_up("float32") == 2.5
    assert pick("auto", job([2, 4, 1], 400, dtype="float32"), 10)[0] == "jitted"
    assert pick("auto", job([2, 4, 1], 400), 10)[0] == "direct"
    with pytest.raises(ValueError, match="float32 or float64, got float16"):
        accelnn.warm_up("float16")


SAME_CALL = """
import sys
import accelnn
from accelnn import datasets
from accelnn.recipes import RECIPES

def planar(epochs, solver="auto"):
    recipe, data = RECIPES["planar"], datasets.flower()
    params, history = accelnn.fit(
        recipe.net, recipe.first_weights(), data.X_train, data.Y_train,
        epochs=epochs, learning_rate=1.2, solver=solver,
    )
    return params.flat.tobytes().hex(), history.costs

first = planar(300)
{before}
assert planar(300) == first, "another result in the same process"
sys.stdout.write(repr(first))
"""


def test_the_same_call_gives_the_same_bits_whatever_ran_before():
    outputs = [
        subprocess.run(
            [sys.executable, "-c", SAME_CALL.format(before=before)], stdout=subprocess.PIPE
        ).stdout
        for before in ("", "import numba", "[planar(50) for _ in range(20)]", "planar(5, 'gram')")
    ]
    assert len(outputs[0]) > 100
    assert set(outputs) == {outputs[0]}


def test_fit_says_in_its_history_what_was_picked_and_why(random):
    X, Y = random.standard_normal((3, 20)), np.ones((1, 20))
    net = accelnn.Network([3, 2, 1])
    _, history = accelnn.fit(net, net.init(), X, Y, epochs=3, learning_rate=0.1)
    assert (history.solver, history.reason) == ("direct", "too short to load compiled code")


# --------------------------------------------------------------------------------------------
# on a GPU, where nothing was measured: the ways differ severalfold


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
    assert "captured as" not in reason


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
def test_a_gpu_does_not_wait_for_the_compiler_of_the_cpu():
    assert pick("auto", job([12288, 7, 1], 209, dtype="float32"), epochs=10)[0] == "gram-jitted"


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


@pytest.mark.usefixtures("warm")
def test_the_rule_is_right_at_25_of_26_measured_sizes():
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
