"""Run a case: check the result of every implementation, then time the right ones in turn."""

import functools
import math
import time
from collections.abc import Callable, Sequence

from accelnn.bench.cases import COMPILED, OperationCase, OperationContestant
from accelnn.bench.records import Record, Skip
from accelnn.bench.timing import alternate
from accelnn.bench.trainings import TrainingCase, TrainingContestant

Case = OperationCase | TrainingCase
Contestant = OperationContestant | TrainingContestant


def run_case(
    case: Case,
    implementations: Sequence[str],
    repeat: int,
    seconds: float,
    records: list[Record],
    progress: Callable[[str], None],
    until: float = math.inf,
) -> None:
    """Measure the implementations of one case, and append a record of each to `records`, also when
    Ctrl-C interrupts.

    repeat : measurements of each implementation
    seconds : for all measurements of one implementation, about
    progress : called with the case and the implementation when its turn begins
    until : value of time.monotonic() after which no implementation is started
    """
    mine = {name: case.record(name) for name in implementations}
    contestants: dict[str, Contestant] = {}
    measures: dict[str, Callable[[], float]] = {}
    first_seconds: dict[str, float] = {}
    times: dict[str, list[float]] = {name: [] for name in implementations}
    for record in mine.values():
        record.reason = "interrupted before it was measured"
    try:
        for name, record in mine.items():
            if time.monotonic() > until:
                record.reason = "the time was up before its turn"
                continue
            progress(f"{case} {name}")
            try:
                contestant = contestants[name] = case.prepare(name, seconds, repeat)
                start = time.perf_counter()
                contestant.run()
                first_seconds[name] = time.perf_counter() - start
                error, limit = contestant.error(), contestant.tolerance
                record.max_rel_error = error
            except Skip as reason:
                record.reason = str(reason)
            except Exception as reason:
                record.reject("failed", _describe(reason))
            else:
                if error is None or error <= limit:
                    measures[name] = functools.partial(_measure, contestant, record)
                else:  # also for NaN
                    record.reject("wrong", f"the error {error:.1e} exceeds {limit:.1e}")
        threaded = {name for name in measures if (mine[name].threads or 1) > 1}
        alternate(measures, times, repeat, seconds, threaded)
    finally:
        for name in measures:
            record, contestant = mine[name], contestants[name]
            if not times[name] or record.status == "failed":
                continue
            record.status, record.reason = "ok", None
            record.set_times(times[name], contestant.scale)
            if name in COMPILED:
                # the first run compiled, and then did a share of the job
                run_seconds = min(times[name]) * contestant.run_share
                record.compile_seconds = max(0.0, first_seconds[name] - run_seconds)
            try:
                contestant.finish(record)
            except Exception as reason:
                record.reject("failed", _describe(reason))
        for contestant in contestants.values():
            contestant.close()
        case.finish([record for record in mine.values() if record.status == "ok"])
        records.extend(mine.values())


def _measure(contestant: Contestant, record: Record) -> float:
    """Measure once; an implementation that fails is not measured again."""
    if record.status == "failed":
        return math.nan
    try:
        return contestant.measure()
    except Exception as reason:
        record.reject("failed", _describe(reason))
        return math.nan


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
