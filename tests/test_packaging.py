"""The wheel holds the library, all of it and nothing else; it works away from the repository;
`import accelnn` is quick.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_AS = {"accelnn": "accelnn", "kernels": "accelnn/kernels", "datasets": "accelnn/datasets"}
DATA = {"accelnn/py.typed", "accelnn/datasets/digits.h5"}
CODE = {".py", ".cu", ".cuh"}

needs_pip = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pip", "setuptools")),
    reason="building a wheel needs pip and setuptools here",
)


def python(*arguments, cwd, **environment):
    """What `python *arguments` printed, standard error after standard output."""
    done = subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def repository_files():
    """The paths of the repository's files as a clone would have them, relative to ROOT."""
    if shutil.which("git") and (ROOT / ".git").exists():
        command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        if listed.returncode == 0:
            return [Path(name) for name in listed.stdout.split("\0") if (ROOT / name).is_file()]
    built = ("build", "dist", "__pycache__")
    return [
        path
        for path in (path.relative_to(ROOT) for path in ROOT.rglob("*") if path.is_file())
        if not any(
            part.startswith(".") or part in built or part.endswith(".egg-info")
            for part in path.parts
        )
        and (path.parts[0] != "datasets" or path.suffix == ".py" or path.name == "digits.h5")
    ]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel built from a copy of the repository in which a user keeps data and notes."""
    folder = tmp_path_factory.mktemp("wheel")
    for path in repository_files():
        copy = folder / "source" / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copy)
    for users in ("datasets/train_catvnoncat.h5", "datasets/football.mat", "accelnn/notes.txt"):
        (folder / "source" / users).touch()
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    python("-m", "pip", "wheel", *options, ".", cwd=folder / "source")
    [built] = folder.glob("accelnn-*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory):
    """A folder that holds the installed wheel and nothing else."""
    target = tmp_path_factory.mktemp("installed")
    options = ("--no-deps", "--no-index", "--no-compile", "--target", target)
    python("-m", "pip", "install", *options, wheel, cwd=target.parent)
    return target


@needs_pip
def test_the_wheel_holds_the_library_and_nothing_else(wheel):
    files = map(PurePosixPath, zipfile.ZipFile(wheel).namelist())
    held = {str(file) for file in files if not file.parts[0].endswith(".dist-info")}
    expected = {
        str(PurePosixPath(INSTALLED_AS[path.parts[0]], *path.parts[1:]))
        for path in repository_files()
        if path.parts[0] in INSTALLED_AS and path.suffix in CODE
    }
    assert held == expected | DATA


@needs_pip
def test_the_embedded_data_reach_the_wheel_unchanged(wheel):
    for name in DATA:
        path = ROOT / name.replace("accelnn/datasets/", "datasets/")
        assert zipfile.ZipFile(wheel).read(name) == path.read_bytes()


@needs_pip
@pytest.mark.parametrize(
    "module",
    ["accelnn", "accelnn.kernels", "accelnn.datasets", "accelnn.solvers", "accelnn.bench"],
)
def test_the_installed_wheel_works_in_a_foreign_folder(installed, tmp_path, module):
    code = f"import {module}; print({module}.__file__)"
    file = python("-c", code, cwd=tmp_path, PYTHONPATH=str(installed), PYTHONSAFEPATH="1").strip()
    assert Path(file).is_relative_to(installed)


def test_importing_accelnn_imports_nothing_heavy(tmp_path):
    heavy = {"numba", "cupy", "torch", "jax", "matplotlib", "h5py", "scipy.optimize"}
    code = f"import sys, accelnn; print(*({heavy} & set(sys.modules)))"
    assert python("-c", code, cwd=tmp_path).split() == []


def test_importing_accelnn_takes_less_than_0_3_seconds(tmp_path):
    def seconds():
        report = python("-X", "importtime", "-c", "import accelnn", cwd=tmp_path)
        [line] = [line for line in report.splitlines() if line.endswith("| accelnn")]
        return int(line.split("|")[1]) * 1e-6

    # The best of five: whatever else the machine does can only make an import slower.
    assert min(seconds() for _ in range(5)) < 0.3
