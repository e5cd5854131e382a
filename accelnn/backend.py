"""The backends, NumPy on the host and CuPy on a CUDA device: choosing one, and moving arrays.

The arrays decide where code runs: pure functions find the module of theirs with `array_module`.
Only the edges (loading data, drawing parameters, the command line) ask for the chosen backend,
with `current`.
"""

import argparse
import functools
import os
import platform
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ParamSpec, TypeVar

import numpy as np
import psutil

from accelnn.columns import HostColumns
from accelnn.install import install_command

Array = Any  # a numpy.ndarray or a cupy.ndarray

P = ParamSpec("P")
T = TypeVar("T")

_DLPACK_CPU, _DLPACK_CUDA = 1, 2  # device types of the DLPack standard

# How CuPy's pool, CUDA and cuBLAS report full memory
_NO_ROOM = r"OutOfMemoryError|cudaErrorMemoryAllocation|CUDA_ERROR_OUT_OF_MEMORY|_ALLOC_FAILED"


class BackendError(RuntimeError):
    """The backend asked for cannot be used; the message says why."""


class _UnknownBackend(BackendError, argparse.ArgumentTypeError):
    """A name of no backend, for Python and for argparse."""


class DeviceMemoryError(MemoryError):
    """A GPU is out of memory, with `free` of `total` bytes, while `doing` its work ("training"),
    which needed `needed` bytes more, None if CUDA does not say."""

    def __init__(self, doing: str, device: str, needed: int | None, free: int, total: int) -> None:
        self.doing, self.needed, self.free, self.total = doing, needed, free, total
        more = "more memory was" if needed is None else f"{_size(needed)} more were"
        super().__init__(
            f"{doing}: {device} is out of memory: {more} needed, {_size(free)} of {_size(total)} "
            "are free. What helps: a smaller batch_size; float32 in place of float64; X and Y left "
            "on the host as NumPy arrays, from where mini-batches are streamed; or the CPU, "
            'accelnn.use("numpy")'
        )


class NumpyBackend:
    """Arrays in host memory, worked on by NumPy. `str()` gives the name for `use`."""

    name = "numpy"
    default_dtype: np.dtype[Any] = np.dtype(np.float64)
    xp: Any = np

    def __str__(self) -> str:
        return self.name

    def to_device(self, array: Array, dtype: Any = None) -> Array:
        """`array` on this backend, as `dtype` if one is given; a copy only if needed."""
        return np.asarray(to_host(array), dtype)

    def synchronize(self) -> None:
        """Wait until the device has done all its work."""

    def device_name(self) -> str:
        """The processor's name, or the GPU's, with its index if there are several."""
        return _processor_name()

    def memory(self) -> tuple[int, int]:
        """Free and total memory in bytes; what CuPy keeps for its next arrays counts as free."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @contextmanager
    def timer(self) -> Iterator[Any]:
        """Time a block: `with backend.timer() as timing: ...`, then `timing.seconds`."""
        timing = SimpleNamespace()
        start = time.perf_counter()
        yield timing
        timing.seconds = time.perf_counter() - start

    @contextmanager
    def at_work(self, doing: str) -> Iterator[None]:  # noqa: ARG002
        """Make this device the current one, and raise DeviceMemoryError if it has no room."""
        yield

    def enter(self) -> Callable[[], None]:
        """Make this GPU the current one; the function returned restores the last."""
        return lambda: None


class CupyBackend(NumpyBackend):
    """Arrays on the CUDA device with this index, CuPy's current one by default."""

    name = "cupy"
    default_dtype = np.dtype(np.float32)

    def __init__(self, index: int | None = None) -> None:
        self.index: int = self.xp.cuda.Device().id if index is None else index

    def __str__(self) -> str:
        return f"{self.name}:{self.index}"

    @property
    def xp(self) -> Any:
        return import_module("cupy")

    @property
    def device(self) -> Any:
        """CuPy's own object, current within a `with`."""
        return self.xp.cuda.Device(self.index)

    def to_device(self, array: Array, dtype: Any = None) -> Array:
        array = _shared(array)
        size = getattr(array, "nbytes", 0)
        with self.at_work(f"moving {_size(size)} to the device" if size else "moving data"):
            return self.xp.asarray(array, dtype)

    def synchronize(self) -> None:
        self.device.synchronize()

    def device_name(self) -> str:
        runtime = self.xp.cuda.runtime
        name = str(runtime.getDeviceProperties(self.index)["name"].decode())
        return name if runtime.getDeviceCount() == 1 else f"{name} ({self})"

    def memory(self) -> tuple[int, int]:
        with self.device:
            free, total = self.xp.cuda.runtime.memGetInfo()
            return free + self.xp.get_default_memory_pool().free_bytes(), total

    @contextmanager
    def timer(self) -> Iterator[Any]:
        cuda, timing = self.xp.cuda, SimpleNamespace()
        with self.device:  # CUDA's events time the device, not Python
            start, end = cuda.Event(), cuda.Event()
            start.record()
            yield timing
            end.record()
            end.synchronize()
        timing.seconds = cuda.get_elapsed_time(start, end) / 1e3

    @contextmanager
    def at_work(self, doing: str) -> Iterator[None]:
        with self.device:
            try:
                yield
            except Exception as error:
                if not re.search(_NO_ROOM, repr(error)):
                    raise
                asked = re.search(r"allocating ([\d,]+) bytes", str(error))
                needed = int(asked[1].replace(",", "")) if asked else None
                name, memory = self.device_name(), self.memory()
                raise DeviceMemoryError(doing, name, needed, *memory) from error

    def enter(self) -> Callable[[], None]:
        restore: Callable[[], None] = self.xp.cuda.Device().use
        self.device.use()
        return restore


Backend = NumpyBackend

_NUMPY = NumpyBackend()
_cupy = functools.cache(CupyBackend)  # one backend for each device
_current: Backend | None = None


def array_module(*arrays: Array) -> Any:
    """`xp`: cupy if the arrays are on a device, else numpy; numbers and lists go with either.
    Raises TypeError if host and device arrays are mixed."""
    cupy = sys.modules.get("cupy")  # before CuPy is imported, no array can be one of its
    if cupy is None:
        return np
    on_device = [isinstance(array, cupy.ndarray) for array in arrays]
    if not any(on_device):
        return np
    if any(isinstance(array, np.ndarray | HostColumns) for array in arrays):
        places = ", ".join("cupy" if there else "numpy" for there in on_device)
        hint = "move them to one place with accelnn.to_device or accelnn.to_host"
        raise TypeError(f"arrays on the host and on the device are mixed ({places}): {hint}")
    return cupy


def as_array(value: Any, name: str = "the array") -> Array:
    """`value` as a numpy.ndarray or, if it is on a CUDA device, a cupy.ndarray of real numbers.

    Takes every object with DLPack or `__array__`: of PyTorch, JAX, pandas, polars. Shares its
    memory if the package can. Raises TypeError for lists, for values other than real numbers, for
    masked values, and for an array on a CUDA device if CuPy cannot be used.
    """
    if not (hasattr(value, "__dlpack__") or hasattr(value, "__array__")):
        got = type(value).__name__
        raise TypeError(f"expected {name} as an array, got {got}: pass numpy.array(...)")
    return as_numbers(value, name)


def as_numbers(value: Any, name: str = "the array") -> Array:
    """Like `as_array`, but takes numbers and lists too."""
    array = _shared(value, name)
    if isinstance(array, HostColumns) or array.dtype.kind in "buif":
        return array
    hints = dict.fromkeys("UST", ": for labels, pass numpy.unique(labels, return_inverse=True)[1]")
    hints["O"] = ": if all are numbers, pass its .astype(float)"
    got = f"{array.dtype}{hints.get(array.dtype.kind, '')}"
    raise TypeError(f"expected {name} as an array of real numbers, got dtype {got}")


def _shared(value: Any, name: str = "the array") -> Array:
    """`value` as an array of NumPy or CuPy, without a copy if the two can share memory."""
    cupy = sys.modules.get("cupy")
    if np.ma.is_masked(value):
        raise TypeError(f"expected {name} without masked values: pass its .filled(value)")
    if isinstance(value, HostColumns) or (cupy and isinstance(value, cupy.ndarray)):
        return value
    if isinstance(value, np.ndarray):
        return np.asarray(value)  # not numpy.matrix, whose * is a matrix product
    if hasattr(value, "__dlpack_device__"):
        kind = value.__dlpack_device__()[0]
        if kind == _DLPACK_CUDA:
            if reason := why_not():
                raise TypeError(f"{name} is on a CUDA device, but {reason}; or move it to the host")
            return import_module("cupy").from_dlpack(value)
        if kind == _DLPACK_CPU:
            with suppress(Exception):  # a dtype or a flag that NumPy's DLPack does not take
                return np.from_dlpack(value)
    try:
        return np.asarray(value)
    except Exception as error:  # of many kinds: each package has its own
        raise TypeError(f"{name}: {type(value).__name__} gives no array ({error})") from error


def backend_of(*arrays: Array) -> Backend:
    """The backend that these arrays are on; raises TypeError if they are on several."""
    xp = array_module(*arrays)
    if xp is np:
        return _NUMPY
    indices = {array.device.id for array in arrays if isinstance(array, xp.ndarray)}
    if len(indices) > 1:
        places = ", ".join(f"cupy:{index}" for index in sorted(indices))
        hint = "move them to one with accelnn.to_device, after accelnn.use"
        raise TypeError(f"arrays on several GPUs are mixed ({places}): {hint}")
    return _cupy(indices.pop())


def at_work(doing: str) -> Callable[[Callable[P, T]], Callable[P, T]]:
    """Decorates a function of (net, params, ...) to run in `Backend.at_work` of the parameters."""

    def decorate(function: Callable[P, T]) -> Callable[P, T]:
        @functools.wraps(function)
        def on_device(*args: P.args, **kwargs: P.kwargs) -> T:
            params = kwargs.get("params", args[1] if len(args) > 1 else None)
            with backend_of(getattr(params, "flat", None)).at_work(doing):
                return function(*args, **kwargs)

        return on_device

    return decorate


def to_host(array: Array, out: Array | None = None) -> Array:
    """`array`, a number, a list, or as in `as_array`, as a numpy.ndarray, which shares its memory
    on the host. Waits for the device if it is on one.

    out : a C-contiguous array of this shape and dtype, to receive an array from a device
    """
    array = _shared(array)
    return np.asarray(array) if array_module(array) is np else array.get(out=out)


def to_device(array: Array, dtype: Any = None) -> Array:
    """`array`, as in `to_host`, on the chosen backend; a copy only if needed."""
    return current().to_device(array, dtype)


def current() -> Backend:
    """The backend chosen by `use`, or else by ACCELNN_BACKEND, "numpy" by default. If that asks for
    CuPy and it cannot be used, warns once with the reason and chooses NumPy; raises BackendError
    if it names no backend."""
    global _current
    if _current is None:
        name = os.environ.get("ACCELNN_BACKEND", "numpy")
        try:
            _current = named(name)
        except _UnknownBackend as error:
            raise BackendError(f"ACCELNN_BACKEND: {error}") from None
        except BackendError as error:
            _current = _NUMPY
            message = f"ACCELNN_BACKEND={name}, but {error}; running on the CPU with NumPy"
            warnings.warn(message, RuntimeWarning, stacklevel=2)
        _current.enter()
    return _current


def use(name: str) -> AbstractContextManager[object]:
    """Choose the backend: `use("cupy")` from here on, `with use("cupy"):` for a block.

    name : "numpy", "cupy", "cupy:1" (the second of the visible GPUs) or "auto" (CuPy if it
        works, else NumPy). "cupy" is CuPy's current GPU, at first the first one

    Raises BackendError for another name, a GPU that does not exist, or if CuPy cannot be used.
    """
    global _current
    chosen, block = named(name), ExitStack()
    block.callback(setattr, sys.modules[__name__], "_current", _current)
    block.callback(chosen.enter())
    _current = chosen
    return block


def argument(text: str) -> str:
    """`text` if it names a backend: the `type` of a command line's --backend."""
    if not re.fullmatch(r"numpy|auto|cupy(:[0-9]{1,4})?", text):
        expected = "numpy, cupy or auto, or cupy:N for the visible GPU with index N, from 0"
        raise _UnknownBackend(f"unknown backend {text!r}: expected {expected}")
    return text


def named(name: str) -> Backend:
    """The backend of a name, which does not become the chosen one; takes and raises as `use`."""
    kind, _, digits = argument(name).partition(":")
    if kind == "numpy":
        return _NUMPY
    index = int(digits) if digits else None
    reason = why_not(index)
    if reason is None:
        return _cupy(CupyBackend(index).index)
    if kind == "auto":
        return _NUMPY
    raise BackendError(reason)


@functools.cache
def why_not(index: int | None = None) -> str | None:
    """Why CuPy cannot use the visible GPU with this index, its current one by default; None if a
    small product succeeded there."""
    try:
        import cupy
    except Exception as error:  # a broken install can raise anything
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            return f"CuPy is not installed: {install_cupy()}"
        return f"CuPy is installed but does not import ({_first_line(error)})"
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    among = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
    try:
        if cupy.cuda.runtime.driverGetVersion() == 0:
            return "there is no NVIDIA driver on this machine"
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        if "cudaErrorNoDevice" not in str(error):
            return f"the NVIDIA driver does not answer ({_first_line(error)})"
        count = 0
    if count == 0:
        return f"no CUDA device is visible{among}"
    if index is not None and index >= count:
        devices = "one CUDA device is visible, cupy:0"
        if count > 1:
            devices = f"{count} CUDA devices are visible, cupy:0 to cupy:{count - 1}"
        return f"there is no cupy:{index}: {devices}{among}"
    try:
        with cupy.cuda.Device(index):
            ones = cupy.ones((16, 16), cupy.float32)
            total = float((ones @ ones).sum())
    except Exception as error:
        if isinstance(error, MemoryError) or "MemoryAllocation" in str(error):
            return f"the GPU is out of memory on first touch ({_first_line(error)})"
        hint = f"if CUDA's libraries are missing: {install_cupy()}"
        return f"a small product on the GPU failed ({_first_line(error)}); {hint}"
    if total != 16**3:
        return f"a small product on the GPU is wrong ({total:g}, expected {16**3})"
    return None


def install_cupy() -> str:
    """The command that installs CuPy and the other packages for a GPU."""
    return f"{install_command('cuda13')} (CUDA 12 drivers: cuda12)"


def _size(size: int) -> str:
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >= 2**power:
            return f"{size / 2**power:.3g} {unit}"
    return f"{size} bytes"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@functools.cache
def _processor_name() -> str:
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)", info.read_text() if info.exists() else "", re.M)
    return found[1].strip() if found else platform.processor() or platform.machine()
