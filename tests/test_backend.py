"""Which backend is chosen, what is said about it, and how arrays move."""

import builtins
import subprocess
import sys
import warnings

import device_double
import numpy as np
import pytest

import accelnn
from accelnn import backend


@pytest.fixture
def no_cupy(monkeypatch):
    """CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


def test_numpy_is_the_default():
    assert backend.current().name == "numpy"


@pytest.mark.usefixtures("no_cupy")
def test_cupy_by_environment_falls_back_with_one_warning_that_names_the_reason(monkeypatch):
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy")
    with pytest.warns(RuntimeWarning, match="CuPy is not installed.*on the CPU") as warned:
        chosen = backend.current(), backend.current()
    assert [place.name for place in chosen] == ["numpy", "numpy"]
    assert len(warned) == 1


@pytest.mark.usefixtures("no_cupy")
def test_auto_without_cupy_is_numpy_without_a_warning(monkeypatch):
    monkeypatch.setenv("ACCELNN_BACKEND", "auto")
    assert backend.current().name == "numpy"


@pytest.mark.usefixtures("no_cupy")
def test_asking_for_cupy_from_python_is_an_error():
    with pytest.raises(accelnn.BackendError, match="CuPy is not installed"):
        accelnn.use("cupy")
    assert backend.current().name == "numpy"


def test_an_unknown_name_is_an_error_that_lists_the_names(monkeypatch):
    with pytest.raises(accelnn.BackendError, match=r"'torch'.*numpy, cupy or auto"):
        accelnn.use("torch")
    monkeypatch.setenv("ACCELNN_BACKEND", "gpu")
    with pytest.raises(accelnn.BackendError, match=r"ACCELNN_BACKEND.*'gpu'.*numpy, cupy or auto"):
        backend.current()


def _raise(error):
    raise error


FAULTS = {
    "no driver": (("runtime", "driverGetVersion"), lambda: 0, "no NVIDIA driver"),
    "no device": (("runtime", "getDeviceCount"), lambda: 0, "no CUDA device is visible"),
    "no device, as an error": (
        ("runtime", "getDeviceCount"),
        lambda: _raise(device_double.CUDARuntimeError("cudaErrorNoDevice: none")),
        "no CUDA device is visible",
    ),
    "old driver": (
        ("runtime", "getDeviceCount"),
        lambda: _raise(device_double.CUDARuntimeError("cudaErrorInsufficientDriver: old")),
        "driver does not answer.*cudaErrorInsufficientDriver",
    ),
    "no CUDA libraries": (
        ("ones",),
        lambda *_: _raise(ImportError("libcublas.so.13: cannot open shared object file")),
        r"small product.*libcublas.*accelnn\[cuda13\]",
    ),
    "out of memory": (
        ("ones",),
        lambda *_: _raise(device_double.OutOfMemoryError("out of memory allocating 512 bytes")),
        "out of memory on first touch",
    ),
    "out of memory for the context": (
        ("ones",),
        lambda *_: _raise(device_double.CUDARuntimeError("cudaErrorMemoryAllocation: out")),
        "out of memory on first touch",
    ),
    "wrong product": (
        ("ones",),
        lambda shape, dtype: device_double.asarray(np.zeros(shape), dtype),
        "product on the GPU is wrong",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_of_the_gpu_is_named(monkeypatch, fault):
    (*place, name), broken, message = FAULTS[fault]
    module = device_double.Module()
    monkeypatch.setitem(sys.modules, "cupy", module)
    setattr(getattr(module.cuda, place[0]) if place else module, name, broken)
    with pytest.raises(accelnn.BackendError, match=message):
        accelnn.use("cupy")
    with accelnn.use("auto"):
        assert backend.current().name == "numpy"


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("undefined symbol"), "does not import.*undefined symbol"),
        (ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"), "fastrlock"),
    ],
)
def test_a_broken_install_is_told_from_none(monkeypatch, error, message):
    real = builtins.__import__

    def broken(name, *args, **kwargs):
        return _raise(error) if name == "cupy" else real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", broken)
    assert accelnn.backend.cupy_unusable()
    assert "not installed:" not in backend.cupy_unusable()
    with pytest.raises(accelnn.BackendError, match=message):
        accelnn.use("cupy")


def test_no_device_names_the_environment_variable_that_hides_them(monkeypatch):
    module = device_double.Module()
    module.cuda.runtime.getDeviceCount = lambda: 0
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in backend.cupy_unusable()


@pytest.mark.usefixtures("double")
def test_use_as_a_block_restores_the_choice_after_it_and_after_an_error():
    with accelnn.use("numpy"):
        assert backend.current().name == "numpy"
        with accelnn.use("auto"):
            assert backend.current().name == "cupy"
        assert backend.current().name == "numpy"
    assert backend.current().name == "cupy"
    with pytest.raises(KeyError), accelnn.use("numpy"):
        raise KeyError
    assert backend.current().name == "cupy"


def test_arrays_move_to_the_backend_and_back(there):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    moved = accelnn.to_device(array)
    assert backend.backend_of(moved).name == there.name
    assert backend.array_module(moved) is there.xp
    np.testing.assert_array_equal(accelnn.to_host(moved), array)
    assert accelnn.to_device(moved, np.float64).dtype == np.float64
    with accelnn.use("numpy"):
        assert isinstance(accelnn.to_device(moved), np.ndarray)


@pytest.mark.usefixtures("double")
def test_mixing_host_and_device_arrays_is_an_error_that_says_so():
    with pytest.raises(TypeError, match=r"mixed \(cupy, numpy\).*to_device"):
        backend.array_module(accelnn.to_device([1.0]), np.ones(1))


def test_numbers_and_lists_go_with_either(there):
    assert backend.array_module([1, 2], 3.0, None) is np
    assert backend.array_module(accelnn.to_device([1.0]), [1, 2], 3.0) is there.xp


def test_every_backend_tells_its_device_its_memory_and_the_time(there):
    assert there.device_name()
    free, total = there.memory()
    assert 0 < free <= total
    with there.timer() as timing:
        there.synchronize()
    assert 0 <= timing.seconds < 10


def test_timer_measures_what_its_block_took():
    import time

    with backend.NumpyBackend().timer() as timing:
        time.sleep(0.02)
    assert 0.02 <= timing.seconds < 2


def test_nothing_is_warned_about_where_nothing_was_asked():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        backend.current()


def test_info_tells_what_would_be_used_and_why():
    result = subprocess.run(
        [sys.executable, "-m", "accelnn.info"],
        env={"PATH": "", "ACCELNN_BACKEND": "auto"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "ACCELNN_BACKEND" in result.stdout
    assert "numpy" in result.stdout
    assert result.stderr == ""
