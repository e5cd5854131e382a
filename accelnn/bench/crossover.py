"""The size from which the GPU is faster than the CPU, for each operation.

Between two measured sizes each time is taken to follow a power of the size. Their ratio is then a
straight line in a log-log plot, and the GPU is faster from its crossing of 1 on.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from accelnn.bench.records import Record

Point = tuple[int, str, float]  # n, the fastest on the CPU, how many times faster the GPU is


def crossovers(records: Sequence["Record"]) -> list[dict[str, Any]]:
    """For each operation that was timed on both at three sizes or more: its case and dtype, the
    smallest and largest of these sizes, and two crossings: "resident", with the arrays on the
    GPU, and "end_to_end", with the transfers to it and back.

    A crossing has the size from which the GPU is faster, its bound ("<" if it is faster at all
    sizes, ">" if it is not at the largest, else "="), and the fastest on the CPU (against).
    """
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
            measured = {"smallest": resident[0][0], "largest": resident[-1][0]}
            crossings = {"resident": _crossing(resident), "end_to_end": _crossing(end_to_end)}
            found.append({"case": case, "dtype": dtype, **measured, **crossings})
    return found


def _crossing(points: Sequence[Point]) -> dict[str, Any]:
    """After the largest n at which the GPU is not faster, of points sorted by n."""
    lost = max((i for i, (_, _, gain) in enumerate(points) if gain <= 1), default=-1)
    if lost in (-1, len(points) - 1):
        n, name, _ = points[max(lost, 0)]
        return {"size": n, "bound": "<" if lost < 0 else ">", "against": name}
    (below, _, loss), (above, name, gain) = points[lost : lost + 2]
    share = math.log(loss) / (math.log(loss) - math.log(gain))
    return {"size": round(below * (above / below) ** share), "bound": "=", "against": name}
