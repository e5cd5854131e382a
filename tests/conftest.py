"""Fixtures shared by the tests: backends and data."""

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from doubles import cublaslt as cublaslt_double
from doubles import device as device_double
from doubles import host_cuda

from accelnn import backend, datasets
from accelnn.kernels.gpu import cublaslt
from accelnn.solvers import captured, choice

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def fresh_backend(monkeypatch):
    """Each test starts with no backend chosen and no solver warmed up."""
    monkeypatch.delenv("ACCELNN_BACKEND", raising=False)
    monkeypatch.setattr(backend, "_current", None)
    monkeypatch.setattr(choice, "_warm", set())
    backend.why_not.cache_clear()
    yield
    backend.why_not.cache_clear()


def in_place_of_cupy(module, monkeypatch):
    """Choose the device double as the backend, in place of CuPy; returns the module."""
    monkeypatch.setitem(sys.modules, "cupy", module)
    backend.use("cupy")
    for count in ("synchronizations", "uploads", "launches"):
        monkeypatch.setattr(device_double.Log, count, 0)
    return module


@pytest.fixture
def double(monkeypatch):
    """The device double without kernels, for vectorised code."""
    return in_place_of_cupy(device_double.Module(), monkeypatch)


@pytest.fixture
def double_with_kernels(monkeypatch):
    """The device double that runs kernels/gpu/*.cu on the host."""
    if host_cuda.compiler() is None:
        pytest.skip("no C++ compiler to build the kernels with")
    return in_place_of_cupy(device_double.Module(kernels=True), monkeypatch)


@pytest.fixture
def double_with_cublaslt(double_with_kernels, monkeypatch):
    """The device double with kernels, and with cuBLASLt as its `lt`."""
    double_with_kernels.lt = cublaslt_double.install(monkeypatch, device_double.enqueue)
    yield double_with_kernels
    cublaslt._handle.cache_clear()


@pytest.fixture(params=["double", pytest.param("cupy", marks=pytest.mark.gpu)])
def captures(request):
    """Each device that can capture steps, as the backend: the double, and a GPU."""
    if request.param == "double":
        request.getfixturevalue("double_with_cublaslt")
    else:
        backend.use("cupy")
        reason = captured.why_not()
        if reason is not None:
            pytest.skip(reason)
    return backend.current()


DEVICES = {"double": "double", "kernels": "double_with_kernels"}


@pytest.fixture(
    params=[
        "numpy",
        *(pytest.param(name, marks=pytest.mark.slow) for name in DEVICES),
        pytest.param("cupy", marks=pytest.mark.gpu),
    ],
)
def there(request):
    """Each backend in turn: NumPy, the device double without and with kernels, a GPU."""
    if request.param in DEVICES:
        request.getfixturevalue(DEVICES[request.param])
    elif request.param == "cupy":
        backend.use("cupy")
    return backend.current()


@pytest.fixture
def real_data():
    """The folder of the real files; skips if there is none."""
    folder = Path(os.environ.get("ACCELNN_DATA", SHARED_DATA))
    if not (folder / "train_catvnoncat.h5").exists():
        pytest.skip("no real data: set ACCELNN_DATA to its folder")
    return folder


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """An empty working folder, with no data in any folder that is searched; gives its parent."""
    monkeypatch.delenv("ACCELNN_DATA", raising=False)
    monkeypatch.setattr("platformdirs.user_cache_dir", lambda name: str(tmp_path / "cache" / name))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path


def pytest_configure():
    # Background jobs of a shell ignore Ctrl-C, and processes that tests interrupt would inherit it.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header():
    reason = backend.why_not()
    return [f"tests that need a GPU are deselected: {reason}"] if reason else []


def pytest_collection_modifyitems(config, items):
    if backend.why_not():
        config.hook.pytest_deselected(items=[i for i in items if i.get_closest_marker("gpu")])
        items[:] = [i for i in items if not i.get_closest_marker("gpu")]


@pytest.fixture
def flower():
    """X (2, 400) and Y (1, 400) of the flower, on the host."""
    data = datasets.flower()
    return backend.to_host(data.X_train), backend.to_host(data.Y_train)


@pytest.fixture
def random():
    return np.random.default_rng(7)
