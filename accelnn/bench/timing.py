"""Comparable timings: the implementations of one job are measured in turn, round after round, which
spreads the drift of the machine's speed over all of them."""

import time
from collections.abc import Callable, Container

from accelnn.backend import Backend

SHORTEST = 2e-3  # seconds: a shorter measurement would time the clock and the call

# Seconds of rest after a measurement with several threads, because those of BLAS and OpenMP spin
# for up to 27 ms: without it an epoch in parallel loops took 22 ms instead of 10.6. After 30 ms of
# rest trainings of half a second took 370 to 554 ms; after 100 ms, 335 to 391.
REST, LONG_REST = 0.03, 0.1


def stopwatch(run: Callable[[], object], backend: Backend) -> Callable[[], float]:
    """A function that measures the seconds of one `run`, repeated until that can be timed.

    Each measurement starts with one untimed run, to warm the caches.
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
            if seconds < 50 * SHORTEST:  # one interruption must not pass for a long run
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
    """Append up to `repeat` measurements of each function to its `times`, in turn; one that has
    spent `seconds` is left out. A rest follows those with several threads, named in `threaded`.

    Every second round runs backwards, because a measurement after a long one is slower.
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
