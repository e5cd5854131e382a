"""CUDA kernels from the sources beside this file, compiled at run time by CuPy, and the dropout
masks of a GPU."""

import functools
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..loops import KINDS

Array = Any  # a cupy.ndarray
Kernel = Any  # a cupy.RawKernel

REAL = {np.dtype(np.float32): "float", np.dtype(np.float64): "double"}
KIND = {name: np.int32(kind) for name, kind in KINDS.items()}
SHARED = 48 * 1024  # bytes of shared memory that a block has without asking for more


@functools.cache
def source(name: str) -> str:
    """The text of kernels/gpu/<name>, ready to be compiled."""
    return with_common(Path(__file__).with_name(name).read_text(encoding="utf-8"), name)


def with_common(code: str, name: str = "kernel.cu") -> str:
    """`code` with common.cuh in place of its `#include`, or in front of it: CuPy's cache compares
    only the text of the source."""
    common = Path(__file__).with_name("common.cuh").read_text(encoding="utf-8")
    before, include, after = code.partition('#include "common.cuh"\n')
    if not include:
        before, after = "", code
    line = before.count("\n") + 1 + bool(include)
    return f'{before}#line 1 "common.cuh"\n{common}#line {line} "{name}"\n{after}'


def kernel(
    name: str, function: str, dtype: Any, *options: str, cooperative: bool = False, shared: int = 0
) -> Kernel:
    """`function` of kernels/gpu/<name> for arrays of this dtype on the current device.

    options : further compiler options, for instance "-DBFLOAT16"
    cooperative : all blocks of a launch run at once, or the launch fails
    shared : bytes of shared memory that a launch may ask for
    """
    import cupy

    device = cupy.cuda.runtime.getDevice()
    options = (f"-DREAL={REAL[np.dtype(dtype)]}", *options)
    found = _module(cupy, device, name, options, cooperative).get_function(function)
    if shared > SHARED:
        attributes = cupy.cuda.Device(device).attributes
        found.max_dynamic_shared_size_bytes = attributes["MaxSharedMemoryPerBlockOptin"]
    return found


@functools.cache
def _module(cupy: Any, _device: int, name: str, options: tuple[str, ...], cooperative: bool) -> Any:
    options = ("-std=c++17", *options)
    code = source(name)
    return cupy.RawModule(code=code, options=options, enable_cooperative_groups=cooperative)


@functools.cache
def kernels_compile(cupy: Any) -> bool:
    """Whether this CuPy compiles kernels; if it tries and fails, a warning says why."""
    if not hasattr(cupy, "RawModule"):
        return False
    try:
        kernel("step.cu", "draw_mask", np.float32)
    except Exception as error:  # CuPy's, the compiler's or the driver's
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        warnings.warn(
            f"the GPU's kernels do not compile; dropout uses CuPy's generator ({reason})",
            RuntimeWarning,
            stacklevel=3,
        )
        return False
    return True


class Philox(NamedTuple):
    """The random numbers of dropout on a GPU: Philox4x32-10 (Salmon et al. 2011).

    Each follows from its place alone: all solvers draw the same masks, in any order.
    """

    seed: int

    def draw(self, D: Array, keep: float, step: int, layer: int) -> None:
        """D (n_l, m) ← 1 / keep with probability keep, else 0.

        step : 0, 1, 2, ..., the number of updates so far
        layer : 0, 1, 2, ... of the hidden layers

        Raises ValueError if D is not a C-contiguous float32 or float64 array.
        """
        if D.dtype not in REAL or not D.flags.c_contiguous:
            raise ValueError(f"expected D as C-contiguous float32 or float64, got {D.dtype}")
        if D.size == 0:
            return
        run, threads = kernel("step.cu", "draw_mask", D.dtype), 256
        blocks = min(-(-D.size // (4 * threads)), 1024)
        key = np.uint64(self.seed % 2**64)
        place = np.int64(D.size), D.dtype.type(keep), key, np.int64(step), np.int32(layer)
        run((blocks,), (threads,), (D, *place))
