"""Choosing a backend, its messages, and moving arrays."""

import builtins
import sys
import time
import types
import warnings

import numpy as np
import pytest
from doubles import device as device_double
from helpers.core import refused

import accelnn
from accelnn import backend, gpus, info, predict, train


@pytest.fixture
def no_cupy(monkeypatch):
    """CuPy is not installed."""
    monkeypatch.setitem(sys.modules, "cupy", None)


@pytest.fixture
def two_gpus(monkeypatch):
    """Two devices are visible."""
    module = device_double.Module(devices=2)
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


def current_device():
    return device_double.Devices.current


def test_numpy_is_the_default_without_a_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert backend.current().name == "numpy"


@pytest.mark.usefixtures("no_cupy")
def test_cupy_by_environment_falls_back_with_one_warning_that_names_the_reason(monkeypatch):
    for name in ("cupy", "cupy:0"):
        monkeypatch.setattr(backend, "_current", None)
        monkeypatch.setenv("ACCELNN_BACKEND", name)
        with pytest.warns(RuntimeWarning, match="CuPy is not installed.*on the CPU") as warned:
            chosen = backend.current(), backend.current()
        assert [place.name for place in chosen] == ["numpy", "numpy"]
        assert len(warned) == 1
    monkeypatch.setattr(backend, "_current", None)
    monkeypatch.setenv("ACCELNN_BACKEND", "auto")
    assert backend.current().name == "numpy"
    for name in ("cupy", "cupy:0"):
        with refused("CuPy is not installed", accelnn.BackendError):
            accelnn.use(name)
    assert backend.current().name == "numpy"
    assert gpus.count() == 0


@pytest.mark.usefixtures("two_gpus")
def test_a_name_of_no_backend_is_an_error_that_lists_the_names(monkeypatch, capsys):
    expected = "expected numpy, cupy or auto, or cupy:N"
    names = ["torch", "cupy:x", "cupy:-1", "cupy:", "cupy:1.0", "cupy: 1", "cupy:٣", "numpy:1", ""]
    for name in [*names, "auto:0"]:
        with refused(f"unknown backend '{name}': {expected}", accelnn.BackendError):
            accelnn.use(name)
        monkeypatch.setenv("ACCELNN_BACKEND", name)
        with refused(f"ACCELNN_BACKEND: unknown backend '{name}'.*cupy:N", accelnn.BackendError):
            backend.current()
    for main, arguments in ((train.main, ["planar"]), (predict.main, ["model.h5", "cat.jpg"])):
        with pytest.raises(SystemExit) as exit_:
            main([*arguments, "--backend=cupy:x"])
        assert exit_.value.code == 2
        assert "argument --backend: unknown backend" in capsys.readouterr().err
    assert current_device() == 0


# --------------------------------------------------------------------------------------------
# several GPUs


@pytest.mark.usefixtures("two_gpus")
def test_a_device_is_chosen_by_its_index_and_arrays_made_at_the_edges_land_on_it(monkeypatch):
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy:1")
    assert accelnn.to_device(np.ones(2)).device.id == 1
    net = accelnn.Network([3, 2, 1])
    accelnn.use("cupy:1")
    assert str(backend.current()) == "cupy:1"
    assert backend.current().device_name() == "device double (cupy:1)"
    for array in (accelnn.to_device(np.ones(3)), net.init().flat):
        assert array.device.id == 1
        assert backend.backend_of(array) is backend.current()
    accelnn.use("cupy:0")
    assert accelnn.to_device(np.ones(3)).device.id == 0
    moved = accelnn.to_device(array)  # from the other one
    assert moved.device.id == 0
    np.testing.assert_array_equal(accelnn.to_host(moved), accelnn.to_host(array))


@pytest.mark.usefixtures("two_gpus")
def test_a_block_restores_the_device_too_after_it_and_after_an_error():
    accelnn.use("cupy")
    with accelnn.use("cupy:1"):
        assert (str(backend.current()), current_device()) == ("cupy:1", 1)
        with accelnn.use("numpy"):
            assert backend.current().name == "numpy"
            with accelnn.use("auto"):
                assert str(backend.current()) == "cupy:1"
        with accelnn.use("cupy:0"):
            assert current_device() == 0
        assert current_device() == 1
        with accelnn.use("cupy"):  # CuPy's current one
            assert str(backend.current()) == "cupy:1"
    assert (str(backend.current()), current_device()) == ("cupy:0", 0)
    with pytest.raises(KeyError), accelnn.use("cupy:1"):
        raise KeyError
    assert (str(backend.current()), current_device()) == ("cupy:0", 0)


@pytest.mark.usefixtures("two_gpus")
def test_a_device_that_is_not_there_is_an_error_that_says_how_many_are_visible(monkeypatch):
    with pytest.raises(
        accelnn.BackendError,
        match=r"^there is no cupy:2: 2 CUDA devices are visible, cupy:0 to cupy:1$",
    ):
        accelnn.use("cupy:2")
    monkeypatch.setattr(device_double.Devices, "count", 1)
    backend.why_not.cache_clear()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3")
    with pytest.raises(
        accelnn.BackendError,
        match=r"no cupy:1: one CUDA device is visible, cupy:0 \(CUDA_VISIBLE_DEVICES='3'\)$",
    ):
        accelnn.use("cupy:1")
    assert current_device() == 0
    assert backend.current().name == "numpy"
    monkeypatch.setattr(backend, "_current", None)
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy:1")
    with pytest.warns(RuntimeWarning, match=r"ACCELNN_BACKEND=cupy:1, but there is no cupy:1.*CPU"):
        assert backend.current().name == "numpy"


def test_each_device_is_tried_before_it_is_used(two_gpus, monkeypatch):
    right = two_gpus.ones

    def broken_on_the_second(*arguments):
        if current_device() == 1:
            raise device_double.CUDARuntimeError("cudaErrorECCUncorrectable: broken")
        return right(*arguments)

    monkeypatch.setattr(two_gpus, "ones", broken_on_the_second, raising=False)
    with pytest.raises(accelnn.BackendError, match="small product on the GPU failed.*ECC"):
        accelnn.use("cupy:1")
    accelnn.use("cupy:0")
    assert current_device() == 0


@pytest.mark.usefixtures("two_gpus")
def test_a_training_runs_on_the_device_of_its_parameters_whichever_is_current():
    random = np.random.default_rng(0)
    X, Y = random.standard_normal((20, 9)), random.integers(0, 2, (1, 9))
    net = accelnn.Network([20, 3, 1])
    for options in ({"batch_size": 4}, {"solver": "gram"}, {"validation": 0.3}):
        costs = []
        for name in ("cupy:0", "cupy:1"):
            with accelnn.use(name):
                arrays = [accelnn.to_device(array, np.float64) for array in (X, Y)]
                first = net.init(dtype="float64")
            assert current_device() == 0
            params, history = accelnn.fit(
                net, first, *arrays, epochs=5, learning_rate=0.1, record_every=1, **options
            )
            assert current_device() == 0
            assert str(backend.backend_of(params.flat)) == name
            assert history.device == f"device double ({name})"
            costs.append(history.costs)
        assert costs[0] == costs[1], options


@pytest.mark.usefixtures("two_gpus")
def test_a_network_works_where_its_parameters_are_whichever_device_is_current():
    net = accelnn.Network([4, 3, 1])
    X, Y = np.ones((4, 5)), np.ones((1, 5))
    with accelnn.use("cupy:1"):
        params, X_there, Y_there = net.init(dtype="float64"), *map(accelnn.to_device, (X, Y))
    here = accelnn.Parameters(accelnn.to_host(params.flat), params.layers)
    assert current_device() == 0
    for there, expected in (
        (net.predict(params, X_there), net.predict(here, X)),
        (net.forward(params, X=X_there), net.forward(here, X)),
        (net.gradients(params=params, X=X_there, Y=Y_there).flat, net.gradients(here, X, Y).flat),
    ):
        assert there.device.id == 1
        np.testing.assert_allclose(accelnn.to_host(there), expected, 1e-12)
    assert net.cost(params, X_there, Y_there) == pytest.approx(net.cost(here, X, Y))
    assert current_device() == 0


@pytest.mark.usefixtures("two_gpus")
def test_mixing_the_arrays_of_two_devices_is_an_error_that_says_so():
    arrays = []
    for name in ("cupy:0", "cupy:1"):
        with accelnn.use(name):
            arrays.append(accelnn.to_device([1.0]))
    with pytest.raises(TypeError, match=r"mixed \(cupy:0, cupy:1\).*to_device"):
        backend.backend_of(*arrays)


def test_time_and_memory_are_those_of_the_device(two_gpus, monkeypatch):
    memory = {0: (1, 10), 1: (2, 20)}
    monkeypatch.setattr(two_gpus.cuda.runtime, "memGetInfo", lambda: memory[current_device()])
    second = backend.CupyBackend(1)
    assert second.memory() == (2, 20)
    pool = types.SimpleNamespace(free_bytes=lambda: 5)  # that CuPy keeps for its next arrays
    monkeypatch.setattr(two_gpus, "get_default_memory_pool", lambda: pool)
    assert second.memory() == (7, 20)
    with second.timer() as timing:
        assert current_device() == 1
        second.synchronize()
    assert timing.seconds >= 0
    assert current_device() == 0


# --------------------------------------------------------------------------------------------
# no room


def full(*_arguments, **_options):
    raise device_double.OutOfMemoryError(
        "Out of memory allocating 3,221,225,472 bytes (allocated so far: 512 bytes)."
    )


def test_an_upload_without_room_says_how_much_was_needed_and_free_and_what_to_do(
    double, monkeypatch
):
    monkeypatch.setattr(double, "asarray", full)
    with pytest.raises(accelnn.DeviceMemoryError) as caught:
        accelnn.to_device(np.ones(2**17))
    assert str(caught.value) == (
        "moving 1 MiB to the device: device double is out of memory: 3 GiB more were needed, "
        "1 GiB of 2 GiB are free. What helps: a smaller batch_size; float32 in place of float64; "
        "X and Y left on the host as NumPy arrays, from where mini-batches are streamed; or the "
        'CPU, accelnn.use("numpy")'
    )
    error = caught.value
    assert isinstance(error, MemoryError)
    assert (error.doing, error.needed) == ("moving 1 MiB to the device", 3 * 2**30)
    assert (error.free, error.total) == (2**30, 2**31)
    assert isinstance(error.__cause__, device_double.OutOfMemoryError)


@pytest.mark.usefixtures("double")
def test_a_training_out_of_memory_says_so_and_another_runs_where_there_is_room():
    random = np.random.default_rng(0)
    X = accelnn.to_device(random.standard_normal((20, 9)))
    Y = accelnn.to_device(random.integers(0, 2, (1, 9)), np.float64)
    net = accelnn.Network([20, 3, 1])
    first = net.init(dtype="float64")

    def fill_up(checkpoint):
        if checkpoint.epoch == 2:
            full()

    for solver in ("direct", "gram"):
        options = {"epochs": 5, "learning_rate": 0.1, "solver": solver, "record_every": 1}
        with refused("^training: device double is out of", accelnn.DeviceMemoryError):
            accelnn.fit(net, first, X, Y, callbacks=[fill_up], **options)
        _, history = accelnn.fit(net, first, X, Y, **options)
        assert len(history.costs) == 5


@pytest.mark.usefixtures("double")
def test_a_library_that_finds_no_room_is_understood_too():
    for message in (
        "cudaErrorMemoryAllocation: out of memory",
        "CUBLAS_STATUS_ALLOC_FAILED",
        "CUDA_ERROR_OUT_OF_MEMORY: out of memory",
    ):
        with (
            refused("more memory was needed, 1 GiB of 2 GiB", accelnn.DeviceMemoryError),
            backend.current().at_work("predicting"),
        ):
            raise device_double.CUDARuntimeError(message)


def test_other_errors_pass_as_they_are(there):
    with pytest.raises(ZeroDivisionError), there.at_work("dividing"):
        1 / 0  # noqa: B018
    with pytest.raises(MemoryError) as caught, there.at_work("filling the host"):
        raise MemoryError
    assert type(caught.value) is MemoryError


@pytest.mark.gpu
def test_a_real_gpu_without_room_says_how_much_was_needed_and_has_it_again_for_less():
    accelnn.use("cupy")
    there = backend.current()
    _, total = there.memory()
    with pytest.raises(accelnn.DeviceMemoryError) as caught, there.at_work("trying"):
        there.xp.empty(2 * total, np.uint8)
    assert caught.value.needed >= 2 * total
    assert 0 < caught.value.free <= caught.value.total == total
    assert float(accelnn.to_device(np.ones(5)).sum()) == 5


@pytest.mark.gpu
def test_a_real_gpu_is_described():
    found = gpus.describe(0)
    assert found.name
    assert 0 < found.memory_free_bytes <= found.memory_bytes
    assert found.cache_bytes > 2**20
    assert float(found.compute_capability) >= 5
    assert str(found).startswith(found.name)


# --------------------------------------------------------------------------------------------
# what is broken


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
        r"small product.*libcublas.*\[cuda13\]",
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


def test_each_fault_of_the_gpu_is_named(monkeypatch):
    for fault, ((*place, name), broken, message) in FAULTS.items():
        module = device_double.Module()
        monkeypatch.setitem(sys.modules, "cupy", module)
        setattr(getattr(module.cuda, place[0]) if place else module, name, broken)
        backend.why_not.cache_clear()
        with refused(message, accelnn.BackendError):
            accelnn.use("cupy")
        with accelnn.use("auto"):
            assert backend.current().name == "numpy", fault


def test_a_broken_install_is_not_called_missing(monkeypatch):
    real = builtins.__import__
    for error, message in (
        (ImportError("undefined symbol"), "does not import.*undefined symbol"),
        (
            ModuleNotFoundError("No module named 'fastrlock'", name="fastrlock"),
            "does not import.*fastrlock",
        ),
    ):

        def broken(name, *args, error=error, **kwargs):
            return _raise(error) if name == "cupy" else real(name, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", broken)
        backend.why_not.cache_clear()
        assert "not installed:" not in backend.why_not()
        with refused(message, accelnn.BackendError):
            accelnn.use("cupy")


def test_no_device_names_the_environment_variable_that_hides_them(monkeypatch):
    module = device_double.Module()
    module.cuda.runtime.getDeviceCount = lambda: 0
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES=''" in backend.why_not()


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


def test_every_backend_gives_its_device_memory_and_time(there):
    assert there.device_name()
    free, total = there.memory()
    assert 0 < free <= total
    with there.timer() as timing:
        there.synchronize()
        time.sleep(0.02 if there.name == "numpy" else 0)
    assert (0.02 if there.name == "numpy" else 0) <= timing.seconds < 10


@pytest.mark.usefixtures("two_gpus")
def test_a_gpu_is_described():
    assert gpus.count() == 2
    found = gpus.describe(1)
    assert (found.name, found.compute_capability, found.cuda) == ("device double", "9.0", "13.0")
    assert (found.memory_free_bytes, found.memory_bytes) == (2**30, 2**31)
    text = "device double, 1.0 GiB free of 2.0 GiB, compute capability 9.0, CUDA 13.0"
    assert str(found) == text


def test_info_lists_every_visible_gpu_and_the_one_that_does_not_answer(
    two_gpus, monkeypatch, capsys
):
    right = two_gpus.cuda.runtime.getDeviceProperties

    def silent(index):
        if index == 1:
            raise device_double.CUDARuntimeError("cudaErrorDevicesUnavailable: busy")
        return right(index)

    monkeypatch.setattr(two_gpus.cuda.runtime, "getDeviceProperties", silent)
    monkeypatch.setenv("ACCELNN_BACKEND", "cupy")
    monkeypatch.setenv("COLUMNS", "200")
    assert info.main() == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line.strip()}
    assert "double works, with CUDA 13.0" in lines["CuPy"]
    assert "compute capability 9.0" in lines["cupy:0"]
    assert "does not answer (CUDARuntimeError: cudaErrorDevicesUnavailable" in lines["cupy:1"]
