"""The results of the benchmark as data, read from and written as JSON: a `Record` for each case,
size and implementation."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any, Self

from accelnn.bench.crossover import crossovers
from accelnn.cli.console import as_json

SCHEMA = 1


class Skip(Exception):
    """An implementation cannot do a job here; the message says why."""


@dataclass
class Record:
    """The measurement of one implementation of one case at one size.

    status : "ok" | "wrong" (not timed: the result differs from the reference) | "skipped" |
        "failed"
    reason : why it is not "ok", or a remark on an "ok" record
    seconds, seconds_min, seconds_max : median, minimum and maximum of `repeats` measurements; on
        our GPU by CUDA events, with the arrays in its memory
    compile_seconds : the time of the first call beyond that of the others; in no other figure
    transfer_seconds : to move the inputs to the device and the result back (of a training X and Y
        to the device); otherwise only in end_to_end_seconds
    end_to_end_seconds : of an operation on a GPU, from inputs on the host to the result on it
    gb_per_s, gflop_per_s : None for a training in sample space, which does fewer operations
    share_of_limit : of the machine's measured stream or matrix-product rate (in the same
        precision); None if the data fits the cache
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
        """The case and its size: "dot(1,000)"."""
        size = self.size.get("n", self.size.get("value"))
        return self.case if size is None else f"{self.case}({size:,})"

    @property
    def is_scaled(self) -> bool:
        """Whether only a part was measured, and scaled to the whole."""
        return self.status == "ok" and self.reason is not None

    def set_times(self, times: Sequence[float], scale: float = 1.0) -> None:
        """Enter measured seconds, each multiplied by `scale`."""
        self.repeats = len(times)
        self.seconds = median(times) * scale
        self.seconds_min, self.seconds_max = min(times) * scale, max(times) * scale

    def reject(self, status: str, reason: str) -> None:
        """Make the record "wrong" or "failed", without times."""
        self.status, self.reason = status, reason
        self.seconds = self.seconds_min = self.seconds_max = None


@dataclass
class TrainingRecord(Record):
    """A record of a whole training.

    solver : our solver, or the fastest of a peer's ways of running
    precision : of the matrix products: "float64" | "float32" | "tf32" | "bfloat16"
    epochs, epochs_measured : of the whole training, and how many of them were run; if these
        differ, the seconds are scaled to the whole, and costs and accuracies are None
    optimizer, batch_size : as in `accelnn.fit`; batch_size None is full batch
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

    warm_up_seconds : by dtype, until accelnn's compiled solvers were ready: half a minute when
        they had to be compiled, about a second when they were loaded
    """

    machine: Mapping[str, Any]
    versions: Mapping[str, str]
    limits: dict[str, dict[str, float]]
    records: list[Record] = field(default_factory=list)
    warm_up_seconds: dict[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Valid JSON: what is not finite becomes null."""
        found = crossovers(self.records)
        return as_json({"schema": SCHEMA, **asdict(self), "crossovers": found})

    @classmethod
    def read(cls, path: Path) -> Self:
        """The report stored at `path`. Raises OSError, or ValueError if it holds none."""
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["schema"] != SCHEMA:
                raise ValueError(f"{path}: expected schema {SCHEMA}, got {content['schema']}")
            records: list[Record] = [
                TrainingRecord(**row) if "epochs" in row else Record(**row)
                for row in content["records"]
            ]
            machine, versions, limits = (content[key] for key in ("machine", "versions", "limits"))
            return cls(machine, versions, limits, records, content.get("warm_up_seconds", {}))
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(f"{path}: no result of accelnn bench --json ({error})") from error
