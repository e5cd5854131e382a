"""The threads of compiled steps: how many a training gets, and the pool that runs them.

They are Python's own threads, because compiled code runs without the interpreter's lock. During a
step they wait for one another in `accelnn.kernels.cpu.tiles.barrier`.
"""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from queue import SimpleQueue
from typing import Any

# Rates per microsecond for `step_time`, from 2 cores of an AMD EPYC. Meeting at a barrier took 0.3
# to 0.5 us when the two cores shared a cache, and up to 7 us when they did not. It is charged more,
# because BLAS's threads stay awake for 25 ms after a product: a 40 us step on two threads then took
# five times as long, which a gain of 10 us is not worth.
MULTIPLY_ADD_BYTES = 1e5  # 25,000 multiply-adds in float32 per thread, half as many in float64
BYTES_BETWEEN_CORES = 2e4
MEETING = 20.0  # microseconds with two threads
# Starting the other threads delays a call, and callbacks make each epoch one: epochs of three steps
# of [30, 100, 1] on 200 examples took 250 us on one thread and 370 us on two.
STARTING = 200.0
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


def step_time(threads: int, m: int, parameters: int, units: int, size: int, steps: int) -> float:
    """The predicted microseconds of a step on m examples, `steps` of which make an epoch; `size` is
    the bytes of a number.

    A product costs each parameter three multiply-adds an example, an activation about 20. Every
    thread reads what the others changed: their share of the gradient, then of the parameters.
    """
    work = m * (3 * parameters + 20 * units) + 10 * parameters
    alone = work * size / MULTIPLY_ADD_BYTES
    if threads == 1:
        return alone
    moved = 2 * parameters * size * (threads - 1) / threads
    meetings = 2 * MEETING * (1 + (threads - 2) / CROWD)
    return alone / threads + meetings + moved / BYTES_BETWEEN_CORES + STARTING / steps


def best_count(m: int, parameters: int, units: int, size: int, steps: int, lanes: int) -> int:
    """The number of threads with the shortest predicted step, at most one per core, `lanes`
    examples and NUMBA_NUM_THREADS.

    It depends on the job and the machine alone, because the number of threads decides in which
    order a gradient is summed.
    """
    import numba

    most = min(cores(), numba.config.NUMBA_NUM_THREADS, -(-m // lanes))
    times = {n: step_time(n, m, parameters, units, size, steps) for n in range(1, most + 1)}
    return min(times, key=times.__getitem__)


class _Pool:
    """What the trainings of one process share: its threads, each with a queue of what to do, and
    locks so that one training at a time uses them, and one loads compiled code; and the limit of
    BLAS's threads, with the number of those who need it."""

    def __init__(self) -> None:
        self.running, self.loading = threading.Lock(), threading.Lock()
        self.queues: list[SimpleQueue[tuple[Future[Any], Callable[[int], Any], int]]] = []
        self.limiting, self.limited = threading.Lock(), 0
        self.limits: Any = None

    def run(self, function: Callable[[int], Any], threads: int) -> list[Any]:
        with self.running:
            # All threads start before one of them waits for the others, in case a start fails.
            while len(self.queues) < threads - 1:
                queue: Any = SimpleQueue()
                threading.Thread(target=_work, args=(queue,), daemon=True).start()
                self.queues.append(queue)
            others: list[Future[Any]] = [Future() for _ in range(1, threads)]
            for part, (future, queue) in enumerate(zip(others, self.queues, strict=False), start=1):
                queue.put((future, function, part))
            return [function(0), *(other.result() for other in others)]


def _work(queue: Any) -> None:
    while True:
        future, function, part = queue.get()
        try:
            future.set_result(function(part))
        except BaseException as error:  # the thread that waits raises it
            future.set_exception(error)
        del future, function  # the queue may wait long, and they hold arrays


_pool = _Pool()


def _after_fork() -> None:
    """Start afresh in a child process, where no other thread exists."""
    global _pool
    _pool = _Pool()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)


def run(function: Callable[[int], Any], threads: int) -> list[Any]:
    """The results of `function(part)` for each part from 0 to threads - 1, all at the same time.

    The caller runs part 0, without waiting for other trainings if that is all. A function that
    waits for the other parts must not raise.
    """
    if threads == 1:
        return [function(0)]
    return _pool.run(function, threads)


@contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let the BLAS of this process use one thread within the block, because trainings on all cores
    leave no core for others. The last of several blocks in several threads ends it."""
    from threadpoolctl import threadpool_limits

    pool = _pool
    with pool.limiting:
        if not pool.limited:
            pool.limits = threadpool_limits(1, user_api="blas")
        pool.limited += 1
    try:
        yield
    finally:
        with pool.limiting:
            pool.limited -= 1
            if not pool.limited:
                pool.limits.restore_original_limits()


def loading() -> threading.Lock:
    """The lock to hold while compiled code is loaded."""
    return _pool.loading
