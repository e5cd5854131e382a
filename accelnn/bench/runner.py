"""Run a case: check the result of every implementation, then time the right ones in turn."""

import functools
import math
import time
from collections.abc import Callable, Sequence

from accelnn.bench.cases import COMPILED, Case, Contestant, Skip
from accelnn.bench.records import Record, set_times
from accelnn.bench.timing import alternate


def run_case(
    case: Case,
    implementations: Sequence[str],
    repeat: int,
    seconds: float,
    records: list[Record],
    progress: Callable[[str], None],
    until: float = math.inf,
) -> None:
    """Measure the implementations of one case, and append a record of each to `records`.

    Parameters
    ----------
    repeat : measurements of each implementation
    seconds : for all measurements of one implementation, about
    progress : called with the case and the implementation when its turn begins
    until : value of time.monotonic() after which no implementation is started

    After Ctrl-C the measurements made so far are recorded before KeyboardInterrupt is passed on.
    """
    mine = {name: case.record(name) for name in implementations}
    contestants: dict[str, Contestant] = {}
    right: dict[str, Contestant] = {}
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
                record.max_rel_error = contestant.error()
            except Skip as reason:
                record.reason = str(reason)
                continue
            except Exception as error:
                _fail(record, error)
                continue
            record.transfer_seconds = contestant.transfer_seconds
            if record.max_rel_error <= contestant.tolerance:
                right[name] = contestant
            else:  # NaN comes here too
                record.status = "wrong"
                record.reason = (
                    f"the error {record.max_rel_error:.1e} exceeds {contestant.tolerance:.1e}"
                )
        measures: dict[str, Callable[[], float]] = {
            name: functools.partial(_measure, contestant, mine[name])
            for name, contestant in right.items()
        }
        threaded = {name for name in measures if (mine[name].threads or 1) > 1}
        alternate(measures, times, repeat, seconds, threaded)
    finally:
        for name, contestant in right.items():
            record = mine[name]
            if not times[name] or record.status == "failed":
                continue
            record.status, record.reason = "ok", None
            set_times(record, times[name], contestant.scale)
            if name in COMPILED:
                # the first run compiled, and then did a share of the job
                run_seconds = min(times[name]) * contestant.run_share
                record.compile_seconds = max(0.0, first_seconds[name] - run_seconds)
            try:
                contestant.finish(record)
            except Exception as error:
                _fail(record, error)
        for contestant in contestants.values():
            contestant.close()
        case.compare([record for record in mine.values() if record.status == "ok"])
        records.extend(mine.values())


def _measure(contestant: Contestant, record: Record) -> float:
    """Measure once; an implementation that fails is not measured again."""
    if record.status == "failed":
        return math.nan
    try:
        return contestant.measure()
    except Exception as error:
        _fail(record, error)
        return math.nan


def _fail(record: Record, error: Exception) -> None:
    record.status, record.reason = "failed", f"{type(error).__name__}: {error}"
    record.seconds = record.seconds_min = record.seconds_max = None
