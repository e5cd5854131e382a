"""The threads of compiled steps: the cores of this process, the best number of threads, and the
pool that runs them."""

import itertools
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numba
import pytest
import threadpoolctl

from accelnn.solvers import threads

SIBLINGS = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"
VERSION_2 = "/sys/fs/cgroup/cpu.max"
QUOTA, PERIOD = (f"/sys/fs/cgroup/cpu/cpu.cfs_{name}_us" for name in ("quota", "period"))


# --------------------------------------------------------------------------------------------
# cores


@pytest.fixture
def cores_of(monkeypatch):
    """A function: `threads.cores()` of a machine with this affinity and these files."""

    def cores(affinity, files):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(affinity), raising=False)
        monkeypatch.setattr(threads, "_read", lambda path: files.get(path, ""))
        threads.cores.cache_clear()
        return threads.cores()

    yield cores
    monkeypatch.undo()
    threads.cores.cache_clear()


def siblings(*groups):
    return {SIBLINGS.format(cpu): ",".join(map(str, group)) for group in groups for cpu in group}


PAIRS = siblings(*((n, n + 4) for n in range(4)))


@pytest.mark.parametrize(
    ("affinity", "files", "expected"),
    [
        (range(8), {}, 8),  # no files: each CPU is a core
        (range(8), PAIRS, 4),
        ([0, 4], PAIRS, 1),
        ([0, 1, 5], PAIRS, 2),
        (range(8), PAIRS | {VERSION_2: "max 100000"}, 4),
        (range(8), PAIRS | {VERSION_2: "200000 100000"}, 2),
        (range(8), {VERSION_2: "250000 100000"}, 2),
        (range(8), {VERSION_2: "50000 100000"}, 1),
        (range(8), {VERSION_2: "9900000 100000"}, 8),
        (range(8), {QUOTA: "-1", PERIOD: "100000"}, 8),
        (range(8), {QUOTA: "300000", PERIOD: "100000"}, 3),
        (range(8), {QUOTA: "300000", PERIOD: "50000"}, 6),
        (range(8), {VERSION_2: "500000 100000", QUOTA: "300000", PERIOD: "100000"}, 3),
    ],
)
def test_cores_are_those_that_this_process_may_use(cores_of, affinity, files, expected):
    assert cores_of(affinity, files) == expected


def test_without_an_affinity_all_cpus_count(cores_of, monkeypatch):
    cores_of([0], {})
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    threads.cores.cache_clear()
    assert threads.cores() == 6
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    threads.cores.cache_clear()
    assert threads.cores() == 1


def test_a_file_that_cannot_be_read_is_empty(tmp_path):
    assert threads._read(str(tmp_path / "none")) == threads._read(str(tmp_path)) == ""
    (tmp_path / "file").write_text(" 0-1\n")
    assert threads._read(str(tmp_path / "file")) == "0-1"


# --------------------------------------------------------------------------------------------
# the number of threads

NETS = [[2, 4, 1], [64, 32, 10], [784, 128, 10], [784, 256, 128, 10], [12288, 20, 7, 5, 1]]
BATCHES = [32, 64, 100, 256, 1000, 1024, 4096]
LANES = {4: 16, 8: 8}  # by the bytes of a number


def job(layers, m, size=4, steps=100):
    """The arguments of `best_count`."""
    parameters = sum(n * (before + 1) for before, n in itertools.pairwise(layers))
    return m, parameters, sum(layers[1:]), size, steps, LANES[size]


@pytest.fixture
def machine(monkeypatch):
    """A function that sets the number of cores, and NUMBA_NUM_THREADS."""

    def of(cores, most=None):
        monkeypatch.setattr(threads, "cores", lambda: cores)
        monkeypatch.setattr(numba.config, "NUMBA_NUM_THREADS", most or cores)

    return of


def test_large_jobs_get_a_thread_for_each_core_within_numbas_limit(machine):
    large = job([784, 256, 128, 10], 100_000)
    for cores, most, expected in ((1, 1, 1), (2, 2, 2), (4, 4, 4), (4, 3, 3), (4, 1, 1), (2, 8, 2)):
        machine(cores, most)
        assert threads.best_count(*large) == expected, (cores, most)


def test_a_thread_has_at_least_the_examples_of_a_vector(machine):
    machine(64)
    costly = [10_000, 10, 10_000]  # few examples are worth several threads
    for m, size in itertools.product((1, 8, 9, 16, 17, 33), LANES):
        count, most = threads.best_count(*job(costly, m, size)), -(-m // LANES[size])
        assert count <= most, (m, size)
        if m == 33:
            assert count > 1


@pytest.mark.parametrize("cores", [1, 2, 4, 64, 1000])
def test_small_jobs_get_one_thread(machine, cores):
    machine(cores)
    for layers, m in (([2, 4, 1], 400), ([1, 1], 1000), ([5, 8, 1], 32), ([64, 10], 32)):
        for size in LANES:
            assert threads.best_count(*job(layers, m, size)) == 1, (layers, m, size)


def test_short_epochs_get_one_thread(machine):
    """Starting the other threads takes longer than they save."""
    machine(2)
    counts = [threads.best_count(*job([13, 100, 3], 178, 8, steps)) for steps in (1, 100)]
    assert counts == [1, 2]


def test_more_cores_never_make_a_step_slower(machine):
    for layers, m, size in itertools.product(NETS, BATCHES, LANES):
        times = []
        for cores in (1, 2, 4, 8, 64):
            machine(cores)
            *given, _ = job(layers, m, size)
            times.append(threads.step_time(threads.best_count(*job(layers, m, size)), *given))
        assert times == sorted(times, reverse=True), (layers, m, size)


def test_more_threads_divide_the_work_and_meet_for_longer():
    *given, _ = job([784, 256, 128, 10], 10**6)
    one, two, four = (threads.step_time(n, *given) for n in (1, 2, 4))
    assert two == pytest.approx(one / 2, rel=0.01)
    assert four == pytest.approx(one / 4, rel=0.01)
    *given, _ = job([1, 1], 1)
    times = [threads.step_time(n, *given) for n in range(1, 65)]
    assert times == sorted(times)


# --------------------------------------------------------------------------------------------
# the pool


@pytest.fixture
def pool(monkeypatch):
    """A fresh pool, in place of that of this process."""
    fresh = threads._Pool()
    monkeypatch.setattr(threads, "_pool", fresh)
    return fresh


def meeting(parts, timeout=10):
    """A function of a part that returns when all parts are running, and the thread's number."""
    barrier = threading.Barrier(parts, timeout=timeout)

    def meet(part):
        barrier.wait()
        return part, threading.get_ident()

    return meet


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_parts_run_at_the_same_time_and_their_results_are_in_order(parts):
    for _ in range(20):
        found, runners = zip(*threads.run(meeting(parts), parts), strict=True)
        assert found == tuple(range(parts))
        assert len(set(runners)) == parts
        assert runners[0] == threading.get_ident()


def test_results_are_in_order_whichever_part_ends_first(pool):
    def slow(part):
        time.sleep(0.05 * (3 - part))
        return part

    assert pool.run(slow, 3) == [0, 1, 2]


def test_threads_are_kept(pool):
    for parts in (4, 2, 3, 4):
        pool.run(meeting(parts), parts)
    assert len(pool.queues) == 3


@pytest.mark.usefixtures("pool")
def test_several_callers_at_once_get_their_own_results():
    def call(caller):
        parts = 1 + caller % 4
        meet = meeting(parts)
        return [(caller, part) for part, _ in threads.run(meet, parts)]

    with ThreadPoolExecutor(8) as callers:
        for caller, results in enumerate(callers.map(call, range(64))):
            assert results == [(caller, part) for part in range(1 + caller % 4)]


@pytest.fixture
def startable(monkeypatch):
    """A list of how many more threads can start."""
    start, left = threading.Thread.start, [10]

    def limited(thread):
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", limited)
    return left


def test_a_thread_that_cannot_start_raises_and_leaves_none_waiting(pool, startable):
    begun, startable[0] = [], 2
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.run(begun.append, 5)
    assert not begun


def test_threads_start_again_once_they_can(pool, startable):
    startable[0] = 2
    with pytest.raises(RuntimeError, match="can't start new thread"):
        pool.run(meeting(5), 5)
    startable[0] = 10
    assert [part for part, _ in pool.run(meeting(5, timeout=2), 5)] == [0, 1, 2, 3, 4]


def test_an_error_of_a_part_reaches_the_caller_and_the_pool_goes_on(pool):
    def failing(part):
        return 1 // (part - 1)

    with pytest.raises(ZeroDivisionError):
        pool.run(failing, 3)
    assert [part for part, _ in pool.run(meeting(3), 3)] == [0, 1, 2]


def blas_threads():
    return [
        one["num_threads"] for one in threadpoolctl.threadpool_info() if one["user_api"] == "blas"
    ]


@pytest.mark.usefixtures("pool")
@pytest.mark.parametrize("first_ends_first", [False, True])
def test_blas_has_one_thread_until_the_last_block_ends(first_ends_first):
    with threadpoolctl.threadpool_limits(2, user_api="blas"):
        first, second = threads.one_blas_thread(), threads.one_blas_thread()
        first.__enter__()
        assert set(blas_threads()) == {1}
        second.__enter__()
        for block in (first, second) if first_ends_first else (second, first):
            assert set(blas_threads()) == {1}
            block.__exit__(None, None, None)
        assert set(blas_threads()) == {2}


FORK = """
import os, threading
from accelnn.solvers import threads

def meet(part, barrier=threading.Barrier(3)):
    barrier.wait(20)
    return part

assert threads.run(meet, 3) == [0, 1, 2]
with threads._pool.running:  # as if a training ran
    if (child := os.fork()) == 0:
        os._exit(threads.run(meet, 3) != [0, 1, 2])
assert os.waitpid(child, 0)[1] == 0
assert threads.run(meet, 3) == [0, 1, 2]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
def test_a_forked_process_has_threads_of_its_own():
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
