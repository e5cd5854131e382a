"""The notes' operations under pytest-benchmark: `pytest benchmarks`.

The cases of `accelnn bench ops`, at the sizes whose loops end within seconds.
"""

import pytest

from accelnn.bench.cases import IMPLEMENTATIONS, OPERATIONS, OperationCase
from accelnn.bench.records import Skip


@pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
@pytest.mark.parametrize(
    ("name", "n"), [(name, n) for name in OPERATIONS for n in OPERATIONS[name].sizes[:2]]
)
def test_operation(benchmark, name, n, implementation):
    case = OperationCase(name, n, "float64", limits={})
    try:
        contestant = case.prepare(implementation, seconds=60.0, repeat=1)
    except Skip as reason:
        pytest.skip(str(reason))
    benchmark.group = str(case)
    benchmark.extra_info["threads"] = case.record(implementation).threads
    contestant.run()
    assert contestant.error() <= contestant.tolerance
    benchmark(contestant.run)
