"""The same call gives the same bits: again, in another process, and whatever ran before."""

import json
import subprocess
import sys
from itertools import product

import pytest

pytestmark = pytest.mark.slow

SOLVERS = {
    "direct": ["sgd", "momentum", "adam"],
    "jitted": ["sgd", "momentum", "adam"],
    "gram": ["sgd", "momentum"],
    "gram-jitted": ["sgd", "momentum"],
}
CASES = {
    f"{solver} {optimizer} {batch_size or 'full'} {dtype}": {
        "solver": solver,
        "optimizer": optimizer,
        "batch_size": batch_size,
        "dtype": dtype,
    }
    for solver, optimizers in SOLVERS.items()
    for optimizer, batch_size, dtype in product(optimizers, [None, 32], ["float64", "float32"])
    if not (batch_size and solver.startswith("gram"))
}

# Prints the digests of the results of the trainings named, in the order given. 150 examples of 200
# features: several threads may share them, and sample space is worth while.
SCRIPT = """
import hashlib, json, sys
import numpy as np
import accelnn
from accelnn import datasets

def digest(net, X, Y, *, dtype="float64", kind="scaled", **options):
    params = net.init(kind, dtype=dtype)
    params, history = accelnn.fit(net, params, X.astype(dtype), Y.astype(dtype), **options)
    results = np.concatenate([params.flat, history.costs, history.validation_costs])
    return history.solver, hashlib.sha256(results.tobytes()).hexdigest()

def trained(case):
    random = np.random.default_rng(0)
    X = random.normal(size=(200, 150))
    Y = accelnn.one_hot(random.integers(3, size=150), 3)
    net = accelnn.Network([200, 60, 30, 3], output="softmax", keep_prob=0.8, l2=0.1)
    options = {"epochs": 12, "learning_rate": 0.01, "record_every": 5, "validation": 0.2}
    return digest(net, X, Y, **options | case)

def planar(_):
    flower = datasets.flower()
    net = accelnn.Network([2, 4, 1], hidden="tanh")
    options = {"epochs": 10_000, "learning_rate": 1.2, "solver": "auto"}
    return digest(net, flower.X_train, flower.Y_train, kind="normal", **options)

def others(_):
    "A dozen trainings of other sizes by all solvers, with products and garbage in between."
    random, kept = np.random.default_rng(1), []
    for i in range(12):
        n, m, dtype = 5 + 37 * i, 20 + 23 * i, ["float32", "float64"][i % 2]
        X, Y = random.normal(size=(n, m)), random.random((1, m)) < 0.5
        solver = ["direct", "jitted", "gram", "gram-jitted"][i % 4]
        batch_size = 16 if solver in ("direct", "jitted") and i < 8 else None
        net = accelnn.Network([n, 3 + 5 * i, 1], hidden=["tanh", "relu"][i % 2])
        options = {"epochs": 3, "learning_rate": 0.1, "batch_size": batch_size, "solver": solver}
        digest(net, X, Y, dtype=dtype, **options)
        kept.append((X @ X.T)[: 1 + i].copy())
    return "others", len(kept)

run = {"planar": planar, "others": others}
for name, case in json.loads(sys.argv[1]):
    print(json.dumps([name, *run.get(name, lambda case: trained(case))(case)]))
"""


def results_of(names):
    """The digests that a fresh process prints for these trainings, by name."""
    arguments = json.dumps([(name, CASES.get(name)) for name in names])
    command = [sys.executable, "-c", SCRIPT, arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    results = {}
    for line in done.stdout.splitlines():
        name, *digest = json.loads(line)
        results.setdefault(name, []).append(digest)
    return results


def test_a_training_gives_the_same_bits_whatever_ran_before():
    first, later = results_of(CASES), results_of(["others", *reversed(CASES)] * 2)
    for name, case in CASES.items():
        [expected] = first[name]
        assert expected[0] == case["solver"]
        assert later[name] == [expected, expected], name
    for solver in SOLVERS:  # one of each solver, alone in its process
        name = next(reversed([name for name in CASES if name.split()[0] == solver]))
        assert results_of([name])[name] == first[name]


def test_auto_depends_on_the_job_alone():
    """At this rate gradient descent amplifies rounding: another solver gives another cost."""
    alone = results_of(["planar"])["planar"]
    assert results_of(["others", "planar", "planar", "planar"])["planar"] == alone * 3
