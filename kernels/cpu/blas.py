"""Matrix products by BLAS inside compiled code, on blocks of row-major matrices.

Numba's `np.dot` takes whole contiguous matrices only and cannot add to its result. The address of
BLAS's routine is looked up in each process and passed to the compiled code as a number, so that
the code can be kept on disk.
"""

import ctypes
import functools
from typing import Any

import numpy as np
import threadpoolctl
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import get_cython_function_address, intrinsic

Matrix = Any

ROUTINES = {"float32": "sgemm", "float64": "dgemm"}
NORMAL, TRANSPOSED = ord("N"), ord("T")

SMALL_KERNELS = ("SkylakeX", "Cooperlake", "SapphireRapids")  # OpenBLAS's names of processors
# Names of a routine in builds of OpenBLAS: NumPy's with 64-bit or 32-bit integers, others'
NAMES = ("scipy_{}_64_", "scipy_{}_", "{}_64_", "{}_")


@functools.cache
def address(dtype: Any) -> int:
    """The address of BLAS's matrix product for this dtype in this process.

    It is in NumPy's OpenBLAS (94 GFLOP/s on one thread), else in SciPy's (87), which is public.
    """
    routine = ROUTINES[np.dtype(dtype).name]
    files = [pool["filepath"] for pool in _openblas()]
    for path in sorted(files, key=lambda path: "numpy" not in path):
        library = ctypes.CDLL(path)
        for name in NAMES:
            function = getattr(library, name.format(routine), None)
            if function is not None:
                return int(ctypes.cast(function, ctypes.c_void_p).value or 0)
    return int(get_cython_function_address("scipy.linalg.cython_blas", routine))


def has_small_kernels() -> bool:
    """Whether BLAS has kernels for small products, which OpenBLAS has for AVX-512 alone."""
    return any(pool["architecture"] in SMALL_KERNELS for pool in _openblas())


@functools.cache
def _openblas() -> list[dict[str, Any]]:
    return [p for p in threadpoolctl.threadpool_info() if p["internal_api"] == "openblas"]


@intrinsic  # type: ignore[untyped-decorator]
def call_gemm(_context: Any, routine: Any, arguments: Any) -> Any:
    """?gemm(transa, transb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc), all by reference.

    Integers have 64 bits. A BLAS with 32-bit integers reads the lower half, which comes first on
    all machines that Numba supports.
    """

    def codegen(context: Any, builder: Any, _signature: Any, values: Any) -> Any:
        byte = ir.IntType(8)
        pointer = byte.as_pointer()

        def passed(position: int, value: Any) -> Any:
            if position in (6, 8, 11):  # a, b and c are addresses already
                return builder.inttoptr(value, pointer)
            if position < 2:
                value = builder.trunc(value, byte)
            return builder.bitcast(cgutils.alloca_once_value(builder, value), pointer)

        form = ir.FunctionType(ir.VoidType(), [pointer] * len(arguments))
        function = builder.inttoptr(values[0], form.as_pointer())
        unpacked = cgutils.unpack_tuple(builder, values[1])
        builder.call(function, [passed(*item) for item in enumerate(unpacked)])
        return context.get_dummy_value()

    return types.void(routine, arguments), codegen


def gemm(
    routine: int,
    A: Matrix,
    A_transposed: int,
    B: Matrix,
    B_transposed: int,
    C: Matrix,
    alpha: float,
    beta: float,
    area: tuple[int, int, int, int],
) -> None:
    """C ← α A B + β C in rows first ... last-1 and columns start ... stop-1 of C: the `area`.

    BLAS is column-major, so it computes Cᵀ = α Bᵀ Aᵀ + β Cᵀ. If β is 0, C may hold anything.
    """
    first, last, start, stop = area
    depth = A.shape[0] if A_transposed else A.shape[1]
    size, lda, ldb, ldc = C.itemsize, A.shape[1], B.shape[1], C.shape[1]
    a = A.ctypes.data + size * (first if A_transposed else first * lda)
    b = B.ctypes.data + size * (start * ldb if B_transposed else start)
    c = C.ctypes.data + size * (first * ldc + start)
    transposed = TRANSPOSED if B_transposed else NORMAL, TRANSPOSED if A_transposed else NORMAL
    sizes = stop - start, last - first, depth
    call_gemm(routine, (*transposed, *sizes, alpha, b, ldb, a, lda, beta, c, ldc))
