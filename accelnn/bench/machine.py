"""What machine this is, and the most it can do: the limits that the benchmark's rows are set
against, measured in the same run.

Memory bandwidth is the best of several parallel stream kernels after McCalpin's STREAM (1995),
counting the bytes that the kernel names, read or written; arithmetic is a large matrix product.
"""

import functools
import os
import platform
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import numba
import numpy as np
import psutil
import threadpoolctl

import accelnn
from accelnn import backend
from accelnn.backend import Array, Backend
from accelnn.bench.timing import stopwatch
from accelnn.kernels.jit import njit

ASSUMED_CACHE = 32 * 2**20  # bytes, where the system does not tell


@functools.cache
def last_level_cache() -> int:
    """Bytes of the largest cache of the first core."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=ASSUMED_CACHE)


def blas_threads() -> int:
    """Threads of NumPy's matrix products."""
    return max((pool["num_threads"] for pool in _blas_pools()), default=1)


def describe() -> dict[str, Any]:
    """The machine, as the JSON reports it."""
    machine: dict[str, Any] = {
        "processor": backend.NumpyBackend().device_name(),
        "architecture": platform.machine(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "memory_bytes": psutil.virtual_memory().total,
        "last_level_cache_bytes": last_level_cache(),
        "gpu": None,
    }
    if backend.cupy_unusable() is None:
        gpu = backend.CupyBackend()
        machine["gpu"] = gpu.device_name()
        machine["gpu_memory_bytes"] = gpu.memory()[1]
    return machine


def versions() -> dict[str, str]:
    """Of everything that a figure may depend on."""
    found = {"python": platform.python_version(), "accelnn": accelnn.__version__}
    for package in ("numpy", "numba", "llvmlite", "scipy"):
        found[package] = metadata.version(package)
    for pool in _blas_pools():
        found["blas"] = f"{pool['internal_api']} {pool['version']}"
    if backend.cupy_unusable() is None:
        found["cupy"] = backend.CupyBackend().xp.__version__
    return found


def limits(place: Backend, dtype: str, repeat: int = 5) -> dict[str, float]:
    """The best rates seen on `place`: "stream_gb_per_s" and "matmul_gflop_per_s" in `dtype`."""
    if place.name == "cupy":
        n = min(2**27, place.memory()[0] // 64)
        streams = _cupy_streams(place, n)
    else:
        # four times the cache an array: none of it is still there when its turn comes again
        n = max(2**23, 4 * last_level_cache() // 8)
        streams = _numba_streams(n)
    rates = {}
    for name, (run, arrays) in streams.items():
        run()
        seconds = min(stopwatch(run, place)() for _ in range(repeat))
        rates[name] = arrays * n * 8 / seconds / 1e9
    return {
        **{f"stream_{name}_gb_per_s": rate for name, rate in rates.items()},
        "stream_gb_per_s": max(rates.values()),
        "matmul_gflop_per_s": _matmul_rate(place, dtype, repeat),
    }


def _matmul_rate(place: Backend, dtype: str, repeat: int) -> float:
    n = 8192 if place.name == "cupy" and place.memory()[0] > 2**32 else 2000
    A = place.xp.ones((n, n), dtype)
    B, out = A * 0.5, place.xp.empty_like(A)
    run = functools.partial(place.xp.matmul, A, B, out=out)
    return 2 * n**3 / min(stopwatch(run, place)() for _ in range(repeat)) / 1e9


Streams = dict[str, tuple[Callable[[], object], int]]  # name: (run, arrays read and written)


def _numba_streams(n: int) -> Streams:
    a, b, c = np.ones(n), np.ones(n), np.ones(n)
    return {
        "copy": (lambda: _copy(a, c), 2),
        "add": (lambda: _add(a, b, c), 3),
        "triad": (lambda: _triad(a, b, c), 3),
        "fill": (lambda: _fill(c), 1),
        "sum": (lambda: _sum(a), 1),
        "dot": (lambda: _dot(a, b), 2),
    }


def _cupy_streams(place: Backend, n: int) -> Streams:
    a: Array = place.xp.ones(n)
    b, c = a + 1, place.xp.empty_like(a)
    return {
        "copy": (lambda: place.xp.copyto(c, a), 2),
        "add": (lambda: place.xp.add(a, b, out=c), 3),
        "fill": (lambda: c.fill(1.0), 1),
        "sum": (a.sum, 1),
        "dot": (lambda: place.xp.dot(a, b), 2),
    }


# fastmath lets a sum be added up in SIMD lanes: here the limit is wanted, not the order
_parallel = functools.partial(njit, parallel=True, fastmath=True)


@_parallel
def _copy(a: Array, c: Array) -> None:
    for i in numba.prange(len(a)):
        c[i] = a[i]


@_parallel
def _add(a: Array, b: Array, c: Array) -> None:
    for i in numba.prange(len(a)):
        c[i] = a[i] + b[i]


@_parallel
def _triad(a: Array, b: Array, c: Array) -> None:
    for i in numba.prange(len(a)):
        c[i] = a[i] + 3.0 * b[i]


@_parallel
def _fill(c: Array) -> None:
    for i in numba.prange(len(c)):
        c[i] = 1.0


@_parallel
def _sum(a: Array) -> float:
    total = 0.0
    for i in numba.prange(len(a)):
        total += a[i]
    return total


@_parallel
def _dot(a: Array, b: Array) -> float:
    total = 0.0
    for i in numba.prange(len(a)):
        total += a[i] * b[i]
    return total


def _blas_pools() -> list[dict[str, Any]]:
    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
