"""Trainings in several threads and processes: right, and without a lasting effect on the others."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

import accelnn
from accelnn.solvers import jitted

WORKERS = Path(__file__).parent / "helpers" / "workers.py"


def run(kind):
    script = [sys.executable, "-W", "ignore::DeprecationWarning", WORKERS, kind]
    ended = subprocess.run(script, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, (kind, ended.returncode, ended.stderr[-2000:])


def test_trainings_in_threads_are_right():
    run("in_threads")


needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")


@needs_fork
def test_trainings_in_forked_processes_are_right():
    run("forked")
    run("forked_within_a_training")
    run("many_forked")


@needs_fork
def test_a_process_forked_while_another_thread_loads_compiled_code_trains():
    run("forked_while_loading")


@pytest.mark.slow
def test_trainings_in_spawned_processes_are_right():
    run("spawned")


@pytest.mark.slow
def test_trainings_in_joblibs_workers_are_right():
    pytest.importorskip("joblib")
    for kind in ("joblib_threading", "joblib_loky"):
        run(kind)


def test_the_memory_of_a_training_does_not_grow_with_the_distance_of_its_records():
    X, Y = np.zeros((2, 1000)), np.zeros(1000, int)
    net, peaks = accelnn.Network([2, 1]), []
    for epochs in (500, 2000):
        options = {"learning_rate": 0.1, "batch_size": 2, "record_every": epochs}
        jitted.load("float64")
        tracemalloc.start()
        accelnn.fit(net, net.init(), X, Y, epochs=epochs, solver="jitted", **options)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.2 * peaks[0]
    assert peaks[1] < 32 * 2**20
