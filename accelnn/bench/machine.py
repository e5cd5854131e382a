"""The machine and its limits, measured in the same run as the rows that are compared with them.

Memory bandwidth is the best of parallel stream kernels after McCalpin's STREAM (1995), counting
bytes read and written; on a GPU it is that of a copy. Arithmetic is a large matrix product of
random numbers: a GPU multiplies zeros and ones faster, because they take less power.
"""

import contextlib
import functools
import os
import platform
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import numba
import numpy as np
import psutil
import threadpoolctl
from llvmlite import binding

import accelnn
from accelnn import backend, gpus
from accelnn.backend import Array, Backend, CupyBackend
from accelnn.bench.timing import stopwatch
from accelnn.kernels.jit import njit

ASSUMED_CACHE = 32 * 2**20  # bytes, if the system does not report them

# By LLVM's name of a CPU's feature, the widest first
VECTOR_UNITS = {"avx512f": "AVX512", "avx2": "AVX2", "avx": "AVX", "sve": "SVE", "neon": "NEON"}


@functools.cache
def last_level_cache() -> int:
    """Bytes of the largest cache of the first core."""
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text().strip()
        sizes.append(int(text.rstrip("KM")) * {"K": 2**10, "M": 2**20}.get(text[-1], 1))
    return max(sizes, default=ASSUMED_CACHE)


def cache_of(place: Backend) -> int:
    """Bytes of a backend's last-level cache."""
    if isinstance(place, CupyBackend):
        return gpus.describe(place.index).cache_bytes or ASSUMED_CACHE
    return last_level_cache()


def vector_unit() -> str | None:
    """The CPU's widest vector instructions, among VECTOR_UNITS."""
    found = binding.get_host_cpu_features()
    return next((unit for feature, unit in VECTOR_UNITS.items() if found.get(feature)), None)


@functools.cache
def blas_threads() -> int:
    """Threads of NumPy's matrix products."""
    return max((pool["num_threads"] for pool in _blas_pools()), default=1)


def describe() -> dict[str, Any]:
    """The machine, as in the JSON; with several GPUs, the one that is measured."""
    has_gpu = backend.why_not() is None
    return {
        "processor": backend.NumpyBackend().device_name(),
        "vector_unit": vector_unit(),
        "architecture": platform.machine(),
        "system": platform.platform(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1,
        "memory_bytes": psutil.virtual_memory().total,
        "last_level_cache_bytes": last_level_cache(),
        "gpu": asdict(gpus.describe(backend.CupyBackend().index)) if has_gpu else None,
    }


def versions() -> dict[str, str]:
    """The versions of everything that a result may depend on."""
    found = {"python": platform.python_version(), "accelnn": accelnn.__version__}
    found |= {name: metadata.version(name) for name in ("numpy", "numba", "llvmlite", "scipy")}
    for pool in _blas_pools():
        found["blas"] = f"{pool['internal_api']} {pool['version']}"
    if backend.why_not() is None:
        cupy = backend.CupyBackend().xp
        found["cupy"] = cupy.__version__
        found["cuda"] = gpus.version(cupy.cuda.runtime.runtimeGetVersion())
        with contextlib.suppress(metadata.PackageNotFoundError):
            found["nvmath-python"] = metadata.version("nvmath-python")
    return found


def limits(
    place: Backend, dtype: str, repeat: int = 5, precisions: Iterable[str] = ()
) -> dict[str, float]:
    """The rates of `place`: "stream_gb_per_s", "matmul_gflop_per_s" in `dtype`, and on a GPU
    "matmul_<precision>_gflop_per_s" in each of `precisions`, which are those of `accelnn.fit`.

    On the host the best of `repeat` measurements, because other work slows some of them down; on a
    GPU, which has no other work, their median.
    """
    on_gpu = isinstance(place, CupyBackend)
    # on the host each array is four times the cache, so that none of it is cached in the next run
    n = min(2**28, place.memory()[0] // 40) if on_gpu else max(2**23, last_level_cache() // 2)

    def seconds_of(run: Callable[[], object]) -> float:
        measure = stopwatch(run, place)
        times = [measure() for _ in range(repeat)]
        return median(times) if on_gpu else min(times)

    found = {
        f"stream_{name}_gb_per_s": arrays * n * 8 / seconds_of(run) / 1e9
        for name, (run, arrays) in _streams(place, n).items()
    }
    found["stream_gb_per_s"] = max(found.values())
    products = {"": functools.partial(_product, place, dtype)}
    if isinstance(place, CupyBackend):
        products |= {f"{name}_": functools.partial(_product_in, place, name) for name in precisions}
    for name, product in products.items():
        run, operations = product()
        found[f"matmul_{name}gflop_per_s"] = operations / seconds_of(run) / 1e9
    return found


def _factors(place: Backend, dtype: str) -> tuple[Array, Array]:
    """Two square matrices, random in ±1/2: of 8192 rows on a GPU with enough memory."""
    n = 8192 if place.name == "cupy" and place.memory()[0] > 2**32 else 2000
    A, B = place.to_device(np.random.default_rng(0).random((2, n, n), np.dtype(dtype)) - 0.5)
    return A, B


def _product(place: Backend, dtype: str) -> tuple[Callable[[], object], int]:
    """A large product in `dtype`, and its floating-point operations."""
    A, B = _factors(place, dtype)
    run = functools.partial(place.xp.matmul, A, B, out=place.xp.empty_like(A))
    return run, 2 * len(A) ** 3


# cuBLAS's names for the type of the factors, and for that of products and sums
PRECISIONS = {
    "float64": ("CUDA_R_64F", "CUBLAS_COMPUTE_64F"),
    "float32": ("CUDA_R_32F", "CUBLAS_COMPUTE_32F"),
    "tf32": ("CUDA_R_32F", "CUBLAS_COMPUTE_32F_FAST_TF32"),
    "bfloat16": ("CUDA_R_16BF", "CUBLAS_COMPUTE_32F"),
}


def _product_in(place: CupyBackend, precision: str) -> tuple[Callable[[], Array], int]:
    """A large product in a precision, by cublasGemmEx, which has all of them; its result is in
    float32 or float64. cuBLAS's columns are our rows: the result is B A."""
    cuda, cublas = place.xp.cuda, place.xp.cuda.cublas
    dtype = "float64" if precision == "float64" else "float32"
    A, B = _factors(place, dtype)
    out, n = place.xp.empty_like(A), len(A)
    if precision == "bfloat16":  # the upper half of a float32: CuPy needs no such dtype
        A, B = ((X.view(np.uint32) >> 16).astype(np.uint16) for X in (A, B))
    factor, compute = PRECISIONS[precision]
    of_factors, of_result = (getattr(cuda.runtime, name) for name in (factor, PRECISIONS[dtype][0]))
    handle = cuda.get_cublas_handle()
    one, zero = np.ones(1, dtype), np.zeros(1, dtype)

    def run() -> Array:
        cublas.gemmEx(
            *(handle, cublas.CUBLAS_OP_N, cublas.CUBLAS_OP_N, n, n, n, one.ctypes.data),
            *(A.data.ptr, of_factors, n, B.data.ptr, of_factors, n, zero.ctypes.data),
            *(out.data.ptr, of_result, n, getattr(cublas, compute), cublas.CUBLAS_GEMM_DEFAULT),
        )
        return out

    return run, 2 * n**3


def _streams(place: Backend, n: int) -> dict[str, tuple[Callable[[], object], int]]:
    """By name, a function to time, and the arrays that it reads and writes."""
    a: Array = place.xp.ones(n)
    if isinstance(place, CupyBackend):
        c = place.xp.empty_like(a)
        return {"copy": (lambda: place.xp.copyto(c, a), 2)}
    b, c = np.ones(n), np.ones(n)
    return {
        "copy": (lambda: _copy(a, c), 2),
        "triad": (lambda: _triad(a, b, c), 3),
        "sum": (lambda: _sum(a), 1),
    }


# fastmath lets a sum use SIMD lanes: this is a limit, so the order of the terms does not matter
_parallel = functools.partial(njit, parallel=True, fastmath=True)


@_parallel
def _copy(a: Array, c: Array) -> None:
    for i in numba.prange(len(a)):
        c[i] = a[i]


@_parallel
def _triad(a: Array, b: Array, c: Array) -> None:
    for i in numba.prange(len(a)):
        c[i] = a[i] + 3.0 * b[i]


@_parallel
def _sum(a: Array) -> float:
    total = 0.0
    for i in numba.prange(len(a)):
        total += a[i]
    return total


def _blas_pools() -> list[dict[str, Any]]:
    return [pool for pool in threadpoolctl.threadpool_info() if pool["user_api"] == "blas"]
