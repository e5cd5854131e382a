"""A few epochs of each training under pytest-benchmark: `pytest benchmarks`.

The trainings and implementations of `accelnn bench train`, which trains them whole.
"""

import pytest

from accelnn import warm_up
from accelnn.bench.records import Skip
from accelnn.bench.trainings import TRAININGS, TrainingCase

EPOCHS = 20  # of full batches; one epoch of mini-batches
CASES = [TrainingCase(*item, "float64", limits={}) for item in TRAININGS.items()]


@pytest.mark.parametrize(
    ("case", "implementation"),
    [(case, name) for case in CASES for name in case.implementations if name != "products"],
    ids=str,
)
def test_training(benchmark, case, implementation):
    if implementation == "python" and case.name != "planar":
        pytest.skip("takes minutes: accelnn bench measures a part of it")
    if implementation == "accelnn":
        warm_up(case.dtype_of(implementation))
    try:
        contestant = case.prepare(implementation, seconds=60.0, repeat=1)
    except Skip as reason:
        pytest.skip(str(reason))
    epochs = 1 if case.recipe.batch_size else EPOCHS
    benchmark.group = f"{case}, {epochs} epoch{'s' if epochs > 1 else ''}"
    benchmark.extra_info["threads"] = case.record(implementation).threads
    benchmark.pedantic(contestant.advance, (epochs,), rounds=5, warmup_rounds=1)
