"""The size from which the GPU is faster than the CPU, for each operation.

Between two measured sizes each time is taken to follow a power of the size. Their ratio is then a
straight line in a log-log plot, and the GPU is faster from where it crosses 1.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from accelnn.bench.records import Record

Point = tuple[int, str, float]  # n, the fastest on the CPU, how many times faster the GPU is


@dataclass(frozen=True)
class Crossing:
    """The size from which the GPU is faster, interpolated between the sizes measured.

    bound : "<" if it is faster at all of them, and `size` is the smallest; ">" if it is not
        faster at the largest, which `size` then is; else "="
    against : the fastest implementation on the CPU at that size
    """

    size: int
    bound: str
    against: str

    def __str__(self) -> str:
        """To two digits if it lies between two measured sizes."""
        size = float(f"{self.size:.1e}") if self.bound == "=" else self.size
        return f"{self.bound} {size:,.0f}".removeprefix("= ")


@dataclass(frozen=True)
class Crossover:
    """The size from which the GPU is faster at an operation.

    smallest, largest : sizes that were measured
    resident, end_to_end : with the arrays on the device; with the transfers there and back
    """

    case: str
    dtype: str
    smallest: int
    largest: int
    resident: Crossing
    end_to_end: Crossing


def crossovers(records: Sequence["Record"]) -> list[Crossover]:
    """For each operation that was timed on both at three sizes or more."""
    timed: dict[tuple[str, str], dict[int, dict[str, Record]]] = {}
    for record in records:
        if record.seconds and "n" in record.size:
            sizes = timed.setdefault((record.case, record.dtype), {})
            sizes.setdefault(record.size["n"], {})[record.implementation] = record
    found = []
    for (case, dtype), sizes in timed.items():
        resident: list[Point] = []
        end_to_end: list[Point] = []
        for n, group in sorted(sizes.items()):
            gpu = group.pop("cupy", None)
            if gpu is None or not gpu.seconds or not gpu.end_to_end_seconds or not group:
                continue
            seconds, name = min((record.seconds or 0.0, name) for name, record in group.items())
            resident.append((n, name, seconds / gpu.seconds))
            end_to_end.append((n, name, seconds / gpu.end_to_end_seconds))
        if len(resident) > 2:
            crossings = _crossing(resident), _crossing(end_to_end)
            found.append(Crossover(case, dtype, resident[0][0], resident[-1][0], *crossings))
    return found


def _crossing(points: Sequence[Point]) -> Crossing:
    """From points sorted by n: after the largest n at which the GPU is not faster."""
    lost = max((i for i, (_, _, gain) in enumerate(points) if gain <= 1), default=-1)
    if lost in (-1, len(points) - 1):
        n, name, _ = points[max(lost, 0)]
        return Crossing(n, "<" if lost < 0 else ">", name)
    (below, _, loss), (above, name, gain) = points[lost : lost + 2]
    share = math.log(loss) / (math.log(loss) - math.log(gain))
    return Crossing(round(below * (above / below) ** share), "=", name)
