"""Trainings on several processes under mpiexec: equal to those on one, and ended together."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest

import accelnn
from accelnn import Network, distributed
from accelnn.backend import to_device, to_host

MPIEXEC = Path(sys.executable).with_name("mpiexec")
PROGRAM = Path(__file__).with_name("on_processes.py")
LONGEST = 30.0  # seconds until all processes have ended after one has

pytestmark = [
    pytest.mark.mpi,
    pytest.mark.skipif(
        not MPIEXEC.exists() or importlib.util.find_spec("mpi4py") is None,
        reason=f"no mpiexec or mpi4py in this environment: {distributed.INSTALL}",
    ),
]


def start(count, *command, **changes):
    """So many processes under mpiexec, with one BLAS thread each."""
    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"} | changes
    whole = [MPIEXEC, "-n", str(count), *command]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(whole, env=environment, start_new_session=True, **pipes)


def output(process, seconds=120.0):
    """Its exit status, output and errors; kills it and fails if it does not end."""
    try:
        out, errors = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, errors = process.communicate()
        pytest.fail(f"did not end within {seconds:g} s: {out}{errors}")
    return process.returncode, out, errors


def program(count, part):
    return start(count, sys.executable, "-W", "error", "-m", "mpi4py", PROGRAM, part)


def command(count, *arguments, **changes):
    return start(count, sys.executable, "-m", "accelnn", "train", *arguments, **changes)


@pytest.mark.parametrize(("count", "trainings"), [(2, 2 * 17 + 3 * 7), (3, 17 + 2 * 7)])
def test_processes_train_as_one_and_refuse_together(count, trainings):
    status, out, errors = output(program(count, "trainings"))
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0, errors
    assert len(lines) == trainings + 4 + 14 + 1  # others, refusals, differing weights
    assert {name: wrong for name, wrong in lines if wrong} == {}


@pytest.mark.parametrize("count", [2, 3])
def test_processes_read_one_file_and_go_on_from_one_checkpoint(count):
    status, out, errors = output(program(count, "files"))
    lines = [json.loads(line) for line in out.splitlines()]
    assert status == 0, errors
    assert len(lines) == 2 * 3 + 4 * 3
    assert {name: wrong for name, wrong in lines if wrong} == {}


def ended(part):
    """Run a training that one process ends; its status and what was printed."""
    process = program(2, part)
    assert process.stdout.readline() == "training\n"
    start = time.monotonic()
    status, out, errors = output(process, LONGEST)
    assert time.monotonic() - start < LONGEST
    return status, out, errors


def test_an_error_on_one_process_names_it_and_ends_the_others():
    status, _, errors = ended("failing")
    assert status == 1
    assert "process 2 of 2 failed: OSError: the disk is full" in errors


def test_a_killed_process_ends_the_others():
    status, out, errors = ended("killed")
    assert status != 0
    assert "KILLED BY SIGNAL: 9" in out + errors or "Killed (signal 9)" in out + errors


def test_ctrl_c_ends_all_processes_after_the_same_epoch():
    process = program(3, "interrupted")
    assert process.stdout.readline() == "training\n"
    process.send_signal(signal.SIGINT)
    status, out, errors = output(process, LONGEST)
    assert (status, "interrupted together: True" in out) == (0, True), errors


def test_the_command_streams_one_file_and_goes_on(tmp_path):
    random, labels = np.random.default_rng(0), np.arange(60) % 3
    with h5py.File(tmp_path / "pictures.h5", "w") as file:
        file["train_set_x"] = random.integers(0, 256, (60, 4, 4, 1), np.uint8)
        file["train_set_y"], file["list_classes"] = labels, np.array([b"a", b"b", b"c"])
    given = "--hdf5", tmp_path / "pictures.h5", "--batch-size", "8", "--hidden", "5", "--json", "-"
    goes_on = "--checkpoint", tmp_path / "run.h5", "--resume"
    found = []
    for count, options in ((2, ["--epochs", "4", *goes_on]), (1, ["--epochs", "9", *goes_on])):
        status, out, errors = output(command(count, *map(str, [*given, *options])))
        assert status == 0, errors
        found.append(json.loads(out)["trainings"][0])
    _, out, _ = output(command(1, *map(str, given), "--epochs", "9"))
    [alone] = json.loads(out)["trainings"]
    assert [each["processes"] for each in (*found, alone)] == [2, 1, 1]
    np.testing.assert_allclose(found[1]["costs"], alone["costs"], rtol=1e-10)
    np.testing.assert_allclose(found[1]["final_cost"], alone["final_cost"], rtol=1e-10)


def test_the_command_prints_and_writes_once(tmp_path):
    file = tmp_path / "planar.json"
    process = command(3, "planar", "--epochs", "50", "--json", str(file))
    status, out, errors = output(process)
    alone = subprocess.run(
        [sys.executable, "-m", "accelnn", "train", "planar", "--epochs", "50", "--json", "-"],
        capture_output=True,
        text=True,
        check=True,
    )
    [one], [many] = (json.loads(t)["trainings"] for t in (alone.stdout, file.read_text()))
    assert (status, errors) == (0, "")
    assert out.count("backend numpy") == 1
    np.testing.assert_allclose(many["costs"], one["costs"], rtol=0, atol=1e-12)


def test_the_command_refuses_once_what_one_process_has_to_do():
    for arguments, message in (
        (["digits", "--epochs", "1"], "error: TNC runs on one process"),
        (["squared-error"], "error: squared-error runs on one process"),
        (["--hdf5", "missing.h5"], "error: missing.h5: no such file"),
    ):
        status, out, errors = output(command(2, *arguments))
        assert (status, out) == (1, "")
        assert errors.startswith(message)
        assert errors.count("error: ") == 1


def test_ctrl_c_ends_the_command_with_one_line():
    process = command(2, "planar", "--epochs", "1000000000", "--solver", "direct")
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    status, _, errors = output(process, LONGEST)
    assert status == 130
    assert errors.count("nterrupted") == 1


def test_gradients_on_a_gpu_are_summed_by_nccl(double, monkeypatch):
    from mpi4py import MPI

    sums = []

    class Communicator:
        """NCCL with one process: a sum leaves its array as it is."""

        def __init__(self, count, identity, rank):
            assert (count, identity, rank) == (1, b"id", 0)

        def allReduce(self, source, target, count, kind, operation, stream):
            assert (source, kind, operation) == (target, 7, 0)
            sums.append(count)

    names = {"NCCL_FLOAT32": 7, "NCCL_FLOAT64": 8, "NCCL_SUM": 0, "available": True}
    nccl = SimpleNamespace(get_unique_id=lambda: b"id", NcclCommunicator=Communicator, **names)
    monkeypatch.setattr(double.cuda, "nccl", nccl, raising=False)
    monkeypatch.setattr(distributed.Processes, "check_threads", str)
    net = Network([5, 6, 3], output="softmax", l2=0.1, keep_prob=0.8)
    params, random = net.init("he", seed=1), np.random.default_rng(0)
    X, Y = to_device(random.random((5, 20), np.float32)), to_device(random.integers(0, 3, 20))
    options = {"epochs": 3, "batch_size": 8, "learning_rate": 0.1}
    alone, _ = accelnn.fit(net, params, X, Y, solver="direct", **options)
    found, history = accelnn.fit(net, params, X, Y, comm=MPI.COMM_SELF, **options)
    assert history.solver == "direct"
    assert sums == [params.flat.size + 2] * 9
    np.testing.assert_allclose(to_host(found.flat), to_host(alone.flat), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="use the solver 'direct'"):
        accelnn.fit(net, params, X, Y, solver="jitted", comm=MPI.COMM_SELF, **options)
    nccl.available = False
    with pytest.raises(ModuleNotFoundError, match="need NCCL, which CuPy lacks"):
        accelnn.fit(net, params, X, Y, comm=MPI.COMM_SELF, **options)


def test_without_mpi4py_the_command_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "mpi4py", None)
    monkeypatch.setenv("PMI_SIZE", "2")
    with pytest.raises(ModuleNotFoundError, match=r"need mpi4py.*pip install 'accelnn\[mpi\]'"):
        distributed.launched()


def test_an_mpi_library_that_does_not_see_the_others_is_an_error(monkeypatch):
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    with pytest.raises(RuntimeError, match="one of 4 processes, .* sees no other"):
        distributed.launched()


def test_a_program_that_was_started_alone_has_no_processes(monkeypatch):
    for name in distributed.SIZES:
        monkeypatch.delenv(name, raising=False)
    assert distributed.launched() is None


def test_more_blas_threads_than_cores_are_warned_of_once(monkeypatch):
    from mpi4py import MPI

    blas = [{"user_api": "blas", "num_threads": 4}]
    monkeypatch.setattr("threadpoolctl.threadpool_info", lambda: blas)
    processes = distributed.Processes(MPI.COMM_SELF)
    processes.size, processes.local = 2, (0, 1000)
    found = "1000 processes with 4 BLAS threads each have more than there are cores"
    with pytest.warns(RuntimeWarning, match=f"{found}: set OPENBLAS_NUM_THREADS=1 "):
        processes.check_threads()
    processes.check_threads()
