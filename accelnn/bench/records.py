"""The results of the benchmark as data, read from and written as JSON: a `Record` for each case,
size and implementation."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from statistics import median
from typing import Any, Self, cast, get_origin

from accelnn.cli.console import as_json
from accelnn.datasets.reading import DataFile

SCHEMA, MOST = 1, 2000  # the most records of a run that are shown; a full one has 300


class Skip(Exception):
    """An implementation cannot do a job here; the message says why."""


@dataclass
class Record:
    """The measurement of one implementation of one case at one size.

    status : "ok" | "wrong" (not timed: the result differs from the reference) | "skipped" |
        "failed"
    reason : why it is not "ok", or a remark on an "ok" record
    seconds, seconds_min, seconds_max : median, minimum and maximum of `repeats` measurements; for
        CuPy by CUDA events, with the arrays on the GPU
    compile_seconds : the time of the first call beyond that of the others; in no other figure
    transfer_seconds : to move the inputs to the device and the result back (for a training only X
        and Y to the device); otherwise only in end_to_end_seconds
    end_to_end_seconds : of an operation on a GPU, from inputs on the host to the result on it
    gb_per_s, gflop_per_s : None for a training in sample space, which does fewer operations
    share_of_limit : of the measured limit in the same precision; None if the data fits the cache
    max_rel_error : max |result - reference| / max |reference|, the reference in float64
    """

    case: str
    implementation: str
    size: dict[str, Any]
    dtype: str
    backend: str
    device: str | None = None
    threads: int | None = None
    status: str = "skipped"
    reason: str | None = None
    seconds: float | None = None
    seconds_min: float | None = None
    seconds_max: float | None = None
    repeats: int = 0
    compile_seconds: float | None = None
    transfer_seconds: float | None = None
    end_to_end_seconds: float | None = None
    gb_per_s: float | None = None
    gflop_per_s: float | None = None
    share_of_limit: float | None = None
    max_rel_error: float | None = None

    @property
    def name(self) -> str:
        """Such as "dot(1,000)"."""
        size = self.size.get("n", self.size.get("value"))
        return self.case if size is None else f"{self.case}({size:,})"

    @property
    def is_scaled(self) -> bool:
        """Whether only a part was measured, and scaled to the whole."""
        return self.status == "ok" and self.reason is not None

    def check(self) -> None:
        """Raise TypeError if a field has another type than its own."""
        for each in fields(self):
            value, kind = getattr(self, each.name), cast(Any, each.type)
            kind = dict if get_origin(kind) is dict else kind
            whole = isinstance(value, int) and isinstance(0.5, kind)  # a float without a point
            if not (isinstance(value, kind) or whole):
                raise TypeError(f"{each.name} is {value!r:.50}")

    def set_times(self, times: Sequence[float], scale: float = 1.0) -> None:
        """Enter the measured seconds times `scale`."""
        self.repeats = len(times)
        self.seconds = median(times) * scale
        self.seconds_min, self.seconds_max = min(times) * scale, max(times) * scale

    def reject(self, status: str, reason: str) -> None:
        """Make the record "wrong" or "failed"."""
        self.status, self.reason = status, reason
        self.seconds = self.seconds_min = self.seconds_max = None


@dataclass
class TrainingRecord(Record):
    """A record of a whole training.

    solver : our solver, or the fastest of a peer's ways of running
    precision : of the matrix products: "float64" | "float32" | "tf32" | "bfloat16"
    epochs, epochs_measured : if only a part of the epochs was measured, the seconds are scaled to
        the whole, and costs and accuracies are None
    optimizer, batch_size : as in `accelnn.fit`
    steps : updates of the weights in the whole training
    cost_difference : final_cost against ours, relative to ours
    data : "real" | "stand-in" | "drawn" (if only the shape matters)
    """

    solver: str | None = None
    precision: str | None = None
    epochs: int | None = None
    epochs_measured: float | None = None
    optimizer: str | None = None
    batch_size: int | None = None
    steps: int | None = None
    final_cost: float | None = None
    cost_difference: float | None = None
    train_accuracy: float | None = None
    test_accuracy: float | None = None
    data: str | None = None

    @property
    def is_scaled(self) -> bool:
        """Whether fewer epochs, or epochs on fewer examples, were measured."""
        return bool(self.epochs and self.epochs_measured and self.epochs_measured < self.epochs)

    @property
    def in_sample_space(self) -> bool:
        """Whether it skipped the products with X, which a rate would count."""
        return "gram" in f"{self.implementation} {self.solver}"


@dataclass
class Report:
    """All that one run of the benchmark measured.

    warm_up_seconds : by dtype, to compile (seven seconds) or load (half a second) accelnn's solvers
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    limits: dict[str, dict[str, float]]
    records: list[Record] = field(default_factory=list)
    warm_up_seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Valid JSON: numbers that are not finite become null."""
        found = crossings(self.records)
        return as_json({"schema": SCHEMA, **asdict(self), "crossovers": found})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report stored at `path`. Raises OSError, or ValueError if it holds none."""
        DataFile(path, "write it by accelnn bench --json").require()
        try:
            text = path.read_text(encoding="utf-8")
            content = json.loads(text, parse_constant=_refuse)
            if content["schema"] != SCHEMA:
                found = str(content["schema"])[:50]
                raise ValueError(f"{path}: expected schema {SCHEMA}, got {found}")
            rows = content["records"]
            if len(rows) > MOST:
                raise ValueError(f"{path}: expected at most {MOST} records, got {len(rows)}")
            records = [(TrainingRecord if "epochs" in row else Record)(**row) for row in rows]
            for record in records:
                record.check()
            machine, versions, limits = (content[key] for key in ("machine", "versions", "limits"))
            return cls(machine, versions, limits, records, content.get("warm_up_seconds", {}))
        except (KeyError, TypeError, json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"{path}: not a result of accelnn bench --json ({error})") from error


def _refuse(constant: str) -> None:
    raise TypeError(f"{constant} is not valid JSON")


# --------------------------------------------------------------------------------------------
# the size from which the GPU is faster than the CPU

Point = tuple[int, str, float]  # n, the fastest on the CPU, how many times faster the GPU is


def crossings(records: Sequence[Record]) -> list[dict[str, Any]]:
    """For each operation timed on both at three sizes or more: its case and dtype, the smallest and
    largest size, and two crossings: "resident", with the arrays on the GPU, and "end_to_end".

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
        points: dict[str, list[Point]] = {"resident": [], "end_to_end": []}
        for n, group in sorted(sizes.items()):
            gpu = group.pop("cupy", None)
            if gpu and gpu.seconds and gpu.end_to_end_seconds and group:
                seconds, name = min((r.seconds or 0.0, name) for name, r in group.items())
                points["resident"].append((n, name, seconds / gpu.seconds))
                points["end_to_end"].append((n, name, seconds / gpu.end_to_end_seconds))
        measured = [n for n, _, _ in points["resident"]]
        if len(measured) > 2:
            row = {"case": case, "dtype": dtype, "smallest": measured[0], "largest": measured[-1]}
            found.append(row | {name: _crossing(of) for name, of in points.items()})
    return found


def _crossing(points: Sequence[Point]) -> dict[str, Any]:
    """After the largest n at which the GPU is not faster. Between two sizes each time is taken to
    follow a power of n, so that their ratio is a straight line in a log-log plot."""
    lost = max((i for i, (_, _, gain) in enumerate(points) if gain <= 1), default=-1)
    if lost in (-1, len(points) - 1):
        n, name, _ = points[max(lost, 0)]
        return {"size": n, "bound": "<" if lost < 0 else ">", "against": name}
    (below, _, loss), (above, name, gain) = points[lost : lost + 2]
    share = math.log(loss) / (math.log(loss) - math.log(gain))
    return {"size": round(below * (above / below) ** share), "bound": "=", "against": name}
