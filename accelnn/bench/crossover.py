"""The size from which the GPU is faster than the CPU, for each operation.

Between two measured sizes each time is taken to follow a power of the size. Their ratio is then a
straight line in a log-log plot, and the GPU is faster from where it crosses 1.
"""

import math
from collections.abc import Sequence

from accelnn.bench.records import Crossing, Crossover, Record

GPU = "cupy"


def crossovers(records: Sequence[Record]) -> list[Crossover]:
    """For each operation that was timed on both, against the fastest on the CPU."""
    timed: dict[tuple[str, str], dict[int, list[Record]]] = {}
    for record in records:
        if record.seconds is not None and "n" in record.size:
            sizes = timed.setdefault((record.case, record.dtype), {})
            sizes.setdefault(record.size["n"], []).append(record)
    found = []
    for (case, dtype), sizes in timed.items():
        resident, end_to_end = [], []
        for n, group in sorted(sizes.items()):
            gpu = next((record for record in group if record.implementation == GPU), None)
            others = [record for record in group if record is not gpu]
            if gpu is None or not others:
                continue
            cpu = min(others, key=_seconds)
            resident.append((n, cpu, _seconds(gpu)))
            if gpu.end_to_end_seconds is not None:
                end_to_end.append((n, cpu, gpu.end_to_end_seconds))
        if resident and end_to_end:
            first, last = resident[0][0], resident[-1][0]
            crossings = _crossing(resident), _crossing(end_to_end)
            found.append(Crossover(case, dtype, first, last, *crossings))
    return found


def _crossing(points: Sequence[tuple[int, Record, float]]) -> Crossing:
    """From (n, the fastest record on the CPU, seconds on the GPU), sorted by n."""
    gains = [math.log(_seconds(cpu) / gpu) for _, cpu, gpu in points]
    lost = max((i for i, gain in enumerate(gains) if gain <= 0), default=-1)
    if lost in (-1, len(points) - 1):
        n, cpu, _ = points[max(lost, 0)]
        return Crossing(n, "<" if lost < 0 else ">", cpu.implementation)
    (below, _, _), (above, cpu, _) = points[lost : lost + 2]
    share = gains[lost] / (gains[lost] - gains[lost + 1])
    return Crossing(round(below * (above / below) ** share), "=", cpu.implementation)


def _seconds(record: Record) -> float:
    assert record.seconds is not None
    return record.seconds
