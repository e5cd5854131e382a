"""The wheel holds the library, all of it and nothing else; once installed it works in the clone's
folder and elsewhere; `import accelnn` imports next to nothing.
"""

import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path, PurePosixPath

import pytest

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[1]
INSTALLED_AS = {"accelnn": "accelnn", "kernels": "accelnn/kernels", "datasets": "accelnn/datasets"}
DATA = {"accelnn/py.typed", "accelnn/datasets/digits.h5"}
CODE = {".py", ".cu", ".cuh"}

needs_pip = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("pip", "setuptools")),
    reason="building a wheel needs pip and setuptools here",
)


def python(*arguments, cwd, **environment):
    """The output of `python *arguments`, standard error after standard output."""
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
def clone(tmp_path_factory):
    """A copy of the repository in which a user keeps data and notes."""
    folder = tmp_path_factory.mktemp("clone")
    for path in repository_files():
        copy = folder / path
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, copy)
    for users in ("datasets/train_catvnoncat.h5", "datasets/football.mat", "accelnn/notes.txt"):
        (folder / users).touch()
    return folder


@pytest.fixture(scope="module")
def wheel(clone, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    options = ("--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", folder)
    python("-m", "pip", "wheel", *options, ".", cwd=clone)
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
    contents = {str(file) for file in files if not file.parts[0].endswith(".dist-info")}
    expected = {
        str(PurePosixPath(INSTALLED_AS[path.parts[0]], *path.parts[1:]))
        for path in repository_files()
        if path.parts[0] in INSTALLED_AS and path.suffix in CODE
    }
    assert contents == expected | DATA


@needs_pip
def test_the_embedded_data_reach_the_wheel_unchanged(wheel):
    for name in DATA:
        path = ROOT / name.replace("accelnn/datasets/", "datasets/")
        assert zipfile.ZipFile(wheel).read(name) == path.read_bytes()


@needs_pip
def test_the_installed_wheel_works_in_a_foreign_folder(installed, tmp_path):
    for name in ("accelnn", *(f"accelnn.{part}" for part in ("kernels", "datasets", "solvers"))):
        code = f"import {name}; print({name}.__file__)"
        file = python("-c", code, cwd=tmp_path, PYTHONPATH=str(installed), PYTHONSAFEPATH="1")
        assert Path(file.strip()).is_relative_to(installed), name


@needs_pip
def test_the_clone_works_beside_an_installed_wheel(clone, installed):
    assert "planar" in python("-m", "accelnn.train", "--list", cwd=clone, PYTHONPATH=str(installed))
    code = "import accelnn.kernels, accelnn.datasets; print(accelnn.{}.__file__)"
    for name in ("kernels", "datasets"):
        file = python("-c", code.format(name), cwd=clone, PYTHONPATH=str(installed)).strip()
        assert Path(file).is_relative_to(clone / name)


@needs_pip
def test_unrelated_packages_beside_the_installed_one_are_not_taken_for_ours(installed, tmp_path):
    shutil.copytree(installed / "accelnn", tmp_path / "accelnn")
    for name in ("kernels", "datasets"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").touch()
    code = "import accelnn; print(*accelnn.__path__)"
    assert python("-c", code, cwd=tmp_path).split() == [str(tmp_path / "accelnn")]


@needs_pip
def test_the_command_that_installs_an_extra_is_one_that_pip_takes(clone, installed, tmp_path):
    code = "from accelnn.install import install_command; print(install_command('plot'))"
    options = ("--dry-run", "--no-deps", "--no-index", "--no-build-isolation", "--ignore-installed")
    for cwd in (clone, tmp_path):
        pip, command, source = shlex.split(python("-c", code, cwd=cwd, PYTHONPATH=str(installed)))
        assert (pip, command) == ("pip", "install")
        assert source == ".[plot]" if cwd == clone else source.endswith(".whl")
        assert "Would install accelnn" in python("-m", "pip", command, *options, source, cwd=cwd)


def test_importing_accelnn_imports_no_package_and_its_names_few(tmp_path):
    code = """
import sys
before = set(sys.modules)
import accelnn
{}
print(*sorted(set(sys.modules) - before))
"""
    needed = {"numpy", "psutil"}
    for uses, expected in (("", {"accelnn"}), ("accelnn.fit", {"accelnn"} | needed)):
        imported = python("-c", code.format(uses), cwd=tmp_path).split()
        assert {name.split(".")[0] for name in imported} - sys.stdlib_module_names == expected
        assert uses or len(imported) < 10
