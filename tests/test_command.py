"""The command `accelnn`: one for all, by its name, by `python -m accelnn`, and as modules."""

import re
import subprocess
import sys

import pytest

import accelnn
from accelnn.__main__ import COMMANDS, main, run

# The older module of each command that has one
MODULES = {
    "bench": "accelnn.bench",
    "train": "accelnn.train",
    "predict": "accelnn.predict",
    "info": "accelnn.info",
    "data": "accelnn.datasets",
}


def python(*arguments):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)


def test_help_lists_every_command(capsys):
    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    output = capsys.readouterr().out
    for name, (_, text) in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(text)}$", output, re.MULTILINE)
    assert max(map(len, output.splitlines())) <= 80


def test_help_imports_no_command():
    heavy = (
        "accelnn.cli.console",
        "numpy",
        "accelnn.datasets",
        "accelnn.plots",
        "numba",
        "scipy",
        "rich",
        "h5py",
    )
    code = f"""
import sys
from accelnn.__main__ import main
try:
    main(["--help"])
finally:
    print([name for name in {heavy} if name in sys.modules], file=sys.stderr)
"""
    assert python("-c", code).stderr == "[]\n"


def test_without_a_command_or_with_an_unknown_one_it_lists_them_and_fails(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().err
    with pytest.raises(SystemExit) as end:
        main(["trian"])
    assert end.value.code == 2
    assert "unknown command trian: expected one of bench, train," in capsys.readouterr().err


def test_every_public_name_is_imported_when_it_is_used():
    code = """
import accelnn.tours, accelnn.training.fit  # modules with names of functions
import accelnn
assert {*accelnn.__all__} <= {*dir(accelnn)}
assert not hasattr(accelnn, "nothing")
for name in accelnn.__all__:
    exec(f"from accelnn import {name}")
    assert getattr(accelnn, name) is globals()[name], name
for function in ("fit", "minimize", "gradient_check", "warm_up", "one_hot", "use"):
    assert callable(globals()[function]), function
"""
    assert python("-c", code).stderr == ""


def test_the_version_is_printed(capsys):
    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"accelnn {accelnn.__version__}\n"


def test_every_command_has_help_and_its_module_form_is_the_same(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    for name in COMMANDS:
        with pytest.raises(SystemExit) as end:
            main([name, "--help"])
        assert end.value.code == 0
        output = capsys.readouterr().out
        assert output.startswith("usage: "), name
        if name in MODULES:
            module = python("-m", MODULES[name], "--help")
            assert (module.returncode, module.stdout) == (0, output), name


def test_the_exit_status_and_the_arguments_are_the_commands():
    assert python("-m", "accelnn", "train", "--list").returncode == 0
    assert python("-m", "accelnn", "train", "nope").returncode == 2
    assert python("-m", "accelnn", "predict", "nowhere.h5", "cat.png").returncode == 1


def test_ctrl_c_ends_every_command_without_a_traceback(monkeypatch, capsys):
    def interrupted(_module):
        raise KeyboardInterrupt  # while it is imported

    monkeypatch.setattr("importlib.import_module", interrupted)
    for name in COMMANDS:
        assert run(name, []) == 130
        assert capsys.readouterr().err == "Interrupted.\n"


def test_info_lists_the_backend_and_the_packages(capsys):
    assert main(["info"]) == 0
    output = capsys.readouterr().out
    assert re.search(r"backend used +numpy on ", output)
    assert re.search(r"numba +\d", output)


def test_warm_up_prepares_both_dtypes(monkeypatch, capsys):
    prepared = []
    monkeypatch.setattr(accelnn, "warm_up", lambda dtype: prepared.append(dtype) or 1.25)
    assert main(["warm-up"]) == 0
    assert prepared == ["float64", "float32"]
    captured = capsys.readouterr()
    assert captured.out.splitlines()[0] == "float64 solvers are ready: 1.2 s"
    assert captured.err == ""
