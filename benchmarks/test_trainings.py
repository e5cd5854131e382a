"""A few epochs of each training under pytest-benchmark: `pytest benchmarks`.

The trainings and implementations of `accelnn bench train`, which trains them whole.
"""

import pytest

from accelnn import warm_up
from accelnn.bench.cases import Skip
from accelnn.bench.trainings import TRAININGS, TrainingCase

EPOCHS = 20  # of full batches; one epoch of mini-batches


@pytest.mark.parametrize(
    ("name", "implementation"),
    [
        (name, implementation)
        for name, training in TRAININGS.items()
        for implementation in training.implementations
        if implementation != "products"  # not a training
    ],
)
def test_training(benchmark, name, implementation):
    if implementation == "python" and name != "planar":
        pytest.skip("takes minutes: accelnn bench measures a part of it")
    case = TrainingCase(name, "float64", limits={})
    if implementation == "accelnn":
        warm_up(case.dtype_of(implementation))
    try:
        trainee = case.prepare(implementation, seconds=60.0, repeat=1).trainee
    except Skip as reason:
        pytest.skip(str(reason))
    epochs = 1 if case.training.batch_size else EPOCHS
    benchmark.group = f"{name}, {epochs} epoch{'s' if epochs > 1 else ''}"
    benchmark.extra_info["threads"] = case.record(implementation).threads
    trainee.restart(case.training.seeds[0])
    benchmark.pedantic(trainee.train, (epochs,), rounds=5, warmup_rounds=1)
