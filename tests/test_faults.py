"""What happens to a command from outside - full disks, closed streams, poor encodings, no home,
Ctrl-C, strange files in its folder - ends it with a status and at most a line, and loses nothing.
"""

import json
import os
import random
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import accelnn
from accelnn import models
from accelnn.datasets import Preprocessing
from accelnn.kernels import jit

pytestmark = pytest.mark.skipif(os.name != "posix", reason="closes streams and sends signals")

C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
RESULTS = Path(__file__).resolve().parents[1] / "benchmarks" / "results"
FILES = ("--save", "m.h5", "--json", "r.json", "--plot", "p.png")


@pytest.fixture(autouse=True)
def own_folder(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ACCELNN_DATA", raising=False)


@pytest.fixture
def predict(tmp_path):
    """The arguments that classify a picture."""
    net = accelnn.Network([12, 1])
    model = models.Model(net, net.init(), ("a", "b"), Preprocessing((2, 2, 3)))
    models.save(model, tmp_path / "model.h5")
    Image.new("RGB", (2, 2)).save(tmp_path / "picture.png")
    return "predict", "model.h5", "picture.png"


def run(*arguments, options=("-m", "accelnn"), stdout=subprocess.PIPE, before=None, **environment):
    """The exit status, standard output and standard error of a command; `before` is called in its
    process first."""
    done = subprocess.run(
        [sys.executable, *options, *map(str, arguments)],
        env=os.environ | environment,
        stdout=stdout,
        stderr=subprocess.PIPE,
        preexec_fn=before,
        timeout=120,
    )
    return done.returncode, (done.stdout or b"").decode(), done.stderr.decode()


def outputs():
    """By name: `run`'s arguments, and the status and the error to expect."""
    error = "error: standard output: "
    yield "closed", {"before": lambda: os.close(1)}, 1, f"{error}Bad file descriptor\n"
    yield "no standard error", {"before": lambda: os.close(2)}, 0, ""
    with open("/dev/full", "w") as full:
        yield "full", {"stdout": full}, 1, f"{error}No space left on device\n"
    reader, writer = os.pipe()
    os.close(reader)
    with open(writer, "w") as pipe:
        yield "closed pipe", {"stdout": pipe}, 141, ""


# --------------------------------------------------------------------------------------------
# output


def test_a_training_is_written_whatever_happens_to_its_output(tmp_path):
    pytest.importorskip("matplotlib")
    for name, options, status, error in outputs():
        found, _, err = run("train", "planar", "--epochs", 2, *FILES, **options)
        assert (found, err) == (status, error), name
        assert models.load("m.h5").net.layers == (2, 4, 1)
        assert json.loads((tmp_path / "r.json").read_text())["trainings"]
        assert sorted(path.name for path in tmp_path.iterdir()) == ["m.h5", "p.png", "r.json"], name
        for path in tmp_path.iterdir():
            path.unlink()


def test_every_command_says_that_its_output_cannot_be_written(predict):
    for name, options, status, error in outputs():
        for arguments in (["--help"], ["train", "--list"], [*predict, "--json", "-"]):
            found, _, err = run(*arguments, **options)
            assert found == status, (name, arguments)
            assert err.endswith(error), (name, arguments)
            assert "Traceback" not in err


def test_a_character_that_the_output_lacks_is_a_question_mark(tmp_path):
    for environment in (C_LOCALE, {"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin1"}):
        status, out, err = run("train", "football", "--epochs", 2, "--save", "m.h5", **environment)
        assert (status, err.count("error")) == (0, 0), environment
        assert "L2, ? = 0.7" in out
        saved = re.findall("model: (.+)", out)
        assert len(list(tmp_path.iterdir())) == len(saved) > 2  # λ is no part of a name in C
        assert run("train", "--help", **environment)[0] == 0
        for path in tmp_path.iterdir():
            path.unlink()


# --------------------------------------------------------------------------------------------
# files


def test_files_that_fit_are_written_beside_those_that_do_not(tmp_path):
    pytest.importorskip("matplotlib")

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    status, out, err = run("train", "cat-logistic", "--epochs", 2, *FILES, before=limit)
    assert status == 1
    assert "error: model m.h5: [Errno 27] File too large\n" in err
    assert "error: picture p.png: [Errno 27] File too large\n" in err
    assert all(line.startswith(("error: ", "warning: ")) for line in err.splitlines())
    assert "results: r.json" in out
    assert json.loads((tmp_path / "r.json").read_text())["trainings"]
    assert not [path for path in tmp_path.iterdir() if path.suffix == ".h5" or path.name[0] == "."]


def test_no_home_or_one_that_cannot_be_written_is_no_fault(predict):
    pytest.importorskip("matplotlib")
    for name in ("XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR", "NUMBA_CACHE_DIR"):
        os.environ.pop(name, None)
    homes = {"HOME": "/dev/null"}, {"HOME": ""}
    for home in homes:
        for arguments in (["train", "planar", "--epochs", 2, "--plot", "p.png"], predict, ["info"]):
            status, _, err = run(*arguments, **home)
            assert (status, err) == (0, ""), (home, arguments)


# --------------------------------------------------------------------------------------------
# Ctrl-C

COMMAND = """
import atexit, os, signal, sys, time

def press():
    os.kill(os.getpid(), signal.SIGINT)

class Dying:
    def __del__(self):
        press()

def main(arguments):
    if arguments == ["import"]:
        sys.modules["press"] = sys.modules[__name__]
        import late
        print("imported", flush=True)
    elif arguments == ["destructor"]:
        Dying()
    elif arguments == ["exit"]:
        atexit.register(press)
        return 3
    elif arguments == ["twice"]:
        try:
            press()
        finally:
            press()
    else:
        press()
    time.sleep(60)
    return 0

if sys.argv[1:] == ["first"]:
    press()
    raise ImportError("an extension in C")
"""
PROGRAM = """
import sys
from accelnn import __main__ as accelnn
accelnn.COMMANDS["info"] = ("command", "")
sys.exit(accelnn.program("info"))
"""


def test_ctrl_c_ends_a_command_at_any_moment_with_130_and_one_line(tmp_path):
    (tmp_path / "command.py").write_text(COMMAND)
    (tmp_path / "late.py").write_text("import press\npress.press()\nimport decimal\n")
    for moment in ("first", "import", "destructor", "twice", "later"):
        status, out, err = run(moment, options=("-c", PROGRAM))
        assert status == 130, moment
        assert err in ("Interrupted.\n", "" if moment == "twice" else None), moment
        assert out == ("imported\n" if moment == "import" else "")
    assert run("exit", options=("-c", PROGRAM)) == (3, "", "")


def test_ctrl_c_in_a_training_waits_for_the_end_of_its_steps(tmp_path):
    code = """
import os, signal, sys
from accelnn.__main__ import program
from accelnn.optimizers import SGD
update, steps = SGD.update, []
def interrupted(*arguments):
    steps.append(1)
    if len(steps) == 25:
        os.kill(os.getpid(), signal.SIGINT)
    update(*arguments)
SGD.update = interrupted
sys.exit(program())
"""
    command = ["train", "planar", "--epochs", "3000", "--solver", "direct"]
    status, _, err = run(*command, *FILES[:4], options=("-c", code))
    assert (status, err) == (130, "Interrupted.\n")
    epochs = json.loads((tmp_path / "r.json").read_text())["trainings"][0]["epochs_run"]
    assert epochs > 0
    command[3] = str(epochs)
    assert run(*command, "--save", "same.h5")[0] == 0
    interrupted, same = (accelnn.load(tmp_path / f"{name}.h5") for name in ("m", "same"))
    assert (interrupted.params.flat == same.params.flat).all()


@pytest.mark.slow
def test_ctrl_c_at_random_moments_ends_every_command_without_a_traceback(predict, tmp_path):
    trained = ("planar", "--epochs", "3000", *FILES)
    reports = map(str, RESULTS.glob("*.json"))
    commands = (
        (("-m", "accelnn", "info"), 1.5),
        (("-m", f"accelnn.{predict[0]}", *predict[1:], "--json", "o.json"), 1.2),
        (("-m", "accelnn.train", *trained), 3.0),
        (("-m", "accelnn", "train", "digits", "--epochs", "10"), 3.0),
        (("-m", "accelnn.bench", "report", *reports), 1.5),
        (("-m", "accelnn.bench", "ops", "--quick", "--case", "dot", "--json", "b.json"), 5.0),
    )
    moments = random.Random(1)
    for arguments, longest in commands:
        for _ in range(4):
            moment = moments.uniform(0.2, longest)  # before, Python itself starts
            with subprocess.Popen(
                [sys.executable, *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
            ) as process:
                time.sleep(moment)
                process.send_signal(signal.SIGINT)
                _, err = process.communicate(timeout=60)
            assert process.returncode in (0, 130), (arguments, moment, err)
            assert b"Traceback" not in err, (arguments, moment)
            assert not [path for path in tmp_path.iterdir() if path.name[0] == "."]


# --------------------------------------------------------------------------------------------
# modules in the current folder


def test_the_process_that_compiles_imports_nothing_from_the_current_folder(monkeypatch, tmp_path):
    (tmp_path / "pickle.py").write_text("raise SystemExit('imported')")
    started = []
    function = SimpleNamespace(stats=SimpleNamespace(cache_path="cache"), compile=lambda _: None)
    monkeypatch.setattr(jit, "kept", lambda *_: False)
    monkeypatch.setattr(jit.subprocess, "run", lambda command, **_: started.append(command))
    jit.prepare(function, (), "float64")
    monkeypatch.undo()
    monkeypatch.chdir(tmp_path)
    [[*python, code]] = started
    assert "pickle.load" in code
    subprocess.run([*python, "import pickle"], check=True)


@pytest.mark.slow
def test_the_processes_of_other_packages_import_nothing_from_the_current_folder(tmp_path):
    pytest.importorskip("sklearn")
    for name in ("multiprocessing", "numpy", "pickle", "sklearn"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('imported')")
    job = (
        "train",
        "--quick",
        "--case",
        "planar",
        "--implementation",
        "sklearn",
        "--json",
        "b.json",
    )
    for option in ("-P", "-I"):  # -P as in the installed command
        status, _, err = run("bench", *job, options=(option, "-m", "accelnn"))
        assert status == 0, err
        [record] = json.loads((tmp_path / "b.json").read_text())["records"]
        assert record["status"] == "ok", option
