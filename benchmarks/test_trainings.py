"""Twenty epochs of each of the notes' trainings under pytest-benchmark: `pytest benchmarks`.

The same recipes and implementations as `python -m accelnn.bench train`, which trains them whole.
"""

import pytest

from accelnn.bench.cases import Skip
from accelnn.bench.trainings import TRAININGS, TrainingCase

EPOCHS = 20


@pytest.mark.parametrize("implementation", TrainingCase.implementations)
@pytest.mark.parametrize("name", TRAININGS)
def test_training(benchmark, name, implementation):
    if implementation == "python" and name != "planar":
        pytest.skip("takes minutes: python -m accelnn.bench measures a part of it")
    case = TrainingCase(name, "float64", limits={})
    try:
        train = case.prepare(implementation, seconds=60.0, repeat=1).train
    except Skip as reason:
        pytest.skip(str(reason))
    benchmark.group = f"{name}, {EPOCHS} epochs"
    benchmark.extra_info["threads"] = case.record(implementation).threads
    benchmark.pedantic(train, (EPOCHS,), rounds=5, warmup_rounds=1)
