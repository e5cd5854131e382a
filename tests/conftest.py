"""Fixtures shared by the tests: the backends, and the real data where it is."""

import os
import sys
from pathlib import Path

import device_double
import numpy as np
import pytest

from accelnn import backend

SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def fresh_backend(monkeypatch):
    """Each test starts on NumPy, chosen by nobody, and leaves no choice behind."""
    monkeypatch.delenv("ACCELNN_BACKEND", raising=False)
    monkeypatch.setattr(backend, "_current", None)
    backend.cupy_unusable.cache_clear()
    yield
    backend.cupy_unusable.cache_clear()


@pytest.fixture
def double(monkeypatch):
    """The device double in CuPy's place, chosen as the backend; gives the module."""
    module = device_double.Module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    backend.use("cupy")
    monkeypatch.setattr(device_double.Log, "synchronizations", 0)
    monkeypatch.setattr(device_double.Log, "uploads", 0)
    return module


@pytest.fixture(
    params=["numpy", "double", pytest.param("cupy", marks=pytest.mark.gpu)],
)
def there(request):
    """Each backend in turn, chosen: NumPy, the device double, and a real GPU."""
    if request.param == "double":
        request.getfixturevalue("double")
    elif request.param == "cupy":
        backend.use("cupy")
    return backend.current()


@pytest.fixture
def real_data():
    """The folder of the real files; skips where there is none."""
    folder = Path(os.environ.get("ACCELNN_DATA", SHARED_DATA))
    if not (folder / "train_catvnoncat.h5").exists():
        pytest.skip("no real data: set ACCELNN_DATA to its folder")
    return folder


def pytest_collection_modifyitems(items):
    reason = backend.cupy_unusable()
    if reason:
        for item in items:
            if "gpu" in item.keywords:
                item.add_marker(pytest.mark.skip(reason=reason))


@pytest.fixture
def random():
    return np.random.default_rng(7)
