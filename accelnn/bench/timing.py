"""Timing that can be compared: several implementations of one job, measured alternately.

A machine's speed drifts. Measuring each implementation in turn, round after round, lets the
drift fall on all of them alike; the median is what counts, and the spread is told with it.
"""

import time
from collections.abc import Callable, Container

from accelnn.backend import Backend

SHORTEST = 2e-3  # seconds: a shorter measurement would time the clock and the call

# Seconds after a measurement of several threads. Those of BLAS and of OpenMP spin for up to 27 ms
# after their work and take the cores from whoever comes next: measured one straight after the
# other, an epoch in parallel loops took 22 ms instead of 10.6, a matrix product 20 instead of 11.4.
# And after a long one the scheduler goes on to give its cores away: with 30 ms between them,
# trainings of half a second took 370 to 554 ms, with 100 ms 335 to 391.
REST, LONG_REST = 0.03, 0.1


def stopwatch(run: Callable[[], object], backend: Backend) -> Callable[[], float]:
    """A function that measures the seconds of one `run`, repeated so often that it can be timed.

    Each measurement first runs once untimed: whoever had the caches before is out of them.
    """
    calls = 0

    def seconds_of(calls: int) -> float:
        with backend.timer() as timing:
            for _ in range(calls):
                run()
        return float(timing.seconds)

    def enough_calls() -> int:
        calls = 1
        while True:
            seconds = seconds_of(calls)
            if seconds < 50 * SHORTEST:  # one hiccup must not pass for a long run
                seconds = min(seconds, seconds_of(calls), seconds_of(calls))
            if seconds >= SHORTEST:
                return calls
            calls = min(calls * 10, int(calls * 1.5 * SHORTEST / max(seconds, 1e-9)) + 1)

    def measure() -> float:
        nonlocal calls
        run()
        calls = calls or enough_calls()
        return seconds_of(calls) / calls

    return measure


def alternate(
    measures: dict[str, Callable[[], float]],
    times: dict[str, list[float]],
    repeat: int,
    seconds: float,
    threaded: Container[str] = (),
) -> None:
    """Measure each up to `repeat` times, in turn; one that has spent `seconds` is left out.

    Every second round goes backwards, for whoever comes after a long neighbour is worse off.

    Parameters
    ----------
    measures : by name, a function that measures once and returns seconds
    times : by name, receives the measurements: whatever interrupts this, those made are there
    threaded : who runs on several threads, which are given a rest to end
    """
    spent = dict.fromkeys(measures, 0.0)
    for round_number in range(repeat):
        for name in reversed(measures) if round_number % 2 else measures:
            if spent[name] < seconds:
                start = time.perf_counter()
                times[name].append(measures[name]())
                elapsed = time.perf_counter() - start
                spent[name] += elapsed
                if name in threaded:
                    time.sleep(LONG_REST if elapsed > LONG_REST else REST)
