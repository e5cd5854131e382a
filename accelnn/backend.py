"""NumPy on the host or CuPy on a CUDA device: which one, and how arrays get there and back.

The arrays decide where code runs: pure functions take arrays and find their module with
`array_module`. Only the edges (loading data, drawing parameters, the command line) ask which
backend was chosen, with `current`.

`ACCELNN_BACKEND` = numpy (default) | cupy | auto chooses when the first edge asks; `use`
chooses from Python. `auto` is CuPy where it works and NumPy elsewhere.
"""

import functools
import os
import platform
import sys
import time
import warnings
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import psutil

Array = Any  # a numpy.ndarray or a cupy.ndarray

NAMES = ("numpy", "cupy", "auto")
_INSTALL = "pip install 'accelnn[cuda13]' (CUDA 13 drivers) or 'accelnn[cuda12]'"


class BackendError(RuntimeError):
    """The backend that was asked for cannot be used; the message says why."""


class Timing:
    """What `Backend.timer` measured: `seconds`, a float, once the block has ended."""

    seconds: float = float("nan")


class NumpyBackend:
    """Arrays in host memory, worked on by NumPy."""

    name = "numpy"
    default_dtype: np.dtype[Any] = np.dtype(np.float64)
    xp: Any = np

    def to_device(self, array: Array, dtype: Any = None) -> Array:
        """`array` on this backend, as `dtype` where one is given; a copy only where needed."""
        return np.asarray(to_host(array), dtype)

    def synchronize(self) -> None:
        """Wait until all work handed to the device is done (at once, on the host)."""

    def device_name(self) -> str:
        """The processor's name, for instance "AMD EPYC"."""
        return _processor_name()

    def memory(self) -> tuple[int, int]:
        """Free and total memory in bytes."""
        memory = psutil.virtual_memory()
        return memory.available, memory.total

    @contextmanager
    def timer(self) -> Any:
        """Time a block: `with backend.timer() as timing: ...`, then `timing.seconds`."""
        timing = Timing()
        start = time.perf_counter()
        yield timing
        timing.seconds = time.perf_counter() - start


class CupyBackend(NumpyBackend):
    """Arrays on the current CUDA device, worked on by CuPy."""

    name = "cupy"
    default_dtype = np.dtype(np.float32)

    @property
    def xp(self) -> Any:
        import cupy

        return cupy

    def to_device(self, array: Array, dtype: Any = None) -> Array:
        return self.xp.asarray(array, dtype)

    def synchronize(self) -> None:
        self.xp.cuda.get_current_stream().synchronize()

    def device_name(self) -> str:
        device = self.xp.cuda.Device()
        return str(self.xp.cuda.runtime.getDeviceProperties(device.id)["name"].decode())

    def memory(self) -> tuple[int, int]:
        free, total = self.xp.cuda.runtime.memGetInfo()
        return free, total

    @contextmanager
    def timer(self) -> Any:
        """Time a block with CUDA events: what the device took, not what Python took."""
        cuda, timing = self.xp.cuda, Timing()
        start, end = cuda.Event(), cuda.Event()
        start.record()
        yield timing
        end.record()
        end.synchronize()
        timing.seconds = cuda.get_elapsed_time(start, end) / 1e3


Backend = NumpyBackend

_NUMPY, _CUPY = NumpyBackend(), CupyBackend()
_current: Backend | None = None


def array_module(*arrays: Array) -> Any:
    """`xp`: cupy where the arrays are on a device, else numpy.

    Numbers and lists go with either. Raises TypeError where host and device arrays are mixed.
    """
    cupy = sys.modules.get("cupy")  # where nobody imported CuPy, no array can be one of its
    if cupy is None:
        return np
    on_device = [isinstance(array, cupy.ndarray) for array in arrays]
    if not any(on_device):
        return np
    if any(isinstance(array, np.ndarray) for array in arrays):
        places = ", ".join("cupy" if there else "numpy" for there in on_device)
        raise TypeError(
            f"arrays on the host and on the device are mixed ({places}): move them to one "
            "place with accelnn.to_device or accelnn.to_host"
        )
    return cupy


def backend_of(*arrays: Array) -> Backend:
    """The backend on which these arrays live."""
    return _NUMPY if array_module(*arrays) is np else _CUPY


def to_host(array: Array) -> Array:
    """`array` as a numpy.ndarray; waits for the device if it lives there."""
    return np.asarray(array) if array_module(array) is np else array.get()


def to_device(array: Array, dtype: Any = None) -> Array:
    """`array` on the chosen backend, as `dtype` where one is given."""
    return current().to_device(array, dtype)


def current() -> Backend:
    """The chosen backend: by `use`, or else by ACCELNN_BACKEND.

    Where ACCELNN_BACKEND asks for CuPy and it cannot be used, warns once with the reason and
    chooses NumPy. Raises BackendError where ACCELNN_BACKEND names no backend.
    """
    global _current
    if _current is None:
        name = os.environ.get("ACCELNN_BACKEND", "numpy")
        try:
            _current = _find(name)
        except BackendError as error:
            if name != "cupy":
                raise BackendError(f"ACCELNN_BACKEND: {error}") from None
            _current = _NUMPY
            warnings.warn(
                f"ACCELNN_BACKEND=cupy, but {error}; running on the CPU with NumPy",
                RuntimeWarning,
                stacklevel=2,
            )
    return _current


class use:
    """Choose the backend: `use("cupy")` from here on, `with use("cupy"):` for a block.

    Parameters
    ----------
    name : "numpy", "cupy" or "auto" (CuPy where it works, else NumPy)

    Raises BackendError where the name is none of these, or CuPy cannot be used.
    """

    def __init__(self, name: str) -> None:
        global _current
        chosen = _find(name)
        self._previous, _current = _current, chosen

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        global _current
        _current = self._previous


@functools.cache
def cupy_unusable() -> str | None:
    """Why CuPy cannot be used here, or None where a small real product on a GPU succeeded."""
    try:
        import cupy
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            return f"CuPy is installed but lacks a module it needs ({error})"
        return f"CuPy is not installed: {_INSTALL}"
    except Exception as error:  # a broken install can raise anything
        return f"CuPy is installed but does not import ({_first_line(error)})"
    try:
        if cupy.cuda.runtime.driverGetVersion() == 0:
            return "there is no NVIDIA driver on this machine"
        if cupy.cuda.runtime.getDeviceCount() == 0:
            return _no_device()
    except Exception as error:
        if "cudaErrorNoDevice" in str(error):
            return _no_device()
        return f"the NVIDIA driver does not answer ({_first_line(error)})"
    try:
        ones = cupy.ones((16, 16), cupy.float32)
        total = float((ones @ ones).sum())
    except Exception as error:
        if isinstance(error, MemoryError) or "MemoryAllocation" in str(error):
            return f"the GPU is out of memory on first touch ({_first_line(error)})"
        return (
            f"a small product on the GPU failed ({_first_line(error)}); "
            f"if CUDA's libraries are missing: {_INSTALL}"
        )
    if total != 16**3:
        return f"a small product on the GPU is wrong ({total:g}, expected {16**3})"
    return None


def _find(name: str) -> Backend:
    if name not in NAMES:
        raise BackendError(f"unknown backend {name!r}: expected numpy, cupy or auto")
    if name == "numpy":
        return _NUMPY
    reason = cupy_unusable()
    if reason is None:
        return _CUPY
    if name == "auto":
        return _NUMPY
    raise BackendError(reason)


def _no_device() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = "" if visible is None else f" (CUDA_VISIBLE_DEVICES={visible!r})"
    return f"no CUDA device is visible{shown}"


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]


@functools.cache
def _processor_name() -> str:
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
