"""The threads of compiled steps: how many a training gets, and the pool that runs them.

They are Python's own threads, because compiled code runs without the interpreter's lock. During a
step they wait for one another in `accelnn.kernels.cpu.tiles.barrier`.
"""

import functools
import os
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

# Rates per microsecond for `step_time`, from 2 cores of an AMD EPYC. Meeting at a barrier took 0.3
# to 0.5 us when the two cores shared a cache, and up to 7 us when they did not. It is charged more,
# because BLAS's threads stay awake for 25 ms after a product: a 40 us step on two threads then took
# five times as long, which a gain of 10 us is not worth.
MULTIPLY_ADD_BYTES = 1e5  # 25,000 multiply-adds in float32 per thread, half as many in float64
BYTES_BETWEEN_CORES = 2e4
MEETING = 20.0  # microseconds with two threads
CROWD = 16  # this many more threads double it


@functools.cache
def cores() -> int:
    """The number of cores that this process may use.

    Hyper-threads of one core count once. The process's affinity and the CPU quota of its control
    group are respected.
    """
    if hasattr(os, "sched_getaffinity"):
        allowed = os.sched_getaffinity(0)
    else:
        allowed = set(range(os.cpu_count() or 1))
    siblings = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
    count = len({_read(siblings.format(cpu)) or cpu for cpu in allowed})
    return max(1, int(min(count, _quota())))


def _quota() -> float:
    """The CPU quota of the control group in cores, of either version; infinite if there is none."""
    group, cfs = "/sys/fs/cgroup/", "/sys/fs/cgroup/cpu/cpu.cfs_"
    texts = _read(group + "cpu.max"), _read(cfs + "quota_us") + " " + _read(cfs + "period_us")
    limits = [text.split() for text in texts if text.split()[:1] and text.split()[0].isdigit()]
    return min((int(quota) / int(period) for quota, period in limits), default=float("inf"))


def _read(path: str) -> str:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return ""


def step_time(threads: int, m: int, parameters: int, units: int, size: int) -> float:
    """The predicted microseconds of a step on m examples; `size` is the bytes of a number.

    A product costs each parameter three multiply-adds an example, an activation about 20. Every
    thread reads what the others changed: their share of the gradient, then of the parameters.
    """
    work = m * (3 * parameters + 20 * units) + 10 * parameters
    alone = work * size / MULTIPLY_ADD_BYTES
    if threads == 1:
        return alone
    moved = 2 * parameters * size * (threads - 1) / threads
    meetings = 2 * MEETING * (1 + (threads - 2) / CROWD)
    return alone / threads + meetings + moved / BYTES_BETWEEN_CORES


def best_count(m: int, parameters: int, units: int, size: int, lanes: int) -> int:
    """The number of threads with the shortest predicted step, at most one per core, `lanes`
    examples and NUMBA_NUM_THREADS.

    It depends on the job and the machine alone, because the number of threads decides in which
    order a gradient is summed.
    """
    import numba

    most = min(cores(), numba.config.NUMBA_NUM_THREADS, -(-m // lanes))
    times = {n: step_time(n, m, parameters, units, size) for n in range(1, most + 1)}
    return min(times, key=times.__getitem__)


class _Pool:
    """The threads of this process, and a lock so that one training at a time uses them."""

    def __init__(self) -> None:
        self.running = threading.Lock()
        self.executor = ThreadPoolExecutor(10_000, "accelnn")  # it starts them on demand
        self.started = 0

    def run(self, function: Callable[[int], Any], threads: int) -> list[Any]:
        with self.running:
            self._start(threads - 1)
            others = [self.executor.submit(function, part) for part in range(1, threads)]
            return [function(0), *(other.result() for other in others)]

    def _start(self, count: int) -> None:
        """Start threads before they wait for one another, so that a failure leaves none waiting."""
        if count <= self.started:
            return
        go_on = threading.Event()
        try:
            waiting = [self.executor.submit(go_on.wait) for _ in range(count)]
        finally:
            go_on.set()
        for one in waiting:
            one.result()
        self.started = count


_pool = _Pool()


def _after_fork() -> None:
    """Start with a new pool in a child process, where no other thread exists."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(function: Callable[..., Any], threads: int) -> list[Any]:
    """The results of `function(part)` for each part from 0 to threads - 1, all at the same time.

    The caller runs part 0. A function that waits for the other parts must not raise.
    """
    return _pool.run(function, threads)
